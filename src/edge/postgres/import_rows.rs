//! The rows of imported records, written by one statement for each table.

use std::collections::BTreeSet;

use palisade_core::domain::username::Username;
use palisade_core::ports::{ImportError, Record, StoreError};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::connect::{DatabaseSession, MESSAGE_TIMEOUT};
use super::failure::DatabaseFailure;
use super::numbers::to_bigint;
use super::read::Parameter;
use super::record::{
    EncodedRecord, encode, encode_task, encode_user, revocation_key, task_kind, token_version_key,
};

/// The SQLSTATE of a row whose key is there already.
const UNIQUE: &str = "23505";

/// Rows of one table, a vector for each column.
#[derive(Default)]
struct Rows {
    ids: Vec<Uuid>,
    users: Vec<Option<Uuid>>,
    keys: Vec<Vec<u8>>,
    texts: Vec<String>,
    values: Vec<String>,
    /// Revisions, limits or numbers.
    numbers: Vec<i64>,
    /// When it ends or is due.
    moments: Vec<Option<i64>>,
    /// When it was made.
    made: Vec<i64>,
    flags: Vec<bool>,
    versions: Vec<i16>,
    /// Bodies, or why something was revoked.
    bodies: Vec<Option<Vec<u8>>>,
}

impl Rows {
    fn keep(&mut self, stored: EncodedRecord) {
        self.versions.push(i16::from(stored.version));
        self.bodies.push(Some(stored.body));
    }

    fn is_empty(&self) -> bool {
        let counts =
            [self.ids.len(), self.users.len(), self.keys.len(), self.texts.len(), self.versions.len()];
        counts == [0; 5]
    }

    fn ids(&self) -> Parameter<'_> {
        (&self.ids, Type::UUID_ARRAY)
    }

    fn users(&self) -> Parameter<'_> {
        (&self.users, Type::UUID_ARRAY)
    }

    fn keys(&self) -> Parameter<'_> {
        (&self.keys, Type::BYTEA_ARRAY)
    }

    fn texts(&self) -> Parameter<'_> {
        (&self.texts, Type::TEXT_ARRAY)
    }

    fn values(&self) -> Parameter<'_> {
        (&self.values, Type::TEXT_ARRAY)
    }

    fn numbers(&self) -> Parameter<'_> {
        (&self.numbers, Type::INT8_ARRAY)
    }

    fn moments(&self) -> Parameter<'_> {
        (&self.moments, Type::INT8_ARRAY)
    }

    fn made(&self) -> Parameter<'_> {
        (&self.made, Type::INT8_ARRAY)
    }

    fn flags(&self) -> Parameter<'_> {
        (&self.flags, Type::BOOL_ARRAY)
    }

    fn versions(&self) -> Parameter<'_> {
        (&self.versions, Type::INT2_ARRAY)
    }

    fn bodies(&self) -> Parameter<'_> {
        (&self.bodies, Type::BYTEA_ARRAY)
    }
}

/// Records to be imported, by tables.
#[derive(Default)]
pub(super) struct ImportRows {
    users: Rows,
    addresses: Rows,
    usernames: Rows,
    identities: Rows,
    sessions: Rows,
    connections: Rows,
    links: Rows,
    mails: Rows,
    mailboxes: Rows,
    tasks: Rows,
    events: Rows,
    gone_users: Rows,
    revocations: Rows,
    token_versions: Rows,
    clock_mark: Rows,
    upgrades: Rows,
    key_checks: Rows,
}

impl ImportRows {
    pub(super) fn add(&mut self, record: Record) -> Result<(), StoreError> {
        let kind = record.kind();
        match record {
            Record::User(user) => {
                for address in user.addresses().map(|address| address.as_str()).collect::<BTreeSet<_>>() {
                    self.addresses.texts.push(address.to_owned());
                    self.addresses.users.push(Some(user.id.0));
                }
                if let Some(name) = user.username.as_ref().map(Username::fingerprint) {
                    self.username(name.0, user.id.0, false);
                }
                for identity in user.identities.iter().map(|one| one.fingerprint().0).collect::<BTreeSet<_>>()
                {
                    self.identities.keys.push(identity.to_vec());
                    self.identities.users.push(Some(user.id.0));
                }
                self.users.ids.push(user.id.0);
                self.users.numbers.push(to_bigint(user.revision));
                self.users.keep(encode_user(&user)?);
            }
            Record::Session(session) => {
                let rows = &mut self.sessions;
                rows.users.push(Some(session.user.0));
                rows.ids.push(session.id.0);
                rows.numbers.push(to_bigint(session.revision));
                rows.moments.push(Some(to_bigint(session.expires_at.0)));
                rows.keep(encode(kind, &session)?);
            }
            Record::Connection(connection) => {
                let rows = &mut self.connections;
                rows.users.push(Some(connection.user.0));
                rows.ids.push(connection.id.0);
                rows.numbers.push(to_bigint(connection.revision));
                rows.moments.push(connection.due_at.map(|due| to_bigint(due.0)));
                rows.keep(encode(kind, &connection)?);
            }
            Record::Link(link) => {
                self.links.keys.push(link.hash.0.to_vec());
                self.links.moments.push(Some(to_bigint(link.expires_at.0)));
                self.links.keep(encode(kind, &link)?);
            }
            Record::Revocation(revocation) => {
                let rows = &mut self.revocations;
                rows.keys.push(revocation_key(&revocation.target));
                rows.numbers.push(to_bigint(revocation.target.limit()));
                rows.moments.push(Some(to_bigint(revocation.expires_at.0)));
                rows.made.push(to_bigint(revocation.created_at.0));
                rows.versions.push(i16::from(kind.version()));
                rows.bodies.push(revocation.reason.map(String::into_bytes));
            }
            Record::TokenVersion { issuer, sub, version } => {
                self.token_versions.keys.push(token_version_key(&issuer, sub.as_deref()));
                self.token_versions.numbers.push(to_bigint(version));
            }
            Record::Task(task) => {
                self.tasks.ids.push(task.id);
                self.tasks.texts.push(task_kind(task.work.kind()).to_owned());
                self.tasks.moments.push(Some(to_bigint(task.due_at.0)));
                self.tasks.keep(encode_task(&task)?);
            }
            Record::Mail(mail) => {
                self.mails.ids.push(mail.id);
                self.mails.moments.push(Some(to_bigint(mail.due_at.0)));
                self.mails.made.push(to_bigint(mail.created_at.0));
                self.mails.flags.push(mail.given_up);
                self.mails.keep(encode(kind, &mail)?);
            }
            Record::Mailbox(mailbox) => {
                self.mailboxes.keys.push(mailbox.id.0.to_vec());
                self.mailboxes.numbers.push(to_bigint(mailbox.revision));
                self.mailboxes.moments.push(Some(to_bigint(mailbox.ends_at().0)));
                self.mailboxes.keep(encode(kind, &mailbox)?);
            }
            Record::EventsEnd { user, at } => {
                self.gone_users.ids.push(user.0);
                self.gone_users.moments.push(Some(to_bigint(at.0)));
            }
            Record::Event(event) => {
                self.events.users.push(event.user.map(|user| user.0));
                self.events.flags.push(event.is_strangers());
                self.events.keep(encode(kind, &event)?);
            }
            Record::ClockMark(mark) => self.clock_mark.keep(encode(kind, &mark)?),
            Record::KeyCheck { file, check } => {
                self.key_checks.texts.push(file);
                self.key_checks.values.push(check);
            }
            Record::FormerUsername { name, user } => self.username(name.0, user.0, true),
            Record::Upgrade(upgrade) => self.upgrades.texts.push(upgrade.as_str().to_owned()),
        }
        Ok(())
    }

    fn username(&mut self, name: [u8; 32], user: Uuid, former: bool) {
        self.usernames.keys.push(name.to_vec());
        self.usernames.users.push(Some(user));
        self.usernames.flags.push(former);
    }

    /// Writes the rows. Each statement is a transaction of its own; the mark of the import holds them together.
    pub(super) async fn insert(&self, session: &mut DatabaseSession) -> Result<(), ImportError> {
        let rows = &self.users;
        let columns = [
            ("id", rows.ids()),
            ("revision", rows.numbers()),
            ("version", rows.versions()),
            ("body", rows.bodies()),
        ];
        insert(session, "users", rows, &columns).await?;
        let rows = &self.addresses;
        insert(session, "addresses", rows, &[("address", rows.texts()), ("user_id", rows.users())]).await?;
        let rows = &self.usernames;
        let columns = [("name", rows.keys()), ("user_id", rows.users()), ("former", rows.flags())];
        insert(session, "usernames", rows, &columns).await?;
        let rows = &self.identities;
        insert(session, "identities", rows, &[("fingerprint", rows.keys()), ("user_id", rows.users())])
            .await?;
        let with_users =
            [("sessions", &self.sessions, "expires_at"), ("connections", &self.connections, "due_at")];
        for (table, rows, moment) in with_users {
            let columns = [
                ("user_id", rows.users()),
                ("id", rows.ids()),
                ("revision", rows.numbers()),
                (moment, rows.moments()),
                ("version", rows.versions()),
                ("body", rows.bodies()),
            ];
            insert(session, table, rows, &columns).await?;
        }
        let rows = &self.links;
        let columns = [
            ("hash", rows.keys()),
            ("expires_at", rows.moments()),
            ("version", rows.versions()),
            ("body", rows.bodies()),
        ];
        insert(session, "links", rows, &columns).await?;
        let rows = &self.revocations;
        let columns = [
            ("key", rows.keys()),
            ("lim", rows.numbers()),
            ("expires_at", rows.moments()),
            ("created_at", rows.made()),
            ("version", rows.versions()),
            ("reason", rows.bodies()),
        ];
        insert(session, "revocations", rows, &columns).await?;
        let rows = &self.token_versions;
        insert(session, "token_versions", rows, &[("key", rows.keys()), ("number", rows.numbers())]).await?;
        let rows = &self.tasks;
        let columns = [
            ("id", rows.ids()),
            ("kind", rows.texts()),
            ("due_at", rows.moments()),
            ("version", rows.versions()),
            ("body", rows.bodies()),
        ];
        insert(session, "tasks", rows, &columns).await?;
        let rows = &self.mails;
        let columns = [
            ("id", rows.ids()),
            ("due_at", rows.moments()),
            ("created_at", rows.made()),
            ("given_up", rows.flags()),
            ("version", rows.versions()),
            ("body", rows.bodies()),
        ];
        insert(session, "mails", rows, &columns).await?;
        let rows = &self.mailboxes;
        let columns = [
            ("id", rows.keys()),
            ("revision", rows.numbers()),
            ("ends_at", rows.moments()),
            ("version", rows.versions()),
            ("body", rows.bodies()),
        ];
        insert(session, "mailboxes", rows, &columns).await?;
        let rows = &self.gone_users;
        insert(session, "gone_users", rows, &[("user_id", rows.ids()), ("at", rows.moments())]).await?;
        let rows = &self.events;
        let columns = [
            ("user_id", rows.users()),
            ("strangers", rows.flags()),
            ("version", rows.versions()),
            ("body", rows.bodies()),
        ];
        insert(session, "events", rows, &columns).await?;
        let rows = &self.clock_mark;
        insert(session, "clock_mark", rows, &[("version", rows.versions()), ("body", rows.bodies())]).await?;
        let rows = &self.key_checks;
        insert(session, "key_checks", rows, &[("name", rows.texts()), ("value", rows.values())]).await?;
        insert(session, "upgrades", &self.upgrades, &[("name", self.upgrades.texts())]).await
    }
}

/// Inserts rows, in their order.
async fn insert(
    session: &mut DatabaseSession,
    table: &str,
    rows: &Rows,
    columns: &[(&str, Parameter<'_>)],
) -> Result<(), ImportError> {
    if rows.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    let places: Vec<String> = (1..=columns.len()).map(|at| format!("${at}")).collect();
    let sql = format!(
        "INSERT INTO palisade.{table} ({names}) SELECT {names} \
         FROM unnest({}) WITH ORDINALITY AS rows ({names}, place) ORDER BY place",
        places.join(", ")
    );
    let parameters: Vec<Parameter<'_>> = columns.iter().map(|(_, values)| values.clone()).collect();
    let written = session.client().execute_typed(&sql, &parameters);
    let Ok(written) = tokio::time::timeout(MESSAGE_TIMEOUT, written).await else {
        session.close();
        let failure =
            DatabaseFailure::unknown(format!("the database did not answer within {MESSAGE_TIMEOUT:?}"));
        return Err(StoreError::from(failure).into());
    };
    let Err(error) = written else { return Ok(()) };
    let failure = DatabaseFailure::sent(&error);
    if failure.state.as_deref() != Some(UNIQUE) {
        return Err(StoreError::from(failure).into());
    }
    Err(ImportError::Inconsistent(
        match table {
            "addresses" => "two accounts have one address",
            "usernames" => "two accounts have one user name",
            "identities" => "two accounts have one identity at a provider",
            _ => "a record comes twice",
        }
        .to_owned(),
    ))
}

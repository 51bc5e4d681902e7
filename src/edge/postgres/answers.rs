//! Every question that the store is asked, each by one statement.

use async_trait::async_trait;
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::{Connection, ConnectionId};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::link::Link;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::{Mailbox, MailboxId};
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::revocation::{Begun, Revocation, Target, Versions};
use palisade_core::domain::session::{Session, SessionId};
use palisade_core::domain::task::{Task, TaskKind};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::domain::username::Username;
use palisade_core::ports::{
    Change, CommitError, Committed, GONE_EVENTS_LIFE, Position, RecordKind, SharedNotes, Store, StoreError,
    StoreStatus, Subscription, SubscriptionError, Swept, Upgrade,
};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::commit::position;
use super::numbers::{from_bigint, moment, to_bigint};
use super::read::{
    REVOCATION, Reads, behind, column, known, many, one, revocation_in, revocations, row_limit,
};
use super::record::{revocation_key, task_kind, token_version_key};
use super::store::PostgresStore;
use super::subscription::FeedSubscription;

impl PostgresStore {
    /// The number that stands under a key of a token version; 0 without one.
    async fn number(&self, key: &[u8]) -> Result<u64, StoreError> {
        let sql = "SELECT number FROM palisade.token_versions WHERE key = $1";
        let rows = self.reading()?.rows(sql, &[(&key, Type::BYTEA)]).await?;
        Ok(rows.first().map(|row| column(row, 0)).transpose()?.map_or(0, from_bigint))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn commit(&self, changes: Vec<Change>) -> Result<Committed, CommitError> {
        self.reading()?;
        let committed = self.writer.commit(changes).await?;
        self.acknowledged(committed).await
    }

    fn position(&self) -> Position {
        let own = self.writer.position();
        self.feed().map_or(own, |feed| own.max(position(to_bigint(feed.reached()), 0)))
    }

    async fn await_in_force(&self) -> Result<(), StoreError> {
        match self.feed() {
            Some(feed) => feed.settle().await,
            None => Ok(()),
        }
    }

    async fn subscribe(&self, since: Position) -> Result<Box<dyn Subscription>, SubscriptionError> {
        let pool = self.reading()?.clone();
        Ok(Box::new(FeedSubscription::begin(pool, since).await?))
    }

    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError> {
        self.number(&token_version_key(issuer, Some(sub))).await
    }

    async fn generation(&self, issuer: &str) -> Result<u64, StoreError> {
        self.number(&token_version_key(issuer, None)).await
    }

    async fn versions(&self, issuer: &str, sub: &str) -> Result<Versions, StoreError> {
        let (subject, generation) = (token_version_key(issuer, Some(sub)), token_version_key(issuer, None));
        let sql = "SELECT key, number FROM palisade.token_versions WHERE key IN ($1, $2)";
        let keys = [(&subject as _, Type::BYTEA), (&generation as _, Type::BYTEA)];
        let mut versions = Versions::default();
        for row in self.reading()?.rows(sql, &keys).await? {
            let number = from_bigint(column(&row, 1)?);
            match column::<&[u8]>(&row, 0)? == subject {
                true => versions.subject = number,
                false => versions.generation = number,
            }
        }
        Ok(versions)
    }

    async fn each_revocation(
        &self,
        now: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError> {
        let sql = format!("SELECT {REVOCATION} FROM palisade.revocations WHERE expires_at >= $1");
        let mut snapshot = self.snapshot().await?;
        let each = |row: &tokio_postgres::Row| revocation_in(row).map(&mut *each);
        snapshot.each_row(&sql, &[(&to_bigint(now.0), Type::INT8)], each).await
    }

    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        let sql = format!(
            "SELECT {REVOCATION} FROM palisade.revocations ORDER BY created_at DESC, key DESC LIMIT $1"
        );
        revocations(self.reading()?, &sql, &[(&row_limit(limit), Type::INT8)]).await
    }

    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError> {
        let sql = format!("SELECT {REVOCATION} FROM palisade.revocations WHERE key = $1");
        let found = revocations(self.reading()?, &sql, &[(&revocation_key(target), Type::BYTEA)]).await?;
        Ok(found.into_iter().next())
    }

    async fn is_cut(&self, begun: &Begun<'_>) -> Result<bool, StoreError> {
        let keys: Vec<Vec<u8>> = begun.targets().map(|target| revocation_key(&target)).collect();
        let sql = format!("SELECT {REVOCATION} FROM palisade.revocations WHERE key = ANY ($1)");
        let standing = revocations(self.reading()?, &sql, &[(&keys, Type::BYTEA_ARRAY)]).await?;
        Ok(standing.iter().any(|standing| begun.is_reached_by(&standing.target)))
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        let sql = "SELECT version, body FROM palisade.users WHERE id = $1";
        one(self.reading()?, &id.to_string(), sql, &[(&id.0, Type::UUID)]).await
    }

    async fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, StoreError> {
        let sql = "SELECT u.version, u.body FROM palisade.addresses a \
                   JOIN palisade.users u ON u.id = a.user_id WHERE a.address = $1";
        one(self.reading()?, "", sql, &[(&email.as_str(), Type::TEXT)]).await
    }

    async fn user_by_username(&self, name: &Username) -> Result<Option<User>, StoreError> {
        let sql = "SELECT u.version, u.body FROM palisade.usernames n \
                   JOIN palisade.users u ON u.id = n.user_id WHERE n.name = $1 AND NOT n.former";
        one(self.reading()?, "", sql, &[(&&name.fingerprint().0[..], Type::BYTEA)]).await
    }

    async fn username_owner(&self, name: &Username) -> Result<Option<UserId>, StoreError> {
        let sql = "SELECT user_id FROM palisade.usernames WHERE name = $1";
        let rows = self.reading()?.rows(sql, &[(&&name.fingerprint().0[..], Type::BYTEA)]).await?;
        rows.first().map(|row| Ok(UserId(column(row, 0)?))).transpose()
    }

    async fn user_by_identity(&self, identity: &ProviderIdentity) -> Result<Option<User>, StoreError> {
        let sql = "SELECT u.version, u.body FROM palisade.identities i \
                   JOIN palisade.users u ON u.id = i.user_id WHERE i.fingerprint = $1";
        one(self.reading()?, "", sql, &[(&&identity.fingerprint().0[..], Type::BYTEA)]).await
    }

    async fn gone_users(&self, since: UnixTime) -> Result<Vec<(UserId, UnixTime)>, StoreError> {
        let sql = "SELECT user_id, at FROM palisade.gone_users WHERE at >= $1";
        let end = to_bigint(since.plus(GONE_EVENTS_LIFE).0);
        let mut gone = Vec::new();
        for row in self.reading()?.rows(sql, &[(&end, Type::INT8)]).await? {
            let first = moment(column(&row, 1)?).minus(GONE_EVENTS_LIFE);
            if first >= since {
                gone.push((UserId(column(&row, 0)?), first));
            }
        }
        Ok(gone)
    }

    async fn is_upgraded(&self, upgrade: Upgrade) -> Result<bool, StoreError> {
        let sql = "SELECT true FROM palisade.upgrades WHERE name = $1";
        Ok(!self.reading()?.rows(sql, &[(&upgrade.as_str(), Type::TEXT)]).await?.is_empty())
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError> {
        let sql = "SELECT version, body FROM palisade.users WHERE ($1::uuid IS NULL OR id > $1) \
                   ORDER BY id LIMIT $2";
        let after = after.map(|after| after.0);
        many(self.reading()?, sql, &[(&after, Type::UUID), (&row_limit(limit), Type::INT8)]).await
    }

    async fn session(&self, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError> {
        let sql = "SELECT version, body FROM palisade.sessions WHERE user_id = $1 AND id = $2";
        one(self.reading()?, &id.to_string(), sql, &[(&user.0, Type::UUID), (&id.0, Type::UUID)]).await
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        let sql = "SELECT version, body FROM palisade.sessions WHERE user_id = $1 ORDER BY id";
        many(self.reading()?, sql, &[(&user.0, Type::UUID)]).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let sql = "SELECT version, body FROM palisade.sessions WHERE id = $1";
        one(self.reading()?, &id.to_string(), sql, &[(&id.0, Type::UUID)]).await
    }

    async fn all_sessions(
        &self,
        after: Option<(UserId, SessionId)>,
        limit: usize,
    ) -> Result<Vec<Session>, StoreError> {
        behind(self.reading()?, "sessions", after.map(|(user, id)| (user.0, id.0)), limit).await
    }

    async fn connection(&self, user: UserId, id: ConnectionId) -> Result<Option<Connection>, StoreError> {
        let sql = "SELECT version, body FROM palisade.connections WHERE user_id = $1 AND id = $2";
        one(self.reading()?, &id.to_string(), sql, &[(&user.0, Type::UUID), (&id.0, Type::UUID)]).await
    }

    async fn connections(&self, user: UserId) -> Result<Vec<Connection>, StoreError> {
        let sql = "SELECT version, body FROM palisade.connections WHERE user_id = $1 ORDER BY id";
        many(self.reading()?, sql, &[(&user.0, Type::UUID)]).await
    }

    async fn all_connections(
        &self,
        after: Option<(UserId, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Connection>, StoreError> {
        behind(self.reading()?, "connections", after.map(|(user, id)| (user.0, id.0)), limit).await
    }

    async fn due_connections(&self, now: UnixTime, limit: usize) -> Result<Vec<Connection>, StoreError> {
        // What a newer program has left there for itself is not ours to do.
        let sql = "SELECT version, body FROM palisade.connections WHERE due_at <= $1 AND version <= $2 \
                   ORDER BY due_at, user_id, id LIMIT $3";
        let (now_column, known, limit) = (to_bigint(now.0), known(RecordKind::Connection), row_limit(limit));
        let parameters =
            [(&now_column as _, Type::INT8), (&known as _, Type::INT2), (&limit as _, Type::INT8)];
        let mut due: Vec<Connection> = many(self.reading()?, sql, &parameters).await?;
        // The largest numbers are one in the column.
        due.retain(|connection| connection.due_at.is_some_and(|due| due <= now));
        Ok(due)
    }

    async fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError> {
        let sql = "SELECT version, body FROM palisade.links WHERE hash = $1";
        one(self.reading()?, "", sql, &[(&&hash.0[..], Type::BYTEA)]).await
    }

    async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        let sql = "SELECT version, body FROM palisade.tasks WHERE id = $1";
        one(self.reading()?, &id.to_string(), sql, &[(&id, Type::UUID)]).await
    }

    async fn due_tasks_of(
        &self,
        kind: TaskKind,
        now: UnixTime,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let sql = "SELECT version, body FROM palisade.tasks WHERE kind = $1 AND due_at <= $2 AND version <= $3 \
                   ORDER BY due_at, id LIMIT $4";
        let (now_column, known, limit) = (to_bigint(now.0), known(RecordKind::Task), row_limit(limit));
        let parameters = [
            (&task_kind(kind) as _, Type::TEXT),
            (&now_column as _, Type::INT8),
            (&known as _, Type::INT2),
            (&limit as _, Type::INT8),
        ];
        let mut due: Vec<Task> = many(self.reading()?, sql, &parameters).await?;
        due.retain(|task| task.due_at <= now);
        Ok(due)
    }

    async fn due_mails(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError> {
        let sql = "SELECT version, body FROM palisade.mails WHERE NOT given_up AND due_at <= $1 AND version <= $2 \
                   ORDER BY due_at, id LIMIT $3";
        let (now_column, known, limit) = (to_bigint(now.0), known(RecordKind::Mail), row_limit(limit));
        let parameters =
            [(&now_column as _, Type::INT8), (&known as _, Type::INT2), (&limit as _, Type::INT8)];
        let mut due: Vec<Mail> = many(self.reading()?, sql, &parameters).await?;
        due.retain(|mail| mail.due_at <= now);
        Ok(due)
    }

    async fn mail(&self, id: Uuid) -> Result<Option<Mail>, StoreError> {
        let sql = "SELECT version, body FROM palisade.mails WHERE id = $1";
        one(self.reading()?, &id.to_string(), sql, &[(&id, Type::UUID)]).await
    }

    async fn mailbox(&self, id: MailboxId) -> Result<Option<Mailbox>, StoreError> {
        let sql = "SELECT version, body FROM palisade.mailboxes WHERE id = $1";
        one(self.reading()?, "", sql, &[(&&id.0[..], Type::BYTEA)]).await
    }

    async fn mails(&self, limit: usize) -> Result<Vec<Mail>, StoreError> {
        let sql = "SELECT version, body FROM palisade.mails ORDER BY id DESC LIMIT $1";
        many(self.reading()?, sql, &[(&row_limit(limit), Type::INT8)]).await
    }

    async fn events(&self, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, StoreError> {
        let limit = row_limit(limit);
        match user {
            Some(user) => {
                let sql =
                    "SELECT version, body FROM palisade.events WHERE user_id = $1 ORDER BY n DESC LIMIT $2";
                many(self.reading()?, sql, &[(&user.0, Type::UUID), (&limit, Type::INT8)]).await
            }
            None => {
                let sql = "SELECT version, body FROM palisade.events WHERE user_id IS NULL ORDER BY n DESC LIMIT $1";
                many(self.reading()?, sql, &[(&limit, Type::INT8)]).await
            }
        }
    }

    async fn clock_mark(&self) -> Result<Option<Mark>, StoreError> {
        one(self.reading()?, "", "SELECT version, body FROM palisade.clock_mark", &[]).await
    }

    async fn latest_moment(&self) -> Result<Option<UnixTime>, StoreError> {
        self.snapshot().await?.latest_moment().await
    }

    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError> {
        self.sweep_ended(now).await
    }

    fn shared_notes(&self) -> Option<&dyn SharedNotes> {
        Some(self)
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            writable: self.writer.is_writable(),
            bytes: self.sizes.database(),
            live_bytes: self.sizes.ours(),
            ..StoreStatus::default()
        }
    }
}

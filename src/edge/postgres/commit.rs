//! A commit as `palisade.commit_1` takes it, and what that answers.
//!
//! What a change requires and writes is decided by the function (`schema/commit_1.sql`); here it is only written down: the
//! record as it will be stored, and beside it what the function looks at. The function must come to what the writer of the
//! embedded store comes to; one suite holds both to it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::numbers::{from_bigint, to_bigint};
use super::record::{
    EncodedRecord, StandingRow, encode, encode_task, encode_user, newer, revocation_key, task_kind,
    token_version_key,
};
use palisade_core::domain::account::User;
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::Connection;
use palisade_core::domain::mail_cap::Mailbox;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::Session;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::username::Username;
use palisade_core::ports::{
    Change, CommitError, EVENTS_KEPT, GONE_EVENTS_LIFE, OlderReplica, Position, Precondition, RecordFormats,
    RecordKind, STRANGERS_EVENTS_KEPT, StoreError, written_format,
};
use uuid::Uuid;

/// One commit, written down.
#[derive(Debug, Clone)]
pub struct EncodedCommit {
    /// JSON: its `changes`, and what a gateway `needs` to read to read what they write.
    text: String,
    /// What its first locked row belongs to. The commits of a batch are made in this order, so that two batches lock the
    /// rows of accounts in one order and do not wait for one another.
    pub order: Uuid,
}

impl EncodedCommit {
    /// Writes the changes down.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: a record has no form in JSON.
    pub fn of(changes: Vec<Change>) -> Result<EncodedCommit, StoreError> {
        let order = changes.iter().find_map(account).unwrap_or_default();
        let mut needs = BTreeMap::new();
        for (kind, version) in changes.iter().filter_map(written_format) {
            let needed = needs.entry(kind.name()).or_insert(version);
            *needed = version.max(*needed);
        }
        let changes = changes.into_iter().map(written).collect::<Result<Vec<_>, _>>()?;
        Ok(EncodedCommit { text: json!({"changes": changes, "needs": needs}).to_string(), order })
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether it holds nothing at all; one without changes still holds an empty list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// The account that a change is about.
fn account(change: &Change) -> Option<Uuid> {
    match change {
        Change::Require(Precondition::UserExists(id)) | Change::DeleteUser(id) => Some(id.0),
        Change::CreateUser(user) | Change::UpdateUser(user) => Some(user.id.0),
        Change::CreateSession(session) | Change::UpdateSession(session) => Some(session.user.0),
        Change::EndSession(user, _) | Change::RemoveConnection(user, _) => Some(user.0),
        Change::CreateConnection(connection) | Change::UpdateConnection(connection) => {
            Some(connection.user.0)
        }
        Change::Record(events) => events.iter().find_map(|event| Some(event.user?.0)),
        _ => None,
    }
}

/// The argument of `palisade.commit_1` for a batch: base64, so that nothing in it can be SQL.
#[must_use]
pub fn batch<'a>(commits: impl Iterator<Item = &'a EncodedCommit>) -> String {
    let known: Map<String, Value> =
        RecordKind::ALL.iter().map(|kind| (kind.name().to_owned(), json!(kind.version()))).collect();
    let formats = json!(RecordFormats::of_this_program().to_json());
    let mut text = format!("{{\"known\":{},\"formats\":{formats},\"commits\":[", Value::Object(known));
    for (at, commit) in commits.enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&commit.text);
    }
    text.push_str("]}");
    STANDARD.encode(text)
}

fn written(change: Change) -> Result<Value, StoreError> {
    Ok(match change {
        Change::Require(precondition) => required(&precondition),
        Change::CreateUser(user) => {
            let stored = encode_user(&user)?;
            with_record(
                with_names(json!({"do": "create_user", "revision": to_bigint(user.revision)}), &user),
                stored,
            )
        }
        Change::UpdateUser(mut user) => {
            let revision = to_bigint(user.revision);
            user.revision += 1;
            let stored = encode_user(&user)?;
            let change = json!({"do": "update_user", "revision": revision, "next": to_bigint(user.revision)});
            with_record(with_names(change, &user), stored)
        }
        Change::DeleteUser(id) => json!({"do": "delete_user", "id": id.0}),
        Change::CreateSession(session) => session_change("create_session", &session, None)?,
        Change::UpdateSession(mut session) => {
            let revision = session.revision;
            session.revision += 1;
            session_change("update_session", &session, Some(revision))?
        }
        Change::EndSession(user, id) => json!({"do": "end_session", "user": user.0, "id": id.0}),
        Change::CreateConnection(connection) => connection_change("create_connection", &connection, None)?,
        Change::UpdateConnection(mut connection) => {
            let revision = connection.revision;
            connection.revision += 1;
            connection_change("update_connection", &connection, Some(revision))?
        }
        Change::RemoveConnection(user, id) => json!({"do": "remove_connection", "user": user.0, "id": id.0}),
        Change::CreateLink(link) => {
            let stored = encode(RecordKind::Link, &link)?;
            let change = json!({
                "do": "create_link",
                "hash": STANDARD.encode(link.hash.0),
                "expires_at": to_bigint(link.expires_at.0),
            });
            with_record(change, stored)
        }
        Change::ConsumeLink(hash) => json!({"do": "consume_link", "hash": STANDARD.encode(hash.0)}),
        Change::PutMail(mail) => {
            let stored = encode(RecordKind::Mail, &mail)?;
            let change = json!({
                "do": "put_mail",
                "id": mail.id,
                "due_at": to_bigint(mail.due_at.0),
                "created_at": to_bigint(mail.created_at.0),
                "given_up": mail.given_up,
            });
            with_record(change, stored)
        }
        Change::RemoveMail(id) => json!({"do": "remove_mail", "id": id}),
        Change::PutMailbox(mailbox) => mailbox_change(mailbox)?,
        Change::CreateTask(task) => {
            let stored = encode_task(&task)?;
            let (kind, due_at) = (task_kind(task.work.kind()), to_bigint(task.due_at.0));
            with_record(json!({"do": "create_task", "id": task.id, "kind": kind, "due_at": due_at}), stored)
        }
        Change::FinishTask(id) => json!({"do": "finish_task", "id": id}),
        Change::Record(events) => {
            let events = events.iter().map(event).collect::<Result<Vec<_>, _>>()?;
            json!({"do": "record", "events": events})
        }
        Change::PutClockMark(mark) => {
            let stored = encode(RecordKind::ClockMark, &mark)?;
            with_record(json!({"do": "put_clock_mark"}), stored)
        }
        Change::Upgraded(upgrade) => json!({"do": "upgraded", "name": upgrade.as_str()}),
        Change::Revoke(revocation) => {
            let limit = to_bigint(revocation.target.limit());
            let Revocation { target, expires_at, created_at, reason } = revocation;
            let change = json!({"do": "revoke", "lim": limit});
            with_entry(change, &target, (created_at, expires_at), reason)
        }
        Change::RaiseVersion { issuer, sub, created_at, expires_at, reason, enforce } => {
            let number_key = STANDARD.encode(token_version_key(&issuer, Some(&sub)));
            let change = json!({"do": "raise", "number_key": number_key, "at_least": 0, "enforce": enforce});
            let target = Target::SubjectVersion { issuer, sub, below: 0 };
            with_entry(change, &target, (created_at, expires_at), reason)
        }
        Change::RaiseGeneration { issuer, created_at, expires_at, reason, enforce } => {
            let number_key = STANDARD.encode(token_version_key(&issuer, None));
            // No lower than the time: the tokens that were signed after a backup must end too once it is restored.
            let at_least = to_bigint(created_at.0);
            let change =
                json!({"do": "raise", "number_key": number_key, "at_least": at_least, "enforce": enforce});
            let target = Target::IssuerGeneration { issuer, below: 0 };
            with_entry(change, &target, (created_at, expires_at), reason)
        }
        Change::CutSessions { issuer, sub, created_at, expires_at, reason } => {
            let number_key = STANDARD.encode(token_version_key(&issuer, sub.as_deref()));
            let change = json!({"do": "cut_sessions", "number_key": number_key});
            let target = match sub {
                Some(sub) => Target::SubjectSessions { issuer, sub, below: 0 },
                None => Target::EverySession { issuer, below: 0 },
            };
            with_entry(change, &target, (created_at, expires_at), reason)
        }
    })
}

fn required(precondition: &Precondition) -> Value {
    match precondition {
        Precondition::UserExists(id) => json!({"do": "user_exists", "id": id.0}),
        Precondition::TaskWaits(id) => json!({"do": "task_waits", "id": id}),
        Precondition::LeaseStands(lease) => json!({
            "do": "lease_stands",
            "subject": STANDARD.encode(lease.subject.to_bytes()),
            "holder": lease.holder.0,
            "fence": to_bigint(lease.fence),
        }),
    }
}

/// `change` with more fields.
fn with(mut change: Value, more: Value) -> Value {
    if let (Value::Object(change), Value::Object(more)) = (&mut change, more) {
        change.extend(more);
    }
    change
}

fn with_record(change: Value, stored: EncodedRecord) -> Value {
    with(change, json!({"version": stored.version, "body": STANDARD.encode(stored.body)}))
}

/// The addresses, the user name and the identities that the account is to have, each in an order that all commits share.
fn with_names(change: Value, user: &User) -> Value {
    let mut addresses: Vec<_> = user.addresses().map(|address| address.as_str().to_owned()).collect();
    let mut identities: Vec<_> =
        user.identities.iter().map(|identity| STANDARD.encode(identity.fingerprint().0)).collect();
    for names in [&mut addresses, &mut identities] {
        names.sort_unstable();
        names.dedup();
    }
    let username = user.username.as_ref().map(Username::fingerprint).map(|name| STANDARD.encode(name.0));
    let names =
        json!({"id": user.id.0, "addresses": addresses, "username": username, "identities": identities});
    with(change, names)
}

/// `revision`: the one that must be stored, unless the session is new.
fn session_change(name: &str, session: &Session, revision: Option<u64>) -> Result<Value, StoreError> {
    let stored = encode(RecordKind::Session, session)?;
    let change = json!({
        "do": name,
        "user": session.user.0,
        "id": session.id.0,
        "revision": to_bigint(revision.unwrap_or(session.revision)),
        "next": to_bigint(session.revision),
        "expires_at": to_bigint(session.expires_at.0),
    });
    Ok(with_record(change, stored))
}

fn connection_change(
    name: &str,
    connection: &Connection,
    revision: Option<u64>,
) -> Result<Value, StoreError> {
    let stored = encode(RecordKind::Connection, connection)?;
    let change = json!({
        "do": name,
        "user": connection.user.0,
        "id": connection.id.0,
        "revision": to_bigint(revision.unwrap_or(connection.revision)),
        "next": to_bigint(connection.revision),
        "due_at": connection.due_at.map(|due_at| to_bigint(due_at.0)),
    });
    Ok(with_record(change, stored))
}

fn mailbox_change(mut mailbox: Mailbox) -> Result<Value, StoreError> {
    let revision = to_bigint(mailbox.revision);
    mailbox.revision += 1;
    let stored = encode(RecordKind::Mailbox, &mailbox)?;
    let change = json!({
        "do": "put_mailbox",
        "mailbox": STANDARD.encode(mailbox.id.0),
        "revision": revision,
        "next": to_bigint(mailbox.revision),
        "ends_at": to_bigint(mailbox.ends_at().0),
    });
    Ok(with_record(change, stored))
}

fn event(event: &Event) -> Result<Value, StoreError> {
    let strangers = event.is_strangers();
    let stored = encode(RecordKind::Event, event)?;
    let made = json!({
        "user": event.user.map(|user| user.0),
        "strangers": strangers,
        "kept": if strangers { STRANGERS_EVENTS_KEPT } else { EVENTS_KEPT },
        "gone_until": to_bigint(event.at.plus(GONE_EVENTS_LIFE).0),
    });
    Ok(with_record(made, stored))
}

fn with_entry(
    change: Value,
    target: &Target,
    (created_at, expires_at): (UnixTime, UnixTime),
    reason: Option<String>,
) -> Value {
    let entry = json!({
        "key": STANDARD.encode(revocation_key(target)),
        "expires_at": to_bigint(expires_at.0),
        "created_at": to_bigint(created_at.0),
        "version": RecordKind::Revocation.version(),
        "reason": reason.map(|reason| STANDARD.encode(reason)),
    });
    with(change, entry)
}

/// What came of one commit of a batch.
#[derive(Debug)]
pub enum CommitOutcome {
    /// It was made. Without a position it wrote nothing.
    Done { revocations: Vec<Revocation>, position: Option<Position> },
    /// It was taken back because of another transaction at the same time, and may be made again.
    Again { state: String },
    /// It was taken back, as the store's rules have it.
    Refused(CommitError),
    /// It was taken back because the database could not do it.
    Failed { state: String },
}

#[derive(Deserialize)]
struct Answer {
    commits: Option<Vec<CommitAnswer>>,
    #[serde(default)]
    importing: bool,
    closed_for: Option<String>,
}

#[derive(Deserialize)]
struct CommitAnswer {
    outcome: String,
    state: Option<String>,
    #[serde(default)]
    entries: Vec<StandingRow>,
    position: Option<i64>,
    number: Option<i64>,
    older: Option<OlderAnswer>,
}

/// A replica that cannot read what a commit would write.
#[derive(Deserialize)]
struct OlderAnswer {
    replica: String,
    program: i64,
    kind: String,
    version: u8,
    reads: i64,
}

impl OlderAnswer {
    fn error(self) -> Option<OlderReplica> {
        Some(OlderReplica {
            replica: self.replica,
            program: u32::try_from(self.program).unwrap_or(0),
            kind: RecordKind::ALL.into_iter().find(|known| known.name() == self.kind)?,
            version: self.version,
            reads: u8::try_from(self.reads).unwrap_or(0),
        })
    }
}

/// What the answer of `palisade.commit_1` to a batch says of each commit, in their order.
///
/// # Errors
/// [`StoreError`]: the store takes no commits now, or the answer is not one that this program understands.
pub fn outcomes(text: &str, asked: usize) -> Result<Vec<CommitOutcome>, StoreError> {
    let answer: Answer = serde_json::from_str(text).map_err(|error| {
        StoreError::Unavailable(format!("the database's answer to a commit is none: {error}"))
    })?;
    if answer.importing {
        return Err(StoreError::Unavailable("an import into the store has not come to its end".to_owned()));
    }
    if let Some(why) = answer.closed_for {
        return Err(StoreError::Closed(why));
    }
    let commits = answer.commits.unwrap_or_default();
    if commits.len() != asked {
        let words = format!("the database answered for {} commits of {asked}", commits.len());
        return Err(StoreError::Unavailable(words));
    }
    Ok(commits.into_iter().map(outcome).collect())
}

fn outcome(answer: CommitAnswer) -> CommitOutcome {
    let refused = |error: CommitError| CommitOutcome::Refused(error);
    let unknown = || StoreError::Unavailable("the database answers a commit with an unknown word".to_owned());
    let state = answer.state.unwrap_or_default();
    match answer.outcome.as_str() {
        "done" => match answer.entries.iter().map(StandingRow::revocation).collect() {
            Ok(revocations) => {
                let numbers = answer.position.zip(answer.number);
                CommitOutcome::Done {
                    revocations,
                    position: numbers.map(|(feed, number)| position(feed, number)),
                }
            }
            Err(error) => refused(error.into()),
        },
        "again" => CommitOutcome::Again { state },
        "conflict" => refused(CommitError::Conflict),
        "email_taken" => refused(CommitError::EmailTaken),
        "username_taken" => refused(CommitError::UsernameTaken),
        "identity_taken" => refused(CommitError::IdentityTaken),
        "failed" => CommitOutcome::Failed { state },
        "older" => refused(match answer.older.and_then(OlderAnswer::error) {
            Some(older) => StoreError::OlderReplica(older).into(),
            None => unknown().into(),
        }),
        other => refused(newer_record(other).unwrap_or_else(unknown).into()),
    }
}

/// `newer:KIND:VERSION:ID`.
fn newer_record(outcome: &str) -> Option<StoreError> {
    let mut parts = outcome.strip_prefix("newer:")?.splitn(3, ':');
    let (kind, version, id) = (parts.next()?, parts.next()?, parts.next().unwrap_or_default());
    let kind = RecordKind::ALL.into_iter().find(|known| known.name() == kind)?;
    Some(newer(kind, id, version.parse().ok()?))
}

/// The position of a commit: that of its entry of the feed, or of the last one before it and a number of its own.
#[must_use]
pub fn position(feed: i64, number: i64) -> Position {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&from_bigint(feed).to_be_bytes());
    bytes[8..].copy_from_slice(&from_bigint(number).to_be_bytes());
    Position::from_bytes(bytes)
}

/// Whether it is the position of an entry of the feed: of a commit that put a revocation in force.
#[must_use]
pub fn is_entry(position: Position) -> bool {
    position.to_bytes()[8..] == [0; 8]
}

/// The position in the feed that a position names: what a follower has seen who has come to it.
#[must_use]
pub fn feed_position(position: Position) -> u64 {
    let bytes = position.to_bytes();
    u64::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::lease::{Lease, LeaseHolder, LeaseSubject};
    use palisade_testing::conformance::{event as made_event, revocation, session, token, user};

    fn first(change: Change) -> Value {
        let commit = EncodedCommit::of(vec![change]).unwrap();
        serde_json::from_str::<Value>(&commit.text).unwrap()["changes"][0].take()
    }

    #[test]
    fn an_update_names_the_stored_revision_and_holds_the_next_one() {
        let mut ann = user(1, "ann@example.com");
        ann.revision = 4;
        let change = first(Change::UpdateUser(ann.clone()));
        assert_eq!((change["revision"].as_i64(), change["next"].as_i64()), (Some(4), Some(5)));
        let body = STANDARD.decode(change["body"].as_str().unwrap()).unwrap();
        let stored: User = serde_json::from_slice(&body).unwrap();
        ann.revision = 5;
        assert_eq!(stored, ann);
        let change = first(Change::CreateSession(session(1, 1, u64::MAX)));
        assert_eq!((change["expires_at"].as_i64(), change["revision"].as_i64()), (Some(i64::MAX), Some(0)));
    }

    #[test]
    fn a_batch_is_base64_and_names_what_the_program_knows() {
        let commits = [
            EncodedCommit::of(vec![Change::Revoke(revocation(token("'; DROP SCHEMA palisade; --"), 1, 9))])
                .unwrap(),
            EncodedCommit::of(Vec::new()).unwrap(),
        ];
        let text = batch(commits.iter());
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)));
        let read: Value = serde_json::from_slice(&STANDARD.decode(text).unwrap()).unwrap();
        assert_eq!(read["known"]["user"], 3);
        assert_eq!(read["commits"].as_array().unwrap().len(), 2);
        let first = &read["commits"][0];
        assert_eq!(first["changes"][0]["lim"].as_i64(), Some(i64::MAX));
        assert_eq!(first["needs"], json!({"revocation": 1}));
    }

    #[test]
    fn commits_about_accounts_have_an_order() {
        let order = |changes| EncodedCommit::of(changes).unwrap().order;
        assert_eq!(order(vec![Change::FinishTask(Uuid::from_u128(9))]), Uuid::nil());
        assert_eq!(
            order(vec![Change::Record(vec![made_event(None, 1), made_event(Some(7), 2)])]),
            Uuid::from_u128(7)
        );
        let lease =
            Lease { subject: LeaseSubject::Notices, holder: LeaseHolder(Uuid::nil()), fence: u64::MAX };
        let change = first(Change::Require(Precondition::LeaseStands(lease)));
        assert_eq!(change["fence"].as_i64(), Some(i64::MAX));
    }

    #[test]
    fn answers_are_read_one_by_one() {
        let text = r#"{"commits":[
            {"outcome":"done","entries":[],"wrote":false},
            {"outcome":"done","entries":[],"wrote":true,"position":3,"number":8},
            {"outcome":"username_taken"},
            {"outcome":"again","state":"40P01"},
            {"outcome":"newer:user:9:00000000-0000-0000-0000-000000000007"},
            {"outcome":"failed","state":"53100"},
            {"outcome":"what"},
            {"outcome":"older","older":{"replica":"b","program":1,"kind":"user","version":3,"reads":2}}]}"#;
        let read = outcomes(text, 8).unwrap();
        assert!(matches!(read[0], CommitOutcome::Done { position: None, .. }));
        let CommitOutcome::Done { position: Some(at), .. } = &read[1] else { panic!("{:?}", read[1]) };
        assert_eq!((*at, feed_position(*at)), (position(3, 8), 3));
        assert!(position(3, 8) < position(4, 0) && position(3, 0) < position(3, 1));
        assert!(matches!(read[2], CommitOutcome::Refused(CommitError::UsernameTaken)));
        assert!(matches!(&read[3], CommitOutcome::Again { state } if state == "40P01"));
        let words = |at: usize| match &read[at] {
            CommitOutcome::Refused(CommitError::Store(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(words(4).contains("the account 00000000-0000-0000-0000-000000000007"), "{}", words(4));
        assert!(matches!(&read[5], CommitOutcome::Failed { state } if state == "53100"));
        assert!(words(6).contains("unknown word"), "{}", words(6));
        let CommitOutcome::Refused(CommitError::Store(StoreError::OlderReplica(older))) = &read[7] else {
            panic!("{:?}", read[7])
        };
        assert_eq!((&*older.replica, older.kind, older.version, older.reads), ("b", RecordKind::User, 3, 2));
        assert!(outcomes(text, 6).is_err() && outcomes("{}", 1).is_err() && outcomes("[", 0).is_err());
        assert!(
            outcomes(r#"{"importing":true,"closed_for":null}"#, 1)
                .unwrap_err()
                .to_string()
                .contains("import")
        );
        let closed = outcomes(r#"{"importing":false,"closed_for":"moved"}"#, 1).unwrap_err();
        assert!(closed.to_string().contains("closed for writing: moved"));
    }
}

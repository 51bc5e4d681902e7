//! Where each record lies: one ordered space of keys, the first byte of which says what is there.
//!
//! Keys are short, because the engine repeats them at the edges of every page: issuers have numbers, UUIDs
//! are 16 bytes. Two different things must never get the same key.

use uuid::Uuid;

use palisade_core::domain::account::UserId;
use palisade_core::domain::connection::ConnectionId;
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::mail_cap::MailboxId;
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::provider_identity::IdentityFingerprint;
use palisade_core::domain::revocation::Kind;
use palisade_core::domain::session::SessionId;
use palisade_core::domain::task::{Task, TaskKind};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::username::UsernameFingerprint;
use palisade_core::ports::{StoreError, Upgrade};

pub(super) use super::event_keys::{EventPlace, events, listed_account, numbered_event};

pub(super) type Key = Vec<u8>;

/// What lies behind a key. Numbers are never given to anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Table {
    /// How many commits there were.
    Sequence = 1,
    /// The number of an issuer.
    Issuer = 2,
    /// The issuer of a number.
    IssuerText = 3,
    Revocation = 4,
    /// The token version of a subject.
    Version = 5,
    User = 6,
    /// Whose an address is.
    Email = 7,
    Session = 8,
    Link = 9,
    /// Tasks as version 0.1.0 kept them, by the moment they are due. A start moves them ([`super::upgrade`]).
    FormerTask = 10,
    Mail = 11,
    /// The mails that are still tried, in the order they are due.
    DueMail = 12,
    /// Two lists of each account, numbered as they came.
    Event = 13,
    /// What ends, by the moment at which to look whether it has.
    Due = 14,
    Connection = 15,
    /// The connections that the worker looks at, by the moment at which it does.
    DueConnection = 16,
    /// How many letters a mailbox got, by a MAC of its address.
    Mailbox = 17,
    /// The high-water mark of the clock.
    Clock = 18,
    /// That something was erased and still lies in the engine's files.
    Erased = 19,
    /// What a secret of the data folder is known by, by the name of its file.
    KeyCheck = 20,
    /// Until when events are kept of an account that is gone.
    GoneUser = 21,
    Task = 22,
    /// The tasks, by their kind and the moment they are due.
    DueTask = 23,
    /// How many runs of the store have granted leases.
    LeaseRun = 24,
    /// Whose a user name is, by its fingerprint.
    Username = 25,
    /// Whose a user name was, by its fingerprint: no other account gets it.
    FormerUsername = 26,
    /// What was done once to a store of an earlier program, by its name.
    Upgrade = 27,
    /// Whose an identity at a provider is, by its fingerprint.
    Identity = 28,
    /// That an import has begun and not come to its end, and how many records it has taken in.
    Importing = 30,
    /// That the store is closed for writing, and what for.
    Closed = 31,
}

impl Table {
    /// What lies at `key`; `None`: a table that this program does not know.
    pub(super) fn of(key: &[u8]) -> Option<Table> {
        Some(match key.first()? {
            1 => Table::Sequence,
            2 => Table::Issuer,
            3 => Table::IssuerText,
            4 => Table::Revocation,
            5 => Table::Version,
            6 => Table::User,
            7 => Table::Email,
            8 => Table::Session,
            9 => Table::Link,
            10 => Table::FormerTask,
            11 => Table::Mail,
            12 => Table::DueMail,
            13 => Table::Event,
            14 => Table::Due,
            15 => Table::Connection,
            16 => Table::DueConnection,
            17 => Table::Mailbox,
            18 => Table::Clock,
            19 => Table::Erased,
            20 => Table::KeyCheck,
            21 => Table::GoneUser,
            22 => Table::Task,
            23 => Table::DueTask,
            24 => Table::LeaseRun,
            25 => Table::Username,
            26 => Table::FormerUsername,
            27 => Table::Upgrade,
            28 => Table::Identity,
            30 => Table::Importing,
            31 => Table::Closed,
            _ => return None,
        })
    }
}

/// What an error calls the record at `key`: its kind, and its id where that is no address and no secret.
pub(super) fn describe(key: &[u8]) -> String {
    let id = |at: usize| key.get(at..at + 16).and_then(|id| Uuid::from_slice(id).ok());
    let with = |kind: &str, at: usize| id(at).map_or_else(|| kind.to_owned(), |id| format!("{kind} {id}"));
    match Table::of(key) {
        Some(Table::User) => with("the account", 1),
        Some(Table::Session) => with("the session", 17),
        Some(Table::Connection) => with("the connection", 17),
        Some(Table::Mail) => with("the mail", 1),
        Some(Table::Task) => with("the task", 1),
        Some(Table::FormerTask) => with("the task", 9),
        Some(Table::Issuer) => "the number of an issuer".to_owned(),
        Some(Table::IssuerText) => "an issuer".to_owned(),
        Some(Table::Revocation) => "a revocation".to_owned(),
        Some(Table::Version) => "a token version".to_owned(),
        Some(Table::Email) => "the owner of an address".to_owned(),
        Some(Table::Username) => "the owner of a user name".to_owned(),
        Some(Table::Identity) => "the owner of an identity at a provider".to_owned(),
        Some(Table::FormerUsername) => "the former owner of a user name".to_owned(),
        Some(Table::Upgrade) => "what was done once to the store".to_owned(),
        Some(Table::Link) => "a link".to_owned(),
        Some(Table::Event) => "an event".to_owned(),
        Some(Table::Mailbox) => "a mailbox".to_owned(),
        Some(Table::Clock) => "the mark of the clock".to_owned(),
        Some(Table::LeaseRun) => "the count of runs that granted leases".to_owned(),
        Some(Table::KeyCheck) => "what a secret is known by".to_owned(),
        Some(Table::GoneUser) => with("the end of the events of the account", 1),
        Some(Table::Sequence) => "the number of the last commit".to_owned(),
        Some(Table::DueMail | Table::Due | Table::DueConnection | Table::DueTask | Table::Erased) => {
            "an index entry".to_owned()
        }
        Some(Table::Importing) => "the mark of an import".to_owned(),
        Some(Table::Closed) => "the mark of a store that is closed for writing".to_owned(),
        None => format!("a record of table {}", key.first().copied().unwrap_or_default()),
    }
}

pub(super) fn key(table: Table, parts: &[&[u8]]) -> Key {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(table as u8);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// The beginning of every key of `table`.
pub(super) fn all(table: Table) -> Key {
    key(table, &[])
}

/// The first key behind those of `table`.
pub(super) fn behind(table: Table) -> Key {
    vec![table as u8 + 1]
}

pub(super) fn key_check(file: &str) -> Key {
    key(Table::KeyCheck, &[file.as_bytes()])
}

/// The name in a key made by [`key_check`].
pub(super) fn checked_file(key: &[u8]) -> Result<String, StoreError> {
    key.get(1..).and_then(|name| String::from_utf8(name.to_vec()).ok()).ok_or_else(misshapen)
}

pub(super) fn sequence() -> Key {
    key(Table::Sequence, &[])
}

pub(super) fn lease_run() -> Key {
    key(Table::LeaseRun, &[])
}

pub(super) fn clock() -> Key {
    key(Table::Clock, &[])
}

/// Behind every key there is.
pub(super) fn end() -> Key {
    vec![u8::MAX]
}

/// The first key that can stand behind `key`.
pub(super) fn next(key: &[u8]) -> Key {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// Present while something that was erased may still lie in the engine's files.
pub(super) fn erased() -> Key {
    key(Table::Erased, &[])
}

/// Present while an import goes on, and after one that did not come to its end.
pub(super) fn importing() -> Key {
    key(Table::Importing, &[])
}

/// Present while the store is closed for writing.
pub(super) fn closed() -> Key {
    key(Table::Closed, &[])
}

/// Whether the key tells of the files that it is in, and is not copied into others.
pub(super) fn is_bookkeeping(key: &[u8]) -> bool {
    key == [Table::Sequence as u8] || key == [Table::Erased as u8]
}

pub(super) fn issuer(text: &str) -> Key {
    key(Table::Issuer, &[text.as_bytes()])
}

pub(super) fn issuer_text(number: u32) -> Key {
    key(Table::IssuerText, &[&number.to_be_bytes()])
}

/// The number in a key made by [`issuer_text`].
pub(super) fn issuer_number(key: &[u8]) -> Result<u32, StoreError> {
    key.get(1..).and_then(|number| number.try_into().ok()).map(u32::from_be_bytes).ok_or_else(misshapen)
}

pub(super) fn revocation(kind: Kind, issuer: u32, name: &str) -> Key {
    let (form, name) = (Name::of(name), name.as_bytes());
    let (form, name) = match &form {
        Name::Uuid(uuid) => (1, &uuid.as_bytes()[..]),
        Name::Text => (0, name),
    };
    key(Table::Revocation, &[&[kind.to_byte()], &issuer.to_be_bytes(), &[form], name])
}

/// Kind, issuer's number and name in a key made by [`revocation`].
pub(super) fn revoked(key: &[u8]) -> Result<(Kind, u32, String), StoreError> {
    let parts = || {
        let (head, name) = key.split_at_checked(7)?;
        let kind = Kind::of_byte(head[1])?;
        let issuer = u32::from_be_bytes(head[2..6].try_into().ok()?);
        let name = match head[6] {
            0 => String::from_utf8(name.to_vec()).ok()?,
            1 => Uuid::from_slice(name).ok()?.to_string(),
            _ => return None,
        };
        Some((kind, issuer, name))
    };
    parts().ok_or_else(misshapen)
}

/// How a revoked name is written: most are UUIDs, and 16 bytes say those.
enum Name {
    Uuid(Uuid),
    Text,
}

impl Name {
    fn of(name: &str) -> Name {
        // Only the one spelling that comes out again: any other text is another name.
        match Uuid::try_parse(name) {
            Ok(uuid) if uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == name => {
                Name::Uuid(uuid)
            }
            _ => Name::Text,
        }
    }
}

pub(super) fn version(issuer: u32, sub: &str) -> Key {
    key(Table::Version, &[&issuer.to_be_bytes(), sub.as_bytes()])
}

/// Of all tokens of an issuer. No subject is empty.
pub(super) fn generation(issuer: u32) -> Key {
    version(issuer, "")
}

/// The issuer's number and the subject in a key made by [`version`]; no subject in one made by [`generation`].
pub(super) fn versioned(key: &[u8]) -> Result<(u32, Option<String>), StoreError> {
    let (number, sub) = key.get(1..).and_then(|rest| rest.split_first_chunk()).ok_or_else(misshapen)?;
    let sub = String::from_utf8(sub.to_vec()).map_err(|_| misshapen())?;
    Ok((u32::from_be_bytes(*number), (!sub.is_empty()).then_some(sub)))
}

pub(super) fn user(id: UserId) -> Key {
    key(Table::User, &[id.0.as_bytes()])
}

pub(super) fn email(address: &EmailAddress) -> Key {
    key(Table::Email, &[address.as_str().as_bytes()])
}

pub(super) fn username(name: UsernameFingerprint) -> Key {
    key(Table::Username, &[&name.0])
}

pub(super) fn identity(fingerprint: IdentityFingerprint) -> Key {
    key(Table::Identity, &[&fingerprint.0])
}

pub(super) fn former_username(name: UsernameFingerprint) -> Key {
    key(Table::FormerUsername, &[&name.0])
}

/// The fingerprint in a key made by [`former_username`].
pub(super) fn former_fingerprint(key: &[u8]) -> Result<UsernameFingerprint, StoreError> {
    let name = key.get(1..).and_then(|name| name.try_into().ok());
    name.map(UsernameFingerprint).ok_or_else(misshapen)
}

pub(super) fn upgrade(upgrade: Upgrade) -> Key {
    key(Table::Upgrade, &[upgrade.as_str().as_bytes()])
}

pub(super) fn session(user: UserId, id: SessionId) -> Key {
    key(Table::Session, &[user.0.as_bytes(), id.0.as_bytes()])
}

/// The id of the session at a key made by [`session`].
pub(super) fn session_id(key: &[u8]) -> Result<SessionId, StoreError> {
    let id = key.get(17..).and_then(|id| Uuid::from_slice(id).ok());
    id.map(SessionId).ok_or_else(misshapen)
}

/// The beginning of the keys of a user's sessions.
pub(super) fn sessions(user: UserId) -> Key {
    key(Table::Session, &[user.0.as_bytes()])
}

pub(super) fn connection(user: UserId, id: ConnectionId) -> Key {
    key(Table::Connection, &[user.0.as_bytes(), id.0.as_bytes()])
}

/// The beginning of the keys of a user's connections.
pub(super) fn connections(user: UserId) -> Key {
    key(Table::Connection, &[user.0.as_bytes()])
}

pub(super) fn due_connection(due_at: UnixTime, user: UserId, id: ConnectionId) -> Key {
    key(Table::DueConnection, &[&due_at.0.to_be_bytes(), user.0.as_bytes(), id.0.as_bytes()])
}

/// The key of the connection that is named in one made by [`due_connection`].
pub(super) fn connection_due(due: &[u8]) -> Result<Key, StoreError> {
    due.get(9..).filter(|ids| ids.len() == 32).map(|ids| key(Table::Connection, &[ids])).ok_or_else(misshapen)
}

pub(super) fn link(hash: &TokenHash) -> Key {
    key(Table::Link, &[&hash.0])
}

pub(super) fn task(id: Uuid) -> Key {
    key(Table::Task, &[id.as_bytes()])
}

pub(super) fn due_task(task: &Task) -> Key {
    let mut key = due_tasks(task.work.kind(), task.due_at);
    key.extend_from_slice(task.id.as_bytes());
    key
}

/// The first key of a task of `kind` that is not due before `time`.
pub(super) fn due_tasks(kind: TaskKind, time: UnixTime) -> Key {
    key(Table::DueTask, &[&[task_kind_byte(kind)], &time.0.to_be_bytes()])
}

/// The first key behind those of the tasks of `kind`.
pub(super) fn behind_due_tasks(kind: TaskKind) -> Key {
    key(Table::DueTask, &[&[task_kind_byte(kind) + 1]])
}

/// The task's id in a key made by [`due_task`].
pub(super) fn due_task_id(key: &[u8]) -> Result<Uuid, StoreError> {
    key.get(10..).and_then(|id| Uuid::from_slice(id).ok()).ok_or_else(misshapen)
}

/// The kind as stored. Numbers are never given to another kind.
fn task_kind_byte(kind: TaskKind) -> u8 {
    match kind {
        TaskKind::Account => 1,
        TaskKind::EndGrant => 2,
        TaskKind::Notice => 3,
        TaskKind::AccountNotice => 4,
    }
}

pub(super) fn mailbox(id: MailboxId) -> Key {
    key(Table::Mailbox, &[&id.0])
}

pub(super) fn mail(id: Uuid) -> Key {
    key(Table::Mail, &[id.as_bytes()])
}

pub(super) fn due_mail(due_at: UnixTime, id: Uuid) -> Key {
    key(Table::DueMail, &[&due_at.0.to_be_bytes(), id.as_bytes()])
}

/// The mail's id in a key made by [`due_mail`].
pub(super) fn due_mail_id(key: &[u8]) -> Result<Uuid, StoreError> {
    key.get(9..).and_then(|id| Uuid::from_slice(id).ok()).ok_or_else(misshapen)
}

pub(super) fn gone_user(user: UserId) -> Key {
    key(Table::GoneUser, &[user.0.as_bytes()])
}

/// The account in a key made by [`gone_user`].
pub(super) fn gone_user_id(key: &[u8]) -> Result<UserId, StoreError> {
    let id = key.get(1..).and_then(|id| Uuid::from_slice(id).ok());
    id.map(UserId).ok_or_else(misshapen)
}

/// Where what lies at `key` is filed, to be looked at when `time` has passed.
pub(super) fn due(time: UnixTime, key_of_record: &[u8]) -> Key {
    key(Table::Due, &[&time.0.to_be_bytes(), key_of_record])
}

/// The first key of [`Table::Due`] that is not before `time`; of the others that are ordered by time, too.
pub(super) fn from(table: Table, time: UnixTime) -> Key {
    key(table, &[&time.0.to_be_bytes()])
}

/// The key that is filed in one made by [`due`].
pub(super) fn filed(due: &[u8]) -> Result<&[u8], StoreError> {
    due.get(9..).filter(|key| !key.is_empty()).ok_or_else(misshapen)
}

pub(super) fn misshapen() -> StoreError {
    StoreError::Unreadable(
        "a key does not have its shape; restore the data directory from a backup".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_as_they_went_in() {
        let uuid = "0192f0c1-2345-7abc-8def-0123456789ab";
        let upper = uuid.to_uppercase();
        let plain = uuid.replace('-', "");
        for name in
            ["", "t1", uuid, &upper, &plain, &format!("{{{uuid}}}"), &format!("urn:uuid:{uuid}"), "ż\0"]
        {
            for kind in Kind::ALL {
                let key = revocation(kind, 7, name);
                assert_eq!(revoked(&key).unwrap(), (kind, 7, name.to_owned()));
            }
        }
        assert_eq!(revocation(Kind::Token, 7, uuid).len(), 7 + 16);
        assert!(revoked(b"\x04\x01").is_err());
        assert!(revoked(b"\x04\x01\0\0\0\x07\x01short").is_err());
    }

    #[test]
    fn a_name_that_is_the_bytes_of_a_uuid_is_another_name() {
        let uuid = Uuid::from_bytes([b'a'; 16]);
        assert_ne!(
            revocation(Kind::Token, 1, &uuid.to_string()),
            revocation(Kind::Token, 1, std::str::from_utf8(uuid.as_bytes()).unwrap())
        );
    }

    #[test]
    fn what_is_due_sorts_by_time_and_comes_off_again() {
        let record = revocation(Kind::Session, 1, "s");
        assert!(due(UnixTime(255), &record) < from(Table::Due, UnixTime(256)));
        assert!(due(UnixTime(256), &record) >= from(Table::Due, UnixTime(256)));
        assert_eq!(filed(&due(UnixTime(3), &record)).unwrap(), record);
        assert!(filed(b"short").is_err());
    }
}

//! How records look on disk: a version byte, then JSON, or postcard where there may be millions.
//!
//! Each kind of record has a version of its own ([`RecordKind::version`], which says when to raise it). Earlier versions
//! stay readable.
//!
//! A record of a later version is neither read nor written over ([`StoreError::Newer`]): what an earlier program does
//! not know, it would drop without a word. Nor may it be skipped or guessed at: a revocation that is not understood
//! is a revoked token that works.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::keys::{self, Table};
use palisade_core::domain::account::User;
use palisade_core::domain::revocation::{Kind, Revocation, Target};
use palisade_core::domain::session::Session;
use palisade_core::domain::task::Task;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{RecordKind, StoreError, task_version, user_version};

/// The version of each kind of record that this program writes; `None` where there is no record but an entry of an
/// index, or the count of commits, which has a form of its own.
pub(super) const fn version(table: Table) -> Option<u8> {
    match kind(table) {
        Stored::Record(kind) => Some(kind.version()),
        Stored::Own => Some(1),
        Stored::Index | Stored::Bookkeeping => None,
    }
}

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Records, which an export contains.
    Record(RecordKind),
    /// Values of this store alone: they find a record by another name, or count. An import makes its own.
    Own,
    /// Entries that say all that they say by their key: an import builds them.
    Index,
    /// What tells of these files only.
    Bookkeeping,
}

/// What `table` holds. A new table of records is also walked by an export (`export.rs`).
pub(super) const fn kind(table: Table) -> Stored {
    Stored::Record(match table {
        Table::User => RecordKind::User,
        Table::Session => RecordKind::Session,
        Table::Connection => RecordKind::Connection,
        Table::Link => RecordKind::Link,
        Table::Revocation => RecordKind::Revocation,
        Table::Version => RecordKind::TokenVersion,
        Table::Task | Table::FormerTask => RecordKind::Task,
        Table::Mail => RecordKind::Mail,
        Table::Mailbox => RecordKind::Mailbox,
        Table::GoneUser => RecordKind::EventsEnd,
        Table::Event => RecordKind::Event,
        Table::Clock => RecordKind::ClockMark,
        Table::KeyCheck => RecordKind::KeyCheck,
        Table::FormerUsername => RecordKind::FormerUsername,
        Table::Upgrade => RecordKind::Upgrade,
        Table::Issuer
        | Table::IssuerText
        | Table::Email
        | Table::Username
        | Table::Identity
        | Table::LeaseRun => {
            return Stored::Own;
        }
        Table::DueMail | Table::Due | Table::DueConnection | Table::DueTask => return Stored::Index,
        Table::Sequence | Table::Erased | Table::Importing | Table::Closed => return Stored::Bookkeeping,
    })
}

/// The first byte of a record of `table`.
fn first_byte(table: Table) -> Vec<u8> {
    version(table).into_iter().collect()
}

/// A value as it is stored in `table`.
pub(super) fn encode<T: Serialize>(table: Table, value: &T) -> Result<Vec<u8>, StoreError> {
    with_json(first_byte(table), value)
}

/// An account as it is stored: in the earliest version that holds all of it.
pub(super) fn encode_user(user: &User) -> Result<Vec<u8>, StoreError> {
    with_json(vec![user_version(user)], user)
}

/// A task as it is stored: in the earliest version that knows tasks of its kind.
pub(super) fn encode_task(task: &Task) -> Result<Vec<u8>, StoreError> {
    with_json(vec![task_version(task)], task)
}

/// The value that `bytes`, stored at `key`, hold.
pub(super) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body(key, bytes)?).map_err(|e| damaged(key, e))
}

/// Whether `bytes`, stored at `key`, are of a later version than this program knows, or of a table that it does not
/// know.
pub(super) fn is_newer(key: &[u8], bytes: &[u8]) -> bool {
    match Table::of(key) {
        Some(table) => version(table).is_some_and(|known| bytes.first().is_some_and(|found| *found > known)),
        None => true,
    }
}

/// Whether the version of what lies at `key` has to be looked at before it is written over.
pub(super) fn is_versioned(key: &[u8]) -> bool {
    Table::of(key).is_none_or(|table| version(table).is_some())
}

/// Why what lies at `key` is left alone.
pub(super) fn newer(key: &[u8], bytes: &[u8]) -> StoreError {
    let known = Table::of(key).and_then(version).unwrap_or_default();
    StoreError::Newer(format!(
        "{} was written by a newer program: it has version {}, and this program knows versions up to {known}; run the \
         newer program again. This one leaves the record as it is",
        keys::describe(key),
        bytes.first().copied().unwrap_or_default(),
    ))
}

/// A session, behind the moment under which it is filed.
pub(super) fn encode_session(filed: UnixTime, session: &Session) -> Result<Vec<u8>, StoreError> {
    let mut bytes = first_byte(Table::Session);
    bytes.extend_from_slice(&filed.0.to_be_bytes());
    with_json(bytes, session)
}

/// `head`, and `value` as JSON behind it.
fn with_json<T: Serialize>(head: Vec<u8>, value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = head;
    serde_json::to_writer(&mut bytes, value).map_err(cannot_be_encoded)?;
    Ok(bytes)
}

/// The session in `bytes`, stored at `key`.
pub(super) fn decode_session(key: &[u8], bytes: &[u8]) -> Result<Session, StoreError> {
    let (_, json) = split_session(key, bytes)?;
    serde_json::from_slice(json).map_err(|e| damaged(key, e))
}

/// The moment under which the session in `bytes`, stored at `key`, is filed.
pub(super) fn session_filed(key: &[u8], bytes: &[u8]) -> Result<UnixTime, StoreError> {
    split_session(key, bytes).map(|(filed, _)| filed)
}

fn split_session<'a>(key: &[u8], bytes: &'a [u8]) -> Result<(UnixTime, &'a [u8]), StoreError> {
    let (filed, json) =
        body(key, bytes)?.split_first_chunk().ok_or_else(|| damaged(key, "it is cut short"))?;
    Ok((UnixTime(u64::from_be_bytes(*filed)), json))
}

/// What is kept of a revocation beside what its key says.
#[derive(Serialize, Deserialize)]
pub(super) struct Standing {
    pub expires_at: UnixTime,
    pub created_at: UnixTime,
    /// `None` where the kind has none.
    limit: Option<u64>,
    reason: Option<String>,
}

/// What is stored of `revocation`.
pub(super) fn encode_revocation(revocation: &Revocation) -> Result<Vec<u8>, StoreError> {
    let is_single = revocation.target.key().0.is_single();
    let limit = (!is_single).then(|| revocation.target.limit());
    let standing = Standing {
        expires_at: revocation.expires_at,
        created_at: revocation.created_at,
        limit,
        reason: revocation.reason.clone(),
    };
    postcard::to_extend(&standing, first_byte(Table::Revocation)).map_err(cannot_be_encoded)
}

/// What `bytes`, stored at `key`, say of a revocation.
pub(super) fn decode_revocation(key: &[u8], bytes: &[u8]) -> Result<Standing, StoreError> {
    match postcard::take_from_bytes(body(key, bytes)?) {
        Ok((standing, [])) => Ok(standing),
        Ok(_) => Err(damaged(key, "it is too long")),
        Err(e) => Err(damaged(key, e)),
    }
}

impl Standing {
    /// The whole revocation, given what its key says.
    pub(super) fn of(self, key: (Kind, String, String)) -> Result<Revocation, StoreError> {
        if self.limit.is_none() && !key.0.is_single() {
            return Err(damaged(&keys::all(Table::Revocation), "it has no limit"));
        }
        Ok(Revocation {
            target: Target::of_key(key, self.limit.unwrap_or(u64::MAX)),
            expires_at: self.expires_at,
            created_at: self.created_at,
            reason: self.reason,
        })
    }
}

/// What is behind the version byte.
fn body<'a>(key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let known = Table::of(key).and_then(version).unwrap_or_default();
    match bytes.split_first() {
        Some((found, body)) if (1..=known).contains(found) => Ok(body),
        Some((0, _)) => Err(damaged(key, "its version is 0")),
        Some(_) => Err(newer(key, bytes)),
        None => Err(damaged(key, "it is empty, without a version byte")),
    }
}

fn cannot_be_encoded(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("a record cannot be encoded: {error}"))
}

fn damaged(key: &[u8], why: impl std::fmt::Display) -> StoreError {
    let what = keys::describe(key);
    StoreError::Unreadable(format!("{what} is damaged ({why}); restore the data directory from a backup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_the_round_trip() {
        let bytes = encode(Table::Version, &7u64).unwrap();
        assert_eq!(bytes[0], 1);
        assert_eq!(decode::<u64>(&keys::generation(1), &bytes).unwrap(), 7);
    }

    #[test]
    fn a_record_of_a_newer_program_is_named_and_not_read() {
        let key = keys::user(palisade_core::domain::account::UserId(uuid::Uuid::from_u128(7)));
        let error = decode::<u64>(&key, b"\x637").unwrap_err();
        assert!(matches!(error, StoreError::Newer(_)), "{error}");
        let error = error.to_string();
        for part in ["the account 00000000-0000-0000-0000-000000000007", "newer program", "99", "up to 3"] {
            assert!(error.contains(part), "{error}");
        }
        for bytes in [&b"\x04"[..], b"\x04\0\0\0\0", b"\xff{}"] {
            assert!(is_newer(&key, bytes), "{bytes:?}");
            assert!(matches!(decode::<u64>(&key, bytes), Err(StoreError::Newer(_))), "{bytes:?}");
            assert!(matches!(decode_session(&key, bytes), Err(StoreError::Newer(_))), "{bytes:?}");
            assert!(matches!(session_filed(&key, bytes), Err(StoreError::Newer(_))), "{bytes:?}");
            assert!(matches!(decode_revocation(&key, bytes), Err(StoreError::Newer(_))), "{bytes:?}");
        }
        assert!(is_newer(b"\xfea", b"\x01"), "of a table that is not known");
        let address = keys::email(&"ann@example.com".parse().unwrap());
        assert!(!decode::<u64>(&address, b"\x63").unwrap_err().to_string().contains("ann"));
    }

    #[test]
    fn what_is_cut_or_no_record_is_damaged() {
        let key = keys::generation(1);
        for bytes in [&b""[..], b"\x01", b"\x01{", b"\0", b"\x007"] {
            assert!(!is_newer(&key, bytes), "{bytes:?}");
            assert!(matches!(decode::<u64>(&key, bytes), Err(StoreError::Unreadable(_))), "{bytes:?}");
            assert!(matches!(decode_session(&key, bytes), Err(StoreError::Unreadable(_))), "{bytes:?}");
            assert!(matches!(session_filed(&key, bytes), Err(StoreError::Unreadable(_))), "{bytes:?}");
            assert!(matches!(decode_revocation(&key, bytes), Err(StoreError::Unreadable(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_revocation_is_its_key_and_a_few_bytes() {
        let (i, n) = ("https://id.test".to_owned(), "x".to_owned());
        let targets = [
            Target::Token { issuer: i.clone(), jti: n.clone() },
            Target::Session { issuer: i.clone(), sid: n.clone() },
            Target::SubjectVersion { issuer: i.clone(), sub: n.clone(), below: 3 },
            Target::SubjectIssued { issuer: i.clone(), sub: n, until: UnixTime(7) },
            Target::Issuer { issuer: i.clone(), until: UnixTime(9) },
            Target::IssuerGeneration { issuer: i, below: 1_795_000_000 },
        ];
        for target in targets {
            let (expires_at, created_at) = (UnixTime(1_800_000_000), UnixTime(1_790_000_000));
            let made = Revocation { target, expires_at, created_at, reason: None };
            let bytes = encode_revocation(&made).unwrap();
            assert!(bytes.len() <= 20, "{}", bytes.len());
            let (kind, issuer, name) = made.target.key();
            let whole = (kind, issuer.to_owned(), name.to_owned());
            let at = keys::revocation(kind, 1, name);
            assert_eq!(decode_revocation(&at, &bytes).unwrap().of(whole).unwrap(), made);
            assert!(decode_revocation(&at, &bytes[..bytes.len() - 1]).is_err());
            assert!(decode_revocation(&at, &[&bytes[..], b"\0"].concat()).is_err());
        }
        let endless =
            Standing { expires_at: UnixTime(1), created_at: UnixTime(1), limit: None, reason: None };
        assert!(endless.of((Kind::Issuer, "i".into(), String::new())).is_err());
    }
}

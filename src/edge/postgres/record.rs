//! How records look in the database: JSON in a `bytea`, with the version of their kind beside it
//! ([`RecordKind::version`], which says when to raise it), and the keys of what has no id.
//!
//! A record of a later version is neither read nor written over ([`StoreError::Newer`]): what an earlier program does not
//! know, it would drop without a word. A revocation that is not understood is a revoked token that works.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::numbers::{from_bigint, moment};
use palisade_core::domain::account::User;
use palisade_core::domain::revocation::{Kind, Revocation, Target};
use palisade_core::domain::task::{Task, TaskKind};
use palisade_core::ports::{RecordKind, StoreError, task_version, user_version};

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRecord {
    pub version: u8,
    pub body: Vec<u8>,
}

/// `value`, of a kind whose records all have the present version.
///
/// # Errors
/// [`StoreError::Unavailable`]: it has no form in JSON.
pub fn encode<T: Serialize>(kind: RecordKind, value: &T) -> Result<EncodedRecord, StoreError> {
    in_version(kind.version(), value)
}

/// An account: in the earliest version that holds all of it.
///
/// # Errors
/// As [`encode`].
pub fn encode_user(user: &User) -> Result<EncodedRecord, StoreError> {
    in_version(user_version(user), user)
}

/// A task: in the earliest version that knows tasks of its kind.
///
/// # Errors
/// As [`encode`].
pub fn encode_task(task: &Task) -> Result<EncodedRecord, StoreError> {
    in_version(task_version(task), task)
}

fn in_version<T: Serialize>(version: u8, value: &T) -> Result<EncodedRecord, StoreError> {
    let body = serde_json::to_vec(value)
        .map_err(|error| StoreError::Unavailable(format!("a record cannot be encoded: {error}")))?;
    Ok(EncodedRecord { version, body })
}

/// The record of `kind` in a row with this version and body. `id` is told in errors; empty where it is a secret or an
/// address.
///
/// # Errors
/// [`StoreError::Newer`], [`StoreError::Unreadable`].
pub fn decode<T: DeserializeOwned>(
    kind: RecordKind,
    id: &str,
    version: i16,
    body: &[u8],
) -> Result<T, StoreError> {
    is_known(kind, id, version)?;
    serde_json::from_slice(body).map_err(|error| damaged(kind, id, error))
}

/// Whether this program knows the version of a record.
///
/// # Errors
/// [`StoreError::Newer`]; [`StoreError::Unreadable`] for a version that never was.
pub fn is_known(kind: RecordKind, id: &str, version: i16) -> Result<(), StoreError> {
    let known = i16::from(kind.version());
    match version {
        ..1 => Err(damaged(kind, id, format!("its version is {version}"))),
        version if version > known => Err(newer(kind, id, version)),
        _ => Ok(()),
    }
}

/// Why a record of this version is left alone.
#[must_use]
pub fn newer(kind: RecordKind, id: &str, version: i16) -> StoreError {
    StoreError::Newer(format!(
        "{} was written by a newer program: it has version {version}, and this program knows versions up to {}; run the \
         newer program again. This one leaves the record as it is",
        named(kind, id),
        kind.version(),
    ))
}

fn damaged(kind: RecordKind, id: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Unreadable(format!(
        "{} is damaged ({why}); restore the database from a backup",
        named(kind, id)
    ))
}

fn named(kind: RecordKind, id: &str) -> String {
    let what = match kind {
        RecordKind::User => "the account",
        RecordKind::Session => "the session",
        RecordKind::Connection => "the connection",
        RecordKind::Link => "a link",
        RecordKind::Revocation => "a revocation",
        RecordKind::TokenVersion => "a token version",
        RecordKind::Task => "the task",
        RecordKind::Mail => "the mail",
        RecordKind::Mailbox => "a mailbox",
        RecordKind::EventsEnd => "the end of the events of an account",
        RecordKind::Event => "an event",
        RecordKind::ClockMark => "the mark of the clock",
        RecordKind::KeyCheck => "what a secret is known by",
        RecordKind::FormerUsername => "the former owner of a user name",
        RecordKind::Upgrade => "what was done once to the store",
    };
    match id {
        "" => what.to_owned(),
        id => format!("{what} {id}"),
    }
}

/// The name of a kind of task in `palisade.tasks`.
#[must_use]
pub const fn task_kind(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Account => "account",
        TaskKind::EndGrant => "end_grant",
        TaskKind::Notice => "notice",
        TaskKind::AccountNotice => "account_notice",
    }
}

/// The key of `palisade.revocations`: the kind, the length of the issuer, the issuer, the name.
#[must_use]
pub fn revocation_key(target: &Target) -> Vec<u8> {
    let (kind, issuer, name) = target.key();
    joined(kind.to_byte(), issuer, name)
}

/// The key of `palisade.token_versions`: of a subject, or without one of all tokens of the issuer.
#[must_use]
pub fn token_version_key(issuer: &str, sub: Option<&str>) -> Vec<u8> {
    joined(u8::from(sub.is_some()), issuer, sub.unwrap_or_default())
}

/// The issuer and the subject in a key made by [`token_version_key`].
///
/// # Errors
/// [`StoreError::Unreadable`].
pub fn token_version_of(key: &[u8]) -> Result<(String, Option<String>), StoreError> {
    let (first, issuer, sub) = split(RecordKind::TokenVersion, key)?;
    Ok((issuer, (first == 1).then_some(sub)))
}

fn joined(first: u8, issuer: &str, name: &str) -> Vec<u8> {
    let length = u32::try_from(issuer.len()).unwrap_or(u32::MAX);
    [&[first], &length.to_be_bytes()[..], issuer.as_bytes(), name.as_bytes()].concat()
}

fn split(kind: RecordKind, key: &[u8]) -> Result<(u8, String, String), StoreError> {
    let parts = || {
        let (first, rest) = key.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (issuer, name) = rest.split_at_checked(length)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        Some((*first, text(issuer)?, text(name)?))
    };
    parts().ok_or_else(|| damaged(kind, "", "its key has no such form"))
}

/// What a row of `palisade.revocations` says beside its key.
#[derive(Debug, Clone, Copy)]
pub struct RevocationColumns<'a> {
    pub lim: i64,
    pub expires_at: i64,
    pub created_at: i64,
    pub version: i16,
    pub reason: Option<&'a [u8]>,
}

/// The revocation of a row of `palisade.revocations`.
///
/// # Errors
/// [`StoreError::Newer`], [`StoreError::Unreadable`].
pub fn revocation(key: &[u8], columns: RevocationColumns<'_>) -> Result<Revocation, StoreError> {
    is_known(RecordKind::Revocation, "", columns.version)?;
    let (first, issuer, name) = split(RecordKind::Revocation, key)?;
    let kind = Kind::of_byte(first)
        .ok_or_else(|| damaged(RecordKind::Revocation, "", format!("there is no kind {first}")))?;
    let target = Target::of_key((kind, issuer, name), from_bigint(columns.lim));
    let reason = columns.reason.map(|bytes| String::from_utf8(bytes.to_vec())).transpose();
    Ok(Revocation {
        target,
        expires_at: moment(columns.expires_at),
        created_at: moment(columns.created_at),
        reason: reason.map_err(|error| damaged(RecordKind::Revocation, "", error))?,
    })
}

/// A revocation in an answer of `palisade.commit_1` and in the body of an entry of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingRow {
    /// Base64, as is `reason`.
    pub key: String,
    pub lim: i64,
    pub expires_at: i64,
    pub created_at: i64,
    pub version: i16,
    pub reason: Option<String>,
}

impl StandingRow {
    /// # Errors
    /// As [`revocation`].
    pub fn revocation(&self) -> Result<Revocation, StoreError> {
        let bytes =
            |text: &str| STANDARD.decode(text).map_err(|error| damaged(RecordKind::Revocation, "", error));
        let reason = self.reason.as_deref().map(bytes).transpose()?;
        let columns = RevocationColumns {
            lim: self.lim,
            expires_at: self.expires_at,
            created_at: self.created_at,
            version: self.version,
            reason: reason.as_deref(),
        };
        revocation(&bytes(&self.key)?, columns)
    }
}

/// The revocations in the body of an entry of the feed, in the order of their commit.
///
/// # Errors
/// As [`revocation`]. The follower must not go on behind such an entry.
pub fn feed_entry(body: &[u8]) -> Result<Vec<Revocation>, StoreError> {
    let rows: Vec<StandingRow> =
        serde_json::from_slice(body).map_err(|error| damaged(RecordKind::Revocation, "", error))?;
    rows.iter().map(StandingRow::revocation).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use palisade_core::domain::time::UnixTime;
    use palisade_testing::conformance::{task, user};

    fn targets() -> Vec<Target> {
        let (i, n) = ("https://id.test".to_owned(), "x\0y".to_owned());
        vec![
            Target::Token { issuer: i.clone(), jti: n.clone() },
            Target::Session { issuer: i.clone(), sid: n.clone() },
            Target::SubjectVersion { issuer: i.clone(), sub: n.clone(), below: 3 },
            Target::SubjectIssued { issuer: i.clone(), sub: n.clone(), until: UnixTime::NEVER },
            Target::Issuer { issuer: i.clone(), until: UnixTime(9) },
            Target::IssuerGeneration { issuer: i.clone(), below: 1_795_000_000 },
            Target::SubjectSessions { issuer: i.clone(), sub: n, below: 4 },
            Target::EverySession { issuer: i.clone(), below: 5 },
            // Kept apart from the first by the length of the issuer.
            Target::Token { issuer: format!("{i}x"), jti: "\0y".to_owned() },
        ]
    }

    #[test]
    fn every_revocation_comes_back_from_its_row() {
        let mut keys = BTreeSet::new();
        for target in targets() {
            let key = revocation_key(&target);
            assert!(keys.insert(key.clone()), "{target:?}");
            let made = Revocation {
                expires_at: UnixTime::NEVER,
                created_at: UnixTime(7),
                reason: Some("a\0b".into()),
                target,
            };
            let columns = RevocationColumns {
                lim: super::super::numbers::to_bigint(made.target.limit()),
                expires_at: i64::MAX,
                created_at: 7,
                version: 1,
                reason: Some(b"a\0b"),
            };
            assert_eq!(revocation(&key, columns).unwrap(), made);
            let newer = RevocationColumns { version: 2, ..columns };
            assert!(matches!(revocation(&key, newer), Err(StoreError::Newer(_))));
        }
        let columns = RevocationColumns { lim: 0, expires_at: 0, created_at: 0, version: 1, reason: None };
        for key in [&b""[..], b"\x01", b"\x01\0\0\0\x09short", b"\x09\0\0\0\0", b"\x01\0\0\0\0\xff"] {
            assert!(matches!(revocation(key, columns), Err(StoreError::Unreadable(_))), "{key:?}");
        }
    }

    #[test]
    fn an_entry_of_the_feed_is_a_list_of_rows() {
        let rows: Vec<_> = targets()
            .iter()
            .map(|target| StandingRow {
                key: STANDARD.encode(revocation_key(target)),
                lim: super::super::numbers::to_bigint(target.limit()),
                expires_at: 9,
                created_at: 1,
                version: 1,
                reason: Some(STANDARD.encode("why")),
            })
            .collect();
        let read = feed_entry(&serde_json::to_vec(&rows).unwrap()).unwrap();
        assert_eq!(read.iter().map(|read| read.target.clone()).collect::<Vec<_>>(), targets());
        assert!(read.iter().all(|read| read.reason.as_deref() == Some("why")));
        assert!(feed_entry(b"[{}]").is_err());
    }

    #[test]
    fn the_versions_of_subjects_and_of_all_tokens_are_apart() {
        for (issuer, sub) in [("i", Some("s")), ("i", None), ("is", None), ("", Some("is")), ("i", Some(""))]
        {
            let key = token_version_key(issuer, sub);
            assert_eq!(token_version_of(&key).unwrap(), (issuer.to_owned(), sub.map(str::to_owned)));
        }
    }

    #[test]
    fn no_two_kinds_of_tasks_have_one_name() {
        let names = TaskKind::ALL.map(task_kind);
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn a_record_of_a_newer_program_is_named_and_not_read() {
        let ann = user(7, "ann@example.com");
        let stored = encode_user(&ann).unwrap();
        assert_eq!(stored.version, 3);
        let read = |version| decode::<User>(RecordKind::User, &ann.id.0.to_string(), version, &stored.body);
        assert_eq!(read(3).unwrap(), ann);
        let error = read(4).unwrap_err();
        assert!(matches!(error, StoreError::Newer(_)));
        for part in ["the account 00000000-0000-0000-0000-000000000007", "version 4", "up to 3"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(matches!(read(0), Err(StoreError::Unreadable(_))));
        assert!(matches!(decode::<User>(RecordKind::User, "", 3, b"{"), Err(StoreError::Unreadable(_))));
        assert_eq!(encode_task(&task(1, 5)).unwrap().version, 1);
    }
}

//! How records look on disk: a version byte, then JSON; and how their keys sort.
//!
//! A version this program does not know is an error with advice. It must never be skipped or guessed
//! at: a revocation that is not understood is a revoked token that works.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::revocation::Kind;
use crate::domain::time::UnixTime;
use crate::ports::StoreError;

/// The layout this program writes.
const VERSION: u8 = 1;

/// A value as it is stored.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value)
        .map_err(|e| StoreError::Unavailable(format!("a record cannot be encoded: {e}")))?;
    Ok(bytes)
}

/// The value stored in `bytes`; `what` names the record to the reader of the error.
pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|e| {
            StoreError::Unreadable(format!(
                "{what} is damaged ({e}); restore the data directory from a backup"
            ))
        }),
        Some((other, _)) => Err(StoreError::Unreadable(format!(
            "{what} has record version {other} and this program knows only version {VERSION}; run the program that \
             wrote it, or restore a backup made by this one"
        ))),
        None => Err(StoreError::Unreadable(format!(
            "{what} is empty, without a version byte; restore the data directory from a backup"
        ))),
    }
}

/// The key of one entry: kind, the issuer behind its length, the name. The length keeps
/// ("a", "bc") and ("ab", "c") apart.
pub(super) fn entry_key((kind, issuer, name): (Kind, &str, &str)) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + issuer.len() + name.len());
    key.push(kind_byte(kind));
    key.extend_from_slice(&(issuer.len() as u64).to_be_bytes());
    key.extend_from_slice(issuer.as_bytes());
    key.extend_from_slice(name.as_bytes());
    key
}

/// `key` filed under a moment, so that a scan meets the earliest first.
pub(super) fn time_key(time: UnixTime, key: &[u8]) -> Vec<u8> {
    let mut filed = Vec::with_capacity(8 + key.len());
    filed.extend_from_slice(&time.0.to_be_bytes());
    filed.extend_from_slice(key);
    filed
}

/// The entry's key inside a [`time_key`].
pub(super) fn untimed(filed: &[u8]) -> Result<&[u8], StoreError> {
    filed.get(8..).ok_or_else(|| {
        StoreError::Unreadable("an index entry is too short; restore the data directory from a backup".into())
    })
}

/// The kind as stored, and as hashed in memory. Numbers are never given to another kind.
pub(super) fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Token => 1,
        Kind::Session => 2,
        Kind::SubjectVersion => 3,
        Kind::SubjectIssued => 4,
        Kind::Issuer => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_the_round_trip() {
        let bytes = encode(&7u64).unwrap();
        assert_eq!(bytes[0], VERSION);
        assert_eq!(decode::<u64>("x", &bytes).unwrap(), 7);
    }

    #[test]
    fn an_unknown_version_is_refused_with_advice() {
        let error = decode::<u64>("the version of ann", b"\x637").unwrap_err().to_string();
        assert!(
            error.contains("the version of ann") && error.contains("99") && error.contains("backup"),
            "{error}"
        );
        assert!(matches!(decode::<u64>("x", b""), Err(StoreError::Unreadable(_))));
        assert!(matches!(decode::<u64>("x", b"\x01{"), Err(StoreError::Unreadable(_))));
    }

    #[test]
    fn keys_do_not_run_into_each_other() {
        assert_ne!(entry_key((Kind::Token, "a", "bc")), entry_key((Kind::Token, "ab", "c")));
        assert_ne!(entry_key((Kind::Token, "a", "b")), entry_key((Kind::Session, "a", "b")));
    }

    #[test]
    fn times_sort_and_come_off_again() {
        assert!(time_key(UnixTime(255), b"z") < time_key(UnixTime(256), b"a"));
        assert_eq!(untimed(&time_key(UnixTime(3), b"key")).unwrap(), b"key");
        assert!(untimed(b"short").is_err());
    }
}

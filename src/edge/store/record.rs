//! How records look on disk: a version byte, then JSON, or postcard where there may be millions.
//!
//! A version this program does not know is an error with advice. It must never be skipped or guessed
//! at: a revocation that is not understood is a revoked token that works.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use palisade_core::domain::revocation::{Kind, Revocation, Target};
use palisade_core::domain::session::Session;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::StoreError;

/// The layout this program writes.
const VERSION: u8 = 1;

/// A value as it is stored.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value).map_err(cannot_be_encoded)?;
    Ok(bytes)
}

/// The value stored in `bytes`; `what` names the record to the reader of the error.
pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body(what, bytes)?).map_err(|e| damaged(what, e))
}

/// A session, behind the moment under which it is filed.
pub(super) fn encode_session(filed: UnixTime, session: &Session) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&filed.0.to_be_bytes());
    serde_json::to_writer(&mut bytes, session).map_err(cannot_be_encoded)?;
    Ok(bytes)
}

/// The session in `bytes`.
pub(super) fn decode_session(bytes: &[u8]) -> Result<Session, StoreError> {
    let (_, json) = split_session(bytes)?;
    serde_json::from_slice(json).map_err(|e| damaged("a session", e))
}

/// The moment under which the session in `bytes` is filed.
pub(super) fn session_filed(bytes: &[u8]) -> Result<UnixTime, StoreError> {
    split_session(bytes).map(|(filed, _)| filed)
}

fn split_session(bytes: &[u8]) -> Result<(UnixTime, &[u8]), StoreError> {
    let (filed, json) = body("a session", bytes)?
        .split_first_chunk()
        .ok_or_else(|| damaged("a session", "it is cut short"))?;
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
    let limit = match revocation.target {
        Target::Token { .. } | Target::Session { .. } => None,
        _ => Some(revocation.target.limit()),
    };
    let standing = Standing {
        expires_at: revocation.expires_at,
        created_at: revocation.created_at,
        limit,
        reason: revocation.reason.clone(),
    };
    postcard::to_extend(&standing, vec![VERSION]).map_err(cannot_be_encoded)
}

/// What `bytes` say of a revocation.
pub(super) fn decode_revocation(bytes: &[u8]) -> Result<Standing, StoreError> {
    let what = "a revocation";
    match postcard::take_from_bytes(body(what, bytes)?) {
        Ok((standing, [])) => Ok(standing),
        Ok(_) => Err(damaged(what, "it is too long")),
        Err(e) => Err(damaged(what, e)),
    }
}

impl Standing {
    /// The whole revocation, given what its key says.
    pub(super) fn of(self, (kind, issuer, name): (Kind, String, String)) -> Result<Revocation, StoreError> {
        let limit = self.limit.ok_or("it has no limit");
        let target = match kind {
            Kind::Token => Ok(Target::Token { issuer, jti: name }),
            Kind::Session => Ok(Target::Session { issuer, sid: name }),
            Kind::SubjectVersion => limit.map(|below| Target::SubjectVersion { issuer, sub: name, below }),
            Kind::SubjectIssued => {
                limit.map(|until| Target::SubjectIssued { issuer, sub: name, until: UnixTime(until) })
            }
            Kind::Issuer => limit.map(|until| Target::Issuer { issuer, until: UnixTime(until) }),
            Kind::Everybody => limit.map(|below| Target::Everybody { issuer, below }),
            Kind::SubjectSessions => limit.map(|below| Target::SubjectSessions { issuer, sub: name, below }),
            Kind::EverySession => limit.map(|below| Target::EverySession { issuer, below }),
        };
        Ok(Revocation {
            target: target.map_err(|why| damaged("a revocation", why))?,
            expires_at: self.expires_at,
            created_at: self.created_at,
            reason: self.reason,
        })
    }
}

/// What is behind the version byte.
fn body<'a>(what: &str, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((other, _)) => Err(StoreError::Unreadable(format!(
            "{what} has record version {other} and this program knows only version {VERSION}; run the program that \
             wrote it, or restore a backup made by this one"
        ))),
        None => Err(StoreError::Unreadable(format!(
            "{what} is empty, without a version byte; restore the data directory from a backup"
        ))),
    }
}

fn cannot_be_encoded(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("a record cannot be encoded: {error}"))
}

fn damaged(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Unreadable(format!("{what} is damaged ({why}); restore the data directory from a backup"))
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
        for bytes in [&b""[..], b"\x01", b"\x01{", b"\x02\0\0\0\0"] {
            assert!(matches!(decode::<u64>("x", bytes), Err(StoreError::Unreadable(_))), "{bytes:?}");
            assert!(matches!(decode_session(bytes), Err(StoreError::Unreadable(_))), "{bytes:?}");
            assert!(matches!(session_filed(bytes), Err(StoreError::Unreadable(_))), "{bytes:?}");
            assert!(matches!(decode_revocation(bytes), Err(StoreError::Unreadable(_))), "{bytes:?}");
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
            Target::Everybody { issuer: i, below: 1_795_000_000 },
        ];
        for target in targets {
            let (expires_at, created_at) = (UnixTime(1_800_000_000), UnixTime(1_790_000_000));
            let made = Revocation { target, expires_at, created_at, reason: None };
            let bytes = encode_revocation(&made).unwrap();
            assert!(bytes.len() <= 20, "{}", bytes.len());
            let (kind, issuer, name) = made.target.key();
            let key = (kind, issuer.to_owned(), name.to_owned());
            assert_eq!(decode_revocation(&bytes).unwrap().of(key).unwrap(), made);
            assert!(decode_revocation(&bytes[..bytes.len() - 1]).is_err());
            assert!(decode_revocation(&[&bytes[..], b"\0"].concat()).is_err());
        }
        let endless =
            Standing { expires_at: UnixTime(1), created_at: UnixTime(1), limit: None, reason: None };
        assert!(endless.of((Kind::Issuer, "i".into(), String::new())).is_err());
    }
}

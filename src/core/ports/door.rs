//! The only way from a plugin to the network, and the keys it must never see.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::SignError;
use crate::domain::time::UnixTime;

/// One request of a plugin's, credentials and all: nothing prints it.
pub struct DoorRequest {
    /// In upper case.
    pub method: &'static str,
    /// Absolute. May hold a secret in its query.
    pub url: SecretString,
    pub headers: Vec<(String, SecretString)>,
    pub body: Zeroizing<Vec<u8>>,
    /// How long it may take, answer and all.
    pub timeout: Duration,
    /// The largest answer that is taken, in bytes.
    pub max_bytes: usize,
}

/// Whatever was answered, tokens and all: nothing prints it.
pub struct DoorResponse {
    pub status: u16,
    /// Names in lower case; without fields that have a value that is not UTF-8.
    pub headers: Vec<(String, String)>,
    /// Without the compression that was not asked for, and as UTF-8 where its charset is known.
    pub body: Zeroizing<Vec<u8>>,
    /// How long the host asks to be left alone (RFC 9110 §10.2.3); bounded.
    pub retry_after: Option<Duration>,
}

/// Why there is no response. The texts hold no query, no header field and no body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DoorFault {
    /// Not a request that may be made.
    #[error("denied: {0}")]
    Denied(String),
    /// No whole answer in time.
    #[error("no whole answer in time")]
    Timeout,
    /// No connection, or one that broke.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The answer is larger than allowed.
    #[error("the answer is too large")]
    TooLarge,
}

/// A provider's door: it leads to the hosts that its operator listed, and nowhere else.
#[async_trait]
pub trait Door: Send + Sync {
    /// Makes the request: follows no redirects, keeps no cookies.
    ///
    /// # Errors
    /// [`DoorFault`].
    async fn send(&self, request: DoorRequest) -> Result<DoorResponse, DoorFault>;
}

/// A JWT by which a client authenticates itself (RFC 7523 §3).
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    /// As in RFC 7518 §3.1; `None`: the one that fits the key.
    pub algorithm: Option<String>,
    pub key_id: Option<String>,
    pub issuer: String,
    pub subject: String,
    pub audience: String,
    pub lifetime: Duration,
    /// Further claims; none may replace one of the above.
    pub claims: Map<String, Value>,
}

/// Signs with the private keys of clients.
pub trait Assertions: Send + Sync {
    /// The compact JWS, with `iat`, `exp` and a fresh `jti`.
    ///
    /// # Errors
    /// [`SignError`]: `key` is no PEM private key, or does not fit the algorithm.
    fn sign(&self, key: &SecretString, assertion: &Assertion, now: UnixTime) -> Result<String, SignError>;
}

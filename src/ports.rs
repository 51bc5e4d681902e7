//! Floor 2: what the use cases need from outside, in the domain's words.
//!
//! Each trait is a door; the rooms of `edge` stand behind them and never see each other. Nothing here
//! names a crate that talks to the outside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::domain::identity::Identity;
use crate::domain::revocation::{Revocation, Target};
use crate::domain::time::UnixTime;
use crate::domain::verdict::TokenFault;

/// The wall clock.
pub trait Clock: Send + Sync {
    /// Now, in whole seconds.
    fn now(&self) -> UnixTime;
}

/// A verified token as the cache keeps it: who it speaks for, and the last moment it was known not to
/// be revoked.
#[derive(Debug)]
pub struct Verified {
    /// Who the token speaks for.
    pub identity: Identity,
    cleared: AtomicU64,
}

impl Verified {
    /// A freshly verified token, not yet held against the revocation set.
    #[must_use]
    pub fn new(identity: Identity) -> Verified {
        Verified { identity, cleared: AtomicU64::new(0) }
    }

    /// Whether this token was found good when the revocation set was at `sequence` (never 0). While
    /// the set has not changed since, it need not be asked again.
    #[must_use]
    pub fn is_cleared_at(&self, sequence: u64) -> bool {
        self.cleared.load(Ordering::Relaxed) == sequence
    }

    /// Notes that this token was found good when the set was at `sequence`.
    pub fn clear_at(&self, sequence: u64) {
        self.cleared.store(sequence, Ordering::Relaxed);
    }
}

/// Decides whether a token is what it says.
#[async_trait]
pub trait Verifier: Send + Sync {
    /// Verifies a compact JWS as an access token. Never blocks and never does I/O.
    ///
    /// # Errors
    /// Why the token is not accepted.
    fn verify(&self, token: &str, now: UnixTime) -> Result<Arc<Verified>, TokenFault>;

    /// After [`TokenFault::UnknownKey`]: fetches the keys of the token's issuer when that issuer is
    /// known and was not asked within the last 10 s. True when verifying again is worthwhile.
    async fn learn_keys(&self, token: &str) -> bool;
}

/// What an access token of our own says beside the times and the issuer (RFC 9068 §2.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccessGrant {
    pub subject: String,
    pub email: Option<String>,
    pub email_verified: bool,
    pub session: Option<String>,
    pub version: u64,
    pub scopes: Vec<String>,
    /// Further claims; none may replace a registered one.
    pub extra: Map<String, Value>,
}

/// A token just signed.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The compact JWS.
    pub token: String,
    pub token_id: String,
    pub expires_at: UnixTime,
}

/// Signing failed: no usable key. The message never holds key material.
#[derive(Debug, thiserror::Error)]
#[error("signing failed: {0}")]
pub struct SignError(pub String);

/// Signs with our own active key.
pub trait Signer: Send + Sync {
    /// The issuer our tokens carry.
    fn issuer(&self) -> &str;

    /// Signs an access token that lives for `ttl` from `now`.
    ///
    /// # Errors
    /// [`SignError`] when there is no usable key.
    fn access_token(&self, grant: &AccessGrant, ttl: Duration, now: UnixTime) -> Result<Signed, SignError>;

    /// Signs a short assertion of `identity` for the upstream of `route` (`X-Auth-Assertion`), good
    /// for 60 seconds, with the route's name as audience.
    ///
    /// # Errors
    /// [`SignError`] when there is no usable key.
    fn assertion(&self, identity: &Identity, route: &str, now: UnixTime) -> Result<String, SignError>;
}

/// The revocation set as the request path asks it: in memory, complete, never blocking.
pub trait Revocations: Send + Sync {
    /// A number that grows with every revocation, at least 1; `None` until the whole set is in
    /// memory, and then no token can be trusted.
    fn sequence(&self) -> Option<u64>;

    /// Whether `identity`'s token is revoked. Only meaningful once [`Revocations::sequence`] answers.
    fn is_revoked(&self, identity: &Identity) -> bool;
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The write is not durable, and the caller must not act as if it were. Worth trying later.
    #[error("the store cannot write: {0}")]
    Unavailable(String),
    /// A record cannot be read: corrupt, or of a version this program does not know.
    #[error("the store holds a record that cannot be read: {0}")]
    Unreadable(String),
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub revocations: u64,
}

/// How the store is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether writes are acknowledged. Once false it stays so until a write succeeds again.
    pub writable: bool,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Durable state. Each call is atomic; what it acknowledged survives a kill and a power loss.
#[async_trait]
pub trait Store: Send + Sync {
    /// Records a revocation. An entry with the same key keeps the larger limit and the later expiry.
    /// Returns the entry as it now stands.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was promised.
    async fn revoke(&self, revocation: Revocation) -> Result<Revocation, StoreError>;

    /// Raises the token version of `sub` at `issuer` by one and revokes every token below it, in one
    /// step. The version itself never expires. Returns the new version.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was promised.
    async fn raise_version(
        &self,
        issuer: &str,
        sub: &str,
        created_at: UnixTime,
        expires_at: UnixTime,
        reason: Option<String>,
    ) -> Result<Revocation, StoreError>;

    /// The token version of `sub` at `issuer`; 0 when it was never raised.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError>;

    /// Calls `each` with every revocation that has not expired at `now`, in no order.
    ///
    /// # Errors
    /// [`StoreError`]; then the set is not complete and must not be used.
    async fn each_revocation(
        &self,
        now: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError>;

    /// At most `limit` revocations, newest first, for people.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError>;

    /// The entry that stands for `target`'s key, if any.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError>;

    /// Forgets what expired before `now`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError>;

    /// How the store is doing. Never blocks.
    fn status(&self) -> StoreStatus;
}

/// Why an outgoing request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL or the address behind it is not one we may call.
    #[error("{url}: {why}")]
    Forbidden { url: String, why: String },
    /// No usable answer: no connection, a bad status, too large, too slow.
    #[error("{url}: {why}")]
    Failed { url: String, why: String },
}

/// Outgoing HTTP.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The body of a `GET` that answered 200 with at most `max_bytes`. Follows no redirects.
    ///
    /// # Errors
    /// [`FetchError`].
    async fn get(&self, url: &str, max_bytes: usize) -> Result<Vec<u8>, FetchError>;
}

/// How one request ended, for the meters and the access log. Holds no query and no credential.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// The route's name; `None` when no route was found or it was ours to answer.
    pub route: Option<&'a str>,
    /// What was sent; 0 when the caller left first.
    pub status: u16,
    pub took: Duration,
    /// `allowed`, `native`, or the refusal's code.
    pub decision: &'static str,
    pub request_id: &'a str,
    pub method: &'a str,
    /// The Host as sent.
    pub host: &'a str,
    /// The path as sent, without the query.
    pub path: &'a str,
    /// Bytes of body sent to the client.
    pub bytes: u64,
    /// The verified caller.
    pub subject: Option<&'a str>,
    /// Who the request came from, trusted proxies left out.
    pub client: IpAddr,
    pub upstream: Option<SocketAddr>,
}

/// Where counts go. Implementations never block.
pub trait Meter: Send + Sync {
    /// One request ended.
    fn ended(&self, ended: &Ended<'_>);
    /// One look into the verified-token cache.
    fn token_cache(&self, hit: bool);
    /// A store call by name, with its duration and whether it succeeded.
    fn store_call(&self, call: &'static str, took: Duration, ok: bool);
    /// A key fetch for an issuer and whether it brought keys.
    fn jwks_fetch(&self, issuer: &str, ok: bool);
}

/// Where a signing key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, not yet signing.
    Next,
    /// Signing.
    Active,
    /// No longer signing, still verifying.
    Retired,
}

/// What may be told about a signing key: nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithm: String,
    pub state: KeyState,
    pub created_at: UnixTime,
    /// When it began to sign.
    pub activated_at: Option<UnixTime>,
    /// When it stopped signing; it verifies until the last token it signed has ended.
    pub retired_at: Option<UnixTime>,
}

/// Our own key ring.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Every key that verifies, the active one first.
    fn list(&self) -> Vec<KeyInfo>;

    /// The public keys as a JWK Set (RFC 7517 §5); empty for HS256.
    fn jwks(&self) -> Value;

    /// Makes the published next key sign, retires the active one and publishes a new next key. Durable
    /// when it returns.
    ///
    /// # Errors
    /// [`SignError`] when the ring is not managed by us or cannot be written; then nothing changed.
    async fn rotate(&self, now: UnixTime) -> Result<Vec<KeyInfo>, SignError>;
}

/// The gateway as its operator sees it.
#[async_trait]
pub trait Control: Send + Sync {
    /// Reads the configuration again and puts its routes, issuers and limits in force.
    ///
    /// # Errors
    /// What is wrong with it, one message each; the last good configuration stays in force.
    async fn reload(&self) -> Result<Vec<String>, Vec<String>>;

    /// What keeps the gateway from being ready; empty when it is.
    fn not_ready_because(&self) -> Vec<&'static str>;
}

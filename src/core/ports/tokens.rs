//! Tokens and keys, as the use cases need them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::StoreError;
use crate::domain::app_token::{AppTokenTerms, CallerDigest};
use crate::domain::claims::HOST_CLAIM;
use crate::domain::groups::Groups;
use crate::domain::identity::Identity;
use crate::domain::other_token::{OtherToken, TokenKind};
use crate::domain::time::UnixTime;
use crate::domain::trusted_time::ClockReading;
use crate::domain::username::Username;
use crate::domain::verdict::{Refusal, TokenFault};

/// A verified token as the cache keeps it: who it speaks for, and the last moment it was known not to
/// be revoked.
#[derive(Debug)]
pub struct Verified {
    /// The subject that the token was issued to.
    pub identity: Identity,
    /// [`HOST_CLAIM`]; a claim of that name in another form is a host that no request has.
    host: Option<Box<str>>,
    /// What tokens for apps say of it: made at the first request on a route that sends one.
    for_apps: OnceLock<Option<CallerDigest>>,
    kind: TokenKind,
    cleared: AtomicU64,
}

impl Verified {
    /// A freshly verified JWT, not yet held against the revocation set.
    #[must_use]
    pub fn new(identity: Identity) -> Verified {
        Verified::of(TokenKind::Jwt, identity)
    }

    /// A freshly verified token of this kind.
    #[must_use]
    pub fn of(kind: TokenKind, identity: Identity) -> Verified {
        let host = identity.claims.get(HOST_CLAIM).map(|host| host.as_str().unwrap_or_default().into());
        Verified { identity, host, for_apps: OnceLock::new(), kind, cleared: AtomicU64::new(0) }
    }

    /// By what kind of token the caller was verified.
    #[must_use]
    pub fn kind(&self) -> TokenKind {
        self.kind
    }

    /// Whether this token is good for requests to `host` ([`crate::domain::request::Host::name`]). One that names no host
    /// is good for all. Costs one load where it names none.
    #[must_use]
    #[inline]
    pub fn is_for(&self, host: &str) -> bool {
        self.host.as_deref().is_none_or(|own| own == host)
    }

    /// Whether this token is good for the routes of one host alone.
    #[must_use]
    pub fn is_for_one_host(&self) -> bool {
        self.host.is_some()
    }

    /// What a token for an app says of this caller; `None`: it gets none ([`CallerDigest::of`]). Costs one load from the
    /// second call on. `our_issuer`: always the same.
    #[must_use]
    pub fn for_apps(&self, our_issuer: &str) -> Option<CallerDigest> {
        *self.for_apps.get_or_init(|| CallerDigest::of(&self.identity, our_issuer))
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

/// Hears of access tokens of ours that were verified and not in the cache of verified tokens.
pub trait FirstVerified: Send + Sync {
    /// Notes that a token which says `identity` was found good. Called on the request path: never blocks and never does
    /// I/O.
    fn passed(&self, identity: &Identity);
}

/// Decides whether a token is what it says.
#[async_trait]
pub trait Verifier: Send + Sync {
    /// Verifies a compact JWS as an access token. Never blocks and never does I/O.
    ///
    /// # Errors
    /// Why the token is not accepted.
    fn verify(&self, token: &str, now: UnixTime) -> Result<Arc<Verified>, TokenFault>;

    /// After a fault for which keys may be missing ([`TokenFault::may_lack_keys`]): fetches the keys of the token's issuer
    /// when that issuer is known, may use the token's algorithm, and was not asked within the last 10 s. True when
    /// verifying again is worthwhile.
    async fn learn_keys(&self, token: &str) -> bool;

    /// Verifies a token of another kind, which [`Verifier::verify`] never takes. May wait: for a key of a load balancer,
    /// or for the issuer of an opaque token.
    ///
    /// # Errors
    /// [`Refusal::Token`], or [`Refusal::IssuerUnavailable`].
    async fn verify_other(
        &self,
        _token: &str,
        _kind: OtherToken<'_>,
        _now: UnixTime,
    ) -> Result<Arc<Verified>, Refusal> {
        Err(Refusal::Token(TokenFault::Issuer))
    }

    /// Whether tokens of this kind and issuer for this audience are still taken: a configuration that is read again may
    /// have dropped one of them since `caller` was verified.
    fn accepts(&self, caller: &Verified) -> bool;
}

/// Tells credentials of our own from those of others, before one is sent to another server.
#[async_trait]
pub trait OwnCredentials: Send + Sync {
    /// Whether `text` is, or has the form of, a credential that we handed out.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be told now.
    async fn is_ours(&self, text: &str) -> Result<bool, StoreError>;
}

/// What an access token of our own says beside the times and the issuer (RFC 9068 §2.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccessGrant {
    pub subject: String,
    pub email: Option<String>,
    pub email_verified: bool,
    /// The account's user name ([`crate::domain::claims::USERNAME_CLAIM`]).
    pub username: Option<Username>,
    /// [`crate::domain::claims::GROUPS_CLAIM`].
    pub groups: Groups,
    pub session: Option<String>,
    /// The subject's token version (`ver`).
    pub version: u64,
    /// The generation of all tokens (`gen`).
    pub generation: u64,
    pub scopes: Vec<String>,
    /// The one host whose routes it is good for ([`HOST_CLAIM`]); `None`: it is good wherever our tokens are.
    pub host: Option<String>,
    /// The place of the refresh token that it came with ([`crate::domain::claims::ROTATION_CLAIM`]).
    pub rotation: Option<u32>,
    /// Further claims. One that is the gateway's to set is not said ([`crate::domain::claims::is_reserved`]).
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

    /// The identity that such a token would say, without a token and so without an id of one (`jti`): of a session that
    /// travels in a cookie.
    ///
    /// # Errors
    /// [`SignError`] when no token of this grant would be accepted.
    fn identity(&self, grant: &AccessGrant, ttl: Duration, now: UnixTime) -> Result<Identity, SignError>;

    /// Signs a short assertion of `identity` for the upstream of `route` (`X-Auth-Assertion`), good
    /// for 60 seconds, with the route's name as audience.
    ///
    /// # Errors
    /// [`SignError`] when there is no usable key.
    fn assertion(&self, identity: &Identity, route: &str, now: UnixTime) -> Result<String, SignError>;

    /// Signs an access token for the server of an app, from `now` to `until`: what `identity` says, for the audience of
    /// `terms` ([`crate::domain::app_token::claims`]).
    ///
    /// # Errors
    /// [`SignError`] when there is no usable key.
    fn app_token(
        &self,
        identity: &Identity,
        terms: &AppTokenTerms,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<String, SignError>;
}

/// How far the revocation set can be relied on now. The number grows with every revocation and is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is not whole yet, so no token can be trusted.
    Loading,
    /// It is whole, and no revocation that was acknowledged is missing.
    Confirmed(u64),
    /// It was whole once, and the lease within which that was confirmed is over: a revocation may be missing.
    Stale(u64),
}

/// The revocation set as the request path asks it: in memory, never blocking.
pub trait Revocations: Send + Sync {
    /// How far the set can be relied on now. To be asked before the set: a revocation in between then makes what was
    /// found lapse.
    fn standing(&self) -> Standing;

    /// Whether it stands as [`Standing::Stale`]: asked between the parts of a body, so it is to cost one load where the
    /// set is believed for ever.
    fn is_stale(&self) -> bool {
        matches!(self.standing(), Standing::Stale(_))
    }

    /// Whether `identity`'s token is revoked. Only meaningful as far as [`Revocations::standing`] says.
    fn is_revoked(&self, identity: &Identity) -> bool;
}

/// The clocks of other issuers, as their tokens show them.
pub trait IssuerClocks: Send + Sync {
    /// How far the clock of `issuer` was lately seen ahead of ours, by the `iat` of its verified tokens; zero
    /// where no token showed that.
    fn ahead(&self, issuer: &str, now: UnixTime) -> Duration;
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
    async fn rotate(&self, now: ClockReading) -> Result<Vec<KeyInfo>, SignError>;
}

//! What can be revoked, and whether a revocation reaches an identity.

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::time::UnixTime;

/// What a revocation names. Every target lies inside one issuer: the same `jti` of two issuers is two
/// tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Target {
    /// One token, by its `jti`.
    Token { issuer: String, jti: String },
    /// Every token of one session, by `sid`.
    Session { issuer: String, sid: String },
    /// The tokens of one subject whose `ver` is lower than `below`, or that carry none.
    SubjectVersion { issuer: String, sub: String, below: u64 },
    /// The tokens of one subject whose `iat` is at or before `until`, or that carry none.
    SubjectIssued { issuer: String, sub: String, until: UnixTime },
    /// Every token of an issuer whose `iat` is at or before `until`, or that carries none.
    Issuer { issuer: String, until: UnixTime },
    /// Every token of an issuer whose generation (`gen`) is lower than `below`, or that carries none. Of our
    /// own issuer only, as no other writes that claim. Unlike a cutoff by `iat` it knows the order in which
    /// tokens were signed within one second, and does not depend on a clock.
    Everybody { issuer: String, below: u64 },
}

/// What a token of ours carries, so that a raise ends those signed before it and none signed after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Versions {
    /// `ver`: the subject's token version.
    pub subject: u64,
    /// `gen`: the generation of all of the issuer's tokens.
    pub everybody: u64,
}

/// The kind of a [`Target`]: with the issuer and the name it identifies one entry of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Token,
    Session,
    SubjectVersion,
    SubjectIssued,
    Issuer,
    Everybody,
}

impl Target {
    /// What identifies this target: two revocations with the same key are one entry whose limit is
    /// the larger of the two ([`Target::limit`]).
    #[must_use]
    pub fn key(&self) -> (Kind, &str, &str) {
        match self {
            Target::Token { issuer, jti } => (Kind::Token, issuer, jti),
            Target::Session { issuer, sid } => (Kind::Session, issuer, sid),
            Target::SubjectVersion { issuer, sub, .. } => (Kind::SubjectVersion, issuer, sub),
            Target::SubjectIssued { issuer, sub, .. } => (Kind::SubjectIssued, issuer, sub),
            Target::Issuer { issuer, .. } => (Kind::Issuer, issuer, ""),
            Target::Everybody { issuer, .. } => (Kind::Everybody, issuer, ""),
        }
    }

    /// How far the revocation reaches within its key: the floor of the version or generation, or the last
    /// `iat`; everything for a token or a session.
    #[must_use]
    pub fn limit(&self) -> u64 {
        match self {
            Target::Token { .. } | Target::Session { .. } => u64::MAX,
            Target::SubjectVersion { below, .. } | Target::Everybody { below, .. } => *below,
            Target::SubjectIssued { until, .. } | Target::Issuer { until, .. } => until.0,
        }
    }

    /// The same target with another limit; tokens and sessions have none to set.
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Target {
        match &mut self {
            Target::Token { .. } | Target::Session { .. } => {}
            Target::SubjectVersion { below, .. } | Target::Everybody { below, .. } => *below = limit,
            Target::SubjectIssued { until, .. } | Target::Issuer { until, .. } => *until = UnixTime(limit),
        }
        self
    }
}

/// A durable statement that some tokens are no longer good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// What is revoked.
    pub target: Target,
    /// When the last token this reaches has ended; the entry may be forgotten after it.
    pub expires_at: UnixTime,
    /// When it was made.
    pub created_at: UnixTime,
    /// Why, in the operator's words. Never shown to callers.
    pub reason: Option<String>,
}

/// The keys under which a revocation of `identity` would be found, each with the test that its limit
/// must pass. The whole question "is this token revoked?" is these at most six look-ups.
pub fn keys_of(identity: &Identity) -> impl Iterator<Item = (Kind, &str, &str)> {
    let issuer = &*identity.issuer;
    [
        identity.token_id.as_deref().map(|jti| (Kind::Token, issuer, jti)),
        identity.session.as_deref().map(|sid| (Kind::Session, issuer, sid)),
        Some((Kind::SubjectVersion, issuer, &*identity.subject)),
        Some((Kind::SubjectIssued, issuer, &*identity.subject)),
        Some((Kind::Issuer, issuer, "")),
        Some((Kind::Everybody, issuer, "")),
    ]
    .into_iter()
    .flatten()
}

/// Whether an entry of this kind and limit, found under a key of `identity`, ends its token.
#[must_use]
pub fn limit_reaches(kind: Kind, limit: u64, identity: &Identity) -> bool {
    match kind {
        Kind::Token | Kind::Session => true,
        Kind::SubjectVersion => identity.version.is_none_or(|version| version < limit),
        Kind::SubjectIssued | Kind::Issuer => identity.issued_at.0 <= limit,
        Kind::Everybody => identity.generation().is_none_or(|generation| generation < limit),
    }
}

//! Revocations: single tokens, sessions, and cutoffs of all that a subject or issuer signed so far. Decides whether
//! one reaches an identity.

use serde::{Deserialize, Serialize};

use uuid::Uuid;

use super::identity::Identity;
use super::session::Session;
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
    #[serde(rename = "everybody")]
    IssuerGeneration { issuer: String, below: u64 },
    /// The sessions of one subject that were begun at a version lower than `below`. It ends no token by itself:
    /// [`Target::SubjectVersion`] does that. Of our own issuer only.
    SubjectSessions { issuer: String, sub: String, below: u64 },
    /// Every session that was begun in a generation lower than `below`. It ends no token by itself:
    /// [`Target::IssuerGeneration`] does that. Of our own issuer only.
    EverySession { issuer: String, below: u64 },
}

/// What a token of ours carries, so that a raise ends those signed before it and none signed after it. A session
/// remembers those it was begun at, for the same reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// `ver`: the subject's token version.
    pub subject: u64,
    /// `gen`: the generation of all of the issuer's tokens.
    #[serde(rename = "everybody")]
    pub generation: u64,
}

/// The kind of a [`Target`]: with the issuer and the name it identifies one entry of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Token,
    Session,
    SubjectVersion,
    SubjectIssued,
    Issuer,
    IssuerGeneration,
    SubjectSessions,
    EverySession,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 8] = [
        Kind::Token,
        Kind::Session,
        Kind::SubjectVersion,
        Kind::SubjectIssued,
        Kind::Issuer,
        Kind::IssuerGeneration,
        Kind::SubjectSessions,
        Kind::EverySession,
    ];

    /// The kind as every store keeps it in the key of a revocation. A number is never given to another kind.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Kind::Token => 1,
            Kind::Session => 2,
            Kind::SubjectVersion => 3,
            Kind::SubjectIssued => 4,
            Kind::Issuer => 5,
            Kind::IssuerGeneration => 6,
            Kind::SubjectSessions => 7,
            Kind::EverySession => 8,
        }
    }

    /// The kind that is kept as `byte`, if it is known.
    #[must_use]
    pub fn of_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.to_byte() == byte)
    }

    /// Whether a revocation of this kind names one token or one session: it ends that, whatever its age, and has no limit.
    #[must_use]
    pub const fn is_single(self) -> bool {
        matches!(self, Kind::Token | Kind::Session)
    }
}

impl Target {
    /// What identifies this target: two revocations with the same key are one entry with the larger of the two limits
    /// ([`Target::limit`]).
    #[must_use]
    pub fn key(&self) -> (Kind, &str, &str) {
        match self {
            Target::Token { issuer, jti } => (Kind::Token, issuer, jti),
            Target::Session { issuer, sid } => (Kind::Session, issuer, sid),
            Target::SubjectVersion { issuer, sub, .. } => (Kind::SubjectVersion, issuer, sub),
            Target::SubjectIssued { issuer, sub, .. } => (Kind::SubjectIssued, issuer, sub),
            Target::Issuer { issuer, .. } => (Kind::Issuer, issuer, ""),
            Target::IssuerGeneration { issuer, .. } => (Kind::IssuerGeneration, issuer, ""),
            Target::SubjectSessions { issuer, sub, .. } => (Kind::SubjectSessions, issuer, sub),
            Target::EverySession { issuer, .. } => (Kind::EverySession, issuer, ""),
        }
    }

    /// The target with this key and this limit, which tokens and sessions have none of ([`Target::key`],
    /// [`Target::limit`]).
    #[must_use]
    pub fn of_key((kind, issuer, name): (Kind, String, String), limit: u64) -> Target {
        match kind {
            Kind::Token => Target::Token { issuer, jti: name },
            Kind::Session => Target::Session { issuer, sid: name },
            Kind::SubjectVersion => Target::SubjectVersion { issuer, sub: name, below: limit },
            Kind::SubjectIssued => Target::SubjectIssued { issuer, sub: name, until: UnixTime(limit) },
            Kind::Issuer => Target::Issuer { issuer, until: UnixTime(limit) },
            Kind::IssuerGeneration => Target::IssuerGeneration { issuer, below: limit },
            Kind::SubjectSessions => Target::SubjectSessions { issuer, sub: name, below: limit },
            Kind::EverySession => Target::EverySession { issuer, below: limit },
        }
    }

    /// How far the revocation reaches within its key: the floor of the version or generation, or the last
    /// `iat`; everything for a token or a session.
    #[must_use]
    pub fn limit(&self) -> u64 {
        match self {
            Target::Token { .. } | Target::Session { .. } => u64::MAX,
            Target::SubjectVersion { below, .. }
            | Target::IssuerGeneration { below, .. }
            | Target::SubjectSessions { below, .. }
            | Target::EverySession { below, .. } => *below,
            Target::SubjectIssued { until, .. } | Target::Issuer { until, .. } => until.0,
        }
    }

    /// The same target with another limit; tokens and sessions have none to set.
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Target {
        match &mut self {
            Target::Token { .. } | Target::Session { .. } => {}
            Target::SubjectVersion { below, .. }
            | Target::IssuerGeneration { below, .. }
            | Target::SubjectSessions { below, .. }
            | Target::EverySession { below, .. } => *below = limit,
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
        Some((Kind::IssuerGeneration, issuer, "")),
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
        Kind::IssuerGeneration => identity.generation().is_none_or(|generation| generation < limit),
        // Never looked up for a token: see `keys_of`.
        Kind::SubjectSessions | Kind::EverySession => false,
    }
}

/// What was begun for a subject of ours and brings tokens later: a session, or a consent that waits for its
/// callback. A revocation reaches it when it was begun before that, however long ago the revocation was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun<'a> {
    pub issuer: &'a str,
    /// The subject: the id of its account.
    pub user: Uuid,
    /// The session itself, or the one in which it was begun.
    pub session: Option<Uuid>,
    /// As read before it was begun.
    pub versions: Versions,
    pub at: UnixTime,
}

impl<'a> Begun<'a> {
    /// The beginning of a session of `issuer`, which is our own.
    #[must_use]
    pub fn session(session: &Session, issuer: &'a str) -> Begun<'a> {
        let (user, id) = (session.user.0, session.id.0);
        Begun { issuer, user, session: Some(id), versions: session.begun, at: session.created_at }
    }

    /// The revocations that may reach it, with any limit: their keys are what to look up.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let issuer = || self.issuer.to_owned();
        let session = self.session.map(|id| Target::Session { issuer: issuer(), sid: id.to_string() });
        [
            session,
            Some(Target::SubjectSessions { issuer: issuer(), sub: self.user.to_string(), below: 0 }),
            Some(Target::EverySession { issuer: issuer(), below: 0 }),
            Some(Target::Issuer { issuer: issuer(), until: UnixTime(0) }),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether `target`, found under a key of [`Begun::targets`], ends it.
    #[must_use]
    pub fn is_reached_by(&self, target: &Target) -> bool {
        match target {
            Target::Session { .. } => true,
            Target::SubjectSessions { below, .. } => self.versions.subject < *below,
            Target::EverySession { below, .. } => self.versions.generation < *below,
            Target::Issuer { until, .. } => self.at <= *until,
            Target::Token { .. }
            | Target::SubjectVersion { .. }
            | Target::SubjectIssued { .. }
            | Target::IssuerGeneration { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_before_a_revocation_is_reached_and_what_came_after_is_not() {
        let versions = Versions { subject: 3, generation: 1000 };
        let id = |n| Uuid::from_u128(n);
        let begun = Begun { issuer: "i", user: id(1), session: Some(id(2)), versions, at: UnixTime(1500) };
        let named: Vec<_> = begun.targets().collect();
        let kinds: Vec<_> = named.iter().map(|target| target.key().0).collect();
        let expected = [Kind::Session, Kind::SubjectSessions, Kind::EverySession, Kind::Issuer];
        assert_eq!(kinds, expected);
        assert!(begun.is_reached_by(&named[0]));
        for (at, beyond) in [(1, 3), (2, 1000), (3, 1499)] {
            assert!(!begun.is_reached_by(&named[at].clone().with_limit(beyond)), "{:?}", named[at]);
            assert!(begun.is_reached_by(&named[at].clone().with_limit(beyond + 1)), "{:?}", named[at]);
        }
        assert_eq!(Begun { session: None, ..begun }.targets().count(), 3);
        let raised = Target::SubjectVersion { issuer: "i".into(), sub: id(1).to_string(), below: 9 };
        assert!(!begun.is_reached_by(&raised), "a raise of the version alone lets sessions go on");
    }
}

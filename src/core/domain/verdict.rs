//! Every way a request can be turned away, and the words for it.
//!
//! One exhaustive enum: [`super::answer`] maps it to HTTP in one place, the metrics take their
//! label from [`Refusal::code`], and nothing else decides what a caller is told.

use std::time::Duration;

use super::destination::DestinationFault;
use super::identity_fields::IdentityFault;
use super::request::Malformed;

/// Why a token was not accepted. All of them are 401 `invalid_token` outside; the word is for logs,
/// metrics and `palisade token verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenFault {
    /// Not three base64url parts, not JSON, not an object.
    #[error("not a well-formed signed token")]
    Malformed,
    /// Longer than `tokens.max_bytes`.
    #[error("longer than a token may be")]
    TooLong,
    /// Five parts: an encrypted token (RFC 7516), which nothing here decrypts.
    #[error("encrypted tokens are not accepted")]
    Encrypted,
    /// A name occurs twice in the header or the claims.
    #[error("a name occurs twice")]
    DuplicateName,
    /// `alg` is `none`, unknown, or not one the issuer may use.
    #[error("algorithm not accepted for this issuer")]
    Algorithm,
    /// `typ` names another kind of token.
    #[error("not an access token by its typ")]
    Type,
    /// `crit` lists an extension (RFC 7515 §4.1.11); none is understood here.
    #[error("critical header extension not understood")]
    Critical,
    /// The header brings its own key: `jwk`, `jku`, `x5u`, `x5c`.
    #[error("the header brings its own key")]
    EmbeddedKey,
    /// No key of the issuer has this `kid`.
    #[error("no key of this issuer has this kid")]
    UnknownKey,
    /// The signature does not match.
    #[error("bad signature")]
    Signature,
    /// `iss` is missing, of the wrong type, or names an issuer that is not accepted (at all, or on this route).
    #[error("issuer not accepted")]
    Issuer,
    /// `aud` is missing, of the wrong type, or names another audience.
    #[error("audience not accepted")]
    Audience,
    /// `sub` is missing, empty, of the wrong type or holds control characters.
    #[error("subject not accepted")]
    Subject,
    /// A claim has a type or a value that its definition forbids.
    #[error("a claim is malformed")]
    Claim,
    /// `exp` is missing.
    #[error("no expiry")]
    NoExpiry,
    /// `exp` has passed.
    #[error("expired")]
    Expired,
    /// `nbf` or `iat` lies ahead.
    #[error("not valid yet")]
    NotYet,
    /// `type` says it is a refresh, mailed or other token.
    #[error("not an access token by its type claim")]
    Use,
    /// Its issuer, asked about it, says that it is not active (RFC 7662 §2.2).
    #[error("not active, as its issuer says")]
    Inactive,
    /// `cnf` (RFC 7800) binds it to a key or a certificate, which nothing here can check.
    #[error("bound to a key (cnf), which is not checked here")]
    Bound,
}

impl TokenFault {
    /// Whether nothing can make this token good again: no reload, no key that is still to be fetched, no
    /// later moment, and no other route.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            TokenFault::Malformed
            | TokenFault::Encrypted
            | TokenFault::DuplicateName
            | TokenFault::Type
            | TokenFault::Critical
            | TokenFault::EmbeddedKey
            | TokenFault::Subject
            | TokenFault::Claim
            | TokenFault::NoExpiry
            | TokenFault::Expired
            | TokenFault::Use => true,
            TokenFault::TooLong
            | TokenFault::Algorithm
            | TokenFault::UnknownKey
            // The issuer may have replaced the key under its old name.
            | TokenFault::Signature
            | TokenFault::Issuer
            | TokenFault::Audience
            | TokenFault::Bound
            | TokenFault::Inactive
            | TokenFault::NotYet => false,
        }
    }

    /// Whether a key that the issuer published since may verify the token: one of another name, or one that it put in the
    /// place of the key that is known by this name.
    #[must_use]
    pub const fn may_lack_keys(self) -> bool {
        matches!(self, TokenFault::UnknownKey | TokenFault::Signature | TokenFault::Algorithm)
    }

    /// The stable word for logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            TokenFault::Malformed => "token_malformed",
            TokenFault::TooLong => "token_too_long",
            TokenFault::Encrypted => "token_encrypted",
            TokenFault::DuplicateName => "token_duplicate_name",
            TokenFault::Algorithm => "token_algorithm",
            TokenFault::Type => "token_type",
            TokenFault::Critical => "token_crit",
            TokenFault::EmbeddedKey => "token_embedded_key",
            TokenFault::UnknownKey => "token_unknown_key",
            TokenFault::Signature => "token_signature",
            TokenFault::Issuer => "token_issuer",
            TokenFault::Audience => "token_audience",
            TokenFault::Subject => "token_subject",
            TokenFault::Claim => "token_claim",
            TokenFault::NoExpiry => "token_no_expiry",
            TokenFault::Expired => "token_expired",
            TokenFault::NotYet => "token_not_yet",
            TokenFault::Use => "token_use",
            TokenFault::Inactive => "token_inactive",
            TokenFault::Bound => "token_bound",
        }
    }
}

/// Why a request was turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request is not one that two parties would read the same way: 400.
    Malformed(Malformed),
    /// The header section is larger than allowed or has too many fields: 431.
    HeaderTooLarge,
    /// The request has passed this gateway already: 508.
    Loop,
    /// No route for this host and path: 404.
    NoRoute,
    /// The route exists, but not for clients of this network, or the client's address is not known: 403.
    Network,
    /// The route exists, but not for this method: 405, with what it allows.
    Method {
        /// The methods the matching routes take, for `Allow`.
        allow: Vec<String>,
    },
    /// The second target of COPY or MOVE cannot be used: 400 or 403.
    Destination(DestinationFault),
    /// More than one credential, or one that is not in its scheme's form: 400 `invalid_request`.
    Credentials,
    /// A token is required and none was sent: 401, challenge without an error (RFC 6750 §3.1).
    NoToken,
    /// A token was sent and is not good: 401 `invalid_token`.
    Token(TokenFault),
    /// The issuer of an opaque token cannot be asked about it at the moment: 503. That says nothing against the token.
    IssuerUnavailable {
        /// When to retry (`Retry-After`).
        retry_after: Duration,
    },
    /// The token was good and has been revoked: 401 `invalid_token`.
    Revoked,
    /// The session of a session cookie is over: 401. It cannot be good again.
    SessionOver,
    /// A session cookie was sent, and the store does not answer: 503. That says nothing against the session.
    SessionUnknown,
    /// A scope is missing: 403 `insufficient_scope` with the scopes that would do.
    Scope {
        /// What the route asks for.
        needed: Vec<String>,
    },
    /// The route wants a verified e-mail address: 403.
    EmailUnverified,
    /// A claim has not the value the route asks for: 403. Which one is not told.
    Claim,
    /// The route's app cannot be told who the caller is, in the way that the route tells it: 403.
    Identity(IdentityFault),
    /// A browser sent the token's cookie on behalf of another site: 403.
    CrossSite,
    /// The revocation set is not loaded, so no token can be trusted yet: 503.
    NotReady,
    /// It is not known whether the credential was revoked, since the lease of the revocation set is over: 503. That says
    /// nothing against the credential.
    Stale,
    /// The process holds all the work that it can: 503.
    Overloaded,
    /// The route sends a provider's token upstream, and the caller has no connection to that provider: 403.
    NotConnected {
        /// The provider's name in the configuration.
        provider: String,
        /// The path at which connections are begun.
        begin_at: String,
    },
    /// The caller has a connection to the provider, which must be renewed by consent: 403.
    ReconnectNeeded {
        /// The provider's name in the configuration.
        provider: String,
        /// The path at which connections are begun.
        begin_at: String,
    },
    /// There is no token of the provider at the moment: 503.
    ProviderUnavailable {
        /// The provider's name in the configuration.
        provider: String,
        /// When to retry (`Retry-After`), where that is known.
        retry_after: Option<Duration>,
    },
    /// There is no token of the provider before an operator has acted: 502.
    ProviderFailed {
        /// The provider's name in the configuration.
        provider: String,
    },
}

impl Refusal {
    /// The stable word for logs, metrics and the `code` of problem documents.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Refusal::Malformed(malformed) => malformed.code(),
            Refusal::HeaderTooLarge => "header_too_large",
            Refusal::Loop => "loop_detected",
            Refusal::NoRoute => "no_route",
            Refusal::Network => "network",
            Refusal::Method { .. } => "method_not_allowed",
            Refusal::Destination(fault) => fault.code(),
            Refusal::Credentials => "credentials_ambiguous",
            Refusal::NoToken => "token_missing",
            Refusal::Token(fault) => fault.code(),
            Refusal::IssuerUnavailable { .. } => "issuer_unavailable",
            Refusal::Revoked => "token_revoked",
            Refusal::SessionOver => "session_over",
            Refusal::SessionUnknown => "store_unavailable",
            Refusal::Scope { .. } => "insufficient_scope",
            Refusal::EmailUnverified => "email_unverified",
            Refusal::Claim => "claim_not_accepted",
            Refusal::Identity(fault) => fault.code(),
            Refusal::CrossSite => "cross_site",
            Refusal::NotReady => "not_ready",
            Refusal::Stale => "revocations_stale",
            Refusal::Overloaded => "overloaded",
            Refusal::NotConnected { .. } => "connection_required",
            Refusal::ReconnectNeeded { .. } => "reconnect_needed",
            Refusal::ProviderUnavailable { .. } => "provider_unavailable",
            Refusal::ProviderFailed { .. } => "provider_failed",
        }
    }
}

//! The identity of a caller, as a verified token says it.
//!
//! An [`Identity`] exists only after a signature, an issuer, an audience and the times were checked (`edge::jwt`), so
//! code that holds one need not check again. Its text fields are free of control characters: they go into header
//! lines.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::claim_path::ClaimPath;
use super::claims::USERNAME_CLAIM;
use super::time::UnixTime;

/// The subject of a verified access token, with the claims that policy may ask about.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// `iss`: who signed. Compared byte for byte, never normalised (RFC 7519 §4.1.1).
    pub issuer: Arc<str>,
    /// `sub`: never empty.
    pub subject: String,
    /// `email`, when the issuer states one.
    pub email: Option<String>,
    /// Whether [`Identity::email`] is known to be the caller's: the issuer says so (`email_verified`), or
    /// says nothing and the operator trusts its addresses (`[[issuers]] email = "trusted"`).
    pub email_verified: bool,
    /// `sid`: the session this token belongs to.
    pub session: Option<String>,
    /// `jti`: this very token.
    pub token_id: Option<String>,
    /// `ver`: the subject's token version when it was signed.
    pub version: Option<u64>,
    /// `scope` (RFC 8693 §4.2) or `scp`, split at spaces.
    pub scopes: Vec<String>,
    /// `iat`; the epoch when the token has none, so that every cutoff reaches it.
    pub issued_at: UnixTime,
    /// `exp`: the first second at which the token is no longer good, leeway not included.
    pub expires_at: UnixTime,
    /// Every claim as signed, for `require.claims`.
    pub claims: Map<String, Value>,
}

impl Identity {
    /// The caller's e-mail address, when it is known to be theirs ([`Identity::email_verified`]).
    #[must_use]
    #[inline]
    pub fn verified_email(&self) -> Option<&str> {
        self.email.as_deref().filter(|email| self.email_verified && !email.is_empty())
    }

    /// What to call the caller on a page: by the address, or else the user name, or else the subject.
    #[must_use]
    pub fn called(&self) -> &str {
        let username = self.claims.get(USERNAME_CLAIM).and_then(Value::as_str);
        self.email.as_deref().or(username).unwrap_or(&self.subject)
    }

    /// `gen`: the generation of our own tokens that this one belongs to.
    #[must_use]
    #[inline]
    pub fn generation(&self) -> Option<u64> {
        self.claims.get("gen").and_then(Value::as_u64)
    }

    /// Whether the claim at `path` holds one of `wanted`. An array claim holds each of its elements;
    /// numbers and booleans compare by their JSON text. Objects and null hold nothing.
    #[must_use]
    pub fn claim_holds(&self, path: &ClaimPath, wanted: &[String]) -> bool {
        fn holds(value: &Value, wanted: &[String]) -> bool {
            match value {
                Value::String(text) => wanted.iter().any(|w| w == text),
                Value::Number(number) => wanted.contains(&number.to_string()),
                Value::Bool(flag) => wanted.iter().any(|w| w == if *flag { "true" } else { "false" }),
                Value::Array(items) => items.iter().any(|item| holds(item, wanted)),
                Value::Null | Value::Object(_) => false,
            }
        }
        path.find(&self.claims).is_some_and(|value| holds(value, wanted))
    }

    /// Whether every scope in `wanted` was granted.
    #[must_use]
    #[inline]
    pub fn has_scopes(&self, wanted: &[String]) -> bool {
        wanted.iter().all(|scope| self.scopes.contains(scope))
    }
}

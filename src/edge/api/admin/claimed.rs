//! Reading the payload of a token that is to be revoked, **without trusting it**.
//!
//! No signature is checked, on purpose: an operator may name any `jti`, so a forged payload gains nothing. Never use
//! this to decide who a caller is.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use palisade_core::domain::time::UnixTime;

/// A code and its message, which names the cure and never repeats the token.
pub(super) type Refused = (&'static str, &'static str);

pub(super) const MALFORMED: Refused =
    ("token_malformed", "`token` is not a compact JWS: three parts joined by dots");
pub(super) const WITHOUT_ID: Refused = (
    "token_without_id",
    "this token has no `jti`, so it cannot be named alone; revoke its session with `sid`, its \
     subject with `sub`, or everything its issuer signed until a moment with `before`",
);

/// What a revocation needs from a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    pub issuer: Option<String>,
    pub jti: String,
    pub expires_at: Option<UnixTime>,
    pub subject: Option<String>,
    pub session: Option<String>,
}

/// Reads `iss`, `jti`, `exp`, `sub` and `sid`.
///
/// # Errors
/// [`MALFORMED`] or [`WITHOUT_ID`].
pub(super) fn read(token: &str) -> Result<Claimed, Refused> {
    let parts: Vec<&str> = token.trim().split('.').collect();
    let [_, payload, _] = parts[..] else { return Err(MALFORMED) };
    let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| MALFORMED)?;
    let claims: Value = serde_json::from_slice(&bytes).map_err(|_| MALFORMED)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(jti) = text("jti") else {
        return Err(WITHOUT_ID);
    };
    // A fractional `exp` ends within its second, so the next whole one is the safe reading. The cast
    // saturates.
    let expires_at =
        claims.get("exp").and_then(Value::as_f64).filter(|exp| *exp >= 0.0).map(|exp| exp.ceil() as u64);
    Ok(Claimed {
        issuer: text("iss").map(str::to_owned),
        jti: jti.to_owned(),
        expires_at: expires_at.map(UnixTime),
        subject: text("sub").map(str::to_owned),
        session: text("sid").map(str::to_owned),
    })
}

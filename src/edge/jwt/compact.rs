//! The strict reading of a compact JWS (RFC 7515 §7.1) and of its header.
//!
//! Everything here is decided before any key is looked up, and nothing here trusts the token: a header
//! can make us refuse, never make us fetch or accept.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use crate::config::Algorithm;
use palisade_core::domain::credential::MOST_TOKEN_BYTES;
use palisade_core::domain::verdict::TokenFault;

/// The longest header, in bytes as sent. It is read whole before any key is looked up.
const MAX_HEADER: usize = 8 * 1024;

/// What a header may say about key and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `alg` (RFC 7515 §4.1.1).
    pub algorithm: Algorithm,
    /// `kid` (RFC 7515 §4.1.4).
    pub key_id: Option<String>,
    /// `x5t` (RFC 7515 §4.1.7): names a key where there is no `kid`, as some issuers have it.
    pub thumbprint: Option<String>,
    /// `typ` is `at+jwt` (RFC 9068 §2.1), the mark of an access token.
    pub access_typed: bool,
}

/// A token taken apart; nothing about it is verified.
#[derive(Debug)]
pub struct Compact<'a> {
    pub header: Header,
    /// The decoded payload.
    pub payload: Vec<u8>,
    /// What the signature covers: header and payload as sent (RFC 7515 §5.2).
    pub signed: &'a str,
    /// The signature as sent; base64url for certain.
    pub signature: &'a str,
}

impl<'a> Compact<'a> {
    /// Takes `token` apart and holds its header against every rule.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn read(token: &'a str) -> Result<Compact<'a>, TokenFault> {
        if token.len() > MOST_TOKEN_BYTES {
            return Err(TokenFault::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::Malformed);
        };
        match parts.count() {
            0 => {}
            2 => return Err(TokenFault::Encrypted),
            _ => return Err(TokenFault::Malformed),
        }
        if header.len() > MAX_HEADER {
            return Err(TokenFault::TooLong);
        }
        let header_bytes = decode(header)?;
        let payload_bytes = decode(payload)?;
        decode(signature)?;
        Ok(Compact {
            header: read_header(&json::object(&header_bytes)?)?,
            payload: payload_bytes,
            signed: &token[..header.len() + 1 + payload.len()],
            signature,
        })
    }

    /// `iss`, before the signature was checked: only a hint where to look for the key. Costs one pass over the payload and
    /// keeps nothing of the rest, so a long token with a bad signature is refused about as fast as a short one.
    ///
    /// # Errors
    /// [`TokenFault::Issuer`] where it is no text or not there, [`TokenFault::Malformed`] where the payload is no JSON
    /// object, and [`TokenFault::DuplicateName`] where it is there twice.
    pub fn issuer(&self) -> Result<Cow<'_, str>, TokenFault> {
        json::text_member(&self.payload, "iss")
    }

    /// The payload as a claims set (RFC 7519 §4).
    ///
    /// # Errors
    /// [`TokenFault::Malformed`] or [`TokenFault::DuplicateName`].
    pub fn claims(&self) -> Result<Map<String, Value>, TokenFault> {
        json::object(&self.payload)
    }
}

/// Base64url without padding, blanks or spare bits (RFC 7515 §2).
fn decode(part: &str) -> Result<Vec<u8>, TokenFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed)
}

pub(super) fn read_header(header: &Map<String, Value>) -> Result<Header, TokenFault> {
    if header.contains_key("crit") {
        return Err(TokenFault::Critical);
    }
    if ["jwk", "jku", "x5u", "x5c"].iter().any(|name| header.contains_key(*name)) {
        return Err(TokenFault::EmbeddedKey);
    }
    // RFC 7515 §4.1.1: names are case-sensitive, so `None` and `nOnE` are as unknown as `none`.
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => algorithm(name).ok_or(TokenFault::Algorithm)?,
        _ => return Err(TokenFault::Algorithm),
    };
    // RFC 7515 §4.1.9: a media type without a slash stands for `application/…`, case-insensitive.
    let access_typed = match header.get("typ") {
        None => false,
        Some(Value::String(typ)) if typ.eq_ignore_ascii_case("JWT") => false,
        Some(Value::String(typ))
            if typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("application/at+jwt") =>
        {
            true
        }
        Some(_) => return Err(TokenFault::Type),
    };
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(TokenFault::Malformed),
    };
    // A hint like `kid`; what is no text hints at nothing.
    let thumbprint = header.get("x5t").and_then(Value::as_str).map(str::to_owned);
    Ok(Header { algorithm, key_id, thumbprint, access_typed })
}

/// The algorithm a JOSE name stands for (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2).
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "EdDSA" | "Ed25519" => Some(Algorithm::EdDsa),
        "ES256" => Some(Algorithm::Es256),
        "ES384" => Some(Algorithm::Es384),
        "ES512" => Some(Algorithm::Es512),
        "RS256" => Some(Algorithm::Rs256),
        "RS384" => Some(Algorithm::Rs384),
        "RS512" => Some(Algorithm::Rs512),
        "PS256" => Some(Algorithm::Ps256),
        "PS384" => Some(Algorithm::Ps384),
        "PS512" => Some(Algorithm::Ps512),
        "HS256" => Some(Algorithm::Hs256),
        _ => None,
    }
}

/// The JOSE name we write.
#[must_use]
pub const fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::EdDsa => "EdDSA",
        Algorithm::Es256 => "ES256",
        Algorithm::Es384 => "ES384",
        Algorithm::Es512 => "ES512",
        Algorithm::Rs256 => "RS256",
        Algorithm::Rs384 => "RS384",
        Algorithm::Rs512 => "RS512",
        Algorithm::Ps256 => "PS256",
        Algorithm::Ps384 => "PS384",
        Algorithm::Ps512 => "PS512",
        Algorithm::Hs256 => "HS256",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(header: &str) -> Option<TokenFault> {
        let token = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"));
        Compact::read(&token).err()
    }

    #[test]
    fn headers_are_judged_before_any_key() {
        for (header, want) in [
            (r#"{"alg":"EdDSA"}"#, None),
            (r#"{"alg":"EdDSA","typ":"jwt","kid":"../../etc/passwd"}"#, None),
            (r#"{"alg":"EdDSA","typ":"Application/AT+JWT"}"#, None),
            (r#"{"alg":"none"}"#, Some(TokenFault::Algorithm)),
            (r#"{"alg":"None"}"#, Some(TokenFault::Algorithm)),
            (r#"{"alg":"nOnE"}"#, Some(TokenFault::Algorithm)),
            (r#"{"alg":""}"#, Some(TokenFault::Algorithm)),
            (r#"{"alg":["EdDSA"]}"#, Some(TokenFault::Algorithm)),
            (r#"{"alg":null}"#, Some(TokenFault::Algorithm)),
            ("{}", Some(TokenFault::Algorithm)),
            (r#"{"alg":"EdDSA","crit":[]}"#, Some(TokenFault::Critical)),
            (r#"{"alg":"EdDSA","crit":["exp"],"exp":1}"#, Some(TokenFault::Critical)),
            (r#"{"alg":"EdDSA","jwk":{}}"#, Some(TokenFault::EmbeddedKey)),
            (r#"{"alg":"EdDSA","jku":"https://evil.test/"}"#, Some(TokenFault::EmbeddedKey)),
            (r#"{"alg":"EdDSA","x5u":"https://evil.test/"}"#, Some(TokenFault::EmbeddedKey)),
            (r#"{"alg":"EdDSA","x5c":[]}"#, Some(TokenFault::EmbeddedKey)),
            (r#"{"alg":"EdDSA","typ":"logout+jwt"}"#, Some(TokenFault::Type)),
            (r#"{"alg":"EdDSA","typ":1}"#, Some(TokenFault::Type)),
            (r#"{"alg":"EdDSA","kid":7}"#, Some(TokenFault::Malformed)),
            (r#"{"alg":"none","alg":"EdDSA"}"#, Some(TokenFault::DuplicateName)),
            (r#"["EdDSA"]"#, Some(TokenFault::Malformed)),
        ] {
            assert_eq!(fault(header), want, "{header}");
        }
    }

    #[test]
    fn only_three_strict_parts_are_a_token() {
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#);
        for (token, want) in [
            (format!("{head}.e30.AAAA"), None),
            (format!("{head}.e30."), None), // An empty signature has the form; the key decides.
            (format!("{head}.e30"), Some(TokenFault::Malformed)),
            (format!("{head}.e30.AA.AA"), Some(TokenFault::Malformed)),
            (format!("{head}.AA.AA.AA.AA"), Some(TokenFault::Encrypted)),
            (format!("{head}.e30.AA=="), Some(TokenFault::Malformed)),
            (format!("{head}.e30.A+/A"), Some(TokenFault::Malformed)),
            (format!("{head}.e30.AB"), Some(TokenFault::Malformed)), // Spare bits set.
            (format!("{head}.e3 0.AAAA"), Some(TokenFault::Malformed)),
            (format!("{head}.e30.\u{e9}"), Some(TokenFault::Malformed)),
            ("..".into(), Some(TokenFault::Malformed)),
            (String::new(), Some(TokenFault::Malformed)),
            ("a".repeat(MOST_TOKEN_BYTES + 1), Some(TokenFault::TooLong)),
            (format!("{}.e30.AAAA", "a".repeat(MAX_HEADER + 1)), Some(TokenFault::TooLong)),
            (format!("{head}.{}.AAAA", URL_SAFE_NO_PAD.encode("x".repeat(20_000))), None),
            ("a.".repeat(512 * 1024), Some(TokenFault::TooLong)),
        ] {
            let shown = &token[..token.len().min(60)];
            assert_eq!(Compact::read(&token).err(), want, "{shown}");
        }
    }
}

//! The claims of an ID token (OpenID Connect Core 1.0 §2), without its signature.
//!
//! Good only for a token that came straight from the token endpoint over TLS, where the connection vouches
//! for it (OpenID Connect Core 1.0 §3.1.3.7, 6). Never use it on a token that a browser or a caller brought.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::Failure;

/// The claims of `token`.
///
/// # Errors
/// [`Failure::ProviderError`] when it is no signed JWT (RFC 7519) in compact form.
pub fn claims(token: &str) -> Result<Value, Failure> {
    let broken = || Failure::provider_error("the ID token is not a JWT");
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(broken());
    };
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|_| broken())?;
    let claims: Map<String, Value> = serde_json::from_slice(&payload).map_err(|_| broken())?;
    Ok(Value::Object(claims))
}

/// Whether `claims` are meant for `client_id`: `aud` is it, or a list with it, and `azp`, which more than one
/// audience needs, says nothing else (§3.1.3.7, 3 to 5).
#[must_use]
pub fn is_for(claims: &Value, client_id: &str) -> bool {
    let alone = match &claims["aud"] {
        Value::String(audience) if audience == client_id => true,
        Value::Array(audiences) if audiences.iter().any(|audience| audience == client_id) => {
            audiences.len() == 1
        }
        _ => return false,
    };
    match &claims["azp"] {
        Value::Null => alone,
        party => party == client_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_and_nonsense_is_refused() {
        // {"sub":"1","aud":["c"]}
        let claims = super::claims("e30.eyJzdWIiOiIxIiwiYXVkIjpbImMiXX0.c2ln").unwrap();
        assert_eq!(claims["sub"], "1");
        assert!(is_for(&claims, "c"));
        assert!(!is_for(&claims, "d"));
        for (claims, want) in [
            (serde_json::json!({"aud": ["c", "d"]}), false),
            (serde_json::json!({"aud": ["c", "d"], "azp": "c"}), true),
            (serde_json::json!({"aud": "c", "azp": "d"}), false),
            (serde_json::json!({"aud": "c", "azp": null}), true),
            (serde_json::json!({"aud": "d", "azp": "c"}), false),
            (serde_json::json!({"azp": "c"}), false),
        ] {
            assert_eq!(is_for(&claims, "c"), want, "{claims}");
        }
        for token in ["", "a.b", "e30.W10.x", "e30.###.x", "a.e30.c.d.e"] {
            assert!(super::claims(token).is_err(), "{token}");
        }
    }
}

//! What a source of keys holds instead of a JWK Set (RFC 7517 §5), in words for its operator. Nothing of the
//! content is shown: it may be a private key.

use serde_json::Value;

use super::json;
use palisade_core::domain::verdict::TokenFault;

/// What `bytes` are, which are no JWK Set.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return "it is empty".to_owned();
    }
    if text.starts_with("-----BEGIN") {
        return "it is PEM; write the public key as a JWK".to_owned();
    }
    if text.starts_with('<') {
        return "it is a page (HTML or XML)".to_owned();
    }
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        // The position, and of the fault only its kind: the words may quote the content.
        Err(error) => {
            let what = match error.classify() {
                serde_json::error::Category::Eof => "it breaks off",
                _ => "it is not JSON",
            };
            return format!("{what} at line {}, column {}", error.line(), error.column());
        }
    };
    if matches!(json::object(bytes), Err(TokenFault::DuplicateName)) {
        return "a name occurs twice in one of its objects".to_owned();
    }
    let Value::Object(object) = value else {
        return match value {
            Value::Array(_) => "it is a list; the keys belong into {\"keys\": [...]}".to_owned(),
            _ => "it is JSON, but no object".to_owned(),
        };
    };
    let is_pem = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("-----BEGIN"));
    if object.contains_key("kty") {
        "it is a single JWK; put it into {\"keys\": [...]}".to_owned()
    } else if object.contains_key("jwks_uri") {
        "it is the metadata of an issuer; its \"jwks_uri\" says where the keys are".to_owned()
    } else if !object.is_empty() && object.values().all(is_pem) {
        "it is a table of certificates; the issuer publishes a JWK Set at another address".to_owned()
    } else if object.contains_key("keys") {
        "its \"keys\" are no list".to_owned()
    } else {
        "it has no \"keys\"".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_set_is_called_what_it_is_and_not_shown() {
        for (text, want) in [
            ("", "empty"),
            ("\u{feff}\n ", "empty"),
            ("-----BEGIN PUBLIC KEY-----\nsecret", "PEM"),
            ("<!doctype html>secret", "page"),
            ("{\"keys\": [{\"k\": \"secret\"", "breaks off at line 1"),
            ("{\"keys\":\n [secret]}", "not JSON at line 2, column 3"),
            ("[{\"kty\": \"oct\", \"k\": \"secret\"}]", "a list"),
            ("\"secret\"", "no object"),
            ("{\"kty\": \"oct\", \"k\": \"secret\"}", "a single JWK"),
            ("{\"issuer\": \"secret\", \"jwks_uri\": \"https://a.test/keys\"}", "metadata"),
            ("{\"a\": \"-----BEGIN CERTIFICATE-----secret\"}", "certificates"),
            ("{\"keys\": {\"secret\": 1}}", "no list"),
            ("{\"key\": [\"secret\"]}", "no \"keys\""),
            ("{\"keys\": [], \"keys\": [\"secret\"]}", "twice"),
        ] {
            let said = of(text.as_bytes());
            assert!(said.contains(want) && !said.contains("secret"), "{text}: {said}");
        }
    }
}

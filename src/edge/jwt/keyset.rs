//! A set of verifying keys, each bound to exactly one algorithm, found by exactly one name.
//!
//! The algorithm belongs to the key, never to the token: a public key can never serve as an HMAC secret.
//! A name that two keys share names neither.

use std::collections::{BTreeSet, HashMap};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use super::compact::{Compact, Header, algorithm};
use super::json;
use crate::config::Algorithm;
use crate::domain::verdict::TokenFault;

/// A key and the one algorithm it verifies.
#[derive(Clone)]
pub struct VerifyingKey {
    algorithm: Algorithm,
    key: DecodingKey,
    /// The key's own members, to tell whether two keys are the same.
    print: String,
}

impl VerifyingKey {
    /// Reads a JWK (RFC 7517 §4) that may verify signatures; `None` for a key of another kind, of another
    /// use or too short to be safe.
    #[must_use]
    pub fn from_jwk(jwk: &Map<String, Value>) -> Option<VerifyingKey> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let octets = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        // RFC 7517 §4.2, §4.3: a key for something else is not ours to use.
        if jwk.get("use").is_some_and(|use_| use_.as_str() != Some("sig")) {
            return None;
        }
        let verifies = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
        if jwk.get("key_ops").is_some_and(|ops| !verifies(ops)) {
            return None;
        }
        let (kind, key, print) = match (text("kty")?, text("crv")) {
            ("OKP", Some("Ed25519")) if octets("x")?.len() == 32 => {
                let x = text("x")?;
                (Algorithm::EdDsa, DecodingKey::from_ed_components(x).ok()?, format!("ed/{x}"))
            }
            ("EC", Some("P-256")) if octets("x")?.len() == 32 && octets("y")?.len() == 32 => {
                let (x, y) = (text("x")?, text("y")?);
                (Algorithm::Es256, DecodingKey::from_ec_components(x, y).ok()?, format!("ec/{x}/{y}"))
            }
            // RFC 7518 §3.3: 2048 bits or more.
            ("RSA", _) if octets("n")?.len() >= 256 && !octets("e")?.is_empty() => {
                let (n, e) = (text("n")?, text("e")?);
                (Algorithm::Rs256, DecodingKey::from_rsa_components(n, e).ok()?, format!("rsa/{n}/{e}"))
            }
            // RFC 7518 §3.2: at least as long as the hash.
            ("oct", _) if octets("k")?.len() >= 32 => {
                (Algorithm::Hs256, DecodingKey::from_secret(&octets("k")?), "oct".to_owned())
            }
            _ => return None,
        };
        match jwk.get("alg") {
            None => {}
            Some(Value::String(name)) if algorithm(name) == Some(kind) => {}
            Some(_) => return None,
        }
        Some(VerifyingKey { algorithm: kind, key, print })
    }

    /// An HS256 key (RFC 7518 §3.2).
    #[must_use]
    pub fn from_secret(secret: &[u8]) -> VerifyingKey {
        VerifyingKey {
            algorithm: Algorithm::Hs256,
            key: DecodingKey::from_secret(secret),
            print: "oct".to_owned(),
        }
    }

    /// Whether `token`'s signature is this key's (RFC 7515 §5.2).
    ///
    /// # Errors
    /// [`TokenFault::Algorithm`] when the token names another algorithm than the key's;
    /// [`TokenFault::Signature`].
    pub fn check(&self, token: &Compact<'_>) -> Result<(), TokenFault> {
        if token.header.algorithm != self.algorithm {
            return Err(TokenFault::Algorithm);
        }
        let algorithm = library_algorithm(self.algorithm);
        match jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &self.key, algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenFault::Signature),
        }
    }
}

/// The library's name for `algorithm`.
#[must_use]
pub(super) const fn library_algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
    }
}

/// Keys by `kid`, and those that have none.
#[derive(Clone, Default)]
pub struct KeySet {
    named: HashMap<String, VerifyingKey>,
    unnamed: Vec<VerifyingKey>,
}

impl KeySet {
    /// A set of keys whose names differ.
    #[must_use]
    pub fn of(keys: impl IntoIterator<Item = (String, VerifyingKey)>) -> KeySet {
        KeySet { named: keys.into_iter().collect(), unnamed: Vec::new() }
    }

    /// Reads a JWK Set (RFC 7517 §5), keeping the keys of `allowed` algorithms. Members that are not
    /// understood are ignored, as that section asks.
    ///
    /// # Errors
    /// What is wrong, when nothing in it can be used.
    pub fn parse(bytes: &[u8], allowed: &[Algorithm]) -> Result<KeySet, String> {
        let set = json::object(bytes).map_err(|fault| format!("not a JWK Set: {fault}"))?;
        let Some(Value::Array(entries)) = set.get("keys") else {
            return Err("not a JWK Set: no array `keys`".to_owned());
        };
        let mut keys = KeySet::default();
        let mut shared = BTreeSet::new();
        for jwk in entries.iter().filter_map(Value::as_object) {
            let Some(key) = VerifyingKey::from_jwk(jwk).filter(|key| allowed.contains(&key.algorithm)) else {
                continue;
            };
            match jwk.get("kid") {
                None => keys.unnamed.push(key),
                Some(Value::String(kid)) => {
                    if keys.named.insert(kid.clone(), key).is_some() {
                        shared.insert(kid.clone());
                    }
                }
                Some(_) => {}
            }
        }
        // Which of two keys a shared name means is nobody's to guess.
        keys.named.retain(|kid, _| !shared.contains(kid));
        if keys.is_empty() { Err("no usable signature key in the JWK Set".to_owned()) } else { Ok(keys) }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len() + self.unnamed.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one key that `header` can mean. Without a `kid`: the only key of its algorithm.
    ///
    /// # Errors
    /// [`TokenFault::UnknownKey`].
    pub fn find(&self, header: &Header) -> Result<&VerifyingKey, TokenFault> {
        match &header.key_id {
            Some(kid) => self.named.get(kid).ok_or(TokenFault::UnknownKey),
            None => {
                let mut fitting =
                    self.named.values().chain(&self.unnamed).filter(|key| key.algorithm == header.algorithm);
                match (fitting.next(), fitting.next()) {
                    (Some(only), None) => Ok(only),
                    _ => Err(TokenFault::UnknownKey),
                }
            }
        }
    }

    /// Whether every key here is also in `other`, under the same name.
    #[must_use]
    pub fn is_within(&self, other: &KeySet) -> bool {
        self.named.iter().all(|(kid, key)| other.named.get(kid).is_some_and(|k| k.print == key.print))
            && self.unnamed.iter().all(|key| other.unnamed.iter().any(|k| k.print == key.print))
    }
}

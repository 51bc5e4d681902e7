//! A set of verifying keys, each bound to its algorithms, found by exactly one name.
//!
//! The algorithm belongs to the key, never to the token: a public key can never serve as an HMAC secret. A
//! key has exactly one, but for an RSA key whose JWK names none (RFC 7517 §4.4): that one verifies with the
//! RSA algorithms that its issuer may use. A name that two keys share names neither.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::compact::{Compact, Header, algorithm};
use super::{diagnosis, json, roca};
use crate::config::Algorithm;
use palisade_core::domain::verdict::TokenFault;

/// What an RSA key may verify (RFC 7518 §3.3, §3.5).
const RSA: [Algorithm; 6] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];

/// Every algorithm that is understood.
pub(super) const ALL: [Algorithm; 11] = [
    Algorithm::EdDsa,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Hs256,
];

/// Why a JWK is no key here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// A key of another kind or for another use: not worth a log line.
    Other,
    /// An RSA key of fewer than 2048 or more than 8192 bits.
    Size,
    /// An RSA key with an exponent that is even, 1, or of more than 33 bits.
    Exponent,
    /// An RSA key with the fault of CVE-2017-15361.
    Roca,
    /// Its members are missing, or are not of the length that its curve asks for.
    Shape,
    /// Its `alg` is not one of its kind, or not understood.
    Algorithm,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::Other => "no key for signatures that is understood",
            Unfit::Size => "an RSA key of fewer than 2048 or more than 8192 bits",
            Unfit::Exponent => "an RSA key with an unsafe exponent",
            Unfit::Roca => "an RSA key that can be factored (ROCA, CVE-2017-15361)",
            Unfit::Shape => "a key with missing or malformed members",
            Unfit::Algorithm => "an algorithm that does not fit the key",
        })
    }
}

#[derive(Clone)]
enum Public {
    Library(DecodingKey),
    /// The library has no ES512: an uncompressed point (SEC 1 §2.3.3).
    P521(Vec<u8>),
}

/// A key and what it verifies.
#[derive(Clone)]
pub struct VerifyingKey {
    algorithms: Vec<Algorithm>,
    public: Public,
    /// A digest of the key's own numbers, to tell whether two keys are the same.
    print: [u8; 32],
}

impl VerifyingKey {
    /// Reads a JWK (RFC 7517 §4) that may verify signatures.
    ///
    /// # Errors
    /// Why it may not.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<VerifyingKey, Unfit> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let octets = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        // RFC 7517 §4.2, §4.3: a key for something else is not ours to use.
        if jwk.get("use").is_some_and(|use_| use_.as_str() != Some("sig")) {
            return Err(Unfit::Other);
        }
        let verifies = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
        if jwk.get("key_ops").is_some_and(|ops| !verifies(ops)) {
            return Err(Unfit::Other);
        }
        let coordinate = |name: &str, length: usize| {
            octets(name).filter(|bytes| bytes.len() == length).ok_or(Unfit::Shape)
        };
        let point = |length| -> Result<Vec<u8>, Unfit> {
            Ok([&[4][..], &coordinate("x", length)?, &coordinate("y", length)?].concat())
        };
        let (algorithms, public, numbers) = match (text("kty").ok_or(Unfit::Shape)?, text("crv")) {
            ("OKP", Some("Ed25519")) => {
                let x = coordinate("x", 32)?;
                (vec![Algorithm::EdDsa], DecodingKey::from_ed_der(&x).into(), x)
            }
            ("EC", Some("P-256")) => {
                let point = point(32)?;
                (vec![Algorithm::Es256], DecodingKey::from_ec_der(&point).into(), point)
            }
            ("EC", Some("P-384")) => {
                let point = point(48)?;
                (vec![Algorithm::Es384], DecodingKey::from_ec_der(&point).into(), point)
            }
            ("EC", Some("P-521")) => {
                let point = point(66)?;
                (vec![Algorithm::Es512], Public::P521(point.clone()), point)
            }
            ("RSA", _) => {
                let (n, e) = (number(octets("n"))?, number(octets("e"))?);
                // RFC 7518 §3.3: 2048 bits or more. What is longer than 8192 the library does not verify.
                if n.len() < 256 || (n.len() == 256 && n[0] < 0x80) || n.len() > 1024 {
                    return Err(Unfit::Size);
                }
                // With an exponent of 1 signatures can be forged; the library verifies with at most 33 bits.
                let too_long = e.len() > 5 || (e.len() == 5 && e[0] > 1);
                if e == [1] || too_long || e.last().is_none_or(|last| last % 2 == 0) {
                    return Err(Unfit::Exponent);
                }
                if roca::is_weak(&n) {
                    return Err(Unfit::Roca);
                }
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                let length = u32::try_from(n.len()).unwrap_or(u32::MAX).to_be_bytes();
                (RSA.to_vec(), key.into(), [&length[..], &n, &e].concat())
            }
            ("oct", _) => {
                // RFC 7518 §3.2: at least as long as the hash.
                let secret = octets("k").filter(|secret| secret.len() >= 32).ok_or(Unfit::Shape)?;
                return fitting(jwk, VerifyingKey::from_secret(&secret));
            }
            _ => return Err(Unfit::Other),
        };
        // A P-256 point, a P-384 one and an Ed25519 key differ in length, and none begins as an RSA key does.
        fitting(jwk, VerifyingKey { algorithms, public, print: Sha256::digest(numbers).into() })
    }

    /// An HS256 key (RFC 7518 §3.2).
    #[must_use]
    pub fn from_secret(secret: &[u8]) -> VerifyingKey {
        VerifyingKey {
            algorithms: vec![Algorithm::Hs256],
            public: DecodingKey::from_secret(secret).into(),
            print: Sha256::digest([b"oct", secret].concat()).into(),
        }
    }

    /// Whether `token`'s signature is this key's (RFC 7515 §5.2).
    ///
    /// # Errors
    /// [`TokenFault::Algorithm`] when the token names another algorithm than the key's;
    /// [`TokenFault::Signature`].
    pub fn check(&self, token: &Compact<'_>) -> Result<(), TokenFault> {
        let algorithm = token.header.algorithm;
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenFault::Algorithm);
        }
        let message = token.signed.as_bytes();
        let good = match (&self.public, library_algorithm(algorithm)) {
            (Public::Library(key), Some(algorithm)) => {
                jsonwebtoken::crypto::verify(token.signature, message, key, algorithm).unwrap_or(false)
            }
            (Public::P521(point), None) => URL_SAFE_NO_PAD.decode(token.signature).is_ok_and(|signature| {
                UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point).verify(message, &signature).is_ok()
            }),
            _ => false,
        };
        if good { Ok(()) } else { Err(TokenFault::Signature) }
    }
}

impl From<DecodingKey> for Public {
    fn from(key: DecodingKey) -> Public {
        Public::Library(key)
    }
}

/// `key` as far as the `alg` of its JWK lets it verify.
fn fitting(jwk: &Map<String, Value>, mut key: VerifyingKey) -> Result<VerifyingKey, Unfit> {
    match jwk.get("alg") {
        None => {}
        // RFC 7518 §4.1: a key that encrypts, published beside those that sign.
        Some(Value::String(name))
            if ["RSA1_5", "RSA-OAEP", "ECDH-ES", "A128", "A192", "A256", "dir", "PBES2"]
                .iter()
                .any(|encrypting| name.starts_with(encrypting)) =>
        {
            return Err(Unfit::Other);
        }
        Some(Value::String(name)) => {
            let named = algorithm(name).filter(|named| key.algorithms.contains(named));
            key.algorithms = vec![named.ok_or(Unfit::Algorithm)?];
        }
        Some(_) => return Err(Unfit::Algorithm),
    }
    Ok(key)
}

/// A number without the zeros in front of it (RFC 7518 §6.3.1.1 has none).
fn number(octets: Option<Vec<u8>>) -> Result<Vec<u8>, Unfit> {
    let octets = octets.ok_or(Unfit::Shape)?;
    let first = octets.iter().position(|byte| *byte != 0).ok_or(Unfit::Shape)?;
    Ok(octets[first..].to_vec())
}

/// The library's name for `algorithm`; it has none for ES512.
#[must_use]
pub(super) const fn library_algorithm(algorithm: Algorithm) -> Option<jsonwebtoken::Algorithm> {
    Some(match algorithm {
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::Es512 => return None,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::Ps384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::Ps512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
    })
}

/// Keys by `kid`, and those that have none.
#[derive(Clone, Default)]
pub struct KeySet {
    named: HashMap<String, VerifyingKey>,
    unnamed: Vec<VerifyingKey>,
    left_out: Vec<String>,
}

impl KeySet {
    /// A set of keys whose names differ.
    #[must_use]
    pub fn of(keys: impl IntoIterator<Item = (String, VerifyingKey)>) -> KeySet {
        KeySet { named: keys.into_iter().collect(), unnamed: Vec::new(), left_out: Vec::new() }
    }

    /// Reads a JWK Set (RFC 7517 §5), keeping the keys of `allowed` algorithms. Members that are not
    /// understood are ignored, as that section asks. A set in which nothing can be used is empty, and no
    /// error: it says that earlier keys are keys no more.
    ///
    /// # Errors
    /// What keeps it from being a JWK Set.
    pub fn parse(bytes: &[u8], allowed: &[Algorithm]) -> Result<KeySet, String> {
        let no_set = || format!("not a JWK Set: {}", diagnosis::of(bytes));
        let set = json::object(bytes).map_err(|_| no_set())?;
        let Some(Value::Array(entries)) = set.get("keys") else { return Err(no_set()) };
        let mut keys = KeySet::default();
        let mut shared = BTreeSet::new();
        for jwk in entries.iter().filter_map(Value::as_object) {
            let mut leave_out = |why: &dyn fmt::Display| keys.left_out.push(format!("{}: {why}", shown(jwk)));
            let mut key = match VerifyingKey::from_jwk(jwk) {
                Ok(key) => key,
                Err(Unfit::Other) => continue,
                Err(unfit) => {
                    leave_out(&unfit);
                    continue;
                }
            };
            key.algorithms.retain(|algorithm| allowed.contains(algorithm));
            if key.algorithms.is_empty() {
                leave_out(&"not for any of the issuer's `algorithms`");
                continue;
            }
            let kid = match jwk.get("kid") {
                None => {
                    let known = keys.unnamed.iter_mut().find(|other| other.print == key.print);
                    match known {
                        Some(known) => known.learn(key),
                        None => keys.unnamed.push(key),
                    }
                    continue;
                }
                Some(Value::String(kid)) => kid,
                Some(_) => {
                    leave_out(&"a `kid` that is no text");
                    continue;
                }
            };
            match keys.named.get_mut(kid) {
                // Published twice, it is still one key.
                Some(known) if known.print == key.print => known.learn(key),
                Some(_) => {
                    if shared.insert(kid.clone()) {
                        leave_out(&"two keys share this `kid`, so it names neither");
                    }
                }
                None => drop(keys.named.insert(kid.clone(), key)),
            }
        }
        keys.named.retain(|kid, _| !shared.contains(kid));
        Ok(keys)
    }

    /// The keys that were left out, and why; one printable line each.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
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
                let all = self.named.values().chain(&self.unnamed);
                let mut fitting = all.filter(|key| key.algorithms.contains(&header.algorithm));
                let first = fitting.next().ok_or(TokenFault::UnknownKey)?;
                // One key may stand in the set under two names.
                match fitting.all(|other| other.print == first.print) {
                    true => Ok(first),
                    false => Err(TokenFault::UnknownKey),
                }
            }
        }
    }

    /// Whether every key here is also in `other`, under the same name and for the same algorithms.
    #[must_use]
    pub fn is_within(&self, other: &KeySet) -> bool {
        self.missing_from(other) == 0
    }

    /// How many keys here are not in `other`, under the same name and for the same algorithms.
    #[must_use]
    pub fn missing_from(&self, other: &KeySet) -> usize {
        let same = |key: &VerifyingKey, other: &VerifyingKey| {
            key.print == other.print && key.algorithms.iter().all(|one| other.algorithms.contains(one))
        };
        let named =
            self.named.iter().filter(|(kid, key)| !other.named.get(*kid).is_some_and(|k| same(key, k)));
        let unnamed = self.unnamed.iter().filter(|key| !other.unnamed.iter().any(|k| same(key, k)));
        named.count() + unnamed.count()
    }
}

impl VerifyingKey {
    /// Takes over what another publication of this key lets it verify.
    fn learn(&mut self, again: VerifyingKey) {
        for algorithm in again.algorithms {
            if !self.algorithms.contains(&algorithm) {
                self.algorithms.push(algorithm);
            }
        }
    }
}

/// A key as lines for people name it: another party wrote its `kid`.
fn shown(jwk: &Map<String, Value>) -> String {
    match jwk.get("kid") {
        Some(Value::String(kid)) => {
            let short: String = kid.chars().take(64).collect();
            format!("key {short:?}")
        }
        _ => "a key without a `kid`".to_owned(),
    }
}

//! One verifying key, bound to its algorithms.
//!
//! The algorithm belongs to the key, never to the token: a public key can never serve as an HMAC secret. A
//! key has exactly one, but for an RSA key whose JWK names none (RFC 7517 §4.4): that one verifies with the
//! RSA algorithms that its issuer may use. What a JWK may be written like is taken as generously as it is harmless:
//! the numbers decide, and they are checked.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::compact::{Compact, algorithm};
use super::roca;
use crate::config::Algorithm;
use palisade_core::domain::tenant::SignsFor;
use palisade_core::domain::verdict::TokenFault;

/// Base64url (RFC 4648 §5) with or without padding: some issuers pad.
const PADDED_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

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
    /// It encrypts: published beside those that sign, and nothing is wrong.
    Encrypts,
    /// Its `use` or its `key_ops` are for something else than signatures.
    OtherUse,
    /// A kind of key, or a curve, that is not understood.
    Kind,
    /// It is published with its private half.
    Private,
    /// An RSA key of fewer than 2048 or more than 8192 bits.
    Size,
    /// An RSA key with an exponent that is even, 1, or of more than 33 bits.
    Exponent,
    /// An RSA key with the fault of CVE-2017-15361.
    Roca,
    /// Its members are missing, or are not of the length that its curve asks for.
    Shape,
    /// Its numbers are no public key of its kind, such as a point that is not on the curve.
    Numbers,
    /// Its `alg` is not one of its kind, or not understood.
    Algorithm,
}

impl Unfit {
    /// Whether such a key is in the sets of healthy issuers, so that its operator need not look.
    #[must_use]
    pub const fn is_usual(self) -> bool {
        matches!(self, Unfit::Encrypts | Unfit::OtherUse | Unfit::Kind)
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::Encrypts => "a key for encryption",
            Unfit::OtherUse => "a `use` or `key_ops` for something else than verifying signatures",
            Unfit::Kind => "a kind of key (`kty`, `crv`) that is not understood",
            Unfit::Private => {
                "a key published with its private half (`d`): every reader of the set can sign with it"
            }
            Unfit::Size => "an RSA key of fewer than 2048 or more than 8192 bits",
            Unfit::Exponent => "an RSA key with an unsafe exponent",
            Unfit::Roca => "an RSA key that can be factored (ROCA, CVE-2017-15361)",
            Unfit::Shape => "a key with missing or malformed members",
            Unfit::Numbers => "a key whose numbers are no public key of its kind",
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

/// The members of private keys (RFC 7518 §6.2.2, §6.3.2, RFC 8037 §2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// A key and what it verifies.
#[derive(Clone)]
pub struct VerifyingKey {
    algorithms: Vec<Algorithm>,
    public: Public,
    /// A digest of the key's own numbers, to tell whether two keys are the same.
    print: [u8; 32],
    /// The issuers whose tokens it may sign; `None`: every one that its source is configured for.
    signs_for: Option<Vec<SignsFor>>,
}

impl VerifyingKey {
    /// Reads a JWK (RFC 7517 §4) that may verify signatures.
    ///
    /// # Errors
    /// Why it may not.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<VerifyingKey, Unfit> {
        // Some writers of JSON say null of what is not there.
        let member = |name: &str| jwk.get(name).filter(|value| !value.is_null());
        let text = |name: &str| member(name).and_then(Value::as_str);
        let octets = |name: &str| decoded(text(name)?);
        // RFC 7517 §4.2, §4.3: a key for something else is not ours to use.
        match member("use").map(Value::as_str) {
            None | Some(Some("sig")) => {}
            Some(Some("enc")) => return Err(Unfit::Encrypts),
            Some(_) => return Err(Unfit::OtherUse),
        }
        let verifies = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
        if member("key_ops").is_some_and(|ops| !verifies(ops)) {
            return Err(Unfit::OtherUse);
        }
        // RFC 7518 §6.2.1.2 has the zeros in front; some issuers leave them out, or write one more.
        let coordinate = |name: &str, length: usize| {
            let bytes = octets(name).ok_or(Unfit::Shape)?;
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
            let zeros = length.checked_sub(bytes.len() - first).ok_or(Unfit::Shape)?;
            Ok([&vec![0; zeros], &bytes[first..]].concat())
        };
        let point = |length| -> Result<Vec<u8>, Unfit> {
            Ok([&[4][..], &coordinate("x", length)?, &coordinate("y", length)?].concat())
        };
        // RFC 7517 §9.3: every reader of it can sign.
        if PRIVATE.iter().any(|name| member(name).is_some()) {
            return Err(Unfit::Private);
        }
        let (algorithms, public, numbers) = match (text("kty").ok_or(Unfit::Shape)?, text("crv")) {
            ("OKP", Some("Ed25519")) => {
                let x = octets("x").filter(|bytes| bytes.len() == 32).ok_or(Unfit::Shape)?;
                valid(&ED25519, &x)?;
                (vec![Algorithm::EdDsa], DecodingKey::from_ed_der(&x).into(), x)
            }
            ("EC", Some("P-256")) => {
                let point = point(32)?;
                valid(&ECDSA_P256_SHA256_FIXED, &point)?;
                (vec![Algorithm::Es256], DecodingKey::from_ec_der(&point).into(), point)
            }
            ("EC", Some("P-384")) => {
                let point = point(48)?;
                valid(&ECDSA_P384_SHA384_FIXED, &point)?;
                (vec![Algorithm::Es384], DecodingKey::from_ec_der(&point).into(), point)
            }
            ("EC", Some("P-521")) => {
                let point = point(66)?;
                valid(&ECDSA_P521_SHA512_FIXED, &point)?;
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
                if n.last().is_none_or(|last| last % 2 == 0) {
                    return Err(Unfit::Numbers);
                }
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                let length = u32::try_from(n.len()).unwrap_or(u32::MAX).to_be_bytes();
                (RSA.to_vec(), key.into(), [&length[..], &n, &e].concat())
            }
            ("oct", _) => {
                // RFC 7518 §3.2: at least as long as the hash.
                let secret = text("k").and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
                let secret = secret.filter(|secret| secret.len() >= 32).ok_or(Unfit::Shape)?;
                return fitting(jwk, VerifyingKey::from_secret(&secret));
            }
            _ => return Err(Unfit::Kind),
        };
        let signs_for = match member("issuer") {
            None => None,
            Some(Value::String(issuer)) => Some(vec![SignsFor::of(issuer)]),
            Some(_) => return Err(Unfit::Shape),
        };
        // A P-256 point, a P-384 one and an Ed25519 key differ in length, and none begins as an RSA key does.
        let print = Sha256::digest(numbers).into();
        fitting(jwk, VerifyingKey { algorithms, public, print, signs_for })
    }

    /// An HS256 key (RFC 7518 §3.2).
    #[must_use]
    pub fn from_secret(secret: &[u8]) -> VerifyingKey {
        VerifyingKey {
            algorithms: vec![Algorithm::Hs256],
            public: DecodingKey::from_secret(secret).into(),
            print: Sha256::digest([b"oct", secret].concat()).into(),
            signs_for: None,
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

    /// Takes over what another publication of this key lets it verify.
    pub(super) fn learn(&mut self, again: VerifyingKey) {
        for algorithm in again.algorithms {
            if !self.algorithms.contains(&algorithm) {
                self.algorithms.push(algorithm);
            }
        }
        self.signs_for = match (self.signs_for.take(), again.signs_for) {
            (Some(mut known), Some(more)) => {
                known.extend(more);
                Some(known)
            }
            // Published once without a limit, it has none.
            (None, _) | (_, None) => None,
        };
    }

    /// Whether `other` has the same numbers.
    #[must_use]
    pub(super) fn is_same(&self, other: &VerifyingKey) -> bool {
        self.print == other.print
    }

    /// Whether it verifies `algorithm`.
    #[must_use]
    pub(super) fn verifies(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether some algorithm is verified by both.
    #[must_use]
    pub(super) fn overlaps(&self, other: &VerifyingKey) -> bool {
        self.algorithms.iter().any(|one| other.algorithms.contains(one))
    }

    /// Leaves it the algorithms among `allowed`. False when none is left.
    #[must_use]
    pub(super) fn limit(&mut self, allowed: &[Algorithm]) -> bool {
        self.algorithms.retain(|algorithm| allowed.contains(algorithm));
        !self.algorithms.is_empty()
    }

    /// Whether it may sign tokens of `issuer`.
    #[must_use]
    pub fn signs_for(&self, issuer: &str) -> bool {
        self.signs_for.as_ref().is_none_or(|limits| limits.iter().any(|limit| limit.holds(issuer)))
    }

    /// Whether `other` is the same key, and verifies all that this one does for the same issuers.
    #[must_use]
    pub(super) fn is_within(&self, other: &VerifyingKey) -> bool {
        self.is_same(other)
            && self.signs_for == other.signs_for
            && self.algorithms.iter().all(|one| other.algorithms.contains(one))
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
        None | Some(Value::Null) => {}
        // RFC 7518 §4.1: a key that encrypts, published beside those that sign.
        Some(Value::String(name))
            if ["RSA1_5", "RSA-OAEP", "ECDH-ES", "A128", "A192", "A256", "dir", "PBES2"]
                .iter()
                .any(|encrypting| name.starts_with(encrypting)) =>
        {
            return Err(Unfit::Encrypts);
        }
        Some(Value::String(name)) => {
            let named = algorithm(name).filter(|named| key.algorithms.contains(named));
            key.algorithms = vec![named.ok_or(Unfit::Algorithm)?];
        }
        Some(_) => return Err(Unfit::Algorithm),
    }
    Ok(key)
}

/// The bytes that a member stands for: base64url (RFC 7515 §2), and as some issuers write it, with padding or in the
/// other alphabet of base64. One text is one number in each of these readings.
fn decoded(text: &str) -> Option<Vec<u8>> {
    match text.contains(['+', '/']) {
        false => PADDED_OR_NOT.decode(text).ok(),
        true => PADDED_OR_NOT.decode(text.replace('+', "-").replace('/', "_")).ok(),
    }
}

/// That `key` is one for `algorithm`: a point on its curve.
fn valid(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> Result<(), Unfit> {
    ParsedPublicKey::new(algorithm, key).map(drop).map_err(|_| Unfit::Numbers)
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

//! Signing keys: made, read, named and written out for storage.
//!
//! Secret key material leaves a [`SigningKey`] only through [`SigningKey::secret`], which exists for the
//! key file; it is in no error, no log and no `Debug`.

use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::compact::name;
use super::jws::{self, JwsHeader, JwsKey};
use super::verifying_key::{VerifyingKey, library_algorithm};
use crate::config::Algorithm;
use palisade_core::ports::SignError;

/// The shortest HS256 secret in bytes (RFC 7518 §3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// A key that signs, and what verifies its signatures.
#[derive(Clone)]
pub struct SigningKey {
    /// The name tokens carry: the RFC 7638 thumbprint of the public key. For a secret, which must not
    /// be hashed into public (RFC 7638 §7), a keyed hash that says no more than any token does.
    pub kid: String,
    pub algorithm: Algorithm,
    signing: Arc<JwsKey>,
    verifying: VerifyingKey,
    /// The public JWK without `kid`; empty for HS256.
    public: Map<String, Value>,
    secret: Zeroizing<String>,
}

impl SigningKey {
    /// Makes a new key: Ed25519, P-256, RSA of 2048 bits, or 256 random bits.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate(algorithm: Algorithm) -> Result<SigningKey, String> {
        let failed = |_| "a key could not be generated".to_owned();
        let secret = match algorithm {
            Algorithm::EdDsa => {
                pem(Ed25519KeyPair::generate().and_then(|key| key.to_pkcs8v1()).map_err(failed)?.as_ref())
            }
            Algorithm::Es256 => pem(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .and_then(|key| key.to_pkcs8v1())
                .map_err(failed)?
                .as_ref()),
            Algorithm::Rs256 => {
                let key = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
                let der: Pkcs8V1Der<'_> = key.as_der().map_err(failed)?;
                pem(der.as_ref())
            }
            Algorithm::Hs256 => {
                let mut bytes = Zeroizing::new([0; MIN_SECRET_BYTES]);
                rand::fill(bytes.as_mut()).map_err(failed)?;
                // The text itself is the secret, as it is for one from the configuration.
                Zeroizing::new(URL_SAFE_NO_PAD.encode::<&[u8]>(bytes.as_ref()))
            }
            other => return Err(not_ours(other)),
        };
        SigningKey::read(algorithm, &secret)
    }

    /// Reads a PEM private key (PKCS#8; SEC 1 for EC, PKCS#1 for RSA), or an HS256 secret as its bytes.
    ///
    /// # Errors
    /// What is wrong, without the key.
    pub fn read(algorithm: Algorithm, secret: &str) -> Result<SigningKey, String> {
        let forms = if algorithm == Algorithm::Es256 { "PKCS#8 or SEC 1" } else { "PKCS#8" };
        let unfit = || format!("not a private key for {} in PEM ({forms})", name(algorithm));
        let converted = if algorithm == Algorithm::Es256 { from_sec1(secret) } else { None };
        let secret = converted.as_deref().map_or(secret, String::as_str);
        let key = match algorithm {
            Algorithm::EdDsa => EncodingKey::from_ed_pem(secret.as_bytes()).map_err(|_| unfit())?,
            Algorithm::Es256 => EncodingKey::from_ec_pem(secret.as_bytes()).map_err(|_| unfit())?,
            Algorithm::Rs256 => EncodingKey::from_rsa_pem(secret.as_bytes()).map_err(|_| unfit())?,
            Algorithm::Hs256 if secret.len() < MIN_SECRET_BYTES => {
                return Err(format!("an HS256 secret must have at least {MIN_SECRET_BYTES} bytes"));
            }
            Algorithm::Hs256 => EncodingKey::from_secret(secret.as_bytes()),
            other => return Err(not_ours(other)),
        };
        let library = library_algorithm(algorithm).ok_or_else(unfit)?;
        let signing = Arc::new(parsed(algorithm, key.as_bytes()).ok_or_else(unfit)?);
        let secret = Zeroizing::new(secret.to_owned());
        if algorithm == Algorithm::Hs256 {
            let verifying = VerifyingKey::from_secret(secret.as_bytes());
            let mac = signing.signature(algorithm, b"kid").map_err(|_| unfit())?;
            let mut kid = URL_SAFE_NO_PAD.encode(mac);
            kid.truncate(22);
            return Ok(SigningKey { kid, algorithm, signing, verifying, public: Map::new(), secret });
        }
        let jwk = Jwk::from_encoding_key(&key, library).map_err(|_| unfit())?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| unfit())?;
        let Ok(Value::Object(mut public)) = serde_json::to_value(&jwk) else { return Err(unfit()) };
        public.retain(|_, value| !value.is_null());
        public.insert("use".to_owned(), Value::from("sig"));
        public.insert("alg".to_owned(), Value::from(name(algorithm)));
        let verifying = VerifyingKey::from_jwk(&public).map_err(|unfit| unfit.to_string())?;
        Ok(SigningKey { kid, algorithm, signing, verifying, public, secret })
    }

    /// What verifies this key's signatures.
    #[must_use]
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// The public JWK (RFC 7517 §4); `None` for HS256.
    #[must_use]
    pub fn public_jwk(&self) -> Option<Value> {
        (!self.public.is_empty()).then(|| {
            let mut jwk = self.public.clone();
            jwk.insert("kid".to_owned(), Value::from(self.kid.as_str()));
            Value::Object(jwk)
        })
    }

    /// The key as [`SigningKey::read`] takes it: for the key file, and for nothing else.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// A compact JWS of `claims` (RFC 7515 §7.1) under this key's `kid`.
    ///
    /// # Errors
    /// The library could not sign.
    pub fn sign(&self, typ: &str, claims: &Map<String, Value>) -> Result<String, SignError> {
        let header = JwsHeader { algorithm: self.algorithm, key_id: Some(&self.kid), typ };
        jws::sign(header, claims, &self.signing)
    }
}

/// A P-256 key in PEM of SEC 1 ("EC PRIVATE KEY", RFC 5915), as `openssl ecparam -genkey` writes it, in PKCS#8. `None`: the
/// text holds no such key.
fn from_sec1(text: &str) -> Option<Zeroizing<String>> {
    // Parameters of the curve may stand in front.
    let der = Zeroizing::new(PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?);
    let PrivateKeyDer::Sec1(_) = &*der else { return None };
    let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der()).ok()?;
    Some(pem(key.to_pkcs8v1().ok()?.as_ref()))
}

/// The key in `bytes`: PKCS#8 (RFC 5958), PKCS#1 (RFC 8017) of RSA, or the secret itself.
fn parsed(algorithm: Algorithm, bytes: &[u8]) -> Option<JwsKey> {
    match algorithm {
        Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(bytes).ok().map(JwsKey::Ed25519),
        Algorithm::Es256 => {
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes).ok().map(JwsKey::P256)
        }
        Algorithm::Rs256 => RsaKeyPair::from_der(bytes).ok().map(JwsKey::Rsa),
        Algorithm::Hs256 => Some(JwsKey::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, bytes)))),
        _ => None,
    }
}

/// The configuration offers no such algorithm for our own tokens.
fn not_ours(algorithm: Algorithm) -> String {
    format!("{} is for tokens of other issuers only", name(algorithm))
}

/// PKCS#8 as PEM (RFC 7468 §10).
fn pem(der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::from("-----BEGIN PRIVATE KEY-----\n"));
    for (at, letter) in body.char_indices() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str("\n-----END PRIVATE KEY-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_form_of_sec1_is_the_key_that_it_is_in_pkcs8() {
        use aws_lc_rs::encoding::EcPrivateKeyRfc5915Der;
        use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING;
        let usual = SigningKey::generate(Algorithm::Es256).unwrap();
        let der = PrivateKeyDer::from_pem_slice(usual.secret().as_bytes()).unwrap();
        let pair =
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der()).unwrap();
        let sec1: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
        let labelled = |text: &str| {
            text.replace("BEGIN PRIVATE", "BEGIN EC PRIVATE").replace("END PRIVATE", "END EC PRIVATE")
        };
        let sec1 = labelled(&pem(sec1.as_ref()));
        let with_parameters =
            format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{sec1}");
        for text in [&sec1, &with_parameters] {
            let read = SigningKey::read(Algorithm::Es256, text).unwrap();
            assert_eq!((&read.kid, read.public_jwk()), (&usual.kid, usual.public_jwk()));
            let token = read.sign("JWT", &Map::new()).unwrap();
            assert_eq!(token.split('.').count(), 3);
            assert!(!format!("{:?}", SigningKey::read(Algorithm::EdDsa, text).err()).contains("EC PRIVATE"));
        }
        // A damaged key is none, and a P-384 one does not fit.
        let larger = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let larger: EcPrivateKeyRfc5915Der<'_> = larger.private_key().as_der().unwrap();
        for text in [sec1.replace("MHc", "MHd"), labelled(&pem(b"x")), labelled(&pem(larger.as_ref()))] {
            let why = SigningKey::read(Algorithm::Es256, &text).err().unwrap();
            assert_eq!(why, "not a private key for ES256 in PEM (PKCS#8 or SEC 1)");
        }
    }

    /// Tokens of earlier processes name the key by it.
    #[test]
    fn the_name_of_a_secret_stays_the_same() {
        let key = SigningKey::read(Algorithm::Hs256, &"a".repeat(32)).unwrap();
        assert_eq!(key.kid, "J66ZpVx170S7FiL9YbDTiu");
    }
}

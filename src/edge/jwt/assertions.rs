//! Client assertions (`private_key_jwt`), by which a client of a provider authenticates itself (RFC 7523 §3): the
//! private key is the provider's `client_secret`, and not one of our own ring.
//!
//! Keys are parsed once and remembered by the digest of their text. No message holds anything of a key.

use std::sync::Arc;

use aws_lc_rs::rand;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::sync::Cache;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::compact::name;
use super::jws::{self, JwsHeader, JwsKey};
use super::roca;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Assertion, Assertions, SignError};

/// How many keys are remembered: one for each provider, and a few that were replaced.
const KEYS: u64 = 64;

/// Claims that only the assertion itself sets.
const OURS: [&str; 6] = ["iss", "sub", "aud", "iat", "exp", "jti"];

/// Reads the first private key of a PEM text: PKCS#8 (RFC 5958), SEC 1 (RFC 5915) or PKCS#1 (RFC 8017).
///
/// # Errors
/// There is no such key, it is of another kind, or it can be computed from its public half.
fn read(pem: &str) -> Result<JwsKey, SignError> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map(Zeroizing::new);
    let der =
        der.map_err(|_| SignError("the key is no private key in PEM without a passphrase".to_owned()))?;
    let bytes = der.secret_der();
    let p256 = || EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes).ok();
    let p384 = || EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, bytes).ok();
    let rsa = || match *der {
        PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(bytes).ok(),
        _ => RsaKeyPair::from_pkcs8(bytes).ok(),
    };
    let ed25519 = || Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).ok();
    let key = p256()
        .map(JwsKey::P256)
        .or_else(|| p384().map(JwsKey::P384))
        .or_else(|| ed25519().map(JwsKey::Ed25519))
        .or_else(|| rsa().map(JwsKey::Rsa))
        .ok_or_else(|| {
            let kinds = "the key is none of EC on P-256 or P-384, Ed25519, and RSA of 2048 to 8192 bits";
            SignError(kinds.to_owned())
        })?;
    if let JwsKey::Rsa(rsa) = &key
        && roca::is_weak(rsa.public_key().modulus().big_endian_without_leading_zero())
    {
        return Err(SignError("the key can be factored (ROCA, CVE-2017-15361); make a new one".to_owned()));
    }
    Ok(key)
}

/// Signs with the private keys of clients.
pub struct ClientAssertions {
    keys: Cache<[u8; 32], Arc<JwsKey>>,
}

impl Default for ClientAssertions {
    fn default() -> ClientAssertions {
        ClientAssertions { keys: Cache::new(KEYS) }
    }
}

impl Assertions for ClientAssertions {
    fn sign(&self, key: &SecretString, assertion: &Assertion, now: UnixTime) -> Result<String, SignError> {
        let pem = key.expose_secret();
        let digest = Sha256::digest(pem).into();
        let key = match self.keys.get(&digest) {
            Some(key) => key,
            None => {
                let key = Arc::new(read(pem)?);
                self.keys.insert(digest, Arc::clone(&key));
                key
            }
        };
        let fitting = key.algorithms();
        let algorithm = match assertion.algorithm.as_deref() {
            None => fitting[0],
            Some(wanted) => *fitting.iter().find(|known| name(**known) == wanted).ok_or_else(|| {
                let names: Vec<&str> = fitting.iter().map(|known| name(*known)).collect();
                SignError(format!("the key signs with {}, not with {wanted:?}", names.join(", ")))
            })?,
        };
        let header = JwsHeader { algorithm, key_id: assertion.key_id.as_deref(), typ: "JWT" };
        jws::sign(header, &claims(assertion, now)?, &key)
    }
}

fn claims(assertion: &Assertion, now: UnixTime) -> Result<Map<String, Value>, SignError> {
    let mut claims = assertion.claims.clone();
    if let Some(name) = OURS.iter().find(|name| claims.contains_key(**name)) {
        return Err(SignError(format!("the claim {name:?} is the assertion's own and cannot be given")));
    }
    if assertion.lifetime.as_secs() == 0 {
        return Err(SignError("an assertion must live for a second or more".to_owned()));
    }
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_| SignError("the system has no randomness to give".to_owned()))?;
    let own = [
        Value::from(assertion.issuer.as_str()),
        Value::from(assertion.subject.as_str()),
        Value::from(assertion.audience.as_str()),
        Value::from(now.0),
        Value::from(now.plus(assertion.lifetime).0),
        Value::from(URL_SAFE_NO_PAD.encode(id)),
    ];
    claims.extend(OURS.iter().map(|name| (*name).to_owned()).zip(own));
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::json;
    use std::time::Duration;

    fn pem(label: &str, der: &[u8]) -> SecretString {
        let lines: Vec<String> = STANDARD
            .encode(der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into()
    }

    #[test]
    fn a_key_that_can_be_factored_signs_nothing() {
        let weak = include_str!("../../../tests/fixtures/roca.pem").to_owned().into();
        let refused = sign(&weak, &assertion(None)).unwrap_err();
        assert!(refused.contains("CVE-2017-15361"), "{refused}");
    }

    fn assertion(algorithm: Option<&str>) -> Assertion {
        Assertion {
            algorithm: algorithm.map(str::to_owned),
            key_id: Some("k1".to_owned()),
            issuer: "client".to_owned(),
            subject: "client".to_owned(),
            audience: "https://id.test/token".to_owned(),
            lifetime: Duration::from_secs(300),
            claims: Map::new(),
        }
    }

    fn sign(key: &SecretString, assertion: &Assertion) -> Result<String, String> {
        let signed = ClientAssertions::default().sign(key, assertion, UnixTime(1_000_000));
        signed.map_err(|error| error.to_string())
    }

    /// Header and claims of a token whose signature another library has checked.
    fn verified(token: &str, algorithm: Algorithm, public: &DecodingKey) -> (Value, Map<String, Value>) {
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        let token_data = jsonwebtoken::decode::<Map<String, Value>>(token, public, &validation).unwrap();
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        (serde_json::from_slice(&header).unwrap(), token_data.claims)
    }

    fn rsa() -> (SecretString, SecretString, DecodingKey) {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        // The PKCS#1 key is what the PKCS#8 form of this size holds behind its first 26 bytes.
        let inner = pem("RSA PRIVATE KEY", &der.as_ref()[26..]);
        let public = DecodingKey::from_rsa_der(key.public_key().as_ref());
        (pem("PRIVATE KEY", der.as_ref()), inner, public)
    }

    fn ec(signing: &'static aws_lc_rs::signature::EcdsaSigningAlgorithm) -> (EcdsaKeyPair, DecodingKey) {
        let key = EcdsaKeyPair::generate(signing).unwrap();
        let public = DecodingKey::from_ec_der(key.public_key().as_ref());
        (key, public)
    }

    #[test]
    fn every_kind_of_key_signs_with_what_fits_it() {
        let (p256, p256_public) = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let (p384, p384_public) = ec(&ECDSA_P384_SHA384_FIXED_SIGNING);
        let sec1 = |key: &EcdsaKeyPair| -> SecretString {
            let der: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().unwrap();
            // As OpenSSL writes it, with the curve in front.
            let parameters = pem("EC PARAMETERS", &[6, 1, 0]);
            let key = pem("EC PRIVATE KEY", der.as_ref());
            format!("{}{}", parameters.expose_secret(), key.expose_secret()).into()
        };
        let (pkcs8, pkcs1, rsa_public) = rsa();
        let ed = Ed25519KeyPair::generate().unwrap();
        let ed_public = DecodingKey::from_ed_der(ed.public_key().as_ref());
        let ed_pkcs8 = [ed.to_pkcs8v1().unwrap(), ed.to_pkcs8().unwrap()];
        for (key, algorithm, name, public) in [
            (
                pem("PRIVATE KEY", p256.to_pkcs8v1().unwrap().as_ref()),
                Algorithm::ES256,
                "ES256",
                &p256_public,
            ),
            (sec1(&p256), Algorithm::ES256, "ES256", &p256_public),
            (
                pem("PRIVATE KEY", p384.to_pkcs8v1().unwrap().as_ref()),
                Algorithm::ES384,
                "ES384",
                &p384_public,
            ),
            (sec1(&p384), Algorithm::ES384, "ES384", &p384_public),
            (pkcs8.clone(), Algorithm::RS256, "RS256", &rsa_public),
            (pkcs1, Algorithm::RS256, "RS256", &rsa_public),
            (pem("PRIVATE KEY", ed_pkcs8[0].as_ref()), Algorithm::EdDSA, "EdDSA", &ed_public),
            (pem("PRIVATE KEY", ed_pkcs8[1].as_ref()), Algorithm::EdDSA, "EdDSA", &ed_public),
        ] {
            for asked in [None, Some(name)] {
                let token = sign(&key, &assertion(asked)).unwrap();
                let (header, claims) = verified(&token, algorithm, public);
                assert_eq!(header, json!({"alg": name, "typ": "JWT", "kid": "k1"}));
                assert_eq!(claims["exp"], 1_000_300);
            }
        }
        for (name, algorithm) in [
            ("RS384", Algorithm::RS384),
            ("RS512", Algorithm::RS512),
            ("PS256", Algorithm::PS256),
            ("PS384", Algorithm::PS384),
            ("PS512", Algorithm::PS512),
        ] {
            let token = sign(&pkcs8, &assertion(Some(name))).unwrap();
            assert_eq!(verified(&token, algorithm, &rsa_public).0["alg"], name);
        }
        let spki: PublicKeyX509Der<'_> = p256.public_key().as_der().unwrap();
        for (key, asked, word) in [
            (&pkcs8, "ES256", "RS256, RS384"),
            (&pkcs8, "HS256", "RS256"),
            (&pkcs8, "none", "RS256"),
            (&pem("PRIVATE KEY", p256.to_pkcs8v1().unwrap().as_ref()), "ES384", "ES256"),
            (&pem("PUBLIC KEY", spki.as_ref()), "ES256", "no private key"),
            (&pem("ENCRYPTED PRIVATE KEY", &[1]), "ES256", "passphrase"),
            (&pem("PRIVATE KEY", b"hunter2"), "ES256", "none of EC"),
            (&"hunter2".into(), "ES256", "no private key in PEM"),
        ] {
            let error = sign(key, &assertion(Some(asked))).unwrap_err();
            assert!(
                error.contains(word) && !error.contains("hunter2") && !error.contains("aHVudGVy"),
                "{error}"
            );
        }
    }

    /// The client secret that Apple asks for ("Creating a client secret", Sign in with Apple).
    #[test]
    fn apples_form() {
        let (key, public) = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let apple = Assertion {
            algorithm: None,
            key_id: Some("ABC123DEFG".to_owned()),
            issuer: "DEF123GHIJ".to_owned(),
            subject: "com.example.app".to_owned(),
            audience: "https://appleid.apple.com".to_owned(),
            lifetime: Duration::from_secs(300),
            claims: Map::new(),
        };
        let token = sign(&pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref()), &apple).unwrap();
        let (header, mut claims) = verified(&token, Algorithm::ES256, &public);
        assert_eq!(header, json!({"alg": "ES256", "typ": "JWT", "kid": "ABC123DEFG"}));
        assert!(claims.remove("jti").is_some_and(|id| id.as_str().unwrap().len() == 22));
        let expected = json!({
            "iss": "DEF123GHIJ",
            "iat": 1_000_000,
            "exp": 1_000_300,
            "aud": "https://appleid.apple.com",
            "sub": "com.example.app",
        });
        assert_eq!(Value::Object(claims), expected);
    }

    #[test]
    fn claims_may_be_added_and_none_replaced() {
        let (key, public) = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref());
        let with = |name: &str| Assertion {
            key_id: None,
            claims: Map::from_iter([(name.to_owned(), json!({"x": 1}))]),
            ..assertion(None)
        };
        let tokens = [sign(&key, &with("scope")).unwrap(), sign(&key, &with("scope")).unwrap()];
        let [(header, first), (_, second)] = tokens.map(|token| verified(&token, Algorithm::ES256, &public));
        assert_eq!(header, json!({"alg": "ES256", "typ": "JWT"}));
        assert_eq!(first["scope"], json!({"x": 1}));
        assert_ne!(first["jti"], second["jti"]);
        for name in OURS {
            let error = sign(&key, &with(name)).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        let brief = Assertion { lifetime: Duration::from_millis(999), ..assertion(None) };
        assert!(sign(&key, &brief).is_err());
    }

    #[test]
    fn a_key_is_parsed_once() {
        let assertions = ClientAssertions::default();
        let keys = [0, 1].map(|_| {
            pem("PRIVATE KEY", ec(&ECDSA_P256_SHA256_FIXED_SIGNING).0.to_pkcs8v1().unwrap().as_ref())
        });
        for key in keys.iter().chain(&keys) {
            assertions.sign(key, &assertion(None), UnixTime(1)).unwrap();
        }
        assert!(assertions.sign(&"nonsense".into(), &assertion(None), UnixTime(1)).is_err());
        assertions.keys.run_pending_tasks();
        assert_eq!(assertions.keys.entry_count(), 2);
    }
}

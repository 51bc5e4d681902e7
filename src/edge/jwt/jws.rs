//! Signing a compact JWS (RFC 7515 §7.1): the one place where a token is signed, be it an access token, an assertion
//! for an upstream, or a client's assertion for a provider (RFC 7523).
//!
//! A key is parsed once, not for each signature. No error holds anything of a key.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};

use super::compact::name;
use crate::config::Algorithm;
use palisade_core::ports::SignError;

/// How RSA signs (RFC 7518 §3.3, §3.5). The first one is the default.
static RSA: [(Algorithm, &dyn RsaEncoding); 6] = [
    (Algorithm::Rs256, &RSA_PKCS1_SHA256),
    (Algorithm::Rs384, &RSA_PKCS1_SHA384),
    (Algorithm::Rs512, &RSA_PKCS1_SHA512),
    (Algorithm::Ps256, &RSA_PSS_SHA256),
    (Algorithm::Ps384, &RSA_PSS_SHA384),
    (Algorithm::Ps512, &RSA_PSS_SHA512),
];

/// The protected header. Its fields are in the order in which they are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct JwsHeader<'a> {
    /// `alg` (RFC 7515 §4.1.1).
    pub algorithm: Algorithm,
    /// `kid` (RFC 7515 §4.1.4).
    pub key_id: Option<&'a str>,
    /// `typ` (RFC 7515 §4.1.9).
    pub typ: &'a str,
}

/// A private key or a secret, parsed.
pub(super) enum JwsKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
    // Boxed: it is many times as large as the others.
    Secret(Box<hmac::Key>),
}

impl JwsKey {
    /// What it can sign with; the first one is the default.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        match self {
            JwsKey::P256(_) => vec![Algorithm::Es256],
            JwsKey::P384(_) => vec![Algorithm::Es384],
            JwsKey::Rsa(_) => RSA.iter().map(|(algorithm, _)| *algorithm).collect(),
            JwsKey::Ed25519(_) => vec![Algorithm::EdDsa],
            JwsKey::Secret(_) => vec![Algorithm::Hs256],
        }
    }

    /// The signature of `message` (RFC 7515 §5.1, step 5).
    ///
    /// # Errors
    /// The key is for another algorithm, or the library failed.
    pub(super) fn signature(&self, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let failed = |_| SignError("the library could not sign with the key".to_owned());
        let random = SystemRandom::new();
        match (self, algorithm) {
            (JwsKey::P256(key), Algorithm::Es256) | (JwsKey::P384(key), Algorithm::Es384) => {
                Ok(key.sign(&random, message).map_err(failed)?.as_ref().to_vec())
            }
            (JwsKey::Ed25519(key), Algorithm::EdDsa) => Ok(key.sign(message).as_ref().to_vec()),
            (JwsKey::Secret(key), Algorithm::Hs256) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            (JwsKey::Rsa(key), _) => {
                let encoding = RSA.iter().find(|(known, _)| *known == algorithm);
                let (_, encoding) = encoding.ok_or_else(|| other_algorithm(algorithm))?;
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            _ => Err(other_algorithm(algorithm)),
        }
    }
}

fn other_algorithm(algorithm: Algorithm) -> SignError {
    SignError(format!("the key does not sign with {}", name(algorithm)))
}

/// The compact JWS of `claims`, signed by `key`.
///
/// # Errors
/// Those of [`JwsKey::signature`].
pub(super) fn sign(
    header: JwsHeader<'_>,
    claims: &Map<String, Value>,
    key: &JwsKey,
) -> Result<String, SignError> {
    #[derive(Serialize)]
    struct Members<'a> {
        alg: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        kid: Option<&'a str>,
        typ: &'a str,
    }
    let members = Members { alg: name(header.algorithm), kid: header.key_id, typ: header.typ };
    let unwritable = |error: serde_json::Error| SignError(error.to_string());
    let mut token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&members).map_err(unwritable)?);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims).map_err(unwritable)?, &mut token);
    let signature = key.signature(header.algorithm, token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(header: JwsHeader<'_>, claims: &str, key: &JwsKey) -> Result<String, String> {
        let claims = serde_json::from_str(claims).unwrap();
        sign(header, &claims, key).map_err(|error| error.to_string())
    }

    /// Computed with Python's `hmac` from the bytes of header and claims.
    #[test]
    fn the_bytes_of_a_token_are_those_of_rfc_7515() {
        let key = JwsKey::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])));
        let header = JwsHeader { algorithm: Algorithm::Hs256, key_id: Some("k1"), typ: "at+jwt" };
        let token = signed(header, r#"{"sub": "u", "exp": 1}"#, &key).unwrap();
        assert_eq!(
            token,
            "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIiwidHlwIjoiYXQrand0In0.eyJleHAiOjEsInN1YiI6InUifQ.tKMwLXdblXctd3pyUylnIydHBcs_KERVZClSryllLSY"
        );
        let token = signed(JwsHeader { key_id: None, ..header }, "{}", &key).unwrap();
        assert_eq!(
            token,
            "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.28JjSa6WECM40l5OKu1xGtDp6kEB-T759uLns5Fc_Rg"
        );
    }

    #[test]
    fn a_key_signs_with_no_algorithm_of_another_kind() {
        let keys = [
            JwsKey::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]))),
            JwsKey::Ed25519(Ed25519KeyPair::generate().unwrap()),
            JwsKey::P256(
                EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ),
            JwsKey::P384(
                EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ),
            JwsKey::Rsa(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap()),
        ];
        for key in keys {
            let fitting = key.algorithms();
            for algorithm in super::super::verifying_key::ALL {
                let header = JwsHeader { algorithm, key_id: None, typ: "JWT" };
                let token = signed(header, "{}", &key);
                assert_eq!(token.is_ok(), fitting.contains(&algorithm), "{}", name(algorithm));
            }
        }
    }
}

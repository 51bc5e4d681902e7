//! Keys of issuers that the suites play, and tokens written by hand, so that malformed ones can be too.

use std::path::Path;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

enum Pair {
    Ed(Ed25519KeyPair),
    Es(EcdsaKeyPair),
    Rs(RsaKeyPair),
}

/// A key that signs, as its issuer holds it.
pub struct Key {
    pub kid: String,
    pub alg: &'static str,
    pair: Pair,
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    pub fn ed(kid: &str) -> Key {
        Key { kid: kid.into(), alg: "EdDSA", pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    pub fn es(kid: &str) -> Key {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Key { kid: kid.into(), alg: "ES256", pair: Pair::Es(pair) }
    }

    pub fn rs(kid: &str) -> Key {
        Key::of(kid, "RS256")
    }

    /// A key for an algorithm of RFC 7518 §3.1 that is not symmetric.
    pub fn of(kid: &str, alg: &'static str) -> Key {
        let pair = match alg {
            "EdDSA" => return Key::ed(kid),
            "ES256" => return Key::es(kid),
            "ES384" => Pair::Es(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            "ES512" => Pair::Es(EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap()),
            _ => Pair::Rs(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Key { kid: kid.into(), alg, pair }
    }

    /// The same RSA key, signing in another way.
    pub fn signing_as(self, alg: &'static str) -> Key {
        Key { alg, ..self }
    }

    fn rsa_encoding(&self) -> &'static dyn RsaEncoding {
        match self.alg {
            "RS384" => &RSA_PKCS1_SHA384,
            "RS512" => &RSA_PKCS1_SHA512,
            "PS256" => &RSA_PSS_SHA256,
            "PS384" => &RSA_PSS_SHA384,
            "PS512" => &RSA_PSS_SHA512,
            _ => &RSA_PKCS1_SHA256,
        }
    }

    /// The pair as rcgen takes it, for certificates.
    pub fn certifying(&self) -> rcgen::KeyPair {
        let der = match &self.pair {
            Pair::Ed(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Pair::Es(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Pair::Rs(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                der.as_ref().to_vec()
            }
        };
        rcgen::KeyPair::try_from(der).unwrap()
    }

    /// The key that the gateway with this data folder signs with.
    pub fn of_gateway(data: &Path) -> Key {
        let text = std::fs::read_to_string(data.join("signing-keys.json")).unwrap();
        let ring: Value = serde_json::from_str(&text).unwrap();
        let active = ring["keys"].as_array().unwrap().iter().find(|key| key["state"] == "active").unwrap();
        let pem = active["secret"].as_str().unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&STANDARD.decode(body).unwrap()).unwrap();
        Key { kid: active["kid"].as_str().unwrap().into(), alg: "EdDSA", pair: Pair::Ed(pair) }
    }

    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key())}),
            Pair::Es(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let crv = match x.len() {
                    32 => "P-256",
                    48 => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": crv, "x": b64(x), "y": b64(y)})
            }
            Pair::Rs(pair) => {
                let public = pair.public_key();
                let n = public.modulus().big_endian_without_leading_zero();
                let e = public.exponent().big_endian_without_leading_zero();
                json!({"kty": "RSA", "n": b64(n), "e": b64(e)})
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.alg);
        jwk["use"] = json!("sig");
        jwk
    }

    pub fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Es(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Rs(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(self.rsa_encoding(), &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// Signs a header and a payload as they are.
    pub fn raw(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }

    /// A token with this key's own header and one more member or another value in it.
    pub fn with_header(&self, change: Value, claims: &Value) -> String {
        let mut header = json!({"alg": self.alg, "typ": "JWT", "kid": self.kid});
        merge(&mut header, &change);
        self.raw(&header.to_string(), &claims.to_string())
    }

    /// A token with these claims and another one that makes it this long, or up to two bytes shorter.
    pub fn of_length(&self, length: usize, head: Value, claims: &Value) -> String {
        let padded = |padding: usize| {
            let mut claims = claims.clone();
            claims["padding"] = json!("x".repeat(padding));
            self.with_header(head.clone(), &claims)
        };
        // Three bytes of a claim are four of base64.
        let about = (length - padded(0).len()) / 4 * 3;
        (about.saturating_sub(4)..about + 5).map(padded).rfind(|token| token.len() <= length).unwrap()
    }

    pub fn token(&self, claims: &Value) -> String {
        self.with_header(json!({}), claims)
    }
}

/// `base` with the members of `change`; a `null` takes one out.
pub fn merge(base: &mut Value, change: &Value) {
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(base.as_object_mut().unwrap().remove(name)),
            value => base[name] = value.clone(),
        }
    }
}

/// An HS256 token under `secret`.
pub fn hs256(secret: &[u8], kid: &str, typ: &str, claims: &Value) -> String {
    let header = json!({"alg": "HS256", "typ": typ, "kid": kid}).to_string();
    let signed = format!("{}.{}", b64(header), b64(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", b64(tag))
}

/// The public key of an RSA pair as DER, which some would take as a secret.
pub fn public_der(key: &Key) -> Vec<u8> {
    match &key.pair {
        Pair::Rs(pair) => AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec(),
        Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
        Pair::Es(pair) => pair.public_key().as_ref().to_vec(),
    }
}

/// A JWK Set.
pub fn jwks(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

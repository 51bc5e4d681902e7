//! What the source of an issuer's keys serves, as JWKs.
//!
//! Mostly a JWK Set (RFC 7517 §5), with members of its own beside `keys`. Google serves the keys of Firebase and of its
//! identity-aware proxy also as a table: the name of each key with its certificate or its public key in PEM. Which
//! certificate authority signed is not asked: the source is the configured one, and says which keys are its own.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{diagnosis, json};

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----";

/// The byte order mark that some servers put before their JSON; RFC 8259 §8.1 lets a reader ignore it.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The keys in `bytes`, as their source wrote them. What is no object in the list is no key.
///
/// # Errors
/// What keeps it from being a set of keys, for the operator.
pub fn keys(bytes: &[u8]) -> Result<Vec<Map<String, Value>>, String> {
    let bytes = without_mark(bytes);
    let no_set = || format!("not a JWK Set: {}", diagnosis::of(bytes));
    let mut set = json::object(bytes).map_err(|_| no_set())?;
    if let Some(Value::Array(entries)) = set.remove("keys") {
        return Ok(entries.into_iter().filter_map(as_jwk).collect());
    }
    let is_pem = |value: &Value| {
        value.as_str().is_some_and(|text| {
            let text = text.trim_start();
            text.starts_with(CERTIFICATE) || text.starts_with(PUBLIC_KEY)
        })
    };
    if set.is_empty() || !set.values().all(is_pem) {
        return Err(no_set());
    }
    Ok(set
        .into_iter()
        .map(|(kid, pem)| {
            let mut jwk = pem.as_str().and_then(jwk_of_pem).unwrap_or_else(unreadable);
            jwk.insert("kid".to_owned(), Value::String(kid));
            jwk
        })
        .collect())
}

/// `bytes` without a byte order mark.
#[must_use]
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// An entry of a JWK Set, with the numbers of its certificate where it has none of its own (RFC 7517 §4.7).
fn as_jwk(entry: Value) -> Option<Map<String, Value>> {
    let Value::Object(mut jwk) = entry else { return None };
    let has_numbers = ["n", "x"].iter().any(|name| jwk.contains_key(*name));
    if !has_numbers && let Some(Value::String(first)) = jwk.get("x5c").and_then(|chain| chain.get(0)) {
        let numbers = STANDARD.decode(first).ok().and_then(|der| jwk_of_certificate(&der));
        for (name, value) in numbers.into_iter().flatten() {
            // A `kty` of its own stays, so that one that contradicts the certificate is no key.
            jwk.entry(name).or_insert(value);
        }
    }
    Some(jwk)
}

/// A key that cannot be read, by which the reader of the set names it.
fn unreadable() -> Map<String, Value> {
    Map::from_iter([("kty".to_owned(), Value::from("RSA"))])
}

/// The public key in a PEM text, a certificate or a `PUBLIC KEY` (RFC 7468 §5, §13), as a JWK without a name.
#[must_use]
pub fn jwk_of_pem(pem: &str) -> Option<Map<String, Value>> {
    let pem = pem.trim_start();
    if pem.starts_with(CERTIFICATE) {
        return jwk_of_certificate(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?);
    }
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
    jwk_of(&info)
}

fn jwk_of_certificate(der: &[u8]) -> Option<Map<String, Value>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    jwk_of(certificate.public_key())
}

fn jwk_of(info: &SubjectPublicKeyInfo<'_>) -> Option<Map<String, Value>> {
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let members = match info.parsed().ok()? {
        PublicKey::RSA(key) => {
            vec![("kty", "RSA".to_owned()), ("n", number(key.modulus)), ("e", number(key.exponent))]
        }
        PublicKey::EC(point) => {
            let (crv, length) = match curve(info)?.as_str() {
                "1.2.840.10045.3.1.7" => ("P-256", 32),
                "1.3.132.0.34" => ("P-384", 48),
                "1.3.132.0.35" => ("P-521", 66),
                _ => return None,
            };
            // Uncompressed (SEC 1 §2.3.3).
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at_checked(length).filter(|(_, y)| y.len() == length)?;
            vec![("kty", "EC".to_owned()), ("crv", crv.to_owned()), ("x", number(x)), ("y", number(y))]
        }
        // RFC 8410 §3.
        PublicKey::Unknown(x) if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            vec![("kty", "OKP".to_owned()), ("crv", "Ed25519".to_owned()), ("x", number(x))]
        }
        _ => return None,
    };
    Some(members.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect())
}

/// The object identifier of the key's curve (RFC 5480 §2.1.1).
fn curve(info: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    Some(info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string())
}

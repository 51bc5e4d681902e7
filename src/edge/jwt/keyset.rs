//! A set of verifying keys, found by exactly one name.
//!
//! A name that two keys of one algorithm share names neither. What is not usable is named, with why: an issuer whose
//! tokens are refused is found by that line.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde_json::{Map, Value};

use super::compact::Header;
use super::published;
use super::verifying_key::VerifyingKey;
use crate::config::Algorithm;
use palisade_core::domain::verdict::TokenFault;

/// Keys by `kid`, and those that have none.
#[derive(Clone, Default)]
pub struct KeySet {
    /// Those of one name verify different algorithms (RFC 7517 §4.5).
    named: HashMap<String, Vec<VerifyingKey>>,
    unnamed: Vec<VerifyingKey>,
    left_out: Vec<String>,
    passed_over: Vec<String>,
}

impl KeySet {
    /// A set of keys whose names differ.
    #[must_use]
    pub fn of(keys: impl IntoIterator<Item = (String, VerifyingKey)>) -> KeySet {
        let named = keys.into_iter().map(|(kid, key)| (kid, vec![key])).collect();
        KeySet { named, ..KeySet::default() }
    }

    /// Reads a JWK Set (RFC 7517 §5) or a table of certificates, keeping the keys of `allowed` algorithms. Members that
    /// are not understood are ignored, as that section asks. A set in which nothing can be used is empty, and no
    /// error: it says that earlier keys are keys no more.
    ///
    /// # Errors
    /// What keeps it from being a set of keys.
    pub fn parse(bytes: &[u8], allowed: &[Algorithm]) -> Result<KeySet, String> {
        KeySet::parse_for(bytes, allowed, |_| true)
    }

    /// Like [`KeySet::parse`], for a source whose `issuers` are known: `is_for` says whether a key may sign for one of
    /// them.
    ///
    /// # Errors
    /// As [`KeySet::parse`].
    pub fn parse_for(
        bytes: &[u8],
        allowed: &[Algorithm],
        is_for: impl Fn(&VerifyingKey) -> bool,
    ) -> Result<KeySet, String> {
        let mut keys = KeySet::default();
        let mut shared = BTreeSet::new();
        for jwk in published::keys(bytes)? {
            let line = |why: &dyn fmt::Display| format!("{}: {why}", shown(&jwk));
            let mut key = match VerifyingKey::from_jwk(&jwk) {
                Ok(key) => key,
                Err(unfit) if unfit.is_usual() => {
                    keys.passed_over.push(line(&unfit));
                    continue;
                }
                Err(unfit) => {
                    keys.left_out.push(line(&unfit));
                    continue;
                }
            };
            if !key.limit(allowed) {
                keys.left_out.push(line(&"not for any of the issuer's `algorithms`"));
                continue;
            }
            if !is_for(&key) {
                keys.passed_over.push(line(&"its `issuer` is another one"));
                continue;
            }
            let kid = match jwk.get("kid") {
                None | Some(Value::Null) => {
                    let known = keys.unnamed.iter_mut().find(|other| other.is_same(&key));
                    match known {
                        Some(known) => known.learn(key),
                        None => keys.unnamed.push(key),
                    }
                    continue;
                }
                Some(Value::String(kid)) => kid,
                Some(_) => {
                    keys.left_out.push(line(&"a `kid` that is no text"));
                    continue;
                }
            };
            let named = keys.named.entry(kid.clone()).or_default();
            if let Some(known) = named.iter_mut().find(|other| other.is_same(&key)) {
                // Published twice, it is still one key.
                known.learn(key);
            } else if named.iter().any(|other| other.overlaps(&key)) {
                if shared.insert(kid.clone()) {
                    keys.left_out.push(line(&"two keys share this `kid`, so it names neither"));
                }
            } else {
                named.push(key);
            }
        }
        keys.named.retain(|kid, _| !shared.contains(kid));
        Ok(keys)
    }

    /// The keys that were left out, and why an operator should look; one printable line each.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The keys that are of no use here in a healthy set, and why; one printable line each.
    #[must_use]
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    fn all(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.named.values().flatten().chain(&self.unnamed)
    }

    /// The one key that `header` can mean. Without a `kid`: the key that `x5t` (RFC 7515 §4.1.7) names, or else the only
    /// one of its algorithm. Where no key of the set has a name, the `kid` of a token names none of them, and the only one
    /// of its algorithm is meant.
    ///
    /// # Errors
    /// [`TokenFault::UnknownKey`]; [`TokenFault::Algorithm`] when the keys of this name are for other algorithms.
    pub fn find(&self, header: &Header) -> Result<&VerifyingKey, TokenFault> {
        let by_name = |name: &String| self.named.get(name);
        let named = match (&header.key_id, &header.thumbprint) {
            (Some(kid), _) => match by_name(kid) {
                None if !self.named.is_empty() => return Err(TokenFault::UnknownKey),
                named => named,
            },
            (None, Some(thumbprint)) => by_name(thumbprint),
            (None, None) => None,
        };
        if let Some(named) = named {
            return match named.as_slice() {
                [key] => Ok(key),
                keys => keys.iter().find(|key| key.verifies(header.algorithm)).ok_or(TokenFault::Algorithm),
            };
        }
        let mut fitting = self.all().filter(|key| key.verifies(header.algorithm));
        let first = fitting.next().ok_or(TokenFault::UnknownKey)?;
        // One key may stand in the set under two names.
        match fitting.all(|other| other.is_same(first)) {
            true => Ok(first),
            false => Err(TokenFault::UnknownKey),
        }
    }

    /// The one key that `header` can mean in a token of `issuer`.
    ///
    /// # Errors
    /// As [`KeySet::find`]; a key for another issuer alone is an unknown one.
    pub fn find_for(&self, header: &Header, issuer: &str) -> Result<&VerifyingKey, TokenFault> {
        self.find(header).and_then(|key| match key.signs_for(issuer) {
            true => Ok(key),
            false => Err(TokenFault::UnknownKey),
        })
    }

    /// Whether every key here is also in `other`, under the same name and for the same algorithms.
    #[must_use]
    pub fn is_within(&self, other: &KeySet) -> bool {
        self.missing_from(other) == 0
    }

    /// How many keys here are not in `other`, under the same name and for the same algorithms.
    #[must_use]
    pub fn missing_from(&self, other: &KeySet) -> usize {
        let missing = |keys: &[VerifyingKey], others: &[VerifyingKey]| {
            keys.iter().filter(|key| !others.iter().any(|other| key.is_within(other))).count()
        };
        let named = self.named.iter().map(|(kid, keys)| {
            let others = other.named.get(kid).map_or(&[][..], Vec::as_slice);
            missing(keys, others)
        });
        named.sum::<usize>() + missing(&self.unnamed, &other.unnamed)
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

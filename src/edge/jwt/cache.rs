//! The verified-token cache: what makes a token that was seen before cost a look-up instead of a
//! signature.
//!
//! The key is the whole token, signature included, so nothing but the very same bytes can hit. An entry
//! is never used at or past the token's end, nor before the moment at which it was verified, for a clock that was set
//! back, nor after a key was withdrawn; a reload makes a new cache.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use serde_json::{Map, Value};

use crate::by_end::ByEnd;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Verified;

/// The bytes of a token that count as one entry: what issuers sign is mostly shorter.
const ORDINARY: usize = 1024;

/// The most memory that one entry stands for, in bytes: an ordinary token with what it says takes about half.
const ENTRY: usize = 8 * 1024;

/// What the cache and an identity take beside the texts, about.
const OVERHEAD: usize = 512;

#[derive(Clone)]
struct Entry {
    verified: Arc<Verified>,
    epoch: u64,
    /// From when on it is known that the token has begun: by the leeway before it was verified.
    since: UnixTime,
}

/// What an entry counts for: 1 up to the ordinary length, then by its length or by the memory it takes, whichever is more.
/// A list of empty lists takes a dozen times what its text does. Asked once, when a token is kept.
#[expect(clippy::borrowed_box, reason = "the cache hands its key type to the weigher")]
fn weight(token: &Box<str>, entry: &Entry) -> u32 {
    let held = OVERHEAD + token.len() + members(&entry.verified.identity.claims);
    (token.len() / ORDINARY).max(held.div_ceil(ENTRY)).try_into().unwrap_or(u32::MAX)
}

/// About the memory that claims take, in bytes: each member has room in a node of a tree, each text one of its own.
fn members(claims: &Map<String, Value>) -> usize {
    let member = |(name, value): (&String, &Value)| 2 * size_of::<String>() + name.len() + content(value);
    claims.iter().map(member).sum()
}

/// The same of one value. No deeper than JSON is read.
fn content(value: &Value) -> usize {
    let beyond = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => size_of::<usize>() + text.len(),
        Value::Array(items) => items.iter().map(content).sum(),
        Value::Object(object) => members(object),
    };
    size_of::<Value>() + beyond
}

/// Verified tokens by their whole text.
pub struct TokenCache {
    entries: Cache<Box<str>, Entry, ByEnd>,
    leeway: Duration,
}

impl TokenCache {
    /// A cache of at most `max` tokens of an ordinary length, fewer when they are longer, and of at most 8 KiB for each of
    /// `max`; 0 keeps none.
    #[must_use]
    pub fn new(max: u64, leeway: Duration) -> TokenCache {
        TokenCache {
            entries: Cache::builder().max_capacity(max).weigher(weight).build_with_hasher(ByEnd::default()),
            leeway,
        }
    }

    /// The verified `token`, when it is still good at `now` and was verified in key epoch `epoch`.
    #[must_use]
    pub fn get(&self, token: &str, now: UnixTime, epoch: u64) -> Option<Arc<Verified>> {
        let entry = self.entries.get(token)?;
        if entry.epoch != epoch
            || now >= entry.verified.identity.expires_at.plus(self.leeway)
            || now < entry.since
        {
            self.entries.invalidate(token);
            return None;
        }
        Some(entry.verified)
    }

    /// Keeps `token`, verified at `now` while the key epoch was `epoch`.
    pub fn put(&self, token: &str, verified: &Arc<Verified>, now: UnixTime, epoch: u64) {
        let since = now.minus(self.leeway);
        self.entries.insert(token.into(), Entry { verified: Arc::clone(verified), epoch, since });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use palisade_core::domain::identity::Identity;

    fn weighed(token: usize, claims: Value) -> u32 {
        let Value::Object(claims) = claims else { unreachable!("an object") };
        let identity = Identity {
            issuer: Arc::from("https://i.test"),
            subject: "u1".into(),
            email: None,
            email_verified: false,
            session: None,
            token_id: None,
            version: None,
            scopes: Vec::new(),
            issued_at: UnixTime(1),
            expires_at: UnixTime(2),
            claims,
        };
        let entry = Entry { verified: Arc::new(Verified::new(identity)), epoch: 0, since: UnixTime(0) };
        weight(&"x".repeat(token).into(), &entry)
    }

    #[test]
    fn an_entry_counts_for_the_memory_that_it_takes() {
        let usual: Map<String, Value> =
            (0..20).map(|n| (format!("claim-{n}"), json!("a text of 32 bytes, as many are."))).collect();
        assert_eq!(weighed(300, json!({"sub": "u1"})), 1);
        assert_eq!(weighed(2047, Value::Object(usual)), 1);
        let groups: Vec<String> = (0..460).map(|n| format!("00000000-0000-0000-0000-{n:012}")).collect();
        assert_eq!(weighed(24 * 1024, json!({ "groups": groups })), 24);
        // What makes most of the fewest bytes: 18 kB of JSON are a token of 24 kB.
        for claims in [
            json!({"a": vec![json!([]); 6000]}),
            json!({"a": vec![1; 9000]}),
            json!({"a": vec![json!({}); 6000]}),
            Value::Object((0..2500).map(|n| (n.to_string(), json!(1))).collect()),
        ] {
            let (weight, entry) = (weighed(24 * 1024, claims.clone()) as usize, ENTRY);
            assert!(weight * entry >= 24 * 1024 + content(&claims), "{weight}");
            assert!(weight >= 24, "{weight}");
        }
    }
}

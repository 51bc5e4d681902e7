//! The verified-token cache: what makes a token that was seen before cost a look-up instead of a
//! signature.
//!
//! The key is the whole token, signature included, so nothing but the very same bytes can hit. An entry
//! is never used at or past the token's end, nor before the moment at which it was verified, for a clock that was set
//! back, nor after a key was withdrawn; a reload makes a new cache.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::by_end::ByEnd;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Verified;

/// The bytes of a token that count as one entry: what issuers sign is mostly shorter.
const ORDINARY: usize = 1024;

#[derive(Clone)]
struct Entry {
    verified: Arc<Verified>,
    epoch: u64,
    /// From when on it is known that the token has begun: by the leeway before it was verified.
    since: UnixTime,
}

/// What an entry counts for: 1 up to the ordinary length, then by its length.
#[expect(clippy::borrowed_box, reason = "the cache hands its key type to the weigher")]
fn weight(token: &Box<str>, _: &Entry) -> u32 {
    (token.len() / ORDINARY).max(1).try_into().unwrap_or(u32::MAX)
}

/// Verified tokens by their whole text.
pub struct TokenCache {
    entries: Cache<Box<str>, Entry, ByEnd>,
    leeway: Duration,
}

impl TokenCache {
    /// A cache of at most `max` tokens of an ordinary length, fewer when they are longer; 0 keeps none.
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

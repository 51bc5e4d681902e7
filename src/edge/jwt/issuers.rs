//! The keys of external issuers: fetched ahead, refreshed in the background, kept when their source is
//! down.
//!
//! Only the configured source is ever read; a token can at most make us look there again, once per
//! [`ASK_AGAIN`] and issuer however many ask. Symmetric keys are never taken from a public source.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::keyset::KeySet;
use crate::config::{Algorithm, Issuer, Jwks};
use crate::ports::{Fetch, Meter};

/// The shortest time between two looks that tokens can cause.
pub const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The largest JWK Set read from a URL.
const MAX_JWKS_BYTES: usize = 1024 * 1024;

/// One issuer and its last good keys.
pub struct External {
    /// `iss`, exactly.
    pub name: Arc<str>,
    pub audiences: Vec<String>,
    /// What it may sign with; never symmetric.
    pub algorithms: Vec<Algorithm>,
    source: Jwks,
    keys: ArcSwap<KeySet>,
    /// How often keys were taken over.
    taken: AtomicU64,
    /// When the source was last asked. Held while asking, so that one asks and the others wait.
    asked: Arc<Mutex<Option<Instant>>>,
}

impl External {
    /// The keys as last fetched.
    #[must_use]
    pub fn keys(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.keys.load()
    }
}

/// Every external issuer.
pub struct Issuers {
    all: HashMap<String, Arc<External>>,
    asker: Asker,
}

/// What it takes to ask a source.
#[derive(Clone)]
struct Asker {
    fetch: Arc<dyn Fetch>,
    meter: Arc<dyn Meter>,
    /// Grows whenever a key disappears, so that what it verified is verified again.
    epoch: Arc<AtomicU64>,
}

impl Issuers {
    /// The issuers of the configuration, without keys until [`Issuers::refresh_all`].
    #[must_use]
    pub fn new(issuers: &[Issuer], fetch: Arc<dyn Fetch>, meter: Arc<dyn Meter>) -> Issuers {
        let all = issuers.iter().map(|issuer| {
            let external = External {
                name: Arc::from(issuer.issuer.as_str()),
                audiences: issuer.audiences.clone(),
                algorithms: issuer.algorithms.iter().copied().filter(|a| *a != Algorithm::Hs256).collect(),
                source: issuer.jwks.clone(),
                keys: ArcSwap::default(),
                taken: AtomicU64::new(0),
                asked: Arc::default(),
            };
            (issuer.issuer.clone(), Arc::new(external))
        });
        Issuers { all: all.collect(), asker: Asker { fetch, meter, epoch: Arc::default() } }
    }

    /// Takes over the keys of issuers that `before` knew with the same source and algorithms, so that a
    /// reload never forgets a good key.
    pub fn inherit(&self, before: &Issuers) {
        for (name, external) in &self.all {
            if let Some(old) = before.all.get(name)
                && old.source == external.source
                && old.algorithms == external.algorithms
            {
                external.keys.store(old.keys.load_full());
            }
        }
    }

    /// The issuer whose `iss` is exactly `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&External> {
        self.all.get(name).map(Arc::as_ref)
    }

    /// The key epoch: what was verified in an earlier one must be verified again.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.asker.epoch.load(Ordering::Acquire)
    }

    /// The issuers that have no key yet; their tokens cannot be verified.
    #[must_use]
    pub fn without_keys(&self) -> Vec<Arc<str>> {
        self.all.values().filter(|e| e.keys.load().is_empty()).map(|e| Arc::clone(&e.name)).collect()
    }

    /// Asks every source, all at once. For the start and for the background, every five minutes.
    pub async fn refresh_all(&self) {
        futures::future::join_all(self.all.values().map(|external| async move {
            let mut asked = external.asked.lock().await;
            *asked = Some(Instant::now());
            self.asker.ask(external).await;
        }))
        .await;
    }

    /// Asks the source of `name` for a key it may have published, unless it was asked within the last
    /// [`ASK_AGAIN`] before `at`. True when keys were taken over since the call began.
    pub async fn learn(&self, name: &str, at: Instant) -> bool {
        let Some(external) = self.all.get(name) else { return false };
        let before = external.taken.load(Ordering::Acquire);
        let mut asked = Arc::clone(&external.asked).lock_owned().await;
        if external.taken.load(Ordering::Acquire) != before {
            return true; // Somebody else asked while we waited.
        }
        if asked.is_some_and(|last| at.saturating_duration_since(last) < ASK_AGAIN) {
            return false;
        }
        *asked = Some(at);
        // On its own: a caller who leaves must not take the answer, and the next ten seconds, with it.
        let (asker, external) = (self.asker.clone(), Arc::clone(external));
        let asking = tokio::spawn(async move {
            let _asked = asked;
            asker.ask(&external).await
        });
        asking.await.unwrap_or(false)
    }
}

impl Asker {
    /// Reads the source; keeps the last good keys when it brings none.
    async fn ask(&self, external: &External) -> bool {
        let read = match &external.source {
            Jwks::Url(url) => self.fetch.get(url, MAX_JWKS_BYTES).await.map_err(|error| error.to_string()),
            Jwks::File(path) => tokio::fs::read(path).await.map_err(|e| format!("{}: {e}", path.display())),
        };
        let keys = read.and_then(|bytes| KeySet::parse(&bytes, &external.algorithms));
        self.meter.jwks_fetch(&external.name, keys.is_ok());
        match keys {
            Ok(keys) => {
                let before = external.keys.swap(Arc::new(keys));
                if !before.is_within(&external.keys.load()) {
                    self.epoch.fetch_add(1, Ordering::AcqRel);
                }
                external.taken.fetch_add(1, Ordering::AcqRel);
                true
            }
            Err(why) => {
                tracing::warn!(issuer = %external.name, %why, "no keys from the issuer; the last good ones stay");
                false
            }
        }
    }
}

//! The keys of external issuers: fetched ahead, refreshed in the background, kept when their source is
//! down, also across a restart.
//!
//! Only the configured source is ever read; a token can at most make us look there again, once per
//! [`ASK_AGAIN`] and issuer however many ask. Symmetric keys are never taken from a public source. Neither a
//! start nor a reload waits for a source that does not answer. A valid key set is in force as it is: a key
//! that is not in it any more verifies nothing, and an empty one ends them all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot, watch};

use super::discovery::{self, NotFound};
pub use super::key_news::{KeySetOutcome, News};
use super::keyset::KeySet;
use super::stored::StoredKeys;
use super::verifying_key::VerifyingKey;
use crate::config::{Algorithm, Issuer, Jwks, Redaction};
use palisade_core::domain::claim_names::ClaimNames;
use palisade_core::domain::reach::Reach;
use palisade_core::ports::{Clock, Fetch, FetchRequest, Meter};

/// The shortest time between two looks that tokens can cause.
pub const ASK_AGAIN: Duration = Duration::from_secs(10);

/// How long a start or a reload waits for files, which are on this machine.
const FILES: Duration = Duration::from_secs(2);

/// The largest JWK Set read from a URL.
const MAX_JWKS_BYTES: usize = 1024 * 1024;

/// One issuer, as a configuration describes it.
pub struct External {
    /// `iss`, exactly.
    name: Arc<str>,
    pub audiences: Vec<String>,
    /// Which claims of its tokens say what.
    pub claims: Arc<ClaimNames>,
    /// Addresses of which the issuer does not say whether they are verified count as verified.
    pub email_trusted: bool,
    source: Arc<Source>,
}

impl External {
    /// `iss`, exactly.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it may sign with; never symmetric.
    #[must_use]
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.source.algorithms
    }

    /// The keys as last fetched.
    #[must_use]
    pub fn keys(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.source.keys.load()
    }
}

/// Where an issuer's keys come from, and the last good ones. Handed on from one configuration to the next.
struct Source {
    /// As it is configured; with several tenants, their one name.
    issuer: Arc<str>,
    /// Whose tokens its keys verify.
    names: Vec<String>,
    jwks: Jwks,
    /// Where the document of the issuer last said that the keys are.
    discovered: ArcSwapOption<String>,
    reach: Reach,
    redaction: Redaction,
    algorithms: Vec<Algorithm>,
    keys: ArcSwap<KeySet>,
    asks: watch::Sender<Asks>,
    /// When the source was last asked. Held while asking, so that one asks and the others wait.
    asked: Arc<Mutex<Option<Instant>>>,
    /// Made at the start, and not asked to the end since.
    awaited: AtomicBool,
}

impl Source {
    /// Whether a key of a set that several share may sign for one of its issuers.
    fn is_for(names: &[String]) -> impl Fn(&VerifyingKey) -> bool + '_ {
        |key| names.iter().any(|name| key.signs_for(name))
    }

    /// Tells those who wait that the source was asked, and whether that brought keys.
    fn ended(&self, taken: bool) {
        self.awaited.store(false, Ordering::Release);
        self.asks.send_modify(|asks| {
            asks.ended += 1;
            asks.taken += u64::from(taken);
        });
    }
}

/// How often a source was asked to the end, and how often that brought keys.
#[derive(Default)]
struct Asks {
    ended: u64,
    taken: u64,
}

/// What it takes to ask sources; one for the whole process.
#[derive(Clone)]
pub struct Asker {
    fetch: Arc<dyn Fetch>,
    meter: Arc<dyn Meter>,
    clock: Arc<dyn Clock>,
    /// `None`: nothing is kept on disk.
    stored: Option<Arc<StoredKeys>>,
    /// Grows whenever a key disappears, so that what it verified is verified again.
    epoch: Arc<AtomicU64>,
}

/// Every external issuer.
pub struct Issuers {
    /// By the `iss` of their tokens.
    all: HashMap<String, External>,
    sources: Vec<Arc<Source>>,
    asker: Asker,
}

impl Issuers {
    /// The issuers of the configuration at the start, with the keys that are kept on disk until
    /// [`Issuers::begin`].
    #[must_use]
    pub fn new(issuers: &[Issuer], asker: Asker) -> Issuers {
        Issuers::made(issuers, asker, None)
    }

    /// The issuers of another configuration. Those with the same source and algorithms go on with the keys
    /// that they have, so that a reload never forgets a good key. Blocks for as long as small files take.
    #[must_use]
    pub fn succeed(&self, issuers: &[Issuer]) -> Issuers {
        Issuers::made(issuers, self.asker.clone(), Some(self))
    }

    fn made(issuers: &[Issuer], asker: Asker, before: Option<&Issuers>) -> Issuers {
        let mut made = Issuers { all: HashMap::new(), sources: Vec::new(), asker };
        for issuer in issuers {
            let public = |algorithm: &Algorithm| *algorithm != Algorithm::Hs256;
            let algorithms: Vec<_> = issuer.algorithms.iter().copied().filter(public).collect();
            let same = |known: &&Arc<Source>| {
                *known.issuer == *issuer.issuer
                    && known.names == issuer.names
                    && known.jwks == issuer.jwks
                    && known.reach == issuer.reach
                    && known.algorithms == algorithms
            };
            let known = before.and_then(|before| before.sources.iter().find(same)).cloned();
            let source = known.unwrap_or_else(|| {
                Arc::new(Source {
                    issuer: Arc::from(issuer.issuer.as_str()),
                    names: issuer.names.clone(),
                    keys: ArcSwap::from_pointee(made.asker.stored_keys(issuer, &algorithms)),
                    jwks: issuer.jwks.clone(),
                    discovered: ArcSwapOption::empty(),
                    reach: issuer.reach.clone(),
                    redaction: issuer.redaction.clone(),
                    algorithms,
                    asks: watch::Sender::default(),
                    asked: Arc::default(),
                    awaited: AtomicBool::new(before.is_none()),
                })
            });
            let claims = Arc::new(issuer.claims.clone());
            for name in &issuer.names {
                let external = External {
                    name: Arc::from(name.as_str()),
                    audiences: issuer.audiences.clone(),
                    claims: Arc::clone(&claims),
                    email_trusted: issuer.email_trusted,
                    source: Arc::clone(&source),
                };
                made.all.insert(name.clone(), external);
            }
            made.sources.push(source);
        }
        made
    }

    /// The issuer whose `iss` is exactly `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&External> {
        self.all.get(name)
    }

    /// The key epoch: what was verified in an earlier one must be verified again.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.asker.epoch.load(Ordering::Acquire)
    }

    /// The issuers that have no key; their tokens cannot be verified.
    #[must_use]
    pub fn without_keys(&self) -> Vec<Arc<str>> {
        self.names(|source| source.keys.load().is_empty())
    }

    /// The issuers that have no key and whose source is still being asked for the first time since the start.
    #[must_use]
    pub fn awaited(&self) -> Vec<Arc<str>> {
        self.names(|source| source.keys.load().is_empty() && source.awaited.load(Ordering::Acquire))
    }

    fn names(&self, which: impl Fn(&Source) -> bool) -> Vec<Arc<str>> {
        let sources = self.sources.iter().filter(|source| which(source));
        let mut names: Vec<_> = sources.map(|source| Arc::clone(&source.issuer)).collect();
        names.sort();
        names
    }

    /// Asks every source: for the start and for a reload. Waits for files, and for `patience` for others; what
    /// is not there by then is taken over, and logged, when it comes.
    pub async fn begin(&self, patience: Duration) -> Vec<News> {
        let waits = self.sources.iter().map(|source| {
            let (tell, told) = oneshot::channel();
            // Taken before the first request is served, so that a token with an unknown key waits for this answer instead
            // of asking for one of its own.
            let turn = Arc::clone(&source.asked).try_lock_owned();
            let (asker, asking) = (self.asker.clone(), Arc::clone(source));
            tokio::spawn(async move {
                let turn = match turn {
                    Ok(turn) => turn,
                    Err(_) => Arc::clone(&asking.asked).lock_owned().await,
                };
                let outcome = asker.ask(&asking, turn).await;
                if let Err(late) = tell.send(outcome) {
                    News { issuer: Arc::clone(&asking.issuer), outcome: late }.log();
                }
            });
            let patience = match source.jwks {
                Jwks::File(_) => patience.max(FILES),
                Jwks::Url(_) | Jwks::Discovery(_) => patience,
            };
            async move {
                let answer = tokio::time::timeout(patience, told).await;
                let pending = || KeySetOutcome::Pending { keys: source.keys.load().len() };
                let outcome = answer.ok().and_then(Result::ok).unwrap_or_else(pending);
                News { issuer: Arc::clone(&source.issuer), outcome }
            }
        });
        let waits: Vec<_> = waits.collect();
        let mut news = futures::future::join_all(waits).await;
        news.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        news
    }

    /// Removes the stored keys of issuers that the configuration in force does not have.
    pub async fn forget_others(&self) {
        let Some(stored) = self.asker.stored.clone() else { return };
        let names: Vec<String> = self.sources.iter().map(|source| source.issuer.to_string()).collect();
        let work = move || stored.forget_others(names.iter().map(String::as_str));
        // A panic in there was reported, and leaves files that are looked at again at the next start.
        drop(tokio::task::spawn_blocking(work).await);
    }

    /// Asks every source, all at once, and logs what that brought. For the background, every five minutes.
    pub async fn refresh_all(&self) {
        futures::future::join_all(self.sources.iter().map(|source| async move {
            let turn = Arc::clone(&source.asked).lock_owned().await;
            let outcome = self.asker.ask(source, turn).await;
            News { issuer: Arc::clone(&source.issuer), outcome }.log();
        }))
        .await;
    }

    /// Asks the source of `name` for a key it may have published, unless it was asked within the last
    /// [`ASK_AGAIN`] before `at`. True when keys were taken over since the call began.
    pub async fn learn(&self, name: &str, at: Instant) -> bool {
        let Some(External { source, .. }) = self.all.get(name) else { return false };
        let mut asks = source.asks.subscribe();
        let before = asks.borrow_and_update().taken;
        let turn = tokio::select! {
            biased;
            // Another one asked while this one waited; if in vain, this one need not wait for the next.
            Ok(()) = asks.changed() => return asks.borrow().taken != before,
            turn = Arc::clone(&source.asked).lock_owned() => turn,
        };
        if turn.is_some_and(|last| at.saturating_duration_since(last) < ASK_AGAIN) {
            return false;
        }
        // A task of its own (single-flight): a caller that is dropped must not cancel the fetch for the others.
        let (asker, source) = (self.asker.clone(), Arc::clone(source));
        let asking = tokio::spawn(async move {
            let outcome = asker.ask_at(&source, turn, at).await;
            let took = matches!(outcome, KeySetOutcome::Same | KeySetOutcome::Changed { .. });
            News { issuer: Arc::clone(&source.issuer), outcome }.log();
            took
        });
        asking.await.unwrap_or(false)
    }
}

impl Asker {
    /// An asker that keeps what it gets in `stored`.
    #[must_use]
    pub fn new(
        fetch: Arc<dyn Fetch>,
        meter: Arc<dyn Meter>,
        clock: Arc<dyn Clock>,
        stored: Option<Arc<StoredKeys>>,
    ) -> Asker {
        Asker { fetch, meter, clock, stored, epoch: Arc::default() }
    }

    /// The keys of an issuer as they were stored; none where nothing usable is.
    fn stored_keys(&self, issuer: &Issuer, algorithms: &[Algorithm]) -> KeySet {
        let (Some(stored), Some(place)) = (&self.stored, place(&issuer.jwks)) else {
            return KeySet::default();
        };
        let found = match stored.load(&issuer.issuer, place, self.clock.now()) {
            Ok(None) => return KeySet::default(),
            Ok(Some(found)) => found,
            Err(why) => {
                tracing::warn!("stored keys of {}: {why}", issuer.issuer);
                return KeySet::default();
            }
        };
        let is_for = Source::is_for(&issuer.names);
        let keys = KeySet::parse_for(&found.jwks, algorithms, is_for).unwrap_or_default();
        let age = humantime::format_duration(found.age);
        tracing::info!(
            "keys of {}: {} as fetched {age} ago, until its source answers",
            issuer.issuer,
            keys.len()
        );
        keys
    }

    async fn ask(&self, source: &Source, turn: OwnedMutexGuard<Option<Instant>>) -> KeySetOutcome {
        self.ask_at(source, turn, Instant::now()).await
    }

    /// Reads the source; keeps the last good keys when it brings none.
    async fn ask_at(
        &self,
        source: &Source,
        mut turn: OwnedMutexGuard<Option<Instant>>,
        at: Instant,
    ) -> KeySetOutcome {
        *turn = Some(at);
        let began = Instant::now();
        let read = self.read(source).await.and_then(|(place, bytes)| {
            let keys = KeySet::parse_for(&bytes, &source.algorithms, Source::is_for(&source.names));
            Ok((keys.map_err(|why| format!("{place}: {why}"))?, bytes))
        });
        self.meter.jwks_fetch(&source.issuer, read.is_ok());
        match read {
            Ok((keys, bytes)) => {
                let keys = Arc::new(keys);
                let before = source.keys.swap(Arc::clone(&keys));
                let (new, withdrawn) = (keys.missing_from(&before), before.missing_from(&keys));
                if withdrawn > 0 {
                    self.epoch.fetch_add(1, Ordering::AcqRel);
                }
                source.ended(true);
                self.keep(source, bytes, began).await;
                let is_told =
                    keys.left_out() == before.left_out() && keys.passed_over() == before.passed_over();
                match new + withdrawn == 0 && is_told && !keys.is_empty() {
                    true => KeySetOutcome::Same,
                    false => KeySetOutcome::Changed {
                        keys: keys.len(),
                        new,
                        withdrawn,
                        left_out: keys.left_out().to_vec(),
                        passed_over: keys.passed_over().to_vec(),
                    },
                }
            }
            Err(why) => {
                source.ended(false);
                KeySetOutcome::Failed { why: source.redaction.hide(why), keys: source.keys.load().len() }
            }
        }
    }

    /// What the source of the keys serves, and where that is.
    async fn read(&self, source: &Source) -> Result<(String, Vec<u8>), String> {
        let at = match &source.jwks {
            Jwks::File(path) => {
                let read = tokio::fs::read(path).await;
                let place = path.display().to_string();
                return read.map_err(|error| format!("{place}: {error}")).map(|bytes| (place, bytes));
            }
            Jwks::Url(url) => url.clone(),
            Jwks::Discovery(documents) => {
                let found = discovery::find(&*self.fetch, documents, &source.issuer, &source.reach).await;
                match (found, source.discovered.load_full()) {
                    (Ok(url), _) => {
                        source.discovered.store(Some(Arc::new(url.clone())));
                        url
                    }
                    // The document is only the way to the keys, which may be up while it is down.
                    (Err(NotFound::Down(_)), Some(last)) => String::clone(&last),
                    (Err(NotFound::Down(why) | NotFound::Wrong(why)), _) => return Err(why),
                }
            }
        };
        let request = FetchRequest { url: &at, max_bytes: MAX_JWKS_BYTES, reach: &source.reach };
        match self.fetch.get(request).await {
            Ok(fetched) => Ok((at, fetched.body)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn keep(&self, source: &Source, jwks: Vec<u8>, asked_at: Instant) {
        let (Some(stored), Some(place)) = (self.stored.clone(), place(&source.jwks)) else { return };
        let place = place.to_owned();
        let (issuer, now) = (Arc::clone(&source.issuer), self.clock.now());
        let kept =
            tokio::task::spawn_blocking(move || stored.keep(&issuer, &place, &jwks, asked_at, now)).await;
        if let Ok(Err(why)) = kept {
            tracing::warn!("the keys of {} are not stored: {why}", source.issuer);
        }
    }
}

/// What keys on disk are bound to: a key set that another configured source published is not taken. A file is on the disk
/// already.
fn place(jwks: &Jwks) -> Option<&str> {
    match jwks {
        Jwks::Url(url) | Jwks::Discovery([url, _]) => Some(url),
        Jwks::File(_) => None,
    }
}

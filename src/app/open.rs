//! Phase 1 of a start, open: the data folder, the store, our secrets, the clock and the signing keys. A start that is
//! refused before the store is opened has changed nothing.

use std::sync::Arc;

use tokio::sync::Notify;

use super::backend::{self, Backend};
use super::options::Options;
use super::{files, key_checks, secrets, warnings};
use crate::config::Config;
use crate::edge::clock::uptime;
use crate::edge::data_dir;
use crate::edge::entropy::SystemEntropy;
use crate::edge::jwt::{Clocks, SigningKeyRing};
use crate::edge::store::{CacheObserver, Doubts, Kept, MeterObserver, ObservedStore, RevocationCache};
use crate::edge::telemetry::Meters;
use crate::edge::telemetry::metrics::Metrics;
use palisade_core::domain::lease::LeaseHolder;
use palisade_core::ports::{Clock, Entropy, SecretStore, Store};
use palisade_core::service::clock::{GuardedClock, Uptime};

/// What the phase made. Nothing runs yet beside the store's own threads.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) options: Options,
    /// What the operator should know, one line each.
    pub(super) notices: Vec<String>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) meters: Arc<Meters>,
    pub(super) backend: Backend,
    /// The store of `backend`, with what observes each commit.
    pub(super) store: Arc<dyn Store>,
    pub(super) secrets: Arc<dyn SecretStore>,
    /// Not loaded yet.
    pub(super) revocations: Arc<RevocationCache>,
    /// Notified after every change of `revocations`.
    pub(super) revocations_changed: Arc<Notify>,
    /// How far other issuers' clocks were seen ahead.
    pub(super) issuer_clocks: Arc<Clocks>,
    pub(super) clock: Arc<GuardedClock>,
    pub(super) ring: SigningKeyRing,
}

/// Opens what lasts.
///
/// # Errors
/// What kept it from that, with advice, as one printable text.
pub(super) async fn open(clock: Arc<dyn Clock>, config: Config, options: Options) -> Result<Opened, String> {
    let faults = files::faults(&config);
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    let mut notices = config.warnings.clone();
    notices.extend(config.unsent_emails.iter().chain(&config.exposures).cloned());
    notices.extend(warnings::about(&config).await);
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|error| error.to_string())?);
    let meters = Arc::new(Meters::new(Arc::clone(&metrics), config.log.access));

    let data_dir = config.store.data_dir();
    data_dir::make(data_dir)?;
    let secrets = backend::secrets(&config.store);
    let backend = open_backend(&config, options, &*secrets, &mut notices)?;
    let issuer_clocks = Arc::new(Clocks::open(data_dir)?);
    notices.extend(data_dir::tighten(data_dir)?);

    let revocations = Arc::new(RevocationCache::new(uptime_of(&clock)));
    let revocations_changed = Arc::new(Notify::new());
    let store = observed(&backend, &meters, &revocations, &revocations_changed);
    let clock = guard(clock, &*store).await?;
    let ring = SigningKeyRing::open(&config.tokens, Arc::clone(&secrets), clock.reading())
        .map_err(|error| error.to_string())?;
    if ring.made_keys() {
        notices.push(format!("signing keys were made in {}", data_dir.display()));
    }
    Ok(Opened {
        config,
        options,
        notices,
        metrics,
        meters,
        backend,
        store,
        secrets,
        revocations,
        revocations_changed,
        issuer_clocks,
        clock,
        ring,
    })
}

/// Opens the store, once everything beside it in the data folder has been looked at.
fn open_backend(
    config: &Config,
    options: Options,
    own: &dyn SecretStore,
    notices: &mut Vec<String>,
) -> Result<Backend, String> {
    let data_dir = config.store.data_dir();
    let doubts = if options.accept.store_as_it_is { Doubts::Accept } else { Doubts::Refuse };
    let mut admitted = Vec::new();
    // A start that is refused changes nothing: all of this is looked at before the store is opened for use.
    let mut admit = |kept: &Kept| {
        admitted = secrets::admit(config, own, kept, options.accept)?;
        let known = kept.key_checks.as_ref().map_err(Clone::clone)?;
        admitted.extend(key_checks::admit(known, own, data_dir, options.accept)?);
        if config.tokens.key.is_none() {
            SigningKeyRing::look(own).map_err(|error| error.to_string())?;
        }
        Clocks::open(data_dir).map(drop)
    };
    let backend = Backend::open(&config.store, doubts, &mut admit)?;
    notices.append(&mut admitted);
    Ok(backend)
}

/// The store with its observers: the metrics, and the set of revocations in memory.
fn observed(
    backend: &Backend,
    meters: &Arc<Meters>,
    revocations: &Arc<RevocationCache>,
    changed: &Arc<Notify>,
) -> Arc<dyn Store> {
    let changed = Arc::clone(changed);
    let meter = Arc::new(MeterObserver(Arc::clone(meters) as _));
    let cache = CacheObserver::new(Arc::clone(revocations), Box::new(move || changed.notify_one()));
    Arc::new(ObservedStore::new(backend.store(), vec![meter, Arc::new(cache)]))
}

/// The uptime as `clock` tells it, or as the machine does.
fn uptime_of(clock: &Arc<dyn Clock>) -> Uptime {
    let clock = Arc::clone(clock);
    Box::new(move || clock.uptime().unwrap_or_else(uptime))
}

/// The clock that everything goes by: `clock`, compared with the mark in `store` and the uptime.
async fn guard(clock: Arc<dyn Clock>, store: &dyn Store) -> Result<Arc<GuardedClock>, String> {
    let uptime = uptime_of(&clock);
    let holder = LeaseHolder(SystemEntropy.uuid());
    let guarded =
        GuardedClock::start(clock, uptime, store, holder).await.map_err(|error| error.to_string())?;
    // Before anything is signed by this clock. A full disk must not keep what can be served from being served.
    if let Err(error) = guarded.tick(store).await {
        tracing::warn!(%error, "the mark of the clock was not written; it is tried again");
    }
    Ok(guarded)
}

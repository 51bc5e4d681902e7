//! Phase 1 of a start, open: the data folder, the store, our secrets, the clock and the signing keys. A start that is
//! refused before the store is opened has changed nothing.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;

use super::backend::Backend;
use super::ends::{self, DatedJournal};
use super::options::Options;
use super::{closed, files, key_checks, secrets, shared, warnings};
use crate::config::{Config, StoreUrl};
use crate::edge::clock::uptime;
use crate::edge::data_dir;
use crate::edge::entropy::SystemEntropy;
use crate::edge::jwt::{Clocks, SigningKeyRing};
use crate::edge::own_secrets::FolderSecrets;
use crate::edge::store::{
    CacheObserver, Doubts, Kept, MeterObserver, ObservedStore, RevocationCache, SledStore,
};
use crate::edge::telemetry::Meters;
use crate::edge::telemetry::metrics::Metrics;
use palisade_core::domain::lease::LeaseHolder;
use palisade_core::ports::{Clock, Entropy, FeedSink, OwnSecret, SecretStore, Store};
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
    /// The journal of ends, if one is kept.
    pub(super) ends: Option<Arc<DatedJournal>>,
    pub(super) secrets: Arc<dyn SecretStore>,
    /// Where the feed of a store that replicas share leads to.
    pub(super) sink: Arc<dyn FeedSink>,
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
    let (backend, secrets) = match &config.store {
        StoreUrl::Sled(folder) => {
            let secrets: Arc<dyn SecretStore> = Arc::new(FolderSecrets::new(folder));
            (open_sled(&config, folder, options, &*secrets, &mut notices)?, secrets)
        }
        StoreUrl::Postgres(settings) => {
            let meter = metrics.replica();
            let opening = Box::pin(shared::open(&config, settings, options, meter, &mut notices));
            let backend = opening.await?;
            let secrets = Arc::clone(&backend.secrets) as Arc<dyn SecretStore>;
            (Backend::Postgres(Arc::new(backend)), secrets)
        }
    };
    let issuer_clocks = Arc::new(Clocks::open(data_dir)?);
    notices.extend(data_dir::tighten(data_dir)?);

    let revocations = Arc::new(RevocationCache::new(uptime_of(&clock)));
    let revocations_changed = Arc::new(Notify::new());
    let ends = ends::keeper(&config, &*secrets, Arc::clone(&clock))?;
    let (store, sink) = observed(&backend, &meters, &revocations, &revocations_changed, ends.clone());
    let clock = guard(clock, &*store).await?;
    let ring = SigningKeyRing::open(&config.tokens, Arc::clone(&secrets), clock.reading())
        .map_err(|error| error.to_string())?;
    if ring.made_keys() {
        notices.push(match secrets.is_shared() {
            false => format!("signing keys were made in {}", data_dir.display()),
            true => format!("signing keys were made: {}", secrets.place(OwnSecret::SigningKeys)),
        });
    }
    Ok(Opened {
        config,
        options,
        notices,
        metrics,
        meters,
        backend,
        store,
        ends,
        secrets,
        sink,
        revocations,
        revocations_changed,
        issuer_clocks,
        clock,
        ring,
    })
}

/// Opens the store in the data folder, once everything beside it has been looked at.
fn open_sled(
    config: &Config,
    data_dir: &Path,
    options: Options,
    own: &dyn SecretStore,
    notices: &mut Vec<String>,
) -> Result<Backend, String> {
    let doubts = if options.accept.store_as_it_is { Doubts::Accept } else { Doubts::Refuse };
    let mut admitted = Vec::new();
    // A start that is refused changes nothing: all of this is looked at before the store is opened for use.
    let mut admit = |kept: &Kept| {
        admitted = closed::admit(kept, options.accept)?.into_iter().collect();
        admitted.extend(secrets::admit(config, own, kept, options.accept)?);
        let known = kept.key_checks.as_ref().map_err(Clone::clone)?;
        admitted.extend(key_checks::admit(known, own, data_dir, options.accept)?);
        if config.tokens.key.is_none() {
            SigningKeyRing::look(own).map_err(|error| error.to_string())?;
        }
        Clocks::open(data_dir).map(drop)
    };
    let store = SledStore::open_admitted(data_dir, doubts, &mut admit).map_err(|error| error.to_string())?;
    notices.append(&mut admitted);
    Ok(Backend::Sled(store))
}

/// The store with its observers: the metrics, and the set of revocations in memory.
fn observed(
    backend: &Backend,
    meters: &Arc<Meters>,
    revocations: &Arc<RevocationCache>,
    changed: &Arc<Notify>,
    ends: Option<Arc<DatedJournal>>,
) -> (Arc<dyn Store>, Arc<dyn FeedSink>) {
    let changed = Arc::clone(changed);
    let meter = Arc::new(MeterObserver(Arc::clone(meters) as _));
    let cache = CacheObserver::new(Arc::clone(revocations), Box::new(move || changed.notify_one()));
    let cache = Arc::new(cache);
    let store = ObservedStore::new(backend.store(), vec![meter, Arc::clone(&cache) as _]);
    let store = match ends {
        Some(keeper) => store.with_ends(keeper),
        None => store,
    };
    (Arc::new(store), cache)
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

//! What goes on beside the requests, until the gateway stops.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use super::ends::DatedJournal;
use super::state::ProcessState;
use crate::edge::entropy::SystemEntropy;
use crate::edge::jwt::{Clocks, SigningKeyRing};
use crate::edge::proxy;
use crate::edge::proxy::expiry::{self, Warning};
use crate::edge::proxy::tls::Acceptor;
use crate::edge::store::LeaseLeft;
use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::route::{Auth, FailMode};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Clock, Entropy, Keys, Store, StoreError};
use palisade_core::service::clock::GuardedClock;
use palisade_core::service::left_to_app::LeftToApp;
use palisade_core::service::ongoing::Expiry;

/// How often external keys are fetched again.
const REFRESH_KEYS: Duration = Duration::from_secs(300);
/// Walks through the open exchanges follow each other no closer than this: a flood of revocations must leave time for
/// requests.
const BETWEEN_WALKS: Duration = Duration::from_millis(50);
/// How often the lease of the revocations is looked at beside its end: the clock of timers stops in a suspend, that of the
/// lease goes on.
const LOOK_AT_LEASE: Duration = Duration::from_millis(50);
/// How often exchanges with expired tokens are looked for.
const LOOK_FOR_EXPIRED: Duration = Duration::from_secs(1);
/// How often ended revocations are removed from the store.
const SWEEP: Duration = Duration::from_secs(60);
/// For how long one gateway of several is the one that sweeps.
const SWEEPER: Duration = Duration::from_secs(150);
/// How often it is looked whether totals for the audit log are due.
const LOOK_AT_TOTALS: Duration = Duration::from_secs(60);
/// How often it is looked whether another replica has changed the ring of signing keys.
const LOOK_AT_RING: Duration = Duration::from_secs(1);
/// How often a journal of ends that could not be written is tried again.
const RETRY_ENDS: Duration = Duration::from_secs(1);
/// How often the wall clock is compared with the uptime.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);
/// How often the end of the certificate is looked at.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(600);

/// Ends the exchanges of revoked callers after every change of the set.
pub(super) async fn cut_revoked(
    changed: Arc<Notify>,
    streams: Arc<proxy::exchange::Streams>,
    live: Arc<ArcSwap<proxy::gateway::Live>>,
) {
    loop {
        changed.notified().await;
        let live = live.load_full();
        let cut = streams.cut_revoked(&live.admission.authenticator).await;
        if cut > 0 {
            tracing::info!(cut, "exchanges of revoked callers were ended");
        }
        tokio::time::sleep(BETWEEN_WALKS).await;
    }
}

/// Ends the exchanges of callers when the lease of the revocations is over, on routes that ask for that, and says in the
/// log when the lease ends and when it stands again.
pub(super) async fn watch_lease(
    state: Arc<ProcessState>,
    streams: Arc<proxy::exchange::Streams>,
    live: Arc<ArcSwap<proxy::gateway::Live>>,
) {
    let revocations = &state.revocations;
    let mut over_since: Option<Instant> = None;
    loop {
        let wait = match revocations.lease() {
            LeaseLeft::ForEver | LeaseLeft::Loading => None,
            LeaseLeft::For(left) => {
                if let Some(since) = over_since.take() {
                    let seconds = since.elapsed().as_secs_f64();
                    tracing::info!(seconds, "the revocations are confirmed again");
                }
                Some(left.min(LOOK_AT_LEASE))
            }
            LeaseLeft::Over => {
                let live = live.load_full();
                if over_since.is_none() {
                    over_since = Some(Instant::now());
                    state.metrics.lease_ended();
                    let why = revocations.closed_because();
                    tracing::warn!("{}", lease_over(&live, why.as_deref()));
                }
                let cut = streams.cut_stale(&live.admission.authenticator).await;
                if cut > 0 {
                    tracing::warn!(
                        cut,
                        "exchanges of callers were ended: whether they are revoked is not known"
                    );
                }
                Some(LOOK_AT_LEASE)
            }
        };
        tokio::select! {
            () = revocations.belief_changed() => {}
            () = sleep_for(wait) => {}
        }
    }
}

async fn sleep_for(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// What an operator is told when the lease is over.
fn lease_over(live: &proxy::gateway::Live, why: Option<&str>) -> String {
    let why = why.unwrap_or("the store has not confirmed them within `store.max_staleness`");
    let open: Vec<&str> = live
        .admission
        .routes
        .iter()
        .map(|served| &served.route)
        .filter(|route| route.fail == FailMode::Open && route.policy.auth != Auth::None)
        .map(|route| &*route.name)
        .collect();
    let mut said = format!("revocations may be missing: {why}. Credentials are refused with a 503");
    if !open.is_empty() {
        said += &format!(", but by these routes, whose `fail` is \"open\": {}", open.join(", "));
    }
    if live.admission.authenticator.fail == FailMode::Open {
        said += "; the native endpoints take them as well (`store.fail`)";
    }
    said
}

/// Ends the exchanges that have outlived their tokens for too long.
pub(super) async fn cut_expired(
    streams: Arc<proxy::exchange::Streams>,
    expiry: Expiry,
    clock: Arc<dyn Clock>,
) {
    let mut ticks = tokio::time::interval(LOOK_FOR_EXPIRED);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let cut = streams.cut_expired(&expiry, clock.now()).await;
        if cut > 0 {
            tracing::info!(cut, "exchanges that outlived their tokens were ended");
        }
    }
}

/// Says in the log that the certificate ends soon: at each of the last 30, 7 and 1 days, and then every day.
pub(super) async fn warn_of_expiry(acceptor: Acceptor, clock: Arc<dyn Clock>) {
    let mut ticks = tokio::time::interval(LOOK_AT_CERTIFICATE);
    let mut watch = expiry::Watch::default();
    loop {
        ticks.tick().await;
        let Some(end) = acceptor.expires() else { continue };
        let cert = acceptor.certificate_file().display();
        match watch.look(end, clock.now()) {
            Some(Warning { ended: true, words }) => tracing::error!(%cert, "the certificate {words}"),
            Some(Warning { ended: false, words }) => tracing::warn!(%cert, "the certificate {words}"),
            None => {}
        }
    }
}

/// Fetches the keys of external issuers again.
pub(super) async fn refresh_keys(state: Arc<ProcessState>) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + REFRESH_KEYS, REFRESH_KEYS);
    loop {
        ticks.tick().await;
        state.issuers.load_full().refresh_all().await;
    }
}

/// Writes down how far issuers' clocks were seen ahead, whenever that changes.
pub(super) async fn remember_clocks(clocks: Arc<Clocks>) {
    loop {
        clocks.changed().await;
        let saving = Arc::clone(&clocks);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || saving.save()).await {
            tracing::warn!(%error, "what was seen of issuers' clocks is forgotten at the next restart");
        }
    }
}

/// Takes up what other replicas do to the ring of signing keys, and makes the next key sign where a start has found
/// `tokens.algorithm` to be another than the active key's. Once that was so, other replicas decide: while they are brought
/// up to date one by one, two of them may say otherwise.
pub(super) async fn follow_ring(ring: SigningKeyRing, clock: Arc<dyn Clock>) {
    let mut ticks = tokio::time::interval(LOOK_AT_RING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_algorithm_awaited = ring.awaits_algorithm();
    let mut is_failing = false;
    loop {
        ticks.tick().await;
        let reading = ring.clone();
        match tokio::task::spawn_blocking(move || reading.reload()).await {
            Ok(Ok(is_changed)) => {
                if is_changed {
                    tracing::info!(
                        "another replica has changed the ring of signing keys, which is in force here"
                    );
                }
                is_failing = false;
            }
            Ok(Err(error)) if !is_failing => {
                tracing::warn!(%error, "the ring of signing keys cannot be read; the one in force is kept");
                is_failing = true;
            }
            Ok(Err(_)) | Err(_) => {}
        }
        if !is_algorithm_awaited {
            continue;
        }
        match ring.awaits_algorithm() {
            false => is_algorithm_awaited = false,
            true => match Keys::rotate(&ring, clock.reading()).await {
                Ok(_) => tracing::info!(
                    "tokens are signed by the algorithm that tokens.algorithm names from now on"
                ),
                Err(error) => tracing::debug!(%error, "tokens.algorithm is not in force yet"),
            },
        }
    }
}

/// Writes the ends that could not be written when they came.
pub(super) async fn retry_ends(journal: Arc<DatedJournal>) {
    let mut ticks = tokio::time::interval(RETRY_ENDS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if journal.is_failing() {
            let journal = Arc::clone(&journal);
            // It says in the log what came of it.
            let _ = tokio::task::spawn_blocking(move || journal.retry()).await;
        }
    }
}

/// Looks at the clock, and keeps its mark in the store.
pub(super) async fn watch_clock(clock: Arc<GuardedClock>, store: Arc<dyn Store>) {
    let mut ticks = tokio::time::interval(LOOK_AT_CLOCK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = clock.tick(&*store).await {
            tracing::debug!(%error, "the mark of the clock was not written; it is tried again");
        }
    }
}

/// Removes what has ended from the store. Of several gateways over one store, one does it as long as it lives: its lease
/// outlasts the time to its next sweep. What has ended does not come to life, so one that was paused does no harm.
pub(super) async fn sweep(state: Arc<ProcessState>) {
    let holder = LeaseHolder(SystemEntropy.uuid());
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        if let Err(error) = sweep_once(&*state.store, holder, state.clock.reading().earliest).await {
            tracing::warn!(%error, "what has ended could not be forgotten; it is tried again");
        }
    }
}

/// Sweeps, unless another gateway does. Returns whether this one did.
async fn sweep_once(store: &dyn Store, holder: LeaseHolder, now: UnixTime) -> Result<bool, StoreError> {
    if store.claim(LeaseSubject::Sweep, holder, SWEEPER).await?.is_none() {
        return Ok(false);
    }
    store.sweep(now).await?;
    if let Some(notes) = store.shared_notes() {
        notes.trim_notes().await?;
    }
    Ok(true)
}

/// Writes down how many requests were left to their apps within the hour that is over.
pub(super) async fn tell_left_to_app(left_to_app: Arc<LeftToApp>) {
    let mut ticks = tokio::time::interval(LOOK_AT_TOTALS);
    loop {
        ticks.tick().await;
        left_to_app.look();
    }
}

#[cfg(test)]
mod tests {
    use palisade_core::ports::LeaseStore;
    use palisade_testing::fakes::{FakeStore, NOW};
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn one_gateway_sweeps_until_it_is_gone() {
        let store = FakeStore::shared();
        let [one, other] = [1, 2].map(|n| LeaseHolder(Uuid::from_u128(n)));
        for _ in 0..3 {
            assert!(sweep_once(&store, one, NOW).await.unwrap());
            store.pass_lease_time(SWEEP);
            assert!(!sweep_once(&store, other, NOW).await.unwrap());
        }
        store.pass_lease_time(SWEEPER);
        assert!(sweep_once(&store, other, NOW).await.unwrap());
        assert!(!sweep_once(&store, one, NOW).await.unwrap());
        assert_eq!(store.claim(LeaseSubject::Sweep, one, SWEEP).await.unwrap(), None);
    }
}

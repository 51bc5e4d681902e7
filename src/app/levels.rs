//! What the metrics show of the moment they are asked for: the store, the machine, the health of upstreams.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::state::ProcessState;
use crate::edge::machine;
use crate::edge::proxy;
use crate::edge::proxy::capacity::Capacity;
use crate::edge::store::LeaseLeft;
use crate::edge::telemetry::lease::LeaseLevels;
use crate::edge::telemetry::machine::MachineLevels;
use crate::edge::telemetry::metrics::{Levels, Probe, UpstreamLevel};
use palisade_core::domain::trusted_time::ClockState;

/// Gauges that are read at each scrape. Holds no strong reference to what holds the metrics.
pub(super) fn probe(
    state: &Arc<ProcessState>,
    live: &Arc<ArcSwap<proxy::gateway::Live>>,
    streams: &Arc<proxy::exchange::Streams>,
    acceptor: Option<proxy::tls::Acceptor>,
) -> Probe {
    let (live, streams) = (Arc::clone(live), Arc::clone(streams));
    let (clock, capacity) = (Arc::clone(&state.clock), Arc::clone(&state.capacity));
    let (store, revocations) = (Arc::clone(&state.store), Arc::clone(&state.revocations));
    let ends = state.ends.clone();
    Arc::new(move || {
        let live = live.load();
        let mut upstreams = Vec::new();
        for served in live.admission.routes.iter() {
            upstreams.extend(served.cluster.health().into_iter().map(|(upstream, healthy)| UpstreamLevel {
                route: served.route.name.to_string(),
                upstream,
                healthy,
            }));
        }
        let status = store.status();
        Levels {
            revocations: revocations.len() as u64,
            store_bytes: status.bytes,
            store_live_bytes: status.live_bytes,
            store_compactions: [
                ("done", status.compactions.done),
                ("no_room", status.compactions.no_room),
                ("failed", status.compactions.failed),
            ],
            ends_pending: ends.as_ref().map_or(0, |journal| journal.pending()) as u64,
            open_streams: streams.open() as u64,
            upstreams,
            machine: machine_levels(&capacity, acceptor.as_ref(), &clock.standing()),
            lease: lease_levels(revocations.lease()),
        }
    })
}

fn lease_levels(left: LeaseLeft) -> LeaseLevels {
    match left {
        LeaseLeft::ForEver => LeaseLevels::default(),
        LeaseLeft::Loading => LeaseLevels { seconds: Some(0.0), is_over: false },
        LeaseLeft::Over => LeaseLevels { seconds: Some(0.0), is_over: true },
        LeaseLeft::For(left) => LeaseLevels { seconds: Some(left.as_secs_f64()), is_over: false },
    }
}

fn machine_levels(
    capacity: &Capacity,
    acceptor: Option<&proxy::tls::Acceptor>,
    clock: &ClockState,
) -> MachineLevels {
    let (taken, plan) = (capacity.taken(), capacity.plan());
    MachineLevels {
        connections: taken.clients,
        connections_limit: plan.clients,
        upstream_requests: taken.upstreams,
        upstream_requests_limit: plan.upstreams,
        http2_streams: taken.streams,
        request_memory: taken.memory,
        request_memory_limit: capacity.most_memory(),
        descriptors: machine::open_descriptors(),
        descriptors_limit: machine::descriptor_limit(),
        certificate_expiry: acceptor.and_then(proxy::tls::Acceptor::expires),
        clock_in_doubt: clock.doubt.is_some(),
        clock_skew: clock.skew(),
        clock_delay: clock.delay().as_secs(),
    }
}

//! The feed of revocations, as a gateway that shares its store with others sees it. With a store that no other process
//! writes to, none of these has a value.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use palisade_core::ports::{Confirmation, ReplicaMeter};

/// From a millisecond within one rack to a lease of a minute.
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0, 60.0];

/// The counts of a replica.
pub(super) struct ReplicaMeters {
    confirmations: IntCounterVec,
    /// Without labels, as the gauges: such a family has no value until it is given one.
    confirmation_seconds: HistogramVec,
    position: IntGaugeVec,
    head: IntGaugeVec,
    listening: IntGaugeVec,
    load_seconds: HistogramVec,
    registered: IntGaugeVec,
    expired: IntCounterVec,
    acknowledgements: IntCounterVec,
    acknowledgement_seconds: HistogramVec,
    lapsed: IntCounterVec,
    closed: IntGaugeVec,
}

fn bare_gauge(of: &IntGaugeVec) -> IntGauge {
    of.with_label_values::<&str>(&[])
}

fn bare_count(of: &IntCounterVec) -> IntCounter {
    of.with_label_values::<&str>(&[])
}

fn bare_seconds(of: &HistogramVec) -> Histogram {
    of.with_label_values::<&str>(&[])
}

impl ReplicaMeters {
    pub(super) fn new(registry: &Registry) -> Result<ReplicaMeters, prometheus::Error> {
        let gauge = |name, help| {
            let metric = IntGaugeVec::new(Opts::new(name, help), &[])?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let count = |name, help, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let seconds = |name, help| {
            let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), &[])?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        Ok(ReplicaMeters {
            confirmations: count(
                "palisade_feed_confirmations_total",
                "Attempts to confirm the head of the feed of revocations: done, expired (counted as gone by another \
                 replica) or failed.",
                &["outcome"],
            )?,
            confirmation_seconds: seconds(
                "palisade_feed_confirmation_duration_seconds",
                "How long an attempt to confirm the head of the feed took.",
            )?,
            position: gauge("palisade_feed_position", "Up to where the feed of revocations was applied.")?,
            head: gauge("palisade_feed_head", "The head of the feed of revocations, as it was last read.")?,
            listening: gauge(
                "palisade_feed_listening",
                "Whether notices of the database arrive: 1, or 0 where the feed is polled.",
            )?,
            load_seconds: seconds(
                "palisade_feed_load_duration_seconds",
                "How long it took to read the whole set of revocations.",
            )?,
            registered: gauge("palisade_replicas", "Replicas that are registered, this one included.")?,
            expired: count(
                "palisade_replicas_expired_total",
                "Replicas that this one counted as gone because they did not confirm within their lease.",
                &[],
            )?,
            acknowledgements: count(
                "palisade_revocation_acknowledgements_total",
                "Commits with revocations: confirmed by every replica, or lapsed: one at least was waited for until its lease \
                 was over.",
                &["outcome"],
            )?,
            acknowledgement_seconds: seconds(
                "palisade_revocation_acknowledgement_duration_seconds",
                "From the commit of a revocation until it was in force at every replica.",
            )?,
            lapsed: count(
                "palisade_revocation_lapses_total",
                "Replicas that were waited for until their lease was over, once for each commit with revocations.",
                &[],
            )?,
            closed: gauge(
                "palisade_feed_closed",
                "Whether the store has lost revocations, so that an operator has to say what shall be done: 1.",
            )?,
        })
    }
}

impl ReplicaMeter for ReplicaMeters {
    fn confirmation(&self, outcome: Confirmation, took: Duration) {
        self.confirmations.with_label_values(&[outcome.as_str()]).inc();
        bare_seconds(&self.confirmation_seconds).observe(took.as_secs_f64());
    }

    fn feed_at(&self, position: u64, head: u64) {
        let clamp = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        bare_gauge(&self.position).set(clamp(position));
        bare_gauge(&self.head).set(clamp(head));
    }

    fn listening(&self, listening: bool) {
        bare_gauge(&self.listening).set(i64::from(listening));
    }

    fn loaded(&self, _revocations: u64, took: Duration) {
        bare_seconds(&self.load_seconds).observe(took.as_secs_f64());
    }

    fn registered(&self, replicas: u32) {
        bare_gauge(&self.registered).set(i64::from(replicas));
    }

    fn expired_replica(&self) {
        bare_count(&self.expired).inc();
    }

    fn acknowledged(&self, took: Duration, _confirmed: u32, lapsed: u32) {
        let outcome = if lapsed == 0 { "confirmed" } else { "lapsed" };
        self.acknowledgements.with_label_values(&[outcome]).inc();
        bare_seconds(&self.acknowledgement_seconds).observe(took.as_secs_f64());
        bare_count(&self.lapsed).inc_by(u64::from(lapsed));
    }

    fn closed(&self) {
        bare_gauge(&self.closed).set(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    #[test]
    fn a_gateway_without_others_shows_none_of_it() {
        let registry = Registry::new();
        let meters = ReplicaMeters::new(&registry).unwrap();
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert_eq!(text(), "");
        meters.confirmation(Confirmation::Done, Duration::from_millis(2));
        meters.feed_at(6, 7);
        meters.listening(true);
        meters.loaded(1_000_000, Duration::from_secs(3));
        meters.registered(3);
        meters.expired_replica();
        meters.acknowledged(Duration::from_millis(30), 3, 0);
        meters.acknowledged(Duration::from_secs(6), 1, 2);
        meters.closed();
        for line in [
            r#"palisade_feed_confirmations_total{outcome="done"} 1"#,
            "palisade_feed_confirmation_duration_seconds_count 1",
            "palisade_feed_position 6",
            "palisade_feed_head 7",
            "palisade_feed_listening 1",
            "palisade_feed_load_duration_seconds_sum 3",
            "palisade_replicas 3",
            "palisade_replicas_expired_total 1",
            r#"palisade_revocation_acknowledgements_total{outcome="confirmed"} 1"#,
            r#"palisade_revocation_acknowledgements_total{outcome="lapsed"} 1"#,
            "palisade_revocation_acknowledgement_duration_seconds_count 2",
            "palisade_revocation_lapses_total 2",
            "palisade_feed_closed 1",
        ] {
            assert!(text().lines().any(|found| found == line), "no {line} in\n{}", text());
        }
    }
}

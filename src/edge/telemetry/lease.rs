//! How long the revocations are believed, and how often they were not.

use prometheus::{GaugeVec, IntCounter, IntGauge, Opts, Registry};

/// Gauges that are read at each scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LeaseLevels {
    /// How much longer the set is believed, in seconds; `None`: for ever, since no other process writes to the store.
    pub seconds: Option<f64>,
    /// Whether the lease is over: credentials are refused, or serve on where `fail` says so.
    pub is_over: bool,
}

/// The gauges behind [`LeaseLevels`], and the count of leases that ended.
pub(super) struct LeaseMeters {
    /// Without labels: such a family has no value until it is given one.
    seconds: GaugeVec,
    stale: IntGauge,
    ended: IntCounter,
}

impl LeaseMeters {
    pub(super) fn new(registry: &Registry) -> Result<LeaseMeters, prometheus::Error> {
        let seconds = Opts::new(
            "palisade_revocations_lease_seconds",
            "How much longer the revocation set is believed without another confirmation.",
        );
        let seconds = GaugeVec::new(seconds, &[])?;
        let stale = IntGauge::new(
            "palisade_revocations_stale",
            "Whether the revocation set is not confirmed, so that credentials are refused, or serve on by `fail`: 1 or 0.",
        )?;
        let ended = IntCounter::new(
            "palisade_revocations_stale_episodes_total",
            "How often the revocation set was no longer confirmed.",
        )?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(stale.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        Ok(LeaseMeters { seconds, stale, ended })
    }

    pub(super) fn set(&self, levels: &LeaseLevels) {
        match levels.seconds {
            Some(seconds) => self.seconds.with_label_values::<&str>(&[]).set(seconds),
            None => self.seconds.reset(),
        }
        self.stale.set(i64::from(levels.is_over));
    }

    pub(super) fn ended(&self) {
        self.ended.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    #[test]
    fn a_store_of_ones_own_has_no_end() {
        let registry = Registry::new();
        let meters = LeaseMeters::new(&registry).unwrap();
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        meters.set(&LeaseLevels::default());
        assert!(!text().contains("palisade_revocations_lease_seconds"), "{}", text());
        assert!(text().contains("palisade_revocations_stale 0\n"));
        meters.set(&LeaseLevels { seconds: Some(0.0), is_over: true });
        meters.ended();
        assert!(text().contains("palisade_revocations_lease_seconds 0\n"), "{}", text());
        assert!(text().contains("palisade_revocations_stale 1\n"));
        assert!(text().contains("palisade_revocations_stale_episodes_total 1\n"));
    }
}

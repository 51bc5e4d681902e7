//! What operators see: counts for Prometheus, lines for the log.

pub mod audit;
pub mod lease;
pub mod logging;
pub mod machine;
pub mod metrics;
mod replicas;

use metrics::Metrics;
use palisade_core::ports::{Ended, Meter};
use std::sync::Arc;

/// Counts every request and, when asked to, writes one access log line for it.
pub struct Meters {
    metrics: Arc<Metrics>,
    access: bool,
}

impl Meters {
    /// Meters that count into `metrics`; `access` is `log.access`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, access: bool) -> Meters {
        Meters { metrics, access }
    }
}

impl Meter for Meters {
    fn ended(&self, ended: &Ended<'_>) {
        self.metrics.ended(ended);
        if self.access {
            logging::access(ended);
        }
    }

    fn connection_refused(&self, reason: &'static str) {
        self.metrics.connection_refused(reason);
    }

    fn token_cache(&self, hit: bool) {
        self.metrics.token_cache(hit);
    }

    fn store_call(&self, call: &'static str, took: std::time::Duration, ok: bool) {
        self.metrics.store_call(call, took, ok);
    }

    fn mail(&self, outcome: &'static str) {
        self.metrics.mail(outcome);
    }

    fn password(&self, waited: std::time::Duration, took: std::time::Duration) {
        self.metrics.password(waited, took);
    }

    fn jwks_fetch(&self, issuer: &str, ok: bool) {
        self.metrics.jwks_fetch(issuer, ok);
    }

    fn introspection(&self, issuer: &str, outcome: &'static str) {
        self.metrics.introspection(issuer, outcome);
    }

    fn provider_call(
        &self,
        provider: &str,
        call: &'static str,
        outcome: &'static str,
        took: std::time::Duration,
    ) {
        self.metrics.provider_call(provider, call, outcome, took);
    }

    fn provider_request(&self, provider: &str, outcome: &'static str) {
        self.metrics.provider_request(provider, outcome);
    }

    fn plugin_reload(&self, provider: &str, outcome: &'static str) {
        self.metrics.plugin_reload(provider, outcome);
    }
}

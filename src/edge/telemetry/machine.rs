//! What the process holds and may hold: connections, streams, memory, descriptors, and how long its
//! certificate is good.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use palisade_core::domain::time::UnixTime;

/// Gauges that are read at each scrape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineLevels {
    /// Open client connections, and the most there may be.
    pub connections: usize,
    pub connections_limit: usize,
    /// Requests that hold a connection to an upstream, and the most there may be.
    pub upstream_requests: usize,
    pub upstream_requests_limit: usize,
    /// HTTP/2 streams that clients have open.
    pub http2_streams: usize,
    /// What the requests under way hold in memory, in bytes, and the most they may.
    pub request_memory: usize,
    pub request_memory_limit: usize,
    /// `None` where the system does not tell.
    pub descriptors: Option<u64>,
    /// `None`: no limit.
    pub descriptors_limit: Option<u64>,
    /// `None` without TLS.
    pub certificate_expiry: Option<UnixTime>,
    /// Whether the wall clock is in doubt, and by how many seconds it is ahead of what is expected.
    pub clock_in_doubt: bool,
    pub clock_skew: i64,
    /// How many seconds what cannot be undone is behind the wall clock.
    pub clock_delay: u64,
}

/// The gauges behind [`MachineLevels`], and the count of refused connections.
pub(super) struct MachineMeters {
    connections: IntGauge,
    connections_limit: IntGauge,
    upstream_requests: IntGauge,
    upstream_requests_limit: IntGauge,
    http2_streams: IntGauge,
    request_memory: IntGauge,
    request_memory_limit: IntGauge,
    /// Without labels: such a family has no value until it is given one.
    descriptors: IntGaugeVec,
    descriptors_limit: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
    clock_in_doubt: IntGauge,
    clock_skew: IntGauge,
    clock_delay: IntGauge,
    refused: IntCounterVec,
}

impl MachineMeters {
    pub(super) fn new(registry: &Registry) -> Result<MachineMeters, prometheus::Error> {
        let gauge = |name, help| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let maybe = |name, help| {
            let metric = IntGaugeVec::new(Opts::new(name, help), &[])?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let refused = IntCounterVec::new(
            Opts::new(
                "palisade_connections_refused_total",
                "Client connections that ended before they brought a request: limit (shed), tls (no handshake), \
                 http2 (a breach of the protocol), accept (the system had none to give).",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(refused.clone()))?;
        for reason in ["limit", "tls", "http2", "accept"] {
            // A rate needs a zero to begin from.
            refused.with_label_values(&[reason]);
        }
        Ok(MachineMeters {
            connections: gauge("palisade_open_connections", "Client connections open now.")?,
            connections_limit: gauge(
                "palisade_connections_limit",
                "The most client connections at once: server.max_connections, or what descriptors allow.",
            )?,
            upstream_requests: gauge(
                "palisade_open_upstream_requests",
                "Requests that hold a connection to an upstream now.",
            )?,
            upstream_requests_limit: gauge(
                "palisade_upstream_requests_limit",
                "The most requests that may hold a connection to an upstream at once.",
            )?,
            http2_streams: gauge("palisade_open_http2_streams", "HTTP/2 streams of clients open now.")?,
            request_memory: gauge(
                "palisade_request_memory_bytes",
                "About what the requests under way hold in memory.",
            )?,
            request_memory_limit: gauge(
                "palisade_request_memory_limit_bytes",
                "The most that they may hold: server.max_request_memory.",
            )?,
            descriptors: maybe("palisade_open_descriptors", "File descriptors open now.")?,
            descriptors_limit: maybe(
                "palisade_descriptors_limit",
                "The most file descriptors at once (RLIMIT_NOFILE).",
            )?,
            certificate_expiry: maybe(
                "palisade_certificate_expiry_timestamp_seconds",
                "When the certificate of server.tls ends, in seconds since 1970.",
            )?,
            clock_in_doubt: gauge(
                "palisade_clock_in_doubt",
                "Whether the wall clock is in doubt (1), so that what cannot be undone waits.",
            )?,
            clock_skew: gauge(
                "palisade_clock_skew_seconds",
                "How far the wall clock in doubt is ahead of what is expected; below zero: behind. 0: no doubt.",
            )?,
            clock_delay: gauge(
                "palisade_clock_delay_seconds",
                "How far what cannot be undone is behind the wall clock: a doubt, or stops not believed yet.",
            )?,
            refused,
        })
    }

    pub(super) fn set(&self, levels: &MachineLevels) {
        let clamp = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.connections.set(clamp(levels.connections));
        self.connections_limit.set(clamp(levels.connections_limit));
        self.upstream_requests.set(clamp(levels.upstream_requests));
        self.upstream_requests_limit.set(clamp(levels.upstream_requests_limit));
        self.http2_streams.set(clamp(levels.http2_streams));
        self.request_memory.set(clamp(levels.request_memory));
        self.request_memory_limit.set(clamp(levels.request_memory_limit));
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        show(&self.descriptors, levels.descriptors.map(number));
        show(&self.descriptors_limit, levels.descriptors_limit.map(number));
        self.clock_in_doubt.set(i64::from(levels.clock_in_doubt));
        self.clock_skew.set(levels.clock_skew);
        self.clock_delay.set(number(levels.clock_delay));
        show(&self.certificate_expiry, levels.certificate_expiry.map(|end| number(end.0)));
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}

/// Shows a value, or nothing: no number would be true.
fn show(gauge: &IntGaugeVec, value: Option<i64>) {
    match value {
        Some(value) => gauge.with_label_values::<&str>(&[]).set(value),
        None => gauge.reset(),
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn what_is_not_known_is_not_shown() {
        let registry = Registry::new();
        let meters = MachineMeters::new(&registry).unwrap();
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        meters.set(&MachineLevels {
            connections: 3,
            connections_limit: usize::MAX,
            ..MachineLevels::default()
        });
        let nothing = text();
        assert!(nothing.contains("\npalisade_open_connections 3\n"), "{nothing}");
        for unknown in ["palisade_open_descriptors", "palisade_descriptors_limit", "palisade_certificate"] {
            assert!(!nothing.contains(unknown), "{nothing}");
        }
        assert!(nothing.contains("palisade_connections_refused_total{reason=\"limit\"} 0"), "{nothing}");
        let levels = MachineLevels {
            descriptors: Some(40),
            descriptors_limit: Some(1024),
            certificate_expiry: Some(UnixTime(1_800_000_000)),
            ..MachineLevels::default()
        };
        meters.set(&levels);
        let text = text();
        for line in [
            "palisade_open_descriptors 40",
            "palisade_descriptors_limit 1024",
            "palisade_certificate_expiry_timestamp_seconds 1800000000",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}

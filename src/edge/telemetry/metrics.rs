//! Counts and gauges in the Prometheus text format.
//!
//! Labels are bounded: routes, issuers and upstreams come from the configuration, statuses are classes,
//! decisions are our own words. Nothing a caller sends becomes a label. A request ends with one look-up
//! by route name; the counters behind it are resolved beforehand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::lease::{LeaseLevels, LeaseMeters};
use super::machine::{MachineLevels, MachineMeters};
use super::replicas::ReplicaMeters;
use palisade_core::ports::{Ended, Meter, ReplicaMeter};

/// Labels of [`Metrics::requests`]; the first is for callers who left before an answer.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// From a tenth of a millisecond, which is what the gateway adds, to a slow answer.
const REQUEST_SECONDS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

const STORE_SECONDS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 2.5];

/// Gauges that are read at each scrape, not updated when a value changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Levels {
    /// Entries in the revocation set.
    pub revocations: u64,
    /// Bytes of the store on disk.
    pub store_bytes: u64,
    /// Bytes of what lives in it.
    pub store_live_bytes: u64,
    /// Compactions of the store since the start, by outcome.
    pub store_compactions: [(&'static str, u64); 3],
    /// Ends that wait for the journal.
    pub ends_pending: u64,
    /// Streams and WebSockets open.
    pub open_streams: u64,
    pub upstreams: Vec<UpstreamLevel>,
    pub machine: MachineLevels,
    pub lease: LeaseLevels,
}

/// One upstream of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamLevel {
    pub route: String,
    pub upstream: String,
    pub healthy: bool,
}

/// Reads the [`Levels`] at a scrape. Must not block.
pub type Probe = Arc<dyn Fn() -> Levels + Send + Sync>;

/// The children of one route, resolved.
#[derive(Clone)]
struct RouteMeters {
    statuses: [IntCounter; STATUSES.len()],
    seconds: Histogram,
}

/// Every metric of the gateway.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    decisions: IntCounterVec,
    cache_hits: IntCounter,
    cache_misses: IntCounter,
    store_seconds: HistogramVec,
    jwks_fetches: IntCounterVec,
    introspections: IntCounterVec,
    provider_calls: IntCounterVec,
    provider_seconds: HistogramVec,
    provider_requests: IntCounterVec,
    plugin_reloads: IntCounterVec,
    mails: IntCounterVec,
    password_wait: Histogram,
    password_seconds: Histogram,
    revocations: IntGauge,
    store_bytes: IntGauge,
    store_live_bytes: IntGauge,
    store_compactions: IntCounterVec,
    ends_pending: IntGauge,
    open_streams: IntGauge,
    upstreams: IntGaugeVec,
    machine: MachineMeters,
    lease: LeaseMeters,
    replicas: Arc<ReplicaMeters>,
    config: IntGaugeVec,
    /// The hash of the configuration in force; empty before there is one.
    config_hash: ArcSwap<String>,
    routes: ArcSwap<HashMap<String, RouteMeters>>,
    /// Requests without a route: refused before one was found, or answered by ourselves.
    unrouted: RouteMeters,
    /// About twenty words of our own; a scan is faster than a hash.
    verdicts: ArcSwap<Vec<(&'static str, IntCounter)>>,
    probe: ArcSwap<Probe>,
}

impl Metrics {
    /// Metrics for this version of the program, with no route yet.
    ///
    /// # Errors
    /// A metric's name or label is not one, or is there twice: a fault of this file.
    pub fn new(version: &str) -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name, help, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name, help| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauges = |name, help, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let seconds = |name, help, labels: &[&str], buckets: &[f64]| {
            let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };

        let requests = counters(
            "palisade_http_requests_total",
            "Requests ended, by route and class of status; none: the caller left first.",
            &["route", "status"],
        )?;
        let request_seconds = seconds(
            "palisade_http_request_duration_seconds",
            "From the request's head to the end of its answer, streams included.",
            &["route"],
            &REQUEST_SECONDS,
        )?;
        let decisions = counters(
            "palisade_decisions_total",
            "What was decided about requests: allowed, left_to_app (no session, the app's own credentials), native, or the code \
             of the refusal.",
            &["decision"],
        )?;
        let lookups = counters(
            "palisade_token_cache_lookups_total",
            "Looks into the cache of verified tokens.",
            &["result"],
        )?;
        let store_seconds = seconds(
            "palisade_store_call_duration_seconds",
            "Calls of the store, until they were durable.",
            &["call", "outcome"],
            &STORE_SECONDS,
        )?;
        let jwks_fetches = counters(
            "palisade_jwks_fetches_total",
            "Fetches of an issuer's keys, by whether they brought any.",
            &["issuer", "outcome"],
        )?;
        let introspections = counters(
            "palisade_introspections_total",
            "Requests to an issuer about an opaque token, by what came of them; shed: not made, too many at once.",
            &["issuer", "outcome"],
        )?;
        let provider_calls = counters(
            "palisade_provider_calls_total",
            "Calls of a provider's plugin, by how they ended; dropped: the caller left before the end.",
            &["provider", "call", "outcome"],
        )?;
        let provider_seconds = seconds(
            "palisade_provider_call_duration_seconds",
            "Calls of a provider's plugin, the provider's own time included.",
            &["provider", "call"],
            &REQUEST_SECONDS,
        )?;
        let provider_requests = counters(
            "palisade_provider_requests_total",
            "Requests that plugins asked for; ok: there was an answer, whatever it said.",
            &["provider", "outcome"],
        )?;
        let plugin_reloads = counters(
            "palisade_plugin_reloads_total",
            "Components that were loaded again; failed: the last good one goes on.",
            &["provider", "outcome"],
        )?;
        let mails = counters(
            "palisade_mails_total",
            "Tries at delivering a mail: sent, retried later, or given up.",
            &["outcome"],
        )?;
        let password_wait = seconds(
            "palisade_password_wait_seconds",
            "How long a password waited for a thread that hashes.",
            &[],
            &REQUEST_SECONDS,
        )?
        .with_label_values::<&str>(&[]);
        let password_seconds = seconds(
            "palisade_password_hash_seconds",
            "How long hashing or checking a password took.",
            &[],
            &REQUEST_SECONDS,
        )?
        .with_label_values::<&str>(&[]);
        let revocations = gauge("palisade_revocations", "Entries in the revocation set.")?;
        let store_bytes = gauge("palisade_store_bytes", "Size of the store on disk.")?;
        let store_live_bytes =
            gauge("palisade_store_live_bytes", "Bytes of what lives in the store: keys and values.")?;
        let store_compactions = counters(
            "palisade_store_compactions_total",
            "Compactions of the store, by outcome: done, no_room (on the disk) or failed.",
            &["outcome"],
        )?;
        let ends_pending = gauge(
            "palisade_backup_journal_pending",
            "Ends that were committed, and are not in backup.journal since it cannot be written; 0: all are.",
        )?;
        let open_streams = gauge("palisade_open_streams", "Event streams and WebSockets open now.")?;
        let upstreams = gauges(
            "palisade_upstream_healthy",
            "Whether an upstream takes requests: 1 or 0.",
            &["route", "upstream"],
        )?;
        let build = gauges("palisade_build_info", "The running version; always 1.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        let config = gauges(
            "palisade_config_info",
            "The configuration in force, by the SHA-256 of its file; always 1.",
            &["hash"],
        )?;

        let machine = MachineMeters::new(&registry)?;
        let lease = LeaseMeters::new(&registry)?;
        let replicas = Arc::new(ReplicaMeters::new(&registry)?);
        let unrouted = resolve(&requests, &request_seconds, "none");
        let nothing: Probe = Arc::new(Levels::default);
        Ok(Metrics {
            cache_hits: lookups.with_label_values(&["hit"]),
            cache_misses: lookups.with_label_values(&["miss"]),
            seconds: request_seconds,
            routes: ArcSwap::from_pointee(HashMap::new()),
            verdicts: ArcSwap::from_pointee(Vec::new()),
            probe: ArcSwap::from_pointee(nothing),
            registry,
            requests,
            decisions,
            store_seconds,
            jwks_fetches,
            introspections,
            provider_calls,
            provider_seconds,
            provider_requests,
            plugin_reloads,
            mails,
            password_wait,
            password_seconds,
            revocations,
            store_bytes,
            store_live_bytes,
            store_compactions,
            ends_pending,
            open_streams,
            upstreams,
            machine,
            lease,
            replicas,
            config,
            config_hash: ArcSwap::default(),
            unrouted,
        })
    }

    /// The routes that are in force. Counts of routes that went are kept, so that no rate jumps back.
    pub fn set_routes<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let resolved =
            names.into_iter().map(|name| (name.to_owned(), resolve(&self.requests, &self.seconds, name)));
        self.routes.store(Arc::new(resolved.collect()));
    }

    /// The configuration with this hash is in force, and no other.
    pub fn set_config(&self, hash: &str) {
        let former = self.config_hash.swap(Arc::new(hash.to_owned()));
        self.config.with_label_values(&[hash]).set(1);
        if *former != hash && !former.is_empty() {
            // It is there: each hash was set when it was swapped in.
            let _ = self.config.remove_label_values(&[former.as_str()]);
        }
    }

    /// The hash of the configuration in force; empty before there is one.
    #[must_use]
    pub fn config_hash(&self) -> String {
        String::clone(&self.config_hash.load())
    }

    /// Where the [`Levels`] are read from.
    pub fn set_probe(&self, probe: Probe) {
        self.probe.store(Arc::new(probe));
    }

    /// Everything in the text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        let levels = (**self.probe.load())();
        let clamp = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.revocations.set(clamp(levels.revocations));
        self.store_bytes.set(clamp(levels.store_bytes));
        self.store_live_bytes.set(clamp(levels.store_live_bytes));
        for (outcome, count) in levels.store_compactions.iter().filter(|(outcome, _)| !outcome.is_empty()) {
            let counter = self.store_compactions.with_label_values(&[*outcome]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.ends_pending.set(clamp(levels.ends_pending));
        self.open_streams.set(clamp(levels.open_streams));
        self.machine.set(&levels.machine);
        self.lease.set(&levels.lease);
        // Upstreams that went with a reload must not be shown as they last were.
        self.upstreams.reset();
        for level in &levels.upstreams {
            let labels = [level.route.as_str(), level.upstream.as_str()];
            self.upstreams.with_label_values(&labels).set(i64::from(level.healthy));
        }
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }

    /// Where the counts of the feed of revocations go.
    #[must_use]
    pub fn replica(&self) -> Arc<dyn ReplicaMeter> {
        Arc::clone(&self.replicas) as _
    }

    /// Notes that the revocation set is no longer confirmed.
    pub fn lease_ended(&self) {
        self.lease.ended();
    }

    fn count_decision(&self, decision: &'static str) {
        if let Some((_, counter)) = self.verdicts.load().iter().find(|(known, _)| *known == decision) {
            counter.inc();
            return;
        }
        // Once for each word.
        let counter = self.decisions.with_label_values(&[decision]);
        counter.inc();
        self.verdicts.rcu(|known| {
            let mut next = Vec::clone(known);
            if !next.iter().any(|(word, _)| *word == decision) {
                next.push((decision, counter.clone()));
            }
            next
        });
    }
}

fn resolve(requests: &IntCounterVec, seconds: &HistogramVec, route: &str) -> RouteMeters {
    RouteMeters {
        statuses: STATUSES.map(|status| requests.with_label_values(&[route, status])),
        seconds: seconds.with_label_values(&[route]),
    }
}

fn outcome(ok: bool) -> &'static str {
    if ok { "ok" } else { "error" }
}

impl Meter for Metrics {
    fn ended(&self, ended: &Ended<'_>) {
        let routes = self.routes.load();
        // A route that a reload has just taken away counts with the unrouted.
        let meters = ended.route.and_then(|route| routes.get(route)).unwrap_or(&self.unrouted);
        let class = usize::from(ended.status / 100);
        meters.statuses.get(class).unwrap_or(&meters.statuses[0]).inc();
        meters.seconds.observe(ended.took.as_secs_f64());
        self.count_decision(ended.decision);
    }

    fn connection_refused(&self, reason: &'static str) {
        self.machine.refused(reason);
    }

    fn token_cache(&self, hit: bool) {
        if hit { &self.cache_hits } else { &self.cache_misses }.inc();
    }

    fn store_call(&self, call: &'static str, took: Duration, ok: bool) {
        self.store_seconds.with_label_values(&[call, outcome(ok)]).observe(took.as_secs_f64());
    }

    fn mail(&self, outcome: &'static str) {
        self.mails.with_label_values(&[outcome]).inc();
    }

    fn password(&self, waited: Duration, took: Duration) {
        self.password_wait.observe(waited.as_secs_f64());
        self.password_seconds.observe(took.as_secs_f64());
    }

    fn jwks_fetch(&self, issuer: &str, ok: bool) {
        self.jwks_fetches.with_label_values(&[issuer, outcome(ok)]).inc();
    }

    fn introspection(&self, issuer: &str, outcome: &'static str) {
        self.introspections.with_label_values(&[issuer, outcome]).inc();
    }

    fn provider_call(&self, provider: &str, call: &'static str, outcome: &'static str, took: Duration) {
        self.provider_calls.with_label_values(&[provider, call, outcome]).inc();
        self.provider_seconds.with_label_values(&[provider, call]).observe(took.as_secs_f64());
    }

    fn provider_request(&self, provider: &str, outcome: &'static str) {
        self.provider_requests.with_label_values(&[provider, outcome]).inc();
    }

    fn plugin_reload(&self, provider: &str, outcome: &'static str) {
        self.plugin_reloads.with_label_values(&[provider, outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended<'a>(route: Option<&'a str>, status: u16, decision: &'static str) -> Ended<'a> {
        Ended {
            route,
            status,
            took: Duration::from_millis(3),
            decision,
            request_id: "r",
            method: "GET",
            host: "h",
            path: "/secret-path",
            bytes: 0,
            subject: Some("alice"),
            client: [127, 0, 0, 1].into(),
            upstream: None,
        }
    }

    #[test]
    fn requests_are_counted_by_route_and_class() {
        let metrics = Metrics::new("1.2.3").unwrap();
        metrics.set_routes(["app"]);
        metrics.ended(&ended(Some("app"), 204, "allowed"));
        metrics.ended(&ended(Some("app"), 200, "allowed"));
        metrics.ended(&ended(Some("gone"), 401, "token_missing"));
        metrics.ended(&ended(None, 0, "native"));
        let text = metrics.text();
        for line in [
            r#"palisade_http_requests_total{route="app",status="2xx"} 2"#,
            r#"palisade_http_requests_total{route="none",status="4xx"} 1"#,
            r#"palisade_http_requests_total{route="none",status="none"} 1"#,
            r#"palisade_http_request_duration_seconds_count{route="app"} 2"#,
            r#"palisade_decisions_total{decision="allowed"} 2"#,
            r#"palisade_build_info{version="1.2.3"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(!text.contains("alice") && !text.contains("secret-path"));
    }

    #[test]
    fn one_configuration_is_in_force() {
        let metrics = Metrics::new("1").unwrap();
        let shown = || {
            let text = metrics.text();
            text.lines()
                .filter(|line| line.starts_with("palisade_config_info{"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(shown(), "");
        for hash in ["aa", "aa", "bb", "aa"] {
            metrics.set_config(hash);
            assert_eq!(shown(), format!("palisade_config_info{{hash=\"{hash}\"}} 1"));
            assert_eq!(metrics.config_hash(), hash);
        }
    }

    #[test]
    fn gauges_show_the_moment_of_the_scrape() {
        let metrics = Metrics::new("1").unwrap();
        let upstreams = vec![UpstreamLevel { route: "app".into(), upstream: "u:1".into(), healthy: false }];
        let levels = Levels {
            revocations: 7,
            store_bytes: 8,
            store_live_bytes: 6,
            store_compactions: [("done", 2), ("no_room", 0), ("failed", 1)],
            ends_pending: 5,
            open_streams: 9,
            upstreams,
            ..Levels::default()
        };
        metrics.set_probe(Arc::new(move || levels.clone()));
        let text = metrics.text();
        assert!(text.contains("palisade_revocations 7\n") && text.contains("palisade_store_bytes 8\n"));
        assert!(text.contains("palisade_store_live_bytes 6\n"));
        assert!(text.contains("palisade_store_compactions_total{outcome=\"done\"} 2\n"));
        assert!(
            metrics.text().contains("palisade_store_compactions_total{outcome=\"done\"} 2\n"),
            "not counted twice"
        );
        assert!(text.contains("palisade_open_streams 9\n"));
        assert!(text.contains("palisade_backup_journal_pending 5\n"));
        assert!(text.contains("palisade_upstream_healthy{route=\"app\",upstream=\"u:1\"} 0\n"));
        metrics.set_probe(Arc::new(Levels::default));
        assert!(!metrics.text().contains("u:1"));
    }

    #[test]
    fn every_metric_has_help_and_counters_end_in_total() {
        let metrics = Metrics::new("1").unwrap();
        metrics.token_cache(true);
        metrics.store_call("revoke", Duration::from_micros(20), true);
        metrics.jwks_fetch("https://i.test", false);
        metrics.provider_call("bank", "refresh", "ok", Duration::from_millis(3));
        metrics.provider_request("bank", "timeout");
        metrics.plugin_reload("bank", "failed");
        metrics.mail("sent");
        metrics.connection_refused("tls");
        metrics.ended(&ended(None, 200, "allowed"));
        for line in metrics.text().lines().filter(|line| line.starts_with("# TYPE")) {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[3] == "counter", words[2].ends_with("_total"), "{line}");
            assert!(metrics.text().contains(&format!("# HELP {} ", words[2])), "{line}");
        }
    }
}

//! The upstreams of a route: their addresses, health checks and load balancing.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use pingora::lb::selection::{Random, RoundRobin};
use pingora::lb::{Backend, Backends, LoadBalancer};
use pingora::protocols::ALPN;
use pingora::protocols::TcpKeepalive;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::upstreams::peer::{HttpPeer, Scheme};
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::AbortHandle;

use super::capacity::Capacity;
use super::dial::{Asked, Connector, Delivery, Dialer};
use super::patience::{self, Silence};
use crate::config::{self, Balance, UpstreamOrigin};
use palisade_core::domain::request;

/// How often host names are looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// The longest search for a healthy upstream.
const MAX_TRIES: usize = 64;
/// How long an idle HTTP/2 connection to an upstream is kept.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// How often idle HTTP/1.1 connections are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Tells the HTTP/2 connections of one cluster from those of every other: what was connected under one route's
/// authorities is never used for another's.
static CLUSTERS: AtomicU64 = AtomicU64::new(1);

/// The upstreams of one route. Its background work ends when it is dropped.
pub struct Cluster {
    /// What the route's configuration says.
    pub settings: config::Upstream,
    balancer: Arc<Balancer>,
    background: Vec<AbortHandle>,
}

enum Balancer {
    RoundRobin(LoadBalancer<RoundRobin>),
    Random(LoadBalancer<Random>),
}

/// One attempt to have a request answered by an upstream.
#[derive(Debug)]
pub struct Attempt {
    /// The upstream.
    pub address: SocketAddr,
    /// `host[:port]` as a Host header of its own would say.
    pub authority: Arc<str>,
    /// Over HTTP/1.1; `None` when the engine is to speak HTTP/2.
    pub delivery: Option<Arc<Delivery>>,
    /// How long the upstream may be silent, where its answer has a say in that.
    pub silence: Option<Arc<Silence>>,
    http1: Arc<AtomicBool>,
}

impl Attempt {
    /// Says that the upstream speaks HTTP/1.1 only: from here on it is asked over connections of our own.
    pub fn note_http1(&self) {
        self.http1.store(true, Ordering::Relaxed);
    }

    /// Whether the upstream was silent for longer than it may be.
    #[must_use]
    pub fn was_silent_too_long(&self) -> bool {
        self.silence.as_ref().is_some_and(|silence| silence.was_too_long())
    }
}

/// What a backend carries beside its address.
#[derive(Clone)]
struct Template {
    /// For HTTP/2: the engine connects, and speaks TLS itself.
    engine: HttpPeer,
    /// For HTTP/1.1: `dialer` connects and speaks TLS; to the engine it looks like cleartext.
    dialed: HttpPeer,
    dialer: Arc<Dialer>,
    http1: Arc<AtomicBool>,
    authority: Arc<str>,
}

/// The certificates of a route's `ca`, for the engine and for ourselves.
#[derive(Clone)]
struct Authorities {
    engine: Arc<[WrappedX509]>,
    roots: RootCertStore,
}

impl Balancer {
    fn backends(&self) -> &Backends {
        match self {
            Balancer::RoundRobin(balancer) => balancer.backends(),
            Balancer::Random(balancer) => balancer.backends(),
        }
    }

    fn select(&self, accept: impl Fn(&Backend, bool) -> bool) -> Option<Backend> {
        match self {
            Balancer::RoundRobin(balancer) => balancer.select_with(b"", MAX_TRIES, accept),
            Balancer::Random(balancer) => balancer.select_with(b"", MAX_TRIES, accept),
        }
    }

    async fn resolve(&self) -> pingora::Result<()> {
        match self {
            Balancer::RoundRobin(balancer) => balancer.update().await,
            Balancer::Random(balancer) => balancer.update().await,
        }
    }
}

impl Cluster {
    /// Resolves the origins and starts health checks and later look-ups. A name that cannot be
    /// resolved now is tried again in the background.
    ///
    /// # Errors
    /// The CA file or the machine's own authorities cannot be used.
    pub async fn start(
        route: &str,
        settings: config::Upstream,
        capacity: &Arc<Capacity>,
    ) -> Result<Cluster, String> {
        let authorities = match &settings.ca {
            Some(path) => Some(load_authorities(path)?),
            None => None,
        };
        let group = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let mut templates = Vec::new();
        for origin in &settings.origins {
            let template = template(origin, &settings, authorities.as_ref(), group, capacity)?;
            templates.push((origin.clone(), template));
        }
        let dialers: Vec<_> = templates.iter().map(|(_, template)| Arc::clone(&template.dialer)).collect();
        let by_name = settings.origins.iter().any(|origin| origin.host.parse::<IpAddr>().is_err());
        let mut backends = Backends::new(Box::new(Resolver { templates }));
        if let Some(health) = &settings.health {
            // All origins of a route share one scheme; the first one's name stands for the check.
            let Some(origin) = settings.origins.first() else {
                return Err(format!("route {route} has no upstream"));
            };
            let peer = engine_peer(origin, &settings, authorities.as_ref());
            backends.set_health_check(health_check(health, origin, &peer)?);
        }
        let balancer = Arc::new(match settings.balance {
            Balance::RoundRobin => Balancer::RoundRobin(LoadBalancer::from_backends(backends)),
            Balance::Random => Balancer::Random(LoadBalancer::from_backends(backends)),
        });
        if let Err(error) = balancer.resolve().await {
            tracing::warn!(route, %error, "an upstream cannot be resolved yet");
        }
        let mut background = vec![every(SWEEP_EVERY, move || {
            dialers.iter().for_each(|dialer| dialer.sweep());
            std::future::ready(())
        })];
        if by_name {
            let (balancer, route) = (Arc::clone(&balancer), route.to_owned());
            background.push(every(RESOLVE_EVERY, move || {
                let (balancer, route) = (Arc::clone(&balancer), route.clone());
                async move {
                    if let Err(error) = balancer.resolve().await {
                        tracing::warn!(route, %error, "an upstream cannot be resolved; the last addresses stay");
                    }
                }
            }));
        }
        if let Some(health) = &settings.health {
            let balancer = Arc::clone(&balancer);
            background.push(every(health.interval, move || {
                let balancer = Arc::clone(&balancer);
                async move { balancer.backends().run_health_check(true).await }
            }));
        }
        Ok(Cluster { settings, balancer, background })
    }

    /// The scheme of its upstreams.
    #[must_use]
    pub fn scheme(&self) -> request::Scheme {
        match self.settings.origins.iter().any(|origin| origin.tls) {
            true => request::Scheme::Https,
            false => request::Scheme::Http,
        }
    }

    /// The next upstream for a request, and how it is reached: healthy, and not among those tried while there is another.
    #[must_use]
    pub fn choose(&self, tried: &[SocketAddr], asked: Asked) -> Option<(Box<HttpPeer>, Attempt)> {
        let fresh = |backend: &Backend, healthy: bool| {
            healthy && backend.addr.as_inet().is_some_and(|address| !tried.contains(address))
        };
        let backend = self
            .balancer
            .select(fresh)
            .or_else(|| if tried.is_empty() { None } else { self.balancer.select(|_, healthy| healthy) })?;
        let address = *backend.addr.as_inet()?;
        let template = backend.ext.get::<Template>()?;
        // HTTP/2 knows no upgrade (RFC 9113 §8.6).
        let http2 = self.settings.http2 && !asked.websocket && !template.http1.load(Ordering::Relaxed);
        let mut peer = Box::new(if http2 { template.engine.clone() } else { template.dialed.clone() });
        peer._address = PeerAddress::Inet(address);
        let patient = asked.websocket || asked.stream;
        let (silence, delivery) = if http2 {
            (patient.then(|| patience::prepare(&mut peer)), None)
        } else {
            // The engine's own timeout would not ask the answer.
            let most = if patient { peer.options.read_timeout.take() } else { None };
            let silence = most.map(Silence::new);
            let delivery = Delivery::new(Arc::clone(&template.dialer), asked, silence.clone());
            peer.options.custom_l4 = Some(Arc::new(Connector(Arc::clone(&delivery))));
            (silence, Some(delivery))
        };
        let (authority, http1) = (Arc::clone(&template.authority), Arc::clone(&template.http1));
        Some((peer, Attempt { address, authority, delivery, silence, http1 }))
    }

    /// Every upstream address and whether it is healthy.
    #[must_use]
    pub fn health(&self) -> Vec<(String, bool)> {
        let backends = self.balancer.backends();
        backends
            .get_backend()
            .iter()
            .map(|backend| (backend.addr.to_string(), backends.ready(backend)))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for task in &self.background {
            task.abort();
        }
    }
}

/// Runs `work` now and then after every `period`.
fn every<F, W>(period: Duration, work: F) -> AbortHandle
where
    F: Fn() -> W + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let task = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            work().await;
        }
    });
    task.abort_handle()
}

fn template(
    origin: &UpstreamOrigin,
    settings: &config::Upstream,
    authorities: Option<&Authorities>,
    group: u64,
    capacity: &Arc<Capacity>,
) -> Result<Template, String> {
    let mut engine = engine_peer(origin, settings, authorities);
    engine.group_key = group;
    let mut dialed = engine.clone();
    dialed.scheme = Scheme::HTTP;
    dialed.options.ca = None;
    dialed.options.alpn = ALPN::H1;
    let dialer = match (origin.tls, authorities) {
        (false, _) => Dialer::clear(capacity),
        (true, Some(authorities)) => Dialer::tls(host(origin), authorities.roots.clone(), capacity)?,
        (true, None) => {
            let mut roots = RootCertStore::empty();
            pingora::tls::load_platform_certs_incl_env_into_store(&mut roots)
                .map_err(|error| format!("the machine's certificate authorities cannot be read: {error}"))?;
            Dialer::tls(host(origin), roots, capacity)?
        }
    };
    let default_port = if origin.tls { 443 } else { 80 };
    let authority = match origin.port {
        port if port == default_port => origin.host.clone(),
        port => format!("{}:{port}", origin.host),
    };
    Ok(Template {
        engine,
        dialed,
        dialer: Arc::new(dialer),
        http1: Arc::default(),
        authority: authority.into(),
    })
}

fn host(origin: &UpstreamOrigin) -> &str {
    origin.host.trim_matches(['[', ']'])
}

fn engine_peer(
    origin: &UpstreamOrigin,
    settings: &config::Upstream,
    authorities: Option<&Authorities>,
) -> HttpPeer {
    let placeholder = SocketAddr::from(([0, 0, 0, 0], origin.port));
    let mut peer = HttpPeer::new(placeholder, origin.tls, host(origin).to_owned());
    let options = &mut peer.options;
    options.connection_timeout = Some(settings.connect_timeout);
    options.total_connection_timeout = Some(settings.connect_timeout);
    options.read_timeout = Some(settings.read_timeout);
    options.write_timeout = Some(settings.write_timeout);
    options.idle_timeout = Some(POOL_IDLE);
    options.ca = authorities.map(|authorities| Arc::clone(&authorities.engine));
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(15),
        count: 4,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    });
    if settings.http2 {
        options.alpn = if origin.tls { ALPN::H2H1 } else { ALPN::H2 };
        options.max_h2_streams = 100;
    }
    peer
}

fn health_check(
    health: &config::Health,
    origin: &UpstreamOrigin,
    peer: &HttpPeer,
) -> Result<Box<dyn HealthCheck + Send + Sync>, String> {
    let mut peer = peer.clone();
    peer.options.connection_timeout = Some(health.timeout);
    peer.options.total_connection_timeout = Some(health.timeout);
    peer.options.read_timeout = Some(health.timeout);
    peer.options.write_timeout = Some(health.timeout);
    match &health.path {
        Some(path) => {
            let mut check = HttpHealthCheck::new(&origin.host, origin.tls);
            check.peer_template = peer;
            check.consecutive_success = health.healthy_after;
            check.consecutive_failure = health.unhealthy_after;
            check
                .req
                .set_raw_path(path.as_bytes())
                .map_err(|error| format!("health path {path:?} is not a path: {error}"))?;
            let _ = check.req.insert_header(http::header::USER_AGENT, "palisade-health");
            check.validator = Some(Box::new(|response| match response.status.as_u16() {
                200..400 => Ok(()),
                status => pingora::Error::e_explain(
                    pingora::ErrorType::HTTPStatus(status),
                    "the health check's answer is neither 2xx nor 3xx",
                ),
            }));
            Ok(Box::new(check))
        }
        None => {
            let mut check = TcpHealthCheck::default();
            check.peer_template.options = peer.options;
            check.consecutive_success = health.healthy_after;
            check.consecutive_failure = health.unhealthy_after;
            Ok(Box::new(check))
        }
    }
}

fn load_authorities(path: &Path) -> Result<Authorities, String> {
    let unusable = |why: String| format!("{}: {why}; it must hold PEM certificates", path.display());
    let mut roots = RootCertStore::empty();
    let mut authorities = Vec::new();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        // The engine's parser takes only what is a certificate; this check makes sure that it is.
        roots.add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
        authorities.push(WrappedX509::new(certificate.to_vec(), parse_x509));
    }
    if authorities.is_empty() {
        return Err(unusable("no certificate in it".to_owned()));
    }
    Ok(Authorities { engine: authorities.into(), roots })
}

/// Turns the origins of a route into addresses.
struct Resolver {
    templates: Vec<(UpstreamOrigin, Template)>,
}

#[async_trait]
impl ServiceDiscovery for Resolver {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut found = BTreeSet::new();
        let mut failure = None;
        for (origin, template) in &self.templates {
            let host = host(origin);
            match tokio::net::lookup_host((host, origin.port)).await {
                Ok(addresses) => {
                    for address in addresses {
                        let mut backend = Backend {
                            addr: PeerAddress::Inet(address),
                            weight: 1,
                            ext: http::Extensions::new(),
                        };
                        backend.ext.insert(template.clone());
                        found.insert(backend);
                    }
                }
                Err(error) => failure = Some(format!("{host}: {error}")),
            }
        }
        match failure {
            // With one name gone the addresses of the others still serve.
            Some(why) if found.is_empty() => {
                pingora::Error::e_explain(pingora::ErrorType::ConnectNoRoute, why)
            }
            _ => Ok((found, HashMap::new())),
        }
    }
}

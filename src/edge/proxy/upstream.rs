//! The upstreams of a route: where they are, which of them are well, and whose turn it is.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use pingora::lb::selection::{Random, RoundRobin};
use pingora::lb::{Backend, Backends, LoadBalancer};
use pingora::protocols::ALPN;
use pingora::protocols::TcpKeepalive;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::AbortHandle;

use crate::config::{self, Balance, Origin};

/// How often host names are looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// The longest search for a healthy upstream.
const MAX_TRIES: usize = 64;
/// How long an idle connection to an upstream is kept.
const POOL_IDLE: Duration = Duration::from_secs(60);

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

/// An upstream chosen for one attempt.
pub struct Chosen {
    pub peer: Box<HttpPeer>,
    pub address: SocketAddr,
    /// `host[:port]` as a Host header of its own would say.
    pub authority: Arc<str>,
}

/// What a backend carries beside its address.
#[derive(Clone)]
struct Template {
    peer: HttpPeer,
    authority: Arc<str>,
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
    /// The CA file cannot be used.
    pub async fn start(route: &str, settings: config::Upstream) -> Result<Cluster, String> {
        let authorities = match &settings.ca {
            Some(path) => Some(load_authorities(path)?),
            None => None,
        };
        let templates = settings
            .origins
            .iter()
            .map(|origin| (origin.clone(), template(origin, &settings, authorities.clone())))
            .collect();
        let by_name = settings.origins.iter().any(|origin| origin.host.parse::<IpAddr>().is_err());
        let mut backends = Backends::new(Box::new(Resolver { templates }));
        if let Some(health) = &settings.health {
            // All origins of a route share one scheme; the first one's name stands for the check.
            let Some(origin) = settings.origins.first() else {
                return Err(format!("route {route} has no upstream"));
            };
            let template = template(origin, &settings, authorities);
            backends.set_health_check(health_check(health, origin, &template.peer)?);
        }
        let balancer = Arc::new(match settings.balance {
            Balance::RoundRobin => Balancer::RoundRobin(LoadBalancer::from_backends(backends)),
            Balance::Random => Balancer::Random(LoadBalancer::from_backends(backends)),
        });
        if let Err(error) = balancer.resolve().await {
            tracing::warn!(route, %error, "an upstream cannot be resolved yet");
        }
        let mut background = Vec::new();
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

    /// The next upstream: healthy, and not among those tried for this request while there is another.
    #[must_use]
    pub fn choose(&self, tried: &[SocketAddr]) -> Option<Chosen> {
        let fresh = |backend: &Backend, healthy: bool| {
            healthy && backend.addr.as_inet().is_some_and(|address| !tried.contains(address))
        };
        let backend = self
            .balancer
            .select(fresh)
            .or_else(|| if tried.is_empty() { None } else { self.balancer.select(|_, healthy| healthy) })?;
        let address = *backend.addr.as_inet()?;
        let template = backend.ext.get::<Template>()?;
        let mut peer = template.peer.clone();
        peer._address = PeerAddress::Inet(address);
        Some(Chosen { peer: Box::new(peer), address, authority: Arc::clone(&template.authority) })
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
    origin: &Origin,
    settings: &config::Upstream,
    authorities: Option<Arc<[WrappedX509]>>,
) -> Template {
    let placeholder = SocketAddr::from(([0, 0, 0, 0], origin.port));
    let mut peer = HttpPeer::new(placeholder, origin.tls, origin.host.trim_matches(['[', ']']).to_owned());
    let options = &mut peer.options;
    options.connection_timeout = Some(settings.connect_timeout);
    options.total_connection_timeout = Some(settings.connect_timeout);
    options.read_timeout = Some(settings.read_timeout);
    options.write_timeout = Some(settings.write_timeout);
    options.idle_timeout = Some(POOL_IDLE);
    options.ca = authorities;
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
    let default_port = if origin.tls { 443 } else { 80 };
    let authority = match origin.port {
        port if port == default_port => origin.host.clone(),
        port => format!("{}:{port}", origin.host),
    };
    Template { peer, authority: authority.into() }
}

fn health_check(
    health: &config::Health,
    origin: &Origin,
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

fn load_authorities(path: &Path) -> Result<Arc<[WrappedX509]>, String> {
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
    Ok(authorities.into())
}

/// Turns the origins of a route into addresses.
struct Resolver {
    templates: Vec<(Origin, Template)>,
}

#[async_trait]
impl ServiceDiscovery for Resolver {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut found = BTreeSet::new();
        let mut failure = None;
        for (origin, template) in &self.templates {
            let host = origin.host.trim_matches(['[', ']']);
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

//! The upstreams of a route: load balancing between those that the operator listed, and how each is reached.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::ALPN;
use pingora::protocols::TcpKeepalive;
use pingora::protocols::l4::socket;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{HttpPeer, Scheme};
use pingora::{ErrorType, OrErr};
use tokio::task::AbortHandle;

use super::capacity::Capacity;
use super::dial::{Asked, Connector, Delivery, Dialer};
use super::health::HealthChecker;
use super::patience::{self, Silence};
use super::replica::{BareConnection, NameResolver, Replica};
use super::upstream_tls::UpstreamTls;
use crate::config::{self, Balance, UpstreamOrigin};
use palisade_core::domain::request;
use palisade_core::domain::upstream_address::UpstreamAddress;

/// How often host names are looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// How long an idle HTTP/2 connection to an upstream is kept, where the route does not say. An upstream that closes one says
/// so first.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// How often idle HTTP/1.1 connections are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Tells the HTTP/2 connections of one listed upstream of one cluster from those of every other: what was connected under
/// one route's authorities is never used for another's.
static GROUPS: AtomicU64 = AtomicU64::new(1);

/// The upstreams of one route. Its background work ends when it is dropped.
pub struct Cluster {
    /// What the route's configuration says.
    pub settings: config::Upstream,
    targets: Vec<Target>,
    turn: Turn,
    background: Vec<AbortHandle>,
}

/// Where the search for an upstream begins.
enum Turn {
    /// At the next one each time.
    RoundRobin(AtomicUsize),
    /// Anywhere: a keyed hash of a count, which no caller can foresee.
    Random(RandomState, AtomicUsize),
}

impl Turn {
    fn new(balance: Balance) -> Turn {
        match balance {
            Balance::RoundRobin => Turn::RoundRobin(AtomicUsize::new(0)),
            Balance::Random => Turn::Random(RandomState::new(), AtomicUsize::new(0)),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    fn next(&self) -> usize {
        match self {
            Turn::RoundRobin(count) => count.fetch_add(1, Ordering::Relaxed),
            Turn::Random(state, count) => state.hash_one(count.fetch_add(1, Ordering::Relaxed)) as usize,
        }
    }
}

/// One attempt to have a request answered by an upstream.
#[derive(Debug)]
pub struct Attempt {
    /// Its place in the route's list of upstreams.
    pub index: usize,
    /// `host[:port]` as a Host header of its own would say.
    pub authority: Arc<str>,
    /// Over HTTP/1.1; `None` when the engine is to speak HTTP/2.
    pub delivery: Option<Arc<Delivery>>,
    /// How long the upstream may be silent, where its answer has a say in that.
    pub silence: Option<Arc<Silence>>,
    replica: Arc<Replica>,
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

    /// The upstream as the operator listed it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.replica.name
    }

    /// Where it led. Of an attempt without a connection, and of one over HTTP/2, where the next connection would begin,
    /// which is where the engine's one leads unless an address has just failed.
    #[must_use]
    pub fn address(&self) -> Option<UpstreamAddress> {
        let reached = self.delivery.as_ref().and_then(|delivery| delivery.reached().cloned());
        reached.or_else(|| self.replica.preferred())
    }
}

/// A listed upstream, and how requests are sent there.
struct Target {
    replica: Arc<Replica>,
    /// For HTTP/2: the engine speaks TLS itself.
    engine: HttpPeer,
    /// For HTTP/1.1: `dialer` connects and speaks TLS; to the engine it looks like cleartext.
    dialed: HttpPeer,
    dialer: Arc<Dialer>,
    http1: Arc<AtomicBool>,
    authority: Arc<str>,
}

impl Cluster {
    /// Looks the upstreams' names up and starts health checks and later look-ups. A name that cannot be looked up now is
    /// tried again in the background.
    ///
    /// # Errors
    /// A file that TLS goes by or the machine's own authorities cannot be used.
    pub async fn start(
        route: &str,
        settings: config::Upstream,
        capacity: &Arc<Capacity>,
        resolver: Arc<dyn NameResolver>,
    ) -> Result<Cluster, String> {
        let tls = UpstreamTls::load(&settings)?;
        let target = |origin| Target::new(origin, &settings, tls.as_ref(), capacity);
        let targets = settings.origins.iter().map(target).collect::<Result<Vec<_>, String>>()?;
        let dialers: Vec<_> = targets.iter().map(|target| Arc::clone(&target.dialer)).collect();
        let named = targets.iter().map(|target| Arc::clone(&target.replica));
        let named: Arc<[_]> = named.filter(|replica| replica.has_name()).collect();
        let mut background = vec![every(SWEEP_EVERY, move || {
            dialers.iter().for_each(|dialer| dialer.sweep());
            std::future::ready(())
        })];
        if !named.is_empty() {
            let route: Arc<str> = route.into();
            look_up(&route, &named, &*resolver).await;
            background.push(every(RESOLVE_EVERY, move || {
                let (route, named, resolver) =
                    (Arc::clone(&route), Arc::clone(&named), Arc::clone(&resolver));
                async move { look_up(&route, &named, &*resolver).await }
            }));
        }
        if let Some(health) = &settings.health {
            let replicas = targets.iter().map(|target| {
                (Arc::clone(&target.replica), target.engine.clone(), Arc::clone(&target.authority))
            });
            let checker = Arc::new(HealthChecker::new(health.clone(), replicas)?);
            background.push(every(checker.interval(), move || {
                let checker = Arc::clone(&checker);
                async move { checker.check().await }
            }));
        }
        let turn = Turn::new(settings.balance);
        Ok(Cluster { settings, targets, turn, background })
    }

    /// The scheme of its upstreams.
    #[must_use]
    pub fn scheme(&self) -> request::Scheme {
        match self.settings.origins.iter().any(|origin| origin.tls) {
            true => request::Scheme::Https,
            false => request::Scheme::Http,
        }
    }

    /// The next upstream for a request, and how it is reached: one that is up, and not among those tried while there is
    /// another.
    #[must_use]
    pub fn choose(&self, tried: &[usize], asked: Asked) -> Option<(Box<HttpPeer>, Attempt)> {
        let (count, start) = (self.targets.len(), self.turn.next());
        let mut up = (0..count)
            .map(|step| start.wrapping_add(step) % count)
            .filter(|index| self.targets[*index].replica.is_up())
            .peekable();
        let first = *up.peek()?;
        let index = up.find(|index| !tried.contains(index)).unwrap_or(first);
        let target = &self.targets[index];
        // HTTP/2 knows no upgrade (RFC 9113 §8.6).
        let http2 = self.settings.http2 && !asked.websocket && !target.http1.load(Ordering::Relaxed);
        let patient = asked.websocket || asked.stream;
        let replica = &target.replica;
        let (peer, silence, delivery) = if http2 {
            let mut peer = Box::new(target.engine.clone());
            // The engine takes a connection of its pool only when it leads here.
            if let Some(address) = replica.preferred().as_ref().and_then(engine_address) {
                peer._address = address;
            }
            if asked.again {
                // A connection whose stream was refused would be the one that the pool gives.
                patience::set_apart(&mut peer);
            }
            let silence = patient.then(|| patience::prepare(&mut peer, replica));
            (peer, silence, None)
        } else {
            let mut peer = Box::new(target.dialed.clone());
            // The engine's own timeout would not ask the answer.
            let most = if patient { peer.options.read_timeout.take() } else { None };
            let silence = most.map(Silence::new);
            let delivery = Delivery::new(Arc::clone(&target.dialer), asked, silence.clone());
            peer.options.custom_l4 = Some(Arc::new(Connector(Arc::clone(&delivery))));
            (peer, silence, Some(delivery))
        };
        let (authority, http1) = (Arc::clone(&target.authority), Arc::clone(&target.http1));
        Some((peer, Attempt { index, authority, delivery, silence, replica: Arc::clone(replica), http1 }))
    }

    /// Every listed upstream, and whether requests are sent to it.
    #[must_use]
    pub fn health(&self) -> Vec<(String, bool)> {
        self.targets.iter().map(|target| (target.replica.name.clone(), target.replica.is_up())).collect()
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

async fn look_up(route: &str, named: &[Arc<Replica>], resolver: &dyn NameResolver) {
    futures::future::join_all(named.iter().map(|replica| async move {
        if let Err(error) = replica.look_up(resolver).await {
            let upstream = &replica.name;
            tracing::warn!(route, %upstream, %error, "an upstream cannot be looked up; the last addresses stay");
        }
    }))
    .await;
}

impl Target {
    fn new(
        origin: &UpstreamOrigin,
        settings: &config::Upstream,
        tls: Option<&UpstreamTls>,
        capacity: &Arc<Capacity>,
    ) -> Result<Target, String> {
        let replica = Arc::new(match &origin.socket {
            Some(path) => Replica::at_socket(origin.to_string(), path),
            None => {
                let name = format!("{}:{}", origin.host, origin.port);
                Replica::at_host(name, host(origin), origin.port)
            }
        });
        let mut engine = engine_peer(origin, settings);
        engine.group_key = GROUPS.fetch_add(1, Ordering::Relaxed);
        let mut dialed = engine.clone();
        engine.options.custom_l4 = Some(Arc::new(EngineConnector(Arc::clone(&replica))));
        dialed.scheme = Scheme::HTTP;
        dialed.options.alpn = ALPN::H1;
        let dialer = match tls {
            None => Dialer::clear(Arc::clone(&replica), capacity),
            Some(tls) => {
                tls.set(&mut engine);
                let name = tls.name(host(origin));
                Dialer::tls(Arc::clone(&replica), name, Arc::clone(&tls.http1), capacity)?
            }
        };
        let dialer = dialer.keeping(settings.idle);
        let default_port = if origin.tls { 443 } else { 80 };
        let authority = match origin.port {
            port if port == default_port => origin.host.clone(),
            port => format!("{}:{port}", origin.host),
        };
        Ok(Target {
            replica,
            engine,
            dialed,
            dialer: Arc::new(dialer),
            http1: Arc::default(),
            authority: authority.into(),
        })
    }
}

/// Connects for the engine, which speaks HTTP/2 and TLS itself.
#[derive(Debug)]
struct EngineConnector(Arc<Replica>);

#[async_trait]
impl L4Connect for EngineConnector {
    async fn connect(&self, _: &socket::SocketAddr) -> pingora::Result<Stream> {
        let connected = self.0.connect().await;
        let (connected, _) = connected.or_err_with(ErrorType::ConnectError, || self.0.name.clone())?;
        Ok(match connected {
            BareConnection::Tcp(tcp) => tcp.into(),
            BareConnection::Unix(unix) => unix.into(),
        })
    }
}

fn engine_address(address: &UpstreamAddress) -> Option<socket::SocketAddr> {
    match address {
        UpstreamAddress::Inet(address) => Some(socket::SocketAddr::Inet(*address)),
        UpstreamAddress::Unix(path) => {
            std::os::unix::net::SocketAddr::from_pathname(&**path).ok().map(socket::SocketAddr::Unix)
        }
    }
}

fn host(origin: &UpstreamOrigin) -> &str {
    origin.host.trim_matches(['[', ']'])
}

fn engine_peer(origin: &UpstreamOrigin, settings: &config::Upstream) -> HttpPeer {
    let placeholder = SocketAddr::from(([0, 0, 0, 0], origin.port));
    let mut peer = HttpPeer::new(placeholder, origin.tls, host(origin).to_owned());
    let options = &mut peer.options;
    options.connection_timeout = Some(settings.connect_timeout);
    options.total_connection_timeout = Some(settings.connect_timeout);
    options.read_timeout = Some(settings.read_timeout);
    options.write_timeout = Some(settings.write_timeout);
    options.idle_timeout = Some(settings.idle.unwrap_or(POOL_IDLE));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::proxy::capacity::Plan;
    use crate::edge::proxy::replica::tests::Fixed;
    use std::collections::BTreeSet;
    use std::path::Path;
    use tokio::net::TcpListener;

    /// A cluster of these upstreams, each with these addresses.
    async fn cluster(upstreams: &[&str], keys: &str, addresses: Vec<SocketAddr>) -> Cluster {
        let text = format!("[[routes]]\nname = \"app\"\nupstream = {upstreams:?}\n{keys}\n");
        let config = config::parse(&text, Path::new("config.toml"), &|_| None)
            .unwrap_or_else(|errors| panic!("{errors:#?}"));
        let capacity = Capacity::new(Plan::new(None, 16, 1).unwrap(), 0);
        let settings = config.routes[0].upstream.clone();
        Cluster::start("app", settings, &capacity, Arc::new(Fixed(addresses))).await.unwrap()
    }

    async fn reached(cluster: &Cluster, tried: &[usize]) -> (usize, Option<UpstreamAddress>) {
        let (peer, attempt) = cluster.choose(tried, Asked::default()).unwrap();
        let connector = peer.options.custom_l4.as_ref().unwrap();
        // What is at hand is that the connection is made.
        drop(connector.connect(&peer._address).await);
        (attempt.index, attempt.delivery.as_ref().and_then(|delivery| delivery.reached().cloned()))
    }

    #[tokio::test]
    async fn every_request_for_a_name_finds_the_one_address_that_listens() {
        let living = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = living.local_addr().unwrap();
        // As a hosts file says for `localhost`.
        let addresses = vec![(std::net::Ipv6Addr::LOCALHOST, address.port()).into(), address];
        for keys in ["", "http2 = true", "balance = \"random\""] {
            let cluster = cluster(&["http://localhost:1"], keys, addresses.clone()).await;
            for _ in 0..4 {
                let (peer, attempt) = cluster.choose(&[], Asked::default()).unwrap();
                let connector = peer.options.custom_l4.as_ref().unwrap();
                connector.connect(&peer._address).await.unwrap();
                assert_eq!(attempt.address(), Some(address.into()), "{keys}");
            }
            // The pool of the engine is asked for connections to where they lead.
            let (peer, _) = cluster.choose(&[], Asked::default()).unwrap();
            if keys == "http2 = true" {
                assert_eq!(peer._address.as_inet(), Some(&address));
            }
            assert_eq!(cluster.health(), [("localhost:1".to_owned(), true)]);
        }
    }

    #[tokio::test]
    async fn what_is_listed_takes_turns_however_many_addresses_each_name_has() {
        let living = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = living.local_addr().unwrap();
        let addresses = vec![([127, 0, 0, 2], address.port()).into(), address, ([127, 0, 0, 3], 1).into()];
        let cluster = cluster(&["http://a:1", "http://b:1", "http://c:1"], "", addresses).await;
        let mut turns = Vec::new();
        for _ in 0..6 {
            turns.push(reached(&cluster, &[]).await.0);
        }
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        // A further attempt goes to another one, and to any when all were tried.
        assert_eq!(reached(&cluster, &[0]).await.0, 1);
        assert_eq!(reached(&cluster, &[1, 2]).await.0, 0);
        assert_eq!(reached(&cluster, &[2, 0, 1]).await.0, 2);
    }

    #[tokio::test]
    async fn one_without_an_address_or_out_of_health_is_passed_by() {
        let lost = cluster(&["http://a:1"], "", Vec::new()).await;
        assert!(lost.choose(&[], Asked::default()).is_none());
        assert_eq!(lost.health(), [("a:1".to_owned(), false)]);
        let mixed =
            cluster(&["http://a:1", "http://127.0.0.1:1", "http://127.0.0.2:1"], "", Vec::new()).await;
        mixed.targets[2].replica.note_health(false, 1);
        for tried in [&[][..], &[1]] {
            assert_eq!(mixed.choose(tried, Asked::default()).unwrap().1.index, 1);
        }
    }

    #[tokio::test]
    async fn random_reaches_each() {
        let cluster =
            cluster(&["http://127.0.0.1:1", "http://127.0.0.2:1"], "balance = \"random\"", Vec::new()).await;
        let chosen: BTreeSet<usize> =
            (0..200).map(|_| cluster.choose(&[], Asked::default()).unwrap().1.index).collect();
        assert_eq!(chosen.len(), 2);
    }
}

//! One upstream that the operator listed: the addresses behind its name, and whether it is healthy.
//!
//! The addresses of a name are one upstream, tried in turn until one takes a connection. What is balanced, tried again and
//! taken out by health checks is what the operator lists. An address that did not connect is remembered for a while, so
//! that the next connections begin with one that does.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::happy_eyeballs::{self, Raced};
use palisade_core::domain::upstream_address::UpstreamAddress;

/// How long an address that did not connect comes last.
const PASSED_OVER: Duration = Duration::from_secs(30);

/// Turns names into addresses.
#[async_trait]
pub trait NameResolver: Send + Sync {
    /// The addresses of `host` now, the preferred ones first.
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The machine's own resolver.
pub struct SystemResolver;

#[async_trait]
impl NameResolver for SystemResolver {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// A connection that was just made.
#[derive(Debug)]
pub enum BareConnection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A listed upstream.
#[derive(Debug)]
pub struct Replica {
    /// As logs and metrics name it: `app.internal:3000` or `unix:/run/app.sock`.
    pub name: String,
    /// What is looked up; `None`: its address is fixed.
    host: Option<(String, u16)>,
    /// In the order in which they are tried.
    records: ArcSwap<Vec<Record>>,
    /// From when the moments in its records are counted.
    born: Instant,
    is_healthy: AtomicBool,
    /// Health checks in a row that contradict `is_healthy`.
    contradictions: AtomicUsize,
}

#[derive(Debug)]
struct Record {
    address: UpstreamAddress,
    /// In milliseconds after the replica was made; 0: it is not passed over.
    passed_over_until: AtomicU64,
}

impl Record {
    fn new(address: UpstreamAddress) -> Record {
        Record { address, passed_over_until: AtomicU64::new(0) }
    }
}

impl Replica {
    /// One at `host`, a name or an address without brackets. A name has no address before it is looked up.
    #[must_use]
    pub fn at_host(name: String, host: &str, port: u16) -> Replica {
        match host.parse::<IpAddr>() {
            Ok(address) => Replica::new(name, None, vec![SocketAddr::new(address, port).into()]),
            Err(_) => Replica::new(name, Some((host.to_owned(), port)), Vec::new()),
        }
    }

    /// One at the socket file `path`.
    #[must_use]
    pub fn at_socket(name: String, path: &Arc<str>) -> Replica {
        Replica::new(name, None, vec![UpstreamAddress::Unix(Arc::clone(path))])
    }

    fn new(name: String, host: Option<(String, u16)>, addresses: Vec<UpstreamAddress>) -> Replica {
        Replica {
            name,
            host,
            records: ArcSwap::from_pointee(addresses.into_iter().map(Record::new).collect()),
            born: Instant::now(),
            is_healthy: AtomicBool::new(true),
            contradictions: AtomicUsize::new(0),
        }
    }

    /// Whether its addresses have to be looked up.
    #[must_use]
    pub fn has_name(&self) -> bool {
        self.host.is_some()
    }

    /// Looks its name up. Where that fails the addresses stay.
    ///
    /// # Errors
    /// The name cannot be looked up, or has no address.
    pub async fn look_up(&self, resolver: &dyn NameResolver) -> io::Result<()> {
        let Some((host, port)) = &self.host else { return Ok(()) };
        let found = happy_eyeballs::alternated(&resolver.addresses(host, *port).await?);
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        let before = self.records.load();
        let records = found.into_iter().map(|address| {
            let record = Record::new(address.into());
            if let Some(known) = before.iter().find(|known| known.address == record.address) {
                let until = known.passed_over_until.load(Ordering::Relaxed);
                record.passed_over_until.store(until, Ordering::Relaxed);
            }
            record
        });
        self.records.store(Arc::new(records.collect()));
        Ok(())
    }

    /// Whether requests can be sent to it: it has an address, and the last health checks did not fail.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_healthy() && !self.records.load().is_empty()
    }

    /// What the last health checks say; true before there was one.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::Relaxed)
    }

    /// Notes what one health check says. It counts once `threshold` checks in a row have said so.
    pub fn note_health(&self, is_healthy: bool, threshold: usize) {
        if self.is_healthy() == is_healthy {
            self.contradictions.store(0, Ordering::Relaxed);
        } else if self.contradictions.fetch_add(1, Ordering::Relaxed) + 1 >= threshold {
            self.contradictions.store(0, Ordering::Relaxed);
            self.is_healthy.store(is_healthy, Ordering::Relaxed);
        }
    }

    /// Whether `address` is one of its addresses now.
    #[must_use]
    pub fn has(&self, address: &UpstreamAddress) -> bool {
        self.records.load().iter().any(|record| record.address == *address)
    }

    /// The address that a new connection begins with.
    #[must_use]
    pub fn preferred(&self) -> Option<UpstreamAddress> {
        let records = self.records.load();
        let first = match records.as_slice() {
            [only] => Some(only),
            several => several.iter().find(|record| !self.is_passed_over(record)).or(several.first()),
        };
        first.map(|record| record.address.clone())
    }

    /// Connects to the first of its addresses that takes a connection. Nothing is sent.
    ///
    /// # Errors
    /// The last failure, when none of them does.
    pub async fn connect(&self) -> io::Result<(BareConnection, UpstreamAddress)> {
        let records = self.records.load_full();
        let mut order: Vec<&Record> = records.iter().collect();
        order.sort_by_key(|record| self.is_passed_over(record));
        let Raced { outcome, passed_over } = happy_eyeballs::race(order.len(), |index| {
            let address = order[index].address.clone();
            async move { connect(&address).await }
        })
        .await;
        let until = (self.born.elapsed() + PASSED_OVER).as_millis();
        for index in passed_over {
            let until = u64::try_from(until).unwrap_or(u64::MAX);
            order[index].passed_over_until.store(until, Ordering::Relaxed);
        }
        let (index, connected) = outcome?;
        order[index].passed_over_until.store(0, Ordering::Relaxed);
        Ok((connected, order[index].address.clone()))
    }

    fn is_passed_over(&self, record: &Record) -> bool {
        let until = record.passed_over_until.load(Ordering::Relaxed);
        until > 0 && self.born.elapsed().as_millis() < u128::from(until)
    }
}

async fn connect(address: &UpstreamAddress) -> io::Result<BareConnection> {
    match address {
        UpstreamAddress::Inet(address) => {
            let tcp = TcpStream::connect(address).await?;
            // Latency matters more than a saved packet; a socket that cannot still serves.
            let _ = tcp.set_nodelay(true);
            Ok(BareConnection::Tcp(tcp))
        }
        UpstreamAddress::Unix(path) => Ok(BareConnection::Unix(UnixStream::connect(&**path).await?)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A resolver that gives every name these addresses.
    pub(in crate::edge::proxy) struct Fixed(pub Vec<SocketAddr>);

    #[async_trait]
    impl NameResolver for Fixed {
        async fn addresses(&self, _host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            Ok(self.0.clone())
        }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// One with a dead address before a living one.
    async fn half_dead() -> (Replica, TcpListener, SocketAddr, SocketAddr) {
        let (living, address) = listener().await;
        // The port is free, and this address of loopback has no listener of another test.
        let dead: SocketAddr = ([127, 0, 0, 2], address.port()).into();
        let replica = Replica::at_host("app:1".to_owned(), "app", 1);
        replica.look_up(&Fixed(vec![dead, address])).await.unwrap();
        (replica, living, dead, address)
    }

    #[tokio::test]
    async fn the_addresses_of_a_name_are_tried_in_turn() {
        let (replica, _living, dead, address) = half_dead().await;
        assert_eq!(replica.preferred(), Some(dead.into()));
        for _ in 0..3 {
            let (_, reached) = replica.connect().await.unwrap();
            assert_eq!(reached, address.into());
            assert_eq!(replica.preferred(), Some(address.into()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_comes_last_for_a_while_also_when_the_name_is_looked_up_again() {
        let (replica, _living, dead, address) = half_dead().await;
        replica.connect().await.unwrap();
        replica.look_up(&Fixed(vec![dead, address])).await.unwrap();
        assert_eq!(replica.preferred(), Some(address.into()));
        tokio::time::advance(PASSED_OVER).await;
        assert_eq!(replica.preferred(), Some(dead.into()));
        replica.connect().await.unwrap();
        assert_eq!(replica.preferred(), Some(address.into()));
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_not_up_and_keeps_those_that_it_had() {
        let replica = Replica::at_host("app:1".to_owned(), "app", 1);
        assert!(!replica.is_up() && replica.preferred().is_none());
        assert!(replica.look_up(&Fixed(Vec::new())).await.is_err());
        assert!(replica.connect().await.is_err());
        let (_living, address) = listener().await;
        replica.look_up(&Fixed(vec![address])).await.unwrap();
        assert!(replica.is_up());
        assert!(replica.look_up(&Fixed(Vec::new())).await.is_err());
        assert!(replica.has(&address.into()));
    }

    #[test]
    fn an_address_needs_no_look_up() {
        for (host, address) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
            let replica = Replica::at_host(address.to_owned(), host, 80);
            assert!(!replica.has_name());
            assert_eq!(replica.preferred().unwrap().to_string(), address);
        }
    }

    #[test]
    fn health_turns_after_as_many_checks_in_a_row() {
        let replica = Replica::at_host("a".to_owned(), "127.0.0.1", 80);
        for (says, is_healthy) in
            [(false, true), (true, true), (false, true), (false, false), (true, false), (true, true)]
        {
            replica.note_health(says, 2);
            assert_eq!(replica.is_healthy(), is_healthy);
        }
    }
}

//! HTTP/1.1 connections to upstreams: how they are made, and the idle ones that are kept.
//!
//! The engine's own pool takes only streams of its own. Ours are its "virtual" ones, so that every byte of
//! an answer passes [`Guarded`] first, also over TLS, which is therefore done here. To the engine each of them
//! is a new connection; one that is fit for another request comes back here ([`Dialer::keep`]).
//!
//! A dialer belongs to one listed upstream of one route: what was connected under one route's authorities is never
//! used for another's.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::VirtualSocketStream;
use pingora::{Error, ErrorType, OrErr, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::answer_head::Overflow;
use super::capacity::{Capacity, Share};
use super::framing::Fault;
use super::guard::Guarded;
use super::patience::Silence;
use super::replica::{BareConnection, Replica};
use palisade_core::domain::upstream_address::UpstreamAddress;

/// The most idle connections that are kept for one upstream.
const MAX_IDLE: usize = 1024;
/// How long an idle connection is kept that the upstream says it keeps longer.
const TOLD_IDLE: Duration = Duration::from_secs(60);
/// How long an idle connection is kept where neither the route nor the upstream says anything: less than the five seconds of
/// Node, uvicorn and Apache, which close without a word.
const UNTOLD_IDLE: Duration = Duration::from_secs(4);
/// So much earlier than an upstream closes an idle connection it is not used any more: a request on the way
/// when that happens may be lost.
const AHEAD: Duration = Duration::from_secs(1);

/// What the bytes travel over.
#[derive(Debug)]
pub enum Line {
    Clear(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<BareConnection> for Line {
    fn from(connected: BareConnection) -> Line {
        match connected {
            BareConnection::Tcp(tcp) => Line::Clear(tcp),
            BareConnection::Unix(unix) => Line::Unix(unix),
        }
    }
}

impl Line {
    /// The TCP connection that it is, or that is below TLS.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Line::Clear(tcp) => Some(tcp),
            Line::Unix(_) => None,
            Line::Tls(tls) => Some(tls.get_ref().0),
        }
    }

    /// Whether it is TLS, which may write of its own accord.
    pub fn is_tls(&self) -> bool {
        matches!(self, Line::Tls(_))
    }

    /// Whether the other end has neither closed nor sent anything unasked.
    pub fn is_quiet(&mut self) -> bool {
        let mut space = [0; 1];
        let read =
            std::future::poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, &mut ReadBuf::new(&mut space)));
        // Without the scheduler's budget: a read that it puts off would look like silence.
        tokio::task::unconstrained(read).now_or_never().is_none()
    }
}

/// Calls the same method on whichever stream the line is.
macro_rules! on_line {
    ($line:expr, $method:ident $(, $argument:expr)*) => {
        match $line.get_mut() {
            Line::Clear(tcp) => Pin::new(tcp).$method($($argument),*),
            Line::Unix(unix) => Pin::new(unix).$method($($argument),*),
            Line::Tls(tls) => Pin::new(tls.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_line!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_line!(self, poll_write, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_line!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_line!(self, poll_shutdown, cx)
    }
}

/// Connects to one listed upstream and keeps what is idle.
pub struct Dialer {
    replica: Arc<Replica>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Bounds what all dialers keep.
    capacity: Arc<Capacity>,
    /// How long the route says that an idle connection is kept.
    keeps: Option<Duration>,
    /// The one that was used last is the last.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    line: Line,
    /// Where it leads.
    address: UpstreamAddress,
    until: Instant,
    /// Its place among all idle connections.
    _place: Share,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Dialer {
    /// One for cleartext.
    #[must_use]
    pub fn clear(replica: Arc<Replica>, capacity: &Arc<Capacity>) -> Dialer {
        Dialer { replica, tls: None, capacity: Arc::clone(capacity), keeps: None, idle: Mutex::default() }
    }

    /// One that keeps idle connections for so long; `None`: for as long as it usually is safe to.
    #[must_use]
    pub fn keeping(self, keeps: Option<Duration>) -> Dialer {
        Dialer { keeps, ..self }
    }

    /// One for TLS with the server `host`.
    ///
    /// # Errors
    /// `host` is neither a name nor an address.
    pub fn tls(
        replica: Arc<Replica>,
        host: &str,
        config: Arc<ClientConfig>,
        capacity: &Arc<Capacity>,
    ) -> Result<Dialer, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
        let tls = Some((TlsConnector::from(config), name));
        Ok(Dialer { tls, ..Dialer::clear(replica, capacity) })
    }

    async fn connect(&self) -> Result<(Line, UpstreamAddress)> {
        let connected = self.replica.connect().await;
        let (connected, address) =
            connected.or_err_with(ErrorType::ConnectError, || self.replica.name.clone())?;
        match (&self.tls, connected) {
            (Some((connector, name)), BareConnection::Tcp(tcp)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                let tls = tls.or_err_with(ErrorType::TLSHandshakeFailure, || address.to_string())?;
                Ok((Line::Tls(Box::new(tls)), address))
            }
            (Some(_), BareConnection::Unix(_)) => {
                Error::e_explain(ErrorType::ConnectError, "no TLS over a socket file")
            }
            (None, connected) => Ok((connected.into(), address)),
        }
    }

    /// The idle connection that was used last, if there is one that is still good, and where it leads.
    fn idle(&self) -> Option<(Line, UpstreamAddress)> {
        loop {
            let mut last = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if Instant::now() < last.until && last.line.is_quiet() {
                return Some((last.line, last.address));
            }
        }
    }

    /// Keeps a connection to `address` for another request, unless too many are idle already or the name leads there no
    /// more. `theirs` is how long the upstream keeps it, if that is known.
    pub fn keep(&self, address: UpstreamAddress, line: Line, theirs: Option<Duration>) {
        let told = theirs.map(|theirs| theirs.saturating_sub(AHEAD));
        let kept = match (self.keeps, told) {
            (Some(keeps), told) => told.map_or(keeps, |told| told.min(keeps)),
            (None, Some(told)) => told.min(TOLD_IDLE),
            (None, None) => UNTOLD_IDLE,
        };
        let until = Instant::now() + kept;
        if kept.is_zero() || !self.replica.has(&address) {
            return;
        }
        let Some(place) = self.capacity.idle() else { return };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(Idle { line, address, until, _place: place });
        }
    }

    /// Closes idle connections that are too old, that the other end has closed, or where the name leads no more. Called now
    /// and then.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain_mut(|idle| now < idle.until && idle.line.is_quiet() && self.replica.has(&idle.address));
    }

    /// How many connections are idle.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no connection is idle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a connection has to know of the request that goes over it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// A HEAD request: its answer has no body.
    pub head: bool,
    /// The request asks to become a WebSocket.
    pub websocket: bool,
    /// The request can take an event stream.
    pub stream: bool,
    /// The request was delivered before, and failed: it goes over a connection that has not been idle.
    pub again: bool,
}

/// One attempt to deliver a request: what it asks, and what became of the connection.
#[derive(Debug)]
pub struct Delivery {
    pub(super) asked: Asked,
    pub(super) dialer: Arc<Dialer>,
    pub(super) fault: OnceLock<Fault>,
    /// Fields of the answer that the engine has not read, since they are too many for it.
    pub(super) overflow: OnceLock<Vec<Overflow>>,
    /// How long the upstream may be silent, where its answer has a say in that.
    pub(super) silence: Option<Arc<Silence>>,
    reused: AtomicBool,
    /// Whether a byte of the request may have gone out.
    pub(super) sent: AtomicBool,
    reached: OnceLock<UpstreamAddress>,
}

impl Delivery {
    /// A delivery over a connection of `dialer`.
    #[must_use]
    pub fn new(dialer: Arc<Dialer>, asked: Asked, silence: Option<Arc<Silence>>) -> Arc<Delivery> {
        Arc::new(Delivery {
            asked,
            dialer,
            fault: OnceLock::new(),
            overflow: OnceLock::new(),
            silence,
            reused: AtomicBool::new(false),
            sent: AtomicBool::new(false),
            reached: OnceLock::new(),
        })
    }

    /// Whether the connection had served another request before.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    /// Whether nothing of the request went out. Then the upstream has not acted on it.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        !self.sent.load(Ordering::Relaxed)
    }

    /// Where its connection leads, once there is one.
    #[must_use]
    pub fn reached(&self) -> Option<&UpstreamAddress> {
        self.reached.get()
    }

    /// The fields of the answer that the engine has not read, in their order.
    #[must_use]
    pub fn overflow(&self) -> &[Overflow] {
        self.overflow.get().map_or(&[], Vec::as_slice)
    }

    /// Why the answer could not be read, when that is why.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }
}

/// Connects for one delivery.
#[derive(Debug)]
pub struct Connector(pub Arc<Delivery>);

#[async_trait]
impl L4Connect for Connector {
    async fn connect(&self, _: &socket::SocketAddr) -> Result<Stream> {
        let delivery = &self.0;
        // A WebSocket has a connection of its own: the other end may treat it differently from the first byte.
        let fresh = delivery.asked.websocket || delivery.asked.again;
        let idle = if fresh { None } else { delivery.dialer.idle() };
        delivery.reused.store(idle.is_some(), Ordering::Relaxed);
        let (line, address) = match idle {
            Some(idle) => idle,
            None => delivery.dialer.connect().await?,
        };
        // Only the first counts; there is one.
        let _ = delivery.reached.set(address.clone());
        let guarded = Guarded::new(line, address, Arc::clone(delivery));
        Ok(VirtualSocketStream::new(Box::new(guarded)).into())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::capacity::Plan;
    use super::super::replica::tests::Fixed;
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// A dialer for cleartext to one address.
    pub(in crate::edge::proxy) fn dialer_to(address: SocketAddr, capacity: &Arc<Capacity>) -> Dialer {
        let replica = Replica::at_host(address.to_string(), &address.ip().to_string(), address.port());
        Dialer::clear(Arc::new(replica), capacity)
    }

    /// Room for at most `idle` connections.
    fn room(idle: usize) -> Arc<Capacity> {
        Capacity::new(Plan { clients: 1, upstreams: 1, connections: 2, pool: idle, reserve: 0 }, 0)
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A connection of `dialer` with its other end.
    async fn connected(dialer: &Dialer, listener: &TcpListener) -> (Line, UpstreamAddress, TcpStream) {
        let (line, address) = dialer.connect().await.unwrap();
        (line, address, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn all_dialers_together_keep_no_more_than_there_are_places() {
        let capacity = room(2);
        let (listener, address) = listener().await;
        let (one, other) = (dialer_to(address, &capacity), dialer_to(address, &capacity));
        let mut others = Vec::new();
        for dialer in [&one, &other, &one] {
            let (line, address, stream) = connected(dialer, &listener).await;
            others.push(stream);
            dialer.keep(address, line, None);
        }
        assert_eq!((one.len(), other.len()), (1, 1));
        drop(one);
        let (line, address, _stream) = connected(&other, &listener).await;
        other.keep(address, line, None);
        assert_eq!(other.len(), 2);
    }

    #[tokio::test]
    async fn only_a_quiet_connection_is_used_again() {
        let (listener, address) = listener().await;
        let dialer = dialer_to(address, &room(4));
        let (line, address, _other) = connected(&dialer, &listener).await;
        dialer.keep(address, line, None);
        assert!(dialer.idle().is_some());
        assert!(dialer.idle().is_none());

        let (line, address, mut other) = connected(&dialer, &listener).await;
        other.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        line.tcp().unwrap().readable().await.unwrap();
        dialer.keep(address, line, None);
        assert!(dialer.idle().is_none());

        let (line, address, other) = connected(&dialer, &listener).await;
        drop(other);
        line.tcp().unwrap().readable().await.unwrap();
        dialer.keep(address, line, None);
        assert_eq!(dialer.len(), 1);
        dialer.sweep();
        assert!(dialer.is_empty());

        let (line, address, _other) = connected(&dialer, &listener).await;
        dialer.keep(address, line, Some(AHEAD));
        assert!(dialer.idle().is_none());
    }

    #[tokio::test]
    async fn an_idle_connection_is_kept_for_less_than_the_upstream_keeps_it() {
        let (listener, address) = listener().await;
        let (told, route) = (Some(Duration::from_secs(20)), Some(Duration::from_secs(2)));
        for (keeps, theirs, kept) in [
            (None, None, UNTOLD_IDLE),
            (None, told, Duration::from_secs(19)),
            (None, Some(Duration::from_secs(3600)), TOLD_IDLE),
            (route, None, Duration::from_secs(2)),
            (route, told, Duration::from_secs(2)),
            (told, route, Duration::from_secs(1)),
            (Some(Duration::from_secs(600)), None, Duration::from_secs(600)),
        ] {
            let dialer = dialer_to(address, &room(4)).keeping(keeps);
            let (line, reached, _other) = connected(&dialer, &listener).await;
            let before = Instant::now();
            dialer.keep(reached, line, theirs);
            let until = dialer.idle.lock().unwrap()[0].until;
            assert!(until >= before + kept && until <= Instant::now() + kept, "{keeps:?} {theirs:?}");
        }
        let never = dialer_to(address, &room(4)).keeping(Some(Duration::ZERO));
        let (line, reached, _other) = connected(&never, &listener).await;
        never.keep(reached, line, None);
        assert!(never.is_empty());
    }

    #[tokio::test]
    async fn a_connection_to_where_the_name_leads_no_more_is_not_kept() {
        let (listener, address) = listener().await;
        let replica = Arc::new(Replica::at_host("app:1".to_owned(), "app", 1));
        let moved = Fixed(vec![([127, 0, 0, 2], address.port()).into()]);
        let dialer = Dialer::clear(Arc::clone(&replica), &room(4));
        replica.look_up(&Fixed(vec![address])).await.unwrap();
        let (line, reached, _other) = connected(&dialer, &listener).await;
        let (later, _, _another) = connected(&dialer, &listener).await;
        dialer.keep(reached.clone(), line, None);
        replica.look_up(&moved).await.unwrap();
        dialer.keep(reached, later, None);
        assert_eq!(dialer.len(), 1);
        dialer.sweep();
        assert!(dialer.is_empty());
    }
}

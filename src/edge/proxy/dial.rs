//! HTTP/1.1 connections to upstreams: how they are made, and the idle ones that are kept.
//!
//! The engine's own pool takes only streams of its own. Ours are its "virtual" ones, so that every byte of
//! an answer passes [`Guarded`] first, also over TLS, which is therefore done here. To the engine each of them
//! is a new connection; one that is fit for another request comes back here ([`Dialer::keep`]).
//!
//! A dialer belongs to one route and one origin: what was connected under one route's authorities is never
//! used for another's.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
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
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::capacity::{Capacity, Share};
use super::framing::Fault;
use super::guard::Guarded;
use super::patience::Silence;

/// The most idle connections that are kept for one origin's address.
const MAX_IDLE: usize = 1024;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// So much earlier than an upstream closes an idle connection it is not used any more: a request on the way
/// when that happens may be lost.
const AHEAD: Duration = Duration::from_secs(1);

/// What the bytes travel over.
#[derive(Debug)]
pub enum Line {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Line {
    /// The connection below TLS.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Line::Clear(tcp) => tcp,
            Line::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether the other end has neither closed nor sent anything unasked.
    fn is_quiet(&mut self) -> bool {
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

/// Connects to one origin and keeps what is idle.
pub struct Dialer {
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Bounds what all dialers keep.
    capacity: Arc<Capacity>,
    idle: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
}

struct Idle {
    line: Line,
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
    pub fn clear(capacity: &Arc<Capacity>) -> Dialer {
        Dialer { tls: None, capacity: Arc::clone(capacity), idle: Mutex::default() }
    }

    /// One for TLS 1.2 and 1.3 with the server `host`, whose certificate one of `authorities` vouches for.
    ///
    /// # Errors
    /// `host` is neither a name nor an address.
    pub fn tls(host: &str, authorities: RootCertStore, capacity: &Arc<Capacity>) -> Result<Dialer, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(authorities)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = Some((TlsConnector::from(Arc::new(config)), name));
        Ok(Dialer { tls, capacity: Arc::clone(capacity), idle: Mutex::default() })
    }

    async fn connect(&self, address: SocketAddr) -> Result<Line> {
        let tcp =
            TcpStream::connect(address).await.or_err_with(ErrorType::ConnectError, || address.to_string())?;
        // Latency matters more than a saved packet; a socket that cannot still serves.
        let _ = tcp.set_nodelay(true);
        match &self.tls {
            None => Ok(Line::Clear(tcp)),
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                let tls = tls.or_err_with(ErrorType::TLSHandshakeFailure, || address.to_string())?;
                Ok(Line::Tls(Box::new(tls)))
            }
        }
    }

    /// The idle connection to `address` that was used last, if there is one that is still good.
    fn idle(&self, address: SocketAddr) -> Option<Line> {
        loop {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let mut last = idle.get_mut(&address)?.pop()?;
            drop(idle);
            if Instant::now() < last.until && last.line.is_quiet() {
                return Some(last.line);
            }
        }
    }

    /// Keeps a connection for another request, unless too many are idle already. `theirs` is how long the upstream keeps it, if that is known.
    pub fn keep(&self, address: SocketAddr, line: Line, theirs: Option<Duration>) {
        let until = Instant::now() + theirs.map_or(IDLE, |theirs| theirs.saturating_sub(AHEAD).min(IDLE));
        let Some(place) = self.capacity.idle() else { return };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = idle.entry(address).or_default();
        if lines.len() < MAX_IDLE {
            lines.push(Idle { line, until, _place: place });
        }
    }

    /// Closes idle connections that are too old or that the other end has closed. Called now and then.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, lines| {
            lines.retain_mut(|idle| now < idle.until && idle.line.is_quiet());
            !lines.is_empty()
        });
    }

    /// How many connections are idle.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
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
    /// How long the upstream may be silent, where its answer has a say in that.
    pub(super) silence: Option<Arc<Silence>>,
    reused: AtomicBool,
}

impl Delivery {
    /// A delivery over a connection of `dialer`.
    #[must_use]
    pub fn new(dialer: Arc<Dialer>, asked: Asked, silence: Option<Arc<Silence>>) -> Arc<Delivery> {
        let (fault, reused) = (OnceLock::new(), AtomicBool::new(false));
        Arc::new(Delivery { asked, dialer, fault, silence, reused })
    }

    /// Whether the connection had served another request before.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
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
    async fn connect(&self, address: &socket::SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet().copied() else {
            return Error::e_explain(ErrorType::ConnectError, "no internet address");
        };
        let delivery = &self.0;
        // A WebSocket has a connection of its own: the other end may treat it differently from the first byte.
        let fresh = delivery.asked.websocket || delivery.asked.again;
        let idle = if fresh { None } else { delivery.dialer.idle(address) };
        delivery.reused.store(idle.is_some(), Ordering::Relaxed);
        let line = match idle {
            Some(line) => line,
            None => delivery.dialer.connect(address).await?,
        };
        let guarded = Guarded::new(line, address, Arc::clone(delivery));
        Ok(VirtualSocketStream::new(Box::new(guarded)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::capacity::Plan;
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// One that keeps at most `idle` connections.
    fn dialer(idle: usize) -> Dialer {
        let plan = Plan { clients: 1, upstreams: 1, connections: 2, pool: idle, reserve: 0 };
        Dialer::clear(&Capacity::new(plan, 0))
    }

    #[tokio::test]
    async fn all_dialers_together_keep_no_more_than_there_are_places() {
        let plan = Plan { clients: 1, upstreams: 1, connections: 2, pool: 2, reserve: 0 };
        let capacity = Capacity::new(plan, 0);
        let (one, other) = (Dialer::clear(&capacity), Dialer::clear(&capacity));
        let mut others = Vec::new();
        for dialer in [&one, &other, &one] {
            let (line, stream, address) = pair().await;
            others.push(stream);
            dialer.keep(address, line, None);
        }
        assert_eq!((one.len(), other.len()), (1, 1));
        drop(one);
        let (line, _stream, address) = pair().await;
        other.keep(address, line, None);
        assert_eq!(other.len(), 2);
    }

    async fn pair() -> (Line, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = dialer(1).connect(address).await.unwrap();
        (line, listener.accept().await.unwrap().0, address)
    }

    #[tokio::test]
    async fn only_a_quiet_connection_is_used_again() {
        let dialer = dialer(4);
        let (line, _other, address) = pair().await;
        dialer.keep(address, line, None);
        assert!(dialer.idle(address).is_some());
        assert!(dialer.idle(address).is_none());

        let (line, mut other, address) = pair().await;
        other.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        line.tcp().readable().await.unwrap();
        dialer.keep(address, line, None);
        assert!(dialer.idle(address).is_none());

        let (line, other, address) = pair().await;
        drop(other);
        line.tcp().readable().await.unwrap();
        dialer.keep(address, line, None);
        assert_eq!(dialer.len(), 1);
        dialer.sweep();
        assert!(dialer.is_empty());

        let (line, _other, address) = pair().await;
        dialer.keep(address, line, Some(AHEAD));
        assert!(dialer.idle(address).is_none());
    }
}

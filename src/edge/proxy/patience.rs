//! Connections to upstreams whose answer may be silent for as long as both ends live: WebSockets and event streams.
//!
//! Whether it is one of these is known from the answer alone; that the client asks for one must not hold an upstream
//! connection for good. The engine fixes how long it waits before it asks, so for these requests the connection
//! keeps the time itself until the answer allows silence: [`super::guard`] over HTTP/1.1, and over HTTP/2 a
//! connection that serves nothing else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::socket;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use pingora::{ErrorType, OrErr, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::dial::Line;
use super::replica::Replica;

/// Keeps connections that serve one request apart from those of the pool and from each other.
static GROUP: AtomicU64 = AtomicU64::new(1 << 63);

/// How long an upstream may be silent during one exchange.
#[derive(Debug)]
pub struct Silence {
    most: Duration,
    allowed: AtomicBool,
    too_long: AtomicBool,
}

impl Silence {
    /// A bound that holds until silence is allowed.
    #[must_use]
    pub fn new(most: Duration) -> Arc<Silence> {
        Arc::new(Silence { most, allowed: AtomicBool::new(false), too_long: AtomicBool::new(false) })
    }

    /// From now on there is no bound.
    pub fn allow(&self) {
        self.allowed.store(true, Ordering::Relaxed);
    }

    /// Whether the connection was broken off because it was silent for too long.
    #[must_use]
    pub fn was_too_long(&self) -> bool {
        self.too_long.load(Ordering::Relaxed)
    }

    fn is_allowed(&self) -> bool {
        self.allowed.load(Ordering::Relaxed)
    }
}

/// Measures a silence: runs while nothing is read or written.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Says that something was read.
    pub fn stop(&mut self) {
        self.0 = None;
    }

    /// Says that something was written. The timer goes on from here, because a reader that waits may not ask again.
    pub fn restart(&mut self, silence: &Silence) {
        if let Some(timer) = &mut self.0
            && let Some(end) = Instant::now().checked_add(silence.most)
        {
            timer.as_mut().reset(end);
        }
    }

    /// Resolves once nothing was read for longer than may be.
    pub fn poll_too_long(&mut self, cx: &mut Context<'_>, silence: &Silence) -> Poll<()> {
        if silence.is_allowed() {
            self.stop();
            return Poll::Pending;
        }
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence.most)));
        ready!(timer.as_mut().poll(cx));
        silence.too_long.store(true, Ordering::Relaxed);
        Poll::Ready(())
    }
}

/// Gives `peer` a connection of its own, never from the pool and never put there, on which its `read_timeout` holds
/// until the returned [`Silence`] is allowed.
pub fn prepare(peer: &mut HttpPeer, replica: &Arc<Replica>) -> Arc<Silence> {
    let silence = Silence::new(peer.options.read_timeout.take().unwrap_or(Duration::MAX));
    set_apart(peer);
    let (replica, own) = (Arc::clone(replica), Arc::clone(&silence));
    peer.options.custom_l4 = Some(Arc::new(Connector { replica, silence: own }));
    silence
}

/// Gives `peer` a connection of its own, never from the pool and never put there.
pub fn set_apart(peer: &mut HttpPeer) {
    peer.group_key = GROUP.fetch_add(1, Ordering::Relaxed);
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer.options.max_h2_streams = 1;
}

#[derive(Debug)]
struct Connector {
    replica: Arc<Replica>,
    silence: Arc<Silence>,
}

#[async_trait]
impl Connect for Connector {
    async fn connect(&self, _: &socket::SocketAddr) -> Result<Stream> {
        let connected = self.replica.connect().await;
        let (connected, _) = connected.or_err_with(ErrorType::ConnectError, || self.replica.name.clone())?;
        let patient = Patient::new(connected.into(), Arc::clone(&self.silence));
        Ok(VirtualSocketStream::new(Box::new(patient)).into())
    }
}

/// A connection that breaks off when it is silent for longer than it may be.
#[derive(Debug)]
struct Patient {
    line: Line,
    silence: Arc<Silence>,
    timer: Timer,
}

impl Patient {
    fn new(line: Line, silence: Arc<Silence>) -> Patient {
        Patient { line, silence, timer: Timer::default() }
    }
}

impl VirtualSocket for Patient {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            // Set when the connection was made.
            VirtualSockOpt::NoDelay => Ok(()),
            VirtualSockOpt::KeepAlive(keepalive) => match self.line.tcp() {
                Some(tcp) => set_tcp_keepalive(tcp, &keepalive).map_err(io::Error::other),
                None => Ok(()),
            },
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.line).poll_read(cx, buf) {
            self.timer.stop();
            return Poll::Ready(read);
        }
        let this = &mut *self;
        ready!(this.timer.poll_too_long(cx, &this.silence));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.timer.restart(&this.silence);
        Pin::new(&mut this.line).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    /// Reads from a silent connection, which must end once it is silent for too long, and only unless the answer
    /// has allowed silence meanwhile.
    pub(in crate::edge::proxy) async fn ends_unless_allowed(
        mut stream: impl AsyncRead + Unpin,
        silence: &Silence,
        allowed: bool,
    ) {
        let mut byte = [0];
        let mut reading = std::pin::pin!(stream.read(&mut byte));
        // The answer has its say while the timer runs already.
        assert!(futures::poll!(&mut reading).is_pending());
        if allowed {
            silence.allow();
        }
        let read = tokio::time::timeout(Duration::from_secs(3600), reading).await;
        let ended = read.map(|read| read.map_err(|error| error.kind()));
        match allowed {
            true => assert!(ended.is_err()),
            false => assert_eq!(ended.unwrap(), Err(io::ErrorKind::TimedOut)),
        }
        assert_eq!(silence.was_too_long(), !allowed);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_unless_the_answer_allows_it() {
        for allowed in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let _other = listener.accept().await.unwrap();
            let silence = Silence::new(Duration::from_secs(60));
            ends_unless_allowed(Patient::new(Line::Clear(tcp), Arc::clone(&silence)), &silence, allowed)
                .await;
        }
    }
}

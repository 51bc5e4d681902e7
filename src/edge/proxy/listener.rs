//! Client connections: read one checked header section at a time, handed to the engine, and drained at
//! the end.
//!
//! Every exchange runs under its own switch ([`OpenExchange`]), so that it can be ended from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::capacity::Capacity;
use super::exchange::{CURRENT, OpenExchange};
use super::gateway::Gateway;
use super::head::{self, Head};
use super::refused::Refused;
use super::socket::{Socket, Wire};
use super::tls;
use palisade_core::ports::Meter;

/// How long an idle connection is kept once the gateway is closing, for a request that its client has sent
/// before it could know.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// What every connection of a listener shares.
pub struct Listener {
    pub engine: Arc<HttpProxy<Gateway>>,
    pub limits: head::HeadLimits,
    /// What the process can hold; connections beyond it are closed as they come.
    pub capacity: Arc<Capacity>,
    pub meter: Arc<dyn Meter>,
    /// True once the gateway is shutting down.
    pub closing: watch::Receiver<bool>,
    /// Present on the encrypted listener.
    pub tls: Option<tls::Acceptor>,
    /// Every open connection; waiting for it is draining.
    pub connections: TaskTracker,
}

impl Listener {
    /// Serves one connection to its end.
    pub(super) async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let wire = match &self.tls {
            None => Wire::Clear(stream),
            Some(tls) => match tokio::time::timeout(self.limits.deadline, tls.accept(stream)).await {
                Ok(Ok(stream)) => Wire::Tls(Box::new(stream)),
                // Scanners and half-open connections: not worth a line each.
                Ok(Err(_)) | Err(_) => return self.meter.connection_refused("tls"),
            },
        };
        let encrypted = self.tls.is_some();
        let mut socket = Box::new(Socket::new(wire));
        let mut first = true;
        let mut settings: Option<HttpPersistentSettings> = None;
        let mut memory = self.capacity.memory();
        loop {
            let read = head::read(&mut *socket, &self.limits, first, &mut memory, self.leaving()).await;
            let section = match read {
                Head::Complete(section) => section,
                Head::Http2(buffer) => {
                    memory.hold(0);
                    socket.put_back(buffer);
                    return self.serve_http2(socket, peer).await;
                }
                refused => return self.refuse(&refused, socket, peer).await,
            };
            first = false;
            let exchange = OpenExchange::new(peer, encrypted);
            socket.begin(section, Arc::clone(&exchange));
            let mut session = ServerSession::new_http1(socket as Stream);
            match settings.take() {
                Some(settings) => settings.apply_to_session(&mut session),
                None => session.set_keepalive(Some(self.limits.idle.as_secs())),
            }
            let served =
                CURRENT.scope(Arc::clone(&exchange), self.engine.process_new_http(session, &self.closing));
            let reused = tokio::select! {
                biased;
                () = exchange.is_cut() => return,
                reused = served => reused,
            };
            memory.hold(0);
            if let Some(refused) = exchange.replaced() {
                refused.log(&*self.meter, peer, Duration::ZERO);
            }
            let Some((stream, kept)) = reused.map(ReusedHttpStream::consume) else { return };
            // The engine hands back the stream that it was given.
            let Ok(same) = stream.into_any().downcast::<Socket>() else { return };
            socket = same;
            socket.end();
            settings = kept;
        }
    }

    /// Tells the client why its request never became one, and closes.
    async fn refuse(&self, head: &Head, mut socket: Box<Socket>, peer: SocketAddr) {
        let Some(refused) = Refused::head(head) else { return };
        let took = if matches!(head, Head::TooSlow) { self.limits.deadline } else { Duration::ZERO };
        refused.log(&*self.meter, peer, took);
        refused.say(&mut socket).await;
    }

    /// Resolves when a connection without a request has nothing to wait for any more: a while after the
    /// gateway began to close, since a request may be on its way.
    async fn leaving(&self) {
        // The sender lives as long as the gateway; without it there is nothing to wait for either.
        let _ = self.closing.clone().wait_for(|closing| *closing).await;
        tokio::time::sleep(LAST_REQUEST).await;
    }
}

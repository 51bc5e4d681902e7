//! Client connections: accepted, counted, read one checked header section at a time, handed to the
//! engine, and drained at the end.
//!
//! Every exchange runs under its own switch ([`Exchange`]), so that it can be ended from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::exchange::{CURRENT, Exchange};
use super::gateway::Gateway;
use super::head::{self, Head};
use super::outbound;
use super::socket::{Socket, Wire};
use super::tls;
use crate::domain::answer::answer;
use crate::domain::problem::Problem;
use crate::domain::verdict::Refusal;

/// How long an answer that ends a connection may take to be written.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// What every connection of a listener shares.
pub struct Listener {
    pub engine: Arc<HttpProxy<Gateway>>,
    pub limits: head::Limits,
    /// One permit per open connection; more connections are closed as they come.
    pub slots: Arc<Semaphore>,
    /// True once the gateway is shutting down.
    pub closing: watch::Receiver<bool>,
    /// Present on the encrypted listener.
    pub tls: Option<tls::Acceptor>,
    /// Every open connection; waiting for it is draining.
    pub connections: TaskTracker,
}

impl Listener {
    /// Accepts connections until the gateway closes.
    pub async fn run(self: Arc<Self>, tcp: TcpListener) {
        let mut closing = self.closing.clone();
        loop {
            let accepted = tokio::select! {
                accepted = tcp.accept() => accepted,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or the client left already. Give the machine a moment.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { continue };
            let listener = Arc::clone(&self);
            self.connections.spawn(async move {
                // Latency matters more than a saved packet; a socket that cannot is still served.
                let _ = stream.set_nodelay(true);
                listener.serve(stream, peer).await;
                drop(slot);
            });
        }
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let wire = match &self.tls {
            None => Wire::Clear(stream),
            Some(tls) => match tokio::time::timeout(self.limits.deadline, tls.accept(stream)).await {
                Ok(Ok(stream)) => Wire::Tls(Box::new(stream)),
                // Scanners and half-open connections: not worth a line each.
                Ok(Err(_)) | Err(_) => return,
            },
        };
        let encrypted = self.tls.is_some();
        let mut socket = Box::new(Socket::new(wire));
        let mut first = true;
        let mut settings: Option<HttpPersistentSettings> = None;
        let mut closing = self.closing.clone();
        loop {
            let read = tokio::select! {
                biased;
                read = head::read(&mut *socket, &self.limits, first) => read,
                // An idle connection has nothing to lose.
                _ = closing.wait_for(|closing| *closing), if !first => return,
            };
            let section = match read {
                Head::Complete(section) => section,
                Head::Http2(buffer) => {
                    socket.put_back(buffer);
                    return self.serve_http2(socket, peer).await;
                }
                Head::Gone => return,
                refused => return last_words(&mut socket, &refused).await,
            };
            first = false;
            let exchange = Exchange::new(peer, encrypted);
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
            let Some((stream, kept)) = reused.map(ReusedHttpStream::consume) else { return };
            // The engine hands back the stream that it was given.
            let Ok(same) = stream.into_any().downcast::<Socket>() else { return };
            socket = same;
            socket.end();
            settings = kept;
        }
    }
}

/// Tells the client why its request never became one, and closes.
async fn last_words(socket: &mut Socket, head: &Head) {
    let problem = match head {
        Head::TooSlow => Problem::new(408, "header_timeout", "The header section did not arrive in time."),
        Head::TooLarge => answer(&Refusal::HeaderTooLarge).problem,
        Head::Version => Problem::new(505, "http_version", "Speak HTTP/1.1 or HTTP/2."),
        Head::Refused(malformed) => answer(&Refusal::Malformed(*malformed)).problem,
        Head::Complete(_) | Head::Http2(_) | Head::Gone => return,
    };
    let written = async {
        socket.write_all(&outbound::raw(&problem)).await?;
        socket.shutdown().await
    };
    // The connection is closed whether or not the client heard us.
    let _ = tokio::time::timeout(LAST_WORDS, written).await;
}

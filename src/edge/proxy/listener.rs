//! Client connections: accepted, counted, read one checked header section at a time, handed to the
//! engine, and drained at the end.
//!
//! Every exchange runs under its own switch ([`Exchange`]), so that it can be ended from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server as h2;
use pingora::protocols::{Digest, Stream};
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

/// Bounds on one HTTP/2 connection: what a client can make us hold for it.
const H2_STREAMS: u32 = 100;
const H2_HEADER_LIST: u32 = 64 * 1024;
const H2_PENDING_RESETS: usize = 20;
const H2_LOCAL_RESETS: usize = 100;
const H2_MALFORMED: usize = 20;
/// How long an answer that ends a connection may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
            let buffer = match read {
                Head::Complete(buffer) => buffer,
                Head::Http2(buffer) => {
                    socket.put_back(buffer);
                    return self.serve_http2(socket, peer).await;
                }
                Head::Gone => return,
                refused => return last_words(&mut socket, &refused).await,
            };
            first = false;
            socket.put_back(buffer);
            let mut session = ServerSession::new_http1(socket as Stream);
            match settings.take() {
                Some(settings) => settings.apply_to_session(&mut session),
                None => session.set_keepalive(Some(self.limits.idle.as_secs())),
            }
            let exchange = Exchange::new(peer, encrypted);
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
            settings = kept;
        }
    }

    async fn serve_http2(&self, socket: Box<Socket>, peer: SocketAddr) {
        let encrypted = self.tls.is_some();
        let mut options = h2::default_h2_options();
        options
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(H2_HEADER_LIST)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS)
            .max_local_error_reset_streams(Some(H2_LOCAL_RESETS));
        let Ok(Ok(mut connection)) =
            tokio::time::timeout(self.limits.deadline, h2::handshake(socket, Some(options))).await
        else {
            return;
        };
        let streams = TaskTracker::new();
        let digest = Arc::new(Digest::default());
        let mut closing = self.closing.clone();
        let (mut leaving, mut rejected) = (false, 0);
        loop {
            let accepted = tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing), if !leaving => {
                    connection.graceful_shutdown();
                    leaving = true;
                    continue;
                }
                accepted = h2::HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)) => accepted,
                () = tokio::time::sleep(self.limits.idle) => match streams.is_empty() {
                    true => return,
                    false => continue,
                },
            };
            match accepted {
                Ok(Some(h2::H2Accept::Session(stream))) => {
                    let engine = Arc::clone(&self.engine);
                    let closing = self.closing.clone();
                    let exchange = Exchange::new(peer, encrypted);
                    let serving = streams.track_future(async move {
                        let session = ServerSession::new_http2(stream);
                        tokio::select! {
                            biased;
                            // Dropping the session resets the stream.
                            () = exchange.is_cut() => {}
                            _ = CURRENT.scope(Arc::clone(&exchange), engine.process_new_http(session, &closing)) => {}
                        }
                    });
                    self.connections.spawn(serving);
                }
                Ok(Some(h2::H2Accept::Rejected)) if rejected < H2_MALFORMED => rejected += 1,
                Ok(Some(h2::H2Accept::Rejected) | None) | Err(_) => return,
            }
        }
    }
}

/// Tells the client why its request never became one, and closes.
async fn last_words(socket: &mut Socket, head: &Head) {
    let problem = match head {
        Head::TooSlow => Problem::new(408, "header_timeout", "The header section did not arrive in time."),
        Head::TooLarge => {
            Problem::new(431, "header_too_large", "The header section is larger than this server takes.")
        }
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

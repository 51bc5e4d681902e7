//! HTTP/2 connections: the handshake, one task for each request, and the bounds on both.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora::apps::HttpServerApp;
use pingora::protocols::Digest;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server as h2;
use tokio_util::task::TaskTracker;

use super::exchange::{CURRENT, Exchange};
use super::listener::Listener;
use super::socket::Socket;

/// Bounds on one HTTP/2 connection: what a client can make us hold for it.
const H2_STREAMS: u32 = 100;
const H2_HEADER_LIST: u32 = 64 * 1024;
const H2_PENDING_RESETS: usize = 20;
const H2_LOCAL_RESETS: usize = 100;
const H2_MALFORMED: usize = 20;

impl Listener {
    /// Serves the requests of one connection until either end is done with it.
    pub(super) async fn serve_http2(&self, socket: Box<Socket>, peer: SocketAddr) {
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

//! The proxy: client connections in, admitted requests out. Only this room imports pingora.

pub mod accept;
pub mod answer_head;
pub mod app_cookies;
pub mod app_tokens;
pub mod bridge;
pub mod browsers;
pub mod caching;
pub mod capacity;
pub mod context;
pub mod cookies;
pub mod cors;
pub mod dial;
pub mod exchange;
pub mod expiry;
pub mod fields;
pub mod forget;
pub mod forward;
pub mod forwarded;
pub mod framing;
pub mod gateway;
pub mod grpc;
pub mod guard;
pub mod h2;
pub mod happy_eyeballs;
pub mod head;
pub mod health;
pub mod hop;
pub mod inbound;
pub mod inject;
pub mod listener;
pub mod looped;
pub mod outbound;
pub mod patience;
pub mod ping;
pub mod refused;
pub mod replica;
pub mod resend;
pub mod rewrite;
pub mod served;
pub mod service;
pub mod socket;
pub mod stage;
pub mod thrown_away;
pub mod tls;
pub mod turns;
pub mod upgrade;
pub mod upstream;
pub mod upstream_tls;

use std::sync::Arc;

use pingora::apps::HttpServerApp;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;

/// The engine with our hooks in it.
pub type Engine = HttpProxy<gateway::Gateway>;

/// The engine's own bound on attempts for one request. Routes are bounded by their `retries`, which the
/// hooks count.
const MAX_ATTEMPTS: usize = 16;

/// Puts `gateway` into an engine.
#[must_use]
pub fn engine(gateway: gateway::Gateway) -> Arc<Engine> {
    // The engine would make ring the default of the whole process, which takes the first that comes. One that is there
    // already is ours, of an earlier gateway in this process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let conf = ServerConf {
        max_retries: MAX_ATTEMPTS,
        // Only HTTP/2 connections to upstreams: those over HTTP/1.1 are in [`dial`].
        upstream_keepalive_pool_size: gateway.capacity.plan().http2_pool(),
        ..ServerConf::default()
    };
    Arc::new(pingora::proxy::http_proxy(&Arc::new(conf), gateway))
}

/// Tells the engine that no further request comes: connections are closed after their answer.
pub async fn close(engine: &Engine) {
    engine.http_cleanup().await;
}

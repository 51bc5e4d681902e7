//! The proxy: client connections in, admitted requests out. Only this room imports pingora.

pub mod bridge;
pub mod context;
pub mod cookies;
pub mod exchange;
pub mod forward;
pub mod gateway;
pub mod grpc;
pub mod h2;
pub mod head;
pub mod hop;
pub mod inbound;
pub mod inject;
pub mod listener;
pub mod outbound;
pub mod patience;
pub mod service;
pub mod socket;
pub mod tls;
pub mod upgrade;
pub mod upstream;

use std::sync::Arc;

use pingora::apps::HttpServerApp;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;

/// The engine with our hooks in it.
pub type Engine = HttpProxy<gateway::Gateway>;

/// The engine's own bound on attempts for one request. Routes are bounded by their `retries`, which the
/// hooks count; a pooled connection that turns out closed may be replaced beyond that.
const MAX_ATTEMPTS: usize = 16;
/// Idle connections to upstreams that are kept.
const POOL_SIZE: usize = 1024;

/// Puts `gateway` into an engine.
#[must_use]
pub fn engine(gateway: gateway::Gateway) -> Arc<Engine> {
    let conf = ServerConf {
        max_retries: MAX_ATTEMPTS,
        upstream_keepalive_pool_size: POOL_SIZE,
        ..ServerConf::default()
    };
    Arc::new(pingora::proxy::http_proxy(&Arc::new(conf), gateway))
}

/// Tells the engine that no further request comes: connections are closed after their answer.
pub async fn close(engine: &Engine) {
    engine.http_cleanup().await;
}

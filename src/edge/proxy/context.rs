//! What is known of one request while the engine carries it from hook to hook.
//!
//! Nothing here decides. The accessors refuse where an earlier hook was skipped.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use pingora::{Error, ErrorType, Result};

use super::capacity::Share;
use super::cors::CorsRules;
use super::dial::Delivery;
use super::exchange::{CURRENT, Exchange, Watched};
use super::forwarded::Relayed;
use super::gateway::Live;
use super::inject::Injected;
use super::patience::Silence;
use super::refused;
use super::served::ServedRoute;
use crate::domain::verdict::Refusal;
use crate::ports::Ended;
use crate::service::admit::Permit;

/// One request on its way.
pub struct Context {
    pub(super) started: Instant,
    pub(super) request_id: String,
    pub(super) exchange: Option<Arc<Exchange>>,
    pub(super) live: Option<Arc<Live>>,
    pub(super) permit: Option<Permit<ServedRoute>>,
    /// The provider's token that goes upstream, on a route with `inject`.
    pub(super) injected: Option<Injected>,
    /// Why there will be no good one after all.
    pub(super) lost: Option<Refusal>,
    /// The route that took or refused the request.
    pub(super) route: Option<Arc<ServedRoute>>,
    /// The path in normal form, and the host as it was matched.
    pub(super) path: Arc<str>,
    pub(super) host: Arc<str>,
    pub(super) websocket: bool,
    /// What a believed proxy says of the request.
    pub(super) relayed: Option<Box<Relayed>>,
    pub(super) client: IpAddr,
    /// The upstreams of the attempts so far, and how many attempts there were in all.
    pub(super) tried: Vec<SocketAddr>,
    pub(super) attempts: usize,
    /// The attempt under way, when it is over HTTP/1.1.
    pub(super) delivery: Option<Arc<Delivery>>,
    /// Set once the chosen upstream turned out to speak only HTTP/1.1.
    pub(super) http1: Option<Arc<AtomicBool>>,
    pub(super) body_received: u64,
    pub(super) decision: &'static str,
    /// The status of the answer, where it was given here: a gRPC call is refused under an HTTP 200.
    pub(super) answered: Option<u16>,
    /// How long the upstream may be silent, where its answer has a say in that.
    pub(super) silence: Option<Arc<Silence>>,
    pub(super) authority: Arc<str>,
    pub(super) watched: Option<Watched>,
    /// The place of this request's connection to its upstream.
    pub(super) upstream: Option<Share>,
    /// The memory for what the engine keeps of the body, to send it once more.
    pub(super) body_memory: Option<Share>,
    /// The status that went out, and the bytes of body behind it; for an exchange that is cut.
    pub(super) sent: (u16, u64),
    /// Whether the meter was told of the end.
    pub(super) told_end: bool,
}

impl Context {
    /// A request of which nothing is known yet, that began now.
    pub(super) fn new() -> Context {
        let exchange = CURRENT.try_with(Arc::clone).ok();
        if let Some(exchange) = &exchange {
            exchange.begin();
        }
        Context {
            started: Instant::now(),
            request_id: refused::request_id(),
            exchange,
            live: None,
            permit: None,
            injected: None,
            lost: None,
            route: None,
            path: Arc::from(""),
            host: Arc::from(""),
            websocket: false,
            relayed: None,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tried: Vec::new(),
            attempts: 0,
            delivery: None,
            http1: None,
            body_received: 0,
            decision: "failed",
            answered: None,
            silence: None,
            authority: Arc::from(""),
            watched: None,
            upstream: None,
            body_memory: None,
            sent: (0, 0),
            told_end: false,
        }
    }

    pub(super) fn peer(&self) -> IpAddr {
        self.exchange.as_ref().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |exchange| exchange.peer.ip())
    }

    pub(super) fn permitted(&self) -> Result<(&Permit<ServedRoute>, &Live)> {
        match (&self.permit, &self.live) {
            (Some(permit), Some(live)) => Ok((permit, live)),
            // The invariant of this file: nothing is forwarded that was not admitted.
            _ => Error::e_explain(ErrorType::HTTPStatus(500), "a request without a permit"),
        }
    }

    /// What the request's route says about pages of other origins.
    pub(super) fn cors(&self) -> Option<&CorsRules> {
        self.route.as_ref()?.cors.as_ref()
    }

    /// Whether the route's `retries` leave another attempt.
    pub(super) fn may_retry(&self) -> bool {
        self.permitted().is_ok_and(|(permit, _)| self.attempts <= permit.route().cluster.settings.retries)
    }
}

impl Drop for Context {
    /// Tells of an exchange that was ended from outside: the engine drops it and calls no further hook.
    fn drop(&mut self) {
        let Some(watched) = self.watched.as_ref().filter(|_| !self.told_end) else { return };
        let exchange = watched.exchange();
        let (Some(ending), Some(admitted)) = (exchange.ending(), exchange.admitted()) else { return };
        let (status, bytes) = self.sent;
        watched.meter().ended(&Ended {
            route: self.route.as_ref().map(|served| &*served.route.name),
            status,
            took: self.started.elapsed(),
            decision: ending.code(),
            request_id: &self.request_id,
            method: &admitted.method,
            host: &self.host,
            path: &self.path,
            bytes,
            subject: admitted.caller.as_ref().map(|caller| caller.identity.subject.as_str()),
            client: self.client,
            upstream: self.tried.last().copied(),
        });
    }
}

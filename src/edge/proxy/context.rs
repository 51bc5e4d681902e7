//! What is known of one request while the engine carries it from hook to hook.
//!
//! Nothing here decides. What a hook may do depends on the [`Stage`].

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use super::capacity::Share;
use super::exchange::{CURRENT, OpenExchange, Watched};
use super::refused;
use super::stage::{Answered, Stage};
use palisade_core::ports::Ended;

/// One request on its way.
pub struct RequestContext {
    pub(super) started: Instant,
    pub(super) id: String,
    pub(super) exchange: Arc<OpenExchange>,
    /// The address of the client, as far as trusted proxies vouch for it.
    pub(super) client: IpAddr,
    pub(super) upload: Upload,
    pub(super) stage: Stage,
    /// Keeps it among the exchanges that a revocation or a reload may end, from its admission until it is gone: while
    /// it waits for what it needs to go upstream, and while a failure of it is answered, too.
    pub(super) watched: Option<Watched>,
    /// Whether the meter was told of the end, or is to be told nothing.
    pub(super) is_logged: bool,
}

/// The body of a request, as far as it came.
#[derive(Debug, Default)]
pub struct Upload {
    /// Bytes, since the last attempt began.
    pub received: u64,
    /// The memory for what the engine keeps of it, to send it once more. Held until the request is gone, as the engine
    /// does.
    pub memory: Option<Share>,
}

impl RequestContext {
    /// A request of which nothing is known yet, that began now.
    pub(super) fn new() -> RequestContext {
        let (exchange, stage) = match CURRENT.try_with(Arc::clone) {
            Ok(exchange) => (exchange, Stage::Fresh),
            // Nothing could end such an exchange from outside, so it does not begin: every hook refuses it.
            Err(_) => {
                let nowhere = (Ipv4Addr::UNSPECIFIED, 0).into();
                (OpenExchange::new(nowhere, false), Stage::Answered(Answered::default()))
            }
        };
        exchange.begin();
        RequestContext {
            started: Instant::now(),
            id: refused::request_id(),
            client: exchange.peer.ip().to_canonical(),
            exchange,
            upload: Upload::default(),
            stage,
            watched: None,
            is_logged: false,
        }
    }

    pub(super) fn peer(&self) -> IpAddr {
        self.exchange.peer.ip()
    }
}

impl Drop for RequestContext {
    /// Tells of an exchange that was ended from outside: the engine drops it and calls no further hook.
    fn drop(&mut self) {
        let Some(watched) = self.watched.as_ref().filter(|_| !self.is_logged) else { return };
        let sent = self.stage.sent();
        let (Some(ending), Some(admitted)) = (self.exchange.ending(), self.exchange.admitted()) else {
            return;
        };
        watched.meter().ended(&Ended {
            route: Some(&admitted.route.name),
            status: sent.status,
            took: self.started.elapsed(),
            decision: ending.code(),
            request_id: &self.id,
            method: &admitted.method,
            host: &admitted.host,
            path: &admitted.path,
            bytes: sent.bytes,
            subject: admitted.caller.as_ref().map(|caller| caller.identity.subject.as_str()),
            client: self.client,
            upstream: self.stage.upstream(),
        });
    }
}

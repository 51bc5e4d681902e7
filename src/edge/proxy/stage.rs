//! How far a request has come. What may be done with it depends on that, so each stage is a type of its own: what
//! goes to an upstream asks for [`Admitted`], which cannot be had without a [`Permit`].

use std::net::IpAddr;
use std::sync::Arc;

use pingora::{Error, ErrorType, Result};

use super::app_cookies::AppCookies;
use super::capacity::Share;
use super::cors::CorsRules;
use super::dial::Delivery;
use super::forwarded::Relayed;
use super::gateway::Live;
use super::inject::InjectedToken;
use super::served::ServedRoute;
use super::upstream::Attempt;
use palisade_core::domain::upstream_address::UpstreamAddress;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{Revocations, Verified};
use palisade_core::service::admit::Permit;

/// Where a request stands.
#[expect(clippy::large_enum_variant, reason = "there is one for each request, and a box is an allocation")]
pub enum Stage {
    /// Nothing is decided.
    Fresh,
    /// It may go to an upstream of its route.
    Admitted(Admitted),
    /// It was answered here, or failed. Nothing goes upstream any more: the permit is gone.
    Answered(Answered),
}

/// A request as it was read and matched.
#[derive(Debug, Clone)]
pub struct MatchedRequest {
    /// The Host without the scheme's port, in lower case.
    pub host: Arc<str>,
    /// The path in normal form.
    pub path: Arc<str>,
    /// Whether it asks to become a WebSocket.
    pub websocket: bool,
    /// The client's address where a route depends on it, as far as it is believed.
    pub client: Option<IpAddr>,
}

/// A request that may go to an upstream, and how that goes.
pub struct Admitted {
    pub permit: Permit<ServedRoute>,
    /// What was in force when it was admitted.
    pub live: Arc<Live>,
    pub matched: MatchedRequest,
    /// What a trusted proxy says of where it came from.
    pub relayed: Option<Box<Relayed>>,
    /// The provider's token that goes upstream: present exactly on a route with `inject`.
    pub injected: Option<InjectedToken>,
    /// The app's own session cookies, once they are sorted: present exactly on a route with `app_cookies`.
    pub app_cookies: Option<Box<AppCookies>>,
    pub attempts: Attempts,
    /// Why there will be no answer of an upstream after all, where we know better than the engine.
    pub refused: Option<Refusal>,
    /// What went out of the upstream's answer.
    pub sent: Sent,
    /// The place of its connection to an upstream.
    pub place: Share,
}

/// The attempts to have one request answered.
#[derive(Debug, Default)]
pub struct Attempts {
    /// The one under way, or the last one.
    pub current: Option<Attempt>,
    /// The upstreams that were tried and are not to be tried again while there is another, by their place in the list.
    pub tried: Vec<usize>,
    /// How many there were in all.
    pub count: usize,
    /// Whether one was taken back because its connection was closing: the next one is over a new connection.
    pub has_moved: bool,
}

/// How much of an answer went out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// 0 before its head.
    pub status: u16,
    /// Of its body.
    pub bytes: u64,
}

/// A request that was answered here or failed: what is left of it is for the log.
#[derive(Default)]
pub struct Answered {
    /// The word for what was decided or went wrong.
    pub code: &'static str,
    /// The status that the client was told or would have been told; 0 where there was no client to tell.
    pub status: u16,
    /// The route that took or refused it.
    pub route: Option<Arc<ServedRoute>>,
    pub host: Option<Arc<str>>,
    /// Of a request that was admitted, or refused because its route asks for more.
    pub caller: Option<Arc<Verified>>,
    /// The last upstream that was tried.
    pub upstream: Option<UpstreamAddress>,
    /// What of an upstream's answer went out before.
    pub sent: Sent,
    /// Of a request that no route took: the route whose `cors` says which pages may read the answer.
    pub speaker: Option<Arc<ServedRoute>>,
}

impl Stage {
    /// # Errors
    /// The request is not fresh. [`out_of_order`].
    pub fn fresh(&self) -> Result<()> {
        match self {
            Stage::Fresh => Ok(()),
            Stage::Admitted(_) | Stage::Answered(_) => Err(out_of_order(self.name())),
        }
    }

    /// What is needed to go on with a request that has a permit.
    ///
    /// # Errors
    /// It has none. [`out_of_order`].
    pub fn admitted(&mut self) -> Result<&mut Admitted> {
        match self {
            Stage::Admitted(admitted) => Ok(admitted),
            Stage::Fresh | Stage::Answered(_) => Err(out_of_order(self.name())),
        }
    }

    /// Ends the stage that a request was in: it is answered with `status`, for the reason that `code` names.
    pub fn end(&mut self, code: &'static str, status: u16) {
        let before = std::mem::replace(self, Stage::Fresh);
        *self = Stage::Answered(match before {
            Stage::Fresh => Answered { code, status, ..Answered::default() },
            Stage::Answered(answered) => Answered { code, status, ..answered },
            Stage::Admitted(Admitted { permit, matched, attempts, sent, .. }) => Answered {
                code,
                status,
                route: Some(Arc::clone(permit.route())),
                host: Some(matched.host),
                caller: permit.caller().cloned(),
                upstream: attempts.address(),
                sent,
                speaker: None,
            },
        });
    }

    /// The route, once one is known.
    #[must_use]
    pub fn route(&self) -> Option<&ServedRoute> {
        match self {
            Stage::Fresh => None,
            Stage::Admitted(admitted) => Some(admitted.served()),
            Stage::Answered(answered) => answered.route.as_deref(),
        }
    }

    /// What the route says about pages of other origins.
    #[must_use]
    pub fn cors(&self) -> Option<&CorsRules> {
        let speaker = match self {
            Stage::Answered(answered) => answered.speaker.as_deref(),
            Stage::Fresh | Stage::Admitted(_) => None,
        };
        self.route().or(speaker)?.cors.as_ref()
    }

    /// The Host as it was matched; empty while none was.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Stage::Fresh => "",
            Stage::Admitted(admitted) => &admitted.matched.host,
            Stage::Answered(answered) => answered.host.as_deref().unwrap_or_default(),
        }
    }

    /// The word for what was decided.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Stage::Fresh => "failed",
            Stage::Admitted(admitted) if admitted.permit.is_left_to_app() => "left_to_app",
            Stage::Admitted(_) => "allowed",
            Stage::Answered(answered) => answered.code,
        }
    }

    /// The delivery under way over a connection of ours.
    #[must_use]
    pub fn delivery(&self) -> Option<&Delivery> {
        let Stage::Admitted(admitted) = self else { return None };
        admitted.attempts.current.as_ref()?.delivery.as_deref()
    }

    /// Who sent an admitted request, if a token says so.
    #[must_use]
    pub fn caller(&self) -> Option<&Verified> {
        match self {
            Stage::Fresh => None,
            Stage::Admitted(admitted) => admitted.permit.caller().map(|caller| &**caller),
            Stage::Answered(answered) => answered.caller.as_deref(),
        }
    }

    /// The last upstream that was tried.
    #[must_use]
    pub fn upstream(&self) -> Option<UpstreamAddress> {
        match self {
            Stage::Fresh => None,
            Stage::Admitted(admitted) => admitted.attempts.address(),
            Stage::Answered(answered) => answered.upstream.clone(),
        }
    }

    /// How much of an upstream's answer went out.
    #[must_use]
    pub fn sent(&self) -> Sent {
        match self {
            Stage::Fresh => Sent::default(),
            Stage::Admitted(admitted) => admitted.sent,
            Stage::Answered(answered) => answered.sent,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Stage::Fresh => "fresh",
            Stage::Admitted(_) => "admitted",
            Stage::Answered(_) => "answered",
        }
    }
}

impl Answered {
    /// A request that was read, and matched `route`, if any.
    #[must_use]
    pub fn by(route: Option<Arc<ServedRoute>>, host: Arc<str>) -> Answered {
        Answered { route, host: Some(host), ..Answered::default() }
    }
}

impl Admitted {
    /// What its caller is held against.
    #[must_use]
    pub fn revocations(&self) -> &dyn Revocations {
        &*self.live.admission.authenticator.revocations
    }

    /// What serves it.
    #[must_use]
    pub fn served(&self) -> &ServedRoute {
        self.permit.route()
    }

    /// Whether the route's `retries` leave another attempt.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        self.attempts.count <= self.served().cluster.settings.retries
    }
}

impl Attempts {
    /// Notes that `attempt` begins.
    pub fn begin(&mut self, attempt: Attempt) {
        self.tried.push(attempt.index);
        self.count += 1;
        self.current = Some(attempt);
    }

    /// The attempt under way.
    ///
    /// # Errors
    /// None has begun. [`out_of_order`].
    pub fn current(&self) -> Result<&Attempt> {
        self.current.as_ref().ok_or_else(|| out_of_order("no attempt has begun"))
    }

    /// Where the last one led, or would have led.
    fn address(&self) -> Option<UpstreamAddress> {
        self.current.as_ref().and_then(Attempt::address)
    }

    /// Takes the attempt under way back because its connection was closing and the upstream did not act on the request. Once
    /// for a request, and false after that: an upstream that closes every connection is bounded by `retries`.
    pub fn moves_on(&mut self) -> bool {
        if std::mem::replace(&mut self.has_moved, true) {
            return false;
        }
        self.take_back();
        true
    }

    /// Takes the attempt under way back: its upstream was asked nothing.
    pub fn take_back(&mut self) {
        self.tried.pop();
        self.count -= 1;
    }
}

/// The engine has called a hook in a stage in which it cannot: a bug. The request ends here, with a 500.
fn out_of_order(stage: &'static str) -> Box<Error> {
    tracing::error!(
        stage,
        "bug: the engine went on with a request that is not in the stage for it; it is refused"
    );
    Error::explain(ErrorType::HTTPStatus(500), "a hook out of order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_permit_goes_nowhere() {
        let status = |error: &Error| error.etype().clone();
        let mut stage = Stage::Fresh;
        stage.fresh().unwrap();
        assert_eq!(stage.admitted().err().map(|e| status(&e)), Some(ErrorType::HTTPStatus(500)));
        stage.end("token_missing", 401);
        assert_eq!(stage.admitted().err().map(|e| status(&e)), Some(ErrorType::HTTPStatus(500)));
        assert_eq!(stage.fresh().err().map(|e| status(&e)), Some(ErrorType::HTTPStatus(500)));
        assert_eq!(Attempts::default().current().err().map(|e| status(&e)), Some(ErrorType::HTTPStatus(500)));
    }

    #[test]
    fn the_last_reason_is_the_one_that_is_logged() {
        let mut stage = Stage::Fresh;
        assert_eq!((stage.code(), stage.host()), ("failed", ""));
        stage = Stage::Answered(Answered {
            code: "native",
            status: 200,
            host: Some("app.test".into()),
            ..Answered::default()
        });
        stage.end("client_gone", 0);
        assert_eq!((stage.code(), stage.host()), ("client_gone", "app.test"));
    }
}

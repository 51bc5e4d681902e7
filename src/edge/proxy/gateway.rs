//! The gateway, and what becomes of a request: it is read and matched, and answered here or admitted.
//!
//! The engine's hooks are in [`super::service`], what can be done with a request at which stage in [`super::stage`].

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::app_tokens::AppTokens;
use super::browsers::{AnsweredHere, BrowserAnswers, BrowserRules, Unserved};
use super::capacity::{Capacity, Share};
use super::context::{RequestContext, Upload};
use super::exchange::{OpenExchange, Streams, Watched};
use super::forward::StripRules;
use super::forwarded::{self, Believed, Relayed};
use super::inbound;
use super::inject::{InjectedToken, TokenSource};
use super::looped::LoopMark;
use super::ping::{self, Ping};
use super::served::ServedRoute;
use super::stage::{Admitted, Answered, Attempts, MatchedRequest, Sent, Stage};
use super::thrown_away::ThrownAway;
use super::{app_cookies, bridge, cookies, cors, h2, outbound, turns};
use crate::config::ClientAddress;
use crate::http_fields::Fields;
use palisade_core::domain::answer;
use palisade_core::domain::native_hosts::{NativeHosts, OwnPath};
use palisade_core::domain::navigation;
use palisade_core::domain::request::Malformed;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{Clock, Injector, Meter, PageRenderer, Signer};
use palisade_core::service::admit::{Admission, Permit, Verdict};
use palisade_core::service::carry::SessionCarrier;
use palisade_core::service::left_to_app::LeftToApp;
use palisade_core::service::ongoing::AdmissionRecord;

/// How much of a request body the engine keeps at most, in bytes.
const KEPT_BODY: usize = 64 * 1024;

/// What a reload replaces as a whole: the routes with their policies and upstreams, and what is forwarded to them.
pub struct Live {
    pub admission: Admission<ServedRoute>,
    /// What no client may send, whatever its route.
    pub strip: StripRules,
    /// The proxies whose word on where a request came from counts.
    pub believed: Believed,
    /// Says once that forwarded fields count for nothing, where no proxy is believed.
    pub thrown_away: ThrownAway,
    /// The hosts on which native endpoints answer.
    pub native_hosts: NativeHosts,
    /// What there is for people with browsers; `None`: nothing (`[browser] enabled = false`).
    pub browsers: Option<BrowserRules>,
}

/// The gateway as the engine calls it.
pub struct Gateway {
    pub live: Arc<ArcSwap<Live>>,
    /// The largest header section in bytes, as HTTP/1.1 would write it.
    pub max_header_bytes: usize,
    /// The endpoints that we answer ourselves.
    pub native: Router,
    /// The path below which they are, without a trailing slash.
    pub native_prefix: String,
    pub streams: Arc<Streams>,
    pub signer: Arc<dyn Signer>,
    /// The tokens for the servers of apps.
    pub app_tokens: Arc<AppTokens>,
    /// Where the tokens come from that routes with `inject` send upstream.
    pub injector: Arc<dyn Injector>,
    /// `server.ping_path`; `None`: there is none.
    pub ping: Option<Ping>,
    /// The path at which connections to providers are begun.
    pub connect_at: String,
    /// By which this process knows a request that has been here.
    pub mark: LoopMark,
    /// The pages for people.
    pub pages: Arc<dyn PageRenderer>,
    /// Carries sessions to other hosts.
    pub carrier: Arc<SessionCarrier>,
    /// The audit of what routes leave to their apps.
    pub left_to_app: Arc<LeftToApp>,
    pub clock: Arc<dyn Clock>,
    pub meter: Arc<dyn Meter>,
    pub capacity: Arc<Capacity>,
}

/// What becomes of a request that could be read.
enum Next {
    /// One of our own endpoints answers it.
    Native,
    /// It is a preflight, which its route's rules answer.
    Preflight(Arc<ServedRoute>),
    /// Admission has decided.
    Decided(Verdict<ServedRoute>),
}

/// Where a request came from.
struct Sender<'a> {
    peer: IpAddr,
    /// The client, or the peer where a believed proxy names none.
    client: IpAddr,
    relayed: Option<&'a Relayed>,
}

/// Why an admitted request does not go upstream after all.
enum NotObtained {
    Refused(Refusal),
    /// Its body is larger than the route takes.
    TooLarge,
}

impl From<Refusal> for NotObtained {
    fn from(refusal: Refusal) -> NotObtained {
        NotObtained::Refused(refusal)
    }
}

impl Gateway {
    /// Whether a request for `path` on `host` is answered here and reaches no app.
    fn is_ours(&self, live: &Live, host: &str, path: &str) -> bool {
        let browser = live.browsers.as_ref().map(|browsers| &*browsers.settings);
        OwnPath::at(host, path, &self.native_prefix, &live.native_hosts, browser).is_some()
    }

    /// The answer to a refused request, in the form for the client that it says it is.
    pub(super) fn refused(&self, live: &Live, unserved: &Unserved<'_>, refusal: Refusal) -> AnsweredHere {
        let is_for_the_app = refusal == Refusal::NoToken && is_of_a_program_of_the_app(unserved);
        let here: AnsweredHere = match self.for_browsers(live) {
            Some(answers) => answers.refusal(unserved, &refusal),
            None => refusal.into(),
        };
        match is_for_the_app && here.reply.status() == 401 {
            true => {
                AnsweredHere { reply: here.reply.with_field("www-authenticate", answer::FOR_THE_APP), ..here }
            }
            false => here,
        }
    }

    /// What answers for browsers are made of; `None`: there are none (`[browser] enabled = false`).
    pub(super) fn for_browsers<'a>(&'a self, live: &'a Live) -> Option<BrowserAnswers<'a>> {
        let BrowserRules { settings, issuer } = live.browsers.as_ref()?;
        Some(BrowserAnswers { settings, issuer, pages: &*self.pages, carrier: &self.carrier })
    }

    /// Answers a request here. Nothing goes upstream after it: whatever stage it was in is over.
    async fn answer(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
        here: AnsweredHere,
        answered: Answered,
    ) -> Result<bool> {
        let AnsweredHere { code, reply } = here;
        context.stage = Stage::Answered(Answered { code, status: reply.status(), ..answered });
        outbound::send(session, &reply, &context.id, context.stage.cors()).await?;
        Ok(true)
    }

    /// Reads, matches and decides. True when the request was answered here.
    pub(super) async fn admit(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        context.stage.fresh()?;
        if let Some(ping) = self.ping.as_ref().filter(|ping| ping.is_asked(session.req_header())) {
            // A balancer asks every second: neither the access log nor the counters of requests are about that.
            context.is_logged = true;
            context.stage = Stage::Answered(Answered { code: ping::CODE, ..Answered::default() });
            let status = ping.answer(session).await?;
            context.stage.end(ping::CODE, status);
            return Ok(true);
        }
        let live = self.live.load_full();
        let peer = context.peer();
        let relayed = live.believed.read(peer, &session.req_header().headers);
        let client = relayed.as_ref().and_then(|relayed| relayed.client());
        context.client = client.unwrap_or(peer.to_canonical());
        if relayed.is_some()
            && let Some(id) = forwarded::request_id(&session.req_header().headers)
        {
            id.clone_into(&mut context.id);
        }
        let whole = h2::check(session.req_header(), self.max_header_bytes);
        cookies::join(session.req_header_mut());
        let next = match whole {
            Ok(()) => {
                let from = Sender { peer, client: context.client, relayed: relayed.as_deref() };
                self.decide(session.req_header(), &live, &from).await
            }
            Err(refusal) => Err(refusal),
        };
        let (matched, next) = match next {
            Ok(next) => next,
            Err(refusal) => {
                let answered =
                    Answered { speaker: cors::speaker(session.req_header(), &live), ..Answered::default() };
                return self.answer(session, context, refusal.into(), answered).await;
            }
        };
        self.follow(session, context, live, matched, relayed, next).await
    }

    /// Does what was decided. True when the request was answered here.
    async fn follow(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
        live: Arc<Live>,
        matched: MatchedRequest,
        relayed: Option<Box<Relayed>>,
        next: Next,
    ) -> Result<bool> {
        if !matches!(next, Next::Decided(Verdict::Permit(_))) {
            // Those of requests that are forwarded are seen when they are taken out.
            live.thrown_away.look(&live.believed, context.peer(), session.req_header().headers.keys());
        }
        match next {
            Next::Decided(Verdict::Permit(permit)) => {
                self.prepare(session, context, live, matched, relayed, permit).await
            }
            Next::Decided(Verdict::Refusal { refusal, route, caller }) => {
                let header = session.req_header();
                let unserved = Unserved {
                    header,
                    request_id: &context.id,
                    host: &matched.host,
                    route: route.as_deref(),
                    caller: caller.as_deref(),
                };
                let here = self.refused(&live, &unserved, refusal);
                let speaker = if route.is_none() { cors::speaker(header, &live) } else { None };
                let answered = Answered { caller, speaker, ..Answered::by(route, matched.host) };
                self.answer(session, context, here, answered).await
            }
            Next::Decided(Verdict::Redirect { redirect, route }) => {
                self.answer(session, context, redirect.into(), Answered::by(Some(route), matched.host)).await
            }
            Next::Preflight(route) => {
                context.stage = Stage::Answered(Answered::by(Some(route), matched.host));
                let (code, status) = cors::answer(session, &context.id, context.stage.cors()).await?;
                context.stage.end(code, status);
                Ok(true)
            }
            Next::Native => {
                let MatchedRequest { host, path, .. } = matched;
                context.stage = Stage::Answered(Answered::by(None, Arc::clone(&host)));
                let (router, client) = (self.native.clone(), context.client);
                let finish = |head: &mut ResponseHeader| {
                    if let Some(sessions) = &live.admission.sessions {
                        app_cookies::forget_all(sessions, &live.admission.routes, &host, head);
                    }
                };
                let asked = (&*host, &*path);
                let status = bridge::serve(session, router, asked, client, &context.id, finish).await?;
                context.stage.end("native", status);
                Ok(true)
            }
        }
    }

    /// Reads a request and says what becomes of it.
    ///
    /// # Errors
    /// It cannot be read in one way only.
    async fn decide(
        &self,
        header: &RequestHeader,
        live: &Live,
        from: &Sender<'_>,
    ) -> std::result::Result<(MatchedRequest, Next), Refusal> {
        let fields = Fields(&header.headers);
        let mut request = inbound::view(header, &fields).map_err(Refusal::Malformed)?;
        // A proxy that speaks `Forwarded` does not vouch for `X-Forwarded-Proto`.
        request.is_peer_trusted = from.relayed.is_some() && live.believed.field != ClientAddress::Forwarded;
        if live.admission.routes.has_networks() {
            request.client = live.believed.network_address(from.peer, &header.headers, from.relayed);
        }
        let matched = MatchedRequest {
            host: match request.host.port() {
                None => Arc::from(request.host.name()),
                Some(_) => Arc::from(request.host.to_string()),
            },
            path: Arc::from(request.path.as_str()),
            websocket: request.websocket,
            client: request.client,
        };
        let host = request.host.name();
        let next = if self.is_ours(live, host, &matched.path) {
            Next::Native
        } else if self.mark.is_on(&header.headers) {
            Next::Decided(Verdict::Refusal { refusal: Refusal::Loop, route: None, caller: None })
        } else if let Some(route) = cors::preflight(header, &request, live) {
            Next::Preflight(route)
        } else {
            let verdict = live.admission.admit(&request, from.client).await;
            let verdict = self.refuse_own_destination(live, host, verdict);
            // No rule is for every host, so it has to name one.
            if request.host.is_unnamed()
                && matches!(verdict, Verdict::Refusal { refusal: Refusal::NoRoute, route: None, .. })
            {
                return Err(Refusal::Malformed(Malformed::NoHost));
            }
            Next::Decided(match live.browsers.is_some() {
                true => turns::without_mark(header, &request, verdict),
                false => verdict,
            })
        };
        Ok((matched, next))
    }

    /// Refuses what would write at a path of ours on `host`, that of the request: no request for it reaches an app.
    fn refuse_own_destination(
        &self,
        live: &Live,
        host: &str,
        verdict: Verdict<ServedRoute>,
    ) -> Verdict<ServedRoute> {
        match verdict {
            Verdict::Permit(permit)
                if permit.destination().is_some_and(|to| self.is_ours(live, host, to.path())) =>
            {
                let (route, caller) = (Some(Arc::clone(permit.route())), permit.caller().cloned());
                Verdict::Refusal { refusal: Refusal::NoRoute, route, caller }
            }
            decided => decided,
        }
    }

    /// Gets all that an admitted request needs before it goes upstream, or answers it here when that is not to be had.
    async fn prepare(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
        live: Arc<Live>,
        matched: MatchedRequest,
        relayed: Option<Box<Relayed>>,
        permit: Permit<ServedRoute>,
    ) -> Result<bool> {
        let header = session.req_header();
        // In the context before anything is waited for: an exchange that is ended meanwhile is logged.
        let watched = context.watched.insert(self.watch(header, &context.exchange, &matched, &permit));
        match self.obtain(header, &live, &permit, watched, &context.id).await {
            Ok((place, injected)) => {
                if permit.is_left_to_app() {
                    let route = &permit.route().route.name;
                    self.left_to_app.passed(route, context.client, &context.id);
                }
                context.stage = Stage::Admitted(Admitted {
                    permit,
                    live,
                    matched,
                    relayed,
                    injected,
                    app_cookies: None,
                    attempts: Attempts::default(),
                    refused: None,
                    sent: Sent::default(),
                    place,
                });
                Ok(false)
            }
            Err(NotObtained::TooLarge) => {
                let route = Some(Arc::clone(permit.route()));
                let here = AnsweredHere { code: outbound::TOO_LARGE, reply: outbound::too_large() };
                self.answer(session, context, here, Answered::by(route, matched.host)).await
            }
            Err(NotObtained::Refused(refusal)) => {
                let (route, caller) = (Arc::clone(permit.route()), permit.caller().cloned());
                let unserved = Unserved {
                    header: session.req_header(),
                    request_id: &context.id,
                    host: &matched.host,
                    route: Some(&*route),
                    caller: caller.as_deref(),
                };
                let here = self.refused(&live, &unserved, refusal);
                let answered = Answered { caller, ..Answered::by(Some(route), matched.host) };
                self.answer(session, context, here, answered).await
            }
        }
    }

    /// Holds an admitted request against what has changed since and against its route's bounds, and gets it a place
    /// and, where the route sends one, a provider's token. In this order: nothing is done for what is refused.
    async fn obtain(
        &self,
        header: &RequestHeader,
        live: &Arc<Live>,
        permit: &Permit<ServedRoute>,
        watched: &Watched,
        request_id: &str,
    ) -> std::result::Result<(Share, Option<InjectedToken>), NotObtained> {
        let served = permit.route();
        let now = self.live.load();
        watched.hold_against(&now.admission, !Arc::ptr_eq(&now, live))?;
        drop(now);
        let most = served.cluster.settings.max_body;
        if most.zip(inbound::declared_length(header)).is_some_and(|(most, sent)| sent > most) {
            return Err(NotObtained::TooLarge);
        }
        let Some(place) = self.capacity.upstream() else { return Err(Refusal::Overloaded.into()) };
        let injected = match &served.forwarding.inject {
            None => None,
            Some(provider) => Some(self.source(request_id).obtain(permit, provider).await?),
        };
        Ok((place, injected))
    }

    /// Takes the memory for what the engine keeps of a body. What it has once is given back with the request.
    pub(super) fn has_memory_for_body(&self, upload: &mut Upload, websocket: bool) -> bool {
        let kept = usize::try_from(upload.received).unwrap_or(usize::MAX).min(KEPT_BODY);
        if kept == 0 || websocket {
            return true;
        }
        let memory = upload.memory.get_or_insert_with(|| self.capacity.memory());
        memory.amount() >= kept || memory.hold(kept)
    }

    /// Puts the exchange among those that a revocation or a reload looks through. What admitted it has to be asked once
    /// more after this ([`Watched::hold_against`]): a change between the decision and now has not found it there.
    fn watch(
        &self,
        header: &RequestHeader,
        exchange: &Arc<OpenExchange>,
        matched: &MatchedRequest,
        permit: &Permit<ServedRoute>,
    ) -> Watched {
        let since = permit.caller().map_or(UnixTime(0), |_| self.clock.now());
        let method = inbound::method_name(&header.method);
        let (host, path) = (Arc::clone(&matched.host), Arc::clone(&matched.path));
        let record =
            AdmissionRecord::by(permit, since, method, host, path, matched.websocket, matched.client);
        self.streams.watch(Arc::clone(exchange), record)
    }

    pub(super) fn source<'a>(&'a self, request_id: &'a str) -> TokenSource<'a> {
        TokenSource { injector: &*self.injector, begin_at: &self.connect_at, request_id }
    }
}

/// Whether a program sent a request without a credential that its route would leave to the app with one.
fn is_of_a_program_of_the_app(unserved: &Unserved<'_>) -> bool {
    let route = unserved.route.map(|served| &*served.route);
    route.is_some_and(|route| route.policy.carriers.leaves_to_app())
        && navigation::is_of_no_browser(&Fields(&unserved.header.headers))
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;

//! The gateway and its first stage: a request is read, matched, and refused, answered or admitted.
//!
//! The engine's hooks are in [`super::service`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use pingora::Result;
use pingora::proxy::Session;

use super::capacity::Capacity;
use super::context::Context;
use super::exchange::Streams;
use super::forward::StripRules;
use super::forwarded::Believed;
use super::inbound::{self, Fields};
use super::inject::Source;
use super::looped::Mark;
use super::served::ServedRoute;
use super::{bridge, cookies, cors, h2, outbound};
use crate::config::ClientAddress;
use crate::domain::answer::{Answer, answer};
use crate::domain::time::UnixTime;
use crate::domain::verdict::Refusal;
use crate::ports::{Clock, Injector, Meter, Signer};
use crate::service::admit::{Admission, Permit};
use crate::service::ongoing::Admitted;

/// How much of a request body the engine keeps at most, in bytes.
const KEPT_BODY: usize = 64 * 1024;

/// What a reload replaces as a whole: the routes with their policies and upstreams, and what is forwarded to them.
pub struct Live {
    pub admission: Admission<ServedRoute>,
    /// What no client may send, whatever its route.
    pub strip: StripRules,
    /// The proxies whose word on where a request came from counts.
    pub believed: Believed,
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
    /// Where the tokens come from that routes with `inject` send upstream.
    pub injector: Arc<dyn Injector>,
    /// The path at which connections to providers are begun.
    pub connect_at: String,
    /// By which this process knows a request that has been here.
    pub mark: Mark,
    pub clock: Arc<dyn Clock>,
    pub meter: Arc<dyn Meter>,
    pub capacity: Arc<Capacity>,
}

impl Gateway {
    fn is_native(&self, path: &str) -> bool {
        let below = path.strip_prefix(&*self.native_prefix);
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            || matches!(path, "/.well-known/jwks.json" | "/.well-known/oauth-authorization-server")
    }

    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        context: &mut Context,
        answer: &Answer,
    ) -> Result<bool> {
        context.answered = Some(answer.problem.status);
        outbound::send(session, answer, &context.request_id, context.cors()).await?;
        Ok(true)
    }

    /// Answers with a refusal. Nothing goes upstream after it: the permit is gone, if there was one.
    async fn deny(&self, session: &mut Session, context: &mut Context, refusal: &Refusal) -> Result<bool> {
        context.decision = refusal.code();
        context.permit = None;
        self.refuse(session, context, &answer(refusal)).await
    }

    /// Reads, matches and decides. True when the request was answered here.
    pub(super) async fn admit(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let live = self.live.load_full();
        let peer = context.peer();
        context.relayed = live.believed.read(peer, &session.req_header().headers);
        let client = context.relayed.as_ref().and_then(|relayed| relayed.client());
        context.client = client.unwrap_or(peer.to_canonical());
        let whole = h2::check(session.req_header(), self.max_header_bytes);
        cookies::join(session.req_header_mut());
        let mut preflight = false;
        let decided = if let Err(refusal) = whole {
            Err((refusal, None))
        } else {
            let fields = Fields(&session.req_header().headers);
            match inbound::view(session.req_header(), &fields) {
                Err(malformed) => Err((Refusal::Malformed(malformed), None)),
                Ok(mut request) => {
                    // A proxy that speaks `Forwarded` does not vouch for `X-Forwarded-Proto`.
                    request.is_peer_trusted =
                        context.relayed.is_some() && live.believed.field != ClientAddress::Forwarded;
                    context.path = Arc::from(request.path.as_str());
                    context.host = match request.host.port() {
                        None => Arc::from(request.host.name()),
                        Some(_) => Arc::from(request.host.to_string()),
                    };
                    context.websocket = request.websocket;
                    if self.is_native(&context.path) {
                        Ok(None)
                    } else if self.mark.is_on(&session.req_header().headers) {
                        Err((Refusal::Loop, None))
                    } else if let Some(route) = cors::preflight(session.req_header(), &request, &live) {
                        preflight = true;
                        context.route = Some(route);
                        Ok(None)
                    } else {
                        live.admission.admit(&request).await.map(Some)
                    }
                }
            }
        };
        context.live = Some(live);
        match decided {
            Err((refusal, route)) => {
                context.route = route;
                self.deny(session, context, &refusal).await
            }
            Ok(None) if preflight => {
                context.decision = cors::answer(session, &context.request_id, context.cors()).await?;
                Ok(true)
            }
            Ok(None) => {
                context.decision = "native";
                let (path, client) = (Arc::clone(&context.path), context.client);
                let served =
                    bridge::serve(session, self.native.clone(), &path, client, &context.request_id).await?;
                context.answered = Some(served);
                Ok(true)
            }
            Ok(Some(permit)) => {
                context.decision = "allowed";
                context.route = Some(Arc::clone(permit.route()));
                let watched = self.watch(session, context, &permit);
                context.permit = Some(permit);
                if let Err(refusal) = watched {
                    return self.deny(session, context, &refusal).await;
                }
                let limit = context.permitted()?.0.route().cluster.settings.max_body;
                if limit
                    .zip(inbound::declared_length(session.req_header()))
                    .is_some_and(|(most, sent)| sent > most)
                {
                    context.decision = "body_too_large";
                    context.permit = None;
                    return self.refuse(session, context, &outbound::too_large()).await;
                }
                // Before anything is done for it: a connection to the upstream must be possible.
                context.upstream = self.capacity.upstream();
                if context.upstream.is_none() {
                    return self.deny(session, context, &Refusal::Overloaded).await;
                }
                match self.inject(context).await? {
                    None => Ok(false),
                    Some(refusal) => self.deny(session, context, &refusal).await,
                }
            }
        }
    }

    /// Takes the memory for what the engine keeps of a body. What it has once is given back with the request.
    pub(super) fn has_memory_for_body(&self, context: &mut Context) -> bool {
        let kept = usize::try_from(context.body_received).unwrap_or(usize::MAX).min(KEPT_BODY);
        if kept == 0 || context.websocket {
            return true;
        }
        let memory = context.body_memory.get_or_insert_with(|| self.capacity.memory());
        memory.amount() >= kept || memory.hold(kept)
    }

    /// Puts the exchange among those that a revocation or a reload looks through, and asks once more whether what
    /// admitted it holds: a change between the decision and now has not found it there.
    fn watch(
        &self,
        session: &Session,
        context: &mut Context,
        permit: &Permit<ServedRoute>,
    ) -> std::result::Result<(), Refusal> {
        let (Some(exchange), Some(live)) = (&context.exchange, &context.live) else { return Ok(()) };
        let since = permit.caller().map_or(UnixTime(0), |_| self.clock.now());
        let method = inbound::method_name(&session.req_header().method);
        let (host, path) = (Arc::clone(&context.host), Arc::clone(&context.path));
        let admitted = Admitted::by(permit, since, method, host, path, context.websocket);
        let watched = self.streams.watch(Arc::clone(exchange), admitted);
        let now = self.live.load();
        let holds = watched.hold_against(&now.admission, !Arc::ptr_eq(&now, live));
        context.watched = Some(watched);
        holds
    }

    pub(super) fn source<'a>(&'a self, request_id: &'a str) -> Source<'a> {
        Source { injector: &*self.injector, begin_at: &self.connect_at, request_id }
    }

    /// Gets the provider's token, where the route sends one. `Some`: why there is none.
    async fn inject(&self, context: &mut Context) -> Result<Option<Refusal>> {
        let (permit, _) = context.permitted()?;
        let Some(provider) = &permit.route().forwarding.inject else { return Ok(None) };
        match self.source(&context.request_id).obtain(permit, provider).await {
            Ok(injected) => {
                context.injected = Some(injected);
                Ok(None)
            }
            Err(refusal) => Ok(Some(refusal)),
        }
    }
}

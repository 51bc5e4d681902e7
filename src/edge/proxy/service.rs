//! The engine's hooks, in the order of a request's way: admit, choose an upstream, say what it is told,
//! look at what it answers, count.
//!
//! No hook decides policy. What goes to an upstream asks for the stage that only a [`Permit`] leads to
//! ([`Stage::admitted`]), and only `service::admit` makes one: a hook out of order ends in a refusal.
//!
//! [`Permit`]: palisade_core::service::admit::Permit

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr, Result};

use super::app_cookies::AppCookies;
use super::browsers::Unserved;
use super::context::RequestContext;
use super::dial::{Asked, Delivery};
use super::exchange::is_event_stream;
use super::forward::{self, UpstreamFields};
use super::forwarded::ReceivedFrom;
use super::framing::Fault;
use super::gateway::Gateway;
use super::inject::{self, After};
use super::served::ServedRoute;
use super::stage::{Admitted, Attempts, Stage};
use super::upstream::Attempt;
use super::{caching, cookies, cors, forget, grpc, hop, outbound, resend, upgrade};
use palisade_core::domain::credential::Carrier;
use palisade_core::domain::problem::Problem;
use palisade_core::domain::request::{Malformed, Path};
use palisade_core::domain::route::Auth;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::Ended;

/// Says that the exchange was ended between the parts of a body.
const STALE: ErrorType = ErrorType::new("RevocationsStale");
/// Says that an upstream of HTTP/2 chose HTTP/1.1, and was asked nothing yet.
const HTTP1_ONLY: ErrorType = ErrorType::new("UpstreamSpeaksHttp1");

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::new()
    }

    async fn request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        hop::listen(session);
        if self.admit(session, context).await? {
            return Ok(true);
        }
        let admitted = context.stage.admitted()?;
        // A client that asks and then takes nothing would hold its upstream connection for good.
        session.set_write_timeout(Some(admitted.served().cluster.settings.write_timeout));
        hop::end(session.req_header_mut(), admitted.matched.websocket)?;
        Ok(false)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
    ) -> Result<Box<HttpPeer>> {
        let RequestContext { stage, id, .. } = context;
        let admitted = stage.admitted()?;
        if !admitted.attempts.tried.is_empty()
            && let Some(injected) = &mut admitted.injected
            && let Err(refusal) = self.source(id).look_again(&admitted.permit, injected).await
        {
            admitted.refused = Some(refusal);
            return Err(Error::new_in(inject::LOST));
        }
        let asked = Asked {
            head: session.req_header().method == Method::HEAD,
            websocket: admitted.matched.websocket,
            stream: is_event_stream(session.req_header().headers.get(header::ACCEPT)),
            again: admitted.attempts.count > 0 || admitted.attempts.has_moved,
        };
        let chosen = admitted.served().cluster.choose(&admitted.attempts.tried, asked);
        let Some((peer, attempt)) = chosen else {
            return Error::e_explain(ErrorType::HTTPStatus(503), "no upstream of this route is healthy");
        };
        admitted.attempts.begin(attempt);
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        let (peer, client_tls) = (context.peer(), context.exchange.tls);
        let RequestContext { stage, id, upload, .. } = context;
        let admitted = stage.admitted()?;
        if request.version != Version::HTTP_2 && admitted.attempts.current()?.delivery.is_none() {
            return Err(fall_back(&mut admitted.attempts));
        }
        // A further attempt sends the body from its beginning.
        upload.received = 0;
        if admitted.attempts.count == 1
            && hop::expects_continue(session.req_header())
            && !session.is_body_empty()
        {
            // There is an upstream to take the body now.
            hop::say_continue(session).await;
        }
        admitted.app_cookies = AppCookies::sort(
            admitted.live.admission.sessions.as_ref(),
            &admitted.permit,
            &admitted.matched.host,
            request,
        );
        let Admitted { permit, live, matched, .. } = &*admitted;
        let ServedRoute { route, forwarding, .. } = &**permit.route();
        hop::begin(request, session.req_header().version, matched.websocket)?;
        hop::say_no_body(session, request)?;
        if !matched.websocket
            && request.version != Version::HTTP_2
            && (hop::has_ignored_body(session) || hop::signs_in(request))
        {
            request.insert_header(header::CONNECTION, "close")?;
        }
        let without = route.policy.carriers.query.as_deref().filter(|_| route.policy.auth != Auth::None);
        // The table has looked before, so a fault here is a defect.
        let path = route.upstream_path.of(&matched.path);
        let path = path.or_err(ErrorType::HTTPStatus(400), "a path that the upstream cannot be asked for")?;
        if let Some(target) = forward::target(request.raw_path(), &path, without) {
            // It was read from a valid one.
            request
                .set_raw_path(&target)
                .or_err(ErrorType::HTTPStatus(400), "a target that cannot be sent")?;
        }
        let assertion = match (&forwarding.assertion, permit.caller()) {
            (Some(_), Some(caller)) => {
                let signed = self.signer.assertion(&caller.identity, &route.name, self.clock.now());
                Some(signed.map_err(|why| Error::explain(ErrorType::HTTPStatus(503), why.to_string()))?)
            }
            (None, _) | (_, None) => None,
        };
        let access_token = match (&forwarding.access_token, permit.caller()) {
            (Some(field), Some(caller)) => self
                .app_tokens
                .value(field, caller, self.clock.now())
                .map_err(|why| Error::explain(ErrorType::HTTPStatus(503), why.to_string()))?,
            (None, _) | (_, None) => None,
        };
        let host = match forwarding.preserve_host && !matched.host.is_empty() {
            true => &*matched.host,
            false => &*admitted.attempts.current()?.authority,
        };
        let destination = permit.destination().map(|destination| {
            // An app that is told its own Host compares a Destination with its own origin.
            let own = (!forwarding.preserve_host).then(|| admitted.served().cluster.scheme());
            destination.to_upstream(own, host)
        });
        let fields = UpstreamFields {
            strip: &live.strip,
            believed: &live.believed,
            thrown_away: &live.thrown_away,
            permit,
            from: ReceivedFrom {
                peer,
                tls: client_tls,
                host: &matched.host,
                relayed: admitted.relayed.as_deref(),
                field: live.believed.field,
            },
            mark: &self.mark,
            host,
            request_id: id,
            assertion: assertion.as_deref(),
            access_token,
            injected: admitted.injected.as_ref(),
            destination: destination.as_deref(),
        };
        fields.write(request).map_err(|why| Error::explain(ErrorType::HTTPStatus(502), why.to_string()))
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut RequestContext,
    ) -> Result<()> {
        // The engine writes empty bytes as a last chunk, and then the last chunk: the second one would begin the
        // next request on that connection. HTTP/2 bodies end so whenever END_STREAM comes on its own.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        let RequestContext { stage, upload, exchange, .. } = context;
        let admitted = stage.admitted()?;
        exchange.hold_if_stale(admitted.revocations()).await;
        // What passes after an upgrade is no request body.
        if session.was_upgraded() {
            if body.as_ref().is_some_and(|frames| !frames.is_empty()) {
                admitted.live.admission.sent_frame(&admitted.permit);
            }
            return Ok(());
        }
        upload.received += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if !self.has_memory_for_body(upload, admitted.matched.websocket) {
            admitted.refused = Some(Refusal::Overloaded);
            return Err(Error::new_in(inject::LOST));
        }
        match admitted.served().cluster.settings.max_body {
            Some(most) if upload.received > most => {
                // Said to be the client's: towards an HTTP/2 upstream the engine takes any other failure here for the
                // upstream's, and waits for an answer to half a body.
                let error =
                    Error::explain(ErrorType::HTTPStatus(413), "the body is larger than the route takes");
                Err(error.into_down())
            }
            _ => Ok(()),
        }
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        if let Some(delivery) = context.stage.delivery() {
            for (name, value) in delivery.overflow() {
                response.append_header(name.clone(), value)?;
            }
        }
        hop::end_answer(response, session.req_header().version)?;
        if response.status != http::StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        let RequestContext { stage, id, .. } = context;
        let admitted = stage.admitted()?;
        let Some(injected) = &mut admitted.injected else { return Ok(()) };
        match self.source(id).renew(&admitted.permit, injected).await {
            After::Stands => Ok(()),
            After::Lost(refusal) => {
                admitted.refused = Some(refusal);
                Err(Error::new_in(inject::LOST))
            }
            // The next request has the new token.
            After::Renewed if session.as_ref().retry_buffer_truncated() => Ok(()),
            After::Renewed => {
                // Nothing is wrong with this upstream: it may be asked again.
                admitted.attempts.tried.clear();
                let mut error = Error::new_up(inject::RENEWED);
                error.set_retry(true);
                Err(error)
            }
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        let RequestContext { stage, id, exchange, .. } = context;
        let admitted = stage.admitted()?;
        upgrade::refuse_unasked(response, admitted.matched.websocket)?;
        let switches = response.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if switches {
            exchange.switch();
        }
        hop::unchunk(session, response);
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        response.insert_header("x-request-id", id.as_str())?;
        let is_final = !response.status.is_informational() || switches;
        if let Some(rewriting) = &admitted.served().rewriting {
            // Before any field of ours is among the app's.
            rewriting.apply(&admitted.matched.host, response);
        }
        let browser = &admitted.served().route.browser;
        // Shared caches know `Authorization` as a credential (RFC 9111 §3.5), and no other field.
        let mut is_personal = admitted.permit.carrier() == Some(Carrier::Header) && !browser.is_cache_shared;
        if let Some(sessions) = &admitted.live.admission.sessions {
            cookies::take_out_ours(response);
            is_personal |= admitted.permit.is_by_cookie() && !browser.is_cache_shared;
            if let Some(app) = admitted.app_cookies.as_ref().filter(|_| is_final) {
                is_personal |= app.mark(sessions, &browser.app_cookies, response);
            }
        }
        if is_final && is_personal {
            caching::make_private(response);
        }
        if is_final && let Some(name) = admitted.permit.spent_cookie() {
            forget::cookie(response, name, admitted.live.admission.own.scheme);
        }
        if switches || is_event_stream(response.headers.get(header::CONTENT_TYPE)) {
            if let Some(silence) = &admitted.attempts.current()?.silence {
                silence.allow();
            }
            // The engine gives a client a minute to send something; on a stream it may have nothing to say.
            session.set_read_timeout(None);
            exchange.is_stream();
        }
        cors::write(admitted.served().cors.as_ref(), session, response);
        admitted.sent.status = response.status.as_u16();
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        let RequestContext { stage, exchange, .. } = context;
        let admitted = stage.admitted()?;
        if exchange.cut_if_stale(admitted.revocations()) {
            return Err(Error::new_in(STALE));
        }
        admitted.sent.bytes += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        context: &mut RequestContext,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let Ok(admitted) = context.stage.admitted() else {
            error.set_retry(false);
            return error;
        };
        // Nothing of the request was sent, so it may go to another upstream whatever its method.
        error.set_retry(admitted.may_retry());
        match &admitted.attempts.current {
            Some(attempt) => error.more_context(format!("upstream {}", attempt.name())),
            None => error,
        }
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut RequestContext,
        reused: bool,
    ) -> Box<Error> {
        if *error.etype() == inject::RENEWED || *error.etype() == HTTP1_ONLY {
            // The upstream has said that it did nothing, or was not asked yet; and the body is at hand.
            return error;
        }
        let Some(admitted) = context.stage.admitted().ok().filter(|_| *error.etype() != STALE) else {
            error.set_retry(false);
            return error;
        };
        resend::decide(session, admitted, &mut error, reused);
        match admitted.attempts.current.as_ref().and_then(Attempt::address) {
            Some(address) => error.more_context(format!("upstream {address}")),
            None => error,
        }
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut RequestContext,
    ) -> FailToProxy {
        if *error.etype() == STALE {
            // The listener drops what serves an exchange that was ended.
            std::future::pending::<()>().await;
        }
        // Whatever is said now is the last on the connection.
        session.set_keepalive(None);
        let begun = outbound::begun(session).map(|response| response.status.as_u16());
        let RequestContext { stage, id, exchange, .. } = context;
        let (mut refused, mut was_silent) = (None, false);
        let fault = stage.delivery().and_then(Delivery::fault);
        if let Stage::Admitted(admitted) = stage {
            refused = admitted.refused.take();
            was_silent = admitted.attempts.current.as_ref().is_some_and(Attempt::was_silent_too_long);
        }
        let malformed = exchange.is_malformed().then_some(Refusal::Malformed(Malformed::Framing));
        if let Some(refusal) = refused.or(malformed)
            && begun.is_none()
        {
            stage.end(refusal.code(), 0);
            let live = self.live.load_full();
            let here = self.refused(&live, &unserved(session.req_header(), id, stage), refusal);
            let status = here.reply.status();
            stage.end(here.code, status);
            let _ = outbound::send(session, &here.reply, id, stage.cors()).await;
            return FailToProxy { error_code: status, can_reuse_downstream: false };
        }
        let (status, code, detail) = match fault {
            _ if was_silent => outbound::timed_out(),
            Some(Fault::FieldCount | Fault::HeaderSize) => outbound::too_many_fields(),
            _ => outbound::failed(error),
        };
        stage.end(code, begun.unwrap_or(status));
        if status != 0 {
            let error = outbound::words(error);
            tracing::warn!(request_id = id, %error, code, "a request failed");
            let problem = Problem::new(status, code, detail);
            // A failure to tell the client changes nothing: the connection ends either way.
            if let Some(begun) = outbound::begun(session) {
                let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
                if !framed.iter().any(|name| begun.headers.contains_key(name)) {
                    exchange.break_off();
                }
                // An answer that has begun is only cut short, but gRPC can still say why.
                let _ = grpc::break_off(session, &problem).await;
            } else {
                let live = self.live.load_full();
                let reply = match self.for_browsers(&live) {
                    Some(answers) => {
                        answers.failure(&unserved(session.req_header(), id, stage), problem.into()).reply
                    }
                    None => problem.into(),
                };
                let _ = outbound::send(session, &reply, id, stage.cors()).await;
            }
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut RequestContext) {
        if std::mem::replace(&mut context.is_logged, true) {
            return;
        }
        let header = session.req_header();
        let path = header.uri.path();
        // What was refused may hold anything; what was admitted is in normal form.
        let path = if Path::parse(path.as_bytes()).is_ok() { path } else { "" };
        let stage = &context.stage;
        let status = match stage {
            Stage::Answered(answered) => answered.status,
            Stage::Fresh | Stage::Admitted(_) => {
                outbound::begun(session).map_or(0, |response| response.status.as_u16())
            }
        };
        self.meter.ended(&Ended {
            route: stage.route().map(|served| &*served.route.name),
            status,
            took: context.started.elapsed(),
            decision: stage.code(),
            request_id: &context.id,
            method: header.method.as_str(),
            host: stage.host(),
            path,
            bytes: session.body_bytes_sent() as u64,
            subject: stage.caller().map(|caller| caller.identity.subject.as_str()),
            client: context.client,
            upstream: stage.upstream(),
        });
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        context: &RequestContext,
        error: &Error,
        _what: ProxyWarnLogContext,
    ) -> bool {
        let error = outbound::words(error);
        tracing::info!(request_id = context.id, %error, "a request is sent once more");
        true // The engine's own line would hold the query.
    }

    fn suppress_error_log(&self, _session: &Session, _context: &RequestContext, _error: &Error) -> bool {
        true // The engine's own line would hold the query; `fail_to_proxy` writes ours.
    }
}

/// A request that was admitted, and failed: what its answer is about.
fn unserved<'a>(header: &'a RequestHeader, request_id: &'a str, stage: &'a Stage) -> Unserved<'a> {
    Unserved { header, request_id, host: stage.host(), route: stage.route(), caller: stage.caller() }
}

/// Gives an attempt up whose connection speaks HTTP/1.1 although HTTP/2 was offered: answers over HTTP/1.1 are
/// read over connections of our own only ([`super::guard`]), where this upstream is asked from here on.
fn fall_back(attempts: &mut Attempts) -> Box<Error> {
    if let Some(attempt) = &attempts.current {
        attempt.note_http1();
    }
    attempts.take_back();
    let mut error = Error::new_up(HTTP1_ONLY);
    error.set_retry(true);
    error
}

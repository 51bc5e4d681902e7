//! The engine's hooks, in the order of a request's way: admit, choose an upstream, say what it is told,
//! look at what it answers, count.
//!
//! No hook decides policy. `upstream_peer` connects to nothing without a [`Permit`], which only
//! `service::admit` makes: a hook that is skipped ends in a refusal.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::context::Context;
use super::dial::{Asked, Delivery};
use super::exchange::is_event_stream;
use super::forward;
use super::forwarded::{self, Origin};
use super::gateway::Gateway;
use super::inject::{self, After};
use super::looped::Mark;
use super::served::ServedRoute;
use super::{forget, grpc, hop, inbound, outbound, upgrade};
use crate::domain::answer::answer;
use crate::domain::problem::Problem;
use crate::domain::request::{Malformed, Path};
use crate::domain::route::Auth;
use crate::domain::verdict::Refusal;
use crate::ports::Ended;
use crate::service::admit::Permit;

/// Says that an upstream of HTTP/2 chose HTTP/1.1, and was asked nothing yet.
const HTTP1_ONLY: ErrorType = ErrorType::new("UpstreamSpeaksHttp1");

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new()
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        hop::listen(session);
        if self.admit(session, context).await? {
            return Ok(true);
        }
        // A client that asks and then takes nothing would hold its upstream connection for good.
        session.set_write_timeout(Some(context.permitted()?.0.route().cluster.settings.write_timeout));
        hop::end(session.req_header_mut(), context.websocket)?;
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        if !context.tried.is_empty() {
            let mut injected = context.injected.take();
            let looked = self.source(&context.request_id).look_again(context.permitted()?.0, &mut injected);
            (context.lost, context.injected) = (looked.await.err(), injected);
            if context.lost.is_some() {
                return Err(Error::new_in(inject::LOST));
            }
        }
        let cluster = &context.permitted()?.0.route().cluster;
        let asked = Asked {
            head: session.req_header().method == Method::HEAD,
            websocket: context.websocket,
            stream: is_event_stream(session.req_header().headers.get(header::ACCEPT)),
            again: context.attempts > 0,
        };
        let Some(chosen) = cluster.choose(&context.tried, asked) else {
            return Error::e_explain(ErrorType::HTTPStatus(503), "no upstream of this route is healthy");
        };
        context.tried.push(chosen.address);
        context.attempts += 1;
        (context.delivery, context.http1) = (chosen.delivery, Some(chosen.http1));
        context.silence = chosen.silence;
        context.authority = chosen.authority;
        Ok(chosen.peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        if request.version != Version::HTTP_2 && context.delivery.is_none() {
            return Err(fall_back(context));
        }
        // A further attempt sends the body from its beginning.
        context.body_received = 0;
        if context.attempts == 1 && hop::expects_continue(session.req_header()) && !session.is_body_empty() {
            // There is an upstream to take the body now.
            hop::say_continue(session).await;
        }
        let (permit, live) = context.permitted()?;
        let ServedRoute { route, forwarding: settings, .. } = &**permit.route();
        hop::begin(request, context.websocket)?;
        hop::say_no_body(session, request)?;
        if !context.websocket
            && request.version != Version::HTTP_2
            && (hop::has_ignored_body(session) || hop::signs_in(request))
        {
            request.insert_header(header::CONNECTION, "close")?;
        }
        let hops = self.mark.added_to(&request.headers);
        forward::strip(request, &live.strip, &settings.pass);
        if let Some(carrier) = permit.carrier() {
            forward::remove_carrier(request, carrier);
        }
        let policy = &route.policy;
        // Where the route looks for tokens, none is left over for the app: not beside another, and not in a
        // request that is no WebSocket.
        let looks = policy.auth != Auth::None;
        if looks && policy.carriers.websocket_protocol {
            forward::remove_protocols(request);
        }
        let without = policy.carriers.query.as_deref().filter(|_| looks);
        if let Err(malformed) = forward::set_target(request, &context.path, without) {
            return Error::e_explain(ErrorType::HTTPStatus(400), malformed.to_string());
        }
        forwarded::set(
            request,
            Origin {
                peer: context.peer(),
                tls: context.exchange.as_ref().is_some_and(|exchange| exchange.tls),
                host: &context.host,
                relayed: context.relayed.as_deref(),
                field: live.believed.field,
            },
        );
        Mark::write(hops, request)?;
        let host = if settings.preserve_host { &*context.host } else { &context.authority };
        request.insert_header(header::HOST, host)?;
        request.insert_header("x-request-id", context.request_id.as_str())?;
        if let Some(caller) = permit.caller() {
            forward::set_identity(request, settings, &caller.identity);
            if let Some(name) = &settings.assertion {
                let assertion = self.signer.assertion(&caller.identity, &route.name, self.clock.now());
                match assertion {
                    Ok(assertion) => request.insert_header(name.clone(), assertion)?,
                    Err(why) => return Error::e_explain(ErrorType::HTTPStatus(503), why.to_string()),
                }
            }
        }
        match (&settings.inject, &context.injected) {
            (None, _) => Ok(()),
            (Some(_), Some(injected)) => injected.write(request),
            // As with permits: nothing goes there without.
            (Some(_), None) => Error::e_explain(ErrorType::HTTPStatus(500), "a request without its token"),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> Result<()> {
        // The engine writes empty bytes as a last chunk, and then the last chunk: the second one would begin the
        // next request on that connection. HTTP/2 bodies end so whenever END_STREAM comes on its own.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        // What passes after an upgrade is no request body.
        if session.was_upgraded() {
            return Ok(());
        }
        context.body_received += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if !self.has_memory_for_body(context) {
            context.lost = Some(Refusal::Overloaded);
            return Err(Error::new_in(inject::LOST));
        }
        match context.permitted()?.0.route().cluster.settings.max_body {
            Some(most) if context.body_received > most => {
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
        context: &mut Context,
    ) -> Result<()> {
        hop::end_answer(response)?;
        if response.status != http::StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        let Some(mut injected) = context.injected.take() else { return Ok(()) };
        let after = self.source(&context.request_id).renew(context.permitted()?.0, &mut injected).await;
        context.injected = Some(injected);
        match after {
            After::Stands => Ok(()),
            After::Lost(refusal) => {
                context.lost = Some(refusal);
                Err(Error::new_in(inject::LOST))
            }
            // The next request has the new token.
            After::Renewed if session.as_ref().retry_buffer_truncated() => Ok(()),
            After::Renewed => {
                // Nothing is wrong with this upstream: it may be asked again.
                context.tried.clear();
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
        context: &mut Context,
    ) -> Result<()> {
        upgrade::refuse_unasked(response, context.websocket)?;
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS
            && let Some(exchange) = &context.exchange
        {
            exchange.switch();
        }
        hop::unchunk(session, response);
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        response.insert_header("x-request-id", context.request_id.as_str())?;
        let is_final =
            !response.status.is_informational() || response.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if is_final
            && let Some(name) = context.permit.as_ref().and_then(Permit::spent_cookie)
            && let Some(live) = &context.live
        {
            forget::cookie(response, name, live.admission.scheme)?;
        }
        let stream = response.status == http::StatusCode::SWITCHING_PROTOCOLS
            || is_event_stream(response.headers.get(header::CONTENT_TYPE));
        if stream {
            if let Some(silence) = &context.silence {
                silence.allow();
            }
            // The engine gives a client a minute to send something; on a stream it may have nothing to say.
            session.set_read_timeout(None);
        }
        if let Some(exchange) = context.exchange.as_ref().filter(|_| stream) {
            exchange.is_stream();
        }
        if let Some(cors) = context.cors() {
            cors.write(session.req_header(), response);
        }
        context.sent.0 = response.status.as_u16();
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        context.sent.1 += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.set_retry(context.may_retry() && inbound::is_idempotent(&session.req_header().method));
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        if *error.etype() == inject::RENEWED || *error.etype() == HTTP1_ONLY {
            // The upstream has said that it did nothing, or was not asked yet; and the body is at hand.
            return error;
        }
        // A pooled connection may have been closed under us; whether the request was acted on is not
        // known, so only what may be repeated is repeated, and only with its whole body at hand.
        let reused = context.delivery.as_deref().map_or(reused, Delivery::is_reused);
        let repeat = reused
            && inbound::is_idempotent(&session.req_header().method)
            && !session.as_ref().retry_buffer_truncated();
        error.retry.decide_reuse(repeat);
        if !context.may_retry() {
            // Whatever the engine thinks of it: connections that turn out closed do not add to `retries`.
            error.set_retry(false);
        }
        error.more_context(format!("upstream {}", peer._address))
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        // Whatever is said now is the last on the connection.
        session.set_keepalive(None);
        let malformed = context.exchange.as_ref().is_some_and(|exchange| exchange.is_malformed());
        let refused = malformed.then_some(Refusal::Malformed(Malformed::Framing));
        if let Some(refusal) = context.lost.take().or(refused)
            && outbound::begun(session).is_none()
        {
            context.decision = refusal.code();
            let answer = answer(&refusal);
            context.answered = Some(answer.problem.status);
            let _ = outbound::send(session, &answer, &context.request_id, context.cors()).await;
            return FailToProxy { error_code: answer.problem.status, can_reuse_downstream: false };
        }
        let (status, code, detail) = match &context.silence {
            Some(silence) if silence.was_too_long() => outbound::timed_out(),
            _ => outbound::failed(error),
        };
        context.decision = code;
        if status != 0 {
            let error = outbound::words(error);
            tracing::warn!(request_id = context.request_id, %error, code, "a request failed");
            let problem = Problem::new(status, code, detail);
            // A failure to tell the client changes nothing: the connection ends either way.
            if let Some(begun) = outbound::begun(session) {
                let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
                if !framed.iter().any(|name| begun.headers.contains_key(name))
                    && let Some(exchange) = &context.exchange
                {
                    exchange.break_off();
                }
                // An answer that has begun is only cut short, but gRPC can still say why.
                let _ = grpc::break_off(session, &problem).await;
            } else {
                context.answered = Some(status);
                let _ = outbound::send(session, &problem.into(), &context.request_id, context.cors()).await;
            }
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Context) {
        context.told_end = true;
        let header = session.req_header();
        let sent = outbound::begun(session).map_or(0, |response| response.status.as_u16());
        let path = header.uri.path();
        // What was refused may hold anything; what was admitted is in normal form.
        let path = if Path::parse(path.as_bytes()).is_ok() { path } else { "" };
        let caller = context.permit.as_ref().and_then(Permit::caller);
        self.meter.ended(&Ended {
            route: context.route.as_ref().map(|served| &*served.route.name),
            status: context.answered.unwrap_or(sent),
            took: context.started.elapsed(),
            decision: context.decision,
            request_id: &context.request_id,
            method: header.method.as_str(),
            host: &context.host,
            path,
            bytes: session.body_bytes_sent() as u64,
            subject: caller.map(|caller| caller.identity.subject.as_str()),
            client: context.client,
            upstream: context.tried.last().copied(),
        });
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        context: &Context,
        error: &Error,
        _what: ProxyWarnLogContext,
    ) -> bool {
        let error = outbound::words(error);
        tracing::info!(request_id = context.request_id, %error, "a request is sent once more");
        true // The engine's own line would hold the query.
    }

    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        true // The engine's own line would hold the query; `fail_to_proxy` writes ours.
    }
}

/// Gives an attempt up whose connection speaks HTTP/1.1 although HTTP/2 was offered: answers over HTTP/1.1 are
/// read over connections of our own only ([`super::guard`]), where this upstream is asked from here on.
fn fall_back(context: &mut Context) -> Box<Error> {
    if let Some(http1) = &context.http1 {
        http1.store(true, Ordering::Relaxed);
    }
    context.tried.pop();
    context.attempts -= 1;
    let mut error = Error::new_up(HTTP1_ONLY);
    error.set_retry(true);
    error
}

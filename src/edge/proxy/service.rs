//! The engine's hooks, in the order of a request's way: admit, choose an upstream, say what it is told,
//! look at what it answers, count.
//!
//! No hook decides policy. `upstream_peer` connects to nothing without a [`Permit`], which only
//! `service::admit` makes: a hook that is skipped ends in a refusal.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::ALPN;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::context::Context;
use super::exchange::is_event_stream;
use super::forward::{self, Origin};
use super::gateway::Gateway;
use super::inject::{self, After};
use super::{grpc, hop, inbound, outbound, patience, upgrade};
use crate::domain::answer::answer;
use crate::domain::credential::Carrier;
use crate::domain::problem::Problem;
use crate::domain::request::Path;
use crate::ports::Ended;
use crate::service::admit::Permit;

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new()
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        if self.admit(session, context).await? {
            return Ok(true);
        }
        // A client that asks and then takes nothing would hold its upstream connection for good.
        session.set_write_timeout(Some(context.cluster()?.2.settings.write_timeout));
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
        let (_, _, cluster) = context.cluster()?;
        let Some(chosen) = cluster.choose(&context.tried) else {
            return Error::e_explain(ErrorType::HTTPStatus(503), "no upstream of this route is healthy");
        };
        let mut peer = chosen.peer;
        context.silence = None;
        if context.websocket {
            peer.options.alpn = ALPN::H1;
            context.silence = Some(patience::prepare(&mut peer));
        } else if is_event_stream(session.req_header().headers.get(header::ACCEPT)) {
            context.silence = Some(patience::prepare(&mut peer));
        }
        context.tried.push(chosen.address);
        context.authority = chosen.authority;
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        // A further attempt sends the body from its beginning.
        context.body_received = 0;
        let (permit, live, settings) = context.told()?;
        hop::begin(request, context.websocket)?;
        forward::strip(request, &live.reserved);
        let carriers = &permit.route().policy.carriers;
        let mut without = None;
        if let Some(carrier) = permit.carrier() {
            forward::remove_carrier(request, carrier);
            if carrier == Carrier::Query {
                without = carriers.query.as_deref();
            }
        }
        if let Err(malformed) = forward::set_target(request, &context.path, without) {
            return Error::e_explain(ErrorType::HTTPStatus(400), malformed.to_string());
        }
        let peer = context.peer();
        forward::set_forwarded(
            request,
            Origin {
                peer,
                tls: context.exchange.as_ref().is_some_and(|exchange| exchange.tls),
                host: &context.host,
                trusted: inbound::is_trusted(peer, &live.trusted_proxies),
            },
        );
        let host = if settings.preserve_host { context.host.as_str() } else { &context.authority };
        request.insert_header(header::HOST, host)?;
        request.insert_header("x-request-id", context.request_id.as_str())?;
        if let Some(caller) = permit.caller() {
            forward::set_identity(request, settings, &caller.identity);
            if let Some(name) = &settings.assertion {
                let assertion =
                    self.signer.assertion(&caller.identity, &permit.route().name, self.clock.now());
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
        match context.cluster()?.2.settings.max_body {
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
        response.insert_header("x-request-id", context.request_id.as_str())?;
        let stream = response.status == http::StatusCode::SWITCHING_PROTOCOLS
            || is_event_stream(response.headers.get(header::CONTENT_TYPE));
        if stream {
            if let Some(silence) = &context.silence {
                silence.allow();
            }
            // The engine gives a client a minute to send something; on a stream it may have nothing to say.
            session.set_read_timeout(None);
        }
        if stream && context.watched.is_none() {
            let caller = context.permit.as_ref().and_then(Permit::caller);
            if let (Some(caller), Some(exchange)) = (caller, &context.exchange) {
                context.watched = Some(self.streams.watch(Arc::clone(caller), Arc::clone(exchange)));
                // A revocation between admission and now has found no stream to cut.
                if let Some(live) = &context.live
                    && live.admission.authenticator.revocations.is_revoked(&caller.identity)
                {
                    exchange.cut();
                }
            }
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let attempts = context.tried.len();
        let more = context.cluster().is_ok_and(|(.., cluster)| attempts <= cluster.settings.retries);
        error.set_retry(more && inbound::is_idempotent(&session.req_header().method));
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        _context: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        if *error.etype() == inject::RENEWED {
            // The upstream has said that it did nothing, and the body is at hand.
            return error;
        }
        // A pooled connection may have been closed under us; whether the request was acted on is not
        // known, so only what may be repeated is repeated, and only with its whole body at hand.
        let repeat = reused
            && inbound::is_idempotent(&session.req_header().method)
            && !session.as_ref().retry_buffer_truncated();
        error.retry.decide_reuse(repeat);
        error.more_context(format!("upstream {}", peer._address))
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        if let Some(refusal) = context.lost.take() {
            context.decision = refusal.code();
            let answer = answer(&refusal);
            context.answered = Some(answer.problem.status);
            let _ = outbound::send(session, &answer, &context.request_id).await;
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
            if session.response_written().is_none() {
                context.answered = Some(status);
                let _ = outbound::send(session, &problem.into(), &context.request_id).await;
            } else {
                // An answer that has begun is only cut short, but gRPC can still say why.
                let _ = grpc::break_off(session, &problem).await;
            }
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Context) {
        let header = session.req_header();
        let sent = session.response_written().map_or(0, |response| response.status.as_u16());
        let path = header.uri.path();
        // What was refused may hold anything; what was admitted is in normal form.
        let path = if Path::parse(path.as_bytes()).is_ok() { path } else { "" };
        let caller = context.permit.as_ref().and_then(Permit::caller);
        self.meter.ended(&Ended {
            route: context.route.as_ref().map(|route| &*route.name),
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

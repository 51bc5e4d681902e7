//! Between the engine and the native endpoints: a `Session` becomes an `http::Request`, a `Router`'s
//! response goes back out, both streamed.
//!
//! The router never sees a connection, and the engine never sees a router. Who a request comes from is
//! among its extensions, as a [`Client`], and which host it asks, as an [`AskedHost`].

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, Version, header};
use http_body_util::BodyExt;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use tokio::sync::{Notify, mpsc};
use tower::ServiceExt;

use super::{hop, outbound};
use palisade_core::domain::request::Host;
use palisade_core::service::caller::{AskedHost, Client};

/// The longest `User-Agent` that is passed on, in characters.
const MAX_USER_AGENT: usize = 256;
/// Chunks of a request body on their way to the router.
const BODY_CHUNKS: usize = 4;

/// Lets `router` answer the request. `finish` has the last word on the head of the answer. Returns the status it answered
/// with.
///
/// # Errors
/// The client's connection failed.
pub async fn serve(
    session: &mut Session,
    router: Router,
    (host, path): (&str, &str),
    client: IpAddr,
    request_id: &str,
    finish: impl FnOnce(&mut ResponseHeader) + Send,
) -> Result<u16> {
    let (chunks, received) = mpsc::channel::<io::Result<Bytes>>(BODY_CHUNKS);
    let wanted = Arc::new(Notify::new());
    let waits = hop::expects_continue(session.req_header()).then(|| Arc::clone(&wanted));
    let client =
        Client { address: client, user_agent: user_agent(session), request_id: request_id.to_owned() };
    let mut request = request(session, path, client, received, wanted);
    // The `Host` as it was read to find the route. A field of that name in the request may be another one.
    if let Ok(host) = Host::parse(host.as_bytes()) {
        request.extensions_mut().insert(AskedHost(host.name().to_owned()));
    }
    let head_only = session.req_header().method == http::Method::HEAD;
    let Ok(response) = answer(session, router, request, chunks, waits).await;
    let status = response.status().as_u16();
    // What the router left of the body is not worth reading: the connection ends with this answer.
    let unread = !session.is_body_done();
    if unread || session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
    let (parts, mut body) = response.into_parts();
    let mut head = ResponseHeader::build(parts.status, Some(parts.headers.len() + 1))?;
    for (name, value) in &parts.headers {
        head.append_header(name, value)?;
    }
    head.insert_header("x-request-id", request_id)?;
    finish(&mut head);
    if session.is_http2() {
        head.remove_header(&header::TRANSFER_ENCODING);
    } else if !parts.headers.contains_key(header::CONTENT_LENGTH) && !head_only {
        match http_body::Body::size_hint(&body).exact() {
            Some(length) => head.insert_header(header::CONTENT_LENGTH, length)?,
            None => head.insert_header(header::TRANSFER_ENCODING, "chunked")?,
        }
    }
    hop::unchunk(session, &mut head);
    session.write_response_header(Box::new(head), head_only).await?;
    if !head_only {
        while let Some(frame) = body.frame().await {
            // A body that fails half way cannot be taken back: the connection is cut instead.
            let Ok(frame) = frame else {
                return pingora::Error::e_explain(
                    pingora::ErrorType::InternalError,
                    "a native answer broke off",
                );
            };
            if let Ok(data) = frame.into_data() {
                session.write_response_body(Some(data), false).await?;
            }
        }
        session.write_response_body(None, true).await?;
    }
    if unread {
        outbound::linger(session).await;
    }
    Ok(status)
}

/// Feeds the request body to the router until it answers; how long a body may take is decided by the endpoint that
/// reads it. `waits` is there when the client sends nothing before it is
/// told to (RFC 9110 §10.1.1), and is told when the router wants the body: what is refused is never uploaded.
async fn answer(
    session: &mut Session,
    router: Router,
    request: Request<Body>,
    chunks: mpsc::Sender<io::Result<Bytes>>,
    waits: Option<Arc<Notify>>,
) -> Result<Response<Body>, Infallible> {
    let answering = router.oneshot(request);
    tokio::pin!(answering);
    if let Some(wanted) = waits {
        tokio::select! {
            biased;
            response = &mut answering => return response,
            () = wanted.notified() => {}
        }
        hop::say_continue(session).await;
    }
    let mut chunks = Some(chunks);
    loop {
        let Some(sender) = chunks.take() else { return answering.await };
        // A chunk is only read when the router can take it.
        let permit = tokio::select! {
            biased;
            response = &mut answering => return response,
            permit = sender.reserve_owned() => permit,
        };
        // The router has dropped the body: it only has to answer now.
        let Ok(permit) = permit else { continue };
        let chunk = tokio::select! {
            biased;
            response = &mut answering => return response,
            chunk = session.read_request_body() => chunk.ok(),
        };
        match chunk {
            Some(Some(bytes)) => chunks = Some(permit.send(Ok(bytes))),
            Some(None) => {}
            // Half a body must never pass for a whole one.
            None => drop(permit.send(Err(io::ErrorKind::UnexpectedEof.into()))),
        }
    }
}

fn request(
    session: &Session,
    path: &str,
    client: Client,
    mut received: mpsc::Receiver<io::Result<Bytes>>,
    wanted: Arc<Notify>,
) -> Request<Body> {
    let header = session.req_header();
    let target = match header.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let body = match session.is_body_empty_hint() {
        true => Body::empty(),
        false => Body::from_stream(futures::stream::poll_fn(move |cx| {
            wanted.notify_one();
            received.poll_recv(cx)
        })),
    };
    let mut request = Request::new(body);
    *request.method_mut() = header.method.clone();
    *request.version_mut() = Version::HTTP_11;
    // A path in normal form and a query that the engine took: always a valid target.
    *request.uri_mut() = target.parse().unwrap_or_default();
    for (name, value) in &header.headers {
        request.headers_mut().append(name, value.clone());
    }
    request.extensions_mut().insert(client);
    request
}

/// The first `User-Agent` as it may be kept: visible ASCII and spaces, cut. It is stored with sessions, shown to
/// people and written into mails, and only its sender vouches for it.
fn user_agent(session: &Session) -> Option<String> {
    let agent = session.req_header().headers.get(header::USER_AGENT)?.to_str().ok()?;
    let kept: String = agent.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect();
    (!kept.is_empty()).then_some(kept)
}

/// Whether a request has no body, as far as its head says.
trait BodyHint {
    fn is_body_empty_hint(&self) -> bool;
}

impl BodyHint for Session {
    fn is_body_empty_hint(&self) -> bool {
        let headers = &self.req_header().headers;
        !self.is_http2()
            && !headers.contains_key(header::TRANSFER_ENCODING)
            && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
    }
}

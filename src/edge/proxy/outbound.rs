//! Writing an answer that ends the exchange. What it says is the domain's ([`palisade_core::domain::reply`]).

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, OrErr, Result};

use super::cors::{self, CorsRules};
use super::grpc;
use crate::http_fields;
use palisade_core::domain::problem::Problem;
use palisade_core::domain::reply::Reply;

/// How much of an unwanted body is read after the answer, so that the client sees it before the
/// connection closes.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// An answer has more header fields than [`super::answer_head::MAX_FIELDS`].
pub const TOO_MANY_FIELDS: ErrorType = ErrorType::new("TooManyFields");

/// The code of [`too_large`].
pub(super) const TOO_LARGE: &str = "body_too_large";
const TOO_LARGE_DETAIL: &str = "The request body is larger than this path takes.";

/// The head of the answer, once it has been written. Behind an interim one (RFC 9110 §15.2) the answer is still to come,
/// and may be ours.
#[must_use]
pub fn begun(session: &Session) -> Option<&ResponseHeader> {
    let interim = |status: StatusCode| status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().filter(|response| !interim(response.status))
}

/// Writes `reply` and ends the exchange; `cors` is what the route says about pages of other origins. A request body
/// that is not wanted is read away within bounds; a connection with more of it left is closed, never reused. A
/// gRPC call gets its own kind of answer.
///
/// # Errors
/// The client's connection failed.
pub async fn send(
    session: &mut Session,
    reply: &Reply,
    request_id: &str,
    cors: Option<&CorsRules>,
) -> Result<()> {
    if grpc::is_call(session.req_header()) {
        return grpc::send(session, reply, request_id, cors).await;
    }
    let body = reply.body();
    let mut response = head(reply, body.len(), request_id)?;
    cors::write(cors, session, &mut response);
    let head_only = session.req_header().method == http::Method::HEAD;
    write(session, response, (!head_only).then(|| Bytes::from(body.into_owned()))).await
}

/// Writes a whole answer; without a `body` it is its header section alone. The connection ends behind it when the
/// gateway stops, or when more of the request is left than is worth reading.
///
/// # Errors
/// The client's connection failed.
pub(super) async fn write(session: &mut Session, head: ResponseHeader, body: Option<Bytes>) -> Result<()> {
    let unread = !session.is_body_done();
    if unread || session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
    session.write_response_header(Box::new(head), body.is_none()).await?;
    // In HTTP/2 a stream that has only a header section is ended too, or the engine resets it.
    if body.is_some() || session.is_http2() {
        session.write_response_body(body, true).await?;
    }
    if unread {
        linger(session).await;
    }
    Ok(())
}

/// The header section of an answer whose body has `length` bytes.
pub(super) fn head(reply: &Reply, length: usize, request_id: &str) -> Result<ResponseHeader> {
    let fields = reply.fields();
    let mut response = ResponseHeader::build(reply.status(), Some(fields.len() + 2))?;
    for field in &fields {
        let value =
            http_fields::value(field).or_err(ErrorType::InvalidHTTPHeader, "a field of an answer of ours")?;
        response.append_header(field.name, value)?;
    }
    response.insert_header(header::CONTENT_LENGTH, length)?;
    if !request_id.is_empty() {
        response.insert_header("x-request-id", request_id)?;
    }
    Ok(response)
}

/// Reads on for a bounded while after an early answer.
pub async fn linger(session: &mut Session) {
    let mut left = LINGER_BYTES;
    let read = async {
        while let Ok(Some(chunk)) = session.read_request_body().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Either way the connection is closed after this.
    let _ = tokio::time::timeout(LINGER_TIME, read).await;
}

/// What a client is told of a failure on the way to or from an upstream: status, code and detail of the problem
/// document. The status is 0 when the client is gone.
#[must_use]
pub fn failed(error: &Error) -> (u16, &'static str, &'static str) {
    match (error.etype(), error.esource()) {
        (kind, _) if *kind == TOO_MANY_FIELDS => too_many_fields(),
        (ErrorType::HTTPStatus(413), _) => (413, TOO_LARGE, TOO_LARGE_DETAIL),
        (ErrorType::HTTPStatus(503), _) => {
            (503, "upstream_unavailable", "The app is not available; try again shortly.")
        }
        (ErrorType::HTTPStatus(status), _) => (*status, "failed", "The request failed."),
        (
            ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::TLSHandshakeTimedout,
            ErrorSource::Upstream,
        ) => timed_out(),
        (_, ErrorSource::Upstream) => (502, "upstream_failed", "The app could not be reached or broke off."),
        // The client is gone or its connection broke: nothing can be sent to it.
        (_, ErrorSource::Downstream) => (0, "client_gone", ""),
        _ => (500, "failed", "The request failed inside the gateway."),
    }
}

/// What a client is told when the upstream was silent for too long.
#[must_use]
pub fn timed_out() -> (u16, &'static str, &'static str) {
    (504, "upstream_timeout", "The app did not answer in time.")
}

/// What a client is told when the answer's header section is beyond what is passed on.
#[must_use]
pub fn too_many_fields() -> (u16, &'static str, &'static str) {
    (502, "upstream_failed", "The app's answer has more header fields than this gateway passes on.")
}

/// The error for the log. A header section that could not be read is quoted in the engine's own words,
/// cookies and tokens and all: of that only the kind is told.
#[must_use]
pub fn words(error: &Error) -> String {
    match error.root_etype() {
        ErrorType::InvalidHTTPHeader => {
            format!("{} {}", error.esource().as_str(), ErrorType::InvalidHTTPHeader.as_str())
        }
        _ => error.to_string(),
    }
}

/// The answer to a request whose body is larger than its route takes.
#[must_use]
pub fn too_large() -> Reply {
    Problem::new(413, TOO_LARGE, TOO_LARGE_DETAIL).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_section_that_cannot_be_read_is_not_quoted() {
        let error = Error::because(ErrorType::InvalidHTTPHeader, "buf: Set-Cookie: hunter2", "bad name");
        let words = words(&error.into_up().more_context("upstream 10.0.0.1:80"));
        assert_eq!(words, "Upstream InvalidHTTPHeader");
    }
}

//! Answers to gRPC calls: the status travels in trailers, so a refusal is a header section with `grpc-status`
//! that ends the stream ("Trailers-Only" in the gRPC over HTTP/2 protocol), under the HTTP status 200.
//!
//! A client that got a problem document instead would show "unknown" for most of them. What is logged and
//! counted stays the status of the refusal.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;

use super::cors::{self, CorsRules};
use super::outbound;
use palisade_core::domain::problem::Problem;
use palisade_core::domain::reply::Reply;

const MEDIA_TYPE: &str = "application/grpc";
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// Whether `request` is a gRPC call: HTTP/2 and `application/grpc`, with or without a suffix. gRPC-Web is not:
/// its clients read the HTTP status.
#[must_use]
pub fn is_call(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_2 && is_grpc(&request.headers)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    let Some((media, rest)) = value.as_bytes().split_at_checked(MEDIA_TYPE.len()) else { return false };
    media.eq_ignore_ascii_case(MEDIA_TYPE.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The gRPC status of an HTTP status: what gRPC's "HTTP to gRPC Status Code Mapping" says where it speaks of
/// the status, and for the others the code that means the same.
#[must_use]
pub const fn status(http: u16) -> u16 {
    match http {
        400 | 500 => 13,             // INTERNAL
        303 | 401 => 16,             // UNAUTHENTICATED: a redirect leads to where one signs in
        403 => 7,                    // PERMISSION_DENIED
        404 | 405 | 501 => 12,       // UNIMPLEMENTED
        408 => 4,                    // DEADLINE_EXCEEDED
        413 | 431 => 8,              // RESOURCE_EXHAUSTED
        429 | 502 | 503 | 504 => 14, // UNAVAILABLE
        _ => 2,                      // UNKNOWN
    }
}

/// Answers a call with `reply`, and ends it. A page or a redirect, which no such client understands, ends it with its code
/// and its summary. `cors` as everywhere: script in a page reads the status only by leave of its route.
///
/// # Errors
/// The client's connection failed.
pub async fn send(
    session: &mut Session,
    reply: &Reply,
    request_id: &str,
    cors: Option<&CorsRules>,
) -> Result<()> {
    let mut response = head(reply, request_id)?;
    cors::write(cors, session, &mut response);
    match session.as_downstream_mut() {
        // The stream must end with this very frame, which the engine's own way to write does not do.
        ServerSession::H2(stream) => stream.write_response_header(Box::new(response), true),
        // Not a call, then.
        _ => session.write_response_header(Box::new(response), true).await,
    }
}

/// The header section that is the whole of an answer.
pub(super) fn head(reply: &Reply, request_id: &str) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build(StatusCode::OK, Some(6))?;
    response.insert_header(header::CONTENT_TYPE, MEDIA_TYPE)?;
    response.insert_header(STATUS, HeaderValue::from(status(reply.status())))?;
    response.insert_header(MESSAGE, message(reply.code(), reply.summary()))?;
    if !request_id.is_empty() {
        response.insert_header("x-request-id", request_id)?;
    }
    if let Some(challenge) = reply.challenge() {
        response.insert_header(header::WWW_AUTHENTICATE, challenge)?;
    }
    Ok(response)
}

/// Ends a call whose answer has begun with the trailers of `problem`, when the answer is gRPC's.
///
/// # Errors
/// The client's connection failed.
pub async fn break_off(session: &mut Session, problem: &Problem) -> Result<()> {
    if !outbound::begun(session).is_some_and(|response| is_grpc(&response.headers)) {
        return Ok(());
    }
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(status(problem.status)));
    trailers.insert(MESSAGE, message(problem.code, &problem.detail));
    session.as_downstream_mut().write_response_trailers(trailers).await
}

/// The code for programs and the words for people, percent-encoded as `grpc-message` wants it.
fn message(code: &'static str, words: &str) -> HeaderValue {
    let mut text = String::with_capacity(code.len() + words.len() + 2);
    for byte in code.bytes().chain(*b": ").chain(words.bytes()) {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    // Visible ASCII and spaces: always valid.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::redirect::{Location, Redirect};

    #[test]
    fn calls_are_known_by_version_and_media_type() {
        let is = |version: Version, media: Option<&str>| {
            let mut request = RequestHeader::build("POST", b"/a.B/C", None).unwrap();
            request.set_version(version);
            if let Some(media) = media {
                request.insert_header("content-type", media).unwrap();
            }
            is_call(&request)
        };
        for media in
            ["application/grpc", "Application/gRPC", "application/grpc+proto", "application/grpc;x=y"]
        {
            assert!(is(Version::HTTP_2, Some(media)), "{media}");
            assert!(!is(Version::HTTP_11, Some(media)), "{media}");
        }
        for media in [
            "application/grpc-web",
            "application/grpc-web-text+proto",
            "application/grpcs",
            "application/json",
        ] {
            assert!(!is(Version::HTTP_2, Some(media)), "{media}");
        }
        assert!(!is(Version::HTTP_2, None));
    }

    #[test]
    fn every_status_of_ours_has_its_code() {
        for (http, grpc) in [
            (303, 16),
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (405, 12),
            (413, 8),
            (429, 14),
            (431, 8),
            (500, 13),
            (501, 12),
            (502, 14),
            (503, 14),
            (504, 14),
            (409, 2),
        ] {
            assert_eq!(status(http), grpc, "{http}");
        }
    }

    #[test]
    fn a_redirect_ends_a_call_as_unauthenticated() {
        let to = Location::new("/auth/pages/sign-in").unwrap();
        let reply = Reply::from(Redirect { code: "sign_in", to, cookies: Vec::new() });
        let head = head(&reply, "id").unwrap();
        let field = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!((head.status.as_u16(), field("grpc-status")), (200, Some("16")));
        assert_eq!(field("grpc-message"), Some("sign_in: /auth/pages/sign-in"));
        assert_eq!(field("location"), None);
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let problem = Problem::new(401, "token_missing", "Send 100% of it:\n…");
        assert_eq!(message(problem.code, &problem.detail), "token_missing: Send 100%25 of it:%0A%E2%80%A6");
    }
}

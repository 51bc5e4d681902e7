//! Hop-by-hop header fields: what a client says about its own connection never decides about ours, nor what an
//! upstream says about its own about the client's (RFC 9110 §7.6.1).

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, Result};

use super::answer_head::{MAX_FIELDS, holds, signs_in_connections};
use super::outbound;

/// Fields that belong to one connection. `Expect` is among them because the gateway answers it: an upstream that
/// refuses a request which expects `100 Continue` may take the body, which comes all the same, for the next request.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::UPGRADE,
];

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Fields of an answer that belong to one connection. `Transfer-Encoding` is the engine's to write anew.
const OF_ANSWERS: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::UPGRADE,
];

/// Whether the client asks for its connection to be closed after the answer, in any of its lines. The engine
/// looks at the first.
#[must_use]
pub fn closes(request: &RequestHeader) -> bool {
    let mut lines = request.headers.get_all(header::CONNECTION).iter();
    lines.any(|line| holds(line.as_bytes(), b"close"))
}

/// Takes in what the client's head says about its connection and the engine does not hear.
pub fn listen(session: &mut Session) {
    if closes(session.req_header()) {
        session.set_keepalive(None);
    }
    if session.req_header().version == Version::HTTP_10 {
        // HTTP/1.0 knows no interim answers (RFC 9110 §15.2).
        session.set_ignore_info_resp(true);
    }
}

/// Whether the client waits for `100 Continue` before it sends its body. One that speaks HTTP/1.0 cannot mean it
/// (RFC 9110 §10.1.1).
#[must_use]
pub fn expects_continue(request: &RequestHeader) -> bool {
    let mut lines = request.headers.get_all(header::EXPECT).iter();
    request.version != Version::HTTP_10
        && lines.any(|line| line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue"))
}

/// Tells a client to go on with its body. Whether that arrived shows when the body is read.
pub async fn say_continue(session: &mut Session) {
    // The engine closes behind what it says ahead of the whole body, and counts this among it.
    let kept = session.get_keepalive();
    let _ = session.write_continue_response().await;
    session.set_keepalive(kept);
}

/// Whether the request has a body that its method gives no meaning to (RFC 9110 §9.3). An upstream that does
/// not read it takes its bytes for the next request on the connection.
#[must_use]
pub fn has_ignored_body(session: &mut Session) -> bool {
    let ignored = matches!(
        session.req_header().method,
        Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS | Method::TRACE
    );
    ignored && !session.is_body_empty()
}

/// Says to an HTTP/1.1 upstream that there is no body where one would be expected (RFC 9110 §8.6): HTTP/2 clients
/// need not say so, and some servers answer 411.
///
/// # Errors
/// The engine cannot take a constant: never.
pub fn say_no_body(session: &mut Session, request: &mut RequestHeader) -> Result<()> {
    let expected = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    if expected
        && request.version != Version::HTTP_2
        && !request.headers.contains_key(header::CONTENT_LENGTH)
        && session.is_body_empty()
    {
        request.insert_header(header::CONTENT_LENGTH, "0")?;
    }
    Ok(())
}

/// Whether the request would sign its caller in on the connection, which others use after it.
#[must_use]
pub fn signs_in(request: &RequestHeader) -> bool {
    let mut lines = request.headers.get_all(header::AUTHORIZATION).iter();
    lines.any(|line| signs_in_connections(line.as_bytes()))
}

/// Makes an answer one that a client of HTTP/1.0 reads: such a client knows no chunks, so that without a length
/// the end of the connection is the end of the body.
pub fn unchunk(session: &mut Session, response: &mut ResponseHeader) {
    if session.req_header().version == Version::HTTP_10
        && response.remove_header(&header::TRANSFER_ENCODING).is_some()
    {
        session.set_keepalive(None);
    }
}

/// The fields that `Connection` names, without those that frame the message or make a WebSocket, and without
/// `Authorization`: what a request was admitted by because the app is to judge it must reach the app, and a field for
/// the recipient is none of the connection (RFC 9110 §7.6.1).
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| {
            let stays = matches!(
                *name,
                header::AUTHORIZATION | header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING
            );
            !stays && name != header::UPGRADE && !name.as_str().starts_with("sec-websocket-")
        })
        .collect()
}

/// Takes out of an upstream's answer whatever belongs to the upstream's connection, and makes of several
/// equal lengths one. A WebSocket keeps its upgrade. `client`: the version that the answer goes out in.
///
/// # Errors
/// [`outbound::TOO_MANY_FIELDS`]: over HTTP/2, where no part of ours has counted them before.
pub fn end_answer(response: &mut ResponseHeader, client: Version) -> Result<()> {
    if response.headers.len() > MAX_FIELDS {
        return Err(Error::new_up(outbound::TOO_MANY_FIELDS));
    }
    for name in connection_options(&response.headers) {
        response.remove_header(&name);
    }
    let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
    for name in &OF_ANSWERS {
        // A 426 has to say what to upgrade to (RFC 9110 §15.5.22).
        let says = switches || response.status == StatusCode::UPGRADE_REQUIRED;
        if !(says && name == header::UPGRADE) && response.headers.contains_key(name) {
            response.remove_header(name);
        }
    }
    if switches {
        response.insert_header(header::CONNECTION, "Upgrade")?;
    }
    // The engine passes trailers on between two HTTP/2 connections alone. No others are promised (RFC 9110 §6.6.2).
    let pass = response.version == Version::HTTP_2 && client == Version::HTTP_2;
    if !pass && response.headers.contains_key(header::TRAILER) {
        response.remove_header(&header::TRAILER);
    }
    if response.status == StatusCode::NO_CONTENT || response.status.is_informational() {
        // No length may be said where there can be no body (RFC 9110 §8.6).
        response.remove_header(&header::CONTENT_LENGTH);
    }
    let mut lengths = response.headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let one = first.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        if (one.len() < first.len() || lengths.next().is_some())
            && let Ok(one) = HeaderValue::from_bytes(one)
        {
            response.insert_header(header::CONTENT_LENGTH, one)?;
        }
    }
    Ok(())
}

/// Takes out what the client named in `Connection` (RFC 9110 §7.6.1), before anything of ours is set and
/// so that none of ours can be named (CVE-2024-45410), then leaves of it only what the engine needs.
///
/// # Errors
/// The engine cannot take a constant: never.
pub fn end(request: &mut RequestHeader, websocket: bool) -> Result<()> {
    let close = closes(request);
    for name in connection_options(&request.headers) {
        request.remove_header(&name);
    }
    request.remove_header(&header::CONNECTION);
    if websocket {
        request.insert_header(header::CONNECTION, "Upgrade")?;
    } else {
        // A protocol that we do not know is none that we can authorise: only WebSockets are upgraded.
        request.remove_header(&header::UPGRADE);
        if close {
            request.insert_header(header::CONNECTION, "close")?;
        }
    }
    Ok(())
}

/// Takes out of a request to an upstream whatever belongs to the client's connection, and asks for a WebSocket
/// if that is what it is about. Between two HTTP/2 connections `te: trailers` is said again (RFC 9113 §8.2.2):
/// trailers of answers do pass, and gRPC servers refuse calls without it. `client`: the version of the client's request.
///
/// # Errors
/// The engine cannot take a constant: never.
pub fn begin(request: &mut RequestHeader, client: Version, websocket: bool) -> Result<()> {
    let trailers = request.version == Version::HTTP_2 && client == Version::HTTP_2 && takes_trailers(request);
    for name in &HOP_BY_HOP {
        request.remove_header(name);
    }
    if trailers {
        request.insert_header(header::TE, TRAILERS)?;
    }
    // The engine passes no trailers of requests on: none are promised.
    if request.headers.contains_key(header::TRAILER) {
        request.remove_header(&header::TRAILER);
    }
    if websocket {
        request.insert_header(header::CONNECTION, "Upgrade")?;
        request.insert_header(header::UPGRADE, "websocket")?;
    }
    Ok(())
}

/// Whether the client can take trailers (RFC 9110 §10.1.4).
fn takes_trailers(request: &RequestHeader) -> bool {
    let lines = request.headers.get_all(header::TE).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).any(|coding| {
        let name = coding.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trailers_are_asked_for_and_only_over_http2() {
        let asked_by = |client: Version, version: Version, te: &str| {
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            request.set_version(version);
            request.insert_header("te", te).unwrap();
            begin(&mut request, client, false).unwrap();
            request.headers.get("te").map(|value| value.to_str().unwrap().to_owned())
        };
        let asked = |version: Version, te: &str| asked_by(Version::HTTP_2, version, te);
        assert_eq!(asked(Version::HTTP_2, "trailers").as_deref(), Some("trailers"));
        assert_eq!(asked(Version::HTTP_2, "gzip;q=0.5, Trailers").as_deref(), Some("trailers"));
        assert_eq!(asked(Version::HTTP_2, "gzip, x-trailers"), None);
        assert_eq!(asked(Version::HTTP_11, "trailers"), None);
        assert_eq!(asked_by(Version::HTTP_11, Version::HTTP_2, "trailers"), None);
    }

    #[test]
    fn trailers_are_promised_only_where_they_pass() {
        for (upstream, client, stays) in [
            (Version::HTTP_2, Version::HTTP_2, true),
            (Version::HTTP_2, Version::HTTP_11, false),
            (Version::HTTP_11, Version::HTTP_2, false),
            (Version::HTTP_11, Version::HTTP_11, false),
        ] {
            let mut answer = ResponseHeader::build(200, None).unwrap();
            answer.set_version(upstream);
            answer.insert_header("trailer", "x-sum").unwrap();
            end_answer(&mut answer, client).unwrap();
            assert_eq!(answer.headers.contains_key("trailer"), stays, "{upstream:?} {client:?}");
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            request.set_version(upstream);
            request.insert_header("trailer", "x-sum").unwrap();
            begin(&mut request, client, false).unwrap();
            assert!(!request.headers.contains_key("trailer"), "{upstream:?} {client:?}");
        }
    }
}

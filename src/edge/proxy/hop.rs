//! Where one connection ends and the next begins: what a client says about its own connection never
//! decides about ours (RFC 9110 §7.6.1).

use http::{HeaderName, HeaderValue, Version, header};
use pingora::Result;
use pingora::http::RequestHeader;

/// Fields that belong to one connection.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::UPGRADE,
];

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Takes out what the client named in `Connection` (RFC 9110 §7.6.1), before anything of ours is set and
/// so that none of ours can be named (CVE-2024-45410), then leaves of it only what the engine needs.
///
/// # Errors
/// The engine cannot take a constant: never.
pub fn end(request: &mut RequestHeader, websocket: bool) -> Result<()> {
    let named: Vec<HeaderName> = request
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let close = named.iter().any(|name| name.as_str() == "close");
    for name in &named {
        let framing = matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING);
        if !framing && name != header::UPGRADE && !name.as_str().starts_with("sec-websocket-") {
            request.remove_header(name);
        }
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
/// trailers do pass, and gRPC servers refuse calls without it.
///
/// # Errors
/// The engine cannot take a constant: never.
pub fn begin(request: &mut RequestHeader, websocket: bool) -> Result<()> {
    let trailers = request.version == Version::HTTP_2 && takes_trailers(request);
    for name in &HOP_BY_HOP {
        request.remove_header(name);
    }
    if trailers {
        request.insert_header(header::TE, TRAILERS)?;
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
        let asked = |version: Version, te: &str| {
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            request.set_version(version);
            request.insert_header("te", te).unwrap();
            begin(&mut request, false).unwrap();
            request.headers.get("te").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(asked(Version::HTTP_2, "trailers").as_deref(), Some("trailers"));
        assert_eq!(asked(Version::HTTP_2, "gzip;q=0.5, Trailers").as_deref(), Some("trailers"));
        assert_eq!(asked(Version::HTTP_2, "gzip, x-trailers"), None);
        assert_eq!(asked(Version::HTTP_11, "trailers"), None);
    }
}

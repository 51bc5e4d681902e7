//! From the engine's request header to the domain's one view of a request.
//!
//! Nothing here decides; it only reads, and refuses what cannot be read one way.

use std::borrow::Cow;

use http::{Method, Version, header};
use pingora::http::RequestHeader;

use crate::http_fields::Fields;
use palisade_core::domain::request::{Host, Malformed, Path, Request};

/// The path and the query of a request target as they were sent; an absolute form loses its origin, which the engine
/// has held against the Host.
///
/// # Errors
/// [`Malformed::Target`] for every other form.
pub fn origin_form(raw: &[u8]) -> Result<&[u8], Malformed> {
    match raw.first() {
        Some(b'/') => Ok(raw),
        _ => {
            let text = std::str::from_utf8(raw).map_err(|_| Malformed::Target)?;
            let (scheme, rest) = text.split_once("://").ok_or(Malformed::Target)?;
            if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
                return Err(Malformed::Target);
            }
            match rest.find(['/', '?', '#']) {
                Some(at) if rest[at..].starts_with('/') => Ok(&rest.as_bytes()[at..]),
                // No path at all: only "/" can be meant (RFC 9110 §4.2.3).
                None => Ok(b"/"),
                Some(_) => Err(Malformed::Target),
            }
        }
    }
}

/// Splits a request target into path and query.
fn split_target(raw: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let origin_form = origin_form(raw)?;
    match memchr::memchr(b'?', origin_form) {
        None => Ok((origin_form, None)),
        Some(at) => {
            let query = &origin_form[at + 1..];
            match query.iter().any(|byte| matches!(byte, 0..=b' ' | b'#' | 0x7f)) {
                true => Err(Malformed::Byte),
                false => Ok((&origin_form[..at], Some(query))),
            }
        }
    }
}

/// The domain's view of `header`. Whether the peer is believed, the header does not say. A request of HTTP/1.0 may name
/// no host.
///
/// # Errors
/// [`Malformed`] when the target or the Host has no single reading.
pub fn view<'a>(header: &'a RequestHeader, fields: &'a Fields<'a>) -> Result<Request<'a>, Malformed> {
    let (path, query) = split_target(header.raw_path())?;
    let host = match (header.uri.authority(), header.headers.get(http::header::HOST)) {
        // Two names for one request are one too many (RFC 9112 §3.2.2, RFC 9113 §8.3.1).
        (Some(authority), Some(host))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err(Malformed::Host);
        }
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) if header.version == Version::HTTP_10 => b"",
        (None, None) => return Err(Malformed::NoHost),
    };
    let is_unnamed = host.is_empty() && !header.headers.contains_key(header::HOST);
    Ok(Request {
        method: header.method.as_str(),
        host: if is_unnamed { Host::unnamed() } else { Host::parse(host)? },
        path: Path::parse(path)?,
        query: query.and_then(|query| std::str::from_utf8(query).ok()),
        websocket: is_websocket(header),
        is_peer_trusted: false,
        client: None,
        headers: fields,
    })
}

/// Whether the request asks to become a WebSocket (RFC 6455 §4.1). HTTP/1.0 cannot (RFC 9110 §7.8), and neither does
/// a request with a body: its upstream might take the body for the WebSocket or for the next request, and a
/// connection that is to be upgraded cannot be one that is to be closed.
#[must_use]
pub fn is_websocket(header: &RequestHeader) -> bool {
    let holds = |name: http::HeaderName, token: &str| {
        header.headers.get_all(name).iter().any(|value| {
            value
                .to_str()
                .is_ok_and(|text| text.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
        })
    };
    header.headers.contains_key(http::header::UPGRADE)
        && header.version == http::Version::HTTP_11
        && !header.headers.contains_key(http::header::TRANSFER_ENCODING)
        && declared_length(header).unwrap_or(0) == 0
        && header.method == http::Method::GET
        && holds(http::header::UPGRADE, "websocket")
        && holds(http::header::CONNECTION, "upgrade")
}

/// Whether doing it twice is doing it once (RFC 9110 §9.2.2).
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The name of a method; the usual ones cost nothing to keep.
#[must_use]
pub fn method_name(method: &Method) -> Cow<'static, str> {
    const USUAL: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    let usual = USUAL.into_iter().find(|usual| *usual == method.as_str());
    usual.map_or_else(|| Cow::Owned(method.as_str().to_owned()), Cow::Borrowed)
}

/// How long the body says that it is.
#[must_use]
pub fn declared_length(header: &RequestHeader) -> Option<u64> {
    header.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(target: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut header = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in fields {
            header.append_header(*name, *value).unwrap();
        }
        header
    }

    #[test]
    fn a_target_has_one_path_and_one_query() {
        let check = |target: &str| -> Result<(String, Option<String>), Malformed> {
            let header = header(target, &[("host", "a.test")]);
            let fields = Fields(&header.headers);
            view(&header, &fields).map(|r| (r.path.as_str().to_owned(), r.query.map(ToOwned::to_owned)))
        };
        let ok = |path: &str, query: Option<&str>| Ok((path.to_owned(), query.map(ToOwned::to_owned)));
        assert_eq!(check("/a?b=/public/&c"), ok("/a", Some("b=/public/&c")));
        assert_eq!(check("/a?"), ok("/a", Some("")));
        assert_eq!(check("/a?b?c"), ok("/a", Some("b?c")));
        assert_eq!(check("http://a.test/a?b"), ok("/a", Some("b")));
        assert_eq!(check("http://a.test"), ok("/", None));
        assert_eq!(check("*"), Err(Malformed::Target));
        assert_eq!(check("ftp://a.test/a"), Err(Malformed::Target));
    }

    #[test]
    fn only_http_1_0_may_name_no_host() {
        let host = |version: Version, fields: &[(&'static str, &str)]| {
            let mut header = header("/", fields);
            header.set_version(version);
            let fields = Fields(&header.headers);
            view(&header, &fields).map(|request| request.host.name().to_owned())
        };
        assert_eq!(host(Version::HTTP_10, &[]), Ok(String::new()));
        assert_eq!(host(Version::HTTP_10, &[("host", "a.test")]), Ok("a.test".to_owned()));
        // An empty one is none that a client may send.
        assert_eq!(host(Version::HTTP_10, &[("host", "")]), Err(Malformed::Host));
        assert_eq!(host(Version::HTTP_11, &[("host", "")]), Err(Malformed::Host));
        assert_eq!(host(Version::HTTP_11, &[]), Err(Malformed::NoHost));
        assert_eq!(host(Version::HTTP_2, &[]), Err(Malformed::NoHost));
    }

    #[test]
    fn a_websocket_needs_both_fields() {
        let both = [("host", "a"), ("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")];
        assert!(is_websocket(&header("/", &both)));
        assert!(!is_websocket(&header("/", &both[..2])));
        assert!(!is_websocket(&header("/", &[("host", "a"), ("upgrade", "foo"), ("connection", "upgrade")])));
    }

    #[test]
    fn a_websocket_begins_without_a_body_and_in_http_1_1() {
        let with = |field: (&'static str, &'static str)| {
            let upgrade = ("upgrade", "websocket");
            header("/", &[("host", "a"), upgrade, ("connection", "upgrade"), field])
        };
        assert!(is_websocket(&with(("content-length", "0"))));
        assert!(!is_websocket(&with(("content-length", "1"))));
        assert!(!is_websocket(&with(("transfer-encoding", "chunked"))));
        let mut old = with(("x", "y"));
        assert!(is_websocket(&old));
        old.set_version(http::Version::HTTP_10);
        assert!(!is_websocket(&old));
    }
}

//! Finding the one token of a request, wherever the route lets it travel.

use std::borrow::Cow;

use super::request::{Headers, Host, Request};
use super::route::Carriers;
use super::verdict::{Refusal, TokenFault};

/// The longest token that is looked at, in bytes. A header section may hold more; a token may not.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The `Sec-WebSocket-Protocol` entry that carries a token is this, then the token.
pub const WEBSOCKET_PREFIX: &str = "bearer.";

/// What the names of the cookies begin with that bind a consent to the browser that began it, behind
/// [`HOST_PREFIX`] over TLS. They go back to us and to nobody else.
pub const CONSENT_COOKIE: &str = "palisade_connect";

/// What makes browsers take a cookie from the very host only, over TLS and for all of its paths: no other host of
/// the same site can plant one (RFC 6265bis §4.1.3.2).
pub const HOST_PREFIX: &str = "__Host-";

/// What carried the token. It is taken out of the request before it is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// `Authorization: Bearer`.
    Authorization,
    /// The route's cookie.
    Cookie,
    /// `Sec-WebSocket-Protocol`.
    WebsocketProtocol,
    /// The route's query parameter.
    Query,
}

/// A token, borrowed from its field where most requests carry it, and what carried it.
pub type Found<'a> = (Cow<'a, str>, Carrier);

/// The token of a request and what carried it; `None` when there is none.
///
/// # Errors
/// [`Refusal::Credentials`] for two `Authorization` lines, a comma-joined one, or tokens in more than
/// one carrier: which of them counts is nobody's to guess (RFC 6750 §2). [`TokenFault::TooLong`] and
/// [`TokenFault::Malformed`] for what cannot be a token at all.
pub fn find<'a>(request: &Request<'a>, carriers: &Carriers) -> Result<Option<Found<'a>>, Refusal> {
    let mut found: Option<Found<'a>> = None;
    let mut ambiguous = false;
    let mut keep = |token: Cow<'a, str>, carrier| {
        ambiguous |= found.is_some();
        found = Some((token, carrier));
    };

    if let Some(token) = bearer(request.headers)? {
        keep(token.into(), Carrier::Authorization);
    }
    if let Some(name) = &carriers.cookie {
        request.headers.each("cookie", &mut |line| {
            for value in String::from_utf8_lossy(line).split(';').filter_map(|pair| cookie_value(pair, name))
            {
                keep(value.to_owned().into(), Carrier::Cookie);
            }
        });
    }
    if request.websocket {
        if carriers.websocket_protocol {
            request.headers.each("sec-websocket-protocol", &mut |line| {
                let line = String::from_utf8_lossy(line);
                for token in line.split(',').filter_map(|entry| entry.trim().strip_prefix(WEBSOCKET_PREFIX)) {
                    keep(token.to_owned().into(), Carrier::WebsocketProtocol);
                }
            });
        }
        if let (Some(name), Some(query)) = (&carriers.query, request.query) {
            for token in query.split('&').filter_map(|pair| query_value(pair, name)) {
                keep(token.into(), Carrier::Query);
            }
        }
    }
    if ambiguous {
        return Err(Refusal::Credentials);
    }
    match &found {
        Some((token, _)) if token.len() > MAX_TOKEN_BYTES => Err(Refusal::Token(TokenFault::TooLong)),
        Some((token, _)) if token.is_empty() => Err(Refusal::Token(TokenFault::Malformed)),
        _ => Ok(found),
    }
}

/// The token in `Authorization`, where nothing else may carry one.
///
/// # Errors
/// As [`find`], and what [`refuse_several`] refuses.
pub fn only_bearer(headers: &dyn Headers) -> Result<Option<&str>, Refusal> {
    refuse_several(headers)?;
    match bearer(headers)? {
        Some(token) if token.len() > MAX_TOKEN_BYTES => Err(Refusal::Token(TokenFault::TooLong)),
        Some("") => Err(Refusal::Token(TokenFault::Malformed)),
        found => Ok(found),
    }
}

/// Refuses what no route may see: two `Authorization` lines or a comma-joined one.
///
/// # Errors
/// [`Refusal::Credentials`].
pub fn refuse_several(headers: &dyn Headers) -> Result<(), Refusal> {
    let mut lines = 0;
    let mut joined = false;
    headers.each("authorization", &mut |line| {
        lines += 1;
        let scheme = line.split(|b| *b == b' ').next().unwrap_or_default();
        // Digest credentials (RFC 7616) are comma-separated parameters of one credential.
        joined |= !scheme.eq_ignore_ascii_case(b"digest") && line.contains(&b',');
    });
    if lines > 1 || joined { Err(Refusal::Credentials) } else { Ok(()) }
}

/// Whether a browser sent this on behalf of another site. A cookie travels whoever asks, so a token in
/// one counts only for requests from the same origin where they can do harm: unsafe methods, and
/// WebSockets, which no same-origin policy protects (RFC 6455 §10.2). Browsers name the origin on both;
/// programs that send none are no browsers.
#[must_use]
pub fn is_cross_site(request: &Request<'_>) -> bool {
    if matches!(request.method, "GET" | "HEAD" | "OPTIONS") && !request.websocket {
        return false;
    }
    let mut cross = false;
    request.headers.each("origin", &mut |line| {
        let authority = std::str::from_utf8(line).ok().and_then(|text| text.split_once("://"));
        let same = authority.is_some_and(|(scheme, authority)| {
            let default = if scheme == "https" { 443 } else { 80 };
            Host::parse(authority.as_bytes()).is_ok_and(|origin| {
                origin.name() == request.host.name()
                    // Behind a proxy that ends TLS the Host may or may not name the outside port.
                    && (origin.port() == request.host.port()
                        || origin.port().or(request.host.port()) == Some(default))
            })
        });
        cross |= !same;
    });
    cross
}

fn bearer(headers: &dyn Headers) -> Result<Option<&str>, Refusal> {
    let mut result = Ok(None);
    headers.each("authorization", &mut |line| {
        let Ok(line) = std::str::from_utf8(line) else {
            result = Err(Refusal::Credentials);
            return;
        };
        // RFC 9110 §11.4: the scheme is case-insensitive, then one or more spaces.
        let (scheme, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return; // Another scheme is no bearer token: the caller counts as anonymous.
        }
        // Its form is looked at when it is taken apart: one that is remembered was good already.
        result = Ok(Some(rest.trim_matches(' ')));
    });
    result
}

/// The value of `pair` (`name=value`, RFC 6265 §4.2.1) when its name is `name`, quotes dropped.
fn cookie_value<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = pair.trim().split_once('=')?;
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    (key == name).then_some(value)
}

fn query_value<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = pair.split_once('=')?;
    (key == name).then_some(value)
}

/// A `Cookie` line without the cookies whose names `ours` holds, and without those of consents; `None` when
/// nothing is left.
#[must_use]
pub fn without_cookies(line: &str, ours: &[String]) -> Option<String> {
    let kept: Vec<&str> = line
        .split(';')
        .map(str::trim)
        .filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default().trim();
            !pair.is_empty() && !is_of_consent(name) && !ours.iter().any(|our| our == name)
        })
        .collect();
    (!kept.is_empty()).then(|| kept.join("; "))
}

fn is_of_consent(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX).unwrap_or(name).starts_with(CONSENT_COOKIE)
}

/// A query without the parameter `name`; `None` when nothing is left.
#[must_use]
pub fn without_parameter(query: &str, name: &str) -> Option<String> {
    let kept: Vec<&str> = query.split('&').filter(|pair| pair.split('=').next() != Some(name)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// A `Sec-WebSocket-Protocol` line without token entries; `None` when nothing is left.
#[must_use]
pub fn without_token_protocol(line: &str) -> Option<String> {
    let kept: Vec<&str> = line
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty() && !entry.starts_with(WEBSOCKET_PREFIX))
        .collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::request::{Headers, Path};
    use super::*;

    struct Lines(Vec<(&'static str, String)>);
    impl Headers for Lines {
        fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
            for (_, value) in self.0.iter().filter(|(n, _)| *n == name) {
                visit(value.as_bytes());
            }
        }
    }

    fn found(
        lines: &[(&'static str, &str)],
        query: Option<&str>,
        websocket: bool,
    ) -> Result<Option<(String, Carrier)>, Refusal> {
        let lines = Lines(lines.iter().map(|(n, v)| (*n, (*v).to_owned())).collect());
        let request = Request {
            method: "GET",
            host: Host::parse(b"a.test").unwrap(),
            path: Path::parse(b"/").unwrap(),
            query,
            websocket,
            headers: &lines,
        };
        refuse_several(request.headers)?;
        let carriers = Carriers {
            cookie: Some("sid".into()),
            websocket_protocol: true,
            query: Some("access_token".into()),
        };
        Ok(find(&request, &carriers)?.map(|(token, carrier)| (token.into_owned(), carrier)))
    }

    #[test]
    fn one_token_is_found_wherever_the_route_looks() {
        let some = |token: &str, carrier| Ok(Some((token.to_owned(), carrier)));
        assert_eq!(
            found(&[("authorization", "bEaReR  a.b.c ")], None, false),
            some("a.b.c", Carrier::Authorization)
        );
        assert_eq!(found(&[("cookie", "x=1; sid=\"a.b\"")], None, false), some("a.b", Carrier::Cookie));
        assert_eq!(
            found(&[("sec-websocket-protocol", "chat, bearer.a.b")], None, true),
            some("a.b", Carrier::WebsocketProtocol)
        );
        assert_eq!(found(&[], Some("x=1&access_token=a.b"), true), some("a.b", Carrier::Query));
        assert_eq!(found(&[], Some("access_token=a.b"), false), Ok(None));
        assert_eq!(found(&[("authorization", "Basic eDp5")], None, false), Ok(None));
    }

    #[test]
    fn two_credentials_are_nobodys_to_choose_from() {
        for lines in [
            vec![("authorization", "Bearer a"), ("authorization", "Bearer b")],
            vec![("authorization", "Bearer a, Bearer b")],
            vec![("authorization", "Bearer a"), ("cookie", "sid=b")],
            vec![("cookie", "sid=a; sid=b")],
            vec![("authorization", "Basic x"), ("authorization", "Bearer b")],
        ] {
            assert_eq!(found(&lines, None, false), Err(Refusal::Credentials), "{lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_before_it_is_decoded() {
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
        assert_eq!(found(&[("authorization", &long)], None, false), Err(Refusal::Token(TokenFault::TooLong)));
        for line in ["Bearer", "Bearer ", "bearer   "] {
            let refusal = Err(Refusal::Token(TokenFault::Malformed));
            assert_eq!(found(&[("authorization", line)], None, false), refusal, "{line}");
        }
    }

    #[test]
    fn another_site_cannot_ride_on_a_cookie() {
        let cross = |method: &'static str, websocket, origin: Option<&str>| {
            let lines = Lines(origin.map(|text| ("origin", text.to_owned())).into_iter().collect());
            is_cross_site(&Request {
                method,
                host: Host::parse(b"a.test").unwrap(),
                path: Path::parse(b"/").unwrap(),
                query: None,
                websocket,
                headers: &lines,
            })
        };
        for origin in ["https://a.test", "http://A.test", "https://a.test:443"] {
            assert!(!cross("POST", false, Some(origin)), "{origin}");
        }
        for origin in
            ["https://evil.test", "null", "", "https://a.test:8443", "https://a.test.evil", "a.test"]
        {
            assert!(cross("POST", false, Some(origin)), "{origin}");
            assert!(cross("GET", true, Some(origin)), "{origin}");
            assert!(!cross("GET", false, Some(origin)), "{origin}");
        }
        assert!(!cross("POST", false, None));
    }

    #[test]
    fn the_carrier_can_be_taken_out_again() {
        let ours = ["sid".to_owned()];
        assert_eq!(without_cookies("a=1; sid=x;b=2", &ours).as_deref(), Some("a=1; b=2"));
        assert_eq!(without_cookies("sid=x", &ours), None);
        let consents = "a=1; __Host-palisade_connect_0=x;palisade_connect_0=x; __Host-other=2";
        assert_eq!(without_cookies(consents, &[]).as_deref(), Some("a=1; __Host-other=2"));
        assert_eq!(without_parameter("a=1&t=x&b", "t").as_deref(), Some("a=1&b"));
        assert_eq!(without_parameter("t=x", "t"), None);
        assert_eq!(without_token_protocol("chat,bearer.x").as_deref(), Some("chat"));
        assert_eq!(without_token_protocol("bearer.x"), None);
    }
}

//! The same-origin rule: whether a browser sent a request for one of our own pages, or on behalf of another site (CSRF).
//!
//! A browser adds a cookie to requests of every site, so what a cookie authorises counts only for requests from the same
//! origin where they can do harm: unsafe methods, and WebSockets, which no same-origin policy protects (RFC 6455
//! §10.2). The same holds, cookie or not, for requests that set a cookie of ours or may come from a form (login CSRF).
//!
//! What a request says of itself here may refuse it. It admits nothing: a credential has to be good besides.

use super::browser::NamedOrigin;
use super::request::{Headers, Request, Scheme, WebOrigin};

/// Where a request says that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A page of the same origin, or of one that is trusted as such; or what a person typed or opened from a bookmark.
    SameOrigin,
    /// Anything else: another site, another host of the same site, or fields that contradict each other.
    CrossOrigin,
    /// It says nothing. Browsers name the origin on every unsafe request and WebSocket, so this is a program, or a
    /// browser behind something that takes the fields out.
    Unsaid,
}

/// Reads where a request comes from: by fetch metadata (`Sec-Fetch-Site`, W3C Fetch Metadata §2.4), else by `Origin`
/// (RFC 6454 §7), else by `Referer` (RFC 9110 §10.1.3). Script cannot set any of the three.
///
/// Fetch metadata comes first: a page with `Referrer-Policy: no-referrer` posts its own forms with `Origin: null`, and
/// a browser's word does not depend on how a proxy in front names our host. `is_own` says whether an origin is the
/// one that was asked; `trusts` whether the value of an `Origin` field is of an origin that counts as the same, for
/// example [`super::cors::Cors::trusts`].
pub fn sender(
    headers: &dyn Headers,
    is_own: &dyn Fn(&WebOrigin<'_>) -> bool,
    trusts: &dyn Fn(&[u8]) -> bool,
) -> Sender {
    let of = |name: &str, is_same: &dyn Fn(&[u8]) -> bool| {
        let mut sender = Sender::Unsaid;
        headers.each(name, &mut |line| {
            // Of several, some may be another party's: each must say the same.
            sender = match sender != Sender::CrossOrigin && is_same(line) {
                true => Sender::SameOrigin,
                false => Sender::CrossOrigin,
            };
        });
        sender
    };
    let own = |text: &str| WebOrigin::parse(text).is_some_and(|origin| is_own(&origin));
    // Fetch metadata calls a trusted origin cross-site, so it is asked first. No browser sends `Origin` twice.
    let mut lines = 0;
    headers.each("origin", &mut |_| lines += 1);
    if lines == 1 && of("origin", &|line| trusts(line)) == Sender::SameOrigin {
        return Sender::SameOrigin;
    }
    let by_metadata = of("sec-fetch-site", &|line| matches!(line, b"same-origin" | b"none"));
    if by_metadata != Sender::Unsaid {
        return by_metadata;
    }
    let by_origin = of("origin", &|line| std::str::from_utf8(line).is_ok_and(own));
    if by_origin != Sender::Unsaid {
        return by_origin;
    }
    of("referer", &|line| std::str::from_utf8(line).is_ok_and(|url| own(origin_of(url))))
}

/// An `http` or `https` URL up to its path.
fn origin_of(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    &url[..end]
}

/// Whether a request can do harm, so that the same-origin rule holds for it.
#[must_use]
pub fn is_unsafe(method: &str, websocket: bool) -> bool {
    websocket || !matches!(method, "GET" | "HEAD" | "OPTIONS")
}

/// The origins that a request can be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnOrigins {
    /// The scheme of `public_url`.
    pub scheme: Scheme,
    /// The origins that the configuration spells out: [`super::browser::BrowserSettings::hosts`] and that of `public_url`.
    pub named: Vec<NamedOrigin>,
}

impl OwnOrigins {
    /// Whether `origin` is the one that `request` was sent to.
    ///
    /// The scheme is what a proxy that is believed says in `X-Forwarded-Proto`, else that of the origin that the
    /// configuration names for this host, else that of `public_url`. It is never that of the connection: TLS may end in
    /// front of us.
    #[must_use]
    pub fn is_asked(&self, request: &Request<'_>, origin: &WebOrigin<'_>) -> bool {
        let is = |scheme| origin.is_same(&WebOrigin { scheme, host: request.host.clone() });
        if let Some(scheme) = forwarded_scheme(request) {
            return is(scheme);
        }
        let mut named = self.named.iter().filter(|named| named.is_for(&request.host)).peekable();
        match named.peek() {
            None => is(self.scheme),
            Some(_) => named.any(|named| is(named.scheme)),
        }
    }
}

/// The scheme that a believed proxy names in the one `X-Forwarded-Proto`. Of several, some are a client's.
fn forwarded_scheme(request: &Request<'_>) -> Option<Scheme> {
    if !request.is_peer_trusted {
        return None;
    }
    let mut lines = 0;
    let mut scheme = None;
    request.headers.each("x-forwarded-proto", &mut |line| {
        lines += 1;
        let said = std::str::from_utf8(line.trim_ascii()).ok();
        // Of a WebSocket some proxies say its own scheme; it begins as a request of the HTTP one (RFC 6455 §3).
        scheme = said.and_then(|text| match text.to_ascii_lowercase().as_str() {
            "ws" => Some(Scheme::Http),
            "wss" => Some(Scheme::Https),
            _ => Scheme::parse(text),
        });
    });
    scheme.filter(|_| lines == 1)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fields, request};
    use super::*;

    fn at(host: &str, lines: &[(&str, &str)], is_peer_trusted: bool) -> Sender {
        let named = ["http://plain.test", "https://both.test", "http://both.test", "http://odd.test:81"];
        let named = named.into_iter().map(|text| NamedOrigin::parse(text).unwrap()).collect();
        let own = OwnOrigins { scheme: Scheme::Https, named };
        let headers = Fields(lines);
        let request = Request { is_peer_trusted, headers: &headers, ..request(host, "POST", "/") };
        sender(&headers, &|origin| own.is_asked(&request, origin), &|origin| origin == b"https://friend.test")
    }

    #[test]
    fn only_our_own_origin_is_the_same() {
        let own = ["https://a.test", "HTTPS://A.test", "https://a.test:443", "https://a.test."];
        let others = [
            "https://evil.test",
            "http://a.test",
            "http://a.test:443",
            "ftp://a.test",
            "null",
            "",
            "https://a.test:8443",
            "https://a.test.evil",
            "https://b.a.test",
            "https://evil.test@a.test",
            "https://a.test@evil.test",
            "https:\\\\a.test",
            "a.test",
        ];
        for (origins, said) in [(&own[..], Sender::SameOrigin), (&others, Sender::CrossOrigin)] {
            for origin in origins {
                assert_eq!(at("a.test", &[("origin", origin)], false), said, "{origin}");
                for path in ["", "/", "/x?y=https://a.test/", "?x", "#x"] {
                    let url = format!("{origin}{path}");
                    assert_eq!(at("a.test", &[("referer", &url)], false), said, "{url}");
                }
            }
        }
        assert_eq!(at("a.test", &[("origin", "https://a.test/")], false), Sender::CrossOrigin);
        assert_eq!(at("a.test", &[], false), Sender::Unsaid);
    }

    #[test]
    fn fetch_metadata_comes_before_the_origin_and_that_before_the_referrer() {
        let evil = [("origin", "https://evil.test"), ("referer", "https://evil.test/")];
        let own = [("origin", "https://a.test"), ("referer", "https://a.test/x")];
        for (site, said) in [
            ("same-origin", Sender::SameOrigin),
            ("none", Sender::SameOrigin),
            ("same-site", Sender::CrossOrigin),
            ("cross-site", Sender::CrossOrigin),
            ("Same-Origin", Sender::CrossOrigin),
            ("same-origin, cross-site", Sender::CrossOrigin),
            ("", Sender::CrossOrigin),
        ] {
            for more in [&evil[..], &own, &[("origin", "null")], &[]] {
                let lines = [&[("sec-fetch-site", site)], more].concat();
                assert_eq!(at("a.test", &lines, false), said, "{lines:?}");
            }
        }
        let lines = [("origin", "https://a.test"), ("referer", "https://evil.test/")];
        assert_eq!(at("a.test", &lines, false), Sender::SameOrigin);
        let lines = [("origin", "https://evil.test"), ("referer", "https://a.test/")];
        assert_eq!(at("a.test", &lines, false), Sender::CrossOrigin);
    }

    #[test]
    fn fields_that_contradict_each_other_are_of_another_site() {
        for (name, one, other) in [
            ("sec-fetch-site", "same-origin", "cross-site"),
            ("origin", "https://a.test", "https://evil.test"),
            ("origin", "https://friend.test", "https://evil.test"),
            ("referer", "https://a.test/", "https://evil.test/"),
        ] {
            assert_eq!(at("a.test", &[(name, one), (name, other)], false), Sender::CrossOrigin, "{name}");
            assert_eq!(at("a.test", &[(name, other), (name, one)], false), Sender::CrossOrigin, "{name}");
        }
    }

    #[test]
    fn a_trusted_origin_is_the_same_although_it_is_another_site() {
        let friend = ("origin", "https://friend.test");
        for site in ["cross-site", "same-site"] {
            assert_eq!(at("a.test", &[friend, ("sec-fetch-site", site)], false), Sender::SameOrigin);
        }
        // `cors` names origins for requests of their scripts, which always carry `Origin`.
        let lines = [("referer", "https://friend.test/"), ("sec-fetch-site", "cross-site")];
        assert_eq!(at("a.test", &lines, false), Sender::CrossOrigin);
    }

    #[test]
    fn the_scheme_is_that_of_the_origin_which_is_named_for_the_host() {
        use Sender::{CrossOrigin, SameOrigin};
        for (host, origin, said) in [
            ("plain.test", "http://plain.test", SameOrigin),
            ("plain.test", "https://plain.test", CrossOrigin),
            ("both.test", "http://both.test", SameOrigin),
            ("both.test", "https://both.test", SameOrigin),
            ("odd.test:81", "http://odd.test:81", SameOrigin),
            ("odd.test:81", "https://odd.test:81", CrossOrigin),
            // Named at another port: that says nothing about this one.
            ("odd.test", "http://odd.test", CrossOrigin),
            ("odd.test", "https://odd.test", SameOrigin),
            ("plain.test", "http://odd.test:81", CrossOrigin),
        ] {
            assert_eq!(at(host, &[("origin", origin)], false), said, "{host} {origin}");
        }
    }

    #[test]
    fn a_proxy_in_front_says_the_scheme_if_it_is_believed_and_says_one_thing() {
        use Sender::{CrossOrigin, SameOrigin};
        for (proto, is_peer_trusted, said) in [
            (&["http"][..], true, SameOrigin),
            (&["http"], false, CrossOrigin),
            (&["HTTP "], true, SameOrigin),
            (&["https"], true, CrossOrigin),
            (&["http, https"], true, CrossOrigin),
            (&["http", "http"], true, CrossOrigin),
            (&["wss"], true, CrossOrigin),
            (&["ws"], true, SameOrigin),
            (&["WS"], false, CrossOrigin),
        ] {
            let mut lines = vec![("origin", "http://a.test")];
            lines.extend(proto.iter().map(|proto| ("x-forwarded-proto", *proto)));
            assert_eq!(at("a.test", &lines, is_peer_trusted), said, "{proto:?}");
        }
    }

    #[test]
    fn safe_is_what_only_reads() {
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert!(!is_unsafe(method, false) && is_unsafe(method, true), "{method}");
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "get", "PROPFIND"] {
            assert!(is_unsafe(method, false), "{method}");
        }
    }
}

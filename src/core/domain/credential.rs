//! Finding the one token of a request, wherever the route lets it travel.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::browser::{SECURE_PREFIX, SESSION_COOKIE};
use super::carry::NONCE_COOKIE;
use super::request::{Headers, Request};
use super::route::Carriers;
use super::verdict::{Refusal, TokenFault};

/// The longest token that is looked at unless the operator says otherwise (`tokens.max_bytes`), in bytes: tokens of issuers
/// that put hundreds of groups into them have up to 20 kB.
pub const MAX_TOKEN_BYTES: usize = 24 * 1024;

/// The most that `tokens.max_bytes` can be.
pub const MOST_TOKEN_BYTES: usize = 64 * 1024;

/// The longest token that the gateway signs, in bytes: what many servers in front of it and behind it take in one line.
pub const OWN_TOKEN_BYTES: usize = 8 * 1024;

/// The `Sec-WebSocket-Protocol` entry that carries a token is this, then the token.
pub const WEBSOCKET_PREFIX: &str = "bearer.";

/// What the names of the cookies begin with that bind a consent to the browser that began it, behind [`HOST_PREFIX`]
/// over TLS. The browser sends them back; they are never forwarded.
pub const CONSENT_COOKIE: &str = "palisade_connect";

/// The cookie by which a browser shows which registrations it sent, behind [`HOST_PREFIX`] over TLS. The browser
/// sends it back; it is never forwarded.
pub const REGISTRATION_COOKIE: &str = "palisade-registration";

/// The cookie by which a browser is known that used a mailed link, behind [`HOST_PREFIX`] over TLS. The browser sends it
/// back; it is never forwarded.
pub const LINKS_COOKIE: &str = "palisade-links";

/// What the names of the cookies begin with that say whose session an app's cookie was set under
/// ([`super::app_cookie`]). The browser sends them back; they are never forwarded.
pub const APP_MARK_COOKIE: &str = "palisade-app-";

/// What the names of all our cookies have in them.
pub const OURS: &str = "palisade";

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
    /// The cookie of a session of ours, which is no token.
    Session,
    /// `Sec-WebSocket-Protocol`.
    WebsocketProtocol,
    /// The route's query parameter.
    Query,
    /// The route's own header field.
    Header,
}

/// A token, borrowed from its field where most requests carry it, and what carried it.
pub type CarriedToken<'a> = (Cow<'a, str>, Carrier);

/// The token of a request and what carried it; `None` when there is none.
///
/// # Errors
/// [`Refusal::Credentials`] for an `Authorization` that joins a Bearer token to something else, or tokens in
/// more than one carrier: no rule says which of them counts (RFC 6750 §2). The form of the token is not
/// looked at; [`check_form`] does that. An `Authorization` that is the app's is not read.
pub fn find<'a>(request: &Request<'a>, carriers: &Carriers) -> Result<Option<CarriedToken<'a>>, Refusal> {
    let mut found: Option<CarriedToken<'a>> = None;
    let mut ambiguous = false;
    let mut keep = |token: Cow<'a, str>, carrier| {
        ambiguous |= found.is_some();
        found = Some((token, carrier));
    };

    if !carriers.is_authorization_apps()
        && let Some(token) = bearer(request.headers)?
    {
        keep(token.into(), Carrier::Authorization);
    }
    if let Some(name) = &carriers.header {
        let mut is_readable = true;
        request.headers.each(name, &mut |line| match own_field(line) {
            Some(token) => keep(token.into(), Carrier::Header),
            None => is_readable = false,
        });
        if !is_readable {
            return Err(Refusal::Credentials);
        }
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
    if ambiguous { Err(Refusal::Credentials) } else { Ok(found) }
}

/// Calls `visit` with the value of each cookie of this name, in their order. A value that is not ASCII is none of ours.
pub fn each_cookie<'a>(headers: &'a dyn Headers, name: &str, visit: &mut dyn FnMut(&'a str)) {
    headers.each("cookie", &mut |line| {
        for pair in line.split(|byte| *byte == b';') {
            let rest =
                pair.trim_ascii().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            if let Some(value) = rest.and_then(|value| std::str::from_utf8(value).ok()) {
                visit(value);
            }
        }
    });
}

/// Refuses what cannot be a token at all, whatever the configuration, before it is decoded. The verifier holds it to
/// `tokens.max_bytes`.
///
/// # Errors
/// [`TokenFault::TooLong`] and [`TokenFault::Malformed`].
#[inline]
pub fn check_form(token: &str) -> Result<(), Refusal> {
    match token.len() {
        0 => Err(Refusal::Token(TokenFault::Malformed)),
        1..=MOST_TOKEN_BYTES => Ok(()),
        _ => Err(Refusal::Token(TokenFault::TooLong)),
    }
}

/// The token in `Authorization`, where nothing else may carry one.
///
/// # Errors
/// As [`find`], what [`refuse_several`] refuses, and what [`check_form`] does.
pub fn only_bearer(headers: &dyn Headers) -> Result<Option<&str>, Refusal> {
    refuse_several(headers)?;
    let found = bearer(headers)?;
    found.map_or(Ok(()), check_form)?;
    Ok(found)
}

/// Refuses what only a route sees whose `Authorization` is the app's: two lines of it.
///
/// # Errors
/// [`Refusal::Credentials`].
pub fn refuse_several(headers: &dyn Headers) -> Result<(), Refusal> {
    let mut lines = 0;
    headers.each("authorization", &mut |_| lines += 1);
    if lines > 1 { Err(Refusal::Credentials) } else { Ok(()) }
}

/// The token of an `Authorization: Bearer` line; `None` for another scheme. The app reads the parameters of other
/// schemes (AWS4-HMAC-SHA256, Digest, OAuth and Signature separate theirs by commas).
fn bearer(headers: &dyn Headers) -> Result<Option<&str>, Refusal> {
    let mut result = Ok(None);
    headers.each("authorization", &mut |line| {
        let line = line.trim_ascii();
        let end = line.iter().position(|byte| !is_scheme(*byte)).unwrap_or(line.len());
        let (scheme, rest) = line.split_at(end);
        if !scheme.eq_ignore_ascii_case(b"bearer") {
            if joins_bearer(rest, scheme.is_empty()) {
                result = Err(Refusal::Credentials);
            }
            return; // The caller counts as anonymous.
        }
        // RFC 9110 §11.4: the scheme is case-insensitive, then one or more spaces; a token holds no comma
        // (RFC 6750 §2.1). Its form is looked at when it is taken apart: one that is remembered was good.
        result = match std::str::from_utf8(rest) {
            Ok(rest) if (rest.is_empty() || rest.starts_with(' ')) && !rest.contains(',') => {
                Ok(Some(rest.trim_matches(' ')))
            }
            _ => Err(Refusal::Credentials),
        };
    });
    result
}

/// The token in a line of the route's own header field: the whole value, or what follows `Bearer` and spaces. `None`
/// for what is no text, and for a comma: a token holds none, so a proxy has joined two lines.
fn own_field(line: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(line.trim_ascii()).ok().filter(|text| !text.contains(','))?;
    let is_bearer = |(scheme, _): &(&str, &str)| scheme.eq_ignore_ascii_case("bearer");
    Some(text.split_once(' ').filter(is_bearer).map_or(text, |(_, token)| token.trim_matches(' ')))
}

/// Whether a request has an `Authorization` field that says something. White space alone says nothing; what is not
/// printable ASCII counts as white space, because some servers strip more than spaces and tabs. Of several lines each must say
/// something: an app may read any one of them.
#[must_use]
pub fn has_authorization(headers: &dyn Headers) -> bool {
    let (mut lines, mut said) = (0, 0);
    headers.each("authorization", &mut |line| {
        lines += 1;
        said += usize::from(line.iter().any(u8::is_ascii_graphic));
    });
    lines > 0 && said == lines
}

/// RFC 9110 §5.6.2, as far as names of schemes use it.
const fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'+' | b'~')
}

/// Whether a comma is followed by a Bearer credential, which a server that splits at commas would read. What is not a
/// letter of the field's own alphabet counts as white space: some servers strip more than spaces and tabs.
fn joins_bearer(parameters: &[u8], is_whole: bool) -> bool {
    parameters.split(|byte| *byte == b',').skip(usize::from(!is_whole)).any(|part| {
        let begin = part.iter().position(u8::is_ascii_graphic).unwrap_or(part.len());
        part[begin..].get(..6).is_some_and(|word| word.eq_ignore_ascii_case(b"bearer"))
    })
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

/// A `Cookie` line without the cookies that `ours` names, and without our own; `None` when nothing is left.
#[must_use]
pub fn without_cookies(line: &str, ours: &[String]) -> Option<String> {
    let kept: Vec<&str> = line
        .split(';')
        .map(str::trim)
        .filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default().trim();
            !pair.is_empty() && !is_ours(name) && !ours.iter().any(|our| our == name)
        })
        .collect();
    (!kept.is_empty()).then(|| kept.join("; "))
}

/// What browsers take as a prefix of a name (RFC 6265bis §4.1.3, draft-ietf-httpbis-rfc6265bis-layered-cookies), in
/// every case; a longer one first.
const PREFIXES: [&str; 4] = ["__Host-Http-", HOST_PREFIX, SECURE_PREFIX, "__Http-"];

/// Whether a cookie of this name is ours, behind whatever prefix and in whatever case: some servers do not tell names
/// apart by case.
fn is_ours(name: &str) -> bool {
    let begins = |name: &str, start: &str| {
        name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
    };
    let prefix = PREFIXES.iter().find(|prefix| begins(name, prefix));
    let name = prefix.map_or(name, |prefix| &name[prefix.len()..]);
    begins(name, CONSENT_COOKIE)
        || begins(name, APP_MARK_COOKIE)
        || [SESSION_COOKIE, NONCE_COOKIE, REGISTRATION_COOKIE, LINKS_COOKIE]
            .iter()
            .any(|ours| name.eq_ignore_ascii_case(ours))
}

/// The name that the cookie of a `Set-Cookie` line has in the requests that follow (RFC 6265bis §5.6). A line without a
/// name makes a cookie that is sent as its value alone, so its name is what stands in the value before a `=`.
#[must_use]
pub fn name_that_is_set(line: &[u8]) -> &[u8] {
    let pair = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let mut parts = pair.split(|byte| *byte == b'=').map(<[u8]>::trim_ascii);
    parts.find(|part| !part.is_empty()).unwrap_or_default()
}

/// Whether a `Set-Cookie` line sets a cookie of ours. Only we set those.
#[must_use]
pub fn sets_ours(line: &[u8]) -> bool {
    // A name that is not text is none of ours.
    std::str::from_utf8(name_that_is_set(line)).is_ok_and(is_ours)
}

/// A query without the parameter `name`, in every spelling that servers fold into it; `None` when nothing is left.
///
/// Names may be percent-encoded, `;` may separate them (HTML 4.01 §B.2.2), case may not count, PHP takes `.`,
/// `+` and a space for `_`, and what follows `[` is an index to many.
#[must_use]
pub fn without_parameter<'q>(query: &'q [u8], name: &str) -> Option<Cow<'q, [u8]>> {
    let is_separator = |byte: &u8| matches!(byte, b'&' | b';');
    if !query.split(is_separator).any(|pair| is_named(pair, name)) {
        return Some(Cow::Borrowed(query));
    }
    let kept = query.split_inclusive(is_separator).filter(|pair| !is_named(pair, name));
    let mut kept: Vec<u8> = kept.flatten().copied().collect();
    if !query.last().is_some_and(is_separator) && kept.last().is_some_and(is_separator) {
        kept.pop();
    }
    (!kept.is_empty()).then_some(Cow::Owned(kept))
}

fn is_named(pair: &[u8], name: &str) -> bool {
    let fold = |byte: u8| if matches!(byte, b'.' | b'+' | b' ') { b'_' } else { byte.to_ascii_lowercase() };
    let key = pair.split(|byte| matches!(byte, b'=' | b'&' | b';')).next().unwrap_or_default();
    let mut key = percent_decode(key).skip_while(|byte| matches!(byte, b'+' | b' ')).map(fold).fuse();
    name.bytes().map(fold).all(|byte| key.next() == Some(byte)) && matches!(key.next(), None | Some(b'[' | 0))
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
    use super::super::fixtures::{Fields, request};
    use super::super::route::AuthorizationField;
    use super::*;

    fn found(
        lines: &[(&'static str, &str)],
        query: Option<&str>,
        websocket: bool,
    ) -> Result<Option<(String, Carrier)>, Refusal> {
        let carriers = Carriers {
            cookie: Some("sid".into()),
            websocket_protocol: true,
            query: Some("access_token".into()),
            ..Carriers::default()
        };
        refuse_several(&Fields(lines))?;
        found_by(&carriers, lines, query, websocket)
    }

    fn found_by(
        carriers: &Carriers,
        lines: &[(&'static str, &str)],
        query: Option<&str>,
        websocket: bool,
    ) -> Result<Option<(String, Carrier)>, Refusal> {
        let request = Request { query, websocket, headers: &Fields(lines), ..request("a.test", "GET", "/") };
        let Some((token, carrier)) = find(&request, carriers)? else { return Ok(None) };
        check_form(&token)?;
        Ok(Some((token.into_owned(), carrier)))
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
    fn a_field_of_the_routes_own_carries_one_token() {
        let carriers = Carriers { header: Some("x-gate".into()), ..Carriers::default() };
        let check = |lines: &[(&'static str, &str)]| found_by(&carriers, lines, None, false);
        for line in ["a.b.c", " a.b.c\t", "Bearer a.b.c", "bEARER   a.b.c "] {
            let token = Ok(Some(("a.b.c".to_owned(), Carrier::Header)));
            assert_eq!(check(&[("x-gate", line)]), token, "{line}");
        }
        // Its form is held against what a token is.
        assert_eq!(check(&[("x-gate", "Basic eDp5")]), Ok(Some(("Basic eDp5".to_owned(), Carrier::Header))));
        assert_eq!(check(&[("x-gate", "Bearer ")]), Ok(Some(("Bearer".to_owned(), Carrier::Header))));
        for line in ["", " "] {
            let refused = Err(Refusal::Token(TokenFault::Malformed));
            assert_eq!(check(&[("x-gate", line)]), refused, "{line}");
        }
        for lines in [
            vec![("x-gate", "a"), ("x-gate", "b")],
            vec![("x-gate", "a, b")],
            vec![("x-gate", "a,")],
            vec![("x-gate", "a"), ("authorization", "Bearer b")],
        ] {
            assert_eq!(check(&lines), Err(Refusal::Credentials), "{lines:?}");
        }
        assert_eq!(found(&[("x-gate", "a")], None, false), Ok(None), "no other route reads it");
    }

    #[test]
    fn an_authorization_field_of_the_apps_is_not_read() {
        let authorization = AuthorizationField::Apps { without_session: false };
        let carriers = Carriers {
            cookie: Some("sid".into()),
            header: Some("x-gate".into()),
            authorization,
            ..Carriers::default()
        };
        for line in ["Bearer a", "Bearer a, Bearer b", ",Bearer", "Basic x", ""] {
            let app = ("authorization", line);
            assert_eq!(found_by(&carriers, &[app, app], None, false), Ok(None), "{line}");
            for (name, value, carrier) in
                [("cookie", "sid=ours", Carrier::Cookie), ("x-gate", "ours", Carrier::Header)]
            {
                let want = Ok(Some(("ours".to_owned(), carrier)));
                assert_eq!(found_by(&carriers, &[app, (name, value)], None, false), want, "{line}");
            }
        }
    }

    #[test]
    fn an_authorization_field_that_says_nothing_is_none() {
        let check = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("authorization", *line)).collect();
            has_authorization(&Fields(&lines))
        };
        for said in [&["Bearer glsa_x"][..], &["x"], &["Basic a", "Basic b"], &[" ,"]] {
            assert!(check(said), "{said:?}");
        }
        for nothing in [
            &[][..],
            &[""],
            &[" "],
            &["\t \t"],
            &["\u{a0}"],
            &["\u{2003}"],
            &["", "Basic a"],
            &["Basic a", " "],
        ] {
            assert!(!check(nothing), "{nothing:?}");
        }
    }

    #[test]
    fn two_credentials_are_nobodys_to_choose_from() {
        for lines in [
            vec![("authorization", "Bearer a"), ("authorization", "Bearer b")],
            vec![("authorization", "Bearer a, Bearer b")],
            vec![("authorization", "Bearer a,Basic b")],
            vec![("authorization", "bearer,x")],
            vec![("authorization", "Bearer\ta")],
            vec![("authorization", "Bearer=a")],
            vec![("authorization", "Basic eDp5, Bearer b")],
            vec![("authorization", "AWS4-HMAC-SHA256 Credential=a,\t BEARER b")],
            vec![("authorization", "Digest a=\"b\",,bearer b")],
            vec![("authorization", "Hawk id=\"a\",\u{a0}Bearer b")],
            vec![("authorization", ",Bearer b")],
            vec![("authorization", "\u{a0}Bearer b")],
            vec![("authorization", "Bearer a"), ("cookie", "sid=b")],
            vec![("cookie", "sid=a; sid=b")],
            vec![("authorization", "Basic x"), ("authorization", "Bearer b")],
        ] {
            assert_eq!(found(&lines, None, false), Err(Refusal::Credentials), "{lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_before_it_is_decoded() {
        let long = format!("Bearer {}", "a".repeat(MOST_TOKEN_BYTES + 1));
        assert_eq!(found(&[("authorization", &long)], None, false), Err(Refusal::Token(TokenFault::TooLong)));
        for line in ["Bearer", "Bearer ", "bearer   "] {
            let refusal = Err(Refusal::Token(TokenFault::Malformed));
            assert_eq!(found(&[("authorization", line)], None, false), refusal, "{line}");
        }
    }

    #[test]
    fn schemes_with_commas_of_their_own_are_the_apps_matter() {
        for line in [
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=0f",
            "OAuth realm=\"Photos\",oauth_consumer_key=\"a\",oauth_token=\"b\"",
            "Hawk id=\"dh37\", ts=\"1353832234\", nonce=\"j4h3g2\", mac=\"6R4r\"",
            "Signature keyId=\"rsa-1\",algorithm=\"hs2019\",headers=\"(request-target) date\"",
            "Digest username=\"Mufasa\", realm=\"a\", uri=\"/bearer,x\"",
            "Basic eDp5",
            "Negotiate YII=",
            "Bearerish a,b",
            "",
        ] {
            assert_eq!(found(&[("authorization", line)], None, false), Ok(None), "{line}");
        }
    }

    #[test]
    fn no_line_of_an_app_sets_a_cookie_of_ours() {
        for ours in [
            "__Host-palisade=x; Path=/; Secure",
            "__Secure-palisade=x; Domain=a.test; Secure",
            "palisade=x",
            "palisade=",
            "palisade",
            " \tpalisade\t=x",
            "=palisade=x",
            " = __Host-palisade=x",
            "PALISADE=x",
            "__host-palisade=x",
            "palisade-carry=x",
            "__Host-palisade-app-sid=x",
            "palisade_connect_1=x",
            "__Host-palisade-registration=x",
        ] {
            assert!(sets_ours(ours.as_bytes()), "{ours}");
        }
        for other in [
            "sid=palisade",
            "sid=x; palisade=y",
            "palisades=x",
            "=x",
            "=",
            "",
            "x-palisade=x",
            "\u{a0}palisade=x",
        ] {
            assert!(!sets_ours(other.as_bytes()), "{other}");
        }
        assert!(!sets_ours(b"palisade\xff=x"));
    }

    #[test]
    fn the_carrier_can_be_taken_out_again() {
        let ours = ["sid".to_owned()];
        assert_eq!(without_cookies("a=1; sid=x;b=2", &ours).as_deref(), Some("a=1; b=2"));
        assert_eq!(without_cookies("sid=x", &ours), None);
        let names = [
            CONSENT_COOKIE,
            REGISTRATION_COOKIE,
            LINKS_COOKIE,
            SESSION_COOKIE,
            NONCE_COOKIE,
            "palisade-app-sid",
        ];
        for name in names {
            assert!(name.contains(OURS), "a line with {name} is looked at");
            for prefix in ["", HOST_PREFIX, SECURE_PREFIX, "__Http-", "__Host-Http-", "__HOST-"] {
                assert_eq!(without_cookies(&format!("{prefix}{name}=x"), &[]), None, "{prefix}{name}");
            }
        }
        let others = "palisades=1; palisade-carried=2; x-palisade=3; a=palisade";
        assert_eq!(without_cookies(others, &[]).as_deref(), Some(others));
        let consents = "a=1; __Host-palisade_connect_0=x;palisade_connect_0=x; __Host-other=2";
        assert_eq!(without_cookies(consents, &[]).as_deref(), Some("a=1; __Host-other=2"));
        for (query, left) in [
            ("a=1&t_k=x&b", Some("a=1&b")),
            ("a=1&t_k=x", Some("a=1")),
            ("a=1&t_k=x&", Some("a=1&")),
            ("a=1;t_k=x;b=2", Some("a=1;b=2")),
            ("T_K=x&t%5fk=x&%20t.k=x&+t+k=x&t_k[]=x&t_k%5B0%5D=x&a=%FF", Some("a=%FF")),
            ("t_k=x", None),
            ("t_k", None),
            ("at_k=1&t_k2=2&t=3&a=t_k", Some("at_k=1&t_k2=2&t=3&a=t_k")),
            ("&&", Some("&&")),
            ("", Some("")),
        ] {
            let found = without_parameter(query.as_bytes(), "t_k");
            assert_eq!(found.as_deref(), left.map(str::as_bytes), "{query}");
        }
        assert_eq!(without_token_protocol("chat,bearer.x").as_deref(), Some("chat"));
        assert_eq!(without_token_protocol("bearer.x"), None);
    }
}

//! What the upstream is told: the request as it was matched, without anything a client could have
//! forged, with the identity we vouch for.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;

use crate::config::Forward;
use crate::domain::credential::{self, Carrier};
use crate::domain::identity::Identity;
use crate::domain::request::Malformed;
use crate::domain::reserved::Reserved;
use crate::domain::route::Carriers;

/// What a client may not send, because a route sets it or an app would believe it.
#[derive(Debug, Clone, Default)]
pub struct StripRules {
    names: Reserved,
    cookies: Vec<String>,
}

impl StripRules {
    /// Everything that any route sets or reads: what one route's upstream trusts, no other route lets
    /// through.
    #[must_use]
    pub fn of<'a>(routes: impl Iterator<Item = (&'a Forward, &'a Carriers)> + Clone) -> StripRules {
        let cookies = routes.clone().filter_map(|(_, carriers)| carriers.cookie.clone()).collect();
        StripRules { names: Reserved::new(routes.flat_map(|(forward, _)| forward.names())), cookies }
    }
}

/// Takes out every field that only we may set or that an app would believe, but those that the route lets through.
pub fn strip(request: &mut RequestHeader, rules: &StripRules, pass: &[HeaderName]) {
    // Collects nothing, and so allocates nothing, for a request that has none of them.
    let is_taken = |name: &&HeaderName| rules.names.takes(name.as_str()) && !pass.contains(name);
    let taken: Vec<HeaderName> = request.headers.keys().filter(is_taken).cloned().collect();
    for name in taken {
        request.remove_header(&name);
    }
    if holds_ours(request, rules) {
        rewrite_lines(request, header::COOKIE, |line| credential::without_cookies(line, &rules.cookies));
    }
}

/// Whether one of the cookies may be ours: most requests that have any have none of these.
fn holds_ours(request: &RequestHeader, rules: &StripRules) -> bool {
    let mut lines = request.headers.get_all(header::COOKIE).iter();
    let named =
        |line: &HeaderValue| memchr::memmem::find(line.as_bytes(), credential::OURS.as_bytes()).is_some();
    lines.any(|line| !rules.cookies.is_empty() || named(line))
}

/// Replaces each line of a field; a line that becomes `None` is dropped.
fn rewrite_lines(request: &mut RequestHeader, name: HeaderName, line: impl Fn(&str) -> Option<String>) {
    let kept: Vec<HeaderValue> = request
        .headers
        .get_all(&name)
        .iter()
        .filter_map(|value| line(&String::from_utf8_lossy(value.as_bytes())))
        .filter_map(|text| HeaderValue::from_bytes(text.as_bytes()).ok())
        .collect();
    request.remove_header(&name);
    for value in kept {
        let _ = request.append_header(name.clone(), value);
    }
}

/// Takes the token out of what carried it.
pub fn remove_carrier(request: &mut RequestHeader, carrier: Carrier) {
    match carrier {
        Carrier::Authorization => {
            request.remove_header(&header::AUTHORIZATION);
        }
        // Cookies that carry tokens were taken out for every route by `strip`; the others are taken out
        // whether or not theirs is the token that counted.
        Carrier::Cookie | Carrier::Query | Carrier::WebsocketProtocol => {}
    }
}

/// Takes the entries that may carry tokens out of `Sec-WebSocket-Protocol`.
pub fn remove_protocols(request: &mut RequestHeader) {
    if request.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        rewrite_lines(request, header::SEC_WEBSOCKET_PROTOCOL, credential::without_token_protocol);
    }
}

/// Writes the path as it was matched, and the query without the parameter that may carry a token.
///
/// # Errors
/// [`Malformed::Target`] when the engine cannot take the target; it was read from a valid one.
pub fn set_target(request: &mut RequestHeader, path: &str, without: Option<&str>) -> Result<(), Malformed> {
    let raw = request.raw_path();
    let query = memchr::memchr(b'?', raw).map(|at| &raw[at + 1..]);
    let query = match (query, without) {
        (Some(query), Some(name)) => credential::without_parameter(query, name).map(Cow::into_owned),
        (query, _) => query.map(<[u8]>::to_vec),
    };
    let mut target = path.as_bytes().to_vec();
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(&query);
    }
    if target != raw {
        request.set_raw_path(&target).map_err(|_| Malformed::Target)?;
    }
    Ok(())
}

/// What a route tells its upstream, ready to be written: the names are parsed once, not per request.
#[derive(Debug, Clone)]
pub struct Forwarding {
    subject: Option<HeaderName>,
    issuer: Option<HeaderName>,
    email: Option<HeaderName>,
    session: Option<HeaderName>,
    scopes: Option<HeaderName>,
    /// The field of the signed assertion.
    pub assertion: Option<HeaderName>,
    /// Fields that the app takes from its callers although others would be taken in by them.
    pub pass: Vec<HeaderName>,
    /// Whether the caller's Host is sent on.
    pub preserve_host: bool,
    /// The provider whose token goes out as `Authorization`.
    pub inject: Option<String>,
}

impl Forwarding {
    /// What `forward` says.
    ///
    /// # Errors
    /// A name that no header can have; configuration refuses those before.
    pub fn new(forward: &Forward) -> Result<Forwarding, String> {
        let name = |name: &Option<String>| {
            name.as_deref().map(str::parse).transpose().map_err(|error| format!("{name:?}: {error}"))
        };
        Ok(Forwarding {
            subject: name(&forward.subject)?,
            issuer: name(&forward.issuer)?,
            email: name(&forward.email)?,
            session: name(&forward.session)?,
            scopes: name(&forward.scopes)?,
            assertion: name(&forward.assertion)?,
            pass: forward
                .pass
                .iter()
                .map(|name| name.parse().map_err(|error| format!("{name:?}: {error}")))
                .collect::<Result<_, String>>()?,
            preserve_host: forward.preserve_host,
            inject: forward.inject.clone(),
        })
    }
}

/// Sets the identity headers of `identity`. Text beyond ASCII goes out as UTF-8 bytes.
pub fn set_identity(request: &mut RequestHeader, forwarding: &Forwarding, identity: &Identity) {
    let scopes = match &forwarding.scopes {
        Some(_) => identity.scopes.join(" "),
        None => String::new(),
    };
    let fields = [
        (&forwarding.subject, Some(identity.subject.as_str())),
        (&forwarding.issuer, Some(&*identity.issuer)),
        // An address that nobody has verified could be anybody's: an app that goes by it would take the caller for
        // its owner.
        (&forwarding.email, identity.verified_email()),
        (&forwarding.session, identity.session.as_deref()),
        (&forwarding.scopes, (!scopes.is_empty()).then_some(scopes.as_str())),
    ];
    for (name, value) in fields {
        if let (Some(name), Some(value)) = (name, value)
            // An identity holds no control characters, so this cannot fail.
            && let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
        {
            let _ = request.insert_header(name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn forward() -> Forward {
        Forward {
            subject: Some("Remote-User".into()),
            issuer: None,
            email: Some("X-Auth-Email".into()),
            session: None,
            scopes: None,
            assertion: None,
            pass: Vec::new(),
            preserve_host: true,
            inject: None,
        }
    }

    fn left(request: &RequestHeader) -> Vec<String> {
        request.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    #[test]
    fn no_spelling_of_our_names_passes() {
        let carriers = Carriers { cookie: Some("sid".into()), ..Carriers::default() };
        let rules = StripRules::of(std::iter::once((&forward(), &carriers)));
        let mut request = request(&[
            ("x-auth-subject", "evil"),
            ("X_Auth_Subject", "evil"),
            ("x-auth_anything", "evil"),
            ("remote_user", "evil"),
            ("Remote-User", "evil"),
            ("x_forwarded_for", "evil"),
            ("X-Forwarded_Host", "evil"),
            ("x_real_ip", "evil"),
            ("x-authority", "kept"),
            ("cookie", "sid=secret; a=b"),
        ]);
        strip(&mut request, &rules, &[]);
        assert_eq!(left(&request), ["x-authority: kept", "cookie: a=b"]);
    }

    #[test]
    fn a_route_lets_one_spelling_of_a_name_through() {
        let pass = [HeaderName::from_static("x-http-method-override")];
        let mut request = request(&[
            ("X-HTTP-Method-Override", "PUT"),
            ("x-http-method_override", "evil"),
            ("x-http-method", "evil"),
        ]);
        strip(&mut request, &StripRules::default(), &pass);
        assert_eq!(left(&request), ["x-http-method-override: PUT"]);
    }

    #[test]
    fn the_cookie_of_a_consent_stays_here() {
        let cookies = |line: &str| {
            let mut request = request(&[("cookie", line)]);
            strip(&mut request, &StripRules::default(), &[]);
            request.headers.get("cookie").map(|line| line.to_str().unwrap().to_owned())
        };
        assert_eq!(cookies("a=b; palisade_connect_3f=secret; c=d").as_deref(), Some("a=b; c=d"));
        assert_eq!(cookies("palisade_connect_3f=secret"), None);
        assert_eq!(cookies("a=b;__Host-palisade_connect_3f=secret").as_deref(), Some("a=b"));
        assert_eq!(cookies("__Host-palisade_connect_3f=secret"), None);
        assert_eq!(cookies(" palisade_connect = secret;a=b").as_deref(), Some("a=b"));
        assert_eq!(cookies("a=palisade_connect_").as_deref(), Some("a=palisade_connect_"));
    }

    #[test]
    fn the_upstream_gets_the_path_that_was_matched() {
        let check = |raw: &str, path: &str, without: Option<&str>| {
            let mut request = RequestHeader::build("GET", raw.as_bytes(), None).unwrap();
            set_target(&mut request, path, without).unwrap();
            String::from_utf8(request.raw_path().to_vec()).unwrap()
        };
        assert_eq!(check("/%61?x=%61", "/a", None), "/a?x=%61");
        assert_eq!(check("http://h/a?b", "/a", None), "/a?b");
        assert_eq!(check("/a?t=secret&b=1", "/a", Some("t")), "/a?b=1");
        assert_eq!(check("/a?t=secret", "/a", Some("t")), "/a");
        assert_eq!(check("/a?", "/a", None), "/a?");
    }
}

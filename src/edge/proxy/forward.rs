//! What the upstream is told: the request as it was matched, without anything a client could have
//! forged, with the identity we vouch for.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;

use crate::config::Forward;
use crate::domain::credential::{self, Carrier};
use crate::domain::identity::Identity;
use crate::domain::request::Malformed;
use crate::domain::route::Carriers;

/// The header names that are ours to set, in every spelling a server might fold into them.
#[derive(Debug, Clone, Default)]
pub struct Reserved {
    names: Vec<String>,
    cookies: Vec<String>,
}

/// What says where a message ends: in any other spelling it would say so to one of two parties only.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

const FORWARDED: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "x-request-id"];

impl Reserved {
    /// Everything that any route sets or reads: what one route's upstream trusts, no other route lets
    /// through.
    #[must_use]
    pub fn of<'a>(routes: impl Iterator<Item = (&'a Forward, &'a Carriers)>) -> Reserved {
        let mut reserved = Reserved::default();
        for (forward, carriers) in routes {
            let Forward { subject, email, session, scopes, assertion, .. } = forward;
            let names = [subject, email, session, scopes, assertion].into_iter().flatten();
            reserved.names.extend(names.map(|name| fold(name).into_owned()));
            reserved.cookies.extend(carriers.cookie.clone());
        }
        reserved.names.sort();
        reserved.names.dedup();
        reserved
    }

    /// Whether a client may not send a field of this name. Exact spellings of forwarding fields are
    /// left to [`set_forwarded`], which knows whom to believe.
    fn takes(&self, name: &str) -> bool {
        let folded = fold(name);
        folded.starts_with("x-auth-")
            || self.names.iter().any(|ours| *ours == *folded)
            || (folded != name
                && (folded.starts_with("x-forwarded-")
                    || FORWARDED.contains(&&*folded)
                    || FRAMING.contains(&&*folded)))
    }
}

/// Lower case, with `-` for whatever is neither letter nor digit: CGI-like servers read `_` and `-` as
/// one, PHP `.` as well, and some make one of every other character too.
fn fold(name: &str) -> Cow<'_, str> {
    let is_kept = |byte: u8| byte == b'-' || byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.bytes().all(is_kept) {
        return Cow::Borrowed(name);
    }
    let folded =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    Cow::Owned(name.chars().map(folded).collect())
}

/// Takes out every field that only we may set.
pub fn strip(request: &mut RequestHeader, reserved: &Reserved) {
    let taken: Vec<HeaderName> =
        request.headers.keys().filter(|name| reserved.takes(name.as_str())).cloned().collect();
    for name in taken {
        request.remove_header(&name);
    }
    if holds_ours(request, reserved) {
        rewrite_lines(request, header::COOKIE, |line| credential::without_cookies(line, &reserved.cookies));
    }
}

/// Whether one of the cookies may be ours: most requests that have any have none of these.
fn holds_ours(request: &RequestHeader, reserved: &Reserved) -> bool {
    let mut lines = request.headers.get_all(header::COOKIE).iter();
    let consent = |line: &HeaderValue| {
        memchr::memmem::find(line.as_bytes(), credential::CONSENT_COOKIE.as_bytes()).is_some()
    };
    lines.any(|line| !reserved.cookies.is_empty() || consent(line))
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

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub peer: IpAddr,
    pub tls: bool,
    pub host: &'a str,
    /// Whether the peer is a proxy whose own forwarding fields are believed.
    pub trusted: bool,
}

/// Sets `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` (RFC 7239). From a trusted peer the chain
/// is continued; from anybody else it begins with the peer.
pub fn set_forwarded(request: &mut RequestHeader, origin: Origin<'_>) {
    let peer = origin.peer.to_canonical();
    let proto = if origin.tls { "https" } else { "http" };
    // A trusted proxy that speaks only `X-Forwarded-*` gets no half of a `Forwarded` chain.
    let (chain, forwarded) = if origin.trusted {
        (joined(request, "x-forwarded-for"), joined(request, "forwarded"))
    } else {
        // Most requests hold none of them: one look at the names, instead of one search for each.
        let theirs: Vec<HeaderName> = request
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-forwarded-") || FORWARDED.contains(&name.as_str()))
            .cloned()
            .collect();
        for name in theirs {
            request.remove_header(&name);
        }
        (None, None)
    };
    if forwarded.is_some() || chain.is_none() {
        let node = match peer {
            IpAddr::V4(address) => format!("for={address}"),
            IpAddr::V6(address) => format!("for=\"[{address}]\""),
        };
        let host = origin.host;
        let element =
            match host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')) {
                true => format!("{node};host={host};proto={proto}"),
                false => format!("{node};host=\"{host}\";proto={proto}"),
            };
        insert(request, "forwarded", &continued(forwarded, &element));
    }
    insert(request, "x-forwarded-for", &continued(chain, &peer.to_string()));
    if !request.headers.contains_key("x-forwarded-proto") {
        insert(request, "x-forwarded-proto", proto);
    }
    if !request.headers.contains_key("x-forwarded-host") {
        insert(request, "x-forwarded-host", origin.host);
    }
}

fn joined(request: &RequestHeader, name: &str) -> Option<String> {
    let lines: Vec<&str> =
        request.headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn continued(chain: Option<String>, element: &str) -> String {
    match chain {
        Some(chain) => format!("{chain}, {element}"),
        None => element.to_owned(),
    }
}

fn insert(request: &mut RequestHeader, name: &'static str, value: &str) {
    // Addresses, hosts and constants: always valid field values.
    if let Ok(value) = HeaderValue::from_str(value) {
        let _ = request.insert_header(name, value);
    }
}

/// What a route tells its upstream, ready to be written: the names are parsed once, not per request.
#[derive(Debug, Clone)]
pub struct Told {
    subject: Option<HeaderName>,
    email: Option<HeaderName>,
    session: Option<HeaderName>,
    scopes: Option<HeaderName>,
    /// The field of the signed assertion.
    pub assertion: Option<HeaderName>,
    /// Whether the caller's Host is sent on.
    pub preserve_host: bool,
    /// The provider whose token goes out as `Authorization`.
    pub inject: Option<String>,
}

impl Told {
    /// What `forward` says.
    ///
    /// # Errors
    /// A name that no header can have; configuration refuses those before.
    pub fn new(forward: &Forward) -> Result<Told, String> {
        let name = |name: &Option<String>| {
            name.as_deref().map(str::parse).transpose().map_err(|error| format!("{name:?}: {error}"))
        };
        Ok(Told {
            subject: name(&forward.subject)?,
            email: name(&forward.email)?,
            session: name(&forward.session)?,
            scopes: name(&forward.scopes)?,
            assertion: name(&forward.assertion)?,
            preserve_host: forward.preserve_host,
            inject: forward.inject.clone(),
        })
    }
}

/// Sets the identity headers of `identity`. Text beyond ASCII goes out as UTF-8 bytes.
pub fn set_identity(request: &mut RequestHeader, told: &Told, identity: &Identity) {
    let scopes = match &told.scopes {
        Some(_) => identity.scopes.join(" "),
        None => String::new(),
    };
    let fields = [
        (&told.subject, Some(identity.subject.as_str())),
        (&told.email, identity.verified_email()),
        (&told.session, identity.session.as_deref()),
        (&told.scopes, (!scopes.is_empty()).then_some(scopes.as_str())),
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
            email: Some("X-Auth-Email".into()),
            session: None,
            scopes: None,
            assertion: None,
            preserve_host: true,
            inject: None,
        }
    }

    #[test]
    fn no_spelling_of_our_names_passes() {
        let carriers = Carriers { cookie: Some("sid".into()), ..Carriers::default() };
        let reserved = Reserved::of(std::iter::once((&forward(), &carriers)));
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
        strip(&mut request, &reserved);
        let left: Vec<_> =
            request.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        assert_eq!(left, ["x-authority: kept", "cookie: a=b"]);
    }

    #[test]
    fn the_cookie_of_a_consent_stays_here() {
        let cookies = |line: &str| {
            let mut request = request(&[("cookie", line)]);
            strip(&mut request, &Reserved::default());
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
    fn a_stranger_begins_the_forwarding_chain_and_a_trusted_proxy_continues_it() {
        let fields = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-uri", "/public"),
            ("x-real-ip", "6.6.6.6"),
        ];
        let origin =
            |trusted| Origin { peer: "10.0.0.1".parse().unwrap(), tls: false, host: "a.test:8080", trusted };
        let mut stranger = request(&fields);
        set_forwarded(&mut stranger, origin(false));
        let get = |request: &RequestHeader, name: &str| joined(request, name);
        assert_eq!(get(&stranger, "x-forwarded-for").as_deref(), Some("10.0.0.1"));
        assert_eq!(get(&stranger, "x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(
            get(&stranger, "forwarded").as_deref(),
            Some("for=10.0.0.1;host=\"a.test:8080\";proto=http")
        );
        assert_eq!(get(&stranger, "x-forwarded-uri"), None);
        assert_eq!(get(&stranger, "x-real-ip"), None);
        let mut known = request(&fields);
        set_forwarded(&mut known, origin(true));
        assert_eq!(get(&known, "x-forwarded-for").as_deref(), Some("6.6.6.6, 10.0.0.1"));
        assert_eq!(get(&known, "x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(get(&known, "forwarded"), None);
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

//! Writes the request for the upstream: as it was matched, without spoofed fields of the client, with the identity we
//! vouch for.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::app_tokens::AppTokenField;
use super::fields::{self, FieldName, HeaderFields};
use super::forwarded::{self, Believed, ReceivedFrom};
use super::inject::{InjectedToken, UnwritableToken};
use super::looped::LoopMark;
use super::served::ServedRoute;
use super::thrown_away::ThrownAway;
use crate::config::Forward;
use palisade_core::domain::credential::{self, Carrier};
use palisade_core::domain::identity::Identity;
use palisade_core::domain::identity_fields::{IdentityFault, IdentityField, IdentityFields};
use palisade_core::domain::reserved::Reserved;
use palisade_core::domain::route::{Auth, Policy, Route};
use palisade_core::service::admit::Permit;

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
    pub fn of<'a>(routes: impl Iterator<Item = (&'a Forward, &'a Policy)> + Clone) -> StripRules {
        let cookies = routes.clone().filter_map(|(_, policy)| policy.carriers.cookie.clone()).collect();
        let fields = routes.clone().filter_map(|(_, policy)| policy.carriers.header.as_deref());
        let names = routes.flat_map(|(forward, policy)| forward.names(policy)).chain(fields);
        StripRules { names: Reserved::new(names), cookies }
    }
}

/// Takes out every field that only we may set or that an app would believe, but those that the route lets through. Returns
/// their names.
pub fn strip(fields: &mut impl HeaderFields, rules: &StripRules, pass: &[HeaderName]) -> Vec<HeaderName> {
    // Collects nothing, and so allocates nothing, for a request that has none of them.
    let is_taken = |name: &&HeaderName| rules.names.takes(name.as_str()) && !pass.contains(name);
    let taken: Vec<HeaderName> = fields.map().keys().filter(is_taken).cloned().collect();
    for name in &taken {
        fields.take_out(name);
    }
    if holds_ours(fields.map(), rules) {
        rewrite_lines(fields, &fields::COOKIE, |line| credential::without_cookies(line, &rules.cookies));
    }
    taken
}

/// Whether one of the cookies may be ours: most requests that have any have none of these.
fn holds_ours(fields: &HeaderMap, rules: &StripRules) -> bool {
    let mut lines = fields.get_all(header::COOKIE).iter();
    let named =
        |line: &HeaderValue| memchr::memmem::find(line.as_bytes(), credential::OURS.as_bytes()).is_some();
    lines.any(|line| !rules.cookies.is_empty() || named(line))
}

/// Replaces each line of a field; a line that becomes `None` is dropped.
fn rewrite_lines(fields: &mut impl HeaderFields, name: &FieldName, line: impl Fn(&str) -> Option<String>) {
    let kept: Vec<HeaderValue> = fields
        .map()
        .get_all(name.name())
        .iter()
        .filter_map(|value| line(&String::from_utf8_lossy(value.as_bytes())))
        .filter_map(|text| HeaderValue::from_bytes(text.as_bytes()).ok())
        .collect();
    fields.take_out(name.name());
    for value in kept {
        fields.add(name, value);
    }
}

/// Takes the token out of what carried it.
fn remove_carrier(fields: &mut impl HeaderFields, carrier: Carrier) {
    match carrier {
        Carrier::Authorization => {
            fields.take_out(&header::AUTHORIZATION);
        }
        // Cookies and fields of routes that carry tokens were taken out for every route by `strip`; the others are
        // taken out whether or not theirs is the token that counted.
        Carrier::Cookie
        | Carrier::Header
        | Carrier::Session
        | Carrier::Query
        | Carrier::WebsocketProtocol => {}
    }
}

/// Takes the entries that may carry tokens out of `Sec-WebSocket-Protocol`.
fn remove_protocols(fields: &mut impl HeaderFields) {
    let name = &fields::SEC_WEBSOCKET_PROTOCOL;
    if fields.map().contains_key(name.name()) {
        rewrite_lines(fields, name, credential::without_token_protocol);
    }
}

/// The target that goes upstream in place of `raw`: the path as it was matched, or what the route makes of it, and the query
/// without the parameter that may carry a token. `None`: it is `raw`.
#[must_use]
pub fn target(raw: &[u8], path: &str, without: Option<&str>) -> Option<Vec<u8>> {
    let query = memchr::memchr(b'?', raw).map(|at| &raw[at + 1..]);
    let query = match (query, without) {
        (Some(query), Some(name)) => credential::without_parameter(query, name),
        (query, _) => query.map(Cow::Borrowed),
    };
    let rest = raw.strip_prefix(path.as_bytes());
    let is_same = rest.is_some_and(|rest| match (rest, &query) {
        ([], None) => true,
        ([b'?', rest @ ..], Some(query)) => rest == &**query,
        _ => false,
    });
    if is_same {
        return None;
    }
    let mut target = path.as_bytes().to_vec();
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(&query);
    }
    Some(target)
}

/// What a route tells its upstream, ready to be written: the names are parsed once, not per request.
#[derive(Debug, Clone)]
pub struct Forwarding {
    subject: Option<FieldName>,
    issuer: Option<FieldName>,
    email: Option<FieldName>,
    session: Option<FieldName>,
    scopes: Option<FieldName>,
    /// The field of the signed assertion.
    pub assertion: Option<FieldName>,
    /// The token for the app's server.
    pub access_token: Option<AppTokenField>,
    /// The names of the fields of the route's policy, in their order.
    identity: Vec<FieldName>,
    /// Fields that the app takes from its callers although others would be taken in by them.
    pub pass: Vec<HeaderName>,
    /// Whether the caller's Host is sent on.
    pub preserve_host: bool,
    /// The prefix that is taken off, by which the app makes links that clients can follow.
    prefix: Option<HeaderValue>,
    /// The provider whose token goes out as `Authorization`.
    pub inject: Option<String>,
}

impl Forwarding {
    /// What `forward` and the policy of `route` say.
    ///
    /// # Errors
    /// A name that no header can have; configuration refuses those before.
    pub fn new(forward: &Forward, route: &Route) -> Result<Forwarding, String> {
        let name = |name: &Option<String>| {
            name.as_deref().map(FieldName::parse).transpose().map_err(|error| format!("{name:?}: {error}"))
        };
        Ok(Forwarding {
            subject: name(&forward.subject)?,
            issuer: name(&forward.issuer)?,
            email: name(&forward.email)?,
            session: name(&forward.session)?,
            scopes: name(&forward.scopes)?,
            assertion: name(&forward.assertion)?,
            access_token: forward
                .access_token
                .as_ref()
                .map(|configured| AppTokenField::new(configured, &route.name))
                .transpose()?,
            identity: route
                .policy
                .require
                .told()
                .map(|IdentityField { header: name, .. }| {
                    FieldName::parse(name).map_err(|error| format!("{name:?}: {error}"))
                })
                .collect::<Result<_, String>>()?,
            pass: forward
                .pass
                .iter()
                .map(|name| name.parse().map_err(|error| format!("{name:?}: {error}")))
                .collect::<Result<_, String>>()?,
            preserve_host: forward.preserve_host,
            prefix: route
                .upstream_path
                .stripped()
                .map(|prefix| HeaderValue::from_str(prefix).map_err(|error| format!("{prefix:?}: {error}")))
                .transpose()?,
            inject: forward.inject.clone(),
        })
    }
}

/// All that is said to an upstream beside what its client sent. [`UpstreamFields::write`] asks for no engine, so a
/// verdict for another proxy can be written in the same way.
pub struct UpstreamFields<'a> {
    pub strip: &'a StripRules,
    pub believed: &'a Believed,
    /// Says once that forwarded fields count for nothing.
    pub thrown_away: &'a ThrownAway,
    pub permit: &'a Permit<ServedRoute>,
    pub from: ReceivedFrom<'a>,
    /// Written into the field by which requests that go in circles are known.
    pub mark: &'a LoopMark,
    pub host: &'a str,
    pub request_id: &'a str,
    /// The signed assertion, on a route that sends one and for a caller who is known.
    pub assertion: Option<&'a str>,
    /// The token for the app's server, on a route that sends one and for a caller who gets one.
    pub access_token: Option<HeaderValue>,
    pub injected: Option<&'a InjectedToken>,
    /// The second target, of a request that has one.
    pub destination: Option<&'a str>,
}

impl UpstreamFields<'_> {
    /// Makes of a client's `fields` what the upstream is told: nothing that a client could have forged, nothing that
    /// carried its token, and what we vouch for.
    ///
    /// # Errors
    /// A value that is to be sent cannot stand in a field.
    pub fn write(&self, fields: &mut impl HeaderFields) -> Result<(), UnwritableField> {
        let ServedRoute { route, forwarding, .. } = &**self.permit.route();
        // Read before it is taken out with what else clients may not send.
        let hops = self.mark.added_to(fields.map());
        let taken = strip(fields, self.strip, &forwarding.pass);
        if !taken.is_empty() {
            self.thrown_away.look(self.believed, self.from.peer, taken.iter());
        }
        if let Some(carrier) = self.permit.carrier() {
            remove_carrier(fields, carrier);
        }
        // Where the route looks for tokens, none is left over for the app: not beside another, and not in a
        // request that is no WebSocket.
        if route.policy.auth != Auth::None && route.policy.carriers.websocket_protocol {
            remove_protocols(fields);
        }
        forwarded::set(fields, self.from);
        if let Some(prefix) = &forwarding.prefix {
            fields.put(&fields::X_FORWARDED_PREFIX, prefix.clone());
        }
        fields.put(&fields::HOPS, hops);
        put_text(fields, &fields::HOST, self.host);
        put_text(fields, &fields::X_REQUEST_ID, self.request_id);
        if let Some(destination) = self.destination {
            put_text(fields, &fields::DESTINATION, destination);
        }
        if let Some(caller) = self.permit.caller() {
            set_identity(fields, forwarding, &caller.identity);
            if let Some(told) = &route.policy.require.identity {
                set_told(fields, told, &forwarding.identity, &caller.identity)?;
            }
        }
        if let (Some(name), Some(assertion)) = (&forwarding.assertion, self.assertion) {
            put_text(fields, name, assertion);
        }
        if let Some(field) = &forwarding.access_token {
            // Without a token the client's own field is removed, or the app would take it for ours. The general stripping
            // spares `Authorization`, which on other routes is the client's own.
            match &self.access_token {
                Some(value) => fields.put(&field.name, value.clone()),
                None => fields.take_out(field.name.name()),
            }
        }
        Ok(self.injected.map_or(Ok(()), |injected| injected.write(fields))?)
    }
}

/// Why an upstream is not told what it is to be told. It is asked nothing then.
#[derive(Debug, thiserror::Error)]
pub enum UnwritableField {
    #[error(transparent)]
    Token(#[from] UnwritableToken),
    /// Admission has looked before, so this is a defect.
    #[error(transparent)]
    Identity(#[from] IdentityFault),
    #[error("an identity header that no field can hold")]
    Value(#[from] http::header::InvalidHeaderValue),
}

/// Sets the fields in which the app is told of the caller by names that it knows. `names`: those of the fields.
fn set_told(
    fields: &mut impl HeaderFields,
    told: &IdentityFields,
    names: &[FieldName],
    identity: &Identity,
) -> Result<(), UnwritableField> {
    for (name, field) in names.iter().zip(&told.fields) {
        if let Some(value) = told.value(field, identity)? {
            fields.put(name, HeaderValue::from_maybe_shared(Bytes::from(value))?);
        }
    }
    Ok(())
}

/// Sets a field. Text beyond ASCII goes out as UTF-8 bytes.
fn put_text(fields: &mut impl HeaderFields, name: &FieldName, text: &str) {
    // A Host, an id, a signed token, an identity: none holds a control character, so this cannot fail.
    if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
        fields.put(name, value);
    }
}

/// Sets the identity headers of `identity`.
fn set_identity(fields: &mut impl HeaderFields, forwarding: &Forwarding, identity: &Identity) {
    let scopes = match &forwarding.scopes {
        Some(_) => identity.scopes.join(" "),
        None => String::new(),
    };
    let said = [
        (&forwarding.subject, Some(identity.subject.as_str())),
        (&forwarding.issuer, Some(&*identity.issuer)),
        // An address that is not verified may be another person's: an app that goes by it would take the caller for
        // its owner.
        (&forwarding.email, identity.verified_email()),
        (&forwarding.session, identity.session.as_deref()),
        (&forwarding.scopes, (!scopes.is_empty()).then_some(scopes.as_str())),
    ];
    for (name, value) in said {
        if let (Some(name), Some(value)) = (name, value) {
            put_text(fields, name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::route::{Carriers, Require};

    fn request(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut request = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.append(name, value.parse().unwrap());
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
            access_token: None,
            pass: Vec::new(),
            preserve_host: true,
            inject: None,
        }
    }

    fn policy(carriers: Carriers) -> Policy {
        Policy { auth: Auth::Required, require: Require::default(), carriers, issuers: Vec::new() }
    }

    fn left(request: &HeaderMap) -> Vec<String> {
        request.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    #[test]
    fn no_spelling_of_our_names_passes() {
        let carriers = Carriers { cookie: Some("sid".into()), ..Carriers::default() };
        let rules = StripRules::of(std::iter::once((&forward(), &policy(carriers))));
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
    fn a_token_in_a_field_of_its_own_reaches_no_app() {
        let carriers = Carriers { header: Some("x-gate-token".into()), ..Carriers::default() };
        let rules = StripRules::of(std::iter::once((&forward(), &policy(carriers))));
        let mut request = request(&[
            ("X-Gate-Token", "secret"),
            ("x_gate_token", "secret"),
            ("x-gate-tokens", "kept"),
            ("authorization", "Basic eDp5"),
        ]);
        strip(&mut request, &rules, &[]);
        let mut left = left(&request);
        left.sort();
        assert_eq!(left, ["authorization: Basic eDp5", "x-gate-tokens: kept"]);
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
            request.get("cookie").map(|line| line.to_str().unwrap().to_owned())
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
            let sent = target(raw.as_bytes(), path, without);
            // What is sent as it came is exactly that.
            assert_ne!(sent.as_deref(), Some(raw.as_bytes()));
            sent.map_or_else(|| raw.to_owned(), |sent| String::from_utf8(sent).unwrap())
        };
        assert_eq!(check("/%61?x=%61", "/a", None), "/a?x=%61");
        assert_eq!(check("http://h/a?b", "/a", None), "/a?b");
        assert_eq!(check("/a?t=secret&b=1", "/a", Some("t")), "/a?b=1");
        assert_eq!(check("/a?t=secret", "/a", Some("t")), "/a");
        assert_eq!(check("/a?", "/a", None), "/a?");
        assert_eq!(check("/a", "/a", Some("t")), "/a");
        assert_eq!(check("/ab", "/a", None), "/a");
    }
}

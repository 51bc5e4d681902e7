//! Pages of other origins: preflights answered here, and the CORS fields of answers (Fetch standard, §3.2), on
//! routes that have `cors`. There the route alone decides; what an app says itself about other origins is dropped,
//! since two such fields make browsers refuse an answer.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::fields::{self, HeaderFields};
use super::gateway::Live;
use super::inbound;
use super::outbound;
use super::served::ServedRoute;
use palisade_core::domain::cors::{Cors, Origins};
use palisade_core::domain::problem::Problem;
use palisade_core::domain::request::{Host, Path, Request};

/// Every response field of the protocol.
const FIELDS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// `cors` of a route, ready to be written.
#[derive(Debug, Clone)]
pub struct CorsRules {
    cors: Cors,
    allow_headers: HeaderValue,
    expose_headers: HeaderValue,
}

impl CorsRules {
    /// What `cors` says.
    ///
    /// # Errors
    /// A name that no header field can have; configuration refuses those before.
    pub fn new(cors: &Cors) -> std::result::Result<CorsRules, String> {
        let value = |text: String| HeaderValue::from_str(&text).map_err(|error| format!("{text:?}: {error}"));
        Ok(CorsRules {
            allow_headers: value(cors.allowed_headers())?,
            expose_headers: value(cors.exposed_headers())?,
            cors: cors.clone(),
        })
    }

    /// The value of `Access-Control-Allow-Origin` for this request; `None` where its origin is not allowed.
    fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let mut origins = request.get_all(header::ORIGIN).iter();
        let (origin, None) = (origins.next()?, origins.next()) else { return None };
        match self.cors.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::These(_) => self.cors.allows(origin.as_bytes()).then(|| origin.clone()),
        }
    }

    /// Whether answers differ by who asks.
    fn varies(&self) -> bool {
        self.cors.origins != Origins::Any
    }

    fn origin_fields(&self, origin: HeaderValue, answer: &mut impl HeaderFields) {
        answer.put(&fields::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.cors.credentials && self.varies() {
            answer.put(&fields::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// Writes the fields of an answer that is no preflight's, in place of whatever is there.
    pub fn write(&self, request: &HeaderMap, answer: &mut impl HeaderFields) {
        for name in &FIELDS {
            answer.take_out(name);
        }
        if self.varies() {
            vary(answer);
        }
        let Some(origin) = self.allowed(request) else { return };
        self.origin_fields(origin, answer);
        answer.put(&fields::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose_headers.clone());
    }
}

/// Writes what the answering route says about pages of other origins, if it says anything.
pub fn write(cors: Option<&CorsRules>, session: &Session, answer: &mut impl HeaderFields) {
    if let Some(cors) = cors {
        cors.write(&session.req_header().headers, answer);
    }
}

/// Adds `Origin` to `Vary`, unless that says so already.
fn vary(answer: &mut impl HeaderFields) {
    let said = answer.map().get_all(header::VARY).iter().any(|line| {
        let named = |name: &str| name.trim() == "*" || name.trim().eq_ignore_ascii_case("origin");
        line.to_str().is_ok_and(|line| line.split(',').any(named))
    });
    if !said {
        answer.add(&fields::VARY, HeaderValue::from_static("Origin"));
    }
}

/// The method that a preflight asks about; `None`: the request is none.
fn asked(header: &RequestHeader) -> Option<&str> {
    if header.method != Method::OPTIONS || !header.headers.contains_key(header::ORIGIN) {
        return None;
    }
    header.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.to_str().ok()
}

/// The route of the request that a preflight announces, where that route answers for pages of other origins.
pub fn preflight(header: &RequestHeader, request: &Request<'_>, live: &Live) -> Option<Arc<ServedRoute>> {
    let method = asked(header)?;
    let announced = Request {
        method,
        host: request.host.clone(),
        path: request.path.clone(),
        query: None,
        websocket: false,
        is_peer_trusted: request.is_peer_trusted,
        client: request.client,
        headers: request.headers,
    };
    let route = live.admission.routes.find(&announced).ok()?.entry;
    route.cors.is_some().then(|| Arc::clone(route))
}

/// The route whose `cors` says which pages may read the answer to a request that no route took: the one that the path
/// belongs to, whatever methods it takes; else the most specific one of the host that lets the page read what it answers.
/// Such an answer is ours and the same for every client.
#[must_use]
pub fn speaker(header: &RequestHeader, live: &Live) -> Option<Arc<ServedRoute>> {
    header.headers.get(header::ORIGIN)?;
    let named = match header.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => header.headers.get(header::HOST)?.as_bytes(),
    };
    let host = Host::parse(named).ok()?;
    let path = inbound::origin_form(header.raw_path()).ok();
    let path = path.map(|target| target.split(|byte| *byte == b'?').next().unwrap_or_default());
    let path = path.and_then(|path| Path::parse(path).ok());
    let routes = || live.admission.routes.of_host(host.name());
    let own = path.and_then(|path| live.admission.routes.of_path(host.name(), path.as_str()));
    let speaks = |served: &&Arc<ServedRoute>| {
        served.cors.as_ref().is_some_and(|rules| rules.allowed(&header.headers).is_some())
    };
    own.or_else(|| routes().find(speaks)).cloned()
}

/// Answers a preflight. Returns the word for what was decided, and the status.
///
/// # Errors
/// The client's connection failed.
pub async fn answer(
    session: &mut Session,
    request_id: &str,
    rules: Option<&CorsRules>,
) -> Result<(&'static str, u16)> {
    let headers = &session.req_header().headers;
    let method = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).cloned();
    let allowed = rules.and_then(|rules| Some((rules, rules.allowed(headers)?)));
    let is_method = |rules: &CorsRules| {
        let asked = method.as_ref().and_then(|method| method.to_str().ok());
        asked.is_some_and(|method| rules.cors.allows_method(method))
    };
    let Some((rules, origin)) = allowed.clone().filter(|(rules, _)| is_method(rules)) else {
        let detail = match allowed {
            None => "Pages of this origin may not call this path.",
            Some(_) => "Pages of this origin may not use this method here.",
        };
        let problem = Problem::new(403, "origin_not_allowed", detail);
        outbound::send(session, &problem.into(), request_id, rules).await?;
        return Ok(("origin_not_allowed", 403));
    };
    let mut response = ResponseHeader::build(204, Some(8))?;
    rules.origin_fields(origin, &mut response);
    // The route was found by this method, and a preflight is about no other.
    if let Some(method) = method {
        response.insert_header(header::ACCESS_CONTROL_ALLOW_METHODS, method)?;
    }
    response.insert_header(header::ACCESS_CONTROL_ALLOW_HEADERS, rules.allow_headers.clone())?;
    response.insert_header(header::ACCESS_CONTROL_MAX_AGE, rules.cors.max_age.as_secs())?;
    response.insert_header(
        header::VARY,
        "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    )?;
    response.insert_header("x-request-id", request_id)?;
    outbound::write(session, response, None).await?;
    Ok(("preflight", 204))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(origins: Origins, credentials: bool) -> CorsRules {
        let expose_headers = vec!["X-Total".to_owned()];
        CorsRules::new(&Cors { origins, credentials, expose_headers, ..Cors::default() }).unwrap()
    }

    fn written(rules: &CorsRules, origins: &[&str], theirs: &[(&'static str, &str)]) -> Vec<String> {
        let mut request = HeaderMap::new();
        for origin in origins {
            request.append("origin", origin.parse().unwrap());
        }
        let mut response = HeaderMap::new();
        for (name, value) in theirs {
            response.append(*name, value.parse().unwrap());
        }
        rules.write(&request, &mut response);
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut lines: Vec<String> = response.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn the_routes_fields_stand_in_place_of_the_apps() {
        let named = rules(Origins::These(vec!["https://app.test".into()]), true);
        let theirs = [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-origin", "https://evil.test"),
            ("access-control-allow-methods", "GET"),
            ("vary", "Accept"),
        ];
        let ours = [
            "access-control-allow-credentials: true",
            "access-control-allow-origin: https://app.test",
            "access-control-expose-headers: hx-redirect, retry-after, www-authenticate, x-request-id, X-Total",
            "vary: Accept",
            "vary: Origin",
        ];
        assert_eq!(written(&named, &["https://app.test"], &theirs), ours);
        // No page of another origin reads it, and a cache must not mix the two up.
        for other in [&["https://evil.test"][..], &["null"], &[], &["https://app.test", "https://app.test"]] {
            assert_eq!(written(&named, other, &theirs), ours[3..], "{other:?}");
        }
        assert_eq!(written(&named, &[], &[("vary", "accept, ORIGIN")]), ["vary: accept, ORIGIN"]);
    }

    #[test]
    fn everybody_may_read_what_no_cookie_opened() {
        // The configuration refuses the second; were it let through, it would do no harm.
        for anybody in [rules(Origins::Any, false), rules(Origins::Any, true)] {
            let lines = written(&anybody, &["null"], &[("access-control-allow-credentials", "true")]);
            assert_eq!(lines[0], "access-control-allow-origin: *");
            assert!(
                lines.iter().all(|line| !line.contains("credentials") && !line.starts_with("vary")),
                "{lines:?}"
            );
        }
    }
}

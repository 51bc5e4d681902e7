//! Routes: which one a request matches, and its authorization policy.

use std::sync::Arc;
use std::time::Duration;

use super::browser::RouteBrowser;
use super::cors::Cors;
use super::destination;
use super::identity::Identity;
use super::reading::{Names, PathReading};
use super::request::{Malformed, Path, Request};
use super::verdict::{Refusal, TokenFault};

/// Whether a route wants a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// A good token, or 401.
    Required,
    /// A good token or none at all. A bad one is 401, but for one in the route's cookie: it counts as none,
    /// since browsers send cookies without being asked.
    Optional,
    /// Tokens are not looked at and pass through untouched.
    None,
}

/// What a verified caller must bring besides a good token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Require {
    /// Every one of these scopes.
    pub scopes: Vec<String>,
    /// `email_verified: true`.
    pub email_verified: bool,
    /// For each claim, one of the values.
    pub claims: Vec<(String, Vec<String>)>,
}

impl Require {
    /// Whether `identity` brings all of it.
    ///
    /// # Errors
    /// The first requirement that is not met.
    pub fn check(&self, identity: &Identity) -> Result<(), Refusal> {
        if !identity.has_scopes(&self.scopes) {
            return Err(Refusal::Scope { needed: self.scopes.clone() });
        }
        if self.email_verified && !identity.email_verified {
            return Err(Refusal::EmailUnverified);
        }
        if !self.claims.iter().all(|(name, values)| identity.claim_holds(name, values)) {
            return Err(Refusal::Claim);
        }
        Ok(())
    }
}

/// Whose the `Authorization` field of a route's requests is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuthorizationField {
    /// The gateway's: a Bearer token in it is read, and taken out.
    #[default]
    Ours,
    /// The app's: it is forwarded byte for byte and never read.
    Apps {
        /// Whether a request that has the field passes without a session: the app judges it.
        without_session: bool,
    },
}

/// Where a route looks for a token. `Authorization: Bearer` counts unless that field is the app's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carriers {
    /// A cookie of this name.
    pub cookie: Option<String>,
    /// WebSockets only: a `Sec-WebSocket-Protocol` entry `bearer.<token>`.
    pub websocket_protocol: bool,
    /// WebSockets only: a query parameter of this name.
    pub query: Option<String>,
    /// A header field of this name, in lower case: the token alone, or `Bearer` and the token.
    pub header: Option<String>,
    /// Whose the `Authorization` field is.
    pub authorization: AuthorizationField,
}

impl Carriers {
    /// Whether the `Authorization` field is the app's.
    #[must_use]
    pub fn is_authorization_apps(&self) -> bool {
        matches!(self.authorization, AuthorizationField::Apps { .. })
    }

    /// Whether a request without a session passes when it has the app's `Authorization` field.
    #[must_use]
    pub fn leaves_to_app(&self) -> bool {
        self.authorization == AuthorizationField::Apps { without_session: true }
    }
}

/// Everything the admission of a request depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub auth: Auth,
    pub require: Require,
    pub carriers: Carriers,
    /// The accepted issuers; empty: every configured one.
    pub issuers: Vec<String>,
}

/// What of a path a route lets through although two servers may read it differently.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allow {
    /// `%2F`, opaque: never a separator.
    pub encoded_slash: bool,
    /// `//`.
    pub empty_segment: bool,
}

/// One route: what it matches, and what it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Unique; the label in metrics and logs.
    pub name: Arc<str>,
    /// Its place in the configuration.
    pub index: usize,
    /// The origins that its requests go to, sorted: routes whose upstreams are the same lead to one app.
    pub upstreams: Vec<String>,
    /// A lower-case host, `*.example.com` for any host below it, or `None` for every host.
    pub host: Option<String>,
    /// A prefix on segment boundaries: `/api` matches `/api` and `/api/x`, never `/apix`. In normal
    /// form, without a trailing slash unless it is `/` itself.
    pub prefix: String,
    /// Upper-case methods; empty: every method.
    pub methods: Vec<String>,
    pub policy: Policy,
    pub allow: Allow,
    /// How long an exchange may go on past the expiry of a token without a session of ours.
    pub after_expiry: Duration,
    /// The origins that may call from a browser; `None`: the app answers CORS requests itself.
    pub cors: Option<Cors>,
    /// What it says about people with browsers.
    pub browser: RouteBrowser,
}

impl AsRef<Route> for Route {
    fn as_ref(&self) -> &Route {
        self
    }
}

impl Route {
    /// Whether it is for `host`, in lower case and without a port.
    #[must_use]
    pub fn takes_host(&self, host: &str) -> bool {
        match self.host.as_deref() {
            None => true,
            Some(pattern) => match pattern.strip_prefix('*') {
                Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
                None => host == pattern,
            },
        }
    }

    /// Whether `path`, in normal form, is the prefix or lies below it.
    #[must_use]
    pub fn takes_path(&self, path: &str) -> bool {
        is_below(path, &self.prefix)
    }

    fn takes_method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| m == method)
    }

    /// Exact hosts before wildcards (longer first) before none; then longer prefixes; then routes
    /// that name methods.
    fn rank(&self) -> impl Ord + use<> {
        let host = match self.host.as_deref() {
            None => (0, 0),
            Some(pattern) if pattern.starts_with('*') => (1, pattern.len()),
            Some(pattern) => (2, pattern.len()),
        };
        std::cmp::Reverse((host, self.prefix.len(), !self.methods.is_empty()))
    }

    /// Whether every client may see what is at `path`, in normal form, whatever the policy says (`public`).
    #[must_use]
    pub fn is_open(&self, method: &str, path: &str, websocket: bool) -> bool {
        matches!(method, "GET" | "HEAD") && !websocket && self.browser.public.iter().any(|open| open == path)
    }

    /// Whether `identity` may pass.
    ///
    /// # Errors
    /// The first requirement that is not met.
    pub fn check(&self, identity: &Identity) -> Result<(), Refusal> {
        if !self.policy.issuers.is_empty() && !self.policy.issuers.iter().any(|i| **i == *identity.issuer) {
            return Err(Refusal::Token(TokenFault::Issuer));
        }
        self.policy.require.check(identity)
    }
}

/// Whether `path` is `prefix` or lies below it.
fn is_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// As [`is_below`], for a prefix in lower case.
fn is_below_in_any_case(path: &str, prefix: &str) -> bool {
    let start = path.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix) && is_below(path, start))
}

/// All routes, most specific first. An entry is a [`Route`], or holds one beside what its owner needs to serve it.
#[derive(Debug)]
pub struct Table<R = Route> {
    routes: Vec<Arc<R>>,
    /// The prefix of each route, as readings are held against it.
    names: Vec<Names>,
    /// Whether every prefix is plain: then a plain path belongs to one route only.
    plain: bool,
}

impl<R: AsRef<Route>> Table<R> {
    /// Orders routes by how specific they are. Configuration refuses duplicates before this.
    #[must_use]
    pub fn new(routes: Vec<R>) -> Table<R> {
        let mut routes: Vec<Arc<R>> = routes.into_iter().map(Arc::new).collect();
        routes.sort_by_key(|entry| route(entry).rank());
        let names = routes.iter().map(|entry| Names::of(&route(entry).prefix)).collect();
        let is_plain =
            |entry: &Arc<R>| Path::parse(route(entry).prefix.as_bytes()).is_ok_and(|path| path.is_plain());
        let plain = routes.iter().all(is_plain);
        Table { routes, names, plain }
    }

    /// The entries, most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<R>> {
        self.routes.iter()
    }

    /// The entries that take requests for `host`, most specific first.
    pub fn of_host<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Arc<R>> {
        self.routes.iter().filter(move |entry| route(entry).takes_host(host))
    }

    fn best(&self, host: &str, path: &str, method: &str) -> Result<&Arc<R>, Refusal> {
        let mut allow: Vec<String> = Vec::new();
        let mut place: Option<&Route> = None;
        for entry in &self.routes {
            let route = route(entry);
            if !route.takes_host(host) || !route.takes_path(path) {
                continue;
            }
            // Only the most specific host and prefix decide; a wider route is no fallback for a
            // method that the narrower one refuses.
            if place.is_some_and(|p| p.host != route.host || p.prefix != route.prefix) {
                break;
            }
            if route.takes_method(method) {
                return Ok(entry);
            }
            allow.extend(route.methods.iter().cloned());
            place = Some(route);
        }
        match place {
            None => Err(Refusal::NoRoute),
            Some(_) => {
                allow.sort();
                allow.dedup();
                Err(Refusal::Method { allow })
            }
        }
    }

    /// The one route of a request: most specific host, then longest prefix, then method.
    ///
    /// # Errors
    /// [`Refusal::NoRoute`], [`Refusal::Method`], or [`Refusal::Malformed`] when the path holds what
    /// the route does not allow or a laxer server would read it as another route's.
    pub fn find(&self, request: &Request<'_>) -> Result<&Arc<R>, Refusal> {
        let Request { method, host, path, .. } = request;
        // TRACE would hand the caller what the upstream was told, the signed assertion too (RFC 9110
        // §9.3.8); CONNECT asks for a tunnel. Some servers ignore the case of methods.
        if ["TRACE", "CONNECT"].iter().any(|refused| method.eq_ignore_ascii_case(refused)) {
            return Err(Refusal::Method { allow: Vec::new() });
        }
        let entry = self.best(host.name(), path.as_str(), method)?;
        let allow = route(entry).allow;
        if path.has_encoded_slash() && !allow.encoded_slash {
            return Err(Refusal::Malformed(Malformed::EncodedSlash));
        }
        if path.has_empty_segment() && !allow.empty_segment {
            return Err(Refusal::Malformed(Malformed::EmptySegment));
        }
        self.refuse_ambiguity(entry, host.name(), path, method)?;
        Ok(entry)
    }

    /// Whether a part of what lies below `path`, which belongs to `entry`, is served under another policy, or not at all
    /// with this method: what acts on a whole collection acts there as well.
    pub fn covers_another(&self, entry: &Arc<R>, host: &str, path: &str, method: &str) -> bool {
        let policy = &route(entry).policy;
        self.routes.iter().map(|other| route(other)).zip(&self.names).any(|(other, names)| {
            other.takes_host(host)
                && destination::covers(path, names)
                && !self.best(host, &other.prefix, method).is_ok_and(|below| route(below).policy == *policy)
        })
    }

    /// Refuses a request that some server would read as one of a route with another policy.
    fn refuse_ambiguity(
        &self,
        entry: &Arc<R>,
        host: &str,
        path: &Path<'_>,
        method: &str,
    ) -> Result<(), Refusal> {
        let own = route(entry);
        let upper = method.bytes().any(|byte| byte.is_ascii_lowercase()).then(|| method.to_ascii_uppercase());
        if self.plain && upper.is_none() && path.is_plain_but_for_case() {
            // In lower case it belongs to the first route of these, if to any that comes before its own.
            let before = self.routes.iter().take_while(|other| !Arc::ptr_eq(other, entry));
            let mut others = before
                .map(|other| route(other))
                .filter(|other| other.policy != own.policy && other.takes_host(host));
            if path.is_plain() || !others.any(|other| is_below_in_any_case(path.as_str(), &other.prefix)) {
                return Ok(());
            }
        }
        let reading = PathReading::of(path.as_str()).map_err(Refusal::Malformed)?;
        let methods: Vec<&str> = [Some(method), upper.as_deref()].into_iter().flatten().collect();
        let known: Vec<(&Route, &Names)> = self
            .routes
            .iter()
            .map(|other| route(other))
            .zip(&self.names)
            .filter(|(other, _)| other.takes_host(host))
            .collect();
        let (_, from) = known
            .iter()
            .find(|(other, _)| std::ptr::eq(*other, own))
            .ok_or(Refusal::Malformed(Malformed::Ambiguous))?;
        let names: Vec<&Names> = known.iter().map(|(_, names)| *names).collect();
        let places = reading.places(from, &names);
        match places.iter().all(|place| is_all_of(&known, place, &methods, &own.policy)) {
            true => Ok(()),
            false => Err(Refusal::Malformed(Malformed::Ambiguous)),
        }
    }
}

/// The route of an entry.
fn route<R: AsRef<Route>>(entry: &Arc<R>) -> &Route {
    R::as_ref(entry)
}

/// Whether whatever may serve `place` has this policy. As in [`Table::find`], the most specific host and
/// prefix decide, and a wider route is no fallback for a method that the narrower one refuses; but prefixes
/// that differ only for some servers decide together.
fn is_all_of(known: &[(&Route, &Names)], place: &[String], methods: &[&str], policy: &Policy) -> bool {
    let above = known.iter().filter(|(_, names)| place.starts_with(names.segments()));
    let Some(host) = above.clone().map(|(route, _)| &route.host).next() else { return false };
    let above = above.filter(|(route, _)| route.host == *host);
    let deepest = above.clone().map(|(_, names)| names.segments().len()).max();
    let deciding = above.filter(|(_, names)| Some(names.segments().len()) == deepest);
    deciding.clone().all(|(one, _)| {
        methods.iter().all(|method| {
            let mut same = deciding.clone().filter(|(other, _)| other.prefix == one.prefix);
            same.find(|(other, _)| other.takes_method(method))
                .is_some_and(|(other, _)| other.policy == *policy)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::request::{Headers, Host};
    use super::*;

    struct NoHeaders;
    impl Headers for NoHeaders {
        fn each<'a>(&'a self, _: &str, _: &mut dyn FnMut(&'a [u8])) {}
    }

    fn route(name: &str, host: Option<&str>, prefix: &str, methods: &[&str], auth: Auth) -> Route {
        Route {
            name: name.into(),
            index: 0,
            upstreams: Vec::new(),
            host: host.map(Into::into),
            prefix: prefix.into(),
            methods: methods.iter().map(|m| (*m).to_owned()).collect(),
            policy: Policy {
                auth,
                require: Require::default(),
                carriers: Carriers::default(),
                issuers: vec![],
            },
            allow: Allow { encoded_slash: prefix == "/pkg", empty_segment: prefix == "/pkg" },
            after_expiry: Duration::ZERO,
            cors: None,
            browser: RouteBrowser::default(),
        }
    }

    fn table() -> Table {
        Table::new(vec![
            route("root", None, "/", &[], Auth::None),
            route("admin", None, "/admin", &[], Auth::Required),
            route("pkg", None, "/pkg", &[], Auth::None),
            route("write", None, "/docs", &["POST", "PUT"], Auth::Required),
            route("read", None, "/docs", &["GET"], Auth::Optional),
            route("tenant", Some("*.example.com"), "/", &[], Auth::Required),
            route("home", Some("www.example.com"), "/", &[], Auth::None),
            route("nested", None, "/api/admin", &[], Auth::Required),
            route("cafe", None, "/caf%C3%A9", &[], Auth::Required),
            route("change", Some("rw.test"), "/", &["POST"], Auth::Required),
            route("look", Some("rw.test"), "/", &[], Auth::None),
            route("only", Some("only.test"), "/public", &[], Auth::None),
        ])
    }

    fn find(host: &str, method: &str, path: &str) -> Result<String, Refusal> {
        let request = Request {
            method,
            host: Host::parse(host.as_bytes()).unwrap(),
            path: Path::parse(path.as_bytes()).unwrap(),
            query: None,
            websocket: false,
            is_peer_trusted: false,
            headers: &NoHeaders,
        };
        table().find(&request).map(|route| route.name.to_string())
    }

    #[test]
    fn the_most_specific_host_then_prefix_then_method_wins() {
        for (host, method, path, name) in [
            ("a.test", "GET", "/", "root"),
            ("a.test", "GET", "/administrator", "root"),
            ("a.test", "GET", "/admin", "admin"),
            ("a.test", "GET", "/admin/", "admin"),
            ("a.test", "GET", "/admin/x", "admin"),
            ("a.test", "PUT", "/docs/1", "write"),
            ("a.test", "GET", "/docs/1", "read"),
            ("WWW.example.com", "GET", "/admin", "home"),
            ("x.example.com.", "GET", "/admin", "tenant"),
            ("example.com", "GET", "/x", "root"),
            ("a.test", "GET", "/caf%c3%a9/x", "cafe"),
        ] {
            assert_eq!(find(host, method, path).as_deref(), Ok(name), "{method} {host}{path}");
        }
    }

    #[test]
    fn a_refused_method_does_not_fall_through_to_a_wider_route() {
        let refusal = find("a.test", "DELETE", "/docs/1");
        let allow = ["GET", "POST", "PUT"].map(String::from).to_vec();
        assert_eq!(refusal, Err(Refusal::Method { allow }));
    }

    #[test]
    fn no_route_takes_trace_or_connect() {
        for method in ["TRACE", "CONNECT", "Trace"] {
            assert_eq!(find("a.test", method, "/"), Err(Refusal::Method { allow: vec![] }), "{method}");
        }
    }

    #[test]
    fn slashes_that_are_not_separators_need_permission() {
        assert_eq!(find("a.test", "GET", "/pkg/@scope%2Fname").as_deref(), Ok("pkg"));
        assert_eq!(find("a.test", "GET", "/pkg//name").as_deref(), Ok("pkg"));
        let encoded = Refusal::Malformed(Malformed::EncodedSlash);
        assert_eq!(find("a.test", "GET", "/admin%2Fx"), Err(encoded));
        let empty = Refusal::Malformed(Malformed::EmptySegment);
        assert_eq!(find("a.test", "GET", "//admin"), Err(empty));
    }

    #[test]
    fn a_path_that_a_lax_server_gives_to_another_route_is_refused() {
        let ambiguous = Err(Refusal::Malformed(Malformed::Ambiguous));
        for path in [
            "/ADMIN",
            "/Admin/x",
            "/admin;x",
            "/admin%23/public",
            "/admin%3Fx",
            "/%2561dmin",
            "/x/..%252fadmin",
            "/pkg/..%2F..%2Fadmin",
            "/pkg%2F..%2Fadmin",
        ] {
            let found = find("a.test", "GET", path);
            let slash = Err(Refusal::Malformed(Malformed::EncodedSlash));
            let dots = Err(Refusal::Malformed(Malformed::DotSegment));
            assert!(found == ambiguous || found == slash || found == dots, "{path}: {found:?}");
        }
        for path in ["/files/c%23.pdf", "/Readme", "/a;b=c/d", "/100%25"] {
            assert_eq!(find("a.test", "GET", path).as_deref(), Ok("root"), "{path}");
        }
    }

    #[test]
    fn a_server_that_is_lax_in_one_way_only_is_minded_too() {
        for (host, method, path) in [
            // Case alone, where doing everything would climb out again.
            ("a.test", "GET", "/ADMIN/..;/public"),
            // Parameters dropped before anything is decoded.
            ("a.test", "GET", "/api;x%252Fy/admin"),
            ("a.test", "GET", "/api;%23/admin"),
            // A prefix that is written with escapes.
            ("a.test", "GET", "/CAF%C3%89"),
            ("a.test", "GET", "/Caf%C3%A9;x"),
            // A method that the narrower route refuses.
            ("a.test", "DELETE", "/DOCS/1"),
            ("a.test", "DELETE", "/docs;x/1"),
            // The case of a method.
            ("rw.test", "post", "/"),
            // Out of the only path that is served.
            ("only.test", "GET", "/public/..;/secret"),
            ("only.test", "GET", "/public/%252e%252e/secret"),
        ] {
            let found = find(host, method, path);
            assert!(matches!(found, Err(Refusal::Malformed(_))), "{method} {host}{path}: {found:?}");
        }
        assert_eq!(find("rw.test", "GET", "/").as_deref(), Ok("look"));
        assert_eq!(find("only.test", "GET", "/public/A;b/%25").as_deref(), Ok("only"));
    }
}

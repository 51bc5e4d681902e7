//! People with browsers: how a session travels in a cookie, and what the configuration says about it (`[browser]`).
//!
//! The session cookie is opaque. It is a [`super::session::Session`] like any other: listed, limited, revoked and
//! audited. Its value counts at one place only ([`CookiePlace`]), and is no access token.

use std::fmt;
use std::time::Duration;

use super::request::{Host, Scheme, WebOrigin, is_loopback};

/// The name of the session cookie, behind [`super::credential::HOST_PREFIX`] or [`SECURE_PREFIX`] over TLS. It is never
/// forwarded.
pub const SESSION_COOKIE: &str = "palisade";

/// What makes browsers take a cookie over TLS only (RFC 6265bis §4.1.3.1).
pub const SECURE_PREFIX: &str = "__Secure-";

/// The session cookie of one host over TLS: [`super::credential::HOST_PREFIX`] and [`SESSION_COOKIE`].
const HOST_SESSION_COOKIE: &str = "__Host-palisade";
/// The session cookie of a domain over TLS: [`SECURE_PREFIX`] and [`SESSION_COOKIE`].
const SECURE_SESSION_COOKIE: &str = "__Secure-palisade";

/// An origin (RFC 6454 §4) that the configuration spells out in full; the owned form of [`WebOrigin`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedOrigin {
    pub scheme: Scheme,
    /// As [`super::request::Host::name`] gives it: in lower case, an IPv6 address in brackets.
    pub host: String,
    /// `None`: the scheme's own.
    pub port: Option<u16>,
}

impl NamedOrigin {
    /// The owned form of `origin`.
    #[must_use]
    pub fn of(origin: &WebOrigin<'_>) -> NamedOrigin {
        let port = origin.host.port().filter(|port| *port != origin.scheme.default_port());
        NamedOrigin { scheme: origin.scheme, host: origin.host.name().to_owned(), port }
    }

    /// Reads an origin as browsers write it; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<NamedOrigin> {
        WebOrigin::parse(text).map(|origin| NamedOrigin::of(&origin))
    }

    /// Whether a request for `host` can be one to this origin.
    #[must_use]
    pub fn is_for(&self, host: &Host<'_>) -> bool {
        let own = self.scheme.default_port();
        self.host == host.name() && self.port.unwrap_or(own) == host.port().unwrap_or(own)
    }

    /// Whether this host is the machine itself, where browsers take cookies without TLS for safe enough.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl fmt::Display for NamedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// The place that a session cookie is good at. Its value is bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CookiePlace {
    /// One host, as [`super::request::Host::name`] gives it: cookies know no ports (RFC 6265 §8.5).
    Host(String),
    /// `[browser] domain`: that host and all below it.
    Domain(String),
}

/// A [`CookiePlace`] that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceRef<'a> {
    Host(&'a str),
    Domain(&'a str),
}

impl PlaceRef<'_> {
    /// The place itself.
    #[must_use]
    pub fn to_place(self) -> CookiePlace {
        match self {
            PlaceRef::Host(host) => CookiePlace::Host(host.to_owned()),
            PlaceRef::Domain(domain) => CookiePlace::Domain(domain.to_owned()),
        }
    }
}

impl CookiePlace {
    /// This place, to look for it.
    #[must_use]
    pub fn by_ref(&self) -> PlaceRef<'_> {
        match self {
            CookiePlace::Host(host) => PlaceRef::Host(host),
            CookiePlace::Domain(domain) => PlaceRef::Domain(domain),
        }
    }
}

/// What counts as a use of a session, so that its idle end moves (`use`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionUse {
    /// Every admitted request, and every frame that a client sends on a WebSocket.
    #[default]
    Every,
    /// `"navigation"`: only what a person opens or submits.
    Navigation,
    /// `false`: nothing.
    Never,
}

/// `[browser]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrowserSettings {
    /// Whether navigations are answered with pages and redirects, and sessions may travel in cookies.
    pub enabled: bool,
    /// The origin of `public_url`, where people sign in.
    pub public: NamedOrigin,
    /// The origins, spelled out in full, that a session may be carried to: the exact hosts of routes with the scheme of
    /// `public_url`, at the scheme's own port and at that of `public_url`, and `[browser] hosts`. Never what only a
    /// wildcard or a route without a host matches.
    pub hosts: Vec<NamedOrigin>,
    /// `[browser] domain`: one cookie for a domain and all below it, in lower case.
    pub domain: Option<String>,
    /// From the last use of a session to its end, where its owner did not ask to be kept signed in.
    pub idle: Duration,
    /// From the sign-in to the end, however much the session is used.
    pub absolute: Duration,
    /// From the last use to the end for those who ask to be kept signed in; `None`: the operator does not offer it.
    pub remember: Option<Duration>,
    /// Further origins that a browser may be sent back to after a sign-in; no session is carried there.
    pub return_to: Vec<NamedOrigin>,
    /// What counts as a use where the route does not say.
    pub uses: SessionUse,
    /// `[browser] insecure_http`: session cookies without `Secure` although the host is not this machine.
    pub insecure_http: bool,
}

impl BrowserSettings {
    /// Whether the session cookie has a name with a prefix, which browsers take over TLS only.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.public.scheme == Scheme::Https
    }

    /// The session cookies that a browser can have for `host`, by their names, and the place where the value of each
    /// counts. The one that wins comes first: no other host can plant a `__Host-` cookie, while every host of a domain
    /// can plant a `__Secure-` one.
    #[must_use]
    pub fn cookies_at<'a>(&'a self, host: &'a str) -> [Option<(&'static str, PlaceRef<'a>)>; 2] {
        let (own, domain) = (PlaceRef::Host(host), self.domain_of(host).map(PlaceRef::Domain));
        match self.is_secure() {
            true => [Some((HOST_SESSION_COOKIE, own)), domain.map(|domain| (SECURE_SESSION_COOKIE, domain))],
            // One name for both, so there is one of them.
            false => [Some((SESSION_COOKIE, domain.unwrap_or(own))), None],
        }
    }

    /// Whether `host` ([`Host::name`]) is spelled out: that of `public_url`, or one that a session can be carried to.
    #[must_use]
    pub fn is_named(&self, host: &str) -> bool {
        self.origins_of(host).next().is_some()
    }

    /// The origins under which `host` is spelled out.
    pub fn origins_of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a NamedOrigin> {
        self.hosts.iter().chain([&self.public]).filter(move |origin| origin.host == host)
    }

    /// Where a session cookie that is set on `host` counts. Browsers take no cookie for a domain that its host is not
    /// in (RFC 6265 §5.3), so a host outside of [`BrowserSettings::domain`] has one of its own.
    #[must_use]
    pub fn place(&self, host: &str) -> CookiePlace {
        match self.domain_of(host) {
            Some(domain) => CookiePlace::Domain(domain.to_owned()),
            None => CookiePlace::Host(host.to_owned()),
        }
    }

    /// [`BrowserSettings::domain`], when `host` is in it.
    fn domain_of(&self, host: &str) -> Option<&str> {
        let is_within = |domain: &&str| {
            host.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.domain.as_deref().filter(is_within)
    }
}

/// Where a browser without a session is sent (`sign_in` of a route).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SignInPage {
    /// `true`: our own page.
    #[default]
    Ours,
    /// `false`: nowhere; it gets 401.
    Nowhere,
    /// A page of the operator's own: a whole URL.
    At(String),
}

/// What a route says about browsers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteBrowser {
    pub sign_in: SignInPage,
    /// `app_cookies`: the names of the app's own session cookies. They are expired whenever the session of their host
    /// is set, ends or changes person, and not forwarded before.
    pub app_cookies: Vec<String>,
    /// `cache = "shared"`: shared caches may keep what the app answers to a request that a cookie admitted.
    pub is_cache_shared: bool,
    /// `use`; `None`: as `[browser]` says.
    pub uses: Option<SessionUse>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_form() {
        for (text, shown) in [
            ("https://App.test", "https://app.test"),
            ("https://app.test:443", "https://app.test"),
            ("http://app.test:443", "http://app.test:443"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(NamedOrigin::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for bad in ["", "null", "app.test", "https://app.test/x", "ftp://app.test"] {
            assert_eq!(NamedOrigin::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_session_cookie_of_a_host_comes_before_that_of_a_domain() {
        let origin = |text: &str| NamedOrigin::parse(text).unwrap();
        let settings = |public: &str, domain: Option<&str>| BrowserSettings {
            enabled: true,
            public: origin(public),
            hosts: Vec::new(),
            domain: domain.map(str::to_owned),
            idle: Duration::from_secs(60),
            absolute: Duration::from_secs(60),
            remember: None,
            return_to: Vec::new(),
            uses: SessionUse::Every,
            insecure_http: false,
        };
        let at = |public: &str, domain: Option<&str>, host: &str| {
            let settings = settings(public, domain);
            let cookies = settings.cookies_at(host);
            cookies.map(|cookie| cookie.map(|(name, place)| (name, place.to_place())))
        };
        let (tls, plain) = ("https://a.test", "http://a.test");
        let of_host = |name, host: &str| Some((name, CookiePlace::Host(host.to_owned())));
        let of_domain = |name, domain: &str| Some((name, CookiePlace::Domain(domain.to_owned())));
        assert_eq!(at(tls, None, "b.test"), [of_host("__Host-palisade", "b.test"), None]);
        assert_eq!(at(plain, None, "b.test"), [of_host("palisade", "b.test"), None]);
        for host in ["a.test", "x.a.test"] {
            let both = [of_host("__Host-palisade", host), of_domain("__Secure-palisade", "a.test")];
            assert_eq!(at(tls, Some("a.test"), host), both);
            assert_eq!(at(plain, Some("a.test"), host), [of_domain("palisade", "a.test"), None]);
        }
        assert_eq!(at(tls, Some("a.test"), "xa.test"), [of_host("__Host-palisade", "xa.test"), None]);
        assert_eq!(at(plain, Some("a.test"), "xa.test"), [of_host("palisade", "xa.test"), None]);
        assert_eq!(HOST_SESSION_COOKIE, format!("{}{SESSION_COOKIE}", super::super::credential::HOST_PREFIX));
        assert_eq!(SECURE_SESSION_COOKIE, format!("{SECURE_PREFIX}{SESSION_COOKIE}"));
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (text, is_loopback) in [
            ("http://localhost:8080", true),
            ("http://app.localhost", true),
            ("http://127.0.0.1", true),
            ("http://[::1]", true),
            ("http://localhost.test", false),
            ("http://192.168.0.1", false),
        ] {
            assert_eq!(NamedOrigin::parse(text).unwrap().is_loopback(), is_loopback, "{text}");
        }
    }
}

//! Cross-origin requests (the CORS protocol of the Fetch standard, §3.2): which origins may call, what they may send
//! and what they may read. An origin that is trusted with cookies is exempt from the check against CSRF.

use std::time::Duration;

/// The origins that may call from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// `"*"`.
    Any,
    /// Origins as browsers send them (RFC 6454 §6.2); none unless the file names some.
    These(Vec<String>),
}

/// `[cors]`, and `cors` of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    pub origins: Origins,
    /// Upper-case methods that a page may use; empty: every one that is taken. A browser asks for leave for all but GET, HEAD and
    /// POST, and for a POST that no form could send.
    pub allow_methods: Vec<String>,
    /// Request fields beyond [`ALLOWED`] that a page may send; `*` for every one.
    pub allow_headers: Vec<String>,
    /// Response fields beyond ours that a page may read; `*` for every one.
    pub expose_headers: Vec<String>,
    /// Whether a page may send cookies. Never together with a `*` (the configuration refuses it): browsers would
    /// ignore the answer, and an origin that is echoed instead would let every site act as its visitor.
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight, in whole seconds. Browsers have bounds of their own: two
    /// hours (Chromium), a day (Firefox).
    pub max_age: Duration,
}

/// Request fields that a page may always send: what carries a token, what makes a body JSON, what HTTP clients of
/// scripts add by themselves, and the context of a trace (W3C Trace Context, W3C Baggage, Sentry).
pub const ALLOWED: [&str; 7] = [
    "authorization",
    "baggage",
    "content-type",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "x-requested-with",
];
/// [`Cors::max_age`] unless the file says another.
pub const MAX_AGE: Duration = Duration::from_secs(600);
/// Response fields that a page may always read: the ones that our own refusals speak with.
pub const EXPOSED: [&str; 4] = ["hx-redirect", "retry-after", "www-authenticate", "x-request-id"];

impl Default for Cors {
    /// No origin.
    fn default() -> Cors {
        Cors {
            origins: Origins::These(Vec::new()),
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            credentials: false,
            max_age: MAX_AGE,
        }
    }
}

impl Cors {
    /// Whether pages of `origin`, as the `Origin` field says it, may call. Compared byte for byte.
    #[must_use]
    #[inline]
    pub fn allows(&self, origin: &[u8]) -> bool {
        match &self.origins {
            Origins::Any => true,
            Origins::These(some) => some.iter().any(|known| known.as_bytes() == origin),
        }
    }

    /// Whether pages of `origin` may use their visitor's cookies: they count as the app's own pages.
    #[must_use]
    pub fn trusts(&self, origin: &[u8]) -> bool {
        self.credentials && self.origins != Origins::Any && self.allows(origin)
    }

    /// Whether a page may use `method`, once its origin is allowed.
    #[must_use]
    pub fn allows_method(&self, method: &str) -> bool {
        self.allow_methods.is_empty() || self.allow_methods.iter().any(|allowed| allowed == method)
    }

    /// The value of `Access-Control-Allow-Headers`.
    #[must_use]
    pub fn allowed_headers(&self) -> String {
        joined(&ALLOWED, &self.allow_headers)
    }

    /// The value of `Access-Control-Expose-Headers`.
    #[must_use]
    pub fn exposed_headers(&self) -> String {
        joined(&EXPOSED, &self.expose_headers)
    }
}

/// `ours` and then `more`, each name once. `*` covers everything but `Authorization`, so `ours` stay beside it.
fn joined(ours: &[&str], more: &[String]) -> String {
    let mut names: Vec<&str> = ours.to_vec();
    for name in more {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            names.push(name);
        }
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: Origins, credentials: bool) -> Cors {
        Cors { origins, credentials, ..Cors::default() }
    }

    #[test]
    fn an_origin_is_allowed_only_in_the_very_form_that_is_listed() {
        let named = cors(Origins::These(vec!["https://app.test".into()]), true);
        assert!(named.allows(b"https://app.test") && named.trusts(b"https://app.test"));
        for other in [
            "https://app.test:443",
            "https://APP.test",
            "http://app.test",
            "https://app.test.evil",
            "https://app.test/",
            "null",
            "",
        ] {
            assert!(!named.allows(other.as_bytes()) && !named.trusts(other.as_bytes()), "{other}");
        }
        assert!(!Cors::default().allows(b"https://app.test"));
        let without = cors(Origins::These(vec!["https://app.test".into()]), false);
        assert!(!without.trusts(b"https://app.test"));
    }

    #[test]
    fn any_origin_is_never_trusted_with_cookies() {
        // The configuration refuses this pair; here it must be harmless all the same.
        let any = cors(Origins::Any, true);
        assert!(any.allows(b"https://evil.test") && !any.trusts(b"https://evil.test"));
    }

    #[test]
    fn every_method_is_allowed_until_some_are_named() {
        assert!(Cors::default().allows_method("DELETE"));
        let some = Cors { allow_methods: vec!["GET".into(), "PUT".into()], ..Cors::default() };
        assert!(some.allows_method("GET") && some.allows_method("PUT"));
        assert!(!some.allows_method("DELETE") && !some.allows_method("put"));
    }

    #[test]
    fn names_are_listed_once() {
        let cors = Cors { allow_headers: vec!["X-A".into(), "Content-Type".into()], ..Cors::default() };
        let ours =
            "authorization, baggage, content-type, sentry-trace, traceparent, tracestate, x-requested-with";
        assert_eq!(cors.allowed_headers(), format!("{ours}, X-A"));
        assert_eq!(cors.exposed_headers(), "hx-redirect, retry-after, www-authenticate, x-request-id");
    }
}

//! On which hosts the native endpoints answer, and which paths there are the gateway's own.

use super::browser::BrowserSettings;
use super::pattern::HostPattern;
use super::return_to::BESIDE_APPS;

/// Where password managers look for the page that changes a password (W3C, "A Well-Known URL for Changing Passwords").
pub const CHANGE_PASSWORD: &str = "/.well-known/change-password";

/// What of the gateway answers at a path, so that no app is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnPath {
    /// A native endpoint.
    Native,
    /// An endpoint beside the apps, below [`BESIDE_APPS`].
    BesideApps,
}

impl OwnPath {
    /// What answers at `path`, in normal form, on `host` ([`super::request::Host::name`]); `None`: the routes decide.
    ///
    /// `prefix`: what the native endpoints are below; they include what is said of our tokens in `/.well-known`. `browser`:
    /// `None` without sessions in cookies: then there is no page for an account either. The endpoints beside the apps are on the hosts that it names, whatever their routes
    /// say. Where no native endpoint answers, four of these are ours and no other. The host is looked at last: a request for
    /// any other path pays nothing for it.
    #[must_use]
    #[inline]
    pub fn at(
        host: &str,
        path: &str,
        prefix: &str,
        native: &NativeHosts,
        browser: Option<&BrowserSettings>,
    ) -> Option<OwnPath> {
        let is_well_known = || match path {
            "/.well-known/jwks.json" | "/.well-known/oauth-authorization-server" => true,
            CHANGE_PASSWORD => browser.is_some(),
            _ => false,
        };
        if (is_below(path, prefix) || is_well_known()) && native.has(host) {
            return Some(OwnPath::Native);
        }
        let below = path.strip_prefix(BESIDE_APPS)?;
        let is_beside = matches!(below, "/session" | "/sign-out" | "/token" | "/carry")
            || (below.is_empty() || below.starts_with('/')) && native.has(host);
        (is_beside && browser?.is_named(host)).then_some(OwnPath::BesideApps)
    }
}

/// Whether `path` is `prefix`, which does not end in a slash, or lies below it.
#[must_use]
#[inline]
pub fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `[native] hosts`. On every other host the paths of the native endpoints are the app's: the route table alone decides
/// about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NativeHosts {
    /// The key is not set.
    #[default]
    Every,
    /// These.
    These(Vec<HostPattern>),
}

impl NativeHosts {
    /// Whether native endpoints answer on `host`, a name in normal form ([`super::request::Host::name`]).
    #[must_use]
    pub fn has(&self, host: &str) -> bool {
        match self {
            NativeHosts::Every => true,
            NativeHosts::These(hosts) => hosts.iter().any(|pattern| pattern.takes(host)),
        }
    }

    /// Whether native endpoints answer on each host that `route` takes.
    #[must_use]
    pub fn takes_all_of(&self, route: &HostPattern) -> bool {
        match self {
            NativeHosts::Every => true,
            NativeHosts::These(hosts) => hosts.iter().any(|pattern| route.relation(pattern).is_within()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::browser_settings;
    use super::*;

    fn these(hosts: &[&str]) -> NativeHosts {
        NativeHosts::These(hosts.iter().map(|host| HostPattern::of(host)).collect())
    }

    #[test]
    fn the_page_that_changes_a_password_is_ours_where_there_are_pages_and_native_endpoints() {
        let settings = browser_settings("https://auth.test");
        let native = these(&["auth.test"]);
        let at = |host, path, browser| OwnPath::at(host, path, "/auth", &native, browser);
        assert_eq!(at("auth.test", CHANGE_PASSWORD, Some(&settings)), Some(OwnPath::Native));
        for (host, path, browser) in [
            ("auth.test", CHANGE_PASSWORD, None),
            ("app.test", CHANGE_PASSWORD, Some(&settings)),
            ("auth.test", "/.well-known/change-password/", Some(&settings)),
            // A password manager asks for it to learn whether the answer to the other means anything.
            (
                "auth.test",
                "/.well-known/resource-that-should-not-exist-whose-status-code-should-not-be-200",
                Some(&settings),
            ),
        ] {
            assert_eq!(at(host, path, browser), None, "{host} {path}");
        }
    }

    #[test]
    fn a_host_is_listed_by_its_name_or_by_the_domain_that_it_is_below() {
        let hosts = these(&["auth.test", "*.in.test"]);
        for (host, is_native) in [
            ("auth.test", true),
            ("a.in.test", true),
            ("b.a.in.test", true),
            ("in.test", false),
            (".in.test", false),
            ("xin.test", false),
            ("x.auth.test", false),
            ("xauth.test", false),
            ("auth.test.evil.test", false),
            ("app.test", false),
            ("", false),
        ] {
            assert_eq!(hosts.has(host), is_native, "{host}");
            assert!(NativeHosts::Every.has(host));
            assert!(!these(&[]).has(host));
        }
    }

    #[test]
    fn a_route_is_taken_whole_when_each_of_its_hosts_is_native() {
        let hosts = these(&["auth.test", "*.in.test"]);
        let host = |route: Option<&str>| route.map_or(HostPattern::Every, HostPattern::of);
        for (route, is_taken) in [
            (Some("auth.test"), true),
            (Some("a.in.test"), true),
            (Some("*.in.test"), true),
            (Some("*.a.in.test"), true),
            (Some("*.test"), false),
            (Some("*.auth.test"), false),
            (Some("app.test"), false),
            (None, false),
        ] {
            assert_eq!(hosts.takes_all_of(&host(route)), is_taken, "{route:?}");
            assert!(NativeHosts::Every.takes_all_of(&host(route)));
        }
    }
}

//! On which hosts the native endpoints answer, and which paths there are the gateway's own.

use super::return_to::BESIDE_APPS;

/// Whether `path`, in normal form, is one of the native endpoints': those below `prefix`, and what is said of our tokens in
/// `/.well-known`. On which hosts they answer says [`NativeHosts`].
#[must_use]
#[inline]
pub fn is_native(path: &str, prefix: &str) -> bool {
    let below = path.strip_prefix(prefix);
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        || matches!(path, "/.well-known/jwks.json" | "/.well-known/oauth-authorization-server")
}

/// Whether `path`, in normal form, is one of the gateway's own on the hosts that session cookies are for.
/// `is_native_host`: whether native endpoints answer there, too.
#[must_use]
#[inline]
pub fn is_beside_apps(path: &str, is_native_host: impl FnOnce() -> bool) -> bool {
    let Some(below) = path.strip_prefix(BESIDE_APPS) else { return false };
    matches!(below, "/session" | "/sign-out" | "/token" | "/carry")
        || (below.is_empty() || below.starts_with('/')) && is_native_host()
}

use super::pattern::{HostPattern, Relation};

/// `[native] hosts`. On every other host the paths of the native endpoints are the app's: the route table alone decides
/// about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NativeHosts {
    /// The key is not set.
    #[default]
    Every,
    /// Hosts in lower case without a port, and `*.example.com` for the hosts below `example.com`.
    These(Vec<String>),
}

impl NativeHosts {
    /// Whether native endpoints answer on `host`, a name in normal form ([`super::request::Host::name`]).
    #[must_use]
    pub fn has(&self, host: &str) -> bool {
        match self {
            NativeHosts::Every => true,
            NativeHosts::These(hosts) => hosts.iter().any(|pattern| is_match(pattern, host)),
        }
    }

    /// Whether native endpoints answer on each host that `route` takes.
    #[must_use]
    pub fn takes_all_of(&self, route: &HostPattern) -> bool {
        let takes = |pattern: &String| {
            matches!(route.relation(&HostPattern::of(pattern)), Relation::Same | Relation::Narrower)
        };
        match self {
            NativeHosts::Every => true,
            NativeHosts::These(hosts) => hosts.iter().any(takes),
        }
    }
}

/// Whether `host` is `pattern`, or below it where that is `*.example.com`.
fn is_match(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern == host,
        Some(parent) => host
            .strip_suffix(parent)
            .and_then(|below| below.strip_suffix('.'))
            .is_some_and(|below| !below.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn these(hosts: &[&str]) -> NativeHosts {
        NativeHosts::These(hosts.iter().map(|&host| host.to_owned()).collect())
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

//! `[browser]` and `[pages]`: people with browsers.

use std::time::Duration;

use super::settings::{PagesSettings, Route};
use palisade_core::domain::browser::{BrowserSettings, NamedOrigin, SessionUse};
use palisade_core::domain::request::Scheme;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What holds where the file says nothing.
pub(super) fn browser(public_url: &str, routes: &[Route]) -> BrowserSettings {
    // `public_url` was read as an origin before, or is the default.
    let public = NamedOrigin::parse(public_url).unwrap_or(NamedOrigin {
        scheme: Scheme::Http,
        host: "localhost".to_owned(),
        port: Some(8080),
    });
    let hosts = exact_hosts(&public, routes);
    BrowserSettings {
        enabled: true,
        public,
        hosts,
        domain: None,
        idle: DAY / 2,
        absolute: DAY * 90,
        remember: Some(DAY * 30),
        return_to: Vec::new(),
        uses: SessionUse::Every,
        insecure_http: false,
    }
}

/// The origins of the hosts that routes spell out, at the default port and at that of `public_url`.
fn exact_hosts(public: &NamedOrigin, routes: &[Route]) -> Vec<NamedOrigin> {
    let mut origins: Vec<NamedOrigin> = Vec::new();
    for host in routes.iter().filter_map(|route| route.policy.host.as_deref()) {
        if host.starts_with('*') {
            continue;
        }
        for port in [None, public.port] {
            let origin = NamedOrigin { scheme: public.scheme, host: host.to_owned(), port };
            if !origins.contains(&origin) && origin != *public {
                origins.push(origin);
            }
        }
    }
    origins
}

/// What holds where the file says nothing.
pub(super) fn pages() -> PagesSettings {
    PagesSettings::default()
}

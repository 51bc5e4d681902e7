//! `fail` of the store and of routes, as other replicas know it.
//!
//! A replica is registered with whether anything of it takes credentials while the revocations are not confirmed. The answer to a
//! revocation names those that do, so none may begin to after it was registered as one that does not.

use crate::config::Config;
use palisade_core::domain::route::{Auth, FailMode};

/// Whether anything of this configuration takes credentials while the revocations are not confirmed.
pub(super) fn serves_on(config: &Config) -> bool {
    of_store(config) == FailMode::Open
        || config
            .routes
            .iter()
            .any(|route| route.policy.fail == FailMode::Open && route.policy.policy.auth != Auth::None)
}

/// `store.fail`: what becomes of credentials at the native endpoints.
pub(super) fn of_store(config: &Config) -> FailMode {
    config.store.postgres().map_or(FailMode::Closed, |settings| settings.fail)
}

/// Keeps a configuration that is read again to what the replica is registered with by `started`. Returns what the operator
/// should know.
pub(super) fn keep_registered(started: &Config, config: &mut Config) -> Option<String> {
    if serves_on(started) {
        return None;
    }
    let mut names = Vec::new();
    for route in &mut config.routes {
        if route.policy.fail == FailMode::Open && route.policy.policy.auth != Auth::None {
            names.push(route.policy.name.to_string());
            route.policy.fail = FailMode::Closed;
        }
    }
    (!names.is_empty()).then(|| {
        format!(
            "fail = \"open\" takes effect at a restart, since other replicas know this one as \"closed\"; until then these \
             routes are: {}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const ROUTES: &str = "[[routes]]\nname = \"a\"\nmatch = { path = \"/a\" }\nupstream = [\"http://127.0.0.1:3000\"]\n\
         [[routes]]\nname = \"b\"\nmatch = { path = \"/b\" }\nupstream = [\"http://127.0.0.1:3000\"]\n";

    /// A gateway over a shared store with `fail` of the store and of the routes.
    fn config(store: &str, [a, b]: [&str; 2]) -> Config {
        let fail = |fail: &str| if fail.is_empty() { String::new() } else { format!("fail = \"{fail}\"\n") };
        let (first, second) = ROUTES.split_at(ROUTES.rfind("[[").unwrap());
        let text = format!(
            "public_url = \"http://localhost:8080\"\n[store]\nurl = \"postgres://me@127.0.0.1/p\"\n{}\
             [vault]\nkeys = [\"env:KEY\"]\n{first}{}{second}{}",
            fail(store),
            fail(a),
            fail(b)
        );
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        config::parse(&text, Path::new("config.toml"), &|_| Some(key.to_owned()))
            .unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    #[test]
    fn a_reload_opens_nothing_on_a_replica_that_others_know_as_closed() {
        let modes = |config: &Config| [0, 1].map(|at| config.routes[at].policy.fail);
        let closed = config("", ["", "closed"]);
        assert!(!serves_on(&closed));
        let mut opened = config("open", ["", "closed"]);
        assert!(serves_on(&opened));
        let notice = keep_registered(&closed, &mut opened).unwrap();
        assert!(notice.ends_with("these routes are: a"), "{notice}");
        assert_eq!(modes(&opened), [FailMode::Closed; 2]);
        assert_eq!(keep_registered(&closed, &mut config("closed", ["", ""])), None);

        let open = config("", ["open", ""]);
        assert!(serves_on(&open) && of_store(&open) == FailMode::Closed);
        let mut other = config("", ["", "open"]);
        assert_eq!(keep_registered(&open, &mut other), None);
        assert_eq!(modes(&other), [FailMode::Closed, FailMode::Open]);
    }
}

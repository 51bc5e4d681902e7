//! `[[routes]]`: from the file to the policy for admission and the upstream for the proxy. A route that
//! could never be chosen is an error here, so that no request is judged by an unintended policy.

use std::net::SocketAddr;
use std::time::Duration;

use super::file::Section;
use super::form;
use super::matching::{self, Matched};
use super::other_issuers::OtherIssuerNames;
use super::read::require;
use super::settings::{Route, Tokens};
use super::store::{self, SharedStore};
use super::{access_token, app_accounts, authorization, browser, cors, identity_headers, upstreams};
use palisade_core::domain::route::{self, Allow, Auth, Policy};

const HOUR: Duration = Duration::from_secs(3600);
/// How long an exchange goes on past the expiry of a token without a session of ours.
const AFTER_EXPIRY: Duration = HOUR;

/// What the other sections name.
pub struct Known<'a> {
    /// Our own issuer and the external ones as they are written, each with the `iss` of its tokens.
    pub issuers: Vec<(String, Vec<String>)>,
    /// Those of them whose tokens are taken only where a route names them.
    pub others: OtherIssuerNames,
    pub providers: Vec<String>,
    /// Where clients reach us; an upstream there would be a loop.
    pub listeners: Vec<SocketAddr>,
    pub tokens: &'a Tokens,
    /// The store, where several replicas share it.
    pub store: Option<&'a SharedStore>,
    /// Whether `store.url` is meant to name a sled store.
    pub is_sled_meant: bool,
}

/// Every route of the file; those with errors are left out, and reported.
pub fn routes(root: &Section<'_>, known: &Known<'_>) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let sections = root.sections("routes");
    if sections.is_empty() {
        root.doc.warn(0, "routes", "no route, so nothing is proxied");
    }
    let mut names: Vec<String> = Vec::new();
    let mut taken: Vec<Matched> = Vec::new();
    let first = sections.first().map(|section| section.at);
    for (index, section) in sections.into_iter().enumerate() {
        let want = "a name of letters, digits, '-', '_' and '.'";
        let name = section.required("name", want).and_then(|item| {
            let name = item.read(want, |text| form::is_label(text).then(|| text.to_owned()))?;
            if names.contains(&name) {
                return item.bad("a name that no other route has");
            }
            names.push(name.clone());
            Some(name)
        });
        let allow = allow(&section);
        let mut policy = policy(&section, known);
        let label = name.clone().unwrap_or_else(|| format!("routes[{index}]"));
        let matched = matching::matched(&section, label, allow, policy.auth);
        let paths = matched.as_ref().map(|matched| &matched.paths[..]).unwrap_or_default();
        let upstream = upstreams::upstream(&section, &known.listeners, paths);
        let (forward, identity) = identity_headers::forward(&section, &known.providers, policy.auth);
        policy.require.identity = identity;
        known.others.judge(&section, &mut policy);
        authorization::refuse_clashes(&section, &policy, &forward);
        access_token::judge(&section, &policy, &forward, known.tokens);
        let cors_item = section.get("cors");
        let cors = cors_item.as_ref().and_then(cors::of_route);
        let browser = browser::of_route(&section, policy.auth);
        let after_expiry = after_expiry(section.section("streams"));
        let fail = store::fail_of_route(&section, known.store, known.is_sled_meant);
        section.close();
        if let (Some(name), Some(matched), Some((upstream, upstream_path))) = (name, &matched, upstream) {
            let name = name.into();
            let mut upstreams: Vec<String> = upstream.origins.iter().map(ToString::to_string).collect();
            upstreams.sort();
            let policy = route::Route {
                name,
                index,
                upstreams,
                upstream_path,
                hosts: matched.hosts.clone(),
                paths: matched.paths.clone(),
                methods: matched.methods.clone(),
                networks: matched.networks.clone(),
                public: matched.public.clone(),
                policy,
                allow,
                after_expiry,
                fail,
                cors,
                browser,
            };
            if let Some(item) = &cors_item {
                cors::refuse_lent_networks(item, &policy);
            }
            routes.push(Route { policy, upstream, forward });
        }
        taken.extend(matched);
    }
    matching::refuse_undecided(root.doc, &taken);
    upstreams::warn_of_other_ways(root, &routes);
    let names = known.issuers.iter().flat_map(|(_, names)| names);
    let everywhere: Vec<String> = names.filter(|issuer| known.others.signs_jwts(issuer)).cloned().collect();
    app_accounts::judge(root, &routes, &everywhere, &known.tokens.issuer);
    if let Some(first) = first
        && routes.iter().all(|route| route.policy.policy.auth == Auth::None)
    {
        root.doc.warn(first, "routes", "every route has auth = \"none\": no request needs a token");
    }
    routes
}

/// `streams`: what outlives one answer.
fn after_expiry(section: Section<'_>) -> Duration {
    let after_expiry = section.duration("after_expiry", AFTER_EXPIRY, Duration::ZERO..=HOUR * 24 * 366);
    section.close();
    after_expiry
}

fn allow(section: &Section<'_>) -> Allow {
    let words = [("encoded-slash", 0), ("empty-segment", 1)];
    let allowed = section.list("allow", |item| item.choice(&words));
    Allow { encoded_slash: allowed.contains(&0), empty_segment: allowed.contains(&1) }
}

fn policy(section: &Section<'_>, known: &Known<'_>) -> Policy {
    let words = [("required", Auth::Required), ("optional", Auth::Optional), ("none", Auth::None)];
    // Forgetting the key must not open a route.
    let auth = section.choice("auth", &words, Auth::Required);
    let require = require(section.section("require"));
    let carriers = authorization::carriers(section, auth);
    let issuers = section.list("issuers", |item| {
        let name = item.text("the name of an issuer")?;
        if let Some((_, names)) = known.issuers.iter().find(|(written, _)| written == name) {
            return Some(names.clone());
        }
        // One tenant of several.
        if known.issuers.iter().any(|(_, names)| names.iter().any(|known| known == name)) {
            return Some(vec![name.to_owned()]);
        }
        let written: Vec<&str> = known.issuers.iter().map(|(written, _)| written.as_str()).collect();
        item.bad(&format!("a configured issuer: {}", written.join(", ")))
    });
    let issuers = issuers.concat();
    if auth == Auth::None {
        for name in ["require", "issuers", "fail"] {
            if let Some(item) = section.get(name) {
                item.bad_as::<()>(
                    "a condition on a route with auth = \"none\"",
                    "auth = \"required\": without it tokens are not looked at",
                );
            }
        }
    }
    Policy { auth, require, carriers, issuers }
}

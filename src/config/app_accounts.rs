//! What identity headers mean for the accounts that an app makes of them: each must be one person's.
//!
//! An app takes what stands in a field for one of its users and nothing else for it. So a field that may name a user is held,
//! with every other one of that name whose route leads to the same app, to one issuer and one source; what people can
//! choose themselves names no user; and no client writes such a field by way of another route.

use super::file::{Item, Section};
use super::settings::Route;
use palisade_core::domain::identity_fields::IdentitySource;
use palisade_core::domain::reserved::{fold, names_a_user};
use palisade_core::domain::route::Auth;

/// The claims that say how people want to be shown, or who they say they are (OpenID Connect Core §5.1): here, and with most
/// issuers, people set them themselves.
const SELF_SET: [&str; 15] = [
    "address",
    "birthdate",
    "displayName",
    "display_name",
    "family_name",
    "gender",
    "given_name",
    "locale",
    "middle_name",
    "name",
    "nickname",
    "phone_number",
    "picture",
    "profile",
    "website",
];

/// A field that an app may take for one of its users.
struct Naming<'a> {
    header: &'a str,
    source: IdentitySource,
    /// The key that says so, below the route's.
    key: &'static str,
}

/// The fields of one route that may name a user, with whose people those are.
struct Named<'a> {
    route: &'a Route,
    issuer: String,
    fields: Vec<Naming<'a>>,
}

/// Refuses routes on which one person could enter the account of another, and warns where that depends on an issuer.
/// `issuers`: all that are configured, `own` among them.
pub(super) fn judge(root: &Section<'_>, routes: &[Route], issuers: &[String], own: &str) {
    let sections = root.sections("routes");
    let mut before: Vec<Named<'_>> = Vec::new();
    for route in routes {
        let policy = &route.policy.policy;
        let Some(section) = sections.get(route.policy.index) else { continue };
        refuse_passed(section, route, routes);
        if policy.auth == Auth::None {
            continue;
        }
        refuse_chosen(section, route);
        let has_preset = section.section("headers").get("preset").is_some();
        let fields = naming(route, has_preset);
        let Some(first) = fields.first() else { continue };
        let headers = section.get("headers").map_or(section.at, |item| item.at);
        let key = |name: &str| format!("{}.{name}", section.key);
        let mut accepted = if policy.issuers.is_empty() { issuers.to_vec() } else { policy.issuers.clone() };
        accepted.sort();
        accepted.dedup();
        let [issuer] = accepted.as_slice() else {
            let header = first.header;
            let beside = match first.key {
                "headers.preset" => "headers.preset".to_owned(),
                _ => format!("{header:?}"),
            };
            section.doc.fault(
                section.get("issuers").map_or(headers, |item| item.at),
                &key("issuers"),
                format!("several issuers beside {beside}: {}", accepted.join(", ")),
                format!(
                    "one issuer: {header} does not say whose it is, so a person of one issuer could enter the account of \
                     another's"
                ),
            );
            continue;
        };
        if fields.iter().any(|field| field.source == IdentitySource::Username) && issuer != own {
            let text = format!(
                "people of {issuer} enter the account of the app that their `preferred_username` names: only where that \
                 issuer lets no person choose or change it (OpenID Connect Core §5.7)"
            );
            section.doc.warn(headers, &key("headers.user"), &text);
        }
        let named = Named { route, issuer: issuer.clone(), fields };
        if let Some((other, field)) = before.iter().find_map(|other| Some((other, other.mixes_with(&named)?)))
        {
            section.doc.fault(
                headers,
                &key(field.key),
                format!(
                    "another issuer or another `user` than route {:?}, which has an upstream in common",
                    other.route.policy.name
                ),
                "one issuer and one `user` for all routes of an app: else it takes two people for one",
            );
        }
        before.push(named);
    }
}

/// Refuses what people choose themselves where apps look for a user.
fn refuse_chosen(section: &Section<'_>, route: &Route) {
    let chosen = |source: &IdentitySource| match source {
        IdentitySource::Claim(path) => path.name().filter(|name| SELF_SET.contains(name)).map(str::to_owned),
        IdentitySource::Username | IdentitySource::Subject | IdentitySource::Email => None,
    };
    for field in route.policy.policy.require.told().filter(|field| names_a_user(&field.header)) {
        let Some(claim) = chosen(&field.source) else { continue };
        section.doc.fault(
            place(section, "claims"),
            &format!("{}.headers.claims", section.key),
            format!("{claim:?} in {:?}, by which apps know a user", field.header),
            "a claim that people cannot set themselves, such as \"sub\" or \"preferred_username\": else they choose the account \
             that they enter",
        );
    }
    let forward = &route.forward;
    for (key, header) in
        [("session", &forward.session), ("scopes", &forward.scopes), ("issuer", &forward.issuer)]
    {
        let Some(header) = header.as_ref().filter(|header| names_a_user(header)) else { continue };
        section.doc.fault(
            place(section, key),
            &format!("{}.headers.{key}", section.key),
            format!("{header:?}, by which apps know a user"),
            "another name: what it holds is many people's, or none's",
        );
    }
}

/// Where a key of `headers` is written.
fn place(section: &Section<'_>, key: &'static str) -> usize {
    let Some(headers) = section.get("headers") else { return section.at };
    let at = headers.section().and_then(|headers| headers.get(key).map(|item| item.at));
    at.unwrap_or(headers.at)
}

/// Refuses to pass what clients write in a field by which another route tells the same app who a caller is.
fn refuse_passed(section: &Section<'_>, route: &Route, routes: &[Route]) {
    for passed in &route.forward.pass {
        let sets = |other: &&Route| {
            let mut names = other.forward.names(&other.policy.policy);
            // A route that knows no caller says nothing of one.
            let tells = other.policy.policy.auth != Auth::None;
            tells && is_one_app(route, other) && names.any(|name| fold(name) == fold(passed))
        };
        let Some(other) = routes.iter().filter(|other| other.policy.name != route.policy.name).find(sets)
        else {
            continue;
        };
        let items = section.get("pass").map(|item| item.list()).unwrap_or_default();
        let item = items.iter().find(|item: &&Item<'_>| item.raw() == Some(passed.as_str()));
        let (at, key) = match item {
            Some(item) => (item.at, item.key.clone()),
            None => (section.at, format!("{}.pass", section.key)),
        };
        section.doc.fault(
            at,
            &key,
            format!(
                "{passed:?}, in which route {:?} says who the caller is to the same upstream",
                other.policy.name
            ),
            "no name that a route of the same app sets: clients could choose who they are",
        );
    }
}

/// The fields of a route that may name a user, those of the preset first. Its five fields with their own names are none: they
/// come with the issuer.
fn naming(route: &Route, has_preset: bool) -> Vec<Naming<'_>> {
    let told = route.policy.policy.require.told();
    let mut fields: Vec<Naming<'_>> = Vec::new();
    let preset = |header: &str| has_preset && ["Remote-User", "Remote-Email"].contains(&header);
    for field in told {
        let names = match &field.source {
            IdentitySource::Username | IdentitySource::Subject | IdentitySource::Email => true,
            IdentitySource::Claim(_) => names_a_user(&field.header),
        };
        let key = if preset(&field.header) { "headers.preset" } else { "headers.claims" };
        if names && !is_usual(&field.header, &field.source) {
            fields.push(Naming { header: &field.header, source: field.source.clone(), key });
        }
    }
    let forward = &route.forward;
    // An app that is also told the issuer by a name of its own can tell people of two issuers apart.
    let tells_issuer = forward.issuer.as_ref().is_some_and(|name| fold(name) != "x-auth-issuer");
    for (key, header, source) in [
        ("headers.subject", &forward.subject, IdentitySource::Subject),
        ("headers.email", &forward.email, IdentitySource::Email),
    ] {
        if let Some(header) = header
            && !is_usual(header, &source)
            && (names_a_user(header) || !tells_issuer)
        {
            fields.push(Naming { header, source, key });
        }
    }
    fields
}

/// Whether a field is one of those that every route sends, holding what it does by default.
fn is_usual(header: &str, source: &IdentitySource) -> bool {
    let folded = header.to_ascii_lowercase();
    match source {
        IdentitySource::Subject => fold(&folded) == "x-auth-subject",
        IdentitySource::Email => fold(&folded) == "x-auth-email",
        IdentitySource::Username | IdentitySource::Claim(_) => false,
    }
}

impl Named<'_> {
    /// The field of `later` by which the app of both takes two people for one.
    fn mixes_with<'n>(&self, later: &'n Named<'_>) -> Option<&'n Naming<'n>> {
        if !is_one_app(self.route, later.route) {
            return None;
        }
        if self.issuer != later.issuer {
            return later.fields.first();
        }
        let differs = |field: &&Naming<'_>| {
            let same = self.fields.iter().find(|own| fold(own.header) == fold(field.header));
            same.is_some_and(|own| own.source != field.source)
        };
        later.fields.iter().find(differs)
    }
}

/// Whether two routes have an upstream in common.
fn is_one_app(one: &Route, other: &Route) -> bool {
    let apps = |route: &Route| route.policy.upstreams.iter().map(|origin| app(origin)).collect::<Vec<_>>();
    let others = apps(other);
    apps(one).iter().any(|app| others.contains(app))
}

/// An upstream by host, port and what is behind them, without the scheme. Every name of this machine is one host.
fn app(origin: &str) -> String {
    const HERE: [&str; 6] = ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"];
    let Some((scheme, rest)) = origin.split_once("://") else { return origin.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let usual = if scheme == "https" { "443" } else { "80" };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, usual),
    };
    let host = host.to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    let host = if HERE.contains(&host) || host.ends_with(".localhost") { "localhost" } else { host };
    format!("{host}:{port}{path}")
}

#[cfg(test)]
mod tests {
    use super::app;

    #[test]
    fn the_names_of_this_machine_are_one_upstream() {
        let one = app("http://127.0.0.1:3000");
        for same in [
            "http://localhost:3000",
            "https://localhost:3000",
            "http://[::1]:3000",
            "http://LOCALHOST.:3000",
            "http://app.localhost:3000",
            "http://0.0.0.0:3000",
        ] {
            assert_eq!(app(same), one, "{same}");
        }
        for other in [
            "http://127.0.0.1:3001",
            "http://127.0.0.1",
            "http://localhost.test:3000",
            "http://notlocalhost:3000",
            "http://127.0.0.2:3000",
            "unix:/run/app.sock",
        ] {
            assert_ne!(app(other), one, "{other}");
        }
        assert_eq!(app("http://[::1]"), app("http://localhost:80"));
    }
}

//! Rules that are decided, and that may still give more, or less, than their operator means: `check` and a start warn of
//! them.

use ipnet::IpNet;

use super::file::Section;
use super::settings::Route;
use palisade_core::domain::claim_path::ClaimPath;
use palisade_core::domain::order::{self, RouteAt};
use palisade_core::domain::pattern::{HostPattern, PathPattern};
use palisade_core::domain::route::{self as policy, Auth};

/// Warns of all of them. `proxies`: `server.trusted_proxies`.
pub(super) fn warn(root: &Section<'_>, routes: &[Route], proxies: &[IpNet]) {
    let sections = root.sections("routes");
    let rules = order::ordered(routes.iter().map(|route| &route.policy));
    let named = routes.iter().map(|route| &route.policy);
    let named = named.filter_map(|route| Some((route, sections.get(route.index)?)));
    for (route, section) in named.clone() {
        warn_of_stars(section, route, &rules);
    }
    for (route, section) in named.filter(|(route, _)| !route.networks.is_empty()) {
        warn_of_rebinding(section, route);
        warn_of_proxies(section, route, proxies);
        if proxies.is_empty() {
            warn_of_unnamed_proxies(section, route, &rules);
        }
    }
}

/// Warns of a rule that lets in clients of its networks without a sign-in, under any host.
fn warn_of_rebinding(section: &Section<'_>, route: &policy::Route) {
    if route.lets_in_without_sign_in() && route.hosts.contains(&HostPattern::Every) {
        let text = format!(
            "route {:?} lets clients of its networks in without a sign-in, under any host: the page of another site can give its \
             own host name the address of this gateway (DNS rebinding) and read the app in a browser of these networks; \
             name the hosts in match.host",
            route.name
        );
        let item = section.get("match");
        section.doc.warn(item.map_or(section.at, |item| item.at), &format!("{}.match", section.key), &text);
    }
}

/// Warns of a network that holds no client.
fn warn_of_proxies(section: &Section<'_>, route: &policy::Route, proxies: &[IpNet]) {
    let is_proxies = |net: &&IpNet| proxies.iter().any(|proxies| proxies.contains(*net));
    let item = section.section("match").get("networks");
    if let (Some(net), Some(item)) = (route.networks.iter().find(is_proxies), item) {
        let text = format!(
            "no client is in {net}: server.trusted_proxies holds it, so an address there is a proxy's and not a client's; \
             list the proxies alone"
        );
        item.doc.warn(item.at, &item.key, &text);
    }
}

/// Warns of a rule that gives clients of its networks more than others get: behind a proxy that is not named, every client
/// has the proxy's address.
fn warn_of_unnamed_proxies(section: &Section<'_>, route: &policy::Route, rules: &[RouteAt<'_>]) {
    let item = section.section("match").get("networks");
    if let (Some(than), Some(item)) = (gives_more(route, rules), item) {
        let text = format!(
            "route {:?} gives clients of these networks more than {than}, and server.trusted_proxies is empty: behind a proxy \
             that does not name its clients, all of them have the proxy's address; name the proxies, or let clients reach \
             this gateway themselves",
            route.name
        );
        item.doc.warn(item.at, &item.key, &text);
    }
}

/// What gives less than `route` to clients that are in none of its networks, in words; `None`: nothing does.
fn gives_more(route: &policy::Route, rules: &[RouteAt<'_>]) -> Option<String> {
    let shares_method = |other: &policy::Route| {
        let (own, theirs) = (&route.methods, &other.methods);
        own.is_empty() || theirs.is_empty() || own.iter().any(|method| theirs.contains(method))
    };
    for (host, path) in route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path))) {
        // Without the route, the first of these would answer.
        let mut others = rules.iter().filter(|other| {
            other.route.index != route.index
                && other.route.networks.is_empty()
                && shares_method(other.route)
                && host.relation(other.host).is_within()
                && other.path.holds(path)
        });
        match others.next().map(|other| other.route) {
            Some(other) if is_more(route, other) => {
                return Some(format!("route {:?} gives others", other.name));
            }
            Some(_) => {}
            None if route.policy.auth != Auth::Required => {
                return Some("others, who get nothing there".to_owned());
            }
            None => {}
        }
    }
    None
}

/// Warns of paths such as `/admin/*` where `/admin` itself is left to a rule that asks for less: an operator who writes the
/// star may mean both.
fn warn_of_stars(section: &Section<'_>, route: &policy::Route, rules: &[RouteAt<'_>]) {
    for (index, path) in route.paths.iter().enumerate().filter(|(_, path)| !path.is_exact()) {
        let Some(above) = path.as_str().strip_suffix("/*") else { continue };
        let above = if above.is_empty() { "/" } else { above };
        let Ok(pattern) = PathPattern::parse(above) else { continue };
        let sample = pattern.common_path(&pattern).unwrap_or_default();
        let gives_more = |host: &HostPattern| {
            let mut others = rules
                .iter()
                .filter(|other| host.relation(other.host).is_within() && other.path.takes(&sample));
            others.next().filter(|other| {
                let is_for_more = !route.networks.is_empty() && other.route.networks.is_empty();
                is_for_more || is_more(other.route, route)
            })
        };
        let Some(other) = route.hosts.iter().find_map(gives_more) else { continue };
        let item = section.section("match").get("path");
        let Some(item) = item.and_then(|item| item.list().into_iter().nth(index)) else { continue };
        let text = format!(
            "takes what is below {above} and not {above} itself, which route {:?} gives to more clients; want {above:?} \
                 for both",
            other.route.name
        );
        item.doc.warn(item.at, &item.key, &text);
    }
}

/// Whether `one` lets pass what `other` refuses.
fn is_more(one: &policy::Route, other: &policy::Route) -> bool {
    let open = |auth: Auth| match auth {
        Auth::Required => 0,
        Auth::Optional => 1,
        Auth::None => 2,
    };
    let (own, theirs) = (&one.policy, &other.policy);
    if open(own.auth) != open(theirs.auth) {
        return open(own.auth) > open(theirs.auth);
    }
    let lacks_claim = |(path, values): &(ClaimPath, Vec<String>)| {
        let own = own.require.claims.iter().find(|(own, _)| own == path);
        !own.is_some_and(|(_, own)| own.iter().all(|value| values.contains(value)))
    };
    let takes_others = own.issuers.iter().any(|name| !theirs.issuers.contains(name));
    theirs.require.scopes.iter().any(|scope| !own.require.scopes.contains(scope))
        || (theirs.require.email_verified && !own.require.email_verified)
        || (theirs.require.identity.is_some() && own.require.identity.is_none())
        || theirs.require.claims.iter().any(lacks_claim)
        || (!theirs.issuers.is_empty() && (own.issuers.is_empty() || takes_others))
        || (own.carriers.leaves_to_app() && !theirs.carriers.leaves_to_app())
        || one.public.iter().any(|public| !other.public.contains(public))
}

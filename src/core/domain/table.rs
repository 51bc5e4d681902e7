//! The table of routes: which rule decides about a request.
//!
//! A place is one path pattern of one host pattern, with the rules that routes have there. Of the hosts that have a place for
//! the path, the most specific one decides. There the narrowest place decides, and in it first the client's network and then
//! the method. When the narrowest place refuses a request, no wider place is asked.

mod misread;

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use super::destination;
use super::folded::{self, FoldedPatterns, Name};
use super::overlap::public_paths;
use super::pattern::{HostPattern, PathPattern, Relation};
use super::reading::PathReading;
use super::request::{Malformed, Path, Request};
use super::route::{NetworkMatch, Route};
use super::trie::Trie;
use super::verdict::Refusal;

/// What decides about a request.
#[derive(Debug)]
pub struct Deciding<'t, R> {
    pub entry: &'t Arc<R>,
    /// Whether the request passes without a caller, whatever the policy says (`public`).
    pub is_open: bool,
}

/// What one route says at one place.
#[derive(Debug, Clone)]
struct Rule {
    /// The index of its entry.
    entry: usize,
    /// The methods that pass without a caller here (`public`).
    open: Vec<String>,
    /// Whether it takes every method of every client.
    is_plain: bool,
}

#[derive(Debug)]
struct Place {
    path: PathPattern,
    /// Its path as servers read it.
    names: Vec<Name>,
    /// Whether every server reads its path alike, but for its case.
    is_plain: bool,
    /// Those that name methods first.
    rules: Vec<Rule>,
}

/// What decides on the hosts of one pattern.
#[derive(Debug)]
struct HostPlaces {
    /// The places of this host pattern.
    trie: Trie,
    /// The tries of the wider host patterns, which decide where this one has no place: indices of hosts, the most specific
    /// first. Those of a pattern whose every path is taken by a narrower one are left out.
    wider: Vec<usize>,
    /// Every place that may decide here, by its index.
    places: Vec<usize>,
    /// The same as servers read them.
    folded: FoldedPatterns,
    /// Whether all their patterns are plain: then a plain path is read by every server alike, but for a slash at its end.
    is_plain: bool,
    has_exact: bool,
    /// The entries that take requests here, each once, the most specific first.
    entries: Vec<usize>,
}

/// All routes. An entry is a [`Route`], or holds one beside what its owner needs to serve it.
#[derive(Debug)]
pub struct Table<R = Route> {
    /// In the order of the file.
    entries: Vec<Arc<R>>,
    /// By host, the most specific first; narrower paths before wider ones.
    places: Vec<Place>,
    hosts: Vec<HostPlaces>,
    /// Host names with the indices of their hosts, sorted.
    exact: Vec<(Box<str>, usize)>,
    /// The ends of host names, from a dot on, with the indices of their hosts, sorted.
    below: Vec<(Box<str>, usize)>,
    every: Option<usize>,
    has_networks: bool,
}

impl<R: AsRef<Route>> Table<R> {
    /// Makes the places of all routes. Configuration refuses before this what two rules could both take.
    #[must_use]
    pub fn new(routes: Vec<R>) -> Table<R> {
        let entries: Vec<Arc<R>> = routes.into_iter().map(Arc::new).collect();
        let routes: Vec<&Route> = entries.iter().map(route).collect();
        let has_networks = routes.iter().any(|route| !route.networks.is_empty());
        let mut groups: Vec<(HostPattern, Vec<Place>)> = Vec::new();
        for host in routes.iter().flat_map(|route| &route.hosts) {
            if !groups.iter().any(|(other, _)| other == host) {
                groups.push((host.clone(), places_of(host, &routes)));
            }
        }
        groups.sort_by_key(|(host, _)| rank(host));
        let mut table = Table {
            entries,
            places: Vec::new(),
            hosts: Vec::new(),
            exact: Vec::new(),
            below: Vec::new(),
            every: None,
            has_networks,
        };
        let patterns: Vec<HostPattern> = groups.iter().map(|(host, _)| host.clone()).collect();
        let mut ranges = Vec::new();
        for (_, places) in groups {
            let start = table.places.len();
            table.places.extend(places);
            ranges.push(start..table.places.len());
        }
        for (index, host) in patterns.iter().enumerate() {
            let wider =
                (0..patterns.len()).filter(|other| host.relation(&patterns[*other]) == Relation::Narrower);
            let places = table.host_places(index, wider.collect(), &ranges);
            table.hosts.push(places);
            match host {
                HostPattern::Every => table.every = Some(index),
                HostPattern::Below(suffix) => table.below.push((suffix.as_str().into(), index)),
                HostPattern::Exact(name) => table.exact.push((name.as_str().into(), index)),
            }
        }
        table.exact.sort();
        table.below.sort();
        table
    }

    fn host_places(&self, own: usize, wider: Vec<usize>, ranges: &[std::ops::Range<usize>]) -> HostPlaces {
        let mut trie = Trie::new();
        let mut places: Vec<usize> = ranges[own].clone().collect();
        for index in places.iter().rev() {
            trie.insert(&self.places[*index].path, *index);
        }
        let all = [own].into_iter().chain(wider.iter().copied()).flat_map(|host| ranges[host].clone());
        let mut entries: Vec<usize> = Vec::new();
        for rule in all.flat_map(|index| &self.places[index].rules) {
            if !entries.contains(&rule.entry) {
                entries.push(rule.entry);
            }
        }
        let mut kept = Vec::new();
        for host in wider {
            let is_hidden = |index: &usize| {
                let path = &self.places[*index].path;
                places.iter().any(|narrower| self.places[*narrower].path.holds(path))
            };
            let more: Vec<usize> = ranges[host].clone().filter(|index| !is_hidden(index)).collect();
            if !more.is_empty() {
                kept.push(host);
                places.extend(more);
            }
        }
        let mut folded = FoldedPatterns::new();
        for index in &places {
            folded.insert(&self.places[*index].path, *index);
        }
        let is_plain = places.iter().all(|index| self.places[*index].is_plain);
        let has_exact = places.iter().any(|index| self.places[*index].path.is_exact());
        HostPlaces { trie, wider: kept, places, folded, is_plain, has_exact, entries }
    }

    /// The entries in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<R>> {
        self.entries.iter()
    }

    /// The entries that take requests for `host`, most specific first.
    pub fn of_host(&self, host: &str) -> impl Iterator<Item = &Arc<R>> {
        let entries = self.host(host).into_iter().flat_map(|places| &places.entries);
        entries.map(|index| &self.entries[*index])
    }

    /// The entry that a path, in normal form, belongs to, whatever methods and clients it takes.
    #[must_use]
    pub fn of_path(&self, host: &str, path: &str) -> Option<&Arc<R>> {
        let place = self.look(self.host(host)?, |trie| trie.find(path))?;
        place.rules.first().map(|rule| &self.entries[rule.entry])
    }

    /// Whether any route depends on the client's network: only then [`Request::client`] is read.
    #[must_use]
    #[inline]
    pub fn has_networks(&self) -> bool {
        self.has_networks
    }

    /// What decides on `host`: the most specific host pattern that takes it.
    fn host(&self, host: &str) -> Option<&HostPlaces> {
        let named = |names: &[(Box<str>, usize)], text: &str| {
            let found = names.binary_search_by(|(name, _)| (**name).cmp(text)).ok();
            found.map(|at| names[at].1)
        };
        let exact = if self.exact.is_empty() { None } else { named(&self.exact, host) };
        let below = || {
            if self.below.is_empty() {
                return None;
            }
            // The longest end comes first. What a pattern takes is longer than its end.
            let dots = host.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
            dots.filter_map(|at| named(&self.below, &host[at..])).next()
        };
        exact.or_else(below).or(self.every).map(|index| &self.hosts[index])
    }

    /// The place that `find` gives for the most specific host that has one.
    #[inline]
    fn look(&self, host: &HostPlaces, find: impl Fn(&Trie) -> Option<usize>) -> Option<&Place> {
        let wider = || host.wider.iter().find_map(|wider| find(&self.hosts[*wider].trie));
        find(&host.trie).or_else(wider).map(|index| &self.places[index])
    }

    /// The rule of `place` for this method and this client: of those that take both, the one with the narrowest network that
    /// holds the client, and then one that names the method before one that takes all.
    fn rule<'t>(
        &'t self,
        place: &'t Place,
        method: &str,
        client: Option<IpAddr>,
    ) -> Result<&'t Rule, Refusal> {
        if let [rule] = &*place.rules
            && rule.is_plain
        {
            return Ok(rule);
        }
        let mut best: Option<(NetworkMatch, &Rule)> = None;
        let mut is_for_client = false;
        for rule in &place.rules {
            let own = route(&self.entries[rule.entry]);
            let Some(network) = own.network_match(client) else { continue };
            is_for_client = true;
            if own.takes_method(method) && best.is_none_or(|(other, _)| network > other) {
                best = Some((network, rule));
            }
        }
        match best {
            Some((_, rule)) => Ok(rule),
            None if is_for_client => {
                let routes = place.rules.iter().map(|rule| route(&self.entries[rule.entry]));
                let allowed = routes.filter(|route| route.network_match(client).is_some());
                let mut allow: Vec<String> =
                    allowed.flat_map(|route| route.methods.iter().cloned()).collect();
                allow.sort();
                allow.dedup();
                Err(Refusal::Method { allow })
            }
            None => Err(Refusal::Network),
        }
    }

    /// The one rule of a request: most specific host, then the narrowest path, then network and method.
    ///
    /// # Errors
    /// [`Refusal::NoRoute`], [`Refusal::Network`], [`Refusal::Method`], or [`Refusal::Malformed`] when the path holds what
    /// the route does not allow or a laxer server would read it as another rule's.
    pub fn find(&self, request: &Request<'_>) -> Result<Deciding<'_, R>, Refusal> {
        let Request { method, host, path, client, .. } = request;
        // TRACE would hand the caller what the upstream was told, the signed assertion too (RFC 9110
        // §9.3.8); CONNECT asks for a tunnel. Some servers ignore the case of methods.
        if ["TRACE", "CONNECT"].iter().any(|refused| method.eq_ignore_ascii_case(refused)) {
            return Err(Refusal::Method { allow: Vec::new() });
        }
        let host = self.host(host.name()).ok_or(Refusal::NoRoute)?;
        let place = self.look(host, |trie| trie.find(path.as_str())).ok_or(Refusal::NoRoute)?;
        let rule = self.rule(place, method, *client)?;
        let entry = &self.entries[rule.entry];
        let allow = route(entry).allow;
        if path.has_encoded_slash() && !allow.encoded_slash {
            return Err(Refusal::Malformed(Malformed::EncodedSlash));
        }
        if path.has_empty_segment() {
            if !allow.empty_segment {
                return Err(Refusal::Malformed(Malformed::EmptySegment));
            }
            // Only such a path can leave a rest that begins with two slashes.
            route(entry).upstream_path.of(path.as_str()).map_err(Refusal::Malformed)?;
        }
        self.refuse_ambiguity(host, place, rule, request)?;
        Ok(Deciding { entry, is_open: rule.is_open(method, request) })
    }

    /// Whether it is harmless that a server reads the request as one for `place`: the rule there has the policy of `own`, and
    /// is open if `own` is. If only the other one is open, the caller has met the stricter demand.
    fn agrees(&self, place: &Place, own: &Rule, method: &str, request: &Request<'_>) -> bool {
        self.rule(place, method, request.client).is_ok_and(|rule| {
            let policy = |rule: &Rule| &route(&self.entries[rule.entry]).policy;
            (rule.entry == own.entry || policy(rule) == policy(own))
                && (rule.is_open(method, request) || !own.is_open(request.method, request))
        })
    }

    /// As [`Table::agrees`], also for a server that ignores the case of methods.
    fn agrees_in_any_case(&self, place: &Place, own: &Rule, request: &Request<'_>) -> bool {
        let method = request.method;
        let has_lower = method.bytes().any(|byte| byte.is_ascii_lowercase());
        self.agrees(place, own, method, request)
            && (!has_lower || self.agrees(place, own, &method.to_ascii_uppercase(), request))
    }

    /// Refuses a request that some server would read as one of a place with another policy.
    fn refuse_ambiguity(
        &self,
        host: &HostPlaces,
        own: &Place,
        rule: &Rule,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        let Request { method, path, .. } = request;
        let is_upper = !method.bytes().any(|byte| byte.is_ascii_lowercase());
        if host.is_plain && is_upper && path.is_plain() && !host.has_exact {
            return Ok(());
        }
        let is_clear = match host.is_plain && is_upper && path.is_plain_but_for_case() {
            true if path.is_plain() => self.is_clear_at_end(host, rule, request),
            true => self.is_clear_in_any_case(host, own, rule, request),
            false => self.is_clear(host, own, rule, request)?,
        };
        match is_clear {
            true => Ok(()),
            false => Err(Refusal::Malformed(Malformed::Ambiguous)),
        }
    }

    /// Of a plain path: whether it does not matter that to some servers a slash at the end changes nothing.
    fn is_clear_at_end(&self, host: &HostPlaces, own: &Rule, request: &Request<'_>) -> bool {
        let other = self.look(host, |trie| trie.find_with_other_ending(request.path.as_str()));
        other.is_none_or(|other| !other.path.is_exact() || self.agrees(other, own, request.method, request))
    }

    /// Of a path that is plain but for its case: whether it does not matter that some servers ignore case.
    fn is_clear_in_any_case(
        &self,
        host: &HostPlaces,
        own: &Place,
        rule: &Rule,
        request: &Request<'_>,
    ) -> bool {
        let mut is_clear = true;
        host.folded.each_in_any_case(request.path.as_str(), &mut |index, depth| {
            let other = &self.places[index];
            // Every server sees at least what the text says.
            let is_above = depth < own.names.len() || own.path.relation(&other.path) == Relation::Narrower;
            is_clear &=
                is_above || std::ptr::eq(own, other) || self.agrees(other, rule, request.method, request);
        });
        is_clear
    }

    /// Of any path: whether each server in use reads it as one of a place that agrees.
    fn is_clear(
        &self,
        host: &HostPlaces,
        own: &Place,
        rule: &Rule,
        request: &Request<'_>,
    ) -> Result<bool, Refusal> {
        let path = request.path.as_str();
        let reading = PathReading::of(path).map_err(Refusal::Malformed)?;
        let certain = folded::certain(&own.path, &reading);
        // Below what every server sees, the narrowest place that takes all of it is the widest that can decide.
        let floor = match certain.segments == own.path.segments().len() {
            true => Some(own),
            false => {
                let mut slashes = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
                let end = slashes.nth(certain.segments).unwrap_or(path.len());
                self.look(host, |trie| trie.find_all_below(&path[..end]))
            }
        };
        // Without it, some server may see a path that no route serves.
        let Some(floor) = floor else { return Ok(false) };
        let agrees = |other: &Place| self.agrees_in_any_case(other, rule, request);
        // With too many readings to look at, some server may read the path in another way.
        let Some(seen) = host.folded.seen(&reading, &certain) else { return Ok(false) };
        let mut others = seen.iter().map(|index| &self.places[*index]);
        Ok(agrees(floor)
            && others.all(|other| floor.path.relation(&other.path) == Relation::Narrower || agrees(other)))
    }

    /// Whether a part of what lies below `path`, where `request` was admitted, is served under another policy, or not at all
    /// with this method: what acts on a whole collection acts there as well.
    #[must_use]
    pub fn covers_another(&self, request: &Request<'_>, path: &str) -> bool {
        let Some(host) = self.host(request.host.name()) else { return true };
        let Some(own) = self.look(host, |trie| trie.find(path)) else { return true };
        let Ok(rule) = self.rule(own, request.method, request.client) else { return true };
        let agrees = |place: &Place| self.agrees(place, rule, request.method, request);
        // What no further place takes belongs to the one for everything below, if there is one.
        let below = self.look(host, |trie| trie.find_all_below(path.strip_suffix('/').unwrap_or(path)));
        !below.is_some_and(agrees)
            || host
                .places
                .iter()
                .map(|index| &self.places[*index])
                .any(|other| destination::covers(path, &other.names) && !agrees(other))
    }
}

/// The route of an entry.
fn route<R: AsRef<Route>>(entry: &Arc<R>) -> &Route {
    R::as_ref(entry)
}

impl Rule {
    fn new(entry: usize, route: &Route) -> Rule {
        let is_plain = route.methods.is_empty() && route.networks.is_empty();
        Rule { entry, open: Vec::new(), is_plain }
    }

    /// Whether `request`, taken for one with this method, passes without a caller. A WebSocket never does.
    fn is_open(&self, method: &str, request: &Request<'_>) -> bool {
        !self.open.is_empty() && !request.websocket && self.open.iter().any(|open| open == method)
    }
}

impl Place {
    fn new(path: &PathPattern, rules: Vec<Rule>) -> Place {
        let text = path.as_str();
        let is_plain =
            Path::parse(text.strip_prefix('=').unwrap_or(text).as_bytes()).is_ok_and(|path| path.is_plain());
        Place { path: path.clone(), names: folded::names(path), is_plain, rules }
    }
}

/// The places of one host pattern, narrower ones before wider ones.
///
/// What is public takes nothing from other rules: it has places of its own with the rules of the place around them, which
/// say besides which methods are open there.
fn places_of(host: &HostPattern, routes: &[&Route]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let of_host = || routes.iter().enumerate().filter(|(_, route)| route.hosts.contains(host));
    for (index, route) in of_host() {
        for path in &route.paths {
            let rule = Rule::new(index, route);
            match places.iter_mut().find(|place| place.path == *path) {
                Some(place) => place.rules.push(rule),
                None => places.push(Place::new(path, vec![rule])),
            }
        }
    }
    places.sort_by_cached_key(|place| place.path.rank());
    let matched: Vec<&PathPattern> = places.iter().map(|place| &place.path).collect();
    let open = of_host().flat_map(|(_, route)| &route.public).map(|public| &public.path);
    // Configuration refuses too many of them; if they came here all the same, nothing would be open.
    let open: Vec<Place> = public_paths(open, &matched)
        .unwrap_or_default()
        .iter()
        .filter_map(|path| {
            let around = places.iter().find(|place| place.path.holds(path))?;
            Some(Place::new(path, around.rules.clone()))
        })
        .collect();
    places.extend(open);
    for place in &mut places {
        for rule in &mut place.rules {
            let open = routes[rule.entry].public.iter().filter(|public| public.path.holds(&place.path));
            rule.open = open.flat_map(|public| public.methods.iter().cloned()).collect();
        }
        place.rules.sort_by_key(|rule| routes[rule.entry].methods.is_empty());
    }
    places.sort_by_cached_key(|place| place.path.rank());
    places
}

/// Exact hosts before wildcards, longer ones first, before every host.
fn rank(host: &HostPattern) -> impl Ord + use<> {
    match host {
        HostPattern::Exact(name) => (0, Reverse(name.len())),
        HostPattern::Below(suffix) => (1, Reverse(suffix.len())),
        HostPattern::Every => (2, Reverse(0)),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

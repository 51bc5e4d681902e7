//! The table of routes: which rule decides about a request.
//!
//! A place is a host pattern with a path pattern, and has one or more rules. The most specific host decides that has a
//! place for the path, there the narrowest place, and in it the client's network before the method. A wider place is no
//! fallback for what a narrower one refuses.

use std::net::IpAddr;
use std::sync::Arc;

use super::destination;
use super::pattern::{HostPattern, PathPattern, Relation, Segment};
use super::reading::{Names, PathReading};
use super::request::{Malformed, Path, Request};
use super::route::{Policy, Route};
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
    /// Empty: every method.
    methods: Vec<String>,
    is_open: bool,
}

#[derive(Debug)]
struct Place {
    host: HostPattern,
    path: PathPattern,
    names: Names,
    /// Those that name methods first.
    rules: Vec<Rule>,
}

/// All routes. An entry is a [`Route`], or holds one beside what its owner needs to serve it.
#[derive(Debug)]
pub struct Table<R = Route> {
    /// Most specific first.
    entries: Vec<Arc<R>>,
    /// Narrower ones before wider ones.
    places: Vec<Place>,
    /// Whether every pattern is plain: then a plain path belongs to one place only.
    plain: bool,
    has_networks: bool,
}

impl<R: AsRef<Route>> Table<R> {
    /// Makes the places of all routes. Configuration refuses before this what two rules could both take.
    #[must_use]
    pub fn new(routes: Vec<R>) -> Table<R> {
        let entries: Vec<Arc<R>> = routes.into_iter().map(Arc::new).collect();
        let mut places: Vec<Place> = Vec::new();
        let at = |places: &[Place], host: &HostPattern, path: &PathPattern| {
            places.iter().position(|place| place.host == *host && place.path == *path)
        };
        for (index, entry) in entries.iter().enumerate() {
            let route = route(entry);
            let rule = Rule { entry: index, methods: route.methods.clone(), is_open: false };
            for (host, path) in
                route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path)))
            {
                match at(&places, host, path) {
                    Some(at) => places[at].rules.push(rule.clone()),
                    None => places.push(Place::new(host, path, vec![rule.clone()])),
                }
            }
        }
        places.sort_by_cached_key(Place::rank);
        let mut open: Vec<(usize, &HostPattern, &super::route::Public)> = entries
            .iter()
            .enumerate()
            .flat_map(|(index, entry)| {
                let route = route(entry);
                let of_host = move |host| route.public.iter().map(move |public| (index, host, public));
                route.hosts.iter().flat_map(of_host)
            })
            .collect();
        // The wider ones first: a narrower one goes on from their rules.
        open.sort_by_cached_key(|(_, host, public)| std::cmp::Reverse(rank(host, &public.path)));
        for (index, host, public) in open {
            let around = places.iter().find(|place| {
                let relation = public.path.relation(&place.path);
                place.host == *host && matches!(relation, Relation::Same | Relation::Narrower)
            });
            // Outside of its own route it opens nothing.
            let Some(around) = around.filter(|place| place.rules.iter().any(|rule| rule.entry == index))
            else {
                continue;
            };
            let rule = Rule { entry: index, methods: public.methods.clone(), is_open: true };
            let behind = around.rules.clone();
            match at(&places, host, &public.path) {
                Some(at) => places[at].rules.push(rule),
                None => {
                    places.push(Place::new(host, &public.path, [vec![rule], behind].concat()));
                    places.sort_by_cached_key(Place::rank);
                }
            }
        }
        for place in &mut places {
            place.rules.sort_by_key(|rule| (!rule.is_open, rule.methods.is_empty()));
        }
        let is_plain = |place: &Place| {
            let path = place.path.as_str();
            Path::parse(path.strip_prefix('=').unwrap_or(path).as_bytes()).is_ok_and(|path| path.is_plain())
        };
        let plain = places.iter().all(is_plain);
        let has_networks = entries.iter().any(|entry| !route(entry).networks.is_empty());
        Table { entries, places, plain, has_networks }
    }

    /// The entries in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<R>> {
        self.entries.iter()
    }

    /// The entries that take requests for `host`, most specific first.
    pub fn of_host<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Arc<R>> {
        let places = self.places.iter().filter(move |place| place.host.takes(host));
        let mut seen: Vec<usize> = Vec::new();
        let mut first = move |rule: &Rule| {
            let is_first = !seen.contains(&rule.entry);
            seen.push(rule.entry);
            is_first.then_some(rule.entry)
        };
        places
            .flat_map(|place| &place.rules)
            .filter_map(move |rule| first(rule))
            .map(|index| &self.entries[index])
    }

    /// The entry that a path, in normal form, belongs to, whatever methods and clients it takes.
    #[must_use]
    pub fn of_path(&self, host: &str, path: &str) -> Option<&Arc<R>> {
        let place = self.place(host, path)?;
        place.rules.first().map(|rule| &self.entries[rule.entry])
    }

    /// Whether any route depends on the client's network: only then [`Request::client`] is read.
    #[must_use]
    pub fn has_networks(&self) -> bool {
        self.has_networks
    }

    fn place(&self, host: &str, path: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.host.takes(host) && place.path.takes(path))
    }

    /// The rule of `place` for this method and this client.
    fn rule<'t>(
        &'t self,
        place: &'t Place,
        method: &str,
        client: Option<IpAddr>,
    ) -> Result<&'t Rule, Refusal> {
        let mut best: Option<(Option<u8>, &Rule)> = None;
        let (mut allow, mut is_for_client): (Vec<String>, bool) = (Vec::new(), false);
        for rule in &place.rules {
            let networks = &route(&self.entries[rule.entry]).networks;
            let held = networks.iter().filter(|net| client.is_some_and(|client| net.contains(&client)));
            let held = held.map(ipnet::IpNet::prefix_len).max();
            if held.is_none() && !networks.is_empty() {
                continue;
            }
            is_for_client = true;
            if !rule.methods.is_empty() && !rule.methods.iter().any(|taken| taken == method) {
                allow.extend(rule.methods.iter().cloned());
            } else if best.is_none_or(|(other, _)| held > other) {
                best = Some((held, rule));
            }
        }
        match best {
            Some((_, rule)) => Ok(rule),
            None if is_for_client => {
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
        let place = self.place(host.name(), path.as_str()).ok_or(Refusal::NoRoute)?;
        let rule = self.rule(place, method, *client)?;
        let entry = &self.entries[rule.entry];
        let allow = route(entry).allow;
        if path.has_encoded_slash() && !allow.encoded_slash {
            return Err(Refusal::Malformed(Malformed::EncodedSlash));
        }
        if path.has_empty_segment() && !allow.empty_segment {
            return Err(Refusal::Malformed(Malformed::EmptySegment));
        }
        self.refuse_ambiguity(place, rule, request)?;
        Ok(Deciding { entry, is_open: rule.is_open && !request.websocket })
    }

    /// Whether a part of what lies below `path`, which `found` decided about, is served under another policy, or not at
    /// all with this method: what acts on a whole collection acts there as well.
    pub fn covers_another(&self, entry: &Arc<R>, request: &Request<'_>, path: &str) -> bool {
        let policy = &route(entry).policy;
        let (host, method) = (request.host.name(), request.method);
        self.places.iter().any(|other| {
            other.host.takes(host)
                && destination::covers(path, &other.names)
                && !self.place(host, other.path.start()).is_some_and(|below| {
                    self.rule(below, method, request.client)
                        .is_ok_and(|rule| route(&self.entries[rule.entry]).policy == *policy)
                })
        })
    }

    /// Refuses a request that some server would read as one of a place with another policy.
    fn refuse_ambiguity(&self, own: &Place, rule: &Rule, request: &Request<'_>) -> Result<(), Refusal> {
        let Request { method, host, path, .. } = request;
        let policy = &route(&self.entries[rule.entry]).policy;
        let upper = method.bytes().any(|byte| byte.is_ascii_lowercase()).then(|| method.to_ascii_uppercase());
        if self.plain && upper.is_none() && path.is_plain() {
            return Ok(());
        }
        let reading = PathReading::of(path.as_str()).map_err(Refusal::Malformed)?;
        let methods: Vec<&str> = [Some(*method), upper.as_deref()].into_iter().flatten().collect();
        let known: Vec<&Place> = self.places.iter().filter(|other| other.host.takes(host.name())).collect();
        let names: Vec<&Names> = known.iter().map(|place| &place.names).collect();
        let places = reading.places(&own.names, &names);
        match places.iter().all(|place| self.is_all_of(&known, place, &methods, request.client, policy)) {
            true => Ok(()),
            false => Err(Refusal::Malformed(Malformed::Ambiguous)),
        }
    }

    /// Whether what may serve `place` has this policy. As in [`Table::find`], the most specific host and prefix decide, and
    /// a wider place is no fallback for a method that the narrower one refuses; but prefixes that differ only for some
    /// servers decide together.
    fn is_all_of(
        &self,
        known: &[&Place],
        place: &[String],
        methods: &[&str],
        client: Option<IpAddr>,
        policy: &Policy,
    ) -> bool {
        let above = known.iter().filter(|other| place.starts_with(other.names.segments()));
        let Some(host) = above.clone().map(|other| &other.host).next() else { return false };
        let above = above.filter(|other| other.host == *host);
        let deepest = above.clone().map(|other| other.names.segments().len()).max();
        let mut deciding = above.filter(|other| Some(other.names.segments().len()) == deepest);
        deciding.all(|other| {
            methods.iter().all(|method| {
                let rule = self.rule(other, method, client);
                rule.is_ok_and(|rule| route(&self.entries[rule.entry]).policy == *policy)
            })
        })
    }
}

/// The route of an entry.
fn route<R: AsRef<Route>>(entry: &Arc<R>) -> &Route {
    R::as_ref(entry)
}

impl Place {
    fn new(host: &HostPattern, path: &PathPattern, rules: Vec<Rule>) -> Place {
        let names = Names::of(path.start());
        Place { host: host.clone(), path: path.clone(), names, rules }
    }

    fn rank(&self) -> impl Ord + use<> {
        rank(&self.host, &self.path)
    }
}

/// Exact hosts before wildcards (longer first) before every host; then narrower paths before wider ones.
fn rank(host: &HostPattern, path: &PathPattern) -> impl Ord + use<> {
    let host = match host {
        HostPattern::Exact(name) => (0, std::cmp::Reverse(name.len())),
        HostPattern::Below(suffix) => (1, std::cmp::Reverse(suffix.len())),
        HostPattern::Every => (2, std::cmp::Reverse(0)),
    };
    let segment = |segment: &Segment| match segment {
        Segment::Literal(_) => (0, std::cmp::Reverse(0)),
        Segment::Part { before, after } => (1, std::cmp::Reverse(before.len() + after.len())),
        Segment::Any => (2, std::cmp::Reverse(0)),
    };
    let segments: Vec<_> = path.segments().iter().map(segment).collect();
    (host, std::cmp::Reverse(segments.len()), !path.is_exact(), segments)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

//! Overlaps: requests that two routes could take. Each is decided by the table of routes, or found here, so that no
//! request is judged by an unintended policy.
//!
//! The most specific host decides first, then the narrowest path, then the networks that hold the client, then the
//! method. Two host patterns are nested or have no host in common, and so are two networks. Two paths may overlap without
//! one being narrower; then a third path must be exactly what both take.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::pattern::{HostPattern, PathPattern, Relation};
use super::route::Public;
use super::segment::Segment;

/// What a route takes, and from which clients.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// At least one.
    pub hosts: &'a [HostPattern],
    /// At least one.
    pub paths: &'a [PathPattern],
    /// Empty: every method.
    pub methods: &'a [String],
    /// Without bits behind their prefixes; empty: every client.
    pub networks: &'a [IpNet],
    /// What passes without sign-in.
    pub public: &'a [Public],
}

/// Why a rule is undecided, or could never be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverlapFault {
    /// Both take the same methods at the same path, from the same clients.
    Same {
        /// The methods; empty: every method.
        methods: Vec<String>,
        /// A network that both name; `None`: both take every client.
        network: Option<IpNet>,
    },
    /// Narrower networks of other rules hold every client that this one is for.
    Covered,
    /// Neither path is narrower.
    Undecided {
        /// The path of which one would be chosen if it were there; `None`: no pattern can say it.
        meet: Option<PathPattern>,
    },
}

/// Where a rule says that it takes a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The index of the match.
    pub rule: usize,
    /// The index of the path among its paths, or among its public ones.
    pub at: usize,
    /// Whether it is one of the public ones.
    pub is_public: bool,
}

impl Spot {
    /// Its rule, whatever the path.
    const fn whole(self) -> Spot {
        Spot { rule: self.rule, at: 0, is_public: false }
    }
}

/// Two rules of which it is not decided which one takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The later rule and its path.
    pub rule: Spot,
    /// The earlier rule and its path.
    pub other: Spot,
    /// Where: the hosts of both.
    pub host: HostPattern,
    /// Why.
    pub fault: OverlapFault,
    /// A method and a path that both would take.
    pub example: (String, String),
}

/// One path of one host.
struct PathOfHost<'a> {
    path: &'a PathPattern,
    /// Those that take it, in the order of the matches. Those that only open a part of it to the public are behind.
    spots: Vec<Spot>,
    /// The rules that decide there, sorted: for a public path those of the narrowest path around it.
    rules: Vec<usize>,
}

/// Every pair of rules of which it is not decided which one takes a request, once for each pair of paths. The work grows with the
/// number of paths times the number of those with a star.
#[must_use]
pub fn undecided(matches: &[Match<'_>]) -> Vec<Overlap> {
    let mut found: Vec<Overlap> = Vec::new();
    let mut seen: HashSet<(Spot, Spot)> = HashSet::new();
    let mut report = |overlap: Overlap| {
        // Of two that are the same at several places, one is enough.
        let key = match overlap.fault {
            OverlapFault::Undecided { .. } => (overlap.other, overlap.rule),
            OverlapFault::Same { .. } | OverlapFault::Covered => {
                (overlap.other.whole(), overlap.rule.whole())
            }
        };
        if seen.insert(key) {
            found.push(overlap);
        }
    };
    for (host, paths) in by_host(matches) {
        for place in &paths {
            within(matches, host, place, &mut report);
        }
        across(matches, host, &paths, &mut report);
    }
    found.sort_by_key(|overlap| (overlap.rule, overlap.other));
    found
}

/// The paths of each host, in the order of the matches.
fn by_host<'a>(matches: &[Match<'a>]) -> Vec<(&'a HostPattern, Vec<PathOfHost<'a>>)> {
    let mut hosts: Vec<(&HostPattern, Vec<PathOfHost<'_>>)> = Vec::new();
    let mut known: HashMap<(&HostPattern, Option<&PathPattern>), usize> = HashMap::new();
    let mut put = |host: &'a HostPattern, path: &'a PathPattern, spot: Spot| {
        let at = *known.entry((host, None)).or_insert_with(|| {
            hosts.push((host, Vec::new()));
            hosts.len() - 1
        });
        let paths = &mut hosts[at].1;
        let at = *known.entry((host, Some(path))).or_insert_with(|| {
            paths.push(PathOfHost { path, spots: Vec::new(), rules: Vec::new() });
            paths.len() - 1
        });
        paths[at].spots.push(spot);
        if !spot.is_public && paths[at].rules.last() != Some(&spot.rule) {
            paths[at].rules.push(spot.rule);
        }
    };
    for (rule, own) in matches.iter().enumerate() {
        for host in own.hosts {
            for (at, path) in own.paths.iter().enumerate() {
                put(host, path, Spot { rule, at, is_public: false });
            }
        }
    }
    for (rule, own) in matches.iter().enumerate() {
        for host in own.hosts {
            for (at, public) in own.public.iter().enumerate() {
                put(host, &public.path, Spot { rule, at, is_public: true });
            }
        }
    }
    for (_, paths) in &mut hosts {
        for index in 0..paths.len() {
            if paths[index].spots[0].is_public {
                paths[index].rules =
                    around(paths, paths[index].path).map(|place| place.rules.clone()).unwrap_or_default();
            }
        }
    }
    hosts
}

/// The narrowest path that is not only public and holds `path`.
fn around<'p, 'a>(paths: &'p [PathOfHost<'a>], path: &PathPattern) -> Option<&'p PathOfHost<'a>> {
    let around = paths.iter().filter(|other| !other.spots[0].is_public && other.path.holds(path));
    around.reduce(
        |narrowest, other| {
            if other.path.relation(narrowest.path) == Relation::Narrower { other } else { narrowest }
        },
    )
}

/// Rules at one path of one host.
fn within(
    matches: &[Match<'_>],
    host: &HostPattern,
    place: &PathOfHost<'_>,
    report: &mut impl FnMut(Overlap),
) {
    let sample = place.path.common_path(place.path).unwrap_or_default();
    let spots: Vec<Spot> = place.spots.iter().filter(|spot| !spot.is_public).copied().collect();
    for (at, later) in spots.iter().enumerate() {
        let own = matches[later.rule];
        for earlier in &spots[..at] {
            let other = matches[earlier.rule];
            let network = other.networks.iter().find(|network| own.networks.contains(network));
            let is_same_client = (own.networks.is_empty() && other.networks.is_empty()) || network.is_some();
            let methods: Vec<String> =
                own.methods.iter().filter(|method| other.methods.contains(method)).cloned().collect();
            let is_same_method = (own.methods.is_empty() && other.methods.is_empty()) || !methods.is_empty();
            // A path that a route names twice is found where the route is read.
            if earlier.rule != later.rule && is_same_client && is_same_method {
                let method = methods.first().map_or("GET", String::as_str).to_owned();
                report(Overlap {
                    rule: *later,
                    other: *earlier,
                    host: host.clone(),
                    fault: OverlapFault::Same { methods, network: network.copied() },
                    example: (method, sample.clone()),
                });
            }
        }
    }
    for rule in &spots {
        if let Some(other) = covering(matches, &spots, rule.rule) {
            let method = matches[rule.rule].methods.first().map_or("GET", String::as_str).to_owned();
            report(Overlap {
                rule: *rule,
                other,
                host: host.clone(),
                fault: OverlapFault::Covered,
                example: (method, sample.clone()),
            });
        }
    }
}

/// One of the rules at the same place whose narrower networks leave no client to `rule`.
fn covering(matches: &[Match<'_>], spots: &[Spot], rule: usize) -> Option<Spot> {
    let own = matches[rule];
    if own.networks.is_empty() {
        return None;
    }
    let takes_its_methods = |other: &Match<'_>| {
        other.methods.is_empty()
            || (!own.methods.is_empty() && own.methods.iter().all(|method| other.methods.contains(method)))
    };
    let others: Vec<&Spot> =
        spots.iter().filter(|other| other.rule != rule && takes_its_methods(&matches[other.rule])).collect();
    let is_covered = |network: &IpNet| {
        let narrower: Vec<IpNet> = others
            .iter()
            .flat_map(|other| matches[other.rule].networks)
            .filter(|other| *other != network && network.contains(*other))
            .copied()
            .collect();
        IpNet::aggregate(&narrower).contains(network)
    };
    let is_near = |other: &&&Spot| {
        let theirs = matches[other.rule].networks;
        theirs.iter().any(|one| own.networks.iter().any(|network| network.contains(one)))
    };
    let near = others.iter().find(is_near)?;
    own.networks.iter().all(is_covered).then_some(**near)
}

/// Rules at paths that overlap. Of two paths without a star one is narrower, or they have nothing in common.
fn across(
    matches: &[Match<'_>],
    host: &HostPattern,
    paths: &[PathOfHost<'_>],
    report: &mut impl FnMut(Overlap),
) {
    let is_there: HashSet<&PathPattern> = paths.iter().map(|place| place.path).collect();
    let has_star =
        |path: &PathPattern| path.segments().iter().any(|segment| !matches!(segment, Segment::Literal(_)));
    // What begins with different names has nothing in common.
    let first = |path: &PathPattern| match path.segments().first() {
        Some(Segment::Literal(name)) => Some(name.clone()),
        _ => None,
    };
    let mut by_name: HashMap<Option<String>, Vec<usize>> = HashMap::new();
    for (index, place) in paths.iter().enumerate() {
        by_name.entry(first(place.path)).or_default().push(index);
    }
    let (every, none): (Vec<usize>, Vec<usize>) = ((0..paths.len()).collect(), Vec::new());
    for (index, place) in paths.iter().enumerate().filter(|(_, place)| has_star(place.path)) {
        let name = first(place.path);
        let near = match &name {
            None => every.iter().chain(&none),
            Some(_) => by_name.get(&name).unwrap_or(&none).iter().chain(by_name.get(&None).unwrap_or(&none)),
        };
        for &at in near {
            let other = &paths[at];
            // Of two with a star each, the pair is looked at once. Where both lead to the same rules, it does not matter
            // which is chosen.
            if (at >= index && has_star(other.path))
                || place.rules == other.rules
                || place.path.relation(other.path) != Relation::Overlapping
            {
                continue;
            }
            let meet = place.path.meet(other.path);
            // What is public takes nothing from other rules, as long as a pattern can say where it ends.
            let is_public = place.spots[0].is_public || other.spots[0].is_public;
            if meet.as_ref().is_some_and(|meet| is_public || is_there.contains(meet)) {
                continue;
            }
            let (one, two) = differing(place, other);
            let (other_spot, rule) = if one < two { (one, two) } else { (two, one) };
            report(Overlap {
                rule,
                other: other_spot,
                host: host.clone(),
                example: (
                    common_method(&matches[one.rule], &matches[two.rule]),
                    place.path.common_path(other.path).unwrap_or_default(),
                ),
                fault: OverlapFault::Undecided { meet },
            });
        }
    }
}

/// A rule of each, so that one of them is no rule of the other, where there are such.
fn differing(place: &PathOfHost<'_>, other: &PathOfHost<'_>) -> (Spot, Spot) {
    let only = |of: &PathOfHost<'_>, not: &PathOfHost<'_>| {
        of.spots.iter().find(|spot| !not.rules.contains(&spot.rule)).copied()
    };
    match (only(place, other), only(other, place)) {
        (Some(one), Some(two)) => (one, two),
        (Some(one), None) => (one, other.spots[0]),
        (None, Some(two)) => (place.spots[0], two),
        (None, None) => (place.spots[0], other.spots[0]),
    }
}

fn common_method(one: &Match<'_>, two: &Match<'_>) -> String {
    let both = one.methods.iter().find(|method| two.methods.is_empty() || two.methods.contains(method));
    both.or(two.methods.first()).or(one.methods.first()).map_or("GET", String::as_str).to_owned()
}

/// The most paths that `public` entries of one host may have in common, with each other and with what routes match. Only
/// entries with a star that overlap have such paths, and of many of them each subset may have one.
pub const MOST_MEETS: usize = 1000;

/// The paths of one host at which something is public: each of `open`, and the path in which one of them and another one, or
/// one of `matched`, meet. Paths that are in `matched` are left out. `None`: they would be more than [`MOST_MEETS`] beside
/// those of `open`.
#[must_use]
pub fn public_paths<'a>(
    open: impl IntoIterator<Item = &'a PathPattern>,
    matched: &[&PathPattern],
) -> Option<Vec<PathPattern>> {
    let mut known: HashSet<PathPattern> = matched.iter().map(|path| (*path).clone()).collect();
    let mut found: Vec<PathPattern> = Vec::new();
    let mut waiting: Vec<PathPattern> = Vec::new();
    for path in open {
        if known.insert(path.clone()) {
            waiting.push(path.clone());
        }
    }
    let most = waiting.len() + MOST_MEETS;
    while let Some(path) = waiting.pop() {
        let meets = matched.iter().copied().chain(&found).filter_map(|other| {
            (path.relation(other) == Relation::Overlapping).then(|| path.meet(other)).flatten()
        });
        for meet in meets.collect::<Vec<_>>() {
            if known.insert(meet.clone()) {
                waiting.push(meet);
            }
        }
        found.push(path);
        if found.len() + waiting.len() > most {
            return None;
        }
    }
    Some(found)
}

/// The hosts whose public paths meet at too many others ([`public_paths`]), each with the indices of the rules that have
/// public paths there.
#[must_use]
pub fn crowded<'a>(matches: &[Match<'a>]) -> Vec<(&'a HostPattern, Vec<usize>)> {
    let mut seen: HashSet<&HostPattern> = HashSet::new();
    let mut crowded = Vec::new();
    for host in matches.iter().flat_map(|own| own.hosts).filter(|host| seen.insert(host)) {
        let here = || matches.iter().enumerate().filter(|(_, own)| own.hosts.contains(host));
        let matched: Vec<&PathPattern> = here().flat_map(|(_, own)| own.paths).collect();
        let open = here().flat_map(|(_, own)| own.public).map(|public| &public.path);
        if public_paths(open, &matched).is_none() {
            crowded
                .push((host, here().filter(|(_, own)| !own.public.is_empty()).map(|(at, _)| at).collect()));
        }
    }
    crowded
}

/// What is wrong with an entry of `public`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicFault {
    /// No path of the rule holds it.
    Outside,
    /// On each host of the rule another one takes what it names: that rule's index and the index of its path.
    Taken(usize, usize),
    /// The rule does not take this method.
    Method(String),
    /// Another entry of the rule, of this index, says it already.
    Said(usize),
}

/// What is wrong with an entry of `public` of the rule of this index, if anything is.
#[must_use]
pub fn public_fault(matches: &[Match<'_>], rule: usize, entry: usize) -> Option<PublicFault> {
    let own = matches[rule];
    let Public { methods, path } = &own.public[entry];
    if !own.paths.iter().any(|outer| outer.holds(path)) {
        return Some(PublicFault::Outside);
    }
    if let Some(method) =
        methods.iter().find(|method| !own.methods.is_empty() && !own.methods.contains(method))
    {
        return Some(PublicFault::Method(method.clone()));
    }
    let says = |(index, other): (usize, &Public)| {
        let is_wider = match path.relation(&other.path) {
            Relation::Same => index < entry || methods.len() < other.methods.len(),
            Relation::Narrower => true,
            _ => false,
        };
        (index != entry && is_wider && methods.iter().all(|method| other.methods.contains(method)))
            .then_some(index)
    };
    if let Some(index) = own.public.iter().enumerate().find_map(says) {
        return Some(PublicFault::Said(index));
    }
    // The narrowest paths around it decide.
    let mut taken = None;
    for host in own.hosts {
        let around: Vec<(usize, usize, &PathPattern)> = matches
            .iter()
            .enumerate()
            .filter(|(_, other)| other.hosts.contains(host))
            .flat_map(|(index, other)| {
                other.paths.iter().enumerate().map(move |(at, path)| (index, at, path))
            })
            .filter(|(_, _, outer)| outer.holds(path))
            .collect();
        let narrower = |path: &PathPattern| {
            around.iter().find(|(_, _, other)| other.relation(path) == Relation::Narrower)
        };
        let mut deciding = around.iter().filter(|(_, _, path)| narrower(path).is_none());
        match deciding.clone().find(|(index, _, _)| *index == rule) {
            Some(_) => return None,
            None => taken = taken.or(deciding.next().map(|(index, at, _)| PublicFault::Taken(*index, *at))),
        }
    }
    taken
}

#[cfg(test)]
#[path = "overlap_tests.rs"]
mod tests;

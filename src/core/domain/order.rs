//! The order of rules, as people read it: the most specific host first, then the narrowest path, then networks, then
//! methods. The table of routes finds the same by other means; this is for messages and listings.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipnet::IpNet;

use super::pattern::{HostPattern, PathPattern};
use super::route::Route;
use super::segment::Segment;

/// A route at one of its hosts and one of its paths, for one of its networks.
#[derive(Debug, Clone, Copy)]
pub struct RouteAt<'a> {
    /// The host pattern.
    pub host: &'a HostPattern,
    /// The path pattern.
    pub path: &'a PathPattern,
    /// The network; `None`: the route is for every client.
    pub network: Option<&'a IpNet>,
    /// The route.
    pub route: &'a Route,
}

impl RouteAt<'_> {
    /// Whether it is for this client; `None`: its address is not known.
    #[must_use]
    pub fn is_for(&self, client: Option<IpAddr>) -> bool {
        self.network.is_none_or(|network| client.is_some_and(|client| network.contains(&client)))
    }
}

/// Every route at each of its hosts and paths, for each of its networks. The first host and path that take a request decide
/// about it; where several routes stand at both, the first one that takes its client and its method.
#[must_use]
pub fn ordered<'a>(routes: impl IntoIterator<Item = &'a Route>) -> Vec<RouteAt<'a>> {
    let places = |route: &'a Route| {
        let at = move |host, path| {
            let every = route.networks.is_empty().then_some(None);
            let networks = route.networks.iter().map(Some).chain(every);
            networks.map(move |network| RouteAt { host, path, network, route })
        };
        let hosts = route.hosts.iter();
        hosts.flat_map(move |host| route.paths.iter().flat_map(move |path| at(host, path)))
    };
    let mut all: Vec<RouteAt<'_>> = routes.into_iter().flat_map(places).collect();
    all.sort_by(|one, two| {
        hosts(one.host, two.host)
            .then_with(|| paths(one.path, two.path))
            .then_with(|| length(two.network).cmp(&length(one.network)))
            .then_with(|| one.route.methods.is_empty().cmp(&two.route.methods.is_empty()))
            .then_with(|| one.route.index.cmp(&two.route.index))
    });
    all
}

/// The places of [`ordered`] that take a request for `path` on `host`, both in normal form, whatever its method and client.
#[must_use]
pub fn around<'a>(routes: impl IntoIterator<Item = &'a Route>, host: &str, path: &str) -> Vec<RouteAt<'a>> {
    let mut places = ordered(routes);
    places.retain(|place| place.host.takes(host) && place.path.takes(path));
    places
}

fn hosts(one: &HostPattern, two: &HostPattern) -> Ordering {
    fn rank(host: &HostPattern) -> (u8, usize, &str) {
        match host {
            HostPattern::Exact(name) => (0, 0, name),
            HostPattern::Below(suffix) => (1, usize::MAX - suffix.len(), suffix),
            HostPattern::Every => (2, 0, ""),
        }
    }
    rank(one).cmp(&rank(two))
}

/// A narrower path comes first. Segment by segment a name comes before a part, and a part before a whole star; of two paths
/// that agree as far as the shorter one goes, the longer one comes first.
fn paths(one: &PathPattern, two: &PathPattern) -> Ordering {
    fn rank(segment: &Segment) -> (u8, usize, &str, &str) {
        match segment {
            // What ends in a slash has nothing in common with what goes on behind it, and reads better after it.
            Segment::Literal(name) if name.is_empty() => (3, 0, "", ""),
            Segment::Literal(name) => (0, 0, name, ""),
            Segment::Part { before, after } => (1, usize::MAX - before.len() - after.len(), before, after),
            Segment::Any => (2, 0, "", ""),
        }
    }
    let pairs = one.segments().iter().zip(two.segments());
    let differ = pairs.map(|(one, two)| rank(one).cmp(&rank(two))).find(|order| order.is_ne());
    differ.unwrap_or_else(|| {
        let longer_first = two.segments().len().cmp(&one.segments().len());
        longer_first.then_with(|| two.is_exact().cmp(&one.is_exact()))
    })
}

fn length(network: Option<&IpNet>) -> Option<u8> {
    network.map(IpNet::prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_host_or_a_path_is_narrower_it_comes_first() {
        let sorted = |texts: &[&str]| -> Vec<String> {
            let mut all: Vec<PathPattern> =
                texts.iter().map(|text| PathPattern::parse(text).unwrap()).collect();
            all.sort_by(paths);
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            sorted(&["/", "/*", "/a*", "/a", "=/a", "/a/b", "=/", "/ab*", "/*/b", "/a/*"]),
            ["/a/b", "/a/*", "=/a", "/a", "/ab*", "/a*", "/*/b", "/*", "=/", "/"]
        );
        let mut all = ["*.test", "a.b.test", "*.b.test"].map(HostPattern::of).to_vec();
        all.insert(0, HostPattern::Every);
        all.sort_by(hosts);
        assert_eq!(
            all.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["a.b.test", "*.b.test", "*.test", "*"]
        );
    }
}

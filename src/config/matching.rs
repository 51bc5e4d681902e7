//! `match` and `public` of a route: which requests it takes, from which clients, and which of them pass without sign-in.
//!
//! What two rules could both take is decided by the order of the table, or it is an error here. A rule that could never be
//! chosen is one as well.

use ipnet::IpNet;

use super::file::{Document, Item, Section};
use super::read::host;
use super::{browser, form, networks};
use palisade_core::domain::overlap::{self, Match, Overlap, OverlapFault, PublicFault, Spot};
use palisade_core::domain::pattern::{HostPattern, PathPattern, PatternFault};
use palisade_core::domain::route::{Allow, Auth, Public};
use palisade_core::domain::segment::Segment;

const PATH: &str = "a path like /api";
const ENTRY: &str = "a path such as \"/static\" or \"=/robots.txt\" (GET and HEAD), or a method and a path, such as \
                     \"POST =/saml/acs\"";

/// A place in the file, for messages.
#[derive(Debug, Clone)]
struct Place {
    key: String,
    at: usize,
}

impl Place {
    fn of(item: &Item<'_>) -> Place {
        Place { key: item.key.clone(), at: item.at }
    }
}

/// What one `[[routes]]` takes, and where it says so.
#[derive(Debug, Clone)]
pub(super) struct Matched {
    /// The name of the route, or its place in the list.
    label: String,
    pub(super) hosts: Vec<HostPattern>,
    pub(super) paths: Vec<PathPattern>,
    pub(super) methods: Vec<String>,
    pub(super) networks: Vec<IpNet>,
    pub(super) public: Vec<Public>,
    whole: Place,
    /// Of each path.
    at_paths: Vec<Place>,
    /// Of each entry of `public`; `None` for one that a preset made.
    at_public: Vec<Option<Place>>,
}

impl Matched {
    fn view(&self) -> Match<'_> {
        Match {
            hosts: &self.hosts,
            paths: &self.paths,
            methods: &self.methods,
            networks: &self.networks,
            public: &self.public,
        }
    }

    /// The path of a spot, and where it is written.
    fn said(&self, spot: Spot) -> (&PathPattern, &Place) {
        match spot.is_public {
            true => (&self.public[spot.at].path, self.at_public[spot.at].as_ref().unwrap_or(&self.whole)),
            false => (&self.paths[spot.at], &self.at_paths[spot.at]),
        }
    }
}

/// Reads `match` and `public` of a route. `None`: something of it is wrong, and was reported.
pub(super) fn matched(section: &Section<'_>, label: String, allow: Allow, auth: Auth) -> Option<Matched> {
    let whole = Place {
        key: format!("{}.match", section.key),
        at: section.get("match").map_or(section.at, |item| item.at),
    };
    let taken = section.section("match");
    let hosts = several(&taken, "host", "host", host);
    let paths = several(&taken, "path", "path", |item| pattern(item, item.text(PATH)?, PATH, allow));
    let methods = several(&taken, "methods", "method", |item| {
        item.read("a method in upper case, such as GET", |text| is_method(text).then(|| text.to_owned()))
    });
    let networks = several(&taken, "networks", "network", network);
    taken.close();
    let paths = paths.map(|(paths, at_paths)| match paths.is_empty() {
        true => (vec![PathPattern::root()], vec![whole.clone()]),
        false => (paths, at_paths),
    });
    // Read also beside a `match` that is wrong, so that every fault is told at once.
    let known =
        (paths.as_ref().map(|(paths, _)| &paths[..]), methods.as_ref().map(|(methods, _)| &methods[..]));
    let (public, at_public) =
        public(section, known.0.unwrap_or_default(), known.1.unwrap_or_default(), allow, auth);
    let ((hosts, _), (paths, at_paths)) = (hosts?, paths?);
    let ((methods, _), (networks, _)) = (methods?, networks?);
    Some(Matched {
        label,
        hosts: if hosts.is_empty() { vec![HostPattern::Every] } else { hosts },
        paths,
        methods,
        networks,
        public,
        whole,
        at_paths,
        at_public,
    })
}

/// What a list of `match` holds, with the place of each; a single text is a list of one. Empty: the key is not there. `None`:
/// something of it is wrong, and the rest alone would take other requests than the operator wrote.
fn several<'a, T: PartialEq>(
    section: &Section<'a>,
    name: &'static str,
    noun: &str,
    read: impl Fn(&Item<'a>) -> Option<T>,
) -> Option<(Vec<T>, Vec<Place>)> {
    let Some(item) = section.get(name) else { return Some((Vec::new(), Vec::new())) };
    if item.is_empty_list() {
        let every = if noun == "network" { "client" } else { noun };
        return item.bad(&format!("at least one {noun}; leave the key out for every {every}"));
    }
    let items = item.list();
    let (mut values, mut places): (Vec<T>, Vec<Place>) = (Vec::new(), Vec::new());
    let mut is_whole = !items.is_empty();
    for item in items {
        match read(&item) {
            Some(value) if values.contains(&value) => {
                is_whole = false;
                item.bad::<()>(&format!("each {noun} once"));
            }
            Some(value) => {
                values.push(value);
                places.push(Place::of(&item));
            }
            None => is_whole = false,
        }
    }
    is_whole.then_some((values, places))
}

pub(super) fn is_method(text: &str) -> bool {
    form::is_token(text) && !text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// A network, or an address, which is a network of one. An address with bits behind its prefix is refused: one host may
/// be meant, or its network.
fn network(item: &Item<'_>) -> Option<IpNet> {
    let net = networks::network(item)?;
    let plain = net.trunc();
    if plain != net {
        return item.bad(&format!("{plain} for the network, or {} for this address alone", net.addr()));
    }
    if networks::is_too_wide(&net) {
        let text = "so wide a network holds strangers: this rule is for them as well";
        item.doc.warn(item.at, &item.key, text);
    }
    Some(networks::canonical(net))
}

/// The pattern that `text` of `item` is. `want`: what would be right, for a text that is no path at all.
fn pattern(item: &Item<'_>, text: &str, want: &str, allow: Allow) -> Option<PathPattern> {
    // Of a value that came from a reference what would be right shows more than hiding the value itself hides.
    let shown = |text: String| if item.filled.is_some() { String::new() } else { text };
    let pattern = match PathPattern::parse(text) {
        Ok(pattern) => pattern,
        Err(PatternFault::Path(error)) => return item.bad(&format!("{want}: {error}")),
        Err(PatternFault::NotNormal { normal }) => {
            return item.bad(&format!("its normal form{}", shown(format!(", {normal:?}"))));
        }
        Err(PatternFault::TrailingSlash { without, exact }) => {
            let better = shown(format!(": {without:?}, or {exact:?} for that path alone"));
            return item.bad(&format!("no trailing slash{better}"));
        }
        Err(PatternFault::Stars) => {
            return item.bad(
                "one '*' in a segment at most, which stands for text without a slash; what lies below a path belongs to it \
                 without a star",
            );
        }
        Err(error @ (PatternFault::Delimiter | PatternFault::Character | PatternFault::Trailing)) => {
            return item.bad(&format!("a path like /api: {error}"));
        }
    };
    if pattern.has_encoded_slash() && !allow.encoded_slash {
        return item.bad("no %2F, or allow = [\"encoded-slash\"]: no request could match");
    }
    if pattern.has_empty_segment() && !allow.empty_segment {
        return item.bad("no '//', or allow = [\"empty-segment\"]: no request could match");
    }
    Some(pattern)
}

/// `public`, and what `preset = "pwa"` adds to it; with the place of each entry.
fn public(
    section: &Section<'_>,
    paths: &[PathPattern],
    methods: &[String],
    allow: Allow,
    auth: Auth,
) -> (Vec<Public>, Vec<Option<Place>>) {
    let takes = |method: &str| methods.is_empty() || methods.iter().any(|own| own == method);
    // Both show the same; of a route that takes only one of them, that one is meant.
    let reading = || -> Vec<String> {
        let both = ["GET", "HEAD"];
        let some = if both.into_iter().any(takes) {
            both.into_iter().filter(|one| takes(one)).collect()
        } else {
            both.to_vec()
        };
        some.into_iter().map(str::to_owned).collect()
    };
    let mut entries: Vec<(Public, Option<Place>)> = Vec::new();
    if let Some(item) = section.get("public") {
        if auth == Auth::None {
            item.bad_as::<()>(
                "public on a route with auth = \"none\"",
                "no such key: there everything passes without sign-in already",
            );
        }
        if item.is_empty_list() {
            item.bad::<()>(ENTRY);
        }
        for item in item.list() {
            let Some(text) = item.text(ENTRY) else { continue };
            let (method, path) = match text.split_once(' ') {
                Some((method, path)) if !text.starts_with(['/', '=']) => (Some(method), path),
                _ => (None, text),
            };
            if method.is_some_and(|method| !is_method(method)) {
                item.bad::<()>(ENTRY);
                continue;
            }
            let Some(path) = pattern(&item, path, ENTRY, allow) else { continue };
            let methods = method.map_or_else(reading, |method| vec![method.to_owned()]);
            warn_of_wide(&item, &path);
            entries.push((Public { methods, path }, Some(Place::of(&item))));
        }
    }
    entries.extend(browser::public(section, paths).into_iter().map(|public| (public, None)));
    entries.into_iter().unzip()
}

/// Warns of what is public with more than its operator may think of.
fn warn_of_wide(item: &Item<'_>, path: &PathPattern) {
    if path.is_exact() {
        return;
    }
    let text = match path.segments() {
        // Apps let people choose names with dots in them: `/three.js/settings`.
        [.., Segment::Part { .. }] => format!(
            "everything below a name of this form is public as well; \"={}\" is for the names alone",
            path.as_str()
        ),
        segments if segments.iter().all(|segment| *segment == Segment::Any) => {
            "this is all that the route has, or nearly so, for every client; list what is to be public"
                .to_owned()
        }
        _ => return,
    };
    item.doc.warn(item.at, &item.key, &text);
}

/// Reports of which requests it is not decided which route takes them, and what is public to no effect.
pub(super) fn refuse_undecided(doc: &Document<'_>, routes: &[Matched]) {
    let views: Vec<Match<'_>> = routes.iter().map(Matched::view).collect();
    for overlap in overlap::undecided(&views) {
        undecided(doc, routes, &overlap);
    }
    for (host, crowd) in overlap::crowded(&views) {
        let names: Vec<String> = crowd.iter().map(|index| format!("{:?}", routes[*index].label)).collect();
        // The last one, since the one that was added is at fault as a rule.
        let Some(route) = crowd.last().map(|index| &routes[*index]) else { continue };
        let place = route.at_public.iter().flatten().next().unwrap_or(&route.whole);
        let found = format!(
            "entries of public on {host} (of {}) that meet in more than {} paths",
            names.join(", "),
            overlap::MOST_MEETS
        );
        let want = "fewer entries with '*' that overlap, or narrower ones";
        doc.fault(place.at, &place.key, found, want);
    }
    for (index, route) in routes.iter().enumerate() {
        for (entry, place) in route.at_public.iter().enumerate() {
            let Some(place) = place else { continue };
            if let Some(fault) = overlap::public_fault(&views, index, entry) {
                public_fault(doc, routes, &route.public[entry], place, &fault);
            }
        }
    }
}

fn undecided(doc: &Document<'_>, routes: &[Matched], overlap: &Overlap) {
    let (rule, other) = (&routes[overlap.rule.rule], &routes[overlap.other.rule]);
    let line = doc.line(other.whole.at);
    let (host, (method, path)) = (&overlap.host, &overlap.example);
    let request = match host {
        HostPattern::Every => format!("{method} {path}"),
        HostPattern::Below(suffix) => format!("{method} https://any{suffix}{path}"),
        HostPattern::Exact(name) => format!("{method} https://{name}{path}"),
    };
    let other_name = format!("route {:?} (line {line})", other.label);
    let whole = &rule.whole;
    match &overlap.fault {
        OverlapFault::Same { methods, network } => {
            let from = network
                .and_then(|network| network.hosts().next())
                .map(|client| format!(" from {client}"))
                .unwrap_or_default();
            let what = match (methods.is_empty(), network) {
                (true, None) => "the same host and path as".to_owned(),
                (true, Some(network)) => format!("{network} at the same host and path as"),
                (false, None) => format!("{}, already taken here by", methods.join(", ")),
                (false, Some(network)) => {
                    format!("{} from {network}, already taken here by", methods.join(", "))
                }
            };
            let want = match (methods.is_empty(), network) {
                (true, None) => {
                    "a host, path, methods or networks that no other route has: this one could never be chosen"
                }
                (false, None) => "each method in one route only, or networks in one of them",
                (_, Some(_)) => {
                    "each network in one route only; of two that hold a client the narrower decides"
                }
            };
            doc.fault(
                whole.at,
                &whole.key,
                format!("{what} {other_name}: both would take {request}{from}"),
                want,
            );
        }
        OverlapFault::Covered => {
            let found = format!("networks whose every address is in a narrower one, as of {other_name}");
            doc.fault(
                whole.at,
                &whole.key,
                found,
                "a network that leaves some client to it: this one could never be chosen",
            );
        }
        OverlapFault::Undecided { meet } => {
            let (own, place) = rule.said(overlap.rule);
            let (theirs, at) = other.said(overlap.other);
            let public = if overlap.other.is_public { "the public " } else { "" };
            let found = format!(
                "{:?}, of which neither is narrower than {public}{:?} of route {:?} (line {}): both would take {request}",
                own.as_str(),
                theirs.as_str(),
                other.label,
                doc.line(at.at)
            );
            let want = match meet {
                Some(meet) => format!(
                    "{:?} in match.path of the route that is to take what both would: the narrower path decides",
                    meet.as_str()
                ),
                None => "two paths of which one is narrower, or that have no request in common".to_owned(),
            };
            doc.fault(place.at, &place.key, found, want);
        }
    }
}

fn public_fault(doc: &Document<'_>, routes: &[Matched], entry: &Public, place: &Place, fault: &PublicFault) {
    let path = entry.path.as_str();
    let fault = match fault {
        PublicFault::Outside => (
            format!("{path:?}, which no path of this route holds"),
            "a path within match.path of its route".to_owned(),
        ),
        PublicFault::Taken(other, at) => {
            let other = &routes[*other];
            let found = format!(
                "{path:?}, which belongs to {:?} of route {:?} (line {})",
                other.paths[*at].as_str(),
                other.label,
                doc.line(other.at_paths[*at].at)
            );
            (found, "the entry in that route, or a path that is this route's".to_owned())
        }
        PublicFault::Method(method) => (
            format!("{method}, which this route does not take"),
            "a method of match.methods in front of the path".to_owned(),
        ),
        PublicFault::Said(index) => {
            (format!("{path:?}, which public[{index}] holds already"), "each path once".to_owned())
        }
    };
    doc.fault(place.at, &place.key, fault.0, fault.1);
}

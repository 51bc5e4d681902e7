//! Path confusion: finds the path patterns of a host under which some server may see a path.
//!
//! Patterns are decoded and case-folded as paths are ([`super::reading`]). Servers differ in what they drop from a path and in
//! what they take for a delimiter. The search follows every combination of these, so it finds each pattern under which some
//! server may see the path. A prefix pattern is found where the names read so far are its names. An exact pattern is found
//! only where the path may end there: where all that follows is a slash, a parameter, or begins with `#` or `?`.

use std::collections::{HashMap, HashSet};

use super::pattern::PathPattern;
use super::reading::{Boundary, Letter, PathReading, letters_of, names_of};
use super::segment::Segment;

/// A segment as servers read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Literal(Vec<char>),
    Part(Part),
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    before: Vec<char>,
    after: Vec<char>,
}

/// The names of a pattern, without the empty ones.
pub(super) fn names(pattern: &PathPattern) -> Vec<Name> {
    let mut names = Vec::new();
    for segment in pattern.segments() {
        match segment {
            Segment::Literal(text) => names.extend(names_of(text).into_iter().map(Name::Literal)),
            Segment::Part { before, after } => {
                let chars = |text| letters_of(text).iter().map(|letter| letter.char).collect();
                names.push(Name::Part(Part { before: chars(before), after: chars(after) }));
            }
            Segment::Any => names.push(Name::Any),
        }
    }
    names
}

#[derive(Debug, Default)]
struct Node {
    /// Sorted.
    literals: Vec<(Vec<char>, usize)>,
    parts: Vec<(Part, usize)>,
    any: Option<usize>,
    /// The owners of prefixes that end here.
    prefixes: Vec<usize>,
    /// The owners of exact patterns that end here.
    exact: Vec<usize>,
}

/// Patterns as servers may read them, each with a number of its owner.
#[derive(Debug)]
pub(super) struct FoldedPatterns {
    /// The first one is the root.
    nodes: Vec<Node>,
}

/// The beginning of a path that every server reads in one way: as many whole segments as have one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certain {
    /// How many segments of the pattern these are.
    pub(super) segments: usize,
    names: Vec<Vec<char>>,
    /// Where in the letters they end.
    at: usize,
}

impl FoldedPatterns {
    pub(super) fn new() -> FoldedPatterns {
        FoldedPatterns { nodes: vec![Node::default()] }
    }

    pub(super) fn insert(&mut self, pattern: &PathPattern, value: usize) {
        let mut at = 0;
        for name in names(pattern) {
            let next = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match name {
                Name::Literal(name) => match node.literals.binary_search_by(|(other, _)| other.cmp(&name)) {
                    Ok(found) => node.literals[found].1,
                    Err(place) => {
                        node.literals.insert(place, (name, next));
                        next
                    }
                },
                Name::Part(part) => match node.parts.iter().find(|(other, _)| *other == part) {
                    Some((_, found)) => *found,
                    None => {
                        node.parts.push((part, next));
                        next
                    }
                },
                Name::Any => *node.any.get_or_insert(next),
            };
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        let node = &mut self.nodes[at];
        match pattern.is_exact() {
            true => node.exact.push(value),
            false => node.prefixes.push(value),
        }
    }

    /// The owners of every pattern under which some server may see the path, besides those of prefixes that end above
    /// `certain`, which is the beginning of the path. `None`: there are too many readings to look at each ([`MOST_STEPS`]).
    pub(super) fn seen(&self, reading: &PathReading, certain: &Certain) -> Option<Vec<usize>> {
        let mut starts = vec![0];
        for name in &certain.names {
            starts = starts.iter().flat_map(|node| self.after_name(*node, name, reading)).collect();
        }
        let mut search = Search {
            patterns: self,
            reading,
            letters: reading.letters(),
            seen: HashSet::new(),
            waiting: Vec::new(),
            offered: HashMap::new(),
            owners: Vec::new(),
            ended: HashSet::new(),
            reached: HashSet::new(),
            left: MOST_STEPS,
        };
        for start in starts {
            match certain.at {
                0 => search.wait(start, Step::Segment, 0),
                at => search.after(start, at),
            }
        }
        search.run();
        (search.left > 0).then_some(search.owners)
    }

    /// The nodes behind `node` for one whole name.
    fn after_name(&self, node: usize, name: &[char], reading: &PathReading) -> Vec<usize> {
        let node = &self.nodes[node];
        let literal = node.literals.binary_search_by(|(other, _)| other.as_slice().cmp(name)).ok();
        let literal = literal.map(|at| node.literals[at].1);
        let parts = node.parts.iter().filter(|(part, _)| part.takes(name, reading)).map(|(_, next)| *next);
        literal.into_iter().chain(parts).chain(node.any.filter(|_| !name.is_empty())).collect()
    }

    /// As [`FoldedPatterns::seen`], for a path that is plain but for its case and patterns that are plain: `visit` is given
    /// each owner, and how many names its pattern has.
    pub(super) fn each_in_any_case(&self, path: &str, visit: &mut dyn FnMut(usize, usize)) {
        let path = path.strip_prefix('/').unwrap_or(path);
        self.walk(0, 0, path.strip_suffix('/').unwrap_or(path), visit);
    }

    fn walk(&self, node: usize, depth: usize, rest: &str, visit: &mut dyn FnMut(usize, usize)) {
        let node = &self.nodes[node];
        node.prefixes.iter().for_each(|owner| visit(*owner, depth));
        if rest.is_empty() {
            node.exact.iter().for_each(|owner| visit(*owner, depth));
            return;
        }
        let (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let chars = || name.bytes().map(|byte| char::from(byte.to_ascii_lowercase()));
        let literal = node.literals.binary_search_by(|(other, _)| other.iter().copied().cmp(chars()));
        let literal = literal.ok().map(|at| node.literals[at].1);
        let is_taken = |part: &Part| {
            let (before, after) = (part.before.len(), part.after.len());
            name.len() >= before + after
                && part.before.iter().copied().eq(chars().take(before))
                && part.after.iter().copied().eq(chars().skip(name.len() - after))
        };
        let parts = node.parts.iter().filter(|(part, _)| is_taken(part)).map(|(_, next)| *next);
        for next in literal.into_iter().chain(parts).chain(node.any) {
            self.walk(next, depth + 1, rest, visit);
        }
    }
}

impl Part {
    /// Whether it may take `name`.
    fn takes(&self, name: &[char], reading: &PathReading) -> bool {
        name.len() >= self.least(reading)
            && (reading.is_nested() || name.starts_with(&self.before))
            && (self.ends_anyhow(reading) || name.ends_with(&self.after))
    }

    /// How long a name is at least.
    fn least(&self, reading: &PathReading) -> usize {
        let known = if reading.is_nested() { 0 } else { self.before.len() };
        (known + if self.ends_anyhow(reading) { 0 } else { self.after.len() }).max(1)
    }

    /// Whether the end does not count. A server may decode less than we do: then the text at the end may be what is written
    /// in an escape.
    fn ends_anyhow(&self, reading: &PathReading) -> bool {
        let may_be_of_escape = self.after.first().is_some_and(char::is_ascii_hexdigit);
        reading.is_nested() || reading.is_escaped() && may_be_of_escape
    }
}

/// How much of the beginning of a path, which `pattern` takes, every server reads in one way.
pub(super) fn certain(pattern: &PathPattern, reading: &PathReading) -> Certain {
    let mut certain = Certain { segments: 0, names: Vec::new(), at: 0 };
    let letters = reading.letters();
    // To a server that resolves references (RFC 3986 §4.2), `//name/path` is `/path` of another host.
    if letters.first().is_some_and(|letter| letter.is_separator()) {
        return certain;
    }
    let (mut names, mut at) = (Vec::new(), 0);
    let mut written = letters.split(|letter| letter.is_separator() && !letter.encoded);
    for (index, segment) in pattern.segments().iter().enumerate() {
        let Some(taken) = written.next() else { break };
        let is_clear = !taken.iter().any(|letter| letter.char == ';' || letter.is_cut())
            && !taken
                .split(|letter| letter.is_separator())
                .any(|name| name.last().is_some_and(|letter| letter.is_trailing()));
        // Encoded slashes are separators to a server, or they are not: a literal and the path are split alike.
        let is_whole = !taken.iter().any(|letter| letter.is_separator());
        let is_certain = is_clear
            && match segment {
                Segment::Literal(_) => true,
                Segment::Part { after, .. } => {
                    let may_be_of_escape = after.starts_with(|first: char| first.is_ascii_hexdigit());
                    is_whole && !reading.is_nested() && !(reading.is_escaped() && may_be_of_escape)
                }
                Segment::Any => is_whole,
            };
        if !is_certain {
            break;
        }
        let parts = taken.split(|letter| letter.is_separator()).filter(|name| !name.is_empty());
        names.extend(parts.map(|name| name.iter().map(|letter| letter.char).collect::<Vec<char>>()));
        at += taken.len() + usize::from(index > 0);
        certain = Certain { segments: index + 1, names: names.clone(), at };
    }
    certain
}

/// How many steps the search for readings of one path takes at the most: some milliseconds of work. Paths that people and
/// programs use take some hundreds; more come of a path made of delimiters under many patterns with stars.
const MOST_STEPS: usize = 200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// A segment begins here.
    Segment,
    /// A parameter goes on here, or what is taken for a host, and is being dropped.
    Parameter,
}

/// Follows every choice. Each state is looked at once, and the number of steps is bounded.
struct Search<'s> {
    patterns: &'s FoldedPatterns,
    reading: &'s PathReading,
    letters: &'s [Letter],
    /// The node, and where in the letters.
    seen: HashSet<(usize, Step, usize)>,
    waiting: Vec<(usize, Step, usize)>,
    /// By the node behind a wildcard and the end of a segment: from where on the ends of names in it have led there.
    offered: HashMap<(usize, usize), usize>,
    owners: Vec<usize>,
    reached: HashSet<usize>,
    ended: HashSet<usize>,
    /// How many steps it may still take.
    left: usize,
}

impl Search<'_> {
    /// Some server may see the path at `node`, or below it under a name of its own.
    fn reach(&mut self, node: usize) {
        if self.reached.insert(node) {
            self.owners.extend(&self.patterns.nodes[node].prefixes);
        }
    }

    /// To some server the path ends at `node`.
    fn end(&mut self, node: usize) {
        self.reach(node);
        if self.ended.insert(node) {
            self.owners.extend(&self.patterns.nodes[node].exact);
        }
    }

    fn wait(&mut self, node: usize, step: Step, at: usize) {
        self.reach(node);
        let state = (node, step, at);
        if self.seen.insert(state) {
            self.waiting.push(state);
        }
    }

    fn run(&mut self) {
        while self.left > 0
            && let Some((node, step, at)) = self.waiting.pop()
        {
            self.step();
            match step {
                Step::Segment => self.segment(node, at),
                Step::Parameter => self.parameter(node, at),
            }
        }
    }

    fn step(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// A segment that begins at `at`. That no pattern goes on with its name is possible in any case.
    fn segment(&mut self, node: usize, at: usize) {
        if at >= self.letters.len() {
            self.end(node);
            return;
        }
        // An empty name, or one that vanishes, is none to many servers.
        self.after(node, at);
        // To a server that resolves references (RFC 3986 §4.2), `//name/path` is `/path` of another host.
        if node == 0 && at > 0 {
            self.wait(node, Step::Parameter, at);
        }
        let patterns = self.patterns;
        let next = &patterns.nodes[node];
        if !next.literals.is_empty() {
            self.literals(&next.literals, at);
        }
        for (part, child) in &next.parts {
            let begins = self.letters[at..].iter().map(|letter| letter.char).take(part.before.len());
            if self.reading.is_nested() || begins.eq(part.before.iter().copied()) {
                self.wildcard(Some(part), *child, at);
            }
        }
        if let Some(child) = next.any {
            self.wildcard(None, child, at);
        }
    }

    /// A name of one of `literals`, which holds no separator.
    fn literals(&mut self, literals: &[(Vec<char>, usize)], at: usize) {
        let reading = self.reading;
        for Boundary { at: end, trimmed, .. } in reading.boundaries_from(at) {
            self.step();
            let name = self.letters[at..(*trimmed).max(at)].iter().map(|letter| letter.char);
            let found = literals.binary_search_by(|(other, _)| other.iter().copied().cmp(name.clone()));
            if let Ok(found) = found {
                self.after(literals[found].1, *end);
            }
            if self.letters.get(*end).is_some_and(|letter| letter.is_separator()) {
                break;
            }
        }
    }

    /// A name that a wildcard takes: it may end wherever some server takes it to end, at the next slash at last.
    fn wildcard(&mut self, part: Option<&Part>, child: usize, at: usize) {
        let (reading, letters) = (self.reading, self.letters);
        let least = part.map_or(1, |part| part.least(reading));
        let after = part.filter(|part| !part.ends_anyhow(reading)).map(|part| &part.after);
        let Some(last) = reading.boundaries_from(at).first().map(|boundary| boundary.last) else { return };
        // From further on, the ends that lie further on have led there already.
        let offered = self.offered.insert((child, last), at);
        if let Some(offered) = offered.filter(|offered| *offered <= at) {
            self.offered.insert((child, last), offered);
            return;
        }
        for Boundary { at: end, trimmed, .. } in reading.boundaries_from(at) {
            self.step();
            if offered.is_some_and(|offered| *trimmed >= offered + least) {
                break;
            }
            let is_name = |name_end: usize| {
                name_end >= at + least
                    && after.is_none_or(|after| {
                        let name = &letters[name_end - after.len()..name_end];
                        name.iter().map(|letter| letter.char).eq(after.iter().copied())
                    })
            };
            // With the dots and spaces at its end, too: to most servers a space is a name.
            let fits = is_name(*trimmed) || is_name(*end);
            if fits {
                self.after(child, *end);
            }
            if *end == last {
                break;
            }
        }
    }

    /// A name that leads to `node` and ends at `at`, if it does.
    fn after(&mut self, node: usize, at: usize) {
        let at = self.reading.after_trailing(at);
        match self.letters.get(at) {
            Some(letter) if letter.is_separator() => self.wait(node, Step::Segment, at + 1),
            Some(letter) if letter.char == ';' => self.wait(node, Step::Parameter, at + 1),
            Some(letter) if !letter.is_cut() => {}
            // The end, or what some server takes for it.
            Some(_) | None => self.end(node),
        }
    }

    /// A parameter lasts until a separator, which a server may not see if it is encoded, or to the end.
    fn parameter(&mut self, node: usize, at: usize) {
        let reading = self.reading;
        self.end(node);
        for Boundary { at: end, .. } in reading.boundaries_from(at) {
            self.step();
            let Some(letter) = self.letters.get(*end).filter(|letter| letter.is_separator()) else {
                continue;
            };
            self.wait(node, Step::Segment, end + 1);
            if !letter.encoded {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "folded_tests.rs"]
mod tests;

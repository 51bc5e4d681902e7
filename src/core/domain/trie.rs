//! Path patterns in a tree by segments: finds the narrowest one that takes a path.
//!
//! A look-up follows one child by name for each segment, and the wildcards beside it: every node is looked at once at most,
//! and nothing is allocated. The first pattern found is the narrowest, because configuration leaves no two patterns that
//! overlap without the one in which they meet.

use super::pattern::PathPattern;
use super::segment::Segment;

#[derive(Debug, Default)]
struct Node {
    /// The next nodes by the text of a segment, sorted.
    literals: Vec<(Box<str>, usize)>,
    /// The next nodes by a part of a segment; the ones that say more come first.
    parts: Vec<(Segment, usize)>,
    /// The next node for any segment that is not empty.
    any: Option<usize>,
    /// What takes the path that ends here.
    exact: Option<usize>,
    /// What takes the path that ends here, and all that lies below it.
    prefix: Option<usize>,
}

/// Patterns, each with a number of its owner.
#[derive(Debug)]
pub(super) struct Trie {
    /// The first one is the root.
    nodes: Vec<Node>,
}

impl Trie {
    pub(super) fn new() -> Trie {
        Trie { nodes: vec![Node::default()] }
    }

    /// Adds a pattern; the last one of several that are the same counts.
    pub(super) fn insert(&mut self, pattern: &PathPattern, value: usize) {
        let mut at = 0;
        for segment in pattern.segments() {
            let next = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment {
                Segment::Literal(name) => {
                    match node.literals.binary_search_by(|(other, _)| (**other).cmp(name.as_str())) {
                        Ok(found) => node.literals[found].1,
                        Err(place) => {
                            node.literals.insert(place, (name.as_str().into(), next));
                            next
                        }
                    }
                }
                Segment::Part { .. } => match node.parts.iter().find(|(other, _)| other == segment) {
                    Some((_, found)) => *found,
                    None => {
                        node.parts.push((segment.clone(), next));
                        node.parts.sort_by_cached_key(|(part, _)| part.rank());
                        next
                    }
                },
                Segment::Any => *node.any.get_or_insert(next),
            };
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        let node = &mut self.nodes[at];
        match pattern.is_exact() {
            true => node.exact = Some(value),
            false => node.prefix = Some(value),
        }
    }

    /// The narrowest pattern that takes `path`, in normal form.
    #[inline]
    pub(super) fn find(&self, path: &str) -> Option<usize> {
        self.walk(&self.nodes[0], path.strip_prefix('/'), Ending::Counts)
    }

    /// The narrowest one for the path with a slash at its end where `path` has none, and without it where it has one.
    pub(super) fn find_with_other_ending(&self, path: &str) -> Option<usize> {
        let rest = path.strip_prefix('/')?;
        match rest.strip_suffix('/') {
            Some(rest) => self.walk(&self.nodes[0], Some(rest), Ending::Counts),
            None if rest.is_empty() => None,
            None => self.walk(&self.nodes[0], Some(rest), Ending::Slash),
        }
    }

    /// The narrowest one that takes `path` and everything below it; `""` is what lies above all segments.
    pub(super) fn find_all_below(&self, path: &str) -> Option<usize> {
        self.walk(&self.nodes[0], path.strip_prefix('/'), Ending::Below)
    }

    fn walk(&self, node: &Node, rest: Option<&str>, ending: Ending) -> Option<usize> {
        let (rest, ending) = match (rest, ending) {
            (None, Ending::Counts) => return node.exact.or(node.prefix),
            (None, Ending::Below) => return node.prefix,
            (None, Ending::Slash) => ("", Ending::Counts),
            (Some(rest), ending) => (rest, ending),
        };
        if node.literals.is_empty() && node.parts.is_empty() && node.any.is_none() {
            return node.prefix;
        }
        let (name, rest) = match memchr_slash(rest) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let literal = node.literals.binary_search_by(|(other, _)| (**other).cmp(name)).ok();
        if let Some(found) = literal.and_then(|at| self.walk(&self.nodes[node.literals[at].1], rest, ending))
        {
            return Some(found);
        }
        let parts = node.parts.iter().filter(|(part, _)| part.takes(name)).map(|(_, next)| *next);
        let any = node.any.filter(|_| !name.is_empty());
        let mut wild = parts.chain(any).filter_map(|next| self.walk(&self.nodes[next], rest, ending));
        wild.next().or(node.prefix)
    }
}

/// What counts where the path ends.
#[derive(Clone, Copy)]
enum Ending {
    /// A pattern that ends there.
    Counts,
    /// One that goes on to everything below.
    Below,
    /// One that takes the path with a slash at its end.
    Slash,
}

fn memchr_slash(text: &str) -> Option<usize> {
    text.bytes().position(|byte| byte == b'/')
}

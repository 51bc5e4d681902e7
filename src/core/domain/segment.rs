//! One segment of a path pattern, and how two of them relate.

use std::cmp::Reverse;
use std::fmt;

use super::pattern::Relation;

/// One segment of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// This text.
    Literal(String),
    /// `x*y`: a segment that begins with `x`, ends with `y`, and is at least as long as both together. One of the two is
    /// not empty.
    Part {
        /// What stands in front of the star.
        before: String,
        /// What stands behind the star.
        after: String,
    },
    /// `*`: each segment that is not empty.
    Any,
}

impl Segment {
    /// Whether it takes `segment`, one segment of a path in normal form.
    #[must_use]
    pub fn takes(&self, segment: &str) -> bool {
        match self {
            Segment::Literal(name) => segment == name,
            Segment::Part { before, after } => is_between(segment, before, after),
            Segment::Any => !segment.is_empty(),
        }
    }

    /// The shape, and how much of the text it says: of two segments one of which takes all that the other one takes, the
    /// narrower one comes first.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        match self {
            Segment::Literal(_) => (0, Reverse(0)),
            Segment::Part { before, after } => (1, Reverse(before.len() + after.len())),
            Segment::Any => (2, Reverse(0)),
        }
    }

    pub(super) fn relation(&self, other: &Segment) -> Relation {
        match (self, other) {
            (Segment::Literal(one), Segment::Literal(two)) if one != two => Relation::Disjoint,
            (Segment::Literal(_), Segment::Literal(_)) | (Segment::Any, Segment::Any) => Relation::Same,
            (Segment::Literal(name), wide) if wide.takes(name) => Relation::Narrower,
            (wide, Segment::Literal(name)) if wide.takes(name) => Relation::Wider,
            (Segment::Literal(_), _) | (_, Segment::Literal(_)) => Relation::Disjoint,
            (Segment::Part { .. }, Segment::Any) => Relation::Narrower,
            (Segment::Any, Segment::Part { .. }) => Relation::Wider,
            (Segment::Part { before: b1, after: a1 }, Segment::Part { before: b2, after: a2 }) => {
                let begin = ends(b1.starts_with(b2.as_str()), b2.starts_with(b1.as_str()));
                begin.and(ends(a1.ends_with(a2.as_str()), a2.ends_with(a1.as_str())))
            }
        }
    }

    /// The segment pattern that takes exactly what both take.
    pub(super) fn meet(&self, other: &Segment) -> Option<Segment> {
        match self.relation(other) {
            Relation::Disjoint => None,
            Relation::Same | Relation::Narrower => Some(self.clone()),
            Relation::Wider => Some(other.clone()),
            Relation::Overlapping => {
                let (Segment::Part { before: b1, after: a1 }, Segment::Part { before: b2, after: a2 }) =
                    (self, other)
                else {
                    return None;
                };
                // Each gives one end. Where the ends fit into each other, both take something shorter than the two ends:
                // `ab*` and `*bc` both take `abc`. That is no pattern with one star.
                let (before, after) = (longer(b1, b2), longer(a1, a2));
                let most = (before.len() - b1.len().min(b2.len())).min(after.len() - a1.len().min(a2.len()));
                let fit = (1..=most).any(|shared| {
                    let (end, begin) = (before.as_bytes(), after.as_bytes());
                    end[end.len() - shared..] == begin[..shared]
                });
                (!fit).then(|| Segment::Part { before: before.to_owned(), after: after.to_owned() })
            }
        }
    }

    /// A segment that both take, where the two are not disjoint.
    pub(super) fn example(&self, other: &Segment) -> String {
        match (self, other) {
            (Segment::Literal(name), _) | (_, Segment::Literal(name)) => name.clone(),
            (Segment::Any, Segment::Any) => "x".to_owned(),
            (Segment::Part { before, after }, Segment::Any)
            | (Segment::Any, Segment::Part { before, after }) => format!("{before}x{after}"),
            (Segment::Part { before: b1, after: a1 }, Segment::Part { before: b2, after: a2 }) => {
                format!("{}x{}", longer(b1, b2), longer(a1, a2))
            }
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Segment::Literal(name) => f.write_str(name),
            Segment::Part { before, after } => write!(f, "{before}*{after}"),
            Segment::Any => f.write_str("*"),
        }
    }
}

/// How two ends of a segment relate: whether the first one goes on from the second, and the other way round.
pub(super) const fn ends(is_first_longer: bool, is_second_longer: bool) -> Relation {
    match (is_first_longer, is_second_longer) {
        (true, true) => Relation::Same,
        (true, false) => Relation::Narrower,
        (false, true) => Relation::Wider,
        (false, false) => Relation::Disjoint,
    }
}

fn longer<'a>(one: &'a str, two: &'a str) -> &'a str {
    if one.len() >= two.len() { one } else { two }
}

/// Whether a segment begins and ends so. The star never stands for a part of an escape: `*9.js` does not take `%A9.js`.
fn is_between(segment: &str, before: &str, after: &str) -> bool {
    let Some(rest) = segment.strip_prefix(before) else { return false };
    let Some(star) = rest.strip_suffix(after) else { return false };
    let star = star.as_bytes();
    // Each `%` of a normal form begins an escape of three bytes.
    star.last() != Some(&b'%') && star.len().checked_sub(2).is_none_or(|at| star[at] != b'%')
}

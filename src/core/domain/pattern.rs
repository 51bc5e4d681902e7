//! What a route's `match` says of hosts and paths, and how two of such patterns relate.
//!
//! A path pattern is a prefix on segment boundaries (`/api` takes `/api` and `/api/x`, never `/apix`) unless it begins with
//! `=`: then it takes that one path. `*` stands for one whole segment that is not empty, or for a part of one (`*.js`); it
//! never stands for a `/`. Patterns are compared with paths in normal form ([`Path`]), byte by byte, as text.

use std::cmp::Reverse;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::request::{Malformed, Path};
use super::segment::{Segment, ends};

/// How what one pattern takes relates to what another one takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// Nothing is taken by both.
    Disjoint,
    /// Both take the same.
    Same,
    /// The other one takes all that this one takes, and more.
    Narrower,
    /// This one takes all that the other one takes, and more.
    Wider,
    /// Both take something that the other one does not take, and some of it is taken by both.
    Overlapping,
}

impl Relation {
    /// Whether the other one takes all that this one takes.
    #[must_use]
    pub const fn is_within(self) -> bool {
        matches!(self, Relation::Same | Relation::Narrower)
    }

    /// How two patterns relate that have two parts each, of which both must hold: the relations of the parts.
    #[must_use]
    pub fn and(self, other: Relation) -> Relation {
        match (self, other) {
            (Relation::Disjoint, _) | (_, Relation::Disjoint) => Relation::Disjoint,
            (one, two) if one == two => one,
            (Relation::Same, one) | (one, Relation::Same) => one,
            _ => Relation::Overlapping,
        }
    }
}

/// Which hosts. Host names are in lower case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host.
    Every,
    /// Each host that ends with this text, which begins with a dot, and is longer: `*.example.com`.
    Below(String),
    /// One host.
    Exact(String),
}

impl HostPattern {
    /// A host in lower case, or `*.example.com` for the hosts below it, as the configuration has checked it.
    #[must_use]
    pub fn of(text: &str) -> HostPattern {
        match text.strip_prefix('*') {
            Some(suffix) => HostPattern::Below(suffix.to_owned()),
            None => HostPattern::Exact(text.to_owned()),
        }
    }

    /// Whether it takes `host`, in lower case and without a port.
    #[must_use]
    pub fn takes(&self, host: &str) -> bool {
        match self {
            HostPattern::Every => true,
            HostPattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            HostPattern::Exact(name) => host == name,
        }
    }

    /// The one host, if it takes no other.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match self {
            HostPattern::Exact(name) => Some(name),
            HostPattern::Every | HostPattern::Below(_) => None,
        }
    }

    /// How the hosts of this pattern relate to those of `other`. Two host patterns never overlap.
    #[must_use]
    pub fn relation(&self, other: &HostPattern) -> Relation {
        let is_below = |inner: &HostPattern, outer: &HostPattern| match (inner, outer) {
            (_, HostPattern::Every) => true,
            (HostPattern::Exact(name), HostPattern::Below(_)) => outer.takes(name),
            (HostPattern::Below(inner), HostPattern::Below(outer)) => inner.ends_with(outer.as_str()),
            _ => false,
        };
        match (self == other, is_below(self, other), is_below(other, self)) {
            (true, _, _) => Relation::Same,
            (_, true, _) => Relation::Narrower,
            (_, _, true) => Relation::Wider,
            _ => Relation::Disjoint,
        }
    }
}

impl fmt::Display for HostPattern {
    /// As it is configured; `*` for every host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Every => f.write_str("*"),
            HostPattern::Below(suffix) => write!(f, "*{suffix}"),
            HostPattern::Exact(name) => f.write_str(name),
        }
    }
}

/// Why a text is no path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// It is no path that a request could have.
    #[error("{0}")]
    Path(Malformed),
    /// It has another normal form, in which it would match.
    #[error("its normal form is {normal:?}")]
    NotNormal {
        /// The pattern in normal form.
        normal: String,
    },
    /// A prefix with a slash at its end.
    #[error("a prefix has no trailing slash: {without:?}, or {exact:?} for that path alone")]
    TrailingSlash {
        /// The prefix without it.
        without: String,
        /// The exact pattern.
        exact: String,
    },
    /// More than one star in a segment.
    #[error("'*' stands once in a segment at most")]
    Stars,
    /// A character beside a star that some servers take for a delimiter, or an escape that goes on in what the star
    /// stands for.
    #[error(
        "beside '*' a segment holds no ';', '%25', '%2F', '%23' or '%3F', which servers read differently"
    )]
    Delimiter,
    /// A dot or a space at the end of a segment with a star: file systems that drop it take what does not match.
    #[error("a segment with '*' does not end in '.' or '%20', which some servers drop")]
    Trailing,
    /// A star beside a part of a character in UTF-8.
    #[error("the escapes beside '*' are whole characters in UTF-8")]
    Character,
}

/// Which paths. Two patterns are equal when they take the same paths.
#[derive(Debug, Clone)]
pub struct PathPattern {
    text: String,
    is_exact: bool,
    segments: Vec<Segment>,
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &PathPattern) -> bool {
        self.text == other.text
    }
}

impl Eq for PathPattern {}

impl Hash for PathPattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for PathPattern {
    /// As it is configured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PathPattern {
    /// The prefix `/`, which takes every path.
    #[must_use]
    pub fn root() -> PathPattern {
        PathPattern { text: "/".to_owned(), is_exact: false, segments: Vec::new() }
    }

    /// Reads a pattern, which must be in normal form. A star that is meant as itself is written `%2A`.
    ///
    /// # Errors
    /// A [`PatternFault`], which says what would be right.
    pub fn parse(text: &str) -> Result<PathPattern, PatternFault> {
        let (is_exact, path) = match text.strip_prefix('=') {
            Some(path) => (true, path),
            None => (false, text),
        };
        let normal = Path::parse(path.as_bytes()).map_err(PatternFault::Path)?;
        if normal.as_str() != path {
            let sign = if is_exact { "=" } else { "" };
            return Err(PatternFault::NotNormal { normal: format!("{sign}{}", normal.as_str()) });
        }
        if !is_exact && path.len() > 1 && path.ends_with('/') {
            let without = match path.trim_end_matches('/') {
                "" => "/",
                without => without,
            };
            return Err(PatternFault::TrailingSlash {
                without: without.to_owned(),
                exact: format!("={path}"),
            });
        }
        let segments = match path {
            "/" if !is_exact => Vec::new(),
            _ => path[1..].split('/').map(segment).collect::<Result<_, _>>()?,
        };
        Ok(PathPattern { text: text.to_owned(), is_exact, segments })
    }

    fn of(segments: Vec<Segment>, is_exact: bool) -> PathPattern {
        let mut text = String::from(if is_exact { "=" } else { "" });
        for segment in &segments {
            text.push('/');
            text.push_str(&segment.to_string());
        }
        if segments.is_empty() {
            text.push('/');
        }
        PathPattern { text, is_exact, segments }
    }

    /// As it is configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it takes paths of as many segments as it has only, and nothing below them.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// Its segments; none for the prefix `/`, which takes every path.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether `%2F` occurs in it.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        self.text.contains("%2F")
    }

    /// Whether `//` occurs in it.
    #[must_use]
    pub fn has_empty_segment(&self) -> bool {
        self.text.contains("//")
    }

    /// Of two patterns one of which takes all that the other one takes, the narrower one comes first.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let segments: Vec<_> = self.segments.iter().map(Segment::rank).collect();
        (Reverse(segments.len()), !self.is_exact, segments)
    }

    /// Whether it takes `path`, in normal form.
    #[must_use]
    pub fn takes(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut names = path.split('/');
        let begins = self.segments.iter().all(|segment| names.next().is_some_and(|name| segment.takes(name)));
        begins && !(self.is_exact && names.next().is_some())
    }

    /// How the paths of this pattern relate to those of `other`.
    #[must_use]
    pub fn relation(&self, other: &PathPattern) -> Relation {
        let (own, others) = (self.segments.len(), other.segments.len());
        let lengths = match (self.is_exact, other.is_exact) {
            (true, true) if own == others => Relation::Same,
            (true, false) if own >= others => Relation::Narrower,
            (false, true) if own <= others => Relation::Wider,
            (true, _) | (_, true) => Relation::Disjoint,
            (false, false) => ends(own >= others, others >= own),
        };
        let pairs = self.segments.iter().zip(&other.segments);
        pairs.fold(lengths, |relation, (one, two)| relation.and(one.relation(two)))
    }

    /// Whether it takes all that `other` takes.
    #[must_use]
    pub fn holds(&self, other: &PathPattern) -> bool {
        other.relation(self).is_within()
    }

    /// The pattern that takes exactly the paths that both take: `/a/*` and `/*/b` meet in `/a/b`. `None` where nothing is
    /// taken by both, or where one pattern cannot say it.
    #[must_use]
    pub fn meet(&self, other: &PathPattern) -> Option<PathPattern> {
        match self.relation(other) {
            Relation::Disjoint => None,
            Relation::Same | Relation::Narrower => Some(self.clone()),
            Relation::Wider => Some(other.clone()),
            Relation::Overlapping => {
                let pairs = self.segments.iter().zip(&other.segments);
                let mut segments: Vec<Segment> =
                    pairs.map(|(one, two)| one.meet(two)).collect::<Option<_>>()?;
                let longer = if self.segments.len() > segments.len() { self } else { other };
                segments.extend(longer.segments.iter().skip(segments.len()).cloned());
                Some(PathPattern::of(segments, self.is_exact || other.is_exact))
            }
        }
    }

    /// A path that both take, for a message; `None` where there is none.
    #[must_use]
    pub fn common_path(&self, other: &PathPattern) -> Option<String> {
        if self.relation(other) == Relation::Disjoint {
            return None;
        }
        let length = self.segments.len().max(other.segments.len());
        let mut path = String::new();
        for at in 0..length {
            let one = self.segments.get(at).or_else(|| other.segments.get(at))?;
            let two = other.segments.get(at).unwrap_or(one);
            path.push('/');
            path.push_str(&one.example(two));
        }
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }

    /// Its literal leading part: every path that it takes is this one or, at a segment boundary, below it. `/` at least.
    #[must_use]
    pub fn start(&self) -> &str {
        let path = self.text.strip_prefix('=').unwrap_or(&self.text);
        let literal = self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(name) => Some(1 + name.len()),
            Segment::Part { .. } | Segment::Any => None,
        });
        match literal.sum() {
            0 => "/",
            length => &path[..length],
        }
    }
}

fn segment(text: &str) -> Result<Segment, PatternFault> {
    let Some((before, after)) = text.split_once('*') else { return Ok(Segment::Literal(text.to_owned())) };
    if after.contains('*') {
        return Err(PatternFault::Stars);
    }
    if text == "*" {
        return Ok(Segment::Any);
    }
    let delimiters = [";", "%25", "%2F", "%23", "%3F"];
    if delimiters.iter().any(|delimiter| before.contains(delimiter) || after.contains(delimiter)) {
        return Err(PatternFault::Delimiter);
    }
    if after.ends_with('.') || after.ends_with("%20") {
        return Err(PatternFault::Trailing);
    }
    if ![before, after].into_iter().all(is_text) {
        return Err(PatternFault::Character);
    }
    Ok(Segment::Part { before: before.to_owned(), after: after.to_owned() })
}

/// Whether what the escapes of `text` stand for is UTF-8.
fn is_text(text: &str) -> bool {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(byte);
        if byte == b'%'
            && let [high, low, after @ ..] = rest
        {
            let digit =
                |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let (Some(high), Some(low)) = (digit(high), digit(low)) else { return false };
            bytes.pop();
            bytes.push(high << 4 | low);
            rest = after;
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;

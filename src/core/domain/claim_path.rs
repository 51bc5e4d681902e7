//! Where a claim lies in a token: the names of the members that lead to it, from the outermost one.
//!
//! A path has one reading. Names are compared byte for byte, a claim whose name has dots in it is never taken for a path,
//! and a path never for such a claim: otherwise the author of the one would decide what the other says.

use std::fmt;

use serde_json::{Map, Value};

/// The most names that a path has.
const MAX_NAMES: usize = 8;

/// The path of a claim: 1 to [`MAX_NAMES`] names of JSON members.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimPath {
    /// The objects on the way.
    way: Box<[Box<str>]>,
    last: Box<str>,
}

/// What is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a claim path has 1 to {MAX_NAMES} names, none empty and none with a control character")]
pub struct NoClaimPath;

impl ClaimPath {
    /// The path through the members of these names.
    ///
    /// # Errors
    /// There are none, too many, or one that is empty or holds a control character.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<ClaimPath, NoClaimPath> {
        let mut way: Vec<Box<str>> = names.into_iter().map(Box::from).collect();
        let is_wrong = |name: &str| name.is_empty() || name.chars().any(char::is_control);
        if way.len() > MAX_NAMES || way.iter().any(|name| is_wrong(name)) {
            return Err(NoClaimPath);
        }
        let last = way.pop().ok_or(NoClaimPath)?;
        Ok(ClaimPath { way: way.into(), last })
    }

    /// The path of the claim `name` at the top. `name` is one of the program's own words, and no empty one.
    #[must_use]
    pub fn top(name: &'static str) -> ClaimPath {
        ClaimPath { way: Box::default(), last: name.into() }
    }

    /// Reads a path as it is written in one text: its names with dots between them, or one name where the text holds
    /// `://`, since the names of claims of one's own are URLs (RFC 7519 §4.2).
    ///
    /// # Errors
    /// As [`ClaimPath::new`].
    pub fn parse(text: &str) -> Result<ClaimPath, NoClaimPath> {
        if is_one_name(text) { ClaimPath::new([text]) } else { ClaimPath::new(text.split('.')) }
    }

    /// The claim's own name, if it lies at the top.
    #[must_use]
    #[inline]
    pub fn name(&self) -> Option<&str> {
        self.way.is_empty().then_some(&*self.last)
    }

    /// The name at the top of the claims.
    #[must_use]
    pub fn first(&self) -> &str {
        self.way.first().unwrap_or(&self.last)
    }

    /// The claim. `None` when it is not there or null, and when something on the way is no object: a list holds no members,
    /// whatever its items are.
    #[must_use]
    #[inline]
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let mut members = claims;
        for name in &self.way {
            members = members.get(&**name)?.as_object()?;
        }
        members.get(&*self.last).filter(|value| !value.is_null())
    }
}

/// Whether a text is one name, dots or not.
fn is_one_name(text: &str) -> bool {
    !text.contains('.') || text.contains("://")
}

/// As [`ClaimPath::parse`] reads it; a path that no such text says, as a list of its names.
impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = || self.way.iter().chain([&self.last]);
        let dotted = names().map(|name| &**name).collect::<Vec<_>>().join(".");
        if ClaimPath::parse(&dotted).as_ref() == Ok(self) {
            f.write_str(&dotted)
        } else {
            f.debug_list().entries(names()).finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(path: &ClaimPath, claims: &Value) -> Option<Value> {
        path.find(claims.as_object().unwrap()).cloned()
    }

    #[test]
    fn a_text_is_split_at_its_dots_unless_it_is_a_url() {
        for (text, names) in [
            ("role", &["role"][..]),
            ("realm_access.roles", &["realm_access", "roles"]),
            ("resource_access.app.roles", &["resource_access", "app", "roles"]),
            ("https://example.com/roles", &["https://example.com/roles"]),
            ("urn:example:roles", &["urn:example:roles"]),
            ("cognito:groups", &["cognito:groups"]),
            ("custom:a b", &["custom:a b"]),
            ("a.b.c.d.e.f.g.h", &["a", "b", "c", "d", "e", "f", "g", "h"]),
        ] {
            let path = ClaimPath::parse(text).unwrap();
            assert_eq!(path, ClaimPath::new(names.iter().copied()).unwrap(), "{text}");
            assert_eq!(path.to_string(), text);
            assert_eq!(path.first(), names[0]);
            assert_eq!(path.name(), (names.len() == 1).then_some(text));
        }
        for text in ["", ".", "a.", ".a", "a..b", "a\nb", "a.\u{85}", "a.b.c.d.e.f.g.h.i"] {
            assert_eq!(ClaimPath::parse(text), Err(NoClaimPath), "{text:?}");
        }
        assert_eq!(ClaimPath::new([]), Err(NoClaimPath));
        assert_eq!(ClaimPath::new(["a"; 9]), Err(NoClaimPath));
        assert_eq!(ClaimPath::new(["a", ""]), Err(NoClaimPath));
    }

    #[test]
    fn two_paths_never_read_the_same() {
        let lists: [&[&str]; 8] = [
            &["a", "b"],
            &["a.b"],
            &["a.b", "c"],
            &["a", "b.c"],
            &["a", "b", "c"],
            &["https://e.test/r"],
            &["https://e", "test/r"],
            &["[\"a\", \"b.c\"]"],
        ];
        let shown: Vec<String> =
            lists.iter().map(|names| ClaimPath::new(names.iter().copied()).unwrap().to_string()).collect();
        for (index, one) in shown.iter().enumerate() {
            assert!(!shown[..index].contains(one), "{one}");
        }
        assert_eq!(shown[2], r#"["a.b", "c"]"#);
    }

    #[test]
    fn a_claim_has_one_reading() {
        let claims = json!({
            "a": {"b": 1, "b.c": 2, "n": null, "": 7, "l": [{"x": 3}, {"x": 4}], "t": "text"},
            "a.b": 5,
            "A": {"b": 6},
            "n": null,
            // Cyrillic.
            "\u{430}": {"b": 8},
        });
        let path = |names: &[&str]| ClaimPath::new(names.iter().copied()).unwrap();
        for (names, want) in [
            (&["a", "b"][..], Some(json!(1))),
            (&["a.b"], Some(json!(5))),
            (&["a", "b.c"], Some(json!(2))),
            (&["a", "l"], Some(json!([{"x": 3}, {"x": 4}]))),
            (&["A", "b"], Some(json!(6))),
            // Absence: nothing there, null, and no object on the way.
            (&["n"], None),
            (&["a", "n"], None),
            (&["n", "b"], None),
            (&["a", "n", "b"], None),
            (&["a", "l", "x"], None),
            (&["a", "l", "0"], None),
            (&["a", "l", "0", "x"], None),
            (&["a", "t", "x"], None),
            (&["a", "B"], None),
            (&["b"], None),
            (&["a", "b", "c"], None),
        ] {
            assert_eq!(found(&path(names), &claims), want, "{names:?}");
        }
        // The dotted text is the path, also where a claim has that very name and the path leads nowhere.
        assert_eq!(found(&ClaimPath::parse("a.b").unwrap(), &claims), Some(json!(1)));
        assert_eq!(found(&ClaimPath::parse("a.b").unwrap(), &json!({"a.b": 5})), None);
    }
}

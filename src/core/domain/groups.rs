//! The groups of an account, as apps are told of them.
//!
//! A group decides what an app lets a person do, so its name is compared byte by byte, and a list is never cut: what does
//! not fit is refused as a whole.

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use serde::{Deserialize, Serialize};

use super::name::is_unprintable;

/// The most groups of an account.
pub const MAX_GROUPS: usize = 200;
/// The longest name of a group, in bytes of UTF-8.
pub const MAX_GROUP: usize = 256;
/// The most that the names take together, in bytes.
pub const MAX_GROUPS_TOGETHER: usize = 4096;

/// The names of groups: each once, in the order of their bytes, so that the same set is always the same list and a token
/// does not change with the order in which it was given. A name may hold commas and spaces ("Sales, EMEA").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Groups(Vec<String>);

/// Why a list is none of groups; says what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGroups {
    #[error("`groups` has more than {MAX_GROUPS} names")]
    TooMany,
    #[error("the names in `groups` take more than {MAX_GROUPS_TOGETHER} bytes together")]
    TooLong,
    /// The place in the list, from 1.
    #[error(
        "name {0} in `groups` must be 1 to {MAX_GROUP} bytes on one line that can be seen, without white space at its \
         ends"
    )]
    Name(usize),
}

impl Groups {
    /// The groups of these names. Each name is brought into one normal form (RFC 8265 §4.2 `OpaqueString`: NFC, every
    /// space a plain one), and what comes twice counts once.
    ///
    /// # Errors
    /// [`InvalidGroups`].
    pub fn new<S: AsRef<str>>(names: &[S]) -> Result<Groups, InvalidGroups> {
        // Ahead of the work on each name; the same name a million times is no list of groups either.
        if names.len() > MAX_GROUPS {
            return Err(InvalidGroups::TooMany);
        }
        let mut groups = Vec::with_capacity(names.len());
        for (n, name) in names.iter().enumerate() {
            groups.push(one_form(name.as_ref()).ok_or(InvalidGroups::Name(n + 1))?);
        }
        Groups::within_bounds(groups)
    }

    /// These groups without those of `remove` and with those of `add`. The names that stay are taken as they were stored.
    ///
    /// # Errors
    /// [`InvalidGroups::TooMany`] or [`InvalidGroups::TooLong`].
    pub fn changed(&self, add: &Groups, remove: &Groups) -> Result<Groups, InvalidGroups> {
        let kept = self.0.iter().filter(|group| !remove.0.contains(group));
        Groups::within_bounds(kept.chain(&add.0).cloned().collect())
    }

    /// The groups of names that have their form.
    fn within_bounds(mut groups: Vec<String>) -> Result<Groups, InvalidGroups> {
        groups.sort_unstable();
        groups.dedup();
        if groups.len() > MAX_GROUPS {
            return Err(InvalidGroups::TooMany);
        }
        match groups.iter().map(String::len).sum::<usize>() {
            0..=MAX_GROUPS_TOGETHER => Ok(Groups(groups)),
            _ => Err(InvalidGroups::TooLong),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// The name in its one form, if it can be a group's.
fn one_form(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MAX_GROUP {
        return None;
    }
    let form = OpaqueString::enforce(name).ok()?.into_owned();
    let is_whole = form.trim() == form && !form.chars().any(is_unprintable);
    (is_whole && form.len() <= MAX_GROUP).then_some(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_list() {
        let groups = Groups::new(&["staff", "Sales, EMEA", "admins", "staff", "Zürich", "100 %"]).unwrap();
        assert_eq!(
            groups.as_slice(),
            ["100 %", "Sales, EMEA", "Zürich", "admins", "staff"].map(str::to_owned)
        );
        assert_eq!(Groups::new(groups.as_slice()).unwrap(), groups, "the form of the form");
        assert_eq!(
            Groups::new(&["Zu\u{308}rich", "a\u{a0}b"]).unwrap(),
            Groups::new(&["a b", "Zürich"]).unwrap(),
            "one normal form"
        );
        assert_ne!(
            Groups::new(&["Admins"]).unwrap(),
            Groups::new(&["admins"]).unwrap(),
            "apps compare bytes"
        );
        assert!(Groups::new::<&str>(&[]).unwrap().is_empty());
        assert_eq!(serde_json::to_string(&Groups::new(&["b", "a"]).unwrap()).unwrap(), r#"["a","b"]"#);
    }

    #[test]
    fn the_name_of_a_group_stays_on_its_line() {
        for bad in [
            "",
            " ",
            " staff",
            "staff ",
            "\u{a0}staff",
            "a\r\nRemote-User: root",
            "a\nb",
            "a\tb",
            "a\0",
            "a\u{7f}",
            "a\u{85}b",
            "a\u{2028}b",
            "staff\u{202e}",
            "staff\u{200e}",
            "staff\u{200b}",
            "staff\u{feff}",
            "staff\u{ad}",
            "\u{2066}staff",
            "staff\u{e0041}",
            "staff\u{378}",
            &"a".repeat(MAX_GROUP + 1),
        ] {
            assert_eq!(Groups::new(&["ok", bad]), Err(InvalidGroups::Name(2)), "{bad:?}");
        }
        for good in
            ["a", "Sales, EMEA", "cn=admins,ou=groups,dc=example,dc=com", "a;b|c", "\"x\"", "a/b", "☠"]
        {
            assert!(Groups::new(&[good]).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn groups_have_bounds_each_and_together() {
        let many =
            |count: usize, bytes: usize| (0..count).map(|n| format!("{n:0>bytes$}")).collect::<Vec<_>>();
        assert!(Groups::new(&many(MAX_GROUPS, 20)).is_ok());
        assert_eq!(Groups::new(&many(MAX_GROUPS + 1, 3)), Err(InvalidGroups::TooMany));
        assert!(Groups::new(&many(16, 256)).is_ok());
        assert_eq!(Groups::new(&many(17, 256)), Err(InvalidGroups::TooLong));
        assert!(Groups::new(&many(1, MAX_GROUP)).is_ok());
        assert_eq!(Groups::new(&vec!["a"; MAX_GROUPS + 1]), Err(InvalidGroups::TooMany), "named twice, too");
    }
    #[test]
    fn a_change_keeps_stored_names_and_the_bounds() {
        let groups = |names: &[&str]| Groups::new(names).unwrap();
        let none = Groups::default();
        // As a program with another version of Unicode wrote it.
        let stored: Groups = serde_json::from_str(r#"["b","b\u200b"]"#).unwrap();
        let changed = stored.changed(&groups(&["a", "b"]), &none).unwrap();
        assert_eq!(changed.as_slice(), ["a", "b", "b\u{200b}"]);
        assert_eq!(changed.changed(&none, &groups(&["b", "x"])).unwrap().as_slice(), ["a", "b\u{200b}"]);
        let full = Groups((100..300).map(|n| n.to_string()).collect());
        assert_eq!(full.changed(&groups(&["a"]), &none), Err(InvalidGroups::TooMany));
        assert_eq!(full.changed(&groups(&["100"]), &none), Ok(full.clone()), "it has that one");
        assert!(full.changed(&groups(&["a"]), &groups(&["100"])).is_ok());
        let long = Groups((0..16).map(|n| format!("{n:0>256}")).collect());
        assert_eq!(long.changed(&groups(&["a"]), &none), Err(InvalidGroups::TooLong));
    }
}

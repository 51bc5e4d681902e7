//! The files that a configuration was read from, as they were then, so that a change of one of them is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::references;

/// SHA-256 of a file's text; `None`: there was no readable text.
type Print = Option<[u8; 32]>;

/// The configuration file, and the files that it names, each with a hash of its text. Paths are followed
/// through symbolic links at each look, so that a link that was pointed elsewhere counts as a change.
#[derive(Clone, PartialEq, Eq)]
pub struct Sources {
    path: PathBuf,
    text: Print,
    /// Each with the most that is read of it, in bytes.
    referenced: BTreeMap<PathBuf, (Print, u64)>,
    /// The files that are named in the value of each key.
    named_by: BTreeMap<String, BTreeSet<PathBuf>>,
}

/// Hashes of short secrets could be searched for, so they are not shown.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entry(&self.path).entries(self.referenced.keys()).finish()
    }
}

impl Sources {
    /// A configuration file without references so far; `text` is what was read of it.
    #[must_use]
    pub fn new(path: &Path, text: Option<&str>) -> Sources {
        Sources {
            path: path.to_owned(),
            text: print(text),
            referenced: BTreeMap::new(),
            named_by: BTreeMap::new(),
        }
    }

    /// The value of `key` named this file; `text` is what was read of it, which is `most` bytes at most.
    pub(super) fn note(&mut self, key: &str, path: &Path, text: Option<&str>, most: u64) {
        self.named_by.entry(key.to_owned()).or_default().insert(path.to_owned());
        self.referenced.insert(path.to_owned(), (print(text), most));
    }

    /// The same files as they are now. Reads all of them, and blocks meanwhile.
    #[must_use]
    pub fn look(&self) -> Sources {
        let referenced = self.referenced.iter().map(|(path, (then, most))| {
            let now = again(path, *then, |path| references::read(path, *most).ok());
            (path.clone(), (now, *most))
        });
        Sources {
            path: self.path.clone(),
            text: again(&self.path, self.text, |path| std::fs::read_to_string(path).ok()),
            referenced: referenced.collect(),
            named_by: self.named_by.clone(),
        }
    }

    /// Whether the text of the configuration file itself is the same in both.
    #[must_use]
    pub fn has_text_of(&self, other: &Sources) -> bool {
        self.text == other.text
    }

    /// The files that the value of `key`, or a value of that list, names, whose text `before` has not.
    #[must_use]
    pub fn changed_since(&self, before: &Sources, key: &str) -> Vec<&Path> {
        let is_of =
            |name: &str| name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
        let named = self.named_by.iter().filter(|(name, _)| is_of(name)).flat_map(|(_, files)| files);
        named
            .filter(|file| self.referenced.get(*file) != before.referenced.get(*file))
            .map(PathBuf::as_path)
            .collect()
    }

    /// Whether a reference names a file.
    #[must_use]
    pub fn has_references(&self) -> bool {
        !self.referenced.is_empty()
    }
}

fn print(text: Option<&str>) -> Print {
    text.map(|text| Sha256::digest(text).into())
}

/// What cannot be read twice, such as a pipe, counts as unchanged.
fn again(path: &Path, then: Print, read: impl FnOnce(&Path) -> Option<String>) -> Print {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => then,
        _ => print(read(path).as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_counts_as_unchanged() {
        let mut sources = Sources::new(Path::new("/dev/null"), Some("read from a pipe"));
        sources.note("tokens.key", Path::new("/dev/null"), Some("read from a pipe"), references::MOST);
        assert!(sources.look() == sources);
    }

    #[test]
    fn the_changed_files_of_a_key_are_named() {
        let read = |key: &str, first: &str, second: &str| {
            let mut sources = Sources::new(Path::new("config.toml"), None);
            sources.note("tokens.key", Path::new("key"), Some(key), references::MOST);
            sources.note("vault.keys[0]", Path::new("first"), Some(first), references::MOST);
            sources.note("vault.keys[1]", Path::new("second"), Some(second), references::MOST);
            sources.note("vault.keys_of_another", Path::new("other"), Some(second), references::MOST);
            sources
        };
        let before = read("a", "b", "c");
        let files = |now: &Sources, key: &str| {
            let files = now.changed_since(&before, key);
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        let now = read("a", "b", "d");
        assert_eq!(files(&now, "tokens.key"), [""; 0]);
        assert_eq!(files(&now, "vault.keys"), ["second"]);
        assert_eq!(files(&now, "vault"), [""; 0]);
        let empty = Sources::new(Path::new("config.toml"), None);
        assert_eq!(now.changed_since(&empty, "vault.keys").len(), 2);
    }
}

//! The files that a configuration was read from, as they were then, so that a change of one of them is noticed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::references;

/// SHA-256 of a file's text; `None`: there was no readable text.
type Print = Option<[u8; 32]>;

/// The configuration file, and the files that its references name, each with a hash of its text. Paths are followed
/// through symbolic links at each look, so that a link that was pointed elsewhere counts as a change.
#[derive(Clone, PartialEq, Eq)]
pub struct Sources {
    path: PathBuf,
    text: Print,
    referenced: BTreeMap<PathBuf, Print>,
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
        Sources { path: path.to_owned(), text: print(text), referenced: BTreeMap::new() }
    }

    /// A reference named this file; `text` is what was read of it.
    pub(super) fn note(&mut self, path: &Path, text: Option<&str>) {
        self.referenced.insert(path.to_owned(), print(text));
    }

    /// The same files as they are now. Reads all of them, and blocks meanwhile.
    #[must_use]
    pub fn look(&self) -> Sources {
        let referenced = self
            .referenced
            .iter()
            .map(|(path, then)| (path.clone(), again(path, *then, |path| references::read(path).ok())));
        Sources {
            path: self.path.clone(),
            text: again(&self.path, self.text, |path| std::fs::read_to_string(path).ok()),
            referenced: referenced.collect(),
        }
    }

    /// Whether the text of the configuration file itself is the same in both.
    #[must_use]
    pub fn has_text_of(&self, other: &Sources) -> bool {
        self.text == other.text
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

//! What is in a folder.

use std::fs;
use std::path::Path;

/// The names of what is in a folder, sorted.
///
/// # Panics
/// When it cannot be read, or a name is no UTF-8.
#[must_use]
pub fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

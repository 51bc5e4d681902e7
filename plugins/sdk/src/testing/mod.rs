//! Recorded exchanges as tests: what a call is given, which requests it must make, what each is answered,
//! and what must come of it. One TOML file for each, in a format of no language's own: the same files run
//! against the compiled component inside the gateway. `plugins/README.md` in Palisade's repository describes
//! every key.
//!
//! ```no_run
//! # use palisade_provider::oauth2::Generic as Example;
//! #[test]
//! fn recorded_exchanges() {
//!     palisade_provider::testing::play_all::<Example>(concat!(env!("CARGO_MANIFEST_DIR"), "/exchanges"));
//! }
//! ```

mod compare;
mod file;
mod player;

use std::fs;
use std::path::Path;

pub use file::Exchange;
pub use player::play;

use crate::Provider;

/// Plays every `*.toml` in `folder`.
///
/// # Panics
/// With everything that was not as recorded, when a file cannot be read, and when there is none.
pub fn play_all<P: Provider>(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no exchanges", folder.display());
    let mut wrong = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let differences = match Exchange::parse(&text) {
            Ok(exchange) => play::<P>(&exchange),
            Err(error) => vec![error],
        };
        wrong.extend(differences.into_iter().map(|difference| format!("{}: {difference}", path.display())));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

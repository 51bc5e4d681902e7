//! Where the components under `dist/` came from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Outcome;
use crate::plugin::Plugin;

const FILE: &str = "PROVENANCE.toml";

/// `dist/PROVENANCE.toml`.
#[derive(Serialize, Deserialize)]
pub struct Provenance {
    /// The compiler, its target and how it came by its library.
    pub toolchain: String,
    /// What was given to cargo.
    pub flags: Vec<String>,
    /// By name.
    pub components: BTreeMap<String, Component>,
}

/// One component.
#[derive(Serialize, Deserialize)]
pub struct Component {
    /// Of the file, in hex.
    pub sha256: String,
    /// Of the file, in bytes.
    pub size: usize,
    /// The crate.
    pub package: String,
    /// The crate's.
    pub version: String,
    /// The WIT package that it implements.
    pub wit: String,
    /// SHA-256 over everything that it was built from, in hex.
    pub sources: String,
}

impl Provenance {
    /// What `dist` says.
    ///
    /// # Errors
    /// That it says nothing, or nonsense.
    pub fn read(dist: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(dist.join(FILE)).map_err(|error| format!("dist/{FILE}: {error}"))?;
        toml::from_str(&text).map_err(|error| format!("dist/{FILE}: {error}").into())
    }

    /// Writes it into `dist`.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&self, dist: &Path) -> Outcome<()> {
        let text = toml::to_string(self)?;
        let head = "# Where these components came from. `make plugins` writes it, `make plugins-check` holds the\n\
                    # repository to it. Never edit it.\n";
        fs::write(dist.join(FILE), format!("{head}{text}"))?;
        Ok(())
    }
}

/// SHA-256 of `bytes`, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// One sum over everything that `plugin` is built from: its own files, the SDK's, and what cargo resolved.
///
/// # Errors
/// Those of the files.
pub fn sources(root: &Path, plugin: &Plugin) -> Outcome<String> {
    let mut files = vec![root.join("Cargo.toml"), root.join("Cargo.lock")];
    for folder in ["sdk", &plugin.name] {
        files.push(root.join(folder).join("Cargo.toml"));
        collect(&root.join(folder).join("src"), &mut files)?;
    }
    collect(&root.join("sdk/wit"), &mut files)?;
    files.sort();
    let mut list = String::new();
    for file in files {
        let name = file.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
        // As in what `sha256sum` prints.
        let _ = writeln!(list, "{}  {name}", sha256(&fs::read(&file)?));
    }
    Ok(sha256(list.as_bytes()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Outcome<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

/// Refuses a component that tells where it was built.
///
/// # Errors
/// The path that is in it.
pub fn refuse_paths(component: &[u8], root: &Path) -> Outcome<()> {
    let home = std::env::var("HOME").unwrap_or_default();
    for path in [root.to_string_lossy().into_owned(), format!("{home}/")] {
        if path.len() > 1 && component.windows(path.len()).any(|window| window == path.as_bytes()) {
            return Err(format!("the path {path} is in it").into());
        }
    }
    Ok(())
}

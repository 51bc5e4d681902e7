//! A plugin's project: a folder, and what its own manifest says it is written in and called.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::Value;

/// Names that a crate beside the SDK cannot have, and words of the language.
const TAKEN: [&str; 16] = [
    "alloc",
    "build",
    "core",
    "crate",
    "deps",
    "examples",
    "palisade-provider",
    "proc-macro",
    "provider",
    "sdk",
    "self",
    "serde",
    "serde-json",
    "std",
    "super",
    "test",
];

/// What a plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Language {
    /// A component of less than half a MiB, loaded in no time.
    Rust,
    /// A component of 12 MiB, most of it the JavaScript engine.
    Js,
    /// A component of 19 MiB, most of it the Python interpreter.
    Python,
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Language::Rust => "Rust",
            Language::Js => "JavaScript",
            Language::Python => "Python",
        })
    }
}

/// A plugin's sources.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) folder: PathBuf,
    pub(super) language: Language,
    /// Of the project, and of its component.
    pub(super) name: String,
}

impl Project {
    /// The project in `folder`, by the manifest that lies there.
    ///
    /// # Errors
    /// There is none, or it has no name.
    pub(super) fn open(folder: &Path) -> Result<Project, String> {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let (language, name, manifest) = if let Some(text) = read("Cargo.toml") {
            (Language::Rust, toml_name(&text, "package"), "Cargo.toml")
        } else if let Some(text) = read("package.json") {
            let name = serde_json::from_str::<Value>(&text).ok();
            (Language::Js, name.and_then(|value| value["name"].as_str().map(str::to_owned)), "package.json")
        } else if let Some(text) = read("pyproject.toml") {
            (Language::Python, toml_name(&text, "project"), "pyproject.toml")
        } else {
            return Err(format!(
                "{} holds no plugin: there is no Cargo.toml, package.json or pyproject.toml; \
                 `palisade plugin new NAME` begins one",
                folder.display()
            ));
        };
        let manifest = folder.join(manifest);
        let name = name.ok_or_else(|| format!("{}: it names no package", manifest.display()))?;
        check_name(&name).map_err(|why| format!("{}: {why}", manifest.display()))?;
        Ok(Project { folder: folder.to_owned(), language, name })
    }

    /// Where its component is after a build.
    pub(super) fn component(&self) -> PathBuf {
        self.folder.join(format!("{}.wasm", self.name))
    }

    /// Where its recorded exchanges are.
    pub(super) fn exchanges(&self) -> PathBuf {
        self.folder.join("exchanges")
    }
}

fn toml_name(text: &str, section: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    Some(table.get(section)?.get("name")?.as_str()?.to_owned())
}

/// Whether a plugin can be called `name`: as a crate, an npm package, a Python project and a file.
///
/// # Errors
/// Why not, and what would do.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits =
        name.len() <= 40 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split('-').all(word);
    if !fits {
        return Err(format!(
            "a plugin cannot be called {name:?}: up to 40 lower-case letters and digits, in words joined by '-' and \
             beginning with a letter, such as \"acme\" or \"acme-bank\""
        ));
    }
    if TAKEN.contains(&name) {
        return Err(format!(
            "a plugin cannot be called {name:?}, which means something else already: try \"{name}-plugin\""
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_crate_a_package_and_a_file() {
        for good in ["acme", "acme-bank", "a1-2b", "x"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "a".repeat(41);
        for bad in [
            "",
            "-",
            "Acme",
            "acme_bank",
            "1acme",
            "acme-",
            "a--b",
            "../acme",
            "a/b",
            "a b",
            "ä",
            "test",
            &long,
        ] {
            assert!(check_name(bad).unwrap_err().contains("cannot be called"), "{bad}");
        }
    }

    #[test]
    fn a_folder_says_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Project::open(folder.path()).map(|project| (project.language, project.name));
        assert!(open().unwrap_err().contains("palisade plugin new"));
        for (file, text, want) in [
            ("pyproject.toml", "[project]\nname = \"p\"", Language::Python),
            ("package.json", "{\"name\": \"p\"}", Language::Js),
            ("Cargo.toml", "package.name = \"p\"", Language::Rust),
        ] {
            fs::write(folder.path().join(file), text).unwrap();
            assert_eq!(open(), Ok((want, "p".to_owned())));
        }
        fs::write(folder.path().join("Cargo.toml"), "package.name = \"../p\"").unwrap();
        assert!(open().unwrap_err().contains("cannot be called"));
    }
}

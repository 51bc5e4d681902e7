//! A plugin's project: a folder, and what its own manifest says it is written in and called.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::Value;

use super::read_text;

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

/// What says that a folder holds a plugin, the first that is there.
const MANIFESTS: [(Language, &str); 3] =
    [(Language::Rust, "Cargo.toml"), (Language::Js, "package.json"), (Language::Python, "pyproject.toml")];

/// Endings of what a component is built from.
const SOURCES: [&str; 8] = ["rs", "js", "mjs", "json", "py", "txt", "toml", "wit"];
/// Folders that hold none of it.
const ELSEWHERE: [&str; 4] = ["target", "node_modules", "exchanges", "__pycache__"];

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
        let found = MANIFESTS.iter().find(|(_, file)| folder.join(file).exists());
        let &(language, file) = found.ok_or_else(|| {
            format!(
                "{} holds no plugin: there is no Cargo.toml, package.json or pyproject.toml; \
                 `palisade plugin new NAME` begins one",
                folder.display()
            )
        })?;
        let manifest = folder.join(file);
        let text = read_text(&manifest)?;
        let name = match language {
            Language::Rust => toml_name(&text, "package"),
            Language::Js => json_name(&text),
            Language::Python => toml_name(&text, "project"),
        };
        let name = name.map_err(|why| format!("{}: {why}", manifest.display()))?;
        check_name(&name).map_err(|why| format!("{}: {why}", manifest.display()))?;
        Ok(Project { folder: folder.to_owned(), language, name })
    }

    /// Where its component is after a build.
    pub(super) fn component(&self) -> PathBuf {
        self.folder.join(format!("{}.wasm", self.name))
    }

    /// A source that was changed after the component was built.
    pub(super) fn changed_since_built(&self) -> Option<PathBuf> {
        let built = fs::metadata(self.component()).and_then(|file| file.modified()).ok()?;
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).ok()?.flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                let name = name.to_string_lossy();
                // Links are not followed: `file_type` is of the entry itself.
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() && !ELSEWHERE.contains(&&*name) && !name.starts_with('.') {
                    folders.push(path);
                } else if kind.is_file()
                    && path.extension().is_some_and(|ending| SOURCES.iter().any(|known| ending == *known))
                    && entry.metadata().and_then(|file| file.modified()).is_ok_and(|changed| changed > built)
                {
                    return Some(path);
                }
            }
        }
        None
    }

    /// Where its recorded exchanges are.
    pub(super) fn exchanges(&self) -> PathBuf {
        self.folder.join("exchanges")
    }
}

fn toml_name(text: &str, section: &str) -> Result<String, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let name = table.get(section).and_then(|section| section.get("name")).and_then(toml::Value::as_str);
    name.map(str::to_owned).ok_or_else(|| format!("it has no `name` in [{section}]"))
}

fn json_name(text: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    value["name"].as_str().map(str::to_owned).ok_or_else(|| "it has no \"name\"".to_owned())
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

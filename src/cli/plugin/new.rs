//! `palisade plugin new`: a project that builds at once, with one test that passes.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::project::{Language, check_name};
use super::{sdk, show};
use crate::edge::wasm::WIT;

/// Where the guide is.
const DOCS: &str = "https://docs.rs/palisade-provider";
const README: &str = include_str!("templates/README.md");
const EXCHANGE: &str = include_str!("templates/exchange.toml");

/// A file of a template: where it goes, and its text.
type File = (&'static str, &'static str);

const RUST: [File; 3] = [
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml")),
    ("src/lib.rs", include_str!("templates/rust/lib.rs")),
    (".gitignore", include_str!("templates/rust/gitignore")),
];
const JS: [File; 3] = [
    ("package.json", include_str!("templates/js/package.json")),
    ("plugin.js", include_str!("templates/js/plugin.js")),
    (".gitignore", include_str!("templates/js/gitignore")),
];
const PYTHON: [File; 4] = [
    ("pyproject.toml", include_str!("templates/python/pyproject.toml")),
    ("requirements.txt", include_str!("templates/python/requirements.txt")),
    ("plugin.py", include_str!("templates/python/plugin.py")),
    (".gitignore", include_str!("templates/python/gitignore")),
];

/// What the README says of a language.
struct Words {
    source: &'static str,
    wit: &'static str,
    auth: &'static str,
    files: &'static str,
}

/// Writes the project and says what to do next.
///
/// # Errors
/// The name will not do, or there is something already.
pub(super) fn run(name: &str, language: Language, path: Option<&Path>) -> Result<String, String> {
    check_name(name)?;
    let folder = path.map_or_else(|| PathBuf::from(name), Path::to_owned);
    let is_empty = || fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
    // Whatever it is: a link that leads nowhere, a pipe.
    if folder.symlink_metadata().is_ok() && !is_empty() {
        return Err(format!(
            "{} is there already, and nothing is overwritten: choose another --path",
            folder.display()
        ));
    }
    let files = files(name, language)?;
    for (place, text) in &files {
        write(&folder.join(place), text)?;
    }
    Ok(format!(
        "{}: a plugin in {language}, {} files\n\nNext:\n  cd {}\n  palisade plugin build\n  palisade plugin test\n\
         README.md says how to go on.",
        folder.display(),
        files.len(),
        show::path(&folder)
    ))
}

/// Every file of a project, by its place.
fn files(name: &str, language: Language) -> Result<Vec<(String, String)>, String> {
    let (template, words): (&[File], Words) = match language {
        Language::Rust => (
            &RUST,
            Words {
                source: "src/lib.rs",
                wit: "sdk/wit/provider.wit",
                auth: "ClientAuth",
                files: "| `src/lib.rs` | the plugin |\n| `sdk/` | the SDK `palisade-provider`, as this Palisade carries it; not yours to change |",
            },
        ),
        Language::Js => (
            &JS,
            Words {
                source: "plugin.js",
                wit: "wit/provider.wit",
                auth: "clientAuth",
                files: "| `plugin.js` | the plugin; it can `import` files beside it (`./name.js`), and packages of npm once a bundler has made such a file of them |",
            },
        ),
        Language::Python => (
            &PYTHON,
            Words {
                source: "plugin.py",
                wit: "wit/provider.wit",
                auth: "client_auth",
                files: "| `plugin.py` | the plugin; modules beside it and pure Python packages of `requirements.txt` come along |",
            },
        ),
    };
    let (upper, title) = (name.to_ascii_uppercase().replace('-', "_"), title(name));
    let filled = |text: &str| {
        [
            ("{{files}}", words.files),
            ("{{source}}", words.source),
            ("{{wit}}", words.wit),
            ("{{auth}}", words.auth),
            ("{{docs}}", DOCS),
            ("{{name}}", name),
            ("{{NAME}}", &upper),
            ("{{Name}}", &title),
        ]
        .iter()
        .fold(text.to_owned(), |text, (mark, value)| text.replace(mark, value))
    };
    let mut files: Vec<(String, String)> =
        template.iter().map(|(place, text)| ((*place).to_owned(), filled(text))).collect();
    files.push(("README.md".to_owned(), filled(README)));
    files.push(("exchanges/refresh.toml".to_owned(), filled(EXCHANGE)));
    if language == Language::Rust {
        files.extend(sdk::manifests()?.into_iter().map(|(place, text)| (format!("sdk/{place}"), text)));
        files.extend(sdk::FILES.iter().map(|(place, text)| (format!("sdk/{place}"), (*text).to_owned())));
    } else {
        files.push(("wit/provider.wit".to_owned(), WIT.to_owned()));
    }
    Ok(files)
}

/// `acme-bank` as people write it.
fn title(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join(" ")
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{} cannot be written: {error}", file.display());
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut file_made = fs::OpenOptions::new().write(true).create_new(true).open(file).map_err(failed)?;
    file_made.write_all(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_filled_in() {
        for language in [Language::Rust, Language::Js, Language::Python] {
            let files = files("acme-bank", language).unwrap();
            for (place, text) in &files {
                assert!(!text.contains("{{") || place.starts_with("sdk/"), "{place}: {text}");
            }
            let of = |wanted: &str| &files.iter().find(|(place, _)| place == wanted).unwrap().1;
            assert!(of("README.md").lines().count() <= 50, "one screen");
            assert!(of("README.md").contains("env:ACME_BANK_CLIENT_ID"));
            let wit = if language == Language::Rust { "sdk/wit/provider.wit" } else { "wit/provider.wit" };
            assert_eq!(of(wit), WIT);
        }
        assert_eq!(title("acme-bank2"), "Acme Bank2");
    }

    /// What the wider tests build is built by the tools that a new author gets.
    #[test]
    fn the_examples_use_the_tools_of_the_templates() {
        let tools =
            |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["devDependencies"].clone();
        let example = include_str!("../../../examples/plugins/js/package.json");
        assert_eq!(tools(include_str!("templates/js/package.json")), tools(example));
        let example = include_str!("../../../examples/plugins/python/requirements.txt");
        assert_eq!(include_str!("templates/python/requirements.txt"), example);
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme");
        let said = run("acme", Language::Js, Some(&path)).unwrap();
        assert!(said.contains("palisade plugin build"), "{said}");
        fs::write(path.join("plugin.js"), "mine").unwrap();
        assert!(run("acme", Language::Js, Some(&path)).unwrap_err().contains("nothing is overwritten"));
        assert_eq!(fs::read_to_string(path.join("plugin.js")).unwrap(), "mine");
        std::os::unix::fs::symlink("/nowhere/at/all", folder.path().join("link")).unwrap();
        let link = run("acme", Language::Js, Some(&folder.path().join("link"))).unwrap_err();
        assert!(link.contains("nothing is overwritten"), "{link}");
        assert!(run("../acme", Language::Js, None).unwrap_err().contains("cannot be called"));
    }
}

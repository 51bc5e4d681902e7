//! The law of words: comments and guides name the actor (client, caller, attacker, owner, operator), and the public
//! types of two modules do not share a name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Item, Visibility};

use super::sources::Sources;

/// Words that comments and guides do not use, each with the reason.
pub const WORDS: &[(&str, &str)] = &[
    ("anybody", NAME_THE_ACTOR),
    ("anyone", NAME_THE_ACTOR),
    ("everybody", NAME_THE_ACTOR),
    ("everyone", NAME_THE_ACTOR),
    ("nobody", NAME_THE_ACTOR),
    ("somebody", NAME_THE_ACTOR),
    ("someone", NAME_THE_ACTOR),
    ("whoever", NAME_THE_ACTOR),
    ("whom", NAME_THE_ACTOR),
    ("whomever", NAME_THE_ACTOR),
    ("hence", "write `so`"),
    ("hither", "write `here`"),
    ("lest", "write `so that … not`"),
    ("thence", "write `from there`"),
    ("whence", "write `from where`"),
];

const NAME_THE_ACTOR: &str = "name the actor: client, caller, requester, owner, operator, attacker, task …";

/// What is read of this repository: folders and files, relative to its root.
const READ: &[&str] = &[
    "src",
    "tests",
    "benches",
    "examples",
    "plugins",
    "wit",
    "docs",
    ".ci",
    "Makefile",
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "config.toml",
    "deny.toml",
    "clippy.toml",
];

/// Files and folders that are not ours to word.
const FOREIGN: &[&str] = &[
    "plugins/compat",
    "plugins/dist",
    "tests/fixtures/store-",
    "node_modules",
    "target",
    "tests/tidy/words.rs",
];

/// How the comments of a file are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `//` outside of text.
    Slashes,
    /// `#` and the lines of a `"""` text.
    Hashes,
    /// All that is not code.
    Guide,
}

/// The form of a file, by its name and first line; `None` for a file without comments.
fn form(path: &Path, text: &str) -> Option<Form> {
    let name = path.file_name()?.to_str()?;
    Some(match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("rs" | "js" | "mjs" | "ts" | "wit" | "go") => Form::Slashes,
        Some("py" | "toml" | "sh" | "yml") => Form::Hashes,
        Some("md") => Form::Guide,
        _ if name == "Makefile" || text.starts_with("#!") => Form::Hashes,
        _ => return None,
    })
}

/// Every line of `READ` that uses one of [`WORDS`].
pub fn broken_words() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for place in READ {
        collect(&root.join(place), &mut paths);
    }
    paths.sort();
    let mut broken = Vec::new();
    let mut read = 0;
    for path in paths {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        if FOREIGN.iter().any(|place| name.contains(place)) {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if let Some(form) = form(&path, &text) {
            read += 1;
            broken.extend(words_in(&name, &text, form));
        }
    }
    assert!(read > 100, "the files were not found");
    broken
}

fn collect(place: &Path, paths: &mut Vec<PathBuf>) {
    if !place.is_dir() {
        paths.push(place.to_owned());
        return;
    }
    for entry in fs::read_dir(place).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_type().unwrap().is_symlink() && !FOREIGN.iter().any(|name| entry.file_name() == **name)
        {
            collect(&entry.path(), paths);
        }
    }
}

/// As [`words_in`], for a file of this name.
#[cfg(test)]
pub fn words_of(name: &str, text: &str) -> Vec<String> {
    form(Path::new(name), text).map_or_else(Vec::new, |form| words_in(name, text, form))
}

fn words_in(name: &str, text: &str, form: Form) -> Vec<String> {
    let mut broken = Vec::new();
    let (mut is_code, mut is_quoted) = (false, false);
    for (at, line) in text.lines().enumerate() {
        let comment = match form {
            Form::Slashes => slashes(line),
            Form::Hashes => {
                let quotes = line.matches("\"\"\"").count();
                let is_text = is_quoted || quotes > 0;
                is_quoted ^= quotes == 1;
                if is_text && !name.ends_with(".toml") { line } else { hashes(line) }
            }
            Form::Guide => {
                let is_fence = line.trim_start().starts_with("```");
                is_code ^= is_fence;
                if is_code || is_fence { "" } else { line }
            }
        };
        for word in words(comment) {
            if let Some((_, reason)) = WORDS.iter().find(|(listed, _)| *listed == word) {
                broken.push(format!("{name}:{}: {word}: {reason}", at + 1));
            }
        }
    }
    broken
}

/// What stands behind `//` in a line; a `//` within a text, as far as it begins and ends in the line, is none.
fn slashes(line: &str) -> &str {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| at + from) {
        let before = line[..at].replace("\\\"", "").replace("'\"'", "");
        if before.matches('"').count().is_multiple_of(2) && !before.ends_with(':') {
            return &line[at..];
        }
        from = at + 2;
    }
    ""
}

/// What stands behind a `#` that begins a line or follows white space, outside of a text.
fn hashes(line: &str) -> &str {
    let mut from = 0;
    while let Some(at) = line[from..].find('#').map(|at| at + from) {
        let before = &line[..at];
        let is_open = |quote: char| !before.matches(quote).count().is_multiple_of(2);
        if (before.is_empty() || before.ends_with(char::is_whitespace)) && !is_open('"') && !is_open('\'') {
            return &line[at..];
        }
        from = at + 1;
    }
    ""
}

/// The words of a comment in lower case, without `code`. `nobody's` is `nobody`; a name like `no_body` is one word.
fn words(comment: &str) -> Vec<String> {
    let prose: String = comment.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let words = prose.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// Modules that may name a public type like another module does, each with the reason.
pub const MAY_SHARE: &[(&str, &str)] = &[(
    "palisade::config",
    "a section of the configuration is called like what it configures: `config::Route`",
)];

/// Names that several modules may give, each with the reason.
pub const SHARED_NAMES: &[(&str, &str)] = &[
    ("Cluster", "PostgreSQL calls a server with its databases so, and load balancers a set of upstreams"),
    ("Registered", "an account, and a replica"),
    ("Registration", "of an account, and of a replica"),
    ("Replica", "one of several gateways, and one of several upstreams: the field's own word for both"),
    ("Wire", "between two ends of a test, and below a connection of the proxy"),
];

/// The public structs, enums, traits and aliases that two modules call the same.
pub fn shared_names(sources: &Sources) -> Vec<String> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources.files.iter().filter(|source| !source.is_test) {
        public_types(&source.file.items, &source.module.join("::"), &mut found);
    }
    let broken = found.into_iter().filter(|(name, modules)| {
        modules.len() > 1 && !SHARED_NAMES.iter().any(|(shared, _)| shared == name)
    });
    broken.map(|(name, modules)| format!("{name}: {}", modules.join(", "))).collect()
}

fn public_types(items: &[Item], module: &str, found: &mut BTreeMap<String, Vec<String>>) {
    if MAY_SHARE.iter().any(|(room, _)| module == *room || module.starts_with(&format!("{room}::"))) {
        return;
    }
    for item in items {
        let (visibility, name) = match item {
            Item::Struct(item) => (&item.vis, &item.ident),
            Item::Enum(item) => (&item.vis, &item.ident),
            Item::Trait(item) => (&item.vis, &item.ident),
            Item::Type(item) => (&item.vis, &item.ident),
            Item::Mod(inner) => {
                let is_test = inner.attrs.iter().any(|attribute| {
                    attribute.path().is_ident("cfg")
                        && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
                });
                if let (Some((_, items)), false) = (&inner.content, is_test) {
                    public_types(items, &format!("{module}::{}", inner.ident), found);
                }
                continue;
            }
            _ => continue,
        };
        if matches!(visibility, Visibility::Public(_)) {
            found.entry(name.to_string()).or_default().push(module.to_owned());
        }
    }
}

/// What the section "Where do I find …" of the guide says wrongly: a file that does not exist, or does not contain the
/// word in one line.
pub fn false_signposts(guide: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let section = guide.split("\n## ").find(|section| section.starts_with("Where do I find"));
    let Some(section) = section else { return vec!["the section is missing".to_owned()] };
    let rows =
        section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    let mut broken = Vec::new();
    let mut words_found = 0;
    for (words, files) in rows.skip(1) {
        for file in files.split(", ").map(|file| file.trim_matches('`')) {
            let is_core = ["domain/", "ports/", "service/"].iter().any(|floor| file.starts_with(floor));
            let Some(text) = read(&if is_core { format!("core/{file}") } else { file.to_owned() }) else {
                broken.push(format!("{words}: {file} does not exist"));
                continue;
            };
            let text = text.to_lowercase();
            for word in words.split(", ").map(|word| word.split(" (").next().unwrap()) {
                words_found += 1;
                if !text.lines().any(|line| line.contains(&word.to_lowercase())) {
                    broken.push(format!("{word}: {file} does not say so"));
                }
            }
        }
    }
    if words_found < 50 {
        broken.push(format!("{words_found} signposts only: the table was not found"));
    }
    broken
}

//! The templates of the pages: those built in, and those of a folder that replace them (`[pages] folder`). The texts of
//! the operator's are in that folder, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior};

use super::languages::OwnTexts;
use super::words;
use crate::config::ConfigError;
use palisade_core::domain::page::PageName;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("templates/", $name)))),*]
    };
}

/// Every template that is looked for, with the words it has unless a folder has others.
pub(super) const BUILT_IN: [(&str, &str); 14] = built_in![
    "layout.html",
    "_ui.html",
    "account.html",
    "check-mail.html",
    "error.html",
    "forgot.html",
    "framed.html",
    "object.html",
    "register.html",
    "reset.html",
    "sign-in.html",
    "sign-out.html",
    "undo.html",
    "verify.html",
];

/// Compiled templates.
pub(super) struct Templates {
    environment: Environment<'static>,
    /// Where those come from that are not built in.
    files: BTreeMap<String, PathBuf>,
    /// The texts of the folder.
    pub(super) texts: Vec<OwnTexts>,
}

/// The name of the template of `page`.
pub(super) fn file_of(page: PageName) -> String {
    format!("{}.html", page.name())
}

impl Templates {
    /// The built-in ones, and over them those of `folder`, where the logo may be, too.
    ///
    /// # Errors
    /// Every file that is not a template of ours, cannot be read or has a wrong syntax.
    pub(super) fn load(folder: Option<&Path>, logo: Option<&Path>) -> Result<Templates, Vec<ConfigError>> {
        let mut templates =
            Templates { environment: environment(), files: BTreeMap::new(), texts: Vec::new() };
        let mut errors = Vec::new();
        for (name, text) in BUILT_IN {
            if let Err(error) = templates.environment.add_template(name, text) {
                errors.push(templates.as_config_error(&error, name));
            }
        }
        for path in folder.map(|folder| listed(folder, &mut errors)).unwrap_or_default() {
            if logo != Some(&path) {
                templates.replace(&path, &mut errors);
            }
        }
        if errors.is_empty() { Ok(templates) } else { Err(errors) }
    }

    /// Takes the template in this file for the built-in one of its name.
    fn replace(&mut self, path: &Path, errors: &mut Vec<ConfigError>) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            errors.push(fault(path, 0, "a name that is not UTF-8", "the name of a template"));
            return;
        };
        let tag = name.strip_suffix(".toml").filter(|tag| is_tag(tag));
        if tag.is_none() && !is_known(name) {
            errors.push(fault(path, 0, "a file that no page is made of", &known()));
            return;
        }
        match (fs::read_to_string(path), tag) {
            (Ok(text), Some(tag)) => {
                self.texts.push(OwnTexts { tag: tag.to_owned(), file: path.to_owned(), text });
            }
            (Ok(text), None) => {
                self.files.insert(name.to_owned(), path.to_owned());
                if let Err(error) = self.environment.add_template_owned(name.to_owned(), text) {
                    errors.push(self.as_config_error(&error, name));
                }
            }
            (Err(error), _) => {
                errors.push(fault(path, 0, &format!("no readable file ({error})"), "a template"));
            }
        }
    }

    /// Renders the page.
    pub(super) fn render(&self, page: PageName, facts: &Value) -> Result<String, Error> {
        self.environment.get_template(&file_of(page))?.render(facts.clone())
    }

    /// An error with its file and line. It can quote what the template says and not what it was given.
    pub(super) fn as_config_error(&self, error: &Error, name: &str) -> ConfigError {
        // An error in a part that was included or extended names that part.
        let mut inner: &Error = error;
        while let Some(source) = std::error::Error::source(inner).and_then(|e| e.downcast_ref::<Error>()) {
            inner = source;
        }
        let name = inner.name().unwrap_or(name);
        let mut found = inner.kind().to_string();
        if let Some(detail) = inner.detail() {
            found = format!("{found} ({detail})");
        }
        let want =
            "a template that renders; the comment at the head of each built-in one names what the page knows";
        fault(&self.place(name), inner.line().unwrap_or(0), &found, want)
    }

    /// The file that `name` comes from.
    fn place(&self, name: &str) -> PathBuf {
        self.files.get(name).cloned().unwrap_or_else(|| Path::new("(built-in)").join(name))
    }
}

/// An error of a template as the configuration tells its own.
pub(super) fn fault(path: &Path, line: usize, found: &str, want: &str) -> ConfigError {
    let (found, want) = (found.to_owned(), want.to_owned());
    ConfigError { path: path.to_owned(), line, key: "pages.folder".to_owned(), found, want }
}

/// The files of `folder` in the order of their names, without hidden ones.
fn listed(folder: &Path, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut paths: Vec<PathBuf> = match entries {
        Ok(entries) => entries.iter().map(fs::DirEntry::path).collect(),
        Err(error) => {
            errors.push(fault(folder, 0, &format!("no readable folder ({error})"), "a folder of templates"));
            Vec::new()
        }
    };
    let is_hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    paths.retain(|path| !is_hidden(path));
    paths.sort();
    paths
}

/// Whether this is a language tag of a language, or of a language and a region (RFC 5646 §2.1): `it`, `pt-BR`.
fn is_tag(text: &str) -> bool {
    let (language, region) =
        text.split_once('-').map_or((text, "ZZ"), |(language, region)| (language, region));
    matches!(language.len(), 2 | 3)
        && language.bytes().all(|byte| byte.is_ascii_lowercase())
        && region.len() == 2
        && region.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Whether a template of this name is ever asked for: a built-in one, or a part of the folder's own.
fn is_known(name: &str) -> bool {
    let is_part = name.starts_with('_') && name.ends_with(".html");
    is_part || BUILT_IN.iter().any(|(known, _)| *known == name)
}

fn known() -> String {
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    format!(
        "one of {}, a part that begins with _ and ends in .html, or the texts of a language such as de.toml",
        names.join(", ")
    )
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // An error must not carry what the template was given.
    environment.set_debug(false);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    words::add_to(&mut environment);
    environment
}

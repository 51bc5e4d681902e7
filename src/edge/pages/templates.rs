//! The templates of the pages: those built in, and those of a folder that replace them (`[pages] folder`). The texts of
//! the operator's are in that folder, too.

use std::path::Path;

use minijinja::Error;
use minijinja::value::Value;

use super::languages::OwnTexts;
use super::words;
use crate::config::ConfigError;
use crate::templates::{TemplateKind, TemplateSet};
use palisade_core::domain::page::PageName;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("templates/", $name)))),*]
    };
}

/// Every template that is looked for, with the words it has unless a folder has others.
pub(super) static BUILT_IN: [(&str, &str); 14] = built_in![
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

/// As errors tell them.
pub(super) const KIND: TemplateKind = TemplateKind {
    key: "pages.folder",
    want: "a template that renders; the comment at the head of each built-in one names what the page knows",
};

/// Compiled templates.
pub(super) struct Templates {
    set: TemplateSet,
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
        let mut errors = Vec::new();
        let set = TemplateSet::new(KIND, words::environment(), &BUILT_IN, &mut errors);
        let mut templates = Templates { set, texts: Vec::new() };
        for path in folder.map(|folder| KIND.listed(folder, &mut errors)).unwrap_or_default() {
            if logo != Some(&path) {
                templates.replace(&path, &mut errors);
            }
        }
        if errors.is_empty() { Ok(templates) } else { Err(errors) }
    }

    /// Takes the template in this file for the built-in one of its name.
    fn replace(&mut self, path: &Path, errors: &mut Vec<ConfigError>) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            errors.push(KIND.fault(path, 0, "a name that is not UTF-8", "the name of a template"));
            return;
        };
        let tag = name.strip_suffix(".toml").filter(|tag| is_tag(tag));
        if tag.is_none() && !is_known(name) {
            errors.push(KIND.fault(path, 0, "a file that no page is made of", &known()));
            return;
        }
        match (KIND.read(path, errors), tag) {
            (Some(text), Some(tag)) => {
                self.texts.push(OwnTexts { tag: tag.to_owned(), file: path.to_owned(), text });
            }
            (Some(text), None) => self.set.replace(name, path, text, errors),
            (None, _) => {}
        }
    }

    /// Renders the page.
    pub(super) fn render(&self, page: PageName, facts: &Value) -> Result<String, Error> {
        self.set.render(&file_of(page), facts)
    }

    /// An error with its file and line. It can quote what the template says and not what it was given.
    pub(super) fn as_config_error(&self, error: &Error, name: &str) -> ConfigError {
        self.set.as_config_error(error, name)
    }
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

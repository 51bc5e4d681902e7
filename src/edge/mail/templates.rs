//! The templates of the letters: those built in, and those of a folder that replace them.
//!
//! All are read and tried at the start. One that cannot be read, that no letter uses, or that does not
//! render is a configuration error with its file and line: it must not come out with the first mail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, escape_formatter,
};

use crate::config::ConfigError;
use palisade_core::domain::mail::Letter;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("letters/", $name)))),*]
    };
}

/// Every template that is looked for, with the words it has unless a folder has others.
const BUILT_IN: [(&str, &str); 35] = built_in![
    "layout.html",
    "layout.txt",
    "_button.html",
    "_facts.html",
    "_facts.txt",
    "verify_email.html",
    "verify_email.txt",
    "welcome.html",
    "welcome.txt",
    "already_registered.html",
    "already_registered.txt",
    "reset_password.html",
    "reset_password.txt",
    "password_changed.html",
    "password_changed.txt",
    "confirm_email.html",
    "confirm_email.txt",
    "email_changed.html",
    "email_changed.txt",
    "email_replaced.html",
    "email_replaced.txt",
    "email_change_undone.html",
    "email_change_undone.txt",
    "email_change_disputed.html",
    "email_change_disputed.txt",
    "new_device.html",
    "new_device.txt",
    "account_deleted.html",
    "account_deleted.txt",
    "reconnect_needed.html",
    "reconnect_needed.txt",
    "grant_ending.html",
    "grant_ending.txt",
    "invitation.html",
    "invitation.txt",
];

/// Compiled templates.
pub struct Templates {
    environment: Environment<'static>,
    /// Where those come from that are not built in.
    files: BTreeMap<String, PathBuf>,
}

impl Templates {
    /// The built-in ones, and over them those of `folder`.
    ///
    /// # Errors
    /// Every file that is not a template of ours, cannot be read or has a wrong syntax.
    pub fn load(folder: Option<&Path>) -> Result<Templates, Vec<ConfigError>> {
        let mut templates = Templates { environment: environment(), files: BTreeMap::new() };
        let mut errors = Vec::new();
        for (name, text) in BUILT_IN {
            if let Err(error) = templates.environment.add_template(name, text) {
                errors.push(templates.as_config_error(&error, name));
            }
        }
        for path in folder.map(|folder| listed(folder, &mut errors)).unwrap_or_default() {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                errors.push(fault(&path, 0, "a name that is not UTF-8", "the name of a letter"));
                continue;
            };
            if !is_known(name) {
                let want = format!("the name of a letter, such as verify_email.html; one of {}", known());
                errors.push(fault(&path, 0, "a file that no letter is made of", &want));
                continue;
            }
            match fs::read_to_string(&path) {
                Ok(text) => {
                    templates.files.insert(name.to_owned(), path.clone());
                    if let Err(error) = templates.environment.add_template_owned(name.to_owned(), text) {
                        errors.push(templates.as_config_error(&error, name));
                    }
                }
                Err(error) => {
                    errors.push(fault(&path, 0, &format!("no readable file ({error})"), "a template"))
                }
            }
        }
        if errors.is_empty() { Ok(templates) } else { Err(errors) }
    }

    /// Renders one.
    pub(super) fn render(&self, name: &str, facts: &Value) -> Result<String, Error> {
        self.environment.get_template(name)?.render(facts.clone())
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
        let want = "a template that renders; `palisade mail preview --list` names what each letter knows";
        fault(&self.place(name), inner.line().unwrap_or(0), &found, want)
    }

    /// The file that `name` comes from.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.files.get(name).cloned().unwrap_or_else(|| Path::new("(built-in)").join(name))
    }
}

/// An error of a template as the configuration tells its own.
pub(super) fn fault(path: &Path, line: usize, found: &str, want: &str) -> ConfigError {
    let (found, want) = (found.to_owned(), want.to_owned());
    ConfigError { path: path.to_owned(), line, key: "mail.templates".to_owned(), found, want }
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
    let hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    paths.retain(|path| !hidden(path));
    paths.sort();
    paths
}

/// Whether a template of this name is ever asked for: a built-in one, or a part of the folder's own.
fn is_known(name: &str) -> bool {
    let part = name.starts_with('_') && (name.ends_with(".html") || name.ends_with(".txt"));
    part || BUILT_IN.iter().any(|(known, _)| *known == name)
}

fn known() -> String {
    let letters: Vec<&str> = Letter::ALL.iter().map(|letter| letter.name()).chain(["layout"]).collect();
    format!("{} with .html or .txt, or a part that begins with _", letters.join(", "))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // An error must not carry what the template was given.
    environment.set_debug(false);
    environment.set_auto_escape_callback(|name| match name.ends_with(".txt") {
        true => AutoEscape::None,
        false => AutoEscape::Html,
    });
    environment.set_formatter(format);
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

/// What is not there must be asked for, not printed as "none". Slashes stay as they are, so that an
/// address in the source of a letter is one that can be copied.
fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_none() {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "this letter may lack it: ask with {% if %} first",
        ));
    }
    let html = matches!(state.auto_escape(), AutoEscape::Html) && !value.is_safe();
    match value.as_str().filter(|_| html) {
        Some(text) => out.write_str(&escaped(text)).map_err(Error::from),
        None => escape_formatter(out, state, value),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

//! The templates of the letters: those built in, and those of a folder that replace them.
//!
//! All are read and tried at the start. One that cannot be read, that no letter uses, or that does not
//! render is a configuration error with its file and line: it must not come out with the first mail.

use std::path::Path;

use crate::config::ConfigError;
use crate::html::escaped;
use crate::templates::{TemplateKind, TemplateSet, environment};
use palisade_core::domain::mail::Letter;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("letters/", $name)))),*]
    };
}

/// Every template that is looked for, with the words it has unless a folder has others.
static BUILT_IN: [(&str, &str); 35] = built_in![
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

/// As errors tell them.
pub(super) const KIND: TemplateKind = TemplateKind {
    key: "mail.templates",
    want: "a template that renders; `palisade mail preview --list` names what each letter knows",
};

/// What a letter says that prints what it lacks.
const LACKS: &str = "this letter may lack it: ask with {% if %} first";

/// The built-in ones, and over them those of `folder`.
///
/// # Errors
/// Every file that is not a template of ours, cannot be read or has a wrong syntax.
pub fn load(folder: Option<&Path>) -> Result<TemplateSet, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let mut templates = TemplateSet::new(KIND, environment(LACKS, escaped), &BUILT_IN, &mut errors);
    for path in folder.map(|folder| KIND.listed(folder, &mut errors)).unwrap_or_default() {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            errors.push(KIND.fault(&path, 0, "a name that is not UTF-8", "the name of a letter"));
            continue;
        };
        if !is_known(name) {
            let want = format!("the name of a letter, such as verify_email.html; one of {}", known());
            errors.push(KIND.fault(&path, 0, "a file that no letter is made of", &want));
            continue;
        }
        if let Some(text) = KIND.read(&path, &mut errors) {
            templates.replace(name, &path, text, &mut errors);
        }
    }
    if errors.is_empty() { Ok(templates) } else { Err(errors) }
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

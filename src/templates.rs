//! Templates for people: those built in, and over them those of an operator's folder. Below the rooms of `edge`, since
//! letters and pages are made alike.
//!
//! One that cannot be read, or whose syntax is wrong, is a configuration error with its file and line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, escape_formatter};

use crate::config::ConfigError;

/// What all templates of one kind have in common, as errors tell it.
#[derive(Debug, Clone, Copy)]
pub struct TemplateKind {
    /// The configuration key that names the folder.
    pub key: &'static str,
    /// What a template that fails should be, and where what it knows is told.
    pub want: &'static str,
}

/// Compiled templates of one kind.
pub struct TemplateSet {
    kind: TemplateKind,
    environment: Environment<'static>,
    /// Where those come from that are not built in.
    files: BTreeMap<String, PathBuf>,
}

impl TemplateKind {
    /// An error of a template as the configuration tells its own.
    #[must_use]
    pub fn fault(&self, path: &Path, line: usize, found: &str, want: &str) -> ConfigError {
        let (found, want) = (found.to_owned(), want.to_owned());
        ConfigError { path: path.to_owned(), line, key: self.key.to_owned(), found, want }
    }

    /// The files of `folder` in the order of their names, without hidden ones.
    pub fn listed(&self, folder: &Path, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut paths: Vec<PathBuf> = match entries {
            Ok(entries) => entries.iter().map(fs::DirEntry::path).collect(),
            Err(error) => {
                let found = format!("no readable folder ({error})");
                errors.push(self.fault(folder, 0, &found, "a folder of templates"));
                Vec::new()
            }
        };
        let is_hidden =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        paths.retain(|path| !is_hidden(path));
        paths.sort();
        paths
    }

    /// The text of a file of the folder.
    pub fn read(&self, path: &Path, errors: &mut Vec<ConfigError>) -> Option<String> {
        let read = fs::read_to_string(path);
        read.map_err(|error| {
            errors.push(self.fault(path, 0, &format!("no readable file ({error})"), "a template"))
        })
        .ok()
    }
}

impl TemplateSet {
    /// The built-in ones: names and texts.
    pub fn new(
        kind: TemplateKind,
        environment: Environment<'static>,
        built_in: &'static [(&'static str, &'static str)],
        errors: &mut Vec<ConfigError>,
    ) -> TemplateSet {
        let mut set = TemplateSet { kind, environment, files: BTreeMap::new() };
        for (name, text) in built_in {
            if let Err(error) = set.environment.add_template(name, text) {
                errors.push(set.as_config_error(&error, name));
            }
        }
        set
    }

    /// Takes `text`, which is that of the file `path`, for the template `name`.
    pub fn replace(&mut self, name: &str, path: &Path, text: String, errors: &mut Vec<ConfigError>) {
        self.files.insert(name.to_owned(), path.to_owned());
        if let Err(error) = self.environment.add_template_owned(name.to_owned(), text) {
            errors.push(self.as_config_error(&error, name));
        }
    }

    /// Renders one.
    ///
    /// # Errors
    /// There is none of this name, or it asks for a fact that is not there.
    pub fn render(&self, name: &str, facts: &Value) -> Result<String, Error> {
        self.environment.get_template(name)?.render(facts.clone())
    }

    /// An error with its file and line. It can quote what the template says and not what it was given.
    #[must_use]
    pub fn as_config_error(&self, error: &Error, name: &str) -> ConfigError {
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
        self.kind.fault(&self.place(name), inner.line().unwrap_or(0), &found, self.kind.want)
    }

    /// The file that `name` comes from.
    #[must_use]
    pub fn place(&self, name: &str) -> PathBuf {
        self.files.get(name).cloned().unwrap_or_else(|| Path::new("(built-in)").join(name))
    }
}

/// What templates are compiled in. Texts are printed by `escape`, but for those of `.txt` files and those that are marked
/// as HTML; what is not there must be asked for, not printed as "none": `lacks` says so.
#[must_use]
pub fn environment(lacks: &'static str, escape: fn(&str) -> String) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // An error must not carry what the template was given.
    environment.set_debug(false);
    environment.set_auto_escape_callback(|name| match name.ends_with(".txt") {
        true => AutoEscape::None,
        false => AutoEscape::Html,
    });
    environment.set_formatter(move |out, state, value| {
        if value.is_none() {
            return Err(Error::new(ErrorKind::InvalidOperation, lacks));
        }
        let escapes = matches!(state.auto_escape(), AutoEscape::Html) && !value.is_safe();
        match value.as_str().filter(|_| escapes) {
            Some(text) => out.write_str(&escape(text)).map_err(Error::from),
            None => escape_formatter(out, state, value),
        }
    });
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

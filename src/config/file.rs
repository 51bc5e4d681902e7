//! `config.toml` as written: a walk over the document that remembers the line of every key.
//!
//! A mirror of the file in serde would stop at the first error, so that an operator would find one error at each
//! start. Here every reader reports what it found to the [`Document`] and goes on, and a [`Section`] reports the
//! keys that no reader asked for. Values are shown only through [`show`], which hides what may be secret.

use std::cell::RefCell;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::form;
use super::redaction::Redaction;
use super::references::{self, Filled, References, Source, Unresolved};
use super::sources::Sources;

/// The file, and what is wrong with it so far.
pub struct Document<'a> {
    text: &'a str,
    path: &'a Path,
    /// Looks up a variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    references: References,
    sources: RefCell<Sources>,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
}

impl<'a> Document<'a> {
    /// A document without errors yet.
    pub fn new(text: &'a str, path: &'a Path, env: &'a dyn Fn(&str) -> Option<String>) -> Document<'a> {
        let (errors, warnings) = Default::default();
        let sources = RefCell::new(Sources::new(path, Some(text)));
        Document { text, path, env, references: References::default(), sources, errors, warnings }
    }

    /// Puts values in place of the references in its texts, and reports those that cannot be had.
    pub fn fill(&mut self, table: &mut DeTable<'_>) {
        let resolve = |key: &str, source: Source<'_>| {
            let unresolved = |found, want: &str| Unresolved { found, want: want.to_owned() };
            let value = match source {
                Source::Env(name) | Source::Variable(name) => (self.env)(name).ok_or_else(|| {
                    unresolved(format!("\"{source}\""), &format!("the variable {name} to be set, as UTF-8"))
                })?,
                Source::File(path) => {
                    let text = self.read(key, &self.resolve(path), references::MOST);
                    references::without_newline(text.map_err(|error| {
                        unresolved(format!("\"{source}\" ({error})"), "a readable file of at most 64 KiB")
                    })?)
                }
            };
            references::not_empty(source, value)
        };
        let mut report = |at: usize, key: &str, why: Unresolved| self.fault(at, key, why.found, why.want);
        self.references = References::fill(table, &resolve, &mut report);
    }

    /// The line of a byte offset, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Records an error at a byte offset.
    pub fn fault(&self, at: usize, key: &str, found: impl Into<String>, want: impl Into<String>) {
        self.errors.borrow_mut().push(ConfigError {
            path: self.path.to_owned(),
            line: self.line(at),
            key: key.to_owned(),
            found: self.redaction().hide(found.into()),
            want: self.redaction().hide(want.into()),
        });
    }

    /// Records something that works but is probably not meant.
    pub fn warn(&self, at: usize, key: &str, text: &str) {
        let line = self.place(at, key, text);
        self.warnings.borrow_mut().push(line);
    }

    /// Words about a key, behind its place in the file.
    pub(super) fn place(&self, at: usize, key: &str, text: &str) -> String {
        let text = self.redaction().hide(text.to_owned());
        format!("{}:{}: {key}: {text}", self.path.display(), self.line(at))
    }

    /// A path of the file, which is relative to the file's folder.
    #[must_use]
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Keeps the values of its references out of messages.
    pub fn redaction(&self) -> &Redaction {
        &self.references.redaction
    }

    /// The text of a file of at most `most` bytes that the value of `key` names.
    ///
    /// # Errors
    /// As [`references::read`].
    pub fn read(&self, key: &str, file: &Path, most: u64) -> io::Result<String> {
        let text = references::read(file, most);
        self.sources.borrow_mut().note(key, file, text.as_deref().ok(), most);
        text
    }

    /// The errors by line, the warnings, and the files that were read.
    #[must_use]
    pub fn finish(self) -> (Vec<ConfigError>, Vec<String>, Sources) {
        let mut errors: Vec<ConfigError> = Vec::new();
        // A value that two checks read is wrong only once.
        for error in self.errors.into_inner() {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        errors.sort_by_key(|error| error.line);
        (errors, self.warnings.into_inner(), self.sources.into_inner())
    }
}

/// A table of the file. Ask for its keys, then [`Section::close`] it.
#[must_use = "close it, or unknown keys go unseen"]
pub struct Section<'a> {
    /// The document it belongs to.
    pub doc: &'a Document<'a>,
    table: Option<&'a DeTable<'a>>,
    /// Its dotted key; empty for the whole document.
    pub key: String,
    /// Where it starts.
    pub at: usize,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub fn root(doc: &'a Document<'a>, table: &'a DeTable<'a>) -> Section<'a> {
        Section { doc, table: Some(table), key: String::new(), at: 0, known: RefCell::default() }
    }

    fn dotted(&self, name: &str) -> String {
        form::dotted(&self.key, name)
    }

    fn entries(&self) -> impl Iterator<Item = (&'a str, Item<'a>)> + use<'a, '_> {
        self.table.into_iter().flatten().map(|(name, value)| {
            let name_text: &'a str = name.get_ref();
            let key = self.dotted(name_text);
            (name_text, Item::new(self.doc, key, value, name.span().start))
        })
    }

    /// The value of a key, if it is there.
    pub fn get(&self, name: &'static str) -> Option<Item<'a>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&name) {
            known.push(name);
        }
        drop(known);
        self.entries().find(|(key, _)| *key == name).map(|(_, item)| item)
    }

    /// Every key with its value, for tables whose keys are free.
    pub fn all(self) -> Vec<(&'a str, Item<'a>)> {
        self.entries().collect()
    }

    /// The value of a key that must be there.
    pub fn required(&self, name: &'static str, want: &str) -> Option<Item<'a>> {
        let item = self.get(name);
        if item.is_none() {
            self.doc.fault(self.at, &self.dotted(name), "nothing", want);
        }
        item
    }

    /// A table inside this one; empty, so that defaults hold, when it is not there.
    pub fn section(&self, name: &'static str) -> Section<'a> {
        let empty = || Section {
            doc: self.doc,
            table: None,
            key: self.dotted(name),
            at: self.at,
            known: RefCell::default(),
        };
        self.get(name).and_then(|item| item.section()).unwrap_or_else(empty)
    }

    /// `[[name]]`: a list of tables.
    pub fn sections(&self, name: &'static str) -> Vec<Section<'a>> {
        let Some(item) = self.get(name) else { return Vec::new() };
        if !matches!(item.value, DeValue::Array(_)) {
            item.bad::<()>(&format!("a list of tables, each headed [[{name}]]"));
            return Vec::new();
        }
        item.list().into_iter().filter_map(|item| item.section()).collect()
    }

    /// `true` or `false`.
    pub fn bool(&self, name: &'static str, default: bool) -> bool {
        self.get(name).and_then(|item| item.bool()).unwrap_or(default)
    }

    /// A whole number within `range`.
    pub fn number(&self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.get(name).and_then(|item| item.number(range)).unwrap_or(default)
    }

    /// Like [`Section::number`], for sizes and counts in memory.
    pub fn count(&self, name: &'static str, default: usize, range: RangeInclusive<u64>) -> usize {
        let number = self.get(name).and_then(|item| item.number(range));
        number.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
    }

    /// A duration such as `"30s"` within `range`.
    pub fn duration(
        &self,
        name: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.get(name).and_then(|item| item.duration(range)).unwrap_or(default)
    }

    /// A size such as `"10MB"` within `range`, in bytes.
    pub fn size(&self, name: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        self.get(name).and_then(|item| item.size_within(range)).unwrap_or(default)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, name: &'static str, words: &[(&str, T)], default: T) -> T {
        self.get(name).and_then(|item| item.choice(words)).unwrap_or(default)
    }

    /// A list of strings, each read by `read`; a single string is a list of one.
    pub fn list<T>(&self, name: &'static str, read: impl Fn(&Item<'a>) -> Option<T>) -> Vec<T> {
        let items = self.get(name).map(|item| item.list()).unwrap_or_default();
        items.iter().filter_map(read).collect()
    }

    /// Reports the keys that no reader asked for.
    pub fn close(self) {
        self.unknown();
    }

    /// Reports the keys that no reader has asked for so far.
    pub fn unknown(&self) {
        let known = self.known.borrow();
        for (name, item) in self.entries() {
            if known.contains(&name) {
                continue;
            }
            let want = match form::nearest(name, &known) {
                Some(near) => format!("a known key; did you mean {near:?}?"),
                None => format!("one of {}", known.join(", ")),
            };
            self.doc.fault(item.at, &item.key, "an unknown key", want);
        }
    }
}

/// A value of the file, with its key and its place.
pub struct Item<'a> {
    /// The document it belongs to.
    pub doc: &'a Document<'a>,
    /// Its dotted key.
    pub key: String,
    pub(super) value: &'a DeValue<'a>,
    /// Where it starts.
    pub at: usize,
    /// If it is a text that contained references.
    pub filled: Option<&'a Filled>,
}

impl<'a> Item<'a> {
    fn new(doc: &'a Document<'a>, key: String, value: &'a Spanned<DeValue<'a>>, at: usize) -> Item<'a> {
        Item { doc, key, value: value.get_ref(), at, filled: doc.references.text_at(value.span().start) }
    }

    /// Reports that this value will not do.
    pub fn bad<T>(&self, want: &str) -> Option<T> {
        let shown = self.filled.map_or_else(|| show(self.value), |filled| form::quoted(&filled.written));
        self.bad_as(shown, want)
    }

    /// Like [`Item::bad`], with another description of what was found.
    pub fn bad_as<T>(&self, found: impl Into<String>, want: &str) -> Option<T> {
        // What stands there is no value, and was reported.
        if self.filled.is_some_and(|filled| filled.failed) {
            return None;
        }
        self.doc.fault(self.at, &self.key, found, want);
        None
    }

    /// Whether it is `false`, which turns off what has a default.
    #[must_use]
    pub fn is_false(&self) -> bool {
        self.boolean() == Some(false)
    }

    /// Whether it is `true`.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.boolean() == Some(true)
    }

    /// What a reference stands for, where something else than a text is wanted: variables are texts.
    fn referenced(&self) -> Option<&'a str> {
        self.filled.and(self.value.as_str()).map(str::trim)
    }

    fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.referenced()?.parse().ok())
    }

    /// Whether it is `[]`.
    #[must_use]
    pub fn is_empty_list(&self) -> bool {
        matches!(self.value, DeValue::Array(values) if values.is_empty())
    }

    /// Whether it is a list.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    /// Whether it is a table.
    #[must_use]
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// The string as it is, without a complaint when it is none.
    #[must_use]
    pub fn raw(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// A string.
    pub fn text(&self, want: &str) -> Option<&'a str> {
        match self.value.as_str() {
            Some(text) if !text.trim().is_empty() => Some(text),
            _ => self.bad(want),
        }
    }

    /// A string that `read` accepts.
    pub fn read<T>(&self, want: &str, read: impl FnOnce(&'a str) -> Option<T>) -> Option<T> {
        let value = read(self.text(want)?);
        if value.is_none() { self.bad(want) } else { value }
    }

    fn bool(&self) -> Option<bool> {
        let value = self.boolean();
        if value.is_none() { self.bad("true or false") } else { value }
    }

    fn integer(&self) -> Option<u64> {
        match self.value.as_integer() {
            Some(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            None => self.referenced()?.parse().ok(),
        }
    }

    /// A whole number within `range`.
    pub fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        match self.integer() {
            Some(number) if range.contains(&number) => Some(number),
            _ => self.bad(&format!("a whole number from {} to {}", range.start(), range.end())),
        }
    }

    /// A size in bytes within `range`.
    fn size_within(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let size = self.size()?;
        let fits = usize::try_from(size).ok().filter(|size| range.contains(size));
        if fits.is_none() {
            self.bad(&format!("a size from {} to {} bytes", range.start(), range.end()))
        } else {
            fits
        }
    }

    /// A size in bytes: a whole number, or a string with a unit.
    pub fn size(&self) -> Option<u64> {
        let size = self.integer().or_else(|| form::size(self.value.as_str()?));
        if size.is_none() {
            self.bad("a size such as \"10MB\", \"512KiB\" or a number of bytes")
        } else {
            size
        }
    }

    fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let read = |text: &str| humantime::parse_duration(text).ok().filter(|d| range.contains(d));
        match self.value.as_str().and_then(read) {
            Some(duration) => Some(duration),
            None => {
                let [low, high] = [range.start(), range.end()].map(|d| humantime::format_duration(*d));
                self.bad(&format!("a duration such as \"30s\" or \"5m\", from {low} to {high}"))
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let found = self.value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        if let Some((_, value)) = found {
            return Some(*value);
        }
        let names: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.bad(&names.join(" or "))
    }

    /// The values of a list; a single string is a list of one.
    #[must_use]
    pub fn list(&self) -> Vec<Item<'a>> {
        let place = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| {
            Item::new(self.doc, format!("{}[{index}]", self.key), value, start(value.span(), self.at))
        };
        match self.value {
            DeValue::Array(values) => values.iter().enumerate().map(place).collect(),
            DeValue::String(_) => {
                let Item { doc, value, at, filled, .. } = *self;
                vec![Item { doc, key: self.key.clone(), value, at, filled }]
            }
            _ => {
                self.bad::<()>("a list of strings");
                Vec::new()
            }
        }
    }

    /// A table.
    #[must_use]
    pub fn section(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else { return self.bad("a table of keys") };
        let known = RefCell::default();
        Some(Section { doc: self.doc, table: Some(table), key: self.key.clone(), at: self.at, known })
    }
}

/// Tables that are only implied by dotted keys have no place of their own.
fn start(span: Range<usize>, fallback: usize) -> usize {
    if span.end == 0 { fallback } else { span.start }
}

/// A value for people to recognise, without the userinfo of URLs and never at length.
fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => form::quoted(text),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(values) if values.is_empty() => "an empty list".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

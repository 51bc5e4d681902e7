//! The texts of the pages in each language, and language negotiation: which one a reader gets.

use std::cmp::Reverse;
use std::path::PathBuf;

use minijinja::value::{Serde, Value};
use toml::Table;

/// The languages that are built in; the first is the one for readers who ask for none of those that are offered.
const BUILT_IN: [(&str, &str); 4] = [
    ("en", include_str!("languages/en.toml")),
    ("de", include_str!("languages/de.toml")),
    ("fr", include_str!("languages/fr.toml")),
    ("es", include_str!("languages/es.toml")),
];
/// How many ranges of an `Accept-Language` count: browsers send up to about ten.
const MAX_RANGES: usize = 32;

/// The texts in one language.
#[derive(Debug)]
pub(super) struct Language {
    /// A language tag (RFC 5646) of a language, or of a language and a region.
    pub(super) tag: String,
    tables: Value,
}

impl Language {
    /// The texts of this table; undefined when there is none.
    pub(super) fn table(&self, name: &str) -> Value {
        self.tables.get_attr(name).unwrap_or_default()
    }
}

/// Texts of the operator's: a file of the folder whose name is a language tag and `.toml`.
pub(super) struct OwnTexts {
    pub(super) tag: String,
    pub(super) file: PathBuf,
    pub(super) text: String,
}

/// What is wrong with a language.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LanguageFault {
    /// `None`: it is in no file.
    pub(super) file: Option<PathBuf>,
    /// Counted from 1; 0 when it is in no line.
    pub(super) line: usize,
    pub(super) found: String,
}

/// The languages that are offered; at least one.
#[derive(Debug)]
pub(super) struct Languages(Vec<Language>);

impl Languages {
    /// Those in `wanted`, in that order, or all that there are. Texts of `own` replace built-in ones, key by key; of a
    /// language that is not built in they must be complete.
    ///
    /// # Errors
    /// Each language that there is not, and each text that cannot be read, that no page has, or that is missing.
    pub(super) fn load(wanted: &[String], own: &[OwnTexts]) -> Result<Languages, Vec<LanguageFault>> {
        let mut faults = Vec::new();
        let mut all: Vec<(String, Table)> = Vec::new();
        for (tag, text) in BUILT_IN {
            match toml::from_str(text) {
                Ok(tables) => all.push((tag.to_owned(), tables)),
                Err(error) => faults.push(unreadable(None, text, &error)),
            }
        }
        let model = all.first().map(|(_, tables)| tables.clone()).unwrap_or_default();
        for OwnTexts { tag, file, text } in own {
            let at = |line: usize, found: String| LanguageFault { file: Some(file.clone()), line, found };
            let tables: Table = match toml::from_str(text) {
                Ok(tables) => tables,
                Err(error) => {
                    faults.push(unreadable(Some(file.clone()), text, &error));
                    continue;
                }
            };
            let found = strangers(&tables, &model);
            faults.extend(found.into_iter().map(|(table, key)| {
                at(line_of(text, &table, &key), format!("{table}.{key}, which is no text of a page"))
            }));
            faults.extend(strange_places(&tables, &model).into_iter().map(|(table, key, place)| {
                at(
                    line_of(text, &table, &key),
                    format!("{{{place}}} in {table}.{key}, which is not given it"),
                )
            }));
            match all.iter_mut().find(|(known, _)| known == tag) {
                Some((_, built_in)) => lay_over(built_in, tables),
                None => {
                    let missing = strangers(&model, &tables);
                    if let Some((table, key)) = missing.first() {
                        let count = missing.len();
                        faults.push(at(0, format!("no text {table}.{key} ({count} are missing)")));
                    }
                    all.push((tag.clone(), tables));
                }
            }
        }
        if !wanted.is_empty() {
            let mut chosen = Vec::new();
            for tag in wanted {
                match all.iter().find(|(known, _)| known == tag) {
                    Some(language) => chosen.push(language.clone()),
                    None => {
                        let found = format!("the language {tag:?}");
                        faults.push(LanguageFault { file: None, line: 0, found });
                    }
                }
            }
            all = chosen;
        }
        let languages =
            all.into_iter().map(|(tag, tables)| Language { tag, tables: Value::from(Serde(tables)) });
        if faults.is_empty() { Ok(Languages(languages.collect())) } else { Err(faults) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Language> {
        self.0.iter()
    }

    /// The language for a reader whose browser sent this `Accept-Language` (RFC 9110 §12.5.4). A range matches its own tag,
    /// or else the first tag of the same language (as in RFC 4647 §3.4, but regions are taken for one another); a `*`
    /// matches the first that is not refused by name. Ranges that cannot be read do not count.
    ///
    /// The maintained crates for this ignore the weights.
    pub(super) fn choose(&self, accepted: Option<&str>) -> &Language {
        let ranges = accepted.unwrap_or_default().split(',').take(MAX_RANGES).filter_map(range);
        let (refused, mut asked): (Vec<_>, Vec<_>) = ranges.partition(|(_, weight)| *weight == 0);
        asked.sort_by_key(|(_, weight)| Reverse(*weight));
        let is = |language: &Language, range: &str| language.tag.eq_ignore_ascii_case(range);
        let is_akin =
            |language: &Language, range: &str| first(&language.tag).eq_ignore_ascii_case(first(range));
        let is_refused = |language: &Language| refused.iter().any(|(range, _)| is_akin(language, range));
        let found = asked.iter().find_map(|(range, _)| match *range {
            "*" => self.0.iter().find(|language| !is_refused(language)),
            range => {
                let exact = self.0.iter().find(|language| is(language, range));
                exact.or_else(|| self.0.iter().find(|language| is_akin(language, range)))
            }
        });
        found.unwrap_or(&self.0[0])
    }
}

/// The first subtag, which is the language.
fn first(tag: &str) -> &str {
    tag.split('-').next().unwrap_or_default()
}

/// The keys of `tables` that `model` has not, each with its table.
fn strangers(tables: &Table, model: &Table) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (table, texts) in tables {
        let known = model.get(table).and_then(toml::Value::as_table);
        for (key, text) in texts.as_table().into_iter().flatten() {
            let is_alike = known.and_then(|known| known.get(key)).is_some_and(|known| known.same_type(text));
            if !is_alike {
                found.push((table.clone(), key.clone()));
            }
        }
        if !texts.is_table() {
            found.push((table.clone(), String::new()));
        }
    }
    found
}

/// What the texts of `tables` want to be filled in and those of `model` do not, each with its table and key.
fn strange_places(tables: &Table, model: &Table) -> Vec<(String, String, String)> {
    let places = |text: &toml::Value| -> Vec<String> {
        let text = text.as_str().unwrap_or_default();
        text.split('{').skip(1).map(|rest| rest.split('}').next().unwrap_or_default().to_owned()).collect()
    };
    let mut found = Vec::new();
    for (table, texts) in tables {
        for (key, text) in texts.as_table().into_iter().flatten() {
            let given = model.get(table).and_then(|texts| texts.get(key)).map(places);
            let strange = places(text)
                .into_iter()
                .find(|place| given.as_ref().is_some_and(|given| !given.contains(place)));
            found.extend(strange.map(|place| (table.clone(), key.clone(), place)));
        }
    }
    found
}

fn lay_over(below: &mut Table, above: Table) {
    for (table, texts) in above {
        if let (Some(toml::Value::Table(below)), toml::Value::Table(texts)) = (below.get_mut(&table), texts) {
            below.extend(texts);
        }
    }
}

/// The line of `key` in `[table]`; 0 when it is written in some other way.
fn line_of(text: &str, table: &str, key: &str) -> usize {
    let header = format!("[{table}]");
    let lines = text.lines().enumerate().skip_while(|(_, line)| line.trim() != header);
    let is_of = |line: &str| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    lines.into_iter().find(|(_, line)| is_of(line)).map_or(0, |(at, _)| at + 1)
}

fn unreadable(file: Option<PathBuf>, text: &str, error: &toml::de::Error) -> LanguageFault {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    LanguageFault { file, line, found: format!("texts that cannot be read ({})", error.message()) }
}

/// A range and its weight in thousandths (RFC 9110 §12.4.2).
fn range(text: &str) -> Option<(&str, u16)> {
    let (tag, parameters) = text.split_once(';').unwrap_or((text, ""));
    let weight = match parameters.trim() {
        "" => 1000,
        weight => {
            let (name, value) = weight.split_once('=')?;
            let value = value.trim();
            let is_weight =
                value.len() <= 5 && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let (whole, part) = value.split_once('.').unwrap_or((value, ""));
            let whole: u16 =
                whole.parse().ok().filter(|_| is_weight && name.trim().eq_ignore_ascii_case("q"))?;
            let part: u16 = format!("{part:0<3}").parse().ok()?;
            Some(whole * 1000 + part).filter(|weight| *weight <= 1000)?
        }
    };
    let tag = tag.trim();
    (!first(tag).is_empty()).then_some((tag, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_the_language_asked_for() {
        let all = Languages::load(&[], &[]).unwrap();
        for (accepted, tag) in [
            ("", "en"),
            ("de", "de"),
            ("DE-at", "de"),
            ("de-CH-1996,fr;q=0.9", "de"),
            ("en;q=0.5, fr ; Q=0.7,es;q=0.6", "fr"),
            ("pt-BR,pt;q=0.9,es;q=0.8,en;q=0.7", "es"),
            ("fr;q=0.3,de;q=0.3", "fr"),
            ("ja,*;q=0.1", "en"),
            ("en;q=0,*", "de"),
            ("de;q=0", "en"),
            ("de;q=0.0001,fr;q=0.001", "fr"),
            ("de;q=1.5,fr;q=0.1", "fr"),
            ("de;q=x,es;q=1.000", "es"),
            ("de;level=1,es;q=0.2", "es"),
            (";q=1,,-,*", "en"),
            ("dee", "en"),
        ] {
            assert_eq!(all.choose(Some(accepted)).tag, tag, "{accepted}");
        }
        assert_eq!(all.choose(None).tag, "en");
        let many = format!("{}de", "x,".repeat(MAX_RANGES));
        assert_eq!(all.choose(Some(&many)).tag, "en");
    }

    fn own(tag: &str, text: &str) -> OwnTexts {
        OwnTexts { tag: tag.to_owned(), file: format!("{tag}.toml").into(), text: text.to_owned() }
    }

    #[test]
    fn only_what_is_offered_is_given() {
        let some = Languages::load(&["fr".to_owned(), "de".to_owned()], &[]).unwrap();
        for (accepted, tag) in [("en", "fr"), ("en,de;q=0.1", "de"), ("*", "fr")] {
            assert_eq!(some.choose(Some(accepted)).tag, tag, "{accepted}");
        }
        let faults = Languages::load(&["it".to_owned(), "de".to_owned(), "EN".to_owned()], &[]).unwrap_err();
        let found: Vec<&str> = faults.iter().map(|fault| &*fault.found).collect();
        assert_eq!(found, ["the language \"it\"", "the language \"EN\""]);
    }

    #[test]
    fn an_operator_has_texts_and_languages_of_their_own() {
        let whole = BUILT_IN[0].1;
        let all = Languages::load(
            &[],
            &[own("de", "[common]\nemail = \"Mail\""), own("pt-BR", whole), own("pt", whole)],
        );
        let all = all.unwrap();
        let german = all.choose(Some("de-AT"));
        assert_eq!(german.table("common").get_attr("email").unwrap().as_str(), Some("Mail"));
        assert_eq!(german.table("common").get_attr("password").unwrap().as_str(), Some("Passwort"));
        for (accepted, tag) in [("pt-br", "pt-BR"), ("pt", "pt"), ("pt-PT", "pt-BR"), ("pt;q=0,*", "en")] {
            assert_eq!(all.choose(Some(accepted)).tag, tag, "{accepted}");
        }
        let pt = Languages::load(&["pt".to_owned()], &[own("pt", whole)]).unwrap();
        assert_eq!(pt.iter().count(), 1);
    }

    #[test]
    fn a_wrong_text_is_named_with_its_line() {
        for (tag, text, line, found) in [
            ("de", "[common]\n\nemial = \"x\"", 3, "common.emial, which is no text of a page"),
            ("de", "[commun]\nemail = \"x\"", 2, "commun.email, which is no text of a page"),
            ("de", "[common]\nmonths = \"x\"", 2, "common.months, which is no text of a page"),
            ("de", "email = \"x\"", 0, "email., which is no text of a page"),
            ("de", "[common]\ntowards = \"Zu {hots}\"", 2, "{hots} in common.towards, which is not given it"),
            ("de", "[common]\nemail = x", 2, "texts that cannot be read"),
            ("it", "[common]\nemail = \"x\"", 0, "no text account."),
        ] {
            let faults = Languages::load(&[], &[own(tag, text)]).unwrap_err();
            let fault = faults.iter().find(|fault| fault.found.starts_with(found));
            assert_eq!(fault.map(|fault| fault.line), Some(line), "{text}: {faults:?}");
        }
    }
}

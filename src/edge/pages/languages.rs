//! The texts of the pages in each language, and language negotiation: which one a reader gets.

use std::cmp::Reverse;

use minijinja::value::{Serde, Value};

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
    /// A language tag of one subtag (RFC 5646), in lower case.
    pub(super) tag: &'static str,
    tables: Value,
}

impl Language {
    /// The texts of this table; undefined when there is none.
    pub(super) fn table(&self, name: &str) -> Value {
        self.tables.get_attr(name).unwrap_or_default()
    }
}

/// The languages that are offered; at least one.
#[derive(Debug)]
pub(super) struct Languages(Vec<Language>);

impl Languages {
    /// Those in `wanted`, in that order, or all that are built in.
    ///
    /// # Errors
    /// Each that is not built in, or whose texts cannot be read.
    pub(super) fn load(wanted: &[String]) -> Result<Languages, Vec<String>> {
        let all = || BUILT_IN.map(|(tag, _)| tag.to_owned()).to_vec();
        let wanted = if wanted.is_empty() { all() } else { wanted.to_vec() };
        let (mut languages, mut faults) = (Vec::new(), Vec::new());
        for tag in wanted {
            let Some((tag, text)) = BUILT_IN.into_iter().find(|(known, _)| *known == tag) else {
                faults.push(format!("the language {tag:?}"));
                continue;
            };
            match toml::from_str::<toml::Table>(text) {
                Ok(tables) => languages.push(Language { tag, tables: Value::from(Serde(tables)) }),
                Err(error) => {
                    faults.push(format!("texts in {tag:?} that cannot be read ({})", error.message()))
                }
            }
        }
        if faults.is_empty() { Ok(Languages(languages)) } else { Err(faults) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Language> {
        self.0.iter()
    }

    /// The language for a reader whose browser sent this `Accept-Language` (RFC 9110 §12.5.4). A range matches the
    /// language that it begins with, as in the lookup of RFC 4647 §3.4; a `*` matches the first that is not refused by
    /// name. Ranges that cannot be read do not count.
    ///
    /// The maintained crates for this ignore the weights.
    pub(super) fn choose(&self, accepted: Option<&str>) -> &Language {
        let ranges = accepted.unwrap_or_default().split(',').take(MAX_RANGES).filter_map(range);
        let (refused, mut asked): (Vec<_>, Vec<_>) = ranges.partition(|(_, weight)| *weight == 0);
        asked.sort_by_key(|(_, weight)| Reverse(*weight));
        let is = |language: &Language, range: &str| language.tag.eq_ignore_ascii_case(range);
        let is_refused = |language: &Language| refused.iter().any(|(range, _)| is(language, range));
        let found = asked.iter().find_map(|(range, _)| {
            self.0.iter().find(|language| match *range {
                "*" => !is_refused(language),
                range => is(language, range),
            })
        });
        found.unwrap_or(&self.0[0])
    }
}

/// A range and its weight in thousandths (RFC 9110 §12.4.2): its first subtag, which is the language.
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
    let language = tag.trim().split('-').next()?;
    (!language.is_empty()).then_some((language, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_the_language_asked_for() {
        let all = Languages::load(&[]).unwrap();
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

    #[test]
    fn only_what_is_offered_is_given() {
        let some = Languages::load(&["fr".to_owned(), "de".to_owned()]).unwrap();
        for (accepted, tag) in [("en", "fr"), ("en,de;q=0.1", "de"), ("*", "fr")] {
            assert_eq!(some.choose(Some(accepted)).tag, tag, "{accepted}");
        }
        assert_eq!(
            Languages::load(&["it".to_owned(), "de".to_owned(), "EN".to_owned()]).unwrap_err(),
            ["the language \"it\"", "the language \"EN\""]
        );
    }
}

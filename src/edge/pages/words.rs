//! What templates write texts with: filters that fill in facts, and moments and spans in the reader's language.
//!
//! Facts come from people and requests. None of them is markup, and none reaches beyond its place: control characters
//! and those that turn the direction of writing are left out of everything that is printed.

use std::time::{Duration, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};

use crate::{html, templates};

/// 9999-12-31T23:59:59Z: what comes later cannot be written as a date.
const LAST: u64 = 253_402_300_799;

/// What pages are compiled in: the filters, and the way that values are printed.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = templates::environment("this page may lack it: ask with {% if %} first", escaped);
    environment.add_filter("fill", fill);
    environment.add_filter("mark", mark);
    environment.add_filter("about", about);
    environment.add_filter("told", told);
    environment.add_filter("moment", moment);
    environment.add_filter("span", span);
    environment
}

fn wrong(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// Whether a reader would take it for something else than text of its place.
fn is_hidden(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// As text of an element or a quoted attribute, without what is hidden.
fn escaped(text: &str) -> String {
    let seen: String = text.chars().filter(|c| !is_hidden(*c)).collect();
    html::escaped(&seen)
}

/// `text` with each `{name}` replaced by what `value` gives for it.
fn filled(
    text: &str,
    plain: impl Fn(&str) -> String,
    value: impl Fn(&str) -> Result<String, Error>,
) -> Result<String, Error> {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, behind) = behind.split_once('}').ok_or_else(|| wrong("a { without its }"))?;
        out.push_str(&plain(before));
        out.push_str(&value(name)?);
        rest = behind;
    }
    out.push_str(&plain(rest));
    Ok(out)
}

/// The fact `name`, which must be there.
fn there(name: &str, fact: Option<Value>) -> Result<String, Error> {
    match fact.filter(|fact| !fact.is_undefined() && !fact.is_none()) {
        Some(fact) => Ok(fact.to_string()),
        None => Err(Error::new(ErrorKind::UndefinedError, format!("the text wants {{{name}}}"))),
    }
}

/// `t.x|fill(name=…)`: the text with its facts, to be escaped as any other.
fn fill(text: &str, facts: Kwargs) -> Result<String, Error> {
    filled(text, str::to_owned, |name| there(name, facts.peek::<Option<Value>>(name)?))
}

/// `t.x|mark(name=…)`: the same as HTML, in which the facts are set off and keep to their direction of writing.
fn mark(text: &str, facts: Kwargs) -> Result<Value, Error> {
    let html = filled(text, escaped, |name| {
        let fact = there(name, facts.peek::<Option<Value>>(name)?)?;
        Ok(format!("<bdi class=\"fact\">{}</bdi>", escaped(&fact)))
    })?;
    Ok(Value::from_safe_string(html))
}

/// `errors|about("email")`: the first error of this field, or none.
fn about(errors: Value, field: &str) -> Result<Value, Error> {
    if errors.is_none() {
        return Ok(errors);
    }
    let mut errors = errors.try_iter()?;
    let is_of = |error: &Value| error.get_attr("field").is_ok_and(|of| of.as_str() == Some(field));
    Ok(errors.find(is_of).unwrap_or(Value::from(())))
}

/// `error|told(e)`: what is wrong, in the reader's words. `error` has a `code` and what its text tells. An unknown code
/// gets the text of `other`.
fn told(error: Value, texts: Value) -> Result<String, Error> {
    let code = error.get_attr("code").unwrap_or_default();
    let known = texts.get_item(&code).ok().filter(|text| !text.is_undefined());
    let text = known.map_or_else(|| texts.get_attr("other"), Ok)?;
    let text = text.as_str().ok_or_else(|| wrong("an error without a text"))?;
    filled(text, str::to_owned, |name| there(name, error.get_attr(name).ok()))
}

/// `at|moment(c)`: a Unix time as a date and a time of day, in UTC.
fn moment(at: u64, texts: Value) -> Result<String, Error> {
    let at = UNIX_EPOCH + Duration::from_secs(at.min(LAST));
    // 2026-11-26T16:41:00Z
    let written = humantime::format_rfc3339_seconds(at).to_string();
    let part = |from: usize, to: usize| written.get(from..to).unwrap_or_default();
    let month = texts.get_attr("months")?.get_item_by_index(part(5, 7).parse().unwrap_or(1) - 1)?;
    filled(&texts.get_attr("moment")?.to_string(), str::to_owned, |name| match name {
        "day" => Ok(part(8, 10).trim_start_matches('0').to_owned()),
        "month" => Ok(month.to_string()),
        "year" => Ok(part(0, 4).to_owned()),
        "time" => Ok(part(11, 16).to_owned()),
        _ => Err(wrong("a moment has a {day}, {month}, {year} and {time}")),
    })
}

/// `seconds|span(c)`: how long that is, in the largest unit that comes out even or is counted twice, rounded up.
fn span(seconds: u64, texts: Value) -> Result<String, Error> {
    const UNITS: [(&str, &str, u64); 3] =
        [("day", "days", 86_400), ("hour", "hours", 3600), ("minute", "minutes", 60)];
    let unit = UNITS.into_iter().find(|(_, _, length)| {
        seconds >= 2 * length || (seconds >= *length && seconds.is_multiple_of(*length))
    });
    let (one, more, length) = unit.unwrap_or(("second", "seconds", 1));
    let count = seconds.div_ceil(length);
    let text = texts.get_attr(if count == 1 { one } else { more })?.to_string();
    filled(&text, str::to_owned, |_| Ok(count.to_string()))
}

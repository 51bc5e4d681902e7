//! Keeps what came from references out of messages: a text with references is shown as it was written.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::form::Url;

/// Shorter values are not looked for in messages about other keys: they are parts of ordinary words.
const LEAST_HIDDEN: usize = 4;

/// What is encoded in the path and the query of a URL that a library has read (WHATWG URL, "path percent-encode set").
const IN_URL: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// The values of the references of a configuration, and what is shown in their place.
#[derive(Clone, Default)]
pub struct Redaction(Arc<[Hidden]>);

struct Hidden {
    value: String,
    shown: String,
}

impl Redaction {
    /// A message in which no value of a reference is left.
    #[must_use]
    pub fn hide(&self, message: String) -> String {
        self.0.iter().fold(message, |message, Hidden { value, shown }| match message.contains(value) {
            true => message.replace(value, shown),
            false => message,
        })
    }
}

/// Says nothing of the values.
impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redaction")
    }
}

/// Values as they are found.
#[derive(Default)]
pub struct Values(Vec<Hidden>);

impl Values {
    /// In messages `shown` stands for `value`, in each form in which messages write it.
    pub fn keep_out(&mut self, value: &str, shown: &str) {
        // As it is, as a quoted text, as a host, within a URL.
        let encoded = utf8_percent_encode(value, IN_URL).to_string();
        for form in [value.to_owned(), value.escape_debug().to_string(), value.to_ascii_lowercase(), encoded]
        {
            self.add(form, shown);
        }
        // Of a whole URL messages name the host alone. That of this machine is in messages about other keys.
        if let Some(url) = Url::parse(value).filter(|url| !url.is_loopback()) {
            self.add(url.host, shown);
        }
    }

    fn add(&mut self, value: String, shown: &str) {
        if value.len() >= LEAST_HIDDEN && !self.0.iter().any(|known| known.value == value) {
            self.0.push(Hidden { value, shown: shown.to_owned() });
        }
    }

    /// The longest are looked for first: a value may be a part of another.
    pub fn finish(mut self) -> Redaction {
        self.0.sort_by_key(|hidden| std::cmp::Reverse(hidden.value.len()));
        Redaction(self.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hide(values: &[(&str, &str)], message: &str) -> String {
        let mut all = Values::default();
        for (value, shown) in values {
            all.keep_out(value, shown);
        }
        all.finish().hide(message.to_owned())
    }

    #[test]
    fn a_value_is_hidden_in_every_form_that_messages_write_it_in() {
        let odd = [("Key\"{1}\n", "${env:A}")];
        for message in ["x Key\"{1}\n y", "x Key\\\"{1}\\n y", "x key\"{1}\n y", "x Key%22%7B1%7D%0A y"] {
            assert_eq!(hide(&odd, message), "x ${env:A} y");
        }
        let url = [("https://APP.test:444/hook", "${env:URL}")];
        assert_eq!(hide(&url, "app.test:3000 is another machine"), "${env:URL}:3000 is another machine");
        assert_eq!(hide(&url, "https://APP.test:444/hook answered 500"), "${env:URL} answered 500");
        let here = [("http://127.0.0.1:3000", "${env:URL}")];
        assert_eq!(
            hide(&here, "127.0.0.1:9180 is the admin listener"),
            "127.0.0.1:9180 is the admin listener"
        );
    }

    #[test]
    fn a_value_within_another_leaves_nothing_of_that_one() {
        let values = [("hunter", "${env:SHORT}"), ("hunter2", "${env:LONG}")];
        assert_eq!(hide(&values, "hunter2 and hunter"), "${env:LONG} and ${env:SHORT}");
    }

    #[test]
    fn a_value_of_a_few_bytes_is_left_in_other_words() {
        assert_eq!(hide(&[("app", "${env:A}")], "the app"), "the app");
        assert_eq!(hide(&[("apps", "${env:A}")], "the apps"), "the ${env:A}");
    }
}

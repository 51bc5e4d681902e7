//! Redaction: no text about a call may hold the secrets that the call was given, or that the answers to it have
//! brought since.
//!
//! The usual mistake of an author is to log the input. A secret is found as plain text, as URLs, forms and JSON escape
//! it, in base64 and base64url at any offset, in hex, and as a list of bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::Zeroizing;

use super::spellings::{Spelling, inner, known_spellings, without_codes};
use palisade_core::ports::DoorResponse;

/// What stands in a text in place of a secret.
pub(super) const HIDDEN: &str = "(a secret)";
/// The least bytes of a secret, or of a truncated one; shorter values occur in any text.
const SECRET: usize = 8;
/// The least bytes of a word that counts as a piece of a secret: a log line may wrap one.
const PIECE: usize = 16;
/// How much of an answer is looked through, and what is learnt of it at most, in bytes and in number.
const LOOKED_THROUGH: usize = 1 << 20;
const LONGEST: usize = 16 << 10;
const MOST: usize = 64;
/// Shorter values count as secrets only where their name says so.
pub(super) const OPAQUE: usize = 20;
/// Names whose values are the protocol's own words.
pub(super) const HARMLESS: [&str; 13] = [
    "alg",
    "aud",
    "azp",
    "code_challenge_method",
    "grant_type",
    "iss",
    "response_type",
    "scope",
    "scopes",
    "token_type",
    "token_type_hint",
    "tokentype",
    "typ",
];
/// DraftParts of names whose values are times, when they are numbers.
pub(super) const TIMES: [&str; 2] = ["expir", "issued_at"];
/// DraftParts of names whose values are secrets.
pub(super) const SECRET_NAMES: [&str; 12] = [
    "token",
    "secret",
    "code",
    "password",
    "assertion",
    "session",
    "signature",
    "key",
    "sid",
    "cookie",
    "authorization",
    "nonce",
];

/// The secrets of one call.
#[derive(Default)]
pub(super) struct Secrets(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    known: Vec<Known>,
    /// How many of them were there at the beginning.
    given: usize,
    asked: bool,
}

struct Known {
    secret: Zeroizing<String>,
    /// How else it is written; made when a text is first searched for it.
    spellings: Option<Vec<Spelling>>,
}

impl Secrets {
    pub(super) fn of(given: impl IntoIterator<Item = SecretString>) -> Secrets {
        let mut inner = Inner::default();
        given.into_iter().for_each(|secret| inner.add(secret.expose_secret()));
        inner.given = inner.known.len();
        Secrets(Mutex::new(inner))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be made.
    pub(super) fn ask(&self) {
        self.lock().asked = true;
    }

    /// Whether a request was made.
    pub(super) fn asked(&self) -> bool {
        self.lock().asked
    }

    /// Remembers what looks like a token or a code in an answer.
    pub(super) fn learn(&self, answer: &DoorResponse) {
        let mut found = Found::default();
        for (name, value) in &answer.headers {
            match &**name {
                "location" => found.url(value),
                "set-cookie" => found.named_value("cookie", value.split(';').next().unwrap_or_default()),
                name if is_secret_name(name) => found.named_value(name, value),
                _ => {}
            }
        }
        let body = &answer.body[..answer.body.len().min(LOOKED_THROUGH)];
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => found.json("", &value),
            Err(_) => found.text(&String::from_utf8_lossy(body)),
        }
        let mut inner = self.lock();
        for secret in &found.0 {
            if inner.known.len() - inner.given >= MOST {
                break;
            }
            inner.add(secret);
        }
    }

    /// `text` without any of them, and without the beginning of one at its end, where it may have been cut. A text
    /// that still says one, escaped twice or in some other way, is left out as a whole.
    pub(super) fn hide(&self, text: &str) -> Zeroizing<String> {
        let mut inner = self.lock();
        let mut text = Zeroizing::new(text.to_owned());
        for known in &mut inner.known {
            known.replace(&mut text);
        }
        inner.replace_pieces(&mut text);
        Zeroizing::new(without_codes(&text, HIDDEN, |read| inner.tells(read)))
    }
}

impl Inner {
    fn add(&mut self, secret: &str) {
        let secret = &secret[..secret.floor_char_boundary(LONGEST)];
        if secret.len() < SECRET || self.known.iter().any(|known| *known.secret == *secret) {
            return;
        }
        let known = Known { secret: Zeroizing::new(secret.to_owned()), spellings: None };
        // A secret may be part of a longer one.
        let place = self.known.partition_point(|known| known.secret.len() >= secret.len());
        self.known.insert(place, known);
    }

    /// Whether a text that was decoded has one in it, or ends with the beginning of one.
    fn tells(&self, text: &str) -> bool {
        let says = |known: &Known| text.contains(&**known.secret) || begun(text, &known.secret).is_some();
        self.known.iter().any(says)
    }

    fn replace_pieces(&self, text: &mut Zeroizing<String>) {
        let apart = |c: char| c.is_whitespace() || "\"'`,;()[]{}<>".contains(c);
        let is_piece = |word: &&str| word.len() >= PIECE && self.known.iter().any(|known| known.has(word));
        let pieces: Vec<String> = text.split(apart).filter(is_piece).map(str::to_owned).collect();
        for piece in pieces {
            *text = Zeroizing::new(text.replace(&*piece, HIDDEN));
        }
    }
}

impl Known {
    fn replace(&mut self, text: &mut Zeroizing<String>) {
        replace(text, &self.secret, false);
        for spelling in self.spellings.get_or_insert_with(|| known_spellings(&self.secret)) {
            replace(text, &spelling.text, spelling.within);
        }
    }

    fn has(&self, piece: &str) -> bool {
        let others = self.spellings.iter().flatten();
        self.secret.contains(piece) || others.into_iter().any(|spelling| spelling.text.contains(piece))
    }
}

/// Replaces `needle`, and what `text` ends with if that is the beginning of it. `within`: with everything around it
/// that belongs to the same code.
fn replace(text: &mut Zeroizing<String>, needle: &str, within: bool) {
    if within {
        let is_code = |c: char| c.is_ascii_alphanumeric() || "+/_-=".contains(c);
        while let Some(at) = text.find(needle) {
            let end = at + needle.len();
            let start = text[..at]
                .rfind(|c| !is_code(c))
                .map_or(0, |before| before + text[before..].chars().next().map_or(1, char::len_utf8));
            let end = text[end..].find(|c| !is_code(c)).map_or(text.len(), |after| end + after);
            text.replace_range(start..end, HIDDEN);
        }
    } else if text.contains(needle) {
        *text = Zeroizing::new(text.replace(needle, HIDDEN));
    }
    if let Some(length) = begun(text, needle) {
        let kept = text.len() - length;
        text.truncate(kept);
        text.push_str(HIDDEN);
    }
}

/// How much of `needle` the text ends with, if that is enough to be of use.
fn begun(text: &str, needle: &str) -> Option<usize> {
    let longest = needle.len().min(text.len() + 1);
    let mut lengths = (SECRET..longest).rev().filter(|length| needle.is_char_boundary(*length));
    lengths.find(|length| text.ends_with(&needle[..*length]))
}

/// Whether `word` is long and means nothing to people: probably a token.
pub(super) fn is_opaque(word: &str) -> bool {
    let is_moment =
        || word.bytes().all(|b| b.is_ascii_digit() || b"-:TZ.+".contains(&b)) && word.contains(':');
    word.len() >= OPAQUE
        && !word.starts_with("urn:")
        && !is_moment()
        && (word.len() >= 32 || word.bytes().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase()))
}

/// Whether a value of this name is probably a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !HARMLESS.contains(&&*lower)
        && !TIMES.iter().any(|part| lower.contains(part))
        && SECRET_NAMES.iter().any(|part| lower.contains(part))
}

/// What may be secrets in an answer.
#[derive(Default)]
struct Found(Vec<Zeroizing<String>>);

impl Found {
    fn add(&mut self, secret: &str) {
        if secret.len() >= SECRET && self.0.len() < 4 * MOST {
            self.0.push(Zeroizing::new(secret.to_owned()));
        }
    }

    fn json(&mut self, name: &str, value: &Value) {
        match value {
            Value::String(text) => self.named_value(name, text),
            Value::Array(items) => items.iter().for_each(|item| self.json(name, item)),
            Value::Object(members) => members.iter().for_each(|(name, value)| self.json(name, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn named_value(&mut self, name: &str, value: &str) {
        // `error_code`, `token_type`: words that say what went wrong.
        let telling = is_secret_name(name) && !name.contains("error") && !name.contains("type");
        let is_word = value.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && value.len() < 24;
        if telling && !is_word && !value.contains(char::is_whitespace) {
            return self.add(value);
        }
        if let Some(within) = inner(value) {
            return self.json("", &within);
        }
        if value.starts_with("https://") || value.starts_with("http://") {
            return self.url(value);
        }
        self.words(value);
    }

    /// A form, or words.
    fn text(&mut self, text: &str) {
        if text.contains('=') && !text.trim().contains(['<', '{', ' ', '\n']) {
            for (name, value) in url::form_urlencoded::parse(text.trim().as_bytes()) {
                self.named_value(&name, &value);
            }
        }
        self.words(text);
    }

    fn url(&mut self, url: &str) {
        for part in url.split(['?', '#']).skip(1) {
            for (name, value) in url::form_urlencoded::parse(part.as_bytes()) {
                self.named_value(&name, &value);
            }
        }
    }

    fn words(&mut self, text: &str) {
        let apart = |c: char| c.is_whitespace() || "\"'`,;<>()[]{}&=".contains(c);
        for word in text.split(apart).filter(|word| is_opaque(word) && !word.contains("://")) {
            self.add(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    const TOKEN: &str = "at/1+x.Zé=\"q\\uv\"~tail9";

    fn answer(body: &str) -> DoorResponse {
        DoorResponse {
            status: 200,
            headers: Vec::new(),
            body: body.as_bytes().to_vec().into(),
            retry_after: None,
        }
    }

    fn hex(text: &str) -> String {
        text.bytes().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        let secrets = Secrets::of([TOKEN.into()]);
        let percent = |set| percent_encoding::utf8_percent_encode(TOKEN, set).to_string();
        let all = percent(percent_encoding::NON_ALPHANUMERIC);
        let unicode: String = TOKEN
            .encode_utf16()
            .map(|unit| match u8::try_from(unit) {
                Ok(b) if b.is_ascii_alphanumeric() => char::from(b).to_string(),
                _ => format!("\\u{unit:04X}"),
            })
            .collect();
        let bytes: Vec<String> = TOKEN.bytes().map(|b| b.to_string()).collect();
        for written in [
            TOKEN.to_owned(),
            all.clone(),
            all.replace("%2F", "%2f").replace("%C3", "%c3"),
            percent(percent_encoding::CONTROLS),
            all.replace('%', "%25"),
            serde_json::to_string(TOKEN).unwrap(),
            serde_json::to_string(TOKEN).unwrap().replace('/', "\\/"),
            serde_json::to_string(&serde_json::to_string(TOKEN).unwrap()).unwrap(),
            unicode,
            STANDARD.encode(TOKEN),
            URL_SAFE_NO_PAD.encode(TOKEN),
            STANDARD.encode(format!("Bearer {TOKEN}")),
            STANDARD.encode(format!("id:{TOKEN};x")),
            format!("t={}", URL_SAFE_NO_PAD.encode(format!("{{\"a\":\"{TOKEN}"))),
            STANDARD.encode(STANDARD.encode(TOKEN)),
            hex(TOKEN),
            hex(TOKEN).to_uppercase(),
            format!("0x{}", hex(&format!("x{TOKEN}x"))),
            format!("{:?}", TOKEN.as_bytes()),
            bytes.join(","),
        ] {
            let shown = secrets.hide(&format!("got {written} back"));
            assert!(!shown.contains(&*written) && shown.contains(HIDDEN), "{written}: {}", *shown);
        }
        let plain =
            "status 400: invalid_grant at https://a.test/token?x=1%20y {\"a\":\"b\\/c\"} dGVzdA== 6869";
        assert_eq!(*secrets.hide(plain), plain);
    }

    #[test]
    fn what_is_left_of_one_that_was_cut_or_wrapped_is_hidden_too() {
        let secrets = Secrets::of(["access-token-1".into(), "äccess-tökens".into(), "short".into()]);
        let shown = |text: &str| secrets.hide(text).to_string();
        assert_eq!(shown("a access-token-1, b äccess-tökens."), "a (a secret), b (a secret).");
        assert_eq!(shown("panicked at access-toke"), "panicked at (a secret)");
        assert_eq!(shown("panicked at äccess-tö"), "panicked at (a secret)");
        assert_eq!(shown("access-token-1access-token-"), "(a secret)(a secret)");
        // Too little to be of use, and too short to be told from a word.
        assert_eq!(shown("a short access-"), "a short access-");
        let long =
            "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-zyxwvutsrqponmlkjihgfedcba9876";
        let secrets = Secrets::of([long.into()]);
        let wrapped = STANDARD.encode(long);
        assert_eq!(*secrets.hide(&wrapped[..60]), HIDDEN);
        assert_eq!(*secrets.hide(&wrapped[60..100]), HIDDEN);
        assert_eq!(*secrets.hide(&long[30..60]), HIDDEN);
    }

    #[test]
    fn tokens_and_codes_of_an_answer_are_secrets_from_then_on() {
        let secrets = Secrets::default();
        secrets.learn(&answer(
            "\u{feff}{\"access_token\":\"access-2\",\"authed\":{\"refresh_token\":\"refresh-2\"},\
             \"data\":\"{\\\"jwt\\\":\\\"aaaaaaaa1aaaaaaaaaaaaaaaa\\\"}\",\"error_code\":\"invalid_request\",\
             \"token_type\":\"User Access Token\",\"scope\":\"orders.read\",\"code\":\"bad_request\"}",
        ));
        let shown = secrets.hide(
            "access-2 refresh-2 aaaaaaaa1aaaaaaaaaaaaaaaa invalid_request User Access Token orders.read bad_request",
        );
        assert_eq!(
            *shown,
            "(a secret) (a secret) (a secret) invalid_request User Access Token orders.read bad_request"
        );
        secrets.learn(&answer("access_token=access-3&expires_in=3600&user=ann"));
        let mut moved = answer("<b>no</b>");
        moved.headers = vec![
            ("location".to_owned(), "https://a.test/x?code=code-1234#access_token=fragment-1".to_owned()),
            ("set-cookie".to_owned(), "sid=abc-1234567; Path=/".to_owned()),
        ];
        secrets.learn(&moved);
        let shown = secrets.hide("access-3 3600 code-1234 fragment-1 sid=abc-1234567");
        assert_eq!(*shown, "(a secret) 3600 (a secret) (a secret) (a secret)");
    }

    #[test]
    fn an_answer_full_of_secrets_takes_no_memory_without_end() {
        let secrets = Secrets::of(["given-to-the-call".into()]);
        let many: Vec<String> = (0..1000).map(|n| format!("{{\"token\":\"token-number-{n}\"}}")).collect();
        secrets.learn(&answer(&format!("[{}]", many.join(","))));
        assert_eq!(secrets.lock().known.len(), MOST + 1);
        let secrets = Secrets::default();
        secrets.learn(&answer(&format!("{{\"token\":\"{}\"}}", "x1".repeat(LONGEST))));
        assert_eq!(secrets.lock().known[0].secret.len(), LONGEST);
        // Behind what is looked through.
        let secrets = Secrets::default();
        let space = " ".repeat(LOOKED_THROUGH);
        secrets.learn(&answer(&format!("{space}{{\"token\":\"token-number-1\"}}")));
        assert!(secrets.lock().known.is_empty());
    }
}

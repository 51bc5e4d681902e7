//! Takes what is secret or personal out of an exchange, so that it can be kept as a test.
//!
//! Every token, code and personal detail is replaced by a placeholder, the same one wherever it turns up and
//! however it is written there. What is not known to be harmless counts as a secret; a text that still has one
//! in it, in base64 or escaped once more, is left out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::super::secrets::{HARMLESS, OPAQUE, SECRET_NAMES, TIMES, is_opaque};
use super::super::spellings::{WITHHELD, form_encoded, inner, spellings, without_codes};
use crate::config;
use palisade_exchange::{Body, Current, Given, Outcome, RecordedExchange, Verifier, pairs};

/// Shorter secrets are in decoded texts by chance.
const TELLING: usize = 8;
/// An exchange with more secrets would be unreadable, and takes long to mask.
const MOST: usize = 500;
/// DraftParts of the names of settings whose values are secrets. Other settings speak of tokens and keys, and are none.
const SECRET_SETTINGS: [&str; 5] = ["secret", "password", "private", "api_key", "apikey"];
/// Names whose values say whose account it is.
const ACCOUNTS: [&str; 7] = ["sub", "id", "uid", "oid", "user_id", "userid", "account_id"];
/// DraftParts of names whose values belong to a person.
const PERSONAL: [&str; 15] = [
    "name", "login", "nick", "user", "phone", "address", "birth", "upn", "gender", "locality", "city",
    "postal", "company", "profile", "bio",
];
/// DraftParts of names of what a person looks like.
const PICTURES: [&str; 3] = ["picture", "avatar", "photo"];
const MAIL: &str = "person@example.com";
const PICTURE: &str = "https://example.com/person.png";

/// `raw` with everything replaced that is secret or personal. `sent` is what requests had in them when they
/// left, by name: the client's credentials among it.
pub(super) fn masked(
    provider: &config::Provider,
    raw: &RecordedExchange,
    sent: &[(String, Zeroizing<String>)],
) -> RecordedExchange {
    let learnt = |raw: &RecordedExchange| {
        let mut mask = Mask::default();
        mask.learn(provider, raw);
        sent.iter().for_each(|(name, value)| mask.named_value(name, value));
        mask
    };
    let mask = learnt(raw);
    if mask.known.len() < MOST {
        return mask.apply(raw);
    }
    let mut bare = raw.clone();
    for answer in bare.requests.iter_mut().filter_map(|request| request.answer.as_mut()) {
        answer.body = Body { body: Some(WITHHELD.to_owned()), ..Body::default() };
    }
    learnt(&bare).apply(&bare)
}

/// Secrets, and what stands in their place.
#[derive(Default)]
struct Mask {
    known: Vec<Known>,
    counts: BTreeMap<String, usize>,
}

struct Known {
    secret: Zeroizing<String>,
    /// What else stands for it in forms, URLs and JSON.
    spellings: Vec<Zeroizing<String>>,
    placeholder: String,
}

impl Mask {
    fn hide(&mut self, secret: &str, placeholder: &str) {
        if secret.len() < 3 || secret == placeholder || self.known.len() >= MOST || self.is_known(secret) {
            return;
        }
        let known = Known {
            secret: Zeroizing::new(secret.to_owned()),
            spellings: spellings(secret),
            placeholder: placeholder.to_owned(),
        };
        // A secret may be part of a longer one.
        let place = self.known.partition_point(|known| known.secret.len() >= secret.len());
        self.known.insert(place, known);
    }

    fn is_known(&self, secret: &str) -> bool {
        self.known.iter().any(|known| *known.secret == *secret || known.placeholder == secret)
    }

    /// Hides `secret` behind the next placeholder of its kind.
    fn number(&mut self, secret: &str, kind: &str) {
        if secret.is_empty() || self.is_known(secret) {
            return;
        }
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        // A number stays one: it may be written as a text here and as a number there.
        let placeholder = match secret.bytes().all(|b| b.is_ascii_digit()) && kind == "account" {
            true => (1_000_000 + *count).to_string(),
            false => format!("{kind}-{count}"),
        };
        self.hide(secret, &placeholder);
    }

    /// Finds everything in `raw` that is a secret.
    fn learn(&mut self, provider: &config::Provider, raw: &RecordedExchange) {
        let usual = Given::default();
        self.hide(provider.client_id.expose_secret(), &usual.client_id);
        if let Some(secret) = &provider.client_secret {
            self.hide(secret.expose_secret(), "client-secret");
        }
        provider.secret_settings.iter().for_each(|secret| self.number(secret.expose_secret(), "setting"));
        for (name, value) in &pairs(&raw.connection.parameters) {
            if provider.secret_parameters.contains(name) {
                self.number(value, &kind(name));
            }
        }
        self.hide(&raw.connection.redirect_uri, &usual.redirect_uri);
        self.hide(&raw.input.state, "state-1");
        self.hide(&raw.input.pkce.verifier, &Verifier::default().verifier);
        self.hide(&raw.input.pkce.challenge, &Verifier::default().challenge);
        let Current { access_token, refresh_token, id_token, .. } = &raw.input.tokens;
        self.number(access_token, "access");
        refresh_token.iter().for_each(|token| self.number(token, "refresh"));
        id_token.iter().for_each(|token| self.id_token(token));
        for (name, value) in pairs(&raw.input.callback) {
            match HARMLESS.contains(&&*name) || is_url(&value) {
                true => self.named_value(&name, &value),
                false => self.number(&value, &kind(&name)),
            }
        }
        for (name, value) in &pairs(&raw.connection.kept) {
            self.kept(name, value);
        }
        for (name, value) in &pairs(&raw.connection.parameters) {
            self.named_value(name, value);
        }
        if let Outcome::Tokens(tokens) = &raw.result {
            self.number(&tokens.access_token, "access");
            tokens.refresh_token.iter().for_each(|token| self.number(token, "refresh"));
            tokens.id_token.iter().for_each(|token| self.id_token(token));
            pairs(&tokens.keep).iter().for_each(|(name, value)| self.kept(name, value));
        }
        if let Outcome::Account(person) = &raw.result {
            self.number(&person.subject, "account");
            person.email.iter().for_each(|email| self.hide(email, MAIL));
            person.name.iter().for_each(|name| self.hide(name, "Person"));
        }
        raw.settings.iter().for_each(|(name, value)| self.setting(name, value));
        for request in &raw.requests {
            for (name, value) in &request.headers {
                // `Bearer …`, `token …`: the scheme is no secret.
                self.named_value(name, value.split_once(' ').map_or(&**value, |(_, rest)| rest.trim()));
            }
            self.url(&request.url);
            self.body(&request.body);
            if let Some(answer) = &request.answer {
                let telling = answer.headers.iter().filter(|(name, _)| *name != "content-type");
                telling.for_each(|(_, value)| self.words(value));
                self.body(&answer.body);
            }
        }
    }

    /// What is kept is sealed like a token; where the provider is, it may say.
    fn kept(&mut self, name: &str, value: &str) {
        if is_url(value) { self.url(value) } else { self.number(value, &kind(name)) }
    }

    fn setting(&mut self, name: &str, value: &Value) {
        let lower = name.to_ascii_lowercase();
        match value {
            Value::String(text) if is_url(text) => self.url(text),
            // `client_secret_param` names one.
            Value::String(text)
                if !lower.ends_with("_param") && SECRET_SETTINGS.iter().any(|part| lower.contains(part)) =>
            {
                self.number(text, &kind(name));
            }
            Value::String(text) => self.words(text),
            Value::Array(items) => items.iter().for_each(|item| self.setting(name, item)),
            Value::Object(members) => members.iter().for_each(|(name, value)| self.setting(name, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn url(&mut self, url: &str) {
        self.url_down_to(url, OPAQUE);
    }

    /// What is in a URL, of its path what has at least so many bytes.
    fn url_down_to(&mut self, url: &str, least: usize) {
        let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        for part in [query, fragment] {
            for (name, value) in url::form_urlencoded::parse(part.as_bytes()).into_owned() {
                self.named_value(&name, &value);
            }
        }
        for segment in base.split('/').skip(3) {
            let segment = percent_decode_str(segment).decode_utf8_lossy();
            if segment.len() >= least && segment.bytes().any(|b| b.is_ascii_digit()) {
                self.number(&segment, "opaque");
            }
        }
    }

    fn body(&mut self, body: &Body) {
        for (name, value) in body.form.iter().flat_map(pairs) {
            self.named_value(&name, &value);
        }
        if let Some(value) = &body.json {
            self.json("", value);
        }
        if let Some(text) = &body.body {
            // A form that does not say so.
            if text.contains('=') && !text.contains(['<', '{', ' ', '\n']) {
                for (name, value) in url::form_urlencoded::parse(text.as_bytes()).into_owned() {
                    self.named_value(&name, &value);
                }
            }
            self.text(text);
        }
    }

    fn json(&mut self, name: &str, value: &Value) {
        match value {
            Value::String(text) => self.named_value(name, text),
            Value::Number(number) if ACCOUNTS.contains(&name) || name.contains("phone") => {
                self.number(&number.to_string(), "account");
            }
            Value::Array(items) => items.iter().for_each(|item| self.json(name, item)),
            Value::Object(members) => {
                for (name, value) in members {
                    // A table whose keys are identifiers of users.
                    if name.bytes().any(|b| b.is_ascii_digit()) {
                        self.words(name);
                    }
                    self.json(name, value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// A value whose name tells something.
    fn named_value(&mut self, name: &str, value: &str) {
        let lower = name.to_ascii_lowercase();
        let within = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
        // `refresh_token_expires_in=15811200`, `"email_verified": "true"`.
        let is_time =
            || value.bytes().all(|b| b.is_ascii_digit()) && TIMES.iter().any(|part| lower.contains(part));
        if HARMLESS.contains(&&*lower) || ["true", "false"].contains(&value) || is_time() {
            return;
        }
        if lower == "id_token" {
            return self.id_token(value);
        }
        if lower.contains("mail") || is_address(value) {
            return self.hide(value, MAIL);
        }
        if within(&PICTURES) {
            return self.hide(value, PICTURE);
        }
        if is_url(value) {
            // Salesforce's identifiers are URLs, and the last parts of them are the account.
            let least = if ACCOUNTS.contains(&&*lower) { TELLING } else { OPAQUE };
            return self.url_down_to(value, least);
        }
        if ACCOUNTS.contains(&&*lower) {
            return self.number(value, "account");
        }
        if ["name", "given_name", "family_name"].contains(&&*lower) {
            return self.hide(value, "Person");
        }
        if within(&SECRET_NAMES) || within(&PERSONAL) {
            return self.number(value, &kind(name));
        }
        self.text(value);
    }

    /// A text that nothing is known of. It may be JSON of its own.
    fn text(&mut self, text: &str) {
        if let Some(value) = inner(text) {
            self.json("", &value);
        }
        self.words(text);
    }

    fn words(&mut self, text: &str) {
        let apart = |c: char| c.is_whitespace() || c.is_control() || "\"'`,;<>()[]{}&\\".contains(c);
        for word in text.split(apart) {
            if is_url(word) {
                self.url(word);
            } else if is_opaque(word) {
                // `name=value` and `name: value` without the name.
                let value = word.split_once(['=', ':']).map(|(_, value)| value);
                self.number(value.filter(|value| is_opaque(value)).unwrap_or(word), "opaque");
            }
        }
    }

    /// An ID token becomes another one, unsigned, with the same claims as far as they are harmless: a plugin
    /// may read them.
    fn id_token(&mut self, token: &str) {
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let Some(claims) =
            payload.and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok())
        else {
            return self.number(token, "id-token");
        };
        claims.iter().for_each(|(name, value)| self.json(name, value));
        let mut claims = Value::Object(claims);
        self.replace(&mut claims);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let made = format!("{}.{}.unsigned", part(&json!({"alg": "none"})), part(&claims));
        self.hide(token, &made);
    }

    /// `raw` with every secret replaced.
    fn apply(&self, raw: &RecordedExchange) -> RecordedExchange {
        let mut value = serde_json::to_value(raw).unwrap_or_default();
        self.replace(&mut value);
        // What cannot be read again is not given out at all.
        serde_json::from_value(value).unwrap_or_else(|_| RecordedExchange::empty(raw.call))
    }

    fn replace(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.replaced(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.replace(item)),
            Value::Object(members) => {
                for (name, mut member) in std::mem::take(members) {
                    self.replace(&mut member);
                    // The names that exchanges have themselves are shorter, or no secret.
                    let name = if name.len() < TELLING { name } else { self.renamed(name) };
                    members.insert(name, member);
                }
            }
            Value::Number(number) => {
                let text = number.to_string();
                let known = self.known.iter().find(|known| *known.secret == *text);
                // A number that is an account's identifier, and not one that is a time.
                if let Some(placeholder) = known.and_then(|known| known.placeholder.parse::<u64>().ok()) {
                    *value = json!(placeholder);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Whether `text` has a secret in it that is not there by chance.
    fn tells(&self, text: &str) -> bool {
        self.known.iter().any(|known| known.secret.len() >= TELLING && text.contains(&**known.secret))
    }

    fn renamed(&self, mut name: String) -> String {
        for known in self.known.iter().filter(|known| known.secret.len() >= TELLING) {
            name = name.replace(&**known.secret, &known.placeholder);
        }
        name
    }

    fn replaced(&self, text: &str) -> String {
        if let Some(before) = inner(text) {
            let mut after = before.clone();
            self.replace(&mut after);
            if after != before {
                return after.to_string();
            }
        }
        let mut text = text.to_owned();
        for Known { secret, spellings, placeholder } in &self.known {
            if text.contains(&***secret) {
                text = text.replace(&***secret, placeholder);
            }
            for spelling in
                spellings.iter().filter(|spelling| text.contains(&****spelling)).collect::<Vec<_>>()
            {
                text = text.replace(&**spelling, &form_encoded(placeholder));
            }
        }
        without_codes(&text, WITHHELD, |read| self.tells(read))
    }
}

fn is_url(text: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme))
        && !text.contains(char::is_whitespace)
}

/// A mail address.
fn is_address(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(who, host)| !who.is_empty() && host.contains('.'))
        && !text.contains(['/', ' ', ':', '"', '<'])
}

/// The kind of placeholder for what has this name.
fn kind(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(plain).collect()
}

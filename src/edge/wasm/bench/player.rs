//! Replays a recorded exchange: a door that answers as recorded, and a comparison of the requests with the file.
//!
//! Order does not matter in queries, forms and JSON objects, and neither does how a character is escaped:
//! as in the SDK. A difference is reported name by name, and a long value only by its length.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::super::bindings::palisade::provider::http::Request;
use super::super::host::{Witness, method};
use super::super::lines::{escaped, is_visible};
use super::client_auth::{client_auth, recorded_auth};
use palisade_core::ports::{Door, DoorFault, DoorRequest, DoorResponse};
use palisade_exchange::{Answer, Auth, Expected, Fails, RecordedExchange, pairs};

/// Header fields that need not be in the file.
const UNREMARKABLE: [&str; 3] = ["accept", "content-type", "user-agent"];
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
/// Longer values are not shown: a token might be pasted into a file.
const SHOWN: usize = 40;

/// The other side of an exchange.
pub(super) struct Player {
    exchange: RecordedExchange,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: usize,
    wrong: Vec<String>,
    memory: usize,
}

impl Player {
    pub(super) fn new(exchange: RecordedExchange) -> Player {
        Player { exchange, state: Mutex::default() }
    }

    /// What was not as recorded, so far and because nothing else comes.
    pub(super) fn finish(&self) -> Vec<String> {
        let mut state = self.lock();
        let missed = self.exchange.requests.iter().skip(state.next);
        let missed: Vec<String> =
            missed.map(|one| format!("{} {} was not asked", one.method, plain(&one.url))).collect();
        state.wrong.extend(missed);
        std::mem::take(&mut state.wrong)
    }

    /// The most linear memory that a call had, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.lock().memory
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Player {
    fn asked(&self, asked: &Request) {
        let mut state = self.lock();
        let index = state.next;
        match self.exchange.requests.get(index) {
            None => {
                state.wrong.push(format!("{} {} was not expected", method(asked.method), plain(&asked.url)))
            }
            Some(expected) => {
                let wrong = request(expected, asked);
                state.wrong.extend(wrong.into_iter().map(|wrong| format!("requests[{index}]: {wrong}")));
            }
        }
    }

    fn answered(&self, _: &DoorResponse) {}

    fn logged(&self, message: &str) {
        if tells(&self.exchange, message) {
            self.lock().wrong.push("a line for the log has a token, a code or a verifier in it".to_owned());
        }
    }

    fn used(&self, memory: usize) {
        let mut state = self.lock();
        state.memory = state.memory.max(memory);
    }
}

#[async_trait]
impl Door for Player {
    async fn send(&self, _: DoorRequest) -> Result<DoorResponse, DoorFault> {
        let index = {
            let mut state = self.lock();
            state.next += 1;
            state.next - 1
        };
        let Some(expected) = self.exchange.requests.get(index) else {
            return Err(DoorFault::Denied("nothing is recorded for this request".to_owned()));
        };
        match (&expected.answer, expected.fails) {
            (Some(answer), _) => Ok(response(answer)),
            (None, Some(Fails::Timeout)) => Err(DoorFault::Timeout),
            (None, Some(Fails::TooLarge)) => Err(DoorFault::TooLarge),
            (None, Some(Fails::Unreachable)) => Err(DoorFault::Unreachable("as recorded".to_owned())),
            (None, Some(Fails::Denied) | None) => Err(DoorFault::Denied("as recorded".to_owned())),
        }
    }
}

/// Whether `text` holds one of the call's secrets.
pub(super) fn tells(exchange: &RecordedExchange, text: &str) -> bool {
    let tokens = &exchange.input.tokens;
    let mut secrets = vec![tokens.access_token.clone(), exchange.input.pkce.verifier.clone()];
    secrets.extend([&tokens.refresh_token, &tokens.id_token].into_iter().flatten().cloned());
    let code = pairs(&exchange.input.callback).into_iter().filter(|(name, _)| name == "code");
    secrets.extend(code.map(|(_, value)| value));
    secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret))
}

fn response(answer: &Answer) -> DoorResponse {
    let (kind, body) = if let Some(form) = &answer.body.form {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(pairs(form));
        (Some(FORM), text.finish().into_bytes())
    } else if let Some(json) = &answer.body.json {
        (Some(JSON), json.to_string().into_bytes())
    } else {
        (None, answer.body.body.clone().unwrap_or_default().into_bytes())
    };
    let mut headers: Vec<(String, String)> =
        answer.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    if let Some(kind) = kind.filter(|_| !headers.iter().any(|(name, _)| name == "content-type")) {
        headers.push(("content-type".to_owned(), kind.to_owned()));
    }
    DoorResponse { status: answer.status, headers, body: Zeroizing::new(body), retry_after: None }
}

/// What is different about `asked`.
fn request(expected: &Expected, asked: &Request) -> Vec<String> {
    let mut wrong = Vec::new();
    if expected.method != method(asked.method) {
        wrong.push(different("method", &expected.method, method(asked.method)));
    }
    wrong.extend(urls(&expected.url, &asked.url));
    let auth = |auth: &Auth| serde_json::to_string(auth).unwrap_or_default();
    let (want, got) =
        (auth(&recorded_auth(&client_auth(&expected.client_auth))), auth(&recorded_auth(&asked.client_auth)));
    if want != got {
        wrong.push(different("client_auth", want.trim_matches('"'), got.trim_matches('"')));
    }
    for (name, value) in &expected.headers {
        match asked.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            None => wrong.push(format!("headers: lacks {}: {}", shown(name), shown(value))),
            Some((_, got)) if got != value => {
                wrong.push(different(&format!("headers: {}", shown(name)), value, got))
            }
            Some(_) => {}
        }
    }
    for (name, _) in &asked.headers {
        let name = name.to_ascii_lowercase();
        if !UNREMARKABLE.contains(&&*name)
            && !expected.headers.keys().any(|known| known.eq_ignore_ascii_case(&name))
        {
            wrong.push(format!("headers: `{}` was not expected", shown(&name)));
        }
    }
    wrong.extend(body(expected, asked));
    wrong
}

fn body(expected: &Expected, asked: &Request) -> Vec<String> {
    let kind = asked.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let kind = kind.map_or("", |(_, value)| value);
    let of_kind = |want: &str| (!kind.starts_with(want)).then(|| different("content-type", want, kind));
    if let Some(table) = &expected.body.form {
        let found = url::form_urlencoded::parse(&asked.body).into_owned().collect();
        of_kind(FORM).into_iter().chain(lists("form", pairs(table), found)).collect()
    } else if let Some(want) = &expected.body.json {
        let mut wrong: Vec<String> = of_kind(JSON).into_iter().collect();
        match serde_json::from_slice::<Value>(&asked.body) {
            Ok(found) => values("json", want, &found, &mut wrong),
            Err(_) => wrong.push("json: the body is none".to_owned()),
        }
        wrong
    } else {
        let want = expected.body.body.as_deref().unwrap_or_default();
        let found = String::from_utf8_lossy(&asked.body);
        if want == found { Vec::new() } else { vec![different("body", want, &found)] }
    }
}

/// What is different about two URLs.
pub(super) fn urls(want: &str, found: &str) -> Vec<String> {
    let split = |url: &str| {
        let (url, fragment) =
            url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        (base.to_owned(), query, fragment.map(str::to_owned))
    };
    let (want, found): ((String, Vec<_>, _), (String, Vec<_>, _)) = (split(want), split(found));
    let mut wrong = Vec::new();
    if want.0 != found.0 {
        wrong.push(different("url", &want.0, &found.0));
    }
    wrong.extend(lists("query", want.1, found.1));
    if want.2 != found.2 {
        wrong.push(different(
            "fragment",
            want.2.as_deref().unwrap_or_default(),
            found.2.as_deref().unwrap_or_default(),
        ));
    }
    wrong
}

/// What is different about names with their values, in any order.
pub(super) fn lists(what: &str, want: Vec<(String, String)>, found: Vec<(String, String)>) -> Vec<String> {
    let grouped = |pairs: Vec<(String, String)>| {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in pairs {
            all.entry(name).or_default().push(value);
        }
        all.values_mut().for_each(|values| values.sort());
        all
    };
    let (want, mut found) = (grouped(want), grouped(found));
    let mut wrong = Vec::new();
    for (name, values) in want {
        let got = found.remove(&name);
        let name = shown(&name);
        match got {
            None => wrong.push(format!("{what}: lacks {name} = {}", shown(&values.join(", ")))),
            Some(got) if got == values => {}
            Some(got) => {
                wrong.push(different(&format!("{what}: {name}"), &values.join(", "), &got.join(", ")))
            }
        }
    }
    wrong.extend(
        found
            .iter()
            .map(|(name, values)| (shown(name), shown(&values.join(", "))))
            .map(|(name, values)| format!("{what}: {name} = {values} was not expected")),
    );
    wrong
}

/// Where two JSON values differ.
fn values(at: &str, want: &Value, found: &Value, wrong: &mut Vec<String>) {
    match (want, found) {
        (Value::Object(want), Value::Object(found)) => {
            for (name, value) in want {
                match found.get(name) {
                    None => {
                        wrong.push(format!("{at}: lacks {} = {}", shown(name), shown(&value.to_string())))
                    }
                    Some(found) => values(&format!("{at}.{}", shown(name)), value, found, wrong),
                }
            }
            for (name, value) in found.iter().filter(|(name, _)| !want.contains_key(*name)) {
                let (name, value) = (shown(name), shown(&value.to_string()));
                wrong.push(format!("{at}: {name} = {value} was not expected"));
            }
        }
        _ if want == found => {}
        _ => wrong.push(different(at, &want.to_string(), &found.to_string())),
    }
}

/// Two lines under what is different.
pub(super) fn different(what: &str, want: &str, found: &str) -> String {
    format!("{what}\n  - {}\n  + {}", shown(want), shown(found))
}

/// A value as it may be shown.
pub(super) fn shown(value: &str) -> String {
    if value.is_empty() {
        return "(nothing)".to_owned();
    }
    if value.chars().count() > SHOWN && !value.starts_with("https://") && !value.contains(' ') {
        let sum = hex::encode(&Sha256::digest(value)[..4]);
        return format!("({} characters, SHA-256 {sum}…)", value.chars().count());
    }
    value.chars().map(|c| if is_visible(c) { c } else { '\u{fffd}' }).collect()
}

/// A URL without its query.
fn plain(url: &str) -> String {
    escaped(url.split(['?', '#']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::super::bindings::palisade::provider::http::{BasicEncoding, ClientAuth, Method};
    use super::*;

    fn expected(rest: Value) -> Expected {
        let mut all = serde_json::json!({
            "method": "POST", "url": "https://a.test/t?x=1&y=a%20b", "client_auth": "basic",
            "form": {"a": "1", "b": ["2", "3"]}, "answer": {},
        });
        all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn asked() -> Request {
        Request {
            method: Method::Post,
            url: "https://a.test/t?y=a+b&x=1".to_owned(),
            headers: vec![
                ("Content-Type".to_owned(), FORM.to_owned()),
                ("accept".to_owned(), "x".to_owned()),
            ],
            body: b"b=3&a=%31&b=2".to_vec(),
            client_auth: ClientAuth::Basic(BasicEncoding::Form),
        }
    }

    #[test]
    fn order_and_escapes_do_not_matter() {
        assert_eq!(request(&expected(serde_json::json!({})), &asked()), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_told_by_its_name() {
        let asked = asked();
        for (change, want) in [
            (serde_json::json!({"method": "GET"}), "method\n  - GET\n  + POST"),
            (
                serde_json::json!({"url": "https://b.test/t?x=1&y=a%20b"}),
                "url\n  - https://b.test/t\n  + https://a.test/t",
            ),
            (serde_json::json!({"url": "https://a.test/t?x=1"}), "query: y = a b was not expected"),
            (serde_json::json!({"client_auth": "none"}), "client_auth\n  - none\n  + basic"),
            (serde_json::json!({"headers": {"x-a": "1"}}), "headers: lacks x-a: 1"),
            (serde_json::json!({"form": {"a": "1", "b": ["2", "3"], "c": "4"}}), "form: lacks c = 4"),
            (serde_json::json!({"form": {"a": "9", "b": ["2", "3"]}}), "form: a\n  - 9\n  + 1"),
            (serde_json::json!({"form": {"b": ["2", "3"]}}), "form: a = 1 was not expected"),
        ] {
            assert_eq!(request(&expected(change), &asked), [want]);
        }
    }

    #[test]
    fn a_long_value_is_not_shown() {
        let token = "t".repeat(41);
        assert_eq!(
            shown(&token),
            format!("(41 characters, SHA-256 {}…)", hex::encode(&Sha256::digest(&token)[..4]))
        );
        assert_eq!(shown("refresh-1"), "refresh-1");
    }
}

//! Whether a request is the recorded one. Order does not matter in queries, forms and JSON objects, and
//! neither does how a character is escaped.

use palisade_exchange::Expected;
use serde_json::Value;

use super::file::{client_auth, fields, method};
use crate::http::{Method, Request};
use crate::{Fields, form};

/// Header fields that need not be in the file.
const UNREMARKABLE: [&str; 3] = ["accept", "content-type", "user-agent"];

/// What is different about `request`.
pub(super) fn request(expected: &Expected, request: &Request) -> Vec<String> {
    let mut wrong = Vec::new();
    match method(&expected.method) {
        Some(method) if method == request.method => {}
        Some(method) => wrong.push(different("method", Method::as_str(method), request.method.as_str())),
        None => wrong.push(format!("`{}` is no method", expected.method)),
    }
    if url(&expected.url) != url(&request.url) {
        wrong.push(different("url", &expected.url, &request.url));
    }
    if client_auth(&expected.client_auth) != request.client_auth {
        wrong
            .push(format!("client_auth: expected {:?}, got {:?}", expected.client_auth, request.client_auth));
    }
    for (name, value) in &expected.headers {
        let found = request.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        if found.map(|(_, value)| value) != Some(value) {
            wrong.push(format!("headers: expected {name}: {value}"));
        }
    }
    for (name, _) in &request.headers {
        let name = name.to_ascii_lowercase();
        if !UNREMARKABLE.contains(&name.as_str())
            && !expected.headers.keys().any(|known| known.eq_ignore_ascii_case(&name))
        {
            wrong.push(format!("headers: `{name}` was not expected"));
        }
    }
    if let Some(difference) = body(expected, request) {
        wrong.push(difference);
    }
    wrong
}

/// What is different, when something is.
pub(super) fn urls(expected: &str, found: &str) -> Option<String> {
    (url(expected) != url(found)).then(|| different("url", expected, found))
}

fn body(expected: &Expected, request: &Request) -> Option<String> {
    let found = String::from_utf8_lossy(&request.body);
    let is = |kind: &str| {
        let of_kind = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("content-type") && value.starts_with(kind)
        };
        request.headers.iter().any(of_kind)
    };
    if let Some(table) = &expected.body.form {
        let expected = sorted(&fields(table));
        let same = expected == sorted(&form::decode(&request.body));
        (!same || !is("application/x-www-form-urlencoded"))
            .then(|| format!("form: expected {expected:?}, got {found}"))
    } else if let Some(expected) = &expected.body.json {
        let same = serde_json::from_slice::<Value>(&request.body).is_ok_and(|found| found == *expected);
        (!same || !is("application/json")).then(|| different("json", &expected.to_string(), &found))
    } else {
        let expected = expected.body.body.as_deref().unwrap_or_default();
        (expected.as_bytes() != request.body).then(|| different("body", expected, &found))
    }
}

/// The parts of a URL that can be compared: what is before the query, the query, the fragment.
fn url(url: &str) -> (&str, Vec<(String, String)>, Option<&str>) {
    let (url, fragment) = url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    (base, sorted(&form::decode(query.as_bytes())), fragment)
}

pub(super) fn sorted(fields: &Fields) -> Vec<(String, String)> {
    let mut pairs = fields.clone().into_inner();
    pairs.sort();
    pairs
}

pub(super) fn different(what: &str, expected: &str, found: &str) -> String {
    format!("{what}: expected\n    {expected}\n  got\n    {found}")
}

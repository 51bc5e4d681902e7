//! Holds the answers of tests against the description of an interface: status, codes and members must be in it.

use axum::http::HeaderMap;
use axum::http::response::Parts;
use serde_json::{Map, Value, json};

/// An answer, read.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn new(parts: &Parts, text: String) -> Answer {
        Answer { status: parts.status.as_u16(), headers: parts.headers.clone(), text }
    }

    pub(super) fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status and the code of a refusal.
    pub(super) fn refusal(&self) -> (u16, String) {
        (self.status, self.body()["code"].as_str().unwrap_or_default().to_owned())
    }
}

/// The path of the document that `path` is one of; one without a parameter comes first.
fn template<'d>(document: &'d Value, path: &str) -> Option<&'d str> {
    let is = |template: &str| {
        let (mut wanted, mut given) = (template.split('/'), path.split('/'));
        let fits = wanted
            .by_ref()
            .zip(given.by_ref())
            .all(|(wanted, given)| wanted == given || wanted.starts_with('{') && !given.is_empty());
        fits && template.matches('/').count() == path.matches('/').count()
    };
    let paths = document["paths"].as_object()?.keys().map(String::as_str);
    let mut paths: Vec<&str> = paths.filter(|template| is(template)).collect();
    paths.sort_by_key(|template| template.matches('{').count());
    paths.first().copied()
}

/// Holds an answer against the description. Returns the operation; `None` where there is none for this method and path.
pub(super) fn holds(document: &Value, method: &str, path: &str, answer: &Answer) -> Option<String> {
    let template = template(document, path)?;
    let operation = document["paths"][template].get(method)?;
    let context = format!("{method} {path}: {answer:?}");
    let named = Some(format!("{} {template}", method.to_uppercase()));
    let described = &operation["responses"][answer.status.to_string()];
    assert!(described.is_object(), "{context}");
    assert_eq!(answer.header("cache-control"), "no-store", "{context}");
    let Some(content) = described["content"].as_object() else {
        assert_eq!(answer.text, "", "{context}");
        return named;
    };
    let media_type = answer.header("content-type");
    if media_type == "text/html; charset=utf-8" && content.contains_key("text/html") {
        return named;
    }
    let Some(content) = content.get(media_type) else { panic!("{media_type} is not described: {context}") };
    if media_type.contains("json") {
        assert_eq!(fault(document, &answer.body(), &content["schema"]), None, "{context}");
    }
    if media_type == "application/problem+json" {
        let code = &answer.body()["code"];
        assert!(described["x-codes"].as_array().unwrap().contains(code), "{context}");
        assert!(answer.status != 401 || answer.headers.contains_key("www-authenticate"), "{context}");
        let waits = matches!(answer.status, 429 | 503);
        assert_eq!(waits, answer.headers.contains_key("retry-after"), "{context}");
    }
    named
}

/// The schema behind a reference; of several that hold at once, one with the members of all.
fn resolved(document: &Value, schema: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        return resolved(document, &document["components"]["schemas"][name.rsplit('/').next().unwrap()]);
    }
    let Some(parts) = schema["allOf"].as_array() else { return schema.clone() };
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for part in parts {
        let part = resolved(document, part);
        properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        required.extend(part["required"].as_array().cloned().unwrap_or_default());
    }
    json!({"type": "object", "properties": properties, "required": required})
}

/// What is wrong with a value by its schema: a member that is needed and missing, one that is not described, or one of
/// another kind.
pub(super) fn fault(document: &Value, value: &Value, schema: &Value) -> Option<String> {
    let schema = &resolved(document, schema);
    // Any value: what an operator or a configuration says.
    if schema.as_object().is_some_and(|schema| schema.keys().all(|key| key == "description")) {
        return None;
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let faults: Vec<_> = choices.iter().map(|choice| fault(document, value, choice)).collect();
        return if faults.contains(&None) { None } else { faults.into_iter().next_back().flatten() };
    }
    let is_kind = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64() && schema["minimum"].is_null(),
        "null" => value.is_null(),
        _ => false,
    };
    let is_of_kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(is_kind),
        Value::String(kind) => is_kind(kind),
        _ => false,
    };
    if !is_of_kind {
        return Some(format!("{value} is not by {schema}"));
    }
    let required = schema["required"].as_array().into_iter().flatten();
    if let Some(name) = required.filter_map(Value::as_str).find(|name| value.get(*name).is_none()) {
        return Some(format!("{name} is missing in {value}"));
    }
    let member = |(name, member): (&String, &Value)| {
        let described = match &schema["properties"][name] {
            Value::Null => &schema["additionalProperties"],
            described => described,
        };
        match described.is_object() {
            true => fault(document, member, described),
            false => Some(format!("{name} is not described in {value}")),
        }
    };
    let item = |item: &Value| fault(document, item, &schema["items"]);
    let mut members = value.as_object().into_iter().flatten();
    members.find_map(member).or_else(|| value.as_array().into_iter().flatten().find_map(item))
}

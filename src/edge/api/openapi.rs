//! Descriptions of endpoints (OpenAPI 3.1). They are made by the code that mounts and answers them: paths and bodies by their handlers, failures from the very documents that are sent.

use serde_json::{Map, Value, json};
use utoipa::openapi::{OpenApi, Server};

use super::failure::Failure;

/// What a handler names its own failures in. In the document it lists the codes of each answer.
const CODES: &str = "x-codes";
/// What reading a body adds.
const READING: [&str; 5] =
    ["body_unreadable", "body_timeout", "invalid_json", "body_too_large", "unsupported_media_type"];
/// What looking into the store adds.
const STORING: [&str; 2] = ["store_unavailable", "store_unreadable"];

/// The failures of an interface, and which of them come with what an operation is.
pub(super) struct Failures {
    /// Every failure by its code, and when it is answered.
    pub(super) known: Vec<(Failure, &'static str)>,
    /// The codes that needing a credential adds.
    pub(super) authenticating: &'static [&'static str],
    /// The codes that any operation can answer with.
    pub(super) anything: &'static [&'static str],
    /// What an unknown or wrong parameter in the query is answered with, where every operation answers alike.
    pub(super) query: Option<(Failure, &'static str)>,
}

/// Every failure that both interfaces can answer with, and when that is.
pub(super) fn documented_failures() -> Vec<(Failure, &'static str)> {
    let mut told = super::account_failure::documented_failures();
    told.extend(super::connection_failure::documented_failures());
    told
}

/// The document of the endpoints that are served below `url`, their failures added.
pub(super) fn document(mut api: OpenApi, url: &str, failures: &Failures) -> Value {
    api.servers = Some(vec![Server::new(url)]);
    // Structs of text: serialisation has nothing to fail on.
    let mut document = serde_json::to_value(&api).unwrap_or_default();
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        add_failures(operation, failures);
    }
    document
}

/// The codes that `operation` can answer with: its own, and those that come with what it is.
fn codes(operation: &Map<String, Value>, own: &Value, failures: &Failures) -> Vec<String> {
    let mut codes: Vec<&str> = own.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let authenticates = operation.contains_key("security");
    if authenticates || !codes.is_empty() {
        codes.extend(STORING);
    }
    if authenticates {
        codes.extend(failures.authenticating);
    }
    let body = operation.get("requestBody").map(|body| &body["content"]["application/json"]);
    if body.is_some_and(|json| json.is_object()) {
        codes.extend(READING);
    }
    codes.extend(failures.anything);
    codes.into_iter().map(str::to_owned).collect()
}

fn add_failures(operation: &mut Value, failures: &Failures) {
    let Some(operation) = operation.as_object_mut() else { return };
    let own = operation.remove(CODES).unwrap_or_default();
    let codes = codes(operation, &own, failures);
    let parameters = operation.get("parameters").and_then(Value::as_array);
    let has_query = parameters.is_some_and(|list| list.iter().any(|parameter| parameter["in"] == "query"));
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    for (failure, when) in failures.query.iter().filter(|_| has_query) {
        add_failure(responses, &failure.document(), when);
    }
    for (failure, when) in &failures.known {
        let problem = failure.document();
        if codes.iter().any(|listed| problem["code"] == **listed) {
            add_failure(responses, &problem, when);
        }
    }
}

fn add_failure(responses: &mut Value, problem: &Value, when: &str) {
    let (status, code) = (problem["status"].to_string(), problem["code"].as_str().unwrap_or_default());
    let response = &mut responses[&status];
    if response.is_null() {
        *response = json!({
            "description": "",
            CODES: [],
            "headers": headers(&status),
            "content": {"application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {},
            }},
        });
    }
    let before = response["description"].as_str().unwrap_or_default();
    let line = if before.is_empty() { String::new() } else { format!("{before}\n\n") };
    response["description"] = format!("{line}`{code}`: {when}").into();
    if let Some(listed) = response[CODES].as_array_mut() {
        listed.push(code.into());
    }
    let content = &mut response["content"]["application/problem+json"];
    content["examples"][code] = json!({"summary": when, "value": problem});
}

fn headers(status: &str) -> Value {
    let field = |description: &str| json!({"description": description, "schema": {"type": "string"}});
    match status {
        "401" => json!({"WWW-Authenticate": field("The scheme that would do (RFC 6750 §3).")}),
        "429" | "503" => json!({"Retry-After": field("Seconds to wait (RFC 9110 §10.2.3).")}),
        _ => json!({}),
    }
}

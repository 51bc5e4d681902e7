//! Descriptions of endpoints (OpenAPI 3.1). They are made by the code that mounts and answers them: paths and bodies by their handlers, failures from the very documents that are sent.

use serde_json::{Map, Value, json};
use utoipa::openapi::{OpenApi, Server};

use super::failure::Failure;

/// What a handler names its own failures in. In the document it lists the codes of each answer.
const CODES: &str = "x-codes";
/// What reading a body adds.
const READING: [&str; 5] =
    ["body_unreadable", "body_timeout", "invalid_json", "body_too_large", "unsupported_media_type"];
/// What needing an access token adds.
const AUTHENTICATING: [&str; 5] =
    ["credentials_ambiguous", "token_missing", "invalid_token", "no_account", "not_ready"];
/// What looking into the store adds.
const STORING: [&str; 2] = ["store_unavailable", "store_unreadable"];
/// What anything can answer.
const ANYTHING: [&str; 1] = ["internal"];

/// Every failure that the native endpoints can answer with, and when that is.
pub(super) fn told() -> Vec<(Failure, &'static str)> {
    let mut told = super::account_failure::told();
    told.extend(super::connection_failure::told());
    told
}

/// The document of the endpoints that are served below `url`, their failures added.
pub(super) fn document(mut api: OpenApi, url: &str) -> Value {
    api.servers = Some(vec![Server::new(url)]);
    // Structs of text: serialisation has nothing to fail on.
    let mut document = serde_json::to_value(&api).unwrap_or_default();
    let known: Vec<(Value, &str)> =
        told().into_iter().map(|(failure, when)| (failure.document(), when)).collect();
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        add_failures(operation, &known);
    }
    document
}

/// The codes that `operation` can answer with: its own, and those that come with what it is.
fn codes(operation: &Map<String, Value>, own: &Value) -> Vec<String> {
    let mut codes: Vec<&str> = own.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let authenticates = operation.contains_key("security");
    if authenticates || !codes.is_empty() {
        codes.extend(STORING);
    }
    if authenticates {
        codes.extend(AUTHENTICATING);
    }
    let body = operation.get("requestBody").map(|body| &body["content"]["application/json"]);
    if body.is_some_and(|json| json.is_object()) {
        codes.extend(READING);
    }
    codes.extend(ANYTHING);
    codes.into_iter().map(str::to_owned).collect()
}

fn add_failures(operation: &mut Value, known: &[(Value, &str)]) {
    let Some(operation) = operation.as_object_mut() else { return };
    let own = operation.remove(CODES).unwrap_or_default();
    let codes = codes(operation, &own);
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    for (problem, when) in known {
        let (status, code) = (problem["status"].to_string(), problem["code"].as_str().unwrap_or_default());
        if !codes.iter().any(|listed| listed == code) {
            continue;
        }
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
}

fn headers(status: &str) -> Value {
    let field = |description: &str| json!({"description": description, "schema": {"type": "string"}});
    match status {
        "401" => json!({"WWW-Authenticate": field("The scheme that would do (RFC 6750 §3).")}),
        "429" | "503" => json!({"Retry-After": field("Seconds to wait (RFC 9110 §10.2.3).")}),
        _ => json!({}),
    }
}

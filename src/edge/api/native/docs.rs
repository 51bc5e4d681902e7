//! `/openapi.json`, and `/docs`: the same for people. The page is written from the document, whole in itself:
//! no script, nothing from elsewhere, so it works behind any firewall and its policy allows nothing.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::Value;

use super::super::openapi::documented_failures;
use super::super::reply::typed;
use super::pages;

const STYLE: &str = include_str!("docs.css");

/// The two endpoints.
pub(super) fn router<S: Clone + Send + Sync + 'static>(document: &Value, page: String) -> Router<S> {
    let (text, page): (Arc<str>, Arc<str>) = (document.to_string().into(), page.into());
    Router::new()
        .route("/openapi.json", get(move || as_json(Arc::clone(&text))))
        .route("/docs", get(move || as_page(Arc::clone(&page))))
}

async fn as_json(text: Arc<str>) -> Response {
    typed(StatusCode::OK, "application/json", text.to_string())
}

async fn as_page(page: Arc<str>) -> Response {
    let mut response = typed(StatusCode::OK, "text/html; charset=utf-8", page.to_string());
    let policy = format!(
        "default-src 'none'; style-src '{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        pages::source(STYLE)
    );
    // Words and a hash of ours: visible ASCII.
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The description for people. `prefix` is where the endpoints are.
pub(super) fn page(document: &Value, prefix: &str) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Palisade: the API</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Palisade: the API</h1>\n<p>{}</p>\n\
         <p>For programs: <a href=\"openapi.json\">openapi.json</a> (OpenAPI 3.1).</p>\n",
        prose(document["info"]["description"].as_str().unwrap_or_default())
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        let (name, text) = (tag["name"].as_str().unwrap_or_default(), tag["description"].as_str());
        write(
            &mut html,
            format_args!("<h2>{}</h2>\n<p>{}</p>\n", escaped(name), prose(text.unwrap_or_default())),
        );
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if operation["tags"].as_array().is_some_and(|tags| tags.contains(&name.into())) {
                    describe(&mut html, document, method, &format!("{prefix}{path}"), operation);
                }
            }
        }
    }
    html.push_str("<h2>Codes</h2>\n<table>\n");
    for (failure, when) in documented_failures() {
        let problem = failure.document();
        let code = problem["code"].as_str().unwrap_or_default();
        write(
            &mut html,
            format_args!(
                "<tr><td><code>{code}</code></td><td>{}</td><td>{}</td></tr>\n",
                problem["status"],
                prose(when)
            ),
        );
    }
    html.push_str("</table>\n</main>\n</body>\n</html>\n");
    html
}

fn describe(html: &mut String, document: &Value, method: &str, path: &str, operation: &Value) {
    let text = |name: &str| operation[name].as_str().unwrap_or_default();
    write(
        html,
        format_args!(
            "<details>\n<summary><code>{} {}</code> {}</summary>\n<p>{}</p>\n",
            method.to_uppercase(),
            escaped(path),
            prose(text("summary")),
            prose(text("description")),
        ),
    );
    match operation["security"].as_array().map(Vec::as_slice) {
        None | Some([]) => html.push_str("<p>Needs no access token.</p>\n"),
        Some(ways) if ways.iter().any(|way| way.as_object().is_some_and(serde_json::Map::is_empty)) => {
            html.push_str("<p>With an access token, or without.</p>\n");
        }
        Some(_) => html.push_str("<p>Needs an access token.</p>\n"),
    }
    let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
    if !parameters.is_empty() {
        html.push_str("<h4>Parameters</h4>\n<table>\n");
        for parameter in parameters {
            let field = |name: &str| escaped(parameter[name].as_str().unwrap_or_default());
            write(
                html,
                format_args!(
                    "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>\n",
                    field("name"),
                    field("in"),
                    prose(parameter["description"].as_str().unwrap_or_default()),
                ),
            );
        }
        html.push_str("</table>\n");
    }
    if let Some(schema) =
        resolved(document, &operation["requestBody"]["content"]["application/json"]["schema"])
    {
        html.push_str("<h4>Body</h4>\n");
        body(html, document, schema);
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        write(
            html,
            format_args!(
                "<h4>{status}</h4>\n<p>{}</p>\n",
                prose(response["description"].as_str().unwrap_or_default())
            ),
        );
        if let Some(schema) = resolved(document, &response["content"]["application/json"]["schema"]) {
            body(html, document, schema);
        }
    }
    html.push_str("</details>\n");
}

/// A schema with its example.
fn body(html: &mut String, document: &Value, schema: &Value) {
    members(html, document, schema);
    if let Some(example) = schema.get("example") {
        let text = serde_json::to_string_pretty(example).unwrap_or_default();
        write(html, format_args!("<pre>{}</pre>\n", escaped(&text)));
    }
}

/// The schema itself, behind a `$ref` or among the choices of an optional one.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    let named = |schema: &'a Value| {
        let name = schema["$ref"].as_str()?.strip_prefix("#/components/schemas/")?;
        document["components"]["schemas"].get(name)
    };
    let choices = schema["oneOf"].as_array().into_iter().flatten();
    named(schema).or_else(|| choices.filter_map(named).next())
}

fn members(html: &mut String, document: &Value, schema: &Value) {
    html.push_str("<table>\n");
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let need = if required.contains(&name.as_str()) { "" } else { ", optional" };
        write(
            html,
            format_args!(
                "<tr><td><code>{}</code></td><td>{}{need}</td><td>{}",
                escaped(name),
                kind(member),
                prose(member["description"].as_str().unwrap_or_default()),
            ),
        );
        if let Some(inner) = resolved(document, member).or_else(|| resolved(document, &member["items"])) {
            members(html, document, inner);
        }
        html.push_str("</td></tr>\n");
    }
    html.push_str("</table>\n");
}

fn kind(member: &Value) -> String {
    let kinds: Vec<&str> = match &member["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        Value::String(kind) => vec![kind],
        _ => vec!["object"],
    };
    escaped(&kinds.join(" or "))
}

fn write(html: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes whatever is written.
    let _ = html.write_fmt(text);
}

/// Text with `code` in it.
fn prose(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in escaped(text).split('`').enumerate() {
        match index % 2 {
            0 => html.push_str(&part.replace("\n\n", "<br>")),
            _ => write(&mut html, format_args!("<code>{part}</code>")),
        }
    }
    html
}

/// Text that means itself in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

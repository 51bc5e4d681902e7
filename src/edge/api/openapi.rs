//! The description of the native endpoints (OpenAPI 3.1), made from the code, and a page that shows it.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::Value;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, Server};
use utoipa::{IntoResponses, OpenApi as _};

use super::account_failure::CODES;
use super::auth;
use super::body::typed;
use super::schema::{BrokenRule, ProblemDocument};

/// What every endpoint that reads a body may answer.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) enum Posted {
    /// `invalid_json`, `body_unreadable`
    #[response(status = 400, content_type = "application/problem+json")]
    Unreadable(#[to_schema] ProblemDocument),
    /// `body_too_large`
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] ProblemDocument),
    /// `unsupported_media_type`
    #[response(status = 415, content_type = "application/problem+json")]
    MediaType(#[to_schema] ProblemDocument),
    /// `invalid_request`, `invalid_email`
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(#[to_schema] ProblemDocument),
    /// `store_unreadable`, `internal`
    #[response(status = 500, content_type = "application/problem+json")]
    Failed(#[to_schema] ProblemDocument),
    /// `store_unavailable`, `signing_unavailable`, `busy`, `not_ready`; see `Retry-After`
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] ProblemDocument),
}

/// What endpoints that set a password may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) enum WithPassword {
    /// `password_rejected` with `violations`, `invalid_request`, `invalid_email`
    #[response(status = 422, content_type = "application/problem+json")]
    Rejected(#[to_schema] ProblemDocument),
}

/// What endpoints whose attempts are counted may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) enum Limited {
    /// `too_many_attempts`; see `Retry-After`
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] ProblemDocument),
}

/// What endpoints that change an account may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) enum Contended {
    /// `conflict`, `email_taken`
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] ProblemDocument),
}

/// What endpoints that take the token of a link may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) enum Linked {
    /// `invalid_link`, `invalid_json`, `body_unreadable`
    #[response(status = 400, content_type = "application/problem+json")]
    Link(#[to_schema] ProblemDocument),
}

/// What signing in may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) enum SignIn {
    /// `invalid_credentials`
    #[response(status = 401, content_type = "application/problem+json")]
    Wrong(#[to_schema] ProblemDocument),
    /// `email_not_verified`, `account_disabled`, `account_locked` with `until`
    #[response(status = 403, content_type = "application/problem+json")]
    Barred(#[to_schema] ProblemDocument),
}

/// What endpoints that take a refresh token may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) enum Refreshed {
    /// `invalid_refresh_token`
    #[response(status = 401, content_type = "application/problem+json")]
    Bad(#[to_schema] ProblemDocument),
}

/// What endpoints that need an access token may answer besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) enum Authenticated {
    /// `credentials_ambiguous`, `invalid_json`, `body_unreadable`
    #[response(status = 400, content_type = "application/problem+json")]
    Ambiguous(#[to_schema] ProblemDocument),
    /// `token_missing`, `invalid_token`; for a wrong password or refresh token in the body, `invalid_credentials`
    /// and `invalid_refresh_token`
    #[response(status = 401, content_type = "application/problem+json")]
    Token(#[to_schema] ProblemDocument),
    /// `no_account`, `account_disabled`
    #[response(status = 403, content_type = "application/problem+json")]
    Account(#[to_schema] ProblemDocument),
    /// `store_unreadable`, `internal`
    #[response(status = 500, content_type = "application/problem+json")]
    Failed(#[to_schema] ProblemDocument),
    /// `store_unavailable`, `busy`, `not_ready`; see `Retry-After`
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] ProblemDocument),
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Palisade", description = "Accounts and sessions behind the gateway."),
    paths(
        auth::register,
        auth::verify_email,
        auth::resend_verification,
        auth::login,
        auth::refresh,
        auth::logout,
        auth::profile,
        auth::edit_profile,
        auth::change_password,
        auth::request_reset,
        auth::validate_reset,
        auth::confirm_reset,
        auth::password_requirements,
        auth::list_sessions,
        auth::end_session,
        auth::end_sessions,
    ),
    components(schemas(BrokenRule))
)]
struct Described;

/// The description of the endpoints below `prefix`.
pub(super) fn described(prefix: &str) -> OpenApi {
    let mut api = Described::openapi();
    let mut text =
        "Accounts and sessions behind the gateway. Send an access token as `Authorization: Bearer`.\n\n\
                    Every refusal is a problem document (RFC 9457) whose `code` is stable:\n\n"
            .to_owned();
    for (code, status, meaning) in CODES {
        // The text can always grow.
        let _ = writeln!(text, "- `{code}` ({status}): {meaning}");
    }
    api.info.description = Some(text);
    api.info.version = env!("CARGO_PKG_VERSION").to_owned();
    api.servers = Some(vec![Server::new(prefix)]);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    api.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(bearer));
    api
}

/// `/openapi.json` and `/docs`.
pub(super) fn router(prefix: &str) -> Router {
    let api = described(prefix);
    let document = serde_json::to_value(&api).unwrap_or_default();
    let text: Arc<str> = document.to_string().into();
    let page: Arc<str> = page(&document, prefix).into();
    Router::new()
        .route("/openapi.json", get(move || document_answer(Arc::clone(&text))))
        .route("/docs", get(move || page_answer(Arc::clone(&page))))
}

async fn document_answer(text: Arc<str>) -> Response {
    typed(StatusCode::OK, "application/json", text.to_string())
}

async fn page_answer(page: Arc<str>) -> Response {
    let mut response = typed(StatusCode::OK, "text/html; charset=utf-8", page.to_string());
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The description for people, whole in itself: no script, and nothing from elsewhere.
fn page(document: &Value, prefix: &str) -> String {
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Palisade: the API</title>\n\
         <style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui;max-width:52rem;margin:2rem auto;padding:0 1rem}\
         code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{overflow:auto}\
         details{border-top:1px solid #8884;padding:.5rem 0}summary{cursor:pointer}td,th{text-align:left;\
         vertical-align:top;padding:.1rem 1rem .1rem 0}</style>\n<h1>Palisade: the API</h1>\n",
    );
    // A String takes whatever is written.
    let _ = writeln!(
        html,
        "<p>Below <code>{0}</code>. For programs: <a href=\"openapi.json\">openapi.json</a>.</p>\n\
         <p>Send an access token as <code>Authorization: Bearer</code>. Bodies are JSON. Times are seconds since \
         1970.</p>\n<h2>Endpoints</h2>",
        escaped(prefix)
    );
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let text = |name: &str| escaped(operation[name].as_str().unwrap_or_default());
            let _ = writeln!(
                html,
                "<details>\n<summary><code>{} {}</code> {}</summary>\n<p>{}</p>",
                method.to_uppercase(),
                escaped(&format!("{prefix}{path}")),
                text("summary"),
                text("description"),
            );
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            if let Some(schema) = resolved(document, body) {
                html.push_str("<h4>Body</h4>\n");
                html.push_str(&members(document, schema));
            }
            html.push_str("<h4>Answers</h4>\n<table>\n");
            for (status, response) in operation["responses"].as_object().into_iter().flatten() {
                let told = response["description"].as_str().unwrap_or_default();
                let _ = writeln!(html, "<tr><th>{status}</th><td>{}</td></tr>", escaped(told));
            }
            html.push_str("</table>\n");
            let body = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            if let Some(schema) = resolved(document, body) {
                html.push_str(&members(document, schema));
            }
            html.push_str("</details>\n");
        }
    }
    html.push_str("<h2>Codes</h2>\n<table>\n");
    for (code, status, meaning) in CODES {
        let _ = writeln!(
            html,
            "<tr><th><code>{code}</code></th><td>{status}</td><td>{}</td></tr>",
            escaped(meaning)
        );
    }
    html.push_str("</table>\n</html>\n");
    html
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

fn members(document: &Value, schema: &Value) -> String {
    let mut html = String::from("<table>\n");
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let need = if required.contains(&name.as_str()) { "" } else { ", optional" };
        let inner = match resolved(document, member).or_else(|| resolved(document, &member["items"])) {
            Some(inner) => members(document, inner),
            None => String::new(),
        };
        let _ = writeln!(
            html,
            "<tr><th><code>{}</code></th><td>{}{need}</td><td>{}{inner}</td></tr>",
            escaped(name),
            escaped(&kind(member)),
            escaped(member["description"].as_str().unwrap_or_default()),
        );
    }
    html.push_str("</table>\n");
    html
}

fn kind(member: &Value) -> String {
    match &member["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds: Vec<&str> =
                kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect();
            kinds.join(" or ")
        }
        _ => "object".to_owned(),
    }
}

/// Text that means itself in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

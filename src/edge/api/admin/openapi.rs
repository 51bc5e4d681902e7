//! The description of the admin API (OpenAPI 3.1): what it says beside what the handlers say of themselves.

use std::sync::Arc;

use axum::Extension;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{OpenApi as _, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::failure::Failure;
use super::super::openapi::{Failures, documented_failures};
use super::super::reply::typed;
use super::super::schema::BrokenRule;
use super::claimed::{MALFORMED, WITHOUT_ID};
use super::query::bad_query;
use super::state::AdminState;
use super::{backup, control, keys, listener, operator, store};
use palisade_core::ports::{BackupRefused, SignError, StoreError};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Palisade admin API"),
    tags(
        (name = "Users", description = "Accounts and their sessions."),
        (name = "Revocations", description = "Tokens that are no longer good."),
        (name = "Keys", description = "The signing keys, and tokens that are minted."),
        (name = "Connections", description = "Accounts at providers, and the providers themselves."),
        (name = "Audit", description = "What happened, and mails that wait."),
        (name = "Clock", description = "How far the wall clock can be trusted."),
        (name = "Store", description = "Its size and its compaction."),
        (name = "Configuration", description = "What is in force."),
        (name = "Health", description = "For probes and scrapers, without a credential."),
    ),
    components(schemas(AdminProblem, BrokenRule))
)]
struct Frame;

/// What went wrong (RFC 9457). `code` is stable, `title` and `detail` are for people.
#[derive(ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code, reason = "read by the description only")]
struct AdminProblem {
    /// Always `about:blank`.
    r#type: String,
    status: u16,
    title: String,
    detail: String,
    code: String,
    /// Of `password_rejected`: the rules that the password breaks.
    violations: Option<Vec<BrokenRule>>,
    /// Of `provider_failed`: `misconfigured`, `provider_error` or `plugin_failed`.
    kind: Option<String>,
    /// Of `configuration_invalid`: one message each.
    errors: Option<Vec<String>>,
}

/// The text of the document, for the handler that serves it.
#[derive(Clone)]
pub(super) struct Document(pub(super) Arc<str>);

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new().routes(routes!(serve))
}

/// This document.
#[utoipa::path(get, path = "/admin/v1/openapi.json", tag = "Configuration", operation_id = "describe",
    security(("operator" = [])),
    responses((status = 200, body = serde_json::Value, description = "OpenAPI 3.1.")))]
async fn serve(Extension(Document(text)): Extension<Document>) -> Response {
    typed(StatusCode::OK, "application/json", text.to_string())
}

/// The description without any endpoint.
pub(super) fn frame() -> OpenApi {
    let mut api = Frame::openapi();
    api.info.version = env!("CARGO_PKG_VERSION").to_owned();
    api.info.license = None;
    api.info.description = Some(
        "What an operator may do, on a listener of its own. Send the admin credential as `Authorization: Bearer`; \
         it is in `admin.token` in the data folder. Bodies are JSON, and times are seconds since 1970. Every refusal \
         is a problem document (RFC 9457) whose `code` is stable. `X-Request-Id` of an answer is in the audit log."
            .to_owned(),
    );
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    api.components.get_or_insert_default().add_security_scheme("operator", SecurityScheme::Http(bearer));
    api
}

/// The failures of the admin API: those that the native endpoints have too, and its own.
pub(super) fn failures() -> Failures {
    let refused = |(code, why): (&'static str, &'static str)| Failure::new(422, code, why);
    let own = [
        (operator::unauthorized(), "The admin credential was not sent, or is another one."),
        (listener::host_missing(), "The request has no `Host`, or more than one."),
        (listener::host_not_ours(), "`Host` is neither an address nor a name in `server.admin_hosts`."),
        (refused(MALFORMED), "What was sent as `token` is none."),
        (refused(WITHOUT_ID), "The token has no `jti` by which it could be revoked."),
        (keys::not_rotated(SignError("there is no next key".into())), "The signing keys are as they were."),
        (
            store::not_compacted(&StoreError::Unavailable("no room".into())),
            "The store is as it was: see the log.",
        ),
        (
            backup::refused(&BackupRefused::Unavailable("a fake".into())),
            "The store cannot be read as it was at one moment: see the log.",
        ),
        (
            control::invalid(&["config.toml:3:1: unknown key `colour`".to_owned()]),
            "The file has errors, one in each member of `errors`; the last good configuration stays in force.",
        ),
    ];
    let mut known = documented_failures();
    known.extend(own);
    Failures {
        known,
        authenticating: &["unauthorized"],
        anything: &["internal", "host_missing", "host_not_ours"],
        query: Some((
            bad_query("the only parameter is `limit`, a whole number up to 1000"),
            "A parameter of the query is unknown, or cannot be what it is.",
        )),
    }
}

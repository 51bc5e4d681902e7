//! `/admin/v1/reload`: the configuration file is read again.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::answer;
use super::super::failure::Failure;
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::domain::audit::{Action, Outcome};

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new().routes(routes!(reload))
}

/// The configuration of the file is in force.
#[derive(Serialize, ToSchema)]
struct Reloaded {
    /// Always true.
    reloaded: bool,
    /// The SHA-256 of the configuration file that is in force, in hexadecimal.
    hash: String,
    /// What is in force, and what needs a restart, for people.
    notes: Vec<String>,
}

/// Read the configuration file again.
#[utoipa::path(post, path = "/admin/v1/reload", tag = "Configuration", operation_id = "reload",
    security(("operator" = [])),
    responses((status = 200, body = Reloaded, description = "It is in force.")),
    extensions(("x-codes" = json!(["configuration_invalid"]))))]
async fn reload(State(state): State<AdminState>, RequestId(id): RequestId) -> Result<Response, Failure> {
    let outcome = state.control.reload().await;
    state.accounts.note_outcome(&id, Action::Reload, Outcome::of(&outcome), String::new());
    let notes = outcome.map_err(|errors| invalid(&errors))?;
    Ok(answer(StatusCode::OK, &Reloaded { reloaded: true, hash: state.control.configuration(), notes }))
}

/// The file has errors, a message each.
pub(super) fn invalid(errors: &[String]) -> Failure {
    let detail = format!("{}; the last good configuration stays in force", errors.join("; "));
    Failure::new(422, "configuration_invalid", detail).with("errors", json!(errors))
}

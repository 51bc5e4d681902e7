//! `/admin/v1/reload`: the configuration file is read again.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;

use super::super::body::answer;
use super::super::failure::Failure;
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::domain::audit::{Action, Outcome};

pub(super) fn router() -> Router<AdminState> {
    Router::new().route("/admin/v1/reload", post(reload))
}

async fn reload(State(state): State<AdminState>, RequestId(id): RequestId) -> Response {
    let outcome = state.control.reload().await;
    let noted = if outcome.is_ok() { Outcome::Success } else { Outcome::Failed };
    state.accounts.note_outcome(&id, Action::Reload, noted, String::new());
    match outcome {
        Ok(notes) => answer(StatusCode::OK, &json!({"reloaded": true, "notes": notes})),
        Err(errors) => {
            let detail = format!("{}; the last good configuration stays in force", errors.join("; "));
            let mut response = Failure::new(422, "configuration_invalid", detail.clone()).into_response();
            // RFC 9457 §3.2: an extension member, one message each.
            let problem = json!({
                "type": "about:blank", "status": 422, "title": "Unprocessable Content",
                "detail": detail, "code": "configuration_invalid", "errors": errors,
            });
            *response.body_mut() = problem.to_string().into();
            response
        }
    }
}

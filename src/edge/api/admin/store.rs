//! `/admin/v1/store`: how large the store is, and its compaction.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use super::super::body::answer;
use super::super::failure::Failure;
use super::state::AdminState;

pub(super) fn router() -> Router<AdminState> {
    Router::new().route("/admin/v1/store", get(status)).route("/admin/v1/store/compact", post(compact))
}

async fn status(State(state): State<AdminState>) -> Response {
    let status = state.storage.status();
    let compactions = status.compactions;
    let body = json!({
        "writable": status.writable,
        "bytes": status.bytes,
        "live_bytes": status.live_bytes,
        "compactions": { "done": compactions.done, "no_room": compactions.no_room, "failed": compactions.failed },
    });
    answer(StatusCode::OK, &body)
}

/// Answers once it is done; it goes on when the operator leaves.
async fn compact(State(state): State<AdminState>) -> Response {
    match state.storage.compact().await {
        Ok(done) => {
            let milliseconds = u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX);
            let body = json!({
                "bytes_before": done.before,
                "bytes": done.after,
                "live_bytes": done.live,
                "milliseconds": milliseconds,
            });
            answer(StatusCode::OK, &body)
        }
        Err(error) => {
            let detail = format!("the store was not compacted, and nothing of it is lost: {error}");
            Failure::new(503, "not_compacted", detail).into_response()
        }
    }
}

//! `/admin/v1/store`: how large the store is, and its compaction.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::answer;
use super::super::failure::Failure;
use super::state::AdminState;
use palisade_core::ports::{Compacted, StoreError, StoreStatus};

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(compact))
}

/// How the store is doing.
#[derive(Serialize, ToSchema)]
struct StoreSize {
    /// Whether writes are acknowledged.
    writable: bool,
    /// Bytes on disk.
    bytes: u64,
    /// Bytes of what lives in it, keys and values.
    live_bytes: u64,
    compactions: CompactionCount,
}

/// Compactions since the start, by how they ended.
#[derive(Serialize, ToSchema)]
struct CompactionCount {
    done: u64,
    /// Given up because the disk had no room for a second copy.
    no_room: u64,
    failed: u64,
}

impl From<StoreStatus> for StoreSize {
    fn from(status: StoreStatus) -> StoreSize {
        let counts = status.compactions;
        StoreSize {
            writable: status.writable,
            bytes: status.bytes,
            live_bytes: status.live_bytes,
            compactions: CompactionCount {
                done: counts.done,
                no_room: counts.no_room,
                failed: counts.failed,
            },
        }
    }
}

/// A compaction that is done.
#[derive(Serialize, ToSchema)]
struct Compaction {
    /// Bytes on disk before.
    bytes_before: u64,
    /// Bytes on disk now.
    bytes: u64,
    live_bytes: u64,
    /// How long it took.
    milliseconds: u64,
}

impl From<Compacted> for Compaction {
    fn from(done: Compacted) -> Compaction {
        Compaction {
            bytes_before: done.before,
            bytes: done.after,
            live_bytes: done.live,
            milliseconds: u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// How large the store is.
#[utoipa::path(get, path = "/admin/v1/store", tag = "Store", operation_id = "show_store",
    security(("operator" = [])),
    responses((status = 200, body = StoreSize, description = "How the store is doing.")),
    extensions(("x-codes" = json!([]))))]
async fn status(State(state): State<AdminState>) -> Response {
    answer(StatusCode::OK, &StoreSize::from(state.storage.status()))
}

/// Compact the store now. The answer comes when it is done; it goes on when the caller leaves.
#[utoipa::path(post, path = "/admin/v1/store/compact", tag = "Store", operation_id = "compact_store",
    security(("operator" = [])),
    responses((status = 200, body = Compaction, description = "It is compacted.")),
    extensions(("x-codes" = json!(["not_compacted"]))))]
async fn compact(State(state): State<AdminState>) -> Result<Response, Failure> {
    let done = state.storage.compact().await.map_err(|error| not_compacted(&error))?;
    Ok(answer(StatusCode::OK, &Compaction::from(done)))
}

/// The store is as it was.
pub(super) fn not_compacted(error: &StoreError) -> Failure {
    let detail = format!("the store was not compacted, and nothing of it is lost: {error}");
    Failure::new(503, "not_compacted", detail)
}

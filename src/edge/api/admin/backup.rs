//! `/admin/v1/backup`: a backup of everything that the store holds, as it is made.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::stream;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::OptionalJsonBody;
use super::super::failure::Failure;
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::ports::{BackupBytes, BackupRefused, BackupRequest};

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new().routes(routes!(backup))
}

/// What backup is wanted.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"recipients": ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]}))]
struct NewBackup {
    /// Public keys of `age` that it is encrypted to; without one it is not encrypted.
    #[serde(default)]
    recipients: Vec<String>,
    /// Whether the gateway's own secrets are left out of an encrypted backup. They never are in one that is not.
    #[serde(default)]
    without_secrets: bool,
}

/// Make a backup of everything that the store holds at this moment.
///
/// The answer is the backup, in the form that `docs/backups.md` describes, as it is made; commits go on meanwhile. One that
/// breaks off has no end, and is no backup.
#[utoipa::path(post, path = "/admin/v1/backup", tag = "Store", operation_id = "make_backup",
    request_body = Option<NewBackup>,
    security(("operator" = [])),
    responses((status = 200, body = String, content_type = "application/octet-stream", description = "The backup.")),
    extensions(("x-codes" = json!(["invalid_request", "no_backup"]))))]
async fn backup(
    State(state): State<AdminState>,
    RequestId(id): RequestId,
    OptionalJsonBody(wish): OptionalJsonBody<NewBackup>,
) -> Result<Response, Failure> {
    let recipients = wish.recipients.len();
    let request = BackupRequest { recipients: wish.recipients, secrets: !wish.without_secrets };
    let bytes = state.backups.begin(request).await.map_err(|error| refused(&error))?;
    tracing::info!(request_id = %id, recipients, "a backup is made for an operator");
    let mut response = Response::new(Body::from_stream(stream::try_unfold(bytes, next)));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// The next bytes. A failure breaks the connection off, so that the client sees no end.
async fn next(
    mut bytes: Box<dyn BackupBytes>,
) -> Result<Option<(Bytes, Box<dyn BackupBytes>)>, std::io::Error> {
    match bytes.next().await {
        Ok(next) => Ok(next.map(|next| (Bytes::from(next), bytes))),
        Err(why) => {
            tracing::error!(why, "a backup broke off");
            Err(std::io::Error::other(why))
        }
    }
}

/// Why no backup was begun.
pub(super) fn refused(error: &BackupRefused) -> Failure {
    match error {
        BackupRefused::Invalid(why) => Failure::new(422, "invalid_request", why.clone()),
        BackupRefused::Unavailable(why) => {
            Failure::new(503, "no_backup", format!("no backup was begun: {why}"))
        }
    }
}

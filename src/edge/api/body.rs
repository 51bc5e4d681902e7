//! JSON in, JSON and problem documents out, the same way for every endpoint.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::problem::Problem;

/// A refusal or failure as an answer.
#[derive(Debug)]
pub(super) struct Failure(pub Problem);

impl Failure {
    pub(super) fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Failure {
        Failure(Problem::new(status, code, detail))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = typed(status, "application/problem+json", self.0.to_json());
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"palisade-admin\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // The store tries its disk again twice a second.
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// `value` as a JSON answer that no cache keeps.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => typed(status, "application/json", text),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            Failure::new(500, "internal", "the answer could not be written").into_response()
        }
    }
}

/// An answer of this media type that no cache keeps.
pub(super) fn typed(status: StatusCode, media_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A request body parsed as JSON. Says what is wrong with it in a problem document.
pub(super) struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<JsonBody<T>, Failure> {
        // A page of another origin can send forms and text without asking first, but not this type.
        let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
            let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
            media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
        });
        if !is_json {
            let cure = "send the body as `Content-Type: application/json`";
            return Err(Failure::new(415, "unsupported_media_type", cure));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Failure::new(413, "body_too_large", "the body is larger than 64 KiB")
            } else {
                Failure::new(400, "body_unreadable", "the body ended early")
            }
        })?;
        // The message of a parser names fields and positions, and quotes what it found: the caller's
        // own words, told to nobody else.
        serde_json::from_slice(&bytes)
            .map(JsonBody)
            .map_err(|error| Failure::new(400, "invalid_json", error.to_string()))
    }
}

/// The answer to a path we do not know.
pub(super) async fn not_found() -> Failure {
    Failure::new(404, "not_found", "there is nothing at this path")
}

/// The answer to a method a path does not have; axum adds `Allow`.
pub(super) async fn method_not_allowed() -> Failure {
    Failure::new(405, "method_not_allowed", "this path does not take this method")
}

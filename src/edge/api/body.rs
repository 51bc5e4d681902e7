//! JSON in, JSON and problem documents out, the same way for every endpoint.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::domain::problem::Problem;

/// A refusal or failure as an answer.
#[derive(Debug)]
pub(super) struct Failure(Box<Told>);

#[derive(Debug)]
struct Told {
    problem: Problem,
    /// For 401: how to authenticate (RFC 9110 §11.6.1).
    challenge: Option<&'static str>,
    retry_after: Option<Duration>,
    /// An extension member of the document (RFC 9457 §3.2).
    member: Option<(&'static str, Value)>,
}

impl Failure {
    pub(super) fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Failure {
        let problem = Problem::new(status, code, detail);
        // The store tries its disk again twice a second.
        let retry_after = (status == 503).then_some(Duration::from_secs(1));
        Failure(Box::new(Told { problem, challenge: None, retry_after, member: None }))
    }

    pub(super) fn challenging(mut self, challenge: &'static str) -> Failure {
        self.0.challenge = Some(challenge);
        self
    }

    pub(super) fn after(mut self, wait: Duration) -> Failure {
        self.0.retry_after = Some(wait);
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: Value) -> Failure {
        self.0.member = Some((name, value));
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Told { problem, challenge, retry_after, member } = *self.0;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let text = match member {
            None => problem.to_json(),
            Some((name, value)) => {
                let mut document = json!(problem);
                document[name] = value;
                format!("{document}\n")
            }
        };
        let mut response = typed(status, "application/problem+json", text);
        let headers = response.headers_mut();
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(wait) = retry_after {
            // Whole seconds (RFC 9110 §10.2.3), and never "at once".
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// `value` as a JSON answer that no cache keeps.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Response {
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

/// Like [`JsonBody`], where there may be none at all.
pub(super) struct OptionalJsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<OptionalJsonBody<T>, Failure> {
        let has_type = request.headers().contains_key(header::CONTENT_TYPE);
        if !has_type && request.body().is_end_stream() {
            return Ok(OptionalJsonBody(T::default()));
        }
        JsonBody::from_request(request, state).await.map(|JsonBody(body)| OptionalJsonBody(body))
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

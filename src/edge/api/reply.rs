//! Answers as axum takes them.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::http_fields;
use palisade_core::domain::reply::Reply;

/// An answer of the domain's as axum takes it, with this body.
pub(super) fn written(reply: &Reply, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(reply.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for field in reply.fields() {
        // Always: the domain's types hold visible ASCII only.
        if let Ok(value) = http_fields::value(&field) {
            headers.append(HeaderName::from_static(field.name), value);
        }
    }
    if headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
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

//! What Palisade publishes about itself: its public keys (RFC 7517) and its metadata (RFC 8414).
//!
//! The metadata states only what is served now. A client must not be sent to an endpoint that is not
//! there.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::super::failure::{method_not_allowed, not_found};
use super::super::reply::typed;
use palisade_core::ports::Keys;

/// What the published documents are made of.
#[derive(Clone)]
pub struct NativeState {
    /// The issuer our tokens carry, byte for byte.
    pub issuer: String,
    /// The origin people see, without a trailing slash.
    pub public_url: String,
    /// The page that describes the native endpoints.
    pub docs_url: String,
    pub keys: Arc<dyn Keys>,
}

/// What Palisade answers itself among the proxied traffic.
pub fn native_router(state: NativeState) -> Router {
    Router::new()
        .route("/.well-known/jwks.json", get(jwks))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state)
}

async fn jwks(State(state): State<NativeState>) -> Response {
    // RFC 7517 §8.5.1.
    public("application/jwk-set+json", state.keys.jwks().to_string())
}

async fn metadata(State(state): State<NativeState>) -> Response {
    // Both lists are empty because there is no authorization and no token endpoint: what signs people in
    // here takes JSON and is none of RFC 6749. RFC 8414 §2 demands the first, and without the second a
    // reader must assume the code and implicit grants.
    let document = json!({
        "issuer": state.issuer,
        "jwks_uri": format!("{}/.well-known/jwks.json", state.public_url),
        "response_types_supported": [],
        "grant_types_supported": [],
        "service_documentation": state.docs_url,
    });
    public("application/json", document.to_string())
}

/// Public and the same for every client. A next key is published long before it signs, so a copy five minutes old
/// still verifies everything.
fn public(media_type: &'static str, text: String) -> Response {
    let mut response = typed(StatusCode::OK, media_type, text);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use palisade_testing::fakes::FakeKeys;
    use serde_json::Value;
    use tower::ServiceExt;

    async fn ask(method: &str, path: &str) -> (StatusCode, Value) {
        let state = NativeState {
            issuer: "https://us.test".into(),
            public_url: "https://gate.test".into(),
            docs_url: "https://gate.test/auth/docs".into(),
            keys: Arc::new(FakeKeys::default()),
        };
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = native_router(state).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 65536).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn keys_and_metadata_are_published() {
        let (status, keys) = ask("GET", "/.well-known/jwks.json").await;
        assert_eq!((status, &keys["keys"][0]["kid"]), (StatusCode::OK, &json!("k0")));
        let (_, metadata) = ask("GET", "/.well-known/oauth-authorization-server").await;
        assert_eq!(metadata["issuer"], "https://us.test");
        assert_eq!(metadata["jwks_uri"], "https://gate.test/.well-known/jwks.json");
        assert_eq!(metadata["service_documentation"], "https://gate.test/auth/docs");
        assert!(metadata.get("token_endpoint").is_none());
    }

    #[tokio::test]
    async fn the_rest_is_a_problem_document() {
        assert_eq!(ask("GET", "/.well-known/other").await.1["code"], "not_found");
        let (status, problem) = ask("POST", "/.well-known/jwks.json").await;
        assert_eq!((status.as_u16(), &problem["code"]), (405, &json!("method_not_allowed")));
    }
}

//! `/livez`, `/readyz` and `/metrics`: for probes and scrapers, so without a credential. They tell no
//! secret and name no user.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::super::body::answer;
use super::super::failure::method_not_allowed;
use super::super::reply::typed;
use super::state::MetricsText;
use palisade_core::ports::Control;

/// The three endpoints.
pub(super) fn router(control: Arc<dyn Control>, metrics: MetricsText) -> Router {
    Router::new()
        .route("/livez", get(|| async { answer(StatusCode::OK, &json!({"status": "alive"})) }))
        .route("/readyz", get(move || ready(control.clone())))
        .route("/metrics", get(move || scrape(metrics.clone())))
        .method_not_allowed_fallback(method_not_allowed)
}

async fn ready(control: Arc<dyn Control>) -> Response {
    let because = control.not_ready_because();
    if because.is_empty() {
        match control.missing() {
            missing if missing.is_empty() => answer(StatusCode::OK, &json!({"status": "ready"})),
            missing => answer(StatusCode::OK, &json!({"status": "ready", "missing": missing})),
        }
    } else {
        let body = json!({"status": "not ready", "because": because});
        answer(StatusCode::SERVICE_UNAVAILABLE, &body)
    }
}

async fn scrape(metrics: MetricsText) -> Response {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics())
}

//! `/livez`, `/readyz` and `/metrics`: for probes and scrapers, so without a credential. They tell no
//! secret and name no user. The admin listener serves them beside its API, and `server.health` serves them alone.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::answer;
use super::super::failure::{method_not_allowed, not_found};
use super::super::reply::typed;
use super::state::{AdminState, MetricsText};
use palisade_core::ports::Control;

/// What the three endpoints work with: nothing else can be reached through them.
#[derive(Clone)]
pub struct HealthState {
    pub control: Arc<dyn Control>,
    pub metrics: MetricsText,
}

impl FromRef<AdminState> for HealthState {
    fn from_ref(state: &AdminState) -> HealthState {
        HealthState { control: Arc::clone(&state.control), metrics: Arc::clone(&state.metrics) }
    }
}

/// The three endpoints.
pub(super) fn endpoints<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    HealthState: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready)).routes(routes!(scrape))
}

/// The routes of `server.health`: the three endpoints, and no other.
pub fn health_router(state: HealthState) -> Router {
    let router = endpoints::<HealthState>().split_for_parts().0;
    router.method_not_allowed_fallback(method_not_allowed).fallback(not_found).with_state(state)
}

/// Whether requests are served.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `alive`, `ready` or `not ready`.
    status: &'static str,
    /// What is not ready yet, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    because: Vec<String>,
    /// What works without, for people: a provider that is not in service, for one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    missing: Vec<String>,
}

/// Whether the process runs.
#[utoipa::path(get, path = "/livez", tag = "Health", operation_id = "live",
    responses((status = 200, body = Health, description = "It does.")))]
async fn live() -> Response {
    answer(StatusCode::OK, &Health { status: "alive", because: Vec::new(), missing: Vec::new() })
}

/// Whether requests can be served.
#[utoipa::path(get, path = "/readyz", tag = "Health", operation_id = "ready",
    responses(
        (status = 200, body = Health, description = "They can."),
        (status = 503, body = Health, description = "Not yet, or not any more."),
    ))]
async fn ready(State(state): State<HealthState>) -> Response {
    let because = state.control.not_ready_because();
    if because.is_empty() {
        let missing = state.control.missing();
        return answer(StatusCode::OK, &Health { status: "ready", because, missing });
    }
    answer(StatusCode::SERVICE_UNAVAILABLE, &Health { status: "not ready", because, missing: Vec::new() })
}

/// The metrics, in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "Health", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "text/plain; version=0.0.4; charset=utf-8",
        description = "The metrics.")))]
async fn scrape(State(state): State<HealthState>) -> Response {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", (state.metrics)())
}

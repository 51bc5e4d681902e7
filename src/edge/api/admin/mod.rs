//! `/admin/v1`: what the operator may do, behind one bearer credential, on its own listener. And `server.health`, a
//! second one for probes and scrapers alone.
//!
//! No answer and no log line holds the credential. What went wrong inside goes to the log; the caller
//! gets a stable code.

mod acknowledged;
mod backup;
mod claimed;
mod clock;
mod connections;
mod control;
mod health;
mod input;
mod keys;
mod listener;
mod openapi;
mod operator;
mod query;
mod revocations;
mod schema;
mod slots;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod transfer;
mod users;

use std::sync::Arc;

use axum::{Extension, Router, middleware};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;

use self::openapi::{Document, failures, frame};
use super::failure::{method_not_allowed, not_found};
use super::openapi::document;

pub use health::{HealthState, health_router};
pub use listener::{serve, serve_health};
pub use state::{AdminState, LinkPages, MetricsText};

/// The admin listener's routes: health and metrics for every client that reaches it, the rest for the operator.
pub fn admin_router(state: AdminState) -> Router {
    let text = description().to_string();
    guarded()
        .split_for_parts()
        .0
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(Extension(Document(text.into())))
        // Outermost, so that a caller without the credential learns nothing about paths, methods and bodies.
        .layer(middleware::from_fn_with_state((state.clone(), Arc::default()), operator::only_operator))
        .merge(health::endpoints().split_for_parts().0.method_not_allowed_fallback(method_not_allowed))
        .with_state(state)
}

/// The description of every endpoint.
fn description() -> Value {
    let described = guarded().merge(health::endpoints()).into_openapi();
    // Relative to where the document is served.
    document(frame().merge_from(described), "/", &failures())
}

/// Every endpoint that needs the credential, described by the very code that mounts it.
fn guarded() -> OpenApiRouter<AdminState> {
    revocations::endpoints()
        .merge(keys::endpoints())
        .merge(control::endpoints())
        .merge(users::endpoints())
        .merge(transfer::endpoints())
        .merge(clock::endpoints())
        .merge(connections::endpoints())
        .merge(store::endpoints())
        .merge(backup::endpoints())
        .merge(openapi::endpoints())
}

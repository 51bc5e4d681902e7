//! `/admin/v1`: what the operator may do, behind one bearer credential, on its own listener.
//!
//! No answer and no log line holds the credential. What went wrong inside goes to the log; the caller
//! gets a stable code.

mod claimed;
mod clock;
mod connections;
mod control;
mod health;
mod input;
mod keys;
mod listener;
mod operator;
mod revocations;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::middleware;

use super::failure::{method_not_allowed, not_found};

pub use listener::serve;
pub use state::{AdminState, MetricsText};

/// The admin listener's routes: health and metrics for anybody who reaches it, the rest for the
/// operator.
pub fn admin_router(state: AdminState) -> Router {
    let open = health::router(state.control.clone(), state.metrics.clone());
    Router::new()
        .merge(revocations::router())
        .merge(keys::router())
        .merge(control::router())
        .merge(users::router())
        .merge(clock::router())
        .merge(connections::router())
        .merge(store::router())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        // Outermost, so that a stranger learns nothing about paths, methods and bodies.
        .layer(middleware::from_fn_with_state((state.clone(), Arc::default()), operator::only_operator))
        .with_state(state)
        .merge(open)
}

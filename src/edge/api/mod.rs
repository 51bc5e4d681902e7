//! The native endpoints, over axum: the operator's API on its own listener (`admin`, with `server.health` beside it), and
//! what Palisade answers itself among the proxied traffic (`native`). Only this room and the bridge name axum.

mod account_failure;
mod admin;
mod body;
mod connection_failure;
#[cfg(test)]
mod described;
mod failure;
#[cfg(test)]
mod fakes;
mod native;
mod object;
mod openapi;
mod reply;
mod schema;

pub use admin::{
    AdminState, HealthState, LinkPages, MetricsText, admin_router, health_router, serve, serve_health,
};
pub use native::{AuthState, NativeState, auth_router, native_router};

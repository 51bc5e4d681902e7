//! The native endpoints, over axum: the operator's API on its own listener, and what Palisade answers
//! itself among the proxied traffic. Only this room and the bridge name axum.

mod account_failure;
mod admin;
mod admin_clock;
mod admin_connections;
mod admin_listener;
mod admin_store;
mod admin_token;
mod admin_users;
mod auth;
mod body;
mod callback;
mod caller;
mod connection_failure;
mod connection_schema;
mod connections;
#[cfg(test)]
mod connections_fake;
mod docs;
mod email_changes;
mod health;
mod object;
mod openapi;
mod pages;
mod registration;
mod schema;
mod well_known;

pub use admin::{AdminState, admin_router};
pub use admin_listener::serve;
pub use auth::{AuthState, auth_router};
pub use health::MetricsText;
pub use well_known::{NativeState, native_router};

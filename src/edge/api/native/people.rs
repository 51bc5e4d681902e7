//! The pages of people who are signed in, and of the links that undo a change of address. One file a page.
//!
//! They are rendered here and work without script. A form posts to its own page; after success the answer is a redirect
//! (303), otherwise it is the form again, with what was typed but for passwords. There is no token against CSRF that
//! could go stale in one of many tabs: [`Form`] is read only from a page of the same origin. The token of a link is
//! in the fragment of its address and in forms, never in a path or query.

mod account;
mod mailed;
mod own;
mod sign_out;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::page_forms::{Form, Owner, Told, answer, redirect, shown, told, url, wrong_host};
use super::state::{AuthState, SharedAuthState};
use palisade_core::domain::browser::BrowserSettings;
use palisade_core::domain::page::PageName;

/// The pages, to be nested under the prefix of the native endpoints. Without `[browser]` only those that mailed links open,
/// and the one for errors.
pub(super) fn router(settings: &BrowserSettings) -> Router<Arc<AuthState>> {
    let pages = mailed::router().route("/pages/error", get(error));
    match settings.enabled {
        true => pages.merge(account::router()).merge(sign_out::router()),
        false => pages,
    }
}

/// The addresses of pages in `/.well-known`.
pub(super) fn well_known(settings: &BrowserSettings) -> Router<Arc<AuthState>> {
    if settings.enabled { account::well_known() } else { Router::new() }
}

/// What went wrong, where only that is known: for links of apps and proxies.
async fn error(State(state): SharedAuthState, headers: HeaderMap) -> Response {
    answer(&state, &headers, PageName::Error, 200, "error", &json!({"kind": "other"}))
}

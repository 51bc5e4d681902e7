//! The pages of people who are signed in, and of the links that undo a change of address. One file a page.
//!
//! They are rendered here and work without script. A form posts to its own page; after success the answer is a redirect
//! (303), otherwise it is the form again, with what was typed but for passwords. There is no token against CSRF that
//! could go stale in one of many tabs: [`form::Form`] is read only from a page of the same origin. The token of a link is
//! in the fragment of its address and in forms, never in a path or query.

mod account;
mod form;
mod mailed;
mod own;
mod sign_out;
mod told;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use super::super::failure::internal;
use super::super::reply::written;
use super::state::{AuthState, SharedAuthState};
use palisade_core::domain::browser::BrowserSettings;
use palisade_core::domain::page::PageName;
use palisade_core::domain::redirect::{Location, Redirect};
use palisade_core::ports::PageRequest;
use told::Told;

/// The pages, to be nested under the prefix of the native endpoints. Without `[browser]` only those that mailed links open,
/// and the one for errors.
pub(super) fn router(settings: &BrowserSettings) -> Router<Arc<AuthState>> {
    let pages = mailed::router().route("/pages/error", get(error));
    match settings.enabled {
        true => pages.merge(account::router()).merge(sign_out::router()),
        false => pages,
    }
}

/// What went wrong, where only that is known: for links of apps and proxies.
async fn error(State(state): SharedAuthState, headers: HeaderMap) -> Response {
    answer(&state, &headers, PageName::Error, 200, "error", &json!({"kind": "other"}))
}

/// A page with these facts.
fn shown(state: &AuthState, headers: &HeaderMap, page: PageName, facts: Value) -> Response {
    answer(state, headers, page, 200, "page", &facts)
}

/// The page again, with what is wrong with what was sent.
fn told(state: &AuthState, headers: &HeaderMap, page: PageName, mut facts: Value, told: Told) -> Response {
    facts["errors"] = told.errors;
    let mut response = answer(state, headers, page, told.status, told.code, &facts);
    let fields = response.headers_mut();
    if let Some(wait) = told.retry_after {
        fields.insert(header::RETRY_AFTER, HeaderValue::from(wait));
    }
    if told.status == 401 {
        // Every 401 names a scheme (RFC 9110 §15.5.2); this is one for which no browser asks its user.
        fields.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(palisade_core::domain::answer::realm()),
        );
    }
    response
}

fn answer(
    state: &AuthState,
    headers: &HeaderMap,
    page: PageName,
    status: u16,
    code: &'static str,
    facts: &Value,
) -> Response {
    let accept_language = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    let page = state.pages.render(&PageRequest { page, status, code, accept_language, facts });
    let html = page.html.clone();
    written(&page.into(), html)
}

/// A redirect to `to` after a form was sent, or because there is nothing to ask.
fn redirect(code: &'static str, to: &str) -> Response {
    match Location::new(to) {
        Ok(to) => written(&Redirect { code, to, cookies: Vec::new() }.into(), String::new()),
        // Always a place: addresses of our pages, and targets that were read as such.
        Err(_) => axum::response::IntoResponse::into_response(internal()),
    }
}

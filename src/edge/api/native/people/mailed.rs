//! The pages of the links that undo a change of address, and that object to the undo.
//!
//! Nothing happens before the button is pressed: programs that look at mail open links, and some of them run scripts. A
//! reader of these pages need not be signed in: the link is what counts.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::super::caller::By;
use super::super::state::{AuthState, SharedAuthState};
use super::Form;
use super::Told;
use super::shown;
use palisade_core::domain::page::PageName;
use palisade_core::service::accounts::AccountError;

pub(super) fn router() -> Router<Arc<AuthState>> {
    Router::new()
        .route("/pages/undo", get(show_undo).post(undo))
        .route("/pages/object", get(show_object).post(object))
}

async fn show_undo(State(state): SharedAuthState, headers: HeaderMap) -> Response {
    shown(&state, &headers, PageName::Undo, json!({"step": "link"}))
}

async fn show_object(State(state): SharedAuthState, headers: HeaderMap) -> Response {
    shown(&state, &headers, PageName::Object, json!({"step": "link"}))
}

async fn undo(State(state): SharedAuthState, By(client): By, headers: HeaderMap, form: Form) -> Response {
    if let Some(missing) = Told::missing(&form, &["token"]) {
        return super::told(&state, &headers, PageName::Undo, json!({"step": "link"}), missing);
    }
    let done = state.accounts.undo_email_change(&client, form.text("token")).await;
    used(&state, &headers, PageName::Undo, &form, done)
}

async fn object(State(state): SharedAuthState, By(client): By, headers: HeaderMap, form: Form) -> Response {
    if let Some(missing) = Told::missing(&form, &["token"]) {
        return super::told(&state, &headers, PageName::Object, json!({"step": "link"}), missing);
    }
    let done = state.accounts.object_to_undo(&client, form.text("token")).await;
    used(&state, &headers, PageName::Object, &form, done)
}

/// What became of the link. There is no redirect to a page that says "done": a thief could send the owner a link to it, in
/// place of the one that undoes the change.
fn used(
    state: &AuthState,
    headers: &HeaderMap,
    page: PageName,
    form: &Form,
    done: Result<(), AccountError>,
) -> Response {
    match done {
        Ok(()) => shown(state, headers, page, json!({"step": "done"})),
        Err(error) => {
            let is_over = matches!(error, AccountError::InvalidLink);
            let facts = match is_over {
                true => json!({"step": "over"}),
                // It may work with the next try.
                false => json!({"step": "link", "token": form.again("token")}),
            };
            super::told(state, headers, page, facts, Told::of(error, "token"))
        }
    }
}

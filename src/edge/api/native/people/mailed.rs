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

use super::super::caller::Asked;
use super::super::link_browser;
use super::super::state::{AuthState, SharedAuthState};
use super::Form;
use super::Told;
use super::shown;
use palisade_core::domain::link::Purpose;
use palisade_core::domain::page::PageName;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::used_links::LinkTurn;

pub(super) fn router() -> Router<Arc<AuthState>> {
    Router::new()
        .route("/pages/undo", get(show_undo).post(undo))
        .route("/pages/object", get(show_object).post(object))
}

async fn show_undo(State(state): SharedAuthState, headers: HeaderMap) -> Response {
    opened(&state, &headers, PageName::Undo)
}

async fn show_object(State(state): SharedAuthState, headers: HeaderMap) -> Response {
    opened(&state, &headers, PageName::Object)
}

fn opened(state: &AuthState, headers: &HeaderMap, page: PageName) -> Response {
    link_browser::marked(state, headers, shown(state, headers, page, json!({"step": "link"})))
}

async fn undo(State(state): SharedAuthState, asked: Asked, form: Form) -> Response {
    if let Some(missing) = Told::missing(&form, &["token"]) {
        return super::told(&state, &asked.headers, PageName::Undo, json!({"step": "link"}), missing);
    }
    let turn = state.accounts.link_turn(form.text("token")).await;
    let done = state.accounts.undo_email_change(&asked.client, form.text("token")).await;
    used(&state, &asked, (PageName::Undo, Purpose::UndoEmailChange), (&form, &turn), done).await
}

async fn object(State(state): SharedAuthState, asked: Asked, form: Form) -> Response {
    if let Some(missing) = Told::missing(&form, &["token"]) {
        return super::told(&state, &asked.headers, PageName::Object, json!({"step": "link"}), missing);
    }
    let turn = state.accounts.link_turn(form.text("token")).await;
    let done = state.accounts.object_to_undo(&asked.client, form.text("token")).await;
    used(&state, &asked, (PageName::Object, Purpose::ObjectToUndo), (&form, &turn), done).await
}

/// What became of the link. There is no redirect to a page that says "done": a thief could send the owner a link to it, in
/// place of the one that undoes the change. For the same reason "already done" is for the browser that used this link.
async fn used(
    state: &AuthState,
    asked: &Asked,
    (page, purpose): (PageName, Purpose),
    (form, turn): (&Form, &LinkTurn),
    done: Result<(), AccountError>,
) -> Response {
    match done {
        Ok(()) => {
            state.accounts.link_used(turn, purpose, None, link_browser::mark_of(state, &asked.headers)).await;
            shown(state, &asked.headers, page, json!({"step": "done"}))
        }
        Err(error) => {
            let is_over = matches!(error, AccountError::InvalidLink);
            if is_over
                && let Some(done) = link_browser::already_done(state, asked, page, turn, None, None).await
            {
                return done;
            }
            let facts = match is_over {
                true => json!({"step": "over"}),
                // It may work with the next try.
                false => json!({"step": "link", "token": form.again("token")}),
            };
            super::told(state, &asked.headers, page, facts, Told::of(error, "token"))
        }
    }
}

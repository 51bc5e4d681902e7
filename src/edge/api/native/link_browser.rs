//! The cookie by which a browser is known that used a mailed link, so that it is told so when the link is pressed again.
//!
//! It is set with the page that a link opens, before the link is used: a button that is pressed twice sends its second
//! request before the first is answered. It is random, and says nothing.

use axum::http::{HeaderMap, header};
use axum::response::Response;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::caller::Asked;
use super::cookies;
use super::page_forms::{self, Owner};
use super::state::AuthState;
use palisade_core::domain::credential::LINKS_COOKIE;
use palisade_core::domain::page::PageName;
use palisade_core::service::used_links::{LinkTurn, is_browser_mark};

/// How long the browser keeps it, in seconds: as long as it is remembered what a link was used for.
const LIFE: u64 = 24 * 3600;

/// The mark that the request brings.
pub(super) fn mark_of<'h>(state: &AuthState, headers: &'h HeaderMap) -> Option<&'h str> {
    cookies::only(headers, &cookies::name(state, LINKS_COOKIE)).filter(|value| is_browser_mark(value))
}

/// `response`, the page of a link, with the mark of its browser: the one that it has, or a fresh one.
pub(super) fn marked(state: &AuthState, headers: &HeaderMap, mut response: Response) -> Response {
    let fresh;
    let mark = match mark_of(state, headers) {
        Some(mark) => mark,
        None => {
            fresh = state.accounts.browser_mark();
            fresh.expose_secret()
        }
    };
    // Mail is on other sites, and from there a link is opened again: by a navigation, which `Lax` lets bring it.
    let attributes =
        cookies::Attributes { below: "/pages", max_age: LIFE, same_site: cookies::SameSite::Lax };
    // Without it the link is good all the same.
    if let Ok(cookie) = cookies::set(state, &cookies::name(state, LINKS_COOKIE), mark, attributes) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The page that says that the link of `turn` is used and what it was for is done; `None` to every browser but the one
/// that used it, and one that is signed in to its account.
pub(super) async fn already_done(
    state: &AuthState,
    asked: &Asked,
    page: PageName,
    turn: &LinkTurn,
    visitor: Option<&Owner>,
    go_on: Option<String>,
) -> Option<Response> {
    let person = visitor.map(|visitor| visitor.person.user);
    state.accounts.link_was_used(turn, mark_of(state, &asked.headers), person).await?;
    let facts = json!({
        "step": "done",
        "already": true,
        "sign_in_url": go_on.map_or(Value::Null, Value::from),
    });
    Some(page_forms::answer(state, &asked.headers, page, 200, "already_done", &facts))
}

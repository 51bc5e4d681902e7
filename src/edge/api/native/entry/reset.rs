//! The page that the link of a password reset opens: first the link, then the new password, beside the address of the
//! account for password managers.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::super::caller::Asked;
use super::super::link_browser;
use super::super::state::SharedAuthState;
use super::AtHome;
use super::Form;
use super::Told;
use super::session::{Cookies, entered};
use super::verify::{Link, not_opened};
use super::way::{Letter, Way};
use super::{return_host, rules, shown};
use palisade_core::domain::link::Purpose;
use palisade_core::domain::page::PageName;
use palisade_core::service::accounts::AccountError;

const PAGE: PageName = PageName::Reset;

pub(super) async fn show(State(state): SharedAuthState, _: AtHome, asked: Asked) -> Response {
    let page = shown(&state, &asked.headers, PAGE, json!({"step": "link"}));
    link_browser::marked(&state, &asked.headers, page)
}

/// Sets the password, ends every session, and begins a new one in this browser.
pub(super) async fn submit(State(state): SharedAuthState, asked: Asked, form: Form) -> Response {
    if let Some(missing) = Told::missing(&form, &["token"]) {
        return super::told(&state, &asked.headers, PAGE, json!({"step": "link"}), missing);
    }
    let token = form.text("token");
    let turn = state.accounts.link_turn(token).await;
    let link = Link { page: PAGE, letter: Letter::Reset, token, turn: &turn };
    let opened = match state.accounts.open_link(&asked.client, token, &[Purpose::ResetPassword]).await {
        Ok(opened) => opened,
        Err(error) => return not_opened(&state, &asked, link, error).await,
    };
    let way = Way::of_link(opened.return_to.as_deref(), &state);
    let facts = json!({
        "step": "new_password",
        "token": token,
        "email": opened.login_name(),
        "rules": rules(&state),
        "return_host": return_host(&state, &way),
    });
    if !form.has("new_password") {
        return match form.has("step").then(|| Told::missing(&form, &["new_password"])).flatten() {
            Some(missing) => super::told(&state, &asked.headers, PAGE, facts, missing),
            None => shown(&state, &asked.headers, PAGE, facts),
        };
    }
    let used = async || {
        let browser = link_browser::mark_of(&state, &asked.headers);
        state.accounts.link_used(&turn, opened.purpose, Some(opened.user), browser).await;
    };
    if !state.browser.enabled {
        let reset = state.accounts.reset_opened(&asked.client, &opened, form.password("new_password")).await;
        return match reset {
            Ok(_) => {
                used().await;
                shown(&state, &asked.headers, PAGE, json!({"step": "done"}))
            }
            Err(error @ AccountError::InvalidLink) => not_opened(&state, &asked, link, error).await,
            Err(error) => super::told(&state, &asked.headers, PAGE, facts, Told::of(error, "new_password")),
        };
    }
    let cookies = Cookies::of(&state, &asked);
    let password = form.password("new_password");
    match state.accounts.reset_and_enter(&asked.client, &opened, password, cookies.entry(None)).await {
        Ok(outcome) => {
            used().await;
            entered(&state, &asked, outcome, (&way, "password_set")).await
        }
        Err(error @ AccountError::InvalidLink) => not_opened(&state, &asked, link, error).await,
        Err(error) => super::told(&state, &asked.headers, PAGE, facts, Told::of(error, "new_password")),
    }
}

//! Asking for a link that sets a new password.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::caller::Asked;
use super::super::state::{AuthState, SharedAuthState};
use super::AtHome;
use super::Form;
use super::Told;
use super::way::{Letter, Way};
use super::{address_of_check_mail, page_url, redirect, shown};
use palisade_core::domain::page::PageName;

const PAGE: PageName = PageName::Forgot;

pub(super) async fn show(State(state): SharedAuthState, _: AtHome, way: Way, asked: Asked) -> Response {
    shown(&state, &asked.headers, PAGE, facts(&state, &way))
}

/// Takes the request. The answer and its time do not tell whether the address has an account.
pub(super) async fn submit(State(state): SharedAuthState, way: Way, asked: Asked, form: Form) -> Response {
    let again = |told: Told| {
        let mut facts = facts(&state, &way);
        facts["email"] = json!(form.again("email"));
        super::told(&state, &asked.headers, PAGE, facts, told)
    };
    if let Some(missing) = Told::missing(&form, &["email"]) {
        return again(missing);
    }
    let email = form.text("email");
    match state.accounts.request_reset_for(&asked.client, email, way.kept()).await {
        Ok(()) => redirect("asked", &address_of_check_mail(&state, &way, Letter::Reset, None, email)),
        Err(error) => again(Told::of(error, "password")),
    }
}

fn facts(state: &AuthState, way: &Way) -> Value {
    json!({
        "has_mail": state.accounts.has_mail(),
        "sign_in_url": page_url(state, PageName::SignIn, way, &[]),
    })
}

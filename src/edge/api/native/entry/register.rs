//! Making an account with an address and a password.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::caller::Asked;
use super::super::registration;
use super::super::state::{AuthState, SharedAuthState};
use super::AtHome;
use super::Form;
use super::Told;
use super::way::{Letter, Way};
use super::{address_of_check_mail, may_register, page_url, redirect, return_host, rules, shown};
use palisade_core::domain::page::PageName;
use palisade_core::service::register::SentForm;

const PAGE: PageName = PageName::Register;
/// Names the form, so that one which is sent twice is one registration.
const FORM_ID: &str = "form_id";

pub(super) async fn show(State(state): SharedAuthState, _: AtHome, way: Way, asked: Asked) -> Response {
    let mut facts = facts(&state, &way);
    facts[FORM_ID] = json!(state.accounts.form_id());
    shown(&state, &asked.headers, PAGE, facts)
}

/// Registers. The answer is the same when the address has an account; its owner is told by mail.
pub(super) async fn submit(State(state): SharedAuthState, way: Way, asked: Asked, form: Form) -> Response {
    let again = |told: Told| {
        let mut facts = facts(&state, &way);
        for kept in ["email", "name", FORM_ID] {
            facts[kept] = json!(form.again(kept));
        }
        super::told(&state, &asked.headers, PAGE, facts, told)
    };
    if let Some(missing) = Told::missing(&form, &["email", "password"]) {
        return again(missing);
    }
    let id =
        match registration::form_id(&asked.headers, Some(form.again(FORM_ID)).filter(|id| !id.is_empty())) {
            Ok(id) => id,
            Err(failure) => return failure.into_response(),
        };
    let (email, name) = (form.text("email"), Some(form.text("name").to_owned()));
    let sent_form = SentForm { id: id.as_deref(), return_to: way.kept() };
    let sent =
        state.accounts.register_form(&asked.client, email, form.password("password"), name, sent_form).await;
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) => return again(Told::of(error, "password")),
    };
    // The form came from a page of this origin, so the browser may vouch for it.
    let value = state.accounts.bind(registration::cookie_of(&state, &asked.headers), &sent);
    match registration::set_cookie(&state, &value) {
        Ok(cookie) => {
            let to = address_of_check_mail(&state, &way, Letter::Verify, None, email);
            let mut response = redirect("registered", &to);
            response.headers_mut().append(header::SET_COOKIE, cookie);
            response
        }
        Err(failure) => failure.into_response(),
    }
}

fn facts(state: &AuthState, way: &Way) -> Value {
    json!({
        "may_register": may_register(state),
        "rules": rules(state),
        "sign_in_url": page_url(state, PageName::SignIn, way, &[]),
        "return_host": return_host(state, way),
    })
}

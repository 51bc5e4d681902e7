//! Waiting for a letter: what to do with it, and asking for it again.
//!
//! The address that the letter goes to is in the fragment of this page's address, from where the script puts it into the
//! form: it is in no log and no referrer. Without script it is typed once more.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::caller::Asked;
use super::super::state::{AuthState, SharedAuthState};
use super::at_home::AtHome;
use super::form::Form;
use super::session::{Visitor, visitor};
use super::told::Told;
use super::way::{LETTER, Letter, Way};
use super::{address_of_check_mail, may_register, page_url, redirect, return_host, shown};
use palisade_core::domain::page::PageName;
use palisade_core::domain::sign_in_url::NOTICE;

const PAGE: PageName = PageName::CheckMail;
/// Says that the letter was asked for again.
const SENT: &str = "sent";

pub(super) async fn show(State(state): SharedAuthState, _: AtHome, way: Way, asked: Asked) -> Response {
    // The link may have been opened in another window of this browser.
    let visitor = visitor(&state, &asked).await;
    shown(&state, &asked.headers, PAGE, facts(&state, &way, visitor.as_ref()))
}

/// Asks for the letter again. The answer and its time do not tell whether the address has an account.
pub(super) async fn submit(State(state): SharedAuthState, way: Way, asked: Asked, form: Form) -> Response {
    let again = |told: Told| {
        let mut facts = facts(&state, &way, None);
        facts["email"] = json!(form.again("email"));
        super::told(&state, &asked.headers, PAGE, facts, told)
    };
    if let Some(missing) = Told::missing(&form, &["email"]) {
        return again(missing);
    }
    let (email, return_to) = (form.text("email"), way.kept());
    let asked = match way.letter {
        Letter::Verify => state.accounts.resend_verification_for(&asked.client, email, return_to).await,
        Letter::Reset => state.accounts.request_reset_for(&asked.client, email, return_to).await,
    };
    match asked {
        Ok(()) => {
            let more = [(LETTER, way.letter.name()), (NOTICE, SENT)];
            redirect("asked", &address_of_check_mail(page_url(&state, PAGE, &way, &more), email))
        }
        Err(error) => again(Told::of(error, "password")),
    }
}

fn facts(state: &AuthState, way: &Way, visitor: Option<&Visitor>) -> Value {
    json!({
        "letter": way.letter.name(),
        "sent": way.notice == Some(SENT),
        "person": visitor.map(|visitor| &visitor.email),
        "has_mail": state.accounts.has_mail(),
        "sign_in_url": page_url(state, PageName::SignIn, way, &[]),
        "other_url": match way.letter {
            Letter::Verify if may_register(state) => json!(page_url(state, PageName::Register, way, &[])),
            Letter::Verify => Value::Null,
            Letter::Reset => json!(page_url(state, PageName::Forgot, way, &[])),
        },
        "return_host": return_host(state, way),
    })
}

//! Waiting for a letter: what to do with it, and asking for it again.
//!
//! The address that the letter goes to is in the fragment of this page's address, from where the script puts it into the
//! form: it is in no log and no referrer. Without script it is typed once more.
//!
//! While it waits, the page asks again by itself, and says when the link was used: in another window of this browser, which
//! is signed in then, or elsewhere. It has no form meanwhile, in which something that was typed would be lost.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::{Value, json};

use super::super::caller::Asked;
use super::super::registration;
use super::super::state::{AuthState, SharedAuthState};
use super::AtHome;
use super::Form;
use super::Owner;
use super::Told;
use super::session::visitor;
use super::way::{LETTER, Letter, SINCE, Way};
use super::{address_of_check_mail, may_register, page_url, redirect, return_host, shown};
use palisade_core::domain::page::PageName;
use palisade_core::domain::time::UnixTime;

const PAGE: PageName = PageName::CheckMail;
/// Says that the letter was asked for again.
const SENT: &str = "sent";
/// How often the page asks again while it waits, in seconds (`Refresh`, HTML Standard §7.4.6).
const REFRESH: u64 = 15;
/// For how long.
const WAIT: Duration = Duration::from_secs(3600);

pub(super) async fn show(State(state): SharedAuthState, _: AtHome, way: Way, asked: Asked) -> Response {
    // The link may have been opened in another window of this browser.
    let visitor = visitor(&state, &asked).await;
    let mut facts = facts(&state, &way, visitor.as_ref());
    // Or on another device.
    let is_verified = visitor.is_none() && way.letter == Letter::Verify && {
        let cookie = registration::cookie_of(&state, &asked.headers).unwrap_or_default();
        state.accounts.was_verified(&state.accounts.read_binding(cookie)).await
    };
    let waits = visitor.is_none()
        && !is_verified
        && state.accounts.has_mail()
        && is_recent(&way, state.accounts.now());
    facts["verified"] = json!(is_verified);
    if waits {
        facts["again_url"] = json!(page_url(&state, PAGE, &way, &[(LETTER, way.letter.name())]));
    }
    let mut response = shown(&state, &asked.headers, PAGE, facts);
    if waits {
        // With an address, and that without a fragment: to its own address with one, a browser only scrolls.
        let since = way.since.map_or(0, |since| since.0).to_string();
        let same = page_url(&state, PAGE, &way, &[(LETTER, way.letter.name()), (SINCE, &since)]);
        if let Ok(refresh) = HeaderValue::from_str(&format!("{REFRESH}; url={same}")) {
            response.headers_mut().insert(header::REFRESH, refresh);
        }
    }
    response
}

/// Whether the wait began within [`WAIT`]. The address may say anything: at most that is one hour of the page.
fn is_recent(way: &Way, now: UnixTime) -> bool {
    way.since.is_some_and(|since| since <= now && now.0 - since.0 < WAIT.as_secs())
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
        Ok(()) => redirect("asked", &address_of_check_mail(&state, &way, way.letter, Some(SENT), email)),
        Err(error) => again(Told::of(error, "password")),
    }
}

fn facts(state: &AuthState, way: &Way, visitor: Option<&Owner>) -> Value {
    json!({
        "letter": way.letter.name(),
        "sent": way.notice == Some(SENT),
        "person": visitor.map(|visitor| &visitor.called),
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

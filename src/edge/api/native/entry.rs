//! The pages by which people get in: sign-in, registration, the wait for a letter, verification, a forgotten and a new
//! password. One file a page.
//!
//! They are rendered here and work without script. A form posts to its own page; after success the answer is a redirect
//! (303), otherwise it is the form again, with what was typed but for passwords. There is no token against CSRF that
//! could go stale in one of many tabs: [`Form`] is read only from a page of the same origin.
//!
//! Each page takes the place to return to along (`return_to`). A mailed link keeps it in its record, so that it leads
//! there from any browser. The token of a link is in the fragment of its address and in forms, never in a path or query.

mod check_mail;
mod forgot;
mod register;
mod reset;
mod session;
mod sign_in;
#[cfg(test)]
mod tests;
mod verify;
mod way;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};

use super::page_forms::{AtHome, Form, Owner, Told, redirect, shown, told};
use super::state::AuthState;
use palisade_core::domain::account::Registration;
use palisade_core::domain::browser::BrowserSettings;
use palisade_core::domain::page::PageName;
use palisade_core::domain::sign_in_url::NOTICE;
use way::{LETTER, Letter, SINCE, Way};

/// The pages, to be nested under the prefix of the native endpoints. Without sessions in cookies only those of mailed
/// links, which then end where they are.
pub(super) fn router(settings: &BrowserSettings) -> Router<Arc<AuthState>> {
    let links = Router::new()
        .route("/pages/verify", get(verify::show).post(verify::submit))
        .route("/pages/reset", get(reset::show).post(reset::submit));
    if !settings.enabled {
        return links;
    }
    links
        .route("/pages/sign-in", get(sign_in::show).post(sign_in::submit))
        .route("/pages/register", get(register::show).post(register::submit))
        .route("/pages/check-mail", get(check_mail::show).post(check_mail::submit))
        .route("/pages/forgot", get(forgot::show).post(forgot::submit))
}

/// Where this page is, with the place to return to and what else it is to know.
fn page_url(state: &AuthState, page: PageName, way: &Way, more: &[(&str, &str)]) -> String {
    way.url(&state.pages.url(page), more)
}

/// Whether people may make accounts for themselves here. The address has to be verified by a letter.
fn may_register(state: &AuthState) -> bool {
    state.accounts.registration() == Registration::Open && state.accounts.has_mail()
}

/// The host that the person goes on to, when it is not that of the page.
fn return_host(state: &AuthState, way: &Way) -> Value {
    let origin = way.target.as_ref().map(palisade_core::domain::return_to::ReturnTarget::origin);
    origin.filter(|origin| **origin != state.browser.public).map_or(Value::Null, |origin| json!(origin.host))
}

/// What a new password has to be: the name of the policy, and the fewest characters.
fn rules(state: &AuthState) -> Value {
    let rules = state.accounts.password_requirements();
    json!({"policy": rules.policy, "min": rules.min_length})
}

/// The address of the page that waits for `letter` to `email`, which is in the fragment.
fn address_of_check_mail(
    state: &AuthState,
    way: &Way,
    letter: Letter,
    notice: Option<&str>,
    email: &str,
) -> String {
    let since = state.accounts.now().0.to_string();
    let mut more = vec![(LETTER, letter.name())];
    more.extend(notice.map(|notice| (NOTICE, notice)));
    more.push((SINCE, &since));
    let url = page_url(state, PageName::CheckMail, way, &more);
    let email: String = form_urlencoded::byte_serialize(email.as_bytes()).collect();
    format!("{url}#email={email}")
}

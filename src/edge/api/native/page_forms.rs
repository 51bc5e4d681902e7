//! What all pages for people share: how one is answered, whose session the browser has, and the forms that pages post.
//!
//! A form posts to its own page; after success the answer is a redirect (303), otherwise it is the form again, with what
//! was typed but for passwords.

mod at_home;
mod form;
mod told;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::super::failure::internal;
use super::super::reply::written;
use super::caller::Asked;
use super::session_cookies;
use super::state::AuthState;
use palisade_core::domain::page::PageName;
use palisade_core::domain::redirect::{Location, Redirect};
use palisade_core::domain::session::SessionId;
use palisade_core::ports::{CookieFault, PageRequest};
use palisade_core::service::caller::Person;

pub(super) use at_home::{AtHome, wrong_host};
pub(super) use form::Form;
pub(super) use told::Told;

/// Who is signed in in this browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) person: Person,
    pub(super) session: SessionId,
    /// The address, or else the user name.
    pub(super) called: String,
}

/// Who is signed in by the cookies of the request; `None` without a session that counts.
///
/// # Errors
/// [`CookieFault::Store`] or [`CookieFault::TooMany`]: that it cannot be read does not mean that there is none.
pub(super) async fn signed_in(state: &AuthState, asked: &Asked) -> Result<Option<Owner>, CookieFault> {
    let found = match session_cookies::session(state, asked).await {
        Ok(found) => found,
        Err(CookieFault::Forged | CookieFault::Over) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let Some(session) = session_cookies::still_good(state, found)? else { return Ok(None) };
    let identity = &session.verified.identity;
    let Some(person) = Person::of(identity, &state.issuer) else { return Ok(None) };
    let Some(session) = person.session else { return Ok(None) };
    Ok(Some(Owner { person, session, called: identity.called().to_owned() }))
}

/// Where this page of ours is, whatever page an operator has in its place.
pub(super) fn url(state: &AuthState, page: PageName) -> String {
    format!("{}{}/pages/{}", state.public_url, state.prefix, page.name())
}

/// A page with these facts.
pub(super) fn shown(state: &AuthState, headers: &HeaderMap, page: PageName, facts: Value) -> Response {
    answer(state, headers, page, 200, "page", &facts)
}

/// The page again, with what is wrong with what was sent.
pub(super) fn told(
    state: &AuthState,
    headers: &HeaderMap,
    page: PageName,
    mut facts: Value,
    told: Told,
) -> Response {
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

pub(super) fn answer(
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
pub(super) fn redirect(code: &'static str, to: &str) -> Response {
    match Location::new(to) {
        Ok(to) => written(&Redirect { code, to, cookies: Vec::new() }.into(), String::new()),
        // Always a place: addresses of our pages, and targets that were read as such.
        Err(_) => internal().into_response(),
    }
}

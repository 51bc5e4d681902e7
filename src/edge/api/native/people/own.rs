//! What the pages of people who are signed in share: the session, and how it ends.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::super::super::failure::Failure;
use super::super::caller::Asked;
use super::super::page_forms::signed_in;
use super::super::session_cookies;
use super::super::state::AuthState;
use super::{Owner, answer, redirect, url, wrong_host};
use crate::http_fields::Fields;
use palisade_core::domain::carry::{self, NOT_KEPT, NotKept};
use palisade_core::domain::page::PageName;
use palisade_core::domain::sign_in_url::{NOTICE, RETURN_TO, SignInUrl};
use palisade_core::ports::CookieFault;
use palisade_core::service::accounts::AccountError;

/// Who is signed in; `None` without a session. A token in `Authorization` says nothing: these are pages.
///
/// # Errors
/// A page that says so: it is the wrong host, on which no session counts, or the session cannot be read. That it cannot
/// be read does not mean that there is none.
pub(super) async fn owner(state: &AuthState, asked: &Asked) -> Result<Option<Owner>, Response> {
    if !asked.is_at_home(state) {
        return Err(wrong_host(state, asked, &format!("{}/", state.public_url)));
    }
    signed_in(state, asked).await.map_err(|fault| match fault {
        CookieFault::TooMany(many) => failed(state, &asked.headers, AccountError::TooMany(many).into()),
        CookieFault::Store(error) => failed(state, &asked.headers, error.into()),
        // There is none, by the contract.
        CookieFault::Forged | CookieFault::Over => to_sign_in(state, PageName::Account, None),
    })
}

/// To the sign-in page, which returns to this page of ours.
pub(super) fn to_sign_in(state: &AuthState, page: PageName, notice: Option<&str>) -> Response {
    let url = SignInUrl::of(&state.pages.url(PageName::SignIn)).with(RETURN_TO, &url(state, page));
    let url = notice.into_iter().fold(url, |url, notice| url.with(NOTICE, notice));
    redirect("sign_in", &url.into_string())
}

/// What the mark of a page's address asks for ([`palisade_core::service::carry::SessionCarrier::mark`]); `None` without a
/// mark that counts.
///
/// A browser that was sent here right after a sign-in and has no session does not keep the cookie: it gets the page that
/// says why, since the sign-in would send it back for ever. With a session the mark is taken out of the address.
pub(super) fn turned(
    state: &AuthState,
    asked: &Asked,
    page: PageName,
    query: &str,
    has_session: bool,
) -> Option<Response> {
    let (rest, _) = carry::split_mark(query)?;
    let url = url(state, page);
    if has_session {
        return Some(redirect(
            "signed_in",
            &rest.map_or_else(|| url.clone(), |rest| format!("{url}?{rest}")),
        ));
    }
    let turn = state.carrier.turn(&state.browser.public.host, Some(query))?;
    let cause = NotKept::of(turn, carry::is_cleartext(&state.browser, &Fields(&asked.headers)))?;
    Some(answer(state, &asked.headers, PageName::Error, 400, NOT_KEPT, &cause.facts(Some(&url))))
}

/// Makes the browser forget that there was a session, and what its cache holds of it (Clear Site Data, §3.1).
pub(super) fn forgotten(state: &AuthState, mut response: Response) -> Response {
    match session_cookies::end(state, &mut response) {
        Ok(()) => response,
        Err(failure) => failure.into_response(),
    }
}

/// Whether the page was opened by one of our own pages, as far as the browser says. What an address says of what was done
/// counts only then: a link of an attacker must not tell a person that their password was changed.
pub(super) fn is_from_us(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    sites.all(|site| site.as_bytes() == b"same-origin")
}

/// What went wrong, as a page.
pub(super) fn failed(state: &AuthState, headers: &HeaderMap, failure: Failure) -> Response {
    let (status, code, wait) = (failure.status(), failure.code(), failure.retry_after());
    let kind = match status {
        404 => "missing",
        429 => "limited",
        500.. => "unavailable",
        _ => "other",
    };
    let mut response =
        answer(state, headers, PageName::Error, status, code, &json!({"kind": kind, "wait": wait}));
    if let Some(wait) = wait {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    }
    response
}

#[cfg(test)]
mod tests;

//! The cookie by which a browser shows that it sent a registration.
//!
//! It is set for pages of this site only, against CSRF: a form of another site could register the address of its
//! visitor with a password of its own, and the visitor's browser must not vouch for that. Whether it is set, and what
//! it looks like, follows from the request alone, never from whether the address has an account.

use axum::http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};

use super::super::failure::Failure;
use super::cookies;
use super::state::AuthState;
use palisade_core::domain::binding::BINDING_LIFE;
use palisade_core::domain::credential::REGISTRATION_COOKIE;

/// Names a form, so that one which is sent twice is one registration (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest id of a form, in bytes.
const MAX_FORM_ID: usize = 255;

/// The cookie of registrations that the request has.
pub(super) fn cookie_of<'h>(state: &AuthState, headers: &'h HeaderMap) -> Option<&'h str> {
    cookies::only(headers, &cookies::name(state, REGISTRATION_COOKIE))
}

/// `Set-Cookie` for the browser that sent a registration.
///
/// # Errors
/// As [`cookies::set`].
pub(super) fn set_cookie(state: &AuthState, value: &SecretString) -> Result<HeaderValue, Failure> {
    // The page that needs it is ours, so no other site ever has to send it.
    let attributes = cookies::Attributes {
        below: "",
        max_age: BINDING_LIFE.as_secs(),
        same_site: cookies::SameSite::Strict,
    };
    let name = cookies::name(state, REGISTRATION_COOKIE);
    cookies::set(state, &name, value.expose_secret(), attributes)
}

/// Whether a page of this site sent the request. Browsers say so, and no page can change it: `Sec-Fetch-Site` (Fetch
/// Metadata), or else `Origin` (RFC 6454 §7). What says neither is no browser, and needs no cookie.
pub(super) fn is_of_this_site(state: &AuthState, headers: &HeaderMap) -> bool {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next().map(|value| value.to_str().unwrap_or_default());
        if values.next().is_some() { Some("") } else { first }
    };
    let (site, origin) = (only("sec-fetch-site"), only(header::ORIGIN.as_str()));
    // Pages that the operator lets act as ours.
    if origin.is_some_and(|origin| state.cors.trusts(origin.as_bytes())) {
        return true;
    }
    match site {
        Some(site) => site == "same-origin",
        None => origin == Some(state.public_url.as_str()),
    }
}

/// The id of the form that was sent: that in the body, or else the request's `Idempotency-Key`.
///
/// # Errors
/// It is too long, or there are two.
pub(super) fn form_id(headers: &HeaderMap, in_body: Option<String>) -> Result<Option<String>, Failure> {
    let wrong = || {
        let want =
            "an id of a form (`form_id` or `Idempotency-Key`) is one text of 1 to 255 visible characters";
        Failure::new(422, "invalid_request", want)
    };
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = keys.next().map(|key| key.to_str().map(str::to_owned).map_err(|_| wrong())).transpose()?;
    let id = match (in_body, key, keys.next()) {
        (Some(id), None, None) => id,
        (None, Some(id), None) => id,
        (None, None, None) => return Ok(None),
        _ => return Err(wrong()),
    };
    let is_good =
        (1..=MAX_FORM_ID).contains(&id.len()) && id.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_good { Ok(Some(id)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests;

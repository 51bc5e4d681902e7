//! The session cookie at the native endpoints: which of a request counts, and how it is set and taken back, by the rules
//! of [`palisade_core::domain::session_cookies`].
//!
//! It counts on the host of `public_url` only, or script in one app would become its visitor everywhere.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::super::failure::{Failure, internal};
use super::caller::Asked;
use super::state::AuthState;
use crate::http_fields;
use palisade_core::domain::account::UserId;
use palisade_core::domain::browser::{BrowserSettings, CookiePlace};
use palisade_core::domain::redirect::SetCookie;
use palisade_core::domain::reply::Field;
use palisade_core::domain::session::SessionId;
use palisade_core::domain::session_cookies::{self as rules, SetBy};
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{CookieFault, CookieSession, StoreError};
use palisade_core::service::browser::IssuedCookie;
use palisade_core::service::caller::{Client, Person};

/// A session cookie of a request that we made for here.
pub(super) struct Ours {
    set_by: SetBy,
    pub(super) place: CookiePlace,
    pub(super) value: String,
}

/// Where a cookie counts that a sign-in sets here.
pub(super) fn place(state: &AuthState) -> CookiePlace {
    state.browser.place(&state.browser.public.host)
}

/// The `Cookie` fields of a request as one line (RFC 9113 §8.2.3). One that is not visible ASCII holds none of ours.
pub(super) fn line(headers: &HeaderMap) -> String {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.collect::<Vec<_>>().join("; ")
}

/// The session cookies of the request that we made for here, the kind that wins first. Reads nothing. None on another
/// host than that of `public_url`.
pub(super) fn ours(state: &AuthState, asked: &Asked) -> Vec<Ours> {
    if !state.browser.enabled || !asked.is_at_home(state) {
        return Vec::new();
    }
    made_for(state, &state.browser, &state.browser.public.host, &asked.headers)
}

/// The session cookies of a request to `host` that we made for there, the kind that wins first. Reads nothing.
fn made_for(state: &AuthState, settings: &BrowserSettings, host: &str, headers: &HeaderMap) -> Vec<Ours> {
    let line = line(headers);
    let mut found = Vec::new();
    for kind in rules::kinds(settings, host) {
        for value in rules::values(&line, &kind) {
            if state.accounts.is_session_cookie(value, &kind.place) {
                let (place, value) = (kind.place.clone(), value.to_owned());
                found.push(Ours { set_by: kind.set_by, place, value });
            }
        }
    }
    found
}

/// Whether the request has a cookie of the name of a session cookie. Such a cookie may be of any client, so it is good for the
/// choice of a refusal only.
pub(super) fn is_named(state: &AuthState, asked: &Asked) -> bool {
    let line = line(&asked.headers);
    let kinds = rules::kinds(&state.browser, &state.browser.public.host);
    state.browser.enabled && kinds.iter().any(|kind| !rules::values(&line, kind).is_empty())
}

/// The cookie whose session a sign-in goes over; `place` is where the new one counts.
pub(super) fn over(state: &AuthState, asked: &Asked) -> Option<String> {
    let here = place(state);
    ours(state, asked).into_iter().find(|cookie| cookie.place == here).map(|cookie| cookie.value)
}

/// What every way in ends with: the former sessions of this browser end, and the cookies of the new one are set on its
/// answer. `cookie` is the one of [`place`].
///
/// # Errors
/// [`Failure`] when the store does not answer.
pub(super) async fn begin(
    state: &AuthState,
    asked: &Asked,
    response: &mut Response,
    of: (UserId, SessionId),
    cookie: &IssuedCookie,
) -> Result<(), Failure> {
    end_others(state, asked, of.1).await?;
    set(state, &asked.headers, response, of, cookie).await
}

/// Ends the sessions of the cookies that a sign-in did not go over, because they count at another place than the new one:
/// a `__Host-` cookie beside one of a domain. A former session of this browser must not go on beside the new one.
///
/// # Errors
/// [`Failure`] when the store does not answer.
async fn end_others(state: &AuthState, asked: &Asked, new: SessionId) -> Result<(), Failure> {
    let here = place(state);
    for cookie in ours(state, asked).into_iter().filter(|cookie| cookie.place != here) {
        let found = state.accounts.cookie_session(&cookie.value, &cookie.place, asked.client.address).await;
        match found {
            Ok(former) => {
                let person = Person::of(&former.verified.identity, &state.issuer);
                if let Some(Person { user, session: Some(session) }) = person
                    && session != new
                {
                    state.accounts.end_browser_session(&asked.client, user, session).await?;
                }
            }
            Err(CookieFault::Store(error)) => return Err(error.into()),
            Err(CookieFault::Forged | CookieFault::Over | CookieFault::TooMany(_)) => {}
        }
    }
    Ok(())
}

/// The session that the request's cookies show ([`rules::counting`]).
///
/// # Errors
/// [`CookieFault`], when there was a cookie of ours and none is good.
pub(super) async fn session(state: &AuthState, asked: &Asked) -> Result<Option<CookieSession>, CookieFault> {
    counting(state, ours(state, asked), &asked.client).await
}

/// The session that the cookies of a request to `host` show.
///
/// # Errors
/// As [`session`].
pub(super) async fn session_at(
    state: &AuthState,
    settings: &BrowserSettings,
    host: &str,
    headers: &HeaderMap,
    client: &Client,
) -> Result<Option<CookieSession>, CookieFault> {
    counting(state, made_for(state, settings, host, headers), client).await
}

/// The session that was found, unless a revocation came in between; `None` where it is over, whatever the reason.
///
/// # Errors
/// [`Failure`] when the store does not answer.
pub(super) fn shown(
    state: &AuthState,
    found: Result<Option<CookieSession>, CookieFault>,
) -> Result<Option<CookieSession>, Failure> {
    match found.and_then(|session| still_good(state, session)) {
        Ok(session) => Ok(session),
        Err(CookieFault::Forged | CookieFault::Over | CookieFault::TooMany(_)) => Ok(None),
        Err(CookieFault::Store(error)) => Err(error.into()),
    }
}

/// The session that was read just now, unless it was revoked since.
///
/// # Errors
/// [`CookieFault::Store`]: whether it was cannot be told now.
pub(super) fn still_good(
    state: &AuthState,
    session: Option<CookieSession>,
) -> Result<Option<CookieSession>, CookieFault> {
    let Some(session) = session else { return Ok(None) };
    let authenticator = (state.authenticator)();
    match authenticator.refuse_revoked(&session.verified, || authenticator.fail) {
        Ok(()) => Ok(Some(session)),
        Err(Refusal::Stale | Refusal::NotReady) => {
            let why = "it is not known at the moment which sessions are revoked".to_owned();
            Err(CookieFault::Store(StoreError::Unavailable(why)))
        }
        Err(_) => Ok(None),
    }
}

async fn counting(
    state: &AuthState,
    cookies: Vec<Ours>,
    client: &Client,
) -> Result<Option<CookieSession>, CookieFault> {
    let (mut good, mut fault) = (Vec::new(), None);
    for cookie in cookies {
        match state.accounts.cookie_session(&cookie.value, &cookie.place, client.address).await {
            Ok(session) => good.push((cookie.set_by, session)),
            Err(error) => fault = Some(error),
        }
    }
    let name = |session: &CookieSession| session.verified.identity.session.clone();
    let counting = rules::counting(&good, name).map(std::ptr::from_ref);
    let counts = |(_, session): &(SetBy, CookieSession)| Some(std::ptr::from_ref(session)) == counting;
    if let Some(at) = good.iter().position(counts) {
        return Ok(Some(good.swap_remove(at).1));
    }
    match fault {
        // Good ones of different sessions: a store that did not answer for another says nothing more.
        Some(fault) if good.is_empty() => Err(fault),
        _ => Ok(None),
    }
}

/// Sets the cookies of a session on the host of `public_url` ([`rules::to_set`]); `cookie` is the one of [`place`].
///
/// # Errors
/// [`Failure`] when the store does not answer.
pub(super) async fn set(
    state: &AuthState,
    headers: &HeaderMap,
    response: &mut Response,
    (user, session): (UserId, SessionId),
    cookie: &IssuedCookie,
) -> Result<(), Failure> {
    let here = place(state);
    for kind in rules::to_set(&state.browser, &state.browser.public.host, &line(headers)) {
        let issued = if kind.place == here {
            cookie.clone()
        } else {
            match state.accounts.cookie_at(user, session, &kind.place).await {
                Ok(issued) => issued,
                Err(CookieFault::Store(error)) => return Err(error.into()),
                // It ended just now.
                Err(_) => continue,
            }
        };
        let max_age = issued.max_age.map(|age| age.as_secs());
        let cookie = rules::set(&state.browser, &kind, &issued.value, max_age).map_err(|_| internal())?;
        append(response, &cookie)?;
    }
    Ok(())
}

/// Makes the browser forget every session cookie that it can have here.
///
/// # Errors
/// As [`append`].
pub(super) fn forget(state: &AuthState, response: &mut Response) -> Result<(), Failure> {
    forget_at(&state.browser, &state.browser.public.host, response)
}

fn forget_at(settings: &BrowserSettings, host: &str, response: &mut Response) -> Result<(), Failure> {
    rules::forget(settings, host).iter().try_for_each(|cookie| append(response, cookie))
}

/// Makes the browser forget that there was a session: its cookies, and what its cache holds of the person (Clear Site
/// Data, §3.1).
///
/// # Errors
/// As [`append`].
pub(super) fn end(state: &AuthState, response: &mut Response) -> Result<(), Failure> {
    end_at(&state.browser, &state.browser.public.host, response)
}

/// The same on `host`.
///
/// # Errors
/// As [`append`].
pub(super) fn end_at(settings: &BrowserSettings, host: &str, response: &mut Response) -> Result<(), Failure> {
    forget_at(settings, host, response)?;
    response.headers_mut().insert("clear-site-data", HeaderValue::from_static("\"cache\""));
    Ok(())
}

/// Sets a cookie on an answer.
///
/// # Errors
/// It cannot stand in a header field. Ours always can.
pub(super) fn append(response: &mut Response, cookie: &SetCookie) -> Result<(), Failure> {
    let field = Field { name: "set-cookie", value: cookie.expose().into(), is_secret: true };
    let value = http_fields::value(&field).map_err(|_| internal())?;
    response.headers_mut().append(header::SET_COOKIE, value);
    Ok(())
}

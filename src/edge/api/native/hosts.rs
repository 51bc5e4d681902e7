//! `/.palisade/`: what a session cookie opens on the hosts of apps, and the step by which a host gets its own.
//!
//! Script of an app runs on these hosts, so a cookie opens no native endpoint there: script in one app must not become
//! its visitor in another. It learns who is signed in, signs out, and gets a short access token for this host's routes.
//!
//! `carry` is the last step of a sign-in that this host asked for ([`palisade_core::service::carry`]): it takes the
//! single-use code, and only in the browser that has the nonce (login CSRF), sets the cookie of this host, and sends the
//! browser on. It is a navigation from another site by its nature, so the nonce is its guard, not the same-origin rule.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use super::super::body::{answer, done};
use super::super::failure::{Failure, internal, method_not_allowed, not_found};
use super::super::reply::written;
use super::caller::By;
use super::cookies;
use super::page_forms;
use super::schema::SessionToken;
use super::session::state_of;
use super::state::{Answered, AuthState, SharedAuthState};
use super::{same_origin, session_cookies};
use crate::http_fields::Fields;
use palisade_core::domain::account::UserId;
use palisade_core::domain::answer;
use palisade_core::domain::browser::{BrowserSettings, NamedOrigin};
use palisade_core::domain::carry::{NOT_KEPT, NotKept, nonce_cookie};
use palisade_core::domain::navigation::OF_SPECULATION;
use palisade_core::domain::page::PageName;
use palisade_core::domain::redirect::Redirect;
use palisade_core::domain::request::WebOrigin;
use palisade_core::domain::return_to::{BESIDE_APPS, ReturnTarget};
use palisade_core::domain::same_origin::{Sender, sender};
use palisade_core::domain::session::SessionId;
use palisade_core::domain::session_cookies as rules;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{CookieFault, CookieSession};
use palisade_core::service::caller::{AskedHost, Client, Person};
use palisade_core::service::carry::{Carried, CarryFault, CarryRefused};

/// What is ours on every host that the configuration names.
pub(super) fn router() -> Router<Arc<AuthState>> {
    let endpoints = Router::new()
        .route("/carry", get(carry))
        .route("/session", get(show))
        .route("/sign-out", post(sign_out))
        .route("/token", post(token))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    Router::new().nest(BESIDE_APPS, endpoints)
}

/// Where a browser goes that has this session on the host of `public_url`: on to `target`, and where another host asked for
/// the sign-in with `parameter`, by the code that brings the session there.
///
/// # Errors
/// The store could not take the code.
pub(super) async fn leave(
    state: &AuthState,
    user: UserId,
    session: SessionId,
    target: &ReturnTarget,
    parameter: Option<&str>,
) -> Result<Redirect, Failure> {
    let settings = (state.hosts)();
    // A crafted link would end the session right after the sign-in, which would look broken.
    let is_sign_out = *target.origin() == settings.public
        && target.path().split(['?', '#']).next() == Some(&*format!("{}/pages/sign-out", state.prefix));
    let home = ReturnTarget::home(&settings).filter(|_| is_sign_out);
    let to = state.carrier.leave(user, session, home.as_ref().unwrap_or(target), parameter).await?;
    Ok(Redirect { code: "signed_in", to, cookies: Vec::new() })
}

/// A session that a cookie of the request shows, and whose it is.
struct Shown {
    person: Person,
    session: CookieSession,
}

/// Takes a code, sets this host's session cookie, and sends the browser on.
async fn carry(
    State(state): SharedAuthState,
    By(client): By,
    Extension(AskedHost(host)): Extension<AskedHost>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let settings = (state.hosts)();
    // What only looks, or looks ahead, uses no code up: a browser that goes there says so, or says nothing.
    if method != Method::GET || !may_be_opened(&headers) {
        let why = "this step of a sign-in is for a browser that opens it";
        return Failure::new(403, "not_a_navigation", why).into_response();
    }
    let mut codes = uri.query().into_iter().flat_map(|query| query.split('&'));
    let code = codes.find_map(|pair| pair.strip_prefix("code=")).unwrap_or_default();
    let nonce = cookies::only(&headers, &nonce_cookie(&settings));
    let taken = match state.carrier.take(code, &host, nonce, &settings).await {
        Ok(taken) => taken,
        Err(error) => return Failure::from(error).into_response(),
    };
    match taken {
        Ok(carried) => match arrive(&state, &settings, &client, &host, &headers, &carried).await {
            Ok(response) => response,
            Err(failure) => failure.into_response(),
        },
        Err(refused) => not_carried(&state, &settings, &host, &headers, refused),
    }
}

/// The session has come to this host.
async fn arrive(
    state: &AuthState,
    settings: &BrowserSettings,
    client: &Client,
    host: &str,
    headers: &HeaderMap,
    carried: &Carried,
) -> Answered {
    let line = session_cookies::line(headers);
    let kind = rules::to_set(settings, host, &line).into_iter().next().ok_or_else(internal)?;
    let issued = match state.accounts.cookie_at(carried.user, carried.session, &kind.place).await {
        Ok(issued) => issued,
        Err(CookieFault::Store(error)) => return Err(error.into()),
        // It has ended since the code was made.
        Err(_) => {
            let refused = CarryRefused { fault: CarryFault::Over, target: Some(carried.target.clone()) };
            return Ok(not_carried(state, settings, host, headers, refused));
        }
    };
    let max_age = issued.max_age.map(|age| age.as_secs());
    let cookie = rules::set(settings, &kind, &issued.value, max_age).map_err(|_| internal())?;
    // Signing in over another session ends that one, also where another person's was left behind on this host.
    if let Some(before) = shown(state, settings, client, host, headers).await?
        && let Person { user, session: Some(session) } = before.person
        && session != carried.session
    {
        state.accounts.end_browser_session(client, user, session).await?;
    }
    let to = state.carrier.mark(&carried.target);
    Ok(written(&Redirect { code: "carried", to, cookies: vec![cookie] }.into(), String::new()))
}

/// The page that says why a session did not come here, with a way on. Never a redirect: it would be a loop.
fn not_carried(
    state: &AuthState,
    settings: &BrowserSettings,
    host: &str,
    headers: &HeaderMap,
    refused: CarryRefused,
) -> Response {
    let CarryRefused { fault, target } = refused;
    let root = || settings.origins_of(host).next().map(|origin| format!("{origin}/"));
    let on = target.as_ref().map(ReturnTarget::as_str).map(str::to_owned).or_else(root);
    let cause = match fault {
        CarryFault::NoNonce { was_cleartext: true } => Some(NotKept::Insecure),
        CarryFault::NoNonce { was_cleartext: false } => Some(NotKept::Blocked),
        CarryFault::Clock => Some(NotKept::Clock),
        CarryFault::NotForHere | CarryFault::Over => None,
    };
    let (code, facts) = match cause {
        Some(cause) => (NOT_KEPT, cause.facts(on.as_deref())),
        None => ("sign_in_not_carried", json!({"kind": "carry", "retry_url": on})),
    };
    page_forms::answer(state, headers, PageName::Error, 400, code, &facts)
}

/// Who is signed in at this browser on this host, and when the session ends. Is itself no use of the session.
async fn show(
    State(state): SharedAuthState,
    By(client): By,
    Extension(AskedHost(host)): Extension<AskedHost>,
    headers: HeaderMap,
) -> Answered {
    let settings = (state.hosts)();
    match shown(&state, &settings, &client, &host, &headers).await? {
        Some(shown) => Ok(answer(StatusCode::OK, &state_of(&state, &shown.session).await?)),
        None => Ok(done()),
    }
}

/// Ends the session, on every host and in every tab.
async fn sign_out(
    State(state): SharedAuthState,
    By(client): By,
    Extension(AskedHost(host)): Extension<AskedHost>,
    headers: HeaderMap,
) -> Answered {
    let settings = (state.hosts)();
    require_same_origin(&settings, &host, &headers)?;
    if let Some(shown) = shown(&state, &settings, &client, &host, &headers).await?
        && let Person { user, session: Some(session) } = shown.person
    {
        state.accounts.end_browser_session(&client, user, session).await?;
    } else {
        state.accounts.await_in_force().await?;
    }
    let mut response = done();
    session_cookies::end_at(&settings, &host, &mut response)?;
    Ok(response)
}

/// A short access token for script on this host, good for the routes of this host alone.
async fn token(
    State(state): SharedAuthState,
    By(client): By,
    Extension(AskedHost(host)): Extension<AskedHost>,
    headers: HeaderMap,
) -> Answered {
    let settings = (state.hosts)();
    require_same_origin(&settings, &host, &headers)?;
    let shown = shown(&state, &settings, &client, &host, &headers).await?;
    let person = shown.map(|shown| shown.person);
    let Some(Person { user, session: Some(session) }) = person else {
        return Err(answer::answer(&Refusal::NoToken).into());
    };
    let token = state.accounts.host_token(user, session, &host).await?;
    state.accounts.used(user, session, state.accounts.now());
    Ok(answer(StatusCode::OK, &SessionToken::from(&token)))
}

/// The session that the cookies of the request show on this host.
///
/// # Errors
/// The store does not answer.
async fn shown(
    state: &AuthState,
    settings: &BrowserSettings,
    client: &Client,
    host: &str,
    headers: &HeaderMap,
) -> Result<Option<Shown>, Failure> {
    let found = session_cookies::session_at(state, settings, host, headers, client).await;
    let Some(session) = session_cookies::shown(state, found)? else { return Ok(None) };
    let person = Person::of(&session.verified.identity, &state.issuer);
    Ok(person.map(|person| Shown { person, session }))
}

/// What a cookie authorises here is for pages of this very origin; what does not say where it comes from is refused.
///
/// # Errors
/// 403 `cross_site`.
fn require_same_origin(settings: &BrowserSettings, host: &str, headers: &HeaderMap) -> Result<(), Failure> {
    let is_own = |origin: &WebOrigin<'_>| {
        let origin = NamedOrigin::of(origin);
        settings.origins_of(host).any(|named| *named == origin)
    };
    match sender(&Fields(headers), &is_own, &|_| false) {
        Sender::SameOrigin => Ok(()),
        Sender::CrossOrigin | Sender::Unsaid => Err(same_origin::cross_site()),
    }
}

/// Whether a browser may be opening this in a tab, as far as the request says (Fetch Metadata). It can only be refused
/// by that: a code takes the nonce in any case.
fn may_be_opened(headers: &HeaderMap) -> bool {
    let says = |name: &str, good: &str| {
        headers.get_all(name).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(good.as_bytes()))
    };
    let looks_ahead = OF_SPECULATION.iter().any(|name| headers.contains_key(*name));
    says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document") && !looks_ahead
}

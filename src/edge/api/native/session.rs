//! The session of a browser, for script in pages on the host of `public_url`: who is signed in, and an access token.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::{answer, done};
use super::super::failure::Failure;
use super::caller::{Asked, CallerBy, Means};
use super::schema::{Credentials, SessionState, SessionToken};
use super::state::{Answered, AuthState, SharedAuthState};
use super::{same_origin, session_cookies};
use palisade_core::domain::page::PageName;
use palisade_core::ports::CookieSession;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::browser::SignedIn;
use palisade_core::service::caller::Person;
use palisade_core::service::sign_in::SignIn;

pub(super) fn endpoints() -> OpenApiRouter<Arc<AuthState>> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(token))
}

/// See who is signed in at this browser, and when the session ends.
///
/// Goes by the session cookie alone, and is itself no use of the session: a page may ask as often as it likes and keeps
/// nothing alive. On another host than that of the gateway's public URL the answer is `wrong_host`.
#[utoipa::path(get, path = "/session", tag = "Sign-in",
    security((), ("session" = [])),
    responses(
        (status = 200, body = SessionState, description = "Who is signed in."),
        (status = 204, description = "There is no session, or it is over."),
    ),
    extensions(("x-codes" = json!(["wrong_host"]))))]
async fn show(State(state): SharedAuthState, asked: Asked) -> Answered {
    at_home(&state, &asked)?;
    match session_cookies::shown(&state, session_cookies::session(&state, &asked).await)? {
        Some(session) => Ok(answer(StatusCode::OK, &state_of(&state, &session).await?)),
        None => Ok(done()),
    }
}

/// Get a short access token for the session of the cookie, for calls from script in this page.
///
/// It brings no refresh token: ask again before it ends. It is revoked with the session.
#[utoipa::path(post, path = "/token", tag = "Sign-in",
    security(("session" = [])),
    responses((status = 200, body = SessionToken, description = "The access token.")),
    extensions(("x-codes" = json!(["wrong_host", "invalid_request", "account_disabled", "signing_unavailable"]))))]
async fn token(State(state): SharedAuthState, asked: Asked, caller: Result<CallerBy, Failure>) -> Answered {
    at_home(&state, &asked)?;
    let CallerBy(person, means) = caller?;
    let (Means::Cookie, Some(session)) = (means, person.session) else {
        let cure = "send the session cookie: an access token brings no other one";
        return Err(Failure::new(422, "invalid_request", cure));
    };
    let token = state.accounts.session_token(person.user, session).await?;
    Ok(answer(StatusCode::OK, &SessionToken::from(&token)))
}

/// Signs in with a cookie (`POST /login` with `"session": "cookie"`).
///
/// # Errors
/// Whatever the sign-in fails with; 403 `wrong_host` or `cross_site`.
pub(super) async fn begin(state: &AuthState, asked: &Asked, body: Credentials) -> Answered {
    if !state.browser.enabled {
        return Err(Failure::new(422, "invalid_request", "this gateway keeps no sessions in cookies"));
    }
    at_home(state, asked)?;
    same_origin::require(state, &asked.headers)?;
    let (place, over) = (session_cookies::place(state), session_cookies::over(state, asked));
    let (named, Credentials { password, remember, .. }) = (body.account()?, body);
    match state
        .accounts
        .browser_login(&asked.client, &named, password, remember, &place, over.as_deref())
        .await?
    {
        SignIn::Done(signed_in) => {
            let SignedIn { user, session, cookie } = *signed_in;
            let mut response = done();
            session_cookies::begin(state, asked, &mut response, (user.id, session), &cookie).await?;
            Ok(response)
        }
        SignIn::Challenge(challenge) => match challenge {},
    }
}

/// What is told of a session.
pub(super) async fn state_of(state: &AuthState, session: &CookieSession) -> Result<SessionState, Failure> {
    let person = Person::of(&session.verified.identity, &state.issuer).ok_or(AccountError::NoAccount)?;
    let user = state.accounts.profile(person).await?;
    Ok(SessionState::new(&user, person.session, session.idle_at, session.ends_at))
}

/// Refuses a request that was sent to another host than that of `public_url`: no session cookie counts there.
///
/// # Errors
/// 403 `wrong_host`, with where to sign in.
pub(super) fn at_home(state: &AuthState, asked: &Asked) -> Result<(), Failure> {
    if asked.is_at_home(state) {
        return Ok(());
    }
    Err(wrong_host().with("sign_in", json!(state.pages.url(PageName::SignIn))))
}

/// The failure of [`at_home`], without the address.
pub(super) fn wrong_host() -> Failure {
    let why = "session cookies open these endpoints on the host of the gateway's public URL only";
    Failure::new(403, "wrong_host", why)
}

#[cfg(test)]
mod tests;

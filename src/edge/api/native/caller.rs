//! Whose request it is: what the native endpoints take from a request beside its body.
//!
//! A token counts in `Authorization` only, and by the very rules of the request path. A session cookie counts on the host
//! of `public_url` only, and where it authorises an unsafe method only for pages of the same origin ([`super::same_origin`]),
//! so no page of another site can do anything here in its visitor's name (CSRF). For script of another origin that
//! `[cors]` does not list with `credentials = true` it authorises nothing, whatever the method.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::super::account_failure::log_store;
use super::super::failure::Failure;
use super::session::at_home;
use super::state::AuthState;
use super::{same_origin, session_cookies};
use crate::http_fields::Fields;
use palisade_core::domain::answer::answer;
use palisade_core::domain::credential;
use palisade_core::domain::same_origin::is_unsafe;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{CookieFault, Verified};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::caller::{AskedHost, Client, Person};

/// Who sent the request, as far as it tells.
pub(super) struct By(pub(super) Client);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<By, Infallible> {
        Ok(By(client(parts)))
    }
}

fn client(parts: &Parts) -> Client {
    // The bridge tells it with every request; without it, the limits count it under no address.
    parts.extensions.get().cloned().unwrap_or_else(|| Client {
        address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        user_agent: None,
        request_id: String::new(),
    })
}

/// What of a request says whose it is.
pub(super) struct Asked {
    pub(super) headers: HeaderMap,
    pub(super) client: Client,
    /// `None`: not told, so no cookie counts.
    host: Option<AskedHost>,
    is_unsafe: bool,
}

impl Asked {
    /// Whether it was sent to the host of `public_url`.
    pub(super) fn is_at_home(&self, state: &AuthState) -> bool {
        self.host.as_ref().is_some_and(|AskedHost(name)| *name == state.browser.public.host)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Asked, Infallible> {
        Ok(Asked {
            headers: parts.headers.clone(),
            client: client(parts),
            host: parts.extensions.get().cloned(),
            is_unsafe: is_unsafe(parts.method.as_str(), false),
        })
    }
}

/// What shows whose the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    Token,
    Cookie,
}

/// The account that the access token or the session cookie speaks for.
pub(super) struct Caller(pub(super) Person);

impl FromRequestParts<Arc<AuthState>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AuthState>) -> Result<Caller, Failure> {
        let CallerBy(person, _) = CallerBy::from_request_parts(parts, state).await?;
        Ok(Caller(person))
    }
}

/// [`Caller`], with what showed it.
pub(super) struct CallerBy(pub(super) Person, pub(super) Means);

impl FromRequestParts<Arc<AuthState>> for CallerBy {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AuthState>) -> Result<CallerBy, Failure> {
        let Ok(asked) = Asked::from_request_parts(parts, state).await;
        match authenticated(&asked, state).await {
            Ok(Some((person, means))) => Ok(CallerBy(person, means)),
            Ok(None) => Err(AccountError::NoAccount.into()),
            Err(refusal) => Err(refused(&asked, state, &refusal)),
        }
    }
}

/// The answer to a request whose caller is not known. One that has a session cookie and no token is told that no such
/// cookie counts on the host that it was sent to.
pub(super) fn refused(asked: &Asked, state: &AuthState, refusal: &Refusal) -> Failure {
    match at_home(state, asked) {
        Err(away) if matches!(refusal, Refusal::NoToken) && session_cookies::is_named(state, asked) => away,
        _ => answer(refusal).into(),
    }
}

/// The caller that the access token or the session cookie identifies, with all that it says.
pub(super) struct Bearer(pub(super) Arc<Verified>);

impl FromRequestParts<Arc<AuthState>> for Bearer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AuthState>) -> Result<Bearer, Failure> {
        let Ok(asked) = Asked::from_request_parts(parts, state).await;
        let (verified, _) =
            verified(&asked, state).await.map_err(|refusal| refused(&asked, state, &refusal))?;
        Ok(Bearer(verified))
    }
}

/// The account of the request's token or session cookie; `None` when the token is good and speaks for none.
///
/// # Errors
/// There is none, more than one, or one that is not good; or a cookie, and the request is of another site.
pub(super) async fn authenticated(
    asked: &Asked,
    state: &AuthState,
) -> Result<Option<(Person, Means)>, Refusal> {
    let (verified, means) = verified(asked, state).await?;
    Ok(Person::of(&verified.identity, &state.issuer).map(|person| (person, means)))
}

async fn verified(asked: &Asked, state: &AuthState) -> Result<(Arc<Verified>, Means), Refusal> {
    let fields = Fields(&asked.headers);
    let token = credential::only_bearer(&fields)?;
    let has_cookie = !session_cookies::ours(state, asked).is_empty();
    let is_foreign = same_origin::is_foreign_script(state, &asked.headers);
    match token {
        // A browser adds the cookie by itself where script of another origin asks with a token and for a cookie to be set.
        Some(token) if is_foreign => Ok(((state.authenticator)().authenticate(token).await?, Means::Token)),
        // As on the request path: no rule says which of them counts.
        Some(_) if has_cookie => Err(Refusal::Credentials),
        Some(token) => Ok(((state.authenticator)().authenticate(token).await?, Means::Token)),
        None if has_cookie && is_foreign => Err(Refusal::CrossSite),
        None if has_cookie => Ok((by_cookie(asked, state).await?, Means::Cookie)),
        None => Err(Refusal::NoToken),
    }
}

/// The session of the request's cookie, which is used by that.
async fn by_cookie(asked: &Asked, state: &AuthState) -> Result<Arc<Verified>, Refusal> {
    let verified = match session_cookies::session(state, asked).await {
        Ok(Some(session)) => session.verified,
        Ok(None) | Err(CookieFault::Forged | CookieFault::Over | CookieFault::TooMany(_)) => {
            return Err(Refusal::SessionOver);
        }
        Err(CookieFault::Store(error)) => {
            log_store(&error);
            return Err(Refusal::SessionUnknown);
        }
    };
    if asked.is_unsafe && same_origin::require(state, &asked.headers).is_err() {
        return Err(Refusal::CrossSite);
    }
    // Read just now; a revocation may have come in between.
    let authenticator = (state.authenticator)();
    authenticator.refuse_revoked(&verified, || authenticator.fail).map_err(|refusal| match refusal {
        Refusal::Revoked => Refusal::SessionOver,
        other => other,
    })?;
    if let Some(Person { user, session: Some(session) }) = Person::of(&verified.identity, &state.issuer) {
        state.accounts.used(user, session, state.accounts.now());
    }
    Ok(verified)
}

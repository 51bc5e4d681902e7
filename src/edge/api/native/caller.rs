//! Whose request it is: what the native endpoints take from a request beside its body.
//!
//! A token counts in `Authorization` only, and by the very rules of the request path. Cookies say nothing about
//! that, so no page of another site can do anything here in its visitor's name (CSRF).

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::super::failure::Failure;
use super::state::AuthState;
use crate::http_fields::Fields;
use palisade_core::domain::answer::answer;
use palisade_core::domain::credential;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::Verified;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::caller::{Client, Person};

/// Who sent the request, as far as it tells.
pub(super) struct By(pub(super) Client);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<By, Infallible> {
        // The bridge tells it with every request; without it, the limits count it under no address.
        Ok(By(parts.extensions.get().cloned().unwrap_or_else(|| Client {
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
            user_agent: None,
            request_id: String::new(),
        })))
    }
}

/// The account that the access token speaks for.
pub(super) struct Caller(pub(super) Person);

impl FromRequestParts<Arc<AuthState>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AuthState>) -> Result<Caller, Failure> {
        match authenticated(&parts.headers, state).await {
            Ok(Some(person)) => Ok(Caller(person)),
            Ok(None) => Err(AccountError::NoAccount.into()),
            Err(refusal) => Err(answer(&refusal).into()),
        }
    }
}

/// The caller that the access token identifies, with all that it says.
pub(super) struct Bearer(pub(super) Arc<Verified>);

impl FromRequestParts<Arc<AuthState>> for Bearer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AuthState>) -> Result<Bearer, Failure> {
        Ok(Bearer(verified(&parts.headers, state).await.map_err(|refusal| answer(&refusal))?))
    }
}

/// The account of the token in `headers`; `None` when the token is good and speaks for none.
///
/// # Errors
/// There is no token, more than one, or one that is not good.
pub(super) async fn authenticated(headers: &HeaderMap, state: &AuthState) -> Result<Option<Person>, Refusal> {
    let verified = verified(headers, state).await?;
    Ok(Person::of(&verified.identity, &state.issuer))
}

async fn verified(headers: &HeaderMap, state: &AuthState) -> Result<Arc<Verified>, Refusal> {
    let fields = Fields(headers);
    let token = credential::only_bearer(&fields)?.ok_or(Refusal::NoToken)?;
    (state.authenticator)().authenticate(token).await
}

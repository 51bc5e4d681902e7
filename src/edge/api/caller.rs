//! Whose request it is: what the native endpoints take from a request beside its body.
//!
//! A token counts in `Authorization` only, and by the very rules of the request path. Cookies are never
//! looked at, so that no page of another site can do anything here in its visitor's name.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::account_failure::{BAD_TOKEN, NO_TOKEN};
use super::auth::AuthState;
use super::body::Failure;
use crate::domain::credential;
use crate::domain::request::Headers;
use crate::domain::verdict::Refusal;
use crate::service::accounts::{AccountError, Client, Person};

/// Where the request comes from.
pub(super) struct From(pub(super) Client);

impl<S: Send + Sync> FromRequestParts<S> for From {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<From, Infallible> {
        // The bridge tells it with every request; without it, the limits count it under no address.
        Ok(From(parts.extensions.get().cloned().unwrap_or_else(|| Client {
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
            user_agent: None,
            request_id: String::new(),
        })))
    }
}

/// The account that the access token speaks for.
pub(super) struct Caller(pub(super) Person);

impl FromRequestParts<AuthState> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &AuthState) -> Result<Caller, Failure> {
        match authenticated(&parts.headers, state).await? {
            Some(person) => Ok(Caller(person)),
            None => Err(refused(&Refusal::NoToken)),
        }
    }
}

struct Fields<'a>(&'a HeaderMap);

impl Headers for Fields<'_> {
    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        self.0.get_all(name).iter().for_each(|value| visit(value.as_bytes()));
    }
}

/// The account of the token in `headers`; `None` when there is no token.
///
/// # Errors
/// There is one, and it is not good or of no account.
pub(super) async fn authenticated(headers: &HeaderMap, state: &AuthState) -> Result<Option<Person>, Failure> {
    let fields = Fields(headers);
    let Some(token) = credential::only_bearer(&fields).map_err(|refusal| refused(&refusal))? else {
        return Ok(None);
    };
    let verified = state.authenticator.authenticate(token).await.map_err(|refusal| refused(&refusal))?;
    match Person::of(&verified.identity, &state.issuer) {
        Some(person) => Ok(Some(person)),
        None => Err(AccountError::NoAccount.into()),
    }
}

/// A token that is not good, in the words of the request path.
fn refused(refusal: &Refusal) -> Failure {
    match refusal {
        Refusal::NoToken => {
            Failure::new(401, "token_missing", "Send an access token: Authorization: Bearer …")
                .challenging(NO_TOKEN)
        }
        Refusal::Credentials => {
            Failure::new(400, "credentials_ambiguous", "Send exactly one credential, in one place.")
        }
        Refusal::NotReady => Failure::new(503, "not_ready", "The gateway is starting; try again shortly."),
        // Every other refusal that authentication has is about the token; why it is bad stays inside.
        _ => {
            let detail = "The access token is expired, revoked, malformed or not for here.";
            Failure::new(401, "invalid_token", detail).challenging(BAD_TOKEN)
        }
    }
}

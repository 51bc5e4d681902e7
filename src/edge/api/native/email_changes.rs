//! Undoing a change of address, and objecting to that. A client here need not be signed in: the link is what counts.

use std::sync::Arc;

use axum::extract::State;
use secrecy::ExposeSecret;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::{JsonBody, done};
use super::caller::By;
use super::schema::LinkToken;
use super::state::{Answered, AuthState, SharedAuthState};

pub(super) fn endpoints() -> OpenApiRouter<Arc<AuthState>> {
    OpenApiRouter::new().routes(routes!(undo)).routes(routes!(object))
}

/// Undo a change of an account's address, with the token of the link that was mailed to the old one.
///
/// The account is frozen: every session ends, the password no longer works, and connections that were made since the
/// change are ended. Both addresses are told. After a day the old address is the account's again and is mailed a link
/// that sets a new password, unless the other one objects: then an operator decides. Good for three days after the
/// change, and once.
#[utoipa::path(post, path = "/email-changes/undo", tag = "Accounts",
    request_body = LinkToken,
    responses((status = 204, description = "The change is undone, and the account is frozen.")),
    extensions(("x-codes" = json!(["invalid_link", "too_many_attempts", "conflict"]))))]
async fn undo(
    State(state): SharedAuthState,
    By(client): By,
    JsonBody(body): JsonBody<LinkToken>,
) -> Answered {
    state.accounts.undo_email_change(&client, body.token.expose_secret()).await?;
    Ok(done())
}

/// Object to the undo of a change of address, with the token of the link that was mailed to a later address.
///
/// The account stays frozen until an operator has decided which address it gets.
#[utoipa::path(post, path = "/email-changes/object", tag = "Accounts",
    request_body = LinkToken,
    responses((status = 204, description = "An operator decides.")),
    extensions(("x-codes" = json!(["invalid_link", "too_many_attempts", "conflict"]))))]
async fn object(
    State(state): SharedAuthState,
    By(client): By,
    JsonBody(body): JsonBody<LinkToken>,
) -> Answered {
    state.accounts.object_to_undo(&client, body.token.expose_secret()).await?;
    Ok(done())
}

#[cfg(test)]
mod tests;

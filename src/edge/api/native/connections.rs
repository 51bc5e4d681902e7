//! The endpoints about connections to providers, for the people whose accounts are connected and the apps
//! that act for them. Where a browser comes back from a provider is in `callback`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::{JsonBody, answer, done};
use super::super::failure::Failure;
use super::callback;
use super::caller::{Bearer, By, Caller};
use super::connection_schema::{
    BegunConnection, ConnectionList, ConnectionView, ImportedTokens, NewConnection, ProviderList, Token,
};
use super::state::{Answered, AuthState, SharedAuthState};
use palisade_core::domain::connection::ConnectionId;
use palisade_core::service::connections::{Begin, ConnectionError};

/// Where connections are begun, below the prefix.
pub(super) const BEGIN: &str = "/connections";

pub(super) fn endpoints() -> OpenApiRouter<Arc<AuthState>> {
    OpenApiRouter::new()
        .routes(routes!(providers))
        .routes(routes!(list, begin))
        .routes(routes!(show, end))
        .routes(routes!(refresh))
        .routes(routes!(token))
        .routes(routes!(import))
}

/// An id in the path; what is none names nothing.
type Id = Result<Path<ConnectionId>, PathRejection>;

fn id_of_path(id: Id) -> Result<ConnectionId, Failure> {
    id.map(|Path(id)| id).map_err(|_| ConnectionError::NotFound.into())
}

/// What can be connected.
#[utoipa::path(get, path = "/providers", tag = "Connections",
    responses((status = 200, body = ProviderList, description = "The providers that are in service.")),
    extensions(("x-codes" = json!([]))))]
async fn providers(State(state): SharedAuthState) -> Response {
    let providers = state.connections.providers().into_iter().map(Into::into).collect();
    answer(StatusCode::OK, &ProviderList { providers })
}

/// Begin a connection, or renew one.
///
/// Send the browser to `authorization_url`. The answer sets a cookie, and only the browser that has it can
/// complete the connection: call this from a page of the same site, across origins with
/// `credentials: "include"`.
#[utoipa::path(post, path = "/connections", tag = "Connections",
    request_body = NewConnection,
    security(("bearer" = []), ("session" = [])),
    responses((status = 201, body = BegunConnection, description = "It waits for consent, for ten minutes.",
        headers(("Set-Cookie" = String,
            description = "Binds the consent to the browser; absent when there is none to give.")))),
    extensions(("x-codes" = json!([
        "unknown_provider", "invalid_request", "not_found", "too_many_connections", "too_many_attempts",
        "provider_unavailable", "provider_failed", "reconnect_needed", "connection_revoked", "conflict"
    ]))))]
async fn begin(
    State(state): SharedAuthState,
    By(client): By,
    Caller(person): Caller,
    headers: HeaderMap,
    JsonBody(body): JsonBody<NewConnection>,
) -> Answered {
    let mut wanted = Begin::from(body);
    // As in the configuration, a path is one on `public_url`; what is allowed is whole URLs, word for word.
    wanted.return_to = wanted.return_to.map(|to| match to.starts_with('/') {
        true => format!("{}{to}", state.public_url),
        false => to,
    });
    let begun = state.connections.begin(&client, person, wanted).await?;
    let mut response = answer(StatusCode::CREATED, &BegunConnection::from(&begun));
    if let (Some(browser), Some(consent)) = (&begun.browser, &begun.connection.consent) {
        for cookie in callback::set_cookies(&state, &headers, consent.id, browser)? {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    Ok(response)
}

/// Your connections, oldest first.
#[utoipa::path(get, path = "/connections", tag = "Connections",
    security(("bearer" = []), ("session" = [])),
    responses((status = 200, body = ConnectionList, description = "Those that have ended among them.")),
    extensions(("x-codes" = json!([]))))]
async fn list(State(state): SharedAuthState, Caller(person): Caller) -> Answered {
    let connections = state.connections.connections(person).await?;
    let connections = connections.iter().map(ConnectionView::from).collect();
    Ok(answer(StatusCode::OK, &ConnectionList { connections }))
}

/// One of your connections.
#[utoipa::path(get, path = "/connections/{id}", tag = "Connections",
    security(("bearer" = []), ("session" = [])),
    params(("id" = String, Path, format = "uuid", description = "A connection's id.")),
    responses((status = 200, body = ConnectionView, description = "The connection.")),
    extensions(("x-codes" = json!(["not_found"]))))]
async fn show(State(state): SharedAuthState, Caller(person): Caller, id: Id) -> Answered {
    let connection = state.connections.connection(person, id_of_path(id)?).await?;
    Ok(answer(StatusCode::OK, &ConnectionView::from(&connection)))
}

/// End a connection.
///
/// The provider is told, the tokens are erased, the record stays. Ending what has ended is no failure.
#[utoipa::path(delete, path = "/connections/{id}", tag = "Connections",
    security(("bearer" = []), ("session" = [])),
    params(("id" = String, Path, format = "uuid", description = "A connection's id.")),
    responses((status = 204, description = "It has ended.")),
    extensions(("x-codes" = json!(["not_found", "conflict"]))))]
async fn end(State(state): SharedAuthState, By(client): By, Caller(person): Caller, id: Id) -> Answered {
    state.connections.disconnect(&client, person, id_of_path(id)?).await?;
    Ok(done())
}

/// Refresh now, however fresh the access token is.
#[utoipa::path(post, path = "/connections/{id}/refresh", tag = "Connections",
    security(("bearer" = []), ("session" = [])),
    params(("id" = String, Path, format = "uuid", description = "A connection's id.")),
    responses((status = 200, body = ConnectionView, description = "The connection with its new token.")),
    extensions(("x-codes" = json!([
        "not_found", "connection_pending", "reconnect_needed", "connection_revoked", "not_refreshable",
        "too_many_attempts", "provider_unavailable", "provider_failed", "unknown_provider",
        "tokens_unreadable", "conflict", "invalid_request"
    ]))))]
async fn refresh(State(state): SharedAuthState, By(client): By, Caller(person): Caller, id: Id) -> Answered {
    let connection = state.connections.force_refresh(&client, person, id_of_path(id)?).await?;
    Ok(answer(StatusCode::OK, &ConnectionView::from(&connection)))
}

/// An access token of the provider that is good now.
///
/// It is refreshed first if it is about to end. Only for callers whose own access token has what the
/// provider's `token_access` in the configuration asks for.
#[utoipa::path(get, path = "/connections/{id}/token", tag = "Connections",
    security(("bearer" = []), ("session" = [])),
    params(("id" = String, Path, format = "uuid", description = "A connection's id.")),
    responses((status = 200, body = Token, description = "The token.")),
    extensions(("x-codes" = json!([
        "not_found", "token_access_denied", "connection_pending", "reconnect_needed", "connection_revoked",
        "too_many_attempts", "provider_unavailable", "provider_failed", "unknown_provider",
        "tokens_unreadable", "conflict", "invalid_request"
    ]))))]
async fn token(State(state): SharedAuthState, By(client): By, Bearer(caller): Bearer, id: Id) -> Answered {
    let token = state.connections.provider_token(&client, &caller.identity, id_of_path(id)?).await?;
    Ok(answer(StatusCode::OK, &Token::from(&token)))
}

/// Hand over tokens that the app already has. The connection is active then.
///
/// For moving to this gateway: begin the connection, and hand in what the provider granted before instead
/// of sending the user there.
#[utoipa::path(put, path = "/connections/{id}/tokens", tag = "Connections",
    request_body = ImportedTokens,
    security(("bearer" = []), ("session" = [])),
    params(("id" = String, Path, format = "uuid", description = "A connection's id.")),
    responses((status = 204, description = "They are sealed and kept.")),
    extensions(("x-codes" = json!([
        "not_found", "invalid_request", "connection_revoked", "unknown_provider", "too_many_attempts",
        "too_many_connections", "conflict"
    ]))))]
async fn import(
    State(state): SharedAuthState,
    By(client): By,
    Caller(person): Caller,
    id: Id,
    JsonBody(body): JsonBody<ImportedTokens>,
) -> Answered {
    state.connections.import_tokens(&client, person, id_of_path(id)?, body.into()).await?;
    Ok(done())
}

#[cfg(test)]
mod tests;

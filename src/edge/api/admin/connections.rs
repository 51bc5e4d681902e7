//! `/admin/v1/connections`, `/admin/v1/users/{user}/connections…` and `/admin/v1/providers`: connections as the
//! operator sees and ends them. Tokens are never shown, sealed or not.

use std::collections::BTreeMap;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::body::{answer, done};
use super::super::failure::Failure;
use super::super::schema::{AccountView, FaultView};
use super::operator::RequestId;
use super::query::{bad_query, limited};
use super::state::AdminState;
use palisade_core::domain::account::UserId;
use palisade_core::domain::connection::{Connection, ConnectionId, Status};
use palisade_core::service::connections::{ConfiguredProvider, ConnectionError};

/// How many connections are read at a time in search of those that were asked for.
const PAGE: usize = 1000;

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(of_user))
        .routes(routes!(show, end))
        .routes(routes!(refresh))
        .routes(routes!(providers))
}

/// A connection, as the operator sees it.
#[derive(Serialize, ToSchema)]
struct ConnectionEntry {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    #[schema(value_type = String, format = "uuid")]
    user: Uuid,
    provider: String,
    /// `pending`, `active`, `reconnect_needed` or `revoked`.
    status: &'static str,
    scopes_asked: Vec<String>,
    scopes_granted: Vec<String>,
    /// What the user gave when connecting, secrets left out.
    parameters: BTreeMap<String, String>,
    /// Whose account at the provider it is, where the provider says.
    #[schema(required)]
    account: Option<AccountView>,
    /// When the access token ends, where that is known.
    #[schema(required)]
    expires_at: Option<u64>,
    /// When the refresh token ends, where that is known.
    #[schema(required)]
    refresh_expires_at: Option<u64>,
    created_at: u64,
    /// When consent was last given.
    #[schema(required)]
    connected_at: Option<u64>,
    /// When tokens last came.
    #[schema(required)]
    refreshed_at: Option<u64>,
    /// When a refresh was begun that has no outcome yet.
    #[schema(required)]
    refreshing_since: Option<u64>,
    /// Refreshes that failed in a row.
    failures: u32,
    #[schema(required)]
    last_fault: Option<FaultView>,
    /// What was odd in the answer that brought the tokens and was dropped or cut, a sentence each.
    notes: Vec<String>,
    /// After a failure: not tried again before.
    #[schema(required)]
    retry_at: Option<u64>,
    /// When the worker looks at it.
    #[schema(required)]
    due_at: Option<u64>,
    /// While a consent is being given: until when.
    #[schema(required)]
    consent_expires_at: Option<u64>,
}

impl From<&Connection> for ConnectionEntry {
    fn from(connection: &Connection) -> ConnectionEntry {
        ConnectionEntry {
            id: connection.id.0,
            user: connection.user.0,
            provider: connection.provider.clone(),
            status: connection.status.word(),
            scopes_asked: connection.scopes_asked.clone(),
            scopes_granted: connection.scopes_granted.clone(),
            parameters: connection.parameters.clone(),
            account: connection.account.as_ref().map(AccountView::from),
            expires_at: connection.expires_at.map(|at| at.0),
            refresh_expires_at: connection.refresh_expires_at.map(|at| at.0),
            created_at: connection.created_at.0,
            connected_at: connection.connected_at.map(|at| at.0),
            refreshed_at: connection.refreshed_at.map(|at| at.0),
            refreshing_since: connection.attempt.as_ref().map(|attempt| attempt.started_at.0),
            failures: connection.failures,
            last_fault: connection.last_fault.as_ref().map(FaultView::from),
            notes: connection.notes.clone(),
            retry_at: connection.retry_at.map(|at| at.0),
            due_at: connection.due_at.map(|at| at.0),
            consent_expires_at: connection.consent.as_ref().map(|consent| consent.expires_at.0),
        }
    }
}

/// A page of the connections of all accounts.
#[derive(Serialize, ToSchema)]
struct ConnectionPage {
    connections: Vec<ConnectionEntry>,
    /// The `after` of the next page; null behind the last one.
    #[schema(required)]
    next: Option<String>,
}

/// The connections of one account.
#[derive(Serialize, ToSchema)]
struct UserConnections {
    connections: Vec<ConnectionEntry>,
}

/// A configured provider. What its component says of itself is null while it is not in service.
#[derive(Serialize, ToSchema)]
struct ProviderEntry {
    name: String,
    in_service: bool,
    /// Why it is not in service, or not with its newest component.
    #[schema(required)]
    fault: Option<String>,
    #[schema(required)]
    display_name: Option<String>,
    /// What is asked for unless a request names other scopes.
    #[schema(required)]
    scopes: Option<Vec<String>>,
    #[schema(required)]
    can_refresh: Option<bool>,
    #[schema(required)]
    can_revoke: Option<bool>,
    #[schema(required)]
    can_identify: Option<bool>,
}

impl From<&ConfiguredProvider> for ProviderEntry {
    fn from(provider: &ConfiguredProvider) -> ProviderEntry {
        let info = provider.info.as_ref();
        ProviderEntry {
            name: provider.name.clone(),
            in_service: info.is_some(),
            fault: provider.fault.clone(),
            display_name: info.map(|info| info.display_name.clone()),
            scopes: info.map(|info| info.scopes.clone()),
            can_refresh: info.map(|info| info.can_refresh),
            can_revoke: info.map(|info| info.can_revoke),
            can_identify: info.map(|info| info.can_identify),
        }
    }
}

/// The configured providers.
#[derive(Serialize, ToSchema)]
struct ConfiguredProviders {
    providers: Vec<ProviderEntry>,
}

/// Which connections are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// The id, the address or the user name of an account.
    user: Option<String>,
    /// `pending`, `active`, `reconnect_needed` or `revoked`.
    #[param(value_type = Option<String>)]
    status: Option<Status>,
    /// The name of a provider.
    provider: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// At most so many, up to 1000; 100 without it.
    limit: Option<usize>,
}

impl Listing {
    fn takes(&self, connection: &Connection) -> bool {
        self.status.is_none_or(|status| status == connection.status)
            && self.provider.as_ref().is_none_or(|provider| *provider == connection.provider)
    }
}

/// A place in the row of all connections: `USER.CONNECTION`.
fn place(text: &str) -> Option<(UserId, ConnectionId)> {
    let (user, connection) = text.split_once('.')?;
    Some((user.parse().ok()?, connection.parse().ok()?))
}

/// Connections of all accounts, or of those that the parameters name.
#[utoipa::path(get, path = "/admin/v1/connections", tag = "Connections", operation_id = "list_connections",
    security(("operator" = [])),
    params(Listing),
    responses((status = 200, body = ConnectionPage, description = "In the order of their accounts and ids.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username"]))))]
async fn list(
    State(state): State<AdminState>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "`user` is the id, address or user name of an account, `status` one of pending, active, reconnect_needed and \
                revoked, `provider` a name, `after` the `next` of the list before, and `limit` a whole number up \
                to 1000";
    let refused = || bad_query(want);
    let Ok(Query(listing)) = query else { return Err(refused()) };
    let limit = limited(listing.limit, want)?;
    let mut after = listing.after.as_deref().map(|text| place(text).ok_or_else(refused)).transpose()?;
    let mut found: Vec<Connection> = Vec::new();
    let mut is_end = false;
    if let Some(named) = &listing.user {
        let user = state.accounts.find_user(named).await?;
        found = state.connections.user_connections(user).await?;
        found.retain(|connection| {
            listing.takes(connection) && after.is_none_or(|after| (connection.user, connection.id) > after)
        });
        is_end = found.len() <= limit;
    }
    while listing.user.is_none() && !is_end && found.len() <= limit {
        let page = state.connections.all_connections(after, PAGE).await?;
        is_end = page.len() < PAGE;
        after = page.last().map(|connection| (connection.user, connection.id)).or(after);
        found.extend(page.into_iter().filter(|connection| listing.takes(connection)));
    }
    // There is more when more was found, or when the search stopped before the end.
    let more = found.len() > limit || !is_end;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| format!("{}.{}", last.user, last.id));
    let connections = found.iter().map(ConnectionEntry::from).collect();
    Ok(answer(StatusCode::OK, &ConnectionPage { connections, next }))
}

/// The connections of one account, oldest first.
#[utoipa::path(get, path = "/admin/v1/users/{user}/connections", tag = "Connections", operation_id = "list_user_connections",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account.")),
    responses((status = 200, body = UserConnections, description = "Those that have ended among them.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username"]))))]
async fn of_user(State(state): State<AdminState>, Path(user): Path<String>) -> Result<Response, Failure> {
    let user = state.accounts.find_user(&user).await?;
    let connections = state.connections.user_connections(user).await?;
    let connections = connections.iter().map(ConnectionEntry::from).collect();
    Ok(answer(StatusCode::OK, &UserConnections { connections }))
}

/// The account and the connection that a path names.
async fn connection_of_path(
    state: &AdminState,
    user: &str,
    id: &str,
) -> Result<(UserId, ConnectionId), Failure> {
    let user = state.accounts.find_user(user).await?;
    let id = id.parse().map_err(|_| Failure::from(ConnectionError::NotFound))?;
    Ok((user, id))
}

/// One connection.
#[utoipa::path(get, path = "/admin/v1/users/{user}/connections/{connection}", tag = "Connections", operation_id = "show_connection",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account."),
        ("connection" = String, Path, description = "The id of a connection.")),
    responses((status = 200, body = ConnectionEntry, description = "The connection.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username"]))))]
async fn show(
    State(state): State<AdminState>,
    Path((user, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let (user, id) = connection_of_path(&state, &user, &id).await?;
    let connections = state.connections.user_connections(user).await?;
    match connections.iter().find(|connection| connection.id == id) {
        Some(connection) => Ok(answer(StatusCode::OK, &ConnectionEntry::from(connection))),
        None => Err(ConnectionError::NotFound.into()),
    }
}

/// Refresh a connection now, however fresh its access token is.
#[utoipa::path(post, path = "/admin/v1/users/{user}/connections/{connection}/refresh", tag = "Connections", operation_id = "refresh_connection",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account."),
        ("connection" = String, Path, description = "The id of a connection.")),
    responses((status = 200, body = ConnectionEntry, description = "The connection with its new token.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username", "connection_pending", "reconnect_needed", "connection_revoked", "not_refreshable", "provider_unavailable", "provider_failed", "unknown_provider", "tokens_unreadable", "conflict", "invalid_request"]))))]
async fn refresh(
    State(state): State<AdminState>,
    Path((user, id)): Path<(String, String)>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let (user, id) = connection_of_path(&state, &user, &id).await?;
    let connection = state.connections.operator_refresh(&request_id, user, id).await?;
    Ok(answer(StatusCode::OK, &ConnectionEntry::from(&connection)))
}

/// End a connection: the provider is told, the tokens are erased, the record stays.
#[utoipa::path(delete, path = "/admin/v1/users/{user}/connections/{connection}", tag = "Connections", operation_id = "end_connection",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account."),
        ("connection" = String, Path, description = "The id of a connection.")),
    responses((status = 204, description = "It has ended.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username", "conflict"]))))]
async fn end(
    State(state): State<AdminState>,
    Path((user, id)): Path<(String, String)>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let (user, id) = connection_of_path(&state, &user, &id).await?;
    state.connections.operator_disconnect(&request_id, user, id).await?;
    Ok(done())
}

/// Every provider of the configuration, in service or not.
#[utoipa::path(get, path = "/admin/v1/providers", tag = "Connections", operation_id = "list_providers",
    security(("operator" = [])),
    responses((status = 200, body = ConfiguredProviders, description = "The providers.")),
    extensions(("x-codes" = json!([]))))]
async fn providers(State(state): State<AdminState>) -> Response {
    let configured = state.connections.configured_providers();
    let providers = configured.iter().map(ProviderEntry::from).collect();
    answer(StatusCode::OK, &ConfiguredProviders { providers })
}

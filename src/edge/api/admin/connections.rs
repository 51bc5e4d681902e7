//! `/admin/v1/connections`, `/admin/v1/users/{user}/connections…` and `/admin/v1/providers`: connections as the
//! operator sees and ends them. Tokens are never shown, sealed or not.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::body::answer;
use super::super::failure::Failure;
use super::operator::RequestId;
use super::state::AdminState;
use super::users::limited;
use palisade_core::domain::account::UserId;
use palisade_core::domain::connection::{Connection, ConnectionId, Status};
use palisade_core::service::connections::{ConfiguredProvider, ConnectionError};

/// How many connections are read at a time in search of those that were asked for.
const PAGE: usize = 1000;

pub(super) fn router() -> Router<AdminState> {
    Router::new()
        .route("/admin/v1/connections", get(list))
        .route("/admin/v1/users/{user}/connections", get(of_user))
        .route("/admin/v1/users/{user}/connections/{connection}", get(show).delete(end))
        .route("/admin/v1/users/{user}/connections/{connection}/refresh", post(refresh))
        .route("/admin/v1/providers", get(providers))
}

/// A connection as the operator sees it. Times are seconds since 1970.
fn shown(connection: &Connection) -> Value {
    json!({
        "id": connection.id,
        "user": connection.user,
        "provider": connection.provider,
        "status": connection.status,
        "scopes_asked": connection.scopes_asked,
        "scopes_granted": connection.scopes_granted,
        "parameters": connection.parameters,
        "account": connection.account,
        "expires_at": connection.expires_at,
        "refresh_expires_at": connection.refresh_expires_at,
        "created_at": connection.created_at,
        "connected_at": connection.connected_at,
        "refreshed_at": connection.refreshed_at,
        "refreshing_since": connection.attempt.as_ref().map(|attempt| attempt.started_at),
        "failures": connection.failures,
        "last_fault": connection.last_fault,
        "notes": connection.notes,
        "retry_at": connection.retry_at,
        "due_at": connection.due_at,
        "consent_expires_at": connection.consent.as_ref().map(|consent| consent.expires_at),
    })
}

/// Which connections are asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    user: Option<String>,
    status: Option<Status>,
    provider: Option<String>,
    after: Option<String>,
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

async fn list(
    State(state): State<AdminState>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "`user` is the id or address of an account, `status` one of pending, active, reconnect_needed and \
                revoked, `provider` a name, `after` the `next` of the list before, and `limit` a whole number up \
                to 1000";
    let refused = || Failure::new(400, "invalid_request", want);
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
    let connections: Vec<Value> = found.iter().map(shown).collect();
    Ok(answer(StatusCode::OK, &json!({"connections": connections, "next": next})))
}

async fn of_user(State(state): State<AdminState>, Path(user): Path<String>) -> Result<Response, Failure> {
    let user = state.accounts.find_user(&user).await?;
    let connections = state.connections.user_connections(user).await?;
    let connections: Vec<Value> = connections.iter().map(shown).collect();
    Ok(answer(StatusCode::OK, &json!({"connections": connections})))
}

/// The account and the connection that a path names.
async fn named(state: &AdminState, user: &str, id: &str) -> Result<(UserId, ConnectionId), Failure> {
    let user = state.accounts.find_user(user).await?;
    let id = id.parse().map_err(|_| Failure::from(ConnectionError::NotFound))?;
    Ok((user, id))
}

async fn show(
    State(state): State<AdminState>,
    Path((user, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let (user, id) = named(&state, &user, &id).await?;
    let connections = state.connections.user_connections(user).await?;
    match connections.iter().find(|connection| connection.id == id) {
        Some(connection) => Ok(answer(StatusCode::OK, &shown(connection))),
        None => Err(ConnectionError::NotFound.into()),
    }
}

async fn refresh(
    State(state): State<AdminState>,
    Path((user, id)): Path<(String, String)>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let (user, id) = named(&state, &user, &id).await?;
    let connection = state.connections.operator_refresh(&request_id, user, id).await?;
    Ok(answer(StatusCode::OK, &shown(&connection)))
}

async fn end(
    State(state): State<AdminState>,
    Path((user, id)): Path<(String, String)>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let (user, id) = named(&state, &user, &id).await?;
    state.connections.operator_disconnect(&request_id, user, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Every provider of the configuration, in service or not.
async fn providers(State(state): State<AdminState>) -> Response {
    let configured = state.connections.configured_providers();
    let shown = |provider: &ConfiguredProvider| {
        let info = provider.info.as_ref();
        json!({
            "name": provider.name,
            "in_service": info.is_some(),
            "fault": provider.fault,
            "display_name": info.map(|info| &info.display_name),
            "scopes": info.map(|info| &info.scopes),
            "can_refresh": info.map(|info| info.can_refresh),
            "can_revoke": info.map(|info| info.can_revoke),
            "can_identify": info.map(|info| info.can_identify),
        })
    };
    let providers: Vec<Value> = configured.iter().map(shown).collect();
    answer(StatusCode::OK, &json!({"providers": providers}))
}

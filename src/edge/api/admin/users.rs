//! `/admin/v1/users…`, `/admin/v1/audit` and `/admin/v1/mails`: accounts as the operator sees and changes
//! them. A password hash is never shown; a generated password is, once.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::body::{JsonBody, answer};
use super::super::failure::Failure;
use super::input::Moment;
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::domain::account::{PasswordHash, User, UserId};
use palisade_core::domain::email_change::{Freeze, FreezeStage};
use palisade_core::domain::session::{Session, SessionId};
use palisade_core::service::sessions::Which;
use palisade_core::service::users::{MAX_LISTED, NewPassword, NewUser, UserEdit};

pub(super) fn router() -> Router<AdminState> {
    Router::new()
        .route("/admin/v1/users", get(list).post(create))
        .route("/admin/v1/users/{user}", get(show).patch(update).delete(delete))
        .route("/admin/v1/users/{user}/sessions", get(sessions).delete(end_sessions))
        .route("/admin/v1/users/{user}/sessions/{session}", axum::routing::delete(end_session))
        .route("/admin/v1/users/{user}/reset-password", post(reset_password))
        .route("/admin/v1/users/{user}/unfreeze", post(unfreeze))
        .route("/admin/v1/audit", get(events))
        .route("/admin/v1/mails", get(mails))
}

/// An account as the operator sees it. Times are seconds since 1970.
fn shown(user: &User) -> Value {
    json!({
        "id": user.id,
        "email": user.email,
        "email_verified": user.email_verified,
        "name": user.name,
        "has_password": user.password.is_some(),
        "active": user.active,
        "locked_until": user.locked_until,
        "frozen": user.email_changes.freeze.as_ref().map(shown_freeze),
        "created_at": user.created_at,
        "updated_at": user.updated_at,
        "last_login_at": user.last_login_at,
        "scopes": user.scopes,
        "claims": user.claims,
    })
}

/// What an operator decides from with `POST /admin/v1/users/{user}/unfreeze`.
fn shown_freeze(freeze: &Freeze) -> Value {
    let (state, until) = match freeze.stage {
        FreezeStage::Waiting { until } => ("waiting", Some(until)),
        FreezeStage::Objected { .. } => ("objected", None),
        FreezeStage::Taken => ("taken", None),
        FreezeStage::Decided => ("decided", None),
    };
    json!({
        "since": freeze.since,
        "state": state,
        // When the earlier address gets the account without a word of anybody.
        "until": until,
        "earlier_email": freeze.earlier,
        "later_emails": freeze.later,
    })
}

fn shown_session(session: &Session) -> Value {
    json!({
        "id": session.id,
        "device": session.device.name,
        "user_agent": session.device.user_agent,
        "address": session.device.address,
        "place": session.device.place,
        "created_at": session.created_at,
        "last_used_at": session.last_used_at,
        "expires_at": session.expires_at,
        "scopes": session.scopes,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<UserId>,
    limit: Option<usize>,
}

async fn list(
    State(state): State<AdminState>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "`after` is the id of an account, and `limit` a whole number up to 1000";
    let Ok(Query(page)) = query else { return Err(Failure::new(400, "invalid_request", want)) };
    let limit = limited(page.limit, want)?;
    let users = state.accounts.list_users(page.after, limit).await?;
    // A short page is the last one.
    let next = users.last().filter(|_| users.len() == limit).map(|user| user.id);
    let users: Vec<Value> = users.iter().map(shown).collect();
    Ok(answer(StatusCode::OK, &json!({"users": users, "next": next})))
}

pub(super) fn limited(limit: Option<usize>, want: &str) -> Result<usize, Failure> {
    let limit = limit.unwrap_or(100);
    if limit == 0 || limit > MAX_LISTED {
        return Err(Failure::new(400, "invalid_request", want));
    }
    Ok(limit)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Creation {
    email: String,
    name: Option<String>,
    password: Option<SecretString>,
    password_hash: Option<String>,
    #[serde(default)]
    generate_password: bool,
    #[serde(default)]
    email_verified: bool,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    claims: Map<String, Value>,
}

async fn create(
    State(state): State<AdminState>,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Creation>,
) -> Result<Response, Failure> {
    let password = match (body.password, body.password_hash, body.generate_password) {
        (Some(password), None, false) => NewPassword::Given(password),
        (None, Some(hash), false) => NewPassword::Imported(PasswordHash(hash)),
        (None, None, true) => NewPassword::Generated,
        (None, None, false) => NewPassword::Mailed,
        _ => {
            let cure = "give at most one of `password`, `password_hash` and `generate_password`";
            return Err(Failure::new(422, "invalid_request", cure));
        }
    };
    let new = NewUser {
        email: body.email,
        name: body.name,
        password,
        email_verified: body.email_verified,
        scopes: body.scopes,
        claims: body.claims,
    };
    let (user, generated) = state.accounts.create_user(&request_id, new).await?;
    let mut body = shown(&user);
    if let Some(password) = generated {
        body["password"] = password.expose_secret().into();
    }
    Ok(answer(StatusCode::CREATED, &body))
}

async fn show(State(state): State<AdminState>, Path(user): Path<String>) -> Result<Response, Failure> {
    let shown_user = state.accounts.show_user(state.accounts.find_user(&user).await?).await?;
    let mut body = shown(&shown_user.user);
    body["token_version"] = shown_user.token_version.into();
    body["sessions"] = shown_user.sessions.iter().map(shown_session).collect();
    Ok(answer(StatusCode::OK, &body))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    name: Option<String>,
    email_verified: Option<bool>,
    active: Option<bool>,
    locked_until: Option<Moment>,
    scopes: Option<Vec<String>>,
    claims: Option<Map<String, Value>>,
}

async fn update(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Update>,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    let edit = UserEdit {
        name: body.name,
        email_verified: body.email_verified,
        active: body.active,
        locked_until: body.locked_until.map(|moment| moment.0),
        scopes: body.scopes,
        claims: body.claims,
    };
    let user = state.accounts.update_user(&request_id, id, edit).await?;
    Ok(answer(StatusCode::OK, &shown(&user)))
}

async fn delete(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    state.accounts.delete_user(&request_id, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn sessions(State(state): State<AdminState>, Path(user): Path<String>) -> Result<Response, Failure> {
    let shown_user = state.accounts.show_user(state.accounts.find_user(&user).await?).await?;
    let sessions: Vec<Value> = shown_user.sessions.iter().map(shown_session).collect();
    Ok(answer(StatusCode::OK, &json!({"sessions": sessions})))
}

async fn end_sessions(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    let ended = state.accounts.end_sessions_of(&request_id, id, Which::All).await?;
    Ok(answer(StatusCode::OK, &json!({"ended": ended})))
}

async fn end_session(
    State(state): State<AdminState>,
    Path((user, session)): Path<(String, String)>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    let Ok(session) = session.parse::<SessionId>() else {
        return Err(Failure::new(404, "not_found", "there is no such session"));
    };
    let ended = state.accounts.end_sessions_of(&request_id, id, Which::One(session)).await?;
    Ok(answer(StatusCode::OK, &json!({"ended": ended})))
}

async fn reset_password(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    state.accounts.reset_password_of(&request_id, id).await?;
    Ok(answer(StatusCode::ACCEPTED, &json!({"mailed": true})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    email: String,
}

async fn unfreeze(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Decision>,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    let user = state.accounts.unfreeze_user(&request_id, id, &body.email).await?;
    Ok(answer(StatusCode::OK, &shown(&user)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    user: Option<String>,
    limit: Option<usize>,
}

async fn events(
    State(state): State<AdminState>,
    query: Result<Query<Log>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "`user` is the id or address of an account, and `limit` a whole number up to 1000";
    let Ok(Query(log)) = query else { return Err(Failure::new(400, "invalid_request", want)) };
    let limit = limited(log.limit, want)?;
    let user = match log.user {
        // What happened to an account is told after it is gone, too.
        Some(named) => match named.parse() {
            Ok(id) => Some(id),
            Err(_) => Some(state.accounts.find_user(&named).await?),
        },
        None => None,
    };
    let events = state.accounts.list_events(user, limit).await?;
    Ok(answer(StatusCode::OK, &json!({"events": events})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outbox {
    limit: Option<usize>,
}

async fn mails(
    State(state): State<AdminState>,
    query: Result<Query<Outbox>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "the only parameter is `limit`, a whole number up to 1000";
    let Ok(Query(outbox)) = query else { return Err(Failure::new(400, "invalid_request", want)) };
    let mails = state.accounts.list_mails(limited(outbox.limit, want)?).await?;
    let mails: Vec<Value> = mails
        .iter()
        .map(|mail| {
            json!({
                "id": mail.id,
                "letter": mail.letter,
                "to": mail.to,
                "created_at": mail.created_at,
                "due_at": mail.due_at,
                "attempts": mail.attempts,
                "last_error": mail.last_error,
                "given_up": mail.given_up,
            })
        })
        .collect();
    Ok(answer(StatusCode::OK, &json!({"mails": mails})))
}

//! `/admin/v1/users…`, `/admin/v1/audit` and `/admin/v1/mails`: accounts as the operator sees and changes
//! them. A password hash is never shown; a generated password is, once.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::{JsonBody, answer, done};
use super::super::failure::Failure;
use super::input::{Moment, NumberOrText};
use super::operator::RequestId;
use super::query::{bad_query, limited};
use super::schema::{
    CreatedUser, Delivery, EndedSessions, EventEntry, EventList, InvitedUser, MailEntry, MailList,
    SessionEntry, SessionList, UserDetails, UserEntry, UserList,
};
use super::state::AdminState;
use palisade_core::domain::account::{PasswordHash, UserId};
use palisade_core::domain::session::SessionId;
use palisade_core::service::sessions::Which;
use palisade_core::service::users::{MadeAccount, NewPassword, NewUser, UserEdit};

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(invite))
        .routes(routes!(show, update, delete))
        .routes(routes!(sessions, end_sessions))
        .routes(routes!(end_session))
        .routes(routes!(reset_password))
        .routes(routes!(unfreeze))
        .routes(routes!(events))
        .routes(routes!(mails))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// The `next` of the page before.
    #[param(value_type = Option<String>, format = "uuid")]
    after: Option<UserId>,
    /// At most so many, up to 1000; 100 without it.
    limit: Option<usize>,
    /// Only accounts with claims that no token says: the `ignored_claims` of an account.
    #[serde(default)]
    ignored_claims: bool,
}

/// Accounts, oldest first.
#[utoipa::path(get, path = "/admin/v1/users", tag = "Users", operation_id = "list_users",
    security(("operator" = [])),
    params(Page),
    responses((status = 200, body = UserList, description = "A page of accounts.")),
    extensions(("x-codes" = json!([]))))]
async fn list(
    State(state): State<AdminState>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "`after` is the id of an account, `limit` a whole number up to 1000, and `ignored_claims` true or false";
    let Ok(Query(page)) = query else { return Err(bad_query(want)) };
    let limit = limited(page.limit, want)?;
    let users = match page.ignored_claims {
        true => state.accounts.accounts_with_unsaid_claims(page.after, limit).await?,
        false => state.accounts.list_users(page.after, limit).await?,
    };
    // A short page is the last one.
    let next = users.last().filter(|_| users.len() == limit).map(|user| user.id.0);
    let users = users.iter().map(UserEntry::from).collect();
    Ok(answer(StatusCode::OK, &UserList { users, next }))
}

/// The account that is wanted. Without any of `password`, `password_hash` and `generate_password`, a link that sets a
/// password is mailed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ann@example.com", "username": "ann", "groups": ["staff"], "name": "Ann", "generate_password": true}))]
struct Creation {
    /// Without it the account has a `username`, and nothing is mailed to it: links are in the answer.
    #[schema(format = Email)]
    email: Option<String>,
    /// What it is signed in to by, too, and apps know it by (`preferred_username`): letters and digits, and between them
    /// `.` `_` `-` `+` `~` `'`. No other account has it or had it, in any case or form.
    username: Option<String>,
    /// In the claim `groups` of its access tokens.
    #[serde(default)]
    groups: Vec<String>,
    name: Option<String>,
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
    /// A hash from elsewhere, as its maker writes it: of bcrypt, Argon2, PBKDF2 or scrypt.
    #[schema(format = Password)]
    password_hash: Option<String>,
    #[serde(default)]
    generate_password: bool,
    /// Without it, and with a password, a link that verifies the address is mailed.
    #[serde(default)]
    email_verified: bool,
    #[serde(default)]
    scopes: Vec<String>,
    /// Further claims of its access tokens.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Value>)]
    claims: Map<String, Value>,
    /// Only says whether the account could be made: 204.
    #[serde(default)]
    dry_run: bool,
}

/// Make an account.
#[utoipa::path(post, path = "/admin/v1/users", tag = "Users", operation_id = "create_user",
    request_body = Creation,
    security(("operator" = [])),
    responses((status = 201, body = CreatedUser, description = "The account."),
        (status = 204, description = "It could be made; nothing was (`dry_run`).")),
    extensions(("x-codes" = json!(["invalid_email", "invalid_username", "invalid_request", "password_rejected", "email_taken", "username_taken", "busy", "conflict"]))))]
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
        username: body.username,
        groups: body.groups,
        name: body.name,
        password,
        email_verified: body.email_verified,
        scopes: body.scopes,
        claims: body.claims,
    };
    if body.dry_run {
        state.accounts.check_user(&new).await?;
        return Ok(done());
    }
    let MadeAccount { user, password, link } = state.accounts.create_user(&request_id, new).await?;
    let needs_link = user.password.is_none() || user.awaits_verification();
    let delivery = match needs_link {
        true => Delivery::of(link.as_ref(), &state.pages),
        false => Delivery::default(),
    };
    let password = password.map(|password| password.expose_secret().to_owned());
    Ok(answer(StatusCode::CREATED, &CreatedUser { user: UserEntry::from(&user), password, delivery }))
}

/// The person that is invited.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ann@example.com", "name": "Ann"}))]
struct Invitation {
    #[schema(format = Email)]
    email: String,
    name: Option<String>,
}

/// Invite a person: make an account without a password, and mail a link that sets one and verifies the address.
///
/// The link is good for seven days. For an account that was invited and has no password yet, the same link is sent
/// again. With `mail.transport = "none"` the link is in the answer.
#[utoipa::path(post, path = "/admin/v1/invitations", tag = "Users", operation_id = "invite_user",
    request_body = Invitation,
    security(("operator" = [])),
    responses((status = 201, body = InvitedUser, description = "The account that waits for the person.")),
    extensions(("x-codes" = json!(["invalid_email", "invalid_request", "email_taken", "conflict"]))))]
async fn invite(
    State(state): State<AdminState>,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Invitation>,
) -> Result<Response, Failure> {
    let invited = state.accounts.invite(&request_id, &body.email, body.name).await?;
    let delivery = Delivery::of(invited.link.as_ref(), &state.pages);
    Ok(answer(StatusCode::CREATED, &InvitedUser { user: UserEntry::from(&invited.user), delivery }))
}

/// An account with its sessions.
#[utoipa::path(get, path = "/admin/v1/users/{user}", tag = "Users", operation_id = "show_user",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account.")),
    responses((status = 200, body = UserDetails, description = "The account.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username"]))))]
async fn show(State(state): State<AdminState>, Path(user): Path<String>) -> Result<Response, Failure> {
    let shown_user = state.accounts.show_user(state.accounts.find_user(&user).await?).await?;
    Ok(answer(StatusCode::OK, &UserDetails::from(&shown_user)))
}

/// What is not there stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"active": false}))]
struct Update {
    /// An empty text takes it away.
    name: Option<String>,
    /// In place of the address that it has; an empty text takes it away. It ends the account's sessions where it had one,
    /// and voids every link that was mailed. Unless `email_verified` is sent with it, a link that verifies it is mailed.
    email: Option<String>,
    email_verified: Option<bool>,
    /// In place of the user name that it has, which no other account gets; an empty text takes it away.
    username: Option<String>,
    /// In place of all groups that it has.
    groups: Option<Vec<String>>,
    /// Groups beside those that it has by now. Not with `groups`.
    #[serde(default)]
    add_groups: Vec<String>,
    /// Groups that it leaves, if it is in them. Not with `groups`.
    #[serde(default)]
    remove_groups: Vec<String>,
    active: Option<bool>,
    /// Seconds since 1970, or a moment as in RFC 3339. One that is over unlocks.
    #[schema(value_type = Option<NumberOrText>)]
    locked_until: Option<Moment>,
    scopes: Option<Vec<String>>,
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    claims: Option<Map<String, Value>>,
}

/// Change an account.
///
/// Its access tokens are refused when something in them changes. Its sessions end when it is disabled, locked, or its
/// address is replaced, taken away or counts as not verified.
#[utoipa::path(patch, path = "/admin/v1/users/{user}", tag = "Users", operation_id = "update_user",
    request_body = Update,
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account.")),
    responses((status = 200, body = UserEntry, description = "The account as it is now.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username", "invalid_request", "email_taken", "username_taken", "account_frozen", "conflict"]))))]
async fn update(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Update>,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    let edit = UserEdit {
        name: body.name,
        email: body.email,
        email_verified: body.email_verified,
        active: body.active,
        locked_until: body.locked_until.map(|moment| moment.0),
        username: body.username,
        groups: body.groups,
        add_groups: body.add_groups,
        remove_groups: body.remove_groups,
        scopes: body.scopes,
        claims: body.claims,
    };
    let user = state.accounts.update_user(&request_id, id, edit).await?;
    Ok(answer(StatusCode::OK, &UserEntry::from(&user)))
}

/// Remove an account with everything it has. Its tokens and its grants at providers end.
#[utoipa::path(delete, path = "/admin/v1/users/{user}", tag = "Users", operation_id = "delete_user",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account.")),
    responses((status = 204, description = "It is gone.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username", "conflict"]))))]
async fn delete(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    state.accounts.delete_user(&request_id, id).await?;
    Ok(done())
}

/// The sessions of an account.
#[utoipa::path(get, path = "/admin/v1/users/{user}/sessions", tag = "Users", operation_id = "list_sessions",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account.")),
    responses((status = 200, body = SessionList, description = "Those that live.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username"]))))]
async fn sessions(State(state): State<AdminState>, Path(user): Path<String>) -> Result<Response, Failure> {
    let shown_user = state.accounts.show_user(state.accounts.find_user(&user).await?).await?;
    let sessions = shown_user.sessions.iter().map(SessionEntry::from).collect();
    Ok(answer(StatusCode::OK, &SessionList { sessions }))
}

/// End every session of an account, with its access tokens.
#[utoipa::path(delete, path = "/admin/v1/users/{user}/sessions", tag = "Users", operation_id = "end_sessions",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account.")),
    responses((status = 200, body = EndedSessions, description = "They have ended.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username", "conflict"]))))]
async fn end_sessions(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    let ended = state.accounts.end_sessions_of(&request_id, id, Which::All).await?;
    Ok(answer(StatusCode::OK, &EndedSessions { ended }))
}

/// End one session of an account, with its access tokens.
#[utoipa::path(delete, path = "/admin/v1/users/{user}/sessions/{session}", tag = "Users", operation_id = "end_session",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account."),
        ("session" = String, Path, description = "The id of a session.")),
    responses((status = 200, body = EndedSessions, description = "It has ended.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username", "conflict"]))))]
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
    Ok(answer(StatusCode::OK, &EndedSessions { ended }))
}

/// Take the password away, end every session, and mail a link that sets a new password. With
/// `mail.transport = "none"`, and of an account without an address, the link is in the answer; a further call makes
/// another.
#[utoipa::path(post, path = "/admin/v1/users/{user}/reset-password", tag = "Users", operation_id = "reset_password",
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account.")),
    responses((status = 202, body = Delivery, description = "A mail is on its way, or the link is in the answer.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username", "account_frozen", "conflict"]))))]
async fn reset_password(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    let link = state.accounts.reset_password_of(&request_id, id).await?;
    Ok(answer(StatusCode::ACCEPTED, &Delivery::of(link.as_ref(), &state.pages)))
}

/// The address that a frozen account gets.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ann@example.com"}))]
struct Decision {
    #[schema(format = Email)]
    email: String,
}

/// Decide which of its addresses a frozen account gets. A link that sets a new password is mailed to it.
#[utoipa::path(post, path = "/admin/v1/users/{user}/unfreeze", tag = "Users", operation_id = "unfreeze_user",
    request_body = Decision,
    security(("operator" = [])),
    params(("user" = String, Path, description = "The id, the address or the user name of an account.")),
    responses((status = 200, body = UserEntry, description = "The account as it is now.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username", "invalid_request", "email_taken", "conflict"]))))]
async fn unfreeze(
    State(state): State<AdminState>,
    Path(user): Path<String>,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Decision>,
) -> Result<Response, Failure> {
    let id = state.accounts.find_user(&user).await?;
    let user = state.accounts.unfreeze_user(&request_id, id, &body.email).await?;
    Ok(answer(StatusCode::OK, &UserEntry::from(&user)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Log {
    /// The id, the address or the user name of an account. Without it, the events that concern none.
    user: Option<String>,
    /// At most so many, up to 1000; 100 without it.
    limit: Option<usize>,
}

/// The latest events of an account, or of none.
#[utoipa::path(get, path = "/admin/v1/audit", tag = "Audit", operation_id = "list_events",
    security(("operator" = [])),
    params(Log),
    responses((status = 200, body = EventList, description = "Newest first.")),
    extensions(("x-codes" = json!(["not_found", "invalid_email", "invalid_username"]))))]
async fn events(
    State(state): State<AdminState>,
    query: Result<Query<Log>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "`user` is the id, address or user name of an account, and `limit` a whole number up to 1000";
    let Ok(Query(log)) = query else { return Err(bad_query(want)) };
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
    let events = events.into_iter().map(EventEntry::from).collect();
    Ok(answer(StatusCode::OK, &EventList { events }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Outbox {
    /// At most so many, up to 1000; 100 without it.
    limit: Option<usize>,
}

/// Mails that wait or were given up.
#[utoipa::path(get, path = "/admin/v1/mails", tag = "Audit", operation_id = "list_mails",
    security(("operator" = [])),
    params(Outbox),
    responses((status = 200, body = MailList, description = "Newest first.")),
    extensions(("x-codes" = json!([]))))]
async fn mails(
    State(state): State<AdminState>,
    query: Result<Query<Outbox>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "the only parameter is `limit`, a whole number up to 1000";
    let Ok(Query(outbox)) = query else { return Err(bad_query(want)) };
    let mails = state.accounts.list_mails(limited(outbox.limit, want)?).await?;
    let mails = mails.iter().map(MailEntry::from).collect();
    Ok(answer(StatusCode::OK, &MailList { mails }))
}

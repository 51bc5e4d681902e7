//! The native endpoints: accounts and sessions, for the people whom they belong to.
//!
//! Handlers only translate; what is done, and in which order, is for `service`. Answers that must not
//! tell whether an account exists are constants.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use secrecy::ExposeSecret;
use serde::Deserialize;
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::body::{Failure, JsonBody, OptionalJsonBody, answer, method_not_allowed, not_found};
use super::caller::{Caller, From, authenticated};
use super::schema::{
    Accepted, Address, Credentials, LinkToken, Logout, NewPassword, PasswordChange, PasswordRules,
    ProblemDocument, Profile, ProfileChange, Refresh, Registration, SessionView, Sessions, Tokens, Valid,
};
use super::{openapi, pages};
use crate::domain::session::SessionId;
use crate::service::accounts::Accounts;
use crate::service::admit::Authenticator;
use crate::service::profile::Edit;
use crate::service::sessions::Which;

/// The largest request body.
const MAX_BODY: usize = 64 * 1024;
/// How long a browser may remember the answer to a preflight.
const PREFLIGHT: Duration = Duration::from_secs(600);

/// What the native endpoints work with.
#[derive(Clone)]
pub struct AuthState {
    pub accounts: Accounts,
    /// Of tokens of our own issuer only.
    pub authenticator: Authenticator,
    /// The issuer our tokens carry.
    pub issuer: String,
}

/// The endpoints below `prefix`. Pages of `origins` may call them from a browser.
pub fn auth_router(state: AuthState, prefix: &str, origins: &[HeaderValue]) -> Router {
    let described = Router::new()
        .route("/register", post(register))
        .route("/verify-email", post(verify_email))
        .route("/verify-email/resend", post(resend_verification))
        .route("/login", post(login))
        .route("/refresh", post(refresh))
        .route("/logout", post(logout))
        .route("/me", get(profile).patch(edit_profile))
        .route("/me/password", put(change_password))
        .route("/password-resets", post(request_reset))
        .route("/password-resets/validate", post(validate_reset))
        .route("/password-resets/confirm", post(confirm_reset))
        .route("/password-requirements", get(password_requirements))
        .route("/sessions", get(list_sessions).delete(end_sessions))
        .route("/sessions/{id}", axum::routing::delete(end_session))
        .with_state(state)
        .merge(openapi::router(prefix))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY));
    let described = if origins.is_empty() { described } else { described.layer(cors(origins)) };
    Router::new().nest(prefix, described.merge(pages::pages_router()).fallback(not_found))
}

/// No credentials: tokens travel in `Authorization`, which a page must set itself, and never in cookies.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER, header::WWW_AUTHENTICATE])
        .max_age(PREFLIGHT)
}

fn accepted(detail: &'static str) -> Response {
    answer(StatusCode::ACCEPTED, &Accepted { detail })
}

fn done() -> Response {
    (StatusCode::NO_CONTENT, [(header::CACHE_CONTROL, "no-store")]).into_response()
}

type Answered = Result<Response, Failure>;

/// Register an account.
///
/// A link that verifies the address is mailed. The answer is the same when the address has an account;
/// its owner is told.
#[utoipa::path(post, path = "/register", tag = "Accounts", request_body = Registration,
    responses((status = 202, body = Accepted), openapi::Posted, openapi::WithPassword, openapi::Limited))]
pub(super) async fn register(
    State(state): State<AuthState>,
    From(client): From,
    JsonBody(body): JsonBody<Registration>,
) -> Answered {
    state.accounts.register(&client, &body.email, body.password, body.name).await?;
    Ok(accepted("a link that verifies the address is on its way, unless it has an account already"))
}

/// Verify an e-mail address with the token of a mailed link.
///
/// Also confirms a changed address. The link works once.
#[utoipa::path(post, path = "/verify-email", tag = "Accounts", request_body = LinkToken,
    responses((status = 200, body = Profile), openapi::Posted, openapi::Linked, openapi::Limited, openapi::Contended))]
pub(super) async fn verify_email(
    State(state): State<AuthState>,
    From(client): From,
    JsonBody(body): JsonBody<LinkToken>,
) -> Answered {
    let user = state.accounts.verify_email(&client, body.token.expose_secret()).await?;
    Ok(answer(StatusCode::OK, &Profile::from(&user)))
}

/// Mail the link that verifies an address again.
///
/// The answer does not tell whether there is such an account.
#[utoipa::path(post, path = "/verify-email/resend", tag = "Accounts", request_body = Address,
    responses((status = 202, body = Accepted), openapi::Posted, openapi::Limited))]
pub(super) async fn resend_verification(
    State(state): State<AuthState>,
    From(client): From,
    JsonBody(body): JsonBody<Address>,
) -> Answered {
    state.accounts.resend_verification(&client, &body.email).await?;
    Ok(accepted("if an account waits for its address to be verified, a link is on its way"))
}

/// Sign in.
///
/// An unknown address and a wrong password get the same answer.
#[utoipa::path(post, path = "/login", tag = "Sign-in", request_body = Credentials,
    responses((status = 200, body = Tokens), openapi::Posted, openapi::SignIn, openapi::Limited, openapi::Contended))]
pub(super) async fn login(
    State(state): State<AuthState>,
    From(client): From,
    JsonBody(body): JsonBody<Credentials>,
) -> Answered {
    let granted = state.accounts.login(&client, &body.email, body.password).await?;
    Ok(answer(StatusCode::OK, &Tokens::from(&granted)))
}

/// Exchange a refresh token for the next one and a fresh access token.
///
/// The same token brings the same successor for ten seconds. One that was replaced longer ago ends the
/// session: somebody holds a copy.
#[utoipa::path(post, path = "/refresh", tag = "Sign-in", request_body = Refresh,
    responses((status = 200, body = Tokens), openapi::Posted, openapi::Refreshed, openapi::Limited, openapi::Contended))]
pub(super) async fn refresh(
    State(state): State<AuthState>,
    From(client): From,
    JsonBody(body): JsonBody<Refresh>,
) -> Answered {
    let granted = state.accounts.refresh(&client, body.refresh_token.expose_secret()).await?;
    Ok(answer(StatusCode::OK, &Tokens::from(&granted)))
}

/// Sign out: end the session of the access token, or else of the refresh token in the body.
///
/// Its access tokens are refused from the next request on, on every route.
#[utoipa::path(post, path = "/logout", tag = "Sign-in", request_body = Option<Logout>, security((), ("bearer" = [])),
    responses((status = 204), openapi::Posted, openapi::Refreshed, openapi::Authenticated))]
pub(super) async fn logout(
    State(state): State<AuthState>,
    From(client): From,
    headers: HeaderMap,
    OptionalJsonBody(body): OptionalJsonBody<Logout>,
) -> Answered {
    let person = authenticated(&headers, &state).await?;
    let token = body.refresh_token.as_ref().map(ExposeSecret::expose_secret);
    state.accounts.logout(&client, person, token).await?;
    Ok(done())
}

/// Your account.
#[utoipa::path(get, path = "/me", tag = "Accounts", security(("bearer" = [])),
    responses((status = 200, body = Profile), openapi::Authenticated))]
pub(super) async fn profile(State(state): State<AuthState>, Caller(person): Caller) -> Answered {
    let user = state.accounts.profile(person).await?;
    Ok(answer(StatusCode::OK, &Profile::from(&user)))
}

/// Change your name or address.
///
/// A new address needs the password, is told to the old one, and takes effect when the link in the mail
/// to it is opened.
#[utoipa::path(patch, path = "/me", tag = "Accounts", request_body = ProfileChange, security(("bearer" = [])),
    responses((status = 200, body = Profile), openapi::Posted, openapi::Authenticated, openapi::Limited, openapi::Contended))]
pub(super) async fn edit_profile(
    State(state): State<AuthState>,
    From(client): From,
    Caller(person): Caller,
    JsonBody(body): JsonBody<ProfileChange>,
) -> Answered {
    let edit = Edit { name: body.name, email: body.email, current_password: body.current_password };
    let edited = state.accounts.edit_profile(&client, person, edit).await?;
    let mut profile = Profile::from(&edited.user);
    profile.pending_email = edited.pending_email.map(|email| email.to_string());
    Ok(answer(StatusCode::OK, &profile))
}

/// Change your password. Your other sessions end.
#[utoipa::path(put, path = "/me/password", tag = "Accounts", request_body = PasswordChange, security(("bearer" = [])),
    responses((status = 204), openapi::Posted, openapi::Authenticated, openapi::WithPassword, openapi::Limited, openapi::Contended))]
pub(super) async fn change_password(
    State(state): State<AuthState>,
    From(client): From,
    Caller(person): Caller,
    JsonBody(body): JsonBody<PasswordChange>,
) -> Answered {
    state.accounts.change_password(&client, person, body.current_password, body.new_password).await?;
    Ok(done())
}

/// Mail a link that sets a new password.
///
/// The answer and its time do not tell whether there is such an account.
#[utoipa::path(post, path = "/password-resets", tag = "Passwords", request_body = Address,
    responses((status = 202, body = Accepted), openapi::Posted, openapi::Limited))]
pub(super) async fn request_reset(
    State(state): State<AuthState>,
    From(client): From,
    JsonBody(body): JsonBody<Address>,
) -> Answered {
    state.accounts.request_reset(&client, &body.email).await?;
    Ok(accepted("if there is an account with this address, a link that sets a new password is on its way"))
}

/// See whether the token of a mailed link is still good. Does not use it up.
#[utoipa::path(post, path = "/password-resets/validate", tag = "Passwords", request_body = LinkToken,
    responses((status = 200, body = Valid), openapi::Posted, openapi::Linked, openapi::Limited))]
pub(super) async fn validate_reset(
    State(state): State<AuthState>,
    From(client): From,
    JsonBody(body): JsonBody<LinkToken>,
) -> Answered {
    state.accounts.validate_reset(&client, body.token.expose_secret()).await?;
    Ok(answer(StatusCode::OK, &Valid { valid: true }))
}

/// Set a new password with the token of a mailed link. Every session ends.
#[utoipa::path(post, path = "/password-resets/confirm", tag = "Passwords", request_body = NewPassword,
    responses((status = 204), openapi::Posted, openapi::Linked, openapi::WithPassword, openapi::Limited, openapi::Contended))]
pub(super) async fn confirm_reset(
    State(state): State<AuthState>,
    From(client): From,
    JsonBody(body): JsonBody<NewPassword>,
) -> Answered {
    state.accounts.confirm_reset(&client, body.token.expose_secret(), body.new_password).await?;
    Ok(done())
}

/// The rules for passwords, for programs and in words.
#[utoipa::path(get, path = "/password-requirements", tag = "Passwords",
    responses((status = 200, body = PasswordRules)))]
pub(super) async fn password_requirements(State(state): State<AuthState>) -> Response {
    let rules = state.accounts.password_requirements();
    answer(StatusCode::OK, &PasswordRules::from(rules))
}

/// Your sessions, the latest used first.
#[utoipa::path(get, path = "/sessions", tag = "Sessions", security(("bearer" = [])),
    responses((status = 200, body = Sessions), openapi::Authenticated))]
pub(super) async fn list_sessions(State(state): State<AuthState>, Caller(person): Caller) -> Answered {
    // For an account that is gone, there is nobody to show anything to.
    state.accounts.profile(person).await?;
    let sessions = state.accounts.list_sessions(person).await?;
    let sessions = sessions.iter().map(|session| SessionView::of(session, person.session)).collect();
    Ok(answer(StatusCode::OK, &Sessions { sessions }))
}

/// End one of your sessions.
#[utoipa::path(delete, path = "/sessions/{id}", tag = "Sessions", security(("bearer" = [])),
    params(("id" = String, Path, description = "A session's id.")),
    responses((status = 204), (status = 404, body = ProblemDocument, content_type = "application/problem+json",
        description = "`not_found`: it is none of yours, or has ended."), openapi::Authenticated))]
pub(super) async fn end_session(
    State(state): State<AuthState>,
    From(client): From,
    Caller(person): Caller,
    Path(id): Path<String>,
) -> Answered {
    let Ok(id) = id.parse::<SessionId>() else {
        return Err(Failure::new(404, "not_found", "there is no such session"));
    };
    state.accounts.end_sessions(&client, person, Which::One(id)).await?;
    Ok(done())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Except {
    except: Option<String>,
}

/// End all of your sessions, or all but this one.
#[utoipa::path(delete, path = "/sessions", tag = "Sessions", security(("bearer" = [])),
    params(("except" = Option<String>, Query, description = "`current` spares the session of this request.")),
    responses((status = 204), (status = 422, body = ProblemDocument, content_type = "application/problem+json",
        description = "`invalid_request`"), openapi::Authenticated))]
pub(super) async fn end_sessions(
    State(state): State<AuthState>,
    From(client): From,
    Caller(person): Caller,
    query: Result<Query<Except>, QueryRejection>,
) -> Answered {
    // What is not understood must not end more than was meant.
    let which = match query.map(|Query(query)| query.except) {
        Ok(None) => Which::All,
        Ok(Some(word)) if word == "current" => Which::Others,
        _ => {
            let cure = "the only parameter is `except`, and its only value `current`";
            return Err(Failure::new(422, "invalid_request", cure));
        }
    };
    state.accounts.end_sessions(&client, person, which).await?;
    Ok(done())
}

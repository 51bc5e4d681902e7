//! The native endpoints of accounts and sessions, for their owners.
//!
//! Handlers only translate; what is done, and in which order, is for `service`. Answers that must not
//! tell whether an account exists are constants. `x-codes` of a handler are the failures of its own: those
//! that come with having a body or needing a token are added where the description is made (`openapi`).

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use secrecy::ExposeSecret;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::{JsonBody, OptionalJsonBody, answer, done};
use super::super::failure::Failure;
use super::caller::{Asked, By, Caller, CallerBy, Means, authenticated, refused};
use super::schema::{
    Accepted, Address, Carriage, Credentials, LinkToken, Logout, NewPassword, PasswordChange, PasswordRules,
    Profile, ProfileChange, Refresh, Registration, SessionView, Sessions, Tokens, Valid, Verification,
};
use super::state::{Answered, AuthState, SharedAuthState};
use super::{registration, same_origin, session, session_cookies};
use palisade_core::domain::answer;
use palisade_core::domain::session::SessionId;
use palisade_core::domain::verdict::Refusal;
use palisade_core::service::accounts::{AccountError, Ways};
use palisade_core::service::caller::Person;
use palisade_core::service::profile::Edit;
use palisade_core::service::register::SentForm;
use palisade_core::service::sessions::Which;
use palisade_core::service::sign_in::SignIn;
use palisade_core::service::verify_registration::Proof;

pub(super) fn endpoints() -> OpenApiRouter<Arc<AuthState>> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(verify_email))
        .routes(routes!(resend_verification))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(profile, edit_profile))
        .routes(routes!(change_password))
        .routes(routes!(request_reset))
        .routes(routes!(validate_reset))
        .routes(routes!(confirm_reset))
        .routes(routes!(password_requirements))
        .routes(routes!(list_sessions, end_sessions))
        .routes(routes!(end_session))
}

fn accepted(detail: &'static str) -> Response {
    answer(StatusCode::ACCEPTED, &Accepted { detail })
}

/// Register an account.
///
/// A link that verifies the address is mailed. The answer is the same when the address has an account;
/// its owner is told. Unless `accounts.registration` is `"open"`, it is refused, for every address in the same way:
/// invited people come by the link of their invitation.
///
/// A browser that sends this from a page of the gateway's own origin gets a cookie, by which it shows at the
/// verification that it sent the registration whose password the account has. It shows that only while this is the
/// last registration that it sent for the address. A form that is sent twice, with the same `form_id` or
/// `Idempotency-Key`, is one registration.
#[utoipa::path(post, path = "/register", tag = "Accounts",
    request_body = Registration,
    params(("Idempotency-Key" = Option<String>, Header, description = "Instead of `form_id`.")),
    responses((status = 202, body = Accepted, description = "A mail is on its way.",
        headers(("Set-Cookie" = String,
            description = "For pages of the gateway's own origin: the registrations that this browser sent.")))),
    extensions(("x-codes" = json!([
        "registration_closed", "invalid_email", "invalid_request", "password_rejected", "too_many_attempts", "busy",
        "cross_site"
    ]))))]
async fn register(
    State(state): SharedAuthState,
    By(client): By,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Registration>,
) -> Answered {
    same_origin::refuse_cross_site(&state, &headers)?;
    let id = registration::form_id(&headers, body.form_id)?;
    let form = SentForm { id: id.as_deref(), return_to: None };
    let Registration { email, password, name, .. } = body;
    let sent = state.accounts.register_form(&client, &email, password, name, form).await?;
    let mut answer =
        accepted("a link that verifies the address is on its way, unless it has an account already");
    if registration::is_of_this_site(&state, &headers) {
        let value = state.accounts.bind(registration::cookie_of(&state, &headers), &sent);
        answer.headers_mut().insert(header::SET_COOKIE, registration::set_cookie(&state, &value)?);
    }
    Ok(answer)
}

/// Verify an e-mail address with the token of a mailed link.
///
/// Also confirms a changed address. The link works once.
///
/// The token shows that its bearer has the mailbox, and not that the account's password is theirs: an attacker may
/// have registered the address. Send `proof` from a browser, and on `proof_needed` ask for the password of the
/// account or for a new one; the built-in page does. With `accounts.verification = "proof"` no link is used without
/// that.
///
/// A link that changes the address of an account always needs an access token of that account, or its `password`; on
/// `proof_needed` it stays good. The change ends every other session, and the access tokens from before it: refresh,
/// and go on with the next ones. The old address is mailed a link that undoes the change, for three days.
#[utoipa::path(post, path = "/verify-email", tag = "Accounts",
    request_body = Verification,
    security((), ("bearer" = []), ("session" = [])),
    responses((status = 200, body = Profile, description = "The account, whose address is verified now.",
        headers(("Set-Cookie" = String,
            description = "Where a session cookie showed whose account it is: a new one.")))),
    extensions(("x-codes" = json!([
        "invalid_link", "invalid_request", "proof_needed", "wrong_password", "password_rejected",
        "too_many_attempts", "busy", "conflict"
    ]))))]
async fn verify_email(
    State(state): SharedAuthState,
    asked: Asked,
    JsonBody(body): JsonBody<Verification>,
) -> Answered {
    same_origin::refuse_cross_site(&state, &asked.headers)?;
    // An access token that is not good does no harm to a link that needs none.
    let (caller, refused) = match authenticated(&asked, &state).await {
        Ok(caller) => (caller, None),
        Err(Refusal::NoToken | Refusal::SessionOver) => (None, None),
        Err(refusal) => (None, Some(refusal)),
    };
    let (person, client) = (caller.map(|(person, _)| person), &asked.client);
    let cookie = registration::cookie_of(&state, &asked.headers).unwrap_or_default();
    let proof = Proof {
        password: body.password,
        new_password: body.new_password,
        browser: state.accounts.read_binding(cookie),
        wanted: body.proof,
        person,
    };
    match (state.accounts.verify_by(client, body.token.expose_secret(), proof).await, refused) {
        (Ok(user), _) => {
            let mut response = answer(StatusCode::OK, &Profile::from(&user));
            // The account is another one to the world: a copy of the cookie from before is void on every host.
            if let Some((Person { user, session: Some(id) }, Means::Cookie)) = caller {
                let place = session_cookies::place(&state);
                if let Some((id, cookie)) = state.accounts.renew_cookie(client, user, id, &place).await? {
                    session_cookies::set(&state, &asked.headers, &mut response, (user, id), &cookie).await?;
                }
            }
            Ok(response)
        }
        (Err(AccountError::ProofNeeded(Ways::Account)), Some(refusal)) => {
            Err(answer::answer(&refusal).into())
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Mail the link that verifies an address again.
///
/// The answer does not tell whether there is such an account.
#[utoipa::path(post, path = "/verify-email/resend", tag = "Accounts",
    request_body = Address,
    responses((status = 202, body = Accepted, description = "A mail may be on its way.")),
    extensions(("x-codes" = json!(["no_mail", "invalid_email", "too_many_attempts", "cross_site"]))))]
async fn resend_verification(
    State(state): SharedAuthState,
    By(client): By,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Address>,
) -> Answered {
    same_origin::refuse_cross_site(&state, &headers)?;
    state.accounts.resend_verification(&client, &body.email).await?;
    Ok(accepted("if an account waits for its address to be verified, a link is on its way"))
}

/// Sign in.
///
/// By an address or a user name. An unknown one, a wrong password and an address that is not verified yet get the same
/// answer.
///
/// With `"session": "cookie"` the session travels in a cookie: it is set instead of returning tokens, for pages of the
/// gateway's own origin only. A session that the browser has already ends.
#[utoipa::path(post, path = "/login", tag = "Sign-in",
    request_body = Credentials,
    responses(
        (status = 200, body = Tokens, description = "The tokens of a new session."),
        (status = 204, description = "The session of the cookie that is set.",
            headers(("Set-Cookie" = String, description = "The session cookie."))),
    ),
    extensions(("x-codes" = json!([
        "invalid_email", "invalid_username", "invalid_credentials", "account_disabled", "invalid_request", "cross_site",
        "wrong_host",
        "account_locked", "too_many_attempts", "busy", "conflict", "signing_unavailable"
    ]))))]
async fn login(
    State(state): SharedAuthState,
    By(client): By,
    asked: Asked,
    JsonBody(body): JsonBody<Credentials>,
) -> Answered {
    if body.session == Carriage::Cookie {
        return session::begin(&state, &asked, body).await;
    }
    if body.remember {
        return Err(Failure::new(422, "invalid_request", "`remember` is for `\"session\": \"cookie\"`"));
    }
    same_origin::refuse_cross_site(&state, &asked.headers)?;
    match state.accounts.password_login(&client, &body.account()?, body.password).await? {
        SignIn::Done(granted) => Ok(answer(StatusCode::OK, &Tokens::from(&*granted))),
        SignIn::Challenge(challenge) => match challenge {},
    }
}

/// Exchange a refresh token for the next one and a fresh access token.
///
/// The same token brings the same successor for ten seconds, and for `tokens.refresh_repeat` while that was not used.
/// One that was replaced longer ago is a replay and ends the session: an attacker may hold a copy.
#[utoipa::path(post, path = "/refresh", tag = "Sign-in",
    request_body = Refresh,
    responses((status = 200, body = Tokens, description = "The next tokens of the session.")),
    extensions(("x-codes" = json!([
        "invalid_refresh_token", "too_many_attempts", "conflict", "signing_unavailable"
    ]))))]
async fn refresh(
    State(state): SharedAuthState,
    By(client): By,
    JsonBody(body): JsonBody<Refresh>,
) -> Answered {
    let granted = state.accounts.refresh(&client, body.refresh_token.expose_secret()).await?;
    Ok(answer(StatusCode::OK, &Tokens::from(&granted)))
}

/// Sign out: end the session of the access token or session cookie, or else of the refresh token in the body.
///
/// Its access tokens are refused from the next request on, on every route. An access token that is not good
/// any more does no harm beside a refresh token. Ending what has ended already is no failure.
#[utoipa::path(post, path = "/logout", tag = "Sign-in",
    request_body = Option<Logout>,
    security((), ("bearer" = []), ("session" = [])),
    responses((status = 204, description = "The session has ended.",
        headers(("Set-Cookie" = String, description = "Takes the session cookie back."),
            ("Clear-Site-Data" = String, description = "For a session in a cookie: the browser's cache.")))),
    extensions(("x-codes" = json!(["invalid_refresh_token", "invalid_request"]))))]
async fn logout(
    State(state): SharedAuthState,
    asked: Asked,
    OptionalJsonBody(body): OptionalJsonBody<Logout>,
) -> Answered {
    let token = body.refresh_token.as_ref().map(ExposeSecret::expose_secret);
    let caller = match authenticated(&asked, &state).await {
        Err(Refusal::NoToken | Refusal::Token(_) | Refusal::Revoked | Refusal::SessionOver)
            if token.is_some() =>
        {
            None
        }
        Err(Refusal::SessionOver) => {
            state.accounts.await_in_force().await?;
            let mut response = done();
            session_cookies::forget(&state, &mut response)?;
            return Ok(response);
        }
        Err(refusal) => return Err(refused(&asked, &state, &refusal)),
        Ok(None) if token.is_none() => return Err(AccountError::NoAccount.into()),
        Ok(caller) => caller.filter(|(person, _)| person.session.is_some()),
    };
    let person = caller.map(|(person, _)| person);
    if person.is_none() && token.is_none() {
        let cure = "this access token belongs to no session; send the `refresh_token` of the one to end";
        return Err(Failure::new(422, "invalid_request", cure));
    }
    state.accounts.logout(&asked.client, person, token).await?;
    let mut response = done();
    if matches!(caller, Some((_, Means::Cookie))) {
        session_cookies::end(&state, &mut response)?;
    }
    Ok(response)
}

/// Your account.
#[utoipa::path(get, path = "/me", tag = "Accounts",
    security(("bearer" = []), ("session" = [])),
    responses((status = 200, body = Profile, description = "The account.")),
    extensions(("x-codes" = json!(["account_disabled"]))))]
async fn profile(State(state): SharedAuthState, Caller(person): Caller) -> Answered {
    let user = state.accounts.profile(person).await?;
    Ok(answer(StatusCode::OK, &Profile::from(&user)))
}

/// Change your name or address.
///
/// A new address needs the password, is told to the old one, and takes effect when the link in the mail to it is
/// opened by a user who is signed in to this account (`POST /verify-email`).
#[utoipa::path(patch, path = "/me", tag = "Accounts",
    request_body = ProfileChange,
    security(("bearer" = []), ("session" = [])),
    responses((status = 200, body = Profile, description = "The account as it is now.")),
    extensions(("x-codes" = json!([
        "invalid_request", "invalid_email", "wrong_password", "account_disabled", "no_mail",
        "too_many_attempts", "busy", "conflict"
    ]))))]
async fn edit_profile(
    State(state): SharedAuthState,
    By(client): By,
    Caller(person): Caller,
    JsonBody(body): JsonBody<ProfileChange>,
) -> Answered {
    let edit = Edit { name: body.name, email: body.email, current_password: body.current_password };
    let edited = state.accounts.edit_profile(&client, person, edit).await?;
    let mut profile = Profile::from(&edited.user);
    profile.pending_email = edited.pending_email.map(|email| email.to_string());
    Ok(answer(StatusCode::OK, &profile))
}

/// Change your password. Your other sessions end, and this one goes on with new tokens.
///
/// The old tokens of this session end as well, and so do those that an operator minted for you: go on with those of the
/// answer. A session in a cookie goes on in the new one that is set.
#[utoipa::path(put, path = "/me/password", tag = "Accounts",
    request_body = PasswordChange,
    security(("bearer" = []), ("session" = [])),
    responses(
        (status = 200, body = Tokens, description = "The password is changed; the session has new tokens."),
        (status = 204, description = "The password is changed; the session goes on in the cookie that is set, or the access token is of no session that could go on.",
            headers(("Set-Cookie" = String, description = "For a session in a cookie: the new one."))),
    ),
    extensions(("x-codes" = json!([
        "password_rejected", "wrong_password", "account_disabled", "too_many_attempts", "busy",
        "conflict"
    ]))))]
async fn change_password(
    State(state): SharedAuthState,
    By(client): By,
    CallerBy(person, means): CallerBy,
    headers: HeaderMap,
    JsonBody(body): JsonBody<PasswordChange>,
) -> Answered {
    let PasswordChange { current_password: current, new_password: new } = body;
    if means == Means::Cookie {
        let place = session_cookies::place(&state);
        let changed =
            state.accounts.change_password_in_browser(&client, person, current, new, &place).await?;
        let mut response = done();
        match changed {
            Some((id, cookie)) => {
                session_cookies::set(&state, &headers, &mut response, (person.user, id), &cookie).await?;
            }
            None => session_cookies::forget(&state, &mut response)?,
        }
        return Ok(response);
    }
    let granted = state.accounts.change_password(&client, person, current, new).await?;
    Ok(granted.map_or_else(done, |granted| answer(StatusCode::OK, &Tokens::from(&granted))))
}

/// Mail a link that sets a new password.
///
/// The answer and its time do not tell whether there is such an account.
#[utoipa::path(post, path = "/password-resets", tag = "Passwords",
    request_body = Address,
    responses((status = 202, body = Accepted, description = "A mail may be on its way.")),
    extensions(("x-codes" = json!(["no_mail", "invalid_email", "too_many_attempts", "cross_site"]))))]
async fn request_reset(
    State(state): SharedAuthState,
    By(client): By,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Address>,
) -> Answered {
    same_origin::refuse_cross_site(&state, &headers)?;
    state.accounts.request_reset(&client, &body.email).await?;
    Ok(accepted("if there is an account with this address, a link that sets a new password is on its way"))
}

/// See whether the token of a mailed link is still good. Does not use it up.
#[utoipa::path(post, path = "/password-resets/validate", tag = "Passwords",
    request_body = LinkToken,
    responses((status = 200, body = Valid, description = "The token is good.")),
    extensions(("x-codes" = json!(["invalid_link", "too_many_attempts"]))))]
async fn validate_reset(
    State(state): SharedAuthState,
    By(client): By,
    JsonBody(body): JsonBody<LinkToken>,
) -> Answered {
    state.accounts.validate_reset(&client, body.token.expose_secret()).await?;
    Ok(answer(StatusCode::OK, &Valid { valid: true }))
}

/// Set a new password with the token of a mailed link. Every session ends.
#[utoipa::path(post, path = "/password-resets/confirm", tag = "Passwords",
    request_body = NewPassword,
    responses((status = 204, description = "The password is set.")),
    extensions(("x-codes" = json!([
        "invalid_link", "password_rejected", "too_many_attempts", "busy", "conflict", "cross_site"
    ]))))]
async fn confirm_reset(
    State(state): SharedAuthState,
    By(client): By,
    headers: HeaderMap,
    JsonBody(body): JsonBody<NewPassword>,
) -> Answered {
    same_origin::refuse_cross_site(&state, &headers)?;
    state.accounts.confirm_reset(&client, body.token.expose_secret(), body.new_password).await?;
    Ok(done())
}

/// The rules for passwords, for programs and in words.
#[utoipa::path(get, path = "/password-requirements", tag = "Passwords",
    responses((status = 200, body = PasswordRules, description = "The rules.")),
    extensions(("x-codes" = json!([]))))]
async fn password_requirements(State(state): SharedAuthState) -> Response {
    let rules = state.accounts.password_requirements();
    answer(StatusCode::OK, &PasswordRules::from(rules))
}

/// Your sessions, the latest used first.
#[utoipa::path(get, path = "/sessions", tag = "Sessions",
    security(("bearer" = []), ("session" = [])),
    responses((status = 200, body = Sessions, description = "The sessions.")),
    extensions(("x-codes" = json!(["account_disabled"]))))]
async fn list_sessions(State(state): SharedAuthState, Caller(person): Caller) -> Answered {
    // An account that is gone has no user to show anything to.
    state.accounts.profile(person).await?;
    let sessions = state.accounts.list_sessions(person).await?;
    let lives = state.accounts.session_lifetimes();
    let shown = |session| SessionView::of(session, person.session, lives);
    let sessions = sessions.iter().map(shown).collect();
    Ok(answer(StatusCode::OK, &Sessions { sessions }))
}

/// End one of your sessions.
#[utoipa::path(delete, path = "/sessions/{id}", tag = "Sessions",
    security(("bearer" = []), ("session" = [])),
    params(("id" = String, Path, format = "uuid", description = "A session's id.")),
    responses((status = 204, description = "It has ended.")),
    extensions(("x-codes" = json!(["not_found"]))))]
async fn end_session(
    State(state): SharedAuthState,
    By(client): By,
    Caller(person): Caller,
    id: Result<Path<SessionId>, PathRejection>,
) -> Answered {
    let Ok(Path(id)) = id else {
        return Err(Failure::new(404, "not_found", "there is no such session"));
    };
    state.accounts.end_sessions(&client, person, Which::One(id)).await?;
    Ok(done())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Except {
    except: Option<String>,
}

/// End all of your sessions, or all but this one.
#[utoipa::path(delete, path = "/sessions", tag = "Sessions",
    security(("bearer" = []), ("session" = [])),
    params(("except" = Option<String>, Query, description = "`current` spares the session of this request.")),
    responses((status = 204, description = "They have ended.")),
    extensions(("x-codes" = json!(["invalid_request"]))))]
async fn end_sessions(
    State(state): SharedAuthState,
    By(client): By,
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

#[cfg(test)]
mod tests;

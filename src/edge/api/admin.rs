//! `/admin/v1`: what the operator may do, behind one bearer credential, on its own listener.
//!
//! No answer and no log line holds the credential. What went wrong inside goes to the log; the caller
//! gets a stable code.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq;

use super::body::{Code, Failure, JsonBody, answer, method_not_allowed, not_found};
use super::health::{self, MetricsText};
use super::{admin_clock, admin_connections, admin_store, admin_token, admin_users};
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::SessionId;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Control, SignError};
use palisade_core::service::accounts::Accounts;
use palisade_core::service::clock::Timekeeping;
use palisade_core::service::connections::Connections;
use palisade_core::service::mint::{self, Mint, MintError};
use palisade_core::service::revoke::{self, Holder, Revoke, RevokeError, Subject};
use palisade_core::service::rotate::Rotate;
use palisade_core::service::storage::Storage;

/// What the admin API works with.
#[derive(Clone)]
pub struct AdminState {
    /// What callers must present as a bearer token. An empty one lets nobody in.
    pub credential: SecretString,
    pub storage: Storage,
    pub revoke: Revoke,
    pub mint: Mint,
    pub rotate: Rotate,
    pub timekeeping: Timekeeping,
    pub accounts: Accounts,
    pub connections: Connections,
    pub control: Arc<dyn Control>,
    pub metrics: MetricsText,
}

/// The admin listener's routes: health and metrics for anybody who reaches it, the rest for the
/// operator.
pub fn admin_router(state: AdminState) -> Router {
    let open = health::router(state.control.clone(), state.metrics.clone());
    Router::new()
        .route("/admin/v1/revocations", get(list_revocations).post(add_revocation))
        .route("/admin/v1/token-versions", post(raise_version))
        .route("/admin/v1/keys", get(list_keys))
        .route("/admin/v1/keys/rotate", post(rotate_keys))
        .route("/admin/v1/tokens", post(mint_token))
        .route("/admin/v1/reload", post(reload))
        .merge(admin_users::router())
        .merge(admin_clock::router())
        .merge(admin_connections::router())
        .merge(admin_store::router())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        // Outermost, so that a stranger learns nothing about paths, methods and bodies.
        .layer(middleware::from_fn_with_state((state.clone(), Arc::default()), only_operator))
        .with_state(state)
        .merge(open)
}

/// The second in which a call without the credential was written down last: a flood of them is told once a second.
type Told = Arc<AtomicU64>;

async fn only_operator(
    State((state, told)): State<(AdminState, Told)>,
    mut request: Request,
    next: Next,
) -> Response {
    let wanted = state.credential.expose_secret().as_bytes();
    let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
    let first = given.next().map(|value| value.as_bytes());
    let presented = match first.and_then(|value| value.split_at_checked(7)) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest.trim_ascii(),
        _ => b"",
    };
    let is_operator = !wanted.is_empty() && given.next().is_none() && bool::from(presented.ct_eq(wanted));
    if is_operator {
        let id = uuid::Uuid::now_v7().to_string();
        request.extensions_mut().insert(RequestId(id.clone()));
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let peer = request.extensions().get().map(|Peer(address)| *address);
        let mut response = next.run(request).await;
        let status = response.status();
        if (status.is_client_error() || status.is_server_error()) && method != Method::GET {
            let code = response.extensions().get().map_or("failed", |Code(code)| code);
            let outcome = if status.is_client_error() { Outcome::Denied } else { Outcome::Failed };
            state.accounts.note_admin_call(&id, peer, outcome, code, (method.as_str(), &path));
        }
        if let Ok(id) = id.parse() {
            response.headers_mut().insert("x-request-id", id);
        }
        return response;
    }
    let now = state.accounts.now().0;
    if told.swap(now, Ordering::Relaxed) != now {
        let peer = request.extensions().get().map(|Peer(address)| *address);
        let reason = if first.is_some() { "wrong_credential" } else { "no_credential" };
        let call = (request.method().as_str(), request.uri().path());
        state.accounts.note_admin_call("", peer, Outcome::Denied, reason, call);
    }
    let cure = "send `Authorization: Bearer` with the admin credential; it is in `admin.token` in the \
                data folder";
    Failure::new(401, "unauthorized", cure).challenging("Bearer realm=\"palisade-admin\"").into_response()
}

/// Who a call comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// The id of an operator's request, in its answer and in the audit log.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<RequestId, Infallible> {
        // Every request that gets this far was given one.
        Ok(parts.extensions.get().cloned().unwrap_or(RequestId(String::new())))
    }
}

/// A moment: seconds since the epoch, or RFC 3339.
#[derive(Debug)]
pub(super) struct Moment(pub(super) UnixTime);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Moment, D::Error> {
        let cure = "expected seconds since 1970 or a moment such as \"2026-01-31T12:00:00Z\"";
        let moment = match NumberOrText::deserialize(deserializer) {
            Ok(NumberOrText::Number(seconds)) => Some(UnixTime(seconds)),
            Ok(NumberOrText::Text(text)) => humantime::parse_rfc3339_weak(&text)
                .ok()
                .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
                .map(|since| UnixTime(since.as_secs())),
            Err(_) => None,
        };
        moment.map(Moment).ok_or_else(|| serde::de::Error::custom(cure))
    }
}

/// How far a revocation by time reaches: `"now"`, or a moment.
#[derive(Debug)]
enum Cutoff {
    Now,
    At(UnixTime),
}

impl<'de> Deserialize<'de> for Cutoff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cutoff, D::Error> {
        let given = serde_json::Value::deserialize(deserializer)?;
        if given == "now" {
            return Ok(Cutoff::Now);
        }
        let cure = "expected \"now\", seconds since 1970 or a moment such as \"2026-01-31T12:00:00Z\"";
        let moment = Moment::deserialize(given).map_err(|_| serde::de::Error::custom(cure))?;
        Ok(Cutoff::At(moment.0))
    }
}

/// A span: seconds, or text such as `30m`.
#[derive(Debug)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let cure = "expected a number of seconds or a span such as \"30m\"";
        let span = match NumberOrText::deserialize(deserializer) {
            Ok(NumberOrText::Number(seconds)) => Some(Duration::from_secs(seconds)),
            Ok(NumberOrText::Text(text)) => humantime::parse_duration(&text).ok(),
            Err(_) => None,
        };
        span.map(Span).ok_or_else(|| serde::de::Error::custom(cure))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRevocation {
    token: Option<String>,
    jti: Option<String>,
    sid: Option<String>,
    sub: Option<String>,
    before: Option<Cutoff>,
    issuer: Option<String>,
    reason: Option<String>,
    expires_in: Option<Span>,
    /// With `token`: its session ends as well.
    #[serde(default)]
    session: bool,
}

impl NewRevocation {
    fn into_request(self) -> Result<revoke::Request, Failure> {
        let mut issuer = self.issuer;
        let subject = match (self.token, self.jti, self.sid, self.sub, self.before) {
            (Some(token), None, None, None, None) => {
                let claimed =
                    admin_token::read(&token).map_err(|(code, why)| Failure::new(422, code, why))?;
                issuer = issuer.or(claimed.issuer);
                let holder = claimed.session.map(|sid| Holder { sub: claimed.subject, sid });
                Subject::Token { jti: claimed.jti, expires_at: claimed.expires_at, holder }
            }
            (None, Some(jti), None, None, None) => Subject::TokenId(jti),
            (None, None, Some(sid), None, None) => Subject::Session(sid),
            (None, None, None, Some(sub), None) => Subject::Subject(sub),
            (None, None, None, None, Some(Cutoff::Now)) => Subject::IssuedSoFar,
            (None, None, None, None, Some(Cutoff::At(moment))) => Subject::IssuedBefore(moment),
            _ => {
                let cure = "name exactly one of `token`, `jti`, `sid`, `sub` and `before`";
                return Err(Failure::new(422, "invalid_request", cure));
            }
        };
        let expires_in = self.expires_in.map(|span| span.0);
        Ok(revoke::Request { subject, issuer, reason: self.reason, expires_in, end_session: self.session })
    }
}

async fn add_revocation(
    State(state): State<AdminState>,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<NewRevocation>,
) -> Result<Response, Failure> {
    let revoked = state.revoke.revoke(body.into_request()?).await?;
    let entry = &revoked.entry;
    state.accounts.note_operator(&id, Action::Revoke, named(&entry.target, entry.reason.as_deref()));
    state.accounts.note_ended_by_operator(&id, &revoked.ended, "revoked");
    let body = NewEntry {
        entry,
        sessions_ended: revoked.sessions_ended,
        live_session: revoked.live_session,
        account: revoked.account.as_ref(),
    };
    Ok(answer(StatusCode::CREATED, &body))
}

/// What a revocation is answered with: its entry, and what became of sessions.
#[derive(Serialize)]
struct NewEntry<'a> {
    #[serde(flatten)]
    entry: &'a Revocation,
    /// Null: those of another issuer are not kept here.
    sessions_ended: Option<u64>,
    live_session: Option<SessionId>,
    account: Option<&'a EmailAddress>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
}

async fn list_revocations(
    State(state): State<AdminState>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Failure> {
    let cure = "the only parameter is `limit`, a whole number up to 1000";
    let limit = match query {
        Ok(Query(Listing { limit })) => limit.unwrap_or(100),
        Err(_) => return Err(Failure::new(400, "invalid_request", cure)),
    };
    if limit == 0 || limit > revoke::MAX_LISTED {
        return Err(Failure::new(400, "invalid_request", cure));
    }
    let entries = state.revoke.recent(limit).await?;
    Ok(answer(StatusCode::OK, &json!({"revocations": entries})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewVersion {
    sub: Option<String>,
    /// Everybody's, instead of one subject's.
    #[serde(default)]
    all: bool,
    issuer: Option<String>,
    reason: Option<String>,
    grace: Option<Span>,
}

async fn raise_version(
    State(state): State<AdminState>,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<NewVersion>,
) -> Result<Response, Failure> {
    let grace = body.grace.map(|span| span.0);
    let whose = body.sub.as_deref().map_or_else(|| "everybody".to_owned(), |sub| format!("sub {sub}"));
    let because = body.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let raised = match (body.sub, body.all, &body.issuer) {
        (Some(sub), false, _) => state.revoke.raise_version(body.issuer, sub, body.reason, grace).await?,
        (None, true, None) => state.revoke.raise_all(body.reason, grace).await?,
        _ => {
            let cure = "name a `sub`, or everybody of our own issuer with `all: true`";
            return Err(Failure::new(422, "invalid_request", cure));
        }
    };
    let in_force_at = raised.in_force_at;
    state.accounts.note_operator(&id, Action::RaiseVersion, format!("{whose}{because}"));
    Ok(answer(StatusCode::OK, &json!({"version": raised.version, "in_force_at": in_force_at})))
}

async fn list_keys(State(state): State<AdminState>) -> Response {
    answer(StatusCode::OK, &json!({"keys": state.rotate.list()}))
}

async fn rotate_keys(State(state): State<AdminState>, RequestId(id): RequestId) -> Result<Response, Failure> {
    let keys = state.rotate.rotate().await.map_err(|SignError(why)| {
        tracing::warn!(%why, "the signing keys were not rotated");
        // The message of this error never holds key material, and the operator needs it.
        Failure::new(409, "keys_not_rotated", why)
    })?;
    state.accounts.note_operator(&id, Action::RotateKeys, String::new());
    Ok(answer(StatusCode::OK, &json!({"keys": keys})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    sub: String,
    email: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    ttl: Option<Span>,
}

async fn mint_token(
    State(state): State<AdminState>,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<NewToken>,
) -> Result<Response, Failure> {
    let ttl = body.ttl.map(|span| span.0);
    let whose = format!("sub {}", body.sub);
    let request = mint::Request { sub: body.sub, email: body.email, scopes: body.scopes, ttl };
    let minted = state.mint.mint(request).await?;
    let what = format!("{whose}, jti {}", minted.signed.token_id);
    state.accounts.note_operator(&id, Action::MintToken, what);
    let body = json!({
        "access_token": minted.signed.token,
        "token_type": "Bearer",
        "expires_in": minted.ttl.as_secs(),
        "expires_at": minted.signed.expires_at,
        "jti": minted.signed.token_id,
    });
    Ok(answer(StatusCode::CREATED, &body))
}

async fn reload(State(state): State<AdminState>, RequestId(id): RequestId) -> Response {
    let outcome = state.control.reload().await;
    let noted = if outcome.is_ok() { Outcome::Success } else { Outcome::Failed };
    state.accounts.note_outcome(&id, Action::Reload, noted, String::new());
    match outcome {
        Ok(notes) => answer(StatusCode::OK, &json!({"reloaded": true, "notes": notes})),
        Err(errors) => {
            let detail = format!("{}; the last good configuration stays in force", errors.join("; "));
            let mut response = Failure::new(422, "configuration_invalid", detail.clone()).into_response();
            // RFC 9457 §3.2: an extension member, one message each.
            let problem = json!({
                "type": "about:blank", "status": 422, "title": "Unprocessable Content",
                "detail": detail, "code": "configuration_invalid", "errors": errors,
            });
            *response.body_mut() = problem.to_string().into();
            response
        }
    }
}

/// What a revocation names, for the audit log.
fn named(target: &Target, reason: Option<&str>) -> String {
    let (kind, issuer, name) = target.key();
    let because = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{kind:?} {name} of {issuer}{because}")
}

impl From<RevokeError> for Failure {
    fn from(error: RevokeError) -> Failure {
        match error {
            RevokeError::Invalid(why) => Failure::new(422, "invalid_request", why),
            RevokeError::Store(error) => error.into(),
        }
    }
}

impl From<MintError> for Failure {
    fn from(error: MintError) -> Failure {
        match error {
            MintError::Invalid(why) => Failure::new(422, "invalid_request", why),
            MintError::Store(error) => error.into(),
            MintError::Sign(error) => {
                tracing::error!(%error, "no token was minted");
                Failure::new(503, "signing_unavailable", "there is no usable signing key")
            }
        }
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;

//! `/admin/v1/revocations` and `/admin/v1/token-versions`: tokens are revoked one by one, or by a cutoff.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::body::{JsonBody, answer};
use super::super::failure::Failure;
use super::claimed;
use super::input::{Cutoff, Span};
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::domain::audit::Action;
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::SessionId;
use palisade_core::service::revoke::{self, RevokeError, SessionClaim, Subject};

pub(super) fn router() -> Router<AdminState> {
    Router::new()
        .route("/admin/v1/revocations", get(list_revocations).post(add_revocation))
        .route("/admin/v1/token-versions", post(raise_version))
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
    fn into_request(self) -> Result<revoke::RevokeRequest, Failure> {
        let mut issuer = self.issuer;
        let subject = match (self.token, self.jti, self.sid, self.sub, self.before) {
            (Some(token), None, None, None, None) => {
                let claimed = claimed::read(&token).map_err(|(code, why)| Failure::new(422, code, why))?;
                issuer = issuer.or(claimed.issuer);
                let holder = claimed.session.map(|sid| SessionClaim { sub: claimed.subject, sid });
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
        Ok(revoke::RevokeRequest {
            subject,
            issuer,
            reason: self.reason,
            expires_in,
            end_session: self.session,
        })
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

//! `/admin/v1/revocations` and `/admin/v1/token-versions`: tokens are revoked one by one, or by a cutoff.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::{JsonBody, answer};
use super::super::failure::Failure;
use super::claimed;
use super::input::{Cutoff, NumberOrText, Span};
use super::operator::RequestId;
use super::query::bad_query;
use super::schema::{CreatedRevocation, RaisedVersion, RevocationEntry, RevocationList};
use super::state::AdminState;
use palisade_core::domain::audit::Action;
use palisade_core::domain::revocation::Target;
use palisade_core::service::revoke::{self, RevokeError, SessionClaim, Subject};

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new().routes(routes!(list_revocations, add_revocation)).routes(routes!(raise_version))
}

/// What is to be revoked: exactly one of `token`, `jti`, `sid`, `sub` and `before`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"sid": "019b1e21-0a4b-7b8e-8c7d-5a1e9f3b2d60", "reason": "lost phone"}))]
struct NewRevocation {
    /// A whole token; its `jti` is revoked. Its signature is not checked.
    token: Option<String>,
    jti: Option<String>,
    sid: Option<String>,
    sub: Option<String>,
    /// Everything that was signed until then: `now`, seconds since 1970, or a moment as in RFC 3339.
    #[schema(value_type = Option<NumberOrText>)]
    before: Option<Cutoff>,
    /// Our own without it, or that of `token`.
    issuer: Option<String>,
    /// For the audit log and the list of revocations.
    reason: Option<String>,
    /// How long it is kept, where it is not known when the last token ends: seconds, or a span such as `2h`.
    #[schema(value_type = Option<NumberOrText>)]
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

/// Revoke tokens: one, a session's, a subject's, or all from before a moment.
#[utoipa::path(post, path = "/admin/v1/revocations", tag = "Revocations",
    request_body = NewRevocation,
    security(("operator" = [])),
    responses((status = 201, body = CreatedRevocation, description = "They are refused from the next request on.")),
    extensions(("x-codes" = json!(["invalid_request", "token_malformed", "token_without_id"]))))]
async fn add_revocation(
    State(state): State<AdminState>,
    RequestId(id): RequestId,
    JsonBody(body): JsonBody<NewRevocation>,
) -> Result<Response, Failure> {
    let revoked = state.revoke.revoke(body.into_request()?).await?;
    let entry = &revoked.entry;
    state.accounts.note_operator(&id, Action::Revoke, target_text(&entry.target, entry.reason.as_deref()));
    state.accounts.note_ended_by_operator(&id, &revoked.ended, "revoked");
    Ok(answer(StatusCode::CREATED, &CreatedRevocation::from(&revoked)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// At most so many, up to 1000; 100 without it.
    limit: Option<usize>,
}

/// The latest revocations.
#[utoipa::path(get, path = "/admin/v1/revocations", tag = "Revocations",
    params(Listing),
    security(("operator" = [])),
    responses((status = 200, body = RevocationList, description = "Those that are in force, newest first.")),
    extensions(("x-codes" = json!([]))))]
async fn list_revocations(
    State(state): State<AdminState>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Failure> {
    let cure = "the only parameter is `limit`, a whole number up to 1000";
    let limit = match query {
        Ok(Query(Listing { limit })) => limit.unwrap_or(100),
        Err(_) => return Err(bad_query(cure)),
    };
    if limit == 0 || limit > revoke::MAX_LISTED {
        return Err(bad_query(cure));
    }
    let entries = state.revoke.recent(limit).await?;
    let revocations = entries.iter().map(RevocationEntry::from).collect();
    Ok(answer(StatusCode::OK, &RevocationList { revocations }))
}

/// Whose tokens are to be replaced: a `sub`, or `all`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"sub": "service-1", "grace": "10m"}))]
struct NewVersion {
    sub: Option<String>,
    /// Those of all subjects of our own issuer, instead of one.
    #[serde(default)]
    all: bool,
    /// Our own without it.
    issuer: Option<String>,
    reason: Option<String>,
    /// How long the older tokens are good yet: a number of seconds, or a span such as `10m`.
    #[schema(value_type = Option<NumberOrText>)]
    grace: Option<Span>,
}

/// Raise the token version of a subject, or the generation of all tokens: older tokens are refused, sessions live on
/// and bring new ones.
#[utoipa::path(post, path = "/admin/v1/token-versions", tag = "Revocations",
    request_body = NewVersion,
    security(("operator" = [])),
    responses((status = 200, body = RaisedVersion, description = "It is raised.")),
    extensions(("x-codes" = json!(["invalid_request"]))))]
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
    state.accounts.note_operator(&id, Action::RaiseVersion, format!("{whose}{because}"));
    Ok(answer(StatusCode::OK, &RaisedVersion::from(&raised)))
}

/// What a revocation names, for the audit log.
fn target_text(target: &Target, reason: Option<&str>) -> String {
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

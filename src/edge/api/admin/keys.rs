//! `/admin/v1/keys` and `/admin/v1/tokens`: the signing keys, and access tokens that an operator mints.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::super::body::{JsonBody, answer};
use super::super::failure::Failure;
use super::input::Span;
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::domain::audit::Action;
use palisade_core::ports::SignError;
use palisade_core::service::mint::{self, MintError};

pub(super) fn router() -> Router<AdminState> {
    Router::new()
        .route("/admin/v1/keys", get(list_keys))
        .route("/admin/v1/keys/rotate", post(rotate_keys))
        .route("/admin/v1/tokens", post(mint_token))
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
    let request = mint::MintRequest { sub: body.sub, email: body.email, scopes: body.scopes, ttl };
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

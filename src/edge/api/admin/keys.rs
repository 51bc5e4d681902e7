//! `/admin/v1/keys` and `/admin/v1/tokens`: the signing keys, and access tokens that an operator mints.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::{JsonBody, answer};
use super::super::failure::Failure;
use super::input::{NumberOrText, Span};
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::domain::audit::Action;
use palisade_core::ports::{KeyInfo, KeyState, SignError};
use palisade_core::service::mint::{self, MintError, Minted};

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new().routes(routes!(list_keys)).routes(routes!(rotate_keys)).routes(routes!(mint_token))
}

/// The signing keys.
#[utoipa::path(get, path = "/admin/v1/keys", tag = "Keys",
    security(("operator" = [])),
    responses((status = 200, body = KeyList, description = "Every key that verifies.")),
    extensions(("x-codes" = json!([]))))]
async fn list_keys(State(state): State<AdminState>) -> Response {
    answer(StatusCode::OK, &KeyList::from(state.rotate.list()))
}

/// Rotate the signing keys: the published next key signs, and the active one only verifies.
#[utoipa::path(post, path = "/admin/v1/keys/rotate", tag = "Keys",
    security(("operator" = [])),
    responses((status = 200, body = KeyList, description = "The keys as they are now.")),
    extensions(("x-codes" = json!(["keys_not_rotated"]))))]
async fn rotate_keys(State(state): State<AdminState>, RequestId(id): RequestId) -> Result<Response, Failure> {
    let keys = state.rotate.rotate().await.map_err(|error| {
        tracing::warn!(why = %error.0, "the signing keys were not rotated");
        not_rotated(error)
    })?;
    state.accounts.note_operator(&id, Action::RotateKeys, String::new());
    Ok(answer(StatusCode::OK, &KeyList::from(keys)))
}

/// The message of this error never holds key material, and the operator needs it.
pub(super) fn not_rotated(SignError(why): SignError) -> Failure {
    Failure::new(409, "keys_not_rotated", why)
}

/// The token that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"sub": "service-1", "scopes": ["read"], "ttl": "30m"}))]
struct NewToken {
    sub: String,
    email: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    /// How long it is good: a number of seconds, or a span such as `30m`.
    #[schema(value_type = Option<NumberOrText>)]
    ttl: Option<Span>,
}

/// Mint an access token of our own issuer.
#[utoipa::path(post, path = "/admin/v1/tokens", tag = "Keys",
    request_body = NewToken,
    security(("operator" = [])),
    responses((status = 201, body = MintedToken, description = "The token.")),
    extensions(("x-codes" = json!(["invalid_request", "signing_unavailable"]))))]
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
    Ok(answer(StatusCode::CREATED, &MintedToken::from(minted)))
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

/// A signing key, without anything secret.
#[derive(Serialize, ToSchema)]
struct KeyEntry {
    kid: String,
    algorithm: String,
    /// `next` (published, not yet signing), `active`, or `retired` (no longer signing, still verifying).
    #[schema(value_type = String)]
    state: KeyState,
    created_at: u64,
    /// When it began to sign.
    #[schema(required)]
    activated_at: Option<u64>,
    /// When it stopped signing.
    #[schema(required)]
    retired_at: Option<u64>,
}

/// The signing keys, the active one first.
#[derive(Serialize, ToSchema)]
struct KeyList {
    keys: Vec<KeyEntry>,
}

impl From<Vec<KeyInfo>> for KeyList {
    fn from(keys: Vec<KeyInfo>) -> KeyList {
        let entry = |key: KeyInfo| KeyEntry {
            kid: key.kid,
            algorithm: key.algorithm,
            state: key.state,
            created_at: key.created_at.0,
            activated_at: key.activated_at.map(|at| at.0),
            retired_at: key.retired_at.map(|at| at.0),
        };
        KeyList { keys: keys.into_iter().map(entry).collect() }
    }
}

/// An access token that was minted.
#[derive(Serialize, ToSchema)]
struct MintedToken {
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds until it ends.
    expires_in: u64,
    expires_at: u64,
    jti: String,
}

impl From<Minted> for MintedToken {
    fn from(minted: Minted) -> MintedToken {
        MintedToken {
            access_token: minted.signed.token,
            token_type: "Bearer",
            expires_in: minted.ttl.as_secs(),
            expires_at: minted.signed.expires_at.0,
            jti: minted.signed.token_id,
        }
    }
}

//! Deleting one's own account.

use std::sync::Arc;

use axum::extract::State;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::{OptionalJsonBody, done};
use super::caller::{By, CallerBy, Means};
use super::session_cookies;
use super::state::{Answered, AuthState, SharedAuthState};

pub(super) fn endpoints() -> OpenApiRouter<Arc<AuthState>> {
    OpenApiRouter::new().routes(routes!(delete))
}

#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"current_password": "Correct horse 42"}))]
pub(super) struct Deletion {
    /// Needed unless the session of the request began within the last ten minutes.
    #[schema(value_type = Option<String>, format = Password)]
    current_password: Option<SecretString>,
}

/// Delete your account, with everything it has, for good.
///
/// Every session and access token ends, and so do the grants at providers. A letter says that it was done. It takes the
/// password, or a session that began within the last ten minutes; a refresh does not make a session younger.
///
/// While a change of the account's address can be undone, for three days, the account cannot be deleted: the answer is
/// `email_change_undoable`.
#[utoipa::path(delete, path = "/me", tag = "Accounts",
    request_body = Option<Deletion>,
    security(("bearer" = []), ("session" = [])),
    responses((status = 204, description = "The account is gone.",
        headers(("Set-Cookie" = String, description = "Takes the session cookie back."),
            ("Clear-Site-Data" = String, description = "For a session in a cookie: the browser's cache.")))),
    extensions(("x-codes" = json!([
        "wrong_password", "fresh_sign_in_needed", "email_change_undoable", "account_disabled",
        "too_many_attempts", "busy", "conflict"
    ]))))]
async fn delete(
    State(state): SharedAuthState,
    By(client): By,
    CallerBy(person, means): CallerBy,
    OptionalJsonBody(body): OptionalJsonBody<Deletion>,
) -> Answered {
    state.accounts.delete_account(&client, person, body.current_password).await?;
    let mut response = done();
    if means == Means::Cookie {
        session_cookies::end(&state, &mut response)?;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{access, api};
    use palisade_core::domain::mail::Letter;
    use palisade_testing::accounts_world::{ANN, PASSWORD};

    #[tokio::test]
    async fn an_account_is_deleted_by_its_owner_alone() {
        let api = api();
        let id = api.ann().await;
        let (token, other) = (access(&api.login().await), access(&api.login().await));
        let delete = async |token: &str, body: Value| api.ask("DELETE", "/me", Some(token), &body).await;
        let by = |password: &str| json!({"current_password": password});
        let without = api.ask("DELETE", "/me", None, &by(PASSWORD)).await;
        assert_eq!(without.refusal(), (401, "token_missing".into()));
        assert_eq!(delete("they/ann", by(PASSWORD)).await.refusal(), (403, "no_account".into()));
        assert_eq!(delete(&token, by("wrong")).await.refusal(), (403, "wrong_password".into()));
        assert_eq!(
            delete(&token, json!({"password": PASSWORD})).await.refusal(),
            (400, "invalid_json".into())
        );
        api.world.clock.advance(600);
        for body in [Value::Null, json!({})] {
            assert_eq!(delete(&token, body).await.refusal(), (403, "fresh_sign_in_needed".into()));
        }
        let minted = format!("{id}.v0");
        assert_eq!(delete(&minted, Value::Null).await.refusal(), (403, "fresh_sign_in_needed".into()));
        assert_eq!(delete(&token, by(PASSWORD)).await.status, 204);
        for ended in [&token, &other] {
            assert_eq!(api.get("/me", ended).await.refusal(), (401, "invalid_token".into()));
        }
        let credentials = json!({"email": ANN, "password": PASSWORD});
        assert_eq!(api.post("/login", &credentials).await.refusal(), (401, "invalid_credentials".into()));
        assert_eq!(api.world.newest(Letter::AccountDeleted).await.to.as_str(), ANN);
    }

    #[tokio::test]
    async fn a_fresh_sign_in_needs_no_password_and_an_undoable_change_keeps_the_account() {
        let api = api();
        api.ann().await;
        assert_eq!(
            api.ask("DELETE", "/me", Some(&access(&api.login().await)), &Value::Null).await.status,
            204
        );
        api.ann().await;
        let granted = api.world.login().await;
        api.world.move_to(&granted, "ann@new.test").await;
        let credentials = json!({"email": "ann@new.test", "password": PASSWORD});
        let token = access(&api.post("/login", &credentials).await.body());
        let kept = api.ask("DELETE", "/me", Some(&token), &Value::Null).await;
        assert_eq!(kept.refusal(), (409, "email_change_undoable".into()));
        assert!(kept.body()["until"].is_u64(), "{kept:?}");
    }
}

//! A change of address, its undo, and the objection to that, as callers see them.

use serde_json::{Value, json};

use super::super::tests::{Api, access, api};
use palisade_core::domain::mail::Letter;
use palisade_testing::accounts_world::{ANN, PASSWORD};

const NEW: &str = "ann@new.test";

impl Api {
    /// Asks for another address. Returns the token of the link to it.
    async fn ask_for(&self, token: &str, email: &str) -> String {
        let body = json!({"email": email, "current_password": PASSWORD});
        let asked = self.ask("PATCH", "/me", Some(token), &body).await;
        assert_eq!(asked.status, 200, "{asked:?}");
        self.world.accounts.do_due_tasks().await.unwrap();
        self.mailed(Letter::ConfirmEmail).await
    }

    /// Ann, whose address was changed. Returns the token of the link that undoes it.
    async fn moved(&self) -> String {
        self.ann().await;
        let token = access(&self.login().await);
        let link = json!({"token": self.ask_for(&token, NEW).await});
        assert_eq!(self.ask("POST", "/verify-email", Some(&token), &link).await.status, 200);
        self.mailed(Letter::EmailReplaced).await
    }
}

#[tokio::test]
async fn a_link_to_a_new_address_needs_a_session_of_the_account_or_its_password() {
    let api = api();
    let id = api.ann().await;
    let tokens = api.login().await;
    let (token, other) = (access(&tokens), access(&api.login().await));
    let link = api.ask_for(&token, NEW).await;
    let verify =
        async |token: Option<&str>, body: &Value| api.ask("POST", "/verify-email", token, body).await;
    let alone = json!({"token": link});
    let needed = verify(None, &alone).await;
    assert_eq!(needed.refusal(), (403, "proof_needed".into()));
    assert_eq!(needed.body()["ways"], json!(["password", "access_token"]));
    assert_eq!(verify(Some("expired"), &alone).await.refusal(), (401, "invalid_token".into()));
    let stranger = format!("{}.v0", uuid::Uuid::from_u128(77));
    assert_eq!(verify(Some(&stranger), &alone).await.refusal(), (403, "proof_needed".into()));
    assert_eq!(verify(Some("they/ann"), &alone).await.refusal(), (403, "proof_needed".into()));
    let wrong = json!({"token": link, "password": "wrong"});
    assert_eq!(verify(None, &wrong).await.refusal(), (403, "wrong_password".into()));
    let changed = verify(Some(&token), &alone).await;
    assert_eq!((changed.status, &changed.body()["email"]), (200, &json!(NEW)));
    assert_eq!(changed.body()["id"], id.to_string());
    for old in [&token, &other] {
        assert_eq!(api.get("/me", old).await.status, 401, "it says an address that is not true any more");
    }
    let next = api.post("/refresh", &json!({"refresh_token": tokens["refresh_token"]})).await.body();
    assert_eq!(api.get("/me", &access(&next)).await.body()["email"], NEW, "its session goes on");

    let link = api.ask_for(&access(&next), "ann@newer.test").await;
    let typed = json!({"token": link, "password": PASSWORD});
    // A token that is not good does no harm beside a password.
    assert_eq!(verify(Some("expired"), &typed).await.body()["email"], "ann@newer.test");
    let next = api.post("/refresh", &json!({"refresh_token": next["refresh_token"]})).await;
    assert_eq!(next.refusal(), (401, "invalid_refresh_token".into()), "without a session, all of them end");
}

#[tokio::test]
async fn an_access_token_that_is_not_good_does_no_harm_to_a_registration() {
    let api = api();
    api.register(ANN).await;
    let link = json!({"token": api.mailed(Letter::VerifyEmail).await});
    assert_eq!(api.ask("POST", "/verify-email", Some("expired"), &link).await.status, 200);
}

#[tokio::test]
async fn an_undo_is_taken_once_and_an_objection_leaves_it_to_an_operator() {
    let api = api();
    let undo = json!({"token": api.moved().await});
    let object = async |token: &str| api.post("/email-changes/object", &json!({"token": token})).await;
    assert_eq!(object("x").await.refusal(), (400, "invalid_link".into()));
    for misused in ["/verify-email", "/email-changes/object", "/password-resets/validate"] {
        assert_eq!(api.post(misused, &undo).await.refusal(), (400, "invalid_link".into()), "{misused}");
    }
    let undone = api.post("/email-changes/undo", &undo).await;
    assert_eq!((undone.status, undone.text.as_str()), (204, ""));
    assert_eq!(api.post("/email-changes/undo", &undo).await.refusal(), (400, "invalid_link".into()));
    for email in [ANN, NEW] {
        let login = api.post("/login", &json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(login.refusal(), (401, "invalid_credentials".into()));
        assert_eq!(api.post("/password-resets", &json!({"email": email})).await.status, 202);
    }
    api.world.accounts.do_due_tasks().await.unwrap();
    let letters = api.world.letters().await;
    assert!(!letters.iter().any(|(letter, _)| *letter == Letter::ResetPassword), "{letters:?}");
    let objection = api.mailed(Letter::EmailChangeDisputed).await;
    assert_eq!(object(&objection).await.status, 204);
    assert_eq!(object(&objection).await.refusal(), (400, "invalid_link".into()));
}

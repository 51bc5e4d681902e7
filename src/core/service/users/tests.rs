//! What an operator does with accounts, over the fakes.

use serde_json::json;

use palisade_core::domain::account::PasswordHash;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Store;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::users::{MadeAccount, NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{ANN, PASSWORD, PasswordLogin, client, secret, world};

#[tokio::test]
async fn an_outdated_hash_is_replaced_at_login() {
    let world = world();
    let new = NewUser {
        email: Some(ANN.into()),
        username: None,
        groups: Vec::new(),
        name: None,
        password: NewPassword::Imported(PasswordHash(format!("old:{PASSWORD}"))),
        email_verified: true,
        scopes: vec!["read".into()],
        claims: json!({"role": "admin"}).as_object().unwrap().clone(),
    };
    let MadeAccount { user, password, .. } = world.accounts.create_user("", new).await.unwrap();
    assert!(password.is_none());
    world.login().await;
    let kept = world.store.user(user.id).await.unwrap().unwrap().password.unwrap();
    assert_eq!(kept.0, format!("hash:{PASSWORD}"));
}

#[tokio::test]
async fn an_operator_disables_enables_and_deletes() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let active = |active| UserEdit { active: Some(active), ..UserEdit::default() };
    world.accounts.update_user("", ann.id, active(false)).await.unwrap();
    assert_eq!(world.store.version("https://us.test", &ann.id.to_string()).await.unwrap(), 1);
    assert!(world.refresh(&granted.refresh_token).await.is_err());
    let login = world.accounts.login(&client(), ANN, secret(PASSWORD)).await;
    assert!(matches!(login, Err(AccountError::Disabled)));
    world.accounts.update_user("", ann.id, active(true)).await.unwrap();
    world.login().await;
    let until = UnixTime(world.clock_now() + 60);
    let locked = UserEdit { locked_until: Some(until), ..UserEdit::default() };
    world.accounts.update_user("", ann.id, locked).await.unwrap();
    let login = world.accounts.login(&client(), ANN, secret(PASSWORD)).await;
    assert!(matches!(login, Err(AccountError::Locked(at)) if at == until));
    world.clock.advance(60);
    world.login().await;
    world.accounts.delete_user("", ann.id).await.unwrap();
    assert!(matches!(world.accounts.show_user(ann.id).await, Err(AccountError::NotFound(_))));
    assert!(world.accounts.login(&client(), ANN, secret(PASSWORD)).await.is_err());
}

/// A session from before an operator took the verification away does not work again once the address is verified
/// anew.
#[tokio::test]
async fn a_session_does_not_outlive_the_verification_of_the_address() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
    world.accounts.update_user("", ann.id, edit).await.unwrap();
    assert!(world.store.sessions(ann.id).await.unwrap().is_empty());
    world.accounts.resend_verification(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let token = world.token(Letter::VerifyEmail).await;
    world.accounts.verify_email(&client(), &token).await.unwrap();
    assert!(world.refresh(&granted.refresh_token).await.is_err());
    world.login().await;
}

#[tokio::test]
async fn an_operators_reset_takes_the_password_away() {
    let world = world();
    let ann = world.ann().await;
    world.accounts.reset_password_of("", ann.id).await.unwrap();
    assert!(world.accounts.login(&client(), ANN, secret(PASSWORD)).await.is_err());
    let token = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &token, secret("a new password")).await.unwrap();
    world.accounts.login(&client(), ANN, secret("a new password")).await.unwrap();
}

#[tokio::test]
async fn claims_cannot_pass_for_the_gateways_own() {
    let world = world();
    let ann = world.ann().await;
    for claims in [json!({"sub": "root"}), json!({"x": "y".repeat(5000)})] {
        let claims = claims.as_object().cloned();
        let edit = UserEdit { claims, ..UserEdit::default() };
        assert!(matches!(world.accounts.update_user("", ann.id, edit).await, Err(AccountError::Invalid(_))));
    }
    let edit = UserEdit { scopes: Some(vec!["a b".into()]), ..UserEdit::default() };
    assert!(matches!(world.accounts.update_user("", ann.id, edit).await, Err(AccountError::Invalid(_))));
    let new = |scopes: &[&str], claims: serde_json::Value| NewUser {
        email: Some("bob@example.com".into()),
        username: None,
        groups: Vec::new(),
        name: None,
        password: NewPassword::Generated,
        email_verified: true,
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        claims: claims.as_object().unwrap().clone(),
    };
    for new in [new(&[], json!({"sub": "root"})), new(&["a b"], json!({}))] {
        assert!(matches!(world.accounts.create_user("", new).await, Err(AccountError::Invalid(_))));
    }
    world.accounts.create_user("", new(&["a"], json!({"role": "admin"}))).await.unwrap();
}

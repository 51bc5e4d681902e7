//! What the audit log holds: refusals and ends too, and no address without an account.

use secrecy::ExposeSecret;
use serde_json::json;

use palisade_core::domain::audit::{Action, Event, Outcome};
use palisade_core::domain::mail::Letter;
use palisade_core::service::profile::Edit;
use palisade_core::service::users::UserEdit;
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, client, person, secret, world,
};

const BOB: &str = "bob@example.com";

/// The reasons of the events of this action that were turned away.
fn denied(world: &AccountsWorld, action: Action) -> Vec<String> {
    of(world, action)
        .into_iter()
        .filter(|event| event.outcome == Outcome::Denied)
        .map(|event| event.reason.unwrap_or_default())
        .collect()
}

fn of(world: &AccountsWorld, action: Action) -> Vec<Event> {
    world.audit.0.lock().unwrap().iter().filter(|event| event.action == action).cloned().collect()
}

/// By what sessions have ended, in the order they did.
fn ended(world: &AccountsWorld) -> Vec<String> {
    of(world, Action::EndSession).into_iter().map(|event| event.reason.unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_refused_refresh_says_why() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    world.refresh(&secret("nonsense")).await.unwrap_err();
    let next = world.refresh(&granted.refresh_token).await.unwrap();
    world.clock.advance(60);
    world.refresh(&granted.refresh_token).await.unwrap_err();
    world.refresh(&next.refresh_token).await.unwrap_err();
    let expired = world.login().await;
    world.clock.advance(86_400);
    world.refresh(&expired.refresh_token).await.unwrap_err();
    assert_eq!(denied(&world, Action::Refresh), ["unknown_token", "session_unknown", "session_expired"]);
    assert_eq!(denied(&world, Action::RefreshReuse), ["session_ended"]);
    assert_eq!(ended(&world), ["refresh_token_reused"]);
    let refused = &of(&world, Action::Refresh);
    assert!(refused.iter().any(|event| event.user == Some(ann.id) && event.outcome == Outcome::Denied));
    // What is gone is not written about under its id.
    let left = world.login().await;
    world.accounts.delete_user("r", ann.id).await.unwrap();
    world.refresh(&left.refresh_token).await.unwrap_err();
    let last = of(&world, Action::Refresh).pop().unwrap();
    assert_eq!((last.user, last.session, last.reason.as_deref()), (None, None, Some("account_gone")));
}

#[tokio::test]
async fn every_end_of_a_session_says_by_what() {
    let world = world();
    let ann = world.ann().await;
    for _ in 0..4 {
        world.login().await;
    }
    assert_eq!(ended(&world), ["too_many_sessions"]);
    let granted = world.login().await;
    let new = "another horse";
    world.accounts.change_password(&client(), person(&granted), secret(PASSWORD), secret(new)).await.unwrap();
    // Its own goes on under another id.
    assert_eq!(ended(&world)[2..], ["password_changed"; 3]);
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let token = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &token, secret(PASSWORD)).await.unwrap();
    assert_eq!(ended(&world)[5..], ["password_reset"]);
    world.login().await;
    let edit = UserEdit { active: Some(false), scopes: Some(vec!["read".into()]), ..UserEdit::default() };
    world.accounts.update_user("r", ann.id, edit).await.unwrap();
    assert_eq!(ended(&world)[6..], ["account_disabled_locked_or_unverified"]);
    let disabled = of(&world, Action::DisableUser).pop().unwrap();
    assert_eq!(disabled.details["fields"], json!(["active", "scopes"]));
    assert_eq!(disabled.details["scopes_before"], json!([]));
    assert_eq!(disabled.details["scopes_after"], json!(["read"]));
}

#[tokio::test]
async fn refused_links_and_mails_asked_for_again_are_written_down() {
    let world = world();
    world.register(ANN).await;
    for email in [ANN, BOB] {
        world.accounts.resend_verification(&client(), email).await.unwrap();
    }
    world.accounts.do_due_tasks().await.unwrap();
    let resent = of(&world, Action::ResendVerification);
    let outcomes: Vec<_> = resent.iter().map(|event| (event.outcome, event.user.is_some())).collect();
    assert_eq!(outcomes, [(Outcome::Success, true), (Outcome::Denied, false)]);
    let token = world.token(Letter::VerifyEmail).await;
    world.accounts.validate_reset(&client(), &token).await.unwrap_err();
    world.accounts.validate_reset(&client(), "nonsense").await.unwrap_err();
    world.accounts.validate_reset(&client(), &"x".repeat(5000)).await.unwrap_err();
    assert_eq!(denied(&world, Action::UseLink), ["stale_link", "unknown_link", "unknown_link"]);
}

#[tokio::test]
async fn an_address_without_an_account_is_told_as_a_keyed_hash() {
    let world = world();
    world.ann().await;
    for _ in 0..2 {
        world.accounts.login(&client(), BOB, secret(PASSWORD)).await.unwrap_err();
    }
    world.accounts.request_reset(&client(), BOB).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let mut events = of(&world, Action::Login);
    events.extend(of(&world, Action::RequestPasswordReset));
    let hashes: Vec<_> = events.iter().filter_map(|event| event.details.get("address_hash")).collect();
    assert_eq!(hashes.len(), 3);
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    let all = serde_json::to_string(&*world.audit.0.lock().unwrap()).unwrap();
    assert!(!all.contains(BOB), "{all}");
}

#[tokio::test]
async fn a_change_of_address_is_told_with_both_and_a_wrong_password_there_is_one_of_it() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let edit = |password: &str| Edit {
        email: Some(BOB.to_owned()),
        current_password: Some(secret(password)),
        ..Edit::default()
    };
    world.accounts.edit_profile(&client(), person(&granted), edit("wrong")).await.unwrap_err();
    assert_eq!(denied(&world, Action::RequestEmailChange), ["wrong_password"]);
    assert!(denied(&world, Action::ChangePassword).is_empty());
    world.accounts.edit_profile(&client(), person(&granted), edit(PASSWORD)).await.unwrap();
    let asked = of(&world, Action::RequestEmailChange).pop().unwrap();
    assert_eq!((&asked.details["email_before"], &asked.details["email_after"]), (&json!(ANN), &json!(BOB)));
    let text = format!("{:?}", world.audit.0.lock().unwrap());
    assert!(!text.contains(granted.refresh_token.expose_secret()) && !text.contains(PASSWORD));
}

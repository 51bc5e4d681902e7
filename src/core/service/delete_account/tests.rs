//! Ann deletes her account, or a thief of her session tries to.

use palisade_core::domain::account::{PasswordHash, User, UserId};
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::Connection;
use palisade_core::domain::email_change::UNDO_LIFE;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::task::{Errand, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Clock, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::caller::Person;
use palisade_core::service::delete_account::FRESH;
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, client, person, secret, world};
use palisade_testing::conformance::connection;

async fn delete(world: &AccountsWorld, by: Person, password: Option<&str>) -> Result<(), AccountError> {
    world.accounts.delete_account(&client(), by, password.map(secret)).await
}

async fn is_there(world: &AccountsWorld, id: UserId) -> bool {
    world.store.user(id).await.unwrap().is_some()
}

fn last_event(world: &AccountsWorld) -> (Action, Outcome, Option<String>) {
    world.events().pop().unwrap()
}

#[tokio::test]
async fn an_account_goes_with_everything_it_has() {
    let world = world();
    let ann = world.ann().await;
    let (this, other) = (world.login().await, world.login().await);
    let bank = Connection { user: ann.id, ..connection(1, 9, None) };
    world.store.commit(vec![Change::CreateConnection(bank.clone())]).await.unwrap();
    world.clock.advance(FRESH.as_secs());
    delete(&world, person(&this), Some(PASSWORD)).await.unwrap();
    assert_eq!(last_event(&world), (Action::DeleteUser, Outcome::Success, None));
    assert!(!is_there(&world, ann.id).await);
    assert!(world.store.sessions(ann.id).await.unwrap().is_empty());
    for granted in [this, other] {
        assert!(world.refresh(&granted.refresh_token).await.is_err());
    }
    // Access tokens end with the version that they were signed at.
    assert_eq!(world.store.version("https://us.test", &ann.id.to_string()).await.unwrap(), 1);
    let due = world.store.due_tasks(world.clock.now(), 10).await.unwrap();
    let ends_grant =
        |work: &Work| matches!(work, Work::Errand { errand: Errand::EndGrant(one), .. } if one.id == bank.id);
    assert!(due.iter().any(|task| ends_grant(&task.work)), "the provider is told");
    let letter = world.newest(Letter::AccountDeleted).await;
    assert_eq!((letter.to.as_str(), letter.name.as_deref()), (ANN, Some("Ann")));
    assert_eq!(letter.facts.device.as_deref(), Some("described firefox"));
    // The address is free.
    world.register(ANN).await;
    assert_ne!(world.at(ANN).await.id, ann.id);
}

#[tokio::test]
async fn it_takes_the_password_or_a_fresh_sign_in() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let wrong = delete(&world, person(&granted), Some("wrong")).await;
    assert!(matches!(wrong, Err(AccountError::WrongPassword)), "also right after the sign-in");
    assert_eq!(last_event(&world), (Action::DeleteUser, Outcome::Denied, Some("wrong_password".into())));
    world.clock.advance(FRESH.as_secs());
    let stale = delete(&world, person(&granted), None).await;
    assert!(matches!(stale, Err(AccountError::FreshSignInNeeded)), "{stale:?}");
    assert_eq!(last_event(&world), (Action::DeleteUser, Outcome::Denied, Some("no_fresh_sign_in".into())));
    // A token that an operator minted is of no sign-in.
    let minted = Person { user: ann.id, session: None };
    assert!(matches!(delete(&world, minted, None).await, Err(AccountError::FreshSignInNeeded)));
    assert!(is_there(&world, ann.id).await);
    let fresh = world.login().await;
    delete(&world, person(&fresh), None).await.unwrap();
    assert!(!is_there(&world, ann.id).await);
}

/// A refresh renews the tokens of a session, and makes no sign-in of it; nor does a change of the password.
#[tokio::test]
async fn a_session_that_goes_on_is_no_fresh_sign_in() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    world.clock.advance(FRESH.as_secs());
    let refreshed = world.refresh(&granted.refresh_token).await.unwrap();
    let by = client();
    let changed =
        world.accounts.change_password(&by, person(&refreshed), secret(PASSWORD), secret("a new password"));
    let renewed = changed.await.unwrap().unwrap();
    for by in [&refreshed, &renewed] {
        assert!(matches!(delete(&world, person(by), None).await, Err(AccountError::FreshSignInNeeded)));
    }
    delete(&world, person(&renewed), Some("a new password")).await.unwrap();
}

#[tokio::test]
async fn an_address_that_can_be_given_back_keeps_its_account() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, "thief@evil.test").await;
    for password in [Some(PASSWORD), None] {
        let early = delete(&world, person(&granted), password).await;
        let until = world.clock.now().plus(UNDO_LIFE);
        assert!(matches!(early, Err(AccountError::EmailChangeUndoable(at)) if at == until), "{early:?}");
    }
    world.undo(&undo).await.unwrap();
    // Frozen: it is not decided whose it is.
    for password in [Some(PASSWORD), None] {
        assert!(matches!(delete(&world, person(&granted), password).await, Err(AccountError::Disabled)));
    }
    assert!(is_there(&world, ann.id).await);
}

#[tokio::test]
async fn it_can_be_deleted_once_a_change_of_address_cannot_be_undone() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    world.move_to(&granted, "ann@new.test").await;
    world.clock.advance(UNDO_LIFE.as_secs());
    let later = world.sign_in("ann@new.test", PASSWORD).await.unwrap();
    delete(&world, person(&later), None).await.unwrap();
    assert!(!is_there(&world, ann.id).await);
    assert_eq!(world.recipients(Letter::AccountDeleted).await, ["ann@new.test"]);
}

/// What comes in between the decision and its commit is not overlooked.
#[tokio::test]
async fn what_happens_meanwhile_counts() {
    let world = world();
    let ann = world.ann().await;
    let (thief, owner) = (world.login().await, world.login().await);
    // The owner ends the thief's session.
    for password in [Some(PASSWORD), None] {
        let session = world.store.session(ann.id, thief.session).await.unwrap().unwrap();
        world.store.get_ahead(vec![Change::EndSession(ann.id, thief.session)]);
        let ended = delete(&world, person(&thief), password).await;
        assert!(matches!(ended, Err(AccountError::FreshSignInNeeded)), "{ended:?}");
        world.store.commit(vec![Change::CreateSession(session)]).await.unwrap();
    }
    // And sets another password.
    let user = world.store.user(ann.id).await.unwrap().unwrap();
    let changed = User { password: Some(PasswordHash("hash:other".into())), ..user };
    world.store.get_ahead(vec![Change::UpdateUser(changed)]);
    let late = delete(&world, person(&thief), Some(PASSWORD)).await;
    assert!(matches!(late, Err(AccountError::WrongPassword)), "{late:?}");
    // A session that an operator has cut off is over, though its record may still be there.
    let (issuer, sub) = ("https://us.test".to_owned(), ann.id.to_string());
    let (created_at, expires_at) = (world.clock.now(), UnixTime::NEVER);
    let raise = Change::RaiseVersion {
        issuer: issuer.clone(),
        sub: sub.clone(),
        created_at,
        expires_at,
        reason: None,
        enforce: true,
    };
    let cut = Change::CutSessions { issuer, sub: Some(sub), created_at, expires_at, reason: None };
    world.store.commit(vec![raise, cut]).await.unwrap();
    for password in [Some("other"), None] {
        let over = delete(&world, person(&owner), password).await;
        assert!(matches!(over, Err(AccountError::FreshSignInNeeded)), "{over:?}");
    }
    assert!(is_there(&world, ann.id).await);
}

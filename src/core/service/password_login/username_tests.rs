//! Signing in by a user name, over the fakes.

use std::sync::atomic::Ordering;

use palisade_core::domain::account::User;
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::ports::{Limited, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, PasswordLogin, client, secret, world};

/// Ann, who has an address, and a user name.
async fn named_ann(world: &AccountsWorld) -> User {
    let ann = world.ann().await;
    let edit = UserEdit { username: Some("Ann.Lee".into()), ..UserEdit::default() };
    world.accounts.update_user("", ann.id, edit).await.unwrap()
}

async fn bob(world: &AccountsWorld) -> User {
    let new = NewUser {
        email: None,
        username: Some("bob".into()),
        groups: vec!["staff".into()],
        name: None,
        password: NewPassword::Given(secret(PASSWORD)),
        email_verified: false,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    world.accounts.create_user("", new).await.unwrap().user
}

fn last_event(world: &AccountsWorld) -> (Action, Outcome, Option<String>) {
    world.events().pop().unwrap()
}

#[tokio::test]
async fn an_account_is_signed_in_to_by_either_name() {
    let world = world();
    let ann = named_ann(&world).await;
    for name in [ANN, "ANN@example.com", "ann.lee", " Ann.Lee ", "ＡＮＮ.lee"] {
        let granted = world.accounts.login(&client(), name, secret(PASSWORD)).await.unwrap();
        assert_eq!(granted.user.id, ann.id, "{name}");
        let wrong = world.accounts.login(&client(), name, secret("wrong")).await;
        assert!(matches!(wrong, Err(AccountError::InvalidCredentials)), "{name}");
    }
    let bob = bob(&world).await;
    assert_eq!(world.accounts.login(&client(), "bob", secret(PASSWORD)).await.unwrap().user.id, bob.id);
    // By a former name no account is signed in to.
    let edit = UserEdit { username: Some("anna".into()), ..UserEdit::default() };
    world.accounts.update_user("", ann.id, edit).await.unwrap();
    let former = world.accounts.login(&client(), "ann.lee", secret(PASSWORD)).await;
    assert!(matches!(former, Err(AccountError::InvalidCredentials)));
    assert_eq!(last_event(&world), (Action::Login, Outcome::Denied, Some("unknown_username".into())));
    world.accounts.login(&client(), "anna", secret(PASSWORD)).await.unwrap();
    // What is no name is told as such, and nothing is looked up.
    let calls = world.store.calls.load(Ordering::Relaxed);
    for name in ["", "ann lee", "corp\\ann", &ann.id.to_string()] {
        let refused = world.accounts.login(&client(), name, secret(PASSWORD)).await;
        assert!(matches!(refused, Err(AccountError::InvalidUsername(_))), "{name}");
    }
    assert_eq!(world.store.calls.load(Ordering::Relaxed), calls);
}

/// A user name is no way around the verification of the address.
#[tokio::test]
async fn an_account_that_waits_for_its_address_is_not_signed_in_to_by_its_user_name() {
    let world = world();
    let ann = named_ann(&world).await;
    let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
    world.accounts.update_user("", ann.id, edit).await.unwrap();
    let refused = world.accounts.login(&client(), "ann.lee", secret(PASSWORD)).await;
    assert!(matches!(refused, Err(AccountError::InvalidCredentials)));
    assert_eq!(last_event(&world).2.as_deref(), Some("email_not_verified"));
}

/// Enumeration: the work and the answer are the same, whatever is or was behind the name.
#[tokio::test(start_paused = true)]
async fn a_login_takes_as_long_for_a_user_name_without_an_account() {
    let world = world();
    let ann = named_ann(&world).await;
    bob(&world).await;
    let edit = UserEdit { username: Some("anna".into()), ..UserEdit::default() };
    world.accounts.update_user("", ann.id, edit).await.unwrap();
    for stopped in [None, Some(Limited::Login)] {
        *world.limiter.stop.lock().unwrap() = stopped;
        let mut seen = Vec::new();
        // One with two names, one with one, a former one, and none.
        for name in ["anna", "bob", "ann.lee", "nobody.at.all"] {
            let (begun, checked) =
                (tokio::time::Instant::now(), world.passwords.requesters.lock().unwrap().len());
            let error = world.accounts.login(&client(), name, secret("wrong")).await.unwrap_err();
            let work = world.passwords.requesters.lock().unwrap().len() - checked;
            seen.push((begun.elapsed().as_millis() / 20, work, error.to_string()));
        }
        assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    }
}

#[tokio::test]
async fn attempts_are_counted_by_the_name_and_by_the_account() {
    let world = world();
    let ann = named_ann(&world).await;
    let bob = bob(&world).await;
    let count = async |name: &str| {
        world.limiter.counted.lock().unwrap().clear();
        world.limiter.on_accounts.lock().unwrap().clear();
        let _ = world.accounts.login(&client(), name, secret("wrong")).await;
        let counted = world.limiter.counted.lock().unwrap().clone();
        let accounts: Vec<String> =
            world.limiter.on_accounts.lock().unwrap().iter().map(|(_, _, account)| account.clone()).collect();
        (counted, accounts)
    };
    let (by_address, account) = count(ANN).await;
    assert_eq!((by_address, account), (vec![ANN.to_owned()], vec![ann.id.to_string()]));
    let (by_name, account) = count("ann.lee").await;
    assert_eq!((by_name.len(), account), (1, vec![ann.id.to_string()]));
    assert_eq!(count("ANN.LEE").await.0, by_name, "another spelling is the same name");
    assert!(!by_name[0].contains("ann"), "{by_name:?}");
    // An account of one name has no more than the count of that one.
    assert_eq!(count("bob").await.1, [""; 0]);
    assert_eq!(count("nobody").await.1, [""; 0]);
    let _ = bob;
}

/// Two names are not twice the guesses; and a client that waits under one of them learns nothing of the other.
#[tokio::test]
async fn a_guess_beyond_the_account_s_count_is_wrong_and_not_told() {
    let world = world();
    named_ann(&world).await;
    world.limiter.account_waits.store(true, Ordering::Relaxed);
    for name in [ANN, "ann.lee"] {
        let checked = world.passwords.requesters.lock().unwrap().len();
        let refused = world.accounts.login(&client(), name, secret(PASSWORD)).await;
        assert!(matches!(refused, Err(AccountError::InvalidCredentials)), "{name}");
        assert_eq!(world.passwords.requesters.lock().unwrap().len(), checked + 1, "the same work");
        assert_eq!(last_event(&world).2.as_deref(), Some("too_many_attempts"));
    }
    world.limiter.account_waits.store(false, Ordering::Relaxed);
    world.accounts.login(&client(), "ann.lee", secret(PASSWORD)).await.unwrap();
    let ended = world.limiter.ended.lock().unwrap().clone();
    assert_eq!(ended[ended.len() - 2..], [(Limited::Login, true); 2], "both counts are over");
    let given_back = world.limiter.given_back.lock().unwrap().clone();
    assert_eq!(given_back, [(Limited::Login, client().address)], "once, and not for what was refused");
}

/// A name that looks like another account's address or id can be no user name, so none is signed in to by it.
#[tokio::test]
async fn no_user_name_is_another_account_s_address_or_id() {
    let world = world();
    let ann = world.ann().await;
    let bob = bob(&world).await;
    for name in [ANN, "ann＠example.com", &ann.id.to_string(), &ann.id.0.simple().to_string()] {
        let edit = UserEdit { username: Some(name.to_owned()), ..UserEdit::default() };
        let refused = world.accounts.update_user("", bob.id, edit).await;
        assert!(matches!(refused, Err(AccountError::InvalidUsername(_))), "{name}");
    }
    assert_eq!(world.store.user(bob.id).await.unwrap().unwrap().username, bob.username);
}

//! Guesses that are spread over replicas, over the fakes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::domain::guesses::{FORGOTTEN, Guesses, SIEGE};
use palisade_core::ports::NoteKind;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::caller::Client;
use palisade_core::service::users::{NewPassword, NewUser};
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, client, person, secret, typed, world_over,
};
use palisade_testing::fakes::FakeStore;

fn from(address: impl Into<IpAddr>) -> Client {
    Client { address: address.into(), ..client() }
}

/// So many gateways over one store, in which Ann has an account.
async fn replicas(count: usize) -> Vec<AccountsWorld> {
    let store = Arc::new(FakeStore::shared());
    let worlds: Vec<_> = (0..count).map(|_| world_over(Arc::clone(&store), |_| ())).collect();
    worlds[0].ann().await;
    worlds.iter().for_each(|world| world.passwords.requesters.lock().unwrap().clear());
    worlds
}

/// How many passwords were looked at.
fn looked_at(worlds: &[AccountsWorld]) -> usize {
    worlds.iter().map(|world| world.passwords.requesters.lock().unwrap().len()).sum()
}

async fn guess(world: &AccountsWorld, client: &Client, name: &str) -> Result<(), AccountError> {
    world.accounts.login(client, name, secret("wrong")).await.map(drop)
}

/// The seconds to wait, if it may not be tried.
async fn wait(world: &AccountsWorld, client: &Client, name: &str) -> u64 {
    match guess(world, client, name).await {
        Err(AccountError::InvalidCredentials) => 0,
        Err(AccountError::TooMany(too_many)) => too_many.retry_after.as_secs(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn three_replicas_are_no_way_to_more_guesses_than_one() {
    let mut gained = Vec::new();
    for count in [1, 3] {
        let worlds = replicas(count).await;
        for _ in 0..1200 {
            for world in &worlds {
                let _ = guess(world, &client(), ANN).await;
            }
            worlds[0].store.notes.pass(Duration::from_secs(1));
        }
        gained.push(looked_at(&worlds));
    }
    assert_eq!(gained[0], gained[1]);
    assert!(gained[0] < 20, "{gained:?}");
}

/// Each replica would let one through before the first has failed.
#[tokio::test(start_paused = true)]
async fn guesses_of_the_same_moment_are_counted_together() {
    let worlds = replicas(3).await;
    let client = client();
    let all = (0..60).map(|n| guess(&worlds[n % 3], &client, ANN));
    let outcomes = futures::future::join_all(all).await;
    let tried =
        |outcome: &&Result<(), AccountError>| matches!(outcome, Err(AccountError::InvalidCredentials));
    let most = Guesses::default().free as usize + 1;
    assert_eq!((outcomes.iter().filter(tried).count(), looked_at(&worlds)), (most, most));
}

#[tokio::test(start_paused = true)]
async fn a_right_password_ends_the_delays_everywhere_and_an_hour_forgets_them() {
    let worlds = replicas(2).await;
    for n in 0..4 {
        assert_eq!(wait(&worlds[n % 2], &client(), ANN).await, 0);
    }
    worlds[0].accounts.login(&client(), ANN, secret(PASSWORD)).await.unwrap();
    for n in 0..5 {
        assert_eq!(wait(&worlds[n % 2], &client(), ANN).await, 0, "{n}");
    }
    assert_eq!(wait(&worlds[1], &client(), ANN).await, 1);
    assert_eq!(worlds[1].limiter.refused_elsewhere.lock().unwrap().len(), 1, "what audits is told");
    worlds[0].store.notes.pass(FORGOTTEN + Duration::from_secs(1));
    assert_eq!(wait(&worlds[0], &client(), ANN).await, 0);
    assert_eq!(wait(&worlds[0], &from([198, 51, 100, 1]), ANN).await, 0, "each block waits for itself");
}

#[tokio::test(start_paused = true)]
async fn a_siege_over_all_replicas_slows_strangers_and_not_the_owner() {
    let worlds = replicas(3).await;
    let home = from([192, 0, 2, 7]);
    worlds[0].accounts.login(&home, ANN, secret(PASSWORD)).await.unwrap();
    for n in 0..SIEGE {
        let stranger = from([198, 51, 100, u8::try_from(n).unwrap()]);
        assert_eq!(wait(&worlds[n as usize % 3], &stranger, ANN).await, 0, "{n}");
    }
    for world in &worlds {
        assert_eq!(wait(world, &from([203, 0, 113, 9]), ANN).await, 1, "before the first attempt");
        world.accounts.login(&home, ANN, secret(PASSWORD)).await.unwrap();
    }
    worlds[0].store.notes.pass(Duration::from_secs(1));
    assert_eq!(wait(&worlds[2], &from([203, 0, 113, 9]), ANN).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_for_which_there_was_no_time_does_not_count() {
    let worlds = replicas(2).await;
    worlds[0].passwords.busy.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        assert!(matches!(guess(&worlds[0], &client(), ANN).await, Err(AccountError::Busy(_))));
    }
    for _ in 0..=Guesses::default().free {
        assert_eq!(wait(&worlds[1], &client(), ANN).await, 0);
    }
    assert_eq!(wait(&worlds[1], &client(), ANN).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_present_password_is_guessed_no_more_over_many_replicas() {
    let worlds = replicas(3).await;
    let granted = worlds[0].login().await;
    let mut refused = 0;
    for n in 0..12 {
        let outcome =
            worlds[n % 3].accounts.delete_account(&client(), person(&granted), typed("wrong").password).await;
        refused += usize::from(matches!(outcome, Err(AccountError::TooMany(_))));
    }
    assert_eq!(refused, 12 - 1 - Guesses::default().free as usize);
}

/// An account with two names, one with one, and a name without an account: as many round trips.
#[tokio::test(start_paused = true)]
async fn whether_there_is_an_account_makes_no_difference() {
    let worlds = replicas(1).await;
    let [world] = &worlds[..] else { unreachable!() };
    let two_names = NewUser {
        email: Some("bob@example.com".to_owned()),
        username: Some("bob".to_owned()),
        groups: Vec::new(),
        name: None,
        password: NewPassword::Given(secret(PASSWORD)),
        email_verified: true,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    world.accounts.create_user("r1", two_names).await.unwrap();
    let notes = &world.store.notes;
    let mut calls = Vec::new();
    for name in [ANN, "bob@example.com", "bob", "nobody@example.com", "nobody"] {
        for round in 0..8 {
            let before = notes.counts();
            let waited = wait(world, &client(), name).await;
            let after = notes.counts();
            calls.push((round, waited, after - before));
        }
    }
    // Both names of the account with two count together, so the second is refused without being told.
    for (n, call) in calls.iter().enumerate() {
        assert_eq!(*call, calls[n % 8], "{n}: {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_while_guesses_cannot_be_counted() {
    let worlds = replicas(1).await;
    worlds[0].store.notes.fail(true);
    assert!(matches!(guess(&worlds[0], &client(), ANN).await, Err(AccountError::Store(_))));
    assert_eq!(looked_at(&worlds), 0);
}

#[tokio::test(start_paused = true)]
async fn no_note_is_left_by_right_passwords_or_where_nothing_is_limited() {
    let worlds = replicas(1).await;
    worlds[0].login().await;
    let store = Arc::clone(&worlds[0].store);
    let count = || store.notes.count(NoteKind::Tries) + store.notes.count(NoteKind::Pressure);
    assert_eq!(count(), 0);
    let unlimited = world_over(Arc::clone(&store), |settings| settings.guesses = None);
    for _ in 0..20 {
        assert_eq!(wait(&unlimited, &client(), ANN).await, 0);
    }
    assert_eq!(count(), 0);
}

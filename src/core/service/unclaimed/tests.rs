//! An unverified address belongs to no account, as stories over the fakes.

use serde_json::{Map, json};

use palisade_core::domain::account::{Claim, PasswordHash, User};
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::Connection;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::profile::Edit;
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, client, person, secret, typed, world,
};
use palisade_testing::conformance::connection;

const BOB: &str = "bob@example.com";
const DAY: u64 = 24 * 3600;

async fn found(world: &AccountsWorld, email: &str) -> Option<User> {
    world.store.user_by_email(&email.parse().unwrap()).await.unwrap()
}

async fn stored(world: &AccountsWorld, email: &str) -> User {
    found(world, email).await.expect("no such account")
}

async fn tasks(world: &AccountsWorld) {
    while world.accounts.do_due_tasks().await.unwrap() {}
}

/// A registration by an attacker.
async fn stranger(world: &AccountsWorld, email: &str) {
    let name = Some("Your account was hacked".to_owned());
    world.accounts.register(&client(), email, secret("stranger's own"), name).await.unwrap();
    tasks(world).await;
}

async fn wish(world: &AccountsWorld, email: &str) {
    let edit =
        Edit { email: Some(email.into()), current_password: Some(secret(PASSWORD)), ..Edit::default() };
    let granted = world.login().await;
    world.accounts.edit_profile(&client(), person(&granted), edit).await.unwrap();
    tasks(world).await;
}

fn made(email: &str, password: NewPassword) -> NewUser {
    let (scopes, claims) = (Vec::new(), Map::new());
    NewUser {
        email: Some(email.into()),
        username: None,
        groups: Vec::new(),
        name: Some("Bob".into()),
        password,
        email_verified: false,
        scopes,
        claims,
    }
}

/// As a version wrote it that did not keep whether an account is claimed; its events are where it kept them.
async fn as_before(world: &AccountsWorld, email: &str) {
    let user = User { claim: Claim::Unknown, ..stored(world, email).await };
    world.store.commit(vec![Change::UpdateUser(user)]).await.unwrap();
    keep_events(world).await;
}

/// What the audit log was told is kept in the store, as a running gateway does it.
async fn keep_events(world: &AccountsWorld) {
    let events = std::mem::take(&mut *world.audit.0.lock().unwrap());
    world.store.commit(vec![Change::Record(events)]).await.unwrap();
}

#[tokio::test]
async fn registering_again_changes_nothing_and_mails_the_live_link_once_more() {
    let world = world();
    world.register(BOB).await;
    let (before, link) = (stored(&world, BOB).await, world.token(Letter::VerifyEmail).await);
    for _ in 0..3 {
        world.clock.advance(3600);
        stranger(&world, BOB).await;
        let after = stored(&world, BOB).await;
        assert_eq!(User { revision: before.revision, ..after }, before);
        assert_eq!(world.letters().await.last(), Some(&(Letter::VerifyEmail, BOB.to_owned())));
        assert_eq!(world.token(Letter::VerifyEmail).await, link);
    }
    world.accounts.verify_email(&client(), &link).await.unwrap();
    world.accounts.login(&client(), BOB, secret(PASSWORD)).await.unwrap();
}

#[tokio::test]
async fn no_number_of_registrations_prolongs_the_seven_days() {
    let world = world();
    world.register(BOB).await;
    let first = stored(&world, BOB).await.id;
    for day in 1..=6 {
        world.clock.advance(DAY);
        stranger(&world, BOB).await;
        assert_eq!(stored(&world, BOB).await.id, first, "day {day}");
    }
    world.clock.advance(DAY);
    tasks(&world).await;
    assert!(found(&world, BOB).await.is_none());
}

#[tokio::test]
async fn an_owner_changes_to_an_address_that_a_stranger_has_registered() {
    let world = world();
    let ann = world.ann().await;
    stranger(&world, BOB).await;
    let strangers = stored(&world, BOB).await;
    let verification = world.token(Letter::VerifyEmail).await;
    wish(&world, BOB).await;
    let link = world.newest(Letter::ConfirmEmail).await;
    assert_eq!((link.to.as_str(), link.name.as_deref()), (BOB, None), "nothing that Ann chose");
    assert_eq!(stored(&world, BOB).await.id, strangers.id, "not before the link is used");
    let token = world.token(Letter::ConfirmEmail).await;
    let user = world.accounts.verify_by(&client(), &token, typed(PASSWORD)).await.unwrap();
    assert_eq!((user.id, user.email.as_ref().unwrap().as_str()), (ann.id, BOB));
    assert_eq!(stored(&world, BOB).await.id, ann.id);
    assert!(world.store.user(strangers.id).await.unwrap().is_none());
    assert_eq!(world.store.version("https://us.test", &strangers.id.to_string()).await.unwrap(), 1);
    let stale = world.accounts.verify_email(&client(), &verification).await;
    assert!(matches!(stale, Err(AccountError::InvalidLink)));
    let gone = (Action::DeleteUser, Outcome::Success, Some("address_of_another".to_owned()));
    assert!(world.events().contains(&gone));
    world.clock.advance(8 * DAY);
    tasks(&world).await;
    assert_eq!(stored(&world, BOB).await.id, ann.id, "the task of the stranger's account finds nothing");
}

#[tokio::test]
async fn an_address_that_was_claimed_meanwhile_is_not_taken() {
    let world = world();
    world.ann().await;
    stranger(&world, BOB).await;
    let verification = world.token(Letter::VerifyEmail).await;
    wish(&world, BOB).await;
    let link = world.token(Letter::ConfirmEmail).await;
    let bob = world.accounts.verify_email(&client(), &verification).await.unwrap();
    let taken = world.accounts.verify_by(&client(), &link, typed(PASSWORD)).await;
    assert!(matches!(taken, Err(AccountError::InvalidLink)));
    // Nor when the operator takes the verification back.
    let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
    world.accounts.update_user("r", bob.id, edit).await.unwrap();
    let taken = world.accounts.verify_by(&client(), &link, typed(PASSWORD)).await;
    assert!(matches!(taken, Err(AccountError::InvalidLink)));
    assert_eq!(stored(&world, BOB).await.id, bob.id);
}

#[tokio::test]
async fn an_operator_makes_an_account_in_place_of_a_strangers() {
    let world = world();
    stranger(&world, BOB).await;
    let strangers = stored(&world, BOB).await.id;
    let hash = PasswordHash(format!("hash:{PASSWORD}"));
    let new = made(BOB, NewPassword::Imported(hash));
    let user = world.accounts.create_user("r", new.clone()).await.unwrap().user;
    assert_ne!(user.id, strangers);
    assert_eq!(stored(&world, BOB).await.id, user.id);
    assert!(world.store.user(strangers).await.unwrap().is_none());
    let twice = world.accounts.create_user("r", new).await;
    assert!(matches!(twice, Err(AccountError::EmailTaken)));
}

#[tokio::test]
async fn a_stranger_changes_nothing_of_an_account_that_an_operator_made() {
    let imported = NewPassword::Imported(PasswordHash(format!("hash:{PASSWORD}")));
    let given = NewPassword::Given(secret(PASSWORD));
    for (password, letter) in [
        (imported, Letter::VerifyEmail),
        (given, Letter::VerifyEmail),
        (NewPassword::Mailed, Letter::ResetPassword),
    ] {
        let world = world();
        world.accounts.create_user("r", made(BOB, password)).await.unwrap();
        let (before, link) = (stored(&world, BOB).await, world.token(letter).await);
        stranger(&world, BOB).await;
        let after = stored(&world, BOB).await;
        assert_eq!(User { revision: before.revision, ..after }, before);
        assert_eq!(world.token(letter).await, link, "the live link");
        assert!(!world.letters().await.iter().any(|(other, _)| *other != letter));
        // It is the operator's: no owner of another account takes its address, and no week ends it.
        world.ann().await;
        wish(&world, BOB).await;
        assert_eq!(world.letters().await.last(), Some(&(Letter::AlreadyRegistered, BOB.to_owned())));
        world.clock.advance(30 * DAY);
        tasks(&world).await;
        assert_eq!(stored(&world, BOB).await.id, before.id);
    }
}

#[tokio::test]
async fn what_was_once_verified_is_never_swept_and_keeps_what_it_has() {
    let world = world();
    let ann = world.ann().await;
    let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
    world.accounts.update_user("r", ann.id, edit).await.unwrap();
    let before = stored(&world, ANN).await;
    stranger(&world, ANN).await;
    let after = stored(&world, ANN).await;
    let kept = |user: &User| (user.password.clone(), user.name.clone(), user.updated_at, user.claim);
    assert_eq!(kept(&after), kept(&before));
    assert_eq!(world.letters().await.last(), Some(&(Letter::VerifyEmail, ANN.to_owned())));
    world.clock.advance(30 * DAY);
    tasks(&world).await;
    assert_eq!(stored(&world, ANN).await.id, ann.id);
    let verified = world.token(Letter::VerifyEmail).await;
    assert!(world.accounts.verify_email(&client(), &verified).await.is_err(), "over");
}

#[tokio::test]
async fn what_an_operator_changed_is_not_swept() {
    let name = UserEdit { name: Some("Bob".into()), ..UserEdit::default() };
    let claims = UserEdit { claims: json!({"role": "x"}).as_object().cloned(), ..UserEdit::default() };
    let world = world();
    for (email, edit) in [(BOB, name), ("cid@example.com", claims)] {
        world.register(email).await;
        let id = stored(&world, email).await.id;
        world.accounts.update_user("r", id, edit).await.unwrap();
    }
    world.register("dan@example.com").await;
    world.accounts.reset_password_of("r", stored(&world, "dan@example.com").await.id).await.unwrap();
    world.clock.advance(30 * DAY);
    tasks(&world).await;
    for email in [BOB, "cid@example.com", "dan@example.com"] {
        stored(&world, email).await;
    }
}

/// Of records of an earlier version, only a clear registration without anything after it counts as unclaimed.
#[tokio::test]
async fn an_account_of_an_earlier_version_counts_as_somebodys_unless_its_events_tell() {
    let world = world();
    world.register(BOB).await;
    world.accounts.request_reset(&client(), BOB).await.unwrap();
    tasks(&world).await;
    as_before(&world, BOB).await;
    let bob = stored(&world, BOB).await;
    assert!(world.accounts.is_unclaimed(&bob).await.unwrap(), "registered, and asked for a link");

    let ann = world.ann().await;
    let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
    world.accounts.update_user("r", ann.id, edit).await.unwrap();
    as_before(&world, ANN).await;
    assert!(!world.accounts.is_unclaimed(&stored(&world, ANN).await).await.unwrap(), "verified once");

    world.accounts.create_user("r", made("cid@example.com", NewPassword::Mailed)).await.unwrap();
    as_before(&world, "cid@example.com").await;
    let cid = stored(&world, "cid@example.com").await;
    assert!(!world.accounts.is_unclaimed(&cid).await.unwrap(), "made by an operator");

    world.register("dan@example.com").await;
    world.accounts.reset_password_of("r", stored(&world, "dan@example.com").await.id).await.unwrap();
    as_before(&world, "dan@example.com").await;
    let dan = stored(&world, "dan@example.com").await;
    assert!(!world.accounts.is_unclaimed(&dan).await.unwrap(), "reset by an operator");

    // Without events nothing is told.
    world.register("eve@example.com").await;
    world.audit.0.lock().unwrap().clear();
    as_before(&world, "eve@example.com").await;
    let eve = stored(&world, "eve@example.com").await;
    assert!(!world.accounts.is_unclaimed(&eve).await.unwrap());

    world.clock.advance(8 * DAY);
    tasks(&world).await;
    assert!(found(&world, BOB).await.is_none());
    for email in [ANN, "cid@example.com", "dan@example.com", "eve@example.com"] {
        stored(&world, email).await;
    }
}

#[tokio::test]
async fn a_name_given_before_verification_does_not_outlive_the_owners_reset() {
    let world = world();
    stranger(&world, BOB).await;
    world.accounts.request_reset(&client(), BOB).await.unwrap();
    tasks(&world).await;
    let reset = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &reset, secret("the owner's own")).await.unwrap();
    let bob = stored(&world, BOB).await;
    assert_eq!((bob.name, bob.email_verified, bob.claim), (None, true, Claim::Claimed));
    assert_eq!(world.newest(Letter::PasswordChanged).await.name, None);
    assert!(world.accounts.login(&client(), BOB, secret("stranger's own")).await.is_err());
    world.accounts.login(&client(), BOB, secret("the owner's own")).await.unwrap();

    // The name of a claimed account was chosen by its owner.
    world.ann().await;
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    tasks(&world).await;
    let reset = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &reset, secret("a new password")).await.unwrap();
    assert_eq!(stored(&world, ANN).await.name.as_deref(), Some("Ann"));
}

#[tokio::test]
async fn a_verification_and_the_end_of_the_week_meet() {
    let world = world();
    world.register(BOB).await;
    world.clock.advance(7 * DAY - 1);
    world.accounts.resend_verification(&client(), BOB).await.unwrap();
    tasks(&world).await;
    let (token, user) = (world.token(Letter::VerifyEmail).await, stored(&world, BOB).await);
    world.clock.advance(1);
    let claimed = User { email_verified: true, claim: Claim::Claimed, ..user.clone() };
    // What the sweeper has read is no longer true when it commits.
    let removing = world.accounts.removing(&user, "r").await.unwrap();
    world.store.commit(vec![Change::UpdateUser(claimed)]).await.unwrap();
    world.store.commit(removing).await.unwrap_err();
    tasks(&world).await;
    stored(&world, BOB).await;
    assert!(matches!(world.accounts.verify_email(&client(), &token).await, Err(AccountError::InvalidLink)));
    assert!(world.store.due_tasks(UnixTime::NEVER, 10).await.unwrap().is_empty());
}

/// An app can act for an account with an unverified address by a token that an operator minted.
#[tokio::test]
async fn an_account_with_a_connection_is_somebodys() {
    let world = world();
    world.register(BOB).await;
    let bob = stored(&world, BOB).await;
    assert!(world.accounts.is_unclaimed(&bob).await.unwrap());
    let granted = Connection { user: bob.id, ..connection(1, 1, None) };
    world.store.commit(vec![Change::CreateConnection(granted)]).await.unwrap();
    assert!(!world.accounts.is_unclaimed(&bob).await.unwrap());
    world.clock.advance(8 * DAY);
    tasks(&world).await;
    assert_eq!(stored(&world, BOB).await.id, bob.id);
}

//! What strangers, thieves and unlucky moments try with accounts, over the fakes.

use std::time::Duration;

use secrecy::ExposeSecret;

use palisade_core::domain::account::User;
use palisade_core::domain::audit::{Action, Actor, Outcome};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::session::{Fingerprint, Lifetimes};
use palisade_core::domain::task::Work;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::profile::Edit;
use palisade_core::service::sign_in::Granted;
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, BROWSER, PASSWORD, PasswordLogin, client, from, person, secret, signed_in, world,
    world_with,
};

const BOB: &str = "bob@example.com";
const DAY: u64 = 24 * 3600;

fn raised(user: &User) -> Change {
    Change::RaiseVersion {
        issuer: "https://us.test".to_owned(),
        sub: user.id.to_string(),
        created_at: UnixTime(1),
        expires_at: UnixTime::NEVER,
        reason: None,
        enforce: true,
    }
}

/// Whether the access token is of a version that is still accepted.
async fn is_accepted(world: &AccountsWorld, granted: &Granted) -> bool {
    let version = world.store.version("https://us.test", &granted.user.id.to_string()).await.unwrap();
    granted.access_token.split('.').nth(1) == Some(&format!("v{version}"))
}

async fn stored(world: &AccountsWorld, email: &str) -> User {
    let email: EmailAddress = email.parse().unwrap();
    world.store.user_by_email(&email).await.unwrap().expect("no such account")
}

/// A token that an operator minted has no session that could end.
#[tokio::test]
async fn a_changed_password_ends_every_token_and_the_renewed_session_goes_on() {
    let world = world();
    world.ann().await;
    let before = world.login().await;
    let change = |current: &'static str, new: &'static str, granted: &Granted| {
        let (accounts, person) = (world.accounts.clone(), person(granted));
        async move { accounts.change_password(&client(), person, secret(current), secret(new)).await }
    };
    let renewed = change(PASSWORD, "a new password", &before).await.unwrap().unwrap();
    assert!(!is_accepted(&world, &before).await, "its version was not raised");
    assert!(is_accepted(&world, &renewed).await, "the new token is of the version before the raise");
    let next = world.refresh(&renewed.refresh_token).await.unwrap();
    assert!(is_accepted(&world, &next).await);
    // An operator who cuts its sessions at the same moment, before the change or after it, cuts this one as well.
    let session = world.store.session(next.user.id, next.session).await.unwrap().unwrap();
    assert_eq!(session.begun.subject, 0, "begun after a raise, it would outlive a cut that came before");
    world.store.get_in_between(vec![raised(&next.user)]);
    let overtaken = change("a new password", "another password", &next).await.unwrap().unwrap();
    assert!(!is_accepted(&world, &overtaken).await);
    let next = world.refresh(&overtaken.refresh_token).await.unwrap();
    assert!(is_accepted(&world, &next).await);
}

#[tokio::test]
async fn a_login_that_is_overtaken_by_a_deletion_brings_a_dead_token() {
    let world = world();
    let ann = world.ann().await;
    world.store.get_in_between(vec![raised(&ann), Change::DeleteUser(ann.id)]);
    let granted = world.login().await;
    assert!(!is_accepted(&world, &granted).await);
}

#[tokio::test]
async fn a_refresh_that_is_overtaken_by_an_operator_brings_a_dead_token() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let demoted = User { scopes: vec!["read".into()], ..stored(&world, ANN).await };
    world.store.get_in_between(vec![raised(&demoted), Change::UpdateUser(demoted.clone())]);
    let stale = world.refresh(&granted.refresh_token).await.unwrap();
    assert!(!is_accepted(&world, &stale).await, "it says what was true before");
    let fresh = world.refresh(&stale.refresh_token).await.unwrap();
    assert!(is_accepted(&world, &fresh).await && fresh.user.scopes == ["read"]);
}

#[tokio::test]
async fn an_access_token_does_not_outlive_its_session() {
    let lives = Lifetimes {
        sliding: Duration::from_secs(900),
        absolute: Duration::from_secs(1000),
        browser: BROWSER,
    };
    let world = world_with(|settings| settings.lifetimes = lives);
    world.ann().await;
    let granted = world.login().await;
    assert_eq!(granted.expires_in, Duration::from_secs(900));
    world.clock.advance(600);
    let granted = world.refresh(&granted.refresh_token).await.unwrap();
    assert_eq!(granted.expires_in, Duration::from_secs(400));
}

#[tokio::test]
async fn a_stolen_token_is_refused_on_another_device_within_ten_seconds_too() {
    let world = world_with(|settings| settings.fingerprint = Fingerprint::Refuse);
    world.ann().await;
    let parent = world.login().await.refresh_token;
    world.refresh(&parent).await.unwrap();
    let thief = world.accounts.refresh(&from("curl"), parent.expose_secret()).await;
    assert!(matches!(thief, Err(AccountError::InvalidRefreshToken)));
    let denied = (Action::Refresh, Outcome::Denied, Some("device_changed".to_owned()));
    assert!(world.events().contains(&denied));
    assert_eq!(world.revoked_sessions().await, 1, "and the session ends");
}

#[tokio::test]
async fn the_session_that_was_not_used_for_longest_makes_room() {
    let world = world();
    world.ann().await;
    let (first, second) = (world.login().await, world.login().await);
    world.login().await;
    world.clock.advance(1);
    let first = world.refresh(&first.refresh_token).await.unwrap();
    world.login().await;
    assert!(world.refresh(&second.refresh_token).await.is_err());
    world.refresh(&first.refresh_token).await.unwrap();
}

/// An attacker who registers an unverified address over and over must not keep its owner out.
#[tokio::test]
async fn a_stranger_cannot_kill_the_links_of_an_owner_who_is_about_to_verify() {
    let world = world();
    world.register(ANN).await;
    world.accounts.register(&client(), ANN, secret("stranger's own"), None).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let link = world.token(Letter::VerifyEmail).await;
    for _ in 0..3 {
        world.accounts.register(&client(), ANN, secret("stranger's own"), None).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
    }
    world.accounts.verify_email(&client(), &link).await.unwrap();
    world.accounts.login(&client(), ANN, secret(PASSWORD)).await.unwrap();
}

#[tokio::test]
async fn what_nobody_verifies_is_forgotten() {
    let world = world();
    let ann = world.ann().await;
    world.register(BOB).await;
    let bob = stored(&world, BOB).await;
    world.clock.advance(7 * DAY - 1);
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(stored(&world, BOB).await.id, bob.id, "not yet");
    // The attacker still tries, which prolongs nothing.
    world.register(BOB).await;
    world.clock.advance(1);
    world.accounts.do_due_tasks().await.unwrap();
    assert!(world.store.user(bob.id).await.unwrap().is_none());
    assert!(world.store.user(ann.id).await.unwrap().is_some());
    let last = world.audit.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!((last.action, last.actor, last.user), (Action::DeleteUser, Actor::System, Some(bob.id)));
    assert!(world.store.due_tasks(UnixTime::NEVER, 10).await.unwrap().is_empty(), "nothing is left to do");
}

#[tokio::test]
async fn what_an_operator_has_touched_is_not_forgotten() {
    let world = world();
    world.register(BOB).await;
    let bob = stored(&world, BOB).await;
    let disable = palisade_core::service::users::UserEdit { active: Some(false), ..Default::default() };
    world.accounts.update_user("", bob.id, disable).await.unwrap();
    world.clock.advance(30 * DAY);
    world.accounts.do_due_tasks().await.unwrap();
    assert!(world.store.user(bob.id).await.unwrap().is_some(), "the address would be free again");
}

#[tokio::test]
async fn a_task_that_cannot_be_done_does_not_hold_up_the_others() {
    let world = world();
    world.register(ANN).await;
    world.store.damage(&ANN.parse().unwrap());
    for email in [ANN, BOB] {
        world.accounts.register(&client(), email, secret(PASSWORD), None).await.unwrap();
    }
    assert!(world.accounts.do_due_tasks().await.unwrap());
    assert_eq!(world.letters().await.last(), Some(&(Letter::VerifyEmail, BOB.to_owned())));
    let waiting = world.store.due_tasks(UnixTime(world.clock_now() + 60), 10).await.unwrap();
    assert!(
        matches!(&waiting[..], [task] if matches!(&task.work, Work::Register { email, .. } if email.as_str() == ANN))
    );
    assert!(!world.accounts.do_due_tasks().await.unwrap(), "it waits for its turn");
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_up_no_registration() {
    let world = world();
    world.clock.advance(3600);
    world.accounts.register(&client(), BOB, secret(PASSWORD), None).await.unwrap();
    // It wraps around.
    world.clock.advance(0_u64.wrapping_sub(3600));
    world.accounts.do_due_tasks().await.unwrap();
    stored(&world, BOB).await;
}

#[tokio::test]
async fn what_was_not_kept_is_not_in_the_audit_log() {
    let world = world();
    world.accounts.register(&client(), BOB, secret(PASSWORD), None).await.unwrap();
    world.accounts.request_reset(&client(), BOB).await.unwrap();
    world.store.fail();
    for _ in 0..3 {
        assert!(world.accounts.do_due_tasks().await.is_err());
    }
    assert_eq!(world.events(), []);
    world.store.mend();
    world.accounts.do_due_tasks().await.unwrap();
    let actions: Vec<Action> = world.events().into_iter().map(|(action, ..)| action).collect();
    assert_eq!(actions, [Action::Register, Action::RequestPasswordReset]);
}

/// Both answers come after the same work: what differs is done by the worker.
#[tokio::test]
async fn asking_for_a_taken_address_is_the_same_work_as_for_a_free_one() {
    let world = world();
    world.register(BOB).await;
    let bobs = world.token(Letter::VerifyEmail).await;
    world.accounts.verify_email(&client(), &bobs).await.unwrap();
    world.ann().await;
    let granted = world.login().await;
    for (email, letter) in [(BOB, Letter::AlreadyRegistered), ("free@example.com", Letter::ConfirmEmail)] {
        let before = world.letters().await.len();
        let edit =
            Edit { email: Some(email.into()), current_password: Some(secret(PASSWORD)), ..Edit::default() };
        world.accounts.edit_profile(&client(), person(&granted), edit).await.unwrap();
        let letters = world.letters().await;
        assert_eq!(letters[before..], [(Letter::EmailChanged, ANN.to_owned())]);
        world.accounts.do_due_tasks().await.unwrap();
        assert_eq!(world.letters().await.last(), Some(&(letter, email.to_owned())));
    }
}

#[tokio::test]
async fn of_two_wishes_for_an_address_the_later_counts() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    for email in ["one@example.com", "two@example.com"] {
        let edit =
            Edit { email: Some(email.into()), current_password: Some(secret(PASSWORD)), ..Edit::default() };
        world.accounts.edit_profile(&client(), person(&granted), edit).await.unwrap();
    }
    world.accounts.do_due_tasks().await.unwrap();
    let asked = world.letters().await.into_iter().filter(|(letter, _)| *letter == Letter::ConfirmEmail);
    assert_eq!(asked.map(|(_, to)| to).collect::<Vec<_>>(), ["two@example.com"]);
}

/// An address is registered and verified by its owner between the wish for it and the use of its link.
#[tokio::test]
async fn a_wish_for_an_address_does_not_outlive_its_registration() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let edit = Edit { email: Some(BOB.into()), current_password: Some(secret(PASSWORD)), ..Edit::default() };
    world.accounts.edit_profile(&client(), person(&granted), edit).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let wish = world.token(Letter::ConfirmEmail).await;
    world.register(BOB).await;
    let bobs = world.token(Letter::VerifyEmail).await;
    world.accounts.verify_email(&client(), &bobs).await.unwrap();
    let taken = world.accounts.verify_by(&client(), &wish, signed_in(&granted)).await;
    assert!(matches!(taken, Err(AccountError::InvalidLink)));
    assert_ne!(stored(&world, BOB).await.id, granted.user.id);
}

#[tokio::test]
async fn of_two_resets_at_once_one_works() {
    let world = world();
    world.ann().await;
    let mut links = Vec::new();
    for _ in 0..2 {
        world.accounts.request_reset(&client(), ANN).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
        links.push(world.token(Letter::ResetPassword).await);
    }
    links.push(links[0].clone());
    let client = client();
    let tries =
        links.iter().map(|link| world.accounts.confirm_reset(&client, link, secret("a new password")));
    let done = futures::future::join_all(tries).await;
    assert_eq!(done.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(done.iter().all(|outcome| matches!(outcome, Ok(()) | Err(AccountError::InvalidLink))));
}

#[tokio::test]
async fn nothing_prints_a_token_or_a_password() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let printed = format!("{granted:?}");
    assert!(!printed.contains(&granted.access_token) && !printed.contains(PASSWORD), "{printed}");
    assert!(!printed.contains(granted.refresh_token.expose_secret()));
}

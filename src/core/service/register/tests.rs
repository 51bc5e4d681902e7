//! Who may register, over the fakes.

use std::sync::atomic::Ordering;

use palisade_core::domain::account::Registration;
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::ports::{Limited, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::profile::Edit;
use palisade_core::service::register::SentForm;
use palisade_testing::accounts_world::{
    ANN, PASSWORD, client, person, secret, world, world_over, world_with,
};

const BOB: &str = "bob@example.com";

#[tokio::test]
async fn where_registration_is_not_open_every_address_gets_the_same_answer() {
    for registration in [Registration::Invited, Registration::Closed] {
        let before = world();
        before.ann().await;
        let world = world_over(before.store.clone(), |settings| settings.registration = registration);
        assert_eq!(world.accounts.registration(), registration);
        // An account, none, what is no address, and a password that breaks a rule.
        for (email, password) in [(ANN, PASSWORD), (BOB, PASSWORD), ("no address", PASSWORD), (BOB, "short")]
        {
            let refused = world.accounts.register(&client(), email, secret(password), None).await;
            assert!(matches!(refused, Err(AccountError::RegistrationClosed)), "{email}: {refused:?}");
        }
        assert!(!world.accounts.do_due_tasks().await.unwrap(), "nothing was enqueued");
        assert_eq!(world.store.users(None, 10).await.unwrap().len(), 1);
    }
}

/// A button that is pressed again and again is no work and no attempt; a minute later it is one, of the same registration.
#[tokio::test]
async fn a_form_that_is_pressed_many_times_is_enqueued_once() {
    let world = world();
    let press = |password: &'static str| {
        let accounts = world.accounts.clone();
        async move {
            let form = SentForm { id: Some("form 1"), return_to: None };
            accounts.register_form(&client(), BOB, secret(password), None, form).await
        }
    };
    let work = || {
        let hashed = world.passwords.requesters.lock().unwrap().len();
        (hashed, world.store.commits.load(Ordering::Relaxed))
    };
    // One that was not enqueued is no press.
    world.store.fail();
    assert!(matches!(press(PASSWORD).await, Err(AccountError::Store(_))));
    world.store.mend();
    let before = work();
    let first = press(PASSWORD).await.unwrap();
    let once = work();
    assert_eq!(once, (before.0 + 1, before.1 + 1));
    *world.limiter.stop.lock().unwrap() = Some(Limited::Register);
    for _ in 0..5 {
        assert_eq!(press(PASSWORD).await.unwrap().id, first.id);
    }
    assert_eq!(work(), once);
    // Another password under the same id is another registration, and an attempt.
    assert!(matches!(press("another password").await, Err(AccountError::TooMany(_))));
    world.clock.advance(60);
    assert!(matches!(press(PASSWORD).await, Err(AccountError::TooMany(_))));
    *world.limiter.stop.lock().unwrap() = None;
    assert_eq!(press(PASSWORD).await.unwrap().id, first.id);
    assert_eq!(work(), (once.0 + 1, once.1 + 1));
    while world.accounts.do_due_tasks().await.unwrap() {}
    assert_eq!(world.letters().await.len(), 1);
}

#[tokio::test]
async fn what_was_enqueued_before_registration_was_closed_makes_no_account() {
    let before = world();
    before.accounts.register(&client(), BOB, secret(PASSWORD), None).await.unwrap();
    let world = world_over(before.store.clone(), |settings| settings.registration = Registration::Invited);
    while world.accounts.do_due_tasks().await.unwrap() {}
    assert!(world.store.users(None, 10).await.unwrap().is_empty());
    let denied = (Action::Register, Outcome::Denied, Some("registration_closed".to_owned()));
    assert_eq!(world.events(), [denied]);
    assert!(world.letters().await.is_empty());
}

#[tokio::test]
async fn without_mail_nothing_is_taken_that_needs_a_letter() {
    let before = world();
    before.ann().await;
    let world = world_over(before.store.clone(), |settings| settings.sends_mail = false);
    assert!(!world.accounts.has_mail());
    for email in [ANN, BOB, "no address"] {
        let reset = world.accounts.request_reset(&client(), email).await;
        assert!(matches!(reset, Err(AccountError::NoMail)), "{email}");
        let resend = world.accounts.resend_verification(&client(), email).await;
        assert!(matches!(resend, Err(AccountError::NoMail)), "{email}");
    }
    let granted = world.login().await;
    let edit = Edit { name: None, email: Some(BOB.to_owned()), current_password: Some(secret(PASSWORD)) };
    let edited = world.accounts.edit_profile(&client(), person(&granted), edit).await;
    assert!(matches!(edited, Err(AccountError::NoMail)));
    assert!(!world.accounts.do_due_tasks().await.unwrap(), "nothing was enqueued");
    assert!(world_with(|_| ()).accounts.has_mail());
}

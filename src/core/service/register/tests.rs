//! Who may register, over the fakes.

use palisade_core::domain::account::Registration;
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::ports::Store;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::profile::Edit;
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

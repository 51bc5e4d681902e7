//! One live link for each account and purpose, as stories over the fakes.

use std::time::Duration;

use palisade_core::domain::account::User;
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::link::{Link, Purpose};
use palisade_core::domain::mail::Letter;
use palisade_core::domain::opaque::TokenHash;
use palisade_core::ports::{Change, Limited, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::profile::Edit;
use palisade_core::service::register::SentForm;
use palisade_core::service::users::UserEdit;
use palisade_core::service::verify_email::VERIFYING;
use palisade_core::service::verify_registration::Proof;
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, client, person, secret, signed_in, world, world_with,
};

const HOUR: u64 = 3600;

async fn ann(world: &AccountsWorld) -> User {
    let email: EmailAddress = ANN.parse().unwrap();
    world.store.user_by_email(&email).await.unwrap().expect("no such account")
}

async fn ask_for_reset(world: &AccountsWorld) -> String {
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    world.token(Letter::ResetPassword).await
}

async fn ask_again(world: &AccountsWorld) -> String {
    world.accounts.resend_verification(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    world.token(Letter::VerifyEmail).await
}

async fn verify(world: &AccountsWorld, token: &str) -> Result<User, AccountError> {
    world.accounts.verify_email(&client(), token).await
}

async fn letters(world: &AccountsWorld, letter: Letter) -> usize {
    world.letters().await.iter().filter(|(other, _)| *other == letter).count()
}

/// A link of a version that did not keep which one is live.
async fn link_of_an_earlier_version(world: &AccountsWorld, purpose: Purpose) -> String {
    let (token, user) = (format!("old {purpose:?}"), ann(world).await);
    let link = Link {
        id: uuid::Uuid::from_u128(u128::MAX),
        hash: TokenHash::of(token.as_bytes()),
        purpose,
        user: user.id,
        email: user.email,
        generation: user.link_generation,
        created_at: user.created_at,
        expires_at: user.created_at.plus(purpose.life()),
        is_listed: false,
        return_to: None,
    };
    world.store.commit(vec![Change::CreateLink(link)]).await.unwrap();
    token
}

#[tokio::test]
async fn a_repeated_request_mails_the_live_link_with_the_time_it_has_left() {
    // How many a mailbox gets is another matter.
    let world = world_with(|settings| settings.letters.enabled = false);
    world.ann().await;
    let first = ask_for_reset(&world).await;
    let ends_at = world.newest(Letter::ResetPassword).await.link.unwrap().expires_at;
    for _ in 0..28 {
        world.clock.advance(60);
        assert_eq!(ask_for_reset(&world).await, first);
    }
    assert_eq!(letters(&world, Letter::ResetPassword).await, 29);
    assert_eq!(world.newest(Letter::ResetPassword).await.link.unwrap().expires_at, ends_at);
    world.accounts.confirm_reset(&client(), &first, secret("a new password")).await.unwrap();
    let used = ask_for_reset(&world).await;
    assert_ne!(used, first, "a new one when the old one is used");
    world.clock.advance(HOUR);
    let over = ask_for_reset(&world).await;
    assert_ne!(over, used, "a new one when the old one is over");
    world.accounts.validate_reset(&client(), &over).await.unwrap();
}

#[tokio::test]
async fn the_links_of_two_purposes_live_side_by_side() {
    let world = world();
    world.register(ANN).await;
    let verification = world.token(Letter::VerifyEmail).await;
    let reset = ask_for_reset(&world).await;
    assert_eq!(ask_again(&world).await, verification);
    verify(&world, &verification).await.unwrap();
    world.accounts.validate_reset(&client(), &reset).await.unwrap();
}

#[tokio::test]
async fn a_link_that_the_account_does_not_name_is_dead() {
    let world = world();
    world.ann().await;
    let token = ask_for_reset(&world).await;
    let mut user = ann(&world).await;
    user.live_links.insert(Purpose::ResetPassword, uuid::Uuid::from_u128(7));
    world.store.commit(vec![Change::UpdateUser(user)]).await.unwrap();
    let dead = world.accounts.validate_reset(&client(), &token).await;
    assert!(matches!(dead, Err(AccountError::InvalidLink)));
    let fresh = ask_for_reset(&world).await;
    world.accounts.validate_reset(&client(), &fresh).await.unwrap();
}

#[tokio::test]
async fn a_verification_voids_the_other_verification_links() {
    let world = world();
    world.register(ANN).await;
    let old = link_of_an_earlier_version(&world, Purpose::VerifyEmail).await;
    let token = world.token(Letter::VerifyEmail).await;
    verify(&world, &token).await.unwrap();
    for stale in [&old, &token] {
        assert!(matches!(verify(&world, stale).await, Err(AccountError::InvalidLink)), "no profile");
    }
    assert_eq!(letters(&world, Letter::Welcome).await, 1);
    assert_eq!(ask_again(&world).await, token, "nothing is mailed for a verified address");
    assert_eq!(letters(&world, Letter::VerifyEmail).await, 1);
}

#[tokio::test]
async fn a_link_of_an_earlier_version_is_good_until_it_is_used() {
    let world = world();
    world.ann().await;
    let old = link_of_an_earlier_version(&world, Purpose::ResetPassword).await;
    let new = ask_for_reset(&world).await;
    world.accounts.confirm_reset(&client(), &old, secret("a new password")).await.unwrap();
    for token in [&old, &new] {
        let stale = world.accounts.validate_reset(&client(), token).await;
        assert!(matches!(stale, Err(AccountError::InvalidLink)));
    }
}

#[tokio::test]
async fn a_link_from_before_gives_back_nothing_that_an_operator_took() {
    let verified = |is| UserEdit { email_verified: Some(is), ..UserEdit::default() };
    let active = |is| UserEdit { active: Some(is), ..UserEdit::default() };
    for what in ["verified", "active"] {
        let world = world();
        world.register(ANN).await;
        let verification = link_of_an_earlier_version(&world, Purpose::VerifyEmail).await;
        let user = verify(&world, &world.token(Letter::VerifyEmail).await).await.unwrap();
        let reset = ask_for_reset(&world).await;
        let edits = if what == "active" { vec![active(false), active(true)] } else { vec![verified(false)] };
        for edit in edits {
            world.accounts.update_user("r", user.id, edit).await.unwrap();
        }
        assert!(matches!(verify(&world, &verification).await, Err(AccountError::InvalidLink)), "{what}");
        let set = world.accounts.confirm_reset(&client(), &reset, secret("a new password")).await;
        assert!(matches!(set, Err(AccountError::InvalidLink)), "{what}");
        assert_eq!(ann(&world).await.email_verified, what == "active");
        if what == "verified" {
            verify(&world, &ask_again(&world).await).await.unwrap();
        }
    }
}

#[tokio::test]
async fn of_two_requests_at_once_both_mail_one_link() {
    let world = world();
    world.ann().await;
    for _ in 0..2 {
        world.accounts.request_reset(&client(), ANN).await.unwrap();
    }
    world.accounts.do_due_tasks().await.unwrap();
    let mails = world.store.mails(100).await.unwrap();
    let mut links: Vec<_> = mails
        .iter()
        .filter_map(|mail| mail.link.filter(|link| link.purpose == Purpose::ResetPassword))
        .collect();
    assert_eq!(links.len(), 2);
    links.dedup();
    assert_eq!(links.len(), 1);
}

#[tokio::test]
async fn a_changed_password_voids_what_was_mailed_before() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let token = ask_for_reset(&world).await;
    let new = secret("a new password");
    world.accounts.change_password(&client(), person(&granted), secret(PASSWORD), new).await.unwrap();
    let stale = world.accounts.validate_reset(&client(), &token).await;
    assert!(matches!(stale, Err(AccountError::InvalidLink)));
    assert_ne!(ask_for_reset(&world).await, token);
}

#[tokio::test]
async fn a_live_link_to_another_address_is_not_mailed_again() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let wish = async |email: &str| {
        let (email, current_password) = (Some(email.to_owned()), Some(secret(PASSWORD)));
        let edit = Edit { email, current_password, ..Edit::default() };
        world.accounts.edit_profile(&client(), person(&granted), edit).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
        world.token(Letter::ConfirmEmail).await
    };
    let (one, two) = (wish("one@example.com").await, wish("two@example.com").await);
    assert!(matches!(verify(&world, &one).await, Err(AccountError::InvalidLink)));
    let user = world.accounts.verify_by(&client(), &two, signed_in(&granted)).await.unwrap();
    assert_eq!(user.email.as_ref().unwrap().as_str(), "two@example.com");
}

#[tokio::test]
async fn a_link_is_good_to_its_last_second() {
    let world = world();
    world.register(ANN).await;
    let token = world.token(Letter::VerifyEmail).await;
    world.clock.advance(Duration::from_secs(24 * HOUR).as_secs() - 1);
    assert_eq!(ask_again(&world).await, token, "what is mailed again has a second left");
    *world.limiter.stop.lock().unwrap() = Some(Limited::UseLink);
    assert!(matches!(verify(&world, &token).await, Err(AccountError::TooMany(_))));
    *world.limiter.stop.lock().unwrap() = None;
    world.clock.advance(1);
    assert!(matches!(verify(&world, &token).await, Err(AccountError::InvalidLink)));
    verify(&world, &ask_again(&world).await).await.unwrap();
}

async fn led_to(world: &AccountsWorld, letter: Letter, purpose: Purpose) -> Option<String> {
    let token = world.token(letter).await;
    world.accounts.open_link(&client(), &token, &[purpose]).await.unwrap().return_to
}

#[tokio::test]
async fn a_link_leads_to_where_the_latest_request_was_going() {
    let world = world();
    let form = SentForm { id: None, return_to: Some("https://app.test/report".into()) };
    world.accounts.register_form(&client(), ANN, secret(PASSWORD), None, form).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let verified = async || led_to(&world, Letter::VerifyEmail, Purpose::VerifyEmail).await;
    let first = world.token(Letter::VerifyEmail).await;
    assert_eq!(verified().await.as_deref(), Some("https://app.test/report"));
    assert_eq!(ask_again(&world).await, first, "a request without a target keeps the link as it is");
    assert_eq!(verified().await.as_deref(), Some("https://app.test/report"));
    let elsewhere = Some("https://other.test/".to_owned());
    world.accounts.resend_verification_for(&client(), ANN, elsewhere.clone()).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!((world.token(Letter::VerifyEmail).await, verified().await), (first.clone(), elsewhere));
    verify(&world, &first).await.unwrap();
    // The link that is used up stays so.
    let again = world.accounts.open_link(&client(), &first, &[Purpose::VerifyEmail]).await;
    assert!(matches!(again, Err(AccountError::InvalidLink)));

    let target = Some("https://app.test/reset".to_owned());
    world.accounts.request_reset_for(&client(), ANN, target.clone()).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(led_to(&world, Letter::ResetPassword, Purpose::ResetPassword).await, target);
}

#[tokio::test]
async fn opening_a_link_uses_nothing_up_and_is_an_attempt() {
    let world = world();
    world.register(ANN).await;
    let token = world.token(Letter::VerifyEmail).await;
    for _ in 0..3 {
        let opened = world.accounts.open_link(&client(), &token, &VERIFYING).await.unwrap();
        assert_eq!((opened.purpose, opened.email.as_ref().unwrap().as_str()), (Purpose::VerifyEmail, ANN));
    }
    let opened = world.accounts.open_link(&client(), &token, &VERIFYING).await.unwrap();
    let other = world.accounts.open_link(&client(), &token, &[Purpose::ResetPassword]).await;
    assert!(matches!(other, Err(AccountError::InvalidLink)));
    *world.limiter.stop.lock().unwrap() = Some(Limited::UseLink);
    let many = world.accounts.open_link(&client(), &token, &VERIFYING).await;
    assert!(matches!(many, Err(AccountError::TooMany(_))));
    // What was opened was counted.
    world.accounts.verify_opened(&client(), &opened, Proof::default()).await.unwrap();
}

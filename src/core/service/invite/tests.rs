//! Invitations and links that the operator hands over, over the fakes.

use std::time::Duration;

use secrecy::ExposeSecret as _;

use palisade_core::domain::account::{PasswordHash, Registration, User};
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::link::Purpose;
use palisade_core::domain::mail::Letter;
use palisade_core::ports::{Change, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, client, secret, world, world_with,
};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const CID: &str = "cid@example.com";

/// As with `mail.transport = "none"`.
fn without_mail() -> AccountsWorld {
    world_with(|settings| {
        settings.sends_mail = false;
        settings.registration = Registration::Invited;
    })
}

#[tokio::test]
async fn an_invited_person_sets_a_password_and_is_verified_in_one_step() {
    let world = world_with(|settings| settings.registration = Registration::Invited);
    let invited = world.accounts.invite("r", CID, Some("Cid".into())).await.unwrap();
    assert!(invited.link.is_none(), "mailed, and shown to no operator");
    assert_eq!(world.letters().await, [(Letter::Invitation, CID.to_owned())]);
    let mail = world.newest(Letter::Invitation).await;
    assert_eq!(
        (mail.name, mail.link.unwrap().purpose),
        (None, Purpose::Invite),
        "the address is not verified"
    );
    let token = world.token(Letter::Invitation).await;
    let opened = world.accounts.open_link(&client(), &token, &[Purpose::ResetPassword]).await.unwrap();
    assert_eq!((opened.purpose, opened.email.as_ref().unwrap().as_str()), (Purpose::Invite, CID));
    let verified = world.accounts.verify_email(&client(), &token).await;
    assert!(matches!(verified, Err(AccountError::InvalidLink)), "it verifies nothing without a password");
    world.accounts.confirm_reset(&client(), &token, secret(PASSWORD)).await.unwrap();
    let cid = world.at(CID).await;
    assert!(cid.email_verified && cid.name.as_deref() == Some("Cid"));
    world.accounts.login(&client(), CID, secret(PASSWORD)).await.unwrap();
    let again = world.accounts.confirm_reset(&client(), &token, secret("another password")).await;
    assert!(matches!(again, Err(AccountError::InvalidLink)), "it works once");
    let letters: Vec<Letter> = world.letters().await.into_iter().map(|(letter, _)| letter).collect();
    assert_eq!(letters, [Letter::Invitation, Letter::Welcome], "no password was changed");
    let events = world.events();
    assert_eq!(events[0], (Action::InviteUser, Outcome::Success, None));
    assert!(events.contains(&(Action::ResetPassword, Outcome::Success, Some("invited".to_owned()))));
}

#[tokio::test]
async fn an_invitation_can_be_sent_again_and_is_one_link_with_its_whole_time() {
    let world = world();
    world.accounts.invite("r", CID, Some("Cid".into())).await.unwrap();
    let first = world.token(Letter::Invitation).await;
    world.clock.advance(WEEK.as_secs() - 10);
    let again = world.accounts.invite("r", CID, None).await.unwrap();
    assert_eq!(again.user.name.as_deref(), Some("Cid"), "what is not given stays");
    assert_eq!(world.token(Letter::Invitation).await, first, "one live link for an account and purpose");
    world.clock.advance(WEEK.as_secs() - 10);
    world.accounts.validate_reset(&client(), &first).await.unwrap();
    world.clock.advance(20);
    let over = world.accounts.validate_reset(&client(), &first).await;
    assert!(matches!(over, Err(AccountError::InvalidLink)));
    world.accounts.invite("r", CID, Some("Cid Lee".into())).await.unwrap();
    let fresh = world.token(Letter::Invitation).await;
    assert_ne!(fresh, first);
    world.accounts.confirm_reset(&client(), &fresh, secret(PASSWORD)).await.unwrap();
    assert_eq!(world.store.users(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_invitation_takes_no_account_over() {
    let world = world();
    // A stranger was first, with a password of their own, and never showed that the address is theirs.
    world.register(CID).await;
    let before = world.at(CID).await;
    let invited = world.accounts.invite("r", CID, None).await.unwrap();
    assert_ne!(invited.user.id, before.id);
    assert_eq!(world.at(CID).await.password, None);
    // Of a person who has one.
    world.ann().await;
    assert!(matches!(world.accounts.invite("r", ANN, None).await, Err(AccountError::EmailTaken)));
    let disabled = UserEdit { active: Some(false), ..UserEdit::default() };
    world.accounts.update_user("r", invited.user.id, disabled).await.unwrap();
    assert!(matches!(world.accounts.invite("r", CID, None).await, Err(AccountError::EmailTaken)));
    assert!(matches!(world.accounts.invite("r", "x", None).await, Err(AccountError::InvalidEmail(_))));
    let named = world.accounts.invite("r", "dan@example.com", Some("a\nb".into())).await;
    assert!(matches!(named, Err(AccountError::Invalid(_))));
}

/// A reset that was asked for beside an invitation; the first of the two that is used ends the other.
#[tokio::test]
async fn an_invitation_never_replaces_a_password() {
    let world = world();
    world.accounts.invite("r", CID, None).await.unwrap();
    let invitation = world.token(Letter::Invitation).await;
    world.accounts.request_reset(&client(), CID).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let reset = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &reset, secret(PASSWORD)).await.unwrap();
    let late = world.accounts.confirm_reset(&client(), &invitation, secret("another password")).await;
    assert!(matches!(late, Err(AccountError::InvalidLink)));

    // Whatever gave the account a password meanwhile, and voided no link with it.
    world.accounts.invite("r", "dan@example.com", None).await.unwrap();
    let invitation = world.token(Letter::Invitation).await;
    let dan = world.at("dan@example.com").await;
    let dan = User { password: Some(PasswordHash("hash:x".to_owned())), ..dan };
    world.store.commit(vec![Change::UpdateUser(dan)]).await.unwrap();
    let late = world.accounts.validate_reset(&client(), &invitation).await;
    assert!(matches!(late, Err(AccountError::InvalidLink)));
}

#[tokio::test]
async fn without_mail_the_operator_gets_the_link() {
    let world = without_mail();
    let invited = world.accounts.invite("r", CID, None).await.unwrap();
    let link = invited.link.unwrap();
    assert_eq!(link.purpose, Purpose::Invite);
    assert_eq!(link.expires_at, world.accounts.now().plus(WEEK));
    let token = link.token.expose_secret().to_owned();
    let again = world.accounts.invite("r", CID, None).await.unwrap().link.unwrap();
    assert_eq!(again.token.expose_secret(), token);
    world.accounts.confirm_reset(&client(), &token, secret(PASSWORD)).await.unwrap();
    assert!(world.at(CID).await.email_verified);
    assert!(!world.letters().await.iter().any(|(letter, _)| *letter == Letter::Invitation));
}

#[tokio::test]
async fn without_mail_a_reset_by_the_operator_can_always_be_followed() {
    let world = without_mail();
    let new = NewUser {
        email: Some(ANN.into()),
        username: None,
        groups: Vec::new(),
        name: None,
        password: NewPassword::Given(secret(PASSWORD)),
        email_verified: false,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    let made = world.accounts.create_user("r", new).await.unwrap();
    let verify = made.link.unwrap();
    assert_eq!(verify.purpose, Purpose::VerifyEmail);
    world.accounts.verify_email(&client(), verify.token.expose_secret()).await.unwrap();
    let granted = world.login().await;
    let first = world.accounts.reset_password_of("r", made.user.id).await.unwrap().unwrap();
    assert!(world.refresh(&granted.refresh_token).await.is_err());
    assert!(world.accounts.login(&client(), ANN, secret(PASSWORD)).await.is_err());
    // The link was lost, or is over: another one.
    world.clock.advance(3600);
    let second = world.accounts.reset_password_of("r", made.user.id).await.unwrap().unwrap();
    let lost = world.accounts.confirm_reset(&client(), first.token.expose_secret(), secret(PASSWORD)).await;
    assert!(matches!(lost, Err(AccountError::InvalidLink)));
    world.accounts.confirm_reset(&client(), second.token.expose_secret(), secret(PASSWORD)).await.unwrap();
    world.login().await;
}

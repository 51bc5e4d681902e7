//! What a browser gets for a mailed link, as stories over the fakes.

use secrecy::ExposeSecret;

use palisade_core::domain::binding::Binding;
use palisade_core::domain::browser::CookiePlace;
use palisade_core::domain::link::Purpose;
use palisade_core::domain::mail::Letter;
use palisade_core::ports::{CookieFault, Store};
use palisade_core::service::accounts::{AccountError, Ways};
use palisade_core::service::browser::SignedIn;
use palisade_core::service::caller::Person;
use palisade_core::service::entry::{Entered, EntryCookie};
use palisade_core::service::register::SentForm;
use palisade_core::service::sign_in::SignIn;
use palisade_core::service::users::UserEdit;
use palisade_core::service::verify_email::VERIFYING;
use palisade_core::service::verify_registration::Proof;
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, client, secret, typed, world};

const NEW: &str = "another horse";

fn place() -> CookiePlace {
    CookiePlace::Host("app.test".to_owned())
}

async fn verify(
    world: &AccountsWorld,
    token: &str,
    proof: Proof,
    over: Option<&str>,
    person: Option<Person>,
) -> Result<Entered, AccountError> {
    let opened = world.accounts.open_link(&client(), token, &VERIFYING).await?;
    let cookie = EntryCookie { place: &place(), over, person };
    world.accounts.verify_and_enter(&client(), &opened, Proof { person, ..proof }, cookie).await
}

async fn reset(world: &AccountsWorld, password: &str, over: Option<&str>) -> Result<Entered, AccountError> {
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let token = world.token(Letter::ResetPassword).await;
    let opened = world.accounts.open_link(&client(), &token, &[Purpose::ResetPassword]).await?;
    let cookie = EntryCookie { place: &place(), over, person: None };
    world.accounts.reset_and_enter(&client(), &opened, secret(password), cookie).await
}

fn signed_in(entered: Entered) -> Box<SignedIn> {
    match entered {
        Entered::SignedIn(SignIn::Done(signed_in)) => signed_in,
        other => panic!("{other:?}"),
    }
}

async fn is_good(world: &AccountsWorld, cookie: &str) -> bool {
    let read = world.accounts.cookie_session(cookie, &place(), client().address).await;
    match read {
        Ok(_) => true,
        Err(CookieFault::Over) => false,
        Err(fault) => panic!("{fault}"),
    }
}

fn value(signed_in: &SignedIn) -> &str {
    signed_in.cookie.value.expose_secret()
}

#[tokio::test]
async fn the_browser_that_registered_is_signed_in_by_the_link_and_another_by_the_password() {
    let world = world();
    let form = SentForm::default();
    let sent = world.accounts.register_form(&client(), ANN, secret(PASSWORD), None, form).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let bound = world.accounts.bind(None, &sent);
    let token = world.token(Letter::VerifyEmail).await;

    // The link alone begins no session, although the API takes it without more.
    let bare = verify(&world, &token, Proof::default(), None, None).await;
    assert!(matches!(bare, Err(AccountError::ProofNeeded(Ways::Password))), "{bare:?}");
    let wrong = verify(&world, &token, typed("wrong"), None, None).await;
    assert!(matches!(wrong, Err(AccountError::WrongPassword)), "{wrong:?}");
    assert!(world.store.sessions(ann_id(&world).await).await.unwrap().is_empty());

    let browser = Binding::read(&world.key, bound.expose_secret());
    let entered = verify(&world, &token, Proof { browser, ..Proof::default() }, None, None).await.unwrap();
    let entered = signed_in(entered);
    assert_eq!(entered.user.email.as_ref().unwrap().as_str(), ANN);
    assert!(is_good(&world, value(&entered)).await);
    let again = verify(&world, &token, typed(PASSWORD), None, None).await;
    assert!(matches!(again, Err(AccountError::InvalidLink)), "it is used up: {again:?}");
}

#[tokio::test]
async fn the_password_signs_another_browser_in_over_the_session_that_it_has() {
    let world = world();
    world.register("bob@example.com").await;
    let bob = world.token(Letter::VerifyEmail).await;
    let bob = signed_in(verify(&world, &bob, typed(PASSWORD), None, None).await.unwrap());
    world.register(ANN).await;
    let token = world.token(Letter::VerifyEmail).await;
    let ann = signed_in(verify(&world, &token, typed(PASSWORD), Some(value(&bob)), None).await.unwrap());
    assert_eq!((is_good(&world, value(&ann)).await, is_good(&world, value(&bob)).await), (true, false));
}

#[tokio::test]
async fn after_a_reset_every_session_has_ended_but_the_new_one() {
    let world = world();
    world.register(ANN).await;
    let token = world.token(Letter::VerifyEmail).await;
    let first = signed_in(verify(&world, &token, typed(PASSWORD), None, None).await.unwrap());
    let weak = reset(&world, "short", None).await;
    assert!(matches!(weak, Err(AccountError::PasswordRejected { .. })), "{weak:?}");
    assert!(is_good(&world, value(&first)).await);
    let second = signed_in(reset(&world, NEW, None).await.unwrap());
    assert_eq!((is_good(&world, value(&first)).await, is_good(&world, value(&second)).await), (false, true));
}

#[tokio::test]
async fn a_locked_account_is_reset_and_not_signed_in_to() {
    let world = world();
    let ann = world.ann().await;
    let locked_until = Some(palisade_core::domain::time::UnixTime(world.clock_now() + 1000));
    world.accounts.update_user("r", ann.id, UserEdit { locked_until, ..UserEdit::default() }).await.unwrap();
    let entered = reset(&world, NEW, None).await.unwrap();
    assert!(matches!(entered, Entered::SignInNeeded), "{entered:?}");
    assert!(world.store.sessions(ann_id(&world).await).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_changed_address_renews_the_cookie_of_its_session_only() {
    let world = world();
    world.register(ANN).await;
    let token = world.token(Letter::VerifyEmail).await;
    let here = signed_in(verify(&world, &token, typed(PASSWORD), None, None).await.unwrap());
    let person = Person { user: here.user.id, session: Some(here.session) };
    let granted = world.login().await;
    let token = world.ask_for(&granted, "ann@new.test", PASSWORD).await;
    let entered = verify(&world, &token, Proof::default(), Some(value(&here)), Some(person)).await.unwrap();
    let Entered::Renewed(_, cookie) = entered else { panic!("{entered:?}") };
    assert!(is_good(&world, cookie.value.expose_secret()).await);
    assert!(!is_good(&world, value(&here)).await, "the value from before is void");

    // By the password, in a browser without a session.
    let granted = world.sign_in("ann@new.test", PASSWORD).await.unwrap();
    let token = world.ask_for(&granted, "ann@newer.test", PASSWORD).await;
    let entered = verify(&world, &token, typed(PASSWORD), None, None).await.unwrap();
    assert!(matches!(entered, Entered::SignInNeeded), "{entered:?}");
}

async fn ann_id(world: &AccountsWorld) -> palisade_core::domain::account::UserId {
    world.at(ANN).await.id
}

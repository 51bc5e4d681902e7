//! Accounts without an address, over the fakes: nothing is mailed to them, and an operator hands over what a letter
//! would carry.

use secrecy::ExposeSecret;
use serde_json::Map;

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::browser::CookiePlace;
use palisade_core::domain::link::Purpose;
use palisade_core::domain::mail::Letter;
use palisade_core::ports::Store;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::caller::{Client, Person};
use palisade_core::service::entry::{Entered, EntryCookie};
use palisade_core::service::profile::Edit;
use palisade_core::service::sign_in::SignIn;
use palisade_core::service::users::{MadeAccount, NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, client, from, secret, typed, world};

const NEW: &str = "another horse";

fn new(password: NewPassword) -> NewUser {
    NewUser {
        email: None,
        username: Some("ann".to_owned()),
        groups: Vec::new(),
        name: Some("Ann".to_owned()),
        password,
        email_verified: false,
        scopes: Vec::new(),
        claims: Map::new(),
    }
}

async fn made(world: &AccountsWorld, password: NewPassword) -> MadeAccount {
    world.accounts.create_user("r1", new(password)).await.unwrap()
}

/// Sets the password by a link of the operator, and is signed in.
async fn enter(world: &AccountsWorld, client: &Client, made: &MadeAccount, password: &str) -> Person {
    let handed = world.accounts.reset_password_of("r1", made.user.id).await.unwrap().unwrap();
    let token = handed.token.expose_secret();
    let opened = world.accounts.open_link(client, token, &[Purpose::ResetPassword]).await.unwrap();
    assert_eq!(opened.email, None);
    let place = CookiePlace::Host("app.test".to_owned());
    let cookie = EntryCookie { place: &place, over: None, person: None };
    match world.accounts.reset_and_enter(client, &opened, secret(password), cookie).await.unwrap() {
        Entered::SignedIn(SignIn::Done(entered)) => {
            Person { user: entered.user.id, session: Some(entered.session) }
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_letter_would_carry_is_handed_to_the_operator() {
    let world = world();
    let made = made(&world, NewPassword::Mailed).await;
    let link = made.link.as_ref().expect("nothing can be mailed");
    assert_eq!(link.purpose, Purpose::ResetPassword);
    let handed = world.accounts.reset_password_of("r1", made.user.id).await.unwrap().unwrap();
    assert_eq!(handed.purpose, Purpose::ResetPassword);
    let person = enter(&world, &client(), &made, PASSWORD).await;
    let ann = world.accounts.profile(person).await.unwrap();
    assert_eq!((ann.email, ann.email_verified), (None, false));
    assert!(ann.password.is_some());
    assert_eq!(world.letters().await, []);
    let first = link.token.expose_secret();
    let again = world.accounts.open_link(&client(), first, &[Purpose::ResetPassword]).await;
    assert!(matches!(again, Err(AccountError::InvalidLink)), "an earlier one is void");
}

/// With a password of its own, no link is due, and none could verify anything.
#[tokio::test]
async fn nothing_waits_for_a_verification() {
    let world = world();
    let made = made(&world, NewPassword::Given(secret(PASSWORD))).await;
    assert!(made.link.is_none() && made.user.password.is_some());
    let vouched = NewUser { email_verified: true, ..new(NewPassword::Generated) };
    let error = world.accounts.create_user("r1", vouched).await.unwrap_err();
    assert!(matches!(&error, AccountError::Invalid(why) if why.contains("email_verified")), "{error}");
    let edit = UserEdit { email_verified: Some(true), ..UserEdit::default() };
    let error = world.accounts.update_user("r1", made.user.id, edit).await.unwrap_err();
    assert!(matches!(&error, AccountError::Invalid(why) if why.contains("no address")), "{error}");
    world.clock.advance(30 * 24 * 3600);
    world.accounts.do_due_tasks().await.unwrap();
    assert!(world.store.user(made.user.id).await.unwrap().is_some());
}

#[tokio::test]
async fn nothing_is_mailed_whatever_happens_to_it() {
    let world = world();
    let made = made(&world, NewPassword::Mailed).await;
    let person = enter(&world, &client(), &made, PASSWORD).await;
    // A new device, too: the audit log tells it.
    let person = enter(&world, &from("another"), &made, PASSWORD)
        .await
        .session
        .map_or(person, |session| Person { user: person.user, session: Some(session) });
    let told = (Action::Login, Outcome::Success, Some("no_address".to_owned()));
    assert!(world.events().contains(&told), "{:?}", world.events());
    world.accounts.change_password(&client(), person, secret(PASSWORD), secret(NEW)).await.unwrap();
    let person = enter(&world, &client(), &made, PASSWORD).await;
    world.accounts.delete_account(&client(), person, Some(secret(PASSWORD))).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(world.letters().await, []);
    assert!(world.store.user(made.user.id).await.unwrap().is_none());
}

/// The link goes to the new address, and takes the password before. There is no old one that could be told.
#[tokio::test]
async fn its_owner_adds_an_address_by_the_way_of_a_change() {
    let world = world();
    let made = made(&world, NewPassword::Mailed).await;
    let person = enter(&world, &client(), &made, PASSWORD).await;
    let edit = |password: Option<&str>| Edit {
        email: Some(ANN.to_owned()),
        current_password: password.map(secret),
        ..Edit::default()
    };
    let without = world.accounts.edit_profile(&client(), person, edit(None)).await;
    assert!(matches!(without, Err(AccountError::Invalid(_))));
    let wrong = world.accounts.edit_profile(&client(), person, edit(Some("wrong"))).await;
    assert!(matches!(wrong, Err(AccountError::WrongPassword)));
    let edited = world.accounts.edit_profile(&client(), person, edit(Some(PASSWORD))).await.unwrap();
    assert_eq!(edited.user.email, None, "not before it is confirmed");
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(world.letters().await, [(Letter::ConfirmEmail, ANN.to_owned())]);
    let token = world.token(Letter::ConfirmEmail).await;
    let ann = world.accounts.verify_by(&client(), &token, typed(PASSWORD)).await.unwrap();
    assert_eq!((ann.email.as_ref().unwrap().as_str(), ann.email_verified), (ANN, true));
    assert!(ann.email_changes.undoable.is_empty(), "there is nothing to go back to");
    assert_eq!(world.letters().await.len(), 1);
    world.sign_in(ANN, PASSWORD).await.unwrap();
    // What an operator handed over while there was no address opens nothing any more.
    let handed = world.accounts.reset_password_of("r1", ann.id).await.unwrap();
    assert!(handed.is_none(), "it is mailed");
}

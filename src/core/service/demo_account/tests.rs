//! The account of the demonstration, over the fakes.

use palisade_core::domain::account::PasswordHash;
use palisade_core::ports::{Change, Store};
use palisade_testing::accounts_world::{PasswordLogin, client, world};
use secrecy::ExposeSecret;

#[tokio::test]
async fn it_is_made_once_and_can_be_signed_in_to() {
    let world = world();
    let made = world.accounts.demo_account().await.unwrap();
    let again = world.accounts.demo_account().await.unwrap();
    let [first, second] = [&made, &again].map(|account| account.password.clone().unwrap());
    assert_eq!(first.expose_secret(), second.expose_secret(), "the same after a restart");
    assert_eq!(world.accounts.list_users(None, 9).await.unwrap().len(), 1);
    world.accounts.login(&client(), made.email.as_str(), first.clone()).await.unwrap();
}

#[tokio::test]
async fn a_password_that_was_changed_is_not_told() {
    let world = world();
    let made = world.accounts.demo_account().await.unwrap();
    let mut user = world.store.user_by_email(&made.email).await.unwrap().unwrap();
    user.password = Some(PasswordHash("hash:another".into()));
    world.store.commit(vec![Change::UpdateUser(user)]).await.unwrap();
    assert!(world.accounts.demo_account().await.unwrap().password.is_none());
    assert_eq!(world.accounts.list_users(None, 9).await.unwrap().len(), 1);
}

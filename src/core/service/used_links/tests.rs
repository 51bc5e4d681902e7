//! Links and registrations whose next request comes to another gateway than the one that used them, over the fakes.

use std::sync::Arc;

use palisade_core::domain::link::Purpose;
use palisade_core::domain::mail::Letter;
use palisade_core::service::register::SentForm;
use palisade_core::service::verify_registration::Proof;
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, client, secret, world_over};
use palisade_testing::fakes::FakeStore;
use secrecy::ExposeSecret;

/// Two gateways over one store.
fn two() -> [AccountsWorld; 2] {
    let store = Arc::new(FakeStore::shared());
    [(); 2].map(|()| world_over(Arc::clone(&store), |_| ()))
}

#[tokio::test]
async fn what_a_link_was_used_for_is_told_to_its_browser_at_every_gateway() {
    let [one, other] = two();
    let ann = one.ann().await;
    let mark = one.accounts.browser_mark();
    let mark = Some(mark.expose_secret());
    let another = one.accounts.browser_mark();
    {
        let turn = one.accounts.link_turn("token").await;
        one.accounts.link_used(&turn, Purpose::VerifyEmail, Some(ann.id), mark).await;
    }
    for world in [&one, &other] {
        let turn = world.accounts.link_turn("token").await;
        let told = |browser, person| world.accounts.link_was_used(&turn, browser, person);
        assert_eq!(told(mark, None).await, Some(Purpose::VerifyEmail));
        assert_eq!(told(None, Some(ann.id)).await, Some(Purpose::VerifyEmail));
        assert_eq!(told(Some(another.expose_secret()), None).await, None);
        assert_eq!(told(None, None).await, None);
        let elsewhere = world.accounts.link_turn("another token").await;
        assert_eq!(world.accounts.link_was_used(&elsewhere, mark, Some(ann.id)).await, None);
    }
    other.clock.advance(24 * 3600);
    let turn = other.accounts.link_turn("token").await;
    assert_eq!(other.accounts.link_was_used(&turn, mark, None).await, None, "a day later it is forgotten");
}

#[tokio::test]
async fn a_browser_that_waits_for_its_registration_is_told_at_every_gateway() {
    let [one, other] = two();
    let form = SentForm::default();
    let sent = one.accounts.register_form(&client(), ANN, secret(PASSWORD), None, form).await.unwrap();
    let cookie = one.accounts.bind(None, &sent);
    let binding = |world: &AccountsWorld| world.accounts.read_binding(cookie.expose_secret());
    one.accounts.do_due_tasks().await.unwrap();
    let token = one.token(Letter::VerifyEmail).await;
    assert!(!other.accounts.was_verified(&binding(&other)).await);
    // On another device, at one of the gateways.
    one.accounts.verify_by(&client(), &token, Proof::default()).await.unwrap();
    for world in [&one, &other] {
        assert!(world.accounts.was_verified(&binding(world)).await);
    }
    other.store.notes.fail(true);
    assert!(!other.accounts.was_verified(&binding(&other)).await, "the person signs in");
}

//! Stories about tokens that cannot be refreshed: of a provider that gives this client no refresh token, and of one
//! with tokens that do not expire.

use super::tests::asked;
use palisade_core::domain::connection::Status;
use palisade_core::domain::mail::Letter;
use palisade_core::ports::ProviderFault;
use palisade_core::service::connections::ConnectionError;
use palisade_testing::accounts_world::client;
use palisade_testing::connection_fakes::ACME;
use palisade_testing::connections_world::{acme, identity, world};

/// As a provider without refresh tokens for this client does, or one with tokens that do not expire.
fn nothing_to_refresh_by() -> ProviderFault {
    ProviderFault::NotRefreshable("the provider gave no refresh token".into())
}

#[tokio::test]
async fn a_token_that_cannot_be_refreshed_is_used_until_it_ends() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let ann = identity(world.ann.user);
    world.clock.advance(60);
    // An upstream's 401, before it is known that there is no refresh.
    world.providers.fail("refresh", nothing_to_refresh_by());
    let again = world.connections.inject_again(&ann, ACME, &"a0.0".into()).await;
    assert!(matches!(again, Err(ConnectionError::NotRefreshable)), "{again:?}");
    let left = world.stored(id).await;
    assert_eq!((left.status, left.failures, left.retry_at), (Status::Active, 0, None));
    assert!(left.attempt.is_none() && left.last_fault.is_none() && left.not_refreshable);
    assert_eq!(left.due_at, left.expires_at);
    // Further ones do not ask the provider; a caller that forces it does, and nothing is lost by it.
    for _ in 0..3 {
        let again = world.connections.inject_again(&ann, ACME, &"a0.0".into()).await;
        assert!(matches!(again, Err(ConnectionError::NotRefreshable)), "{again:?}");
    }
    assert_eq!(world.providers.count("refresh"), 1);
    world.providers.fail("refresh", nothing_to_refresh_by());
    let forced = world.connections.force_refresh(&client(), world.ann, id).await;
    assert!(matches!(forced, Err(ConnectionError::NotRefreshable)), "{forced:?}");
    // To its last second it is handed out, and the worker leaves it alone.
    world.live(3539).await;
    assert_eq!((world.access(id).await.as_str(), world.providers.count("refresh")), ("a0.0", 2));
    assert!(world.letters().await.is_empty());
    world.providers.fail("refresh", nothing_to_refresh_by());
    world.live(1).await;
    while world.connections.do_due_connections().await.unwrap() {}
    assert_eq!(world.stored(id).await.status, Status::ReconnectNeeded);
    assert_eq!((world.letters().await, asked(&world)), (vec![Letter::ReconnectNeeded], 3));
}

#[tokio::test]
async fn a_token_without_an_end_and_a_refresh_is_not_tried_for_ever() {
    let world = world().await;
    *world.providers.life.lock().unwrap() = (None, None);
    let id = world.connect(acme()).await;
    world.providers.fail("refresh", nothing_to_refresh_by());
    let forced = world.connections.force_refresh(&client(), world.ann, id).await;
    assert!(matches!(forced, Err(ConnectionError::NotRefreshable)), "{forced:?}");
    assert_eq!(world.stored(id).await.due_at, None);
    world.live(10 * 365 * 24 * 3600).await;
    assert_eq!((world.access(id).await.as_str(), world.providers.count("refresh")), ("a0.0", 1));
    // A plugin that can do more by now is asked by a caller that forces it, and then goes on by itself.
    *world.providers.life.lock().unwrap() = (Some(3600), None);
    world.connections.force_refresh(&client(), world.ann, id).await.unwrap();
    assert!(!world.stored(id).await.not_refreshable);
    world.live(3600).await;
    assert_eq!(asked(&world), 3);
}

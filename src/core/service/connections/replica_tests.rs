//! What arrives at another gateway than the one that began it, and what a gateway that was paused may not do.

use std::sync::atomic::Ordering;

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::ports::{Change, Store};
use palisade_core::service::connections::ConnectionError;
use palisade_testing::accounts_world::client;
use palisade_testing::connections_world::{acme, world};

use crate::service::connections::refresh::tests::{ended, refresh_under_way};

/// A page that is reloaded on the way back, at another gateway and while the first one asks the provider.
#[tokio::test(start_paused = true)]
async fn a_callback_that_is_reloaded_at_another_gateway_goes_where_the_first_one_went() {
    let world = world().await;
    world.store.is_shared.store(true, Ordering::Relaxed);
    let other = world.another();
    let begun = world.begin(acme()).await.unwrap();
    world.providers.close_gate();
    let first = tokio::spawn({
        let (connections, callback) =
            (world.connections.clone(), world.coming_back(&begun, &[("code", "c0de")]));
        async move { connections.callback(&client(), callback).await }
    });
    world.providers.begun.notified().await;
    let browser = client();
    let mut reloaded = Box::pin(other.callback(&browser, world.coming_back(&begun, &[("code", "c0de")])));
    assert!(futures::poll!(&mut reloaded).is_pending(), "it waits for what comes of the first one");
    world.providers.gate.add_permits(1000);
    let returned = first.await.unwrap().unwrap();
    let again = reloaded.await.unwrap();
    assert_eq!((again.connection, &again.return_to), (returned.connection, &returned.return_to));
    assert_eq!((returned.outcome, again.outcome), (Ok(()), Ok(())));
    assert_eq!(world.providers.count("exchange"), 1);
    assert_eq!(world.count(Action::Connect, Outcome::Success), 1);
    // Ten minutes long, and to no other browser.
    let stranger = palisade_core::service::connections::Callback {
        browser: Some("another".into()),
        ..world.coming_back(&begun, &[("code", "c0de")])
    };
    let refused = other.callback(&client(), stranger).await;
    assert!(matches!(refused, Err(ConnectionError::InvalidState)), "{refused:?}");
    world.clock.advance(600);
    let late = other.callback(&client(), world.coming_back(&begun, &[("code", "c0de")])).await;
    assert!(matches!(late, Err(ConnectionError::InvalidState)), "{late:?}");
}

/// The holder has its answer and is paused for longer than its lease. Its successor has refreshed by then.
#[tokio::test]
async fn a_holder_that_was_paused_does_not_write_over_the_tokens_of_its_successor() {
    let world = world().await;
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    let mut successors = world.stored(id).await;
    let tokens = successors.tokens.as_mut().unwrap();
    tokens.access_token = tokens.access_token.replace("a0.0", "a9.9");
    let theirs = tokens.clone();
    world.store.get_ahead(vec![Change::UpdateConnection(successors)]);
    world.providers.gate.add_permits(1000);
    let refused = caller.await.unwrap();
    assert!(matches!(refused, Err(ConnectionError::Conflict)), "{refused:?}");
    let stands = world.store.connection(world.ann.user, id).await.unwrap().unwrap();
    assert_eq!(stands.tokens, Some(theirs));
}

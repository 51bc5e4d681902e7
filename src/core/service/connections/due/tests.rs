//! What no caller waits for, over the fakes: a store that fails, settings that were mended, a provider that is being
//! started, a clock that was set back.

use std::time::Duration;

use crate::service::connections::refresh::tests::{asking, busy, ended, refresh_under_way};
use palisade_core::domain::connection::FaultKind;
use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::mail::Letter;
use palisade_core::ports::{Clock, ProviderFault};
use palisade_core::service::connections::ConnectionError;
use palisade_testing::accounts_world::client;
use palisade_testing::connection_fakes::ACME;
use palisade_testing::connections_world::{acme, identity, world};
use secrecy::ExposeSecret;
use uuid::Uuid;

/// The store fails for long, and requests keep coming: they wait together, not one behind the other.
#[tokio::test(start_paused = true)]
async fn who_waits_while_the_store_fails_waits_once() {
    let mut world = world().await;
    world.be_real();
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Store(_))));
    let started = tokio::time::Instant::now();
    let callers: Vec<_> = (0..100).map(|_| asking(&world, id)).collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Store(_))));
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

/// It is still good for a while by its own account, and the clock was set back on top of that.
#[tokio::test]
async fn a_fresh_token_that_was_perhaps_replaced_is_not_handed_out_either() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.providers.close_gate();
    let forced = {
        let (connections, ann) = (world.connections.clone(), world.ann);
        tokio::spawn(async move { connections.force_refresh(&client(), ann, id).await })
    };
    world.providers.begun.notified().await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(matches!(forced.await.unwrap(), Err(ConnectionError::Store(_))));
    assert!(matches!(world.token(id).await, Err(ConnectionError::Store(_))));
    world.store.mend();
    assert_eq!(world.access(id).await, "a0.1");
}

#[tokio::test]
async fn a_provider_that_is_being_started_costs_no_wait() {
    let world = world().await;
    let id = ended(&world).await;
    let infos = std::mem::take(&mut *world.providers.infos.lock().unwrap());
    let error = world.token(id).await.unwrap_err();
    let ConnectionError::Provider { kind, retry_after, .. } = error else { panic!("{error}") };
    assert_eq!((kind, retry_after), (FaultKind::Transient, Some(Duration::from_secs(5))));
    let stored = world.stored(id).await;
    assert_eq!((stored.failures, stored.retry_at, stored.attempt), (0, None, None));
    *world.providers.infos.lock().unwrap() = infos;
    assert_eq!(world.access(id).await, "a0.1");
}

/// The client secret was wrong, and a reload brings the right one. Other waits stand.
#[tokio::test(start_paused = true)]
async fn a_reload_ends_the_wait_for_an_operator() {
    for (fault, mended) in
        [(ProviderFault::Misconfigured("invalid_client".into()), true), (busy(Some(3600)), false)]
    {
        let world = world().await;
        world.set(|settings| settings.keep_fresh = false);
        let id = ended(&world).await;
        let closing = tokio_util::sync::CancellationToken::new();
        let running = {
            let (connections, closing) = (world.connections.clone(), closing.clone());
            tokio::spawn(async move { connections.run(closing).await })
        };
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.providers.fail("refresh", fault);
        assert!(world.token(id).await.is_err());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(world.stored(id).await.retry_at.is_some());
        world.connections.look_through();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.token(id).await.is_ok(), mended);
        closing.cancel();
        running.await.unwrap();
    }
}

/// It was an hour ahead when the token came, and is corrected.
#[tokio::test]
async fn a_clock_that_is_set_back_keeps_no_dead_token_alive() {
    let world = world().await;
    world.clock.advance(7200);
    let id = world.connect(acme()).await;
    world.clock.set_back(3600);
    let ann = identity(world.ann.user);
    let injected = world.connections.inject_again(&ann, ACME, &"a0.0".into()).await.unwrap();
    assert_eq!(injected.access_token.expose_secret(), "a0.1");
    // Nor does a wait last for longer than any.
    world.clock.advance(7200);
    world.providers.fail("refresh", busy(Some(3600)));
    assert!(world.token(id).await.is_err());
    world.clock.set_back(3600);
    assert!(world.stored(id).await.waits_until(world.clock.now()).is_none());
}

/// Another gateway that has taken the look over may have sent the letter.
#[tokio::test]
async fn the_end_of_a_grant_is_not_warned_of_under_a_lost_lease() {
    let world = world().await;
    *world.providers.life.lock().unwrap() = (Some(3600), Some(7 * 24 * 3600));
    let id = world.connect(acme()).await;
    world.providers.infos.lock().unwrap().clear();
    world.clock.advance(5 * 24 * 3600 + 600);
    world.store.take_over_before_commit(LeaseSubject::Due(id), LeaseHolder(Uuid::from_u128(99)));
    world.connections.do_due_connections().await.unwrap();
    assert_eq!((world.letters().await, world.stored(id).await.warned_of), (Vec::new(), None));
    world.store.end_leases();
    world.clock.advance(600);
    world.connections.do_due_connections().await.unwrap();
    assert_eq!(world.letters().await, [Letter::GrantEnding]);
    assert!(world.stored(id).await.warned_of.is_some());
}

/// What a user is to know does not wait for the provider.
#[tokio::test]
async fn the_end_of_a_grant_is_warned_of_though_its_provider_is_out_of_service() {
    let world = world().await;
    *world.providers.life.lock().unwrap() = (Some(3600), Some(7 * 24 * 3600));
    world.connect(acme()).await;
    world.providers.infos.lock().unwrap().clear();
    world.live(5 * 24 * 3600 + 600).await;
    assert_eq!(world.letters().await, [Letter::GrantEnding]);
}

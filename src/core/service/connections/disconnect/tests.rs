//! How connections end, what others are told, and how tokens lie in the store, over the fakes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::{ConnectionId, Status};
use palisade_core::domain::task::{Errand, Task, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Clock, ProviderFault, Store};
use palisade_core::service::connections::{Begin, ConnectionError};
use palisade_testing::accounts_world::{client, over};
use palisade_testing::connection_fakes::ACME;
use palisade_testing::connections_world::{ConnectionsWorld, acme, identity, world};

async fn disconnect(world: &ConnectionsWorld, id: ConnectionId) -> Result<(), ConnectionError> {
    world.connections.disconnect(&client(), world.ann, id).await
}

async fn tasks(world: &ConnectionsWorld) -> usize {
    world.store.due_tasks(UnixTime::NEVER, 999).await.unwrap().len()
}

#[tokio::test]
async fn a_connection_is_ended_here_and_there() {
    let world = world().await;
    let id = world.connect(acme()).await;
    assert_eq!(world.sent_notices().await, ["connection.connected"]);
    disconnect(&world, id).await.unwrap();
    let ended = world.stored(id).await;
    assert_eq!((ended.status, ended.tokens, ended.due_at), (Status::Revoked, None, None));
    assert!(world.providers.live().is_empty());
    assert!(matches!(world.token(id).await, Err(ConnectionError::Revoked)));
    assert!(matches!(
        world.connections.inject(&identity(world.ann.user), ACME).await,
        Err(ConnectionError::Revoked)
    ));
    disconnect(&world, id).await.unwrap();
    world.connections.operator_disconnect("r2", world.ann.user, id).await.unwrap();
    assert_eq!(world.sent_notices().await, ["connection.connected", "connection.revoked"]);
    assert_eq!((world.count(Action::Disconnect, Outcome::Success), tasks(&world).await), (1, 0));
    assert_eq!(world.providers.count("revoke"), 1);
}

#[tokio::test]
async fn the_tokens_go_whatever_the_provider_answers() {
    for (fault, later) in [
        (ProviderFault::ProviderError("no\nsuch token".into()), false),
        (ProviderFault::Misconfigured("invalid_client".into()), false),
        (ProviderFault::Transient { reason: "503".into(), retry_after: None }, true),
    ] {
        let world = world().await;
        let id = world.connect(acme()).await;
        world.sent_notices().await;
        world.providers.fail("revoke", fault);
        disconnect(&world, id).await.unwrap();
        assert_eq!(world.stored(id).await.tokens, None);
        let (_, _, reason) = world.events().pop().unwrap();
        assert!(reason.unwrap().starts_with(if later {
            "the provider is told later"
        } else {
            "the provider was not"
        }));
        world.clock.advance(120);
        world.sent_notices().await;
        assert_eq!((world.providers.live().is_empty(), tasks(&world).await), (later, 0));
        assert_eq!(world.count(Action::Disconnect, Outcome::Success), if later { 2 } else { 1 });
    }
}

#[tokio::test]
async fn a_provider_that_stays_away_is_given_up_and_nothing_is_kept() {
    let world = world().await;
    let id = world.connect(acme()).await;
    for _ in 0..10 {
        world.providers.fail("revoke", ProviderFault::Transient { reason: "503".into(), retry_after: None });
    }
    disconnect(&world, id).await.unwrap();
    for _ in 0..70 {
        world.clock.advance(60);
        world.sent_notices().await;
    }
    assert_eq!(tasks(&world).await, 0);
    assert_eq!(world.count(Action::Disconnect, Outcome::Failed), 1);
    assert!((3..=6).contains(&world.providers.count("revoke")));
}

/// An attacker was in the account: what they connected goes, and what was there before stays.
#[tokio::test]
async fn connections_since_a_moment_are_ended() {
    let world = world().await;
    let before = world.connect(acme()).await;
    let be = |subject: &str| *world.providers.subject.lock().unwrap() = subject.to_owned();
    be("another of hers");
    let renewed = world.connect(Begin { another: true, ..acme() }).await;
    world.clock.advance(100);
    let since = world.clock.now();
    let again = Begin { connection: Some(renewed), ..acme() };
    world.connect(again).await;
    be("the thief's");
    let made = world.connect(Begin { another: true, ..acme() }).await;
    world.clock.advance(100);
    let errand = Errand::EndConnections { user: world.ann.user, since };
    let work = Work::Errand { made_at: world.clock.now(), tries: 0, errand };
    let task = Task { id: uuid::Uuid::nil(), due_at: UnixTime(0), work };
    world.store.commit(vec![Change::CreateTask(task)]).await.unwrap();
    world.sent_notices().await;
    let status = async |id| world.stored(id).await.status;
    assert_eq!(status(before).await, Status::Active);
    assert_eq!((status(renewed).await, status(made).await), (Status::Revoked, Status::Revoked));
    assert_eq!(world.sent_notices().await.iter().filter(|told| **told == "connection.revoked").count(), 2);
    assert_eq!(tasks(&world).await, 0);
}

/// A kill right after the commit: the next run does the rest.
#[tokio::test]
async fn an_end_that_was_cut_off_is_brought_to_its_end() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let before = world.stored(id).await;
    let (connections, ann) = (world.connections.clone(), world.ann);
    // As it was left: written down, and the provider not told.
    world.providers.edit_info(|info| info.can_revoke = false);
    connections.disconnect(&client(), ann, id).await.unwrap();
    world.providers.edit_info(|info| info.can_revoke = true);
    let errand =
        Work::Errand { made_at: world.clock.now(), tries: 0, errand: Errand::EndGrant(Box::new(before)) };
    let task = Task { id: uuid::Uuid::nil(), due_at: world.clock.now(), work: errand };
    world.store.commit(vec![Change::CreateTask(task)]).await.unwrap();
    assert_eq!(world.providers.live(), [0]);
    world.sent_notices().await;
    assert!(world.providers.live().is_empty());
}

/// The token that the provider gave last is the one it takes back.
#[tokio::test]
async fn an_end_waits_for_a_refresh_that_is_under_way() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.providers.close_gate();
    let refreshing = {
        let (connections, ann) = (world.connections.clone(), world.ann);
        tokio::spawn(async move { connections.force_refresh(&client(), ann, id).await })
    };
    world.providers.begun.notified().await;
    let ending = {
        let (connections, ann) = (world.connections.clone(), world.ann);
        tokio::spawn(async move { connections.disconnect(&client(), ann, id).await })
    };
    world.queued(id, 2).await;
    world.providers.gate.add_permits(1000);
    refreshing.await.unwrap().unwrap();
    ending.await.unwrap().unwrap();
    assert!(world.providers.live().is_empty());
    assert_eq!(world.stored(id).await.status, Status::Revoked);
}

#[tokio::test]
async fn tokens_that_could_not_be_written_are_taken_back_too() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.providers.close_gate();
    let refreshing = {
        let (connections, ann) = (world.connections.clone(), world.ann);
        tokio::spawn(async move { connections.force_refresh(&client(), ann, id).await })
    };
    world.providers.begun.notified().await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(refreshing.await.unwrap().is_err());
    assert!(matches!(disconnect(&world, id).await, Err(ConnectionError::Store(_))));
    world.store.mend();
    disconnect(&world, id).await.unwrap();
    assert!(world.providers.live().is_empty());
}

#[tokio::test]
async fn an_end_that_cannot_be_written_is_none() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.store.fail();
    assert!(matches!(disconnect(&world, id).await, Err(ConnectionError::Store(_))));
    assert_eq!((world.providers.live(), world.stored(id).await.status), (vec![0], Status::Active));
}

#[tokio::test]
async fn a_consent_under_way_ends_with_its_connection() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let begun = world.begin(acme()).await.unwrap();
    disconnect(&world, id).await.unwrap();
    assert!(matches!(world.come_back(&begun).await, Err(ConnectionError::InvalidState)));
    // Between the callback and the answer of the provider.
    let begun = world.begin(acme()).await.unwrap();
    world.providers.close_gate();
    let coming = world.come_back(&begun);
    let ending = async {
        world.providers.begun.notified().await;
        disconnect(&world, begun.connection.id).await.unwrap();
        world.providers.gate.add_permits(1000);
    };
    let (returned, ()) = tokio::join!(coming, ending);
    assert_eq!(returned.unwrap().outcome.unwrap_err().word, "ended");
    assert!(world.providers.live().is_empty());
}

#[tokio::test]
async fn the_grants_of_an_account_end_with_it() {
    let world = world().await;
    world.connect(acme()).await;
    *world.providers.subject.lock().unwrap() = "ann-at-work".into();
    world.connect(Begin { another: true, ..acme() }).await;
    world.begin(Begin { another: true, ..acme() }).await.unwrap();
    let accounts = over(world.store.clone());
    accounts.delete_user("r1", world.ann.user).await.unwrap();
    assert!(world.store.connections(world.ann.user).await.unwrap().is_empty());
    assert!(!accounts.do_due_tasks().await.unwrap(), "errands are not for the worker of accounts");
    world.sent_notices().await;
    assert!(world.providers.live().is_empty());
    assert_eq!(world.providers.count("revoke"), 2);
}

/// A token that is refreshed while its account is being deleted.
#[tokio::test]
async fn no_refresh_outlives_its_account() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.providers.close_gate();
    let refreshing = {
        let (connections, ann) = (world.connections.clone(), world.ann);
        tokio::spawn(async move { connections.force_refresh(&client(), ann, id).await })
    };
    world.providers.begun.notified().await;
    world.store.commit(vec![Change::DeleteUser(world.ann.user)]).await.unwrap();
    world.providers.gate.add_permits(1000);
    assert!(matches!(refreshing.await.unwrap(), Err(ConnectionError::NotFound)));
    assert!(world.providers.live().is_empty());
}

#[tokio::test]
async fn the_app_is_told_until_it_listens_and_always_in_the_same_words() {
    let world = world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    let id = world.connect(acme()).await;
    for _ in 0..10 {
        world.sent_notices().await;
        world.clock.advance(60);
    }
    let tries = world.webhook.notices.lock().unwrap().clone();
    assert!((3..=5).contains(&tries.len()), "{}", tries.len());
    assert!(tries.iter().all(|notice| *notice == tries[0]));
    let body: Value = serde_json::from_str(&tries[0].body).unwrap();
    let (data, ann) = (&body["data"], world.ann.user.to_string());
    assert_eq!((data["connection"].as_str(), data["user"].as_str()), (Some(&*id.to_string()), Some(&*ann)));
    assert_eq!(
        (data["provider"].as_str(), body["type"].as_str()),
        (Some(ACME), Some("connection.connected"))
    );
    world.webhook.down.store(false, Ordering::Relaxed);
    world.clock.advance(1800);
    world.sent_notices().await;
    assert_eq!(tasks(&world).await, 0);
    let tried = world.webhook.notices.lock().unwrap().len();
    world.clock.advance(100_000);
    assert_eq!(world.sent_notices().await.len(), tried);
}

#[tokio::test]
async fn an_app_that_does_not_listen_for_a_day_is_not_told() {
    let world = world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    world.connect(acme()).await;
    for _ in 0..25 {
        world.sent_notices().await;
        world.clock.advance(3600);
    }
    assert_eq!(tasks(&world).await, 0);
}

#[tokio::test]
async fn errands_stand_in_the_way_of_nobody() {
    let world = world().await;
    let accounts = over(world.store.clone());
    for n in 0..300u128 {
        let body = Errand::Notify("{}".into());
        let work = Work::Errand { made_at: world.clock.now(), tries: 0, errand: body };
        let id = uuid::Uuid::from_u128(n + (1 << 100));
        let task = Task { id, due_at: UnixTime(0), work };
        world.store.commit(vec![Change::CreateTask(task)]).await.unwrap();
    }
    let secret = palisade_testing::accounts_world::secret("correct horse");
    accounts.register(&client(), "bob@example.com", secret, None).await.unwrap();
    accounts.do_due_tasks().await.unwrap();
    assert!(world.store.user_by_email(&"bob@example.com".parse().unwrap()).await.unwrap().is_some());
    assert_eq!(tasks(&world).await, 301, "and the account is forgotten unless it is verified");
}

/// An app that does not answer keeps the worker that tells it, and no other.
#[tokio::test(start_paused = true)]
async fn a_silent_app_holds_up_no_grant_that_is_to_end() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.webhook.silent.store(true, Ordering::Relaxed);
    let before = world.stored(id).await;
    let closing = tokio_util::sync::CancellationToken::new();
    let running = {
        let (connections, closing) = (world.connections.clone(), closing.clone());
        tokio::spawn(async move { connections.run(closing).await })
    };
    let work =
        Work::Errand { made_at: world.clock.now(), tries: 0, errand: Errand::EndGrant(Box::new(before)) };
    let task = Task { id: uuid::Uuid::from_u128(1 << 100), due_at: UnixTime(0), work };
    world.store.commit(vec![Change::CreateTask(task)]).await.unwrap();
    let ended = async {
        while world.providers.count("revoke") == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the app held it up");
    closing.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn an_envelope_opens_in_its_place_only() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let good = world.stored(id).await;
    let mut swapped = good.clone();
    let tokens = swapped.tokens.as_mut().unwrap();
    tokens.access_token = tokens.refresh_token.clone().unwrap();
    world.store.commit(vec![Change::UpdateConnection(swapped)]).await.unwrap();
    assert!(matches!(world.token(id).await, Err(ConnectionError::Vault(_))));
    // And the worker is not kept busy by it.
    world.clock.advance(3600);
    world.live(10).await;
    let stored = world.stored(id).await;
    assert_eq!((stored.status, stored.failures, world.providers.count("refresh")), (Status::Active, 1, 0));
}

#[tokio::test]
async fn what_an_earlier_key_has_sealed_is_sealed_anew() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let pending = world.begin(Begin { another: true, ..acme() }).await.unwrap().connection.id;
    let step = || world.connections.reseal_step(None);
    assert_eq!(step().await.unwrap().renewed, 0);
    *world.vault.keys.lock().unwrap() = vec!["k2".into(), "k1".into()];
    let resealed = step().await.unwrap();
    assert_eq!((resealed.next, resealed.renewed, resealed.unreadable), (None, 1, 0));
    assert_eq!(step().await.unwrap().renewed, 0);
    *world.vault.keys.lock().unwrap() = vec!["k2".into()];
    assert_eq!(world.access(id).await, "a0.0");
    assert_eq!(world.sealed(id).await, ["a0.0", "r0.0", r#"{"realm":"realm-0"}"#]);
    assert_eq!(world.stored(pending).await.tokens, None);
    *world.vault.keys.lock().unwrap() = vec!["k3".into()];
    let lost = step().await.unwrap();
    assert_eq!((lost.renewed, lost.unreadable), (0, 1));
    assert!(matches!(world.token(id).await, Err(ConnectionError::Vault(_))));
}

#[tokio::test]
async fn what_a_new_configuration_wants_becomes_due() {
    let world = world().await;
    world.set(|settings| settings.keep_fresh = false);
    let id = world.connect(acme()).await;
    world.connections.reseal_step(None).await.unwrap();
    assert_eq!(world.stored(id).await.due_at, None);
    world.set(|settings| settings.keep_fresh = true);
    assert_eq!(world.connections.reseal_step(None).await.unwrap().renewed, 0);
    assert!(world.stored(id).await.due_at.is_some());
    let revision = world.stored(id).await.revision;
    world.connections.reseal_step(None).await.unwrap();
    assert_eq!(world.stored(id).await.revision, revision, "nothing is written that changes nothing");
}

#[tokio::test]
async fn all_pages_are_sealed_anew() {
    let world = world().await;
    world.providers.edit_info(|info| info.can_identify = false);
    for _ in 0..70 {
        world.connect(Begin { another: true, ..acme() }).await;
    }
    *world.vault.keys.lock().unwrap() = vec!["k2".into(), "k1".into()];
    let first = world.connections.reseal_step(None).await.unwrap();
    let second = world.connections.reseal_step(first.next).await.unwrap();
    assert_eq!((first.renewed, second.renewed, second.next), (64, 6, None));
    let listed = world.connections.all_connections(None, 1_000_000).await.unwrap();
    assert_eq!(listed.len(), 70);
}

#[tokio::test(start_paused = true)]
async fn sealing_anew_waits_for_a_store_that_takes_nothing_and_goes_on() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.sent_notices().await;
    *world.vault.keys.lock().unwrap() = vec!["k2".into(), "k1".into()];
    world.store.fail();
    let before = world.store.commits.load(Ordering::Relaxed);
    let closing = tokio_util::sync::CancellationToken::new();
    let running = {
        let (connections, closing) = (world.connections.clone(), closing.clone());
        tokio::spawn(async move { connections.run(closing).await })
    };
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    let tries = world.store.commits.load(Ordering::Relaxed) - before;
    assert!((2..=30).contains(&tries), "{tries} tries in ten seconds");
    world.store.mend();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sealed = world.stored(id).await.tokens.unwrap().access_token;
    assert!(sealed.contains("k2"), "{sealed}");

    // And a reload is looked at right away.
    world.clock.advance(3600);
    world.providers.fail("refresh", ProviderFault::Misconfigured("invalid_client".into()));
    let failed = async {
        while world.stored(id).await.retry_at.is_none() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), failed).await.expect("the worker did not come to it");
    world.connections.look_through();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.access(id).await, "a0.1");
    closing.cancel();
    running.await.unwrap();
}

/// Two at once: the one that is sealed anew is also being refreshed.
#[tokio::test]
async fn sealing_anew_and_refreshing_take_turns() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.providers.close_gate();
    let refreshing = {
        let (connections, ann) = (world.connections.clone(), world.ann);
        tokio::spawn(async move { connections.force_refresh(&client(), ann, id).await })
    };
    world.providers.begun.notified().await;
    *world.vault.keys.lock().unwrap() = vec!["k2".into(), "k1".into()];
    let sealing = {
        let connections = world.connections.clone();
        tokio::spawn(async move { connections.reseal_step(None).await })
    };
    world.queued(id, 2).await;
    world.providers.gate.add_permits(1000);
    refreshing.await.unwrap().unwrap();
    assert_eq!(sealing.await.unwrap().unwrap().renewed, 0, "the refresh has sealed it with the new key");
    assert_eq!(world.access(id).await, "a0.1");
}

#[tokio::test]
async fn the_workers_do_it_all_and_stop_when_told() {
    let world = world().await;
    let closing = tokio_util::sync::CancellationToken::new();
    let id = world.connect(acme()).await;
    world.clock.advance(3400);
    let running = {
        let (connections, closing) = (world.connections.clone(), closing.clone());
        tokio::spawn(async move { connections.run(closing).await })
    };
    while world.stored(id).await.attempt.is_some()
        || world.sealed(id).await[0] != "a0.1"
        || tasks(&world).await > 0
    {
        tokio::task::yield_now().await;
    }
    closing.cancel();
    running.await.unwrap();
    assert_eq!(world.webhook.notices.lock().unwrap().len(), 1);
}

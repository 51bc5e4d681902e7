//! Refreshing a provider's tokens, over the fakes: one call however many ask, and nothing lost wherever it is cut
//! off.

use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::{ConnectionId, Consent, FaultKind, RefreshAttempt, Status};
use palisade_core::domain::mail::Letter;
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::route::Require;
use palisade_core::ports::{Change, Clock, ProviderFault, Store};
use palisade_core::service::connections::ConnectionError;
use palisade_testing::accounts_world::client;
use palisade_testing::connection_fakes::ACME;
use palisade_testing::connections_world::{ConnectionsWorld, acme, identity, secret, world};
use secrecy::ExposeSecret;

/// A connection with an expired access token.
pub(crate) async fn ended(world: &ConnectionsWorld) -> ConnectionId {
    let id = world.connect(acme()).await;
    world.clock.advance(3600);
    id
}

pub(crate) fn busy(retry_after: Option<u64>) -> ProviderFault {
    ProviderFault::Transient { reason: "503".to_owned(), retry_after: retry_after.map(Duration::from_secs) }
}

pub(crate) fn asked(world: &ConnectionsWorld) -> usize {
    world.providers.refreshes.load(Ordering::Relaxed)
}

/// A caller asks for the token, in a task of its own.
pub(crate) fn asking(
    world: &ConnectionsWorld,
    id: ConnectionId,
) -> tokio::task::JoinHandle<Result<String, ConnectionError>> {
    let (connections, identity) = (world.connections.clone(), identity(world.ann.user));
    tokio::spawn(async move {
        let token = connections.provider_token(&client(), &identity, id).await?;
        Ok(token.access_token.expose_secret().to_owned())
    })
}

/// A caller's refresh that is at the provider, where a gate holds it back until the test gives it permits.
pub(crate) async fn refresh_under_way(
    world: &ConnectionsWorld,
    id: ConnectionId,
) -> tokio::task::JoinHandle<Result<String, ConnectionError>> {
    world.providers.close_gate();
    let caller = asking(world, id);
    world.providers.begun.notified().await;
    caller
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_at_once_make_one_call() {
    let world = world().await;
    let id = ended(&world).await;
    let callers: Vec<_> = (0..1000).map(|_| asking(&world, id)).collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), "a0.1");
    }
    assert_eq!(asked(&world), 1);
    assert_eq!(world.connections.waited_for(), 0, "nothing is left of the queue");
}

/// Also where the token that comes has ended already, or where none comes.
#[tokio::test]
async fn who_waits_gets_what_came_meanwhile() {
    for fails in [false, true] {
        let world = world().await;
        let id = ended(&world).await;
        *world.providers.life.lock().unwrap() = (Some(0), None);
        if fails {
            world.providers.fail("refresh", busy(None));
        }
        world.providers.close_gate();
        let callers: Vec<_> = (0..50).map(|_| asking(&world, id)).collect();
        world.providers.begun.notified().await;
        world.queued(id, 50).await;
        world.providers.gate.add_permits(1000);
        for caller in callers {
            assert_eq!(caller.await.unwrap().is_err(), fails);
        }
        assert_eq!(asked(&world), 1);
    }
}

#[tokio::test]
async fn a_refresh_token_is_replaced_before_anybody_gets_anything() {
    let world = world().await;
    let id = ended(&world).await;
    for round in 1..4 {
        assert_eq!(world.access(id).await, format!("a0.{round}"));
        assert_eq!(world.sealed(id).await[1], format!("r0.{round}"));
        let stored = world.stored(id).await;
        assert_eq!((stored.attempt, stored.refreshed_at), (None, Some(world.clock.now())));
        world.clock.advance(3600);
    }
    assert_eq!(world.providers.last("refresh").kept["realm"].expose_secret(), "realm-0");
}

#[tokio::test]
async fn what_is_about_to_happen_is_written_down_first() {
    let world = world().await;
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    let attempt = world.stored(id).await.attempt.expect("no attempt while the provider is asked");
    assert_eq!(attempt.run, world.connections.run_id());
    world.providers.gate.add_permits(1000);
    caller.await.unwrap().unwrap();
    // And where the attempt cannot be committed, the provider is not asked.
    world.clock.advance(3600);
    world.store.fail();
    assert!(matches!(world.token(id).await, Err(ConnectionError::Store(_))));
    assert_eq!(asked(&world), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_cut_it_off() {
    let world = world().await;
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let other = asking(&world, id);
    world.providers.gate.add_permits(1000);
    assert_eq!(other.await.unwrap().unwrap(), "a0.1");
    assert_eq!(asked(&world), 1);
}

/// The disk is full between the provider's rotation and our write.
#[tokio::test]
async fn tokens_that_cannot_be_written_are_handed_to_nobody_and_not_forgotten() {
    let world = world().await;
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Store(_))));
    assert!(matches!(world.token(id).await, Err(ConnectionError::Store(_))), "nor to the next");
    let stored = world.stored(id).await;
    assert!(stored.attempt.is_some() && stored.status == Status::Active);
    assert_eq!(world.sealed(id).await[1], "r0.0");
    world.store.mend();
    assert_eq!(world.access(id).await, "a0.1");
    assert_eq!(world.sealed(id).await[1], "r0.1");
    assert_eq!(asked(&world), 1, "the provider was not asked twice");
}

/// The token is still good when the refresh begins; the provider may have ended it by then.
#[tokio::test]
async fn a_token_that_was_perhaps_replaced_is_not_handed_out() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.clock.advance(3400);
    world.store.fail();
    assert_eq!(world.access(id).await, "a0.0", "the provider was not asked: it is as good as before");
    world.store.mend();
    let caller = refresh_under_way(&world, id).await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Store(_))));
    world.store.mend();
    world.live(15).await;
    assert_eq!(world.sealed(id).await[0], "a0.1", "the worker writes it as soon as it can");
}

#[tokio::test]
async fn a_kill_after_the_providers_rotation_is_noticed() {
    let mut world = world().await;
    let id = ended(&world).await;
    let _killed = refresh_under_way(&world, id).await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(_killed.await.unwrap().is_err());
    world.restart();
    world.store.mend();
    world.live(20).await;
    let stored = world.stored(id).await;
    assert_eq!((stored.status, stored.tokens, stored.attempt), (Status::ReconnectNeeded, None, None));
    assert!(matches!(world.token(id).await, Err(ConnectionError::ReconnectNeeded)));
    assert_eq!(world.letters().await, [Letter::ReconnectNeeded]);
    assert_eq!(asked(&world), 2);
}

#[tokio::test]
async fn a_kill_before_the_provider_was_asked_costs_nothing() {
    let mut world = world().await;
    world.set(|settings| settings.keep_fresh = false);
    let id = world.connect(acme()).await;
    let mut cut_off = world.stored(id).await;
    let run = world.connections.run_id();
    cut_off.attempt = Some(RefreshAttempt { started_at: world.clock.now(), run });
    cut_off.due_at = Some(world.clock.now());
    world.store.commit(vec![Change::UpdateConnection(cut_off)]).await.unwrap();
    world.restart();
    world.set(|settings| settings.keep_fresh = false);
    world.connections.do_due_connections().await.unwrap();
    assert_eq!((world.access(id).await.as_str(), world.stored(id).await.attempt), ("a0.1", None));
    assert_eq!(world.stored(id).await.due_at, None);
}

/// The answer is lost on the way: the refresh token may or may not be used up.
#[tokio::test]
async fn a_lost_answer_is_found_out_at_the_next_try() {
    let world = world().await;
    let id = ended(&world).await;
    world.providers.lose.store(true, Ordering::Relaxed);
    assert!(matches!(
        world.token(id).await,
        Err(ConnectionError::Provider { kind: FaultKind::Transient, .. })
    ));
    assert!(world.stored(id).await.attempt.is_some());
    world.live(60).await;
    assert!(matches!(world.token(id).await, Err(ConnectionError::ReconnectNeeded)));
}

#[tokio::test]
async fn while_the_provider_is_down_the_good_token_serves_and_nobody_asks_for_more() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.clock.advance(3301);
    for _ in 0..3 {
        world.providers.fail("refresh", busy(Some(120)));
    }
    assert_eq!(world.access(id).await, "a0.0");
    for _ in 0..10 {
        assert_eq!(world.access(id).await, "a0.0");
    }
    assert_eq!(asked(&world), 1, "not before the time that the provider has named");
    assert_eq!(world.stored(id).await.failures, 1);
    world.live(200).await;
    assert_eq!(asked(&world), 2);
    world.clock.advance(100);
    let error = world.token(id).await.unwrap_err();
    let ConnectionError::Provider { kind, reason, retry_after } = error else { panic!("{error}") };
    assert_eq!((kind, reason.contains("503")), (FaultKind::Transient, true));
    assert!((120..=150).contains(&retry_after.unwrap().as_secs()), "{retry_after:?}");
    world.live(400).await;
    let stored = world.stored(id).await;
    assert_eq!((stored.failures, stored.last_fault, stored.retry_at), (0, None, None));
    assert_eq!(world.access(id).await, "a0.1");
    let refresh = |outcome| world.count(Action::RefreshConnection, outcome);
    assert_eq!((refresh(Outcome::Failed), refresh(Outcome::Success)), (1, 1), "once for the whole row");
    assert!(world.letters().await.is_empty());
}

#[tokio::test]
async fn a_silent_provider_holds_nobody_up_who_has_a_good_token() {
    let mut world = world().await;
    world.be_impatient();
    let id = world.connect(acme()).await;
    world.clock.advance(3301);
    world.providers.close_gate();
    assert_eq!(world.access(id).await, "a0.0");
    world.providers.begun.notified().await;
    assert_eq!(world.access(id).await, "a0.0");
    // The refresh goes on by itself.
    world.providers.gate.add_permits(1000);
    while world.sealed(id).await[0] != "a0.1" {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked(&world), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_grant_that_is_gone_is_told_of_once() {
    let world = world().await;
    let id = ended(&world).await;
    world.providers.fail("refresh", ProviderFault::InvalidGrant("revoked at\nthe bank".into()));
    let callers: Vec<_> = (0..100).map(|_| asking(&world, id)).collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Err(ConnectionError::ReconnectNeeded)));
    }
    world.live(10_000).await;
    let stored = world.stored(id).await;
    assert_eq!(
        (stored.status, stored.tokens.is_none(), stored.due_at),
        (Status::ReconnectNeeded, true, None)
    );
    let fault = stored.last_fault.unwrap();
    assert_eq!((fault.kind, fault.reason.as_str()), (FaultKind::InvalidGrant, "revoked at the bank"));
    assert_eq!(world.letters().await, [Letter::ReconnectNeeded]);
    let mail = &world.store.mails(9).await.unwrap()[0];
    assert_eq!((mail.facts.provider.as_deref(), mail.name.as_deref()), (Some("Acme Bank"), Some("Ann")));
    assert_eq!(world.sent_notices().await, ["connection.connected", "connection.reconnect_needed"]);
    assert_eq!(world.count(Action::ReconnectNeeded, Outcome::Denied), 1);
    assert_eq!(asked(&world), 1);
    // And it is made good by connecting again.
    assert_eq!(world.connect(acme()).await, id);
    assert_eq!(world.access(id).await, "a1.0");
}

#[tokio::test]
async fn a_grant_whose_end_cannot_be_written_is_found_out_again() {
    let world = world().await;
    let id = ended(&world).await;
    world.providers.fail("refresh", ProviderFault::InvalidGrant("gone".into()));
    world.providers.fail("refresh", ProviderFault::InvalidGrant("gone".into()));
    let caller = refresh_under_way(&world, id).await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Store(_))));
    assert!(world.letters().await.is_empty());
    world.store.mend();
    assert!(matches!(world.token(id).await, Err(ConnectionError::ReconnectNeeded)));
    assert_eq!(world.letters().await, [Letter::ReconnectNeeded]);
}

#[tokio::test]
async fn what_an_operator_must_mend_is_tried_rarely() {
    let world = world().await;
    let id = ended(&world).await;
    world.providers.fail("refresh", ProviderFault::Misconfigured("invalid_client".into()));
    let error = world.token(id).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Provider { kind: FaultKind::Misconfigured, .. }));
    let stored = world.stored(id).await;
    assert!(stored.attempt.is_none() && stored.retry_at.unwrap().0 >= world.clock.now().0 + 300);
    assert!(world.token(id).await.is_err());
    assert_eq!(asked(&world), 1);
    // An operator who has mended it need not wait.
    world.connections.operator_refresh("r2", world.ann.user, id).await.unwrap();
    assert_eq!(world.access(id).await, "a0.1");
    let infos = std::mem::take(&mut *world.providers.infos.lock().unwrap());
    world.live(20_000).await;
    assert_eq!(
        world.stored(id).await.status,
        Status::Active,
        "a provider that is out of service is no reason"
    );
    *world.providers.infos.lock().unwrap() = infos;
    world.live(4000).await;
    assert_eq!(world.stored(id).await.failures, 0);
}

#[tokio::test]
async fn what_somebody_else_writes_meanwhile_is_kept() {
    let world = world().await;
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    let mut begun = world.stored(id).await;
    begun.consent = Some(Consent {
        id: uuid::Uuid::nil(),
        browser: TokenHash::of(b"x"),
        session: None,
        begun: palisade_core::domain::revocation::Versions::default(),
        return_to: None,
        scopes: Vec::new(),
        parameters: std::collections::BTreeMap::new(),
        secret_parameters: None,
        expires_at: world.clock.now().plus(Duration::from_secs(600)),
    });
    world.store.commit(vec![Change::UpdateConnection(begun.clone())]).await.unwrap();
    world.providers.gate.add_permits(1000);
    assert_eq!(caller.await.unwrap().unwrap(), "a0.1");
    assert_eq!(world.stored(id).await.consent, begun.consent);
}

#[tokio::test]
async fn forced_or_not_is_told_apart_in_the_audit_log() {
    let world = world().await;
    let id = world.connect(acme()).await;
    assert_eq!(world.access(id).await, "a0.0");
    let refreshed = world.connections.force_refresh(&client(), world.ann, id).await.unwrap();
    assert_eq!(refreshed.refreshed_at, Some(world.clock.now()));
    world.providers.fail("refresh", busy(None));
    let failed = world.connections.force_refresh(&client(), world.ann, id).await;
    assert!(matches!(failed, Err(ConnectionError::Provider { .. })));
    assert_eq!(world.count(Action::RefreshConnection, Outcome::Success), 1);
    assert_eq!(world.count(Action::RefreshConnection, Outcome::Failed), 1);
    world.clock.advance(10_000);
    world.access(id).await;
    assert_eq!(world.count(Action::RefreshConnection, Outcome::Success), 2, "it works again");
}

#[tokio::test]
async fn the_worker_keeps_tokens_fresh_if_it_is_to() {
    for keep_fresh in [true, false] {
        let world = world().await;
        world.set(|settings| settings.keep_fresh = keep_fresh);
        let id = world.connect(acme()).await;
        world.live(36_000).await;
        let rounds = if keep_fresh { 10..=11 } else { 0..=0 };
        assert!(rounds.contains(&asked(&world)), "{}", asked(&world));
        assert_eq!(world.stored(id).await.due_at.is_some(), keep_fresh);
    }
    // Nor where there is no such thing as a refresh, or no end.
    let world = world().await;
    *world.providers.life.lock().unwrap() = (None, None);
    let id = world.connect(acme()).await;
    world.clock.advance(1 << 40);
    assert_eq!((world.access(id).await.as_str(), world.stored(id).await.due_at), ("a0.0", None));
}

#[tokio::test]
async fn where_there_is_no_refresh_the_user_connects_again_in_the_end() {
    let world = world().await;
    world.providers.edit_info(|info| info.can_refresh = false);
    let id = world.connect(acme()).await;
    let end = world.stored(id).await.expires_at;
    assert_eq!(world.stored(id).await.due_at, end, "its user is told then");
    let forced = world.connections.force_refresh(&client(), world.ann, id).await;
    assert!(matches!(forced, Err(ConnectionError::NotRefreshable)));
    world.clock.advance(3599);
    assert_eq!(world.access(id).await, "a0.0");
    world.clock.advance(1);
    assert!(matches!(world.token(id).await, Err(ConnectionError::ReconnectNeeded)));
    assert_eq!((world.letters().await, asked(&world)), (vec![Letter::ReconnectNeeded], 0));
}

#[tokio::test]
async fn an_upstream_that_says_no_ends_no_connection() {
    let world = world().await;
    world.providers.edit_info(|info| info.can_refresh = false);
    let id = world.connect(acme()).await;
    world.clock.advance(60);
    let ann = identity(world.ann.user);
    let again = world.connections.inject_again(&ann, ACME, &"a0.0".into()).await;
    assert!(matches!(again, Err(ConnectionError::NotRefreshable)), "{again:?}");
    assert_eq!((world.stored(id).await.status, world.access(id).await.as_str()), (Status::Active, "a0.0"));
}

#[tokio::test]
async fn the_end_of_a_grant_is_warned_of_once() {
    let world = world().await;
    let week = 7 * 24 * 3600;
    *world.providers.life.lock().unwrap() = (Some(3600), Some(week));
    let id = world.connect(acme()).await;
    *world.providers.life.lock().unwrap() = (Some(3600), None);
    world.set(|settings| settings.keep_fresh = false);
    let end = world.stored(id).await.refresh_expires_at.unwrap();
    world.live(5 * 24 * 3600 - 1).await;
    assert!(world.letters().await.is_empty());
    world.live(2).await;
    world.live(2 * 24 * 3600).await;
    assert_eq!(world.letters().await, [Letter::GrantEnding]);
    assert_eq!(world.store.mails(9).await.unwrap()[0].facts.ends_at, Some(end));
    assert_eq!(world.sent_notices().await, ["connection.connected", "connection.ending"]);
}

#[tokio::test]
async fn tokens_go_to_callers_that_the_configuration_names() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let require = Require { scopes: vec!["bank".into()], ..Require::default() };
    world.set(|settings| settings.providers.get_mut(ACME).unwrap().token_access = Some(require));
    assert!(matches!(world.token(id).await, Err(ConnectionError::TokenAccess)));
    let mut may = identity(world.ann.user);
    may.scopes = vec!["bank".into()];
    world.connections.provider_token(&client(), &may, id).await.unwrap();
    may.issuer = "https://elsewhere.test".into();
    let foreign = world.connections.provider_token(&client(), &may, id).await;
    assert!(matches!(foreign, Err(ConnectionError::NoAccount)));
    world.set(|settings| settings.providers.get_mut(ACME).unwrap().token_access = None);
    assert!(matches!(world.token(id).await, Err(ConnectionError::TokenAccess)));
    world.set(|settings| settings.providers.clear());
    assert!(matches!(world.token(id).await, Err(ConnectionError::TokenAccess)));
    assert_eq!(world.count(Action::ReadProviderToken, Outcome::Denied), 3);
    // Upstreams of a route get it: that is what the route says.
    let injected = world.connections.inject(&identity(world.ann.user), ACME).await.unwrap();
    assert_eq!((injected.access_token.expose_secret(), injected.connection), ("a0.0", id));
}

#[tokio::test]
async fn a_token_that_an_upstream_turns_away_is_replaced_once() {
    let world = world().await;
    let ann = identity(world.ann.user);
    assert!(matches!(world.connections.inject(&ann, ACME).await, Err(ConnectionError::NotFound)));
    let id = world.connect(acme()).await;
    let first = world.connections.inject(&ann, ACME).await.unwrap().access_token;
    let again = |rejected| {
        let (connections, ann) = (world.connections.clone(), ann.clone());
        tokio::spawn(async move {
            let injected = connections.inject_again(&ann, ACME, &rejected).await?;
            Ok::<_, ConnectionError>(injected.access_token.expose_secret().to_owned())
        })
    };
    let too_new = again(first.clone()).await.unwrap();
    assert!(matches!(too_new, Err(ConnectionError::Provider { .. })), "it came just now");
    world.clock.advance(30);
    let callers: Vec<_> = (0..50).map(|_| again(first.clone())).collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), "a0.1");
    }
    assert_eq!(asked(&world), 1);
    assert_eq!(again(first).await.unwrap().unwrap(), "a0.1", "there is another by now");
    world.clock.advance(30);
    world.providers.fail("refresh", busy(None));
    assert!(again(secret("a0.1")).await.unwrap().is_err());
    assert!(again(secret("a0.1")).await.unwrap().is_err());
    assert_eq!(asked(&world), 2, "not while the provider is left alone");
    assert_eq!(world.stored(id).await.status, Status::Active);
}

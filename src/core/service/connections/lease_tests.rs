//! Several gateways over one store: each refresh, errand and look is made by one of them, and notices keep their order.

use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::domain::connection::{ConnectionId, RefreshAttempt, Status};
use palisade_core::domain::lease::{Lease, LeaseHolder, LeaseSubject};
use palisade_core::ports::{Change, Clock, LeaseStore, ProviderFault, Store};
use palisade_core::service::connections::{ConnectionError, Connections};
use palisade_testing::accounts_world::client;
use palisade_testing::connections_world::{ConnectionsWorld as World, acme, identity, world};
use palisade_testing::fakes::ClaimFault;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::service::connections::abuse_tests::import;
use crate::service::connections::refresh::tests::{asked, asking, busy, ended, refresh_under_way};

const OTHER: LeaseHolder = LeaseHolder(Uuid::from_u128(99));
const TERM: Duration = Duration::from_secs(60);

async fn claimed(world: &World, subject: LeaseSubject) -> Option<Lease> {
    world.store.claim(subject, OTHER, TERM).await.unwrap()
}

async fn token_of(gateway: &Connections, world: &World, id: ConnectionId) -> Result<String, ConnectionError> {
    let token = gateway.provider_token(&client(), &identity(world.ann.user), id).await?;
    Ok(token.access_token.expose_secret().to_owned())
}

/// Time passes for the holders and for the store, in steps that let every timer run at its moment.
async fn pass(world: &World, seconds: u32) {
    for _ in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.store.pass_lease_time(Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn two_gateways_make_one_refresh_however_long_it_takes() {
    let world = world().await;
    let id = ended(&world).await;
    let other = world.another();
    let first = refresh_under_way(&world, id).await;
    let second = async {
        pass(&world, 80).await;
        assert_eq!(asked(&world), 1, "the lease of a refresh that goes on is extended");
        world.providers.gate.add_permits(1000);
    };
    let (token, ()) = tokio::join!(token_of(&other, &world, id), second);
    assert_eq!((token.unwrap(), first.await.unwrap().unwrap()), ("a0.1".to_owned(), "a0.1".to_owned()));
    assert_eq!(asked(&world), 1, "the second gateway finds what the first has brought");
    assert!(claimed(&world, LeaseSubject::Refresh(id)).await.is_some(), "the lease is released");
}

/// What one gateway has brought is known to a caller of another within the pause between two looks, and a caller does not
/// wait for ever.
#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_for_another_gateway_is_answered_promptly_and_not_never() {
    let world = world().await;
    let id = ended(&world).await;
    let other = world.another();
    let first = refresh_under_way(&world, id).await;
    let begun = tokio::time::Instant::now();
    let second = async {
        tokio::time::sleep(Duration::from_millis(350)).await;
        world.providers.gate.add_permits(1);
        first.await.unwrap().unwrap();
        tokio::time::Instant::now()
    };
    let (token, written) = tokio::join!(token_of(&other, &world, id), second);
    assert_eq!(token.unwrap(), "a0.1");
    let late = written.elapsed();
    assert!(late <= Duration::from_millis(100), "{late:?} behind the write, {:?} in all", begun.elapsed());

    // A holder that neither ends nor writes.
    world.clock.advance(7200);
    claimed(&world, LeaseSubject::Refresh(id)).await.unwrap();
    let begun = tokio::time::Instant::now();
    let refused = token_of(&other, &world, id).await;
    assert!(matches!(refused, Err(ConnectionError::Conflict)), "{refused:?}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(90) && took < Duration::from_secs(92), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_open_attempt_is_no_crash_before_its_lease_ends() {
    let world = world().await;
    let id = ended(&world).await;
    let mut open = world.stored(id).await;
    open.attempt = Some(RefreshAttempt { started_at: world.clock.now(), run: OTHER.0 });
    world.store.commit(vec![Change::UpdateConnection(open)]).await.unwrap();
    claimed(&world, LeaseSubject::Refresh(id)).await.unwrap();
    let caller = asking(&world, id);
    pass(&world, 59).await;
    assert_eq!(asked(&world), 0);
    pass(&world, 1).await;
    assert_eq!(caller.await.unwrap().unwrap(), "a0.1");
}

/// The other gateway may have used the refresh token up, so what this one was answered says nothing of the grant.
#[tokio::test]
async fn a_refusal_under_a_lost_lease_ends_nothing() {
    let faults = [busy(None), ProviderFault::InvalidGrant("used".into())];
    for fault in faults.into_iter().chain([ProviderFault::NotRefreshable("none".into())]) {
        let world = world().await;
        let id = ended(&world).await;
        world.providers.fail("refresh", fault);
        let caller = refresh_under_way(&world, id).await;
        let before = world.stored(id).await;
        world.store.take_over_before_commit(LeaseSubject::Refresh(id), OTHER);
        world.providers.gate.add_permits(1000);
        assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Conflict)));
        assert_eq!(world.stored(id).await, before);
        assert_eq!(world.letters().await, []);
    }
}

/// The attempt is committed, and before the provider is asked the other gateway has the lease. It presents the same
/// refresh token, which may be valid for one use only.
#[tokio::test]
async fn a_refresh_asks_for_its_lease_again_before_it_asks_the_provider() {
    let world = world().await;
    let id = ended(&world).await;
    world.store.take_over_after_commit(LeaseSubject::Refresh(id), OTHER);
    let refused = token_of(&world.connections, &world, id).await;
    assert!(matches!(refused, Err(ConnectionError::Conflict)), "{refused:?}");
    assert_eq!(asked(&world), 0);
    assert!(world.stored(id).await.attempt.is_some(), "for the other one, too");
    let lease = world.store.claim(LeaseSubject::Refresh(id), LeaseHolder(Uuid::nil()), TERM).await.unwrap();
    assert_eq!(lease, None, "the lease of the other one is not released");
    world.store.end_leases();
    assert_eq!(world.access(id).await, "a0.1", "the attempt that was not made is made by the next caller");
}

/// The gateway was suspended between the claim and the work, so its own monotonic clock stood still.
#[tokio::test]
async fn leased_work_asks_for_its_lease_again_before_it_calls_out() {
    let world = world().await;
    let id = ended(&world).await;
    world.store.take_over_after_claim(LeaseSubject::Due(id), OTHER);
    assert!(!world.connections.do_due_connections().await.unwrap());
    assert_eq!(asked(&world), 0);
    assert_eq!(claimed(&world, LeaseSubject::Refresh(id)).await.map(|_| ()), Some(()));

    world.store.take_over_after_claim(LeaseSubject::Notices, OTHER);
    tell(&world.connections).await;
    assert_eq!(sent_notices(&world), Vec::<String>::new());
    world.store.end_leases();

    world.providers.fail("revoke", busy(None));
    world.connections.disconnect(&client(), world.ann, id).await.unwrap();
    world.sent_notices().await;
    world.clock.advance(121);
    let [task] = world.store.due_tasks(world.clock.now(), 9).await.unwrap().try_into().unwrap();
    world.store.take_over_after_claim(LeaseSubject::Task(task.id), OTHER);
    world.connections.end_due_grants().await.unwrap();
    assert_eq!(world.providers.count("revoke"), 1);
    assert_eq!(world.store.task(task.id).await.unwrap(), Some(task));
}

/// Nothing else would be left of the grant.
#[tokio::test]
async fn tokens_that_came_under_a_lost_lease_are_written() {
    let world = world().await;
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    world.store.take_over_before_commit(LeaseSubject::Refresh(id), OTHER);
    world.providers.gate.add_permits(1000);
    assert_eq!(caller.await.unwrap().unwrap(), "a0.1");
    assert_eq!(world.sealed(id).await[1], "r0.1");
    let lease = world.store.claim(LeaseSubject::Refresh(id), LeaseHolder(Uuid::nil()), TERM).await.unwrap();
    assert_eq!(lease, None, "the lease of the other one is not released");
}

#[tokio::test]
async fn no_other_gateway_refreshes_while_fresh_tokens_are_not_written() {
    let world = world().await;
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Store(_))));
    assert_eq!(claimed(&world, LeaseSubject::Refresh(id)).await, None);
}

/// A refresh has brought tokens that the store does not take.
async fn unwritten(world: &World) -> ConnectionId {
    let id = ended(world).await;
    world.providers.close_gate();
    let caller = asking(world, id);
    world.providers.begun.notified().await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Store(_))));
    id
}

#[tokio::test]
async fn the_lease_kept_for_unwritten_tokens_is_released_by_no_other_work() {
    let world = world().await;
    let id = unwritten(&world).await;
    world.connections.disconnect(&client(), world.ann, id).await.unwrap_err();
    assert_eq!(claimed(&world, LeaseSubject::Refresh(id)).await, None, "the end failed");
    world.store.mend();
    world.vault.keys.lock().unwrap().insert(0, "k2".to_owned());
    assert_eq!(world.connections.reseal_step(None).await.unwrap().renewed, 0);
    assert_eq!(claimed(&world, LeaseSubject::Refresh(id)).await, None, "there was nothing to seal");
    world.connections.disconnect(&client(), world.ann, id).await.unwrap();
    assert_eq!(world.providers.live(), Vec::<usize>::new());
    assert!(claimed(&world, LeaseSubject::Refresh(id)).await.is_some());
}

#[tokio::test]
async fn the_lease_kept_for_unwritten_tokens_is_released_once_they_are_written() {
    let world = world().await;
    let id = unwritten(&world).await;
    world.store.mend();
    assert_eq!(world.access(id).await, "a0.1");
    assert!(claimed(&world, LeaseSubject::Refresh(id)).await.is_some());
}

/// The lease of the refresh has ended, so the end did not wait for it.
#[tokio::test]
async fn a_refresh_that_ends_after_the_end_revokes_what_it_brought() {
    let world = world().await;
    let id = ended(&world).await;
    let caller = refresh_under_way(&world, id).await;
    world.store.pass_lease_time(TERM);
    world.providers.fail("revoke", busy(None));
    world.another().disconnect(&client(), world.ann, id).await.unwrap();
    world.providers.gate.add_permits(1000);
    assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Revoked)));
    assert_eq!((asked(&world), world.providers.live()), (1, Vec::new()));
}

#[tokio::test]
async fn unwritten_tokens_are_written_while_another_gateway_has_the_look() {
    let world = world().await;
    let id = unwritten(&world).await;
    claimed(&world, LeaseSubject::Due(id)).await.unwrap();
    world.store.pass_lease_time(TERM - Duration::from_secs(1));
    world.connections.do_due_connections().await.unwrap_err();
    world.store.pass_lease_time(TERM - Duration::from_secs(1));
    assert_eq!(claimed(&world, LeaseSubject::Refresh(id)).await, None, "each try extends the lease");
    claimed(&world, LeaseSubject::Due(id)).await.unwrap();
    world.store.mend();
    assert!(world.connections.do_due_connections().await.unwrap());
    assert_eq!(world.sealed(id).await[1], "r0.1");
    assert!(claimed(&world, LeaseSubject::Refresh(id)).await.is_some());
    assert!(!world.connections.do_due_connections().await.unwrap(), "or it would look without a pause");
    assert_eq!(asked(&world), 1);
}

/// Another grant, of another account. What the refresh brings is then to be revoked.
#[tokio::test(start_paused = true)]
async fn a_new_grant_waits_for_a_refresh_of_another_gateway() {
    let world = world().await;
    let id = ended(&world).await;
    let other = world.another();
    let refreshing = refresh_under_way(&world, id).await;
    *world.providers.subject.lock().unwrap() = "bob-at-acme".to_owned();
    let importing = async { other.import_tokens(&client(), world.ann, id, import("a9.0", "r9.0")).await };
    let refreshed = async {
        pass(&world, 5).await;
        world.providers.gate.add_permits(1000);
    };
    let (imported, ()) = tokio::join!(importing, refreshed);
    imported.unwrap();
    assert_eq!(refreshing.await.unwrap().unwrap(), "a0.1");
    assert_eq!(world.sealed(id).await[1], "r9.0");
    // The fake refuses to revoke by a token that was replaced.
    while world.connections.end_due_grants().await.unwrap() {}
    assert_eq!(world.providers.live(), Vec::<usize>::new());
    assert!(claimed(&world, LeaseSubject::Refresh(id)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_grant_outlives_claims_that_fail() {
    let mut world = world().await;
    world.be_real();
    let begun = world.begin(acme()).await.unwrap();
    world.store.fail_claims(Some(ClaimFault::Refused));
    let answered = async {
        // Less than the store is tried for.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.stored(begun.connection.id).await.status, Status::Pending);
        world.store.fail_claims(None);
    };
    let (returned, ()) = tokio::join!(world.come_back(&begun), answered);
    assert_eq!(returned.unwrap().outcome, Ok(()));
    assert_eq!(world.sealed(begun.connection.id).await[1], "r0.0");
}

#[tokio::test(start_paused = true)]
async fn an_end_waits_for_a_refresh_of_another_gateway() {
    let world = world().await;
    let id = ended(&world).await;
    let other = world.another();
    let refreshing = refresh_under_way(&world, id).await;
    let ending = async {
        other.disconnect(&client(), world.ann, id).await.unwrap();
    };
    let refreshed = async {
        pass(&world, 5).await;
        assert_eq!(world.stored(id).await.status, Status::Active);
        world.providers.gate.add_permits(1000);
    };
    tokio::join!(ending, refreshed);
    assert_eq!(refreshing.await.unwrap().unwrap(), "a0.1");
    // The fake refuses to revoke by a token that was replaced.
    assert_eq!((world.stored(id).await.status, world.providers.live()), (Status::Revoked, Vec::new()));
}

#[tokio::test]
async fn tokens_are_not_sealed_anew_while_another_gateway_refreshes() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.vault.keys.lock().unwrap().insert(0, "k2".to_owned());
    let lease = claimed(&world, LeaseSubject::Refresh(id)).await.unwrap();
    assert_eq!(world.connections.reseal_step(None).await.unwrap().renewed, 0);
    world.store.release(lease).await.unwrap();
    assert_eq!(world.connections.reseal_step(None).await.unwrap().renewed, 1);
    assert!(claimed(&world, LeaseSubject::Refresh(id)).await.is_some());
}

#[tokio::test]
async fn a_connection_is_looked_at_by_one_gateway() {
    let world = world().await;
    let id = ended(&world).await;
    let before = world.stored(id).await;
    claimed(&world, LeaseSubject::Due(id)).await.unwrap();
    assert!(!world.connections.do_due_connections().await.unwrap(), "or it would look without a pause");
    assert_eq!((asked(&world), world.stored(id).await), (0, before));
    world.store.pass_lease_time(TERM);
    assert!(world.connections.do_due_connections().await.unwrap());
    assert_eq!(asked(&world), 1);
    assert!(claimed(&world, LeaseSubject::Due(id)).await.is_some());
}

#[tokio::test]
async fn an_errand_is_run_by_one_gateway() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.providers.fail("revoke", busy(None));
    world.connections.disconnect(&client(), world.ann, id).await.unwrap();
    world.sent_notices().await;
    world.clock.advance(121);
    let [task] = world.store.due_tasks(world.clock.now(), 9).await.unwrap().try_into().unwrap();
    claimed(&world, LeaseSubject::Task(task.id)).await.unwrap();
    assert!(!world.connections.end_due_grants().await.unwrap());
    assert_eq!(world.providers.count("revoke"), 1);
    world.store.pass_lease_time(TERM);
    // Taken over once more while the provider is told: what became of it is the other one's to write.
    world.providers.fail("revoke", busy(None));
    world.store.take_over_before_commit(LeaseSubject::Task(task.id), OTHER);
    assert!(world.connections.end_due_grants().await.unwrap());
    assert_eq!(world.store.task(task.id).await.unwrap(), Some(task.clone()));
    world.store.end_leases();
    assert!(world.connections.end_due_grants().await.unwrap());
    assert_eq!(world.store.task(task.id).await.unwrap(), None);
    assert!(claimed(&world, LeaseSubject::Task(task.id)).await.is_some());
}

/// Another gateway may have been done between the look and the lease.
#[tokio::test]
async fn what_is_due_is_read_again_under_its_lease() {
    let world = world().await;
    let id = ended(&world).await;
    let mut looked_at = world.stored(id).await;
    looked_at.due_at = Some(world.clock.now().plus(TERM));
    world.store.change_at_claim(vec![Change::UpdateConnection(looked_at)]);
    assert!(!world.connections.do_due_connections().await.unwrap());
    assert_eq!(asked(&world), 0);

    world.providers.fail("revoke", busy(None));
    world.connections.disconnect(&client(), world.ann, id).await.unwrap();
    world.sent_notices().await;
    world.clock.advance(121);
    let [task] = world.store.due_tasks(world.clock.now(), 9).await.unwrap().try_into().unwrap();
    world.store.change_at_claim(vec![Change::FinishTask(task.id)]);
    assert!(!world.connections.end_due_grants().await.unwrap());
    assert_eq!(world.providers.count("revoke"), 1);
}

/// The other gateway has refreshed between the look at the record and the lease.
#[tokio::test]
async fn a_refresh_that_another_gateway_has_made_is_not_made_again() {
    let world = world().await;
    let id = ended(&world).await;
    let mut fresh = world.stored(id).await;
    (fresh.expires_at, fresh.refreshed_at) =
        (Some(world.clock.now().plus(TERM * 60)), Some(world.clock.now()));
    world.store.change_at_claim(vec![Change::UpdateConnection(fresh)]);
    assert_eq!(world.access(id).await, "a0.0");
    assert_eq!(asked(&world), 0);
}

fn sent_notices(world: &World) -> Vec<String> {
    let taken = world.webhook.taken.lock().unwrap();
    let body = |body: &str| serde_json::from_str::<Value>(body).unwrap();
    taken.iter().map(|notice| body(&notice.body)["type"].as_str().unwrap().to_owned()).collect()
}

async fn tell(gateway: &Connections) {
    while gateway.do_due_notices().await.unwrap() {}
}

#[tokio::test]
async fn one_gateway_at_a_time_tells_the_app_and_in_order() {
    let world = world().await;
    let other = world.another();
    let id = world.connect(acme()).await;
    tell(&world.connections).await;
    assert_eq!(sent_notices(&world), ["connection.connected"]);
    let (connections, ann) = (&world.connections, world.ann);
    world.store.pass_lease_time(TERM);
    // The other one takes over, and does not get through with what happens next.
    world.webhook.down.store(true, Ordering::Relaxed);
    world.providers.fail("refresh", ProviderFault::InvalidGrant("gone".into()));
    connections.force_refresh(&client(), ann, id).await.unwrap_err();
    tell(&other).await;
    world.webhook.down.store(false, Ordering::Relaxed);
    connections.disconnect(&client(), ann, id).await.unwrap();
    tell(connections).await;
    assert_eq!(world.webhook.notices.lock().unwrap().len(), 2, "the lease is the other one's");
    // The first one takes over again. It must not take what it knew before for what waits.
    world.store.pass_lease_time(TERM);
    tell(connections).await;
    assert_eq!(sent_notices(&world).len(), 1, "the last notice has overtaken the one before");
    for _ in 0..3 {
        world.clock.advance(5);
        tell(connections).await;
    }
    let in_order = ["connection.connected", "connection.reconnect_needed", "connection.revoked"];
    assert_eq!(sent_notices(&world), in_order);
}

#[tokio::test]
async fn what_became_of_a_notice_is_not_written_under_a_lost_lease() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.connections.disconnect(&client(), world.ann, id).await.unwrap();
    world.store.take_over_before_commit(LeaseSubject::Notices, OTHER);
    tell(&world.connections).await;
    assert_eq!(sent_notices(&world), ["connection.connected"], "it stops at the first");
    assert_eq!(world.store.due_tasks(world.clock.now(), 9).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_ends_leaves_telling_the_app_at_once() {
    let world = world().await;
    world.connect(acme()).await;
    let closing = CancellationToken::new();
    let running = tokio::spawn({
        let (connections, closing) = (world.connections.clone(), closing.clone());
        async move { connections.run(closing).await }
    });
    while sent_notices(&world).is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(claimed(&world, LeaseSubject::Notices).await, None);
    closing.cancel();
    running.await.unwrap();
    assert!(claimed(&world, LeaseSubject::Notices).await.is_some());
}

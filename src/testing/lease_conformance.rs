//! What the leases of every store must do, whatever keeps them.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::domain::lease::{Lease, LeaseHolder, LeaseSubject};
use palisade_core::ports::{Change, CommitError, Precondition, Store};
use uuid::Uuid;

use crate::conformance::{mail, task};

const A: LeaseHolder = LeaseHolder(Uuid::from_u128(0xa));
const B: LeaseHolder = LeaseHolder(Uuid::from_u128(0xb));
const TERM: Duration = Duration::from_secs(60);
const JUST_BEFORE: Duration = Duration::from_millis(59_999);
const JUST_AFTER: Duration = Duration::from_millis(2);

fn subject(n: u128) -> LeaseSubject {
    LeaseSubject::Task(Uuid::from_u128(n))
}

/// `advance` moves the clock by which the store measures leases, which must stand still otherwise.
pub async fn leases(store: Arc<dyn Store>, advance: impl AsyncFn(Duration)) {
    one_of_many_holders_gets_it(&store).await;
    a_lease_ends_by_the_clock_of_the_store(&*store, &advance).await;
    an_extension_keeps_the_fence(&*store, &advance).await;
    a_release_frees(&*store).await;
    subjects_are_apart(&*store).await;
    a_commit_under_a_lost_lease_is_refused(&*store, &advance).await;
}

async fn claim(store: &dyn Store, n: u128, holder: LeaseHolder) -> Option<Lease> {
    store.claim(subject(n), holder, TERM).await.unwrap()
}

async fn one_of_many_holders_gets_it(store: &Arc<dyn Store>) {
    let mut claims = tokio::task::JoinSet::new();
    for holder in 1..=16 {
        let store = Arc::clone(store);
        claims.spawn(async move { claim(&*store, 1, LeaseHolder(Uuid::from_u128(holder))).await });
    }
    let granted: Vec<Lease> = claims.join_all().await.into_iter().flatten().collect();
    assert_eq!(granted.len(), 1, "{granted:?}");
    assert_eq!(granted[0].subject, subject(1));
}

async fn a_lease_ends_by_the_clock_of_the_store(store: &dyn Store, advance: &impl AsyncFn(Duration)) {
    let first = claim(store, 2, A).await.unwrap();
    assert_eq!((first.subject, first.holder), (subject(2), A));
    advance(JUST_BEFORE).await;
    assert_eq!(claim(store, 2, B).await, None);
    advance(JUST_AFTER).await;
    let second = claim(store, 2, B).await.unwrap();
    assert!(second.fence > first.fence, "{second:?} after {first:?}");
    assert_eq!(claim(store, 2, A).await, None, "the holder before has lost it");
}

async fn an_extension_keeps_the_fence(store: &dyn Store, advance: &impl AsyncFn(Duration)) {
    let first = claim(store, 3, A).await.unwrap();
    advance(JUST_BEFORE).await;
    assert_eq!(claim(store, 3, A).await, Some(first));
    advance(JUST_BEFORE).await;
    assert_eq!(claim(store, 3, B).await, None, "it was extended");
    advance(JUST_AFTER).await;
    assert!(claim(store, 3, B).await.unwrap().fence > first.fence);
}

async fn a_release_frees(store: &dyn Store) {
    let first = claim(store, 4, A).await.unwrap();
    store.release(first).await.unwrap();
    let second = claim(store, 4, B).await.unwrap();
    assert!(second.fence > first.fence);
    store.release(first).await.unwrap();
    assert_eq!(claim(store, 4, A).await, None, "a late release ends no other lease");
    store.release(second).await.unwrap();
    let third = claim(store, 4, B).await.unwrap();
    assert!(third.fence > second.fence, "a fence is granted once");
}

async fn subjects_are_apart(store: &dyn Store) {
    let id = Uuid::from_u128(5);
    let connection = palisade_core::domain::connection::ConnectionId(id);
    let all = [
        LeaseSubject::Task(id),
        LeaseSubject::Mail(id),
        LeaseSubject::Refresh(connection),
        LeaseSubject::Due(connection),
        LeaseSubject::Notices,
        LeaseSubject::AccountNotices,
    ];
    for subject in all {
        let granted = store.claim(subject, A, TERM).await.unwrap();
        assert_eq!(granted.map(|lease| lease.subject), Some(subject));
    }
}

async fn a_commit_under_a_lost_lease_is_refused(store: &dyn Store, advance: &impl AsyncFn(Duration)) {
    let id = task(6, 1).id;
    let put = |lease, to: u128| {
        let require = Change::Require(Precondition::LeaseStands(lease));
        store.commit(vec![Change::PutMail(mail(to, "ann@example.com", 1)), require])
    };
    let is_there = async |n: u128| store.mail(Uuid::from_u128(n)).await.unwrap().is_some();
    store.commit(vec![Change::CreateTask(task(6, 1))]).await.unwrap();
    let first = claim(store, 6, A).await.unwrap();
    put(first, 61).await.unwrap();
    // No other holder has done the work, so what was done counts.
    advance(TERM).await;
    put(first, 62).await.unwrap();
    let second = claim(store, 6, B).await.unwrap();
    assert!(matches!(put(first, 63).await, Err(CommitError::Conflict)), "{second:?} took over");
    let forged = Lease { fence: second.fence + 1, ..second };
    assert!(matches!(put(forged, 63).await, Err(CommitError::Conflict)));
    assert!(!is_there(63).await, "a refused commit writes nothing");
    let finish = vec![Change::Require(Precondition::LeaseStands(second)), Change::FinishTask(id)];
    store.commit(finish).await.unwrap();
    store.release(second).await.unwrap();
    assert!(matches!(put(second, 64).await, Err(CommitError::Conflict)), "it was released");
    assert!(is_there(61).await && is_there(62).await && !is_there(64).await);
}

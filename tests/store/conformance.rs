//! What every store must do, whatever keeps it. A backend passes by running [`suite`].

use std::path::Path;
use std::sync::Arc;

use palisade::domain::revocation::{Revocation, Target};
use palisade::domain::time::UnixTime;
use palisade::ports::Store;

/// A revocation made at `created` that ends at `expires`.
pub fn revocation(target: Target, created: u64, expires: u64) -> Revocation {
    Revocation { target, expires_at: UnixTime(expires), created_at: UnixTime(created), reason: None }
}

pub fn token(jti: &str) -> Target {
    Target::Token { issuer: "https://id.test".into(), jti: jti.into() }
}

pub async fn all(store: &dyn Store, now: u64) -> Vec<Revocation> {
    let mut found = Vec::new();
    store.each_revocation(UnixTime(now), &mut |r| found.push(r)).await.unwrap();
    found
}

/// Runs every case, each on a directory of its own.
pub async fn suite(open: impl Fn(&Path) -> Arc<dyn Store>) {
    let fresh = || tempfile::tempdir().unwrap();
    let dirs: Vec<_> = (0..8).map(|_| fresh()).collect();
    let at = |n: usize| open(dirs[n].path());
    targets_are_apart(&*at(0)).await;
    merging(&*at(1)).await;
    versions(&*at(2)).await;
    recent_first(&*at(3)).await;
    sweeping(&*at(4)).await;
    many_at_once(at(5)).await;
    expired_are_left_out(&*at(6)).await;

    let store = at(7);
    store.revoke(revocation(token("kept"), 1, 100)).await.unwrap();
    store.raise_version("i", "ann", UnixTime(1), UnixTime(100), None).await.unwrap();
    drop(store);
    let store = at(7);
    assert_eq!(all(&*store, 0).await.len(), 2);
    assert_eq!(store.version("i", "ann").await.unwrap(), 1);
}

async fn targets_are_apart(store: &dyn Store) {
    let (i, n) = ("https://id.test".to_owned(), "x".to_owned());
    let targets = [
        Target::Token { issuer: i.clone(), jti: n.clone() },
        Target::Session { issuer: i.clone(), sid: n.clone() },
        Target::SubjectVersion { issuer: i.clone(), sub: n.clone(), below: 3 },
        Target::SubjectIssued { issuer: i.clone(), sub: n.clone(), until: UnixTime(7) },
        Target::Issuer { issuer: i, until: UnixTime(9) },
        Target::Token { issuer: "https://id.testx".into(), jti: String::new() },
    ];
    for (n, target) in targets.iter().enumerate() {
        assert_eq!(store.revocation(target).await.unwrap(), None);
        let made = Revocation { reason: Some(format!("case {n}")), ..revocation(target.clone(), 1, 100) };
        assert_eq!(store.revoke(made.clone()).await.unwrap(), made);
        assert_eq!(store.revocation(target).await.unwrap(), Some(made));
    }
    assert_eq!(all(store, 0).await.len(), targets.len());
    assert!(store.status().writable && store.status().bytes > 0);
}

async fn merging(store: &dyn Store) {
    let until = |t| Target::SubjectIssued { issuer: "i".into(), sub: "ann".into(), until: UnixTime(t) };
    store.revoke(revocation(until(50), 1, 100)).await.unwrap();
    let standing = store.revoke(revocation(until(40), 2, 200)).await.unwrap();
    assert_eq!(standing.target.limit(), 50, "the larger limit stays");
    assert_eq!(standing.expires_at, UnixTime(200), "the later end wins");
    let standing = store.revoke(revocation(until(60), 3, 150)).await.unwrap();
    assert_eq!((standing.target.limit(), standing.expires_at.0), (60, 200));
    assert_eq!(store.revocation(&until(0)).await.unwrap(), Some(standing));
    assert_eq!(all(store, 0).await.len(), 1);
    assert_eq!(store.recent_revocations(10).await.unwrap().len(), 1, "one entry, one line");
    store.sweep(UnixTime(199)).await.unwrap();
    assert_eq!(all(store, 0).await.len(), 1, "the earlier ends are forgotten");
}

async fn versions(store: &dyn Store) {
    assert_eq!(store.version("i", "ann").await.unwrap(), 0);
    for expected in 1..=3 {
        let standing = store.raise_version("i", "ann", UnixTime(5), UnixTime(100), None).await.unwrap();
        assert_eq!(standing.target.limit(), expected);
        assert_eq!(store.version("i", "ann").await.unwrap(), expected);
    }
    assert_eq!(store.version("i", "bob").await.unwrap(), 0);
    assert_eq!(store.version("j", "ann").await.unwrap(), 0);
    store.sweep(UnixTime(1_000_000)).await.unwrap();
    assert!(all(store, 0).await.is_empty());
    assert_eq!(store.version("i", "ann").await.unwrap(), 3, "a version never expires");

    let below = Target::SubjectVersion { issuer: "i".into(), sub: "cid".into(), below: 7 };
    store.revoke(revocation(below, 1, 100)).await.unwrap();
    let standing = store.raise_version("i", "cid", UnixTime(5), UnixTime(100), None).await.unwrap();
    assert_eq!(
        standing.target.limit(),
        store.version("i", "cid").await.unwrap(),
        "a token of the new version is good"
    );
}

async fn recent_first(store: &dyn Store) {
    for (jti, created) in [("b", 256), ("a", 255), ("c", 70_000)] {
        store.revoke(revocation(token(jti), created, 100_000)).await.unwrap();
    }
    let names = |list: Vec<Revocation>| list.into_iter().map(|r| r.created_at.0).collect::<Vec<_>>();
    assert_eq!(names(store.recent_revocations(2).await.unwrap()), [70_000, 256]);
    assert_eq!(names(store.recent_revocations(9).await.unwrap()), [70_000, 256, 255]);
}

async fn sweeping(store: &dyn Store) {
    for n in 0..600u64 {
        store
            .revoke(revocation(token(&n.to_string()), n, if n < 550 { 1000 } else { 1_000_000 }))
            .await
            .unwrap();
    }
    assert_eq!(store.sweep(UnixTime(1000)).await.unwrap().revocations, 0);
    assert_eq!(store.sweep(UnixTime(4600)).await.unwrap().revocations, 0, "an hour of slack");
    assert_eq!(all(store, 0).await.len(), 600);
    assert_eq!(store.sweep(UnixTime(4601)).await.unwrap().revocations, 550);
    assert_eq!(all(store, 0).await.len(), 50);
    assert_eq!(store.recent_revocations(1000).await.unwrap().len(), 50);
    assert_eq!(store.sweep(UnixTime(4601)).await.unwrap().revocations, 0);
    store.revoke(revocation(token("forever"), 1, u64::MAX)).await.unwrap();
    store.sweep(UnixTime(u64::MAX)).await.unwrap();
    assert_eq!(all(store, 0).await.len(), 1);
}

async fn many_at_once(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                store.revoke(revocation(token(&n.to_string()), 1, 100)).await.unwrap();
                store
                    .raise_version("i", "ann", UnixTime(1), UnixTime(100), None)
                    .await
                    .unwrap()
                    .target
                    .limit()
            })
        })
        .collect();
    let mut raised = Vec::new();
    for task in tasks {
        raised.push(task.await.unwrap());
    }
    raised.sort_unstable();
    assert_eq!(raised, (1..=200).collect::<Vec<_>>(), "no version is handed out twice");
    assert_eq!(all(&*store, 0).await.len(), 201);
}

async fn expired_are_left_out(store: &dyn Store) {
    store.revoke(revocation(token("old"), 1, 10)).await.unwrap();
    store.revoke(revocation(token("new"), 1, 20)).await.unwrap();
    assert_eq!(all(store, 10).await.len(), 2);
    assert_eq!(all(store, 11).await.len(), 1);
}

//! The sled store against the conformance suite, a kill at any moment, damage, and a second process;
//! and the revocation cache in front of it.

mod compaction;
mod damages;
mod opening;
mod truth;
mod upgrade;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use palisade::edge::clock::uptime;
use palisade::edge::store::{
    CacheObserver, Doubts, LeaseClock, ObservedStore, OpenError, RevocationCache, SledStore,
};
use palisade_core::domain::identity::Identity;
use palisade_core::domain::lease::{Lease, LeaseHolder, LeaseSubject};
use palisade_core::domain::revocation::Target;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    Change, CommitError, LeaseStore, Position, Precondition, Revocations, Standing, Store,
};
use palisade_testing::conformance::{self, all, revocation, token};
use palisade_testing::fakes::FakeStore;
use palisade_testing::{crash, lease_conformance, transfer};
use tempfile::TempDir;

/// How many kills, where it is not the few of an ordinary run: `make soak` sets it.
const KILLS: &str = "PALISADE_KILLS";

/// The store, as soon as its lock is free: a child that another test is just starting has a copy of every file
/// that is open here, locks and all, until it has become the program that it shall be.
fn open(dir: &Path) -> Arc<SledStore> {
    open_or_refuse(dir, Doubts::Refuse).unwrap()
}

fn open_or_refuse(dir: &Path, doubts: Doubts) -> Result<Arc<SledStore>, OpenError> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match SledStore::open_with(dir, doubts) {
            Err(OpenError::Locked { .. }) if Instant::now() < end => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

async fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn sled_conforms() {
    conformance::suite(folder, async |dir| open(dir) as Arc<dyn Store>).await;
}

#[tokio::test]
async fn a_decorated_store_conforms() {
    conformance::suite(folder, async |dir| {
        let store = open(dir);
        let observer = CacheObserver::new(Arc::new(RevocationCache::new(Box::new(uptime))), Box::new(|| ()));
        Arc::new(ObservedStore::new(store, vec![Arc::new(observer)])) as Arc<dyn Store>
    })
    .await;
}

/// A clock that stands still until the test moves it.
fn lease_clock() -> (LeaseClock, impl Fn(Duration)) {
    let time = Arc::new(Mutex::new(Duration::ZERO));
    let read = Arc::clone(&time);
    (Arc::new(move || *read.lock().unwrap()), move |span| *time.lock().unwrap() += span)
}

#[tokio::test]
async fn the_leases_of_sled_conform() {
    let folder = tempfile::tempdir().unwrap();
    let (store, (clock, advance)) = (open(folder.path()), lease_clock());
    store.set_lease_clock(clock);
    lease_conformance::leases(store, async |span| advance(span)).await;
}

#[tokio::test]
async fn the_leases_of_a_decorated_store_conform() {
    let folder = tempfile::tempdir().unwrap();
    let (store, (clock, advance)) = (open(folder.path()), lease_clock());
    store.set_lease_clock(clock);
    let observed = ObservedStore::new(store, Vec::new());
    lease_conformance::leases(Arc::new(observed), async |span| advance(span)).await;
}

/// The position of the last write.
async fn written(store: &SledStore) -> Position {
    store.commit(Vec::new()).await.unwrap().position
}

#[tokio::test]
async fn a_restart_ends_every_lease_and_no_fence_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (LeaseHolder(uuid::Uuid::from_u128(1)), LeaseHolder(uuid::Uuid::from_u128(2)));
    let mut fences = Vec::new();
    let (subject, term) = (LeaseSubject::Notices, Duration::from_secs(3600));
    for holder in [first, second, first] {
        let store = open(folder.path());
        let before = written(&store).await;
        let lease = store.claim(subject, holder, term).await.unwrap().unwrap();
        assert!(written(&store).await > before, "the first claim of a run writes its number");
        fences.push(lease.fence);
        let after_first = written(&store).await;
        for n in 0..100 {
            let subject = LeaseSubject::Task(uuid::Uuid::from_u128(n));
            let lease = store.claim(subject, holder, term).await.unwrap().unwrap();
            fences.push(lease.fence);
            store.release(lease).await.unwrap();
        }
        assert_eq!(written(&store).await, after_first, "no later claim writes");
        let stale = Lease { subject, holder, fence: fences[0] };
        if fences.len() > 101 {
            let require = Change::Require(Precondition::LeaseStands(stale));
            assert!(matches!(store.commit(vec![require]).await, Err(CommitError::Conflict)));
        }
        store.verify().await.unwrap();
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
}

#[tokio::test]
async fn records_survive_the_way_into_another_kind_of_store_and_back() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [first, filler, back] = folders.each_ref().map(|folder| open(folder.path()));
    transfer::there_and_back(&*first, &*filler, &FakeStore::default(), &*back).await;
    for store in [&first, &filler, &back] {
        store.verify().await.unwrap();
    }
    let [first, filler, back] = [(); 3].map(|()| FakeStore::default());
    let folder = tempfile::tempdir().unwrap();
    let other = open(folder.path());
    transfer::there_and_back(&first, &filler, &*other, &back).await;
    other.verify().await.unwrap();
    // Also for the next start.
    let before = transfer::Whole::in_store(&*other).await;
    drop(other);
    let other = open(folder.path());
    assert_eq!(transfer::Whole::in_store(&*other).await, before);
}

/// The child of the test below.
#[test]
fn import_child() {
    let Some(dir) = std::env::var_os(crash::CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { transfer::work(SledStore::open(&dir).unwrap()).await });
}

#[tokio::test]
async fn a_killed_import_is_never_taken_for_whole() {
    let reopen = async |dir: &Path| match open_or_refuse(dir, Doubts::Accept) {
        Ok(store) => {
            store.verify().await.unwrap();
            Some(store as Arc<dyn Store>)
        }
        Err(error @ OpenError::PartlyImported { .. }) => {
            assert!(error.to_string().contains("Import the records again"), "{error}");
            None
        }
        Err(error) => panic!("{error}"),
    };
    transfer::killed("store::import_child", kills(), folder, reopen).await;
}

fn kills() -> u64 {
    std::env::var(KILLS).map_or(20, |kills| kills.parse().unwrap())
}

/// The child of the tests below.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(crash::CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { crash::work(SledStore::open(&dir).unwrap()).await });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_kill() {
    killed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_kill_within_a_compaction() {
    let (within, replaced) = killed(true).await;
    assert!(within > 0, "no kill was within a compaction");
    println!("{within} kills were within a copy, and {replaced} compactions were finished");
}

/// Runs the crash suite. Returns how many kills left the files of a compaction that was not finished, and how often one
/// was.
async fn killed(compacts: bool) -> (u64, u64) {
    let (mut within, mut generation) = (0, 0);
    let reopen = async |dir: &Path| {
        let left = compaction::generations(dir);
        within += u64::from(left.iter().any(|(_, complete)| !complete));
        generation =
            left.iter().filter(|(_, complete)| *complete).map(|(n, _)| *n).max().unwrap_or(generation);
        let store = open(dir);
        store.verify().await.unwrap();
        store as Arc<dyn Store>
    };
    let dir = folder().await;
    let kill = |child: &mut Child| child.kill().unwrap();
    crash::killed("store::crash_child", kills(), compacts, dir.path(), kill, reopen).await;
    (within, generation)
}

#[test]
fn a_second_open_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let first = SledStore::open(dir.path()).unwrap();
    let Err(error) = SledStore::open(dir.path()) else { panic!("opened twice") };
    assert!(matches!(error, OpenError::Locked { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {}", std::process::id())) && text.contains("palisade.lock"),
        "{text}"
    );
    drop(first);
    open(dir.path());
}

async fn filled(dir: &Path) {
    let store = SledStore::open(dir).unwrap();
    for n in 0..400 {
        store.revoke(revocation(token(&n.to_string()), n, 100_000)).await.unwrap();
    }
}

/// Every file of the store, without our own lock and witness.
fn contents(dir: &Path) -> HashMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file() && entry.file_name() != "palisade.lock")
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

async fn refuses_and_leaves_alone(file: &str, damage: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    damage(dir.path());
    let before = contents(dir.path());
    let Err(error) = SledStore::open(dir.path()) else { panic!("a damaged store opened") };
    let text = error.to_string();
    assert!(matches!(error, OpenError::Corrupt { .. } | OpenError::Doubtful { .. }), "{text}");
    assert!(text.contains("backup") && text.contains(&dir.path().display().to_string()), "{text}");
    assert!(text.contains(&format!("`{file}`")), "{text}");
    assert!(!text.contains("rehearsal"), "{text}");
    assert!(before == contents(dir.path()), "the files changed: {text}");
}

fn garbage(path: &Path) {
    let len = fs::metadata(path).unwrap().len() as usize;
    fs::write(path, b"garbage ".iter().copied().cycle().take(len).collect::<Vec<_>>()).unwrap();
}

#[tokio::test]
async fn garbage_in_db_is_refused() {
    refuses_and_leaves_alone("db", |dir| garbage(&dir.join("db"))).await;
}

#[tokio::test]
async fn garbage_in_conf_is_refused() {
    refuses_and_leaves_alone("conf", |dir| garbage(&dir.join("conf"))).await;
}

#[tokio::test]
async fn an_emptied_db_is_refused() {
    refuses_and_leaves_alone("db", |dir| fs::write(dir.join("db"), b"").unwrap()).await;
}

#[tokio::test]
async fn a_missing_db_is_refused() {
    refuses_and_leaves_alone("db", |dir| fs::remove_file(dir.join("db")).unwrap()).await;
}

#[tokio::test]
async fn damage_in_the_middle_of_db_is_refused() {
    refuses_and_leaves_alone("db", |dir| {
        let mut bytes = fs::read(dir.join("db")).unwrap();
        let used = bytes.iter().rposition(|b| *b != 0).unwrap();
        bytes[used / 3..used / 2].fill(0xa5);
        fs::write(dir.join("db"), bytes).unwrap();
    })
    .await;
}

fn ann(jti: &str) -> Identity {
    Identity {
        issuer: "https://id.test".into(),
        subject: "ann".into(),
        email: None,
        email_verified: false,
        session: Some("s1".into()),
        token_id: Some(jti.into()),
        version: Some(1),
        scopes: Vec::new(),
        issued_at: UnixTime(50),
        expires_at: UnixTime(500),
        claims: serde_json::Map::new(),
    }
}

#[tokio::test]
async fn the_cache_answers_only_once_it_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    store.revoke(revocation(token("t1"), 1, 500)).await.unwrap();
    let cache = RevocationCache::new(Box::new(uptime));
    assert_eq!(cache.standing(), Standing::Loading);
    cache.load(&*store, UnixTime(100)).await.unwrap();
    assert_eq!(cache.standing(), Standing::Loading, "whether that is all has to be said");
    cache.believe_for_ever();
    assert_eq!(cache.standing(), Standing::Confirmed(2));
    assert_eq!(cache.len(), 1);
    assert!(cache.is_revoked(&ann("t1")));
    assert!(!cache.is_revoked(&ann("t2")));
}

#[tokio::test]
async fn a_revocation_is_durable_then_cached_then_told() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(RevocationCache::new(Box::new(uptime)));
    let calls = Arc::new(AtomicUsize::new(0));
    let told = {
        let (cache, calls) = (Arc::clone(&cache), Arc::clone(&calls));
        move || {
            // When the hook runs the cache already answers.
            assert!(cache.is_revoked(&ann("t1")));
            calls.fetch_add(1, Ordering::SeqCst);
        }
    };
    let inner = SledStore::open(dir.path()).unwrap();
    let observer = CacheObserver::new(Arc::clone(&cache), Box::new(told));
    let store = ObservedStore::new(inner.clone(), vec![Arc::new(observer)]);
    cache.load(&store, UnixTime(100)).await.unwrap();
    cache.believe_for_ever();
    assert_eq!(cache.standing(), Standing::Confirmed(2));
    assert!(!cache.is_revoked(&ann("t1")));

    store.revoke(revocation(token("t1"), 1, 500)).await.unwrap();
    assert_eq!(all(&*inner, 0).await.len(), 1);
    assert_eq!(cache.standing(), Standing::Confirmed(3));
    assert_eq!(calls.load(Ordering::SeqCst), 1);

    let issuer = "https://id.test";
    store.raise_version(issuer, "ann", UnixTime(1), UnixTime(500), None).await.unwrap();
    assert!(!cache.is_revoked(&ann("t2")), "version 1 is not below 1");
    store.raise_version(issuer, "ann", UnixTime(1), UnixTime(500), None).await.unwrap();
    assert!(cache.is_revoked(&ann("t2")));
    assert_eq!(cache.standing(), Standing::Confirmed(5));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_clock_an_hour_off_resurrects_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let inner = SledStore::open(dir.path()).unwrap();
    let cache = Arc::new(RevocationCache::new(Box::new(uptime)));
    let observer = CacheObserver::new(Arc::clone(&cache), Box::new(|| ()));
    let store = ObservedStore::new(inner.clone(), vec![Arc::new(observer)]);
    cache.load(&store, UnixTime(0)).await.unwrap();
    store.revoke(revocation(token("t1"), 1, 10_000)).await.unwrap();

    // The clock runs an hour ahead just before the entry's end.
    let ahead = UnixTime(10_000 + 3600);
    assert_eq!(store.sweep(ahead).await.unwrap().revocations, 0);
    assert!(cache.is_revoked(&ann("t1")));
    let restarted = RevocationCache::new(Box::new(uptime));
    restarted.load(&*inner, ahead).await.unwrap();
    assert!(restarted.is_revoked(&ann("t1")), "a start with the wrong clock loads it too");

    assert_eq!(store.sweep(UnixTime(10_000 + 3601)).await.unwrap().revocations, 1);
    assert_eq!(cache.len(), 0);
    assert_eq!(all(&*inner, 0).await.len(), 0);
}

#[tokio::test]
async fn the_cache_merges_in_any_order() {
    let cache = RevocationCache::new(Box::new(uptime));
    let until =
        |t| Target::SubjectIssued { issuer: "https://id.test".into(), sub: "ann".into(), until: UnixTime(t) };
    cache.apply(&[revocation(until(60), 1, 200)]);
    cache.apply(&[revocation(until(10), 1, 100)]);
    assert_eq!(cache.len(), 1);
    assert!(cache.is_revoked(&ann("t")));
    cache.sweep(UnixTime(150 + 3600));
    assert!(cache.is_revoked(&ann("t")), "the later end stays");
}

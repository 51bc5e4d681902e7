//! Backups of a store in PostgreSQL, the way from one kind of store into the other, and a store that is closed.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use palisade::edge::backup::stream::{self, BackupPlan};
use palisade::edge::backup::{BackupReader, BackupRecords, InstallationKeys};
use palisade::edge::postgres::{PostgresOpenError, PostgresStore};
use palisade::edge::store::SledStore;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    Change, CommitError, ImportError, Record, RecordSource, Records, RecordsOf, Store, StoreError,
    VersionedRecord,
};
use palisade_testing::conformance::{session, user};
use palisade_testing::postgres::Cluster;
use palisade_testing::transfer::{Pages, Whole, every_record, exported};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::place::{open, settings};

/// A backup of a store, as the gateway makes it.
async fn backup_of(store: &dyn Store, kind: &'static str) -> Vec<u8> {
    let mut source = store.snapshot().await.unwrap();
    let runtime = Handle::current();
    let plan = BackupPlan {
        store: kind,
        issuer: "https://id.test".to_owned(),
        made_at: UnixTime(5),
        recipients: Vec::new(),
        secrets: Vec::new(),
    };
    let made = tokio::task::spawn_blocking(move || {
        let keys = InstallationKeys::derive(&[Zeroizing::new([1; 32])]).unwrap();
        stream::write(Vec::new(), &plan, &keys, &mut *source, &runtime, &mut |_| ()).unwrap().0
    });
    made.await.unwrap()
}

async fn restored(store: &dyn Store, backup: Vec<u8>) -> u64 {
    let mut source = BackupRecords::new(BackupReader::begin(Cursor::new(backup)).unwrap());
    store.import(&mut source).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_either_store_is_restored_into_the_other() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [filler, first, back] = folders.each_ref().map(|folder| SledStore::open(folder.path()).unwrap());
    let all = every_record(&*filler).await;
    let whole = Whole::of(all.clone());
    first.import(&mut Pages::new([all])).await.unwrap();
    let database = Cluster::shared().database().await;
    let other = open(&database.url()).await;
    restored(&*other, backup_of(&*first, "sled").await).await;
    assert_eq!(Whole::in_store(&*other).await, whole);
    restored(&*back, backup_of(&*other, "postgres").await).await;
    assert_eq!(Whole::in_store(&*back).await, whole);
}

/// Each commit makes an account with a session, or ends both.
#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_has_half_a_commit() {
    let database = Cluster::shared().database().await;
    let store = open(&database.url()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4u128)
        .map(|writer| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut commits = 0u128;
                while !stop.load(Ordering::Relaxed) {
                    let n = writer * 1_000_000 + commits;
                    let (made, begun) = (user(n, &format!("u{n}@example.com")), session(n, n, 1_000_000));
                    let id = made.id;
                    store.commit(vec![Change::CreateSession(begun), Change::CreateUser(made)]).await.unwrap();
                    if commits % 3 > 0 {
                        store.commit(vec![Change::DeleteUser(id)]).await.unwrap();
                    }
                    commits += 1;
                }
                commits
            })
        })
        .collect();
    for _ in 0..10 {
        let mut snapshot: Box<dyn RecordSource> = Records::snapshot(&*store).await.unwrap();
        let (mut users, mut sessions) = (Vec::new(), Vec::new());
        loop {
            let page = snapshot.next_page().await.unwrap();
            if page.is_empty() {
                break;
            }
            for record in page {
                match record.record {
                    Record::User(user) => users.push(user.id),
                    Record::Session(session) => sessions.push(session.user),
                    _ => {}
                }
            }
        }
        users.sort();
        sessions.sort();
        assert_eq!(users, sessions);
    }
    stop.store(true, Ordering::Relaxed);
    let mut commits = 0;
    for writer in writers {
        commits += writer.await.unwrap();
    }
    assert!(commits > 20, "{commits} commits meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_takes_no_commit_of_any_gateway_until_it_is_opened() {
    let database = Cluster::shared().database().await;
    let (first, second) = (open(&database.url()).await, open(&database.url()).await);
    first.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
    let what = "its records are moved to sled:'other'";
    first.set_closed(Some(what.to_owned())).await.unwrap();
    assert_eq!(second.closed_for().await.unwrap().as_deref(), Some(what));
    for store in [&first, &second, &open(&database.url()).await] {
        let refused = store.commit(vec![Change::CreateUser(user(2, "bob@example.com"))]).await;
        assert!(matches!(refused, Err(CommitError::Store(StoreError::Unavailable(_)))), "{refused:?}");
        assert_eq!(store.users(None, 9).await.unwrap().len(), 1);
    }
    assert_eq!(exported(&*second).await.len(), 1, "what is there is read");
    second.set_closed(None).await.unwrap();
    first.commit(vec![Change::CreateUser(user(2, "bob@example.com"))]).await.unwrap();
}

/// A page, and then an end that is none.
struct Broken(bool);

#[async_trait::async_trait]
impl RecordSource for Broken {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        if std::mem::replace(&mut self.0, true) {
            return Err(StoreError::Unavailable("broken off".to_owned()));
        }
        Ok(vec![Record::User(user(7, "seven@example.com")).into()])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_broke_off_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let source = SledStore::open(folder.path()).unwrap();
    every_record(&*source).await;
    let database = Cluster::shared().database().await;
    let store = open(&database.url()).await;
    assert_eq!(store.import_begun().await.unwrap(), None);
    let none = store.resume_import(&mut RecordsOf::new(&*source)).await;
    assert!(matches!(none, Err(ImportError::NotEmpty)), "{none:?}");
    assert!(matches!(store.import(&mut Broken(false)).await, Err(ImportError::Source(_))));
    store.close();
    let refused = PostgresStore::open(settings(&database.url())).await.err();
    assert!(matches!(refused, Some(PostgresOpenError::PartlyImported)));
    let store = PostgresStore::open_to_resume(settings(&database.url())).await.unwrap();
    assert!(store.import_begun().await.unwrap().is_some() && store.users(None, 1).await.is_err());
    store.resume_import(&mut RecordsOf::new(&*source)).await.unwrap();
    assert_eq!(Whole::in_store(&*store).await, Whole::in_store(&*source).await);
    store.commit(vec![Change::CreateUser(user(8, "eight@example.com"))]).await.unwrap();
}

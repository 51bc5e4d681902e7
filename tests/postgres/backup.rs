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
use palisade_testing::transfer::{Pages, Whole, accounts_and_owners, every_record, exported};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::place::{open, settings};

/// A backup of a store, as the gateway makes it.
pub(super) async fn backup_of(store: &dyn Store, kind: &'static str) -> Vec<u8> {
    let mut source = store.snapshot().await.unwrap();
    let runtime = Handle::current();
    let plan = BackupPlan {
        store: kind,
        issuer: "https://id.test".to_owned(),
        made_at: UnixTime(5),
        recipients: Vec::new(),
        secrets_kept: Vec::new(),
        secrets: Vec::new(),
    };
    let made = tokio::task::spawn_blocking(move || {
        let keys = InstallationKeys::derive(&[Zeroizing::new([1; 32])]).unwrap();
        stream::write(Vec::new(), &plan, &keys, &mut *source, &runtime, &mut |_| ()).unwrap().0
    });
    made.await.unwrap()
}

pub(super) async fn restored(store: &dyn Store, backup: Vec<u8>) -> u64 {
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
                    if !commits.is_multiple_of(3) {
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
        let (accounts, owners) = accounts_and_owners(&mut *snapshot).await;
        assert_eq!(accounts, owners);
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
        assert!(matches!(refused, Err(CommitError::Store(StoreError::Closed(_)))), "{refused:?}");
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

/// The real program: a data folder into a database and back, and a backup from the one into the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_moves_and_restores_between_a_folder_and_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let source = SledStore::open(folder.join("data")).unwrap();
    let filler = tempfile::tempdir().unwrap();
    let all = every_record(&*SledStore::open(filler.path()).unwrap()).await;
    source.import(&mut Pages::new([all])).await.unwrap();
    let whole = Whole::in_store(&*source).await;
    source.close();
    std::fs::write(folder.join("vault"), "A".repeat(43)).unwrap();
    let config = "public_url = \"http://app.test\"\n[server]\nadmin = \"127.0.0.1:0\"\n[vault]\nkeys = [\"file:vault\"]\n";
    std::fs::write(folder.join("config.toml"), config).unwrap();
    let palisade = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_palisade"))
            .args(arguments)
            .arg("--config")
            .arg(folder.join("config.toml"))
            .current_dir(folder)
            .env_remove("PALISADE_CONFIG")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        (output.status.success(), said)
    };
    let database = Cluster::shared().database().await;
    let url = database.url();
    let moved = palisade(&["migrate", "sled:data", &url]);
    assert!(moved.0, "{}", moved.1);
    let store = open(&url).await;
    assert_eq!(Whole::in_store(&*store).await, whole);
    store.close();
    let back = palisade(&["migrate", &url, "sled:back"]);
    assert!(back.0, "{}", back.1);
    let store = open(&url).await;
    assert!(store.closed_for().await.unwrap().unwrap().contains("were moved to sled:"));
    assert_eq!(Whole::in_store(&*SledStore::open(folder.join("back")).unwrap()).await, whole);
    let given_up = palisade(&["migrate", "--give-up", &url]);
    assert!(given_up.0 && store.closed_for().await.unwrap().is_none(), "{}", given_up.1);

    let in_database = format!("{config}[store]\nurl = {url:?}\n");
    std::fs::write(folder.join("config.toml"), &in_database).unwrap();
    let made = palisade(&["backup", "one.palisade"]);
    assert!(made.0 && made.1.contains("from the store itself"), "{}", made.1);
    let full = palisade(&["restore", "one.palisade"]);
    assert!(!full.0 && full.1.contains("not empty"), "{}", full.1);
    std::fs::write(folder.join("config.toml"), format!("{config}[store]\nurl = \"sled:restored\"\n"))
        .unwrap();
    let restored = palisade(&["restore", "one.palisade", "--without-cutoff", "--accept-missing-keys"]);
    assert!(restored.0, "{}", restored.1);
    let found = SledStore::open(folder.join("restored")).unwrap();
    assert_eq!(Whole::in_store(&*found).await, whole);
    found.close();
    let other = Cluster::shared().database().await;
    std::fs::write(folder.join("config.toml"), format!("{config}[store]\nurl = {:?}\n", other.url()))
        .unwrap();
    // The secrets of a database are looked for in it, before anything of the backup is.
    let lacking = palisade(&["restore", "one.palisade"]);
    assert!(!lacking.0 && lacking.1.contains("server-key: "), "{}", lacking.1);
    assert!(
        lacking.1.contains("signing-keys: ") && lacking.1.contains("--accept-missing-keys"),
        "{}",
        lacking.1
    );
    let cut = palisade(&["restore", "one.palisade", "--accept-missing-keys"]);
    assert!(cut.0 && cut.1.contains("cut off: every token"), "{}", cut.1);
    let store = open(&other.url()).await;
    assert!(store.all_sessions(None, 9).await.unwrap().is_empty());
    assert_eq!(store.users(None, 99).await.unwrap().len(), 3);
}

//! `palisade migrate`, killed in the middle.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::edge::store::{OpenError, SledStore};
use palisade_core::ports::{Record, Records, VersionedRecord};
use palisade_testing::conformance::user;
use palisade_testing::transfer::{Pages, Whole};
use serde_json::Value;

use crate::support::binary::{palisade, run};

const RECORDS: u128 = 6_000;
const CONFIG: &str = "public_url = \"http://app.test\"\n[[routes]]\nname = \"app\"\nupstream = [\"http://127.0.0.1:9\"]\n\
                      match.host = \"app.test\"\n";

fn migrate(folder: &Path, more: &[&str]) -> std::process::Command {
    let mut command = palisade();
    command.args(["migrate", "sled:data", "sled:other", "--json"]).args(more);
    command.arg("--config").arg(folder.join("config.toml")).current_dir(folder);
    command
}

/// The store, as soon as its lock is free: a child that another test is just starting has a copy of every file that is open
/// here, until it has become the program that it shall be.
fn open(folder: &Path) -> Result<Arc<SledStore>, OpenError> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match SledStore::open(folder) {
            Err(OpenError::Locked { .. }) if Instant::now() < end => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

async fn filled(folder: &Path) -> Whole {
    fs::write(folder.join("config.toml"), CONFIG).unwrap();
    let store = open(&folder.join("data")).unwrap();
    let of = |n: u128| VersionedRecord::from(Record::User(user(n, &format!("u{n}@example.com"))));
    let records: Vec<_> = (0..RECORDS).map(of).collect();
    store.import(&mut Pages::new([records])).await.unwrap();
    let whole = Whole::in_store(&*store).await;
    store.close();
    whole
}

/// Ends the child once the target holds so many bytes, or once it has ended by itself. Whether it was killed.
fn kill_at(child: &mut Child, target: &Path, bytes: u64) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if fs::metadata(target.join("db")).is_ok_and(|db| db.len() >= bytes) {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        assert!(Instant::now() < end, "the target never has {bytes} bytes");
        std::thread::yield_now();
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_killed_goes_on_where_it_was_and_ends_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = filled(folder).await;
    let (mut killed, mut parts) = (0, 0);
    // The engine's file grows by half a megabyte at a time.
    for megabytes in [0, 1, 2, 3] {
        let mut child = migrate(folder, &[])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        killed += u32::from(kill_at(&mut child, &folder.join("other"), megabytes << 20));
        // The source takes no writes, whatever became of the rest, and says so.
        match open(&folder.join("other")) {
            Err(OpenError::PartlyImported { .. }) => parts += 1,
            Ok(store) => store.close(),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(killed > 0 && parts > 0, "{killed} were killed, and {parts} left a part");
    let other = run(migrate(folder, &[]).args(["--to-config", "none.toml"]), "");
    assert!(!other.status.success());
    let done = run(&mut migrate(folder, &[]), "");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["records"], Value::from(u64::try_from(RECORDS).unwrap()));
    let target = open(&folder.join("other")).unwrap();
    assert_eq!(Whole::in_store(&*target).await, whole);
    assert_eq!(target.closed_for().await.unwrap(), None);
    target.verify().await.unwrap();
    let source = open(&folder.join("data")).unwrap();
    assert!(source.closed_for().await.unwrap().unwrap().contains("were moved to sled:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_holds_something_else_is_no_target() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    filled(folder).await;
    let target = open(&folder.join("other")).unwrap();
    let record = VersionedRecord::from(Record::User(user(9_999_999, "other@example.com")));
    target.import(&mut Pages::new([vec![record]])).await.unwrap();
    target.close();
    let refused = run(&mut migrate(folder, &[]), "");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("is not empty"), "{said}");
    let source = open(&folder.join("data")).unwrap();
    assert_eq!(source.closed_for().await.unwrap(), None, "it takes writes as before");
    // Where a migration was begun, the target is compared.
    let url = folder.join("other");
    source.set_closed(Some(format!("its records are moved to sled:{}", url.display()))).await.unwrap();
    source.close();
    let refused = run(&mut migrate(folder, &[]), "");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("Only in the source: 6000 User"), "{said}");
    assert!(
        said.contains("Only in the target: 1 User") && said.contains("stays closed for writing"),
        "{said}"
    );
    let elsewhere = run(
        palisade()
            .args(["migrate", "sled:data", "sled:third", "--config"])
            .arg(folder.join("config.toml"))
            .current_dir(folder),
        "",
    );
    let said = String::from_utf8_lossy(&elsewhere.stderr);
    assert!(!elsewhere.status.success() && said.contains("closed already"), "{said}");
}

//! Starts over files that a crash, a full disk or damage has left: what is whole opens whole, what is not known to be
//! whole is refused by the name of the file and untouched, and an operator has a way on.

use std::fs;
use std::path::{Path, PathBuf};

use palisade::edge::store::{Doubts, OpenError, SledStore};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Store};

use super::{contents, filled, open};
use palisade_testing::conformance::{all, revocation, token};

const WITNESS: &str = "palisade.acknowledged";

/// The only snapshot in `dir`.
fn snapshot(dir: &Path) -> PathBuf {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found = names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."));
    let one = found.next().expect("a snapshot");
    assert!(found.next().is_none());
    one
}

async fn count(store: &SledStore) -> usize {
    all(store, 0).await.len()
}

fn refused(dir: &Path) -> String {
    let before = contents(dir);
    let error = SledStore::open(dir).err().expect("it opened");
    assert!(matches!(error, OpenError::Doubtful { .. }), "{error}");
    assert!(before == contents(dir), "the files changed: {error}");
    error.to_string()
}

#[tokio::test]
async fn what_is_no_snapshot_is_set_aside_and_the_store_opens_whole() {
    for kept in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        // The second start writes the first snapshot.
        open(dir.path()).close();
        let good = snapshot(dir.path());
        let name = good.file_name().unwrap().to_str().unwrap().to_owned();
        // As a start on a full disk leaves it, beside the one before or in its place.
        let leftover = if kept { format!("{name}.generating") } else { name };
        fs::write(dir.path().join(&leftover), b"").unwrap();
        for _ in 0..2 {
            let store = open(dir.path());
            assert_eq!(count(&store).await, 400);
            store.verify().await.unwrap();
            store.close();
        }
        assert_eq!(fs::read(dir.path().join(format!("palisade.set-aside.{leftover}"))).unwrap(), b"");
        let left = snapshot(dir.path());
        assert!(fs::metadata(left).unwrap().len() > 0);
    }
}

#[tokio::test]
async fn a_witness_that_says_nothing_beside_no_database_is_refused_until_the_operator_accepts_it() {
    for content in [&b""[..], &[0; 8192], b"acknowledged"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(WITNESS), content).unwrap();
        assert!(refused(dir.path()).contains(WITNESS));
        assert_eq!(count(&SledStore::open_with(dir.path(), Doubts::Accept).unwrap()).await, 0);
    }
}

/// As after a kill, when opening for use repairs the files.
#[tokio::test]
async fn what_is_not_admitted_stays_as_it_is() {
    let (killed, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(killed.path()).await;
    let store = open(killed.path());
    store.commit(vec![Change::Revoke(revocation(token("last"), 1, 1_000_000))]).await.unwrap();
    for entry in fs::read_dir(killed.path()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), other.path().join(entry.file_name())).unwrap();
        }
    }
    let before = contents(other.path());
    let mut seen = None;
    let outcome = SledStore::open_admitted(other.path(), Doubts::Refuse, &mut |kept| {
        seen = Some(kept.clone());
        Err("not admitted".to_owned())
    });
    assert!(matches!(outcome.err().unwrap(), OpenError::NotAdmitted(why) if why == "not admitted"));
    let seen = seen.unwrap();
    assert!(seen.is_populated && !seen.is_new, "{seen:?}");
    assert!(before == contents(other.path()), "the files changed");
    assert_eq!(count(&open(other.path())).await, 401);
}

/// What is done to the witness file.
type Damage = fn(&Path);

#[tokio::test]
async fn a_store_without_its_witness_is_refused_until_the_operator_accepts_it() {
    let damages: [(&str, Damage); 5] = [
        ("is missing", |path| fs::remove_file(path).unwrap()),
        ("is empty", |path| fs::write(path, b"").unwrap()),
        ("instead of 8192", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..4096]).unwrap();
        }),
        ("in both of its copies", |path| fs::write(path, [0; 8192]).unwrap()),
        // What a power loss could leave of the witness of 0.1.0.
        ("instead of 8192", |path| fs::write(path, [0; 34]).unwrap()),
    ];
    for (why, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        damage(&dir.path().join(WITNESS));
        let told = refused(dir.path());
        for part in [why, "`palisade.acknowledged`", "--accept-store-as-it-is", "token revoke --before now"] {
            assert!(told.contains(part), "{part:?} is not in {told}");
        }
        let store = SledStore::open_with(dir.path(), Doubts::Accept).unwrap();
        assert_eq!(count(&store).await, 400);
        store.close();
        // Said once: there is a witness again.
        let store = open(dir.path());
        assert_eq!(count(&store).await, 400);
        store.close();
    }
}

/// What cost 40 of 40 revocations: a database that ends early, and no witness that says so.
#[tokio::test]
async fn a_cut_database_is_refused_with_and_without_its_witness() {
    for witnessed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        let db = dir.path().join("db");
        let bytes = fs::read(&db).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        fs::write(&db, &bytes[..used * 3 / 10]).unwrap();
        if !witnessed {
            fs::write(dir.path().join(WITNESS), b"").unwrap();
        }
        let told = refused(dir.path());
        assert!(told.contains("`db`"), "{told}");
        // An operator who accepts it gets what is left, and a store that goes on from there.
        let store = SledStore::open_with(dir.path(), Doubts::Accept).unwrap();
        let left = count(&store).await;
        assert!(left < 400, "{left}");
        store.revoke(revocation(token("later"), 1, 100_000)).await.unwrap();
        store.close();
        let store = open(dir.path());
        assert_eq!(count(&store).await, left + 1);
        store.close();
    }
}

/// The engine passes over damage in the middle of its log and goes on behind it: the number of the last commit is
/// there, and what lay in the damaged segment is not.
#[tokio::test]
async fn damage_in_an_early_segment_is_refused_although_the_end_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let long = "x".repeat(900);
    for batch in 0..40 {
        let revoke = |n| Change::Revoke(revocation(token(&format!("{batch}-{n}-{long}")), 1, 100_000));
        store.commit((0..50).map(revoke).collect()).await.unwrap();
    }
    assert_eq!(count(&store).await, 2000);
    store.close();
    let db = dir.path().join("db");
    let good = fs::read(&db).unwrap();
    assert!(good.len() > 3 << 19, "several segments of 512 KiB are needed, in {} bytes", good.len());
    let mut damaged = 0;
    // Not the end: that is cut off and shows as too few changes.
    for at in (0x1_0000..good.len() - 0x8_0000).step_by(good.len() / 16) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        fs::write(&db, bytes).unwrap();
        match SledStore::open(dir.path()) {
            // What lay there was written again later.
            Ok(store) => {
                assert_eq!(count(&store).await, 2000, "{at:#x}");
                store.close();
            }
            Err(error) => {
                damaged += 1;
                assert!(error.to_string().contains("`db`"), "{error}");
            }
        }
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
                fs::remove_file(path).unwrap();
            }
        }
    }
    assert!(damaged > 0);
    fs::write(&db, good).unwrap();
    assert_eq!(count(&open(dir.path())).await, 2000);
}

#[tokio::test]
async fn a_new_store_has_its_witness_before_its_first_commit() {
    let dir = tempfile::tempdir().unwrap();
    // A start that commits nothing leaves an empty store, which needs none.
    open(dir.path()).close();
    assert!(!dir.path().join(WITNESS).exists());
    let store = open(dir.path());
    store.revoke(revocation(token("t"), 1, 500)).await.unwrap();
    assert_eq!(fs::metadata(dir.path().join(WITNESS)).unwrap().len(), 8192);
    assert_eq!(store.sweep(UnixTime(1)).await.unwrap().revocations, 0);
}

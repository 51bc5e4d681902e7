//! Compaction: what lives is all that is left, nothing acknowledged is lost, and what was erased is in no file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palisade::edge::store::{OpenError, SledStore};
use palisade_core::ports::{Change, Store};

use super::{filled, open};
use palisade_testing::conformance::{all, connection, link, mail, revocation, session, task, token, user};

/// Every file below.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The generations in folders of their own, and which of them are complete.
pub fn generations(dir: &Path) -> Vec<(u64, bool)> {
    let number = |name: String| name.strip_prefix("store.")?.parse::<u64>().ok();
    let complete = |n: u64| dir.join(format!("store.{n}/complete")).exists();
    names(dir).into_iter().filter_map(number).map(|n| (n, complete(n))).collect()
}

/// The files in which `text` can be read.
fn holding(dir: &Path, text: &str) -> Vec<PathBuf> {
    let holds =
        |path: &PathBuf| fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes());
    files(dir).into_iter().filter(holds).collect()
}

#[tokio::test]
async fn a_compacted_store_is_the_same_in_fresh_files() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let store = open(dir.path());
    store.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
    let before = all(&*store, 0).await;
    for generation in ["store.1", "store.2"] {
        let done = store.compact().await.unwrap();
        assert!(done.live > 0 && done.after > done.live, "{done:?}");
        assert_eq!(all(&*store, 0).await, before);
        store.verify().await.unwrap();
        // The program before this layout finds no `db`, and a witness of commits: it refuses.
        assert_eq!(names(dir.path()), ["palisade.acknowledged", "palisade.lock", generation]);
        store.revoke(revocation(token("7"), 7, 100_000)).await.unwrap();
    }
    assert_eq!(store.status().compactions.done, 2);
    store.close();
    let store = open(dir.path());
    assert_eq!(all(&*store, 0).await, before);
    store.verify().await.unwrap();
    assert!(store.user(user(1, "ann@example.com").id).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_go_on_while_the_store_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (stop, ended) = tokio::sync::watch::channel(false);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8u64 {
        let (store, ended) = (Arc::clone(&store), ended.clone());
        callers.spawn(async move {
            let mut n = 0;
            while !*ended.borrow() {
                store.revoke(revocation(token(&format!("{caller}-{n}")), n, 100_000)).await.unwrap();
                n += 1;
            }
            n
        });
    }
    for _ in 0..3 {
        store.compact().await.unwrap();
    }
    stop.send(true).unwrap();
    let mut acknowledged = 0;
    while let Some(made) = callers.join_next().await {
        acknowledged += usize::try_from(made.unwrap()).unwrap();
    }
    assert!(acknowledged > 0);
    assert_eq!(store.len().await.unwrap(), acknowledged);
    store.verify().await.unwrap();
    store.close();
    let store = open(dir.path());
    assert_eq!(store.len().await.unwrap(), acknowledged);
}

/// What another run left: of a compaction that was killed, and of one that had no time to remove what it replaced.
#[tokio::test]
async fn leftovers_of_a_compaction_go_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let copied = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    for name in ["db", "conf"] {
        fs::copy(dir.path().join(name), copied.path().join(name)).unwrap();
    }
    let store = open(dir.path());
    store.compact().await.unwrap();
    store.close();
    for name in ["db", "conf"] {
        fs::copy(copied.path().join(name), dir.path().join(name)).unwrap();
    }
    fs::create_dir(dir.path().join("store.2")).unwrap();
    fs::write(dir.path().join("store.2/db"), b"half").unwrap();
    let store = open(dir.path());
    assert_eq!(store.len().await.unwrap(), 400);
    assert_eq!(names(dir.path()), ["palisade.acknowledged", "palisade.lock", "store.1"]);
}

#[tokio::test]
async fn a_damaged_generation_is_refused_by_the_name_of_its_file() {
    for (file, damage) in [("complete", None), ("db", None), ("db", Some(3)), ("db", Some(100))] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        let store = open(dir.path());
        store.compact().await.unwrap();
        store.close();
        let path = dir.path().join("store.1").join(file);
        match damage {
            None => fs::remove_file(&path).unwrap(),
            Some(percent) => {
                let mut bytes = fs::read(&path).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
                match percent {
                    100 => bytes[..used].fill(0xa5),
                    percent => bytes.truncate(used * percent / 100),
                }
                fs::write(&path, bytes).unwrap();
            }
        }
        let Err(error) = SledStore::open(dir.path()) else { panic!("it opened with {file} damaged") };
        assert!(matches!(error, OpenError::Corrupt { .. } | OpenError::Doubtful { .. }), "{error}");
        assert!(error.to_string().contains(&format!("`store.1/{file}`")), "{error}");
        assert!(names(dir.path()).contains(&"store.1".to_owned()));
    }
}

const ADDRESS: &str = "erased.person@example.com";
const SEALED: &str = "pv1.key.envelope-of-the-person-who-was-erased";

/// An account with every kind of record, which is then removed.
async fn an_account_comes_and_goes(store: &SledStore) {
    let ann = user(1, ADDRESS);
    let mut granted = connection(1, 1, Some(9));
    granted.tokens.as_mut().unwrap().access_token = SEALED.into();
    let made = vec![
        Change::CreateUser(ann.clone()),
        Change::CreateSession(session(1, 1, 9_000_000)),
        Change::CreateConnection(granted),
        Change::CreateLink(link(1, 9_000_000)),
        Change::PutMail(mail(1, ADDRESS, 1)),
        Change::CreateTask(task(1, 1)),
    ];
    store.commit(made).await.unwrap();
    store
        .commit(vec![Change::RemoveMail(mail(1, ADDRESS, 1).id), Change::FinishTask(task(1, 1).id)])
        .await
        .unwrap();
    store
        .commit(vec![Change::ConsumeLink(link(1, 9_000_000).hash), Change::DeleteUser(ann.id)])
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_erased_is_in_no_file_after_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let store = open(dir.path());
    an_account_comes_and_goes(&store).await;
    for text in [ADDRESS, SEALED] {
        assert!(!holding(dir.path(), text).is_empty(), "the test sees nothing");
    }
    store.compact().await.unwrap();
    for text in [ADDRESS, SEALED] {
        assert_eq!(holding(dir.path(), text), Vec::<PathBuf>::new(), "{text}");
    }
    assert_eq!(store.len().await.unwrap(), 400);
}

/// The store remembers over a restart that something is to be erased, and does it by itself soon after.
#[tokio::test]
async fn what_was_erased_before_a_restart_goes_soon_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    an_account_comes_and_goes(&store).await;
    store.close();
    let store = open(dir.path());
    let mut compactions = store.compactions();
    let compacted = compactions.wait_for(|counts| counts.done > 0);
    let compacted = tokio::time::timeout(Duration::from_secs(60), compacted).await;
    compacted.expect("it was not compacted").unwrap();
    for text in [ADDRESS, SEALED] {
        assert_eq!(holding(dir.path(), text), Vec::<PathBuf>::new(), "{text}");
    }
    store.close();
    let store = open(dir.path());
    store.verify().await.unwrap();
}

//! The sled store against the conformance suite, a kill at any moment, damage, and a second process;
//! and the revocation cache in front of it.

#[path = "store/conformance.rs"]
mod conformance;

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use conformance::{all, revocation, token};
use palisade::domain::identity::Identity;
use palisade::domain::revocation::Target;
use palisade::domain::time::UnixTime;
use palisade::edge::store::{OpenError, RevocationCache, RevokingStore, SledStore};
use palisade::ports::{Revocations, Store};

const CRASH_CHILD: &str = "PALISADE_CRASH_CHILD";

#[tokio::test]
async fn sled_conforms() {
    conformance::suite(|dir| SledStore::open(dir).unwrap()).await;
}

#[tokio::test]
async fn a_decorated_store_conforms() {
    conformance::suite(|dir| {
        let store = SledStore::open(dir).unwrap();
        Arc::new(RevokingStore::new(store, Arc::new(RevocationCache::new()), Box::new(|| ())))
    })
    .await;
}

/// The child of the crash suite: revokes and raises until it is killed, and says what was acknowledged.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(CRASH_CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(&dir).unwrap();
        let run = store.len().await.unwrap();
        let tasks: Vec<_> = (0..24)
            .map(|task| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for n in 0.. {
                        let line = if n % 5 == 4 {
                            let sub = format!("sub-{task}");
                            let made = store
                                .raise_version("i", &sub, UnixTime(1), UnixTime(9_000_000), None)
                                .await
                                .unwrap();
                            format!("ACK version {sub} {}", made.target.limit())
                        } else {
                            let jti = format!("{run}-{task}-{n}");
                            let made = revocation(token(&jti), n, 9_000_000);
                            store.revoke(made).await.unwrap();
                            format!("ACK token {jti} 0")
                        };
                        // Written at once: what the parent reads was acknowledged before it.
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "{line}").unwrap();
                        out.flush().unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut tokens, mut versions) = (Vec::new(), HashMap::<String, u64>::new());
    for round in 0..20u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash_child", "--exact", "--nocapture"])
            .env(CRASH_CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let enough = RandomState::new().hash_one(round) % 600;
        let mut seen = 0;
        // Reads on to the end of the pipe after the kill: those were acknowledged too.
        for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut words = line.split(' ').skip_while(|w| *w != "ACK").skip(1);
            let (Some(what), Some(name), Some(number)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if what == "version" {
                let version = versions.entry(name.to_owned()).or_default();
                *version = (*version).max(number.parse().unwrap());
            } else {
                tokens.push(name.to_owned());
            }
            seen += 1;
            if seen == enough.max(1) {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen > 0, "round {round}: the child acknowledged nothing");

        let store = SledStore::open(dir.path()).unwrap();
        for jti in &tokens {
            assert!(store.revocation(&token(jti)).await.unwrap().is_some(), "round {round}: {jti} is lost");
        }
        for (sub, version) in &versions {
            let standing = store.version("i", sub).await.unwrap();
            assert!(standing >= *version, "round {round}: {sub} fell from {version} to {standing}");
            let target = Target::SubjectVersion { issuer: "i".into(), sub: sub.clone(), below: 0 };
            let limit = store.revocation(&target).await.unwrap().unwrap().target.limit();
            assert_eq!(limit, standing, "round {round}: version and revocation of {sub} are one step");
        }
    }
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
    SledStore::open(dir.path()).unwrap();
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

async fn refuses_and_leaves_alone(damage: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    damage(dir.path());
    let before = contents(dir.path());
    let Err(error) = SledStore::open(dir.path()) else { panic!("a damaged store opened") };
    let text = error.to_string();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{text}");
    assert!(text.contains("backup") && text.contains(&dir.path().display().to_string()), "{text}");
    assert!(!text.contains("rehearsal"), "{text}");
    assert!(before == contents(dir.path()), "the files changed: {text}");
}

fn garbage(path: &Path) {
    let len = fs::metadata(path).unwrap().len() as usize;
    fs::write(path, b"garbage ".iter().copied().cycle().take(len).collect::<Vec<_>>()).unwrap();
}

#[tokio::test]
async fn garbage_in_db_is_refused() {
    refuses_and_leaves_alone(|dir| garbage(&dir.join("db"))).await;
}

#[tokio::test]
async fn garbage_in_conf_is_refused() {
    refuses_and_leaves_alone(|dir| garbage(&dir.join("conf"))).await;
}

#[tokio::test]
async fn an_emptied_db_is_refused() {
    refuses_and_leaves_alone(|dir| fs::write(dir.join("db"), b"").unwrap()).await;
}

#[tokio::test]
async fn a_missing_db_is_refused() {
    refuses_and_leaves_alone(|dir| fs::remove_file(dir.join("db")).unwrap()).await;
}

#[tokio::test]
async fn damage_in_the_middle_of_db_is_refused() {
    refuses_and_leaves_alone(|dir| {
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
    let cache = RevocationCache::new();
    assert_eq!(cache.sequence(), None);
    cache.load(&*store, UnixTime(100)).await.unwrap();
    assert!(cache.sequence().unwrap() >= 1);
    assert_eq!(cache.len(), 1);
    assert!(cache.is_revoked(&ann("t1")));
    assert!(!cache.is_revoked(&ann("t2")));
}

#[tokio::test]
async fn a_revocation_is_durable_then_cached_then_told() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(RevocationCache::new());
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
    let store = RevokingStore::new(inner.clone(), Arc::clone(&cache), Box::new(told));
    cache.load(&store, UnixTime(100)).await.unwrap();
    let first = cache.sequence().unwrap();
    assert!(!cache.is_revoked(&ann("t1")));

    store.revoke(revocation(token("t1"), 1, 500)).await.unwrap();
    assert_eq!(all(&*inner, 0).await.len(), 1);
    assert_eq!(cache.sequence(), Some(first + 1));
    assert_eq!(calls.load(Ordering::SeqCst), 1);

    let issuer = "https://id.test";
    store.raise_version(issuer, "ann", UnixTime(1), UnixTime(500), None).await.unwrap();
    assert!(!cache.is_revoked(&ann("t2")), "version 1 is not below 1");
    store.raise_version(issuer, "ann", UnixTime(1), UnixTime(500), None).await.unwrap();
    assert!(cache.is_revoked(&ann("t2")));
    assert_eq!(cache.sequence(), Some(first + 3));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_clock_an_hour_off_resurrects_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let inner = SledStore::open(dir.path()).unwrap();
    let cache = Arc::new(RevocationCache::new());
    let store = RevokingStore::new(inner.clone(), Arc::clone(&cache), Box::new(|| ()));
    cache.load(&store, UnixTime(0)).await.unwrap();
    store.revoke(revocation(token("t1"), 1, 10_000)).await.unwrap();

    // The clock runs an hour ahead just before the entry's end.
    let ahead = UnixTime(10_000 + 3600);
    assert_eq!(store.sweep(ahead).await.unwrap().revocations, 0);
    assert!(cache.is_revoked(&ann("t1")));
    let restarted = RevocationCache::new();
    restarted.load(&*inner, ahead).await.unwrap();
    assert!(restarted.is_revoked(&ann("t1")), "a start with the wrong clock loads it too");

    assert_eq!(store.sweep(UnixTime(10_000 + 3601)).await.unwrap().revocations, 1);
    assert_eq!(cache.len(), 0);
    assert_eq!(all(&*inner, 0).await.len(), 0);
}

#[tokio::test]
async fn the_cache_merges_in_any_order() {
    let cache = RevocationCache::new();
    let until =
        |t| Target::SubjectIssued { issuer: "https://id.test".into(), sub: "ann".into(), until: UnixTime(t) };
    cache.apply(&revocation(until(60), 1, 200));
    cache.apply(&revocation(until(10), 1, 100));
    assert_eq!(cache.len(), 1);
    assert!(cache.is_revoked(&ann("t")));
    cache.sweep(UnixTime(150 + 3600));
    assert!(cache.is_revoked(&ann("t")), "the later end stays");
}

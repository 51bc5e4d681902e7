//! The sled store against the conformance suite, a kill at any moment, damage, and a second process;
//! and the revocation cache in front of it.

mod compaction;
mod damages;
mod opening;
mod truth;
mod upgrade;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use palisade::edge::store::{OpenError, RevocationCache, RevokingStore, SledStore};
use palisade_core::domain::connection::Connection;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::revocation::Target;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, CommitError, Revocations, Store};
use palisade_testing::conformance::{self, all, connection, link, mail, revocation, session, token, user};

/// The folder that the child of the crash suite works in, and the number of its run.
const CRASH_CHILD: &str = "PALISADE_CRASH_CHILD";
const CRASH_RUN: &str = "PALISADE_CRASH_RUN";
/// Set where the child also compacts the store, one time after another.
const CRASH_COMPACTS: &str = "PALISADE_CRASH_COMPACTS";
/// How many kills, where it is not the few of an ordinary run: `make soak` sets it.
const KILLS: &str = "PALISADE_KILLS";

/// The store, as soon as its lock is free: a child that another test is just starting has a copy of every file
/// that is open here, locks and all, until it has become the program that it shall be.
fn open(dir: &Path) -> Arc<SledStore> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match SledStore::open(dir) {
            Err(OpenError::Locked { .. }) if Instant::now() < end => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn sled_conforms() {
    conformance::suite(|dir| open(dir)).await;
}

#[tokio::test]
async fn a_decorated_store_conforms() {
    conformance::suite(|dir| {
        let store = open(dir);
        Arc::new(RevokingStore::new(store, Arc::new(RevocationCache::new()), Box::new(|| ())))
    })
    .await;
}

/// One line of the crash suite's child: what was acknowledged. Written at once, so that whatever the parent
/// reads was acknowledged before it.
fn acknowledged(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ACK {line}").unwrap();
    out.flush().unwrap();
}

/// The child of the crash suite: works at the store until it is killed, and says what was acknowledged.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(CRASH_CHILD) else { return };
    let run: u128 = std::env::var(CRASH_RUN).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(&dir).unwrap();
        for id in 1..=3 {
            let fresh = session(id, id, 9_000_000);
            if store.session(fresh.user, fresh.id).await.unwrap().is_none() {
                store.commit(vec![Change::CreateSession(fresh)]).await.unwrap();
            }
            let fresh = connection(SHARED, id, Some(0));
            if store.connection(fresh.user, fresh.id).await.unwrap().is_none() {
                store.commit(vec![Change::CreateConnection(fresh)]).await.unwrap();
            }
        }
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8u128 {
            tasks.spawn(revokes(Arc::clone(&store), run, task));
            tasks.spawn(rotates(Arc::clone(&store), 1 + task % 3));
            tasks.spawn(registers(Arc::clone(&store), run, task));
            tasks.spawn(connects(Arc::clone(&store), run, task));
            tasks.spawn(refreshes(Arc::clone(&store), 1 + task % 3));
        }
        if std::env::var_os(CRASH_COMPACTS).is_some() {
            tasks.spawn(compacts(store));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
}

async fn revokes(store: Arc<SledStore>, run: u128, task: u128) {
    for n in 0.. {
        if n % 5 == 4 {
            let sub = format!("sub-{task}");
            let made = store.raise_version("i", &sub, UnixTime(1), UnixTime(9_000_000), None).await.unwrap();
            acknowledged(format_args!("version {sub} {}", made.target.limit()));
        } else {
            let jti = format!("{run}-{task}-{n}");
            store.revoke(revocation(token(&jti), n, 9_000_000)).await.unwrap();
            acknowledged(format_args!("token {jti} 0"));
        }
    }
}

/// There is always a compaction going on. Its own failures are no matter here, except that there are none.
async fn compacts(store: Arc<SledStore>) {
    loop {
        store.compact().await.unwrap();
    }
}

/// Several of these rotate one session, as tabs of a browser do.
async fn rotates(store: Arc<SledStore>, id: u128) {
    let of = session(id, id, 9_000_000);
    loop {
        let mut next = store.session(of.user, of.id).await.unwrap().unwrap();
        // Moves together with the revision, or a rotation was half there.
        next.generation += 1;
        let revision = next.revision + 1;
        match store.commit(vec![Change::UpdateSession(next)]).await {
            Ok(_) => acknowledged(format_args!("session {id} {revision}")),
            // Another was faster.
            Err(CommitError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The user whose connections are refreshed by all.
const SHARED: u128 = 1;

/// Several of these refresh one connection. When it is due, and how often that failed, moves together with the
/// revision, or a refresh was half there.
async fn refreshes(store: Arc<SledStore>, id: u128) {
    let of = connection(SHARED, id, None);
    loop {
        let mut next = store.connection(of.user, of.id).await.unwrap().unwrap();
        let revision = next.revision + 1;
        next.failures = u32::try_from(revision).unwrap();
        next.due_at = (revision % 3 != 0).then_some(UnixTime(revision));
        match store.commit(vec![Change::UpdateConnection(next)]).await {
            Ok(_) => acknowledged(format_args!("refreshed {id} {revision}")),
            // Another was faster.
            Err(CommitError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Connections come; every third goes again.
async fn connects(store: Arc<SledStore>, run: u128, task: u128) {
    for n in 0u128.. {
        // Never one of the shared ones.
        let id = ((run + 1) << 64) + (task << 48) + n + 1;
        let made = connection(2 + task, id, Some(1_000_000));
        let (user, key) = (made.user, made.id);
        store.commit(vec![Change::CreateConnection(made)]).await.unwrap();
        acknowledged(format_args!("connected {id} 0"));
        if n % 3 == 0 {
            store.commit(vec![Change::RemoveConnection(user, key)]).await.unwrap();
            acknowledged(format_args!("disconnected {id} 0"));
        }
    }
}

/// An account with its link, its mail and its task, in one commit; then the task is done in the next.
async fn registers(store: Arc<SledStore>, run: u128, task: u128) {
    for n in 0u128.. {
        let id = (run << 64) + (task << 48) + n + 1;
        store.commit(registration(id)).await.unwrap();
        acknowledged(format_args!("user {id} 0"));
        if n % 3 == 0 {
            store.commit(vec![Change::FinishTask(conformance::task(id, 1)), removal(id)]).await.unwrap();
            acknowledged(format_args!("done {id} 0"));
        }
    }
}

fn address(id: u128) -> String {
    format!("u{id}@example.com")
}

fn registration(id: u128) -> Vec<Change> {
    vec![
        Change::CreateUser(user(id, &address(id))),
        Change::CreateLink(link(id, 9_000_000)),
        Change::PutMail(mail(id, &address(id), 1)),
        Change::CreateTask(conformance::task(id, 1)),
    ]
}

fn removal(id: u128) -> Change {
    Change::RemoveMail(mail(id, &address(id), 1))
}

/// What the children of the crash suite were promised.
#[derive(Default)]
struct Promised {
    tokens: Vec<String>,
    versions: HashMap<String, u64>,
    sessions: HashMap<u128, u64>,
    users: HashSet<u128>,
    done: HashSet<u128>,
    refreshed: HashMap<u128, u64>,
    connected: HashSet<u128>,
    disconnected: HashSet<u128>,
}

impl Promised {
    /// Whether the line told of something.
    fn learn(&mut self, line: &str) -> bool {
        let mut words = line.split(' ').skip_while(|word| *word != "ACK").skip(1);
        let (Some(what), Some(name), Some(number)) = (words.next(), words.next(), words.next()) else {
            return false;
        };
        let Ok(number) = number.parse::<u64>() else { return false };
        match what {
            "token" => self.tokens.push(name.to_owned()),
            "version" => {
                let version = self.versions.entry(name.to_owned()).or_default();
                *version = number.max(*version);
            }
            "session" => {
                let revision = self.sessions.entry(name.parse().unwrap()).or_default();
                *revision = number.max(*revision);
            }
            "refreshed" => {
                let revision = self.refreshed.entry(name.parse().unwrap()).or_default();
                *revision = number.max(*revision);
            }
            "connected" => drop(self.connected.insert(name.parse().unwrap())),
            "disconnected" => drop(self.disconnected.insert(name.parse().unwrap())),
            "user" => drop(self.users.insert(name.parse().unwrap())),
            _ => drop(self.done.insert(name.parse().unwrap())),
        }
        true
    }

    async fn holds(&self, store: &SledStore) {
        store.verify().await.unwrap();
        for jti in &self.tokens {
            assert!(store.revocation(&token(jti)).await.unwrap().is_some(), "{jti} is lost");
        }
        for (sub, version) in &self.versions {
            let standing = store.version("i", sub).await.unwrap();
            assert!(standing >= *version, "{sub} fell from {version} to {standing}");
            let target = Target::SubjectVersion { issuer: "i".into(), sub: sub.clone(), below: 0 };
            let limit = store.revocation(&target).await.unwrap().unwrap().target.limit();
            assert_eq!(limit, standing, "version and revocation of {sub} are one step");
        }
        for (id, revision) in &self.sessions {
            let fresh = session(*id, *id, 0);
            let stored = store.session(fresh.user, fresh.id).await.unwrap().unwrap();
            assert!(stored.revision >= *revision, "session {id} fell from {revision} to {}", stored.revision);
            assert_eq!(u64::from(stored.generation), stored.revision, "a rotation is half there");
        }
        let number = |id: uuid::Uuid| id.as_u128();
        self.holds_connections(store).await;
        let users: HashSet<_> =
            store.users(None, usize::MAX).await.unwrap().iter().map(|user| number(user.id.0)).collect();
        let mails: HashSet<_> = store
            .due_mails(UnixTime(1), usize::MAX)
            .await
            .unwrap()
            .iter()
            .map(|mail| number(mail.id))
            .collect();
        let tasks: HashSet<_> = store
            .due_tasks(UnixTime(1), usize::MAX)
            .await
            .unwrap()
            .iter()
            .map(|task| number(task.id))
            .collect();
        assert!(self.users.is_subset(&users), "{:?} are lost", self.users.difference(&users));
        assert_eq!(mails, tasks, "a mail and its task come and go together");
        assert!(mails.is_subset(&users) && mails.is_disjoint(&self.done), "what was done is not to do");
        for id in &users {
            let found = store.user_by_email(&address(*id).parse().unwrap()).await.unwrap();
            assert_eq!(found.map(|user| number(user.id.0)), Some(*id));
            let link = link(*id, 0).hash;
            assert!(store.link(&link).await.unwrap().is_some(), "{id} has no link");
            // The third of them waits for nothing; the others wait for ever.
            let finished = id & 0xffff_ffff;
            assert!(mails.contains(id) || (finished - 1).is_multiple_of(3), "{id} has no mail");
        }
    }

    async fn holds_connections(&self, store: &SledStore) {
        let kept = store.all_connections(None, usize::MAX).await.unwrap();
        let due = store.due_connections(UnixTime::NEVER, usize::MAX).await.unwrap();
        let ids = |list: &[Connection]| list.iter().map(|one| one.id.0.as_u128()).collect::<HashSet<_>>();
        let waiting: Vec<_> = kept.iter().filter(|one| one.due_at.is_some()).cloned().collect();
        assert_eq!(ids(&waiting), ids(&due), "a connection and when it is due are one step");
        for (id, revision) in &self.refreshed {
            let of = connection(SHARED, *id, None);
            let stored = store.connection(of.user, of.id).await.unwrap().unwrap();
            assert!(stored.revision >= *revision, "{id} fell from {revision} to {}", stored.revision);
            assert_eq!(u64::from(stored.failures), stored.revision, "a refresh is half there");
        }
        let kept = ids(&kept);
        for id in &self.connected {
            // The third of them go again; that the last of those was acknowledged nobody may have heard.
            let passing = ((id & 0xffff_ffff) - 1).is_multiple_of(3);
            assert!(kept.contains(id) || passing, "the connection {id} is lost");
        }
        let back: Vec<_> = kept.intersection(&self.disconnected).collect();
        assert!(back.is_empty(), "{back:?} were ended and came back");
    }
}

fn kills() -> u64 {
    std::env::var(KILLS).map_or(20, |kills| kills.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_kill() {
    killed(kills(), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_kill_within_a_compaction() {
    let (within, replaced) = killed(kills(), &[(CRASH_COMPACTS, "1")]).await;
    assert!(within > 0, "no kill was within a compaction");
    println!("{within} kills were within a copy, and {replaced} compactions were finished");
}

/// Kills a child again and again while it works at the store, and looks whether everything is there. Returns how
/// many kills left the files of a compaction that was not finished, and how often one was.
async fn killed(rounds: u64, environment: &[(&str, &str)]) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut promised = Promised::default();
    let (mut within, mut generation) = (0, 0);
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::crash_child", "--exact", "--nocapture"])
            .env(CRASH_CHILD, dir.path())
            .env(CRASH_RUN, round.to_string())
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let enough = (RandomState::new().hash_one(round) % 600).max(1);
        let mut seen = 0;
        // Reads on to the end of the pipe after the kill: those were acknowledged too.
        for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n').map_while(Result::ok) {
            seen += u64::from(promised.learn(&String::from_utf8_lossy(&line)));
            if seen == enough {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= enough, "round {round}: the child ended by itself after {seen}");
        let left = compaction::generations(dir.path());
        within += u64::from(left.iter().any(|(_, complete)| !complete));
        generation =
            left.iter().filter(|(_, complete)| *complete).map(|(n, _)| *n).max().unwrap_or(generation);
        promised.holds(&open(dir.path())).await;
    }
    let Promised { tokens, versions, sessions, users, done, refreshed, connected, disconnected } = promised;
    let seen = [
        tokens.len(),
        versions.len(),
        sessions.len(),
        users.len(),
        done.len(),
        refreshed.len(),
        connected.len(),
        disconnected.len(),
    ];
    assert!(!seen.contains(&0), "a part of the suite did nothing: {seen:?}");
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

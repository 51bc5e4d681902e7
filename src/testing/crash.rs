//! What every durable store must do when its process is killed at any moment: all that was acknowledged is there, and
//! what was committed together is there together. A backend passes by running [`killed`].

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use palisade_core::domain::connection::Connection;
use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::revocation::Target;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, CommitError, Position, Precondition, Store};
use uuid::Uuid;

use crate::conformance::{
    connection, due_tasks, link, mail, revocation, session, task as task_of, token, user,
};

/// The place of the store that the child works at, such as a folder.
pub const CHILD: &str = "PALISADE_CRASH_CHILD";
/// The number of the child's run.
const RUN: &str = "PALISADE_CRASH_RUN";
/// Set where the child also compacts the store, one time after another.
const COMPACTS: &str = "PALISADE_CRASH_COMPACTS";

/// One line of the child: what was acknowledged. Written at once, so that whatever the parent
/// reads was acknowledged before it.
fn acknowledged(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ACK {line}").unwrap();
    out.flush().unwrap();
}

/// What the child does: works at the store until it is killed, and says what was acknowledged.
pub async fn work(store: Arc<dyn Store>) {
    let run: u128 = std::env::var(RUN).unwrap().parse().unwrap();
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
    tasks.spawn(leases(Arc::clone(&store), run));
    if std::env::var_os(COMPACTS).is_some() {
        tasks.spawn(compacts(store));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

async fn revokes(store: Arc<dyn Store>, run: u128, task: u128) {
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

/// Longer than the suite runs: what frees such a lease is the end of the process.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// One lease is never released; others come and go.
async fn leases(store: Arc<dyn Store>, run: u128) {
    let holder = LeaseHolder(Uuid::from_u128(run));
    let kept = store.claim(LeaseSubject::Notices, holder, LONG).await.unwrap();
    acknowledged(format_args!("lease {} 0", kept.expect("the run before has it").fence));
    for n in 0u128.. {
        let subject = LeaseSubject::Mail(Uuid::from_u128((run << 64) + n));
        let lease = store.claim(subject, holder, LONG).await.unwrap().unwrap();
        acknowledged(format_args!("lease {} 0", lease.fence));
        // It writes, so that leases are acknowledged no faster than commits.
        let jti = format!("lease-{run}-{n}");
        let made = Change::Revoke(revocation(token(&jti), 1, 9_000_000));
        store.commit(vec![Change::Require(Precondition::LeaseStands(lease)), made]).await.unwrap();
        store.release(lease).await.unwrap();
    }
}

/// There is always a compaction going on. Its own failures are no matter here, except that there are none.
async fn compacts(store: Arc<dyn Store>) {
    loop {
        store.compact().await.unwrap();
    }
}

/// Several of these rotate one session, as tabs of a browser do.
async fn rotates(store: Arc<dyn Store>, id: u128) {
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

/// The user of the connections that all refresh.
const SHARED: u128 = 1;

/// Several of these refresh one connection. When it is due, and how often that failed, moves together with the
/// revision, or a refresh was half there.
async fn refreshes(store: Arc<dyn Store>, id: u128) {
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
async fn connects(store: Arc<dyn Store>, run: u128, task: u128) {
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
async fn registers(store: Arc<dyn Store>, run: u128, task: u128) {
    for n in 0u128.. {
        let id = (run << 64) + (task << 48) + n + 1;
        let at = store.commit(registration(id)).await.unwrap().position;
        acknowledged(format_args!("user {id} 0"));
        acknowledged(format_args!("position {} 0", u128::from_be_bytes(at.to_bytes())));
        if n % 3 == 0 {
            store.commit(vec![Change::FinishTask(task_of(id, 1).id), removal(id)]).await.unwrap();
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
        Change::CreateTask(task_of(id, 1)),
    ]
}

fn removal(id: u128) -> Change {
    Change::RemoveMail(mail(id, &address(id), 1).id)
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
    position: Option<Position>,
    fence: u64,
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
            "position" => {
                let at = Position::from_bytes(name.parse::<u128>().unwrap().to_be_bytes());
                self.position = self.position.max(Some(at));
            }
            "lease" => {
                let fence = name.parse().unwrap();
                assert!(fence > self.fence, "the fence {fence} came after {}", self.fence);
                self.fence = fence;
            }
            "user" => drop(self.users.insert(name.parse().unwrap())),
            _ => drop(self.done.insert(name.parse().unwrap())),
        }
        true
    }

    async fn holds(&self, store: &dyn Store) {
        let other = LeaseHolder(Uuid::from_u128(u128::MAX));
        let free = store.claim(LeaseSubject::Notices, other, LONG).await.unwrap();
        let free = free.expect("a process that was killed still has a lease");
        assert!(free.fence > self.fence, "the fence {} came again as {}", self.fence, free.fence);
        assert!(self.position <= Some(store.position()), "the position of an acknowledged commit fell back");
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
        let tasks: HashSet<_> = due_tasks(store, UnixTime(1), usize::MAX)
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
            let found = store.user_by_username(&format!("user-{id}").parse().unwrap()).await.unwrap();
            assert_eq!(
                found.map(|user| number(user.id.0)),
                Some(*id),
                "an account and its user name are one step"
            );
            let link = link(*id, 0).hash;
            assert!(store.link(&link).await.unwrap().is_some(), "{id} has no link");
            // The third of them waits for nothing; the others wait for ever.
            let finished = id & 0xffff_ffff;
            assert!(mails.contains(id) || (finished - 1).is_multiple_of(3), "{id} has no mail");
        }
    }

    async fn holds_connections(&self, store: &dyn Store) {
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
            // A third of them is removed again; the acknowledgement of the last removal may be lost.
            let passing = ((id & 0xffff_ffff) - 1).is_multiple_of(3);
            assert!(kept.contains(id) || passing, "the connection {id} is lost");
        }
        let back: Vec<_> = kept.intersection(&self.disconnected).collect();
        assert!(back.is_empty(), "{back:?} were ended and came back");
    }
}

/// Kills a child again and again while it works at a store, and looks whether everything is there. `child` is the
/// name of a test of the same binary, which calls [`work`] with the store at the place [`CHILD`] and does nothing where
/// that is not set. `kill` ends the child, or what the child depends on, so that it ends by itself; `reopen` opens the
/// store again after each of the `rounds`.
pub async fn killed(
    child: &str,
    rounds: u64,
    compacts: bool,
    place: &Path,
    mut kill: impl FnMut(&mut Child),
    mut reopen: impl AsyncFnMut(&Path) -> Arc<dyn Store>,
) {
    let mut promised = Promised::default();
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([child, "--exact", "--nocapture"])
            .env(CHILD, place)
            .env(RUN, round.to_string())
            .envs(compacts.then_some((COMPACTS, "1")))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let enough = (RandomState::new().hash_one(round) % 600).max(1);
        let mut seen = 0;
        // Reads on to the end of the pipe after the kill: those were acknowledged too.
        let out = BufReader::new(child.stdout.take().unwrap());
        for line in out.split(b'\n').map_while(Result::ok) {
            let is_promise = promised.learn(&String::from_utf8_lossy(&line));
            seen += u64::from(is_promise);
            // Once: what comes behind it need not be a promise.
            if is_promise && seen == enough {
                kill(&mut child);
            }
        }
        child.wait().unwrap();
        assert!(seen >= enough, "round {round}: the child ended by itself after {seen}");
        let store = reopen(place).await;
        promised.holds(&*store).await;
    }
    let Promised {
        tokens,
        versions,
        sessions,
        users,
        done,
        refreshed,
        connected,
        disconnected,
        position,
        fence,
    } = promised;
    assert!(position.is_some() && fence > 0);
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
}

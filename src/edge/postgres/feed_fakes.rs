//! A database for the tests of replicas: it keeps what theirs keeps, in memory, and answers as late as it is told, or
//! never.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::feed_calls::{
    ConfirmAnswer, ConfirmCall, EntryStands, FeedCalls, FeedEntry, FeedListener, FeedNews, FeedNotice,
    FeedPlace, RegisterAnswer, RegisterCall, ReplicaRow, ReplicaRows, RevocationPage,
};
use super::signals::FeedClock;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::ports::{FeedSink, StoreError};
use palisade_testing::conformance::{revocation, token};

/// Numbers that look random and are the same in each run.
pub struct Dice(AtomicU64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1))
    }

    /// Below `end`.
    pub fn below(&self, end: u64) -> u64 {
        let mut number = self.0.load(Ordering::Relaxed);
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        self.0.store(number, Ordering::Relaxed);
        (number >> 11) % end.max(1)
    }
}

/// The uptime that a paused runtime tells.
pub fn clock() -> FeedClock {
    let start = Instant::now();
    Arc::new(move || Duration::from_secs(1000) + start.elapsed())
}

/// What is in the database.
#[derive(Clone)]
pub struct Kept {
    installation: Uuid,
    head: FeedPlace,
    feed: Vec<FeedEntry>,
    set: Vec<Revocation>,
    pub timeline: Option<u64>,
    pub lost: Option<String>,
    pub rows: Vec<ReplicaRow>,
}

pub struct FakeDatabase {
    kept: Mutex<Kept>,
    /// Of rows, by their ids: held for the length of a transaction.
    locks: Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>,
    notices: broadcast::Sender<FeedNotice>,
}

/// The revocation of this number.
pub fn numbered(n: u64) -> Revocation {
    revocation(token(&n.to_string()), n, 1 << 40)
}

impl FakeDatabase {
    pub fn new() -> Arc<FakeDatabase> {
        let head = FeedPlace { position: 0, entry: Uuid::now_v7() };
        let installation = Uuid::now_v7();
        let kept = Kept {
            installation,
            head,
            feed: Vec::new(),
            set: Vec::new(),
            timeline: Some(1),
            lost: None,
            rows: Vec::new(),
        };
        let notices = broadcast::Sender::new(1024);
        Arc::new(FakeDatabase { kept: Mutex::new(kept), locks: Mutex::default(), notices })
    }

    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// Commits a revocation whose number is its position, which it returns.
    pub fn commit(&self) -> u64 {
        self.commit_told(|position| vec![numbered(position)])
    }

    /// The same as an import does it: its entry tells that there is something, and not what.
    pub fn import(&self) -> u64 {
        self.commit_told(|_| Vec::new())
    }

    fn commit_told(&self, told: impl FnOnce(u64) -> Vec<Revocation>) -> u64 {
        let mut kept = self.kept();
        let position = kept.head.position + 1;
        kept.head = FeedPlace { position, entry: Uuid::now_v7() };
        let entry = FeedEntry { position, entry: kept.head.entry, revocations: told(position) };
        kept.feed.push(entry);
        kept.set.push(numbered(position));
        drop(kept);
        let _ = self.notices.send(FeedNotice::Entries);
        position
    }

    /// Loses the last commits, as an asynchronous failover does.
    pub fn lose(&self, count: usize) {
        let mut kept = self.kept();
        let left = kept.feed.len() - count;
        kept.rewind(left);
    }

    pub fn head(&self) -> u64 {
        self.kept().head.position
    }

    /// Forgets the entries below a position.
    pub fn prune(&self, below: u64) {
        self.kept().feed.retain(|entry| entry.position >= below);
    }
}

impl Kept {
    /// As it was when it had so many commits.
    pub fn rewind(&mut self, commits: usize) {
        self.feed.truncate(commits);
        self.set.truncate(commits);
        let last = self.feed.last().map(|entry| FeedPlace { position: entry.position, entry: entry.entry });
        self.head = last.unwrap_or(FeedPlace { position: 0, entry: Uuid::now_v7() });
    }

    fn news(&self, place: Option<FeedPlace>) -> FeedNews {
        let since = place.map_or(u64::MAX, |place| place.position);
        let entries = self.feed.iter().filter(|entry| entry.position > since).take(5).cloned();
        FeedNews {
            standing: self.standing(place),
            timeline: self.timeline,
            head: self.head,
            entries: entries.collect(),
        }
    }

    fn members(&self) -> ReplicaRows {
        ReplicaRows { head: self.head.position, replicas: self.rows.clone() }
    }

    fn standing(&self, place: Option<FeedPlace>) -> EntryStands {
        let Some(place) = place else { return EntryStands::Stands };
        let same = |entry: Uuid| if entry == place.entry { EntryStands::Stands } else { EntryStands::Gone };
        if place.position >= self.head.position {
            return if place == self.head { EntryStands::Stands } else { EntryStands::Gone };
        }
        match self.feed.iter().find(|entry| entry.position == place.position) {
            Some(entry) => same(entry.entry),
            None if self.feed.first().is_some_and(|entry| entry.position < place.position) => {
                EntryStands::Gone
            }
            None => EntryStands::Forgotten,
        }
    }
}

/// How the way to the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Nothing comes through, in either direction.
    Cut,
}

/// One member's way to the database.
pub struct Link {
    pub database: Arc<FakeDatabase>,
    pub way: watch::Sender<Way>,
    /// Of calls that write.
    pub writes: watch::Sender<Way>,
    dice: Dice,
    /// What one direction takes at most, in milliseconds.
    late: u64,
    /// Whether notices come.
    hears: bool,
    /// What reads are answered from in place of the database.
    pub old: Mutex<Option<Kept>>,
}

impl Link {
    pub fn new(database: &Arc<FakeDatabase>, seed: u64, late: u64, hears: bool) -> Arc<Link> {
        Arc::new(Link {
            database: Arc::clone(database),
            way: watch::Sender::new(Way::Open),
            writes: watch::Sender::new(Way::Open),
            dice: Dice::new(seed),
            late,
            hears,
            old: Mutex::default(),
        })
    }

    async fn cross(&self) {
        tokio::time::sleep(Duration::from_millis(self.dice.below(self.late + 1))).await;
        let mut way = self.way.subscribe();
        let _ = way.wait_for(|way| *way == Way::Open).await;
    }

    /// A transaction of the row `id`: it reads, and what it writes is seen a while later. The database goes on with
    /// it when the caller has left.
    async fn transact<T: Send + 'static>(
        &self,
        id: Uuid,
        read: impl FnOnce(&Kept) -> T + Send + 'static,
        write: impl FnOnce(&mut Kept) -> bool + Send + 'static,
    ) -> (T, bool) {
        self.cross().await;
        let _ = self.writes.subscribe().wait_for(|way| *way == Way::Open).await;
        let (database, late) = (Arc::clone(&self.database), self.dice.below(self.late + 1));
        let transaction = tokio::spawn(async move {
            let lock = Arc::clone(database.locks.lock().unwrap().entry(id).or_default());
            let _locked = lock.lock().await;
            let answer = read(&database.kept());
            tokio::time::sleep(Duration::from_millis(late)).await;
            let is_written = write(&mut database.kept());
            (answer, is_written)
        });
        let answer = transaction.await.unwrap();
        self.cross().await;
        answer
    }

    async fn look<T>(&self, call: impl FnOnce(&Kept) -> T) -> T {
        self.cross().await;
        let answer = match &*self.old.lock().unwrap() {
            Some(old) => call(old),
            None => call(&self.database.kept()),
        };
        self.cross().await;
        answer
    }
}

#[async_trait]
impl FeedCalls for Link {
    async fn register(&self, asked: &RegisterCall) -> Result<RegisterAnswer, StoreError> {
        let (place, asked) = (asked.place, asked.clone());
        let (id, accepts) = (asked.id, asked.accept);
        let read = move |kept: &Kept| RegisterAnswer {
            installation: kept.installation,
            lost: kept.lost.clone().filter(|_| !accepts),
            news: kept.news(place),
            members: kept.members(),
        };
        let write = move |kept: &mut Kept| {
            kept.lost = kept.lost.take().filter(|_| !asked.accept);
            kept.rows.retain(|row| !asked.former.contains(&row.id));
            kept.rows.push(ReplicaRow {
                id: asked.id,
                name: asked.name,
                program: u32::try_from(asked.program).unwrap(),
                formats: asked.formats,
                position: None,
                confirms: 0,
                lease_ms: asked.lease_ms,
                fail_open: asked.fail_open,
                key_ring: asked.key_ring,
                expired: false,
            });
            true
        };
        Ok(self.transact(id, read, write).await.0)
    }

    async fn confirm(&self, asked: &ConfirmCall) -> Result<Option<ConfirmAnswer>, StoreError> {
        let (place, asked, notices) = (asked.place, asked.clone(), self.database.notices.clone());
        let id = asked.id;
        let read = move |kept: &Kept| ConfirmAnswer { news: kept.news(place), members: kept.members() };
        let write = move |kept: &mut Kept| {
            let stood = kept.standing(place) != EntryStands::Gone;
            if kept.lost.is_some() {
                return false;
            }
            let Some(row) = kept.rows.iter_mut().find(|row| row.id == asked.id && !row.expired) else {
                return false;
            };
            row.confirms += 1;
            row.key_ring = asked.key_ring;
            row.fail_open = asked.fail_open;
            let position = place.map(|place| place.position).or(row.position);
            if stood && position != row.position {
                row.position = position;
                let _ = notices.send(FeedNotice::Confirmed);
            }
            true
        };
        let (confirmed, is_there) = self.transact(id, read, write).await;
        Ok(is_there.then_some(confirmed))
    }

    async fn expire(&self, id: Uuid, confirms: u64) -> Result<bool, StoreError> {
        let write = move |kept: &mut Kept| {
            let is_it = |row: &ReplicaRow| row.id == id && row.confirms == confirms && !row.expired;
            let Some(at) = kept.rows.iter().position(is_it) else { return false };
            if kept.rows[at].fail_open {
                kept.rows[at].expired = true;
            } else {
                kept.rows.remove(at);
            }
            true
        };
        Ok(self.transact(id, |_| (), write).await.1)
    }

    async fn lost(&self, why: &str) -> Result<(), StoreError> {
        let why = why.to_owned();
        let write = move |kept: &mut Kept| {
            kept.lost.get_or_insert(why);
            true
        };
        self.transact(Uuid::nil(), |_| (), write).await;
        Ok(())
    }

    async fn leave(&self, id: Uuid) -> Result<(), StoreError> {
        let write = move |kept: &mut Kept| {
            kept.rows.retain(|row| row.id != id);
            true
        };
        self.transact(id, |_| (), write).await;
        Ok(())
    }

    async fn replicas(&self) -> Result<ReplicaRows, StoreError> {
        Ok(self.look(Kept::members).await)
    }

    async fn news(&self, place: FeedPlace) -> Result<FeedNews, StoreError> {
        Ok(self.look(|kept| kept.news(Some(place))).await)
    }

    async fn revocations(&self, after: Option<Vec<u8>>) -> Result<RevocationPage, StoreError> {
        let from = after.map_or(0, |after| usize::from_be_bytes(after.try_into().unwrap()));
        let page = |kept: &Kept| {
            let revocations: Vec<_> = kept.set.iter().skip(from).take(3).cloned().collect();
            let end = from + revocations.len();
            let next = (end < kept.set.len()).then(|| end.to_be_bytes().to_vec());
            RevocationPage { head: kept.head.position, revocations, next }
        };
        Ok(self.look(page).await)
    }

    async fn prune(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn listen(&self) -> Result<Box<dyn FeedListener>, StoreError> {
        self.cross().await;
        let notices = self.database.notices.subscribe();
        Ok(Box::new(FakeListener { notices, way: self.way.subscribe(), hears: self.hears, asked: None }))
    }
}

struct FakeListener {
    notices: broadcast::Receiver<FeedNotice>,
    way: watch::Receiver<Way>,
    hears: bool,
    asked: Option<u64>,
}

#[async_trait]
impl FeedListener for FakeListener {
    async fn ask(&mut self, number: u64) -> Result<(), StoreError> {
        self.asked = Some(number);
        Ok(())
    }

    async fn next(&mut self) -> Result<FeedNotice, StoreError> {
        if !self.hears {
            std::future::pending::<()>().await;
        }
        let _ = self.way.wait_for(|way| *way == Way::Open).await;
        if let Some(number) = self.asked.take() {
            return Ok(FeedNotice::Echo(number));
        }
        Ok(self.notices.recv().await.unwrap_or(FeedNotice::Entries))
    }
}

/// What was acknowledged, and what each member believes: held against each other at every step.
pub struct Checked {
    clock: FeedClock,
    state: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    acknowledged: HashSet<u64>,
    /// Of each member: what it has applied, and until when it believes.
    members: Vec<(HashSet<u64>, Duration)>,
    fault: Option<String>,
}

/// The sink of one member.
pub struct FakeSink {
    checked: Arc<Checked>,
    member: usize,
    pub closed: watch::Sender<Option<String>>,
    /// When it was told to believe, and until when.
    pub told: Mutex<Vec<(Duration, Duration)>>,
}

impl Checked {
    pub fn new(clock: FeedClock) -> Arc<Checked> {
        Arc::new(Checked { clock, state: Mutex::default() })
    }

    pub fn sink(self: &Arc<Self>) -> Arc<FakeSink> {
        let mut seen = self.state.lock().unwrap();
        seen.members.push((HashSet::new(), Duration::ZERO));
        let member = seen.members.len() - 1;
        let closed = watch::Sender::new(None);
        Arc::new(FakeSink { checked: Arc::clone(self), member, closed, told: Mutex::default() })
    }

    /// That no member has believed without what was acknowledged by then.
    pub fn holds(&self) {
        assert_eq!(self.state.lock().unwrap().fault, None);
    }

    /// This revocation was acknowledged.
    pub fn acknowledged(&self, number: u64) {
        self.holds();
        let mut seen = self.state.lock().unwrap();
        let now = (self.clock)();
        for (member, (applied, until)) in seen.members.iter().enumerate() {
            let left = until.saturating_sub(now);
            assert!(
                left.is_zero() || applied.contains(&number),
                "{number} was acknowledged and member {member} believes without it for {left:?}"
            );
        }
        seen.acknowledged.insert(number);
    }
}

impl FakeSink {
    /// How much longer it believes.
    pub fn left(&self) -> Duration {
        let seen = self.checked.state.lock().unwrap();
        seen.members[self.member].1.saturating_sub((self.checked.clock)())
    }

    pub fn has(&self, number: u64) -> bool {
        self.checked.state.lock().unwrap().members[self.member].0.contains(&number)
    }

    /// The process was killed.
    pub fn kill(&self) {
        self.checked.state.lock().unwrap().members[self.member].1 = Duration::ZERO;
    }
}

impl FeedSink for FakeSink {
    fn apply(&self, revocations: &[Revocation]) {
        let mut seen = self.checked.state.lock().unwrap();
        for revocation in revocations {
            let Target::Token { jti, .. } = &revocation.target else { panic!("{revocation:?}") };
            seen.members[self.member].0.insert(jti.parse().unwrap());
        }
    }

    fn believe_until(&self, until: Duration) {
        self.told.lock().unwrap().push(((self.checked.clock)(), until));
        let mut seen = self.checked.state.lock().unwrap();
        let Seen { acknowledged, members, fault } = &mut *seen;
        let (applied, believed) = &mut members[self.member];
        *believed = until;
        if until > (self.checked.clock)()
            && let Some(missing) = acknowledged.iter().find(|number| !applied.contains(number))
        {
            // Of the task of a replica, whose panic no test would see.
            fault.get_or_insert(format!("member {} believes without {missing}", self.member));
        }
    }

    fn closed(&self, why: &str) {
        self.kill();
        self.closed.send_replace(Some(why.to_owned()));
    }
}

//! A walk over every record as it was at one moment, while commits go on.
//!
//! The writer keeps the former value of each record that it is about to change and that the walk has not come to. A page
//! is read without a lock, and the former values of its range are then put over it: whatever the page has read of them,
//! before the change or after it. The writer holds what it keeps until its batch is applied, so a value that a page has
//! read after a change is always kept by the time the page asks. What is kept is bounded; a walk that is outrun fails.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use ::sled::IVec;
use async_trait::async_trait;

use super::export::{self, Account, WALK};
use super::keys::{self, EventPlace, Key, Table};
use super::read::Issuers;
use super::shared::StoreState;
use super::trees::{Seen, Trees, Writes};
use palisade_core::ports::{RECORDS_PAGE, RecordSource, StoreError, VersionedRecord};

/// The most bytes of former values, keys included, that one walk keeps in memory.
const MOST_BYTES: usize = 64 << 20;
/// The most walks at one time.
const MOST_WALKS: usize = 4;

/// How far a walk has come: the table it is in, by its place in [`WALK`], and the last of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Walked {
    table: usize,
    last: Option<Last>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Last {
    Key(Key),
    /// Of the events: they are walked account by account.
    Account(Account),
}

impl Walked {
    /// Whether the walk has yet to come to `key`.
    fn is_ahead(&self, key: &[u8]) -> bool {
        let Some(place) = Table::of(key).and_then(|table| WALK.iter().position(|walked| *walked == table))
        else {
            // No record.
            return false;
        };
        if place != self.table {
            return place > self.table;
        }
        match &self.last {
            None => true,
            Some(Last::Key(last)) => key > last.as_slice(),
            // What cannot be read is found by the walk.
            Some(Last::Account(last)) => keys::listed_account(key).is_ok_and(|user| Account(user) > *last),
        }
    }
}

/// What one walk has yet to read of values that have changed since it began.
struct Former {
    walk: u64,
    walked: Walked,
    values: BTreeMap<Key, Option<IVec>>,
    bytes: usize,
    most: usize,
    /// Why the walk cannot go on.
    failed: Option<StoreError>,
}

impl Former {
    fn keep(&mut self, key: &Key, value: Result<Option<IVec>, StoreError>) {
        match value {
            Err(error) => self.failed = Some(error),
            Ok(value) => {
                // And about as much again for its place in the map.
                self.bytes += key.len() + value.as_ref().map_or(0, |value| value.len()) + 64;
                if self.bytes > self.most {
                    let why = format!(
                        "more was written while the records were read than can be remembered ({} MiB); do it again when \
                         less is written, or read it faster",
                        self.most >> 20
                    );
                    self.failed = Some(StoreError::Unavailable(why));
                    self.values.clear();
                    return;
                }
                self.values.insert(key.clone(), value);
            }
        }
    }
}

/// The walks that go on.
#[derive(Default)]
pub(super) struct Formers {
    walks: Vec<Former>,
    begun: u64,
}

impl StoreState {
    /// Told by the writer what it is about to write. What this returns is held until that is written. Reads only where a
    /// walk goes on; that one fails must not keep a commit from being made.
    pub(super) fn keep_former(&self, writes: &Writes, trees: &Trees, seen: &Seen) -> MutexGuard<'_, Formers> {
        let mut formers = self.former();
        for walk in &mut formers.walks {
            for key in writes.keys() {
                if walk.failed.is_some() {
                    break;
                }
                if walk.walked.is_ahead(key) && !walk.values.contains_key(key) {
                    walk.keep(key, seen.get(key).map_or_else(|| trees.get(key), |value| Ok(value.clone())));
                }
            }
        }
        formers
    }

    fn former(&self) -> MutexGuard<'_, Formers> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records of a store at the moment when it was begun.
pub(super) struct Snapshot(Option<Walk>);

impl Snapshot {
    /// Begins a walk over the records as they are now.
    pub(super) fn begin(shared: Arc<StoreState>, trees: &Trees) -> Result<Snapshot, StoreError> {
        Snapshot::begin_within(shared, trees, MOST_BYTES, RECORDS_PAGE)
    }

    /// With so many bytes of former values at most, and pages of so many records.
    fn begin_within(
        shared: Arc<StoreState>,
        trees: &Trees,
        most: usize,
        page: usize,
    ) -> Result<Snapshot, StoreError> {
        export::unknown_tables(trees)?;
        let opened = shared.opened.load(Ordering::Acquire);
        let walked = Walked { table: 0, last: None };
        let mut formers = shared.former();
        if formers.walks.len() >= MOST_WALKS {
            let why =
                format!("{MOST_WALKS} snapshots are being read already; wait until one of them has ended");
            return Err(StoreError::Unavailable(why));
        }
        formers.begun += 1;
        let walk = formers.begun;
        let values = BTreeMap::new();
        formers.walks.push(Former { walk, walked: walked.clone(), values, bytes: 0, most, failed: None });
        drop(formers);
        Ok(Snapshot(Some(Walk { shared, walk, walked, opened, page, issuers: Issuers::default() })))
    }
}

#[async_trait]
impl RecordSource for Snapshot {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        // A page that was read and not handed over is lost, and the walk with it.
        let lost = || StoreError::Unavailable("the snapshot has failed before".to_owned());
        let mut walk = self.0.take().ok_or_else(lost)?;
        let read = tokio::task::spawn_blocking(move || walk.page().map(|page| (walk, page)));
        // sled panics on some kinds of damage.
        let read = read.await.map_err(|error| StoreError::Unreadable(error.to_string()))?;
        let (walk, page) = read?;
        self.0 = Some(walk);
        Ok(page)
    }
}

struct Walk {
    shared: Arc<StoreState>,
    walk: u64,
    walked: Walked,
    /// [`StoreState::opened`] when it was begun.
    opened: u64,
    /// How many records make a page.
    page: usize,
    issuers: Issuers,
}

impl Drop for Walk {
    fn drop(&mut self) {
        let walk = self.walk;
        self.shared.former().walks.retain(|former| former.walk != walk);
    }
}

impl Walk {
    /// Reads on until there is a page, or no more.
    fn page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let guard = shared.trees.read().unwrap_or_else(PoisonError::into_inner);
        let trees =
            guard.as_ref().ok_or_else(|| StoreError::Unavailable("the store is closed".to_owned()))?;
        let mut records = Vec::new();
        while let Some(table) = WALK.get(self.walked.table).copied() {
            let found = match table {
                Table::Event => self.events(trees)?,
                _ => self.entries(trees, table)?,
            };
            for (key, bytes) in found {
                records.push(export::record(trees, &mut self.issuers, table, &key, &bytes)?.into());
            }
            if records.len() >= self.page {
                break;
            }
        }
        // What was written and not synced when the files failed may have been read, and is gone now.
        if self.shared.opened.load(Ordering::Acquire) != self.opened {
            return Err(StoreError::Unavailable("a write failed while the records were read".to_owned()));
        }
        Ok(records)
    }

    /// The next entries of a table, as they were.
    fn entries(&mut self, trees: &Trees, table: Table) -> Result<Vec<(Key, IVec)>, StoreError> {
        let start = match &self.walked.last {
            Some(Last::Key(last)) => keys::next(last),
            _ => keys::all(table),
        };
        let mut found = BTreeMap::new();
        for entry in trees.range(start.clone()..keys::behind(table)).take(self.page) {
            let (key, value) = entry?;
            found.insert(key.to_vec(), value);
        }
        let last = found.last_key_value().filter(|_| found.len() == self.page).map(|(key, _)| key.clone());
        let end = last.as_ref().map_or_else(|| keys::behind(table), |last| keys::next(last));
        let walked = match last {
            Some(last) => Walked { table: self.walked.table, last: Some(Last::Key(last)) },
            None => Walked { table: self.walked.table + 1, last: None },
        };
        self.put_former_over(&mut found, &[(start, end)], walked)?;
        Ok(found.into_iter().collect())
    }

    /// The events of the next account, as they were, in the order in which they came.
    fn events(&mut self, trees: &Trees) -> Result<Vec<(Key, IVec)>, StoreError> {
        let account = match &self.walked.last {
            // Those that concern no account.
            None => Some(Account(None)),
            Some(Last::Account(last)) => self.following(trees, *last)?,
            Some(Last::Key(_)) => None,
        };
        let Some(account) = account else {
            let walked = Walked { table: self.walked.table + 1, last: None };
            self.put_former_over(&mut BTreeMap::new(), &[], walked)?;
            return Ok(Vec::new());
        };
        let lists = [false, true].map(|strangers| keys::events(account.0, strangers));
        let mut found = BTreeMap::new();
        for list in &lists {
            for entry in trees.under(list) {
                let (key, value) = entry?;
                found.insert(key.to_vec(), value);
            }
        }
        let ranges = lists.clone().map(|list| {
            // Behind every place in the list: a place has 16 bytes at most.
            let end = [&list[..], &[u8::MAX; 17]].concat();
            (list, end)
        });
        let walked = Walked { table: self.walked.table, last: Some(Last::Account(account)) };
        self.put_former_over(&mut found, &ranges, walked)?;
        let mut ordered = Vec::with_capacity(found.len());
        for (key, value) in found {
            let list = lists.iter().find(|list| key.starts_with(list));
            let place = EventPlace::read(list.map_or(&[][..], |list| list), &key)?;
            ordered.push((place.order, (key, value)));
        }
        ordered.sort_by_key(|(order, _)| *order);
        Ok(ordered.into_iter().map(|(_, entry)| entry).collect())
    }

    /// The account behind `last` that has events, or had some when the walk began.
    fn following(&self, trees: &Trees, last: Account) -> Result<Option<Account>, StoreError> {
        let there = last.next(trees)?;
        let formers = self.shared.former();
        let mut kept = None;
        if let Some(former) = formers.walks.iter().find(|former| former.walk == self.walk) {
            for key in
                former.values.range(keys::all(Table::Event)..keys::behind(Table::Event)).map(|(key, _)| key)
            {
                let account = Account(keys::listed_account(key)?);
                if account > last && kept.is_none_or(|kept| account < kept) {
                    kept = Some(account);
                }
            }
        }
        Ok(match (there, kept) {
            (Some(there), Some(kept)) => Some(there.min(kept)),
            (there, kept) => there.or(kept),
        })
    }

    /// Puts the former values of these ranges over what was found there, and notes how far the walk has come.
    fn put_former_over(
        &mut self,
        found: &mut BTreeMap<Key, IVec>,
        ranges: &[(Key, Key)],
        walked: Walked,
    ) -> Result<(), StoreError> {
        let mut formers = self.shared.former();
        let former = formers.walks.iter_mut().find(|former| former.walk == self.walk);
        let former = former.ok_or_else(|| StoreError::Unavailable("the snapshot has ended".to_owned()))?;
        if let Some(error) = &former.failed {
            return Err(error.clone());
        }
        for (start, end) in ranges {
            let mut within = former.values.split_off(start);
            former.values.append(&mut within.split_off(end));
            for (key, value) in within {
                former.bytes -= key.len() + value.as_ref().map_or(0, |value| value.len()) + 64;
                match value {
                    Some(value) => found.insert(key, value),
                    None => found.remove(&key),
                };
            }
        }
        former.walked = walked.clone();
        drop(formers);
        self.walked = walked;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::edge::store::SledStore;
    use palisade_core::domain::account::UserId;
    use palisade_core::domain::audit::{Event, Outcome};
    use palisade_core::domain::time::UnixTime;
    use palisade_core::ports::{Change, Records, Store};
    use palisade_testing::conformance::{event, link, mail, revocation, session, task, token, user};
    use palisade_testing::transfer::{accounts_and_owners, every_record, exported};
    use uuid::Uuid;

    fn begin(store: &SledStore, most: usize, page: usize) -> Snapshot {
        let guard = store.shared.trees.read().unwrap();
        Snapshot::begin_within(Arc::clone(&store.shared), guard.as_ref().unwrap(), most, page).unwrap()
    }

    fn id(n: u64) -> UserId {
        UserId(Uuid::from_u128(n.into()))
    }

    /// Commits that touch every table, before, within and behind where a walk is.
    fn change(random: &mut impl FnMut(u64) -> u64) -> Change {
        let n = random(12);
        let email = format!("u{n}@example.com");
        let wide = u128::from(n);
        match random(12) {
            0 | 1 => Change::CreateUser(user(wide, &email)),
            2 => Change::DeleteUser(id(n)),
            3 => Change::CreateSession(session(wide, u128::from(random(4)), 100 + random(9))),
            4 => Change::EndSession(id(n), session(wide, u128::from(random(4)), 1).id),
            5 => Change::CreateLink(link(wide, 50)),
            6 => Change::ConsumeLink(link(wide, 50).hash),
            7 => Change::PutMail(mail(wide, &email, random(50))),
            8 => Change::CreateTask(task(wide, random(50))),
            9 => Change::Revoke(revocation(token(&n.to_string()), random(9), 100 + random(9))),
            10 => {
                let who = (random(4) > 0).then_some(wide);
                let made = event(who, u128::from(random(1 << 40)));
                let outcome = if random(2) == 0 { Outcome::Denied } else { made.outcome };
                Change::Record(vec![Event { outcome, ..made }])
            }
            _ => Change::RaiseVersion {
                issuer: format!("https://i{}.test", random(3)),
                sub: n.to_string(),
                created_at: UnixTime(1),
                expires_at: UnixTime(100),
                reason: None,
                enforce: true,
            },
        }
    }

    #[tokio::test]
    async fn a_walk_is_of_the_moment_at_which_it_was_begun_whatever_is_committed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        every_record(&*store).await;
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = BuildHasherDefault::<DefaultHasher>::default().hash_one(state);
            state % below
        };
        for round in 0..60 {
            let expected = exported(&*store).await;
            let mut walk = begin(&store, MOST_BYTES, [1, 2, 3, 7, 512][round % 5]);
            let mut found = Vec::new();
            loop {
                for _ in 0..random(6) {
                    let _ = store.commit(vec![change(&mut random), change(&mut random)]).await;
                }
                if random(40) == 0 {
                    store.sweep(UnixTime(3600 + random(120))).await.unwrap();
                }
                let page = walk.next_page().await.unwrap();
                if page.is_empty() {
                    break;
                }
                found.extend(page);
            }
            assert!(found == expected, "round {round}: {} and {} records", found.len(), expected.len());
            assert!(store.shared.former().walks[0].values.is_empty(), "round {round}");
        }
        assert!(store.shared.former().walks.is_empty());
    }

    /// Each commit makes an account with a session, or ends both; and writers do so as fast as they can.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn no_walk_has_half_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..8u64)
            .map(|writer| {
                let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut commits = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        let n = u128::from(writer * 1_000_000 + commits % 97);
                        let pair = (user(n, &format!("u{n}@example.com")), session(n, n, 1_000_000));
                        let id = pair.0.id;
                        store
                            .commit(vec![Change::CreateSession(pair.1.clone()), Change::CreateUser(pair.0)])
                            .await
                            .unwrap();
                        if !commits.is_multiple_of(3) {
                            store.commit(vec![Change::DeleteUser(id)]).await.unwrap();
                        } else if commits > 97 {
                            let n = u128::from(writer * 1_000_000 + (commits + 1) % 97);
                            store
                                .commit(vec![Change::DeleteUser(user(n, "x@example.com").id)])
                                .await
                                .unwrap();
                        }
                        commits += 1;
                        if commits.is_multiple_of(97) {
                            for n in 0..97 {
                                let n = u128::from(writer * 1_000_000 + n);
                                let gone = user(n, "x@example.com").id;
                                store.commit(vec![Change::DeleteUser(gone)]).await.unwrap();
                            }
                        }
                    }
                    commits
                })
            })
            .collect();
        let mut seen = 0;
        for _ in 0..40 {
            let before = store.position();
            let mut walk = begin(&store, MOST_BYTES, 5);
            let (accounts, owners) = accounts_and_owners(&mut walk).await;
            assert_eq!(accounts, owners);
            seen += usize::from(store.position() > before);
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(seen > 10, "{seen} walks had commits meanwhile");
    }

    #[tokio::test]
    async fn a_walk_that_is_outrun_says_so_and_no_commit_suffers() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        every_record(&*store).await;
        let mut walk = begin(&store, 2000, 1);
        walk.next_page().await.unwrap();
        for n in 50..90 {
            store.commit(vec![Change::CreateUser(user(n, &format!("n{n}@example.com")))]).await.unwrap();
        }
        let refused = walk.next_page().await;
        assert!(
            matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("more was written")),
            "{refused:?}"
        );
        assert!(walk.next_page().await.is_err());
        let walks: Vec<_> = (0..MOST_WALKS).map(|_| begin(&store, MOST_BYTES, 9)).collect();
        assert!(store.snapshot().await.is_err());
        drop(walks);
        store.close();
        assert!(store.snapshot().await.is_err());
    }
}

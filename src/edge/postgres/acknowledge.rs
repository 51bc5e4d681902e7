//! When a commit that revokes may be acknowledged: once no replica can admit what it revoked.
//!
//! # The promise
//!
//! Let a commit put revocations in force at position *p* of the feed. Once it is acknowledged, no replica with
//! `fail = "closed"` decides a request without them.
//!
//! # Why it holds
//!
//! Each replica does one thing in a loop (`replica.rs`): it reads its clock (*t*), sends a confirmation, and once the
//! answer has come and everything up to the head *h* that the answer tells is applied, it believes tokens until *t* +
//! *L*. *L* is the length of its lease: it is in its row, and never changes in the life of the row.
//!
//! 1. *A belief without p ends at t + L, and t is before p was visible.* The head *h* was read in a transaction that
//!    began after *t*. If *p* ≤ *h*, the replica applied *p* before it believed. If *p* > *h*, that transaction's
//!    snapshot did not have *p*, so it was taken before the database let others see *p*, and so before the writer got
//!    its answer, at *T*. If another server has taken over in between, the confirmation was committed in what that
//!    server continues, and *p* after it.
//! 2. *So a belief without p is over at T + L*, in the time of the replica's machine. The writer counts by its own:
//!    it waits for *L* and [`margin`], which is more than two clocks of machines differ by, and leaves the time in
//!    which open exchanges are cut.
//! 3. *The writer knows every replica that may believe without p.* It reads the list in a snapshot that has *p*
//!    ([`ReplicaRows::head`]), on whatever server. A replica believes nothing before a commit of its own that gave
//!    its row a position has returned, and sends only then the first confirmation that counts. If the writer's
//!    snapshot does not show that commit, the confirmation's snapshot, which shows it, is a later one, and has *p*
//!    too.
//! 4. *A row with a position ≥ p has applied p*: replicas tell what they have applied.
//! 5. *A row that goes takes no belief with it.* A replica that leaves, or registers again, has stopped to believe
//!    before. A row that is counted as gone had, for *L* and the margin, the same number of confirmations as when it
//!    was first seen with it ([`Sightings`]): the last one was sent before that, and its lease is over. One that is
//!    on its way finds no row, and does not count. A registration has an id of its own, so a number that was seen is
//!    never that of another one.
//!
//! So each commit waits, for each row with a position below *p*, until that row has confirmed *p*, is gone, or *L*
//! and the margin have passed since *T*. It does not have to remove the row for that; rows are removed so that a
//! replica which is gone costs one lease, and not one for each revocation.
//!
//! # What the clocks are
//!
//! Every moment is a reading of CLOCK_BOOTTIME on the machine that reads it, and is compared with no reading of
//! another. It cannot be set, and runs on in a suspend. Two such clocks are taken to differ by less than one percent.
//! Sleeps are the runtime's, whose clock stops in a suspend: they only wake the loops up, which then read
//! CLOCK_BOOTTIME. A virtual machine that is paused from outside, with its CLOCK_BOOTTIME, is outside of this: it
//! believes for as long as the pause lasted.
//!
//! # What is assumed of PostgreSQL
//!
//! A transaction is visible to every snapshot taken after its commit was answered; snapshots of one server are
//! ordered. At any moment one server commits writes, or commits of the others are not answered without a warning: a
//! single server, a synchronous standby that takes over, or a service that stops the old primary first. What is
//! committed then is there after a failover. With an asynchronous standby a failover loses commits, whatever is done
//! here; the random ids of the entries let the replicas that have applied them see it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::feed_calls::{FeedCalls, ReplicaRow, ReplicaRows};
use super::signals::{FeedClock, FeedSignals};
use palisade_core::ports::{ConfirmedBy, ReplicaMeter, StoreError};

/// What a lease counts longer for the one who waits for its end: open exchanges are cut within it, and the clocks of
/// two machines differ by less.
pub fn margin(lease: Duration) -> Duration {
    Duration::from_millis(500) + lease / 100
}

/// How long a commit waits for the list of replicas when that cannot be read, beyond the longest lease that is known
/// of.
const LIST_LATE: Duration = Duration::from_secs(2);
/// The longest lease that is taken into account before any list was read.
const LEASE_UNKNOWN: Duration = Duration::from_secs(10);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How often the list is read while commits wait: where notices come, and where they do not.
const LOOK_LISTENING: Duration = Duration::from_millis(250);
const LOOK_POLLING: Duration = Duration::from_millis(25);

/// How many commits may wait at the same time. More are answered at once with an error, and stand.
const WAITING: usize = 8192;

/// Since when each row has had the number of confirmations that it has.
#[derive(Default)]
pub struct Sightings(Mutex<HashMap<Uuid, Sighting>>);

#[derive(Clone, Copy)]
struct Sighting {
    confirms: u64,
    /// Read after the answer came that showed it.
    since: Duration,
}

impl Sightings {
    /// Takes in a list that had come by `now`. Returns the rows that are to be counted as gone.
    pub fn see(&self, rows: &[ReplicaRow], now: Duration) -> Vec<(Uuid, u64)> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut over = Vec::new();
        let mut next = HashMap::with_capacity(rows.len());
        for row in rows.iter().filter(|row| !row.expired) {
            let mut sighting = Sighting { confirms: row.confirms, since: now };
            if let Some(before) = seen.get(&row.id) {
                // A list that is older than the last one tells nothing new.
                if before.confirms >= row.confirms {
                    sighting = *before;
                }
            }
            let gone_at = sighting.since.saturating_add(row.lease() + margin(row.lease()));
            if now >= gone_at && sighting.confirms == row.confirms {
                over.push((row.id, row.confirms));
            }
            next.insert(row.id, sighting);
        }
        *seen = next;
        over
    }
}

/// One list of replicas, as those that wait see it.
#[derive(Debug, Clone)]
struct Look {
    rows: Arc<ReplicaRows>,
}

/// A commit that waits.
#[derive(Debug)]
struct Waiting {
    position: u64,
    /// When the answer to the commit had come.
    since: Duration,
    /// Those that have been asked for; empty until the first list.
    replicas: HashMap<Uuid, Asked>,
    begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Its lease is over at this moment.
    Until(Duration),
    Confirmed,
    /// Gone, or its lease is over.
    Lapsed,
}

impl Waiting {
    fn new(position: u64, since: Duration) -> Waiting {
        Waiting { position, since, replicas: HashMap::new(), begun: false }
    }

    /// Takes in a list. False: it does not have the commit, and tells nothing.
    fn see(&mut self, rows: &ReplicaRows) -> bool {
        if rows.head < self.position {
            return false;
        }
        let (position, since) = (self.position, self.since);
        let serving = |row: &&ReplicaRow| row.position.is_some() && !row.expired;
        if !self.begun {
            self.begun = true;
            let ends = |row: &ReplicaRow| since.saturating_add(row.lease() + margin(row.lease()));
            self.replicas =
                rows.replicas.iter().filter(serving).map(|row| (row.id, Asked::Until(ends(row)))).collect();
        }
        let of = |id: &Uuid| rows.replicas.iter().filter(serving).find(|row| row.id == *id);
        for (id, asked) in &mut self.replicas {
            match (*asked, of(id)) {
                (Asked::Confirmed, _) => {}
                (_, Some(row)) if row.position >= Some(position) => *asked = Asked::Confirmed,
                (_, Some(_)) => {}
                // Registrations have ids of their own: this one does not come back.
                (_, None) => *asked = Asked::Lapsed,
            }
        }
        true
    }

    /// Lets those lapse whose leases are over. `None`: nothing is waited for any more. Else until when at most.
    fn at(&mut self, now: Duration) -> Option<Duration> {
        for asked in self.replicas.values_mut() {
            if let Asked::Until(end) = *asked
                && now >= end
            {
                *asked = Asked::Lapsed;
            }
        }
        let waited = self.replicas.values().filter_map(|asked| match asked {
            Asked::Until(end) => Some(*end),
            Asked::Confirmed | Asked::Lapsed => None,
        });
        waited.max()
    }

    /// What the commit is answered with, by the last list.
    fn outcome(&self, rows: &ReplicaRows) -> ConfirmedBy {
        let count = |which: Asked| self.replicas.values().filter(|asked| **asked == which).count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let serves_on = |row: &&ReplicaRow| {
            row.fail_open && (row.expired || self.replicas.get(&row.id) == Some(&Asked::Lapsed))
        };
        ConfirmedBy::Replicas {
            confirmed: number(count(Asked::Confirmed)),
            lapsed: number(count(Asked::Lapsed)),
            open: rows.replicas.iter().filter(serves_on).map(|row| row.name.clone()).collect(),
        }
    }
}

/// Lets commits wait for the replicas. One task reads the list for all of them, and counts those as gone that are.
pub struct Acknowledger {
    shared: Arc<Shared>,
}

struct Shared {
    calls: Arc<dyn FeedCalls>,
    clock: FeedClock,
    signals: Arc<FeedSignals>,
    sightings: Arc<Sightings>,
    meter: Arc<dyn ReplicaMeter>,
    waiting: AtomicUsize,
    /// A commit has begun to wait.
    begun: Notify,
    looks: watch::Sender<Option<Look>>,
    /// The longest lease of the last list.
    longest: watch::Sender<Duration>,
}

/// Counts a commit as waiting, until it is dropped.
struct InWait<'a>(&'a Shared);

impl<'a> InWait<'a> {
    fn new(shared: &'a Shared) -> InWait<'a> {
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        shared.begun.notify_one();
        InWait(shared)
    }
}

impl Drop for InWait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Acknowledger {
    pub(super) fn new(
        calls: Arc<dyn FeedCalls>,
        clock: FeedClock,
        signals: Arc<FeedSignals>,
        sightings: Arc<Sightings>,
        meter: Arc<dyn ReplicaMeter>,
    ) -> Acknowledger {
        let shared = Arc::new(Shared {
            calls,
            clock,
            signals,
            sightings,
            meter,
            waiting: AtomicUsize::new(0),
            begun: Notify::new(),
            looks: watch::Sender::new(None),
            longest: watch::Sender::new(LEASE_UNKNOWN),
        });
        Acknowledger { shared }
    }

    /// Waits until no replica can admit what the commit at `position` has revoked. `since`: the uptime when the
    /// answer to the commit had come. Safe to cancel; the replicas apply the commit all the same.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: who is to be waited for could not be read. The commit stands.
    pub async fn wait(&self, position: u64, since: Duration) -> Result<ConfirmedBy, StoreError> {
        let shared = &*self.shared;
        let begun = Instant::now();
        if shared.waiting.load(Ordering::Acquire) >= WAITING {
            return Err(StoreError::Unavailable(format!(
                "the revocation is stored, but {WAITING} of them wait for the replicas already: ask again"
            )));
        }
        let mut looks = shared.looks.subscribe();
        let _in_wait = InWait::new(shared);
        let mut waiting = Waiting::new(position, since);
        let mut last = None;
        loop {
            if let Some(look) = looks.borrow_and_update().clone()
                && waiting.see(&look.rows)
            {
                last = Some(look);
            }
            let now = (shared.clock)();
            let until = match &last {
                Some(look) => match waiting.at(now) {
                    Some(end) => end,
                    None => {
                        let outcome = waiting.outcome(&look.rows);
                        if let ConfirmedBy::Replicas { confirmed, lapsed, .. } = &outcome {
                            shared.meter.acknowledged(begun.elapsed(), *confirmed, *lapsed);
                        }
                        return Ok(outcome);
                    }
                },
                None => {
                    let lease = *shared.longest.borrow();
                    let end = since.saturating_add(lease + margin(lease) + LIST_LATE);
                    if now >= end {
                        return Err(unknown());
                    }
                    end
                }
            };
            tokio::select! {
                changed = looks.changed() => changed.map_err(|_| unknown())?,
                // Counted by the runtime, and looked at by the uptime.
                () = tokio::time::sleep(until.saturating_sub(now).min(CALL)) => {}
            }
        }
    }

    /// Reads the list while commits wait, until this is dropped.
    pub(super) async fn run(&self) {
        let shared = &*self.shared;
        loop {
            if shared.waiting.load(Ordering::Acquire) == 0 {
                shared.begun.notified().await;
                continue;
            }
            // Before the look, so that what comes in between is looked at.
            let mut confirmed = shared.signals.confirmed();
            shared.look().await;
            let pause = if shared.signals.is_listening() { LOOK_LISTENING } else { LOOK_POLLING };
            tokio::select! {
                () = confirmed.changed() => {}
                () = shared.begun.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Shared {
    async fn look(&self) {
        let rows = match tokio::time::timeout(CALL, self.calls.replicas()).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the list of replicas could not be read");
                return;
            }
            Err(_) => return,
        };
        let over = self.sightings.see(&rows.replicas, (self.clock)());
        self.longest.send_if_modified(|longest| {
            let found = rows.replicas.iter().map(ReplicaRow::lease).max().unwrap_or(*longest);
            std::mem::replace(longest, found) != found
        });
        self.looks.send_replace(Some(Look { rows: Arc::new(rows) }));
        expire(&*self.calls, &*self.meter, over).await;
    }
}

/// Counts these as gone.
pub(super) async fn expire(calls: &dyn FeedCalls, meter: &dyn ReplicaMeter, over: Vec<(Uuid, u64)>) {
    for (id, confirms) in over {
        match tokio::time::timeout(CALL, calls.expire(id, confirms)).await {
            Ok(Ok(true)) => {
                tracing::warn!(replica = %id, "a replica has not confirmed for longer than its lease and is counted as gone");
                meter.expired_replica();
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a replica that is gone could not be taken off the list")
            }
            Err(_) => {}
        }
    }
}

fn unknown() -> StoreError {
    StoreError::Unavailable(
        "the revocation is stored, but the list of replicas cannot be read, so it is not known to be in force at all of them: \
         ask again"
            .to_owned(),
    )
}

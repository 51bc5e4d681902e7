//! The thread that keeps the store as large as what lives in it: it decides when to compact, and does it.
//!
//! Three things call for a compaction: an operator, files that are much larger than what lives, and something
//! that was erased and still lies in the files. It changes the store only through the writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::compact::{self, GivenUp};
use super::shared::StoreState;
use super::writer::{Command, Queued};
use palisade_core::ports::{Compacted, CompactionCounts, StoreError};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(60);
/// How long after the start they are looked at first.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Files below this are never too large.
const FLOOR: u64 = 16 << 20;
/// How many times what lives the files may be. Below the four times that we promise, because the next look is
/// some time away.
const HOLLOW: u64 = 3;
/// How long after something was erased the files are compacted, so that what is erased shortly after goes with
/// it. With the time that a compaction takes, and a second try, it is gone within an hour.
pub(super) const ERASE_WITHIN: Duration = Duration::from_secs(20 * 60);
/// How long to wait after a compaction that was given up.
const RETRY: Duration = Duration::from_secs(10 * 60);
/// A compaction leaves the machine alone for this many times as long as it took.
const REST: u32 = 20;

/// An operator who waits.
pub(super) type Asked = oneshot::Sender<Result<Compacted, StoreError>>;

/// How large the files are.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    bytes: u64,
    /// Of keys and values.
    live: u64,
    /// What the last compaction made of them; 0 before there was one.
    compact: u64,
}

impl Sizes {
    /// Whether the files are much larger than what lives in them. Files that have hardly grown since the last
    /// compaction are as they should be: the engine needs some room of its own.
    fn are_hollow(self) -> bool {
        self.bytes > FLOOR
            && self.bytes > self.live.saturating_mul(HOLLOW)
            && self.bytes > self.compact + self.compact / 4
    }
}

/// Compactions since the start, by how they ended.
pub(super) type Compactions = watch::Sender<CompactionCounts>;

/// Runs until the last sender of requests is gone.
pub(super) fn run(
    shared: &StoreState,
    stop: &AtomicBool,
    asked: &Receiver<Asked>,
    queue: &SyncSender<Queued>,
) {
    let mut keeper = Keeper { shared, stop, queue, compact: 0, rest_until: Instant::now() };
    let mut wait = FIRST_LOOK;
    loop {
        match asked.recv_timeout(wait) {
            Ok(reply) => {
                let outcome = keeper.compact("an operator asked for it");
                let answer = outcome.map_err(|why| StoreError::Unavailable(why.to_string()));
                // An operator who left does not need the answer; the compaction stands.
                let _ = reply.send(answer);
            }
            Err(RecvTimeoutError::Timeout) => keeper.look(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        wait = LOOK;
    }
}

struct Keeper<'a> {
    shared: &'a StoreState,
    stop: &'a AtomicBool,
    queue: &'a SyncSender<Queued>,
    /// Bytes of the files after the last compaction.
    compact: u64,
    rest_until: Instant,
}

impl Keeper<'_> {
    fn look(&mut self) {
        let now = Instant::now();
        if now < self.rest_until || !self.shared.writable.load(Ordering::Relaxed) {
            return;
        }
        if self.shared.erasure_due().is_some_and(|due| due <= now) {
            // Told in the log, and tried again after a while.
            let _ = self.compact("something was erased");
            return;
        }
        if self.sizes().is_some_and(Sizes::are_hollow) {
            let _ = self.compact("its files are much larger than what lives in them");
        }
    }

    fn sizes(&self) -> Option<Sizes> {
        let trees = self.shared.trees.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = trees.as_ref()?.generation().bytes().ok()?;
        Some(Sizes { bytes, live: self.shared.live_bytes.load(Ordering::Relaxed), compact: self.compact })
    }

    fn compact(&mut self, why: &str) -> Result<Compacted, GivenUp> {
        tracing::info!(why, "compacting the store");
        let done = compact::run(self.shared, self.stop, |copy| {
            let (reply, taken) = channel();
            let command = Command::TakeOver(Box::new(copy), reply);
            self.queue.send(Queued { command, _place: None }).map_err(|_| GivenUp::Closing)?;
            taken.recv().map_err(|_| GivenUp::Closing)?
        });
        let outcomes = &self.shared.compactions;
        match done {
            Ok(done) => {
                self.compact = done.after;
                self.rest_until = Instant::now() + done.took * REST;
                outcomes.send_modify(|counts| counts.done += 1);
                let (before, after, live) = (done.before, done.after, done.live);
                let milliseconds = u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(before, after, live, milliseconds, "the store is compact");
                Ok(Compacted { before, after, live, took: done.took })
            }
            Err(why) => {
                self.rest_until = Instant::now() + RETRY;
                match &why {
                    GivenUp::Closing => {}
                    GivenUp::NoRoom(_) => outcomes.send_modify(|counts| counts.no_room += 1),
                    _ => outcomes.send_modify(|counts| counts.failed += 1),
                }
                if !matches!(why, GivenUp::Closing) {
                    tracing::warn!(%why, "the store was not compacted; nothing is lost, and it is tried again");
                }
                Err(why)
            }
        }
    }
}

impl StoreState {
    /// Something was erased, and still lies in the files.
    pub(super) fn erased_now(&self) {
        let mut due = self.erasure.lock().unwrap_or_else(PoisonError::into_inner);
        due.get_or_insert_with(|| Instant::now() + ERASE_WITHIN);
    }

    /// Nothing that was erased lies in the files, but for what was erased while they were written.
    pub(super) fn erased_until_now(&self, meanwhile: bool) {
        let due = meanwhile.then(|| Instant::now() + ERASE_WITHIN);
        *self.erasure.lock().unwrap_or_else(PoisonError::into_inner) = due;
    }

    fn erasure_due(&self) -> Option<Instant> {
        *self.erasure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread.
pub(super) fn start(
    shared: Arc<StoreState>,
    asked: Receiver<Asked>,
    queue: SyncSender<Queued>,
) -> std::io::Result<KeeperThread> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let thread = std::thread::Builder::new()
        .name("store-keeper".into())
        .spawn(move || run(&shared, &told, &asked, &queue))?;
    Ok(KeeperThread { stop, thread })
}

/// The thread, running.
pub(super) struct KeeperThread {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl KeeperThread {
    /// Gives a compaction up, and waits until that is done. Every sender of requests must be gone by now.
    pub(super) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic is not reported further; the compaction was then given up.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::store::files;
    use crate::edge::store::opening::{self, Doubts};

    #[test]
    fn files_are_hollow_when_they_are_several_times_what_lives_and_have_grown() {
        let hollow = |bytes: u64, live: u64, compact: u64| {
            Sizes { bytes: bytes << 20, live: live << 20, compact: compact << 20 }.are_hollow()
        };
        assert!(!hollow(16, 0, 0), "the floor");
        assert!(hollow(17, 0, 0) && hollow(17, 5, 0));
        assert!(!hollow(30, 10, 0), "three times");
        assert!(hollow(31, 10, 24));
        assert!(!hollow(30, 9, 24), "hardly grown since the last compaction");
    }

    /// A compaction for which there is no room.
    #[test]
    fn what_was_given_up_is_left_alone_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let shared =
            StoreState::new(dir.path(), opening::open(dir.path(), Doubts::Refuse).unwrap(), None, true);
        let free = files::free_bytes(dir.path()).unwrap();
        // By its name it is the engine's; it takes no room.
        for n in 0..4 {
            let path = dir.path().join(format!("snap.{n}"));
            std::fs::File::create(path).unwrap().set_len(free / 2).unwrap();
        }
        shared.live_bytes.store(free, Ordering::Relaxed);
        let stop = AtomicBool::new(false);
        let (queue, _commands) = std::sync::mpsc::sync_channel(1);
        let mut keeper =
            Keeper { shared: &shared, stop: &stop, queue: &queue, compact: 0, rest_until: Instant::now() };
        let tried = |keeper: &mut Keeper<'_>| {
            keeper.look();
            shared.compactions.borrow().no_room
        };
        assert_eq!((tried(&mut keeper), tried(&mut keeper)), (1, 1));
        // The time is over.
        keeper.rest_until = Instant::now();
        assert_eq!(tried(&mut keeper), 2);
        // Nothing is tried while nothing can be written, nor without a cause.
        keeper.rest_until = Instant::now();
        shared.writable.store(false, Ordering::Relaxed);
        assert_eq!(tried(&mut keeper), 2);
        shared.writable.store(true, Ordering::Relaxed);
        shared.erased_until_now(false);
        assert_eq!(tried(&mut keeper), 2);
    }

    #[test]
    fn what_is_erased_later_does_not_put_off_what_was_erased_before() {
        let dir = tempfile::tempdir().unwrap();
        let shared =
            StoreState::new(dir.path(), opening::open(dir.path(), Doubts::Refuse).unwrap(), None, false);
        assert_eq!(shared.erasure_due(), None);
        shared.erased_now();
        let due = shared.erasure_due();
        assert!(due.is_some());
        shared.erased_now();
        assert_eq!(shared.erasure_due(), due);
    }
}

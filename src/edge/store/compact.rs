//! Compaction: what lives is written into a new generation, which then takes the place of the old one.
//!
//! The engine appends, and gives room back late or never; and what was deleted stays readable in its files.
//! A compaction copies every record into fresh files while commits go on, reads them back from the disk, and
//! leaves the rest to the writer (`writer.rs`): it alone changes the store, so between two batches it can copy
//! what has changed meanwhile, hold the tally of the new files against that of the old ones (`tally.rs`), sync,
//! and let the new files be the store. Whatever goes wrong before that last step, a full disk above all, leaves
//! the old files the store, and untouched.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::sled::IVec;

use super::files::{self, OpenError};
use super::generation::{Generation, Incomplete};
use super::keys::{self, Key};
use super::shared::StoreState;
use super::tally::Tally;
use super::trees::{For, Trees};
use palisade_core::ports::StoreError;

/// How many pairs, and about how many bytes, are copied in one step.
const PAGE: usize = 1024;
const PAGE_BYTES: usize = 1 << 20;
/// How many changed keys are left to the writer, which takes nothing else meanwhile.
const LEFT_TO_WRITER: usize = 512;
/// How often the copy catches up with the commits before the writer has to wait for it.
const ROUNDS: usize = 20;
/// How many bytes of changed keys are held in memory before the copy catches up with them; at four times as
/// many it is given up.
const WRITTEN_BYTES: usize = 4 << 20;

/// Why there was no compaction. The store is what it was.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum GivenUp {
    #[error("there is no room for a second copy on the disk: {0}")]
    NoRoom(String),
    #[error("the store changed faster than it could be copied")]
    Outrun,
    #[error("the store is being closed")]
    Closing,
    #[error("a write failed meanwhile")]
    Reopened,
    #[error("{0}")]
    Failed(String),
}

impl GivenUp {
    /// The engine panicked.
    fn engine() -> GivenUp {
        GivenUp::Failed("the storage engine gave up on the new files".to_owned())
    }
}

impl From<::sled::Error> for GivenUp {
    fn from(error: ::sled::Error) -> GivenUp {
        match error {
            ::sled::Error::Io(error) => error.into(),
            other => GivenUp::Failed(other.to_string()),
        }
    }
}

impl From<std::io::Error> for GivenUp {
    fn from(error: std::io::Error) -> GivenUp {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => GivenUp::NoRoom(error.to_string()),
            _ => GivenUp::Failed(error.to_string()),
        }
    }
}

impl From<OpenError> for GivenUp {
    fn from(error: OpenError) -> GivenUp {
        match error {
            OpenError::Io { source, .. } => source.into(),
            other => GivenUp::Failed(other.to_string()),
        }
    }
}

impl From<StoreError> for GivenUp {
    fn from(error: StoreError) -> GivenUp {
        GivenUp::Failed(error.to_string())
    }
}

/// The keys that commits have written since the copy last looked.
#[derive(Debug, Default)]
pub(super) struct Written {
    keys: BTreeSet<Key>,
    bytes: usize,
    /// Keys were left out: the copy can no longer be finished.
    outrun: bool,
}

impl Written {
    fn note(&mut self, key: &Key) {
        if self.bytes > 4 * WRITTEN_BYTES {
            self.outrun = true;
            return;
        }
        if self.keys.insert(key.clone()) {
            // And about as much again for its place in the set.
            self.bytes += key.len() + 40;
        }
    }
}

impl StoreState {
    /// Told by the writer what it is about to write. It holds on to what it gets until that is written: a copy
    /// that is told of a key before must not read the value that the key has before.
    pub(super) fn note_written<'a>(
        &self,
        keys: impl Iterator<Item = &'a Key>,
    ) -> MutexGuard<'_, Option<Written>> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(written) = &mut *written {
            keys.for_each(|key| written.note(key));
        }
        written
    }

    fn take_written(&self) -> Result<Written, GivenUp> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = written.as_mut().map(std::mem::take).unwrap_or_default();
        if taken.outrun { Err(GivenUp::Outrun) } else { Ok(taken) }
    }

    fn written_bytes(&self) -> usize {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map_or(0, |written| written.bytes)
    }

    fn record_written(&self, on: bool) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = on.then(Written::default);
    }

    /// Reads from the store as it is now.
    fn source<T>(&self, read: impl FnOnce(&Trees) -> Result<T, GivenUp>) -> Result<T, GivenUp> {
        let guard = self.trees.read().unwrap_or_else(PoisonError::into_inner);
        read(guard.as_ref().ok_or(GivenUp::Closing)?)
    }
}

/// A copy that has everything but what was written last.
pub(super) struct Copy {
    trees: Trees,
    /// What is in it.
    tally: Tally,
    /// [`StoreState::opened`] when it was begun.
    opened: u64,
    /// Something was erased meanwhile, and may lie in the new files as well.
    erased: bool,
}

/// Copies the store beside itself, up to where only the writer can finish it. `stop` ends it early.
pub(super) fn copy(shared: &StoreState, stop: &AtomicBool) -> Result<Copy, GivenUp> {
    let opened = shared.opened.load(Ordering::Acquire);
    let reserve = room(shared)?;
    let generation = Generation::begin(&shared.dir)?;
    shared.record_written(true);
    // The engine panics on some failures of its files.
    let copied = catch_unwind(AssertUnwindSafe(|| {
        Copying { shared, stop, opened, reserve, erased: false }.run(generation.clone())
    }));
    copied.unwrap_or_else(|_| Err(GivenUp::engine())).inspect_err(|_| discard(shared, &generation))
}

/// Removes what a compaction that was given up has written.
fn discard(shared: &StoreState, generation: &Generation) {
    shared.record_written(false);
    if generation.is_complete() {
        return;
    }
    if let Err(error) = generation.remove() {
        let folder = generation.folder.display();
        tracing::warn!(%error, %folder, "the files of a compaction that was given up are removed at the next start");
    }
}

/// Whether the disk has room for a copy, and for the commits that come meanwhile. Returns how many bytes must
/// stay free for those.
fn room(shared: &StoreState) -> Result<u64, GivenUp> {
    let present = shared.source(|trees| Ok(trees.generation().bytes()?))?;
    let copy = match shared.live_bytes.load(Ordering::Relaxed) {
        0 => present,
        live => present.min(live.saturating_mul(4)),
    };
    let reserve = copy.clamp(4 << 20, 64 << 20);
    let (free, needed) = (files::free_bytes(&shared.dir)?, copy + reserve);
    if free < needed {
        return Err(GivenUp::NoRoom(format!("{free} bytes are free and about {needed} are needed")));
    }
    Ok(reserve)
}

/// A page of pairs from `start` on; and where the next one starts, unless there is none.
type Page = (Vec<(IVec, IVec)>, Option<Key>);

fn page(trees: &Trees, start: Key) -> Result<Page, GivenUp> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for entry in trees.range(start..keys::end()) {
        let (key, value) = entry?;
        bytes += key.len() + value.len();
        found.push((key, value));
        if found.len() == PAGE || bytes >= PAGE_BYTES {
            let next = found.last().map(|(key, _)| keys::next(key));
            return Ok((found, next));
        }
    }
    Ok((found, None))
}

/// The order in which sorted pairs are filled in. The engine splits a leaf of 17 records and leaves nine on the left,
/// so in their own order every leaf would end with nine, and it keeps some hundred bytes of memory for each leaf.
/// Here three of every five come first, and make leaves of nine; the other two then lie within those, at most seven
/// in each, and make 14 to 16 of it: none is split again.
fn spread<T>(sorted: &[T]) -> impl Iterator<Item = &T> {
    let of = |odd| sorted.chunks(5).flat_map(move |five| five.iter().skip(odd).step_by(2));
    of(0).chain(of(1))
}

struct Copying<'a> {
    shared: &'a StoreState,
    stop: &'a AtomicBool,
    opened: u64,
    reserve: u64,
    erased: bool,
}

impl Copying<'_> {
    fn run(mut self, generation: Generation) -> Result<Copy, GivenUp> {
        self.fill(generation.clone())?;
        self.read_back(generation)
    }

    /// Writes what lives into the files of `generation`, and closes them, so that what is counted comes from the disk.
    fn fill(&mut self, generation: Generation) -> Result<(), GivenUp> {
        let trees = Trees::open(generation, &self.shared.dir, For::Filling)?;
        self.copy_all(&trees)?;
        self.catch_up(&trees, None)?;
        Ok(trees.sync_filled()?)
    }

    /// Opens the files of `generation` again, counts what is in them, and copies what was written meanwhile.
    fn read_back(mut self, generation: Generation) -> Result<Copy, GivenUp> {
        let trees = Trees::open(generation, &self.shared.dir, For::Use)?;
        let mut tally = self.count(&trees)?;
        self.catch_up(&trees, Some(&mut tally))?;
        trees.sync_filled()?;
        self.catch_up(&trees, Some(&mut tally))?;
        Ok(Copy { trees, tally, opened: self.opened, erased: self.erased })
    }

    /// Reads the copy back.
    fn count(&self, copy: &Trees) -> Result<Tally, GivenUp> {
        let (mut tally, mut start) = (Tally::default(), Some(Key::new()));
        while let Some(from) = start {
            self.go_on()?;
            let (found, next) = page(copy, from)?;
            found.iter().for_each(|(key, value)| tally.add(key, value));
            start = next;
        }
        Ok(tally)
    }

    /// Between two steps: whether to go on.
    fn go_on(&self) -> Result<(), GivenUp> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(GivenUp::Closing);
        }
        // What was written and not synced when the files failed may have been copied, and is gone now.
        let reopened = self.shared.opened.load(Ordering::Acquire) != self.opened;
        if reopened || !self.shared.writable.load(Ordering::Relaxed) {
            return Err(GivenUp::Reopened);
        }
        Ok(())
    }

    fn copy_all(&mut self, to: &Trees) -> Result<(), GivenUp> {
        let (mut start, mut since) = (Some(Key::new()), 0);
        while let Some(from) = start {
            self.go_on()?;
            let (found, next) = self.shared.source(|trees| page(trees, from))?;
            for (key, value) in spread(&found) {
                if !keys::is_bookkeeping(key) {
                    to.fill(key, Some(value))?;
                    since += key.len() + value.len();
                }
            }
            to.settle_filled()?;
            if self.shared.written_bytes() > WRITTEN_BYTES {
                let written = self.shared.take_written()?;
                self.follow(to, &written, None)?;
            }
            // The commits that come meanwhile must find room as well.
            if since > 4 << 20 {
                since = 0;
                let free = files::free_bytes(&self.shared.dir)?;
                if free < self.reserve {
                    return Err(GivenUp::NoRoom(format!("{free} bytes are left")));
                }
            }
            start = next;
        }
        Ok(())
    }

    /// Copies what was written meanwhile, until little is left or the commits prove faster.
    fn catch_up(&mut self, to: &Trees, mut tally: Option<&mut Tally>) -> Result<(), GivenUp> {
        for _ in 0..ROUNDS {
            self.go_on()?;
            let written = self.shared.take_written()?;
            self.follow(to, &written, tally.as_deref_mut())?;
            if written.keys.len() <= LEFT_TO_WRITER {
                return Ok(());
            }
        }
        Ok(())
    }

    fn follow(
        &mut self,
        to: &Trees,
        written: &Written,
        mut tally: Option<&mut Tally>,
    ) -> Result<(), GivenUp> {
        self.erased |= written.keys.contains(&keys::erased());
        for key in &written.keys {
            let value = self.shared.source(|trees| Ok(trees.get(key)?))?;
            replace(to, key, value.as_ref(), tally.as_deref_mut())?;
        }
        Ok(())
    }
}

/// Gives a record of the copy the value that it has in the original.
fn replace(copy: &Trees, key: &[u8], value: Option<&IVec>, tally: Option<&mut Tally>) -> Result<(), GivenUp> {
    if keys::is_bookkeeping(key) {
        return Ok(());
    }
    if let Some(tally) = tally {
        copy.get(key)?.iter().for_each(|before| tally.remove(key, before));
        value.iter().for_each(|value| tally.add(key, value));
    }
    Ok(copy.fill(key, value)?)
}

/// Finishes a copy and lets it be the store; returns what was the store before, still open. Only for the
/// writer thread, between two batches: it may be the store only if nothing is written to the old one any more.
pub(super) fn take_over(shared: &StoreState, mut copy: Copy) -> Result<Trees, GivenUp> {
    let finished = catch_unwind(AssertUnwindSafe(|| {
        let erased = finish(shared, &mut copy)?;
        Ok((erased, copy.trees.generation().complete(&shared.dir)))
    }));
    let (erased, unsynced) = match finished.unwrap_or_else(|_| Err(GivenUp::engine())) {
        Ok((erased, Ok(()))) => (erased, None),
        Ok((erased, Err(Incomplete::Unsynced(error)))) => (erased, Some(error)),
        Ok((_, Err(Incomplete::Before(error)))) => {
            close(copy.trees);
            return Err(error.into());
        }
        Err(why) => {
            close(copy.trees);
            return Err(why);
        }
    };
    if let Some(error) = &unsynced {
        // Which of the two is the store after a power loss is open. Nothing is acknowledged until the writer
        // has opened the store again, and synced that.
        tracing::error!(%error, "the store cannot write");
        shared.writable.store(false, Ordering::Relaxed);
    }
    let mut trees = shared.trees.write().unwrap_or_else(PoisonError::into_inner);
    shared.told_by(&copy.trees);
    shared.erased_until_now(erased);
    // It holds the same records.
    copy.trees.set_may_hold_newer(trees.as_ref().is_none_or(Trees::may_hold_newer));
    let replaced = trees.replace(copy.trees);
    drop(trees);
    shared.record_written(false);
    match (unsynced, replaced) {
        (None, Some(replaced)) => Ok(replaced),
        // Its files stay, for a start that finds them to be the store after all.
        (Some(error), replaced) => {
            replaced.into_iter().for_each(close);
            Err(error.into())
        }
        // The store was open when the copy was finished, and only this thread closes it meanwhile.
        (None, None) => Err(GivenUp::Closing),
    }
}

/// The last of the writes, and all of them on the disk. Returns whether something was erased meanwhile.
fn finish(shared: &StoreState, copy: &mut Copy) -> Result<bool, GivenUp> {
    if shared.opened.load(Ordering::Acquire) != copy.opened || !shared.writable.load(Ordering::Relaxed) {
        return Err(GivenUp::Reopened);
    }
    let written = shared.take_written()?;
    let erased = copy.erased || written.keys.contains(&keys::erased());
    shared.source(|trees| {
        for key in &written.keys {
            replace(&copy.trees, key, trees.get(key)?.as_ref(), Some(&mut copy.tally))?;
        }
        let mut wanted = match trees.tally() {
            Some(tally) => tally,
            None => trees.count()?,
        };
        if let Some(mark) = trees.get(&keys::erased())? {
            if erased {
                // What was erased before the copy began is not in the new files; what was erased since may be.
                copy.trees.fill(&keys::erased(), Some(&mark))?;
                copy.tally.add(&keys::erased(), &mark);
            } else {
                wanted.remove(&keys::erased(), &mark);
            }
        }
        if copy.tally != wanted {
            return Err(GivenUp::Failed(
                "what was read back from the new files is not what was written into them".to_owned(),
            ));
        }
        copy.trees.finish_filled(trees.sequence(), wanted)?;
        Ok(erased)
    })
}

/// Closes files that are not the store.
pub(super) fn close(trees: Trees) {
    if catch_unwind(AssertUnwindSafe(|| drop(trees))).is_err() {
        tracing::warn!("the storage engine did not close the files of a compaction cleanly");
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) before: u64,
    pub(super) after: u64,
    pub(super) live: u64,
    pub(super) took: Duration,
}

/// A whole compaction. `hand_over` gives the copy to the writer and waits for what comes of it.
pub(super) fn run(
    shared: &StoreState,
    stop: &AtomicBool,
    hand_over: impl FnOnce(Copy) -> Result<Trees, GivenUp>,
) -> Result<Done, GivenUp> {
    let begun = Instant::now();
    let before = shared.source(|trees| Ok(trees.generation().bytes()?))?;
    let copy = copy(shared, stop)?;
    let (generation, live) = (copy.trees.generation().clone(), copy.tally.bytes);
    let replaced = hand_over(copy).inspect_err(|_| discard(shared, &generation))?;
    close(replaced);
    if let Err(error) = generation.remove_others(&shared.dir) {
        tracing::warn!(%error, "the files from before the compaction are removed at the next start");
    }
    let after = generation.bytes()?;
    Ok(Done { before, after, live, took: begun.elapsed() })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;
    use crate::edge::store::opening::{self, Doubts};
    use crate::edge::store::trees::Writes;
    use crate::edge::store::witness::WITNESS;
    use crate::edge::store::writer;

    static STOP: AtomicBool = AtomicBool::new(false);

    fn key(n: u32) -> Key {
        [&[6][..], &n.to_be_bytes()].concat()
    }

    fn write(shared: &StoreState, writes: Writes) {
        let _noted = shared.note_written(writes.keys());
        let guard = shared.trees.read().unwrap();
        let trees = guard.as_ref().unwrap();
        trees.apply(writes, 1).unwrap();
        trees.sync().unwrap();
    }

    fn at(shared: &StoreState, key: &[u8]) -> Option<IVec> {
        shared.trees.read().unwrap().as_ref().unwrap().get(key).unwrap()
    }

    fn value(text: &str) -> Option<IVec> {
        Some(text.as_bytes().into())
    }

    /// A store of a few pages.
    fn store(dir: &Path) -> StoreState {
        let shared = StoreState::new(dir, opening::open(dir, Doubts::Refuse).unwrap(), None, false);
        write(&shared, (0..3000).map(|n| (key(n), value("before"))).collect());
        shared
    }

    fn copying(shared: &StoreState, reserve: u64) -> Copying<'_> {
        Copying { shared, stop: &STOP, opened: 0, reserve, erased: false }
    }

    /// The folders of generations in `dir`, complete or not.
    fn folders(dir: &Path) -> usize {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("store.")).count()
    }

    fn reopened(dir: &Path, shared: StoreState) -> StoreState {
        drop(shared);
        StoreState::new(dir, opening::open(dir, Doubts::Refuse).unwrap(), None, false)
    }

    #[test]
    fn pairs_are_filled_in_so_that_leaves_fill_up() {
        let order: Vec<u32> = spread(&(0..12).collect::<Vec<_>>()).copied().collect();
        assert_eq!(order, [0, 2, 4, 5, 7, 9, 10, 1, 3, 6, 8, 11]);
    }

    #[test]
    fn what_is_written_while_it_is_copied_is_in_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        let copied = copy(&shared, &STOP).unwrap();
        write(&shared, Writes::from([(key(7), value("after")), (key(8), None), (key(9000), value("after"))]));
        close(take_over(&shared, copied).unwrap());
        assert!(shared.written.lock().unwrap().is_none(), "keys are noted for nobody");
        let shared = reopened(dir.path(), shared);
        let found = [7, 8, 9, 9000].map(|n| at(&shared, &key(n)));
        assert_eq!(found, [value("after"), None, value("before"), value("after")]);
        let trees = shared.trees.read().unwrap();
        let trees = trees.as_ref().unwrap();
        assert_eq!((trees.sequence(), trees.generation().number), (2, 1));
    }

    #[test]
    fn a_copy_that_is_not_the_original_never_becomes_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        for fault in [None, value("beside")] {
            let copied = copy(&shared, &STOP).unwrap();
            copied.trees.fill(&key(1500), fault.as_ref()).unwrap();
            // As if the copy had been read back after that.
            let tally = copying(&shared, 0).count(&copied.trees).unwrap();
            let error = take_over(&shared, Copy { tally, ..copied }).err().unwrap();
            assert!(error.to_string().contains("is not what was written"), "{error}");
            assert_eq!(at(&shared, &key(1500)), value("before"));
        }
        let shared = reopened(dir.path(), shared);
        assert_eq!(shared.trees.read().unwrap().as_ref().unwrap().generation().number, 0);
    }

    #[test]
    fn a_copy_is_worth_nothing_once_a_write_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        let copied = copy(&shared, &STOP).unwrap();
        // As the writer does when it opens the files again.
        shared.opened.fetch_add(1, Ordering::Release);
        assert!(matches!(take_over(&shared, copied), Err(GivenUp::Reopened)));
        shared.writable.store(false, Ordering::Relaxed);
        assert!(matches!(copy(&shared, &STOP), Err(GivenUp::Reopened)));
        // That of the copy that was handed over is removed by the one who did.
        assert_eq!(folders(dir.path()), 1);
        assert!(shared.written.lock().unwrap().is_none(), "keys are noted for nobody");
    }

    /// What was written and not synced may be in the copy, and nowhere else.
    #[test]
    fn a_copy_is_worth_nothing_once_the_files_were_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        let copied = copy(&shared, &STOP).unwrap();
        shared.writable.store(false, Ordering::Relaxed);
        assert!(copying(&shared, 0).go_on().is_err());
        writer::recover(&shared);
        assert!(shared.writable.load(Ordering::Relaxed));
        assert!(copying(&shared, 0).go_on().is_err());
        assert!(matches!(take_over(&shared, copied), Err(GivenUp::Reopened)));
        // Nor while it is not known what a failed write has left.
        let copied = copy(&shared, &STOP).unwrap();
        shared.writable.store(false, Ordering::Relaxed);
        assert!(matches!(take_over(&shared, copied), Err(GivenUp::Reopened)));
    }

    #[test]
    fn a_copy_that_cannot_keep_up_is_given_up_and_holds_little_memory() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        shared.record_written(true);
        let keys: Vec<Key> = (0..2_000_000u32).map(|n| n.to_be_bytes().to_vec()).collect();
        drop(shared.note_written(keys.iter()));
        assert!(shared.written_bytes() < 5 * WRITTEN_BYTES);
        assert!(matches!(shared.take_written(), Err(GivenUp::Outrun)));
    }

    #[test]
    fn what_is_erased_while_it_is_copied_calls_for_another_compaction() {
        let erase = |n| Writes::from([(key(n), None), (keys::erased(), value(""))]);
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        write(&shared, erase(1));
        let copied = copy(&shared, &STOP).unwrap();
        close(take_over(&shared, copied).unwrap());
        assert_eq!(at(&shared, &keys::erased()), None, "nothing of it is left");
        let copied = copy(&shared, &STOP).unwrap();
        write(&shared, erase(2));
        close(take_over(&shared, copied).unwrap());
        assert!(at(&shared, &keys::erased()).is_some(), "it may lie in the new files as well");
        assert!(shared.erasure.lock().unwrap().is_some());
        // Earlier, while the copy is read back: it was copied before it was erased.
        write(&shared, erase(3));
        shared.record_written(true);
        let generation = Generation::begin(dir.path()).unwrap();
        let mut copying = copying(&shared, 0);
        copying.fill(generation.clone()).unwrap();
        write(&shared, erase(4));
        let copied = copying.read_back(generation).unwrap();
        assert!(shared.written.lock().unwrap().as_ref().unwrap().keys.is_empty(), "the copy was told of it");
        close(take_over(&shared, copied).unwrap());
        assert!(at(&shared, &keys::erased()).is_some());
        assert!(shared.erasure.lock().unwrap().is_some());
    }

    /// What was written is not what a disk holds: it is counted as it is read.
    #[test]
    fn a_copy_that_the_disk_does_not_hold_never_becomes_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        let mut unlike = 0;
        for part in 1..8 {
            shared.record_written(true);
            let generation = Generation::begin(dir.path()).unwrap();
            let mut copying = copying(&shared, 0);
            copying.fill(generation.clone()).unwrap();
            let db = generation.folder.join("db");
            let mut bytes = fs::read(&db).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            bytes[used / 8 * part] ^= 0x10;
            fs::write(&db, bytes).unwrap();
            // The engine may say so, panic, or pass over the damage.
            let read = catch_unwind(AssertUnwindSafe(|| copying.read_back(generation.clone())));
            if let Ok(Ok(copied)) = read {
                let error = take_over(&shared, copied).err().unwrap().to_string();
                assert!(error.contains("is not what was written"), "{error}");
                unlike += 1;
            }
            assert!(!generation.is_complete());
            discard(&shared, &generation);
        }
        assert!(unlike > 0, "the engine found every damage by itself: this shows nothing of ours");
        assert_eq!(shared.trees.read().unwrap().as_ref().unwrap().generation().number, 0);
    }

    /// As a kill leaves it: it was never closed.
    #[test]
    fn a_copy_that_has_become_the_store_is_on_the_disk() {
        let (dir, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let shared = store(dir.path());
        let copied = copy(&shared, &STOP).unwrap();
        write(&shared, Writes::from([(key(7), value("after"))]));
        let replaced = take_over(&shared, copied).unwrap();
        fs::copy(dir.path().join(WITNESS), left.path().join(WITNESS)).unwrap();
        let (from, to) = (dir.path().join("store.1"), left.path().join("store.1"));
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(&from).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        close(replaced);
        let trees = opening::open(left.path(), Doubts::Refuse).unwrap();
        assert_eq!((trees.sequence(), trees.generation().number), (2, 1));
        assert_eq!(trees.get(&key(7)).unwrap(), value("after"));
    }

    #[test]
    fn a_copy_that_nobody_takes_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        let done = run(&shared, &STOP, |copied| {
            close(copied.trees);
            Err(GivenUp::Outrun)
        });
        assert!(matches!(done, Err(GivenUp::Outrun)));
        assert_eq!(folders(dir.path()), 0);
        assert!(shared.written.lock().unwrap().is_none());
        let stopped = AtomicBool::new(true);
        assert!(matches!(copy(&shared, &stopped), Err(GivenUp::Closing)));
        assert_eq!(folders(dir.path()), 0);
    }

    /// After a failed sync of its name it is the store, although its compaction has failed.
    #[test]
    fn a_copy_that_has_become_the_store_is_not_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        let generation = Generation::begin(dir.path()).unwrap();
        generation.complete(dir.path()).unwrap();
        discard(&shared, &generation);
        assert!(generation.is_complete());
    }

    #[test]
    fn a_copy_that_would_not_fit_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        let free = files::free_bytes(dir.path()).unwrap();
        // By their names these are the engine's; they take no room.
        for n in 0..4 {
            File::create(dir.path().join(format!("snap.{n}"))).unwrap().set_len(free / 2).unwrap();
        }
        shared.live_bytes.store(free, Ordering::Relaxed);
        assert!(matches!(copy(&shared, &STOP), Err(GivenUp::NoRoom(_))));
        assert_eq!(folders(dir.path()), 0);
        // Only what lives is copied.
        shared.live_bytes.store(1 << 20, Ordering::Relaxed);
        close(copy(&shared, &STOP).unwrap().trees);
    }

    /// The commits that come meanwhile need room as well.
    #[test]
    fn a_copy_is_given_up_when_room_runs_out() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        let large = value(&"x".repeat(1 << 16));
        write(&shared, (0..80).map(|n| (key(n), large.clone())).collect());
        shared.record_written(true);
        let generation = Generation::begin(dir.path()).unwrap();
        let filled = copying(&shared, u64::MAX).fill(generation.clone());
        assert!(matches!(filled, Err(GivenUp::NoRoom(_))), "{filled:?}");
        discard(&shared, &generation);
        let generation = Generation::begin(dir.path()).unwrap();
        copying(&shared, 0).fill(generation).unwrap();
    }

    #[test]
    fn an_error_that_is_a_full_disk_is_told_as_one() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        assert!(matches!(GivenUp::from(::sled::Error::Io(full)), GivenUp::NoRoom(_)));
        let full = OpenError::Io { path: "db".into(), source: ErrorKind::QuotaExceeded.into() };
        assert!(matches!(GivenUp::from(full), GivenUp::NoRoom(_)));
    }
}

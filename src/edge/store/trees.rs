//! The engine, open: reads, one atomic write with the number of the last commit in it, and the sync.
//!
//! Everything is in one tree; `keys.rs` says where. Only the writer thread may call [`Trees::apply`] and
//! [`Trees::sync`]: they rely on being the only writer.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::sled::{Batch, Db, IVec, Tree};

use super::files::OpenError;
use super::generation::Generation;
use super::keys::{self, Key};
use super::record::is_newer;
use super::tally::{self, Tally};
use super::witness::Witness;
use palisade_core::ports::StoreError;

/// sled's page cache, in bytes as they are on disk; what is in it takes about eight times that. Its own default
/// is a gigabyte.
const CACHE_BYTES: u64 = 2 << 20;
/// How often, in milliseconds, sled's own thread looks for room that it can use again. It makes one segment of
/// half a megabyte free at a time, so this bounds how fast the file grows, and syncs the file each time.
const TIDY_EVERY: u64 = 200;
/// The same while a copy is filled, which leaves much behind.
const TIDY_FILLED_EVERY: u64 = 5;
/// How long sled's threads may hold the file after its handle is gone.
const LET_GO: Duration = Duration::from_secs(5);

/// What is to be written: a value, or nothing where a record shall be gone.
pub(super) type Writes = BTreeMap<Key, Option<IVec>>;
/// What was read: the values by their keys, `None` where there is none.
pub(super) type Seen = HashMap<Key, Option<IVec>>;

/// sled, open.
pub(super) struct Trees {
    tree: Tree,
    /// As it stands in the tree.
    sequence: AtomicU64,
    /// As it stands in the tree; `None` where version 0.1.0 wrote the last commit, which kept none.
    tally: Mutex<Option<Tally>>,
    /// Whether a record of a newer program may be in it ([`Trees::may_hold_newer`]).
    newer: AtomicBool,
    db: Db,
    /// Our own descriptor of the database file: `flush` alone does not sync what it wrote.
    file: File,
    witness: Mutex<Witness>,
    generation: Generation,
}

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// To be the store.
    Use,
    /// To be read, and then removed.
    Rehearsal,
    /// To be filled with what another one holds.
    Filling,
}

impl Trees {
    /// Opens the engine's files of `generation`, with the witness in `dir`. Whether they are whole is not looked
    /// at: [`super::opening`] does that.
    pub(super) fn open(generation: Generation, dir: &Path, purpose: For) -> Result<Trees, OpenError> {
        let folder = generation.folder.as_path();
        // sled panics on some kinds of damage. Whatever it built is dropped with the panic.
        let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, ::sled::Error> {
            let db = open_db(folder, purpose)?;
            let tree = db.open_tree("palisade")?;
            let sequence = tree.get(keys::sequence())?;
            Ok((tree, db, sequence))
        }));
        let path = folder.join("db");
        let (tree, db, sequence) = match opened {
            Ok(Ok(parts)) => parts,
            Ok(Err(::sled::Error::Io(source))) if !is_damage(&source) => {
                return Err(OpenError::Io { path, source });
            }
            Ok(Err(e)) => return Err(damaged(dir, &generation, &e.to_string())),
            Err(_) => return Err(damaged(dir, &generation, "the engine cannot make sense of it")),
        };
        let sequence = tally::decode(sequence.as_deref());
        let (sequence, tally) = sequence.map_err(|e| damaged(dir, &generation, &e.to_string()))?;
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(OpenError::io(path))?;
        let (sequence, witness) = (AtomicU64::new(sequence), Mutex::new(Witness::new(dir)));
        let newer = AtomicBool::new(true);
        Ok(Trees { tree, sequence, tally: Mutex::new(tally), newer, db, file, witness, generation })
    }

    /// Which files these are.
    pub(super) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// How many commits it holds.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// What is in it, as its last commit says; `None` where that was one of version 0.1.0.
    pub(super) fn tally(&self) -> Option<Tally> {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was counted for what is in it.
    pub(super) fn set_tally(&self, counted: Tally) {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
    }

    /// Whether a record of a newer program may be in it: then each write looks at the version of what it replaces. Until
    /// every record was read it may.
    pub(super) fn may_hold_newer(&self) -> bool {
        self.newer.load(Ordering::Relaxed)
    }

    /// Takes over what [`Trees::count`] found in a copy of these files. That is enough for as long as they are open: the
    /// count reads every record, and until the files are closed only this program, which holds their lock, writes to
    /// them, and only versions that it knows.
    pub(super) fn set_may_hold_newer(&self, newer: bool) {
        self.newer.store(newer, Ordering::Relaxed);
    }

    /// Reads everything and counts it, and looks for records of a newer program, in two threads: this is most of what a
    /// start takes. What is filed by its end is about half of the records, because the revocations are the most of them.
    pub(super) fn count(&self) -> Result<Tally, StoreError> {
        let (filed, newer) = (keys::all(keys::Table::Due), AtomicBool::new(false));
        let (records, filed) = std::thread::scope(|scope| {
            let records = || self.count_within(..filed.clone(), &newer);
            let counting =
                std::thread::Builder::new().name("store-count".into()).spawn_scoped(scope, records);
            let filed = self.count_within(filed.clone().., &newer);
            let records = match counting {
                // It catches panics of its own.
                Ok(counting) => counting.join().unwrap_or_else(|_| Err(senseless())),
                Err(_) => records(),
            };
            (records, filed)
        });
        let tally = records?.and(filed?);
        self.set_may_hold_newer(newer.into_inner());
        Ok(tally)
    }

    fn count_within(&self, range: impl RangeBounds<Key>, newer: &AtomicBool) -> Result<Tally, StoreError> {
        let counted = catch_unwind(AssertUnwindSafe(|| {
            let mut counted = Tally::default();
            for entry in self.tree.range(range) {
                let (key, value) = entry.map_err(unavailable)?;
                counted.add(&key, &value);
                if is_newer(&key, &value) {
                    newer.store(true, Ordering::Relaxed);
                }
            }
            Ok(counted)
        }));
        counted.unwrap_or_else(|_| Err(senseless()))
    }

    /// Makes every write, or none of them when the process dies meanwhile, and counts `commits` in the same
    /// step.
    pub(super) fn apply(&self, writes: Writes, commits: u64) -> Result<(), StoreError> {
        self.apply_over(writes, commits, &Seen::new())
    }

    /// As [`Trees::apply`]. `seen` is what was read meanwhile, which spares reading it again.
    pub(super) fn apply_over(&self, writes: Writes, commits: u64, seen: &Seen) -> Result<(), StoreError> {
        let before = self.sequence();
        // First of all: no commit may be on disk without a witness beside it.
        let established = self.witness.lock().unwrap_or_else(PoisonError::into_inner).establish(before);
        established.map_err(|e| StoreError::Unavailable(format!("{}: {e}", super::witness::WITNESS)))?;
        let tally = match self.tally() {
            Some(tally) => tally,
            None => self.count()?,
        };
        let there = |key: &[u8]| seen.get(key).map_or_else(|| self.get(key), |found| Ok(found.clone()));
        let tally = tally.after(&writes, there)?;
        let sequence = before + commits;
        let mut batch = Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch.insert(keys::sequence(), &tally::encode(sequence, &tally)[..]);
        self.tree.apply_batch(batch).map_err(unavailable)?;
        self.sequence.store(sequence, Ordering::Relaxed);
        self.set_tally(tally);
        Ok(())
    }

    /// Writes one record into a generation that is not the store yet, or removes it: not atomic with any other,
    /// so commits elsewhere never wait for it.
    pub(super) fn fill(&self, key: &[u8], value: Option<&IVec>) -> Result<(), ::sled::Error> {
        match value {
            Some(value) => self.tree.insert(key, value).map(drop),
            None => self.tree.remove(key).map(drop),
        }
    }

    /// Lets the engine use the room again of what was replaced while filling: it does so only once what replaced
    /// it is written.
    pub(super) fn settle_filled(&self) -> Result<(), ::sled::Error> {
        self.db.flush().map(drop)
    }

    /// Makes everything filled in so far durable.
    pub(super) fn sync_filled(&self) -> Result<(), ::sled::Error> {
        self.settle_filled()?;
        Ok(self.file.sync_all()?)
    }

    /// Says how many commits a filled generation holds and what is in it, and makes all of it durable.
    pub(super) fn finish_filled(&self, sequence: u64, tally: Tally) -> Result<(), ::sled::Error> {
        self.tree.insert(keys::sequence(), &tally::encode(sequence, &tally)[..])?;
        self.sync_filled()?;
        self.sequence.store(sequence, Ordering::Relaxed);
        self.set_tally(tally);
        Ok(())
    }

    /// Makes everything applied so far durable, and notes it.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let failed = |e: &dyn std::fmt::Display| StoreError::Unavailable(e.to_string());
        self.db.flush().map_err(|e| failed(&e))?;
        self.file.sync_all().map_err(|e| failed(&e))?;
        let mut witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        witness.note(self.sequence()).map_err(|e| failed(&e))
    }

    /// Makes the last note of the witness durable, at the end of a run.
    pub(super) fn sync_witness(&self) -> std::io::Result<()> {
        self.witness.lock().unwrap_or_else(PoisonError::into_inner).sync()
    }

    /// Bytes of the database file.
    pub(super) fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.len())
    }

    /// What is stored at `key`.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.tree.get(key).map_err(unavailable)
    }

    /// Everything between two keys, the second left out, in order.
    pub(super) fn range(
        &self,
        range: std::ops::Range<Key>,
    ) -> impl DoubleEndedIterator<Item = Result<(IVec, IVec), StoreError>> + use<> {
        self.tree.range(range).map(|entry| entry.map_err(unavailable))
    }

    /// Everything whose key begins with `prefix`, in order.
    pub(super) fn under(
        &self,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(IVec, IVec), StoreError>> + use<> {
        self.tree.scan_prefix(prefix).map(|entry| entry.map_err(unavailable))
    }
}

/// sled's threads let go of the file a moment after its handle is dropped. Our own lock already says that no other
/// process has it, so its lock is worth waiting for.
fn open_db(dir: &Path, purpose: For) -> ::sled::Result<Db> {
    let flush_every = match purpose {
        For::Use => Some(TIDY_EVERY),
        For::Filling => Some(TIDY_FILLED_EVERY),
        // Its thread would only sync the whole file to a disk that is about to lose it.
        For::Rehearsal => None,
    };
    let begun = Instant::now();
    loop {
        match ::sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(flush_every).open() {
            Err(::sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock") && begun.elapsed() < LET_GO =>
            {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "on the writer's own thread, never a worker of the runtime"
                )]
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// sled reports some kinds of damage as an I/O error that no system call made.
fn is_damage(error: &std::io::Error) -> bool {
    error.raw_os_error().is_none() && !error.to_string().contains("could not acquire lock")
}

/// Names the file that keeps the engine from opening, and what to do.
fn damaged(dir: &Path, generation: &Generation, what: &str) -> OpenError {
    let (conf, db) = (generation.name("conf"), generation.name("db"));
    if !super::files::settings_are_whole(&generation.folder) {
        return OpenError::corrupt(
            dir,
            format!(
                "the file `{conf}`, the engine's settings, is damaged ({what}); it is the same for every store of this \
                 version, so moving it away may be enough: it is made anew, and the start says whether the store is \
                 whole"
            ),
        );
    }
    OpenError::corrupt(dir, format!("the file `{db}` is damaged ({what})"))
}

/// The engine panicked over what it read.
fn senseless() -> StoreError {
    StoreError::Unreadable("the engine cannot make sense of it".into())
}

/// What sled said, in the store's words.
fn unavailable(error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Corruption { .. } => {
            StoreError::Unreadable(format!("{error}; restore the data directory from a backup"))
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

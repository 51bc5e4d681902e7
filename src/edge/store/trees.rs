//! The engine, open: reads, one atomic write with the number of the last commit in it, and the sync.
//!
//! Everything is in one tree; `keys.rs` says where. Only the writer thread may call [`Trees::apply`] and
//! [`Trees::sync`]: they rely on nobody else writing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::sled::{Batch, Db, IVec, Tree};

use super::files::{OpenError, Witness};
use super::keys::{self, Key};
use crate::ports::StoreError;

/// sled's page cache; its own default is a gigabyte.
const CACHE_BYTES: u64 = 64 << 20;
/// How long sled's threads may hold the file after its handle is gone.
const LET_GO: Duration = Duration::from_secs(5);

/// What is to be written: a value, or nothing where a record shall be gone.
pub(super) type Writes = BTreeMap<Key, Option<IVec>>;

/// sled, open.
pub(super) struct Trees {
    tree: Tree,
    /// As it stands in the tree.
    sequence: AtomicU64,
    db: Db,
    /// Our own descriptor of the database file: `flush` alone does not sync what it wrote.
    file: File,
    witness: Witness,
}

impl Trees {
    /// Opens the sled files in `dir` and holds them against the witness beside them.
    pub(super) fn open(dir: &Path) -> Result<Trees, OpenError> {
        Trees::open_at(dir, dir, true)
    }

    /// Opens the copy of a store in `copy` as if it were the one in `dir`, and lets it go again.
    pub(super) fn rehearse(dir: &Path, copy: &Path) -> Result<(), OpenError> {
        Trees::open_at(copy, dir, false).map(drop)
    }

    fn open_at(dir: &Path, witness_dir: &Path, flusher: bool) -> Result<Trees, OpenError> {
        let witness = Witness::open(witness_dir)?;
        let acknowledged = witness.read(witness_dir)?;
        if acknowledged > 0 && !dir.join("db").exists() {
            return Err(OpenError::corrupt(dir, "the file `db` is missing"));
        }
        // sled panics on some kinds of damage. Whatever it built is dropped with the panic.
        let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, ::sled::Error> {
            let db = open_db(dir, flusher)?;
            let tree = db.open_tree("palisade")?;
            let sequence = tree.get(keys::sequence())?;
            Ok((tree, db, sequence))
        }));
        let (tree, db, sequence) = match opened {
            Ok(Ok(parts)) => parts,
            Ok(Err(::sled::Error::Io(source))) if !is_damage(&source) => {
                return Err(OpenError::Io { path: dir.join("db"), source });
            }
            Ok(Err(e)) => return Err(OpenError::corrupt(dir, e.to_string())),
            Err(_) => {
                return Err(OpenError::corrupt(dir, "the database files do not make sense to the engine"));
            }
        };
        let sequence = sequence_in(sequence).map_err(|e| OpenError::corrupt(dir, e.to_string()))?;
        if sequence < acknowledged {
            return Err(OpenError::corrupt(
                dir,
                format!("{acknowledged} changes were acknowledged and only {sequence} are left"),
            ));
        }
        let path = dir.join("db");
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(OpenError::io(path))?;
        Ok(Trees { tree, sequence: AtomicU64::new(sequence), db, file, witness })
    }

    /// Makes every write, or none of them when the process dies meanwhile, and counts `commits` in the same
    /// step.
    pub(super) fn apply(&self, writes: Writes, commits: u64) -> Result<(), StoreError> {
        let sequence = self.sequence.load(Ordering::Relaxed) + commits;
        let mut batch = Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch.insert(keys::sequence(), &sequence.to_be_bytes());
        self.tree.apply_batch(batch).map_err(unavailable)?;
        self.sequence.store(sequence, Ordering::Relaxed);
        Ok(())
    }

    /// Makes everything applied so far durable, and notes it.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let failed = |e: &dyn std::fmt::Display| StoreError::Unavailable(e.to_string());
        self.db.flush().map_err(|e| failed(&e))?;
        self.file.sync_all().map_err(|e| failed(&e))?;
        self.witness.note(self.sequence.load(Ordering::Relaxed)).map_err(|e| failed(&e))
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

/// sled's threads let go of the file a moment after its handle is dropped. Our own lock already says
/// that nobody else has it, so its lock is worth waiting for.
fn open_db(dir: &Path, flusher: bool) -> ::sled::Result<Db> {
    // sled's own thread frees segments, so the store needs it; on a copy it would only sync the whole
    // file to a disk that is about to lose it.
    let flush_every = flusher.then_some(500);
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

fn sequence_in(bytes: Option<IVec>) -> Result<u64, StoreError> {
    match bytes {
        None => Ok(0),
        Some(bytes) => bytes
            .as_ref()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| StoreError::Unreadable("the sequence number is not eight bytes long".into())),
    }
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

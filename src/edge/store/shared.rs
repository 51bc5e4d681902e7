//! What the threads of an open store share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use super::compact::Written;
use super::feed::Feed;
use super::keeper::Compactions;
use super::keys::{self, Key};
use super::leases::RunLeases;
use super::opening::MemoryCopy;
use super::snapshot::Formers;
use super::trees::Trees;

/// What the writer thread and the readers share.
pub(super) struct StoreState {
    pub(super) dir: PathBuf,
    /// `None` after a failed attempt to open the files again, and once it is closed.
    pub(super) trees: RwLock<Option<Trees>>,
    pub(super) writable: AtomicBool,
    /// An import has begun and not come to its end: nothing else is read or written.
    pub(super) importing: AtomicBool,
    /// It is closed for writing ([`super::keys::closed`]).
    pub(super) closed: AtomicBool,
    /// The files hold a part of an import whose writer was refused: they are not opened again.
    pub(super) is_partly_imported: AtomicBool,
    /// The copy that is open instead of the store's own files, whose disk is full.
    pub(super) in_memory: Mutex<Option<MemoryCopy>>,
    pub(super) bytes: AtomicU64,
    /// Bytes of keys and values after the last change.
    pub(super) live_bytes: AtomicU64,
    /// How often the files were opened again after a failure.
    pub(super) opened: AtomicU64,
    /// What a compaction that is going on has to look at again; `None` while there is none.
    pub(super) written: Mutex<Option<Written>>,
    /// What the snapshots that are being read have yet to read of former values.
    pub(super) former: Mutex<Formers>,
    /// By when the files are to be compacted because something was erased that still lies in them.
    pub(super) erasure: Mutex<Option<Instant>>,
    pub(super) compactions: Compactions,
    pub(super) feed: Arc<Feed>,
    pub(super) leases: Arc<RunLeases>,
}

impl StoreState {
    /// `in_memory`: the copy that `trees` are of, which takes no writes.
    pub(super) fn new(dir: &Path, trees: Trees, in_memory: Option<MemoryCopy>, erased: bool) -> StoreState {
        // A mark that cannot be read counts as there.
        let has = |key: Key| trees.get(&key).map_or(true, |mark| mark.is_some());
        let shared = StoreState {
            dir: dir.to_owned(),
            trees: RwLock::new(None),
            writable: AtomicBool::new(in_memory.is_none()),
            importing: AtomicBool::new(has(keys::importing())),
            closed: AtomicBool::new(has(keys::closed())),
            is_partly_imported: AtomicBool::new(false),
            in_memory: Mutex::new(in_memory),
            bytes: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            written: Mutex::new(None),
            former: Mutex::default(),
            erasure: Mutex::new(erased.then(Instant::now)),
            compactions: Compactions::default(),
            feed: Arc::new(Feed::new(trees.sequence())),
            leases: Arc::default(),
        };
        shared.told_by(&trees);
        *shared.trees.write().unwrap_or_else(PoisonError::into_inner) = Some(trees);
        shared
    }

    /// Takes down how large the store is.
    pub(super) fn told_by(&self, trees: &Trees) {
        self.bytes.store(trees.bytes(), Ordering::Relaxed);
        self.live_bytes.store(trees.tally().map_or(0, |tally| tally.bytes), Ordering::Relaxed);
    }
}

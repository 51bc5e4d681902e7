//! Crash recovery: opens a store so that a start which does not succeed changes nothing.
//!
//! sled mends what it opens: it cuts off what follows damage, and says nothing of what it passed over. So a copy
//! is opened first, read to its end and held against what was acknowledged ([`super::witness`]) and what was there
//! ([`super::tally`]). Only when all of that agrees are the real files opened.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::files::{self, OpenError};
use super::generation::{Generation, is_there};
use super::keys;
use super::read;
use super::snapshots::Snapshots;
use super::tally::Tally;
use super::trees::{For, Trees, Writes};
use super::upgrade::upgrade;
use super::verify::verify;
use super::witness::{self, Testimony, WITNESS};
use palisade_core::ports::StoreError;

const REHEARSAL: &str = "palisade.rehearsal";
/// What is needed beside the copy: the engine writes a snapshot and zeroes the rest of a segment.
const BESIDE_THE_COPY: u64 = 1 << 20;

/// What an operator has said about a store that is not known to be whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Doubts {
    /// It is not opened.
    #[default]
    Refuse,
    /// It is opened with what is there, which is then what was acknowledged.
    Accept,
    /// It is opened to go on with an import that did not come to its end, and otherwise as with [`Doubts::Refuse`].
    ResumeImport,
}

/// What a store holds, as its user is told before its files are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// There is no store yet.
    pub is_new: bool,
    /// It has records beside those that a start itself writes.
    pub is_populated: bool,
    /// What the secrets of the data folder were known by when they were last used, by the names of their files; or why
    /// that cannot be read, which is a reason not to use them and none not to read the store.
    pub key_checks: Result<BTreeMap<String, String>, String>,
    /// What it is closed for: it takes no writes then.
    pub closed_for: Option<String>,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { is_new: false, is_populated: false, key_checks: Ok(BTreeMap::new()), closed_for: None }
    }
}

/// Asked before the files of a store are opened for use: whether they may be, and if not why. It may be asked twice.
pub type Admit<'a> = &'a mut dyn FnMut(&Kept) -> Result<(), String>;

/// What a rehearsal found.
struct Found {
    tally: Tally,
    /// Whether there are records of a newer program.
    newer: bool,
    kept: Kept,
    /// What the operator accepted.
    accepted: Vec<String>,
}

/// Opens the store in `dir`, whose lock the caller holds.
///
/// # Errors
/// [`OpenError`]; then nothing in the directory was changed.
pub(super) fn open(dir: &Path, doubts: Doubts) -> Result<Trees, OpenError> {
    open_admitted(dir, doubts, &mut |_| Ok(()))
}

/// Like [`open`], once `admit` has seen what is in it.
///
/// # Errors
/// As [`open`]; and [`OpenError::NotAdmitted`].
pub(super) fn open_admitted(dir: &Path, doubts: Doubts, admit: Admit<'_>) -> Result<Trees, OpenError> {
    clear(dir)?;
    let generation = Generation::present(dir)?;
    let folder = generation.folder.as_path();
    let snapshots = Snapshots::of(folder).map_err(OpenError::io(folder))?;
    let testimony = witness::read(dir)?;
    let found = match fs::exists(folder.join("db")).map_err(OpenError::io(folder))? {
        true => Some(rehearse(dir, &generation, &snapshots, &testimony, doubts)?),
        false
            if generation.number > 0
                || matches!(testimony, Testimony::Acknowledged(1..))
                || !snapshots.valid.is_empty() =>
        {
            let mut why = format!("the file `{}` is missing", generation.name("db"));
            if generation.number == 0 {
                why.push_str(", and there is no folder `store.N` of a compacted store");
            }
            return Err(OpenError::corrupt(dir, why));
        }
        false => match &testimony {
            // The first start makes the database ahead of its witness.
            Testimony::Nothing(why) if fs::exists(dir.join(WITNESS)).map_err(OpenError::io(dir))? => {
                let why = format!("the file `{WITNESS}` {why}, and there is no database beside it");
                settle_doubts(dir, vec![why], doubts)?;
                None
            }
            // Nothing was ever acknowledged here.
            _ => None,
        },
    };
    let new = Kept { is_new: true, ..Kept::default() };
    admit(found.as_ref().map_or(&new, |found| &found.kept)).map_err(OpenError::NotAdmitted)?;
    let moved = snapshots.set_aside(folder).map_err(full_or(folder, &snapshots, OpenError::io(folder)))?;
    for path in moved {
        tracing::warn!(
            "what was no snapshot of the store, and would have kept it from opening, is now {}",
            path.display()
        );
    }
    let trees = Trees::open(generation.clone(), dir, For::Use).and_then(|trees| {
        generation.sync_names(dir).map_err(OpenError::io(folder))?;
        Ok(trees)
    });
    let trees = trees.map_err(|error| {
        // The first error is the one to tell; the next start sets aside what is left here.
        let _ = Snapshots::remove_new(folder, &Snapshots::default());
        no_room(folder, &snapshots, error)
    })?;
    let Some(Found { tally, newer, accepted, .. }) = found else {
        trees.set_tally(Tally::default());
        trees.set_may_hold_newer(false);
        return Ok(trees);
    };
    trees.set_tally(tally);
    trees.set_may_hold_newer(newer);
    upgrade(&trees).map_err(|error| match error {
        StoreError::Unavailable(why) => {
            OpenError::Io { path: folder.to_owned(), source: std::io::Error::other(why) }
        }
        damaged => OpenError::corrupt(dir, damaged.to_string()),
    })?;
    if !accepted.is_empty() {
        accepted.iter().for_each(|doubt| tracing::warn!("accepted as it is: {doubt}"));
        // From here on this is what was acknowledged.
        trees.apply(Writes::new(), 1).and_then(|()| trees.sync()).map_err(|error| OpenError::Io {
            path: dir.join(WITNESS),
            source: std::io::Error::other(error.to_string()),
        })?;
    }
    Ok(trees)
}

/// Where a copy goes when the disk of the store has no room for one: memory that looks like a disk.
const MEMORY: &str = "/dev/shm";

/// A copy of a store in memory, which goes with this value.
pub(super) struct MemoryCopy(PathBuf);

impl Drop for MemoryCopy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "{} is left: remove it", self.0.display());
        }
    }
}

/// Opens a copy of the store in memory, to read from while its disk is full. Nothing may be written to it.
///
/// # Errors
/// [`OpenError`]; no room, too, where there is no memory for it.
pub(super) fn open_in_memory(
    dir: &Path,
    doubts: Doubts,
    admit: Admit<'_>,
) -> Result<(Trees, MemoryCopy), OpenError> {
    let whole = fs::canonicalize(dir).map_err(OpenError::io(dir))?;
    let path = Sha256::digest(whole.as_os_str().as_encoded_bytes());
    let name = format!("palisade.{}", hex::encode(&path[..16]));
    // One name for one store, whose lock we hold: what a killed process left is found again.
    let copy = Path::new(MEMORY).join(name);
    match fs::remove_dir_all(&copy) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(OpenError::Io { path: copy, source: error });
        }
        _ => {}
    }
    let generation = Generation::present(dir)?;
    let folder = generation.folder.as_path();
    let snapshots = Snapshots::of(folder).map_err(OpenError::io(folder))?;
    let testimony = witness::read(dir)?;
    // Before the copy is made, so that what was made of it goes when there is no room.
    let guard = MemoryCopy(copy);
    files::copy_engine_files(folder, &guard.0, &snapshots.valid).map_err(OpenError::io(&guard.0))?;
    let of_copy = Generation { number: generation.number, folder: guard.0.clone() };
    let trees = Trees::open(of_copy, dir, For::Rehearsal)?;
    let (tally, kept, found) = judge(dir, &trees, &testimony, doubts)?;
    settle_doubts(dir, found, doubts)?;
    admit(&kept).map_err(OpenError::NotAdmitted)?;
    trees.set_tally(tally);
    Ok((trees, guard))
}

/// What can be told of the store in `dir` without opening it, for an operator who asks before a start.
#[must_use]
pub fn look(dir: &Path) -> Option<String> {
    if !is_there(dir) {
        return None;
    }
    if let Err(error) = Generation::present(dir) {
        return Some(error.to_string());
    }
    match witness::read(dir) {
        Ok(Testimony::Acknowledged(_)) => None,
        Ok(Testimony::Nothing(why)) => Some(format!(
            "the file {} {why}: unless the store beside it is empty, the next start refuses it, because nothing shows \
             whether it is whole. Put the file back from a backup, or go on with what is there by \
             `palisade run --accept-store-as-it-is`",
            dir.join(WITNESS).display()
        )),
        Err(error) => Some(error.to_string()),
    }
}

fn settle_doubts(dir: &Path, found: Vec<String>, doubts: Doubts) -> Result<Vec<String>, OpenError> {
    match doubts {
        Doubts::Refuse | Doubts::ResumeImport if !found.is_empty() => {
            Err(OpenError::Doubtful { dir: dir.to_owned(), why: found.join("; ") })
        }
        _ => Ok(found),
    }
}

/// Opens a copy of the store and reads it to its end.
fn rehearse(
    dir: &Path,
    generation: &Generation,
    snapshots: &Snapshots,
    testimony: &Testimony,
    doubts: Doubts,
) -> Result<Found, OpenError> {
    let (copy, folder) = (dir.join(REHEARSAL), generation.folder.as_path());
    let of_copy = Generation { number: generation.number, folder: copy.clone() };
    let copied = files::copy_engine_files(folder, &copy, &snapshots.valid).map_err(OpenError::io(&copy));
    let outcome = copied.and_then(|()| Trees::open(of_copy, dir, For::Rehearsal)).and_then(|trees| {
        judge(dir, &trees, testimony, doubts).map(|judged| (judged, trees.may_hold_newer()))
    });
    let outcome = outcome.map_err(|error| no_room(folder, snapshots, error));
    clear(dir)?;
    let ((tally, kept, found), newer) = outcome?;
    Ok(Found { tally, newer, kept, accepted: settle_doubts(dir, found, doubts)? })
}

/// What is in a store, and what speaks against its being whole.
fn judge(
    dir: &Path,
    trees: &Trees,
    testimony: &Testimony,
    doubts: Doubts,
) -> Result<(Tally, Kept, Vec<String>), OpenError> {
    let read = || {
        let is_partly_imported = trees.get(&keys::importing())?.is_some();
        let tally = trees.count()?;
        let is_populated = read::is_populated(trees)?;
        let key_checks = read::key_checks(trees).map_err(|error| error.to_string());
        let closed_for = read::closed_for(trees)?;
        Ok((is_partly_imported, tally, Kept { is_new: false, is_populated, key_checks, closed_for }))
    };
    let why = match read() {
        // An operator may accept doubts; a part of a store is none.
        Ok((true, ..)) if doubts != Doubts::ResumeImport => {
            return Err(OpenError::PartlyImported { dir: dir.to_owned() });
        }
        Ok((_, tally, kept)) => return Ok((tally, kept, doubts_about(trees, &tally, testimony))),
        Err(error) => StoreError::into_why(error),
    };
    Err(OpenError::corrupt(dir, format!("the file `{}` is damaged ({why})", trees.generation().name("db"))))
}

fn doubts_about(trees: &Trees, counted: &Tally, testimony: &Testimony) -> Vec<String> {
    let (sequence, db) = (trees.sequence(), trees.generation().name("db"));
    let mut doubts = Vec::new();
    match testimony {
        Testimony::Acknowledged(acknowledged) if *acknowledged > sequence => doubts.push(format!(
            "the file `{db}` ends too early: {acknowledged} changes were acknowledged, as `{WITNESS}` says, and only \
             {sequence} are left"
        )),
        Testimony::Nothing(why) if sequence > 0 => doubts.push(format!(
            "the file `{WITNESS}` {why}, so nothing shows whether `{db}`, which has {sequence} changes, has all that \
             were acknowledged"
        )),
        _ => {}
    }
    match trees.tally() {
        Some(recorded) if recorded == *counted => {}
        Some(recorded) => doubts.push(format!(
            "a part of the file `{db}` is damaged or missing: {} records of {} bytes were written and {} of {} bytes are \
             there",
            recorded.records, recorded.bytes, counted.records, counted.bytes
        )),
        None if sequence == 0 && counted.records > 0 => {
            doubts.push(format!("a part of the file `{db}` is missing: it does not say how many changes it has"));
        }
        // Of version 0.1.0: that every index agrees with its records is all that can be known.
        None => doubts.extend(verified(trees).err().map(|error| format!("the file `{db}` is damaged: {error}"))),
    }
    doubts
}

fn verified(trees: &Trees) -> Result<(), StoreError> {
    let verified = catch_unwind(AssertUnwindSafe(|| verify(trees)));
    verified.unwrap_or_else(|_| Err(StoreError::Unreadable("the engine cannot make sense of it".to_owned())))
}

fn clear(dir: &Path) -> Result<(), OpenError> {
    let copy = dir.join(REHEARSAL);
    match fs::remove_dir_all(&copy) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(OpenError::Io { path: copy, source: error }),
        _ => Ok(()),
    }
}

/// An error that is a full disk, in words that say how much is needed.
fn no_room(dir: &Path, snapshots: &Snapshots, error: OpenError) -> OpenError {
    match error {
        OpenError::Io { source, .. } if files::is_full(&source) => {
            let needed = files::engine_bytes(dir, &snapshots.valid) + BESIDE_THE_COPY;
            // What cannot be asked is called full: then the number says what would do.
            let free = files::free_bytes(dir).unwrap_or(0);
            OpenError::NoRoom { dir: dir.to_owned(), needed, free }
        }
        other => other,
    }
}

fn full_or(
    dir: &Path,
    snapshots: &Snapshots,
    otherwise: impl FnOnce(std::io::Error) -> OpenError,
) -> impl FnOnce(std::io::Error) -> OpenError {
    move |error| no_room(dir, snapshots, otherwise(error))
}

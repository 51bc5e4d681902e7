//! The one thread that changes the store.
//!
//! It takes commands in batches, decides them one after the other, writes what was accepted in one atomic
//! step, makes that durable, and only then answers. It must never acknowledge what is not synced. After a
//! failure it answers no to everything and tries to open the files afresh, because sled keeps refusing once
//! a write has failed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::compact::{self, Copy, GivenUp};
use super::draft::Draft;
use super::feed;
use super::files::{self, OpenError};
use super::import;
use super::keys::{self, Key};
use super::leases::LeaseCommand;
use super::opening::{self, Doubts};
use super::shared::StoreState;
use super::sweep::Step;
use super::trees::{Trees, Writes};
use palisade_core::domain::lease::Lease;
use palisade_core::domain::revocation::Revocation;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, CommitError, InForce, Position, StoreError};

/// How many commands share one sync.
const BATCH: usize = 16;
/// How long to leave a failing disk alone before trying again.
const RETRY: Duration = Duration::from_millis(500);

/// Why nothing is read or written while an import goes on, or after one that failed.
pub(super) const IMPORTING: &str = "an import into the store has not come to its end";

/// Why a closed store takes no change.
const CLOSED: &str = "its records are moved, or were moved, to another one";

pub(super) type Reply<T> = oneshot::Sender<Result<T, CommitError>>;

/// What is to be done, and where its outcome goes.
pub(super) enum Command {
    Commit(Vec<Change>, Reply<(Vec<Revocation>, Position)>),
    /// One step of a sweep, from behind this entry.
    Sweep(UnixTime, Option<Key>, Reply<Step>),
    /// Finish the copy and let it be the store. What was the store goes back, to be closed elsewhere.
    TakeOver(Box<Copy>, std::sync::mpsc::Sender<Result<Trees, GivenUp>>),
    /// One commit of an import.
    Import(import::Step, Reply<u64>),
    /// Closes the store for writing, and says what for; or opens it again.
    Close(Option<String>, Reply<()>),
    /// What secrets are known by, by the names of their files.
    KeyChecks(BTreeMap<String, String>, Reply<()>),
    /// A lease is claimed, extended or released.
    Lease(LeaseCommand, Reply<Option<Lease>>),
}

/// A command in the queue, with its place there.
pub(super) struct Queued {
    pub(super) command: Command,
    /// None for the one command that never has another of its kind in the queue.
    pub(super) _place: Option<OwnedSemaphorePermit>,
}

/// An outcome that waits for the sync: told whether that worked.
type Pending = Box<dyn FnOnce(Option<&str>)>;

/// Runs until every sender is gone.
pub(super) fn run(shared: &Arc<StoreState>, queue: &Receiver<Queued>) {
    let mut tried = Instant::now();
    loop {
        let writable = shared.writable.load(Ordering::Relaxed);
        let first = if writable {
            match queue.recv() {
                Ok(queued) => Some(queued),
                Err(_) => return,
            }
        } else {
            match queue.recv_timeout(RETRY) {
                Ok(queued) => Some(queued),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        if !writable && tried.elapsed() >= RETRY {
            recover(shared);
            tried = Instant::now();
        }
        let Some(first) = first else { continue };
        let commands = std::iter::once(first).chain(queue.try_iter().take(BATCH - 1));
        let (copies, batch): (Vec<_>, Vec<_>) =
            commands.partition(|queued| matches!(queued.command, Command::TakeOver(..)));
        if shared.writable.load(Ordering::Relaxed) {
            if let Err(why) = commit(shared, batch) {
                tracing::error!(why, "the store cannot write");
                shared.writable.store(false, Ordering::Relaxed);
                tried = Instant::now();
            }
        } else {
            for queued in batch {
                without_disk(shared, queued.command);
            }
        }
        for queued in copies {
            if let Command::TakeOver(copy, reply) = queued.command {
                // It waits until it is answered.
                let _ = reply.send(compact::take_over(shared, *copy));
                tried = Instant::now();
            }
        }
    }
}

/// Decides a batch, writes it, makes it durable, answers. The error is why the store can no longer write.
fn commit(shared: &StoreState, batch: Vec<Queued>) -> Result<(), String> {
    let guard = shared.trees.read().unwrap_or_else(PoisonError::into_inner);
    let Some(trees) = guard.as_ref() else {
        for queued in batch {
            refuse(queued.command, unavailable("the store is closed"));
        }
        return Err("the store is closed".into());
    };
    let mut pending: Vec<Pending> = Vec::with_capacity(batch.len());
    // sled may panic when its files fail it. The answers of the command at fault are then dropped, and
    // its caller is told so by the closed channel; the others get theirs below.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut draft = Draft::new(trees).with_leases(&shared.leases);
        for queued in batch {
            pending.push(decide(&mut draft, queued.command, shared));
        }
        let seen = draft.take_seen();
        let Some((writes, steps)) = draft.finish() else { return Ok(()) };
        if writes.contains_key(&keys::erased()) {
            shared.erased_now();
        }
        let is_imported = writes.get(&keys::importing()).is_some_and(Option::is_none);
        let noted = shared.note_written(writes.keys());
        let former = shared.keep_former(&writes, trees, &seen);
        trees.apply_over(writes, steps, &seen)?;
        drop(former);
        drop(noted);
        trees.sync()?;
        if is_imported {
            // What was imported comes through no subscription.
            shared.feed.restart(trees.sequence());
            shared.importing.store(false, Ordering::Relaxed);
        }
        Ok(())
    }));
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(StoreError::into_why(error)),
        Err(_) => Some("the storage engine gave up in the middle of a write".to_owned()),
    };
    shared.told_by(trees);
    if failure.is_some() {
        // Before the answers: a caller that gets one and asks for the status must not see the old one.
        shared.writable.store(false, Ordering::Relaxed);
    }
    for answer in pending {
        answer(failure.as_deref());
    }
    failure.map_or(Ok(()), Err)
}

fn decide(draft: &mut Draft<'_>, command: Command, shared: &StoreState) -> Pending {
    let is_import = matches!(command, Command::Import(..) | Command::TakeOver(..));
    if !is_import && shared.importing.load(Ordering::Relaxed) {
        refuse(command, unavailable(IMPORTING));
        return Box::new(|_| ());
    }
    if shared.closed.load(Ordering::Relaxed) && !matches!(command, Command::Close(..) | Command::TakeOver(..))
    {
        without_disk(shared, command);
        return Box::new(|_| ());
    }
    match command {
        Command::Close(what, reply) => {
            let closes = what.is_some();
            let decided = draft.step(|draft| draft.close(what));
            if decided.is_ok() {
                // Before the mark is durable: what comes behind it in this batch is refused as well.
                shared.closed.store(closes, Ordering::Relaxed);
            }
            later(decided.map_err(CommitError::Store), reply)
        }
        Command::Commit(changes, reply) => {
            let in_force = InForce::of(&changes);
            let decided = draft.commit(changes);
            // As it is counted when the batch is written.
            let number = draft.trees.sequence() + draft.steps();
            let feed = Arc::clone(&shared.feed);
            Box::new(move |failure| {
                if let (Ok(entries), None) = (&decided, failure) {
                    feed.publish(number, in_force.among(entries).cloned().collect());
                }
                later(decided.map(|entries| (entries, feed::position(number))), reply)(failure);
            })
        }
        Command::Sweep(now, after, reply) => {
            later(draft.step(|draft| draft.sweep(now, after.as_ref())).map_err(CommitError::Store), reply)
        }
        Command::Import(step, reply) => {
            let begins = matches!(step, import::Step::Begin | import::Step::Resume);
            let decided = draft.step(|draft| draft.import(step));
            if begins && decided.is_ok() {
                shared.importing.store(true, Ordering::Relaxed);
            }
            later(decided, reply)
        }
        // Taken out of the batch before.
        Command::TakeOver(..) => Box::new(|_| ()),
        Command::KeyChecks(checks, reply) => {
            let put = |draft: &mut Draft<'_>| {
                for (file, check) in &checks {
                    draft.write(keys::key_check(file), check)?;
                }
                Ok::<_, StoreError>(())
            };
            later(draft.step(put).map_err(CommitError::Store), reply)
        }
        Command::Lease(command, reply) => {
            let decided = shared.leases.decide(draft, command);
            let leases = Arc::clone(&shared.leases);
            Box::new(move |failure| {
                if failure.is_some() && matches!(decided, Ok((_, true))) {
                    leases.forget();
                }
                later(decided.map(|(lease, _)| lease).map_err(CommitError::Store), reply)(failure);
            })
        }
    }
}

fn later<T: 'static>(decided: Result<T, CommitError>, reply: Reply<T>) -> Pending {
    Box::new(move |failure| {
        let answer = match (decided, failure) {
            // Not the refusals either: they may rest on a neighbour that is not durable.
            (decided, Some(why)) if decided.as_ref().err().is_none_or(CommitError::is_overtaken) => {
                Err(StoreError::Unavailable(why.to_owned()).into())
            }
            (decided, _) => decided,
        };
        // A caller that left does not need its answer; the change stands.
        let _ = reply.send(answer);
    })
}

/// What is answered while the disk takes no writes, or the store is closed for writing.
fn without_disk(shared: &StoreState, command: Command) {
    let why = match shared.is_partly_imported.load(Ordering::Relaxed) {
        true => unavailable(IMPORTING),
        false if shared.closed.load(Ordering::Relaxed) => StoreError::Closed(CLOSED.to_owned()),
        false => unavailable("an earlier write failed and the disk has not recovered"),
    };
    match command {
        Command::Lease(command, reply) => match shared.leases.decide_in_memory(command) {
            Some(answer) => drop(reply.send(Ok(answer))),
            None => refuse(Command::Lease(command, reply), why),
        },
        command => refuse(command, why),
    }
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable(why.to_owned())
}

fn refuse(command: Command, why: StoreError) {
    let error = why.into();
    // As above, the caller may be gone.
    match command {
        Command::Commit(_, reply) => drop(reply.send(Err(error))),
        Command::Sweep(_, _, reply) => drop(reply.send(Err(error))),
        // Refused by itself, since the store is not writable.
        Command::TakeOver(..) => {}
        Command::Import(_, reply) => drop(reply.send(Err(error))),
        Command::KeyChecks(_, reply) | Command::Close(_, reply) => drop(reply.send(Err(error))),
        Command::Lease(_, reply) => drop(reply.send(Err(error))),
    }
}

/// Opens the files afresh once the disk takes writes again, and shows it with a write. A part of an import stays one, so
/// its files are opened once and not again: each time takes a copy of all of them.
pub(super) fn recover(shared: &StoreState) {
    if shared.is_partly_imported.load(Ordering::Relaxed) {
        return;
    }
    if let Err(e) = files::probe(&shared.dir) {
        tracing::warn!(error = %e, "the store's disk still takes no writes");
        return;
    }
    // What was written and not synced may be gone: a copy that is being made must not be finished.
    shared.opened.fetch_add(1, Ordering::Release);
    let mut in_memory = shared.in_memory.lock().unwrap_or_else(PoisonError::into_inner);
    // Dropped before the new one is opened: sled holds a lock on its file. A copy in memory is another file, and is
    // read from until there is something better.
    if in_memory.is_none() {
        let old = shared.trees.write().unwrap_or_else(PoisonError::into_inner).take();
        if catch_unwind(AssertUnwindSafe(|| drop(old))).is_err() {
            tracing::warn!("the storage engine did not close cleanly");
        }
    }
    let opened = match opening::open(&shared.dir, Doubts::Refuse) {
        Ok(opened) => opened,
        Err(e @ OpenError::PartlyImported { .. }) => {
            shared.is_partly_imported.store(true, Ordering::Relaxed);
            tracing::error!(error = %e, "the store does not open again, and is not tried again");
            return;
        }
        Err(e) => {
            tracing::error!(error = %e, "the store does not open again");
            return;
        }
    };
    let mut trees = shared.trees.write().unwrap_or_else(PoisonError::into_inner);
    let copy = trees.replace(opened);
    if catch_unwind(AssertUnwindSafe(|| drop(copy))).is_err() {
        tracing::warn!("the storage engine did not close cleanly");
    }
    *in_memory = None;
    let Some(opened) = trees.as_ref() else { return };
    match catch_unwind(AssertUnwindSafe(|| opened.apply(Writes::new(), 1).and_then(|()| opened.sync()))) {
        Ok(Ok(())) => {
            shared.told_by(opened);
            shared.feed.restart(opened.sequence());
            // A store that was only partly filled would not have opened.
            shared.importing.store(false, Ordering::Relaxed);
            shared.writable.store(true, Ordering::Relaxed);
            tracing::info!("the store writes again");
        }
        Ok(Err(e)) => tracing::warn!(error = %e, "the store still cannot write"),
        Err(_) => tracing::warn!("the storage engine gave up on the first write"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::store::witness::WITNESS;

    fn store(dir: &std::path::Path) -> StoreState {
        StoreState::new(dir, opening::open(dir, Doubts::Refuse).unwrap(), None, false)
    }

    fn write(shared: &StoreState, key: Key) {
        let trees = shared.trees.read().unwrap();
        let trees = trees.as_ref().unwrap();
        trees.apply(Writes::from([(key, Some(Vec::new().into()))]), 1).unwrap();
        trees.sync().unwrap();
    }

    fn refusal(shared: &StoreState) -> String {
        let (reply, mut answer) = oneshot::channel();
        without_disk(shared, Command::Commit(Vec::new(), reply));
        answer.try_recv().unwrap().unwrap_err().to_string()
    }

    /// The first commit of an import has reached the disk, and its sync has failed.
    #[test]
    fn files_that_hold_a_part_of_an_import_are_opened_once_and_not_again() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        write(&shared, keys::importing());
        shared.writable.store(false, Ordering::Relaxed);
        assert!(refusal(&shared).contains("the disk has not recovered"));
        for _ in 0..3 {
            recover(&shared);
        }
        assert_eq!(shared.opened.load(Ordering::Relaxed), 1);
        assert!(!shared.writable.load(Ordering::Relaxed) && shared.trees.read().unwrap().is_none());
        assert!(refusal(&shared).contains(IMPORTING), "{}", refusal(&shared));
    }

    #[test]
    fn files_that_could_not_be_opened_for_another_reason_are_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let shared = store(dir.path());
        write(&shared, keys::erased());
        shared.writable.store(false, Ordering::Relaxed);
        let (witness, away) = (dir.path().join(WITNESS), dir.path().join("away"));
        std::fs::rename(&witness, &away).unwrap();
        for times in 1..=2 {
            recover(&shared);
            assert_eq!(shared.opened.load(Ordering::Relaxed), times);
            assert!(!shared.writable.load(Ordering::Relaxed) && shared.trees.read().unwrap().is_none());
        }
        std::fs::rename(&away, &witness).unwrap();
        recover(&shared);
        assert!(shared.writable.load(Ordering::Relaxed));
    }
}

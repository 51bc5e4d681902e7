//! Notes that several worlds over one fake store share. For tests only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use palisade_core::ports::{Note, NoteKey, NoteKind, NotePut, NotesRead, SharedNotes, StoreError};

struct Kept {
    note: Note,
    ends_at: Duration,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<NoteKey, Kept>,
    revisions: u64,
    now: Duration,
}

/// Notes in memory, whose clock stands still until it is moved.
#[derive(Default)]
pub struct FakeNotes {
    state: Mutex<State>,
    broken: AtomicBool,
    round_trips: AtomicU64,
}

impl FakeNotes {
    /// Moves the clock by which notes end.
    pub fn pass(&self, span: Duration) {
        self.state().now += span;
    }

    /// Whether every later call fails.
    pub fn fail(&self, fails: bool) {
        self.broken.store(fails, Ordering::Relaxed);
    }

    /// How many calls there were.
    pub fn counts(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// How many there are of this kind, ended ones included.
    pub fn count(&self, kind: NoteKind) -> usize {
        self.state().kept.keys().filter(|key| key.kind == kind).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        match self.broken.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("a fake".to_owned())),
            false => Ok(()),
        }
    }
}

impl State {
    fn live(&self, key: NoteKey) -> Option<&Note> {
        self.kept.get(&key).filter(|kept| self.now < kept.ends_at).map(|kept| &kept.note)
    }
}

#[async_trait]
impl SharedNotes for FakeNotes {
    async fn notes(&self, keys: &[NoteKey]) -> Result<NotesRead, StoreError> {
        self.check()?;
        let state = self.state();
        let notes = keys.iter().map(|key| state.live(*key).cloned()).collect();
        Ok(NotesRead { now: state.now, notes })
    }

    async fn put_notes(&self, puts: Vec<NotePut>) -> Result<Vec<bool>, StoreError> {
        self.check()?;
        // Another task comes in between a read and the write that rests on it.
        tokio::task::yield_now().await;
        let mut state = self.state();
        let mut written = Vec::new();
        for NotePut { key, before, body, life } in puts {
            let is_as_read = state.live(key).map(|note| note.revision) == before;
            written.push(is_as_read);
            if is_as_read {
                state.revisions += 1;
                let (revision, ends_at) = (state.revisions, state.now + life);
                state.kept.insert(key, Kept { note: Note { body, revision }, ends_at });
            }
        }
        Ok(written)
    }

    async fn take_note(&self, key: NoteKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.check()?;
        let mut state = self.state();
        let now = state.now;
        Ok(state.kept.remove(&key).filter(|kept| now < kept.ends_at).map(|kept| kept.note.body))
    }

    async fn remove_notes(&self, keys: &[NoteKey]) -> Result<(), StoreError> {
        self.check()?;
        let mut state = self.state();
        keys.iter().for_each(|key| drop(state.kept.remove(key)));
        Ok(())
    }

    async fn trim_notes(&self) -> Result<u64, StoreError> {
        self.check()?;
        let mut state = self.state();
        let (before, now) = (state.kept.len(), state.now);
        state.kept.retain(|_, kept| now < kept.ends_at);
        for kind in NoteKind::ALL {
            let of_kind = state.kept.iter().filter(|(key, _)| key.kind == kind);
            let mut by_end: Vec<_> = of_kind.map(|(key, kept)| (kept.ends_at, *key)).collect();
            by_end.sort();
            let excess = by_end.len().saturating_sub(kind.most() as usize);
            by_end.iter().take(excess).for_each(|(_, key)| drop(state.kept.remove(key)));
        }
        Ok((before - state.kept.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What the use cases are tested with is what they get.
    #[tokio::test]
    async fn the_fake_notes_conform() {
        let notes = Arc::new(FakeNotes::default());
        let clock = Arc::clone(&notes);
        crate::note_conformance::notes(&*notes, async |span| clock.pass(span)).await;
    }
}

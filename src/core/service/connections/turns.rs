//! Single-flight: one task at a time for each connection. A task that refreshes it, replaces its tokens or ends it
//! waits for its turn.
//!
//! A caller that waits while another refreshes gets the result of that refresh, so a thousand callers at once cause
//! one call. A result that was replaced or ended since is handed to no caller. The entry of a connection is removed
//! when no caller waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::ConnectionError;
use crate::domain::connection::{Connection, ConnectionId};

/// What a refresh came to.
pub(super) type Refreshed = Result<Connection, ConnectionError>;

/// The connections with a turn that is held or waited for.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<ConnectionId, Arc<Slot>>>);

#[derive(Default)]
struct Slot {
    /// How many refreshes have ended.
    ended: AtomicU64,
    /// The result of the last refresh; the holder of the lock has the turn.
    last: Arc<tokio::sync::Mutex<Option<Refreshed>>>,
}

/// A place in the queue.
struct Place {
    turns: Arc<Turns>,
    id: ConnectionId,
    slot: Arc<Slot>,
    /// [`Slot::ended`] when it queued up.
    seen: u64,
}

/// The only one who may touch the tokens of a connection now.
pub(super) struct Turn {
    // Dropped before the place is left.
    last: OwnedMutexGuard<Option<Refreshed>>,
    place: Place,
}

impl Turns {
    /// Waits until it is our turn with `id`.
    pub(super) async fn turn(self: &Arc<Turns>, id: ConnectionId) -> Turn {
        let slot = Arc::clone(self.lock().entry(id).or_default());
        let seen = slot.ended.load(Ordering::Acquire);
        let place = Place { turns: Arc::clone(self), id, slot, seen };
        let last = Arc::clone(&place.slot.last).lock_owned().await;
        Turn { last, place }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Arc<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections are waited for.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// How many wait for `id`, or have their turn.
    pub(super) fn queued(&self, id: ConnectionId) -> usize {
        self.lock().get(&id).map_or(0, |slot| Arc::strong_count(slot) - 1)
    }
}

impl Turn {
    /// What the refresh came to that ended while we waited.
    pub(super) fn meanwhile(&self) -> Option<Refreshed> {
        let others = self.place.slot.ended.load(Ordering::Acquire) != self.place.seen;
        self.last.clone().filter(|_| others)
    }

    /// What the last refresh brought counts no more: who waits by now must look for themselves.
    pub(super) fn replaced(&mut self) {
        *self.last = None;
    }

    /// Hands the outcome of our refresh to all who wait by now.
    pub(super) fn ended(&mut self, outcome: Refreshed) {
        *self.last = Some(outcome);
        self.place.slot.ended.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut slots = self.turns.lock();
        // Ours and the map's: references are taken under the lock, so no other task can be about to take one.
        if Arc::strong_count(&self.slot) == 2 {
            slots.remove(&self.id);
        }
    }
}

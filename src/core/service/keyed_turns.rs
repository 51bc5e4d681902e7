//! One task at a time for each key: a second one waits until the first has dropped its turn.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// The keys with a turn that is held or waited for. An entry is removed with the last of them, so what is kept is
/// bounded by the requests that are under way.
#[derive(Debug)]
pub(super) struct KeyedTurns<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for KeyedTurns<K> {
    fn default() -> KeyedTurns<K> {
        KeyedTurns(Mutex::default())
    }
}

/// The turn with one key, until it is dropped.
#[derive(Debug)]
pub(super) struct KeyedTurn<K: Eq + Hash> {
    // Dropped before the place is left.
    _held: OwnedMutexGuard<()>,
    place: Place<K>,
}

#[derive(Debug)]
struct Place<K: Eq + Hash> {
    turns: Arc<KeyedTurns<K>>,
    key: K,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<K: Eq + Hash + Clone> KeyedTurns<K> {
    /// Waits for the turn with `key`.
    pub(super) async fn turn(self: &Arc<Self>, key: K) -> KeyedTurn<K> {
        let lock = Arc::clone(self.locks().entry(key.clone()).or_default());
        let place = Place { turns: Arc::clone(self), key, lock };
        let held = Arc::clone(&place.lock).lock_owned().await;
        KeyedTurn { _held: held, place }
    }
}

impl<K> KeyedTurns<K> {
    fn locks(&self) -> MutexGuard<'_, HashMap<K, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> KeyedTurn<K> {
    /// What it is a turn with.
    pub(super) fn key(&self) -> &K {
        &self.place.key
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut locks = self.turns.locks();
        // Ours and the map's: references are taken under the lock, so no other task can be about to take one.
        if Arc::strong_count(&self.lock) == 2 {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_has_one_turn_at_a_time_and_leaves_nothing_behind() {
        let turns = Arc::new(KeyedTurns::default());
        let first = turns.turn("a").await;
        let other = turns.turn("b").await;
        assert_eq!((first.key(), other.key()), (&"a", &"b"));
        let mut second = Box::pin(turns.turn("a"));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        let held = second.await;
        assert_eq!(turns.locks().len(), 2);
        // One that gives up while it waits.
        let mut gone = Box::pin(turns.turn("a"));
        assert!(futures::poll!(&mut gone).is_pending());
        drop(gone);
        drop((held, other));
        assert!(turns.locks().is_empty());
    }
}

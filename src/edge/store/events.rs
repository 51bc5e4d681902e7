//! The events that are kept: of each account, and of none, the latest of two kinds.
//!
//! Those that strangers can cause as often as they like have a list of their own, with a bound of its own, so that
//! they push out only one another. Keys tell what a new event replaces: no stored event is decoded to record one.
//!
//! Events also come of accounts that are gone: that one was deleted, and what is tried with its tokens later. They are
//! removed together, [`GONE_EVENTS_LIFE`] after the first of them.

use std::cmp::Reverse;

use super::draft::Draft;
use super::keys::{self, EventPlace, Key};
use super::record::decode;
use super::trees::Trees;
use palisade_core::domain::account::UserId;
use palisade_core::domain::audit::Event;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{EVENTS_KEPT, GONE_EVENTS_LIFE, STRANGERS_EVENTS_KEPT, StoreError};

impl Draft<'_> {
    /// Keeps a new event. The events of an account that is gone get an end.
    pub(super) fn record(&mut self, event: &Event) -> Result<(), StoreError> {
        if let Some(user) = event.user {
            self.file_if_gone(user, event.at)?;
        }
        self.keep_event(event)
    }

    /// Keeps an event in place of the oldest of its list. Numbered, so that a clock set back puts none in the wrong
    /// place.
    pub(super) fn keep_event(&mut self, event: &Event) -> Result<(), StoreError> {
        let strangers = event.is_strangers();
        let (list, other) = (keys::events(event.user, strangers), keys::events(event.user, !strangers));
        let newest = self.newest_event(&list)?;
        let order = newest.map(|place| place.order).max(self.newest_event(&other)?.map(|place| place.order));
        let number = newest.map_or(0, |place| place.number + 1);
        let place = EventPlace { number, order: order.map_or(0, |order| order + 1) };
        self.write(place.key(&list), event)?;
        let kept = if strangers { STRANGERS_EVENTS_KEPT } else { EVENTS_KEPT };
        if let Some(oldest) = number.checked_sub(kept as u64)
            && let Some(key) = self.last_under(&keys::numbered_event(&list, oldest))?
        {
            self.evict(key);
        }
        Ok(())
    }

    /// Gives the events of an account an end if it is gone and they have none.
    fn file_if_gone(&mut self, user: UserId, at: UnixTime) -> Result<(), StoreError> {
        let key = keys::gone_user(user);
        if !self.has(&keys::user(user))? && !self.has(&key)? {
            let end = at.plus(GONE_EVENTS_LIFE);
            self.index(keys::due(end, &key));
            self.write(key, &end)?;
        }
        Ok(())
    }

    /// The end has come that was filed at `key`.
    pub(super) fn forget_gone(&mut self, key: Key) -> Result<(), StoreError> {
        let user = keys::gone_user_id(&key)?;
        self.remove(key)?;
        // An account never comes back; if one did, its events are its own.
        if self.has(&keys::user(user))? { Ok(()) } else { self.remove_events(user) }
    }

    fn newest_event(&self, list: &[u8]) -> Result<Option<EventPlace>, StoreError> {
        self.last_under(list)?.map(|key| EventPlace::read(list, &key)).transpose()
    }

    /// Removes every event of an account, and the end that they were given if it had been gone before.
    pub(super) fn forget_events(&mut self, user: UserId) -> Result<(), StoreError> {
        let key = keys::gone_user(user);
        if let Some(bytes) = self.get(&key)? {
            self.evict(keys::due(decode(&key, &bytes)?, &key));
            self.remove(key)?;
        }
        self.remove_events(user)
    }

    fn remove_events(&mut self, user: UserId) -> Result<(), StoreError> {
        for strangers in [false, true] {
            for event in self.under(&keys::events(Some(user), strangers))? {
                self.evict(event);
            }
        }
        Ok(())
    }
}

/// At most `limit` events of an account, or of none, newest first.
pub(super) fn events(trees: &Trees, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, StoreError> {
    let mut newest = Vec::new();
    for list in [false, true].map(|strangers| keys::events(user, strangers)) {
        for entry in trees.under(&list).rev().take(limit) {
            let (key, bytes) = entry?;
            newest.push((Reverse(EventPlace::read(&list, &key)?.order), key, bytes));
        }
    }
    newest.sort_by_key(|(order, ..)| *order);
    newest.iter().take(limit).map(|(_, key, bytes)| decode(key, bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::store::generation::Generation;
    use crate::edge::store::record::encode;
    use crate::edge::store::trees::{For, Writes};
    use crate::edge::store::verify::verify;
    use palisade_core::domain::audit::Outcome;
    use palisade_core::ports::Change;
    use palisade_testing::conformance::event;

    /// A list of before there were two: its keys have no order, and strangers' events are among the others.
    #[test]
    fn a_single_list_of_an_earlier_version_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let generation = Generation { number: 0, folder: folder.path().to_owned() };
        let trees = Trees::open(generation, folder.path(), For::Use).unwrap();
        let denied = |id| Event { outcome: Outcome::Denied, ..event(Some(1), id) };
        let user = event(Some(1), 1).user;
        let (kept, first) = (EVENTS_KEPT as u64, 50);
        let list = keys::events(user, false);
        let former = (first..first + kept).map(|n| {
            let event = if n % 2 == 0 { denied(n.into()) } else { event(Some(1), n.into()) };
            (keys::numbered_event(&list, n), Some(encode(keys::Table::Event, &event).unwrap().into()))
        });
        trees.apply(former.collect::<Writes>(), 1).unwrap();
        verify(&trees).unwrap();
        let ids =
            || events(&trees, user, usize::MAX).unwrap().iter().map(|e| e.id.as_u128()).collect::<Vec<_>>();
        let all = |range: std::ops::Range<u64>| range.rev().map(u128::from).collect::<Vec<_>>();
        assert_eq!(ids(), all(first..first + kept));

        let mut draft = Draft::new(&trees);
        draft
            .commit(vec![Change::Record(vec![event(Some(1), 1000), denied(1001), event(Some(1), 1002)])])
            .unwrap();
        let (writes, steps) = draft.finish().unwrap();
        trees.apply(writes, steps).unwrap();
        verify(&trees).unwrap();
        assert_eq!(ids(), [&[1002, 1001, 1000], &all(first + 2..first + kept)[..]].concat());

        let mut draft = Draft::new(&trees);
        draft.commit(vec![Change::DeleteUser(user.unwrap())]).unwrap();
        let (writes, steps) = draft.finish().unwrap();
        trees.apply(writes, steps).unwrap();
        assert_eq!(ids(), [0; 0]);
        assert_eq!(trees.under(&keys::all(keys::Table::Event)).count(), 0, "of either form");
    }
}

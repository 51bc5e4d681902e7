//! Where the events of accounts lie: two lists of each account, numbered as they came.

use uuid::Uuid;

use super::keys::{Key, Table, key, misshapen};
use palisade_core::domain::account::UserId;
use palisade_core::ports::StoreError;

/// The beginning of the keys of one list of events: of a user or of no account, and of those that strangers can cause
/// or of all others.
pub(super) fn events(user: Option<UserId>, strangers: bool) -> Key {
    let list = u8::from(user.is_some()) | u8::from(strangers) << 1;
    match user {
        Some(user) => key(Table::Event, &[&[list], user.0.as_bytes()]),
        None => key(Table::Event, &[&[list]]),
    }
}

/// The account of the list of events that `key` belongs to ([`events`]); `None`: a list of no account.
pub(super) fn listed_account(key: &[u8]) -> Result<Option<UserId>, StoreError> {
    let (list, rest) = key.get(1..).and_then(<[u8]>::split_first).ok_or_else(misshapen)?;
    match list & 1 {
        0 => Ok(None),
        _ => {
            let id = rest.get(..16).and_then(|id| Uuid::from_slice(id).ok());
            id.map(|id| Some(UserId(id))).ok_or_else(misshapen)
        }
    }
}

/// The beginning of the key of the event with this number in `list`.
pub(super) fn numbered_event(list: &[u8], number: u64) -> Key {
    [list, &number.to_be_bytes()].concat()
}

/// Where an event is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventPlace {
    /// In its own list: without gaps, so that the number of the oldest follows from that of the newest.
    pub(super) number: u64,
    /// Among the events of both lists, in the order they came.
    pub(super) order: u64,
}

impl EventPlace {
    /// The key in `list`.
    pub(super) fn key(self, list: &[u8]) -> Key {
        [list, &self.number.to_be_bytes(), &self.order.to_be_bytes()].concat()
    }

    /// The place in a key of `list`. When there was one list, the number told the order.
    pub(super) fn read(list: &[u8], key: &[u8]) -> Result<EventPlace, StoreError> {
        let (number, order) =
            key.get(list.len()..).and_then(|place| place.split_first_chunk()).ok_or_else(misshapen)?;
        let number = u64::from_be_bytes(*number);
        let order = match order {
            [] => number,
            order => order.try_into().map(u64::from_be_bytes).map_err(|_| misshapen())?,
        };
        Ok(EventPlace { number, order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_of_events_begins_like_another() {
        let zero = Some(UserId(Uuid::nil()));
        let lists =
            [(None, false), (None, true), (zero, false), (zero, true)].map(|(user, s)| events(user, s));
        for list in &lists {
            let key = EventPlace { number: 1, order: 2 }.key(list);
            assert_eq!(lists.iter().filter(|other| key.starts_with(other)).count(), 1);
        }
    }

    #[test]
    fn the_place_of_an_event_comes_off_its_key_also_off_one_of_a_single_list() {
        let list = events(Some(UserId(Uuid::nil())), true);
        let place = EventPlace { number: 9, order: 300 };
        assert_eq!(EventPlace::read(&list, &place.key(&list)).unwrap(), place);
        assert!(place.key(&list).starts_with(&numbered_event(&list, 9)));
        let former = numbered_event(&list, 9);
        assert_eq!(EventPlace::read(&list, &former).unwrap(), EventPlace { number: 9, order: 9 });
        assert!(EventPlace::read(&list, &former[..former.len() - 1]).is_err());
        assert!(EventPlace::read(&list, &place.key(&list)[..former.len() + 3]).is_err());
    }
}

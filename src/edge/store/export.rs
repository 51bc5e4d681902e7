//! A walk over every record, page by page ([`palisade_core::ports::Records`]).
//!
//! A page is read without a lock, so the walk carries the number of the last commit with which it began: every write
//! raises that number in the same step, and a page that was read after one is refused.

use ::sled::IVec;
use uuid::Uuid;

use super::keys::{self, EventPlace, Key, Table};
use super::read::Issuers;
use super::record::{decode, decode_revocation, decode_session, newer};
use super::tally;
use super::trees::Trees;
use palisade_core::domain::account::UserId;
use palisade_core::ports::{Record, RecordCursor, RecordPage, StoreError, VersionedRecord};

/// The tables of records, in the order of the walk. `record::kind` says of every table whether it belongs here.
pub(super) const WALK: [Table; 16] = [
    Table::User,
    Table::Session,
    Table::Connection,
    Table::Link,
    Table::Revocation,
    Table::Version,
    Table::Task,
    Table::FormerTask,
    Table::Mail,
    Table::Mailbox,
    Table::GoneUser,
    Table::Event,
    Table::Clock,
    Table::KeyCheck,
    Table::FormerUsername,
    Table::Upgrade,
];

/// A page that is being read.
struct Page<'a> {
    trees: &'a Trees,
    limit: usize,
    issuers: Issuers,
    records: Vec<VersionedRecord>,
    /// The place of the last record.
    last: Key,
}

/// At most `limit` records from behind `after`, at least one where there is one.
pub(super) fn page(
    trees: &Trees,
    after: Option<&RecordCursor>,
    limit: usize,
) -> Result<RecordPage, StoreError> {
    let (began, place) = match after {
        Some(cursor) => place(cursor)?,
        None => {
            unknown_tables(trees)?;
            (sequence(trees)?, Key::new())
        }
    };
    let mut page =
        Page { trees, limit: limit.max(1), issuers: Issuers::default(), records: Vec::new(), last: place };
    let is_full = page.fill()?;
    if sequence(trees)? != began {
        return Err(StoreError::Unavailable(
            "the store has changed since the walk over its records began; begin again while nothing writes"
                .to_owned(),
        ));
    }
    let next = is_full.then(|| RecordCursor::from_bytes([&began.to_be_bytes()[..], &page.last].concat()));
    Ok(RecordPage { records: page.records, next })
}

/// The number of the last commit, as a read of the engine sees it: it changes in the same step as the records.
fn sequence(trees: &Trees) -> Result<u64, StoreError> {
    Ok(tally::decode(trees.get(&keys::sequence())?.as_deref())?.0)
}

/// The number with which the walk began, and the place of its last record.
fn place(cursor: &RecordCursor) -> Result<(u64, Key), StoreError> {
    let (began, place) = cursor.as_bytes().split_first_chunk().ok_or_else(no_place)?;
    let table = Table::of(place).ok_or_else(no_place)?;
    if !WALK.contains(&table) {
        return Err(no_place());
    }
    Ok((u64::from_be_bytes(*began), place.to_vec()))
}

fn no_place() -> StoreError {
    StoreError::Unreadable("no walk over the records of this store comes to that place".to_owned())
}

/// An export without the records of a table that this program does not know would be taken for whole.
pub(super) fn unknown_tables(trees: &Trees) -> Result<(), StoreError> {
    let unknown = (0..u8::MAX).filter(|table| Table::of(&[*table]).is_none());
    for table in unknown {
        if let Some(found) = trees.under(&[table]).next() {
            let (key, bytes) = found?;
            return Err(newer(&key, &bytes));
        }
    }
    Ok(())
}

/// The record at `key` of a table of the walk.
pub(super) fn record(
    trees: &Trees,
    issuers: &mut Issuers,
    table: Table,
    key: &[u8],
    bytes: &IVec,
) -> Result<Record, StoreError> {
    Ok(match table {
        Table::User => Record::User(decode(key, bytes)?),
        Table::Session => Record::Session(decode_session(key, bytes)?),
        Table::Connection => Record::Connection(Box::new(decode(key, bytes)?)),
        Table::Link => Record::Link(decode(key, bytes)?),
        Table::Revocation => {
            let standing = decode_revocation(key, bytes)?;
            Record::Revocation(issuers.whole(trees, key, standing)?)
        }
        Table::Version => {
            let (number, sub) = keys::versioned(key)?;
            let issuer = issuers.text(trees, number)?;
            Record::TokenVersion { issuer, sub, version: decode(key, bytes)? }
        }
        Table::Task | Table::FormerTask => Record::Task(decode(key, bytes)?),
        Table::Mail => Record::Mail(decode(key, bytes)?),
        Table::Mailbox => Record::Mailbox(decode(key, bytes)?),
        Table::GoneUser => Record::EventsEnd { user: keys::gone_user_id(key)?, at: decode(key, bytes)? },
        Table::Event => Record::Event(decode(key, bytes)?),
        Table::Clock => Record::ClockMark(decode(key, bytes)?),
        Table::KeyCheck => Record::KeyCheck { file: keys::checked_file(key)?, check: decode(key, bytes)? },
        Table::FormerUsername => {
            Record::FormerUsername { name: keys::former_fingerprint(key)?, user: decode(key, bytes)? }
        }
        Table::Upgrade => Record::Upgrade(decode(key, bytes)?),
        // No tables of the walk.
        Table::Sequence
        | Table::Issuer
        | Table::IssuerText
        | Table::Email
        | Table::Username
        | Table::Identity
        | Table::DueMail
        | Table::Due
        | Table::DueConnection
        | Table::Erased
        | Table::DueTask
        | Table::LeaseRun
        | Table::Importing
        | Table::Closed => return Err(no_place()),
    })
}

impl Page<'_> {
    /// Reads on until the page is full. Whether it is, with more behind it.
    fn fill(&mut self) -> Result<bool, StoreError> {
        let begun = Table::of(&self.last);
        let first = WALK.iter().position(|table| Some(*table) == begun);
        for (n, table) in WALK.into_iter().enumerate().skip(first.unwrap_or(0)) {
            let goes_on = first == Some(n);
            let is_full = match table {
                Table::Event => self.fill_events(goes_on)?,
                table => self.fill_from(table, goes_on)?,
            };
            if is_full {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn push(&mut self, place: Key, record: Record) {
        self.records.push(record.into());
        self.last = place;
    }

    fn fill_from(&mut self, table: Table, goes_on: bool) -> Result<bool, StoreError> {
        let start = if goes_on { keys::next(&self.last) } else { keys::all(table) };
        for entry in self.trees.range(start..keys::behind(table)) {
            if self.records.len() == self.limit {
                return Ok(true);
            }
            let (key, bytes) = entry?;
            let record = self.record(table, &key, &bytes)?;
            self.push(key.to_vec(), record);
        }
        Ok(false)
    }

    fn record(&mut self, table: Table, key: &[u8], bytes: &IVec) -> Result<Record, StoreError> {
        record(self.trees, &mut self.issuers, table, key, bytes)
    }

    /// The events of each account, and of none, in the order in which they came: of its two lists together. The place
    /// of one is its account's list and its order.
    fn fill_events(&mut self, goes_on: bool) -> Result<bool, StoreError> {
        let (mut account, mut after) = match goes_on {
            true => {
                let (list, order) = self.last.split_last_chunk().ok_or_else(no_place)?;
                (Account(keys::listed_account(list)?), Some(u64::from_be_bytes(*order)))
            }
            false => (Account(None), None),
        };
        loop {
            let list = keys::events(account.0, false);
            for (order, key, bytes) in account.events(self.trees, after)? {
                if self.records.len() == self.limit {
                    return Ok(true);
                }
                let record = self.record(Table::Event, &key, &bytes)?;
                self.push([&list[..], &order.to_be_bytes()].concat(), record);
            }
            match account.next(self.trees)? {
                Some(next) => (account, after) = (next, None),
                None => return Ok(false),
            }
        }
    }
}

/// An account that has events; `None`: the events that concern no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Account(pub(super) Option<UserId>);

impl Account {
    /// Its events behind `after`, by their order. There are few of them: both lists are bounded.
    fn events(self, trees: &Trees, after: Option<u64>) -> Result<Vec<(u64, IVec, IVec)>, StoreError> {
        let mut found = Vec::new();
        for list in [false, true].map(|strangers| keys::events(self.0, strangers)) {
            for entry in trees.under(&list) {
                let (key, bytes) = entry?;
                let order = EventPlace::read(&list, &key)?.order;
                if after.is_none_or(|after| order > after) {
                    found.push((order, key, bytes));
                }
            }
        }
        found.sort_by_key(|(order, ..)| *order);
        Ok(found)
    }

    /// The next account that has events in either list.
    pub(super) fn next(self, trees: &Trees) -> Result<Option<Account>, StoreError> {
        let from = match self.0 {
            Some(user) => match user.0.as_u128().checked_add(1) {
                Some(next) => UserId(Uuid::from_u128(next)),
                None => return Ok(None),
            },
            None => UserId(Uuid::nil()),
        };
        let mut found = None;
        for strangers in [false, true] {
            let last = keys::next(&keys::events(Some(UserId(Uuid::max())), strangers));
            // Behind every event of the highest account, whatever its place.
            let end = [&last[..last.len() - 1], &[u8::MAX; 17]].concat();
            if let Some(entry) = trees.range(keys::events(Some(from), strangers)..end).next() {
                let user = keys::listed_account(&entry?.0)?;
                found = match (found, user) {
                    (Some(found), Some(user)) => Some(user.min(found)),
                    (found, user) => found.or(user),
                };
            }
        }
        Ok(found.map(|user| Account(Some(user))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::edge::store::SledStore;
    use crate::edge::store::opening::{self, Doubts};
    use crate::edge::store::record::{Stored, kind};
    use crate::edge::store::trees::Writes;
    use palisade_core::ports::Records;
    use palisade_testing::transfer::{Pages, every_record};

    fn tables() -> impl Iterator<Item = Table> {
        (0..=u8::MAX).filter_map(|table| Table::of(&[table]))
    }

    /// Fails for a new table that holds records and is not walked.
    #[test]
    fn every_table_of_records_is_walked() {
        for table in tables() {
            assert_eq!(WALK.contains(&table), matches!(kind(table), Stored::Record(_)), "{table:?}");
        }
        let kinds = WALK.map(|table| match kind(table) {
            Stored::Record(kind) => kind,
            other => panic!("{other:?}"),
        });
        assert!(kinds.is_sorted(), "{kinds:?}");
    }

    /// Fails for a new table that the suites put nothing into.
    #[tokio::test]
    async fn the_suites_fill_every_table() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [filler, store] = folders.each_ref().map(|folder| SledStore::open(folder.path()).unwrap());
        store.import(&mut Pages::new([every_record(&*filler).await])).await.unwrap();
        let guard = store.shared.trees.read().unwrap();
        let filled: BTreeSet<u8> =
            guard.as_ref().unwrap().range(Key::new()..keys::end()).map(|entry| entry.unwrap().0[0]).collect();
        let expected = tables().filter(|table| {
            // No import leaves one of the first four behind, and version 0.1.0 alone writes the fifth.
            !matches!(
                table,
                Table::Erased | Table::Importing | Table::Closed | Table::LeaseRun | Table::FormerTask
            )
        });
        assert_eq!(filled, expected.map(|table| table as u8).collect());
    }

    #[tokio::test]
    async fn what_a_newer_program_wrote_is_not_left_out_of_an_export() {
        for newer in [&b"\xf0new"[..], b"\x06newer", b"\x0anewer"] {
            let folder = tempfile::tempdir().unwrap();
            let trees = opening::open(folder.path(), Doubts::Refuse).unwrap();
            trees.apply(Writes::from([(newer.to_vec(), Some(b"\x63".into()))]), 1).unwrap();
            let refused = page(&trees, None, 9);
            assert!(matches!(refused, Err(StoreError::Newer(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_place_of_another_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let trees = opening::open(folder.path(), Doubts::Refuse).unwrap();
        for place in [&b""[..], b"\0\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\0\x0e", b"\0\0\0\0\0\0\0\0\x0d"] {
            let refused = page(&trees, Some(&RecordCursor::from_bytes(place.to_vec())), 9);
            assert!(matches!(refused, Err(StoreError::Unreadable(_))), "{place:?}: {refused:?}");
        }
    }
}

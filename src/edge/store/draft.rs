//! What a batch of commits is going to write, before any of it is written.
//!
//! A commit reads through the draft, so it sees what it and the accepted commits before it wrote; it is
//! taken in whole or leaves no trace. Nothing here changes the disk.

use std::collections::BTreeSet;

use ::sled::IVec;

use super::keys::{self, Key, Table};
use super::record::{decode, encode};
use super::trees::{Trees, Writes};
use crate::domain::revocation::Revocation;
use crate::ports::{Change, CommitError, StoreError};

/// A batch in the making.
pub(super) struct Draft<'a> {
    pub(super) trees: &'a Trees,
    /// Of the steps that were taken in.
    settled: Writes,
    /// Of the step that is being decided.
    own: Writes,
    steps: u64,
}

impl<'a> Draft<'a> {
    pub(super) fn new(trees: &'a Trees) -> Draft<'a> {
        Draft { trees, settled: Writes::new(), own: Writes::new(), steps: 0 }
    }

    /// Decides one commit: takes in all of its changes, or none.
    pub(super) fn commit(&mut self, changes: Vec<Change>) -> Result<Vec<Revocation>, CommitError> {
        self.step(|draft| {
            let mut entries = Vec::new();
            for change in changes {
                entries.extend(draft.make(change)?);
            }
            Ok(entries)
        })
    }

    /// Takes in what `work` writes if it succeeds.
    pub(super) fn step<T, E>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let outcome = work(self);
        if outcome.is_err() {
            self.own.clear();
        } else if !self.own.is_empty() {
            self.settled.append(&mut self.own);
            self.steps += 1;
        }
        outcome
    }

    /// What is to be written, and the number of steps that it makes; `None` when there is nothing.
    pub(super) fn finish(self) -> Option<(Writes, u64)> {
        (self.steps > 0).then_some((self.settled, self.steps))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.own.get(key).or_else(|| self.settled.get(key)) {
            Some(written) => Ok(written.clone()),
            None => self.trees.get(key),
        }
    }

    pub(super) fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(key)?.is_some())
    }

    pub(super) fn put(&mut self, key: Key, value: impl Into<IVec>) {
        self.own.insert(key, Some(value.into()));
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.own.insert(key, None);
    }

    /// Every key that begins with `prefix`, in order.
    pub(super) fn under(&self, prefix: &[u8]) -> Result<BTreeSet<Key>, StoreError> {
        let mut found = BTreeSet::new();
        for entry in self.trees.under(prefix) {
            found.insert(entry?.0.to_vec());
        }
        for writes in [&self.settled, &self.own] {
            for (key, value) in written_under(writes, prefix) {
                match value {
                    Some(_) => found.insert(key.clone()),
                    None => found.remove(key),
                };
            }
        }
        Ok(found)
    }

    /// The highest key that begins with `prefix`; possibly one that this batch removes, never one below
    /// another that stays.
    pub(super) fn last_under(&self, prefix: &[u8]) -> Result<Option<Key>, StoreError> {
        let on_disk = self.trees.under(prefix).next_back().transpose()?.map(|(key, _)| key.to_vec());
        let written = |writes| written_under(writes, prefix).next_back().map(|(key, _)| key.clone());
        Ok(on_disk.max(written(&self.settled)).max(written(&self.own)))
    }

    /// The number of an issuer, given now if it has none.
    pub(super) fn issuer(&mut self, text: &str) -> Result<u32, StoreError> {
        let key = keys::issuer(text);
        if let Some(number) = self.get(&key)? {
            return decode("the number of an issuer", &number);
        }
        let number = match self.last_under(&keys::all(Table::IssuerText))? {
            Some(last) => keys::issuer_number(&last)?.checked_add(1),
            None => Some(0),
        }
        .ok_or_else(|| StoreError::Unavailable("there are too many issuers".to_owned()))?;
        self.put(key, encode(&number)?);
        self.put(keys::issuer_text(number), encode(&text)?);
        Ok(number)
    }
}

fn written_under<'w>(
    writes: &'w Writes,
    prefix: &'w [u8],
) -> impl DoubleEndedIterator<Item = (&'w Key, &'w Option<IVec>)> {
    // The end is found first, so that a look from behind meets the highest key of the prefix at once.
    let mut end = prefix.to_vec();
    while end.pop_if(|byte| *byte == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    writes.range(prefix.to_vec()..end)
}

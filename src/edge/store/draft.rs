//! What a batch of commits is going to write, before any of it is written.
//!
//! A commit reads through the draft, so it sees what it and the accepted commits before it wrote; it is
//! taken in whole or leaves no trace. Nothing here changes the disk.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ::sled::IVec;
use serde::Serialize;

use super::keys::{self, Key, Table};
use super::leases::RunLeases;
use super::record::{decode, encode, is_newer, is_versioned, newer};
use super::trees::{Seen, Trees, Writes};
use palisade_core::domain::revocation::Revocation;
use palisade_core::ports::{Change, CommitError, StoreError};

/// A batch in the making.
pub(super) struct Draft<'a> {
    pub(super) trees: &'a Trees,
    /// Of the steps that were taken in.
    settled: Writes,
    /// Of the step that is being decided.
    own: Writes,
    steps: u64,
    /// What the trees hold where it was looked at. Only the thread of the writer changes them, so each key is read
    /// once for a batch.
    seen: RefCell<Seen>,
    pub(super) leases: Option<&'a RunLeases>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(trees: &'a Trees) -> Draft<'a> {
        Draft {
            trees,
            settled: Writes::new(),
            own: Writes::new(),
            steps: 0,
            seen: RefCell::default(),
            leases: None,
        }
    }

    /// The same, for commits that may require a lease to stand.
    pub(super) fn with_leases(self, leases: &'a RunLeases) -> Draft<'a> {
        Draft { leases: Some(leases), ..self }
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

    /// How many steps were taken in so far.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// What it has read of the trees; they hold that until the batch is applied.
    pub(super) fn take_seen(&self) -> Seen {
        self.seen.take()
    }

    /// What is to be written, and the number of steps that it makes; `None` when there is nothing.
    pub(super) fn finish(self) -> Option<(Writes, u64)> {
        (self.steps > 0).then_some((self.settled, self.steps))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.own.get(key).or_else(|| self.settled.get(key)) {
            Some(written) => Ok(written.clone()),
            None => self.there(key),
        }
    }

    /// What the trees hold at `key`, whatever this batch writes there.
    fn there(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        if let Some(found) = self.seen.borrow().get(key) {
            return Ok(found.clone());
        }
        let found = self.trees.get(key)?;
        self.seen.borrow_mut().insert(key.to_vec(), found.clone());
        Ok(found)
    }

    pub(super) fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(key)?.is_some())
    }

    /// Writes a record.
    pub(super) fn write<T: Serialize>(&mut self, key: Key, value: &T) -> Result<(), StoreError> {
        let table = Table::of(&key).ok_or_else(|| newer(&key, &[]))?;
        self.put(key, encode(table, value)?)
    }

    /// Writes what is encoded already, unless a newer program wrote what is there.
    pub(super) fn put(&mut self, key: Key, value: impl Into<IVec>) -> Result<(), StoreError> {
        self.is_ours(&key)?;
        self.own.insert(key, Some(value.into()));
        Ok(())
    }

    /// Removes what is at `key`, unless a newer program wrote it.
    pub(super) fn remove(&mut self, key: Key) -> Result<(), StoreError> {
        self.is_ours(&key)?;
        self.evict(key);
        Ok(())
    }

    /// Writes an entry of an index, which says all that it says by its key.
    pub(super) fn index(&mut self, key: Key) {
        self.own.insert(key, Some(IVec::default()));
    }

    /// Writes a mark of the store itself, which is no record.
    pub(super) fn mark(&mut self, key: Key, value: &[u8]) {
        self.own.insert(key, Some(value.into()));
    }

    /// Removes an entry of an index, or what every program removes at its time without reading it.
    pub(super) fn evict(&mut self, key: Key) {
        self.own.insert(key, None);
    }

    /// Every write asks this, so that no path can forget to: what a newer program wrote stays as it is. A store that was
    /// read to its end when it was opened, and held nothing of the kind, need not be asked record by record.
    fn is_ours(&self, key: &[u8]) -> Result<(), StoreError> {
        if !self.trees.may_hold_newer()
            || !is_versioned(key)
            || self.own.contains_key(key)
            || self.settled.contains_key(key)
        {
            return Ok(());
        }
        match self.there(key)? {
            Some(there) if is_newer(key, &there) => Err(newer(key, &there)),
            _ => Ok(()),
        }
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
            return decode(&key, &number);
        }
        let number = match self.last_under(&keys::all(Table::IssuerText))? {
            Some(last) => keys::issuer_number(&last)?.checked_add(1),
            None => Some(0),
        }
        .ok_or_else(|| StoreError::Unavailable("there are too many issuers".to_owned()))?;
        self.write(key, &number)?;
        self.write(keys::issuer_text(number), &text)?;
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

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    use std::time::Duration;

    use super::*;
    use crate::edge::store::generation::Generation;
    use crate::edge::store::trees::For;
    use crate::edge::store::verify::verify;
    use palisade_core::domain::account::User;
    use palisade_core::domain::audit::Event;
    use palisade_core::domain::mail_cap::{CappedLetter, Caps, LetterRequest, Mailbox};
    use palisade_core::domain::revocation::Target;
    use palisade_core::domain::time::UnixTime;
    use palisade_core::ports::{GONE_EVENTS_LIFE, Precondition, Upgrade};
    use palisade_testing::conformance::{
        connection, event, link, mail, revocation, session, task, token, user,
    };

    fn opened() -> (tempfile::TempDir, Trees) {
        let folder = tempfile::tempdir().unwrap();
        let generation = Generation { number: 0, folder: folder.path().to_owned() };
        let trees = Trees::open(generation, folder.path(), For::Use).unwrap();
        (folder, trees)
    }

    fn apply(draft: Draft<'_>) {
        let trees = draft.trees;
        if let Some((writes, steps)) = draft.finish() {
            trees.apply(writes, steps).unwrap();
        }
    }

    #[test]
    fn a_record_of_an_unknown_version_stops_the_commit_that_meets_it_and_no_other() {
        let (_folder, trees) = opened();
        let mut draft = Draft::new(&trees);
        draft.commit(vec![Change::Revoke(revocation(token("t"), 1, 10))]).unwrap();
        apply(draft);
        let issuer = keys::issuer("https://id.test");
        let number = decode(&issuer, &trees.get(&issuer).unwrap().unwrap()).unwrap();
        let key = keys::revocation(token("t").key().0, number, "t");
        trees.apply(Writes::from([(key, Some(b"\x09".into()))]), 0).unwrap();

        let mut draft = Draft::new(&trees);
        let made = vec![Change::CreateLink(link(1, 5)), Change::Revoke(revocation(token("t"), 1, 20))];
        let error = draft.commit(made).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
        draft.commit(vec![Change::Revoke(revocation(token("u"), 1, 10))]).unwrap();
        let (writes, steps) = draft.finish().unwrap();
        assert_eq!((writes.len(), steps), (2, 1), "the neighbour's revocation and its end");
    }

    #[test]
    fn a_refused_commit_leaves_nothing_in_the_batch() {
        let (_folder, trees) = opened();
        let mut draft = Draft::new(&trees);
        draft.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).unwrap();
        let taken = vec![Change::CreateLink(link(1, 5)), Change::CreateUser(user(2, "ann@example.com"))];
        assert!(matches!(draft.commit(taken), Err(CommitError::EmailTaken)), "by a neighbour of this batch");
        let (writes, steps) = draft.finish().unwrap();
        assert_eq!((writes.len(), steps), (4, 1), "the account, its address, its user name and its identity");
        let mut draft = Draft::new(&trees);
        assert!(draft.commit(vec![Change::ConsumeLink(link(1, 5).hash)]).is_err());
        assert!(draft.finish().is_none(), "nothing to write, nothing to sync");
    }

    /// With the `n`-th of eight user names, or none.
    fn renamed(user: User, n: u64) -> User {
        let username = (n < 8).then(|| format!("name-{n}").parse().unwrap());
        User { username, ..user }
    }

    /// Every index agrees with its records after whatever was committed and swept, in batches of any size.
    #[test]
    fn no_sequence_of_commits_takes_an_index_and_its_records_apart() {
        let (_folder, trees) = opened();
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = BuildHasherDefault::<DefaultHasher>::default().hash_one(state);
            state % below
        };
        let mut accepted = 0;
        for round in 0..300 {
            let mut draft = Draft::new(&trees);
            for _ in 0..=random(8) {
                if random(10) == 0 {
                    // Events of an account that is gone end late.
                    let life = if random(4) == 0 { GONE_EVENTS_LIFE } else { Duration::ZERO };
                    draft.step(|draft| draft.sweep(UnixTime(3600 + round).plus(life), None)).unwrap();
                    continue;
                }
                let changes = (0..=random(3)).map(|_| {
                    let (n, end) = (u128::from(random(6)), round + random(40));
                    let email = format!("u{}@example.com", random(6));
                    let name = random(12);
                    match random(24) {
                        0 | 1 => Change::CreateUser(renamed(user(n, &email), name)),
                        2 => {
                            let mut changed = renamed(user(n, &email), name);
                            let stored = draft.get(&keys::user(changed.id)).unwrap();
                            let revision = |bytes: IVec| {
                                decode::<palisade_core::domain::account::User>(
                                    &keys::all(Table::User),
                                    &bytes,
                                )
                                .unwrap()
                                .revision
                            };
                            changed.revision = stored.map_or(0, revision);
                            Change::UpdateUser(changed)
                        }
                        3 => Change::DeleteUser(user(n, &email).id),
                        4 | 5 => Change::CreateSession(session(n, u128::from(random(3)), end)),
                        6 => Change::UpdateSession(session(n, u128::from(random(3)), end)),
                        7 => {
                            Change::EndSession(user(n, &email).id, session(n, u128::from(random(3)), end).id)
                        }
                        8 => Change::CreateLink(link(n, end)),
                        9 => Change::ConsumeLink(link(n, end).hash),
                        10 => {
                            let given_up = random(3) == 0;
                            Change::PutMail(palisade_core::domain::mail::Mail {
                                given_up,
                                ..mail(n, &email, end)
                            })
                        }
                        11 => Change::RemoveMail(mail(n, &email, end).id),
                        20 => Change::CreateTask(task(n, end)),
                        21 => Change::FinishTask(task(n, end).id),
                        22 => Change::Require(Precondition::UserExists(user(n, &email).id)),
                        12 | 13 => {
                            let due = (random(3) > 0).then_some(end);
                            Change::CreateConnection(connection(n, u128::from(random(3)), due))
                        }
                        14 => {
                            let due = (random(3) > 0).then_some(end);
                            let mut changed = connection(n, u128::from(random(3)), due);
                            let stored = draft.get(&keys::connection(changed.user, changed.id)).unwrap();
                            let revision = |bytes: IVec| {
                                decode::<palisade_core::domain::connection::Connection>(
                                    &keys::all(Table::Connection),
                                    &bytes,
                                )
                                .unwrap()
                                .revision
                            };
                            changed.revision = stored.map_or(0, revision);
                            Change::UpdateConnection(changed)
                        }
                        17 => {
                            let id = palisade_core::domain::mail_cap::MailboxId([random(3) as u8; 16]);
                            let stored = draft.get(&keys::mailbox(id)).unwrap();
                            let stored =
                                stored.map(|bytes| decode::<Mailbox>(&keys::mailbox(id), &bytes).unwrap());
                            let mut mailbox = stored.unwrap_or_else(|| Mailbox::new(id));
                            let caps = Caps { enabled: false, an_hour: 0, a_day: 0 };
                            let letter = CappedLetter {
                                asked: LetterRequest::Notice,
                                only_link: false,
                                verified: true,
                                known: true,
                            };
                            let _ = mailbox.admits(caps, letter, &email.parse().unwrap(), UnixTime(end));
                            Change::PutMailbox(mailbox)
                        }
                        18 | 19 => Change::Record(vec![Event { at: UnixTime(end), ..event(Some(n), n) }]),
                        15 => {
                            let gone = connection(n, u128::from(random(3)), None);
                            Change::RemoveConnection(gone.user, gone.id)
                        }
                        _ => Change::Revoke(revocation(token(&n.to_string()), round, end)),
                    }
                });
                let changes = changes.collect();
                accepted += usize::from(draft.commit(changes).is_ok());
            }
            apply(draft);
            verify(&trees).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        assert!(accepted > 300, "{accepted} commits were taken in");
    }

    #[test]
    fn verifying_sees_what_does_not_fit() {
        let (_folder, trees) = opened();
        let mut draft = Draft::new(&trees);
        let made = vec![
            Change::CreateUser(user(1, "ann@example.com")),
            Change::CreateSession(session(1, 1, 9)),
            Change::CreateConnection(connection(1, 1, Some(9))),
            Change::CreateLink(link(1, 9)),
            Change::PutMail(mail(1, "ann@example.com", 9)),
            Change::Revoke(revocation(token("t"), 1, 9)),
            Change::Revoke(revocation(Target::Session { issuer: "i".into(), sid: "s".into() }, 1, 9)),
        ];
        draft.commit(made).unwrap();
        draft
            .commit(vec![Change::CreateTask(task(1, 9)), Change::Upgraded(Upgrade::ReservedClaims)])
            .unwrap();
        let gone = user(3, "gone@example.com");
        draft.commit(vec![Change::CreateUser(gone.clone()), Change::DeleteUser(gone.id)]).unwrap();
        draft.commit(vec![Change::Record(vec![event(Some(1), 1), event(Some(9), 2)])]).unwrap();
        apply(draft);
        verify(&trees).unwrap();
        let everything: Vec<_> = trees.range(Vec::new()..vec![u8::MAX]).map(Result::unwrap).collect();
        for (key, value) in everything {
            let alone = [Table::Sequence, Table::Event, Table::Erased, Table::FormerUsername, Table::Upgrade]
                .into_iter()
                .any(|table| key[0] == table as u8);
            trees.apply(Writes::from([(key.to_vec(), None)]), 0).unwrap();
            assert_eq!(verify(&trees).is_err(), !alone, "without {key:?}");
            trees.apply(Writes::from([(key.to_vec(), Some(value))]), 0).unwrap();
        }
        verify(&trees).unwrap();
    }
}

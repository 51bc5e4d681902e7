//! The sweeper: removes what has ended, in steps that are short, so that no other commit waits long.
//!
//! What is filed under a moment is looked at once that has passed by [`EXPIRY_SLACK`]: it is removed with
//! what was filed, or, when its end has moved meanwhile, filed again. Nothing that still counts may go.

use super::EXPIRY_SLACK;
use super::draft::Draft;
use super::keys::{self, Key, Table};
use super::record::{decode, decode_revocation, decode_session, is_newer};
use palisade_core::domain::link::Link;
use palisade_core::domain::mail_cap::Mailbox;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{StoreError, Swept};

/// How many entries one step looks at, so that commits are not kept waiting.
const STEP: usize = 256;

/// What one step did.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) swept: Swept,
    /// Behind which entry another step may find more; `None` when there is none.
    pub(super) next: Option<Key>,
}

impl Draft<'_> {
    /// One step of forgetting what ended well before `now`, from behind the entry that the step before named.
    pub(super) fn sweep(&mut self, now: UnixTime, after: Option<&Key>) -> Result<Step, StoreError> {
        let end = now.minus(EXPIRY_SLACK);
        let mut due = Vec::with_capacity(STEP);
        let start = after.map_or_else(|| keys::all(Table::Due), |after| keys::next(after));
        // With a clock that was set back in between, the end may lie before it.
        let passed = start.clone()..keys::from(Table::Due, end).max(start);
        for entry in self.trees.range(passed).take(STEP) {
            due.push(entry?.0.to_vec());
        }
        let next = due.last().filter(|_| due.len() == STEP).cloned();
        let mut step = Step { next, ..Step::default() };
        for due in due {
            // A commit of this batch may have been faster.
            if self.has(&due)? {
                self.look_at(due, end, &mut step.swept)?;
            }
        }
        Ok(step)
    }

    fn look_at(&mut self, due: Key, end: UnixTime, swept: &mut Swept) -> Result<(), StoreError> {
        let key = keys::filed(&due)?.to_vec();
        let missing = || {
            StoreError::Unreadable(
                "an entry is filed and not there; restore the data directory from a backup".to_owned(),
            )
        };
        let bytes = self.get(&key)?.ok_or_else(missing)?;
        // Left, with its entry, to the program that wrote it.
        if is_newer(&key, &bytes) {
            return Ok(());
        }
        self.evict(due);
        let (ends_at, counted) = match Table::of(&key) {
            // It is filed here once it was given up, under its end.
            Some(Table::Mail) => {
                let mail = decode(&key, &bytes)?;
                self.remove(key)?;
                return self.erased_with(&mail);
            }
            Some(Table::GoneUser) => return self.forget_gone(key),
            Some(Table::Session) => {
                let session = decode_session(&key, &bytes)?;
                if session.expires_at >= end {
                    return self.file_session(key, &session);
                }
                (session.expires_at, Some(&mut swept.sessions))
            }
            Some(Table::Link) => (decode::<Link>(&key, &bytes)?.expires_at, Some(&mut swept.links)),
            Some(Table::Mailbox) => (decode::<Mailbox>(&key, &bytes)?.ends_at(), None),
            Some(Table::Revocation) => {
                (decode_revocation(&key, &bytes)?.expires_at, Some(&mut swept.revocations))
            }
            _ => return Err(missing()),
        };
        if ends_at >= end {
            self.index(keys::due(ends_at, &key));
            return Ok(());
        }
        if let Some(counted) = counted {
            *counted += 1;
        }
        self.remove(key)
    }
}

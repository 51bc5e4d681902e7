//! Forgetting what has ended, in steps that hold nobody up.
//!
//! What is filed under a moment is looked at once that has passed by [`EXPIRY_SLACK`]: it is removed with
//! what was filed, or, when its end has moved meanwhile, filed again. Nothing that still counts may go.

use super::EXPIRY_SLACK;
use super::change::FILED;
use super::draft::Draft;
use super::keys::{self, Key, Table};
use super::record::{decode, decode_revocation, decode_session};
use palisade_core::domain::link::Link;
use palisade_core::domain::mail_cap::Mailbox;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{StoreError, Swept};

/// How many entries one step looks at, so that commits are not kept waiting.
const STEP: usize = 256;

/// What one step did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Step {
    pub(super) swept: Swept,
    /// Whether another step may find more.
    pub(super) more: bool,
}

impl Draft<'_> {
    /// One step of forgetting what ended well before `now`.
    pub(super) fn sweep(&mut self, now: UnixTime) -> Result<Step, StoreError> {
        let end = now.minus(EXPIRY_SLACK);
        let mut due = Vec::with_capacity(STEP);
        let passed = keys::all(Table::Due)..keys::from(Table::Due, end);
        for entry in self.trees.range(passed).take(STEP) {
            due.push(entry?.0.to_vec());
        }
        let mut step = Step { more: due.len() == STEP, ..Step::default() };
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
        self.remove(due);
        let missing = || {
            StoreError::Unreadable(
                "an entry is filed and not there; restore the data directory from a backup".to_owned(),
            )
        };
        let bytes = self.get(&key)?.ok_or_else(missing)?;
        let counted = match key.first() {
            // It is filed here once it was given up, under its end.
            Some(&table) if table == Table::Mail as u8 => {
                let mail = decode("a mail", &bytes)?;
                self.remove(key);
                return self.erased_with(&mail);
            }
            Some(&table) if table == Table::GoneUser as u8 => return self.forget_gone(key),
            Some(&table) if table == Table::Session as u8 => {
                let session = decode_session(&bytes)?;
                if session.expires_at >= end {
                    return self.file_session(key, &session);
                }
                &mut swept.sessions
            }
            Some(&table) if table == Table::Link as u8 => {
                let later = decode::<Link>("a link", &bytes)?.expires_at;
                if later >= end {
                    self.put(keys::due(later, &key), FILED);
                    return Ok(());
                }
                &mut swept.links
            }
            Some(&table) if table == Table::Mailbox as u8 => {
                let later = decode::<Mailbox>("a mailbox", &bytes)?.ends_at();
                match later >= end {
                    true => self.put(keys::due(later, &key), FILED),
                    false => self.remove(key),
                }
                return Ok(());
            }
            Some(&table) if table == Table::Revocation as u8 => {
                let later = decode_revocation(&bytes)?.expires_at;
                if later >= end {
                    self.put(keys::due(later, &key), FILED);
                    return Ok(());
                }
                &mut swept.revocations
            }
            _ => return Err(missing()),
        };
        *counted += 1;
        self.remove(key);
        Ok(())
    }
}

//! The journal of ends (`backup.journal`), written with each commit that ends something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::backup::installation;
use crate::config::Config;
use crate::edge::backup::{EndsJournal, JournalError};
use crate::edge::own_secrets;
use palisade_core::domain::ends::End;
use palisade_core::ports::{Clock, EndsKeeper, EndsNotKept, OwnSecret, SecretStore};

/// The journal, dated by the clock of the machine.
pub(super) struct DatedJournal {
    journal: EndsJournal,
    clock: Arc<dyn Clock>,
    /// Whether the last try to write has failed.
    is_failing: AtomicBool,
}

impl DatedJournal {
    /// How many ends could not be written yet. Does not block.
    pub(super) fn pending(&self) -> usize {
        self.journal.pending()
    }

    /// Whether the last try has failed. Does not block.
    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Writes what could not be written before. Blocks.
    pub(super) fn retry(&self) {
        // The log has what came of it.
        let _ = self.told(self.journal.retry(self.clock.now()));
    }

    /// The last try before the process ends. Blocks.
    pub(super) fn close(&self) {
        self.retry();
        let pending = self.pending();
        if pending > 0 {
            tracing::error!(
                pending,
                "backup.journal: these ends are lost to it, and none of them was acknowledged; a restore of a backup from \
                 before would undo them: make a new backup"
            );
        }
    }

    /// Says in the log when writing begins to fail, and when it works again: once each.
    fn told<T>(&self, outcome: Result<T, JournalError>) -> Result<T, JournalError> {
        let was_failing = self.is_failing.swap(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Err(error) if !was_failing => tracing::error!(
                %error,
                "backup.journal cannot be written: changes that end something are made, but answered with a 503 until it can \
                 be; it is tried again each second"
            ),
            Ok(_) if was_failing => {
                tracing::info!("backup.journal is written again, with all that had waited")
            }
            _ => {}
        }
        outcome
    }
}

impl EndsKeeper for DatedJournal {
    fn keep(&self, ends: Vec<End>) -> Result<(), EndsNotKept> {
        self.journal.append(self.clock.now(), ends).map_err(|error| {
            let words = EndsNotKept(error.to_string());
            let _ = self.told(Err::<(), _>(error));
            words
        })
    }
}

/// The journal that the configuration names, if it names one. Blocks.
///
/// # Errors
/// It cannot be read or written; as one printable text.
pub(super) fn keeper(
    config: &Config,
    secrets: &dyn SecretStore,
    clock: Arc<dyn Clock>,
) -> Result<Option<Arc<DatedJournal>>, String> {
    let Some(folder) = &config.backup.journal else { return Ok(None) };
    if config.vault.keys.is_empty() {
        // Made at a first start, as it will be for the vault.
        own_secrets::key(secrets, OwnSecret::VaultKey)?;
    }
    let keys = Arc::new(installation(config, secrets)?);
    let journal = EndsJournal::open(folder, keys).map_err(|error| format!("backup.journal: {error}"))?;
    Ok(Some(Arc::new(DatedJournal { journal, clock, is_failing: AtomicBool::new(false) })))
}

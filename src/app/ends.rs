//! The journal of ends (`backup.journal`), written with each commit that ends something.

use std::sync::Arc;

use super::backup::installation;
use crate::config::Config;
use crate::edge::backup::EndsJournal;
use crate::edge::own_secrets;
use palisade_core::domain::ends::End;
use palisade_core::ports::{Clock, EndsKeeper, OwnSecret, SecretStore};

/// The journal, dated by the clock of the machine.
struct DatedJournal {
    journal: EndsJournal,
    clock: Arc<dyn Clock>,
}

impl EndsKeeper for DatedJournal {
    fn keep(&self, ends: Vec<End>) {
        if let Err(error) = self.journal.append(self.clock.now(), ends) {
            tracing::error!(
                %error,
                "backup.journal: what has ended is not in the journal yet; it is written with the next end, and lost if the \
                 gateway ends before: make a backup"
            );
        }
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
) -> Result<Option<Arc<dyn EndsKeeper>>, String> {
    let Some(folder) = &config.backup.journal else { return Ok(None) };
    if config.vault.keys.is_empty() {
        // Made at a first start, as it will be for the vault.
        own_secrets::key(secrets, OwnSecret::VaultKey)?;
    }
    let keys = Arc::new(installation(config, secrets)?);
    let journal = EndsJournal::open(folder, keys).map_err(|error| format!("backup.journal: {error}"))?;
    Ok(Some(Arc::new(DatedJournal { journal, clock })))
}

//! A store that a command opens beside the gateways, or in their place: to back it up, to restore into it, to move it.

use std::sync::Arc;

use crate::config::{Config, StoreUrl};
use crate::edge::own_secrets::FolderSecrets;
use crate::edge::store::{self, Doubts, Kept, SledStore};
use palisade_core::ports::{SecretStore, Store};

/// The store, closed again with this value.
pub(super) struct OpenStore {
    pub(super) store: Arc<dyn Store>,
    close: Box<dyn Fn() + Send + Sync>,
}

impl OpenStore {
    /// Opens the store of `config`, making it when there is none, once `admit` has seen what is in it. Blocks, and must be
    /// called within a runtime, outside of its tasks.
    ///
    /// # Errors
    /// Why it does not open, as one printable text.
    pub(super) fn open(
        config: &Config,
        doubts: Doubts,
        admit: &mut dyn FnMut(&Kept) -> Result<(), String>,
    ) -> Result<OpenStore, String> {
        match &config.store {
            StoreUrl::Sled(folder) => {
                let opened =
                    SledStore::open_admitted(folder, doubts, admit).map_err(|error| error.to_string())?;
                let store = Arc::clone(&opened) as Arc<dyn Store>;
                Ok(OpenStore { store, close: Box::new(move || opened.close()) })
            }
            StoreUrl::Postgres(_) => {
                Err(format!("{}: this program does not open PostgreSQL for this command yet", config.store))
            }
        }
    }
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        (self.close)();
    }
}

/// Where our own secrets are kept beside the store of `config`. Reads and makes nothing yet.
///
/// # Errors
/// They can never be read there; as one printable text.
pub(super) fn secrets(config: &Config) -> Result<Arc<dyn SecretStore>, String> {
    match &config.store {
        StoreUrl::Sled(folder) => Ok(Arc::new(FolderSecrets::new(folder))),
        StoreUrl::Postgres(settings) => Ok(Arc::new(FolderSecrets::new(&settings.data))),
    }
}

/// Whether there is a store to read from: of a database only its opening tells.
pub(super) fn may_be_there(config: &Config) -> bool {
    match &config.store {
        StoreUrl::Sled(folder) => store::is_there(folder),
        StoreUrl::Postgres(_) => true,
    }
}

//! The store factory: the one place that makes the store and the secret store that `store.url` names. Another backend
//! is one more variant of [`StoreUrl`] and of [`Backend`], and one more arm of each `match` in this file.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::StoreUrl;
use crate::edge::own_secrets::FolderSecrets;
use crate::edge::store::{self, Doubts, Kept, SledStore};
use palisade_core::ports::{SecretStore, Store, StoreError};

const NOT_YET: &str = "store.url: this program does not serve from PostgreSQL yet; use \"sled:FOLDER\"";

/// An open store, by its kind. Rooms get it as a [`Store`]; what only a start and a shutdown need is here.
#[derive(Clone)]
pub(super) enum Backend {
    Sled(Arc<SledStore>),
}

impl Backend {
    /// Opens the store of `url`, making it when there is none. `admit` sees first what is in it; when it refuses,
    /// nothing was changed. Blocks.
    ///
    /// # Errors
    /// Why the store was not opened, as one printable text.
    pub(super) fn open(
        url: &StoreUrl,
        doubts: Doubts,
        admit: &mut dyn FnMut(&Kept) -> Result<(), String>,
    ) -> Result<Backend, String> {
        match url {
            StoreUrl::Sled(folder) => SledStore::open_admitted(folder, doubts, admit)
                .map(Backend::Sled)
                .map_err(|error| error.to_string()),
            StoreUrl::Postgres(_) => Err(NOT_YET.to_owned()),
        }
    }

    /// The store, as the use cases know it.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Backend::Sled(store) => Arc::clone(store) as _,
        }
    }

    /// The check values of the secrets that the store was last used with, by their names.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn key_checks(&self) -> Result<BTreeMap<String, String>, StoreError> {
        match self {
            Backend::Sled(store) => store.key_checks().await,
        }
    }

    /// Keeps check values of secrets, by their names; those of other names stay.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was kept.
    pub(super) async fn put_key_checks(&self, checks: BTreeMap<String, String>) -> Result<(), StoreError> {
        match self {
            Backend::Sled(store) => store.put_key_checks(checks).await,
        }
    }

    /// Closes the store for every holder, so that another process can open it. Blocks.
    pub(super) fn close(&self) {
        match self {
            Backend::Sled(store) => store.close(),
        }
    }
}

/// Where our own secrets are kept beside the store of `url`. Reads and makes nothing yet.
pub(super) fn secrets(url: &StoreUrl) -> Arc<dyn SecretStore> {
    match url {
        StoreUrl::Sled(folder) => Arc::new(FolderSecrets::new(folder)),
        StoreUrl::Postgres(settings) => Arc::new(FolderSecrets::new(&settings.data)),
    }
}

/// Whether there is a store at `url`, without opening it.
pub(super) fn is_there(url: &StoreUrl) -> bool {
    match url {
        StoreUrl::Sled(folder) => store::is_there(folder),
        StoreUrl::Postgres(_) => false,
    }
}

//! The open store by its kind: another backend is one more variant of [`Backend`], and one more arm of each `match` in this
//! file. `open.rs` makes it, as `store.url` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shared_backend::SharedBackend;
use crate::edge::store::SledStore;
use palisade_core::ports::{Store, StoreError};

/// An open store, by its kind. Rooms get it as a [`Store`]; what only a start and a shutdown need is here.
#[derive(Clone)]
pub(super) enum Backend {
    Sled(Arc<SledStore>),
    Postgres(Arc<SharedBackend>),
}

impl Backend {
    /// The store, as the use cases know it.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Backend::Sled(store) => Arc::clone(store) as _,
            Backend::Postgres(shared) => Arc::clone(&shared.store) as _,
        }
    }

    /// The check values of the secrets that the store was last used with, by their names. None of secrets that are kept in
    /// the store itself: their seal shows whether they are whole.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn key_checks(&self) -> Result<BTreeMap<String, String>, StoreError> {
        match self {
            Backend::Sled(store) => store.key_checks().await,
            Backend::Postgres(_) => Ok(BTreeMap::new()),
        }
    }

    /// Keeps check values of secrets, by their names; those of other names stay.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was kept.
    pub(super) async fn put_key_checks(&self, checks: BTreeMap<String, String>) -> Result<(), StoreError> {
        match self {
            Backend::Sled(store) => store.put_key_checks(checks).await,
            Backend::Postgres(_) => Ok(()),
        }
    }

    /// Tells other replicas that this process decides no request any more, so that they need not wait for it.
    pub(super) async fn leave(&self) {
        match self {
            Backend::Sled(_) => {}
            Backend::Postgres(shared) => shared.leave().await,
        }
    }

    /// Closes the store for every holder, so that another process can open it. Blocks.
    pub(super) fn close(&self) {
        match self {
            Backend::Sled(store) => store.close(),
            Backend::Postgres(shared) => shared.close(),
        }
    }
}

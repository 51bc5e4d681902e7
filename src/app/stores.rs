//! A store that a command opens beside the gateways, or in their place: to back it up, to restore into it, to move it.

use std::sync::Arc;

use async_trait::async_trait;

use super::shared;
use crate::config::{Config, StoreUrl};
use crate::edge::own_secrets::FolderSecrets;
use crate::edge::postgres::PostgresStore;
use crate::edge::store::{self, Doubts, Kept, SledStore};
use palisade_core::ports::{RecordSource, SecretStore, Store, StoreError, VersionedRecord};

/// The store, closed again with this value.
pub(super) struct OpenStore {
    pub(super) store: Arc<dyn Store>,
    close: Box<dyn Fn() + Send + Sync>,
}

impl OpenStore {
    /// Opens the store of `config`, making it when there is none. `admit` sees what is in it, before anything of it is
    /// changed but the schema of a database. Blocks: for a runtime that does nothing else.
    ///
    /// # Errors
    /// Why it does not open, as one printable text.
    pub(super) async fn open(
        config: &Config,
        doubts: Doubts,
        admit: &mut (dyn FnMut(&Kept) -> Result<(), String> + Send),
    ) -> Result<OpenStore, String> {
        match &config.store {
            StoreUrl::Sled(folder) => {
                let opened =
                    SledStore::open_admitted(folder, doubts, admit).map_err(|error| error.to_string())?;
                let store = Arc::clone(&opened) as Arc<dyn Store>;
                Ok(OpenStore { store, close: Box::new(move || opened.close()) })
            }
            StoreUrl::Postgres(settings) => {
                let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", config.store);
                let connection = shared::connection(settings, &settings.server)?;
                let opened = match doubts {
                    Doubts::ResumeImport => PostgresStore::open_to_resume(connection).await,
                    Doubts::Refuse | Doubts::Accept => PostgresStore::open(connection).await,
                };
                let opened = opened.map_err(|error| failed(&error))?;
                let store = Arc::clone(&opened) as Arc<dyn Store>;
                let is_part = store.import_begun().await.map_err(|error| failed(&error))?.is_some();
                let is_populated = is_part
                    || !store.records(None, 1).await.map_err(|error| failed(&error))?.records.is_empty();
                let closed_for = store.closed_for().await.map_err(|error| failed(&error))?;
                admit(&Kept { is_populated, closed_for, ..Kept::default() })?;
                Ok(OpenStore { store, close: Box::new(move || opened.close()) })
            }
        }
    }
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        (self.close)();
    }
}

/// A source whose records are told of, by this word for what becomes of them, as they come.
pub(super) struct CountedRecords<'t, S> {
    pub(super) source: S,
    pub(super) what: &'static str,
    pub(super) told: &'t mut (dyn FnMut(&'static str, u64) + Send),
    pub(super) records: u64,
}

#[async_trait]
impl<S: RecordSource> RecordSource for CountedRecords<'_, S> {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        let page = self.source.next_page().await?;
        self.records += page.len() as u64;
        (self.told)(self.what, self.records);
        Ok(page)
    }
}

/// Where our own secrets are kept beside the store of `config`. Reads and makes nothing yet.
///
/// # Errors
/// They can never be read there; as one printable text.
pub(super) fn secrets(config: &Config) -> Result<Arc<dyn SecretStore>, String> {
    match &config.store {
        StoreUrl::Sled(folder) => Ok(Arc::new(FolderSecrets::new(folder))),
        StoreUrl::Postgres(settings) => shared::database_secrets(settings, &config.vault),
    }
}

/// Whether there may be a store to read from: of a database only its opening tells.
pub(super) fn may_be_there(config: &Config) -> bool {
    match &config.store {
        StoreUrl::Sled(folder) => store::is_there(folder),
        StoreUrl::Postgres(_) => true,
    }
}

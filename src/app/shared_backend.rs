//! An open store that several replicas share, and this replica among them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::fail_modes;
use super::options::Options;
use crate::config::Config;
use crate::edge::data_dir::FolderLock;
use crate::edge::machine;
use crate::edge::postgres::PostgresStore;
use crate::edge::postgres::feed::Feed;
use crate::edge::postgres::replica::{ClusterReplica, ReplicaPlan};
use crate::edge::postgres::secrets::DatabaseSecrets;
use palisade_core::ports::{FeedSink, RecordFormats};

/// An open store of this kind, with what belongs to this replica alone.
pub(super) struct SharedBackend {
    pub(super) store: Arc<PostgresStore>,
    pub(super) secrets: Arc<DatabaseSecrets>,
    pub(super) feed: Arc<Feed>,
    /// From [`SharedBackend::join`] on.
    pub(super) replica: OnceLock<Arc<ClusterReplica>>,
    /// Of `store.data`; `None` once the store is closed.
    pub(super) folder: Mutex<Option<FolderLock>>,
}

/// What this replica is called among the others.
pub(super) fn replica_name(config: &Config) -> String {
    format!("{} {}", machine::host_name(), config.server.admin)
}

impl SharedBackend {
    /// Registers with the other replicas, reads the set of revocations into `sink`, and waits until it is confirmed that the
    /// set is whole.
    ///
    /// # Errors
    /// The database has lost what was followed before; as one printable text.
    pub(super) async fn join(
        &self,
        config: &Config,
        options: Options,
        sink: Arc<dyn FeedSink>,
    ) -> Result<(), String> {
        let Some(settings) = config.store.postgres() else { return Ok(()) };
        let plan = ReplicaPlan {
            name: replica_name(config),
            formats: RecordFormats::of_this_program(),
            lease: settings.max_staleness,
            fail_open: fail_modes::serves_on(config),
            key_ring: self.secrets.ring_revision(),
            accept: options.accept.store_as_it_is,
            accept_closed: options.accept.closed_source,
            folder: Some(settings.data.clone()),
        };
        let started = || Arc::new(ClusterReplica::start(Arc::clone(&self.feed), plan, sink));
        let replica = Arc::clone(self.replica.get_or_init(started));
        let telling = Arc::clone(&replica);
        self.secrets.tell_of_ring(Box::new(move |revision| telling.set_key_ring(revision)));
        replica.serving().await
    }

    /// Leaves the other replicas, which need not wait for this one any more.
    pub(super) async fn leave(&self) {
        if let Some(replica) = self.replica.get() {
            replica.leave().await;
        }
    }

    /// Closes the store for every holder, and frees the folder. Blocks.
    pub(super) fn close(&self) {
        self.store.close();
        drop(self.folder.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

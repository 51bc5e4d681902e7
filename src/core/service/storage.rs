//! How the store is doing, and its compaction, for an operator.

use std::sync::Arc;

use crate::ports::{Compacted, Store, StoreError, StoreStatus};

/// The use case.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn Store>,
}

impl Storage {
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Storage {
        Storage { store }
    }

    /// How the store is doing. Never blocks.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.store.status()
    }

    /// Compacts the store. Takes minutes at most, and goes on when the caller goes away.
    ///
    /// # Errors
    /// [`StoreError`]; then the store is as it was.
    pub async fn compact(&self) -> Result<Compacted, StoreError> {
        self.store.compact().await
    }
}

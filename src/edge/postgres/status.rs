//! How large the database is, looked up at intervals, so that asking never waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use palisade_core::ports::StoreError;

use super::connect::DatabasePool;
use super::numbers::from_bigint;
use super::read::{Reads, column};

/// How long the sizes that are told may be out of date: a look at them reads the size of every file of the database.
const INTERVAL: Duration = Duration::from_secs(60);

/// The size of the database, and what our tables and indexes take of it.
const SIZES: &str = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()), \
    coalesce((SELECT sum(pg_catalog.pg_total_relation_size(c.oid))::bigint \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'palisade' AND c.relkind = 'r'), 0)";

/// Bytes, as of the last look.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    database: AtomicU64,
    ours: AtomicU64,
}

impl Sizes {
    /// Bytes of the database.
    pub(super) fn database(&self) -> u64 {
        self.database.load(Ordering::Relaxed)
    }

    /// Bytes of our tables and indexes.
    pub(super) fn ours(&self) -> u64 {
        self.ours.load(Ordering::Relaxed)
    }

    pub(super) async fn look(&self, pool: &DatabasePool) -> Result<(), StoreError> {
        if let Some(row) = pool.rows(SIZES, &[]).await?.first() {
            self.database.store(from_bigint(column(row, 0)?), Ordering::Relaxed);
            self.ours.store(from_bigint(column(row, 1)?), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Looks again and again, for as long as it is polled.
    pub(super) async fn follow(self: Arc<Self>, pool: DatabasePool) {
        let mut looks = tokio::time::interval(INTERVAL);
        loop {
            looks.tick().await;
            // The database that does not answer is told of by what needs it.
            if let Err(error) = self.look(&pool).await {
                tracing::debug!(%error, "the size of the database is not known");
            }
        }
    }
}

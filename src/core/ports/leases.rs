//! Leases on work that several gateways could do.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::domain::lease::{Lease, LeaseHolder, LeaseSubject};

/// The leases of a store. Their terms are measured by the store's own clock, which never goes back: of a store that one
/// process has to itself that process's monotonic clock, of a database the server's.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Grants `subject` to `holder` for `term`, or extends the lease that the holder has, which keeps its fencing number.
    /// `None`: another holder's lease has not ended. What is committed before the lease is granted can be read after it,
    /// so the holder reads the record again before it begins.
    ///
    /// # Errors
    /// [`StoreError`]; then the holder must not begin, though the lease may have been granted.
    async fn claim(
        &self,
        subject: LeaseSubject,
        holder: LeaseHolder,
        term: Duration,
    ) -> Result<Option<Lease>, StoreError>;

    /// Ends a lease ahead of its time. Nothing to do when it has been taken over.
    ///
    /// # Errors
    /// [`StoreError`]; then the lease ends at its time.
    async fn release(&self, lease: Lease) -> Result<(), StoreError>;
}

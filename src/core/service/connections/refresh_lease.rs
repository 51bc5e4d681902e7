//! The lease of a connection's tokens: of several gateways over one store, one refreshes a connection at a time, and callers
//! at the others get what it has brought.

use std::time::Duration;

use tokio::time::Instant;

use super::refresh::{Need, Want};
use super::turns::Refreshed;
use super::{ConnectionError, Connections};
use crate::domain::account::UserId;
use crate::domain::connection::ConnectionId;
use crate::domain::lease::LeaseSubject;
use crate::service::leases::{HeldLease, Pauses};

/// How long a caller waits at most while another gateway has the lease of a connection: longer than the term of a lease whose
/// holder is gone, and longer than any provider is waited for.
const PATIENCE_FOR_OTHERS: Duration = Duration::from_secs(90);

impl Connections {
    /// Refreshes under the lease of the connection, unless another gateway has done so before this one had it. While another
    /// gateway has the lease, the record is looked at as well: what that one has written is known as soon as it can be read.
    pub(super) async fn refresh_leased(&self, user: UserId, id: ConnectionId, want: &Want) -> Refreshed {
        let until = Instant::now() + PATIENCE_FOR_OTHERS;
        let mut pauses = Pauses::default();
        let mut held = loop {
            if let Some(held) = self.leases.claim(LeaseSubject::Refresh(id)).await? {
                break held;
            }
            if Instant::now() >= until {
                return Err(ConnectionError::Conflict);
            }
            pauses.pause().await;
            // One that is wanted in any case needs the lease.
            if !matches!(want, Want::Now)
                && let Need::Nothing(as_it_is) = self.need(user, id, want).await?
            {
                return Ok(as_it_is);
            }
        };
        let outcome = match self.need(user, id, want).await {
            Ok(Need::Refresh(before)) => self.ask(before, want, &mut held).await,
            Ok(Need::Nothing(as_it_is)) => Ok(as_it_is),
            Err(error) => Err(error),
        };
        self.release_refresh(id, &held).await;
        outcome
    }

    /// Releases the lease of a connection's tokens, unless there are some that the store did not take: another gateway
    /// would ask with a refresh token that is used up, so it waits as long as the lease lasts.
    pub(super) async fn release_refresh(&self, id: ConnectionId, held: &HeldLease) {
        if !self.unwritten().contains_key(&id) {
            self.leases.release(held).await;
        }
    }

    /// Writes what an earlier refresh brought and the store did not take, and releases the lease that was kept for it.
    /// `None`: there is nothing to write. Only with the turn.
    pub(super) async fn write_kept(&self, id: ConnectionId) -> Option<Refreshed> {
        // It stays there until it is written: a caller that does not wait for a turn looks there, too.
        let kept = self.unwritten().get(&id).cloned()?;
        // This extends the lease. It is written without it, too: the gateway that has it is about to lose the grant.
        let held = match self.leases.claim(LeaseSubject::Refresh(id)).await {
            Ok(held) => held,
            Err(error) => return Some(Err(error.into())),
        };
        let outcome = self.write(kept).await;
        if let Some(held) = held {
            self.release_refresh(id, &held).await;
        }
        Some(outcome)
    }

    /// The lease of a connection's tokens, once no other gateway has it. Only with the turn.
    ///
    /// # Errors
    /// [`ConnectionError::Conflict`]: another gateway has it all the time. [`ConnectionError::Store`].
    pub(super) async fn claim_refresh(&self, id: ConnectionId) -> Result<HeldLease, ConnectionError> {
        let held = self.leases.claim_within(LeaseSubject::Refresh(id), PATIENCE_FOR_OTHERS).await?;
        held.ok_or(ConnectionError::Conflict)
    }
}

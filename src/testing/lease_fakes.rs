//! The leases of the in-memory store. For tests only.

use std::time::Duration;

use async_trait::async_trait;

use crate::fakes::FakeStore;
use palisade_core::domain::lease::{Lease, LeaseHolder, LeaseSubject};
use palisade_core::ports::{Change, LeaseStore, StoreError};

/// Longer than any lease.
const AN_HOUR: Duration = Duration::from_secs(3600);

/// When a lease is taken over by another gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakeOver {
    BeforeCommit,
    AfterCommit,
    AfterClaim,
}

/// How a store fails its claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimFault {
    /// Each is answered with an error.
    Refused,
    /// None is answered.
    Unanswered,
}

impl FakeStore {
    /// What becomes of every later claim; `None`: it is decided.
    pub fn fail_claims(&self, fault: Option<ClaimFault>) {
        *self.claim_fault.lock().unwrap() = fault;
    }

    /// Moves the clock that leases are measured by, which stands still otherwise.
    pub fn pass_lease_time(&self, span: Duration) {
        *self.lease_time.lock().unwrap() += span;
    }

    /// As by a restart of the only gateway.
    pub fn end_leases(&self) {
        let mut state = self.state();
        state.leases = state.leases.emptied();
    }

    /// Right before the next commit the lease of `subject` ends, and `holder` gets it.
    pub fn take_over_before_commit(&self, subject: LeaseSubject, holder: LeaseHolder) {
        *self.usurper.lock().unwrap() = Some((TakeOver::BeforeCommit, subject, holder));
    }

    /// The next commit takes so long that the lease of `subject` ends right after it, and `holder` gets it.
    pub fn take_over_after_commit(&self, subject: LeaseSubject, holder: LeaseHolder) {
        *self.usurper.lock().unwrap() = Some((TakeOver::AfterCommit, subject, holder));
    }

    /// Right after the next claim the lease of `subject` ends, and `holder` gets it: the gateway was suspended.
    pub fn take_over_after_claim(&self, subject: LeaseSubject, holder: LeaseHolder) {
        *self.usurper.lock().unwrap() = Some((TakeOver::AfterClaim, subject, holder));
    }

    /// Another gateway makes these changes right before the next claim.
    pub fn change_at_claim(&self, changes: Vec<Change>) {
        *self.at_claim.lock().unwrap() = changes;
    }

    pub(super) fn take_over(&self, moment: TakeOver) {
        let usurper = self.usurper.lock().unwrap().take_if(|(when, ..)| *when == moment);
        let Some((_, subject, holder)) = usurper else { return };
        self.pass_lease_time(AN_HOUR);
        let now = *self.lease_time.lock().unwrap();
        self.state().leases.claim(subject, holder, AN_HOUR, now).expect("the lease had not ended");
    }
}

#[async_trait]
impl LeaseStore for FakeStore {
    async fn claim(
        &self,
        subject: LeaseSubject,
        holder: LeaseHolder,
        term: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let fault = *self.claim_fault.lock().unwrap();
        match fault {
            Some(ClaimFault::Refused) => {
                return Err(StoreError::Unavailable("no claim is answered".to_owned()));
            }
            Some(ClaimFault::Unanswered) => std::future::pending().await,
            None => {}
        }
        let now = *self.lease_time.lock().unwrap();
        let lease = {
            let mut state = self.state();
            for change in self.at_claim.lock().unwrap().drain(..) {
                state.make(change).unwrap();
            }
            state.leases.claim(subject, holder, term, now)
        };
        self.take_over(TakeOver::AfterClaim);
        Ok(lease)
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        self.state().leases.release(&lease);
        Ok(())
    }
}

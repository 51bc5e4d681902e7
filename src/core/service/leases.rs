//! Leases as their holder sees them: asked for before work begins, extended while it goes on, and over for the holder
//! before they are over for the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::outage::Outage;
use crate::domain::lease::{Lease, LeaseHolder, LeaseSubject};
use crate::ports::{Change, Precondition, Store, StoreError};

/// How long a lease is asked for. After a gateway has died, its work waits for so long.
pub(super) const TERM: Duration = Duration::from_secs(60);
/// So long before the end of a lease its holder stops: for what the clocks of holder and store differ in their pace, and
/// for what the work still does until it has stopped.
const MARGIN: Duration = Duration::from_secs(5);
/// A lease whose work goes on is extended after this part of its term.
const EXTEND_AFTER: u32 = 3;
/// The first and the longest pause between two asks for a lease that another gateway has: it is often over within
/// milliseconds, and then the next holder must not sleep.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// When an extension is tried again that the store did not answer.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// How long a lease is extended for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeepUntil {
    /// To its end, unless it was extended before.
    End,
    /// Also after its end, until another gateway claims it.
    TakenOver,
}

/// One gateway as a holder of leases.
#[derive(Clone)]
pub(super) struct Leases {
    store: Arc<dyn Store>,
    holder: LeaseHolder,
    extending: Arc<Outage>,
}

/// A lease that this gateway has.
#[derive(Debug)]
pub(super) struct HeldLease {
    lease: Lease,
    /// Counted from before the store was asked, so the store's term ends no earlier.
    stop_at: Instant,
    extend_at: Instant,
}

/// The pauses between asks for what another gateway has: short ones first.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses(FIRST_PAUSE)
    }
}

impl Pauses {
    /// Sleeps for the next of them.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (2 * self.0).min(LONGEST_PAUSE);
    }
}

impl HeldLease {
    fn new(lease: Lease, asked: Instant) -> HeldLease {
        HeldLease { lease, stop_at: asked + TERM - MARGIN, extend_at: asked + TERM / EXTEND_AFTER }
    }

    pub(super) fn lease(&self) -> Lease {
        self.lease
    }

    /// The precondition of a commit of what was done under this lease.
    pub(super) fn require(&self) -> Change {
        require(self.lease)
    }
}

/// The precondition that this lease stands.
pub(super) fn require(lease: Lease) -> Change {
    Change::Require(Precondition::LeaseStands(lease))
}

impl Leases {
    pub(super) fn new(store: Arc<dyn Store>, holder: LeaseHolder) -> Leases {
        let extending = Arc::new(Outage::new("leases are not extended, which is tried again"));
        Leases { store, holder, extending }
    }

    /// A lease for `subject`; `None`: another gateway has it. The record is to be read again under the lease: another
    /// gateway may have been done with it in between.
    ///
    /// # Errors
    /// [`StoreError`]; then the work must not begin.
    pub(super) async fn claim(&self, subject: LeaseSubject) -> Result<Option<HeldLease>, StoreError> {
        let asked = Instant::now();
        let lease = self.store.claim(subject, self.holder, TERM).await?;
        Ok(lease.map(|lease| HeldLease::new(lease, asked)))
    }

    /// A lease for `subject`, waited for while another gateway has it, for `patience` at the most; `None`: that one still has
    /// it.
    ///
    /// # Errors
    /// As [`Leases::claim`].
    pub(super) async fn claim_within(
        &self,
        subject: LeaseSubject,
        patience: Duration,
    ) -> Result<Option<HeldLease>, StoreError> {
        let (until, mut pauses) = (Instant::now() + patience, Pauses::default());
        loop {
            if let Some(held) = self.claim(subject).await? {
                return Ok(Some(held));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            pauses.pause().await;
        }
    }

    /// The same lease, extended by its whole term. `None`: another gateway had it meanwhile, or has it.
    ///
    /// # Errors
    /// [`StoreError`]; then it ends at its time.
    pub(super) async fn extend(&self, held: &HeldLease) -> Result<Option<HeldLease>, StoreError> {
        let again = self.claim(held.lease.subject).await?;
        if let Some(other) = again.as_ref().filter(|again| again.lease != held.lease) {
            self.release(other).await;
            return Ok(None);
        }
        Ok(again)
    }

    /// Ends a lease whose work is done. One that cannot be released ends by itself.
    pub(super) async fn release(&self, held: &HeldLease) {
        self.release_lease(held.lease).await;
    }

    pub(super) async fn release_lease(&self, lease: Lease) {
        if let Err(error) = self.store.release(lease).await {
            tracing::debug!(subject = ?lease.subject, %error, "a lease was not released; it ends by itself");
        }
    }

    /// Runs `work` and extends the lease before and meanwhile. `None`: the lease could not be kept, and the work was not
    /// begun, or dropped before another gateway could begin the same.
    ///
    /// # Errors
    /// [`StoreError`] of the extension before; then the work was not begun.
    pub(super) async fn run<T>(
        &self,
        held: &mut HeldLease,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, StoreError> {
        self.run_until(held, KeepUntil::End, work).await
    }

    /// Runs `work` to its end, and extends the lease before, and meanwhile for as long as that is possible: for work that
    /// is worse to break off than to do twice. `None`: the lease does not stand any more, and the work was not begun.
    ///
    /// # Errors
    /// [`StoreError`] of the extension before; then the work was not begun.
    pub(super) async fn hold_during<T>(
        &self,
        held: &mut HeldLease,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, StoreError> {
        if !self.confirm(held).await? {
            return Ok(None);
        }
        let mut work = std::pin::pin!(work);
        Ok(Some(match self.keep_while(held, KeepUntil::End, &mut work).await {
            Some(done) => done,
            None => work.await,
        }))
    }

    /// Runs `work` and extends the lease before and meanwhile, also after its end: for work that would be done twice if it
    /// were broken off while no other gateway does it. `None`: another gateway had the lease meanwhile, or has it, and the
    /// work was not begun, or dropped. What was done is to be committed under the lease, which stands until another
    /// gateway claims it.
    ///
    /// # Errors
    /// [`StoreError`] of the extension before; then the work was not begun.
    pub(super) async fn run_until_taken_over<T>(
        &self,
        held: &mut HeldLease,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, StoreError> {
        self.run_until(held, KeepUntil::TakenOver, work).await
    }

    async fn run_until<T>(
        &self,
        held: &mut HeldLease,
        until: KeepUntil,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, StoreError> {
        match self.confirm(held).await? {
            true => Ok(self.keep_while(held, until, work).await),
            false => Ok(None),
        }
    }

    /// What `work` comes to; `None` once the lease cannot be kept any more.
    async fn keep_while<T>(
        &self,
        held: &mut HeldLease,
        until: KeepUntil,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.keep(held, until) => None,
        }
    }

    /// Extends the lease right before its holder calls out: what came first may have outlasted it, such as a commit that
    /// waited or a suspension of the machine, which stops the monotonic clock. False: it does not stand any more.
    async fn confirm(&self, held: &mut HeldLease) -> Result<bool, StoreError> {
        match timeout_at(held.stop_at, self.extend(held)).await {
            Ok(Ok(Some(extended))) => {
                *held = extended;
                Ok(true)
            }
            Ok(Ok(None)) | Err(_) => Ok(false),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Extends the lease time and again. Returns when another gateway had it meanwhile, or has it, and where
    /// `until` says so at the end of a lease that could not be extended.
    async fn keep(&self, held: &mut HeldLease, until: KeepUntil) {
        loop {
            sleep_until(held.extend_at).await;
            let stop_at = (until == KeepUntil::End).then_some(held.stop_at);
            let extended = match stop_at {
                Some(stop_at) => timeout_at(stop_at, self.extend(held)).await,
                None => Ok(self.extend(held).await),
            };
            match extended {
                Ok(Ok(Some(extended))) => {
                    self.extending.succeeded();
                    *held = extended;
                }
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => {
                    self.extending.failed(&error);
                    held.extend_at = Instant::now() + TRY_AGAIN;
                    if let Some(stop_at) = stop_at.filter(|stop_at| *stop_at <= held.extend_at) {
                        return sleep_until(stop_at).await;
                    }
                }
            }
        }
    }
}

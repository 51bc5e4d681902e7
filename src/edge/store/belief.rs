//! Until when the revocation set in memory is believed, by a clock that cannot be set and that goes on in a suspend.
//!
//! A store that only this process writes to is believed for ever once it was read: then no clock is looked at. A replica's set
//! is believed for as long as the feed of revocations was confirmed ahead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use palisade_core::ports::Standing;
use palisade_core::service::clock::Uptime;

/// The set is not whole yet.
const LOADING: u64 = 0;
/// The set was whole, and is not believed until it is confirmed again.
const CLOSED: u64 = 1;
const FOR_EVER: u64 = u64::MAX;

/// How much longer the set is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseLeft {
    /// It is not whole yet.
    Loading,
    /// The lease is over.
    Over,
    /// For this long from now on.
    For(Duration),
    /// There is no lease: no other process writes to the store.
    ForEver,
}

/// Until when the set is believed.
pub(super) struct Belief {
    /// A moment of the uptime in nanoseconds, or one of the constants.
    until: AtomicU64,
    uptime: Uptime,
    /// Why the set is not to be relied on, where the feed has said so.
    closed: Mutex<Option<String>>,
    changed: Notify,
}

impl Belief {
    /// Nothing is believed yet.
    pub(super) fn new(uptime: Uptime) -> Belief {
        Belief { until: AtomicU64::new(LOADING), uptime, closed: Mutex::default(), changed: Notify::new() }
    }

    /// For one waiter.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn for_ever(&self) {
        self.until.store(FOR_EVER, Ordering::Release);
        self.changed.notify_one();
    }

    pub(super) fn until(&self, moment: Duration) {
        let moment = nanoseconds(moment).clamp(CLOSED, FOR_EVER - 1);
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.until.store(moment, Ordering::Release);
        self.changed.notify_one();
    }

    pub(super) fn close(&self, why: &str) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        // What is not whole stays so.
        let _ = self
            .until
            .fetch_update(Ordering::Release, Ordering::Relaxed, |until| (until != LOADING).then_some(CLOSED));
    }

    pub(super) fn closed_because(&self) -> Option<String> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `sequence` is read after it was looked until when the set is believed: what was applied before that was said is in
    /// the number.
    #[inline]
    pub(super) fn standing(&self, sequence: &AtomicU64) -> Standing {
        let until = self.until.load(Ordering::Acquire);
        let sequence = sequence.load(Ordering::Acquire);
        match until {
            FOR_EVER => Standing::Confirmed(sequence),
            LOADING => Standing::Loading,
            until if nanoseconds((self.uptime)()) < until => Standing::Confirmed(sequence),
            _ => Standing::Stale(sequence),
        }
    }

    pub(super) fn lease(&self) -> LeaseLeft {
        match self.until.load(Ordering::Acquire) {
            FOR_EVER => LeaseLeft::ForEver,
            LOADING => LeaseLeft::Loading,
            until => match until.saturating_sub(nanoseconds((self.uptime)())) {
                0 => LeaseLeft::Over,
                left => LeaseLeft::For(Duration::from_nanos(left)),
            },
        }
    }
}

/// In 64 bits there is room for 584 years.
fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A belief, and its uptime in nanoseconds.
    fn belief(at: u64) -> (Belief, Arc<AtomicU64>) {
        let uptime = Arc::new(AtomicU64::new(at));
        let read = Arc::clone(&uptime);
        (Belief::new(Box::new(move || Duration::from_nanos(read.load(Ordering::Relaxed)))), uptime)
    }

    #[test]
    fn a_lease_ends_at_its_moment_and_not_before() {
        let (belief, uptime) = belief(100);
        let standing = || belief.standing(&AtomicU64::new(7));
        assert_eq!((standing(), belief.lease()), (Standing::Loading, LeaseLeft::Loading));
        belief.until(Duration::from_nanos(110));
        assert_eq!(
            (standing(), belief.lease()),
            (Standing::Confirmed(7), LeaseLeft::For(Duration::from_nanos(10)))
        );
        uptime.store(109, Ordering::Relaxed);
        assert_eq!(standing(), Standing::Confirmed(7));
        uptime.store(110, Ordering::Relaxed);
        assert_eq!((standing(), belief.lease()), (Standing::Stale(7), LeaseLeft::Over));
        belief.until(Duration::from_nanos(120));
        assert_eq!(standing(), Standing::Confirmed(7));
    }

    #[test]
    fn what_is_closed_is_not_believed_until_it_is_confirmed_again() {
        let (belief, _) = belief(100);
        let standing = || belief.standing(&AtomicU64::new(7));
        belief.close("lost");
        assert_eq!(standing(), Standing::Loading, "it was never whole");
        belief.until(Duration::from_nanos(110));
        belief.close("lost");
        assert_eq!((standing(), belief.closed_because().as_deref()), (Standing::Stale(7), Some("lost")));
        belief.until(Duration::from_nanos(110));
        assert_eq!((standing(), belief.closed_because()), (Standing::Confirmed(7), None));
    }

    #[test]
    fn no_moment_is_taken_for_another_state() {
        let (belief, uptime) = belief(0);
        let standing = || belief.standing(&AtomicU64::new(7));
        belief.until(Duration::ZERO);
        uptime.store(5, Ordering::Relaxed);
        assert_eq!(standing(), Standing::Stale(7));
        belief.until(Duration::MAX);
        assert!(matches!(belief.lease(), LeaseLeft::For(_)));
    }

    #[test]
    fn what_is_believed_for_ever_asks_no_clock() {
        let belief = Belief::new(Box::new(|| panic!("the clock was read")));
        belief.for_ever();
        assert_eq!(belief.standing(&AtomicU64::new(7)), Standing::Confirmed(7));
        assert_eq!(belief.lease(), LeaseLeft::ForEver);
    }
}

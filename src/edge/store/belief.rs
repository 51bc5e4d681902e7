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
/// A moment that has passed.
const PAST: u64 = 1;
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

    /// Zero takes back what was said before, and says nothing of a set that was never whole.
    pub(super) fn until(&self, moment: Duration) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if closed.is_some() {
            return;
        }
        match moment.is_zero() {
            true => self.end(),
            false => self.until.store(nanoseconds(moment).clamp(PAST, FOR_EVER - 1), Ordering::Release),
        }
        drop(closed);
        self.changed.notify_one();
    }

    /// Whatever is said later, the set is not believed any more.
    pub(super) fn close(&self, why: &str) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.get_or_insert_with(|| why.to_owned());
        self.end();
        drop(closed);
        self.changed.notify_one();
    }

    fn end(&self) {
        // What is not whole stays so.
        let past = |until| (until != LOADING).then_some(PAST);
        let _ = self.until.fetch_update(Ordering::Release, Ordering::Relaxed, past);
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
    fn what_is_closed_is_believed_no_more() {
        let (closed, _) = belief(100);
        closed.until(Duration::from_nanos(110));
        closed.close("lost");
        closed.close("and again");
        closed.until(Duration::from_nanos(110));
        assert_eq!(closed.standing(&AtomicU64::new(7)), Standing::Stale(7));
        assert_eq!(closed.closed_because().as_deref(), Some("lost"));
        let (never_whole, _) = belief(100);
        never_whole.close("lost");
        never_whole.until(Duration::from_nanos(110));
        assert_eq!(never_whole.standing(&AtomicU64::new(7)), Standing::Loading);
    }

    #[test]
    fn what_was_said_can_be_taken_back() {
        let (belief, _) = belief(100);
        let standing = || belief.standing(&AtomicU64::new(7));
        belief.until(Duration::ZERO);
        assert_eq!(standing(), Standing::Loading, "it was never whole");
        belief.until(Duration::from_nanos(110));
        belief.until(Duration::ZERO);
        assert_eq!(standing(), Standing::Stale(7));
        belief.until(Duration::from_nanos(110));
        assert_eq!(standing(), Standing::Confirmed(7));
    }

    #[test]
    fn no_moment_is_taken_for_another_state() {
        let (belief, uptime) = belief(0);
        let standing = || belief.standing(&AtomicU64::new(7));
        belief.until(Duration::from_nanos(1));
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

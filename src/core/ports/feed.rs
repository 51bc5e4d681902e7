//! What a gateway that shares its store with others tells of the feed of revocations.

use std::time::Duration;

use crate::domain::revocation::Revocation;

/// Where the revocations of the feed go, and for how long they are known to be all there are. No call blocks.
///
/// Moments are readings of the machine's clock that runs on while the machine is suspended (CLOCK_BOOTTIME).
pub trait FeedSink: Send + Sync {
    /// These revocations are durable. They are in force here when the call returns: every later request is decided by
    /// them. An entry may come twice, and in another order than it was made in; the sink merges.
    fn apply(&self, revocations: &[Revocation]);

    /// Every revocation that is acknowledged before `until` was applied by now, or is acknowledged only after `until`.
    /// From `until` on tokens may be believed only where the configuration says `fail = "open"`. In place of the
    /// former moment, also when that was later: a gateway that leaves the others tells [`Duration::ZERO`], and from
    /// then on no token is believed.
    fn believe_until(&self, until: Duration);

    /// The store has lost revocations that were acknowledged. From now on, whatever is told later in this run, tokens
    /// may be believed only where the configuration says `fail = "open"`, and an operator has to say what shall be
    /// done. `why` is for operators.
    fn closed(&self, why: &str);
}

/// How a replica's attempt to confirm the head of the feed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Confirmation {
    /// It is committed, and everything up to the head was applied.
    Done,
    /// Other replicas had counted this one as gone; it registers again.
    Expired,
    /// The database did not commit it, or not in time.
    Failed,
}

impl Confirmation {
    /// Its name, as a label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Confirmation::Done => "done",
            Confirmation::Expired => "expired",
            Confirmation::Failed => "failed",
        }
    }
}

/// Where the counts of a replica go. Implementations never block.
pub trait ReplicaMeter: Send + Sync {
    /// An attempt to confirm the head has ended; how long it took.
    fn confirmation(&self, _outcome: Confirmation, _took: Duration) {}
    /// Up to where the feed was applied, and its head as it was last read.
    fn feed_at(&self, _position: u64, _head: u64) {}
    /// Whether notices of the database arrive. Without them the feed is polled.
    fn listening(&self, _listening: bool) {}
    /// The whole set of revocations was read; how many there were, and how long it took.
    fn loaded(&self, _revocations: u64, _took: Duration) {}
    /// How many replicas are registered, this one included.
    fn registered(&self, _replicas: u32) {}
    /// A replica was counted as gone, because it had not confirmed for longer than its lease.
    fn expired_replica(&self) {}
    /// A commit put revocations in force, and every replica has confirmed it (`lapsed` is 0), or was waited for until
    /// its lease was over. `took`: since the commit.
    fn acknowledged(&self, _took: Duration, _confirmed: u32, _lapsed: u32) {}
    /// The store has lost revocations: no token is believed until an operator's word.
    fn closed(&self) {}
}

/// Measures nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unmeasured;

impl ReplicaMeter for Unmeasured {}

//! Leases: which of several gateways that share a store does a piece of work, and until when (Gray and Cheriton,
//! "Leases", SOSP 1989).
//!
//! Each lease has a fencing number, which rises from one lease to the next. A commit that finishes leased work names the
//! lease that it was done under, and is refused once another holder has taken the work over.

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use super::connection::ConnectionId;

/// How long a lease that has ended is remembered while no other holder takes it over. A holder that was cut off from the
/// store for less than that can still commit what it did.
pub const ENDED_LEASE_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How many leases a table holds before it first looks for some to forget.
const FIRST_LOOK: usize = 1024;

/// A running gateway: a random id of each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseHolder(pub Uuid);

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseSubject {
    /// Doing this task.
    Task(Uuid),
    /// Delivering this mail.
    Mail(Uuid),
    /// Telling the app of connections: all notices have one lease, because their order counts.
    Notices,
    /// Telling the app of accounts.
    AccountNotices,
    /// Replacing or erasing the tokens of this connection.
    Refresh(ConnectionId),
    /// The worker's look at this connection, which is due.
    Due(ConnectionId),
    /// Taking what this consent has brought back from its provider.
    Consent(Uuid),
    /// Forgetting what has ended.
    Sweep,
    /// Reading, deciding and writing the mark of the clock.
    ClockMark,
    /// What is done once to a store of an earlier program.
    Upgrades,
}

impl LeaseSubject {
    /// What a store keeps the lease under: a byte of the kind, and the id where it has one. It never changes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let (kind, id) = match self {
            LeaseSubject::Task(id) => (1, Some(id)),
            LeaseSubject::Mail(id) => (2, Some(id)),
            LeaseSubject::Notices => (3, None),
            LeaseSubject::AccountNotices => (4, None),
            LeaseSubject::Refresh(id) => (5, Some(id.0)),
            LeaseSubject::Due(id) => (6, Some(id.0)),
            LeaseSubject::Consent(id) => (7, Some(id)),
            LeaseSubject::Sweep => (8, None),
            LeaseSubject::ClockMark => (9, None),
            LeaseSubject::Upgrades => (10, None),
        };
        let mut bytes = vec![kind];
        bytes.extend(id.iter().flat_map(|id| id.as_bytes()));
        bytes
    }
}

/// A lease that was granted. When it ends is known to the store that granted it; the holder counts from when it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub subject: LeaseSubject,
    pub holder: LeaseHolder,
    /// Higher than that of every lease granted before by the same store, those of earlier runs included. An extended
    /// lease keeps it.
    pub fence: u64,
}

#[derive(Debug, Clone, Copy)]
struct Granted {
    lease: Lease,
    /// By the clock of the table's owner.
    ends_at: Duration,
}

/// The leases of one store. Moments are durations since any fixed moment, by one clock that never goes back.
#[derive(Debug, Clone)]
pub struct LeaseTable {
    granted: HashMap<LeaseSubject, Granted>,
    last_fence: u64,
    look_at: usize,
}

impl Default for LeaseTable {
    fn default() -> LeaseTable {
        LeaseTable::above(0)
    }
}

impl LeaseTable {
    /// An empty table, whose leases have fencing numbers above `fence`.
    #[must_use]
    pub fn above(fence: u64) -> LeaseTable {
        LeaseTable { granted: HashMap::new(), last_fence: fence, look_at: FIRST_LOOK }
    }

    /// A table without leases, whose next one has a higher fencing number than any of this one.
    #[must_use]
    pub fn emptied(&self) -> LeaseTable {
        LeaseTable::above(self.last_fence)
    }

    /// Grants `subject` to `holder` for `term` from `now` on, or extends the lease that the holder has. `None`: another
    /// holder's lease has not ended.
    pub fn claim(
        &mut self,
        subject: LeaseSubject,
        holder: LeaseHolder,
        term: Duration,
        now: Duration,
    ) -> Option<Lease> {
        let ends_at = now.saturating_add(term);
        if let Some(granted) = self.granted.get_mut(&subject) {
            if granted.lease.holder == holder {
                granted.ends_at = granted.ends_at.max(ends_at);
                return Some(granted.lease);
            }
            if now < granted.ends_at {
                return None;
            }
        }
        self.forget_ended(now);
        self.last_fence += 1;
        let lease = Lease { subject, holder, fence: self.last_fence };
        self.granted.insert(subject, Granted { lease, ends_at });
        Some(lease)
    }

    /// Whether no other holder has taken over what `lease` is for, and it was not released. One that has ended still
    /// stands until then, for [`ENDED_LEASE_KEPT`]: no other gateway has done the same work.
    #[must_use]
    pub fn stands(&self, lease: &Lease) -> bool {
        self.granted.get(&lease.subject).is_some_and(|granted| granted.lease == *lease)
    }

    /// Ends a lease ahead of its time. Nothing to do when it does not stand any more.
    pub fn release(&mut self, lease: &Lease) {
        if self.stands(lease) {
            self.granted.remove(&lease.subject);
        }
    }

    /// Keeps the table from growing by leases that were neither released nor taken over. A look costs as much as there
    /// are leases, so the next one is made at twice as many.
    fn forget_ended(&mut self, now: Duration) {
        if self.granted.len() < self.look_at {
            return;
        }
        self.granted.retain(|_, granted| now < granted.ends_at.saturating_add(ENDED_LEASE_KEPT));
        self.look_at = FIRST_LOOK.max(self.granted.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(60);
    const A: LeaseHolder = LeaseHolder(Uuid::from_u128(1));
    const B: LeaseHolder = LeaseHolder(Uuid::from_u128(2));

    fn subject(n: u128) -> LeaseSubject {
        LeaseSubject::Task(Uuid::from_u128(n))
    }

    #[test]
    fn every_subject_is_kept_under_bytes_of_its_own() {
        let id = Uuid::from_u128(7);
        let subjects = [
            LeaseSubject::Task(id),
            LeaseSubject::Mail(id),
            LeaseSubject::Notices,
            LeaseSubject::AccountNotices,
            LeaseSubject::Refresh(ConnectionId(id)),
            LeaseSubject::Due(ConnectionId(id)),
            LeaseSubject::Consent(id),
            LeaseSubject::Sweep,
            LeaseSubject::ClockMark,
            LeaseSubject::Upgrades,
        ];
        let kept: Vec<_> = subjects.iter().map(|subject| subject.to_bytes()[0]).collect();
        assert_eq!(kept, (1..=10).collect::<Vec<u8>>());
        assert_eq!(LeaseSubject::Task(id).to_bytes()[1..], *id.as_bytes());
        assert_eq!(LeaseSubject::Sweep.to_bytes(), [8]);
    }

    #[test]
    fn one_holder_at_a_time_until_the_lease_ends() {
        let mut table = LeaseTable::above(7);
        let first = table.claim(subject(1), A, TERM, Duration::ZERO).unwrap();
        assert_eq!(first.fence, 8);
        assert_eq!(table.claim(subject(1), B, TERM, TERM - Duration::from_nanos(1)), None);
        let second = table.claim(subject(1), B, TERM, TERM).unwrap();
        assert_eq!(second.fence, 9);
        assert!(table.stands(&second) && !table.stands(&first));
        assert_eq!(table.claim(subject(1), A, TERM, TERM), None);
    }

    #[test]
    fn an_extension_keeps_the_fence_and_never_shortens() {
        let mut table = LeaseTable::above(0);
        let first = table.claim(subject(1), A, TERM, Duration::ZERO).unwrap();
        assert_eq!(table.claim(subject(1), A, TERM, TERM / 2), Some(first));
        assert_eq!(table.claim(subject(1), A, Duration::ZERO, TERM / 2), Some(first));
        assert_eq!(table.claim(subject(1), B, TERM, TERM), None, "it was extended");
        assert!(table.claim(subject(1), B, TERM, TERM + TERM / 2).is_some());
    }

    #[test]
    fn a_release_frees_and_is_only_the_holders() {
        let mut table = LeaseTable::above(0);
        let first = table.claim(subject(1), A, TERM, Duration::ZERO).unwrap();
        table.release(&first);
        assert!(!table.stands(&first));
        let second = table.claim(subject(1), B, TERM, Duration::ZERO).unwrap();
        table.release(&first);
        assert!(table.stands(&second), "a late release of another lease changes nothing");
    }

    #[test]
    fn abandoned_leases_are_forgotten_a_day_after_their_end() {
        let mut table = LeaseTable::above(0);
        let old = table.claim(subject(0), A, TERM, Duration::ZERO).unwrap();
        for n in 1..FIRST_LOOK as u128 {
            table.claim(subject(n), A, TERM, Duration::ZERO);
        }
        let kept_until = TERM + ENDED_LEASE_KEPT;
        table.claim(subject(FIRST_LOOK as u128), A, TERM, kept_until - Duration::from_nanos(1));
        assert!(table.stands(&old));
        for n in 0..FIRST_LOOK as u128 {
            table.claim(subject(1_000_000 + n), A, TERM, kept_until);
        }
        assert!(!table.stands(&old) && table.granted.len() <= FIRST_LOOK + 1);
    }
}

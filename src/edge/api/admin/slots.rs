//! The connections of one listener of the operator: how many there are, and which of them makes room for a new one.
//!
//! A connection is idle until its first request head is there whole. An idle one is closed for a new one when there is no
//! room, the oldest first; one whose request is being answered never is. A peer address holds at most `most_of_peer`
//! connections, or more while all of them are being answered and less than half of the slots are taken: many probes can
//! come through one translated address, and slow readers at one address still leave room for others.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The connections of one listener. Its memory is bounded by the limits.
pub(super) struct Slots {
    /// In the order in which they were accepted.
    held: Mutex<Vec<Held>>,
    /// A connection has ended, or one that was asked to make room has a request instead.
    changed: Notify,
    /// Connections at once.
    most: usize,
    /// Connections of one peer address at once, as long as one of them is idle or half of all slots are taken.
    most_of_peer: usize,
}

struct Held {
    peer: IpAddr,
    state: State,
    /// Asks the connection to make room; tells connections apart as well.
    close: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// Idle, and asked to make room.
    Leaving,
    Answered,
}

/// What [`Slots::try_take`] comes to.
enum Taken {
    Slot(Slot),
    /// All connections of this peer address are being answered.
    Refused,
    /// There will be room, or another connection to ask, when something has changed.
    Later,
}

impl Slots {
    pub(super) fn new(most: usize, most_of_peer: usize) -> Arc<Slots> {
        let held = Mutex::new(Vec::with_capacity(most));
        Arc::new(Slots { held, changed: Notify::new(), most, most_of_peer })
    }

    /// A slot for a connection of `peer`, once an idle connection has made room where there is none. Waits while all slots
    /// hold connections that are being answered. `None`: all connections of this peer are being answered, and one peer may
    /// not have more. For one caller at a time.
    pub(super) async fn take(self: &Arc<Slots>, peer: IpAddr) -> Option<Slot> {
        // IPv4 over a socket of IPv6 is the same peer.
        let peer = peer.to_canonical();
        loop {
            match self.try_take(peer) {
                Taken::Slot(slot) => return Some(slot),
                Taken::Refused => return None,
                // A change since the look above is kept for this one waiter.
                Taken::Later => self.changed.notified().await,
            }
        }
    }

    fn try_take(self: &Arc<Slots>, peer: IpAddr) -> Taken {
        let mut held = self.held();
        let of_peer = || held.iter().filter(|other| other.peer == peer);
        let is_idle_among_them = of_peer().any(|other| other.state != State::Answered);
        let is_peer_full =
            of_peer().count() >= self.most_of_peer && (is_idle_among_them || held.len() >= self.most / 2);
        if held.len() < self.most && !is_peer_full {
            let close = Arc::new(Notify::new());
            held.push(Held { peer, state: State::Idle, close: Arc::clone(&close) });
            return Taken::Slot(Slot { slots: Arc::clone(self), close });
        }
        let mut candidates = held.iter_mut().filter(|other| !is_peer_full || other.peer == peer);
        match candidates.find(|other| other.state != State::Answered) {
            Some(oldest) => {
                // Asked once: it ends, or has a request by now.
                if oldest.state == State::Idle {
                    oldest.state = State::Leaving;
                    oldest.close.notify_one();
                }
                Taken::Later
            }
            None if is_peer_full => Taken::Refused,
            None => Taken::Later,
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of one connection, free again when this is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    close: Arc<Notify>,
}

impl Slot {
    /// Notes that a request head is there whole: from here on the connection is not closed for another one.
    pub(super) fn note_request(&self) {
        let mut held = self.slots.held();
        let Some(one) = held.iter_mut().find(|one| Arc::ptr_eq(&one.close, &self.close)) else { return };
        if one.state == State::Leaving {
            self.slots.changed.notify_one();
        }
        one.state = State::Answered;
    }

    /// Waits until the connection is to make room.
    pub(super) async fn asked_to_leave(&self) {
        self.close.notified().await;
    }

    /// Whether the connection has had no request yet.
    pub(super) fn is_idle(&self) -> bool {
        let held = self.slots.held();
        held.iter().any(|one| Arc::ptr_eq(&one.close, &self.close) && one.state != State::Answered)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.held().retain(|one| !Arc::ptr_eq(&one.close, &self.close));
        self.slots.changed.notify_one();
    }
}

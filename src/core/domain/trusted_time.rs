//! Trusted time: what is known of the present moment when the wall clock may be wrong (clock skew, rollback).
//!
//! A high-water mark is kept in the store and moved by monotonic uptime alone. The wall clock is held against it: as
//! long as the two go together the clock is believed; where they part it is in doubt, and what cannot be undone goes
//! by the earlier of the two. Nothing here reads a clock or writes a record: both come in as arguments.
//!
//! Three rules:
//! 1. While the process runs, the wall clock may differ from the mark by [`NEAR`]. The mark follows it by one second
//!    in [`FOLLOW`] at most, so that no clock that creeps can take the mark along.
//! 2. For how long the gateway was stopped only the wall clock tells. Up to [`PLAUSIBLE_STOP`] that is taken for
//!    a stop, and is believed once the process has run for [`PROBATION`] without the clock being set back: by then
//!    every access token of ours from before the stop has ended by the monotonic clock too.
//! 3. Everything else is a doubt. It ends when the two agree again, or by the operator's word ([`TrustedTime::accept`]).

use std::cmp::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::UnixTime;

/// How far the wall clock may be from the mark without being in doubt: above the steps by which clocks are corrected
/// as a rule, and well below the hour for which entries are kept past their end.
pub const NEAR: Duration = Duration::from_secs(600);

/// The longest time without the gateway that is taken for a stop, all stops on probation together: a weekend with a
/// holiday on either side. What is longer is in doubt until the operator says that it is right.
pub const PLAUSIBLE_STOP: Duration = Duration::from_secs(4 * 24 * 3600);

/// How long the process has to run before a stop is believed: longer than any access token of ours lives (24 hours),
/// with an hour's slack and leeway on top.
pub const PROBATION: Duration = Duration::from_secs(26 * 3600);

/// How long after the start the clock may still be set to the right time (a machine without a battery-backed clock,
/// or one that has it in local time): a step ahead is then taken for a part of the stop.
pub const SETTLING: Duration = Duration::from_secs(600);

/// In so many seconds of uptime the mark follows a wall clock that is near by one second. The kernel slews clocks by
/// half of that.
pub const FOLLOW: u64 = 1000;

/// The most stops on probation that are kept apart.
const MAX_STOPS: usize = 32;

/// A time without the gateway, as the wall clock told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// How long it was, in seconds.
    pub seconds: u64,
    /// How many seconds of uptime are left until it is believed.
    pub left: u64,
}

/// What is kept in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The high-water mark.
    pub at: UnixTime,
    /// Stops that are not in it yet, oldest first.
    #[serde(default)]
    pub stops: Vec<Stop>,
    /// The latest moment that the wall clock ever showed. What was signed by then may say so.
    #[serde(default)]
    pub highest: UnixTime,
    /// How often an operator has said that the clock is right. A program that does not know it drops it, and gateways over
    /// the same store that do write it again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub accepted: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Mark {
    /// What holds of two marks of gateways over one store: that of the later word of an operator, and otherwise the later
    /// one. Uptime has moved either, so the later one is not too late, and a mark never goes back.
    #[must_use]
    pub fn merged(self, other: Mark) -> Mark {
        match self.accepted.cmp(&other.accepted) {
            Ordering::Greater => self,
            Ordering::Less => other,
            Ordering::Equal => {
                let highest = self.highest.max(other.highest);
                let later = if other.at > self.at { other } else { self };
                Mark { highest, ..later }
            }
        }
    }
}

/// In which direction the wall clock is off, and by how much beyond what stops explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It shows a later moment than the mark.
    Ahead(Duration),
    /// It shows an earlier one.
    Behind(Duration),
}

/// What is known of the present moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// What the wall clock shows.
    pub wall: UnixTime,
    /// The earliest that it can be: what cannot be undone is decided by this.
    pub earliest: UnixTime,
    /// The latest that it can be: what shall reach everything so far reaches to here.
    pub latest: UnixTime,
    /// The latest moment that a clock of ours ever showed, and no earlier than `latest`: what has to outlast everything
    /// that was signed so far is kept for a span from here.
    pub horizon: UnixTime,
}

impl From<UnixTime> for ClockReading {
    /// A clock that is beyond doubt.
    fn from(now: UnixTime) -> ClockReading {
        ClockReading { wall: now, earliest: now, latest: now, horizon: now }
    }
}

impl ClockReading {
    /// The wall clock's moment at which the earliest will have come to `at`, if all goes on as it is.
    #[must_use]
    pub fn wall_at(&self, at: UnixTime) -> UnixTime {
        self.wall.plus(self.earliest.until(at))
    }
}

/// What an operator is told about the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockState {
    pub wall: UnixTime,
    /// The high-water mark, moved by uptime.
    pub mark: UnixTime,
    pub doubt: Option<Doubt>,
    /// Stops that are not believed yet.
    pub stops: Vec<Stop>,
    /// The latest moment that the wall clock ever showed.
    pub highest: UnixTime,
}

impl ClockState {
    /// Whether the wall clock ever showed a moment that is still to come by what it shows now.
    #[must_use]
    pub fn has_been_ahead(&self) -> bool {
        self.wall.plus(NEAR) < self.highest
    }

    /// By how many seconds the wall clock is ahead of what is expected, or, below zero, behind it; zero while it is
    /// beyond doubt.
    #[must_use]
    pub fn skew(&self) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        match self.doubt {
            None => 0,
            Some(Doubt::Ahead(span)) => seconds(span),
            Some(Doubt::Behind(span)) => -seconds(span),
        }
    }

    /// How far what cannot be undone is behind the wall clock.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.mark.until(self.wall)
    }
}

/// The mark as it moves while the process runs.
#[derive(Debug, Clone)]
pub struct TrustedTime {
    mark: UnixTime,
    stops: Vec<Stop>,
    highest: UnixTime,
    /// The uptime for which `mark` is right.
    since: Duration,
    /// The uptime of the start.
    started: Duration,
    /// Uptime in seconds that the mark has not followed the wall clock for yet.
    unfollowed: u64,
    /// By how many seconds stops were shortened because the clock was set back: it may go forward again by as much.
    taken_back: u64,
    /// Whether the two agreed at the last look.
    agreed: bool,
    /// [`Mark::accepted`].
    accepted: u64,
}

impl TrustedTime {
    /// Begins with what the store holds, when the wall clock shows `wall` and the uptime is `uptime`. Where it holds no
    /// mark, `last` is the latest moment that any of its records names, and `None` says that there is no record.
    #[must_use]
    pub fn start(
        stored: Option<Mark>,
        last: Option<UnixTime>,
        wall: UnixTime,
        uptime: Duration,
    ) -> TrustedTime {
        let stored = stored.unwrap_or_else(|| {
            let at = last.unwrap_or(wall);
            Mark { at, highest: at, ..Mark::default() }
        });
        let mut time = TrustedTime {
            mark: stored.at,
            stops: stored.stops,
            highest: stored.highest.max(stored.at),
            since: uptime,
            started: uptime,
            unfollowed: 0,
            taken_back: 0,
            agreed: true,
            accepted: stored.accepted,
        };
        time.take_for_stop(wall);
        time.observe(wall, uptime);
        time
    }

    /// Takes a look at both clocks.
    pub fn observe(&mut self, wall: UnixTime, uptime: Duration) {
        let elapsed = uptime.saturating_sub(self.since).as_secs();
        self.since += Duration::from_secs(elapsed);
        self.mark = self.mark.plus(Duration::from_secs(elapsed));
        self.highest = self.highest.max(wall);
        self.believe_stops(elapsed, wall);
        let expected = self.expected();
        let is_settling = uptime.saturating_sub(self.started) < SETTLING;
        if wall.plus(NEAR) < expected {
            self.set_back(wall.until(expected).as_secs());
        } else if expected.plus(NEAR) < wall {
            let excess = expected.until(wall).as_secs();
            if is_settling || excess <= self.taken_back.saturating_add(NEAR.as_secs()) && self.taken_back > 0
            {
                self.taken_back = self.taken_back.saturating_sub(excess);
                self.take_for_stop(wall);
            }
        }
        self.follow(elapsed, wall);
        self.agreed = self.agrees(wall);
    }

    /// The wall clock showed `highest` at some time.
    pub fn has_shown(&mut self, highest: UnixTime) {
        self.highest = self.highest.max(highest);
    }

    /// Goes on from the mark of another gateway over the same store, which was read when the uptime was `uptime`, where
    /// that holds rather than this one ([`Mark::merged`]). Time that this gateway has counted since is not counted again.
    pub fn adopt(&mut self, stored: Mark, uptime: Duration) {
        let merged = self.mark().merged(stored);
        self.highest = merged.highest;
        if merged.at == self.mark && merged.accepted == self.accepted {
            return;
        }
        self.mark = merged.at;
        self.stops = merged.stops;
        self.accepted = merged.accepted;
        self.since = uptime;
        self.unfollowed = 0;
        self.taken_back = 0;
    }

    /// What is known of the present moment, as of the last look.
    #[must_use]
    pub fn reading(&self, wall: UnixTime) -> ClockReading {
        let latest = wall.max(self.expected());
        ClockReading { wall, earliest: wall.min(self.mark), latest, horizon: latest.max(self.highest) }
    }

    /// For an operator, as of the last look.
    #[must_use]
    pub fn standing(&self, wall: UnixTime) -> ClockState {
        let expected = self.expected();
        let (ahead, behind) = (expected.until(wall), wall.until(expected));
        let doubt = match (ahead > NEAR, behind > NEAR) {
            (true, _) => Some(Doubt::Ahead(ahead)),
            (_, true) => Some(Doubt::Behind(behind)),
            _ => None,
        };
        ClockState { wall, mark: self.mark, doubt, stops: self.stops.clone(), highest: self.highest }
    }

    /// The operator says that the wall clock is right. It is the mark from now on, and no clock of ours ever showed a
    /// later moment: what was signed while one did has to be revoked first. `said` is [`Mark::accepted`] as it is stored.
    pub fn accept(&mut self, said: u64, wall: UnixTime, uptime: Duration) {
        self.mark = wall;
        self.stops.clear();
        self.since = uptime;
        self.unfollowed = 0;
        self.taken_back = 0;
        self.agreed = true;
        self.highest = wall;
        self.accepted = self.accepted.max(said).saturating_add(1);
    }

    /// What is to be kept in the store.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let (at, stops, highest) = (self.mark, self.stops.clone(), self.highest);
        Mark { at, stops, highest, accepted: self.accepted }
    }

    /// What the wall clock is expected to show.
    fn expected(&self) -> UnixTime {
        self.mark.plus(Duration::from_secs(self.unbelieved()))
    }

    fn agrees(&self, wall: UnixTime) -> bool {
        let expected = self.expected();
        wall <= expected.plus(NEAR) && expected <= wall.plus(NEAR)
    }

    fn unbelieved(&self) -> u64 {
        self.stops.iter().fold(0, |sum, stop| sum.saturating_add(stop.seconds))
    }

    /// What the wall clock shows beyond what is expected was a stop, if that is plausible.
    fn take_for_stop(&mut self, wall: UnixTime) {
        let seconds = self.expected().until(wall).as_secs();
        if seconds == 0 || self.unbelieved().saturating_add(seconds) > PLAUSIBLE_STOP.as_secs() {
            return;
        }
        if self.stops.len() >= MAX_STOPS {
            // The older one waits for the younger.
            let oldest = self.stops.remove(0);
            if let Some(next) = self.stops.first_mut() {
                next.seconds = next.seconds.saturating_add(oldest.seconds);
                next.left = next.left.max(oldest.left);
            }
        }
        self.stops.push(Stop { seconds, left: PROBATION.as_secs() });
    }

    /// Adds stops with a completed probation to the mark. It goes on only while the two agree.
    fn believe_stops(&mut self, elapsed: u64, wall: UnixTime) {
        if !self.agreed || !self.agrees(wall) {
            return;
        }
        let mut believed = 0u64;
        self.stops.retain_mut(|stop| {
            stop.left = stop.left.saturating_sub(elapsed);
            if stop.left == 0 {
                believed = believed.saturating_add(stop.seconds);
            }
            stop.left > 0
        });
        self.mark = self.mark.plus(Duration::from_secs(believed));
    }

    /// The wall clock was set back: what it called a stop was none, the latest first.
    fn set_back(&mut self, mut seconds: u64) {
        while seconds > 0 {
            let Some(last) = self.stops.last_mut() else { return };
            let taken = last.seconds.min(seconds);
            last.seconds -= taken;
            seconds -= taken;
            self.taken_back += taken;
            if last.seconds == 0 {
                self.stops.pop();
            }
        }
    }

    fn follow(&mut self, elapsed: u64, wall: UnixTime) {
        // What was not used up is not saved up.
        self.unfollowed = self.unfollowed.saturating_add(elapsed);
        let steps = self.unfollowed / FOLLOW;
        self.unfollowed %= FOLLOW;
        let expected = self.expected();
        let (ahead, behind) = (expected.until(wall), wall.until(expected));
        if ahead > Duration::ZERO && ahead <= NEAR {
            self.mark = self.mark.plus(ahead.min(Duration::from_secs(steps)));
        } else if behind <= NEAR {
            self.mark = self.mark.minus(behind.min(Duration::from_secs(steps)));
        }
    }
}

#[cfg(test)]
#[path = "trusted_time_tests.rs"]
mod tests;

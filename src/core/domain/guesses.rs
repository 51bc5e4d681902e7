//! Guessing at passwords: how long an attempt has to wait after wrong ones. What counts them, and for how many gateways,
//! is elsewhere.
//!
//! A caller that gives a wrong password for one account from one address block waits ([`Tries`]). Many blocks together
//! that guess at one account put it under siege ([`Pressure`]): blocks without a recent sign-in to it wait before every
//! attempt. Each block waits for itself alone, so an attacker can delay guesses and cannot lock the owner out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// So long without an attempt forgets the wrong ones.
pub const FORGOTTEN: Duration = Duration::from_secs(3600);
/// A siege is over so long after the last wrong password at the latest.
pub const SIEGE_FORGOTTEN: Duration = Duration::from_secs(SIEGE_FORGIVES.as_secs() * SIEGE_MOST as u64);

/// Wrong passwords on one account, from everywhere, that put it under siege.
pub const SIEGE: u32 = 30;
/// So many more double the wait.
pub const SIEGE_STEP: u32 = 10;
/// The longest wait of a block on an account under siege.
pub const SIEGE_LONGEST: Duration = Duration::from_secs(30);
/// One wrong password is forgiven in this time.
pub const SIEGE_FORGIVES: Duration = Duration::from_secs(60);
/// More are not counted, so that a siege is over two hours after the last of them.
const SIEGE_MOST: u32 = 120;

/// `limits.guesses`: the delays between wrong passwords for one account from one address block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guesses {
    /// Wrong passwords that cost no delay.
    pub free: u32,
    /// The longest delay; each further wrong password doubles it up to this.
    pub longest: Duration,
}

impl Default for Guesses {
    fn default() -> Guesses {
        Guesses { free: 4, longest: Duration::from_secs(15 * 60) }
    }
}

/// One block's attempts on one account. Moments are those of one clock that does not go back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// Those that have not turned out right.
    pub wrong: u32,
    /// The last one, or the first contact under siege.
    last: Option<Duration>,
    /// What [`Tries::last`] was before the last one.
    before: Option<Duration>,
}

impl Tries {
    /// Begins an attempt at `now`, when the account makes blocks like this one wait for `siege`. It counts from its
    /// beginning, so a hundred at the same moment are no way around the delays.
    ///
    /// # Errors
    /// How long there is to wait; the attempt does not count. The wait under siege begins with the first contact, so the
    /// tries are to be kept then, too.
    pub fn begin(&mut self, rules: &Guesses, siege: Duration, now: Duration) -> Result<(), Duration> {
        if self.last.is_some_and(|last| now.saturating_sub(last) > FORGOTTEN) {
            *self = Tries::default();
        }
        let wait = self.wait(rules).max(siege);
        if !wait.is_zero() {
            let left = (*self.last.get_or_insert(now) + wait).saturating_sub(now);
            if !left.is_zero() {
                return Err(left);
            }
        }
        self.wrong = self.wrong.saturating_add(1);
        self.before = self.last.replace(now);
        Ok(())
    }

    /// The last attempt was not carried out: it is as if it had not been made.
    pub fn take_back(&mut self) {
        self.wrong = self.wrong.saturating_sub(1);
        self.last = self.before;
    }

    fn wait(&self, rules: &Guesses) -> Duration {
        match self.wrong.checked_sub(rules.free) {
            None | Some(0) => Duration::ZERO,
            Some(more) => Duration::from_secs(1 << (more - 1).min(16)).min(rules.longest),
        }
    }
}

/// Wrong passwords on one account, from everywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    wrong: u32,
    /// When the last one was forgiven or counted.
    since: Duration,
}

impl Pressure {
    fn forgive(&mut self, now: Duration) {
        let forgiven = now.saturating_sub(self.since).as_secs() / SIEGE_FORGIVES.as_secs();
        self.wrong = self.wrong.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        self.since += SIEGE_FORGIVES * u32::try_from(forgiven).unwrap_or(0);
        if self.wrong == 0 {
            self.since = now;
        }
    }

    /// One more wrong password at `now`.
    pub fn add(&mut self, now: Duration) {
        self.forgive(now);
        self.wrong = (self.wrong + 1).min(SIEGE_MOST);
    }

    /// How long each block waits that the account was not signed in to from lately.
    pub fn wait(&mut self, now: Duration) -> Duration {
        self.forgive(now);
        match self.wrong.checked_sub(SIEGE) {
            None => Duration::ZERO,
            Some(more) => Duration::from_secs(1 << (more / SIEGE_STEP)).min(SIEGE_LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Guesses = Guesses { free: 2, longest: Duration::from_secs(4) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn wrong_ones_double_the_wait_and_what_was_not_tried_does_not_count() {
        let mut tries = Tries::default();
        for _ in 0..3 {
            assert_eq!(tries.begin(&RULES, Duration::ZERO, at(0)), Ok(()));
        }
        assert_eq!(tries.begin(&RULES, Duration::ZERO, at(0)), Err(Duration::from_secs(1)));
        tries.take_back();
        assert_eq!(tries.begin(&RULES, Duration::ZERO, at(0)), Ok(()));
        assert_eq!(tries.begin(&RULES, Duration::ZERO, at(1)), Ok(()));
        assert_eq!(tries.begin(&RULES, Duration::ZERO, at(2)), Err(Duration::from_secs(1)));
        assert_eq!(tries.begin(&RULES, Duration::ZERO, at(1) + FORGOTTEN), Ok(()), "after four seconds");
        assert_eq!(tries.begin(&RULES, Duration::ZERO, at(3) + 2 * FORGOTTEN), Ok(()));
        assert_eq!(tries.wrong, 1, "an hour forgets them");
    }

    #[test]
    fn a_siege_begins_with_the_first_contact_and_is_kept_as_it_is() {
        let mut pressure = Pressure::default();
        (0..SIEGE).for_each(|_| pressure.add(at(0)));
        let kept = serde_json::to_vec(&pressure).unwrap();
        let mut pressure: Pressure = serde_json::from_slice(&kept).unwrap();
        let siege = pressure.wait(at(0));
        assert_eq!(siege, Duration::from_secs(1));
        let mut tries = Tries::default();
        assert_eq!(tries.begin(&RULES, siege, at(0)), Err(Duration::from_secs(1)));
        let mut tries: Tries = serde_json::from_slice(&serde_json::to_vec(&tries).unwrap()).unwrap();
        assert_eq!(tries.begin(&RULES, siege, at(1)), Ok(()));
        assert_eq!(pressure.wait(at(0) + SIEGE_FORGIVES), Duration::ZERO, "one is forgiven");
    }
}

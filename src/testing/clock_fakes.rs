//! A clock for tests only, which is moved by hand and can be in doubt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::ClockReading;
use palisade_core::ports::Clock;

/// What [`FakeClock`] shows.
pub const NOW: UnixTime = UnixTime(1_800_000_000);

/// A clock that stands at [`NOW`], moved by what was added with [`FakeClock::advance`].
#[derive(Default)]
pub struct FakeClock {
    moved: AtomicU64,
    /// By how many of these seconds it has jumped, without time passing.
    jumped: AtomicU64,
    /// The furthest that it ever was.
    highest: AtomicU64,
}

impl FakeClock {
    /// An operator corrects it.
    pub fn set_back(&self, seconds: u64) {
        self.moved.fetch_sub(seconds, Ordering::Relaxed);
        let jumped = self.jumped.load(Ordering::Relaxed);
        self.jumped.store(jumped.saturating_sub(seconds), Ordering::Relaxed);
    }

    /// Time passes.
    pub fn advance(&self, seconds: u64) {
        let moved = self.moved.fetch_add(seconds, Ordering::Relaxed).wrapping_add(seconds);
        self.highest.fetch_max(moved, Ordering::Relaxed);
    }

    /// It shows a later moment, and is in doubt.
    pub fn jump(&self, seconds: u64) {
        self.advance(seconds);
        self.jumped.fetch_add(seconds, Ordering::Relaxed);
    }

    /// An operator says that it is right.
    pub fn accept(&self) {
        self.jumped.store(0, Ordering::Relaxed);
        self.highest.store(self.moved.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> UnixTime {
        UnixTime(NOW.0 + self.moved.load(Ordering::Relaxed))
    }

    fn reading(&self) -> ClockReading {
        let wall = self.now();
        let horizon = UnixTime(NOW.0 + self.highest.load(Ordering::Relaxed)).max(wall);
        let jumped = Duration::from_secs(self.jumped.load(Ordering::Relaxed));
        ClockReading { wall, earliest: wall.minus(jumped), latest: wall, horizon }
    }
}

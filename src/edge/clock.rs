//! The machine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Clock;

/// Reads the system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixTime {
        // A clock before 1970 reads as the epoch: every token is then "not valid yet".
        UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    fn uptime(&self) -> Option<Duration> {
        Some(uptime())
    }
}

/// How long the machine has run, by a clock that cannot be set: CLOCK_BOOTTIME, which goes on while the machine is
/// suspended.
#[cfg(target_os = "linux")]
#[must_use]
pub fn uptime() -> Duration {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(since.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(since.tv_nsec).unwrap_or(0))
}

/// How long this process has looked at a clock that cannot be set. Where the machine was suspended, the wall clock will
/// seem to have jumped.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn uptime() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uptime_goes_on_and_is_no_date() {
        let before = uptime();
        assert!(uptime() >= before);
        assert!(uptime() < Duration::from_secs(SystemClock.now().0));
    }
}

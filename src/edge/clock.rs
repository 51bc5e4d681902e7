//! The machine's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::time::UnixTime;
use crate::ports::Clock;

/// Reads the system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixTime {
        // A clock before 1970 reads as the epoch: every token is then "not valid yet".
        UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

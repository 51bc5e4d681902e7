//! Points in time as the protocols we speak write them: whole seconds since the Unix epoch
//! (RFC 7519 §2, `NumericDate`). The clock itself is a port: nothing below reads it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whole seconds since 1970-01-01T00:00:00Z, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The latest representable moment: "never ends".
    pub const NEVER: UnixTime = UnixTime(u64::MAX);

    /// This moment moved later by `span`, saturating at [`UnixTime::NEVER`]. Sub-second parts are
    /// dropped.
    #[must_use]
    #[inline]
    pub fn plus(self, span: Duration) -> UnixTime {
        UnixTime(self.0.saturating_add(span.as_secs()))
    }

    /// This moment moved earlier by `span`, saturating at the epoch.
    #[must_use]
    #[inline]
    pub fn minus(self, span: Duration) -> UnixTime {
        UnixTime(self.0.saturating_sub(span.as_secs()))
    }

    /// How long from `self` until `later`; zero when `later` has passed.
    #[must_use]
    #[inline]
    pub fn until(self, later: UnixTime) -> Duration {
        Duration::from_secs(later.0.saturating_sub(self.0))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

//! One allowance as it is used: a token bucket (GCRA, by `governor`) that can be given back to.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::Ticks;
use crate::config::Allowance;

#[derive(Clone)]
struct Ticking(Ticks);

impl Clock for Ticking {
    type Instant = Duration;

    fn now(&self) -> Duration {
        (self.0)()
    }
}

/// The state of a bucket, shared by the rate limiter and by what gives back.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<InMemoryState>);

impl StateStore for Shared {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, key: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, f)
    }
}

/// An allowance in use.
pub(super) struct Rate {
    limiter: RateLimiter<NotKeyed, Shared, Ticking, NoOpMiddleware<Duration>>,
    state: Shared,
    every: Duration,
    ticks: Ticks,
}

impl Rate {
    /// A full one.
    pub(super) fn new(allowance: Allowance, ticks: &Ticks) -> Rate {
        let burst = NonZeroU32::new(allowance.burst).unwrap_or(NonZeroU32::MIN);
        // Only a period of zero is none.
        let quota =
            Quota::with_period(allowance.every).unwrap_or(Quota::per_second(burst)).allow_burst(burst);
        let state = Shared::default();
        Rate {
            limiter: RateLimiter::new(quota, state.clone(), Ticking(Arc::clone(ticks))),
            state,
            every: allowance.every,
            ticks: Arc::clone(ticks),
        }
    }

    /// Takes one, or says how long until there is one again.
    pub(super) fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| not_until.wait_time_from((self.ticks)()))
    }

    /// Gives back one that was taken. More than the burst is never there.
    pub(super) fn give_back(&self) {
        let one = Nanos::from(self.every);
        // The state is the time at which the bucket is full again.
        let back = |full: Option<Nanos>| Ok(((), full.unwrap_or_default().saturating_sub(one)));
        let Ok(()) = self.state.measure_and_replace::<_, _, Infallible>(&NotKeyed::NonKey, back);
    }
}

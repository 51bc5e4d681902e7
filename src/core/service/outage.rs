//! What fails again and again, told to the log without filling it: when it begins, once a minute while it lasts, and when
//! it is over.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the log is told of what still fails.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// One thing that may fail, such as the work of one background worker.
pub struct Outage {
    /// What happens, or does not, while it fails.
    words: String,
    failing: Mutex<Option<Failing>>,
}

/// From the first failure on.
struct Failing {
    since: Instant,
    told: Instant,
    last: Instant,
    failures: u64,
}

/// What the log is told.
#[derive(Debug, PartialEq, Eq)]
enum OutageNews {
    Began,
    Lasts { failures: u64 },
    Known,
}

impl Outage {
    /// `words`: what an operator is told, as a sentence. Where nothing says that it is over, that is so once it has not
    /// failed for a minute.
    #[must_use]
    pub fn new(words: impl Into<String>) -> Outage {
        Outage { words: words.into(), failing: Mutex::new(None) }
    }

    /// It has failed.
    pub fn failed(&self, error: &dyn Display) {
        let words = &self.words;
        match self.count() {
            OutageNews::Began => tracing::warn!(%error, "{words}"),
            OutageNews::Lasts { failures } => tracing::warn!(%error, failures, "{words}, still"),
            OutageNews::Known => tracing::debug!(%error, "{words}, still"),
        }
    }

    /// It has not failed.
    pub fn succeeded(&self) {
        if let Some(failing) = self.failing.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let (failures, seconds) = (failing.failures, failing.since.elapsed().as_secs());
            tracing::info!(failures, seconds, "{}: that is over", self.words);
        }
    }

    fn count(&self) -> OutageNews {
        let now = Instant::now();
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let lasts = failing.as_mut().filter(|known| now.duration_since(known.last) < TELL_EVERY);
        let Some(known) = lasts else {
            *failing = Some(Failing { since: now, told: now, last: now, failures: 1 });
            return OutageNews::Began;
        };
        known.failures += 1;
        known.last = now;
        if now.duration_since(known.told) < TELL_EVERY {
            return OutageNews::Known;
        }
        known.told = now;
        OutageNews::Lasts { failures: known.failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_at_once_then_once_a_minute_and_anew_after_its_end() {
        let outage = Outage::new("letters wait");
        assert_eq!(outage.count(), OutageNews::Began);
        let mut told = Vec::new();
        for second in 1..=150 {
            tokio::time::advance(Duration::from_secs(1)).await;
            if let OutageNews::Lasts { failures } = outage.count() {
                told.push((second, failures));
            }
        }
        assert_eq!(told, [(60, 61), (120, 121)]);
        outage.succeeded();
        outage.succeeded();
        assert_eq!(outage.count(), OutageNews::Began);
        assert_eq!(outage.count(), OutageNews::Known);
        tokio::time::advance(TELL_EVERY).await;
        assert_eq!(outage.count(), OutageNews::Began, "nothing has failed for a minute");
    }
}

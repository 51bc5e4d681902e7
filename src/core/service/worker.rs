//! The loop of a background worker: it does what is due when it is woken by code that enqueues work, and once a
//! second for what has become due by time.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::outage::Outage;
use crate::ports::StoreError;

/// How often a worker looks for what has become due by time.
const POLL: Duration = Duration::from_secs(1);

/// One background worker.
pub(super) struct Worker<'a> {
    /// What it does, for the log: a plural noun.
    pub(super) what: &'static str,
    /// Notified when there is something to do at once.
    pub(super) woken: &'a Notify,
    /// Ends the worker after the pass that is under way.
    pub(super) closing: &'a CancellationToken,
}

impl Worker<'_> {
    /// Runs `pass` until [`Worker::closing`]: at once after a pass that found something to do, since there may be more.
    /// After a pass that failed only time helps, so a notification does not hurry the next one: while the store fails,
    /// each request would cause another failing pass.
    pub(super) async fn run<F>(&self, pass: impl Fn() -> F)
    where
        F: Future<Output = Result<bool, StoreError>>,
    {
        let mut ticks = tokio::time::interval(POLL);
        let outage = Outage::new(format!("{} wait: the store does not take what became of them", self.what));
        while !self.closing.is_cancelled() {
            let passed = pass().await;
            match &passed {
                Ok(_) => outage.succeeded(),
                // The start has said it, and nothing changes by itself.
                Err(StoreError::Closed(_)) => {}
                Err(error) => outage.failed(error),
            }
            let is_wakeable = match passed {
                Ok(true) => continue,
                Ok(false) => true,
                Err(_) => false,
            };
            tokio::select! {
                () = self.woken.notified(), if is_wakeable => {}
                _ = ticks.tick() => {}
                () = self.closing.cancelled() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_while_there_is_work_and_then_waits_to_be_woken() {
        let (woken, closing, passes) = (Notify::new(), CancellationToken::new(), Cell::new(0));
        let started = tokio::time::Instant::now();
        let worker = Worker { what: "tests", woken: &woken, closing: &closing };
        worker
            .run(|| {
                passes.set(passes.get() + 1);
                let pass = passes.get();
                match pass {
                    // The interval's first tick comes at once, so the wait is the one after the second idle pass.
                    4 => woken.notify_one(),
                    6 => closing.cancel(),
                    _ => {}
                }
                async move { Ok(pass <= 2) }
            })
            .await;
        assert_eq!(passes.get(), 6);
        // Passes 1 and 2 had work; 3 was followed by the first tick, 4 by the notification, 5 by the next tick.
        assert_eq!(started.elapsed(), POLL);
    }

    #[tokio::test(start_paused = true)]
    async fn no_notification_hurries_a_store_that_fails() {
        let (woken, closing, passes) = (Notify::new(), CancellationToken::new(), Cell::new(0));
        let started = tokio::time::Instant::now();
        let worker = Worker { what: "tests", woken: &woken, closing: &closing };
        worker
            .run(|| {
                passes.set(passes.get() + 1);
                woken.notify_one();
                if passes.get() == 4 {
                    closing.cancel();
                }
                async { Err(StoreError::Unavailable("full".into())) }
            })
            .await;
        assert_eq!(started.elapsed(), POLL * 2);
    }
}

//! The workers: what is due is done when its time comes, or as soon as somebody says that there is more.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Connections;
use crate::ports::StoreError;

/// How often one looks for what has become due.
const LOOK: Duration = Duration::from_secs(1);
/// How often all tokens are looked through for an earlier key's.
const RESEAL: Duration = Duration::from_secs(3600);

type Work = for<'a> fn(&'a Connections) -> BoxFuture<'a, Result<bool, StoreError>>;

impl Connections {
    /// Looks after connections, does errands and seals anew, until `closing`. What is under way then comes to
    /// its end; to drop this before that may do errands a second time, and lets refreshes go on by themselves.
    pub async fn run(&self, closing: CancellationToken) {
        // Whoever makes such an errand does it at once, as a rule: a second later is early enough.
        let unhurried = Notify::new();
        tokio::join!(
            self.work("connections", &self.due, &closing, |this| Box::pin(this.do_due_connections())),
            // An app that does not answer holds up no grant that is to end, nor the other way round.
            self.work("notices", &self.tasks, &closing, |this| Box::pin(this.do_due_notices())),
            self.work("grants that are to end", &unhurried, &closing, |this| Box::pin(this.end_due_grants())),
            self.keep_sealed(&closing),
        );
        self.0.apart.close();
        self.0.apart.wait().await;
    }

    async fn work(&self, what: &str, woken: &Notify, closing: &CancellationToken, work: Work) {
        let mut ticks = tokio::time::interval(LOOK);
        while !closing.is_cancelled() {
            let woke = match work(self).await {
                // There may be more.
                Ok(true) => continue,
                Ok(false) => true,
                Err(error) => {
                    tracing::warn!(%error, "{what} wait: the store does not take what became of them");
                    false
                }
            };
            tokio::select! {
                () = woken.notified(), if woke => {}
                _ = ticks.tick() => {}
                () = closing.cancelled() => {}
            }
        }
    }

    async fn keep_sealed(&self, closing: &CancellationToken) {
        let mut ticks = tokio::time::interval(RESEAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.0.changed.notified() => {}
                () = closing.cancelled() => return,
            }
            let (mut after, mut renewed, mut unreadable) = (None, 0, 0);
            loop {
                match self.reseal_step(after).await {
                    Ok(step) => {
                        renewed += step.renewed;
                        unreadable += step.unreadable;
                        after = step.next;
                        if after.is_none() {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "sealing anew waits for the store");
                        tokio::select! {
                            () = tokio::time::sleep(LOOK) => {}
                            () = closing.cancelled() => return,
                        }
                    }
                }
                if closing.is_cancelled() {
                    return;
                }
            }
            if renewed > 0 || unreadable > 0 {
                tracing::info!(renewed, unreadable, "tokens were sealed with the present key");
            }
        }
    }
}

//! The background workers of connections.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Connections;
use crate::service::outage::Outage;
use crate::service::worker::Worker;

/// How long sealing again (key rotation) pauses after the store has failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How often all tokens are looked through for an earlier key's.
const RESEAL: Duration = Duration::from_secs(3600);

impl Connections {
    /// Looks after connections, does errands and seals anew, until `closing`. What is under way then comes to
    /// its end; to drop this before that may do errands a second time, and lets refreshes go on by themselves.
    pub async fn run(&self, closing: CancellationToken) {
        let worker = |what, woken| Worker { what, woken, closing: &closing };
        let connections = worker("connections", &self.state.due);
        let notices = worker("notices", &self.state.tasks);
        // The request that writes such an errand down also tries it at once: the worker needs no notification.
        let never = Notify::new();
        let grants = worker("grants that are to end", &never);
        // The use cases about accounts enqueue these: a second later is soon enough.
        let unwoken = Notify::new();
        let account_notices = worker("notices about accounts", &unwoken);
        tokio::join!(
            connections.run(|| self.do_due_connections()),
            // Workers of their own: a receiver that does not answer delays no other and no grant that is to end, nor the
            // other way round.
            notices.run(|| self.do_due_notices()),
            account_notices.run(|| self.do_due_account_notices()),
            grants.run(|| self.end_due_grants()),
            self.keep_sealed(&closing),
        );
        self.stop_telling().await;
        self.state.spawned.close();
        self.state.spawned.wait().await;
    }

    async fn keep_sealed(&self, closing: &CancellationToken) {
        let mut ticks = tokio::time::interval(RESEAL);
        let outage = Outage::new("sealing anew waits for the store");
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.state.changed.notified() => {}
                () = closing.cancelled() => return,
            }
            let (mut after, mut renewed, mut unreadable) = (None, 0, 0);
            loop {
                match self.reseal_step(after).await {
                    Ok(step) => {
                        outage.succeeded();
                        renewed += step.renewed;
                        unreadable += step.unreadable;
                        after = step.next;
                        if after.is_none() {
                            break;
                        }
                    }
                    Err(error) => {
                        outage.failed(&error);
                        tokio::select! {
                            () = tokio::time::sleep(STORE_PAUSE) => {}
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

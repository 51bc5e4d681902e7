//! The gateway while it runs: reload, retirement and shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::accounts::AccountWorkers;
use super::backend::Backend;
use super::connections::ConnectionWorkers;
use super::operator::Operator;
use super::watch::Watcher;
use crate::edge::proxy;
use crate::edge::proxy::capacity::Capacity;
use crate::edge::store::RevocationCache;
use palisade_core::ports::Control;
use palisade_core::service::demo_account::DemoAccount;

/// What `--demo` brings along.
pub struct Demo {
    /// The sample app.
    pub app: SocketAddr,
    /// An account to sign in with.
    pub account: DemoAccount,
}

/// A gateway that accepts connections. Dropping it does not stop it; [`RunningGateway::shutdown`] does.
pub struct RunningGateway {
    /// The cleartext listeners, with their real ports when the configuration said 0.
    pub listen: Vec<SocketAddr>,
    /// The TLS listener.
    pub tls: Option<SocketAddr>,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The health listener (`server.health`).
    pub health: Option<SocketAddr>,
    /// The demonstration.
    pub demo: Option<Demo>,
    /// The origin that people see, without a trailing slash.
    pub public_url: String,
    /// What the operator should know, one line each.
    pub notices: Vec<String>,
    /// The gateway as its operator sees it.
    pub control: Arc<dyn Control>,
    /// What is revoked, and until when that is believed.
    pub revocations: Arc<RevocationCache>,
    /// What it can hold at once.
    pub capacity: Arc<Capacity>,
    pub(super) operator: Arc<Operator>,
    pub(super) watcher: Arc<Watcher>,
    pub(super) closing: watch::Sender<bool>,
    pub(super) engine: Arc<proxy::Engine>,
    /// The accept loops, and the open client connections.
    pub(super) clients: TaskTracker,
    /// What is aborted at the end.
    pub(super) tasks: Vec<AbortHandle>,
    pub(super) accounts: AccountWorkers,
    pub(super) connections: ConnectionWorkers,
    pub(super) backend: Backend,
}

impl RunningGateway {
    /// Reads the configuration again, as a signal asked for.
    ///
    /// # Errors
    /// As [`Control::reload`].
    pub async fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        self.watcher.reload("signal").await
    }

    /// Looks at the files of the configuration, as the gateway does every two seconds. Of a change that two looks in a
    /// row have seen alike, the second reads the configuration again.
    pub async fn look_at_files(&self) {
        self.watcher.look().await;
    }

    /// Says in `/readyz` and at `server.ping_path` that no further requests should come, and goes on serving. Returns how
    /// long that lasts, before [`RunningGateway::shutdown`] is due: load balancers need that time to notice.
    pub fn retire(&self) -> Duration {
        self.operator.leaving.store(true, Ordering::Release);
        self.operator.started.server.shutdown_delay
    }

    /// Stops accepting, lets requests under way finish within the configured grace, closes the store. When
    /// it returns, the data folder is free for the next gateway.
    pub async fn shutdown(self) {
        let grace = self.operator.started.server.shutdown_grace;
        // Without a receiver there is no listener left to close.
        let _ = self.closing.send(true);
        proxy::close(&self.engine).await;
        self.clients.close();
        if tokio::time::timeout(grace, self.clients.wait()).await.is_err() {
            tracing::warn!(open = self.clients.len(), "the grace period ended with requests under way");
        }
        for task in &self.tasks {
            task.abort();
        }
        // Before the audit log is closed.
        self.operator.state.left_to_app.close();
        // What it leaves behind is mail and events, which the accounts' workers take on.
        self.connections.close(grace).await;
        self.accounts.close(grace).await;
        if let Err(error) = self.operator.state.clock.write(&*self.backend.store()).await {
            tracing::warn!(%error, "the mark of the clock was not written; the next start takes it for a longer stop");
        }
        if let Some(journal) = self.operator.state.ends.clone() {
            let closing = tokio::task::spawn_blocking(move || journal.close());
            if let Err(error) = closing.await {
                tracing::error!(%error, "backup.journal was not closed");
            }
        }
        Box::pin(self.backend.leave()).await;
        // Closed, not dropped: a task that is being ended may hold on to it a moment longer.
        let backend = self.backend;
        if let Err(error) = tokio::task::spawn_blocking(move || backend.close()).await {
            tracing::error!(%error, "the store was not closed");
        }
    }
}

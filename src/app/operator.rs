//! The gateway as its operator steers it: reload, and what `/readyz` waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;

use super::{Parts, connections};
use crate::config::{self, Config};
use crate::edge::proxy;
use crate::ports::{Control, Revocations};

/// How long a reload waits to say what became of an issuer's keys; later answers count all the same.
const KEYS: Duration = Duration::from_secs(2);

/// The operator's handle.
pub(super) struct Operator {
    pub(super) parts: Arc<Parts>,
    pub(super) live: Arc<ArcSwap<proxy::gateway::Live>>,
    pub(super) grants: connections::Handle,
    pub(super) config: ArcSwap<Config>,
    /// Held while a configuration is being put in force.
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) serving: AtomicBool,
    /// Whether the providers have been loaded, as far as they can be.
    pub(super) loaded: AtomicBool,
}

#[async_trait]
impl Control for Operator {
    async fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        // One after the other: of two at once, the one that read the older file could be the last to put it
        // in force, after the other has told its operator that the newer one is.
        let _reloading = self.reloading.lock().await;
        let before = self.config.load_full();
        let mut config = config::load(&before.path)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let mut notices = config.warnings.clone();
        let fixed = |c: &Config| {
            let server = &c.server;
            (
                server.listen.clone(),
                server.admin,
                server.tls.clone(),
                server.prefix.clone(),
                c.cors.clone(),
                c.store.clone(),
            )
        };
        let of_accounts = |c: &Config| {
            (
                c.passwords.clone(),
                c.sessions.clone(),
                c.limits.clone(),
                c.log.clone(),
                format!("{:?}", c.mail),
                connections::fixed(c),
            )
        };
        if of_accounts(&before) != of_accounts(&config) {
            let sections = "[log], [passwords], [sessions], [limits], [mail], [vault], connections.webhook and connections.cache \
                 take effect at the next start";
            notices.push(sections.to_owned());
        }
        if fixed(&before) != fixed(&config) || !before.tokens.is_same(&config.tokens) {
            notices.push(
                "listeners, server.prefix, [cors], the store and [tokens] take effect at the next start"
                    .to_owned(),
            );
        }
        // The ring signs, and revocations are kept, by what the start read: a verifier that went by
        // anything else would refuse our own valid tokens.
        config.tokens = before.tokens.clone();
        let issuers = Arc::new(self.parts.issuers.load().succeed(&config.issuers));
        let keys = issuers.begin(KEYS).await;
        for news in &keys {
            match news.is_news() {
                true => notices.push(news.to_string()),
                false => tracing::info!("{news}"),
            }
        }
        let live = self.parts.live(&config, &issuers).await.map_err(|why| vec![why])?;
        notices.extend(self.grants.reload(&config).await);
        issuers.forget_others().await;
        self.parts.issuers.store(issuers);
        self.live.store(Arc::new(live));
        self.config.store(Arc::new(config));
        tracing::info!("the configuration was read again");
        Ok(notices)
    }

    fn not_ready_because(&self) -> Vec<String> {
        let mut because = Vec::new();
        if self.parts.revocations.sequence().is_none() {
            because.push("the revocations are not loaded yet");
        }
        if !self.serving.load(Ordering::Acquire) {
            because.push("no listener is serving yet");
        }
        if !self.loaded.load(Ordering::Acquire) {
            because.push("the components of providers are not loaded yet");
        }
        if !self.parts.store.status().writable {
            because.push("the store cannot write");
        }
        if *self.closing.borrow() {
            because.push("shutting down");
        }
        let awaited = self.parts.issuers.load().awaited();
        let awaited = awaited.iter().map(|issuer| format!("the keys of {issuer} are still being fetched"));
        because.into_iter().map(str::to_owned).chain(awaited).collect()
    }

    fn missing(&self) -> Vec<String> {
        let without = self.parts.issuers.load().without_keys();
        without.iter().map(|issuer| format!("keys of {issuer}: its tokens are refused")).collect()
    }
}

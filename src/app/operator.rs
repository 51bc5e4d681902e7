//! The operator's control of the gateway: hot reload, and what `/readyz` waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;

use super::connections::ConnectionsHandle;
use super::state::ProcessState;
use super::{fail_modes, restart, warnings};
use crate::config::{self, Config, Sources};
use crate::edge::mail::Post;
use crate::edge::pages::TemplatedPages;
use crate::edge::proxy;
use palisade_core::domain::browser::BrowserSettings;
use palisade_core::ports::{Control, Revocations, Standing};
use palisade_core::service::clock::in_words;

/// How long a reload waits to say what became of an issuer's keys; later answers count all the same.
const KEYS: Duration = Duration::from_secs(2);

/// The gateway, as the operator steers it: it reads the configuration again, and says whether it is ready.
pub(super) struct Operator {
    pub(super) state: Arc<ProcessState>,
    pub(super) live: Arc<ArcSwap<proxy::gateway::Live>>,
    pub(super) streams: Arc<proxy::exchange::Streams>,
    /// The certificate of the encrypted listener, if there is one.
    pub(super) tls: Option<proxy::tls::Acceptor>,
    pub(super) connections: ConnectionsHandle,
    pub(super) post: Arc<Post>,
    /// The pages for people.
    pub(super) pages: Arc<TemplatedPages>,
    /// What the process started with: listeners, keys and much else stay as it says.
    pub(super) started: Config,
    /// The files that were read last for a configuration, good or not.
    pub(super) sources: ArcSwap<Sources>,
    /// `server.watch` of the configuration in force.
    pub(super) watching: AtomicBool,
    /// Held while a configuration is being put in force.
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) closing: watch::Receiver<bool>,
    /// Set once a stop was asked for, though requests are still taken.
    pub(super) leaving: AtomicBool,
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
        let (config, sources) = config::read(&self.started.path);
        // Also of a configuration that is not put in force: its files are looked at until they are good.
        self.sources.store(Arc::new(sources));
        let mut config =
            config.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let mut notices = config.warnings.clone();
        notices.extend(warnings::about(&config).await);
        if let Some(notice) = restart::notice(&self.started, &config) {
            notices.insert(0, notice);
        }
        notices.extend(restart::lost_vault_key(&self.started, &config));
        notices.extend(fail_modes::keep_registered(&self.started, &mut config));
        config.store.clone_from(&self.started.store);
        // The ring signs, revocations are kept, and links are made by what the start read: a verifier that went by
        // anything else would refuse our own valid tokens.
        config.tokens = self.started.tokens.clone();
        config.public_url.clone_from(&self.started.public_url);
        // Sessions live by what the start read, and are set by the handlers that it made.
        let hosts = std::mem::take(&mut config.browser.hosts);
        config.browser = BrowserSettings { hosts, ..self.started.browser.clone() };
        config.server.prefix.clone_from(&self.started.server.prefix);
        // From the files that the start named; others need a restart, as the notice says.
        let pair = self.tls.as_ref().map(|tls| tls.read().map(|pair| (tls, pair)));
        let hide = |why: String| config.redaction.hide(why);
        let pair = pair.transpose().map_err(|why| vec![hide(format!("server.tls: {why}"))])?;
        let fetched_by = self.state.fetch.settings();
        self.state.fetch.apply(&config.fetch).map_err(|why| vec![hide(why)])?;
        let issuers = Arc::new(self.state.issuers.load().succeed(&config.issuers));
        let keys = issuers.begin(KEYS).await;
        for news in &keys {
            match news.is_news() {
                true => notices.push(hide(news.to_string())),
                false => tracing::info!("{news}"),
            }
        }
        let live = match self.state.live(&config, &issuers).await {
            Ok(live) => live,
            Err(why) => {
                // What was in force stays in force.
                let _ = self.state.fetch.apply(&fetched_by);
                return Err(vec![hide(why)]);
            }
        };
        notices.extend(self.connections.reload(&config).await.into_iter().map(&hide));
        self.post.renew(&config.mail);
        issuers.forget_others().await;
        self.state.issuers.store(issuers);
        let live = Arc::new(live);
        self.live.store(Arc::clone(&live));
        if let Some((tls, pair)) = pair {
            tls.take(pair);
        }
        let cut = self.streams.cut_unadmitted(&live.admission).await;
        if cut > 0 {
            notices.push(format!(
                "{cut} exchanges under way were ended: their routes do not admit them any more"
            ));
        }
        self.watching.store(config.server.watch, Ordering::Release);
        self.state.metrics.set_config(&config.hash);
        tracing::info!(hash = config.hash, "the configuration was read again");
        Ok(notices)
    }

    fn configuration(&self) -> String {
        self.state.metrics.config_hash()
    }

    fn not_ready_because(&self) -> Vec<String> {
        let mut because = Vec::new();
        let mut say = |why: &str| because.push(why.to_owned());
        match (self.state.revocations.closed_because(), self.state.revocations.standing()) {
            (Some(why), _) => say(&format!("the revocations are not to be relied on: {why}")),
            (None, Standing::Confirmed(_)) => {}
            (None, Standing::Loading) => say("the revocations are not loaded yet"),
            (None, Standing::Stale(_)) => {
                say("the revocations are not confirmed any more: the lease is over")
            }
        }
        if !self.serving.load(Ordering::Acquire) {
            say("no listener is serving yet");
        }
        if !self.loaded.load(Ordering::Acquire) {
            say("the components of providers are not loaded yet");
        }
        if !self.state.store.status().writable {
            say("the store cannot write");
        }
        if *self.closing.borrow() || self.leaving.load(Ordering::Acquire) {
            say("shutting down");
        }
        let awaited = self.state.issuers.load().awaited();
        because.extend(awaited.iter().map(|issuer| format!("the keys of {issuer} are still being fetched")));
        because
    }

    fn missing(&self) -> Vec<String> {
        let without = self.state.issuers.load().without_keys();
        let keys = without.iter().map(|issuer| format!("keys of {issuer}: its tokens are refused"));
        let standing = self.state.clock.standing();
        let clock = standing.doubt.map(|doubt| in_words(doubt, &standing));
        keys.chain(clock).collect()
    }
}

//! The part of the composition that connections need: the plugin host, the vault, the webhook, the workers,
//! and how they end.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::accounts;
use crate::config::{self, BUILT_IN, Config};
use crate::edge::clock::SystemClock;
use crate::edge::entropy::SystemEntropy;
use crate::edge::fetch::{Hosts, HttpFetch};
use crate::edge::jwt::ClientAssertions;
use crate::edge::own_secrets;
use crate::edge::telemetry::metrics::Metrics;
use crate::edge::vault::VaultKeyRing;
use crate::edge::wasm::{CacheAt, PluginStanding, Plugins, Wiring};
use crate::edge::webhook::{SignedWebhook, Webhooks};
use palisade_core::domain::page::PageName;
use palisade_core::ports::{Clock, Door, Entropy, Meter, OwnSecret, SecretStore, Store};
use palisade_core::service::connections::{
    ConnectionPorts, ConnectionSettings, Connections, ProviderSettings,
};

/// The folder of compiled components in the data folder.
const CACHE_FOLDER: &str = "plugins";

/// A component of `plugins/dist`, by its name.
macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../plugins/dist/", $name, ".wasm")).as_slice())),*]
    };
}

/// What `builtin:NAME` names.
pub(crate) const SHIPPED: [(&str, &[u8]); BUILT_IN.len()] =
    shipped!["oauth2", "google", "github", "entra", "slack", "salesforce", "schwab", "apple", "meta"];

/// What the use cases about connections are composed from, beside the configuration.
pub(super) struct ConnectionInputs<'a> {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meter: Arc<dyn Meter>,
    pub(super) fetch: Arc<HttpFetch>,
    /// The use cases about accounts, with what they share.
    pub(super) accounts: &'a accounts::AccountWorkers,
}

/// The use cases, and the plugins behind them.
#[derive(Clone)]
pub(super) struct ConnectionsHandle {
    pub(super) connections: Connections,
    plugins: Arc<Plugins>,
    webhooks: Arc<Webhooks>,
}

impl ConnectionsHandle {
    /// Loads the providers for the first time. Returns what the operator should know.
    pub(super) async fn load(&self, config: &Config) -> Vec<String> {
        self.plugins.load(&config.providers).await;
        faults(&self.plugins)
    }

    /// Puts providers and settings in force. Returns what the operator should know.
    pub(super) async fn reload(&self, config: &Config) -> Vec<String> {
        self.plugins.reload(&config.providers).await;
        self.connections.apply(settings(config));
        self.webhooks.connections.renew(config.connections.webhook.as_ref());
        self.webhooks.accounts.renew(config.accounts.webhook.as_ref());
        faults(&self.plugins)
    }
}

/// Providers that are not in service, or not as they should be.
fn faults(plugins: &Plugins) -> Vec<String> {
    let fault =
        |standing: PluginStanding| Some(format!("the provider {}: {}", standing.provider, standing.fault?));
    plugins.standings().into_iter().filter_map(fault).collect()
}

/// Tries the component of every provider in `config`, with its settings. Returns how each stands.
///
/// # Errors
/// The system refuses what plugins need, as one printable text.
pub(crate) async fn try_providers(
    config: &Config,
) -> Result<Vec<(&config::Provider, PluginStanding)>, String> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|error| error.to_string())?;
    let fetch = HttpFetch::with(&config.fetch)?;
    let wiring = wiring(config, fetch, Arc::new(SystemClock), Arc::new(metrics), None);
    let plugins = Plugins::start(&config.providers, wiring).await?;
    let standings = plugins.standings();
    let of = |name: &str| standings.iter().find(|standing| standing.provider == name).cloned();
    Ok(config.providers.iter().filter_map(|provider| Some((provider, of(&provider.name)?))).collect())
}

/// What the plugin host works with.
fn wiring(
    config: &Config,
    fetch: HttpFetch,
    clock: Arc<dyn Clock>,
    meter: Arc<dyn Meter>,
    cache: Option<CacheAt>,
) -> Wiring {
    Wiring {
        doors: Box::new(move |provider| behind(&fetch, provider)),
        assertions: Arc::new(ClientAssertions::default()),
        clock,
        meter,
        built_in: SHIPPED.to_vec(),
        redirect_uri: callback_url(config),
        cache,
    }
}

/// The workers behind connections.
pub(super) struct ConnectionWorkers {
    working: JoinHandle<()>,
    watching: JoinHandle<()>,
    closing: CancellationToken,
}

impl ConnectionWorkers {
    /// Ends the workers: refreshes under way come to their end within `grace`.
    pub(super) async fn close(self, grace: Duration) {
        self.closing.cancel();
        self.watching.abort();
        if tokio::time::timeout(grace, self.working).await.is_err() {
            tracing::warn!(
                "the grace period ended with provider tokens being refreshed; the next start finds out how that went"
            );
        }
    }
}

/// Composes the use cases about connections; the providers are yet to be loaded ([`ConnectionsHandle::load`]). What the
/// operator should know is added to `notices`.
///
/// # Errors
/// What kept it from that, as one printable text.
pub(super) async fn compose(
    config: &Config,
    secrets: &dyn SecretStore,
    inputs: ConnectionInputs<'_>,
    notices: &mut Vec<String>,
) -> Result<ConnectionsHandle, String> {
    let ConnectionInputs { store, clock, meter, fetch, accounts } = inputs;
    let vault = VaultKeyRing::new(&vault_keys(config, secrets, notices)?)?;
    let signed = |key, webhook: &Option<crate::config::Webhook>| {
        SignedWebhook::new(key, webhook.as_ref(), Arc::clone(&fetch) as _, Arc::clone(&clock))
    };
    let webhooks = Arc::new(Webhooks {
        accounts: signed("accounts.webhook", &config.accounts.webhook)?,
        connections: signed("connections.webhook", &config.connections.webhook)?,
    });
    let folder =
        config.connections.cache.clone().unwrap_or_else(|| config.store.data_dir().join(CACHE_FOLDER));
    let cache = CacheAt { folder, key: own_secrets::key(secrets, OwnSecret::PluginCacheKey)? };
    let wiring = wiring(config, HttpFetch::clone(&fetch), Arc::clone(&clock), meter, Some(cache));
    let plugins = Plugins::new(&config.providers, wiring).await?;
    let shared = accounts.shared();
    let ports = ConnectionPorts {
        store,
        providers: Arc::clone(&plugins) as _,
        vault: Arc::new(vault),
        webhook: Arc::clone(&webhooks) as _,
        clock,
        entropy: Arc::new(SystemEntropy),
        limiter: shared.limiter,
        audit: shared.audit,
        key: shared.key,
        outbox: shared.outbox,
        issuer: config.tokens.issuer.clone(),
        run: SystemEntropy.uuid(),
    };
    Ok(ConnectionsHandle { connections: Connections::new(ports, settings(config)), plugins, webhooks })
}

/// Starts the workers, which need loaded providers.
pub(super) fn start(handle: ConnectionsHandle) -> ConnectionWorkers {
    let closing = CancellationToken::new();
    let (worker, until) = (handle.connections.clone(), closing.clone());
    let working = tokio::spawn(async move { worker.run(until).await });
    let watching = tokio::spawn(Arc::clone(&handle.plugins).watch());
    ConnectionWorkers { working, watching, closing }
}

/// Where a browser may be sent from a provider: what the configuration lists, and the page of one's own account.
fn return_to(config: &Config) -> Vec<String> {
    let account = format!("{}{}/pages/{}", config.public_url, config.server.prefix, PageName::Account.name());
    let account = config.browser.enabled.then_some(account);
    config.connections.return_to.iter().cloned().chain(account).collect()
}

/// What a configuration says about connections.
fn settings(config: &Config) -> ConnectionSettings {
    let of = |provider: &config::Provider| ProviderSettings {
        scopes: provider.scopes.clone(),
        token_access: provider.token_access.clone(),
    };
    ConnectionSettings {
        callback_url: callback_url(config),
        return_to: return_to(config),
        refresh_ahead: config.connections.refresh_ahead,
        keep_fresh: config.connections.keep_fresh,
        warn_ahead: config.connections.warn_ahead,
        providers: config.providers.iter().map(|provider| (provider.name.clone(), of(provider))).collect(),
    }
}

/// Where providers send the browser back to.
pub(crate) fn callback_url(config: &Config) -> String {
    format!("{}{}/connections/callback", config.public_url, config.server.prefix)
}

/// The door of a provider, for a call of its plugin outside of a gateway.
///
/// # Errors
/// Its authorities cannot be read, or TLS cannot start, as one printable text.
pub(crate) fn door(config: &Config, provider: &config::Provider) -> Result<Arc<dyn Door>, String> {
    behind(&HttpFetch::with(&config.fetch)?, provider)
}

fn behind(fetch: &HttpFetch, provider: &config::Provider) -> Result<Arc<dyn Door>, String> {
    let hosts = Hosts {
        provider: provider.name.clone(),
        allowed: provider.allowed_hosts.clone(),
        loopback: provider.allow_loopback,
    };
    fetch.door(hosts, provider.reach.clone())
}

/// The configured keys, followed by the key in the data folder, which sealed while none was configured.
fn vault_keys(
    config: &Config,
    secrets: &dyn SecretStore,
    notices: &mut Vec<String>,
) -> Result<Vec<SecretString>, String> {
    let mut keys = config.vault.keys.clone();
    // A key that cannot be read is not replaced by a new one: reading it below returns the error.
    let made = matches!(secrets.read(OwnSecret::VaultKey), Ok(None));
    if keys.is_empty() || !made {
        let own = own_secrets::secret(secrets, OwnSecret::VaultKey)?;
        // It is listed as well where a data folder was moved into a database.
        let is_own = |key: &SecretString| config::vault_key(key) == config::vault_key(&own);
        if !keys.iter().any(is_own) {
            keys.push(own);
        }
        if made && !config.providers.is_empty() {
            notices.push(format!(
                "a key that seals the tokens of providers was made: {}",
                secrets.place(OwnSecret::VaultKey)
            ));
        }
    }
    Ok(keys)
}

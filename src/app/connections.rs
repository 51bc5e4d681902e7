//! The part of the composition that connections to providers need: their ports, the work behind them, and how
//! it ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::config::{self, Config};
use crate::domain::connection::Account;
use crate::edge::data_dir;
use crate::edge::entropy::SystemEntropy;
use crate::edge::fetch::HttpFetch;
use crate::edge::vault::KeyRing;
use crate::edge::webhook::SignedWebhook;
use crate::ports::{
    Authorization, CurrentTokens, Entropy, GrantedTokens, Pkce, ProviderCall, ProviderFault, ProviderInfo,
    Providers,
};
use crate::service::accounts::Accounts;
use crate::service::connections::{Connections, Parts, ProviderSettings, Settings};

/// The file in the data folder with the key that seals tokens where none is configured (mode 0600).
const VAULT_KEY_FILE: &str = "vault.key";

/// The use cases, running.
pub(super) struct Running {
    pub(super) connections: Connections,
    working: JoinHandle<()>,
    closing: CancellationToken,
}

impl Running {
    /// Ends the work behind the use cases: what is under way comes to its end within `grace`.
    pub(super) async fn close(self, grace: Duration) {
        self.closing.cancel();
        if tokio::time::timeout(grace, self.working).await.is_err() {
            tracing::warn!(
                "the grace period ended with refreshes under way; the next start looks after them"
            );
        }
    }
}

/// Composes the use cases about connections, over the ports that `accounts` has, and starts what is done
/// though nobody asks.
///
/// # Errors
/// What kept it from that, as one printable text.
pub(super) fn start(
    config: &Config,
    data_dir: &Path,
    accounts: &Accounts,
    fetch: Arc<HttpFetch>,
) -> Result<Running, String> {
    if let Some(provider) = config.providers.first() {
        return Err(format!("[[providers]] {}: this build runs no components", provider.name));
    }
    let keys = match config.vault.keys.as_slice() {
        [] => vec![data_dir::secret(data_dir, VAULT_KEY_FILE)?],
        keys => keys.to_vec(),
    };
    let webhook = config.connections.webhook.as_ref();
    let connections = Connections::new(Parts {
        store: Arc::clone(&accounts.store),
        providers: Arc::new(NoComponents),
        vault: Arc::new(KeyRing::new(&keys)?),
        webhook: Arc::new(SignedWebhook::new(webhook, fetch, Arc::clone(&accounts.clock))?),
        clock: Arc::clone(&accounts.clock),
        entropy: Arc::new(SystemEntropy),
        limiter: Arc::clone(&accounts.limiter),
        audit: Arc::clone(&accounts.audit),
        key: Arc::clone(&accounts.key),
        issuer: config.tokens.issuer.clone(),
        tasks: Arc::clone(&accounts.tasks),
        outbox: Arc::clone(&accounts.outbox),
        due: Arc::new(Notify::new()),
        run: SystemEntropy.uuid(),
        settings: ArcSwap::from_pointee(settings(config)),
    });
    let closing = CancellationToken::new();
    let (worker, until) = (connections.clone(), closing.clone());
    let working = tokio::spawn(async move { worker.run(until).await });
    Ok(Running { connections, working, closing })
}

/// What a configuration says about connections; a reload replaces it.
pub(super) fn settings(config: &Config) -> Settings {
    let config::Connections { return_to, refresh_ahead, keep_fresh, warn_ahead, .. } = &config.connections;
    let providers: BTreeMap<String, ProviderSettings> = config
        .providers
        .iter()
        .map(|provider| {
            let settings = ProviderSettings {
                scopes: provider.scopes.clone(),
                token_access: provider.token_access.clone(),
            };
            (provider.name.clone(), settings)
        })
        .collect();
    Settings {
        callback_url: format!("{}{}/connections/callback", config.public_url, config.server.prefix),
        return_to: return_to.clone(),
        refresh_ahead: *refresh_ahead,
        keep_fresh: *keep_fresh,
        warn_ahead: *warn_ahead,
        providers,
    }
}

/// Whether both say the same of what only a start reads: the vault, the webhook, and where compiled components are
/// kept.
pub(super) fn start_alike(one: &Config, other: &Config) -> bool {
    let secret = |secret: &SecretString| Zeroizing::new(secret.expose_secret().to_owned());
    let read = |config: &Config| {
        let keys: Vec<_> = config.vault.keys.iter().map(secret).collect();
        let webhook = config.connections.webhook.as_ref();
        let webhook = webhook.map(|webhook| (webhook.url.clone(), secret(&webhook.secret)));
        (keys, webhook, config.connections.cache.clone())
    };
    read(one) == read(other)
}

/// Where no component can be run, no provider is in service. The plugin host takes its place.
struct NoComponents;

fn nothing<T>(provider: String) -> Result<T, ProviderFault> {
    Err(ProviderFault::NotInService(provider))
}

#[async_trait]
impl Providers for NoComponents {
    fn list(&self) -> Vec<ProviderInfo> {
        Vec::new()
    }

    fn get(&self, _: &str) -> Option<ProviderInfo> {
        None
    }

    async fn authorize(
        &self,
        call: ProviderCall,
        _: &SecretString,
        _: &Pkce,
    ) -> Result<Authorization, ProviderFault> {
        nothing(call.provider)
    }

    async fn exchange(
        &self,
        call: ProviderCall,
        _: Vec<(String, SecretString)>,
        _: &Pkce,
    ) -> Result<GrantedTokens, ProviderFault> {
        nothing(call.provider)
    }

    async fn refresh(&self, call: ProviderCall, _: CurrentTokens) -> Result<GrantedTokens, ProviderFault> {
        nothing(call.provider)
    }

    async fn revoke(&self, call: ProviderCall, _: CurrentTokens) -> Result<(), ProviderFault> {
        nothing(call.provider)
    }

    async fn identity(&self, call: ProviderCall, _: CurrentTokens) -> Result<Option<Account>, ProviderFault> {
        nothing(call.provider)
    }
}

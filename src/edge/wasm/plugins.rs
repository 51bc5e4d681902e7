//! The configured providers: loaded at the start, replaced when a component or the configuration changes.
//!
//! A component that does not load interrupts no service: the last good one goes on, under the
//! configuration that is in force, unless its `sha256` is not the one that the configuration pins.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use secrecy::SecretString;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::cache::Cache;
use super::engine::{MAX_MEMORY, Machine};
use super::interface::LARGEST;
use super::load::{self, Code};
use super::plugin::{Plugin, Refreshed, Sides};
use crate::config::{self, Component};
use palisade_core::domain::connection::Account;
use palisade_core::ports::{
    Assertions, Authorization, Clock, CurrentTokens, Door, GrantedTokens, Meter, Pkce, ProviderCall,
    ProviderFault, ProviderInfo, Providers,
};

/// How often component files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long a provider waits for its component to be compiled. The largest that toolchains make take seconds, and
/// minutes beside a proxy without a pause; a function of a few megabytes can take the compiler hours.
const COMPILATION: Duration = Duration::from_secs(300);

/// Makes the door of a provider.
pub type Doors = Box<dyn Fn(&config::Provider) -> Result<Arc<dyn Door>, String> + Send + Sync>;

/// What the plugin host needs from the rest of the gateway.
pub struct Wiring {
    pub doors: Doors,
    pub assertions: Arc<dyn Assertions>,
    pub clock: Arc<dyn Clock>,
    pub meter: Arc<dyn Meter>,
    /// The components that are shipped inside the binary, by what follows `builtin:`.
    pub built_in: Vec<(&'static str, &'static [u8])>,
    /// Where providers send the browser back to.
    pub redirect_uri: String,
    /// `None`: compiled components are not kept.
    pub cache: Option<CacheAt>,
}

/// Where compiled components are kept.
pub struct CacheAt {
    /// Made if it is not there (mode 0700). Nothing else may be in it.
    pub folder: PathBuf,
    /// A secret of this gateway: files are only run if they were written under it.
    pub key: Zeroizing<[u8; 32]>,
}

/// How a configured provider stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginStanding {
    pub provider: String,
    /// The SHA-256 of the component in service, in hexadecimal.
    pub sha256: Option<String>,
    /// The plugin's own version.
    pub version: Option<String>,
    /// Why it is not in service, or why not with the newest component.
    pub fault: Option<String>,
    /// What the operator may not have meant; it is in service all the same.
    pub warning: Option<String>,
}

/// The configured providers behind their plugins.
pub struct Plugins {
    /// Made for the first provider: a gateway without any has no use for it.
    works: OnceCell<Works>,
    wiring: Wiring,
    redirect_uri: Arc<str>,
    entries: ArcSwap<BTreeMap<String, Arc<Entry>>>,
    /// Compiled once, however many providers use it.
    codes: Mutex<Codes>,
    /// Held while providers are being loaded.
    loading: tokio::sync::Mutex<()>,
}

/// What compiles and runs components.
#[derive(Clone)]
struct Works {
    machine: Arc<Machine>,
    cache: Option<Arc<Cache>>,
}

struct Entry {
    config: config::Provider,
    /// The file as it was when it was read.
    stamp: Option<Stamp>,
    plugin: Option<Arc<Plugin>>,
    fault: Option<String>,
}

/// Code by the SHA-256 of its component; each is compiled by the first provider that needs it (single-flight).
type Codes = HashMap<[u8; 32], Arc<OnceCell<Arc<Code>>>>;

/// Modified when, how long, which file.
type Stamp = (i64, i64, u64, u64);

impl Plugins {
    /// Makes what plugins run on. The providers are yet to be loaded ([`Plugins::load`]).
    ///
    /// # Errors
    /// The system refuses what plugins need: address space, threads.
    pub async fn new(providers: &[config::Provider], wiring: Wiring) -> Result<Arc<Plugins>, String> {
        let waiting = |provider: &config::Provider| Entry {
            config: provider.clone(),
            stamp: None,
            plugin: None,
            fault: Some("it is being loaded".to_owned()),
        };
        let entries = providers.iter().map(|provider| (provider.name.clone(), Arc::new(waiting(provider))));
        let plugins = Arc::new(Plugins {
            works: OnceCell::new(),
            redirect_uri: Arc::from(&*wiring.redirect_uri),
            wiring,
            entries: ArcSwap::from_pointee(entries.collect()),
            codes: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
        });
        if !providers.is_empty() {
            plugins.works().await?;
        }
        Ok(plugins)
    }

    /// [`Plugins::new`] and [`Plugins::load`].
    ///
    /// # Errors
    /// As for [`Plugins::new`].
    pub async fn start(providers: &[config::Provider], wiring: Wiring) -> Result<Arc<Plugins>, String> {
        let plugins = Plugins::new(providers, wiring).await?;
        plugins.load(providers).await;
        Ok(plugins)
    }

    /// Loads `providers` for the first time. One that cannot be loaded is out of service and says so in the
    /// log and in [`Plugins::standings`]; the others are not held up by it.
    pub async fn load(&self, providers: &[config::Provider]) {
        self.load_all(providers, false).await;
    }

    async fn works(&self) -> Result<&Works, String> {
        let make = || async {
            let machine = Arc::new(Machine::new()?);
            let cache = match &self.wiring.cache {
                None => None,
                Some(at) => Cache::open(&machine.engine, &at.folder, at.key.clone())
                    .map_err(|why| tracing::warn!("compiled components are not kept: {why}"))
                    .ok()
                    .map(Arc::new),
            };
            Ok(Works { machine, cache })
        };
        self.works.get_or_try_init(make).await
    }

    /// Puts `providers` in force. Calls under way end as they began.
    pub async fn reload(&self, providers: &[config::Provider]) {
        self.load_all(providers, true).await;
    }

    /// Looks at the component files every two seconds and loads those that changed. Never ends.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// Loads the components whose files changed.
    pub async fn look(&self) {
        let _loading = self.loading.lock().await;
        let entries = self.entries.load_full();
        let watched: Vec<_> = entries
            .values()
            .filter_map(|entry| match &entry.config.component {
                Component::File(path) => Some((Arc::clone(entry), path.clone())),
                Component::BuiltIn(_) => None,
            })
            .collect();
        if watched.is_empty() {
            return;
        }
        // File systems can take their time.
        let looked = tokio::task::spawn_blocking(move || {
            // One that is gone is being replaced, or a mistake: what is loaded goes on either way.
            let changed = |(entry, path): &(Arc<Entry>, PathBuf)| {
                stamp(path).is_some_and(|now| entry.stamp != Some(now))
            };
            watched.into_iter().filter(changed).map(|(entry, _)| entry).collect::<Vec<_>>()
        });
        let Ok(changed) = looked.await else { return };
        if changed.is_empty() {
            return;
        }
        let mut next = BTreeMap::clone(&entries);
        for before in changed {
            let entry = self.load_one(&before.config, Some(&before)).await;
            self.reloaded(&entry);
            next.insert(entry.config.name.clone(), Arc::new(entry));
        }
        self.entries.store(Arc::new(next));
        self.tidy();
    }

    /// How each provider stands, by name.
    #[must_use]
    pub fn standings(&self) -> Vec<PluginStanding> {
        let standing = |entry: &Arc<Entry>| PluginStanding {
            provider: entry.config.name.clone(),
            sha256: entry.plugin.as_ref().map(|plugin| hex::encode(&plugin.code.sha256)),
            version: entry.plugin.as_ref().map(|plugin| plugin.version.clone()),
            fault: entry.fault.clone(),
            warning: entry.plugin.as_ref().and_then(|plugin| plugin.warning.clone()),
        };
        self.entries.load().values().map(standing).collect()
    }

    async fn load_all(&self, providers: &[config::Provider], again: bool) {
        let _loading = self.loading.lock().await;
        let before = self.entries.load_full();
        let loads = providers.iter().map(|provider| {
            let before = before.get(&provider.name).map(|entry| &**entry);
            self.load_one(provider, before)
        });
        let mut next = BTreeMap::new();
        for entry in futures::future::join_all(loads).await {
            if again {
                self.reloaded(&entry);
            }
            next.insert(entry.config.name.clone(), Arc::new(entry));
        }
        self.entries.store(Arc::new(next));
        self.tidy();
    }

    fn reloaded(&self, entry: &Entry) {
        let outcome = if entry.fault.is_none() { "ok" } else { "failed" };
        self.wiring.meter.plugin_reload(&entry.config.name, outcome);
    }

    async fn load_one(&self, provider: &config::Provider, before: Option<&Entry>) -> Entry {
        let name = &*provider.name;
        let stamp = match &provider.component {
            Component::File(path) => stamp(path),
            Component::BuiltIn(_) => None,
        };
        let loaded = match self.code(provider).await {
            Ok(code) => self.prepare(provider, code).await,
            Err(why) => Err(why),
        };
        let entry = |plugin, fault| Entry { config: provider.clone(), stamp, plugin, fault };
        let why = match loaded {
            Ok(plugin) => {
                tracing::info!(
                    provider = name,
                    version = plugin.version,
                    sha256 = hex::encode(&plugin.code.sha256),
                    "the provider is in service"
                );
                if let Some(warning) = &plugin.warning {
                    tracing::warn!(provider = name, "{warning}");
                }
                return entry(Some(Arc::new(plugin)), None);
            }
            Err(why) => why,
        };
        let last = before
            .filter(|before| before.config.component == provider.component)
            .and_then(|before| before.plugin.as_ref())
            .filter(|last| provider.sha256.is_none_or(|pin| pin == last.code.sha256));
        if let Some(last) = last
            && let Ok(plugin) = self.prepare(provider, Arc::clone(&last.code)).await
        {
            tracing::error!(
                provider = name,
                "the new component cannot be used, and the last good one goes on: {why}"
            );
            return entry(Some(Arc::new(plugin)), Some(why));
        }
        tracing::error!(provider = name, "the provider is not in service: {why}");
        entry(None, Some(why))
    }

    /// The provider's component, compiled.
    async fn code(&self, provider: &config::Provider) -> Result<Arc<Code>, String> {
        let works = self.works().await?;
        let bytes: Vec<u8> = match &provider.component {
            Component::BuiltIn(name) => {
                let found = self.wiring.built_in.iter().find(|(known, _)| known == name);
                found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| format!("there is no builtin:{name}"))?
            }
            Component::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read(&path));
                read.await.map_err(|error| error.to_string())??
            }
        };
        let sha256 = load::sha256(&bytes);
        if provider.sha256.is_some_and(|pin| pin != sha256) {
            return Err(format!(
                "its SHA-256 is {}, and providers.sha256 is another: if the component is the one you want, \
                 put that there",
                hex::encode(sha256)
            ));
        }
        let cell = Arc::clone(self.codes().entry(sha256).or_default());
        let compiled = cell.get_or_try_init(|| async {
            let Works { machine, cache } = works.clone();
            let work = move || load::load(&machine, cache.as_deref(), &bytes).map(Arc::new);
            Machine::compile(work).await?
        });
        in_time(compiled).await.cloned()
    }

    async fn prepare(&self, provider: &config::Provider, code: Arc<Code>) -> Result<Plugin, String> {
        if provider.limits.memory > MAX_MEMORY {
            return Err(format!("providers.limits.memory: at most {MAX_MEMORY} bytes"));
        }
        let sides = Sides {
            door: (self.wiring.doors)(provider)?,
            assertions: Arc::clone(&self.wiring.assertions),
            clock: Arc::clone(&self.wiring.clock),
            meter: Arc::clone(&self.wiring.meter),
            redirect_uri: Arc::clone(&self.redirect_uri),
            witness: None,
        };
        Plugin::prepare(&self.works().await?.machine, code, provider, sides).await
    }

    /// Forgets compiled code that no provider uses.
    fn tidy(&self) {
        let entries = self.entries.load();
        let used: Vec<[u8; 32]> =
            entries.values().filter_map(|entry| Some(entry.plugin.as_ref()?.code.sha256)).collect();
        self.codes().retain(|sha256, _| used.contains(sha256));
        if let Some(cache) = self.works.get().and_then(|works| works.cache.as_ref()) {
            cache.sweep(&used);
        }
    }

    fn codes(&self) -> MutexGuard<'_, Codes> {
        // Every change of it is whole.
        self.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plugin(&self, provider: &str) -> Result<Arc<Plugin>, ProviderFault> {
        let entries = self.entries.load();
        let plugin = entries.get(provider).and_then(|entry| entry.plugin.clone());
        plugin.ok_or_else(|| ProviderFault::NotInService(provider.to_owned()))
    }
}

/// What `compiling` comes to. Given up, the compiler goes on alone, at low priority: it cannot be stopped.
async fn in_time<T>(compiling: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(COMPILATION, compiling).await.unwrap_or_else(|_| {
        Err(format!("it takes longer than {} to compile", humantime::format_duration(COMPILATION)))
    })
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    // Opening a pipe blocks until a process opens it for writing, possibly for ever.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("{}: it is no file", path.display()));
    }
    let mut bytes = Vec::new();
    let most = LARGEST as u64 + 1;
    fs::File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[async_trait]
impl Providers for Plugins {
    fn list(&self) -> Vec<ProviderInfo> {
        self.entries.load().values().filter_map(|entry| Some(entry.plugin.as_ref()?.info.clone())).collect()
    }

    fn get(&self, provider: &str) -> Option<ProviderInfo> {
        self.plugin(provider).ok().map(|plugin| plugin.info.clone())
    }

    fn fault(&self, provider: &str) -> Option<String> {
        self.entries.load().get(provider).and_then(|entry| entry.fault.clone())
    }

    async fn authorize(
        &self,
        call: ProviderCall,
        state: &SecretString,
        pkce: &Pkce,
    ) -> Result<Authorization, ProviderFault> {
        self.plugin(&call.provider)?.authorize(&call, state, pkce).await
    }

    async fn exchange(
        &self,
        call: ProviderCall,
        callback: Vec<(String, SecretString)>,
        pkce: &Pkce,
    ) -> Result<GrantedTokens, ProviderFault> {
        self.plugin(&call.provider)?.exchange(&call, callback, pkce).await
    }

    async fn refresh(
        &self,
        call: ProviderCall,
        current: CurrentTokens,
    ) -> Result<GrantedTokens, ProviderFault> {
        let plugin = self.plugin(&call.provider)?;
        let Refreshed { outcome, asked } = plugin.refresh(&call, &current).await;
        match outcome {
            // Without a refresh token, and without a word of the provider's, that is the plugin's way of saying that
            // there is nothing to refresh by. The access token may be good for months.
            Err(ProviderFault::InvalidGrant(why) | ProviderFault::ProviderError(why))
                if current.refresh_token.is_none() && !asked =>
            {
                Err(ProviderFault::NotRefreshable(why))
            }
            outcome => outcome,
        }
    }

    async fn revoke(&self, call: ProviderCall, current: CurrentTokens) -> Result<(), ProviderFault> {
        self.plugin(&call.provider)?.revoke(&call, &current).await
    }

    async fn identity(
        &self,
        call: ProviderCall,
        current: CurrentTokens,
    ) -> Result<Option<Account>, ProviderFault> {
        self.plugin(&call.provider)?.identity(&call, &current).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_compiler_for_ever() {
        let why = in_time(std::future::pending::<Result<(), String>>()).await.unwrap_err();
        assert!(why.contains("longer than 5m to compile"), "{why}");
        assert_eq!(in_time(async { Ok(7) }).await, Ok(7));
    }
}

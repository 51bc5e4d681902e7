//! What the suites about plugins share: the host with a hostile component behind it, and what it measures.
#![allow(dead_code, reason = "each suite uses its part")]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use palisade::config::{AllowedHost, Component, PluginLimits, Provider};
use palisade::edge::clock::SystemClock;
use palisade::edge::fetch::{Hosts, HttpFetch};
use palisade::edge::telemetry::metrics::Metrics;
use palisade::edge::wasm::{CacheAt, Plugins, Wiring};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    Assertion, Assertions, CurrentTokens, GrantedTokens, Pkce, ProviderCall, ProviderFault, Providers as _,
    SignError,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing_subscriber::fmt::MakeWriter;

use super::field;
use super::neighbours::{Scripted, read_head};

/// The component that does everything a plugin must not do; see `plugins/hostile`.
pub const HOSTILE: &[u8] = include_bytes!("../fixtures/hostile.wasm");

/// A secret that must turn up nowhere but at the provider.
pub const SECRET: &str = "client-secret-hunter2";

/// Signs nothing, and says what it was asked to sign.
struct FakeAssertions;

impl Assertions for FakeAssertions {
    fn sign(&self, _: &SecretString, it: &Assertion, _: UnixTime) -> Result<String, SignError> {
        Ok(format!("jwt-of-{}-for-{}", it.issuer, it.audience))
    }
}

/// The plugin host, alone.
pub struct Host {
    pub plugins: Arc<Plugins>,
    pub metrics: Arc<Metrics>,
}

impl Host {
    pub async fn start(providers: &[Provider]) -> Host {
        Host::start_with(providers, None).await
    }

    /// `cache`: the folder for compiled components, and the first byte of the key.
    pub async fn start_with(providers: &[Provider], cache: Option<(PathBuf, u8)>) -> Host {
        LazyLock::force(&LOG);
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let wiring = Wiring {
            doors: Box::new(|provider| {
                let hosts = Hosts {
                    provider: provider.name.clone(),
                    allowed: provider.allowed_hosts.clone(),
                    loopback: provider.allow_loopback,
                };
                HttpFetch::new().unwrap().door(hosts, provider.reach.clone())
            }),
            assertions: Arc::new(FakeAssertions),
            clock: Arc::new(SystemClock),
            meter: Arc::clone(&metrics) as _,
            built_in: vec![("hostile", HOSTILE)],
            redirect_uri: "https://app.test/auth/connections/callback".to_owned(),
            cache: cache.map(|(folder, key)| CacheAt { folder, key: [key; 32].into() }),
        };
        let plugins = Plugins::start(providers, wiring).await.unwrap();
        Host { plugins, metrics }
    }

    pub async fn refresh(&self, provider: &str) -> Result<GrantedTokens, ProviderFault> {
        self.plugins.refresh(call(provider), current()).await
    }

    /// The value of the metric that starts with `line`; 0 when it is not there.
    pub fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.text();
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0, |number| number.parse().unwrap())
    }

    /// How many calls of `provider` ended so.
    pub fn ended(&self, provider: &str, call: &str, outcome: &str) -> u64 {
        let labels = format!("{{call=\"{call}\",outcome=\"{outcome}\",provider=\"{provider}\"}}");
        self.metric(&format!("palisade_provider_calls_total{labels}"))
    }

    /// How often the component of `provider` was loaded again with this outcome.
    pub fn reloads(&self, provider: &str, outcome: &str) -> u64 {
        let labels = format!("{{outcome=\"{outcome}\",provider=\"{provider}\"}}");
        self.metric(&format!("palisade_plugin_reloads_total{labels}"))
    }

    /// How many requests of `provider` ended so.
    pub fn requests(&self, provider: &str, outcome: &str) -> u64 {
        let labels = format!("{{outcome=\"{outcome}\",provider=\"{provider}\"}}");
        self.metric(&format!("palisade_provider_requests_total{labels}"))
    }
}

/// What this process has logged, from the first [`Host`] on: plugins run on threads of their own.
static LOG: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(|| {
    let log: Arc<Mutex<Vec<u8>>> = Arc::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("palisade=debug")
        .with_ansi(false)
        .with_writer(Log(Arc::clone(&log)))
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    log
});

#[derive(Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

/// The lines of the log that name `provider`.
pub fn logged(provider: &str) -> Vec<String> {
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    let named = format!("provider=\"{provider}\"");
    log.lines().filter(|line| line.contains(&named)).map(str::to_owned).collect()
}

/// A provider's server that gives the same answer to every request and keeps what it was sent.
pub struct Neighbour {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Neighbour {
    pub async fn start(answer: &'static str) -> Neighbour {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let script = move |mut stream: tokio::net::TcpStream| {
            let kept = Arc::clone(&kept);
            async move {
                loop {
                    let mut text = read_head(&mut stream).await;
                    let length = field(&text, "content-length").map_or(0, |length| length.parse().unwrap());
                    let mut body = vec![0; length];
                    if text.is_empty() || stream.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    text.push_str(&String::from_utf8(body).unwrap());
                    kept.lock().unwrap().push(text);
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        };
        Neighbour { address: Scripted::start(script).await.address, seen }
    }

    /// What arrived, head and body.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// A provider behind the hostile component with these settings.
pub fn provider(name: &str, settings: Value) -> Provider {
    Provider {
        name: name.to_owned(),
        line: 1,
        display_name: None,
        component: Component::BuiltIn("hostile".to_owned()),
        sha256: None,
        client_id: "client-1".into(),
        client_secret: Some(SECRET.into()),
        allowed_hosts: vec![AllowedHost { host: "provider.test".to_owned(), wildcard: false, port: None }],
        allow_loopback: false,
        reach: Default::default(),
        scopes: Vec::new(),
        settings: settings.as_object().unwrap().clone(),
        secret_settings: Vec::new(),
        secret_parameters: Vec::new(),
        limits: PluginLimits { deadline: Duration::from_secs(10), ..PluginLimits::default() },
        token_access: None,
    }
}

/// A provider whose component refreshes in this `mode`.
pub fn mode(mode: &str) -> Provider {
    provider(mode, json!({ "mode": mode }))
}

/// A provider that may call `address`, and does as `settings` say.
pub fn local(name: &str, address: SocketAddr, mut settings: Value) -> Provider {
    settings["url"] = json!(format!("http://{address}/token"));
    let mut provider = provider(name, settings);
    provider.allow_loopback = true;
    provider.allowed_hosts =
        vec![AllowedHost { host: address.ip().to_string(), wildcard: false, port: Some(address.port()) }];
    provider
}

pub fn call(provider: &str) -> ProviderCall {
    ProviderCall {
        provider: provider.to_owned(),
        parameters: BTreeMap::new(),
        secret_parameters: BTreeMap::new(),
        kept: BTreeMap::new(),
        scopes: vec!["read".to_owned()],
    }
}

pub fn current() -> CurrentTokens {
    CurrentTokens {
        access_token: "access-hunter2".into(),
        refresh_token: Some("refresh-hunter2".into()),
        expires_at: None,
        id_token: None,
    }
}

pub fn pkce() -> Pkce {
    Pkce { verifier: "verifier-hunter2".into(), challenge: "challenge".to_owned() }
}

pub fn access_token(granted: &GrantedTokens) -> &str {
    granted.access_token.expose_secret()
}

//! What plugins cost: the time that a call adds to the provider's own, loading with and without the cache
//! of compiled components, and memory per call. Figures never make this fail; only errors do.
//!
//! `bench_plugins` prints them. The rest is for `benches/run`: `bench_plugins provide` is two providers, one
//! that answers and one that does not, and prints their addresses. `bench_plugins serve CONFIG ADDRESS SILENT`
//! is a gateway that calls a well-behaved plugin again and again, and in whose process every misdeed of the
//! hostile component goes on at once while standard input says `hostile`, until it says `quiet`. To each it
//! answers with the word, and how long the well-behaved plugin's calls took until then: how many, the median
//! and the longest in milliseconds, and how many failed.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use palisade::app::{self, Options};
use palisade::config::{self, AllowedHost, Component, PluginLimits, Provider};
use palisade::edge::clock::SystemClock;
use palisade::edge::fetch::{Hosts, HttpFetch};
use palisade::edge::telemetry::metrics::Metrics;
use palisade::edge::wasm::{CacheAt, Plugins, Wiring};
use palisade_core::domain::reach::Reach;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    Assertion, Assertions, CurrentTokens, DoorRequest, ProviderCall, Providers as _, SignError,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HOSTILE: &[u8] = include_bytes!("../tests/fixtures/hostile.wasm");
const TOKENS: &str = r#"{"access_token":"a-token","token_type":"Bearer","expires_in":3600}"#;
const CALLS: usize = 2000;
/// Calls at once, for the memory of one.
const AT_ONCE: usize = 100;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct NoAssertions;

impl Assertions for NoAssertions {
    fn sign(&self, _: &secrecy::SecretString, _: &Assertion, _: UnixTime) -> Result<String, SignError> {
        Err(SignError("nothing is signed here".to_owned()))
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure().await,
        ["provide"] => {
            println!("{} {}", provider_server()?, silent_server()?);
            std::future::pending().await
        }
        ["serve", file, address, silent] => serve(Path::new(file), address.parse()?, silent.parse()?).await,
        _ => Err("usage: bench_plugins [provide | serve CONFIG ADDRESS SILENT]".into()),
    }
}

async fn measure() -> Outcome<()> {
    let (address, silent) = (provider_server()?, silent_server()?);
    let called = oauth2("called", address);
    let folder = tempfile::tempdir()?;
    let mut loads = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        drop(start(std::slice::from_ref(&called), Some(folder.path().join("cache"))).await?);
        loads.push(begun.elapsed());
    }
    println!("load oauth2.wasm: cold {}, warm {}", ms(loads[0]), ms(loads[1].min(loads[2])));

    let plugins = start(std::slice::from_ref(&called), None).await?;
    let door = HttpFetch::new()?.door(hosts(&called), Reach::default())?;
    let url = format!("http://{address}/token");
    let request = || DoorRequest {
        method: "POST",
        url: url.clone().into(),
        headers: Vec::new(),
        body: b"grant_type=refresh_token".to_vec().into(),
        timeout: Duration::from_secs(5),
        max_bytes: 1 << 20,
    };
    let (mut direct, mut through) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
    // In turns, so that a machine that slows down slows both.
    for _ in 0..CALLS {
        let begun = Instant::now();
        door.send(request()).await?;
        direct.push(begun.elapsed());
        let begun = Instant::now();
        plugins.refresh(call("called"), tokens()).await?;
        through.push(begun.elapsed());
    }
    let (direct, through) = (median(&mut direct), median(&mut through));
    println!(
        "call of oauth2.wasm: {} us, of which the provider {} us; the plugin adds {} us",
        through.as_micros(),
        direct.as_micros(),
        through.saturating_sub(direct).as_micros()
    );

    let mut waiting = oauth2("waiting", silent);
    waiting.limits.concurrency = AT_ONCE;
    plugins.reload(&[waiting]).await;
    let before = resident()?;
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let plugins = Arc::clone(&plugins);
        held.spawn(async move { plugins.refresh(call("waiting"), tokens()).await });
    }
    // All of them wait soon, and none of them ends before its request's ten seconds are over.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let during = resident()?;
    if let Some(ended) = held.try_join_next() {
        return Err(format!("a call did not wait: {:?}", ended?.err()).into());
    }
    println!(
        "memory of a call that waits for its provider: {} KiB",
        during.saturating_sub(before) / AT_ONCE / 1024
    );
    Ok(())
}

/// A gateway beside every misdeed at once.
async fn serve(file: &Path, address: SocketAddr, silent: SocketAddr) -> Outcome<()> {
    let config = config::load(file).map_err(|errors| format!("{errors:?}"))?;
    let _gateway = app::start(config, Options::default()).await?;
    let modes = [
        "loop",
        "memory",
        "trap",
        "stack",
        "recursion",
        "requests",
        "headers",
        "log",
        "stderr",
        "handles",
        "big-token",
        "many-keep",
        "sleep",
    ];
    let mut providers: Vec<Provider> = modes.iter().map(|mode| hostile(mode, address, mode)).collect();
    providers.push(hostile("silent", silent, "ok"));
    let mut all = providers.clone();
    all.push(oauth2("honest", address));
    let plugins = start(&all, None).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut misdeeds = tokio::task::JoinSet::new();
    let honest = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(behave(Arc::clone(&plugins), Arc::clone(&honest)));
    println!("ready");
    while let Some(line) = lines.next_line().await? {
        misdeeds.shutdown().await;
        if line == "hostile" {
            for provider in &providers {
                let (plugins, name) = (Arc::clone(&plugins), provider.name.clone());
                misdeeds.spawn(async move {
                    loop {
                        // Each of them ends badly, which is what it is for.
                        let _ = plugins.refresh(call(&name), tokens()).await;
                        tokio::task::yield_now().await;
                    }
                });
            }
        }
        let calls = std::mem::take(&mut *honest.lock().map_err(|_| "a call panicked")?);
        let mut times: Vec<Duration> = calls.iter().copied().flatten().collect();
        let failed = calls.len() - times.len();
        let (median, longest) = match times.is_empty() {
            true => (Duration::ZERO, Duration::ZERO),
            false => (median(&mut times), times[times.len() - 1]),
        };
        println!(
            "{line} {} {} {} {failed}",
            times.len(),
            median.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3
        );
    }
    Ok(())
}

/// Calls the honest provider every few milliseconds, and keeps how long it took, or that it failed.
async fn behave(plugins: Arc<Plugins>, honest: Arc<Mutex<Vec<Option<Duration>>>>) {
    loop {
        let begun = Instant::now();
        let ended = plugins.refresh(call("honest"), tokens()).await;
        if let Ok(mut honest) = honest.lock() {
            honest.push(ended.ok().map(|_| begun.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn start(providers: &[Provider], cache: Option<PathBuf>) -> Outcome<Arc<Plugins>> {
    let wiring = Wiring {
        doors: {
            let fetch = HttpFetch::new()?;
            Box::new(move |provider| fetch.door(hosts(provider), Reach::default()))
        },
        assertions: Arc::new(NoAssertions),
        clock: Arc::new(SystemClock),
        meter: Arc::new(Metrics::new("bench")?),
        built_in: vec![("hostile", HOSTILE)],
        redirect_uri: "https://app.test/callback".to_owned(),
        cache: cache.map(|folder| CacheAt { folder, key: [7; 32].into() }),
    };
    let plugins = Plugins::start(providers, wiring).await?;
    match plugins.standings().into_iter().find_map(|standing| standing.fault) {
        Some(fault) => Err(fault.into()),
        None => Ok(plugins),
    }
}

fn hosts(provider: &Provider) -> Hosts {
    Hosts {
        provider: provider.name.clone(),
        allowed: provider.allowed_hosts.clone(),
        loopback: provider.allow_loopback,
    }
}

fn hostile(name: &str, address: SocketAddr, mode: &str) -> Provider {
    provider(
        name,
        address,
        Component::BuiltIn("hostile".to_owned()),
        json!({
            "mode": mode, "url": format!("http://{address}/token"),
        }),
    )
}

fn oauth2(name: &str, address: SocketAddr) -> Provider {
    provider(
        name,
        address,
        Component::File(Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/dist/oauth2.wasm")),
        json!({
            "authorize_url": format!("http://{address}/authorize"), "token_url": format!("http://{address}/token"),
        }),
    )
}

fn provider(name: &str, address: SocketAddr, component: Component, settings: serde_json::Value) -> Provider {
    Provider {
        name: name.to_owned(),
        line: 1,
        display_name: None,
        component,
        sha256: None,
        client_id: "client".into(),
        client_secret: Some("secret".into()),
        allowed_hosts: vec![AllowedHost {
            host: address.ip().to_string(),
            wildcard: false,
            port: Some(address.port()),
        }],
        allow_loopback: true,
        reach: Reach::default(),
        scopes: Vec::new(),
        settings: settings.as_object().cloned().unwrap_or_default(),
        secret_settings: Vec::new(),
        secret_parameters: Vec::new(),
        limits: PluginLimits::default(),
        token_access: None,
    }
}

fn call(provider: &str) -> ProviderCall {
    ProviderCall {
        provider: provider.to_owned(),
        parameters: BTreeMap::new(),
        secret_parameters: BTreeMap::new(),
        kept: BTreeMap::new(),
        scopes: Vec::new(),
    }
}

fn tokens() -> CurrentTokens {
    CurrentTokens {
        access_token: "access".into(),
        refresh_token: Some("refresh".into()),
        expires_at: None,
        id_token: None,
    }
}

/// A provider that answers every request at once.
fn provider_server() -> Outcome<SocketAddr> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{TOKENS}",
        TOKENS.len()
    );
    listen(move |mut stream| {
        stream.set_nodelay(true)?;
        let mut buffer = [0; 64 << 10];
        // One request is written at once, body and all.
        while stream.read(&mut buffer)? > 0 {
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    })
}

/// A provider that never answers.
fn silent_server() -> Outcome<SocketAddr> {
    listen(|mut stream| {
        let mut buffer = [0; 64 << 10];
        while stream.read(&mut buffer)? > 0 {}
        Ok(())
    })
}

fn listen(serve: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            // A connection that breaks is the plugin's business.
            std::thread::spawn(move || serve(stream).unwrap_or_default());
        }
    });
    Ok(address)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Bytes of memory that this process has now.
fn resident() -> Outcome<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).ok_or("statm")?.parse()?;
    Ok(pages * 4096)
}

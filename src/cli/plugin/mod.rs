//! `palisade plugin …`: write, build, check, test and try a provider plugin. Needs no running gateway.

mod build;
mod call;
mod check;
mod inspect;
mod new;
mod project;
mod sdk;
mod show;
mod test;
mod toolchain;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use secrecy::SecretString;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use self::project::Language;
use crate::config::{self, AuditTo, Log, LogFormat, PluginLimits, error_lines};
use crate::edge::data_dir;
use crate::edge::own_secrets::{self, FolderSecrets};
use crate::edge::telemetry::logging;
use crate::edge::telemetry::metrics::Metrics;
use crate::edge::wasm::bench::Bench;
use crate::edge::wasm::{CacheAt, LARGEST};
use palisade_core::ports::{Meter, OwnSecret};

/// Write, build, check, test and try a provider plugin.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// Begin a plugin: a folder that builds at once, with one test that passes.
    ///
    /// What is written needs nothing but this program and the language's own tools: the Rust SDK and the WIT
    /// come along. Nothing is overwritten.
    #[command(after_help = "\
Examples:
  palisade plugin new acme                       in Rust, in the folder acme
  palisade plugin new acme --lang js             in JavaScript
  palisade plugin new acme --path plugins/acme   somewhere else")]
    New {
        /// What it is called: the crate or package, and the component. Words of a-z and 0-9 joined by '-'.
        name: String,
        /// What it is written in.
        #[arg(long = "lang", value_enum, default_value_t = Language::Rust)]
        language: Language,
        /// The folder to write it to; NAME when not given.
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
    },
    /// Build a plugin's component, NAME.wasm, with the tools of its language, and check it.
    ///
    /// The language is that of the manifest: Cargo.toml, package.json or pyproject.toml. What the first build
    /// needs of npm or PyPI is installed into the folder.
    #[command(after_help = "\
Examples:
  palisade plugin build
  palisade plugin build plugins/acme")]
    Build {
        /// The plugin's folder.
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Say everything that is wrong with a component, and what to do about it; exit 1 if there is something.
    ///
    /// Looks at what it imports and exports, compiles it, and asks it to describe itself.
    #[command(after_help = "\
Examples:
  palisade plugin check acme.wasm
  palisade plugin check acme.wasm --settings settings.toml   with [providers.settings] of your own
  palisade plugin check acme.wasm --provider acme            with those of config.toml, and its limits")]
    Check {
        /// The component.
        file: PathBuf,
        #[command(flatten)]
        with: With,
    },
    /// Show what a component is: name, size, sum, imports, exports, settings, parameters, and what made it.
    #[command(after_help = "\
Examples:
  palisade plugin inspect acme.wasm
  palisade plugin inspect acme.wasm --json | jq .sha256")]
    Inspect {
        /// The component.
        file: PathBuf,
        #[command(flatten)]
        with: With,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Play recorded exchanges against a component, in the gateway's own host and without a network.
    ///
    /// Each file in exchanges/ says what a call is given, which requests the plugin must make, what each is
    /// answered, and what must come of it. What differs is shown line by line; exit 1 if something does.
    #[command(after_help = "\
Examples:
  palisade plugin test                                the component and the exchanges of this folder
  palisade plugin test plugins/acme
  palisade plugin test acme.wasm --exchanges recorded
  palisade plugin test --only refresh                 only files whose names hold the word")]
    Test {
        /// The plugin's folder, or a component.
        #[arg(default_value = ".")]
        target: PathBuf,
        /// The recorded exchanges; `exchanges` in the plugin's folder when not given.
        #[arg(long, value_name = "DIR")]
        exchanges: Option<PathBuf>,
        /// Only files whose names hold this word.
        #[arg(long, value_name = "WORD")]
        only: Option<String>,
    },
    /// Call one function of a configured provider's plugin, for real: it reaches the provider.
    ///
    /// Shows every request (method, URL without its query, status, time), and of the result everything but
    /// secrets. The gateway need not run, and knows nothing of tokens that come of it: a refresh token that
    /// the provider replaces is lost, unless --print-tokens prints it.
    #[command(after_help = "\
Examples:
  palisade plugin call acme describe
  palisade plugin call acme authorize
  palisade plugin call acme refresh --input tokens.toml
  palisade plugin call acme refresh --input - --record exchanges/real.toml < tokens.toml

The input is TOML; every key may be left out:
  [tokens]                       # of refresh, revoke, identity
  access_token = \"…\"
  refresh_token = \"…\"
  [callback]                     # of exchange: what came back
  code = \"…\"
  [connection]
  redirect_uri = \"https://app.example/auth/connections/callback\"
  scopes = [\"read\"]
  parameters = { shop = \"…\" }    kept = { instance_url = \"…\" }")]
    Call(CallArgs),
}

/// The settings that a component is tried with.
#[derive(Debug, Args)]
pub(super) struct With {
    /// A TOML or JSON file with what [providers.settings] would hold.
    #[arg(long, value_name = "FILE", conflicts_with = "provider")]
    settings: Option<PathBuf>,
    /// A provider of config.toml, whose settings and limits are used.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// The provider's name in config.toml.
    provider: String,
    /// Which function.
    #[arg(value_enum)]
    export: Export,
    /// What it is given, as TOML; `-`: from standard input.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write the exchange to this file, every secret replaced: a test for `palisade plugin test`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print the tokens that came, as TOML for --input, on standard output. They are secrets.
    #[arg(long)]
    print_tokens: bool,
}

/// The functions of a plugin.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Export {
    Describe,
    Authorize,
    Exchange,
    Refresh,
    Revoke,
    Identity,
}

impl Export {
    fn call(self) -> palisade_exchange::Call {
        match self {
            Export::Describe => palisade_exchange::Call::Describe,
            Export::Authorize => palisade_exchange::Call::Authorize,
            Export::Exchange => palisade_exchange::Call::Exchange,
            Export::Refresh => palisade_exchange::Call::Refresh,
            Export::Revoke => palisade_exchange::Call::Revoke,
            Export::Identity => palisade_exchange::Call::Identity,
        }
    }
}

/// Does what `command` asks.
///
/// # Errors
/// What went wrong, with advice.
pub(super) fn run(config: &Path, command: Plugin) -> Result<String, String> {
    let done = match command {
        Plugin::New { name, language, path } => new::run(&name, language, path.as_deref()),
        Plugin::Build { dir } => build::run(&dir),
        Plugin::Check { file, with } => check::run(config, &file, &with),
        Plugin::Inspect { file, with, json } => inspect::run(config, &file, &with, json),
        Plugin::Test { target, exchanges, only } => test::run(&target, exchanges.as_deref(), only.as_deref()),
        Plugin::Call(args) => call::run(config, &args),
    };
    done.map(|text| show::harmless(&text)).map_err(|text| show::harmless(&text))
}

/// Runs `work` to its end on this thread; components run on threads of their own.
fn block<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime could be started: {error}"))?
        .block_on(work)
}

/// Metrics that are not scraped.
fn meter() -> Result<Arc<dyn Meter>, String> {
    Ok(Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|error| error.to_string())?))
}

/// What may be seen of the log: what plugins write into it, and which of their requests are denied.
const SEEN: &str = "off,palisade::edge::wasm::lines=debug,palisade::edge::wasm::host=warn";

/// Lets what plugins write into the log be seen.
fn log() {
    let log = Log { format: LogFormat::Text, level: SEEN.to_owned(), access: false, audit: AuditTo::Stdout };
    // A second start in one process is a test's, and changes nothing.
    let _ = logging::start(&log);
}

/// The component in `file`.
fn read(file: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    let mut bytes = Vec::new();
    let most = LARGEST as u64 + 1;
    std::fs::File::open(file).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The most that is read of a text, in bytes: a symbolic link may lead to an endless file.
const LONGEST: u64 = 16 << 20;

/// The text in `file`. A secret may be in it.
fn read_text(file: &Path) -> Result<Zeroizing<String>, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    let mut text = Zeroizing::new(String::new());
    let read = std::fs::File::open(file).map_err(failed)?.take(LONGEST + 1).read_to_string(&mut text);
    match read {
        Ok(read) if read as u64 <= LONGEST => Ok(text),
        Ok(_) => Err(format!("{} has more than {} MiB", file.display(), LONGEST >> 20)),
        Err(error) => Err(failed(error)),
    }
}

/// A component on the bench.
async fn bench(file: &Path, bytes: Vec<u8>) -> Result<Bench, String> {
    Bench::load(bytes, cache()).await.map_err(|faults| check::faulty(file, &faults))
}

/// Where compiled components are kept between one try and the next: in the user's own cache, under a key that
/// is made there. `None` when there is no such place.
fn cache() -> Option<CacheAt> {
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")))?.join("palisade");
    data_dir::make(&home).ok()?;
    let key = own_secrets::key(&FolderSecrets::new(&home), OwnSecret::PluginCacheKey).ok()?;
    Some(CacheAt { folder: home.join("plugins"), key })
}

/// The provider `name` of the configuration.
fn provider(config: &Path, name: &str) -> Result<(config::Config, config::Provider), String> {
    let config = config::load(config).map_err(|errors| error_lines(&errors))?;
    let found = config.providers.iter().find(|provider| provider.name == name).cloned();
    let provider = found.ok_or_else(|| {
        let names: Vec<&str> = config.providers.iter().map(|provider| &*provider.name).collect();
        match names.is_empty() {
            true => format!("{} has no [[providers]]", config.path.display()),
            false => format!("there is no provider {name:?}; there are {}", names.join(", ")),
        }
    })?;
    Ok((config, provider))
}

/// What a component is tried with.
struct Tried {
    settings: Map<String, Value>,
    limits: PluginLimits,
    /// Whether settings were given.
    given: bool,
    provider: Option<config::Provider>,
}

impl Tried {
    /// What of the settings is never shown.
    fn secrets(&self) -> &[SecretString] {
        self.provider.as_ref().map_or(&[], |provider| &provider.secret_settings)
    }
}

impl With {
    fn read(&self, config: &Path) -> Result<Tried, String> {
        if let Some(name) = &self.provider {
            let (_, provider) = provider(config, name)?;
            let (settings, limits) = (provider.settings.clone(), provider.limits);
            return Ok(Tried { settings, limits, given: true, provider: Some(provider) });
        }
        let settings = match &self.settings {
            None => Map::new(),
            Some(file) => settings(file)?,
        };
        Ok(Tried {
            settings,
            limits: PluginLimits::default(),
            given: self.settings.is_some(),
            provider: None,
        })
    }
}

fn settings(file: &Path) -> Result<Map<String, Value>, String> {
    let shown = file.display();
    let text = read_text(file)?;
    if file.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str(&text).map_err(|error| format!("{shown} is no JSON object: {error}"));
    }
    toml::from_str(&text).map_err(|error| format!("{shown} is not TOML: {error}"))
}

//! Tools for authors of plugins: one component, tried by the command line before it is in service.
//!
//! The component runs in the gateway's host, under the same limits, and what it returns passes the same checks. Only
//! the door differs. A gateway never runs this code, and the host names nothing of it: the bench observes a call
//! through [`Witness`].
//!
//! - [`palisade_exchange`]: the file of a recorded exchange. [`client_auth`]: its words for the WIT's `client-auth`.
//!   [`outcome`]: what a call returned, made comparable.
//! - [`player`]: replays a recorded exchange. [`recorder`]: records one. [`mask`]: replaces secrets and personal
//!   details by placeholders.

mod client_auth;
mod mask;
mod outcome;
mod player;
mod recorder;

pub use self::outcome::{Described, Item};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use self::outcome::{compare, failed, granted, names, person, shown_outcome};
use self::player::{Player, tells};
use self::recorder::Recorder;
use super::bindings::exports::palisade::provider::plugin::Description;
use super::cache::Cache;
use super::call::Callee;
use super::credentials::Client;
use super::engine::Machine;
use super::host::{Surroundings, Witness};
use super::interface::{InterfaceFault, examine};
use super::load::{Code, load};
use super::plugin::{self, Plugin, Sides};
use super::plugins::CacheAt;
use super::secrets::{HIDDEN, Secrets};
use crate::config::{self, AllowedHost, Component, PluginLimits};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    Assertion, Assertions, Authorization, Clock, CurrentTokens, Door, DoorFault, DoorRequest, DoorResponse,
    Meter, Pkce, ProviderCall, ProviderFault, SignError,
};
use palisade_exchange::{Call, Outcome, RecordedExchange, pairs};

/// The secret of the client in recorded exchanges. In no header and no form does it look like itself.
const SECRET: &str = "the client's secret: & = + ~";

/// How many compiled components are kept for the next try.
const CACHED: usize = 8;

/// What a component is tried with.
#[derive(Clone)]
pub struct Apparatus {
    pub door: Arc<dyn Door>,
    pub assertions: Arc<dyn Assertions>,
    pub clock: Arc<dyn Clock>,
    pub meter: Arc<dyn Meter>,
}

/// A component, compiled.
pub struct Bench {
    machine: Arc<Machine>,
    code: Arc<Code>,
    took: Duration,
}

/// The result of replaying an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// Everything that was not as recorded.
    pub differences: Vec<String>,
    /// The most linear memory that a call had, in bytes.
    pub memory: usize,
    pub took: Duration,
}

/// The result of calling a provider.
#[derive(Debug)]
pub struct Tried {
    pub outcome: Outcome,
    /// The exchange, with every secret replaced.
    pub recorded: RecordedExchange,
    /// What may be shown of `outcome`, by name.
    pub shown: Vec<(String, String)>,
}

impl Bench {
    /// Compiles `bytes`, or finds them compiled in `cache`. Takes up to seconds.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub async fn load(bytes: Vec<u8>, cache: Option<CacheAt>) -> Result<Bench, Vec<InterfaceFault>> {
        let plainly = |what: String| {
            vec![InterfaceFault { what, cure: "see what the host can do on this machine".to_owned() }]
        };
        let found = examine(&bytes).faults;
        if !found.is_empty() {
            return Err(found);
        }
        let machine = Arc::new(Machine::new().map_err(plainly)?);
        // Without a cache, loading takes longer.
        let cache = cache.and_then(|at| Cache::open(&machine.engine, &at.folder, at.key).ok());
        let (compiler, begun) = (Arc::clone(&machine), Instant::now());
        // Not on the plugins' threads, whose priority is the lowest: a person waits for this.
        let loaded = tokio::task::spawn_blocking(move || {
            let code = load(&compiler, cache.as_ref(), &bytes);
            if let Some(cache) = cache {
                cache.bound(CACHED);
            }
            code
        })
        .await;
        let code = loaded.map_err(|error| plainly(error.to_string()))?.map_err(|what| {
            vec![InterfaceFault { what, cure: "build it again with `palisade plugin build`".to_owned() }]
        })?;
        Ok(Bench { machine, code: Arc::new(code), took: begun.elapsed() })
    }

    /// How long compiling took; the gateway keeps what it compiled.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// What the component says about itself with these settings, of which `secrets` are never shown.
    ///
    /// # Errors
    /// What it says is wrong with them, or that it broke off.
    pub async fn describe(
        &self,
        settings: &Map<String, Value>,
        secrets: &[SecretString],
        limits: PluginLimits,
        meter: Arc<dyn Meter>,
    ) -> Result<Described, ProviderFault> {
        self.description(settings, secrets, limits, meter).await.map(Described::from)
    }

    async fn description(
        &self,
        settings: &Map<String, Value>,
        secrets: &[SecretString],
        limits: PluginLimits,
        meter: Arc<dyn Meter>,
    ) -> Result<Description, ProviderFault> {
        let around = Arc::new(Surroundings {
            provider: Arc::from("bench"),
            client: Client { id: SecretString::from(""), secret: None },
            door: Arc::new(NoDoor),
            limits,
            assertions: Arc::new(Unsigned),
            clock: Arc::new(Fixed(UnixTime(0))),
            meter,
            witness: None,
        });
        let settings = serde_json::to_string(settings)
            .map_err(|error| ProviderFault::Misconfigured(error.to_string()))?;
        let slots = Arc::new(Semaphore::new(1));
        let secrets = Arc::new(Secrets::of(secrets.iter().cloned()));
        let callee =
            Callee { machine: &self.machine, code: &self.code, around: &around, slots: &slots, secrets };
        plugin::describe(callee, settings, &[]).await.map(|(described, _)| described)
    }

    /// Plays `exchange`, without a network.
    pub async fn play(
        &self,
        exchange: &RecordedExchange,
        limits: PluginLimits,
        meter: Arc<dyn Meter>,
    ) -> Played {
        let begun = Instant::now();
        let player = Arc::new(Player::new(exchange.clone()));
        let given = &exchange.connection;
        let provider = config::Provider {
            name: "test".to_owned(),
            line: 1,
            display_name: None,
            component: Component::BuiltIn(String::new()),
            sha256: None,
            client_id: given.client_id.clone().into(),
            client_secret: Some(SECRET.into()),
            allowed_hosts: hosts(exchange),
            allow_loopback: false,
            reach: Default::default(),
            scopes: Vec::new(),
            settings: exchange.settings.clone(),
            secret_settings: Vec::new(),
            secret_parameters: Vec::new(),
            limits,
            token_access: None,
        };
        let apparatus = Apparatus {
            door: Arc::clone(&player) as _,
            assertions: Arc::new(Unsigned),
            clock: Arc::new(Fixed(UnixTime(exchange.now))),
            meter,
        };
        let outcome = self.ask(&provider, apparatus, Arc::clone(&player) as _, exchange).await;
        let mut differences = player.finish();
        differences.extend(compare(&exchange.result, &outcome));
        // The host has taken longer secrets out already.
        if let Outcome::Failure(failure) = &outcome
            && (failure.message.contains(HIDDEN) || tells(exchange, &failure.message))
        {
            differences.push("the failure's message has a token, a code or a verifier in it".to_owned());
        }
        Played { differences, memory: player.memory(), took: begun.elapsed() }
    }

    /// Calls `provider` as `asked` says (its function, connection and input), and tells of each request by
    /// `tell`.
    pub async fn call(
        &self,
        provider: &config::Provider,
        apparatus: Apparatus,
        asked: &RecordedExchange,
        tell: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Tried {
        let recorder = Arc::new(Recorder::new(provider, Arc::clone(&apparatus.door), asked, tell));
        let apparatus = Apparatus { door: Arc::clone(&recorder) as _, ..apparatus };
        let outcome = self.ask(provider, apparatus, Arc::clone(&recorder) as _, asked).await;
        let recorded = recorder.exchange(provider, asked, &outcome);
        // A provider may put a token into an unexpected place, such as a scope.
        let secrets = secrets(provider, asked, &outcome);
        let shown = shown_outcome(&outcome).into_iter();
        let shown = shown.map(|(name, value)| (name, secrets.hide(&value).to_string())).collect();
        Tried { outcome, recorded, shown }
    }

    async fn ask(
        &self,
        provider: &config::Provider,
        apparatus: Apparatus,
        witness: Arc<dyn Witness>,
        asked: &RecordedExchange,
    ) -> Outcome {
        match self.try_ask(provider, apparatus, witness, asked).await {
            Ok(outcome) => outcome,
            Err(fault) => Outcome::Failure(failed(fault)),
        }
    }

    async fn try_ask(
        &self,
        provider: &config::Provider,
        apparatus: Apparatus,
        witness: Arc<dyn Witness>,
        asked: &RecordedExchange,
    ) -> Result<Outcome, ProviderFault> {
        if asked.call == Call::Describe {
            let described = self
                .description(&provider.settings, &provider.secret_settings, provider.limits, apparatus.meter)
                .await?;
            return Ok(Outcome::Description(names(&described)));
        }
        let sides = Sides {
            door: apparatus.door,
            assertions: apparatus.assertions,
            clock: apparatus.clock,
            meter: apparatus.meter,
            redirect_uri: Arc::from(&*asked.connection.redirect_uri),
            witness: Some(witness),
        };
        let plugin = Plugin::prepare(&self.machine, Arc::clone(&self.code), provider, sides).await;
        let plugin = plugin.map_err(ProviderFault::Misconfigured)?;
        let (given, input) = (&asked.connection, &asked.input);
        let (secret, open): (BTreeMap<_, _>, BTreeMap<_, _>) = pairs(&given.parameters)
            .into_iter()
            .partition(|(name, _)| provider.secret_parameters.contains(name));
        let call = ProviderCall {
            provider: provider.name.clone(),
            parameters: open,
            secret_parameters: secret.into_iter().map(|(name, value)| (name, value.into())).collect(),
            kept: pairs(&given.kept).into_iter().map(|(name, value)| (name, value.into())).collect(),
            scopes: if given.scopes.is_empty() { plugin.info.scopes.clone() } else { given.scopes.clone() },
        };
        let pkce =
            Pkce { verifier: input.pkce.verifier.clone().into(), challenge: input.pkce.challenge.clone() };
        let tokens = &input.tokens;
        let current = CurrentTokens {
            access_token: tokens.access_token.clone().into(),
            refresh_token: tokens.refresh_token.clone().map(Into::into),
            expires_at: tokens.expires_at.map(UnixTime),
            id_token: tokens.id_token.clone().map(Into::into),
        };
        Ok(match asked.call {
            Call::Describe => Outcome::Done(true),
            Call::Authorize => match plugin.authorize(&call, &input.state.clone().into(), &pkce).await? {
                Authorization::Visit(url) => Outcome::Visit(url),
                Authorization::Unattended => Outcome::Unattended(true),
            },
            Call::Exchange => {
                let callback = pairs(&input.callback).into_iter().map(|(name, value)| (name, value.into()));
                Outcome::Tokens(Box::new(granted(plugin.exchange(&call, callback.collect(), &pkce).await?)))
            }
            Call::Refresh => {
                Outcome::Tokens(Box::new(granted(plugin.refresh(&call, &current).await.outcome?)))
            }
            Call::Revoke => plugin.revoke(&call, &current).await.map(|()| Outcome::Done(true))?,
            Call::Identity => match plugin.identity(&call, &current).await? {
                Some(account) => Outcome::Account(person(account)),
                None => {
                    let why = "it cannot say whose account it is: `can-identify` is false";
                    return Err(ProviderFault::ProviderError(why.to_owned()));
                }
            },
        })
    }
}

/// The tokens, codes and other secrets that a call was given, and those that came of it.
fn secrets(provider: &config::Provider, asked: &RecordedExchange, outcome: &Outcome) -> Secrets {
    let tokens = &asked.input.tokens;
    let mut all = vec![tokens.access_token.clone()];
    all.extend([&tokens.refresh_token, &tokens.id_token].into_iter().flatten().cloned());
    all.extend(
        pairs(&asked.input.callback).into_iter().filter(|(name, _)| name == "code").map(|(_, code)| code),
    );
    if let Outcome::Tokens(granted) = outcome {
        all.push(granted.access_token.clone());
        all.extend([&granted.refresh_token, &granted.id_token].into_iter().flatten().cloned());
    }
    let parameters = pairs(&asked.connection.parameters).into_iter();
    let secret = parameters.filter(|(name, _)| provider.secret_parameters.contains(name));
    all.extend(secret.map(|(_, value)| value));
    Secrets::of(all.into_iter().map(Into::into).chain(provider.secret_settings.iter().cloned()))
}

/// The hosts that an exchange is about.
fn hosts(exchange: &RecordedExchange) -> Vec<AllowedHost> {
    let visited = match &exchange.result {
        Outcome::Visit(url) => Some(url),
        _ => None,
    };
    // The hosts that an operator would allow: those of the requests and of the settings.
    let set = exchange.settings.values().filter_map(serde_json::Value::as_str);
    let urls =
        exchange.requests.iter().map(|request| &request.url).chain(visited).map(String::as_str).chain(set);
    urls.filter_map(|text| {
        let url = url::Url::parse(text).ok()?;
        Some(AllowedHost { host: url.host_str()?.to_owned(), wildcard: false, port: url.port() })
    })
    .collect()
}

/// A clock that stands still.
struct Fixed(UnixTime);

impl Clock for Fixed {
    fn now(&self) -> UnixTime {
        self.0
    }
}

/// Signs nothing: in a recorded exchange the signature is not verified.
struct Unsigned;

impl Assertions for Unsigned {
    fn sign(&self, _: &SecretString, _: &Assertion, _: UnixTime) -> Result<String, SignError> {
        Ok("an.assertion.unsigned".to_owned())
    }
}

/// A door that refuses every request.
struct NoDoor;

#[async_trait]
impl Door for NoDoor {
    async fn send(&self, _: DoorRequest) -> Result<DoorResponse, DoorFault> {
        Err(DoorFault::Denied("a plugin makes no request while it describes itself".to_owned()))
    }
}

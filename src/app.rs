//! The composition root: [`Config`] in, a running gateway out, built top-down. The only file that
//! names every room of `edge`.

mod accept;
mod accounts;
mod background;
mod connections;
mod credential;
mod key_checks;
pub(crate) mod key_files;
mod levels;
mod operator;
mod restart;
pub(crate) mod secrets;
mod sockets;
pub(crate) mod warnings;

pub use self::accept::Accept;
use self::levels::probe;
use self::operator::Operator;
use self::sockets::{bind, local};
/// For who tries one provider without a gateway.
pub(crate) use connections::{SHIPPED, callback_url, door, try_providers};

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Origin};
use crate::edge::api::{self, AdminState, AuthState, NativeState};
use crate::edge::clock::{SystemClock, uptime};
use crate::edge::data_dir;
use crate::edge::demo;
use crate::edge::entropy::SystemEntropy;
use crate::edge::fetch::HttpFetch;
use crate::edge::jwt::{Asker, Clocks, Issuers, KeyRing, StoredKeys, TokenVerifier};
use crate::edge::machine;
use crate::edge::own_secrets::FolderSecrets;
use crate::edge::proxy;
use crate::edge::proxy::capacity::{Capacity, Plan};
use crate::edge::proxy::forward::StripRules;
use crate::edge::proxy::served::ServedRoute;
use crate::edge::store::{
    CacheObserver, Doubts, Kept, MeterObserver, ObservedStore, RevocationCache, SledStore,
};
use crate::edge::telemetry::Meters;
use crate::edge::telemetry::metrics::Metrics;
use palisade_core::domain::route::Table;
use palisade_core::ports::{Clock, Control, Keys, Meter, Revocations, SecretStore, Signer, Store};
use palisade_core::service::admit::{Admission, Authenticator};
use palisade_core::service::clock::{GuardedClock, Timekeeping};
use palisade_core::service::fit::longest_token;
use palisade_core::service::mint::Mint;
use palisade_core::service::ongoing::Expiry;
use palisade_core::service::revoke::Revoke;
use palisade_core::service::rotate::Rotate;
use palisade_core::service::storage::Storage;

/// How long requests wait at the start for the providers to be loaded: from the cache that takes milliseconds,
/// and what needs a compiler must not keep everybody else waiting.
const PROVIDERS_FIRST: Duration = Duration::from_secs(2);

/// What `palisade run` may be asked beside its configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Also serve the sample app, and route to it.
    pub demo: bool,
    /// What this start may go on from, although it may lose something.
    pub accept: Accept,
}

/// A gateway that accepts connections. Dropping it does not stop it; [`Running::shutdown`] does.
pub struct Running {
    /// The cleartext listeners, with their real ports when the configuration said 0.
    pub listen: Vec<SocketAddr>,
    /// The TLS listener.
    pub tls: Option<SocketAddr>,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The sample app.
    pub demo: Option<SocketAddr>,
    /// What the operator should know, one line each.
    pub notices: Vec<String>,
    /// The gateway as its operator sees it.
    pub control: Arc<dyn Control>,
    /// What it can hold at once.
    pub capacity: Arc<Capacity>,
    closing: watch::Sender<bool>,
    engine: Arc<proxy::Engine>,
    connections: TaskTracker,
    grace: Duration,
    background: Vec<AbortHandle>,
    accounts: accounts::AccountWorkers,
    grants: connections::ConnectionWorkers,
    store: Arc<SledStore>,
    watched: Arc<GuardedClock>,
    leaving: Arc<AtomicBool>,
    delay: Duration,
}

impl Running {
    /// Says in `/readyz` that no further requests should come, and goes on serving. Returns for how long,
    /// before [`Running::shutdown`] is due: those who send requests have to notice.
    pub fn retire(&self) -> Duration {
        self.leaving.store(true, Ordering::Release);
        self.delay
    }

    /// Stops accepting, lets requests under way finish within the configured grace, closes the store. When
    /// it returns, the data folder is free for the next gateway.
    pub async fn shutdown(self) {
        // Nobody listening is nobody to tell.
        let _ = self.closing.send(true);
        proxy::close(&self.engine).await;
        self.connections.close();
        if tokio::time::timeout(self.grace, self.connections.wait()).await.is_err() {
            tracing::warn!(open = self.connections.len(), "the grace period ended with requests under way");
        }
        for task in &self.background {
            task.abort();
        }
        // What it leaves behind is mail and events, which the accounts' workers take on.
        self.grants.close(self.grace).await;
        self.accounts.close(self.grace).await;
        if let Err(error) = self.watched.write(&*self.store).await {
            tracing::warn!(%error, "the mark of the clock was not written; the next start takes it for a longer stop");
        }
        // Closed, not dropped: a task that is being ended may hold on to it a moment longer.
        let store = self.store;
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "the store was not closed");
        }
    }
}

/// Everything that outlives a reload.
struct Parts {
    clock: Arc<dyn Clock>,
    /// The same, as its operator sees it.
    watched: Arc<GuardedClock>,
    meters: Arc<Meters>,
    metrics: Arc<Metrics>,
    ring: KeyRing,
    fetch: Arc<HttpFetch>,
    store: Arc<dyn Store>,
    revocations: Arc<RevocationCache>,
    issuers: ArcSwap<Issuers>,
    clocks: Arc<Clocks>,
    demo: Option<SocketAddr>,
    capacity: Arc<Capacity>,
}

impl Parts {
    /// What a configuration puts in force.
    async fn live(&self, config: &Config, issuers: &Arc<Issuers>) -> Result<proxy::gateway::Live, String> {
        let meter: Arc<dyn Meter> = Arc::clone(&self.meters) as Arc<dyn Meter>;
        let (ring, clocks) = (Arc::new(self.ring.clone()), Arc::clone(&self.clocks));
        let verifier = TokenVerifier::new(&config.tokens, ring, Arc::clone(issuers), clocks, meter);
        let mut configured = config.routes.clone();
        if let Some(address) = self.demo {
            for route in &mut configured {
                route.upstream.origins =
                    vec![Origin { tls: false, host: address.ip().to_string(), port: address.port() }];
                route.upstream.http2 = false;
                // The sample app greets people by the name that is in it.
                route.forward.assertion = Some(demo::ASSERTION.to_owned());
            }
        }
        self.metrics.set_routes(config.routes.iter().map(|route| &*route.policy.name));
        let strip =
            StripRules::of(configured.iter().map(|route| (&route.forward, &route.policy.policy.carriers)));
        let mut served = Vec::with_capacity(configured.len());
        for route in configured {
            served.push(ServedRoute::start(route, &self.capacity).await?);
        }
        Ok(proxy::gateway::Live {
            admission: Admission {
                scheme: config.scheme(),
                routes: Table::new(served),
                authenticator: Authenticator {
                    verifier: Arc::new(verifier),
                    revocations: Arc::clone(&self.revocations) as Arc<dyn Revocations>,
                    clock: Arc::clone(&self.clock),
                },
            },
            strip,
            believed: proxy::forwarded::Believed {
                proxies: config.server.trusted_proxies.clone(),
                field: config.server.client_address,
            },
        })
    }
}

/// Starts everything. Returns once requests are served and the providers are loaded; until then the admin
/// listener answers, and `/readyz` says what is missing.
///
/// # Errors
/// What kept it from starting, with advice, as one printable text.
pub async fn start(config: Config, options: Options) -> Result<Running, String> {
    start_by(Arc::new(SystemClock), config, options).await
}

/// Like [`start`], by another clock than the machine's.
///
/// # Errors
/// As [`start`].
pub async fn start_by(clock: Arc<dyn Clock>, config: Config, options: Options) -> Result<Running, String> {
    let mut notices = config.warnings.clone();
    notices.extend(config.unsent_emails.iter().cloned());
    notices.extend(warnings::about(&config).await);
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|error| error.to_string())?);
    let meters = Arc::new(Meters::new(Arc::clone(&metrics), config.log.access));
    let data_dir = config.store.data_dir().to_owned();
    data_dir::make(&data_dir)?;
    let own: Arc<dyn SecretStore> = Arc::new(FolderSecrets::new(&data_dir));
    let doubts = if options.accept.store_as_it_is { Doubts::Accept } else { Doubts::Refuse };
    let mut admitted = Vec::new();
    // A start that is refused changes nothing: all of this is looked at before the store is opened for use.
    let mut admit = |kept: &Kept| {
        admitted = secrets::admit(&config, &*own, kept, options.accept)?;
        let known = kept.key_checks.as_ref().map_err(Clone::clone)?;
        admitted.extend(key_checks::admit(known, &*own, &data_dir, options.accept)?);
        if config.tokens.key.is_none() {
            KeyRing::look(&*own).map_err(|error| error.to_string())?;
        }
        Clocks::open(&data_dir).map(drop)
    };
    let sled = SledStore::open_admitted(&data_dir, doubts, &mut admit).map_err(|error| error.to_string())?;
    notices.append(&mut admitted);
    let clocks = Arc::new(Clocks::open(&data_dir)?);
    notices.extend(data_dir::tighten(&data_dir)?);
    let revocations = Arc::new(RevocationCache::new());
    let streams = Arc::new(proxy::exchange::Streams::new(&(Arc::clone(&meters) as Arc<dyn Meter>)));
    let changed = Arc::new(Notify::new());
    let changes = Arc::clone(&changed);
    let meter = Arc::new(MeterObserver(Arc::clone(&meters) as _));
    let keeps_cache = CacheObserver::new(Arc::clone(&revocations), Box::new(move || changes.notify_one()));
    let store: Arc<dyn Store> =
        Arc::new(ObservedStore::new(Arc::clone(&sled) as _, vec![meter, Arc::new(keeps_cache)]));
    let watched = guard(clock, &*store).await?;
    let clock: Arc<dyn Clock> = Arc::clone(&watched) as _;
    let ring = KeyRing::open(&config.tokens, Arc::clone(&own), clock.reading())
        .map_err(|error| error.to_string())?;
    if ring.made_keys() {
        notices.push(format!("signing keys were made in {}", data_dir.display()));
    }
    let per_upstream = if options.demo { 2 } else { 1 };
    let limit = machine::descriptor_limit();
    let plan = Plan::new(limit, config.server.max_connections, per_upstream)?;
    if plan.clients < config.server.max_connections {
        notices.push(format!(
            "server.max_connections = {}, but this process may open {} files at once (RLIMIT_NOFILE): it takes at most {} \
             client connections, and sheds the others",
            config.server.max_connections,
            limit.unwrap_or_default(),
            plan.clients
        ));
    }
    let capacity = Capacity::new(plan, config.server.max_request_memory);
    let demo = match options.demo {
        true => Some(demo::serve().await.map_err(|error| format!("the sample app: {error}"))?),
        false => None,
    };
    let fetch = Arc::new(HttpFetch::new().map_err(|error| error.to_string())?);
    let stored = Some(Arc::new(StoredKeys::new(&data_dir)));
    let asker = Asker::new(Arc::clone(&fetch) as _, Arc::clone(&meters) as _, Arc::clone(&clock), stored);
    let issuers = Arc::new(Issuers::new(&config.issuers, asker));
    issuers.forget_others().await;
    let parts = Arc::new(Parts {
        issuers: ArcSwap::new(Arc::clone(&issuers)),
        clocks,
        clock: Arc::clone(&clock),
        watched: Arc::clone(&watched),
        meters: Arc::clone(&meters),
        metrics: Arc::clone(&metrics),
        ring: ring.clone(),
        fetch,
        store: Arc::clone(&store),
        revocations: Arc::clone(&revocations),
        demo,
        capacity: Arc::clone(&capacity),
    });
    let live = Arc::new(ArcSwap::from_pointee(parts.live(&config, &issuers).await?));

    let signer: Arc<dyn Signer> = Arc::new(ring.clone());
    let keys: Arc<dyn Keys> = Arc::new(ring);
    let wanted = accounts::Wanted {
        store: Arc::clone(&store),
        signer: Arc::clone(&signer),
        clock: Arc::clone(&clock),
        meter: Arc::clone(&meters) as Arc<dyn Meter>,
    };
    let accounts = accounts::start(&config, &*own, wanted)?;
    let wanted = connections::Wanted {
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        meter: Arc::clone(&meters) as Arc<dyn Meter>,
        fetch: Arc::clone(&parts.fetch) as _,
        accounts: &accounts,
    };
    let grants = connections::compose(&config, &*own, wanted, &mut notices).await?;

    let acceptor = config.server.tls.as_ref().map(proxy::tls::Acceptor::new).transpose()?;
    let (closing, closed) = watch::channel(false);
    let leaving = Arc::new(AtomicBool::new(false));
    let control = Arc::new(Operator {
        parts: Arc::clone(&parts),
        live: Arc::clone(&live),
        streams: Arc::clone(&streams),
        tls: acceptor.clone(),
        grants: grants.clone(),
        started: config.clone(),
        reloading: tokio::sync::Mutex::default(),
        closing: closed.clone(),
        leaving: Arc::clone(&leaving),
        serving: AtomicBool::new(false),
        loaded: AtomicBool::new(false),
    });
    parts.metrics.set_probe(probe(&parts, &live, &streams, Arc::clone(&capacity), acceptor.clone()));

    // The admin listener first: it tells how the rest is doing.
    let admin_listener = bind(config.server.admin, "server.admin")?;
    let admin = local(&admin_listener)?;
    let revoke = Revoke::new(
        Arc::clone(&store),
        Arc::clone(&signer),
        Arc::clone(&clock),
        Arc::new(SystemEntropy),
        Arc::clone(&parts.clocks) as _,
        accounts::lives(&config),
    );
    let admin_router = api::admin_router(AdminState {
        credential: credential::admin(&*own)?,
        storage: Storage::new(Arc::clone(&store)),
        revoke: revoke.clone(),
        mint: Mint::new(
            Arc::clone(&store),
            Arc::clone(&signer),
            Arc::clone(&clock),
            config.tokens.access_ttl,
            longest_token(config.server.max_header_bytes),
        ),
        rotate: Rotate::new(Arc::clone(&keys), Arc::clone(&clock)),
        timekeeping: Timekeeping::new(Arc::clone(&watched), Arc::clone(&store), revoke),
        accounts: accounts.accounts.clone(),
        connections: grants.connections.clone(),
        control: Arc::clone(&control) as Arc<dyn Control>,
        metrics: Arc::new(move || metrics.text()),
    });
    notices.extend(key_checks::keep(&sled, &*own, &data_dir).await);
    let mut background =
        vec![spawn(api::serve(admin_listener, admin_router, config.server.admin_hosts.clone()))];

    // Sockets are bound before the set is read: connections wait instead of being refused.
    let mut cleartext = Vec::new();
    for address in &config.server.listen {
        cleartext.push(bind(*address, "server.listen")?);
    }
    let encrypted = match (&config.server.tls, acceptor) {
        (Some(tls), Some(acceptor)) => Some((bind(tls.listen, "server.tls.listen")?, acceptor)),
        _ => None,
    };
    let mut loading = pin!(grants.load(&config));
    let (asked, loaded, early) = tokio::join!(
        // No source but a file is waited for; `/readyz` waits for the first answer of each.
        issuers.begin(Duration::ZERO),
        revocations.load(&*store, clock.reading().earliest),
        tokio::time::timeout(PROVIDERS_FIRST, &mut loading),
    );
    loaded.map_err(|error| error.to_string())?;
    notices.extend(asked.iter().filter(|news| news.is_worrying()).map(ToString::to_string));

    let issuer = config.tokens.issuer.clone();
    let deciding = Arc::clone(&live);
    let auth = AuthState {
        accounts: accounts.accounts.clone(),
        connections: grants.connections.clone(),
        authenticator: Arc::new(move || deciding.load().admission.authenticator.clone()),
        issuer: issuer.clone(),
        prefix: config.server.prefix.clone(),
        public_url: config.public_url.clone(),
        cors: config.cors.clone(),
    };
    let docs_url = format!("{}{}/docs", config.public_url, config.server.prefix);
    let published = NativeState { issuer, public_url: config.public_url.clone(), docs_url, keys };
    let native = api::native_router(published).merge(api::auth_router(auth));
    let engine = proxy::engine(proxy::gateway::Gateway {
        live: Arc::clone(&live),
        max_header_bytes: config.server.max_header_bytes,
        native,
        native_prefix: config.server.prefix.clone(),
        streams: Arc::clone(&streams),
        signer,
        injector: Arc::new(grants.connections.clone()),
        connect_at: format!("{}/connections", config.server.prefix),
        mark: proxy::looped::LoopMark::random(&SystemEntropy),
        clock: Arc::clone(&clock),
        meter: Arc::clone(&meters) as Arc<dyn Meter>,
        capacity: Arc::clone(&capacity),
    });
    let connections = TaskTracker::new();
    let listener = |tls: Option<proxy::tls::Acceptor>| {
        Arc::new(proxy::listener::Listener {
            engine: Arc::clone(&engine),
            limits: proxy::head::HeadLimits {
                deadline: config.server.header_timeout,
                idle: config.server.idle_timeout,
                bytes: config.server.max_header_bytes,
            },
            capacity: Arc::clone(&capacity),
            meter: Arc::clone(&meters) as Arc<dyn Meter>,
            closing: closed.clone(),
            tls,
            connections: connections.clone(),
        })
    };
    let listen = cleartext.iter().map(local).collect::<Result<Vec<_>, _>>()?;
    for tcp in cleartext {
        // Draining waits for the loops too: they take what has connected before the end.
        connections.spawn(listener(None).run(tcp));
    }
    let mut tls = None;
    if let Some((tcp, acceptor)) = encrypted {
        tls = Some(local(&tcp)?);
        background.push(spawn(acceptor.clone().watch()));
        background.push(spawn(background::warn_of_expiry(acceptor.clone(), Arc::clone(&clock))));
        connections.spawn(listener(Some(acceptor)).run(tcp));
    }
    background.push(spawn(background::cut_revoked(changed, Arc::clone(&streams), Arc::clone(&live))));
    let expiry = Expiry {
        store: Arc::clone(&store),
        issuer: config.tokens.issuer.clone(),
        lifetimes: accounts.accounts.session_lifetimes(),
        leeway: config.tokens.leeway,
    };
    background.push(spawn(background::cut_expired(streams, expiry, clock)));
    background.push(spawn(background::refresh_keys(Arc::clone(&parts))));
    background.push(spawn(background::remember_clocks(Arc::clone(&parts.clocks))));
    background.push(spawn(background::watch_clock(watched, store)));
    background.push(spawn(background::sweep(Arc::clone(&parts))));
    control.serving.store(true, Ordering::Release);
    notices.extend(match early {
        Ok(faults) => faults,
        Err(_) => loading.await,
    });
    control.loaded.store(true, Ordering::Release);
    let grants = connections::start(grants.clone());
    Ok(Running {
        listen,
        tls,
        admin,
        demo,
        notices,
        control,
        capacity,
        closing,
        engine,
        connections,
        grace: config.server.shutdown_grace,
        background,
        accounts,
        grants,
        store: sled,
        watched: Arc::clone(&parts.watched),
        leaving,
        delay: config.server.shutdown_delay,
    })
}

/// The clock that everything goes by: `clock`, held against the mark in `store` and the uptime.
async fn guard(clock: Arc<dyn Clock>, store: &dyn Store) -> Result<Arc<GuardedClock>, String> {
    let asked = Arc::clone(&clock);
    let uptime = Box::new(move || asked.uptime().unwrap_or_else(uptime));
    let watched = GuardedClock::start(clock, uptime, store).await.map_err(|error| error.to_string())?;
    // Before anything is signed by this clock. A full disk must not keep what can be served from being served.
    if let Err(error) = watched.tick(store).await {
        tracing::warn!(%error, "the mark of the clock was not written; it is tried again");
    }
    Ok(watched)
}

fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(work).abort_handle()
}

//! Phase 5 of a start, serve: the engine, the accept loops, and the background tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::bind::Bound;
use super::compose::Composed;
use super::load::Loaded;
use super::operator::Operator;
use super::running::{Demo, RunningGateway};
use super::sockets::local;
use super::watch::{Watcher, follow};
use super::{background, connections};
use crate::edge::api::{self, AuthState, NativeState};
use crate::edge::entropy::SystemEntropy;
use crate::edge::pages;
use crate::edge::proxy;
use palisade_core::domain::native_hosts::NativeHosts;
use palisade_core::service::accounts::Accounts;
use palisade_core::service::carry::SessionCarrier;
use palisade_core::service::ongoing::Expiry;

/// Serves requests. Returns once the providers are loaded as well, as far as they can be.
///
/// # Errors
/// An address of a listener cannot be read; as one printable text.
pub(super) async fn serve(loaded: Loaded) -> Result<RunningGateway, String> {
    let Loaded { bound: Bound { composed, admin, health, answering, cleartext, encrypted }, providers } =
        loaded;
    let Composed {
        mut notices,
        backend,
        secrets: _,
        sink: _,
        options: _,
        revocations_changed,
        accounts,
        operator,
        closing,
    } = composed;
    let listen = cleartext.iter().map(local).collect::<Result<Vec<_>, _>>()?;
    let tls = encrypted.as_ref().map(|(tcp, _)| local(tcp)).transpose()?;

    let carrier = SessionCarrier::new(
        accounts.shared().key,
        operator.state.clock(),
        Arc::new(SystemEntropy),
        Arc::clone(&operator.state.store),
    );
    let engine = engine(&operator, &accounts.accounts, Arc::new(carrier));
    let clients = TaskTracker::new();
    for tcp in cleartext {
        accept(&operator, &engine, &clients, tcp, None);
    }
    let mut tasks = answering;
    if let Some((tcp, acceptor)) = encrypted {
        tasks.push(spawn(acceptor.clone().watch()));
        tasks.push(spawn(background::warn_of_expiry(acceptor.clone(), operator.state.clock())));
        accept(&operator, &engine, &clients, tcp, Some(acceptor));
    }
    tasks.extend(background_tasks(&operator, &accounts.accounts, revocations_changed));
    let watcher = Arc::new(Watcher::new(Arc::clone(&operator), accounts.accounts.clone()));
    tasks.push(spawn(follow(Arc::clone(&watcher))));
    operator.serving.store(true, Ordering::Release);

    let demo = match operator.state.demo {
        Some(app) => {
            let account = accounts.accounts.demo_account().await;
            Some(Demo { app, account: account.map_err(|error| format!("the demo account: {error}"))? })
        }
        None => None,
    };
    notices.extend(providers.finish().await);
    operator.loaded.store(true, Ordering::Release);
    let connections = connections::start(operator.connections.clone());
    Ok(RunningGateway {
        listen,
        tls,
        admin,
        health,
        demo,
        public_url: operator.started.public_url.clone(),
        notices,
        control: Arc::clone(&operator) as _,
        revocations: Arc::clone(&operator.state.revocations),
        capacity: Arc::clone(&operator.state.capacity),
        operator,
        watcher,
        closing,
        engine,
        clients,
        tasks,
        accounts,
        connections,
        backend,
    })
}

/// The engine, with the native endpoints.
fn engine(operator: &Arc<Operator>, accounts: &Accounts, carrier: Arc<SessionCarrier>) -> Arc<proxy::Engine> {
    let (state, config) = (&operator.state, &operator.started);
    let ring = Arc::new(state.ring.clone());
    let prefix = config.server.prefix.clone();
    let [deciding, naming] = [0; 2].map(|_| Arc::clone(&operator.live));
    let at_start = Arc::new(config.browser.clone());
    let auth = AuthState {
        accounts: accounts.clone(),
        connections: operator.connections.connections.clone(),
        authenticator: Arc::new(move || deciding.load().admission.authenticator.clone()),
        issuer: config.tokens.issuer.clone(),
        prefix: prefix.clone(),
        public_url: config.public_url.clone(),
        cors: config.cors.clone(),
        pages: Arc::clone(&operator.pages) as _,
        browser: config.browser.clone(),
        hosts: Arc::new(move || {
            let live = naming.load();
            Arc::clone(live.browsers.as_ref().map_or(&at_start, |browsers| &browsers.settings))
        }),
        carrier: Arc::clone(&carrier),
    };
    let published = NativeState {
        issuer: config.tokens.issuer.clone(),
        public_url: config.public_url.clone(),
        docs_url: format!("{}{prefix}/docs", config.public_url),
        keys: Arc::clone(&ring) as _,
    };
    proxy::engine(proxy::gateway::Gateway {
        live: Arc::clone(&operator.live),
        max_header_bytes: config.server.max_header_bytes,
        native: api::native_router(published)
            .merge(api::auth_router(auth))
            .merge(pages::assets_router(&operator.pages)),
        // A relative address would lead to the app where the native endpoints are not on every host.
        ping: config
            .server
            .ping_path
            .as_ref()
            .map(|path| proxy::ping::Ping { path: path.clone(), control: Arc::clone(operator) as _ }),
        connect_at: match config.native {
            NativeHosts::Every => format!("{prefix}/connections"),
            NativeHosts::These(_) => format!("{}{prefix}/connections", config.public_url),
        },
        native_prefix: prefix,
        streams: Arc::clone(&operator.streams),
        signer: ring,
        app_tokens: Arc::clone(&state.app_tokens),
        injector: Arc::new(operator.connections.connections.clone()),
        mark: proxy::looped::LoopMark::random(&SystemEntropy),
        pages: Arc::clone(&operator.pages) as _,
        carrier,
        left_to_app: Arc::clone(&state.left_to_app),
        clock: state.clock(),
        meter: state.meter(),
        capacity: Arc::clone(&state.capacity),
    })
}

/// Accepts connections on `tcp` until the listeners are closed. A shutdown waits for the accept loops too: they take
/// what has connected before the end.
fn accept(
    operator: &Operator,
    engine: &Arc<proxy::Engine>,
    clients: &TaskTracker,
    tcp: TcpListener,
    tls: Option<proxy::tls::Acceptor>,
) {
    let server = &operator.started.server;
    let listener = Arc::new(proxy::listener::Listener {
        engine: Arc::clone(engine),
        limits: proxy::head::HeadLimits {
            deadline: server.header_timeout,
            idle: server.idle_timeout,
            bytes: server.max_header_bytes,
        },
        capacity: Arc::clone(&operator.state.capacity),
        meter: operator.state.meter(),
        closing: operator.closing.clone(),
        tls,
        connections: clients.clone(),
    });
    clients.spawn(listener.run(tcp));
}

/// Starts what goes on beside the requests, with a listener or without.
fn background_tasks(
    operator: &Operator,
    accounts: &Accounts,
    revocations_changed: Arc<Notify>,
) -> Vec<AbortHandle> {
    let Operator { state, live, streams, started, .. } = operator;
    let expiry = Expiry {
        store: Arc::clone(&state.store),
        issuer: started.tokens.issuer.clone(),
        lifetimes: accounts.session_lifetimes(),
        uses: accounts.session_uses(),
        leeway: started.tokens.leeway,
        outage: Expiry::outage(),
    };
    let mut tasks = vec![
        spawn(background::cut_revoked(revocations_changed, Arc::clone(streams), Arc::clone(live))),
        spawn(background::watch_lease(Arc::clone(state), Arc::clone(streams), Arc::clone(live))),
        spawn(background::cut_expired(Arc::clone(streams), expiry, state.clock())),
        spawn(background::refresh_keys(Arc::clone(state))),
        spawn(background::remember_clocks(Arc::clone(&state.issuer_clocks))),
        spawn(background::watch_clock(Arc::clone(&state.clock), Arc::clone(&state.store))),
        spawn(background::sweep(Arc::clone(state))),
        spawn(background::tell_left_to_app(Arc::clone(&state.left_to_app))),
    ];
    if let Some(journal) = &state.ends {
        tasks.push(spawn(background::retry_ends(Arc::clone(journal))));
    }
    if started.store.postgres().is_some() {
        tasks.push(spawn(background::follow_ring(state.ring.clone(), state.clock())));
    }
    tasks
}

fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(work).abort_handle()
}

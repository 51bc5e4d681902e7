//! Phase 2 of a start, compose: the use cases over what was opened. The accounts' workers and the sample app run from
//! here on; nothing is listened on yet.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use secrecy::ExposeSecret as _;
use tokio::sync::{Notify, watch};

use super::accounts::{self, AccountInputs, AccountWorkers};
use super::backend::Backend;
use super::connections::{self, ConnectionInputs};
use super::credential;
use super::levels::probe;
use super::open::Opened;
use super::operator::Operator;
use super::options::Options;
use super::state::ProcessState;
use crate::config::{Config, error_lines};
use crate::edge::browser_sessions::CookieVerdicts;
use crate::edge::demo;
use crate::edge::entropy::SystemEntropy;
use crate::edge::fetch::HttpFetch;
use crate::edge::jwt::{Asker, IntrospectionPorts, Issuers, OtherIssuers, StoredKeys};
use crate::edge::machine;
use crate::edge::pages::TemplatedPages;
use crate::edge::proxy;
use crate::edge::proxy::app_tokens::AppTokens;
use crate::edge::proxy::capacity::{Capacity, Plan};
use palisade_core::domain::account::Registration;
use palisade_core::ports::{FeedSink, Meter, SecretStore};
use palisade_core::service::left_to_app::LeftToApp;
use palisade_core::service::own_credentials::KnownCredentials;

/// What the phase made.
pub(super) struct Composed {
    /// What the operator should know, one line each.
    pub(super) notices: Vec<String>,
    pub(super) backend: Backend,
    pub(super) secrets: Arc<dyn SecretStore>,
    /// Where the feed of a store that replicas share leads to.
    pub(super) sink: Arc<dyn FeedSink>,
    pub(super) options: Options,
    /// Notified after every change of the set of revocations.
    pub(super) revocations_changed: Arc<Notify>,
    pub(super) accounts: AccountWorkers,
    /// Holds the state of the process, the configuration and what is in force of it.
    pub(super) operator: Arc<Operator>,
    /// Set to end the listeners.
    pub(super) closing: watch::Sender<bool>,
}

/// Composes the use cases.
///
/// # Errors
/// What kept it from that, with advice, as one printable text.
pub(super) async fn compose(opened: Opened) -> Result<Composed, String> {
    let Opened {
        config,
        options,
        mut notices,
        metrics,
        meters,
        backend,
        store,
        ends,
        secrets,
        sink,
        revocations,
        revocations_changed,
        issuer_clocks,
        clock,
        ring,
    } = opened;
    let streams = Arc::new(proxy::exchange::Streams::new(&(Arc::clone(&meters) as Arc<dyn Meter>)));
    let capacity = capacity(&config, if options.demo { 2 } else { 1 }, &mut notices)?;
    let demo = match options.demo {
        true => Some(
            demo::serve(&config.server.prefix).await.map_err(|error| format!("the sample app: {error}"))?,
        ),
        false => None,
    };
    let fetch = Arc::new(HttpFetch::with(&config.fetch)?);
    tell_of_proxy(&config);
    let stored = Some(Arc::new(StoredKeys::new(config.store.data_dir())));
    let asker =
        Asker::new(Arc::clone(&fetch) as _, Arc::clone(&meters) as _, Arc::clone(&clock) as _, stored);
    let issuers = Arc::new(Issuers::new(&config.issuers, asker));
    issuers.forget_others().await;
    let accounts = accounts::start(
        &config,
        &*secrets,
        AccountInputs {
            store: Arc::clone(&store),
            signer: Arc::new(ring.clone()),
            clock: Arc::clone(&clock) as _,
            meter: Arc::clone(&meters) as _,
            // A visitor of the demonstration can register unless the file says otherwise.
            registration: match (config.accounts.registration, options.demo) {
                (None, true) => Registration::Open,
                _ => config.accounts.registration(),
            },
        },
    )?;
    let sessions = Arc::new(CookieVerdicts::new(
        accounts.accounts.clone(),
        config.tokens.cache_entries,
        config.tokens.issuer.clone(),
        Arc::clone(&clock) as _,
    ));
    let app_tokens =
        AppTokens::new(Arc::new(ring.clone()), config.tokens.access_ttl, config.tokens.cache_entries);
    let left_to_app =
        LeftToApp::new(accounts.shared().audit, Arc::clone(&clock) as _, Arc::new(SystemEntropy));
    let admin = credential::admin(&*secrets)?;
    let own = KnownCredentials::new(accounts.shared().key, Arc::clone(&store), admin.expose_secret());
    let others = OtherIssuers::none(IntrospectionPorts {
        fetch: Arc::clone(&fetch) as _,
        meter: Arc::clone(&meters) as _,
        own: Arc::new(own),
        clocks: Arc::clone(&issuer_clocks),
    });
    let state = Arc::new(ProcessState {
        clock,
        meters,
        metrics,
        ring,
        fetch,
        store,
        ends,
        revocations,
        issuers: ArcSwap::new(Arc::clone(&issuers)),
        others: ArcSwap::from_pointee(others),
        issuer_clocks,
        sessions,
        successors: accounts.accounts.successor_uses(),
        app_tokens: Arc::new(app_tokens),
        left_to_app: Arc::new(left_to_app),
        key: accounts.shared().key,
        demo,
        capacity,
    });
    let live = Arc::new(ArcSwap::from_pointee(state.live(&config, &issuers).await?));

    let inputs = ConnectionInputs {
        store: Arc::clone(&state.store),
        clock: state.clock(),
        meter: state.meter(),
        fetch: Arc::clone(&state.fetch),
        accounts: &accounts,
    };
    let connections = connections::compose(&config, &*secrets, inputs, &mut notices).await?;

    let pages = Arc::new(TemplatedPages::load(&config).map_err(|errors| error_lines(&errors))?);
    let tls = config.server.tls.as_ref().map(proxy::tls::Acceptor::new).transpose()?;
    state.metrics.set_config(&config.hash);
    state.metrics.set_probe(probe(&state, &live, &streams, tls.clone()));
    let (closing, closed) = watch::channel(false);
    let operator = Arc::new(Operator {
        state,
        live,
        streams,
        tls,
        connections,
        post: Arc::clone(&accounts.post),
        pages,
        sources: ArcSwap::from_pointee(config.sources.clone()),
        watching: AtomicBool::new(config.server.watch),
        started: config,
        reloading: tokio::sync::Mutex::default(),
        closing: closed,
        leaving: AtomicBool::new(false),
        serving: AtomicBool::new(false),
        loaded: AtomicBool::new(false),
    });
    Ok(Composed {
        notices,
        backend,
        secrets,
        sink,
        options,
        revocations_changed,
        accounts,
        operator,
        closing,
    })
}

/// Says which way requests of our own leave: a variable of the environment may name a proxy that no file does.
fn tell_of_proxy(config: &Config) {
    if let Some(proxy) = &config.fetch.proxy {
        let (proxy, named_by) = (&proxy.shown, proxy.named_by);
        tracing::info!(proxy, named_by, "requests of our own go through a proxy");
    }
}

/// What the process can hold at once; `per_upstream`: the descriptors that one upstream connection takes.
fn capacity(
    config: &Config,
    per_upstream: usize,
    notices: &mut Vec<String>,
) -> Result<Arc<Capacity>, String> {
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
    Ok(Capacity::new(plan, config.server.max_request_memory))
}

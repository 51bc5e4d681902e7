//! What the use cases about connections share: the ports they work with, what they are asked and what they
//! answer. The use cases are methods of [`Connections`], one file each.
//!
//! Tokens leave the vault for the time of a call to their provider, and for callers that may have them; nothing here
//! prints one. A use case that changes the tokens of a connection holds its turn (single-flight, [`turns`]), and runs
//! to its end even if the caller disconnects.

mod begin;
mod callback;
mod disconnect;
mod due;
mod errands;
mod establish;
mod import;
mod notices;
mod refresh;
mod refresh_lease;
mod reseal;
mod returned_lately;
mod seal;
mod show;
mod tell;
mod token;
mod turns;
mod work;

pub use self::reseal::Resealed;
pub use self::show::ConfiguredProvider;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::SecretString;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::refresh::Unwritten;
use self::turns::Turns;
use super::caller::OwnedSource;
use super::leases::Leases;
use super::noted::About;
use super::retry::{Decision, retry_on_conflict};
use crate::domain::account::UserId;
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{Connection, ConnectionId, FaultKind, MAX_REASON, Status, clean};
use crate::domain::lease::LeaseHolder;
use crate::domain::opaque::ServerKey;
use crate::domain::route::Require;
use crate::domain::time::UnixTime;
use crate::domain::upkeep::Upkeep;
use crate::ports::{
    Audit, Clock, CommitError, Entropy, Limiter, ProviderFault, Providers, Store, StoreError, TooMany, Vault,
    VaultError, Webhook,
};

/// What an operator can set.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// Where the provider sends the browser back to.
    pub callback_url: String,
    /// Where a browser may be sent once a connection was made, word for word.
    pub return_to: Vec<String>,
    /// How long before its end an access token is replaced.
    pub refresh_ahead: Duration,
    /// Whether the worker refreshes tokens ahead of their end, even if no caller asks for them.
    pub keep_fresh: bool,
    /// How long before a grant ends by itself its user is told.
    pub warn_ahead: Duration,
    /// By provider: what it asks for (empty: what its plugin names), and who may be given its tokens.
    pub providers: BTreeMap<String, ProviderSettings>,
}

/// What an operator can set of one provider.
#[derive(Debug, Clone, Default)]
pub struct ProviderSettings {
    pub scopes: Vec<String>,
    /// What a caller's own token must have to be given an access token; `None`: no caller is.
    pub token_access: Option<Require>,
}

/// The ports that the use cases about connections work with.
pub struct ConnectionPorts {
    pub store: Arc<dyn Store>,
    pub providers: Arc<dyn Providers>,
    pub vault: Arc<dyn Vault>,
    pub webhook: Arc<dyn Webhook>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub limiter: Arc<dyn Limiter>,
    pub audit: Arc<dyn Audit>,
    pub key: Arc<ServerKey>,
    /// Notified when a mail was put into the outbox.
    pub outbox: Arc<Notify>,
    /// Our own issuer: a caller has an account here only if their token is of this issuer.
    pub issuer: String,
    /// This run of the program: what another began was cut off.
    pub run: Uuid,
}

/// What a user asks for when connecting.
#[derive(Debug, Clone, Default)]
pub struct Begin {
    pub provider: String,
    /// `None`: what the configuration names.
    pub scopes: Option<Vec<String>>,
    /// One of [`ConnectionSettings::return_to`].
    pub return_to: Option<String>,
    pub parameters: BTreeMap<String, String>,
    /// Renew this one, instead of the one that has the same provider and parameters, or a new one.
    pub connection: Option<ConnectionId>,
    /// Make a new one though there is one with the same provider and parameters.
    pub another: bool,
}

/// A connection that waits for consent, or that needed none.
#[derive(Debug)]
pub struct BegunConsent {
    pub connection: Connection,
    /// Where the user gives consent; `None`: there is none to give, and the connection is active.
    pub authorization_url: Option<String>,
    /// For a cookie of the browser, which must come back with the callback (CSRF).
    pub browser: Option<SecretString>,
}

/// What came back from the provider, in the query of the callback or in a form (`form_post`).
pub struct Callback {
    pub state: String,
    /// The cookie of the browser, as far as there is one.
    pub browser: Option<SecretString>,
    /// Every parameter but `state`.
    pub parameters: Vec<(String, SecretString)>,
}

impl std::fmt::Debug for Callback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.parameters.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Callback").field("parameters", &names).finish_non_exhaustive()
    }
}

/// Where a browser goes from the callback.
#[derive(Debug, Clone)]
pub struct Returned {
    pub connection: ConnectionId,
    pub provider: String,
    /// As given with [`Begin::return_to`].
    pub return_to: Option<String>,
    pub outcome: Result<(), ConsentRefusal>,
}

/// Why a consent did not lead to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentRefusal {
    /// A stable word, such as `access_denied`.
    pub word: &'static str,
    /// The same in our words, for the user: the rest of a sentence.
    pub meaning: &'static str,
    /// What the provider said of it, in its own words: one line of at most 200 bytes without control characters. A
    /// page or answer that shows it must say that the provider wrote it.
    pub said: Option<String>,
}

/// An access token for a caller that may have it.
#[derive(Debug, Clone)]
pub struct ProviderToken {
    pub access_token: SecretString,
    pub token_type: String,
    pub expires_at: Option<UnixTime>,
    pub scopes: Vec<String>,
}

/// Tokens that the app already holds.
#[derive(Debug, Clone)]
pub struct Import {
    pub access_token: SecretString,
    pub refresh_token: Option<SecretString>,
    pub expires_in: Option<Duration>,
    pub refresh_expires_in: Option<Duration>,
    pub scopes: Option<Vec<String>>,
    /// What the plugin would have kept of the answer.
    pub kept: BTreeMap<String, SecretString>,
}

/// What replaces a caller's own token on the way to an upstream.
#[derive(Debug, Clone)]
pub struct Injected {
    pub access_token: SecretString,
    /// `Bearer` as a rule.
    pub token_type: String,
    pub connection: ConnectionId,
}

/// Why something about a connection was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectionError {
    #[error("there is no provider {0:?} in service")]
    UnknownProvider(String),
    #[error("there is no such connection")]
    NotFound,
    /// The token is good and speaks for no account, or for one that is gone.
    #[error("this token belongs to no account")]
    NoAccount,
    #[error("{0}")]
    Invalid(String),
    /// The callback belongs to nothing that this browser has begun, or it came too late.
    #[error(
        "this answer of the provider belongs to no connection that was begun in this browser within the last ten minutes; begin again"
    )]
    InvalidState,
    #[error("no token: the connection still waits for consent")]
    Pending,
    #[error("no token: the provider does not honour the grant any more; connect again")]
    ReconnectNeeded,
    #[error("no token: the connection was ended")]
    Revoked,
    /// There is nothing to refresh the tokens by. They stay in use until they end.
    #[error(
        "the tokens of this connection cannot be refreshed: they are used until they end, and then the user connects again"
    )]
    NotRefreshable,
    #[error("this caller may not be given tokens of this provider")]
    TokenAccess,
    /// The provider was asked, or is not to be asked again yet.
    #[error("no fresh token: {reason}")]
    Provider { kind: FaultKind, reason: String, retry_after: Option<Duration> },
    #[error("there are too many connections; end one first")]
    TooManyConnections,
    #[error("others are changing this connection at the same time; try again")]
    Conflict,
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CommitError> for ConnectionError {
    fn from(error: CommitError) -> ConnectionError {
        error.unless_overtaken().map_or_else(ConnectionError::Store, |()| ConnectionError::Conflict)
    }
}

/// The use cases about connections. Its ports are for the use cases alone: what a caller may do is a method.
#[derive(Clone)]
pub struct Connections {
    store: Arc<dyn Store>,
    leases: Leases,
    providers: Arc<dyn Providers>,
    vault: Arc<dyn Vault>,
    webhook: Arc<dyn Webhook>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    limiter: Arc<dyn Limiter>,
    audit: Arc<dyn Audit>,
    key: Arc<ServerKey>,
    outbox: Arc<Notify>,
    issuer: Arc<str>,
    run: Uuid,
    state: Arc<ConnectionState>,
}

/// What is kept in memory beside the store.
struct ConnectionState {
    /// Replaced as a whole by a reload.
    settings: ArcSwap<ConnectionSettings>,
    turns: Arc<Turns>,
    returned: returned_lately::ReturnedLately,
    /// What refreshes brought and the store did not take. Nothing else is left of those grants.
    unwritten: Mutex<HashMap<ConnectionId, Unwritten>>,
    /// Providers, of those that are configured, that the worker leaves alone until then.
    slow: Mutex<HashMap<String, Instant>>,
    /// Notices to the app that wait for their next try; `None` until they were read from the store.
    notices: tokio::sync::Mutex<Option<notices::Known>>,
    account_notices: tokio::sync::Mutex<Option<notices::Known>>,
    /// Notified when a task was enqueued.
    tasks: Notify,
    /// Notified when a connection is due earlier than before.
    due: Notify,
    /// Notified when the configuration was changed.
    changed: Notify,
    /// What runs to its end though its caller is gone.
    spawned: TaskTracker,
    waits: Waits,
}

/// How long is waited, where something waits.
pub struct Waits {
    /// Between tries to write tokens that just came.
    pub pauses: &'static [Duration],
    /// How long a caller waits for a fresher token while the present one is good.
    pub patience: Duration,
}

/// What a provider's fault means here.
struct Failure {
    kind: FaultKind,
    /// Without a token, bounded, on one line.
    reason: String,
    retry_after: Option<Duration>,
}

impl From<ProviderFault> for Failure {
    fn from(fault: ProviderFault) -> Failure {
        let reason = clean(&fault.to_string(), MAX_REASON);
        let (kind, retry_after) = match fault {
            ProviderFault::InvalidGrant(_) => (FaultKind::InvalidGrant, None),
            ProviderFault::Transient { retry_after, .. } => (FaultKind::Transient, retry_after),
            ProviderFault::ProviderError(_) | ProviderFault::NotRefreshable(_) => {
                (FaultKind::ProviderError, None)
            }
            ProviderFault::PluginFailed(_) => (FaultKind::PluginFailed, None),
            ProviderFault::NotInService(_)
            | ProviderFault::Misconfigured(_)
            | ProviderFault::InvalidParameter { .. } => (FaultKind::Misconfigured, None),
        };
        Failure { kind, reason, retry_after }
    }
}

impl From<Failure> for ConnectionError {
    fn from(failure: Failure) -> ConnectionError {
        let Failure { kind, reason, retry_after } = failure;
        ConnectionError::Provider { kind, reason, retry_after }
    }
}

/// Why a connection has no tokens, unless it has.
fn standing(connection: &Connection) -> Result<(), ConnectionError> {
    match connection.status {
        Status::Active => Ok(()),
        Status::Pending => Err(ConnectionError::Pending),
        Status::ReconnectNeeded => Err(ConnectionError::ReconnectNeeded),
        Status::Revoked => Err(ConnectionError::Revoked),
    }
}

impl Connections {
    #[must_use]
    pub fn new(ports: ConnectionPorts, settings: ConnectionSettings) -> Connections {
        let waits = Waits { pauses: &refresh::PAUSES, patience: token::PATIENCE };
        Connections::with_waits(ports, settings, waits)
    }

    /// The use cases with other waits than [`Connections::new`] chooses.
    #[must_use]
    pub fn with_waits(ports: ConnectionPorts, settings: ConnectionSettings, waits: Waits) -> Connections {
        let ConnectionPorts {
            store,
            providers,
            vault,
            webhook,
            clock,
            entropy,
            limiter,
            audit,
            key,
            outbox,
            issuer,
            run,
        } = ports;
        let state = Arc::new(ConnectionState {
            settings: ArcSwap::from_pointee(settings),
            turns: Arc::default(),
            returned: Default::default(),
            unwritten: Mutex::default(),
            slow: Mutex::default(),
            notices: tokio::sync::Mutex::default(),
            account_notices: tokio::sync::Mutex::default(),
            tasks: Notify::new(),
            due: Notify::new(),
            changed: Notify::new(),
            spawned: TaskTracker::new(),
            waits,
        });
        let issuer = issuer.into();
        let leases = Leases::new(Arc::clone(&store), LeaseHolder(run));
        Connections {
            store,
            leases,
            providers,
            vault,
            webhook,
            clock,
            entropy,
            limiter,
            audit,
            key,
            outbox,
            issuer,
            run,
            state,
        }
    }

    /// The number of connections with a turn that is held or waited for.
    #[must_use]
    pub fn waited_for(&self) -> usize {
        self.state.turns.len()
    }

    /// The number of callers that wait for their turn with this connection, the one that has it included.
    #[must_use]
    pub fn queued(&self, id: ConnectionId) -> usize {
        self.state.turns.queued(id)
    }

    /// Puts settings in force, as after a reload, and looks through all connections soon
    /// ([`Connections::look_through`]).
    pub fn apply(&self, settings: ConnectionSettings) {
        self.state.settings.store(Arc::new(settings));
        self.look_through();
    }

    /// Looks through all connections soon: a cause that an operator had to remove may be gone, and some connections may
    /// be due earlier. To be called after a change of the settings or the providers.
    pub fn look_through(&self) {
        self.state.changed.notify_one();
    }

    /// The id of this run of the program ([`crate::domain::connection::RefreshAttempt::run`]).
    #[must_use]
    pub fn run_id(&self) -> Uuid {
        self.run
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<ConnectionSettings> {
        self.state.settings.load_full()
    }

    fn now(&self) -> UnixTime {
        self.clock.now()
    }

    fn note(&self, who: &OwnedSource, action: Action, outcome: Outcome, about: About) {
        self.audit.record(who.source().event(self.entropy.uuid(), self.now(), action, outcome, about));
    }

    /// Spawns `work` and waits for its outcome. A caller that goes away does not cancel it.
    async fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.state.spawned.spawn(work).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only a runtime that ends cancels it, and the caller with it.
            Err(_) => std::future::pending().await,
        }
    }

    fn unwritten(&self) -> MutexGuard<'_, HashMap<ConnectionId, Unwritten>> {
        // Nothing under the lock can leave it half-changed.
        self.state.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slow(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.state.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`retry_on_conflict`] for this store.
    ///
    /// # Errors
    /// Whatever `decide` fails with; [`ConnectionError::Conflict`] after the last attempt, or [`ConnectionError::Store`].
    async fn retry_on_conflict<T, F>(&self, decide: impl FnMut() -> F) -> Result<T, ConnectionError>
    where
        F: Future<Output = Result<Decision<T>, ConnectionError>>,
    {
        retry_on_conflict(|changes| self.store.commit(changes), decide).await
    }

    async fn find(&self, user: UserId, id: ConnectionId) -> Result<Connection, ConnectionError> {
        self.store.connection(user, id).await?.ok_or(ConnectionError::NotFound)
    }

    fn upkeep(&self, provider: &str) -> Upkeep {
        let settings = self.settings();
        Upkeep {
            keep_fresh: settings.keep_fresh,
            can_refresh: self.providers.get(provider).is_none_or(|info| info.can_refresh),
            refresh_ahead: settings.refresh_ahead,
            warn_ahead: settings.warn_ahead,
        }
    }

    fn chance(&self) -> u16 {
        let mut bytes = [0; 2];
        self.entropy.fill(&mut bytes);
        u16::from_ne_bytes(bytes)
    }

    fn schedule(&self, connection: &mut Connection) {
        connection.schedule(self.now(), self.upkeep(&connection.provider), self.chance());
    }
}

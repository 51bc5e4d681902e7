//! What the use cases about connections share: the ports they work with, what they are asked and what they
//! answer. The use cases are methods of [`Connections`], one file each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::domain::connection::{Connection, ConnectionId, FaultKind};
use crate::domain::opaque::ServerKey;
use crate::domain::route::Require;
use crate::domain::time::UnixTime;
use crate::ports::{
    Audit, Clock, CommitError, Devices, Entropy, Limiter, Providers, Store, StoreError, TooMany, Vault,
    VaultError, Webhook,
};

/// What an operator can set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the provider sends the browser back to.
    pub callback_url: String,
    /// Where a browser may be sent once a connection was made, word for word.
    pub return_to: Vec<String>,
    /// How long before its end an access token is replaced.
    pub refresh_ahead: Duration,
    /// Whether tokens are replaced ahead of their end though nobody asks for them.
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
    /// What a caller's own token must have to be given an access token; `None`: nobody is.
    pub token_access: Option<Require>,
}

/// The ports that the use cases work with.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub providers: Arc<dyn Providers>,
    pub vault: Arc<dyn Vault>,
    pub webhook: Arc<dyn Webhook>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub limiter: Arc<dyn Limiter>,
    pub audit: Arc<dyn Audit>,
    pub devices: Arc<dyn Devices>,
    pub key: Arc<ServerKey>,
    /// Told when a task was written down.
    pub tasks: Arc<Notify>,
    /// Told when a mail was put into the outbox.
    pub outbox: Arc<Notify>,
    /// Told when a connection is due earlier than before.
    pub due: Arc<Notify>,
    /// This run of the program: what another began was cut off.
    pub run: Uuid,
    /// Replaced as a whole by a reload.
    pub settings: arc_swap::ArcSwap<Settings>,
}

/// What a user asks for when connecting.
#[derive(Debug, Clone, Default)]
pub struct Begin {
    pub provider: String,
    /// `None`: what the configuration names.
    pub scopes: Option<Vec<String>>,
    /// One of [`Settings::return_to`].
    pub return_to: Option<String>,
    pub parameters: BTreeMap<String, String>,
    /// Renew this one, instead of the one that has the same provider and parameters, or a new one.
    pub connection: Option<ConnectionId>,
    /// Make a new one though there is one with the same provider and parameters.
    pub another: bool,
}

/// A connection that waits for consent, or that needed none.
#[derive(Debug)]
pub struct Begun {
    pub connection: Connection,
    /// Where the user gives consent; `None`: there is none to give, and the connection is active.
    pub authorization_url: Option<String>,
    /// For a cookie of the browser: whoever comes back must bring it.
    pub browser: Option<SecretString>,
}

/// What came back from the provider, in the query of the callback or in a form (`form_post`).
#[derive(Debug)]
pub struct Callback {
    pub state: String,
    /// The cookie of the browser, as far as there is one.
    pub browser: Option<SecretString>,
    /// Every parameter but `state`.
    pub parameters: Vec<(String, SecretString)>,
}

/// Where a browser goes from the callback.
#[derive(Debug)]
pub struct Returned {
    pub connection: ConnectionId,
    pub provider: String,
    /// As given with [`Begin::return_to`].
    pub return_to: Option<String>,
    /// `Err`: a stable word, such as `access_denied`, and words for the user.
    pub outcome: Result<(), (String, String)>,
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

/// Why something about a connection was not done.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("there is no provider {0:?} in service")]
    UnknownProvider(String),
    #[error("there is no such connection")]
    NotFound,
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
        match error {
            CommitError::Conflict | CommitError::EmailTaken => ConnectionError::Conflict,
            CommitError::Store(error) => ConnectionError::Store(error),
        }
    }
}

/// The use cases about connections.
#[derive(Clone)]
pub struct Connections(pub(super) Arc<Parts>);

impl std::ops::Deref for Connections {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Connections {
    #[must_use]
    pub fn new(parts: Parts) -> Connections {
        Connections(Arc::new(parts))
    }
}

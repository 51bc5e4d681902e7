//! What the use cases about connections share: the ports they work with, what they are asked and what they
//! answer. The use cases are methods of [`Connections`], one file each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::accounts::{Client, Person};
use crate::domain::account::UserId;
use crate::domain::connection::{Connection, ConnectionId, FaultKind};
use crate::domain::identity::Identity;
use crate::domain::opaque::ServerKey;
use crate::domain::route::Require;
use crate::domain::time::UnixTime;
use crate::ports::{
    Audit, Clock, CommitError, Entropy, Limiter, ProviderInfo, Providers, Store, StoreError, TooMany, Vault,
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
    pub key: Arc<ServerKey>,
    /// Our own: the callers who have accounts are those whose tokens are of this issuer.
    pub issuer: String,
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

/// What replaces a caller's own token on the way to an upstream.
#[derive(Debug, Clone)]
pub struct Injected {
    pub access_token: SecretString,
    /// `Bearer` as a rule.
    pub token_type: String,
    pub connection: ConnectionId,
}

/// What one step of sealing anew came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resealed {
    /// Where the next step begins; `None`: that was the last one.
    pub next: Option<(UserId, ConnectionId)>,
    /// How many connections were sealed with the present key.
    pub renewed: usize,
    /// How many are sealed with another and could not be opened.
    pub unreadable: usize,
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

    /// What can be connected, each with the scopes that are asked for.
    #[must_use]
    pub fn providers(&self) -> Vec<ProviderInfo> {
        unimplemented!()
    }

    /// Begins a connection, or the renewal of one.
    ///
    /// # Errors
    /// [`ConnectionError`]; then nothing was begun.
    pub async fn begin(
        &self,
        _client: &Client,
        _person: Person,
        _begin: Begin,
    ) -> Result<Begun, ConnectionError> {
        unimplemented!()
    }

    /// Takes what a browser brings back from a provider. What the provider or the user refused is in
    /// [`Returned::outcome`].
    ///
    /// # Errors
    /// [`ConnectionError::InvalidState`], [`ConnectionError::TooMany`], [`ConnectionError::Store`].
    pub async fn callback(&self, _client: &Client, _callback: Callback) -> Result<Returned, ConnectionError> {
        unimplemented!()
    }

    /// The caller's connections, oldest first, those that have ended among them.
    ///
    /// # Errors
    /// [`ConnectionError::Store`].
    pub async fn connections(&self, _person: Person) -> Result<Vec<Connection>, ConnectionError> {
        unimplemented!()
    }

    /// One of the caller's connections.
    ///
    /// # Errors
    /// [`ConnectionError::NotFound`] or [`ConnectionError::Store`].
    pub async fn connection(
        &self,
        _person: Person,
        _id: ConnectionId,
    ) -> Result<Connection, ConnectionError> {
        unimplemented!()
    }

    /// Refreshes now, however fresh the access token is.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn force_refresh(
        &self,
        _client: &Client,
        _person: Person,
        _id: ConnectionId,
    ) -> Result<Connection, ConnectionError> {
        unimplemented!()
    }

    /// A good access token of the caller's own connection, refreshed if it is about to end.
    ///
    /// # Errors
    /// [`ConnectionError::TokenAccess`] when the configuration does not allow it to this caller;
    /// [`ConnectionError`].
    pub async fn provider_token(
        &self,
        _client: &Client,
        _identity: &Identity,
        _id: ConnectionId,
    ) -> Result<ProviderToken, ConnectionError> {
        unimplemented!()
    }

    /// Takes tokens that the app already holds; the connection is active then. Returns it.
    ///
    /// # Errors
    /// [`ConnectionError`]; then nothing was changed.
    pub async fn import_tokens(
        &self,
        _client: &Client,
        _person: Person,
        _id: ConnectionId,
        _import: Import,
    ) -> Result<Connection, ConnectionError> {
        unimplemented!()
    }

    /// Ends a connection: the provider is told, the tokens are erased, the record is kept. Nothing to do when
    /// it has ended.
    ///
    /// # Errors
    /// [`ConnectionError::NotFound`] or [`ConnectionError::Store`]; then it goes on.
    pub async fn disconnect(
        &self,
        _client: &Client,
        _person: Person,
        _id: ConnectionId,
    ) -> Result<(), ConnectionError> {
        unimplemented!()
    }

    /// The access token that replaces the caller's own on the way up: of their active connection to
    /// `provider`, the one that was made last if there are several.
    ///
    /// # Errors
    /// [`ConnectionError::NotFound`] when they have none; [`ConnectionError`].
    pub async fn inject(&self, _identity: &Identity, _provider: &str) -> Result<Injected, ConnectionError> {
        unimplemented!()
    }

    /// The same, after an upstream has turned `rejected` away: refreshes, unless there is another token by
    /// now.
    ///
    /// # Errors
    /// As [`Connections::inject`].
    pub async fn inject_again(
        &self,
        _identity: &Identity,
        _provider: &str,
        _rejected: &SecretString,
    ) -> Result<Injected, ConnectionError> {
        unimplemented!()
    }

    /// At most `limit` connections of everybody, in the order of their users and ids, from behind `after`.
    ///
    /// # Errors
    /// [`ConnectionError::Store`].
    pub async fn all_connections(
        &self,
        _after: Option<(UserId, ConnectionId)>,
        _limit: usize,
    ) -> Result<Vec<Connection>, ConnectionError> {
        unimplemented!()
    }

    /// Every connection of an account, oldest first.
    ///
    /// # Errors
    /// [`ConnectionError::Store`].
    pub async fn user_connections(&self, _user: UserId) -> Result<Vec<Connection>, ConnectionError> {
        unimplemented!()
    }

    /// Refreshes now, as an operator.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn operator_refresh(
        &self,
        _request_id: &str,
        _user: UserId,
        _id: ConnectionId,
    ) -> Result<Connection, ConnectionError> {
        unimplemented!()
    }

    /// Ends a connection, as an operator.
    ///
    /// # Errors
    /// As [`Connections::disconnect`].
    pub async fn operator_disconnect(
        &self,
        _request_id: &str,
        _user: UserId,
        _id: ConnectionId,
    ) -> Result<(), ConnectionError> {
        unimplemented!()
    }

    /// Looks at the connections whose time has come, or the first of them when there are many. Returns
    /// whether there was any.
    ///
    /// # Errors
    /// [`StoreError`]; then the rest is still to do.
    pub async fn do_due_connections(&self) -> Result<bool, StoreError> {
        unimplemented!()
    }

    /// Does the errands that are due: telling the app, ending grants of accounts that are gone. Returns
    /// whether there was any.
    ///
    /// # Errors
    /// [`StoreError`]; then the rest is still to do.
    pub async fn do_due_errands(&self) -> Result<bool, StoreError> {
        unimplemented!()
    }

    /// Seals anew what is not sealed with the present key, a page from behind `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reseal_step(&self, _after: Option<(UserId, ConnectionId)>) -> Result<Resealed, StoreError> {
        unimplemented!()
    }

    /// Does all of the above whenever there is something to do, until `closing`; what is under way then
    /// comes to its end.
    pub async fn run(&self, _closing: CancellationToken) {
        unimplemented!()
    }
}

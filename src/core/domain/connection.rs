//! A user's connection to a provider: the grant, its state, and when the worker looks at it again.
//!
//! The tokens in it are sealed; nothing here can open them. A connection is refreshed from one place at a time
//! (single-flight). An attempt is committed before the provider is called ([`Connection::attempt`]): a crash between
//! the provider's answer and our write leaves the attempt open, and the next look finds out whether the refresh token
//! is still valid.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::account::UserId;
use super::name::is_unprintable;
use super::opaque::TokenHash;
use super::revocation::Versions;
use super::session::SessionId;
use super::time::UnixTime;
use super::trusted_time::NEAR;

/// How long a user has to give consent at the provider.
pub const CONSENT_LIFE: Duration = Duration::from_secs(600);
/// How many connections a user may have, those that have ended left out.
pub const MAX_CONNECTIONS: usize = 100;
/// The longest text of a failure that is kept, in bytes.
pub const MAX_REASON: usize = 500;

/// The id of a connection (UUID v7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(pub Uuid);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for ConnectionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<ConnectionId, uuid::Error> {
        text.parse().map(ConnectionId)
    }
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The user has not given consent yet.
    Pending,
    /// There are tokens.
    Active,
    /// The provider does not honour the grant any more: only the user can renew it.
    ReconnectNeeded,
    /// Ended by the user or an operator; the tokens are erased and the record is kept.
    Revoked,
}

impl Status {
    /// The word for it in the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Active => "active",
            Status::ReconnectNeeded => "reconnect_needed",
            Status::Revoked => "revoked",
        }
    }
}

/// The fields that are sealed, by the name that binds each envelope to its place.
pub mod field {
    pub const ACCESS_TOKEN: &str = "access_token";
    pub const REFRESH_TOKEN: &str = "refresh_token";
    pub const ID_TOKEN: &str = "id_token";
    /// What the plugin asked to be kept: one dictionary.
    pub const KEPT: &str = "kept";
    /// Parameters that are secrets, of the grant and of a consent that is being given: one dictionary.
    pub const PARAMETERS: &str = "parameters";
    pub const CONSENT_PARAMETERS: &str = "consent_parameters";
}

/// The tokens of a connection, each in an envelope of the vault's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedTokens {
    pub access_token: String,
    pub refresh_token: Option<String>,
    pub id_token: Option<String>,
    pub kept: Option<String>,
    /// As the provider named it; `Bearer` as a rule.
    pub token_type: Option<String>,
    /// Parameters that are secrets: one dictionary.
    #[serde(default)]
    pub parameters: Option<String>,
}

impl fmt::Debug for SealedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedTokens(…)")
    }
}

/// The account at the provider, as the provider names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The provider's identifier, never reassigned.
    pub subject: String,
    pub email: Option<String>,
    /// Whether the provider says that the address is this person's.
    pub email_verified: bool,
    pub name: Option<String>,
}

/// A user on the way to giving consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// State and code verifier are derived from it ([`super::opaque::ServerKey`]).
    pub id: Uuid,
    /// What is kept of the cookie of the browser that began it.
    pub browser: TokenHash,
    /// The session in which it was begun, if there was one: it ends with that.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// The token version of its user and the generation of all tokens when it was begun: what is revoked later ends
    /// it. Zero in records of earlier programs.
    #[serde(default)]
    pub begun: Versions,
    /// Where the browser goes afterwards: one of the configured URLs, word for word.
    pub return_to: Option<String>,
    /// The scopes that are asked for.
    pub scopes: Vec<String>,
    /// What the user gave for the parameters of the provider, secrets left out.
    pub parameters: BTreeMap<String, String>,
    /// The secrets among them, in an envelope of the vault's: one dictionary.
    #[serde(default)]
    pub secret_parameters: Option<String>,
    pub expires_at: UnixTime,
}

/// A refresh that was begun and has no outcome yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshAttempt {
    pub started_at: UnixTime,
    /// The run of the program that began it: one of an earlier run was cut off.
    pub run: Uuid,
}

/// What kind of failure it was, as the plugin or the host said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    InvalidGrant,
    Transient,
    Misconfigured,
    ProviderError,
    /// The plugin broke off: a trap, a time-out, too much memory.
    PluginFailed,
}

/// How the last call that failed did so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderFailure {
    pub at: UnixTime,
    pub kind: FaultKind,
    /// For operators and for the user; without a token.
    pub reason: String,
}

/// A connection, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    pub id: ConnectionId,
    pub user: UserId,
    /// The provider's name in the configuration.
    pub provider: String,
    pub status: Status,
    /// A consent that is being given, for the first time or again.
    pub consent: Option<Consent>,
    /// What the tokens were asked for with, and what was granted.
    pub scopes_asked: Vec<String>,
    pub scopes_granted: Vec<String>,
    /// What the user gave for the parameters of the provider, secrets left out.
    pub parameters: BTreeMap<String, String>,
    /// The account at the provider; `None` where the plugin cannot tell.
    pub account: Option<Account>,
    pub tokens: Option<SealedTokens>,
    /// When the access token expires; `None` when the provider did not say.
    pub expires_at: Option<UnixTime>,
    /// When the refresh token ends, where that is known.
    pub refresh_expires_at: Option<UnixTime>,
    pub created_at: UnixTime,
    /// When consent was last given.
    pub connected_at: Option<UnixTime>,
    /// When tokens last came.
    pub refreshed_at: Option<UnixTime>,
    pub attempt: Option<RefreshAttempt>,
    /// Refreshes that failed in a row.
    pub failures: u32,
    pub last_fault: Option<ProviderFailure>,
    /// Not tried before this moment, after a failure.
    pub retry_at: Option<UnixTime>,
    /// Its plugin has nothing to refresh these tokens by: they are left alone until they end.
    #[serde(default)]
    pub not_refreshable: bool,
    /// When the worker looks at it: ahead of an expiry, at a retry, or when a consent was not given.
    pub due_at: Option<UnixTime>,
    /// The end of a refresh token that was already warned of.
    pub warned_of: Option<UnixTime>,
    /// What was odd in the answer that brought the tokens and was dropped or cut, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// How many notices the app was due about it: the sequence number of the last one.
    #[serde(default)]
    pub notices: u64,
    /// Counts the writes of this record; the store refuses one that was made from an older state.
    pub revision: u64,
}

/// What a token request brought, sealed, and what is to be known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub tokens: SealedTokens,
    pub scopes: Vec<String>,
    pub expires_at: Option<UnixTime>,
    pub refresh_expires_at: Option<UnixTime>,
    /// See [`Connection::notes`].
    pub notes: Vec<String>,
}

/// Ends that differ by less are the same one: providers count whole seconds from their own moment.
const SAME_END: Duration = Duration::from_secs(60);

impl Connection {
    /// One that waits for its first consent.
    #[must_use]
    pub fn pending(id: ConnectionId, user: UserId, provider: String, now: UnixTime) -> Connection {
        Connection {
            id,
            user,
            provider,
            status: Status::Pending,
            consent: None,
            scopes_asked: Vec::new(),
            scopes_granted: Vec::new(),
            parameters: BTreeMap::new(),
            account: None,
            tokens: None,
            expires_at: None,
            refresh_expires_at: None,
            created_at: now,
            connected_at: None,
            refreshed_at: None,
            attempt: None,
            failures: 0,
            last_fault: None,
            retry_at: None,
            not_refreshable: false,
            due_at: None,
            warned_of: None,
            notes: Vec::new(),
            notices: 0,
            revision: 0,
        }
    }

    /// Whether the access token is still good at `now` for `margin` more.
    #[must_use]
    pub fn is_fresh(&self, now: UnixTime, margin: Duration) -> bool {
        self.expires_at.is_none_or(|end| now.plus(margin) < end)
    }

    /// Whether its tokens came, by a clock that was ahead, at a moment that is still to come: then they have long ended
    /// when they say that they do.
    #[must_use]
    pub fn is_from_the_future(&self, now: UnixTime) -> bool {
        self.refreshed_at.is_some_and(|at| at > now.plus(NEAR))
    }

    /// A new grant, by consent or because the app held one: whatever there was before is over.
    pub fn establish(&mut self, grant: Grant, now: UnixTime) {
        self.status = Status::Active;
        self.connected_at = Some(now);
        self.warned_of = None;
        self.take(grant, now);
    }

    /// Takes over the result of a refresh. A grant that each refresh prolongs does not expire while it is used, so
    /// its user gets no warning.
    pub fn renew(&mut self, grant: Grant, now: UnixTime) {
        let moved = |(before, end): (UnixTime, UnixTime)| end > before.plus(SAME_END);
        let ends = self.refresh_expires_at.zip(grant.refresh_expires_at);
        let warned = self.warned_of.is_some() && self.warned_of == self.refresh_expires_at;
        if warned || ends.is_some_and(moved) {
            self.warned_of = grant.refresh_expires_at;
        }
        self.take(grant, now);
    }

    fn take(&mut self, grant: Grant, now: UnixTime) {
        self.tokens = Some(grant.tokens);
        self.scopes_granted = grant.scopes;
        self.expires_at = grant.expires_at;
        self.refresh_expires_at = grant.refresh_expires_at;
        self.refreshed_at = Some(now);
        self.notes = grant.notes;
        self.settled();
        self.last_fault = None;
    }

    /// The tokens are worth nothing any more, or shall not be: they are erased.
    pub fn end(&mut self, status: Status) {
        self.status = status;
        self.tokens = None;
        self.expires_at = None;
        self.refresh_expires_at = None;
        self.warned_of = None;
        self.notes.clear();
        self.settled();
        if status == Status::Revoked {
            self.consent = None;
        }
    }

    /// These tokens cannot be refreshed, and nothing of them was used up in finding that out.
    pub fn leave_alone(&mut self) {
        self.settled();
        self.not_refreshable = true;
        self.last_fault = None;
    }

    fn settled(&mut self) {
        self.attempt = None;
        self.not_refreshable = false;
        self.failures = 0;
        self.retry_at = None;
    }
}

/// Words from elsewhere as they may be kept and shown: on one line, without control characters, and at most
/// `max` bytes long.
#[must_use]
pub fn clean(text: &str, max: usize) -> String {
    let line: String = text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect();
    let line = line.trim();
    line[..line.floor_char_boundary(max)].trim_end().to_owned()
}

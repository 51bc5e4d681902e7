//! The ports of connections to providers: the plugins, the vault that seals tokens, and the notifications.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::domain::account::UserId;
use crate::domain::connection::{Account, ConnectionId};
use crate::domain::time::UnixTime;

/// What is to be known of a provider before anything is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderInfo {
    /// Its name in the configuration.
    pub name: String,
    /// What people call it.
    pub display_name: String,
    /// What is asked for unless the user asks for less or more.
    pub scopes: Vec<String>,
    pub parameters: Vec<ParameterInfo>,
    pub docs: Option<String>,
    pub can_refresh: bool,
    pub can_revoke: bool,
    pub can_identify: bool,
}

/// What a user gives when connecting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterInfo {
    pub name: String,
    pub summary: String,
    /// A regular expression that the whole value must match.
    pub pattern: String,
    pub example: Option<String>,
    pub required: bool,
    /// Whether its value is sealed and never shown.
    pub secret: bool,
}

/// One connection, as its plugin may know it.
#[derive(Debug, Clone)]
pub struct ProviderCall {
    /// The provider's name.
    pub provider: String,
    pub parameters: BTreeMap<String, String>,
    /// Parameters with secret values.
    pub secret_parameters: BTreeMap<String, SecretString>,
    pub kept: BTreeMap<String, SecretString>,
    pub scopes: Vec<String>,
}

/// Proof Key for Code Exchange (RFC 7636).
#[derive(Debug, Clone)]
pub struct Pkce {
    pub verifier: SecretString,
    /// The challenge for `S256`.
    pub challenge: String,
}

/// Tokens in the clear, between the vault and a plugin.
#[derive(Debug, Clone)]
pub struct CurrentTokens {
    pub access_token: SecretString,
    pub refresh_token: Option<SecretString>,
    pub expires_at: Option<UnixTime>,
    pub id_token: Option<SecretString>,
}

/// What a provider granted.
#[derive(Debug, Clone)]
pub struct GrantedTokens {
    pub access_token: SecretString,
    pub token_type: Option<String>,
    pub expires_in: Option<Duration>,
    /// `None`: the present one stays good.
    pub refresh_token: Option<SecretString>,
    pub refresh_expires_in: Option<Duration>,
    /// `None`: as asked.
    pub scopes: Option<Vec<String>>,
    pub id_token: Option<SecretString>,
    /// What to keep: a name that is there already is replaced, one with an empty value forgotten.
    pub keep: BTreeMap<String, SecretString>,
    /// What was odd beside good tokens and was dropped or cut: a sentence each, without anything that came.
    pub notes: Vec<String>,
}

/// What the user is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// Open this URL.
    Visit(String),
    /// Nothing.
    Unattended,
}

/// Why a call to a provider brought nothing. The texts hold no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderFault {
    /// No such provider is configured, or its component could not be loaded.
    #[error("the provider {0} is not in service")]
    NotInService(String),
    /// The grant is gone: the user must connect again.
    #[error("the provider does not honour the grant any more: {0}")]
    InvalidGrant(String),
    /// There is nothing to refresh the access token by, and the provider was not asked: its grant stands.
    #[error("there is nothing to refresh the access token by: {0}")]
    NotRefreshable(String),
    /// Later.
    #[error("the provider cannot answer now: {reason}")]
    Transient { reason: String, retry_after: Option<Duration> },
    /// Nothing gets better until the operator acts.
    #[error("the provider is not configured right: {0}")]
    Misconfigured(String),
    /// The provider said no, or nothing that makes sense.
    #[error("the provider's answer cannot be used: {0}")]
    ProviderError(String),
    /// The plugin broke off: a trap, its time or its memory was up; or what it brought cannot be used.
    #[error("the plugin failed: {0}")]
    PluginFailed(String),
    /// What the user gave when connecting is not what the provider needs: `name` is missing, unknown, or
    /// does not match its pattern. `summary` is the plugin's own words for it, for the user.
    #[error("the parameter {name} is missing or not what it must be: {summary}")]
    InvalidParameter { name: String, summary: String },
}

/// The configured providers, each behind its plugin. Every call ends in bounded time, whatever the plugin
/// does.
#[async_trait]
pub trait Providers: Send + Sync {
    /// Every provider that is in service, by name.
    fn list(&self) -> Vec<ProviderInfo>;

    /// One of them.
    fn get(&self, provider: &str) -> Option<ProviderInfo>;

    /// Why it is not in service, or not with its newest component; for operators.
    fn fault(&self, provider: &str) -> Option<String>;

    /// Begins a connection; `state` must come back with the callback.
    ///
    /// # Errors
    /// [`ProviderFault`].
    async fn authorize(
        &self,
        call: ProviderCall,
        state: &SecretString,
        pkce: &Pkce,
    ) -> Result<Authorization, ProviderFault>;

    /// Completes a connection with what came back in the callback, `state` left out.
    ///
    /// # Errors
    /// [`ProviderFault`].
    async fn exchange(
        &self,
        call: ProviderCall,
        callback: Vec<(String, SecretString)>,
        pkce: &Pkce,
    ) -> Result<GrantedTokens, ProviderFault>;

    /// Brings a fresh access token.
    ///
    /// # Errors
    /// [`ProviderFault`]; only here is [`ProviderFault::NotRefreshable`] one.
    async fn refresh(
        &self,
        call: ProviderCall,
        current: CurrentTokens,
    ) -> Result<GrantedTokens, ProviderFault>;

    /// Ends the grant at the provider; nothing to do where the provider has no way.
    ///
    /// # Errors
    /// [`ProviderFault`].
    async fn revoke(&self, call: ProviderCall, current: CurrentTokens) -> Result<(), ProviderFault>;

    /// The account at the provider; `None` where the plugin cannot tell.
    ///
    /// # Errors
    /// [`ProviderFault`].
    async fn identity(
        &self,
        call: ProviderCall,
        current: CurrentTokens,
    ) -> Result<Option<Account>, ProviderFault>;
}

/// Where a sealed value belongs: an envelope opens in no other place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub user: UserId,
    pub connection: ConnectionId,
    /// One of [`crate::domain::connection::field`].
    pub field: &'a str,
}

/// Why an envelope cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Sealed with a key that is not configured any more.
    #[error("sealed with the key {0}, which is not among vault.keys")]
    UnknownKey(String),
    /// Not an envelope, damaged, or from another place.
    #[error("the sealed value is damaged or belongs elsewhere")]
    Damaged,
}

/// Seals what must not be read off a disk.
pub trait Vault: Send + Sync {
    /// The envelope of `secret`, sealed with the present key.
    fn seal(&self, place: Place<'_>, secret: &SecretString) -> String;

    /// Opens an envelope.
    ///
    /// # Errors
    /// [`VaultError`].
    fn open(&self, place: Place<'_>, envelope: &str) -> Result<SecretString, VaultError>;

    /// Whether it is sealed with the present key.
    fn is_current(&self, envelope: &str) -> bool;
}

/// Something that the app is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The same for every try to deliver it.
    pub id: uuid::Uuid,
    pub at: UnixTime,
    /// A JSON object.
    pub body: String,
    pub about: NoticeAbout,
}

/// What a notice is about: each has a receiver of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeAbout {
    Account,
    Connection,
}

/// Tells the app.
#[async_trait]
pub trait Webhook: Send + Sync {
    /// Delivers one notice, signed. `Ok` also where no webhook is configured.
    ///
    /// # Errors
    /// Why it was not taken, without a secret; worth trying again.
    async fn deliver(&self, notice: &Notice) -> Result<(), String>;
}

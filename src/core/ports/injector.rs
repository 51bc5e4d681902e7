//! Providers' tokens for requests on their way to an upstream.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::domain::identity::Identity;

/// Why there is no token to inject. The texts are for the log, and hold no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectFault {
    /// The caller is no account of ours, or has no connection to the provider that has tokens.
    #[error("the caller has no connection to the provider")]
    NotConnected,
    /// Only the user can renew the connection.
    #[error("the provider does not honour the connection any more")]
    ReconnectNeeded,
    /// Later.
    #[error("no token now: {reason}")]
    Unavailable { reason: String, retry_after: Option<Duration> },
    /// Nothing gets better until the operator acts.
    #[error("no token: {0}")]
    Failed(String),
}

/// Where the proxy gets the token that a route with `inject` sends upstream in place of the caller's own.
/// Every call ends in bounded time.
#[async_trait]
pub trait Injector: Send + Sync {
    /// An access token of `provider` that is good now, for the account that `identity` speaks for.
    ///
    /// # Errors
    /// [`InjectFault`].
    async fn token(&self, identity: &Identity, provider: &str) -> Result<SecretString, InjectFault>;

    /// A token in place of `rejected`, which the upstream did not take though it should be good. If another caller
    /// has had it replaced meanwhile, that replacement is returned: the provider is asked once for all callers
    /// (single-flight).
    ///
    /// # Errors
    /// [`InjectFault`].
    async fn again(
        &self,
        identity: &Identity,
        provider: &str,
        rejected: &SecretString,
    ) -> Result<SecretString, InjectFault>;
}

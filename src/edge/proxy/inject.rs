//! A provider's token in place of the caller's own, on routes with `inject`.
//!
//! The token is got before an upstream is chosen, each time one is, written into the request to the upstream and
//! into nothing else. When the upstream does not take it (401), it is replaced once, and the request is sent once more: a
//! 401 says that it was not acted on, so this holds for every method, as long as the whole of the body so far
//! is at hand. Otherwise the 401 is the answer, and the next request has the new token.

use http::HeaderValue;
use pingora::ErrorType;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::fields::{self, HeaderFields};
use super::served::ServedRoute;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{InjectFault, Injector};
use palisade_core::service::admit::Permit;

/// Says that an attempt was given up because there is a better token for the next one.
pub const RENEWED: ErrorType = ErrorType::new("ProviderTokenRenewed");
/// Says that an attempt was given up because there will be no good token.
pub const LOST: ErrorType = ErrorType::new("ProviderTokenLost");

/// Where tokens come from.
#[derive(Clone, Copy)]
pub struct TokenSource<'a> {
    pub injector: &'a dyn Injector,
    /// The path at which connections are begun.
    pub begin_at: &'a str,
    /// For the log.
    pub request_id: &'a str,
}

/// The token that goes upstream with one request.
pub struct InjectedToken {
    provider: String,
    token: SecretString,
    /// Whether it has replaced one that the upstream did not take.
    renewed: bool,
}

/// A provider's token that no header field can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a provider token that no header can hold")]
pub struct UnwritableToken;

/// What comes after an upstream's 401.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    /// The token has been replaced.
    Renewed,
    /// The connection is gone: this is the answer.
    Lost(Refusal),
    /// There is no other token: the 401 is the answer.
    Stands,
}

impl TokenSource<'_> {
    /// The token of `provider` for the caller.
    ///
    /// # Errors
    /// Why there is none. An anonymous caller has none.
    pub async fn obtain(
        self,
        permit: &Permit<ServedRoute>,
        provider: &str,
    ) -> Result<InjectedToken, Refusal> {
        let caller = permit.caller().ok_or(Refusal::NoToken)?;
        match self.injector.token(&caller.identity, provider).await {
            Ok(token) => Ok(InjectedToken { provider: provider.to_owned(), token, renewed: false }),
            Err(fault) => Err(self.refusal(provider, fault)),
        }
    }

    /// Looks for the token once more ahead of a further attempt: while the one before got nowhere, the connection may
    /// have ended.
    ///
    /// # Errors
    /// Why there is none any more.
    pub async fn look_again(
        self,
        permit: &Permit<ServedRoute>,
        injected: &mut InjectedToken,
    ) -> Result<(), Refusal> {
        injected.token = self.obtain(permit, &injected.provider).await?.token;
        Ok(())
    }

    /// Replaces a token that the upstream did not take, unless it is a replacement itself.
    pub async fn renew(self, permit: &Permit<ServedRoute>, injected: &mut InjectedToken) -> After {
        let Some(caller) = permit.caller().filter(|_| !injected.renewed) else { return After::Stands };
        injected.renewed = true;
        match self.injector.again(&caller.identity, &injected.provider, &injected.token).await {
            Ok(token) if token.expose_secret() == injected.token.expose_secret() => After::Stands,
            Ok(token) => {
                injected.token = token;
                After::Renewed
            }
            Err(fault @ (InjectFault::NotConnected | InjectFault::ReconnectNeeded)) => {
                After::Lost(self.refusal(&injected.provider, fault))
            }
            Err(fault @ (InjectFault::Unavailable { .. } | InjectFault::Failed(_))) => {
                let (request_id, provider) = (self.request_id, &injected.provider);
                tracing::warn!(request_id, provider, reason = %fault, "an upstream's 401 stands");
                After::Stands
            }
        }
    }

    /// What the caller is told. The rest is for the log.
    fn refusal(self, provider: &str, fault: InjectFault) -> Refusal {
        let (request_id, reason, provider) = (self.request_id, fault.to_string(), provider.to_owned());
        let begin_at = self.begin_at.to_owned();
        match fault {
            InjectFault::NotConnected => Refusal::NotConnected { provider, begin_at },
            InjectFault::ReconnectNeeded => Refusal::ReconnectNeeded { provider, begin_at },
            InjectFault::Unavailable { retry_after, .. } => {
                tracing::warn!(request_id, provider, reason, "there is no provider token for a request");
                Refusal::ProviderUnavailable { provider, retry_after }
            }
            InjectFault::Failed(_) => {
                tracing::error!(request_id, provider, reason, "there is no provider token for a request");
                Refusal::ProviderFailed { provider }
            }
        }
    }
}

impl InjectedToken {
    /// Writes `Authorization` (RFC 6750 §2.1); whatever was there is gone.
    ///
    /// # Errors
    /// The token cannot stand in a field. It is not quoted.
    pub fn write(&self, fields: &mut impl HeaderFields) -> Result<(), UnwritableToken> {
        let value = Zeroizing::new(format!("Bearer {}", self.token.expose_secret()));
        let mut value = HeaderValue::from_str(&value).map_err(|_| UnwritableToken)?;
        // Never printed, and never put into a table of compressed fields (RFC 7541 §7.1.3).
        value.set_sensitive(true);
        fields.put(&fields::AUTHORIZATION, value);
        Ok(())
    }
}

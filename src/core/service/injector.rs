//! The tokens that routes with `inject` send upstream, as the proxy asks for them.

use async_trait::async_trait;
use secrecy::SecretString;

use super::connections::{ConnectionError, Connections, Injected};
use crate::domain::connection::FaultKind;
use crate::domain::identity::Identity;
use crate::ports::{InjectFault, Injector, StoreError};

#[async_trait]
impl Injector for Connections {
    async fn token(&self, identity: &Identity, provider: &str) -> Result<SecretString, InjectFault> {
        token(self.inject(identity, provider).await)
    }

    async fn again(
        &self,
        identity: &Identity,
        provider: &str,
        rejected: &SecretString,
    ) -> Result<SecretString, InjectFault> {
        token(self.inject_again(identity, provider, rejected).await)
    }
}

fn token(injected: Result<Injected, ConnectionError>) -> Result<SecretString, InjectFault> {
    injected.map(|injected| injected.access_token).map_err(|error| fault(&error))
}

fn fault(error: &ConnectionError) -> InjectFault {
    let reason = error.to_string();
    match error {
        ConnectionError::NotFound
        | ConnectionError::NoAccount
        | ConnectionError::Pending
        | ConnectionError::Revoked => InjectFault::NotConnected,
        ConnectionError::ReconnectNeeded
        | ConnectionError::Provider { kind: FaultKind::InvalidGrant, .. } => InjectFault::ReconnectNeeded,
        ConnectionError::Provider { kind: FaultKind::Transient, retry_after, .. } => {
            InjectFault::Unavailable { reason, retry_after: *retry_after }
        }
        ConnectionError::TooMany(many) => {
            InjectFault::Unavailable { reason, retry_after: Some(many.retry_after) }
        }
        ConnectionError::Conflict
        | ConnectionError::Store(
            StoreError::Unavailable(_)
            | StoreError::Closed(_)
            | StoreError::OlderReplica(_)
            | StoreError::EndsNotKept(_),
        ) => InjectFault::Unavailable { reason, retry_after: None },
        ConnectionError::Provider {
            kind: FaultKind::Misconfigured | FaultKind::ProviderError | FaultKind::PluginFailed,
            ..
        }
        | ConnectionError::UnknownProvider(_)
        | ConnectionError::Invalid(_)
        | ConnectionError::InvalidState
        | ConnectionError::NotRefreshable
        | ConnectionError::TokenAccess
        | ConnectionError::TooManyConnections
        | ConnectionError::Vault(_)
        | ConnectionError::Store(StoreError::Unreadable(_) | StoreError::Newer(_)) => {
            InjectFault::Failed(reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_passes_and_what_does_not_are_told_apart() {
        let of =
            |kind, wait| fault(&ConnectionError::Provider { kind, reason: "why".into(), retry_after: wait });
        let wait = Some(Duration::from_secs(9));
        assert_eq!(fault(&ConnectionError::NotFound), InjectFault::NotConnected);
        assert_eq!(fault(&ConnectionError::Pending), InjectFault::NotConnected);
        assert_eq!(of(FaultKind::InvalidGrant, None), InjectFault::ReconnectNeeded);
        let later = of(FaultKind::Transient, wait);
        assert!(matches!(later, InjectFault::Unavailable { retry_after, .. } if retry_after == wait));
        assert!(matches!(of(FaultKind::Misconfigured, wait), InjectFault::Failed(_)));
        let full = fault(&StoreError::Unavailable("full".into()).into());
        assert!(matches!(full, InjectFault::Unavailable { .. }));
    }
}

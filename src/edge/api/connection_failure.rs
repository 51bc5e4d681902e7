//! What a caller is told when something about a connection is not done: one exhaustive match. The codes are
//! stable, and every one is in the description of the API ([`told`]).

use std::time::Duration;

use serde_json::json;

use super::account_failure::{account, log_store, store};
use super::failure::Failure;
use palisade_core::domain::connection::FaultKind;
use palisade_core::ports::VaultError;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::connections::ConnectionError;

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Failure {
        match &error {
            ConnectionError::Store(error) => log_store(error),
            ConnectionError::Vault(error) => {
                tracing::error!(%error, "the tokens of a connection stay sealed")
            }
            _ => {}
        }
        connection(&error)
    }
}

/// The word for a kind of failure in the API.
pub(super) fn word(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::InvalidGrant => "invalid_grant",
        FaultKind::Transient => "transient",
        FaultKind::Misconfigured => "misconfigured",
        FaultKind::ProviderError => "provider_error",
        FaultKind::PluginFailed => "plugin_failed",
    }
}

pub(super) fn connection(error: &ConnectionError) -> Failure {
    let said = error.to_string();
    match error {
        ConnectionError::UnknownProvider(_) => Failure::new(422, "unknown_provider", said),
        ConnectionError::NotFound => account(&AccountError::NotFound("connection")),
        ConnectionError::Invalid(why) => account(&AccountError::Invalid(why.clone())),
        ConnectionError::InvalidState => Failure::new(400, "invalid_state", said),
        ConnectionError::Pending => Failure::new(409, "connection_pending", said),
        ConnectionError::ReconnectNeeded
        | ConnectionError::Provider { kind: FaultKind::InvalidGrant, .. } => {
            Failure::new(409, "reconnect_needed", said)
        }
        ConnectionError::Revoked => Failure::new(409, "connection_revoked", said),
        ConnectionError::NotRefreshable => Failure::new(409, "not_refreshable", said),
        ConnectionError::TokenAccess => Failure::new(403, "token_access_denied", said),
        ConnectionError::Provider { kind: FaultKind::Transient, retry_after, .. } => {
            let failure = Failure::new(503, "provider_unavailable", said);
            match retry_after {
                Some(wait) => failure.after(*wait),
                None => failure,
            }
        }
        ConnectionError::Provider {
            kind: kind @ (FaultKind::Misconfigured | FaultKind::ProviderError | FaultKind::PluginFailed),
            ..
        } => Failure::new(502, "provider_failed", said).with("kind", json!(word(*kind))),
        ConnectionError::TooManyConnections => Failure::new(409, "too_many_connections", said),
        ConnectionError::NoAccount => account(&AccountError::NoAccount),
        ConnectionError::Conflict => account(&AccountError::Conflict),
        ConnectionError::TooMany(many) => account(&AccountError::TooMany(*many)),
        ConnectionError::Vault(_) => {
            let cure = "the tokens of this connection cannot be opened: an operator finds out why in the log, and \
                        connecting again helps as well";
            Failure::new(500, "tokens_unreadable", cure)
        }
        ConnectionError::Store(error) => store(error),
    }
}

/// Every failure that only endpoints about connections can answer with, one for each code as it is really
/// sent, and when that is.
pub(super) fn documented_failures() -> Vec<(Failure, &'static str)> {
    let provider = |kind, reason: &str| ConnectionError::Provider {
        kind,
        reason: reason.to_owned(),
        retry_after: Some(Duration::from_secs(30)),
    };
    [
        (ConnectionError::UnknownProvider("shop".into()), "No provider of this name is in service."),
        (ConnectionError::Pending, "The connection waits for consent: there is no token yet."),
        (
            ConnectionError::ReconnectNeeded,
            "The provider does not honour the grant any more; only the user can renew it.",
        ),
        (ConnectionError::Revoked, "The connection was ended."),
        (
            ConnectionError::NotRefreshable,
            "The provider gave nothing to refresh the tokens by. They are used until they end.",
        ),
        (ConnectionError::TokenAccess, "`token_access` of the provider does not allow it to this caller."),
        (
            provider(FaultKind::Transient, "the token endpoint answers 503"),
            "The provider cannot answer now; come back after `Retry-After` seconds.",
        ),
        (
            provider(FaultKind::ProviderError, "the answer holds no access token"),
            "The provider said no, or nothing that makes sense; `kind` says whether an operator must act.",
        ),
        (ConnectionError::TooManyConnections, "The account has as many connections as it may have."),
        (ConnectionError::Vault(VaultError::Damaged), "The tokens were sealed with a key that is gone."),
    ]
    .into_iter()
    .map(|(error, when)| (connection(&error), when))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::ports::{StoreError, TooMany};
    use serde_json::Value;

    /// One error after the other. A new one does not compile until it has its place here.
    fn after(error: Option<&ConnectionError>) -> Option<ConnectionError> {
        let failed = |kind| ConnectionError::Provider { kind, reason: "why".into(), retry_after: None };
        Some(match error {
            None => ConnectionError::UnknownProvider("x".into()),
            Some(ConnectionError::UnknownProvider(_)) => ConnectionError::NotFound,
            Some(ConnectionError::NotFound) => ConnectionError::Invalid("x".into()),
            Some(ConnectionError::Invalid(_)) => ConnectionError::Pending,
            Some(ConnectionError::Pending) => ConnectionError::ReconnectNeeded,
            Some(ConnectionError::ReconnectNeeded) => ConnectionError::Revoked,
            Some(ConnectionError::Revoked) => ConnectionError::NotRefreshable,
            Some(ConnectionError::NotRefreshable) => ConnectionError::TokenAccess,
            Some(ConnectionError::TokenAccess) => failed(FaultKind::InvalidGrant),
            Some(ConnectionError::Provider { kind: FaultKind::InvalidGrant, .. }) => {
                failed(FaultKind::Transient)
            }
            Some(ConnectionError::Provider { kind: FaultKind::Transient, .. }) => {
                failed(FaultKind::Misconfigured)
            }
            Some(ConnectionError::Provider { kind: FaultKind::Misconfigured, .. }) => {
                failed(FaultKind::ProviderError)
            }
            Some(ConnectionError::Provider { kind: FaultKind::ProviderError, .. }) => {
                failed(FaultKind::PluginFailed)
            }
            Some(ConnectionError::Provider { kind: FaultKind::PluginFailed, .. }) => {
                ConnectionError::TooManyConnections
            }
            Some(ConnectionError::TooManyConnections) => ConnectionError::NoAccount,
            Some(ConnectionError::NoAccount) => ConnectionError::Conflict,
            Some(ConnectionError::Conflict) => TooMany { retry_after: Duration::ZERO }.into(),
            Some(ConnectionError::TooMany(_)) => VaultError::UnknownKey("inside".into()).into(),
            Some(ConnectionError::Vault(_)) => StoreError::Unavailable("inside".into()).into(),
            Some(ConnectionError::Store(StoreError::Unavailable(_))) => {
                StoreError::Closed("inside".into()).into()
            }
            Some(ConnectionError::Store(StoreError::Closed(_))) => {
                StoreError::Unreadable("inside".into()).into()
            }
            // Told on a page only.
            Some(ConnectionError::Store(StoreError::Unreadable(_))) => {
                StoreError::Newer("inside".into()).into()
            }
            Some(ConnectionError::Store(
                StoreError::Newer(_) | StoreError::OlderReplica(_) | StoreError::EndsNotKept(_),
            )) => ConnectionError::InvalidState,
            Some(ConnectionError::InvalidState) => return None,
        })
    }

    #[test]
    fn every_error_is_told_in_a_listed_code_and_none_from_inside() {
        let listed: Vec<Value> = super::super::openapi::documented_failures()
            .iter()
            .map(|(failure, _)| failure.document()["code"].clone())
            .collect();
        let (mut error, mut count) = (after(None), 0);
        while let Some(this) = error {
            let document = connection(&this).document();
            let place = listed.iter().filter(|code| **code == document["code"]).count();
            let on_a_page = matches!(this, ConnectionError::InvalidState);
            assert_eq!(place, usize::from(!on_a_page), "{document}");
            assert!(!document.to_string().contains("inside"), "{document}");
            count += 1;
            error = after(Some(&this));
        }
        assert_eq!(count, 23);
    }
}

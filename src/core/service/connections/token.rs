//! Handing out access tokens: to callers that the configuration names, and to upstreams in a caller's stead.

use std::time::Duration;

use secrecy::SecretString;

use super::refresh::{Want, waiting};
use super::{ConnectionError, Connections, Injected, ProviderToken, standing};
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{Connection, ConnectionId, Status};
use crate::domain::identity::Identity;
use crate::service::caller::{Client, OwnedSource, Person};
use crate::service::noted::About;

/// How long a caller waits for a fresher token than the good one there is.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// RFC 6750.
const BEARER: &str = "Bearer";

impl Connections {
    /// A good access token of the caller's own connection, refreshed if it is about to end.
    ///
    /// # Errors
    /// [`ConnectionError::TokenAccess`] when the configuration does not allow it to this caller;
    /// [`ConnectionError`].
    pub async fn provider_token(
        &self,
        client: &Client,
        identity: &Identity,
        id: ConnectionId,
    ) -> Result<ProviderToken, ConnectionError> {
        let user = self.person(identity)?.user;
        let connection = self.find(user, id).await?;
        let settings = self.settings();
        let access = settings.providers.get(&connection.provider).and_then(|own| own.token_access.as_ref());
        let (who, about) = (OwnedSource::Client(client.clone()), About::connection(user, id));
        if access.is_none_or(|require| require.check(identity).is_err()) {
            self.note(&who, Action::ReadProviderToken, Outcome::Denied, about.because("token_access"));
            return Err(ConnectionError::TokenAccess);
        }
        let good = self.good(connection).await;
        let opened = good.and_then(|connection| Ok((self.open_access(&connection)?, connection)));
        let (access_token, connection) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let about = about.because(error.to_string());
                self.note(&who, Action::ReadProviderToken, Outcome::Failed, about);
                return Err(error);
            }
        };
        self.note(&who, Action::ReadProviderToken, Outcome::Success, about);
        Ok(ProviderToken {
            access_token,
            token_type: token_type(&connection),
            expires_at: connection.expires_at,
            scopes: connection.scopes_granted,
        })
    }

    /// The access token that replaces the caller's own on the way up: of their active connection to
    /// `provider`, the one that was made last if there are several.
    ///
    /// # Errors
    /// [`ConnectionError::NotFound`] when they have none; [`ConnectionError`].
    pub async fn inject(&self, identity: &Identity, provider: &str) -> Result<Injected, ConnectionError> {
        let connection = self.of_provider(identity, provider).await?;
        self.injected(&self.good(connection).await?)
    }

    /// The same, after an upstream has turned `rejected` away: refreshes, unless there is another token by
    /// now.
    ///
    /// # Errors
    /// As [`Connections::inject`].
    pub async fn inject_again(
        &self,
        identity: &Identity,
        provider: &str,
        rejected: &SecretString,
    ) -> Result<Injected, ConnectionError> {
        let connection = self.of_provider(identity, provider).await?;
        standing(&connection)?;
        let want = Want::Instead(rejected.clone());
        self.injected(&self.refresh(connection.user, connection.id, want).await?)
    }

    fn injected(&self, connection: &Connection) -> Result<Injected, ConnectionError> {
        let access_token = self.open_access(connection)?;
        Ok(Injected { access_token, token_type: token_type(connection), connection: connection.id })
    }

    fn person(&self, identity: &Identity) -> Result<Person, ConnectionError> {
        Person::of(identity, &self.issuer).ok_or(ConnectionError::NoAccount)
    }

    async fn of_provider(&self, identity: &Identity, provider: &str) -> Result<Connection, ConnectionError> {
        let mine = self.store.connections(self.person(identity)?.user).await?;
        let of_provider = mine.into_iter().filter(|one| one.provider == provider);
        let rank = |one: &Connection| match one.status {
            Status::Active => 3,
            Status::ReconnectNeeded => 2,
            Status::Pending => 1,
            Status::Revoked => 0,
        };
        of_provider.max_by_key(|one| (rank(one), one.connected_at, one.id)).ok_or(ConnectionError::NotFound)
    }

    /// The connection with an access token that is good for a while, refreshed if need be; where that fails,
    /// with the one there is, as long as it is good at all.
    async fn good(&self, connection: Connection) -> Result<Connection, ConnectionError> {
        standing(&connection)?;
        // The provider has replaced it, and has perhaps ended it with that.
        if self.unwritten().contains_key(&connection.id) {
            return self.refresh(connection.user, connection.id, Want::Fresh).await;
        }
        let now = self.now();
        let ahead = connection.ahead(self.settings().refresh_ahead);
        if connection.is_fresh(now, ahead) && !connection.is_from_the_future(now) {
            return Ok(connection);
        }
        let is_good = connection.is_fresh(now, Duration::ZERO);
        if let Some(at) = connection.waits_until(now) {
            return if is_good { Ok(connection) } else { Err(waiting(&connection, now.until(at))) };
        }
        let refreshing = self.refresh(connection.user, connection.id, Want::Fresh);
        if !is_good {
            return refreshing.await;
        }
        match tokio::time::timeout(self.state.waits.patience, refreshing).await {
            Ok(Err(
                ConnectionError::Provider { .. }
                | ConnectionError::NotRefreshable
                | ConnectionError::Vault(_),
            ))
            | Err(_) => {}
            // The provider was not asked.
            Ok(Err(ConnectionError::Store(_))) if !self.unwritten().contains_key(&connection.id) => {}
            Ok(outcome) => return outcome,
        }
        if self.unwritten().contains_key(&connection.id) {
            return self.refresh(connection.user, connection.id, Want::Fresh).await;
        }
        // The call took time, and the connection may have been ended meanwhile.
        let connection = self.find(connection.user, connection.id).await?;
        standing(&connection)?;
        Ok(connection)
    }
}

fn token_type(connection: &Connection) -> String {
    let named = connection.tokens.as_ref().and_then(|tokens| tokens.token_type.clone());
    named.unwrap_or_else(|| BEARER.to_owned())
}

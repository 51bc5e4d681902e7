//! What there is: providers, and connections to them. Nothing here opens a token.

use super::{ConnectionError, Connections};
use crate::domain::account::UserId;
use crate::domain::connection::{Connection, ConnectionId};
use crate::ports::ProviderInfo;
use crate::service::accounts::Person;
use crate::service::users::MAX_LISTED;

impl Connections {
    /// What can be connected, each with the scopes that are asked for.
    #[must_use]
    pub fn providers(&self) -> Vec<ProviderInfo> {
        let settings = self.settings.load();
        let mut providers = self.providers.list();
        for info in &mut providers {
            let own = settings.providers.get(&info.name).map(|own| &own.scopes);
            if let Some(scopes) = own.filter(|scopes| !scopes.is_empty()) {
                info.scopes.clone_from(scopes);
            }
        }
        providers
    }

    /// The caller's connections, oldest first, those that have ended among them.
    ///
    /// # Errors
    /// [`ConnectionError::Store`].
    pub async fn connections(&self, person: Person) -> Result<Vec<Connection>, ConnectionError> {
        Ok(self.store.connections(person.user).await?)
    }

    /// One of the caller's connections.
    ///
    /// # Errors
    /// [`ConnectionError::NotFound`] or [`ConnectionError::Store`].
    pub async fn connection(&self, person: Person, id: ConnectionId) -> Result<Connection, ConnectionError> {
        self.find(person.user, id).await
    }

    /// At most `limit` connections of everybody, in the order of their users and ids, from behind `after`.
    ///
    /// # Errors
    /// [`ConnectionError::Store`].
    pub async fn all_connections(
        &self,
        after: Option<(UserId, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Connection>, ConnectionError> {
        Ok(self.store.all_connections(after, limit.min(MAX_LISTED)).await?)
    }

    /// Every connection of an account, oldest first.
    ///
    /// # Errors
    /// [`ConnectionError::Store`].
    pub async fn user_connections(&self, user: UserId) -> Result<Vec<Connection>, ConnectionError> {
        Ok(self.store.connections(user).await?)
    }
}

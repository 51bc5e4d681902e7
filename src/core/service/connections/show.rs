//! What there is: providers, and connections to them. Nothing here opens a token.

use super::{ConnectionError, Connections};
use crate::domain::account::UserId;
use crate::domain::connection::{Connection, ConnectionId};
use crate::ports::ProviderInfo;
use crate::service::caller::Person;
use crate::service::users::MAX_LISTED;

/// A provider of the configuration.
#[derive(Debug, Clone)]
pub struct ConfiguredProvider {
    pub name: String,
    /// `None`: it is not in service.
    pub info: Option<ProviderInfo>,
    /// What is wrong with it, if anything.
    pub fault: Option<String>,
}

impl Connections {
    /// What can be connected, each with the scopes that are asked for.
    #[must_use]
    pub fn providers(&self) -> Vec<ProviderInfo> {
        let settings = self.settings();
        let mut providers = self.providers.list();
        for info in &mut providers {
            let own = settings.providers.get(&info.name).map(|own| &own.scopes);
            if let Some(scopes) = own.filter(|scopes| !scopes.is_empty()) {
                info.scopes.clone_from(scopes);
            }
        }
        providers
    }

    /// Every provider of the configuration by its name, in service or not.
    #[must_use]
    pub fn configured_providers(&self) -> Vec<ConfiguredProvider> {
        let mut serving = self.providers();
        let settings = self.settings();
        let names = settings.providers.keys();
        names
            .map(|name| {
                let info =
                    serving.iter().position(|info| info.name == *name).map(|at| serving.swap_remove(at));
                ConfiguredProvider { name: name.clone(), info, fault: self.providers.fault(name) }
            })
            .collect()
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

    /// At most `limit` connections of all users, in the order of their users and ids, from behind `after`.
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

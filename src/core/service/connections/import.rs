//! Taking over tokens that the app already holds.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};

use super::seal::{MAX_KEPT, Parameters};
use super::{ConnectionError, Connections, Import};
use crate::domain::account::{SCOPES_WANTED, are_scopes};
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{Connection, ConnectionId, Status};
use crate::ports::{GrantedTokens, Limited};
use crate::service::caller::{Client, OwnedSource, Person};
use crate::service::noted::About;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// The longest value that is kept for a plugin, in bytes (`tokens.keep` of `wit/provider.wit`).
const MAX_KEPT_VALUE: usize = 4096;
const MAX_KEPT_NAME: usize = 100;

impl Connections {
    /// Takes tokens that the app already holds; the connection is active then. Returns it.
    ///
    /// # Errors
    /// [`ConnectionError`]; then nothing was changed.
    pub async fn import_tokens(
        &self,
        client: &Client,
        person: Person,
        id: ConnectionId,
        import: Import,
    ) -> Result<Connection, ConnectionError> {
        check(&import)?;
        self.limiter.attempt(Limited::Import, client.address, Some(&person.user.to_string()))?;
        let connection = self.find(person.user, id).await?;
        if connection.status == Status::Revoked {
            return Err(ConnectionError::Revoked);
        }
        if self.providers.get(&connection.provider).is_none() {
            return Err(ConnectionError::UnknownProvider(connection.provider));
        }
        let granted = GrantedTokens {
            access_token: import.access_token,
            token_type: None,
            expires_in: import.expires_in,
            refresh_token: import.refresh_token,
            refresh_expires_in: import.refresh_expires_in,
            scopes: import.scopes,
            id_token: None,
            keep: import.kept,
            notes: Vec::new(),
        };
        let (this, who) = (self.clone(), OwnedSource::Client(client.clone()));
        self.spawn(async move {
            let scopes = connection.scopes_asked.clone();
            let outcome = match this.parameters_for_import(&connection) {
                Ok(parameters) => {
                    this.establish(&connection, granted, &scopes, &parameters, this.now()).await
                }
                Err(error) => Err(error),
            };
            let about = About::connection(connection.user, connection.id);
            match &outcome {
                Ok(_) => this.note(&who, Action::ImportTokens, Outcome::Success, about),
                Err(error) => {
                    this.note(&who, Action::ImportTokens, Outcome::Failed, about.because(error.to_string()));
                }
            }
            outcome
        })
        .await
    }
}

impl Connections {
    /// Those of the grant there is; before there is one, those of the consent that was begun.
    fn parameters_for_import(&self, connection: &Connection) -> Result<Parameters, ConnectionError> {
        let secret = match &connection.consent {
            Some(consent) if connection.tokens.is_none() => self.parameters_of(connection, consent)?.secret,
            _ => self.open_parameters(connection)?,
        };
        Ok(Parameters { open: connection.parameters.clone(), secret })
    }
}

fn check(import: &Import) -> Result<(), ConnectionError> {
    let invalid = |why: &str| Err(ConnectionError::Invalid(why.to_owned()));
    // Tokens go into header lines.
    let is_token = |token: &SecretString| {
        let token = token.expose_secret();
        !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !is_token(&import.access_token) || !import.refresh_token.as_ref().is_none_or(is_token) {
        return invalid("tokens must be printable ASCII without spaces, and of at most 16384 bytes");
    }
    if !import.scopes.as_ref().is_none_or(|scopes| are_scopes(scopes)) {
        return invalid(SCOPES_WANTED);
    }
    if !is_kept(&import.kept) {
        return invalid(
            "`kept` must have at most 64 entries, with names of 1 to 100 bytes and values of at most 4096",
        );
    }
    Ok(())
}

fn is_kept(kept: &BTreeMap<String, SecretString>) -> bool {
    let is_entry = |(name, value): (&String, &SecretString)| {
        (1..=MAX_KEPT_NAME).contains(&name.len()) && value.expose_secret().len() <= MAX_KEPT_VALUE
    };
    kept.len() <= MAX_KEPT && kept.iter().all(is_entry)
}

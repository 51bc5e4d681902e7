//! Sealing and opening the tokens of connections: each field has an envelope of its own, bound to its place.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{ConnectionError, Connections};
use crate::domain::connection::{Connection, Consent, Grant, SealedTokens, field};
use crate::domain::time::UnixTime;
use crate::ports::{CurrentTokens, GrantedTokens, Place, ProviderCall, VaultError};

/// How much may be kept for a plugin.
pub(super) const MAX_KEPT: usize = 64;

/// Tokens in the clear, as short as can be.
pub(super) struct Opened {
    pub(super) current: CurrentTokens,
    pub(super) kept: BTreeMap<String, SecretString>,
    /// The secret ones.
    pub(super) parameters: BTreeMap<String, SecretString>,
}

/// What a user gave for the parameters of a provider.
#[derive(Clone, Default)]
pub(super) struct Parameters {
    pub(super) open: BTreeMap<String, String>,
    pub(super) secret: BTreeMap<String, SecretString>,
}

impl Connections {
    /// The tokens of a connection; those of one that has none are [`ConnectionError::ReconnectNeeded`].
    pub(super) fn open(&self, connection: &Connection) -> Result<Opened, ConnectionError> {
        let tokens = connection.tokens.as_ref().ok_or(ConnectionError::ReconnectNeeded)?;
        let open = |field, envelope: &String| self.vault.open(place(connection, field), envelope);
        let open_any = |field, envelope: &Option<String>| {
            envelope.as_ref().map(|envelope| open(field, envelope)).transpose()
        };
        let kept = open_any(field::KEPT, &tokens.kept)?;
        let parameters = open_any(field::PARAMETERS, &tokens.parameters)?;
        Ok(Opened {
            current: CurrentTokens {
                access_token: open(field::ACCESS_TOKEN, &tokens.access_token)?,
                refresh_token: open_any(field::REFRESH_TOKEN, &tokens.refresh_token)?,
                expires_at: connection.expires_at,
                id_token: open_any(field::ID_TOKEN, &tokens.id_token)?,
            },
            kept: kept.map_or(Ok(BTreeMap::new()), |kept| read(&kept))?,
            parameters: parameters.map_or(Ok(BTreeMap::new()), |parameters| read(&parameters))?,
        })
    }

    /// The access token alone.
    pub(super) fn open_access(&self, connection: &Connection) -> Result<SecretString, ConnectionError> {
        let tokens = connection.tokens.as_ref().ok_or(ConnectionError::ReconnectNeeded)?;
        Ok(self.vault.open(place(connection, field::ACCESS_TOKEN), &tokens.access_token)?)
    }

    /// The secret parameters of the grant there is.
    pub(super) fn open_parameters(
        &self,
        connection: &Connection,
    ) -> Result<BTreeMap<String, SecretString>, ConnectionError> {
        let envelope = connection.tokens.as_ref().and_then(|tokens| tokens.parameters.as_ref());
        let Some(envelope) = envelope else { return Ok(BTreeMap::new()) };
        Ok(read(&self.vault.open(place(connection, field::PARAMETERS), envelope)?)?)
    }

    /// The same of a consent that is being given.
    pub(super) fn parameters_of(
        &self,
        connection: &Connection,
        consent: &Consent,
    ) -> Result<Parameters, ConnectionError> {
        let secret = match &consent.secret_parameters {
            Some(envelope) => {
                read(&self.vault.open(place(connection, field::CONSENT_PARAMETERS), envelope)?)?
            }
            None => BTreeMap::new(),
        };
        Ok(Parameters { open: consent.parameters.clone(), secret })
    }

    /// The envelope of a consent's secret parameters.
    pub(super) fn seal_for_consent(
        &self,
        connection: &Connection,
        secret: &BTreeMap<String, SecretString>,
    ) -> Option<String> {
        write(secret).map(|secret| self.vault.seal(place(connection, field::CONSENT_PARAMETERS), &secret))
    }

    /// A new grant, asked for at `asked_at` with `scopes` and these secret parameters.
    pub(super) fn first_grant(
        &self,
        connection: &Connection,
        granted: GrantedTokens,
        parameters: &BTreeMap<String, SecretString>,
        scopes: &[String],
        asked_at: UnixTime,
    ) -> Grant {
        let seal = |field, secret: &SecretString| self.vault.seal(place(connection, field), secret);
        Grant {
            tokens: SealedTokens {
                access_token: seal(field::ACCESS_TOKEN, &granted.access_token),
                refresh_token: granted.refresh_token.map(|token| seal(field::REFRESH_TOKEN, &token)),
                id_token: granted.id_token.map(|token| seal(field::ID_TOKEN, &token)),
                kept: write(&merged(BTreeMap::new(), granted.keep)).map(|kept| seal(field::KEPT, &kept)),
                token_type: granted.token_type,
                parameters: write(parameters).map(|secret| seal(field::PARAMETERS, &secret)),
            },
            scopes: granted.scopes.unwrap_or_else(|| scopes.to_vec()),
            expires_at: granted.expires_in.map(|span| asked_at.plus(span)),
            refresh_expires_at: granted.refresh_expires_in.map(|span| asked_at.plus(span)),
            notes: granted.notes,
        }
    }

    /// A grant that goes on: what a refresh does not bring stays as it was.
    pub(super) fn next_grant(
        &self,
        connection: &Connection,
        before: Opened,
        mut granted: GrantedTokens,
        asked_at: UnixTime,
    ) -> Grant {
        let same = |token: &SecretString| {
            before
                .current
                .refresh_token
                .as_ref()
                .is_some_and(|old| old.expose_secret() == token.expose_secret())
        };
        let is_new = granted.refresh_token.as_ref().is_some_and(|token| !same(token));
        granted.refresh_token = granted.refresh_token.or(before.current.refresh_token);
        granted.id_token = granted.id_token.or(before.current.id_token);
        granted.keep = merged(before.kept, granted.keep);
        let token_type = connection.tokens.as_ref().and_then(|tokens| tokens.token_type.clone());
        granted.token_type = granted.token_type.or(token_type);
        // RFC 6749 §6: a refresh that names no scopes has the ones of before.
        let scopes = &connection.scopes_granted;
        let mut grant = self.first_grant(connection, granted, &before.parameters, scopes, asked_at);
        if !is_new {
            grant.refresh_expires_at = grant.refresh_expires_at.or(connection.refresh_expires_at);
        }
        grant
    }

    /// The same tokens, sealed with the present key; `None` when they are already.
    pub(super) fn resealed(&self, connection: &Connection) -> Result<Option<SealedTokens>, VaultError> {
        let Some(tokens) = &connection.tokens else { return Ok(None) };
        let SealedTokens { access_token, refresh_token, id_token, kept, parameters, .. } = tokens;
        let others = [refresh_token, id_token, kept, parameters].into_iter().flatten();
        if std::iter::once(access_token).chain(others).all(|envelope| self.vault.is_current(envelope)) {
            return Ok(None);
        }
        let anew = |field, envelope: &String| {
            let secret = self.vault.open(place(connection, field), envelope)?;
            Ok::<_, VaultError>(self.vault.seal(place(connection, field), &secret))
        };
        let anew_any = |field, envelope: &Option<String>| {
            envelope.as_ref().map(|envelope| anew(field, envelope)).transpose()
        };
        Ok(Some(SealedTokens {
            access_token: anew(field::ACCESS_TOKEN, access_token)?,
            refresh_token: anew_any(field::REFRESH_TOKEN, refresh_token)?,
            id_token: anew_any(field::ID_TOKEN, id_token)?,
            kept: anew_any(field::KEPT, kept)?,
            token_type: tokens.token_type.clone(),
            parameters: anew_any(field::PARAMETERS, parameters)?,
        }))
    }
}

/// A call about a grant that there is, with what was kept of it and its secret parameters.
pub(super) fn call(
    connection: &Connection,
    kept: BTreeMap<String, SecretString>,
    secret_parameters: BTreeMap<String, SecretString>,
) -> ProviderCall {
    // A user may have unticked some of what was asked for; to ask for those again fails.
    let scopes = match connection.scopes_granted.is_empty() {
        true => &connection.scopes_asked,
        false => &connection.scopes_granted,
    };
    ProviderCall {
        provider: connection.provider.clone(),
        parameters: connection.parameters.clone(),
        secret_parameters,
        kept,
        scopes: scopes.clone(),
    }
}

/// What is kept from now on: a name that is there is replaced, one with an empty value forgotten.
pub(super) fn merged(
    mut kept: BTreeMap<String, SecretString>,
    keep: BTreeMap<String, SecretString>,
) -> BTreeMap<String, SecretString> {
    let names: Vec<String> = keep.keys().cloned().collect();
    kept.extend(keep);
    kept.retain(|_, value| !value.expose_secret().is_empty());
    if kept.len() > MAX_KEPT {
        // The new ones matter more than the tokens do harm: nothing that came with them may cost them.
        kept.retain(|name, _| names.contains(name));
    }
    kept
}

fn place<'a>(connection: &Connection, field: &'a str) -> Place<'a> {
    Place { user: connection.user, connection: connection.id, field }
}

/// A dictionary as one text; `None` of an empty one.
fn write(kept: &BTreeMap<String, SecretString>) -> Option<SecretString> {
    let exposed: BTreeMap<&str, &str> =
        kept.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    // Text to text: nothing to fail on.
    serde_json::to_string(&exposed).ok().filter(|_| !kept.is_empty()).map(SecretString::from)
}

fn read(kept: &SecretString) -> Result<BTreeMap<String, SecretString>, VaultError> {
    let read: BTreeMap<String, Zeroizing<String>> =
        serde_json::from_str(kept.expose_secret()).map_err(|_| VaultError::Damaged)?;
    Ok(read.into_iter().map(|(name, value)| (name, SecretString::from(value.as_str()))).collect())
}

//! Establishes a new grant: seals it, notifies the app, and replaces an older one of the same account.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::refresh::Unwritten;
use super::seal::{Parameters, call, merged};
use super::tell::NoticeKind;
use super::{ConnectionError, Connections};
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{Account, Connection, Grant, Status};
use crate::domain::task::Errand;
use crate::domain::time::UnixTime;
use crate::ports::{Change, CurrentTokens, GrantedTokens, StoreError};
use crate::service::caller::OwnedSource;
use crate::service::noted::About;
use crate::service::retry::Decision;

impl Connections {
    /// Makes the connection active with what was granted for `scopes` and `parameters`.
    pub(super) async fn establish(
        &self,
        connection: &Connection,
        granted: GrantedTokens,
        scopes: &[String],
        parameters: &Parameters,
        asked_at: UnixTime,
    ) -> Result<Connection, ConnectionError> {
        let mut asked = connection.clone();
        asked.scopes_asked = scopes.to_vec();
        asked.parameters.clone_from(&parameters.open);
        asked.scopes_granted = granted.scopes.clone().unwrap_or_default();
        asked.account = self.account_of(&asked, &granted, &parameters.secret).await;
        let grant = self.first_grant(&asked, granted, &parameters.secret, scopes, asked_at);
        let mut turn = self.state.turns.turn(connection.id).await;
        let mut pauses = self.state.waits.pauses.iter();
        loop {
            match self.put_leased(&asked, &grant, asked_at).await {
                Ok((connection, older)) => {
                    turn.replaced();
                    self.wake();
                    if !connection.notes.is_empty() {
                        let (id, provider, notes) = (connection.id, &connection.provider, &connection.notes);
                        tracing::warn!(connection = %id, provider, ?notes, "what came with new tokens was odd");
                    }
                    for old in older {
                        let about = About::connection(old.user, old.id).because("connected_again");
                        self.note(&OwnedSource::System, Action::Disconnect, Outcome::Success, about);
                    }
                    return Ok(connection);
                }
                Err(error @ ConnectionError::Store(_)) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(error),
                },
                // The user has no such connection any more, so the grant must not be used either.
                Err(error @ (ConnectionError::NotFound | ConnectionError::Revoked)) => {
                    let gone = Connection { tokens: Some(grant.tokens), ..asked };
                    if let Err(left) = self.end_grant(&gone).await {
                        tracing::warn!(connection = %gone.id, why = left.why, "a grant was not ended");
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Commits it under the lease of the connection's tokens: a refresh that another gateway has begun ends first, or what
    /// it brings would replace nothing, and be lost. Only with the turn.
    async fn put_leased(
        &self,
        asked: &Connection,
        grant: &Grant,
        now: UnixTime,
    ) -> Result<(Connection, Vec<Connection>), ConnectionError> {
        let held = self.claim_refresh(asked.id).await?;
        let outcome = self.put(asked, grant, now).await;
        if outcome.is_ok() {
            // Until here, it was all that was left of the grant before.
            self.unwritten().remove(&asked.id);
        }
        self.release_refresh(asked.id, &held).await;
        outcome
    }

    /// Commits it. Returns it as written, and those that it has taken the place of.
    async fn put(
        &self,
        asked: &Connection,
        grant: &Grant,
        now: UnixTime,
    ) -> Result<(Connection, Vec<Connection>), ConnectionError> {
        let decide = || async {
            let mine = self.store.connections(asked.user).await?;
            let found = mine.iter().find(|one| one.id == asked.id).ok_or(ConnectionError::NotFound)?;
            if found.status == Status::Revoked {
                return Err(ConnectionError::Revoked);
            }
            // A commit that failed may have been made all the same.
            if found.tokens.as_ref() == Some(&grant.tokens) {
                return Ok(Decision::Unchanged((found.clone(), Vec::new())));
            }
            let mut connection = found.clone();
            let left = found.tokens.is_some() && is_another(found.account.as_ref(), asked.account.as_ref());
            connection.scopes_asked.clone_from(&asked.scopes_asked);
            connection.parameters.clone_from(&asked.parameters);
            connection.account.clone_from(&asked.account);
            connection.establish(grant.clone(), now);
            self.schedule(&mut connection);
            let notice = self.tell_app(NoticeKind::Connected, &mut connection);
            let mut changes = vec![Change::UpdateConnection(connection.clone()), notice];
            if left {
                // Nothing else is left of the grant of the account before.
                changes.push(self.errand(Errand::EndGrant(Box::new(found.clone())), now));
            }
            let older: Vec<Connection> =
                mine.iter().filter(|one| is_of_same_account(one, &connection)).cloned().collect();
            for old in &older {
                let mut ended = old.clone();
                // The provider is not told: it may know the two for one grant, and would end the new one.
                ended.end(Status::Revoked);
                self.schedule(&mut ended);
                changes.push(self.tell_app(NoticeKind::Revoked, &mut ended));
                changes.push(Change::UpdateConnection(ended));
            }
            // As it is once that is written.
            connection.revision += 1;
            Ok(Decision::Commit(changes, (connection, older)))
        };
        self.retry_on_conflict(decide).await
    }

    /// Ends the grant that a refresh brought for a connection which is gone or was ended meanwhile, unless another
    /// connection is to the same account: the provider may know the two for one grant, and would end that of the other.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was ended.
    pub(super) async fn end_unheld(&self, new: &Unwritten) -> Result<(), StoreError> {
        let mine = self.store.connections(new.base.user).await?;
        if mine.iter().any(|one| one.tokens.is_some() && is_of_same_account(one, &new.base)) {
            return Ok(());
        }
        let gone = Connection { tokens: Some(new.grant.tokens.clone()), ..new.base.clone() };
        if let Err(left) = self.end_grant(&gone).await {
            tracing::warn!(connection = %gone.id, why = left.why, "a grant was not ended");
        }
        Ok(())
    }

    /// The account at the provider, where the plugin can tell. Without it the connection is made all the same.
    async fn account_of(
        &self,
        connection: &Connection,
        granted: &GrantedTokens,
        secret_parameters: &BTreeMap<String, SecretString>,
    ) -> Option<Account> {
        if !self.providers.get(&connection.provider)?.can_identify {
            return None;
        }
        let current = CurrentTokens {
            access_token: granted.access_token.clone(),
            refresh_token: granted.refresh_token.clone(),
            expires_at: granted.expires_in.map(|span| self.now().plus(span)),
            id_token: granted.id_token.clone(),
        };
        let kept = merged(BTreeMap::new(), granted.keep.clone());
        match self.providers.identity(call(connection, kept, secret_parameters.clone()), current).await {
            Ok(account) => account,
            Err(error) => {
                let (connection, provider) = (connection.id, &connection.provider);
                tracing::warn!(%connection, provider, %error, "the account at the provider could not be identified");
                None
            }
        }
    }
}

/// Whether it is certain that two accounts are two.
fn is_another(one: Option<&Account>, other: Option<&Account>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one.subject != other.subject)
}

/// Whether `old` is another connection to the account that `new` is to. Subjects are told apart within one
/// tenant, shop or instance only, which is what parameters name.
fn is_of_same_account(old: &Connection, new: &Connection) -> bool {
    let subject = |one: &Connection| one.account.as_ref().map(|account| account.subject.clone());
    old.id != new.id
        && old.status != Status::Revoked
        && old.provider == new.provider
        && old.parameters == new.parameters
        && subject(old).is_some_and(|known| subject(new) == Some(known))
}

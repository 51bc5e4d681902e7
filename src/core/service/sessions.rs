//! Seeing and ending sessions. An ended session's access tokens are refused on the very next request.

use super::accounts::{AccountError, Accounts};
use super::caller::{Client, Person, Source};
use super::noted::About;
use crate::domain::account::UserId;
use crate::domain::audit::{Action, Outcome};
use crate::domain::session::{Session, SessionId};
use crate::ports::StoreError;

/// Which sessions to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    One(SessionId),
    /// All but the caller's.
    Others,
    All,
}

impl Accounts {
    /// The caller's sessions that have not ended, the latest used first.
    ///
    /// # Errors
    /// [`AccountError::Store`].
    pub async fn list_sessions(&self, person: Person) -> Result<Vec<Session>, AccountError> {
        let (_, mut sessions) = self.over_and_live(person.user).await?;
        sessions.sort_by_key(|session| std::cmp::Reverse(session.last_used_at));
        Ok(sessions)
    }

    /// Whether a session has ended, by its time or by a revocation. Its record may still be there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn is_over(&self, session: &Session) -> Result<bool, StoreError> {
        let lives = self.settings.lifetimes;
        let is_past = self.now() >= self.uses.apply(session.clone(), lives).ends_at(lives);
        Ok(is_past || self.is_cut(session).await?)
    }

    /// [`crate::ports::Store::await_in_force`], for an endpoint that says that a session is over which it did not end.
    ///
    /// # Errors
    /// [`AccountError::Store`].
    pub async fn await_in_force(&self) -> Result<(), AccountError> {
        Ok(self.store.await_in_force().await?)
    }

    /// Ends sessions of the caller's.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] when the one that is named is none of theirs, or
    /// [`AccountError::Store`]; then all of them go on.
    pub async fn end_sessions(
        &self,
        client: &Client,
        person: Person,
        which: Which,
    ) -> Result<(), AccountError> {
        let Person { user, session } = person;
        self.end_chosen(&Source::Client(client), (user, session), which, "ended by its owner").await.map(drop)
    }

    /// Ends sessions of `user`, and says how many there were. `own`: the one that [`Which::Others`] leaves.
    ///
    /// # Errors
    /// As [`Accounts::end_sessions`].
    pub(super) async fn end_chosen(
        &self,
        source: &Source<'_>,
        (user, own): (UserId, Option<SessionId>),
        which: Which,
        reason: &str,
    ) -> Result<usize, AccountError> {
        let mut chosen = self.store.sessions(user).await?;
        chosen.retain(|session| match which {
            Which::One(id) => session.id == id,
            Which::Others => Some(session.id) != own,
            Which::All => true,
        });
        if chosen.is_empty() {
            // Ended by a request that may not be acknowledged yet.
            self.store.await_in_force().await?;
            return match which {
                Which::One(_) => Err(AccountError::NotFound("session")),
                Which::Others | Which::All => Ok(0),
            };
        }
        let changes = chosen.iter().flat_map(|session| self.ending(session, reason)).collect();
        self.commit_by(source, changes).await?;
        Ok(chosen.len())
    }

    /// Signs out: ends the session that the access token, or else the refresh token, belongs to. Nothing to
    /// do when it has ended already.
    ///
    /// # Errors
    /// [`AccountError::InvalidRefreshToken`] when there is neither, or the refresh token is none that the session has
    /// had, or [`AccountError::Store`].
    pub async fn logout(
        &self,
        client: &Client,
        person: Option<Person>,
        refresh_token: Option<&str>,
    ) -> Result<(), AccountError> {
        let by_access = person.and_then(|person| Some((person.user, person.session?)));
        let token = match by_access {
            Some(_) => None,
            None => refresh_token.and_then(|text| self.key.read(text)),
        };
        let named = by_access.or_else(|| token.as_ref().map(|token| (token.user, token.session)));
        let Some((user, id)) = named else { return Err(AccountError::InvalidRefreshToken) };
        if let Some(session) = self.store.session(user, id).await? {
            if token.is_some_and(|token| !session.knows(&token, &self.key)) {
                return Err(AccountError::InvalidRefreshToken);
            }
            self.store.commit(self.ending(&session, "signed out").into()).await?;
            let about = About::session(user, id);
            self.note(&Source::Client(client), Action::Logout, Outcome::Success, about);
        } else {
            // Ended by a request that may not be acknowledged yet.
            self.store.await_in_force().await?;
        }
        Ok(())
    }
}

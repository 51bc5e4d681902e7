//! Deleting one's own account, for good.
//!
//! An attacker who has taken over a session must not be able to: it takes the password once more, or a sign-in of the
//! last minutes. Nor must a thief who has changed the address: the old address could then undo nothing.

use std::time::Duration;

use secrecy::SecretString;

use super::accounts::{AccountError, Accounts};
use super::caller::{Client, Person, Source};
use super::noted::About;
use super::retry::Decision;
use crate::domain::account::User;
use crate::domain::audit::{Action, Outcome};
use crate::domain::mail::Letter;
use crate::domain::session::Session;
use crate::domain::time::UnixTime;
use crate::ports::{Change, StoreError};

/// For how long after a sign-in its session may do without the password what else needs it.
pub const FRESH: Duration = Duration::from_secs(10 * 60);

/// Whether a session that began at `created` is a fresh sign-in at `now`. One from a clock that was ahead is none.
#[must_use]
pub fn is_fresh(created: UnixTime, now: UnixTime) -> bool {
    created <= now && now < created.plus(FRESH)
}

impl Accounts {
    /// Removes the caller's account with everything it has: sessions and access tokens end, grants at providers are
    /// revoked, and a letter to its address says so. It takes the account's password, or a session that is younger than [`FRESH`].
    ///
    /// # Errors
    /// [`AccountError::WrongPassword`]; [`AccountError::FreshSignInNeeded`] without a password and a fresh session;
    /// [`AccountError::EmailChangeUndoable`] while a change of the address can be undone; or another [`AccountError`].
    /// Then nothing was changed.
    pub async fn delete_account(
        &self,
        client: &Client,
        person: Person,
        password: Option<SecretString>,
    ) -> Result<(), AccountError> {
        let source = Source::Client(client);
        let user = self.account(person).await?;
        let by_password = password.is_some();
        match password {
            Some(password) => self.confirm_password(client, &user, password, Action::DeleteUser).await?,
            None => self.signed_in_freshly(client, person).await?,
        }
        let confirmed = user.password;
        let decide = || async {
            let user = self.account(person).await?;
            if by_password && user.password != confirmed {
                return Err(AccountError::WrongPassword);
            }
            // A clock in doubt only delays it: an undo that is lost cannot be made up for.
            if let Some(until) = user.email_changes.undoable_until(self.clock.reading().earliest) {
                return Err(AccountError::EmailChangeUndoable(until));
            }
            // Written once more before they go: had a change of address or an end of the session come in between, this
            // would be decided anew.
            let mut changes = vec![Change::UpdateUser(user.clone())];
            match self.own_session(person).await? {
                Some(session) if by_password || is_fresh(session.created_at, self.now()) => {
                    changes.push(Change::UpdateSession(session));
                }
                None if by_password && person.session.is_none() => {}
                _ => return Err(AccountError::FreshSignInNeeded),
            }
            changes.extend(self.mail_to_owner(Letter::AccountDeleted, &user, self.facts(client)));
            changes.extend(self.deleting(&user).await?);
            Ok(Decision::Commit(changes, user.id))
        };
        // A conflict: a token of a connection was refreshed meanwhile.
        let id = self.retry_on_conflict(&source, decide).await?;
        self.outbox.notify_one();
        self.tasks.notify_one();
        let about = About { user: Some(id), session: person.session, ..About::default() };
        self.note(&source, Action::DeleteUser, Outcome::Success, about);
        Ok(())
    }

    /// What removes an account with everything it has, and ends its access tokens and its grants at providers.
    pub(super) async fn deleting(&self, user: &User) -> Result<Vec<Change>, StoreError> {
        let mut changes = vec![self.raising(user.id, "account deleted")];
        changes.extend(self.ending_grants(user.id).await?);
        changes.push(Change::DeleteUser(user.id));
        Ok(changes)
    }

    /// The caller's session while it lives.
    async fn own_session(&self, person: Person) -> Result<Option<Session>, StoreError> {
        let Some(id) = person.session else { return Ok(None) };
        let Some(session) = self.store.session(person.user, id).await? else { return Ok(None) };
        Ok(if self.is_over(&session).await? { None } else { Some(session) })
    }

    async fn signed_in_freshly(&self, client: &Client, person: Person) -> Result<(), AccountError> {
        let session = self.own_session(person).await?;
        if session.is_some_and(|session| is_fresh(session.created_at, self.now())) {
            return Ok(());
        }
        let about = About { user: Some(person.user), session: person.session, ..About::default() };
        let about = about.because("no_fresh_sign_in");
        self.note(&Source::Client(client), Action::DeleteUser, Outcome::Denied, about);
        Err(AccountError::FreshSignInNeeded)
    }
}

#[cfg(test)]
mod fresh_tests {
    use super::*;

    #[test]
    fn a_sign_in_is_fresh_for_ten_minutes() {
        let (now, life) = (UnixTime(1_800_000_000), FRESH.as_secs());
        for (created, fresh) in [(0, true), (life - 1, true), (life, false), (life + 1, false)] {
            assert_eq!(is_fresh(UnixTime(now.0 - created), now), fresh, "{created} s ago");
        }
        assert!(!is_fresh(UnixTime(now.0 + 1), now));
    }
}

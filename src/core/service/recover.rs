//! Password reset: requesting a link, checking it, setting a new password with it.

use secrecy::{ExposeSecret, SecretString};

use super::accounts::{AccountError, Accounts};
use super::caller::{Client, Source};
use super::noted::About;
use super::retry::Decision;
use crate::domain::audit::{Action, Outcome};
use crate::domain::email::EmailAddress;
use crate::domain::link::Purpose;
use crate::domain::mail::Letter;
use crate::domain::task::Work;
use crate::ports::{Change, Limited};

impl Accounts {
    /// Takes a request for a link that sets a new password. Whether there is such an account shows neither
    /// in the answer nor in its time: nothing is looked up before it.
    ///
    /// # Errors
    /// [`AccountError::InvalidEmail`], [`AccountError::TooMany`] or [`AccountError::Store`].
    pub async fn request_reset(&self, client: &Client, email: &str) -> Result<(), AccountError> {
        let email: EmailAddress = email.parse()?;
        self.limiter.attempt(Limited::RequestMail, client.address, Some(email.as_str()))?;
        self.enqueue(Work::ResetPassword { email, origin: client.origin() }).await
    }

    /// Whether the link would set a password. Does not use it up.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`], [`AccountError::TooMany`] or [`AccountError::Store`].
    pub async fn validate_reset(&self, client: &Client, token: &str) -> Result<(), AccountError> {
        self.limiter.attempt(Limited::UseLink, client.address, None)?;
        self.mailed_to(client, token, &[Purpose::ResetPassword]).await.map(|_| ())
    }

    /// Sets a new password, uses the link up, and ends every session. Who can open the link has the mailbox:
    /// the address counts as verified.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`], [`AccountError::PasswordRejected`], [`AccountError::TooMany`],
    /// [`AccountError::Busy`] or [`AccountError::Store`]. Only success uses the link up.
    pub async fn confirm_reset(
        &self,
        client: &Client,
        token: &str,
        password: SecretString,
    ) -> Result<(), AccountError> {
        self.limiter.attempt(Limited::UseLink, client.address, None)?;
        let (_, user) = self.mailed_to(client, token, &[Purpose::ResetPassword]).await?;
        self.acceptable(password.expose_secret(), &user.email, user.name.as_deref())?;
        let owner = self.owner(client, &user.email);
        self.not_guessed(&password, &user.email, user.name.as_deref(), owner).await?;
        let hash = self.passwords.hash(password, owner).await?;
        let source = Source::Client(client);
        let decide = || async {
            let (link, mut user) = self.mailed_to(client, token, &[Purpose::ResetPassword]).await?;
            self.leave_behind(&mut user).await?;
            user.password = Some(hash.clone());
            user.verified();
            user.email_changes.reset();
            user.void_links();
            // Others may have signed in from the earlier ones.
            user.known_blocks.clear();
            user.updated_at = self.now();
            let mut changes = vec![Change::ConsumeLink(link.hash)];
            changes.extend(self.ending_all(user.id, None, "password reset").await?);
            changes.push(self.raising(user.id, "password reset"));
            let facts = self.facts_of_password(client, user.id).await?;
            changes.push(self.mail(Letter::PasswordChanged, &user, &user.email, None, facts));
            changes.push(Change::UpdateUser(user.clone()));
            Ok(Decision::Commit(changes, user.id))
        };
        let user = self.retry_on_conflict(&source, decide).await?;
        self.outbox.notify_one();
        self.note(&source, Action::ResetPassword, Outcome::Success, About::user(user));
        Ok(())
    }
}

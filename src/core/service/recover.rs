//! Password reset: requesting a link, checking it, setting a new password with it.

use secrecy::{ExposeSecret, SecretString};

use super::accounts::{AccountError, Accounts};
use super::caller::{Client, Source};
use super::noted::About;
use super::opened_link::OpenedLink;
use super::retry::Decision;
use crate::domain::account::User;
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
    /// [`AccountError::NoMail`], [`AccountError::InvalidEmail`], [`AccountError::TooMany`] or [`AccountError::Store`].
    pub async fn request_reset(&self, client: &Client, email: &str) -> Result<(), AccountError> {
        self.request_reset_for(client, email, None).await
    }

    /// [`Accounts::request_reset`] for a browser that goes on to `return_to` afterwards: a whole URL that was checked.
    ///
    /// # Errors
    /// As [`Accounts::request_reset`].
    pub async fn request_reset_for(
        &self,
        client: &Client,
        email: &str,
        return_to: Option<String>,
    ) -> Result<(), AccountError> {
        self.needs_mail()?;
        let email: EmailAddress = email.parse()?;
        self.limiter.attempt(Limited::RequestMail, client.address, Some(email.as_str()))?;
        self.enqueue(Work::ResetPassword { email, origin: client.origin(return_to) }).await
    }

    /// Whether the link would set a password. Does not use it up.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`], [`AccountError::TooMany`] or [`AccountError::Store`].
    pub async fn validate_reset(&self, client: &Client, token: &str) -> Result<(), AccountError> {
        self.open_link(client, token, &[Purpose::ResetPassword]).await.map(|_| ())
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
        let opened = self.open_link(client, token, &[Purpose::ResetPassword]).await?;
        self.reset_opened(client, &opened, password).await.map(|_| ())
    }

    /// [`Accounts::confirm_reset`] with a link that was opened; each opening is one attempt. Returns the account with its
    /// new password.
    ///
    /// # Errors
    /// As [`Accounts::confirm_reset`].
    pub async fn reset_opened(
        &self,
        client: &Client,
        opened: &OpenedLink,
        password: SecretString,
    ) -> Result<User, AccountError> {
        let token = opened.token();
        let (_, user) = self.mailed_to(client, token, &[Purpose::ResetPassword]).await?;
        self.acceptable(password.expose_secret(), user.password_owner())?;
        let owner = self.owner(client, &user);
        self.not_guessed(&password, user.password_owner(), owner).await?;
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
            if link.purpose == Purpose::Invite {
                changes.extend(self.mail_to_owner(Letter::Welcome, &user, self.facts(client)));
            } else {
                let facts = self.facts_of_password(client, user.id).await?;
                changes.extend(self.mail_to_owner(Letter::PasswordChanged, &user, facts));
            }
            changes.push(Change::UpdateUser(user.clone()));
            Ok(Decision::Commit(changes, (user, link.purpose)))
        };
        let (user, purpose) = self.retry_on_conflict(&source, decide).await?;
        self.outbox.notify_one();
        let about = About::user(user.id);
        let about = if purpose == Purpose::Invite { about.because("invited") } else { about };
        self.note(&source, Action::ResetPassword, Outcome::Success, about);
        Ok(user)
    }
}

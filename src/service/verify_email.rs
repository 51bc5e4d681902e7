//! Showing that an address is one's own: the link of a registration, and that of a changed address.

use super::accounts::{About, AccountError, Accounts, Client, Source, TRIES};
use super::verify_registration::Proof;
use crate::domain::account::User;
use crate::domain::audit::{Action, Outcome};
use crate::domain::link::Purpose;
use crate::domain::mail::{Facts, Letter};
use crate::ports::{Change, CommitError, Limited};

impl Accounts {
    /// [`Accounts::verify_by`] with the token and nothing beside it.
    ///
    /// # Errors
    /// As [`Accounts::verify_by`].
    pub async fn verify_email(&self, client: &Client, token: &str) -> Result<User, AccountError> {
        self.verify_by(client, token, Proof::default()).await
    }

    /// Uses up the link and returns the account whose address is verified now. The link of a registration may need a
    /// proof beside its token.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`], [`AccountError::ProofNeeded`], [`AccountError::WrongPassword`],
    /// [`AccountError::PasswordRejected`], [`AccountError::Invalid`], [`AccountError::TooMany`],
    /// [`AccountError::Busy`], [`AccountError::Conflict`] or [`AccountError::Store`]. Only success uses the link up.
    pub async fn verify_by(&self, client: &Client, token: &str, proof: Proof) -> Result<User, AccountError> {
        self.limiter.attempt(Limited::UseLink, client.address, None)?;
        let (link, _) = self.mailed(token, &[Purpose::VerifyEmail, Purpose::ChangeEmail]).await?;
        match link.purpose {
            Purpose::ChangeEmail => self.finish_change(client, token).await,
            _ => self.verify_registration(client, token, proof).await,
        }
    }

    async fn finish_change(&self, client: &Client, token: &str) -> Result<User, AccountError> {
        for _ in 0..TRIES {
            let (link, mut user) = self.mailed(token, &[Purpose::ChangeEmail]).await?;
            let mut changes = vec![Accounts::using_up(&link, &mut user)];
            // Somebody may have claimed the address while the mail was on its way.
            let (freed, gone) = self.freeing(&link.email).await?.ok_or(AccountError::InvalidLink)?;
            changes.extend(freed);
            let facts = Facts { new_email: Some(link.email.clone()), ..self.facts(client) };
            changes.push(self.mail(Letter::EmailChanged, &user, &user.email, None, facts));
            user.email.clone_from(&link.email);
            // What was mailed to the old address opens nothing any more, and what its tokens say is no longer
            // true.
            user.void_links();
            changes.push(self.raising(user.id, "e-mail address changed"));
            user.verified();
            user.updated_at = self.now();
            changes.push(Change::UpdateUser(user.clone()));
            match self.store.commit(changes).await {
                Ok(_) => {
                    self.outbox.notify_one();
                    let note = |action, outcome, about| {
                        self.note(&Source::Client(client), action, outcome, about);
                    };
                    note(Action::ChangeEmail, Outcome::Success, About::user(user.id));
                    if let Some((action, outcome, about)) = gone.map(Accounts::made_room) {
                        note(action, outcome, about);
                    }
                    return Ok(user);
                }
                // Registered, claimed or changed meanwhile: look again.
                Err(CommitError::Conflict | CommitError::EmailTaken) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(AccountError::Conflict)
    }
}

//! Showing that an address is one's own: the link of a registration, and that of a changed address.

use super::accounts::{About, AccountError, Accounts, Client, Source, TRIES};
use crate::domain::account::User;
use crate::domain::audit::{Action, Outcome};
use crate::domain::link::{Link, Purpose};
use crate::domain::mail::{Facts, Letter};
use crate::domain::opaque::TokenHash;
use crate::ports::{Change, CommitError, Limited};

impl Accounts {
    /// Uses up the link and returns the account whose address is verified now.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`], [`AccountError::TooMany`] or [`AccountError::Store`].
    pub async fn verify_email(&self, client: &Client, token: &str) -> Result<User, AccountError> {
        self.limiter.attempt(Limited::UseLink, client.address, None)?;
        for _ in 0..TRIES {
            let (link, mut user) = self.mailed(token, &[Purpose::VerifyEmail, Purpose::ChangeEmail]).await?;
            let mut changes = vec![Change::ConsumeLink(link.hash)];
            let action = match link.purpose {
                Purpose::ChangeEmail => {
                    let before = std::mem::replace(&mut user.email, link.email.clone());
                    let facts = Facts { new_email: Some(link.email.clone()), ..self.facts(client) };
                    changes.push(self.mail(Letter::EmailChanged, user.name.as_deref(), &before, None, facts));
                    // What was mailed to the old address opens nothing any more, and what its tokens say
                    // is no longer true.
                    user.link_generation += 1;
                    changes.push(self.raising(user.id, "e-mail address changed"));
                    Action::ChangeEmail
                }
                _ => {
                    let name = user.name.as_deref();
                    changes.push(self.mail(Letter::Welcome, name, &user.email, None, Facts::default()));
                    Action::VerifyEmail
                }
            };
            user.email_verified = true;
            user.updated_at = self.now();
            changes.push(Change::UpdateUser(user.clone()));
            match self.store.commit(changes).await {
                Ok(_) => {
                    self.outbox.notify_one();
                    self.note(&Source::Client(client), action, Outcome::Success, About::user(user.id));
                    return Ok(user);
                }
                Err(CommitError::Conflict) => {}
                // Somebody registered the address while the mail was on its way.
                Err(CommitError::EmailTaken) => return Err(AccountError::InvalidLink),
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(AccountError::Conflict)
    }

    /// The link of this token and its account, when it is good for one of `purposes`.
    pub(super) async fn mailed(
        &self,
        token: &str,
        purposes: &[Purpose],
    ) -> Result<(Link, User), AccountError> {
        // Ours have 43 characters; hashing a megabyte would be work for nothing.
        if token.len() > 64 {
            return Err(AccountError::InvalidLink);
        }
        let hash = TokenHash::of(token.as_bytes());
        let link = self.store.link(&hash).await?.ok_or(AccountError::InvalidLink)?;
        let user = self.store.user(link.user).await?.ok_or(AccountError::InvalidLink)?;
        let good = purposes.iter().any(|purpose| link.is_good(*purpose, &user, self.now()));
        if good { Ok((link, user)) } else { Err(AccountError::InvalidLink) }
    }
}

//! Showing that an address is one's own: the link of a registration, and that of a changed address.

use super::accounts::{About, AccountError, Accounts, Client, Source, TRIES};
use crate::domain::account::User;
use crate::domain::audit::{Action, Outcome};
use crate::domain::link::Purpose;
use crate::domain::mail::{Facts, Letter};
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
            let mut changes = vec![Accounts::using_up(&link, &mut user)];
            let mut gone = None;
            let action = match link.purpose {
                Purpose::ChangeEmail => {
                    // Somebody may have claimed the address while the mail was on its way.
                    let free = self.freeing(&link.email).await?.ok_or(AccountError::InvalidLink)?;
                    changes.extend(free.0);
                    gone = free.1;
                    let before = std::mem::replace(&mut user.email, link.email.clone());
                    let facts = Facts { new_email: Some(link.email.clone()), ..self.facts(client) };
                    changes.push(self.mail(Letter::EmailChanged, user.name.as_deref(), &before, None, facts));
                    // What was mailed to the old address opens nothing any more, and what its tokens say
                    // is no longer true.
                    user.void_links();
                    changes.push(self.raising(user.id, "e-mail address changed"));
                    Action::ChangeEmail
                }
                _ => {
                    let name = user.name.as_deref();
                    changes.push(self.mail(Letter::Welcome, name, &user.email, None, Facts::default()));
                    Action::VerifyEmail
                }
            };
            user.verified();
            user.updated_at = self.now();
            changes.push(Change::UpdateUser(user.clone()));
            match self.store.commit(changes).await {
                Ok(_) => {
                    self.outbox.notify_one();
                    self.note(&Source::Client(client), action, Outcome::Success, About::user(user.id));
                    if let Some((action, outcome, about)) = gone.map(Accounts::made_room) {
                        self.note(&Source::Client(client), action, outcome, about);
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

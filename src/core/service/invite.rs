//! Invitations: an operator makes an account for a person, who sets its password by a link.
//!
//! A person who follows the link has the mailbox, so the address counts as verified with the password.

use super::accounts::{AccountError, Accounts, name};
use super::caller::Source;
use super::links::HandedLink;
use super::noted::About;
use super::retry::Decision;
use crate::domain::account::{User, UserId};
use crate::domain::audit::{Action, Outcome};
use crate::domain::email::EmailAddress;
use crate::domain::link::Purpose;
use crate::domain::mail::Letter;
use crate::ports::Change;

/// An account that waits for its owner.
#[derive(Debug)]
pub struct Invited {
    pub user: User,
    /// The link of the invitation, where no mail is sent.
    pub link: Option<HandedLink>,
}

impl Accounts {
    /// Makes an account without a password for `email` and mails an invitation, whatever `accounts.registration` says:
    /// the operator decides. For an account that was invited before and has no password yet, the same link is sent once
    /// more and is good for its whole time again. An account that a stranger registered for the address and did not
    /// verify makes room.
    ///
    /// # Errors
    /// [`AccountError::InvalidEmail`], [`AccountError::Invalid`] for a name that is none, [`AccountError::EmailTaken`]
    /// when the account has a password, was verified or is disabled, [`AccountError::Conflict`] or
    /// [`AccountError::Store`].
    pub async fn invite(
        &self,
        request_id: &str,
        email: &str,
        given_name: Option<String>,
    ) -> Result<Invited, AccountError> {
        let email: EmailAddress = email.parse()?;
        let name = name(given_name)?;
        let source = Source::Operator(request_id);
        let invited = match self.store.user_by_email(&email).await? {
            Some(user) if waits(&user) => self.invite_again(&source, user.id, name).await?,
            _ => self.invite_first(&source, email, name).await?,
        };
        self.outbox.notify_one();
        self.note(&source, Action::InviteUser, Outcome::Success, About::user(invited.user.id));
        Ok(invited)
    }

    async fn invite_first(
        &self,
        source: &Source<'_>,
        email: EmailAddress,
        name: Option<String>,
    ) -> Result<Invited, AccountError> {
        let mut user = User { name, ..User::new(UserId(self.entropy.uuid()), email, self.now()) };
        let (mut changes, link) = self.operator_link(Purpose::Invite, Letter::Invitation, &mut user).await?;
        changes.insert(0, Change::CreateUser(user.clone()));
        let gone = self.create_at(user.email.as_ref(), changes).await?;
        if let Some((action, outcome, about)) = gone.map(Accounts::made_room) {
            self.note(source, action, outcome, about);
        }
        Ok(Invited { user, link })
    }

    async fn invite_again(
        &self,
        source: &Source<'_>,
        id: UserId,
        name: Option<String>,
    ) -> Result<Invited, AccountError> {
        let decide = || async {
            let user = self.store.user(id).await?;
            let mut user = user.filter(waits).ok_or(AccountError::EmailTaken)?;
            if name.is_some() {
                user.name.clone_from(&name);
            }
            user.updated_at = self.now();
            let (mut changes, link) =
                self.operator_link(Purpose::Invite, Letter::Invitation, &mut user).await?;
            changes.push(Change::UpdateUser(user.clone()));
            Ok(Decision::Commit(changes, Invited { user, link }))
        };
        self.retry_on_conflict(source, decide).await
    }
}

/// Whether an operator made the account and its owner has not come yet.
fn waits(user: &User) -> bool {
    user.is_open() && user.is_claimed() == Some(true) && user.password.is_none() && !user.email_verified
}

//! Accounts of which nobody has shown that the address is theirs.
//!
//! Anybody can register any address. Until its owner comes, such an account stands in nobody's way: the owner of
//! another account can change to the address, an operator can make an account of it, and after seven days it is
//! gone. An account that was ever verified or used, or that an operator made or changed, is never taken for one.

use std::time::Duration;

use super::accounts::{AccountError, Accounts};
use super::noted::About;
use super::retry::{Decision, retry_on_conflict};
use super::tasks::Done;
use crate::domain::account::{User, UserId};
use crate::domain::audit::{Action, Actor, Event, Outcome};
use crate::domain::email::EmailAddress;
use crate::domain::task::Work;
use crate::ports::{Change, EVENTS_KEPT, STRANGERS_EVENTS_KEPT, StoreError};

/// How long an account waits for its address to be verified, from its registration: a later one does not prolong it.
/// Then its address is free again, and strangers have not filled the store with addresses that nobody reads.
pub(super) const UNCLAIMED_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Who has an address.
pub(super) enum Holder {
    Nobody,
    /// An account that has to make room for whoever shows that the address is theirs.
    Unclaimed(Box<User>),
    Owner(Box<User>),
}

impl Accounts {
    /// Who has this address.
    pub(super) async fn holder(&self, email: &EmailAddress) -> Result<Holder, StoreError> {
        Ok(match self.store.user_by_email(email).await?.map(Box::new) {
            None => Holder::Nobody,
            Some(user) if self.is_unclaimed(&user).await? => Holder::Unclaimed(user),
            Some(user) => Holder::Owner(user),
        })
    }

    /// Whether the account was registered, and nobody has shown since that it is theirs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_unclaimed(&self, user: &User) -> Result<bool, StoreError> {
        let unclaimed = match user.is_claimed() {
            Some(is_claimed) => !is_claimed,
            None => self.is_fresh_registration(user.id).await?,
        };
        // An app can act for an account by a token that an operator minted.
        Ok(unclaimed && self.store.connections(user.id).await?.is_empty())
    }

    /// Of an account whose record does not tell: whether its events do. But for those that strangers can cause, they
    /// are kept from the latest back, so where the registration is still among them, nothing that an owner did after
    /// it is missing. What cannot be told counts as somebody's.
    async fn is_fresh_registration(&self, user: UserId) -> Result<bool, StoreError> {
        let events = self.store.events(Some(user), EVENTS_KEPT + STRANGERS_EVENTS_KEPT).await?;
        // Anybody can ask for a link.
        let asked =
            |event: &Event| event.action == Action::RequestPasswordReset && event.actor == Actor::User;
        let done = events.iter().filter(|event| event.outcome == Outcome::Success && !asked(event));
        let done: Vec<Action> = done.map(|event| event.action).collect();
        Ok(done == [Action::Register])
    }

    /// Takes from an account whose owner has come what others gave it before: a name is theirs, too.
    pub(super) async fn leave_behind(&self, user: &mut User) -> Result<(), StoreError> {
        if self.is_unclaimed(user).await? {
            user.name = None;
        }
        Ok(())
    }

    /// What removes an account that nobody has claimed; nothing of it when somebody has changed it meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn removing(&self, user: &User, reason: &str) -> Result<Vec<Change>, StoreError> {
        let mut changes = vec![Change::UpdateUser(user.clone()), self.raising(user.id, reason)];
        changes.extend(self.ending_grants(user.id).await?);
        changes.push(Change::DeleteUser(user.id));
        Ok(changes)
    }

    /// What makes the address free for another account; `None` when it is somebody's. With whose account goes for it.
    pub(super) async fn freeing(
        &self,
        email: &EmailAddress,
    ) -> Result<Option<(Vec<Change>, Option<UserId>)>, StoreError> {
        Ok(match self.holder(email).await? {
            Holder::Nobody => Some((Vec::new(), None)),
            Holder::Unclaimed(user) => {
                Some((self.removing(&user, "the address is another account's").await?, Some(user.id)))
            }
            Holder::Owner(_) => None,
        })
    }

    /// Commits the making of an account with this address, in place of one that nobody has claimed. Returns whose
    /// account went for it.
    ///
    /// # Errors
    /// [`AccountError::EmailTaken`], [`AccountError::Conflict`] or [`AccountError::Store`].
    pub(super) async fn create_at(
        &self,
        email: &EmailAddress,
        making: Vec<Change>,
    ) -> Result<Option<UserId>, AccountError> {
        // A conflict: registered or claimed meanwhile.
        let decide = || async {
            let (mut changes, gone) = self.freeing(email).await?.ok_or(AccountError::EmailTaken)?;
            changes.extend(making.iter().cloned());
            Ok(Decision::Commit(changes, gone))
        };
        retry_on_conflict(|changes| self.store.commit(changes), decide).await
    }

    /// What is said of an account that made room for another one.
    pub(super) fn made_room(user: UserId) -> (Action, Outcome, About) {
        (Action::DeleteUser, Outcome::Success, About::user(user).because("address_of_another"))
    }

    /// Whoever registered it has not come back within [`UNCLAIMED_LIFE`].
    pub(super) async fn forget_unclaimed(&self, user: User) -> Result<Done, StoreError> {
        if !self.is_unclaimed(&user).await? {
            return Ok(Done::default());
        }
        let (end, reading) = (user.created_at.plus(UNCLAIMED_LIFE), self.clock.reading());
        if reading.earliest < end {
            // By the wall clock its time may be over, which is in doubt then: it is looked at when the rest has passed.
            let changes = vec![self.later(reading.wall_at(end), Work::ForgetUnverified(user.id))];
            return Ok(Done { changes, noted: None });
        }
        let about = About::user(user.id).because("never_verified");
        let changes = self.removing(&user, "account never verified").await?;
        Ok(Done { changes, noted: Some((Action::DeleteUser, Outcome::Success, about)) })
    }
}

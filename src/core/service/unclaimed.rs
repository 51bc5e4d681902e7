//! Unclaimed accounts: no requester has shown that they own the address.
//!
//! An attacker can register any address (pre-hijacking). Until its owner verifies it, such an account blocks no
//! owner: the owner of another account can change to the address, an operator can make an account of it, and after
//! seven days it is removed. An account that was ever verified or used, or that an operator made or changed, never
//! counts as unclaimed.

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
/// Then its address is free again, and attackers cannot fill the store with addresses that are never verified.
pub(super) const UNCLAIMED_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The account that has an address.
pub(super) enum AddressHolder {
    /// No account has it.
    Free,
    /// An account that is removed when another requester shows that they own the address.
    Unclaimed(Box<User>),
    Owner(Box<User>),
}

impl Accounts {
    /// Looks up which account has this address.
    pub(super) async fn holder(&self, email: &EmailAddress) -> Result<AddressHolder, StoreError> {
        Ok(match self.store.user_by_email(email).await?.map(Box::new) {
            None => AddressHolder::Free,
            Some(user) if self.is_unclaimed(&user).await? => AddressHolder::Unclaimed(user),
            Some(user) => AddressHolder::Owner(user),
        })
    }

    /// Whether the account was registered and its address was never verified.
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

    /// For an account with a record that does not say: whether its events do. Except for those that attackers can
    /// cause, the latest events are kept, so where the registration is still among them, nothing that an owner did
    /// after it is missing. In doubt the account counts as claimed.
    async fn is_fresh_registration(&self, user: UserId) -> Result<bool, StoreError> {
        let events = self.store.events(Some(user), EVENTS_KEPT + STRANGERS_EVENTS_KEPT).await?;
        // A requester without a session can ask for a link.
        let asked =
            |event: &Event| event.action == Action::RequestPasswordReset && event.actor == Actor::User;
        let done = events.iter().filter(|event| event.outcome == Outcome::Success && !asked(event));
        let done: Vec<Action> = done.map(|event| event.action).collect();
        Ok(done == [Action::Register])
    }

    /// Removes from an account, once its owner has verified the address, what requesters before gave it: the name,
    /// too.
    pub(super) async fn leave_behind(&self, user: &mut User) -> Result<(), StoreError> {
        if self.is_unclaimed(user).await? {
            user.name = None;
        }
        Ok(())
    }

    /// The changes that remove an unclaimed account; they conflict when the account was changed meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn removing(&self, user: &User, reason: &str) -> Result<Vec<Change>, StoreError> {
        let mut changes = vec![Change::UpdateUser(user.clone()), self.raising(user.id, reason)];
        changes.extend(self.ending_grants(user.id).await?);
        changes.push(Change::DeleteUser(user.id));
        Ok(changes)
    }

    /// The changes that make the address free for another account, with the id of the account that is removed for it;
    /// `None` when a claimed account has the address.
    pub(super) async fn freeing(
        &self,
        email: &EmailAddress,
    ) -> Result<Option<(Vec<Change>, Option<UserId>)>, StoreError> {
        Ok(match self.holder(email).await? {
            AddressHolder::Free => Some((Vec::new(), None)),
            AddressHolder::Unclaimed(user) => {
                Some((self.removing(&user, "the address is another account's").await?, Some(user.id)))
            }
            AddressHolder::Owner(_) => None,
        })
    }

    /// Commits a new account with this address, if it has one, in place of an unclaimed one. Returns the id of the
    /// account that was removed for it.
    ///
    /// # Errors
    /// [`AccountError::EmailTaken`], [`AccountError::Conflict`] or [`AccountError::Store`].
    pub(super) async fn create_at(
        &self,
        email: Option<&EmailAddress>,
        making: Vec<Change>,
    ) -> Result<Option<UserId>, AccountError> {
        // A conflict: registered or claimed meanwhile.
        let decide = || async {
            let (mut changes, gone) = match email {
                Some(email) => self.freeing(email).await?.ok_or(AccountError::EmailTaken)?,
                None => (Vec::new(), None),
            };
            changes.extend(making.iter().cloned());
            Ok(Decision::Commit(changes, gone))
        };
        retry_on_conflict(|changes| self.commit(changes), decide).await
    }

    /// The audit event of an unclaimed account that was removed for another one.
    pub(super) fn made_room(user: UserId) -> (Action, Outcome, About) {
        (Action::DeleteUser, Outcome::Success, About::user(user).because("address_of_another"))
    }

    /// The address was not verified within [`UNCLAIMED_LIFE`].
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

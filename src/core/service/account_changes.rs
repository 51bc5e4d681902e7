//! Every commit that makes, changes or removes accounts goes through here, so that what follows accounts misses none:
//! the counts of their password hashes ([`super::hash_costs`]), and the app ([`super::account_notices`]).

use std::sync::atomic::Ordering;

use super::accounts::Accounts;
use crate::domain::account::{PasswordHash, User, UserId};
use crate::ports::{Change, CommitError, Committed, StoreError};

/// What a commit makes of one account.
#[derive(Debug)]
pub(super) struct AccountChange {
    /// `None`: it is new.
    pub(super) before: Option<User>,
    /// `None`: it is removed.
    pub(super) after: Option<User>,
}

impl AccountChange {
    fn password(user: Option<&User>) -> Option<&PasswordHash> {
        user.and_then(|user| user.password.as_ref())
    }
}

impl Accounts {
    /// [`crate::ports::Store::commit`] for changes of accounts and whatever else belongs to them.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn commit(&self, mut changes: Vec<Change>) -> Result<Committed, CommitError> {
        let accounts = self.account_changes(&changes).await?;
        changes.extend(self.telling(&accounts).await?);
        let committed = self.store.commit(changes).await?;
        for change in &accounts {
            let before = AccountChange::password(change.before.as_ref());
            let after = AccountChange::password(change.after.as_ref());
            if before != after {
                self.passwords.changed(before, after);
                self.hash_changes.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(committed)
    }

    /// What `changes` make of accounts. A stored account that changes before the commit makes it conflict, unless it
    /// is removed.
    async fn account_changes(&self, changes: &[Change]) -> Result<Vec<AccountChange>, StoreError> {
        let mut accounts: Vec<AccountChange> = Vec::new();
        for change in changes {
            let (id, after) = match change {
                Change::CreateUser(user) => {
                    accounts.push(AccountChange { before: None, after: Some(user.clone()) });
                    continue;
                }
                Change::UpdateUser(user) => (user.id, Some(user.clone())),
                Change::DeleteUser(id) => (*id, None),
                _ => continue,
            };
            match accounts.iter_mut().find(|known| known.id() == Some(id)) {
                Some(known) => known.after = after,
                // Of one that is gone there is nothing to remove, and an update conflicts.
                None => {
                    if let Some(before) = self.store.user(id).await? {
                        accounts.push(AccountChange { before: Some(before), after });
                    }
                }
            }
        }
        Ok(accounts)
    }
}

impl AccountChange {
    fn id(&self) -> Option<UserId> {
        self.after.as_ref().or(self.before.as_ref()).map(|user| user.id)
    }
}

//! Counts the costs of the accounts' password hashes, so that an address without an account can be checked like one
//! that has an account ([`crate::domain::hash_cost`]).

use std::time::Duration;

use super::accounts::Accounts;
use crate::domain::hash_cost::HashCosts;
use crate::ports::StoreError;

/// How many accounts are read at a time.
const PAGE: usize = 256;

/// How often they are to be counted: hashes are renewed as their owners sign in.
pub const EVERY: Duration = Duration::from_secs(3600);

impl Accounts {
    /// Counts them all, in pages, so that no other reader of the store waits long.
    ///
    /// # Errors
    /// [`StoreError`]; then what was counted before stays.
    pub async fn count_hash_costs(&self) -> Result<(), StoreError> {
        let (mut costs, mut after) = (HashCosts::default(), None);
        loop {
            let page = self.store.users(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for hash in page.iter().filter_map(|user| user.password.as_ref()) {
                self.passwords.count(hash, &mut costs);
            }
        }
        self.passwords.counted(costs);
        Ok(())
    }
}

//! Counts the costs of the accounts' password hashes, so that an address without an account can be checked like one
//! that has an account ([`crate::domain::hash_cost`]).

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::accounts::Accounts;
use crate::domain::hash_cost::HashCosts;
use crate::ports::StoreError;

/// How many accounts are read at a time.
const PAGE: usize = 256;

/// How often a count is made anew at most, while accounts change.
const MOST_COUNTS: usize = 4;
/// Of so many accounts one may be counted wrong until the next count.
const NEGLIGIBLE: u64 = 256;

/// How often they are to be counted: other gateways change accounts, too.
pub const EVERY: Duration = Duration::from_secs(3600);

impl Accounts {
    /// Counts them all, in pages, so that no other reader of the store waits long. Hashes that change later are counted
    /// as they do ([`super::account_changes`]); where many have changed during the count, it is made anew.
    ///
    /// # Errors
    /// [`StoreError`]; then what was counted before stays.
    pub async fn count_hash_costs(&self) -> Result<(), StoreError> {
        for _ in 0..MOST_COUNTS {
            let seen = self.hash_changes.load(Ordering::Relaxed);
            let costs = self.hash_costs().await?;
            let accounts = costs.accounts();
            self.passwords.counted(costs);
            // The count may have missed each of them, or have counted it twice.
            let missed = self.hash_changes.load(Ordering::Relaxed).wrapping_sub(seen);
            if missed <= accounts / NEGLIGIBLE {
                break;
            }
        }
        Ok(())
    }

    async fn hash_costs(&self) -> Result<HashCosts, StoreError> {
        let (mut costs, mut after) = (HashCosts::default(), None);
        loop {
            let page = self.store.users(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for hash in page.iter().filter_map(|user| user.password.as_ref()) {
                self.passwords.count(hash, &mut costs);
            }
        }
        Ok(costs)
    }
}

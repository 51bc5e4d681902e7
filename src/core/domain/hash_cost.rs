//! The costs of the accounts' password hashes, so that an address without an account takes the same time as one with
//! (enumeration by timing).
//!
//! A hash that was imported at a higher cost than new ones have takes longer to check, until its owner signs in.
//! If an address without an account always took the usual time, a longer one would tell that there is an account.
//! So addresses without one are checked at dearer costs, too: as many of them, in proportion, as accounts are. Of
//! an address that takes long nothing more is known then than of any other.

use std::collections::BTreeMap;

/// How many accounts have a password hash of which cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashCosts {
    accounts: u64,
    by_cost: BTreeMap<u32, u64>,
}

impl HashCosts {
    /// Counts one account with a hash of this cost.
    pub fn add(&mut self, cost: u32) {
        self.accounts += 1;
        *self.by_cost.entry(cost).or_default() += 1;
    }

    /// The cost above `usual` at which the address of this tag is checked when it has no account; `None` for the
    /// usual one. `tag` must be evenly spread, secret, and always the same for the same address: an address that was
    /// dear yesterday and is cheap today would tell as much. While accounts are renewed it goes from dear to usual
    /// once, as an account does.
    #[must_use]
    pub fn stand_in(&self, tag: u64, usual: u32) -> Option<u32> {
        // Where the tag falls when all tags are shared out among the accounts, the dearest first.
        let place = (u128::from(tag) * u128::from(self.accounts)) >> 64;
        let mut passed: u128 = 0;
        for (cost, accounts) in self.by_cost.range(usual.saturating_add(1)..).rev() {
            passed += u128::from(*accounts);
            if place < passed {
                return Some(*cost);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(counted: &[(u32, u64)]) -> HashCosts {
        let mut costs = HashCosts::default();
        counted.iter().for_each(|(cost, times)| (0..*times).for_each(|_| costs.add(*cost)));
        costs
    }

    /// How many of 1,000 evenly spread tags get which cost.
    fn spread(costs: &HashCosts, usual: u32) -> BTreeMap<Option<u32>, u32> {
        let mut spread = BTreeMap::new();
        for n in 0..1000 {
            *spread.entry(costs.stand_in(u64::MAX / 2000 * (2 * n + 1), usual)).or_default() += 1;
        }
        spread
    }

    #[test]
    fn strangers_are_as_dear_as_accounts_in_the_same_proportion() {
        let counted = costs(&[(10, 20), (12, 50), (13, 20), (15, 10)]);
        assert_eq!(spread(&counted, 12), BTreeMap::from([(None, 700), (Some(13), 200), (Some(15), 100)]));
        assert_eq!(spread(&counted, 13), BTreeMap::from([(None, 900), (Some(15), 100)]));
        assert_eq!(spread(&counted, 15), BTreeMap::from([(None, 1000)]));
        assert_eq!(spread(&HashCosts::default(), 12), BTreeMap::from([(None, 1000)]));
        assert_eq!(spread(&costs(&[(15, 3)]), 12), BTreeMap::from([(Some(15), 1000)]));
        assert_eq!(costs(&[(15, 3)]).stand_in(u64::MAX, 12), Some(15));
    }

    #[test]
    fn an_address_gets_cheaper_at_most_once_while_accounts_are_renewed() {
        for n in 0..100 {
            let tag = u64::MAX / 100 * n;
            let dear: Vec<bool> = (0..=20)
                .map(|renewed| costs(&[(12, renewed), (15, 20 - renewed)]).stand_in(tag, 12).is_some())
                .collect();
            assert!(dear.windows(2).all(|pair| pair[0] || !pair[1]), "{n}: {dear:?}");
        }
    }
}

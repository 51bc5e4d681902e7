//! Takes own claims of accounts over that have become the gateway's to set ([`crate::domain::own_claims`]): once, at the
//! first start of a store that an earlier program has written.
//!
//! It goes account by account, each in a commit of its own, so a start that is killed leaves some of them done and the
//! next one does the rest. What does not fit is found, and named, again then. Of several gateways that start at once over
//! one store, one does it under a lease, and the others wait for it.

use std::time::Duration;

use super::accounts::{AccountError, Accounts};
use super::caller::Source;
use super::noted::About;
use super::retry::Decision;
use crate::domain::account::{User, UserId};
use crate::domain::audit::{Action, Outcome};
use crate::domain::lease::LeaseSubject;
use crate::domain::own_claims::UnfitClaim;
use crate::ports::{Change, Upgrade};

/// How many accounts are read at a time.
const PAGE: usize = 256;
/// How often it is looked whether another gateway is done with it.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What was taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// The accounts of which a claim became their groups or their user name.
    pub accounts: u64,
    /// The accounts with a claim that stays as it is and is in no token.
    pub unfit: u64,
}

/// What became of the claims of one account.
struct Outcomes {
    taken: Vec<String>,
    /// The user name, as it is now, where the claim wrote it in another form.
    rewritten: bool,
    unfit: Vec<UnfitClaim>,
}

impl Accounts {
    /// Takes the own claims of all accounts over, unless that was done before. Of two accounts that claim one user name the
    /// older one gets it.
    ///
    /// # Errors
    /// [`AccountError::Store`] or [`AccountError::Conflict`]; then the next call goes on with it.
    pub async fn take_over_claims(&self) -> Result<TakenOver, AccountError> {
        loop {
            if self.store.is_upgraded(Upgrade::ReservedClaims).await? {
                return Ok(TakenOver::default());
            }
            // However long it takes another gateway: nothing is served before it is done.
            let Some(mut held) = self.leases.claim_within(LeaseSubject::Upgrades, BETWEEN_LOOKS).await?
            else {
                continue;
            };
            // It may have been done before this gateway had the lease.
            let done = match self.store.is_upgraded(Upgrade::ReservedClaims).await {
                Ok(true) => Ok(Some(Ok(TakenOver::default()))),
                Ok(false) => {
                    let lease = held.require();
                    self.leases.run(&mut held, self.take_over_all(lease)).await
                }
                Err(error) => Err(error),
            };
            self.leases.release(&held).await;
            match done? {
                // Another gateway has taken over, or finished it.
                None | Some(Err(AccountError::Conflict)) => {}
                Some(outcome) => return outcome,
            }
        }
    }

    /// Under the lease that `lease` requires.
    async fn take_over_all(&self, lease: Change) -> Result<TakenOver, AccountError> {
        let mut done = TakenOver::default();
        let mut after = None;
        loop {
            let page = self.store.users(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for user in page.iter().filter(|user| user.unsaid_claims().next().is_some()) {
                let outcomes = self.take_over_claims_of(user.id).await?;
                done.accounts += u64::from(!outcomes.taken.is_empty());
                done.unfit += u64::from(!outcomes.unfit.is_empty());
                self.tell_of_claims(user.id, &outcomes);
            }
        }
        self.store.commit(vec![lease, Change::Upgraded(Upgrade::ReservedClaims)]).await?;
        Ok(done)
    }

    /// The accounts behind `after` with claims that no token says, at most `limit` of them, oldest first.
    ///
    /// # Errors
    /// [`AccountError::Store`].
    pub async fn accounts_with_unsaid_claims(
        &self,
        mut after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<User>, AccountError> {
        let (limit, mut found) = (limit.min(super::users::MAX_LISTED), Vec::new());
        while found.len() < limit {
            let page = self.store.users(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            found.extend(page.into_iter().filter(|user| user.unsaid_claims().next().is_some()));
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn take_over_claims_of(&self, id: UserId) -> Result<Outcomes, AccountError> {
        let decide = || async {
            let Some(before) = self.store.user(id).await? else {
                let (taken, unfit) = (Vec::new(), Vec::new());
                return Ok(Decision::Unchanged(Outcomes { taken, rewritten: false, unfit }));
            };
            let mut user = before.clone();
            let mut unfit = user.take_over_claims();
            if let Some(name) = user.username.as_ref().filter(|name| before.username.as_ref() != Some(name))
                && self.store.username_owner(name).await?.is_some_and(|owner| owner != id)
            {
                let claim = UnfitClaim::taken_username();
                user.username = None;
                user.claims
                    .extend(before.claims.get_key_value(&claim.name).map(|(k, v)| (k.clone(), v.clone())));
                unfit.push(claim);
            }
            let is_left = |name: &&String| !user.claims.contains_key(*name);
            let taken: Vec<String> = before.claims.keys().filter(is_left).cloned().collect();
            let rewritten = user.username.as_ref().is_some_and(|name| {
                taken
                    .iter()
                    .any(|claim| before.claims[claim].as_str().is_some_and(|text| text != name.as_str()))
            });
            let outcomes = Outcomes { taken, rewritten, unfit };
            Ok(match outcomes.taken.is_empty() {
                true => Decision::Unchanged(outcomes),
                false => Decision::Commit(vec![Change::UpdateUser(user)], outcomes),
            })
        };
        loop {
            match self.retry_on_conflict(&Source::System, decide).await {
                // Given to another account meanwhile: the next decision sees that.
                Err(AccountError::UsernameTaken) => {}
                other => return other,
            }
        }
    }

    /// A line of the log for each claim, and an event of the account. Neither holds what a claim says.
    fn tell_of_claims(&self, user: UserId, outcomes: &Outcomes) {
        for UnfitClaim { name, why } in &outcomes.unfit {
            tracing::warn!(
                %user, claim = name, %why,
                "an own claim of an account does not fit what is now the gateway's to set: it stays in the record and is in no token; \
                 set the account's `groups` or `username` instead"
            );
        }
        if outcomes.rewritten {
            tracing::warn!(
                %user,
                "the claim `preferred_username` of an account became its user name, in another form: apps see it in lower case"
            );
        }
        let unfit: Vec<&str> = outcomes.unfit.iter().map(|claim| claim.name.as_str()).collect();
        let outcome = if unfit.is_empty() { Outcome::Success } else { Outcome::Denied };
        let about = About::user(user)
            .because("claims_taken_over")
            .with("fields", outcomes.taken.clone())
            .with("unfit", unfit);
        self.note(&Source::System, Action::UpdateUser, outcome, about);
    }
}

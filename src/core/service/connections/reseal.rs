//! Key rotation of the vault, and other upkeep: a pass over all connections, in the background, each hour and after a
//! reload. What an earlier key sealed is sealed again, a connection that a changed configuration wants earlier
//! becomes due, and one that waits for an operator is retried.
//!
//! Once nothing is sealed with a key any more, and a day later, it can go: the errand that ends a grant holds
//! sealed tokens for an hour.

use std::time::Duration;

use super::Connections;
use crate::domain::account::UserId;
use crate::domain::connection::{Connection, ConnectionId};
use crate::domain::lease::LeaseSubject;
use crate::ports::{Change, CommitError, StoreError};
use crate::service::retry::{Decision, retry_on_conflict};

/// How many connections one step looks at.
const STEP: usize = 64;

/// By how much sooner a connection must be wanted to be written for it.
const SOONER: Duration = Duration::from_secs(3600);

/// The result of one step of sealing again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resealed {
    /// Where the next step begins; `None`: that was the last one.
    pub next: Option<(UserId, ConnectionId)>,
    /// How many connections were sealed with the present key.
    pub renewed: usize,
    /// How many are sealed with another and could not be opened.
    pub unreadable: usize,
}

/// What became of one.
enum Done {
    Renewed,
    NothingToDo,
    Unreadable,
}

impl Connections {
    /// Seals anew what is not sealed with the present key, a page from behind `after`; and makes due what is
    /// now wanted sooner than it was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reseal_step(&self, after: Option<(UserId, ConnectionId)>) -> Result<Resealed, StoreError> {
        let page = self.store.all_connections(after, STEP).await?;
        let next = page.last().filter(|_| page.len() == STEP).map(|last| (last.user, last.id));
        let mut sum = Resealed { next, renewed: 0, unreadable: 0 };
        for connection in &page {
            match self.reseal(connection).await? {
                Done::Renewed => sum.renewed += 1,
                Done::NothingToDo => {}
                Done::Unreadable => sum.unreadable += 1,
            }
        }
        Ok(sum)
    }

    async fn reseal(&self, connection: &Connection) -> Result<Done, StoreError> {
        let mut wanted = connection.clone();
        let held = wanted.end_wait_for_operator(self.now());
        self.schedule(&mut wanted);
        let sooner = held
            || match (wanted.due_at, connection.due_at) {
                (Some(wanted), Some(due)) => wanted.plus(SOONER) < due,
                (wanted, due) => wanted.is_some() && due.is_none(),
            };
        if !sooner && matches!(self.resealed(connection), Ok(None)) {
            return Ok(Done::NothingToDo);
        }
        let (user, id) = (connection.user, connection.id);
        let _turn = self.state.turns.turn(id).await;
        // A refresh writes no tokens over others than those that it began with, so its own would be lost.
        let Some(held) = self.leases.claim(LeaseSubject::Refresh(id)).await? else {
            return Ok(Done::NothingToDo);
        };
        let outcome = self.reseal_leased(user, id, sooner).await;
        self.release_refresh(id, &held).await;
        outcome
    }

    /// Seals anew with the turn and the lease of the connection.
    async fn reseal_leased(&self, user: UserId, id: ConnectionId, sooner: bool) -> Result<Done, StoreError> {
        // They replace what is there as soon as the store writes, and are known by it.
        if self.unwritten().contains_key(&id) {
            return Ok(Done::NothingToDo);
        }
        let decide = || async {
            let Some(mut current) = self.store.connection(user, id).await? else {
                return Ok(Decision::Unchanged((Done::NothingToDo, false)));
            };
            let mut done = Done::NothingToDo;
            match self.resealed(&current) {
                Ok(Some(tokens)) => {
                    current.tokens = Some(tokens);
                    done = Done::Renewed;
                }
                Ok(None) if sooner => {}
                Ok(None) => return Ok(Decision::Unchanged((Done::NothingToDo, false))),
                Err(error) => {
                    tracing::error!(connection = %id, %error, "tokens cannot be sealed anew");
                    return Ok(Decision::Unchanged((Done::Unreadable, false)));
                }
            }
            if sooner {
                current.end_wait_for_operator(self.now());
                self.schedule(&mut current);
            }
            Ok(Decision::Commit(vec![Change::UpdateConnection(current)], (done, true)))
        };
        match retry_on_conflict(|changes| self.store.commit(changes), decide).await {
            Ok((done, is_written)) => {
                if is_written {
                    self.state.due.notify_one();
                }
                Ok(done)
            }
            Err(error) => CommitError::unless_overtaken(error).map(|()| Done::NothingToDo),
        }
    }
}

//! The worker's pass over connections that are due: a refresh, a warning, a consent that its user did not give.
//!
//! The worker pauses a provider that times out, so that it has time for the connections to the others. A caller that
//! asks for a token is not affected by the pause.

use std::iter;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::future::FutureExt;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::refresh::Want;
use super::tell::NoticeKind;
use super::{ConnectionError, Connections};
use crate::domain::connection::{Connection, ConnectionId, Status};
use crate::domain::lease::{Lease, LeaseSubject};
use crate::domain::mail::Letter;
use crate::domain::time::UnixTime;
use crate::ports::{Change, CommitError, StoreError};
use crate::service::leases::require;

/// How many connections one look takes, and how many of them are under way at once.
const BATCH: usize = 64;
const AT_ONCE: usize = 8;
/// When one is looked at again that is due and with which nothing could be done.
const PUT_OFF: Duration = Duration::from_secs(60);
/// The same while its provider is not in service.
const NOT_IN_SERVICE: Duration = Duration::from_secs(300);
/// A provider that failed after so long is a slow one, and how long the worker then leaves it alone.
const SLOW: Duration = Duration::from_secs(5);
const LEFT_ALONE: Duration = Duration::from_secs(60);

impl Connections {
    /// Handles the connections that are due, or the first of them when there are many. Returns whether there was any.
    /// Tokens that the store did not take are written first: only this gateway has them, so they do not wait for the
    /// lease of a look, which another gateway may have.
    ///
    /// # Errors
    /// [`StoreError`]; then the rest is still to do.
    pub async fn do_due_connections(&self) -> Result<bool, StoreError> {
        let (wrote, unwritten) = self.write_all_kept().await;
        let due = self.store.due_connections(self.now(), BATCH).await?;
        let mut looks =
            stream::iter(due).map(|connection| self.look_leased(connection)).buffer_unordered(AT_ONCE);
        let (mut any, mut failed) = (wrote, unwritten);
        while let Some(outcome) = looks.next().await {
            match outcome {
                Ok(is_ours) => any |= is_ours,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(any), Err)
    }

    /// Writes what refreshes brought and the store did not take, and extends the lease of what cannot be written yet.
    /// Returns whether there was any that it need not try again, and why one was not written.
    async fn write_all_kept(&self) -> (bool, Option<StoreError>) {
        // A task that has the turn writes or replaces the tokens itself.
        let is_free = |id: &ConnectionId| self.state.turns.queued(*id) == 0;
        let ids: Vec<ConnectionId> = self.unwritten().keys().copied().filter(is_free).collect();
        let write = |id| async move {
            let _turn = self.state.turns.turn(id).await;
            self.write_kept(id).await
        };
        let mut writes = stream::iter(ids).map(write).buffer_unordered(AT_ONCE);
        let (mut any, mut failed) = (false, None);
        while let Some(outcome) = writes.next().await {
            match outcome {
                Some(Err(ConnectionError::Store(error))) => failed = Some(error),
                Some(_) => any = true,
                None => {}
            }
        }
        (any, failed)
    }

    /// Looks at a connection, unless another gateway does or has done: then false.
    async fn look_leased(&self, due: Connection) -> Result<bool, StoreError> {
        let Some(mut held) = self.leases.claim(LeaseSubject::Due(due.id)).await? else { return Ok(false) };
        let lease = held.lease();
        let outcome = match self.store.connection(due.user, due.id).await {
            Ok(Some(current)) if current.due_at.is_some_and(|at| at <= self.now()) => {
                let looking = self.leases.hold_during(&mut held, self.look_at(current, lease)).await;
                looking.and_then(|looked| looked.map_or(Ok(false), |looked| looked.map(|()| true)))
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        self.leases.release(&held).await;
        outcome
    }

    async fn look_at(&self, connection: Connection, lease: Lease) -> Result<(), StoreError> {
        let (user, id) = (connection.user, connection.id);
        let is_left_alone =
            self.slow().get(&connection.provider).is_some_and(|until| Instant::now() < *until);
        if is_left_alone && connection.status == Status::Active {
            return self.put_off(connection).await;
        }
        let started = Instant::now();
        // One with which nothing can be done must not keep the others from it.
        let why = match AssertUnwindSafe(self.keep_up(&connection, lease)).catch_unwind().await {
            Ok(Err(ConnectionError::Store(error @ (StoreError::Unavailable(_) | StoreError::Closed(_))))) => {
                return Err(error);
            }
            Ok(Err(error @ (ConnectionError::Store(_) | ConnectionError::Vault(_)))) => {
                Some(error.to_string())
            }
            Ok(Err(ConnectionError::Provider { .. })) if started.elapsed() >= SLOW => {
                self.slow().insert(connection.provider.clone(), Instant::now() + LEFT_ALONE);
                None
            }
            // Whatever else it is stands in the record.
            Ok(_) => None,
            Err(_) => Some("it panicked".to_owned()),
        };
        if let Some(why) = why {
            tracing::error!(connection = %id, why, "nothing could be done with a connection that is due");
        }
        let Some(mut now_is) = self.store.connection(user, id).await? else { return Ok(()) };
        let now = self.now();
        if now_is.due_at.is_none_or(|at| now < at) {
            return Ok(());
        }
        self.schedule(&mut now_is);
        if now_is.due_at.is_some_and(|at| at <= now) {
            let in_service = self.providers.get(&now_is.provider).is_some();
            now_is.due_at = Some(now.plus(if in_service { PUT_OFF } else { NOT_IN_SERVICE }));
        }
        settled(self.store.commit(vec![Change::UpdateConnection(now_is)]).await.map(drop))
    }

    /// Not all of them at the same moment again.
    async fn put_off(&self, mut connection: Connection) -> Result<(), StoreError> {
        let extra = PUT_OFF.mul_f64(f64::from(self.chance()) / f64::from(u16::MAX));
        connection.due_at = Some(self.now().plus(LEFT_ALONE + extra));
        settled(self.store.commit(vec![Change::UpdateConnection(connection)]).await.map(drop))
    }

    async fn keep_up(&self, connection: &Connection, lease: Lease) -> Result<(), ConnectionError> {
        let (reading, upkeep) = (self.clock.reading(), self.upkeep(&connection.provider));
        let now = reading.wall;
        // What is removed, and a letter that was sent, cannot be taken back.
        if connection.has_lapsed(reading.earliest) {
            return Ok(self.clear_consent(connection).await?);
        }
        if let Some(end) = connection.is_to_warn(reading.earliest, upkeep) {
            self.warn(connection, end, lease).await?;
        }
        if connection.is_to_refresh(now, upkeep) {
            self.refresh(connection.user, connection.id, Want::Due).await?;
        }
        Ok(())
    }

    /// The consent expired without a callback. A connection that was never established is removed.
    async fn clear_consent(&self, connection: &Connection) -> Result<(), StoreError> {
        let mut cleared = connection.clone();
        cleared.consent = None;
        self.schedule(&mut cleared);
        // Updated before it is removed, so that the commit conflicts if a callback has come meanwhile.
        let mut changes = vec![Change::UpdateConnection(cleared)];
        if connection.status == Status::Pending {
            changes.push(Change::RemoveConnection(connection.user, connection.id));
        }
        settled(self.store.commit(changes).await.map(drop))
    }

    /// Under the lease of the look: once another gateway has taken it over, that one may have sent the letter.
    async fn warn(
        &self,
        connection: &Connection,
        end: UnixTime,
        lease: Lease,
    ) -> Result<(), ConnectionError> {
        let mail = self.tell_user(Letter::GrantEnding, connection, Some(end)).await?;
        let others = iter::once(require(lease)).chain(mail).collect();
        let warned = |connection: &mut Connection| connection.warned_of = Some(end);
        self.amend_and_tell(connection, Some(NoticeKind::Ending), others, warned).await?;
        self.wake();
        Ok(())
    }
}

/// A conflict means that another task has handled the connection meanwhile.
fn settled(outcome: Result<(), CommitError>) -> Result<(), StoreError> {
    outcome.or_else(CommitError::unless_overtaken)
}

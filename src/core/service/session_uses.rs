//! The uses of sessions that travel in cookies: kept in memory, and written at most once a minute for each session.
//!
//! A use moves the idle end. It is written within a second when none was written for a minute, so a record in the store
//! is behind by less than a minute; a use that is not written yet is asked for here ([`SessionUses::latest`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;
use super::retry::{Decision, retry_on_conflict};
use super::worker::Worker;
use crate::domain::account::UserId;
use crate::domain::session::{Lifetimes, Session, SessionId};
use crate::domain::time::UnixTime;
use crate::ports::{Change, CommitError, StoreError};

/// From one write of a session's use to the next.
const BETWEEN_WRITES: Duration = Duration::from_secs(60);
/// How many sessions are remembered at once. Beyond that, uses of further ones are forgotten until some were written:
/// each is a session of its own, so only that many people come near it.
const MOST: usize = 500_000;
/// How many are written in one commit.
const BATCH: usize = 64;

type Key = (UserId, SessionId);

/// What is known of a session's uses.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    /// The last use, when it is not written yet.
    pending: Option<UnixTime>,
    /// When a use was last written.
    written_at: Option<UnixTime>,
}

impl Use {
    /// Whether a write may be made at `now`. A clock that was set back holds none up.
    fn is_due(&self, now: UnixTime) -> bool {
        self.written_at.is_none_or(|at| now >= at.plus(BETWEEN_WRITES) || now < at)
    }
}

/// The uses that are not written yet, in memory.
#[derive(Debug, Default)]
pub struct SessionUses(Mutex<HashMap<Key, Use>>);

impl SessionUses {
    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a use. Never blocks for long: one look into a map.
    pub fn note(&self, user: UserId, session: SessionId, at: UnixTime) {
        let mut entries = self.entries();
        if entries.len() >= MOST && !entries.contains_key(&(user, session)) {
            return;
        }
        let noted = entries.entry((user, session)).or_default();
        noted.pending = noted.pending.max(Some(at));
    }

    /// The last use of a session, when it is not written yet.
    #[must_use]
    pub fn latest(&self, user: UserId, session: SessionId) -> Option<UnixTime> {
        self.entries().get(&(user, session))?.pending
    }

    /// `session` with its last use, written or not.
    #[must_use]
    pub fn apply(&self, session: Session, lifetimes: Lifetimes) -> Session {
        match self.latest(session.user, session.id).filter(|_| session.browser.is_some()) {
            Some(at) => session.used(at, lifetimes),
            None => session,
        }
    }

    /// The uses to be written at `now`, or all of them; forgets what need not be remembered any more.
    fn due(&self, now: UnixTime, all: bool) -> Vec<(Key, UnixTime)> {
        let mut entries = self.entries();
        entries.retain(|_, noted| noted.pending.is_some() || !noted.is_due(now));
        let due = entries.iter().filter(|(_, noted)| all || noted.is_due(now));
        due.filter_map(|(key, noted)| Some((*key, noted.pending?))).collect()
    }

    /// The use at `at` was written at `now`, or there is no such session any more.
    fn written(&self, key: Key, at: UnixTime, now: UnixTime) {
        if let Some(noted) = self.entries().get_mut(&key) {
            noted.written_at = Some(now);
            noted.pending = noted.pending.filter(|pending| *pending > at);
        }
    }
}

impl Accounts {
    /// Notes that a session was used at `at`, so that its idle end moves. In memory: it is written at most once a minute
    /// by [`Accounts::write_session_uses`]. Never blocks for long, and does nothing for a session of refresh tokens. A
    /// caller on the request path need not note more than one use of a session within some seconds.
    pub fn used(&self, user: UserId, session: SessionId, at: UnixTime) {
        self.uses.note(user, session, at);
    }

    /// The uses that are not written yet.
    #[must_use]
    pub fn session_uses(&self) -> Arc<SessionUses> {
        Arc::clone(&self.uses)
    }

    /// Writes uses as they become due, those of refresh tokens ([`super::successor_uses`]) too, until `closing`, and then
    /// all that are left.
    pub async fn write_session_uses(&self, closing: CancellationToken) {
        let woken = Notify::new();
        let worker = Worker { what: "uses of sessions", woken: &woken, closing: &closing };
        let pass = || async {
            self.write_successor_uses().await?;
            self.write_due_uses().await
        };
        worker.run(pass).await;
        if let Err(error) = self.write_successor_uses().await {
            tracing::warn!(
                %error,
                "the last uses of refresh tokens were not written; their parents may bring them once more"
            );
        }
        if let Err(error) = self.write_uses(true).await {
            tracing::warn!(%error, "the last uses of sessions were not written; some may end sooner");
        }
    }

    /// Writes the uses that are due. False: nothing is to be done at once.
    ///
    /// # Errors
    /// [`StoreError`]; what was not written is tried again.
    pub async fn write_due_uses(&self) -> Result<bool, StoreError> {
        self.write_uses(false).await.map(|()| false)
    }

    async fn write_uses(&self, all: bool) -> Result<(), StoreError> {
        let now = self.now();
        let due = self.uses.due(now, all);
        for batch in due.chunks(BATCH) {
            match self.write_batch(batch).await {
                Ok(()) => {}
                // One of them was changed meanwhile: each on its own.
                Err(error) => {
                    error.unless_overtaken()?;
                    for (key, at) in batch {
                        self.write_use(*key, *at).await?;
                    }
                }
            }
            for (key, at) in batch {
                self.uses.written(*key, *at, now);
            }
        }
        Ok(())
    }

    async fn write_batch(&self, batch: &[(Key, UnixTime)]) -> Result<(), CommitError> {
        let mut changes = Vec::new();
        for (key, at) in batch {
            changes.extend(self.use_of(*key, *at).await?);
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.store.commit(changes).await.map(drop)
    }

    async fn write_use(&self, key: Key, at: UnixTime) -> Result<(), StoreError> {
        let decide = || async {
            Ok(match self.use_of(key, at).await? {
                Some(change) => Decision::Commit(vec![change], ()),
                None => Decision::Unchanged(()),
            })
        };
        // A session that is changed all the time has its last use written with that.
        retry_on_conflict(|changes| self.store.commit(changes), decide)
            .await
            .or_else(CommitError::unless_overtaken)
    }

    /// The session with its use; `None` when it has ended, or a later use is written. A session that was removed is never
    /// written again: the store refuses an update of what is gone.
    async fn use_of(&self, (user, session): Key, at: UnixTime) -> Result<Option<Change>, StoreError> {
        let found = self.store.session(user, session).await?;
        let found = found.filter(|session| session.browser.is_some() && session.last_used_at < at);
        Ok(found.map(|session| Change::UpdateSession(session.used(at, self.settings.lifetimes))))
    }
}

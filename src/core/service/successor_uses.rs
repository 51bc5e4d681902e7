//! Which refresh tokens were used since they replaced their parents (refresh token rotation): noted in memory, and written
//! behind.
//!
//! After [`crate::domain::session::REPEAT_WINDOW`] the direct parent brings its successor only as long as no use of that
//! successor is known (`tokens.refresh_repeat`). A use is the first verification of an access token that came with it,
//! or its own presentation. The request path notes one in memory, and a worker writes it within about a second
//! ([`Accounts::write_successor_uses`]). What is noted and not written yet counts on this replica, and is lost when the
//! process is killed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::accounts::Accounts;
use super::retry::{Decision, retry_on_conflict};
use crate::domain::account::UserId;
use crate::domain::claims::ROTATION_CLAIM;
use crate::domain::identity::Identity;
use crate::domain::session::{Session, SessionId, SuccessorUse};
use crate::domain::time::UnixTime;
use crate::ports::{Change, Clock, CommitError, FirstVerified, StoreError};

/// How many sessions are noted at once. The use of a further one is not remembered; instead every successor that is as
/// old as that counts as used.
const MOST: usize = 500_000;
/// How many are written in one commit.
const BATCH: usize = 64;

type Key = (UserId, SessionId);

#[derive(Debug, Default)]
struct Noted {
    /// The latest place in each row that was seen in use.
    places: HashMap<Key, u32>,
    /// When a use was last not remembered for lack of room.
    lost_at: Option<UnixTime>,
}

/// The uses that are not written yet, in memory.
pub struct SuccessorUses {
    noted: Mutex<Noted>,
    clock: Arc<dyn Clock>,
    most: usize,
}

impl SuccessorUses {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> SuccessorUses {
        SuccessorUses::bounded(clock, MOST)
    }

    /// Remembers at most `most` sessions at once.
    #[must_use]
    pub fn bounded(clock: Arc<dyn Clock>, most: usize) -> SuccessorUses {
        SuccessorUses { noted: Mutex::default(), clock, most }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the token at `place` of the session's row was used, or an access token that came with it. Never blocks
    /// for long: one look into a map.
    pub fn note(&self, user: UserId, session: SessionId, place: u32) {
        let mut noted = self.noted();
        if noted.places.len() >= self.most && !noted.places.contains_key(&(user, session)) {
            noted.lost_at = noted.lost_at.max(Some(self.clock.now()));
            return;
        }
        let known = noted.places.entry((user, session)).or_insert(place);
        *known = place.max(*known);
    }

    /// Forgets the use of the token at `place`, or of an earlier one: it was written, or the token was replaced, which says
    /// as much.
    pub(super) fn forget(&self, key: Key, place: u32) {
        let mut noted = self.noted();
        if noted.places.get(&key).is_some_and(|known| *known <= place) {
            noted.places.remove(&key);
        }
    }

    /// `session` with the use of its present token that is not written yet.
    #[must_use]
    pub fn apply(&self, session: Session) -> Session {
        if session.successor != SuccessorUse::Unused {
            return session;
        }
        let noted = self.noted();
        let is_noted = noted.places.get(&(session.user, session.id)) >= Some(&session.generation);
        let may_be_lost = noted.lost_at.is_some_and(|lost| session.rotated_at <= lost);
        match is_noted || may_be_lost {
            true => Session { successor: SuccessorUse::Used, ..session },
            false => session,
        }
    }

    fn due(&self) -> Vec<(Key, u32)> {
        self.noted().places.iter().map(|(key, place)| (*key, *place)).collect()
    }
}

impl FirstVerified for SuccessorUses {
    fn passed(&self, identity: &Identity) {
        // Few tokens have it: those of sessions whose refresh tokens may be repeated for longer.
        let Some(place) = identity.claims.get(ROTATION_CLAIM) else { return };
        let place = place.as_u64().and_then(|place| u32::try_from(place).ok());
        let session = identity.session.as_deref().and_then(|session| session.parse().ok());
        if let (Some(place), Some(session), Ok(user)) = (place, session, identity.subject.parse()) {
            self.note(user, session, place);
        }
    }
}

impl Accounts {
    /// The uses that are not written yet, for the verifier to note those of access tokens.
    #[must_use]
    pub fn successor_uses(&self) -> Arc<SuccessorUses> {
        Arc::clone(&self.successors)
    }

    /// Writes what was noted.
    ///
    /// # Errors
    /// [`StoreError`]; what was not written is tried again.
    pub async fn write_successor_uses(&self) -> Result<(), StoreError> {
        for batch in self.successors.due().chunks(BATCH) {
            let mut changes = Vec::new();
            for (key, place) in batch {
                changes.extend(self.successor_use(*key, *place).await?);
            }
            let written = match changes.is_empty() {
                true => Ok(()),
                false => self.store.commit(changes).await.map(drop),
            };
            // One of them was changed meanwhile: each on its own.
            if let Err(error) = written {
                error.unless_overtaken()?;
                for (key, place) in batch {
                    self.write_successor_use(*key, *place).await?;
                }
            }
            for (key, place) in batch {
                self.successors.forget(*key, *place);
            }
        }
        Ok(())
    }

    async fn write_successor_use(&self, key: Key, place: u32) -> Result<(), StoreError> {
        let decide = || async {
            Ok::<_, CommitError>(match self.successor_use(key, place).await? {
                Some(change) => Decision::Commit(vec![change], ()),
                None => Decision::Unchanged(()),
            })
        };
        match retry_on_conflict(|changes| self.store.commit(changes), decide).await {
            Ok(()) => Ok(()),
            // It stays noted, and is tried again.
            Err(error) if error.is_overtaken() => Err(StoreError::Unavailable(error.to_string())),
            Err(error) => Err(error.of_the_store()),
        }
    }

    /// The session with the use of its present token; `None` when it has another by now, has ended, or says so already.
    async fn successor_use(&self, (user, session): Key, place: u32) -> Result<Option<Change>, StoreError> {
        let found = self.store.session(user, session).await?;
        let found =
            found.filter(|session| session.successor == SuccessorUse::Unused && session.generation <= place);
        Ok(found.map(|session| Change::UpdateSession(Session { successor: SuccessorUse::Used, ..session })))
    }
}

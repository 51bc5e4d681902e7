//! Commits on their way to the database: those that wait at the same time go in one message (group commit).
//!
//! A few lanes, each with a connection of its own, take what waits and send it as a batch. A caller that leaves cancels
//! nothing. What was sent and not answered is never sent again: it may be done. Only what the database says that it took
//! back because of other transactions (a deadlock, a serialization failure) is made again, a few times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::commit::{CommitOutcome, EncodedCommit, batch, outcomes, position};
use super::connect::DatabasePool;
use super::failure::{DatabaseFailure, FailureKind, is_of_the_database, words_of_state};
use palisade_core::domain::revocation::Revocation;
use palisade_core::ports::{
    Acknowledgement, Change, CommitError, Committed, ConfirmedBy, Position, StoreError,
};
use palisade_core::service::outage::Outage;

/// How many commits go in one message. Each is a subtransaction, of which the database keeps up to 64 in memory.
const BATCH: usize = 32;
/// How many bytes of commits go in one message, unless one alone is larger.
const BATCH_BYTES: usize = 1 << 20;
/// How large one commit may be, in bytes: more is no commit of this program.
const COMMIT_BYTES: usize = 64 << 20;
/// How many commits may wait. More are refused at once.
pub const WAITING: usize = 1024;
/// How long a commit may wait before it is given up unsent.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a commit is made that others overtake.
const TRIES: u32 = 5;
/// How long to wait before the next try; doubled each time.
const PAUSE: Duration = Duration::from_millis(10);
/// How often to ask, after a failure, whether the database takes writes again.
const PROBE_EVERY: Duration = Duration::from_millis(500);

struct Queued {
    commit: EncodedCommit,
    since: Instant,
    reply: oneshot::Sender<Result<Made, CommitError>>,
}

/// A commit that was made. Without a position it wrote nothing.
struct Made {
    revocations: Vec<Revocation>,
    position: Option<Position>,
}

/// Sends commits to the database.
pub struct CommitWriter {
    queue: mpsc::Sender<Queued>,
    state: Arc<WriterState>,
    probe: AbortHandle,
}

struct WriterState {
    pool: DatabasePool,
    is_writable: AtomicBool,
    /// Why there was no connection at the last try; then no commit waits for another one.
    unreached: Mutex<Option<DatabaseFailure>>,
    failed: Notify,
    /// Told while commits are refused for the sake of a lock. Others may succeed meanwhile, so nothing says that it is over.
    locked: Outage,
    position: Mutex<Position>,
}

impl Drop for CommitWriter {
    fn drop(&mut self) {
        self.probe.abort();
    }
}

impl CommitWriter {
    /// Starts a lane for each connection of `pool`, which is the writer's alone, at the position that the database has
    /// come to.
    ///
    /// # Errors
    /// [`DatabaseFailure`]: that cannot be read.
    pub async fn start(pool: DatabasePool) -> Result<CommitWriter, DatabaseFailure> {
        let rows = pool
            .read(
                // A sequence that was never asked has the same last value as one that was asked once.
                "SELECT h.position, CASE WHEN c.is_called THEN c.last_value ELSE 0 END \
                 FROM palisade.head h, palisade.commits c",
                &[],
            )
            .await?;
        let row = rows.first().ok_or_else(|| DatabaseFailure::unknown("the head of the feed is missing"))?;
        let at = position(row.get(0), row.get(1));
        let lanes = pool.settings().size.max(1);
        let state = Arc::new(WriterState {
            pool,
            is_writable: AtomicBool::new(true),
            unreached: Mutex::new(None),
            failed: Notify::new(),
            locked: Outage::new("commits are refused, since another transaction keeps a lock for too long"),
            position: Mutex::new(at),
        });
        let (queue, waiting) = mpsc::channel(WAITING);
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        for _ in 0..lanes {
            tokio::spawn(lane(Arc::clone(&state), Arc::clone(&waiting)));
        }
        let probe = tokio::spawn(probe(Arc::clone(&state))).abort_handle();
        Ok(CommitWriter { queue, state, probe })
    }

    /// Makes every change, in this order, or none. What it answers is durable in the database; whether the other replicas
    /// have its revocations is not asked here.
    ///
    /// # Errors
    /// [`CommitError`]; for [`StoreError::Unavailable`] it may have been done all the same.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let since = Instant::now();
        let commit = EncodedCommit::of(changes)?;
        if commit.len() > COMMIT_BYTES {
            return Err(unavailable("a commit is too large for the database").into());
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Queued { commit, since, reply }).map_err(|error| match error {
            TrySendError::Full(_) => unavailable(format!("{WAITING} commits wait for the database already")),
            TrySendError::Closed(_) => unavailable("the store is closed"),
        })?;
        let made =
            answer.await.map_err(|_| unavailable("the store was closed while a commit was under way"))??;
        let position = made.position.unwrap_or_else(|| self.position());
        let acknowledgement = Acknowledgement { by: ConfirmedBy::Database, took: since.elapsed() };
        Ok(Committed { revocations: made.revocations, position, acknowledgement })
    }

    /// The greatest position that was acknowledged or observed.
    #[must_use]
    pub fn position(&self) -> Position {
        *self.state.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a position that another replica's commit has come to.
    pub fn observe(&self, position: Position) {
        self.state.observe(position);
    }

    /// Whether the last write was acknowledged. After a failure this is asked of the database twice a second.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.state.is_writable.load(Ordering::Acquire)
    }

    /// Says of a write that went past this writer whether it was acknowledged.
    pub fn note(&self, is_acknowledged: bool) {
        match is_acknowledged {
            true => self.state.succeeded(),
            false => self.state.failed("a write beside the commits failed"),
        }
    }
}

fn unavailable(why: impl Into<String>) -> StoreError {
    StoreError::Unavailable(why.into())
}

impl WriterState {
    fn observe(&self, position: Position) {
        let mut known = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        *known = position.max(*known);
    }

    fn unreached(&self) -> MutexGuard<'_, Option<DatabaseFailure>> {
        self.unreached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        *self.unreached() = None;
        if !self.is_writable.swap(true, Ordering::AcqRel) {
            tracing::info!("the database takes writes again");
        }
    }

    fn failed(&self, why: &str) {
        if self.is_writable.swap(false, Ordering::AcqRel) {
            tracing::error!(why, "the store cannot write");
        }
        self.failed.notify_one();
    }

    /// Sends a batch until each of its commits has an outcome.
    async fn make(&self, mut waiting: Vec<Queued>) {
        // In one order for all lanes and replicas: see `EncodedCommit::order`.
        waiting.sort_by_key(|queued| queued.commit.order);
        let mut again = (0, String::new());
        while !waiting.is_empty() {
            if again.0 >= TRIES {
                return refuse(waiting, &unavailable(words_of_state(&again.1, "")));
            }
            if again.0 > 0 {
                tokio::time::sleep(PAUSE * 2u32.pow(again.0)).await;
            }
            match self.send(waiting).await {
                Some((overtaken, state)) => {
                    waiting = overtaken;
                    again = (again.0 + 1, state);
                }
                None => return,
            }
        }
    }

    /// Sends a batch once. Returns the commits that may be made again, with the SQLSTATE that says so.
    async fn send(&self, waiting: Vec<Queued>) -> Option<(Vec<Queued>, String)> {
        let call = format!("palisade.commit_1('{}')", batch(waiting.iter().map(|queued| &queued.commit)));
        let answer = match self.pool.call(&call).await {
            Ok(answer) => answer.unwrap_or_default(),
            Err(failure) if failure.is_overtaken() => {
                return Some((waiting, failure.state.unwrap_or_default()));
            }
            Err(failure) => {
                if failure.kind == FailureKind::NotSent {
                    *self.unreached() = Some(failure.clone());
                }
                // A replica that is healthy must not be taken out of service for a lock that another session keeps.
                match failure.is_of_a_lock() {
                    true => self.locked.failed(&failure),
                    false => self.failed(&failure.to_string()),
                }
                refuse(waiting, &failure.into());
                return None;
            }
        };
        let outcomes = match outcomes(&answer, waiting.len()) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                refuse(waiting, &error);
                return None;
            }
        };
        // Before the answers: a caller that gets one and asks for the status or the position must not see the old one.
        let is_written =
            |outcome: &CommitOutcome| matches!(outcome, CommitOutcome::Done { position: Some(_), .. });
        let failed = outcomes.iter().find_map(|outcome| match outcome {
            CommitOutcome::Failed { state } if is_of_the_database(state) => Some(words_of_state(state, "")),
            _ => None,
        });
        match failed {
            Some(why) => self.failed(&why),
            None if outcomes.iter().any(is_written) => self.succeeded(),
            None => {}
        }
        let mut overtaken = (Vec::new(), String::new());
        for (queued, outcome) in waiting.into_iter().zip(outcomes) {
            let answer = match outcome {
                CommitOutcome::Done { revocations, position } => {
                    position.into_iter().for_each(|position| self.observe(position));
                    Ok(Made { revocations, position })
                }
                CommitOutcome::Refused(error) => Err(error),
                CommitOutcome::Failed { state } => Err(unavailable(words_of_state(&state, "")).into()),
                CommitOutcome::Again { state } => {
                    overtaken.0.push(queued);
                    overtaken.1 = state;
                    continue;
                }
            };
            // A caller that left does not need its answer; the commit stands.
            let _ = queued.reply.send(answer);
        }
        Some(overtaken)
    }
}

fn refuse(waiting: Vec<Queued>, error: &StoreError) {
    for queued in waiting {
        // As above.
        let _ = queued.reply.send(Err(error.clone().into()));
    }
}

type WaitingCommits = Arc<tokio::sync::Mutex<mpsc::Receiver<Queued>>>;

/// Sends what waits, until the writer is gone and nothing waits.
async fn lane(state: Arc<WriterState>, waiting: WaitingCommits) {
    while let Some(taken) = next(&waiting).await {
        let (taken, late): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|queued| queued.since.elapsed() < QUEUE_TIMEOUT);
        refuse(
            late,
            &unavailable("the database is too slow: a commit has waited its time, and was not sent"),
        );
        let unreached = state.unreached().clone();
        match unreached {
            Some(failure) => refuse(taken, &failure.into()),
            None => state.make(taken).await,
        }
    }
}

/// What waits, up to the size of a batch; at least one commit. `None`: the writer is gone.
async fn next(waiting: &WaitingCommits) -> Option<Vec<Queued>> {
    let mut waiting = waiting.lock().await;
    let first = waiting.recv().await?;
    let mut bytes = first.commit.len();
    let mut taken = vec![first];
    while taken.len() < BATCH && bytes < BATCH_BYTES {
        let Ok(queued) = waiting.try_recv() else { break };
        bytes += queued.commit.len();
        taken.push(queued);
    }
    Some(taken)
}

/// After a failure, asks until the database takes a write.
async fn probe(state: Arc<WriterState>) {
    let statement = "INSERT INTO palisade.probe (one, at) VALUES (true, pg_catalog.clock_timestamp()) \
                     ON CONFLICT (one) DO UPDATE SET at = EXCLUDED.at";
    loop {
        state.failed.notified().await;
        while !state.is_writable.load(Ordering::Acquire) {
            tokio::time::sleep(PROBE_EVERY).await;
            match state.pool.write(statement).await {
                Ok(_) => state.succeeded(),
                Err(failure) => tracing::debug!(why = %failure, "the database still takes no writes"),
            }
        }
    }
}

//! The store in PostgreSQL: what it is made of, and what it lets its parts do at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use palisade_core::ports::{CommitError, Committed, StoreError};
use tokio::task::AbortHandle;

use super::commit::{feed_position, is_entry, position};
use super::connect::{DatabasePool, TextRow};
use super::failure::DatabaseFailure;
use super::feed::Feed;
use super::leases::bytea;
use super::migrations::{MigrationError, migrate};
use super::notes::NoteWrites;
use super::numbers::from_bigint;
use super::read::{Reads, column};
use super::settings::PostgresSettings;
use super::snapshot::StoreSnapshot;
use super::status::Sizes;
use super::writer::CommitWriter;

/// SQL: whether anything may be written.
pub(super) const OPEN: &str =
    "(SELECT NOT i.importing AND i.closed_for IS NULL FROM palisade.installation i)";

/// Why a store that is being filled answers nothing, or whose import has failed.
const IMPORTING: &str =
    "records are being imported, or were not imported whole: import them again into an empty database";

/// Whether the server has no room, on its disk or for connections.
fn is_full(failure: &DatabaseFailure) -> bool {
    failure.state.as_deref().is_some_and(|state| state.starts_with("53"))
}

/// How many connections commits have of those that a store may have.
fn lanes(connections: usize) -> usize {
    (connections / 4).clamp(1, 4)
}

/// Durable state in a database that several gateways share.
pub struct PostgresStore {
    pool: DatabasePool,
    pub(super) writer: CommitWriter,
    pub(super) sizes: Arc<Sizes>,
    pub(super) note_writes: NoteWrites,
    /// By which commits that revoke something are acknowledged.
    feed: OnceLock<Arc<Feed>>,
    looks: AbortHandle,
    /// An import is under way, or has failed.
    importing: AtomicBool,
    closed: AtomicBool,
}

/// Why the store in the database does not open.
#[derive(Debug, thiserror::Error)]
pub enum PostgresOpenError {
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error(transparent)]
    Database(#[from] DatabaseFailure),
    /// An import was killed or has failed: there is a part of its records.
    #[error(
        "the database holds a part of an import that did not come to its end, and serves nothing: \
         drop the schema `palisade` (`DROP SCHEMA palisade CASCADE`) and import the records again"
    )]
    PartlyImported,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PostgresOpenError {
    /// Whether the database is away for a reason that is over by itself as a rule
    /// ([`DatabaseFailure::is_passing`]).
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            PostgresOpenError::Migration(
                MigrationError::Database(failure) | MigrationError::Failed { failure, .. },
            )
            | PostgresOpenError::Database(failure) => failure.is_passing(),
            PostgresOpenError::Migration(MigrationError::Outdated { .. })
            | PostgresOpenError::PartlyImported
            | PostgresOpenError::Store(_) => false,
        }
    }
}

impl PostgresStore {
    /// Opens the store at this place, bringing its schema up to date. Must be called in a tokio runtime, where it does
    /// its work until it is dropped.
    ///
    /// # Errors
    /// [`PostgresOpenError`].
    pub async fn open(settings: PostgresSettings) -> Result<Arc<PostgresStore>, PostgresOpenError> {
        PostgresStore::open_with(settings, false).await
    }

    /// Like [`PostgresStore::open`]; and opens one that holds a part of an import, to go on with that
    /// ([`palisade_core::ports::Records::resume_import`]).
    ///
    /// # Errors
    /// [`PostgresOpenError`].
    pub async fn open_to_resume(settings: PostgresSettings) -> Result<Arc<PostgresStore>, PostgresOpenError> {
        PostgresStore::open_with(settings, true).await
    }

    async fn open_with(
        settings: PostgresSettings,
        resumes: bool,
    ) -> Result<Arc<PostgresStore>, PostgresOpenError> {
        let size = settings.size.max(2);
        let pool = DatabasePool::new(settings.with_size(size - lanes(size)))?;
        migrate(&pool).await?;
        let rows = pool.rows("SELECT importing FROM palisade.installation", &[]).await?;
        let importing = rows.first().map(|row| column(row, 0)).transpose()? != Some(false);
        if importing && !resumes {
            return Err(PostgresOpenError::PartlyImported);
        }
        let writer = CommitWriter::start(DatabasePool::new(settings.with_size(lanes(size)))?).await?;
        let sizes = Arc::new(Sizes::default());
        sizes.look(&pool).await?;
        let looks = tokio::spawn(Arc::clone(&sizes).follow(pool.clone())).abort_handle();
        Ok(Arc::new(PostgresStore {
            pool,
            writer,
            sizes,
            note_writes: NoteWrites::default(),
            feed: OnceLock::new(),
            looks,
            importing: AtomicBool::new(importing),
            closed: AtomicBool::new(false),
        }))
    }

    /// From now on a commit that revokes something is acknowledged once it is in force at every replica. Of several, the
    /// first feed counts.
    pub fn acknowledge_by(&self, feed: Arc<Feed>) {
        // Set before: it stays.
        let _ = self.feed.set(feed);
    }

    /// By which this store's commits are acknowledged, if it serves.
    pub(super) fn feed(&self) -> Option<&Arc<Feed>> {
        self.feed.get()
    }

    /// Waits until what this commit revoked is in force at every replica.
    pub(super) async fn acknowledged(&self, mut committed: Committed) -> Result<Committed, CommitError> {
        let Some(feed) = self.feed.get() else { return Ok(committed) };
        if committed.revocations.is_empty() || !is_entry(committed.position) {
            return Ok(committed);
        }
        let since = feed.uptime();
        let at = feed_position(committed.position);
        feed.committed(at);
        committed.acknowledgement.by = feed.acknowledge(at, since).await?;
        committed.acknowledgement.took += feed.uptime().saturating_sub(since);
        Ok(committed)
    }

    /// Later calls return errors. What is under way is answered. Dropping the store does the same.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.looks.abort();
        self.pool.forget_idle();
    }

    /// What statements that only read are put to.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is served, as an import is not done or has failed, or the store is closed.
    pub(super) fn reading(&self) -> Result<&DatabasePool, StoreError> {
        if self.importing.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable(IMPORTING.to_owned()));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("the store is closed".to_owned()));
        }
        Ok(&self.pool)
    }

    /// Sends a message that writes and is no commit, and says to the writer whether it was acknowledged.
    ///
    /// # Errors
    /// [`StoreError`]; also as [`PostgresStore::reading`].
    pub(super) async fn write(&self, sql: &str) -> Result<Vec<TextRow>, StoreError> {
        let written = self.reading()?.write(sql).await;
        match &written {
            Ok(_) => self.writer.note(true),
            // A row that another transaction has for long is no failure of the database.
            Err(failure) if failure.calls_for_another_connection() || is_full(failure) => {
                self.writer.note(false)
            }
            Err(_) => {}
        }
        Ok(written?)
    }

    /// Connections of this store, whether it serves or not.
    pub(super) const fn pool(&self) -> &DatabasePool {
        &self.pool
    }

    /// An import has begun: nothing else is served.
    pub(super) fn begin_import(&self) {
        self.importing.store(true, Ordering::Release);
    }

    /// An import has come to its end, and the feed to this position.
    pub(super) fn end_import(&self, feed: i64) {
        self.writer.observe(position(feed, 0));
        self.importing.store(false, Ordering::Release);
    }

    /// The state of everything as it is now, which stays that way however long it is read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn snapshot(&self) -> Result<StoreSnapshot, StoreError> {
        StoreSnapshot::begin(self.reading()?).await
    }

    /// What secrets were known by when they were last used, by their names.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_checks(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let rows = self.reading()?.rows("SELECT name, value FROM palisade.key_checks", &[]).await?;
        rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect()
    }

    /// Keeps what secrets are known by, by their names; of others it stays.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was kept.
    pub async fn put_key_checks(&self, checks: BTreeMap<String, String>) -> Result<(), StoreError> {
        if checks.is_empty() {
            return Ok(());
        }
        let text = |text: &str| format!("convert_from({}, 'UTF8')", bytea(text.as_bytes()));
        let rows: Vec<String> =
            checks.iter().map(|(name, value)| format!("({}, {})", text(name), text(value))).collect();
        let sql = format!(
            "SELECT palisade.in_commit(); \
             WITH kept AS (INSERT INTO palisade.key_checks AS k (name, value) \
             SELECT c.name, c.value FROM (VALUES {}) AS c (name, value) WHERE {OPEN} \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value RETURNING 1) \
             SELECT nextval('palisade.commits') FROM kept LIMIT 1",
            rows.join(", ")
        );
        match self.write(&sql).await?.len() {
            // What `in_commit` answers, and a number.
            2 => Ok(()),
            _ => Err(StoreError::Closed("its records are moved, or were moved, to another one".to_owned())),
        }
    }

    /// How many revocations are kept, expired ones included until they are swept. Counts them: for tests and tools.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn len(&self) -> Result<u64, StoreError> {
        let rows = self.reading()?.rows("SELECT count(*) FROM palisade.revocations", &[]).await?;
        Ok(rows.first().map(|row| column(row, 0)).transpose()?.map_or(0, from_bigint))
    }

    /// Whether no revocation is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len().await? == 0)
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.close();
    }
}

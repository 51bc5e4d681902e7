//! How rows become records.
//!
//! Each question is one statement, so its answer is of one state. The parameters of a statement are known when it is
//! planned, so that `$1 IS NULL OR …` uses the index that the rest names.

use palisade_core::domain::account::User;
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::Connection;
use palisade_core::domain::link::Link;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::Mailbox;
use palisade_core::domain::revocation::Revocation;
use palisade_core::domain::session::Session;
use palisade_core::domain::task::Task;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::ports::{RecordKind, StoreError};
use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql, Type};
use uuid::Uuid;

use super::connect::{DatabasePool, DatabaseSession};
use super::failure::DatabaseFailure;
use super::record::{RevocationColumns, decode, revocation};

/// A parameter of a statement.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The columns of a revocation, in the order that [`revocation_in`] reads them.
pub(super) const REVOCATION: &str = "key, lim, expires_at, created_at, version, reason";

/// What statements are put to: a pool, each statement on its own, or one session.
pub(super) trait Reads: Sync {
    fn rows(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> impl Future<Output = Result<Vec<Row>, DatabaseFailure>> + Send;
}

impl Reads for DatabasePool {
    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseFailure> {
        self.read(sql, parameters).await
    }
}

impl Reads for DatabaseSession {
    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseFailure> {
        self.read(sql, parameters).await
    }
}

/// A record whose row is its version and its body.
pub(super) trait Kept: DeserializeOwned {
    const KIND: RecordKind;

    /// The version and the body in the columns `at` and behind it.
    ///
    /// # Errors
    /// [`StoreError::Newer`], [`StoreError::Unreadable`].
    fn read(row: &Row, at: usize, id: &str) -> Result<Self, StoreError> {
        decode(Self::KIND, id, column(row, at)?, column(row, at + 1)?)
    }
}

macro_rules! kept {
    ($($record:ty: $kind:ident),+ $(,)?) => {
        $(impl Kept for $record { const KIND: RecordKind = RecordKind::$kind; })+
    };
}

kept!(
    User: User,
    Session: Session,
    Connection: Connection,
    Link: Link,
    Task: Task,
    Mail: Mail,
    Mailbox: Mailbox,
    Event: Event,
    Mark: ClockMark,
);

/// The highest version of this kind that this program knows, as the column `version` has it.
pub(super) fn known(kind: RecordKind) -> i16 {
    i16::from(kind.version())
}

/// A number of rows, as SQL takes it.
pub(super) fn row_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The value of a column.
///
/// # Errors
/// [`StoreError::Unreadable`]: the column is of another type, or not there.
pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, StoreError> {
    // The driver's word names the column and the types, and no value.
    row.try_get(at).map_err(|error| {
        StoreError::Unreadable(format!("the database's schema is not this program's: {error}"))
    })
}

/// The revocation in the first columns of a row ([`REVOCATION`]).
///
/// # Errors
/// [`StoreError::Newer`], [`StoreError::Unreadable`].
pub(super) fn revocation_in(row: &Row) -> Result<Revocation, StoreError> {
    let columns = RevocationColumns {
        lim: column(row, 1)?,
        expires_at: column(row, 2)?,
        created_at: column(row, 3)?,
        version: column(row, 4)?,
        reason: column(row, 5)?,
    };
    revocation(column(row, 0)?, columns)
}

/// The only record that `sql` selects, as version and body. `id` is told in errors; empty where it is a secret.
pub(super) async fn one<T: Kept>(
    reads: &impl Reads,
    id: &str,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Option<T>, StoreError> {
    reads.rows(sql, parameters).await?.first().map(|row| T::read(row, 0, id)).transpose()
}

/// The records that `sql` selects, as version and body.
pub(super) async fn many<T: Kept>(
    reads: &impl Reads,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<T>, StoreError> {
    reads.rows(sql, parameters).await?.iter().map(|row| T::read(row, 0, "")).collect()
}

/// At most `limit` records of a table whose key is an account and an id, in the order of that key, from behind `after`.
pub(super) async fn behind<T: Kept>(
    reads: &impl Reads,
    table: &'static str,
    after: Option<(Uuid, Uuid)>,
    limit: usize,
) -> Result<Vec<T>, StoreError> {
    let sql = format!(
        "SELECT version, body FROM palisade.{table} \
         WHERE ($1::uuid IS NULL OR (user_id, id) > ($1, $2)) ORDER BY user_id, id LIMIT $3"
    );
    let (user, id, limit) = (after.map(|(user, _)| user), after.map(|(_, id)| id), row_limit(limit));
    many(reads, &sql, &[(&user, Type::UUID), (&id, Type::UUID), (&limit, Type::INT8)]).await
}

/// The revocations that `sql` selects ([`REVOCATION`]).
pub(super) async fn revocations(
    reads: &impl Reads,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Revocation>, StoreError> {
    reads.rows(sql, parameters).await?.iter().map(revocation_in).collect()
}

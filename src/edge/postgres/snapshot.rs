//! One state of everything, for as long as it is read: for a walk over all revocations, and for an export while the
//! gateway serves.
//!
//! It is a transaction that only reads, on a connection of its own. It holds no lock that a commit waits for. What it
//! holds back is the removal of old rows by the server, so it must come to its end.

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, pin_mut};
use palisade_core::domain::account::User;
use palisade_core::domain::audit::Event;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::session::Session;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{RECORDS_PAGE, RecordKind, RecordSource, StoreError, VersionedRecord};
use tokio_postgres::Row;

use super::connect::{DatabasePool, DatabaseSession, READ_TIMEOUT};
use super::failure::DatabaseFailure;
use super::numbers::moment;
use super::read::{Kept, Parameter, column};
use super::record::is_known;
use super::records::all_tables_are_known;
use super::walk::{Place, fill};

/// How long the reader of a snapshot may do something else between two pages.
const IDLE: Duration = Duration::from_secs(600);

/// One state of the store, which later commits do not change. Dropping it ends it.
pub struct StoreSnapshot {
    session: DatabaseSession,
    /// `None` once the last page was read.
    next: Option<Option<Place>>,
}

impl StoreSnapshot {
    /// The state as it is now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn begin(pool: &DatabasePool) -> Result<StoreSnapshot, StoreError> {
        let (session, _) = pool.dedicated().await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
             SET LOCAL idle_in_transaction_session_timeout = {}",
            IDLE.as_millis()
        );
        session.message(&begin, READ_TIMEOUT).await?;
        Ok(StoreSnapshot { session, next: Some(None) })
    }

    /// Calls `each` with every row that `sql` selects, as they come: no more than a few are in memory at once.
    pub(super) async fn each_row(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
        mut each: impl FnMut(&Row) -> Result<(), StoreError> + Send,
    ) -> Result<(), StoreError> {
        let sent = |error: tokio_postgres::Error| StoreError::from(DatabaseFailure::sent(&error));
        let silent = |_| DatabaseFailure::unknown(format!("the database sent nothing for {READ_TIMEOUT:?}"));
        let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
        let asked = self.session.client().query_typed_raw(sql, parameters);
        let rows = tokio::time::timeout(READ_TIMEOUT, asked).await.map_err(silent)?.map_err(sent)?;
        pin_mut!(rows);
        while let Some(row) = tokio::time::timeout(READ_TIMEOUT, rows.next()).await.map_err(silent)? {
            each(&row.map_err(sent)?)?;
        }
        Ok(())
    }

    /// The latest moment that any record names as its past.
    pub(super) async fn latest_moment(&mut self) -> Result<Option<UnixTime>, StoreError> {
        let mut latest = None;
        let mut later = |moment| latest = latest.max(Some(moment));
        let revocations = "SELECT version, created_at FROM palisade.revocations";
        self.each_row(revocations, &[], |row| {
            is_known(RecordKind::Revocation, "", column(row, 0)?)?;
            later(moment(column(row, 1)?));
            Ok(())
        })
        .await?;
        self.each_kept("sessions", |session: Session| later(session.last_used_at)).await?;
        self.each_kept("users", |user: User| later(user.updated_at)).await?;
        self.each_kept("events", |event: Event| later(event.at)).await?;
        self.each_kept("mails", |mail: Mail| later(mail.created_at)).await?;
        Ok(latest)
    }

    async fn each_kept<T: Kept>(
        &mut self,
        table: &str,
        mut each: impl FnMut(T) + Send,
    ) -> Result<(), StoreError> {
        let sql = format!("SELECT version, body FROM palisade.{table}");
        self.each_row(&sql, &[], |row| T::read(row, 0, "").map(&mut each)).await
    }
}

/// Every record, in the order of [`palisade_core::ports::Records::records`], page by page.
#[async_trait]
impl RecordSource for StoreSnapshot {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        let Some(after) = self.next.take() else { return Ok(Vec::new()) };
        if after.is_none() {
            all_tables_are_known(&self.session).await?;
        }
        let (records, next) = fill(&self.session, after, RECORDS_PAGE).await?;
        self.next = next.map(Some);
        Ok(records)
    }
}

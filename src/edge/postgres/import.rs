//! Filling an empty store with the records of another one.
//!
//! The first message of an import marks the installation, and the last one takes the mark away. A store that has the mark
//! is not opened and takes no commit, so one whose import was killed is never taken for whole. Each page goes in by a statement for
//! each table.

use std::time::Duration;

use palisade_core::ports::{
    EVENTS_KEPT, ImportError, RECORDS_PAGE, RecordSource, STRANGERS_EVENTS_KEPT, StoreError,
};

use super::connect::MESSAGE_TIMEOUT;
use super::import_rows::ImportRows;
use super::store::PostgresStore;
use super::walk::WALK;

/// What a message of an import begins with: it is answered once it is durable.
pub(super) const DURABLY: &str =
    "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '3s'; SET LOCAL synchronous_commit = on;";

/// How long the last message of an import may take, which looks at all events.
const END_TIMEOUT: Duration = Duration::from_secs(600);

/// Marks the installation if no record is there. Selects whether it did.
fn beginning() -> String {
    let tables: Vec<String> =
        WALK.iter().map(|walked| format!("NOT EXISTS (SELECT FROM palisade.{})", walked.table)).collect();
    format!(
        "{DURABLY} SELECT palisade.hold_commits(); \
         UPDATE palisade.installation SET importing = true \
         WHERE NOT importing AND closed_for IS NULL AND {} RETURNING 'begun'",
        tables.join(" AND ")
    )
}

/// Takes the mark away. What was imported has no entries in the feed: a follower from before finds a gap in it, and reads
/// everything again. Of the events of each account, and of none, those go that are beyond what is kept. Selects the
/// position of the feed.
fn ending() -> String {
    format!(
        "{DURABLY} SET LOCAL statement_timeout = '10min'; SELECT palisade.hold_commits(); \
         WITH listed AS (SELECT n, strangers, row_number() OVER (PARTITION BY user_id, strangers ORDER BY n DESC) AS at \
         FROM palisade.events) \
         DELETE FROM palisade.events e USING listed l WHERE e.n = l.n \
         AND l.at > CASE WHEN l.strangers THEN {STRANGERS_EVENTS_KEPT} ELSE {EVENTS_KEPT} END; \
         UPDATE palisade.installation SET importing = false; \
         WITH head AS (UPDATE palisade.head SET position = position + 2, entry = gen_random_uuid() \
         RETURNING position, entry) \
         INSERT INTO palisade.feed (position, entry, body) SELECT position, entry, convert_to('[]', 'UTF8') FROM head; \
         SELECT nextval('palisade.commits'); \
         SELECT pg_notify('palisade_feed', position::text) FROM palisade.head; \
         SELECT position FROM palisade.head"
    )
}

impl PostgresStore {
    pub(super) async fn import_records(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        self.import_behind(&beginning(), source).await
    }

    /// Imports behind this first message, which selects that the import has begun.
    pub(super) async fn import_behind(
        &self,
        first: &str,
        source: &mut dyn RecordSource,
    ) -> Result<u64, ImportError> {
        let (mut session, _) = self.pool().dedicated().await.map_err(StoreError::from)?;
        let begun = session.message(first, MESSAGE_TIMEOUT).await.map_err(StoreError::from)?;
        if begun.last().is_none_or(|row| row.first().is_none_or(|word| word.as_deref() != Some("begun"))) {
            return Err(ImportError::NotEmpty);
        }
        self.begin_import();
        let mut count = 0;
        loop {
            let mut page = source.next_page().await.map_err(ImportError::Source)?;
            if page.is_empty() {
                break;
            }
            while !page.is_empty() {
                let rest = page.split_off(page.len().min(RECORDS_PAGE));
                let mut rows = ImportRows::default();
                for record in std::mem::replace(&mut page, rest) {
                    rows.add(record.known()?)?;
                    count += 1;
                }
                rows.insert(&mut session).await?;
            }
        }
        let ended = session.message(&ending(), END_TIMEOUT).await.map_err(StoreError::from)?;
        let head = ended.last().and_then(|row| row.first()?.as_deref()?.parse().ok());
        let head = head.ok_or_else(|| {
            StoreError::Unavailable("the database does not say where its feed ends".to_owned())
        })?;
        self.end_import(head);
        // For plans that know the tables; the server does it by itself before long.
        let tables: Vec<String> = WALK.iter().map(|walked| format!("palisade.{}", walked.table)).collect();
        if let Err(failure) = session.message(&format!("ANALYZE {}", tables.join(", ")), END_TIMEOUT).await {
            tracing::warn!(%failure, "the statistics of what was imported are not made yet");
        }
        Ok(count)
    }
}

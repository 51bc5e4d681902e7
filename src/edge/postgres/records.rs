//! A walk over every record while nothing writes, without a transaction that lasts from page to page.
//!
//! A walk carries two numbers that it began with: that of the last entry of the feed, and that of the last commit that
//! revoked nothing. Every write of records raises one of them, before it is committed and behind `palisade.in_commit`. The
//! numbers are read while no write is under way, so that none has its number and is yet to be seen. A page is refused
//! when, behind its last row, a number is another.

use async_trait::async_trait;
use palisade_core::ports::{ImportError, RecordCursor, RecordPage, RecordSource, Records, StoreError};

use super::connect::TextRow;
use super::migrations::last_known;
use super::read::{Reads, column};
use super::store::PostgresStore;
use super::walk::{self, Place};

/// What a walk began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beginning {
    head: i64,
    commits: i64,
}

/// The two numbers. A sequence that was never asked has the same last value as one that was asked once.
const NUMBERS: &str =
    "SELECT h.position, c.last_value + c.is_called::int FROM palisade.head h, palisade.commits c";

impl Beginning {
    /// The numbers, while no write is under way. Waits for those that are.
    async fn now(store: &PostgresStore) -> Result<Beginning, StoreError> {
        let rows = store.write(&format!("SELECT palisade.hold_commits(); {NUMBERS}")).await?;
        let number = |row: &TextRow, at: usize| row.get(at)?.as_deref()?.parse().ok();
        let numbers = rows.last().and_then(|row| Some((number(row, 0)?, number(row, 1)?)));
        let (head, commits) = numbers.ok_or_else(no_head)?;
        Ok(Beginning { head, commits })
    }

    /// Whether nothing was committed since.
    async fn stands(self, reads: &impl Reads) -> Result<bool, StoreError> {
        let rows = reads.rows(NUMBERS, &[]).await?;
        let row = rows.first().ok_or_else(no_head)?;
        Ok(self == Beginning { head: column(row, 0)?, commits: column(row, 1)? })
    }

    fn to_bytes(self, place: &Place) -> Vec<u8> {
        [&self.head.to_be_bytes()[..], &self.commits.to_be_bytes(), &place.to_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<(Beginning, Place)> {
        let (head, rest) = bytes.split_first_chunk()?;
        let (commits, place) = rest.split_first_chunk()?;
        let beginning = Beginning { head: i64::from_be_bytes(*head), commits: i64::from_be_bytes(*commits) };
        Some((beginning, Place::from_bytes(place)?))
    }
}

/// A newer program may keep records in tables that this one does not know: an export without them would be taken for
/// whole.
pub(super) async fn all_tables_are_known(reads: &impl Reads) -> Result<(), StoreError> {
    let rows = reads.rows("SELECT max(number) FROM palisade.migrations", &[]).await?;
    let last: Option<i32> = rows.first().map(|row| column(row, 0)).transpose()?.flatten();
    match last.unwrap_or_default() {
        last if last > last_known() => Err(StoreError::Newer(format!(
            "the schema has migration {last}, and this program knows them up to {}; export with the newer program",
            last_known()
        ))),
        _ => Ok(()),
    }
}

fn no_head() -> StoreError {
    StoreError::Unreadable("the database does not say where its feed ends".to_owned())
}

#[async_trait]
impl Records for PostgresStore {
    async fn records(&self, after: Option<RecordCursor>, limit: usize) -> Result<RecordPage, StoreError> {
        let pool = self.reading()?;
        let (beginning, place) = match after {
            Some(cursor) => {
                let (beginning, place) = Beginning::from_bytes(cursor.as_bytes()).ok_or_else(|| {
                    StoreError::Unreadable(
                        "no walk over the records of this store comes to that place".to_owned(),
                    )
                })?;
                (beginning, Some(place))
            }
            None => {
                all_tables_are_known(pool).await?;
                (Beginning::now(self).await?, None)
            }
        };
        let (records, next) = walk::fill(pool, place, limit).await?;
        if !beginning.stands(pool).await? {
            return Err(StoreError::Unavailable(
                "the store has changed since the walk over its records began; begin again while nothing writes"
                    .to_owned(),
            ));
        }
        let next = next.map(|next| RecordCursor::from_bytes(beginning.to_bytes(&next)));
        Ok(RecordPage { records, next })
    }

    async fn import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        self.import_records(source).await
    }

    async fn snapshot(&self) -> Result<Box<dyn RecordSource>, StoreError> {
        Ok(Box::new(PostgresStore::snapshot(self).await?))
    }

    async fn import_begun(&self) -> Result<Option<u64>, StoreError> {
        self.part_of_import().await
    }

    async fn resume_import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        self.import_anew(source).await
    }

    async fn closed_for(&self) -> Result<Option<String>, StoreError> {
        self.purpose_of_closing().await
    }

    async fn set_closed(&self, what: Option<String>) -> Result<(), StoreError> {
        self.close_for(what).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_from_its_bytes() {
        let place = Place::from_bytes(b"\x0a\0\0\0\0\0\0\0\x07").unwrap();
        let beginning = Beginning { head: 3, commits: 9 };
        let bytes = beginning.to_bytes(&place);
        assert_eq!(Beginning::from_bytes(&bytes), Some((beginning, place)));
        for end in 0..bytes.len() {
            assert_eq!(Beginning::from_bytes(&bytes[..end]), None, "{end}");
        }
    }
}

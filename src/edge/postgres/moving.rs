//! A store whose records are moved to another one, or from one: the mark that closes it for writing, and an import that
//! is begun anew.

use std::collections::BTreeSet;

use palisade_core::ports::{ImportError, RecordSource, StoreError};

use super::import::DURABLY;
use super::leases::bytea;
use super::read::{Reads as _, column};
use super::store::PostgresStore;
use super::walk::WALK;

/// What finds a record by another name, and is built by an import.
const INDEXES: [&str; 3] = ["addresses", "usernames", "identities"];

/// Removes what an import that did not come to its end has left, and nothing of any other store. Selects that the import has
/// begun.
fn beginning_anew() -> String {
    let tables: BTreeSet<&str> = WALK.iter().map(|walked| walked.table).chain(INDEXES).collect();
    let tables: Vec<String> = tables.into_iter().map(|table| format!("palisade.{table}")).collect();
    format!(
        "{DURABLY} SELECT palisade.hold_commits(); \
         DO $$ BEGIN IF NOT (SELECT importing FROM palisade.installation) THEN \
         RAISE EXCEPTION 'no import was begun' USING ERRCODE = 'PX003'; END IF; END $$; \
         TRUNCATE {}; SELECT 'begun'",
        tables.join(", ")
    )
}

impl PostgresStore {
    /// 0 where there is a part of an import: its pages are several statements each, so it is done anew.
    pub(super) async fn part_of_import(&self) -> Result<Option<u64>, StoreError> {
        let rows = self.pool().rows("SELECT importing FROM palisade.installation", &[]).await?;
        let importing: Option<bool> = rows.first().map(|row| column(row, 0)).transpose()?;
        Ok((importing != Some(false)).then_some(0))
    }

    pub(super) async fn import_anew(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        if self.part_of_import().await?.is_none() {
            return Err(ImportError::NotEmpty);
        }
        self.import_behind(&beginning_anew(), source).await
    }

    pub(super) async fn purpose_of_closing(&self) -> Result<Option<String>, StoreError> {
        let rows = self.pool().rows("SELECT closed_for FROM palisade.installation", &[]).await?;
        Ok(rows.first().map(|row| column(row, 0)).transpose()?.flatten())
    }

    /// Holds for every gateway: a commit and a registration read the mark, and none is under way when it is set.
    pub(super) async fn close_for(&self, what: Option<String>) -> Result<(), StoreError> {
        let Some(what) = what else {
            let sql = "SELECT palisade.hold_commits(); UPDATE palisade.installation SET closed_for = NULL";
            return self.write(sql).await.map(drop);
        };
        let sql = format!("SELECT palisade.close_1(convert_from({}, 'UTF8'))", bytea(what.as_bytes()));
        let answer = self.write(&sql).await?.into_iter().flatten().next().flatten().unwrap_or_default();
        match answer.as_str() {
            "" => Ok(()),
            serving => Err(StoreError::Unavailable(format!(
                "gateways serve this store: {serving}. Stop them first, so that none admits what is revoked elsewhere from now on. \
                 One that was killed counts for a minute"
            ))),
        }
    }
}

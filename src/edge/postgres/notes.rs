//! The notes that gateways share: one row each, which ends by the clock of the database (`palisade.lease_clock`).
//!
//! They are no records. Nothing waits until they are on a disk, they are in no export, and a store that is closed for
//! writing takes them all the same: a gateway that serves must count guesses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use palisade_core::ports::{Note, NoteKey, NoteKind, NotePut, NotesRead, SharedNotes, StoreError};
use tokio_postgres::types::Type;

use super::leases::bytea;
use super::numbers::{from_bigint, to_bigint};
use super::read::{Reads, column};
use super::store::PostgresStore;

/// What a message begins with that writes notes: its answer does not wait for a disk.
const AT_ONCE: &str = "SET LOCAL synchronous_commit = off; ";
/// How many rows one batch removes.
const STEP: u64 = 4096;
/// After so many writes of its own a gateway looks whether there are too many notes, without waiting for the next sweep:
/// strangers can cause writes.
const LOOK_AFTER: u64 = 10_000;

/// How many notes this gateway has written since it last removed some.
#[derive(Debug, Default)]
pub(super) struct NoteWrites(AtomicU64);

/// Writes a note on its condition; selects `place` when it was written.
fn putting(place: usize, put: &NotePut) -> String {
    let NotePut { key: NoteKey { kind, hash }, before, body, life } = put;
    let (kind, hash, body) = (kind.code(), bytea(hash), bytea(body));
    let ends_at = format!("palisade.lease_clock() + {} * interval '1 microsecond'", life.as_micros());
    let revision = "pg_catalog.nextval('palisade.note_revisions')";
    match before {
        Some(before) => format!(
            "UPDATE palisade.notes n SET revision = {revision}, ends_at = {ends_at}, body = {body} \
             WHERE n.kind = {kind} AND n.hash = {hash} AND n.revision = {} AND n.ends_at > palisade.lease_clock() \
             RETURNING {place};",
            to_bigint(*before)
        ),
        None => format!(
            "INSERT INTO palisade.notes AS n (kind, hash, revision, ends_at, body) \
             VALUES ({kind}, {hash}, {revision}, {ends_at}, {body}) ON CONFLICT (kind, hash) DO UPDATE \
             SET revision = excluded.revision, ends_at = excluded.ends_at, body = excluded.body \
             WHERE n.ends_at <= palisade.lease_clock() RETURNING {place};"
        ),
    }
}

/// Removes a batch of notes of one kind, those that end first: `limit` of them, or with `ended` only those that have.
/// Selects how many.
fn removing(kind: NoteKind, limit: u64, ended: bool) -> String {
    let kind = kind.code();
    let ended = if ended { "AND ends_at <= palisade.lease_clock()" } else { "" };
    format!(
        "{AT_ONCE}WITH due AS MATERIALIZED (SELECT kind, hash FROM palisade.notes WHERE kind = {kind} {ended} \
         ORDER BY ends_at LIMIT {limit} FOR UPDATE SKIP LOCKED), \
         gone AS (DELETE FROM palisade.notes n USING due d WHERE n.kind = d.kind AND n.hash = d.hash RETURNING 1) \
         SELECT count(*) FROM gone"
    )
}

impl PostgresStore {
    /// The number that a message selects in the end.
    async fn count_of(&self, sql: &str) -> Result<u64, StoreError> {
        let rows = self.write(sql).await?;
        let number = rows.last().into_iter().flatten().flatten().next().and_then(|text| text.parse().ok());
        number
            .ok_or_else(|| StoreError::Unavailable("the database does not say how many there are".to_owned()))
    }

    async fn trim_kind(&self, kind: NoteKind) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let batch = self.count_of(&removing(kind, STEP, true)).await?;
            removed += batch;
            if batch < STEP {
                break;
            }
        }
        let counting = format!("SELECT count(*) FROM palisade.notes WHERE kind = {}", kind.code());
        let rows = self.reading()?.rows(&counting, &[]).await?;
        let kept = rows.first().map(|row| column(row, 0)).transpose()?.map_or(0, from_bigint);
        let mut excess = kept.saturating_sub(u64::from(kind.most()));
        while excess > 0 {
            let batch = self.count_of(&removing(kind, excess.min(STEP), false)).await?;
            if batch == 0 {
                // Another gateway removes them.
                break;
            }
            removed += batch;
            excess = excess.saturating_sub(batch);
        }
        Ok(removed)
    }
}

#[async_trait]
impl SharedNotes for PostgresStore {
    async fn notes(&self, keys: &[NoteKey]) -> Result<NotesRead, StoreError> {
        let kinds: Vec<i16> = keys.iter().map(|key| key.kind.code()).collect();
        let hashes: Vec<&[u8]> = keys.iter().map(|key| &key.hash[..]).collect();
        let sql = "WITH clock AS MATERIALIZED (SELECT palisade.lease_clock() AS now) \
                   SELECT (extract(epoch FROM c.now) * 1000000)::bigint, k.place, n.revision, n.body FROM clock c \
                   LEFT JOIN unnest($1::smallint[], $2::bytea[]) WITH ORDINALITY AS k (kind, hash, place) ON true \
                   LEFT JOIN palisade.notes n ON n.kind = k.kind AND n.hash = k.hash AND n.ends_at > c.now";
        let parameters = [(&kinds as _, Type::INT2_ARRAY), (&hashes as _, Type::BYTEA_ARRAY)];
        let rows = self.reading()?.rows(sql, &parameters).await?;
        let mut read = NotesRead { now: Duration::ZERO, notes: vec![None; keys.len()] };
        for row in &rows {
            read.now = Duration::from_micros(from_bigint(column(row, 0)?));
            let place: Option<i64> = column(row, 1)?;
            let (revision, body): (Option<i64>, Option<Vec<u8>>) = (column(row, 2)?, column(row, 3)?);
            let place = place.and_then(|place| usize::try_from(place - 1).ok());
            if let (Some(slot), Some(revision), Some(body)) =
                (place.and_then(|place| read.notes.get_mut(place)), revision, body)
            {
                *slot = Some(Note { body, revision: from_bigint(revision) });
            }
        }
        Ok(read)
    }

    async fn put_notes(&self, puts: Vec<NotePut>) -> Result<Vec<bool>, StoreError> {
        if puts.is_empty() {
            return Ok(Vec::new());
        }
        let mut places: Vec<usize> = (0..puts.len()).collect();
        // In one order, so that no two messages wait for one another.
        places.sort_by_key(|place| puts[*place].key);
        let statements: String = places.iter().map(|place| putting(*place, &puts[*place])).collect();
        let rows = self.write(&format!("{AT_ONCE}{statements}")).await?;
        let mut written = vec![false; puts.len()];
        for place in rows.into_iter().flatten().flatten().filter_map(|text| text.parse::<usize>().ok()) {
            if let Some(written) = written.get_mut(place) {
                *written = true;
            }
        }
        let count = u64::try_from(puts.len()).unwrap_or(u64::MAX);
        if self.note_writes.0.fetch_add(count, Ordering::Relaxed) + count >= LOOK_AFTER {
            self.trim_notes().await?;
        }
        Ok(written)
    }

    async fn take_note(&self, key: NoteKey) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = format!(
            "DELETE FROM palisade.notes n WHERE n.kind = {} AND n.hash = {} RETURNING \
             CASE WHEN n.ends_at > palisade.lease_clock() THEN pg_catalog.encode(n.body, 'base64') END",
            key.kind.code(),
            bytea(&key.hash)
        );
        let Some(body) = self.write(&sql).await?.into_iter().flatten().flatten().next() else {
            return Ok(None);
        };
        // The database breaks the lines.
        let body: String = body.split_ascii_whitespace().collect();
        let unreadable = |_| StoreError::Unreadable("a note that the database gave".to_owned());
        STANDARD.decode(body).map(Some).map_err(unreadable)
    }

    async fn remove_notes(&self, keys: &[NoteKey]) -> Result<(), StoreError> {
        let mut keys = keys.to_vec();
        keys.sort();
        let removing = |key: &NoteKey| {
            let (kind, hash) = (key.kind.code(), bytea(&key.hash));
            format!("DELETE FROM palisade.notes n WHERE n.kind = {kind} AND n.hash = {hash};")
        };
        let statements: String = keys.iter().map(removing).collect();
        if statements.is_empty() {
            return Ok(());
        }
        self.write(&format!("{AT_ONCE}{statements}")).await.map(drop)
    }

    async fn trim_notes(&self) -> Result<u64, StoreError> {
        self.note_writes.0.store(0, Ordering::Relaxed);
        let mut removed = 0;
        for kind in NoteKind::ALL {
            removed += self.trim_kind(kind).await?;
        }
        Ok(removed)
    }
}

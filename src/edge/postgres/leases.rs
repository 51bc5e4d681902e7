//! Leases: one row each, in one message for each claim. Their terms are measured by the database's clock
//! (`palisade.lease_clock`), their fencing numbers come from one sequence, which never gives a number twice.
//!
//! A commit that requires a lease looks for its row (`palisade.commit_1`). A lease that has ended keeps its row, until
//! another holder takes the work over or a sweep finds it ([`ENDED_LEASE_KEPT`]).

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use palisade_core::domain::lease::{ENDED_LEASE_KEPT, Lease, LeaseHolder, LeaseSubject};
use palisade_core::ports::{LeaseStore, StoreError};

use super::numbers::{from_bigint, to_bigint};
use super::store::PostgresStore;

/// The longest term, about 300 years: what an interval of PostgreSQL and a moment of its clock can hold together.
const LONGEST: Duration = Duration::from_secs(300 * 365 * 24 * 3600);

/// How long the row of a lease is kept that was released: longer than a claim can be under way.
const RELEASED_KEPT: Duration = Duration::from_secs(600);

/// `bytes` as an expression of SQL.
pub(super) fn bytea(bytes: &[u8]) -> String {
    format!("decode('{}', 'base64')", STANDARD.encode(bytes))
}

fn claiming(subject: &LeaseSubject, holder: LeaseHolder, term: Duration) -> String {
    let (subject, holder) = (bytea(&subject.to_bytes()), holder.0);
    let term = term.min(LONGEST).as_micros();
    let ends_at = format!("palisade.lease_clock() + {term} * interval '1 microsecond'");
    // The clock is read again once the row is locked: the holder before may have had it for a while.
    format!(
        "INSERT INTO palisade.leases AS l (subject, holder, fence, ends_at, released) \
         VALUES ({subject}, '{holder}', nextval('palisade.fences'), {ends_at}, false) \
         ON CONFLICT (subject) DO UPDATE SET \
         ends_at = CASE WHEN l.holder = excluded.holder AND NOT l.released \
         THEN greatest(l.ends_at, {ends_at}) ELSE {ends_at} END, \
         fence = CASE WHEN l.holder = excluded.holder AND NOT l.released THEN l.fence \
         ELSE nextval('palisade.fences') END, \
         holder = excluded.holder, released = false \
         WHERE l.holder = excluded.holder OR l.released OR l.ends_at <= palisade.lease_clock() \
         RETURNING l.fence"
    )
}

/// The row stays: a claim that is under way, and has drawn its number already, finds it and draws another.
fn releasing(lease: &Lease) -> String {
    let (subject, holder) = (bytea(&lease.subject.to_bytes()), lease.holder.0);
    let fence = to_bigint(lease.fence);
    format!(
        "UPDATE palisade.leases l SET released = true, ends_at = least(l.ends_at, palisade.lease_clock()) \
         WHERE l.subject = {subject} AND l.holder = '{holder}' AND l.fence = {fence}"
    )
}

/// Forgets at most `limit` leases that were released [`RELEASED_KEPT`] ago, or have ended [`ENDED_LEASE_KEPT`] ago and
/// were not taken over. Selects how many they were.
pub(super) fn forgetting(limit: usize) -> String {
    let ago = |span: Duration| format!("palisade.lease_clock() - {} * interval '1 second'", span.as_secs());
    format!(
        "WITH gone AS (DELETE FROM palisade.leases WHERE subject = ANY (ARRAY ( \
         SELECT l.subject FROM palisade.leases l \
         WHERE l.ends_at < CASE WHEN l.released THEN {} ELSE {} END \
         LIMIT {limit} FOR UPDATE SKIP LOCKED)) RETURNING 1) SELECT count(*) FROM gone",
        ago(RELEASED_KEPT),
        ago(ENDED_LEASE_KEPT)
    )
}

#[async_trait]
impl LeaseStore for PostgresStore {
    async fn claim(
        &self,
        subject: LeaseSubject,
        holder: LeaseHolder,
        term: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let rows = self.write(&claiming(&subject, holder, term)).await?;
        let Some(fence) = rows.into_iter().flatten().flatten().next() else { return Ok(None) };
        let fence = fence
            .parse()
            .map_err(|_| StoreError::Unreadable("the database gave a lease without a number".to_owned()))?;
        Ok(Some(Lease { subject, holder, fence: from_bigint(fence) }))
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        self.write(&releasing(&lease)).await?;
        Ok(())
    }
}

//! Removes what has ended, in batches that are short: each is a message of its own, and waits for no row that another
//! transaction has.
//!
//! Nothing that still counts may go: each row's own end is asked, [`EXPIRY_SLACK`] after which it is removed. What a newer
//! program wrote is left to it, and a store that is closed for writing is not swept.

use std::time::Duration;

use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{GIVEN_UP_LIFE, RecordKind, StoreError, Swept};
use tokio_postgres::types::Type;

use super::connect::TextRow;
use super::leases::forgetting;
use super::numbers::to_bigint;
use super::read::{Reads, column, known};
use super::store::{OPEN, PostgresStore};

/// How long past its end an entry is kept and still counts. A clock that runs an hour fast, or is set back by an hour,
/// must not bring a revoked token back to life.
const EXPIRY_SLACK: Duration = Duration::from_secs(3600);
/// How many rows one batch removes.
const STEP: usize = 256;
/// How many accounts one batch forgets that are gone, each with its events.
const GONE_STEP: usize = 16;
/// How many leases one batch forgets: it looks at all of them.
const LEASES_STEP: usize = 4096;

/// A table whose rows have an end.
struct Ending {
    table: &'static str,
    kind: RecordKind,
    key: &'static [&'static str],
    /// The column that is compared.
    ends_at: &'static str,
    /// Which of the rows end; empty for all.
    only: &'static str,
}

const REVOCATIONS: Ending = ending("revocations", RecordKind::Revocation, &["key"], "expires_at");
const SESSIONS: Ending = ending("sessions", RecordKind::Session, &["user_id", "id"], "expires_at");
const LINKS: Ending = ending("links", RecordKind::Link, &["hash"], "expires_at");
const MAILBOXES: Ending = ending("mailboxes", RecordKind::Mailbox, &["id"], "ends_at");
const GIVEN_UP: Ending =
    Ending { only: "given_up AND ", ..ending("mails", RecordKind::Mail, &["id"], "created_at") };

const fn ending(
    table: &'static str,
    kind: RecordKind,
    key: &'static [&'static str],
    ends_at: &'static str,
) -> Ending {
    Ending { table, kind, key, ends_at, only: "" }
}

impl Ending {
    /// Removes a batch of rows whose end is before `end`, and counts them. A removal is a commit, of which a walk over the
    /// records learns by its number.
    fn removing(&self, end: UnixTime) -> String {
        let Ending { table, kind, key, ends_at, only } = self;
        let (end, known) = (to_bigint(end.0), known(*kind));
        let same: Vec<String> = key.iter().map(|key| format!("t.{key} = d.{key}")).collect();
        let (key, same) = (key.join(", "), same.join(" AND "));
        format!(
            "SELECT palisade.in_commit(); \
             WITH due AS MATERIALIZED (SELECT {key} FROM palisade.{table} WHERE {OPEN} AND {only}{ends_at} < {end} AND version <= {known} \
             ORDER BY {ends_at} LIMIT {STEP} FOR UPDATE SKIP LOCKED), \
             gone AS (DELETE FROM palisade.{table} t USING due d WHERE {same} RETURNING 1), \
             counted AS (SELECT count(*) AS n FROM gone) \
             SELECT n, CASE WHEN n > 0 THEN nextval('palisade.commits') END FROM counted"
        )
    }

    async fn sweep(&self, store: &PostgresStore, end: UnixTime) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let batch = count(&store.write(&self.removing(end)).await?)?;
            removed += batch;
            if batch < STEP as u64 {
                return Ok(removed);
            }
        }
    }
}

/// The accounts that are gone and whose events have come to their end before `end`, with the events. Commits wait
/// meanwhile: one that records an event of such an account finds either its end or none, and gives it one.
fn forgetting_gone(end: UnixTime) -> String {
    let end = to_bigint(end.0);
    format!(
        "SELECT palisade.hold_commits(); \
         WITH gone AS (DELETE FROM palisade.gone_users WHERE user_id = ANY (ARRAY ( \
         SELECT user_id FROM palisade.gone_users WHERE at < {end} ORDER BY at LIMIT {GONE_STEP})) \
         RETURNING user_id), \
         removed AS (DELETE FROM palisade.events e USING gone g WHERE e.user_id = g.user_id \
         AND NOT EXISTS (SELECT FROM palisade.users u WHERE u.id = g.user_id)), \
         counted AS (SELECT count(*) AS n FROM gone) \
         SELECT n, CASE WHEN n > 0 THEN nextval('palisade.commits') END FROM counted"
    )
}

/// The number in the first column of the last row.
fn count(rows: &[TextRow]) -> Result<u64, StoreError> {
    let number = rows.last().into_iter().flatten().flatten().next().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        StoreError::Unavailable("the database does not say how many rows it removed".to_owned())
    })
}

impl PostgresStore {
    pub(super) async fn sweep_ended(&self, now: UnixTime) -> Result<Swept, StoreError> {
        let end = now.minus(EXPIRY_SLACK);
        let swept = Swept {
            revocations: REVOCATIONS.sweep(self, end).await?,
            sessions: SESSIONS.sweep(self, end).await?,
            links: LINKS.sweep(self, end).await?,
        };
        MAILBOXES.sweep(self, end).await?;
        // Made so long ago that they have come to their end; none has before so much time has passed.
        let life = GIVEN_UP_LIFE.as_secs();
        if let Some(made) = end.0.checked_sub(life) {
            GIVEN_UP.sweep(self, UnixTime(made)).await?;
        }
        self.forget_gone(end).await?;
        if let Some(feed) = self.feed() {
            feed.prune().await?;
        }
        while count(&self.write(&forgetting(LEASES_STEP)).await?)? == LEASES_STEP as u64 {}
        Ok(swept)
    }

    async fn forget_gone(&self, end: UnixTime) -> Result<(), StoreError> {
        // First without a lock: there are none as a rule.
        let sql = format!("SELECT {OPEN} AND EXISTS (SELECT FROM palisade.gone_users WHERE at < $1)");
        let end_column = to_bigint(end.0);
        loop {
            let rows = self.reading()?.rows(&sql, &[(&end_column, Type::INT8)]).await?;
            match rows.first().map(|row| column(row, 0)).transpose()? {
                Some(true) => self.write(&forgetting_gone(end)).await?,
                _ => return Ok(()),
            };
        }
    }
}

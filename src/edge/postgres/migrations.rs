//! The schema, and how it changes while gateways serve.
//!
//! A migration is an **expansion** or a **contraction**. An expansion adds what older programs do not see: it leaves the
//! oldest program that may serve as it is, and is applied at any time. A contraction takes out what older programs need:
//! it names the oldest program that may serve from then on, and is applied only when no older one is registered; a
//! program older than that refuses to serve. Functions have a number in their name: an expansion adds the next one, a
//! later contraction drops the former.
//!
//! Each migration is one message and so one transaction, under a lock that all programs share. Programs that start at once
//! apply each migration once. A migration that was released is never edited.

use std::time::Duration;

use super::connect::{DatabasePool, TextRow};
use super::failure::DatabaseFailure;

/// The number of this program, as schemas count programs. Raise it with a migration that this program is the first to
/// know the result of.
pub const PROGRAM: i32 = 1;

/// How long a migration may take. It waits no longer than seconds for a lock, which others wait behind.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(600);

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
struct Migration {
    number: i32,
    step: Step,
    sql: &'static str,
}

/// Which programs may serve after a migration.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Those that could before.
    Expansion,
    /// None that is older than this one.
    #[allow(dead_code, reason = "there was nothing to take out yet; tests use it")]
    Contraction { oldest_program: i32 },
}

const MIGRATIONS: &[Migration] =
    &[Migration { number: 1, step: Step::Expansion, sql: include_str!("schema/001.sql") }];

/// Why the schema is not one that this program can serve with.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// A newer program has taken out what this one needs.
    #[error(
        "the database's schema is of a newer release: it can be served by programs from number {oldest} on, and this one \
         has number {PROGRAM}; run the newer release"
    )]
    Outdated { oldest: i32 },
    #[error("the database's schema cannot be brought up to date by migration {number}: {failure}")]
    Failed { number: i32, failure: DatabaseFailure },
    #[error(transparent)]
    Database(#[from] DatabaseFailure),
}

/// Brings the schema up to date, as far as the replicas that are registered allow.
///
/// # Errors
/// [`MigrationError`]; this program must not serve then.
pub async fn migrate(pool: &DatabasePool) -> Result<(), MigrationError> {
    let mut applied = state(pool).await?;
    for migration in MIGRATIONS.iter().filter(|migration| !applied.numbers.contains(&migration.number)) {
        let session = pool.session().await?;
        let outcome = session.message(&migration.message(), MIGRATION_TIMEOUT).await;
        if let Err(failure) = outcome {
            if failure.state.as_deref() == Some(OLDER_IS_REGISTERED) {
                tracing::warn!(
                    migration = migration.number,
                    "an older program still serves, so the schema keeps what it needs; the next start tries again"
                );
                break;
            }
            return Err(MigrationError::Failed { number: migration.number, failure });
        }
        tracing::info!(migration = migration.number, "the database's schema was brought up to date");
    }
    applied = state(pool).await?;
    match applied.oldest {
        Some(oldest) if oldest > PROGRAM => Err(MigrationError::Outdated { oldest }),
        _ => Ok(()),
    }
}

/// Whether this program can serve with the schema as it is, which it does not change.
///
/// # Errors
/// [`MigrationError`].
pub async fn is_current(pool: &DatabasePool) -> Result<bool, MigrationError> {
    let applied = state(pool).await?;
    match applied.oldest {
        Some(oldest) if oldest > PROGRAM => Err(MigrationError::Outdated { oldest }),
        _ => Ok(MIGRATIONS.iter().all(|migration| applied.numbers.contains(&migration.number))),
    }
}

#[derive(Debug, Default)]
struct Applied {
    numbers: Vec<i32>,
    oldest: Option<i32>,
}

async fn state(pool: &DatabasePool) -> Result<Applied, MigrationError> {
    let exists = "SELECT pg_catalog.to_regclass('palisade.migrations') IS NOT NULL";
    if pool.read(exists, &[]).await?.first().is_none_or(|row| !row.get::<_, bool>(0)) {
        return Ok(Applied::default());
    }
    let rows =
        pool.read("SELECT number, oldest_program FROM palisade.migrations ORDER BY number", &[]).await?;
    let mut applied = Applied::default();
    for row in rows {
        applied.numbers.push(row.get(0));
        applied.oldest = applied.oldest.max(Some(row.get(1)));
    }
    if let Some(oldest) = applied.oldest.filter(|oldest| *oldest > PROGRAM) {
        return Err(MigrationError::Outdated { oldest });
    }
    Ok(applied)
}

/// The SQLSTATE with which a contraction says that an older program is registered.
const OLDER_IS_REGISTERED: &str = "PX003";

impl Migration {
    /// The message that applies it, unless it was applied meanwhile.
    fn message(&self) -> String {
        let Migration { number, sql, .. } = self;
        // What the schema said before stays, unless this migration raises it.
        let (guard, oldest) = match self.step {
            Step::Expansion => (String::new(), 0),
            Step::Contraction { oldest_program } => (
                format!(
                    "IF EXISTS (SELECT FROM palisade.replicas r WHERE r.program < {oldest_program}) THEN \
                     RAISE EXCEPTION 'an older program is registered' USING ERRCODE = '{OLDER_IS_REGISTERED}'; END IF;"
                ),
                oldest_program,
            ),
        };
        format!(
            "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '10min'; SET LOCAL client_min_messages = 'warning'; \
             SET LOCAL synchronous_commit = on; \
             DO $palisade_outer$ BEGIN \
             PERFORM pg_catalog.pg_advisory_xact_lock(1885433961, 2); \
             CREATE SCHEMA IF NOT EXISTS palisade; \
             CREATE TABLE IF NOT EXISTS palisade.migrations (number int PRIMARY KEY, oldest_program int NOT NULL, \
             applied_at timestamptz NOT NULL DEFAULT now()); \
             IF NOT EXISTS (SELECT FROM palisade.migrations m WHERE m.number = {number}) THEN {guard} \
             EXECUTE $palisade_migration$ {sql} $palisade_migration$; \
             INSERT INTO palisade.migrations (number, oldest_program) \
             VALUES ({number}, greatest({oldest}, coalesce((SELECT max(m.oldest_program) FROM palisade.migrations m), 1))); \
             END IF; END $palisade_outer$;"
        )
    }
}

/// The id of the installation that the database belongs to.
///
/// # Errors
/// [`DatabaseFailure`].
pub async fn installation(pool: &DatabasePool) -> Result<String, DatabaseFailure> {
    let rows: Vec<TextRow> = pool.message("SELECT id FROM palisade.installation").await?;
    let id = rows.into_iter().flatten().flatten().next();
    id.ok_or_else(|| DatabaseFailure::unknown("the database does not say which installation it is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_a_gap_and_hold_no_end_of_their_own_quote() {
        for (at, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(migration.number).unwrap(), at + 1);
            assert!(!migration.sql.contains("$palisade_"), "{}", migration.number);
        }
    }

    #[test]
    fn a_contraction_asks_for_older_programs_and_an_expansion_does_not() {
        let made = |step| Migration { number: 7, step, sql: "SELECT 1" }.message();
        assert!(!made(Step::Expansion).contains("palisade.replicas"));
        let contraction = made(Step::Contraction { oldest_program: 4 });
        assert!(contraction.contains("r.program < 4") && contraction.contains("greatest(4,"));
    }
}

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
pub struct SchemaMigration {
    number: i32,
    /// The oldest program that may serve from then on; `None`: those that could before.
    oldest_program: Option<i32>,
    sql: &'static str,
}

impl SchemaMigration {
    /// One that adds what older programs do not see.
    #[must_use]
    pub const fn expansion(number: i32, sql: &'static str) -> SchemaMigration {
        SchemaMigration { number, oldest_program: None, sql }
    }

    /// One that takes out what programs before `oldest_program` need.
    #[must_use]
    pub const fn contraction(number: i32, oldest_program: i32, sql: &'static str) -> SchemaMigration {
        SchemaMigration { number, oldest_program: Some(oldest_program), sql }
    }
}

const MIGRATIONS: &[SchemaMigration] = &[
    SchemaMigration::expansion(1, include_str!("schema/001.sql")),
    SchemaMigration::expansion(2, include_str!("schema/commit_1.sql")),
    SchemaMigration::expansion(3, include_str!("schema/feed_1.sql")),
    SchemaMigration::expansion(4, include_str!("schema/notes_1.sql")),
];

/// Why the schema is not one that this program can serve with.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// A newer program has taken out what this one needs.
    #[error(
        "the database's schema is of a newer release: it can be served by programs from number {oldest} on, and this one \
         has number {program}; run the newer release"
    )]
    Outdated { oldest: i32, program: i32 },
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
    apply(pool, MIGRATIONS, PROGRAM).await
}

/// Brings the schema through `migrations`, for the program of this number.
///
/// # Errors
/// As [`migrate`].
pub async fn apply(
    pool: &DatabasePool,
    migrations: &[SchemaMigration],
    program: i32,
) -> Result<(), MigrationError> {
    let applied = state(pool, program).await?;
    for migration in migrations.iter().filter(|migration| !applied.contains(&migration.number)) {
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
    state(pool, program).await.map(drop)
}

/// The number of the last migration that this program knows.
#[must_use]
pub fn last_known() -> i32 {
    MIGRATIONS.iter().map(|migration| migration.number).max().unwrap_or_default()
}

/// Whether the schema is the one of this program; changes nothing.
///
/// # Errors
/// [`MigrationError`].
pub async fn is_current(pool: &DatabasePool) -> Result<bool, MigrationError> {
    let applied = state(pool, PROGRAM).await?;
    Ok(MIGRATIONS.iter().all(|migration| applied.contains(&migration.number)))
}

/// The numbers of the migrations that were applied.
async fn state(pool: &DatabasePool, program: i32) -> Result<Vec<i32>, MigrationError> {
    let exists = "SELECT pg_catalog.to_regclass('palisade.migrations') IS NOT NULL";
    if pool.read(exists, &[]).await?.first().is_none_or(|row| !row.get::<_, bool>(0)) {
        return Ok(Vec::new());
    }
    let rows =
        pool.read("SELECT number, oldest_program FROM palisade.migrations ORDER BY number", &[]).await?;
    match rows.iter().map(|row| row.get::<_, i32>(1)).max() {
        Some(oldest) if oldest > program => Err(MigrationError::Outdated { oldest, program }),
        _ => Ok(rows.iter().map(|row| row.get(0)).collect()),
    }
}

/// The SQLSTATE with which a contraction says that an older program is registered.
const OLDER_IS_REGISTERED: &str = "PX003";

impl SchemaMigration {
    /// The message that applies it, unless it was applied meanwhile.
    fn message(&self) -> String {
        let SchemaMigration { number, sql, .. } = self;
        let guard = match self.oldest_program {
            None => String::new(),
            Some(oldest) => format!(
                "IF EXISTS (SELECT FROM palisade.replicas r WHERE r.program < {oldest} AND r.expired_at IS NULL) THEN \
                 RAISE EXCEPTION 'an older program is registered' USING ERRCODE = '{OLDER_IS_REGISTERED}'; END IF;"
            ),
        };
        // What the schema said before stays, unless this migration raises it.
        let oldest = self.oldest_program.unwrap_or(0);
        format!(
            "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '10min'; SET LOCAL client_min_messages = 'warning'; \
             SET LOCAL synchronous_commit = on; \
             DO $palisade_outer$ BEGIN \
             PERFORM pg_catalog.pg_advisory_xact_lock(1885433961, 2); \
             IF pg_catalog.to_regnamespace('palisade') IS NULL THEN CREATE SCHEMA palisade; END IF; \
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
        assert!(!SchemaMigration::expansion(7, "SELECT 1").message().contains("palisade.replicas"));
        let contraction = SchemaMigration::contraction(7, 4, "SELECT 1").message();
        assert!(contraction.contains("r.program < 4") && contraction.contains("greatest(4,"));
    }
}

//! What the server's settings mean for what is acknowledged: said at a start, and by `palisade check --connect`.

use tokio_postgres::types::Type;

use super::connect::DatabasePool;
use super::failure::DatabaseFailure;
use super::feed_database;
use super::numbers::to_bigint;
use palisade_core::ports::Clock;

/// How many connections a replica has beside `store.connections`: for confirmations, for notices and for the secrets.
pub const BESIDE: usize = feed_database::CONNECTIONS + 2;

/// What the server is set to.
#[derive(Debug, Default)]
struct ServerSettings {
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    synchronous_standby_names: String,
    /// Standbys that receive from it now.
    standbys: i64,
    is_read_only: bool,
    /// By how many seconds its clock is ahead of this machine's at least; negative: behind.
    ahead: i64,
}

/// From this difference of two clocks on it is told, in seconds: a refresh that is repeated at another replica counts as
/// a replay from ten seconds on.
const CLOCKS_APART: u64 = 5;

/// What a look at the server has brought.
#[derive(Debug, Default)]
pub struct ServerLook {
    /// What an operator should know of its settings, one line each.
    pub doubts: Vec<String>,
    /// Nothing can be served from it as it is.
    pub is_read_only: bool,
}

/// Looks at the settings of the server. `clock`: this machine's.
///
/// # Errors
/// [`DatabaseFailure`]: they cannot be read.
pub async fn look(pool: &DatabasePool, clock: &dyn Clock) -> Result<ServerLook, DatabaseFailure> {
    let sql = "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
               current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
               (SELECT count(*) FROM pg_catalog.pg_stat_replication), \
               pg_catalog.pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean, \
               extract(epoch FROM pg_catalog.clock_timestamp())::bigint";
    let asked = to_bigint(clock.now().0);
    let rows = pool.read(sql, &[]).await?;
    let answered = to_bigint(clock.now().0);
    let settings = rows.first().map(|row| ServerSettings {
        fsync: row.get(0),
        full_page_writes: row.get(1),
        synchronous_commit: row.get(2),
        synchronous_standby_names: row.get(3),
        standbys: row.get(4),
        is_read_only: row.get(5),
        ahead: ahead(row.get(6), asked, answered),
    });
    Ok(settings.map_or_else(ServerLook::default, |settings| ServerLook {
        doubts: in_words(&settings),
        is_read_only: settings.is_read_only,
    }))
}

/// By how much a clock that was read between two readings of another one is ahead of that at least; negative: behind.
fn ahead(read: i64, before: i64, after: i64) -> i64 {
    (read - after).max(0) + (read - before).min(0)
}

fn in_words(settings: &ServerSettings) -> Vec<String> {
    let mut words = Vec::new();
    if settings.fsync == "off" {
        words.push(
            "the database does not wait for its disk (fsync = off): a power loss damages it, and loses what was acknowledged. \
             Set fsync = on"
                .to_owned(),
        );
    }
    if settings.full_page_writes == "off" {
        words.push(
            "the database does not protect pages that are written half (full_page_writes = off): set it to on unless its \
             file system does"
                .to_owned(),
        );
    }
    if settings.synchronous_commit == "off" {
        words.push(
            "synchronous_commit is off by default in the database. Palisade turns it on for each of its own writes; what else \
             writes to this database may lose the last moments in a crash"
                .to_owned(),
        );
    }
    if settings.standbys > 0 && settings.synchronous_standby_names.trim().is_empty() {
        let standbys = match settings.standbys {
            1 => "a standby".to_owned(),
            more => format!("{more} standbys"),
        };
        words.push(format!(
            "the database has {standbys} and waits for none (synchronous_standby_names is empty): a failover loses what the \
             standby had not received, acknowledged revocations among it. Palisade refuses tokens after such a failover \
             until an operator's word; to lose nothing, name standbys, such as synchronous_standby_names = 'ANY 1 (*)'"
        ));
    }
    if settings.ahead.unsigned_abs() >= CLOCKS_APART {
        let way = if settings.ahead > 0 { "ahead of" } else { "behind" };
        words.push(format!(
            "the clock of the database is {} seconds {way} this machine's, so one of them is wrong. Lifetimes of tokens and \
             repeated refreshes are judged by the clock of each replica: set all clocks by NTP",
            settings.ahead.unsigned_abs()
        ));
    }
    if settings.is_read_only {
        words.push(
            "the database is read-only: a standby, or a primary that takes no writes. Nothing can be served"
                .to_owned(),
        );
    }
    words
}

/// What an operator should know if all replicas together may need more connections than the server lets in, each of them
/// `per_replica`. Those that are registered count, and the one of the name `own`. To be asked once the schema is made.
///
/// # Errors
/// [`DatabaseFailure`]: it cannot be read.
pub async fn lack_of_room(
    pool: &DatabasePool,
    own: &str,
    per_replica: usize,
) -> Result<Option<String>, DatabaseFailure> {
    // `least` passes NULL over. PostgreSQL 16 can keep connections for others than superusers as well.
    let sql = "SELECT (SELECT count(DISTINCT name) FROM palisade.replicas WHERE expired_at IS NULL AND name <> $1), \
               least(current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint \
                   - coalesce(current_setting('reserved_connections', true)::bigint, 0), \
                   (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database()), \
                   (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user))";
    let rows = pool.read(sql, &[(&own, Type::TEXT)]).await?;
    Ok(rows.first().and_then(|row| more_than_fit(row.get(0), per_replica, row.get(1))))
}

fn more_than_fit(others: i64, per_replica: usize, room: i64) -> Option<String> {
    let replicas = others + 1;
    let needed = replicas.saturating_mul(i64::try_from(per_replica).unwrap_or(i64::MAX));
    let may = match replicas {
        1 => "this replica may use".to_owned(),
        more => format!("{more} replicas may use together"),
    };
    (needed > room).then(|| {
        format!(
            "{may} {needed} connections, and the server lets {room} in (max_connections without those that it reserves, or a \
             limit of the user or of the database). Under load, and when a replica starts, changes would get a 503. Raise \
             max_connections, lower store.connections, or put PgBouncer in between"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ServerSettings {
        let on = || "on".to_owned();
        ServerSettings {
            fsync: on(),
            full_page_writes: on(),
            synchronous_commit: on(),
            synchronous_standby_names: String::new(),
            standbys: 0,
            is_read_only: false,
            ahead: 0,
        }
    }

    #[test]
    fn clocks_that_are_apart_are_told_of_and_slow_answers_are_not() {
        assert_eq!(ahead(15, 10, 90), 0);
        assert_eq!(ahead(100, 10, 20), 80);
        assert_eq!(ahead(10, 90, 200), -80);
    }

    #[test]
    fn replicas_that_need_more_connections_than_there_are_are_told_of() {
        assert_eq!(more_than_fit(2, 13, 39), None);
        let words = more_than_fit(2, 13, 38).unwrap();
        assert!(
            words.contains("3 replicas may use together 39 connections, and the server lets 38 in"),
            "{words}"
        );
        let words = more_than_fit(0, 13, 10).unwrap();
        assert!(words.contains("this replica may use 13"), "{words}");
    }

    #[test]
    fn a_server_that_may_lose_what_it_acknowledged_is_told_of() {
        assert_eq!(in_words(&settings()), [""; 0]);
        assert_eq!(in_words(&ServerSettings { ahead: 4, ..settings() }), [""; 0]);
        let named =
            ServerSettings { standbys: 2, synchronous_standby_names: "ANY 1 (*)".to_owned(), ..settings() };
        assert_eq!(in_words(&named), [""; 0]);
        for (odd, word) in [
            (ServerSettings { standbys: 1, ..settings() }, "a standby and waits for none"),
            (ServerSettings { standbys: 3, ..settings() }, "3 standbys"),
            (ServerSettings { fsync: "off".to_owned(), ..settings() }, "fsync = off"),
            (ServerSettings { full_page_writes: "off".to_owned(), ..settings() }, "full_page_writes"),
            (
                ServerSettings { synchronous_commit: "off".to_owned(), ..settings() },
                "synchronous_commit is off",
            ),
            (ServerSettings { ahead: 8, ..settings() }, "8 seconds ahead of this machine's"),
            (ServerSettings { ahead: -90, ..settings() }, "90 seconds behind this machine's"),
            (ServerSettings { is_read_only: true, ..settings() }, "read-only"),
        ] {
            let said = in_words(&odd);
            assert!(said.len() == 1 && said[0].contains(word), "{said:?}");
        }
    }
}

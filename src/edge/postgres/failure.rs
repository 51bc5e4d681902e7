//! What the database answered when it did not do what it was asked, in words for an operator.
//!
//! No value of a row is ever among the words: details, parameters and statements stay behind.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use palisade_core::ports::StoreError;

/// What is known of the message that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// There was no connection: nothing was sent.
    NotSent,
    /// The database answered with an error, and did nothing of the message.
    RolledBack,
    /// No answer, or one that is no acknowledgement: it may have been done, and may be lost.
    Unknown,
}

/// Why the database did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{words}")]
pub struct DatabaseFailure {
    pub kind: FailureKind,
    /// The SQLSTATE, where the database gave one.
    pub state: Option<String>,
    /// Whether there was no connection for a reason that is over by itself, as a rule: see
    /// [`DatabaseFailure::is_passing`].
    is_unreached: bool,
    words: String,
}

impl From<DatabaseFailure> for StoreError {
    fn from(failure: DatabaseFailure) -> StoreError {
        StoreError::Unavailable(failure.words)
    }
}

impl DatabaseFailure {
    #[must_use]
    pub fn not_sent(words: impl Into<String>) -> DatabaseFailure {
        DatabaseFailure { kind: FailureKind::NotSent, state: None, is_unreached: false, words: words.into() }
    }

    #[must_use]
    pub fn unknown(words: impl Into<String>) -> DatabaseFailure {
        DatabaseFailure { kind: FailureKind::Unknown, state: None, is_unreached: false, words: words.into() }
    }

    /// Of an attempt to connect to `place`.
    #[must_use]
    pub fn connecting(place: &str, error: &tokio_postgres::Error) -> DatabaseFailure {
        let (state, words) = words_of(error);
        let words = format!("no connection to the database at {place}: {words}");
        // An error without a source is the driver's own: it does not understand the server.
        let is_cut = error.is_closed() || error.source().is_some();
        let is_unreached = state.is_none() && is_cut && !words.contains(TLS_FAILED);
        DatabaseFailure { kind: FailureKind::NotSent, state, is_unreached, words }
    }

    /// Of an attempt to connect to `place` that was given up after this time.
    #[must_use]
    pub fn unanswered(place: &str, after: Duration) -> DatabaseFailure {
        let words = format!("no connection to the database at {place}: it did not answer within {after:?}");
        DatabaseFailure { is_unreached: true, ..DatabaseFailure::not_sent(words) }
    }

    /// Of a message that was sent.
    #[must_use]
    pub fn sent(error: &tokio_postgres::Error) -> DatabaseFailure {
        let kind = match error.as_db_error() {
            Some(said) if !ends_connection(said) => FailureKind::RolledBack,
            // A server that goes down may have committed before it said so.
            _ => FailureKind::Unknown,
        };
        let (state, words) = words_of(error);
        DatabaseFailure { kind, state, is_unreached: false, words }
    }

    /// Whether the database is away, or is not ready, for a reason that is over by itself as a rule: it is not started yet,
    /// restarts, fails over, has no connection left. A wrong password, name or certificate stays until an operator mends it.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        let passes = |state: &str| {
            let classes = ["08", "53", "57P"];
            classes.iter().any(|class| state.starts_with(class))
                || state == SqlState::READ_ONLY_SQL_TRANSACTION.code()
                || state == LOCKED
        };
        match self.state.as_deref() {
            Some(state) => passes(state),
            None => self.is_unreached || self.kind == FailureKind::Unknown,
        }
    }

    /// Whether the server took the whole message back because of other transactions at the same time. Nothing was
    /// promised, so it may be sent again.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        let overtaken = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
        self.kind == FailureKind::RolledBack
            && self.state.as_deref().is_some_and(|state| overtaken.iter().any(|known| known.code() == state))
    }

    /// Whether the server gave up to wait for what another transaction has locked. It takes other writes.
    #[must_use]
    pub fn is_of_a_lock(&self) -> bool {
        self.kind == FailureKind::RolledBack && self.state.as_deref() == Some(LOCKED)
    }

    /// Whether another connection may meet another server or another state of it: after a failover, for one.
    #[must_use]
    pub fn calls_for_another_connection(&self) -> bool {
        let of_the_server =
            |state: &str| state == SqlState::READ_ONLY_SQL_TRANSACTION.code() || state.starts_with("57P");
        self.kind != FailureKind::RolledBack || self.state.as_deref().is_some_and(of_the_server)
    }
}

/// The SQLSTATE of `lock_not_available`, when `lock_timeout` is over.
const LOCKED: &str = "55P03";

/// Whether an error with this SQLSTATE says that the database takes no writes, and nothing of what was to be written or of
/// another transaction.
#[must_use]
pub fn is_of_the_database(state: &str) -> bool {
    state != LOCKED
        && ["08", "25", "42", "53", "55", "57", "58", "F0", "XX"].iter().any(|class| state.starts_with(class))
}

/// Whether the server closes the connection with this error.
fn ends_connection(error: &DbError) -> bool {
    let code = error.code().code();
    code.starts_with("57P") || code.starts_with("08") || code.starts_with("XX")
}

/// What the driver's words for a failed TLS handshake hold.
const TLS_FAILED: &str = "TLS";

/// The SQLSTATE of `error`, and what an operator is told.
fn words_of(error: &tokio_postgres::Error) -> (Option<String>, String) {
    if let Some(said) = error.as_db_error() {
        let state = said.code().code().to_owned();
        let words = words_of_state(&state, said.message());
        return (Some(state), words);
    }
    // The driver's own word, and what it rests on: the system's for a socket, rustls' for TLS.
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(under) = cause {
        words = format!("{words}: {under}");
        cause = under.source();
    }
    if words.contains("server does not support TLS") {
        words.push_str("; switch TLS on in the database, or say sslmode=disable in store.url where the network is trusted");
    }
    (None, words)
}

/// What PgBouncer says of the server behind it, with the SQLSTATE of a breach of the protocol: `server_login_retry` and
/// `query_wait_timeout` are over, the server has gone, or there is room for no further client.
const POOLER_WAITS: [&str; 5] = [
    "server login has been failing",
    "query_wait_timeout",
    "server conn crashed",
    "pgbouncer cannot connect to server",
    "no more connections allowed",
];

/// What an operator is told of an error with this SQLSTATE. `said` is the server's message; it is only told where it
/// names no value of a row.
#[must_use]
pub fn words_of_state(state: &str, said: &str) -> String {
    let advice = match state {
        "25006" => {
            "the database is read-only: a standby, or a primary whose operator or provider stopped writes, for a full disk as a rule"
        }
        "53300" => {
            "the database has no connection left: raise its max_connections, or lower store.connections"
        }
        "53100" => "the database's disk is full",
        "53200" => "the database is out of memory or of room for locks",
        "57014" => "the database took too long and the statement was cancelled",
        "55P03" => "another transaction held a row for too long",
        "57P01" | "57P02" => "the database is shutting down",
        "57P03" => "the database is starting up or recovering",
        "57P05" => "the database closed a connection that was idle",
        "28P01" | "28000" => "the database refused the user or the password of store.url",
        "3D000" => "the database that store.url names does not exist",
        "42501" => "the database's user lacks a privilege",
        "42883" | "42P01" | "42703" | "3F000" => {
            "the database's schema is not this program's: a newer program has taken out what this one needs, or the schema was changed by hand"
        }
        "08P01" if POOLER_WAITS.iter().any(|words| said.contains(words)) => {
            "the connection pooler has no connection to the database"
        }
        "26000" | "08P01" => {
            "the connection pooler does not fit: a statement or a setting did not come to the server it was meant for; use PgBouncer in transaction or session mode"
        }
        "40001" | "40P01" => "other transactions came first, several times in a row",
        "PX002" => "this program is older than the schema allows",
        "PX004" => {
            "the store is closed for writing, because its records are moved, or were moved, to another one: serve that one, or this one as it is by `palisade run --accept-closed-source`"
        }
        _ => "the database answered with an error",
    };
    // Of these classes messages name roles, databases, relations and limits, and no value.
    let tells = ["08", "25", "28", "3D", "3F", "42", "53", "57"].iter().any(|class| state.starts_with(class));
    match tells && !said.is_empty() {
        true => format!("{advice} (SQLSTATE {state}: {said})"),
        false => format!("{advice} (SQLSTATE {state})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_learns_what_to_do_and_no_value_of_a_row() {
        let words = words_of_state("53300", "sorry, too many clients already");
        assert!(words.contains("store.connections") && words.contains("too many clients"), "{words}");
        let words = words_of_state("23505", "duplicate key value ann@example.com");
        assert!(words.contains("23505") && !words.contains("ann"), "{words}");
        assert!(words_of_state("25006", "").contains("read-only"));
        let words =
            words_of_state("08P01", "server login has been failing, try again later (server_login_retry)");
        assert!(
            words.contains("no connection to the database") && !words.contains("does not fit"),
            "{words}"
        );
        assert!(words_of_state("08P01", "bind message supplies 0 parameters").contains("does not fit"));
        assert!(!is_of_the_database("55P03"));
        assert!(is_of_the_database("25006") && is_of_the_database("53100") && !is_of_the_database("22P05"));
    }

    #[test]
    fn what_is_over_by_itself_is_told_from_what_an_operator_has_to_mend() {
        let said =
            |state: &str| DatabaseFailure { state: Some(state.to_owned()), ..DatabaseFailure::not_sent("") };
        for state in ["57P03", "57P01", "53300", "53100", "08006", "25006", "55P03"] {
            assert!(said(state).is_passing(), "{state}");
        }
        for state in ["28P01", "28000", "3D000", "42501", "42P01", "PX002", "PX004", "57014", "XX000"] {
            assert!(!said(state).is_passing(), "{state}");
        }
        assert!(DatabaseFailure::unanswered("db:5432", Duration::from_secs(3)).is_passing());
        assert!(!DatabaseFailure::not_sent("the password of the database: no such file").is_passing());
    }

    #[test]
    fn only_what_the_server_took_back_may_be_sent_again() {
        let failure = |kind, state: &str| DatabaseFailure {
            kind,
            state: Some(state.to_owned()),
            is_unreached: false,
            words: String::new(),
        };
        assert!(failure(FailureKind::RolledBack, "40P01").is_overtaken());
        assert!(failure(FailureKind::RolledBack, "40001").is_overtaken());
        assert!(!failure(FailureKind::RolledBack, "55P03").is_overtaken());
        assert!(failure(FailureKind::RolledBack, "55P03").is_of_a_lock());
        assert!(!failure(FailureKind::RolledBack, "57014").is_of_a_lock());
        assert!(!failure(FailureKind::Unknown, "40001").is_overtaken());
        assert!(failure(FailureKind::RolledBack, "25006").calls_for_another_connection());
        assert!(failure(FailureKind::Unknown, "57P01").calls_for_another_connection());
        assert!(!failure(FailureKind::RolledBack, "55P03").calls_for_another_connection());
    }
}

//! Connections to the database: how they are made, kept and given up.
//!
//! What is written goes through [`DatabaseSession::message`], what is read through [`DatabaseSession::read`]. A
//! connection whose answer was not awaited to its end is closed and never used again: its next answer would be another
//! message's.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification, Row, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::DatabaseFailure;
pub use super::settings::{CONNECT_TIMEOUT, PasswordSource, PostgresSettings};
use super::settings::{driver_config, server_keepalive};
use super::tls::DatabaseTls;

/// How long a caller waits for a connection that others have.
const WAIT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a read may take.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a message may take that writes. The database gives its statements up earlier.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many notifications wait for their reader. What comes beyond that is dropped: a notification is a hint, and its
/// reader looks by itself as well.
const NOTIFICATIONS: usize = 1024;
/// The earliest release of PostgreSQL, as `server_version_num` counts.
const EARLIEST_SERVER: u32 = 14_00_00;

/// What every message that writes begins with. The settings end with the transaction. Warnings are asked for whatever the
/// database's settings are: one says that a standby was not waited for.
const WRITE: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '8s'; \
                     SET LOCAL lock_timeout = '4s'; SET LOCAL synchronous_commit = on; \
                     SET LOCAL idle_in_transaction_session_timeout = '8s'; \
                     SET LOCAL client_min_messages = 'warning'; ";

/// A row of an answer in text: `None` is NULL.
pub type TextRow = Vec<Option<String>>;

/// A bounded number of connections to one place. None is made before it is needed.
#[derive(Clone)]
pub struct DatabasePool {
    pool: managed::Pool<Opener>,
}

/// One connection of a pool; goes back to it when dropped.
pub type PooledSession = managed::Object<Opener>;

impl DatabasePool {
    /// # Errors
    /// [`DatabaseFailure`]: the settings name no host.
    pub fn new(settings: PostgresSettings) -> Result<DatabasePool, DatabaseFailure> {
        if settings.hosts.is_empty() {
            return Err(DatabaseFailure::not_sent("store.url names no host of the database"));
        }
        let size = settings.size.max(1);
        let pool = managed::Pool::builder(Opener(settings))
            .max_size(size)
            .wait_timeout(Some(WAIT_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| DatabaseFailure::not_sent(error.to_string()))?;
        Ok(DatabasePool { pool })
    }

    #[must_use]
    pub fn settings(&self) -> &PostgresSettings {
        &self.pool.manager().0
    }

    /// A connection of the pool, for more than one message.
    ///
    /// # Errors
    /// [`DatabaseFailure`]: none could be had within seconds.
    pub async fn session(&self) -> Result<PooledSession, DatabaseFailure> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(failure) => failure,
            PoolError::Timeout(_) => DatabaseFailure::not_sent(
                "every connection to the database is in use: it is slow, or store.connections is too low",
            ),
            other => DatabaseFailure::not_sent(format!("no connection to the database: {other}")),
        })
    }

    /// The rows of one statement that only reads, with typed parameters and without a prepared statement. Tried once more
    /// on a new connection when the connection was lost.
    ///
    /// # Errors
    /// [`DatabaseFailure`].
    pub async fn read(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, DatabaseFailure> {
        let session = self.session().await?;
        let failure = match session.read(sql, parameters).await {
            Ok(rows) => return Ok(rows),
            Err(failure) => failure,
        };
        let is_lost = session.is_closed();
        self.note(&failure);
        drop(session);
        if !is_lost {
            return Err(failure);
        }
        let session = self.session().await?;
        session.read(sql, parameters).await.inspect_err(|failure| self.note(failure))
    }

    /// As [`DatabaseSession::message`], on a connection of the pool. Never tried again.
    ///
    /// # Errors
    /// [`DatabaseFailure`].
    pub async fn message(&self, sql: &str) -> Result<Vec<TextRow>, DatabaseFailure> {
        let session = self.session().await?;
        session.message(sql, MESSAGE_TIMEOUT).await.inspect_err(|failure| self.note(failure))
    }

    /// As [`DatabaseSession::write`], on a connection of the pool. Never tried again.
    ///
    /// # Errors
    /// [`DatabaseFailure`].
    pub async fn write(&self, sql: &str) -> Result<Vec<TextRow>, DatabaseFailure> {
        let session = self.session().await?;
        session.write(sql, MESSAGE_TIMEOUT).await.inspect_err(|failure| self.note(failure))
    }

    /// As [`DatabaseSession::call`], on a connection of the pool. Never tried again.
    ///
    /// # Errors
    /// [`DatabaseFailure`].
    pub async fn call(&self, call: &str) -> Result<Option<String>, DatabaseFailure> {
        let session = self.session().await?;
        session.call(call, MESSAGE_TIMEOUT).await.inspect_err(|failure| self.note(failure))
    }

    /// A connection that is no part of the pool, with the notifications that come to it: for `LISTEN`. They end when the
    /// connection does. Of more than 1,024 that wait the later ones are dropped.
    ///
    /// # Errors
    /// [`DatabaseFailure`].
    pub async fn dedicated(
        &self,
    ) -> Result<(DatabaseSession, mpsc::Receiver<Notification>), DatabaseFailure> {
        let (sender, receiver) = mpsc::channel(NOTIFICATIONS);
        let session = open(self.settings(), Some(sender)).await?;
        Ok((session, receiver))
    }

    /// After a failure that may be the server's end: the idle connections are as old, and would fail one by one.
    fn note(&self, failure: &DatabaseFailure) {
        if failure.calls_for_another_connection() {
            self.forget_idle();
        }
    }

    /// Closes the connections that are not in use.
    pub fn forget_idle(&self) {
        self.pool.retain(|_, _| false);
    }
}

/// Makes and keeps the connections of a pool.
pub struct Opener(PostgresSettings);

impl managed::Manager for Opener {
    type Type = DatabaseSession;
    type Error = DatabaseFailure;

    async fn create(&self) -> Result<DatabaseSession, DatabaseFailure> {
        open(&self.0, None).await
    }

    async fn recycle(&self, session: &mut DatabaseSession, _: &Metrics) -> RecycleResult<DatabaseFailure> {
        match session.is_closed() {
            true => Err(RecycleError::message("it is closed")),
            false => Ok(()),
        }
    }
}

/// What the server said beside its answers.
#[derive(Default)]
struct Heard {
    /// The first warning since the message began.
    warning: Mutex<Option<String>>,
}

/// One connection. One message or read at a time: what is heard beside an answer belongs to the one that is awaited.
pub struct DatabaseSession {
    client: Client,
    heard: Arc<Heard>,
    /// A message was sent whose answer was not read to its end, or the session must not be used for another reason.
    is_spent: AtomicBool,
    /// Speaks with the server for as long as the connection stands.
    task: JoinHandle<()>,
    tls: DatabaseTls,
}

impl Drop for DatabaseSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl DatabaseSession {
    /// Whether it is of no more use.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_spent.load(Ordering::Acquire) || self.client.is_closed()
    }

    /// The driver's client, for a transaction that only reads. An error that it gives is to be told by
    /// [`DatabaseFailure::sent`]; a session whose transaction was broken off is to be closed ([`Self::close`]).
    #[must_use]
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Never to be used again.
    pub fn close(&self) {
        self.is_spent.store(true, Ordering::Release);
        self.task.abort();
    }

    /// The rows of one statement that only reads.
    ///
    /// # Errors
    /// [`DatabaseFailure`].
    pub async fn read(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, DatabaseFailure> {
        let asked = tokio::time::timeout(READ_TIMEOUT, self.whole(self.client.query_typed(sql, parameters)));
        if let Ok(answer) = asked.await {
            return answer.map_err(|error| DatabaseFailure::sent(&error));
        }
        Err(DatabaseFailure::unknown(format!("the database did not answer a read within {READ_TIMEOUT:?}")))
    }

    /// Sends `sql` as one simple Query message, so that the database makes all of it or nothing and has committed before
    /// it answers. Returns the rows of all of its statements.
    ///
    /// # Errors
    /// [`DatabaseFailure`]. An answer that comes with a warning is none: the database has stopped to wait for a standby
    /// that was to have the commit as well. A connection without an answer in `within` is closed.
    pub async fn message(&self, sql: &str, within: Duration) -> Result<Vec<TextRow>, DatabaseFailure> {
        let (rows, warning) = self.ask(sql, within).await?;
        let Some(warning) = warning else { return Ok(rows) };
        self.close();
        Err(DatabaseFailure::unknown(format!(
            "the database answered with a warning ({warning}), so a standby may not have what was written"
        )))
    }

    /// As [`Self::message`], for statements that write: read committed, on the disk of the database and of the standbys
    /// that it waits for before it answers, and given up by the database after seconds.
    ///
    /// # Errors
    /// [`DatabaseFailure`].
    pub async fn write(&self, sql: &str, within: Duration) -> Result<Vec<TextRow>, DatabaseFailure> {
        self.message(&format!("{WRITE}{sql}"), within).await
    }

    /// Calls a function that writes: `call` is an expression, and what it comes to is the answer; `None` for NULL and for
    /// an empty text. As [`Self::write`], and the answer is sent once the transaction has ended. A client that is stopped
    /// and does not read what is sent would hold up the server in the middle of a long answer, and all that waits for
    /// what the transaction has locked.
    ///
    /// # Errors
    /// [`DatabaseFailure`]; the connection is closed then.
    pub async fn call(&self, call: &str, within: Duration) -> Result<Option<String>, DatabaseFailure> {
        // All of it is one message, as without the explicit transaction. The answer waits in a setting of the connection,
        // which is emptied by the same message.
        let sql = format!(
            "BEGIN; {WRITE}DO $palisade$ BEGIN \
             PERFORM pg_catalog.set_config('palisade.answer', ({call})::text, false); END $palisade$; COMMIT; \
             SELECT pg_catalog.current_setting('palisade.answer'); \
             SELECT pg_catalog.set_config('palisade.answer', '', false)"
        );
        // After an error the transaction is still open, though it holds nothing.
        let rows = self.message(&sql, within).await.inspect_err(|_| self.close())?;
        Ok(rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next().flatten())
            .filter(|text| !text.is_empty()))
    }

    /// The rows of an answer, and the first warning that came with it.
    async fn ask(
        &self,
        sql: &str,
        within: Duration,
    ) -> Result<(Vec<TextRow>, Option<String>), DatabaseFailure> {
        self.heard.take();
        let asked = tokio::time::timeout(within, self.whole(self.client.simple_query(sql)));
        let answer = match asked.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let failure = DatabaseFailure::sent(&error);
                if failure.calls_for_another_connection() {
                    self.close();
                }
                return Err(failure);
            }
            Err(_) => {
                let words =
                    format!("the database did not answer within {within:?}; what it was told may be done");
                return Err(DatabaseFailure::unknown(words));
            }
        };
        let rows = answer.into_iter().filter_map(|part| match part {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok((rows.collect(), self.heard.take()))
    }

    /// Closes a connection whose answer is late, and asks the server to end what it does for it. It would not notice by
    /// itself while it waits for a lock or a standby, and those that wait so would use up its connections. What it had
    /// committed stays.
    fn give_up(&self) {
        let (cancel, tls) = (self.client.cancel_token(), self.tls.clone());
        self.close();
        // Without one the process ends, and the connection with it.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(CONNECT_TIMEOUT, async move {
            // If it does not come through, the server or the network is what is late.
            let _ = match tls {
                DatabaseTls::Off => cancel.cancel_query(NoTls).await,
                DatabaseTls::Verified(config) => cancel.cancel_query(connector(&config)).await,
            };
        }));
    }

    /// Awaits an answer. If the caller leaves before it came, because its time is over or for another reason, the session
    /// is given up.
    async fn whole<T>(&self, answer: impl Future<Output = T>) -> T {
        let was_spent = self.is_spent.swap(true, Ordering::AcqRel);
        let awaited = Awaited(self);
        let answer = answer.await;
        std::mem::forget(awaited);
        self.is_spent.store(was_spent, Ordering::Release);
        answer
    }
}

/// An answer that is awaited, and is late when this is dropped.
struct Awaited<'a>(&'a DatabaseSession);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl Heard {
    fn take(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn connector(config: &Arc<rustls::ClientConfig>) -> MakeRustlsConnect {
    MakeRustlsConnect::new(rustls::ClientConfig::clone(config))
}

/// Connects to the first host that answers, takes what it is asked, and is what this program needs.
async fn open(
    settings: &PostgresSettings,
    notifications: Option<mpsc::Sender<Notification>>,
) -> Result<DatabaseSession, DatabaseFailure> {
    let password = match settings.password.clone() {
        // A file that is read, as a rule.
        Some(source) => tokio::task::spawn_blocking(move || source())
            .await
            .map_err(|error| DatabaseFailure::not_sent(error.to_string()))?
            .map(Some)
            .map_err(|why| DatabaseFailure::not_sent(format!("the password of the database: {why}")))?,
        None => None,
    };
    let mut failure = DatabaseFailure::not_sent("store.url names no host of the database");
    for (host, port) in &settings.hosts {
        let place = format!("{host}:{port}");
        let config = driver_config(settings, host, *port, password.as_ref());
        let attempt = async {
            let session = match &settings.tls {
                DatabaseTls::Verified(roots) if !host.starts_with('/') => {
                    connect(&config, connector(roots), settings, notifications.clone()).await
                }
                _ => connect(&config, NoTls, settings, notifications.clone()).await,
            };
            let session = session.map_err(|error| DatabaseFailure::connecting(&place, &error))?;
            fits(&session).await?;
            Ok(session)
        };
        failure = match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(failure)) => failure,
            Err(_) => DatabaseFailure::unanswered(&place, CONNECT_TIMEOUT),
        };
    }
    Err(failure)
}

async fn connect<T>(
    config: &Config,
    tls: T,
    settings: &PostgresSettings,
    notifications: Option<mpsc::Sender<Notification>>,
) -> Result<DatabaseSession, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = config.connect(tls).await?;
    let heard = Arc::new(Heard::default());
    let listener = Arc::clone(&heard);
    // What the server says beside its answers comes before the end of the answer that it belongs to, and is noted before
    // that is handed on: this loop does both.
    let task = tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => {
                    let is_warning = match notice.parsed_severity() {
                        Some(severity) => severity == Severity::Warning,
                        None => notice.severity() == "WARNING",
                    };
                    if is_warning {
                        let mut warning = listener.warning.lock().unwrap_or_else(PoisonError::into_inner);
                        warning.get_or_insert_with(|| notice.message().to_owned());
                    }
                }
                Ok(AsyncMessage::Notification(notification)) => {
                    if let Some(sender) = &notifications {
                        // Full: see `NOTIFICATIONS`.
                        let _ = sender.try_send(notification);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    let failure = DatabaseFailure::sent(&error);
                    tracing::debug!(why = %failure, "a connection to the database has ended");
                    return;
                }
            }
        }
    });
    Ok(DatabaseSession { client, heard, is_spent: AtomicBool::new(false), task, tls: settings.tls.clone() })
}

/// Whether the server is one that this program can use. Asks it to find out about a connection that is cut as soon as this end
/// does ([`server_keepalive`]). Also takes what a server says at the beginning of a connection
/// away from the answer of the first message.
async fn fits(session: &DatabaseSession) -> Result<(), DatabaseFailure> {
    let sql = format!(
        "{}; SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_encoding')",
        server_keepalive()
    );
    let (rows, _) = session.ask(&sql, CONNECT_TIMEOUT).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    let text = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
    let version = text(0).parse::<u32>().unwrap_or(0);
    if version < EARLIEST_SERVER {
        return Err(DatabaseFailure::not_sent(format!(
            "the database is PostgreSQL {}: version 14 or later is needed",
            version / 10_000
        )));
    }
    if text(1) != "UTF8" {
        return Err(DatabaseFailure::not_sent(format!(
            "the database has the encoding {}: make one with ENCODING 'UTF8'",
            text(1)
        )));
    }
    Ok(())
}

//! Where the database is, and what a connection to it is made with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use super::tls::DatabaseTls;

/// How long one host may take to answer, from the first packet to the end of the authentication.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long sent bytes may go unacknowledged before the kernel gives a connection up (`TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// After which silence the kernel asks whether the other end is there, how often, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(3), Duration::from_secs(1), 3);

/// The same of the server's end of a connection, as SQL. By its own defaults it keeps one that is cut for two hours, and a few
/// cuts would take all its connections. Ignored for a Unix socket; behind a pooler it is of the pooler's connection.
pub(super) fn server_keepalive() -> String {
    let (idle, interval, retries) = KEEPALIVE;
    format!(
        "SET tcp_keepalives_idle = {}; SET tcp_keepalives_interval = {}; SET tcp_keepalives_count = {retries}; \
         SET tcp_user_timeout = {}",
        idle.as_secs(),
        interval.as_secs(),
        UNACKNOWLEDGED.as_millis()
    )
}

/// Where a password comes from. Asked at each new connection, so that one that was changed is taken up. The error is for
/// an operator and names no part of the password.
pub type PasswordSource = Arc<dyn Fn() -> Result<SecretString, String> + Send + Sync>;

/// Where the database is, and how it is connected to.
#[derive(Clone)]
pub struct PostgresSettings {
    /// Host names, addresses or folders of unix sockets (these begin with `/`), with their ports; tried in this order.
    /// Of several, only one that takes writes is used.
    pub hosts: Vec<(String, u16)>,
    pub user: String,
    pub database: String,
    pub password: Option<PasswordSource>,
    pub tls: DatabaseTls,
    /// How many connections there are at most; at least 1.
    pub size: usize,
}

impl PostgresSettings {
    /// The same place, with another number of connections.
    #[must_use]
    pub fn with_size(&self, size: usize) -> PostgresSettings {
        PostgresSettings { size, ..self.clone() }
    }
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What the driver is told for one host.
pub(super) fn driver_config(
    settings: &PostgresSettings,
    host: &str,
    port: u16,
    password: Option<&SecretString>,
) -> Config {
    let mut config = Config::new();
    let (idle, interval, retries) = KEEPALIVE;
    config
        .host(host)
        .port(port)
        .user(&settings.user)
        .dbname(&settings.database)
        .application_name("palisade")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(UNACKNOWLEDGED)
        .keepalives_idle(idle)
        .keepalives_interval(interval)
        .keepalives_retries(retries)
        .ssl_mode(match settings.tls {
            DatabaseTls::Verified(_) if !host.starts_with('/') => SslMode::Require,
            _ => SslMode::Disable,
        });
    if settings.hosts.len() > 1 {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if let Some(password) = password {
        config.password(password.expose_secret());
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that vanishes without a word is noticed in seconds, by whichever of these is first.
    #[test]
    fn the_kernel_gives_a_silent_connection_up_within_seconds() {
        let settings = PostgresSettings {
            hosts: vec![("db.test".to_owned(), 5432)],
            user: "palisade".to_owned(),
            database: "palisade".to_owned(),
            password: None,
            tls: DatabaseTls::Off,
            size: 1,
        };
        let config = driver_config(&settings, "db.test", 5432, None);
        let bound = Duration::from_secs(6);
        assert!(config.get_connect_timeout().is_some_and(|time| *time <= bound));
        assert!(config.get_tcp_user_timeout().is_some_and(|time| *time <= bound));
        let interval = config.get_keepalives_interval().unwrap();
        let retries = config.get_keepalives_retries().unwrap();
        assert!(config.get_keepalives() && config.get_keepalives_idle() + interval * retries <= bound);
        // One that takes no writes is passed over where there are several.
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::Any);
        let several = PostgresSettings { hosts: vec![("a".to_owned(), 1), ("b".to_owned(), 2)], ..settings };
        let config = driver_config(&several, "a", 1, None);
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }
}

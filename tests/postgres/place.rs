//! Where a store of a test is, and how it is opened.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use palisade::edge::clock::uptime;
use palisade::edge::postgres::PostgresStore;
use palisade::edge::postgres::connect::DatabasePool;
use palisade::edge::postgres::feed::Feed;
use palisade::edge::postgres::feed_database::FeedDatabase;
use palisade::edge::postgres::migrations::migrate;
use palisade::edge::postgres::settings::PostgresSettings;
use palisade::edge::postgres::tls::DatabaseTls;
use palisade_core::ports::Unmeasured;
use palisade_testing::postgres::{Cluster, Database, Pooler};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, SimpleQueryMessage};

/// The URL of a database, as the suites hand it on.
pub struct Place(String);

impl Place {
    pub fn of(database: &Database) -> Place {
        Place(database.url())
    }

    pub fn through(pooler: &Pooler, database: &Database) -> Place {
        Place(pooler.url(database))
    }
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

/// What a store is opened with.
pub fn settings(url: &str) -> PostgresSettings {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let hosts = config.get_hosts().iter().zip(config.get_ports()).map(|(host, port)| match host {
        Host::Tcp(name) => (name.clone(), *port),
        Host::Unix(folder) => (folder.to_str().unwrap().to_owned(), *port),
    });
    PostgresSettings {
        hosts: hosts.collect(),
        user: config.get_user().unwrap().to_owned(),
        database: config.get_dbname().unwrap().to_owned(),
        password: None,
        tls: DatabaseTls::Off,
        size: 8,
    }
}

/// The longest that any step may take; a bound against hanging, never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a database is reached by at an address: its own, or that of something in between.
pub fn settings_at(database: &Database, address: SocketAddr) -> PostgresSettings {
    PostgresSettings {
        hosts: vec![(address.ip().to_string(), address.port())],
        user: "palisade".to_owned(),
        database: database.name.clone(),
        password: None,
        tls: DatabaseTls::Off,
        size: 2,
    }
}

/// A database with the schema.
pub async fn prepared(cluster: &Cluster) -> Database {
    let database = cluster.database().await;
    migrate(&DatabasePool::new(settings_at(&database, database.address)).unwrap()).await.unwrap();
    database
}

/// How many wait for a lock that commits hold, or that holds commits up.
pub const HELD_UP: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// The first value of a query, as text.
pub async fn value(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap();
    let mut rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    rows.next().unwrap_or_default()
}

/// Opens a store that serves, as far as its feed goes.
pub async fn open(url: &str) -> Arc<PostgresStore> {
    // Boxed, because the suites have many of these in one future.
    Box::pin(async {
        let store = PostgresStore::open(settings(url)).await.unwrap_or_else(|error| panic!("{error}"));
        let pool = DatabasePool::new(settings(url)).unwrap();
        let calls = FeedDatabase::new(&pool, &pool).unwrap();
        let feed = Feed::start(Arc::new(calls), Arc::new(uptime), Arc::new(Unmeasured));
        store.acknowledge_by(Arc::new(feed));
        store
    })
    .await
}

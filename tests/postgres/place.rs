//! Where a store of a test is, and how it is opened.

use std::path::Path;
use std::sync::Arc;

use palisade::edge::clock::uptime;
use palisade::edge::postgres::PostgresStore;
use palisade::edge::postgres::connect::DatabasePool;
use palisade::edge::postgres::feed::Feed;
use palisade::edge::postgres::feed_database::FeedDatabase;
use palisade::edge::postgres::settings::PostgresSettings;
use palisade::edge::postgres::tls::DatabaseTls;
use palisade_core::ports::Unmeasured;
use palisade_testing::postgres::Database;
use tokio_postgres::config::Host;

/// The URL of a database, as the suites hand it on.
pub struct Place(String);

impl Place {
    pub fn of(database: &Database) -> Place {
        Place(database.url())
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

//! A store that several replicas share: how the configuration leads to it, and what a start looks at before it serves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::options::Options;
use super::shared_backend::{SharedBackend, replica_name};
use super::{closed, key_checks, secrets};
use crate::config::{Config, PostgresHost, PostgresServer, PostgresTls, SharedStore, Vault};
use crate::edge::clock::{SystemClock, uptime};
use crate::edge::data_dir;
use crate::edge::jwt::SigningKeyRing;
use crate::edge::postgres::connect::DatabasePool;
use crate::edge::postgres::failure::DatabaseFailure;
use crate::edge::postgres::feed::{self, Feed};
use crate::edge::postgres::feed_database::FeedDatabase;
use crate::edge::postgres::secrets::DatabaseSecrets;
use crate::edge::postgres::settings::PostgresSettings;
use crate::edge::postgres::tls::DatabaseTls;
use crate::edge::postgres::{PostgresStore, migrations, server};
use crate::edge::store::Kept;
use crate::edge::vault::VaultKeyRing;
use palisade_core::ports::{Records as _, ReplicaMeter, SecretStore, Store, StoreError};
use palisade_core::service::outage::Outage;

/// How one of the servers of the store is connected to.
///
/// # Errors
/// The authorities that it is to be verified with cannot be used; as one printable text.
pub(super) fn connection(store: &SharedStore, server: &PostgresServer) -> Result<PostgresSettings, String> {
    let tls = match server.tls {
        PostgresTls::Off => DatabaseTls::Off,
        PostgresTls::Verify => {
            DatabaseTls::verified(store.ca.as_deref()).map_err(|why| format!("store.ca: {why}"))?
        }
    };
    let hosts = server.hosts.iter().map(|host| match host {
        PostgresHost::Tcp { host, port } => (host.clone(), *port),
        PostgresHost::Socket { folder, port } => (folder.display().to_string(), *port),
    });
    let password = server.password.clone().map(|password| Arc::new(move || password.now()) as _);
    Ok(PostgresSettings {
        hosts: hosts.collect(),
        user: server.user.clone(),
        database: server.database.clone(),
        password,
        tls,
        size: store.connections,
    })
}

/// The secrets in the database. Connects to nothing yet.
///
/// # Errors
/// What keeps them from being read at all, as one printable text.
fn secrets_in(store: &SharedStore, vault: &Vault) -> Result<DatabaseSecrets, String> {
    let settings = connection(store, &store.server)?;
    DatabaseSecrets::new(&settings, store.server.to_string(), Arc::new(VaultKeyRing::new(&vault.keys)?))
}

/// The secrets in the database, for a command beside the gateway.
///
/// # Errors
/// What keeps them from being read at all, as one printable text.
pub(crate) fn database_secrets(store: &SharedStore, vault: &Vault) -> Result<Arc<dyn SecretStore>, String> {
    Ok(Arc::new(secrets_in(store, vault)?))
}

/// What is to be known of the database, one line each: for `palisade check`. Changes nothing.
///
/// # Errors
/// It cannot be reached, or cannot be served from; as one printable text.
pub(crate) async fn look_at_database(config: &Config, store: &SharedStore) -> Result<Vec<String>, String> {
    let pool = DatabasePool::new(connection(store, &store.server)?.with_size(1));
    let pool = pool.map_err(|failure| failure.to_string())?;
    let look = server::look(&pool, &SystemClock).await.map_err(|failure| failure.to_string())?;
    let mut lines = look.doubts;
    let is_current = migrations::is_current(&pool).await.map_err(|error| error.to_string())?;
    if is_current {
        lines.extend(lack_of_room(config, store, &pool).await.map_err(|failure| failure.to_string())?);
    } else {
        lines.push(
            "the schema of the database is not made yet, or is older: the next start brings it up to date"
                .to_owned(),
        );
    }
    // A standby takes none, and can serve nothing anyway.
    if !look.is_read_only {
        lines.extend(lack_of_notices(store, &pool).await?);
    }
    Ok(lines)
}

/// What an operator should know of the connections that all replicas may need together. A pooler shares its own among them.
async fn lack_of_room(
    config: &Config,
    store: &SharedStore,
    pool: &DatabasePool,
) -> Result<Option<String>, DatabaseFailure> {
    let per_replica = store.connections + server::BESIDE;
    let Some(words) = server::lack_of_room(pool, &replica_name(config), per_replica).await? else {
        return Ok(None);
    };
    let is_direct = match FeedDatabase::new(pool, pool) {
        Ok(calls) => feed::notices_arrive(&calls).await,
        Err(error) => Err(error),
    };
    Ok(matches!(is_direct, Ok(true)).then_some(words))
}

/// What an operator should know of notices that do not come.
///
/// # Errors
/// The settings cannot be used; as one printable text.
async fn lack_of_notices(store: &SharedStore, pool: &DatabasePool) -> Result<Option<String>, String> {
    let notices_at = DatabasePool::new(connection(store, &store.feed)?.with_size(1));
    let notices_at = notices_at.map_err(|failure| failure.to_string())?;
    let calls = FeedDatabase::new(pool, &notices_at).map_err(|error| error.to_string())?;
    Ok(match feed::notices_arrive(&calls).await {
        Ok(true) => None,
        Ok(false) => Some(
            "no notices of the database arrive, as through a connection pooler in transaction mode: the feed of revocations is \
             polled every 50 ms instead. Give the database's own address as store.feed_url"
                .to_owned(),
        ),
        Err(error) => Some(format!(
            "notices of the database cannot be listened for, and the feed of revocations is polled every 50 ms instead: {error}"
        )),
    })
}

/// Opens the store: the folder first, then the schema, then what the secrets say.
///
/// # Errors
/// What kept it from that, with advice, as one printable text.
pub(super) async fn open(
    config: &Config,
    settings: &SharedStore,
    options: Options,
    meter: Arc<dyn ReplicaMeter>,
    notices: &mut Vec<String>,
) -> Result<SharedBackend, String> {
    let folder = data_dir::lock(&settings.data)?;
    let connection = connection(settings, &settings.server)?;
    let own = Arc::new(secrets_in(settings, &config.vault)?);
    let failed = |why: &dyn std::fmt::Display| format!("store.url: {}: {why}", settings.server);
    let pool = DatabasePool::new(connection.with_size(1)).map_err(|failure| failed(&failure))?;
    let notices_at = DatabasePool::new(self::connection(settings, &settings.feed)?.with_size(1));
    let notices_at = notices_at.map_err(|failure| failed(&failure))?;
    let store = opened(connection, &failed).await?;
    match server::look(&pool, &SystemClock).await {
        Ok(look) => notices.extend(look.doubts),
        // No reason not to serve: the user may be kept from looking.
        Err(failure) => notices.push(format!("the settings of the database were not looked at: {failure}")),
    }
    match lack_of_room(config, settings, &pool).await {
        Ok(words) => notices.extend(words),
        Err(failure) => notices.push(format!("the connections of the database were not counted: {failure}")),
    }
    key_checks::are_usable(&*own)?;
    if config.tokens.key.is_none() {
        SigningKeyRing::look(&*own).map_err(|error| error.to_string())?;
    }
    let is_populated = is_populated(&*store).await.map_err(|error| failed(&error))?;
    let closed_for = store.closed_for().await.map_err(|error| failed(&error))?;
    let kept = Kept { is_new: false, is_populated, key_checks: Ok(BTreeMap::new()), closed_for };
    notices.extend(closed::admit(&kept, options.accept)?);
    notices.extend(secrets::admit(config, &*own, &kept, options.accept)?);
    match own.seal_anew().map_err(|error| error.to_string())? {
        0 => {}
        sealed => notices.push(format!(
            "{sealed} secrets in the database were sealed with another key: they are sealed with the first of vault.keys \
             now"
        )),
    }
    let calls = FeedDatabase::new(&pool, &notices_at).map_err(|error| failed(&error))?;
    let feed = Arc::new(Feed::start(Arc::new(calls), Arc::new(uptime), meter));
    store.acknowledge_by(Arc::clone(&feed));
    Ok(SharedBackend {
        store,
        secrets: own,
        feed,
        replica: OnceLock::new(),
        folder: Mutex::new(Some(folder)),
    })
}

/// How long it is waited before a database that was away is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Opens the store. Waits for a database that is away: what starts together with it, or while it fails over, need not be
/// started again.
async fn opened(
    connection: PostgresSettings,
    failed: &(dyn Fn(&dyn std::fmt::Display) -> String + Sync),
) -> Result<Arc<PostgresStore>, String> {
    let outage = Outage::new("the start waits for the database");
    loop {
        match Box::pin(PostgresStore::open(connection.clone())).await {
            Ok(store) => {
                outage.succeeded();
                return Ok(store);
            }
            Err(error) if error.is_passing() => outage.failed(&failed(&error)),
            Err(error) => return Err(failed(&error)),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Whether there are records beside those that a start itself writes.
async fn is_populated(store: &dyn Store) -> Result<bool, StoreError> {
    Ok(!store.users(None, 1).await?.is_empty()
        || !store.all_sessions(None, 1).await?.is_empty()
        || !store.recent_revocations(1).await?.is_empty())
}

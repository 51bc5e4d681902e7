//! The gateway's own secrets in the database, for every replica the same, each sealed under `vault.keys`.
//!
//! Must never write a secret that is not sealed, and never put one over another that was not read before: a replacement
//! names the revision that it was made from.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::runtime::Runtime;
use tokio_postgres::types::Type;

use super::connect::{DatabasePool, TextRow};
use super::failure::DatabaseFailure;
use super::settings::PostgresSettings;
use palisade_core::ports::{
    KeptSecret, OwnSecret, Replaced, SecretRevision, SecretSealer, SecretStore, SecretStoreError,
};

/// How often it is looked which ring of signing keys the replicas go by, while something waits for them.
const LOOK: Duration = Duration::from_millis(150);
/// How much longer than its lease a replica that does not confirm may be taken for a living one. As the acknowledgement
/// of revocations counts it, with room for this room's own looks.
const MARGIN: Duration = Duration::from_millis(800);

/// Secrets in `palisade.secrets`. They are read and written through one connection of their own, by a thread of their
/// own: their callers block.
pub struct DatabaseSecrets {
    pool: DatabasePool,
    /// `None` only while this is dropped.
    runtime: Option<Runtime>,
    sealer: Arc<dyn SecretSealer>,
    /// The database, in words for operators.
    shown: String,
    /// The revision of the ring of signing keys that this process goes by.
    ring: AtomicU64,
    /// Is told of it.
    on_ring: OnceLock<OnRing>,
}

/// Is told which revision of the ring of signing keys this process goes by. Must not block.
pub type OnRing = Box<dyn Fn(u64) + Send + Sync>;

impl Drop for DatabaseSecrets {
    fn drop(&mut self) {
        // Waiting for it is not allowed where this may be dropped.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A row of `palisade.replicas`, as far as it concerns the ring of signing keys.
struct Reader {
    id: String,
    name: String,
    ring: u64,
    confirms: i64,
    lease: Duration,
}

impl DatabaseSecrets {
    /// Secrets in the database of `settings`, which `shown` names for operators. Connects to nothing yet.
    ///
    /// # Errors
    /// The settings name no host, or no thread can be had; as one printable text.
    pub fn new(
        settings: &PostgresSettings,
        shown: String,
        sealer: Arc<dyn SecretSealer>,
    ) -> Result<DatabaseSecrets, String> {
        let pool = DatabasePool::new(settings.with_size(1)).map_err(|failure| failure.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("palisade-secrets")
            .enable_all()
            .build()
            .map_err(|error| format!("no thread for the secrets in the database: {error}"))?;
        Ok(DatabaseSecrets {
            pool,
            runtime: Some(runtime),
            sealer,
            shown,
            ring: AtomicU64::new(0),
            on_ring: OnceLock::new(),
        })
    }

    /// The revision of the ring of signing keys that this process goes by; 0 before there is one.
    #[must_use]
    pub fn ring_revision(&self) -> u64 {
        self.ring.load(Ordering::Acquire)
    }

    /// Has `told` hear of the revision of the ring of signing keys that this process goes by: now, and whenever it changes.
    /// For one listener.
    pub fn tell_of_ring(&self, told: OnRing) {
        let told = self.on_ring.get_or_init(|| told);
        told(self.ring_revision());
    }

    /// Seals every secret that an earlier key of `vault.keys` has sealed with the first one. Returns how many. One that
    /// another replica replaces meanwhile is left to it.
    ///
    /// # Errors
    /// [`SecretStoreError`]; those that were sealed anew stay so.
    pub fn seal_anew(&self) -> Result<usize, SecretStoreError> {
        let mut sealed = 0;
        for secret in OwnSecret::ALL {
            let Some((revision, envelope)) = self.row(secret)? else { continue };
            if self.sealer.is_own_current(&envelope) {
                continue;
            }
            let content = self.opened(secret, &envelope)?;
            if let Replaced::Done(_) = self.replace(secret, &content, revision)? {
                sealed += 1;
            }
        }
        Ok(sealed)
    }

    /// What `work` comes to. Blocks any thread.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DatabaseFailure>> + Send + 'static,
    ) -> Result<T, String> {
        let runtime = self.runtime.as_ref().ok_or("the secrets are closed")?;
        let (sender, receiver) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            // The caller blocks until it comes.
            let _ = sender.send(work.await);
        });
        receiver.recv().map_err(|_| "it was broken off".to_owned())?.map_err(|failure| failure.to_string())
    }

    fn failed(&self, secret: OwnSecret) -> impl Fn(String) -> SecretStoreError {
        let place = self.place(secret);
        move |why| SecretStoreError { place: place.clone(), why }
    }

    /// The revision and the envelope.
    fn row(&self, secret: OwnSecret) -> Result<Option<(SecretRevision, String)>, SecretStoreError> {
        let pool = self.pool.clone();
        let rows = self.wait(async move {
            let sql = "SELECT revision, sealed FROM palisade.secrets WHERE name = $1";
            pool.read(sql, &[(&secret.name(), Type::TEXT)]).await
        });
        let rows = rows.map_err(self.failed(secret))?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (revision, sealed): (i64, Vec<u8>) = (row.get(0), row.get(1));
        Ok(Some(self.understood(secret, revision, sealed)?))
    }

    fn understood(
        &self,
        secret: OwnSecret,
        revision: i64,
        sealed: Vec<u8>,
    ) -> Result<(SecretRevision, String), SecretStoreError> {
        let odd = || self.failed(secret)("it is damaged: no sealed value".to_owned());
        let revision = u64::try_from(revision).map_err(|_| odd())?;
        Ok((SecretRevision(revision), String::from_utf8(sealed).map_err(|_| odd())?))
    }

    fn opened(
        &self,
        secret: OwnSecret,
        envelope: &str,
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, SecretStoreError> {
        let failed = self.failed(secret);
        self.sealer.open_own(secret, envelope).map_err(|error| {
            failed(format!(
                "{error}; put the key that it was sealed with back into vault.keys, behind the first one"
            ))
        })
    }

    fn kept(
        &self,
        secret: OwnSecret,
        (revision, envelope): (SecretRevision, String),
    ) -> Result<KeptSecret, SecretStoreError> {
        Ok(KeptSecret { content: self.opened(secret, &envelope)?, revision })
    }

    /// Sends one message that writes. `sql` holds nothing but the names of this room, base64 and numbers.
    fn write(&self, secret: OwnSecret, sql: String) -> Result<Vec<TextRow>, SecretStoreError> {
        let pool = self.pool.clone();
        let sql = format!(
            "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '3s'; SET LOCAL synchronous_commit = on; {sql}"
        );
        self.wait(async move { pool.message(&sql).await }).map_err(self.failed(secret))
    }

    fn readers(&self) -> Result<Vec<Reader>, SecretStoreError> {
        let pool = self.pool.clone();
        let rows = self.wait(async move {
            let sql = "SELECT id::text, name, key_ring, confirms, lease_ms FROM palisade.replicas \
                       WHERE expired_at IS NULL";
            pool.read(sql, &[]).await
        });
        let rows = rows.map_err(self.failed(OwnSecret::SigningKeys))?;
        let reader = |row: &tokio_postgres::Row| {
            let (ring, lease): (i64, i32) = (row.get(2), row.get(4));
            Reader {
                id: row.get(0),
                name: row.get(1),
                ring: u64::try_from(ring).unwrap_or(0),
                confirms: row.get(3),
                lease: Duration::from_millis(u64::try_from(lease).unwrap_or(0)),
            }
        };
        Ok(rows.iter().map(reader).collect())
    }
}

impl SecretStore for DatabaseSecrets {
    fn find(&self, secret: OwnSecret) -> Result<Option<KeptSecret>, SecretStoreError> {
        self.row(secret)?.map(|row| self.kept(secret, row)).transpose()
    }

    fn make(&self, secret: OwnSecret, content: &[u8]) -> Result<KeptSecret, SecretStoreError> {
        let sealed = STANDARD.encode(self.sealer.seal_own(secret, content));
        let name = secret.name();
        let rows = self.write(
            secret,
            format!(
                "INSERT INTO palisade.secrets (name, revision, sealed) VALUES ('{name}', 1, decode('{sealed}', 'base64')) \
                 ON CONFLICT (name) DO NOTHING; \
                 SELECT revision, encode(sealed, 'base64') FROM palisade.secrets WHERE name = '{name}'"
            ),
        )?;
        // The first replica's stands, and this is it.
        let failed = self.failed(secret);
        let row = rows.first().ok_or_else(|| failed("it was not kept".to_owned()))?;
        let cell = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
        let revision = cell(0).parse().map_err(|_| failed("it has no revision".to_owned()))?;
        // The database breaks its lines.
        let text: String = cell(1).split_ascii_whitespace().collect();
        let sealed = STANDARD.decode(text).map_err(|_| failed("it is not base64".to_owned()))?;
        let row = self.understood(secret, revision, sealed)?;
        self.kept(secret, row)
    }

    fn replace(
        &self,
        secret: OwnSecret,
        content: &[u8],
        over: SecretRevision,
    ) -> Result<Replaced, SecretStoreError> {
        let sealed = STANDARD.encode(self.sealer.seal_own(secret, content));
        let (name, SecretRevision(over)) = (secret.name(), over);
        let rows = self.write(
            secret,
            format!(
                "UPDATE palisade.secrets SET revision = revision + 1, sealed = decode('{sealed}', 'base64') \
                 WHERE name = '{name}' AND revision = {over} RETURNING revision"
            ),
        )?;
        let revision = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
        Ok(revision.map_or(Replaced::Overtaken, |revision| Replaced::Done(SecretRevision(revision))))
    }

    fn place(&self, secret: OwnSecret) -> String {
        format!("the {} in palisade.secrets of {}", secret.name(), self.shown)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn goes_by(&self, revision: SecretRevision) {
        let before = self.ring.fetch_max(revision.0, Ordering::AcqRel);
        if let Some(told) = self.on_ring.get().filter(|_| before < revision.0) {
            told(revision.0);
        }
    }

    fn await_readers(&self, revision: SecretRevision) -> Result<Vec<String>, SecretStoreError> {
        // By our own clock, so that it does not matter what the others' and the database's show.
        let begun = Instant::now();
        let mut seen: HashMap<String, (i64, Instant)> = HashMap::new();
        loop {
            let mut behind = Vec::new();
            for reader in self.readers()?.into_iter().filter(|reader| reader.ring < revision.0) {
                let patience = reader.lease + reader.lease / 100 + MARGIN;
                let (confirms, since) = seen.entry(reader.id).or_insert((reader.confirms, Instant::now()));
                if *confirms != reader.confirms {
                    (*confirms, *since) = (reader.confirms, Instant::now());
                } else if since.elapsed() > patience {
                    // Dead: when it comes back, it registers anew and reads the ring first.
                    continue;
                }
                behind.push((reader.name, patience));
            }
            // One that lives has had the time to read the ring, and to tell so, several times over.
            let longest = behind.iter().map(|(_, patience)| *patience * 2).max();
            if longest.is_none_or(|longest| begun.elapsed() > longest) {
                return Ok(behind.into_iter().map(|(name, _)| name).collect());
            }
            #[allow(
                clippy::disallowed_methods,
                reason = "secrets are kept from the blocking pool, never from a worker of the runtime"
            )]
            std::thread::sleep(LOOK);
        }
    }
}

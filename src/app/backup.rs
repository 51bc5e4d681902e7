//! What backups of this installation are made with, and a backup of a store that no gateway has open.

use std::io::Write;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::stores::{self, OpenStore};
use crate::config::{self, Config, StoreUrl};
use crate::edge::backup::{BackupCounts, BackupPlan, InstallationKeys, stream};
use crate::edge::clock::SystemClock;
use crate::edge::own_secrets::{self, file_name};
use crate::edge::store::Doubts;
use palisade_core::ports::{BackupRequest, Clock, OwnSecret, RecordSource, SecretStore};

/// The secrets that a backup carries where it is encrypted.
pub(super) const SECRETS: [OwnSecret; 5] = [
    OwnSecret::SigningKeys,
    OwnSecret::ServerKey,
    OwnSecret::VaultKey,
    OwnSecret::AdminCredential,
    OwnSecret::PluginCacheKey,
];

/// What a backup calls the kind of the store.
pub(super) fn kind(url: &StoreUrl) -> &'static str {
    match url {
        StoreUrl::Sled(_) => "sled",
        StoreUrl::Postgres(_) => "postgres",
    }
}

/// The keys of this installation, derived from `vault.keys` and the vault's key that the gateway has made. Makes nothing,
/// and needs no database: beside one, `vault.keys` has all of them.
///
/// # Errors
/// There is none, or one cannot be read; as one printable text.
pub(super) fn installation(config: &Config, secrets: &dyn SecretStore) -> Result<InstallationKeys, String> {
    let mut keys = Vec::new();
    for text in &config.vault.keys {
        keys.push(Zeroizing::new(*config::vault_key(text).ok_or("a key of vault.keys is none")?));
    }
    if matches!(config.store, StoreUrl::Sled(_)) {
        let own = secrets.read(OwnSecret::VaultKey).map_err(|error| format!("the secret in {error}"))?;
        if own.is_some() {
            keys.push(own_secrets::key(secrets, OwnSecret::VaultKey)?);
        }
    }
    InstallationKeys::derive(&keys)
}

/// A secret by the name of its file.
pub(super) type NamedSecret = (&'static str, Zeroizing<Vec<u8>>);

/// The gateway's secrets that are kept. Blocks.
pub(super) fn kept_secrets(secrets: &dyn SecretStore) -> Result<Vec<NamedSecret>, String> {
    let mut kept = Vec::new();
    for secret in SECRETS {
        let content = secrets.read(secret).map_err(|error| format!("the secret in {error}"))?;
        kept.extend(content.map(|content| (file_name(secret), content)));
    }
    Ok(kept)
}

/// The names of the gateway's secrets that are kept, also where one cannot be read. Blocks.
pub(super) fn kept_names(secrets: &dyn SecretStore) -> Vec<String> {
    let is_kept = |secret: &OwnSecret| !matches!(secrets.read(*secret), Ok(None));
    SECRETS.into_iter().filter(is_kept).map(|secret| file_name(secret).to_owned()).collect()
}

/// Makes a backup of the store of `config`, which no gateway has open. Blocks, outside of tasks. Returns what is in it, and
/// which installation has signed it.
///
/// # Errors
/// As one printable text; what was written is no backup then.
pub(crate) fn offline<W: Write>(
    config: &Config,
    request: &BackupRequest,
    out: W,
    told: &mut dyn FnMut(u64),
) -> Result<(W, BackupCounts, String), String> {
    let secrets = stores::secrets(config)?;
    let keys = installation(config, &*secrets)?;
    let with_secrets = request.secrets && !request.recipients.is_empty();
    if !stores::may_be_there(config) {
        return Err(format!("there is no store in {}", config.store.data_dir().display()));
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let opened = runtime.block_on(OpenStore::open(config, Doubts::Refuse, &mut |_| Ok(())))?;
    // Behind the opening, which makes the tables of a database.
    let plan = BackupPlan {
        store: kind(&config.store),
        issuer: config.tokens.issuer.clone(),
        made_at: SystemClock.now(),
        recipients: request.recipients.clone(),
        secrets_kept: kept_names(&*secrets),
        secrets: if with_secrets { kept_secrets(&*secrets)? } else { Vec::new() },
    };
    let store = Arc::clone(&opened.store);
    let made = runtime.block_on(async { store.snapshot().await }).map_err(|error| error.to_string());
    let made = made.and_then(|mut source: Box<dyn RecordSource>| {
        stream::write(out, &plan, &keys, &mut *source, runtime.handle(), told)
            .map_err(|error| error.to_string())
    });
    drop(opened);
    made.map(|(out, counts)| (out, counts, keys.public()))
}

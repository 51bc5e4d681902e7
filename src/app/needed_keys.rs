//! Whether the keys that a backup needs are there, looked at before anything of it is written.
//!
//! What is told here is what the next start would be refused for, and what would be lost by going on without.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::backup::{SECRETS, installation};
use super::{key_checks, secrets};
use crate::config::{Config, StoreUrl};
use crate::edge::backup::CheckedBackup;
use crate::edge::jwt::SigningKeyRing;
use crate::edge::own_secrets::file_name;
use crate::edge::store::Kept;
use palisade_core::ports::{
    KeptSecret, OwnSecret, RecordKind, Replaced, SecretRevision, SecretStore, SecretStoreError,
};

/// A backup that is whole, with the gateway's secrets that it brings.
pub(crate) struct ReadBackup {
    pub(crate) checked: CheckedBackup,
    pub(super) secrets: Vec<(OwnSecret, Zeroizing<Vec<u8>>)>,
    /// The names of secrets that this program does not know.
    pub(super) unknown: Vec<String>,
}

/// The secret whose file has this name.
pub(super) fn named(name: &str) -> Option<OwnSecret> {
    SECRETS.into_iter().find(|secret| file_name(*secret) == name)
}

/// The secrets as they are once a backup was restored: those that are kept, and those of the backup where none is.
struct WithBackup<'a> {
    kept: &'a dyn SecretStore,
    brought: &'a [(OwnSecret, Zeroizing<Vec<u8>>)],
}

impl SecretStore for WithBackup<'_> {
    fn find(&self, secret: OwnSecret) -> Result<Option<KeptSecret>, SecretStoreError> {
        let brought = || {
            let (_, content) = self.brought.iter().find(|(brought, _)| *brought == secret)?;
            Some(KeptSecret { content: content.clone(), revision: SecretRevision(1) })
        };
        Ok(self.kept.find(secret)?.or_else(brought))
    }

    fn make(&self, secret: OwnSecret, _: &[u8]) -> Result<KeptSecret, SecretStoreError> {
        Err(self.only_read(secret))
    }

    fn replace(&self, secret: OwnSecret, _: &[u8], _: SecretRevision) -> Result<Replaced, SecretStoreError> {
        Err(self.only_read(secret))
    }

    fn place(&self, secret: OwnSecret) -> String {
        self.kept.place(secret)
    }

    fn is_shared(&self) -> bool {
        self.kept.is_shared()
    }
}

impl WithBackup<'_> {
    fn only_read(&self, secret: OwnSecret) -> SecretStoreError {
        SecretStoreError { place: self.place(secret), why: "nothing is written yet".to_owned() }
    }
}

/// What a restore finds of the keys that its backup needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NeededKeys {
    /// Keys that are neither there nor in the backup, or are others, and what is lost without them: one line each.
    pub(super) lacking: Vec<String>,
    /// The names of secrets that are not there and are made anew without a loss.
    pub(super) made_anew: Vec<String>,
}

/// Looks for the keys that the backup needs, in `secrets` and in the backup itself. Blocks. Writes nothing.
///
/// # Errors
/// A secret cannot be read, or is damaged; as one printable text.
pub(super) fn look(
    config: &Config,
    secrets: &dyn SecretStore,
    backup: &ReadBackup,
) -> Result<NeededKeys, String> {
    let after = WithBackup { kept: secrets, brought: &backup.secrets };
    for secret in SECRETS {
        after.read(secret).map_err(|error| format!("the secret in {error}"))?;
    }
    key_checks::are_usable(&after)?;
    if config.tokens.key.is_none() {
        SigningKeyRing::look(&after).map_err(|error| error.to_string())?;
    }
    let checked = &backup.checked;
    // Beside a database the keys of the vault are those of `vault.keys`.
    let known = match &config.store {
        StoreUrl::Sled(_) => checked.key_checks.clone(),
        StoreUrl::Postgres(_) => BTreeMap::new(),
    };
    let store = Kept { is_populated: true, key_checks: Ok(known), ..Kept::default() };
    let mut lacking = secrets::lacking(config, &after, &store);
    let data_dir = config.store.data_dir();
    lacking.extend(
        key_checks::others(&checked.key_checks, &after, data_dir)
            .into_iter()
            .filter_map(|(secret, lost)| Some(format!("{} is another one: {}", after.place(secret), lost?))),
    );
    let has_connections = checked.counts.kinds.contains_key(RecordKind::Connection.name());
    let opens = installation(config, &after).is_ok_and(|keys| keys.knows(&checked.header.installation));
    if has_connections && !opens && !lacking.iter().any(|line| line.contains(file_name(OwnSecret::VaultKey)))
    {
        lacking.push(format!(
            "the vault key of the installation {}: the tokens of providers in the backup are sealed with it, and none of them \
             would open. List it in vault.keys",
            checked.header.installation
        ));
    }
    let is_made_anew = |name: &String| {
        let secret = named(name)
            .filter(|secret| matches!(secret, OwnSecret::AdminCredential | OwnSecret::PluginCacheKey));
        secret.is_some_and(|secret| matches!(after.read(secret), Ok(None)))
    };
    Ok(NeededKeys { lacking, made_anew: checked.needed().into_iter().filter(is_made_anew).collect() })
}

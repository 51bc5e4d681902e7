//! Where the gateway keeps the secrets that it makes for itself: in a folder of this machine, or, sealed, in a store
//! that several replicas share.

use zeroize::Zeroizing;

use super::VaultError;

/// A secret that the gateway makes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnSecret {
    /// The ring of keys that sign our tokens.
    SigningKeys,
    /// The server key: sessions and mailed links are derived from it.
    ServerKey,
    /// Seals the tokens of providers.
    VaultKey,
    /// The credential of the admin API.
    AdminCredential,
    /// Authenticates the cache of compiled components.
    PluginCacheKey,
}

impl OwnSecret {
    /// Every one of them.
    pub const ALL: [OwnSecret; 5] = [
        OwnSecret::SigningKeys,
        OwnSecret::ServerKey,
        OwnSecret::VaultKey,
        OwnSecret::AdminCredential,
        OwnSecret::PluginCacheKey,
    ];

    /// Its name in a store. Never changes: what is sealed is bound to it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            OwnSecret::SigningKeys => "signing-keys",
            OwnSecret::ServerKey => "server-key",
            OwnSecret::VaultKey => "vault-key",
            OwnSecret::AdminCredential => "admin-credential",
            OwnSecret::PluginCacheKey => "plugin-cache-key",
        }
    }
}

/// Which of the contents that a secret has had one after the other: the later, the greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretRevision(pub u64);

/// A secret as it is kept.
#[derive(Clone)]
pub struct KeptSecret {
    pub content: Zeroizing<Vec<u8>>,
    pub revision: SecretRevision,
}

/// How a replacement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// The new content is kept, as this revision.
    Done(SecretRevision),
    /// Another process was faster: what it keeps stands, and nothing was done.
    Overtaken,
}

/// Why a secret could not be read or kept. Never holds any of it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place}: {why}")]
pub struct SecretStoreError {
    /// As [`SecretStore::place`] names it.
    pub place: String,
    pub why: String,
}

/// Keeps the gateway's own secrets. Its methods block, on a disk or a network: a task calls them from the blocking pool.
pub trait SecretStore: Send + Sync {
    /// What is kept; `None`: nothing ever was, or it was removed.
    ///
    /// # Errors
    /// [`SecretStoreError`]; it is then not known whether anything is kept, and nothing may be made in its place.
    fn find(&self, secret: OwnSecret) -> Result<Option<KeptSecret>, SecretStoreError>;

    /// The content of what [`SecretStore::find`] finds.
    ///
    /// # Errors
    /// As [`SecretStore::find`].
    fn read(&self, secret: OwnSecret) -> Result<Option<Zeroizing<Vec<u8>>>, SecretStoreError> {
        Ok(self.find(secret)?.map(|kept| kept.content))
    }

    /// Keeps `content` where nothing is kept, durably. Returns what is kept now: `content`, or what another process has
    /// made meanwhile, so that all that start at once go by the same.
    ///
    /// # Errors
    /// [`SecretStoreError`]; nothing may go by `content`.
    fn make(&self, secret: OwnSecret, content: &[u8]) -> Result<KeptSecret, SecretStoreError>;

    /// Keeps `content` in place of what was read as the revision `over`, as a whole and durably.
    ///
    /// # Errors
    /// [`SecretStoreError`]; then what was kept stands, or, where several processes share the store, `content` may stand:
    /// it is to be read again.
    fn replace(
        &self,
        secret: OwnSecret,
        content: &[u8],
        over: SecretRevision,
    ) -> Result<Replaced, SecretStoreError>;

    /// Where the secret is kept, in words for an operator, such as the path of a file.
    fn place(&self, secret: OwnSecret) -> String;

    /// Whether other processes may replace secrets while this one runs.
    fn is_shared(&self) -> bool {
        false
    }

    /// Notes that this process verifies by this revision of [`OwnSecret::SigningKeys`], for the others to see.
    fn goes_by(&self, _revision: SecretRevision) {}

    /// Waits until every process that lives verifies by this revision of [`OwnSecret::SigningKeys`] or a later one, for
    /// as long as one that does not answer may still be taken for a living one. Returns the names of those that do live
    /// and go by an earlier one.
    ///
    /// # Errors
    /// [`SecretStoreError`]; it is then not known.
    fn await_readers(&self, _revision: SecretRevision) -> Result<Vec<String>, SecretStoreError> {
        Ok(Vec::new())
    }
}

/// Seals the gateway's own secrets for a store that is not the gateway's alone.
pub trait SecretSealer: Send + Sync {
    /// The envelope of a secret's content, sealed with the present key and bound to the secret.
    fn seal_own(&self, secret: OwnSecret, content: &[u8]) -> String;

    /// Opens the envelope of a secret.
    ///
    /// # Errors
    /// [`VaultError`].
    fn open_own(&self, secret: OwnSecret, envelope: &str) -> Result<Zeroizing<Vec<u8>>, VaultError>;

    /// Whether it is sealed with the present key.
    fn is_own_current(&self, envelope: &str) -> bool;
}

//! Where the gateway keeps the secrets that it makes for itself: in a folder of this machine, or, sealed, in a store
//! that several replicas share.

use zeroize::Zeroizing;

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
    fn read(&self, secret: OwnSecret) -> Result<Option<Zeroizing<Vec<u8>>>, SecretStoreError>;

    /// Keeps `content` where nothing is kept, durably. Returns what is kept now: `content`, or what another process has
    /// made meanwhile, so that all that start at once go by the same.
    ///
    /// # Errors
    /// [`SecretStoreError`]; nothing may go by `content`.
    fn make(&self, secret: OwnSecret, content: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretStoreError>;

    /// Keeps `content` in place of what is there, as a whole and durably.
    ///
    /// # Errors
    /// [`SecretStoreError`]; then what was kept stands.
    fn replace(&self, secret: OwnSecret, content: &[u8]) -> Result<(), SecretStoreError>;

    /// Where the secret is kept, in words for an operator, such as the path of a file.
    fn place(&self, secret: OwnSecret) -> String;
}

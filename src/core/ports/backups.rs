//! Backups of a running gateway, for an operator.

use async_trait::async_trait;

use crate::domain::ends::End;

/// Keeps what has ended outside of the store, for a restore of an older backup.
pub trait EndsKeeper: Send + Sync {
    /// Keeps the ends of one commit, durably, and those before it that could not be kept yet; with none, those before it.
    /// Blocks. The commit stands in any case.
    ///
    /// # Errors
    /// [`EndsNotKept`]: the commit must not be acknowledged. The keeper tries again by itself.
    fn keep(&self, ends: Vec<End>) -> Result<(), EndsNotKept>;
}

/// Why ends are not kept: what the file system said.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct EndsNotKept(pub String);

/// What backup is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupRequest {
    /// Public keys of `age` that it is encrypted to; none: it is not encrypted.
    pub recipients: Vec<String>,
    /// Whether the gateway's own secrets are part of it. They never are of one that is not encrypted.
    pub secrets: bool,
}

/// Why no backup was begun.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackupRefused {
    /// What was asked makes no sense; the text says what would.
    #[error("{0}")]
    Invalid(String),
    /// The store gives no snapshot now.
    #[error("{0}")]
    Unavailable(String),
}

/// The bytes of a backup, as they are made. One that is dropped ends its backup.
#[async_trait]
pub trait BackupBytes: Send {
    /// The next bytes; `None` once the backup is whole.
    ///
    /// # Errors
    /// Why it cannot go on; what came before is no backup.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, String>;
}

/// Makes backups while the gateway serves.
#[async_trait]
pub trait Backups: Send + Sync {
    /// Begins a backup of the store as it is now.
    ///
    /// # Errors
    /// [`BackupRefused`].
    async fn begin(&self, request: BackupRequest) -> Result<Box<dyn BackupBytes>, BackupRefused>;
}

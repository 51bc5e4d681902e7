//! Why a store did not do what it was asked.

use super::backups::EndsNotKept;
use super::formats::OlderReplica;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The write is not durable, and the caller must not act as if it were. Worth trying later.
    #[error("the store cannot write: {0}")]
    Unavailable(String),
    /// The store is closed for writing: its records are moved, or were moved, to another one. Nothing was changed, and nothing
    /// will be until an operator decides.
    #[error(
        "the store is closed for writing: {0}. Serve the other store, or let this one take writes again with `palisade migrate --give-up`"
    )]
    Closed(String),
    /// A record cannot be read: it is damaged.
    #[error("the store holds a record that cannot be read: {0}")]
    Unreadable(String),
    /// A newer program wrote the record. It is neither read nor written over, because this program would drop what it
    /// does not know of it. Names the record; the rest of the store is as usable as ever.
    #[error("the store holds a record of a newer program: {0}")]
    Newer(String),
    /// The write is in a form that another live gateway over the same store cannot read: it runs an older program.
    /// Nothing was written.
    #[error(transparent)]
    OlderReplica(#[from] OlderReplica),
    /// The commit is durable and in force, but what it has ended is not in the journal of ends, so a restore could undo it.
    /// The caller must not acknowledge it.
    #[error("the change was made, but backup.journal cannot be written: {0}")]
    EndsNotKept(#[from] EndsNotKept),
}

impl StoreError {
    /// What was wrong, without what that kept the store from.
    #[must_use]
    pub fn into_why(self) -> String {
        match self {
            StoreError::Unavailable(why)
            | StoreError::Closed(why)
            | StoreError::Unreadable(why)
            | StoreError::Newer(why) => why,
            StoreError::OlderReplica(why) => why.to_string(),
            StoreError::EndsNotKept(why) => why.to_string(),
        }
    }
}

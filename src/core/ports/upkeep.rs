//! How a store is kept: what a sweep and a compaction did, how it is doing, and what is done once to one of an earlier
//! program.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub revocations: u64,
    pub sessions: u64,
    pub links: u64,
}

/// How the store is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether writes are acknowledged. Once false it stays so until a write succeeds again.
    pub writable: bool,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes of what lives in it, keys and values.
    pub live_bytes: u64,
    pub compactions: CompactionCounts,
}

/// Compactions since the start, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactionCounts {
    pub done: u64,
    /// Given up because the disk had no room for a second copy.
    pub no_room: u64,
    /// Given up for another reason.
    pub failed: u64,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes on disk before.
    pub before: u64,
    /// And afterwards.
    pub after: u64,
    /// Bytes of what lives, keys and values.
    pub live: u64,
    pub took: Duration,
}

/// What is done once to a store that an earlier program has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upgrade {
    /// Claims of accounts that became the gateway's to set were taken over.
    ReservedClaims,
}

impl Upgrade {
    /// Its name, as it is kept.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Upgrade::ReservedClaims => "reserved_claims",
        }
    }
}

//! Durable state, and the revocation set in memory before it.
//!
//! [`SledStore`] keeps what must survive; [`ObservedStore`] wraps any store so that a [`CacheObserver`] gives the
//! [`RevocationCache`] every revocation the moment it is durable, and a [`MeterObserver`] counts the calls. Nothing
//! outside this room may name sled, and nothing here may decide who is let in.

mod belief;
mod change;
mod compact;
mod draft;
mod event_keys;
mod events;
mod export;
mod feed;
mod files;
mod generation;
mod import;
mod keeper;
mod keys;
mod leases;
pub mod memory;
#[cfg(test)]
mod newer_tests;
pub mod observed;
mod opening;
mod read;
mod record;
mod shared;
pub mod sled;
mod snapshot;
mod snapshots;
mod sweep;
mod tally;
mod trees;
mod upgrade;
mod verify;
mod witness;
mod writer;

pub use self::belief::LeaseLeft;
pub use self::files::OpenError;
pub use self::generation::is_there;
pub use self::leases::LeaseClock;
pub use self::memory::{CacheObserver, RevocationCache};
pub use self::observed::{MeterObserver, ObservedStore, StoreObserver};
pub use self::opening::{Admit, Doubts, Kept, look};
pub use self::sled::SledStore;

use std::time::Duration;

/// How long past its end an entry is still kept and still counts. A clock that runs an hour fast, or
/// is set back by an hour, must not bring a revoked token back to life.
pub const EXPIRY_SLACK: Duration = Duration::from_secs(3600);

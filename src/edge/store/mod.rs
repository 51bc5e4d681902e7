//! Durable state, and the revocation set in memory before it.
//!
//! [`SledStore`] keeps what must survive; [`RevokingStore`] wraps any store so that the
//! [`RevocationCache`] learns of every revocation the moment it is durable, and [`MeteredStore`] so that
//! its calls are counted. Nothing outside this room may name sled, and nothing here may decide who is let
//! in.

mod change;
mod compact;
mod draft;
mod events;
mod files;
mod generation;
mod keeper;
mod keys;
pub mod memory;
pub mod metered;
mod opening;
mod read;
mod record;
pub mod sled;
mod snapshots;
mod sweep;
mod tally;
mod trees;
mod verify;
mod witness;
mod writer;

pub use self::files::OpenError;
pub use self::generation::is_there;
pub use self::memory::{RevocationCache, RevokingStore};
pub use self::metered::MeteredStore;
pub use self::opening::{Doubts, look};
pub use self::sled::SledStore;

use std::time::Duration;

/// How long past its end an entry is still kept and still counts. A clock that runs an hour fast, or
/// is set back by an hour, must not bring a revoked token back to life.
pub const EXPIRY_SLACK: Duration = Duration::from_secs(3600);

//! The store in PostgreSQL, which several gateways share.
//!
//! **A commit is one message.** The client sends one simple Query message; a function in the database checks, writes and
//! counts, and the database commits before it answers. So no lock is held while a client is awaited: a gateway that is
//! stopped or cut off between any two messages holds nothing. This also works through a pooler in transaction mode.
//!
//! What this room must never do:
//! - acknowledge a write whose answer did not come, or came with a warning: the database may not have it, or only on one
//!   machine (`connect.rs`);
//! - repeat a message whose outcome is not known;
//! - open a transaction for a write and await something of its own in it;
//! - prepare a statement with a name, or leave anything set behind a message: a pooler gives the next transaction another
//!   connection;
//! - let the database send a long answer while the transaction holds locks (`DatabaseSession::call`);
//! - put text into SQL. Parameters are typed, and what goes into a simple Query is base64, a number or a UUID.
//!
//! Numbers of the domain are `u64` and those of the database are not (`numbers.rs`). Bodies are JSON with a version of
//! their own (`record.rs`); what a newer program wrote is neither read nor written over.

pub mod acknowledge;
mod answers;
pub mod commit;
pub mod connect;
pub mod failure;
pub mod feed;
pub mod feed_calls;
pub mod feed_database;
#[cfg(test)]
mod feed_fakes;
mod following;
mod import;
mod import_rows;
mod kept;
mod leases;
pub mod migrations;
mod moving;
mod notes;
pub mod numbers;
mod read;
pub mod record;
mod records;
pub mod replica;
#[cfg(test)]
mod replica_tests;
pub mod secrets;
pub mod server;
pub mod settings;
pub mod signals;
mod snapshot;
mod status;
mod store;
mod subscription;
mod sweep;
pub mod tls;
mod walk;
mod witness;
pub mod writer;

pub use self::snapshot::StoreSnapshot;
pub use self::store::{PostgresOpenError, PostgresStore};

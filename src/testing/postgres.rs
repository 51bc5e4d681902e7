//! PostgreSQL for tests: throwaway clusters, the pooler in front of one, and a connection that can be cut.
//!
//! Needs the programs `initdb` and `postgres`, from PATH or from where Debian puts them, and `pgbouncer` for
//! [`Pooler`]. Everything is in a temporary folder of this process, which is removed with all that runs in it when the
//! process ends, however it ends.

mod cluster;
mod disk;
mod home;
mod plan;
mod pooler;
mod wire;

pub use cluster::{Cluster, Database};
pub use disk::can_mount;
pub use plan::ClusterPlan;
pub use pooler::Pooler;
pub use wire::{Way, Wire};

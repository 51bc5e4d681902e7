//! What is tried on a real PostgreSQL: `cargo test --test postgres`.
//!
//! Not part of `cargo test`, which needs only what the build needs. `make deps-wider` installs PostgreSQL and
//! PgBouncer, `make test-wider` runs this.

#[path = "postgres/backup.rs"]
mod backup;
#[path = "postgres/calls.rs"]
mod calls;
#[path = "postgres/check.rs"]
mod check;
#[path = "postgres/conformance.rs"]
mod conformance;
#[path = "postgres/crash.rs"]
mod crash;
#[path = "postgres/disk.rs"]
mod disk;
#[path = "postgres/fixture.rs"]
mod fixture;
#[path = "postgres/once.rs"]
mod once;
#[path = "postgres/place.rs"]
mod place;

#[path = "postgres/commits.rs"]
mod commits;

#[path = "postgres/failures.rs"]
mod failures;

#[path = "postgres/feed.rs"]
mod feed;

#[path = "postgres/gateways.rs"]
mod gateways;
#[path = "postgres/held.rs"]
mod held;
#[path = "postgres/lease.rs"]
mod lease;
#[path = "postgres/pooled.rs"]
mod pooled;
#[path = "postgres/same.rs"]
mod same;
#[path = "postgres/secrets.rs"]
mod secrets;
#[path = "postgres/starts.rs"]
mod starts;
#[path = "support/mod.rs"]
mod support;

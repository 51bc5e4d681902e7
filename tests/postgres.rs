//! What is tried on a real PostgreSQL: `cargo test --test postgres`.
//!
//! Not part of `cargo test`, which needs only what the build needs. `make deps-wider` installs PostgreSQL and
//! PgBouncer, `make test-wider` runs this.

#[path = "postgres/fixture.rs"]
mod fixture;

#[path = "postgres/commits.rs"]
mod commits;

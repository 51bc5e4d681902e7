//! For tests only: fakes of the ports, worlds made of them, and what every store must pass.
//!
//! Fakes implement the traits of `palisade_core` as a library, so only tests outside that library can use them: the
//! target `service` of `palisade-core` (`src/core/tests.rs`), the unit tests of `palisade`, and `tests/`.

pub mod accounts_world;
pub mod carry_fakes;
pub mod conformance;
pub mod connection_fakes;
pub mod connections_world;
pub mod crash;
pub mod fakes;
pub mod folders;
pub mod lease_conformance;
pub mod note_conformance;
pub mod note_fakes;
pub mod nowhere;
pub mod page_fakes;
pub mod password_fakes;
pub mod postgres;
pub mod route_fakes;
pub mod token_fakes;
pub mod transfer;

mod clock_fakes;
mod feed_fakes;
mod lease_fakes;
mod limit_fakes;

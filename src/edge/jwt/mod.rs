//! Tokens: reading, verifying and signing JSON Web Tokens, and the keys behind them.
//!
//! The only room that names `jsonwebtoken` and `aws-lc-rs`. The library does the signature; everything a
//! token must otherwise hold (strict form, header rules, every claim) is decided here, because a missing
//! or wrongly typed claim passes the library's own checks. Must never do I/O while verifying, never
//! follow a key a token brings along, and never put a key or a token into an error or a log.

pub mod assertions;
pub mod cache;
pub mod claims;
pub mod clocks;
pub mod compact;
pub mod diagnosis;
mod durable;
pub mod issuers;
pub mod json;
pub mod keyring;
pub mod keys;
pub mod keyset;
mod roca;
pub mod stored;
pub mod verify;

pub use assertions::ClientAssertions;
pub use clocks::Clocks;
pub use issuers::{Asker, Issuers};
pub use keyring::{KeyRing, KeyRingError};
pub use stored::StoredKeys;
pub use verify::{SetVerifier, TokenVerifier};

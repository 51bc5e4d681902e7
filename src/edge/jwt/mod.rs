//! Tokens: reading, verifying and signing JSON Web Tokens, and the keys behind them.
//!
//! The only room that names `jsonwebtoken` and `aws-lc-rs`. The library does the signature; everything a
//! token must otherwise hold (strict form, header rules, every claim) is decided here, because a missing
//! or wrongly typed claim passes the library's own checks. Must never do I/O while verifying, never
//! follow a key a token brings along, and never put a key or a token into an error or a log.

pub mod alb;
pub mod assertions;
pub mod cache;
pub mod claims;
pub mod clocks;
pub mod compact;
pub mod diagnosis;
mod digest;
mod discovery;
mod grants;
pub mod introspection;
pub mod issuers;
pub mod json;
mod jws;
mod kept_ring;
mod key_news;
pub mod keyring;
pub mod keys;
pub mod keyset;
pub mod others;
pub mod published;
mod roca;
mod rotation;
pub mod stored;
pub mod verify;
pub mod verifying_key;

pub use assertions::ClientAssertions;
pub use clocks::Clocks;
pub use introspection::IntrospectionPorts;
pub use issuers::{Asker, Issuers};
pub use keyring::{KeyRingError, SigningKeyRing};
pub use others::OtherIssuers;
pub use stored::StoredKeys;
pub use verify::{SetVerifier, TokenVerifier};

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::edge::own_secrets::FolderSecrets;
    use palisade_core::ports::SecretStore;

    /// The secrets of a data folder, for the tests of this room.
    pub(super) fn secrets_of(folder: &Path) -> Arc<dyn SecretStore> {
        Arc::new(FolderSecrets::new(folder))
    }
}

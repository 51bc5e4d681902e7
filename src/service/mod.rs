//! Floor 3: the use cases, one file each, over the ports.

pub mod admit;
pub mod mint;
pub mod outbox;
pub mod revoke;
pub mod rotate;

#[cfg(test)]
pub(crate) mod fakes;

//! The digest that files carry of their own content.

use std::io;

use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The SHA-256 of `value` as JSON, in hex: files that only we write carry that of their content, so that a damaged
/// digit is not taken for another one.
///
/// # Errors
/// It cannot be written as JSON.
pub(super) fn of(value: &impl Serialize) -> io::Result<String> {
    let bytes = Zeroizing::new(serde_json::to_vec(value)?);
    Ok(hex::encode(Sha256::digest(&*bytes)))
}

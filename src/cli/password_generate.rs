//! `palisade password generate`: a random password that every policy takes.

use secrecy::ExposeSecret;

use crate::edge::entropy::SystemEntropy;
use crate::edge::passwords;

/// The password, for standard output and nowhere else.
pub(super) fn run() -> String {
    passwords::generate(&SystemEntropy).expose_secret().to_owned()
}

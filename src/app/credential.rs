//! The credential of the admin API.

use std::path::Path;

use secrecy::SecretString;

use crate::edge::data_dir;

/// The file in the data folder that holds the admin credential (mode 0600).
pub(super) const ADMIN_TOKEN_FILE: &str = "admin.token";
/// The environment variable that holds it instead.
const ADMIN_TOKEN_VARIABLE: &str = "PALISADE_ADMIN_TOKEN";

/// Whether the credential is given by the environment, so that the file does not count.
pub(super) fn is_in_environment() -> bool {
    std::env::var(ADMIN_TOKEN_VARIABLE).is_ok_and(|given| !given.trim().is_empty())
}

/// The admin credential: from the environment, else from the data folder, else made there.
pub(super) fn admin(data_dir: &Path) -> Result<SecretString, String> {
    if let Some(given) = given() {
        // As its users send it: a line feed from `$(cat FILE)` or a secret store is no part of it.
        let given = given.trim();
        if given.len() < data_dir::MIN_SECRET {
            return Err(format!(
                "{ADMIN_TOKEN_VARIABLE} holds {} characters; it needs at least {}, such as `openssl rand -hex 32` \
                 prints: an attacker who guesses it can sign tokens for any subject",
                given.len(),
                data_dir::MIN_SECRET
            ));
        }
        return Ok(given.to_owned().into());
    }
    data_dir::secret(data_dir, ADMIN_TOKEN_FILE)
}

/// What the environment holds.
fn given() -> Option<String> {
    std::env::var(ADMIN_TOKEN_VARIABLE).ok().filter(|given| !given.trim().is_empty())
}

/// Whether [`admin`] will make a new credential.
pub(super) fn will_be_made(data_dir: &Path) -> bool {
    given().is_none() && matches!(data_dir.join(ADMIN_TOKEN_FILE).try_exists(), Ok(false))
}

//! The credential of the admin API.

use secrecy::SecretString;

use crate::edge::own_secrets::{self, MIN_SECRET};
use palisade_core::ports::{OwnSecret, SecretStore};

/// The environment variable that holds it instead.
const ADMIN_TOKEN_VARIABLE: &str = "PALISADE_ADMIN_TOKEN";

/// Whether the credential is given by the environment, so that the file does not count.
pub(super) fn is_in_environment() -> bool {
    given().is_some()
}

/// The admin credential: from the environment, else the one that is kept, else made.
pub(super) fn admin(secrets: &dyn SecretStore) -> Result<SecretString, String> {
    if let Some(given) = given() {
        // As its users send it: a line feed from `$(cat FILE)` or a secret store is no part of it.
        let given = given.trim();
        if given.len() < MIN_SECRET {
            return Err(format!(
                "{ADMIN_TOKEN_VARIABLE} holds {} characters; it needs at least {}, such as `openssl rand -hex 32` \
                 prints: an attacker who guesses it can sign tokens for any subject",
                given.len(),
                MIN_SECRET
            ));
        }
        return Ok(given.to_owned().into());
    }
    own_secrets::secret(secrets, OwnSecret::AdminCredential)
}

/// What the environment holds.
fn given() -> Option<String> {
    std::env::var(ADMIN_TOKEN_VARIABLE).ok().filter(|given| !given.trim().is_empty())
}

/// Whether [`admin`] will make a new credential.
pub(super) fn will_be_made(secrets: &dyn SecretStore) -> bool {
    !is_in_environment() && matches!(secrets.read(OwnSecret::AdminCredential), Ok(None))
}

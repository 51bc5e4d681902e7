//! Whether a new password will do: the rules, which cost nothing, and how soon it would be guessed.

use secrecy::SecretString;

use super::accounts::{AccountError, Accounts};
use crate::domain::email::EmailAddress;
use crate::domain::password::Violation;
use crate::ports::Requester;

impl Accounts {
    /// Refuses a password that breaks a rule.
    pub(super) fn acceptable(
        &self,
        password: &str,
        email: Option<&EmailAddress>,
        name: Option<&str>,
    ) -> Result<(), AccountError> {
        let broken = self.passwords.violations(password, email, name);
        if broken.is_empty() {
            return Ok(());
        }
        Err(AccountError::PasswordRejected { broken, policy: self.passwords.policy() })
    }

    /// Refuses a password that a guesser would come to too soon. Takes a turn with the hashing, so it stands behind a
    /// limit; and behind [`Accounts::acceptable`].
    pub(super) async fn not_guessed(
        &self,
        password: &SecretString,
        email: Option<&EmailAddress>,
        name: Option<&str>,
        requester: Requester,
    ) -> Result<(), AccountError> {
        match self.passwords.guessed(password.clone(), email, name, requester).await? {
            None => Ok(()),
            Some(why) => {
                let broken = vec![Violation::Guessable(why)];
                Err(AccountError::PasswordRejected { broken, policy: self.passwords.policy() })
            }
        }
    }
}

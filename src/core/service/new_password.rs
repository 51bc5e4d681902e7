//! Whether a new password will do: the rules, which cost nothing, and how soon it would be guessed.

use secrecy::SecretString;

use super::accounts::{AccountError, Accounts};
use crate::domain::password::{PasswordOwner, Violation};
use crate::ports::Requester;

impl Accounts {
    /// Refuses a password that breaks a rule.
    pub(super) fn acceptable(&self, password: &str, owner: PasswordOwner<'_>) -> Result<(), AccountError> {
        let broken = self.passwords.violations(password, owner);
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
        owner: PasswordOwner<'_>,
        requester: Requester,
    ) -> Result<(), AccountError> {
        match self.passwords.guessed(password.clone(), owner, requester).await? {
            None => Ok(()),
            Some(why) => {
                let broken = vec![Violation::Guessable(why)];
                Err(AccountError::PasswordRejected { broken, policy: self.passwords.policy() })
            }
        }
    }
}

//! Registering, and asking for the verification mail again.
//!
//! Neither answer may tell whether the address has an account. So nothing is looked up while the caller
//! waits: the request is written down, the same way for every address, and a worker
//! ([`super::tasks`]) does the rest.

use secrecy::{ExposeSecret, SecretString};

use super::accounts::{AccountError, Accounts, Client, name};
use crate::domain::email::EmailAddress;
use crate::domain::task::Work;
use crate::ports::Limited;

impl Accounts {
    /// Takes a registration. The account is made, or the owner of the address told, afterwards.
    ///
    /// # Errors
    /// [`AccountError::InvalidEmail`], [`AccountError::Invalid`], [`AccountError::PasswordRejected`],
    /// [`AccountError::TooMany`], [`AccountError::Busy`] or [`AccountError::Store`].
    pub async fn register(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
        given_name: Option<String>,
    ) -> Result<(), AccountError> {
        let email: EmailAddress = email.parse()?;
        let name = name(given_name)?;
        self.acceptable(password.expose_secret(), &email, name.as_deref())?;
        self.limiter.attempt(Limited::Register, client.address, Some(email.as_str()))?;
        let password = self.passwords.hash(password).await?;
        self.leave(Work::Register { email, name, password, origin: client.origin() }).await
    }

    /// Takes a request to mail the verification link again.
    ///
    /// # Errors
    /// [`AccountError::InvalidEmail`], [`AccountError::TooMany`] or [`AccountError::Store`].
    pub async fn resend_verification(&self, client: &Client, email: &str) -> Result<(), AccountError> {
        let email: EmailAddress = email.parse()?;
        self.limiter.attempt(Limited::RequestMail, client.address, Some(email.as_str()))?;
        self.leave(Work::ResendVerification { email, origin: client.origin() }).await
    }
}

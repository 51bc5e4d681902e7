//! Showing that an address is one's own: the link of a registration, and that of a changed address.

use super::accounts::{AccountError, Accounts};
use super::caller::Client;
use super::opened_link::OpenedLink;
use super::verify_registration::Proof;
use crate::domain::account::User;
use crate::domain::link::Purpose;

/// The links that show that an address is one's own.
pub const VERIFYING: [Purpose; 2] = [Purpose::VerifyEmail, Purpose::ChangeEmail];

impl Accounts {
    /// [`Accounts::verify_by`] with the token and nothing beside it.
    ///
    /// # Errors
    /// As [`Accounts::verify_by`].
    pub async fn verify_email(&self, client: &Client, token: &str) -> Result<User, AccountError> {
        self.verify_by(client, token, Proof::default()).await
    }

    /// Consumes the link and returns the account with its address verified. The link of a registration may need a
    /// proof beside its token, and one that changes an address always does.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`], [`AccountError::ProofNeeded`], [`AccountError::WrongPassword`],
    /// [`AccountError::PasswordRejected`], [`AccountError::Invalid`], [`AccountError::TooMany`],
    /// [`AccountError::Busy`], [`AccountError::Conflict`] or [`AccountError::Store`]. Only success uses the link up.
    pub async fn verify_by(&self, client: &Client, token: &str, proof: Proof) -> Result<User, AccountError> {
        let opened = self.open_link(client, token, &VERIFYING).await?;
        self.verify_opened(client, &opened, proof).await
    }

    /// [`Accounts::verify_by`] with a link that was opened; each opening is one attempt.
    ///
    /// # Errors
    /// As [`Accounts::verify_by`].
    pub async fn verify_opened(
        &self,
        client: &Client,
        opened: &OpenedLink,
        proof: Proof,
    ) -> Result<User, AccountError> {
        match opened.purpose {
            Purpose::ChangeEmail => self.finish_email_change(client, opened.token(), proof).await,
            _ => self.verify_registration(client, opened.token(), proof).await,
        }
    }
}

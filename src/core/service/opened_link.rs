//! Opening a mailed link: what it is about, before anything of it is used up.
//!
//! A page asks for what the link needs in a second step, and names the account to password managers there.

use secrecy::{ExposeSecret, SecretString};

use super::accounts::{AccountError, Accounts};
use super::caller::Client;
use crate::domain::account::UserId;
use crate::domain::email::EmailAddress;
use crate::domain::link::Purpose;
use crate::domain::username::Username;
use crate::ports::Limited;

/// A link that was good when it was opened. Only [`Accounts::open_link`] makes one, which counts as an attempt.
pub struct OpenedLink {
    token: SecretString,
    pub purpose: Purpose,
    pub user: UserId,
    /// The address of the account, if it has one. For a link that changes it: as it still is.
    pub email: Option<EmailAddress>,
    pub username: Option<Username>,
    /// Where the browser that asked for the link was going; to be read anew.
    pub return_to: Option<String>,
}

impl OpenedLink {
    /// What the account is signed in to by: its address, or else its user name.
    #[must_use]
    pub fn login_name(&self) -> Option<&str> {
        let email = self.email.as_ref().map(EmailAddress::as_str);
        email.or(self.username.as_ref().map(Username::as_str))
    }

    pub(super) fn token(&self) -> &str {
        self.token.expose_secret()
    }
}

impl Accounts {
    /// Opens the link of this token when it is good for one of `purposes`. Uses nothing up.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`], [`AccountError::TooMany`] or [`AccountError::Store`].
    pub async fn open_link(
        &self,
        client: &Client,
        token: &str,
        purposes: &[Purpose],
    ) -> Result<OpenedLink, AccountError> {
        self.limiter.attempt(Limited::UseLink, client.address, None)?;
        let (link, user) = self.mailed_to(client, token, purposes).await?;
        Ok(OpenedLink {
            token: token.to_owned().into(),
            purpose: link.purpose,
            user: user.id,
            email: user.email,
            username: user.username,
            return_to: link.return_to,
        })
    }
}

//! The account of `palisade run --demo`, with which a person can sign in at once.

use secrecy::SecretString;
use serde_json::Map;

use super::accounts::{AccountError, Accounts};
use super::users::{NewPassword, NewUser};
use crate::domain::email::EmailAddress;
use crate::ports::Requester;

/// Reserved for examples (RFC 2606 §3): no mailbox has it.
const ADDRESS: &str = "demo@example.com";
const NAME: &str = "Demo";
/// The request id in the audit log.
const REQUEST: &str = "demo";

/// The account of the demonstration.
#[derive(Debug)]
pub struct DemoAccount {
    pub email: EmailAddress,
    /// `None`: its password was changed.
    pub password: Option<SecretString>,
}

impl Accounts {
    /// Makes the demo account unless it is there.
    ///
    /// Its password follows from the server key ([`crate::domain::opaque::ServerKey::demo_password`]): the same after
    /// a restart, and another in every data folder, so that no password is known beforehand.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn demo_account(&self) -> Result<DemoAccount, AccountError> {
        let email: EmailAddress = ADDRESS.parse()?;
        let password = self.key.demo_password();
        let Some(user) = self.store.user_by_email(&email).await? else {
            let new = NewUser {
                email: Some(ADDRESS.to_owned()),
                username: None,
                groups: Vec::new(),
                name: Some(NAME.to_owned()),
                password: NewPassword::Given(password.clone()),
                email_verified: true,
                scopes: Vec::new(),
                claims: Map::new(),
            };
            self.create_user(REQUEST, new).await?;
            return Ok(DemoAccount { email, password: Some(password) });
        };
        let requester = Requester { block: None, account: self.key.tag(&email), known: true };
        let checked = self.passwords.check(password.clone(), user.password.as_ref(), requester).await?;
        Ok(DemoAccount { email, password: checked.matches.then_some(password) })
    }
}

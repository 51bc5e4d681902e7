//! The rate limit of a mailbox: whether a letter that a requester asked for goes out ([`crate::domain::mail_cap`]).
//!
//! Decided while tasks are done and never while a caller waits, so that neither the answer nor its time reveals an
//! account (enumeration).

use super::accounts::Accounts;
use crate::domain::account::User;
use crate::domain::block::AddressBlock;
use crate::domain::email::EmailAddress;
use crate::domain::mail_cap::{CappedLetter, LetterRequest, Mailbox};
use crate::domain::task::RequestOrigin;
use crate::ports::{Change, StoreError};

impl Accounts {
    /// Counts a letter to `to`, the address of the account `owner`. Returns the change that counts it, to be
    /// committed with the letter. `None`: the letter is held back, and its link must not be committed either.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn admit(
        &self,
        asked: LetterRequest,
        to: &EmailAddress,
        owner: Option<&User>,
        only_link: bool,
        origin: Option<&RequestOrigin>,
    ) -> Result<Option<Vec<Change>>, StoreError> {
        let caps = self.settings.letters;
        if !caps.enabled {
            return Ok(Some(Vec::new()));
        }
        let owner = owner.filter(|user| user.has_address(to));
        let known = owner
            .zip(origin)
            .is_some_and(|(user, origin)| self.key.is_known_block(user, AddressBlock::of(origin.address)));
        let verified = owner.is_some_and(|user| user.email_verified);
        let letter = CappedLetter { asked, only_link, verified, known };
        let id = self.key.mailbox(to);
        let mut mailbox = self.store.mailbox(id).await?.unwrap_or_else(|| Mailbox::new(id));
        if mailbox.admits(caps, letter, to, self.now()) {
            return Ok(Some(vec![Change::PutMailbox(mailbox)]));
        }
        tracing::info!(letter = ?asked, "a letter was held back: its mailbox has had many, and its link is live");
        Ok(None)
    }
}

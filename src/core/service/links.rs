//! Mailed links: made, mailed again, looked up and used up.
//!
//! An account has at most one live link for each purpose, which its record names. A request for a mail never voids a
//! link that is live: an attacker can send such requests, and the owner may be about to open that link. It is mailed
//! again instead, as its token is derived from its id; a new one is made when the old one was used, void or over.

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::accounts::{AccountError, Accounts};
use crate::domain::account::User;
use crate::domain::email::EmailAddress;
use crate::domain::link::{Link, Purpose};
use crate::domain::mail::{Facts, Letter, MailedLink};
use crate::domain::mail_cap::LetterRequest;
use crate::domain::opaque::TokenHash;
use crate::domain::task::RequestOrigin;
use crate::domain::time::UnixTime;
use crate::ports::{Change, StoreError};

/// A link that stands for the mailbox of its account: the operator hands it to the person, where no mail is sent.
#[derive(Debug)]
pub struct HandedLink {
    /// What a mail would carry in the fragment of the link.
    pub token: SecretString,
    pub purpose: Purpose,
    pub expires_at: UnixTime,
}

impl Accounts {
    /// The mail that carries the live link of `user` for `purpose`, with the time that the link has left; or that
    /// carries a fresh link, when there is none that is live for this address. `user` is the account as it will
    /// be, and has to be written in the same commit: its record names the link.
    ///
    /// The link leads to `return_to`, or, without it, to where it led before: the latest request that names a target
    /// is the one that its owner remembers.
    ///
    /// # Errors
    /// [`StoreError`] when the live link cannot be read.
    pub(super) async fn link(
        &self,
        purpose: Purpose,
        letter: Letter,
        user: &mut User,
        to: &EmailAddress,
        return_to: Option<&str>,
    ) -> Result<Vec<Change>, StoreError> {
        let (mut changes, mailed) = self.live_or_fresh(purpose, user, Some(to), return_to).await?;
        changes.push(self.mail(letter, user, to, Some(mailed), Facts::default()));
        Ok(changes)
    }

    /// The live link of `user` for `purpose` that went to `to`, or a fresh one; with what writes it.
    async fn live_or_fresh(
        &self,
        purpose: Purpose,
        user: &mut User,
        to: Option<&EmailAddress>,
        return_to: Option<&str>,
    ) -> Result<(Vec<Change>, MailedLink), StoreError> {
        let mut changes = Vec::new();
        let return_to = return_to.map(str::to_owned);
        let link = match self.live_link(purpose, user, to).await? {
            // Written again as it is: the commit that writes the account conflicts with one that uses the link up.
            Some(live) if return_to.is_some() && live.return_to != return_to => {
                let link = Link { return_to, ..live };
                changes.push(Change::CreateLink(link.clone()));
                link
            }
            // An operator asks for it: the person gets the whole time again.
            Some(live) if purpose == Purpose::Invite => {
                let link = Link { expires_at: self.now().plus(purpose.life()), ..live };
                changes.push(Change::CreateLink(link.clone()));
                link
            }
            Some(live) => live,
            None => {
                let link = Link { return_to, ..self.fresh_link(purpose, user, to) };
                user.live_links.insert(purpose, link.id);
                changes.push(Change::CreateLink(link.clone()));
                link
            }
        };
        Ok((changes, MailedLink { id: link.id, purpose, expires_at: link.expires_at }))
    }

    /// [`Accounts::link`] to the account's present address, on behalf of the operator. Where no mail is sent, or the
    /// account has no address, the link is handed to the operator instead.
    ///
    /// # Errors
    /// As [`Accounts::link`].
    pub(super) async fn operator_link(
        &self,
        purpose: Purpose,
        letter: Letter,
        user: &mut User,
    ) -> Result<(Vec<Change>, Option<HandedLink>), StoreError> {
        let to = user.email.clone();
        if let Some(to) = to.as_ref().filter(|_| self.has_mail()) {
            return Ok((self.link(purpose, letter, user, to, None).await?, None));
        }
        let (changes, MailedLink { id, expires_at, .. }) =
            self.live_or_fresh(purpose, user, to.as_ref(), None).await?;
        Ok((changes, Some(HandedLink { token: self.key.link_token(id), purpose, expires_at })))
    }

    pub(super) fn fresh_link(&self, purpose: Purpose, user: &User, to: Option<&EmailAddress>) -> Link {
        let now = self.now();
        let id = self.entropy.uuid();
        Link {
            id,
            hash: self.link_hash(id),
            purpose,
            user: user.id,
            email: to.cloned(),
            generation: user.link_generation,
            created_at: now,
            expires_at: now.plus(purpose.life()),
            is_listed: true,
            return_to: None,
        }
    }

    /// [`Accounts::link`] as far as the mailbox gets it: nothing when the letter is held back, and then the account is
    /// as it was.
    ///
    /// # Errors
    /// As [`Accounts::link`].
    pub(super) async fn asked_link(
        &self,
        asked: LetterRequest,
        user: &mut User,
        to: &EmailAddress,
        origin: Option<&RequestOrigin>,
    ) -> Result<Vec<Change>, StoreError> {
        let (purpose, letter) = match asked {
            LetterRequest::Verify => (Purpose::VerifyEmail, Letter::VerifyEmail),
            LetterRequest::Reset => (Purpose::ResetPassword, Letter::ResetPassword),
            LetterRequest::Wish => (Purpose::ChangeEmail, Letter::ConfirmEmail),
            // Word that there is an account carries no link.
            LetterRequest::Notice => return Ok(Vec::new()),
        };
        let only_link = self.live_link(purpose, user, Some(to)).await?.is_none();
        let Some(mut changes) = self.admit(asked, to, Some(user), only_link, origin).await? else {
            return Ok(Vec::new());
        };
        let return_to = origin.and_then(|origin| origin.return_to.as_deref());
        changes.extend(self.link(purpose, letter, user, to, return_to).await?);
        Ok(changes)
    }

    /// [`Accounts::asked_link`] to the account's present address, with the account itself. Nothing without an address.
    ///
    /// # Errors
    /// As [`Accounts::link`].
    pub(super) async fn asked_link_to(
        &self,
        asked: LetterRequest,
        mut user: User,
        origin: &RequestOrigin,
    ) -> Result<Vec<Change>, StoreError> {
        let Some(to) = user.email.clone() else { return Ok(Vec::new()) };
        let mut changes = self.asked_link(asked, &mut user, &to, Some(origin)).await?;
        if !changes.is_empty() {
            changes.push(Change::UpdateUser(user));
        }
        Ok(changes)
    }

    /// The link that the account's record names for `purpose`, when it is still good and went to this address (to none).
    async fn live_link(
        &self,
        purpose: Purpose,
        user: &User,
        to: Option<&EmailAddress>,
    ) -> Result<Option<Link>, StoreError> {
        let Some(id) = user.live_links.get(&purpose) else { return Ok(None) };
        for token in self.key.link_tokens(*id) {
            if let Some(link) = self.store.link(&TokenHash::of(token.expose_secret().as_bytes())).await? {
                let is_good = link.email.as_ref() == to && link.is_good(purpose, user, self.now());
                return Ok(Some(link).filter(|_| is_good));
            }
        }
        Ok(None)
    }

    fn link_hash(&self, id: Uuid) -> TokenHash {
        TokenHash::of(self.key.link_token(id).expose_secret().as_bytes())
    }

    /// Uses a link up; the account's other links for the same purpose are void with it.
    pub(super) fn using_up(link: &Link, user: &mut User) -> Change {
        user.live_links.remove(&link.purpose);
        Change::ConsumeLink(link.hash)
    }

    /// The link of this token and its account, when it is good for one of `purposes`; an invitation is good for what a
    /// reset is.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`] or [`AccountError::Store`].
    pub(super) async fn mailed(
        &self,
        token: &str,
        purposes: &[Purpose],
    ) -> Result<(Link, User), AccountError> {
        // Ours have 43 characters; hashing a megabyte would be work for nothing.
        if token.len() > 64 {
            return Err(AccountError::InvalidLink);
        }
        let hash = TokenHash::of(token.as_bytes());
        let link = self.store.link(&hash).await?.ok_or(AccountError::InvalidLink)?;
        let user = self.store.user(link.user).await?.ok_or(AccountError::InvalidLink)?;
        // An invitation sets a password that was never set: what takes a reset takes it, too.
        let invited = purposes.contains(&Purpose::ResetPassword).then_some(Purpose::Invite);
        let mut purposes = purposes.iter().copied().chain(invited);
        let good = purposes.any(|purpose| link.is_good(purpose, &user, self.now()));
        if good { Ok((link, user)) } else { Err(AccountError::InvalidLink) }
    }
}

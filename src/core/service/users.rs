//! What an operator does with accounts. Each act is audited.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::accounts::{AccountError, Accounts, name};
use super::caller::Source;
use super::links::HandedLink;
use super::noted::About;
use super::noted::changed;
use super::retry::Decision;
use super::sessions::Which;
pub use super::user_edit::UserEdit;
use super::user_edit::{ParsedEdit, check_claims, check_scopes, has_login_name};
use crate::domain::account::{Claim, PasswordHash, User, UserId};
use crate::domain::audit::{Action, Event, Outcome};
use crate::domain::email::EmailAddress;
use crate::domain::groups::Groups;
use crate::domain::link::Purpose;
use crate::domain::mail::{Letter, Mail};
use crate::domain::session::Session;
use crate::domain::task::{Errand, Work};
use crate::ports::{Change, StoreError};

/// The most that one list shows.
pub const MAX_LISTED: usize = 1000;

/// The password of a new account.
#[derive(Debug, Clone)]
pub enum NewPassword {
    Given(SecretString),
    /// A random one, told once.
    Generated,
    /// A hash from elsewhere, as its maker spells it.
    Imported(PasswordHash),
    /// None yet: a link that sets one is mailed.
    Mailed,
}

/// An account to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// `None`: nothing is mailed to it. Then it has a user name.
    pub email: Option<String>,
    /// What it can be signed in to by, too. No account ever had it.
    pub username: Option<String>,
    /// In no order.
    pub groups: Vec<String>,
    pub name: Option<String>,
    pub password: NewPassword,
    /// The operator vouches for the address; else a verification is mailed.
    pub email_verified: bool,
    pub scopes: Vec<String>,
    pub claims: Map<String, Value>,
}

/// An account that was made.
#[derive(Debug)]
pub struct MadeAccount {
    pub user: User,
    /// Its password, when that was generated.
    pub password: Option<SecretString>,
    /// What would have been mailed, where no mail is sent.
    pub link: Option<HandedLink>,
}

/// An account as an operator sees it.
#[derive(Debug, Clone)]
pub struct Shown {
    pub user: User,
    pub token_version: u64,
    pub sessions: Vec<Session>,
}

impl Accounts {
    /// Makes an account.
    ///
    /// # Errors
    /// [`AccountError`]; then there is none.
    pub async fn create_user(&self, request_id: &str, new: NewUser) -> Result<MadeAccount, AccountError> {
        let blank = self.blank_account(&new)?;
        let (known, requester) = (blank.password_owner(), self.operator(&blank));
        let mut generated = None;
        let password = match new.password {
            NewPassword::Mailed => None,
            NewPassword::Imported(hash) => Some(self.importable(&hash)?),
            NewPassword::Given(password) => {
                self.acceptable(password.expose_secret(), known)?;
                self.not_guessed(&password, known, requester).await?;
                Some(self.passwords.hash(password, requester).await?)
            }
            NewPassword::Generated => {
                let password = self.passwords.generate();
                generated = Some(password.clone());
                Some(self.passwords.hash(password, requester).await?)
            }
        };
        let mut user = User { password, ..blank };
        let (mut changes, mut link) = (Vec::new(), None);
        if user.password.is_none() {
            let (purpose, letter) = (Purpose::ResetPassword, Letter::ResetPassword);
            (changes, link) = self.operator_link(purpose, letter, &mut user).await?;
        } else if user.awaits_verification() {
            let (purpose, letter) = (Purpose::VerifyEmail, Letter::VerifyEmail);
            (changes, link) = self.operator_link(purpose, letter, &mut user).await?;
        }
        changes.insert(0, Change::CreateUser(user.clone()));
        let gone = self.create_at(user.email.as_ref(), changes).await?;
        self.outbox.notify_one();
        let about = About::user(user.id);
        let source = Source::Operator(request_id);
        self.note(&source, Action::CreateUser, Outcome::Success, about);
        self.note_gone(&source, gone);
        Ok(MadeAccount { user, password: generated, link })
    }

    /// Whether [`Accounts::create_user`] would make this account now. Nothing is made, mailed or audited.
    ///
    /// # Errors
    /// What it would fail with.
    pub async fn check_user(&self, new: &NewUser) -> Result<(), AccountError> {
        let blank = self.blank_account(new)?;
        let known = blank.password_owner();
        match &new.password {
            NewPassword::Mailed | NewPassword::Generated => {}
            NewPassword::Imported(hash) => drop(self.importable(hash)?),
            NewPassword::Given(password) => {
                self.acceptable(password.expose_secret(), known)?;
                self.not_guessed(password, known, self.operator(&blank)).await?;
            }
        }
        if let Some(email) = &blank.email
            && self.freeing(email).await?.is_none()
        {
            return Err(AccountError::EmailTaken);
        }
        if let Some(name) = &blank.username
            && self.store.username_owner(name).await?.is_some()
        {
            return Err(AccountError::UsernameTaken);
        }
        Ok(())
    }

    /// The account that is wanted, without its password.
    pub(super) fn blank_account(&self, new: &NewUser) -> Result<User, AccountError> {
        let email: Option<EmailAddress> = new.email.as_deref().map(str::parse).transpose()?;
        if new.email_verified && email.is_none() {
            return Err(AccountError::Invalid("`email_verified` needs an `email`".to_owned()));
        }
        check_scopes(&new.scopes)?;
        check_claims(&new.claims)?;
        let blank = User {
            email,
            email_verified: new.email_verified,
            name: name(new.name.clone())?,
            username: new.username.as_deref().map(str::parse).transpose()?,
            groups: Groups::new(&new.groups)?,
            scopes: new.scopes.clone(),
            claims: new.claims.clone(),
            ..User::without_address(UserId(self.entropy.uuid()), self.now())
        };
        has_login_name(&blank)?;
        self.fits(&blank)?;
        Ok(blank)
    }

    pub(super) fn importable(&self, hash: &PasswordHash) -> Result<PasswordHash, AccountError> {
        let refused = |why| AccountError::Invalid(format!("`password_hash` is not imported: {why}"));
        self.passwords.import(hash).map_err(refused)
    }

    /// Changes an account. What its tokens say is made true at once: when something in them changes, or the
    /// account is disabled, they are no longer good.
    ///
    /// An operator's change of the address is final: it ends the sessions and voids every link that was mailed, also
    /// those that undo a change of address. A new address that the operator does not vouch for is mailed a link that
    /// verifies it, where mail is sent.
    ///
    /// # Errors
    /// [`AccountError::Frozen`] for another address while it is undecided which one the account gets; or another
    /// [`AccountError`]. Then nothing was changed.
    pub async fn update_user(
        &self,
        request_id: &str,
        id: UserId,
        edit: UserEdit,
    ) -> Result<User, AccountError> {
        let edit = ParsedEdit::parse(edit)?;
        let source = Source::Operator(request_id);
        let decide = || async {
            let before = self.store.user(id).await?.ok_or(AccountError::NotFound("user"))?;
            let mut user = before.clone();
            edit.apply(&mut user, self.now())?;
            if user == before {
                // What is wanted was done by a request that may not be acknowledged yet.
                self.store.await_in_force().await?;
                return Ok(Decision::Unchanged((before, user, None)));
            }
            if edit.lengthens() {
                self.fits(&user)?;
            }
            user.claim = Claim::Claimed;
            user.updated_at = self.now();
            // Neither a link that is still in a mailbox nor a session must give back later what is taken away here.
            let moved = before.email != user.email;
            let taken = before.email_verified && !user.email_verified || before.active && !user.active;
            if taken || moved {
                user.void_links();
            }
            let (mut changes, gone) = match user.email.as_ref().filter(|_| moved) {
                Some(email) => self.freeing(email).await?.ok_or(AccountError::EmailTaken)?,
                None => (Vec::new(), None),
            };
            if moved && user.awaits_verification() && user.active && self.has_mail() {
                let (purpose, letter) = (Purpose::VerifyEmail, Letter::VerifyEmail);
                changes.extend(self.operator_link(purpose, letter, &mut user).await?.0);
            }
            changes.push(Change::UpdateUser(user.clone()));
            let shut = taken || user.locked_until.is_some() && user.locked_until != before.locked_until;
            if shut {
                changes.extend(self.ending_all(id, None, "account disabled locked or unverified").await?);
            } else if moved && before.email.is_some() {
                changes.extend(self.ending_all(id, None, "e-mail address changed").await?);
            }
            if shut || said(&before) != said(&user) {
                changes.push(self.raising(id, "account changed by an operator"));
            }
            Ok(Decision::Commit(changes, (before, user, gone)))
        };
        let (before, user, gone) = self.retry_on_conflict(&source, decide).await?;
        if user != before {
            self.outbox.notify_one();
            let action = match (before.active, user.active) {
                (true, false) => Action::DisableUser,
                (false, true) => Action::EnableUser,
                _ => Action::UpdateUser,
            };
            self.note(&source, action, Outcome::Success, changed(&before, &user));
            self.note_gone(&source, gone);
        }
        Ok(user)
    }

    /// Removes an account with everything it has, and ends its tokens and its grants at providers.
    ///
    /// # Errors
    /// [`AccountError::NotFound`], [`AccountError::Conflict`] or [`AccountError::Store`]; then it is still
    /// there.
    pub async fn delete_user(&self, request_id: &str, id: UserId) -> Result<(), AccountError> {
        let source = Source::Operator(request_id);
        let decide = || async {
            let Some(user) = self.store.user(id).await? else {
                // Removed by a request that may not be acknowledged yet.
                self.store.await_in_force().await?;
                return Err(AccountError::NotFound("user"));
            };
            Ok(Decision::Commit(self.deleting(&user).await?, ()))
        };
        // A conflict: a token of a connection was refreshed meanwhile.
        self.retry_on_conflict(&source, decide).await?;
        self.note(&source, Action::DeleteUser, Outcome::Success, About::user(id));
        Ok(())
    }

    /// What ends an account's grants at their providers, once its records are gone: errands that hold the
    /// tokens, sealed as they are. No provider holds a deletion up.
    pub(super) async fn ending_grants(&self, id: UserId) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        for connection in self.store.connections(id).await? {
            if connection.tokens.is_some() {
                let errand = Errand::EndGrant(Box::new(connection.clone()));
                changes.push(self.at_once(Work::Errand { made_at: self.now(), tries: 0, errand }));
            }
            // Written once more before it goes: what is to be ended is what there is.
            changes.push(Change::UpdateConnection(connection));
        }
        Ok(changes)
    }

    /// At most `limit` accounts from behind `after`, oldest first.
    ///
    /// # Errors
    /// [`AccountError::Store`].
    pub async fn list_users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, AccountError> {
        Ok(self.store.users(after, limit.min(MAX_LISTED)).await?)
    }

    /// The id of the account that an id, an address or a user name names. No text is two of these.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] or [`AccountError::Store`].
    pub async fn find_user(&self, named: &str) -> Result<UserId, AccountError> {
        let found = match named.parse::<UserId>() {
            Ok(id) => self.store.user(id).await?,
            Err(_) if named.contains('@') => self.store.user_by_email(&named.parse()?).await?,
            Err(_) => self.store.user_by_username(&named.parse()?).await?,
        };
        found.map(|user| user.id).ok_or(AccountError::NotFound("user"))
    }

    /// An account with its sessions.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] or [`AccountError::Store`].
    pub async fn show_user(&self, id: UserId) -> Result<Shown, AccountError> {
        let user = self.store.user(id).await?.ok_or(AccountError::NotFound("user"))?;
        let token_version = self.store.version(self.signer.issuer(), &id.to_string()).await?;
        let (_, sessions) = self.over_and_live(id).await?;
        Ok(Shown { user, token_version, sessions })
    }

    /// Ends one session of an account, or all of them.
    ///
    /// # Errors
    /// [`AccountError::NotFound`] or [`AccountError::Store`].
    pub async fn end_sessions_of(
        &self,
        request_id: &str,
        id: UserId,
        which: Which,
    ) -> Result<usize, AccountError> {
        self.end_chosen(&Source::Operator(request_id), (id, None), which, "ended by an operator").await
    }

    /// Takes the password away, ends every session, and mails a link that sets a new one. Where no mail is sent, and of
    /// an account without an address, the link is returned, and a further call makes another: the password can always be set again.
    ///
    /// # Errors
    /// [`AccountError::NotFound`], [`AccountError::Frozen`], [`AccountError::Conflict`] or [`AccountError::Store`]; then
    /// the password is as it was.
    pub async fn reset_password_of(
        &self,
        request_id: &str,
        id: UserId,
    ) -> Result<Option<HandedLink>, AccountError> {
        let source = Source::Operator(request_id);
        let decide = || async {
            let mut user = self.store.user(id).await?.ok_or(AccountError::NotFound("user"))?;
            if !user.email_changes.takes_reset() {
                return Err(AccountError::Frozen);
            }
            user.password = None;
            user.registration = None;
            user.void_links();
            user.claim = Claim::Claimed;
            user.updated_at = self.now();
            let (purpose, letter) = (Purpose::ResetPassword, Letter::ResetPassword);
            let (mut changes, link) = self.operator_link(purpose, letter, &mut user).await?;
            changes.push(Change::UpdateUser(user));
            changes.extend(self.ending_all(id, None, "password reset by an operator").await?);
            changes.push(self.raising(id, "password reset by an operator"));
            Ok(Decision::Commit(changes, link))
        };
        let link = self.retry_on_conflict(&source, decide).await?;
        self.outbox.notify_one();
        self.note(&source, Action::RequestPasswordReset, Outcome::Success, About::user(id));
        Ok(link)
    }

    /// At most `limit` events of an account, or of none, newest first.
    ///
    /// # Errors
    /// [`AccountError::Store`].
    pub async fn list_events(&self, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, AccountError> {
        Ok(self.store.events(user, limit.min(MAX_LISTED)).await?)
    }

    /// At most `limit` mails that wait or were given up, newest first.
    ///
    /// # Errors
    /// [`AccountError::Store`].
    pub async fn list_mails(&self, limit: usize) -> Result<Vec<Mail>, AccountError> {
        Ok(self.store.mails(limit.min(MAX_LISTED)).await?)
    }
}

/// What tokens say of an account.
fn said(user: &User) -> impl PartialEq {
    let User { email, email_verified, scopes, claims, name, username, groups, .. } = user.clone();
    (email, email_verified, scopes, claims, name, username, groups)
}

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
use crate::domain::account::{Claim, PasswordHash, User, UserId};
use crate::domain::audit::{Action, Event, Outcome};
use crate::domain::claims::{claims_fault, scopes_fault};
use crate::domain::email::EmailAddress;
use crate::domain::groups::Groups;
use crate::domain::link::Purpose;
use crate::domain::mail::{Letter, Mail};
use crate::domain::session::Session;
use crate::domain::task::{Errand, Work};
use crate::domain::time::UnixTime;
use crate::domain::username::Username;
use crate::ports::{Change, StoreError};

/// The most that one list shows.
pub const MAX_LISTED: usize = 1000;

/// The password of a new account.
#[derive(Debug, Clone)]
pub enum NewPassword {
    Given(SecretString),
    /// A random one, told once.
    Generated,
    /// A hash from elsewhere: `$2a$`, `$2b$`, `$2y$`, or passlib's `bcrypt_sha256`.
    Imported(PasswordHash),
    /// None yet: a link that sets one is mailed.
    Mailed,
}

/// An account to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// `None`: nothing is mailed to it.
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

/// What an operator changes of an account; `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct UserEdit {
    /// An empty name takes it away.
    pub name: Option<String>,
    pub email_verified: Option<bool>,
    /// False ends every session.
    pub active: Option<bool>,
    /// A moment that has passed unlocks.
    pub locked_until: Option<UnixTime>,
    pub scopes: Option<Vec<String>>,
    /// An empty name takes it away; no other account gets the former one.
    pub username: Option<String>,
    /// In place of all groups that it has.
    pub groups: Option<Vec<String>>,
    pub claims: Option<Map<String, Value>>,
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
        let email: Option<EmailAddress> = new.email.as_deref().map(str::parse).transpose()?;
        if new.email_verified && email.is_none() {
            return Err(AccountError::Invalid("`email_verified` needs an `email`".to_owned()));
        }
        let name = name(new.name)?;
        let username = new.username.map(|name| name.parse()).transpose()?;
        let groups = Groups::new(&new.groups)?;
        check_scopes(&new.scopes)?;
        check_claims(&new.claims)?;
        let (mut generated, mut imported) = (None, false);
        let blank = User { email, ..User::without_address(UserId(self.entropy.uuid()), self.now()) };
        let (email, requester) = (blank.email.as_ref(), self.operator(&blank));
        let password = match new.password {
            NewPassword::Mailed => None,
            NewPassword::Imported(hash) => {
                let refused = |why| AccountError::Invalid(format!("`password_hash` is not imported: {why}"));
                self.passwords.can_import(&hash).map_err(refused)?;
                imported = true;
                Some(hash)
            }
            NewPassword::Given(password) => {
                self.acceptable(password.expose_secret(), email, name.as_deref())?;
                self.not_guessed(&password, email, name.as_deref(), requester).await?;
                Some(self.passwords.hash(password, requester).await?)
            }
            NewPassword::Generated => {
                let password = self.passwords.generate();
                generated = Some(password.clone());
                Some(self.passwords.hash(password, requester).await?)
            }
        };
        let mut user = User {
            email_verified: new.email_verified,
            name,
            password,
            username,
            groups,
            scopes: new.scopes,
            claims: new.claims,
            ..blank
        };
        self.fits(&user)?;
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
        if let Some(hash) = user.password.as_ref().filter(|_| imported) {
            self.passwords.imported(hash);
        }
        self.outbox.notify_one();
        let about = About::user(user.id);
        self.note(&Source::Operator(request_id), Action::CreateUser, Outcome::Success, about);
        if let Some((action, outcome, about)) = gone.map(Accounts::made_room) {
            self.note(&Source::Operator(request_id), action, outcome, about);
        }
        Ok(MadeAccount { user, password: generated, link })
    }

    /// Changes an account. What its tokens say is made true at once: when something in them changes, or the
    /// account is disabled, they are no longer good.
    ///
    /// # Errors
    /// [`AccountError`]; then nothing was changed.
    pub async fn update_user(
        &self,
        request_id: &str,
        id: UserId,
        edit: UserEdit,
    ) -> Result<User, AccountError> {
        let new_name = edit.name.map(|given| name(Some(given))).transpose()?;
        let new_username = edit.username.as_deref().map(username).transpose()?;
        let new_groups = edit.groups.as_deref().map(Groups::new).transpose()?;
        edit.scopes.as_ref().map_or(Ok(()), |scopes| check_scopes(scopes))?;
        edit.claims.as_ref().map_or(Ok(()), check_claims)?;
        let source = Source::Operator(request_id);
        let decide = || async {
            let before = self.store.user(id).await?.ok_or(AccountError::NotFound("user"))?;
            let mut user = before.clone();
            if let Some(name) = &new_name {
                user.name.clone_from(name);
            }
            user.email_verified = edit.email_verified.unwrap_or(user.email_verified);
            if user.email_verified && user.email.is_none() {
                let why = "`email_verified`: the account has no address";
                return Err(AccountError::Invalid(why.to_owned()));
            }
            user.active = edit.active.unwrap_or(user.active);
            if let Some(until) = edit.locked_until {
                user.locked_until = Some(until).filter(|until| *until > self.now());
            }
            user.scopes = edit.scopes.clone().unwrap_or(user.scopes);
            user.claims = edit.claims.clone().unwrap_or(user.claims);
            user.username = new_username.clone().unwrap_or(user.username);
            user.groups = new_groups.clone().unwrap_or(user.groups);
            if user == before {
                return Ok(Decision::Unchanged((before, user)));
            }
            let lengthens = edit.scopes.is_some() || edit.claims.is_some();
            if lengthens || new_username.is_some() || new_groups.is_some() {
                self.fits(&user)?;
            }
            user.claim = Claim::Claimed;
            user.updated_at = self.now();
            // Neither a link that is still in a mailbox nor a session must give back later what is taken away here.
            let taken = before.email_verified && !user.email_verified || before.active && !user.active;
            if taken {
                user.void_links();
            }
            let mut changes = vec![Change::UpdateUser(user.clone())];
            let shut = taken || user.locked_until.is_some() && user.locked_until != before.locked_until;
            if shut {
                changes.extend(self.ending_all(id, None, "account disabled locked or unverified").await?);
            }
            let said = |user: &User| {
                let User { email_verified, scopes, claims, name, username, groups, .. } = user.clone();
                (email_verified, scopes, claims, name, username, groups)
            };
            if shut || said(&before) != said(&user) {
                changes.push(self.raising(id, "account changed by an operator"));
            }
            Ok(Decision::Commit(changes, (before, user)))
        };
        let (before, user) = self.retry_on_conflict(&source, decide).await?;
        if user != before {
            let action = match (before.active, user.active) {
                (true, false) => Action::DisableUser,
                (false, true) => Action::EnableUser,
                _ => Action::UpdateUser,
            };
            self.note(&source, action, Outcome::Success, changed(&before, &user));
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
            let user = self.store.user(id).await?.ok_or(AccountError::NotFound("user"))?;
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
        let sessions = self.store.sessions(id).await?;
        let chosen: Vec<_> = sessions
            .iter()
            .filter(|session| !matches!(which, Which::One(one) if session.id != one))
            .collect();
        if chosen.is_empty() && matches!(which, Which::One(_)) {
            return Err(AccountError::NotFound("session"));
        }
        let changes: Vec<_> =
            chosen.iter().flat_map(|session| self.ending(session, "ended by an operator")).collect();
        if !changes.is_empty() {
            self.commit_by(&Source::Operator(request_id), changes).await?;
        }
        Ok(chosen.len())
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

/// A user name as it is kept; an empty one takes it away.
fn username(given: &str) -> Result<Option<Username>, AccountError> {
    Some(given).filter(|given| !given.is_empty()).map(|given| Ok(given.parse()?)).transpose()
}

fn check_scopes(scopes: &[String]) -> Result<(), AccountError> {
    scopes_fault(scopes).map_or(Ok(()), |fault| Err(AccountError::Invalid(fault)))
}

fn check_claims(claims: &Map<String, Value>) -> Result<(), AccountError> {
    claims_fault(claims).map_or(Ok(()), |fault| Err(AccountError::Invalid(fault)))
}

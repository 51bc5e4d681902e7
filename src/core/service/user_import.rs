//! Accounts in bulk: imports from elsewhere, and exports that can be imported again.
//!
//! An import makes what can be made and says of each of the other rows why it was refused. All rows of one call are made
//! in one commit; when that meets a conflict, each is made by itself, so that one row that came too late stops no other.

use std::collections::HashSet;

use secrecy::{ExposeSecret, SecretString};

use super::accounts::{AccountError, Accounts};
use super::caller::Source;
use super::links::HandedLink;
use super::noted::About;
use super::unclaimed::UNCLAIMED_LIFE;
use super::users::{NewPassword, NewUser};
use crate::domain::account::{Claim, PasswordHash, User, UserId};
use crate::domain::audit::{Action, Outcome};
use crate::domain::email::EmailAddress;
use crate::domain::link::Purpose;
use crate::domain::mail::Letter;
use crate::domain::provider_identity::{IdentityFingerprint, ProviderIdentity, identities_fault};
use crate::domain::task::Work;
use crate::domain::time::UnixTime;
use crate::domain::username::{Username, UsernameFingerprint};
use crate::ports::{Change, CommitError, StoreError};

/// The most rows of one call.
pub const MAX_ROWS: usize = 1000;

/// An account to be made as it was elsewhere.
#[derive(Debug, Clone)]
pub struct ImportedUser {
    /// The `sub` of its tokens; `None`: a new one.
    pub subject: Option<UserId>,
    pub new: NewUser,
    pub active: bool,
    /// `None`: now.
    pub created_at: Option<UnixTime>,
    pub identities: Vec<ProviderIdentity>,
    /// False: an address that was registered and never verified. Its owner may not be the one who registered it.
    pub claimed: bool,
}

/// Which of the accounts get a letter with the link that they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportLetters {
    None,
    /// Those that nothing signs in to: without a password and without an identity at a provider.
    #[default]
    Missing,
    /// Those without a password, and those whose address is not verified.
    All,
}

/// A row that was made, or, in a dry run, could be.
#[derive(Debug)]
pub struct ImportedAccount {
    pub user: User,
    /// Its password, when that was generated.
    pub password: Option<SecretString>,
    /// Whether it gets a link: by mail, unless [`ImportedAccount::link`] is there.
    pub gets_link: bool,
    /// What would have been mailed, where no mail is sent.
    pub link: Option<HandedLink>,
}

/// A page of an export.
#[derive(Debug)]
pub struct ExportPage {
    pub users: Vec<User>,
    /// From behind which account the next page is; `None` at the end.
    pub next: Option<UserId>,
    /// On the last page of what has changed since a moment: the accounts that are gone since, as far as is known.
    pub gone: Vec<(UserId, UnixTime)>,
    /// When the page was begun: what changes later is found by this moment.
    pub as_of: UnixTime,
}

/// A row that was checked, with what making it takes.
struct Prepared {
    account: ImportedAccount,
    changes: Vec<Change>,
    /// The unclaimed account that is removed for its address.
    gone: Option<UserId>,
}

/// What rows of the same call have.
#[derive(Default)]
struct Seen {
    subjects: HashSet<UserId>,
    addresses: HashSet<EmailAddress>,
    usernames: HashSet<UsernameFingerprint>,
    identities: HashSet<IdentityFingerprint>,
}

impl Seen {
    /// Takes the account in, unless another one has something of it.
    fn take(&mut self, user: &User) -> Result<(), AccountError> {
        let username = user.username.as_ref().map(Username::fingerprint);
        let identities = || user.identities.iter().map(ProviderIdentity::fingerprint);
        if self.subjects.contains(&user.id) {
            return Err(subject_taken());
        }
        if user.email.as_ref().is_some_and(|email| self.addresses.contains(email)) {
            return Err(AccountError::EmailTaken);
        }
        if username.is_some_and(|name| self.usernames.contains(&name)) {
            return Err(AccountError::UsernameTaken);
        }
        if identities().any(|identity| self.identities.contains(&identity)) {
            return Err(AccountError::IdentityTaken);
        }
        self.subjects.insert(user.id);
        self.addresses.extend(user.email.clone());
        self.usernames.extend(username);
        self.identities.extend(identities());
        Ok(())
    }
}

fn subject_taken() -> AccountError {
    AccountError::Invalid("`subject`: there is an account of this id".to_owned())
}

impl Accounts {
    /// Makes the accounts of `rows`, or with `dry_run` says which of them could be made. The outcome of each row, in
    /// their order.
    ///
    /// # Errors
    /// [`AccountError::Store`]: what was committed is made, and it is not known what was. [`AccountError::Invalid`]: there
    /// are more than [`MAX_ROWS`].
    pub async fn import_users(
        &self,
        request_id: &str,
        rows: Vec<ImportedUser>,
        letters: ImportLetters,
        dry_run: bool,
    ) -> Result<Vec<Result<ImportedAccount, AccountError>>, AccountError> {
        if rows.len() > MAX_ROWS {
            return Err(AccountError::Invalid(format!("at most {MAX_ROWS} accounts are imported at a time")));
        }
        let (mut seen, mut prepared) = (Seen::default(), Vec::with_capacity(rows.len()));
        for row in rows {
            let outcome = self.prepared(row, letters, dry_run, &mut seen).await;
            prepared.push(match outcome {
                Err(AccountError::Store(error)) => return Err(error.into()),
                outcome => outcome,
            });
        }
        if dry_run {
            return Ok(prepared.into_iter().map(|row| row.map(|row| row.account)).collect());
        }
        let together = prepared.iter().flatten().flat_map(|row| row.changes.clone()).collect();
        let is_made = match self.commit(together).await {
            Ok(_) => true,
            Err(CommitError::Store(error)) => return Err(error.into()),
            // Another commit came first, and it cannot be told for which of the rows.
            Err(CommitError::Conflict | CommitError::EmailTaken) => false,
            Err(CommitError::UsernameTaken | CommitError::IdentityTaken) => false,
        };
        let source = Source::Operator(request_id);
        let mut made = Vec::with_capacity(prepared.len());
        for row in prepared {
            made.push(match row {
                Err(error) => Err(error),
                Ok(Prepared { account, changes, gone }) => {
                    let outcome = if is_made { Ok(()) } else { self.commit(changes).await.map(drop) };
                    match outcome {
                        Err(CommitError::Store(error)) => return Err(error.into()),
                        Err(error) => Err(error.into()),
                        Ok(()) => {
                            let about = About::user(account.user.id).because("imported");
                            self.note(&source, Action::CreateUser, Outcome::Success, about);
                            self.note_gone(&source, gone);
                            Ok(account)
                        }
                    }
                }
            });
        }
        self.outbox.notify_one();
        Ok(made)
    }

    async fn prepared(
        &self,
        row: ImportedUser,
        letters: ImportLetters,
        dry_run: bool,
        seen: &mut Seen,
    ) -> Result<Prepared, AccountError> {
        let ImportedUser { subject, new, active, created_at, identities, claimed } = row;
        let now = self.now();
        if created_at.is_some_and(|at| at > now) {
            return Err(AccountError::Invalid("`created_at` is still to come".to_owned()));
        }
        if let Some(fault) = identities_fault(&identities) {
            return Err(AccountError::Invalid(format!("`identities`: {fault}")));
        }
        let blank = self.blank_account(&new)?;
        let mut user = User {
            id: subject.unwrap_or(blank.id),
            active,
            created_at: created_at.unwrap_or(now),
            identities,
            claim: if claimed { Claim::Claimed } else { Claim::Unclaimed },
            ..blank
        };
        if subject.is_some_and(|subject| subject.0.is_nil() || subject.0.is_max()) {
            return Err(AccountError::Invalid("`subject` is no id of an account".to_owned()));
        }
        let (changes, gone) = self.room_for(&user).await?;
        let password = self.imported_password(&new.password, &user, dry_run).await?;
        user.password = password.0;
        seen.take(&user)?;
        let is_signed_in_to = user.password.is_some() || !user.identities.is_empty();
        // In a dry run no password is hashed.
        let has_password = user.password.is_some()
            || !matches!(new.password, NewPassword::Mailed | NewPassword::Imported(_));
        let gets_link = active
            && match letters {
                ImportLetters::None => false,
                ImportLetters::Missing => !is_signed_in_to && !has_password,
                ImportLetters::All => !has_password || user.awaits_verification(),
            };
        let mut account = ImportedAccount { user, password: password.1, gets_link, link: None };
        let mut all = changes;
        if gets_link && !dry_run {
            let (purpose, letter) = match has_password {
                false => (Purpose::ResetPassword, Letter::ResetPassword),
                true => (Purpose::VerifyEmail, Letter::VerifyEmail),
            };
            let (changes, link) = self.operator_link(purpose, letter, &mut account.user).await?;
            all.extend(changes);
            account.link = link;
        }
        if account.user.is_claimed() == Some(false) {
            let end = now.plus(UNCLAIMED_LIFE);
            all.push(self.later(end, Work::ForgetUnverified(account.user.id)));
        }
        all.push(Change::CreateUser(account.user.clone()));
        Ok(Prepared { account, changes: all, gone })
    }

    /// What makes room for the account: the removal of an unclaimed one with its address.
    async fn room_for(&self, user: &User) -> Result<(Vec<Change>, Option<UserId>), AccountError> {
        if self.store.user(user.id).await?.is_some() {
            return Err(subject_taken());
        }
        if let Some(name) = &user.username
            && self.store.username_owner(name).await?.is_some_and(|owner| owner != user.id)
        {
            return Err(AccountError::UsernameTaken);
        }
        for identity in &user.identities {
            if self.store.user_by_identity(identity).await?.is_some() {
                return Err(AccountError::IdentityTaken);
            }
        }
        match &user.email {
            Some(email) => self.freeing(email).await?.ok_or(AccountError::EmailTaken),
            None => Ok((Vec::new(), None)),
        }
    }

    /// The hash, and the password that was generated. In a dry run nothing is hashed.
    async fn imported_password(
        &self,
        wanted: &NewPassword,
        user: &User,
        dry_run: bool,
    ) -> Result<(Option<PasswordHash>, Option<SecretString>), AccountError> {
        let (known, requester) = (user.password_owner(), self.operator(user));
        let (password, generated) = match wanted {
            NewPassword::Mailed => return Ok((None, None)),
            NewPassword::Imported(hash) => return Ok((Some(self.importable(hash)?), None)),
            NewPassword::Given(password) => {
                self.acceptable(password.expose_secret(), known)?;
                self.not_guessed(password, known, requester).await?;
                (password.clone(), None)
            }
            NewPassword::Generated => {
                let password = self.passwords.generate();
                (password.clone(), Some(password))
            }
        };
        if dry_run {
            return Ok((None, None));
        }
        Ok((Some(self.passwords.hash(password, requester).await?), generated))
    }

    /// A page of at most `limit` accounts from behind `after`, in the order of their ids; with `since` only those that
    /// were made or changed from then on, and at the end those that are gone. An account that is there during the whole
    /// export comes exactly once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn export_users(
        &self,
        after: Option<UserId>,
        limit: usize,
        since: Option<UnixTime>,
    ) -> Result<ExportPage, StoreError> {
        let as_of = self.now();
        let mut users = self.store.users(after, limit).await?;
        // A short page is the last one.
        let next = users.last().filter(|_| users.len() == limit).map(|user| user.id);
        if let Some(since) = since {
            users.retain(|user| user.updated_at >= since);
        }
        for user in &mut users {
            // Of an account of an earlier version its events may tell.
            user.claim = if self.is_unclaimed(user).await? { Claim::Unclaimed } else { Claim::Claimed };
        }
        let mut gone = Vec::new();
        if let Some(since) = since.filter(|_| next.is_none()) {
            for one in self.store.gone_users(since).await? {
                // An import may have made it again.
                if self.store.user(one.0).await?.is_none() {
                    gone.push(one);
                }
            }
            gone.sort_by_key(|(id, at)| (*at, *id));
        }
        Ok(ExportPage { users, next, gone, as_of })
    }
}

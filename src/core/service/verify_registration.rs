//! The link of a registration: it proves the mailbox, and a proof beside it the password.
//!
//! An attacker can register an address of another person, with a password of their own, and wait for its owner to
//! open the link (pre-hijacking). So the owner has to prove that they know the password, or to choose one. Choosing
//! one ends everything from before: the sessions, the links, the tokens, and the name that the requester gave.

use std::sync::PoisonError;

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::accounts::{AccountError, Accounts, Ways};
use super::caller::{Client, Person, Source};
use super::noted::About;
use super::retry::Decision;
use crate::domain::account::{PasswordHash, User, Verification};
use crate::domain::audit::{Action, Outcome};
use crate::domain::binding::{Binding, VerifiedLately};
use crate::domain::link::Purpose;
use crate::domain::mail::{Facts, Letter};
use crate::domain::opaque::TokenHash;
use crate::domain::password::PasswordOwner;
use crate::ports::{Change, NoteKey, NoteKind, NotePut};

/// What comes beside the token of a link that verifies an address.
#[derive(Debug, Default)]
pub struct Proof {
    /// The password of the account.
    pub password: Option<SecretString>,
    /// A password that it is to have from now on.
    pub new_password: Option<SecretString>,
    /// The registrations that the browser has sent.
    pub browser: Binding,
    /// Asks for a proof also where the configuration does not.
    pub wanted: bool,
    /// The user of the access token that came with the request; for a link that changes an address only.
    pub person: Option<Person>,
}

/// What was shown, to be held against the account once more when it is written.
enum Shown {
    /// Nothing but the link, which is enough here.
    Link,
    /// That the password is known; the hash that it was held against.
    Password(Option<PasswordHash>),
    /// That the browser sent the registration that set the account's password.
    Browser(Option<Uuid>),
    /// The hash of a new password.
    NewPassword(PasswordHash),
}

impl Accounts {
    /// Consumes the link of a registration and returns the account with its address verified.
    ///
    /// # Errors
    /// [`AccountError::ProofNeeded`], [`AccountError::WrongPassword`] or [`AccountError::PasswordRejected`], after which
    /// the link is as good as before; [`AccountError::InvalidLink`], or another [`AccountError`].
    pub(super) async fn verify_registration(
        &self,
        client: &Client,
        token: &str,
        proof: Proof,
    ) -> Result<User, AccountError> {
        let (_, user) = self.mailed(token, &[Purpose::VerifyEmail]).await?;
        let shown = self.shown(client, &user, proof).await?;
        let source = Source::Client(client);
        let decide = || async {
            let (link, mut user) = self.mailed(token, &[Purpose::VerifyEmail]).await?;
            match &shown {
                Shown::Password(confirmed) if user.password != *confirmed => {
                    return Err(AccountError::WrongPassword);
                }
                Shown::Browser(sent) if user.registration != *sent => return Err(needed(&user)),
                _ => {}
            }
            // Of a password that was chosen now, the requester of the registration learns nothing.
            let registration = match &shown {
                Shown::NewPassword(_) => None,
                Shown::Link | Shown::Password(_) | Shown::Browser(_) => user.registration,
            };
            let mut changes = vec![Accounts::using_up(&link, &mut user)];
            if let Shown::NewPassword(hash) = &shown {
                changes.extend(self.starting_over(client, &mut user, hash).await?);
            }
            // Not verified yet as this is decided: the letter must not greet by a name that an attacker may have
            // given.
            changes.extend(self.mail_to_owner(Letter::Welcome, &user, Facts::default()));
            user.verified();
            user.updated_at = self.now();
            changes.push(Change::UpdateUser(user.clone()));
            Ok(Decision::Commit(changes, (user, registration)))
        };
        let (user, registration) = self.retry_on_conflict(&source, decide).await?;
        if let Some(registration) = registration {
            self.note_verified(registration).await;
        }
        self.outbox.notify_one();
        let about = About::user(user.id).because(shown.name());
        self.note(&source, Action::VerifyEmail, Outcome::Success, about);
        Ok(user)
    }

    /// Whether the registration that this browser sent last was verified within the last hour, here or elsewhere, and set
    /// the account's password. It tells no more than a sign-in with that password does. `false` once that is forgotten.
    pub async fn was_verified(&self, browser: &Binding) -> bool {
        let now = self.now();
        let Some(registration) = browser.latest(now) else { return false };
        match self.store.shared_notes() {
            // When they cannot be read, the person signs in.
            Some(notes) => {
                let found = notes.notes(&[note_of(registration)]).await;
                found.is_ok_and(|read| read.notes.iter().any(Option::is_some))
            }
            None => {
                let verified = self.verified_lately.lock().unwrap_or_else(PoisonError::into_inner);
                verified.has(registration, now)
            }
        }
    }

    /// For the page that waits in the browser which sent this registration, wherever it asks.
    async fn note_verified(&self, registration: Uuid) {
        let Some(notes) = self.store.shared_notes() else {
            let mut verified = self.verified_lately.lock().unwrap_or_else(PoisonError::into_inner);
            return verified.note(registration, self.now());
        };
        let (key, life) = (note_of(registration), VerifiedLately::LIFE);
        let put = NotePut { key, before: None, body: Vec::new(), life };
        if let Err(error) = notes.put_notes(vec![put]).await {
            tracing::debug!(%error, "a verified registration is not remembered");
        }
    }

    /// What `proof` shows about this account.
    async fn shown(&self, client: &Client, user: &User, proof: Proof) -> Result<Shown, AccountError> {
        let is_wanted = proof.wanted || self.settings.verification == Verification::Proof;
        match (proof.password, proof.new_password) {
            (Some(_), Some(_)) => {
                Err(AccountError::Invalid("send `password` or `new_password`, not both".to_owned()))
            }
            (None, Some(new)) => {
                // A stranger may have given the name.
                let known = PasswordOwner { name: None, ..user.password_owner() };
                self.acceptable(new.expose_secret(), known)?;
                let owner = self.owner(client, user);
                self.not_guessed(&new, known, owner).await?;
                Ok(Shown::NewPassword(self.passwords.hash(new, owner).await?))
            }
            (Some(password), None) => {
                self.show_password(client, user, password).await?;
                Ok(Shown::Password(user.password.clone()))
            }
            (None, None) if proof.browser.proves(&self.key, user, self.now()) => {
                Ok(Shown::Browser(user.registration))
            }
            (None, None) if is_wanted => {
                let about = About::user(user.id).because("proof_needed");
                self.note(&Source::Client(client), Action::VerifyEmail, Outcome::Denied, about);
                Err(needed(user))
            }
            (None, None) => Ok(Shown::Link),
        }
    }

    /// Checks `password` against the account's. It has a rate limit of its own: the holder of the mailbox must not
    /// guess a password that another requester chose.
    async fn show_password(
        &self,
        client: &Client,
        user: &User,
        password: SecretString,
    ) -> Result<(), AccountError> {
        if self.is_password(client, user, password).await? {
            return Ok(());
        }
        let about = About::user(user.id).because("wrong_password");
        self.note(&Source::Client(client), Action::VerifyEmail, Outcome::Denied, about);
        Err(AccountError::WrongPassword)
    }

    /// Gives the account this password and ends all that was made without it.
    async fn starting_over(
        &self,
        client: &Client,
        user: &mut User,
        password: &PasswordHash,
    ) -> Result<Vec<Change>, AccountError> {
        let mut changes = vec![self.raising(user.id, "password chosen at the verification")];
        changes.extend(self.ending_all(user.id, None, "password chosen at the verification").await?);
        let is_unclaimed = self.is_unclaimed(user).await?;
        self.leave_behind(user).await?;
        if !is_unclaimed && user.password.is_some() {
            let facts = self.facts_of_password(client, user.id).await?;
            changes.extend(self.mail_to_owner(Letter::PasswordChanged, user, facts));
        }
        user.password = Some(password.clone());
        user.known_blocks.clear();
        user.void_links();
        Ok(changes)
    }
}

/// Where a verified registration is kept among shared notes.
fn note_of(registration: Uuid) -> NoteKey {
    NoteKey { kind: NoteKind::Verified, hash: TokenHash::of(registration.as_bytes()).0 }
}

impl Shown {
    fn name(&self) -> &'static str {
        match self {
            Shown::Link => "link",
            Shown::Password(_) => "password",
            Shown::Browser(_) => "browser",
            Shown::NewPassword(_) => "new_password",
        }
    }
}

/// The refusal that names what would do.
fn needed(user: &User) -> AccountError {
    AccountError::ProofNeeded(match user.password {
        Some(_) => Ways::Password,
        None => Ways::NewPassword,
    })
}

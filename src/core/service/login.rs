//! Signing in with a password.
//!
//! An unknown address and a wrong password take the same work and get the same answer. What is wrong with
//! an account is told only to whoever knows its password.

use std::time::Duration;

use secrecy::SecretString;

use super::accounts::{About, AccountError, Accounts, Client, Granted, Source};
use super::retry::Decision;
use crate::domain::account::{MAX_DEVICES, User};
use crate::domain::audit::{Action, Outcome};
use crate::domain::block::AddressBlock;
use crate::domain::email::EmailAddress;
use crate::domain::mail::Letter;
use crate::domain::revocation::Versions;
use crate::domain::session::{Device, Session, SessionId};
use crate::ports::{Change, Limited, StoreError};

/// How long the look-up of an account takes, at the least. To find one and read it takes longer than to find
/// none, by so little that this hides it; next to the work of a password it is nothing.
const LOOK_UP: Duration = Duration::from_millis(5);

impl Accounts {
    /// Begins a session.
    ///
    /// # Errors
    /// [`AccountError`]: [`AccountError::InvalidCredentials`] for everything that must look the same, and
    /// [`AccountError::Disabled`] or [`AccountError::Locked`] once the
    /// password was right.
    pub async fn login(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
    ) -> Result<Granted, AccountError> {
        let email: EmailAddress = email.parse()?;
        let look_up = async {
            let found = self.store.user_by_email(&email).await?;
            let requester = self.requester(client, &email, found.as_ref());
            Ok::<_, StoreError>((found, requester))
        };
        let (looked_up, ()) = tokio::join!(look_up, tokio::time::sleep(LOOK_UP));
        let (found, requester) = looked_up?;
        // The limits forget with the process, and what is kept with the account does not. Told before the attempt, for
        // which every address has been looked up: a refusal takes as long where there is no account.
        if requester.known {
            self.limiter.recall(Limited::Login, client.address, email.as_str());
        }
        self.limiter.attempt(Limited::Login, client.address, Some(email.as_str()))?;
        let stored = found.as_ref().and_then(|user| user.password.as_ref());
        let checked = match self.passwords.check(password.clone(), stored, requester).await {
            Ok(checked) => checked,
            // Nothing was guessed.
            Err(busy) => {
                self.limiter.not_tried(Limited::Login, client.address, email.as_str());
                return Err(busy.into());
            }
        };
        let source = Source::Client(client);
        let denied = |about: About| self.note(&source, Action::Login, Outcome::Denied, about);
        let user = match found {
            Some(user) if checked.matches && user.email_verified => user,
            // Whoever registers an address with a password of their own must not see by that password
            // whether it had an account before: not verified yet looks like a wrong password.
            Some(user) => {
                self.limiter.failed(Limited::Login, client.address, email.as_str());
                let reason = if checked.matches { "email_not_verified" } else { "wrong_password" };
                denied(About::user(user.id).because(reason));
                return Err(AccountError::InvalidCredentials);
            }
            None => {
                self.limiter.failed(Limited::Login, client.address, email.as_str());
                denied(self.unknown_address(&email));
                return Err(AccountError::InvalidCredentials);
            }
        };
        self.limiter.succeeded(Limited::Login, client.address, email.as_str());
        // A password whose hash is out of date gets a new one while it is at hand. When the threads that
        // hash are busy, the next login will do.
        let checked_against = user.password.clone();
        let owner = self.owner(client, &user);
        let rehashed =
            if checked.needs_rehash { self.passwords.hash(password, owner).await.ok() } else { None };
        let block = AddressBlock::of(client.address);
        let device = self.devices.device(client.user_agent.as_deref(), client.address);

        let (device, rehashed, denied) = (&device, &rehashed, &denied);
        let (id, mut known) = (user.id, Some(user));
        let checked_against = &checked_against;
        let decide = || {
            let known = known.take();
            async move {
                let version = self.version(id).await?;
                let mut user = match known {
                    Some(user) => user,
                    // The account has changed since its password was checked. When the password itself has, that check is
                    // worth nothing.
                    None => match self.store.user(id).await? {
                        Some(user)
                            if user.password == *checked_against
                                || (rehashed.is_some() && user.password == *rehashed) =>
                        {
                            user
                        }
                        _ => return Err(AccountError::InvalidCredentials),
                    },
                };
                if let Err(error) = may_sign_in(&user, self.now()) {
                    denied(About::user(user.id).because(barred(&user, &error)));
                    return Err(error);
                }
                let (session, token) = self.new_session(&user, device, version);
                let mut changes = self.make_room(&user).await?;
                let is_new = self.remember_device(&mut user, device);
                let is_told = is_new && user.admits_device_letter(self.now());
                if is_told {
                    let facts = self.facts(client);
                    changes.push(self.mail(Letter::NewDevice, &user, &user.email, None, facts));
                }
                user.remember_block(self.key.block_mark(user.id, block));
                user.last_login_at = Some(self.now());
                user.email_changes.forget_over(self.now());
                if let Some(hash) = rehashed {
                    user.password = Some(hash.clone());
                }
                changes.push(Change::UpdateUser(user.clone()));
                changes.push(Change::CreateSession(session.clone()));
                Ok(Decision::Commit(changes, (version, user, session, token, (is_new, is_told))))
            }
        };
        let (version, user, session, token, (is_new, is_told)) =
            self.retry_on_conflict(&source, decide).await?;
        if is_told {
            self.outbox.notify_one();
        }
        let about = About::session(user.id, session.id);
        let about = if is_new && !is_told { about.because("letter_held_back") } else { about };
        self.note(&source, Action::Login, Outcome::Success, about);
        self.grant(version, user, &session, self.key.write(&token))
    }

    fn new_session(
        &self,
        user: &User,
        device: &Device,
        begun: Versions,
    ) -> (Session, crate::domain::opaque::RefreshToken) {
        let now = self.now();
        let id = SessionId(self.entropy.uuid());
        let token = self.key.first(user.id, id, self.random());
        let lives = self.settings.lifetimes;
        let session = Session {
            id,
            user: user.id,
            created_at: now,
            last_used_at: now,
            expires_at: now.plus(lives.sliding.min(lives.absolute)),
            device: device.clone(),
            scopes: user.scopes.clone(),
            begun,
            generation: 0,
            current: token.hash(),
            rotated_at: now,
            revision: 0,
        };
        (session, token)
    }

    /// Ends what is over, and the least used sessions when there are too many for one more.
    async fn make_room(&self, user: &User) -> Result<Vec<Change>, AccountError> {
        let (over, mut live) = self.over_and_live(user.id).await?;
        // What is over by a clock that may be ahead takes up no room, and is not removed yet.
        let (earliest, lives) = (self.clock.reading().earliest, self.settings.lifetimes);
        let mut changes = Vec::new();
        for session in over {
            if earliest >= session.ends_at(lives) || self.is_cut(&session).await? {
                changes.push(Change::EndSession(session.user, session.id));
            }
        }
        let excess = (live.len() + 1).saturating_sub(self.settings.max_sessions.max(1));
        // Oldest first, among those that were last used at the same moment.
        live.sort_by_key(|session| session.last_used_at);
        for session in live.iter().take(excess) {
            changes.extend(self.ending(session, "too many sessions"));
        }
        Ok(changes)
    }

    /// Whether the owner should hear of this device: it is not the first one, and was not seen before.
    fn remember_device(&self, user: &mut User, device: &Device) -> bool {
        let is_first = user.devices.is_empty();
        let before = user.devices.len();
        user.devices.retain(|known| *known != device.fingerprint);
        let is_known = user.devices.len() < before;
        user.devices.push(device.fingerprint.clone());
        let excess = user.devices.len().saturating_sub(MAX_DEVICES);
        user.devices.drain(..excess);
        !is_first && !is_known
    }
}

/// What keeps an account from being signed in to, beside the password.
pub(super) fn may_sign_in(user: &User, now: crate::domain::time::UnixTime) -> Result<(), AccountError> {
    if !user.active {
        return Err(AccountError::Disabled);
    }
    // As if there were no such account: which addresses are argued about is not told to those who try.
    if user.email_changes.is_frozen() {
        return Err(AccountError::InvalidCredentials);
    }
    if let Some(until) = user.locked_until.filter(|until| now < *until) {
        return Err(AccountError::Locked(until));
    }
    if user.email_verified { Ok(()) } else { Err(AccountError::InvalidCredentials) }
}

/// Why [`may_sign_in`] said no, in a word for the audit log.
pub(super) fn barred(user: &User, error: &AccountError) -> &'static str {
    match error {
        // The caller is told the same of both.
        AccountError::InvalidCredentials if user.email_changes.is_frozen() => "account_frozen",
        AccountError::InvalidCredentials => "email_not_verified",
        AccountError::Locked(_) => "locked",
        _ => "disabled",
    }
}

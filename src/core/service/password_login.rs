//! Signing in with a password.
//!
//! No enumeration of accounts: an unknown address and a wrong password take the same work and get the same answer. What
//! is wrong with an account is told only after its password was right.

use std::time::Duration;

use secrecy::SecretString;

use super::accounts::{AccountError, Accounts};
use super::browser::CookieWish;
use super::caller::{Client, Source};
use super::noted::About;
use super::sign_in::{BrowserSignIn, Factor, SignIn};
use crate::domain::account::{PasswordHash, User, UserId};
use crate::domain::audit::{Action, Outcome};
use crate::domain::browser::CookiePlace;
use crate::domain::email::EmailAddress;
use crate::ports::{Entropy, Limited, Requester, StoreError};

/// How long the look-up of an account takes, at the least. An account that is found is read, which takes longer than to
/// find none, by so little that this hides it; next to the work of a password it is nothing.
const LOOK_UP: Duration = Duration::from_millis(5);

/// A random delay of a refusal, of up to 16 ms, against enumeration. What is left of a difference between an account and
/// none is some microseconds and drowns in it: the attempts at one address are limited, so an attacker cannot take the
/// mean of enough of them.
async fn jitter(entropy: &dyn Entropy) {
    let mut bytes = [0; 2];
    entropy.fill(&mut bytes);
    tokio::time::sleep(Duration::from_micros(u64::from(u16::from_be_bytes(bytes) >> 2))).await;
}

/// What is looked up for a password. It is small, so that an account takes no more time after the look-up than an
/// unknown address (enumeration).
struct Found {
    user: UserId,
    password: Option<PasswordHash>,
    email_verified: bool,
}

impl Found {
    fn of(user: User) -> Found {
        Found { user: user.id, password: user.password, email_verified: user.email_verified }
    }
}

/// A password that was right.
struct CheckedPassword {
    /// The hash that it was checked against.
    against: Option<PasswordHash>,
    /// The same password, hashed as it would be today, where that is not how it was.
    rehashed: Option<PasswordHash>,
}

impl Factor for CheckedPassword {
    fn still_holds(&self, user: &User) -> bool {
        // Another request may have renewed the hash in the same way.
        user.password == self.against || (self.rehashed.is_some() && user.password == self.rehashed)
    }

    fn record(&self, user: &mut User) {
        if let Some(hash) = &self.rehashed {
            user.password = Some(hash.clone());
        }
    }
}

impl Accounts {
    /// Signs in with an address and a password.
    ///
    /// # Errors
    /// [`AccountError`]: [`AccountError::InvalidCredentials`] for everything that must look the same, and
    /// [`AccountError::Disabled`] or [`AccountError::Locked`] once the password was right.
    pub async fn password_login(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
    ) -> Result<SignIn, AccountError> {
        let (user, factor) = self.check_login(client, email, password).await?;
        self.sign_in(client, user, &factor).await
    }

    /// [`Accounts::password_login`] for a browser: the session travels in a cookie that is good at `place`. With
    /// `remember` its owner is kept signed in, where the operator offers that. `over` is the session cookie that the
    /// browser has there; its session ends, whosever it is.
    ///
    /// # Errors
    /// As [`Accounts::password_login`].
    pub async fn browser_login(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
        remember: bool,
        place: &CookiePlace,
        over: Option<&str>,
    ) -> Result<BrowserSignIn, AccountError> {
        let (user, factor) = self.check_login(client, email, password).await?;
        let wish = CookieWish { place, remember, over };
        self.sign_in_with_cookie(client, user, &factor, wish).await
    }

    /// Checks the password, within the limits.
    async fn check_login(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
    ) -> Result<(UserId, CheckedPassword), AccountError> {
        let email: EmailAddress = email.parse()?;
        let look_up = async {
            let found = self.store.user_by_email(&email).await?;
            let requester = self.requester(client, &email, found.as_ref());
            // For the audit log; hashed for each address, as that takes time.
            Ok::<_, StoreError>((found.map(Found::of), requester, self.unknown_address(&email)))
        };
        let (looked_up, ()) = tokio::join!(look_up, tokio::time::sleep(LOOK_UP));
        let (found, requester, unknown) = looked_up?;
        // The limits forget with the process, and what is kept with the account does not. Told before the attempt, for
        // which every address has been looked up: a refusal takes as long where there is no account.
        if requester.known {
            self.limiter.recall(Limited::Login, client.address, email.as_str());
        }
        self.limiter.attempt(Limited::Login, client.address, Some(email.as_str()))?;
        let stored = found.as_ref().and_then(|found| found.password.as_ref());
        let checked = match self.passwords.check(password.clone(), stored, requester).await {
            Ok(checked) => checked,
            // Nothing was guessed.
            Err(busy) => {
                self.limiter.not_tried(Limited::Login, client.address, email.as_str());
                return Err(busy.into());
            }
        };
        let denied = async |about: About| {
            self.limiter.failed(Limited::Login, client.address, email.as_str());
            self.note(&Source::Client(client), Action::Login, Outcome::Denied, about);
            // After the event, so that writing it does not compete with the answer.
            jitter(&*self.entropy).await;
            Err(AccountError::InvalidCredentials)
        };
        let found = match found {
            Some(found) if checked.matches && found.email_verified => found,
            // An address that is not verified looks like a wrong password: otherwise, a password of one's own choice,
            // sent with a registration, would tell whether the address had an account before.
            Some(found) => {
                let reason = if checked.matches { "email_not_verified" } else { "wrong_password" };
                return denied(About::user(found.user).because(reason)).await;
            }
            None => return denied(unknown).await,
        };
        self.limiter.succeeded(Limited::Login, client.address, email.as_str());
        // A hash that is out of date is renewed while the password is at hand. When the threads that hash are busy, the
        // next sign-in does it.
        let owner = Requester { known: true, ..requester };
        let rehashed =
            if checked.needs_rehash { self.passwords.hash(password, owner).await.ok() } else { None };
        Ok((found.user, CheckedPassword { against: found.password, rehashed }))
    }
}

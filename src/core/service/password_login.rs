//! Signing in with a password.
//!
//! No enumeration of accounts: an unknown name and a wrong password take the same work and get the same answer. What
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
use crate::domain::sign_in_name::SignInName;
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
/// unknown name (enumeration).
struct Found {
    user: UserId,
    password: Option<PasswordHash>,
    awaits_verification: bool,
    /// Whether it can be signed in to by two names.
    has_two_names: bool,
}

impl Found {
    fn of(user: User) -> Found {
        Found {
            user: user.id,
            awaits_verification: user.awaits_verification(),
            has_two_names: user.email.is_some() && user.username.is_some(),
            password: user.password,
        }
    }
}

/// What came of looking an account up.
struct LookedUp {
    found: Option<Found>,
    requester: Requester,
    /// The event, if there is no account.
    unknown: About,
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
    /// Signs in with a password. `name` is the account's address or its user name ([`SignInName`]).
    ///
    /// # Errors
    /// [`AccountError`]: [`AccountError::InvalidCredentials`] for everything that must look the same, and
    /// [`AccountError::Disabled`] or [`AccountError::Locked`] once the password was right.
    pub async fn password_login(
        &self,
        client: &Client,
        name: &str,
        password: SecretString,
    ) -> Result<SignIn, AccountError> {
        let (user, factor) = self.check_login(client, name, password).await?;
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
        name: &str,
        password: SecretString,
        remember: bool,
        place: &CookiePlace,
        over: Option<&str>,
    ) -> Result<BrowserSignIn, AccountError> {
        let (user, factor) = self.check_login(client, name, password).await?;
        let wish = CookieWish { place, remember, over };
        self.sign_in_with_cookie(client, user, &factor, wish).await
    }

    /// Looks an account up by its name, and for an unknown one prepares what the audit log says of it.
    async fn look_up(&self, client: &Client, name: &SignInName) -> Result<LookedUp, StoreError> {
        // For the audit log; hashed for each name, as that takes time.
        let (found, requester, unknown) = match name {
            SignInName::Address(email) => {
                let found = self.store.user_by_email(email).await?;
                let requester = self.requester(client, email, found.as_ref());
                (found, requester, self.unknown_address(email))
            }
            SignInName::Username(name) => {
                let found = self.store.user_by_username(name).await?;
                let requester = self.requester_by_name(client, name, found.as_ref());
                (found, requester, self.unknown_username(name))
            }
        };
        Ok(LookedUp { found: found.map(Found::of), requester, unknown })
    }

    /// Checks the password, within the limits.
    async fn check_login(
        &self,
        client: &Client,
        name: &str,
        password: SecretString,
    ) -> Result<(UserId, CheckedPassword), AccountError> {
        let name: SignInName = name.parse()?;
        let counted = &*name.counted_as();
        let (looked_up, ()) = tokio::join!(self.look_up(client, &name), tokio::time::sleep(LOOK_UP));
        let LookedUp { found, requester, unknown } = looked_up?;
        // The limits forget with the process, and what is kept with the account does not. Told before the attempt, for
        // which every name has been looked up: a refusal takes as long where there is no account.
        let shared = found.as_ref().filter(|found| found.has_two_names).map(|found| found.user.to_string());
        let counters = || std::iter::once(counted).chain(shared.as_deref());
        if requester.known {
            counters().for_each(|name| self.limiter.recall(Limited::Login, client.address, name));
        }
        self.limiter.attempt(Limited::Login, client.address, Some(counted))?;
        // Two names are not twice the guesses. It is not told, only counted as wrong: under this name the client has not to
        // wait, and must not learn that another name that it tried is the same account's.
        let may_be_right = shared.as_deref().is_none_or(|shared| {
            self.limiter.attempt_on_account(Limited::Login, client.address, shared).is_ok()
        });
        let guess =
            self.begin_guess(Limited::Login, client, (counted, shared.as_deref()), requester.known).await?;
        let is_early = !may_be_right || guess.is_too_early;
        let stored = found.as_ref().and_then(|found| found.password.as_ref());
        let checked = match self.passwords.check(password.clone(), stored, requester).await {
            Ok(checked) => checked,
            // Nothing was guessed.
            Err(busy) => {
                counters()
                    .take(1 + usize::from(may_be_right))
                    .for_each(|name| self.limiter.not_tried(Limited::Login, client.address, name));
                self.take_guess_back(&guess).await;
                return Err(busy.into());
            }
        };
        let denied = async |about: About| {
            counters()
                .take(1 + usize::from(may_be_right))
                .for_each(|name| self.limiter.failed(Limited::Login, client.address, name));
            self.guess_failed(&guess).await;
            self.note(&Source::Client(client), Action::Login, Outcome::Denied, about);
            // After the event, so that writing it does not compete with the answer.
            jitter(&*self.entropy).await;
            Err(AccountError::InvalidCredentials)
        };
        let found = match found {
            Some(found) if checked.matches && !is_early && !found.awaits_verification => found,
            // An address that is not verified looks like a wrong password: otherwise, a password of one's own choice,
            // sent with a registration, would tell whether the address had an account before.
            Some(found) => {
                let reason = match (is_early, checked.matches) {
                    (true, _) => "too_many_attempts",
                    (false, true) => "email_not_verified",
                    (false, false) => "wrong_password",
                };
                return denied(About::user(found.user).because(reason)).await;
            }
            None => return denied(unknown).await,
        };
        counters().for_each(|name| self.limiter.succeeded(Limited::Login, client.address, name));
        self.limiter.give_back(Limited::Login, client.address);
        self.guess_succeeded(&guess).await;
        // A hash that is out of date is renewed while the password is at hand. When the threads that hash are busy, the
        // next sign-in does it.
        let owner = Requester { known: true, ..requester };
        let rehashed =
            if checked.needs_rehash { self.passwords.hash(password, owner).await.ok() } else { None };
        Ok((found.user, CheckedPassword { against: found.password, rehashed }))
    }
}

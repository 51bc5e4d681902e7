//! Getting in by a mailed link: what a page does at once that an API client does in two steps, which is to use the link
//! and to sign in.
//!
//! A sign-in takes more than the link: the account's password has to be shown with it, which is proof enough to begin a
//! session ([`super::verify_registration`]).

use secrecy::SecretString;

use super::accounts::{AccountError, Accounts};
use super::browser::{CookieWish, IssuedCookie};
use super::caller::{Client, Person};
use super::opened_link::OpenedLink;
use super::sign_in::{BrowserSignIn, Factor};
use super::verify_registration::Proof;
use crate::domain::account::{PasswordHash, User};
use crate::domain::browser::CookiePlace;
use crate::domain::link::Purpose;

/// The session cookie of a browser that uses a link.
#[derive(Debug, Clone, Copy)]
pub struct EntryCookie<'a> {
    /// Where a new one is good.
    pub place: &'a CookiePlace,
    /// The one that the browser has: a sign-in ends its session.
    pub over: Option<&'a str>,
    /// Its user, when it is good.
    pub person: Option<Person>,
}

/// What became of the browser when its link was used up.
#[derive(Debug)]
pub enum Entered {
    /// It has a new session.
    SignedIn(BrowserSignIn),
    /// Its session goes on with this cookie: the address of its account has changed.
    Renewed(Person, IssuedCookie),
    /// It has no session of the account: its user signs in.
    SignInNeeded,
}

/// The password that was shown with a link.
struct ShownPassword(PasswordHash);

impl Factor for ShownPassword {
    fn still_holds(&self, user: &User) -> bool {
        user.password.as_ref() == Some(&self.0)
    }

    fn record(&self, _: &mut User) {}
}

impl Accounts {
    /// Uses the link up ([`Accounts::verify_opened`], with a proof in any case) and signs in.
    ///
    /// # Errors
    /// As [`Accounts::verify_by`]. Once the link is used up there is none: a sign-in that cannot be is
    /// [`Entered::SignInNeeded`].
    pub async fn verify_and_enter(
        &self,
        client: &Client,
        opened: &OpenedLink,
        proof: Proof,
        cookie: EntryCookie<'_>,
    ) -> Result<Entered, AccountError> {
        let proof = Proof { wanted: true, ..proof };
        let user = self.verify_opened(client, opened, proof).await?;
        Ok(match opened.purpose {
            Purpose::ChangeEmail => self.go_on(client, &user, cookie).await,
            _ => self.enter(client, user, cookie).await,
        })
    }

    /// Sets the new password ([`Accounts::reset_opened`]), which ends every session, and signs in with it.
    ///
    /// # Errors
    /// As [`Accounts::confirm_reset`]. Once the password is set there is none: a sign-in that cannot be is
    /// [`Entered::SignInNeeded`].
    pub async fn reset_and_enter(
        &self,
        client: &Client,
        opened: &OpenedLink,
        password: SecretString,
        cookie: EntryCookie<'_>,
    ) -> Result<Entered, AccountError> {
        let user = self.reset_opened(client, opened, password).await?;
        Ok(self.enter(client, user, cookie).await)
    }

    /// Signs in to an account whose password was shown.
    async fn enter(&self, client: &Client, user: User, cookie: EntryCookie<'_>) -> Entered {
        let Some(hash) = user.password else { return Entered::SignInNeeded };
        let wish = CookieWish { place: cookie.place, remember: false, over: cookie.over };
        match self.sign_in_with_cookie(client, user.id, &ShownPassword(hash), wish).await {
            Ok(signed_in) => Entered::SignedIn(signed_in),
            Err(AccountError::Store(error)) => {
                tracing::error!(%error, "the store refused a sign-in after a mailed link");
                Entered::SignInNeeded
            }
            // Disabled, locked, or changed meanwhile: the sign-in page says which.
            Err(_) => Entered::SignInNeeded,
        }
    }

    /// The session in which an address was changed goes on, with a new value of its cookie.
    async fn go_on(&self, client: &Client, user: &User, cookie: EntryCookie<'_>) -> Entered {
        let mine = cookie.person.filter(|person| person.user == user.id);
        let Some(session) = mine.and_then(|person| person.session) else { return Entered::SignInNeeded };
        match self.renew_cookie(client, user.id, session, cookie.place).await {
            Ok(Some((session, renewed))) => {
                Entered::Renewed(Person { user: user.id, session: Some(session) }, renewed)
            }
            Ok(None) | Err(_) => Entered::SignInNeeded,
        }
    }

    /// The id of a new registration form ([`super::register::SentForm::id`]).
    #[must_use]
    pub fn form_id(&self) -> String {
        self.entropy.uuid().to_string()
    }
}

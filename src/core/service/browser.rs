//! Sessions that travel in cookies: what a cookie is worth, a cookie for another host, renewal, sign-out, and access
//! tokens for a session. They begin in [`super::password_login`], as every session does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::accounts::{AccountError, Accounts};
use super::caller::{Client, Person, Source};
use super::retry::Decision;
use super::sign_in::may_sign_in;
use crate::domain::account::{User, UserId};
use crate::domain::browser::CookiePlace;
use crate::domain::revocation::Versions;
use crate::domain::session::{BrowserSession, Session, SessionId};
use crate::domain::session_cookie::{CookieSeed, PresentedCookie};
use crate::domain::trusted_time::NEAR;
use crate::ports::{AccessGrant, Change, CookieFault, CookieSession, Limited, StoreError, Verified};

/// The longest life of [`Accounts::host_token`]. Script on the host gets another one at any time.
const HOST_TOKEN_LIFE: Duration = Duration::from_secs(300);

/// A session cookie to be set.
#[derive(Clone)]
pub struct IssuedCookie {
    pub value: SecretString,
    /// `None`: until the browser is closed. Otherwise until the absolute end of the session, for people who asked to be
    /// kept signed in; the idle end is ours to keep.
    pub max_age: Option<Duration>,
}

impl std::fmt::Debug for IssuedCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedCookie").field("max_age", &self.max_age).finish_non_exhaustive()
    }
}

/// What a sign-in brings whose session travels in a cookie.
#[derive(Debug, Clone)]
pub struct SignedIn {
    pub user: User,
    pub session: SessionId,
    pub cookie: IssuedCookie,
}

/// An access token of a session, without a refresh token.
pub struct SessionToken {
    pub access_token: String,
    /// How long it lives.
    pub expires_in: Duration,
}

/// How the cookie of a new session shall be.
#[derive(Debug, Clone, Copy)]
pub(super) struct CookieWish<'a> {
    pub(super) place: &'a CookiePlace,
    pub(super) remember: bool,
    /// The cookie that the browser has: its session ends.
    pub(super) over: Option<&'a str>,
}

/// A session that lives, as it is read for its owner.
struct Living {
    versions: Versions,
    session: Session,
    user: User,
}

impl Accounts {
    /// The session of a cookie that was presented at `place`, with the identity that a fresh access token of it would
    /// have. Reads the store, and notes no use ([`Accounts::used`]). A verdict that is kept must be read again after some
    /// minutes, and when a revocation reaches its identity: a raised token version alone does not end the session.
    ///
    /// # Errors
    /// [`CookieFault`]. One that is [`CookieFault::Forged`] cost no read.
    pub async fn cookie_session(
        &self,
        cookie: &str,
        place: &CookiePlace,
        client: IpAddr,
    ) -> Result<CookieSession, CookieFault> {
        let cookie = self.key.read_cookie(cookie, place).ok_or(CookieFault::Forged)?;
        let name = cookie.name();
        self.limiter.waits(Limited::SessionCookie, client, &name)?;
        let Some(Living { versions, session, user }) = self.behind(&cookie, place).await? else {
            // Counted once more for the next one; this read is done.
            let _ = self.limiter.attempt(Limited::SessionCookie, client, Some(&name));
            return Err(CookieFault::Over);
        };
        let (now, lives) = (self.now(), self.settings.lifetimes);
        let idle_at = session.ends_at(lives);
        let ttl = self.settings.access_ttl.min(now.until(idle_at));
        let grant = self.access_grant(versions, &user, &session);
        // Of claims that were set before their size and form were bounded.
        let identity = self.signer.identity(&grant, ttl, now).map_err(|error| {
            tracing::warn!(%error, session = %session.id, "no identity can be made of a session");
            CookieFault::Over
        })?;
        let verified = Arc::new(Verified::new(identity));
        Ok(CookieSession { verified, idle_at, ends_at: session.last_end(lives) })
    }

    /// Whether we made this session cookie for `place`. Whether its session lives is not asked, and nothing is read.
    #[must_use]
    pub fn is_session_cookie(&self, cookie: &str, place: &CookiePlace) -> bool {
        self.key.read_cookie(cookie, place).is_some()
    }

    /// The session whose cookie `cookie` is, with its last use, when it lives.
    async fn behind(
        &self,
        cookie: &PresentedCookie,
        place: &CookiePlace,
    ) -> Result<Option<Living>, StoreError> {
        let living = self.living(cookie.user, cookie.session).await?;
        Ok(living.filter(|living| self.is_value_of(cookie, &living.session, place)))
    }

    fn is_value_of(&self, cookie: &PresentedCookie, session: &Session, place: &CookiePlace) -> bool {
        session.browser.as_ref().is_some_and(|browser| self.key.is_cookie_of(cookie, &browser.seed, place))
    }

    /// The session, when neither its time, nor a revocation, nor its account has ended it.
    async fn living(&self, user: UserId, id: SessionId) -> Result<Option<Living>, StoreError> {
        let versions = self.store.versions(self.signer.issuer(), &user.to_string()).await?;
        let Some(session) = self.store.session(user, id).await? else { return Ok(None) };
        let session = self.uses.apply(session, self.settings.lifetimes);
        // A clock was ahead when it was begun: it would live for too long.
        let is_ahead = session.created_at > self.clock.reading().horizon.plus(NEAR);
        if is_ahead || self.is_over(&session).await? {
            return Ok(None);
        }
        let user = self.store.user(user).await?.filter(|user| may_sign_in(user, self.now()).is_ok());
        Ok(user.map(|user| Living { versions, session, user }))
    }

    /// The cookie of a session for `place`: another host that it is carried to.
    ///
    /// # Errors
    /// [`CookieFault::Over`], also for a session that does not travel in cookies, or [`CookieFault::Store`].
    pub async fn cookie_at(
        &self,
        user: UserId,
        session: SessionId,
        place: &CookiePlace,
    ) -> Result<IssuedCookie, CookieFault> {
        let living = self.living(user, session).await?.ok_or(CookieFault::Over)?;
        self.issued(&living.session, place).ok_or(CookieFault::Over)
    }

    /// The cookie of `session` at `place`; `None` for a session that travels in refresh tokens.
    pub(super) fn issued(&self, session: &Session, place: &CookiePlace) -> Option<IssuedCookie> {
        let browser = session.browser.as_ref()?;
        let value = self.key.write_cookie(session.user, session.id, &browser.seed, place);
        let is_kept = browser.remember && self.settings.lifetimes.browser.remember.is_some();
        let max_age = is_kept.then(|| self.now().until(session.last_end(self.settings.lifetimes)));
        Some(IssuedCookie { value, max_age })
    }

    /// What a new session needs to travel in cookies.
    pub(super) fn browser_session(&self, remember: bool) -> BrowserSession {
        let remember = remember && self.settings.lifetimes.browser.remember.is_some();
        BrowserSession { seed: CookieSeed(*self.random()), remember }
    }

    /// Whether people may ask to be kept signed in.
    #[must_use]
    pub fn offers_remember(&self) -> bool {
        self.settings.lifetimes.browser.remember.is_some()
    }

    /// What ends the session of a cookie that a sign-in goes over, whosever it is; with its id. Nothing for a cookie that
    /// is not good: the sign-in does not depend on it.
    pub(super) async fn ending_over(
        &self,
        wish: &CookieWish<'_>,
    ) -> Result<(Option<SessionId>, Vec<Change>), StoreError> {
        let Some(cookie) = wish.over.and_then(|text| self.key.read_cookie(text, wish.place)) else {
            return Ok((None, Vec::new()));
        };
        let found = self.store.session(cookie.user, cookie.session).await?;
        Ok(match found.filter(|session| self.is_value_of(&cookie, session, wish.place)) {
            Some(session) => (Some(session.id), self.ending(&session, "signed in anew").into()),
            None => (None, Vec::new()),
        })
    }

    /// Signs out: ends a session, with its access tokens and its cookies on every host. Nothing to do when it has ended
    /// already.
    ///
    /// # Errors
    /// [`AccountError::Store`].
    pub async fn end_browser_session(
        &self,
        client: &Client,
        user: UserId,
        session: SessionId,
    ) -> Result<(), AccountError> {
        self.logout(client, Some(Person { user, session: Some(session) }), None).await
    }

    /// Renews a session after a step-up or a change of what its account is (a new address): it goes on under a new id, its
    /// cookies are void on every host, and its access tokens are revoked. Returns its id and the new cookie for `place`; `None` for
    /// a session that does not travel in cookies or is over.
    ///
    /// # Errors
    /// [`AccountError::Conflict`] or [`AccountError::Store`].
    pub async fn renew_cookie(
        &self,
        client: &Client,
        user: UserId,
        session: SessionId,
        place: &CookiePlace,
    ) -> Result<Option<(SessionId, IssuedCookie)>, AccountError> {
        let source = &Source::Client(client);
        let decide = || async {
            let versions = self.version(user).await?;
            let Some(former) = self.living(user, session).await?.map(|living| living.session) else {
                return Ok(Decision::Unchanged(None));
            };
            let Some(browser) = &former.browser else { return Ok(Decision::Unchanged(None)) };
            // As for a changed password: revoked meanwhile, it must not go on under another id.
            let browser = self.browser_session(browser.remember);
            let (renewed, _) = self.renewed(&former, versions, Some(browser));
            // Conflicts when it has ended or was renewed meanwhile.
            let mut changes = vec![Change::UpdateSession(former.clone())];
            changes.extend(self.ending(&former, "renewed"));
            changes.push(Change::CreateSession(renewed.clone()));
            Ok(Decision::Commit(changes, Some(renewed)))
        };
        let renewed = self.retry_on_conflict(source, decide).await?;
        Ok(renewed.and_then(|session| Some((session.id, self.issued(&session, place)?))))
    }

    /// A short access token of a session, for script in a page that is signed in by a cookie.
    ///
    /// # Errors
    /// [`AccountError::NoAccount`] when the session is over; [`AccountError::Store`] or [`AccountError::Sign`].
    pub async fn session_token(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<SessionToken, AccountError> {
        self.token_for(user, session, None).await
    }

    /// The same for script on another host than that of `public_url`: good for the routes of `host`
    /// ([`crate::domain::request::Host::name`]) alone, and at no native endpoint.
    ///
    /// # Errors
    /// As [`Accounts::session_token`].
    pub async fn host_token(
        &self,
        user: UserId,
        session: SessionId,
        host: &str,
    ) -> Result<SessionToken, AccountError> {
        self.token_for(user, session, Some(host)).await
    }

    async fn token_for(
        &self,
        user: UserId,
        session: SessionId,
        host: Option<&str>,
    ) -> Result<SessionToken, AccountError> {
        let living = self.living(user, session).await?.ok_or(AccountError::NoAccount)?;
        let Living { versions, session, user } = living;
        let left = self.now().until(session.ends_at(self.settings.lifetimes));
        let longest = if host.is_some() { HOST_TOKEN_LIFE } else { self.settings.access_ttl };
        let expires_in = self.settings.access_ttl.min(left).min(longest);
        let grant = self.access_grant(versions, &user, &session);
        let grant = AccessGrant { host: host.map(str::to_owned), ..grant };
        let access_token = self.signer.access_token(&grant, expires_in, self.now())?.token;
        self.refuse_unusable(&access_token)?;
        Ok(SessionToken { access_token, expires_in })
    }
}

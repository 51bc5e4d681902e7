//! What every kind of sign-in shares, once a first factor was right: whether the account may be signed in to, room
//! among its sessions, the session itself, the device and the letter about a new one, tokens, and the audit log.
//!
//! A kind of sign-in (a password today, see [`super::password_login`]) checks its factor, limits the attempts at it, and
//! hands the account over with a [`Factor`]. It decides nothing else.

use std::time::Duration;

use secrecy::SecretString;

use super::accounts::{AccountError, Accounts};
use super::browser::{CookieWish, SignedIn};
use super::caller::{Client, Source};
use super::noted::About;
use super::notices::NEW_DEVICE;
use super::retry::Decision;
use crate::domain::account::{MAX_DEVICES, User, UserId};
use crate::domain::audit::{Action, Outcome};
use crate::domain::block::AddressBlock;
use crate::domain::mail::Letter;
use crate::domain::opaque::RefreshToken;
use crate::domain::revocation::Versions;
use crate::domain::session::{Device, Session, SessionId, SuccessorUse};
use crate::domain::time::UnixTime;
use crate::ports::{AccessGrant, Change, SignError};

/// What a sign-in comes to. Every kind of sign-in ends in this, and every caller answers for both.
///
/// `T` is what the caller gets of the session: the tokens of one that travels in them, or a cookie
/// ([`BrowserSignIn`]).
#[derive(Debug)]
pub enum SignIn<T = Granted> {
    /// A session was begun.
    Done(Box<T>),
    /// The first factor was right, and something more is asked for. No session was begun.
    Challenge(Challenge),
}

/// [`SignIn`] of a session that travels in a cookie.
pub type BrowserSignIn = SignIn<SignedIn>;

/// What is asked for beside a first factor: a variant for each kind.
///
/// There is no kind yet, and so no value of this type: the compiler knows that every sign-in ends in
/// [`SignIn::Done`], and a caller shows it with `match challenge {}`. The first variant makes each of these matches
/// an error until the caller answers for it. A placeholder variant would have no reviewed answer.
#[derive(Debug)]
pub enum Challenge {}

/// What a sign-in and a refresh bring.
#[derive(Clone)]
pub struct Granted {
    pub access_token: String,
    pub refresh_token: SecretString,
    /// How long the access token lives.
    pub expires_in: Duration,
    pub session: SessionId,
    pub user: User,
}

impl std::fmt::Debug for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Granted")
            .field("session", &self.session)
            .field("user", &self.user.id)
            .finish_non_exhaustive()
    }
}

/// A factor that was found right for an account. It is held against the account once more when the session is
/// committed, because the account may have changed since the check.
pub(super) trait Factor: Sync {
    /// Whether it is still right for the account as it is now.
    fn still_holds(&self, user: &User) -> bool;

    /// Writes what the check brought into the account, such as a renewed hash.
    fn record(&self, user: &mut User);
}

/// A session that was begun, with what its tokens are made of.
struct NewSession {
    version: Versions,
    user: User,
    session: Session,
    token: RefreshToken,
    letter: DeviceLetter,
}

/// What becomes of the letter that tells the owner of a new device.
#[derive(PartialEq)]
enum DeviceLetter {
    /// The device is known, or the account's first one.
    NotNeeded,
    Sent,
    /// There were too many on this day.
    HeldBack,
    /// The account has no address.
    NoAddress,
}

impl Accounts {
    /// Begins a session of the account, for which `factor` was found right. It travels in tokens.
    ///
    /// # Errors
    /// As [`Accounts::begin_session`]; or [`AccountError::Sign`].
    pub(super) async fn sign_in(
        &self,
        client: &Client,
        id: UserId,
        factor: &impl Factor,
    ) -> Result<SignIn, AccountError> {
        match self.begin_session(client, id, factor, None).await? {
            SignIn::Challenge(challenge) => Ok(SignIn::Challenge(challenge)),
            SignIn::Done(begun) => {
                let NewSession { version, user, session, token, .. } = *begun;
                let granted = self.grant(version, user, &session, self.key.write(&token))?;
                Ok(SignIn::Done(Box::new(granted)))
            }
        }
    }

    /// Begins a session of the account, for which `factor` was found right. It travels in a cookie.
    ///
    /// # Errors
    /// As [`Accounts::begin_session`].
    pub(super) async fn sign_in_with_cookie(
        &self,
        client: &Client,
        id: UserId,
        factor: &impl Factor,
        wish: CookieWish<'_>,
    ) -> Result<BrowserSignIn, AccountError> {
        match self.begin_session(client, id, factor, Some(wish)).await? {
            SignIn::Challenge(challenge) => Ok(SignIn::Challenge(challenge)),
            SignIn::Done(begun) => {
                let NewSession { user, session, .. } = *begun;
                // It was begun with a seed. Without one there is no cookie, and no sign-in.
                let cookie = self.issued(&session, wish.place).ok_or(AccountError::Conflict)?;
                Ok(SignIn::Done(Box::new(SignedIn { user, session: session.id, cookie })))
            }
        }
    }

    /// Begins a session of the account, for which `factor` was found right; with `wish`, one that travels in a cookie.
    ///
    /// # Errors
    /// [`AccountError::Disabled`] or [`AccountError::Locked`]; [`AccountError::InvalidCredentials`] for an account that
    /// must look as if there were none, and when the factor does not hold any more; [`AccountError::Conflict`],
    /// or [`AccountError::Store`].
    async fn begin_session(
        &self,
        client: &Client,
        id: UserId,
        factor: &impl Factor,
        wish: Option<CookieWish<'_>>,
    ) -> Result<SignIn<NewSession>, AccountError> {
        let source = &Source::Client(client);
        let block = AddressBlock::of(client.address);
        let device = &self.devices.device(client.user_agent.as_deref(), client.address);
        let decide = || async {
            let version = self.version(id).await?;
            let user = self.store.user(id).await?.filter(|user| factor.still_holds(user));
            let mut user = user.ok_or(AccountError::InvalidCredentials)?;
            if let Err(error) = may_sign_in(&user, self.now()) {
                let about = About::user(user.id).because(barred(&user, &error));
                self.note(source, Action::Login, Outcome::Denied, about);
                return Err(error);
            }
            let (session, token) = self.new_session(&user, device, version, wish.map(|wish| wish.remember));
            let (over, mut changes) = match &wish {
                Some(wish) => self.ending_over(wish).await?,
                None => (None, Vec::new()),
            };
            changes.extend(self.evict(&user, over).await?);
            let letter = match remember_device(&mut user, device) {
                false => DeviceLetter::NotNeeded,
                true if user.email.is_none() => DeviceLetter::NoAddress,
                true if user.admits_device_letter(self.now()) => DeviceLetter::Sent,
                true => DeviceLetter::HeldBack,
            };
            if letter == DeviceLetter::Sent {
                let facts = self.facts(client);
                changes.extend(self.mail_to_owner(Letter::NewDevice, &user, facts));
            }
            user.remember_block(self.key.block_mark(user.id, block));
            user.last_login_at = Some(self.now());
            user.email_changes.forget_over(self.now());
            factor.record(&mut user);
            changes.push(Change::UpdateUser(user.clone()));
            changes.push(Change::CreateSession(session.clone()));
            Ok(Decision::Commit(changes, NewSession { version, user, session, token, letter }))
        };
        let begun = self.retry_on_conflict(source, decide).await?;
        let about = About::session(begun.user.id, begun.session.id);
        let about = match begun.letter {
            DeviceLetter::NotNeeded => about,
            DeviceLetter::Sent => {
                self.outbox.notify_one();
                about
            }
            DeviceLetter::HeldBack => about.because("letter_held_back"),
            DeviceLetter::NoAddress => about.because("no_address"),
        };
        let about = match (&begun.letter, source) {
            (DeviceLetter::NotNeeded, _) => about,
            _ => about.with(NEW_DEVICE, self.devices.described(client.user_agent.as_deref())),
        };
        self.note(source, Action::Login, Outcome::Success, about);
        Ok(SignIn::Done(Box::new(begun)))
    }

    /// A session that begins now; `remember` is there for one that travels in a cookie. The refresh token of such a one
    /// is given to no client.
    fn new_session(
        &self,
        user: &User,
        device: &Device,
        begun: Versions,
        remember: Option<bool>,
    ) -> (Session, RefreshToken) {
        let now = self.now();
        let id = SessionId(self.entropy.uuid());
        let token = self.key.first(user.id, id, self.random());
        let lives = self.settings.lifetimes;
        let session = Session {
            id,
            user: user.id,
            created_at: now,
            last_used_at: now,
            expires_at: now,
            device: device.clone(),
            scopes: user.scopes.clone(),
            begun,
            generation: 0,
            current: token.hash(),
            rekeyed: 0,
            rotated_at: now,
            successor: SuccessorUse::Untracked,
            browser: remember.map(|remember| self.browser_session(remember)),
            revision: 0,
        };
        (session.extended(now, lives), token)
    }

    /// Makes room for one more session: removes those that are over, and ends the least recently used ones beyond the
    /// configured number. `ended` ends anyway.
    async fn evict(&self, user: &User, ended: Option<SessionId>) -> Result<Vec<Change>, AccountError> {
        let (over, mut live) = self.over_and_live(user.id).await?;
        live.retain(|session| Some(session.id) != ended);
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

    /// An access token of `session` with the claims of `user`, both read after `version`; it ends with the
    /// session at the latest.
    pub(super) fn grant(
        &self,
        version: Versions,
        user: User,
        session: &Session,
        refresh_token: SecretString,
    ) -> Result<Granted, AccountError> {
        let now = self.now();
        let left = now.until(session.ends_at(self.settings.lifetimes));
        let expires_in = self.settings.access_ttl.min(left);
        let grant = self.access_grant(version, &user, session);
        let access_token = self.signer.access_token(&grant, expires_in, now)?.token;
        self.refuse_unusable(&access_token)?;
        Ok(Granted { access_token, refresh_token, expires_in, session: session.id, user })
    }

    /// Refuses a token that no request could carry. The account is from before the size of tokens was bounded, or the bound
    /// was another.
    pub(super) fn refuse_unusable(&self, access_token: &str) -> Result<(), AccountError> {
        let (bytes, most) = (access_token.len(), self.settings.most_signed);
        if bytes > most { Err(SignError(super::fit::too_long(bytes, most)).into()) } else { Ok(()) }
    }

    /// What an access token of `session` says about `user`, both read after `version`.
    pub(super) fn access_grant(&self, version: Versions, user: &User, session: &Session) -> AccessGrant {
        let mut extra = user.claims.clone();
        if let Some(name) = &user.name {
            // OpenID Connect Core §5.1; an operator's own claim of that name goes first.
            extra.entry("name").or_insert_with(|| name.clone().into());
        }
        // Those of a session that is refreshed follow the account's with each refresh; a cookie is never refreshed.
        let scopes = if session.browser.is_some() { &user.scopes } else { &session.scopes };
        AccessGrant {
            subject: user.id.to_string(),
            email: user.email.as_ref().map(ToString::to_string),
            email_verified: user.email_verified,
            username: user.username.clone(),
            groups: user.groups.clone(),
            session: Some(session.id.to_string()),
            version: version.subject,
            generation: version.generation,
            scopes: scopes.clone(),
            host: None,
            rotation: session.told_rotation(),
            extra,
        }
    }
}

/// Remembers the device. Returns whether its owner should hear of it: it is not the account's first one, and was not
/// seen before.
fn remember_device(user: &mut User, device: &Device) -> bool {
    let is_first = user.devices.is_empty();
    let before = user.devices.len();
    user.devices.retain(|known| *known != device.fingerprint);
    let is_known = user.devices.len() < before;
    user.devices.push(device.fingerprint.clone());
    let excess = user.devices.len().saturating_sub(MAX_DEVICES);
    user.devices.drain(..excess);
    !is_first && !is_known
}

/// Whether an account may be signed in to, whatever the factor.
///
/// # Errors
/// [`AccountError::Disabled`], [`AccountError::Locked`], or [`AccountError::InvalidCredentials`] where the account must
/// look as if there were none.
pub(super) fn may_sign_in(user: &User, now: UnixTime) -> Result<(), AccountError> {
    if !user.active {
        return Err(AccountError::Disabled);
    }
    // As if there were no such account: an attempt does not tell which addresses are disputed.
    if user.email_changes.is_frozen() {
        return Err(AccountError::InvalidCredentials);
    }
    if let Some(until) = user.locked_until.filter(|until| now < *until) {
        return Err(AccountError::Locked(until));
    }
    if user.awaits_verification() { Err(AccountError::InvalidCredentials) } else { Ok(()) }
}

/// Why [`may_sign_in`] refused, as a stable word for the audit log.
pub(super) fn barred(user: &User, error: &AccountError) -> &'static str {
    match error {
        // The caller gets the same answer to both.
        AccountError::InvalidCredentials if user.email_changes.is_frozen() => "account_frozen",
        AccountError::InvalidCredentials => "email_not_verified",
        AccountError::Locked(_) => "locked",
        _ => "disabled",
    }
}

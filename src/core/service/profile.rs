//! What people see and change of their own account.

use secrecy::{ExposeSecret, SecretString};

use super::accounts::{AccountError, Accounts, name};
use super::browser::IssuedCookie;
use super::caller::{Client, Person, Source};
use super::noted::About;
use super::retry::Decision;
use super::sign_in::Granted;
use crate::domain::account::User;
use crate::domain::audit::{Action, Outcome};
use crate::domain::block::AddressBlock;
use crate::domain::browser::CookiePlace;
use crate::domain::email::EmailAddress;
use crate::domain::mail::{Facts, Letter};
use crate::domain::opaque::RefreshToken;
use crate::domain::password::Requirements;
use crate::domain::revocation::Versions;
use crate::domain::session::{BrowserSession, Session, SessionId, SuccessorUse};
use crate::domain::task::Work;
use crate::ports::{Change, Limited};

/// What is to be changed; `None` leaves it as it is.
#[derive(Debug, Default)]
pub struct Edit {
    /// An empty name takes it away.
    pub name: Option<String>,
    /// A new address, which must be confirmed by mail before it is the account's.
    pub email: Option<String>,
    /// Needed for a new address.
    pub current_password: Option<SecretString>,
}

/// The account after an edit.
#[derive(Debug, Clone, PartialEq)]
pub struct Edited {
    pub user: User,
    /// The address that a confirmation was mailed to.
    pub pending_email: Option<EmailAddress>,
}

/// A session that was renewed because the password of its account was changed.
struct Changed {
    /// As read before the change.
    version: Versions,
    user: User,
    session: Session,
    token: RefreshToken,
}

impl Accounts {
    /// What a password must be.
    #[must_use]
    pub fn password_requirements(&self) -> Requirements {
        self.passwords.policy().requirements(self.passwords.min_guesses())
    }

    /// The caller's account.
    ///
    /// # Errors
    /// [`AccountError::NoAccount`], [`AccountError::Disabled`] or [`AccountError::Store`].
    pub async fn profile(&self, person: Person) -> Result<User, AccountError> {
        self.account(person).await
    }

    /// Changes the caller's account. A new address is told to the old one, if there is one, and takes effect when the
    /// link in the mail to it is used.
    ///
    /// # Errors
    /// [`AccountError`]; then nothing was changed.
    pub async fn edit_profile(
        &self,
        client: &Client,
        person: Person,
        edit: Edit,
    ) -> Result<Edited, AccountError> {
        let new_name = edit.name.map(|given| name(Some(given))).transpose()?;
        let new_email: Option<EmailAddress> = edit.email.as_deref().map(str::parse).transpose()?;
        let user = self.account(person).await?;
        let new_email = new_email.filter(|email| !user.has_address(email));
        if new_email.is_some() {
            self.needs_mail()?;
            let Some(password) = edit.current_password else {
                let cure = "changing the e-mail address needs `current_password`";
                return Err(AccountError::Invalid(cure.to_owned()));
            };
            self.confirm_password(client, &user, password, Action::RequestEmailChange).await?;
            // It sends mail to an address that the caller names.
            let to = new_email.as_ref().map(EmailAddress::as_str);
            self.limiter.attempt(Limited::RequestMail, client.address, to)?;
        }
        if new_name.is_none() && new_email.is_none() {
            return Ok(Edited { user, pending_email: None });
        }
        let source = Source::Client(client);
        let decide = || async {
            let mut user = self.account(person).await?;
            let mut changes = Vec::new();
            if let Some(name) = &new_name {
                user.name.clone_from(name);
            }
            if let Some(email) = &new_email {
                // An earlier request for yet another address is void.
                user.void_links();
                changes.extend(self.wish(&user, email, client));
            }
            user.updated_at = self.now();
            changes.push(Change::UpdateUser(user.clone()));
            Ok(Decision::Commit(changes, user))
        };
        let user = self.retry_on_conflict(&source, decide).await?;
        if new_name.is_some() {
            self.note(&source, Action::ChangeProfile, Outcome::Success, About::user(user.id));
        }
        if let Some(email) = &new_email {
            self.outbox.notify_one();
            self.tasks.notify_one();
            let about = About::user(user.id).with_emails(user.email.as_ref(), Some(email));
            self.note(&source, Action::RequestEmailChange, Outcome::Success, about);
        }
        Ok(Edited { user, pending_email: new_email })
    }

    /// A notice of the wish to the present address, if there is one, and the rest for the worker: whether the new address has an
    /// account must show neither in the answer nor in its time.
    fn wish(&self, user: &User, email: &EmailAddress, client: &Client) -> Vec<Change> {
        let facts = Facts { new_email: Some(email.clone()), ..self.facts(client) };
        let told = self.mail_to_owner(Letter::EmailChanged, user, facts);
        let work =
            Work::ChangeEmail { user: user.id, email: email.clone(), generation: user.link_generation };
        told.into_iter().chain([self.at_once(work)]).collect()
    }

    /// Changes the password, ends every other session and every access token, those that an operator minted among them,
    /// and renews the caller's session: it goes on under a new id with new tokens, and who holds a copy of the old ones
    /// has nothing. Returns the new tokens; `None` when the caller's token is of no session. A session that travelled in
    /// a cookie travels in tokens from then on, and its cookies are void on every host.
    ///
    /// # Errors
    /// [`AccountError::WrongPassword`] when `current` is wrong, [`AccountError::PasswordRejected`], or
    /// another [`AccountError`]; then nothing was changed.
    pub async fn change_password(
        &self,
        client: &Client,
        person: Person,
        current: SecretString,
        new: SecretString,
    ) -> Result<Option<Granted>, AccountError> {
        let Some(changed) = self.replace_password(client, person, current, new, false).await? else {
            return Ok(None);
        };
        // Counted from what was read: had another commit raised it meanwhile, this token is dead from the start, and
        // the refresh token brings the next one, unless that commit has cut the session as well.
        let version = Versions { subject: changed.version.subject + 1, ..changed.version };
        let refresh = self.key.write(&changed.token);
        self.grant(version, changed.user, &changed.session, refresh).map(Some)
    }

    /// [`Accounts::change_password`] of a caller whose session travels in a cookie: it goes on in a new one, for `place`,
    /// and the former ones are void on every host. Returns its id and the cookie; `None` when the session does not go on.
    ///
    /// # Errors
    /// As [`Accounts::change_password`].
    pub async fn change_password_in_browser(
        &self,
        client: &Client,
        person: Person,
        current: SecretString,
        new: SecretString,
        place: &CookiePlace,
    ) -> Result<Option<(SessionId, IssuedCookie)>, AccountError> {
        let changed = self.replace_password(client, person, current, new, true).await?;
        Ok(changed.and_then(|Changed { session, .. }| Some((session.id, self.issued(&session, place)?))))
    }

    /// Changes the password; returns the caller's session, renewed. `in_cookie`: one that travels in a cookie goes on
    /// doing so.
    async fn replace_password(
        &self,
        client: &Client,
        person: Person,
        current: SecretString,
        new: SecretString,
        in_cookie: bool,
    ) -> Result<Option<Changed>, AccountError> {
        let user = self.account(person).await?;
        self.acceptable(new.expose_secret(), user.password_owner())?;
        self.confirm_password(client, &user, current, Action::ChangePassword).await?;
        let owner = self.owner(client, &user);
        self.not_guessed(&new, user.password_owner(), owner).await?;
        let confirmed = user.password;
        let hash = self.passwords.hash(new, owner).await?;
        let source = Source::Client(client);
        let decide = || async {
            let version = self.version(person.user).await?;
            let mut user = self.account(person).await?;
            if user.password != confirmed {
                return Err(AccountError::WrongPassword);
            }
            user.password = Some(hash.clone());
            user.void_links();
            user.updated_at = self.now();
            let (mut changes, mut renewed) = (Vec::new(), None);
            for session in self.store.sessions(user.id).await? {
                changes.extend(self.ending(&session, "password changed"));
                // Asked behind `version`: revoked before that, it must not go on; revoked later, the new one is, too,
                // since it was begun at the version before the raise below. A raise itself ends no session.
                if Some(session.id) == person.session && !self.is_over(&session).await? {
                    let kept = session.browser.as_ref().filter(|_| in_cookie);
                    let browser = kept.map(|browser| self.browser_session(browser.remember));
                    let (session, token) = self.renewed(&session, version, browser);
                    changes.push(Change::CreateSession(session.clone()));
                    renewed = Some((session, token));
                }
            }
            changes.push(self.raising(user.id, "password changed"));
            let facts = self.facts_of_password(client, user.id).await?;
            changes.extend(self.mail_to_owner(Letter::PasswordChanged, &user, facts));
            changes.push(Change::UpdateUser(user.clone()));
            Ok(Decision::Commit(changes, (version, user, renewed)))
        };
        let (version, user, renewed) = self.retry_on_conflict(&source, decide).await?;
        self.outbox.notify_one();
        let session = renewed.as_ref().map(|(session, _)| session.id);
        let about = About { user: Some(user.id), session, ..About::default() };
        self.note(&source, Action::ChangePassword, Outcome::Success, about);
        Ok(renewed.map(|(session, token)| Changed { version, user, session, token }))
    }

    /// The same sign-in as a session of its own, which was begun at `begun`: its id and its tokens are new, its age is
    /// not. With `browser` it travels in a cookie.
    pub(super) fn renewed(
        &self,
        session: &Session,
        begun: Versions,
        browser: Option<BrowserSession>,
    ) -> (Session, RefreshToken) {
        let (now, lives) = (self.now(), self.settings.lifetimes);
        let id = SessionId(self.entropy.uuid());
        let token = self.key.first(session.user, id, self.random());
        let renewed = Session {
            id,
            begun,
            browser,
            generation: 0,
            current: token.hash(),
            rekeyed: 0,
            rotated_at: now,
            successor: SuccessorUse::Untracked,
            revision: 0,
            ..session.clone()
        };
        (renewed.extended(now, lives), token)
    }

    /// Checks `password` against the account's: an attacker who has taken over a session must not get the account.
    pub(super) async fn confirm_password(
        &self,
        client: &Client,
        user: &User,
        password: SecretString,
        action: Action,
    ) -> Result<(), AccountError> {
        if self.is_password(client, user, password).await? {
            return Ok(());
        }
        let about = About::user(user.id).because("wrong_password");
        self.note(&Source::Client(client), action, Outcome::Denied, about);
        Err(AccountError::WrongPassword)
    }

    /// Whether `password` is the account's, within the limits for giving it once more.
    ///
    /// # Errors
    /// [`AccountError::TooMany`], or [`AccountError::Busy`], which counts as no attempt.
    pub(super) async fn is_password(
        &self,
        client: &Client,
        user: &User,
        password: SecretString,
    ) -> Result<bool, AccountError> {
        let account = user.id.to_string();
        self.limiter.attempt(Limited::ConfirmPassword, client.address, Some(&account))?;
        let is_known = self.key.is_known_block(user, AddressBlock::of(client.address));
        let guess = self.begin_guess(Limited::ConfirmPassword, client, (&account, None), is_known).await?;
        let owner = self.owner(client, user);
        match self.passwords.check(password, user.password.as_ref(), owner).await {
            Ok(checked) if checked.matches => {
                self.limiter.succeeded(Limited::ConfirmPassword, client.address, &account);
                self.guess_succeeded(&guess).await;
                Ok(true)
            }
            Ok(_) => {
                self.limiter.failed(Limited::ConfirmPassword, client.address, &account);
                self.guess_failed(&guess).await;
                Ok(false)
            }
            Err(busy) => {
                self.limiter.not_tried(Limited::ConfirmPassword, client.address, &account);
                self.take_guess_back(&guess).await;
                Err(busy.into())
            }
        }
    }
}

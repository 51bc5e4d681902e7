//! What the use cases about accounts share: the ports they work with, how they fail, and how sessions are ended. The use
//! cases themselves are methods of [`Accounts`], one file each.
//!
//! Every decision is made from what was read, and committed on the condition that it has not changed
//! ([`Accounts::retry_on_conflict`]).

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::account_notices::Allowance;
use super::caller::{Client, Person, Source};
use super::leases::Leases;
use super::noted::About;
use super::retry::{Decision, retry_on_conflict};
use super::session_uses::SessionUses;
use super::successor_uses::SuccessorUses;
use super::used_links::UsedLinks;
use crate::domain::account::{Registration, User, UserId, Verification};
use crate::domain::audit::{Action, Outcome};
use crate::domain::binding::{Forms, VerifiedLately};
use crate::domain::block::AddressBlock;
use crate::domain::connection::Connection;
use crate::domain::email::{EmailAddress, InvalidEmail};
use crate::domain::groups::InvalidGroups;
use crate::domain::guesses::Guesses;
use crate::domain::lease::LeaseHolder;
use crate::domain::mail::{Connected, Facts, Letter, Mail, MailedLink};
use crate::domain::mail_cap::Caps;
use crate::domain::name::{NAME_WANTED, is_name};
use crate::domain::opaque::ServerKey;
use crate::domain::password::{PasswordPolicy, Violation};
use crate::domain::revocation::{Begun, Revocation, Target, Versions};
use crate::domain::session::{Fingerprint, Lifetimes, Session, SessionId};
use crate::domain::sign_in_name::InvalidSignInName;
use crate::domain::time::UnixTime;
use crate::domain::trusted_time::ClockReading;
use crate::domain::username::{InvalidUsername, Username};
use crate::ports::{
    Audit, Busy, Change, Clock, CommitError, Devices, Entropy, Limiter, Passwords, Requester, SignError,
    Signer, Store, StoreError, TooMany,
};

/// What an operator can set.
#[derive(Debug, Clone, Copy)]
pub struct AccountSettings {
    /// The life of an access token.
    pub access_ttl: Duration,
    /// The longest access token that is worth signing, in bytes ([`super::fit::longest_token`]).
    pub longest_token: usize,
    /// The longest access token that is signed at all, in bytes ([`super::fit::most_signed`]).
    pub most_signed: usize,
    /// The life of a session.
    pub lifetimes: Lifetimes,
    /// For how long the direct parent of a refresh token may bring it while it was not used; at least
    /// [`crate::domain::session::REPEAT_WINDOW`].
    pub refresh_repeat: Duration,
    /// Sessions of one account at once; those end that were not used for longest.
    pub max_sessions: usize,
    pub fingerprint: Fingerprint,
    pub verification: Verification,
    /// Who may make an account.
    pub registration: Registration,
    /// Whether the app is told of accounts (`[accounts] webhook`).
    pub tells_app: bool,
    /// Whether there is a transport for mail. Without one, links are handed to the operator.
    pub sends_mail: bool,
    /// How long an entry of the revocation set about tokens of ours is kept: as long as the longest of
    /// them can be accepted, leeway included.
    pub revocation_life: Duration,
    /// The delays between guesses; `None`: there are none.
    pub guesses: Option<Guesses>,
    /// The rate limit of a mailbox, for letters that a requester without a session can ask for.
    pub letters: Caps,
}

/// Why an account's request was not done.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No such account, another password, or an address that is not verified yet. The caller is not told which
    /// (enumeration).
    #[error("the e-mail address or the password is wrong, or the link in the mail was not opened yet")]
    InvalidCredentials,
    /// A signed-in user was asked for their password again, and gave another.
    #[error("the current password is wrong")]
    WrongPassword,
    #[error("the account is disabled")]
    Disabled,
    /// Of an operator's request.
    #[error("a change of the account's address was undone: decide first which address it gets")]
    Frozen,
    /// Of its owner's request to delete it.
    #[error(
        "the address of the account was changed lately: as long as that can be undone, until {0}, the account stays"
    )]
    EmailChangeUndoable(UnixTime),
    #[error("this needs the password of the account, or a sign-in of the last ten minutes")]
    FreshSignInNeeded,
    #[error("the account is locked until {0}")]
    Locked(UnixTime),
    /// RFC 6749 §5.2, `invalid_grant`.
    #[error("the refresh token is not good, or its session has ended: sign in again")]
    InvalidRefreshToken,
    #[error("the link is not good any more: it was used, has expired, or the account has changed since")]
    InvalidLink,
    /// The link is good, and stays so; it names an account that needs one of these beside it.
    #[error("the link alone is not enough: it needs one of the ways in `ways`, and stays good")]
    ProofNeeded(Ways),
    #[error(transparent)]
    InvalidEmail(#[from] InvalidEmail),
    #[error("{0}")]
    Invalid(String),
    #[error("the password breaks a rule")]
    PasswordRejected { broken: Vec<Violation>, policy: PasswordPolicy },
    /// The token is good and speaks for no account, or for one that is gone.
    #[error("this token belongs to no account")]
    NoAccount,
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("another account has this address")]
    EmailTaken,
    /// Of an operator's request.
    #[error("another account has this user name, or had it: a name is never given out twice")]
    UsernameTaken,
    /// Of an operator's request.
    #[error("another account has this identity at a provider")]
    IdentityTaken,
    #[error(transparent)]
    InvalidUsername(#[from] InvalidUsername),
    #[error(transparent)]
    InvalidGroups(#[from] InvalidGroups),
    /// Of a registration, the same for every address.
    #[error("the operator of this service makes the accounts or invites people: ask the operator")]
    RegistrationClosed,
    /// Of a request for a letter, the same for every address.
    #[error("this service sends no mail: its operator can make the link")]
    NoMail,
    #[error("others are changing this account at the same time; try again")]
    Conflict,
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl From<InvalidSignInName> for AccountError {
    fn from(error: InvalidSignInName) -> AccountError {
        match error {
            InvalidSignInName::Address(error) => AccountError::InvalidEmail(error),
            InvalidSignInName::Username(error) => AccountError::InvalidUsername(error),
        }
    }
}

impl From<CommitError> for AccountError {
    fn from(error: CommitError) -> AccountError {
        match error {
            CommitError::Conflict => AccountError::Conflict,
            CommitError::EmailTaken => AccountError::EmailTaken,
            CommitError::UsernameTaken => AccountError::UsernameTaken,
            CommitError::IdentityTaken => AccountError::IdentityTaken,
            CommitError::Store(error) => AccountError::Store(error),
        }
    }
}

/// What does beside the token of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// The account's password, or a new one.
    Password,
    /// A new password: the account has none.
    NewPassword,
    /// An access token of the account, or its password: the link changes its address.
    Account,
}

/// The ports that the use cases about accounts work with.
pub struct AccountPorts {
    pub store: Arc<dyn Store>,
    pub signer: Arc<dyn Signer>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub passwords: Arc<dyn Passwords>,
    pub limiter: Arc<dyn Limiter>,
    pub audit: Arc<dyn Audit>,
    pub devices: Arc<dyn Devices>,
    pub key: Arc<ServerKey>,
    /// Notified when a mail was put into the outbox.
    pub outbox: Arc<Notify>,
    /// This gateway, as a holder of leases.
    pub holder: LeaseHolder,
}

/// The use cases about accounts. Its ports are for the use cases alone: what a caller may do is a method.
#[derive(Clone)]
pub struct Accounts {
    pub(super) store: Arc<dyn Store>,
    pub(super) leases: Leases,
    pub(super) signer: Arc<dyn Signer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) passwords: Arc<dyn Passwords>,
    pub(super) limiter: Arc<dyn Limiter>,
    pub(super) audit: Arc<dyn Audit>,
    pub(super) devices: Arc<dyn Devices>,
    pub(super) key: Arc<ServerKey>,
    pub(super) outbox: Arc<Notify>,
    pub(super) settings: AccountSettings,
    /// The uses of sessions in cookies that are not written yet.
    pub(super) uses: Arc<SessionUses>,
    /// The uses of refresh tokens, and of what came with them, that are not written yet.
    pub(super) successors: Arc<SuccessorUses>,
    pub(super) used_links: Arc<UsedLinks>,
    /// The registration forms that were sent lately.
    pub(super) forms: Arc<Mutex<Forms>>,
    /// The registrations that were verified lately.
    pub(super) verified_lately: Arc<Mutex<VerifiedLately>>,
    /// Notified when a task was enqueued.
    pub(super) tasks: Arc<Notify>,
    /// How often an account's password hash was changed, made or removed.
    pub(super) hash_changes: Arc<AtomicU64>,
    /// How many notices to the app may be enqueued.
    pub(super) allowance: Arc<tokio::sync::Mutex<Allowance>>,
}

impl Accounts {
    #[must_use]
    pub fn new(ports: AccountPorts, settings: AccountSettings) -> Accounts {
        let AccountPorts {
            store,
            signer,
            clock,
            entropy,
            passwords,
            limiter,
            audit,
            devices,
            key,
            outbox,
            holder,
        } = ports;
        let leases = Leases::new(Arc::clone(&store), holder);
        let successors = Arc::new(SuccessorUses::new(Arc::clone(&clock)));
        Accounts {
            store,
            leases,
            signer,
            clock,
            entropy,
            passwords,
            limiter,
            audit,
            devices,
            key,
            outbox,
            settings,
            uses: Arc::default(),
            successors,
            used_links: Arc::default(),
            forms: Arc::default(),
            verified_lately: Arc::default(),
            tasks: Arc::default(),
            hash_changes: Arc::default(),
            allowance: Arc::default(),
        }
    }

    /// How long a session lives.
    #[must_use]
    pub fn session_lifetimes(&self) -> Lifetimes {
        self.settings.lifetimes
    }

    /// Who may make an account.
    #[must_use]
    pub fn registration(&self) -> Registration {
        self.settings.registration
    }

    /// Whether letters are sent. If not, pages offer nothing that needs one.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.settings.sends_mail
    }

    /// Refuses what would need a letter when none are sent. The same for every address.
    pub(super) fn needs_mail(&self) -> Result<(), AccountError> {
        if self.settings.sends_mail { Ok(()) } else { Err(AccountError::NoMail) }
    }

    /// The wall clock that the use cases go by.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    pub(super) fn note(&self, from: &Source<'_>, action: Action, outcome: Outcome, about: About) {
        self.audit.record(from.event(self.entropy.uuid(), self.now(), action, outcome, about));
    }

    /// [`retry_on_conflict`] with a commit by [`Accounts::commit_by`].
    ///
    /// # Errors
    /// Whatever `decide` fails with; [`AccountError::Conflict`] after the last attempt, or [`AccountError::Store`].
    pub(super) async fn retry_on_conflict<T, F>(
        &self,
        source: &Source<'_>,
        decide: impl FnMut() -> F,
    ) -> Result<T, AccountError>
    where
        F: Future<Output = Result<Decision<T>, AccountError>>,
    {
        retry_on_conflict(|changes| self.commit_by(source, changes), decide).await
    }

    /// The token version of an account and the generation of all tokens. To be read before anything that the
    /// token will say: whatever changes afterwards raises one of them, and the token is of the older one.
    pub(super) async fn version(&self, user: UserId) -> Result<Versions, AccountError> {
        Ok(self.store.versions(self.signer.issuer(), &user.to_string()).await?)
    }

    pub(super) fn random(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.entropy.fill(&mut *bytes);
        bytes
    }

    /// Whether a session was revoked after it was begun. Its record may still be there: a revocation of a subject or
    /// of all subjects does not look for the sessions it reaches.
    pub(super) async fn is_cut(&self, session: &Session) -> Result<bool, StoreError> {
        self.store.is_cut(&Begun::session(session, self.signer.issuer())).await
    }

    /// The sessions of a user, oldest first: those that have ended by their time or by a revocation and of which the
    /// record is still there, and those that live.
    pub(super) async fn over_and_live(
        &self,
        user: UserId,
    ) -> Result<(Vec<Session>, Vec<Session>), StoreError> {
        let (now, lives) = (self.now(), self.settings.lifetimes);
        let (mut over, mut live) = (Vec::new(), Vec::new());
        for session in self.store.sessions(user).await? {
            let session = self.uses.apply(session, lives);
            let is_over = now >= session.ends_at(lives) || self.is_cut(&session).await?;
            if is_over { &mut over } else { &mut live }.push(session);
        }
        Ok((over, live))
    }

    /// What ends a session: its record goes, and its access tokens with it.
    pub(super) fn ending(&self, session: &Session, reason: &str) -> [Change; 2] {
        let target = Target::Session { issuer: self.signer.issuer().to_owned(), sid: session.id.to_string() };
        [Change::EndSession(session.user, session.id), Change::Revoke(self.revocation(target, reason))]
    }

    /// [`Accounts::ending`] for every session that `user` has, but for `kept`.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    pub(super) async fn ending_all(
        &self,
        user: UserId,
        kept: Option<SessionId>,
        reason: &str,
    ) -> Result<Vec<Change>, StoreError> {
        let sessions = self.store.sessions(user).await?;
        let ended = sessions.iter().filter(|session| Some(session.id) != kept);
        Ok(ended.flat_map(|session| self.ending(session, reason)).collect())
    }

    /// What ends every access token of a user, whatever its session.
    pub(super) fn raising(&self, user: UserId, reason: &str) -> Change {
        let ClockReading { wall: now, horizon, .. } = self.clock.reading();
        Change::RaiseVersion {
            issuer: self.signer.issuer().to_owned(),
            sub: user.to_string(),
            created_at: now,
            expires_at: horizon.plus(self.settings.revocation_life),
            reason: Some(reason.to_owned()),
            enforce: true,
        }
    }

    fn revocation(&self, target: Target, reason: &str) -> Revocation {
        let ClockReading { wall: now, horizon, .. } = self.clock.reading();
        Revocation {
            target,
            created_at: now,
            expires_at: horizon.plus(self.settings.revocation_life),
            reason: Some(reason.to_owned()),
        }
    }

    /// A mail for the outbox, about the account `user`. It repeats what people chose (names, addresses, devices) only
    /// when `to` is the account's address and was verified before.
    pub(super) fn mail(
        &self,
        letter: Letter,
        user: &User,
        to: &EmailAddress,
        link: Option<MailedLink>,
        facts: Facts,
    ) -> Change {
        let mail = Mail::new(self.entropy.uuid(), letter, to.clone(), self.now());
        let verified = user.email_verified && user.has_address(to);
        let name = user.name.clone().filter(|_| verified);
        Change::PutMail(Mail { verified, name, link, facts, ..mail })
    }

    /// [`Accounts::mail`] to the account's own address; `None` for an account without one, which is told nothing.
    pub(super) fn mail_to_owner(&self, letter: Letter, user: &User, facts: Facts) -> Option<Change> {
        Some(self.mail(letter, user, user.email.as_ref()?, None, facts))
    }

    /// What a letter about something that just happened tells.
    pub(super) fn facts(&self, client: &Client) -> Facts {
        let device = self.devices.device(client.user_agent.as_deref(), client.address);
        Facts {
            at: Some(self.now()),
            device: Some(self.devices.described(client.user_agent.as_deref())),
            address: Some(client.address.to_string()),
            place: device.place,
            ..Facts::default()
        }
    }

    /// What a letter about a new password tells: with the connections to providers, which go on. A thief may have made
    /// one of them, and only the owner can tell which.
    pub(super) async fn facts_of_password(&self, client: &Client, user: UserId) -> Result<Facts, StoreError> {
        let all = self.store.connections(user).await?;
        let live = all.into_iter().filter(|one| one.tokens.is_some());
        let connected = |one: Connection| one.connected_at.map(|at| Connected { provider: one.provider, at });
        let mut connections: Vec<Connected> = live.filter_map(connected).collect();
        connections.sort_by_key(|one| std::cmp::Reverse(one.at));
        Ok(Facts { connections, ..self.facts(client) })
    }

    /// Who has a password hashed or checked for the address `email`, which has the account `user`.
    pub(super) fn requester(&self, client: &Client, email: &EmailAddress, user: Option<&User>) -> Requester {
        let block = AddressBlock::of(client.address);
        let known = user.is_some_and(|user| self.key.is_known_block(user, block));
        Requester { block: Some(block), account: self.key.tag(email), known }
    }

    /// The same for the user name `name`.
    pub(super) fn requester_by_name(
        &self,
        client: &Client,
        name: &Username,
        user: Option<&User>,
    ) -> Requester {
        let block = AddressBlock::of(client.address);
        match user {
            // Its turn in the queue is the account's, whatever it is called.
            Some(user) => {
                Requester { known: self.key.is_known_block(user, block), ..self.owner(client, user) }
            }
            None => {
                let account = self.key.tag_of_username(name.fingerprint());
                Requester { block: Some(block), account, known: false }
            }
        }
    }

    /// The same for a client that has shown otherwise that the account is its own.
    pub(super) fn owner(&self, client: &Client, user: &User) -> Requester {
        Requester { block: Some(AddressBlock::of(client.address)), ..self.operator(user) }
    }

    /// The same for an operator.
    pub(super) fn operator(&self, user: &User) -> Requester {
        let account = match &user.email {
            Some(email) => self.key.tag(email),
            None => self.key.tag_of_account(user.id),
        };
        Requester { block: None, account, known: true }
    }

    /// The account of a good token.
    pub(super) async fn account(&self, person: Person) -> Result<User, AccountError> {
        let user = self.store.user(person.user).await?.ok_or(AccountError::NoAccount)?;
        if user.is_open() { Ok(user) } else { Err(AccountError::Disabled) }
    }
}

/// A name as it may be kept; white space at its ends goes.
pub(super) fn name(given: Option<String>) -> Result<Option<String>, AccountError> {
    let Some(name) = given.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if is_name(&name) { Ok(Some(name)) } else { Err(AccountError::Invalid(NAME_WANTED.to_owned())) }
}

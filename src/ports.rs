//! Floor 2: what the use cases need from outside, in the domain's words.
//!
//! Each trait is a door; the rooms of `edge` stand behind them and never see each other. Nothing here
//! names a crate that talks to the outside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::domain::account::{PasswordHash, User, UserId};
use crate::domain::audit::Event;
use crate::domain::email::EmailAddress;
use crate::domain::identity::Identity;
use crate::domain::link::Link;
use crate::domain::mail::Mail;
use crate::domain::opaque::TokenHash;
use crate::domain::password::{Policy, Violation};
use crate::domain::revocation::{Revocation, Target};
use crate::domain::session::{Device, Session, SessionId};
use crate::domain::task::Task;
use crate::domain::time::UnixTime;
use crate::domain::verdict::TokenFault;

/// The wall clock.
pub trait Clock: Send + Sync {
    /// Now, in whole seconds.
    fn now(&self) -> UnixTime;
}

/// A verified token as the cache keeps it: who it speaks for, and the last moment it was known not to
/// be revoked.
#[derive(Debug)]
pub struct Verified {
    /// Who the token speaks for.
    pub identity: Identity,
    cleared: AtomicU64,
}

impl Verified {
    /// A freshly verified token, not yet held against the revocation set.
    #[must_use]
    pub fn new(identity: Identity) -> Verified {
        Verified { identity, cleared: AtomicU64::new(0) }
    }

    /// Whether this token was found good when the revocation set was at `sequence` (never 0). While
    /// the set has not changed since, it need not be asked again.
    #[must_use]
    pub fn is_cleared_at(&self, sequence: u64) -> bool {
        self.cleared.load(Ordering::Relaxed) == sequence
    }

    /// Notes that this token was found good when the set was at `sequence`.
    pub fn clear_at(&self, sequence: u64) {
        self.cleared.store(sequence, Ordering::Relaxed);
    }
}

/// Decides whether a token is what it says.
#[async_trait]
pub trait Verifier: Send + Sync {
    /// Verifies a compact JWS as an access token. Never blocks and never does I/O.
    ///
    /// # Errors
    /// Why the token is not accepted.
    fn verify(&self, token: &str, now: UnixTime) -> Result<Arc<Verified>, TokenFault>;

    /// After [`TokenFault::UnknownKey`]: fetches the keys of the token's issuer when that issuer is
    /// known and was not asked within the last 10 s. True when verifying again is worthwhile.
    async fn learn_keys(&self, token: &str) -> bool;
}

/// What an access token of our own says beside the times and the issuer (RFC 9068 §2.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccessGrant {
    pub subject: String,
    pub email: Option<String>,
    pub email_verified: bool,
    pub session: Option<String>,
    pub version: u64,
    pub scopes: Vec<String>,
    /// Further claims; none may replace a registered one.
    pub extra: Map<String, Value>,
}

/// A token just signed.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The compact JWS.
    pub token: String,
    pub token_id: String,
    pub expires_at: UnixTime,
}

/// Signing failed: no usable key. The message never holds key material.
#[derive(Debug, thiserror::Error)]
#[error("signing failed: {0}")]
pub struct SignError(pub String);

/// Signs with our own active key.
pub trait Signer: Send + Sync {
    /// The issuer our tokens carry.
    fn issuer(&self) -> &str;

    /// Signs an access token that lives for `ttl` from `now`.
    ///
    /// # Errors
    /// [`SignError`] when there is no usable key.
    fn access_token(&self, grant: &AccessGrant, ttl: Duration, now: UnixTime) -> Result<Signed, SignError>;

    /// Signs a short assertion of `identity` for the upstream of `route` (`X-Auth-Assertion`), good
    /// for 60 seconds, with the route's name as audience.
    ///
    /// # Errors
    /// [`SignError`] when there is no usable key.
    fn assertion(&self, identity: &Identity, route: &str, now: UnixTime) -> Result<String, SignError>;
}

/// The revocation set as the request path asks it: in memory, complete, never blocking.
pub trait Revocations: Send + Sync {
    /// A number that grows with every revocation, at least 1; `None` until the whole set is in
    /// memory, and then no token can be trusted.
    fn sequence(&self) -> Option<u64>;

    /// Whether `identity`'s token is revoked. Only meaningful once [`Revocations::sequence`] answers.
    fn is_revoked(&self, identity: &Identity) -> bool;
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The write is not durable, and the caller must not act as if it were. Worth trying later.
    #[error("the store cannot write: {0}")]
    Unavailable(String),
    /// A record cannot be read: corrupt, or of a version this program does not know.
    #[error("the store holds a record that cannot be read: {0}")]
    Unreadable(String),
}

/// One part of a commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new account. Its address must not be another account's.
    CreateUser(User),
    /// An account as it shall be. Its [`User::revision`] must be the stored one, which then rises by one; a
    /// new address must not be another account's.
    UpdateUser(User),
    /// Removes an account with its sessions and its events. Nothing to do when it is gone.
    DeleteUser(UserId),
    /// A new session.
    CreateSession(Session),
    /// A session as it shall be; its [`Session::revision`] must be the stored one, which then rises by one.
    UpdateSession(Session),
    /// Removes a session. Nothing to do when it is gone.
    EndSession(UserId, SessionId),
    /// A new link.
    CreateLink(Link),
    /// Uses a link up: it must be there, and is gone afterwards.
    ConsumeLink(TokenHash),
    /// A new mail, or one as it shall be after a try.
    PutMail(Mail),
    /// A mail that was delivered. Nothing to do when it is gone.
    RemoveMail(Mail),
    /// A new task.
    CreateTask(Task),
    /// Takes a task off the list: it must be there, so that nothing is done twice.
    FinishTask(Task),
    /// Events, kept with their accounts; of each account only the latest [`EVENTS_KEPT`] remain.
    Record(Vec<Event>),
    /// A revocation. An entry with the same key keeps the larger limit and the later expiry.
    Revoke(Revocation),
    /// Raises the token version of `sub` at `issuer` by one and revokes every token below it. The version
    /// itself never expires.
    RaiseVersion {
        issuer: String,
        sub: String,
        created_at: UnixTime,
        expires_at: UnixTime,
        reason: Option<String>,
        /// False: the version rises, so that new tokens carry it, and the older ones are not revoked yet.
        enforce: bool,
    },
}

impl Change {
    /// For a change that a commit answers with a revocation: whether that is in force at once.
    #[must_use]
    pub fn is_in_force(&self) -> Option<bool> {
        match self {
            Change::Revoke(_) => Some(true),
            Change::RaiseVersion { enforce, .. } => Some(*enforce),
            _ => None,
        }
    }
}

/// How many events of one account are kept.
pub const EVENTS_KEPT: usize = 200;

/// Why a commit did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// What a change was made from has changed meanwhile, or is gone: read again, decide again.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// Another account has the address.
    #[error("another account has this address")]
    EmailTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The outcome of a commit of one revocation, which has no state to conflict with.
fn only(outcome: Result<Vec<Revocation>, CommitError>) -> Result<Revocation, StoreError> {
    let nothing = || StoreError::Unavailable("the revocation was not recorded".to_owned());
    match outcome {
        Ok(entries) => entries.into_iter().next().ok_or_else(nothing),
        Err(CommitError::Store(error)) => Err(error),
        Err(CommitError::Conflict | CommitError::EmailTaken) => Err(nothing()),
    }
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub revocations: u64,
    pub sessions: u64,
    pub links: u64,
}

/// How the store is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether writes are acknowledged. Once false it stays so until a write succeeds again.
    pub writable: bool,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Durable state. What it acknowledged survives a kill and a power loss.
#[async_trait]
pub trait Store: Send + Sync {
    /// Makes every change, in this order, or none. Returns the entries that its [`Change::Revoke`]s and
    /// enforced [`Change::RaiseVersion`]s now stand for, in their order; for one that is not enforced, the
    /// entry that it would be.
    ///
    /// # Errors
    /// [`CommitError`]; then nothing was changed, or, for [`CommitError::Store`], nothing was promised.
    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Revocation>, CommitError>;

    /// Commits one revocation. Returns the entry as it now stands.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was promised.
    async fn revoke(&self, revocation: Revocation) -> Result<Revocation, StoreError> {
        only(self.commit(vec![Change::Revoke(revocation)]).await)
    }

    /// Commits one enforced [`Change::RaiseVersion`]. The limit of the entry that it returns is the new
    /// version.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was promised.
    async fn raise_version(
        &self,
        issuer: &str,
        sub: &str,
        created_at: UnixTime,
        expires_at: UnixTime,
        reason: Option<String>,
    ) -> Result<Revocation, StoreError> {
        let (issuer, sub) = (issuer.to_owned(), sub.to_owned());
        let change = Change::RaiseVersion { issuer, sub, created_at, expires_at, reason, enforce: true };
        only(self.commit(vec![change]).await)
    }

    /// The token version of `sub` at `issuer`; 0 when it was never raised.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError>;

    /// Calls `each` with every revocation that has not expired at `now`, in no order.
    ///
    /// # Errors
    /// [`StoreError`]; then the set is not complete and must not be used.
    async fn each_revocation(
        &self,
        now: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError>;

    /// At most `limit` revocations, newest first, for people.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError>;

    /// The entry that stands for `target`'s key, if any.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError>;

    /// The account of this id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError>;

    /// The account that has this address.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, StoreError>;

    /// At most `limit` accounts in the order of their ids, which is the order they were made in, from
    /// behind `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError>;

    /// A session of `user`. One whose time has passed may still be there.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn session(&self, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError>;

    /// Every session of `user`, oldest first. Some whose time has passed may still be among them.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError>;

    /// The link whose token has this hash.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError>;

    /// At most `limit` tasks that are due at `now`, the earliest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn due_tasks(&self, now: UnixTime, limit: usize) -> Result<Vec<Task>, StoreError>;

    /// At most `limit` mails that are due at `now` and not given up, the earliest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn due_mails(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError>;

    /// At most `limit` mails that wait or were given up, newest first, for people.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn mails(&self, limit: usize) -> Result<Vec<Mail>, StoreError>;

    /// At most `limit` events of `user`, newest first; without one, those that concern no account.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn events(&self, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, StoreError>;

    /// Forgets what expired before `now`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError>;

    /// How the store is doing. Never blocks.
    fn status(&self) -> StoreStatus;
}

/// Randomness.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` from the operating system's generator.
    fn fill(&self, bytes: &mut [u8]);

    /// A fresh UUID v7 of this moment.
    fn uuid(&self) -> uuid::Uuid;
}

/// The hashing of passwords has more to do than it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked; try again in {} s", retry_after.as_secs())]
pub struct Busy {
    /// When to try again.
    pub retry_after: Duration,
}

/// What a look at a password brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Whether it is the right one.
    pub matches: bool,
    /// Whether its hash is weaker than, or written otherwise than, a new one would be.
    pub needs_rehash: bool,
}

/// Hashing and judging passwords. It runs on threads of its own, and never holds up anything else.
#[async_trait]
pub trait Passwords: Send + Sync {
    /// The hash of a password that may be kept.
    ///
    /// # Errors
    /// [`Busy`].
    async fn hash(&self, password: SecretString) -> Result<PasswordHash, Busy>;

    /// Holds `password` against `hash`. Without one, or with one that cannot be read, it takes as long and
    /// does not match.
    ///
    /// # Errors
    /// [`Busy`].
    async fn check(&self, password: SecretString, hash: Option<&PasswordHash>) -> Result<Checked, Busy>;

    /// Which rules hold.
    fn policy(&self) -> Policy;

    /// Every rule that `password` breaks; empty when it will do.
    fn violations(&self, password: &str, email: Option<&EmailAddress>, name: Option<&str>) -> Vec<Violation>;

    /// A random password that breaks none.
    fn generate(&self) -> SecretString;

    /// Whether `hash` is in a form that [`Passwords::check`] can read: for importing.
    fn is_known(&self, hash: &PasswordHash) -> bool;
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limited {
    Login,
    Register,
    Refresh,
    /// Asking for a mail: a reset, or a verification again.
    RequestMail,
    /// Trying tokens of mailed links.
    UseLink,
    /// Giving the present password for a change.
    ConfirmPassword,
}

/// Come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; try again in {} s", retry_after.as_secs())]
pub struct TooMany {
    pub retry_after: Duration,
}

/// Limits on attempts, by address block (IPv4 /32, IPv6 /64) and by account. Never blocks; and never lets
/// one address block keep another from an account.
pub trait Limiter: Send + Sync {
    /// Counts an attempt from `client`, on `account` if it names one (an e-mail address or a user id, whether
    /// or not there is such an account).
    ///
    /// # Errors
    /// [`TooMany`]: nothing may be tried now.
    fn attempt(&self, what: Limited, client: IpAddr, account: Option<&str>) -> Result<(), TooMany>;

    /// The attempt failed: the next from there on this account waits longer.
    fn failed(&self, what: Limited, client: IpAddr, account: &str);

    /// The attempt succeeded: the account's delays for this address block are over.
    fn succeeded(&self, what: Limited, client: IpAddr, account: &str);
}

/// Where events go.
pub trait Audit: Send + Sync {
    /// Writes the event down. Never blocks.
    fn record(&self, event: Event);
}

/// Reads from a request where it comes from.
pub trait Devices: Send + Sync {
    /// The device that sends this `User-Agent` from this address.
    fn device(&self, user_agent: Option<&str>, address: IpAddr) -> Device;
}

/// Why a mail was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailFault {
    /// Worth trying again.
    #[error("{0}")]
    Transient(String),
    /// Nothing can be delivered now: no connection, no agreement on TLS, no sign-in. Says nothing about
    /// this mail.
    #[error("{0}")]
    Unreachable(String),
    /// This mail will never be taken.
    #[error("{0}")]
    Permanent(String),
}

/// Delivers mail.
#[async_trait]
pub trait Mailer: Send + Sync {
    /// Writes the letter and hands it to the transport. `link_token` is the token of [`Mail::link`], if it
    /// has one.
    ///
    /// # Errors
    /// [`MailFault`], without any token in it.
    async fn deliver(&self, mail: &Mail, link_token: Option<SecretString>) -> Result<(), MailFault>;
}

/// Why an outgoing request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL or the address behind it is not one we may call.
    #[error("{url}: {why}")]
    Forbidden { url: String, why: String },
    /// No usable answer: no connection, a bad status, too large, too slow.
    #[error("{url}: {why}")]
    Failed { url: String, why: String },
}

/// Outgoing HTTP.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The body of a `GET` that answered 200 with at most `max_bytes`. Follows no redirects.
    ///
    /// # Errors
    /// [`FetchError`].
    async fn get(&self, url: &str, max_bytes: usize) -> Result<Vec<u8>, FetchError>;
}

/// How one request ended, for the meters and the access log. Holds no query and no credential.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// The route's name; `None` when no route was found or it was ours to answer.
    pub route: Option<&'a str>,
    /// What was sent; 0 when the caller left first.
    pub status: u16,
    pub took: Duration,
    /// `allowed`, `native`, or the refusal's code.
    pub decision: &'static str,
    pub request_id: &'a str,
    pub method: &'a str,
    /// The Host as sent.
    pub host: &'a str,
    /// The path as sent, without the query.
    pub path: &'a str,
    /// Bytes of body sent to the client.
    pub bytes: u64,
    /// The verified caller.
    pub subject: Option<&'a str>,
    /// Who the request came from, trusted proxies left out.
    pub client: IpAddr,
    pub upstream: Option<SocketAddr>,
}

/// Where counts go. Implementations never block.
pub trait Meter: Send + Sync {
    /// One request ended.
    fn ended(&self, ended: &Ended<'_>);
    /// One look into the verified-token cache.
    fn token_cache(&self, hit: bool);
    /// A store call by name, with its duration and whether it succeeded.
    fn store_call(&self, call: &'static str, took: Duration, ok: bool);
    /// A try at delivering a mail: `sent`, `retried` or `given_up`.
    fn mail(&self, outcome: &'static str);
    /// A password was hashed or checked: how long it waited, and how long it took.
    fn password(&self, waited: Duration, took: Duration);
    /// A key fetch for an issuer and whether it brought keys.
    fn jwks_fetch(&self, issuer: &str, ok: bool);
}

/// Where a signing key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, not yet signing.
    Next,
    /// Signing.
    Active,
    /// No longer signing, still verifying.
    Retired,
}

/// What may be told about a signing key: nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithm: String,
    pub state: KeyState,
    pub created_at: UnixTime,
    /// When it began to sign.
    pub activated_at: Option<UnixTime>,
    /// When it stopped signing; it verifies until the last token it signed has ended.
    pub retired_at: Option<UnixTime>,
}

/// Our own key ring.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Every key that verifies, the active one first.
    fn list(&self) -> Vec<KeyInfo>;

    /// The public keys as a JWK Set (RFC 7517 §5); empty for HS256.
    fn jwks(&self) -> Value;

    /// Makes the published next key sign, retires the active one and publishes a new next key. Durable
    /// when it returns.
    ///
    /// # Errors
    /// [`SignError`] when the ring is not managed by us or cannot be written; then nothing changed.
    async fn rotate(&self, now: UnixTime) -> Result<Vec<KeyInfo>, SignError>;
}

/// The gateway as its operator sees it.
#[async_trait]
pub trait Control: Send + Sync {
    /// Reads the configuration again and puts its routes, issuers and limits in force.
    ///
    /// # Errors
    /// What is wrong with it, one message each; the last good configuration stays in force.
    async fn reload(&self) -> Result<Vec<String>, Vec<String>>;

    /// What keeps the gateway from being ready; empty when it is.
    fn not_ready_because(&self) -> Vec<&'static str>;
}

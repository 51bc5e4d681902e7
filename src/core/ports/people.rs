//! The ports of accounts: passwords, rate limits, devices, mail, and the audit log.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::domain::account::PasswordHash;
use crate::domain::audit::Event;
use crate::domain::block::AddressBlock;
use crate::domain::hash_cost::HashCosts;
use crate::domain::mail::Mail;
use crate::domain::password::{Guessed, PasswordOwner, PasswordPolicy, Violation};
use crate::domain::session::Device;

/// The hashing of passwords has more to do than it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked; try again in {} s", retry_after.as_secs())]
pub struct Busy {
    /// When to try again.
    pub retry_after: Duration,
}

/// The requester of a password hash or check: it decides the place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester {
    /// Where the request came from; `None` for the operator.
    pub block: Option<AddressBlock>,
    /// The account that is checked: [`crate::domain::opaque::ServerKey::tag`] of the address that was given, whether
    /// or not it has an account.
    pub account: u64,
    /// Whether the account was signed in to from this block before, or the request has shown otherwise that it is
    /// the owner's.
    pub known: bool,
}

/// Why a hash from elsewhere is not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotImported {
    #[error(
        "it is in no known form: bcrypt, Argon2, PBKDF2 and scrypt are, as Django, Spring, passlib, Keycloak, ASP.NET \
         Identity and Firebase write them"
    )]
    Unknown,
    /// Costs of bcrypt; of another algorithm, those with as much work.
    #[error(
        "its cost is {cost} (bcrypt, or as much work), and no more than {most} is imported (passwords.max_cost)"
    )]
    TooDear { cost: u32, most: u32 },
    #[error("a check takes {mebibytes} MiB of memory, and no more than {most} MiB is spent on one")]
    TooLarge { mebibytes: u64, most: u64 },
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
    async fn hash(&self, password: SecretString, requester: Requester) -> Result<PasswordHash, Busy>;

    /// Holds `password` against `hash`. Without one, or with one that cannot be read, it takes as long as for some
    /// account ([`Passwords::counted`]) and does not match.
    ///
    /// # Errors
    /// [`Busy`]; then the password was not looked at.
    async fn check(
        &self,
        password: SecretString,
        hash: Option<&PasswordHash>,
        requester: Requester,
    ) -> Result<Checked, Busy>;

    /// Which rules hold.
    fn policy(&self) -> PasswordPolicy;

    /// Every rule that `password` breaks; empty when it will do.
    fn violations(&self, password: &str, owner: PasswordOwner<'_>) -> Vec<Violation>;

    /// Why a guesser who knows the account and the service would come to `password` too soon; `None` when it will do.
    /// To be asked only about one that breaks no rule, behind a limit: it may take as long as a hash.
    ///
    /// # Errors
    /// [`Busy`].
    async fn guessed(
        &self,
        password: SecretString,
        owner: PasswordOwner<'_>,
        requester: Requester,
    ) -> Result<Option<Guessed>, Busy>;

    /// The fewest guesses that a password must stand.
    fn min_guesses(&self) -> u64;

    /// A random password that breaks none.
    fn generate(&self) -> SecretString;

    /// The hash as it is kept, if it may be taken over from elsewhere: in a form that [`Passwords::check`] reads, and not
    /// dearer than an operator wants. A check is bounded in work and in memory.
    ///
    /// # Errors
    /// [`NotImported`].
    fn import(&self, hash: &PasswordHash) -> Result<PasswordHash, NotImported>;

    /// Adds the kind of `hash` to `costs`, if it can be read.
    fn count(&self, hash: &PasswordHash, costs: &mut HashCosts);

    /// What hashes the accounts have, counted anew: addresses without an account are checked alike from now on.
    fn counted(&self, costs: HashCosts);

    /// An account that had the hash `before` has the hash `after` now; `None` for no hash and for no account.
    fn changed(&self, before: Option<&PasswordHash>, after: Option<&PasswordHash>);
}

/// The kinds of attempts with a rate limit.
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
    /// Beginning and refreshing a connection, counted by account, wherever it is done; and coming back from a
    /// provider, by address.
    Connect,
    /// Bringing tokens of one's own for a connection; by account.
    Import,
    /// A session cookie that we made and behind which no session lives: counted by the value and the address block
    /// together, so that a former value holds up neither the present one nor those of other people in its network.
    SessionCookie,
}

/// Come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; try again in {} s", retry_after.as_secs())]
pub struct TooMany {
    pub retry_after: Duration,
}

/// Limits on attempts, by address block ([`AddressBlock`]) and by account. Never blocks; and never lets
/// one address block keep another from an account, but where only its owner is let in to count.
pub trait Limiter: Send + Sync {
    /// Counts an attempt from `client`, on `account` if it names one (an e-mail address or a user id, whether
    /// or not there is such an account).
    ///
    /// # Errors
    /// [`TooMany`]: nothing may be tried now.
    fn attempt(&self, what: Limited, client: IpAddr, account: Option<&str>) -> Result<(), TooMany>;

    /// Counts an attempt on an account that goes by more than one name, under its id, beside the one that
    /// [`Limiter::attempt`] has counted under the name that was given. Takes nothing from the allowance of the block.
    ///
    /// # Errors
    /// [`TooMany`]: nothing may be tried now. The client must not be told: under the name that it gave it would not wait,
    /// so it would learn that the names are of one account (enumeration).
    fn attempt_on_account(&self, what: Limited, client: IpAddr, account: &str) -> Result<(), TooMany>;

    /// Whether [`Limiter::attempt`] has lately refused this attempt, and the wait that it told is not over. Takes nothing
    /// from any allowance: for what is looked at before it is known whether it counts.
    ///
    /// # Errors
    /// [`TooMany`]: nothing may be tried now.
    fn waits(&self, what: Limited, client: IpAddr, account: &str) -> Result<(), TooMany>;

    /// The attempt was not carried out, since the gateway was busy: it is as if it had not been made, and the next
    /// waits no longer for it.
    fn not_tried(&self, what: Limited, client: IpAddr, account: &str);

    /// Gives the address block back what an attempt took of its allowance: it was a good one. Once for each attempt.
    fn give_back(&self, what: Limited, client: IpAddr);

    /// The attempt failed: the next from there on this account waits longer.
    fn failed(&self, what: Limited, client: IpAddr, account: &str);

    /// The account was signed in to from this address block before, as is kept with it: what others do to the account
    /// does not make the block wait, and its own wrong passwords do.
    fn recall(&self, what: Limited, client: IpAddr, account: &str);

    /// The attempt succeeded: the account's delays for this address block are over.
    fn succeeded(&self, what: Limited, client: IpAddr, account: &str);

    /// An attempt was refused that is counted elsewhere ([`crate::service::shared_guesses`]). For what looks on.
    fn refused_elsewhere(&self, what: Limited, client: IpAddr, account: &str, refused: TooMany) {
        let _ = (what, client, account, refused);
    }
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

    /// What a letter may call the device that sends this `User-Agent`: words that are all ours, since a stranger who
    /// signs in chooses what they send.
    fn described(&self, user_agent: Option<&str>) -> String;
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

//! What a commit requires, and what it comes to: where it stands in the order of all commits, how it was acknowledged, and how the
//! revocations of commits are followed.

use std::time::Duration;

use async_trait::async_trait;

use uuid::Uuid;

use super::{Change, StoreError};
use crate::domain::account::UserId;
use crate::domain::lease::Lease;
use crate::domain::revocation::Revocation;

/// Where a commit stands in the order of all commits of one store: of two, the later one is the greater.
///
/// Opaque. A store on a local disk counts its commits, a shared database has other numbers, with gaps: nothing but
/// the store that gave a position may take it apart, and no caller adds to it or subtracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position([u8; 16]);

impl Position {
    /// For a store: what it knows the position by, big-endian, so that bytes compare as positions do.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Position {
        Position(bytes)
    }

    /// For the store that made it, and for keeping it.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// What must hold for a commit that does not itself write what it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// There is an account of this id: the owner of what the commit writes.
    UserExists(UserId),
    /// The task waits: it was neither finished nor given up.
    TaskWaits(Uuid),
    /// The lease stands: it was not released, and no other holder has taken over what it is for.
    LeaseStands(Lease),
}

/// What confirmed a commit before it was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfirmedBy {
    /// This process, which alone holds the store and has synced the commit to its disk.
    ThisProcess,
    /// Nothing that outlasts this process: a store in memory.
    Memory,
    /// A database that several gateways share, and that has committed. Of a commit that put no revocation in force.
    Database,
    /// A database that several gateways share: its revocations are in force at every one of them.
    Replicas {
        /// How many have told that they have applied the revocations.
        confirmed: u32,
        /// How many have not, and were waited for until their lease was over: since then they believe no token.
        lapsed: u32,
        /// The names of those without a lease that go on believing tokens, because their configuration says
        /// `fail = "open"`, on a route at least.
        open: Vec<String>,
    },
}

/// How a commit was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    pub by: ConfirmedBy,
    /// From when the store was asked, the wait for its turn included.
    pub took: Duration,
}

/// A commit that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The entries that its [`super::Change::Revoke`]s, [`super::Change::CutSessions`] and enforced raises
    /// ([`super::Change::RaiseVersion`], [`super::Change::RaiseGeneration`]) now stand for, in their order; for one that
    /// is not enforced, the entry that it would be.
    pub revocations: Vec<Revocation>,
    /// Of this commit; of the last one before it when it wrote nothing.
    pub position: Position,
    pub acknowledgement: Acknowledgement,
}

/// Why a commit did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// What a change was made from has changed meanwhile, or is gone: read again, decide again.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// Another account has the address.
    #[error("another account has this address")]
    EmailTaken,
    /// Another account has the user name, or had it.
    #[error("another account has this user name, or had it")]
    UsernameTaken,
    /// Another account has an identity at a provider.
    #[error("another account has this identity at a provider")]
    IdentityTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CommitError {
    /// Whether another commit came first. The store works, and a new decision may be committed.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        match self {
            CommitError::Conflict
            | CommitError::EmailTaken
            | CommitError::UsernameTaken
            | CommitError::IdentityTaken => true,
            CommitError::Store(_) => false,
        }
    }

    /// For a commit that has nothing left to do when another one came first ([`CommitError::is_overtaken`]).
    ///
    /// # Errors
    /// What the store said.
    pub fn unless_overtaken(self) -> Result<(), StoreError> {
        match self {
            CommitError::Store(error) => Err(error),
            CommitError::Conflict
            | CommitError::EmailTaken
            | CommitError::UsernameTaken
            | CommitError::IdentityTaken => Ok(()),
        }
    }

    /// Of a commit that has no state to conflict with: what the store said.
    #[must_use]
    pub fn of_the_store(self) -> StoreError {
        match self {
            CommitError::Store(error) => error,
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}

/// Which of the revocations that a commit answers with ([`Committed::revocations`]) are in force at once.
#[derive(Debug)]
pub struct InForce(Vec<bool>);

impl InForce {
    /// As the changes of the commit say.
    #[must_use]
    pub fn of(changes: &[Change]) -> InForce {
        InForce(changes.iter().filter_map(Change::is_in_force).collect())
    }

    /// Those of the commit's answer.
    pub fn among<'a>(&self, answered: &'a [Revocation]) -> impl Iterator<Item = &'a Revocation> {
        answered.iter().zip(&self.0).filter_map(|(entry, is_in_force)| is_in_force.then_some(entry))
    }
}

/// The revocations that one commit has put in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Revoked {
    pub position: Position,
    /// In the order of the commit; never empty.
    pub revocations: Vec<Revocation>,
}

/// Why revocations can be followed no further.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubscriptionError {
    /// The store no longer knows every revocation since that position, or never had such a position. Follow it from
    /// [`super::Store::position`], and read the whole set again after that.
    #[error("the store no longer tells every revocation since then")]
    Behind,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The revocations behind a position: each commit's once, in the order of the commits, without a gap.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for the next commit that revokes something. Safe to cancel: what was not returned is returned next.
    ///
    /// # Errors
    /// [`SubscriptionError`]; the subscription is over then.
    async fn next(&mut self) -> Result<Revoked, SubscriptionError>;
}

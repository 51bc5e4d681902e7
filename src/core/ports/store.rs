//! Durable state, in the domain's words: what a commit may change, and what can be read.

use async_trait::async_trait;
use uuid::Uuid;

use super::commits::{CommitError, Committed, Position, Precondition, Subscription, SubscriptionError};
use super::failure::StoreError;
use super::leases::LeaseStore;
use super::notes::SharedNotes;
use super::records::Records;
use super::upkeep::{Compacted, StoreStatus, Swept, Upgrade};
use crate::domain::account::{User, UserId};
use crate::domain::audit::Event;
use crate::domain::connection::{Connection, ConnectionId};
use crate::domain::email::EmailAddress;
use crate::domain::link::Link;
use crate::domain::mail::Mail;
use crate::domain::mail_cap::{Mailbox, MailboxId};
use crate::domain::opaque::TokenHash;
use crate::domain::provider_identity::ProviderIdentity;
use crate::domain::revocation::{Begun, Revocation, Target, Versions};
use crate::domain::session::{Session, SessionId};
use crate::domain::task::{Task, TaskKind};
use crate::domain::time::UnixTime;
use crate::domain::trusted_time::Mark;
use crate::domain::username::Username;

/// One part of a commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Writes nothing: the commit conflicts unless this holds when it is made.
    Require(Precondition),
    /// A new account. None of its addresses ([`User::addresses`]) and of its [`User::identities`] may be another account's,
    /// and its user name may never have been.
    CreateUser(User),
    /// An account as it shall be. Its [`User::revision`] must be the stored one, which then rises by one; none of
    /// its addresses ([`User::addresses`]) and of its [`User::identities`] may be another account's, and its user name may
    /// never have been. A name
    /// that it had is kept from all others.
    UpdateUser(User),
    /// Removes an account with its sessions, its connections and its events. No other account gets its user name.
    /// Nothing to do when it is gone.
    DeleteUser(UserId),
    /// A new session.
    CreateSession(Session),
    /// A session as it shall be; its [`Session::revision`] must be the stored one, which then rises by one.
    UpdateSession(Session),
    /// Removes a session. Nothing to do when it is gone.
    EndSession(UserId, SessionId),
    /// A new connection.
    CreateConnection(Connection),
    /// A connection as it shall be; its [`Connection::revision`] must be the stored one, which then rises by
    /// one.
    UpdateConnection(Connection),
    /// Removes a connection. Nothing to do when it is gone.
    RemoveConnection(UserId, ConnectionId),
    /// A new link.
    CreateLink(Link),
    /// Uses a link up: it must be there, and is gone afterwards.
    ConsumeLink(TokenHash),
    /// A new mail, or one as it shall be after a try.
    PutMail(Mail),
    /// Removes a mail, which was delivered. Nothing to do when it is gone.
    RemoveMail(Uuid),
    /// How many letters a mailbox got, with one more. Its [`Mailbox::revision`] must be the stored one, which then
    /// rises by one; 0 where nothing is stored.
    PutMailbox(Mailbox),
    /// A new task, in place of any other of its id.
    CreateTask(Task),
    /// Takes a task off the list: it must be there, so that nothing is done twice.
    FinishTask(Uuid),
    /// Events, kept with their accounts; of each account only the latest [`EVENTS_KEPT`] remain, and apart from them
    /// the latest [`STRANGERS_EVENTS_KEPT`] of those that strangers can cause ([`Event::is_strangers`]).
    Record(Vec<Event>),
    /// The high-water mark of the clock, in place of the former one.
    PutClockMark(Mark),
    /// Notes that this was done to the store.
    Upgraded(Upgrade),
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
    /// Raises the generation of all tokens of `issuer`, by one or to `created_at` in seconds, whichever is
    /// more, and revokes every token below it. The generation itself never expires.
    RaiseGeneration {
        issuer: String,
        created_at: UnixTime,
        expires_at: UnixTime,
        reason: Option<String>,
        /// False: the generation rises, so that new tokens carry it, and the older ones are not revoked yet.
        enforce: bool,
    },
    /// Revokes the sessions of `sub`, or all of them, that were begun at a token version, or in a generation, below
    /// the one that stands when it is made ([`Target::SubjectSessions`], [`Target::EverySession`]). Put behind the
    /// raise of that number in one commit.
    CutSessions {
        issuer: String,
        /// `None`: all subjects.
        sub: Option<String>,
        created_at: UnixTime,
        /// Not before the last session that it reaches has ended.
        expires_at: UnixTime,
        reason: Option<String>,
    },
}

impl Change {
    /// For a change that a commit answers with a revocation: whether that is in force at once.
    #[must_use]
    pub fn is_in_force(&self) -> Option<bool> {
        match self {
            Change::Revoke(_) | Change::CutSessions { .. } => Some(true),
            Change::RaiseVersion { enforce, .. } | Change::RaiseGeneration { enforce, .. } => Some(*enforce),
            _ => None,
        }
    }
}

/// How long a mail that was given up is kept for the operator to see, from when it was made: strangers can
/// cause as many of them as they like.
pub const GIVEN_UP_LIFE: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// How many events of one account are kept, without those that strangers can cause.
pub const EVENTS_KEPT: usize = 200;

/// How many events of one account are kept of those that strangers can cause: each costs them one request.
pub const STRANGERS_EVENTS_KEPT: usize = 100;

/// How long events of an account that is gone are kept, all of them, from when the first was recorded that came after
/// its end: the one that says that it was deleted, as a rule.
pub const GONE_EVENTS_LIFE: std::time::Duration = std::time::Duration::from_secs(90 * 24 * 3600);

/// The outcome of a commit of one revocation, which has no state to conflict with.
fn only(outcome: Result<Committed, CommitError>) -> Result<Revocation, StoreError> {
    let nothing = || StoreError::Unavailable("the revocation was not recorded".to_owned());
    outcome.map_err(CommitError::of_the_store)?.revocations.into_iter().next().ok_or_else(nothing)
}

/// Durable state. What it acknowledged survives a kill and a power loss.
#[async_trait]
pub trait Store: LeaseStore + Records {
    /// Makes every change, in this order, or none.
    ///
    /// # Errors
    /// [`CommitError`]; then nothing was changed, or, for [`CommitError::Store`], nothing was promised.
    async fn commit(&self, changes: Vec<Change>) -> Result<Committed, CommitError>;

    /// Waits until every revocation that was committed by now, by any gateway over this store, is in force at every replica
    /// that serves it. To be awaited before a request is answered with success, or with "not there", for which nothing had
    /// to be committed because another request has ended the same: that one may not have been acknowledged yet.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing may be answered as if it were in force.
    async fn await_in_force(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The position of the last commit that was acknowledged. Never blocks.
    fn position(&self) -> Position;

    /// Follows the revocations of every commit behind `since`. To hold the whole set: take [`Store::position`],
    /// subscribe from there, and only then read [`Store::each_revocation`]; an entry that comes twice is merged.
    ///
    /// # Errors
    /// [`SubscriptionError`]: `since` is too long ago for this store, or none of its positions.
    async fn subscribe(&self, since: Position) -> Result<Box<dyn Subscription>, SubscriptionError>;

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

    /// The generation of all tokens of `issuer`; 0 when it was never raised.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn generation(&self, issuer: &str) -> Result<u64, StoreError>;

    /// What a token of `sub` signed now has to carry.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn versions(&self, issuer: &str, sub: &str) -> Result<Versions, StoreError> {
        let generation = self.generation(issuer).await?;
        Ok(Versions { subject: self.version(issuer, sub).await?, generation })
    }

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

    /// Whether what was begun is revoked: by the session's id, or because its subject, or every subject, was cut off
    /// later. Asked before a session brings another token.
    ///
    /// # Errors
    /// [`StoreError`]; then it must not go on.
    async fn is_cut(&self, begun: &Begun<'_>) -> Result<bool, StoreError> {
        for target in begun.targets() {
            let standing = self.revocation(&target).await?;
            if standing.is_some_and(|standing| begun.is_reached_by(&standing.target)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The account of this id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError>;

    /// The account that has this address, or that it is kept for ([`User::addresses`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, StoreError>;

    /// The account that has this user name.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn user_by_username(&self, name: &Username) -> Result<Option<User>, StoreError>;

    /// The id of the account that has this user name or had it, also when that account is gone. No other gets it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn username_owner(&self, name: &Username) -> Result<Option<UserId>, StoreError>;

    /// The account with this identity at a provider.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn user_by_identity(&self, identity: &ProviderIdentity) -> Result<Option<User>, StoreError>;

    /// The accounts that are gone and whose events are still kept ([`GONE_EVENTS_LIFE`]), with the moment of the first
    /// event that came after their end, from `since` on; in no order.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn gone_users(&self, since: UnixTime) -> Result<Vec<(UserId, UnixTime)>, StoreError>;

    /// Whether this was done to the store ([`Change::Upgraded`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn is_upgraded(&self, upgrade: Upgrade) -> Result<bool, StoreError>;

    /// At most `limit` accounts in the order of their ids, which is the order they were made in, from
    /// behind `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError>;

    /// A session of `user`. An expired one may still be there.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn session(&self, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError>;

    /// Every session of `user`, oldest first. Expired ones may still be among them.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError>;

    /// The session of this id, of any user. Scans the keys of all sessions: for an operator's request, never for a
    /// user's.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError>;

    /// At most `limit` sessions of all users, in the order of their users and ids, from behind `after`. Expired ones
    /// may be among them.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn all_sessions(
        &self,
        after: Option<(UserId, SessionId)>,
        limit: usize,
    ) -> Result<Vec<Session>, StoreError>;

    /// A connection of `user`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn connection(&self, user: UserId, id: ConnectionId) -> Result<Option<Connection>, StoreError>;

    /// Every connection of `user`, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn connections(&self, user: UserId) -> Result<Vec<Connection>, StoreError>;

    /// At most `limit` connections of all users, in the order of their users and ids, from behind `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn all_connections(
        &self,
        after: Option<(UserId, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Connection>, StoreError>;

    /// At most `limit` connections that are due ([`Connection::due_at`]) at `now`, the earliest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn due_connections(&self, now: UnixTime, limit: usize) -> Result<Vec<Connection>, StoreError>;

    /// The link with the token of this hash.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError>;

    /// The task of this id, if it still waits.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError>;

    /// At most `limit` tasks of `kind` that are due at `now`, the earliest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn due_tasks_of(
        &self,
        kind: TaskKind,
        now: UnixTime,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError>;

    /// At most `limit` mails that are due at `now` and not given up, the earliest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn due_mails(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError>;

    /// The mail of this id, if it waits or was given up.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn mail(&self, id: Uuid) -> Result<Option<Mail>, StoreError>;

    /// How many letters a mailbox got; nothing when none of them counts any more, or not yet.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn mailbox(&self, id: MailboxId) -> Result<Option<Mailbox>, StoreError>;

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

    /// The high-water mark of the clock, if one was ever kept.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn clock_mark(&self) -> Result<Option<Mark>, StoreError>;

    /// The latest moment that any record names as its past: when an account changed, a session was used, something was
    /// revoked or happened. `None` when there is no such record. Reads them all: for the first start of a store that
    /// holds no mark of the clock.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn latest_moment(&self) -> Result<Option<UnixTime>, StoreError>;

    /// Forgets what expired before `now`, which is the earliest that it can be ([`super::Clock::reading`]):
    /// revocations, sessions, links, counts of mailboxes, and mails that were given up [`GIVEN_UP_LIFE`] ago.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError>;

    /// Writes what lives into fresh files, so that nothing of what was deleted or replaced is left. Commits
    /// go on meanwhile. May take minutes; goes on when the caller leaves.
    ///
    /// # Errors
    /// [`StoreError`]; then the store is what it was.
    async fn compact(&self) -> Result<Compacted, StoreError> {
        Err(StoreError::Unavailable("this store needs no compaction".to_owned()))
    }

    /// The notes of a store that several gateways share; `None`: one process has it to itself, and keeps such things in
    /// its own memory.
    fn shared_notes(&self) -> Option<&dyn SharedNotes> {
        None
    }

    /// How the store is doing. Never blocks.
    fn status(&self) -> StoreStatus;
}

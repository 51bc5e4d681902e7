//! In-memory fakes of the ports, for tests only.

mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

pub use crate::clock_fakes::{FakeClock, NOW};
use crate::feed_fakes::FakeFeed;
pub use crate::lease_fakes::ClaimFault;
use crate::lease_fakes::TakeOver;
pub use crate::limit_fakes::{FakeAudit, FakeLimiter, MISSES, NoMeter};
pub use crate::note_fakes::FakeNotes;
pub use crate::password_fakes::FakePasswords;
pub use crate::token_fakes::{FakeEntropy, FakeIssuerClocks, FakeKeys, FakeSigner};
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::{Connection, ConnectionId};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::lease::{LeaseHolder, LeaseSubject, LeaseTable};
use palisade_core::domain::link::Link;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::{Mailbox, MailboxId};
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::{Session, SessionId};
use palisade_core::domain::task::{Task, TaskKind};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::domain::username::{Username, UsernameFingerprint};
use palisade_core::ports::*;

/// A store that forgets with the process.
#[derive(Default)]
pub struct FakeStore {
    state: Mutex<State>,
    broken: AtomicBool,
    feed: FakeFeed,
    pub(super) lease_time: Mutex<Duration>,
    /// What another gateway commits right before the next claim.
    pub(super) at_claim: Mutex<Vec<Change>>,
    /// The holder that takes over a lease, and when.
    pub(super) usurper: Mutex<Option<(TakeOver, LeaseSubject, LeaseHolder)>>,
    /// What becomes of every claim.
    pub(super) claim_fault: Mutex<Option<ClaimFault>>,
    /// A read of this mail fails.
    pub unreadable_mail: Mutex<Option<uuid::Uuid>>,
    /// How many commits were tried.
    pub commits: AtomicU64,
    /// The next write is made, and its answer is lost.
    pub lose: AtomicBool,
    /// What another writer commits right after the next commit.
    ahead: Mutex<Vec<Change>>,
    between: Mutex<Vec<Change>>,
    /// A read of the account of this address finds a record that cannot be read.
    unreadable: Mutex<Option<EmailAddress>>,
    /// No session can be read.
    pub sessions_unreadable: AtomicBool,
    /// How often it was read or written.
    pub calls: AtomicU64,
    /// What gateways share.
    pub notes: FakeNotes,
    /// Whether several gateways share it.
    pub is_shared: AtomicBool,
    /// The other gateways that live, and what they can read.
    pub replicas: Mutex<Vec<ReplicaFormats>>,
}

/// Cloned for each commit, so that one which fails half-way changes nothing.
#[derive(Default, Clone)]
pub(super) struct State {
    entries: Vec<Revocation>,
    versions: BTreeMap<(String, String), u64>,
    users: BTreeMap<UserId, User>,
    sessions: BTreeMap<(UserId, SessionId), Session>,
    connections: BTreeMap<(UserId, ConnectionId), Connection>,
    links: BTreeMap<TokenHash, Link>,
    mails: BTreeMap<uuid::Uuid, Mail>,
    mailboxes: BTreeMap<MailboxId, Mailbox>,
    tasks: BTreeMap<uuid::Uuid, Task>,
    events: Vec<Event>,
    /// Until when events are kept of accounts that are gone.
    gone: BTreeMap<UserId, UnixTime>,
    mark: Option<Mark>,
    pub(super) leases: LeaseTable,
    key_checks: BTreeMap<String, String>,
    former_usernames: BTreeMap<UsernameFingerprint, UserId>,
    upgrades: BTreeSet<Upgrade>,
    /// Rises with every write.
    writes: u64,
}

impl State {
    fn taken(&self, user: &User) -> bool {
        let others = self.users.values().filter(|other| other.id != user.id);
        others.flat_map(User::addresses).any(|theirs| user.addresses().any(|mine| mine == theirs))
    }

    /// Whose the name is or was, but for `user`.
    fn has_username(&self, user: &User) -> bool {
        let Some(name) = user.username.as_ref().map(Username::fingerprint) else { return false };
        self.username_owner(name).is_some_and(|owner| owner != user.id)
    }

    pub(super) fn has_identity(&self, user: &User) -> bool {
        let taken = |mine: &ProviderIdentity| self.by_identity(mine).is_some_and(|owner| owner.id != user.id);
        user.identities.iter().any(taken)
    }

    fn by_identity(&self, identity: &ProviderIdentity) -> Option<&User> {
        let is = |one: &ProviderIdentity| one.fingerprint() == identity.fingerprint();
        self.users.values().find(|user| user.identities.iter().any(is))
    }

    fn username_owner(&self, name: UsernameFingerprint) -> Option<UserId> {
        let has = |user: &&User| fingerprint(user) == Some(name);
        self.users.values().find(has).map(|user| user.id).or(self.former_usernames.get(&name).copied())
    }

    /// Takes the account in; the name that it had before is kept from all others.
    fn put_user(&mut self, user: User) -> Option<User> {
        let before = self.users.get(&user.id).and_then(fingerprint);
        if let Some(name) = before.filter(|name| fingerprint(&user) != Some(*name)) {
            self.former_usernames.insert(name, user.id);
        }
        if let Some(name) = fingerprint(&user) {
            self.former_usernames.remove(&name);
        }
        self.users.insert(user.id, user)
    }

    pub(super) fn make(&mut self, change: Change) -> Result<Option<Revocation>, CommitError> {
        match change {
            Change::Require(precondition) => {
                let holds = match precondition {
                    Precondition::UserExists(id) => self.users.contains_key(&id),
                    Precondition::TaskWaits(id) => self.tasks.contains_key(&id),
                    Precondition::LeaseStands(lease) => self.leases.stands(&lease),
                };
                holds.then_some(()).ok_or(CommitError::Conflict)?;
            }
            Change::CreateUser(user) if self.taken(&user) => return Err(CommitError::EmailTaken),
            Change::CreateUser(user) if self.has_username(&user) => return Err(CommitError::UsernameTaken),
            Change::CreateUser(user) if self.has_identity(&user) => return Err(CommitError::IdentityTaken),
            Change::CreateUser(user) => {
                if self.put_user(user).is_some() {
                    return Err(CommitError::Conflict);
                }
            }
            Change::UpdateUser(mut user) => {
                if self.users.get(&user.id).is_none_or(|stored| stored.revision != user.revision) {
                    return Err(CommitError::Conflict);
                }
                if self.taken(&user) {
                    return Err(CommitError::EmailTaken);
                }
                if self.has_username(&user) {
                    return Err(CommitError::UsernameTaken);
                }
                if self.has_identity(&user) {
                    return Err(CommitError::IdentityTaken);
                }
                user.revision += 1;
                self.put_user(user);
            }
            Change::DeleteUser(id) => {
                if let Some(name) = self.users.remove(&id).as_ref().and_then(fingerprint) {
                    self.former_usernames.insert(name, id);
                }
                self.sessions.retain(|(user, _), _| *user != id);
                self.connections.retain(|(user, _), _| *user != id);
                self.events.retain(|event| event.user != Some(id));
                self.gone.remove(&id);
            }
            Change::CreateSession(session) => {
                self.sessions.insert((session.user, session.id), session);
            }
            Change::UpdateSession(mut session) => match self.sessions.get_mut(&(session.user, session.id)) {
                Some(stored) if stored.revision == session.revision => {
                    session.revision += 1;
                    *stored = session;
                }
                _ => return Err(CommitError::Conflict),
            },
            Change::EndSession(user, id) => drop(self.sessions.remove(&(user, id))),
            Change::CreateConnection(connection) => {
                if self.connections.insert((connection.user, connection.id), connection).is_some() {
                    return Err(CommitError::Conflict);
                }
            }
            Change::UpdateConnection(mut connection) => {
                match self.connections.get_mut(&(connection.user, connection.id)) {
                    Some(stored) if stored.revision == connection.revision => {
                        connection.revision += 1;
                        *stored = connection;
                    }
                    _ => return Err(CommitError::Conflict),
                }
            }
            Change::RemoveConnection(user, id) => drop(self.connections.remove(&(user, id))),
            Change::CreateLink(link) => drop(self.links.insert(link.hash, link)),
            Change::ConsumeLink(hash) => drop(self.links.remove(&hash).ok_or(CommitError::Conflict)?),
            Change::PutMail(mail) => drop(self.mails.insert(mail.id, mail)),
            Change::RemoveMail(id) => drop(self.mails.remove(&id)),
            Change::PutMailbox(mut mailbox) => {
                let stored = self.mailboxes.get(&mailbox.id).map_or(0, |stored| stored.revision);
                if stored != mailbox.revision {
                    return Err(CommitError::Conflict);
                }
                mailbox.revision += 1;
                self.mailboxes.insert(mailbox.id, mailbox);
            }
            Change::CreateTask(task) => drop(self.tasks.insert(task.id, task)),
            Change::FinishTask(id) => drop(self.tasks.remove(&id).ok_or(CommitError::Conflict)?),
            Change::Record(events) => events.into_iter().for_each(|event| self.record(event)),
            Change::PutClockMark(mark) => self.mark = Some(mark),
            Change::Upgraded(upgrade) => drop(self.upgrades.insert(upgrade)),
            Change::Revoke(revocation) => return Ok(Some(self.revoke(revocation))),
            Change::RaiseVersion { issuer, sub, created_at, expires_at, reason, enforce } => {
                let target = Target::SubjectVersion { issuer: issuer.clone(), sub: sub.clone(), below: 0 };
                let floor = self.standing(&target).map_or(0, |entry| entry.target.limit());
                let version = self.versions.entry((issuer, sub)).or_default();
                *version = (*version + 1).max(floor);
                let target = target.with_limit(*version);
                let entry = self.merged(Revocation { target, expires_at, created_at, reason });
                return Ok(Some(if enforce { self.revoke(entry) } else { entry }));
            }
            Change::RaiseGeneration { issuer, created_at, expires_at, reason, enforce } => {
                let target = Target::IssuerGeneration { issuer: issuer.clone(), below: 0 };
                let floor = self.standing(&target).map_or(0, |entry| entry.target.limit());
                let generation = self.versions.entry((issuer, String::new())).or_default();
                *generation = (*generation + 1).max(floor).max(created_at.0);
                let target = target.with_limit(*generation);
                let entry = self.merged(Revocation { target, expires_at, created_at, reason });
                return Ok(Some(if enforce { self.revoke(entry) } else { entry }));
            }
            Change::CutSessions { issuer, sub, created_at, expires_at, reason } => {
                let key = (issuer.clone(), sub.clone().unwrap_or_default());
                let below = self.versions.get(&key).copied().unwrap_or(0);
                let target = match sub {
                    Some(sub) => Target::SubjectSessions { issuer, sub, below },
                    None => Target::EverySession { issuer, below },
                };
                return Ok(Some(self.revoke(Revocation { target, expires_at, created_at, reason })));
            }
        }
        Ok(None)
    }

    fn standing(&self, target: &Target) -> Option<&Revocation> {
        self.entries.iter().find(|entry| entry.target.key() == target.key())
    }

    fn merged(&self, new: Revocation) -> Revocation {
        let Some(old) = self.standing(&new.target) else { return new };
        let limit = old.target.limit().max(new.target.limit());
        Revocation {
            target: new.target.with_limit(limit),
            expires_at: old.expires_at.max(new.expires_at),
            created_at: old.created_at.max(new.created_at),
            reason: new.reason.or_else(|| old.reason.clone()),
        }
    }

    fn revoke(&mut self, new: Revocation) -> Revocation {
        let entry = self.merged(new);
        self.entries.retain(|other| other.target.key() != entry.target.key());
        self.entries.push(entry.clone());
        entry
    }

    fn record(&mut self, event: Event) {
        if let Some(user) = event.user.filter(|user| !self.users.contains_key(user)) {
            self.gone.entry(user).or_insert(event.at.plus(GONE_EVENTS_LIFE));
        }
        self.keep(event);
    }

    fn keep(&mut self, event: Event) {
        let kept = if event.is_strangers() { STRANGERS_EVENTS_KEPT } else { EVENTS_KEPT };
        let alike = |other: &&Event| (other.user, other.is_strangers()) == (event.user, event.is_strangers());
        if self.events.iter().filter(alike).count() == kept {
            let oldest = self.events.iter().position(|other| alike(&other));
            oldest.map(|oldest| self.events.remove(oldest));
        }
        self.events.push(event);
    }

    fn sweep(&mut self, end: UnixTime) -> Swept {
        self.writes += 1;
        let before = (self.entries.len(), self.sessions.len(), self.links.len());
        self.entries.retain(|entry| entry.expires_at >= end);
        self.sessions.retain(|_, session| session.expires_at >= end);
        self.links.retain(|_, link| link.expires_at >= end);
        for user in self.gone.extract_if(.., |_, gone| *gone < end).map(|(user, _)| user) {
            let is_gone = !self.users.contains_key(&user);
            self.events.retain(|event| event.user != Some(user) || !is_gone);
        }
        self.mailboxes.retain(|_, mailbox| mailbox.ends_at() >= end);
        self.mails.retain(|_, mail| !mail.given_up || mail.created_at.plus(GIVEN_UP_LIFE) >= end);
        Swept {
            revocations: (before.0 - self.entries.len()) as u64,
            sessions: (before.1 - self.sessions.len()) as u64,
            links: (before.2 - self.links.len()) as u64,
        }
    }
}

fn fingerprint(user: &User) -> Option<UsernameFingerprint> {
    user.username.as_ref().map(Username::fingerprint)
}

impl FakeStore {
    /// A store that several gateways share.
    #[must_use]
    pub fn shared() -> FakeStore {
        FakeStore { is_shared: AtomicBool::new(true), ..FakeStore::default() }
    }

    /// Every later write fails.
    pub fn fail(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Writes succeed again.
    pub fn mend(&self) {
        self.broken.store(false, Ordering::Relaxed);
    }

    /// Every revocation.
    pub(super) fn entries(&self) -> Vec<Revocation> {
        self.state().entries.clone()
    }

    /// Another writer makes these changes right behind the next commit.
    pub fn get_in_between(&self, changes: Vec<Change>) {
        *self.between.lock().unwrap() = changes;
    }

    /// Another writer makes these changes right before the next commit.
    pub fn get_ahead(&self, changes: Vec<Change>) {
        *self.ahead.lock().unwrap() = changes;
    }

    /// The account of this address cannot be read any more.
    pub fn damage(&self, email: &EmailAddress) {
        *self.unreadable.lock().unwrap() = Some(email.clone());
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("disk secret detail".to_owned())),
            false => Ok(()),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.state.lock().unwrap()
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn commit(&self, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let begun = std::time::Instant::now();
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.check()?;
        check_formats(&changes, &self.replicas.lock().unwrap()).map_err(StoreError::from)?;
        self.take_over(TakeOver::BeforeCommit);
        let mut state = self.state();
        for change in self.ahead.lock().unwrap().drain(..) {
            state.make(change).unwrap();
        }
        let mut next = state.clone();
        next.writes += 1;
        let in_force = InForce::of(&changes);
        let mut revocations = Vec::new();
        for change in changes {
            revocations.extend(next.make(change)?);
        }
        let position = self.feed.publish(in_force.among(&revocations).cloned().collect());
        for change in self.between.lock().unwrap().drain(..) {
            next.make(change).unwrap();
        }
        *state = next;
        drop(state);
        self.take_over(TakeOver::AfterCommit);
        match self.lose.swap(false, Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("the answer was lost".to_owned()).into()),
            false => {
                let acknowledgement = Acknowledgement { by: ConfirmedBy::Memory, took: begun.elapsed() };
                Ok(Committed { revocations, position, acknowledgement })
            }
        }
    }

    fn position(&self) -> Position {
        self.feed.position()
    }

    async fn subscribe(&self, since: Position) -> Result<Box<dyn Subscription>, SubscriptionError> {
        Ok(Box::new(self.feed.subscribe(since)?))
    }

    async fn generation(&self, issuer: &str) -> Result<u64, StoreError> {
        self.version(issuer, "").await
    }

    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError> {
        let key = (issuer.to_owned(), sub.to_owned());
        Ok(self.state().versions.get(&key).copied().unwrap_or(0))
    }

    async fn each_revocation(
        &self,
        now: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError> {
        self.state().entries.iter().filter(|entry| entry.expires_at >= now).cloned().for_each(each);
        Ok(())
    }

    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        let mut entries = self.state().entries.clone();
        entries.reverse();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.created_at));
        entries.truncate(limit);
        Ok(entries)
    }

    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError> {
        Ok(self.state().standing(target).cloned())
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        Ok(self.state().users.get(&id).cloned())
    }

    async fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, StoreError> {
        if self.unreadable.lock().unwrap().as_ref() == Some(email) {
            return Err(StoreError::Unreadable("a fake".to_owned()));
        }
        Ok(self.state().users.values().find(|user| user.addresses().any(|owned| owned == email)).cloned())
    }

    async fn user_by_username(&self, name: &Username) -> Result<Option<User>, StoreError> {
        let has = |user: &&User| fingerprint(user) == Some(name.fingerprint());
        Ok(self.state().users.values().find(has).cloned())
    }

    async fn user_by_identity(&self, identity: &ProviderIdentity) -> Result<Option<User>, StoreError> {
        Ok(self.state().by_identity(identity).cloned())
    }

    async fn gone_users(&self, since: UnixTime) -> Result<Vec<(UserId, UnixTime)>, StoreError> {
        let at = |until: &UnixTime| UnixTime(until.0.saturating_sub(GONE_EVENTS_LIFE.as_secs()));
        let state = self.state();
        let gone = state.gone.iter().map(|(user, until)| (*user, at(until)));
        Ok(gone.filter(|(_, at)| *at >= since).collect())
    }

    async fn username_owner(&self, name: &Username) -> Result<Option<UserId>, StoreError> {
        Ok(self.state().username_owner(name.fingerprint()))
    }

    async fn is_upgraded(&self, upgrade: Upgrade) -> Result<bool, StoreError> {
        Ok(self.state().upgrades.contains(&upgrade))
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError> {
        let state = self.state();
        let behind = state.users.values().filter(|user| after.is_none_or(|after| user.id > after));
        Ok(behind.take(limit).cloned().collect())
    }

    async fn session(&self, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError> {
        if self.sessions_unreadable.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("a fake".to_owned()));
        }
        Ok(self.state().sessions.get(&(user, id)).cloned())
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        Ok(self.state().sessions.values().filter(|session| session.user == user).cloned().collect())
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        Ok(self.state().sessions.values().find(|session| session.id == id).cloned())
    }

    async fn all_sessions(
        &self,
        after: Option<(UserId, SessionId)>,
        limit: usize,
    ) -> Result<Vec<Session>, StoreError> {
        let state = self.state();
        let behind = state.sessions.iter().filter(|(key, _)| after.is_none_or(|after| **key > after));
        Ok(behind.take(limit).map(|(_, session)| session.clone()).collect())
    }

    async fn connection(&self, user: UserId, id: ConnectionId) -> Result<Option<Connection>, StoreError> {
        Ok(self.state().connections.get(&(user, id)).cloned())
    }

    async fn connections(&self, user: UserId) -> Result<Vec<Connection>, StoreError> {
        let state = self.state();
        Ok(state.connections.values().filter(|connection| connection.user == user).cloned().collect())
    }

    async fn all_connections(
        &self,
        after: Option<(UserId, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Connection>, StoreError> {
        let state = self.state();
        let behind = state.connections.iter().filter(|(key, _)| after.is_none_or(|after| **key > after));
        Ok(behind.take(limit).map(|(_, connection)| connection.clone()).collect())
    }

    async fn due_connections(&self, now: UnixTime, limit: usize) -> Result<Vec<Connection>, StoreError> {
        let is_due = |connection: &&Connection| connection.due_at.is_some_and(|due| due <= now);
        let mut due: Vec<_> = self.state().connections.values().filter(is_due).cloned().collect();
        due.sort_by_key(|connection| connection.due_at);
        due.truncate(limit);
        Ok(due)
    }

    async fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError> {
        Ok(self.state().links.get(hash).cloned())
    }

    async fn task(&self, id: uuid::Uuid) -> Result<Option<Task>, StoreError> {
        Ok(self.state().tasks.get(&id).cloned())
    }

    async fn due_tasks_of(
        &self,
        kind: TaskKind,
        now: UnixTime,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let is_due = |task: &&Task| task.due_at <= now && task.work.kind() == kind;
        let mut due: Vec<_> = self.state().tasks.values().filter(is_due).cloned().collect();
        due.sort_by_key(|task| task.due_at);
        due.truncate(limit);
        Ok(due)
    }

    async fn due_mails(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError> {
        let is_due = |mail: &&Mail| mail.due_at <= now && !mail.given_up;
        let mut due: Vec<_> = self.state().mails.values().filter(is_due).cloned().collect();
        due.sort_by_key(|mail| mail.due_at);
        due.truncate(limit);
        Ok(due)
    }

    async fn mail(&self, id: uuid::Uuid) -> Result<Option<Mail>, StoreError> {
        if *self.unreadable_mail.lock().unwrap() == Some(id) {
            return Err(StoreError::Unreadable("the record of a mail".to_owned()));
        }
        Ok(self.state().mails.get(&id).cloned())
    }

    async fn mailbox(&self, id: MailboxId) -> Result<Option<Mailbox>, StoreError> {
        Ok(self.state().mailboxes.get(&id).cloned())
    }

    async fn mails(&self, limit: usize) -> Result<Vec<Mail>, StoreError> {
        Ok(self.state().mails.values().rev().take(limit).cloned().collect())
    }

    async fn events(&self, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, StoreError> {
        let state = self.state();
        let theirs = state.events.iter().rev().filter(|event| event.user == user);
        Ok(theirs.take(limit).cloned().collect())
    }

    async fn clock_mark(&self) -> Result<Option<Mark>, StoreError> {
        Ok(self.state().mark.clone())
    }

    async fn latest_moment(&self) -> Result<Option<UnixTime>, StoreError> {
        let state = self.state();
        let revoked = state.entries.iter().map(|entry| entry.created_at);
        let used = state.sessions.values().map(|session| session.last_used_at);
        Ok(revoked.chain(used).chain(state.users.values().map(|user| user.updated_at)).max())
    }

    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError> {
        self.check()?;
        Ok(self.state().sweep(now.minus(Duration::from_secs(3600))))
    }

    async fn compact(&self) -> Result<Compacted, StoreError> {
        self.check()?;
        Ok(Compacted { before: 2, after: 1, live: 1, took: Duration::ZERO })
    }

    fn shared_notes(&self) -> Option<&dyn SharedNotes> {
        self.is_shared.load(Ordering::Relaxed).then_some(&self.notes)
    }

    fn status(&self) -> StoreStatus {
        StoreStatus { writable: self.check().is_ok(), ..StoreStatus::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use palisade_core::ports::Store;

    use super::FakeStore;
    use crate::conformance;

    /// What the use cases are tested with is what they get.
    #[tokio::test]
    async fn the_fake_store_conforms() {
        conformance::cases(async || Arc::new(FakeStore::default()) as Arc<dyn Store>).await;
    }

    #[tokio::test]
    async fn the_leases_of_the_fake_store_conform() {
        let store = Arc::new(FakeStore::default());
        let clock = Arc::clone(&store);
        crate::lease_conformance::leases(store, async |span| clock.pass_lease_time(span)).await;
    }
}

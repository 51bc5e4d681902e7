//! What each change of a commit requires, and what it writes.
//!
//! A record and what is filed about it come and go in one step: an address with its account, a due moment
//! with what is due.

use ::sled::IVec;
use uuid::Uuid;

use super::draft::Draft;
use super::keys::{self, Key};
use super::record::{
    decode, decode_revocation, decode_session, encode_revocation, encode_session, encode_task, encode_user,
    session_filed,
};
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::connection::Connection;
use palisade_core::domain::link::Link;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::Mailbox;
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::Session;
use palisade_core::domain::task::{Errand, Task, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::username::{Username, UsernameFingerprint};
use palisade_core::ports::{Change, CommitError, GIVEN_UP_LIFE, Precondition, StoreError};

/// Where a mail is filed: among those that are tried, or, once it was given up, under its end.
pub(super) fn mail_filed(mail: &Mail) -> Key {
    match mail.given_up {
        false => keys::due_mail(mail.due_at, mail.id),
        true => keys::due(mail.created_at.plus(GIVEN_UP_LIFE), &keys::mail(mail.id)),
    }
}

impl Draft<'_> {
    /// Makes one change. Returns what the commit answers for it.
    pub(super) fn make(&mut self, change: Change) -> Result<Option<Revocation>, CommitError> {
        match change {
            Change::Require(precondition) => self.require(precondition)?,
            Change::CreateUser(user) => self.create_user(&user)?,
            Change::UpdateUser(user) => self.update_user(user)?,
            Change::DeleteUser(id) => self.delete_user(id)?,
            Change::CreateSession(session) => self.create_session(&session)?,
            Change::UpdateSession(session) => self.update_session(session)?,
            Change::EndSession(user, id) => self.end_session(keys::session(user, id))?,
            Change::CreateConnection(connection) => self.create_connection(&connection)?,
            Change::UpdateConnection(connection) => self.update_connection(connection)?,
            Change::RemoveConnection(user, id) => self.remove_connection(keys::connection(user, id))?,
            Change::CreateLink(link) => self.create_link(&link)?,
            Change::ConsumeLink(hash) => {
                let key = keys::link(&hash);
                let link = self.stored::<Link>(&key)?.ok_or(CommitError::Conflict)?;
                self.evict(keys::due(link.expires_at, &key));
                self.remove(key)?;
            }
            Change::PutMail(mail) => self.put_mail(&mail)?,
            Change::RemoveMail(id) => self.remove_mail(id)?,
            Change::PutMailbox(mailbox) => self.put_mailbox(mailbox)?,
            Change::CreateTask(task) => self.create_task(&task)?,
            Change::FinishTask(id) => self.finish_task(id)?,
            Change::Record(events) => events.iter().try_for_each(|event| self.record(event))?,
            Change::PutClockMark(mark) => self.write(keys::clock(), &mark)?,
            Change::Upgraded(upgrade) => self.write(keys::upgrade(upgrade), &upgrade)?,
            Change::Revoke(revocation) => return Ok(Some(self.revoke(revocation)?)),
            Change::RaiseVersion { issuer, sub, created_at, expires_at, reason, enforce } => {
                let entry = self.raise_version(issuer, sub, (created_at, expires_at), reason)?;
                return Ok(Some(if enforce { self.revoke(entry)? } else { entry }));
            }
            Change::RaiseGeneration { issuer, created_at, expires_at, reason, enforce } => {
                let entry = self.raise_generation(issuer, (created_at, expires_at), reason)?;
                return Ok(Some(if enforce { self.revoke(entry)? } else { entry }));
            }
            Change::CutSessions { issuer, sub, created_at, expires_at, reason } => {
                let entry = self.cut_sessions(issuer, sub, (created_at, expires_at), reason)?;
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn stored<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
    }

    fn require(&self, precondition: Precondition) -> Result<(), CommitError> {
        let holds = match precondition {
            Precondition::UserExists(id) => self.has(&keys::user(id))?,
            Precondition::TaskWaits(id) => self.has(&keys::task(id))?,
            // A draft without leases grants nothing.
            Precondition::LeaseStands(lease) => self.leases.is_some_and(|leases| leases.stands(&lease)),
        };
        holds.then_some(()).ok_or(CommitError::Conflict)
    }

    /// Gives the account its addresses, unless one is another's.
    fn claim_emails(&mut self, user: &User) -> Result<(), CommitError> {
        for email in user.addresses() {
            let key = keys::email(email);
            match self.stored::<UserId>(&key)? {
                Some(owner) if owner != user.id => return Err(CommitError::EmailTaken),
                Some(_) => {}
                None => self.write(key, &user.id)?,
            }
        }
        Ok(())
    }

    /// Gives the account its user name, unless another one has or had it.
    fn claim_username(&mut self, user: &User) -> Result<(), CommitError> {
        let Some(name) = user.username.as_ref().map(Username::fingerprint) else { return Ok(()) };
        let (key, former) = (keys::username(name), keys::former_username(name));
        match self.stored::<UserId>(&key)?.or(self.stored(&former)?) {
            Some(owner) if owner != user.id => return Err(CommitError::UsernameTaken),
            _ => {}
        }
        if self.has(&former)? {
            self.remove(former)?;
        }
        if !self.has(&key)? {
            self.write(key, &user.id)?;
        }
        Ok(())
    }

    /// Gives the account its identities at providers, unless one is another's.
    fn claim_identities(&mut self, user: &User) -> Result<(), CommitError> {
        for identity in &user.identities {
            let key = keys::identity(identity.fingerprint());
            match self.stored::<UserId>(&key)? {
                Some(owner) if owner != user.id => return Err(CommitError::IdentityTaken),
                Some(_) => {}
                None => self.write(key, &user.id)?,
            }
        }
        Ok(())
    }

    /// The account has this name no more, and no other gets it.
    fn leave_username(&mut self, user: UserId, name: UsernameFingerprint) -> Result<(), StoreError> {
        self.remove(keys::username(name))?;
        self.write(keys::former_username(name), &user)
    }

    pub(super) fn create_user(&mut self, user: &User) -> Result<(), CommitError> {
        self.claim_emails(user)?;
        self.claim_username(user)?;
        self.claim_identities(user)?;
        let key = keys::user(user.id);
        if self.has(&key)? {
            return Err(CommitError::Conflict);
        }
        self.put(key, encode_user(user)?)?;
        Ok(())
    }

    fn update_user(&mut self, mut user: User) -> Result<(), CommitError> {
        let key = keys::user(user.id);
        let stored = self.stored::<User>(&key)?.ok_or(CommitError::Conflict)?;
        if stored.revision != user.revision {
            return Err(CommitError::Conflict);
        }
        // Behind that: of an account that is gone, another one may well have the address.
        self.claim_emails(&user)?;
        for old in stored.addresses().filter(|old| !user.addresses().any(|kept| kept == *old)) {
            self.remove(keys::email(old))?;
        }
        let name = |user: &User| user.username.as_ref().map(Username::fingerprint);
        if let Some(old) = name(&stored).filter(|old| name(&user) != Some(*old)) {
            self.leave_username(user.id, old)?;
        }
        self.claim_username(&user)?;
        let kept =
            |old: &ProviderIdentity| user.identities.iter().any(|now| now.fingerprint() == old.fingerprint());
        for old in stored.identities.iter().filter(|old| !kept(old)) {
            self.remove(keys::identity(old.fingerprint()))?;
        }
        self.claim_identities(&user)?;
        user.revision += 1;
        self.put(key, encode_user(&user)?)?;
        Ok(())
    }

    fn delete_user(&mut self, id: UserId) -> Result<(), StoreError> {
        let key = keys::user(id);
        if let Some(user) = self.stored::<User>(&key)? {
            user.addresses().try_for_each(|email| self.remove(keys::email(email)))?;
            if let Some(name) = &user.username {
                self.leave_username(id, name.fingerprint())?;
            }
            for identity in &user.identities {
                self.remove(keys::identity(identity.fingerprint()))?;
            }
            self.remove(key)?;
            self.erased();
        }
        for session in self.under(&keys::sessions(id))? {
            self.end_session(session)?;
        }
        for connection in self.under(&keys::connections(id))? {
            self.remove_connection(connection)?;
        }
        self.forget_events(id)
    }

    fn create_session(&mut self, session: &Session) -> Result<(), StoreError> {
        let key = keys::session(session.user, session.id);
        self.end_session(key.clone())?;
        self.file_session(key, session)
    }

    /// A session is filed under its end when it is made. Later ends are left to the sweeper, which looks
    /// when that moment has come: a refresh writes one record and nothing else.
    fn update_session(&mut self, mut session: Session) -> Result<(), CommitError> {
        let key = keys::session(session.user, session.id);
        let bytes = self.get(&key)?.ok_or(CommitError::Conflict)?;
        if decode_session(&key, &bytes)?.revision != session.revision {
            return Err(CommitError::Conflict);
        }
        session.revision += 1;
        let filed = session_filed(&key, &bytes)?;
        if session.expires_at < filed {
            self.evict(keys::due(filed, &key));
            self.file_session(key, &session)?;
        } else {
            self.put(key, encode_session(filed, &session)?)?;
        }
        Ok(())
    }

    /// Writes the session and files it under its present end.
    pub(super) fn file_session(&mut self, key: Key, session: &Session) -> Result<(), StoreError> {
        self.index(keys::due(session.expires_at, &key));
        self.put(key, encode_session(session.expires_at, session)?)
    }

    fn end_session(&mut self, key: Key) -> Result<(), StoreError> {
        if let Some(bytes) = self.get(&key)? {
            self.evict(keys::due(session_filed(&key, &bytes)?, &key));
            self.remove(key)?;
        }
        Ok(())
    }

    pub(super) fn create_connection(&mut self, connection: &Connection) -> Result<(), CommitError> {
        let key = keys::connection(connection.user, connection.id);
        if self.has(&key)? {
            return Err(CommitError::Conflict);
        }
        self.file_connection(key, connection)?;
        Ok(())
    }

    fn update_connection(&mut self, mut connection: Connection) -> Result<(), CommitError> {
        let key = keys::connection(connection.user, connection.id);
        let stored = self.stored::<Connection>(&key)?.ok_or(CommitError::Conflict)?;
        if stored.revision != connection.revision {
            return Err(CommitError::Conflict);
        }
        connection.revision += 1;
        if stored.tokens.is_some() && connection.tokens.is_none() {
            self.erased();
        }
        self.unfile_connection(&stored);
        self.file_connection(key, &connection)?;
        Ok(())
    }

    fn file_connection(&mut self, key: Key, connection: &Connection) -> Result<(), StoreError> {
        if let Some(due_at) = connection.due_at {
            self.index(keys::due_connection(due_at, connection.user, connection.id));
        }
        self.write(key, connection)
    }

    fn unfile_connection(&mut self, connection: &Connection) {
        if let Some(due_at) = connection.due_at {
            self.evict(keys::due_connection(due_at, connection.user, connection.id));
        }
    }

    fn remove_connection(&mut self, key: Key) -> Result<(), StoreError> {
        if let Some(stored) = self.stored::<Connection>(&key)? {
            self.unfile_connection(&stored);
            self.remove(key)?;
            self.erased();
        }
        Ok(())
    }

    /// What this commit removes is to be gone from the engine's files too, before long.
    fn erased(&mut self) {
        self.index(keys::erased());
    }

    /// A mail was removed: if no account has its address any more, this was the last of it.
    pub(super) fn erased_with(&mut self, mail: &Mail) -> Result<(), StoreError> {
        if !self.has(&keys::email(&mail.to))? {
            self.erased();
        }
        Ok(())
    }

    pub(super) fn create_link(&mut self, link: &Link) -> Result<(), StoreError> {
        let key = keys::link(&link.hash);
        if let Some(old) = self.stored::<Link>(&key)? {
            self.evict(keys::due(old.expires_at, &key));
        }
        self.index(keys::due(link.expires_at, &key));
        self.write(key, link)
    }

    pub(super) fn put_mail(&mut self, mail: &Mail) -> Result<(), StoreError> {
        self.unfile_mail(mail.id)?;
        self.index(mail_filed(mail));
        self.write(keys::mail(mail.id), mail)
    }

    fn remove_mail(&mut self, id: Uuid) -> Result<(), StoreError> {
        let key = keys::mail(id);
        if let Some(stored) = self.stored::<Mail>(&key)? {
            self.evict(mail_filed(&stored));
            self.remove(key)?;
            self.erased_with(&stored)?;
        }
        Ok(())
    }

    pub(super) fn create_task(&mut self, task: &Task) -> Result<(), StoreError> {
        let key = keys::task(task.id);
        if let Some(old) = self.stored::<Task>(&key)? {
            self.evict(keys::due_task(&old));
        }
        self.index(keys::due_task(task));
        self.put(key, encode_task(task)?)
    }

    fn finish_task(&mut self, id: Uuid) -> Result<(), CommitError> {
        let key = keys::task(id);
        let stored = self.stored::<Task>(&key)?.ok_or(CommitError::Conflict)?;
        self.evict(keys::due_task(&stored));
        self.remove(key)?;
        // It held the sealed tokens of a grant that is no more.
        if matches!(stored.work, Work::Errand { errand: Errand::EndGrant(_), .. }) {
            self.erased();
        }
        Ok(())
    }

    fn put_mailbox(&mut self, mut mailbox: Mailbox) -> Result<(), CommitError> {
        let key = keys::mailbox(mailbox.id);
        let stored = self.stored::<Mailbox>(&key)?;
        if stored.as_ref().map_or(0, |stored| stored.revision) != mailbox.revision {
            return Err(CommitError::Conflict);
        }
        if let Some(stored) = stored {
            self.evict(keys::due(stored.ends_at(), &key));
        }
        mailbox.revision += 1;
        self.index(keys::due(mailbox.ends_at(), &key));
        self.write(key, &mailbox)?;
        Ok(())
    }

    fn unfile_mail(&mut self, id: Uuid) -> Result<(), StoreError> {
        if let Some(old) = self.stored::<Mail>(&keys::mail(id))? {
            self.evict(mail_filed(&old));
        }
        Ok(())
    }

    fn standing(&self, key: &[u8], target: &Target) -> Result<Option<Revocation>, StoreError> {
        let (kind, issuer, name) = target.key();
        let found: Option<IVec> = self.get(key)?;
        found
            .map(|bytes| decode_revocation(key, &bytes)?.of((kind, issuer.to_owned(), name.to_owned())))
            .transpose()
    }

    pub(super) fn revocation_key(&mut self, target: &Target) -> Result<Key, StoreError> {
        let (kind, issuer, name) = target.key();
        Ok(keys::revocation(kind, self.issuer(issuer)?, name))
    }

    /// Records a revocation, merged with the entry that stands under its key.
    pub(super) fn revoke(&mut self, revocation: Revocation) -> Result<Revocation, StoreError> {
        let key = self.revocation_key(&revocation.target)?;
        let old = self.standing(&key, &revocation.target)?;
        if let Some(old) = &old {
            self.evict(keys::due(old.expires_at, &key));
        }
        let entry = merged(old, revocation);
        self.index(keys::due(entry.expires_at, &key));
        self.put(key, encode_revocation(&entry)?)?;
        Ok(entry)
    }

    /// Raises the version of `sub`. Returns the revocation of every token below it, which is not recorded.
    fn raise_version(
        &mut self,
        issuer: String,
        sub: String,
        (created_at, expires_at): (UnixTime, UnixTime),
        reason: Option<String>,
    ) -> Result<Revocation, StoreError> {
        let number = self.issuer(&issuer)?;
        let key = keys::version(number, &sub);
        let target = Target::SubjectVersion { issuer, sub, below: 0 };
        self.raise(key, number, Revocation { target, expires_at, created_at, reason }, 0)
    }

    /// Raises the generation of all tokens of `issuer`. Returns the revocation of every token below it, which
    /// is not recorded.
    fn raise_generation(
        &mut self,
        issuer: String,
        (created_at, expires_at): (UnixTime, UnixTime),
        reason: Option<String>,
    ) -> Result<Revocation, StoreError> {
        let number = self.issuer(&issuer)?;
        let target = Target::IssuerGeneration { issuer, below: 0 };
        let entry = Revocation { target, expires_at, created_at, reason };
        // No lower than the time: the tokens that were signed after a backup must end too once it is restored.
        self.raise(keys::generation(number), number, entry, created_at.0)
    }

    /// Revokes the sessions that were begun below the present version of `sub`, or below the present generation.
    fn cut_sessions(
        &mut self,
        issuer: String,
        sub: Option<String>,
        (created_at, expires_at): (UnixTime, UnixTime),
        reason: Option<String>,
    ) -> Result<Revocation, StoreError> {
        let number = self.issuer(&issuer)?;
        let key = sub.as_ref().map_or_else(|| keys::generation(number), |sub| keys::version(number, sub));
        let below = self.stored::<u64>(&key)?.unwrap_or(0);
        let target = match sub {
            Some(sub) => Target::SubjectSessions { issuer, sub, below },
            None => Target::EverySession { issuer, below },
        };
        self.revoke(Revocation { target, expires_at, created_at, reason })
    }

    /// Raises the number at `key` to `at_least` or by one, and `entry`'s limit to it.
    fn raise(
        &mut self,
        key: Key,
        issuer: u32,
        entry: Revocation,
        at_least: u64,
    ) -> Result<Revocation, StoreError> {
        let (kind, _, name) = entry.target.key();
        let standing = self.standing(&keys::revocation(kind, issuer, name), &entry.target)?;
        let raised = self.stored::<u64>(&key)?.unwrap_or(0).saturating_add(1);
        // An operator may already have revoked further than the number ever rose; a token signed with the
        // new one must not be born revoked.
        let floor = standing.as_ref().map_or(0, |standing| standing.target.limit());
        let raised = raised.max(floor).max(at_least);
        self.write(key, &raised)?;
        let target = entry.target.with_limit(raised);
        Ok(merged(standing, Revocation { target, ..entry }))
    }
}

/// Two statements under one key: the larger limit, the later end, and the later word on why.
fn merged(old: Option<Revocation>, new: Revocation) -> Revocation {
    let Some(old) = old else { return new };
    let limit = old.target.limit().max(new.target.limit());
    Revocation {
        target: new.target.with_limit(limit),
        expires_at: old.expires_at.max(new.expires_at),
        created_at: old.created_at.max(new.created_at),
        reason: new.reason.or(old.reason),
    }
}

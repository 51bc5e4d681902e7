//! What becomes of the records of a backup on their way into a store that is restored.
//!
//! An older state brings things back to life that have ended since. So the ends that are known are put over it
//! ([`Ends`]), and, unless the operator refuses it, everything is cut off that could have ended unknown ([`Cutoff`]):
//! tokens, sessions, mailed links, and what was under way. This happens before a record reaches the store, so that no
//! store ever holds the state without its cutoff. `docs/backups.md` lists every kind of record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use async_trait::async_trait;

use super::revoke::{FOREIGN_LIFE, Lives};
use crate::domain::account::{User, UserId};
use crate::domain::connection::{Connection, Status};
use crate::domain::email::EmailAddress;
use crate::domain::ends::{End, Ends, session_of};
use crate::domain::mail::Mail;
use crate::domain::revocation::{Kind, Revocation, Target};
use crate::domain::session::{Session, SessionId};
use crate::domain::task::{Task, Work};
use crate::domain::time::UnixTime;
use crate::domain::username::{Username, UsernameFingerprint};
use crate::ports::{Record, RecordSource, StoreError, VersionedRecord};

/// Why the entries of the cutoff were made, for people.
const REASON: &str = "a backup was restored";

/// How everything is cut off that a backup brings.
#[derive(Debug, Clone)]
pub struct Cutoff {
    /// The gateway's own issuer.
    pub issuer: String,
    /// Other issuers whose tokens are taken.
    pub others: Vec<String>,
    /// Now, and no earlier than the latest moment that the clock of the backup ever showed: what has to outlast everything
    /// that was signed so far is kept for a span from here.
    pub horizon: UnixTime,
    /// Now.
    pub now: UnixTime,
    pub lives: Lives,
}

impl Cutoff {
    /// The revocations but for that of our own generation, which the records tell.
    fn of_others(&self) -> impl Iterator<Item = Revocation> {
        // The last `iat` that a token which was issued by now can have and still be accepted.
        let until = self.now.plus(self.lives.leeway);
        let expires_at = self.horizon.plus(self.lives.tokens.max(FOREIGN_LIFE)).plus(self.lives.leeway);
        self.others.iter().map(move |issuer| {
            let target = Target::Issuer { issuer: issuer.clone(), until };
            self.entry(target, expires_at)
        })
    }

    fn of_ours(&self, below: u64) -> [Revocation; 2] {
        let issuer = || self.issuer.clone();
        let tokens = self.horizon.plus(self.lives.tokens).plus(self.lives.leeway);
        let sessions = self.lives.sessions;
        let sessions: Duration = sessions
            .absolute
            .max(sessions.sliding)
            .max(sessions.browser.absolute)
            .saturating_add(self.lives.tokens);
        let sessions = self.horizon.plus(sessions).plus(self.lives.leeway);
        [
            self.entry(Target::IssuerGeneration { issuer: issuer(), below }, tokens),
            self.entry(Target::EverySession { issuer: issuer(), below }, sessions),
        ]
    }

    fn entry(&self, target: Target, expires_at: UnixTime) -> Revocation {
        Revocation { target, expires_at, created_at: self.now, reason: Some(REASON.to_owned()) }
    }
}

/// What was left out or changed, for the operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreCounts {
    /// Records that the store got.
    pub restored: u64,
    pub accounts_erased: u64,
    pub accounts_disabled: u64,
    pub sessions_ended: u64,
    pub connections_ended: u64,
    /// Consents that were being given.
    pub consents_ended: u64,
    /// Links, invitations among them.
    pub links_ended: u64,
    /// Registrations, resets and changes of address that were under way.
    pub flows_ended: u64,
    /// Letters whose links are dead.
    pub letters_dropped: u64,
    /// Entries of the set of revocations that came from the journal or the cutoff.
    pub revocations_added: u64,
}

/// The records of `source` as they are restored.
pub struct Restored<'a> {
    source: &'a mut dyn RecordSource,
    ends: Ends,
    /// Sessions that a revocation among the ends names.
    revoked: BTreeSet<SessionId>,
    cutoff: Option<Cutoff>,
    /// The numbers that tokens must carry, by issuer and subject; no subject: the generation.
    versions: BTreeMap<(String, Option<String>), u64>,
    /// Addresses of accounts that are erased: nothing is mailed to them.
    addresses: BTreeSet<EmailAddress>,
    /// User names that no account gets any more, and those that came.
    former: BTreeMap<UsernameFingerprint, UserId>,
    /// What is to come behind the records of the source.
    behind: Option<VecDeque<VersionedRecord>>,
    counts: RestoreCounts,
}

impl<'a> Restored<'a> {
    /// Puts `ends` over the records of `source`, and cuts off what they bring where a cutoff is given.
    #[must_use]
    pub fn new(source: &'a mut dyn RecordSource, mut ends: Ends, cutoff: Option<Cutoff>) -> Restored<'a> {
        for entry in cutoff.iter().flat_map(Cutoff::of_others) {
            ends.revoke(entry);
        }
        let named = ends.revocations.keys().filter(|(kind, ..)| *kind == Kind::Session);
        let revoked = named.filter_map(|(.., name)| session_of(name)).collect();
        let mut restored = Restored {
            source,
            ends,
            revoked,
            cutoff,
            versions: BTreeMap::new(),
            addresses: BTreeSet::new(),
            former: BTreeMap::new(),
            behind: None,
            counts: RestoreCounts::default(),
        };
        let floors: Vec<_> = restored.ends.revocations.values().filter_map(floor).collect();
        for (key, number) in floors {
            restored.raise(key, number);
        }
        restored
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> RestoreCounts {
        self.counts
    }

    fn raise(&mut self, key: (String, Option<String>), number: u64) {
        let standing = self.versions.entry(key).or_default();
        *standing = number.max(*standing);
    }

    /// The record as it is restored; `None`: it is not, or comes behind the others.
    fn restore(&mut self, record: Record) -> Option<Record> {
        let cuts = self.cutoff.is_some();
        Some(match record {
            Record::User(user) => Record::User(self.user(user)?),
            Record::Session(session) => {
                if cuts || self.is_ended(&session) {
                    self.counts.sessions_ended += 1;
                    return None;
                }
                Record::Session(session)
            }
            Record::Connection(connection) => Record::Connection(Box::new(self.connection(*connection)?)),
            Record::Link(link) => {
                let is_ended =
                    self.ends.links.contains(&link.hash.0) || self.ends.erased.contains(&link.user);
                if cuts || is_ended {
                    self.counts.links_ended += 1;
                    return None;
                }
                Record::Link(link)
            }
            Record::Revocation(revocation) => return self.revocation(revocation),
            Record::TokenVersion { issuer, sub, version } => {
                let is_cut =
                    sub.is_none() && self.cutoff.as_ref().is_some_and(|cutoff| cutoff.issuer == issuer);
                let key = (issuer, sub);
                if is_cut || self.versions.contains_key(&key) {
                    self.raise(key, version);
                    return None;
                }
                let (issuer, sub) = key;
                Record::TokenVersion { issuer, sub, version }
            }
            Record::Task(task) => Record::Task(self.task(task)?),
            Record::Mail(mail) => Record::Mail(self.mail(mail)?),
            Record::Event(event) => {
                if event.user.is_some_and(|user| self.ends.erased.contains(&user)) {
                    return None;
                }
                Record::Event(event)
            }
            Record::FormerUsername { name, user } => {
                // One of an account that was erased is there already.
                self.former.entry(name).or_insert(user);
                return None;
            }
            // They bring nothing back: counts, times, and what is known of secrets.
            Record::Mailbox(_)
            | Record::EventsEnd { .. }
            | Record::ClockMark(_)
            | Record::KeyCheck { .. }
            | Record::Upgrade(_) => record,
        })
    }

    fn user(&mut self, mut user: User) -> Option<User> {
        if self.ends.erased.contains(&user.id) {
            self.addresses.extend(user.addresses().cloned());
            if let Some(name) = user.username.as_ref().map(Username::fingerprint) {
                self.former.insert(name, user.id);
            }
            self.counts.accounts_erased += 1;
            return None;
        }
        if user.active && self.ends.disabled.contains(&user.id) {
            user.active = false;
            self.counts.accounts_disabled += 1;
        }
        if self.cutoff.is_some() {
            user.void_links();
            // Their links are void as well: an operator decides then.
            user.email_changes.undoable.clear();
        }
        Some(user)
    }

    /// Whether the journal has ended the session.
    fn is_ended(&self, session: &Session) -> bool {
        let (user, id) = (session.user, session.id);
        self.ends.erased.contains(&user)
            || self.ends.disabled.contains(&user)
            || self.ends.sessions.contains(&(user, id))
            || self.revoked.contains(&id)
    }

    fn connection(&mut self, mut connection: Connection) -> Option<Connection> {
        let is_ended = self.ends.erased.contains(&connection.user)
            || self.ends.connections.contains(&(connection.user, connection.id));
        if is_ended {
            self.counts.connections_ended += 1;
            return None;
        }
        if self.cutoff.is_some() && (connection.consent.is_some() || connection.status == Status::Pending) {
            self.counts.consents_ended += 1;
            if connection.status == Status::Pending {
                return None;
            }
            connection.consent = None;
        }
        Some(connection)
    }

    /// One whose key the ends have is merged into them, and comes behind the others.
    fn revocation(&mut self, revocation: Revocation) -> Option<Record> {
        let (kind, issuer, name) = revocation.target.key();
        let key = (kind, issuer.to_owned(), name.to_owned());
        let is_ours = self.cutoff.as_ref().is_some_and(|cutoff| cutoff.issuer == key.1);
        let is_cut = is_ours && matches!(kind, Kind::IssuerGeneration | Kind::EverySession);
        if is_cut || self.ends.revocations.contains_key(&key) {
            self.ends.add(End::Revoked { revocation });
            return None;
        }
        Some(Record::Revocation(revocation))
    }

    fn task(&mut self, task: Task) -> Option<Task> {
        let erased = |user| self.ends.erased.contains(user);
        let is_dropped = match &task.work {
            // What was begun and not come to its end. Its end may have come since, or been prevented.
            Work::Register { .. } | Work::ResendVerification { .. } | Work::ResetPassword { .. } => {
                self.cutoff.is_some()
            }
            Work::ChangeEmail { user, .. } | Work::RestoreEmail { user, .. } => {
                self.cutoff.is_some() || erased(user)
            }
            Work::ForgetUnverified(user) => erased(user),
            // They end something, or tell of it.
            Work::Revoke(_) | Work::Errand { .. } => false,
        };
        if is_dropped {
            self.counts.flows_ended += 1;
            return None;
        }
        Some(task)
    }

    fn mail(&mut self, mail: Mail) -> Option<Mail> {
        let is_dead = self.cutoff.is_some() && mail.link.is_some();
        if is_dead || self.addresses.contains(&mail.to) {
            self.counts.letters_dropped += 1;
            return None;
        }
        Some(mail)
    }

    /// What comes behind the records of the source.
    fn behind(&mut self) -> VecDeque<VersionedRecord> {
        if let Some(cutoff) = self.cutoff.clone() {
            let key = (cutoff.issuer.clone(), None);
            // Above every generation that the lost state can have had: each raise goes to the second at least.
            let generation = self.versions.get(&key).map_or(0, |number| number + 1).max(cutoff.horizon.0 + 1);
            self.raise(key, generation);
            for entry in cutoff.of_ours(generation) {
                self.ends.revoke(entry);
            }
        }
        let revocations = std::mem::take(&mut self.ends.revocations).into_values();
        let versions = std::mem::take(&mut self.versions).into_iter();
        let former = std::mem::take(&mut self.former).into_iter();
        let revocations = revocations.map(Record::Revocation).inspect(|_| self.counts.revocations_added += 1);
        revocations
            .chain(versions.map(|((issuer, sub), version)| Record::TokenVersion { issuer, sub, version }))
            .chain(former.map(|(name, user)| Record::FormerUsername { name, user }))
            .map(VersionedRecord::from)
            .collect()
    }
}

/// The number that tokens must carry for a revocation to leave them alone.
fn floor(revocation: &Revocation) -> Option<((String, Option<String>), u64)> {
    match &revocation.target {
        Target::SubjectVersion { issuer, sub, below } | Target::SubjectSessions { issuer, sub, below } => {
            Some(((issuer.clone(), Some(sub.clone())), *below))
        }
        Target::IssuerGeneration { issuer, below } | Target::EverySession { issuer, below } => {
            Some(((issuer.clone(), None), *below))
        }
        Target::Token { .. }
        | Target::Session { .. }
        | Target::SubjectIssued { .. }
        | Target::Issuer { .. } => None,
    }
}

#[async_trait]
impl RecordSource for Restored<'_> {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        loop {
            if let Some(behind) = &mut self.behind {
                let count = behind.len().min(crate::ports::RECORDS_PAGE);
                let page: Vec<_> = behind.drain(..count).collect();
                self.counts.restored += page.len() as u64;
                return Ok(page);
            }
            let page = self.source.next_page().await?;
            if page.is_empty() {
                self.behind = Some(self.behind());
                continue;
            }
            let mut restored = Vec::with_capacity(page.len());
            for record in page {
                // Its version is that of what it holds: nothing is taken from a record that this program does not know.
                restored.extend(self.restore(record.known()?).map(VersionedRecord::from));
            }
            if !restored.is_empty() {
                self.counts.restored += restored.len() as u64;
                return Ok(restored);
            }
        }
    }
}

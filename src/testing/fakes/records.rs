//! Export and import of the store in memory.

use async_trait::async_trait;
use palisade_core::domain::task::Task;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::*;

use super::{FakeStore, State};

impl State {
    /// Every record, in the order of a walk.
    fn records(&self) -> Vec<VersionedRecord> {
        let mut records: Vec<Record> = Vec::new();
        records.extend(self.users.values().cloned().map(Record::User));
        records.extend(self.sessions.values().cloned().map(Record::Session));
        records.extend(self.connections.values().cloned().map(Box::new).map(Record::Connection));
        records.extend(self.links.values().cloned().map(Record::Link));
        records.extend(self.entries.iter().cloned().map(Record::Revocation));
        records.extend(self.versions.iter().map(|((issuer, sub), version)| Record::TokenVersion {
            issuer: issuer.clone(),
            sub: Some(sub.clone()).filter(|sub| !sub.is_empty()),
            version: *version,
        }));
        records.extend(self.tasks.values().cloned().map(Record::Task));
        records.extend(self.mails.values().cloned().map(Record::Mail));
        records.extend(self.mailboxes.values().cloned().map(Record::Mailbox));
        records.extend(self.gone.iter().map(|(user, at)| Record::EventsEnd { user: *user, at: *at }));
        let mut events = self.events.clone();
        // Stable: of each account they stay in the order in which they came.
        events.sort_by_key(|event| event.user);
        records.extend(events.into_iter().map(Record::Event));
        records.extend(self.mark.clone().map(Record::ClockMark));
        let checks = self.key_checks.iter();
        records.extend(
            checks.map(|(file, check)| Record::KeyCheck { file: file.clone(), check: check.clone() }),
        );
        let former = self.former_usernames.iter();
        records.extend(former.map(|(name, user)| Record::FormerUsername { name: *name, user: *user }));
        records.extend(self.upgrades.iter().copied().map(Record::Upgrade));
        records.into_iter().map(VersionedRecord::from).collect()
    }

    fn import(&mut self, record: Record) -> Result<(), ImportError> {
        let twice = || ImportError::Inconsistent("a record comes twice".to_owned());
        let is_new = match record {
            Record::User(user) if self.taken(&user) => {
                return Err(ImportError::Inconsistent("two accounts have one address".to_owned()));
            }
            Record::User(user) if self.has_username(&user) => {
                return Err(ImportError::Inconsistent("two accounts have one user name".to_owned()));
            }
            Record::User(user) if self.has_identity(&user) => {
                let why = "two accounts have one identity at a provider".to_owned();
                return Err(ImportError::Inconsistent(why));
            }
            Record::User(user) => self.users.insert(user.id, user).is_none(),
            Record::Session(session) => self.sessions.insert((session.user, session.id), session).is_none(),
            Record::Connection(connection) => {
                self.connections.insert((connection.user, connection.id), *connection).is_none()
            }
            Record::Link(link) => self.links.insert(link.hash, link).is_none(),
            Record::Revocation(entry) => {
                let is_new = self.standing(&entry.target).is_none();
                self.entries.push(entry);
                is_new
            }
            Record::TokenVersion { issuer, sub, version } => {
                self.versions.insert((issuer, sub.unwrap_or_default()), version).is_none()
            }
            Record::Task(task) => self.tasks.insert(task.id, task).is_none(),
            Record::Mail(mail) => self.mails.insert(mail.id, mail).is_none(),
            Record::Mailbox(mailbox) => self.mailboxes.insert(mailbox.id, mailbox).is_none(),
            Record::EventsEnd { user, at } => self.gone.insert(user, at).is_none(),
            Record::Event(event) => {
                self.keep(event);
                true
            }
            Record::ClockMark(mark) => self.mark.replace(mark).is_none(),
            Record::FormerUsername { name, .. } if self.username_owner(name).is_some() => false,
            Record::FormerUsername { name, user } => self.former_usernames.insert(name, user).is_none(),
            Record::Upgrade(upgrade) => self.upgrades.insert(upgrade),
            Record::KeyCheck { file, check } => self.key_checks.insert(file, check).is_none(),
        };
        is_new.then_some(()).ok_or_else(twice)
    }
}

impl FakeStore {
    /// At most `limit` tasks of any kind that are due at `now`, the earliest first.
    ///
    /// # Errors
    /// None.
    pub async fn due_tasks(&self, now: UnixTime, limit: usize) -> Result<Vec<Task>, StoreError> {
        crate::conformance::due_tasks(self, now, limit).await
    }
}

#[async_trait]
impl Records for FakeStore {
    async fn records(&self, after: Option<RecordCursor>, limit: usize) -> Result<RecordPage, StoreError> {
        let state = self.state();
        let no_place = || StoreError::Unreadable("no such place".to_owned());
        let (began, from) = match after {
            Some(cursor) => {
                let (began, from) = cursor.as_bytes().split_first_chunk().ok_or_else(no_place)?;
                let from = from.try_into().map_err(|_| no_place())?;
                (u64::from_be_bytes(*began), usize::from_be_bytes(from))
            }
            None => (state.writes, 0),
        };
        if began != state.writes {
            return Err(StoreError::Unavailable("the store has changed since the walk began".to_owned()));
        }
        let all = state.records();
        let end = (from + limit.max(1)).min(all.len());
        let next = (end < all.len())
            .then(|| RecordCursor::from_bytes([began.to_be_bytes(), (end as u64).to_be_bytes()].concat()));
        Ok(RecordPage { records: all.get(from..end).ok_or_else(no_place)?.to_vec(), next })
    }

    /// All at once: a store in memory is never half filled.
    async fn import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        self.check()?;
        let begun = self.state().writes;
        if !self.state().records().is_empty() {
            return Err(ImportError::NotEmpty);
        }
        let (mut filled, mut count) = (State::default(), 0);
        loop {
            let page = source.next_page().await.map_err(ImportError::Source)?;
            if page.is_empty() {
                break;
            }
            count += page.len() as u64;
            for record in page {
                filled.import(record.known()?)?;
            }
        }
        let mut state = self.state();
        if state.writes != begun {
            return Err(ImportError::NotEmpty);
        }
        filled.writes = begun + 1;
        *state = filled;
        self.feed.restart();
        Ok(count)
    }
}

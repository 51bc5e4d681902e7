//! Filling an empty store with the records of another one ([`palisade_core::ports::Records`]), and what else moves with it.
//!
//! The first commit of an import writes a mark ([`keys::importing`]) and the last one removes it. A store that holds the
//! mark is not opened, so one whose import was killed is never taken for whole. Indexes are built as records come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::draft::Draft;
use super::export;
use super::keys::{self, Key};
use super::read;
use super::sled::SledStore;
use super::snapshot::Snapshot;
use super::writer::Command;
use palisade_core::ports::{
    CommitError, ImportError, RECORDS_PAGE, Record, RecordCursor, RecordPage, RecordSource, Records,
    StoreError, VersionedRecord,
};

/// One commit of an import.
pub(super) enum Step {
    /// The store is empty, and is being filled from now on.
    Begin,
    /// An import that did not come to its end goes on.
    Resume,
    Records(Vec<VersionedRecord>),
    /// All records are there.
    End,
}

impl Draft<'_> {
    /// Makes one commit of an import. [`CommitError::Conflict`]: the store is not empty, or a record came twice.
    pub(super) fn import(&mut self, step: Step) -> Result<u64, CommitError> {
        let so_far = || -> Result<u64, CommitError> {
            let mark = self.get(&keys::importing())?.ok_or(CommitError::Conflict)?;
            Ok(mark.as_ref().try_into().map_or(0, u64::from_be_bytes))
        };
        match step {
            Step::Begin => {
                if !self.is_empty()? {
                    return Err(CommitError::Conflict);
                }
                self.note_imported(0);
                Ok(0)
            }
            Step::Resume => so_far(),
            Step::Records(records) => {
                let count = so_far()? + records.len() as u64;
                for record in records {
                    self.import_record(record.known()?)?;
                }
                self.note_imported(count);
                Ok(count)
            }
            Step::End => {
                let count = so_far()?;
                self.evict(keys::importing());
                Ok(count)
            }
        }
    }

    /// In the same step as the records, so that an import which goes on knows exactly which it has.
    fn note_imported(&mut self, count: u64) {
        self.mark(keys::importing(), &count.to_be_bytes());
    }

    /// Closes the store for writing, or opens it again.
    pub(super) fn close(&mut self, what: Option<String>) -> Result<(), StoreError> {
        match what {
            Some(what) => self.mark(keys::closed(), what.as_bytes()),
            None => self.evict(keys::closed()),
        }
        Ok(())
    }

    fn import_record(&mut self, record: Record) -> Result<(), CommitError> {
        match record {
            Record::User(user) => self.create_user(&user)?,
            Record::Session(session) => {
                let key = self.fresh(keys::session(session.user, session.id))?;
                self.file_session(key, &session)?;
            }
            Record::Connection(connection) => self.create_connection(&connection)?,
            Record::Link(link) => {
                self.fresh(keys::link(&link.hash))?;
                self.create_link(&link)?;
            }
            Record::Revocation(revocation) => {
                let key = self.revocation_key(&revocation.target)?;
                self.fresh(key)?;
                self.revoke(revocation)?;
            }
            Record::TokenVersion { issuer, sub, version } => {
                let number = self.issuer(&issuer)?;
                let key = sub.map_or_else(|| keys::generation(number), |sub| keys::version(number, &sub));
                let key = self.fresh(key)?;
                self.write(key, &version)?;
            }
            Record::Task(task) => {
                self.fresh(keys::task(task.id))?;
                self.create_task(&task)?;
            }
            Record::Mail(mail) => {
                self.fresh(keys::mail(mail.id))?;
                self.put_mail(&mail)?;
            }
            Record::Mailbox(mailbox) => {
                let key = self.fresh(keys::mailbox(mailbox.id))?;
                self.index(keys::due(mailbox.ends_at(), &key));
                self.write(key, &mailbox)?;
            }
            Record::EventsEnd { user, at } => {
                let key = self.fresh(keys::gone_user(user))?;
                self.index(keys::due(at, &key));
                self.write(key, &at)?;
            }
            Record::Event(event) => self.keep_event(&event)?,
            Record::ClockMark(mark) => {
                let key = self.fresh(keys::clock())?;
                self.write(key, &mark)?;
            }
            Record::FormerUsername { name, user } => {
                // An account that has the name now came before.
                self.fresh(keys::username(name))?;
                let key = self.fresh(keys::former_username(name))?;
                self.write(key, &user)?;
            }
            Record::Upgrade(upgrade) => {
                let key = self.fresh(keys::upgrade(upgrade))?;
                self.write(key, &upgrade)?;
            }
            Record::KeyCheck { file, check } => {
                let key = self.fresh(keys::key_check(&file))?;
                self.write(key, &check)?;
            }
        }
        Ok(())
    }

    /// The key again, where nothing lies.
    fn fresh(&self, key: Key) -> Result<Key, CommitError> {
        match self.has(&key)? {
            true => Err(CommitError::Conflict),
            false => Ok(key),
        }
    }

    /// Whether the store holds nothing but what tells of its files, and nothing was accepted meanwhile.
    fn is_empty(&self) -> Result<bool, StoreError> {
        if self.steps() > 0 {
            return Ok(false);
        }
        for entry in self.trees.range(Key::new()..keys::end()) {
            if !keys::is_bookkeeping(&entry?.0) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl Records for SledStore {
    async fn records(&self, after: Option<RecordCursor>, limit: usize) -> Result<RecordPage, StoreError> {
        self.read(move |trees| export::page(trees, after.as_ref(), limit)).await
    }

    async fn snapshot(&self) -> Result<Box<dyn RecordSource>, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.read(move |trees| Ok(Box::new(Snapshot::begin(shared, trees)?) as Box<dyn RecordSource>)).await
    }

    async fn import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        self.import_from(Step::Begin, source).await
    }

    async fn import_begun(&self) -> Result<Option<u64>, StoreError> {
        self.read_anyway(read::import_begun).await
    }

    async fn resume_import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        self.import_from(Step::Resume, source).await
    }

    async fn closed_for(&self) -> Result<Option<String>, StoreError> {
        self.read_anyway(read::closed_for).await
    }

    async fn set_closed(&self, what: Option<String>) -> Result<(), StoreError> {
        self.ask(|reply| Command::Close(what, reply)).await.map_err(CommitError::of_the_store)
    }
}

impl SledStore {
    /// What the secrets of the data folder were known by when they were last used, by the names of their files.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_checks(&self) -> Result<BTreeMap<String, String>, StoreError> {
        self.read(read::key_checks).await
    }

    /// Keeps what secrets are known by, by the names of their files; of others it stays.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was kept.
    pub async fn put_key_checks(&self, checks: BTreeMap<String, String>) -> Result<(), StoreError> {
        self.ask(|reply| Command::KeyChecks(checks, reply)).await.map_err(CommitError::of_the_store)
    }

    /// Takes in the records of `source`, but for those that an import took in which goes on.
    async fn import_from(&self, first: Step, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        let step = async |step| self.ask(|reply| Command::Import(step, reply)).await;
        let mut known = step(first).await.map_err(|error| match error {
            CommitError::Conflict => ImportError::NotEmpty,
            other => ImportError::Store(other.of_the_store()),
        })?;
        loop {
            let mut page = source.next_page().await.map_err(ImportError::Source)?;
            if page.is_empty() {
                break;
            }
            let passed = page.len().min(usize::try_from(known).unwrap_or(usize::MAX));
            page.drain(..passed);
            known -= passed as u64;
            while !page.is_empty() {
                let rest = page.split_off(page.len().min(RECORDS_PAGE));
                let records = std::mem::replace(&mut page, rest);
                step(Step::Records(records)).await.map_err(|error| match error {
                    CommitError::Store(error) => ImportError::Store(error),
                    CommitError::Conflict => ImportError::Inconsistent("a record comes twice".to_owned()),
                    CommitError::EmailTaken => {
                        ImportError::Inconsistent("two accounts have one address".to_owned())
                    }
                    CommitError::UsernameTaken => {
                        ImportError::Inconsistent("two accounts have one user name".to_owned())
                    }
                    CommitError::IdentityTaken => {
                        ImportError::Inconsistent("two accounts have one identity at a provider".to_owned())
                    }
                })?;
            }
        }
        if known > 0 {
            let why = format!("the records have become fewer by {known} since the import was begun");
            return Err(ImportError::Inconsistent(why));
        }
        step(Step::End).await.map_err(|error| ImportError::Store(error.of_the_store()))
    }
}

//! Every record of a store, as typed records with versions: how one store is moved into another, such as a data folder
//! into a database and back.
//!
//! Indexes and counters of a store are not among the records: an import builds its own. The gateway's own secrets are
//! not either; [`super::SecretStore`] keeps those.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{StoreError, Upgrade};
use crate::domain::account::{User, UserId};
use crate::domain::audit::Event;
use crate::domain::connection::Connection;
use crate::domain::link::Link;
use crate::domain::mail::Mail;
use crate::domain::mail_cap::Mailbox;
use crate::domain::revocation::Revocation;
use crate::domain::session::Session;
use crate::domain::task::{Task, TaskKind};
use crate::domain::time::UnixTime;
use crate::domain::trusted_time::Mark;
use crate::domain::username::UsernameFingerprint;

/// How many records one page of a walk has at most, unless the caller asks for fewer: what is in memory at once.
pub const RECORDS_PAGE: usize = 512;

/// One record of a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "record")]
pub enum Record {
    User(User),
    Session(Session),
    Connection(Box<Connection>),
    Link(Link),
    Revocation(Revocation),
    /// The token version of `sub` at `issuer`; without `sub` the generation of all tokens of the issuer.
    TokenVersion {
        issuer: String,
        sub: Option<String>,
        version: u64,
    },
    Task(Task),
    Mail(Mail),
    Mailbox(Mailbox),
    /// Until when the events of an account that is gone are kept.
    EventsEnd {
        user: UserId,
        at: UnixTime,
    },
    /// The events of one account come in the order in which they were recorded.
    Event(Event),
    ClockMark(Mark),
    /// What a secret is known by (a MAC under the server key), by the name of its file.
    KeyCheck {
        file: String,
        check: String,
    },
    /// Whose a user name was; no other account gets it. The account may be gone.
    FormerUsername {
        name: UsernameFingerprint,
        user: UserId,
    },
    /// Something that is done once to a store of an earlier program was done to this one.
    Upgrade(Upgrade),
}

/// The kind of a [`Record`], in the order in which a walk yields them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    User,
    Session,
    Connection,
    Link,
    Revocation,
    TokenVersion,
    Task,
    Mail,
    Mailbox,
    EventsEnd,
    Event,
    ClockMark,
    KeyCheck,
    FormerUsername,
    Upgrade,
}

impl RecordKind {
    pub const ALL: [RecordKind; 15] = [
        RecordKind::User,
        RecordKind::Session,
        RecordKind::Connection,
        RecordKind::Link,
        RecordKind::Revocation,
        RecordKind::TokenVersion,
        RecordKind::Task,
        RecordKind::Mail,
        RecordKind::Mailbox,
        RecordKind::EventsEnd,
        RecordKind::Event,
        RecordKind::ClockMark,
        RecordKind::KeyCheck,
        RecordKind::FormerUsername,
        RecordKind::Upgrade,
    ];

    /// The name of the kind, as an export has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RecordKind::User => "user",
            RecordKind::Session => "session",
            RecordKind::Connection => "connection",
            RecordKind::Link => "link",
            RecordKind::Revocation => "revocation",
            RecordKind::TokenVersion => "token_version",
            RecordKind::Task => "task",
            RecordKind::Mail => "mail",
            RecordKind::Mailbox => "mailbox",
            RecordKind::EventsEnd => "events_end",
            RecordKind::Event => "event",
            RecordKind::ClockMark => "clock_mark",
            RecordKind::KeyCheck => "key_check",
            RecordKind::FormerUsername => "former_username",
            RecordKind::Upgrade => "upgrade",
        }
    }

    /// The version of this kind of record that this program writes. Raise it, in the commit that makes the change, when
    /// a program that does not know the change would misread the record or would drop a part of it by writing it back:
    /// a new field that must not be lost, another meaning of an old one. Earlier versions stay readable.
    #[must_use]
    pub const fn version(self) -> u8 {
        match self {
            // 2: a user name, groups, and no address. 3: identities at providers.
            RecordKind::User => 3,
            // 2: notices about accounts.
            RecordKind::Task => 2,
            RecordKind::Session
            | RecordKind::Connection
            | RecordKind::Link
            | RecordKind::Revocation
            | RecordKind::TokenVersion
            | RecordKind::Mail
            | RecordKind::Mailbox
            | RecordKind::EventsEnd
            | RecordKind::Event
            | RecordKind::ClockMark
            | RecordKind::KeyCheck
            | RecordKind::FormerUsername
            | RecordKind::Upgrade => 1,
        }
    }
}

impl Record {
    #[must_use]
    pub const fn kind(&self) -> RecordKind {
        match self {
            Record::User(_) => RecordKind::User,
            Record::Session(_) => RecordKind::Session,
            Record::Connection(_) => RecordKind::Connection,
            Record::Link(_) => RecordKind::Link,
            Record::Revocation(_) => RecordKind::Revocation,
            Record::TokenVersion { .. } => RecordKind::TokenVersion,
            Record::Task(_) => RecordKind::Task,
            Record::Mail(_) => RecordKind::Mail,
            Record::Mailbox(_) => RecordKind::Mailbox,
            Record::EventsEnd { .. } => RecordKind::EventsEnd,
            Record::Event(_) => RecordKind::Event,
            Record::ClockMark(_) => RecordKind::ClockMark,
            Record::KeyCheck { .. } => RecordKind::KeyCheck,
            Record::FormerUsername { .. } => RecordKind::FormerUsername,
            Record::Upgrade(_) => RecordKind::Upgrade,
        }
    }

    /// The version that the record is written in.
    #[must_use]
    pub fn version(&self) -> u8 {
        match self {
            Record::User(user) => user_version(user),
            Record::Task(task) => task_version(task),
            other => other.kind().version(),
        }
    }
}

/// The earliest version of the record of an account that holds all of `user`. So after a downgrade the earlier program
/// refuses to read accounts with fields that it would drop, and reads all others.
#[must_use]
pub fn user_version(user: &User) -> u8 {
    let is_of_the_first = user.email.is_some() && user.username.is_none() && user.groups.is_empty();
    match (is_of_the_first, user.identities.is_empty()) {
        (_, false) => 3,
        (false, true) => 2,
        (true, true) => 1,
    }
}

/// The earliest version of the record of a task whose programs know such tasks.
#[must_use]
pub fn task_version(task: &Task) -> u8 {
    if task.work.kind() == TaskKind::AccountNotice { 2 } else { 1 }
}

/// A record, and the version that its kind had in the program that wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionedRecord {
    pub version: u8,
    #[serde(flatten)]
    pub record: Record,
}

impl From<Record> for VersionedRecord {
    fn from(record: Record) -> VersionedRecord {
        VersionedRecord { version: record.version(), record }
    }
}

impl VersionedRecord {
    /// The record, if this program knows its version.
    ///
    /// # Errors
    /// [`StoreError::Newer`]; [`StoreError::Unreadable`] for version 0, which is none.
    pub fn known(self) -> Result<Record, StoreError> {
        let (version, kind) = (self.version, self.record.kind());
        match version {
            0 => Err(StoreError::Unreadable(format!("a record of kind {kind:?} has version 0"))),
            _ if version > kind.version() => Err(StoreError::Newer(format!(
                "a record of kind {kind:?} was written by a newer program: it has version {version}, and this program \
                 knows versions up to {}",
                kind.version()
            ))),
            _ => Ok(self.record),
        }
    }
}

/// Where a walk over the records has come to. Opaque: only the store that gave it may take it apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordCursor(Vec<u8>);

impl RecordCursor {
    /// For a store: what it knows the place by.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> RecordCursor {
        RecordCursor(bytes)
    }

    /// For the store that made it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A page of a walk.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordPage {
    pub records: Vec<VersionedRecord>,
    /// Where the next page begins; `None` when there is none.
    pub next: Option<RecordCursor>,
}

/// Why an import failed. Unless it is [`ImportError::NotEmpty`], the store may hold a part of the records: it then
/// serves nothing, also after the next start.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The store holds records already. Nothing was changed.
    #[error("the store is not empty: records are imported into a new one only")]
    NotEmpty,
    /// A record came twice, or two accounts have one address or user name. Names neither.
    #[error("the records do not fit together: {0}")]
    Inconsistent(String),
    /// The records cannot be read.
    #[error("the records to import cannot be read: {0}")]
    Source(StoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where an import gets its records from.
#[async_trait]
pub trait RecordSource: Send {
    /// The next page; an empty one at the end.
    ///
    /// # Errors
    /// [`StoreError`]: the records cannot be read; the import fails.
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError>;
}

/// Export and import of everything that a store holds.
#[async_trait]
pub trait Records: Send + Sync {
    /// A page of at most `limit` records, at least one where there is one, from behind `after`; from the beginning
    /// without it. In the order of [`RecordKind`]; within a kind in an order of the store that does not change.
    ///
    /// # Errors
    /// [`StoreError`]; the walk must not be taken for whole then. Among them, as [`StoreError::Unavailable`]: something
    /// was written since the walk began, whose pages would be of two states. Begin again, while nothing writes.
    async fn records(&self, after: Option<RecordCursor>, limit: usize) -> Result<RecordPage, StoreError>;

    /// Everything that the store holds at one moment, while commits go on: the pages of the source are of the state that
    /// the store had when this was called, with all of a commit or nothing of it, in the order of [`Records::records`].
    ///
    /// # Errors
    /// [`StoreError`]. Later pages fail as [`StoreError::Unavailable`] where more was written meanwhile than the store can
    /// remember, and where it was closed or opened again; the pages must not be taken for whole then.
    async fn snapshot(&self) -> Result<Box<dyn RecordSource>, StoreError> {
        Err(StoreError::Unavailable("this store takes no snapshot".to_owned()))
    }

    /// Fills an empty store with the records of `source`, and builds its indexes. Memory holds a page at a time. A
    /// store that was killed meanwhile is empty, or refuses to open; it is never taken for whole. Until the import has
    /// succeeded it serves nothing. Returns how many records there were.
    ///
    /// # Errors
    /// [`ImportError`].
    async fn import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError>;

    /// How many records an import that did not come to its end has taken in durably; `None`: none was begun, or it came to
    /// its end.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn import_begun(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    /// Goes on with an import that did not come to its end. `source` begins anew, with the same records in the same order:
    /// those that were taken in are passed over. Returns how many records there were in all.
    ///
    /// # Errors
    /// [`ImportError`]; [`ImportError::NotEmpty`] also where no import was begun.
    async fn resume_import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        let _ = source;
        Err(ImportError::NotEmpty)
    }

    /// What the store is closed for, in words; `None`: it takes writes.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn closed_for(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// Closes the store for writing, durably and for every process, or opens it again. `what` says what for, without a
    /// secret. A closed store refuses every commit ([`StoreError::Closed`]), and reads as before.
    ///
    /// # Errors
    /// [`StoreError`]; then it is as it was.
    async fn set_closed(&self, what: Option<String>) -> Result<(), StoreError> {
        let _ = what;
        Err(StoreError::Unavailable("this store cannot be closed for writing".to_owned()))
    }

    /// Calls `each` with every record, in the order of [`Records::records`], page by page. Returns how many there are.
    ///
    /// # Errors
    /// As [`Records::records`].
    async fn each_record(&self, each: &mut (dyn FnMut(VersionedRecord) + Send)) -> Result<u64, StoreError> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.records(after, RECORDS_PAGE).await?;
            count += page.records.len() as u64;
            page.records.into_iter().for_each(&mut *each);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(count),
            }
        }
    }
}

/// The records of a store, for the import into another one.
pub struct RecordsOf<'a> {
    store: &'a dyn Records,
    /// `None` once the last page was read.
    next: Option<Option<RecordCursor>>,
}

impl<'a> RecordsOf<'a> {
    #[must_use]
    pub const fn new(store: &'a dyn Records) -> RecordsOf<'a> {
        RecordsOf { store, next: Some(None) }
    }
}

#[async_trait]
impl RecordSource for RecordsOf<'_> {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        let Some(after) = self.next.take() else { return Ok(Vec::new()) };
        let page = self.store.records(after, RECORDS_PAGE).await?;
        self.next = page.next.map(Some);
        Ok(page.records)
    }
}

//! What a replica asks of the database, call by call: registration, confirmation, the entries of the feed, and the
//! whole set of revocations.
//!
//! Behind a trait, so that the rules of `replica.rs` and `acknowledge.rs` are tried with a database of the test's own
//! that answers late, out of date, or never.

use std::time::Duration;

use async_trait::async_trait;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::record::StandingRow;
use palisade_core::domain::revocation::Revocation;
use palisade_core::ports::StoreError;

/// Where the feed stands, and the random id of the entry there. Two databases that have forked have different ids at
/// one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedPlace {
    pub position: u64,
    pub entry: Uuid,
}

/// The revocations of one commit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct FeedEntry {
    pub position: u64,
    pub entry: Uuid,
    /// Empty: more has changed than an entry tells, and the whole set has to be read again.
    #[serde(deserialize_with = "revocations")]
    pub revocations: Vec<Revocation>,
}

/// As the database has them. One that a newer program has written is an error, and so nothing behind it is followed.
fn revocations<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Revocation>, D::Error> {
    let rows = Vec::<StandingRow>::deserialize(from)?;
    rows.iter().map(|row| row.revocation().map_err(D::Error::custom)).collect()
}

/// Entries behind a place.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct FeedNews {
    /// Whether the entry of the place is still there, in the snapshot of the entries: what is behind another one
    /// belongs to another history.
    pub standing: EntryStands,
    /// Rises when a standby takes over, and never falls; `None` where the server does not tell.
    #[serde(default)]
    pub timeline: Option<u64>,
    /// The head, of one snapshot with the entries.
    pub head: FeedPlace,
    /// In their order; not up to the head when there are many.
    pub entries: Vec<FeedEntry>,
}

/// Whether the entry that a replica applied last is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryStands {
    /// It is.
    Stands,
    /// It is so old that it was pruned.
    Forgotten,
    /// The database has another one there, or none: it has lost entries.
    Gone,
}

/// A registered replica.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ReplicaRow {
    /// Of one registration; a replica that registers again has another one.
    pub id: Uuid,
    /// For people.
    pub name: String,
    /// The number of its program.
    pub program: u32,
    /// The highest version that it reads of each kind of record: a JSON object, by the names of the kinds.
    pub formats: String,
    /// Up to where it has applied the feed; `None`: it has not read the whole set yet, and believes no token.
    pub position: Option<u64>,
    /// How many times it has confirmed.
    pub confirms: u64,
    /// In milliseconds; never changes.
    pub lease_ms: u64,
    /// Whether it goes on believing tokens when its lease is over, on a route at least.
    pub fail_open: bool,
    /// The revision of the signing ring that it has loaded.
    pub key_ring: u64,
    /// Counted as gone, and kept because it may go on believing tokens.
    pub expired: bool,
}

impl ReplicaRow {
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// The registered replicas, and the head of the feed in the same snapshot.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ReplicaRows {
    pub head: u64,
    pub replicas: Vec<ReplicaRow>,
}

/// What a replica says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegisterCall {
    pub id: Uuid,
    /// The registrations that it may have had before in this run. By those it believes no token any more.
    pub former: Vec<Uuid>,
    pub name: String,
    pub program: i32,
    /// A JSON object.
    pub formats: String,
    pub lease_ms: u64,
    pub fail_open: bool,
    pub key_ring: u64,
    /// The operator's word that the database is to be taken as it is, whatever replicas have found it to have lost.
    pub accept: bool,
    /// The operator's word that a store which is closed for writing is served.
    pub accept_closed: bool,
    /// What it has applied last, in this run or in the one before.
    #[serde(flatten)]
    pub place: Option<FeedPlace>,
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RegisterAnswer {
    /// The id of the installation that the database belongs to.
    pub installation: Uuid,
    /// What a replica has found the database to have lost.
    #[serde(default)]
    pub lost: Option<String>,
    pub news: FeedNews,
    pub members: ReplicaRows,
}

/// That a replica lives, and what it has applied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfirmCall {
    pub id: Uuid,
    pub fail_open: bool,
    pub key_ring: u64,
    /// `None` while it has not read the whole set.
    #[serde(flatten)]
    pub place: Option<FeedPlace>,
}

/// The answer to a confirmation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ConfirmAnswer {
    pub news: FeedNews,
    pub members: ReplicaRows,
}

/// A part of the whole set of revocations.
#[derive(Debug, Clone, PartialEq)]
pub struct RevocationPage {
    /// The head, of one snapshot with the page.
    pub head: u64,
    pub revocations: Vec<Revocation>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<Vec<u8>>,
}

/// What a notice of the database is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedNotice {
    /// There are entries.
    Entries,
    /// A replica has confirmed.
    Confirmed,
    /// The one that was asked for with this number ([`FeedListener::ask`]).
    Echo(u64),
}

/// A connection on which the database gives notices.
#[async_trait]
pub trait FeedListener: Send {
    /// Asks the database, by another connection, for a notice to this one.
    ///
    /// # Errors
    /// The database cannot be asked.
    async fn ask(&mut self, number: u64) -> Result<(), StoreError>;

    /// The next notice. Safe to cancel.
    ///
    /// # Errors
    /// The connection is lost.
    async fn next(&mut self) -> Result<FeedNotice, StoreError>;
}

/// The calls. Those that write are committed, and on the standby too where there is a synchronous one, when they
/// return; an answer that came with a warning is an error. After an error the call may have been made.
#[async_trait]
pub trait FeedCalls: Send + Sync {
    /// Writes the row of a replica.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn register(&self, registration: &RegisterCall) -> Result<RegisterAnswer, StoreError>;

    /// Counts one more confirmation. `None`: there is no such row any more, or it was counted as gone.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn confirm(&self, confirm: &ConfirmCall) -> Result<Option<ConfirmAnswer>, StoreError>;

    /// Counts a replica as gone, unless it has confirmed since it was seen with `confirms`. False: it has, or it is
    /// gone.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn expire(&self, id: Uuid, confirms: u64) -> Result<bool, StoreError>;

    /// Says for all replicas what the database has lost, until an operator's word ([`RegisterCall::accept`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn lost(&self, why: &str) -> Result<(), StoreError>;

    /// Removes the row of a replica that believes no token any more.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn leave(&self, id: Uuid) -> Result<(), StoreError>;

    /// Reads who is registered.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn replicas(&self) -> Result<ReplicaRows, StoreError>;

    /// Reads the entries behind a place.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn news(&self, place: FeedPlace) -> Result<FeedNews, StoreError>;

    /// Reads a part of the whole set, from behind `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn revocations(&self, after: Option<Vec<u8>>) -> Result<RevocationPage, StoreError>;

    /// Forgets entries of the feed that are older than an hour and that every replica has confirmed. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn prune(&self) -> Result<u64, StoreError>;

    /// Opens a connection for notices.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn listen(&self) -> Result<Box<dyn FeedListener>, StoreError>;
}

//! Notes that gateways over one store share: what one process would keep in its memory, and must be known where the next
//! request arrives.
//!
//! A note is small, ends by itself, and is worth less than a record: it is in no backup, and a crash of the database may
//! lose the last of them. Their number is bounded by kind, because strangers can cause some of them.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NoteKind {
    /// The guesses at one account's password from one address block ([`crate::domain::guesses::Tries`]).
    Tries,
    /// The guesses at one account's password from everywhere ([`crate::domain::guesses::Pressure`]).
    Pressure,
    /// A session on its way to another host ([`crate::service::carry`]).
    Carry,
    /// A mailed link that was used up ([`crate::service::used_links`]).
    UsedLink,
    /// A registration whose address was verified.
    Verified,
    /// A callback of a provider that led to a connection.
    Returned,
}

impl NoteKind {
    pub const ALL: [NoteKind; 6] = [
        NoteKind::Tries,
        NoteKind::Pressure,
        NoteKind::Carry,
        NoteKind::UsedLink,
        NoteKind::Verified,
        NoteKind::Returned,
    ];

    /// What a store keeps it under. It never changes.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            NoteKind::Tries => 1,
            NoteKind::Pressure => 2,
            NoteKind::Carry => 3,
            NoteKind::UsedLink => 4,
            NoteKind::Verified => 5,
            NoteKind::Returned => 6,
        }
    }

    /// How many are kept at least. Of more, those that end first may be forgotten ([`SharedNotes::trim_notes`]).
    #[must_use]
    pub const fn most(self) -> u32 {
        match self {
            NoteKind::Tries | NoteKind::Pressure => 100_000,
            NoteKind::Carry | NoteKind::UsedLink | NoteKind::Verified | NoteKind::Returned => 10_000,
        }
    }
}

/// Which note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NoteKey {
    pub kind: NoteKind,
    /// A hash or a MAC of what it is about: neither an address nor a token is in it.
    pub hash: [u8; 32],
}

/// A note as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub body: Vec<u8>,
    /// Another one with every write, never the same again.
    pub revision: u64,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotesRead {
    /// Now, by the one clock that the lives of notes are measured by, since any fixed moment.
    pub now: Duration,
    /// In the order in which they were asked for; `None`: there is none, or it has ended.
    pub notes: Vec<Option<Note>>,
}

/// A note to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotePut {
    pub key: NoteKey,
    /// The revision that the note must still have; `None`: there must be none.
    pub before: Option<u64>,
    /// At most some kilobytes.
    pub body: Vec<u8>,
    /// From now on.
    pub life: Duration,
}

/// The notes of a store that several gateways share.
#[async_trait]
pub trait SharedNotes: Send + Sync {
    /// Reads these, in one round trip.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn notes(&self, keys: &[NoteKey]) -> Result<NotesRead, StoreError>;

    /// Writes these, each on its own condition, in one round trip. Returns which of them were written, in their order.
    /// A crash of the database may lose them. No two are of one key.
    ///
    /// # Errors
    /// [`StoreError`]; then some may have been written.
    async fn put_notes(&self, puts: Vec<NotePut>) -> Result<Vec<bool>, StoreError>;

    /// Removes a note and returns what was in it, to one caller only; `None`: there is none. Durable.
    ///
    /// # Errors
    /// [`StoreError`]; then it may have been removed.
    async fn take_note(&self, key: NoteKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// Removes these. Nothing to do for those that are gone.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn remove_notes(&self, keys: &[NoteKey]) -> Result<(), StoreError>;

    /// Removes what has ended, and of each kind what is more than [`NoteKind::most`], those that end first. Returns how
    /// many it removed.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn trim_notes(&self) -> Result<u64, StoreError>;
}

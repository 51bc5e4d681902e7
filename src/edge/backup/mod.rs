//! Backups: everything that a store holds in one file, whatever the store, so that a backup of one kind of store is
//! restored into the other.
//!
//! A backup is a row of frames ([`format`]). Each carries its number and a checksum, so that damage is located; the last
//! but one carries counts and a digest of all before it, and the last one the signature of the installation that made the
//! backup ([`installation`]). Writing and reading hold one chunk in memory. The whole can be encrypted in the format of
//! `age` ([`sealed`]). Beside the backups a gateway keeps the journal of ends ([`journal`]), which a restore replays.
//!
//! A digest and a checksum prove that a file is whole and not who made it: the signature does. Nothing here may trust a
//! record before the reader has come to the end of the file, where the signature is.

pub mod draft;
pub mod file;
pub mod format;
pub mod installation;
pub mod journal;
pub mod reader;
pub mod sealed;
pub mod stream;
pub mod writer;

pub use self::draft::{BackupDraft, NamedOutput};
pub use self::file::BackupFile;
pub use self::format::{BackupCounts, BackupError, BackupHeader};
pub use self::installation::InstallationKeys;
pub use self::journal::{EndsJournal, JournalError};
pub use self::reader::{BackupReader, BackupRecords, CheckedBackup, SignedBy};
pub use self::stream::{BackupPlan, ChannelWriter};
pub use self::writer::BackupWriter;

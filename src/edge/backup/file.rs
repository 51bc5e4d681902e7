//! The file of a backup, which stays open while it is read, so that another one that gets its name is not read for it.
//!
//! What is written into the file meanwhile is read all the same: a second reading is held against the first by
//! [`super::BackupRecords::of`].

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;

use age::x25519::Identity;
use zeroize::Zeroizing;

use super::format::BackupError;
use super::sealed;

/// A backup in a file, or in what can be read like one.
pub struct BackupFile {
    file: File,
    identities: Vec<Identity>,
}

impl BackupFile {
    /// Opens the file; `identity` is that of a private key of `age`, for a backup that is encrypted. Blocks.
    ///
    /// # Errors
    /// One of them cannot be read; as one printable text that names it.
    pub fn open(file: &Path, identity: Option<&Path>) -> Result<BackupFile, String> {
        let identities = match identity {
            None => Vec::new(),
            Some(path) => {
                let text = fs::read_to_string(path).map(Zeroizing::new);
                let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
                sealed::identities(&text).map_err(|error| format!("{}: {error}", path.display()))?
            }
        };
        let opened = File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(BackupFile { file: opened, identities })
    }

    /// What is in it, for one reading.
    ///
    /// # Errors
    /// [`BackupError`]: it cannot be read or decrypted.
    pub fn once(self) -> Result<Box<dyn Read + Send>, BackupError> {
        sealed::open(self.file, &self.identities)
    }

    /// What is in it, from its beginning. A reading that was begun before must not go on.
    ///
    /// # Errors
    /// As [`BackupFile::once`]; and it is a pipe, which can be read once only.
    pub fn from_start(&self) -> Result<Box<dyn Read + Send>, BackupError> {
        let mut file = self.file.try_clone()?;
        file.rewind().map_err(|error| {
            let words = format!("it has to be read twice, and cannot be: {error}. Put it into a file first");
            std::io::Error::new(error.kind(), words)
        })?;
        sealed::open(file, &self.identities)
    }
}

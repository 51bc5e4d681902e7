//! The data directory: its lock, why a store in it does not open, and which files the engine reads.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "palisade.lock";
const PROBE: &str = "palisade.probe";

/// Why a store did not open. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store is in use: {holder} holds {lock}; stop it, or give this one another data directory")]
    Locked {
        /// The lock file.
        lock: PathBuf,
        /// Who holds it, as far as it told.
        holder: String,
    },
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// What was being opened or written.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// What is there cannot be opened.
    #[error(
        "the store in {dir} is corrupt: {why}; its files were left as they are: keep a copy, then restore a backup \
         into an empty directory (starting from an empty one would bring revoked tokens back to life)"
    )]
    Corrupt {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong, with the name of the file.
        why: String,
    },
    /// It opens, and is not what was acknowledged, or nothing shows that it is. An operator may go on with it.
    #[error(
        "the store in {dir} is not known to be whole: {why}; its files were left as they are: keep a copy, then put \
         back what is missing, or restore a backup into an empty directory. To go on with what is there all the same: \
         `palisade run --accept-store-as-it-is`, and then `palisade token revoke --before now`, because a token may \
         be accepted again whose revocation was lost"
    )]
    Doubtful {
        /// The data directory.
        dir: PathBuf,
        /// What speaks against it, with the names of the files.
        why: String,
    },
    /// An import into it did not come to its end.
    #[error(
        "the store in {dir} holds only a part of what was imported into it: the import did not come to its end. Import \
         the records again, into an empty directory; this one holds nothing that the source of the import lacks"
    )]
    PartlyImported {
        /// The data directory.
        dir: PathBuf,
    },
    /// Its user does not admit what is in it; why, and what to do.
    #[error("{0}")]
    NotAdmitted(String),
    /// The disk is full.
    #[error(
        "{dir}: the disk is full: opening the store takes {needed} bytes there, for a copy that is tried first and \
         removed, and {free} are free; free {} more. Nothing was changed",
        needed.saturating_sub(*free)
    )]
    NoRoom {
        /// The data directory.
        dir: PathBuf,
        /// Bytes that are needed on its file system.
        needed: u64,
        /// Bytes that are free there.
        free: u64,
    },
}

impl OpenError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.into();
        move |source| OpenError::Io { path, source }
    }

    pub(super) fn corrupt(dir: &Path, why: impl Into<String>) -> OpenError {
        OpenError::Corrupt { dir: dir.to_owned(), why: why.into() }
    }
}

/// Makes the directory, for our eyes only, and takes its lock. The lock lasts as long as the file is
/// open, so that a killed process leaves none behind.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OpenError::io(dir))?;
    let path = dir.join(LOCK);
    let mut file = private(&path).map_err(OpenError::io(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The message is poorer without the number; the refusal stands either way.
            let _ = file.read_to_string(&mut pid);
            let holder = match pid.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            return Err(OpenError::Locked { lock: path, holder });
        }
        Err(TryLockError::Error(source)) => return Err(OpenError::Io { path, source }),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())
    };
    match write(&mut file) {
        // A full disk must not keep the gateway from starting: the lock itself is held.
        Err(e) if !is_full(&e) => Err(OpenError::Io { path, source: e }),
        _ => Ok(file),
    }
}

/// The names that the engine reads, beside its snapshots. Everything else in the data folder is none of its
/// business, and secrets least of all.
const ENGINE_FILES: [&str; 3] = ["db", "conf", BLOBS];
const BLOBS: &str = "blobs";

/// Copies what the engine reads from `from` into the new folder `to`, the snapshots of these names among it. The
/// blocks are shared where the file system can (copy_file_range clones on btrfs and XFS, as clonefile does on
/// APFS), and copied elsewhere; there are never two names for one file, because the copy is written to.
pub(super) fn copy_engine_files(from: &Path, to: &Path, snapshots: &[OsString]) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    let names = ENGINE_FILES.iter().map(OsStr::new).chain(snapshots.iter().map(OsString::as_os_str));
    for name in names {
        let (source, target) = (from.join(name), to.join(name));
        match fs::symlink_metadata(&source) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(found) if found.is_dir() => {
                fs::DirBuilder::new().mode(0o700).create(&target)?;
                for blob in fs::read_dir(&source)? {
                    let blob = blob?;
                    if blob.file_type()?.is_file() {
                        fs::copy(blob.path(), target.join(blob.file_name()))?;
                    }
                }
            }
            Ok(_) => drop(fs::copy(&source, &target)?),
        }
    }
    Ok(())
}

/// Bytes of what [`copy_engine_files`] copies.
pub(super) fn engine_bytes(dir: &Path, snapshots: &[OsString]) -> u64 {
    let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let blobs = fs::read_dir(dir.join(BLOBS)).into_iter().flatten();
    let blobs = blobs.filter_map(|blob| Some(size(&blob.ok()?.path())));
    let names = ENGINE_FILES.iter().map(OsStr::new).filter(|name| *name != BLOBS);
    names
        .chain(snapshots.iter().map(OsString::as_os_str))
        .map(|name| size(&dir.join(name)))
        .chain(blobs)
        .sum()
}

/// Whether the engine's settings, the file `conf`, are as it wrote them: its checksum is at the end. When they
/// are not, the engine only says so and goes on with what it read.
pub(super) fn settings_are_whole(dir: &Path) -> bool {
    let Ok(bytes) = fs::read(dir.join("conf")) else { return false };
    bytes.split_last_chunk::<4>().is_some_and(|(body, sum)| *sum == crc32fast::hash(body).to_le_bytes())
}

/// Bytes that this process may still write to the file system of `dir`.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(dir)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Whether a failure means that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether the disk takes writes again: asked before sled is let near its files after a failure.
pub(super) fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(PROBE);
    let written = private(&path).and_then(|mut file| {
        file.write_all(&vec![0x5a; 2 << 20])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    written.and(removed)
}

pub(super) fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_copy_holds_what_the_engine_reads_and_no_secret() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (from.path(), to.path().join("copy"));
        let files =
            ["db", "conf", "snap.0000000000000001", "snap.2.generating", "vault.key", "signing-keys.json"];
        for name in files.into_iter().chain(["admin.token", "palisade.acknowledged", "big"]) {
            fs::write(from.join(name), name).unwrap();
        }
        for folder in ["blobs", "plugins", "issuer-keys"] {
            fs::create_dir(from.join(folder)).unwrap();
            fs::write(from.join(folder).join("7"), "within").unwrap();
        }
        let snapshots = [OsString::from("snap.0000000000000001")];
        copy_engine_files(from, &to, &snapshots).unwrap();
        let names = |folder: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&to), ["blobs", "conf", "db", "snap.0000000000000001"]);
        assert_eq!(names(&to.join("blobs")), ["7"]);
        assert_eq!(engine_bytes(from, &snapshots), engine_bytes(&to, &snapshots));
        assert_eq!(engine_bytes(&to, &snapshots), 2 + 4 + 21 + 6);
        // Two files, however their blocks are kept: the copy is written to.
        for (file, content) in [("db", "db"), ("blobs/7", "within")] {
            fs::write(to.join(file), "other").unwrap();
            assert_eq!(fs::read_to_string(from.join(file)).unwrap(), content);
        }
        for folder in [&to, &to.join("blobs")] {
            assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}

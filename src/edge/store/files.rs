//! The data directory: its lock, the witness of what was acknowledged, and the rehearsal before the
//! real files are opened.
//!
//! sled mends a damaged log by cutting it off where the damage begins, which empties a store quietly.
//! So the last acknowledged sequence number is kept beside it, in a file of its own, and a store that
//! has fallen behind it is refused. Because opening already changes the files, a copy is opened first:
//! a corrupt store must never be written to.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "palisade.lock";
const WITNESS: &str = "palisade.acknowledged";
const REHEARSAL: &str = "palisade.rehearsal";
const PROBE: &str = "palisade.probe";

/// Why a store did not open. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
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
    /// What is there is not what was acknowledged.
    #[error(
        "the store in {dir} is corrupt: {why}; its files were left as they are: keep a copy, then restore a backup \
         into an empty directory (starting from an empty one would bring revoked tokens back to life)"
    )]
    Corrupt {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
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
        Err(e) if e.kind() != ErrorKind::StorageFull => Err(OpenError::Io { path, source: e }),
        _ => Ok(file),
    }
}

/// The last sequence number that was acknowledged, on disk.
pub(super) struct Witness(File);

impl Witness {
    /// Opens it, making an empty one where there is none.
    pub(super) fn open(dir: &Path) -> Result<Witness, OpenError> {
        let path = dir.join(WITNESS);
        private(&path).map(Witness).map_err(OpenError::io(path))
    }

    /// Notes that everything up to `sequence` is durable. Written after the sync and not synced itself:
    /// after a power loss it may lag, which is harmless, but it never runs ahead.
    pub(super) fn note(&self, sequence: u64) -> io::Result<()> {
        self.0.write_all_at(format!("acknowledged {sequence:020}\n").as_bytes(), 0)
    }

    /// The number noted last; 0 when nothing ever was.
    pub(super) fn read(&self, dir: &Path) -> Result<u64, OpenError> {
        let mut bytes = [0u8; 64];
        let n = self.0.read_at(&mut bytes, 0).map_err(OpenError::io(dir.join(WITNESS)))?;
        // A power loss can leave a file that has a length and no content yet.
        if bytes[..n].iter().all(|b| *b == 0) {
            return Ok(0);
        }
        std::str::from_utf8(&bytes[..n])
            .ok()
            .and_then(|text| text.trim_end().strip_prefix("acknowledged ")?.parse().ok())
            .ok_or_else(|| OpenError::corrupt(dir, format!("{WITNESS} does not hold a sequence number")))
    }
}

/// Opens a copy of the store with `open`, so that damage shows before the real files are touched. A
/// store that was never written has nothing to rehearse.
pub(super) fn rehearse(
    dir: &Path,
    open: impl FnOnce(&Path) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let copy = dir.join(REHEARSAL);
    let clear = || match fs::remove_dir_all(&copy) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(OpenError::Io { path: copy.clone(), source: e }),
        _ => Ok(()),
    };
    clear()?;
    if !dir.join("db").exists() {
        return Ok(());
    }
    let outcome = match copy_store(dir, &copy) {
        Ok(()) => open(&copy).map_err(|e| match e {
            OpenError::Corrupt { why, .. } => OpenError::corrupt(dir, why),
            other => other,
        }),
        // No room for a copy. Refusing to start would turn a full disk into an outage.
        Err(e) if e.kind() == ErrorKind::StorageFull => Ok(()),
        Err(e) => Err(OpenError::Io { path: copy.clone(), source: e }),
    };
    clear()?;
    outcome
}

/// Copies what sled reads: everything but our own files. Shares the blocks where the file system can.
fn copy_store(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("palisade.") {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            copy_store(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
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

/// Makes the names of new files durable: without it a power loss may forget the files themselves.
pub(super) fn sync_names(dir: &Path) -> io::Result<()> {
    File::open(dir.join("conf"))?.sync_all()?;
    File::open(dir)?.sync_all()
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(path)
}

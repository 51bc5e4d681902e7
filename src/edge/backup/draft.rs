//! A backup while it is written, in a file that gets its name once it is whole.
//!
//! Each has a name of its own, `FILE.DIGITS.part`, so that two backups to one name never mix. The file is locked while its
//! backup is made, which tells it from one that a killed process has left. It replaces no file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How the name of a draft ends.
const PART: &str = ".part";
/// Hexadecimal digits that tell the drafts of one backup apart.
const DIGITS: usize = 8;

/// The draft. It is removed with this value, unless it was published.
pub struct BackupDraft {
    file: PathBuf,
    draft: PathBuf,
    out: File,
}

impl BackupDraft {
    /// Begins a draft of `file`, and removes those that killed processes have left of it. Blocks.
    ///
    /// # Errors
    /// There is such a file, another process is making it, or what the file system said; as one printable text.
    pub fn begin(file: &Path) -> Result<BackupDraft, String> {
        // Also where it is a link that leads nowhere.
        if file.symlink_metadata().is_ok() {
            return Err(is_there(file));
        }
        for draft in drafts(file) {
            // No pipe, which would be waited for.
            if !draft.symlink_metadata().is_ok_and(|left| left.is_file()) {
                continue;
            }
            let Ok(left) = File::open(&draft) else { continue };
            match left.try_lock() {
                Ok(()) => {
                    // What stays for another reason is no hindrance.
                    let _ = fs::remove_file(&draft);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(format!(
                        "another process is making {}: it writes {}",
                        file.display(),
                        draft.display()
                    ));
                }
                // Without locks nothing tells whether it is being written.
                Err(TryLockError::Error(_)) => {}
            }
        }
        BackupDraft::make(file)
    }

    fn make(file: &Path) -> Result<BackupDraft, String> {
        loop {
            let mut digits = [0; DIGITS / 2];
            getrandom::fill(&mut digits).map_err(|error| format!("no randomness: {error}"))?;
            let mut draft = file.as_os_str().to_owned();
            draft.push(format!(".{}{PART}", hex::encode(digits)));
            let draft = PathBuf::from(draft);
            let mut options = OpenOptions::new();
            let out = options.write(true).create_new(true).mode(0o600).open(&draft);
            let made = BackupDraft {
                file: file.to_owned(),
                out: out.map_err(|error| unwritten(&draft, &error))?,
                draft,
            };
            // A file system without locks keeps the names apart all the same.
            let is_taken = matches!(made.out.try_lock(), Err(TryLockError::WouldBlock));
            let links = made.out.metadata().map_err(|error| unwritten(&made.draft, &error))?.nlink();
            // Otherwise another process took it for one that was left, before it was locked.
            if !is_taken && links > 0 {
                return Ok(made);
            }
        }
    }

    /// Where it is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.draft
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// What the file system said, as one printable text.
    pub fn sync(&self) -> Result<(), String> {
        self.out.sync_all().map_err(|error| unwritten(&self.draft, &error))
    }

    /// Gives the backup its name, durably.
    ///
    /// # Errors
    /// There is such a file by now, or what the file system said; as one printable text.
    pub fn publish(self) -> Result<(), String> {
        match fs::hard_link(&self.draft, &self.file) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(is_there(&self.file)),
            // A file system without a second name for a file.
            Err(_) if self.file.symlink_metadata().is_err() => {
                fs::rename(&self.draft, &self.file).map_err(|error| unwritten(&self.file, &error))?;
            }
            Err(_) => return Err(is_there(&self.file)),
        }
        let folder = folder_of(&self.file);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| {
            format!(
                "{} is whole, but it is not known whether its name is on the disk: {}: {error}",
                self.file.display(),
                folder.display()
            )
        })
    }
}

impl Drop for BackupDraft {
    fn drop(&mut self) {
        // Gone already where it was renamed. The error of the backup is the one to tell.
        let _ = fs::remove_file(&self.draft);
    }
}

impl Write for &BackupDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.out).write(bytes).map_err(|error| named(&self.draft, &error))
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.out).flush().map_err(|error| named(&self.draft, &error))
    }
}

/// Where a backup is written to that has no file of its own; errors say where they were.
pub struct NamedOutput<W>(pub W, pub &'static str);

impl<W: Write> Write for NamedOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| named(Path::new(self.1), &error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|error| named(Path::new(self.1), &error))
    }
}

/// An error that says where it was.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn unwritten(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}

fn is_there(file: &Path) -> String {
    format!("{} is there already: a backup replaces no file", file.display())
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The drafts of `file` that are there.
fn drafts(file: &Path) -> Vec<PathBuf> {
    let name = file.file_name().map(OsString::from).unwrap_or_default();
    let is_draft = |other: &OsString| {
        let rest = other.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
        let digits = rest.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(PART.as_bytes()));
        digits.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit))
    };
    // A folder that cannot be read is reported by the code that writes into it.
    let Ok(entries) = fs::read_dir(folder_of(file)) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name())
        .filter(is_draft)
        .map(|name| file.with_file_name(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use palisade_testing::folders::names_in;

    use super::*;

    #[test]
    fn a_pipe_with_the_name_of_a_draft_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.palisade");
        let pipe = folder.path().join("one.palisade.00112233.part");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(drafts(&file), std::slice::from_ref(&pipe));
        BackupDraft::begin(&file).unwrap().publish().unwrap();
        assert!(file.exists() && pipe.exists());
    }

    #[test]
    fn a_backup_gets_its_name_once_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.palisade");
        let draft = BackupDraft::begin(&file).unwrap();
        (&draft).write_all(b"whole").unwrap();
        draft.sync().unwrap();
        assert!(!file.exists());
        draft.publish().unwrap();
        assert_eq!(names_in(folder.path()), ["one.palisade"]);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(BackupDraft::begin(&file).err().unwrap().contains("replaces no file"));
        // One that appears meanwhile stays as it is, too.
        let other = folder.path().join("two.palisade");
        let draft = BackupDraft::begin(&other).unwrap();
        fs::write(&other, "first").unwrap();
        assert!(draft.publish().unwrap_err().contains("replaces no file"));
        assert_eq!(fs::read(&other).unwrap(), b"first");
        assert_eq!(names_in(folder.path()), ["one.palisade", "two.palisade"]);
        std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
        assert!(BackupDraft::begin(&folder.path().join("link")).is_err());
    }

    #[test]
    fn of_two_backups_to_one_name_the_second_is_refused_and_what_a_killed_one_has_left_goes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.palisade");
        let left = ["one.palisade.0123abcd.part", "one.palisade.part", "other.0123abcd.part"];
        left.iter().for_each(|name| fs::write(folder.path().join(name), "left").unwrap());
        let draft = BackupDraft::begin(&file).unwrap();
        let refused = BackupDraft::begin(&file).err().unwrap();
        assert!(refused.contains("another process is making") && refused.contains(".part"), "{refused}");
        // The one that is under way is not touched.
        (&draft).write_all(b"whole").unwrap();
        draft.publish().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"whole");
        assert_eq!(names_in(folder.path()), ["one.palisade", "one.palisade.part", "other.0123abcd.part"]);
    }

    #[test]
    fn two_that_begin_at_once_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.palisade");
        // Neither has seen the other.
        let [first, second] = [0; 2].map(|_| BackupDraft::make(&file).unwrap());
        (&first).write_all(b"first").unwrap();
        (&second).write_all(b"second").unwrap();
        first.publish().unwrap();
        assert!(second.publish().unwrap_err().contains("replaces no file"));
        assert_eq!(fs::read(&file).unwrap(), b"first");
        assert_eq!(names_in(folder.path()), ["one.palisade"]);
    }
}

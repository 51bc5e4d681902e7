//! Which of the engine's files in the data folder are the store.
//!
//! A new store lies in the data folder itself: generation 0. Each compaction writes the next generation into a
//! folder of its own, `store.N`, and ends by putting the file `complete` into it. The highest complete
//! generation is the store. All others are leftovers: of a compaction that did not come to its end, or that
//! came to its end and had no time to remove what it replaced. There is no file that names the present one,
//! so none can be damaged; and the rename that puts `complete` in place is one step for every kill and every
//! power loss.
//!
//! Programs before this layout look for `db` in the data folder. Once a generation has replaced it they find
//! none beside the witness, and refuse to start: they never take the folder for an empty one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::files::OpenError;

const PREFIX: &str = "store.";
const COMPLETE: &str = "complete";
const UNFINISHED: &str = "complete.new";

/// One set of the engine's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generation {
    pub(super) number: u64,
    /// Where its files are: the data folder, for generation 0.
    pub(super) folder: PathBuf,
}

/// How far [`Generation::complete`] came when it failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Incomplete {
    /// The generation before it still is the store.
    #[error(transparent)]
    Before(io::Error),
    /// The new one is the store, but perhaps not after a power loss.
    #[error(transparent)]
    Unsynced(io::Error),
}

impl Generation {
    /// The one that is the store.
    ///
    /// # Errors
    /// The folder cannot be read; or there are files of a generation and none that is whole.
    pub(super) fn present(dir: &Path) -> Result<Generation, OpenError> {
        let all = numbers(dir).map_err(OpenError::io(dir))?;
        let complete = |number: &u64| folder(dir, *number).join(COMPLETE).exists();
        if let Some(number) = all.iter().copied().filter(complete).max() {
            return Ok(Generation { number, folder: folder(dir, number) });
        }
        // An unfinished one has the files of the generation before it beside it, always.
        let lost = all.iter().max().filter(|_| !dir.join("db").exists());
        if let Some(number) = lost {
            let name = format!("{PREFIX}{number}/{COMPLETE}");
            return Err(OpenError::corrupt(dir, format!("the file `{name}` is missing")));
        }
        Ok(Generation { number: 0, folder: dir.to_owned() })
    }

    /// Makes the folder of the generation behind all that there are, for our eyes only.
    pub(super) fn begin(dir: &Path) -> io::Result<Generation> {
        let number = numbers(dir)?.into_iter().max().unwrap_or(0) + 1;
        let folder = folder(dir, number);
        DirBuilder::new().mode(0o700).create(&folder)?;
        let begun = Generation { number, folder };
        // A full disk leaves nothing behind.
        begun.reserve().inspect_err(|_| drop(begun.remove()))?;
        Ok(begun)
    }

    /// Writes its mark under another name, so that the last step of a compaction needs no room on the disk.
    fn reserve(&self) -> io::Result<()> {
        let path = self.folder.join(UNFINISHED);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        writeln!(file, "This folder is a complete store of Palisade: generation {}.", self.number)?;
        file.sync_all()
    }

    /// Makes this generation, whose files are written and synced, the store.
    pub(super) fn complete(&self, dir: &Path) -> Result<(), Incomplete> {
        // The names in it first: the store must not be complete before its files have names.
        sync_tree(&self.folder).and_then(|()| sync(dir)).map_err(Incomplete::Before)?;
        fs::rename(self.folder.join(UNFINISHED), self.folder.join(COMPLETE)).map_err(Incomplete::Before)?;
        sync(&self.folder).map_err(Incomplete::Unsynced)
    }

    /// What people find the file of this name under, in the data folder.
    pub(super) fn name(&self, file: &str) -> String {
        match self.number {
            0 => file.to_owned(),
            number => format!("{PREFIX}{number}/{file}"),
        }
    }

    /// Whether it ever became the store.
    pub(super) fn is_complete(&self) -> bool {
        self.number == 0 || self.folder.join(COMPLETE).exists()
    }

    /// Makes the names of its files durable: without it a power loss may forget the files themselves.
    pub(super) fn sync_names(&self, dir: &Path) -> io::Result<()> {
        sync_tree(&self.folder.join("blobs"))?;
        sync(&self.folder.join("conf"))?;
        sync(&self.folder)?;
        sync(dir)
    }

    /// Bytes of all its files.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        let mut total = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !self.owns(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let metadata = entry.metadata()?;
            total += metadata.len();
            if metadata.is_dir() {
                for blob in fs::read_dir(entry.path())? {
                    // The engine removes some meanwhile.
                    total += blob?.metadata().map_or(0, |blob| blob.len());
                }
            }
        }
        Ok(total)
    }

    /// Whether the engine's file of this name belongs to this generation, by the names that the engine gives.
    fn owns(&self, name: &str) -> bool {
        self.number > 0 || matches!(name, "db" | "conf" | "blobs") || name.starts_with("snap.")
    }

    /// Removes its files.
    pub(super) fn remove(&self) -> io::Result<()> {
        if self.number > 0 {
            return absent(fs::remove_dir_all(&self.folder));
        }
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !self.owns(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = entry.path();
            absent(if entry.file_type()?.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            })?;
        }
        Ok(())
    }

    /// Removes every other generation's files, once this one is open and known to be whole.
    pub(super) fn remove_others(&self, dir: &Path) -> io::Result<()> {
        if self.number > 0 {
            Generation { number: 0, folder: dir.to_owned() }.remove()?;
        }
        for number in numbers(dir)?.into_iter().filter(|number| *number != self.number) {
            Generation { number, folder: folder(dir, number) }.remove()?;
        }
        Ok(())
    }
}

/// Whether `dir` has files of a store, whole or not, of whichever generation.
#[must_use]
pub fn is_there(dir: &Path) -> bool {
    dir.join("db").exists() || numbers(dir).is_ok_and(|all| !all.is_empty())
}

fn folder(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number}"))
}

/// The generations that have a folder of their own, complete or not.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok());
        // One spelling for each.
        let Some(number) = number.filter(|number| *number > 0 && *name == *format!("{PREFIX}{number}"))
        else {
            continue;
        };
        if entry.file_type()?.is_dir() {
            found.push(number);
        }
    }
    Ok(found)
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs every file below, and the folders that name them.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let synced = if entry.file_type()?.is_dir() { sync_tree(&entry.path()) } else { sync(&entry.path()) };
        // The engine removes some meanwhile.
        absent(synced)?;
    }
    sync(folder)
}

fn absent(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use palisade_testing::folders::names_in;

    use super::*;

    fn zero(dir: &Path) {
        for name in ["db", "conf", "snap.0000000000000001", "snap.2.generating"] {
            fs::write(dir.join(name), name).unwrap();
        }
        fs::create_dir(dir.join("blobs")).unwrap();
        fs::write(dir.join("blobs/17"), "blob").unwrap();
    }

    #[test]
    fn a_generation_counts_once_it_is_complete_and_the_others_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        zero(dir);
        fs::write(dir.join("vault.key"), "secret").unwrap();
        fs::write(dir.join("store.backup"), "the operator's").unwrap();
        fs::create_dir(dir.join("store.07")).unwrap();
        let old = Generation::present(dir).unwrap();
        assert_eq!(old, Generation { number: 0, folder: dir.to_owned() });
        assert_eq!(
            old.bytes().unwrap(),
            2 + 4 + 21 + 17 + fs::metadata(dir.join("blobs")).unwrap().len() + 4
        );

        let killed = Generation::begin(dir).unwrap();
        let next = Generation::begin(dir).unwrap();
        assert_eq!((killed.number, next.number), (1, 2));
        fs::write(next.folder.join("db"), "new").unwrap();
        assert_eq!(Generation::present(dir).unwrap(), old, "it is not complete");
        next.complete(dir).unwrap();
        assert_eq!(Generation::present(dir).unwrap(), next);
        next.remove_others(dir).unwrap();
        assert_eq!(names_in(dir), ["store.07", "store.2", "store.backup", "vault.key"]);
        assert_eq!(names_in(&next.folder), ["complete", "db"]);
        assert_eq!(Generation::present(dir).unwrap(), next);
    }

    #[test]
    fn what_cannot_be_synced_does_not_become_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let begun = Generation::begin(dir.path()).unwrap();
        let odd = begun.folder.join("odd");
        // Nothing opens a link that leads to itself.
        std::os::unix::fs::symlink("odd", &odd).unwrap();
        assert!(matches!(begun.complete(dir.path()), Err(Incomplete::Before(_))));
        assert!(!begun.is_complete());
        fs::remove_file(odd).unwrap();
        begun.complete(dir.path()).unwrap();
        assert!(begun.is_complete());
    }

    #[test]
    fn its_folder_is_for_the_eyes_of_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let begun = Generation::begin(dir.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&begun.folder), mode(&begun.folder.join(UNFINISHED))), (0o700, 0o600));
    }

    #[test]
    fn the_files_of_a_generation_without_its_mark_are_no_empty_store() {
        let dir = tempfile::tempdir().unwrap();
        let begun = Generation::begin(dir.path()).unwrap();
        begun.complete(dir.path()).unwrap();
        fs::remove_file(begun.folder.join(COMPLETE)).unwrap();
        let error = Generation::present(dir.path()).unwrap_err().to_string();
        assert!(error.contains("`store.1/complete` is missing"), "{error}");
    }
}

//! The data folder: it and what is in it are for our own eyes only. The secrets in it are read and made by
//! [`super::own_secrets`].

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes the folder, for its owner only, unless it is there.
///
/// # Errors
/// What the file system said, as one printable text.
pub fn make(folder: &Path) -> Result<(), String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| format!("the data folder {} cannot be made: {error}", folder.display()))
}

/// The file that is locked in the folder of a gateway whose store is elsewhere.
const LOCK: &str = "palisade.lock";

/// A data folder that no other process uses while this lasts.
pub struct FolderLock(#[allow(dead_code, reason = "held open: the lock goes with it")] fs::File);

/// Takes the folder for this process.
///
/// # Errors
/// Another process has it, or what the file system said; as one printable text.
pub fn lock(folder: &Path) -> Result<FolderLock, String> {
    let path = folder.join(LOCK);
    let failed = |why: &str| format!("the data folder {} cannot be used: {why}", folder.display());
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(|error| failed(&error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock(file)),
        Err(fs::TryLockError::WouldBlock) => {
            Err(failed("another gateway uses it; each replica needs a store.data of its own"))
        }
        Err(fs::TryLockError::Error(error)) => Err(failed(&error.to_string())),
    }
}

/// Files of ours that hold secrets, and what lies beside them: the store with what is in it, and its copies.
const SECRETS: [&str; 5] = ["signing-keys.json", "vault.key", "opaque.key", "admin.token", "plugins.key"];
const STORE: [&str; 5] = ["db", "conf", "blobs", "issuer-keys", "issuer-clocks.json"];
const STORE_BEGINNINGS: [&str; 3] = ["snap.", "store.", "palisade."];

/// Removes the permissions of group and others from the folder, its secrets and the store. Symbolic links are not
/// followed: their targets are not ours to change. Returns the files with secrets that other users could read or
/// write, one line each.
///
/// # Errors
/// Every user of this machine can read or write a secret that belongs to another user, so that its mode cannot be
/// changed here; as one printable text.
pub fn tighten(folder: &Path) -> Result<Vec<String>, String> {
    let mut told = Vec::new();
    told.extend(tighten_one(folder, What::Folder)?);
    for entry in entries(folder) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if SECRETS.contains(&&*name) {
            told.extend(tighten_one(&entry.path(), What::Secret)?);
        } else if STORE.contains(&&*name) || STORE_BEGINNINGS.iter().any(|begin| name.starts_with(begin)) {
            tighten_one(&entry.path(), What::Store)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                for inner in entries(&entry.path()) {
                    tighten_one(&inner.path(), What::Store)?;
                }
            }
        }
    }
    Ok(told)
}

fn entries(folder: &Path) -> Vec<fs::DirEntry> {
    // What cannot be read is reported by the code that works with it.
    fs::read_dir(folder).map_or_else(|_| Vec::new(), |entries| entries.flatten().collect())
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Folder,
    Secret,
    /// The engine makes these by the umask, and the folder keeps others from them: nothing to tell.
    Store,
}

fn tighten_one(path: &Path, what: What) -> Result<Option<String>, String> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(None) };
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 == 0 || found.is_symlink() {
        return Ok(None);
    }
    let changed = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700));
    // Some file systems take it and do nothing.
    let now = fs::symlink_metadata(path).map_or(mode, |found| found.permissions().mode() & 0o777);
    verdict(path, what, mode, (now & 0o077 == 0, changed.is_ok()))
}

/// What to say of something that had `mode`: `mended` says whether it has not any more, `allowed` whether the system
/// let us change it.
fn verdict(
    path: &Path,
    what: What,
    mode: u32,
    (mended, allowed): (bool, bool),
) -> Result<Option<String>, String> {
    if what == What::Store {
        return Ok(None);
    }
    let shown = path.display();
    let who = if mode & 0o007 == 0 { "its group" } else { "every user of this machine" };
    match (mended, allowed) {
        (true, _) => Ok(Some(format!(
            "{shown} was open to {who} (mode {mode:04o}) and is not any more; if others could have read it, replace what \
             is in it"
        ))),
        (false, true) => Ok(Some(format!(
            "{shown} is open to {who} (mode {mode:04o}), and its file system does not let that be changed"
        ))),
        // Some volumes can only be used with a mode that is open to their group or to all users.
        (false, false) if what == What::Folder || mode & 0o007 == 0 => Ok(Some(format!(
            "{shown} is open to {who} (mode {mode:04o}) and belongs to another user, so it was left so"
        ))),
        (false, false) => Err(format!(
            "{shown} is open to every user of this machine (mode {mode:04o}) and belongs to another user: let its owner \
             take that away (chmod o= {shown}), or give it to the user of the gateway"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn loose_modes_are_corrected_and_told_where_there_are_secrets() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("data");
        make(&folder).unwrap();
        fs::create_dir(folder.join("issuer-keys")).unwrap();
        let files = ["db", "snap.7", "store.2", "palisade.acknowledged", "issuer-keys/a.json", "notes.txt"];
        for file in SECRETS.iter().chain(&files) {
            fs::write(folder.join(file), "x").unwrap();
            fs::set_permissions(folder.join(file), fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let told = tighten(&folder).unwrap();
        assert_eq!(told.len(), 1 + SECRETS.len(), "{told:?}");
        assert!(told.iter().all(|line| line.contains("every user") && line.contains("(mode 0")), "{told:?}");
        assert_eq!(mode(&folder), 0o700);
        for file in SECRETS.iter().chain(&files[..5]) {
            assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
        }
        // What is not ours is left alone, and what is right is not told again.
        assert_eq!(mode(&folder.join("notes.txt")), 0o644);
        assert_eq!(tighten(&folder).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_folder_is_made_for_its_owner() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("data");
        make(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
    }

    #[test]
    fn a_folder_is_one_processs() {
        let outer = tempfile::tempdir().unwrap();
        let held = lock(outer.path()).unwrap();
        assert!(lock(outer.path()).err().unwrap().contains("store.data of its own"));
        drop(held);
        assert!(lock(outer.path()).is_ok());
    }

    #[test]
    fn a_link_is_not_followed() {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("elsewhere"), "x").unwrap();
        fs::set_permissions(outer.path().join("elsewhere"), fs::Permissions::from_mode(0o644)).unwrap();
        let folder = outer.path().join("data");
        make(&folder).unwrap();
        std::os::unix::fs::symlink("../elsewhere", folder.join("vault.key")).unwrap();
        assert_eq!(tighten(&folder).unwrap(), Vec::<String>::new());
        assert_eq!(mode(&outer.path().join("elsewhere")), 0o644);
    }

    #[test]
    fn a_secret_of_another_user_that_all_users_can_read_is_refused() {
        let path = Path::new("d/vault.key");
        assert!(
            verdict(path, What::Secret, 0o644, (false, false)).unwrap_err().contains("chmod o= d/vault.key")
        );
        assert!(verdict(path, What::Secret, 0o640, (false, false)).unwrap().unwrap().contains("its group"));
        assert!(verdict(path, What::Secret, 0o666, (false, true)).unwrap().unwrap().contains("file system"));
        assert!(verdict(path, What::Folder, 0o777, (false, false)).unwrap().unwrap().contains("every user"));
        assert_eq!(verdict(path, What::Store, 0o644, (false, false)), Ok(None));
    }
}

//! Mail as files: one `.eml` each, for development and for programs that pick it up.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Writes `message` as `ID.eml` into `folder`, whole or not at all, for our eyes only. A second time it
/// replaces the first. Blocks.
///
/// # Errors
/// What the file system said.
pub(super) fn write(folder: &Path, id: Uuid, message: &[u8]) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Hidden until it is whole, so that a program that watches the folder never reads half a message.
    let draft = folder.join(format!(".{id}.eml.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    // One that a crash left behind keeps the mode it had.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(message)?;
    file.sync_all()?;
    let path = folder.join(format!("{id}.eml"));
    fs::rename(&draft, &path)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_one_private_file_however_often_it_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("out/box");
        let id = Uuid::from_u128(7);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!(".{id}.eml.new")), "left behind, and longer than the mail").unwrap();
        for message in ["first", "second"] {
            let path = write(&folder, id, message.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), message);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}

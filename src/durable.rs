//! Replacing a file of the data folder as a whole: durable when it is done, and for its owner's eyes only. Below the
//! rooms of `edge`, since several of them keep such files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `file` (mode 0600), making its folder (0700) when there is none. A reader, or a start
/// after a power loss, sees the former content or this one and nothing in between. Blocks.
///
/// # Errors
/// What the file system said; then the former content stands.
pub fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    // A draft left by a crash may have another mode; a new file has ours from its first byte.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&draft, file)?;
    // Its name must survive a power loss too: what was made with a secret is worth nothing without it.
    File::open(folder)?.sync_all()
}

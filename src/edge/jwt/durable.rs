//! Replacing a file of the data folder as a whole: durable when it is done, and for its owner's eyes only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Writes `bytes` to `file` (mode 0600), making its folder (0700) when there is none. A reader, or a start
/// after a power loss, sees the former content or this one and nothing in between. Blocks.
///
/// # Errors
/// What the file system said; then the former content stands.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let draft = file.with_extension("json.new");
    // A draft left by a crash may have another mode; a new file has ours from its first byte.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&draft, file)?;
    File::open(folder)?.sync_all()
}

/// The SHA-256 of `value` as JSON, in hex: files that only we write carry that of their content, so that a damaged
/// digit is not taken for another one.
///
/// # Errors
/// It cannot be written as JSON.
pub(super) fn digest(value: &impl Serialize) -> io::Result<String> {
    let bytes = Zeroizing::new(serde_json::to_vec(value)?);
    Ok(Sha256::digest(&*bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

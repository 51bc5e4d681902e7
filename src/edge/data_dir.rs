//! The data folder: it and the secrets in it are for our own eyes only.
//!
//! A secret is made once and never replaced: one that cannot be read stops the start instead.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Random bytes in a secret that is made here.
const BYTES: usize = 32;
/// The fewest characters of a secret that somebody else made.
pub const MIN_SECRET: usize = 32;

/// Makes the folder, for its owner only, unless it is there.
///
/// # Errors
/// What the file system said, as one printable text.
pub fn make(folder: &Path) -> Result<(), String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| format!("store.url: cannot make the folder {}: {error}", folder.display()))
}

/// The secret in the file `name` of the folder: 32 random bytes as base64url, made now (mode 0600) when
/// there is none.
///
/// # Errors
/// The file cannot be read or made, or holds less; as one printable text, without the secret.
pub fn secret(folder: &Path, name: &str) -> Result<SecretString, String> {
    let file = folder.join(name);
    let failed = |error: std::io::Error| format!("the secret in {}: {error}", file.display());
    match fs::read_to_string(&file).map(Zeroizing::new) {
        Ok(text) if text.trim().len() >= MIN_SECRET => return Ok(text.trim().to_owned().into()),
        Ok(_) => return Err(format!("{} holds no secret; remove it to have one made", file.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut random = Zeroizing::new([0; BYTES]);
    getrandom::fill(&mut *random).map_err(|error| format!("no randomness: {error}"))?;
    let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(*random));
    let mut out =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).map_err(failed)?;
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(failed)?;
    // Its name must survive a power loss too: what was made with the secret is worth nothing without it.
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(text.to_string().into())
}

/// The bytes of the secret in the file `name` of the folder, made now like [`secret`] when there is none.
///
/// # Errors
/// As [`secret`]; or the file holds no 32 bytes of base64url.
pub fn key(folder: &Path, name: &str) -> Result<Zeroizing<[u8; BYTES]>, String> {
    let failed = |why| format!("the secret in {}: {why}", folder.join(name).display());
    bytes(&secret(folder, name)?).map_err(failed)
}

fn bytes(secret: &SecretString) -> Result<Zeroizing<[u8; BYTES]>, String> {
    use secrecy::ExposeSecret;
    let bytes = URL_SAFE_NO_PAD.decode(secret.expose_secret()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| "it is not base64url".to_owned())?;
    let bytes: [u8; BYTES] = bytes.as_slice().try_into().map_err(|_| "it has not 32 bytes".to_owned())?;
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_made_once_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let made = secret(folder.path(), "a.key").unwrap();
        assert_eq!(secret(folder.path(), "a.key").unwrap().expose_secret(), made.expose_secret());
        assert_ne!(secret(folder.path(), "b.key").unwrap().expose_secret(), made.expose_secret());
        let mode = fs::metadata(folder.path().join("a.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(*bytes(&made).unwrap(), [0; BYTES]);
    }

    #[test]
    fn what_holds_none_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.key"), "short\n").unwrap();
        assert!(secret(folder.path(), "a.key").unwrap_err().contains("remove it"));
        assert_eq!(fs::read(folder.path().join("a.key")).unwrap(), b"short\n");
        assert!(bytes(&"*".repeat(43).into()).is_err());
        assert!(bytes(&"AAAA".to_owned().into()).is_err());
    }
}

//! The gateway's own secrets in the data folder, each in a file of mode 0600; and how those that are one key or one
//! credential are read from wherever they are kept.
//!
//! A secret is made once and never replaced unasked: one that cannot be read stops the start instead.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::durable;
use palisade_core::ports::{KeptSecret, OwnSecret, Replaced, SecretRevision, SecretStore, SecretStoreError};

/// Random bytes in a secret that is made here.
const BYTES: usize = 32;
/// The fewest characters of a secret that was not made here.
pub const MIN_SECRET: usize = 32;

/// The name of the file that holds it in a data folder.
#[must_use]
pub const fn file_name(secret: OwnSecret) -> &'static str {
    match secret {
        OwnSecret::SigningKeys => "signing-keys.json",
        OwnSecret::ServerKey => "opaque.key",
        OwnSecret::VaultKey => "vault.key",
        OwnSecret::AdminCredential => "admin.token",
        OwnSecret::PluginCacheKey => "plugins.key",
    }
}

/// The secrets of a data folder.
pub struct FolderSecrets(PathBuf);

impl FolderSecrets {
    #[must_use]
    pub fn new(folder: &Path) -> FolderSecrets {
        FolderSecrets(folder.to_owned())
    }

    fn path(&self, secret: OwnSecret) -> PathBuf {
        self.0.join(file_name(secret))
    }

    fn failed(&self, secret: OwnSecret) -> impl Fn(io::Error) -> SecretStoreError {
        let place = self.place(secret);
        move |error| SecretStoreError { place: place.clone(), why: error.to_string() }
    }
}

impl SecretStore for FolderSecrets {
    fn find(&self, secret: OwnSecret) -> Result<Option<KeptSecret>, SecretStoreError> {
        match fs::read(self.path(secret)) {
            Ok(content) => Ok(Some(kept(content))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(secret)(error)),
        }
    }

    fn make(&self, secret: OwnSecret, content: &[u8]) -> Result<KeptSecret, SecretStoreError> {
        // One process makes secrets in a folder: it holds the lock of the store in it. A dangling link is left alone,
        // because its target may only be missing for now.
        if fs::symlink_metadata(self.path(secret)).is_ok() {
            let lost = || self.failed(secret)(ErrorKind::AlreadyExists.into());
            return self.find(secret)?.ok_or_else(lost);
        }
        self.replace(secret, content, ONLY)?;
        Ok(kept(content.to_vec()))
    }

    /// A reader, or a start after a power loss, sees the former content or this one and nothing in between.
    fn replace(
        &self,
        secret: OwnSecret,
        content: &[u8],
        _over: SecretRevision,
    ) -> Result<Replaced, SecretStoreError> {
        durable::replace(&self.path(secret), content).map_err(self.failed(secret))?;
        Ok(Replaced::Done(ONLY))
    }

    fn place(&self, secret: OwnSecret) -> String {
        self.path(secret).display().to_string()
    }
}

/// The revision of everything in a folder: one process alone replaces what is in it.
const ONLY: SecretRevision = SecretRevision(1);

fn kept(content: Vec<u8>) -> KeptSecret {
    KeptSecret { content: Zeroizing::new(content), revision: ONLY }
}

/// The secret: 32 random bytes as base64url, made now when there is none.
///
/// # Errors
/// It cannot be read or made, or holds less; as one printable text, without the secret.
pub fn secret(store: &dyn SecretStore, which: OwnSecret) -> Result<SecretString, String> {
    if let Some(found) = find(store, which)? {
        return Ok(found);
    }
    let mut random = Zeroizing::new([0; BYTES]);
    getrandom::fill(&mut *random).map_err(|error| format!("no randomness: {error}"))?;
    let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(*random));
    let kept = store.make(which, text.as_bytes()).map_err(failed)?;
    parse(&kept.content).map_err(|why| damaged(store, which, why))
}

/// The secret; `None` when there is none. Makes nothing.
///
/// # Errors
/// It cannot be read, or holds less than a secret; as one printable text, without the secret.
pub fn find(store: &dyn SecretStore, which: OwnSecret) -> Result<Option<SecretString>, String> {
    let Some(kept) = store.read(which).map_err(failed)? else { return Ok(None) };
    parse(&kept).map(Some).map_err(|why| damaged(store, which, why))
}

/// The bytes of the secret, made now like [`secret`] when there is none.
///
/// # Errors
/// As [`secret`]; or it is no 32 bytes of base64url.
pub fn key(store: &dyn SecretStore, which: OwnSecret) -> Result<Zeroizing<[u8; BYTES]>, String> {
    bytes(&secret(store, which)?).map_err(|why| damaged(store, which, why))
}

/// The most keys of a ring of server keys.
pub const MAX_KEYS: usize = 8;

/// The keys of the server key, made now when there is none: one on each line, the first one signs.
///
/// # Errors
/// As [`key`], for each line; or there are more than [`MAX_KEYS`], or one twice.
pub fn server_keys(store: &dyn SecretStore) -> Result<Vec<Zeroizing<[u8; BYTES]>>, String> {
    let which = OwnSecret::ServerKey;
    let Some(kept) = store.read(which).map_err(failed)? else { return Ok(vec![key(store, which)?]) };
    ring(&kept).map_err(|why| damaged(store, which, why))
}

/// Whether the server key, if there is one, is what [`server_keys`] reads.
///
/// # Errors
/// As [`server_keys`].
pub fn check_server_keys(store: &dyn SecretStore) -> Result<(), String> {
    let which = OwnSecret::ServerKey;
    let Some(kept) = store.read(which).map_err(failed)? else { return Ok(()) };
    ring(&kept).map(drop).map_err(|why| damaged(store, which, why))
}

/// The keys in the file of the server key, as they stand there: one on each line. Not looked at otherwise.
pub fn server_key_lines(kept: &[u8]) -> impl Iterator<Item = &[u8]> {
    kept.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

fn ring(kept: &[u8]) -> Result<Vec<Zeroizing<[u8; BYTES]>>, &'static str> {
    let mut keys: Vec<Zeroizing<[u8; BYTES]>> = Vec::new();
    for line in server_key_lines(kept) {
        let key = bytes(&parse(line)?)?;
        if keys.contains(&key) {
            return Err("it holds a key twice");
        }
        keys.push(key);
    }
    match keys.len() {
        0 => Err("it holds no secret"),
        1..=MAX_KEYS => Ok(keys),
        _ => Err("it holds more than 8 keys"),
    }
}

/// Whether the secret, if there is one, is what [`key`] reads.
///
/// # Errors
/// As [`key`].
pub fn check_key(store: &dyn SecretStore, which: OwnSecret) -> Result<(), String> {
    let Some(found) = find(store, which)? else { return Ok(()) };
    bytes(&found).map(drop).map_err(|why| damaged(store, which, why))
}

fn failed(error: SecretStoreError) -> String {
    format!("the secret in {error}")
}

fn damaged(store: &dyn SecretStore, which: OwnSecret, why: &str) -> String {
    // Without one of these a start beside a store is refused, unless it is told to go on.
    let start = match which {
        OwnSecret::ServerKey | OwnSecret::VaultKey | OwnSecret::SigningKeys => {
            " and start once with `palisade run --accept-new-keys`"
        }
        OwnSecret::AdminCredential | OwnSecret::PluginCacheKey => "",
    };
    format!(
        "{} is damaged: {why}. Restore it from a backup; or remove it{start} to have another one made, and \
         lose what this one protected",
        store.place(which)
    )
}

fn parse(kept: &[u8]) -> Result<SecretString, &'static str> {
    let text = std::str::from_utf8(kept).map_err(|_| "it is no text")?.trim();
    // What a header can carry: the admin credential is sent in one.
    match text.len() >= MIN_SECRET && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.to_owned().into()),
        false => Err("it holds no secret"),
    }
}

fn bytes(secret: &SecretString) -> Result<Zeroizing<[u8; BYTES]>, &'static str> {
    let bytes = URL_SAFE_NO_PAD.decode(secret.expose_secret()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| "it is not base64url")?;
    let bytes: [u8; BYTES] = bytes.as_slice().try_into().map_err(|_| "it has not 32 bytes")?;
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_made_once_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderSecrets::new(folder.path());
        let made = secret(&store, OwnSecret::ServerKey).unwrap();
        assert_eq!(secret(&store, OwnSecret::ServerKey).unwrap().expose_secret(), made.expose_secret());
        assert_ne!(secret(&store, OwnSecret::VaultKey).unwrap().expose_secret(), made.expose_secret());
        assert_eq!(mode(&folder.path().join("opaque.key")), 0o600);
        assert_ne!(*bytes(&made).unwrap(), [0; BYTES]);
    }

    #[test]
    fn what_holds_none_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderSecrets::new(folder.path());
        fs::write(folder.path().join("opaque.key"), "short\n").unwrap();
        assert!(secret(&store, OwnSecret::ServerKey).unwrap_err().contains("or remove it"));
        assert_eq!(fs::read(folder.path().join("opaque.key")).unwrap(), b"short\n");
        fs::write(folder.path().join("opaque.key"), [0xff; 64]).unwrap();
        assert!(find(&store, OwnSecret::ServerKey).unwrap_err().contains("it is no text"));
        assert!(bytes(&"*".repeat(43).into()).is_err());
        assert!(bytes(&"AAAA".to_owned().into()).is_err());
    }

    #[test]
    fn the_server_key_may_be_several_and_each_is_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderSecrets::new(folder.path());
        let made = server_keys(&store).unwrap();
        assert_eq!(made.len(), 1);
        let one = fs::read_to_string(folder.path().join("opaque.key")).unwrap();
        let with = |text: &str| {
            fs::write(folder.path().join("opaque.key"), text).unwrap();
            let read = server_keys(&store);
            assert_eq!(check_server_keys(&store).is_ok(), read.is_ok());
            read
        };
        let other = URL_SAFE_NO_PAD.encode([7; 32]);
        let ring = with(&format!("{other}\r\n\n {one}\n")).unwrap();
        assert_eq!((ring.len(), *ring[0], *ring[1]), (2, [7; 32], *made[0]));
        let nine: Vec<String> = (0..9).map(|byte| URL_SAFE_NO_PAD.encode([byte; 32])).collect();
        assert_eq!(with(&nine[..8].join("\n")).unwrap().len(), 8);
        for (text, why) in [
            ("\n\n", "it holds no secret"),
            (&format!("{one}\n{one}"), "it holds a key twice"),
            (&format!("{one}\n{}", URL_SAFE_NO_PAD.encode([7; 31])), "it has not 32 bytes"),
            (&format!("{one}\nshort"), "it holds no secret"),
            (&format!("{one} {other}"), "it holds no secret"),
            (&nine.join("\n"), "it holds more than 8 keys"),
        ] {
            let said = with(text).unwrap_err();
            assert!(said.contains(why) && !said.contains(&other), "{said}");
        }
    }

    #[test]
    fn of_two_that_make_a_secret_at_once_both_go_by_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderSecrets::new(folder.path());
        assert_eq!(&**store.make(OwnSecret::VaultKey, b"first").unwrap().content, b"first");
        assert_eq!(&**store.make(OwnSecret::VaultKey, b"second").unwrap().content, b"first");
        assert_eq!(
            store.read(OwnSecret::VaultKey).unwrap().as_deref().map(Vec::as_slice),
            Some(&b"first"[..])
        );
        assert_eq!(store.read(OwnSecret::ServerKey).unwrap(), None);
    }

    #[test]
    fn what_is_replaced_is_there_as_a_whole_and_for_its_owner_only() {
        let outer = tempfile::tempdir().unwrap();
        let store = FolderSecrets::new(&outer.path().join("data"));
        store.replace(OwnSecret::SigningKeys, b"one", ONLY).unwrap();
        // What a crash has left, with another mode.
        let draft = outer.path().join("data/signing-keys.json.new");
        fs::write(&draft, "half of it").unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).unwrap();
        store.replace(OwnSecret::SigningKeys, b"two", ONLY).unwrap();
        assert_eq!(&**store.read(OwnSecret::SigningKeys).unwrap().unwrap(), b"two");
        assert_eq!(mode(&outer.path().join("data/signing-keys.json")), 0o600);
        assert!(!draft.exists());
        fs::remove_file(outer.path().join("data/signing-keys.json")).unwrap();
        fs::create_dir(outer.path().join("data/signing-keys.json")).unwrap();
        let error = store.replace(OwnSecret::SigningKeys, b"three", ONLY).unwrap_err();
        assert!(error.to_string().starts_with(&store.place(OwnSecret::SigningKeys)), "{error}");
    }
}

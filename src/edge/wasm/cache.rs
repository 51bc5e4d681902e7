//! Compiled components on disk, so that a start need not compile.
//!
//! What is read here is run as machine code. Nothing is trusted but what this gateway wrote: the folder is
//! its own (mode 0700), and each file carries a MAC under a key that only the gateway has. A file that is
//! damaged, older or from elsewhere is compiled again.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;
use zeroize::Zeroizing;

type HmacSha256 = Hmac<Sha256>;

/// Bytes of the MAC, in front of the compiled component.
const TAG: usize = 32;
/// The largest file that is read, in bytes.
const LARGEST: u64 = 512 << 20;

/// A folder of compiled components.
pub(super) struct Cache {
    folder: PathBuf,
    key: Zeroizing<[u8; 32]>,
    /// Compiler, processor and settings: what was compiled under others does not run here.
    environment: [u8; 32],
}

impl Cache {
    /// The cache in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made ours.
    pub(super) fn open(engine: &Engine, folder: &Path, key: Zeroizing<[u8; 32]>) -> Result<Cache, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let mut environment = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut environment);
        Ok(Cache { folder: folder.to_owned(), key, environment: environment.0.finalize().into() })
    }

    /// The component whose source has the SHA-256 `source`, if it was compiled before.
    pub(super) fn load(&self, engine: &Engine, source: &[u8; 32]) -> Option<Component> {
        let path = self.path(source);
        if fs::metadata(&path).ok()?.len() > LARGEST {
            return None;
        }
        let bytes = fs::read(&path).ok()?;
        let found = bytes.split_at_checked(TAG).and_then(|(tag, compiled)| {
            self.mac(source, compiled).verify_slice(tag).ok()?;
            deserialize(engine, compiled)
        });
        if found.is_none() {
            tracing::warn!(file = %path.display(), "a compiled component is damaged or not ours; it is compiled again");
        }
        found
    }

    /// Keeps `component`. That it could not be kept costs time at the next start, and nothing else.
    pub(super) fn store(&self, source: &[u8; 32], component: &Component) {
        let path = self.path(source);
        if let Err(why) = self.write(&path, source, component) {
            tracing::warn!(file = %path.display(), "a compiled component could not be kept: {why}");
        }
    }

    fn write(&self, path: &Path, source: &[u8; 32], component: &Component) -> Result<(), String> {
        let compiled = component.serialize().map_err(|error| error.to_string())?;
        let tag = self.mac(source, &compiled).finalize().into_bytes();
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| error.to_string())?;
        let draft = path.with_extension(format!("{:016x}.tmp", u64::from_ne_bytes(random)));
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(&tag)?;
            file.write_all(&compiled)?;
            file.sync_all()?;
            fs::rename(&draft, path)
        })();
        written.map_err(|error: std::io::Error| {
            // What is left of it takes space and is never read.
            let _ = fs::remove_file(&draft);
            error.to_string()
        })
    }

    /// Removes what belongs to none of `sources`.
    pub(super) fn sweep(&self, sources: &[[u8; 32]]) {
        let wanted: Vec<PathBuf> = sources.iter().map(|source| self.path(source)).collect();
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let ours = path.extension().is_some_and(|extension| extension == "cwasm" || extension == "tmp");
            if ours && !wanted.contains(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes all but the `most` that were written last.
    pub(super) fn bound(&self, most: usize) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut kept: Vec<_> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let compiled = path.extension().is_some_and(|extension| extension == "cwasm");
                Some((fs::metadata(&path).ok().filter(|_| compiled)?.modified().ok()?, path))
            })
            .collect();
        kept.sort();
        for (_, path) in kept.iter().rev().skip(most) {
            let _ = fs::remove_file(path);
        }
    }

    fn path(&self, source: &[u8; 32]) -> PathBuf {
        self.folder.join(format!("{}-{}.cwasm", hex::encode(source), hex::encode(&self.environment[..8])))
    }

    fn mac(&self, source: &[u8; 32], compiled: &[u8]) -> HmacSha256 {
        // HMAC takes keys of any length.
        #[allow(clippy::expect_used)]
        let mut mac = HmacSha256::new_from_slice(&*self.key).expect("a key of any length is a key");
        mac.update(b"palisade compiled component 1");
        mac.update(source);
        mac.update(&self.environment);
        mac.update(compiled);
        mac
    }
}

fn deserialize(engine: &Engine, compiled: &[u8]) -> Option<Component> {
    // SAFETY: `Component::deserialize` demands bytes that `Component::serialize` made. They are: `load` has
    // verified a MAC over all of them under a key that only the gateway has, and `write`, the only
    // code that makes such a MAC, makes it over what `serialize` has just returned. The bytes are in memory
    // of ours since before the check, so that they cannot change after it. That they fit this engine is
    // part of the MAC, and checked again by wasmtime.
    #[allow(unsafe_code)]
    unsafe { Component::deserialize(engine, compiled) }.ok()
}

/// [`Hasher`] for what is only offered as [`Hash`], where 64 bits are too few.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash: [u8; 32] = self.0.clone().finalize().into();
        u64::from_le_bytes(hash[..8].try_into().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn only_the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: folder.path().to_owned(), key: [0; 32].into(), environment: [0; 32] };
        for (age, name) in [(3, "a.cwasm"), (1, "b.cwasm"), (2, "c.cwasm"), (9, "other.txt")] {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age)).unwrap();
        }
        cache.bound(2);
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["b.cwasm", "c.cwasm", "other.txt"]);
    }
}

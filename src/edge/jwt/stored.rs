//! The last good keys of other issuers in the data folder, so that a start while a source is down refuses no
//! valid token.
//!
//! One file for each issuer, bound to the issuer and its source: what one of them published is never read as
//! another's. Holds public keys only. What a source withdrew leaves the file before it is reported as done; a
//! file that cannot be replaced then is removed.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::published;
use crate::durable;
use palisade_core::domain::time::UnixTime;

/// The folder in the data folder.
pub const FOLDER: &str = "issuer-keys";

/// How long after they were last fetched keys are still taken from the disk: a source that has not answered
/// for longer than this may have withdrawn them long ago.
pub const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How far ahead of our clock the moment of a fetch may lie: clocks are set back, but not by days.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// How often keys that have not changed are written again, to renew their age.
const RENEW: Duration = Duration::from_secs(60 * 60);

/// The largest file that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The public members of a JWK (RFC 7517 §4, RFC 7518 §6) that are kept.
const MEMBERS: [&str; 11] = ["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops", "issuer"];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    issuer: String,
    /// The SHA-256 of the source's URL, which may hold a secret.
    source: String,
    fetched_at: UnixTime,
    keys: Vec<Map<String, Value>>,
    /// The SHA-256 of all of the above: a file that was damaged, or changed by hand, is no key set.
    digest: String,
}

impl Record {
    fn digest(&self) -> String {
        let Record { version, issuer, source, fetched_at, keys, digest: _ } = self;
        hash(&json!([version, issuer, source, fetched_at, keys]).to_string())
    }
}

/// What is known of a file since the start.
struct Written {
    /// When the answer in it was asked for: an older one never replaces it.
    asked_at: Instant,
    at: UnixTime,
    keys: Vec<Map<String, Value>>,
}

/// Keys of other issuers on disk.
pub struct StoredKeys {
    folder: PathBuf,
    written: Mutex<HashMap<String, Written>>,
}

/// Keys as they were stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// A JWK Set.
    pub jwks: Vec<u8>,
    /// How long ago they were fetched.
    pub age: Duration,
}

impl StoredKeys {
    /// The keys in `data_dir`.
    #[must_use]
    pub fn new(data_dir: &Path) -> StoredKeys {
        StoredKeys { folder: data_dir.join(FOLDER), written: Mutex::default() }
    }

    /// The keys of `issuer` as last fetched from `url`; `None` where nothing was stored. Blocks.
    ///
    /// # Errors
    /// Why what is stored is not used, for the operator.
    pub fn load(&self, issuer: &str, url: &str, now: UnixTime) -> Result<Option<Found>, String> {
        let file = self.file(issuer);
        let refused = |why: &str| Err(format!("{}: {why}; not used", file.display()));
        let metadata = match fs::symlink_metadata(&file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return refused(&error.to_string()),
        };
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return refused("not a file of stored keys");
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return refused("others than its owner may open it (want mode 0600)");
        }
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => return refused(&error.to_string()),
        };
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
            return refused("damaged");
        };
        if record.version != 1 {
            return refused("of a version that this program does not know");
        }
        if record.digest != record.digest() {
            return refused("damaged");
        }
        if record.issuer != issuer {
            return refused("the keys of another issuer");
        }
        if record.source != hash(url) {
            return refused("from another source than the configured one");
        }
        if record.fetched_at > now.plus(MAX_AHEAD) {
            return refused("fetched in the future");
        }
        let age = record.fetched_at.until(now);
        if age > MAX_AGE {
            return refused("too old");
        }
        Ok(Some(Found { jwks: json!({ "keys": record.keys }).to_string().into_bytes(), age }))
    }

    /// Stores the keys that `url` answered with at `now`, when asked at `asked_at`. Blocks.
    ///
    /// # Errors
    /// What the file system said, for the operator. Keys that were withdrawn are gone all the same, unless the
    /// message says otherwise.
    pub fn keep(
        &self,
        issuer: &str,
        url: &str,
        jwks: &[u8],
        asked_at: Instant,
        now: UnixTime,
    ) -> Result<(), String> {
        let keys = public(jwks);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = written.get(issuer) {
            if last.asked_at > asked_at {
                return Ok(());
            }
            if last.keys == keys && now >= last.at && now < last.at.plus(RENEW) {
                return Ok(());
            }
        }
        let mut record = Record {
            version: 1,
            issuer: issuer.to_owned(),
            source: hash(url),
            fetched_at: now,
            keys,
            digest: String::new(),
        };
        record.digest = record.digest();
        let file = self.file(issuer);
        let replaced = serde_json::to_vec_pretty(&record)
            .map_err(std::io::Error::from)
            .and_then(|bytes| durable::replace(&file, &bytes));
        if let Err(error) = replaced {
            written.remove(issuer);
            return match fs::remove_file(&file) {
                Err(left) if left.kind() != ErrorKind::NotFound => Err(format!(
                    "{}: {error}; keys that the issuer withdrew may be in it: remove it ({left})",
                    file.display()
                )),
                _ => {
                    Err(format!("{}: {error}; a restart has no keys until they are fetched", file.display()))
                }
            };
        }
        written.insert(issuer.to_owned(), Written { asked_at, at: now, keys: record.keys });
        Ok(())
    }

    /// Removes the files of issuers that are not among `issuers`: one that is configured again later begins
    /// with what its source says then. Blocks.
    pub fn forget_others<'a>(&self, issuers: impl Iterator<Item = &'a str>) {
        let kept: Vec<PathBuf> = issuers.map(|issuer| self.file(issuer)).collect();
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|issuer, _| kept.contains(&self.file(issuer)));
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if !kept.contains(&path)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!("{}: cannot be removed: {error}", path.display());
            }
        }
    }

    fn file(&self, issuer: &str) -> PathBuf {
        self.folder.join(format!("{}.json", hash(issuer)))
    }
}

/// The public part of every key in a JWK Set that is not a shared secret.
fn public(jwks: &[u8]) -> Vec<Map<String, Value>> {
    let keys = published::keys(jwks).unwrap_or_default();
    keys.into_iter()
        .filter(|key| key.get("kty").and_then(Value::as_str) != Some("oct"))
        .map(|mut key| {
            key.retain(|name, _| MEMBERS.contains(&name.as_str()));
            key
        })
        .collect()
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://i.test/keys?secret=hunter2";
    const NOW: UnixTime = UnixTime(1_000_000_000);
    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","d":"hunter2","kid":"a"},
        {"kty":"oct","k":"hunter2","kid":"b"},{"kty":"EC","crv":"P-256","x":"AA","y":"BB","x5c":["AA"]}, 7]}"#;

    fn stored() -> (tempfile::TempDir, StoredKeys) {
        let folder = tempfile::tempdir().unwrap();
        let stored = StoredKeys::new(folder.path());
        stored.keep("i", URL, SET.as_bytes(), Instant::now(), NOW).unwrap();
        (folder, stored)
    }

    fn keys(found: &Found) -> Value {
        serde_json::from_slice::<Value>(&found.jwks).unwrap()["keys"].clone()
    }

    #[test]
    fn public_keys_come_back_and_secrets_are_never_written() {
        let (_folder, stored) = stored();
        let found = stored.load("i", URL, NOW.plus(Duration::from_secs(60))).unwrap().unwrap();
        assert_eq!(found.age, Duration::from_secs(60));
        let want = json!([{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "a"},
                          {"kty": "EC", "crv": "P-256", "x": "AA", "y": "BB"}]);
        assert_eq!(keys(&found), want);
        let file = stored.file("i");
        assert!(!fs::read_to_string(&file).unwrap().contains("hunter2"));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(stored.load("j", URL, NOW), Ok(None));
    }

    #[test]
    fn what_is_not_exactly_what_was_stored_is_not_used() {
        let (folder, stored) = stored();
        let file = stored.file("i");
        let good = fs::read_to_string(&file).unwrap();
        let why = |issuer: &str, url: &str, now| stored.load(issuer, url, now).unwrap_err();
        assert!(why("i", "https://i.test/other", NOW).contains("another source"));
        assert!(why("i", URL, NOW.plus(MAX_AGE).plus(Duration::from_secs(1))).contains("too old"));
        assert!(stored.load("i", URL, NOW.plus(MAX_AGE)).is_ok());
        assert!(why("i", URL, UnixTime(NOW.0 - 90_000)).contains("future"));
        fs::copy(&file, stored.file("j")).unwrap();
        assert!(why("j", URL, NOW).contains("another issuer"));
        for (from, to) in [
            ("\"AA\"", "\"AB\""),
            ("1000000000", "1000000001"),
            ("\"version\": 1", "\"version\": 2"),
            ("\"issuer\"", "\"issuers\""),
            ("}", ""),
        ] {
            fs::write(&file, good.replacen(from, to, 1)).unwrap();
            assert!(stored.load("i", URL, NOW).is_err(), "{from}");
        }
        // Whole, and of a later program.
        let mut later: Record = serde_json::from_str(&good).unwrap();
        later.version = 2;
        later.digest = later.digest();
        fs::write(&file, serde_json::to_vec(&later).unwrap()).unwrap();
        assert!(why("i", URL, NOW).contains("version"));
        fs::write(&file, &good).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(why("i", URL, NOW).contains("0600"));
        fs::remove_file(&file).unwrap();
        fs::write(folder.path().join("elsewhere"), &good).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &file).unwrap();
        assert!(why("i", URL, NOW).contains("not a file"));
    }

    #[test]
    fn a_withdrawal_is_not_undone_by_an_answer_that_was_asked_for_earlier() {
        let (_folder, stored) = stored();
        let asked_at = Instant::now();
        stored.keep("i", URL, b"{\"keys\":[]}", asked_at + Duration::from_secs(2), NOW).unwrap();
        stored.keep("i", URL, SET.as_bytes(), asked_at + Duration::from_secs(1), NOW).unwrap();
        assert_eq!(keys(&stored.load("i", URL, NOW).unwrap().unwrap()), json!([]));
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_removed() {
        let (_folder, stored) = stored();
        // In the place of the draft, and not to be removed as a file.
        fs::create_dir(stored.file("i").with_extension("json.new")).unwrap();
        let failed = stored.keep("i", URL, b"{\"keys\":[]}", Instant::now(), NOW);
        assert!(failed.is_err());
        assert_eq!(stored.load("i", URL, NOW), Ok(None));
    }

    #[test]
    fn keys_that_stay_the_same_are_written_once_an_hour_and_others_go_with_their_issuer() {
        let (_folder, stored) = stored();
        let fetched = |now| stored.load("i", URL, now).unwrap().unwrap().age.as_secs();
        for (after, age) in [(3599, 3599), (3600, 0)] {
            let now = UnixTime(NOW.0 + after);
            stored.keep("i", URL, SET.as_bytes(), Instant::now(), now).unwrap();
            assert_eq!(fetched(now), age);
        }
        stored.keep("j", URL, SET.as_bytes(), Instant::now(), NOW).unwrap();
        stored.forget_others(std::iter::once("j"));
        assert_eq!(stored.load("i", URL, NOW), Ok(None));
        assert!(stored.load("j", URL, NOW).unwrap().is_some());
    }
}

//! How far the clocks of other issuers were seen ahead of ours, so that a cutoff ends the tokens that they
//! had signed by then.
//!
//! Counted from verified tokens only: a forged token moves no cutoff. Kept in the data folder, because a
//! restart does not change an issuer's clock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::digest;
use crate::durable;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::IssuerClocks;

/// The file in the data folder.
pub const FILE: &str = "issuer-clocks.json";

/// How long a sighting counts: clocks are set right.
const COUNTS: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a sighting that only confirms the last one is taken down.
const CONFIRM: Duration = Duration::from_secs(60 * 60);

/// The furthest that a clock was seen ahead, in seconds, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sighting {
    ahead: u64,
    at: UnixTime,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    issuers: BTreeMap<String, Sighting>,
    /// Of the sightings. Version 0.1.0 wrote none.
    #[serde(default)]
    digest: Option<String>,
}

impl Record {
    fn is_whole(&self) -> bool {
        let digest = self.digest.as_ref();
        self.version == 1 && digest.is_none_or(|digest| digest::of(&self.issuers).is_ok_and(|d| d == *digest))
    }
}

/// The clocks of other issuers.
pub struct Clocks {
    file: PathBuf,
    seen: Mutex<BTreeMap<String, Sighting>>,
    changed: Notify,
}

impl Clocks {
    /// What was seen before the last stop; nothing where nothing ever was. Blocks.
    ///
    /// # Errors
    /// The file cannot be read or is damaged; as one printable text. It is not passed over: a cutoff would miss tokens
    /// that a clock which is ahead has signed.
    pub fn open(data_dir: &Path) -> Result<Clocks, String> {
        let file = data_dir.join(FILE);
        let mut is_earlier = false;
        let seen = match std::fs::read(&file) {
            Ok(bytes) => match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) if record.is_whole() => {
                    is_earlier = record.digest.is_none();
                    record.issuers
                }
                _ => {
                    return Err(format!(
                        "{} is damaged. It says how far the clocks of other issuers were seen ahead of ours, by which a \
                         cutoff reaches their tokens. Restore it from a backup, or remove it: the clocks are observed \
                         anew, and a cutoff that was made meanwhile may have missed tokens of the last day",
                        file.display()
                    ));
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        let clocks = Clocks { file, seen: Mutex::new(seen), changed: Notify::new() };
        if is_earlier && let Err(error) = clocks.save() {
            tracing::warn!(%error, "{} is left as it was", clocks.file.display());
        }
        Ok(clocks)
    }

    /// Takes a look at a verified token of `issuer`, issued at `issued_at` by its clock.
    pub fn observe(&self, issuer: &str, issued_at: UnixTime, now: UnixTime) {
        let ahead = now.until(issued_at).as_secs();
        if ahead == 0 {
            return;
        }
        let mut seen = self.lock();
        let is_news = seen.get(issuer).is_none_or(|last| {
            ahead > last.ahead
                || last.at.plus(COUNTS) < now
                || (ahead == last.ahead && last.at.plus(CONFIRM) < now)
        });
        if is_news {
            seen.insert(issuer.to_owned(), Sighting { ahead, at: now });
            self.changed.notify_one();
        }
    }

    /// Resolves when there is something to [`Clocks::save`].
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Writes down what was seen. Blocks.
    ///
    /// # Errors
    /// What the file system said.
    pub fn save(&self) -> std::io::Result<()> {
        let issuers = self.lock().clone();
        let digest = Some(digest::of(&issuers)?);
        let record = Record { version: 1, issuers, digest };
        durable::replace(&self.file, &serde_json::to_vec_pretty(&record)?)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sighting>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IssuerClocks for Clocks {
    fn ahead(&self, issuer: &str, now: UnixTime) -> Duration {
        let seen = self.lock();
        let counts = seen.get(issuer).filter(|last| now <= last.at.plus(COUNTS));
        Duration::from_secs(counts.map_or(0, |last| last.ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_sighting_of_a_day_counts_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let clocks = Clocks::open(folder.path()).unwrap();
        let at = |seconds: u64| UnixTime(1_000_000 + seconds);
        let ahead = |clocks: &Clocks, now| clocks.ahead("a", at(now)).as_secs();
        clocks.observe("a", at(0), at(0));
        clocks.observe("a", at(0), at(9));
        assert_eq!(ahead(&clocks, 0), 0);
        clocks.observe("a", at(30), at(0));
        clocks.observe("a", at(15), at(10));
        assert_eq!((ahead(&clocks, 10), clocks.ahead("b", at(10)).as_secs()), (30, 0));
        clocks.save().unwrap();
        let clocks = Clocks::open(folder.path()).unwrap();
        let day = 24 * 60 * 60;
        assert_eq!((ahead(&clocks, day), ahead(&clocks, day + 1)), (30, 0));
        clocks.observe("a", at(day + 7), at(day + 2));
        assert_eq!(ahead(&clocks, day + 2), 5, "what is over a day old makes room");
        let file = folder.path().join(FILE);
        clocks.save().unwrap();
        let good = std::fs::read_to_string(&file).unwrap();
        for damaged in ["", "{", &good.replace(": 5", ": 4"), &good[..good.len() / 2]] {
            std::fs::write(&file, damaged).unwrap();
            let error = Clocks::open(folder.path()).err().unwrap();
            assert!(error.contains(FILE) && error.contains("remove it"), "{error}");
        }
        std::fs::write(&file, r#"{"version": 1, "issuers": {"a": {"ahead": 9, "at": 1000000}}}"#).unwrap();
        assert_eq!(ahead(&Clocks::open(folder.path()).unwrap(), 0), 9, "of 0.1.0, without a digest");
    }
}

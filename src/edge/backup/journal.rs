//! The journal of ends: what was erased, disabled, unlinked and revoked, in files beside the backups, so that a restore of
//! an older backup does not bring it back to life.
//!
//! Each run of a gateway appends to a file of its own in the folder, `ends-SECONDS-RANDOM.jsonl`, and syncs a line before
//! the change is answered. Several gateways may write into one folder.
//!
//! A line is a JSON object, a tab and an Ed25519 signature by the installation, over the id of the file, the number of the
//! line and the object: no line can be changed, added, taken out from between others or put elsewhere. Lines at the end can
//! be cut off, and files removed: the journal is no witness of its own length.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::installation::{InstallationKeys, is_signed};
use palisade_core::domain::account::UserId;
use palisade_core::domain::ends::{DatedEnd, End};
use palisade_core::domain::time::UnixTime;

/// What is signed begins with this.
const SIGNED: &[u8] = b"palisade ends 1\0";
/// The form of the file that this program writes.
const VERSION: u32 = 1;
/// The most bytes of a line: what a damaged file can make a reader hold.
const MOST_OF_A_LINE: u64 = 1 << 20;
/// How many ends wait in memory while the journal cannot be written. Beyond it the oldest are forgotten: none of them was
/// acknowledged.
const MOST_WAITING: usize = 100_000;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// [`VERSION`].
    palisade_ends: u32,
    /// Of the file: 32 hexadecimal digits, random.
    id: String,
    /// The public key that signs the lines.
    installation: String,
    made_at: UnixTime,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", file.display())]
pub struct JournalError {
    pub file: PathBuf,
    pub what: String,
}

/// The journal of this run.
pub struct EndsJournal {
    folder: PathBuf,
    keys: Arc<InstallationKeys>,
    open: Mutex<OpenJournal>,
    /// How many ends wait: that of `open`, read without its lock, which is held while the disk is waited for.
    pending: AtomicUsize,
}

#[derive(Default)]
struct OpenJournal {
    file: Option<(File, PathBuf)>,
    id: String,
    lines: u64,
    /// Bytes that are whole and synced.
    length: u64,
    /// Accounts that are disabled, as far as this journal knows: most changes of accounts that are not disabled end no
    /// such state, and are not written.
    disabled: BTreeSet<UserId>,
    /// Ends that could not be written yet.
    waiting: VecDeque<DatedEnd>,
    /// How many were forgotten since there were too many.
    forgotten: u64,
}

impl EndsJournal {
    /// Opens the journal in `folder` (0700), making it when there is none. Reads what earlier runs have written. Blocks.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(folder: &Path, keys: Arc<InstallationKeys>) -> Result<EndsJournal, JournalError> {
        let failed = |error: io::Error| JournalError { file: folder.to_owned(), what: error.to_string() };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let mut disabled = BTreeSet::new();
        let known = |installation: &str| keys.knows(installation);
        for end in read(&[folder.to_owned()], &known)?.ends {
            match end.end {
                End::Disabled { user } => drop(disabled.insert(user)),
                End::Enabled { user } => drop(disabled.remove(&user)),
                _ => {}
            }
        }
        let open = Mutex::new(OpenJournal { disabled, ..OpenJournal::default() });
        Ok(EndsJournal { folder: folder.to_owned(), keys, open, pending: AtomicUsize::new(0) })
    }

    /// Appends ends and syncs them. Those that could not be written before come first; with no ends, they alone. Blocks.
    ///
    /// # Errors
    /// What the file system said; the ends wait in memory for the next try ([`EndsJournal::retry`]).
    pub fn append(&self, at: UnixTime, ends: Vec<End>) -> Result<(), JournalError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut concerns_journal = ends.is_empty() && !open.waiting.is_empty();
        for end in ends {
            let is_news = match &end {
                // Always: another gateway may have written meanwhile that the account is enabled.
                End::Disabled { user } => {
                    open.disabled.insert(*user);
                    true
                }
                End::Enabled { user } => open.disabled.remove(user),
                _ => true,
            };
            // One that waits already is a change that is repeated since it was not acknowledged.
            concerns_journal |= is_news || open.waiting.iter().any(|waiting| waiting.end == end);
            if is_news {
                open.waiting.push_back(DatedEnd { at, end });
            }
        }
        if concerns_journal { self.flush(&mut open, at) } else { Ok(()) }
    }

    /// Writes what could not be written before, if there is such a thing. Returns how many ends it wrote. Blocks.
    ///
    /// # Errors
    /// As [`EndsJournal::append`].
    pub fn retry(&self, at: UnixTime) -> Result<usize, JournalError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.waiting.len();
        if count > 0 {
            self.flush(&mut open, at)?;
        }
        Ok(count)
    }

    /// How many ends could not be written yet. Does not block.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    fn flush(&self, open: &mut OpenJournal, at: UnixTime) -> Result<(), JournalError> {
        let written = self.write(open, at);
        match &written {
            Ok(()) => {
                open.waiting.clear();
                let forgotten = std::mem::take(&mut open.forgotten);
                if forgotten > 0 {
                    tracing::error!(
                        forgotten,
                        "backup.journal lacks ends that came while it could not be written, none of which was acknowledged: a \
                         restore of a backup from before would undo them; make a new backup"
                    );
                }
            }
            Err(_) => {
                abandon(open);
                while open.waiting.len() > MOST_WAITING {
                    open.forgotten += 1;
                    if let Some(DatedEnd { end: End::Enabled { user }, .. }) = open.waiting.pop_front() {
                        // So that it is written when it is repeated.
                        open.disabled.insert(user);
                    }
                }
            }
        }
        self.pending.store(open.waiting.len(), Ordering::Relaxed);
        written.map_err(|error| JournalError { file: self.folder.clone(), what: error.to_string() })
    }

    fn write(&self, open: &mut OpenJournal, at: UnixTime) -> io::Result<()> {
        if let Some((file, _)) = &open.file {
            // What is written into a file that was removed would be gone.
            if file.metadata()?.nlink() == 0 {
                open.file = None;
            }
        }
        if open.file.is_none() {
            self.begin(open, at)?;
        }
        let mut text = Vec::new();
        let mut lines = open.lines;
        for end in &open.waiting {
            self.line(&mut text, &open.id, lines, end)?;
            lines += 1;
        }
        let Some((file, _)) = &mut open.file else { return Err(io::ErrorKind::NotFound.into()) };
        file.write_all(&text)?;
        file.sync_data()?;
        open.length += text.len() as u64;
        open.lines = lines;
        Ok(())
    }

    /// Makes the file of this run; after a failure, another one.
    fn begin(&self, open: &mut OpenJournal, at: UnixTime) -> io::Result<()> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
        open.id = hex::encode(id);
        let path = self.folder.join(format!("ends-{at}-{}.jsonl", &open.id[..8]));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        (open.lines, open.length) = (0, 0);
        // From here on a failure removes it.
        let (file, _) = open.file.insert((file, path));
        let head = Head {
            palisade_ends: VERSION,
            id: open.id.clone(),
            installation: self.keys.public(),
            made_at: at,
        };
        let mut text = Vec::new();
        self.line(&mut text, &open.id, 0, &head)?;
        file.write_all(&text)?;
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        (open.lines, open.length) = (1, text.len() as u64);
        Ok(())
    }

    fn line<T: Serialize>(&self, text: &mut Vec<u8>, id: &str, number: u64, value: &T) -> io::Result<()> {
        let json = serde_json::to_vec(value)?;
        let signature = self.keys.sign(&signed(id, number, &json));
        text.extend_from_slice(&json);
        text.push(b'\t');
        text.extend_from_slice(hex::encode(signature).as_bytes());
        text.push(b'\n');
        Ok(())
    }
}

/// Leaves the file of this run after a failure: what is behind its last whole line would be taken for damage, and after a
/// failed sync it is not known what is on the disk. The next try makes another file. One without an end is removed, so that
/// a journal that is tried again and again leaves no trail of files.
fn abandon(open: &mut OpenJournal) {
    let Some((file, path)) = open.file.take() else { return };
    let cleaned = if open.lines > 1 { file.set_len(open.length) } else { fs::remove_file(&path) };
    if let Err(error) = cleaned {
        tracing::debug!(%error, file = %path.display(), "an unfinished file of backup.journal stays");
    }
}

fn signed(id: &str, number: u64, json: &[u8]) -> Vec<u8> {
    [SIGNED, id.as_bytes(), &number.to_be_bytes(), json].concat()
}

/// What journals say.
#[derive(Debug, Default)]
pub struct ReadJournal {
    /// In the order of their moments.
    pub ends: Vec<DatedEnd>,
    /// Files whose last line was cut off by a crash: it was never answered.
    pub torn: Vec<PathBuf>,
    /// How many files there were.
    pub files: usize,
    /// Of what was named, files and folders without any journal.
    pub without: Vec<PathBuf>,
}

/// Reads journals: files, and all files `ends-….jsonl` of folders. `is_known` says which installations are believed.
///
/// # Errors
/// [`JournalError`]: the first file that cannot be read, is damaged, or is of another installation.
pub fn read(paths: &[PathBuf], is_known: &dyn Fn(&str) -> bool) -> Result<ReadJournal, JournalError> {
    let mut files = BTreeSet::new();
    let mut journal = ReadJournal::default();
    for path in paths {
        let failed = |error: io::Error| JournalError { file: path.clone(), what: error.to_string() };
        if !fs::metadata(path).map_err(failed)?.is_dir() {
            files.insert(path.clone());
            continue;
        }
        let mut is_empty = true;
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("ends-") && name.ends_with(".jsonl") {
                files.insert(entry.path());
                is_empty = false;
            }
        }
        if is_empty {
            journal.without.push(path.clone());
        }
    }
    for file in files {
        let read = read_file(&file, is_known, &mut journal.ends)?;
        journal.files += 1;
        match read {
            Reading::Whole => {}
            Reading::Torn => journal.torn.push(file),
            Reading::Empty => journal.without.push(file),
        }
    }
    journal.ends.sort_by_key(|end| end.at);
    Ok(journal)
}

/// How a file ended.
enum Reading {
    Whole,
    /// Its last line was cut off.
    Torn,
    /// There was nothing in it.
    Empty,
}

/// Reads one file, a line at a time: what is kept of it was signed.
fn read_file(
    file: &Path,
    is_known: &dyn Fn(&str) -> bool,
    ends: &mut Vec<DatedEnd>,
) -> Result<Reading, JournalError> {
    let fault = |what: String| JournalError { file: file.to_owned(), what };
    let failed = |error: io::Error| fault(error.to_string());
    // A pipe that nothing writes into would hold up a start for ever.
    if !fs::metadata(file).map_err(failed)?.is_file() {
        return Err(fault("it is no file, and so no journal of ends".to_owned()));
    }
    let mut text = BufReader::new(File::open(file).map_err(failed)?);
    let mut head: Option<Head> = None;
    let mut line = Vec::new();
    for number in 0.. {
        line.clear();
        (&mut text).take(MOST_OF_A_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        match line.pop() {
            None if number == 0 => return Ok(Reading::Empty),
            None => break,
            Some(b'\n') => {}
            Some(_) if line.len() as u64 + 1 == MOST_OF_A_LINE => {
                return Err(fault(format!("line {} is longer than any line of a journal", number + 1)));
            }
            Some(_) => return Ok(Reading::Torn),
        }
        let line = &line[..];
        let damaged = || match number {
            0 => fault("its first line is damaged, or it is no journal of ends".to_owned()),
            _ => fault(format!("line {} is damaged, or lines before it are missing", number + 1)),
        };
        let at = line.iter().rposition(|byte| *byte == b'\t').ok_or_else(damaged)?;
        let (json, signature) = (&line[..at], hex::decode(&line[at + 1..]).map_err(|_| damaged())?);
        if number == 0 {
            let read: Head = serde_json::from_slice(json).map_err(|_| damaged())?;
            if read.palisade_ends > VERSION {
                return Err(fault("a newer program wrote it: use that one, or a later one".to_owned()));
            }
            if !is_signed(&read.installation, &signed(&read.id, 0, json), &signature) {
                return Err(damaged());
            }
            if !is_known(&read.installation) {
                return Err(fault(format!(
                    "the installation {} has signed it, and not this one",
                    read.installation
                )));
            }
            head = Some(read);
            continue;
        }
        let head = head.as_ref().ok_or_else(damaged)?;
        if !is_signed(&head.installation, &signed(&head.id, number, json), &signature) {
            return Err(damaged());
        }
        let end = serde_json::from_slice(json);
        ends.push(end.map_err(|_| fault(format!("line {} was written by a newer program", number + 1)))?);
    }
    Ok(Reading::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::revocation::{Revocation, Target};
    use uuid::Uuid;
    use zeroize::Zeroizing;

    fn keys(byte: u8) -> Arc<InstallationKeys> {
        Arc::new(InstallationKeys::derive(&[Zeroizing::new([byte; 32])]).unwrap())
    }

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn ends_in(folder: &Path, keys: &InstallationKeys) -> Result<Vec<DatedEnd>, JournalError> {
        read(&[folder.to_owned()], &|public| keys.knows(public)).map(|journal| journal.ends)
    }

    #[test]
    fn what_has_ended_is_read_again_and_only_news_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("ends");
        let revocation = Revocation {
            target: Target::Token { issuer: "i".to_owned(), jti: "tab\tand\nline".to_owned() },
            expires_at: UnixTime(9),
            created_at: UnixTime(1),
            reason: None,
        };
        let first = EndsJournal::open(&folder, keys(1)).unwrap();
        first.append(UnixTime(5), vec![End::Enabled { user: user(1) }]).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "no file without an end");
        first
            .append(UnixTime(5), vec![End::Disabled { user: user(1) }, End::Enabled { user: user(2) }])
            .unwrap();
        first.append(UnixTime(7), vec![End::Revoked { revocation: revocation.clone() }]).unwrap();
        let second = EndsJournal::open(&folder, keys(1)).unwrap();
        second
            .append(UnixTime(6), vec![End::Enabled { user: user(1) }, End::Enabled { user: user(1) }])
            .unwrap();
        let expected = [
            DatedEnd { at: UnixTime(5), end: End::Disabled { user: user(1) } },
            DatedEnd { at: UnixTime(6), end: End::Enabled { user: user(1) } },
            DatedEnd { at: UnixTime(7), end: End::Revoked { revocation } },
        ];
        assert_eq!(ends_in(&folder, &keys(1)).unwrap(), expected);
        let foreign = ends_in(&folder, &keys(2)).unwrap_err().to_string();
        assert!(foreign.contains("and not this one"), "{foreign}");
        assert!(EndsJournal::open(&folder, keys(2)).is_err());
    }

    /// A start that reads the folder would wait for a writer otherwise.
    #[test]
    fn a_pipe_among_the_journals_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("ends-1-00.jsonl");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let refused = EndsJournal::open(folder.path(), keys(1)).err().unwrap().to_string();
        assert!(refused.contains("ends-1-00.jsonl") && refused.contains("it is no file"), "{refused}");
    }

    #[test]
    fn every_change_of_a_journal_is_found_but_one_of_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let journal = EndsJournal::open(folder.path(), keys(1)).unwrap();
        for n in 0..3 {
            journal.append(UnixTime(5), vec![End::Erased { user: user(n) }]).unwrap();
        }
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&file).unwrap();
        let keys = keys(1);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).unwrap();
            // A damaged end of the last line looks like a line that was cut off.
            let found = ends_in(folder.path(), &keys);
            assert!(found.is_err() || at == whole.len() - 1, "byte {at}: {found:?}");
        }
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        for order in [&[1, 2, 3][..], &[0, 2, 3], &[0, 1, 3], &[0, 2, 1, 3], &[0, 1, 1, 2, 3]] {
            fs::write(&file, order.iter().map(|line| lines[*line]).collect::<Vec<_>>().concat()).unwrap();
            assert!(ends_in(folder.path(), &keys).is_err(), "{order:?}");
        }
        fs::write(&file, &whole[..whole.len() - 9]).unwrap();
        let read = read(std::slice::from_ref(&file), &|public| keys.knows(public)).unwrap();
        assert_eq!((read.ends.len(), read.torn), (2, vec![file]));
    }

    /// A journal whose folder has given way to a file.
    fn blocked() -> (tempfile::TempDir, PathBuf, EndsJournal) {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("ends");
        let journal = EndsJournal::open(&folder, keys(1)).unwrap();
        fs::remove_dir(&folder).unwrap();
        fs::write(&folder, "").unwrap();
        (outer, folder, journal)
    }

    fn unblock(folder: &Path) {
        fs::remove_file(folder).unwrap();
        fs::create_dir(folder).unwrap();
    }

    #[test]
    fn what_could_not_be_written_comes_with_the_next_one() {
        let (_outer, folder, journal) = blocked();
        assert!(journal.append(UnixTime(5), vec![End::Erased { user: user(1) }]).is_err());
        assert!(journal.retry(UnixTime(5)).is_err());
        assert_eq!(journal.pending(), 1);
        unblock(&folder);
        journal.append(UnixTime(6), vec![End::Erased { user: user(2) }]).unwrap();
        let expected =
            [(5, 1), (6, 2)].map(|(at, n)| DatedEnd { at: UnixTime(at), end: End::Erased { user: user(n) } });
        assert_eq!(ends_in(&folder, &keys(1)).unwrap(), expected);
        assert_eq!((journal.pending(), journal.retry(UnixTime(7)).unwrap()), (0, 0));
    }

    #[test]
    fn a_change_that_is_repeated_is_not_taken_for_written_while_it_waits() {
        let (_outer, folder, journal) = blocked();
        let (off, on) = (End::Disabled { user: user(1) }, End::Enabled { user: user(1) });
        journal.append(UnixTime(5), Vec::new()).unwrap();
        for end in [&off, &off, &on, &on] {
            assert!(journal.append(UnixTime(5), vec![end.clone()]).is_err(), "{end:?}");
        }
        assert!(journal.append(UnixTime(5), Vec::new()).is_err());
        journal.append(UnixTime(5), vec![End::Enabled { user: user(2) }]).unwrap();
        unblock(&folder);
        assert_eq!(journal.retry(UnixTime(6)).unwrap(), 3);
        assert_eq!(ends_in(&folder, &keys(1)).unwrap().last().unwrap().end, on);
    }

    #[test]
    fn failures_leave_no_trail_of_files_and_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let journal = EndsJournal::open(folder.path(), keys(1)).unwrap();
        let files = || fs::read_dir(folder.path()).unwrap().count();
        for n in 0..2 {
            // A file that takes no writes, as on a disk that is full: first with its head alone, then with an end.
            let mut open = journal.open.lock().unwrap();
            if n == 0 {
                journal.begin(&mut open, UnixTime(5)).unwrap();
            }
            let (file, path) = open.file.take().unwrap();
            drop(file);
            open.file = Some((File::open(&path).unwrap(), path));
            drop(open);
            assert!(journal.append(UnixTime(5), vec![End::Erased { user: user(n) }]).is_err());
            assert_eq!(files(), n as usize);
            assert_eq!(journal.retry(UnixTime(6)).unwrap(), 1);
        }
        assert_eq!((ends_in(folder.path(), &keys(1)).unwrap().len(), files()), (2, 2));
    }

    #[test]
    fn a_file_that_was_removed_takes_no_more_ends() {
        let folder = tempfile::tempdir().unwrap();
        let journal = EndsJournal::open(folder.path(), keys(1)).unwrap();
        journal.append(UnixTime(5), vec![End::Erased { user: user(1) }]).unwrap();
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(file).unwrap();
        journal.append(UnixTime(6), vec![End::Erased { user: user(2) }]).unwrap();
        assert_eq!(ends_in(folder.path(), &keys(1)).unwrap().len(), 1);
    }

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bound_and_written_when_they_are_repeated() {
        let (_outer, folder, journal) = blocked();
        let (off, on) = (End::Disabled { user: user(1) }, End::Enabled { user: user(1) });
        assert!(journal.append(UnixTime(5), vec![off, on.clone()]).is_err());
        let more = (0..MOST_WAITING as u128).map(|n| End::Erased { user: user(n + 2) }).collect();
        assert!(journal.append(UnixTime(5), more).is_err());
        assert_eq!(journal.pending(), MOST_WAITING);
        assert!(journal.append(UnixTime(5), vec![on.clone()]).is_err());
        assert_eq!(journal.pending(), MOST_WAITING);
        assert_eq!(journal.open.lock().unwrap().waiting.back().unwrap().end, on);
        drop(folder);
    }

    #[test]
    fn several_gateways_write_into_one_folder_or_each_into_its_own() {
        let [shared, own] = [0; 2].map(|_| tempfile::tempdir().unwrap());
        let open = |folder: &tempfile::TempDir| EndsJournal::open(folder.path(), keys(1)).unwrap();
        let journals = [open(&shared), open(&shared), open(&own)];
        let disabled = End::Disabled { user: user(9) };
        // In the same second, and in turn.
        for round in 0..2 {
            for (n, journal) in (0..).zip(&journals) {
                journal.append(UnixTime(5), vec![End::Erased { user: user(10 * round + n) }]).unwrap();
            }
        }
        journals[0].append(UnixTime(6), vec![disabled.clone()]).unwrap();
        journals[1].append(UnixTime(7), vec![disabled.clone()]).unwrap();
        journals[1].append(UnixTime(8), vec![End::Enabled { user: user(9) }]).unwrap();
        // The first has not heard that the account was enabled: what it ends is written all the same.
        journals[0].append(UnixTime(9), vec![disabled.clone()]).unwrap();
        assert_eq!(fs::read_dir(shared.path()).unwrap().count(), 2);
        let folders = [shared.path().to_owned(), own.path().to_owned()];
        let keys = keys(1);
        let read = read(&folders, &|public| keys.knows(public)).unwrap().ends;
        assert_eq!(read.len(), 10);
        assert_eq!(read.last().unwrap().end, disabled);
    }
}

//! The witness of acknowledged commits: `palisade.acknowledged`, the number of the last one, beside the database.
//!
//! sled mends a torn log by cutting it off where the damage begins, so a database by itself does not tell whether
//! it is whole. The number is kept twice, in slots a page apart, each with its length and checksum; they are
//! written in turn, so that a torn write leaves the other one. Within a run the first note is synced, with the name
//! of its file, before the commit is acknowledged; from then on the file has its full length and two slots. So a
//! witness that is missing, empty or cut was damaged by something else, and is refused. Later notes are not synced:
//! after a power loss they may lag, which is harmless, and they never run ahead.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::files::{self, OpenError};

pub(super) const WITNESS: &str = "palisade.acknowledged";
/// What a new witness is called until it is whole and synced.
const DRAFT: &str = "palisade.acknowledged.new";

const MAGIC: &[u8; 8] = b"PALISADE";
const VERSION: u32 = 1;
/// The distance of the slots: no sector or page has parts of both.
const SLOT: usize = 4096;
const LENGTH: usize = 2 * SLOT;
const CHECKSUM: usize = 16;
/// Magic, version, length of the file, sequence, checksum.
const RECORD: usize = 8 + 4 + 4 + 8 + CHECKSUM;
/// How version 0.1.0 wrote it: once, as text, without a checksum.
const EARLIER: &str = "acknowledged ";

/// What the witness says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Testimony {
    /// Up to this commit everything was acknowledged.
    Acknowledged(u64),
    /// There is none, or it says nothing that can be believed; why, to follow its name.
    Nothing(String),
}

/// Reads the witness in `dir` without touching it.
pub(super) fn read(dir: &Path) -> Result<Testimony, OpenError> {
    let path = dir.join(WITNESS);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Testimony::Nothing("is missing".to_owned()));
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    if bytes.is_empty() {
        return Ok(Testimony::Nothing("is empty".to_owned()));
    }
    if let Some(sequence) = earlier(&bytes) {
        return Ok(Testimony::Acknowledged(sequence));
    }
    if bytes.len() != LENGTH {
        let why = format!("has {} bytes instead of {LENGTH}", bytes.len());
        return Ok(Testimony::Nothing(why));
    }
    let found = bytes.chunks(SLOT).filter_map(in_slot).max();
    Ok(found.map_or_else(
        || Testimony::Nothing("is damaged in both of its copies".to_owned()),
        Testimony::Acknowledged,
    ))
}

/// The number in a witness of version 0.1.0, which is exactly so long.
fn earlier(bytes: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(bytes).ok()?.strip_prefix(EARLIER)?.strip_suffix('\n')?;
    (number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.parse().ok())?
}

fn in_slot(slot: &[u8]) -> Option<u64> {
    let (record, rest) = slot.split_at_checked(RECORD)?;
    let sequence = u64::from_be_bytes(record[16..24].try_into().ok()?);
    (record == encode(sequence) && rest.iter().all(|byte| *byte == 0)).then_some(sequence)
}

fn encode(sequence: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(MAGIC);
    record[8..12].copy_from_slice(&VERSION.to_be_bytes());
    record[12..16].copy_from_slice(&(LENGTH as u32).to_be_bytes());
    record[16..24].copy_from_slice(&sequence.to_be_bytes());
    let checksum = Sha256::digest(&record[..RECORD - CHECKSUM]);
    record[RECORD - CHECKSUM..].copy_from_slice(&checksum[..CHECKSUM]);
    record
}

/// The witness, being written. Only the writer thread may use it.
pub(super) struct Witness {
    dir: PathBuf,
    /// `None` until the first commit of the run.
    file: Option<File>,
    /// Which slot is written next.
    second: bool,
    /// Whether a note of this run is synced.
    synced: bool,
}

impl Witness {
    /// Touches nothing yet.
    pub(super) fn new(dir: &Path) -> Witness {
        Witness { dir: dir.to_owned(), file: None, second: false, synced: false }
    }

    /// Sees to it that there is a whole and synced witness, of the commits up to `sequence` at least: before the
    /// first write of a run, so that no database ever holds a commit without a witness beside it.
    pub(super) fn establish(&mut self, sequence: u64) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let path = self.dir.join(WITNESS);
        // A whole one is written on, in the slot that does not hold what it says.
        if let Ok(bytes) = fs::read(&path)
            && bytes.len() == LENGTH
            && let slots = [in_slot(&bytes[..SLOT]), in_slot(&bytes[SLOT..])]
            && let Some(latest) = slots.into_iter().max().flatten()
            && latest <= sequence
        {
            self.second = slots[0] == Some(latest);
            self.file = Some(files::private(&path)?);
            return Ok(());
        }
        let draft = self.dir.join(DRAFT);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = files::private(&draft)?;
        let mut bytes = vec![0; LENGTH];
        for at in [0, SLOT] {
            bytes[at..at + RECORD].copy_from_slice(&encode(sequence));
        }
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(&self.dir)?.sync_all()?;
        self.file = Some(file);
        Ok(())
    }

    /// Notes that everything up to `sequence` is durable; the first time in a run durably.
    pub(super) fn note(&mut self, sequence: u64) -> io::Result<()> {
        self.establish(sequence)?;
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(&encode(sequence), if self.second { SLOT as u64 } else { 0 })?;
        if !self.synced {
            file.sync_all()?;
            self.synced = true;
        }
        self.second = !self.second;
        Ok(())
    }

    /// Makes the last note durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(dir: &Path, numbers: impl IntoIterator<Item = u64>) {
        let mut witness = Witness::new(dir);
        for number in numbers {
            witness.note(number).unwrap();
        }
    }

    fn says(dir: &Path) -> Testimony {
        read(dir).unwrap()
    }

    #[test]
    fn the_last_note_counts_and_survives_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WITNESS);
        noted(dir.path(), 1..=7);
        assert_eq!(says(dir.path()), Testimony::Acknowledged(7));
        noted(dir.path(), [8]);
        assert_eq!(says(dir.path()), Testimony::Acknowledged(8), "a run writes on where the last one ended");
        let good = fs::read(&path).unwrap();
        for (at, left) in [(0, 7..=8), (SLOT, 7..=8)] {
            for bit in 0..RECORD * 8 {
                let mut bytes = good.clone();
                bytes[at + bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, bytes).unwrap();
                let Testimony::Acknowledged(number) = says(dir.path()) else { panic!("{at}: {bit}") };
                assert!(left.contains(&number), "{at}: {bit}: {number}");
            }
        }
        let mut bytes = good.clone();
        bytes[0] ^= 1;
        bytes[SLOT] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(says(dir.path()), Testimony::Nothing(why) if why.contains("both")));
        for length in (0..LENGTH).step_by(97).chain([LENGTH - 1]) {
            fs::write(&path, &good[..length]).unwrap();
            assert!(matches!(says(dir.path()), Testimony::Nothing(_)), "{length}");
        }
        fs::write(&path, vec![0; LENGTH]).unwrap();
        assert!(matches!(says(dir.path()), Testimony::Nothing(_)));
        fs::remove_file(&path).unwrap();
        assert_eq!(says(dir.path()), Testimony::Nothing("is missing".to_owned()));
    }

    #[test]
    fn that_of_0_1_0_is_taken_over_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WITNESS);
        fs::write(&path, "acknowledged 00000000000000000042\n").unwrap();
        assert_eq!(says(dir.path()), Testimony::Acknowledged(42));
        noted(dir.path(), [43]);
        assert_eq!(says(dir.path()), Testimony::Acknowledged(43));
        assert_eq!(fs::metadata(&path).unwrap().len(), LENGTH as u64);
        for damaged in ["acknowledged 0000000000000000004", "acknowledged 0000000000000000004x\n", "\0\0\0\0"]
        {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(says(dir.path()), Testimony::Nothing(_)), "{damaged:?}");
        }
    }

    #[test]
    fn one_that_ran_ahead_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        noted(dir.path(), [50]);
        noted(dir.path(), [3]);
        assert_eq!(says(dir.path()), Testimony::Acknowledged(3));
    }
}

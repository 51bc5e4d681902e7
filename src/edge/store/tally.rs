//! How much is in the store: the number of records, their bytes, and a sum over all of them.
//!
//! sled passes over damage in the middle of its log: what lies there is gone, what comes after it is not, and it says
//! nothing. So each commit also writes the sum of the hashes of all records (an incremental hash of a set: M. Bellare
//! and D. Micciancio, "A New Paradigm for Collision-Free Hashing", EUROCRYPT 1997), and a start adds up what it
//! finds. It guards against damage, not against an attacker who can write to the files.

use sha2::{Digest, Sha256};

use super::keys;
use super::trees::Writes;
use palisade_core::ports::StoreError;

/// What is in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// How many records, without the one that this is kept in.
    pub(super) records: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    sum: u128,
}

impl Tally {
    /// Counts a record in.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        if key == keys::sequence() {
            return;
        }
        self.records = self.records.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add((key.len() + value.len()) as u64);
        self.sum = self.sum.wrapping_add(hash(key, value));
    }

    /// Takes a record out that was counted.
    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        if key == keys::sequence() {
            return;
        }
        self.records = self.records.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub((key.len() + value.len()) as u64);
        self.sum = self.sum.wrapping_sub(hash(key, value));
    }

    /// Both together, of records that are in one of them only.
    pub(super) fn and(self, other: Tally) -> Tally {
        Tally {
            records: self.records.wrapping_add(other.records),
            bytes: self.bytes.wrapping_add(other.bytes),
            sum: self.sum.wrapping_add(other.sum),
        }
    }

    /// What it is after `writes`; `get` tells what is there before.
    pub(super) fn after<V: AsRef<[u8]>>(
        mut self,
        writes: &Writes,
        get: impl Fn(&[u8]) -> Result<Option<V>, StoreError>,
    ) -> Result<Tally, StoreError> {
        for (key, value) in writes {
            if let Some(before) = get(key)? {
                self.remove(key, before.as_ref());
            }
            if let Some(value) = value {
                self.add(key, value);
            }
        }
        Ok(self)
    }
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    let length = (key.len() as u64).to_be_bytes();
    let hash = Sha256::new().chain_update(length).chain_update(key).chain_update(value).finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(first)
}

/// How the number of the last commit is stored, with what was in the store by then.
pub(super) fn encode(sequence: u64, tally: &Tally) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..16].copy_from_slice(&tally.records.to_be_bytes());
    bytes[16..24].copy_from_slice(&tally.bytes.to_be_bytes());
    bytes[24..].copy_from_slice(&tally.sum.to_be_bytes());
    bytes
}

/// What [`encode`] stored. Version 0.1.0 kept the number alone, and nothing at all before the first commit.
pub(super) fn decode(bytes: Option<&[u8]>) -> Result<(u64, Option<Tally>), StoreError> {
    let Some(bytes) = bytes else { return Ok((0, None)) };
    let wrong = || StoreError::Unreadable("the number of the last commit cannot be read".to_owned());
    let (sequence, rest) = bytes.split_first_chunk().ok_or_else(wrong)?;
    let sequence = u64::from_be_bytes(*sequence);
    if rest.is_empty() {
        return Ok((sequence, None));
    }
    let (records, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
    let (bytes, sum) = rest.split_first_chunk().ok_or_else(wrong)?;
    let sum = sum.try_into().map_err(|_| wrong())?;
    let (records, bytes) = (u64::from_be_bytes(*records), u64::from_be_bytes(*bytes));
    Ok((sequence, Some(Tally { records, bytes, sum: u128::from_be_bytes(sum) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_depends_on_what_is_there_and_not_on_the_way_to_it() {
        let mut one = Tally::default();
        one.add(b"\x06a", b"1");
        one.add(b"\x06b", b"2");
        let mut other = Tally::default();
        other.add(b"\x06b", b"3");
        let before = |key: &[u8]| Ok((key == b"\x06b").then_some(b"3"));
        let writes = Writes::from([
            (b"\x06b".to_vec(), Some(b"2".into())),
            (b"\x06a".to_vec(), Some(b"1".into())),
            (b"\x06c".to_vec(), None),
        ]);
        assert_eq!(other.after(&writes, before).unwrap(), one);
        assert_eq!((one.records, one.bytes), (2, 6));
        let (mut first, mut second) = (Tally::default(), Tally::default());
        first.add(b"\x06a", b"1");
        second.add(b"\x06b", b"2");
        assert_eq!(first.and(second), one);
        let mut moved = Tally::default();
        moved.add(b"\x06a1", b"");
        moved.add(b"\x06b", b"2");
        assert_ne!(moved, one, "where a key ends counts");
        assert_eq!(decode(Some(&encode(7, &one))).unwrap(), (7, Some(one)));
        assert_eq!(decode(Some(&7u64.to_be_bytes())).unwrap(), (7, None));
        assert_eq!(decode(None).unwrap(), (0, None));
        for length in (0..40).filter(|length| *length != 8) {
            assert!(decode(Some(&encode(7, &one)[..length])).is_err(), "{length}");
        }
    }
}

//! The form of a backup: what its frames are, and how one is told from damage.
//!
//! ```text
//! backup = "palisade-backup\n" version frame…
//! frame  = kind number length checksum payload
//! ```
//!
//! | field | bytes | what it is |
//! |---|---|---|
//! | version | 4 | of the form: [`VERSION`] |
//! | kind | 1 | `H` header, `S` secret, `R` records, `T` trailer, `G` signature |
//! | number | 8 | 0 for the header, one more for each frame behind it |
//! | length | 4 | of the payload |
//! | checksum | 4 | CRC-32 over the id of the backup, kind, number, length and payload |
//! | payload | length | JSON of the header and the trailer; one secret; a chunk of records; 64 bytes of signature |
//!
//! Numbers are big-endian. The id of the backup is in its header and counts in each later checksum, so that a frame of
//! another backup is found where it stands; the checksum of the header counts the bytes before it instead. A chunk of
//! records is their number (4 bytes), their length (4 bytes) and their lines, one JSON object each, in the form of zlib.
//!
//! The first 20 bytes and the form of a frame are the same in every version. A later version that an earlier program
//! would misread gets another number; what an earlier program can pass over does not.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

/// What every backup begins with.
pub const MAGIC: &[u8; 16] = b"palisade-backup\n";
/// The version of the form that this program writes. It reads every earlier one.
pub const VERSION: u32 = 1;
/// The most bytes of the lines of a chunk. A record is no longer either.
pub const MOST_BYTES: usize = 4 << 20;
/// The most records of a chunk: in memory each takes more than the few bytes that its line can have.
pub const MOST_RECORDS: usize = 1 << 15;
/// The most bytes of the payload of a secret, and of any that is neither that nor records.
const MOST_OF_A_SECRET: usize = 1 << 20;
const MOST_OF_OTHERS: usize = 64 << 10;
/// Bytes of a frame before its payload.
pub(super) const FRAME_HEAD: usize = 17;
/// What is signed begins with this, so that no other signature of the key is one of a backup.
pub(super) const SIGNED: &[u8] = b"palisade backup 1\0";

/// The kinds of frames.
pub(super) mod kind {
    pub const HEADER: u8 = b'H';
    pub const SECRET: u8 = b'S';
    pub const RECORDS: u8 = b'R';
    pub const TRAILER: u8 = b'T';
    pub const SIGNATURE: u8 = b'G';
}

/// The most bytes of a payload of this kind. A reader holds no more of a file that it does not know yet, whatever the file
/// says of itself.
pub(super) const fn most_bytes(kind: u8) -> usize {
    match kind {
        // What cannot be packed grows a little.
        kind::RECORDS => MOST_BYTES + (64 << 10),
        kind::SECRET => MOST_OF_A_SECRET,
        _ => MOST_OF_OTHERS,
    }
}

/// The first frame: where a backup comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// Of this backup: 32 hexadecimal digits, random.
    pub id: String,
    /// The public key (Ed25519) that the signature is checked with: 64 hexadecimal digits.
    pub installation: String,
    /// In seconds since 1970, before the first record was read.
    pub made_at: u64,
    /// The kind of the store: `sled` or `postgres`.
    pub store: String,
    /// The version of the program that wrote it.
    pub program: String,
    /// The issuer of the gateway's own tokens (`tokens.issuer`).
    pub issuer: String,
    /// The names of the gateway's secrets that were kept beside the store. A backup of an earlier program names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets_kept: Vec<String>,
}

impl BackupHeader {
    /// The id as bytes; `None` where it is none.
    pub(super) fn id_bytes(&self) -> Option<[u8; 16]> {
        hex::decode(&self.id).ok()?.try_into().ok()
    }
}

/// The last frame but one: what came before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupCounts {
    /// How many chunks of records there are.
    pub chunks: u64,
    /// How many records there are.
    pub records: u64,
    /// The same by their kind.
    pub kinds: BTreeMap<String, u64>,
    /// How many secrets of the gateway there are.
    pub secrets: u64,
    /// SHA-256 of every byte before this frame, in hexadecimal digits.
    pub sha256: String,
}

/// Why a backup was not written, or not read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is not what was written.
    #[error(
        "the backup is damaged at byte {offset}, in frame {frame}, behind {records} records that are whole: {what}"
    )]
    Damaged {
        /// Where the frame begins; of an encrypted backup, among the bytes that were encrypted.
        offset: u64,
        /// The number that the frame should have.
        frame: u64,
        /// How many records came before it.
        records: u64,
        what: String,
    },
    /// The file begins like none.
    #[error("this is no backup of Palisade: {0}")]
    NotOne(&'static str),
    /// What is read is another backup than the one that was read before.
    #[error("the backup was changed while it was read: it is not the one any more that was checked")]
    Changed,
    /// A newer program wrote it.
    #[error("a newer program wrote this backup: {0}; use that one, or a later one")]
    Newer(String),
    /// It is encrypted, and no key that was given opens it; or a key was given wrongly. Names no key.
    #[error("{0}")]
    Encryption(String),
    /// The file system, or the network, said no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A record could not be written, or the store did not give it.
    #[error("{0}")]
    Source(String),
}

/// The checksum of a frame.
pub(super) fn checksum(before: &[u8], head: &[u8; FRAME_HEAD], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(before);
    // Without the checksum itself.
    crc.update(&head[..FRAME_HEAD - 4]);
    crc.update(payload);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use palisade_core::ports::RecordKind;

    #[test]
    fn words_are_those_of_the_lines() {
        for kind in RecordKind::ALL {
            let word = kind.name();
            assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{word}");
        }
        let record = palisade_core::ports::Record::EventsEnd {
            user: palisade_core::domain::account::UserId(uuid::Uuid::nil()),
            at: palisade_core::domain::time::UnixTime(1),
        };
        let line = serde_json::to_value(&record).unwrap();
        assert_eq!(line["kind"], record.kind().name());
    }
}

//! Writing a backup, a chunk at a time.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::format::{
    self, BackupCounts, BackupError, BackupHeader, FRAME_HEAD, MAGIC, MOST_BYTES, MOST_RECORDS, VERSION,
    checksum, kind,
};
use super::installation::InstallationKeys;
use palisade_core::ports::VersionedRecord;

/// About how many bytes of lines make a chunk: what damage can take, and what a reader holds.
const CHUNK_BYTES: usize = 256 << 10;

/// A secret of the gateway, as a backup carries it.
#[derive(Serialize)]
struct SecretLine<'a> {
    name: &'a str,
    /// In hexadecimal digits.
    content: &'a str,
}

/// A backup that is being written.
pub struct BackupWriter<'k, W: Write> {
    out: W,
    keys: &'k InstallationKeys,
    /// What counts in each checksum: what precedes the header first, then the id.
    before: Vec<u8>,
    /// Of every byte so far.
    digest: Sha256,
    frames: u64,
    lines: Vec<u8>,
    in_lines: u32,
    chunk_bytes: usize,
    counts: BackupCounts,
    kinds: BTreeMap<&'static str, u64>,
}

impl<'k, W: Write> BackupWriter<'k, W> {
    /// Begins a backup. Its id and its installation are filled in.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn begin(
        out: W,
        keys: &'k InstallationKeys,
        mut header: BackupHeader,
    ) -> Result<BackupWriter<'k, W>, BackupError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| BackupError::Source(format!("no randomness: {error}")))?;
        header.id = hex::encode(id);
        header.installation = keys.public();
        let before = [&MAGIC[..], &VERSION.to_be_bytes()].concat();
        let mut writer = BackupWriter {
            out,
            keys,
            before: before.clone(),
            digest: Sha256::new(),
            frames: 0,
            lines: Vec::new(),
            in_lines: 0,
            chunk_bytes: CHUNK_BYTES,
            counts: BackupCounts::default(),
            kinds: BTreeMap::new(),
        };
        writer.put(&before)?;
        writer.frame(kind::HEADER, &json(&header)?)?;
        writer.before = id.to_vec();
        Ok(writer)
    }

    /// With chunks of about so many bytes before they are packed.
    #[must_use]
    pub fn in_chunks_of(self, chunk_bytes: usize) -> BackupWriter<'k, W> {
        BackupWriter { chunk_bytes: chunk_bytes.min(CHUNK_BYTES), ..self }
    }

    /// Adds a secret of the gateway. The caller sees to it that the backup is encrypted.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn secret(&mut self, name: &str, content: &[u8]) -> Result<(), BackupError> {
        let content = Zeroizing::new(hex::encode(content));
        let line = Zeroizing::new(json(&SecretLine { name, content: &content })?);
        self.counts.secrets += 1;
        self.frame(kind::SECRET, &line)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn record(&mut self, record: &VersionedRecord) -> Result<(), BackupError> {
        let start = self.lines.len();
        serde_json::to_writer(&mut self.lines, record).map_err(unwritable)?;
        self.lines.push(b'\n');
        if self.lines.len() - start > MOST_BYTES - CHUNK_BYTES {
            return Err(BackupError::Source("a record is larger than a backup can hold".to_owned()));
        }
        self.in_lines += 1;
        *self.kinds.entry(record.record.kind().name()).or_default() += 1;
        let is_full = self.lines.len() >= self.chunk_bytes || self.in_lines as usize == MOST_RECORDS;
        if is_full { self.chunk() } else { Ok(()) }
    }

    /// How many records were added so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.counts.records + u64::from(self.in_lines)
    }

    /// Ends and signs the backup. Gives back where it went, and what is in it.
    ///
    /// # Errors
    /// [`BackupError`]; the backup is not whole then.
    pub fn finish(mut self) -> Result<(W, BackupCounts), BackupError> {
        self.chunk()?;
        self.counts.kinds = self.kinds.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        self.counts.sha256 = hex::encode(self.digest.clone().finalize());
        let trailer = json(&self.counts)?;
        self.frame(kind::TRAILER, &trailer)?;
        let signed = [format::SIGNED, &self.digest.clone().finalize()].concat();
        let signature = self.keys.sign(&signed);
        self.frame(kind::SIGNATURE, &signature)?;
        self.out.flush()?;
        Ok((self.out, self.counts))
    }

    fn chunk(&mut self) -> Result<(), BackupError> {
        if self.in_lines == 0 {
            return Ok(());
        }
        let length =
            u32::try_from(self.lines.len()).map_err(|error| BackupError::Source(error.to_string()))?;
        let mut payload = Vec::with_capacity(self.lines.len() / 4);
        payload.extend_from_slice(&self.in_lines.to_be_bytes());
        payload.extend_from_slice(&length.to_be_bytes());
        let mut zlib = ZlibEncoder::new(payload, Compression::default());
        zlib.write_all(&self.lines)?;
        let payload = zlib.finish()?;
        self.frame(kind::RECORDS, &payload)?;
        self.counts.chunks += 1;
        self.counts.records += u64::from(self.in_lines);
        self.lines.clear();
        self.in_lines = 0;
        Ok(())
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), BackupError> {
        if payload.len() > format::most_bytes(kind) {
            return Err(BackupError::Source("a part of it is larger than a backup can hold".to_owned()));
        }
        let length = u32::try_from(payload.len()).map_err(|error| BackupError::Source(error.to_string()))?;
        let mut head = [0; FRAME_HEAD];
        head[0] = kind;
        head[1..9].copy_from_slice(&self.frames.to_be_bytes());
        head[9..13].copy_from_slice(&length.to_be_bytes());
        let sum = checksum(&self.before, &head, payload);
        head[13..].copy_from_slice(&sum.to_be_bytes());
        self.put(&head)?;
        self.put(payload)?;
        self.frames += 1;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.digest.update(bytes);
        Ok(self.out.write_all(bytes)?)
    }
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec(value).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> BackupError {
    BackupError::Source(format!("a record cannot be written: {error}"))
}

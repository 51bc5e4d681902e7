//! Reading a backup, a chunk at a time. Damage is found where it is, and named with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};

use async_trait::async_trait;
use flate2::read::ZlibDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::format::{
    self, BackupCounts, BackupError, BackupHeader, FRAME_HEAD, MAGIC, MOST_BYTES, MOST_RECORDS, VERSION,
    checksum, kind,
};
use super::installation::{InstallationKeys, is_signed};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Record, RecordKind, RecordSource, StoreError, VersionedRecord};

/// How many secrets a backup names, and how many bytes each name and check value has.
const MOST_NAMES: usize = 64;
const MOST_OF_A_NAME: usize = 128;
const MOST_OF_A_CHECK: usize = 1024;
/// How many characters are told of what is wrong: parsers repeat what they have read.
const MOST_WORDS: usize = 300;

/// Which installation has signed a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedBy {
    /// This one.
    Own,
    /// Another one, or this one before its vault key was lost.
    Foreign,
}

/// What a chunk brings.
pub enum Chunk {
    Records(Vec<VersionedRecord>),
    /// A secret of the gateway, by its name.
    Secret(String, Zeroizing<Vec<u8>>),
}

/// A backup that was read to its end: it is whole, and its signature is that of the installation that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedBackup {
    pub header: BackupHeader,
    pub counts: BackupCounts,
    /// The names of the gateway's secrets in it.
    pub secrets: Vec<String>,
    /// What the secrets are known by that the store was last used with, by their names ([`Record::KeyCheck`]).
    pub key_checks: BTreeMap<String, String>,
    /// The latest moment that the clock of the store ever showed; none where it kept none.
    pub highest: Option<UnixTime>,
}

impl CheckedBackup {
    /// The names of the gateway's secrets that the store was used with: those that were kept beside it when the backup was
    /// made, and those that it has check values of.
    #[must_use]
    pub fn needed(&self) -> Vec<String> {
        let names: BTreeSet<&String> =
            self.header.secrets_kept.iter().chain(self.key_checks.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// Which installation has signed it, as `keys` tell.
    #[must_use]
    pub fn signer(&self, keys: &InstallationKeys) -> SignedBy {
        match keys.knows(&self.header.installation) {
            true => SignedBy::Own,
            false => SignedBy::Foreign,
        }
    }
}

/// A backup that is being read.
pub struct BackupReader<R: Read> {
    input: R,
    header: BackupHeader,
    /// What counts in each checksum.
    before: Vec<u8>,
    digest: Sha256,
    /// Bytes that were read, frames that were whole, records in them.
    offset: u64,
    frames: u64,
    /// Where the frame begins that was read last, and its number.
    last: (u64, u64),
    counts: BackupCounts,
    kinds: BTreeMap<&'static str, u64>,
    secrets: Vec<String>,
    key_checks: BTreeMap<String, String>,
    highest: Option<UnixTime>,
    checked: Option<CheckedBackup>,
}

#[derive(Deserialize)]
struct SecretLine {
    name: String,
    content: Zeroizing<String>,
}

/// What of a line is read where the whole cannot be.
#[derive(Deserialize)]
struct LineHead {
    version: u8,
    kind: String,
}

impl<R: Read> BackupReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn begin(mut input: R) -> Result<BackupReader<R>, BackupError> {
        let mut start = [0; MAGIC.len() + 4];
        let read = fill(&mut input, &mut start)?;
        if read < MAGIC.len() || start[..MAGIC.len()] != *MAGIC {
            return Err(BackupError::NotOne("it begins in another way, or its first bytes are damaged"));
        }
        let mut reader = BackupReader {
            input,
            header: BackupHeader {
                id: String::new(),
                installation: String::new(),
                made_at: 0,
                store: String::new(),
                program: String::new(),
                issuer: String::new(),
                secrets_kept: Vec::new(),
            },
            before: start.to_vec(),
            digest: Sha256::new(),
            offset: read as u64,
            frames: 0,
            last: (0, 0),
            counts: BackupCounts::default(),
            kinds: BTreeMap::new(),
            secrets: Vec::new(),
            key_checks: BTreeMap::new(),
            highest: None,
            checked: None,
        };
        if read < start.len() {
            return Err(reader.damaged(MAGIC.len() as u64, "the file ends in it"));
        }
        reader.digest.update(start);
        let at = reader.offset;
        let (kind, payload) = reader.frame()?;
        let version = u32::from_be_bytes([start[16], start[17], start[18], start[19]]);
        // Behind the checksum, which counts the version: a damaged one is no newer one.
        if version > VERSION {
            return Err(BackupError::Newer(format!(
                "its form has version {version}, and this program knows {VERSION}"
            )));
        }
        if version == 0 || kind != kind::HEADER {
            return Err(reader.damaged(at, "it does not begin with a header"));
        }
        let header: BackupHeader = serde_json::from_slice(&payload)
            .map_err(|error| reader.damaged(at, &format!("no header: {error}")))?;
        reader.before = header.id_bytes().ok_or_else(|| reader.damaged(at, "its id is none"))?.to_vec();
        reader.header = header;
        Ok(reader)
    }

    /// Where the backup comes from. It is not proven before [`BackupReader::checked`].
    #[must_use]
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// How many records came so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.counts.records
    }

    /// What is known once [`BackupReader::next`] has come to the end.
    #[must_use]
    pub fn checked(&self) -> Option<&CheckedBackup> {
        self.checked.as_ref()
    }

    /// The next chunk; `None` at the end, which was reached, is whole, and is signed by the installation that the header
    /// names.
    ///
    /// # Errors
    /// [`BackupError`]; nothing of the backup may be used then.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, BackupError> {
        if self.checked.is_some() {
            return Ok(None);
        }
        let at = self.offset;
        let digest = self.digest.clone();
        let (kind, payload) = self.frame()?;
        match kind {
            kind::RECORDS => self.records_of(at, &payload).map(|records| Some(Chunk::Records(records))),
            kind::SECRET => {
                let line: SecretLine = serde_json::from_slice(&payload)
                    .map_err(|_| self.damaged(at, "it holds no secret of the gateway"))?;
                let content = hex::decode(line.content.as_bytes()).map(Zeroizing::new);
                let content = content.map_err(|_| self.damaged(at, "it holds no secret of the gateway"))?;
                let is_fit = line.name.len() <= MOST_OF_A_NAME && self.secrets.len() < MOST_NAMES;
                if !is_fit || self.secrets.contains(&line.name) {
                    return Err(self.damaged(at, "it holds a secret that came before, or too many of them"));
                }
                self.counts.secrets += 1;
                self.secrets.push(line.name.clone());
                Ok(Some(Chunk::Secret(line.name, content)))
            }
            kind::TRAILER => self.end(at, digest, &payload).map(|()| None),
            kind::SIGNATURE => Err(self.damaged(at, "the signature comes too early")),
            other => Err(self.damaged(at, &format!("there is no frame of kind {other}"))),
        }
    }

    fn records_of(&mut self, at: u64, payload: &[u8]) -> Result<Vec<VersionedRecord>, BackupError> {
        let parts = payload.split_first_chunk::<4>().and_then(|(count, rest)| {
            let (length, zlib) = rest.split_first_chunk::<4>()?;
            Some((u32::from_be_bytes(*count), u32::from_be_bytes(*length) as usize, zlib))
        });
        let Some((count, length, zlib)) =
            parts.filter(|(count, length, _)| *count as usize <= MOST_RECORDS && *length <= MOST_BYTES)
        else {
            return Err(self.damaged(at, "it holds no chunk of records"));
        };
        let mut lines = Vec::with_capacity(length.min(1 << 20));
        let unpacked = ZlibDecoder::new(zlib).take(length as u64 + 1).read_to_end(&mut lines);
        if unpacked.is_err() || lines.len() != length {
            return Err(self.damaged(at, "its records cannot be unpacked"));
        }
        let mut records = Vec::new();
        let has_more =
            || lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).nth(count as usize);
        if has_more().is_some() {
            return Err(self.damaged(at, &format!("it says that it has {count} records and has more")));
        }
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record = self.record(at, line)?;
            *self.kinds.entry(record.record.kind().name()).or_default() += 1;
            match &record.record {
                Record::KeyCheck { file, check } if !check.is_empty() => {
                    let is_fit = file.len() <= MOST_OF_A_NAME && check.len() <= MOST_OF_A_CHECK;
                    if is_fit && self.key_checks.len() < MOST_NAMES {
                        self.key_checks.insert(file.clone(), check.clone());
                    }
                }
                Record::ClockMark(mark) => self.highest = Some(mark.highest.max(mark.at)),
                _ => {}
            }
            records.push(record);
        }
        if records.len() as u64 != u64::from(count) {
            return Err(
                self.damaged(at, &format!("it says that it has {count} records and has {}", records.len()))
            );
        }
        self.counts.chunks += 1;
        self.counts.records += u64::from(count);
        Ok(records)
    }

    /// The record of a line. The checksum was right, so what cannot be read is a record that this program does not know.
    fn record(&self, at: u64, line: &[u8]) -> Result<VersionedRecord, BackupError> {
        let newer = |version: u8, kind: &str| {
            BackupError::Newer(format!(
                "it has a record of kind `{kind}` and version {version}, which this program does not know"
            ))
        };
        match serde_json::from_slice::<VersionedRecord>(line) {
            Ok(record) if record.version > record.record.kind().version() => {
                Err(newer(record.version, record.record.kind().name()))
            }
            Ok(record) => Ok(record),
            Err(error) => match serde_json::from_slice::<LineHead>(line) {
                Ok(head) => {
                    let known = RecordKind::ALL.into_iter().find(|kind| kind.name() == head.kind);
                    match known {
                        Some(kind) if head.version <= kind.version() => Err(self.damaged(
                            at,
                            &format!("a record of kind `{}` cannot be read: {error}", head.kind),
                        )),
                        // Of unknown origin: nothing of it may reach a terminal as it is.
                        _ => Err(newer(head.version, &harmless(&head.kind))),
                    }
                }
                Err(_) => Err(self.damaged(at, "a line of it is no record")),
            },
        }
    }

    /// Holds the trailer against what came, reads the signature, and sees that nothing follows.
    fn end(&mut self, at: u64, digest: Sha256, payload: &[u8]) -> Result<(), BackupError> {
        let trailer: BackupCounts = serde_json::from_slice(payload)
            .map_err(|error| self.damaged(at, &format!("no trailer: {error}")))?;
        let mut counts = self.counts.clone();
        counts.kinds = self.kinds.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        counts.sha256 = hex::encode(digest.finalize());
        if trailer != counts {
            return Err(self.damaged(at, "what it counts is not what came before it"));
        }
        let signed = [format::SIGNED, &self.digest.clone().finalize()].concat();
        let place = self.offset;
        let (kind, signature) = self.frame()?;
        if kind != kind::SIGNATURE || !is_signed(&self.header.installation, &signed, &signature) {
            return Err(
                self.damaged(place, "the signature is not that of the installation that the header names")
            );
        }
        let end = self.offset;
        if fill(&mut self.input, &mut [0; 1])? > 0 {
            return Err(self.damaged(end, "something follows its end"));
        }
        self.checked = Some(CheckedBackup {
            header: self.header.clone(),
            counts,
            secrets: std::mem::take(&mut self.secrets),
            key_checks: std::mem::take(&mut self.key_checks),
            highest: self.highest,
        });
        Ok(())
    }

    /// The next frame, whole.
    fn frame(&mut self) -> Result<(u8, Zeroizing<Vec<u8>>), BackupError> {
        let at = self.offset;
        self.last = (at, self.frames);
        let mut head = [0; FRAME_HEAD];
        let read = self.fill(at, &mut head)?;
        if read < FRAME_HEAD {
            return Err(self.damaged(at, "the file ends here"));
        }
        let number =
            u64::from_be_bytes([head[1], head[2], head[3], head[4], head[5], head[6], head[7], head[8]]);
        let length = u32::from_be_bytes([head[9], head[10], head[11], head[12]]) as usize;
        let sum = u32::from_be_bytes([head[13], head[14], head[15], head[16]]);
        if length > format::most_bytes(head[0]) {
            return Err(self.damaged(at, "its length or its checksum is damaged"));
        }
        let mut payload = Zeroizing::new(Vec::new());
        // Grows with what there is: a damaged length makes no room for what never comes.
        let came = (&mut self.input).take(length as u64).read_to_end(&mut payload);
        came.map_err(|error| self.unreadable(at, error))?;
        self.offset += payload.len() as u64;
        if payload.len() < length {
            return Err(self.damaged(at, "the file ends in it, or its length is damaged"));
        }
        if checksum(&self.before, &head, &payload) != sum {
            return Err(
                self.damaged(at, "its checksum is another one: it was changed, or is of another backup")
            );
        }
        if number != self.frames {
            return Err(self
                .damaged(at, &format!("it is frame {number}: frames are missing, doubled or out of order")));
        }
        self.frames += 1;
        self.digest.update(head);
        self.digest.update(&*payload);
        Ok((head[0], payload))
    }

    fn fill(&mut self, at: u64, bytes: &mut [u8]) -> Result<usize, BackupError> {
        let read = fill(&mut self.input, bytes).map_err(|error| self.unreadable(at, error))?;
        self.offset += read as u64;
        Ok(read)
    }

    /// An error that is damage under an encryption, with its place.
    fn unreadable(&self, at: u64, error: std::io::Error) -> BackupError {
        match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                self.damaged(at, "it cannot be decrypted: it was changed, or the file ends in it")
            }
            _ => BackupError::Io(error),
        }
    }

    fn damaged(&self, at: u64, what: &str) -> BackupError {
        let frame = if at == self.last.0 { self.last.1 } else { self.frames };
        BackupError::Damaged { offset: at, frame, records: self.counts.records, what: harmless(what) }
    }
}

/// Reads until `bytes` are full or the input ends. Returns how many were read.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match input.read(&mut bytes[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Reads a backup to its end, and keeps nothing of it but what is known then. `told` is told of the records so far; `secret` is
/// handed the secrets, by their names. They may be used once the backup is checked.
///
/// # Errors
/// [`BackupError`].
pub fn check<R: Read>(
    input: R,
    told: &mut dyn FnMut(u64),
    secret: &mut dyn FnMut(String, Zeroizing<Vec<u8>>),
) -> Result<CheckedBackup, BackupError> {
    let mut reader = BackupReader::begin(input)?;
    while let Some(chunk) = reader.next_chunk()? {
        if let Chunk::Secret(name, content) = chunk {
            secret(name, content);
        }
        told(reader.records());
    }
    reader.checked.take().ok_or_else(|| BackupError::Source("the backup has no end".to_owned()))
}

/// The records of a backup, for an import; each page is a chunk. The last page comes only once the backup has proven
/// whole and signed, so an import of a damaged one does not end.
pub struct BackupRecords<R: Read> {
    /// `None` once it could not be read.
    reader: Option<BackupReader<R>>,
    /// What was read of it before.
    known: Option<CheckedBackup>,
    fault: Option<BackupError>,
}

impl<R: Read> BackupRecords<R> {
    #[must_use]
    pub const fn new(reader: BackupReader<R>) -> BackupRecords<R> {
        BackupRecords { reader: Some(reader), known: None, fault: None }
    }

    /// The records of a backup that was checked before; of any other, an import does not end.
    ///
    /// # Errors
    /// [`BackupError::Changed`]: it is another one.
    pub fn of(reader: BackupReader<R>, known: &CheckedBackup) -> Result<BackupRecords<R>, BackupError> {
        match reader.header == known.header {
            true => Ok(BackupRecords { known: Some(known.clone()), ..BackupRecords::new(reader) }),
            false => Err(BackupError::Changed),
        }
    }

    /// Why it could not be read.
    #[must_use]
    pub const fn fault(&self) -> Option<&BackupError> {
        self.fault.as_ref()
    }
}

#[async_trait]
impl<R: Read + Send + 'static> RecordSource for BackupRecords<R> {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        let gone = || StoreError::Unreadable("the backup could not be read before".to_owned());
        let mut reader = self.reader.take().ok_or_else(gone)?;
        // Files block.
        let read = tokio::task::spawn_blocking(move || {
            loop {
                match reader.next_chunk() {
                    Ok(Some(Chunk::Records(records))) => return Ok((reader, records)),
                    Ok(Some(Chunk::Secret(..))) => {}
                    Ok(None) => return Ok((reader, Vec::new())),
                    Err(error) => return Err(error),
                }
            }
        });
        let read = read.await.map_err(|error| StoreError::Unreadable(error.to_string()))?;
        let read = read.and_then(|(reader, records)| {
            let is_known =
                self.known.is_none() || reader.checked().is_none() || reader.checked() == self.known.as_ref();
            if is_known { Ok((reader, records)) } else { Err(BackupError::Changed) }
        });
        match read {
            Ok((reader, records)) => {
                self.reader = Some(reader);
                Ok(records)
            }
            Err(error) => {
                let words = error.to_string();
                self.fault = Some(error);
                Err(StoreError::Unreadable(words))
            }
        }
    }
}

/// Words with parts of a file of unknown origin: nothing of it may reach a terminal as it is.
fn harmless(words: &str) -> String {
    words.chars().take(MOST_WORDS).map(|c| if c.is_control() { '?' } else { c }).collect()
}

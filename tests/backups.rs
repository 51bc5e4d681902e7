//! Backups: the form of the file against every kind of damage, and the way of everything that a store holds into one and
//! back.

mod mishaps;
mod moving;
mod program;

use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use palisade::edge::backup::reader::{self, Chunk};
use palisade::edge::backup::{
    BackupError, BackupHeader, BackupReader, BackupRecords, BackupWriter, CheckedBackup, InstallationKeys,
    SignedBy, sealed,
};
use palisade::edge::store::SledStore;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{ImportError, RecordKind, Records, VersionedRecord};
use palisade_testing::transfer::{Whole, every_record, exported};
use serde_json::json;
use zeroize::Zeroizing;

fn keys(byte: u8) -> InstallationKeys {
    InstallationKeys::derive(&[Zeroizing::new([byte; 32])]).unwrap()
}

fn header() -> BackupHeader {
    BackupHeader {
        id: String::new(),
        installation: String::new(),
        made_at: 1_700_000_000,
        store: "sled".to_owned(),
        program: "test".to_owned(),
        issuer: "https://id.test".to_owned(),
        secrets_kept: Vec::new(),
    }
}

/// A backup of these records in small chunks, with a secret where it is encrypted.
fn written(records: &[VersionedRecord], keys: &InstallationKeys, recipients: &[String]) -> Vec<u8> {
    let recipients = sealed::recipients(recipients).unwrap();
    let out = sealed::SealedWriter::new(Vec::new(), &recipients).unwrap();
    let mut writer = BackupWriter::begin(out, keys, header()).unwrap().in_chunks_of(1000);
    if !recipients.is_empty() {
        writer.secret("vault.key", b"a secret of the gateway").unwrap();
    }
    for record in records {
        writer.record(record).unwrap();
    }
    let (out, counts) = writer.finish().unwrap();
    assert_eq!(counts.records, records.len() as u64);
    out.finish().unwrap()
}

fn check(bytes: &[u8]) -> Result<CheckedBackup, BackupError> {
    reader::check(bytes, &mut |_| (), &mut |_, _| ())
}

async fn all_records() -> Vec<VersionedRecord> {
    let folder = tempfile::tempdir().unwrap();
    every_record(&*SledStore::open(folder.path()).unwrap()).await
}

/// One record of each kind, and some more: so few that each byte of their backup can be damaged.
async fn few_records() -> Vec<VersionedRecord> {
    let all = all_records().await;
    let of =
        |kind: RecordKind| all.iter().filter(move |record| record.record.kind() == kind).take(3).cloned();
    RecordKind::ALL.into_iter().flat_map(of).collect()
}

/// Where the frames of a backup lie.
fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut at, mut found) = (20, Vec::new());
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 9..at + 13].try_into().unwrap()) as usize;
        found.push(at..at + 17 + length);
        at += 17 + length;
    }
    assert_eq!(at, bytes.len());
    found
}

#[tokio::test]
async fn damage_of_any_byte_is_found_where_it_is() {
    let backup = written(&few_records().await, &keys(1), &[]);
    let frames = frames(&backup);
    assert!(frames.len() > 6, "{frames:?}");
    check(&backup).unwrap();
    for at in 0..backup.len() {
        for flip in [0x01, 0x80] {
            let mut damaged = backup.clone();
            damaged[at] ^= flip;
            match check(&damaged) {
                Err(BackupError::NotOne(_)) => assert!(at < 16, "byte {at}"),
                Err(BackupError::Damaged { offset, frame, .. }) => {
                    let number = frames.iter().position(|frame| frame.contains(&at));
                    // A version that is damaged shows in the checksum of the header.
                    let number = number.unwrap_or(0);
                    assert_eq!((offset, frame), (frames[number].start as u64, number as u64), "byte {at}");
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_backup_that_was_cut_off_or_goes_on_is_none() {
    let backup = written(&few_records().await, &keys(1), &[]);
    for length in 0..backup.len() {
        assert!(check(&backup[..length]).is_err(), "{length} of {} bytes", backup.len());
    }
    for more in [&b"\0"[..], b"palisade-backup\n", &backup] {
        let longer = [&backup[..], more].concat();
        let error = check(&longer).unwrap_err().to_string();
        assert!(error.contains("something follows its end"), "{error}");
    }
}

#[tokio::test]
async fn frames_that_are_missing_doubled_swapped_or_of_another_backup_are_found() {
    let records = few_records().await;
    let (backup, other) = (written(&records, &keys(1), &[]), written(&records, &keys(1), &[]));
    let bounds = frames(&backup);
    let of = |bytes: &[u8], order: &[usize]| {
        let parts = order.iter().map(|frame| bytes[bounds[*frame].clone()].to_vec());
        [bytes[..20].to_vec()].into_iter().chain(parts).collect::<Vec<_>>().concat()
    };
    let whole: Vec<usize> = (0..bounds.len()).collect();
    assert_eq!(of(&backup, &whole), backup);
    for at in 0..bounds.len() {
        let mut missing = whole.clone();
        missing.remove(at);
        let mut doubled = whole.clone();
        doubled.insert(at, at);
        let mut swapped = whole.clone();
        swapped.swap(at, (at + 1) % bounds.len());
        for order in [missing, doubled, swapped] {
            assert!(check(&of(&backup, &order)).is_err(), "{order:?}");
        }
        // The same frame of another backup of the same records, by the same installation.
        if bounds == frames(&other) && at > 0 {
            let mut mixed = backup.clone();
            mixed[bounds[at].clone()].copy_from_slice(&other[bounds[at].clone()]);
            match check(&mixed) {
                Err(BackupError::Damaged { frame, .. }) => assert_eq!(frame, at as u64),
                found => panic!("frame {at}: {found:?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_signature_tells_the_installation_and_cannot_be_taken_over() {
    let records = few_records().await;
    let backup = check(&written(&records, &keys(1), &[])).unwrap();
    assert_eq!(backup.signer(&keys(1)), SignedBy::Own);
    assert_eq!(backup.signer(&keys(2)), SignedBy::Foreign);
    // Another installation can sign what it likes, but in its own name only.
    let mut forged = written(&records, &keys(2), &[]);
    let (own, foreign) = (keys(1).public(), keys(2).public());
    let at = forged.windows(64).position(|part| part == foreign.as_bytes()).unwrap();
    forged[at..at + 64].copy_from_slice(own.as_bytes());
    // With a checksum that fits.
    let header = frames(&forged)[0].clone();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&forged[..20]);
    crc.update(&forged[20..33]);
    crc.update(&forged[37..header.end]);
    let sum = crc.finalize().to_be_bytes();
    forged[33..37].copy_from_slice(&sum);
    let error = check(&forged).unwrap_err().to_string();
    assert!(error.contains("what it counts is not what came before it"), "{error}");
}

#[tokio::test]
async fn a_record_of_a_newer_program_is_told_from_damage() {
    let mut records = few_records().await;
    records[0].version = RecordKind::User.version() + 1;
    let error = check(&written(&records, &keys(1), &[])).unwrap_err();
    assert!(matches!(error, BackupError::Newer(_)), "{error}");
}

#[tokio::test]
async fn everything_comes_back_from_a_backup_as_it_was() {
    let records = all_records().await;
    let whole = Whole::of(records.clone());
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let input = std::io::Cursor::new(written(&records, &keys(1), &[]));
    let mut source = BackupRecords::new(BackupReader::begin(input).unwrap());
    assert_eq!(store.import(&mut source).await.unwrap(), records.len() as u64);
    assert_eq!(Whole::in_store(&*store).await, whole);
    // And what a snapshot gives is what an export does.
    let mut snapshot = store.snapshot().await.unwrap();
    let mut found = Vec::new();
    loop {
        let page = snapshot.next_page().await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert!(found == exported(&*store).await);
}

/// The signature is at the end: an import must not end before it.
#[tokio::test]
async fn an_import_of_a_damaged_backup_is_never_taken_for_whole() {
    let mut backup = written(&all_records().await, &keys(1), &[]);
    let last = backup.len() - 1;
    backup[last] ^= 1;
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let mut source = BackupRecords::new(BackupReader::begin(std::io::Cursor::new(backup)).unwrap());
    let outcome = store.import(&mut source).await;
    assert!(matches!(outcome, Err(ImportError::Source(_))), "{outcome:?}");
    assert!(store.records(None, 9).await.is_err(), "it serves nothing");
}

/// A key made with `age-keygen`, for tests.
const IDENTITY: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

fn decrypted(bytes: Vec<u8>, identity: &str) -> Result<CheckedBackup, BackupError> {
    let identities = sealed::identities(identity)?;
    reader::check(sealed::open(std::io::Cursor::new(bytes), &identities)?, &mut |_| (), &mut |_, _| ())
}

#[tokio::test]
async fn an_encrypted_backup_opens_with_its_key_alone_and_brings_the_secrets() {
    let recipients = [RECIPIENT.to_owned()];
    let records = few_records().await;
    let backup = written(&records, &keys(1), &recipients);
    let whole = decrypted(backup.clone(), &format!("# made for a test\n{IDENTITY}\n")).unwrap();
    assert_eq!((whole.counts.records, whole.secrets), (records.len() as u64, vec!["vault.key".to_owned()]));
    let identities = sealed::identities(IDENTITY).unwrap();
    let opened = sealed::open(std::io::Cursor::new(backup.clone()), &identities).unwrap();
    let mut reader = BackupReader::begin(opened).unwrap();
    let Some(Chunk::Secret(name, content)) = reader.next_chunk().unwrap() else { panic!("no secret") };
    assert_eq!((&*name, &**content), ("vault.key", &b"a secret of the gateway"[..]));
    for (identity, why) in [("", "holds none"), ("AGE-SECRET-KEY-1", "no key of `age`")] {
        let error = decrypted(backup.clone(), identity).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(sealed::recipients(&["age1x".to_owned()]).is_err());
    let closed = sealed::open(std::io::Cursor::new(backup.clone()), &[]).err().unwrap().to_string();
    assert!(closed.contains("--identity"), "{closed}");
    assert!(!backup.windows(9).any(|part| part == b"vault.key"));
    for at in (0..backup.len()).step_by(7) {
        let mut damaged = backup.clone();
        damaged[at] ^= 1;
        assert!(decrypted(damaged, IDENTITY).is_err(), "byte {at}");
        assert!(decrypted(backup[..at].to_vec(), IDENTITY).is_err(), "{at} bytes");
    }
}

/// What version 1 is stays readable: this file was written by another program, from the guide.
#[test]
fn a_backup_of_version_1_is_read() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backup-1/backup.palisade");
    let backup = check(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(backup.header.issuer, "https://id.test");
    assert_eq!(backup.signer(&keys(1)), SignedBy::Own);
    assert_eq!(
        (backup.counts.records, backup.counts.chunks, backup.counts.kinds["token_version"]),
        (7, 2, 2)
    );
    assert_eq!((backup.needed(), backup.highest), (vec!["vault.key".to_owned()], Some(UnixTime(9))));
}

/// A backup of these frames behind its header, each with the checksum that it needs.
fn forged(frames: &[(u8, &[u8])]) -> Vec<u8> {
    let header = json!({
        "id": "00".repeat(16), "installation": keys(1).public(), "made_at": 1, "store": "sled", "program": "test", "issuer": "i"
    });
    let header = header.to_string();
    let mut backup = [&b"palisade-backup\n"[..], &1u32.to_be_bytes()].concat();
    let mut before = backup.clone();
    for (number, (kind, payload)) in (0u64..).zip([(b'H', header.as_bytes())].iter().chain(frames)) {
        let length = u32::try_from(payload.len()).unwrap();
        let head = [&[*kind][..], &number.to_be_bytes(), &length.to_be_bytes()].concat();
        let mut crc = crc32fast::Hasher::new();
        [&before, &head, *payload].iter().for_each(|part| crc.update(part));
        backup.extend([&head[..], &crc.finalize().to_be_bytes(), payload].concat());
        before = vec![0; 16];
    }
    backup
}

/// A chunk of records, packed: as long as these lines, and as many records as is said.
fn chunk(line: &[u8], lines: usize, count: u32) -> Vec<u8> {
    let mut payload =
        [count.to_be_bytes(), u32::try_from(line.len() * lines).unwrap().to_be_bytes()].concat();
    let mut zlib = flate2::write::ZlibEncoder::new(&mut payload, flate2::Compression::fast());
    (0..lines).for_each(|_| zlib.write_all(line).unwrap());
    zlib.finish().unwrap();
    payload
}

/// Whatever a file says of itself: the program reads each of these with so much memory.
#[test]
fn a_forged_backup_takes_no_more_memory_than_a_true_one() {
    const KIBIBYTES: u32 = 300_000;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("forged");
    let record = br#"{"version":1,"kind":"key_check","record":{"file":"f","check":"c"}}
"#;
    let many = (60 << 20) / record.len();
    let list = |items: usize| {
        let begin = &br#"{"version":1,"kind":"key_check","record":{"file":["#[..];
        [begin, &b"[],".repeat(items), b"[]]}}\n"].concat()
    };
    let spaces = vec![b' '; 60 << 20];
    let names = (0..2_000_000).map(|n| format!("\"{n}\":1,")).collect::<String>();
    let trailer = format!("{{\"kinds\":{{{names}\"a\":1}}}}").into_bytes();
    let content = "00".repeat(400_000);
    let secret = |n| (b'S', format!("{{\"name\":\"{n}\",\"content\":\"{content}\"}}").into_bytes());
    let mut short = chunk(record, many, 1);
    short[4..8].copy_from_slice(&9u32.to_be_bytes());
    for (what, why, frames) in [
        (
            "many records",
            "it holds no chunk of records",
            vec![(b'R', chunk(record, many, u32::try_from(many).unwrap()))],
        ),
        ("too many records", "it holds no chunk of records", vec![(b'R', chunk(record, 40_000, 40_000))]),
        ("more records than said", "has 1 records and has more", vec![(b'R', chunk(record, many / 16, 1))]),
        ("more bytes than said", "its records cannot be unpacked", vec![(b'R', short)]),
        ("a long line", "it holds no chunk of records", vec![(b'R', chunk(&list(20 << 20), 1, 1))]),
        ("as long a line as may be", "cannot be read", vec![(b'R', chunk(&list(1_300_000), 1, 1))]),
        ("a long secret", "its length or its checksum is damaged", vec![(b'S', spaces.clone())]),
        ("a long trailer", "its length or its checksum is damaged", vec![(b'T', trailer)]),
        ("an unknown kind", "its length or its checksum is damaged", vec![(b'X', spaces)]),
        ("many secrets", "or too many of them", (0..400).map(secret).collect()),
    ] {
        let frames: Vec<(u8, &[u8])> = frames.iter().map(|(kind, payload)| (*kind, &payload[..])).collect();
        std::fs::write(&file, forged(&frames)).unwrap();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("ulimit -d {KIBIBYTES} && exec \"$0\" backup verify \"$1\"")]);
        let output = command.arg(env!("CARGO_BIN_EXE_palisade")).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains("damaged at byte") && said.contains(why), "{what}: {said}");
    }
}

#[test]
fn what_a_forged_backup_says_does_nothing_to_a_terminal() {
    let line = format!("{{\"version\":1,\"kind\":\"{}\",\"record\":1}}\n", "\\u001b[2J".repeat(1000));
    let trailer = format!("{{\"chunks\":\"{}\"}}", "\\u001b[2J".repeat(1000));
    for frame in [(b'R', chunk(line.as_bytes(), 1, 1)), (b'T', trailer.into_bytes())] {
        let words = check(&forged(&[(frame.0, &frame.1)])).unwrap_err().to_string();
        assert!(!words.contains('\u{1b}') && words.len() < 600, "{words}");
    }
}

#[test]
fn the_head_of_an_encrypted_file_is_read_so_far_only() {
    let identities = sealed::identities(IDENTITY).unwrap();
    for endless in [&b"a"[..], b"-> X25519 AAAA\nAAAA\n"] {
        let begin = &b"age-encryption.org/v1\n-> X25519 "[..];
        let input = begin.chain(std::io::Cursor::new(endless.repeat((8 << 20) / endless.len())));
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Counted { input, read: Arc::clone(&read) };
        assert!(sealed::open(counted, &identities).is_err());
        let read = read.load(Ordering::Relaxed);
        assert!(read <= 256 << 10, "{read} bytes were read");
    }
}

/// Counts what is read.
struct Counted<R> {
    input: R,
    read: Arc<AtomicUsize>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(bytes)?;
        self.read.fetch_add(read, Ordering::Relaxed);
        Ok(read)
    }
}

/// A file that becomes another one between its check and its import.
#[tokio::test]
async fn an_import_of_another_backup_than_was_checked_does_not_end() {
    let records = few_records().await;
    let [one, other] = [0; 2].map(|_| written(&records, &keys(1), &[]));
    let known = check(&one).unwrap();
    let begun = |bytes: &[u8]| BackupReader::begin(std::io::Cursor::new(bytes.to_vec())).unwrap();
    assert!(matches!(BackupRecords::of(begun(&other), &known), Err(BackupError::Changed)));
    // One with the same header: a forger knows it, and an installation can sign what it likes.
    let known = CheckedBackup { counts: check(&other).unwrap().counts, ..known };
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let mut source = BackupRecords::of(begun(&one), &known).unwrap();
    let outcome = store.import(&mut source).await;
    assert!(matches!(outcome, Err(ImportError::Source(_))), "{outcome:?}");
    assert!(matches!(source.fault(), Some(BackupError::Changed)), "{:?}", source.fault());
    assert!(store.records(None, 9).await.is_err(), "it serves nothing");
}

//! Encryption of a whole backup, in the format of `age` (age-encryption.org/v1), so that its tools open it, too: to one
//! or more public keys (X25519), whose private keys need never be on the gateway's machine.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use age::stream::StreamWriter;
use age::x25519;
use age::{Decryptor, EncryptError, Encryptor};

use super::format::BackupError;

/// The most bytes of the head of an encrypted file, which lists the keys that it is encrypted to: room for hundreds. It is
/// read before anything of it is known, and again from its beginning with each line.
const MOST_OF_A_HEAD: usize = 64 << 10;

/// What a file in the format of `age` begins with.
const AGE: &[u8] = b"age-encryption.org/";

/// Reads public keys (`age1…`).
///
/// # Errors
/// Which is none, by its place in the list.
pub fn recipients(texts: &[String]) -> Result<Vec<x25519::Recipient>, BackupError> {
    let read = |(index, text): (usize, &String)| {
        text.trim().parse().map_err(|_| {
            BackupError::Encryption(format!(
                "recipient {} is no public key of `age`: it begins with age1, and `age-keygen` makes one",
                index + 1
            ))
        })
    };
    texts.iter().enumerate().map(read).collect()
}

/// Reads private keys (`AGE-SECRET-KEY-1…`): one on each line of the text, lines that begin with `#` left out.
///
/// # Errors
/// There is none, or a line is none. Names no key.
pub fn identities(text: &str) -> Result<Vec<x25519::Identity>, BackupError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &str| {
        line.parse().map_err(|_| {
            BackupError::Encryption(
                "the file of the private key holds a line that is no key of `age`".to_owned(),
            )
        })
    };
    let keys: Vec<x25519::Identity> = lines.map(read).collect::<Result<_, _>>()?;
    match keys.is_empty() {
        true => Err(BackupError::Encryption("the file of the private key holds none".to_owned())),
        false => Ok(keys),
    }
}

/// Where a backup is written to: as it is, or encrypted.
pub enum SealedWriter<W: Write> {
    Plain(W),
    Sealed(StreamWriter<W>),
}

impl<W: Write> SealedWriter<W> {
    /// Encrypts to `recipients`; to none, writes as it is.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn new(out: W, recipients: &[x25519::Recipient]) -> Result<SealedWriter<W>, BackupError> {
        if recipients.is_empty() {
            return Ok(SealedWriter::Plain(out));
        }
        let encryptor = Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as _));
        let encryptor = encryptor.map_err(|error| match error {
            EncryptError::Io(error) => BackupError::Io(error),
            other => BackupError::Encryption(other.to_string()),
        })?;
        Ok(SealedWriter::Sealed(encryptor.wrap_output(out)?))
    }

    /// Ends the encryption. Gives back where it went.
    ///
    /// # Errors
    /// What the writer below said; the backup is not whole then.
    pub fn finish(self) -> io::Result<W> {
        match self {
            SealedWriter::Plain(out) => Ok(out),
            SealedWriter::Sealed(stream) => stream.finish(),
        }
    }
}

impl<W: Write> Write for SealedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            SealedWriter::Plain(out) => out.write(bytes),
            SealedWriter::Sealed(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            SealedWriter::Plain(out) => out.flush(),
            SealedWriter::Sealed(stream) => stream.flush(),
        }
    }
}

/// What is in a backup, decrypted where it is encrypted.
///
/// # Errors
/// [`BackupError::Encryption`]: none of `identities` opens it.
pub fn open(
    input: impl Read + Send + 'static,
    identities: &[x25519::Identity],
) -> Result<Box<dyn Read + Send>, BackupError> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    if !input.fill_buf()?.starts_with(AGE) {
        return Ok(Box::new(input));
    }
    let closed = |why: &str| BackupError::Encryption(why.to_owned());
    if identities.is_empty() {
        return Err(closed("the backup is encrypted: name the file of a private key with --identity"));
    }
    let left = Arc::new(AtomicUsize::new(MOST_OF_A_HEAD));
    let decryptor = Decryptor::new_buffered(BoundedHead { input, left: Arc::clone(&left) })
        .map_err(|error| closed(&format!("the head of the encryption is damaged: {error}")))?;
    left.store(usize::MAX, Ordering::Relaxed);
    let opened = decryptor.decrypt(identities.iter().map(|identity| identity as _));
    let opened = opened.map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => {
            closed("the backup is encrypted to other keys than those in the file of the private key")
        }
        other => closed(&format!("the backup cannot be decrypted: {other}")),
    })?;
    Ok(Box::new(opened))
}

/// An input of which so many bytes are read at most; [`usize::MAX`]: all.
struct BoundedHead<R> {
    input: BufReader<R>,
    left: Arc<AtomicUsize>,
}

impl<R: Read> BufRead for BoundedHead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other("it is longer than that of any backup"));
        }
        let bytes = self.input.fill_buf()?;
        Ok(&bytes[..bytes.len().min(left)])
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
        let left = self.left.load(Ordering::Relaxed);
        if left != usize::MAX {
            self.left.store(left.saturating_sub(count), Ordering::Relaxed);
        }
    }
}

impl<R: Read> Read for BoundedHead<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(bytes.len());
        bytes[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

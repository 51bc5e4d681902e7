//! Where the body of an HTTP/1.1 message ends (RFC 9112 §6, §7), read from the bytes as they pass.
//!
//! The engine's own reader of chunked bodies skips over whatever stands behind a chunk size, bare line feeds
//! and control characters among it. Another server on the way may end the line there, and reads the next
//! request at another place: request smuggling (RFC 9112 §11.2, CVE-2025-55315). Here such a body has one reading or is a [`Fault`]. Nothing
//! is changed or held back, and nothing here does I/O.

/// The most hexadecimal digits of a chunk size: more would not fit into 64 bits.
const MAX_DIGITS: u8 = 16;
/// The most bytes of chunk extensions that one body may have.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// The most bytes of a trailer section.
const MAX_TRAILERS: usize = 16 * 1024;

/// Why a message has no single reading. Quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("a chunk size that is not plain hexadecimal digits")]
    ChunkSize,
    #[error("a chunk extension that is malformed or too long")]
    ChunkExtension,
    #[error("a chunk whose data is longer than its size")]
    ChunkEnd,
    #[error("a trailer section that is malformed or too large")]
    Trailer,
    #[error("a status line that is malformed")]
    StatusLine,
    #[error("a header line that is malformed, folded or not ended by CRLF")]
    HeaderLine,
    #[error("Content-Length or Transfer-Encoding with more than one reading")]
    Framing,
    #[error("a header section that is too large")]
    HeaderSize,
    #[error("more header fields than are taken")]
    FieldCount,
    #[error("a switch of protocols that was not asked for")]
    Switch,
}

/// The rest of a message's body.
#[derive(Debug)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunks),
    /// Whatever comes until the connection is closed.
    UntilClose,
}

impl Body {
    /// Reads on through `bytes`; returns how many of them belong to the body.
    ///
    /// # Errors
    /// The body has no single reading from here on.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match self {
            Body::Length(left) => {
                let taken = least(*left, bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Body::Chunked(chunks) => chunks.take(bytes),
            Body::UntilClose => Ok(bytes.len()),
        }
    }

    /// Whether the body has ended: what comes next is another message.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunks) => chunks.at == At::Over,
            Body::UntilClose => false,
        }
    }
}

fn least(left: u64, here: usize) -> usize {
    usize::try_from(left).map_or(here, |left| left.min(here))
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a chunk size, behind so many digits.
    Size(u8),
    /// At the beginning of an extension's name, behind a semicolon.
    NameStart,
    Name,
    /// At the beginning of an extension's value, behind an equals sign.
    ValueStart,
    Value,
    Quoted,
    /// Behind a backslash in a quoted value.
    Escaped,
    /// Behind the closing quote.
    QuotedEnd,
    /// Between the CR and the LF of a size line.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// In a trailer line, or at the beginning of the empty one that ends the body.
    Trailer,
    TrailerLf,
    Over,
}

/// A chunked body (RFC 9112 §7.1). White space around a size or an extension, which the grammar calls bad,
/// is a fault: readers differ about it.
#[derive(Debug)]
pub struct Chunks {
    at: At,
    /// The size that is being read, then what is left of the chunk.
    size: u64,
    extensions: usize,
    trailers: usize,
    /// The trailer line so far. Trailers are rare: it owns nothing until there is one.
    line: Vec<u8>,
}

impl Default for Chunks {
    fn default() -> Chunks {
        Chunks { at: At::Size(0), size: 0, extensions: 0, trailers: 0, line: Vec::new() }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken) {
            match self.at {
                At::Over => break,
                At::Data => {
                    let data = least(self.size, bytes.len() - taken);
                    self.size -= data as u64;
                    taken += data;
                    if self.size == 0 {
                        self.at = At::DataCr;
                    }
                }
                _ => {
                    self.at = self.step(*byte)?;
                    taken += 1;
                }
            }
        }
        Ok(taken)
    }

    /// Where the byte behind `byte` stands.
    fn step(&mut self, byte: u8) -> Result<At, Fault> {
        if matches!(
            self.at,
            At::NameStart | At::Name | At::ValueStart | At::Value | At::Quoted | At::Escaped | At::QuotedEnd
        ) {
            self.extensions += 1;
            if self.extensions > MAX_EXTENSIONS {
                return Err(Fault::ChunkExtension);
            }
        }
        match (self.at, byte) {
            (At::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                // The engine counts in signed numbers.
                match self.size.checked_mul(16).map(|size| size | u64::from(digit)) {
                    Some(size) if digits < MAX_DIGITS && i64::try_from(size).is_ok() => {
                        self.size = size;
                        Ok(At::Size(digits + 1))
                    }
                    _ => Err(Fault::ChunkSize),
                }
            }
            (At::Size(1..), b';') => Ok(At::NameStart),
            (At::Size(1..) | At::Name | At::Value | At::QuotedEnd, b'\r') => Ok(At::SizeLf),
            (At::Size(_), _) => Err(Fault::ChunkSize),
            (At::SizeLf, b'\n') => Ok(if self.size == 0 { At::Trailer } else { At::Data }),
            (At::NameStart | At::Name, _) if is_token(byte) => Ok(At::Name),
            (At::Name, b'=') => Ok(At::ValueStart),
            (At::Name | At::Value | At::QuotedEnd, b';') => Ok(At::NameStart),
            (At::ValueStart, b'"') => Ok(At::Quoted),
            (At::ValueStart | At::Value, _) if is_token(byte) => Ok(At::Value),
            (At::Quoted, b'"') => Ok(At::QuotedEnd),
            (At::Quoted, b'\\') => Ok(At::Escaped),
            (At::Quoted | At::Escaped, _) if !is_control(byte) => Ok(At::Quoted),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => {
                self.size = 0;
                Ok(At::Size(0))
            }
            (At::DataCr | At::DataLf, _) => Err(Fault::ChunkEnd),
            (At::Trailer, b'\r') => Ok(At::TrailerLf),
            (At::Trailer, _) => {
                self.trailers += 1;
                if self.trailers > MAX_TRAILERS || is_control(byte) {
                    return Err(Fault::Trailer);
                }
                self.line.push(byte);
                Ok(At::Trailer)
            }
            (At::TrailerLf, b'\n') if self.line.is_empty() => Ok(At::Over),
            (At::TrailerLf, b'\n') => {
                let line = std::mem::take(&mut self.line);
                let (name, _) = field(&line).ok_or(Fault::Trailer)?;
                // What frames or routes a message stands in its header section (RFC 9110 §6.5.1).
                let ahead = [&b"content-length"[..], b"transfer-encoding", b"host"];
                match ahead.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                    true => Err(Fault::Trailer),
                    false => Ok(At::Trailer),
                }
            }
            (At::TrailerLf, _) => Err(Fault::Trailer),
            _ => Err(Fault::ChunkExtension),
        }
    }
}

/// The name and the trimmed value of a field line without its CRLF, when the line is one: a token, a colon
/// right behind it, and no control character (RFC 9112 §5).
#[must_use]
pub fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let token = !name.is_empty() && name.iter().fold(true, |token, byte| token & is_token(*byte));
    // Folded, not searched: the compiler makes vector instructions of it.
    let control = value.iter().fold(false, |control, byte| control | is_control(*byte));
    (token && !control).then_some((name, value))
}

/// Control characters but the tabulator.
pub const fn is_control(byte: u8) -> bool {
    byte == 0x7f || (byte < b' ' && byte != b'\t')
}

/// RFC 9110 §5.6.2 `tchar`.
pub const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let (marks, mut at) = (b"!#$%&'*+-.^_`|~", 0);
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` whole and byte by byte, which must come to the same: the length of the body.
    fn read(text: &[u8]) -> Result<Option<usize>, Fault> {
        let mut whole = Body::Chunked(Chunks::default());
        let taken = whole.take(text).map(|taken| whole.is_over().then_some(taken));
        let mut slow = Body::Chunked(Chunks::default());
        let mut steps = 0;
        let result = text.iter().try_for_each(|byte| slow.take(&[*byte]).map(|taken| steps += taken));
        assert_eq!(result.map(|()| slow.is_over().then_some(steps)), taken, "{}", text.escape_ascii());
        taken
    }

    #[test]
    fn a_chunked_body_ends_where_every_reader_ends_it() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "00005\r\nhello\r\n000\r\n\r\n",
            "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
            "5;name\r\nhello\r\n0;last=1\r\n\r\n",
            "5;a=b;c=\"d; \\\" e\"\r\nhello\r\n0\r\n\r\n",
            "5\r\n\r\n\r\n\n\r\n0\r\n\r\n",
            "0\r\nX-Sum: 1\r\nX-Empty:\r\n\r\n",
            "0;a=\"\u{e9}\"\r\n\r\n",
        ] {
            assert_eq!(read(body.as_bytes()), Ok(Some(body.len())), "{body:?}");
            let more = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(read(more.as_bytes()), Ok(Some(body.len())), "{more:?}");
            for end in 0..body.len() {
                assert_eq!(read(&body.as_bytes()[..end]), Ok(None), "{:?}", &body.as_bytes()[..end]);
            }
        }
    }

    #[test]
    fn what_two_readers_end_at_two_places_is_a_fault() {
        for (body, fault) in [
            ("\r\n5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (";a\r\n", Fault::ChunkSize),
            ("5\nhello\r\n", Fault::ChunkSize),
            ("+5\r\nhello", Fault::ChunkSize),
            ("-5\r\nhello", Fault::ChunkSize),
            (" 5\r\nhello", Fault::ChunkSize),
            ("5 \r\nhello", Fault::ChunkSize),
            ("5 ;a\r\nhello", Fault::ChunkSize),
            ("5\t\r\nhello", Fault::ChunkSize),
            ("0x5\r\nhello", Fault::ChunkSize),
            ("5h\r\nhello", Fault::ChunkSize),
            ("5\0\r\nhello", Fault::ChunkSize),
            ("1_0\r\nhello", Fault::ChunkSize),
            ("8000000000000000\r\n", Fault::ChunkSize),
            ("ffffffffffffffff\r\n", Fault::ChunkSize),
            ("00000000000000005\r\nhello", Fault::ChunkSize),
            ("10000000000000005\r\nhello", Fault::ChunkSize),
            ("5;\r\nhello", Fault::ChunkExtension),
            ("5;a\nhello", Fault::ChunkExtension),
            ("5;a\rhello", Fault::ChunkExtension),
            ("5\r\rhello", Fault::ChunkExtension),
            ("5;a\0b\r\nhello", Fault::ChunkExtension),
            ("5;a\x7f\r\nhello", Fault::ChunkExtension),
            ("5;a b\r\nhello", Fault::ChunkExtension),
            ("5;a=\r\nhello", Fault::ChunkExtension),
            ("5;a=b=c\r\nhello", Fault::ChunkExtension),
            ("5;a=\"b\r\nhello", Fault::ChunkExtension),
            ("5;a=\"b\nhello", Fault::ChunkExtension),
            ("5;a=\"b\0\"\r\nhello", Fault::ChunkExtension),
            ("5;a=\"b\\\r\n\"\r\nhello", Fault::ChunkExtension),
            ("5;a=\"b\"c\r\nhello", Fault::ChunkExtension),
            ("5;\u{e9}\r\nhello", Fault::ChunkExtension),
            ("5\r\nhello0\r\n\r\n", Fault::ChunkEnd),
            ("5\r\nhello\n0\r\n\r\n", Fault::ChunkEnd),
            ("5\r\nhello\r0\r\n\r\n", Fault::ChunkEnd),
            ("0\r\n\n", Fault::Trailer),
            ("0\r\nX: a\n\r\n", Fault::Trailer),
            ("0\r\nX: a\r\n b\r\n\r\n", Fault::Trailer),
            ("0\r\nX : a\r\n\r\n", Fault::Trailer),
            ("0\r\nX\r\n\r\n", Fault::Trailer),
            ("0\r\n: a\r\n\r\n", Fault::Trailer),
            ("0\r\nX: \0\r\n\r\n", Fault::Trailer),
            ("0\r\nContent-Length: 5\r\n\r\n", Fault::Trailer),
            ("0\r\nTRANSFER-ENCODING: chunked\r\n\r\n", Fault::Trailer),
            ("0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Trailer),
            ("0\r\n\rX", Fault::Trailer),
        ] {
            assert_eq!(read(body.as_bytes()), Err(fault), "{body:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = format!("5;{}", "a".repeat(MAX_EXTENSIONS + 1));
        assert_eq!(read(extension.as_bytes()), Err(Fault::ChunkExtension));
        let many = "1;aaaaaaaa\r\nx\r\n".repeat(MAX_EXTENSIONS / 8);
        assert_eq!(read(many.as_bytes()), Err(Fault::ChunkExtension));
        let trailer = format!("0\r\nX: {}", "a".repeat(MAX_TRAILERS));
        assert_eq!(read(trailer.as_bytes()), Err(Fault::Trailer));
    }

    #[test]
    fn a_body_of_known_length_ends_there() {
        let mut body = Body::Length(5);
        assert_eq!(body.take(b"hel"), Ok(3));
        assert!(!body.is_over());
        assert_eq!(body.take(b"loGET"), Ok(2));
        assert!(body.is_over());
        assert_eq!(Body::UntilClose.take(b"abc"), Ok(3));
    }
}

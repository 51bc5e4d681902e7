//! Reads and checks the header section of an HTTP/1 request before the engine sees it.
//!
//! The engine bounds each read, not the whole section, drops `Content-Length` beside
//! `Transfer-Encoding` without a word, and takes bare line feeds. Here the section arrives whole,
//! within one deadline (against slow clients: slowloris) and one size, and its framing has one meaning or none: what
//! is ambiguous is refused, never repaired, since two readings of one message are request smuggling (RFC 9112 §2.2,
//! §5, §6, §11.2). This file must never forward anything.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::capacity::{self, Share};
use super::framing::{self, Body, Chunks};
use palisade_core::domain::request::Malformed;

/// The most header fields one request may have.
pub const MAX_FIELDS: usize = 128;

/// Empty lines before a request line that are ignored (RFC 9112 §2.2).
const MAX_LEADING_CRLF: usize = 4;

/// The most that the first read of a section takes.
const FIRST_READ: usize = 4096;

/// Bounds on one header section.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// From the first byte to the end of the section.
    pub deadline: Duration,
    /// How long to wait for the first byte.
    pub idle: Duration,
    /// The largest section in bytes.
    pub bytes: usize,
}

/// What came of waiting for a request.
#[derive(Debug)]
pub enum Head {
    /// A whole section that passed every check, and whatever followed it in the same reads.
    Complete(Section),
    /// The HTTP/2 connection preface has begun.
    Http2(BytesMut),
    /// The client left, or was idle for too long.
    Gone,
    /// The section did not end in time.
    TooSlow,
    /// The section is larger than allowed or has too many fields.
    TooLarge,
    /// The heads of all requests together hold as much memory as they may.
    NoRoom,
    /// The section has no single meaning.
    Refused(Malformed),
    /// A version other than 1.0 and 1.1.
    Version,
}

/// A checked header section, and what is to come behind it.
#[derive(Debug)]
pub struct Section {
    /// The section, and whatever followed it in the same reads.
    pub bytes: BytesMut,
    /// How long the section is.
    pub length: usize,
    /// The body that the section announces.
    pub body: Body,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits for one header section, until `leave` resolves or its first byte is there; from then on it has its
/// deadline. `memory` is made as large as a request with this section. `first` says that nothing was received on this
/// connection yet: then waiting for the first byte is bounded by the deadline too, and an HTTP/2 preface may
/// come.
pub async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    limits: &HeadLimits,
    first: bool,
    memory: &mut Share,
    leave: impl Future<Output = ()>,
) -> Head {
    let idle = if first { limits.deadline } else { limits.idle };
    let begun = tokio::select! {
        biased;
        begun = timeout_at(Instant::now() + idle, first_bytes(stream)) => begun,
        () = leave => return Head::Gone,
    };
    let mut buffer = match begun {
        Ok(Ok(buffer)) if !buffer.is_empty() => buffer,
        Ok(Ok(_) | Err(_)) | Err(_) => return Head::Gone,
    };
    // Most requests arrive in one read: no timer is set up for them.
    let mut deadline = None;
    let mut scanned = 0;
    loop {
        skip_leading_lines(&mut buffer, &mut scanned);
        if first && (buffer.starts_with(PREFACE) || (!buffer.is_empty() && PREFACE.starts_with(&buffer))) {
            if buffer.len() >= PREFACE.len() {
                return Head::Http2(buffer);
            }
        } else if let Some(end) = section_end(&buffer, scanned) {
            if end > limits.bytes {
                return Head::TooLarge;
            }
            return match check(&buffer[..end]) {
                Ok(_) if !memory.hold(capacity::of_request(buffer.len())) => Head::NoRoom,
                Ok(body) => Head::Complete(Section { bytes: buffer, length: end, body }),
                Err(HeadFault::Malformed(malformed)) => Head::Refused(malformed),
                Err(HeadFault::TooMany) => Head::TooLarge,
                Err(HeadFault::Version) => Head::Version,
            };
        } else if buffer.len() > limits.bytes {
            return Head::TooLarge;
        } else if !memory.hold(capacity::of_head(buffer.len())) {
            return Head::NoRoom;
        }
        scanned = buffer.len();
        let until = *deadline.get_or_insert_with(|| Instant::now() + limits.deadline);
        match timeout_at(until, stream.read_buf(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Head::Gone,
            Err(_) => return Head::TooSlow,
        }
    }
}

/// Waits for bytes and only then makes a buffer for them: while it waits, a connection owns none.
async fn first_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<BytesMut> {
    std::future::poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); FIRST_READ];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(BytesMut::from(read.filled())))
    })
    .await
}

fn skip_leading_lines(buffer: &mut BytesMut, scanned: &mut usize) {
    for _ in 0..MAX_LEADING_CRLF {
        if !buffer.starts_with(b"\r\n") {
            break;
        }
        let _ = buffer.split_to(2);
        *scanned = 0;
    }
}

/// The index just past the empty line that ends the section. A bare line feed pair counts as an end
/// too, so that the check sees and refuses it instead of waiting for more.
pub(super) fn section_end(buffer: &[u8], scanned: usize) -> Option<usize> {
    let from = scanned.saturating_sub(3);
    memchr::memchr_iter(b'\n', &buffer[from..]).map(|at| from + at).find_map(|at| match &buffer[..at] {
        [.., b'\n', b'\r'] | [.., b'\n'] => Some(at + 1),
        _ => None,
    })
}

enum HeadFault {
    Malformed(Malformed),
    TooMany,
    Version,
}

/// Checks one whole section, request line to empty line.
fn check(section: &[u8]) -> Result<Body, HeadFault> {
    let header = HeadFault::Malformed(Malformed::Header);
    let framing = || HeadFault::Malformed(Malformed::Framing);
    let mut lines = Lines(section);
    let line = lines.next().ok_or(header)??;
    let http10 = match line.get(line.len().saturating_sub(9)..) {
        Some(b" HTTP/1.1") => false,
        Some(b" HTTP/1.0") => true,
        Some(tail) if tail.starts_with(b" HTTP/") => return Err(HeadFault::Version),
        _ => return Err(HeadFault::Malformed(Malformed::Header)),
    };
    // Exactly two spaces: method SP target SP version (RFC 9112 §3).
    if memchr::memchr_iter(b' ', line).count() != 2 || line.contains(&b'\t') {
        return Err(HeadFault::Malformed(Malformed::Header));
    }
    // A target has no fragment (RFC 9112 §3.2); the engine would drop it without a word.
    if line.contains(&b'#') {
        return Err(HeadFault::Malformed(Malformed::Byte));
    }
    let (mut lengths, mut encodings, mut hosts, mut fields) = (0, 0, 0, 0);
    let mut length = 0;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        fields += 1;
        if fields > MAX_FIELDS {
            return Err(HeadFault::TooMany);
        }
        // No white space before the colon, no folded line (RFC 9112 §5.1, §5.2).
        let (name, value) = framing::field(line).ok_or(HeadFault::Malformed(Malformed::Header))?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => hosts += 1,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                lengths += 1;
                if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
                    return Err(framing());
                }
                let number = std::str::from_utf8(value).ok().and_then(|value| value.parse::<i64>().ok());
                length = number.and_then(|number| u64::try_from(number).ok()).ok_or_else(framing)?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                encodings += 1;
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(framing());
                }
            }
            _ => {}
        }
    }
    if lengths + encodings > 1 || (http10 && encodings > 0) {
        return Err(framing());
    }
    match hosts {
        // HTTP/1.0 knows no such field, and probes of load balancers send none (RFC 9112 §3.2 asks it of HTTP/1.1).
        0 if http10 => Ok(Body::Length(length)),
        1 if encodings == 1 => Ok(Body::Chunked(Chunks::default())),
        1 => Ok(Body::Length(length)),
        0 => Err(HeadFault::Malformed(Malformed::NoHost)),
        _ => Err(HeadFault::Malformed(Malformed::Host)),
    }
}

/// Lines that end in CRLF; a bare CR or LF is a fault.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], HeadFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr::memchr(b'\n', self.0)?;
        let (line, rest) = (&self.0[..end], &self.0[end + 1..]);
        self.0 = rest;
        Some(match line.strip_suffix(b"\r") {
            Some(line) if memchr::memchr2(b'\r', 0, line).is_none() => Ok(line),
            _ => Err(HeadFault::Malformed(Malformed::Header)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::io::AsyncWriteExt;

    use super::super::capacity::{Capacity, Plan};
    use super::*;

    const LIMITS: HeadLimits =
        HeadLimits { deadline: Duration::from_secs(10), idle: Duration::from_secs(60), bytes: 4096 };

    fn memory(bytes: usize) -> Share {
        let plan = Plan { clients: 1, upstreams: 1, connections: 2, pool: 0, reserve: 0 };
        Capacity::new(plan, bytes).memory()
    }

    async fn read_within(bytes: &[u8], most: usize) -> Head {
        let mut memory = memory(most);
        read(&mut std::io::Cursor::new(bytes.to_vec()), &LIMITS, true, &mut memory, pending()).await
    }

    async fn read_all(bytes: &[u8]) -> Head {
        read_within(bytes, 1 << 20).await
    }

    #[tokio::test]
    async fn memory_that_is_not_there_is_a_refusal() {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(2000));
        let cost = capacity::of_request(text.len());
        assert!(matches!(read_within(text.as_bytes(), cost).await, Head::Complete(_)));
        assert!(matches!(read_within(text.as_bytes(), cost - 1).await, Head::NoRoom));
        // What has not ended yet counts as well.
        let part = &text.as_bytes()[..1500];
        assert!(matches!(read_within(part, capacity::of_head(part.len())).await, Head::Gone));
        assert!(matches!(read_within(part, capacity::of_head(part.len()) - 1).await, Head::NoRoom));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_waits_for_no_first_byte_but_for_the_rest() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let mut memory = memory(1 << 20);
        assert!(matches!(read(&mut server, &LIMITS, false, &mut memory, ready(())).await, Head::Gone));
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let rest = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            client.write_all(b"Host: a\r\n\r\n").await.unwrap();
            client
        });
        let head = read(&mut server, &LIMITS, false, &mut memory, ready(())).await;
        assert!(matches!(head, Head::Complete(_)), "{head:?}");
        rest.await.unwrap();
    }

    #[tokio::test]
    async fn a_plain_request_passes_with_what_follows_it() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost:a\r\nTRANSFER-ENCODING:\tchunked \r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nX-Empty:\r\nX-Latin: \u{e9}\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\na",
        ] {
            let Head::Complete(section) = read_all(text.as_bytes()).await else { panic!("{text:?}") };
            assert_eq!(&section.bytes[..], text.trim_start().as_bytes());
            assert!(section.bytes[..section.length].ends_with(b"\r\n\r\n"), "{text:?}");
        }
        assert!(matches!(read_all(PREFACE).await, Head::Http2(_)));
    }

    #[tokio::test]
    async fn what_has_two_meanings_is_refused() {
        let framing = [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding:",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: 0x1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
        ];
        for fields in framing {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            let head = read_all(text.as_bytes()).await;
            assert!(matches!(head, Head::Refused(Malformed::Framing)), "{fields:?}: {head:?}");
        }
        let http10 = b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(read_all(http10).await, Head::Refused(Malformed::Framing)));
        for text in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n X-A: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
        ] {
            let head = read_all(text.as_bytes()).await;
            assert!(matches!(head, Head::Refused(Malformed::Header)), "{text:?}: {head:?}");
        }
        let none = read_all(b"GET / HTTP/1.1\r\nX-A: b\r\n\r\n").await;
        assert!(matches!(none, Head::Refused(Malformed::NoHost)));
        let two = read_all(b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n").await;
        assert!(matches!(two, Head::Refused(Malformed::Host)));
        assert!(matches!(read_all(b"GET / HTTP/3.0\r\nHost: a\r\n\r\n").await, Head::Version));
    }

    #[tokio::test]
    async fn size_and_count_are_bounded() {
        let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(5000));
        assert!(matches!(read_all(large.as_bytes()).await, Head::TooLarge));
        let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(5000));
        assert!(matches!(read_all(endless.as_bytes()).await, Head::TooLarge));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS));
        assert!(matches!(read_all(many.as_bytes()).await, Head::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn one_deadline_covers_the_whole_section() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let trickle = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(4));
            for byte in b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" {
                every.tick().await;
                if client.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
        let begun = Instant::now();
        let head = read(&mut server, &LIMITS, true, &mut memory(1 << 20), pending()).await;
        assert!(matches!(head, Head::TooSlow));
        assert!(begun.elapsed() <= Duration::from_secs(14));
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_bounded_by_the_idle_time_between_requests_and_by_the_deadline_before_the_first() {
        for (first, bound) in [(true, 10), (false, 60)] {
            let (_client, mut server) = tokio::io::duplex(64);
            let begun = Instant::now();
            let head = read(&mut server, &LIMITS, first, &mut memory(1 << 20), pending()).await;
            assert!(matches!(head, Head::Gone));
            assert_eq!(begun.elapsed().as_secs(), bound);
        }
    }
}

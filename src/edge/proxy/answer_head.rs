//! Reads and checks the header section of an upstream's HTTP/1 answer before the engine sees it.
//!
//! The engine drops `Content-Length` beside `Transfer-Encoding`, joins folded lines and takes bare line
//! feeds and white space ahead of a colon. What stands behind such a section on the same connection may be
//! part of this answer for one reader and the answer to another caller's request for the next. Here a section
//! has one reading or none (response splitting and smuggling, RFC 9112 §4, §5, §6.3, §11.1).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use super::framing::{self, Body, Chunks, Fault};

/// What a header section says of the message it begins.
#[derive(Debug)]
pub struct AnswerHead {
    pub status: u16,
    pub body: Body,
    /// Whether nothing further may be asked on the connection.
    pub last: bool,
    /// How long the upstream says that it keeps an idle connection open.
    pub idle: Option<Duration>,
    /// How many fields there are.
    pub fields: usize,
}

/// The most header fields that an answer may have. Clients take about as many: curl 5000, Node.js 2000, Go and browsers as many
/// as fit into their bounds in bytes.
pub const MAX_FIELDS: usize = 1024;

/// The most that the engine reads of an HTTP/1.1 answer: it reads 256, and what is told of the connection may come on top.
pub const MAX_FIELDS_OF_ENGINE: usize = 240;

/// A field that the engine has not read, with its name as it was written.
pub type Overflow = (Bytes, HeaderValue);

/// Splits a checked section of more fields than the engine reads: appends what the engine is to read to `section`, and returns
/// the other fields in their order. What says where the message ends, and what becomes of the connection, stays for the engine,
/// wherever it stands.
///
/// # Errors
/// There are too many of these, or a field is none.
pub fn split(whole: &[u8], section: &mut BytesMut) -> Result<Vec<Overflow>, Fault> {
    let mut rest = whole;
    let status = line(&mut rest).ok_or(Fault::HeaderLine)?;
    let mut keep = |line: &[u8]| {
        section.extend_from_slice(line);
        section.extend_from_slice(b"\r\n");
    };
    keep(status);
    let (mut kept, mut overflow) = (0, Vec::new());
    loop {
        let line = line(&mut rest).ok_or(Fault::HeaderLine)?;
        if line.is_empty() {
            keep(line);
            return Ok(overflow);
        }
        let (name, value) = framing::field(line).ok_or(Fault::HeaderLine)?;
        let of_engine = ["connection", "content-length", "transfer-encoding", "upgrade"];
        let is_of_engine = of_engine.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is_of_engine || kept < MAX_FIELDS_OF_ENGINE - MAX_OF_CONNECTION {
            kept += 1;
            if kept > MAX_FIELDS_OF_ENGINE {
                return Err(Fault::FieldCount);
            }
            keep(line);
        } else {
            let value = HeaderValue::from_bytes(value).map_err(|_| Fault::HeaderLine)?;
            overflow.push((Bytes::copy_from_slice(name), value));
        }
    }
}

/// Room for fields of the connection behind the others.
const MAX_OF_CONNECTION: usize = 16;

/// Reads one whole section, status line to empty line. `to_head` says that a HEAD request is answered: such
/// an answer has no body, whatever its fields say.
///
/// # Errors
/// What in it has more than one reading.
pub fn read(section: &[u8], to_head: bool) -> Result<AnswerHead, Fault> {
    let mut rest = section;
    let (http10, status) = status_line(line(&mut rest).ok_or(Fault::HeaderLine)?)?;
    let (mut length, mut chunked, mut closes, mut keeps, mut idle) = (None, false, false, false, None);
    let mut fields = 0;
    loop {
        let line = line(&mut rest).ok_or(Fault::HeaderLine)?;
        if line.is_empty() {
            break;
        }
        fields += 1;
        if fields > MAX_FIELDS {
            return Err(Fault::FieldCount);
        }
        let (name, value) = framing::field(line).ok_or(Fault::HeaderLine)?;
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => {
                closes |= holds(value, b"close");
                keeps |= holds(value, b"keep-alive");
            }
            10 if name.eq_ignore_ascii_case(b"keep-alive") => idle = idle.or(idle_time(value)),
            // They sign in the other end of the connection, which is all callers.
            16 if name.eq_ignore_ascii_case(b"www-authenticate") => closes |= signs_in_connections(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                for one in value.split(|byte| *byte == b',') {
                    let one = digits(one.trim_ascii())?;
                    // Said twice it is one length, if it is the same (RFC 9110 §8.6).
                    if length.replace(one).is_some_and(|before| before != one) {
                        return Err(Fault::Framing);
                    }
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if chunked || http10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Framing);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    let bodiless = status < 200 || status == 204;
    // Neither may a message without a body say that it has one, nor a message say two lengths.
    if chunked && (bodiless || length.is_some()) || bodiless && length.is_some_and(|length| length > 0) {
        return Err(Fault::Framing);
    }
    let body = match length {
        _ if to_head || bodiless || status == 304 => Body::Length(0),
        Some(length) => Body::Length(length),
        None if chunked => Body::Chunked(Chunks::default()),
        None => Body::UntilClose,
    };
    Ok(AnswerHead { status, body, last: closes || (http10 && !keeps), idle, fields })
}

/// The `timeout` of a `Keep-Alive` field (RFC 2068 §19.7.1.1).
fn idle_time(value: &[u8]) -> Option<Duration> {
    let mut parameters = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let seconds = parameters.find_map(|parameter| parameter.strip_prefix(b"timeout="))?;
    std::str::from_utf8(seconds).ok()?.parse().ok().map(Duration::from_secs)
}

/// Whether credentials or a challenge are of a scheme that signs in a connection and not a request.
pub fn signs_in_connections(value: &[u8]) -> bool {
    let schemes = [&b"ntlm"[..], b"negotiate"];
    let words = value.split(|byte| matches!(byte, b',' | b' ' | b'\t'));
    words.into_iter().any(|word| schemes.iter().any(|scheme| word.eq_ignore_ascii_case(scheme)))
}

/// Whether it is HTTP/1.0, and the status.
fn status_line(line: &[u8]) -> Result<(bool, u16), Fault> {
    let (version, rest) = line.split_at_checked(9).ok_or(Fault::StatusLine)?;
    let http10 = match version {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return Err(Fault::StatusLine),
    };
    let (code, reason) = rest.split_at_checked(3).ok_or(Fault::StatusLine)?;
    let [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = code else {
        return Err(Fault::StatusLine);
    };
    let plain = matches!(reason, [] | [b' ', ..]) && !reason.iter().any(|byte| framing::is_control(*byte));
    let digit = |byte: &u8| u16::from(byte - b'0');
    match plain {
        true => Ok((http10, digit(hundreds) * 100 + digit(tens) * 10 + digit(ones))),
        false => Err(Fault::StatusLine),
    }
}

/// Takes one line off `rest`, without its CRLF. `None`: it ends in anything else, or holds a CR or a NUL.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\n', rest)?;
    let (line, behind) = (&rest[..end], &rest[end + 1..]);
    *rest = behind;
    line.strip_suffix(b"\r").filter(|line| memchr::memchr2(b'\r', 0, line).is_none())
}

fn digits(text: &[u8]) -> Result<u64, Fault> {
    let plain = !text.is_empty() && text.len() < 19 && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.filter(|_| plain).ok_or(Fault::Framing)
}

/// Whether a list of tokens holds `token`, in any case.
pub fn holds(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, to_head: bool) -> Result<(u16, String, bool), Fault> {
        read(text.as_bytes(), to_head).map(|head| (head.status, shown(&head.body), head.last))
    }

    fn shown(body: &Body) -> String {
        match body {
            Body::Length(length) => length.to_string(),
            Body::Chunked(_) => "chunked".to_owned(),
            Body::UntilClose => "until close".to_owned(),
        }
    }

    #[test]
    fn an_answer_says_where_it_ends_and_whether_another_may_follow() {
        for (line, fields, to_head, want) in [
            ("HTTP/1.1 200 OK", "Content-Length: 5\r\n", false, (200, "5", false)),
            ("HTTP/1.1 200", "Content-Length:5\r\nContent-Length: 5 , 5\r\n", false, (200, "5", false)),
            ("HTTP/1.1 200 ", "TRANSFER-encoding: Chunked\r\n", false, (200, "chunked", false)),
            ("HTTP/1.1 200 \u{e9}\t", "", false, (200, "until close", false)),
            ("HTTP/1.1 200 OK", "Content-Length: 5\r\n", true, (200, "0", false)),
            ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\n", true, (200, "0", false)),
            ("HTTP/1.1 304 Not Modified", "Content-Length: 5\r\n", false, (304, "0", false)),
            ("HTTP/1.1 204 No Content", "Content-Length: 0\r\n", false, (204, "0", false)),
            ("HTTP/1.1 100 Continue", "", false, (100, "0", false)),
            (
                "HTTP/1.1 200 OK",
                "Content-Length: 0\r\nConnection: x\r\nConnection: Close\r\n",
                false,
                (200, "0", true),
            ),
            (
                "HTTP/1.1 401 No",
                "Content-Length: 0\r\nWWW-Authenticate: Basic realm=x, ntlm\r\n",
                false,
                (401, "0", true),
            ),
            ("HTTP/1.0 200 OK", "Content-Length: 0\r\n", false, (200, "0", true)),
            ("HTTP/1.0 200 OK", "Content-Length: 0\r\nConnection: keep-alive\r\n", false, (200, "0", false)),
            (
                "HTTP/1.1 999 Odd",
                "Content-Length: 0\r\nX-Empty:\r\nX: \u{e9}\tb\r\n",
                false,
                (999, "0", false),
            ),
        ] {
            let text = format!("{line}\r\n{fields}\r\n");
            let (status, body, last) = want;
            assert_eq!(check(&text, to_head), Ok((status, body.to_owned(), last)), "{text:?}");
        }
    }

    #[test]
    fn the_engine_reads_some_of_many_fields_and_all_that_frame_the_message() {
        let many = |count: usize, last: &str| {
            let lines: String = (0..count).map(|number| format!("X-{number}: {number}\r\n")).collect();
            format!("HTTP/1.1 200 OK\r\n{lines}{last}\r\n")
        };
        let last = "Transfer-Encoding: chunked\r\nconnection: close\r\n";
        let text = many(300, last);
        assert_eq!(read(text.as_bytes(), false).unwrap().fields, 302);
        let mut section = BytesMut::from(&b"HTTP/1.1 103 Early\r\n\r\n"[..]);
        let overflow = split(text.as_bytes(), &mut section).unwrap();
        let kept = MAX_FIELDS_OF_ENGINE - MAX_OF_CONNECTION;
        assert_eq!(section, format!("HTTP/1.1 103 Early\r\n\r\n{}", many(kept, last)).as_bytes());
        let names: Vec<String> = overflow
            .iter()
            .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.to_str().unwrap()))
            .collect();
        let want: Vec<String> = (kept..300).map(|number| format!("X-{number}={number}")).collect();
        assert_eq!(names, want);
        // What only frames the message cannot be put off.
        let text = many(230, &"Connection: x\r\n".repeat(30));
        assert!(matches!(split(text.as_bytes(), &mut BytesMut::new()), Err(Fault::FieldCount)));
        assert!(read(many(MAX_FIELDS, "").as_bytes(), false).is_ok());
        assert!(matches!(read(many(MAX_FIELDS + 1, "").as_bytes(), false), Err(Fault::FieldCount)));
    }

    #[test]
    fn an_upstream_says_how_long_it_keeps_an_idle_connection() {
        for (value, seconds) in [
            ("timeout=5", Some(5)),
            ("max=100, timeout=5", Some(5)),
            ("timeout=x", None),
            ("max=100", None),
            ("timeout=-1", None),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\n\r\n");
            let idle = read(text.as_bytes(), false).unwrap().idle;
            assert_eq!(idle.map(|idle| idle.as_secs()), seconds, "{value}");
        }
    }

    #[test]
    fn what_has_two_readings_has_none() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 6\r\n",
            "Content-Length: 5,\r\n",
            "Content-Length:\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(check(&text, false), Err(Fault::Framing), "{text:?}");
            // An answer to HEAD says what the one to GET would say.
            assert_eq!(check(&text, true), Err(Fault::Framing), "{text:?}");
        }
        for (line, fields) in [
            ("HTTP/1.0 200 OK", "Transfer-Encoding: chunked\r\n"),
            ("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked\r\n"),
            ("HTTP/1.1 204 No Content", "Content-Length: 5\r\n"),
            ("HTTP/1.1 103 Early Hints", "Content-Length: 5\r\n"),
        ] {
            assert_eq!(check(&format!("{line}\r\n{fields}\r\n"), false), Err(Fault::Framing), "{line}");
        }
        for text in [
            "HTTP/1.1 200 OK\r\nX: a\n\r\n",
            "HTTP/1.1 200 OK\nX: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n X: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: \x0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: \x7f\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: a\r\n\r\n",
        ] {
            assert_eq!(check(text, false), Err(Fault::HeaderLine), "{text:?}");
        }
        for line in [
            "",
            "HTTP/1.1  200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 099 OK",
            "HTTP/1.1 +20 OK",
            "HTTP/1.1 200OK",
            "HTTP/1.2 200 OK",
            "HTTP/2 200 OK",
            "http/1.1 200 OK",
            " HTTP/1.1 200 OK",
            "HTTP/1.1 200 O\x01K",
        ] {
            let text = format!("{line}\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(check(&text, false), Err(Fault::StatusLine), "{text:?}");
        }
    }
}

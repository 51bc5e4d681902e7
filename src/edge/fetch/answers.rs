//! What answers say of themselves: how their bodies are compressed and written, and when to come again.
//!
//! No request asks for compression. Some hosts compress all the same, and what plugins and readers of key sets get is the
//! text. Its size is bounded by the caller's limit before and after.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use encoding_rs::{Encoding, UTF_8};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use zeroize::Zeroizing;

/// The longest time that a host can ask to be left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// How often a body may be compressed.
const LAYERS: usize = 2;

/// A body that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadBody {
    /// Its text is larger than allowed.
    TooLarge,
    /// It is not what its header says.
    Broken(String),
}

/// The text of a body that may be compressed, and in another charset than UTF-8. The header fields are changed with it: they
/// describe what is returned.
///
/// # Errors
/// [`BadBody`]; the text is never longer than `most` bytes.
pub(super) fn text(
    headers: &mut HeaderMap,
    body: Zeroizing<Vec<u8>>,
    most: usize,
) -> Result<Zeroizing<Vec<u8>>, BadBody> {
    let body = decompressed(headers, body, most)?;
    in_utf8(headers, body, most)
}

/// The body without its compression (RFC 9110 §8.4.1).
fn decompressed(
    headers: &mut HeaderMap,
    mut body: Zeroizing<Vec<u8>>,
    most: usize,
) -> Result<Zeroizing<Vec<u8>>, BadBody> {
    let fields: Vec<HeaderValue> = headers.get_all(CONTENT_ENCODING).iter().cloned().collect();
    let fields = fields.iter().map(|field| field.to_str().map_err(|_| "not a text"));
    let fields: Vec<&str> = fields.collect::<Result<_, _>>().map_err(unknown)?;
    let codings =
        fields.iter().flat_map(|field| field.split(',')).map(|coding| coding.trim().to_ascii_lowercase());
    let mut codings: Vec<String> =
        codings.filter(|coding| !coding.is_empty() && coding != "identity").collect();
    if codings.is_empty() || body.is_empty() {
        return Ok(body);
    }
    if codings.len() > LAYERS {
        return Err(unknown(&codings.join(", ")));
    }
    // The last one was applied last.
    while let Some(coding) = codings.pop() {
        body = match &*coding {
            // Some proxies decompress, and leave the field.
            "gzip" | "x-gzip" if !body.starts_with(&[0x1f, 0x8b]) => body,
            "gzip" | "x-gzip" => read(MultiGzDecoder::new(&**body), most, &coding)?,
            "deflate" => read(ZlibDecoder::new(&**body), most, &coding)?,
            other => return Err(unknown(other)),
        };
    }
    headers.remove(CONTENT_ENCODING);
    headers.remove(reqwest::header::CONTENT_LENGTH);
    Ok(body)
}

fn unknown(coding: &str) -> BadBody {
    let coding: String = coding.chars().take(64).collect();
    BadBody::Broken(format!("a body compressed as {coding:?}, which was not asked for"))
}

fn read(from: impl Read, most: usize, coding: &str) -> Result<Zeroizing<Vec<u8>>, BadBody> {
    // Never grown, so that no copy of a part stays behind unwiped.
    let mut text = Zeroizing::new(Vec::with_capacity(most.min(FIRST)));
    let mut from = from.take(most as u64 + 1);
    let mut chunk = Zeroizing::new([0; 8 << 10]);
    loop {
        let length = match from.read(&mut *chunk) {
            Ok(0) => return Ok(text),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(BadBody::Broken(format!("a body that is no {coding}: {error}"))),
        };
        if text.len() + length > most {
            return Err(BadBody::TooLarge);
        }
        if text.len() + length > text.capacity() {
            let mut larger =
                Zeroizing::new(Vec::with_capacity((text.capacity() * 2).max(text.len() + length)));
            larger.extend_from_slice(&text);
            text = larger;
        }
        text.extend_from_slice(&chunk[..length]);
    }
}

/// The first guess of the length of a text, in bytes.
const FIRST: usize = 64 << 10;

/// The text in UTF-8, if the answer says that it is in another charset.
fn in_utf8(
    headers: &mut HeaderMap,
    body: Zeroizing<Vec<u8>>,
    most: usize,
) -> Result<Zeroizing<Vec<u8>>, BadBody> {
    let Some((media, label)) = headers.get(CONTENT_TYPE).and_then(|field| charset(field.to_str().ok()?))
    else {
        return Ok(body);
    };
    let Some(encoding) = Encoding::for_label(label.as_bytes()).filter(|encoding| *encoding != UTF_8) else {
        return Ok(body);
    };
    // JSON is UTF-8 whatever its charset says (RFC 8259 §8.1), and what is valid in it is hardly ever anything else.
    let is_utf8 = encoding.is_ascii_compatible() && std::str::from_utf8(&body).is_ok();
    let text = match is_utf8 {
        true => body,
        false => {
            let (text, _, _) = encoding.decode(&body);
            Zeroizing::new(text.into_owned().into_bytes())
        }
    };
    if text.len() > most {
        return Err(BadBody::TooLarge);
    }
    if let Ok(field) = HeaderValue::from_str(&format!("{media}; charset=utf-8")) {
        headers.insert(CONTENT_TYPE, field);
    }
    headers.remove(reqwest::header::CONTENT_LENGTH);
    Ok(text)
}

/// The media type of a `Content-Type`, and its charset (RFC 9110 §8.3).
fn charset(field: &str) -> Option<(String, String)> {
    let (media, parameters) = field.split_once(';')?;
    let label = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        name.trim().eq_ignore_ascii_case("charset").then(|| value.to_owned())
    })?;
    Some((media.trim().to_owned(), label))
}

/// How long the host asks to be left alone (RFC 9110 §10.2.3), as seconds or as a date; a day at most.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let field = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit());
    let wait = match is_number {
        // More digits than fit are a long time, too.
        true => Duration::from_secs(field.parse().unwrap_or(u64::MAX)),
        false => httpdate::parse_http_date(field).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write as _;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read_as(
        fields: &[(&'static str, &str)],
        body: Vec<u8>,
        most: usize,
    ) -> Result<(Vec<u8>, HeaderMap), BadBody> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let text = text(&mut headers, Zeroizing::new(body), most)?;
        Ok((text.to_vec(), headers))
    }

    #[test]
    fn what_was_compressed_unasked_is_read() {
        let long = b"tokens ".repeat(40_000);
        for (coding, body) in [
            ("gzip", gzip(&long)),
            ("GZIP", gzip(&long)),
            ("x-gzip", gzip(&long)),
            ("deflate", zlib(&long)),
            ("identity", long.clone()),
            ("deflate, gzip", gzip(&zlib(&long))),
            // Decompressed on the way, with the field left.
            ("gzip", long.clone()),
            ("gzip", [gzip(&long[..7]), gzip(&long[7..])].concat()),
        ] {
            let (text, headers) =
                read_as(&[("content-encoding", coding), ("content-length", "9")], body, long.len())
                    .unwrap_or_else(|why| panic!("{coding}: {why:?}"));
            assert_eq!(text, long, "{coding}");
            assert_eq!(headers.contains_key("content-encoding"), coding == "identity", "{coding}");
        }
        assert_eq!(read_as(&[("content-encoding", "gzip")], Vec::new(), 1).unwrap().0, b"");
    }

    #[test]
    fn no_more_is_decompressed_than_may_be_read() {
        let bomb = gzip(&vec![0; 10 << 20]);
        let twice = gzip(&bomb);
        assert!(bomb.len() < 20_000);
        assert_eq!(read_as(&[("content-encoding", "gzip")], bomb, 1 << 20).unwrap_err(), BadBody::TooLarge);
        let why = read_as(&[("content-encoding", "gzip, gzip")], twice, 1 << 20).unwrap_err();
        assert_eq!(why, BadBody::TooLarge);
        let exact = gzip(b"hello");
        assert!(read_as(&[("content-encoding", "gzip")], exact.clone(), 5).is_ok());
        assert_eq!(
            read_as(&[("content-encoding", "gzip")], exact.clone(), 4).unwrap_err(),
            BadBody::TooLarge
        );
        for (coding, body) in [
            ("gzip", exact[..exact.len() - 4].to_vec()),
            ("deflate", b"not deflate".to_vec()),
            ("br", b"x".to_vec()),
            ("gzip, gzip, gzip", exact),
        ] {
            let why = read_as(&[("content-encoding", coding)], body, 1 << 20).unwrap_err();
            assert!(matches!(why, BadBody::Broken(_)), "{coding}: {why:?}");
        }
    }

    #[test]
    fn a_declared_charset_is_read() {
        let json = |text: &str| format!("{{\"name\":\"{text}\"}}");
        let latin = [b"{\"name\":\"Zo", &[0xeb][..], b"\"}"].concat();
        let utf16: Vec<u8> = json("Zoë").encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (field, body) in [
            ("application/json; charset=ISO-8859-1", latin.clone()),
            ("application/json;Charset=\"iso-8859-1\"", latin.clone()),
            ("application/json; q=1; charset=windows-1252", latin),
            ("application/json; charset=utf-16le", utf16),
            ("application/json; charset=UTF-8", json("Zoë").into_bytes()),
            ("application/json", json("Zoë").into_bytes()),
            // Mislabelled, as many are.
            ("application/json; charset=ISO-8859-1", json("Zoë").into_bytes()),
            ("application/json; charset=no-such", json("Zoë").into_bytes()),
        ] {
            let (text, headers) = read_as(&[("content-type", field)], body, 100).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), json("Zoë"), "{field}");
            assert!(headers["content-type"].to_str().unwrap().starts_with("application/json"), "{field}");
        }
        // A text of other letters is longer in UTF-8.
        let long = vec![0xeb; 60];
        let why = read_as(&[("content-type", "text/plain; charset=latin1")], long, 100).unwrap_err();
        assert_eq!(why, BadBody::TooLarge);
    }

    #[test]
    fn a_host_asks_to_be_left_alone_in_seconds_or_until_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(20);
        for (field, want) in [
            ("30", Some(30)),
            (" 30 ", Some(30)),
            ("0", Some(0)),
            ("Thu, 01 Jan 1970 00:01:00 GMT", Some(40)),
            ("Thursday, 01-Jan-70 00:01:00 GMT", Some(40)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("86401", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(86_400)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(field).unwrap());
            assert_eq!(retry_after(&headers, now).map(|wait| wait.as_secs()), want, "{field:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}

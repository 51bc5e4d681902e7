//! One view of a request: what the policy matches is, byte for byte, what the upstream receives.
//!
//! Bypasses of gateways are mostly two readings of one request: the gateway matched `/public`, the app
//! served `/admin`. So a path is brought into RFC 3986 §6.2.2 normal form exactly once, whatever two
//! parties could read differently is refused, and what remains is forwarded as it was matched.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a request line or a Host cannot be given one meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Not in origin form: it must begin with `/`.
    #[error("the request target must be a path that begins with '/'")]
    Target,
    /// A byte that RFC 3986 does not let a path hold: a control, a space, `\`, `#` or non-ASCII.
    #[error("the path holds a byte that must be percent-encoded or is not allowed")]
    Byte,
    /// `%` without two hexadecimal digits.
    #[error("the path holds '%' without two hexadecimal digits")]
    Escape,
    /// `%00` to `%1F` or `%7F`.
    #[error("the path holds an encoded control character")]
    Control,
    /// `%5C`.
    #[error("the path holds an encoded backslash")]
    Backslash,
    /// `%2F` on a route without `allow = ["encoded-slash"]`.
    #[error("the path holds an encoded slash, which this route does not allow")]
    EncodedSlash,
    /// `//` on a route without `allow = ["empty-segment"]`.
    #[error("the path holds an empty segment ('//'), which this route does not allow")]
    EmptySegment,
    /// `.` or `..` as a whole segment, in any encoding.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// Read by a laxer server, the path belongs to another route.
    #[error("the path could be read as belonging to another route")]
    Ambiguous,
    /// The Host is missing.
    #[error("the request names no host")]
    NoHost,
    /// The Host is not a host with an optional port.
    #[error("the Host is not a host name or address with an optional port")]
    Host,
    /// Framing that two parties may read differently: CL with TE, several TE, TE in HTTP/1.0.
    #[error("the message framing is ambiguous")]
    Framing,
    /// The header section is not in HTTP's form.
    #[error("the header section is malformed")]
    Header,
}

impl Malformed {
    /// The stable word for logs, metrics and problem documents.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Malformed::Target => "target_malformed",
            Malformed::Byte => "path_byte",
            Malformed::Escape => "path_escape",
            Malformed::Control => "path_control",
            Malformed::Backslash => "path_backslash",
            Malformed::EncodedSlash => "path_encoded_slash",
            Malformed::EmptySegment => "path_empty_segment",
            Malformed::DotSegment => "path_dot_segment",
            Malformed::Ambiguous => "path_ambiguous",
            Malformed::NoHost => "host_missing",
            Malformed::Host => "host_malformed",
            Malformed::Framing => "framing_ambiguous",
            Malformed::Header => "header_malformed",
        }
    }
}

/// A path in normal form: unreserved characters decoded, hex digits in upper case, nothing else
/// touched, and no dot segment in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    text: Cow<'a, str>,
    encoded_slash: bool,
    empty_segment: bool,
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl<'a> Path<'a> {
    /// Reads the path of a request target, without its query.
    ///
    /// # Errors
    /// The first [`Malformed`] found. `%2F` and `//` are kept and reported by
    /// [`Path::has_encoded_slash`] and [`Path::has_empty_segment`], because a route may allow them.
    pub fn parse(raw: &'a [u8]) -> Result<Path<'a>, Malformed> {
        if raw.first() != Some(&b'/') {
            return Err(Malformed::Target);
        }
        // The common path is plain: one scan, no copy.
        let mut escaped = false;
        for &byte in raw {
            match byte {
                b'%' => escaped = true,
                0..=b' ' | b'\\' | b'#' | b'?' | 0x7f.. => return Err(Malformed::Byte),
                _ => {}
            }
        }
        let mut encoded_slash = false;
        let text: Cow<'a, str> = if escaped {
            Cow::Owned(decode_unreserved(raw, &mut encoded_slash)?)
        } else {
            // Checked above: ASCII only.
            Cow::Borrowed(std::str::from_utf8(raw).map_err(|_| Malformed::Byte)?)
        };
        let mut empty_segment = false;
        let mut segments = text[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "." | ".." => return Err(Malformed::DotSegment),
                // A trailing slash ends in an empty segment that nobody reads differently.
                "" if segments.peek().is_some() => empty_segment = true,
                _ => {}
            }
        }
        Ok(Path { text, encoded_slash, empty_segment })
    }

    /// The path as it is matched and as it is forwarded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `%2F` occurs.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// Whether `//` occurs.
    #[must_use]
    pub fn has_empty_segment(&self) -> bool {
        self.empty_segment
    }

    /// Whether the text changed on its way into normal form.
    #[must_use]
    pub fn is_rewritten(&self) -> bool {
        matches!(self.text, Cow::Owned(_))
    }

    /// How laxer servers in use could read this path, when that differs from what it says: escapes
    /// decoded again, `;` parameters dropped before or after that (servlet containers), cut at an encoded
    /// `#` or `?`, separators folded, case ignored. Empty when every reading is the same.
    ///
    /// One reading is not enough: a server that does only some of this sees another path than one that
    /// does all of it. Where the order matters, each order is a reading of its own; the rest can only
    /// bring a path nearer to a prefix, never hide it.
    ///
    /// # Errors
    /// [`Malformed::DotSegment`] when one of them climbs, [`Malformed::Ambiguous`] when the escapes are
    /// nested deeper than anybody writes them.
    pub fn lax_readings(&self) -> Result<Vec<String>, Malformed> {
        let text = self.text.as_bytes();
        if !self.empty_segment && !text.iter().any(|byte| matches!(byte, b'%' | b';')) {
            let other = text.iter().any(u8::is_ascii_uppercase);
            return Ok(other.then(|| self.text.to_ascii_lowercase()).into_iter().collect());
        }
        let layers = decode_layers(text.to_vec())?;
        let mut readings = vec![lax_reading(layers.last().map_or(text, Vec::as_slice))?];
        for layer in layers.iter().filter(|layer| layer.contains(&b';')) {
            let decoded = decode_layers(without_parameters(layer))?;
            let reading = lax_reading(decoded.last().map_or(text, Vec::as_slice))?;
            if !readings.contains(&reading) {
                readings.push(reading);
            }
        }
        Ok(readings)
    }
}

/// How often a path may have been percent-encoded. Twice happens where one URL travels inside another.
const MAX_LAYERS: usize = 4;

/// `bytes`, and what each further decoding makes of them until nothing is left to decode.
fn decode_layers(bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut layers = vec![bytes];
    while let Some(decoded) = layers.last().and_then(|bytes| decode_all(bytes)) {
        // Each layer is one more pass: without a bound, `%252525…` costs the square of its length.
        if layers.len() > MAX_LAYERS {
            return Err(Malformed::Ambiguous);
        }
        layers.push(decoded);
    }
    Ok(layers)
}

/// Takes the `;` parameters out of every segment.
fn without_parameters(bytes: &[u8]) -> Vec<u8> {
    let mut dropping = false;
    let keeps = |byte: &u8| {
        dropping = match byte {
            b'/' | b'\\' => false,
            b';' => true,
            _ => dropping,
        };
        !dropping
    };
    bytes.iter().copied().filter(keeps).collect()
}

/// The sloppiest reading of a path that is decoded to its end.
fn lax_reading(bytes: &[u8]) -> Result<String, Malformed> {
    let bytes = shortest_form(bytes);
    let end = bytes.iter().position(|b| matches!(b, b'#' | b'?' | 0)).unwrap_or(bytes.len());
    // Up and down again: some letters meet only in the upper case, as `s` and its long form do.
    let text = String::from_utf8_lossy(&bytes[..end]).replace('\\', "/").to_uppercase().to_lowercase();
    let mut lax = String::with_capacity(text.len() + 1);
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" => {}
            "." | ".." => return Err(Malformed::DotSegment),
            name => {
                lax.push('/');
                lax.push_str(name);
            }
        }
    }
    if lax.is_empty() || text.ends_with('/') {
        lax.push('/');
    }
    Ok(lax)
}

/// ASCII for what a careless decoder takes for it: UTF-8 in more bytes than needed (RFC 3629 §10).
fn shortest_form(bytes: &[u8]) -> Vec<u8> {
    let mut short = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        let (high, low, tail) = match rest {
            [0xc0..=0xc1, low @ 0x80..=0xbf, tail @ ..] => (byte & 1, *low, tail),
            [0xe0, high @ 0x80..=0x81, low @ 0x80..=0xbf, tail @ ..]
            | [0xf0, 0x80, high @ 0x80..=0x81, low @ 0x80..=0xbf, tail @ ..] => (high & 1, *low, tail),
            _ => {
                short.push(byte);
                rest = after;
                continue;
            }
        };
        short.push(high << 6 | (low & 0x3f));
        rest = tail;
    }
    short
}

fn decode_unreserved(raw: &[u8], encoded_slash: &mut bool) -> Result<String, Malformed> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            text.push(char::from(byte));
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(Malformed::Escape) };
        let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { return Err(Malformed::Escape) };
        rest = after;
        match high << 4 | low {
            0..=0x1f | 0x7f => return Err(Malformed::Control),
            b'\\' => return Err(Malformed::Backslash),
            decoded if is_unreserved(decoded) => text.push(char::from(decoded)),
            kept => {
                *encoded_slash |= kept == b'/';
                text.push('%');
                for digit in [high, low] {
                    text.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
                }
            }
        }
    }
    Ok(text)
}

/// Decodes every well-formed escape; `None` when there is none left.
fn decode_all(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut changed = false;
    while let Some((&byte, after)) = rest.split_first() {
        if let (b'%', [high, low, tail @ ..]) = (byte, after)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push(high << 4 | low);
            rest = tail;
            changed = true;
        } else {
            decoded.push(byte);
            rest = after;
        }
    }
    changed.then_some(decoded)
}

/// The authority of a request: lower case, without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    name: Cow<'a, str>,
    port: Option<u16>,
}

impl<'a> Host<'a> {
    /// Reads a `Host` field or an `:authority` (RFC 9110 §7.2): a registered name or an address,
    /// and an optional port.
    ///
    /// # Errors
    /// [`Malformed::Host`] for anything else: userinfo, a path, an empty or an impossible port.
    pub fn parse(raw: &'a [u8]) -> Result<Host<'a>, Malformed> {
        let text = std::str::from_utf8(raw).map_err(|_| Malformed::Host)?;
        let mut literal_name = None;
        let (name, port) = match text.strip_prefix('[') {
            Some(literal) => {
                let (address, after) = literal.split_once(']').ok_or(Malformed::Host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| Malformed::Host)?;
                // One spelling for one address (RFC 5952), or a route could be named past.
                literal_name = Some(format!("[{address}]"));
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or(Malformed::Host)?),
                };
                ("", port)
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse::<u16>().map_err(|_| Malformed::Host)?)
            }
            Some(_) => return Err(Malformed::Host),
        };
        if let Some(name) = literal_name {
            return Ok(Host { name: Cow::Owned(name), port });
        }
        let name = checked_name(name)?;
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        Ok(Host { name, port })
    }

    /// The host alone.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, when one was written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl std::fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A registered name as DNS writes it, or an IPv4 address; one trailing dot is dropped.
fn checked_name(name: &str) -> Result<&str, Malformed> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(Malformed::Host);
    }
    // A last label of digits only can be nothing but an address (WHATWG URL §3.5), so it must be one.
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) && name.parse::<Ipv4Addr>().is_err() {
        return Err(Malformed::Host);
    }
    Ok(name)
}

/// The header fields of a request, whatever protocol carried them.
pub trait Headers: Sync {
    /// Calls `visit` with each field line named `name` (lower case), in order.
    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]));
}

/// A request as policy sees it.
pub struct Request<'a> {
    /// The method, as sent (methods are case-sensitive).
    pub method: &'a str,
    /// Who the request is for.
    pub host: Host<'a>,
    /// What it asks for, in normal form.
    pub path: Path<'a>,
    /// The query without `?`; it never takes part in matching.
    pub query: Option<&'a str>,
    /// Whether it asks to become a WebSocket.
    pub websocket: bool,
    /// Its header fields.
    pub headers: &'a dyn Headers,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> Result<String, Malformed> {
        Path::parse(raw.as_bytes()).map(|p| p.as_str().to_owned())
    }

    #[test]
    fn normal_form_decodes_unreserved_and_raises_hex() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/%61dmin", "/admin"),
            ("/%7euser", "/~user"),
            ("/a%3ab%c3%a9", "/a%3Ab%C3%A9"),
            ("/%252e%252e", "/%252e%252e"),
            ("/a;b=c/@x:y", "/a;b=c/@x:y"),
            ("/a%2fb", "/a%2Fb"),
            ("/a//b", "/a//b"),
            ("/...", "/..."),
        ] {
            assert_eq!(path(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn what_two_servers_could_read_differently_is_refused() {
        for (raw, fault) in [
            ("", Malformed::Target),
            ("*", Malformed::Target),
            ("a/b", Malformed::Target),
            ("/a b", Malformed::Byte),
            ("/a\\b", Malformed::Byte),
            ("/a#b", Malformed::Byte),
            ("/caf\u{e9}", Malformed::Byte),
            ("/a\u{7f}", Malformed::Byte),
            ("/a%", Malformed::Escape),
            ("/a%2", Malformed::Escape),
            ("/a%zz", Malformed::Escape),
            ("/a%00", Malformed::Control),
            ("/a%0d%0a", Malformed::Control),
            ("/a%7F", Malformed::Control),
            ("/a%5cb", Malformed::Backslash),
            ("/..", Malformed::DotSegment),
            ("/a/./b", Malformed::DotSegment),
            ("/a/%2e%2E/b", Malformed::DotSegment),
            ("/a/.%2e", Malformed::DotSegment),
        ] {
            assert_eq!(path(raw), Err(fault), "{raw}");
        }
    }

    #[test]
    fn a_plain_path_is_not_copied_and_has_one_reading() {
        let plain = Path::parse(b"/api/v1/items-2/").unwrap();
        assert!(!plain.is_rewritten());
        assert_eq!(plain.lax_readings(), Ok(Vec::new()));
    }

    fn lax(raw: &str) -> Result<Vec<String>, Malformed> {
        Path::parse(raw.as_bytes()).unwrap().lax_readings()
    }

    #[test]
    fn the_lax_readings_are_what_sloppy_servers_see() {
        for (raw, readings) in [
            ("/ADMIN", vec!["/admin"]),
            ("/admin;x=1/y", vec!["/admin/y"]),
            ("/admin%23/public", vec!["/admin"]),
            ("/admin%3fx", vec!["/admin"]),
            ("/%2561dmin", vec!["/admin"]),
            ("/a//b", vec!["/a/b"]),
            ("/A/", vec!["/a/"]),
            ("/a;x%2fy/b", vec!["/a/y/b", "/a/b"]),
            ("/a;x%252fy/b", vec!["/a/y/b", "/a/b"]),
            ("/a;%23/b", vec!["/a", "/a/b"]),
            ("/CAF%C3%89", vec!["/caf\u{e9}"]),
            ("/%C5%BFecret%E2%84%AA", vec!["/secretk"]),
            ("/%c1%a1dmin/%E0%81%A1/%F0%80%81%A1", vec!["/admin/a/a"]),
        ] {
            assert_eq!(lax(raw).unwrap(), readings, "{raw}");
        }
    }

    #[test]
    fn a_path_that_climbs_in_any_reading_is_refused() {
        for raw in [
            "/a%2f%2e%2e%2fadmin",
            "/%252e%252e/admin",
            "/x/..%252fadmin",
            "/ADMIN/..;/public",
            "/x/.;a=b/y",
            "/x/..%3Bv/y",
            "/x/..%23/y",
            "/x/..%2500y",
            "/x/%c0%ae%c0%ae/y",
            "/x/%e0%80%ae./y",
        ] {
            assert_eq!(lax(raw), Err(Malformed::DotSegment), "{raw}");
        }
    }

    #[test]
    fn escapes_nested_without_end_cost_no_more_than_a_few() {
        assert_eq!(lax("/%25252541"), Ok(vec!["/a".to_owned()]));
        assert_eq!(lax(&format!("/%{}41", "25".repeat(10_000))), Err(Malformed::Ambiguous));
    }

    #[test]
    fn hosts_have_one_spelling() {
        for (raw, shown) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("example.com:8080", "example.com:8080"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:443", "[::1]:443"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
            ("my_app", "my_app"),
        ] {
            assert_eq!(Host::parse(raw.as_bytes()).unwrap().to_string(), shown, "{raw}");
        }
        for raw in [
            "",
            ".",
            "a..b",
            "h/abc?x=",
            "a@b",
            "a b",
            "a:",
            "a:x",
            "a:65536",
            "a:80:80",
            "[::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "::1",
            "a,b",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "caf\u{e9}",
            "a\t",
        ] {
            // An empty port is refused too: `a:` and `a` would be two spellings of one host.
            assert_eq!(Host::parse(raw.as_bytes()), Err(Malformed::Host), "{raw}");
        }
    }
}

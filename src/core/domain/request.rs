//! One view of a request: what the policy matches is, byte for byte, what the upstream receives.
//!
//! Most bypasses of gateways are path confusion: two readings of one request, where the gateway matched `/public` and
//! the app served `/admin` (path traversal). So a path is brought into RFC 3986 §6.2.2 normal form exactly once,
//! whatever two parties could read differently is refused, and what remains is forwarded as it was matched.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// Behind the prefix that the route takes off, the path does not begin with exactly one slash.
    #[error("behind the prefix that is taken off, the path does not begin with exactly one slash")]
    Rest,
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
            Malformed::Rest => "path_rest",
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
    plain: bool,
    upper: bool,
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
        let (mut plain, mut upper) = (true, false);
        for &byte in raw {
            match byte {
                b'%' => escaped = true,
                b';' => plain = false,
                b'A'..=b'Z' => upper = true,
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
                // A trailing slash ends in an empty segment that all servers read the same.
                "" if segments.peek().is_some() => empty_segment = true,
                name => plain &= !name.ends_with('.'),
            }
        }
        plain &= !escaped && !empty_segment;
        Ok(Path { text, encoded_slash, empty_segment, plain, upper })
    }

    /// The path as it is matched and as it is forwarded.
    #[must_use]
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `%2F` occurs.
    #[must_use]
    #[inline]
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// Whether `//` occurs.
    #[must_use]
    #[inline]
    pub fn has_empty_segment(&self) -> bool {
        self.empty_segment
    }

    /// Whether the text changed on its way into normal form.
    #[must_use]
    #[inline]
    pub fn is_rewritten(&self) -> bool {
        matches!(self.text, Cow::Owned(_))
    }

    /// Whether every server reads this path alike: no escape, no `;`, no upper case, no empty segment, and no
    /// segment that ends in a dot. Of all others [`super::reading::PathReading`] knows more.
    #[must_use]
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.plain && !self.upper
    }

    /// Whether this path would be plain in lower case.
    #[must_use]
    #[inline]
    pub fn is_plain_but_for_case(&self) -> bool {
        self.plain
    }
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

    /// That of a request of HTTP/1.0 that names none. Only what is for every host takes it, and it is no host of a cookie, a
    /// token or an origin.
    #[must_use]
    pub const fn unnamed() -> Host<'static> {
        Host { name: Cow::Borrowed(""), port: None }
    }

    /// Whether the request names none.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.name.is_empty()
    }

    /// The host alone; empty where the request names none.
    #[must_use]
    #[inline]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, when one was written.
    #[must_use]
    #[inline]
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

/// Whether a host, as [`Host::name`] gives it, is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// How a client reaches us, as its browser shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// Reads `http` or `https`, in any case (RFC 3986 §3.1).
    #[must_use]
    pub fn parse(text: &str) -> Option<Scheme> {
        let is = |name: &str| text.eq_ignore_ascii_case(name);
        if is("http") { Some(Scheme::Http) } else { is("https").then_some(Scheme::Https) }
    }

    pub(super) const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// An origin (RFC 6454): where a page comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin<'a> {
    pub scheme: Scheme,
    pub host: Host<'a>,
}

impl<'a> WebOrigin<'a> {
    /// Reads an `Origin` field or the origin of a URL; `None` for anything else, `null` too.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<WebOrigin<'a>> {
        let (scheme, authority) = text.split_once("://")?;
        Some(WebOrigin { scheme: Scheme::parse(scheme)?, host: Host::parse(authority.as_bytes()).ok()? })
    }

    /// Whether both are one origin: a port that is not written is the scheme's own.
    #[must_use]
    pub fn is_same(&self, other: &WebOrigin<'_>) -> bool {
        let port = |origin: &WebOrigin<'_>| origin.host.port().unwrap_or(origin.scheme.default_port());
        self.scheme == other.scheme && self.host.name() == other.host.name() && port(self) == port(other)
    }
}

/// The header fields of a request, whatever protocol carried them.
pub trait Headers: Sync {
    /// Calls `visit` with each field line named `name` (lower case), in order.
    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]));
}

/// No header fields: for what looks at none, such as a decision about routes.
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn each<'a>(&'a self, _: &str, _: &mut dyn FnMut(&'a [u8])) {}
}

/// A request as policy sees it.
pub struct Request<'a> {
    /// The method, as sent (methods are case-sensitive).
    pub method: &'a str,
    /// The host that the request is for.
    pub host: Host<'a>,
    /// What it asks for, in normal form.
    pub path: Path<'a>,
    /// The query without `?`; it never takes part in matching.
    pub query: Option<&'a str>,
    /// Whether it asks to become a WebSocket.
    pub websocket: bool,
    /// Whether it comes from a trusted proxy, so that its forwarding fields count.
    pub is_peer_trusted: bool,
    /// The client's address as far as it is believed, IPv4 as such; `None`: it is not known, and in no network. Set only
    /// where [`super::table::Table::has_networks`] says that it is read.
    pub client: Option<IpAddr>,
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
        let plain = Path::parse(b"/api/v1/items-2/a.b/").unwrap();
        assert!(!plain.is_rewritten() && plain.is_plain());
        for raw in ["/A", "/a;b", "/a%2Fb", "/%61", "/a//b", "/a./b", "/a."] {
            let path = Path::parse(raw.as_bytes()).unwrap();
            assert!(!path.is_plain(), "{raw}");
            assert_eq!(path.is_plain_but_for_case(), raw == "/A");
        }
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

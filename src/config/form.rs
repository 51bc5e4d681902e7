//! The forms that strings of the configuration take: URLs, sizes, names, mailboxes. Pure: nothing here
//! reads a file or reports an error.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_PAD_INDIFFERENT, URL_SAFE_PAD_INDIFFERENT};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::name::is_line;
use palisade_core::domain::reach::Reach;
use palisade_core::domain::request::{Host, is_loopback};
use palisade_core::domain::reserved::{fold, never_passes};

/// A string for an error message: userinfo hidden, since it may be a password, and cut when long.
pub fn quoted(text: &str) -> String {
    let mut shown = text.to_owned();
    if let Some((before, after)) = text.rsplit_once('@')
        && let Some((scheme, _)) = before.split_once(':')
    {
        let scheme = if before.contains("://") { format!("{scheme}://") } else { String::new() };
        shown = format!("{scheme}***@{after}");
    }
    if shown.chars().count() > 80 {
        shown = shown.chars().take(77).chain("...".chars()).collect();
    }
    format!("{shown:?}")
}

/// The dotted key of `name` in the table `key`; the whole document has the empty one.
pub fn dotted(key: &str, name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let name = if name.bytes().all(bare) { name.to_owned() } else { format!("{name:?}") };
    if key.is_empty() { name } else { format!("{key}.{name}") }
}

/// The known word closest to `name`, if it is close enough to be meant.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, near) = known.iter().map(|word| (strsim::levenshtein(name, word), *word)).min()?;
    (distance <= 1 + near.len() / 4).then_some(near)
}

/// `10MB`, `512KiB`, `100`: decimal and binary units. Not by the crate `bytesize`: it takes fractions of a byte, and of a
/// number that is too large it makes the largest one.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// An `http` or `https` URL, taken apart.
pub struct Url<'a> {
    pub tls: bool,
    pub host: String,
    pub port: Option<u16>,
    /// Path, query and fragment as written.
    pub rest: &'a str,
}

impl<'a> Url<'a> {
    /// Reads a URL without userinfo.
    pub fn parse(text: &'a str) -> Option<Url<'a>> {
        let (tls, after) = match text.split_once("://")? {
            ("https", after) => (true, after),
            ("http", after) => (false, after),
            _ => return None,
        };
        let (authority, rest) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
        let host = Host::parse(authority.as_bytes()).ok()?;
        let graphic = rest.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        (graphic && host.port() != Some(0)).then(|| Url {
            tls,
            host: host.name().to_owned(),
            port: host.port(),
            rest,
        })
    }

    /// Whether it stays on this machine, where cleartext is safe.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Whether it can be trusted to carry keys: `https`, or loopback.
    pub fn is_safe(&self) -> bool {
        self.tls || self.is_loopback()
    }

    /// Whether it may be called with this reach: [`Url::is_safe`], or in cleartext into `allow_private`, which is held
    /// against the addresses of its host when it is called.
    pub fn is_safe_within(&self, reach: &Reach) -> bool {
        self.is_safe() || !reach.allow_private.is_empty()
    }
}

/// The key in one of `vault.keys`: 32 bytes, as base64, base64url or hex.
#[must_use]
pub fn vault_key(text: &SecretString) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.expose_secret();
    let bytes = match text.len() {
        64 => hex(text)?,
        _ => base64(text)?,
    };
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

/// The key in `connections.webhook.secret`: what the text behind `whsec_` stands for in base64, and of any
/// other text its bytes.
#[must_use]
pub fn webhook_key(text: &SecretString) -> Option<Zeroizing<Vec<u8>>> {
    match text.expose_secret().strip_prefix("whsec_") {
        Some(encoded) => base64(encoded),
        None => Some(Zeroizing::new(text.expose_secret().as_bytes().to_vec())),
    }
}

/// Base64 in either alphabet (RFC 4648 §4, §5), with its padding or without.
fn base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let engine =
        if text.contains(['-', '_']) { &URL_SAFE_PAD_INDIFFERENT } else { &STANDARD_PAD_INDIFFERENT };
    let mut bytes = Zeroizing::new(vec![0; text.len()]);
    let length = engine.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// Pairs of hexadecimal digits.
pub fn hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    // What was decoded of a text with a wrong digit is wiped as well.
    let mut bytes = Zeroizing::new(vec![0; text.len() / 2]);
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// A token of RFC 9110 §5.6.2: header names, methods, cookie names.
pub fn is_token(text: &str) -> bool {
    let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(tchar)
}

/// A name that is a label in logs and metrics.
pub fn is_label(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=64).contains(&text.len()) && text.bytes().all(word)
}

/// Header fields that carry something else than identity: setting them would break framing, routing or
/// the caller's own credentials.
pub fn is_reserved_header(name: &str) -> bool {
    // `_` is read as `-` by CGI and WSGI apps.
    let name = fold(name);
    const NAMES: [&str; 20] = [
        "accept",
        "authorization",
        "connection",
        "cookie",
        "date",
        "destination",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "origin",
        "referer",
        "set-cookie",
        "te",
        "trailer",
        "upgrade",
        "user-agent",
        "via",
        "x-real-ip",
    ];
    let groups =
        ["palisade-", "content-", "proxy-", "sec-", "transfer-", "x-forwarded-", "if-", "access-control-"];
    NAMES.contains(&&*name) || groups.iter().any(|group| name.starts_with(group))
}

/// Whether a field of this name may be set: neither HTTP's own, nor one that the gateway sets for another reason.
pub fn is_sendable(header: &str) -> bool {
    let folded = fold(header);
    let is_identity = folded == "x-auth" || folded.starts_with("x-auth-");
    is_token(header) && !is_reserved_header(header) && (is_identity || never_passes(header).is_none())
}

/// A mailbox (RFC 5322 §3.4): `a@b`, `Name <a@b>` or `"Name" <a@b>`.
pub fn mailbox(text: &str) -> Option<(Option<String>, EmailAddress)> {
    let Some((name, address)) = text.trim().strip_suffix('>').and_then(|named| named.rsplit_once('<')) else {
        return text.parse().ok().map(|address| (None, address));
    };
    let name = name.trim();
    let name = match name.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        None => name.to_owned(),
    };
    // A name that would need quotes is more likely a mistake: `A <a@b>, C <c@d>`.
    let plain = name.is_empty() || (is_line(&name) && !name.contains(['<', '>']));
    let address = address.parse().ok().filter(|_| plain)?;
    Some(((!name.is_empty()).then_some(name), address))
}

/// The text of a quoted string behind its first quote (RFC 5322 §3.2.4); nothing follows the last.
fn unquoted(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next()?),
            '"' => return chars.as_str().is_empty().then_some(plain),
            c => plain.push(c),
        }
    }
    None
}

/// A level, or a filter of `target=level` as `tracing` reads it.
pub fn is_log_filter(text: &str) -> bool {
    let level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(word))
    };
    text.split(',').all(|directive| match directive.trim().rsplit_once('=') {
        Some((target, word)) => !target.is_empty() && level(word),
        None => level(directive.trim()),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        Url, is_log_filter, is_reserved_header, mailbox, nearest, quoted, size, vault_key, webhook_key,
    };

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("10MB", 10_000_000),
            ("1 MiB", 1 << 20),
            ("2kb", 2000),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MB", "-1", "1.5MB", "10 potatoes", "99999999999999GB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(quoted("smtp://me:hunter2@mail.test"), "\"smtp://***@mail.test\"");
        assert_eq!(quoted("smtp://me:hunt@r2@mail.test"), "\"smtp://***@mail.test\"");
        assert_eq!(quoted("me:hunter2@mail.test"), "\"***@mail.test\"");
        assert_eq!(quoted("http://a.test/x"), "\"http://a.test/x\"");
    }

    #[test]
    fn the_nearest_key_is_only_named_when_it_is_near() {
        let known = ["listen", "admin", "trusted_proxies"];
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(nearest("trusted-proxies", &known), Some("trusted_proxies"));
        assert_eq!(nearest("workers", &known), None);
    }

    #[test]
    fn urls_hold_no_userinfo() {
        assert!(Url::parse("https://a.test/x?y").is_some_and(|url| url.rest == "/x?y" && url.tls));
        for text in
            ["a.test", "ftp://a.test", "https://", "https://u@a.test", "http://a.test:0", "http://a b/"]
        {
            assert!(Url::parse(text).is_none(), "{text}");
        }
        assert!(Url::parse("http://[::1]:3000").is_some_and(|url| url.is_loopback()));
    }

    #[test]
    fn a_vault_key_is_32_bytes_however_they_are_written() {
        let bytes: [u8; 32] = std::array::from_fn(|n| 255 - n as u8);
        for text in [
            "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=",
            "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA",
            "__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA",
            "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0efeeedecebeae9e8e7e6e5e4e3e2e1e0",
            "FFFEFDFCFBFAF9F8F7F6F5F4F3F2F1F0EFEEEDECEBEAE9E8E7E6E5E4E3E2E1E0",
        ] {
            assert_eq!(*vault_key(&text.into()).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "correct-horse-battery-staple-0123456789",
            "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi",
            "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eD/",
            "__79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=",
            "xffefdfcfbfaf9f8f7f6f5f4f3f2f1f0efeeedecebeae9e8e7e6e5e4e3e2e1e0",
            "fefdfcfbfaf9f8f7f6f5f4f3f2f1f0efeeedecebeae9e8e7e6e5e4e3e2e1e0",
        ] {
            assert!(vault_key(&text.into()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_webhook_key_is_encoded_or_as_it_is() {
        assert_eq!(**webhook_key(&"whsec_aGVsbG8=".into()).unwrap(), *b"hello");
        assert_eq!(**webhook_key(&"aGVsbG8=".into()).unwrap(), *b"aGVsbG8=");
        assert!(webhook_key(&"whsec_***".into()).is_none());
    }

    #[test]
    fn words_have_forms() {
        assert!(is_reserved_header("Content_Length") && is_reserved_header("HOST"));
        assert!(!is_reserved_header("Remote-User") && !is_reserved_header("X-Auth-Subject"));
        assert!(is_log_filter("info") && is_log_filter("warn,palisade=debug"));
        assert!(!is_log_filter("loud") && !is_log_filter("palisade=loud"));
    }

    #[test]
    fn a_mailbox_is_a_name_and_one_address() {
        let read = |text| mailbox(text).map(|(name, address)| (name, address.as_str().to_owned()));
        let some = |name: &str, address: &str| Some((Some(name.to_owned()), address.to_owned()));
        assert_eq!(read("Palisade <noreply@example.com>"), some("Palisade", "noreply@example.com"));
        assert_eq!(read("\"Ann, \\\"Inc\\\"\" <a@b.test>"), some("Ann, \"Inc\"", "a@b.test"));
        assert_eq!(read("Żółw <a+b@c.test>"), some("Żółw", "a+b@c.test"));
        assert_eq!(read("a+b@c.test"), Some((None, "a+b@c.test".to_owned())));
        assert_eq!(read("<a@b.test>"), Some((None, "a@b.test".to_owned())));
        for bad in [
            "nobody",
            "A <a@b.test>\r\nBcc: x@y.test",
            "A\r\nBcc: x@y.test <a@b.test>",
            "<@b.test>",
            "A <a@b.test>, C <c@d.test>",
            "\"A <a@b.test>",
            "\"A\" B <a@b.test>",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

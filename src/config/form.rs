//! The forms that strings of the configuration take: URLs, sizes, names, mailboxes. Pure: nothing here
//! reads a file or reports an error.

use crate::domain::request::Host;

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

/// The known word closest to `name`, if it is close enough to be meant.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, near) = known.iter().map(|word| (distance(name, word), *word)).min()?;
    (distance <= 1 + near.len() / 4).then_some(near)
}

/// Edits that turn `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// `10MB`, `512KiB`, `100`: decimal and binary units.
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
        let address = self.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || address.is_ok_and(|a| a.is_loopback())
    }

    /// Whether it can be trusted to carry keys: `https`, or loopback.
    pub fn is_safe(&self) -> bool {
        self.tls || self.is_loopback()
    }
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
    let name = name.to_ascii_lowercase().replace('_', "-");
    const NAMES: [&str; 19] = [
        "accept",
        "authorization",
        "connection",
        "cookie",
        "date",
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
    let groups = ["content-", "proxy-", "sec-", "transfer-", "x-forwarded-", "if-", "access-control-"];
    NAMES.contains(&name.as_str()) || groups.iter().any(|group| name.starts_with(group))
}

/// A mailbox (RFC 5322 §3.4): `a@b` or `Name <a@b>`.
pub fn is_mailbox(text: &str) -> bool {
    let address = match text.strip_suffix('>') {
        Some(named) => named.split_once('<').map(|(_, address)| address),
        None => Some(text),
    };
    let shape = |address: &str| {
        address.rsplit_once('@').is_some_and(|(local, domain)| {
            let plain = |b: u8| b.is_ascii_graphic() && !b"<>()[]\\,;:@\" ".contains(&b);
            !local.is_empty() && local.bytes().all(plain) && Host::parse(domain.as_bytes()).is_ok()
        })
    };
    !text.chars().any(char::is_control) && address.is_some_and(shape)
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
    use super::{Url, is_log_filter, is_mailbox, is_reserved_header, nearest, quoted, size};

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
    fn words_have_forms() {
        assert!(is_reserved_header("Content_Length") && is_reserved_header("HOST"));
        assert!(!is_reserved_header("Remote-User") && !is_reserved_header("X-Auth-Subject"));
        assert!(is_mailbox("Palisade <noreply@example.com>") && is_mailbox("a+b@c.test"));
        assert!(!is_mailbox("nobody") && !is_mailbox("A <a@b>\r\nBcc: x@y") && !is_mailbox("<@b>"));
        assert!(is_log_filter("info") && is_log_filter("warn,palisade=debug"));
        assert!(!is_log_filter("loud") && !is_log_filter("palisade=loud"));
    }
}

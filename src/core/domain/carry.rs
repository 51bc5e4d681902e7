//! What takes a session from the host of `public_url` to another host: the texts that travel in between, and what each is
//! bound to (login CSRF, session fixation).
//!
//! The asking host sets a nonce cookie and sends the browser to the sign-in with a parameter that names the host and the
//! hash of the nonce, under a MAC: what the query says is not believed. The sign-in comes back with a single-use code
//! ([`crate::service::carry`]), which is good for that host, in the browser with that nonce, and only there. So a code
//! that an attacker got for an account of their own is of no use in the browser of a victim.
//!
//! A browser that comes back has a mark in the query of its address. The mark counts only together with the absence of
//! a session: then the browser did not keep the cookie, and sending it to the sign-in once more would be a loop. It
//! counts for a minute, so that an address that was kept with a mark in it is as good as one without.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::browser::{BrowserSettings, NamedOrigin};
use super::credential::HOST_PREFIX;
use super::opaque::{ServerKey, TokenHash};
use super::redirect::{InvalidLocation, InvalidSetCookie, Location, SetCookie};
use super::request::Headers;
use super::time::UnixTime;

/// The name of the cookie with the nonce, behind [`HOST_PREFIX`] over TLS. It is never forwarded.
pub const NONCE_COOKIE: &str = "palisade-carry";

/// The last parameter of an address that a browser is sent back to.
pub const MARK: &str = "palisade-turn";

/// How long a code is good, and a mark counts.
pub const CODE_LIFE: Duration = Duration::from_secs(60);

/// How long a sign-in may be under way. Later the browser makes one more turn.
const PARAMETER_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The domains of the MACs.
const NONCE_PURPOSE: &str = "carry nonce";
const REQUEST_PURPOSE: &str = "carry";
const MARK_PURPOSE: &str = "turn";

const VERSION: u8 = 1;
const NONCE: usize = 32;
const SHORT_TAG: usize = 16;
const TAG: usize = 32;
/// Version, flags, time, hash of the nonce.
const HEAD: usize = 1 + 1 + 8 + 32;
/// A name in DNS has 253 bytes at most; a scheme and a port come to it.
const MAX_ORIGIN: usize = 300;
/// The time and the tag of a mark, in bytes, and their characters in base64url.
const MARK_BYTES: usize = 8 + SHORT_TAG;
const MARK_CHARS: usize = MARK_BYTES / 3 * 4;

/// By which the asking host knows the browser again. The browser alone has it.
pub struct Nonce(SecretString);

impl Nonce {
    /// A nonce of `host` ([`super::request::Host::name`]); `random` must be fresh randomness.
    #[must_use]
    pub fn new(key: &ServerKey, host: &str, random: &[u8; NONCE]) -> Nonce {
        let mut bytes = random.to_vec();
        let tag = key.mac(NONCE_PURPOSE, &[random, host.as_bytes()]);
        bytes.extend_from_slice(&tag[..SHORT_TAG]);
        Nonce(URL_SAFE_NO_PAD.encode(bytes).into())
    }

    /// The nonce in the cookie's value, when we made it for `host`.
    #[must_use]
    pub fn read(key: &ServerKey, host: &str, value: &str) -> Option<Nonce> {
        if value.len() != (NONCE + SHORT_TAG) / 3 * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (random, tag) = bytes.split_first_chunk::<NONCE>()?;
        let is_ours = is_tag(key, NONCE_PURPOSE, &[random, host.as_bytes()], tag);
        is_ours.then(|| Nonce(value.to_owned().into()))
    }

    /// What a parameter and a code name of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.expose_secret().as_bytes())
    }

    /// The value of its cookie.
    #[must_use]
    pub fn value(&self) -> &SecretString {
        &self.0
    }
}

/// Whether `tag` is the MAC of these parts, or its beginning, under a key of the ring. Its length is the caller's to check.
fn is_tag(key: &ServerKey, purpose: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
    key.keys().any(|index| {
        let mac = key.mac_by(index, purpose, parts);
        mac.get(..tag.len()).is_some_and(|start| start.ct_eq(tag).into())
    })
}

/// The name of the cookie with the nonce.
#[must_use]
pub fn nonce_cookie(settings: &BrowserSettings) -> String {
    format!("{}{NONCE_COOKIE}", if settings.is_secure() { HOST_PREFIX } else { "" })
}

/// `Set-Cookie` for a nonce, until the browser is closed. `Lax`: the browser comes back by a navigation from another site.
///
/// # Errors
/// Never for a nonce that we made.
pub fn set_nonce(settings: &BrowserSettings, nonce: &Nonce) -> Result<SetCookie, InvalidSetCookie> {
    let (name, value) = (nonce_cookie(settings), nonce.value().expose_secret());
    let secure = if settings.is_secure() { "; Secure" } else { "" };
    SetCookie::new(format!("{name}={value}; Path=/{secure}; HttpOnly; SameSite=Lax"))
}

/// A sign-in that another host asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarryRequest {
    /// The host that asked, and that the code is for.
    pub origin: NamedOrigin,
    /// The hash of the nonce that the browser has there.
    pub nonce: TokenHash,
    /// Whether the browser asked over `http`, as far as the request told. A cookie with `Secure` is not kept then.
    pub was_cleartext: bool,
    pub begun_at: UnixTime,
}

impl CarryRequest {
    /// As it stands in the address of the sign-in.
    #[must_use]
    pub fn write(&self, key: &ServerKey) -> String {
        let mut bytes = vec![VERSION, u8::from(self.was_cleartext)];
        bytes.extend_from_slice(&self.begun_at.0.to_be_bytes());
        bytes.extend_from_slice(&self.nonce.0);
        bytes.extend_from_slice(self.origin.to_string().as_bytes());
        bytes.extend_from_slice(&key.mac(REQUEST_PURPOSE, &[&bytes]));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The request in `text`, when one of our hosts made it within the last day.
    #[must_use]
    pub fn read(key: &ServerKey, text: &str, now: UnixTime) -> Option<CarryRequest> {
        if text.len() > (HEAD + MAX_ORIGIN + TAG).div_ceil(3) * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (named, tag) = bytes.split_last_chunk::<TAG>()?;
        if !is_tag(key, REQUEST_PURPOSE, &[named], tag) {
            return None;
        }
        let ([version, flags, rest @ ..], origin) = named.split_first_chunk::<HEAD>()?;
        let (time, nonce) = rest.split_first_chunk::<8>()?;
        let begun_at = UnixTime(u64::from_be_bytes(*time));
        let is_in_time = now < begun_at.plus(PARAMETER_LIFE);
        (*version == VERSION && is_in_time).then_some(())?;
        Some(CarryRequest {
            origin: NamedOrigin::parse(std::str::from_utf8(origin).ok()?)?,
            nonce: TokenHash(nonce.try_into().ok()?),
            was_cleartext: *flags == 1,
            begun_at,
        })
    }
}

/// What the mark of an address says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The browser was sent back here within the last minute.
    JustNow,
    /// It was made later than now: the clock was set back since.
    Ahead,
    /// The address is an old one, or of another host.
    Over,
}

/// The code of the page that says why a browser has no session right after a sign-in.
pub const NOT_KEPT: &str = "cookie_not_kept";

/// Why a browser that was signed in just now has no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotKept {
    /// It seems to keep no cookies.
    Blocked,
    /// It asked over `http`, where it keeps no cookie that is `Secure`.
    Insecure,
    /// Our clock was set back.
    Clock,
}

impl NotKept {
    /// What the mark of an address says about a request without a session; `None`: nothing.
    #[must_use]
    pub const fn of(turn: Turn, is_cleartext: bool) -> Option<NotKept> {
        match turn {
            Turn::JustNow if is_cleartext => Some(NotKept::Insecure),
            Turn::JustNow => Some(NotKept::Blocked),
            Turn::Ahead => Some(NotKept::Clock),
            Turn::Over => None,
        }
    }

    /// What the error page is told; `url`: where the person was going, if that is known.
    #[must_use]
    pub fn facts(self, url: Option<&str>) -> Value {
        let (cause, on) = match self {
            NotKept::Blocked => ("blocked", "retry_url"),
            NotKept::Insecure => ("insecure", "right_url"),
            NotKept::Clock => ("clock", "retry_url"),
        };
        json!({"kind": "cookie", "cause": cause, on: url})
    }
}

/// Whether a browser seems to have asked over `http` although the service is on `https`: browsers send fetch metadata over
/// TLS only (W3C Fetch Metadata §2.1). It chooses between two explanations and nothing else.
#[must_use]
pub fn is_cleartext(settings: &BrowserSettings, headers: &dyn Headers) -> bool {
    let mut says_site = false;
    headers.each("sec-fetch-site", &mut |_| says_site = true);
    settings.is_secure() && !says_site
}

/// `url` with a mark for `origin` behind its query.
///
/// # Errors
/// The URL would become too long.
pub fn marked(
    key: &ServerKey,
    origin: &NamedOrigin,
    url: &str,
    now: UnixTime,
) -> Result<Location, InvalidLocation> {
    let mut bytes = now.0.to_be_bytes().to_vec();
    let tag = key.mac(MARK_PURPOSE, &[&bytes, origin.host.as_bytes()]);
    bytes.extend_from_slice(&tag[..SHORT_TAG]);
    let mark = URL_SAFE_NO_PAD.encode(bytes);
    let (place, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let separator = if place.contains('?') { '&' } else { '?' };
    Location::new(format!("{place}{separator}{MARK}={mark}{fragment}"))
}

/// The query without its mark (`None`: nothing is left), and the mark; `None` when it has none. It costs one comparison
/// at the end of the query.
#[must_use]
pub fn split_mark(query: &str) -> Option<(Option<&str>, &str)> {
    let length = MARK.len() + 1 + MARK_CHARS;
    let at = query.len().checked_sub(length)?;
    let (rest, parameter) = (query.get(..at)?, query.get(at..)?);
    let mark = parameter.strip_prefix(MARK)?.strip_prefix('=')?;
    if rest.is_empty() {
        return Some((None, mark));
    }
    rest.strip_suffix('&').map(|rest| (Some(rest), mark))
}

/// What a mark says on `host` ([`super::request::Host::name`]).
#[must_use]
pub fn read_mark(key: &ServerKey, host: &str, mark: &str, now: UnixTime) -> Turn {
    let decoded = (mark.len() == MARK_CHARS).then(|| URL_SAFE_NO_PAD.decode(mark).ok()).flatten();
    let Some(bytes) = decoded else { return Turn::Over };
    let Some((time, tag)) = bytes.split_first_chunk::<8>() else { return Turn::Over };
    if !is_tag(key, MARK_PURPOSE, &[time, host.as_bytes()], tag) {
        return Turn::Over;
    }
    let made = UnixTime(u64::from_be_bytes(*time));
    match () {
        () if made > now => Turn::Ahead,
        () if now < made.plus(CODE_LIFE) => Turn::JustNow,
        () => Turn::Over,
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(…)")
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn key(byte: u8) -> ServerKey {
        ServerKey::new(Zeroizing::new([byte; 32]))
    }

    fn origin(text: &str) -> NamedOrigin {
        NamedOrigin::parse(text).unwrap()
    }

    fn changed(text: &str, at: usize) -> String {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_new_key_in_front_voids_nothing() {
        let ring = ServerKey::ring(Zeroizing::new([2; 32]), vec![Zeroizing::new([1; 32])]);
        let nonce = Nonce::new(&key(1), "app.test", &[7; 32]);
        assert!(Nonce::read(&ring, "app.test", nonce.value().expose_secret()).is_some());
        let (origin, nonce) = (origin("https://app.test"), nonce.hash());
        let request = CarryRequest { origin, nonce, was_cleartext: false, begun_at: NOW };
        assert_eq!(CarryRequest::read(&ring, &request.write(&key(1)), NOW), Some(request));
    }

    #[test]
    fn a_nonce_is_of_its_host() {
        let nonce = Nonce::new(&key(1), "app.test", &[7; 32]);
        let value = nonce.value().expose_secret();
        assert!(Nonce::read(&key(1), "app.test", value).unwrap().hash().is(&nonce.hash()));
        assert!(Nonce::read(&key(1), "lab.test", value).is_none());
        assert!(Nonce::read(&key(2), "app.test", value).is_none());
        for at in 0..value.len() {
            assert!(Nonce::read(&key(1), "app.test", &changed(value, at)).is_none(), "{at}");
        }
        for bad in ["", "x", &value[1..], &format!("{value}A"), &"é".repeat(32)] {
            assert!(Nonce::read(&key(1), "app.test", bad).is_none());
        }
        assert!(!format!("{nonce:?}").contains(value));
    }

    #[test]
    fn a_request_is_read_as_it_was_written_and_not_when_it_was_changed() {
        let request = CarryRequest {
            origin: origin("https://lab.test:8443"),
            nonce: TokenHash::of(b"nonce"),
            was_cleartext: true,
            begun_at: NOW,
        };
        let text = request.write(&key(1));
        assert_eq!(CarryRequest::read(&key(1), &text, NOW), Some(request.clone()));
        assert_eq!(CarryRequest::read(&key(2), &text, NOW), None);
        let end = NOW.plus(PARAMETER_LIFE);
        assert!(CarryRequest::read(&key(1), &text, UnixTime(end.0 - 1)).is_some());
        assert_eq!(CarryRequest::read(&key(1), &text, end), None);
        for at in 0..text.len() {
            assert_eq!(CarryRequest::read(&key(1), &changed(&text, at), NOW), None, "{at}");
        }
        for bad in ["", "x", &text[1..], &format!("{text}AAAA"), &"A".repeat(1 << 20)] {
            assert_eq!(CarryRequest::read(&key(1), bad, NOW), None);
        }
        // Another text of ours under the same key is none.
        let nonce = Nonce::new(&key(1), "app.test", &[7; 32]);
        assert_eq!(CarryRequest::read(&key(1), nonce.value().expose_secret(), NOW), None);
    }

    #[test]
    fn a_mark_is_the_last_parameter_and_comes_off_again() {
        for (url, query, rest) in [
            ("https://app.test/", "", None),
            ("https://app.test/x?a=1&b", "a=1&b", Some("a=1&b")),
            ("https://app.test/x?#/report/7", "", None),
            ("https://app.test/x?a=1#b?c", "a=1", Some("a=1")),
        ] {
            let marked = marked(&key(1), &origin("https://app.test"), url, NOW).unwrap();
            let whole = url::Url::parse(marked.as_str()).unwrap();
            let before = url::Url::parse(url).unwrap();
            assert_eq!((whole.path(), whole.fragment()), (before.path(), before.fragment()), "{url}");
            let marked = whole.query().unwrap();
            assert!(marked.starts_with(query));
            match split_mark(marked) {
                Some((left, mark)) => {
                    assert_eq!(left.unwrap_or_default(), rest.unwrap_or_default(), "{url}");
                    assert_eq!(read_mark(&key(1), "app.test", mark, NOW), Turn::JustNow);
                }
                None => panic!("{marked}"),
            }
        }
        for query in ["", "a=1", "palisade-turn=", "palisade-turn=x", &"é".repeat(40), &"x".repeat(46)] {
            assert_eq!(split_mark(query), None, "{query}");
        }
        let mark = "A".repeat(MARK_CHARS);
        assert_eq!(split_mark(&format!("xpalisade-turn={mark}")), None);
        assert_eq!(split_mark(&format!("palisade-turn={mark}&a=1")), None);
    }

    #[test]
    fn a_mark_counts_for_a_minute_on_its_host() {
        let url = marked(&key(1), &origin("https://app.test"), "https://app.test/", NOW).unwrap();
        let (_, query) = url.as_str().split_once('?').unwrap();
        let (_, mark) = split_mark(query).unwrap();
        let read = |host: &str, at: u64| read_mark(&key(1), host, mark, UnixTime(at));
        assert_eq!(read("app.test", NOW.0 + 59), Turn::JustNow);
        assert_eq!(read("app.test", NOW.0 + 60), Turn::Over);
        assert_eq!(read("app.test", NOW.0 - 1), Turn::Ahead);
        assert_eq!(read("lab.test", NOW.0), Turn::Over);
        assert_eq!(read_mark(&key(2), "app.test", mark, NOW), Turn::Over);
        for at in 0..mark.len() {
            assert_eq!(read_mark(&key(1), "app.test", &changed(mark, at), NOW), Turn::Over, "{at}");
        }
        for bad in ["", "é", &mark[1..], &"é".repeat(16)] {
            assert_eq!(read_mark(&key(1), "app.test", bad, NOW), Turn::Over);
        }
    }
}

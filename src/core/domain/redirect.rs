//! Sending a browser elsewhere instead of serving it, and the cookies that it takes along.
//!
//! Both end up in header fields of an answer, so neither can hold a byte that would end one (CWE-113).

use secrecy::{ExposeSecret, SecretString};

use super::browser::SECURE_PREFIX;
use super::credential::HOST_PREFIX;

/// The longest [`Location`], in bytes: what servers and browsers take without trouble (RFC 9110 §4.1).
const MAX_LOCATION: usize = 8000;

/// The value of a `Location` field (RFC 9110 §10.2.2): a path of this host, or an `http` or `https` URL.
///
/// Whether a browser may be sent there is decided by the caller that makes one (open redirect). This type only makes
/// sure that every reader finds the same place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location(String);

/// A text that is no [`Location`]. It is not quoted: it may come from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a path or an http(s) URL of visible ASCII")]
pub struct InvalidLocation;

impl Location {
    /// Reads a path (`/x?y#z`) or an absolute URL.
    ///
    /// # Errors
    /// [`InvalidLocation`] for every other form: a relative path, `//host`, another scheme (`javascript:`), a user
    /// before the host, a backslash, which browsers read as `/` (WHATWG URL §4.4), white space, and whatever is not
    /// visible ASCII.
    pub fn new(text: impl Into<String>) -> Result<Location, InvalidLocation> {
        let text = text.into();
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let host = ["http://", "https://"].iter().find_map(|scheme| {
            let rest = text.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme));
            rest.and_then(|_| text[scheme.len()..].split(['/', '?', '#']).next())
        });
        let is_somewhere = match host {
            Some(host) => !host.is_empty() && !host.contains('@'),
            None => text.starts_with('/') && !text.starts_with("//"),
        };
        match plain && is_somewhere && text.len() <= MAX_LOCATION {
            true => Ok(Location(text)),
            false => Err(InvalidLocation),
        }
    }

    /// As it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The value of one `Set-Cookie` field (RFC 6265 §4.1), as it is sent. It may hold a secret, so it is never printed.
#[derive(Debug, Clone)]
pub struct SetCookie(SecretString);

/// A text that cannot be a `Set-Cookie` field. It is not quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the value of a Set-Cookie field")]
pub struct InvalidSetCookie;

impl SetCookie {
    /// Takes a whole value: `name=value` and its attributes.
    ///
    /// # Errors
    /// [`InvalidSetCookie`]: there is no name, or a byte that is neither visible ASCII nor a space.
    pub fn new(line: impl Into<String>) -> Result<SetCookie, InvalidSetCookie> {
        let line = line.into();
        let named = line.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && !name.bytes().any(|byte| matches!(byte, b' ' | b';' | b',' | b'"'))
        });
        match named && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            true => Ok(SetCookie(line.into())),
            false => Err(InvalidSetCookie),
        }
    }

    /// The line that makes the browser forget the cookie `name` of this host and the path `/`, and, with `domain`, that
    /// of this domain. A name with a prefix asks for TLS, whether or not we know of it.
    ///
    /// # Errors
    /// [`InvalidSetCookie`]: the name or the domain cannot stand in one.
    pub fn expired(name: &str, is_secure: bool, domain: Option<&str>) -> Result<SetCookie, InvalidSetCookie> {
        let begins =
            |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let is_secure = is_secure || [HOST_PREFIX, SECURE_PREFIX].into_iter().any(begins);
        let domain = domain.map(|domain| format!("; Domain={domain}")).unwrap_or_default();
        let secure = if is_secure { "; Secure" } else { "" };
        SetCookie::new(format!("{name}=; Path=/{domain}; Max-Age=0; HttpOnly; SameSite=Lax{secure}"))
    }

    /// As it is sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// A browser is sent elsewhere before it is served: 303 (RFC 9110 §15.4.4), so that it asks there with GET.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// The stable word for logs and metrics.
    pub code: &'static str,
    /// Where it is sent.
    pub to: Location,
    /// What it takes along.
    pub cookies: Vec<SetCookie>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_has_one_reading() {
        for good in [
            "/",
            "/auth/pages/sign-in?return_to=%2Fx",
            "/x//y",
            "https://app.test",
            "HTTPS://app.test:8443/x?y#z",
            "http://[::1]:8080/",
            "/x?at=a@b",
        ] {
            assert_eq!(Location::new(good).map(|location| location.0), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "x",
            "../x",
            "//evil.test",
            "/\\evil.test",
            "\\\\evil.test",
            "https:evil.test",
            "https:/evil.test",
            "https://",
            "https:///evil.test",
            "https://user@evil.test/",
            "https://app.test@evil.test",
            "https://app.test\\@evil.test",
            "javascript:alert(1)",
            "data:text/html,x",
            "ftp://app.test/",
            " /x",
            "/x y",
            "/\tx",
            "/x\r\nSet-Cookie: a=b",
            "/x\0",
            "/caf\u{e9}",
            "/\u{7f}",
        ] {
            assert_eq!(Location::new(bad), Err(InvalidLocation), "{bad:?}");
        }
        assert_eq!(Location::new(format!("/{}", "x".repeat(MAX_LOCATION))), Err(InvalidLocation));
    }

    #[test]
    fn a_cookie_is_one_field_and_is_never_printed() {
        let cookie = SetCookie::new("__Host-x=hunter2; Path=/; Secure; HttpOnly; SameSite=Lax").unwrap();
        assert!(cookie.expose().contains("hunter2"));
        assert!(!format!("{cookie:?}").contains("hunter2"));
        for bad in
            ["", "x", "=x", "a b=c", "a;b=c", "a=b\r\nLocation: /evil", "a=b\n", "a=\u{e9}", "a=b\0", "a=\tb"]
        {
            assert_eq!(SetCookie::new(bad).map(|_| ()), Err(InvalidSetCookie), "{bad:?}");
        }
    }
}

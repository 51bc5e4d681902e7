//! Where a browser may be sent back to after a sign-in (`return_to`): a guard against open redirects (CWE-601).
//!
//! A target comes from a URL, so an attacker chooses it. It counts only when its origin is spelled out in the
//! configuration ([`BrowserSettings`]), compared as a whole: scheme, host and port. What two readers could take for
//! different places is refused, not repaired. An accepted target is kept as a whole URL with the origin in the form of
//! the configuration, so that nothing of an attacker's spelling of the host is left in it.

use std::fmt;

use super::browser::{BrowserSettings, NamedOrigin};
use super::native_hosts::is_below;
use super::redirect::Location;
use super::request::{Host, Path, Scheme, WebOrigin};

/// The longest target, in bytes. It is carried in the query of a URL, percent-encoded.
pub const MAX_TARGET: usize = 4096;

/// What lies below this path, on every host that the configuration names, is ours: the steps of a sign-in between
/// hosts. It is no place to return to.
pub const BESIDE_APPS: &str = "/.palisade";

/// How a session gets to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnReach {
    /// It is there: the target is on the host of `public_url`, and cookies know no ports (RFC 6265 §8.5).
    Public,
    /// A single-use code carries it.
    Carried,
    /// It does not: the origin is only one to return to (`[browser] return_to`).
    Outside,
}

/// A place that a browser may be sent back to.
#[derive(Clone, PartialEq, Eq)]
pub struct ReturnTarget {
    to: Location,
    origin: NamedOrigin,
    reach: ReturnReach,
}

impl ReturnTarget {
    /// Reads a path (`/x?y#z`), which means the origin of `public_url`, or a whole URL. `None` for every other form,
    /// for `//`, a backslash, controls, white space, userinfo, and for every origin that `settings` does not name.
    #[must_use]
    pub fn parse(text: &str, settings: &BrowserSettings) -> Option<ReturnTarget> {
        // No byte that readers drop (tabs and line feeds, WHATWG URL §4.4), trim, or take for a slash.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        if !is_plain || text.len() > MAX_TARGET {
            return None;
        }
        let (origin, rest) = match text.starts_with('/') {
            true => (settings.public.clone(), text),
            false => whole(text)?,
        };
        let reach = reach(&origin, settings)?;
        let (path, _) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let normal = match path {
            "" => Path::parse(b"/").ok()?,
            _ => Path::parse(path.as_bytes()).ok()?,
        };
        if path.starts_with("//") || is_below(normal.as_str(), BESIDE_APPS) {
            return None;
        }
        let root = if path.is_empty() { "/" } else { "" };
        let to = Location::new(format!("{origin}{root}{rest}")).ok()?;
        Some(ReturnTarget { to, origin, reach })
    }

    /// The root of `public_url`, where people are sent who were going nowhere else.
    #[must_use]
    pub fn home(settings: &BrowserSettings) -> Option<ReturnTarget> {
        ReturnTarget::parse("/", settings)
    }

    /// The whole URL: visible ASCII, without a backslash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.to.as_str()
    }

    /// The same, as the value of a `Location` field.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.to
    }

    /// Whose page it is.
    #[must_use]
    pub fn origin(&self) -> &NamedOrigin {
        &self.origin
    }

    /// How a session gets there.
    #[must_use]
    pub fn reach(&self) -> ReturnReach {
        self.reach
    }

    /// The path, with its query and fragment.
    #[must_use]
    pub fn path(&self) -> &str {
        let url = self.as_str();
        let authority = url.find("://").map_or(0, |at| at + 3);
        url[authority..].find('/').map_or("/", |at| &url[authority + at..])
    }
}

/// A target may hold what a person was looking for, in its query.
impl fmt::Debug for ReturnTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReturnTarget")
            .field("origin", &self.origin)
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

/// The origin of a whole URL, and what follows it.
fn whole(text: &str) -> Option<(NamedOrigin, &str)> {
    let (scheme, after) = text.split_once("://")?;
    let (authority, rest) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
    // A host or an address and a port: userinfo and percent-encoding have no place in it.
    let origin = WebOrigin { scheme: Scheme::parse(scheme)?, host: Host::parse(authority.as_bytes()).ok()? };
    Some((NamedOrigin::of(&origin), rest))
}

/// How a session gets to `origin`; `None` when the configuration does not name it.
fn reach(origin: &NamedOrigin, settings: &BrowserSettings) -> Option<ReturnReach> {
    let public = &settings.public;
    let is_carried = settings.hosts.contains(origin);
    if origin == public || is_carried && origin.host == public.host {
        return Some(ReturnReach::Public);
    }
    match (is_carried, settings.return_to.contains(origin)) {
        (true, _) => Some(ReturnReach::Carried),
        (false, true) => Some(ReturnReach::Outside),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::browser_settings;
    use super::*;

    fn settings() -> BrowserSettings {
        let origin = |text| NamedOrigin::parse(text).unwrap();
        BrowserSettings {
            hosts: [
                "https://app.test",
                "https://lab.example:8443",
                "https://auth.test:9443",
                "https://xn--caf-dma.test",
                "https://[2001:db8::1]",
                "https://192.0.2.7",
            ]
            .map(origin)
            .to_vec(),
            return_to: [origin("https://www.test"), origin("http://old.test:8080")].to_vec(),
            ..browser_settings("https://auth.test")
        }
    }

    fn parsed(text: &str) -> Option<(String, ReturnReach)> {
        ReturnTarget::parse(text, &settings()).map(|target| (target.as_str().to_owned(), target.reach()))
    }

    #[test]
    fn a_named_place_is_returned_to_in_one_form() {
        use ReturnReach::{Carried, Outside, Public};
        for (text, url, reach) in [
            ("/", "https://auth.test/", Public),
            ("/x?y=//evil.test&z=a@b#/report/7", "https://auth.test/x?y=//evil.test&z=a@b#/report/7", Public),
            ("/a//b", "https://auth.test/a//b", Public),
            ("/@evil.test", "https://auth.test/@evil.test", Public),
            ("/%2F%2Fevil.test", "https://auth.test/%2F%2Fevil.test", Public),
            ("/x?u=https%3A%2F%2Fevil.test", "https://auth.test/x?u=https%3A%2F%2Fevil.test", Public),
            ("https://auth.test", "https://auth.test/", Public),
            ("https://auth.test:443/x", "https://auth.test/x", Public),
            ("https://auth.test:9443/x", "https://auth.test:9443/x", Public),
            ("https://app.test", "https://app.test/", Carried),
            ("https://app.test?x=1", "https://app.test/?x=1", Carried),
            ("https://app.test#x", "https://app.test/#x", Carried),
            ("HTTPS://APP.Test/Lab#/report/7", "https://app.test/Lab#/report/7", Carried),
            ("https://app.test./x", "https://app.test/x", Carried),
            ("https://app.test/x?y#//z", "https://app.test/x?y#//z", Carried),
            ("https://lab.example:8443/x", "https://lab.example:8443/x", Carried),
            ("https://xn--caf-dma.test/", "https://xn--caf-dma.test/", Carried),
            ("https://[2001:DB8:0::1]/", "https://[2001:db8::1]/", Carried),
            ("https://192.0.2.7/", "https://192.0.2.7/", Carried),
            ("https://www.test/x", "https://www.test/x", Outside),
            ("http://old.test:8080/x", "http://old.test:8080/x", Outside),
            ("/.palisader", "https://auth.test/.palisader", Public),
            ("/x/.palisade/carry", "https://auth.test/x/.palisade/carry", Public),
        ] {
            assert_eq!(parsed(text), Some((url.to_owned(), reach)), "{text}");
        }
    }

    #[test]
    fn every_other_place_is_refused() {
        let long = format!("/{}", "x".repeat(MAX_TARGET));
        for text in [
            // No place at all.
            "",
            "x",
            "..",
            "../x",
            "?x",
            "#x",
            "auth.test",
            "auth.test/x",
            &long,
            // Relative to the scheme, in every spelling that some reader takes for it.
            "//evil.test",
            "///evil.test",
            "////evil.test",
            "//evil.test@auth.test",
            "//auth.test/x",
            "/\\evil.test",
            "\\/evil.test",
            "\\\\evil.test",
            "/x\\y",
            "/\t/evil.test",
            "/\n/evil.test",
            "/\r/evil.test",
            "\t//evil.test",
            " //evil.test",
            "/ /evil.test",
            "\u{0}//evil.test",
            "/\u{0}/evil.test",
            "/\u{7f}/evil.test",
            "/\u{a0}/evil.test",
            "/\u{2028}/evil.test",
            "/\u{ff0f}evil.test",
            "/\u{2215}evil.test",
            "%2F%2Fevil.test",
            "%2f/evil.test",
            "%68ttps://evil.test",
            "https%3A%2F%2Fevil.test",
            "https:%2F%2Fevil.test",
            // Dot segments, which browsers resolve.
            "/..//evil.test",
            "/.//evil.test",
            "/x/..//evil.test",
            "/%2e//evil.test",
            "/%2E%2e//evil.test",
            // The path of a whole URL could be taken for a target by itself.
            "https://app.test//evil.test",
            "https://app.test/\\evil.test",
            // Schemes.
            "javascript:alert(1)",
            "JaVaScRiPt://auth.test/%0aalert(1)",
            "java\tscript:alert(1)",
            "data:text/html,x",
            "vbscript:x",
            "blob:https://auth.test/x",
            "view-source:https://auth.test/",
            "file:///etc/passwd",
            "ftp://auth.test/",
            "ws://auth.test/",
            "about:blank",
            "https:auth.test",
            "https:/auth.test",
            "https:/evil.test",
            "https:evil.test",
            "https:///auth.test",
            "https:///evil.test",
            "https://",
            "https:///",
            "https://?x",
            "://auth.test/",
            "https ://auth.test/",
            " https://auth.test/",
            "https://auth.test/ ",
            "https://auth.test/\r\nSet-Cookie: a=b",
            "x-https://auth.test/",
            // The scheme is part of the origin.
            "http://auth.test/",
            "http://app.test/",
            "http://auth.test:443/",
            "https://old.test:8080/",
            // Userinfo.
            "https://auth.test@evil.test/",
            "https://auth.test:443@evil.test/",
            "https://evil.test@auth.test/",
            "https://@auth.test/",
            "https://:@auth.test/",
            "https://user:password@app.test/",
            "https://auth.test%40evil.test/",
            "https://evil.test\\@auth.test/",
            "https://evil.test#@auth.test/",
            "https://evil.test?@auth.test/",
            "https://evil.test/@auth.test/",
            // Other hosts, however like ours they are.
            "https://evil.test/",
            "https://auth.test.evil.test/",
            "https://evilauth.test/",
            "https://auth.testevil/",
            "https://x.auth.test/",
            "https://x.app.test/",
            "https://test/",
            "https://auth.test../",
            "https://.auth.test/",
            "https://auth..test/",
            "https://*.test/",
            "https://*/",
            "https://auth.test%2eevil.test/",
            "https://auth%2etest/",
            "https://auth.test%00.evil.test/",
            "https://auth.test%09/",
            "https://auth.test;evil.test/",
            "https://auth.test,evil.test/",
            "https://auth_test/",
            "https://a\u{ff55}th.test/",
            "https://auth\u{3002}test/",
            "https://auth\u{ff0e}test/",
            "https://\u{430}uth.test/",
            "https://xn--uth-5cd.test/",
            "https://caf\u{e9}.test/",
            "https://xn--caf-dmb.test/",
            "https://auth\u{ad}.test/",
            // Ports.
            "https://auth.test:8443/",
            "https://auth.test:80/",
            "https://auth.test:/",
            "https://auth.test:0443x/",
            "https://auth.test:65979/",
            "https://auth.test:443:443/",
            "https://auth.test:-1/",
            "https://app.test:8443/",
            "https://lab.example/",
            "https://lab.example:443/",
            "https://www.test:8443/",
            "http://old.test/",
            // Addresses in other spellings.
            "https://3221225991/",
            "https://0xc0000207/",
            "https://0300.0.2.7/",
            "https://192.0.519/",
            "https://[::ffff:192.0.2.7]/",
            "https://[2001:db8::1%25eth0]/",
            "https://[2001:db8::1",
            "https://2001:db8::1/",
            // The steps of a sign-in: another person's code would be pressed on a visitor.
            "/.palisade",
            "/.palisade/",
            "/.palisade/carry?code=x",
            "/%2Epalisade/carry?code=x",
            "/.%70alisade/carry?code=x",
            "https://app.test/.palisade/carry?code=x",
            "https://app.test/x/../.palisade/carry?code=x",
            "https://app.test/.palisade/sign-out",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    /// A small generator of numbers (Marsaglia, "Xorshift RNGs", 2003).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % end as u64).unwrap()
        }
    }

    const PIECES: [&str; 48] = [
        "https:",
        "http:",
        "HTTPS:",
        "javascript:",
        "/",
        "//",
        "\\",
        "auth.test",
        "app.test",
        "AUTH.test",
        "evil.test",
        "www.test",
        "lab.example",
        "old.test",
        "xn--caf-dma.test",
        "[2001:db8::1]",
        "192.0.2.7",
        ":",
        ":443",
        ":8443",
        ":9443",
        ":8080",
        "@",
        "?",
        "#",
        ".",
        "..",
        "%2F",
        "%5C",
        "%2e",
        "%40",
        "%00",
        "%",
        "\t",
        "\n",
        "\r",
        " ",
        "\u{0}",
        "\u{e9}",
        "\u{ff0f}",
        "\u{3002}",
        "x",
        ";",
        "&return_to=",
        "*",
        "-",
        ".palisade",
        "//evil.test",
    ];

    /// Whatever is accepted means one place to a browser, and that place is one which the settings name: both as it
    /// was written, taken relative to a page of ours, and in the form that is sent. The browser is the parser of the
    /// WHATWG URL standard.
    #[test]
    fn a_browser_goes_where_the_target_says() {
        let settings = settings();
        let named = |origin: &NamedOrigin| {
            [&settings.public]
                .into_iter()
                .chain(&settings.hosts)
                .chain(&settings.return_to)
                .any(|it| it == origin)
        };
        let page = url::Url::parse("https://auth.test/auth/pages/sign-in?x").unwrap();
        let (mut numbers, mut accepted) = (Numbers(0x9e37_79b9_7f4a_7c15), 0);
        for _ in 0..200_000 {
            let start = ["", "https://", "https://app.test", "/", "https://auth.test/"][numbers.below(5)];
            let count = 1 + numbers.below(6);
            let tail: String = (0..count).map(|_| PIECES[numbers.below(PIECES.len())]).collect();
            let text = format!("{start}{tail}");
            let Some(target) = ReturnTarget::parse(&text, &settings) else { continue };
            accepted += 1;
            assert!(named(target.origin()), "{text:?}");
            let (sent, written) = (url::Url::parse(target.as_str()).unwrap(), page.join(&text).unwrap());
            let (scheme, host, port) = (sent.scheme(), sent.host_str().unwrap(), sent.port());
            let origin = NamedOrigin::parse(&match port {
                None => format!("{scheme}://{host}"),
                Some(port) => format!("{scheme}://{host}:{port}"),
            });
            assert_eq!(origin.as_ref(), Some(target.origin()), "{text:?}");
            // A dot at the end of a host is the one difference: it is dropped.
            let written_host = written.host_str().unwrap().trim_end_matches('.');
            assert_eq!((written.scheme(), written_host, written.port()), (scheme, host, port), "{text:?}");
            assert_eq!(written.path(), sent.path(), "{text:?}");
            assert_eq!((written.query(), written.fragment()), (sent.query(), sent.fragment()), "{text:?}");
            assert_eq!((sent.username(), sent.password()), ("", None), "{text:?}");
            // Reading the form that is sent once more changes nothing.
            assert_eq!(ReturnTarget::parse(target.as_str(), &settings).as_ref(), Some(&target), "{text:?}");
            assert_eq!(format!("{}{}", target.origin(), target.path()), target.as_str(), "{text:?}");
        }
        assert!(accepted > 10_000, "only {accepted} were accepted");
    }

    #[test]
    fn a_target_is_not_printed() {
        let target = ReturnTarget::parse("/x?patient=17", &settings()).unwrap();
        assert!(!format!("{target:?}").contains("patient"));
    }
}

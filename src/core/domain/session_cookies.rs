//! Which session cookie of a request counts, and how one is set (cookie tossing).
//!
//! Cookies are sent without what they were set with: a request tells the name and the value, not the host and not the
//! path (RFC 6265 §8.6). A host of the same domain can set a cookie for the whole domain, with a path that makes it come
//! first. So no place in the `Cookie` field decides, but what the name promises: only the very host can set a
//! [`HOST_PREFIX`] cookie, so it wins over one for the domain; and of two good ones of different sessions none counts.

use secrecy::{ExposeSecret, SecretString};

use super::browser::{BrowserSettings, CookiePlace, PlaceRef};
use super::credential::HOST_PREFIX;
use super::redirect::{InvalidSetCookie, SetCookie};

/// The most session cookies of one kind that are looked at. A browser of a person without an enemy sends one.
const MAX_COOKIES: usize = 4;

/// What the name of a session cookie promises about the host that set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetBy {
    /// Nothing: a host of the same domain may have set it, or over `http` an attacker on the way.
    Any,
    /// This very host, over TLS ([`HOST_PREFIX`]).
    ThisHost,
}

/// The names that session cookies have, and where the value of each counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieKind {
    pub name: &'static str,
    pub set_by: SetBy,
    pub place: CookiePlace,
}

/// The session cookies of one host; the one that wins first.
#[must_use]
pub fn kinds(settings: &BrowserSettings, host: &str) -> Vec<CookieKind> {
    let cookies = settings.cookies_at(host).into_iter().flatten();
    let kind = |(name, place): (&'static str, PlaceRef<'_>)| {
        let set_by = if name.starts_with(HOST_PREFIX) { SetBy::ThisHost } else { SetBy::Any };
        CookieKind { name, set_by, place: place.to_place() }
    };
    cookies.map(kind).collect()
}

/// The kinds of cookie that a sign-in sets on `host`. `line` is the `Cookie` field of the request.
///
/// With `[browser] domain`, the cookie for the domain on the host of `public_url`. Where the browser brought several of
/// them, one may be tossed: then also the one that only this host can set and that wins over them. So does one that is
/// there already, or the former session would win over the new one. By the code on every other host: its own.
#[must_use]
pub fn to_set(settings: &BrowserSettings, host: &str, line: &str) -> Vec<CookieKind> {
    let mut kinds = kinds(settings, host);
    if host != settings.public.host {
        kinds.truncate(1);
    }
    let is_shared = |kind: &CookieKind| matches!(kind.place, CookiePlace::Domain(_));
    if kinds.iter().any(is_shared) {
        let is_tossed = kinds.iter().any(|kind| is_shared(kind) && count(line, kind) > 1);
        kinds.retain(|kind| is_shared(kind) || is_tossed || count(line, kind) > 0);
    }
    kinds
}

fn count(line: &str, kind: &CookieKind) -> usize {
    line.split(';').filter(|pair| pair.trim().split('=').next() == Some(kind.name)).count()
}

/// The distinct values of `kind` in a `Cookie` line, in their order. More than [`MAX_COOKIES`] are none: another host
/// floods.
#[must_use]
pub fn values<'a>(line: &'a str, kind: &CookieKind) -> Vec<&'a str> {
    let mut values: Vec<&str> = Vec::new();
    for pair in line.split(';') {
        let Some((name, value)) = pair.trim().split_once('=') else { continue };
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        if name == kind.name && !values.contains(&value) {
            values.push(value);
        }
    }
    if values.len() > MAX_COOKIES { Vec::new() } else { values }
}

/// Which of the good cookies of a request counts. `good` are those that a session was found for, each with its kind's
/// [`SetBy`]; `session` names the session of one. `None`: none is good, or two of the strongest kind are of different
/// sessions.
pub fn counting<T, S: PartialEq>(good: &[(SetBy, T)], session: impl Fn(&T) -> S) -> Option<&T> {
    let strongest = good.iter().map(|(set_by, _)| *set_by).max()?;
    let mut counting = good.iter().filter(|(set_by, _)| *set_by == strongest).map(|(_, cookie)| cookie);
    let first = counting.next()?;
    let name = session(first);
    counting.all(|other| session(other) == name).then_some(first)
}

/// `Set-Cookie` for the value of a session cookie; an empty value and a `max_age` of zero make the browser forget it.
/// `max_age`, in seconds: `None` until the browser is closed.
///
/// # Errors
/// The value cannot stand in a header field. The values that we make always can.
pub fn set(
    settings: &BrowserSettings,
    kind: &CookieKind,
    value: &SecretString,
    max_age: Option<u64>,
) -> Result<SetCookie, InvalidSetCookie> {
    let mut line = format!("{}={}; Path=/", kind.name, value.expose_secret());
    if let CookiePlace::Domain(domain) = &kind.place {
        line.push_str(&format!("; Domain={domain}"));
    }
    if let Some(max_age) = max_age {
        line.push_str(&format!("; Max-Age={max_age}"));
    }
    // Over `http` browsers refuse a cookie that is `Secure`.
    if settings.is_secure() {
        line.push_str("; Secure");
    }
    line.push_str("; HttpOnly; SameSite=Lax");
    SetCookie::new(line)
}

/// `Set-Cookie` for each session cookie that `host` can have, so that the browser forgets it.
#[must_use]
pub fn forget(settings: &BrowserSettings, host: &str) -> Vec<SetCookie> {
    let empty = SecretString::from("");
    kinds(settings, host).iter().filter_map(|kind| set(settings, kind, &empty, Some(0)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::browser::{NamedOrigin, SessionUse};
    use super::*;

    fn settings(public: &str, domain: Option<&str>) -> BrowserSettings {
        BrowserSettings {
            enabled: true,
            public: NamedOrigin::parse(public).unwrap(),
            hosts: vec![],
            domain: domain.map(str::to_owned),
            idle: Duration::from_secs(60),
            absolute: Duration::from_secs(60),
            remember: None,
            return_to: vec![],
            uses: SessionUse::Every,
            insecure_http: false,
        }
    }

    fn names(settings: &BrowserSettings, host: &str) -> Vec<&'static str> {
        kinds(settings, host).into_iter().map(|kind| kind.name).collect()
    }

    #[test]
    fn a_host_has_the_cookies_that_its_settings_say() {
        let alone = settings("https://auth.test", None);
        assert_eq!(names(&alone, "app.test"), ["__Host-palisade"]);
        let shared = settings("https://auth.a.test", Some("a.test"));
        for host in ["a.test", "auth.a.test", "app.a.test"] {
            assert_eq!(names(&shared, host), ["__Host-palisade", "__Secure-palisade"], "{host}");
            assert_eq!(kinds(&shared, host)[1].place, CookiePlace::Domain("a.test".into()));
        }
        for host in ["evila.test", "test", "other.test", "a.test.evil"] {
            assert_eq!(names(&shared, host), ["__Host-palisade"], "{host}");
        }
        assert_eq!(names(&settings("http://localhost:8080", None), "localhost"), ["palisade"]);
    }

    #[test]
    fn no_place_in_the_field_decides() {
        let kinds = kinds(&settings("https://auth.a.test", Some("a.test")), "app.a.test");
        let line = "x=1; __Secure-palisade=evil; __Host-palisade=good;__Secure-palisade=\"evil\"; palisade=p; \
                    __Secure-palisade=mine; __secure-palisade=z; __Secure-palisadex=y";
        assert_eq!(values(line, &kinds[0]), ["good"]);
        assert_eq!(values(line, &kinds[1]), ["evil", "mine"]);
        let flood: Vec<String> = (0..5).map(|at| format!("__Secure-palisade={at}")).collect();
        assert!(values(&flood.join("; "), &kinds[1]).is_empty());
        assert_eq!(values(&flood[..4].join("; "), &kinds[1]).len(), 4);
    }

    #[test]
    fn two_of_different_sessions_count_as_none_and_the_hosts_own_wins() {
        use SetBy::{Any, ThisHost};
        let counts = |good: &[(SetBy, u8)]| counting(good, |session| *session).copied();
        assert_eq!(counts(&[]), None);
        assert_eq!(counts(&[(Any, 1)]), Some(1));
        assert_eq!(counts(&[(Any, 1), (Any, 1)]), Some(1));
        assert_eq!(counts(&[(Any, 1), (Any, 2)]), None);
        assert_eq!(counts(&[(Any, 1), (Any, 2), (ThisHost, 3)]), Some(3));
        assert_eq!(counts(&[(ThisHost, 3), (Any, 1)]), Some(3));
        assert_eq!(counts(&[(ThisHost, 3), (ThisHost, 4), (Any, 1)]), None);
    }

    #[test]
    fn a_tossed_cookie_keeps_no_person_out() {
        let shared = settings("https://auth.a.test", Some("a.test"));
        let set = |host: &str, line: &str| -> Vec<&str> {
            to_set(&shared, host, line).into_iter().map(|kind| kind.name).collect()
        };
        let (secure, both) = (["__Secure-palisade"], ["__Host-palisade", "__Secure-palisade"]);
        assert_eq!(set("auth.a.test", ""), secure);
        assert_eq!(set("auth.a.test", "__Secure-palisade=old"), secure);
        assert_eq!(set("auth.a.test", "__Secure-palisade=evil; __Secure-palisade=mine"), both);
        // The same value twice is no accident either: the one for another path stays when ours is replaced.
        assert_eq!(set("auth.a.test", "__Secure-palisade=x; __Secure-palisade=x"), both);
        assert_eq!(set("auth.a.test", "__Host-palisade=old"), both, "or the former session would win");
        assert_eq!(set("app.a.test", ""), ["__Host-palisade"]);
        assert_eq!(set("app.a.test", "__Secure-palisade=evil"), ["__Host-palisade"]);
        let alone = settings("https://auth.test", None);
        assert_eq!(to_set(&alone, "auth.test", "")[0].name, "__Host-palisade");
        let local = settings("http://localhost:8080", None);
        let kinds = to_set(&local, "app.localhost", "");
        assert_eq!(kinds[0].place, CookiePlace::Host("app.localhost".into()));
    }

    #[test]
    fn a_cookie_is_set_as_its_name_asks() {
        let line = |settings: &BrowserSettings, at: usize, max_age| {
            let kind = &kinds(settings, "app.a.test")[at];
            set(settings, kind, &"v".into(), max_age).unwrap().expose().to_owned()
        };
        let shared = settings("https://auth.a.test", Some("a.test"));
        assert_eq!(line(&shared, 0, None), "__Host-palisade=v; Path=/; Secure; HttpOnly; SameSite=Lax");
        assert_eq!(
            line(&shared, 1, Some(60)),
            "__Secure-palisade=v; Path=/; Domain=a.test; Max-Age=60; Secure; HttpOnly; SameSite=Lax"
        );
        let local = settings("http://localhost:8080", None);
        assert_eq!(line(&local, 0, None), "palisade=v; Path=/; HttpOnly; SameSite=Lax");
        let forgotten = forget(&shared, "app.a.test");
        assert_eq!(forgotten.len(), 2);
        assert!(forgotten.iter().all(|cookie| cookie.expose().contains("=; Path=/")));
        assert!(forgotten.iter().all(|cookie| cookie.expose().contains("Max-Age=0")));
    }
}

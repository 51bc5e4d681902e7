//! The cookies of an app that name its own session (`app_cookies` of a route), and whose they are.
//!
//! An app keeps its own session in a cookie, and knows nothing of ours: after a sign-out the next person at that browser
//! would be the previous one there. So an app gets such a cookie back only under the session in which it was set. The
//! browser keeps the proof beside it, in a mark cookie of ours for each name: MACs of the server key over the owner, the
//! host, the name and the value. Nothing depends on whether the browser forgets what it is told to forget, or on what
//! another host of the same domain planted (cookie tossing): a cookie whose mark does not fit its value and the present
//! owner is not forwarded. A cookie that script of the app sets itself has no mark, so it is not one to list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use super::credential::{APP_MARK_COOKIE, HOST_PREFIX};
use super::identity::Identity;
use super::opaque::ServerKey;
use super::redirect::{InvalidSetCookie, SetCookie};

const PURPOSE: &str = "app cookie";
/// The bytes of a mark.
const MARK: usize = 12;
/// How many values of one name are remembered: apps at several paths of a host may use the same name.
const MOST: usize = 4;
/// How long a browser keeps a mark, in seconds: as long as it keeps any cookie (RFC 6265bis §5.6.1).
const MAX_AGE: u64 = 400 * 24 * 3600;

/// Who an app's cookie belongs to: a session, or a subject without one. Empty for an anonymous caller.
#[must_use]
pub fn owner(identity: Option<&Identity>) -> String {
    identity.map_or_else(String::new, |identity| {
        let (kind, name) = match &identity.session {
            Some(session) => ("sid", session),
            None => ("sub", &identity.subject),
        };
        format!("{kind}\n{}\n{name}", identity.issuer)
    })
}

/// The marks of one host for one owner.
#[derive(Clone, Copy)]
pub struct Marks<'a> {
    pub key: &'a ServerKey,
    /// [`owner`].
    pub owner: &'a str,
    /// As [`super::request::Host::name`] gives it.
    pub host: &'a str,
    /// Whether the host is reached over TLS, so that no other host can plant a mark.
    pub is_secure: bool,
}

/// What becomes of the `Cookie` line of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sorted {
    /// What is forwarded of it.
    pub line: String,
    /// For each listed cookie that is forwarded: its name and its mark.
    pub good: Vec<(String, String)>,
    /// The listed names of which a cookie came that is not the present owner's.
    pub stale: Vec<String>,
}

impl Marks<'_> {
    /// The name of the cookie that holds the marks of `name`.
    #[must_use]
    pub fn cookie_name(&self, name: &str) -> String {
        format!("{}{APP_MARK_COOKIE}{name}", if self.is_secure { HOST_PREFIX } else { "" })
    }

    /// Sorts the cookies of `line`, the whole `Cookie` field as the browser sent it. `names` are listed.
    #[must_use]
    pub fn sort(&self, line: &str, names: &[String]) -> Sorted {
        let mut sorted = Sorted::default();
        let pairs = || line.split(';').map(str::trim).filter(|pair| !pair.is_empty());
        let mut kept: Vec<&str> = Vec::new();
        for pair in pairs() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // As apps read it: some trim a name.
            let name = name.trim();
            if !names.iter().any(|listed| listed == name) {
                kept.push(pair);
                continue;
            }
            let prefix = format!("{}=", self.cookie_name(name));
            let marks = pairs().filter_map(|pair| pair.strip_prefix(prefix.as_str()));
            let mut marks = marks.flat_map(|marks| marks.split('.').take(MOST));
            match marks.find(|mark| self.fits(name, value, mark)) {
                Some(mark) => {
                    kept.push(pair);
                    sorted.good.push((name.to_owned(), mark.to_owned()));
                }
                None if sorted.stale.iter().any(|stale| stale == name) => {}
                None => sorted.stale.push(name.to_owned()),
            }
        }
        sorted.line = kept.join("; ");
        sorted
    }

    /// The line that sets the mark of a cookie which the app set to `value`, beside those in `good` of the same name.
    ///
    /// # Errors
    /// The name cannot stand in one.
    pub fn set(
        &self,
        name: &str,
        value: &str,
        good: &[(String, String)],
    ) -> Result<SetCookie, InvalidSetCookie> {
        let mut marks = vec![URL_SAFE_NO_PAD.encode(self.mark(name, value))];
        for (_, mark) in good.iter().filter(|(of, _)| of == name) {
            if !marks.contains(mark) && marks.len() < MOST {
                marks.push(mark.clone());
            }
        }
        let secure = if self.is_secure { "; Secure" } else { "" };
        SetCookie::new(format!(
            "{}={}; Path=/; Max-Age={MAX_AGE}; HttpOnly; SameSite=Lax{secure}",
            self.cookie_name(name),
            marks.join("."),
        ))
    }

    fn parts<'a>(&'a self, lengths: &'a [u8], name: &'a str, value: &'a str) -> [&'a [u8]; 5] {
        [lengths, self.owner.as_bytes(), self.host.as_bytes(), name.as_bytes(), value.as_bytes()]
    }

    fn mark(&self, name: &str, value: &str) -> [u8; MARK] {
        let lengths = self.lengths(name);
        let mac = self.key.mac(PURPOSE, &self.parts(&lengths, name, value));
        let mut mark = [0; MARK];
        mark.copy_from_slice(&mac[..MARK]);
        mark
    }

    /// Whether `mark` was made of this by any key of the ring.
    fn fits(&self, name: &str, value: &str, mark: &str) -> bool {
        let Ok(mark) = URL_SAFE_NO_PAD.decode(mark) else { return false };
        let lengths = self.lengths(name);
        let parts = self.parts(&lengths, name, value);
        self.key.keys().any(|key| bool::from(self.key.mac_by(key, PURPOSE, &parts)[..MARK].ct_eq(&mark)))
    }

    /// The lengths of all parts but the last, so that no two inputs of the MAC run into one another.
    fn lengths(&self, name: &str) -> Vec<u8> {
        let lengths = [self.owner, self.host, name].map(|part| (part.len() as u64).to_be_bytes());
        lengths.concat()
    }
}

/// The lines that make a browser on `host` forget an app's cookie: of the host alone, and of the host as a domain, at the
/// path `/`. One that the app set for another path or for a domain above stays in the browser, and is not forwarded.
#[must_use]
pub fn expired(name: &str, host: &str, is_secure: bool) -> Vec<SetCookie> {
    let of_domain =
        !name.get(..HOST_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(HOST_PREFIX));
    let domains = [None, Some(host).filter(|_| of_domain)];
    let lines = domains.into_iter().take(1 + usize::from(of_domain));
    lines.filter_map(|domain| SetCookie::expired(name, is_secure, domain).ok()).collect()
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::time::UnixTime;
    use super::*;

    fn key(byte: u8) -> ServerKey {
        ServerKey::new(Zeroizing::new([byte; 32]))
    }

    fn marks<'a>(key: &'a ServerKey, owner: &'a str, host: &'a str) -> Marks<'a> {
        Marks { key, owner, host, is_secure: true }
    }

    /// `name=value` of what sets a mark.
    fn pair(marks: &Marks<'_>, name: &str, value: &str, good: &[(String, String)]) -> String {
        let line = marks.set(name, value, good).unwrap();
        line.expose().split(';').next().unwrap().to_owned()
    }

    fn names() -> Vec<String> {
        vec!["sid".to_owned(), "csrf".to_owned()]
    }

    #[test]
    fn a_cookie_goes_to_the_app_only_with_a_mark_of_its_value_and_of_the_present_owner() {
        let (one, two) = (key(1), key(2));
        let ann = marks(&one, "ann", "a.test");
        let mark = pair(&ann, "sid", "1", &[]);
        let sort = |marks: &Marks<'_>, line: &str| marks.sort(line, &names());
        let good = sort(&ann, &format!("x=1; sid=1; {mark}; y=2"));
        assert_eq!(
            good.line,
            format!("x=1; sid=1; {mark}; y=2"),
            "the mark is taken out with what else is ours"
        );
        assert_eq!((good.good.len(), good.stale.len()), (1, 0));
        let stale = |marks: &Marks<'_>, line: &str| {
            let sorted = sort(marks, line);
            let names = |line: &str| line.split("; ").map(str::to_owned).collect::<Vec<_>>();
            assert!(!names(&sorted.line).iter().any(|pair| pair.starts_with("sid")), "{line}");
            assert!(sorted.good.is_empty() && sorted.stale == ["sid"], "{line}");
        };
        stale(&ann, "x=1; sid=1");
        stale(&ann, &format!("sid=2; {mark}"));
        stale(&ann, &format!("sid=1x; {mark}"));
        stale(&ann, &format!("sid; {mark}"));
        stale(&ann, &format!("sid =2; {mark}"));
        stale(&ann, "sid=1; __Host-palisade-app-sid=");
        stale(&ann, "sid=1; __Host-palisade-app-sid=AAAA.!.");
        // Of another name, or without what only this host can set.
        stale(&ann, &format!("sid=1; {}", mark.replace("app-sid", "app-csrf")));
        stale(&ann, &format!("sid=1; {}", mark.replace("__Host-", "")));
        stale(&marks(&one, "bob", "a.test"), &format!("sid=1; {mark}"));
        stale(&marks(&one, "", "a.test"), &format!("sid=1; {mark}"));
        stale(&marks(&one, "ann", "b.test"), &format!("sid=1; {mark}"));
        stale(&marks(&one, "anna", ".test"), &format!("sid=1; {mark}"));
        stale(&marks(&two, "ann", "a.test"), &format!("sid=1; {mark}"));
        let ring = ServerKey::ring(Zeroizing::new([2; 32]), vec![Zeroizing::new([1; 32])]);
        assert_eq!(sort(&marks(&ring, "ann", "a.test"), &format!("sid=1; {mark}")).good.len(), 1);
    }

    #[test]
    fn of_two_cookies_of_one_name_each_needs_its_own_mark() {
        let key = key(1);
        let ann = marks(&key, "ann", "a.test");
        let first = ann.sort(&format!("sid=1; {}", pair(&ann, "sid", "1", &[])), &names());
        let both = pair(&ann, "sid", "2", &first.good);
        let sorted = ann.sort(&format!("sid=1; sid=2; sid=3; {both}"), &names());
        assert!(sorted.line.starts_with("sid=1; sid=2; __Host-palisade-app-sid="), "{}", sorted.line);
        assert_eq!((sorted.good.len(), sorted.stale), (2, vec!["sid".to_owned()]));
        // It does not grow for ever.
        let mut good = sorted.good;
        for value in 3..20 {
            let mark = pair(&ann, "sid", &value.to_string(), &good);
            good = ann.sort(&format!("sid={value}; sid={}; {mark}", value - 1), &names()).good;
            assert!(mark.len() < 110, "{mark}");
        }
        assert_eq!(good.len(), 2);
    }

    #[test]
    fn the_owner_is_the_session_before_the_subject() {
        let identity = |subject: &str, session: Option<&str>| Identity {
            issuer: "https://i.test".into(),
            subject: subject.into(),
            email: None,
            email_verified: false,
            session: session.map(str::to_owned),
            token_id: None,
            version: None,
            scopes: Vec::new(),
            issued_at: UnixTime(1),
            expires_at: UnixTime(2),
            claims: serde_json::Map::new(),
        };
        let of = |subject: &str, session: Option<&str>| owner(Some(&identity(subject, session)));
        assert_eq!(of("ann", Some("1")), of("ann", Some("1")));
        let all = [of("ann", Some("1")), of("ann", Some("2")), of("ann", None), of("1", None), owner(None)];
        for (at, one) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|other| other != one), "{one}");
        }
    }

    #[test]
    fn it_is_forgotten_for_the_host_and_for_the_host_as_a_domain() {
        let lines = |name: &str, is_secure| -> Vec<String> {
            expired(name, "a.test", is_secure).iter().map(|line| line.expose().to_owned()).collect()
        };
        assert_eq!(
            lines("sid", false),
            [
                "sid=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax",
                "sid=; Path=/; Domain=a.test; Max-Age=0; HttpOnly; SameSite=Lax",
            ]
        );
        assert_eq!(
            lines("__Host-sid", false),
            ["__Host-sid=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax; Secure"]
        );
    }
}

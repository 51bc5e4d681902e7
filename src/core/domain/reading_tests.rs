//! The refusal of ambiguous paths, held against a model of its own: each thing that a server does to a path is
//! one plain function here, and they are applied in every order until nothing new comes of it. Whatever a
//! chain of them makes of an admitted path must belong to a route with the same policy and hold no dot segment.

use std::collections::HashSet;

use super::pattern::{HostPattern, PathPattern};
use super::request::{Headers, Host, Path, Request};
use super::route::{Allow, Auth, Carriers, Policy, Require, Route};
use super::table::Table;

struct NoHeaders;
impl Headers for NoHeaders {
    fn each<'a>(&'a self, _: &str, _: &mut dyn FnMut(&'a [u8])) {}
}

/// Prefixes as the servers know them, and whether they are closed.
const SERVED: [(&str, bool); 5] =
    [("/", false), ("/admin", true), ("/api", true), ("/api/open", false), ("/public/x/deep", true)];

fn table() -> Table {
    let route = |(index, (prefix, closed)): (usize, (&str, bool))| Route {
        name: prefix.into(),
        index,
        upstreams: Vec::new(),
        hosts: vec![HostPattern::Every],
        paths: vec![PathPattern::parse(prefix).unwrap()],
        networks: Vec::new(),
        public: Vec::new(),
        methods: vec![],
        policy: Policy {
            auth: if closed { Auth::Required } else { Auth::None },
            require: Require::default(),
            carriers: Carriers::default(),
            issuers: vec![],
        },
        allow: Allow { encoded_slash: true, empty_segment: true },
        after_expiry: std::time::Duration::ZERO,
        cors: None,
        browser: Default::default(),
    };
    Table::new(SERVED.into_iter().enumerate().map(route).collect())
}

/// What the gateway decides: `None` when it refuses the path, else whether the route is closed.
fn decided(table: &Table, path: &str) -> Option<(String, bool)> {
    let path = Path::parse(path.as_bytes()).ok()?;
    let forwarded = path.as_str().to_owned();
    let host = Host::parse(b"a.test").unwrap();
    let request = Request {
        method: "GET",
        host,
        path,
        query: None,
        websocket: false,
        is_peer_trusted: false,
        client: None,
        headers: &NoHeaders,
    };
    table.find(&request).ok().map(|found| (forwarded, found.entry.policy.auth == Auth::Required))
}

mod server {
    //! What servers do to a path.

    pub fn decode(path: &[u8], keep: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < path.len() {
            let digits = path.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
            let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            match byte.filter(|byte| path[at] == b'%' && !keep.contains(byte)) {
                Some(byte) => {
                    decoded.push(byte);
                    at += 3;
                }
                None => {
                    decoded.push(path[at]);
                    at += 1;
                }
            }
        }
        decoded
    }

    pub fn drop_parameters(path: &[u8], ends: &[u8]) -> Vec<u8> {
        let mut kept = Vec::new();
        let mut dropping = false;
        for byte in path {
            dropping = (dropping && !ends.contains(byte)) || *byte == b';';
            if !dropping {
                kept.push(*byte);
            }
        }
        kept
    }

    pub fn cut(path: &[u8], at: u8) -> Vec<u8> {
        path.split(|byte| *byte == at).next().unwrap_or_default().to_vec()
    }

    pub fn fold_backslash(path: &[u8]) -> Vec<u8> {
        path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
    }

    pub fn collapse(path: &[u8]) -> Vec<u8> {
        let mut kept: Vec<u8> = Vec::new();
        for byte in path {
            if *byte != b'/' || kept.last() != Some(&b'/') {
                kept.push(*byte);
            }
        }
        kept
    }

    /// `//name/path`, taken for a reference to another host.
    pub fn without_host(path: &[u8]) -> Vec<u8> {
        match path {
            [b'/', b'/', rest @ ..] => match rest.iter().position(|byte| *byte == b'/') {
                Some(at) => rest[at..].to_vec(),
                None => b"/".to_vec(),
            },
            _ => path.to_vec(),
        }
    }

    pub fn without_controls(path: &[u8]) -> Vec<u8> {
        path.iter().copied().filter(|byte| !byte.is_ascii_control()).collect()
    }

    /// UTF-8 in two bytes where one would do.
    pub fn shorten(path: &[u8]) -> Vec<u8> {
        let mut short = Vec::new();
        let mut rest = path;
        loop {
            match rest {
                [high @ 0xc0..=0xc1, low @ 0x80..=0xbf, tail @ ..] => {
                    short.push((high & 1) << 6 | (low & 0x3f));
                    rest = tail;
                }
                [byte, tail @ ..] => {
                    short.push(*byte);
                    rest = tail;
                }
                [] => return short,
            }
        }
    }

    /// As Windows names files.
    pub fn without_trailing_dots(path: &[u8]) -> Vec<u8> {
        let segments = path.split(|byte| *byte == b'/').map(|segment| {
            let end = segment.iter().rposition(|byte| !matches!(byte, b'.' | b' '));
            if segment.iter().all(|byte| *byte == b'.') {
                segment
            } else {
                &segment[..end.map_or(0, |at| at + 1)]
            }
        });
        segments.collect::<Vec<_>>().join(&b'/')
    }

    pub fn all(path: &[u8]) -> Vec<Vec<u8>> {
        vec![
            decode(path, b""),
            decode(path, b"/"),
            decode(path, b"/\\;#?%"),
            drop_parameters(path, b"/"),
            drop_parameters(path, b"/\\"),
            cut(path, b';'),
            cut(path, b'#'),
            cut(path, b'?'),
            cut(path, 0),
            path.to_ascii_lowercase(),
            fold_backslash(path),
            collapse(path),
            without_host(path),
            without_controls(path),
            shorten(path),
            without_trailing_dots(path),
        ]
    }

    pub fn climbs(path: &[u8]) -> bool {
        path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
    }

    pub fn is_closed(path: &[u8]) -> bool {
        let below = |prefix: &str| {
            let rest = path.strip_prefix(prefix.as_bytes());
            prefix == "/" || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        super::SERVED
            .iter()
            .filter(|(prefix, _)| below(prefix))
            .max_by_key(|(prefix, _)| prefix.len())
            .unwrap()
            .1
    }
}

/// The first text that some chain of servers makes of `path` and that is not what `closed` says.
fn contradiction(path: &str, closed: bool) -> Option<String> {
    let mut seen: HashSet<Vec<u8>> = HashSet::from([path.as_bytes().to_vec()]);
    let mut waiting: Vec<Vec<u8>> = seen.iter().cloned().collect();
    while let Some(text) = waiting.pop() {
        if server::climbs(&text) || server::is_closed(&text) != closed {
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        for next in server::all(&text) {
            if seen.insert(next.clone()) {
                waiting.push(next);
            }
        }
    }
    None
}

/// Marsaglia's xorshift: the same paths in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

const PIECES: &str = "/ / / / / admin admin ADMIN api Api open OPEN public x deep .. .. . %2e ; ; ;a=b %3B %253b \
    %2F %2f %252F %255C %255c %23 %2523 %3F %253f %2500 %2509 %252e %25252e %2561dmin %C0%AE \
    %C0%AF %C1%A1 %20 %25 %25%32%65 + a";

#[test]
fn no_order_of_what_servers_do_leads_to_another_policy() {
    let (table, mut dice) = (table(), Dice(0x9e37_79b9_7f4a_7c15));
    let words: Vec<&str> = PIECES.split(' ').collect();
    let (mut admitted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let pieces = 1 + dice.below(8);
        let path: String =
            std::iter::once("/").chain((0..pieces).map(|_| words[dice.below(words.len())])).collect();
        match decided(&table, &path) {
            None => refused += 1,
            Some((forwarded, closed)) => {
                admitted += 1;
                let found = contradiction(&forwarded, closed);
                assert_eq!(found, None, "{path} is admitted as {forwarded} (closed: {closed})");
            }
        }
    }
    assert!(admitted > 2_000 && refused > 2_000, "{admitted} admitted, {refused} refused");
}

#[test]
fn paths_that_were_bypasses_are_refused() {
    let table = table();
    for path in [
        "/public/%23/..;/..;/admin/secret",
        "/public/%3f/..;/..;/admin/secret",
        "/public/%2523/..;/..;/admin/secret",
        "/public/%2500/..;/..;/admin/secret",
        "/%3B%255C.+%252fadmin;",
        "/api;x/OPEN",
        "//evil/admin",
        "/%2Fevil%2Fadmin",
        "/admin.",
        "/admin%20/x",
        "/admin%2520",
        "/admin;/x",
        "/admin%253Fx",
        "/.%2509./admin",
    ] {
        assert_eq!(decided(&table, path), None, "{path}");
    }
}

#[test]
fn honest_names_are_admitted() {
    let table = table();
    for (path, closed) in [
        ("/docs/C%23/intro", false),
        ("/a;v=1/b", false),
        ("/why%3F/because", false),
        ("/C%23/..x/...", false),
        ("/100%25", false),
        ("/a%2520b", false),
        ("/Readme.MD", false),
        ("/proxy/https%3A%2F%2Fa.test%2Fpath%3Fq%23f", false),
        ("/@scope%2Fname", false),
        ("/a//b", false),
        ("/caf%C3%A9/%E3%81%82", false),
        ("/admin/C%23/A;v=1//b%2Fc", true),
        ("/api/open/A%3Fb;c", false),
        ("/api/users/;jsessionid=0", true),
        ("/public/A;jsessionid=0", false),
    ] {
        assert_eq!(decided(&table, path).map(|(_, closed)| closed), Some(closed), "{path}");
    }
}

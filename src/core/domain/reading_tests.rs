//! The refusal of ambiguous paths, held against a model of its own: each thing that a server does to a path is
//! one plain function here, and they are applied in every order until nothing new comes of it. Whatever a
//! chain of them makes of an admitted path must belong to a route with the same policy and hold no dot segment.

use std::collections::HashSet;

use super::fixtures::{self, Dice, request};
use super::pattern::PathPattern;
use super::request::{Path, Request};
use super::route::{Allow, Auth, Public, Route};
use super::table::Table;

/// Patterns as the servers know them, wider ones first, and whether they are closed.
type Served = [(&'static str, bool)];

const PREFIXES: &Served =
    &[("/", false), ("/admin", true), ("/api", true), ("/api/open", false), ("/public/x/deep", true)];

const PATTERNS: &Served = &[
    ("/", false),
    ("/*.cfg", true),
    ("/p/*/hooks", true),
    ("/api", true),
    ("/api/*/open", false),
    ("/api/x*", false),
    ("/api/x*/open", true),
    ("=/ping", true),
    ("=/dir/", true),
    ("=/api/*.js", false),
    ("=/api/x*.js", true),
    ("=/", true),
];

/// What a closed route with the path `/` opens.
const PUBLIC: &Served =
    &[("/", true), ("/*.cfg", false), ("/p/*/hooks", false), ("=/ping", false), ("=/dir/", false)];

fn route(index: usize, pattern: &str, closed: bool) -> Route {
    let allow = Allow { encoded_slash: true, empty_segment: true };
    let auth = if closed { Auth::Required } else { Auth::None };
    Route { index, allow, ..fixtures::route(pattern, auth) }
}

fn table(served: &Served) -> Table {
    let routes = served.iter().enumerate();
    Table::new(routes.map(|(index, (pattern, closed))| route(index, pattern, *closed)).collect())
}

fn public_table() -> Table {
    let mut route = route(0, "/", true);
    let open = PUBLIC.iter().filter(|(_, closed)| !closed);
    route.public = open.map(|(path, _)| Public::to_read(PathPattern::parse(path).unwrap())).collect();
    Table::new(vec![route])
}

/// What the gateway decides: `None` when it refuses the path, else whether it asks for a token.
fn decided(table: &Table, path: &str) -> Option<(String, bool)> {
    let path = Path::parse(path.as_bytes()).ok()?;
    let forwarded = path.as_str().to_owned();
    let request = Request { path, ..request("a.test", "GET", "/") };
    table
        .find(&request)
        .ok()
        .map(|found| (forwarded, found.entry.policy.auth == Auth::Required && !found.is_open))
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

    /// Whether what is served at `path` is closed. To a lax server, a slash at the end of a path changes nothing.
    pub fn is_closed(path: &[u8], served: &super::Served, lax: bool) -> bool {
        let takes = |pattern: &str| {
            let (exact, pattern) =
                pattern.strip_prefix('=').map_or((false, pattern), |pattern| (true, pattern));
            let trimmed = |text: &[u8]| match text {
                [rest @ .., b'/'] if lax && !rest.is_empty() => rest.to_vec(),
                _ => text.to_vec(),
            };
            let (pattern, path) = match exact {
                true => (trimmed(pattern.as_bytes()), trimmed(path)),
                false => (pattern.as_bytes().to_vec(), path.to_vec()),
            };
            if pattern == b"/" && !exact {
                return true;
            }
            let pattern: Vec<&[u8]> = pattern.split(|byte| *byte == b'/').collect();
            let path: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            let is_long_enough =
                if exact { path.len() == pattern.len() } else { path.len() >= pattern.len() };
            is_long_enough && pattern.iter().zip(&path).all(|(pattern, name)| fits(pattern, name))
        };
        served.iter().rfind(|(pattern, _)| takes(pattern)).unwrap().1
    }

    fn fits(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.iter().position(|byte| *byte == b'*') {
            None => pattern == name,
            Some(star) => {
                let (before, after) = (&pattern[..star], &pattern[star + 1..]);
                !name.is_empty()
                    && name.len() >= before.len() + after.len()
                    && name.starts_with(before)
                    && name.ends_with(after)
            }
        }
    }
}

/// The first text that some chain of servers makes of `path` and that is not what `closed` says. Where a request for an
/// open one is admitted by what a closed one asks for (`public`), only the other way round counts.
fn contradiction(path: &str, closed: bool, served: &Served) -> Option<String> {
    let mut seen: HashSet<Vec<u8>> = HashSet::from([path.as_bytes().to_vec()]);
    let mut waiting: Vec<Vec<u8>> = seen.iter().cloned().collect();
    let is_harmless = std::ptr::eq(served, PUBLIC) && closed;
    while let Some(text) = waiting.pop() {
        let differs = |lax| server::is_closed(&text, served, lax) != closed && !is_harmless;
        if server::climbs(&text) || differs(false) || differs(true) {
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

const PIECES: &str = "/ / / / / admin admin ADMIN api Api open OPEN public x deep .. .. . %2e ; ; ;a=b %3B %253b \
    %2F %2f %252F %255C %255c %23 %2523 %3F %253f %2500 %2509 %252e %25252e %2561dmin %C0%AE \
    %C0%AF %C1%A1 %20 %25 %25%32%65 + a";

const WORDS: &str = "/ / / / / p p hooks hooks HOOKS api api Api open open x xy a.js x.js .js .JS a.cfg .cfg cfg ping PING \
    dir dir/ .. . %2e ; ;a=b %3B %253b %2F %252F %255C %23 %2523 %3F %253f %2500 %2509 %2561 %2570ing %2Ejs %252ejs \
    %C0%AE %C0%AF %C1%B0ing %20 %2520 %25 %C3%A9 + a";

/// How many of `count` generated paths are admitted and refused, each of which was held against what servers make of it.
fn hold(table: &Table, served: &Served, pieces: &str, count: usize) -> (usize, usize) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let words: Vec<&str> = pieces.split(' ').filter(|word| !word.is_empty()).collect();
    let (mut admitted, mut refused) = (0, 0);
    for _ in 0..count {
        let pieces = 1 + dice.below(8);
        let path: String =
            std::iter::once("/").chain((0..pieces).map(|_| words[dice.below(words.len())])).collect();
        match decided(table, &path) {
            None => refused += 1,
            Some((forwarded, closed)) => {
                admitted += 1;
                let found = contradiction(&forwarded, closed, served);
                assert_eq!(found, None, "{path} is admitted as {forwarded} (closed: {closed})");
            }
        }
    }
    (admitted, refused)
}

#[test]
fn no_order_of_what_servers_do_leads_to_another_policy() {
    let (admitted, refused) = hold(&table(PREFIXES), PREFIXES, PIECES, 20_000);
    assert!(admitted > 2_000 && refused > 2_000, "{admitted} admitted, {refused} refused");
}

#[test]
fn nor_does_it_with_wildcards_and_exact_patterns() {
    let (admitted, refused) = hold(&table(PATTERNS), PATTERNS, WORDS, 20_000);
    assert!(admitted > 1_000 && refused > 2_000, "{admitted} admitted, {refused} refused");
}

#[test]
fn nor_does_it_out_of_what_is_public() {
    let (admitted, refused) = hold(&public_table(), PUBLIC, WORDS, 20_000);
    assert!(admitted > 1_000 && refused > 2_000, "{admitted} admitted, {refused} refused");
}

#[test]
fn paths_that_were_bypasses_are_refused() {
    let table = table(PREFIXES);
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
    let table = table(PREFIXES);
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

#[test]
fn honest_names_are_admitted_below_wildcards_and_beside_exact_patterns() {
    let table = table(PATTERNS);
    for (path, closed) in [
        ("/p/caf%C3%A9/hooks", true),
        ("/p/caf%C3%A9/hooks/C%23;a", true),
        ("/p/A+b/hooks/x", true),
        ("/%E3%81%82.cfg", true),
        ("/api/caf%C3%A9/open", false),
        ("/api/B%21/open", false),
        ("/ping", true),
        ("/dir/", true),
        ("/api/B%20c.js", false),
        ("/api/x", false),
        ("/api/x/open", true),
        ("/Readme%20first", false),
        ("/pinger/C%23", false),
    ] {
        assert_eq!(decided(&table, path).map(|(_, closed)| closed), Some(closed), "{path}");
    }
    for path in [
        "/ping/",
        "/ping;x",
        "/ping.",
        "/dir",
        "/p/;x/hooks",
        "/p/a%2Fb/hooks",
        "/p/a;x/hooks",
        "/p/x/HOOKS",
        "/a.cfg;x",
        "/a.CFG",
        "/a%252ecfg",
        "/api/x.js/",
        "/api/a.js/",
        "/;x",
        "//x",
        "/API/x/OPEN",
    ] {
        assert_eq!(decided(&table, path), None, "{path}");
    }
}

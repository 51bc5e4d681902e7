//! Whatever stands beside good tokens in an answer, the tokens are read.

use palisade_provider::http::{Request, Response, SendError};
use palisade_provider::{Connection, Context, Host, Level, Tokens, oauth2};

struct Silent;

impl Host for Silent {
    fn send(&self, _: &Request) -> Result<Response, SendError> {
        Err(SendError::Timeout)
    }

    fn now(&self) -> u64 {
        1_767_225_600
    }

    fn log(&self, _: Level, message: &str) {
        assert!(!message.contains("access-2") && !message.contains("refresh-2"), "{message}");
    }
}

fn read(body: &[u8]) -> Tokens {
    let connection = Connection::default();
    let response = Response { status: 200, headers: Vec::new(), body: body.to_vec() };
    let cx = Context::new(&connection, &Silent);
    let tokens = oauth2::tokens(&cx, &oauth2::Settings::default(), &response, &["refresh-1"]);
    tokens.unwrap_or_else(|failure| panic!("{failure}: {}", String::from_utf8_lossy(body)))
}

/// A small generator (xorshift), so that the test is the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.below(from.len())]
    }

    /// A value, or what some server takes for one.
    fn value(&mut self, depth: usize) -> Vec<u8> {
        const VALUES: [&[u8]; 28] = [
            b"null",
            b"true",
            b"false",
            b"0",
            b"-0",
            b"3600",
            b"18446744073709551616",
            b"1e400",
            b"-1E+9999",
            b"0.1e-7",
            b"01",
            b"NaN",
            b"nul",
            b"'x'",
            b"\"\"",
            b"\"invalid_request\"",
            b"\"read write\"",
            b"\"a\\u0000b\"",
            b"\"a\nb\"",
            b"\"\\ud800\"",
            b"\"caf\xe9\"",
            b"\"\xf0\x9f\x92\xa9\"",
            b"\"}],\\\"\"",
            b"\"2026-01-01T00:00:00Z\"",
            b"[]",
            b"{}",
            b"[\"a\",1,null]",
            b"\"User Access Token\"",
        ];
        match self.below(if depth == 0 { 1 } else { 4 }) {
            0 | 1 => self.pick(&VALUES).to_vec(),
            2 => {
                let items: Vec<_> = (0..self.below(4)).map(|_| self.value(depth - 1)).collect();
                [b"[", &*items.join(&b","[..]), b"]"].concat()
            }
            _ => {
                let members: Vec<_> = (0..self.below(4))
                    .map(|n| [format!("\"m{n}\": ").as_bytes(), &self.value(depth - 1)].concat())
                    .collect();
                [b"{", &*members.join(&b","[..]), b"}"].concat()
            }
        }
    }
}

#[test]
fn whatever_stands_beside_good_tokens_the_tokens_are_read() {
    const NAMES: [&[u8]; 16] = [
        b"expires_in",
        b"expires_at",
        b"expires_on",
        b"refresh_expires_in",
        b"refresh_token_expires_at",
        b"scope",
        b"id_token",
        b"token_type",
        b"error",
        b"error_description",
        b"message",
        b"user",
        b"na\\u006de",
        b"\xff",
        b"",
        b"a.b",
    ];
    let mut random = Random(8);
    for _ in 0..20_000 {
        let mut members: Vec<Vec<u8>> = (0..random.below(6))
            .map(|_| {
                let name = random.pick(&NAMES);
                [b"\"", name, b"\": ", &*random.value(3)].concat()
            })
            .collect();
        for token in [&br#""access_token":"access-2""#[..], br#""refresh_token" : "refresh-2""#] {
            let place = random.below(members.len() + 1);
            members.insert(place, token.to_vec());
        }
        let mut body = [b"\n{ ", &*members.join(&b" ,\t"[..]), b" }"].concat();
        if random.below(4) == 0 {
            body.extend_from_slice(b"\n<!-- served by web-7 -->");
        }
        let tokens = read(&body);
        let shown = String::from_utf8_lossy(&body);
        assert_eq!(tokens.access_token, "access-2", "{shown}");
        assert_eq!(tokens.refresh_token.as_deref(), Some("refresh-2"), "{shown}");
        assert!(tokens.expires_in != Some(0) && tokens.refresh_expires_in != Some(0), "{shown}");
    }
}

#[test]
fn what_there_is_too_much_of_is_cut_before_it_is_handed_over() {
    let scopes: Vec<String> = (0..200_000).map(|n| format!("s{n}")).collect();
    let body = format!(
        r#"{{"access_token":"access-2","scope":"{} {}","id_token":"{}","token_type":"{}"}}"#,
        "x".repeat(600),
        scopes.join(" "),
        "i".repeat(100_000),
        "t".repeat(100_000)
    );
    let tokens = read(body.as_bytes());
    let kept = tokens.scopes.unwrap();
    assert_eq!((kept.len(), kept[0].as_str(), kept[255].as_str()), (256, "s0", "s255"));
    assert_eq!((tokens.id_token, tokens.token_type), (None, None));
}

#[test]
fn what_may_be_cut_off_brings_nothing() {
    let connection = Connection::default();
    let cx = Context::new(&connection, &Silent);
    let body = br#"{"access_token":"access-2","refresh_token":"refresh-2","x":1e400"#.to_vec();
    let response = Response { status: 200, headers: Vec::new(), body };
    assert!(oauth2::tokens(&cx, &oauth2::Settings::default(), &response, &[]).is_err());
}

//! A plugin that does everything a plugin must not do, one misdeed at a time: `settings.mode` says which.
//!
//! `ok` is the one that behaves: it asks `settings.url` for tokens as any plugin would. `settings.auth`
//! says how the client is authenticated. The settings are read by eye and not as JSON: they come from
//! tests.

use std::hint::black_box;

wit_bindgen::generate!({
    path: ["../../wit", "wit"],
    world: "test:hostile/hostile",
    generate_all,
});

use exports::palisade::provider::plugin::{
    Account, Authorization, Connection, CurrentTokens, Description, Failure, Guest, Parameter, Pkce, Tokens,
};
use palisade::provider::http::{
    Assertion, BasicEncoding, ClientAuth, CredentialParameters, Method, Place, Request, Response, SendError,
    send,
};
use palisade::provider::log;

struct Hostile;

export!(Hostile);

/// The text of `"key":"…"` in `settings`.
fn setting<'a>(settings: &'a str, key: &str) -> &'a str {
    let start = format!("\"{key}\":\"");
    let Some(at) = settings.find(&start) else { return "" };
    let rest = &settings[at + start.len()..];
    &rest[..rest.find('"').unwrap_or(rest.len())]
}

fn request(settings: &str) -> Request {
    let post = |place| {
        ClientAuth::Post(CredentialParameters {
            id: Some("client_id".to_owned()),
            secret: "client_secret".to_owned(),
            place,
        })
    };
    let client_auth = match setting(settings, "auth") {
        "basic" => ClientAuth::Basic(BasicEncoding::Form),
        "post" => post(Place::Body),
        "query" => post(Place::Query),
        "jwt" => ClientAuth::PrivateKeyJwt(Assertion {
            algorithm: None,
            key_id: None,
            issuer: None,
            subject: None,
            audience: "aud".to_owned(),
            lifetime: 60,
            claims: "{}".to_owned(),
            parameter: None,
        }),
        _ => ClientAuth::None,
    };
    Request {
        method: Method::Post,
        url: setting(settings, "url").to_owned(),
        headers: vec![("accept".to_owned(), "application/json".to_owned())],
        body: Vec::new(),
        client_auth,
    }
}

/// What came of a request, for the test to read.
fn told(answer: Result<Response, SendError>) -> Result<Tokens, Failure> {
    match answer {
        Ok(response) => {
            let mut tokens = plain(&format!("token-{}", response.status));
            tokens.keep.push(("bytes".to_owned(), response.body.len().to_string()));
            Ok(tokens)
        }
        Err(SendError::Denied(why)) => Err(Failure::Misconfigured(format!("denied: {why}"))),
        Err(SendError::Timeout) => Err(transient("timeout")),
        Err(SendError::Unreachable(why)) => Err(transient(&format!("unreachable: {why}"))),
        Err(SendError::TooLarge) => Err(Failure::ProviderError("too large".to_owned())),
    }
}

fn transient(message: &str) -> Failure {
    Failure::Transient(palisade::provider::types::Transient {
        message: message.to_owned(),
        retry_after: Some(u64::MAX),
    })
}

fn plain(token: &str) -> Tokens {
    Tokens {
        access_token: token.to_owned(),
        token_type: None,
        expires_in: Some(3600),
        refresh_token: None,
        refresh_expires_in: None,
        scopes: None,
        id_token: None,
        keep: Vec::new(),
    }
}

/// Fills the stack that is in linear memory.
#[allow(unconditional_recursion)]
fn deeper(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    deeper(black_box(depth + 1)) + room[(depth % 64) as usize]
}

/// Fills the machine's own stack: nothing of it is in linear memory.
#[inline(never)]
fn down(n: u64) -> u64 {
    if n == u64::MAX { 0 } else { down(n + 1).wrapping_mul(n | 1).rotate_left(7) ^ n }
}

fn misbehave(settings: &str, current: &CurrentTokens) -> Result<Tokens, Failure> {
    match setting(settings, "mode") {
        "ok" => told(send(&request(settings))),
        "local" => Ok(plain("a-token")),
        "loop" => loop {
            black_box(());
        },
        "memory" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(black_box(vec![1; 16 << 20]));
            }
        }
        "trap" => std::arch::wasm32::unreachable(),
        "stack" => Ok(plain(&deeper(0).to_string())),
        "recursion" => Ok(plain(&down(setting(settings, "url").len() as u64).to_string())),
        "requests" => loop {
            if let Err(SendError::Denied(why)) = send(&request(settings)) {
                return Err(Failure::Misconfigured(format!("denied: {why}")));
            }
        },
        "headers" => {
            let mut request = request(settings);
            request.headers = (0..32_769).map(|n| (format!("x-{n}"), "1".to_owned())).collect();
            told(send(&request))
        }
        "host-header" => {
            let mut request = request(settings);
            request.headers.push(("Host".to_owned(), "internal.test".to_owned()));
            told(send(&request))
        }
        "split-header" => {
            let mut request = request(settings);
            request.headers.push(("x-a".to_owned(), "1\r\nx-b: 2".to_owned()));
            told(send(&request))
        }
        "big-body" => {
            let mut request = request(settings);
            request.body = vec![b'x'; (1 << 20) + 1];
            told(send(&request))
        }
        "log" => {
            for n in 0..100_000 {
                log::write(log::Level::Info, &format!("line {n}\nlooks like another line"));
            }
            Ok(plain("a-token"))
        }
        "stderr" => {
            let stream = wasi::cli::stderr::get_stderr();
            for _ in 0..100_000 {
                let _ = stream.blocking_write_and_flush(b"a line on standard error\n");
            }
            Ok(plain("a-token"))
        }
        "handles" => {
            let mut held = Vec::new();
            loop {
                held.push(wasi::clocks::monotonic_clock::subscribe_duration(u64::MAX));
            }
        }
        "sleep" => {
            wasi::clocks::monotonic_clock::subscribe_duration(u64::MAX / 2).block();
            Ok(plain("a-token"))
        }
        "exit" => {
            wasi::cli::exit::exit(Err(()));
            Ok(plain("a-token"))
        }
        "environment" => Ok(plain(&format!("{}-variables", wasi::cli::environment::get_environment().len()))),
        "big-token" => Ok(plain(&"x".repeat(25 << 20))),
        "long-token" => Ok(plain(&"x".repeat((64 << 10) + 1))),
        "empty-token" => Ok(plain("")),
        "control-token" => Ok(plain("a\r\nset-cookie: b")),
        "many-keep" => {
            let mut tokens = plain("a-token");
            tokens.keep = (0..1_000_000).map(|_| (String::new(), String::new())).collect();
            Ok(tokens)
        }
        "some-keep" => {
            let mut tokens = plain("a-token");
            tokens.keep = (0..65).map(|n| (n.to_string(), String::new())).collect();
            Ok(tokens)
        }
        "forever" => {
            let mut tokens = plain("a-token");
            tokens.expires_in = Some(u64::MAX);
            Ok(tokens)
        }
        "tell" => Err(Failure::ProviderError(format!(
            "it was {} and {}\nand more",
            current.access_token,
            current.refresh_token.as_deref().unwrap_or_default()
        ))),
        "gone" => Err(Failure::InvalidGrant("revoked".to_owned())),
        mode => Err(Failure::Misconfigured(format!("no such mode: {mode}"))),
    }
}

impl Guest for Hostile {
    fn describe(settings: String) -> Result<Description, Failure> {
        let mut display_name = "Hostile".to_owned();
        match setting(&settings, "describe") {
            "misconfigured" => return Err(Failure::Misconfigured("the setting url is missing".to_owned())),
            "loop" => loop {
                black_box(());
            },
            "http" => display_name = format!("{:?}", send(&request(&settings)).map(|response| response.status)),
            _ => {}
        }
        let pattern = match setting(&settings, "describe") {
            "pattern" => "[a-z".to_owned(),
            "huge-pattern" => "(a{1000}){1000}".to_owned(),
            _ => "[a-z]+|ab1".to_owned(),
        };
        Ok(Description {
            display_name,
            version: "0.0.1".to_owned(),
            docs: None,
            settings: Vec::new(),
            parameters: vec![Parameter {
                name: "shop".to_owned(),
                summary: "The shop's name".to_owned(),
                pattern,
                example: None,
                required: setting(&settings, "shop") == "required",
            }],
            scopes: vec!["read".to_owned()],
            hosts: vec!["unlisted.example".to_owned()],
            can_refresh: true,
            can_revoke: true,
            can_identify: true,
        })
    }

    fn authorize(connection: Connection, state: String, pkce: Pkce) -> Result<Authorization, Failure> {
        let url = setting(&connection.settings, "authorize");
        if url.is_empty() {
            return Ok(Authorization::Unattended);
        }
        let url = url.replace("STATE", &state).replace("CHALLENGE", &pkce.challenge);
        Ok(Authorization::Visit(url))
    }

    fn exchange(
        connection: Connection,
        callback: Vec<(String, String)>,
        pkce: Pkce,
    ) -> Result<Tokens, Failure> {
        let mut tokens = plain("a-token");
        let code = callback.iter().find(|(name, _)| name == "code").map_or("", |(_, value)| value);
        tokens.keep.push(("seen".to_owned(), format!("{code} {} {}", pkce.verifier, connection.redirect_uri)));
        Ok(tokens)
    }

    fn refresh(connection: Connection, current: CurrentTokens) -> Result<Tokens, Failure> {
        misbehave(&connection.settings, &current)
    }

    fn revoke(connection: Connection, current: CurrentTokens) -> Result<(), Failure> {
        misbehave(&connection.settings, &current).map(|_| ())
    }

    fn identity(connection: Connection, _: CurrentTokens) -> Result<Account, Failure> {
        let subject = match setting(&connection.settings, "mode") {
            "nobody" => String::new(),
            _ => "account-1".to_owned(),
        };
        Ok(Account { subject, email: None, email_verified: true, name: Some(connection.client_id) })
    }
}

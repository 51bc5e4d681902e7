//! Routes with `headers.access_token`: an app gets a token with which it can call other APIs as its user, and nothing that
//! says more than what came with the request.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use palisade::edge::jwt::SetVerifier;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::TokenFault;
use serde_json::{Value, json};

use crate::support::keys::{Key, jwks, now};
use crate::support::neighbours::{Scripted, mint, operate};
use crate::support::{Gateway, Upstream, body_of, field, route, status};

const PASSWORD: &str = "Correct horse 42";
const ORIGIN: &str = "Origin: http://localhost:8080\r\n";
const ISSUER: &str = "http://localhost:8080";
const THEIRS: &str = "https://i.test";
/// What a client writes where tokens for apps are sent, in every spelling.
const SPOOFED: &str = "X-Forwarded-Access-Token: spoofed\r\nx_forwarded_access_token: spoofed\r\n\
                       X-App-Token: spoofed\r\nX_App.Token: spoofed\r\n";

struct World {
    gateway: Gateway,
    app: Upstream,
    theirs: Key,
    user: String,
}

/// A route whose app gets a token in the field `name`.
fn with_token(name: &str, keys: &str) -> String {
    format!("headers = {{ access_token = \"{name}\"{keys} }}")
}

fn routes(app: &Upstream, audience: &str) -> String {
    let to = |name: &str, keys: &str| route(name, app.address, keys);
    let reports = format!(", audience = \"{audience}\"");
    [
        to("wiki", &with_token("Authorization", &reports)),
        to("mail", &with_token("X-Forwarded-Access-Token", "")),
        to("portal", &with_token("Authorization", ", audience = \"api\"")),
        to("maybe", &format!("auth = \"optional\"\n{}", with_token("Authorization", ""))),
        to(
            "judged",
            &format!(
                "authorization = \"app\"\nwithout_session = \"app\"\ntoken = {{ header = \"X-Gate\" }}\n{}",
                with_token("X-App-Token", "")
            ),
        ),
        to("api", ""),
        to("open", "auth = \"none\""),
        to("private", "require = { scopes = [\"admin\"] }"),
    ]
    .concat()
}

fn rest(app: &Upstream, theirs: &str, audience: &str) -> String {
    format!(
        "[passwords]\nbcrypt_cost = 4\n[[issuers]]\nissuer = \"{THEIRS}\"\njwks = \"file:{theirs}\"\naudiences = [\"api\"]\n\
         algorithms = [\"EdDSA\"]\n{}",
        routes(app, audience)
    )
}

impl World {
    async fn start() -> World {
        let app = Upstream::start().await;
        let theirs = Key::ed("theirs");
        let extra = rest(&app, "theirs.json", "reports");
        let gateway = Gateway::start_beside(&[("theirs.json", &jwks(&[&theirs]))], "", &extra).await;
        let account = json!({
            "email": "ann@example.com", "password": PASSWORD, "email_verified": true, "scopes": ["read", "write"],
            "claims": {"role": "editor"},
        });
        let (code, made) = gateway.admin("POST", "/admin/v1/users", &account).await;
        assert_eq!(code, 201, "{made}");
        World { gateway, app, theirs, user: made["id"].as_str().unwrap().to_owned() }
    }

    async fn send(&self, method: &str, target: &str, fields: &str, body: &Value) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost:8080\r\n{kind}{fields}Content-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        self.gateway.send(request).await
    }

    async fn login(&self, more: &str) -> String {
        let mut body = json!({"email": "ann@example.com", "password": PASSWORD});
        if !more.is_empty() {
            body["session"] = json!(more);
        }
        self.send("POST", "/auth/login", ORIGIN, &body).await
    }

    /// Signs Ann in at a browser: the line with her cookie.
    async fn browser(&self) -> String {
        let answer = self.login("cookie").await;
        let cookie = field(&answer, "set-cookie").unwrap_or_else(|| panic!("{answer}"));
        format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
    }

    /// Signs Ann in with a program: the line with her token.
    async fn program(&self) -> String {
        let answer = self.login("").await;
        let told: Value = serde_json::from_str(body_of(&answer)).unwrap();
        bearer(told["access_token"].as_str().unwrap())
    }

    /// What the app behind `path` saw of a request with `fields`, which is admitted.
    async fn seen(&self, path: &str, fields: &str) -> String {
        let answer = self.send("GET", path, &format!("{SPOOFED}{fields}"), &Value::Null).await;
        assert_eq!(status(&answer), 200, "{path} {fields}: {answer}");
        let seen = self.app.requests().last().cloned().unwrap();
        assert!(!seen.contains("spoofed"), "{seen}");
        seen
    }

    /// The token that the app behind `path` got in `Authorization`.
    async fn token(&self, path: &str, fields: &str) -> String {
        let seen = self.seen(path, fields).await;
        let value = field(&seen, "authorization").unwrap_or_else(|| panic!("no token: {seen}"));
        value.strip_prefix("Bearer ").unwrap_or_else(|| panic!("{value}")).to_owned()
    }

    /// Whether the published keys verify `token` for `audience`.
    async fn verify(&self, token: &str, audience: &str) -> Result<(), TokenFault> {
        let published = self.send("GET", "/.well-known/jwks.json", "", &Value::Null).await;
        let verifier = SetVerifier::new(body_of(&published).as_bytes(), Duration::ZERO).unwrap();
        verifier.check(token, Some(ISSUER), Some(audience), UnixTime(now()))
    }

    /// What a gateway's route answers to `token`.
    async fn visit(&self, path: &str, token: &str) -> u16 {
        status(&self.send("GET", path, &bearer(token), &Value::Null).await)
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn part(token: &str, at: usize) -> Value {
    let text = token.split('.').nth(at).unwrap_or_else(|| panic!("no token: {token}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

fn claims(token: &str) -> Value {
    part(token, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_gets_a_token_of_the_session_for_its_routes_audience() {
    let world = World::start().await;
    for fields in [world.browser().await, world.program().await] {
        let token = world.token("/wiki", &fields).await;
        assert_eq!(part(&token, 0)["typ"], "at+jwt");
        world.verify(&token, "reports").await.unwrap();
        assert_eq!(world.verify(&token, "api").await, Err(TokenFault::Audience));
        let says = claims(&token);
        let is_short = says["exp"].as_u64().unwrap() - says["iat"].as_u64().unwrap() == 300;
        assert!(is_short && says["jti"].is_string() && says["sid"].is_string(), "{says}");
        for (name, want) in [
            ("iss", json!(ISSUER)),
            ("aud", json!("reports")),
            ("client_id", json!("wiki")),
            ("sub", json!(world.user)),
            ("scope", json!("read write")),
            ("role", json!("editor")),
            ("email", json!("ann@example.com")),
            ("type", json!("access")),
        ] {
            assert_eq!(says[name], want, "{name}");
        }
        // It is made once, and another app has another one: alone in a field of its own.
        assert_eq!(world.token("/wiki/other", &fields).await, token);
        let seen = world.seen("/mail", &fields).await;
        let other = field(&seen, "x-forwarded-access-token").unwrap().to_owned();
        world.verify(&other, "mail").await.unwrap();
        assert_eq!((&claims(&other)["sid"], field(&seen, "authorization")), (&says["sid"], None));
        // No route of this gateway takes it, nor the account's own endpoints.
        for token in [&token, &other] {
            for path in ["/api", "/wiki", "/auth/me"] {
                assert_eq!(world.visit(path, token).await, 401, "{path}");
            }
        }
    }
    // Two sessions of one account have two tokens.
    let [one, two] = [world.browser().await, world.browser().await];
    let (one, two) = (world.token("/wiki", &one).await, world.token("/wiki", &two).await);
    assert_ne!(claims(&one)["sid"], claims(&two)["sid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_gateways_own_audience_it_opens_other_routes_as_the_user_and_no_more() {
    let world = World::start().await;
    let token = world.token("/portal", &world.browser().await).await;
    world.verify(&token, "api").await.unwrap();
    let seen = world.seen("/api", &bearer(&token)).await;
    assert_eq!(field(&seen, "x-auth-subject"), Some(&*world.user));
    assert_eq!(field(&seen, "x-auth-scopes"), Some("read write"));
    assert_eq!(field(&seen, "x-auth-session"), claims(&token)["sid"].as_str());
    assert_eq!(world.visit("/private", &token).await, 403);
    // An app that is asked with it gets a token that ends no later.
    let next = world.token("/wiki", &bearer(&token)).await;
    assert!(claims(&next)["exp"].as_u64() <= claims(&token)["exp"].as_u64());
    assert_eq!(claims(&next)["client_id"], "wiki");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_session_of_ours_get_none_and_their_own_fields_never_pass_for_it() {
    let world = World::start().await;
    let data = world.gateway.folder.path().join("data");
    let key = Key::of_gateway(&data);
    let ours = |claims: &Value| key.with_header(json!({"typ": "at+jwt"}), claims);
    let own = claims(world.program().await.trim().strip_prefix("Authorization: Bearer ").unwrap());
    let mut here = own.clone();
    here["palisade_host"] = json!("localhost");
    let external = world.theirs.token(&json!({
        "iss": THEIRS, "aud": "api", "sub": world.user, "sid": own["sid"], "iat": now(), "exp": now() + 600,
    }));
    for (what, token) in [
        ("an operator's token", mint(&world.gateway, "ann").await),
        ("an external issuer's", external),
        ("one for script on one host", ours(&here)),
    ] {
        for path in ["/wiki", "/maybe"] {
            let seen = world.seen(path, &bearer(&token)).await;
            assert_eq!(field(&seen, "authorization"), None, "{what}: {seen}");
            assert!(seen.contains("x-auth-subject"), "{what}: {seen}");
        }
        let seen = world.seen("/mail", &bearer(&token)).await;
        assert_eq!(field(&seen, "x-forwarded-access-token"), None, "{what}: {seen}");
    }
    // Such a token is one of this gateway: with a session alone the app gets its own.
    assert_eq!(claims(&world.token("/wiki", &bearer(&ours(&own))).await)["sid"], own["sid"]);

    for fields in ["", "Authorization: Basic YTpi\r\n", "Authorization: spoofed\r\n"] {
        let seen = world.seen("/maybe", fields).await;
        assert_eq!(field(&seen, "authorization"), None, "{seen}");
    }
    // Elsewhere that field is the client's own.
    let seen = world.seen("/open", "Authorization: Basic YTpi\r\n").await;
    assert_eq!(field(&seen, "authorization"), Some("Basic YTpi"));
    // What is left to the app to judge has no session, and so no token.
    let seen = world.seen("/judged", "Authorization: Basic YTpi\r\n").await;
    assert_eq!((field(&seen, "authorization"), field(&seen, "x-app-token")), (Some("Basic YTpi"), None));
    let gate = world.program().await.replacen("Authorization", "X-Gate", 1);
    let seen = world.seen("/judged", &format!("Authorization: Basic YTpi\r\n{gate}")).await;
    assert_eq!(field(&seen, "authorization"), Some("Basic YTpi"));
    world.verify(field(&seen, "x-app-token").unwrap(), "judged").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_session_and_follows_token_version_keys_and_configuration() {
    let world = World::start().await;
    let cookie = world.browser().await;
    let first = world.token("/portal", &cookie).await;

    // A rotation: what is kept is verified by the published keys, and so is what is made next.
    operate(&world.gateway, "/admin/v1/keys/rotate", &json!({})).await;
    world.verify(&world.token("/portal", &cookie).await, "api").await.unwrap();
    world.verify(&first, "api").await.unwrap();
    world.verify(&world.token("/portal", &world.browser().await).await, "api").await.unwrap();

    // A raised token version: the old token is void, and the session goes on with another.
    operate(&world.gateway, "/admin/v1/token-versions", &json!({"sub": world.user})).await;
    assert_eq!(world.visit("/api", &first).await, 401);
    let second = world.token("/portal", &cookie).await;
    assert!(claims(&second)["ver"].as_u64() > claims(&first)["ver"].as_u64());
    assert_eq!(world.visit("/api", &second).await, 200);

    // Another audience after a reload.
    assert_eq!(claims(&world.token("/wiki", &cookie).await)["aud"], "reports");
    let file = world.gateway.folder.path().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("audience = \"reports\"", "audience = \"ledger\"")).unwrap();
    operate(&world.gateway, "/admin/v1/reload", &json!({})).await;
    assert_eq!(claims(&world.token("/wiki", &cookie).await)["aud"], "ledger");

    // Signed out, the app gets nothing more, and what it has opens nothing here.
    let out = world.send("POST", "/auth/logout", &format!("{ORIGIN}{cookie}"), &Value::Null).await;
    assert_eq!(status(&out), 204, "{out}");
    let before = world.app.requests().len();
    assert_eq!(status(&world.send("GET", "/portal", &cookie, &Value::Null).await), 401);
    assert_eq!(world.app.requests().len(), before);
    assert_eq!(world.visit("/api", &second).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_and_http_2_upstreams_get_it_too() {
    let world = World::start().await;
    let cookie = world.browser().await;
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let request = format!(
        "GET /wiki/live HTTP/1.1\r\nHost: localhost:8080\r\n{ORIGIN}{cookie}{upgrade}Connection: Upgrade\r\n\r\n"
    );
    let mut stream = tokio::net::TcpStream::connect(world.gateway.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    crate::support::neighbours::read_head(&mut stream).await;
    let seen = world.app.requests().last().cloned().unwrap();
    assert!(field(&seen, "upgrade").is_some(), "{seen}");
    let token = field(&seen, "authorization").unwrap().strip_prefix("Bearer ").unwrap();
    world.verify(token, "reports").await.unwrap();

    let kept = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&kept);
    let app = Scripted::start(move |stream| {
        let told = Arc::clone(&told);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let fields = request.headers();
                let lines: Vec<String> = fields
                    .get_all("authorization")
                    .iter()
                    .map(|line| line.to_str().unwrap().to_owned())
                    .collect();
                told.lock().unwrap().push(lines);
                respond.send_response(http::Response::new(()), true).unwrap();
            }
        }
    })
    .await;
    let file = world.gateway.folder.path().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let grpc = route("grpc", app.address, &format!("http2 = true\n{}", with_token("Authorization", "")));
    std::fs::write(&file, format!("{text}{grpc}")).unwrap();
    operate(&world.gateway, "/admin/v1/reload", &json!({})).await;
    let answer = world.send("GET", "/grpc/x", &cookie, &Value::Null).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let lines = kept.lock().unwrap().concat();
    assert_eq!(lines.len(), 1, "{lines:?}");
    world.verify(lines[0].strip_prefix("Bearer ").unwrap(), "grpc").await.unwrap();
}

//! Opaque tokens of an issuer that is asked about them (RFC 7662), through a running gateway.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::A;
use crate::support::keys::{Key, jwks, merge, now};
use crate::support::neighbours::{Scripted, operate, read_head, read_until, until_metrics_say};
use crate::support::{Gateway, PATIENCE, Upstream, field, status};

const ISSUER: &str = "https://opaque.test";
const SECRET: &str = "a secret: with ~ & %";
const ANN: &str = "2YotnFZFEjr1zCsicMWpAA";
/// About this one the endpoint answers when it is told to.
const HELD: &str = "held-2YotnFZFEjr1zCsicMW";

/// An endpoint that knows some tokens and notes every request.
struct Issuer {
    server: Scripted,
    known: Arc<Mutex<HashMap<String, Value>>>,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    release: Arc<Notify>,
}

impl Issuer {
    async fn start() -> Issuer {
        let (known, asked) =
            (Arc::<Mutex<HashMap<String, Value>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (answers, heads) = (Arc::clone(&known), Arc::clone(&asked));
        let release = Arc::new(Notify::new());
        let released = Arc::clone(&release);
        let server = Scripted::start(move |mut stream| {
            let (answers, heads, released) = (Arc::clone(&answers), Arc::clone(&heads), Arc::clone(&released));
            async move {
                loop {
                    let head = read_head(&mut stream).await;
                    let Some(length) = field(&head, "content-length") else { return };
                    let mut body = vec![0; length.parse().unwrap()];
                    stream.read_exact(&mut body).await.unwrap();
                    let form = String::from_utf8(body).unwrap();
                    heads.lock().unwrap().push((head, form.clone()));
                    let token = form.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap().to_owned();
                    if token == HELD {
                        released.notified().await;
                    }
                    let answer = answers.lock().unwrap().get(&token).cloned();
                    let (status, answer) = match answer {
                        Some(Value::Number(status)) => (status.to_string(), String::new()),
                        Some(answer) => ("200".to_owned(), answer.to_string()),
                        None => ("200".to_owned(), json!({"active": false}).to_string()),
                    };
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
                        answer.len()
                    );
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Issuer { server, known, asked, release }
    }

    fn knows(&self, token: &str, change: Value) {
        let mut answer = json!({"active": true, "iss": ISSUER, "aud": ["api"], "sub": "ann", "client_id": "app",
            "token_type": "Bearer", "scope": "read", "iat": now(), "exp": now() + 600});
        merge(&mut answer, &change);
        self.known.lock().unwrap().insert(token.to_owned(), answer);
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn table(issuer: &Issuer, more: &str) -> String {
    format!(
        "[[issuers]]\nissuer = \"{ISSUER}\"\naudiences = [\"api\"]\n\
         introspection = {{ url = \"http://{}/introspect\", client_id = \"gate\", client_secret = \"file:secret.txt\", \
         cache = \"60s\"{more} }}\n",
        issuer.server.address
    )
}

async fn start(extra: &str) -> Gateway {
    Gateway::start_beside(&[("secret.txt", SECRET)], "", extra).await
}

async fn bearer(gateway: &Gateway, path: &str, token: &str) -> String {
    gateway.get(path, &format!("Authorization: Bearer {token}\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_names_the_issuer_takes_its_opaque_tokens_and_no_other_route_does() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let folder = tempfile::tempdir().unwrap();
    let key = Key::es("k");
    let file = folder.path().join("keys.json");
    std::fs::write(&file, jwks(&[&key])).unwrap();
    let route = |name, keys: &str| crate::support::route(name, upstream.address, keys);
    let text = table(&issuer, "")
        + &format!(
            "[[issuers]]\nissuer = \"{A}\"\njwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"ES256\"]\n",
            file.display()
        )
        + &route("opaque", &format!("issuers = [\"{ISSUER}\"]\nrequire = {{ scopes = [\"read\"] }}"))
        + &route("both", &format!("issuers = [\"{ISSUER}\", \"{A}\"]\ntoken = {{ cookie = \"__Host-t\" }}"))
        + &route("every", "")
        + &route("open", "auth = \"none\"");
    let gateway = start(&text).await;
    issuer.knows(ANN, json!({"email": "ann@example.com", "email_verified": true, "sid": "s1"}));

    let answer = bearer(&gateway, "/opaque", ANN).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = upstream.requests().last().cloned().unwrap();
    assert_eq!(field(&seen, "x-auth-subject"), Some("ann"), "{seen}");
    assert_eq!(field(&seen, "x-auth-issuer"), Some(ISSUER), "{seen}");
    assert_eq!(field(&seen, "x-auth-email"), Some("ann@example.com"), "{seen}");
    assert!(!seen.contains(ANN) && field(&seen, "authorization").is_none(), "{seen}");
    {
        let asked = issuer.asked.lock().unwrap();
        let (head, form) = &asked[0];
        assert!(head.starts_with("POST /introspect HTTP/1.1\r\n"), "{head}");
        assert_eq!(form, &format!("token={ANN}&token_type_hint=access_token"));
        // RFC 6749 §2.3.1: form-encoded before it is joined.
        let basic = STANDARD.encode("gate:a+secret%3A+with+%7E+%26+%25");
        assert_eq!(field(head, "authorization"), Some(&*format!("Basic {basic}")), "{head}");
    }
    for path in ["/opaque", "/both", "/opaque"] {
        assert_eq!(status(&bearer(&gateway, path, ANN).await), 200, "{path}");
    }
    let cookie = gateway.get("/both", &format!("Cookie: __Host-t={ANN}\r\n")).await;
    assert_eq!(status(&cookie), 200, "{cookie}");
    assert_eq!(issuer.asked(), 1, "remembered, on each of its routes");

    // A route that names it takes JWTs beside, by their own way.
    let jwt = |iss: &str| key.token(&json!({"iss": iss, "aud": "api", "sub": "bob", "exp": now() + 60}));
    assert_eq!(status(&bearer(&gateway, "/both", &jwt(A)).await), 200);
    for (path, token, want) in [
        ("/every", ANN.to_owned(), 401),
        ("/opaque", jwt(A), 401),
        ("/both", jwt(ISSUER), 401),
        ("/opaque", jwt(ISSUER), 401),
        ("/opaque", format!("{}.", jwt(A)), 401),
        ("/opaque", "eyJhbGciOiJub25lIn0.e30.".to_owned(), 401),
        ("/opaque", "caf\u{e9}".to_owned(), 401),
        ("/open", ANN.to_owned(), 200),
    ] {
        assert_eq!(status(&bearer(&gateway, path, &token).await), want, "{path} {token}");
    }
    // Native endpoints take no token of others.
    let native = format!(
        "GET /auth/me HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer {ANN}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(status(&gateway.send(native).await), 401);
    assert_eq!(issuer.asked(), 1, "none of these is shown to it");

    for (n, (change, want)) in [
        (json!({"active": false}), 401),
        (json!({"iss": A}), 401),
        (json!({"aud": ["other"]}), 401),
        (json!({"exp": now() - 61}), 401),
        (json!({"token_type": "DPoP"}), 401),
        (json!({"cnf": {"jkt": "x"}}), 401),
        (json!({"scope": "write"}), 403),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("bad-{n}");
        issuer.knows(&token, change.clone());
        for _ in 0..2 {
            let answer = bearer(&gateway, "/opaque", &token).await;
            assert_eq!(status(&answer), want, "{change} {answer}");
        }
        assert_eq!(issuer.asked(), n + 2, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_we_hand_out_is_shown_to_the_issuer() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let route = crate::support::route("opaque", upstream.address, &format!("issuers = [\"{ISSUER}\"]"));
    let gateway = start(&(table(&issuer, "") + &route + "[accounts]\nregistration = \"open\"\n")).await;
    let person =
        json!({"email": "ann@example.com", "password": "Correct-Horse-7-Battery", "email_verified": true});
    operate(&gateway, "/admin/v1/users", &person).await;
    let login = |more: Value| {
        let mut body = json!({"email": "ann@example.com", "password": "Correct-Horse-7-Battery"});
        merge(&mut body, &more);
        let body = body.to_string();
        format!(
            "POST /auth/login HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let tokens = gateway.send(login(json!({}))).await;
    let said: Value =
        serde_json::from_str(crate::support::body_of(&tokens)).unwrap_or_else(|_| panic!("{tokens}"));
    let cookie = gateway.send(login(json!({"session": "cookie"}))).await;
    let cookie = field(&cookie, "set-cookie").unwrap_or_else(|| panic!("{cookie}"));
    let cookie = cookie.split(';').next().unwrap().split_once('=').unwrap().1.to_owned();
    let admin = std::fs::read_to_string(gateway.folder.path().join("data/admin.token")).unwrap();
    for (what, text) in [
        ("refresh token", said["refresh_token"].as_str().unwrap()),
        ("access token", said["access_token"].as_str().unwrap()),
        ("cookie", &cookie),
        ("admin credential", admin.trim()),
        ("API key", "pal_0190aa_secret"),
    ] {
        assert!(!text.is_empty());
        assert_eq!(status(&bearer(&gateway, "/opaque", text).await), 401, "{what}");
        assert_eq!(issuer.asked(), 0, "{what}");
    }
}

/// An app with an event stream that stays open.
async fn app() -> Scripted {
    Scripted::start(|mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            let answer: &[u8] = if head.contains(" /events") {
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
            } else {
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            };
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_what_was_remembered_and_what_is_open() {
    let issuer = Issuer::start().await;
    let app = app().await;
    let route = format!(
        "[[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\nissuers = [\"{ISSUER}\"]\n",
        app.address
    );
    let gateway = start(&(table(&issuer, "") + &route)).await;
    let soon = now() - 5;
    for (n, (what, revocation)) in [
        ("subject", json!({"issuer": ISSUER, "sub": "ann-0"})),
        ("token", json!({"issuer": ISSUER, "jti": "j1"})),
        ("session", json!({"issuer": ISSUER, "sid": "s2"})),
        ("issuer", json!({"issuer": ISSUER, "before": soon + 1})),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("token-{n}");
        let said =
            json!({"sub": format!("ann-{n}"), "jti": format!("j{n}"), "sid": format!("s{n}"), "iat": soon});
        issuer.knows(&token, said);
        issuer.knows(&format!("other-{n}"), json!({"sub": "bob", "iat": soon + 2 }));
        let asked = issuer.asked();
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let request =
            format!("GET /events HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let seen = read_until(&mut stream, "data: 1").await;
        assert_eq!(status(&seen), 200, "{what} {seen}");
        assert_eq!(status(&bearer(&gateway, "/", &format!("other-{n}")).await), 200, "{what}");
        assert_eq!(issuer.asked(), asked + 2, "{what}");
        operate(&gateway, "/admin/v1/revocations", &revocation).await;
        let answer = bearer(&gateway, "/", &token).await;
        assert_eq!(status(&answer), 401, "{what}: {answer}");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{what}: the open exchange goes on");
        assert_eq!(status(&bearer(&gateway, "/", &format!("other-{n}")).await), 200, "{what}");
        assert_eq!(issuer.asked(), asked + 2, "{what}: the answers were remembered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_for_one_token_is_one_request_and_a_bound_or_an_outage_is_503() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let route = crate::support::route("opaque", upstream.address, &format!("issuers = [\"{ISSUER}\"]"))
        + &crate::support::route(
            "maybe",
            upstream.address,
            &format!("issuers = [\"{ISSUER}\"]\nauth = \"optional\""),
        );
    let gateway = start(&(table(&issuer, ", in_flight = 1") + &route)).await;
    issuer.knows(ANN, json!({}));
    let burst = (0..50).map(|_| bearer(&gateway, "/opaque", ANN));
    for answer in futures::future::join_all(burst).await {
        assert_eq!(status(&answer), 200, "{answer}");
    }
    assert_eq!(issuer.asked(), 1);
    // While one request waits for its answer, there is no room for another; what is remembered needs none.
    let more = async {
        while issuer.asked() < 2 {
            tokio::task::yield_now().await;
        }
        let shed = bearer(&gateway, "/opaque", "another").await;
        assert_eq!((status(&shed), field(&shed, "retry-after")), (503, Some("1")), "{shed}");
        assert!(
            shed.contains("\"issuer_unavailable\"") && field(&shed, "www-authenticate").is_none(),
            "{shed}"
        );
        assert_eq!(status(&bearer(&gateway, "/opaque", ANN).await), 200);
        assert_eq!(issuer.asked(), 2);
        issuer.release.notify_one();
    };
    let (held, ()) = tokio::join!(bearer(&gateway, "/opaque", HELD), more);
    assert_eq!(status(&held), 401, "{held}");
    assert_eq!(status(&bearer(&gateway, "/opaque", "another").await), 401);
    assert_eq!(issuer.asked(), 3);
    until_metrics_say(
        &gateway,
        &format!("palisade_introspections_total{{issuer=\"{ISSUER}\",outcome=\"shed\"}} 1\n"),
    )
    .await;

    // An endpoint that fails: no one passes as themselves, nor as a visitor.
    let second = Issuer::start().await;
    let gateway = start(&(table(&second, "") + &route)).await;
    for (token, code) in [("down", 500), ("not-for-us", 401)] {
        second.known.lock().unwrap().insert(token.to_owned(), json!(code));
        for path in ["/opaque", "/maybe"] {
            let answer = bearer(&gateway, path, token).await;
            assert_eq!(status(&answer), 503, "{path} {answer}");
            assert!(field(&answer, "retry-after").is_some() && !answer.contains(SECRET), "{answer}");
        }
    }
}

/// Where nothing listens.
fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_takes_the_issuer_from_a_route_ends_what_its_tokens_opened() {
    let issuer = Issuer::start().await;
    let app = app().await;
    let route = format!(
        "[[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\n",
        app.address
    );
    let (narrow, other) =
        (format!("{route}issuers = [\"{ISSUER}\"]\n"), table(&issuer, "").replace("[\"api\"]", "[\"b\"]"));
    for (what, before, after) in [
        ("the route names it no more", table(&issuer, "") + &narrow, table(&issuer, "") + &route),
        ("its audience is another", table(&issuer, "") + &narrow, other + &narrow),
        (
            "its tokens are JWTs now",
            table(&issuer, "") + &narrow,
            format!(
                "[[issuers]]\nissuer = \"{ISSUER}\"\naudiences = [\"api\"]\nalgorithms = [\"ES256\"]\njwks = \"http://{}/\"\n{narrow}",
                nowhere()
            ),
        ),
    ] {
        let gateway = start(&before).await;
        issuer.knows(ANN, json!({}));
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let request =
            format!("GET /events HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {ANN}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(status(&read_until(&mut stream, "data: 1").await), 200, "{what}");
        let file = gateway.folder.path().join("config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(&before), "{what}");
        // The same again: what was answered goes on.
        let asked = issuer.asked();
        operate(&gateway, "/admin/v1/reload", &json!({})).await;
        assert_eq!(status(&bearer(&gateway, "/", ANN).await), 200, "{what}");
        assert_eq!(issuer.asked(), asked, "{what}");
        std::fs::write(&file, text.replace(&before, &after)).unwrap();
        operate(&gateway, "/admin/v1/reload", &json!({})).await;
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{what}: the open exchange goes on");
        assert_eq!(status(&bearer(&gateway, "/", ANN).await), 401, "{what}");
    }
}

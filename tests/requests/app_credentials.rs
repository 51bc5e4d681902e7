//! Routes whose `Authorization` field is the app's: what is in it reaches the app as it came, ours travels beside it, and
//! what has no session is the app's to judge where the route says so.

use crate::support::neighbours::{mint, revoke, until_metrics_say};
use crate::support::{Gateway, PATIENCE, Upstream, field, status};
use serde_json::{Value, json};

struct World {
    gateway: Gateway,
    upstream: Upstream,
}

impl World {
    async fn start() -> World {
        let upstream = Upstream::start().await;
        let route = |name: &str, keys: &str| crate::support::route(name, upstream.address, keys);
        let routes = [
            route("beside", "authorization = \"app\"\ntoken = { cookie = \"at\", header = \"X-Gate\" }"),
            route(
                "judged",
                "authorization = \"app\"\nwithout_session = \"app\"\ntoken = { cookie = \"at\", header = \"X-Gate\" }",
            ),
            route("ours", "auth = \"optional\""),
        ];
        World { gateway: Gateway::start(&routes.concat()).await, upstream }
    }

    async fn send(&self, method: &str, path: &str, fields: &str) -> String {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:8080\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        self.gateway.send(request).await
    }

    fn last(&self) -> String {
        self.upstream.requests().last().cloned().unwrap_or_default()
    }
}

/// Every line of the field, as the app got it.
fn lines(head: &str) -> Vec<&str> {
    let named = |line: &&str| line.get(..14).is_some_and(|name| name.eq_ignore_ascii_case("authorization:"));
    head.lines().filter(named).map(|line| line[14..].trim_start_matches(' ')).collect()
}

const CREDENTIALS: [&str; 7] = [
    // A service account of Grafana, git and LFS, an app with Digest, one with a scheme of its own.
    "Bearer glsa_5PZ4nZ5tQZ0000000000000000000000_2ad1c3f9",
    "Basic Z2l0OnBhc3N3b3Jk",
    "Digest username=\"Mufasa\",  realm=\"a, b\", nonce=\"x\", uri=\"/bearer,x\", response=\"6629\"",
    "token 0123456789abcdef",
    "Bearer a, Bearer b",
    "bearer\ta",
    "AWS4-HMAC-SHA256 Credential=a, \tBEARER b",
];

const SPOOFED: &str = "X-Auth-Subject: root\r\nX_Auth_Email: root@example.com\r\nX-Auth-Scopes: all\r\n\
                       X-Forwarded-User: root\r\nRemote-User: root\r\n";

fn says_who(head: &str) -> bool {
    let head = head.to_ascii_lowercase();
    ["root", "x-auth-", "x_auth_", "remote-user"].iter().any(|word| head.contains(word))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_apps_credentials_reach_it_byte_for_byte_beside_ours() {
    let world = World::start().await;
    let token = mint(&world.gateway, "ann").await;
    for credential in CREDENTIALS {
        let theirs = format!("Authorization: {credential}\r\n{SPOOFED}");
        for ours in [
            format!("X-Gate: {token}\r\n"),
            format!("x-gate: Bearer {token}\r\n"),
            format!("Cookie: at={token}\r\n"),
        ] {
            for path in ["/beside", "/judged"] {
                let answer = world.send("GET", path, &format!("{theirs}{ours}")).await;
                assert_eq!(status(&answer), 200, "{credential} {answer}");
                let seen = world.last();
                assert_eq!(lines(&seen), [credential], "{path}");
                assert_eq!(field(&seen, "x-auth-subject"), Some("ann"), "{seen}");
                assert!(!seen.contains(&token) && !seen.contains("root"), "{seen}");
                // No cache between the browser and here knows that field, or the cookie, as a credential.
                let is_private = field(&answer, "cache-control") == Some("private");
                assert!(is_private, "{ours} {answer}");
            }
        }
    }
    // Two lines are the app's to read, too, and a connection option takes none of them out.
    let two = format!("Authorization: Basic a\r\nAuthorization: Bearer b\r\nX-Gate: {token}\r\n");
    assert_eq!(status(&world.send("GET", "/beside", &two).await), 200);
    assert_eq!(lines(&world.last()), ["Basic a", "Bearer b"]);
    let named = format!("Connection: authorization, x-gate\r\nAuthorization: Basic a\r\nX-Gate: {token}\r\n");
    assert_eq!(status(&world.send("GET", "/beside", &named).await), 200);
    assert_eq!(lines(&world.last()), ["Basic a"]);
    // What carries tokens on one route reaches the app of no other.
    assert_eq!(status(&world.send("GET", "/ours", &format!("X_Gate: {token}\r\n")).await), 200);
    assert!(!world.last().contains(&token));
    assert_eq!(
        status(&world.send("GET", "/ours", "Authorization: Basic a\r\nAuthorization: Basic b\r\n").await),
        400
    );

    let forwarded = world.upstream.requests().len();
    for (path, fields, want) in [
        ("/beside", String::new(), 401),
        ("/beside", "Authorization: Bearer glsa_x\r\n".to_owned(), 401),
        // In the app's field a token of ours is none.
        ("/beside", format!("Authorization: Bearer {token}\r\n"), 401),
        ("/judged", format!("Authorization: Bearer glsa_x\r\nX-Gate: {token}x\r\n"), 401),
        ("/judged", "Authorization: Bearer glsa_x\r\nX-Gate: \r\n".to_owned(), 401),
        ("/judged", format!("Authorization: Bearer glsa_x\r\nX-Gate: {token}\r\nX-Gate: {token}\r\n"), 400),
    ] {
        let answer = world.send("GET", path, &fields).await;
        assert_eq!(status(&answer), want, "{path} {fields}: {answer}");
    }
    let cross = format!("Authorization: Basic a\r\nCookie: at={token}\r\nOrigin: https://evil.test\r\n");
    assert_eq!(status(&world.send("POST", "/judged", &cross).await), 403);
    assert_eq!(world.upstream.requests().len(), forwarded);
}

/// The events of no account, once there is one like this among them.
async fn until_audited(gateway: &Gateway, is_wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let look = async {
        loop {
            let (code, told) = gateway.admin("GET", "/admin/v1/audit?limit=1000", &Value::Null).await;
            assert_eq!(code, 200, "{told}");
            let events = told["events"].as_array().unwrap();
            let wanted: Vec<Value> = events.iter().filter(|event| is_wanted(event)).cloned().collect();
            if !wanted.is_empty() {
                return wanted;
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("no such event")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_the_app_is_told_of_no_one_and_judges_for_itself() {
    let world = World::start().await;
    let revoked = mint(&world.gateway, "ann").await;
    revoke(&world.gateway, &revoked).await;
    let mut count = 0;
    for credential in CREDENTIALS {
        for ours in
            [String::new(), format!("Cookie: a=b; at={revoked}\r\n"), "Cookie: palisade=x\r\n".to_owned()]
        {
            for method in ["GET", "POST"] {
                let fields = format!("Authorization: {credential}\r\n{SPOOFED}{ours}");
                let answer = world.send(method, "/judged", &fields).await;
                assert_eq!(status(&answer), 200, "{credential} {ours} {answer}");
                let seen = world.last();
                assert_eq!(lines(&seen), [credential]);
                assert!(!says_who(&seen) && !seen.contains(&revoked), "{seen}");
                count += 1;
            }
        }
    }
    until_metrics_say(
        &world.gateway,
        &format!("palisade_decisions_total{{decision=\"left_to_app\"}} {count}\n"),
    )
    .await;
    // One line for the one client, whatever it sends, and none for requests that had a session.
    let audited = until_audited(&world.gateway, |event| event["action"] == "left_to_app").await;
    assert_eq!(audited.len(), 1, "{audited:#?}");
    for (name, want) in [
        ("outcome", json!("success")),
        ("actor", json!("user")),
        ("reason", json!("first_request")),
        ("address", json!("127.0.0.1")),
        ("details", json!({"route": "judged"})),
    ] {
        assert_eq!(audited[0][name], want, "{name}");
    }
    assert!(audited[0]["request_id"].is_string() && audited[0]["user"].is_null());

    let named = "Authorization: Basic a\r\nConnection: authorization\r\n";
    assert_eq!(status(&world.send("GET", "/judged", named).await), 200);
    assert_eq!(lines(&world.last()), ["Basic a"], "what it passed by is what the app judges");

    let forwarded = world.upstream.requests().len();
    for empty in
        ["", "Authorization:\r\n", "Authorization: \t \r\n", "Authorization: \r\nAuthorization: Basic a\r\n"]
    {
        for cookie in [String::new(), format!("Cookie: at={revoked}\r\n")] {
            let answer = world.send("GET", "/judged", &format!("{empty}{cookie}")).await;
            assert_eq!(status(&answer), 401, "{empty:?} {cookie}: {answer}");
        }
    }
    assert_eq!(world.upstream.requests().len(), forwarded);
}

/// Every challenge of an answer.
fn challenges(answer: &str) -> Vec<&str> {
    let named = |line: &&str| line.to_ascii_lowercase().starts_with("www-authenticate:");
    answer.lines().filter(named).map(|line| line[17..].trim()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_asked_for_the_apps_password_and_a_browser_is_not() {
    let world = World::start().await;
    let ours = "Bearer realm=\"palisade\"";
    let both = [ours, "Basic realm=\"palisade\", charset=\"UTF-8\""];
    let git = "User-Agent: git/2.47.3\r\nAccept: */*\r\nGit-Protocol: version=2\r\n";
    for (path, fields, want) in [
        ("/judged", git, &both[..]),
        ("/judged", "", &both),
        ("/judged", "Authorization:\r\nUser-Agent: git/2.47.3\r\n", &both),
        // A browser would open a dialog, whatever asks.
        ("/judged", "User-Agent: Mozilla/5.0 Firefox/140.0\r\nAccept: */*\r\n", &both[..1]),
        ("/judged", "Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n", &both[..1]),
        ("/judged", "Cookie: a=b\r\n", &both[..1]),
        ("/judged", "Origin: https://page.test\r\n", &both[..1]),
        // Here a password in the field would open nothing.
        ("/beside", git, &both[..1]),
    ] {
        let answer = world.send("GET", path, fields).await;
        assert_eq!((status(&answer), challenges(&answer)), (401, want.to_vec()), "{path} {fields}: {answer}");
    }
    // A token of ours that is not good is what is wrong.
    let bad = world.send("GET", "/judged", "X-Gate: a.b.c\r\nUser-Agent: git/2.47.3\r\n").await;
    assert!(status(&bad) == 401 && challenges(&bad).len() == 1, "{bad}");
    assert_eq!(world.upstream.requests().len(), 0);
}

//! Routes whose `Authorization` field is the app's: what is in it reaches the app as it came, ours travels beside it, and
//! what has no session is the app's to judge where the route says so.

use crate::support::neighbours::{mint, revoke, until_metrics_say};
use crate::support::{Gateway, Upstream, field, status};

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

//! What an app is told of a person by the names that it knows: a user name, groups and other claims, in fields that no
//! client can write, or not at all.

use std::sync::mpsc;

use crate::support::keys::{Key, jwks, merge, now};
use crate::support::neighbours::{Scripted, read_head};
use crate::support::{Gateway, Upstream, body_of, exchange, field, status};
use http::Response;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const ISSUER: &str = "https://a.test";
const PASSWORD: &str = "Correct horse 42";

/// Who each route says that the caller is.
const ROUTES: [(&str, &str); 8] = [
    ("named", "headers = { preset = \"remote-user\", user = \"username\" }"),
    ("mailed", "headers = { preset = \"remote-user\", user = \"email\", email = false }"),
    ("numbered", "headers = { preset = \"remote-user\", user = \"subject\", subject = false }"),
    ("optional", "auth = \"optional\"\nheaders = { preset = \"remote-user\", user = \"username\" }"),
    (
        "judged",
        "authorization = \"app\"\nwithout_session = \"app\"\ntoken = { header = \"X-Gate\" }\n\
         headers = { preset = \"remote-user\", user = \"username\", claims = { \"X-Team\" = \"team\" } }",
    ),
    (
        "claims",
        "headers = { separator = \"|\", groups_only = [\"Sales, EMEA\", \"a|b\", \"\u{e9}quipe\"], claims = { \
         \"X-Groups\" = \"groups\", \"X-Team\" = { claim = \"team\", encoding = \"utf-8\" }, \"X-Team-Percent\" = \"team\" } }",
    ),
    ("plain", "headers = { subject = \"X-User\" }"),
    (
        "nested",
        "require = { claims = { \"realm_access.roles\" = [\"app\"] } }\nheaders = { groups_only = [\"a\", \"b\"], claims = { \
         \"X-WEBAUTH-USER\" = { claim = \"preferred_username\", required = true }, \"X-Mail\" = \"upn\", \
         \"X-Name\" = [\"profile\", \"name.full\"], \"X-Url\" = \"https://example.com/groups\", \
         \"X-Groups\" = { claim = \"resource_access.app.roles\", groups = true, required = true } } }",
    ),
];

struct World {
    gateway: Gateway,
    /// An app for each way in which people are named.
    upstreams: Vec<Upstream>,
    key: Key,
    _keys: tempfile::TempDir,
}

impl World {
    async fn start() -> World {
        let mut upstreams = Vec::new();
        let mut routes = String::new();
        for (name, keys) in ROUTES {
            let upstream = Upstream::start().await;
            let keys = format!("issuers = [\"{ISSUER}\"]\n{keys}");
            routes += &crate::support::route(name, upstream.address, &keys);
            upstreams.push(upstream);
        }
        routes += &crate::support::route("open", upstreams[0].address, "auth = \"none\"");
        World::with(upstreams, &routes).await
    }

    async fn with(upstreams: Vec<Upstream>, routes: &str) -> World {
        let keys = tempfile::tempdir().unwrap();
        let key = Key::ed("a");
        std::fs::write(keys.path().join("a.json"), jwks(&[&key])).unwrap();
        let issuer = format!(
            "[[issuers]]\nissuer = \"{ISSUER}\"\njwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"EdDSA\"]\n",
            keys.path().join("a.json").display()
        );
        World { gateway: Gateway::start(&format!("{issuer}{routes}")).await, upstreams, key, _keys: keys }
    }

    fn token(&self, claims: Value) -> String {
        let mut all = json!({"iss": ISSUER, "aud": "api", "sub": "u-1", "exp": now() + 600});
        merge(&mut all, &claims);
        self.key.token(&all)
    }

    /// The answer, and what arrived at the app of this request.
    async fn get(&self, path: &str, claims: Value, fields: &str) -> (String, Option<String>) {
        let token = self.token(claims);
        self.ask(path, &format!("Authorization: Bearer {token}\r\n{fields}")).await
    }

    async fn ask(&self, path: &str, fields: &str) -> (String, Option<String>) {
        let arrived = || self.upstreams.iter().flat_map(Upstream::requests).collect::<Vec<_>>();
        let before = arrived();
        let answer = self.gateway.get(path, fields).await;
        (answer, arrived().into_iter().find(|head| !before.contains(head)))
    }
}

/// Fields of the preset, as a client may write them.
const REMOTE: &str = "Remote-User: root\r\nremote_user: root\r\nREMOTE-groups: root\r\n";

/// The fields in which the routes name people, in every spelling.
const SPOOFED: &str = "Remote-User: root\r\nremote_user: root\r\nRemote.Email: root\r\nREMOTE-NAME: root\r\n\
                       Remote_Groups: root\r\nX-Groups: root\r\nx_team: root\r\nX-Team_Percent: root\r\nX.User: root\r\n\
                       X-Auth-Subject: root\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_told_of_a_person_by_the_names_that_it_knows() {
    let world = World::start().await;
    let ann = json!({
        "preferred_username": "ann", "email": "ann@a.test", "email_verified": true, "name": "Ann \u{c9}. Smith, 5%",
        "groups": ["staff", "Sales, EMEA"],
    });
    let (answer, seen) = world.get("/named", ann.clone(), SPOOFED).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = seen.unwrap();
    for (name, value) in [
        ("remote-user", "ann"),
        ("remote-email", "ann@a.test"),
        ("remote-name", "Ann %C3%89. Smith, 5%25"),
        ("remote-groups", "staff,Sales%2C EMEA"),
        // Those of every route are beside them.
        ("x-auth-subject", "u-1"),
        ("x-auth-issuer", ISSUER),
        ("x-auth-email", "ann@a.test"),
    ] {
        assert_eq!(field(&seen, name), Some(value), "{seen}");
    }
    assert!(!seen.contains("root"), "{seen}");

    let (_, seen) = world.get("/mailed", ann.clone(), "").await;
    let seen = seen.unwrap();
    assert_eq!(field(&seen, "remote-user"), Some("ann@a.test"));
    assert_eq!(field(&seen, "x-auth-email"), None, "{seen}");
    let (_, seen) = world.get("/numbered", ann, "").await;
    assert_eq!(field(&seen.unwrap(), "remote-user"), Some("u-1"));

    let claims =
        json!({"groups": ["root", "Sales, EMEA", "a|b", "\u{e9}quipe"], "team": ["\u{e9}quipe|1", 7]});
    let (_, seen) = world.get("/claims", claims, SPOOFED).await;
    let seen = seen.unwrap();
    assert_eq!(field(&seen, "x-groups"), Some("Sales, EMEA|a%7Cb|%C3%A9quipe"), "{seen}");
    assert_eq!(field(&seen, "x-team"), Some("\u{e9}quipe%7C1|7"), "{seen}");
    assert_eq!(field(&seen, "x-team-percent"), Some("%C3%A9quipe%7C1|7"), "{seen}");
    assert!(!seen.contains("root"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_claim_goes_into_any_header_wherever_it_lies_and_no_other_claim_passes_for_it() {
    let world = World::start().await;
    let claims = |change: Value| {
        let mut claims = json!({
            "preferred_username": "ann", "upn": "ann@corp.test", "profile": {"name.full": "Ann Lee"},
            "https://example.com/groups": ["x", "y"], "realm_access": {"roles": ["app", "other"]},
            "resource_access": {"app": {"roles": ["a", "c", "b"]}},
        });
        merge(&mut claims, &change);
        claims
    };
    let (answer, seen) = world.get("/nested", claims(json!({})), SPOOFED).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = seen.unwrap();
    for (name, value) in [
        ("x-webauth-user", "ann"),
        ("x-mail", "ann@corp.test"),
        ("x-name", "Ann Lee"),
        ("x-url", "x,y"),
        ("x-groups", "a,b"),
    ] {
        assert_eq!(field(&seen, name), Some(value), "{name}: {seen}");
    }
    assert!(!seen.contains("root"), "{seen}");
    // Objects are merged by their members, so what must go is replaced as a whole.
    let only = |name: &str, value: Value| {
        let mut claims = claims(json!({}));
        claims[name] = value;
        claims
    };
    for (claims, code) in [
        (only("realm_access", json!({"roles": ["other"]})), "claim_not_accepted"),
        (only("realm_access", json!({"roles": null})), "claim_not_accepted"),
        (only("realm_access", json!(null)), "claim_not_accepted"),
        (only("realm_access", json!([{"roles": ["app"]}])), "claim_not_accepted"),
        (only("realm_access", json!({"Roles": ["app"]})), "claim_not_accepted"),
        (only("realm_access", json!({"roles": {"app": true}})), "claim_not_accepted"),
        (only("realm_access", json!("roles")), "claim_not_accepted"),
        (only("preferred_username", json!(null)), "username_missing"),
        (only("resource_access", json!({"app": {"roles": []}})), "identity_missing"),
        // None of the groups that the route sends.
        (only("resource_access", json!({"app": {"roles": ["c"]}})), "identity_missing"),
        (only("resource_access", json!({"app": [{"roles": ["a"]}]})), "identity_missing"),
        (only("resource_access", json!({"app": {"roles": [["a"]]}})), "identity_unsendable"),
    ] {
        // The dotted names as claims of their own say nothing, here as elsewhere.
        let mut claims = claims;
        claims["realm_access.roles"] = json!(["app"]);
        claims["resource_access.app.roles"] = json!(["a"]);
        let (answer, seen) = world.get("/nested", claims.clone(), "").await;
        assert_eq!((status(&answer), seen), (403, None), "{claims}: {answer}");
        assert!(body_of(&answer).contains(&format!("\"{code}\"")), "{code}, {claims}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_no_field_and_a_person_who_cannot_be_named_is_refused_by_name() {
    let world = World::start().await;
    let (answer, seen) = world.get("/named", json!({"preferred_username": "ann"}), SPOOFED).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = seen.unwrap().to_ascii_lowercase();
    for name in ["remote-email", "remote-name", "remote-groups", "remote_", "x-groups", "x-team", "root"] {
        assert!(!seen.contains(name), "{name}: {seen}");
    }
    let many: Vec<String> = (0..60).map(|number| format!("{}{number}", "\u{e9}".repeat(30))).collect();
    let named = |more: Value| {
        let mut claims = json!({"preferred_username": "ann"});
        merge(&mut claims, &more);
        claims
    };
    for (path, claims, code, words) in [
        ("/named", json!({"email": "ann@a.test", "email_verified": true}), "username_missing", "user name"),
        ("/named", json!({"preferred_username": "bob@a.test"}), "username_missing", "user name"),
        ("/named", json!({"preferred_username": ["ann"]}), "username_missing", "user name"),
        ("/optional", json!({"name": "Ann"}), "username_missing", "user name"),
        ("/mailed", json!({"preferred_username": "ann"}), "email_unverified", "verified e-mail address"),
        ("/mailed", json!({"email": "ann@a.test"}), "email_unverified", "verified e-mail address"),
        (
            "/mailed",
            json!({"email": "ann@a.test", "email_verified": false}),
            "email_unverified",
            "verified e-mail address",
        ),
        ("/named", named(json!({"groups": many})), "identity_too_long", "\\\"groups\\\""),
        ("/named", named(json!({"groups": {"a": 1}})), "identity_unsendable", "\\\"groups\\\""),
        ("/named", named(json!({"groups": [["a"]]})), "identity_unsendable", "\\\"groups\\\""),
        ("/named", named(json!({"name": "Ann\r\nRemote-User: root"})), "identity_unsendable", "\\\"name\\\""),
        ("/named", named(json!({"name": ["Ann"]})), "identity_unsendable", "\\\"name\\\""),
        ("/claims", json!({"team": "a\u{0}b"}), "identity_unsendable", "\\\"team\\\""),
    ] {
        let (answer, seen) = world.get(path, claims.clone(), SPOOFED).await;
        assert_eq!(status(&answer), 403, "{path} {claims}: {answer}");
        assert_eq!(seen, None, "{path} {claims}");
        let document: Value = serde_json::from_str(body_of(&answer)).unwrap();
        assert_eq!(document["code"], code, "{path} {claims}: {answer}");
        assert!(body_of(&answer).contains(words), "{path} {claims}: {answer}");
    }
    // With the groups that the route sends, the person with many fits.
    let and_one = [many, vec!["Sales, EMEA".to_owned()]].concat();
    let claims = json!({ "groups": and_one });
    let (answer, seen) = world.get("/claims", claims, "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(field(&seen.unwrap(), "x-groups"), Some("Sales, EMEA"));
    // On a route that does not tell the app, none of it matters.
    let (answer, seen) = world.get("/plain", json!({"groups": {"a": 1}}), SPOOFED).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = seen.unwrap();
    assert!(field(&seen, "x-user") == Some("u-1") && !seen.contains("root"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_person_the_app_is_told_of_no_one_on_any_route() {
    let world = World::start().await;
    for (path, fields) in [
        ("/optional", String::new()),
        ("/judged", "Authorization: Basic a\r\n".to_owned()),
        ("/open", String::new()),
        ("/open", format!("Authorization: Bearer {}\r\n", world.token(json!({"preferred_username": "ann"})))),
    ] {
        let (answer, seen) = world.ask(path, &format!("{fields}{SPOOFED}")).await;
        assert_eq!(status(&answer), 200, "{path}: {answer}");
        let seen = seen.unwrap().to_ascii_lowercase();
        for name in ["root", "remote", "x-groups", "x_groups", "x-team", "x_team", "x-user", "x.user"] {
            assert!(!seen.contains(name), "{path} {name}: {seen}");
        }
    }
    // A session on a route whose `Authorization` is the app's is named as on every other.
    let token = world.token(json!({"preferred_username": "ann", "team": "red"}));
    let (_, seen) = world.ask("/judged", &format!("Authorization: Basic a\r\nX-Gate: {token}\r\n")).await;
    let seen = seen.unwrap();
    assert_eq!((field(&seen, "remote-user"), field(&seen, "x-team")), (Some("ann"), Some("red")), "{seen}");
    // A session that cannot be named is not left to the app either.
    let nameless = world.token(json!({"team": "red"}));
    let fields = format!("Authorization: Basic a\r\nX-Gate: {nameless}\r\n");
    let (answer, seen) = world.ask("/judged", &fields).await;
    assert_eq!((status(&answer), seen), (403, None), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_and_an_upstream_of_http_2_are_told_the_same() {
    let (tell, told) = mpsc::channel();
    let first = Scripted::start(move |mut stream| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(read_head(&mut stream).await);
            let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let keys = format!("issuers = [\"{ISSUER}\"]\n{}", ROUTES[0].1);
    let world = World::with(Vec::new(), &crate::support::route("named", first.address, &keys)).await;
    let token = world.token(json!({"preferred_username": "ann", "groups": ["a,b"]}));
    let websocket = "GET /named HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\nConnection: Upgrade, Remote-User\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let request = format!("{websocket}Authorization: Bearer {token}\r\n{REMOTE}\r\n");
    let answer = exchange(world.gateway.address(), request).await;
    assert_eq!(status(&answer), 101, "{answer}");
    let seen: String = told.recv().unwrap();
    assert_eq!(field(&seen, "remote-user"), Some("ann"), "{seen}");
    assert_eq!(field(&seen, "remote-groups"), Some("a%2Cb"), "{seen}");
    assert!(!seen.contains("root"), "{seen}");

    let (tell, told) = mpsc::channel();
    let second = Scripted::start(move |stream| {
        let tell = tell.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let _ = tell.send(request.headers().clone());
                respond.send_response(Response::new(()), true).unwrap();
            }
        }
    })
    .await;
    let keys = format!("issuers = [\"{ISSUER}\"]\nhttp2 = true\n{}", ROUTES[0].1);
    let world = World::with(Vec::new(), &crate::support::route("named", second.address, &keys)).await;
    let token = world.token(json!({"preferred_username": "ann", "groups": ["a,b"]}));
    let answer = world.gateway.get("/named", &format!("Authorization: Bearer {token}\r\n{REMOTE}")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = told.recv().unwrap();
    assert_eq!(
        (&seen["remote-user"], &seen["remote-groups"]),
        (&"ann".parse().unwrap(), &"a%2Cb".parse().unwrap())
    );
    assert!(!format!("{seen:?}").contains("root"), "{seen:?}");
}

/// Signs an account in: the line that carries its session cookie, and the one that carries its token.
async fn signed_in(gateway: &Gateway, email: &str) -> [String; 2] {
    let mut lines = [String::new(), String::new()];
    for (line, carrier) in lines.iter_mut().zip(["cookie", "token"]) {
        let mut body = json!({"email": email, "password": PASSWORD});
        if carrier == "cookie" {
            body["session"] = json!("cookie");
        }
        let body = body.to_string();
        let answer = gateway
            .send(format!(
                "POST /auth/login HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            ))
            .await;
        assert!([200, 204].contains(&status(&answer)), "{answer}");
        *line = match field(&answer, "set-cookie") {
            Some(cookie) => format!("Cookie: {}\r\n", cookie.split(';').next().unwrap()),
            None => {
                let document: Value = serde_json::from_str(body_of(&answer)).unwrap();
                format!("Authorization: Bearer {}\r\n", document["access_token"].as_str().unwrap())
            }
        };
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_told_of_by_its_session_and_by_its_token_alike() {
    let upstream = Upstream::start().await;
    let keys = format!("{}\nauth = \"required\"", ROUTES[0].1);
    let route = crate::support::route("named", upstream.address, &keys);
    let gateway = Gateway::start(&format!("[passwords]\nbcrypt_cost = 4\n{route}")).await;
    let account = |email: &str| json!({"email": email, "password": PASSWORD, "email_verified": true});
    let mut ann = account("ann@example.com");
    merge(&mut ann, &json!({"username": "Ann", "groups": ["staff", "Sales, EMEA"], "name": "Ann"}));
    for account in [ann, account("bob@example.com")] {
        let made = gateway.admin("POST", "/admin/v1/users", &account).await;
        assert_eq!(made.0, 201, "{made:?}");
    }
    let ask = async |fields: &str| {
        let request =
            format!("GET /named HTTP/1.1\r\nHost: localhost:8080\r\n{fields}Connection: close\r\n\r\n");
        gateway.send(request).await
    };
    for line in signed_in(&gateway, "ann@example.com").await {
        let answer = ask(&format!("{line}{REMOTE}")).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let seen = upstream.requests().last().cloned().unwrap();
        for (name, value) in [
            ("remote-user", "ann"),
            ("remote-email", "ann@example.com"),
            ("remote-name", "Ann"),
            ("remote-groups", "Sales%2C EMEA,staff"),
        ] {
            assert_eq!(field(&seen, name), Some(value), "{seen}");
        }
        assert!(!seen.contains("root"), "{seen}");
    }
    let navigation = "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n\
                      Accept: text/html\r\nAccept-Language: en\r\n";
    let sent = upstream.requests().len();
    for line in signed_in(&gateway, "bob@example.com").await {
        let answer = ask(&line).await;
        assert_eq!(status(&answer), 403, "{answer}");
        assert!(body_of(&answer).contains("\"username_missing\""), "{answer}");
        // A person reads the same on a page.
        let answer = ask(&format!("{line}{navigation}")).await;
        assert_eq!(status(&answer), 403, "{answer}");
        assert!(field(&answer, "content-type").unwrap().starts_with("text/html"), "{answer}");
        assert!(body_of(&answer).contains("your account has none"), "{answer}");
    }
    assert_eq!(upstream.requests().len(), sent);
}

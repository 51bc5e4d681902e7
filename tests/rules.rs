//! What a route's `match` and `public` say, in a running gateway: each form by real requests, and by which app they are answered.

use crate::support::keys::{Key, jwks, now};
use crate::support::{Gateway, Upstream, body_of, field, status};
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.test";

/// A gateway with an upstream of its own for each name.
struct World {
    gateway: Gateway,
    apps: Vec<(String, Upstream)>,
    key: Key,
    _keys: tempfile::TempDir,
}

impl World {
    /// `@name` in `text` stands for the upstream of that name.
    async fn start(server: &str, text: &str) -> World {
        let (keys, key) = (tempfile::tempdir().unwrap(), Key::ed("known"));
        let file = keys.path().join("keys.json");
        std::fs::write(&file, jwks(&[&key])).unwrap();
        let mut apps = Vec::new();
        let mut config = format!(
            "[tokens]\nissuer = \"https://us.test\"\naudience = \"api\"\n[[issuers]]\nissuer = \"{ISSUER}\"\n\
             jwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"EdDSA\"]\n{text}",
            file.display()
        );
        while let Some((_, after)) = config.split_once('@') {
            let name: String = after.chars().take_while(char::is_ascii_alphabetic).collect();
            let upstream = Upstream::start().await;
            config = config.replace(&format!("\"@{name}\""), &format!("\"http://{}\"", upstream.address));
            apps.push((name, upstream));
        }
        World { gateway: Gateway::start_with(server, &config).await, apps, key, _keys: keys }
    }

    fn token(&self) -> String {
        let (now, end) = (now(), now() + 900);
        self.key.token(&json!({"iss": ISSUER, "aud": "api", "sub": "ann", "iat": now, "exp": end}))
    }

    /// The name of the app that answered, or the status and the code of the refusal.
    async fn ask(&self, method: &str, url: &str, fields: &str) -> String {
        let (host, path) = url.split_once('/').unwrap();
        let seen = |app: &Upstream| app.requests().len();
        let before: Vec<usize> = self.apps.iter().map(|(_, app)| seen(app)).collect();
        let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
        let request =
            format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\n{fields}{length}Connection: close\r\n\r\n");
        let answer = self.gateway.send(request).await;
        let asked: Vec<&str> = self
            .apps
            .iter()
            .zip(before)
            .filter(|((_, app), before)| seen(app) > *before)
            .map(|((name, _), _)| name.as_str())
            .collect();
        match asked[..] {
            [] => {
                let problem: Value = serde_json::from_str(body_of(&answer)).unwrap_or_default();
                let allow = field(&answer, "allow").map(|allow| format!(" {allow}")).unwrap_or_default();
                format!("{} {}{allow}", status(&answer), problem["code"].as_str().unwrap_or_default())
            }
            [one] => one.to_owned(),
            _ => panic!("{asked:?}"),
        }
    }

    async fn all(&self, cases: &[(&str, &str)]) {
        for (request, want) in cases {
            let (method, url) = request.split_once(' ').unwrap();
            assert_eq!(self.ask(method, url, "").await, *want, "{request}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_a_match_takes_what_it_says() {
    let route = |name: &str, taken: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ {taken} }}\nupstream = \"@{name}\"\nauth = \"none\"\n"
        )
    };
    let text = [
        route("lists", "host = [\"one.test\", \"*.two.test\"], path = [\"/a\", \"/b/c\"]"),
        route("exact", "path = [\"=/\", \"=/robots.txt\", \"=/docs/\"]"),
        route("hooks", "path = \"/projects/*/hooks\", methods = [\"POST\", \"PUT\"]"),
        route("projects", "path = \"/projects\""),
        route("scripts", "path = \"=/*.js\""),
        route("parts", "path = \"/v*-beta\""),
        // Decided by a third path, the narrower one.
        route("star", "path = \"/*x/*\""),
        route("second", "path = \"/y*/two\""),
        route("both", "path = [\"/y*x/two\"]"),
    ];
    let world = World::start("", &text.concat()).await;
    world
        .all(&[
            ("GET one.test/a", "lists"),
            ("GET one.test/a/x", "lists"),
            ("GET one.test/ab", "404 no_route"),
            ("GET deep.two.test/b/c", "lists"),
            ("GET two.test/b/c", "404 no_route"),
            ("GET three.test/a", "404 no_route"),
            ("GET any.test/", "exact"),
            ("GET any.test/robots.txt", "exact"),
            ("GET any.test/robots.txt/x", "404 no_route"),
            ("GET any.test/docs/", "exact"),
            ("GET any.test/docs", "404 no_route"),
            ("POST any.test/projects/7/hooks", "hooks"),
            ("PUT any.test/projects/7/hooks/x", "hooks"),
            // A wider path is no fallback for the method.
            ("GET any.test/projects/7/hooks", "405 method_not_allowed POST, PUT"),
            ("GET any.test/projects/7/hook", "projects"),
            ("POST any.test/projects/7/8/hooks", "projects"),
            ("POST any.test/projects//hooks", "400 path_empty_segment"),
            ("GET any.test/app.js", "scripts"),
            ("GET any.test/.js", "scripts"),
            ("GET any.test/app.js/x", "404 no_route"),
            ("GET any.test/app.jsx", "404 no_route"),
            ("GET any.test/v2-beta/x", "parts"),
            ("GET any.test/v2/x", "404 no_route"),
            ("GET any.test/x/one", "star"),
            ("GET any.test/y/two", "second"),
            ("GET any.test/yx/two/three", "both"),
            ("GET any.test/yx/three", "star"),
            ("GET any.test/yzx/two", "both"),
        ])
        .await;
}

/// Before, each line of `public` was a route of its own.
const THREE_APPS: &str = r#"
[[routes]]
name = "grafana"
match = { host = "grafana.test" }
upstream = "@grafana"
public = ["/public", "=/robots.txt", "=/api/health"]

[[routes]]
name = "gitea"
match = { host = ["git.test", "code.test"] }
upstream = "@gitea"
public = ["/assets", "=/favicon.ico", "POST =/user/saml/acs"]

[[routes]]
name = "shop"
match = { host = "shop.test" }
upstream = "@shop"
public = ["/*.js", "/*.css", "GET =/manifest.json", "POST /projects/*/hooks", "/projects/open"]

[[routes]]
name = "private"
match = { host = "shop.test", path = "/projects/secret" }
upstream = "@shop"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn three_apps_say_in_one_route_each_what_passes_without_sign_in() {
    let world = World::start("", THREE_APPS).await;
    let no = "401 token_missing";
    world
        .all(&[
            ("GET grafana.test/public/build/app.js", "grafana"),
            ("HEAD grafana.test/public", "grafana"),
            ("POST grafana.test/public/build/app.js", no),
            ("GET grafana.test/publicity", no),
            ("GET grafana.test/robots.txt", "grafana"),
            ("GET grafana.test/robots.txt/x", no),
            ("GET grafana.test/api/health", "grafana"),
            ("GET grafana.test/", no),
            ("GET code.test/assets/logo.svg", "gitea"),
            ("POST git.test/user/saml/acs", "gitea"),
            ("GET git.test/user/saml/acs", no),
            ("GET git.test/user", no),
            ("GET shop.test/app.js", "shop"),
            ("GET shop.test/app.js/map", "shop"),
            ("GET shop.test/deep/app.js", no),
            ("GET shop.test/manifest.json", "shop"),
            ("HEAD shop.test/manifest.json", "401 "),
            ("POST shop.test/projects/7/hooks", "shop"),
            ("GET shop.test/projects/7/hooks", no),
            ("POST shop.test/projects/7", no),
            // Where two entries overlap, both hold.
            ("POST shop.test/projects/open/hooks", "shop"),
            ("GET shop.test/projects/open/hooks", "shop"),
        ])
        .await;
    // Another route's path stays closed.
    assert_eq!(world.ask("POST", "shop.test/projects/secret/hooks", "").await, no);
    // A good token is told to the app as ever, and one that is not good is none.
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let subject = |world: &World| {
        let head = world.apps[0].1.requests().last().cloned().unwrap();
        field(&head, "x-auth-subject").map(str::to_owned)
    };
    assert_eq!(world.ask("GET", "grafana.test/public/x", &bearer(&world.token())).await, "grafana");
    assert_eq!(subject(&world).as_deref(), Some("ann"));
    let spoofed = format!("{}X-Auth-Subject: root\r\n", bearer("x.y.z"));
    assert_eq!(world.ask("GET", "grafana.test/public/x", &spoofed).await, "grafana");
    assert_eq!(subject(&world), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_leads_from_what_is_public_to_what_is_not() {
    let world = World::start("", THREE_APPS).await;
    for path in [
        "public/../admin",
        "public/%2e%2e/admin",
        "public/..%2fadmin",
        "public%2f..%2fadmin",
        "public/..;/admin",
        "public/%252e%252e/admin",
        "public//../admin",
        "public\\..\\admin",
        "public/%5c..%5cadmin",
        "robots.txt/../admin",
        "robots.txt%00.js",
        "api/health/../../admin",
    ] {
        let answer = world.ask("GET", &format!("grafana.test/{path}"), "").await;
        assert!(answer.starts_with("400 ") || answer.starts_with("401 "), "{path}: {answer}");
    }
    // What some server reads as public is not, by the path that it was sent by.
    for path in ["PUBLIC/x", "robots.txt;x", "robots.txt%23", "%70ublic;/x", "api/health.", "Robots.txt"] {
        let answer = world.ask("GET", &format!("grafana.test/{path}"), "").await;
        assert!(answer.starts_with("400 ") || answer.starts_with("401 "), "{path}: {answer}");
    }
    // Nor does a method that an app may take for another one.
    for (method, fields) in
        [("GET", "X-HTTP-Method-Override: POST\r\n"), ("get", ""), ("OPTIONS", ""), ("PROPFIND", "")]
    {
        let answer = world.ask(method, "grafana.test/public/x", fields).await;
        match method {
            "GET" => {
                assert_eq!(answer, "grafana");
                let head = world.apps[0].1.requests().last().cloned().unwrap();
                assert_eq!(field(&head, "x-http-method-override"), None);
            }
            _ => assert!(answer.starts_with("40"), "{method}: {answer}"),
        }
    }
    // A WebSocket carries more than what is asked for by GET.
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let request = format!("GET /public/x HTTP/1.1\r\nHost: grafana.test\r\n{upgrade}\r\n");
    assert_eq!(status(&world.gateway.send(request).await), 401);
}

/// No sign-in at home; a part for two networks only.
const HOME: &str = r#"
[[routes]]
name = "home"
match = { networks = ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"] }
upstream = "@home"
auth = "none"

[[routes]]
name = "guests"
match = { networks = ["10.9.0.0/16"] }
upstream = "@guests"

[[routes]]
name = "app"
upstream = "@app"
public = ["POST =/hook"]

[[routes]]
name = "admin"
match = { path = "/admin", networks = ["127.0.0.1", "10.0.0.7"] }
upstream = "@admin"
auth = "none"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn networks_hold_the_address_of_the_client() {
    let world = World::start("", HOME).await;
    world
        .all(&[("GET app.test/", "home"), ("PUT app.test/hook", "home"), ("GET app.test/admin/x", "admin")])
        .await;
    // From a peer that is no trusted proxy, whatever names another client hides who it is.
    for field in [
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-For:",
        "x-forwarded-for: unknown",
        "Forwarded: for=127.0.0.1",
        "Forwarded:",
        "X-Real-IP: 127.0.0.1",
        "X-REAL-IP: x",
        "X_Forwarded_For: 127.0.0.1",
        "X_Real_IP: 127.0.0.1",
    ] {
        let fields = format!("{field}\r\n");
        assert_eq!(world.ask("GET", "app.test/", &fields).await, "401 token_missing", "{field}");
        assert_eq!(world.ask("GET", "app.test/admin", &fields).await, "403 network", "{field}");
        // What needs no network stays as it is.
        assert_eq!(world.ask("POST", "app.test/hook", &fields).await, "app", "{field}");
        assert_eq!(world.ask("PUT", "app.test/hook", &fields).await, "401 token_missing", "{field}");
    }
    assert_eq!(world.ask("GET", "app.test/", "X-Forwarded-Proto: https\r\n").await, "home");
    assert_eq!(world.ask("GET", "app.test/", "Via: 1.1 proxy\r\n").await, "home");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_client_is_the_one_that_the_proxy_names() {
    let no = ("401 token_missing", "403 network");
    for (name, key) in [
        ("X-Forwarded-For", ""),
        ("X-Real-IP", "client_address = \"x-real-ip\""),
        ("Forwarded", "client_address = \"forwarded\""),
    ] {
        let server = format!("trusted_proxies = [\"127.0.0.1\", \"172.16.0.1\"]\n{key}");
        let world = World::start(&server, HOME).await;
        let line = |address: &str| match name {
            "Forwarded" => format!("Forwarded: for=\"{address}\"\r\n"),
            _ => format!("{name}: {address}\r\n"),
        };
        for (address, want) in [
            ("10.1.2.3", ("home", "403 network")),
            ("10.0.0.7", ("home", "admin")),
            ("10.0.0.7:4711", ("home", "admin")),
            // The narrower network of two that hold it.
            ("10.9.1.1", ("401 token_missing", "403 network")),
            ("[fd00::1]", ("home", "403 network")),
            ("::ffff:10.0.0.7", ("home", "admin")),
            ("11.0.0.1", no),
            ("fe80::1", no),
            // Unreadable.
            ("unknown", no),
            ("10.0.0.7x", no),
            ("_hidden", no),
            ("010.0.0.7", no),
            ("", no),
        ] {
            let fields = line(address);
            let is = (
                world.ask("GET", "app.test/", &fields).await,
                world.ask("GET", "app.test/admin", &fields).await,
            );
            assert_eq!((&*is.0, &*is.1), want, "{fields}");
        }
        // Nothing else is believed, in front of it or beside it, and two fields are one too many.
        let good = line("10.0.0.7");
        let stranger = line("6.6.6.6");
        for other in
            ["X-Forwarded-For: 10.0.0.7\r\n", "X-Real-IP: 10.0.0.7\r\n", "Forwarded: for=10.0.0.7\r\n"]
        {
            if other.starts_with(&format!("{name}:")) {
                continue;
            }
            assert_eq!(
                world.ask("GET", "app.test/admin", &format!("{other}{stranger}")).await,
                "403 network",
                "{other}"
            );
            assert_eq!(world.ask("GET", "app.test/admin", other).await, "403 network", "{other}");
        }
        let doubled = [format!("{good}{stranger}"), format!("{stranger}{good}")];
        let is: Vec<String> = [
            world.ask("GET", "app.test/admin", &doubled[0]).await,
            world.ask("GET", "app.test/admin", &doubled[1]).await,
        ]
        .into();
        match name {
            // One address is all that the field holds.
            "X-Real-IP" => assert_eq!(is, ["403 network", "403 network"]),
            // A list in two lines: the last one is the word of the proxy.
            _ => assert_eq!(is, ["403 network", "admin"], "{name}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_puts_in_front_of_the_list_is_not_its_address() {
    let world = World::start("trusted_proxies = [\"127.0.0.1\", \"172.16.0.1\"]", HOME).await;
    for (fields, want) in [
        ("X-Forwarded-For: 10.0.0.7, 6.6.6.6", "403 network"),
        ("X-Forwarded-For: 10.0.0.7, 6.6.6.6, 172.16.0.1", "403 network"),
        ("X-Forwarded-For: 6.6.6.6, 10.0.0.7", "admin"),
        ("X-Forwarded-For: 10.0.0.7, x, 172.16.0.1", "403 network"),
        ("X-Forwarded-For: 10.0.0.7,", "403 network"),
    ] {
        assert_eq!(world.ask("GET", "app.test/admin", &format!("{fields}\r\n")).await, want, "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_network_is_a_page_for_people() {
    let world = World::start("", HOME).await;
    let browser = "X-Forwarded-For: 6.6.6.6\r\nAccept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    let answer = world.gateway.get("/admin", browser).await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert!(field(&answer, "content-type").is_some_and(|kind| kind.starts_with("text/html")), "{answer}");
}

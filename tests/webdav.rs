//! COPY and MOVE through a running gateway (WebDAV, RFC 4918): the path in `Destination` is judged as the path of the
//! request line is, and reaches the app as it was judged.

use serde_json::json;

use crate::support::keys::{Key, jwks, merge, now};
use crate::support::neighbours::mint;
use crate::support::{Gateway, Upstream, field, route, routes, status};

const ISSUER: &str = "https://issuer.test";

struct World {
    gateway: Gateway,
    upstream: Upstream,
    key: Key,
    _keys: tempfile::TempDir,
}

async fn world() -> World {
    let upstream = Upstream::start().await;
    let (keys, key) = (tempfile::tempdir().unwrap(), Key::ed("known"));
    let file = keys.path().join("keys.json");
    std::fs::write(&file, jwks(&[&key])).unwrap();
    let mut text = format!(
        "[tokens]\nissuer = \"https://us.test\"\naudience = \"api\"\n[[issuers]]\nissuer = \"{ISSUER}\"\n\
         jwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"EdDSA\"]\n",
        file.display()
    );
    let app = upstream.address.to_string();
    // Port 9 is the discard service: nothing may be sent there, so nothing has to answer.
    for (name, at, to, more) in [
        ("public", "/public", &*app, "auth = \"none\""),
        ("team", "/team", &app, "auth = \"required\""),
        ("admin", "/admin", &app, "auth = \"required\"\nrequire = { scopes = [\"admin\"] }"),
        ("cookie", "/cookie", &app, "auth = \"required\"\ntoken = { cookie = \"one\" }"),
        ("other-cookie", "/other-cookie", &app, "auth = \"required\"\ntoken = { cookie = \"two\" }"),
        ("tree", "/tree", &app, "auth = \"none\""),
        ("closed", "/tree/closed", &app, "auth = \"required\""),
        ("own-host", "/own-host", &app, "auth = \"none\"\npreserve_host = false"),
        ("elsewhere", "/elsewhere", "127.0.0.1:9", "auth = \"none\""),
    ] {
        text += &format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"{at}\" }}\nupstream = [\"http://{to}\"]\n{more}\n"
        );
    }
    text += &format!(
        "[[routes]]\nname = \"read\"\nmatch = {{ path = \"/read\", methods = [\"GET\"] }}\n\
         upstream = [\"http://{app}\"]\nauth = \"none\"\n"
    );
    World { gateway: Gateway::start(&text).await, upstream, key, _keys: keys }
}

impl World {
    fn token(&self, subject: &str, more: serde_json::Value) -> String {
        let (now, end) = (now(), now() + 900);
        let mut claims = json!({"iss": ISSUER, "aud": "api", "sub": subject, "iat": now, "exp": end});
        merge(&mut claims, &more);
        self.key.token(&claims)
    }

    async fn ask(&self, method: &str, target: &str, fields: &str) -> String {
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: dav.test\r\n{fields}Connection: close\r\n\r\n");
        self.gateway.send(request).await
    }

    /// The `Destination` that reached the app.
    async fn sent(&self, target: &str, fields: &str) -> Option<String> {
        let answer = self.ask("MOVE", target, fields).await;
        assert_eq!(status(&answer), 200, "{fields}: {answer}");
        let last = self.upstream.requests().last().cloned().unwrap();
        field(&last, "destination").map(str::to_owned)
    }

    async fn refused(&self, method: &str, target: &str, fields: &str, want: (u16, &str)) {
        let before = self.upstream.requests().len();
        let answer = self.ask(method, target, fields).await;
        let code = format!("\"code\":\"{}\"", want.1);
        assert!(status(&answer) == want.0 && answer.contains(&code), "{method} {target} {fields}: {answer}");
        assert_eq!(self.upstream.requests().len(), before, "{method} {target} {fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_reaches_the_app_as_it_was_judged() {
    let world = world().await;
    for (written, sent) in [
        ("/public/b", "/public/b"),
        ("/public/%62", "/public/b"),
        ("http://dav.test/public/b", "http://dav.test/public/b"),
        ("https://DAV.test:443/public/%7eb", "https://dav.test/public/~b"),
    ] {
        let got = world.sent("/public/a", &format!("Destination: {written}\r\n")).await;
        assert_eq!(got.as_deref(), Some(sent), "{written}");
    }
    // The app answers what is missing.
    assert_eq!(world.sent("/public/a", "").await, None);
    // It is told of its own host only, so it compares the Destination with that.
    let app = world.upstream.address;
    let own = world.sent("/own-host/a", "Destination: https://dav.test/own-host/b\r\n").await;
    assert_eq!(own, Some(format!("http://{app}/own-host/b")));
    // A field of other methods is the app's.
    let answer = world.ask("PUT", "/public/a", "Destination: /admin/b\r\nContent-Length: 0\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    let last = world.upstream.requests().last().cloned().unwrap();
    assert_eq!(field(&last, "destination"), Some("/admin/b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_destination_leads_where_the_callers_own_request_would_not() {
    let world = world().await;
    for method in ["COPY", "MOVE", "copy", "Move", "BCOPY", "BMOVE"] {
        for to in ["/admin/x", "http://dav.test/admin/x", "https://dav.test/%61dmin/x"] {
            let fields = format!("Destination: {to}\r\n");
            world.refused(method, "/public/a", &fields, (401, "token_missing")).await;
        }
    }
    let malformed = (400, "destination_malformed");
    for (fields, want) in [
        ("Destination: /public/b\r\nDestination: /public/b\r\n", malformed),
        ("Destination: /public/b\r\ndestination: /admin/b\r\n", malformed),
        ("Destination:\r\n", malformed),
        ("Destination: public/b\r\n", malformed),
        ("Destination: //dav.test/admin/b\r\n", malformed),
        ("Destination: /public/../admin/b\r\n", malformed),
        ("Destination: /public/%2e%2e/admin/b\r\n", malformed),
        ("Destination: /public/b?/../admin\r\n", malformed),
        ("Destination: /public/..%2fadmin\r\n", malformed),
        ("Destination: /public/%252e%252e/admin\r\n", malformed),
        ("Destination: /public/..;/admin\r\n", malformed),
        ("Destination: /TREE/closed/x\r\n", (404, "no_route")),
        ("Destination: /tree/CLOSED/x\r\n", malformed),
        ("Destination: http://u@dav.test/public/b\r\n", malformed),
        ("Destination: http://other.test/public/b\r\n", (403, "destination_other_host")),
        ("Destination: http://dav.test:81/public/b\r\n", (403, "destination_other_host")),
        ("Destination: /elsewhere/b\r\n", (403, "destination_other_upstream")),
        ("Destination: /nowhere/b\r\n", (404, "no_route")),
        ("Destination: /auth/login\r\n", (404, "no_route")),
        ("Destination: /read/b\r\n", (405, "method_not_allowed")),
        // What is copied there has members, and one may be called "closed".
        ("Destination: /tree\r\n", (403, "destination_covers_other_route")),
        ("Destination: /tree/\r\n", (403, "destination_covers_other_route")),
        ("Destination: /Tree;x/\r\n", (404, "no_route")),
    ] {
        world.refused("MOVE", "/public/a", fields, want).await;
    }
    // Nor does what lies below the path come out of it.
    let fields = "Destination: /public/b\r\n";
    world.refused("COPY", "/tree", fields, (403, "destination_covers_other_route")).await;
    assert_eq!(world.sent("/tree/open", fields).await.as_deref(), Some("/public/b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_asks_for_what_its_route_asks_for() {
    let world = world().await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let ann = bearer(&world.token("ann", json!({})));
    let root = bearer(&world.token("root", json!({"scope": "admin"})));
    let to = |credential: &str, path: &str| format!("{credential}Destination: {path}\r\n");
    for from in ["/public/a", "/team/a"] {
        assert!(world.sent(from, &to(&root, "/admin/b")).await.is_some());
        assert!(world.sent(from, &to(&ann, "/team/b")).await.is_some());
        world.refused("MOVE", from, &to(&ann, "/admin/b"), (403, "insufficient_scope")).await;
        world
            .refused("MOVE", from, &to("Authorization: Bearer x\r\n", "/team/b"), (401, "invalid_token"))
            .await;
    }
    // The way out asks for the path's own credential as ever.
    world.refused("COPY", "/admin/a", &to("", "/public/b"), (401, "token_missing")).await;
    // Each route looks for its own cookie, and both are of one person or of two.
    let cookies = |one: &str, two: &str| {
        let (one, two) = (world.token(one, json!({})), world.token(two, json!({})));
        format!("Cookie: one={one}; two={two}\r\nDestination: /other-cookie/b\r\n")
    };
    assert!(world.sent("/cookie/a", &cookies("ann", "ann")).await.is_some());
    world.refused("MOVE", "/cookie/a", &cookies("ann", "root"), (400, "credentials_ambiguous")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_destination_leads_to_a_path_of_the_gateways_own() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let ask = async |to: &str| {
        let request =
            format!("MOVE /a HTTP/1.1\r\nHost: dav.test\r\nDestination: {to}\r\nConnection: close\r\n\r\n");
        status(&gateway.send(request).await)
    };
    assert_eq!((ask("/auth/login").await, ask("/.well-known/jwks.json").await), (404, 404));
    let beside =
        "MOVE /a HTTP/1.1\r\nHost: localhost\r\nDestination: /.palisade/session\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&gateway.send(beside).await), 404);
    assert_eq!(upstream.requests(), [""; 0]);
    assert_eq!(ask("/author").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_beside_the_apps_is_no_destination_however_it_is_written() {
    for native in ["", "[native]\nhosts = [\"localhost\"]\n"] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(&format!("{native}{}", routes(upstream.address))).await;
        let ask = async |method: &str, to: &str| {
            let request = format!(
                "{method} /a HTTP/1.1\r\nHost: localhost\r\nDestination: {to}\r\nConnection: close\r\n\r\n"
            );
            status(&gateway.send(request).await)
        };
        for path in ["/session", "/sign-out", "/token", "/carry"] {
            for method in ["COPY", "MOVE", "bmove"] {
                for to in [
                    format!("/.palisade{path}"),
                    format!("/%2Epalisade{path}"),
                    format!("/.p%61lisade{path}"),
                    format!("http://localhost/.palisade{path}"),
                    format!("https://LOCALHOST/%2epalisade{path}"),
                ] {
                    assert_eq!(ask(method, &to).await, 404, "{method} {to}");
                }
            }
        }
        assert_eq!(upstream.requests(), [""; 0]);
        assert_eq!(ask("MOVE", "/.palisades/session").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_the_app_judges_both_paths_by_its_own_field() {
    let upstream = Upstream::start().await;
    let judged = "authorization = \"app\"\nwithout_session = \"app\"\ntoken = { header = \"X-Gate\" }";
    let to = |name: &str, keys: &str| route(name, upstream.address, keys);
    let text = [to("files", judged), to("shared", judged), to("ours", "")].concat();
    let gateway = Gateway::start(&text).await;
    let token = mint(&gateway, "ann").await;
    let ask = async |from: &str, to: &str, fields: &str| {
        let request = format!(
            "MOVE {from} HTTP/1.1\r\nHost: dav.test\r\n{fields}Destination: {to}\r\nConnection: close\r\n\r\n"
        );
        status(&gateway.send(request).await)
    };
    let basic = "Authorization: Basic eDp5\r\n";
    assert_eq!(ask("/files/a", "/shared/b", basic).await, 200);
    let seen = upstream.only();
    assert_eq!(field(&seen, "authorization"), Some("Basic eDp5"));
    assert_eq!((field(&seen, "destination"), field(&seen, "x-auth-subject")), (Some("/shared/b"), None));
    let ours = format!("Authorization: Bearer {token}\r\n");
    for (from, to, fields) in [
        ("/files/a", "/shared/b", ""),
        ("/files/a", "/ours/b", basic),
        ("/ours/a", "/files/b", basic),
        // The token is taken out, and the app would see no field of its own.
        ("/ours/a", "/files/b", &*ours),
    ] {
        assert_eq!(ask(from, to, fields).await, 401, "{from} {to} {fields}");
    }
    assert_eq!(upstream.requests().len(), 1);
    let both = format!("{basic}X-Gate: {token}\r\n");
    assert_eq!(ask("/files/a", "/shared/b", &both).await, 200);
    assert_eq!(field(&upstream.requests()[1], "x-auth-subject"), Some("ann"));
}

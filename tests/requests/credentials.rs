//! Credentials beside the one that counts: schemes that are none of ours, leftover tokens, cookies that another
//! site's page sends, and cookies that are no longer good.

use palisade::app::{self, Options};
use palisade::config;
use serde_json::json;
use tempfile::TempDir;

use crate::support::keys::{Key, jwks, now};
use crate::support::neighbours::{mint, revoke};
use crate::support::{Gateway, Upstream, field, routes, status};

const ISSUER: &str = "https://issuer.test";
const OTHER: &str = "https://other.test";

struct House {
    gateway: Gateway,
    upstream: Upstream,
    key: Key,
    _keys: TempDir,
}

/// A gateway that people reach at `public_url`, with one route for each way to ask for a token.
async fn house(public_url: &str, server: &str) -> House {
    let upstream = Upstream::start().await;
    let target = upstream.address;
    let keys = tempfile::tempdir().unwrap();
    let key = Key::ed("known");
    let mut text = format!(
        "public_url = \"{public_url}\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n{server}\n\
         [store]\nurl = \"sled:./data\"\n[tokens]\nissuer = \"https://us.test\"\naudience = \"api\"\n"
    );
    for issuer in [ISSUER, OTHER] {
        let file = keys.path().join("keys.json");
        std::fs::write(&file, jwks(&[&key])).unwrap();
        text += &format!(
            "[[issuers]]\nissuer = \"{issuer}\"\njwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"EdDSA\"]\n",
            file.display()
        );
    }
    for (name, auth, more) in [
        ("open", "none", ""),
        ("closed", "required", "token = { cookie = \"sid\" }"),
        ("either", "optional", "token = { cookie = \"sid\" }"),
        ("either-host", "optional", "token = { cookie = \"__Host-sid\" }"),
        ("either-one", "optional", "token = { cookie = \"sid\" }\nissuers = [\"https://issuer.test\"]"),
        ("either-scoped", "optional", "token = { cookie = \"sid\" }\nrequire = { scopes = [\"write\"] }"),
        ("chat", "required", "token = { websocket_protocol = true, query = \"access_token\" }"),
        ("any-chat", "optional", "token = { websocket_protocol = true, query = \"access_token\" }"),
    ] {
        text += &format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\nupstream = [\"http://{target}\"]\nauth = \"{auth}\"\n{more}\n"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, &text).unwrap();
    let config = config::parse(&text, &file, &|_| None).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let running = app::start(config, Options::default()).await.unwrap();
    House { gateway: Gateway { running, folder }, upstream, key, _keys: keys }
}

impl House {
    fn last(&self) -> String {
        self.upstream.requests().last().cloned().unwrap_or_default()
    }

    /// A token of the external issuer that ends `seconds` from now.
    fn token(&self, issuer: &str, seconds: i64) -> String {
        let end = now().saturating_add_signed(seconds);
        self.key.token(&json!({"iss": issuer, "aud": "api", "sub": "ann", "iat": end - 900, "exp": end}))
    }

    async fn ask(&self, method: &str, target: &str, fields: &str) -> String {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: app.test\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        self.gateway.send(request).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_schemes_reach_the_app_as_they_were_sent() {
    let house = house("http://localhost:8080", "").await;
    for line in [
        "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0f",
        "OAuth oauth_consumer_key=\"a\",oauth_token=\"b\", oauth_signature=\"c\"",
        "Hawk id=\"dh37\", ts=\"1353832234\", mac=\"6R4r\"",
        "Signature keyId=\"rsa\",algorithm=\"hs2019\"",
        "Digest username=\"a\", realm=\"b\"",
    ] {
        let fields = format!("Authorization: {line}\r\n");
        for path in ["/open", "/either"] {
            let answer = house.gateway.get(path, &fields).await;
            assert_eq!(status(&answer), 200, "{path} {line}: {answer}");
            assert_eq!(field(&house.last(), "authorization"), Some(line), "{path}");
            assert_eq!(field(&house.last(), "x-auth-subject"), None);
        }
        assert_eq!(status(&house.gateway.get("/closed", &fields).await), 401, "{line}");
    }
    // Where tokens are not looked at, one line is the app's matter, whatever it holds; two never are.
    assert_eq!(status(&house.gateway.get("/open", "Authorization: Bearer a, Bearer b\r\n").await), 200);
    let forwarded = house.upstream.requests().len();
    for fields in [
        "Authorization: Bearer a, Bearer b\r\n",
        "Authorization: Basic eDp5,bearer b\r\n",
        "Authorization: AWS4-HMAC-SHA256 Credential=a, \tBEARER b\r\n",
        "Authorization: Digest a=\"b\",,Bearer b\r\n",
        "Authorization: Bearer\tb\r\n",
        "Authorization: ,Bearer b\r\n",
    ] {
        for path in ["/closed", "/either"] {
            let answer = house.gateway.get(path, fields).await;
            assert_eq!(status(&answer), 400, "{path} {fields}: {answer}");
        }
    }
    for path in ["/open", "/closed", "/either"] {
        let two = "Authorization: AWS4-HMAC-SHA256 a=b\r\nauthorization: Bearer b\r\n";
        assert_eq!(status(&house.gateway.get(path, two).await), 400, "{path}");
    }
    assert_eq!(house.upstream.requests().len(), forwarded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_token_does_not_reach_the_app() {
    let house = house("http://localhost:8080", "").await;
    let bearer = format!("Authorization: Bearer {}\r\n", house.token(ISSUER, 600));
    for (path, fields) in [("/chat", &*bearer), ("/any-chat", &bearer), ("/any-chat", "")] {
        for (query, left) in [
            ("?access_token=secret", ""),
            ("?a=1&access_token=secret&b=2", "?a=1&b=2"),
            ("?a=1;access_token=secret", "?a=1"),
            ("?access%5Ftoken=secret&a=%2F", "?a=%2F"),
            ("?Access_Token=secret&a", "?a"),
            ("?access.token=secret&a", "?a"),
            ("?access_token[]=secret&a", "?a"),
            ("?my_access_token=1", "?my_access_token=1"),
        ] {
            let answer = house.gateway.get(&format!("{path}{query}"), fields).await;
            assert_eq!(status(&answer), 200, "{path}{query}: {answer}");
            let seen = house.last();
            assert!(seen.starts_with(&format!("GET {path}{left} HTTP/1.1\r\n")), "{query}: {seen}");
            assert!(!seen.contains("secret"), "{seen}");
        }
        let protocols = format!("{fields}Sec-WebSocket-Protocol: chat, bearer.secret\r\n");
        let answer = house.gateway.get(path, &protocols).await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert_eq!(field(&house.last(), "sec-websocket-protocol"), Some("chat"));
    }
    // Where the route does not name it, the parameter is the app's.
    let answer = house.gateway.get("/closed?access_token=theirs", &bearer).await;
    assert!(answer.ends_with("GET /closed?access_token=theirs HTTP/1.1"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_counts_only_for_the_scheme_that_people_see() {
    let trusting = "trusted_proxies = [\"127.0.0.1\"]";
    for (public_url, server, proto, own, crossing) in [
        ("https://app.test", "", "", "https", "http"),
        ("http://app.test", "", "", "http", "https"),
        // A stranger's word counts for nothing, that of a believed proxy does.
        ("https://app.test", "", "X-Forwarded-Proto: http\r\n", "https", "http"),
        ("https://app.test", trusting, "X-Forwarded-Proto: http\r\n", "http", "https"),
        ("http://app.test", trusting, "X-Forwarded-Proto: https\r\n", "https", "http"),
        ("https://app.test", trusting, "", "https", "http"),
        ("https://app.test", trusting, "X-Forwarded-Proto: http, https\r\n", "https", "http"),
    ] {
        let house = house(public_url, server).await;
        let cookie = format!("Cookie: sid={}\r\n{proto}", house.token(ISSUER, 600));
        let answer = house.ask("POST", "/closed", &format!("{cookie}Origin: {own}://app.test\r\n")).await;
        assert_eq!(status(&answer), 200, "{public_url} {server} {proto}: {answer}");
        for origin in [format!("{crossing}://app.test"), "https://evil.test".to_owned(), "null".to_owned()] {
            for path in ["/closed", "/either"] {
                let answer = house.ask("POST", path, &format!("{cookie}Origin: {origin}\r\n")).await;
                assert_eq!(status(&answer), 403, "{public_url} {server} {proto} {origin}: {answer}");
                assert!(answer.contains("\"cross_site\""), "{answer}");
            }
        }
        assert_eq!(house.upstream.requests().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_is_no_longer_good_locks_nobody_out_of_an_optional_route() {
    let house = house("https://app.test", "").await;
    let revoked = mint(&house.gateway, "ann").await;
    let good = house.gateway.get("/either", &format!("Cookie: a=1; sid={revoked}\r\n")).await;
    assert_eq!((status(&good), field(&good, "set-cookie")), (200, None), "{good}");
    assert_eq!(field(&house.last(), "x-auth-subject"), Some("ann"));
    revoke(&house.gateway, &revoked).await;
    let forged = {
        let token = house.token(ISSUER, 600);
        let (signed, _) = token.rsplit_once('.').unwrap();
        format!("{signed}.{}", "A".repeat(86))
    };
    let unknown_key = Key::ed("unknown").token(&json!({
        "iss": ISSUER, "aud": "api", "sub": "ann", "iat": now(), "exp": now() + 600
    }));
    let (expired, other) = (house.token(ISSUER, -600), house.token(OTHER, 600));
    let cleared = "sid=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax; Secure";
    for (what, path, token, set) in [
        ("revoked", "/either", &revoked, Some(cleared)),
        ("expired", "/either", &expired, Some(cleared)),
        // The issuer may have replaced its key under the old name.
        ("forged", "/either", &forged, None),
        ("no token", "/either", &"x".to_owned(), Some(cleared)),
        ("empty", "/either", &String::new(), Some(cleared)),
        ("of a key that is not known", "/either", &unknown_key, None),
        ("of another route's issuer", "/either-one", &other, None),
    ] {
        let answer = house.gateway.get(path, &format!("Cookie: a=1; sid={token}\r\n")).await;
        assert_eq!((status(&answer), field(&answer, "set-cookie")), (200, set), "{what}: {answer}");
        assert_eq!(field(&answer, "cache-control"), set.map(|_| "no-store"), "{what}: {answer}");
        let seen = house.last();
        assert_eq!((field(&seen, "cookie"), field(&seen, "x-auth-subject")), (Some("a=1"), None), "{what}");
    }
    let answer = house.gateway.get("/either-host", &format!("Cookie: __Host-sid={expired}\r\n")).await;
    assert!(field(&answer, "set-cookie").unwrap().starts_with("__Host-sid=; Path=/; Max-Age=0"), "{answer}");

    // Elsewhere nothing is forgiven: not on other routes, not in other carriers, and not what a good token lacks.
    for (path, fields, refused) in [
        ("/closed", format!("Cookie: sid={expired}\r\n"), 401),
        ("/either", format!("Authorization: Bearer {expired}\r\n"), 401),
        ("/either", format!("Authorization: Bearer {revoked}\r\n"), 401),
        ("/any-chat", format!("Authorization: Bearer {forged}\r\n"), 401),
        ("/either-scoped", format!("Cookie: sid={}\r\n", house.token(ISSUER, 600)), 403),
        ("/either", format!("Cookie: sid={expired}; sid={forged}\r\n"), 400),
    ] {
        let answer = house.gateway.get(path, &fields).await;
        assert_eq!((status(&answer), field(&answer, "set-cookie")), (refused, None), "{path} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_looks_for_cookies_none_is_cleared() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let answer = gateway.get("/page", "Cookie: sid=x\r\n").await;
    assert_eq!((status(&answer), field(&answer, "set-cookie")), (200, None), "{answer}");
}

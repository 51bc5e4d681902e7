//! Every class of request that made a comparable gateway forward what it should not have, sent as raw
//! bytes to a running gateway in front of an upstream that records what arrives.

mod app_credentials;
mod client;
mod cors;
mod credentials;
mod framing;
mod identity_headers;
mod loops;
mod operator;
mod paths;
mod sessions;

use crate::support::{Gateway, PATIENCE, Upstream, field, routes, status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn pair() -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    (gateway, upstream)
}

const REFUSED: [u16; 6] = [400, 401, 403, 404, 413, 431];

#[tokio::test(flavor = "multi_thread")]
async fn an_open_route_forwards_and_a_closed_one_challenges() {
    let (gateway, upstream) = pair().await;
    let open = gateway.get("/page?x=1", "").await;
    assert_eq!(status(&open), 200, "{open}");
    assert!(open.contains("GET /page?x=1 HTTP/1.1"), "{open}");
    let closed = gateway.get("/admin", "").await;
    assert_eq!(status(&closed), 401, "{closed}");
    assert_eq!(field(&closed, "www-authenticate"), Some("Bearer realm=\"palisade\""));
    assert!(closed.contains("application/problem+json"), "{closed}");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_target_gets_past_the_policy() {
    let (gateway, upstream) = pair().await;
    for target in [
        "/admin?x=/public/",
        "/admin#/public",
        "/admin%23/public",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/.%2e/admin",
        "/public/%2E./admin",
        "/./admin",
        "/%61dmin",
        "/admin%2fx",
        "/admin%2Fx",
        "/admin%5cx",
        "/admin\\x",
        "/admin%00",
        "/admin%0a",
        "//admin",
        "/x//admin",
        "/ADMIN",
        "/admin;x=1",
        "/admin%3bx",
        "/%2561dmin",
        "/admin%3F",
        "http://app.test/admin",
        "http://other.test/admin",
        "http://a@app.test/admin",
        "*",
        "admin",
        "/admin%",
        "/admin%zz",
    ] {
        let answer = gateway.get(target, "").await;
        assert!(REFUSED.contains(&status(&answer)), "{target}: {answer}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_lends_authority() {
    let (gateway, upstream) = pair().await;
    for fields in [
        "X-Forwarded-Uri: /public\r\n",
        "X-Original-URL: /public\r\n",
        "X-Rewrite-URL: /public\r\n",
        "X-Auth-Subject: root\r\n",
        "X_Auth_Subject: root\r\n",
        "User-Agent: kube-probe/1.27\r\n",
        "User-Agent: GoogleHC/1.0\r\n",
        "User-Agent: ELB-HealthChecker/2.0\r\n",
        "X-Forwarded-For: 127.0.0.1\r\n",
        "X-Forwarded-Host: public.test\r\n",
        "X-HTTP-Method-Override: GET\r\n",
        "Authorization: Basic cm9vdDpyb290\r\n",
    ] {
        let answer = gateway.get("/admin", fields).await;
        assert_eq!(status(&answer), 401, "{fields}: {answer}");
    }
    for fields in [
        "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
        "Authorization: Bearer a, Bearer b\r\n",
        "authorization: Bearer a\r\nAUTHORIZATION: Basic b\r\n",
    ] {
        let answer = gateway.get("/admin", fields).await;
        assert!([400, 401].contains(&status(&answer)), "{fields}: {answer}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_sees_no_field_that_is_ours() {
    let (gateway, upstream) = pair().await;
    let fields = "x-auth-subject: evil\r\nX_Auth_Subject: evil\r\nX-Auth_Email: evil\r\nX-AUTH-SCOPES: evil\r\n\
                  X-Auth-Assertion: evil\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Uri: evil\r\nForwarded: for=6.6.6.6\r\n\
                  X_Forwarded_For: evil\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: evil\r\nX-Kept: yes\r\n";
    let answer = gateway.get("/page", fields).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = upstream.only();
    assert!(!seen.contains("evil") && !seen.contains("6.6.6.6"), "{seen}");
    assert_eq!(field(&seen, "x-kept"), Some("yes"));
    assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(&seen, "x-forwarded-proto"), Some("http"));
    assert_eq!(field(&seen, "forwarded"), Some("for=127.0.0.1;host=app.test;proto=http"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_matched_is_what_the_upstream_gets() {
    let (gateway, upstream) = pair().await;
    for (sent, received) in [
        ("/a/b", "/a/b"),
        ("/%7euser/%61?q=%61%2F#", ""),
        ("/%7euser/%61?q=%61%2F", "/~user/a?q=%61%2F"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a?", "/a?"),
    ] {
        let answer = gateway.get(sent, "").await;
        if received.is_empty() {
            assert_eq!(status(&answer), 400, "{sent}: {answer}");
        } else {
            assert!(answer.ends_with(&format!("GET {received} HTTP/1.1")), "{sent}: {answer}");
        }
    }
    assert_eq!(upstream.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_one_reading() {
    let (gateway, upstream) = pair().await;
    for host in ["inner.test", "INNER.test", "inner.test.", "inner.test:80", "Inner.Test.:8080"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = gateway.send(request).await;
        assert_eq!(status(&answer), 401, "{host}: {answer}");
    }
    for host in
        ["h/abc?x=", "a@inner.test", "inner.test:x", "inner.test:", "a,inner.test", "[::1", "", "in ner"]
    {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = gateway.send(request).await;
        assert_eq!(status(&answer), 400, "{host}: {answer}");
    }
    for head in ["GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\nHost: inner.test\r\n"] {
        let answer = gateway.send(format!("{head}\r\n")).await;
        assert_eq!(status(&answer), 400, "{head}: {answer}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_cannot_remove_what_is_ours() {
    let (gateway, upstream) = pair().await;
    let request = "GET /page HTTP/1.1\r\nHost: app.test\r\nX-Mine: 1\r\n\
                   Connection: close, X-Forwarded-For, X-Request-Id, X-Mine, Host\r\n\r\n";
    let answer = gateway.send(request).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = upstream.only();
    assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(&seen, "host"), Some("app.test"));
    assert!(field(&seen, "x-request-id").is_some());
    assert_eq!(field(&seen, "x-mine"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_framing_reaches_nobody() {
    let (gateway, upstream) = pair().await;
    for (version, fields) in [
        ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("1.1", "Transfer-Encoding: chunked, identity\r\n"),
        ("1.1", "Transfer-Encoding: identity, chunked\r\n"),
        ("1.1", "Transfer-Encoding: \x0bchunked\r\n"),
        ("1.1", "Transfer-Encoding : chunked\r\n"),
        ("1.1", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("1.1", "Content-Length: -1\r\n"),
        ("1.1", "Content-Length: 5, 5\r\n"),
        ("1.0", "Transfer-Encoding: chunked\r\n"),
        ("1.1", " Folded: x\r\n"),
        ("1.1", "X: a\nY: b\r\n"),
    ] {
        let request = format!(
            "POST /page HTTP/{version}\r\nHost: app.test\r\n{fields}\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: app.test\r\n\r\n"
        );
        let answer = gateway.send(request).await;
        assert_eq!(status(&answer), 400, "{fields:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields:?}: {answer}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_refused_request_is_never_a_request() {
    let (gateway, upstream) = pair().await;
    let inner = "GET /page HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let request = format!(
        "POST /admin HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n{inner}{inner}",
        inner.len()
    );
    let answer = gateway.send(request).await;
    assert_eq!(status(&answer), 401, "{answer}");
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_no_websocket_is_not_passed_on() {
    let (gateway, upstream) = pair().await;
    let request = "GET /page HTTP/1.1\r\nHost: app.test\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n\
                   GET /admin HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let answer = gateway.send(request).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = upstream.only();
    assert_eq!(field(&seen, "upgrade"), None, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_large_header_sections_end() {
    let (gateway, upstream) = pair().await;
    let answer = gateway.get("/page", &format!("X-Large: {}\r\n", "a".repeat(1 << 20))).await;
    assert!(answer.is_empty() || status(&answer) == 431, "{answer}");
    let answer = gateway.get("/page", &"X: y\r\n".repeat(200)).await;
    assert_eq!(status(&answer), 431, "{answer}");
    // One byte, then silence: the whole section has one deadline.
    let mut slow = TcpStream::connect(gateway.address()).await.unwrap();
    slow.write_all(b"G").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, slow.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&answer)), 408);
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_half_lax_reading_reaches_another_route() {
    let upstream = Upstream::start().await;
    let target = upstream.address;
    let mut config = String::new();
    for (name, place, auth) in [
        ("open", "path = \"/\"", "none"),
        ("nested", "path = \"/api/admin\"", "required"),
        ("read", "path = \"/docs\", methods = [\"GET\"]", "required"),
        ("accents", "path = \"/caf%C3%A9\"", "required"),
        ("write", "host = \"rw.test\", path = \"/\", methods = [\"POST\"]", "required"),
        ("look", "host = \"rw.test\", path = \"/\"", "none"),
        ("only", "host = \"only.test\", path = \"/public\"", "none"),
        ("address", "host = \"[::1]\", path = \"/\"", "required"),
    ] {
        config += &format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ {place} }}\nupstream = [\"http://{target}\"]\nauth = \"{auth}\"\n"
        );
    }
    let gateway = Gateway::start(&config).await;
    let nested = format!("/{}2e", "%25".to_owned() + &"25".repeat(10_000));
    for (method, host, path) in [
        ("GET", "app.test", "/API/ADMIN/..;/public"),
        ("GET", "app.test", "/api;x%252Fy/admin"),
        ("GET", "app.test", "/api;%23/admin"),
        ("GET", "app.test", "/CAF%C3%89"),
        ("GET", "app.test", "/x/%c0%ae%c0%ae/api/admin"),
        ("GET", "app.test", &nested),
        ("POST", "app.test", "/DOCS"),
        ("POST", "app.test", "/docs;x=1"),
        ("post", "rw.test", "/"),
        ("trace", "app.test", "/"),
        ("GET", "only.test", "/public/..;/secret"),
        ("GET", "only.test", "/public/%252e%252e/secret"),
        ("GET", "[0:0:0:0:0:0:0:1]", "/"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = gateway.send(request).await;
        let shown = &path[..path.len().min(40)];
        assert!([400, 401, 405].contains(&status(&answer)), "{method} {host}{shown}: {answer}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_character_stands_in_for_a_hyphen() {
    let (gateway, upstream) = pair().await;
    let mut fields = String::new();
    for mark in ["_", ".", "~", "!", "*", "'", "|", "`", "^", "+", "&", "%", "$", "#"] {
        fields += &format!(
            "X{mark}Auth{mark}Subject: evil\r\nX-Auth{mark}Email: evil\r\nX{mark}Forwarded{mark}For: evil\r\n"
        );
    }
    fields += "Content_Length: evil\r\nTransfer.Encoding: evil\r\nX.Kept: yes\r\n";
    let answer = gateway.get("/page", &fields).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = upstream.only();
    assert!(!seen.contains("evil"), "{seen}");
    assert_eq!(field(&seen, "x.kept"), Some("yes"));
}

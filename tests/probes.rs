//! `server.health`, a listener of health and metrics alone, and `server.ping_path`, readiness on the data port.

use std::sync::Arc;

use palisade::app::{self, Options};
use palisade::config;
use palisade::edge::clock::SystemClock;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::neighbours::probe;
use crate::support::{Gateway, Upstream, body_of, exchange, field, routes, status};

const HEALTH: &str = "health = \"127.0.0.1:0\"";
const PING: &str = "ping_path = \"/ping\"";

/// A request on the health listener.
async fn ask(gateway: &Gateway, method: &str, path: &str, fields: &str) -> String {
    let health = gateway.running.health.unwrap();
    exchange(health, format!("{method} {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")).await
}

/// A request on the data port, in the name of `host`.
async fn send(gateway: &Gateway, method: &str, target: &str, host: &str) -> String {
    gateway.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
}

/// What the metrics say about requests and decisions.
async fn counted(gateway: &Gateway) -> Vec<String> {
    let text = probe(gateway, "/metrics").await;
    let is_about =
        |line: &&str| line.starts_with("palisade_http_request") || line.starts_with("palisade_decisions");
    text.lines().filter(is_about).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_listener_serves_three_paths_to_every_name_and_nothing_else() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with(HEALTH, &routes(upstream.address)).await;
    for host in ["evil.test", "10.42.0.7:9181", "palisade.svc.cluster.local"] {
        for (path, says) in
            [("/livez", "\"alive\""), ("/readyz", "\"ready\""), ("/metrics", "palisade_build_info")]
        {
            let answer = ask(&gateway, "GET", path, &format!("Host: {host}\r\n")).await;
            assert!(status(&answer) == 200 && body_of(&answer).contains(says), "{path} {host}: {answer}");
            let head = ask(&gateway, "HEAD", path, &format!("Host: {host}\r\n")).await;
            assert_eq!((status(&head), body_of(&head)), (200, ""), "{path} {host}: {head}");
        }
    }
    let admin = exchange(
        gateway.running.admin,
        "GET /livez HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status(&admin.await), 421);

    // Whatever the admin API has, with its credential too.
    let credential = std::fs::read_to_string(gateway.folder.path().join("data/admin.token")).unwrap();
    let fields = format!("Host: localhost\r\nAuthorization: Bearer {credential}\r\n");
    let (_, document) = gateway.admin("GET", "/admin/v1/openapi.json", &Value::Null).await;
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if ["/livez", "/readyz", "/metrics"].contains(&&**path) {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            let answer = ask(&gateway, &method.to_uppercase(), &path.replace(['{', '}'], ""), &fields).await;
            assert_eq!(status(&answer), 404, "{method} {path}: {answer}");
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    for path in ["/", "/livez/", "/admin", "/admin/v1", "/auth/login", "/auth/docs", "/page", "/ping"] {
        assert_eq!(status(&ask(&gateway, "GET", path, &fields).await), 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(status(&ask(&gateway, method, "/readyz", &fields).await), 405, "{method}");
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered_before_any_route_and_counted_by_none() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with(PING, &routes(upstream.address)).await;
    let before = counted(&gateway).await;
    for host in ["app.test", "inner.test", "10.42.0.7:8080", "nobody.test"] {
        let answer = send(&gateway, "GET", "/ping", host).await;
        assert_eq!((status(&answer), body_of(&answer)), (200, "{\"status\":\"ready\"}"), "{host}: {answer}");
        assert_eq!(field(&answer, "cache-control"), Some("no-store"), "{answer}");
        for told in ["server", "x-request-id", "x-powered-by", "via"] {
            assert_eq!(field(&answer, told), None, "{answer}");
        }
        let head = send(&gateway, "HEAD", "/ping", host).await;
        assert_eq!((status(&head), body_of(&head)), (200, ""), "{host}: {head}");
        assert_eq!(field(&head, "content-length"), Some("18"), "{head}");
    }
    assert_eq!(counted(&gateway).await, before);
    assert_eq!(upstream.requests().len(), 0);

    // Everything else is a request like any other.
    for (method, target) in [
        ("POST", "/ping"),
        ("PUT", "/ping"),
        ("OPTIONS", "/ping"),
        ("GET", "/ping/"),
        ("GET", "/ping/x"),
        ("GET", "/pings"),
        ("GET", "/ping?x"),
        ("GET", "/ping?"),
        ("GET", "/PING"),
        ("GET", "/%70ing"),
        ("GET", "/x/../ping"),
        ("GET", "http://app.test/ping"),
    ] {
        let answer = send(&gateway, method, target, "app.test").await;
        assert!(!answer.contains("\"ready\""), "{method} {target}: {answer}");
        let closed = send(&gateway, method, target, "inner.test").await;
        assert_ne!(status(&closed), 200, "{method} {target}: {closed}");
    }
    assert_ne!(counted(&gateway).await, before);
    assert!(upstream.requests().iter().any(|request| request.starts_with("POST /ping ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_a_ping_is_the_apps() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    assert!(gateway.running.health.is_none());
    assert_eq!(status(&gateway.get("/ping", "").await), 200);
    assert!(upstream.only().starts_with("GET /ping "));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_probe_says_no_from_the_moment_of_a_stop_while_requests_are_taken() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with(&format!("{HEALTH}\n{PING}"), &routes(upstream.address)).await;
    let statuses = async || {
        let ping = send(&gateway, "GET", "/ping", "app.test").await;
        let ready = ask(&gateway, "GET", "/readyz", "Host: a\r\n").await;
        [status(&ping), status(&ready), status(&probe(&gateway, "/readyz").await)]
    };
    assert_eq!(statuses().await, [200; 3]);
    gateway.running.retire();
    assert_eq!(statuses().await, [503; 3]);
    let ping = send(&gateway, "GET", "/ping", "app.test").await;
    assert_eq!(body_of(&ping), "{\"status\":\"not ready\"}", "no reason is for clients of the data port");
    assert_eq!(status(&gateway.get("/page", "").await), 200);
    assert_eq!(status(&ask(&gateway, "GET", "/livez", "Host: a\r\n").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_stops_the_start_and_names_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nhealth = \"{}\"\n[store]\nurl = \"sled:./data\"\n",
        taken.local_addr().unwrap()
    );
    let config = config::parse(&text, &folder.path().join("config.toml"), &|_| None).unwrap();
    let started = app::start_by(Arc::new(SystemClock), config, Options::default()).await;
    let why = started.err().expect("it has started").to_string();
    assert!(why.contains("server.health: cannot listen on 127.0.0.1:"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_changes_a_probe_says_that_it_takes_a_start() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with(&format!("{HEALTH}\n{PING}"), &routes(upstream.address)).await;
    let file = gateway.folder.path().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(HEALTH, "health = \"127.0.0.2:0\"").replace("/ping", "/up")).unwrap();
    let (code, told) = gateway.admin("POST", "/admin/v1/reload", &json!({})).await;
    assert_eq!(code, 200, "{told}");
    let note = "changed, but in force from the next start on: server.health, server.ping_path";
    assert_eq!(told["notes"][0], note, "{told}");
    assert_eq!(status(&send(&gateway, "GET", "/ping", "app.test").await), 200);
    assert_eq!(upstream.requests().len(), 0, "the former path is still the one");
}

//! The path that an app is asked for, of a route that takes a prefix off or puts a base path before, and what the app's answers
//! are told as.

use super::http;
use crate::support::neighbours::{Scripted, read_head};
use crate::support::{Gateway, Upstream, field, status};
use tokio::io::AsyncWriteExt;

fn at(path: &str, upstream: &str, keys: &str) -> String {
    format!(
        "[[routes]]\nname = \"r{}\"\nmatch = {{ path = {path:?} }}\nauth = \"none\"\nupstream = {upstream:?}\n{keys}\n",
        path.replace('/', "-")
    )
}

async fn ask(gateway: &Gateway, method: &str, target: &str, fields: &str) -> String {
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: app.test\r\n{fields}Connection: close\r\n\r\n");
    gateway.send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_behind_the_prefix_goes_up_byte_for_byte() {
    let upstream = Upstream::start().await;
    let to = http(upstream.address);
    let based = format!("{to}/base");
    let routes = [
        at("/api", &to, "strip_prefix = \"/api\"\nallow = [\"empty-segment\", \"encoded-slash\"]"),
        at("/both", &based, "strip_prefix = \"/both\""),
        at("/put", &based, "allow = [\"empty-segment\"]"),
        at("/same", &to, ""),
    ];
    let gateway = Gateway::start(&routes.concat()).await;
    for (target, sent, prefix) in [
        ("/api", "/", Some("/api")),
        ("/api?x=/api", "/?x=/api", Some("/api")),
        ("/api/", "/", Some("/api")),
        ("/api/x%2fy;z/%7e?q=%2f", "/x%2Fy;z/~?q=%2f", Some("/api")),
        ("/api/x//y", "/x//y", Some("/api")),
        ("http://app.test/api/x", "/x", Some("/api")),
        ("/both", "/base", Some("/both")),
        ("/both/x?y", "/base/x?y", Some("/both")),
        ("/put/x", "/base/put/x", None),
        ("/same/x", "/same/x", None),
    ] {
        // What a client says of it is taken out.
        let fields = "X-Forwarded-Prefix: /evil\r\nX_Forwarded_Prefix: /evil\r\n";
        let answer = ask(&gateway, "GET", target, fields).await;
        assert_eq!(status(&answer), 200, "{target}: {answer}");
        let seen = upstream.requests().pop().unwrap();
        assert!(seen.starts_with(&format!("GET {sent} HTTP/1.1\r\n")), "{target}: {seen}");
        assert_eq!(field(&seen, "x-forwarded-prefix"), prefix);
        assert!(!seen.contains("evil"), "{seen}");
    }
    let before = upstream.requests().len();
    for (target, code) in [
        ("/api//evil.test", "path_rest"),
        ("/api//", "path_rest"),
        ("/%61pi//evil.test/%2e%2e", "path_dot_segment"),
        ("/api/..//evil.test", "path_dot_segment"),
        ("/both//evil.test", "path_empty_segment"),
    ] {
        let answer = ask(&gateway, "GET", target, "").await;
        assert!(status(&answer) == 400 && answer.contains(&format!("\"{code}\"")), "{target}: {answer}");
    }
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_told_by_the_route_that_takes_it() {
    let upstream = Upstream::start().await;
    let to = http(upstream.address);
    let based = format!("{to}/base");
    let routes = [
        at("/dav", &to, "strip_prefix = \"/dav\"\nallow = [\"empty-segment\"]"),
        at("/other", &based, "strip_prefix = \"/other\"\npreserve_host = false"),
        at("/guarded", &to, "strip_prefix = \"/guarded\"").replace("auth = \"none\"\n", ""),
    ];
    let gateway = Gateway::start(&routes.concat()).await;
    for (from, destination, sent) in [
        ("/dav/a", "/dav/b", "/b".to_owned()),
        ("/dav/a", "http://app.test/dav/%62", "http://app.test/b".to_owned()),
        ("/dav/a", "/other/b", "/base/b".to_owned()),
        ("/other/a", "https://app.test/dav/b", format!("{to}/b")),
    ] {
        let answer = ask(&gateway, "MOVE", from, &format!("Destination: {destination}\r\n")).await;
        assert_eq!(status(&answer), 200, "{destination}: {answer}");
        let seen = upstream.requests().pop().unwrap();
        assert_eq!(field(&seen, "destination"), Some(&*sent));
    }
    let before = upstream.requests().len();
    for (destination, want) in
        [("/dav//evil.test", 400), ("http://app.test/dav//evil.test", 400), ("/guarded/b", 401)]
    {
        let answer = ask(&gateway, "MOVE", "/dav/a", &format!("Destination: {destination}\r\n")).await;
        assert_eq!(status(&answer), want, "{destination}: {answer}");
    }
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_is_so_by_the_path_that_clients_write() {
    let upstream = Upstream::start().await;
    let keys = "strip_prefix = \"/api\"\npublic = [\"/api/static\"]";
    let route = at("/api", &http(upstream.address), keys).replace("auth = \"none\"\n", "");
    let gateway = Gateway::start(&route).await;
    assert_eq!(status(&ask(&gateway, "GET", "/api/static/x", "").await), 200);
    assert!(upstream.only().starts_with("GET /static/x "));
    for target in ["/api/x", "/api/api/static/x"] {
        assert_eq!(status(&ask(&gateway, "GET", target, "").await), 401, "{target}");
    }
    assert_eq!(status(&ask(&gateway, "GET", "/static/x", "").await), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_written_anew_on_request_alone() {
    let upstream = Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let own = stream.local_addr().unwrap();
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{own}/base/x\r\nSet-Cookie: a=1; Path=/base; Domain=127.0.0.1\r\n\
             Set-Cookie: __Host-palisade=evil; Path=/; Secure\r\nContent-Length: 0\r\n\r\n"
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let to = format!("{}/base", http(upstream.address));
    let asked = "strip_prefix = \"/api\"\nrewrite = { location = true, cookies = true }";
    let gateway = Gateway::start(&[at("/api", &to, asked), at("/as-it-is", &to, "")].concat()).await;
    let answer = ask(&gateway, "GET", "/api/y", "").await;
    assert_eq!(field(&answer, "location"), Some("/api/x"), "{answer}");
    assert_eq!(field(&answer, "set-cookie"), Some("a=1; Path=/api"), "{answer}");
    assert!(!answer.contains("evil"), "{answer}");
    let answer = ask(&gateway, "GET", "/as-it-is", "").await;
    assert_eq!(field(&answer, "location"), Some(&*format!("{to}/x")), "{answer}");
    assert_eq!(field(&answer, "set-cookie"), Some("a=1; Path=/base; Domain=127.0.0.1"), "{answer}");
}

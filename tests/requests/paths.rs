//! Paths in which a delimiter hides what a server would find behind it.

use crate::support::{Gateway, Upstream, body_of, status};

async fn pair() -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    let target = upstream.address;
    let mut config = String::new();
    for (name, place, auth, more) in [
        ("public", "path = \"/public\"", "none", ""),
        ("admin", "path = \"/admin\"", "required", ""),
        ("api", "path = \"/api\"", "required", ""),
        ("open", "path = \"/api/open\"", "none", ""),
        ("rest", "path = \"/\"", "none", ""),
        (
            "lax",
            "host = \"lax.test\", path = \"/\"",
            "none",
            "allow = [\"encoded-slash\", \"empty-segment\"]",
        ),
        ("closed", "host = \"lax.test\", path = \"/admin\"", "required", ""),
        ("upper", "host = \"upper.test\", path = \"/Secret\"", "required", ""),
    ] {
        config += &format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ {place} }}\nupstream = [\"http://{target}\"]\nauth = \"{auth}\"\n{more}\n"
        );
    }
    (Gateway::start(&config).await, upstream)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_delimiter_hides_where_a_path_leads() {
    let (gateway, upstream) = pair().await;
    for (host, path) in [
        ("app.test", "/public/%23/..;/..;/admin/secret"),
        ("app.test", "/public/%3f/..;/..;/admin/secret"),
        ("app.test", "/public/%3F/..;a=b/..;/admin/secret"),
        ("app.test", "/public/%2523/..;/..;/admin/secret"),
        ("app.test", "/public/%253f/..%255c../admin/secret"),
        ("app.test", "/public/%2500/..;/..;/admin/secret"),
        ("app.test", "/public/.%2509./admin"),
        ("app.test", "/public/;%252F..%252F../admin"),
        ("app.test", "/public/%C0%A52e%C0%A52e/admin"),
        ("app.test", "/public/%25u002e%25u002e/admin"),
        ("app.test", "/public/..%20/admin"),
        ("app.test", "/%3B%255C.+%252fadmin;"),
        ("app.test", "/admin./x"),
        ("app.test", "/admin%20/x"),
        ("app.test", "/admin%253Fx"),
        // Each of two steps alone leads elsewhere; both together would lead back.
        ("app.test", "/api;x/OPEN"),
        ("app.test", "/api;x/ope%256E"),
        ("lax.test", "//evil/admin"),
        ("lax.test", "/%2Fevil%2Fadmin"),
        ("lax.test", "/x%2F;%2F..%2Fadmin"),
        // The route's own path in another case.
        ("upper.test", "/secret/x"),
        ("upper.test", "/SECRET"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = gateway.send(request).await;
        assert_eq!(status(&answer), 400, "{host}{path}: {answer}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_names_with_delimiters_reach_the_app_as_they_are() {
    let (gateway, _upstream) = pair().await;
    for path in [
        "/docs/C%23/intro",
        "/why%3F",
        "/a;v=1/b",
        "/public/A;jsessionid=0/B",
        "/api/open/C%23/..x",
        "/100%25/a%2520b",
        "/Readme.MD",
        "/caf%C3%A9",
    ] {
        let answer = gateway.get(path, "").await;
        assert_eq!(status(&answer), 200, "{path}: {answer}");
        assert_eq!(body_of(&answer), format!("GET {path} HTTP/1.1"));
    }
    let closed = gateway.get("/admin/C%23/A;v=1", "").await;
    assert_eq!(status(&closed), 401, "{closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_delimiters_alone_is_refused_at_little_cost() {
    let (gateway, upstream) = pair().await;
    for piece in [";%2F", "%23", "/;", "%255C;"] {
        let request = format!(
            "GET /a{} HTTP/1.1\r\nHost: lax.test\r\nConnection: close\r\n\r\n",
            piece.repeat(30_000 / piece.len())
        );
        let answer = gateway.send(request).await;
        assert_eq!(status(&answer), 400, "{piece}: {answer}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

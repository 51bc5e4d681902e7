//! What browsers without a session get from a running gateway: redirects to the sign-in page, pages, and documents that
//! say where to sign in.

use palisade_testing::nowhere::nowhere;
use serde_json::Value;

use crate::support::neighbours::mint;
use crate::support::{Gateway, Upstream, body_of, field, status};

/// What browsers add to a page that a person opens.
const NAVIGATION: &str = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: none\r\n\
                          Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";
/// What browsers add to what a script fetches.
const FETCH: &str =
    "Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Site: same-origin\r\nAccept: */*\r\n";

const SIGN_IN: &str = "http://localhost:8080/auth/pages/sign-in";

struct Neighbours {
    gateway: Gateway,
    upstream: Upstream,
}

/// A gateway at `http://localhost:8080`, as browsers see it, with routes on hosts of several kinds.
async fn started(browser: &str) -> Neighbours {
    let upstream = Upstream::start().await;
    let to = format!("upstream = [\"http://{}\"]", upstream.address);
    let down = format!("upstream = [\"http://{}\"]", nowhere());
    let route = |name: &str, place: &str, keys: &str| {
        format!("[[routes]]\nname = \"{name}\"\nmatch = {{ {place} }}\nauth = \"required\"\n{keys}\n")
    };
    let routes = [
        route("lab", "host = \"lab.localhost\", path = \"/\"", &format!("{to}\npreset = \"pwa\"")),
        route("tenants", "host = \"*.tenants.test\", path = \"/\"", &to),
        route("app", "path = \"/app\"", &to),
        route(
            "scoped",
            "path = \"/scoped\"",
            &format!("{to}\nrequire = {{ scopes = [\"x\"] }}\ntoken = {{ cookie = \"at\" }}"),
        ),
        route("api", "path = \"/api\"", &format!("{to}\ncors = {{ origins = [\"https://pages.test\"] }}")),
        route("none", "path = \"/none\"", &format!("{to}\nsign_in = false")),
        route("own", "path = \"/own\"", &format!("{to}\nsign_in = \"https://own.test/login?tenant=1\"")),
        format!(
            "[[routes]]\nname = \"down\"\nmatch = {{ path = \"/down\" }}\nauth = \"none\"\n{down}\nretries = 0\n"
        ),
    ];
    let gateway = Gateway::start(&format!("{browser}{}", routes.concat())).await;
    Neighbours { gateway, upstream }
}

impl Neighbours {
    async fn ask(&self, method: &str, host: &str, target: &str, fields: &str) -> String {
        let length = if method == "POST" { "Content-Length: 1\r\n" } else { "" };
        let body = if method == "POST" { "x" } else { "" };
        self.gateway
            .send(format!(
                "{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}{length}Connection: close\r\n\r\n{body}"
            ))
            .await
    }
}

/// Where an answer sends its browser: the page, and the values of its parameters.
fn sent_to(answer: &str) -> (String, Vec<(String, String)>) {
    let location = field(answer, "location").unwrap_or_else(|| panic!("no redirect: {answer}"));
    page_and_parameters(location)
}

fn page_and_parameters(url: &str) -> (String, Vec<(String, String)>) {
    let (page, query) = url.split_once('?').unwrap_or((url, ""));
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    (page.to_owned(), pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect())
}

fn returned_to(parameters: &[(String, String)]) -> Option<&str> {
    parameters.iter().find(|(name, _)| name == "return_to").map(|(_, value)| &**value)
}

fn document(answer: &str) -> Value {
    assert_eq!(field(answer, "content-type"), Some("application/problem+json"), "{answer}");
    serde_json::from_str(body_of(answer)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_navigation_without_a_session_is_sent_to_sign_in_and_back_to_where_it_was_going() {
    let neighbours = started("").await;
    for (host, target, whole) in [
        ("localhost:8080", "/app/%7Ex?y=%2F&z=1;2", "http://localhost:8080/app/%7Ex?y=%2F&z=1;2"),
        ("LocalHost:8080", "/app", "http://localhost:8080/app"),
        ("lab.localhost:8080", "/tree?token", "http://lab.localhost:8080/tree?token"),
        ("lab.localhost", "/", "http://lab.localhost/"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = neighbours.ask(method, host, target, NAVIGATION).await;
            assert_eq!(status(&answer), 303, "{method} {host}{target}: {answer}");
            let (page, parameters) = sent_to(&answer);
            assert_eq!((&*page, returned_to(&parameters)), (SIGN_IN, Some(whole)), "{answer}");
            assert_eq!(field(&answer, "cache-control"), Some("no-store"));
            assert!(field(&answer, "vary").unwrap().contains("Sec-Fetch-Mode"), "{answer}");
            assert_eq!(body_of(&answer), "");
        }
    }
    // A page that a browser opens without fetch metadata, and an expired or forged token in place of none.
    let old =
        "User-Agent: Mozilla/5.0 Safari/605.1.15\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    assert_eq!(status(&neighbours.ask("GET", "localhost:8080", "/app", old).await), 303);
    let bad = format!("{NAVIGATION}Cookie: at=a.b.c\r\n");
    assert_eq!(status(&neighbours.ask("GET", "localhost:8080", "/scoped", &bad).await), 303);
    assert_eq!(neighbours.upstream.requests().len(), 0, "nothing is served meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_navigation_keeps_its_401_and_is_told_where_a_person_signs_in() {
    let neighbours = started("").await;
    let websocket = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-Fetch-Mode: websocket\r\n";
    for (client, fields) in [
        ("curl", "Accept: */*\r\n".to_owned()),
        ("fetch", FETCH.to_owned()),
        ("axios", format!("{FETCH}Accept: application/json, text/plain, */*\r\n")),
        ("XHR", "Accept: text/html\r\nX-Requested-With: XMLHttpRequest\r\n".to_owned()),
        ("EventSource", format!("{FETCH}Accept: text/event-stream\r\n")),
        ("Turbo", "Accept: text/html\r\nTurbo-Frame: inbox\r\n".to_owned()),
        ("prefetch", format!("{NAVIGATION}Sec-Purpose: prefetch;prerender\r\n")),
        (
            "service worker",
            "Sec-Fetch-Dest: serviceworker\r\nSec-Fetch-Mode: same-origin\r\nService-Worker: script\r\n"
                .to_owned(),
        ),
        ("manifest", "Sec-Fetch-Dest: manifest\r\nSec-Fetch-Mode: cors\r\n".to_owned()),
        ("preview", format!("{NAVIGATION}User-Agent: Slackbot-LinkExpanding 1.0\r\n")),
        ("WebSocket", websocket.to_owned()),
    ] {
        let fields = format!("{fields}Referer: http://localhost:8080/app/list?page=2\r\n");
        let answer = neighbours.ask("GET", "localhost:8080", "/app/data.json?secret=1", &fields).await;
        assert_eq!(status(&answer), 401, "{client}: {answer}");
        assert!(
            field(&answer, "set-cookie").is_none() && field(&answer, "location").is_none(),
            "{client}: {answer}"
        );
        assert!(
            field(&answer, "www-authenticate").is_some() && field(&answer, "hx-redirect").is_none(),
            "{client}: {answer}"
        );
        let document = document(&answer);
        assert_eq!(document["code"], "token_missing", "{client}");
        let (page, parameters) = page_and_parameters(document["sign_in"].as_str().unwrap());
        let list = Some("http://localhost:8080/app/list?page=2");
        assert_eq!((&*page, returned_to(&parameters)), (SIGN_IN, list), "{client}");
    }
    let icon = neighbours.ask("GET", "localhost:8080", "/app/favicon.ico", NAVIGATION).await;
    assert_eq!(status(&icon), 401, "{icon}");
    // htmx follows a field in place of the answer, back to the page that it runs in.
    let htmx = format!(
        "{FETCH}HX-Request: true\r\nHX-Current-URL: http://localhost:8080/app/now\r\nReferer: http://localhost:8080/app/\r\n"
    );
    for method in ["GET", "POST"] {
        let answer = neighbours.ask(method, "localhost:8080", "/app/part", &htmx).await;
        assert_eq!(status(&answer), 401, "{answer}");
        let redirect = field(&answer, "hx-redirect").unwrap();
        assert_eq!(document(&answer)["sign_in"].as_str(), Some(redirect), "{answer}");
        assert_eq!(returned_to(&page_and_parameters(redirect).1), Some("http://localhost:8080/app/now"));
    }
    // What was fetched is never returned to, and neither is a page of a stranger.
    for referer in [
        "",
        "Referer: https://evil.test/x\r\n",
        "HX-Current-URL: //evil.test\r\n",
        "Referer: http://localhost:8080@evil.test/\r\n",
    ] {
        let answer =
            neighbours.ask("GET", "localhost:8080", "/app/data.json", &format!("{FETCH}{referer}")).await;
        assert_eq!(document(&answer)["sign_in"], SIGN_IN, "{referer}");
    }
    assert_eq!(neighbours.upstream.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_whether_and_where_people_sign_in() {
    let neighbours = started("").await;
    let none = neighbours.ask("GET", "localhost:8080", "/none", NAVIGATION).await;
    assert_eq!((status(&none), &document(&none)["sign_in"]), (401, &Value::Null), "{none}");
    let own = neighbours.ask("GET", "localhost:8080", "/own/x", NAVIGATION).await;
    assert_eq!(
        field(&own, "location"),
        Some("https://own.test/login?tenant=1&return_to=http%3A%2F%2Flocalhost%3A8080%2Fown%2Fx"),
        "{own}"
    );
    let off = started("[browser]\nenabled = false\n").await;
    for path in ["/app", "/own"] {
        let answer = off.ask("GET", "localhost:8080", path, NAVIGATION).await;
        assert_eq!((status(&answer), &document(&answer)["sign_in"]), (401, &Value::Null), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_browser_is_sent_back_to_a_host_that_is_not_spelled_out() {
    let neighbours = started("").await;
    for host in ["evil.tenants.test", "evil.test", "localhost:9999", "localhost.evil.test", "127.0.0.1"] {
        let answer = neighbours.ask("GET", host, "/app/x", NAVIGATION).await;
        assert_eq!((status(&answer), field(&answer, "location")), (403, None), "{host}: {answer}");
        assert!(field(&answer, "content-type").unwrap().starts_with("text/html"), "{host}: {answer}");
        assert!(body_of(&answer).contains("http://localhost:8080/"), "{host}: {answer}");
        assert!(!body_of(&answer).contains("evil"), "{host}: {answer}");
    }
    // Nothing of a target is read as another host.
    for target in [
        "/app?//evil.test",
        "/app?@evil.test",
        "/app?return_to=https://evil.test&x",
        "/app?%0d%0aLocation:%20//evil.test",
    ] {
        let answer = neighbours.ask("GET", "localhost:8080", target, NAVIGATION).await;
        let (page, parameters) = sent_to(&answer);
        assert_eq!((&*page, parameters.len()), (SIGN_IN, 1), "{target}: {answer}");
        assert_eq!(returned_to(&parameters), Some(&*format!("http://localhost:8080{target}")), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_was_sent_too_late_is_not_repeated() {
    let neighbours = started("").await;
    let form = NAVIGATION.replace("Sec-Fetch-Site: none", "Sec-Fetch-Site: same-origin");
    for (referer, back) in [
        (
            "Referer: http://localhost:8080/app/edit/7?tab=2\r\n",
            Some("http://localhost:8080/app/edit/7?tab=2"),
        ),
        ("Referer: https://evil.test/app/edit\r\n", Some("http://localhost:8080/app")),
        ("", Some("http://localhost:8080/app")),
    ] {
        let answer =
            neighbours.ask("POST", "localhost:8080", "/app/save?id=7", &format!("{form}{referer}")).await;
        assert_eq!(status(&answer), 303, "{answer}");
        let (page, parameters) = sent_to(&answer);
        assert_eq!((&*page, returned_to(&parameters)), (SIGN_IN, back), "{answer}");
        assert!(parameters.contains(&("notice".to_owned(), "unsent".to_owned())), "{answer}");
    }
    assert_eq!(neighbours.upstream.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_shows_one_notice_that_may_be_framed() {
    let neighbours = started("").await;
    let frame = NAVIGATION.replace("document", "iframe");
    let answer = neighbours.ask("GET", "lab.localhost:8080", "/tree", &frame).await;
    assert_eq!((status(&answer), field(&answer, "x-frame-options")), (401, None), "{answer}");
    assert!(field(&answer, "content-security-policy").unwrap().contains("frame-ancestors *"), "{answer}");
    assert!(field(&answer, "www-authenticate").is_some(), "{answer}");
    assert!(body_of(&answer).contains("http://lab.localhost:8080/tree"), "{answer}");
    assert!(!body_of(&answer).contains("<form"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_may_not_see_something_and_one_who_meets_a_failure_get_a_page() {
    let neighbours = started("").await;
    let token = mint(&neighbours.gateway, "alice").await;
    let cookie = format!("Cookie: at={token}\r\n");
    let forbidden =
        neighbours.ask("GET", "localhost:8080", "/scoped/x?y", &format!("{NAVIGATION}{cookie}")).await;
    assert_eq!(status(&forbidden), 403, "{forbidden}");
    let body = body_of(&forbidden);
    assert!(field(&forbidden, "content-type").unwrap().starts_with("text/html"), "{forbidden}");
    assert!(body.contains("alice"), "who is signed in: {body}");
    let other =
        format!("{SIGN_IN}?return_to=http%3A%2F%2Flocalhost%3A8080%2Fscoped%2Fx%3Fy&amp;prompt=login");
    assert!(body.replace("&#x2f;", "/").contains(&other), "as somebody else: {body}");
    let script = neighbours.ask("GET", "localhost:8080", "/scoped/x", &format!("{FETCH}{cookie}")).await;
    assert_eq!((status(&script), &document(&script)["code"]), (403, &Value::from("insufficient_scope")));
    let down = neighbours.ask("GET", "localhost:8080", "/down/x", NAVIGATION).await;
    assert_eq!(status(&down), 502, "{down}");
    assert!(
        body_of(&down).replace("&#x2f;", "/").contains("http://localhost:8080/down/x"),
        "try again: {down}"
    );
    // What was sent is not offered to be sent again.
    let down = neighbours.ask("POST", "localhost:8080", "/down/x", NAVIGATION).await;
    assert!(status(&down) == 502 && !body_of(&down).contains("/down/x"), "{down}");
    let script = neighbours.ask("GET", "localhost:8080", "/down/x", FETCH).await;
    assert_eq!((status(&script), &document(&script)["code"]), (502, &Value::from("upstream_failed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_own_error_page_is_told_the_code_and_nothing_else() {
    let pages = "[pages]\nurls = { error = \"http://localhost:8080/down/help?from=gateway\" }\n";
    let neighbours = started(pages).await;
    let token = mint(&neighbours.gateway, "alice").await;
    let cookie = format!("Cookie: at={token}\r\n");
    for (method, target, fields, code) in [
        ("GET", "/scoped/x?y=secret", format!("{NAVIGATION}{cookie}"), "insufficient_scope"),
        ("GET", "/down/x?y=secret", NAVIGATION.to_owned(), "upstream_failed"),
        ("POST", "/down/x", NAVIGATION.to_owned(), "upstream_failed"),
    ] {
        let answer = neighbours.ask(method, "localhost:8080", target, &fields).await;
        let to = format!("http://localhost:8080/down/help?from=gateway&code={code}");
        assert_eq!((status(&answer), field(&answer, "location")), (303, Some(&*to)), "{answer}");
        assert_eq!(field(&answer, "set-cookie"), None, "{answer}");
    }
    // It is behind a route that fails itself, and does not lead to itself for ever.
    for host in ["localhost:8080", "LOCALHOST"] {
        let answer = neighbours.ask("GET", host, "/down/help?from=gateway&code=x", NAVIGATION).await;
        assert_eq!((status(&answer), field(&answer, "location")), (502, None), "{answer}");
        assert!(field(&answer, "content-type").unwrap().starts_with("text/html"), "{answer}");
    }
    // Script gets data as ever.
    let script = neighbours.ask("GET", "localhost:8080", "/down/x", FETCH).await;
    assert_eq!((status(&script), &document(&script)["code"]), (502, &Value::from("upstream_failed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_an_installed_app_are_shown_to_every_client_without_its_identity() {
    let neighbours = started("").await;
    let forged = "X-Auth-Subject: root\r\nAuthorization: Bearer a.b.c\r\n";
    for path in ["/manifest.json", "/manifest.webmanifest"] {
        for method in ["GET", "HEAD"] {
            let answer = neighbours.ask(method, "lab.localhost:8080", path, forged).await;
            assert_eq!(status(&answer), 200, "{method} {path}: {answer}");
        }
    }
    for request in neighbours.upstream.requests() {
        assert!(
            !request.to_lowercase().contains("x-auth-subject") && !request.contains("a.b.c"),
            "{request}"
        );
    }
    let count = neighbours.upstream.requests().len();
    for (method, path) in
        [("POST", "/manifest.json"), ("GET", "/manifest.json/x"), ("GET", "/x/manifest.json"), ("GET", "/")]
    {
        let answer = neighbours.ask(method, "lab.localhost:8080", path, "").await;
        assert_eq!(status(&answer), 401, "{method} {path}: {answer}");
    }
    assert_eq!(neighbours.upstream.requests().len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_can_read_every_answer_of_ours_on_their_route() {
    let neighbours = started("").await;
    let page = format!("{FETCH}Origin: https://pages.test\r\n");
    let evil = format!("{FETCH}Origin: https://evil.test\r\n");
    for (method, target, expected) in [
        ("GET", "/api/x", 401),
        ("GET", "/nothing", 404),
        ("GET", "/api/..;/x", 400),
        ("GET", "/api/%00", 400),
        ("TRACE", "/api/x", 405),
    ] {
        let answer = neighbours.ask(method, "localhost:8080", target, &page).await;
        let origin = field(&answer, "access-control-allow-origin");
        assert_eq!((status(&answer), origin), (expected, Some("https://pages.test")), "{target}: {answer}");
        assert_eq!(field(&answer, "access-control-allow-credentials"), None, "{answer}");
        let answer = neighbours.ask(method, "localhost:8080", target, &evil).await;
        assert_eq!(field(&answer, "access-control-allow-origin"), None, "{target}: {answer}");
    }
    // A route of its own without `cors` leaves its answers to its own pages.
    let closed = neighbours.ask("TRACE", "localhost:8080", "/app/x", &page).await;
    assert_eq!(field(&closed, "access-control-allow-origin"), None, "{closed}");
}

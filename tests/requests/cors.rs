//! Pages of other origins: preflights that the gateway answers, and the CORS fields of every other answer.

use tokio::io::AsyncWriteExt;

use crate::support::neighbours::{Scripted, mint, read_head};
use crate::support::{Gateway, Upstream, body_of, field, route, status};

const APP: &str = "https://app.example.com";

fn named(credentials: bool) -> String {
    format!(
        "cors = {{ origins = [\"{APP}\"], allow_headers = [\"X-Custom\"], expose_headers = [\"X-Total\"], \
         credentials = {credentials} }}\n"
    )
}

async fn preflight(gateway: &Gateway, path: &str, origin: &str, method: &str) -> String {
    let request = format!(
        "OPTIONS {path} HTTP/1.1\r\nHost: app.test\r\nOrigin: {origin}\r\n\
         Access-Control-Request-Method: {method}\r\nAccess-Control-Request-Headers: authorization,x-custom\r\n\
         Connection: close\r\n\r\n"
    );
    gateway.send(request).await
}

/// Every line of the answer that speaks of other origins, in order of the alphabet.
fn said(answer: &str) -> Vec<String> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    // What the form of a refusal depends on is no matter of origins.
    let lines = head.lines().map(str::to_ascii_lowercase).filter(|line| !line.contains("sec-fetch-mode"));
    let mut said: Vec<String> =
        lines.filter(|line| line.starts_with("access-control-") || line.starts_with("vary:")).collect();
    said.sort();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_here_and_needs_no_token() {
    let upstream = Upstream::start().await;
    let routes = [
        route("api", upstream.address, &format!("{}auth = \"required\"\n", named(true))),
        route("every", upstream.address, "cors = { origins = \"*\" }\n"),
        route("own", upstream.address, "auth = \"none\"\n"),
        route("read", upstream.address, &named(false)).replace("\" }", "\", methods = [\"GET\"] }"),
        route("closed", upstream.address, "auth = \"required\"\n"),
    ];
    let gateway = Gateway::start(&routes.concat()).await;
    let answer = preflight(&gateway, "/api/x", APP, "PUT").await;
    assert_eq!((status(&answer), body_of(&answer)), (204, ""), "{answer}");
    assert_eq!(
        said(&answer),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-headers: authorization, baggage, content-type, sentry-trace, traceparent, tracestate, \
             x-requested-with, x-custom",
            "access-control-allow-methods: put",
            "access-control-allow-origin: https://app.example.com",
            "access-control-max-age: 600",
            "vary: origin, access-control-request-method, access-control-request-headers",
        ]
    );
    for origin in
        ["https://evil.example.com", "null", "https://app.example.com:443", "http://app.example.com"]
    {
        let answer = preflight(&gateway, "/api/x", origin, "PUT").await;
        assert_eq!((status(&answer), said(&answer)), (403, vec!["vary: origin".to_owned()]), "{origin}");
    }
    let anybody = preflight(&gateway, "/every", "https://evil.example.com", "GET").await;
    assert_eq!(field(&anybody, "access-control-allow-origin"), Some("*"), "{anybody}");
    assert_eq!(field(&anybody, "access-control-allow-credentials"), None, "{anybody}");
    // The request that it announces decides which route it is about.
    assert_eq!(status(&preflight(&gateway, "/read", APP, "GET").await), 204);
    assert_eq!(status(&preflight(&gateway, "/read", APP, "DELETE").await), 405);
    assert_eq!(upstream.requests().len(), 0, "a preflight got through");
    // A path with two readings has none here either.
    assert_eq!(status(&preflight(&gateway, "/api/..;/x", APP, "GET").await), 400);
    // Without `cors` it is a request like others: the app's where no token is needed, refused elsewhere.
    assert_eq!(status(&preflight(&gateway, "/own", APP, "GET").await), 200);
    assert_eq!(status(&preflight(&gateway, "/closed", APP, "GET").await), 401);
    // No preflight: it announces nothing, or comes from no page.
    let plain = gateway.send("OPTIONS /api HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&plain), 401, "{plain}");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_which_methods_pages_may_use_and_how_long_that_is_remembered() {
    let upstream = Upstream::start().await;
    let cors = |origins: &str| {
        format!(
            "auth = \"none\"\ncors = {{ origins = {origins:?}, allow_methods = [\"GET\", \"PUT\"], max_age = \"1h\" }}\n"
        )
    };
    let routes =
        [route("named", upstream.address, &cors(APP)), route("every", upstream.address, &cors("*"))].concat();
    let gateway = Gateway::start(&routes).await;
    for path in ["/named", "/every"] {
        let answer = preflight(&gateway, path, APP, "PUT").await;
        assert_eq!(
            (status(&answer), field(&answer, "access-control-max-age")),
            (204, Some("3600")),
            "{answer}"
        );
        assert_eq!(field(&answer, "access-control-allow-methods"), Some("PUT"), "{answer}");
        for method in ["DELETE", "put", "POST"] {
            let answer = preflight(&gateway, path, APP, method).await;
            assert_eq!(
                (status(&answer), field(&answer, "access-control-allow-methods")),
                (403, None),
                "{answer}"
            );
            assert!(answer.contains("may not use this method here"), "{answer}");
        }
    }
    assert_eq!(upstream.requests().len(), 0, "a preflight got through");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_carry_the_routes_fields_once_and_refusals_too() {
    let upstream = Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
                      Access-Control-Expose-Headers: X-Secret\r\nVary: Accept\r\nContent-Length: 2\r\n\
                      Connection: close\r\n\r\nok";
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let routes = [
        route("api", upstream.address, &format!("{}max_body = 10\n", named(false))),
        route("own", upstream.address, "auth = \"none\"\n"),
    ];
    let gateway = Gateway::start(&routes.concat()).await;
    let bearer = format!("Authorization: Bearer {}\r\n", mint(&gateway, "alice").await);
    let ours = [
        "access-control-allow-origin: https://app.example.com",
        "access-control-expose-headers: hx-redirect, retry-after, www-authenticate, x-request-id, x-total",
        "vary: accept",
        "vary: origin",
    ];
    let page = gateway.get("/api", &format!("{bearer}Origin: {APP}\r\n")).await;
    assert_eq!((status(&page), said(&page)), (200, ours.map(str::to_owned).to_vec()), "{page}");
    // What the app says of origins counts for nothing here, for any origin.
    for origin in ["Origin: https://evil.example.com\r\n", ""] {
        let other = gateway.get("/api", &format!("{bearer}{origin}")).await;
        assert_eq!(said(&other), ["vary: accept", "vary: origin"], "{other}");
    }
    // A page can read why it was refused.
    let refused = [ours[0], ours[1], ours[3]].map(str::to_owned);
    let no_token = gateway.get("/api", &format!("Origin: {APP}\r\n")).await;
    assert_eq!((status(&no_token), said(&no_token)), (401, refused.to_vec()), "{no_token}");
    let large = format!(
        "POST /api HTTP/1.1\r\nHost: app.test\r\n{bearer}Origin: {APP}\r\nContent-Length: 11\r\n\
         Connection: close\r\n\r\nhello world"
    );
    let large = gateway.send(large).await;
    assert_eq!((status(&large), said(&large)), (413, refused.to_vec()), "{large}");
    // A route without `cors` leaves it to the app.
    let own = gateway.get("/own", &format!("Origin: {APP}\r\n")).await;
    assert_eq!(field(&own, "access-control-allow-origin"), Some("*"), "{own}");
    assert_eq!(field(&own, "access-control-expose-headers"), Some("X-Secret"), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_cannot_be_reached_is_told_to_the_page() {
    let nowhere = palisade_testing::nowhere::nowhere();
    let gateway = Gateway::start(&route("api", nowhere, &format!("auth = \"none\"\n{}", named(false)))).await;
    let answer = gateway.get("/api", &format!("Origin: {APP}\r\n")).await;
    assert_eq!(
        (status(&answer), field(&answer, "access-control-allow-origin")),
        (502, Some(APP)),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_count_from_pages_that_may_use_them_and_no_others() {
    let upstream = Upstream::start().await;
    let cookie = "token = { cookie = \"at\" }\n";
    let routes = [
        route("with", upstream.address, &format!("{cookie}{}", named(true))),
        route("without", upstream.address, &format!("{cookie}{}", named(false))),
        route("every", upstream.address, &format!("{cookie}cors = {{ origins = \"*\" }}\n")),
    ];
    let gateway = Gateway::start(&routes.concat()).await;
    let token = mint(&gateway, "alice").await;
    let post = async |path: &str, origin: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: app.test\r\nCookie: at={token}\r\nOrigin: {origin}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        status(&gateway.send(request).await)
    };
    assert_eq!(post("/with", APP).await, 200);
    assert_eq!(post("/with", "https://evil.example.com").await, 403);
    assert_eq!(post("/with", &format!("{APP}\r\nOrigin: {APP}")).await, 403);
    assert_eq!(post("/without", APP).await, 403);
    assert_eq!(post("/every", APP).await, 403);
}

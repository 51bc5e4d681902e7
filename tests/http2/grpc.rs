//! gRPC through the gateway: calls pass as they are, and what is refused or fails is said as gRPC says it.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};

use super::*;
use palisade_testing::nowhere::nowhere;

use crate::support::neighbours::until_metrics_say;

fn grpc_routes(upstream: SocketAddr, dead: SocketAddr) -> String {
    let route = |name: &str, path: &str, upstream: SocketAddr, keys: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"{path}\", methods = [\"POST\"] }}\n\
             upstream = [\"http://{upstream}\"]\nhttp2 = true\n{keys}\n"
        )
    };
    [
        route("open", "/open.Echo", upstream, "auth = \"none\"\nmax_body = 1000\nread_timeout = \"2s\""),
        route("closed", "/closed.Echo", upstream, "auth = \"required\""),
        route("scoped", "/scoped.Echo", upstream, "auth = \"required\"\nrequire = { scopes = [\"write\"] }"),
        route("dead", "/dead.Echo", dead, "auth = \"none\""),
        route("pages", "/pages.Echo", upstream, "cors = { origins = [\"https://page.test\"] }"),
    ]
    .concat()
}

/// A gRPC server, as far as HTTP/2 can tell: tells the fields of every call, and does what the method says.
async fn server() -> (Scripted, mpsc::UnboundedReceiver<(String, HeaderMap)>) {
    let (told, calls) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |stream| {
        let told = told.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let path = request.uri().path().to_owned();
                let _ = told.send((path.clone(), request.headers().clone()));
                tokio::spawn(call(path, request.into_body(), respond));
            }
        }
    })
    .await;
    (upstream, calls)
}

async fn call(path: String, mut received: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    if path.ends_with("/Refused") {
        let (mut head, ()) = head.into_parts();
        head.headers.insert("grpc-status", HeaderValue::from(9));
        respond.send_response(Response::from_parts(head, ()), true).unwrap();
        return;
    }
    if path.ends_with("/Silent") {
        std::future::pending::<()>().await;
    }
    let mut answer = respond.send_response(head, false).unwrap();
    let mut first = true;
    // Each message goes back as it comes.
    while let Some(Ok(message)) = received.data().await {
        let _ = received.flow_control().release_capacity(message.len());
        if path.ends_with("/Broken") && !std::mem::take(&mut first) {
            answer.send_reset(h2::Reason::INTERNAL_ERROR);
            return;
        }
        if answer.send_data(message, false).is_err() {
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(0));
    trailers.insert("x-took-bin", HeaderValue::from_static("AAE"));
    let _ = answer.send_trailers(trailers);
}

fn grpc_call(path: &str) -> http::request::Builder {
    Request::post(format!("http://app.test{path}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// What a whole call came to: the header section, the messages, the trailers.
async fn made(
    client: &SendRequest<Bytes>,
    request: Request<()>,
    message: &'static str,
) -> (Response<()>, String, Option<HeaderMap>) {
    let mut client = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
    let (response, mut sending) = client.send_request(request, false).unwrap();
    // The call may have been refused by now.
    let _ = sending.send_data(Bytes::from_static(message.as_bytes()), true);
    let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
    let text = body(&mut response).await;
    let trailers = timeout(PATIENCE, response.body_mut().trailers()).await.unwrap().unwrap_or_default();
    (response.map(drop), text, trailers)
}

fn code(fields: &HeaderMap) -> u8 {
    fields.get("grpc-status").expect("no grpc-status").to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_passes_with_te_trailers_and_metadata_both_ways() {
    let (upstream, mut calls) = server().await;
    let gateway = Gateway::start(&grpc_routes(upstream.address, upstream.address)).await;
    let client = clear(&gateway).await;
    let token = mint(&gateway, "alice").await;
    let request = grpc_call("/closed.Echo/Unary")
        .header("authorization", format!("Bearer {token}"))
        .header("grpc-timeout", "5S")
        .header("x-trace-bin", "AAEC")
        .body(())
        .unwrap();
    let (response, text, trailers) = made(&client, request, "message").await;
    assert_eq!((response.status().as_u16(), &*text), (200, "message"));
    let trailers = trailers.expect("no trailers");
    assert_eq!((code(&trailers), &trailers["x-took-bin"]), (0, &HeaderValue::from_static("AAE")));
    let (path, seen) = timeout(PATIENCE, calls.recv()).await.unwrap().unwrap();
    assert_eq!(path, "/closed.Echo/Unary");
    for (name, value) in [
        ("te", "trailers"),
        ("grpc-timeout", "5S"),
        ("x-trace-bin", "AAEC"),
        ("content-type", "application/grpc"),
        ("x-auth-subject", "alice"),
    ] {
        assert_eq!(seen.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
    }
    assert!(!seen.contains_key("authorization"), "{seen:?}");
    // Without the wish there is none upstream either.
    let request = Request::post("http://app.test/open.Echo/Unary").version(Version::HTTP_2).body(()).unwrap();
    made(&client, request, "message").await;
    assert!(!timeout(PATIENCE, calls.recv()).await.unwrap().unwrap().1.contains_key("te"));
    // The server's own refusal in a header section that ends the stream.
    let (response, ..) = made(&client, grpc_call("/open.Echo/Refused").body(()).unwrap(), "").await;
    assert_eq!(code(response.headers()), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_pass_both_ways_as_they_come() {
    let (upstream, _calls) = server().await;
    let gateway = Gateway::start(&grpc_routes(upstream.address, upstream.address)).await;
    let mut client = clear(&gateway).await.ready().await.unwrap();
    let (response, mut sending) =
        client.send_request(grpc_call("/open.Echo/Bidi").body(()).unwrap(), false).unwrap();
    let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
    for number in 0..10 {
        // The next message does not exist before this one has come back.
        let message = format!("message-{number}");
        sending.send_data(Bytes::from(message.clone()), false).unwrap();
        let mut back = Vec::new();
        while back.len() < message.len() {
            let chunk = timeout(PATIENCE, response.body_mut().data()).await.unwrap().unwrap().unwrap();
            let _ = response.body_mut().flow_control().release_capacity(chunk.len());
            back.extend_from_slice(&chunk);
        }
        assert_eq!(back, message.as_bytes());
    }
    sending.send_data(Bytes::new(), true).unwrap();
    assert_eq!(body(&mut response).await, "");
    let trailers = timeout(PATIENCE, response.body_mut().trailers()).await.unwrap().unwrap();
    assert_eq!(code(&trailers.expect("no trailers")), 0);
}

/// What a call is refused with: its path and fields, the gRPC status, the word that its message begins with, and the
/// decision that is counted.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u8, &'a str, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_failures_are_said_in_grpc_and_counted_as_what_they_are() {
    let (upstream, _calls) = server().await;
    let gateway = Gateway::start(&grpc_routes(upstream.address, nowhere())).await;
    let client = clear(&gateway).await;
    let bearer = format!("Bearer {}", mint(&gateway, "alice").await);
    let token = ("authorization", &*bearer);
    let large = "a".repeat(40_000);
    let cases: [Case<'_>; 10] = [
        ("/closed.Echo/Unary", &[], 16, "token_missing", "token_missing"),
        ("/closed.Echo/Unary", &[("authorization", "Bearer x.y.z")], 16, "invalid_token", "token_malformed"),
        ("/closed.Echo/Unary", &[token, token], 13, "credentials_ambiguous", "credentials_ambiguous"),
        ("/scoped.Echo/Unary", &[token], 7, "insufficient_scope", "insufficient_scope"),
        ("/nothing.Echo/Unary", &[], 12, "no_route", "no_route"),
        ("/open.Echo/../Unary", &[], 13, "path_dot_segment", "path_dot_segment"),
        ("/open.Echo/Unary", &[("content-length", "1001")], 8, "body_too_large", "body_too_large"),
        ("/open.Echo/Unary", &[("x-large", &large)], 8, "header_too_large", "header_too_large"),
        ("/open.Echo/Silent", &[], 14, "upstream_timeout", "upstream_timeout"),
        ("/dead.Echo/Unary", &[], 14, "upstream_failed", "upstream_failed"),
    ];
    for (path, fields, want, word, decision) in cases {
        let mut request = grpc_call(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut ready = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
        let (response, _sending) = ready.send_request(request.body(()).unwrap(), false).unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert!(response.body().is_end_stream(), "{word}: more than a header section");
        let head = response.headers();
        assert_eq!((response.status().as_u16(), code(head)), (200, want), "{word}");
        assert_eq!(head["content-type"], "application/grpc", "{word}");
        let message = head["grpc-message"].to_str().unwrap();
        assert!(message.starts_with(&format!("{word}: ")), "{word}: {message}");
        let challenged = matches!(
            decision,
            "token_missing" | "token_malformed" | "credentials_ambiguous" | "insufficient_scope"
        );
        assert_eq!(head.contains_key("www-authenticate"), challenged, "{word}");
        until_metrics_say(&gateway, &format!("palisade_decisions_total{{decision=\"{decision}\"}} 1\n"))
            .await;
    }
    for counted in ["scoped\",status=\"4xx\"} 1\n", "dead\",status=\"5xx\"} 1\n"] {
        until_metrics_say(&gateway, &format!("palisade_http_requests_total{{route=\"{counted}")).await;
    }
    // HTTP/1.1 has no gRPC, and clients of gRPC-Web read the HTTP status.
    let answer = gateway
        .send("POST /closed.Echo/Unary HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/grpc\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(status(&answer), 401, "{answer}");
    let web = Request::post("http://app.test/closed.Echo/Unary").version(Version::HTTP_2);
    let web = web.header("content-type", "application/grpc-web").body(()).unwrap();
    let (response, text, _) = made(&client, web, "").await;
    assert_eq!(response.status(), 401, "{text}");
    assert!(text.contains("\"token_missing\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_upstream_breaks_off_ends_in_trailers_that_say_so() {
    let (upstream, _calls) = server().await;
    let gateway = Gateway::start(&grpc_routes(upstream.address, upstream.address)).await;
    let mut client = clear(&gateway).await.ready().await.unwrap();
    let (response, mut sending) =
        client.send_request(grpc_call("/open.Echo/Broken").body(()).unwrap(), false).unwrap();
    sending.send_data(Bytes::from_static(b"message"), false).unwrap();
    let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
    let begun = timeout(PATIENCE, response.body_mut().data()).await.unwrap().unwrap().unwrap();
    assert_eq!(begun, "message");
    sending.send_data(Bytes::from_static(b"again"), false).unwrap();
    assert_eq!(body(&mut response).await, "");
    let trailers = timeout(PATIENCE, response.body_mut().trailers()).await.unwrap().unwrap();
    let trailers = trailers.expect("no trailers");
    assert_eq!(code(&trailers), 14);
    assert!(trailers["grpc-message"].to_str().unwrap().starts_with("upstream_failed: "), "{trailers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_deadline_passes_ends_at_the_upstream_too() {
    let (told, mut ends) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |stream| {
        let told = told.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let told = told.clone();
                tokio::spawn(async move {
                    let _held = request;
                    let _ = told.send(None);
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    let _ = told.send(Some(reason.unwrap()));
                });
            }
        }
    })
    .await;
    let gateway = Gateway::start(&grpc_routes(upstream.address, upstream.address)).await;
    let mut client = clear(&gateway).await.ready().await.unwrap();
    let (response, mut sending) =
        client.send_request(grpc_call("/dead.Echo/Silent").body(()).unwrap(), false).unwrap();
    assert_eq!(timeout(PATIENCE, ends.recv()).await.unwrap(), Some(None));
    // What a gRPC client does when its deadline passes.
    sending.send_reset(h2::Reason::CANCEL);
    drop(response);
    assert_eq!(timeout(PATIENCE, ends.recv()).await.unwrap(), Some(Some(h2::Reason::CANCEL)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_the_bound_of_its_route_is_refused_at_once_and_ended_upstream() {
    let (told, mut ends) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |stream| {
        let told = told.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let told = told.clone();
                tokio::spawn(async move {
                    let mut received = request.into_body();
                    while let Some(chunk) = received.data().await {
                        if let Err(error) = chunk {
                            let _ = told.send(error.reason());
                            return;
                        }
                    }
                    let _ = told.send(None);
                    drop(respond);
                });
            }
        }
    })
    .await;
    let gateway = Gateway::start(&grpc_routes(upstream.address, upstream.address)).await;
    let mut client = clear(&gateway).await.ready().await.unwrap();
    let (response, mut sending) =
        client.send_request(grpc_call("/open.Echo/Join").body(()).unwrap(), false).unwrap();
    for _ in 0..3 {
        sending.send_data(Bytes::from_static(&[b'a'; 400]), false).unwrap();
    }
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(code(response.headers()), 8);
    assert!(response.headers()["grpc-message"].to_str().unwrap().starts_with("body_too_large: "));
    // Half a stream never passes for a whole one.
    assert_eq!(timeout(PATIENCE, ends.recv()).await.unwrap(), Some(Some(h2::Reason::CANCEL)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_can_be_read_by_pages_that_its_route_lists() {
    let (upstream, _calls) = server().await;
    let gateway = Gateway::start(&grpc_routes(upstream.address, upstream.address)).await;
    let client = clear(&gateway).await;
    for (path, origin, allowed) in [
        ("/pages.Echo/Unary", "https://page.test", Some("https://page.test")),
        ("/pages.Echo/Unary", "https://evil.test", None),
        ("/closed.Echo/Unary", "https://page.test", None),
    ] {
        let request = grpc_call(path).header("origin", origin).body(()).unwrap();
        let (response, _, _) = made(&client, request, "x").await;
        assert_eq!(code(response.headers()), 16, "{path}");
        let field = response.headers().get("access-control-allow-origin");
        assert_eq!(field.map(|value| value.to_str().unwrap()), allowed, "{path} {origin}");
    }
}

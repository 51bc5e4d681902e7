//! Where one request ends and the next begins, and what of an answer reaches which client, byte for byte.

use std::sync::Arc;

use palisade_testing::nowhere::nowhere;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::support::neighbours::{Scripted, read_head, read_until};
use crate::support::{Gateway, PATIENCE, Upstream, body_of, field, routes, status};

const NEXT: &str = "GET /next HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

/// Chunked bodies that end at one place for one reader and at another for the next.
const TWO_READINGS: [&str; 24] = [
    "5\nhello\r\n0\r\n\r\n",
    "5;a\nhello\r\n0\r\n\r\n",
    "5;\n\r\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5;a\0\r\nhello\r\n0\r\n\r\n",
    "5;a\x7f\r\nhello\r\n0\r\n\r\n",
    "5;a\x08\r\nhello\r\n0\r\n\r\n",
    "5;a=\"b\r\nhello\r\n0\r\n\r\n",
    "5;a=\"b\\\r\n\"\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "\r\n5\r\nhello\r\n0\r\n\r\n",
    "\r\n0\r\n\r\n",
    ";a\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "0\n\r\n",
    "0\r\n\n",
    "0\r\nX: a\n\r\n",
    "0\r\nX : a\r\n\r\n",
    "0\r\nContent-Length: 5\r\n\r\n",
];

async fn one_route(upstream: std::net::SocketAddr) -> Gateway {
    let route = format!(
        "[[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nauth = \"none\"\nupstream = [\"http://{upstream}\"]\n"
    );
    Gateway::start(&route).await
}

/// An upstream that answers every request with `answer`, the same bytes each time, and then closes if
/// `closes`.
async fn answering(answer: String, closes: bool) -> Scripted {
    Scripted::start(move |mut stream| {
        let answer = answer.clone();
        async move {
            while !read_head(&mut stream).await.is_empty() {
                if stream.write_all(answer.as_bytes()).await.is_err() || closes {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_with_two_readings_is_a_400_and_the_last_request() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    for body in TWO_READINGS {
        for target in ["/page", "/auth/login"] {
            let head =
                format!("POST {target} HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\n");
            let answer = gateway.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}{NEXT}")).await;
            assert_eq!(status(&answer), 400, "{target} {body:?}: {answer}");
            assert_eq!(field(&answer, "connection"), Some("close"), "{target} {body:?}: {answer}");
            assert!(answer.contains("application/problem+json"), "{target} {body:?}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{target} {body:?}: {answer}");
        }
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_with_one_reading_arrives_without_extensions_and_trailers() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |mut stream| {
        let told = told.clone();
        async move {
            let head = read_head(&mut stream).await;
            assert_eq!(field(&head, "trailer"), None, "{head}");
            let body = read_until(&mut stream, "0\r\n\r\n").await;
            let _ = told.send(body);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let gateway = one_route(upstream.address).await;
    let body = "5;a=b;c=\"d; \\\" 0\"\r\nhello\r\n1\r\n!\r\n0;last\r\nX-Sum: 1\r\n\r\n";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: close\r\n\r\n{body}"
    );
    let answer = gateway.send(request).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = seen.recv().await.unwrap();
    let data: String =
        seen.split("\r\n").enumerate().filter(|(n, _)| n % 2 == 1).map(|(_, text)| text).collect();
    assert_eq!(data, "hello!", "{seen:?}");
    assert!(seen.ends_with("\r\n0\r\n\r\n") && !seen.contains([';', ':']), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let requests = "GET /1 HTTP/1.1\r\nHost: app.test\r\n\r\n\
                    GET /admin HTTP/1.1\r\nHost: app.test\r\n\r\n\
                    POST /3 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi\
                    POST /4 HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n\
                    GET /auth/password-requirements HTTP/1.1\r\nHost: app.test\r\n\r\n\
                    GET /auth/nothing HTTP/1.1\r\nHost: app.test\r\n\r\n\
                    HEAD /7 HTTP/1.1\r\nHost: app.test\r\n\r\n\
                    GET /page HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
                    GET /8 HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    for pieces in [1, 100, requests.len()] {
        let mut client = TcpStream::connect(gateway.address()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut read, mut write) = client.split();
        let send = async {
            for piece in requests.as_bytes().chunks(pieces) {
                write.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let mut all = String::new();
        let (_, read) = tokio::join!(send, timeout(PATIENCE, read.read_to_string(&mut all)));
        read.expect("silence").unwrap();
        let codes: Vec<u16> =
            all.split("HTTP/1.1 ").skip(1).filter_map(|text| text.get(..3)?.parse().ok()).collect();
        assert_eq!(codes, [200, 401, 200, 200, 200, 404, 200, 200, 200], "in pieces of {pieces}: {all}");
        assert!(all.ends_with("\r\n\r\nGET /8 HTTP/1.1"), "{all}");
    }
    let lines: Vec<String> =
        upstream.requests().iter().map(|head| head.lines().next().unwrap().to_owned()).collect();
    let each = ["GET /1", "POST /3", "POST /4", "HEAD /7", "GET /page", "GET /8"];
    let want: Vec<String> = each.iter().map(|line| format!("{line} HTTP/1.1")).collect();
    assert_eq!(lines, [&want[..], &want, &want].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_while_another_is_answered_waits_for_its_turn() {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    let upstream = Scripted::start(move |mut stream| {
        let (arrived, told) = (arrived.clone(), Arc::clone(&told));
        async move {
            loop {
                let head = read_head(&mut stream).await;
                let Some(line) = head.lines().next() else { return };
                let _ = arrived.send(line.to_owned());
                told.notified().await;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    let gateway = one_route(upstream.address).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    for number in 1..4 {
        client
            .write_all(format!("GET /{number} HTTP/1.1\r\nHost: app.test\r\n\r\n").as_bytes())
            .await
            .unwrap();
        if number == 1 {
            assert_eq!(timeout(PATIENCE, arrivals.recv()).await.unwrap().unwrap(), "GET /1 HTTP/1.1");
        }
    }
    for number in 1..4 {
        go.notify_one();
        let answer = read_until(&mut client, &format!("GET /{number} HTTP/1.1")).await;
        assert!(status(&answer) == 200 && answer.ends_with(&format!("/{number} HTTP/1.1")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_behind_which_the_connection_is_closed_says_so() {
    let gateway = one_route(nowhere()).await;
    let answer = gateway.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n{NEXT}")).await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert_eq!(field(&answer, "connection"), Some("close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

/// An upstream that closes, says what is no HTTP, or says nothing, by the path.
async fn failing() -> Scripted {
    Scripted::start(|mut stream| async move {
        let head = read_head(&mut stream).await;
        if head.contains("/garbage") {
            let _ = stream.write_all(b"garbage\r\n\r\n").await;
        } else if head.contains("/hints") {
            let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await;
        } else if head.contains("/silence") {
            // Until the gateway gives up.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_behind_which_the_connection_is_closed_says_so() {
    let upstream = failing().await;
    let gateway = Gateway::start(&format!(
        "[[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nauth = \"none\"\nupstream = [\"http://{}\"]\n\
         read_timeout = \"200ms\"\nmax_body = 600\n\
         [[routes]]\nname = \"dead\"\nmatch = {{ path = \"/dead\" }}\nauth = \"none\"\nupstream = [\"http://{}\"]\n",
        upstream.address,
        nowhere()
    ))
    .await;
    let whole = "Content-Length: 5\r\n\r\nhello";
    let under_way = "Content-Length: 500\r\n\r\nhello";
    let chunks = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let mut cases = Vec::new();
    for (path, code) in
        [("/dead", 502), ("/close", 502), ("/garbage", 502), ("/hints", 502), ("/silence", 504)]
    {
        for (method, rest) in
            [("GET", "\r\n"), ("HEAD", "\r\n"), ("POST", whole), ("POST", under_way), ("POST", chunks)]
        {
            cases.push((format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\n{rest}"), code));
        }
    }
    let large = "x".repeat(700);
    let head = "POST /close HTTP/1.1\r\nHost: app.test\r\n";
    cases.push((format!("{head}Content-Length: 700\r\n\r\n"), 413));
    cases.push((format!("{head}Transfer-Encoding: chunked\r\n\r\n2bc\r\n{large}\r\n"), 413));
    cases.push((format!("{head}Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n"), 400));
    cases.push(("GET / HTTP/1.1\r\nHost: app.test\r\nX : y\r\n\r\n".to_owned(), 400));
    cases.push((format!("GET / HTTP/1.1\r\nHost: app.test\r\nX: {}\r\n\r\n", "a".repeat(40_000)), 431));
    cases.push(("GET / HTTP/1.1\r\nHost: app".to_owned(), 408));
    cases.push(("CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n".to_owned(), 405));
    cases.push(("GET / HTTP/1.9\r\nHost: app.test\r\n\r\n".to_owned(), 505));
    cases
        .push(("POST /auth/nowhere HTTP/1.1\r\nHost: app.test\r\nContent-Length: 9\r\n\r\n".to_owned(), 404));
    for (request, code) in cases {
        let shown = &request[..request.len().min(100)];
        let answer = gateway.send(&request).await;
        // Behind an interim answer the last one counts.
        let last = answer.rfind("\r\n\r\nHTTP/1.1 ").map_or(&*answer, |at| &answer[at + 4..]);
        assert_eq!((status(last), field(last, "connection")), (code, Some("close")), "{shown:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_no_end_of_an_http2_connection() {
    let upstream = failing().await;
    let gateway = one_route(upstream.address).await;
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let mut client = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
        let request = http::Request::get("http://app.test/close").body(()).unwrap();
        let told = timeout(PATIENCE, client.send_request(request, true).unwrap().0).await.unwrap().unwrap();
        assert_eq!((told.status().as_u16(), told.headers().get("connection")), (502, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_http_1_0_needs_no_host_where_the_route_needs_none() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with("ping_path = \"/ping\"", &routes(upstream.address)).await;
    for (request, want) in [
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("OPTIONS / HTTP/1.0\r\n\r\n", 200),
        ("HEAD /page HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", 200),
        ("GET /admin HTTP/1.0\r\n\r\n", 401),
        ("GET /ping HTTP/1.0\r\n\r\n", 200),
        ("GET /auth/password-requirements HTTP/1.0\r\n\r\n", 200),
        // Named empty, or not at all where a name is asked for.
        ("GET / HTTP/1.0\r\nHost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ] {
        let answer = gateway.send(request).await;
        assert_eq!(status(&answer), want, "{request:?}: {answer}");
    }
    let seen = upstream.requests();
    assert_eq!(seen.len(), 3, "{seen:#?}");
    // The app is told the name that it is reached by, and no name of the client's.
    let own = upstream.address.to_string();
    for head in seen {
        assert_eq!((field(&head, "host"), field(&head, "x-forwarded-host")), (Some(&*own), None), "{head}");
        assert_eq!(field(&head, "forwarded"), Some("for=127.0.0.1;proto=http"), "{head}");
    }
    let route = format!(
        "[[routes]]\nname = \"app\"\nmatch = {{ host = \"app.test\", path = \"/\" }}\nupstream = [\"http://{}\"]\n",
        upstream.address
    );
    let named = Gateway::start(&route).await;
    let answer = named.send("GET / HTTP/1.0\r\n\r\n").await;
    assert!(status(&answer) == 400 && answer.contains("host_missing"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_have_many_fields_up_to_a_bound() {
    let answer = |count: usize| {
        let lines: String =
            (0..count).map(|number| format!("X-{number}: {number}\r\nSet-Cookie: c{number}=1\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok")
    };
    for count in [100, 200, 500] {
        let upstream = answering(answer(count), false).await;
        let gateway = one_route(upstream.address).await;
        // Twice over one connection of the upstream.
        for _ in 0..2 {
            let told = gateway.get("/", "").await;
            assert_eq!((status(&told), body_of(&told)), (200, "ok"), "{count}: {told}");
            let names = |prefix: &str| {
                let lines = told.lines().filter_map(|line| line.strip_prefix(prefix));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            let want: Vec<String> = (0..count).map(|number| format!("c{number}=1")).collect();
            assert_eq!(names("Set-Cookie: "), want, "{count}");
            assert_eq!(names("X-").len(), count, "{count}");
        }
        assert_eq!(upstream.connections(), 1, "{count}");
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = http::Request::get("http://app.test/").body(()).unwrap();
        let told = timeout(PATIENCE, client.send_request(request, true).unwrap().0).await.unwrap().unwrap();
        assert_eq!(told.headers().get_all("set-cookie").iter().count(), count);
    }
    let upstream = answering(answer(513), false).await;
    let gateway = one_route(upstream.address).await;
    let told = gateway.get("/", "").await;
    assert!(
        status(&told) == 502 && told.contains("more header fields than this gateway passes on"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_close_in_any_line_is_heard() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    for target in ["/page", "/admin", "/auth/password-requirements"] {
        for lines in
            ["Connection: keep-alive\r\nConnection: close\r\n", "Connection: x\r\nConnection: y, Close\r\n"]
        {
            // Read to its end, which only comes when the gateway closes.
            let answer =
                gateway.send(format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{lines}\r\n")).await;
            assert_eq!(field(&answer, "connection"), Some("close"), "{target} {lines:?}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_gets_no_chunks_and_no_interim_answers() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x\r\n!\r\n0\r\nX: y\r\n\r\n";
    for (answer, closes) in [
        (format!("{early}{chunked}"), false),
        ("HTTP/1.1 200 OK\r\n\r\nhello!".to_owned(), true),
        ("HTTP/1.0 200 OK\r\n\r\nhello!".to_owned(), true),
    ] {
        let upstream = answering(answer.clone(), closes).await;
        let gateway = one_route(upstream.address).await;
        for fields in ["", "Connection: keep-alive\r\n"] {
            let told = gateway.send(format!("GET / HTTP/1.0\r\nHost: app.test\r\n{fields}\r\n")).await;
            assert_eq!(status(&told), 200, "{answer:?}: {told}");
            assert_eq!(field(&told, "transfer-encoding"), None, "{answer:?}: {told}");
            assert_eq!(field(&told, "connection"), Some("close"), "{answer:?}: {told}");
            assert_eq!(body_of(&told), "hello!", "{answer:?}: {told}");
        }
    }
    // A length frames the answer in either version.
    let upstream = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), false).await;
    let gateway = one_route(upstream.address).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    for _ in 0..2 {
        client
            .write_all(b"GET / HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n")
            .await
            .unwrap();
        let told = read_until(&mut client, "ok").await;
        assert_eq!(field(&told, "connection"), Some("keep-alive"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_sees_that_an_answer_broke_off() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5;\n";
    let (begun, sent) = (Arc::new(Notify::new()), answer.split_once("5;").unwrap());
    let go = Arc::clone(&begun);
    let upstream = Scripted::start(move |mut stream| {
        let go = Arc::clone(&go);
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(sent.0.as_bytes()).await;
            go.notified().await;
            let _ = stream.write_all(b"5;\n").await;
            read_head(&mut stream).await;
        }
    })
    .await;
    let gateway = one_route(upstream.address).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\nHost: app.test\r\n\r\n").await.unwrap();
    let told = read_until(&mut client, "hello").await;
    assert_eq!(status(&told), 200, "{told}");
    begun.notify_one();
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, client.read_to_end(&mut rest)).await.expect("the answer goes on");
    assert!(end.is_err(), "an orderly end: {rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_of_its_connection_reaches_no_client() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: X-Secret, keep-alive, Content-Length\r\n\
                  Connection: Transfer-Encoding, x-other\r\nX-Secret: 1\r\nX-Other: 1\r\nKeep-Alive: timeout=5\r\n\
                  Proxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\n\
                  TE: trailers\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\nVia: 1.1 app\r\nProxy-Status: kept\r\n\
                  Content-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok";
    let upstream = answering(answer.to_owned(), false).await;
    let gateway = one_route(upstream.address).await;
    let told = gateway.get("/", "").await;
    let mut names: Vec<String> = told
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split(':').next().unwrap().to_ascii_lowercase())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["connection", "content-length", "date", "proxy-status", "via", "x-request-id"],
        "{told}"
    );
    assert_eq!(field(&told, "content-length"), Some("2"));
    assert_eq!(field(&told, "connection"), Some("close"));
    assert!(told.ends_with("\r\n\r\nok"), "{told}");

    let (mut client, connection) =
        h2::client::handshake(TcpStream::connect(gateway.address()).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://app.test/").body(()).unwrap();
    let told = client.send_request(request, true).unwrap().0;
    let told = timeout(PATIENCE, told).await.unwrap().unwrap();
    let mut names: Vec<&str> = told.headers().keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "date", "proxy-status", "via", "x-request-id"]);
}

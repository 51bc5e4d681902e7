//! What outlives one answer, or is too large to hold: WebSockets, event streams, large bodies. They pass
//! as they come, and they end when the token behind them does.

mod ended;
mod lease;
mod sessions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::neighbours::{Scripted, mint, read_head, read_until, revoke};
use crate::support::{Gateway, PATIENCE, Upstream, field, routes, status};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};

/// From a revocation's answer to the end of the stream.
const AT_ONCE: Duration = Duration::from_secs(1);
const LARGE: usize = 64 << 20;
/// More than the buffers of four sockets hold, much less than [`LARGE`].
const BUFFERED: usize = 40 << 20;
/// Nothing moved for this long: the other end does not read.
const STALLED: Duration = Duration::from_millis(500);

fn one_route(upstream: std::net::SocketAddr, keys: &str) -> String {
    format!(
        "[[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{upstream}\"]\n{keys}\n"
    )
}

/// An upstream that echoes WebSocket messages and tells of every handshake it sees.
async fn echo() -> (Scripted, mpsc::UnboundedReceiver<String>) {
    let (heads, seen) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |stream| {
        let heads = heads.clone();
        async move {
            #[allow(clippy::result_large_err, reason = "the library's own signature")]
            let look = |request: &Request, mut response: Response| {
                let _ = heads.send(format!("{} {:?}", request.uri(), request.headers()));
                if let Some(offered) = request.headers().get("sec-websocket-protocol") {
                    response.headers_mut().insert("sec-websocket-protocol", offered.clone());
                }
                Ok(response)
            };
            let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, look).await else { return };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() && socket.send(message).await.is_err() {
                    break;
                }
            }
        }
    })
    .await;
    (upstream, seen)
}

async fn websocket(
    gateway: &Gateway,
    target: &str,
    fields: &[(&'static str, String)],
) -> Result<WebSocketStream<TcpStream>, Error> {
    let mut request = format!("ws://app.test{target}").into_client_request().unwrap();
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let opened = timeout(PATIENCE, tokio_tungstenite::client_async(request, stream)).await.unwrap();
    opened.map(|(socket, _)| socket)
}

async fn exchange(socket: &mut WebSocketStream<TcpStream>, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    let echoed = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(echoed.into_text().unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_echoes_whatever_carries_its_token_and_the_upstream_never_sees_it() {
    let (upstream, mut seen) = echo().await;
    let keys =
        "auth = \"required\"\ntoken = { websocket_protocol = true, query = \"access\", cookie = \"at\" }";
    let gateway = Gateway::start(&one_route(upstream.address, keys)).await;
    let token = mint(&gateway, "alice").await;
    for (target, field) in [
        ("/ws".to_owned(), ("authorization", format!("Bearer {token}"))),
        ("/ws".to_owned(), ("sec-websocket-protocol", format!("chat, bearer.{token}"))),
        ("/ws".to_owned(), ("cookie", format!("a=b; at={token}"))),
        (format!("/ws?access={token}&x=1"), ("x-other", "1".to_owned())),
    ] {
        let name = field.0;
        let mut socket =
            websocket(&gateway, &target, &[field]).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        for text in ["one", "two", &"three".repeat(20_000)] {
            exchange(&mut socket, text).await;
        }
        let head = seen.recv().await.unwrap();
        assert!(!head.contains(&token) && head.contains("\"x-auth-subject\": \"alice\""), "{name}: {head}");
        assert_eq!(head.contains("x=1"), target.contains("x=1"), "{name}: {head}");
    }
    for refused in [websocket(&gateway, "/ws", &[]).await, websocket(&gateway, "/ws?access=x.y.z", &[]).await]
    {
        let Err(Error::Http(answer)) = refused else { panic!("{refused:?}") };
        assert_eq!(answer.status(), 401);
    }
    assert_eq!(upstream.connections(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_query_opens_no_websocket_where_the_route_does_not_say_so() {
    let (upstream, _seen) = echo().await;
    let gateway = Gateway::start(&one_route(upstream.address, "auth = \"required\"")).await;
    let token = mint(&gateway, "alice").await;
    let protocol = ("sec-websocket-protocol", format!("chat, bearer.{token}"));
    for refused in [
        websocket(&gateway, &format!("/ws?access={token}"), &[]).await,
        websocket(&gateway, "/ws", &[protocol]).await,
    ] {
        let Err(Error::Http(answer)) = refused else { panic!("{refused:?}") };
        assert_eq!(answer.status(), 401);
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_websocket_that_the_upstream_accepts_stays_open_however_quick_it_is() {
    let (upstream, _seen) = echo().await;
    let gateway = Gateway::start(&one_route(upstream.address, "auth = \"none\"")).await;
    for number in 0..200 {
        let mut socket = websocket(&gateway, "/ws", &[]).await.unwrap();
        exchange(&mut socket, &format!("message {number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_the_upstream_declines_is_one_ordinary_request() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let handshake = "GET /page HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
                     GET /admin HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    for _ in 0..3 {
        let answer = gateway.send(handshake).await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(answer.matches("HTTP/1.1 200").count() == 1, "{answer}");
    }
    assert!(
        upstream.requests().iter().all(|head| head.starts_with("GET /page ")),
        "{:?}",
        upstream.requests()
    );
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_has_a_body_or_is_http_1_0_asks_for_no_websocket() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let hidden = "GET /admin HTTP/1.1\r\nHost: app.test\r\nX-Auth-Subject: evil\r\n\r\n";
    let length = hidden.len();
    for (version, body, closes) in [
        ("1.1", format!("Content-Length: {length}\r\n\r\n{hidden}"), true),
        ("1.1", format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{hidden}\r\n0\r\n\r\n"), true),
        ("1.0", "\r\n".to_owned(), false),
    ] {
        let mut client = TcpStream::connect(gateway.address()).await.unwrap();
        let handshake = format!(
            "GET /page HTTP/{version}\r\nHost: app.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{body}"
        );
        client.write_all(handshake.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "GET /page").await;
        assert_eq!(status(&answer), 200, "{handshake}: {answer}");
        let seen = upstream.requests().pop().unwrap();
        assert!(seen.starts_with("GET /page HTTP/1.1\r\n"), "{seen}");
        assert_eq!(field(&seen, "upgrade"), None, "{seen}");
        // Whatever the upstream makes of the body, it makes nothing of it on a connection that others use.
        assert_eq!(field(&seen, "connection"), closes.then_some("close"), "{seen}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_websocket_at_once_and_no_other() {
    let (upstream, _seen) = echo().await;
    let keys = "auth = \"required\"\nread_timeout = \"1s\"";
    let gateway = Gateway::start(&one_route(upstream.address, keys)).await;
    let (alice, bob) = (mint(&gateway, "alice").await, mint(&gateway, "bob").await);
    let open = async |token: &str| {
        websocket(&gateway, "/ws", &[("authorization", format!("Bearer {token}"))]).await.unwrap()
    };
    let (mut first, mut second) = (open(&alice).await, open(&bob).await);
    exchange(&mut first, "here").await;
    exchange(&mut second, "here").await;
    revoke(&gateway, &alice).await;
    let ended = timeout(AT_ONCE, first.next()).await.expect("still open");
    assert!(matches!(ended, None | Some(Err(_))), "{ended:?}");
    exchange(&mut second, "still here").await;
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// An upstream that sends one event for every permit.
async fn events() -> (Scripted, Arc<Notify>) {
    let next = Arc::new(Notify::new());
    let told = Arc::clone(&next);
    let upstream = Scripted::start(move |mut stream| {
        let told = Arc::clone(&told);
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(EVENTS.as_bytes()).await;
            for number in 0.. {
                told.notified().await;
                if stream.write_all(format!("data: event-{number}\n\n").as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    })
    .await;
    (upstream, next)
}

async fn listen(gateway: &Gateway, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let request = format!(
        "GET /events HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert_eq!(status(&head), 200, "{head}");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_as_they_come_until_the_token_is_revoked() {
    let (upstream, next) = events().await;
    let gateway = Gateway::start(&one_route(upstream.address, "auth = \"required\"")).await;
    let token = mint(&gateway, "alice").await;
    let mut stream = listen(&gateway, &token).await;
    for number in 0..3 {
        // The next event does not exist before this one has arrived.
        next.notify_one();
        read_until(&mut stream, &format!("event-{number}\n\n")).await;
    }
    revoke(&gateway, &token).await;
    let mut rest = Vec::new();
    let ended = timeout(AT_ONCE, stream.read_to_end(&mut rest)).await.expect("still open");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut stream must not look whole: {ended:?}");
    let again = gateway.get("/events", &format!("Authorization: Bearer {token}\r\n")).await;
    assert_eq!(status(&again), 401, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_outlives_the_read_timeout() {
    let (upstream, next) = events().await;
    let (echoing, _seen) = echo().await;
    let keys = "auth = \"required\"\nread_timeout = \"200ms\"";
    let ws = format!(
        "[[routes]]\nname = \"ws\"\nmatch = {{ path = \"/ws\" }}\nupstream = [\"http://{}\"]\n{keys}\n",
        echoing.address
    );
    let gateway = Gateway::start(&format!("{}{ws}", one_route(upstream.address, keys))).await;
    let token = mint(&gateway, "alice").await;
    let mut stream = listen(&gateway, &token).await;
    let mut socket =
        websocket(&gateway, "/ws", &[("authorization", format!("Bearer {token}"))]).await.unwrap();
    let silence = Duration::from_secs(1);
    let (events, messages) =
        tokio::join!(timeout(silence, stream.read_u8()), timeout(silence, socket.next()));
    assert!(events.is_err() && messages.is_err(), "{events:?} {messages:?}");
    next.notify_one();
    read_until(&mut stream, "event-0\n\n").await;
    exchange(&mut socket, "still here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_asks_for_does_not_switch_the_read_timeout_off() {
    // One never answers, one begins an answer that is no stream.
    let silent = Scripted::start(|mut stream| async move {
        read_until(&mut stream, "never").await;
    })
    .await;
    let begins = Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await;
        read_until(&mut stream, "never").await;
    })
    .await;
    // HTTP/2: a preface is never answered either.
    let keys = "auth = \"none\"\nread_timeout = \"200ms\"";
    let gateway = Gateway::start(&format!(
        "{}{}{}",
        one_route(silent.address, keys),
        crate::support::route("begins", begins.address, keys),
        crate::support::route("http2", silent.address, &format!("{keys}\nhttp2 = true"))
    ))
    .await;
    let events = "Accept: text/event-stream\r\n";
    let websocket = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (target, fields) in [("/", events), ("/http2", events), ("/", websocket)] {
        let mut client = TcpStream::connect(gateway.address()).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "upstream_timeout").await;
        assert_eq!(status(&answer), 504, "{target} {fields}: {answer}");
    }
    for fields in [events, websocket] {
        let mut client = TcpStream::connect(gateway.address()).await.unwrap();
        let request = format!("GET /begins HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("still held");
        assert!(answer.ends_with("\r\n\r\nbegun"), "{fields}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_websocket_are_no_request_body() {
    let (upstream, _seen) = echo().await;
    let keys = "auth = \"none\"\nmax_body = 1000";
    let gateway = Gateway::start(&one_route(upstream.address, keys)).await;
    let mut socket = websocket(&gateway, "/ws", &[]).await.unwrap();
    for text in ["one", &"two".repeat(20_000), "three"] {
        exchange(&mut socket, text).await;
    }
    // What comes instead of an upgrade is one.
    let body = "a".repeat(2000);
    let handshake = format!(
        "GET /ws HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Transfer-Encoding: chunked\r\n\r\n7d0\r\n{body}\r\n0\r\n\r\n"
    );
    let answer = gateway.send(handshake).await;
    assert!(matches!(status(&answer), 400 | 413), "{answer}");
}

/// Writes zeros until `total` are written, or the reader is gone; returns how many.
async fn write_zeros(stream: &mut (impl AsyncWriteExt + Unpin), total: usize) -> usize {
    let zeros = vec![0; 64 * 1024];
    let mut written = 0;
    while written < total {
        let most = zeros.len().min(total - written);
        match timeout(STALLED, stream.write(&zeros[..most])).await {
            Ok(Ok(count @ 1..)) => written += count,
            Ok(_) | Err(_) => break,
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_body_is_streamed_and_never_held() {
    let (first, more) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let received = Arc::new(AtomicUsize::new(0));
    let script = (Arc::clone(&first), Arc::clone(&more), Arc::clone(&received));
    let upstream = Scripted::start(move |mut stream| {
        let (first, more, received) = script.clone();
        async move {
            read_head(&mut stream).await;
            let mut chunk = vec![0; 64 * 1024];
            while received.load(Ordering::Relaxed) < LARGE {
                let Ok(count @ 1..) = stream.read(&mut chunk).await else { return };
                if received.fetch_add(count, Ordering::Relaxed) == 0 {
                    first.notify_one();
                    more.notified().await;
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    let head = format!(
        "POST /up HTTP/1.1\r\nHost: app.test\r\nContent-Length: {LARGE}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&[0; 1024]).await.unwrap();
    timeout(PATIENCE, first.notified()).await.expect("nothing arrives before the body is whole");
    let written = 1024 + write_zeros(&mut client, LARGE - 1024).await;
    assert!(written < BUFFERED, "{written} bytes were taken in while the upstream read nothing");
    more.notify_one();
    client.write_all(&vec![0; LARGE - written]).await.unwrap();
    let answer = read_head(&mut client).await;
    assert_eq!(status(&answer), 204, "{answer}");
    assert_eq!(received.load(Ordering::Relaxed), LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_streamed_and_never_held() {
    let (stalled, at) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |mut stream| {
        let stalled = stalled.clone();
        async move {
            read_head(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let written = write_zeros(&mut stream, LARGE).await;
            let _ = stalled.send(written);
            let _ = stream.write_all(&vec![0; LARGE - written]).await;
        }
    })
    .await;
    let mut at = at;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(b"GET /down HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let head = read_head(&mut client).await;
    assert_eq!(status(&head), 200, "{head}");
    let written = timeout(PATIENCE, at.recv()).await.unwrap().unwrap();
    assert!(written < BUFFERED, "{written} bytes were taken in while the client read nothing");
    let mut total = 0;
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = timeout(PATIENCE, client.read(&mut chunk)).await.unwrap() {
        total += count;
    }
    assert_eq!(total, LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_route_s_bound_is_refused_declared_or_not() {
    let ended = Arc::new(AtomicBool::new(false));
    let whole = Arc::clone(&ended);
    let upstream = Scripted::start(move |mut stream| {
        let whole = Arc::clone(&whole);
        async move {
            read_head(&mut stream).await;
            let seen = read_until(&mut stream, "0\r\n\r\n").await;
            whole.store(seen.ends_with("0\r\n\r\n"), Ordering::Relaxed);
        }
    })
    .await;
    let keys = "auth = \"none\"\nmax_body = \"10kB\"";
    let gateway = Gateway::start(&one_route(upstream.address, keys)).await;
    let declared =
        format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 20000\r\n\r\n{}", "a".repeat(20_000));
    let answer = gateway.send(declared).await;
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(answer.contains("\"body_too_large\""), "{answer}");
    assert_eq!(upstream.connections(), 0);
    let chunk = format!("1000\r\n{}\r\n", "a".repeat(4096));
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(8)
    );
    let answer = gateway.send(chunked).await;
    assert_eq!(status(&answer), 413, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(!ended.load(Ordering::Relaxed), "the upstream took half a body for a whole one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_told_so_without_its_body() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    // Waits for permission to send: the refusal is the answer, never a 100.
    let waiting =
        "POST /admin HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    let answer = gateway.send(waiting).await;
    assert_eq!(status(&answer), 401, "{answer}");
    assert!(!answer.contains(" 100 "), "{answer}");
    // Sends everything anyway: it still sees the answer, and the connection ends.
    let body = "a".repeat(200_000);
    let sent = format!("POST /admin HTTP/1.1\r\nHost: app.test\r\nContent-Length: 200000\r\n\r\n{body}");
    let answer = gateway.send(sent).await;
    assert_eq!(status(&answer), 401, "{answer}");
    assert_eq!(field(&answer, "connection"), Some("close"), "{answer}");
    assert_eq!(upstream.requests(), [""; 0]);
}

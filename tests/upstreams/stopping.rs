//! Stopping under load: no request that a client has sent is lost, and clients learn that they should leave.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::kept_alive;
use crate::support::binary::Program;
use crate::support::neighbours::read_head;
use crate::support::{Gateway, PATIENCE, Upstream, exchange, field, routes, status};

fn configure(folder: &Path, server: &str, rest: &str) {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n{server}\n[log]\naccess = false\n\
         [store]\nurl = \"sled:./data\"\n{rest}"
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

/// What the clients of a load have seen.
#[derive(Default)]
struct Seen {
    answered: AtomicUsize,
    told_to_leave: AtomicUsize,
    stopping: AtomicBool,
}

/// One whole answer with a `Content-Length`; `None` when the connection ended before its first byte.
async fn answer(stream: &mut TcpStream) -> Option<String> {
    let head = read_head(stream).await;
    if head.is_empty() {
        return None;
    }
    let length: usize = field(&head, "content-length").unwrap_or_else(|| panic!("{head:?}")).parse().unwrap();
    let mut body = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut body)).await.unwrap().expect("the body broke off");
    Some(head)
}

/// Asks again and again on one connection, and on another one when it was told to leave; until no further
/// connection is taken.
async fn stay(address: std::net::SocketAddr, seen: &Seen) {
    while let Ok(mut stream) = TcpStream::connect(address).await {
        loop {
            stream.write_all(b"GET /page HTTP/1.1\r\nHost: app.test\r\n\r\n").await.expect("reset");
            let head = answer(&mut stream).await.expect("closed without an answer");
            assert_eq!(status(&head), 200, "{head}");
            seen.answered.fetch_add(1, Ordering::Relaxed);
            match field(&head, "connection") {
                Some("close") => {
                    assert!(seen.stopping.load(Ordering::SeqCst), "told to leave too early: {head}");
                    seen.told_to_leave.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                said => assert_eq!(said, Some("keep-alive"), "{head}"),
            }
        }
    }
}

/// One connection for each request; until no further one is taken.
async fn come_and_go(address: std::net::SocketAddr, seen: &Seen) {
    while let Ok(mut stream) = TcpStream::connect(address).await {
        let request = b"GET /page HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("reset");
        let head = answer(&mut stream).await.expect("closed without an answer");
        assert_eq!(status(&head), 200, "{head}");
        seen.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks again and again over HTTP/2, until the connection takes no more.
async fn multiplex(address: std::net::SocketAddr, seen: &Seen) {
    while let Ok(stream) = TcpStream::connect(address).await {
        // A connection may be told to leave before it has begun.
        let Ok((client, connection)) = h2::client::handshake(stream).await else { continue };
        let driving = tokio::spawn(connection);
        loop {
            let Ok(mut ready) = client.clone().ready().await else { break };
            let request = Request::get("http://app.test/page").version(Version::HTTP_2).body(()).unwrap();
            let Ok((response, _)) = ready.send_request(request, true) else { break };
            match timeout(PATIENCE, response).await.expect("no answer") {
                Ok(mut response) => {
                    assert_eq!(response.status(), 200);
                    while let Some(chunk) = response.body_mut().data().await {
                        let chunk = chunk.expect("the body broke off");
                        let _ = response.body_mut().flow_control().release_capacity(chunk.len());
                    }
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                }
                // Not taken, and the client knows (RFC 9113 §6.8).
                Err(error) => {
                    let unheard = error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM);
                    assert!(unheard && seen.stopping.load(Ordering::SeqCst), "{error:?}");
                    break;
                }
            }
        }
        assert!(seen.stopping.load(Ordering::SeqCst), "ended too early");
        drop(client);
        let _ = driving.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_request() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "", &routes(upstream.address));
    let program = Program::start(folder.path());
    let (seen, address) = (Arc::new(Seen::default()), program.listen);
    let mut clients = JoinSet::new();
    for number in 0..24 {
        let seen = Arc::clone(&seen);
        clients.spawn(async move {
            match number % 3 {
                0 => stay(address, &seen).await,
                1 => come_and_go(address, &seen).await,
                _ => multiplex(address, &seen).await,
            }
        });
    }
    let warm = async {
        while seen.answered.load(Ordering::Relaxed) < 500 {
            tokio::task::yield_now().await
        }
    };
    timeout(PATIENCE, warm).await.expect("no load");
    seen.stopping.store(true, Ordering::SeqCst);
    program.terminate();
    let ended = async {
        while let Some(client) = clients.join_next().await {
            client.expect("a request was lost")
        }
    };
    timeout(PATIENCE, ended).await.expect("a client is still served");
    assert!(seen.told_to_leave.load(Ordering::Relaxed) >= 8, "clients were not told to leave");
    assert!(program.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_stop_serves_on_and_says_that_it_is_not_ready() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "shutdown_delay = \"1h\"", &routes(upstream.address));
    let program = Program::start(folder.path());
    assert_eq!(status(&program.probe("/readyz").await), 200);
    program.terminate();
    let leaving = async {
        loop {
            let ready = program.probe("/readyz").await;
            if status(&ready) == 503 {
                return ready;
            }
        }
    };
    let ready = timeout(PATIENCE, leaving).await.expect("ready for good");
    assert!(ready.contains("shutting down"), "{ready}");
    let mut stream = TcpStream::connect(program.listen).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /page HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        let head = answer(&mut stream).await.unwrap();
        assert_eq!((status(&head), field(&head, "connection")), (200, Some("keep-alive")), "{head}");
    }
    assert_eq!(status(&program.probe("/livez").await), 200);
    // Who asks again means it.
    program.terminate();
    stream.write_all(b"GET /page HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(status(&answer(&mut stream).await.expect("lost")), 200);
    assert!(program.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_on_its_way_when_the_stop_comes_is_answered() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let mut halfway = kept_alive(&gateway).await.unwrap();
    halfway.write_all(b"GET /page HTTP/1.1\r\nHo").await.unwrap();
    let mut late = kept_alive(&gateway).await.unwrap();
    let mut native = kept_alive(&gateway).await.unwrap();
    let mut refused = kept_alive(&gateway).await.unwrap();
    let Gateway { running, folder } = gateway;
    let admin = running.admin;
    let closing = tokio::spawn(running.shutdown());
    let ready = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let begun = async { while status(&exchange(admin, ready).await) != 503 {} };
    timeout(PATIENCE, begun).await.expect("ready for good");
    late.write_all(b"GET /page HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    native.write_all(b"GET /auth/password-requirements HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    refused.write_all(b"GET /admin HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    halfway.write_all(b"st: app.test\r\n\r\n").await.unwrap();
    for (stream, want) in [(&mut halfway, 200), (&mut late, 200), (&mut native, 200), (&mut refused, 401)] {
        let mut text = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("not closed").unwrap();
        assert_eq!((status(&text), field(&text, "connection")), (want, Some("close")), "{text}");
    }
    timeout(PATIENCE, closing).await.expect("the shutdown does not end").unwrap();
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_to_be_accepted_when_the_stop_comes_is_served() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "", &routes(upstream.address));
    let program = Program::start(folder.path());
    let signal = |name: &str| {
        let id = program.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
    };
    // A program that stands still accepts nothing: the system queues what connects.
    signal("-STOP");
    let mut queued = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(program.listen).await.unwrap();
        stream.write_all(b"GET /page HTTP/1.1\r\nHo").await.unwrap();
        queued.push(stream);
    }
    program.terminate();
    signal("-CONT");
    // An answer says `close` only once the program has seen the signal, which it may do after it has accepted.
    let noticed = async { while status(&program.probe("/readyz").await) != 503 {} };
    timeout(PATIENCE, noticed).await.expect("ready for good");
    for stream in &mut queued {
        stream.write_all(b"st: app.test\r\n\r\n").await.unwrap();
    }
    for mut stream in queued {
        let head = answer(&mut stream).await.expect("closed without an answer");
        assert_eq!((status(&head), field(&head, "connection")), (200, Some("close")), "{head}");
    }
    assert!(program.wait().success());
}

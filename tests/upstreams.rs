//! Several upstreams, and upstreams that fail: which one is next, what is tried again, what the client is told, and
//! what a shutdown lets finish.

mod answers;
mod connections;
mod machine;
mod paths;
mod stopping;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::neighbours::{Scripted, probe, read_head, read_until, until_metrics_say};
use crate::support::{Gateway, PATIENCE, Upstream, field, routes, status};
use palisade_testing::nowhere::nowhere;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

fn route(upstreams: &[&str], keys: &str) -> String {
    format!(
        "[[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nauth = \"none\"\nupstream = {upstreams:?}\n{keys}\n"
    )
}

fn http(address: std::net::SocketAddr) -> String {
    format!("http://{address}")
}

const POST: &str = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_take_turns() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::start(&route(&[&http(one.address), &http(two.address)], "")).await;
    for _ in 0..6 {
        assert_eq!(status(&gateway.get("/", "").await), 200);
    }
    assert_eq!((one.requests().len(), two.requests().len()), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_costs_no_request_of_any_method() {
    let live = Upstream::start().await;
    let gateway = Gateway::start(&route(&[&http(nowhere()), &http(live.address)], "")).await;
    for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "GET", "LOCK"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        );
        for _ in 0..2 {
            let answer = gateway.send(&request).await;
            assert_eq!(status(&answer), 200, "{method}: {answer}");
        }
    }
    assert_eq!(live.requests().len(), 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_retries_every_other_request_to_a_dead_upstream_is_a_502() {
    let live = Upstream::start().await;
    let gateway = Gateway::start(&route(&[&http(nowhere()), &http(live.address)], "retries = 0")).await;
    let mut codes = Vec::new();
    for _ in 0..4 {
        let answer = gateway.send(POST).await;
        codes.push(status(&answer));
        if status(&answer) == 502 {
            assert!(
                answer.contains("application/problem+json") && answer.contains("\"upstream_failed\""),
                "{answer}"
            );
        }
    }
    codes.sort_unstable();
    assert_eq!(codes, [200, 200, 502, 502]);
    assert_eq!(live.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_is_a_504_and_is_asked_once() {
    let upstream = Scripted::start(|mut stream| async move {
        read_until(&mut stream, "never").await;
    })
    .await;
    let gateway = Gateway::start(&route(&[&http(upstream.address)], "read_timeout = \"200ms\"")).await;
    for (number, request) in
        [POST, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"].iter().enumerate()
    {
        let answer = gateway.send(request).await;
        assert_eq!(status(&answer), 504, "{answer}");
        assert!(answer.contains("\"upstream_timeout\""), "{answer}");
        assert_eq!(upstream.connections(), number + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_reaches_the_client_as_broken() {
    for (head, whole) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789", "never"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n", "\r\n0\r\n\r\n"),
    ] {
        let sent = Arc::new(Notify::new());
        let cut = Arc::clone(&sent);
        let upstream = Scripted::start(move |mut stream| {
            let cut = Arc::clone(&cut);
            async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(head.as_bytes()).await;
                cut.notified().await;
                // Sends a reset, not an orderly end.
                let _ = stream.set_zero_linger();
            }
        })
        .await;
        let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
        let mut client = TcpStream::connect(gateway.address()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        let begun = read_until(&mut client, "0123456789").await;
        assert_eq!(status(&begun), 200, "{begun}");
        sent.notify_one();
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, client.read_to_end(&mut rest)).await.expect("the cut was not passed on");
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(!rest.contains("HTTP/1.1") && !format!("{begun}{rest}").contains(whole), "{begun}{rest}");
        assert_eq!(upstream.connections(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_closes_or_babbles_is_a_502() {
    for answer in ["", "HTTP/1.1 200", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 200 OK\r\nBad\0: x\r\n\r\n"] {
        let upstream = Scripted::start(move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await;
        let gateway = Gateway::start(&route(&[&http(upstream.address)], "read_timeout = \"2s\"")).await;
        let told = gateway.send(POST).await;
        assert_eq!(status(&told), 502, "{answer:?}: {told}");
        assert!(told.contains("application/problem+json"), "{told}");
        assert_eq!(upstream.connections(), 1, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_nobody_asked_for_is_a_502() {
    let upstream = Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\nraw";
        let _ = stream.write_all(answer).await;
        read_head(&mut stream).await;
    })
    .await;
    let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
    let websocket = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for fields in [
        String::new(),
        "Upgrade: other\r\nConnection: Upgrade\r\n".to_owned(),
        format!("Upgrade: websocket\r\nConnection: Upgrade\r\n{websocket}"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
        let told = gateway.send(request).await;
        assert_eq!(status(&told), 502, "{fields:?}: {told}");
        assert!(!told.contains("raw"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_takes_an_upstream_out_and_brings_it_back() {
    let well = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&well);
    let upstream = Scripted::start(move |mut stream| {
        let well = Arc::clone(&state);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let code = if well.load(Ordering::Relaxed) { 200 } else { 500 };
                let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let keys =
        "health = { path = \"/healthz\", interval = \"100ms\", healthy_after = 1, unhealthy_after = 1 }";
    let gateway = Gateway::start(&route(&[&http(upstream.address)], keys)).await;
    let level = |healthy: u8| {
        format!("palisade_upstream_healthy{{route=\"app\",upstream=\"{}\"}} {healthy}", upstream.address)
    };
    until_metrics_say(&gateway, &level(1)).await;
    well.store(false, Ordering::Relaxed);
    until_metrics_say(&gateway, &level(0)).await;
    let answer = gateway.get("/", "").await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(
        answer.contains("\"upstream_unavailable\"") && field(&answer, "retry-after").is_some(),
        "{answer}"
    );
    well.store(true, Ordering::Relaxed);
    until_metrics_say(&gateway, &level(1)).await;
    assert_eq!(status(&gateway.get("/", "").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_upstream_is_believed_only_with_its_authority() {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let upstream = Scripted::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret").await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), pair.cert.pem()).unwrap();
    let origin = format!("https://localhost:{}", upstream.address.port());
    let ca = format!("ca = {:?}", authority.path());
    let gateway = Gateway::start(&route(&[&origin], &ca)).await;
    let answer = gateway.get("/", "").await;
    assert!(status(&answer) == 200 && answer.ends_with("secret"), "{answer}");
    let gateway = Gateway::start(&route(&[&origin], "")).await;
    let answer = gateway.get("/", "").await;
    assert_eq!(status(&answer), 502, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_continues_the_chain_of_addresses() {
    let upstream = Upstream::start().await;
    let server = "trusted_proxies = [\"127.0.0.0/8\"]";
    let gateway = Gateway::start_with(server, &routes(upstream.address)).await;
    let fields = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX_Forwarded_For: evil\r\nX-Auth-Subject: evil\r\n";
    assert_eq!(status(&gateway.get("/", fields).await), 200);
    let seen = upstream.only();
    assert_eq!(field(&seen, "x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(field(&seen, "x-forwarded-proto"), Some("https"));
    assert!(!seen.contains("evil"), "{seen}");
    // Who is trusted with addresses is not trusted with identities.
    assert_eq!(status(&gateway.get("/admin", "X-Auth-Subject: root\r\n").await), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_a_request_finish_and_takes_no_other() {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let answer = Arc::new(Notify::new());
    let told = Arc::clone(&answer);
    let upstream = Scripted::start(move |mut stream| {
        let (arrived, told) = (arrived.clone(), Arc::clone(&told));
        async move {
            read_head(&mut stream).await;
            let _ = arrived.send(());
            told.notified().await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
        }
    })
    .await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let address = gateway.address();
    // One connection is idle after a request that needs no upstream, one is in the middle of a request.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /admin HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    read_until(&mut idle, "}").await;
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    timeout(PATIENCE, arrivals.recv()).await.unwrap();
    let Gateway { running, folder } = gateway;
    let closing = tokio::spawn(running.shutdown());
    let mut rest = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut rest)).await.expect("an idle connection stays open").unwrap();
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("new connections are still taken");
    assert!(!closing.is_finished());
    answer.notify_one();
    let mut whole = String::new();
    timeout(PATIENCE, busy.read_to_string(&mut whole)).await.expect("still open").unwrap();
    assert!(status(&whole) == 200 && whole.ends_with("done"), "{whole}");
    assert_eq!(field(&whole, "connection"), Some("close"), "{whole}");
    timeout(PATIENCE, closing).await.expect("the shutdown does not end").unwrap();
    drop(folder);
}

async fn kept_alive(gateway: &Gateway) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(gateway.address()).await.ok()?;
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let answer = read_until(&mut stream, "GET / HTTP/1.1").await;
    (sent.is_ok() && status(&answer) == 200).then_some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_the_admin_port_alive() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(kept_alive(&gateway).await.expect("refused"));
    }
    let ready = timeout(Duration::from_secs(2), probe(&gateway, "/readyz")).await.expect("no answer");
    assert_eq!(status(&ready), 200, "{ready}");
    assert_eq!(status(&gateway.get("/", "").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_bound_are_shed_until_one_ends() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with("max_connections = 5", &routes(upstream.address)).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(kept_alive(&gateway).await.expect("refused"));
    }
    assert!(kept_alive(&gateway).await.is_none(), "a sixth connection was served");
    assert_eq!(status(&probe(&gateway, "/readyz").await), 200);
    held.pop();
    let again = async { while kept_alive(&gateway).await.is_none() {} };
    timeout(PATIENCE, again).await.expect("the place of a closed connection stays taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_the_upstream_closed_costs_no_idempotent_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Answers one request on each connection and closes it without saying so.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            });
        }
    });
    let gateway = Gateway::start(&route(&[&http(address)], "")).await;
    for _ in 0..50 {
        let answer = gateway.get("/", "").await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
}

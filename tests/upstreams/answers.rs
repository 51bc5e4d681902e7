//! Answers of upstreams that other readers would end at another place, connections that are used again,
//! and those that must not be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::{http, route};
use crate::support::neighbours::{Scripted, read_head, read_until};
use crate::support::{Gateway, PATIENCE, body_of, field, status};

/// An `https` origin for `localhost`, whose certificate is its own authority.
struct Encrypted {
    acceptor: TlsAcceptor,
    authority: tempfile::NamedTempFile,
}

impl Encrypted {
    fn new(protocols: &[&str]) -> Encrypted {
        Encrypted::by(crypto::aws_lc_rs::default_provider(), protocols)
    }

    fn by(provider: crypto::CryptoProvider, protocols: &[&str]) -> Encrypted {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let authority = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(authority.path(), pair.cert.pem()).unwrap();
        Encrypted { acceptor: TlsAcceptor::from(Arc::new(config)), authority }
    }

    fn ca(&self) -> String {
        format!("ca = {:?}", self.authority.path())
    }
}

fn https(address: SocketAddr) -> String {
    format!("https://localhost:{}", address.port())
}

/// Answers every request on a connection with `answer`, and keeps it open.
async fn repeat(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
    while !read_head(&mut stream).await.is_empty() {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        let _ = stream.flush().await;
    }
}

async fn clear(answer: &str) -> Scripted {
    let answer = answer.to_owned();
    Scripted::start(move |stream| {
        let answer = answer.clone();
        async move { repeat(stream, &answer).await }
    })
    .await
}

async fn encrypted(answer: &str, by: &Encrypted) -> Scripted {
    let (answer, acceptor) = (answer.to_owned(), by.acceptor.clone());
    Scripted::start(move |stream| {
        let (answer, acceptor) = (answer.clone(), acceptor.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            repeat(stream, &answer).await;
        }
    })
    .await
}

const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Header sections that two readers would take for two answers.
const TWO_READINGS: [&str; 18] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX: a\rContent-Length: 9\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nok",
    "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
];

async fn refuses_all(gateway: &Gateway, answer: &str, upstream: &Scripted) {
    for number in 1..=2 {
        let told = gateway.get("/", "").await;
        assert_eq!(status(&told), 502, "{answer:?}: {told}");
        assert!(told.contains("application/problem+json"), "{answer:?}: {told}");
        // Asked once, and not asked again on that connection.
        assert_eq!(upstream.connections(), number, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_two_readings_is_a_502_and_the_last_of_its_connection() {
    for answer in TWO_READINGS {
        let upstream = clear(answer).await;
        let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
        refuses_all(&gateway, answer, &upstream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_answer_is_read_no_differently() {
    let by = Encrypted::new(&[]);
    for answer in [TWO_READINGS[0], TWO_READINGS[8], TWO_READINGS[12], TWO_READINGS[14]] {
        let upstream = encrypted(answer, &by).await;
        let gateway = Gateway::start(&route(&[&https(upstream.address)], &by.ca())).await;
        refuses_all(&gateway, answer, &upstream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_turns_http_2_down_is_asked_over_connections_that_are_read_as_strictly() {
    let by = Encrypted::new(&["http/1.1"]);
    let keys = format!("http2 = true\n{}", by.ca());
    let upstream = encrypted(WELL, &by).await;
    let gateway = Gateway::start(&route(&[&https(upstream.address)], &keys)).await;
    for _ in 0..3 {
        let told = gateway.get("/", "").await;
        assert_eq!((status(&told), body_of(&told)), (200, "ok"), "{told}");
    }
    // One on which HTTP/1.1 was chosen, and one that is used from then on.
    assert_eq!(upstream.connections(), 2);
    let upstream = encrypted(TWO_READINGS[0], &by).await;
    let gateway = Gateway::start(&route(&[&https(upstream.address)], &keys)).await;
    assert_eq!(status(&gateway.get("/", "").await), 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_answer_with_two_readings_breaks_off_for_the_client() {
    for rest in [
        "5\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "0\r\nX: a\n\r\n",
        "0\r\nContent-Length: 2\r\n\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n{rest}");
        let upstream = clear(&answer).await;
        let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
        for number in 1..=2 {
            let told = gateway.get("/", "").await;
            // In one read with its head it is no answer at all.
            assert!([200, 502].contains(&status(&told)), "{rest:?}: {told}");
            assert!(!told.contains("\r\n0\r\n"), "{rest:?}: {told}");
            assert_eq!(upstream.connections(), number, "{rest:?}");
        }
        let (client, connection) =
            h2::client::handshake(TcpStream::connect(gateway.address()).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = ::http::Request::get("http://app.test/").body(()).unwrap();
        let told = timeout(PATIENCE, client.send_request(request, true).unwrap().0).await.unwrap().unwrap();
        if told.status() == 200 {
            let mut body = told.into_body();
            let broken = async { while let Some(Ok(_)) = body.data().await {} };
            timeout(PATIENCE, broken).await.unwrap();
            assert!(!body.is_end_stream(), "{rest:?} ended orderly");
        } else {
            assert_eq!(told.status(), 502, "{rest:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_one_request_after_another_until_something_speaks_against_it() {
    let by = Encrypted::new(&[]);
    let shut = WELL.replace("Content", "Connection: keep-alive\r\nConnection: close\r\nContent");
    let old = WELL.replace("1.1", "1.0");
    let more = format!("{WELL}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let ntlm = WELL.replace("200 OK", "401 No").replace("Content", "WWW-Authenticate: NTLM\r\nContent");
    for (answer, connections) in [(WELL, 1), (chunked, 1), (&shut, 3), (&old, 3), (&more, 3), (&ntlm, 3)] {
        for tls in [false, true] {
            let (upstream, ca) = if tls {
                (encrypted(answer, &by).await, by.ca())
            } else {
                (clear(answer).await, String::new())
            };
            let origin = if tls { https(upstream.address) } else { http(upstream.address) };
            let gateway = Gateway::start(&route(&[&origin], &ca)).await;
            for _ in 0..3 {
                let told = gateway.get("/", "").await;
                assert!([200, 401].contains(&status(&told)), "{answer:?}: {told}");
                assert!(told.contains("ok") && !told.contains("evil"), "{answer:?}: {told}");
            }
            assert_eq!(upstream.connections(), connections, "{answer:?}, encrypted: {tls}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_its_method_has_no_use_for_ends_the_upstreams_connection() {
    let (told, mut heads) = mpsc::unbounded_channel();
    // Reads no body, whatever is announced: the bytes are its next request.
    let upstream = Scripted::start(move |mut stream| {
        let told = told.clone();
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let line = head.lines().next().unwrap().to_owned();
                let _ = told.send(head);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
    // Nor behind credentials that would sign in the next client on the connection.
    for scheme in ["NTLM", "Negotiate"] {
        gateway.get("/ntlm", &format!("Authorization: {scheme} TlRMTVNTUAAB\r\n")).await;
        let head = timeout(PATIENCE, heads.recv()).await.unwrap().unwrap();
        assert_eq!(field(&head, "connection"), Some("close"), "{head}");
    }
    let inner = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        for framing in [
            format!("Content-Length: {}\r\n\r\n{inner}", inner.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
        ] {
            let before = upstream.connections();
            let request =
                format!("{method} /body HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{framing}");
            assert_eq!(status(&gateway.send(request).await), 200);
            // Before it comes what this upstream took for requests of its own.
            let head = loop {
                let head = timeout(PATIENCE, heads.recv()).await.unwrap().unwrap();
                if head.starts_with(&format!("{method} /body")) {
                    break head;
                }
            };
            assert_eq!(field(&head, "connection"), Some("close"), "{head}");
            let victim = gateway.get("/victim", "").await;
            assert!(victim.ends_with("GET /victim HTTP/1.1"), "{method} {framing:?}: {victim}");
            assert!(upstream.connections() > before, "{method} {framing:?}");
        }
    }
}

/// What became of one request, sent while eight idle connections to the upstream are pooled, each of which it
/// drops when it is used again; and how often the upstream saw the request.
async fn delivered(retries: &str, request: &str) -> (u16, usize) {
    let all = Arc::new(Barrier::new(8));
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let upstream = Scripted::start(move |mut stream| {
        let (all, count) = (Arc::clone(&all), Arc::clone(&count));
        async move {
            let first = read_head(&mut stream).await;
            if first.starts_with("GET /warm") {
                all.wait().await;
                let _ = stream.write_all(WELL.as_bytes()).await;
                if read_head(&mut stream).await.is_empty() {
                    return;
                }
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let gateway = Gateway::start(&route(&[&http(upstream.address)], retries)).await;
    let warm = || gateway.get("/warm", "");
    let answers = tokio::join!(warm(), warm(), warm(), warm(), warm(), warm(), warm(), warm());
    for answer in <[String; 8]>::from(answers) {
        assert_eq!(status(&answer), 200, "{answer}");
    }
    assert_eq!(upstream.connections(), 8);
    let answer = gateway.send(request).await;
    (status(&answer), seen.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_delivered_as_often_as_the_route_says_whatever_is_pooled() {
    let request = |method: &str| {
        format!("{method} /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    for (retries, method, times) in [
        ("", "DELETE", 2),
        ("retries = 0", "DELETE", 1),
        ("retries = 3", "POST", 1),
        // Behind a connection that was idle comes a new one, and what fails on that is not repeated.
        ("retries = 3", "GET", 2),
        ("retries = 10", "PUT", 2),
    ] {
        assert_eq!(delivered(retries, &request(method)).await, (502, times), "{retries} {method}");
    }
}

/// An origin that answers over HTTP/2 or HTTP/1.1, whichever was agreed on.
async fn either_http(by: &Encrypted) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = https(listener.local_addr().unwrap());
    let acceptor = by.acceptor.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return repeat(&mut stream, WELL).await;
                }
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let answer = ::http::Response::builder().status(200).body(()).unwrap();
                    let mut body = respond.send_response(answer, false).unwrap();
                    let _ = body.send_data("ok".into(), true);
                }
            });
        }
    });
    origin
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_made_under_one_routes_authorities_is_no_other_routes() {
    let by = Encrypted::new(&["h2", "http/1.1"]);
    let origin = either_http(&by).await;
    for http2 in [false, true] {
        let table = |name: &str, path: &str, keys: &str| {
            format!(
                "[[routes]]\nname = {name:?}\nmatch = {{ path = {path:?} }}\nauth = \"none\"\n\
                 upstream = [{origin:?}]\nhttp2 = {http2}\n{keys}\n"
            )
        };
        let tables = [table("known", "/known", &by.ca()), table("unknown", "/unknown", "")].concat();
        let gateway = Gateway::start(&tables).await;
        for _ in 0..3 {
            let told = gateway.get("/known", "").await;
            assert!(status(&told) == 200 && told.contains("ok"), "HTTP/2: {http2}: {told}");
            let told = gateway.get("/unknown", "").await;
            assert_eq!(status(&told), 502, "HTTP/2: {http2}: {told}");
        }
    }
}

/// By aws-lc-rs on every way: ring has no such key exchange.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_may_ask_for_a_post_quantum_key_exchange() {
    let mut provider = crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    let by = Encrypted::by(provider, &["h2", "http/1.1"]);
    let origin = either_http(&by).await;
    for http2 in [false, true] {
        let keys = format!("{}\nhttp2 = {http2}", by.ca());
        let answer = Gateway::start(&route(&[&origin], &keys)).await.get("/", "").await;
        assert_eq!(status(&answer), 200, "HTTP/2: {http2}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_that_the_upstream_closes_is_let_go() {
    let (closed, mut told) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(WELL.as_bytes()).await;
            let _ = stream.shutdown().await;
            // The end of the stream comes once the gateway closes its side, too.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = closed.send(());
        }
    })
    .await;
    let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    read_until(&mut client, "ok").await;
    timeout(PATIENCE, told.recv()).await.expect("the connection is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_behind_its_answer_is_the_last_on_its_connection() {
    let upstream = Scripted::start(|mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            let _ = stream.write_all(WELL.as_bytes()).await;
            if head.starts_with("POST ") {
                // Answered before its body has come, which looks like a request.
                read_head(&mut stream).await;
            } else if head.is_empty() {
                return;
            }
        }
    })
    .await;
    let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n", hidden.len());
    client.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut client, "ok").await;
    assert_eq!((status(&answer), field(&answer, "connection")), (200, Some("close")), "{answer}");
    client.write_all(hidden.as_bytes()).await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, client.read_to_string(&mut rest)).await.expect("still open").unwrap();
    assert_eq!(rest, "");
    assert_eq!(status(&gateway.get("/", "").await), 200);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_with_its_body_is_told_to_go_on_by_the_gateway_and_the_upstream_never_asked() {
    let (heads, mut seen) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |mut stream| {
        let heads = heads.clone();
        async move {
            let head = read_head(&mut stream).await;
            let body = read_until(&mut stream, "hello").await;
            let _ = heads.send((head, body));
            let _ = stream.write_all(WELL.as_bytes()).await;
        }
    })
    .await;
    let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").await.unwrap();
    let answer = read_until(&mut client, "ok").await;
    assert_eq!((status(&answer), field(&answer, "connection")), (200, Some("keep-alive")), "{answer}");
    let (head, body) = timeout(PATIENCE, seen.recv()).await.unwrap().unwrap();
    assert_eq!((field(&head, "expect"), body.as_str()), (None, "hello"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_off_behind_an_interim_answer_is_a_502() {
    let upstream = Scripted::start(|mut stream| async move {
        if read_head(&mut stream).await.starts_with("GET ") {
            let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
        } else {
            read_until(&mut stream, "hello").await;
        }
    })
    .await;
    let gateway = Gateway::start(&route(&[&http(upstream.address)], "")).await;
    let waiting = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    for (head, body, interim) in
        [("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", "", 103), (waiting, "hello", 100)]
    {
        let mut client = TcpStream::connect(gateway.address()).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut client).await), interim, "{head}");
        client.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("still open");
        assert_eq!(status(&answer), 502, "{head}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}

//! HTTP/2 from clients, with prior knowledge and over TLS: the same requests, the same refusals, and the
//! floods that the protocol invites.

mod bodies;
mod grpc;
mod heads;

use std::sync::Arc;
use std::time::Duration;

use crate::support::neighbours::{Scripted, mint, read_head, read_until, revoke};
use crate::support::{Gateway, PATIENCE, Upstream, field, routes, status};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

async fn client<S>(stream: S) -> SendRequest<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn clear(gateway: &Gateway) -> SendRequest<Bytes> {
    client(TcpStream::connect(gateway.address()).await.unwrap()).await
}

fn get(target: &str) -> http::request::Builder {
    Request::get(format!("http://app.test{target}")).version(Version::HTTP_2)
}

async fn body(response: &mut Response<h2::RecvStream>) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = timeout(PATIENCE, response.body_mut().data()).await.unwrap() {
        let Ok(chunk) = chunk else { break };
        let _ = response.body_mut().flow_control().release_capacity(chunk.len());
        text.extend_from_slice(&chunk);
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn ask(client: &SendRequest<Bytes>, request: Request<()>) -> (StatusCode, String) {
    let mut client = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
    let text = body(&mut response).await;
    (response.status(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_one_connection_are_admitted_one_by_one() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let client = clear(&gateway).await;
    let token = mint(&gateway, "alice").await;
    let bearer = format!("Bearer {token}");
    let (code, text) = ask(&client, get("/page?x=1").body(()).unwrap()).await;
    assert_eq!((code.as_u16(), &*text), (200, "GET /page?x=1 HTTP/1.1"));
    let (code, text) = ask(&client, get("/admin").body(()).unwrap()).await;
    assert_eq!(code, 401, "{text}");
    let with = || get("/admin").header("authorization", &bearer).header("x-auth-subject", "root");
    assert_eq!(ask(&client, with().body(()).unwrap()).await.0, 200);
    let seen = upstream.requests().pop().unwrap();
    assert_eq!(field(&seen, "x-auth-subject"), Some("alice"));
    assert_eq!(field(&seen, "host"), Some("app.test"));
    assert_eq!(field(&seen, "x-forwarded-host"), Some("app.test"));
    assert!(!seen.contains(&token) && !seen.contains("root"), "{seen}");
    revoke(&gateway, &token).await;
    assert_eq!(ask(&client, with().body(()).unwrap()).await.0, 401);
    for target in ["/public/../admin", "/admin%2fx", "//admin", "/./admin"] {
        let (code, text) = ask(&client, get(target).body(()).unwrap()).await;
        assert_eq!(code, 400, "{target}: {text}");
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered_before_any_route() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with("ping_path = \"/ping\"", &routes(upstream.address)).await;
    let client = clear(&gateway).await;
    for method in ["GET", "HEAD"] {
        let (code, text) = ask(&client, get("/ping").method(method).body(()).unwrap()).await;
        let body = if method == "GET" { "{\"status\":\"ready\"}" } else { "" };
        assert_eq!((code.as_u16(), &*text), (200, body));
    }
    assert_eq!(upstream.requests().len(), 0);
    for (method, target) in [("GET", "/ping?x"), ("GET", "/ping/"), ("POST", "/ping")] {
        let (_, text) = ask(&client, get(target).method(method).body(()).unwrap()).await;
        assert!(!text.contains("ready"), "{method} {target}: {text}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_the_host_contradicts_is_refused() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let client = clear(&gateway).await;
    let (code, text) = ask(&client, get("/").header("host", "inner.test").body(()).unwrap()).await;
    assert_eq!(code, 400, "{text}");
    let (code, _) = ask(&client, get("/").header("host", "app.test").body(()).unwrap()).await;
    assert_eq!(code, 200);
    assert_eq!(field(&upstream.only(), "host"), Some("app.test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_says_whether_a_native_endpoint_answers() {
    let app = Upstream::start().await;
    let route = format!(
        "[native]\nhosts = [\"auth.test\"]\n[[routes]]\nname = \"home\"\nmatch = {{ host = \"home.test\", path = \"/\" }}\n\
         upstream = [\"http://{}\"]\nauth = \"none\"\n",
        app.address
    );
    let gateway = Gateway::start_at("https://auth.test", "", &route).await;
    // One connection for both hosts, as browsers have with one certificate for both.
    let client = clear(&gateway).await;
    for path in ["/auth/pages/sign-in", "/.well-known/jwks.json"] {
        for (authority, code, is_seen) in [
            ("home.test", 200, true),
            ("auth.test", 200, false),
            ("HOME.Test.:8123", 200, true),
            ("AUTH.Test.:9999", 200, false),
            // No route has this host, and no native endpoint answers there.
            ("xauth.test", 404, false),
        ] {
            let before = app.requests().len();
            let request = Request::get(format!("http://{authority}{path}")).version(Version::HTTP_2);
            let (told, text) = ask(&client, request.body(()).unwrap()).await;
            let was_seen = app.requests().len() > before;
            assert_eq!((told.as_u16(), was_seen), (code, is_seen), "{authority}{path}: {text}");
            // A Host that says another name moves the request to neither side.
            for host in ["home.test", "auth.test"].iter().filter(|host| !authority.eq_ignore_ascii_case(host))
            {
                let request = Request::get(format!("http://{authority}{path}")).version(Version::HTTP_2);
                let request = request.header("host", *host).body(()).unwrap();
                let before = app.requests().len();
                let (told, text) = ask(&client, request).await;
                assert_eq!(
                    (told.as_u16(), app.requests().len()),
                    (400, before),
                    "{authority} {host}: {text}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_does_not_hold_its_upstream() {
    let (told, mut ended) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |mut stream| {
        let told = told.clone();
        async move {
            read_head(&mut stream).await;
            let mut more: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
            while stream.write_all(more).await.is_ok() {
                more = &[0; 64 * 1024];
            }
            let _ = told.send(());
        }
    })
    .await;
    let gateway = Gateway::start(&format!(
        "[[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\nauth = \"none\"\nwrite_timeout = \"300ms\"\n",
        upstream.address
    ))
    .await;
    let mut idle = TcpStream::connect(gateway.address()).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    timeout(PATIENCE, ended.recv()).await.expect("still held over HTTP/1.1").unwrap();
    let mut client = clear(&gateway).await.ready().await.unwrap();
    let (response, _) = client.send_request(get("/").body(()).unwrap(), true).unwrap();
    // Its window fills and is never opened again.
    let _held = timeout(PATIENCE, response).await.unwrap().unwrap();
    timeout(PATIENCE, ended.recv()).await.expect("still held over HTTP/2").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_offers_http2_and_http1_and_says_so_upstream() {
    let upstream = Upstream::start().await;
    let pair = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let server = format!("tls = {{ listen = \"127.0.0.1:0\", cert = {cert:?}, key = {key:?} }}");
    let gateway = Gateway::start_with(&server, &routes(upstream.address)).await;
    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for protocol in ["h2", "http/1.1"] {
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.into()];
        let tcp = TcpStream::connect(gateway.running.tls.unwrap()).await.unwrap();
        let name = ServerName::try_from("app.test").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        if protocol == "h2" {
            let client = client(stream).await;
            let request = Request::get("https://app.test/page").version(Version::HTTP_2).body(()).unwrap();
            assert_eq!(ask(&client, request).await.0, 200);
        } else {
            stream.write_all(b"GET /page HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
            assert_eq!(status(&read_until(&mut stream, "GET /page").await), 200);
        }
        let seen = upstream.requests().pop().unwrap();
        assert_eq!(field(&seen, "x-forwarded-proto"), Some("https"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_resets_end_the_connection_and_no_other() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let other = clear(&gateway).await;
    let client = clear(&gateway).await;
    let mut sent = 0;
    for _ in 0..10_000 {
        let Ok(Ok(mut ready)) = timeout(PATIENCE, client.clone().ready()).await else { break };
        let Ok((_, mut stream)) = ready.send_request(get("/page").body(()).unwrap(), false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        sent += 1;
    }
    assert_eq!(ask(&other, get("/page").body(()).unwrap()).await.0, 200, "after {sent} resets");
    assert_eq!(status(&gateway.get("/page", "").await), 200);
    // What was reset was not all forwarded: the work is bounded by what runs at once.
    assert!(upstream.requests().len() < 5_000, "{} of {sent}", upstream.requests().len());
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `POST /` of app.test, as HPACK with nothing in the dynamic table.
const POST: &[u8] = b"\x83\x86\x84\x01\x08app.test";

/// Sends `flood` until the gateway hangs up, or `most` bytes are gone. Whether it hung up.
async fn flood(gateway: &Gateway, opening: &[u8], flood: &[u8], most: usize) -> bool {
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let drain = tokio::spawn(async move {
        let mut sink = vec![0; 64 * 1024];
        while let Ok(1..) = from.read(&mut sink).await {}
    });
    let _ = to.write_all(&[PREFACE, opening].concat()).await;
    let mut sent = 0;
    while sent < most && !drain.is_finished() {
        match timeout(PATIENCE, to.write_all(flood)).await.expect("neither read nor closed") {
            Ok(()) => sent += flood.len(),
            Err(_) => return true,
        }
    }
    // It may have closed just before the last bytes went out.
    sent < most || timeout(Duration::from_secs(2), drain).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_their_connection_and_no_other() {
    // Never answers, so that nothing but the flood can end the stream.
    let silent = Scripted::start(|mut stream| async move {
        read_until(&mut stream, "never").await;
    })
    .await;
    let gateway = Gateway::start(&routes(silent.address)).await;
    let other = clear(&gateway).await;
    let headers = frame(1, 4, 1, POST);
    let empty_data = frame(0, 0, 1, b"").repeat(1000);
    let pings = frame(6, 0, 0, b"12345678").repeat(1000);
    let long = frame(9, 0, 1, &[b"\x00\x01x\x7f\x80\x01".as_slice(), &[b'a'; 255]].concat().repeat(60));
    let unended = frame(1, 0, 1, POST);
    for (name, opening, frames, must_end) in [
        ("empty DATA", &headers, &empty_data, true),
        ("PING", &headers, &pings, false),
        ("CONTINUATION", &unended, &long, true),
    ] {
        let ended = flood(&gateway, opening, frames, 16 << 20).await;
        assert!(ended || !must_end, "{name}: still open");
        assert_eq!(ask(&other, get("/admin").body(()).unwrap()).await.0, 401, "after {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_list_over_the_bound_is_refused() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let other = clear(&gateway).await;
    let mut client = clear(&gateway).await;
    let mut request = get("/page");
    for number in 0..100 {
        request = request.header(format!("x-{number}"), "a".repeat(4096));
    }
    let refused = match client.send_request(request.body(()).unwrap(), true) {
        Ok((response, _)) => match timeout(PATIENCE, response).await.unwrap() {
            Ok(response) => response.status().is_client_error(),
            Err(_) => true,
        },
        Err(_) => true,
    };
    assert!(refused);
    assert_eq!(upstream.requests(), [""; 0]);
    assert_eq!(ask(&other, get("/page").body(()).unwrap()).await.0, 200);
}

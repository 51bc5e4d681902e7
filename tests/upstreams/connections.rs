//! How upstreams are connected to: socket files, the name and the certificates of TLS, and requests that meet a connection
//! that is closing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::{POST, route};
use crate::support::neighbours::{Scripted, read_head, until_metrics_say};
use crate::support::{Gateway, body_of, status};

/// A certificate that is its own authority, in files beside each other.
struct Pair {
    pair: rcgen::CertifiedKey<rcgen::KeyPair>,
    folder: tempfile::TempDir,
}

impl Pair {
    fn new(name: &str) -> Pair {
        let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cert.pem"), pair.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
        Pair { pair, folder }
    }

    fn ca(&self) -> String {
        format!("ca = {:?}\n", self.folder.path().join("cert.pem"))
    }

    fn client(&self) -> String {
        let at = |name: &str| self.folder.path().join(name);
        format!("client_cert = {:?}\nclient_key = {:?}\n", at("cert.pem"), at("key.pem"))
    }

    /// Takes connections as this server, from clients with the certificate of `client` alone where there is one.
    fn acceptor(&self, client: Option<&Pair>, http2: bool) -> TlsAcceptor {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let mut roots = RootCertStore::empty();
                roots.add(client.pair.cert.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(self.pair.signing_key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![self.pair.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Answers every request with `text`.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool, text: String) {
    if !http2 {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        while !read_head(&mut stream).await.is_empty() {
            if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
        return;
    }
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let answer = http::Response::builder().header("content-length", text.len()).body(()).unwrap();
        if let Ok(mut body) = respond.send_response(answer, false) {
            let _ = body.send_data(Bytes::from(text.clone()), true);
        }
    }
}

/// An upstream over TLS that answers with the name that it was asked for.
async fn encrypted(acceptor: TlsAcceptor, http2: bool) -> Scripted {
    Scripted::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
            serve(stream, http2, name).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_file_is_an_upstream() {
    for http2 in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let upstream = format!("unix:{}", path.display());
        let keys = format!(
            "http2 = {http2}\npreserve_host = false\n\
             health = {{ interval = \"100ms\", healthy_after = 1, unhealthy_after = 1 }}"
        );
        let level = |healthy: u8| {
            format!("palisade_upstream_healthy{{route=\"app\",upstream=\"{upstream}\"}} {healthy}")
        };
        let gateway = Gateway::start(&route(&[&upstream], &keys)).await;
        // The app is not there yet.
        until_metrics_say(&gateway, &level(0)).await;
        assert_eq!(status(&gateway.send(POST).await), 503);
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, http2, "by a socket file".to_owned()));
            }
        });
        until_metrics_say(&gateway, &level(1)).await;
        for _ in 0..3 {
            let answer = gateway.send(POST).await;
            assert!(status(&answer) == 200 && body_of(&answer) == "by a socket file", "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_name_is_asked_for_and_verified_in_place_of_the_upstreams_own() {
    let server = Pair::new("app.internal");
    for http2 in [false, true] {
        let upstream = encrypted(server.acceptor(None, http2), http2).await;
        let origin = format!("https://127.0.0.1:{}", upstream.address.port());
        let speak = format!("http2 = {http2}\n");
        for (keys, want) in [
            ("tls_name = \"app.internal\"\n", Some("app.internal")),
            ("tls_name = \"other.internal\"\n", None),
            ("", None),
        ] {
            let gateway = Gateway::start(&route(&[&origin], &format!("{}{speak}{keys}", server.ca()))).await;
            let answer = gateway.get("/", "").await;
            match want {
                Some(name) => assert!(status(&answer) == 200 && body_of(&answer) == name, "{keys} {answer}"),
                None => assert_eq!(status(&answer), 502, "{keys} {answer}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_and_no_other_route_uses_its_connection() {
    let (server, client, other) =
        (Pair::new("localhost"), Pair::new("gateway.test"), Pair::new("gateway.test"));
    for http2 in [false, true] {
        let upstream = encrypted(server.acceptor(Some(&client), http2), http2).await;
        let origin = format!("https://localhost:{}", upstream.address.port());
        let of = |name: &str, keys: &str| {
            format!(
                "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\nauth = \"none\"\nupstream = {origin:?}\n\
                 http2 = {http2}\n{}{keys}\n",
                server.ca()
            )
        };
        let routes =
            [of("known", &client.client()), of("unknown", ""), of("another", &other.client())].concat();
        let gateway = Gateway::start(&routes).await;
        for _ in 0..2 {
            for (target, want) in [("/known", 200), ("/unknown", 502), ("/another", 502)] {
                let answer = gateway.get(target, "").await;
                assert_eq!(status(&answer), want, "{http2} {target}: {answer}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_is_none_keeps_the_gateway_from_starting() {
    let (one, two) = (Pair::new("one.test"), Pair::new("two.test"));
    std::fs::copy(two.folder.path().join("key.pem"), one.folder.path().join("key.pem")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n{}",
        route(&["https://localhost:1"], &one.client())
    );
    let config = palisade::config::parse(&text, &file, &|_| None).unwrap();
    let started = palisade::app::start(config, palisade::app::Options::default()).await;
    let why = started.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(why.contains("client_cert") && why.contains("key.pem"), "{why}");
}

/// Reads the head of a request, and keeps a connection open until the other end closes it.
async fn hang(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_of_which_a_byte_went_out_is_not_sent_again() {
    // Answers the first request on each connection, and closes it over the second one.
    let upstream = Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        read_head(&mut stream).await;
    })
    .await;
    let gateway = Gateway::start(&route(&[&format!("http://{}", upstream.address)], "")).await;
    assert_eq!(status(&gateway.send(POST).await), 200);
    let answer = gateway.send(POST).await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert_eq!(upstream.connections(), 1);
    // What may be repeated is.
    assert_eq!(status(&gateway.get("/", "").await), 200);
    assert_eq!(status(&gateway.get("/", "").await), 200);
    assert_eq!(upstream.connections(), 3);
}

/// Header of a frame of HTTP/2 (RFC 9113 §4.1) on stream 0 or 1, and its payload.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// A request over HTTP/2 with prior knowledge, read until its stream ends.
async fn read_request(stream: &mut TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        // HEADERS and DATA end a stream by their first flag.
        if head[3] <= 1 && head[4] & 1 == 1 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_http2_says_was_not_processed_goes_to_another_connection() {
    let goaway = |last: u8, code: u8| frame(7, 0, 0, &[0, 0, 0, last, 0, 0, 0, code]);
    let reset = |code: u8| frame(3, 0, 1, &[0, 0, 0, code]);
    for (first, want) in [
        // Behind the last stream of a GOAWAY, with NO_ERROR and with ENHANCE_YOUR_CALM.
        (goaway(0, 0), 200),
        (goaway(0, 11), 200),
        // REFUSED_STREAM.
        (reset(7), 200),
        // INTERNAL_ERROR and CANCEL say nothing of that.
        (reset(2), 502),
        (reset(8), 502),
        // The stream was the last one, and its connection ends.
        (goaway(1, 0), 502),
        // No frame of HTTP/2.
        (frame(0, 0, 0, b"x"), 502),
        (goaway(1, 0)[..3].to_vec(), 502),
    ] {
        let (told, closes, count) = (first.clone(), want == 502, Arc::new(AtomicUsize::new(0)));
        let upstream = Scripted::start(move |mut stream| {
            let (told, number) = (told.clone(), count.fetch_add(1, Ordering::Relaxed));
            async move {
                if number > 0 {
                    return serve(stream, true, "ok".to_owned()).await;
                }
                read_request(&mut stream).await;
                stream.write_all(&told).await.unwrap();
                if !closes {
                    hang(stream).await;
                }
            }
        })
        .await;
        let origin = format!("http://{}", upstream.address);
        // A connection that is closing costs none of the `retries`; a refusal does.
        let retries = usize::from(first.get(3) == Some(&3));
        let gateway = Gateway::start(&route(&[&origin], &format!("http2 = true\nretries = {retries}"))).await;
        let answer = gateway.send(POST).await;
        assert_eq!(status(&answer), want, "{first:?}: {answer}");
        assert_eq!(upstream.connections(), if want == 200 { 2 } else { 1 }, "{first:?}");
    }
}

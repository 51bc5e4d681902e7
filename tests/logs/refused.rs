//! Whatever is refused before it is a request of ours has one form, a line in the access log, and a count.

use std::sync::Arc;

use http::{Method, Request, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::binary::Program;
use crate::support::neighbours::{mint, probe, read_until};
use crate::support::{Gateway, PATIENCE, Upstream, body_of, exchange, field, routes, status};

/// `(bytes, status, decision)`
fn refused() -> Vec<(Vec<u8>, u16, &'static str)> {
    let head = |line: &str, fields: &str| format!("{line}\r\nHost: app.test\r\n{fields}\r\n").into_bytes();
    vec![
        (
            head("GET / HTTP/1.1", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            400,
            "framing_ambiguous",
        ),
        (head("GET / HTTP/1.1", "Content-Length: 1\r\nContent-Length: 1\r\n"), 400, "framing_ambiguous"),
        (b"GET / HTTP/1.1\nHost: app.test\n\n".to_vec(), 400, "header_malformed"),
        (b"nonsense\r\n\r\n".to_vec(), 400, "header_malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400, "header_malformed"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400, "host_missing"),
        (head("GET / HTTP/3.0", ""), 505, "http_version"),
        (head("GET / HTTP/1.1", &format!("X-Padding: {}\r\n", "a".repeat(40_000))), 431, "header_too_large"),
        (head("GET / HTTP/1.1", &"X: y\r\n".repeat(200)), 431, "header_too_large"),
        (b"GET / HTTP/1.1\r\nHost: app".to_vec(), 408, "header_timeout"),
        // What the engine would answer in its own name.
        (head("CONNECT app.test:443 HTTP/1.1", ""), 405, "method_not_allowed"),
        (head("CONNECT / HTTP/1.1", ""), 405, "method_not_allowed"),
        (b"GET http://a@app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec(), 400, "header_malformed"),
        (b"GET http://other.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec(), 400, "header_malformed"),
        (b"GET /\xff HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec(), 400, "header_malformed"),
        (b"GET http://[ HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec(), 400, "header_malformed"),
        (b"GET http:///x HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec(), 400, "header_malformed"),
        (b"G(T / HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec(), 400, "header_malformed"),
        (b"GET / HTTP/1.1\r\nHost: a:b:c\r\nConnection: close\r\n\r\n".to_vec(), 400, ""),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\nConnection: close\r\n\r\n".to_vec(), 400, ""),
        (b"GET / HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n\r\n".to_vec(), 400, ""),
        (b"GET / HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n".to_vec(), 400, ""),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_the_engine_is_a_problem_of_ours_with_a_line_and_a_count() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nheader_timeout = \"300ms\"\n\
         [store]\nurl = \"sled:./data\"\n{}",
        routes(upstream.address)
    );
    std::fs::write(folder.path().join("config.toml"), text).unwrap();
    let program = Program::start(folder.path());
    let mut expected = Vec::new();
    for (bytes, want, decision) in refused() {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let answer = exchange(program.listen, &bytes).await;
        assert_eq!(status(&answer), want, "{shown:?}: {answer}");
        assert_eq!(field(&answer, "content-type"), Some("application/problem+json"), "{shown:?}: {answer}");
        assert_eq!(field(&answer, "server"), None, "{shown:?}: {answer}");
        assert_eq!(field(&answer, "connection"), Some("close"), "{shown:?}: {answer}");
        assert_eq!(answer.matches(&format!("HTTP/1.1 {want} ")).count(), 1, "{shown:?}: {answer}");
        let problem: serde_json::Value = serde_json::from_str(body_of(&answer)).unwrap();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert!(decision.is_empty() || code == decision, "{shown:?}: {answer}");
        let id = field(&answer, "x-request-id").unwrap_or_else(|| panic!("{shown:?}: {answer}")).to_owned();
        expected.push((id, want, code, shown));
    }
    let metrics = program.probe("/metrics").await;
    for (_, _, code, shown) in &expected {
        let count = expected.iter().filter(|(_, _, other, _)| other == code).count();
        let line = format!("palisade_decisions_total{{decision=\"{code}\"}} {count}\n");
        assert!(metrics.contains(&line), "{shown:?}: no {line} in {metrics}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
    let log = program.stop_and_tell();
    for (id, want, code, shown) in &expected {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(id.as_str())).collect();
        assert_eq!(lines.len(), 1, "{shown:?}: {lines:?}");
        let told = format!("status={want} decision=\"{code}\"");
        assert!(lines[0].contains(&told) && lines[0].contains("127.0.0.1"), "{shown:?}: {}", lines[0]);
    }
    assert!(!log.contains("nonsense") && !log.contains(&"a".repeat(40)), "what was refused is quoted: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_http2_that_the_engine_would_answer_itself_are_ours_too() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let connect = Request::builder().method(Method::CONNECT).uri("app.test:443").version(Version::HTTP_2);
    let mut ready = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
    let (response, _) = ready.send_request(connect.body(()).unwrap(), true).unwrap();
    let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert!(!response.headers().contains_key("server") && response.headers().contains_key("x-request-id"));
    let body = timeout(PATIENCE, response.body_mut().data()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&body).contains("method_not_allowed"), "{body:?}");
    // The authority says one thing and the host another: the engine ends the stream, and we count it.
    for host in ["inner.test", "other.test"] {
        let request = Request::get("http://app.test/").version(Version::HTTP_2).header("host", host);
        let mut ready = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
        let (response, _) = ready.send_request(request.body(()).unwrap(), true).unwrap();
        if let Ok(response) = timeout(PATIENCE, response).await.unwrap() {
            assert_eq!(response.status(), 400);
            assert!(!response.headers().contains_key("server"));
        }
    }
    let metrics = probe(&gateway, "/metrics").await;
    for line in [
        "palisade_decisions_total{decision=\"method_not_allowed\"} 1\n",
        "palisade_decisions_total{decision=\"header_malformed\"} 2\n",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
    let token = mint(&gateway, "alice").await;
    let answer = gateway.get("/admin", &format!("Authorization: Bearer {token}\r\n")).await;
    assert_eq!(status(&answer), 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_bring_no_request_are_counted_by_reason() {
    let upstream = Upstream::start().await;
    let pair = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let server = format!("tls = {{ listen = \"127.0.0.1:0\", cert = {cert:?}, key = {key:?} }}");
    let gateway = Arc::new(Gateway::start_with(&server, &routes(upstream.address)).await);
    let mut plain = TcpStream::connect(gateway.running.tls.unwrap()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    read_until(&mut plain, "never").await;
    let counts = async |line: &str| {
        let counted = async { while !probe(&gateway, "/metrics").await.contains(line) {} };
        timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("never {line}"));
    };
    counts("palisade_connections_refused_total{reason=\"tls\"} 1\n").await;
    // A frame on a stream that a client must not open.
    let breach = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\0\x01\0\0\0\x02x";
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(breach).await.unwrap();
    read_until(&mut stream, "never").await;
    counts("palisade_connections_refused_total{reason=\"http2\"} 1\n").await;
    // To leave is no fault.
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(&breach[..33]).await.unwrap();
    drop(stream);
    counts("palisade_connections_refused_total{reason=\"http2\"} 1\n").await;
    let metrics = probe(&gateway, "/metrics").await;
    let end =
        metrics.lines().find_map(|line| line.strip_prefix("palisade_certificate_expiry_timestamp_seconds "));
    // The year 4096, as the certificate says.
    assert_eq!(end, Some("67090118400"), "{metrics}");
}

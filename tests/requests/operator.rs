//! What an operator's side of the gateway withstands and takes up: the admin listener, the certificate, and uploads
//! to native endpoints that wait to be told.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::support::binary::{palisade, refused};
use crate::support::neighbours::{operate, read_head, read_until};
use crate::support::{Gateway, Upstream, exchange, routes, status};

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_answers_to_no_name_that_a_stranger_chose() {
    let upstream = Upstream::start().await;
    let server = "admin_hosts = [\"palisade\", \"*.svc.cluster.local\"]";
    let gateway = Gateway::start_with(server, &routes(upstream.address)).await;
    let admin = gateway.running.admin;
    let credential = std::fs::read_to_string(gateway.folder.path().join("data/admin.token")).unwrap();
    let ask = async |version: &str, path: &str, host: &str| {
        let request = format!(
            "GET {path} {version}\r\n{host}Authorization: Bearer {credential}\r\nConnection: close\r\n\r\n"
        );
        exchange(admin, request).await
    };
    for path in ["/livez", "/readyz", "/metrics", "/admin/v1/keys", "/nothing"] {
        for host in
            ["evil.test", "evil.test:9180", "localhost.evil.test", "palisade.evil.test", "svc.cluster.local"]
        {
            let answer = ask("HTTP/1.1", path, &format!("Host: {host}\r\n")).await;
            assert_eq!(status(&answer), 421, "{path} {host}: {answer}");
            assert!(
                answer.contains("\"host_not_ours\"") && answer.contains("server.admin_hosts"),
                "{answer}"
            );
        }
        for hosts in ["", "Host: localhost\r\nHost: evil.test\r\n"] {
            assert_eq!(status(&ask("HTTP/1.1", path, hosts).await), 400, "{path} {hosts:?}");
        }
    }
    let address = admin.to_string();
    for host in [
        &*address,
        "10.42.0.7:9180",
        "[fd00::7]:9180",
        "localhost",
        "palisade:9180",
        "p.ns.svc.cluster.local",
    ] {
        for path in ["/livez", "/readyz", "/metrics", "/admin/v1/keys"] {
            assert_eq!(
                status(&ask("HTTP/1.1", path, &format!("Host: {host}\r\n")).await),
                200,
                "{path} {host}"
            );
        }
    }
    // A probe of old.
    assert_eq!(status(&ask("HTTP/1.0", "/livez", "").await), 200);
    // The target may name another host than the field.
    let answer = ask("HTTP/1.1", "http://evil.test/livez", "Host: localhost\r\n").await;
    assert_eq!(status(&answer), 421, "{answer}");
}

#[test]
fn a_short_admin_credential_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text =
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[store]\nurl = \"sled:./data\"\n";
    std::fs::write(&file, text).unwrap();
    let mut command = palisade();
    command.args(["run", "--config"]).arg(&file).env("PALISADE_ADMIN_TOKEN", "hunter2-hunter2-hunter2");
    let said = refused(&mut command);
    assert!(said.contains("PALISADE_ADMIN_TOKEN holds 23 characters; it needs at least 32"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_a_native_endpoint_is_told_to_go_on() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let body = "{\"email\":\"ann@example.com\",\"password\":\"Correct horse 42\"}";
    let head = |kind: &str| {
        format!(
            "POST /auth/login HTTP/1.1\r\nHost: app.test\r\nContent-Type: {kind}\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )
    };
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(head("application/json").as_bytes()).await.unwrap();
    // Not a byte of the body is sent before this has arrived.
    assert_eq!(read_head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(body.as_bytes()).await.unwrap();
    let answer = read_until(&mut client, "invalid_credentials").await;
    assert_eq!(status(&answer), 401, "{answer}");
    // What is refused by its head is not asked for.
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(head("text/plain").as_bytes()).await.unwrap();
    let answer = read_head(&mut client).await;
    assert_eq!(status(&answer), 415, "{answer}");
}

fn write_pair(folder: &Path, modified: SystemTime) -> CertificateDer<'static> {
    let pair = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    for (name, text) in [("cert.pem", pair.cert.pem()), ("key.pem", pair.signing_key.serialize_pem())] {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }
    pair.cert.der().clone()
}

/// Whether the encrypted listener shows this certificate.
async fn shows(gateway: &Gateway, certificate: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(gateway.running.tls.unwrap()).await.unwrap();
    let name = ServerName::try_from("app.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_up_a_certificate_whatever_its_times_say_and_no_broken_one() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let first = write_pair(folder.path(), now);
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let server = format!("tls = {{ listen = \"127.0.0.1:0\", cert = {cert:?}, key = {key:?} }}");
    let gateway = Gateway::start_with(&server, &routes(upstream.address)).await;
    assert!(shows(&gateway, &first).await);
    // The same times, as a renewal within one second leaves them.
    let second = write_pair(folder.path(), now);
    operate(&gateway, "/admin/v1/reload", &Value::Null).await;
    assert!(shows(&gateway, &second).await && !shows(&gateway, &first).await);
    std::fs::write(&key, "nonsense").unwrap();
    let (code, told) = gateway.admin("POST", "/admin/v1/reload", &Value::Null).await;
    assert_eq!(code, 422, "{told}");
    assert!(told["detail"].as_str().unwrap().contains("key.pem"), "{told}");
    assert!(shows(&gateway, &second).await);
}

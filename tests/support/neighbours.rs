//! The neighbours of a gateway that [`super::Upstream`] is too well-behaved for: an upstream whose
//! script each test writes, and the operator at the admin listener.
#![allow(dead_code, reason = "each suite uses its part")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Gateway, PATIENCE, status};

/// An upstream that does what its script says, one call per connection.
pub struct Scripted {
    pub address: SocketAddr,
    connections: watch::Receiver<usize>,
}

impl Scripted {
    pub async fn start<F, W>(script: F) -> Scripted
    where
        F: Fn(TcpStream) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, connections) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                tokio::spawn(script(stream));
            }
        });
        Scripted { address, connections }
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        *self.connections.borrow()
    }

    /// The same, to wait for the next one.
    pub fn arrivals(&self) -> watch::Receiver<usize> {
        self.connections.clone()
    }
}

/// Reads one header section, to its empty line and no further; what there was when the other end
/// closed before that.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("no header section");
    String::from_utf8_lossy(&head).into_owned()
}

/// Reads until `needle` has arrived; everything so far, also when the other end closed before that.
pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), needle: &str) -> String {
    let mut seen = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&seen).contains(needle) {
            match stream.read_buf(&mut seen).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {needle:?}"));
    String::from_utf8_lossy(&seen).into_owned()
}

async fn ask(address: SocketAddr, request: String) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

/// A request of the operator, with the credential.
pub async fn operate(gateway: &Gateway, path: &str, body: &Value) -> Value {
    let credential = std::fs::read_to_string(gateway.folder.path().join("data/admin.token")).unwrap();
    let body = body.to_string();
    let answer = ask(
        gateway.running.admin,
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            credential.trim(),
            body.len()
        ),
    )
    .await;
    assert!((200..300).contains(&status(&answer)), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// An access token for `subject`.
pub async fn mint(gateway: &Gateway, subject: &str) -> String {
    let minted = operate(gateway, "/admin/v1/tokens", &json!({"sub": subject})).await;
    minted["access_token"].as_str().unwrap().to_owned()
}

/// Takes a token back.
pub async fn revoke(gateway: &Gateway, token: &str) {
    operate(gateway, "/admin/v1/revocations", &json!({"token": token})).await;
}

/// What a probe reads at the admin listener.
pub async fn probe(gateway: &Gateway, path: &str) -> String {
    ask(gateway.running.admin, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
        .await
}

/// Scrapes `/metrics` until it holds `line`.
pub async fn until_metrics_say(gateway: &Gateway, line: &str) {
    let seen = async { while !probe(gateway, "/metrics").await.contains(line) {} };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("/metrics never said {line:?}"));
}

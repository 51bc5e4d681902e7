//! What the suites against a running gateway share: a gateway on port 0 over a fresh data folder, an
//! upstream that records what reaches it, and a client that writes bytes as they are.
#![allow(dead_code, reason = "each suite uses its part")]

pub mod arrivals;
pub mod binary;
pub mod components;
pub mod keys;
pub mod neighbours;
pub mod plugins;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use palisade::app::{self, Options, RunningGateway};
use palisade::config;
use palisade::edge::clock::SystemClock;
use palisade_core::ports::Clock;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The longest that any step may take; a bound against hanging, never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An upstream that keeps every request it reads and answers 200 with the request line as body.
pub struct Upstream {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    pub async fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Upstream { address, requests }
    }

    /// The header sections received so far, in order.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// The one request that was received.
    pub fn only(&self) -> String {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests[0].clone()
    }
}

async fn serve(mut stream: TcpStream, kept: Arc<Mutex<Vec<String>>>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let chunked = field(&head, "transfer-encoding").is_some();
        let length: usize = field(&head, "content-length").map_or(0, |text| text.parse().unwrap());
        buffer.drain(..end);
        loop {
            let whole = if chunked { find(&buffer, b"0\r\n\r\n").map(|at| at + 5) } else { Some(length) };
            if let Some(whole) = whole.filter(|whole| *whole <= buffer.len()) {
                buffer.drain(..whole);
                break;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
        let line = head.lines().next().unwrap_or_default().to_owned();
        kept.lock().unwrap().push(head);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Where `needle` begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The value of the first field named `name` (lower case).
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A running gateway.
pub struct Gateway {
    pub running: RunningGateway,
    pub folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts one with the given `[[routes]]` and whatever else is in `extra`.
    pub async fn start(extra: &str) -> Gateway {
        Gateway::start_with("", extra).await
    }

    /// Starts one with further keys of `[server]`, one a line.
    pub async fn start_with(server: &str, extra: &str) -> Gateway {
        Gateway::start_as(Arc::new(SystemClock), server, extra).await
    }

    /// Starts one that goes by this clock.
    pub async fn start_by(clock: Arc<dyn Clock>, extra: &str) -> Gateway {
        Gateway::start_as(clock, "", extra).await
    }

    async fn start_as(clock: Arc<dyn Clock>, server: &str, extra: &str) -> Gateway {
        Gateway::start_in(clock, "http://localhost:8080", server, extra).await
    }

    /// Starts one that people reach at `public_url`.
    pub async fn start_at(public_url: &str, server: &str, extra: &str) -> Gateway {
        Gateway::start_in(Arc::new(SystemClock), public_url, server, extra).await
    }

    /// Starts one with these files beside its configuration.
    pub async fn start_beside(files: &[(&str, &str)], server: &str, extra: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Gateway::start_over(folder, Arc::new(SystemClock), "http://localhost:8080", server, extra).await
    }

    async fn start_in(clock: Arc<dyn Clock>, public_url: &str, server: &str, extra: &str) -> Gateway {
        Gateway::start_over(tempfile::tempdir().unwrap(), clock, public_url, server, extra).await
    }

    async fn start_over(
        folder: tempfile::TempDir,
        clock: Arc<dyn Clock>,
        public_url: &str,
        server: &str,
        extra: &str,
    ) -> Gateway {
        let text = format!(
            "public_url = \"{public_url}\"\n\
             [server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nheader_timeout = \"2s\"\n{server}\n\
             [store]\nurl = \"sled:./data\"\n{extra}"
        );
        let file = folder.path().join("config.toml");
        std::fs::write(&file, &text).unwrap();
        let config = config::parse(&text, &file, &|_| None).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let running = app::start_by(clock, config, Options::default()).await.unwrap();
        Gateway { running, folder }
    }

    pub fn address(&self) -> SocketAddr {
        self.running.listen[0]
    }

    /// Sends bytes on a connection of their own and reads until the gateway closes it.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> String {
        exchange(self.address(), bytes).await
    }

    /// Asks the admin API as its operator.
    pub async fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let credential = std::fs::read_to_string(self.folder.path().join("data/admin.token")).unwrap();
        admin(self.running.admin, &credential, method, path, body).await
    }

    /// A `GET` with further field lines, each ending in CRLF.
    pub async fn get(&self, target: &str, fields: &str) -> String {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{fields}Connection: close\r\n\r\n"))
            .await
    }
}

/// Sends bytes on a connection of their own and reads until the other side closes it.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The gateway may close before it has read everything.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the gateway neither answered nor closed")
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// One call of the admin API: the status and the document.
pub async fn admin(
    address: SocketAddr,
    credential: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {credential}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(address, request).await;
    (status(&answer), serde_json::from_str(body_of(&answer)).unwrap_or(Value::Null))
}

/// What follows the header section.
pub fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// The status of the first answer; 0 when there is none.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// A route for what is below `/NAME`, with further keys.
pub fn route(name: &str, upstream: SocketAddr, keys: &str) -> String {
    format!(
        "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\nupstream = [\"http://{upstream}\"]\n{keys}\n"
    )
}

/// Routes: `/` open, `/admin` and `/private` closed, all to `upstream`.
pub fn routes(upstream: SocketAddr) -> String {
    format!(
        "[[routes]]\nname = \"public\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{upstream}\"]\nauth = \"none\"\n\
         [[routes]]\nname = \"admin\"\nmatch = {{ path = \"/admin\" }}\nupstream = [\"http://{upstream}\"]\nauth = \"required\"\n\
         [[routes]]\nname = \"inner\"\nmatch = {{ host = \"inner.test\", path = \"/\" }}\nupstream = [\"http://{upstream}\"]\nauth = \"required\"\n"
    )
}

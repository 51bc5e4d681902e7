//! The admin API from the other side: what the command line asks a running gateway.
//!
//! It speaks to one address, follows no redirect and uses no proxy: the credential it sends must reach
//! no other server.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// How long an answer may take.
const USUAL: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may pause.
const SILENCE: Duration = Duration::from_secs(3600);

/// A gateway's admin API.
pub struct AdminClient {
    http: Client,
    address: SocketAddr,
    credential: SecretString,
}

impl AdminClient {
    /// A client of the gateway whose admin listener is at `address`.
    ///
    /// # Errors
    /// The HTTP client could not be made.
    pub fn new(address: SocketAddr, credential: SecretString) -> Result<AdminClient, String> {
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            // Of an answer that comes in parts.
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| format!("no HTTP client could be made: {error}"))?;
        Ok(AdminClient { http, address: reachable(address), credential })
    }

    /// The JSON answer to a `GET`.
    ///
    /// # Errors
    /// What went wrong, with advice, as one printable text.
    pub async fn get(&self, path: &str) -> Result<Value, String> {
        self.send(Method::GET, path, None, USUAL).await
    }

    /// The JSON answer to a `POST` of `body`.
    ///
    /// # Errors
    /// What went wrong, with advice, as one printable text.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.send(Method::POST, path, Some(body.to_string()), USUAL).await
    }

    /// Like [`AdminClient::post`], for what may take as long as `patience`.
    ///
    /// # Errors
    /// What went wrong, with advice, as one printable text.
    pub async fn post_within(&self, path: &str, body: &Value, patience: Duration) -> Result<Value, String> {
        self.send(Method::POST, path, Some(body.to_string()), patience).await
    }

    /// The JSON answer to a `PATCH` of `body`.
    ///
    /// # Errors
    /// What went wrong, with advice, as one printable text.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.send(Method::PATCH, path, Some(body.to_string()), USUAL).await
    }

    /// The JSON answer to a `DELETE`; null when there is none.
    ///
    /// # Errors
    /// What went wrong, with advice, as one printable text.
    pub async fn delete(&self, path: &str) -> Result<Value, String> {
        self.send(Method::DELETE, path, None, USUAL).await
    }

    /// Whether a process listens at `address`. Blocks for a moment.
    #[must_use]
    pub fn is_listening(address: SocketAddr) -> bool {
        TcpStream::connect_timeout(&reachable(address), CONNECT).is_ok()
    }

    /// Calls `each` with the parts of the answer to a `POST` of `body`, as they come. Returns once it has come whole.
    ///
    /// # Errors
    /// What went wrong, with advice, as one printable text; and what `each` said.
    pub async fn post_for_bytes(
        &self,
        path: &str,
        body: &Value,
        each: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let request = self.http.post(format!("http://{}{path}", self.address));
        let request = request.bearer_auth(self.credential.expose_secret());
        let request = request.header("content-type", "application/json").body(body.to_string());
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return self.answered(response).await.map(drop);
        }
        while let Some(part) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            each(&part)?;
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        patience: Duration,
    ) -> Result<Value, String> {
        let mut request = self
            .http
            .request(method, format!("http://{}{path}", self.address))
            .timeout(patience)
            .bearer_auth(self.credential.expose_secret());
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.answered(response).await
    }

    /// The JSON of an answer.
    async fn answered(&self, response: Response) -> Result<Value, String> {
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status.as_u16() == 204 {
            return Ok(Value::Null);
        }
        let answer: Value = serde_json::from_slice(&bytes).map_err(|_| {
            format!(
                "what listens at {} is not a Palisade gateway: it answered {status} without JSON",
                self.address
            )
        })?;
        if status.is_success() {
            return Ok(answer);
        }
        if status.as_u16() == 401 {
            return Err(format!(
                "the gateway at {} does not accept this credential: take it from `admin.token` in the data \
                 folder of that gateway, or set PALISADE_ADMIN_TOKEN",
                self.address
            ));
        }
        if let Some(errors) = answer["errors"].as_array() {
            let lines: Vec<&str> = errors.iter().filter_map(Value::as_str).collect();
            return Err(lines.join("\n"));
        }
        let detail = answer["detail"].as_str().unwrap_or("no reason given");
        let code = answer["code"].as_str().unwrap_or("unknown");
        Err(format!("{detail} ({} {code})", status.as_u16()))
    }

    fn unreachable(&self, error: &reqwest::Error) -> String {
        if error.is_connect() {
            return format!(
                "the gateway is not running at {}: start it with `palisade run`, or name its configuration \
                 with --config",
                self.address
            );
        }
        if error.is_timeout() {
            return format!("the gateway at {} did not answer in time", self.address);
        }
        format!("the gateway at {} broke off: {}", self.address, error.to_string().trim())
    }
}

/// A listener on every address is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A gateway that answers once, whatever it is asked; gives back what that was.
    async fn fake(status: &str, body: &str) -> (AdminClient, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = AdminClient::new(listener.local_addr().unwrap(), "secret-credential".into()).unwrap();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let asked = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = socket.read(&mut head).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        (client, asked)
    }

    #[tokio::test]
    async fn it_asks_with_the_credential() {
        let (client, asked) = fake("200 OK", r#"{"version":3}"#).await;
        let answer = client.post("/admin/v1/token-versions", &serde_json::json!({"sub": "a"})).await.unwrap();
        assert_eq!(answer["version"], 3);
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /admin/v1/token-versions HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("authorization: Bearer secret-credential\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn errors_say_what_to_do_and_hold_no_credential() {
        let (client, _) = fake("401 Unauthorized", r#"{"code":"unauthorized"}"#).await;
        let error = client.get("/x").await.unwrap_err();
        assert!(error.contains("admin.token") && !error.contains("secret-credential"), "{error}");

        let (client, _) = fake("422 X", r#"{"code":"token_without_id","detail":"use sid"}"#).await;
        assert_eq!(client.get("/x").await.unwrap_err(), "use sid (422 token_without_id)");

        let (client, _) = fake("200 OK", "<html>").await;
        assert!(client.get("/x").await.unwrap_err().contains("not a Palisade gateway"));

        let free = palisade_testing::nowhere::nowhere();
        let error = AdminClient::new(free, "c".into()).unwrap().get("/x").await.unwrap_err();
        assert!(error.starts_with(&format!("the gateway is not running at {free}")), "{error}");
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()).to_string(), "127.0.0.1:1");
        assert_eq!(reachable("[::]:1".parse().unwrap()).to_string(), "[::1]:1");
    }
}

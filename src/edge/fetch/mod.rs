//! Outgoing HTTP: the only place that makes a request of our own.
//!
//! HTTPS only, except to a loopback host named as such. Names are resolved once and the addresses that
//! were checked are the ones dialled, so neither a private address behind a public name nor a name that
//! resolves differently the second time (DNS rebinding) gets through; only a `POST` to a URL of the operator's own may lead anywhere. Follows
//! no redirects, obeys no proxy from the environment, and puts no query, user name or body into an error.

mod door;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, StatusCode, Url};

pub use self::door::Hosts;
use palisade_core::domain::request::is_loopback;
use palisade_core::ports::{Door, Fetch, FetchError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches over HTTP with the address checks.
#[derive(Debug, Clone)]
pub struct HttpFetch {
    public: Client,
    loopback: Client,
    /// For URLs of the operator's own.
    anywhere: Client,
}

impl HttpFetch {
    /// Makes the clients.
    ///
    /// # Errors
    /// The TLS library has no roots or cannot start.
    pub fn new() -> Result<HttpFetch, FetchError> {
        let failed = |error| FetchError::Failed { url: "-".to_owned(), why: words(error) };
        let make = |builder: ClientBuilder| builder.timeout(TOTAL_TIMEOUT).build().map_err(failed);
        Ok(HttpFetch {
            public: make(client(Some(Checked { loopback: false })))?,
            loopback: make(client(Some(Checked { loopback: true })))?,
            anywhere: make(client(None))?,
        })
    }

    /// The door of a provider: to `hosts`, and to nowhere else. `ca`: a PEM file of the authorities to trust
    /// instead of the built-in ones.
    ///
    /// # Errors
    /// `ca` cannot be read, or TLS cannot start.
    pub fn door(hosts: Hosts, ca: Option<&Path>) -> Result<Arc<dyn Door>, String> {
        Ok(Arc::new(door::HttpDoor::new(hosts, ca)?))
    }

    fn client(&self, url: &Url) -> Result<&Client, String> {
        let host = url.host_str().ok_or("no host")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials in a URL".to_owned());
        }
        let loopback = is_loopback(host);
        match url.scheme() {
            "https" => {}
            "http" if loopback => {}
            _ => return Err("only https, or http to a loopback host".to_owned()),
        }
        if loopback {
            return Ok(&self.loopback);
        }
        match literal(host) {
            // A literal address never reaches the resolver.
            Some(ip) if !is_public(ip) => Err("not a public address".to_owned()),
            _ => Ok(&self.public),
        }
    }

    /// The client for a URL of the operator's own. Cleartext keeps the checks; over HTTPS the
    /// certificate proves which host answers.
    fn operators(&self, url: &Url) -> Result<&Client, String> {
        match url.scheme() {
            "https" if url.username().is_empty() && url.password().is_none() => Ok(&self.anywhere),
            _ => self.client(url),
        }
    }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn get(&self, url: &str, max_bytes: usize) -> Result<Vec<u8>, FetchError> {
        let parsed = parse(url)?;
        let shown = shown(&parsed);
        let failed = |why: String| FetchError::Failed { url: shown.clone(), why };
        let client = self.client(&parsed).map_err(|why| FetchError::Forbidden { url: shown.clone(), why })?;
        let mut answer = client.get(parsed).send().await.map_err(|error| failed(words(error)))?;
        if answer.status() != StatusCode::OK {
            return Err(failed(format!("answered {}", answer.status().as_u16())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| failed(words(error)))? {
            if body.len() + chunk.len() > max_bytes {
                return Err(failed(format!("more than {max_bytes} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn post(&self, url: &str, headers: &[(&str, String)], json: String) -> Result<u16, FetchError> {
        let parsed = parse(url)?;
        let shown = shown(&parsed);
        let client = match self.operators(&parsed) {
            Ok(client) => client,
            Err(why) => return Err(FetchError::Forbidden { url: shown, why }),
        };
        let mut request = client.post(parsed).header("content-type", "application/json").body(json);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        match request.send().await {
            Ok(answer) => Ok(answer.status().as_u16()),
            Err(error) => Err(FetchError::Failed { url: shown, why: words(error) }),
        }
    }
}

fn parse(url: &str) -> Result<Url, FetchError> {
    Url::parse(url)
        .map_err(|error| FetchError::Forbidden { url: "(not a URL)".to_owned(), why: error.to_string() })
}

/// What every client of ours has in common.
fn client(addresses: Option<Checked>) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("palisade/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT);
    match addresses {
        Some(checked) => builder.dns_resolver(Arc::new(checked)),
        None => builder,
    }
}

/// The address that the host of a URL is, where it is one.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The URL as errors may name it: no query, no fragment, no credentials.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for URLs that cannot have credentials in the first place.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// The causes of `error`, without the URL.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        words.push_str(": ");
        words.push_str(&next.to_string());
        cause = next.source();
    }
    words
}

/// The error of [`Checked`].
#[derive(Debug, thiserror::Error)]
#[error("the name leads to an address that may not be called")]
struct NotAllowed;

/// Resolves a name once and keeps what may be dialled.
struct Checked {
    loopback: bool,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let loopback = self.loopback;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let fits = |ip: IpAddr| if loopback { ip.is_loopback() } else { is_public(ip) };
            // One address that may not be dialled refuses the whole name: DNS rebinding shows as a mixed answer.
            if found.is_empty() || !found.iter().all(|address| fits(address.ip())) {
                return Err(NotAllowed.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether `ip` is a unicast address of the public internet (IANA special-purpose registries,
/// RFC 6890).
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(matches!(a, 0 | 10 | 127)
        || a >= 224 // Multicast, reserved, broadcast.
        || (a == 100 && (64..128).contains(&b)) // RFC 6598.
        || (a == 169 && b == 254) // Link-local, and where clouds keep their metadata.
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let [g1, g2] = g.to_be_bytes();
    let [h1, h2] = h.to_be_bytes();
    let inner = Ipv4Addr::new(g1, g2, h1, h2);
    if (a, b, c, d, e) == (0, 0, 0, 0, 0) && f == 0xffff {
        return is_public_v4(inner);
    }
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        return is_public_v4(inner); // RFC 6052: the address behind a NAT64.
    }
    // Only 2000::/3 is global unicast; out of it, tunnels that hide an address and documentation.
    (a & 0xe000) == 0x2000
        && a != 0x2002
        && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
        && !(a == 0x3fff && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn only_the_public_internet_is_public() {
        for (ip, want) in [
            ("93.184.216.34", true),
            ("2606:4700::1", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::a00:1", false),
            ("2002:a00:1::", false),
            ("::10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), want, "{ip}");
        }
    }

    #[tokio::test]
    async fn what_may_not_be_called_is_not() {
        let fetch = HttpFetch::new().unwrap();
        for url in [
            "http://example.test/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest",
            "https://[::ffff:10.0.0.1]/",
            "https://0x0a000001/",
            "https://user:hunter2@example.test/?token=hunter2",
            "nonsense",
        ] {
            let error = fetch.get(url, 10).await.unwrap_err();
            assert!(matches!(error, FetchError::Forbidden { .. }), "{url}: {error}");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert!(Checked { loopback: false }.resolve("localhost".parse().unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn a_post_goes_where_its_operator_says_but_not_in_cleartext() {
        let fetch = HttpFetch::new().unwrap();
        for url in
            ["http://example.test/", "http://10.0.0.1/", "https://user:hunter2@10.0.0.1/", "file:///etc"]
        {
            let error = fetch.post(url, &[], String::new()).await.unwrap_err();
            assert!(matches!(error, FetchError::Forbidden { .. }), "{url}: {error}");
            assert!(!error.to_string().contains("hunter2"));
        }
        // That server does not speak TLS: the request is made, and fails.
        let url = serve("no TLS".to_owned()).await.replace("http:", "https:");
        let error = fetch.post(&url, &[], String::new()).await.unwrap_err();
        assert!(matches!(error, FetchError::Failed { .. }), "{error}");
        // An address that nothing else may call.
        let url = url.replace("127.0.0.1", "[::ffff:127.0.0.1]");
        assert!(matches!(fetch.get(&url, 1).await.unwrap_err(), FetchError::Forbidden { .. }));
        let error = fetch.post(&url, &[], String::new()).await.unwrap_err();
        assert!(matches!(error, FetchError::Failed { .. }), "{error}");
        let moved = "HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let url = serve(moved.to_owned()).await;
        assert_eq!(fetch.post(&url, &[("x-a", "b".to_owned())], "{}".to_owned()).await.unwrap(), 307);
    }

    /// Answers one request with `answer`, on a port of its own.
    async fn serve(answer: String) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/k?secret=1", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        url
    }

    #[tokio::test]
    async fn bodies_are_capped_and_redirects_are_answers_like_any_other() {
        let fetch = HttpFetch::new().unwrap();
        let ok = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        assert_eq!(fetch.get(&serve(ok("hello")).await, 5).await.unwrap(), b"hello");
        let error = fetch.get(&serve(ok("hello!")).await, 5).await.unwrap_err().to_string();
        assert!(error.contains("more than 5 bytes") && !error.contains("secret"), "{error}");
        let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let error = fetch.get(&serve(moved.to_owned()).await, 5).await.unwrap_err().to_string();
        assert!(error.contains("answered 302"), "{error}");
    }
}

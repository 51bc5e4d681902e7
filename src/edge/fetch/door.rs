//! The doors of plugins, part of the guard against SSRF: one for each provider, to the hosts that its operator listed.
//!
//! A plugin may ask for any URL. Only a request over HTTPS to a listed host is sent, to an address that was
//! checked, with valid header fields.

use std::error::Error;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::answers::{self, BadBody};
use super::clients::{ANSWER_FIELD_BYTES, Dials, NotAllowed, Owner, judge};
use super::{HttpFetch, Wiped, words};
use crate::config::AllowedHost;
use palisade_core::domain::reach::Reach;
use palisade_core::domain::request::is_loopback;
use palisade_core::ports::{Door, DoorFault, DoorRequest, DoorResponse};

/// Header fields of a request, and their bytes altogether.
const FIELDS: usize = 64;
const FIELD_BYTES: usize = 32 << 10;
/// The longest URL.
const URL_BYTES: usize = 16 << 10;
/// The largest body of a request.
const BODY: usize = 1 << 20;
/// The longest segment of a path that the log shows.
const SHOWN_SEGMENT: usize = 24;

/// Fields that belong to the connection, to the body, or to a browser. A cookie would be a session that the
/// operator knows nothing of.
const OURS: [&str; 12] = [
    "host",
    "content-length",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "cookie",
    "cookie2",
    "forwarded",
];

/// Where a provider's door leads.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// The provider's name, for the log.
    pub provider: String,
    pub allowed: Vec<AllowedHost>,
    /// Whether hosts on this machine may be called, in cleartext too.
    pub loopback: bool,
}

/// The door of one provider.
pub(super) struct HttpDoor {
    hosts: Hosts,
    reach: Reach,
    fetch: HttpFetch,
    owner: Owner,
}

impl HttpDoor {
    /// # Errors
    /// The authorities cannot be read, or TLS cannot start.
    pub(super) fn new(fetch: HttpFetch, hosts: Hosts, reach: Reach) -> Result<HttpDoor, String> {
        let owner = Owner::from(hosts.provider.as_str());
        let door = HttpDoor { hosts, reach, fetch, owner };
        door.fetch.clients.load().get(&door.owner, &door.reach, Dials::Allowed)?;
        Ok(door)
    }

    /// The URL, if it may be called, and who calls it.
    async fn admit(&self, text: &str) -> Result<(Url, Client), String> {
        if text.len() > URL_BYTES {
            return Err(format!("a URL of more than {URL_BYTES} bytes"));
        }
        let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err("a URL with a user name or a fragment".to_owned());
        }
        let host = url.host_str().ok_or("a URL without a host")?;
        let usual = match url.scheme() {
            "https" => 443,
            "http" if is_loopback(host) || !self.reach.allow_private.is_empty() => 80,
            _ => {
                return Err(
                    "only https, or http to this machine where providers.allow_loopback is set, or into \
                            providers.allow_private"
                        .to_owned(),
                );
            }
        };
        let port = url.port().unwrap_or(usual);
        if !self.hosts.allowed.iter().any(|pattern| pattern.covers(host, port, usual)) {
            let host: String = host.chars().take(253).collect();
            return Err(format!("{host}:{port} is not among providers.allowed_hosts"));
        }
        let dials = judge(&url, &self.reach, self.hosts.loopback).map_err(|why| match is_loopback(host) {
            true => "a host on this machine; providers.allow_loopback is not set".to_owned(),
            false => why,
        })?;
        let client = self.fetch.client(&self.owner, &url, &self.reach, dials).await?;
        Ok((url, client))
    }

    async fn exchange(
        &self,
        client: Client,
        url: Url,
        request: DoorRequest,
    ) -> Result<DoorResponse, DoorFault> {
        if request.body.len() > BODY {
            return Err(DoorFault::Denied(format!("a body of more than {BODY} bytes")));
        }
        let headers = headers(&request.headers).map_err(DoorFault::Denied)?;
        // What a plugin asks for itself, it reads itself.
        let is_asked = headers.contains_key(ACCEPT_ENCODING);
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| DoorFault::Denied("not a method".to_owned()))?;
        let mut outgoing = client.request(method, url).headers(headers).timeout(request.timeout);
        if !request.body.is_empty() {
            outgoing = outgoing.body(reqwest::Body::from(bytes::Bytes::from_owner(Wiped(request.body))));
        }
        let mut answer = outgoing.send().await.map_err(fault)?;
        // Over HTTP/2 they never get this far.
        let fields = answer.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        if fields.sum::<usize>() > ANSWER_FIELD_BYTES as usize {
            return Err(DoorFault::TooLarge);
        }
        let most = request.max_bytes;
        if answer.content_length().is_some_and(|length| length > most as u64) && request.method != "HEAD" {
            return Err(DoorFault::TooLarge);
        }
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = answer.chunk().await.map_err(fault)? {
            if body.len() + chunk.len() > most {
                return Err(DoorFault::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let retry_after = answers::retry_after(answer.headers(), SystemTime::now());
        if !is_asked {
            body = answers::text(answer.headers_mut(), body, most).map_err(|bad| match bad {
                BadBody::TooLarge => DoorFault::TooLarge,
                BadBody::Broken(why) => DoorFault::Unreachable(why),
            })?;
        }
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
        };
        let headers = answer.headers().iter().filter_map(text).collect();
        Ok(DoorResponse { status: answer.status().as_u16(), headers, body, retry_after })
    }
}

#[async_trait]
impl Door for HttpDoor {
    async fn send(&self, request: DoorRequest) -> Result<DoorResponse, DoorFault> {
        let started = Instant::now();
        let (url, client) = self.admit(request.url.expose_secret()).await.map_err(DoorFault::Denied)?;
        let (method, timeout) = (request.method, request.timeout);
        let (host, path) = (url.host_str().unwrap_or_default().to_owned(), shown(url.path()));
        // The client's own timeout does not cover the time between its phases.
        let ended = tokio::time::timeout(timeout, self.exchange(client, url, request)).await;
        let ended = ended.unwrap_or(Err(DoorFault::Timeout));
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let provider = &*self.hosts.provider;
        match &ended {
            Ok(answer) => tracing::debug!(
                provider,
                method,
                host,
                path,
                status = answer.status,
                ms,
                "a plugin's request"
            ),
            Err(fault) => tracing::debug!(provider, method, host, path, %fault, ms, "a plugin's request"),
        }
        ended
    }
}

/// `path` for the log: without the segments that are long enough to be tokens, which some providers want
/// there.
fn shown(path: &str) -> String {
    let short = |segment| if str::len(segment) > SHOWN_SEGMENT { "…" } else { segment };
    path.split('/').map(short).collect::<Vec<_>>().join("/")
}

fn headers(fields: &[(String, secrecy::SecretString)]) -> Result<HeaderMap, String> {
    if fields.len() > FIELDS {
        return Err(format!("more than {FIELDS} header fields"));
    }
    let length: usize = fields.iter().map(|(name, value)| name.len() + value.expose_secret().len()).sum();
    if length > FIELD_BYTES {
        return Err(format!("header fields of more than {FIELD_BYTES} bytes"));
    }
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header field whose name is none")?;
        if OURS.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
            return Err(format!("the header field {name}, which is the host's"));
        }
        let mut value = HeaderValue::from_str(value.expose_secret())
            .map_err(|_| format!("a value of the header field {name} that is none"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// What `error` means to a plugin.
fn fault(error: reqwest::Error) -> DoorFault {
    let mut cause = error.source();
    while let Some(next) = cause {
        if let Some(refused) = next.downcast_ref::<NotAllowed>() {
            return DoorFault::Denied(refused.to_string());
        }
        cause = next.source();
    }
    if error.is_timeout() {
        return DoorFault::Timeout;
    }
    DoorFault::Unreachable(words(error))
}

#[cfg(test)]
mod tests {
    use super::super::clients::{Checked, Fits, client};
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_denied() {
        // As if it were a public name: this machine's resolver knows no other one that is certain.
        let public = client(Some(Checked(Fits::Allowed(Reach::default())))).build().unwrap();
        let error = public.get("https://localhost:1/?secret").send().await.unwrap_err();
        let fault = fault(error);
        assert!(matches!(&fault, DoorFault::Denied(why) if why.contains("may not be called")), "{fault}");
    }

    #[tokio::test]
    async fn a_name_that_the_plugin_gives_itself_replaces_ours() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pattern =
            AllowedHost { host: "127.0.0.1".to_owned(), wildcard: false, port: Some(address.port()) };
        let hosts = Hosts { provider: "bank".to_owned(), allowed: vec![pattern], loopback: true };
        let door = HttpDoor::new(HttpFetch::new().unwrap(), hosts, Reach::default()).unwrap();
        let request = DoorRequest {
            method: "GET",
            url: format!("http://{address}/").into(),
            headers: vec![("User-Agent".to_owned(), "app:1 (by /u/ann)".into())],
            body: Zeroizing::default(),
            timeout: Duration::from_secs(10),
            max_bytes: 1,
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8(head[..length].to_vec()).unwrap().to_ascii_lowercase()
        };
        let (head, answer) = tokio::join!(serve, door.send(request));
        assert_eq!(answer.map(|answer| answer.status), Ok(204));
        assert_eq!(head.matches("user-agent:").count(), 1, "{head}");
        assert!(head.contains("user-agent: app:1 (by /u/ann)\r\n"), "{head}");
    }

    #[test]
    fn no_token_in_a_path_is_logged() {
        assert_eq!(shown("/oauth/v1/refresh-tokens/hunter2-hunter2-hunter2-x"), "/oauth/v1/refresh-tokens/…");
        assert_eq!(shown("/"), "/");
    }

    #[test]
    fn header_fields_of_the_hosts_own_are_denied_in_any_case() {
        for name in ["Host", "CONTENT-LENGTH", "Transfer-Encoding", "te", "Cookie", "Proxy-Authorization"] {
            let why = headers(&[(name.to_owned(), "x".into())]).unwrap_err();
            assert!(why.contains("the host's"), "{name}: {why}");
        }
        for (name, value) in [("a b", "x"), ("", "x"), ("x", "a\nb"), ("x", "a\0")] {
            assert!(headers(&[(name.to_owned(), value.into())]).is_err(), "{name:?}");
        }
        let large = "x".repeat(FIELD_BYTES);
        assert!(headers(&[("x".to_owned(), large.into())]).is_err());
        let headers = headers(&[("Authorization".to_owned(), "Bearer x".into())]).unwrap();
        assert!(headers["authorization"].is_sensitive());
    }
}

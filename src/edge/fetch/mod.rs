//! Outgoing HTTP: the only place that makes a request of our own.
//!
//! HTTPS only, except to a loopback host named as such and into networks that the operator opened (`allow_private`). Names
//! are resolved once and the addresses that were checked are the ones dialled, so neither a private address behind a
//! public name nor a name that resolves differently the second time (DNS rebinding) gets through; only a `POST` to a URL of
//! the operator's own may lead anywhere. Follows no redirects, and puts no query, user name or body into an error.

mod answers;
mod clients;
mod door;

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use self::answers::BadBody;
use self::clients::{Clients, Dials, Owner, judge};
pub use self::door::Hosts;
use crate::config::FetchSettings;
use palisade_core::domain::reach::Reach;
use palisade_core::ports::{Door, Fetch, FetchError, FetchRequest, Fetched, FormAuth, PostForm};

/// Fetches over HTTP with the address checks.
#[derive(Debug, Clone)]
pub struct HttpFetch {
    clients: Arc<ArcSwap<Clients>>,
    /// The owner of every request that is no provider's.
    own: Owner,
}

impl HttpFetch {
    /// Makes the clients for the public internet, without a proxy.
    ///
    /// # Errors
    /// The TLS library has no roots or cannot start.
    pub fn new() -> Result<HttpFetch, String> {
        HttpFetch::with(&FetchSettings::default())
    }

    /// The same under `[fetch]`.
    ///
    /// # Errors
    /// The authorities of `settings` cannot be read, or TLS cannot start.
    pub fn with(settings: &FetchSettings) -> Result<HttpFetch, String> {
        let clients = Arc::new(ArcSwap::from_pointee(HttpFetch::clients(settings)?));
        Ok(HttpFetch { clients, own: Owner::from("") })
    }

    /// Puts `[fetch]` of another configuration in force, for the doors that were made as well.
    ///
    /// # Errors
    /// As [`HttpFetch::with`]; the former settings stay in force.
    pub fn apply(&self, settings: &FetchSettings) -> Result<(), String> {
        if self.clients.load().settings() != settings {
            self.clients.store(Arc::new(HttpFetch::clients(settings)?));
        }
        Ok(())
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> FetchSettings {
        self.clients.load().settings().clone()
    }

    fn clients(settings: &FetchSettings) -> Result<Clients, String> {
        let clients = Clients::new(settings.clone());
        for dials in [Dials::Allowed, Dials::Loopback, Dials::Anywhere] {
            clients.get(&Owner::from(""), &Reach::default(), dials)?;
        }
        Ok(clients)
    }

    /// Whether the authorities of a reach can be read.
    ///
    /// # Errors
    /// Why not, with the key and the file.
    pub fn try_reach(&self, reach: &Reach) -> Result<(), String> {
        self.clients.load().get(&self.own, reach, Dials::Allowed).map(drop)
    }

    /// The door of a provider: to `hosts`, and to nowhere else.
    ///
    /// # Errors
    /// The authorities of `reach` cannot be read, or TLS cannot start.
    pub fn door(&self, hosts: Hosts, reach: Reach) -> Result<Arc<dyn Door>, String> {
        Ok(Arc::new(door::HttpDoor::new(self.clone(), hosts, reach)?))
    }

    /// The URL, and the client that may call it.
    async fn admit(&self, url: &str, reach: &Reach) -> Result<Admitted, FetchError> {
        let url = parse(url)?;
        let shown = shown(&url);
        match judge(&url, reach, true) {
            Err(why) => Err(FetchError::Forbidden { url: shown, why }),
            Ok(dials) => match self.client(&self.own, &url, reach, dials).await {
                Ok(client) => Ok(Admitted { url, client, shown }),
                Err(why) => Err(FetchError::Failed { url: shown, why }),
            },
        }
    }

    /// The same for a URL of the operator's own. Cleartext keeps the checks; over HTTPS the
    /// certificate proves which host answers.
    async fn operators(&self, url: &str) -> Result<Admitted, FetchError> {
        let parsed = parse(url)?;
        if parsed.scheme() != "https" || !parsed.username().is_empty() || parsed.password().is_some() {
            return self.admit(url, &Reach::default()).await;
        }
        let shown = shown(&parsed);
        match self.client(&self.own, &parsed, &Reach::default(), Dials::Anywhere).await {
            Ok(client) => Ok(Admitted { url: parsed, client, shown }),
            Err(why) => Err(FetchError::Failed { url: shown, why }),
        }
    }

    /// The client for a URL that was judged.
    async fn client(&self, owner: &Owner, url: &Url, reach: &Reach, dials: Dials) -> Result<Client, String> {
        let clients = self.clients.load_full();
        let dials = clients.route(url, reach, dials).await;
        clients.get(owner, reach, dials)
    }
}

/// A URL that may be called.
struct Admitted {
    url: Url,
    client: Client,
    /// The URL as errors may name it.
    shown: String,
}

impl Admitted {
    fn failed(&self, why: String) -> FetchError {
        FetchError::Failed { url: self.shown.clone(), why }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, FetchError> {
        request.send().await.map_err(|error| self.failed(words(error)))
    }

    async fn read(&self, mut answer: Response, max_bytes: usize) -> Result<Fetched, FetchError> {
        let status = answer.status().as_u16();
        let too_large = || self.failed(format!("more than {max_bytes} bytes"));
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failed(words(error)))? {
            if body.len() + chunk.len() > max_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let retry_after = answers::retry_after(answer.headers(), SystemTime::now());
        let body = answers::text(answer.headers_mut(), body, max_bytes).map_err(|bad| match bad {
            BadBody::TooLarge => too_large(),
            BadBody::Broken(why) => self.failed(why),
        })?;
        Ok(Fetched { status, body: body.to_vec(), retry_after })
    }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn get(&self, request: FetchRequest<'_>) -> Result<Fetched, FetchError> {
        let admitted = self.admit(request.url, request.reach).await?;
        let answer = admitted.send(admitted.client.get(admitted.url.clone())).await?;
        if answer.status() != StatusCode::OK {
            let status = answer.status().as_u16();
            let retry_after = answers::retry_after(answer.headers(), SystemTime::now());
            return Err(FetchError::Answered { url: admitted.shown, status, retry_after });
        }
        admitted.read(answer, request.max_bytes).await
    }

    async fn post_form(&self, request: PostForm<'_>) -> Result<Fetched, FetchError> {
        let admitted = self.admit(request.url, request.reach).await?;
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(request.form).finish();
        let form = bytes::Bytes::from_owner(Wiped(Zeroizing::new(form.into_bytes())));
        let mut outgoing = admitted
            .client
            .post(admitted.url.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .timeout(request.timeout)
            .body(form);
        if let Some(credentials) = authorization(&request.auth) {
            let value = reqwest::header::HeaderValue::from_str(&credentials);
            let mut value = value.map_err(|_| admitted.failed("credentials that fit no field".to_owned()))?;
            value.set_sensitive(true);
            outgoing = outgoing.header("authorization", value);
        }
        // The client's own timeout does not cover the time between its phases.
        let whole = async {
            let answer = admitted.send(outgoing).await?;
            admitted.read(answer, request.max_bytes).await
        };
        let ended = tokio::time::timeout(request.timeout, whole).await;
        ended.unwrap_or_else(|_| Err(admitted.failed("no whole answer in time".to_owned())))
    }

    async fn post(&self, url: &str, headers: &[(&str, String)], json: String) -> Result<u16, FetchError> {
        let admitted = self.operators(url).await?;
        let post = admitted.client.post(admitted.url.clone());
        let mut request = post.header("content-type", "application/json").body(json);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        Ok(admitted.send(request).await?.status().as_u16())
    }
}

/// The value of `Authorization`.
fn authorization(auth: &FormAuth<'_>) -> Option<Zeroizing<String>> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    match auth {
        FormAuth::None => None,
        FormAuth::Basic { user, password } => {
            let password = Zeroizing::new(encoded(password.expose_secret()));
            let joined = Zeroizing::new(format!("{}:{}", encoded(user), *password));
            Some(Zeroizing::new(format!("Basic {}", STANDARD.encode(&*joined))))
        }
        FormAuth::Bearer(token) => Some(Zeroizing::new(format!("Bearer {}", token.expose_secret()))),
    }
}

/// A body that is wiped when it has been sent.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn parse(url: &str) -> Result<Url, FetchError> {
    Url::parse(url)
        .map_err(|error| FetchError::Forbidden { url: "(not a URL)".to_owned(), why: error.to_string() })
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

#[cfg(test)]
mod tests {
    use super::clients::{Checked, Fits};
    use super::*;
    use reqwest::dns::Resolve as _;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(fetch: &HttpFetch, url: &str, max_bytes: usize) -> Result<Fetched, FetchError> {
        fetch.get(FetchRequest { url, max_bytes, reach: &Reach::default() }).await
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
            let error = get(&fetch, url, 10).await.unwrap_err();
            assert!(matches!(error, FetchError::Forbidden { .. }), "{url}: {error}");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert!(
            Checked(Fits::Allowed(Reach::default())).resolve("localhost".parse().unwrap()).await.is_err()
        );
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
        assert!(matches!(get(&fetch, &url, 1).await.unwrap_err(), FetchError::Forbidden { .. }));
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
        assert_eq!(get(&fetch, &serve(ok("hello")).await, 5).await.unwrap().body, b"hello");
        let error = get(&fetch, &serve(ok("hello!")).await, 5).await.unwrap_err().to_string();
        assert!(error.contains("more than 5 bytes") && !error.contains("secret"), "{error}");
        let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let error = get(&fetch, &serve(moved.to_owned()).await, 5).await.unwrap_err().to_string();
        assert!(error.contains("answered 302"), "{error}");
    }

    #[tokio::test]
    async fn a_form_is_sent_with_its_credentials_and_every_status_is_an_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/introspect", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut sent = String::new();
            while !sent.ends_with("token_type_hint=access_token") {
                let mut bytes = [0; 4096];
                let length = stream.read(&mut bytes).await.unwrap();
                assert_ne!(length, 0, "{sent}");
                sent.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
            }
            stream.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
            sent
        };
        let fetch = HttpFetch::new().unwrap();
        let (password, reach) = ("p:w/ä".into(), Reach::default());
        let request = |max_bytes| PostForm {
            url: &url,
            form: &[("token", "a b&c"), ("token_type_hint", "access_token")],
            auth: FormAuth::Basic { user: "a@b", password: &password },
            max_bytes,
            reach: &reach,
            timeout: std::time::Duration::from_secs(10),
        };
        let (sent, answer) = tokio::join!(serve, fetch.post_form(request(5)));
        let answer = answer.unwrap();
        assert_eq!((answer.status, &*answer.body), (403, &b"hello"[..]));
        assert!(sent.ends_with("\r\n\r\ntoken=a+b%26c&token_type_hint=access_token"), "{sent}");
        let basic = format!("authorization: Basic {}\r\n", STANDARD.encode("a%40b:p%3Aw%2F%C3%A4"));
        assert!(sent.contains(&basic), "{sent}");
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        };
        let ((), answer) = tokio::join!(serve, fetch.post_form(request(4)));
        assert!(answer.unwrap_err().to_string().contains("more than 4 bytes"));
    }

    #[tokio::test]
    async fn a_network_that_was_opened_is_called_in_cleartext_by_address_and_by_name() {
        let reach = Reach {
            allow_private: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            ca: None,
        };
        let fetch = HttpFetch::new().unwrap();
        for host in ["127.0.0.1", "localhost"] {
            let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned();
            let url = serve(ok).await.replace("127.0.0.1", host);
            let parsed = Url::parse(&url).unwrap();
            // As if loopback were a network like any other.
            let dials = judge(&parsed, &reach, false).unwrap();
            assert_eq!(dials, Dials::Opened);
            let client = fetch.clients.load().get(&fetch.own, &reach, dials).unwrap();
            assert_eq!(client.get(parsed.clone()).send().await.unwrap().status(), 200, "{host}");
            let other = Reach { allow_private: vec!["10.0.0.0/8".parse().unwrap()], ca: None };
            let client = fetch.clients.load().get(&fetch.own, &other, Dials::Opened).unwrap();
            if host == "localhost" {
                let why = words(client.get(parsed).send().await.unwrap_err());
                assert!(why.contains("may not be called"), "{why}");
            }
        }
    }
}

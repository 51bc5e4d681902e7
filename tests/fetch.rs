//! Requests of our own through a proxy, and where none of them may go: with a real proxy in front of a real TLS server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::neighbours::{Scripted, read_head};
use palisade::config::{self, AllowedHost, FetchSettings};
use palisade::edge::fetch::{Hosts, HttpFetch};
use palisade_core::domain::reach::{Authorities, Reach};
use palisade_core::ports::{DoorFault, DoorRequest, Fetch, FetchError, FetchRequest, FormAuth, PostForm};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

const HOST: &str = "keys.issuer.example";

/// A server for [`HOST`], and the proxy through which alone it can be reached.
struct World {
    proxy: Scripted,
    server: Scripted,
    /// The heads that the proxy was sent.
    asked: mpsc::UnboundedReceiver<String>,
    ca: Authorities,
}

/// `said`: what the server answers, below the status line.
async fn world(said: &'static str) -> World {
    let pair = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let server = Scripted::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            read_head(&mut stream).await;
            let _ = stream.write_all(said.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    let (tell, asked) = mpsc::unbounded_channel();
    let target = server.address;
    let proxy = Scripted::start(move |mut stream| {
        let tell = tell.clone();
        async move {
            let head = read_head(&mut stream).await;
            let _ = tell.send(head);
            let mut there = TcpStream::connect(target).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = copy_bidirectional(&mut stream, &mut there).await;
        }
    })
    .await;
    let ca = Authorities { named: "fetch.ca: ca.pem".into(), pem: pair.cert.pem().into() };
    World { proxy, server, asked, ca }
}

/// `[fetch]` of a file with `keys` in it, in an environment.
fn settings(keys: &str, env: &[(&str, String)]) -> FetchSettings {
    let text = format!(
        "[fetch]\n{keys}\n[[routes]]\nname = \"a\"\nupstream = [\"http://127.0.0.1:9\"]\nmatch.host = \"localhost\"\n"
    );
    let get = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    config::parse(&text, Path::new("config.toml"), &get).unwrap_or_else(|errors| panic!("{errors:?}")).fetch
}

async fn get(fetch: &HttpFetch, url: &str, reach: &Reach) -> Result<Vec<u8>, FetchError> {
    fetch.get(FetchRequest { url, max_bytes: 100, reach }).await.map(|fetched| fetched.body)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_request_goes_through_the_proxy_and_trusts_the_operators_authorities() {
    let mut world = world(OK).await;
    let proxy = format!("http://ann:hunter2@{}", world.proxy.address);
    for (keys, env) in [
        ("proxy = \"env:PROXY\"", ("PROXY", proxy.clone())),
        ("", ("HTTPS_PROXY", proxy.clone())),
        ("", ("https_proxy", proxy.strip_prefix("http://").unwrap().to_owned())),
    ] {
        let settings = FetchSettings { ca: Some(world.ca.clone()), ..settings(keys, &[env]) };
        assert!(!format!("{settings:?}").contains("hunter2"));
        let fetch = HttpFetch::with(&settings).unwrap();
        let url = format!("https://{HOST}/k");
        assert_eq!(get(&fetch, &url, &Reach::default()).await.unwrap(), b"ok");
        let form = PostForm {
            url: &url,
            form: &[("token", "t")],
            auth: FormAuth::None,
            max_bytes: 100,
            reach: &Reach::default(),
            timeout: Duration::from_secs(10),
        };
        assert_eq!(fetch.post_form(form).await.unwrap().body, b"ok");
        assert_eq!(fetch.post(&url, &[], "{}".to_owned()).await.unwrap(), 200);
        let door = fetch.door(hosts(HOST, None, false), Reach::default()).unwrap();
        assert_eq!(door.send(request(&url)).await.map(|answer| answer.status), Ok(200));
        for _ in 0..4 {
            let head = world.asked.recv().await.unwrap().to_ascii_lowercase();
            assert!(head.starts_with(&format!("connect {HOST}:443 http/1.1\r\n")), "{head}");
            assert!(head.contains("proxy-authorization: basic yw5uomh1bnrlcji=\r\n"), "{head}");
        }
    }
    // With authorities of its own a request trusts those alone.
    let settings = FetchSettings { ca: Some(world.ca.clone()), ..settings("", &[("HTTPS_PROXY", proxy)]) };
    let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap().cert.pem();
    let other = Authorities { named: "issuers[0].ca".into(), pem: other.into() };
    let fetch = HttpFetch::with(&settings).unwrap();
    let own = Reach { ca: Some(other), ..Reach::default() };
    assert!(get(&fetch, &format!("https://{HOST}/k"), &own).await.is_err());
    let own = Reach { ca: Some(world.ca.clone()), ..Reach::default() };
    let fetch = HttpFetch::with(&FetchSettings { ca: None, ..settings }).unwrap();
    assert_eq!(get(&fetch, &format!("https://{HOST}/k"), &own).await.unwrap(), b"ok");
}

fn hosts(host: &str, port: Option<u16>, loopback: bool) -> Hosts {
    let allowed = vec![AllowedHost { host: host.to_owned(), wildcard: false, port }];
    Hosts { provider: "bank".to_owned(), allowed, loopback }
}

fn request(url: &str) -> DoorRequest {
    DoorRequest {
        method: "GET",
        url: url.to_owned().into(),
        headers: Vec::new(),
        body: Vec::new().into(),
        timeout: Duration::from_secs(10),
        max_bytes: 100,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_and_what_was_opened_never_go_through_the_proxy() {
    let world = world(OK).await;
    let local = Scripted::start(|mut stream| async move {
        // What comes first, whether it is a request or TLS.
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(OK.as_bytes()).await;
    })
    .await;
    let fetch =
        HttpFetch::with(&settings(&format!("proxy = \"http://{}\"", world.proxy.address), &[])).unwrap();
    let port = local.address.port();
    for url in [format!("http://127.0.0.1:{port}/"), format!("http://localhost:{port}/")] {
        assert_eq!(get(&fetch, &url, &Reach::default()).await.unwrap(), b"ok", "{url}");
        assert_eq!(fetch.post(&url, &[], String::new()).await.unwrap(), 200, "{url}");
    }
    // A network like any other, to a door that may not call this machine.
    let opened =
        Reach { allow_private: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()], ca: None };
    for host in ["127.0.0.1", "localhost"] {
        let door = fetch.door(hosts(host, Some(port), false), opened.clone()).unwrap();
        let answer = door.send(request(&format!("http://{host}:{port}/"))).await;
        assert_eq!(answer.map(|answer| answer.status), Ok(200), "{host}");
        // TLS is not what that server speaks: it was dialled, and not the proxy.
        let answer = door.send(request(&format!("https://{host}:{port}/"))).await;
        assert!(matches!(answer, Err(DoorFault::Unreachable(_))), "{host}");
        let closed = fetch.door(hosts(host, Some(port), false), Reach::default()).unwrap();
        let answer = closed.send(request(&format!("https://{host}:{port}/"))).await;
        assert!(matches!(answer, Err(DoorFault::Denied(_))), "{host}");
    }
    // A webhook's URL may lead anywhere, to a private address without the proxy.
    let url = format!("https://[::ffff:127.0.0.1]:{port}/");
    assert!(matches!(fetch.post(&url, &[], String::new()).await, Err(FetchError::Failed { .. })));
    // Literal addresses are judged as without a proxy.
    for url in [
        "https://10.0.0.1/",
        "https://169.254.169.254/",
        "https://0xa9fea9fe/",
        "https://[64:ff9b::a9fe:a9fe]/",
    ] {
        let refused = get(&fetch, url, &Reach::default()).await.unwrap_err();
        assert!(matches!(refused, FetchError::Forbidden { .. }), "{url}: {refused}");
    }
    assert_eq!(world.proxy.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_is_heeded_and_keeps_the_check_of_addresses() {
    let world = world(OK).await;
    let proxy = format!("http://{}", world.proxy.address);
    for (no_proxy, is_proxied) in
        [("issuer.example", false), (".example, 10.0.0.0/8", false), ("*", false), ("other.example", true)]
    {
        let env = [("HTTPS_PROXY", proxy.clone()), ("NO_PROXY", no_proxy.to_owned())];
        let settings = FetchSettings { ca: Some(world.ca.clone()), ..settings("", &env) };
        let fetch = HttpFetch::with(&settings).unwrap();
        let before = world.proxy.connections();
        let got = get(&fetch, &format!("https://{HOST}/"), &Reach::default()).await;
        // The name is of no host, so without the proxy it leads nowhere.
        assert_eq!(got.is_ok(), is_proxied, "{no_proxy}: {got:?}");
        assert_eq!(world.proxy.connections() > before, is_proxied, "{no_proxy}");
    }
    let env = [("HTTPS_PROXY", proxy)];
    assert_eq!(settings("proxy = \"none\"", &env).proxy, None);
    assert!(world.server.connections() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_is_an_error_without_its_credentials() {
    let proxy = Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            .await;
    })
    .await;
    let env = [("HTTPS_PROXY", format!("http://ann:hunter2@{}", proxy.address))];
    let fetch = HttpFetch::with(&settings("", &env)).unwrap();
    let why =
        get(&fetch, &format!("https://{HOST}/?q=hunter2"), &Reach::default()).await.unwrap_err().to_string();
    assert!(!why.contains("hunter2") && why.contains("proxy"), "{why}");
}

#[test]
fn credentials_of_a_proxy_in_the_file_and_what_is_no_proxy_are_refused() {
    let errors = |keys: &str, env: &str| {
        let text = format!(
            "[fetch]\n{keys}\n[[routes]]\nname = \"a\"\nupstream = [\"http://127.0.0.1:9\"]\nmatch.host = \"localhost\"\n"
        );
        let get = |name: &str| (name == "HTTPS_PROXY" || name == "PASSWORD").then(|| env.to_owned());
        let found = config::parse(&text, Path::new("config.toml"), &get);
        found.err().map(|errors| config::error_lines(&errors)).unwrap_or_default()
    };
    for (keys, env, want) in [
        ("proxy = \"http://ann:hunter2@proxy\"", "", "config.toml:2: fetch.proxy: found credentials"),
        ("proxy = \"socks5://proxy\"", "", "config.toml:2: fetch.proxy: found \"socks5://proxy\""),
        ("", "ftp://ann:hunter2@proxy", "fetch.proxy: found a text in the variable HTTPS_PROXY"),
        ("proxy = \"http://ann:${env:PASSWORD}@proxy\"", "hunter2", ""),
        ("proxy = \"none\"", "ftp://ann:hunter2@proxy", ""),
    ] {
        let said = errors(keys, env);
        assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{keys}: {said}");
        assert!(!said.contains("hunter2"), "{keys}: {said}");
    }
}

#[test]
fn networks_that_open_nothing_or_everything_are_refused() {
    let issuer = |nets: &str| {
        let text = format!(
            "[[issuers]]\nissuer = \"https://i.test\"\njwks = \"http://i.test/k\"\naudiences = [\"api\"]\n\
             algorithms = [\"ES256\"]\nemail = \"verified\"\nallow_private = [{nets}]\n\
             [[routes]]\nname = \"a\"\nupstream = [\"http://127.0.0.1:9\"]\nmatch.host = \"localhost\"\n"
        );
        config::parse(&text, Path::new("config.toml"), &|_| None)
    };
    let config = issuer("\"10.0.0.0/8\", \"fd12::/16\", \"192.168.1.1\"").unwrap();
    assert_eq!(config.issuers[0].reach.allow_private.len(), 3);
    for (net, want) in [
        ("\"169.254.0.0/16\"", "clouds answer with credentials"),
        ("\"169.254.169.254\"", "clouds answer with credentials"),
        ("\"fd00:ec2::254\"", "clouds answer with credentials"),
        ("\"::ffff:169.254.169.254\"", "clouds answer with credentials"),
        ("\"0.0.0.0/0\"", "so wide a one holds the internet"),
        ("\"::/0\"", "so wide a one holds the internet"),
        ("\"intranet\"", "a network like 10.0.0.0/8"),
    ] {
        let errors = config::error_lines(&issuer(net).unwrap_err());
        assert!(errors.contains("issuers[0].allow_private[0]") && errors.contains(want), "{net}: {errors}");
    }
    // Without a network there is no cleartext to another machine.
    let errors = config::error_lines(&issuer("").unwrap_err());
    assert!(errors.contains("issuers[0].jwks"), "{errors}");
    let public = issuer("\"8.8.8.0/24\"").unwrap();
    assert!(
        public.warnings.iter().any(|line| line.contains("may be called in cleartext")),
        "{:?}",
        public.warnings
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_nowhere_and_a_wait_is_told() {
    let mut world = world(
        "HTTP/1.1 307 Moved\r\nlocation: http://169.254.169.254/\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let env = [("HTTPS_PROXY", format!("http://{}", world.proxy.address))];
    let settings = FetchSettings { ca: Some(world.ca.clone()), ..settings("", &env) };
    let fetch = HttpFetch::with(&settings).unwrap();
    let refused = get(&fetch, &format!("https://{HOST}/"), &Reach::default()).await.unwrap_err();
    let wait = Some(Duration::from_secs(120));
    assert!(
        matches!(&refused, FetchError::Answered { status: 307, retry_after, .. } if *retry_after == wait),
        "{refused:?}"
    );
    assert!(world.asked.recv().await.is_some());
    assert_eq!(world.proxy.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_compressed_unasked_is_read_within_its_bound() {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;
    let compressed = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let serve = |body: Vec<u8>| {
        Scripted::start(move |mut stream| {
            let body = body.clone();
            async move {
                let head = read_head(&mut stream).await.to_ascii_lowercase();
                assert!(!head.contains("\r\naccept-encoding:"), "{head}");
                let fields = format!(
                    "HTTP/1.1 403 No\r\ncontent-type: application/json; charset=iso-8859-1\r\ncontent-encoding: gzip\r\n\
                     retry-after: 7\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(fields.as_bytes()).await;
                let _ = stream.write_all(&body).await;
                let _ = stream.read_u8().await;
            }
        })
    };
    let fetch = HttpFetch::new().unwrap();
    let small = serve(compressed(b"{\"name\":\"Zo\xeb\"}")).await;
    let door = |address: std::net::SocketAddr| {
        fetch.door(hosts("127.0.0.1", Some(address.port()), true), Reach::default()).unwrap()
    };
    let answer = door(small.address).send(request(&format!("http://{}/", small.address))).await;
    let answer = answer.map_err(|fault| fault.to_string()).unwrap();
    assert_eq!(std::str::from_utf8(&answer.body), Ok("{\"name\":\"Zoë\"}"));
    assert_eq!((answer.status, answer.retry_after), (403, Some(Duration::from_secs(7))));
    assert!(!answer.headers.iter().any(|(name, _)| name == "content-encoding"));
    let bomb = serve(compressed(&vec![b'x'; 10_000])).await;
    let answer = door(bomb.address).send(request(&format!("http://{}/", bomb.address))).await;
    assert!(matches!(answer, Err(DoorFault::TooLarge)));
}

//! Routes with `inject`: what an upstream gets in place of the caller's own token, what happens when it does
//! not take it, and what is told when there is none. The proxy is the real one; who holds the tokens is a
//! fake.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::neighbours::{Scripted, read_head, read_until};
use crate::support::{PATIENCE, body_of, exchange, field, find, status};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::{SinkExt, StreamExt};
use palisade::config;
use palisade::edge::clock::SystemClock;
use palisade::edge::proxy;
use palisade::edge::proxy::app_tokens::AppTokens;
use palisade::edge::proxy::capacity::{Capacity, Plan};
use palisade::edge::proxy::forward::StripRules;
use palisade::edge::proxy::forwarded::Believed;
use palisade::edge::proxy::gateway::Live;
use palisade::edge::proxy::looped::LoopMark;
use palisade::edge::proxy::served::ServedRoute;
use palisade::edge::proxy::thrown_away::ThrownAway;
use palisade_core::domain::app_token::AppTokenTerms;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::native_hosts::NativeHosts;
use palisade_core::domain::request::Scheme;
use palisade_core::domain::route::FailMode;
use palisade_core::domain::same_origin::OwnOrigins;
use palisade_core::domain::table::Table;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::TokenFault;
use palisade_core::ports::{
    AccessGrant, Ended, InjectFault, Injector, Meter, Revocations, SignError, Signed, Signer, Standing,
    Verified, Verifier,
};
use palisade_core::service::admit::{Admission, Authenticator};
use palisade_core::service::left_to_app::LeftToApp;
use palisade_testing::carry_fakes::carrier;
use palisade_testing::fakes::{FakeAudit, FakeEntropy};
use palisade_testing::nowhere::nowhere;
use palisade_testing::page_fakes::FakePages;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::task::TaskTracker;

/// What the engine keeps of a body to send it a second time, in bytes.
const KEPT: usize = 64 * 1024;

/// The token of every user is their name.
struct FakeVerifier;

#[async_trait]
impl Verifier for FakeVerifier {
    fn verify(&self, token: &str, now: UnixTime) -> Result<Arc<Verified>, TokenFault> {
        Ok(Arc::new(Verified::new(Identity {
            issuer: "https://us.test".into(),
            subject: token.to_owned(),
            email: None,
            email_verified: false,
            session: None,
            token_id: None,
            version: None,
            scopes: Vec::new(),
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(60)),
            claims: serde_json::Map::new(),
        })))
    }

    async fn learn_keys(&self, _: &str) -> bool {
        false
    }

    fn accepts(&self, _: &Verified) -> bool {
        true
    }
}

struct NothingRevoked;

impl Revocations for NothingRevoked {
    fn standing(&self) -> Standing {
        Standing::Confirmed(1)
    }

    fn is_revoked(&self, _: &Identity) -> bool {
        false
    }
}

struct FakeSigner;

impl Signer for FakeSigner {
    fn issuer(&self) -> &str {
        "https://us.test"
    }

    fn access_token(&self, _: &AccessGrant, _: Duration, _: UnixTime) -> Result<Signed, SignError> {
        Err(SignError("a fake".to_owned()))
    }

    fn identity(&self, _: &AccessGrant, _: Duration, _: UnixTime) -> Result<Identity, SignError> {
        Err(SignError("a fake".to_owned()))
    }

    fn assertion(&self, identity: &Identity, _: &str, _: UnixTime) -> Result<String, SignError> {
        Ok(format!("assertion-of-{}", identity.subject))
    }

    fn app_token(
        &self,
        _: &Identity,
        _: &AppTokenTerms,
        _: UnixTime,
        _: UnixTime,
    ) -> Result<String, SignError> {
        Err(SignError("a fake".to_owned()))
    }
}

/// Keeps how requests ended.
#[derive(Default)]
struct FakeMeter(Mutex<Vec<String>>);

impl Meter for FakeMeter {
    fn provider_call(&self, _: &str, _: &'static str, _: &'static str, _: Duration) {}
    fn provider_request(&self, _: &str, _: &'static str) {}
    fn plugin_reload(&self, _: &str, _: &'static str) {}
    fn ended(&self, ended: &Ended<'_>) {
        self.0.lock().unwrap().push(ended.decision.to_owned());
    }
    fn token_cache(&self, _: bool) {}
    fn store_call(&self, _: &'static str, _: Duration, _: bool) {}
    fn mail(&self, _: &'static str) {}
    fn password(&self, _: Duration, _: Duration) {}
    fn jwks_fetch(&self, _: &str, _: bool) {}
}

/// Holds one token for each caller: `CALLER-NUMBER`, and the number grows when it is replaced.
#[derive(Default)]
struct FakeInjector {
    numbers: Mutex<BTreeMap<String, usize>>,
    asked: AtomicUsize,
    /// The connection ends after so many questions; with none, it does not.
    lasts: AtomicUsize,
    replaced: AtomicUsize,
    /// What is said instead, to the first question and to the second one.
    fault: Mutex<Option<InjectFault>>,
    second_fault: Mutex<Option<InjectFault>>,
    /// Every provider that was asked for.
    providers: Mutex<Vec<String>>,
}

fn token_of(caller: &str, number: usize) -> SecretString {
    format!("{caller}-{number}").into()
}

#[async_trait]
impl Injector for FakeInjector {
    async fn token(&self, identity: &Identity, provider: &str) -> Result<SecretString, InjectFault> {
        let before = self.asked.fetch_add(1, Ordering::SeqCst);
        if (1..=before).contains(&self.lasts.load(Ordering::SeqCst)) {
            return Err(InjectFault::NotConnected);
        }
        self.providers.lock().unwrap().push(provider.to_owned());
        if let Some(fault) = self.fault.lock().unwrap().clone() {
            return Err(fault);
        }
        let number = *self.numbers.lock().unwrap().entry(identity.subject.clone()).or_default();
        Ok(token_of(&identity.subject, number))
    }

    async fn again(
        &self,
        identity: &Identity,
        provider: &str,
        rejected: &SecretString,
    ) -> Result<SecretString, InjectFault> {
        self.providers.lock().unwrap().push(provider.to_owned());
        if let Some(fault) = self.second_fault.lock().unwrap().clone() {
            return Err(fault);
        }
        let mut numbers = self.numbers.lock().unwrap();
        let number = numbers.entry(identity.subject.clone()).or_default();
        // A caller with a token that has been replaced already gets the replacement.
        if token_of(&identity.subject, *number).expose_secret() == rejected.expose_secret() {
            self.replaced.fetch_add(1, Ordering::SeqCst);
            *number += 1;
        }
        Ok(token_of(&identity.subject, *number))
    }
}

/// A proxy on a free port, with one route.
struct World {
    address: SocketAddr,
    injector: Arc<FakeInjector>,
    meter: Arc<FakeMeter>,
    /// Ends the listener when dropped.
    _closing: watch::Sender<bool>,
}

async fn world(upstream: SocketAddr, keys: &str) -> World {
    let text = format!(
        "[[providers]]\nname = \"bank\"\ncomponent = \"builtin:oauth2\"\nclient_id = \"env:ID\"\n\
         allowed_hosts = [\"bank.test\"]\n\
         [[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{upstream}\"]\n{keys}\n"
    );
    let config = config::parse(&text, std::path::Path::new("config.toml"), &|_| Some("id".to_owned()))
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    let route = config.routes[0].clone();
    let plan = Plan::new(None, 1000, 1).unwrap();
    let capacity = Capacity::new(plan, 1 << 30);
    let live = Live {
        strip: StripRules::of(std::iter::once((&route.forward, &route.policy.policy))),
        believed: Believed::default(),
        thrown_away: ThrownAway::default(),
        native_hosts: NativeHosts::default(),
        browsers: None,
        admission: Admission {
            own: OwnOrigins { scheme: Scheme::Http, named: Vec::new() },
            sessions: None,
            routes: Table::new(vec![ServedRoute::start(route, &capacity).await.unwrap()]),
            authenticator: Authenticator {
                verifier: Arc::new(FakeVerifier),
                revocations: Arc::new(NothingRevoked),
                fail: FailMode::Closed,
                clock: Arc::new(SystemClock),
            },
        },
    };
    let injector = Arc::new(FakeInjector::default());
    let meter = Arc::new(FakeMeter::default());
    let engine = proxy::engine(proxy::gateway::Gateway {
        live: Arc::new(ArcSwap::from_pointee(live)),
        max_header_bytes: 32_768,
        native: axum::Router::new(),
        native_prefix: "/auth".to_owned(),
        streams: Arc::new(proxy::exchange::Streams::new(&(Arc::clone(&meter) as _))),
        signer: Arc::new(FakeSigner),
        app_tokens: Arc::new(AppTokens::new(Arc::new(FakeSigner), Duration::from_secs(60), 0)),
        injector: Arc::clone(&injector) as _,
        ping: None,
        connect_at: "/auth/connections".to_owned(),
        mark: LoopMark::of(1),
        pages: Arc::new(FakePages),
        carrier: carrier(),
        left_to_app: Arc::new(LeftToApp::new(
            Arc::new(FakeAudit::default()),
            Arc::new(SystemClock),
            Arc::new(FakeEntropy::default()),
        )),
        clock: Arc::new(SystemClock),
        meter: Arc::clone(&meter) as _,
        capacity: Arc::clone(&capacity),
    });
    let (closing, closed) = watch::channel(false);
    let listener = Arc::new(proxy::listener::Listener {
        engine,
        limits: proxy::head::HeadLimits { deadline: PATIENCE, idle: PATIENCE, bytes: 64 * 1024 },
        capacity,
        meter: Arc::clone(&meter) as _,
        closing: closed,
        tls: None,
        connections: TaskTracker::new(),
    });
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    tokio::spawn(listener.run(tcp));
    World { address, injector, meter, _closing: closing }
}

const INJECT: &str = "inject = { provider = \"bank\" }";

impl World {
    async fn send(&self, request: impl AsRef<[u8]>) -> String {
        exchange(self.address, request).await
    }

    async fn get(&self, fields: &str) -> String {
        self.send(format!("GET /x HTTP/1.1\r\nHost: app.test\r\n{fields}Connection: close\r\n\r\n")).await
    }

    async fn post(&self, body: &[u8]) -> String {
        let mut request = format!(
            "POST /x HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer ann\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.send(request).await
    }

    fn replaced(&self) -> usize {
        self.injector.replaced.load(Ordering::SeqCst)
    }
}

const ANN: &str = "Authorization: Bearer ann\r\n";

/// What an upstream was sent.
#[derive(Debug, Clone)]
struct Seen {
    head: String,
    body: Vec<u8>,
}

impl Seen {
    fn token(&self) -> &str {
        let lines = self.head.lines().filter(|line| line.to_ascii_lowercase().starts_with("authorization:"));
        assert_eq!(lines.count(), 1, "{}", self.head);
        field(&self.head, "authorization").unwrap()
    }
}

/// An upstream that keeps what it is sent, whole, and takes no token with a number among `refused`.
struct Choosy {
    scripted: Scripted,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Choosy {
    async fn start(refused: &'static [&'static str]) -> Choosy {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let scripted = Scripted::start(move |stream| answer(stream, refused, Arc::clone(&kept))).await;
        Choosy { scripted, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn tokens(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.token().to_owned()).collect()
    }
}

async fn answer(mut stream: TcpStream, refused: &[&str], kept: Arc<Mutex<Vec<Seen>>>) {
    loop {
        let head = read_head(&mut stream).await;
        if !head.ends_with("\r\n\r\n") {
            return;
        }
        let body = read_body(&mut stream, &head).await;
        let token = field(&head, "authorization").unwrap_or_default().to_owned();
        kept.lock().unwrap().push(Seen { head, body });
        let answer = match refused.iter().any(|number| token.ends_with(&format!("-{number}"))) {
            true => {
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"bank\"\r\nContent-Length: 5\r\n\r\nstale"
            }
            false => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The body that belongs to a header section, its chunks joined.
async fn read_body(stream: &mut TcpStream, head: &str) -> Vec<u8> {
    if field(head, "transfer-encoding").is_none() {
        let length = field(head, "content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        return body;
    }
    let mut whole = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.unwrap());
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&chunk[..size]);
    }
}

#[tokio::test]
async fn the_providers_token_takes_the_place_of_the_callers_own() {
    let upstream = Choosy::start(&[]).await;
    let world = world(upstream.scripted.address, &format!("auth = \"required\"\n{INJECT}")).await;
    let answer = world
        .get(&format!(
            "{ANN}Cookie: a=b; palisade_connect_x=secret; __Host-palisade_connect_x=secret; \
             palisade-registration=secret; __Host-palisade-registration=secret\r\n"
        ))
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.token(), "Bearer ann-0");
    assert_eq!(field(&seen.head, "x-auth-subject"), Some("ann"), "who it is for is told as ever");
    assert_eq!(field(&seen.head, "cookie"), Some("a=b"));
    assert!(!seen.head.contains("Bearer ann\r\n"), "{}", seen.head);
    assert!(!answer.contains("ann-0"), "{answer}");
    assert_eq!(*world.injector.providers.lock().unwrap(), ["bank"]);
    // Each caller's own.
    assert_eq!(status(&world.get("Authorization: Bearer bob\r\n").await), 200);
    assert_eq!(upstream.tokens(), ["Bearer ann-0", "Bearer bob-0"]);
}

#[tokio::test]
async fn whatever_carried_the_callers_own_token_is_taken_out() {
    let upstream = Choosy::start(&[]).await;
    let world = world(upstream.scripted.address, &format!("token = {{ cookie = \"sid\" }}\n{INJECT}")).await;
    let answer = world.get("Authorization: Basic YTpi\r\nCookie: sid=ann; a=b\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = upstream.seen().remove(0);
    assert_eq!((seen.token(), field(&seen.head, "cookie")), ("Bearer ann-0", Some("a=b")));
    // No name in `Connection` takes it away again.
    let request =
        format!("GET /x HTTP/1.1\r\nHost: app.test\r\n{ANN}Connection: authorization, close\r\n\r\n");
    let named = world.send(request).await;
    assert_eq!(status(&named), 200, "{named}");
    assert_eq!(upstream.tokens(), ["Bearer ann-0", "Bearer ann-0"]);
}

#[tokio::test]
async fn a_route_without_it_gets_no_token_at_all() {
    let upstream = Choosy::start(&[]).await;
    let world = world(upstream.scripted.address, "").await;
    assert_eq!(status(&world.get(ANN).await), 200);
    assert_eq!(field(&upstream.seen()[0].head, "authorization"), None);
    assert_eq!(world.injector.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn whoever_has_no_token_learns_what_to_do() {
    let upstream = Choosy::start(&[]).await;
    let world = world(upstream.scripted.address, INJECT).await;
    let later =
        InjectFault::Unavailable { reason: "hunter2".into(), retry_after: Some(Duration::from_millis(8500)) };
    let some_time = InjectFault::Unavailable { reason: "hunter2".into(), retry_after: None };
    for (fault, want, code, wait) in [
        (InjectFault::NotConnected, 403, "connection_required", None),
        (InjectFault::ReconnectNeeded, 403, "reconnect_needed", None),
        (later, 503, "provider_unavailable", Some("9")),
        (some_time, 503, "provider_unavailable", Some("1")),
        (InjectFault::Failed("hunter2".into()), 502, "provider_failed", None),
    ] {
        *world.injector.fault.lock().unwrap() = Some(fault);
        let answer = world.get(ANN).await;
        assert_eq!((status(&answer), field(&answer, "retry-after")), (want, wait), "{answer}");
        let problem: serde_json::Value = serde_json::from_str(body_of(&answer)).unwrap();
        assert_eq!((&problem["code"], &problem["provider"]), (&code.into(), &"bank".into()));
        assert_eq!(field(&answer, "content-type"), Some("application/problem+json"));
        assert_eq!(field(&answer, "www-authenticate"), None, "the caller's own token is good");
        let names_the_cure = problem["detail"].as_str().unwrap().contains("POST /auth/connections");
        assert_eq!(names_the_cure, want == 403, "{problem}");
        assert!(!answer.contains("hunter2"), "{answer}");
        assert_eq!(world.meter.0.lock().unwrap().pop().unwrap(), code);
    }
    assert!(upstream.seen().is_empty(), "nothing goes upstream without a token");
}

#[tokio::test]
async fn nobody_in_particular_has_no_token() {
    let upstream = Choosy::start(&[]).await;
    let world = world(upstream.scripted.address, &format!("auth = \"optional\"\n{INJECT}")).await;
    let answer = world.get("Authorization: Basic YTpi\r\n").await;
    assert_eq!(status(&answer), 401, "{answer}");
    assert!(answer.contains("token_missing"), "{answer}");
    assert!(upstream.seen().is_empty());
    assert_eq!(status(&world.get(ANN).await), 200);
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_replaced_once_and_the_request_sent_again() {
    let upstream = Choosy::start(&["0"]).await;
    let world = world(upstream.scripted.address, INJECT).await;
    let body = vec![b'b'; KEPT];
    let answer = world.post(&body).await;
    assert_eq!((status(&answer), body_of(&answer)), (200, "fine"));
    assert_eq!(field(&answer, "www-authenticate"), None);
    let seen = upstream.seen();
    assert_eq!(upstream.tokens(), ["Bearer ann-0", "Bearer ann-1"]);
    assert!(seen[0].body == body && seen[1].body == body, "the whole body, both times");
    assert_eq!(world.replaced(), 1);
    let strip = |head: &str| head.replace("ann-0", "").replace("ann-1", "");
    assert_eq!(strip(&seen[0].head), strip(&seen[1].head), "and the same request");
    // From now on the new one.
    assert_eq!(status(&world.get(ANN).await), 200);
    assert_eq!(upstream.tokens().last().unwrap(), "Bearer ann-1");
    assert_eq!(*world.meter.0.lock().unwrap(), ["allowed", "allowed"]);
}

#[tokio::test]
async fn a_body_in_chunks_and_none_at_all_are_sent_again_too() {
    for (chunks, want) in [("4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n", &b"abcdefg"[..]), ("0\r\n\r\n", b"")] {
        let upstream = Choosy::start(&["0"]).await;
        let world = world(upstream.scripted.address, INJECT).await;
        let head = format!("PATCH /x HTTP/1.1\r\nHost: app.test\r\n{ANN}Transfer-Encoding: chunked\r\n");
        let answer = world.send(format!("{head}Connection: close\r\n\r\n{chunks}")).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let bodies: Vec<Vec<u8>> = upstream.seen().into_iter().map(|seen| seen.body).collect();
        assert_eq!(bodies, [want, want]);
    }
}

#[tokio::test]
async fn a_body_counts_once_against_the_routes_limit() {
    let upstream = Choosy::start(&["0"]).await;
    let world = world(upstream.scripted.address, &format!("max_body = 1000\n{INJECT}")).await;
    assert_eq!(status(&world.post(&[b'b'; 1000]).await), 200);
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn a_body_that_is_not_at_hand_any_more_is_not_sent_again() {
    let upstream = Choosy::start(&["0"]).await;
    let world = world(upstream.scripted.address, INJECT).await;
    let body = vec![b'b'; KEPT + 1];
    let answer = world.post(&body).await;
    assert_eq!((status(&answer), body_of(&answer)), (401, "stale"), "the upstream's own answer");
    assert_eq!((upstream.tokens(), world.replaced()), (vec!["Bearer ann-0".to_owned()], 1));
    assert_eq!(status(&world.post(&body).await), 200, "the next one has the new token");
    assert_eq!(upstream.tokens(), ["Bearer ann-0", "Bearer ann-1"]);
}

#[tokio::test]
async fn a_second_401_is_the_answer() {
    let upstream = Choosy::start(&["0", "1"]).await;
    let world = world(upstream.scripted.address, INJECT).await;
    let answer = world.post(b"body").await;
    assert_eq!((status(&answer), body_of(&answer)), (401, "stale"));
    assert_eq!(upstream.tokens(), ["Bearer ann-0", "Bearer ann-1"]);
    assert_eq!(world.replaced(), 1, "one request has one token replaced");
}

#[tokio::test]
async fn a_401_that_cannot_be_helped_is_the_answer_unless_the_connection_is_gone() {
    let reason = "hunter2".to_owned();
    for (fault, want, code) in [
        (InjectFault::ReconnectNeeded, 403, "reconnect_needed"),
        (InjectFault::NotConnected, 403, "connection_required"),
        (InjectFault::Unavailable { reason: reason.clone(), retry_after: None }, 401, "stale"),
        (InjectFault::Failed(reason), 401, "stale"),
    ] {
        let upstream = Choosy::start(&["0"]).await;
        let world = world(upstream.scripted.address, INJECT).await;
        *world.injector.second_fault.lock().unwrap() = Some(fault);
        let answer = world.post(b"body").await;
        assert_eq!(status(&answer), want, "{answer}");
        assert!(answer.contains(code) && !answer.contains("hunter2"), "{answer}");
        assert_eq!(upstream.tokens(), ["Bearer ann-0"]);
        let decision = if want == 403 { code } else { "allowed" };
        assert_eq!(world.meter.0.lock().unwrap().pop().unwrap(), decision);
    }
}

#[tokio::test]
async fn a_body_still_on_its_way_goes_on_to_the_second_attempt() {
    let second = Arc::new(Notify::new());
    let whole = Arc::new(Mutex::new(Vec::new()));
    let upstream = {
        let (second, whole) = (Arc::clone(&second), Arc::clone(&whole));
        Scripted::start(move |mut stream| {
            let (second, whole) = (Arc::clone(&second), Arc::clone(&whole));
            async move {
                let head = read_head(&mut stream).await;
                if head.contains("Bearer ann-0") {
                    let early = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(early).await.unwrap();
                    // Until the gateway is done with this connection.
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    return;
                }
                second.notify_one();
                let body = read_body(&mut stream, &head).await;
                *whole.lock().unwrap() = body;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
        })
        .await
    };
    let world = world(upstream.address, INJECT).await;
    let mut client = TcpStream::connect(world.address).await.unwrap();
    let head = format!("POST /x HTTP/1.1\r\nHost: app.test\r\n{ANN}Content-Length: 10\r\n\r\n01234");
    client.write_all(head.as_bytes()).await.unwrap();
    tokio::time::timeout(PATIENCE, second.notified()).await.expect("no second attempt");
    client.write_all(b"56789").await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(*whole.lock().unwrap(), b"0123456789");
}

#[tokio::test]
async fn many_401s_at_once_bring_one_new_token() {
    const CALLERS: usize = 12;
    let (together, tokens) = (Arc::new(Barrier::new(CALLERS)), Arc::new(Mutex::new(Vec::new())));
    let upstream = {
        let (together, tokens) = (Arc::clone(&together), Arc::clone(&tokens));
        Scripted::start(move |mut stream| {
            let (together, tokens) = (Arc::clone(&together), Arc::clone(&tokens));
            async move {
                loop {
                    let head = read_head(&mut stream).await;
                    let Some(token) = field(&head, "authorization") else { return };
                    tokens.lock().unwrap().push(token.to_owned());
                    let stale = token.ends_with("-0");
                    if stale {
                        // Every request is under way with the old token before the first one is refused.
                        together.wait().await;
                    }
                    let status = if stale { "401 Unauthorized" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    };
    let world = world(upstream.address, INJECT).await;
    let answers = futures::future::join_all((0..CALLERS).map(|_| world.post(b"body"))).await;
    assert!(answers.iter().all(|answer| status(answer) == 200), "{answers:#?}");
    assert_eq!(world.replaced(), 1);
    let tokens = tokens.lock().unwrap();
    let of = |token: &str| tokens.iter().filter(|seen| *seen == token).count();
    assert_eq!((of("Bearer ann-0"), of("Bearer ann-1")), (CALLERS, CALLERS));
}

#[tokio::test]
async fn a_websocket_is_opened_with_the_providers_token() {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&tokens);
    let upstream = Scripted::start(move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            // Looks at the handshake before the library reads it.
            let mut buffer = vec![0; 4096];
            let head = loop {
                let read = stream.peek(&mut buffer).await.unwrap();
                if let Some(end) = find(&buffer[..read], b"\r\n\r\n") {
                    break String::from_utf8_lossy(&buffer[..end]).into_owned();
                }
                tokio::task::yield_now().await;
            };
            let token = field(&head, "authorization").unwrap_or_default().to_owned();
            kept.lock().unwrap().push(token.clone());
            if token.ends_with("-0") {
                read_head(&mut stream).await;
                let refused = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(refused).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() && socket.send(message).await.is_err() {
                    break;
                }
            }
        }
    })
    .await;
    let world = world(upstream.address, INJECT).await;
    let mut request = "ws://app.test/x".into_client_request().unwrap();
    request.headers_mut().insert("authorization", "Bearer ann".parse().unwrap());
    let stream = TcpStream::connect(world.address).await.unwrap();
    let opening = tokio_tungstenite::client_async(request, stream);
    let (mut socket, _) = tokio::time::timeout(PATIENCE, opening).await.unwrap().unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    let echoed = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(echoed.into_text().unwrap(), "hello");
    assert_eq!(*tokens.lock().unwrap(), ["Bearer ann-0", "Bearer ann-1"]);
}

#[tokio::test]
async fn over_http_2_it_is_the_same() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let upstream = Scripted::start(move |stream| {
        let kept = Arc::clone(&kept);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let (parts, mut stream) = request.into_parts();
                    let mut body = Vec::new();
                    while let Some(Ok(chunk)) = stream.data().await {
                        let _ = stream.flow_control().release_capacity(chunk.len());
                        body.extend_from_slice(&chunk);
                    }
                    let token = parts.headers["authorization"].to_str().unwrap().to_owned();
                    let status = if token.ends_with("-0") { 401 } else { 200 };
                    kept.lock().unwrap().push((token, body));
                    let response = http::Response::builder().status(status).body(()).unwrap();
                    let mut answer = respond.send_response(response, false).unwrap();
                    answer.send_data(bytes::Bytes::from_static(b"from the upstream"), true).unwrap();
                });
            }
        }
    })
    .await;
    let world = world(upstream.address, &format!("http2 = true\n{INJECT}")).await;
    let answer = world.post(b"body").await;
    assert_eq!(status(&answer), 200, "{answer}");
    let wanted = ["Bearer ann-0", "Bearer ann-1"].map(|token| (token.to_owned(), b"body".to_vec()));
    assert_eq!(*seen.lock().unwrap(), wanted);
    assert_eq!(world.replaced(), 1);
}

#[tokio::test]
async fn a_body_of_an_http_2_client_has_one_end_in_both_attempts() {
    for pieces in [&["one", "", "two", ""][..], &[""]] {
        let upstream = Choosy::start(&["0"]).await;
        let world = world(upstream.scripted.address, INJECT).await;
        let (mut client, connection) =
            h2::client::handshake(TcpStream::connect(world.address).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        // Twice, because what is left over would stand in front of the second request.
        for _ in 0..2 {
            let (name, value) = ANN.trim().split_once(": ").unwrap();
            let request = http::Request::post("http://app.test/x").header(name, value).body(()).unwrap();
            client = tokio::time::timeout(PATIENCE, client.ready()).await.unwrap().unwrap();
            let (response, mut sending) = client.send_request(request, false).unwrap();
            for (number, piece) in pieces.iter().enumerate() {
                let last = number + 1 == pieces.len();
                sending.send_data(bytes::Bytes::from_static(piece.as_bytes()), last).unwrap();
            }
            let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
            assert_eq!(response.status(), 200, "{pieces:?}");
        }
        let seen = upstream.seen();
        assert_eq!(seen.len(), 3, "{pieces:?}");
        for request in seen {
            assert!(request.head.starts_with("POST /x HTTP/1.1\r\n"), "{}", request.head);
            assert_eq!(request.body, pieces.concat().as_bytes(), "{pieces:?}");
        }
    }
}

/// While the first attempt got nowhere, the user has ended the connection.
#[tokio::test]
async fn a_further_attempt_takes_no_token_of_a_connection_that_has_ended() {
    let world = world(nowhere(), &format!("retries = 3\n{INJECT}")).await;
    assert_eq!(status(&world.get(ANN).await), 502);
    assert_eq!(world.injector.asked.load(Ordering::SeqCst), 4, "once for each attempt");
    world.injector.lasts.store(5, Ordering::SeqCst);
    let answer = world.get(ANN).await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert!(answer.contains("connection_required"), "{answer}");
    assert_eq!(world.injector.asked.load(Ordering::SeqCst), 6);
    assert_eq!(world.meter.0.lock().unwrap().pop().unwrap(), "connection_required");
}

/// Requests of many callers, interleaved on one connection on either side.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_who_share_a_connection_share_no_token() {
    const CALLERS: usize = 40;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let upstream = Scripted::start(move |stream| {
        let kept = Arc::clone(&kept);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let of = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
                let (caller, token) = (of("x-auth-subject"), of("authorization"));
                let status = if token.ends_with("-0") { 401 } else { 200 };
                kept.lock().unwrap().push((caller, token.clone()));
                let response = http::Response::builder().status(status).body(()).unwrap();
                respond.send_response(response, false).unwrap().send_data(token.into(), true).unwrap();
            }
        }
    })
    .await;
    let world = world(upstream.address, &format!("http2 = true\n{INJECT}")).await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let asking = (0..CALLERS).map(|number| {
        let client = client.clone();
        async move {
            let request = http::Request::get("http://app.test/x")
                .version(http::Version::HTTP_2)
                .header("authorization", format!("Bearer caller{number}"));
            let mut client = client.ready().await.unwrap();
            let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            let mut response = response.await.unwrap();
            let told = response.body_mut().data().await.unwrap().unwrap();
            assert_eq!(
                (response.status().as_u16(), &*told),
                (200, format!("Bearer caller{number}-1").as_bytes())
            );
        }
    });
    tokio::time::timeout(PATIENCE, futures::future::join_all(asking)).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), CALLERS * 2);
    for (caller, token) in &*seen {
        assert!(token.starts_with(&format!("Bearer {caller}-")), "{caller} went with {token}");
    }
}

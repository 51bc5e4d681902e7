//! What ends an exchange under way: a revocation, a reload that makes its route stricter, and, well after the
//! token's expiry, the end of its session or of the time that the route gives it.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use palisade::edge::clock::SystemClock;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Clock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::{AT_ONCE, one_route};
use crate::support::keys::{Key, jwks, now};
use crate::support::neighbours::{Scripted, mint, operate, read_head, read_until, revoke, until_metrics_say};
use crate::support::{Gateway, PATIENCE, status};

/// An app whose exchanges never end by themselves: what it says at once depends on the path.
pub(super) struct App {
    pub(super) upstream: Scripted,
    /// The path of each exchange that has begun, and of each with a closed connection.
    pub(super) begun: mpsc::UnboundedReceiver<String>,
    gone: mpsc::UnboundedReceiver<String>,
    /// Lets what ends in `/open` say one more word.
    pub(super) more: Arc<Notify>,
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n";

fn first_words(path: &str) -> String {
    let kind = match path {
        "/ndjson" => "Content-Type: application/x-ndjson\r\n",
        "/multipart" => "Content-Type: multipart/x-mixed-replace; boundary=b\r\n",
        "/grpc" => "Content-Type: application/grpc\r\n",
        "/download" => return "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun".to_owned(),
        "/unframed" => return "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbegun".to_owned(),
        path if path.ends_with("/open") => "",
        // Uploads, and an answer that is long in coming.
        _ => return String::new(),
    };
    format!("HTTP/1.1 200 OK\r\n{kind}{CHUNKED}")
}

impl App {
    pub(super) async fn start() -> App {
        let (began, begun) = mpsc::unbounded_channel();
        let (went, gone) = mpsc::unbounded_channel();
        let more = Arc::new(Notify::new());
        let told = Arc::clone(&more);
        let upstream = Scripted::start(move |mut stream| {
            let (began, went, told) = (began.clone(), went.clone(), Arc::clone(&told));
            async move {
                let head = read_head(&mut stream).await;
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                if path.starts_with("/upload") {
                    read_until(&mut stream, "begun").await;
                }
                let _ = stream.write_all(first_words(&path).as_bytes()).await;
                let _ = began.send(path.clone());
                let mut rest = [0; 1024];
                loop {
                    tokio::select! {
                        read = stream.read(&mut rest) => if !matches!(read, Ok(1..)) { break },
                        () = told.notified(), if path.ends_with("/open") => {
                            let _ = stream.write_all(b"4\r\nmore\r\n").await;
                        }
                    }
                }
                let _ = went.send(path);
            }
        })
        .await;
        App { upstream, begun, gone, more }
    }
}

pub(super) async fn next(from: &mut mpsc::UnboundedReceiver<String>) -> String {
    timeout(PATIENCE, from.recv()).await.expect("it neither began nor ended").unwrap()
}

/// Begins an exchange, and returns once the app is in the middle of it.
pub(super) async fn begin(gateway: &Gateway, app: &mut App, path: &str, token: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (method, body) = match path {
        "/upload" => ("POST", "Content-Length: 1000000\r\n\r\nbegun"),
        "/upload-chunked" => ("PUT", "Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"),
        _ => ("GET", "\r\n"),
    };
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    // Its body ends only with the connection.
    let version = if path == "/unframed" { "HTTP/1.0" } else { "HTTP/1.1" };
    let request = format!("{method} {path} {version}\r\nHost: app.test\r\n{token}{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(next(&mut app.begun).await, path);
    if first_words(path).is_empty() {
        return stream;
    }
    let head = read_until(&mut stream, "begun").await;
    assert_eq!(status(&head), 200, "{path}: {head}");
    stream
}

/// Reads until the exchange is over, which it is by now, and cannot look whole.
pub(super) async fn ended(mut stream: TcpStream, path: &str) {
    let mut rest = Vec::new();
    let read = timeout(AT_ONCE, stream.read_to_end(&mut rest)).await;
    let read = read.unwrap_or_else(|_| panic!("{path}: still open"));
    let broken = read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    assert!(broken, "{path}: a cut exchange must not look whole: {rest:?}");
}

/// It goes on: one more word arrives.
pub(super) async fn goes_on(stream: &mut TcpStream, app: &App) {
    app.more.notify_one();
    let rest = read_until(stream, "more").await;
    assert!(rest.contains("more"), "it has ended: {rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_every_kind_of_exchange_and_no_other() {
    let mut app = App::start().await;
    let gateway = Gateway::start(&one_route(app.upstream.address, "auth = \"required\"")).await;
    let (alice, bob) = (mint(&gateway, "alice").await, mint(&gateway, "bob").await);
    let mut other = begin(&gateway, &mut app, "/open", Some(&bob)).await;
    let kinds =
        ["/ndjson", "/multipart", "/grpc", "/download", "/unframed", "/upload", "/upload-chunked", "/silent"];
    let mut open = Vec::new();
    for path in kinds {
        open.push((path, begin(&gateway, &mut app, path, Some(&alice)).await));
    }
    revoke(&gateway, &alice).await;
    for (path, stream) in open {
        ended(stream, path).await;
    }
    // The app is not left working for a client that is gone, and no connection to it is used again.
    let mut gone = HashSet::new();
    for _ in kinds {
        gone.insert(next(&mut app.gone).await);
    }
    assert_eq!(gone, kinds.map(str::to_owned).into());
    goes_on(&mut other, &app).await;
    until_metrics_say(&gateway, "palisade_decisions_total{decision=\"ended_revoked\"} 8").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_one_stream_of_an_http2_connection_and_not_the_others() {
    let mut app = App::start().await;
    let gateway = Gateway::start(&one_route(app.upstream.address, "auth = \"required\"")).await;
    let (alice, bob) = (mint(&gateway, "alice").await, mint(&gateway, "bob").await);
    let tcp = TcpStream::connect(gateway.address()).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut open = Vec::new();
    for (path, token) in [("/ndjson", &alice), ("/grpc", &alice), ("/open", &bob)] {
        let request = http::Request::get(format!("http://app.test{path}"))
            .version(http::Version::HTTP_2)
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .unwrap();
        let mut ready = client.clone().ready().await.unwrap();
        let (response, _) = ready.send_request(request, true).unwrap();
        let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "begun");
        assert_eq!(next(&mut app.begun).await, path);
        open.push((path, response));
    }
    let (_, mut other) = open.pop().unwrap();
    revoke(&gateway, &alice).await;
    for (path, mut response) in open {
        let rest = timeout(AT_ONCE, response.body_mut().data()).await;
        let rest = rest.unwrap_or_else(|_| panic!("{path}: still open"));
        assert!(matches!(rest, Some(Err(_))), "{path}: a cut stream must not look whole: {rest:?}");
    }
    app.more.notify_one();
    assert_eq!(timeout(PATIENCE, other.body_mut().data()).await.unwrap().unwrap().unwrap(), "more");
}

async fn reload_with(gateway: &Gateway, routes: &str) {
    let file = gateway.folder.path().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let kept = text.split("[[routes]]").next().unwrap();
    std::fs::write(&file, format!("{kept}{routes}")).unwrap();
    operate(gateway, "/admin/v1/reload", &Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_what_its_routes_admit_no_more() {
    let mut app = App::start().await;
    let address = app.upstream.address;
    let gateway = Gateway::start(&one_route(address, "auth = \"optional\"")).await;
    let alice = mint(&gateway, "alice").await;
    let stranger = begin(&gateway, &mut app, "/download", None).await;
    let mut kept = begin(&gateway, &mut app, "/open", Some(&alice)).await;
    let narrowed = begin(&gateway, &mut app, "/ndjson", Some(&alice)).await;
    // The same again, in other words, ends nothing.
    reload_with(&gateway, &one_route(address, "auth = \"optional\"\nretries = 2")).await;
    goes_on(&mut kept, &app).await;
    // A token is needed now, and one path wants a scope.
    let narrower = format!(
        "[[routes]]\nname = \"narrow\"\nmatch = {{ path = \"/ndjson\" }}\nupstream = [\"http://{address}\"]\n\
         require = {{ scopes = [\"read\"] }}\n"
    );
    reload_with(&gateway, &format!("{}{narrower}", one_route(address, "auth = \"required\""))).await;
    ended(stranger, "no token").await;
    ended(narrowed, "no scope").await;
    goes_on(&mut kept, &app).await;
    until_metrics_say(&gateway, "palisade_decisions_total{decision=\"ended_route_changed\"} 2").await;
    // The route is gone.
    reload_with(&gateway, &one_route(address, "").replace("path = \"/\"", "path = \"/elsewhere\"")).await;
    ended(kept, "no route").await;
}

/// The machine's clock, ahead by what a test says.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Ahead {
    fn by(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl Clock for Ahead {
    fn now(&self) -> UnixTime {
        SystemClock.now().plus(Duration::from_secs(self.0.load(Ordering::Relaxed)))
    }
}

const THEIRS: &str = "https://i.test";
const HOUR: u64 = 3600;
/// Longer than any expiry is waited for once its time has come.
const SOON: Duration = PATIENCE;

/// A token of another issuer that lives for ten minutes. Its subject has the form of our own.
fn theirs(key: &Key, session: Option<&str>) -> String {
    let sub = "00000000-0000-4000-8000-000000000001";
    let mut claims = json!({"iss": THEIRS, "aud": "api", "sub": sub, "exp": now() + 600, "iat": now()});
    if let Some(session) = session {
        claims["sid"] = json!(session);
    }
    key.token(&claims)
}

/// A gateway with accounts, tokens of another issuer, and three routes: an hour after expiry, none, and ten hours.
async fn expiring(app: &App, clock: &Arc<Ahead>) -> (Gateway, Key, tempfile::TempDir) {
    let key = Key::ed("theirs");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("theirs.json"), jwks(&[&key])).unwrap();
    let address = app.upstream.address;
    let strict = |path: &str, after: &str| {
        format!(
            "[[routes]]\nname = \"{}\"\nmatch = {{ path = \"{path}\" }}\nupstream = [\"http://{address}\"]\n\
             streams = {{ after_expiry = \"{after}\" }}\n",
            path.trim_start_matches('/')
        )
    };
    let extra = format!(
        "[tokens]\naccess_ttl = \"5m\"\nrefresh_ttl = \"2h\"\n[sessions]\nabsolute_ttl = \"3h\"\n\
         [passwords]\nbcrypt_cost = 4\n[limits]\nenabled = false\n[mail]\ntransport = \"file:./outbox\"\n\
         [[issuers]]\nissuer = \"{THEIRS}\"\njwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"EdDSA\"]\n\
         {}{}{}",
        folder.path().join("theirs.json").display(),
        one_route(address, ""),
        strict("/multipart", "0s"),
        strict("/grpc", "10h"),
    );
    let gateway = Gateway::start_by(Arc::clone(clock) as Arc<dyn Clock>, &extra).await;
    (gateway, key, folder)
}

/// The access token of a user who has just signed in.
async fn sign_in(gateway: &Gateway) -> (String, String) {
    let account = json!({"email": "ann@example.com", "password": "Correct horse 42", "email_verified": true});
    operate(gateway, "/admin/v1/users", &account).await;
    let body = json!({"email": "ann@example.com", "password": "Correct horse 42"}).to_string();
    let request = format!(
        "POST /auth/login HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = gateway.send(request).await;
    let tokens: Value = serde_json::from_str(crate::support::body_of(&answer)).unwrap();
    let text = |name: &str| tokens[name].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (text("access_token"), text("refresh_token"))
}

/// Waits until every look at expiries that was due when this was called has been taken: exchanges that are looked at
/// later are ended by now.
async fn looked(gateway: &Gateway, app: &mut App, clock: &Ahead, key: &Key, at: u64) {
    for _ in 0..2 {
        // Two in turn: the first may belong to a round that had passed the others by.
        clock.by(0);
        let token = theirs(key, None);
        let witness = begin(gateway, app, "/multipart", Some(&token)).await;
        clock.by(at);
        over(witness, "the witness").await;
    }
}

/// Like [`ended`], where the gateway may take a moment to look.
async fn over(mut stream: TcpStream, why: &str) {
    let mut rest = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut rest)).await;
    let read = read.unwrap_or_else(|_| panic!("{why}: still open"));
    assert!(read.is_err(), "{why}: a cut exchange must not look whole: {rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_without_an_issuer_ends_what_its_tokens_opened() {
    let mut app = App::start().await;
    let (gateway, key, _folder) = expiring(&app, &Arc::new(Ahead::default())).await;
    let foreign = begin(&gateway, &mut app, "/ndjson", Some(&theirs(&key, None))).await;
    let alice = mint(&gateway, "alice").await;
    let mut own = begin(&gateway, &mut app, "/open", Some(&alice)).await;
    let file = gateway.folder.path().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, issuer) = text.split_once("[[issuers]]").unwrap();
    let routes = &issuer[issuer.find("[[routes]]").unwrap()..];
    std::fs::write(&file, format!("{before}{routes}")).unwrap();
    operate(&gateway, "/admin/v1/reload", &Value::Null).await;
    ended(foreign, "of an issuer that is gone").await;
    goes_on(&mut own, &app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_outlives_its_token_while_its_session_lives() {
    let mut app = App::start().await;
    let clock = Arc::new(Ahead::default());
    let (gateway, key, _folder) = expiring(&app, &clock).await;
    let (access, refresh) = sign_in(&gateway).await;
    // A strict route says nothing about sessions.
    let mut open = begin(&gateway, &mut app, "/open", Some(&access)).await;
    let strict = begin(&gateway, &mut app, "/multipart", Some(&access)).await;
    looked(&gateway, &mut app, &clock, &key, HOUR + HOUR / 2).await;
    goes_on(&mut open, &app).await;
    let stale = gateway.get("/", &format!("Authorization: Bearer {access}\r\n")).await;
    assert_eq!(status(&stale), 401, "the token itself has expired: {stale}");
    // Signing out ends it although its token has long expired.
    let body = json!({"refresh_token": refresh}).to_string();
    let logout = format!(
        "POST /auth/logout HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(status(&gateway.send(logout).await), 204);
    ended(open, "signed out").await;
    ended(strict, "signed out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_ends_with_a_session_that_ends_by_itself() {
    let mut app = App::start().await;
    let clock = Arc::new(Ahead::default());
    let (gateway, key, _folder) = expiring(&app, &clock).await;
    let (access, _) = sign_in(&gateway).await;
    let mut open = begin(&gateway, &mut app, "/open", Some(&access)).await;
    looked(&gateway, &mut app, &clock, &key, HOUR).await;
    goes_on(&mut open, &app).await;
    // The client has not used the refresh token for two hours.
    clock.by(2 * HOUR + 1);
    over(open, "the session has ended").await;
    until_metrics_say(&gateway, "palisade_decisions_total{decision=\"ended_expired\"} 3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_of_ours_the_route_says_for_how_long() {
    let mut app = App::start().await;
    let clock = Arc::new(Ahead::default());
    let (gateway, key, _folder) = expiring(&app, &clock).await;
    // A `sid` of another issuer is no session of ours, and a token that an operator mints has none.
    let session = "00000000-0000-4000-8000-000000000002";
    let (foreign, minted) = (theirs(&key, Some(session)), mint(&gateway, "alice").await);
    let bobs = mint(&gateway, "bob").await;
    let revoked = begin(&gateway, &mut app, "/silent", Some(&bobs)).await;
    let strict = begin(&gateway, &mut app, "/multipart", Some(&foreign)).await;
    let hour = begin(&gateway, &mut app, "/ndjson", Some(&foreign)).await;
    let minted_hour = begin(&gateway, &mut app, "/download", Some(&minted)).await;
    let upload = begin(&gateway, &mut app, "/upload", Some(&minted)).await;
    let long = begin(&gateway, &mut app, "/grpc", Some(&foreign)).await;
    let mut anonymous_like = begin(&gateway, &mut app, "/open", Some(&foreign)).await;
    clock.by(601);
    over(strict, "\"0s\"").await;
    looked(&gateway, &mut app, &clock, &key, 601 + HOUR / 2).await;
    goes_on(&mut anonymous_like, &app).await;
    // A token that has expired long ago can still be revoked.
    revoke(&gateway, &bobs).await;
    ended(revoked, "revoked after its expiry").await;
    clock.by(601 + HOUR);
    for (stream, why) in [
        (hour, "an hour by default"),
        (minted_hour, "minted by an operator"),
        (upload, "an upload"),
        (anonymous_like, "an hour by default"),
    ] {
        over(stream, why).await;
    }
    // A reload that makes the route stricter counts for what is open already.
    let address = app.upstream.address;
    reload_with(&gateway, &one_route(address, "streams = { after_expiry = \"0s\" }")).await;
    over(long, "stricter by a reload").await;
}

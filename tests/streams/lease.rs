//! What the end of the lease of the revocations does to what is under way: what a credential opened ends, unless its route
//! has `fail = "open"`, and what is public goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use palisade::edge::clock::SystemClock;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Clock;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::ended::{App, begin, ended, goes_on, next};
use super::{AT_ONCE, echo, exchange, one_route, websocket};
use crate::support::neighbours::{Scripted, mint, read_head, read_until, until_metrics_say};
use crate::support::{Gateway, PATIENCE, body_of, field, status};

/// The right time, and an uptime that only a test moves: in seconds.
struct Uptime(AtomicU64);

impl Uptime {
    fn by(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for Uptime {
    fn now(&self) -> UnixTime {
        SystemClock.now()
    }

    fn uptime(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.0.load(Ordering::SeqCst)))
    }
}

/// A gateway whose revocations are believed for five seconds of the returned uptime.
async fn leased(routes: &str) -> (Gateway, Arc<Uptime>) {
    let uptime = Arc::new(Uptime(AtomicU64::new(1000)));
    let gateway = Gateway::start_by(Arc::clone(&uptime) as _, routes).await;
    confirm(&gateway, &uptime);
    (gateway, uptime)
}

/// Confirms the revocations for five seconds from now on.
fn confirm(gateway: &Gateway, uptime: &Uptime) {
    gateway.running.revocations.believe_until(uptime.uptime().unwrap() + Duration::from_secs(5));
}

fn with_public(app: &App, keys: &str) -> String {
    let address = app.upstream.address;
    format!(
        "{}[[routes]]\nname = \"public\"\nmatch = {{ path = \"/public\" }}\nupstream = [\"http://{address}\"]\nauth = \"none\"\n",
        one_route(address, keys)
    )
}

async fn ready(gateway: &Gateway) -> (u16, Value) {
    gateway.admin("GET", "/readyz", &Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_lease_ends_what_credentials_opened_and_nothing_else() {
    let mut app = App::start().await;
    let (gateway, uptime) = leased(&with_public(&app, "auth = \"optional\"")).await;
    let alice = mint(&gateway, "alice").await;
    let mut public = begin(&gateway, &mut app, "/public/open", None).await;
    let kinds =
        ["/ndjson", "/multipart", "/grpc", "/download", "/unframed", "/upload", "/upload-chunked", "/silent"];
    let mut open = Vec::new();
    for path in kinds {
        open.push((path, begin(&gateway, &mut app, path, Some(&alice)).await));
    }
    let mut anonymous = begin(&gateway, &mut app, "/open", None).await;
    uptime.by(4);
    confirm(&gateway, &uptime);
    uptime.by(4);
    assert_eq!(ready(&gateway).await.0, 200);
    uptime.by(1);
    for (path, stream) in open {
        ended(stream, path).await;
    }
    goes_on(&mut public, &app).await;
    goes_on(&mut anonymous, &app).await;
    until_metrics_say(&gateway, "palisade_decisions_total{decision=\"ended_stale\"} 8").await;
    until_metrics_say(&gateway, "palisade_revocations_stale 1").await;
    until_metrics_say(&gateway, "palisade_revocations_stale_episodes_total 1").await;
    let (code, why) = ready(&gateway).await;
    assert_eq!(
        (code, &why["because"][0]),
        (503, &"the revocations are not confirmed any more: the lease is over".into())
    );
    assert_eq!(gateway.admin("GET", "/livez", &Value::Null).await.0, 200);

    let ask = format!(
        "GET / HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {alice}\r\nConnection: close\r\n\r\n"
    );
    let refused = gateway.send(&ask).await;
    assert_eq!((status(&refused), field(&refused, "retry-after")), (503, Some("2")), "{refused}");
    let body: Value = serde_json::from_str(body_of(&refused)).unwrap();
    assert_eq!(body["code"], "revocations_stale", "{refused}");
    confirm(&gateway, &uptime);
    assert_eq!(ready(&gateway).await.0, 200);
    begin(&gateway, &mut app, "/ndjson", Some(&alice)).await;
    until_metrics_say(&gateway, "palisade_revocations_stale 0").await;
    until_metrics_say(&gateway, "palisade_revocations_lease_seconds 5").await;
    // The store has lost some: whatever is confirmed later, they are not relied on.
    gateway.running.revocations.close("the feed went back");
    confirm(&gateway, &uptime);
    assert_eq!(status(&gateway.send(&ask).await), 503);
    let because = ready(&gateway).await.1["because"][0].to_string();
    assert!(because.contains("the feed went back"), "{because}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_lease_ends_the_streams_of_an_http2_connection() {
    let mut app = App::start().await;
    let (gateway, uptime) = leased(&with_public(&app, "auth = \"required\"")).await;
    let alice = mint(&gateway, "alice").await;
    let tcp = TcpStream::connect(gateway.address()).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut open = Vec::new();
    for (path, token) in [("/grpc", Some(&alice)), ("/public/open", None)] {
        let mut request = http::Request::get(format!("http://app.test{path}")).version(http::Version::HTTP_2);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut ready = client.clone().ready().await.unwrap();
        let (response, _) = ready.send_request(request.body(()).unwrap(), true).unwrap();
        let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "begun");
        assert_eq!(next(&mut app.begun).await, path);
        open.push(response);
    }
    uptime.by(5);
    let rest = timeout(AT_ONCE, open[0].body_mut().data()).await.expect("still open");
    assert!(matches!(rest, Some(Err(_))), "a cut stream must not look whole: {rest:?}");
    app.more.notify_one();
    assert_eq!(timeout(PATIENCE, open[1].body_mut().data()).await.unwrap().unwrap().unwrap(), "more");
}

/// The task that ends exchanges looks twenty times a second; no byte passes before it does.
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_passes_after_the_end_of_the_lease() {
    let mut app = App::start().await;
    for _ in 0..5 {
        let (gateway, uptime) = leased(&with_public(&app, "auth = \"required\"")).await;
        let alice = mint(&gateway, "alice").await;
        let mut stream = begin(&gateway, &mut app, "/open", Some(&alice)).await;
        uptime.by(5);
        app.more.notify_one();
        let rest = read_until(&mut stream, "more").await;
        assert!(!rest.contains("more"), "{rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_is_taken_up_after_the_end_of_the_lease() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let begun = Arc::new(Notify::new());
    let upstream = {
        let begun = Arc::clone(&begun);
        Scripted::start(move |mut stream| {
            let (told, begun) = (told.clone(), Arc::clone(&begun));
            async move {
                read_head(&mut stream).await;
                read_until(&mut stream, "begun").await;
                begun.notify_one();
                let _ = told.send(read_until(&mut stream, "more").await);
            }
        })
        .await
    };
    for _ in 0..5 {
        let (gateway, uptime) = leased(&one_route(upstream.address, "auth = \"required\"")).await;
        let alice = mint(&gateway, "alice").await;
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {alice}\r\nContent-Length: 9\r\n\r\nbegun"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        begun.notified().await;
        uptime.by(5);
        stream.write_all(b"more").await.unwrap();
        assert_eq!(timeout(PATIENCE, heard.recv()).await.unwrap().unwrap(), "");
        ended(stream, "upload").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_carries_nothing_after_the_end_of_the_lease() {
    let (upstream, _seen) = echo().await;
    let (gateway, uptime) = leased(&one_route(upstream.address, "auth = \"required\"")).await;
    let alice = mint(&gateway, "alice").await;
    let bearer = ("authorization", format!("Bearer {alice}"));
    let mut socket = websocket(&gateway, "/ws", &[bearer]).await.unwrap();
    exchange(&mut socket, "here").await;
    uptime.by(5);
    // It may be closed by now.
    let _ = socket.send(Message::text("still here")).await;
    let rest = timeout(AT_ONCE, socket.next()).await.expect("still open");
    assert!(matches!(rest, None | Some(Err(_))), "{rest:?}");
}

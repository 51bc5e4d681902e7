//! WebSockets that a session cookie opened: who may open one, what keeps the session alive, and what ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Clock;
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;

use super::{AT_ONCE, echo, exchange, websocket};
use crate::support::keys::now;
use crate::support::{Gateway, PATIENCE, status};

const PASSWORD: &str = "Correct horse 42";
const HOUR: u64 = 3600;

struct Moved(AtomicU64);

impl Clock for Moved {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::Relaxed))
    }
}

/// Signs Ann in at a browser: `name=value` of the session cookie.
async fn sign_in(gateway: &Gateway) -> String {
    let body = json!({"email": "ann@example.com", "password": PASSWORD, "session": "cookie"}).to_string();
    let answer = gateway
        .send(format!(
            "POST /auth/login HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert_eq!(status(&answer), 204, "{answer}");
    let line = answer.lines().find_map(|line| line.split_once("palisade=").map(|(_, rest)| rest)).unwrap();
    format!("palisade={}", line.split(';').next().unwrap())
}

fn from(origin: &str, cookie: &str) -> [(&'static str, String); 3] {
    [("host", "localhost:8080".to_owned()), ("origin", origin.to_owned()), ("cookie", cookie.to_owned())]
}

const OWN: &str = "http://localhost:8080";

async fn start(clock: &Arc<Moved>, upstream: std::net::SocketAddr) -> Gateway {
    let route = |name: &str, keys: &str| crate::support::route(name, upstream, keys);
    let routes = [route("used", "auth = \"required\""), route("unused", "auth = \"required\"\nuse = false")];
    let extra = format!("[passwords]\nbcrypt_cost = 4\n{}", routes.concat());
    let gateway = Gateway::start_by(Arc::clone(clock) as _, &extra).await;
    let account = json!({"email": "ann@example.com", "password": PASSWORD, "email_verified": true});
    assert_eq!(gateway.admin("POST", "/admin/v1/users", &account).await.0, 201);
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_a_use_and_without_one_the_socket_ends_with_its_session() {
    let (upstream, _seen) = echo().await;
    let begin = now();
    let clock = Arc::new(Moved(AtomicU64::new(begin)));
    let gateway = start(&clock, upstream.address).await;
    let (used, unused) = (sign_in(&gateway).await, sign_in(&gateway).await);
    let mut kept = websocket(&gateway, "/used", &from(OWN, &used)).await.unwrap();
    let mut left = websocket(&gateway, "/unused", &from(OWN, &unused)).await.unwrap();
    // The idle end is twelve hours after the last use.
    clock.0.store(begin + 11 * HOUR, Ordering::Relaxed);
    exchange(&mut kept, "a use").await;
    exchange(&mut left, "none").await;
    clock.0.store(begin + 13 * HOUR, Ordering::Relaxed);
    let ended = timeout(PATIENCE, left.next()).await.unwrap();
    assert!(!matches!(ended, Some(Ok(ref message)) if message.is_text()), "{ended:?}");
    exchange(&mut kept, "alive").await;
    clock.0.store(begin + 26 * HOUR, Ordering::Relaxed);
    let ended = timeout(PATIENCE, kept.next()).await.unwrap();
    assert!(!matches!(ended, Some(Ok(ref message)) if message.is_text()), "{ended:?}");
    for cookie in [used, unused] {
        let Err(Error::Http(answer)) = websocket(&gateway, "/used", &from(OWN, &cookie)).await else {
            panic!("its session is over")
        };
        assert_eq!(answer.status(), 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_for_the_sites_own_pages_and_ends_with_a_revocation() {
    let (upstream, _seen) = echo().await;
    let clock = Arc::new(Moved(AtomicU64::new(now())));
    let gateway = start(&clock, upstream.address).await;
    let cookie = sign_in(&gateway).await;
    for origin in ["http://evil.test", "null", "https://localhost:8080"] {
        let Err(Error::Http(answer)) = websocket(&gateway, "/used", &from(origin, &cookie)).await else {
            panic!("{origin}")
        };
        assert_eq!(answer.status(), 403, "{origin}");
    }
    let fields = from(OWN, &cookie);
    let Err(Error::Http(answer)) =
        websocket(&gateway, "/used", &[fields[0].clone(), fields[2].clone()]).await
    else {
        panic!("it says nothing of where it comes from")
    };
    assert_eq!(answer.status(), 403);
    let mut socket = websocket(&gateway, "/used", &fields).await.unwrap();
    exchange(&mut socket, "open").await;
    let users = gateway.admin("GET", "/admin/v1/users", &json!(null)).await.1;
    let user = users["users"][0]["id"].as_str().unwrap_or_else(|| panic!("{users}"));
    let revoked = gateway.admin("POST", "/admin/v1/revocations", &json!({"sub": user})).await;
    assert!(revoked.0 < 300, "{revoked:?}");
    let ended = timeout(AT_ONCE, socket.next()).await.expect("it ends within a second");
    assert!(!matches!(ended, Some(Ok(ref message)) if message.is_text()), "{ended:?}");
}

//! Requests that come back to the gateway that forwarded them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::net::{TcpListener, TcpStream};

use crate::support::{Gateway, Upstream, body_of, field, status};

/// How many connections a relay carries at most, so that a loop that is not detected comes to an end.
const MOST: usize = 20;

/// Carries bytes to an address that is known only later, as another proxy would; counts the connections.
struct Relay {
    address: SocketAddr,
    to: Arc<OnceLock<SocketAddr>>,
    carried: Arc<AtomicUsize>,
}

impl Relay {
    async fn start() -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to, carried) = (Arc::new(OnceLock::new()), Arc::new(AtomicUsize::new(0)));
        let (target, count) = (Arc::clone(&to), Arc::clone(&carried));
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if count.fetch_add(1, Ordering::Relaxed) >= MOST {
                    return;
                }
                let target: SocketAddr = *target.get().unwrap();
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Relay { address, to, carried }
    }
}

async fn gateway(upstream: SocketAddr, http2: bool) -> Gateway {
    let route = format!(
        "[[routes]]\nname = \"app\"\nupstream = [\"http://{upstream}\"]\nauth = \"none\"\nhttp2 = {http2}\n"
    );
    Gateway::start(&route).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_back_is_refused() {
    for http2 in [false, true] {
        let relay = Relay::start().await;
        let gateway = gateway(relay.address, http2).await;
        relay.to.set(gateway.address()).unwrap();
        let answer = gateway.get("/", "").await;
        assert_eq!(status(&answer), 508, "{answer}");
        assert_eq!(field(&answer, "content-type"), Some("application/problem+json"), "{answer}");
        let document: serde_json::Value = serde_json::from_str(body_of(&answer)).unwrap();
        assert_eq!(
            (&document["code"], &document["title"]),
            (&"loop_detected".into(), &"Loop Detected".into())
        );
        assert_eq!(relay.carried.load(Ordering::Relaxed), 1);
        // What a caller writes does not hide it.
        for forged in [
            "Connection: close\r\nPalisade-Hops: x",
            "Connection: close\r\npalisade_hops: 0123456789abcdef",
            "Connection: Palisade-Hops, close",
        ] {
            let answer = gateway.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{forged}\r\n\r\n")).await;
            assert_eq!(status(&answer), 508, "{forged}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_two_gateways_is_noticed_and_a_chain_is_not_one() {
    let relay = Relay::start().await;
    let inner = gateway(relay.address, false).await;
    let outer = gateway(inner.address(), false).await;
    relay.to.set(outer.address()).unwrap();
    assert_eq!(status(&outer.get("/", "").await), 508);
    assert_eq!(relay.carried.load(Ordering::Relaxed), 1);

    let upstream = Upstream::start().await;
    let inner = gateway(upstream.address, false).await;
    let outer = gateway(inner.address(), false).await;
    let forged = "Palisade-Hops: <script>, 0123456789abcdef\r\nPalisade_Hops: evil\r\n";
    assert_eq!(status(&outer.get("/", forged).await), 200);
    let seen = upstream.only();
    let names: Vec<&str> = field(&seen, "palisade-hops").unwrap().split(", ").collect();
    let is_name = |name: &&str| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(names.len() == 3 && names.iter().all(is_name) && names[1] != names[2], "{seen}");
    assert!(!seen.contains("evil") && !seen.contains("script"), "{seen}");
}

//! The listeners of the operator, `server.admin` and `server.health`: their connections with deadlines, and the names that
//! the admin listener answers to.
//!
//! A client that says nothing, or one byte a minute, must not hold what `/livez` needs. And a page in the operator's
//! browser whose name was made to point at this machine (DNS rebinding) must not be answered by the admin listener: it
//! sends its own name as `Host`. An address is no such name, so probes that know the listener by its address need no
//! configuration. The health listener has nothing that such a page could change, and answers to every name.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use futures::FutureExt as _;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use super::super::failure::Failure;
use super::operator::Peer;
use super::slots::{Slot, Slots};
use palisade_core::domain::pattern::HostPattern;
use palisade_core::domain::request::Host;

/// The largest header section, in bytes.
const MAX_HEADER: usize = 32 * 1024;
/// How long to wait when the machine has no descriptor left.
const AGAIN: Duration = Duration::from_millis(20);

/// What the clients of one listener are held to.
#[derive(Clone, Copy)]
struct Bounds {
    /// What the configuration calls the listener.
    key: &'static str,
    /// Connections at once. When there is no room, the oldest one without a whole request head is closed for a new one;
    /// while all are being answered, a new one waits.
    connections: usize,
    /// Connections of one peer address, see [`Slots`].
    of_peer: usize,
    /// How long a header section may take; also how long a connection may be idle between two requests.
    header: Duration,
    /// How long a connection may take, which then serves one request. `None`: as long as it goes on asking.
    whole: Option<Duration>,
}

/// An operator's call may take its time.
const ADMIN: Bounds = Bounds {
    key: "server.admin",
    connections: 256,
    of_peer: 256,
    header: Duration::from_secs(10),
    whole: None,
};
/// Everything in reach may connect here, so a client that does not read its answer has an end as well, and all of them
/// together take half of the fewest descriptors that are kept from proxied traffic. A liveness probe that is not answered
/// restarts the process, so idle clients must not make it wait.
const HEALTH: Bounds = Bounds {
    key: "server.health",
    connections: 32,
    of_peer: 4,
    header: Duration::from_secs(5),
    whole: Some(Duration::from_secs(10)),
};

/// Serves the admin API on `listener` until the task is dropped. `hosts` are the names that requests may be for, beside
/// addresses and `localhost`; `*.` begins a pattern.
pub async fn serve(listener: TcpListener, router: Router, hosts: Vec<HostPattern>) {
    // Health and metrics too: they are not for a page in the operator's browser.
    let router = router.layer(middleware::from_fn_with_state(Arc::from(hosts), only_our_hosts));
    serve_within(ADMIN, listener, router).await;
}

/// Serves probes and scrapers on `listener` until the task is dropped, whatever their `Host` is.
pub async fn serve_health(listener: TcpListener, router: Router) {
    serve_within(HEALTH, listener, router).await;
}

async fn serve_within(bounds: Bounds, listener: TcpListener, router: Router) {
    let slots = Slots::new(bounds.connections, bounds.of_peer);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.header).max_buf_size(MAX_HEADER);
    http.keep_alive(bounds.whole.is_none());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, listener = bounds.key, "a connection could not be accepted");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let Some(slot) = slots.take(peer.ip()).await.map(Arc::new) else { continue };
        let asked = Arc::clone(&slot);
        let router = TowerToHyperService::new(router.clone().layer(Extension(Peer(peer.ip()))));
        let service = service_fn(move |request| {
            asked.note_request();
            router.call(request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let ended = until_ended(connection, &slot);
            match bounds.whole {
                None => ended.await,
                Some(whole) => drop(tokio::time::timeout(whole, ended).await),
            }
        });
    }
}

/// Serves a connection until it ends, or makes room for another one before its first request.
async fn until_ended(connection: impl Future, slot: &Slot) {
    let mut connection = pin!(connection);
    // What a client does to its own connection is not worth a line.
    tokio::select! {
        _ = &mut connection => return,
        () = slot.asked_to_leave() => {}
    }
    // A head that has arrived counts although it has not been read, as in a burst of connections that are accepted in one
    // go: the runtime looks at its sockets before it comes back to a task that yields.
    tokio::task::yield_now().await;
    if (&mut connection).now_or_never().is_none() && !slot.is_idle() {
        connection.await;
    }
}

/// Refuses requests that are for a name which is none of ours.
async fn only_our_hosts(State(hosts): State<Arc<[HostPattern]>>, request: Request, next: Next) -> Response {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let host = match (lines.next(), lines.next()) {
        (Some(host), None) => Some(host.as_bytes()),
        // Browsers always send one; probes of old speak HTTP/1.0.
        (None, _) if request.version() == Version::HTTP_10 => None,
        _ => return host_missing().into_response(),
    };
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if host.into_iter().chain(authority).all(|host| is_ours(host, &hosts)) {
        return next.run(request).await;
    }
    host_not_ours().into_response()
}

pub(super) fn host_missing() -> Failure {
    Failure::new(400, "host_missing", "send exactly one Host")
}

pub(super) fn host_not_ours() -> Failure {
    let cure =
        "ask for this listener by its address or as localhost, or list the name in `server.admin_hosts`";
    Failure::new(421, "host_not_ours", cure)
}

/// Whether a `Host` is an address, `localhost`, or one of the names in `hosts`.
fn is_ours(host: &[u8], hosts: &[HostPattern]) -> bool {
    let Ok(host) = Host::parse(host) else { return false };
    let name = host.name();
    // RFC 6761 §6.3: localhost and what is below it never leave the machine.
    name.starts_with('[')
        || name.parse::<Ipv4Addr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || hosts.iter().any(|pattern| pattern.takes(name))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[tokio::test]
    async fn a_client_that_never_ends_its_head_is_closed_and_others_are_served() {
        for bounds in [ADMIN, HEALTH] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().route("/livez", get(|| async { "alive" }));
            let bounds = Bounds { header: Duration::from_millis(100), whole: None, ..bounds };
            tokio::spawn(serve_within(bounds, listener, router));
            let ask = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
            for beginning in ["", "G", "GET /livez HTTP/1.1\r\nHost: localhost\r\n", ask] {
                let mut slow = TcpStream::connect(address).await.unwrap();
                slow.write_all(beginning.as_bytes()).await.unwrap();
                let mut other = TcpStream::connect(address).await.unwrap();
                other.write_all(ask.as_bytes()).await.unwrap();
                let mut said = String::new();
                let read = other.read_to_string(&mut said);
                tokio::time::timeout(Duration::from_secs(20), read)
                    .await
                    .expect("an idle one is kept")
                    .unwrap();
                assert!(said.starts_with("HTTP/1.1 200"), "{said}");
                let closed = slow.read_to_string(&mut said);
                tokio::time::timeout(Duration::from_secs(20), closed)
                    .await
                    .expect("a slow one is kept")
                    .unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_probe_that_never_reads_its_answer_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // More than the buffers of a connection on one machine hold.
        let large = || async { "x".repeat(64 << 20) };
        let router = Router::new().route("/metrics", get(large)).route("/livez", get(|| async { "alive" }));
        let bounds = Bounds { connections: 1, whole: Some(Duration::from_millis(300)), ..HEALTH };
        tokio::spawn(serve_within(bounds, listener, router));
        let mut greedy = TcpStream::connect(address).await.unwrap();
        greedy.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut other = TcpStream::connect(address).await.unwrap();
        other.write_all("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2).as_bytes()).await.unwrap();
        let mut said = String::new();
        // It is answered when the one place is free again, and closed behind its first answer.
        let read = other.read_to_string(&mut said);
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the first one is kept").unwrap();
        assert_eq!(said.matches("HTTP/1.1 200").count(), 1, "{said}");
    }

    const PATIENCE: Duration = Duration::from_secs(20);
    const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";

    /// A health listener whose deadlines never come, with `/livez` and what `more` has.
    async fn health(more: Router) -> (SocketAddr, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hour = Duration::from_secs(3600);
        let bounds = Bounds { header: hour, whole: Some(hour), ..HEALTH };
        (address, serve_within(bounds, listener, more.route("/livez", get(|| async { "alive" }))))
    }

    /// A connection from 127.0.0.`peer` over which `text` has been written.
    async fn connect(peer: u8, address: SocketAddr, text: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, peer], 0).into()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Whether the connection is answered with 200 before it ends; it is closed with nothing said otherwise.
    async fn is_answered(mut stream: TcpStream) -> bool {
        let mut said = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said));
        // A connection that is closed with something unread is reset.
        let _ = read.await.expect("neither answered nor closed");
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
        !said.is_empty()
    }

    #[tokio::test]
    async fn idle_connections_make_room_for_a_probe_the_oldest_first() {
        // Every slot held by idle clients of other addresses, by those of the probe's own, and by both.
        let others: Vec<u8> = (2..10).flat_map(|peer| [peer; 4]).collect();
        let both = [&[1; 32][..], &others].concat();
        for (peers, oldest_kept) in [(others, 1), (vec![1; 32], 29), (both, 33)] {
            let (address, serve) = health(Router::new()).await;
            tokio::spawn(serve);
            let mut idle = Vec::new();
            for (number, peer) in peers.iter().enumerate() {
                let beginning = ["", "G", "GET /livez HTTP/1.1\r\nHost: a\r\n"][number % 3];
                idle.push(connect(*peer, address, beginning).await);
            }
            assert!(is_answered(connect(1, address, LIVEZ).await).await, "{peers:?}");
            let mut kept = idle.split_off(oldest_kept);
            for stream in idle {
                assert!(!is_answered(stream).await, "{peers:?}");
            }
            // Those are still served.
            let (mut newest, mut oldest) = (kept.pop().unwrap(), kept.remove(0));
            for (stream, number) in [(&mut newest, peers.len() - 1), (&mut oldest, oldest_kept)] {
                let rest = [LIVEZ, &LIVEZ[1..], "\r\n"][number % 3];
                stream.write_all(rest.as_bytes()).await.unwrap();
            }
            assert!(is_answered(newest).await && is_answered(oldest).await, "{peers:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_being_answered_is_never_closed_for_another() {
        let gate = Arc::new(Semaphore::new(0));
        let (told, mut begun) = mpsc::unbounded_channel();
        let held = Arc::clone(&gate);
        let wait = move || {
            let (held, told) = (Arc::clone(&held), told.clone());
            async move {
                told.send(()).unwrap();
                drop(held.acquire().await.unwrap());
                "waited"
            }
        };
        let (address, serve) = health(Router::new().route("/wait", get(wait))).await;
        tokio::spawn(serve);
        let mut answered = Vec::new();
        // One address may have half of the slots in this way, and each of the others four.
        for peer in [[2; 16], [3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6]].concat() {
            if answered.len() == 16 {
                assert!(!is_answered(connect(2, address, LIVEZ).await).await);
            }
            answered.push(connect(peer, address, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await);
            tokio::time::timeout(PATIENCE, begun.recv()).await.expect("not answered").unwrap();
        }
        let probe = connect(1, address, LIVEZ).await;
        gate.add_permits(1);
        assert!(is_answered(probe).await, "it waits for a slot, and no longer");
        for stream in answered {
            assert!(is_answered(stream).await);
        }
    }

    #[tokio::test]
    async fn a_burst_of_probes_from_one_address_is_answered_whole() {
        let (address, serve) = health(Router::new()).await;
        let mut burst = Vec::new();
        for _ in 0..40 {
            burst.push(connect(1, address, LIVEZ).await);
        }
        tokio::spawn(serve);
        for stream in burst {
            assert!(is_answered(stream).await);
        }
    }

    #[test]
    fn addresses_and_localhost_are_ours_and_names_only_when_listed() {
        let hosts = ["palisade", "*.svc.cluster.local"].map(HostPattern::of);
        for host in [
            "127.0.0.1",
            "127.0.0.1:9180",
            "10.42.0.7:9180",
            "[::1]:9180",
            "[fd00::7]",
            "localhost:9180",
            "LOCALHOST.",
            "a.localhost",
            "palisade:9180",
            "Palisade",
            "palisade.prod.svc.cluster.local:9180",
        ] {
            assert!(is_ours(host.as_bytes(), &hosts), "{host}");
        }
        for host in [
            "",
            "evil.test",
            "evil.test:9180",
            "localhost.evil.test",
            "notlocalhost",
            "127.0.0.1.evil.test",
            "127.0.0.1@evil.test",
            "svc.cluster.local",
            "evilsvc.cluster.local",
            "palisade.evil.test",
            "0x7f.1",
            "2130706433",
        ] {
            assert!(!is_ours(host.as_bytes(), &hosts), "{host}");
        }
    }
}

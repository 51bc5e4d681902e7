//! The limits of the machine: descriptors and memory run out for clients before they do for the operator.

use std::path::Path;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Version};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::binary::Program;
use crate::support::neighbours::{Scripted, read_head, read_until};
use crate::support::{PATIENCE, exchange, routes, status};

fn configure(folder: &Path, server: &str, rest: &str) {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n{server}\n[log]\naccess = false\n\
         [store]\nurl = \"sled:./data\"\n{rest}"
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

/// Reads requests and never answers.
async fn silent() -> Scripted {
    Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await
}

async fn client(program: &Program, driven: &mut JoinSet<()>) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(program.listen).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    driven.spawn(async move { drop(connection.await) });
    client
}

/// What came of many requests at once: the statuses of those that were answered, as they come.
struct Flood {
    statuses: mpsc::UnboundedReceiver<u16>,
    _clients: Vec<SendRequest<Bytes>>,
    /// The connections, which end with this.
    _driven: JoinSet<()>,
}

impl Flood {
    /// Opens `streams` on each of `connections`, with a further field of `bytes` bytes on each.
    async fn of(program: &Program, connections: usize, streams: usize, bytes: usize) -> Flood {
        let (told, statuses) = mpsc::unbounded_channel();
        let (mut clients, mut driven) = (Vec::new(), JoinSet::new());
        for _ in 0..connections {
            let client = client(program, &mut driven).await;
            for _ in 0..streams {
                let request = Request::get("http://app.test/slow")
                    .version(Version::HTTP_2)
                    .header("x-padding", "a".repeat(bytes))
                    .body(())
                    .unwrap();
                let mut ready = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
                let (response, _) = ready.send_request(request, true).unwrap();
                let told = told.clone();
                tokio::spawn(async move {
                    let Ok(mut response) = response.await else { return };
                    let mut body = Vec::new();
                    while let Some(Ok(chunk)) = response.body_mut().data().await {
                        let _ = response.body_mut().flow_control().release_capacity(chunk.len());
                        body.extend_from_slice(&chunk);
                    }
                    assert!(String::from_utf8_lossy(&body).contains("\"overloaded\""), "{response:?}");
                    assert_eq!(response.headers()["retry-after"], "1");
                    let _ = told.send(response.status().as_u16());
                });
            }
            clients.push(client);
        }
        Flood { statuses, _clients: clients, _driven: driven }
    }

    /// Waits until `all` requests have reached the upstream or were shed. How many were shed.
    async fn settle(&mut self, upstream: &Scripted, all: usize) -> usize {
        let (mut shed, mut arrivals) = (0, upstream.arrivals());
        let settled = async {
            while *arrivals.borrow_and_update() + shed < all {
                tokio::select! {
                    status = self.statuses.recv() => {
                        assert_eq!(status, Some(503));
                        shed += 1;
                    }
                    arrived = arrivals.changed() => arrived.unwrap(),
                }
            }
        };
        timeout(PATIENCE, settled).await.unwrap_or_else(|_| {
            panic!("of {all} requests {} reached the upstream and {shed} were shed", upstream.connections())
        });
        shed
    }
}

/// A token that is minted, good, revoked and refused: what must work whatever clients do.
async fn operate(program: &Program) {
    let alive = program.probe("/livez").await;
    assert_eq!(status(&alive), 200, "{alive}");
    let (code, minted) = program.admin("POST", "/admin/v1/tokens", &json!({"sub": "alice"})).await;
    assert!((200..300).contains(&code), "{code} {minted}");
    let token = minted["access_token"].as_str().unwrap();
    let (code, revoked) = program.admin("POST", "/admin/v1/revocations", &json!({"token": token})).await;
    assert!((200..300).contains(&code), "{code} {revoked}");
    assert_eq!(program.status("/admin", token).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_streams_leave_descriptors_to_the_operator() {
    let upstream = silent().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "", &routes(upstream.address));
    let program = Program::start_within(folder.path(), 1024, 1024);
    let (connections, streams) = (12, 90);
    let mut flood = Flood::of(&program, connections, streams, 1).await;
    let shed = flood.settle(&upstream, connections * streams).await;
    assert!(shed > 0 && upstream.connections() > 300, "{shed} were shed");
    operate(&program).await;
    assert_eq!(program.metric("palisade_open_http2_streams").await, upstream.connections() as u64);
    assert_eq!(program.metric("palisade_open_upstream_requests").await, upstream.connections() as u64);
    let (open, limit) = (
        program.metric("palisade_open_descriptors").await,
        program.metric("palisade_descriptors_limit").await,
    );
    assert!(limit == 1024 && open < limit - 128, "{open} of {limit}");
    assert!(program.began.contains("at most"), "{}", program.began);
    // What ends makes room again.
    drop(flood);
    let again = async { while program.metric("palisade_open_upstream_requests").await > 0 {} };
    timeout(PATIENCE, again).await.expect("places of ended requests stay taken");
    let fresh = Flood::of(&program, 1, 1, 1).await;
    let reached = async { while program.metric("palisade_open_upstream_requests").await == 0 {} };
    timeout(PATIENCE, reached).await.expect("no request is taken any more");
    drop(fresh);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_idle_clients_leave_descriptors_to_the_operator() {
    let upstream = silent().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "header_timeout = \"1h\"", &routes(upstream.address));
    let program = Program::start_within(folder.path(), 256, 256);
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(TcpStream::connect(program.listen).await.unwrap());
    }
    let limit = program.metric("palisade_connections_limit").await;
    assert!(limit < 256, "{limit}");
    let full = async { while program.metric("palisade_open_connections").await < limit {} };
    timeout(PATIENCE, full).await.expect("never full");
    let told = read_until(idle.last_mut().unwrap(), "}").await;
    assert_eq!(status(&told), 503, "{told}");
    assert!(told.contains("\"overloaded\"") && told.contains("retry-after: 1\r\n"), "{told}");
    let all = async {
        let line = format!("palisade_connections_refused_total{{reason=\"limit\"}} {}\n", 400 - limit);
        while !program.probe("/metrics").await.contains(&line) {}
    };
    timeout(PATIENCE, all).await.expect("not every shed connection was counted");
    let alive = program.probe("/livez").await;
    assert_eq!(status(&alive), 200, "{alive}");
    drop(idle);
    let again = async { while program.status("/admin", "none").await != 401 {} };
    timeout(PATIENCE, again).await.expect("places of closed connections stay taken");
    operate(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let upstream = silent().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "", &routes(upstream.address));
    let program = Program::start_within(folder.path(), 200, 4096);
    assert_eq!(program.metric("palisade_descriptors_limit").await, 4096);
    let line = program.began.lines().find(|line| line.contains("file descriptors")).unwrap().to_owned();
    assert!(line.contains("\"4096\"") && line.contains("\"200\""), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_serves_nobody_is_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "", "");
    let mut command = std::process::Command::new("sh");
    let script = "ulimit -n 64 && exec \"$0\" run --config \"$1\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_palisade")]).arg(folder.path().join("config.toml"));
    let said = crate::support::binary::refused(&mut command);
    assert!(said.contains("RLIMIT_NOFILE") && said.contains("128"), "{said}");
}

/// Resident memory in bytes.
fn resident(program: &Program) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

const REQUEST_MEMORY: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_hold_no_more_memory_than_they_may() {
    let upstream = silent().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), &format!("max_request_memory = {REQUEST_MEMORY}"), &routes(upstream.address));
    let program = Program::start(folder.path());
    // What is made once is there.
    assert_eq!(program.status("/admin", "none").await, 401);
    let before = resident(&program);
    let (connections, streams, bytes) = (20, 100, 14_000);
    let mut flood = Flood::of(&program, connections, streams, bytes).await;
    let shed = flood.settle(&upstream, connections * streams).await;
    let held = program.metric("palisade_request_memory_bytes").await;
    assert!(held <= REQUEST_MEMORY && held > REQUEST_MEMORY / 2, "{held}");
    assert!(shed > 1500, "{shed}");
    let grown = resident(&program).saturating_sub(before);
    println!("{grown} bytes for {} requests, {shed} shed", upstream.connections());
    assert!(grown < 64 << 20, "grown by {grown} bytes");
    operate(&program).await;
    drop(flood);
    let free = async { while program.metric("palisade_request_memory_bytes").await > 0 {} };
    timeout(PATIENCE, free).await.expect("memory of ended requests stays taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_heads_hold_no_more_memory_than_they_may() {
    let upstream = silent().await;
    let folder = tempfile::tempdir().unwrap();
    let server = "max_request_memory = \"4MiB\"\nheader_timeout = \"1h\"";
    configure(folder.path(), server, &routes(upstream.address));
    let program = Program::start(folder.path());
    let part = format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Padding: {}", "a".repeat(30_000));
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(program.listen).await.unwrap();
        stream.write_all(part.as_bytes()).await.unwrap();
        open.push(stream);
    }
    // 60,000 bytes and more each.
    until_shed(&program, 200 - 70, "unfinished heads are not shed").await;
    operate_with_room(&program, open).await;
}

/// Waits until at least `least` requests were shed; then no more memory is taken than the 4 MiB that are allowed.
async fn until_shed(program: &Program, least: u64, otherwise: &str) {
    let line = "palisade_decisions_total{decision=\"overloaded\"} ";
    let shed = async {
        loop {
            let text = program.probe("/metrics").await;
            let count = text.lines().find_map(|found| found.strip_prefix(line)?.parse::<u64>().ok());
            if count.is_some_and(|count| count >= least) {
                break;
            }
        }
    };
    timeout(PATIENCE, shed).await.expect(otherwise);
    assert!(program.metric("palisade_request_memory_bytes").await <= 4 << 20);
}

/// With every byte taken a short request may be shed too; once the others are gone it is not.
async fn operate_with_room(program: &Program, open: Vec<TcpStream>) {
    assert_eq!(status(&program.probe("/livez").await), 200);
    drop(open);
    let free = async { while program.metric("palisade_request_memory_bytes").await > 0 {} };
    timeout(PATIENCE, free).await.expect("memory of closed connections stays taken");
    let answer =
        exchange(program.listen, "GET /admin HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), 401, "{answer}");
    operate(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_bodies_holds_no_more_memory_than_it_may() {
    let upstream = silent().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "max_request_memory = \"4MiB\"", &routes(upstream.address));
    let program = Program::start(folder.path());
    // Of each, 64 KiB are kept; heads alone would leave room for more than a hundred.
    let request =
        format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 70000\r\n\r\n{}", "b".repeat(69_000));
    let mut open = Vec::new();
    for _ in 0..80 {
        let mut stream = TcpStream::connect(program.listen).await.unwrap();
        // The gateway may have answered already.
        let _ = stream.write_all(request.as_bytes()).await;
        open.push(stream);
    }
    until_shed(&program, 80 - 43, "bodies are kept beyond the bound").await;
    operate_with_room(&program, open).await;
}

//! A gateway whose database answers nothing: it serves until its lease is over, then only what `fail = "open"` or no credential
//! lets through; what changes anything is answered in time; and the gateway that revokes is told of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::app::{self, Options, RunningGateway};
use palisade::config;
use palisade_testing::postgres::{Cluster, Database, Wire};
use serde_json::{Value, json};

use super::gateways::{VAULT, credential};
use crate::support::{self, PATIENCE, Upstream, body_of, exchange, field, status};

/// `store.max_staleness` of every gateway here.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// Beyond its lease a gateway is waited for this long at most by what revokes, and this is a busy machine.
const SLACK: Duration = Duration::from_secs(3);

pub(super) struct Gateway {
    pub(super) running: RunningGateway,
    credential: String,
    _folder: Arc<tempfile::TempDir>,
}

impl Gateway {
    pub(super) async fn start(database: &Database, url: &str, upstream: SocketAddr, lax: &str) -> Gateway {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let started = Gateway::start_in(&folder, database, url, upstream, lax, Options::default()).await;
        started.unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts one with the folder that another one may have had.
    pub(super) async fn start_in(
        folder: &Arc<tempfile::TempDir>,
        database: &Database,
        url: &str,
        upstream: SocketAddr,
        lax: &str,
        options: Options,
    ) -> Result<Gateway, String> {
        let text = format!(
            "public_url = \"http://localhost:8080\"\n\
             [server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
             [store]\nurl = {url:?}\nmax_staleness = \"2s\"\n[vault]\nkeys = [\"env:VAULT\"]\n[passwords]\nbcrypt_cost = 4\n{}{}{}",
            support::route("app", upstream, ""),
            support::route("lax", upstream, lax),
            support::route("public", upstream, "auth = \"none\"")
        );
        let file = folder.path().join("config.toml");
        std::fs::write(&file, &text).unwrap();
        let env = |name: &str| (name == "VAULT").then(|| VAULT.to_owned());
        let config = config::parse(&text, &file, &env).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let running = app::start(config, options).await?;
        Ok(Gateway { running, credential: credential(database), _folder: Arc::clone(folder) })
    }

    pub(super) async fn ask(&self, target: &str, token: &str) -> String {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        exchange(self.running.listen[0], request).await
    }

    /// What a browser gets that opens a page with this field.
    async fn open(&self, target: &str, field: &str) -> String {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost:8080\r\n{field}\r\nSec-Fetch-Mode: navigate\r\n\
             Sec-Fetch-Dest: document\r\nSec-Fetch-Site: none\r\nAccept: text/html,*/*;q=0.8\r\nConnection: close\r\n\r\n"
        );
        exchange(self.running.listen[0], request).await
    }

    /// The fields of the answer to a gRPC call.
    async fn call(&self, path: &str, token: &str) -> http::HeaderMap {
        let stream = tokio::net::TcpStream::connect(self.running.listen[0]).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://localhost:8080{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        answer.headers().clone()
    }

    pub(super) async fn get(&self, target: &str, token: &str) -> u16 {
        status(&self.ask(target, token).await)
    }

    pub(super) async fn post(&self, target: &str, body: &Value) -> String {
        let body = body.to_string();
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        exchange(self.running.listen[0], request).await
    }

    pub(super) async fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        support::admin(self.running.admin, &self.credential, method, path, body).await
    }

    pub(super) async fn mint(&self) -> String {
        let (code, minted) = self.admin("POST", "/admin/v1/tokens", &json!({"sub": "a"})).await;
        assert_eq!(code, 201, "{minted}");
        minted["access_token"].as_str().unwrap().to_owned()
    }

    pub(super) async fn until(&self, target: &str, token: &str, wanted: u16) {
        let end = Instant::now() + PATIENCE;
        loop {
            let answered = self.get(target, token).await;
            if answered == wanted {
                return;
            }
            assert!(Instant::now() < end, "{target}: {answered} instead of {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_without_its_database_serves_until_its_lease_is_over_and_recovers() {
    let database = Cluster::shared().database().await;
    let upstream = Upstream::start().await;
    let wire = Wire::to(Cluster::shared().address()).await;
    let whole = Gateway::start(&database, &database.url(), upstream.address, "").await;
    let url = database.url_at(wire.address);
    let apart = Gateway::start(&database, &url, upstream.address, "fail = \"open\"").await;
    let (token, other) = (whole.mint().await, whole.mint().await);
    for target in ["/app/x", "/lax/x"] {
        assert_eq!(apart.get(target, &token).await, 200, "{target}");
    }

    wire.hold();
    let held = Instant::now();
    assert_eq!(apart.get("/app/x", &token).await, 200, "its lease goes on");
    let revoking = async {
        let begun = Instant::now();
        let answer = whole.admin("POST", "/admin/v1/revocations", &json!({"token": token})).await;
        (answer, begun.elapsed())
    };
    let served = async {
        apart.until("/app/x", &token, 503).await;
        held.elapsed()
    };
    let changing = async {
        let begun = Instant::now();
        let login = json!({"email": "ann@example.com", "password": "Horse-Battery-9!"});
        (apart.post("/auth/login", &login).await, begun.elapsed())
    };
    let (((code, revoked), took), refused_after, (login, answered_after)) =
        tokio::join!(revoking, served, changing);
    assert!(refused_after <= LEASE + Duration::from_millis(500), "{refused_after:?}");
    assert_eq!(code, 201, "{revoked}");
    assert!(
        took >= refused_after && took <= LEASE + SLACK,
        "acknowledged after {took:?}, refused after {refused_after:?}"
    );
    let acknowledged = &revoked["acknowledged"];
    assert_eq!(
        (&acknowledged["by"], &acknowledged["confirmed"]),
        (&json!("replicas"), &json!(1)),
        "{revoked}"
    );
    let open = acknowledged["open"].as_array().unwrap();
    let admin = apart.running.admin.to_string();
    assert!(open.len() == 1, "{acknowledged} names the one at {admin}");
    assert_eq!((status(&login), field(&login, "retry-after")), (503, Some("1")), "{login}");
    assert!(answered_after <= Duration::from_secs(15), "{answered_after:?}");

    let refused = apart.ask("/app/x", &other).await;
    assert_eq!((status(&refused), field(&refused, "retry-after")), (503, Some("2")), "{refused}");
    let problem: Value = serde_json::from_str(body_of(&refused)).unwrap();
    assert_eq!(problem["code"], "revocations_stale");
    assert_eq!(apart.get("/auth/me", &other).await, 503, "the native endpoints are closed");
    assert_eq!(apart.get("/lax/x", &other).await, 200);
    assert_eq!(apart.get("/lax/x", &token).await, 200, "it serves on, as the answer to the revocation says");
    assert_eq!(apart.get("/public/x", &token).await, 200);
    assert_eq!(apart.admin("GET", "/livez", &Value::Null).await.0, 200);
    assert_eq!(apart.admin("GET", "/readyz", &Value::Null).await.0, 503);
    assert_eq!(whole.get("/app/x", &other).await, 200, "the other one has its database");
    assert_eq!(whole.get("/lax/x", &token).await, 401);

    wire.restore();
    apart.until("/app/x", &other, 200).await;
    assert_eq!(apart.get("/app/x", &token).await, 401, "believed again, it knows all that was revoked");
    assert_eq!(apart.get("/lax/x", &token).await, 401);
    assert_eq!(apart.admin("GET", "/readyz", &Value::Null).await.0, 200);
}

/// The refusal in the words of who is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_the_lease_is_over_a_browser_gets_a_page_and_a_grpc_call_its_status() {
    let database = Cluster::shared().database().await;
    let upstream = Upstream::start().await;
    let wire = Wire::to(Cluster::shared().address()).await;
    let gateway = Gateway::start(&database, &database.url_at(wire.address), upstream.address, "").await;
    gateway.make_account().await;
    let token = gateway.mint().await;
    let login = json!({"email": "ann@example.com", "password": "Horse-Battery-9!", "session": "cookie"});
    let answer = gateway.post("/auth/login", &login).await;
    let cookie = field(&answer, "set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let (bearer, cookie) = (format!("Authorization: Bearer {token}"), format!("Cookie: {cookie}"));
    assert_eq!(status(&gateway.open("/app/x", &cookie).await), 200);

    wire.hold();
    gateway.until("/app/x", &token, 503).await;
    for field_of_caller in [&bearer, &cookie] {
        let page = gateway.open("/app/x", field_of_caller).await;
        assert_eq!((status(&page), field(&page, "retry-after")), (503, Some("2")), "{page}");
        assert!(field(&page, "content-type").unwrap().starts_with("text/html"), "{page}");
        assert_eq!(field(&page, "cache-control"), Some("no-store"), "{page}");
        assert!(field(&page, "set-cookie").is_none(), "the session stays: {page}");
        let text = body_of(&page);
        assert!(text.contains("<title>") && !text.contains("revocations_stale"), "{text}");
    }
    let fields = gateway.call("/app/x.Echo/Unary", &token).await;
    assert_eq!(fields["grpc-status"], "14", "{fields:?}");
    assert!(fields["grpc-message"].to_str().unwrap().starts_with("revocations_stale: "), "{fields:?}");
    // A call that needs no credential is none of this.
    assert_eq!(status(&gateway.open("/public/x", "X-Nothing: 1").await), 200);
    wire.restore();
    gateway.until("/app/x", &token, 200).await;
    assert_eq!(status(&gateway.open("/app/x", &cookie).await), 200);
}

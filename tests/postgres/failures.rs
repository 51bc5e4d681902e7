//! What becomes of gateways when their database fails: the rows of the table in `docs/replicas.md` that need a database of
//! their own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::app::{Accept, Options};
use palisade::edge::postgres::connect::DatabasePool;
use palisade_testing::postgres::{Cluster, Database, Wire};
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::commits::until;
use super::gateways::{VAULT, credential};
use super::lease::{Gateway, LEASE};
use crate::place::settings;
use crate::place::value;
use crate::support::binary::{Program, palisade, run};
use crate::support::{PATIENCE, Upstream, body_of, exchange, field, status};

/// What a busy machine may add to a lease before a test sees its end.
const SLACK: Duration = Duration::from_secs(1);
/// The longest that an answer may take whose commit is not made, by the documentation: the time of the statement.
pub(super) const REFUSED_WITHIN: Duration = Duration::from_secs(15);
const PASSWORD: &str = "Horse-Battery-9!";
/// How many connections of the database wait for a standby.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// Changes a setting of a server that runs.
async fn alter(client: &Client, change: &str) {
    client.simple_query(&format!("ALTER SYSTEM {change}")).await.unwrap();
    client.simple_query("SELECT pg_reload_conf()").await.unwrap();
}

/// A primary, and a standby that it waits for.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    database: Database,
}

impl Pair {
    async fn start() -> Pair {
        let primary = Cluster::start();
        let database = primary.database().await;
        let standby = primary.standby("second");
        let client = database.client().await;
        // After the copy was made, which waits for no standby of its own.
        alter(&client, "SET synchronous_standby_names = 'second'").await;
        until(&client, "SELECT sync_state FROM pg_stat_replication", "sync").await;
        Pair { primary, standby, database }
    }

    /// `store.url` with both hosts; the primary's is `primary`.
    fn url(&self, primary: std::net::SocketAddr) -> String {
        format!("postgres://palisade@{primary},{}/{}", self.standby.address(), self.database.name)
    }

    async fn standby_client(&self) -> Client {
        self.standby.database_named(&self.database.name).client().await
    }
}

impl Gateway {
    /// How a revocation is answered, and after which time.
    pub(super) async fn revoke(&self, what: &Value) -> (u16, Duration) {
        let begun = Instant::now();
        let (code, _) = self.admin("POST", "/admin/v1/revocations", what).await;
        (code, begun.elapsed())
    }

    /// Revokes a token as a client does that tries again.
    pub(super) async fn revoke_until_acknowledged(&self, token: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.revoke(&json!({"token": token})).await.0 {
                201 => return,
                503 => assert!(Instant::now() < end, "no write is acknowledged"),
                other => panic!("{other}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn sign_in(&self) -> String {
        self.post("/auth/login", &json!({"email": "ann@example.com", "password": PASSWORD})).await
    }

    pub(super) async fn make_account(&self) {
        let account = json!({"email": "ann@example.com", "password": PASSWORD, "email_verified": true});
        let (code, made) = self.admin("POST", "/admin/v1/users", &account).await;
        assert_eq!(code, 201, "{made}");
    }

    pub(super) async fn ready(&self) -> (u16, Value) {
        self.admin("GET", "/readyz", &Value::Null).await
    }

    pub(super) async fn until_ready(&self) {
        let end = Instant::now() + PATIENCE;
        while let (code @ 503, why) = self.ready().await {
            assert!(Instant::now() < end, "{code} {why}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Nothing can be written: until the lease that `since` has begun is over, tokens are judged, and then no more.
    pub(super) async fn fails_closed(&self, token: &str, revoked: &str, since: Instant) {
        self.until("/app/x", token, 503).await;
        assert!(since.elapsed() <= LEASE + SLACK, "{:?}", since.elapsed());
        let begun = Instant::now();
        let answer = self.sign_in().await;
        assert_eq!((status(&answer), field(&answer, "retry-after")), (503, Some("1")), "{answer}");
        assert!(begun.elapsed() < REFUSED_WITHIN, "{:?}", begun.elapsed());
        let (code, took) = self.revoke(&json!({"token": token})).await;
        assert!(code == 503 && took < REFUSED_WITHIN, "{code} after {took:?}");
        assert_ne!(self.get("/app/x", revoked).await, 200);
        assert_eq!(self.ready().await.0, 503);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failover_to_a_standby_that_was_waited_for_loses_nothing() {
    let pair = Pair::start().await;
    let upstream = Upstream::start().await;
    let url = pair.url(pair.primary.address());
    let gateway = Gateway::start(&pair.database, &url, upstream.address, "").await;
    let (token, revoked) = (gateway.mint().await, gateway.mint().await);
    gateway.make_account().await;
    assert_eq!(gateway.revoke(&json!({"token": revoked})).await.0, 201);
    assert_eq!(gateway.get("/app/x", &token).await, 200);

    pair.primary.kill();
    let killed = Instant::now();
    assert_eq!(gateway.get("/app/x", &token).await, 200, "its lease goes on");
    // The standby answers reads meanwhile.
    gateway.fails_closed(&token, &revoked, killed).await;
    let standby = pair.standby_client().await;
    assert_eq!(value(&standby, "SELECT count(*) FROM palisade.users").await, "1");

    pair.standby.promote().await;
    gateway.until_ready().await;
    assert_eq!(gateway.get("/app/x", &token).await, 200);
    assert_eq!(gateway.get("/app/x", &revoked).await, 401);
    let answer = gateway.sign_in().await;
    assert_eq!(status(&answer), 200, "{answer}");
    gateway.revoke_until_acknowledged(&token).await;
    assert_eq!(gateway.get("/app/x", &token).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_primary_that_was_left_behind_is_not_believed_though_it_answers_reads() {
    let pair = Pair::start().await;
    let upstream = Upstream::start().await;
    // Each has its own way to the former primary, and both know of the next one.
    let (way, other_way) = (Wire::to(pair.primary.address()).await, Wire::to(pair.primary.address()).await);
    let behind = Gateway::start(&pair.database, &pair.url(way.address), upstream.address, "").await;
    let moved = Gateway::start(&pair.database, &pair.url(other_way.address), upstream.address, "").await;
    let (token, other) = (moved.mint().await, moved.mint().await);
    for gateway in [&behind, &moved] {
        assert_eq!(gateway.get("/app/x", &token).await, 200);
    }
    let (former, next) = (pair.database.client().await, pair.standby_client().await);

    pair.standby.promote().await;
    other_way.cut();
    moved.revoke_until_acknowledged(&token).await;
    // From the acknowledgement on, and for longer than any lease that was given before it.
    let acknowledged = Instant::now();
    while acknowledged.elapsed() < LEASE + SLACK {
        assert_eq!(behind.get("/app/x", &token).await, 503);
        assert_eq!(behind.get("/app/x", &other).await, 503);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(moved.get("/app/x", &token).await, 401);
    let count = "SELECT count(*) FROM palisade.revocations";
    assert_eq!((&*value(&former, count).await, &*value(&next, count).await), ("0", "1"));
    assert_eq!(value(&former, "SELECT pg_is_in_recovery()").await, "f");
    assert_eq!(behind.ready().await.0, 503);

    way.cut();
    behind.until("/app/x", &other, 200).await;
    assert_eq!(behind.get("/app/x", &token).await, 401);
    behind.until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_its_only_synchronous_standby_nothing_is_acknowledged_until_it_is_back() {
    let pair = Pair::start().await;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&pair.database, &pair.database.url(), upstream.address, "").await;
    let (token, revoked) = (gateway.mint().await, gateway.mint().await);
    gateway.make_account().await;
    assert_eq!(gateway.revoke(&json!({"token": revoked})).await.0, 201);

    pair.standby.kill();
    // Among what is refused is a revocation of this token, which the primary may have all the same.
    gateway.fails_closed(&token, &revoked, Instant::now()).await;
    pair.standby.restart();
    gateway.until_ready().await;
    assert_eq!(gateway.get("/app/x", &revoked).await, 401);
    gateway.revoke_until_acknowledged(&token).await;
    assert_eq!(gateway.get("/app/x", &token).await, 401);
    let client = pair.database.client().await;
    until(&client, WAITING, "0").await;
}

/// A confirmation has less time than a message to the database has.
#[tokio::test]
async fn what_a_caller_leaves_is_ended_in_the_database_too() {
    let cluster = Cluster::start();
    let database = cluster.database().await;
    let client = database.client().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    alter(&client, "SET synchronous_standby_names = 'absent'").await;
    let pool = DatabasePool::new(settings(&database.url())).unwrap();
    // Until the setting has reached a connection, it does not wait.
    loop {
        let written = pool.write("INSERT INTO t VALUES (1)");
        let waits = until(&client, WAITING, "1");
        tokio::select! {
            written = written => drop(written.unwrap()),
            () = waits => break,
        }
    }
    until(&client, WAITING, "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_is_read_only_or_out_of_connections_is_got_over() {
    let cluster = Cluster::plan().set("max_connections", "40").start();
    let database = cluster.database().await;
    let upstream = Upstream::start().await;
    let gateway = &Gateway::start(&database, &database.url(), upstream.address, "").await;
    let (token, revoked) = (gateway.mint().await, gateway.mint().await);
    gateway.make_account().await;
    assert_eq!(gateway.revoke(&json!({"token": revoked})).await.0, 201);
    let client = database.client().await;

    alter(&client, "SET default_transaction_read_only = on").await;
    until(&client, "SHOW default_transaction_read_only", "on").await;
    gateway.fails_closed(&token, &revoked, Instant::now()).await;
    alter(&client, "RESET default_transaction_read_only").await;
    gateway.until_ready().await;
    assert_eq!(gateway.get("/app/x", &token).await, 200);
    assert_eq!(gateway.get("/app/x", &revoked).await, 401);
    assert_eq!(status(&gateway.sign_in().await), 200);

    let mut tokens = Vec::new();
    for _ in 0..24 {
        tokens.push(gateway.mint().await);
    }
    let url = cluster.database_named("postgres").url();
    let mut foreign = Vec::new();
    let refused = loop {
        match tokio_postgres::connect(&url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                foreign.push(client);
            }
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{refused}");
    let begun = Instant::now();
    let served = async {
        while begun.elapsed() < LEASE * 2 {
            assert_eq!(gateway.get("/app/x", &token).await, 200, "it keeps the connections that it has");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // More at once than it has connections for.
    let revoking = tokens.iter().map(|token| async move {
        let (code, took) = gateway.revoke(&json!({"token": token})).await;
        assert!(matches!(code, 201 | 503) && took < REFUSED_WITHIN, "{code} after {took:?}");
        code == 201
    });
    let (acknowledged, ()) = tokio::join!(futures::future::join_all(revoking), served);
    for (token, _) in tokens.iter().zip(&acknowledged).filter(|(_, acknowledged)| **acknowledged) {
        assert_eq!(gateway.get("/app/x", token).await, 401);
    }
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err(), "connections were free");
    drop(foreign);
    gateway.until_ready().await;
    for token in &tokens {
        gateway.revoke_until_acknowledged(token).await;
        assert_eq!(gateway.get("/app/x", token).await, 401);
    }
}

/// Copies the folder of a server that does not run, with its owners and modes.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-R", "-p"]).args([from, to]).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_was_restored_is_served_from_by_an_operators_word_alone() {
    let cluster = Cluster::start();
    let database = cluster.database().await;
    let upstream = Upstream::start().await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let start = async |store_as_it_is: bool| {
        let accept = Accept { store_as_it_is, ..Accept::default() };
        let options = Options { accept, ..Options::default() };
        Gateway::start_in(&folder, &database, &database.url(), upstream.address, "", options).await
    };
    let gateway = start(false).await.unwrap_or_else(|why| panic!("{why}"));
    gateway.make_account().await;
    let (token, lost, other) = (gateway.mint().await, gateway.mint().await, gateway.mint().await);
    gateway.revoke_until_acknowledged(&token).await;
    cluster.stop();
    let kept = tempfile::tempdir().unwrap();
    copy(&cluster.data(), &kept.path().join("data"));
    cluster.restart();
    gateway.until_ready().await;
    gateway.revoke_until_acknowledged(&lost).await;
    assert_eq!(gateway.get("/app/x", &lost).await, 401);

    cluster.stop();
    std::fs::remove_dir_all(cluster.data()).unwrap();
    copy(&kept.path().join("data"), &cluster.data());
    cluster.restart();
    let end = Instant::now() + PATIENCE;
    let why = loop {
        let (code, why) = gateway.ready().await;
        // Until it has asked, it does not know.
        if code == 503 && why.to_string().contains("lost commits") {
            break why;
        }
        assert!(Instant::now() < end, "{code} {why}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(why["because"].to_string().contains("position"), "{why}");
    // A sign-in needs no token, and what it gives is worth nothing yet.
    let answer = gateway.sign_in().await;
    assert_eq!(status(&answer), 200, "{answer}");
    let granted: Value = serde_json::from_str(body_of(&answer)).unwrap();
    let granted = granted["access_token"].as_str().unwrap();
    for token in [&*lost, &*other, granted] {
        assert_eq!(gateway.get("/app/x", token).await, 503);
    }
    let scrape =
        format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.running.admin);
    let metrics = exchange(gateway.running.admin, scrape).await;
    assert!(body_of(&metrics).lines().any(|line| line == "palisade_feed_closed 1"), "{metrics}");
    gateway.running.shutdown().await;

    let refused = start(false).await.err().unwrap();
    assert!(refused.contains("lost commits"), "{refused}");
    let gateway = start(true).await.unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(gateway.get("/app/x", &token).await, 401);
    assert_eq!(gateway.get("/app/x", &lost).await, 200, "what was lost is not known any more");
    assert_eq!(gateway.revoke(&json!({"before": "now"})).await.0, 201);
    for token in [&lost, &other] {
        assert_eq!(gateway.get("/app/x", token).await, 401);
    }
    // The word was for one start, and from it on the store is what it is.
    gateway.running.shutdown().await;
    let gateway = start(false).await.unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(gateway.get("/app/x", &lost).await, 401);
}

/// While the database is away, the log says so when it begins and does not go on to say it, and the command line needs the
/// credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_outage_of_the_database_does_not_fill_the_log_and_leaves_the_command_line_its_credential() {
    let cluster = Cluster::start();
    let database = cluster.database().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("vault"), VAULT).unwrap();
    let text = format!(
        "public_url = \"http://localhost:8080\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         [store]\nurl = {:?}\nmax_staleness = \"1s\"\n[vault]\nkeys = [\"file:vault\"]\n",
        database.url()
    );
    std::fs::write(folder.path().join("config.toml"), &text).unwrap();
    let program = tokio::task::block_in_place(|| Program::start(folder.path()));
    // For the command line, which is to know the port.
    let own = text.replace("admin = \"127.0.0.1:0\"", &format!("admin = \"{}\"", program.admin));
    std::fs::write(folder.path().join("own.toml"), own).unwrap();
    let credential = credential(&database);
    cluster.kill();
    let keys = |credential: &str| {
        let mut command = palisade();
        command.args(["keys", "list", "--config"]).arg(folder.path().join("own.toml"));
        let output = run(command.env("PALISADE_ADMIN_TOKEN", credential), "");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (is_done, why) = tokio::task::block_in_place(|| keys(""));
    let words = ["no connection to the database", "or set PALISADE_ADMIN_TOKEN"];
    assert!(!is_done && words.iter().all(|words| why.contains(words)), "{why}");
    let (is_done, why) = tokio::task::block_in_place(|| keys(&credential));
    assert!(is_done, "{why}");
    let (killed, mut asked) = (Instant::now(), 0);
    // Each of these is refused.
    while killed.elapsed() < Duration::from_secs(8) {
        let body = json!({"email": "ann@example.com", "password": PASSWORD}).to_string();
        let request = format!(
            "POST /auth/login HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = exchange(program.listen, request).await;
        assert!(matches!(status(&answer), 503 | 429), "{answer}");
        asked += 1;
    }
    cluster.restart();
    let end = Instant::now() + PATIENCE;
    while status(&program.probe("/readyz").await) != 200 {
        assert!(Instant::now() < end, "it is not ready again");
        tokio::task::yield_now().await;
    }
    let said = tokio::task::block_in_place(|| {
        let begun = program.until_it_says("that is over");
        begun + &program.stop_and_tell()
    });
    println!("{asked} requests beside this log:\n{said}");
    let lines = said.lines().filter(|line| [" WARN ", " ERROR "].iter().any(|level| line.contains(level)));
    // Without the time, what remains is the same each time.
    let mut counts = std::collections::BTreeMap::new();
    for line in lines {
        *counts.entry(line.split_once(' ').unwrap().1).or_insert(0) += 1;
    }
    let total: u32 = counts.values().sum();
    assert!(total <= 15, "{counts:#?}");
    assert!(counts.values().all(|count| *count <= 2), "{counts:#?}");
}

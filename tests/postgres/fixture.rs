//! That the clusters of the tests do what the other suites take for granted.

use std::process::Command;
use std::time::{Duration, Instant};

use palisade_testing::postgres::{Cluster, Pooler, Way, Wire};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// The longest that any step may take; a bound against hanging, never a measurement.
const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = url.parse::<Config>().unwrap().connect(NoTls).await?;
    tokio::spawn(async { drop(connection.await) });
    Ok(client)
}

/// The value that a query answers with, as text.
async fn value(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let mut rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(rows.next().unwrap_or_default())
}

#[tokio::test]
async fn databases_are_apart_and_reached_by_both_urls() {
    let cluster = Cluster::shared();
    let (one, other) = (cluster.database().await, cluster.database().await);
    assert_ne!(one.name, other.name);
    let client = connect(&one.url()).await.unwrap();
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)").await.unwrap();
    assert_eq!(value(&connect(&one.socket_url()).await.unwrap(), "SELECT n FROM t").await.unwrap(), "7");
    assert!(value(&other.client().await, "SELECT n FROM t").await.is_err());
}

#[tokio::test]
async fn a_killed_server_comes_back_with_what_was_committed() {
    let cluster = Cluster::plan().set("fsync", "on").set("max_connections", "20").start();
    let database = cluster.database().await;
    let client = database.client().await;
    assert_eq!(value(&client, "SHOW max_connections").await.unwrap(), "20");
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)").await.unwrap();
    cluster.kill();
    assert!(value(&client, "SELECT 1").await.is_err());
    assert!(connect(&database.url()).await.is_err());
    cluster.restart();
    assert_eq!(value(&database.client().await, "SELECT n FROM t").await.unwrap(), "7");
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_goes_on() {
    let cluster = Cluster::start();
    let database = cluster.database().await;
    let client = database.client().await;
    cluster.pause();
    let asked = value(&client, "SELECT 7");
    tokio::pin!(asked);
    let silence = tokio::time::timeout(Duration::from_millis(200), asked.as_mut()).await;
    assert!(silence.is_err(), "{silence:?}");
    cluster.resume();
    assert_eq!(tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap(), "7");
}

#[tokio::test]
async fn a_standby_follows_and_takes_over() {
    let cluster = Cluster::start();
    let database = cluster.database().await;
    let standby = cluster.standby("second");
    database.client().await.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)").await.unwrap();
    let client = standby.database_named(&database.name).client().await;
    let end = Instant::now() + PATIENCE;
    while value(&client, "SELECT n FROM t").await.is_err() {
        assert!(Instant::now() < end, "{}", standby.log());
    }
    assert!(client.batch_execute("INSERT INTO t VALUES (8)").await.is_err(), "it takes writes");
    cluster.kill();
    standby.promote().await;
    client.batch_execute("INSERT INTO t VALUES (8)").await.unwrap();
}

#[tokio::test]
async fn the_pooler_hands_transactions_of_one_client_to_other_connections() {
    let cluster = Cluster::start();
    let database = cluster.database().await;
    let pooler = Pooler::before(&cluster, 2);
    let (one, other) =
        (connect(&pooler.url(&database)).await.unwrap(), connect(&pooler.url(&database)).await.unwrap());
    let id = "SELECT pg_backend_pid()";
    let before = value(&one, id).await.unwrap();
    other.batch_execute("BEGIN").await.unwrap();
    // The connection that was free, which is the only one so far.
    assert_eq!(value(&other, id).await.unwrap(), before);
    assert_ne!(value(&one, id).await.unwrap(), before);
    other.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_wire_is_held_and_cut_at_a_byte() {
    let cluster = Cluster::shared();
    let database = cluster.database().await;
    let wire = Wire::to(database.address).await;
    let client = connect(&database.url_at(wire.address)).await.unwrap();
    assert_eq!(value(&client, "SELECT 7").await.unwrap(), "7");

    // Held within the answer: the statement was carried out, and the client does not know.
    wire.hold_after(Way::ToClient, 3);
    let asked = value(&client, "CREATE TABLE t (n int)");
    tokio::pin!(asked);
    tokio::select! {
        answer = asked.as_mut() => panic!("{answer:?} came through"),
        () = wire.stopped(Way::ToClient) => {}
    }
    let own = database.client().await;
    assert_eq!(value(&own, "SELECT count(*) FROM t").await.unwrap(), "0");
    wire.restore();
    tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();

    // Cut within the question: it never reached the server.
    wire.cut_after(Way::ToServer, 3);
    assert!(value(&client, "INSERT INTO t VALUES (1)").await.is_err());
    assert_eq!(value(&own, "SELECT count(*) FROM t").await.unwrap(), "0");
    assert!(connect(&database.url_at(wire.address)).await.is_err());
    wire.restore();
    let client = connect(&database.url_at(wire.address)).await.unwrap();
    assert_eq!(value(&client, "SELECT 7").await.unwrap(), "7");
    wire.cut();
    assert!(value(&client, "SELECT 7").await.is_err());
}

/// Where the test below works as the process that is killed.
const CHILD: &str = "PALISADE_POSTGRES_FIXTURE_CHILD";

#[test]
fn nothing_is_left_when_the_tests_are_killed() {
    if std::env::var_os(CHILD).is_some() {
        let cluster = Cluster::start();
        let postmaster = std::fs::read_to_string(cluster.data().join("postmaster.pid")).unwrap();
        println!("DATA {}", cluster.data().display());
        println!("POSTMASTER {}", postmaster.lines().next().unwrap());
        std::process::abort();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "fixture::nothing_is_left_when_the_tests_are_killed", "--nocapture"]);
    let output = child.env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let word = |name: &str| {
        let line = said.lines().find_map(|line| line.split_once(name));
        line.unwrap_or_else(|| panic!("no {name} in {output:?}")).1.trim().to_owned()
    };
    let (data, postmaster) = (word("DATA "), word("POSTMASTER "));
    let runs = || {
        let probe = Command::new("kill").args(["-0", &postmaster]).output().unwrap();
        probe.status.success()
    };
    let end = Instant::now() + PATIENCE;
    while std::path::Path::new(&data).exists() || runs() {
        assert!(Instant::now() < end, "{data} or process {postmaster} is left");
        std::thread::yield_now();
    }
}

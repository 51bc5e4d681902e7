//! The store in PostgreSQL when a gateway, or the server, is killed at any moment.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;

use palisade::edge::postgres::{PostgresOpenError, PostgresStore};
use palisade_core::ports::Store;
use palisade_testing::postgres::{Cluster, Database};
use palisade_testing::{crash, transfer};

use super::place::{Place, open, settings};

/// How many kills, where it is not the few of an ordinary run.
const KILLS: &str = "PALISADE_KILLS";

fn kills() -> u64 {
    std::env::var(KILLS).map_or(20, |kills| kills.parse().unwrap())
}

/// The database of the child, if this process is one.
fn of_child() -> Option<String> {
    std::env::var(crash::CHILD).ok()
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(work);
}

/// Waits until the connections of a process that was killed have ended, and what they were sent is done.
async fn settle(url: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let others = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    client.batch_execute(others).await.unwrap();
}

/// Ends every lease: what is for a store of one process the end of that process, is for this one that time has passed.
async fn end_leases(url: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let end = "CREATE TABLE IF NOT EXISTS public.days (n int); \
               INSERT INTO public.days SELECT 2; \
               CREATE OR REPLACE FUNCTION palisade.lease_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS \
               'SELECT clock_timestamp() + (SELECT sum(n) FROM public.days) * interval ''1 day'''";
    client.batch_execute(end).await.unwrap();
}

/// The child of the tests below.
#[test]
fn crash_child() {
    let Some(url) = of_child() else { return };
    run(async {
        let store = open(&url).await;
        end_leases(&url).await;
        crash::work(store).await;
    });
}

async fn reopened(place: &Path) -> Arc<dyn Store> {
    let url = place.to_str().unwrap();
    settle(url).await;
    let store = open(url).await;
    end_leases(url).await;
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_kill_of_the_gateway() {
    let place = Place::of(&Cluster::shared().database().await);
    let kill = |child: &mut Child| child.kill().unwrap();
    crash::killed("crash::crash_child", kills(), false, place.as_ref(), kill, reopened).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_kill_of_the_server() {
    let cluster = Cluster::plan().set("fsync", "on").set("full_page_writes", "on").start();
    let database: Database = cluster.database().await;
    let place = Place::of(&database);
    let mut killed = 0;
    // By the system, and in turn by what an operator would call an immediate shutdown. The child meets the end of its
    // connections, and ends.
    let kill = |_: &mut Child| {
        killed += 1;
        if killed % 2 == 0 {
            return cluster.kill();
        }
        let pid = std::fs::read_to_string(cluster.data().join("postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap();
        assert!(Command::new("kill").args(["-QUIT", pid]).status().unwrap().success());
    };
    let reopen = async |place: &Path| {
        cluster.restart();
        reopened(place).await
    };
    crash::killed("crash::crash_child", kills(), false, place.as_ref(), kill, reopen).await;
}

/// The child of the test below.
#[test]
fn import_child() {
    let Some(url) = of_child() else { return };
    run(async { transfer::work(open(&url).await).await });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_is_never_taken_for_whole() {
    let fresh = async || {
        let place = Place::of(&Cluster::shared().database().await);
        // A start that a kill meets leaves no tables, which is another case.
        drop(open(place.as_ref().to_str().unwrap()).await);
        place
    };
    let reopen = async |place: &Path| {
        let url = place.to_str().unwrap();
        settle(url).await;
        match PostgresStore::open(settings(url)).await {
            Ok(store) => Some(store as Arc<dyn Store>),
            Err(PostgresOpenError::PartlyImported) => None,
            Err(error) => panic!("{error}"),
        }
    };
    transfer::killed("crash::import_child", kills(), fresh, reopen).await;
}

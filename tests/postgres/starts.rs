//! What a start makes of a database that is away, and of one that stays away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use palisade::app::Options;
use palisade_testing::postgres::{Cluster, Database};
use tokio::net::{TcpListener, TcpStream};

use super::lease::Gateway;
use crate::support::Upstream;

/// A way to `server` that ends the first `refused` connections at once. Counts all of them.
async fn way(server: SocketAddr, refused: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if counted.fetch_add(1, Ordering::SeqCst) < refused {
                continue;
            }
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                // Either end may go.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, count)
}

async fn start(database: &Database, url: &str) -> Result<Gateway, String> {
    let upstream = Upstream::start().await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    Gateway::start_in(&folder, database, url, upstream.address, "", Options::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_waits_for_a_database_that_is_away() {
    let cluster = Cluster::shared();
    let database = cluster.database().await;
    let (place, tried) = way(cluster.address(), 2).await;
    let gateway = start(&database, &database.url_at(place)).await.unwrap_or_else(|why| panic!("{why}"));
    assert!(tried.load(Ordering::SeqCst) > 2);
    let token = gateway.mint().await;
    assert_eq!(gateway.get("/app/x", &token).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_ends_where_waiting_helps_nothing() {
    let cluster = Cluster::shared();
    let database = cluster.database().await;
    let (place, tried) = way(cluster.address(), 0).await;
    let absent = cluster.database_named("absent").url_at(place);
    let why = start(&database, &absent).await.err().unwrap();
    assert!(why.contains("3D000") && why.contains("store.url"), "{why}");
    // The server has no TLS.
    let verified = format!("{}?sslmode=verify-full", database.url_at(place));
    let why = start(&database, &verified).await.err().unwrap();
    assert!(why.contains("TLS"), "{why}");
    assert_eq!(tried.load(Ordering::SeqCst), 2, "each was tried once");
}

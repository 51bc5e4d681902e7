//! The suites of the store through PgBouncer in transaction mode, where each transaction may run on another connection of
//! the server than the one before, and no notice comes through.

use std::path::Path;
use std::sync::Arc;

use palisade::edge::store::SledStore;
use palisade_core::ports::Store;
use palisade_testing::conformance;
use palisade_testing::postgres::{Cluster, Pooler};
use palisade_testing::transfer::{self, Whole, every_record};

use super::backup::{backup_of, restored};
use super::conformance::leases_conform;
use super::place::{Place, open};

/// A server, and a pooler before it with fewer connections for each database than one store has.
fn behind_a_pooler() -> (Cluster, Pooler) {
    let cluster = Cluster::plan().set("max_connections", "400").start();
    let pooler = Pooler::before(&cluster, 3);
    (cluster, pooler)
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms_through_a_pooler() {
    let (cluster, pooler) = behind_a_pooler();
    let fresh = async || Place::through(&pooler, &cluster.database().await);
    conformance::suite(fresh, async |place: &Path| open(place.to_str().unwrap()).await as Arc<dyn Store>)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leases_of_postgres_conform_through_a_pooler() {
    let (cluster, pooler) = behind_a_pooler();
    let database = cluster.database().await;
    let store = open(&pooler.url(&database)).await;
    leases_conform(&database, store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_moves_backups_and_restores_through_a_pooler() {
    let (cluster, pooler) = behind_a_pooler();
    let folders = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let [first, filler, back, from_backup] =
        folders.each_ref().map(|folder| SledStore::open(folder.path()).unwrap());
    let other = open(&pooler.url(&cluster.database().await)).await;
    transfer::there_and_back(&*first, &*filler, &*other, &*back).await;
    // A backup of the one, restored into the other.
    every_record(&*from_backup).await;
    let whole = Whole::in_store(&*from_backup).await;
    let target = open(&pooler.url(&cluster.database().await)).await;
    restored(&*target, backup_of(&*from_backup, "sled").await).await;
    assert_eq!(Whole::in_store(&*target).await, whole);
    let again = open(&pooler.url(&cluster.database().await)).await;
    restored(&*again, backup_of(&*target, "postgres").await).await;
    assert_eq!(Whole::in_store(&*again).await, whole);
}

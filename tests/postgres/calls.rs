//! The calls of replicas as the database answers them: what `replica.rs` and `acknowledge.rs` rely on.

use palisade::edge::postgres::connect::DatabasePool;
use palisade::edge::postgres::feed_calls::{ConfirmCall, FeedCalls, FeedPlace, RegisterCall, ReplicaRow};
use palisade::edge::postgres::feed_database::FeedDatabase;
use palisade_core::ports::RecordFormats;
use palisade_testing::postgres::{Cluster, Database};
use tokio_postgres::Client;
use uuid::Uuid;

use super::commits::until;
use super::place::{HELD_UP, prepared, settings, value};

async fn calls() -> (Database, Client, FeedDatabase) {
    let database = prepared(Cluster::shared()).await;
    let pool = DatabasePool::new(settings(&database.url())).unwrap();
    let client = database.client().await;
    (database, client, FeedDatabase::new(&pool, &pool).unwrap())
}

fn registration(id: Uuid) -> RegisterCall {
    RegisterCall {
        id,
        former: Vec::new(),
        name: "one".to_owned(),
        program: 1,
        formats: RecordFormats::of_this_program().to_json(),
        lease_ms: 5000,
        fail_open: false,
        key_ring: 0,
        accept: false,
        accept_closed: false,
        place: None,
    }
}

fn confirmation(id: Uuid, place: Option<FeedPlace>) -> ConfirmCall {
    ConfirmCall { id, fail_open: false, key_ring: 0, place }
}

async fn row(calls: &FeedDatabase, id: Uuid) -> Option<ReplicaRow> {
    calls.replicas().await.unwrap().replicas.into_iter().find(|row| row.id == id)
}

/// By a position of another history it would be taken to have what this one has there.
#[tokio::test]
async fn a_replica_whose_last_entry_is_gone_is_not_moved() {
    let (_database, _client, calls) = calls().await;
    let id = Uuid::now_v7();
    let head = calls.register(&registration(id)).await.unwrap().news.head;
    calls.confirm(&confirmation(id, Some(head))).await.unwrap().unwrap();
    let other = FeedPlace { position: head.position + 3, entry: Uuid::now_v7() };
    calls.confirm(&confirmation(id, Some(other))).await.unwrap().unwrap();
    assert_eq!(row(&calls, id).await.unwrap().position, Some(head.position));
    let same = FeedPlace { entry: Uuid::now_v7(), ..head };
    calls.confirm(&confirmation(id, Some(same))).await.unwrap().unwrap();
    let row = row(&calls, id).await.unwrap();
    assert_eq!((row.position, row.confirms), (Some(head.position), 3), "it lives all the same");
}

#[tokio::test]
async fn once_the_database_has_lost_something_no_replica_confirms() {
    let (_database, _client, calls) = calls().await;
    let id = Uuid::now_v7();
    let head = calls.register(&registration(id)).await.unwrap().news.head;
    calls.lost("a failover").await.unwrap();
    assert_eq!(calls.confirm(&confirmation(id, Some(head))).await.unwrap(), None);
    let again = calls.register(&registration(Uuid::now_v7())).await.unwrap();
    assert_eq!(again.lost.as_deref(), Some("a failover"));
    let accepted = RegisterCall { accept: true, ..registration(Uuid::now_v7()) };
    assert_eq!(calls.register(&accepted).await.unwrap().lost, None);
}

#[tokio::test]
async fn a_replica_that_has_confirmed_since_is_not_counted_as_gone() {
    let (_database, _client, calls) = calls().await;
    let id = Uuid::now_v7();
    let head = calls.register(&registration(id)).await.unwrap().news.head;
    let seen = row(&calls, id).await.unwrap().confirms;
    calls.confirm(&confirmation(id, Some(head))).await.unwrap().unwrap();
    assert!(!calls.expire(id, seen).await.unwrap());
    assert!(row(&calls, id).await.is_some());
    assert!(calls.expire(id, seen + 1).await.unwrap());
    assert_eq!(row(&calls, id).await, None);
    assert_eq!(calls.confirm(&confirmation(id, Some(head))).await.unwrap(), None, "it is to register again");
}

/// What is committed at the same time is made before it is closed, or not at all.
#[tokio::test]
async fn a_store_is_closed_once_no_commit_and_no_registration_is_under_way() {
    let (database, client, calls) = calls().await;
    client.batch_execute("BEGIN; SELECT palisade.in_commit()").await.unwrap();
    let other = database.client().await;
    let closing = value(&other, "SELECT palisade.close_1('it was moved')");
    tokio::pin!(closing);
    let watcher = database.client().await;
    tokio::select! {
        closed = &mut closing => panic!("it was closed beside a commit: {closed:?}"),
        () = until(&watcher, HELD_UP, "1") => {}
    }
    // Behind the one that waits to close it.
    let call = registration(Uuid::now_v7());
    let registering = calls.register(&call);
    tokio::pin!(registering);
    tokio::select! {
        registered = &mut registering => panic!("it was registered while the store was being closed: {registered:?}"),
        () = until(&watcher, HELD_UP, "2") => {}
        closed = &mut closing => panic!("it was closed beside a commit: {closed:?}"),
    }
    client.batch_execute("COMMIT").await.unwrap();
    let (closed, refused) = tokio::join!(closing, registering);
    assert_eq!(closed, "", "no replica served it");
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("closed for writing"), "{refused}");
}

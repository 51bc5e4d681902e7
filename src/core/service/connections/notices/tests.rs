//! In which order the app is told of a connection, whatever fails in between, over the fakes.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use serde_json::Value;

use palisade_core::domain::connection::ConnectionId;
use palisade_core::domain::task::{Errand, Task, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Clock, Notice, NoticeAbout, ProviderFault, Store};
use palisade_core::service::connections::Begin;
use palisade_testing::accounts_world::client;
use palisade_testing::connections_world::{ConnectionsWorld, acme, world};

async fn disconnect(world: &ConnectionsWorld, id: ConnectionId) {
    world.connections.disconnect(&client(), world.ann, id).await.unwrap();
}

async fn tasks(world: &ConnectionsWorld) -> usize {
    world.store.due_tasks(UnixTime::NEVER, 9999).await.unwrap().len()
}

async fn deliver(world: &ConnectionsWorld) {
    while world.connections.do_due_notices().await.unwrap() {}
}

/// What the app took, oldest first: the members of `data`, with the `type`.
fn taken(world: &ConnectionsWorld) -> Vec<Value> {
    let taken = world.webhook.taken.lock().unwrap();
    let body = |body: &String| serde_json::from_str::<Value>(body).unwrap();
    taken.iter().map(|notice| body(&notice.body)).collect()
}

fn words(world: &ConnectionsWorld) -> Vec<(String, u64, String)> {
    let text = |value: &Value| value.as_str().unwrap().trim_start_matches("connection.").to_owned();
    let word = |body: &Value| {
        let data = &body["data"];
        (text(&body["type"]), data["sequence"].as_u64().unwrap(), text(&data["status"]))
    };
    taken(world).iter().map(word).collect()
}

fn notice(kind: &str, sequence: u64, status: &str) -> (String, u64, String) {
    (kind.to_owned(), sequence, status.to_owned())
}

#[tokio::test]
async fn a_notice_that_failed_is_not_overtaken_by_a_later_one() {
    let world = world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    let id = world.connect(acme()).await;
    deliver(&world).await;
    world.webhook.down.store(false, Ordering::Relaxed);
    // Now the app listens, and `connected` still waits for its next try.
    disconnect(&world, id).await;
    deliver(&world).await;
    assert_eq!(words(&world), [], "`revoked` has overtaken `connected`");
    world.clock.advance(5);
    deliver(&world).await;
    world.clock.advance(2);
    deliver(&world).await;
    let in_order = [notice("connected", 1, "active"), notice("revoked", 2, "revoked")];
    assert_eq!(words(&world), in_order);
    assert_eq!(tasks(&world).await, 0);
}

#[tokio::test]
async fn a_restart_keeps_the_order() {
    let mut world = world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    let id = world.connect(acme()).await;
    deliver(&world).await;
    world.restart();
    world.webhook.down.store(false, Ordering::Relaxed);
    disconnect(&world, id).await;
    deliver(&world).await;
    assert_eq!(words(&world), []);
    // Filed behind the first, and nothing of that is in memory.
    world.restart();
    world.clock.advance(5);
    deliver(&world).await;
    world.restart();
    let again = world.connect(Begin { another: true, ..acme() }).await;
    assert_ne!(again, id);
    deliver(&world).await;
    world.clock.advance(2);
    deliver(&world).await;
    let mut of_first = taken(&world);
    of_first.retain(|body| body["data"]["connection"] == id.to_string());
    let sequences: Vec<u64> =
        of_first.iter().map(|body| body["data"]["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [1, 2]);
}

/// Right after the first was delivered, those behind it are not due for a second.
#[tokio::test]
async fn what_waits_behind_is_not_overtaken_by_what_is_new() {
    let world = world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    let id = world.connect(acme()).await;
    deliver(&world).await;
    world.providers.fail("refresh", ProviderFault::InvalidGrant("gone".into()));
    let _ = world.connections.force_refresh(&client(), world.ann, id).await;
    deliver(&world).await;
    world.webhook.down.store(false, Ordering::Relaxed);
    world.clock.advance(5);
    deliver(&world).await;
    assert_eq!(words(&world), [notice("connected", 1, "active")]);
    disconnect(&world, id).await;
    deliver(&world).await;
    world.clock.advance(5);
    deliver(&world).await;
    let rest = [notice("reconnect_needed", 2, "reconnect_needed"), notice("revoked", 3, "revoked")];
    assert_eq!(words(&world)[1..], rest);
    assert_eq!(tasks(&world).await, 0);
}

#[tokio::test]
async fn one_connection_holds_up_no_other() {
    let world = world().await;
    world.providers.edit_info(|info| info.can_identify = false);
    world.webhook.down.store(true, Ordering::Relaxed);
    let first = world.connect(acme()).await;
    deliver(&world).await;
    world.webhook.down.store(false, Ordering::Relaxed);
    disconnect(&world, first).await;
    let second = world.connect(Begin { another: true, ..acme() }).await;
    deliver(&world).await;
    let told = taken(&world);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["data"]["connection"], second.to_string());
}

#[tokio::test]
async fn a_notice_that_is_given_up_lets_the_next_go() {
    let world = world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    let id = world.connect(acme()).await;
    deliver(&world).await;
    world.clock.advance(20 * 3600);
    disconnect(&world, id).await;
    for _ in 0..5 {
        deliver(&world).await;
        world.clock.advance(3600);
    }
    world.webhook.down.store(false, Ordering::Relaxed);
    world.clock.advance(4 * 3600);
    deliver(&world).await;
    assert_eq!(words(&world), [notice("revoked", 2, "revoked")]);
    assert_eq!(tasks(&world).await, 0);
}

/// An app that takes nothing for long, and a user who connects again and again.
#[tokio::test]
async fn what_waits_is_bounded_and_the_latest_is_kept() {
    let world = world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    let id = world.connect(acme()).await;
    for _ in 0..99 {
        deliver(&world).await;
        assert_eq!(world.connect(acme()).await, id);
    }
    deliver(&world).await;
    assert_eq!(tasks(&world).await, 32);
    world.webhook.down.store(false, Ordering::Relaxed);
    world.clock.advance(4 * 3600);
    for _ in 0..40 {
        deliver(&world).await;
        world.clock.advance(2);
    }
    let sequences: Vec<u64> = words(&world).iter().map(|(_, sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1].into_iter().chain(70..=100).collect::<Vec<_>>());
    assert_eq!(tasks(&world).await, 0);
}

/// Another receiver, another order: what is told of accounts waits for nothing that is told of connections, and each account
/// has an order of its own.
#[tokio::test]
async fn notices_about_accounts_have_a_worker_and_an_order_of_their_own() {
    let world = world().await;
    let enqueue = async |id: u128, account: u128, sequence: u64| {
        let data = serde_json::json!({"account": uuid::Uuid::from_u128(account), "sequence": sequence});
        let body = serde_json::json!({"type": "account.changed", "data": data}).to_string();
        let errand = Errand::NotifyOfAccount(body);
        let work = Work::Errand { made_at: world.clock.now(), tries: 0, errand };
        let task = Task { id: uuid::Uuid::from_u128(id + (1 << 100)), due_at: UnixTime(0), work };
        world.store.commit(vec![Change::CreateTask(task)]).await.unwrap();
    };
    let told = || {
        let taken = world.webhook.taken.lock().unwrap();
        assert!(taken.iter().all(|notice| notice.about == NoticeAbout::Account));
        let data = |notice: &Notice| serde_json::from_str::<Value>(&notice.body).unwrap()["data"].clone();
        let number = |value: &Value| value.as_str().unwrap().parse::<uuid::Uuid>().unwrap().as_u128();
        let of = |data: Value| (number(&data["account"]), data["sequence"].as_u64().unwrap());
        taken.iter().map(data).map(of).collect::<Vec<_>>()
    };
    let deliver = async || while world.connections.do_due_account_notices().await.unwrap() {};
    enqueue(1, 7, 2).await;
    world.webhook.down.store(true, Ordering::Relaxed);
    deliver().await;
    world.webhook.down.store(false, Ordering::Relaxed);
    enqueue(2, 7, 3).await;
    enqueue(3, 8, 1).await;
    assert!(!world.connections.do_due_notices().await.unwrap(), "they are none of the other worker's");
    deliver().await;
    assert_eq!(told(), [(8, 1)], "the first of the account is not overtaken, and holds up no other");
    world.clock.advance(7);
    deliver().await;
    assert_eq!(told(), [(8, 1), (7, 2), (7, 3)]);
    assert_eq!(tasks(&world).await, 0);
}

/// A program of before wrote no sequence into a notice.
#[tokio::test]
async fn a_notice_of_an_earlier_program_is_delivered_and_comes_first() {
    let world = world().await;
    let id = world.connect(acme()).await;
    for (n, body) in
        [(1, format!(r#"{{"type":"old","data":{{"connection":"{id}"}}}}"#)), (2, "{}".to_owned())]
    {
        let work = Work::Errand { made_at: world.clock.now(), tries: 0, errand: Errand::Notify(body) };
        // Filed as one that was tried before.
        let task = Task { id: uuid::Uuid::from_u128(n + (1 << 100)), due_at: UnixTime(1), work };
        world.store.commit(vec![Change::CreateTask(task)]).await.unwrap();
    }
    deliver(&world).await;
    let told = taken(&world);
    let mine: Vec<&Value> = told.iter().filter(|body| body["data"]["connection"] == id.to_string()).collect();
    assert_eq!((told.len(), mine.len()), (3, 2));
    assert_eq!(
        (mine[0]["type"].as_str(), mine[1]["type"].as_str()),
        (Some("old"), Some("connection.connected"))
    );
}

/// Whatever fails and whenever the program ends, each connection's notices arrive in their order, and none is lost.
#[tokio::test]
async fn at_least_once_and_in_order_whatever_fails() {
    let mut random = 7_u64;
    let mut below = |most: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % most
    };
    for round in 0..30 {
        let mut world = world().await;
        world.providers.edit_info(|info| info.can_identify = false);
        let mut mine = Vec::new();
        for _ in 0..60 {
            world.webhook.down.store(below(2) == 0, Ordering::Relaxed);
            match below(6) {
                0 => mine.push(world.connect(Begin { another: true, ..acme() }).await),
                1 if !mine.is_empty() => {
                    let id = mine[usize::try_from(below(mine.len() as u64)).unwrap()];
                    disconnect(&world, id).await;
                }
                2 if !mine.is_empty() => {
                    let id = mine[usize::try_from(below(mine.len() as u64)).unwrap()];
                    world.providers.fail("refresh", ProviderFault::InvalidGrant("gone".into()));
                    let _ = world.connections.force_refresh(&client(), world.ann, id).await;
                    world.providers.forgive();
                }
                3 => world.restart(),
                4 => world.clock.advance(below(400)),
                _ => deliver(&world).await,
            }
        }
        world.webhook.down.store(false, Ordering::Relaxed);
        for _ in 0..40 {
            world.clock.advance(1800);
            deliver(&world).await;
        }
        let mut last: HashMap<String, u64> = HashMap::new();
        for body in taken(&world) {
            let data = &body["data"];
            let (id, sequence) = (data["connection"].to_string(), data["sequence"].as_u64().unwrap());
            let before = last.insert(id, sequence).unwrap_or(0);
            assert_eq!(sequence, before + 1, "round {round}: {body}");
        }
        for id in mine {
            let stored = world.stored(id).await;
            let told = last.get(&Value::from(id.to_string()).to_string()).copied().unwrap_or(0);
            assert_eq!(told, stored.notices, "round {round}");
        }
        assert_eq!(tasks(&world).await, 0);
    }
}

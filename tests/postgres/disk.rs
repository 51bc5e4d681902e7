//! A database whose disk is full, and has room again.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use palisade_testing::postgres::{Cluster, can_mount};
use serde_json::json;

use super::failures::REFUSED_WITHIN;
use super::lease::Gateway;
use crate::place::PATIENCE;
use crate::support::{Upstream, status};

/// Megabytes: a new cluster, and some segments of its log.
const DISK: u32 = 160;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_of_the_database_refuses_changes_and_loses_nothing_acknowledged() {
    if let Err(why) = can_mount() {
        println!("left out, since a disk of its own cannot be made here: {why}");
        return;
    }
    let cluster = Cluster::plan().set("fsync", "on").disk(DISK).start();
    let database = cluster.database().await;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&database, &database.url(), upstream.address, "").await;
    gateway.make_account().await;
    let kept = gateway.mint().await;
    let mut tokens = Vec::new();
    for _ in 0..40 {
        tokens.push(gateway.mint().await);
    }
    // Whether each revocation was acknowledged.
    let mut asked = BTreeMap::new();
    assert_eq!(gateway.revoke(&json!({"token": tokens[0]})).await.0, 201);
    asked.insert(tokens[0].clone(), true);

    let ballast = cluster.data().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    for block in [1 << 16, 1 << 9] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
    // Tables and the log have some room within what they have taken already. Then the server gives up the statement that
    // needs more, or itself.
    let client = database.client().await;
    let fill =
        "SELECT pg_switch_wal(); INSERT INTO filler SELECT repeat('x', 700) FROM generate_series(1, 1000)";
    let _ = client.batch_execute("CREATE TABLE filler (t text)").await;
    while client.batch_execute(fill).await.is_ok() {}
    let full = Instant::now();
    for token in tokens.iter().skip(1).take(20) {
        let (code, took) = gateway.revoke(&json!({"token": token})).await;
        assert!(matches!(code, 201 | 503) && took < REFUSED_WITHIN, "{code} after {took:?}");
        asked.insert(token.clone(), code == 201);
    }
    assert!(asked.values().any(|acknowledged| !acknowledged), "the disk was not full");
    for (token, _) in asked.iter().filter(|(_, acknowledged)| **acknowledged) {
        assert_ne!(gateway.get("/app/x", token).await, 200);
    }
    println!("within {:?} the log of the database says:", full.elapsed());
    cluster
        .log()
        .lines()
        .filter(|line| line.contains("PANIC") || line.contains("No space"))
        .for_each(|line| println!("{line}"));
    let answer = gateway.sign_in().await;
    assert!(matches!(status(&answer), 200 | 503), "{answer}");

    // Whose space is free once no one has it open.
    drop(file);
    fs::remove_file(&ballast).unwrap();
    // A server that could not recover ends, and what runs it starts it again.
    let end = Instant::now() + PATIENCE;
    while let (code @ 503, why) = gateway.ready().await {
        if !cluster.runs() {
            println!("it has ended, and is started");
            cluster.restart();
        }
        assert!(Instant::now() < end, "{code} {why} {}", cluster.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(gateway.get("/app/x", &kept).await, 200);
    for (token, acknowledged) in &asked {
        if *acknowledged {
            assert_eq!(gateway.get("/app/x", token).await, 401, "it was acknowledged");
        }
        gateway.revoke_until_acknowledged(token).await;
        assert_eq!(gateway.get("/app/x", token).await, 401);
    }
    let end = Instant::now() + PATIENCE;
    while status(&gateway.sign_in().await) != 200 {
        assert!(Instant::now() < end, "nothing can be changed");
    }
}

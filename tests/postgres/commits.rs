//! Commits on a real PostgreSQL: what is acknowledged, what is not, and that a gateway which is stopped at any byte holds
//! up no other.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use palisade::edge::postgres::commit::feed_position;
use palisade::edge::postgres::connect::{DatabasePool, PostgresSettings};
use palisade::edge::postgres::failure::FailureKind;
use palisade::edge::postgres::migrations::{MigrationError, SchemaMigration, apply, is_current, migrate};
use palisade::edge::postgres::tls::DatabaseTls;
use palisade::edge::postgres::writer::{CommitWriter, WAITING};
use palisade_core::domain::account::User;
use palisade_core::domain::revocation::Revocation;
use palisade_core::ports::{Change, CommitError, Position, StoreError};
use palisade_testing::conformance::{link, revocation, token, user};
use palisade_testing::postgres::{Cluster, Database, Pooler, Way, Wire};
use tokio::sync::Notify;
use tokio_postgres::Client;

use crate::place::{self, HELD_UP, PATIENCE, settings_at, value};

/// A writer of its own beside others, as one gateway has it.
async fn writer(settings: &PostgresSettings, lanes: usize) -> CommitWriter {
    CommitWriter::start(DatabasePool::new(settings.with_size(lanes)).unwrap()).await.unwrap()
}

/// A database with the schema, and what it is reached by.
async fn prepared(cluster: &Cluster) -> (Database, PostgresSettings) {
    let database = place::prepared(cluster).await;
    let settings = settings_at(&database, database.address);
    (database, settings)
}

/// Waits until a query answers so.
pub(super) async fn until(client: &Client, sql: &str, expected: &str) {
    let end = Instant::now() + PATIENCE;
    while value(client, sql).await != expected {
        assert!(Instant::now() < end, "{sql}: {}", value(client, sql).await);
        tokio::task::yield_now().await;
    }
}

/// Waits until something holds, which nothing tells of.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

fn words(error: &CommitError) -> String {
    match error {
        CommitError::Store(StoreError::Unavailable(why) | StoreError::Closed(why)) => why.clone(),
        other => panic!("{other:?}"),
    }
}

fn revoked(jti: &str) -> Change {
    Change::Revoke(revocation(token(jti), 1, 100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_are_in_order_and_the_feed_has_no_gap_under_64_concurrent_commits() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let writers = [Arc::new(writer(&settings, 3).await), Arc::new(writer(&settings, 3).await)];
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..64u128 {
        let writer = Arc::clone(&writers[usize::from(caller % 2 == 0)]);
        callers.spawn(async move {
            let mut own: Vec<(Position, bool)> = Vec::new();
            for n in 0..6 {
                let revokes = (caller + n) % 3 == 0;
                let change = match revokes {
                    true => revoked(&format!("{caller}-{n}")),
                    false => Change::CreateLink(link(caller * 100 + n, 9)),
                };
                let made = writer.commit(vec![change]).await.unwrap();
                assert!(own.last().is_none_or(|(last, _)| *last < made.position), "{own:?} {made:?}");
                assert!(writer.position() >= made.position);
                assert_eq!(made.revocations.len(), usize::from(revokes));
                own.push((made.position, revokes));
            }
            own
        });
    }
    let made = soon(callers.join_all()).await.concat();
    assert_eq!(made.iter().map(|(position, _)| position).collect::<BTreeSet<_>>().len(), made.len());
    let revoking = made.iter().filter(|(_, revokes)| *revokes).map(|(position, _)| feed_position(*position));
    let revoking: BTreeSet<u64> = revoking.collect();
    let count = made.iter().filter(|(_, revokes)| *revokes).count() as u64;
    assert_eq!(revoking, (1..=count).collect(), "each entry once, without a gap");
    let client = database.client().await;
    assert_eq!(value(&client, "SELECT count(*) FROM palisade.feed").await, count.to_string());
    let head =
        "SELECT h.position = f.position FROM palisade.head h JOIN palisade.feed f ON f.entry = h.entry";
    assert_eq!(value(&client, head).await, "t", "the head names its entry");
}

/// How many bytes a message of a commit of [`contended`] has, at the least.
const MESSAGE: u64 = 600;

fn contended(revision: u64) -> Vec<Change> {
    let ann = User { revision, ..user(1, "ann@example.com") };
    vec![Change::UpdateUser(ann), revoked("contended")]
}

#[tokio::test]
async fn a_gateway_that_is_stopped_at_any_byte_of_its_message_holds_up_no_other() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let other = writer(&settings, 1).await;
    other.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
    let client = database.client().await;
    for (revision, bytes) in [0, 1, 5, MESSAGE / 2, MESSAGE].into_iter().enumerate() {
        let revision = revision as u64;
        let wire = Wire::to(database.address).await;
        let stopped = writer(&settings_at(&database, wire.address), 1).await;
        wire.hold_after(Way::ToServer, bytes);
        let held = stopped.commit(contended(revision));
        tokio::pin!(held);
        tokio::select! {
            biased;
            made = held.as_mut() => panic!("after {bytes} bytes: {made:?}"),
            () = wire.stopped(Way::ToServer) => {}
        }
        let made = soon(other.commit(contended(revision))).await.unwrap();
        assert!(made.acknowledgement.took < Duration::from_secs(2), "{made:?}");
        wire.cut();
        assert!(!words(&soon(held).await.unwrap_err()).is_empty(), "its outcome is not known");
    }
    let revision = "SELECT revision FROM palisade.users";
    assert_eq!(value(&client, revision).await, "5", "nothing of what was stopped was made");
}

#[tokio::test]
async fn a_gateway_that_is_stopped_in_the_answer_has_made_its_commit_and_holds_up_no_other() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let other = writer(&settings, 1).await;
    other.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
    for (round, bytes) in [0, 3, 200].into_iter().enumerate() {
        let revision = round as u64 * 2;
        let wire = Wire::to(database.address).await;
        let stopped = writer(&settings_at(&database, wire.address), 1).await;
        wire.hold_after(Way::ToClient, bytes);
        let held = stopped.commit(contended(revision));
        tokio::pin!(held);
        tokio::select! {
            biased;
            made = held.as_mut() => panic!("after {bytes} bytes: {made:?}"),
            () = wire.stopped(Way::ToClient) => {}
        }
        // The database may be about to commit when the first byte of its answer is held.
        let made = loop {
            match soon(other.commit(contended(revision + 1))).await {
                Err(CommitError::Conflict) => tokio::task::yield_now().await,
                made => break made.unwrap(),
            }
        };
        assert!(made.acknowledgement.took < Duration::from_secs(2), "{made:?}");
        wire.cut();
        assert!(soon(held).await.is_err(), "its outcome is not known");
        assert!(!stopped.is_writable());
        wire.restore();
        eventually("it takes writes again", || stopped.is_writable()).await;
    }
    assert_eq!(value(&database.client().await, "SELECT revision FROM palisade.users").await, "6");
}

/// More than sockets hold between a server that sends and a client that does not read.
const LONG_ANSWER: usize = 6 << 20;

#[tokio::test]
async fn a_gateway_that_does_not_read_a_long_answer_holds_up_no_other() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let other = writer(&settings, 1).await;
    let wire = Wire::to(database.address).await;
    let stopped = writer(&settings_at(&database, wire.address), 1).await;
    wire.hold_after(Way::ToClient, 0);
    let reason = "x".repeat(4096);
    let many = (0..LONG_ANSWER / reason.len()).map(|n| {
        let made = revocation(token(&n.to_string()), 1, 100);
        Change::Revoke(Revocation { reason: Some(reason.clone()), ..made })
    });
    let held = stopped.commit(many.collect());
    tokio::pin!(held);
    let client = database.client().await;
    tokio::select! {
        biased;
        made = held.as_mut() => panic!("{made:?}"),
        () = until(&client, "SELECT count(*) FROM palisade.feed", "1") => {}
    }
    let made = soon(other.commit(vec![revoked("0")])).await.unwrap();
    assert!(made.acknowledgement.took < Duration::from_secs(2), "{made:?}");
    assert_eq!(made.revocations[0].reason.as_ref(), Some(&reason));
    wire.restore();
    assert_eq!(soon(held).await.unwrap().revocations.len(), LONG_ANSWER / reason.len());
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_nothing() {
    let (database, _direct) = prepared(Cluster::shared()).await;
    let wire = Wire::to(database.address).await;
    let writer = writer(&settings_at(&database, wire.address), 1).await;
    wire.hold_after(Way::ToServer, 10);
    {
        let left = writer.commit(vec![revoked("left")]);
        tokio::pin!(left);
        tokio::select! {
            biased;
            made = left.as_mut() => panic!("{made:?}"),
            () = wire.stopped(Way::ToServer) => {}
        }
    }
    wire.restore();
    until(&database.client().await, "SELECT count(*) FROM palisade.revocations", "1").await;
    soon(writer.commit(vec![revoked("next")])).await.unwrap();
}

#[tokio::test]
async fn an_answer_with_a_warning_is_no_acknowledgement() {
    let cluster = Cluster::start();
    let (database, settings) = prepared(&cluster).await;
    let writer = writer(&settings, 1).await;
    writer.commit(vec![revoked("before")]).await.unwrap();
    let client = database.client().await;
    client.simple_query("ALTER SYSTEM SET synchronous_standby_names = 'absent'").await.unwrap();
    client.simple_query("SELECT pg_reload_conf()").await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    // Until the setting has reached the writer's connection, a commit does not wait.
    let made = async {
        loop {
            match writer.commit(vec![revoked("waits")]).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    };
    tokio::pin!(made);
    tokio::select! {
        error = made.as_mut() => panic!("{error}"),
        () = until(&client, waiting, "1") => {}
    }
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    client.simple_query(cancel).await.unwrap();
    let why = words(&soon(made).await);
    assert!(why.contains("warning") && why.contains("synchronous replication"), "{why}");
    assert!(!writer.is_writable());
    client.simple_query("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    client.simple_query("SELECT pg_reload_conf()").await.unwrap();
    eventually("it takes writes again", || writer.is_writable()).await;
    soon(writer.commit(vec![revoked("after")])).await.unwrap();
}

/// A gateway that gives up must not leave a connection of the database behind that waits for a standby for ever.
#[tokio::test]
async fn what_is_given_up_is_ended_in_the_database_too() {
    let cluster = Cluster::start();
    let (database, settings) = prepared(&cluster).await;
    let pool = DatabasePool::new(settings).unwrap();
    let client = database.client().await;
    client.simple_query("ALTER SYSTEM SET synchronous_standby_names = 'absent'").await.unwrap();
    client.simple_query("SELECT pg_reload_conf()").await.unwrap();
    let write = "INSERT INTO palisade.upgrades (name) VALUES (pg_catalog.gen_random_uuid()::text)";
    // Until the setting has reached a connection, it does not wait.
    let failure = loop {
        let session = pool.session().await.unwrap();
        match session.write(write, Duration::from_millis(300)).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.kind, FailureKind::Unknown, "{failure}");
    assert!(failure.to_string().contains("did not answer"), "{failure}");
    until(&client, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "0").await;
}

#[tokio::test]
async fn commits_go_through_a_pooler_in_transaction_mode() {
    let cluster = Cluster::start();
    let (database, _direct) = prepared(&cluster).await;
    let pooler = Pooler::before(&cluster, 2);
    let pooled = settings_at(&database, pooler.address);
    let writer = Arc::new(writer(&pooled, 4).await);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8u128 {
        let writer = Arc::clone(&writer);
        callers.spawn(async move {
            for n in 0..10 {
                let id = caller * 100 + n + 1;
                let changes = vec![
                    Change::CreateUser(user(id, &format!("u{id}@example.com"))),
                    revoked(&id.to_string()),
                ];
                writer.commit(changes).await.unwrap();
            }
        });
    }
    soon(callers.join_all()).await;
    let pool = DatabasePool::new(pooled).unwrap();
    let sql = "SELECT count(*) FROM palisade.users WHERE revision = $1";
    for _ in 0..4 {
        let rows = pool.read(sql, &[(&0i64, tokio_postgres::types::Type::INT8)]).await.unwrap();
        assert_eq!(rows[0].get::<_, i64>(0), 80);
    }
    assert_eq!(value(&database.client().await, "SELECT position FROM palisade.head").await, "80");
}

#[tokio::test]
async fn a_commit_that_a_deadlock_took_back_is_made_again() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let writer = writer(&settings, 1).await;
    writer.commit(vec![Change::CreateLink(link(1, 9)), Change::CreateLink(link(2, 9))]).await.unwrap();
    let (rival, watcher) = (database.client().await, database.client().await);
    let update = |n: u128| {
        let hash: String = link(n, 9).hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("UPDATE palisade.links SET expires_at = 7 WHERE hash = '\\x{hash}'")
    };
    // The one whose patience ends first is taken back.
    let begin = format!("SET deadlock_timeout = '60s'; BEGIN; {}", update(1));
    rival.batch_execute(&begin).await.unwrap();
    let work = writer.commit(vec![Change::CreateLink(link(2, 8)), Change::CreateLink(link(1, 8))]);
    tokio::pin!(work);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    tokio::select! {
        made = work.as_mut() => panic!("{made:?}"),
        () = until(&watcher, waits, "1") => {}
    }
    let second = format!("{}; COMMIT", update(2));
    let (made, rivals) = soon(async { tokio::join!(work, rival.batch_execute(&second)) }).await;
    rivals.unwrap();
    made.unwrap();
    let ends = "SELECT string_agg(expires_at::text, ',') FROM palisade.links";
    assert_eq!(value(&watcher, ends).await, "8,8", "it was made after the other one");
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    until(&watcher, deadlocks, "1").await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_though_connections_are_killed_in_the_middle() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let writer = Arc::new(writer(&settings, 2).await);
    let client = database.client().await;
    let mut callers = tokio::task::JoinSet::new();
    let made_one = Arc::new(Notify::new());
    for caller in 0..8u128 {
        let (writer, made_one) = (Arc::clone(&writer), Arc::clone(&made_one));
        callers.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..100u128 {
                let id = caller * 1000 + n + 1;
                let changes = vec![
                    Change::CreateUser(user(id, &format!("u{id}@example.com"))),
                    revoked(&id.to_string()),
                ];
                match writer.commit(changes).await {
                    Ok(made) => {
                        acknowledged.push((id, feed_position(made.position)));
                        made_one.notify_one();
                    }
                    Err(CommitError::Store(StoreError::Unavailable(_))) => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            acknowledged
        });
    }
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name = 'palisade' AND state = 'active'";
    let mut killed = 0;
    let mut acknowledged = Vec::new();
    while !callers.is_empty() {
        // Some after each commit that is acknowledged.
        let kills = async {
            made_one.notified().await;
            value(&client, kill).await.parse::<u32>().unwrap()
        };
        tokio::select! {
            Some(done) = callers.join_next() => acknowledged.extend(done.unwrap()),
            count = kills => killed += count,
        }
    }
    assert!(killed > 0 && !acknowledged.is_empty(), "{killed} killed, {} acknowledged", acknowledged.len());
    for (id, at) in &acknowledged {
        let there = format!(
            "SELECT count(*) FROM palisade.users u, palisade.feed f WHERE u.id = '{}' AND f.position = {at}",
            uuid::Uuid::from_u128(*id)
        );
        assert_eq!(value(&client, &there).await, "1", "{id} at {at}");
    }
    let whole = "SELECT (SELECT count(*) FROM palisade.users) = (SELECT count(*) FROM palisade.revocations) \
                 AND (SELECT count(*) FROM palisade.users) = (SELECT position FROM palisade.head)";
    assert_eq!(value(&client, whole).await, "t", "a commit is whole, and so is the feed");
    eventually("it takes writes again", || writer.is_writable()).await;
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_told_and_noticed_when_it_does_again() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let writer = writer(&settings, 1).await;
    let client = database.client().await;
    let name = &database.name;
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    client.batch_execute(&set).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = 'palisade'";
    client.simple_query(end).await.unwrap();
    let why = loop {
        // The end of the connection is one failure, what comes after it another.
        let why = words(&soon(writer.commit(vec![revoked("t")])).await.unwrap_err());
        if why.contains("read-only") {
            break why;
        }
    };
    assert!(why.contains("25006") && !writer.is_writable(), "{why}");
    client.batch_execute(&format!("SET default_transaction_read_only = off; ALTER DATABASE {name} RESET default_transaction_read_only")).await.unwrap();
    eventually("it takes writes again", || writer.is_writable()).await;
    soon(writer.commit(vec![revoked("t")])).await.unwrap();
}

#[tokio::test]
async fn commits_that_find_no_place_are_refused_at_once() {
    let cluster = Cluster::start();
    let (_database, settings) = prepared(&cluster).await;
    let writer = Arc::new(writer(&settings, 1).await);
    writer.commit(vec![revoked("before")]).await.unwrap();
    cluster.pause();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..WAITING + 100 {
        let writer = Arc::clone(&writer);
        callers.spawn(async move { writer.commit(vec![revoked(&n.to_string())]).await });
    }
    let refused = soon(callers.join_next()).await.unwrap().unwrap().unwrap_err();
    assert!(words(&refused).contains("wait for the database already"), "{refused}");
    cluster.resume();
    let mut made = 0;
    while let Some(answer) = soon(callers.join_next()).await {
        made += usize::from(answer.unwrap().is_ok());
    }
    assert!(made >= WAITING / 2, "{made} commits were made when the database went on");
}

#[tokio::test]
async fn a_database_that_is_gone_refuses_soon_and_is_found_again() {
    let cluster = Cluster::start();
    let (_database, settings) = prepared(&cluster).await;
    let writer = writer(&settings, 2).await;
    writer.commit(vec![revoked("before")]).await.unwrap();
    cluster.kill();
    let mut why = String::new();
    for _ in 0..20 {
        let began = Instant::now();
        why = words(&writer.commit(vec![revoked("gone")]).await.unwrap_err());
        assert!(began.elapsed() < Duration::from_secs(5), "{why}");
    }
    assert!(why.contains("no connection to the database"), "{why}");
    cluster.restart();
    eventually("it takes writes again", || writer.is_writable()).await;
    soon(writer.commit(vec![revoked("after")])).await.unwrap();
}

#[tokio::test]
async fn what_a_newer_program_wrote_is_not_written_over() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let writer = writer(&settings, 1).await;
    writer.commit(vec![Change::CreateUser(user(7, "ann@example.com"))]).await.unwrap();
    let client = database.client().await;
    client.batch_execute("UPDATE palisade.users SET version = 9").await.unwrap();
    let refused = writer.commit(vec![Change::DeleteUser(user(7, "ann@example.com").id)]).await.unwrap_err();
    assert!(matches!(&refused, CommitError::Store(StoreError::Newer(_))), "{refused:?}");
    assert!(refused.to_string().contains("the account 00000000-0000-0000-0000-000000000007"), "{refused}");
    assert_eq!(
        value(&client, "SELECT count(*) FROM palisade.addresses").await,
        "1",
        "nothing of it was made"
    );
    assert!(writer.is_writable());
}

#[tokio::test]
async fn what_a_registered_replica_could_not_read_is_not_written() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let writer = writer(&settings, 1).await;
    let client = database.client().await;
    let register = "INSERT INTO palisade.replicas (id, name, program, formats, position, confirms, lease_ms, fail_open, \
                    key_ring) VALUES (gen_random_uuid(), 'old', 1, '{\"user\":2,\"revocation\":1}', 0, 0, 1, false, 0)";
    client.batch_execute(register).await.unwrap();
    let refused = writer.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap_err();
    let CommitError::Store(StoreError::OlderReplica(older)) = &refused else { panic!("{refused:?}") };
    assert_eq!((&*older.replica, older.version, older.reads), ("old", 3, 2));
    writer.commit(vec![revoked("t")]).await.unwrap();
    let unknown = writer.commit(vec![Change::CreateLink(link(1, 9))]).await.unwrap_err();
    assert!(unknown.to_string().contains("reads versions up to 0"), "{unknown}");
    // One that is counted as gone registers again before it reads anything.
    client.batch_execute("UPDATE palisade.replicas SET expired_at = now()").await.unwrap();
    writer.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_closed_takes_no_commit() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let writer = writer(&settings, 1).await;
    let client = database.client().await;
    client.batch_execute("UPDATE palisade.installation SET closed_for = 'it was moved'").await.unwrap();
    let why = words(&writer.commit(vec![revoked("t")]).await.unwrap_err());
    assert!(why.contains("it was moved"), "{why}");
    // No commit is under way when the change is made, and none begins before it is committed.
    client.batch_execute("BEGIN; SELECT palisade.hold_commits()").await.unwrap();
    client.batch_execute("UPDATE palisade.installation SET closed_for = NULL").await.unwrap();
    let made = writer.commit(vec![revoked("t")]);
    tokio::pin!(made);
    let watcher = database.client().await;
    tokio::select! {
        made = made.as_mut() => panic!("{made:?}"),
        () = until(&watcher, HELD_UP, "1") => {}
    }
    client.batch_execute("COMMIT").await.unwrap();
    soon(made).await.unwrap();
}

#[tokio::test]
async fn a_password_is_read_at_each_new_connection_and_a_wrong_one_is_told() {
    let cluster = Cluster::plan().hba("host all changer 127.0.0.1/32 scram-sha-256").start();
    let (database, settings) = prepared(&cluster).await;
    let client = database.client().await;
    client.batch_execute("CREATE ROLE changer SUPERUSER LOGIN PASSWORD 'first'").await.unwrap();
    let password = Arc::new(Mutex::new("first"));
    let read = Arc::clone(&password);
    let source = move || Ok(secrecy::SecretString::from(*read.lock().unwrap()));
    let settings =
        PostgresSettings { user: "changer".to_owned(), password: Some(Arc::new(source)), ..settings };
    let writer = writer(&settings, 1).await;
    writer.commit(vec![revoked("1")]).await.unwrap();
    client.batch_execute("ALTER ROLE changer PASSWORD 'second'").await.unwrap();
    let pool = DatabasePool::new(settings).unwrap();
    let why = pool.read("SELECT 1", &[]).await.unwrap_err().to_string();
    assert!(why.contains("refused the user or the password") && !why.contains("first"), "{why}");
    *password.lock().unwrap() = "second";
    pool.read("SELECT 1", &[]).await.unwrap();
}

#[tokio::test]
async fn tls_is_verified() {
    let name = || rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let (key, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let (certificate, strange) = (name().self_signed(&key).unwrap(), name().self_signed(&other).unwrap());
    let plan = Cluster::plan().set("ssl", "on").file("server.crt", &certificate.pem());
    let cluster = plan.file("server.key", &key.serialize_pem()).start();
    let database = cluster.database().await;
    let folder = tempfile::tempdir().unwrap();
    let ca = |name: &str, pem: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        DatabaseTls::verified(Some(&path)).unwrap()
    };
    let (good, bad) = (ca("good", certificate.pem()), ca("bad", strange.pem()));
    let with = |host: &str, tls: &DatabaseTls, port: u16| {
        let settings = settings_at(&database, database.address);
        let hosts = vec![(host.to_owned(), port)];
        DatabasePool::new(PostgresSettings { hosts, tls: tls.clone(), ..settings }).unwrap()
    };
    let port = database.address.port();
    let sql = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let rows = with("localhost", &good, port).message(sql).await.unwrap();
    assert_eq!(rows, [vec![Some("true".to_owned())]]);
    for pool in [with("localhost", &bad, port), with("127.0.0.1", &good, port)] {
        let why = pool.message(sql).await.unwrap_err().to_string();
        assert!(why.contains("TLS handshake"), "{why}");
    }
    let cleartext = Cluster::shared().address().port();
    let why = with("localhost", &good, cleartext).message(sql).await.unwrap_err().to_string();
    assert!(why.contains("does not support TLS") && why.contains("sslmode=disable"), "{why}");
}

#[tokio::test]
async fn programs_that_start_at_once_apply_each_migration_once() {
    let database = Cluster::shared().database().await;
    let pool = |_| DatabasePool::new(settings_at(&database, database.address)).unwrap();
    let pools: Vec<_> = (0..4).map(pool).collect();
    assert!(!is_current(&pools[0]).await.unwrap());
    let outcomes = futures::future::join_all(pools.iter().map(migrate)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(is_current(&pools[0]).await.unwrap());
    let client = database.client().await;
    assert_eq!(value(&client, "SELECT count(*) FROM palisade.installation").await, "1");
}

#[tokio::test]
async fn a_contraction_waits_for_older_programs_and_then_shuts_them_out() {
    let (database, settings) = prepared(Cluster::shared()).await;
    let pool = DatabasePool::new(settings).unwrap();
    let client = database.client().await;
    let register = "INSERT INTO palisade.replicas (id, name, program, formats, position, confirms, lease_ms, fail_open, \
                    key_ring) VALUES (gen_random_uuid(), 'old', 1, '{}', 0, 0, 1, false, 0)";
    client.batch_execute(register).await.unwrap();
    let next = [
        SchemaMigration::expansion(1001, "CREATE TABLE palisade.newer (n int)"),
        SchemaMigration::contraction(1002, 7, "DROP TABLE palisade.newer"),
    ];
    let applied = "SELECT string_agg(number || ':' || oldest_program, ',' ORDER BY number) FROM palisade.migrations \
                   WHERE number > 1000";
    apply(&pool, &next, 7).await.unwrap();
    assert_eq!(value(&client, applied).await, "1001:1", "an older program serves");
    migrate(&pool).await.unwrap();
    // One that is counted as gone is asked for its number when it comes back.
    client.batch_execute("UPDATE palisade.replicas SET expired_at = now()").await.unwrap();
    apply(&pool, &next, 7).await.unwrap();
    assert_eq!(value(&client, applied).await, "1001:1,1002:7");
    let refused = migrate(&pool).await.unwrap_err();
    assert!(matches!(refused, MigrationError::Outdated { oldest: 7, .. }), "{refused}");
    assert!(refused.to_string().contains("run the newer release"), "{refused}");
    let admitted = client.simple_query("SELECT palisade.admit_program(6)").await.unwrap_err();
    assert!(admitted.as_db_error().unwrap().message().contains("needs program 7"));
    client.simple_query("SELECT palisade.admit_program(7)").await.unwrap();
}

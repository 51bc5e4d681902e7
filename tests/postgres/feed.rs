//! Replicas over a real PostgreSQL: what is acknowledged is in force at each of them, whatever becomes of their
//! connections.
//!
//! Everything is in one process, so that what the members believe and when commits are acknowledged is read from one
//! clock.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::edge::clock::uptime;
use palisade::edge::postgres::acknowledge::margin;
use palisade::edge::postgres::commit::feed_position;
use palisade::edge::postgres::connect::DatabasePool;
use palisade::edge::postgres::feed::Feed;
use palisade::edge::postgres::feed_database::FeedDatabase;
use palisade::edge::postgres::replica::{ClusterReplica, ReplicaPlan, ReplicaState};
use palisade::edge::postgres::writer::CommitWriter;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::ports::{Change, Committed, ConfirmedBy, FeedSink, RecordFormats, Unmeasured};
use palisade_testing::conformance::{revocation, token};
use palisade_testing::postgres::{Cluster, Database, Pooler, Way, Wire};
use tokio::sync::watch;

use crate::place::{self, PATIENCE, prepared, settings_at};

pub(super) const LEASE: Duration = Duration::from_secs(2);

pub(super) async fn patiently<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, step).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

pub(super) async fn value(database: &Database, sql: &str) -> String {
    place::value(&database.client().await, sql).await
}

/// What one member holds.
#[derive(Default)]
pub(super) struct Held {
    tokens: HashSet<String>,
    /// In the order in which they came.
    pub(super) order: Vec<String>,
    pub(super) until: Duration,
    closed: Option<String>,
}

pub(super) struct Sink(pub(super) watch::Sender<Held>);

impl FeedSink for Sink {
    fn apply(&self, revocations: &[Revocation]) {
        self.0.send_modify(|held| {
            for revocation in revocations {
                if let Target::Token { jti, .. } = &revocation.target {
                    held.order.push(jti.clone());
                    held.tokens.insert(jti.clone());
                }
            }
        });
    }

    fn believe_until(&self, until: Duration) {
        self.0.send_modify(|held| held.until = until);
    }

    fn closed(&self, why: &str) {
        self.0.send_modify(|held| {
            held.until = Duration::ZERO;
            held.closed = Some(why.to_owned());
        });
    }
}

/// One gateway: what it commits, and what it believes.
pub(super) struct Member {
    pub(super) writer: CommitWriter,
    feed: Arc<Feed>,
    pub(super) sink: Arc<Sink>,
    replica: ClusterReplica,
}

fn plan(name: &str) -> ReplicaPlan {
    ReplicaPlan {
        name: name.to_owned(),
        formats: RecordFormats::of_this_program(),
        lease: LEASE,
        fail_open: false,
        key_ring: 0,
        accept: false,
        accept_closed: false,
        folder: None,
    }
}

impl Member {
    /// Begins one; it does not serve yet.
    async fn start(database: &Database, address: SocketAddr, plan: ReplicaPlan) -> Member {
        let pool = DatabasePool::new(settings_at(database, address)).unwrap();
        let calls = FeedDatabase::new(&pool, &pool).unwrap();
        let feed = Arc::new(Feed::start(Arc::new(calls), Arc::new(uptime), Arc::new(Unmeasured)));
        let sink = Arc::new(Sink(watch::Sender::new(Held::default())));
        let replica = ClusterReplica::start(Arc::clone(&feed), plan, Arc::clone(&sink) as _);
        // What it commits goes past the wire: only what it follows is cut off.
        let own = DatabasePool::new(settings_at(database, database.address)).unwrap();
        Member { writer: CommitWriter::start(own).await.unwrap(), feed, sink, replica }
    }

    async fn at(database: &Database, address: SocketAddr, name: &str) -> Member {
        let member = Member::start(database, address, plan(name)).await;
        patiently("a start", member.replica.serving()).await.unwrap();
        patiently("a notice", async {
            while !member.feed.is_listening() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        member
    }

    pub(super) async fn new(database: &Database, name: &str) -> Member {
        Member::at(database, database.address, name).await
    }

    /// Commits a revocation, and waits for its acknowledgement.
    pub(super) async fn revoke(&self, jti: &str) -> (Committed, ConfirmedBy, Duration) {
        let begun = Instant::now();
        let change = Change::Revoke(revocation(token(jti), 1, 1 << 40));
        let committed = self.writer.commit(vec![change]).await.unwrap();
        let since = self.feed.uptime();
        let at = feed_position(committed.position);
        self.feed.committed(at);
        let by = patiently("an acknowledgement", self.feed.acknowledge(at, since)).await.unwrap();
        (committed, by, begun.elapsed())
    }

    pub(super) fn has(&self, jti: &str) -> bool {
        self.sink.0.borrow().tokens.contains(jti)
    }

    pub(super) fn until(&self) -> Duration {
        self.sink.0.borrow().until
    }

    pub(super) async fn holds(&self, what: &str, is_so: impl FnMut(&Held) -> bool) {
        let mut held = self.sink.0.subscribe();
        patiently(what, held.wait_for(is_so)).await.unwrap();
    }
}

pub(super) fn all(confirmed: u32) -> ConfirmedBy {
    ConfirmedBy::Replicas { confirmed, lapsed: 0, open: Vec::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_revocation_is_at_every_replica() {
    let database = prepared(Cluster::shared()).await;
    // What was there before a replica came is read with the whole set.
    let writer = DatabasePool::new(settings_at(&database, database.address)).unwrap();
    let writer = CommitWriter::start(writer).await.unwrap();
    writer.commit(vec![Change::Revoke(revocation(token("before"), 1, u64::MAX))]).await.unwrap();
    let members = [
        Member::new(&database, "a").await,
        Member::new(&database, "b").await,
        Member::new(&database, "c").await,
    ];
    for n in 0..20 {
        let jti = n.to_string();
        let (_, by, _) = members[n % 3].revoke(&jti).await;
        assert_eq!(by, all(3));
        assert!(members.iter().all(|member| member.has(&jti) && member.has("before")));
    }
    let names: Vec<_> = members[0].replica.rows().replicas.iter().map(|row| row.name.clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let [a, b, c] = members;
    b.replica.leave().await;
    assert_eq!((b.until(), b.replica.state()), (Duration::ZERO, ReplicaState::Left));
    let (_, by, took) = a.revoke("without b").await;
    assert_eq!(by, all(2));
    assert!(took < LEASE && c.has("without b"), "{took:?}");
}

/// For how many seconds the transactions of other applications are open at least.
const OPEN_SECONDS: &str = "PALISADE_OPEN_SECONDS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_applications_open_transaction_stops_nothing() {
    let database = prepared(Cluster::shared()).await;
    let members = [Member::new(&database, "a").await, Member::new(&database, "b").await];
    let foreign = database.client().await;
    foreign.batch_execute("CREATE TABLE of_another (n int)").await.unwrap();
    // Each has a transaction id lower than all that come, and a snapshot older than all; one in a database of its own.
    let elsewhere = Cluster::shared().database().await.client().await;
    let old = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()";
    elsewhere.batch_execute(old).await.unwrap();
    foreign
        .batch_execute(&format!("{old}; INSERT INTO of_another VALUES (1); SELECT * FROM palisade.head"))
        .await
        .unwrap();
    let open_for = std::env::var(OPEN_SECONDS).map_or(0, |seconds| seconds.parse().unwrap());
    let (open_for, begun, mut made) = (Duration::from_secs(open_for), Instant::now(), 0);
    while made < 10 || begun.elapsed() < open_for {
        let jti = made.to_string();
        let (_, by, took) = members[made % 2].revoke(&jti).await;
        assert_eq!(by, all(2));
        assert!(took < LEASE && members.iter().all(|member| member.has(&jti)), "{took:?}");
        made += 1;
    }
    for client in [&foreign, &elsewhere] {
        let is_so_old = format!("SELECT clock_timestamp() - now() >= interval '{} s'", open_for.as_secs());
        assert_eq!(place::value(client, &is_so_old).await, "t");
        client.batch_execute("COMMIT").await.unwrap();
    }
    println!("{made} revocations beside transactions that were open for {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_cut_off_stops_to_believe_before_the_acknowledgement() {
    let database = prepared(Cluster::shared()).await;
    let wire = Wire::to(database.address).await;
    let (a, b) = (Member::new(&database, "a").await, Member::at(&database, wire.address, "b").await);
    // From the worst moment on: `b` has just begun to believe for as long as it ever does.
    let before = b.until();
    b.holds("a confirmation", |held| held.until > before).await;
    wire.hold();
    let asked = uptime();
    let (_, by, took) = a.revoke("first").await;
    let acknowledged = uptime();
    assert_eq!(by, ConfirmedBy::Replicas { confirmed: 1, lapsed: 1, open: Vec::new() });
    assert!(!b.has("first"));
    let until = b.until();
    assert!(until > asked, "it still believed when the commit was made");
    assert!(until <= acknowledged, "it believes for {:?} longer", until.saturating_sub(acknowledged));
    // Not because of patience that is far too long: a second more of belief would have been too much.
    assert!(until + Duration::from_secs(1) > acknowledged);
    assert!(took < LEASE + margin(LEASE) + Duration::from_millis(400), "{took:?}");

    // It costs that once.
    let row = "SELECT count(*) FROM palisade.replicas WHERE name = 'b'";
    patiently("the end of its row", async {
        while value(&database, row).await != "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (_, by, took) = a.revoke("second").await;
    assert_eq!(by, all(1));
    assert!(took < LEASE / 2, "{took:?}");

    // And it comes back with what it missed.
    wire.restore();
    b.holds("its return", |held| held.until > uptime()).await;
    assert!(b.has("first") && b.has("second"));
    assert_eq!(a.revoke("third").await.1, all(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_within_a_message_holds_up_no_other() {
    let database = prepared(Cluster::shared()).await;
    let a = Member::new(&database, "a").await;
    for (way, bytes) in [(Way::ToServer, 1), (Way::ToServer, 150), (Way::ToClient, 1), (Way::ToClient, 700)] {
        let wire = Wire::to(database.address).await;
        let b = Member::at(&database, wire.address, "b").await;
        wire.hold_after(way, bytes);
        let (_, by, took) = a.revoke(&format!("{way:?} {bytes}")).await;
        assert!(matches!(by, ConfirmedBy::Replicas { lapsed: 0 | 1, .. }), "{by:?}");
        assert!(took < LEASE + margin(LEASE) + LEASE, "{took:?}");
        assert!(b.has(&format!("{way:?} {bytes}")) || b.until() <= uptime());
        drop((b, wire));
        patiently("the end of its row", async {
            while value(&database, "SELECT count(*) FROM palisade.replicas").await != "1" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_of_several_members_at_once_leave_no_gap() {
    let database = prepared(Cluster::shared()).await;
    let members: Vec<_> = [
        Member::new(&database, "a").await,
        Member::new(&database, "b").await,
        Member::new(&database, "c").await,
    ]
    .into_iter()
    .map(Arc::new)
    .collect();
    let mut made = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (member, all_members) = (Arc::clone(&members[n % 2]), members.clone());
        made.spawn(async move {
            let jti = n.to_string();
            let (committed, by, _) = member.revoke(&jti).await;
            assert_eq!(by, all(3));
            assert!(all_members.iter().all(|member| member.has(&jti)));
            (committed.position, jti)
        });
    }
    let made: BTreeMap<_, _> = made.join_all().await.into_iter().collect();
    assert_eq!(made.len(), 200);
    let positions: Vec<_> = made.keys().map(|position| feed_position(*position)).collect();
    assert_eq!(positions, (1..=200).collect::<Vec<_>>());
    // The order of the entries is that of the positions which the commits were answered with.
    let Target::Token { issuer, .. } = token("") else { panic!("it is a token's") };
    // Of a key: its kind, the length of the issuer in four bytes, and the issuer stand before the name.
    let name_at = 1 + 4 + issuer.len() + 1;
    let listed = format!(
        "SELECT string_agg(convert_from(substring(decode(convert_from(body, 'UTF8')::json->0->>'key', 'base64') \
         FROM {name_at}), 'UTF8'), ' ' ORDER BY position) FROM palisade.feed"
    );
    let expected: Vec<_> = made.values().map(String::as_str).collect();
    assert_eq!(value(&database, &listed).await, expected.join(" "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_lost_commits_closes_those_that_had_them() {
    // How the database is restored, and whether the lost entries are known by another head or by another entry alone.
    let back = "DELETE FROM palisade.feed WHERE position > 1; \
                UPDATE palisade.head SET position = 1, entry = (SELECT entry FROM palisade.feed WHERE position = 1)";
    let overtaken = "UPDATE palisade.feed SET entry = gen_random_uuid() WHERE position = 3; \
                     INSERT INTO palisade.feed SELECT 4, gen_random_uuid(), body FROM palisade.feed WHERE position = 3; \
                     UPDATE palisade.head SET position = 4, entry = (SELECT entry FROM palisade.feed WHERE position = 4)";
    for restore in [back, overtaken] {
        let database = prepared(Cluster::shared()).await;
        let a = Member::new(&database, "a").await;
        for n in 0..3 {
            a.revoke(&n.to_string()).await;
        }
        database.client().await.batch_execute(&format!("BEGIN; {restore}; COMMIT")).await.unwrap();
        let why = patiently("the closing", async {
            loop {
                match a.replica.state() {
                    ReplicaState::Closed(why) => return why,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await;
        assert!(why.contains("lost commits"), "{why}");
        a.holds("the closing", |held| held.closed.is_some()).await;
        // One that starts later has followed nothing, and is told.
        let late = Member::start(&database, database.address, plan("late")).await;
        let told = patiently("the closing", late.replica.serving()).await.unwrap_err();
        assert_eq!(told, why);
        late.replica.leave().await;
        assert_eq!(a.until(), Duration::ZERO);
        patiently("the end of its row", async {
            while value(&database, "SELECT count(*) FROM palisade.replicas").await != "0" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_knows_what_was_followed_and_takes_an_operators_word() {
    let database = prepared(Cluster::shared()).await;
    let folder = tempfile::tempdir().unwrap();
    let kept = || ReplicaPlan { folder: Some(folder.path().to_owned()), ..plan("a") };
    let a = Member::start(&database, database.address, kept()).await;
    patiently("a start", a.replica.serving()).await.unwrap();
    a.revoke("1").await;
    a.revoke("2").await;
    a.replica.leave().await;
    drop(a);
    // As it was left, it goes on.
    let a = Member::start(&database, database.address, kept()).await;
    patiently("a start", a.replica.serving()).await.unwrap();
    assert!(a.has("1") && a.has("2"));
    a.replica.leave().await;
    drop(a);
    let restore = "BEGIN; DELETE FROM palisade.feed WHERE position = 2; DELETE FROM palisade.revocations; \
                   UPDATE palisade.head SET position = 1, entry = (SELECT entry FROM palisade.feed WHERE position = 1); COMMIT";
    database.client().await.batch_execute(restore).await.unwrap();
    let a = Member::start(&database, database.address, kept()).await;
    let why = patiently("the closing", a.replica.serving()).await.unwrap_err();
    assert!(why.contains("lost commits"), "{why}");
    a.replica.leave().await;
    drop(a);
    let accepted = ReplicaPlan { accept: true, ..kept() };
    let a = Member::start(&database, database.address, accepted).await;
    patiently("a start", a.replica.serving()).await.unwrap();
    assert_eq!(a.revoke("3").await.1, all(1));
    // It is not closed under a gateway that would go on admitting what is revoked elsewhere.
    let close = "SELECT palisade.close_1('moved')";
    assert_eq!(value(&database, close).await, "a");
    a.replica.leave().await;
    assert_eq!(value(&database, close).await, "");
    let closed = Member::start(&database, database.address, plan("closed")).await;
    patiently("a refusal", async {
        while !matches!(closed.replica.state(), ReplicaState::Starting(Some(why)) if why.contains("closed for writing")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(closed);
    let served = ReplicaPlan { accept_closed: true, ..plan("served") };
    let served = Member::start(&database, database.address, served).await;
    patiently("a start", served.replica.serving()).await.unwrap();
    served.replica.leave().await;
    // Another database than the one that the folder knows.
    let other = prepared(Cluster::shared()).await;
    let b = Member::start(&other, other.address, kept()).await;
    let why = patiently("the closing", b.replica.serving()).await.unwrap_err();
    assert!(why.contains("another one"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_others_count_as_gone_registers_again_and_a_gap_is_read_whole() {
    let database = prepared(Cluster::shared()).await;
    let wire = Wire::to(database.address).await;
    let (a, b) = (Member::new(&database, "a").await, Member::at(&database, wire.address, "b").await);
    let id = |member: &Member, name: &str| {
        let rows = member.replica.rows();
        rows.replicas.iter().find(|row| row.name == name).map(|row| row.id)
    };
    let first = id(&b, "b");
    wire.hold();
    a.revoke("1").await;
    a.revoke("2").await;
    // What `b` missed is not in the feed any more.
    database.client().await.batch_execute("DELETE FROM palisade.feed WHERE position < 2").await.unwrap();
    wire.restore();
    b.holds("its return", |held| held.until > uptime()).await;
    assert!(b.has("1") && b.has("2"));
    assert_ne!(id(&b, "b"), first, "a registration of its own");
    assert_eq!(a.revoke("3").await.1, all(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_it_is_polled_and_holds_all_the_same() {
    let cluster = Cluster::plan().set("max_connections", "60").start();
    let database = prepared(&cluster).await;
    let pooler = Pooler::before(&cluster, 8);
    let a = Member::start(&database, pooler.address, plan("a")).await;
    let b = Member::start(&database, pooler.address, plan("b")).await;
    patiently("a start", a.replica.serving()).await.unwrap();
    patiently("a start", b.replica.serving()).await.unwrap();
    for n in 0..5 {
        let (_, by, took) = a.revoke(&n.to_string()).await;
        assert_eq!(by, all(2));
        assert!(took < LEASE && b.has(&n.to_string()), "{took:?}");
    }
    assert!(!a.feed.is_listening() && !b.feed.is_listening(), "no notice comes through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_pruned_once_they_are_old_and_everywhere() {
    let database = prepared(Cluster::shared()).await;
    let a = Member::new(&database, "a").await;
    for n in 0..4 {
        a.revoke(&n.to_string()).await;
    }
    let client = database.client().await;
    assert_eq!(value(&database, "SELECT palisade.prune_feed_1()").await, "0", "they are young");
    client.batch_execute("UPDATE palisade.feed SET at = at - interval '2 hours'").await.unwrap();
    client
        .batch_execute(
            "INSERT INTO palisade.replicas (id, name, program, formats, position, confirms, lease_ms, fail_open, key_ring) \
             VALUES (gen_random_uuid(), 'slow', 1, '{}', 2, 1, 600000, false, 0)",
        )
        .await
        .unwrap();
    assert_eq!(
        value(&database, "SELECT palisade.prune_feed_1()").await,
        "1",
        "of those before the slow one's"
    );
    client.batch_execute("DELETE FROM palisade.replicas WHERE name = 'slow'").await.unwrap();
    assert_eq!(value(&database, "SELECT palisade.prune_feed_1()").await, "2", "the last one stays");
    assert_eq!(a.revoke("after").await.1, all(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_set_is_read_in_seconds_and_costs_no_revocation_its_time() {
    let database = prepared(Cluster::shared()).await;
    let client = database.client().await;
    let many = "INSERT INTO palisade.revocations (key, lim, expires_at, created_at, version, reason) \
                SELECT '\\x01000000016a'::bytea || convert_to(n::text, 'UTF8'), 9223372036854775807, 4000000000, 1, 1, NULL \
                FROM generate_series(1, 200000) n";
    client.batch_execute(many).await.unwrap();
    let a = Member::new(&database, "a").await;
    let begun = Instant::now();
    let b = Member::start(&database, database.address, plan("b")).await;
    let mut longest = Duration::ZERO;
    let mut n = 0;
    while b.replica.state() == ReplicaState::Starting(None) {
        n += 1;
        longest = longest.max(a.revoke(&n.to_string()).await.2);
    }
    patiently("a start", b.replica.serving()).await.unwrap();
    println!(
        "200,000 revocations were read in {:?}, and {n} were made meanwhile, each within {longest:?}",
        begun.elapsed()
    );
    assert!((1..=n).all(|n| b.has(&n.to_string())));
    assert!(b.sink.0.borrow().tokens.len() >= 200_000);
    assert!(longest < LEASE, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_is_in_force_everywhere_within_milliseconds() {
    let cluster = Cluster::plan().set("fsync", "on").start();
    let database = prepared(&cluster).await;
    let members = [
        Member::new(&database, "a").await,
        Member::new(&database, "b").await,
        Member::new(&database, "c").await,
    ];
    let mut took = Vec::new();
    for n in 0..1000 {
        let (_, by, one) = members[n % 3].revoke(&n.to_string()).await;
        assert_eq!(by, all(3));
        took.push(one);
    }
    took.sort();
    let (median, p99) = (took[500], took[989]);
    println!("from the call to the acknowledgement of three: median {median:?}, p99 {p99:?}");
    assert!(median <= Duration::from_millis(50), "{median:?}");
}

//! Transactions that are held at one of their steps, within the database and for as long as a test says, and what others do
//! meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::edge::postgres::commit::feed_position;
use palisade_core::domain::revocation::Target;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, CommitError, Store as _, StoreError};
use palisade_testing::conformance::{revocation, token};
use palisade_testing::postgres::{Cluster, Database};
use serde_json::json;
use tokio_postgres::Client;

use super::commits::until;
use super::failures::REFUSED_WITHIN;
use super::feed::{LEASE, Member, all, patiently, value};
use super::lease::Gateway;
use crate::place::{self, open, prepared};
use crate::support::{Upstream, status};

/// How many transactions are held at the step that [`Hold`] names.
const HELD: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted \
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// How many wait for a row that another transaction has.
const QUEUED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                      AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple')";

/// Holds each transaction that takes a step, until it is released.
struct Hold(Client);

impl Hold {
    /// `when`: before which step, as triggers are written, such as `INSERT ON palisade.feed`; `which`: of which rows.
    async fn before(database: &Database, when: &str, which: &str) -> Hold {
        let client = database.client().await;
        let sql = format!(
            "CREATE FUNCTION public.held() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$; \
             CREATE TRIGGER held BEFORE {when} FOR EACH ROW WHEN ({which}) EXECUTE FUNCTION public.held(); \
             SELECT pg_advisory_lock(7)"
        );
        client.batch_execute(&sql).await.unwrap();
        Hold(client)
    }

    async fn release(&self) {
        self.0.batch_execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    }
}

fn revoked(jti: &str) -> Change {
    Change::Revoke(revocation(token(jti), 1, 1 << 40))
}

/// Three replicas, and a database that holds the commit that takes position 1 of the feed.
struct Feeding {
    database: Database,
    members: [Arc<Member>; 3],
    hold: Hold,
    watcher: Client,
}

impl Feeding {
    async fn begin() -> Feeding {
        let database = prepared(Cluster::shared()).await;
        let members = [
            Arc::new(Member::new(&database, "a").await),
            Arc::new(Member::new(&database, "b").await),
            Arc::new(Member::new(&database, "c").await),
        ];
        let hold = Hold::before(&database, "INSERT ON palisade.feed", "NEW.position = 1").await;
        let watcher = database.client().await;
        Feeding { database, members, hold, watcher }
    }
}

/// Position 1 is taken, and not committed yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_later_number_waits_for_an_earlier_one_that_is_not_committed() {
    let Feeding { database, members, hold, watcher } = Feeding::begin().await;
    let [a, b, c] = members.clone();
    let first = tokio::spawn(async move { a.revoke("first").await });
    until(&watcher, HELD, "1").await;
    let mut second = tokio::spawn(async move { b.revoke("second").await });
    tokio::select! {
        done = &mut second => panic!("{done:?} came past a number that was taken before"),
        () = until(&watcher, QUEUED, "1") => {}
    }
    // Nothing of either is to be seen, and each goes on to confirm what there is.
    for member in &members {
        let before = member.until();
        member.holds("a confirmation", |held| held.until > before).await;
        assert_eq!(member.sink.0.borrow().order, [""; 0]);
    }
    assert_eq!(value(&database, "SELECT position FROM palisade.head").await, "0");
    assert!(!first.is_finished() && !second.is_finished());

    hold.release().await;
    let (first, by, _) = patiently("the first", first).await.unwrap();
    assert_eq!((feed_position(first.position), by), (1, all(3)));
    let (second, by, _) = patiently("the second", second).await.unwrap();
    assert_eq!((feed_position(second.position), by), (2, all(3)));
    for member in &members {
        assert_eq!(member.sink.0.borrow().order, ["first", "second"]);
    }
    assert!(c.has("second"));
}

/// Position 1 is taken by a transaction that is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_number_whose_transaction_is_taken_back_is_the_next_ones() {
    let Feeding { database, members, hold, watcher } = Feeding::begin().await;
    let [a, b, c] = members.clone();
    let first = tokio::spawn(async move { a.writer.commit(vec![revoked("first")]).await });
    until(&watcher, HELD, "1").await;
    let second = tokio::spawn(async move { b.revoke("second").await });
    until(&watcher, QUEUED, "1").await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted";
    watcher.simple_query(end).await.unwrap();
    let refused = patiently("the first", first).await.unwrap();
    assert!(matches!(refused, Err(CommitError::Store(StoreError::Unavailable(_)))), "{refused:?}");
    // It takes the same number.
    until(&watcher, HELD, "1").await;
    hold.release().await;
    let (second, by, _) = patiently("the second", second).await.unwrap();
    assert_eq!((feed_position(second.position), by), (1, all(3)));
    assert_eq!(c.revoke("third").await.1, all(3));
    for member in &members {
        assert_eq!(member.sink.0.borrow().order, ["second", "third"]);
    }
    assert_eq!(
        value(&database, "SELECT string_agg(position::text, ',' ORDER BY position) FROM palisade.feed").await,
        "1,2"
    );
}

/// An operator's session that keeps the row of the head, or the table of the replicas, as `psql` does in which a
/// transaction was begun and left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_that_another_session_keeps_refuses_what_needs_it_until_it_is_given_up() {
    let database = Cluster::shared().database().await;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&database, &database.url(), upstream.address, "").await;
    let (token, other) = (gateway.mint().await, gateway.mint().await);
    gateway.make_account().await;
    let foreign = database.client().await;
    foreign.batch_execute("BEGIN; SELECT FROM palisade.head FOR UPDATE").await.unwrap();
    let begun = Instant::now();
    let (code, answer) = gateway.admin("POST", "/admin/v1/revocations", &json!({"token": token})).await;
    assert_eq!((code, &answer["code"]), (503, &json!("store_unavailable")), "{answer}");
    assert!(begun.elapsed() < REFUSED_WITHIN, "{:?}", begun.elapsed());
    assert!(answer.get("acknowledged").is_none(), "{answer}");
    assert_eq!(gateway.ready().await.0, 200, "all else works");
    // It ends no lease, and what revokes nothing needs no such lock.
    assert_eq!(gateway.get("/app/x", &token).await, 200);
    let answer = gateway.sign_in().await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(place::value(&foreign, "SELECT count(*) FROM palisade.revocations").await, "0");
    foreign.batch_execute("COMMIT").await.unwrap();
    gateway.revoke_until_acknowledged(&token).await;
    assert_eq!(gateway.get("/app/x", &token).await, 401);

    foreign.batch_execute("BEGIN; LOCK TABLE palisade.replicas IN ACCESS EXCLUSIVE MODE").await.unwrap();
    gateway.fails_closed(&other, &token, Instant::now()).await;
    foreign.batch_execute("COMMIT").await.unwrap();
    gateway.until_ready().await;
    assert_eq!(gateway.get("/app/x", &other).await, 200);
    assert_eq!(gateway.get("/app/x", &token).await, 401);
    gateway.revoke_until_acknowledged(&other).await;
    assert_eq!(gateway.get("/app/x", &other).await, 401);
}

/// The database itself gives up, whatever becomes of the gateway that has asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_gives_up_what_waits_or_works_for_too_long() {
    let database = prepared(Cluster::shared()).await;
    let member = Member::new(&database, "a").await;
    let client = database.client().await;
    let refusal = async || match member.writer.commit(vec![revoked("t")]).await {
        Err(CommitError::Store(StoreError::Unavailable(why))) => why,
        other => panic!("{other:?}"),
    };
    client.batch_execute("BEGIN; SELECT FROM palisade.head FOR UPDATE").await.unwrap();
    let begun = Instant::now();
    let why = patiently("a refusal", refusal()).await;
    assert!(why.contains("held a row for too long") && why.contains("55P03"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    client.batch_execute("COMMIT").await.unwrap();
    let slow = "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$; \
                CREATE TRIGGER slow BEFORE INSERT ON palisade.feed FOR EACH ROW EXECUTE FUNCTION public.slow()";
    client.batch_execute(slow).await.unwrap();
    let begun = Instant::now();
    let why = patiently("a refusal", refusal()).await;
    assert!(why.contains("took too long") && why.contains("57014"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    client.batch_execute("DROP TRIGGER slow ON palisade.feed").await.unwrap();
    assert_eq!(value(&database, "SELECT position FROM palisade.head").await, "0");
    let (made, by, took) = member.revoke("t").await;
    assert_eq!((feed_position(made.position), by), (1, all(1)));
    assert!(took < LEASE, "{took:?}");
}

/// Whichever of the two is first: the version that the raise answers is the one that tokens carry from then on, and no
/// revocation covers it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_version_that_rises_while_an_operator_revokes_further_is_not_born_revoked() {
    let (issuer, sub) = ("https://id.test", "ann");
    // Whether an entry stands already that the raise can lock, and at which step of its own it is held.
    for (stands, step) in [
        (false, "INSERT ON palisade.token_versions"),
        (true, "INSERT ON palisade.token_versions"),
        (false, "INSERT ON palisade.revocations"),
    ] {
        let database = Cluster::shared().database().await;
        let (one, other) = (open(&database.url()).await, open(&database.url()).await);
        let below = |below: u64| {
            let target = Target::SubjectVersion { issuer: issuer.to_owned(), sub: sub.to_owned(), below };
            revocation(target, 1, 1 << 40)
        };
        if stands {
            one.revoke(below(1)).await.unwrap();
        }
        // The operator's own insertion is of limit 100, and is not held.
        let which = if step.contains("token_versions") { "true" } else { "NEW.lim < 100" };
        let (hold, watcher) = (Hold::before(&database, step, which).await, database.client().await);
        let raising = tokio::spawn(async move {
            one.raise_version(issuer, sub, UnixTime(1), UnixTime(1 << 40), None)
                .await
                .map(|raised| (one, raised))
        });
        until(&watcher, HELD, "1").await;
        let revoking = tokio::spawn(async move { other.revoke(below(100)).await.map(|_| other) });
        if stands {
            until(&watcher, QUEUED, "1").await;
        } else {
            // There is nothing to wait for: it is first.
            patiently("a revocation", async {
                while !revoking.is_finished() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        hold.release().await;
        let (one, raised) = patiently("a raise", raising).await.unwrap().unwrap();
        let other = patiently("a revocation", revoking).await.unwrap().unwrap();
        let version = other.version(issuer, sub).await.unwrap();
        assert_eq!(raised.target.limit(), version, "{stands} {step}: it answers what tokens carry");
        let wanted = if stands { 1 } else { 100 };
        assert_eq!(version, wanted, "{stands} {step}");
        // What was asked for stands, and the next raise is above it.
        let standing = one.revocation(&below(0).target).await.unwrap().unwrap();
        assert_eq!(standing.target.limit(), 100, "{stands} {step}");
        let next = other.raise_version(issuer, sub, UnixTime(1), UnixTime(1 << 40), None).await.unwrap();
        assert!(next.target.limit() > 99 && other.version(issuer, sub).await.unwrap() == next.target.limit());
    }
}

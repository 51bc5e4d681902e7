//! What several gateways over one database do once, and what they count together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use palisade::edge::postgres::PostgresStore;
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::connection::{Connection, ConnectionId};
use palisade_core::domain::guesses::Guesses;
use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::route::Require;
use palisade_core::ports::{
    Change, CommitError, LeaseStore, NoteKey, NoteKind, NotePut, Precondition, SharedNotes, Store,
};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::caller::Person;
use palisade_core::service::connections::{
    Begin, Callback, ConnectionPorts, ConnectionSettings, Connections, ProviderSettings,
};
use palisade_testing::accounts_world::{ANN, accounts_over, client};
use palisade_testing::connection_fakes::{ACME, FakeProviders, FakeVault, FakeWebhook};
use palisade_testing::connections_world::identity;
use palisade_testing::fakes::{FakeAudit, FakeClock, FakeEntropy, FakeLimiter, NOW};
use palisade_testing::note_conformance;
use palisade_testing::postgres::{Cluster, Database};
use secrecy::ExposeSecret;
use tokio::sync::Notify;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::place::open;

const ANN_ID: UserId = UserId(Uuid::from_u128(0xa << 64));

/// What the gateways have in common beside the database.
struct Outside {
    providers: Arc<FakeProviders>,
    clock: Arc<FakeClock>,
    entropy: Arc<FakeEntropy>,
}

struct Gateway {
    store: Arc<PostgresStore>,
    connections: Connections,
}

/// So many gateways over one new database, and Ann.
async fn gateways(count: usize) -> (Database, Outside, Vec<Gateway>) {
    let database = Cluster::shared().database().await;
    let outside = Outside {
        providers: Arc::new(FakeProviders::open()),
        clock: Arc::default(),
        entropy: Arc::default(),
    };
    let mut all = Vec::new();
    for _ in 0..count {
        let store = open(&database.url()).await;
        all.push(Gateway { connections: connections(&outside, &store), store });
    }
    let ann = User { email_verified: true, ..User::new(ANN_ID, ANN.parse().unwrap(), NOW) };
    all[0].store.commit(vec![Change::CreateUser(ann)]).await.unwrap();
    (database, outside, all)
}

fn connections(outside: &Outside, store: &Arc<PostgresStore>) -> Connections {
    let acme = ProviderSettings { scopes: Vec::new(), token_access: Some(Require::default()) };
    let settings = ConnectionSettings {
        callback_url: "https://us.test/auth/connections/callback".to_owned(),
        return_to: Vec::new(),
        refresh_ahead: Duration::from_secs(300),
        keep_fresh: true,
        warn_ahead: Duration::from_secs(2 * 24 * 3600),
        providers: BTreeMap::from([(ACME.to_owned(), acme)]),
    };
    let ports = ConnectionPorts {
        store: Arc::clone(store) as _,
        providers: Arc::clone(&outside.providers) as _,
        vault: Arc::new(FakeVault::default()),
        webhook: Arc::new(FakeWebhook::default()),
        clock: Arc::clone(&outside.clock) as _,
        entropy: Arc::clone(&outside.entropy) as _,
        limiter: Arc::new(FakeLimiter::default()),
        audit: Arc::new(FakeAudit::default()),
        key: Arc::new(ServerKey::new(Zeroizing::new([9; 32]))),
        outbox: Arc::new(Notify::new()),
        issuer: "https://us.test".to_owned(),
        run: Uuid::now_v7(),
    };
    Connections::new(ports, settings)
}

/// Ann connects Acme: begun at the first gateway, and brought back to the last.
async fn connected(outside: &Outside, all: &[Gateway]) -> ConnectionId {
    let ann = Person { user: ANN_ID, session: None };
    let begin = Begin { provider: ACME.to_owned(), ..Begin::default() };
    let begun = all[0].connections.begin(&client(), ann, begin).await.unwrap();
    let callback = Callback {
        state: outside.providers.states.lock().unwrap().last().unwrap().clone(),
        browser: begun.browser.clone(),
        parameters: vec![("code".to_owned(), "c0de".into())],
    };
    let last = &all[all.len() - 1].connections;
    let returned = last.callback(&client(), callback).await.unwrap();
    assert_eq!(returned.outcome, Ok(()));
    returned.connection
}

async fn stored(gateway: &Gateway, id: ConnectionId) -> Connection {
    gateway.store.connection(ANN_ID, id).await.unwrap().unwrap()
}

async fn access(connections: &Connections, id: ConnectionId) -> String {
    let token = connections.provider_token(&client(), &identity(ANN_ID), id).await.unwrap();
    token.access_token.expose_secret().to_owned()
}

/// Leases and notes go by a clock that stands still until it is moved.
async fn stop_clock(database: &Database) -> tokio_postgres::Client {
    let client = database.client().await;
    let sql = "CREATE TABLE public.lease_time AS SELECT now() AS at;
               CREATE OR REPLACE FUNCTION palisade.lease_clock() RETURNS timestamptz LANGUAGE sql VOLATILE
               AS 'SELECT at FROM public.lease_time'";
    client.batch_execute(sql).await.unwrap();
    client
}

async fn advance(client: &tokio_postgres::Client, span: Duration) {
    let sql =
        format!("UPDATE public.lease_time SET at = at + {} * interval '1 microsecond'", span.as_micros());
    client.batch_execute(&sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_at_three_gateways_cause_one_call() {
    let (_database, outside, all) = gateways(3).await;
    let id = connected(&outside, &all).await;
    outside.clock.advance(7200);
    outside.providers.close_gate();
    let callers: Vec<_> = (0..1000)
        .map(|n| {
            let connections = all[n % 3].connections.clone();
            tokio::spawn(async move { access(&connections, id).await })
        })
        .collect();
    outside.providers.begun.notified().await;
    // Until those of each gateway wait for one another.
    let waiting = async {
        while all.iter().any(|gateway| gateway.connections.queued(id) < 300) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("they do not wait for one another");
    let answered = std::time::Instant::now();
    outside.providers.gate.add_permits(1000);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "a0.1");
    }
    let took = answered.elapsed();
    assert_eq!(outside.providers.count("refresh"), 1);
    assert!(took < Duration::from_secs(5), "the last of them had its token after {took:?}");
    eprintln!("1,000 callers at three gateways: the last had its token {took:?} after the provider's answer");
}

/// A holder is stopped with its answer in hand (SIGSTOP), and its lease ends. What it writes once it goes on is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_paused_writes_nothing_over_its_successors_tokens() {
    let (database, outside, all) = gateways(3).await;
    let id = connected(&outside, &all).await;
    let clock = stop_clock(&database).await;
    outside.clock.advance(7200);
    let (subject, paused) = (LeaseSubject::Refresh(id), LeaseHolder(Uuid::from_u128(77)));
    let lease = all[0].store.claim(subject, paused, Duration::from_secs(60)).await.unwrap().unwrap();
    let mut late = stored(&all[0], id).await;
    late.tokens.as_mut().unwrap().access_token = "1|k|late".to_owned();

    // While the lease stands, no other gateway asks.
    let caller = tokio::spawn({
        let connections = all[1].connections.clone();
        async move { access(&connections, id).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(outside.providers.count("refresh"), 0);
    advance(&clock, Duration::from_secs(61)).await;
    assert_eq!(caller.await.unwrap(), "a0.1");
    let successors = stored(&all[2], id).await;

    for changes in [
        vec![Change::Require(Precondition::LeaseStands(lease)), Change::UpdateConnection(late.clone())],
        vec![Change::UpdateConnection(late.clone())],
        // Also where it has read the record again, but not asked for its lease.
        vec![
            Change::Require(Precondition::LeaseStands(lease)),
            Change::UpdateConnection(Connection { revision: successors.revision, ..late.clone() }),
        ],
    ] {
        let refused = all[0].store.commit(changes).await;
        assert!(matches!(refused, Err(CommitError::Conflict)), "{refused:?}");
    }
    all[0].store.release(lease).await.unwrap();
    assert_eq!(stored(&all[1], id).await, successors);
    outside.clock.advance(7200);
    assert_eq!(access(&all[2].connections, id).await, "a0.2", "with the refresh token of the successor");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_of_three_holds_what_is_done_once() {
    let (_database, _, all) = gateways(3).await;
    for subject in [
        LeaseSubject::Sweep,
        LeaseSubject::ClockMark,
        LeaseSubject::Upgrades,
        LeaseSubject::Consent(Uuid::from_u128(5)),
    ] {
        let claims = all.iter().enumerate().map(|(n, gateway)| {
            let holder = LeaseHolder(Uuid::from_u128(n as u128 + 1));
            gateway.store.claim(subject, holder, Duration::from_secs(60))
        });
        let granted = futures::future::join_all(claims).await;
        assert_eq!(
            granted.iter().filter(|lease| lease.as_ref().unwrap().is_some()).count(),
            1,
            "{subject:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_notes_of_postgres_conform() {
    let (database, _, all) = gateways(1).await;
    let clock = stop_clock(&database).await;
    note_conformance::notes(&*all[0].store, async |span| advance(&clock, span).await).await;
}

/// Each of them reads the count, adds one, and writes it as it was read: none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn counts_of_three_gateways_add_up() {
    let (_database, _, all) = gateways(3).await;
    let key = NoteKey { kind: NoteKind::Tries, hash: [1; 32] };
    let add = async |store: &PostgresStore| loop {
        let read = store.notes(&[key]).await.unwrap().notes.remove(0);
        let count =
            read.as_ref().map_or(0, |note| String::from_utf8_lossy(&note.body).parse::<u32>().unwrap());
        let body = (count + 1).to_string().into_bytes();
        let (before, life) = (read.map(|note| note.revision), Duration::from_secs(60));
        if store.put_notes(vec![NotePut { key, before, body, life }]).await.unwrap() == [true] {
            break;
        }
    };
    futures::future::join_all((0..60).map(|n| add(&all[n % 3].store))).await;
    let read = all[1].store.notes(&[key]).await.unwrap().notes.remove(0).unwrap();
    assert_eq!(read.body, b"60");
}

/// Strangers can cause notes, so there is a bound.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_notes_is_bounded() {
    let (database, _, all) = gateways(1).await;
    let client = database.client().await;
    let (kind, most) = (NoteKind::Carry.code(), i64::from(NoteKind::Carry.most()));
    let sql = format!(
        "INSERT INTO palisade.notes (kind, hash, revision, ends_at, body) \
         SELECT {kind}, decode(lpad(to_hex(n), 64, '0'), 'hex'), n, now() + n * interval '1 second', '' \
         FROM generate_series(1, {most} + 9000) n"
    );
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(all[0].store.trim_notes().await.unwrap(), 9000);
    let counting = "SELECT count(*), min(revision) FROM palisade.notes";
    let row = client.query_one(counting, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (most, 9001), "those that ended first are gone");
}

/// Each replica would let some through before the first has failed.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_one_moment_at_three_gateways_are_no_more_than_at_one() {
    let (database, _, all) = gateways(3).await;
    // However slow the machine is, no wait ends meanwhile.
    let _clock = stop_clock(&database).await;
    let gateways: Vec<_> = all.iter().map(|gateway| accounts_over(Arc::clone(&gateway.store) as _)).collect();
    let browser = client();
    let guesses = (0..60).map(|n| gateways[n % 3].0.password_login(&browser, ANN, "wrong".into()));
    let outcomes = futures::future::join_all(guesses).await;
    let waits = |outcome: &&Result<_, AccountError>| matches!(outcome, Err(AccountError::TooMany(_)));
    let looked_at: usize =
        gateways.iter().map(|(_, passwords)| passwords.requesters.lock().unwrap().len()).sum();
    let most = Guesses::default().free as usize + 1;
    assert_eq!((looked_at, outcomes.iter().filter(waits).count()), (most, 60 - most));
}

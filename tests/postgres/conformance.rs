//! The store in PostgreSQL against the suites that every store passes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::edge::postgres::PostgresStore;
use palisade::edge::store::{ObservedStore, SledStore};
use palisade_core::domain::account::UserId;
use palisade_core::domain::audit::Event;
use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::MailboxId;
use palisade_core::domain::revocation::{Begun, Revocation, Versions};
use palisade_core::domain::task::TaskKind;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    Change, LeaseStore, Record, RecordSource, Records, Store, StoreError, Upgrade, VersionedRecord,
};
use palisade_testing::conformance::{
    self, all, connection, event, link, mail, revocation, session, task, token, user,
};
use palisade_testing::lease_conformance;
use palisade_testing::postgres::{Cluster, Database};
use palisade_testing::transfer::{self, Pages, Whole};
use uuid::Uuid;

use super::place::{HELD_UP, Place, open, settings};

async fn fresh() -> Place {
    Place::of(&Cluster::shared().database().await)
}

async fn opened() -> (Database, Arc<PostgresStore>) {
    let database = Cluster::shared().database().await;
    let store = open(&database.url()).await;
    (database, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms() {
    conformance::suite(fresh, async |place: &Path| open(place.to_str().unwrap()).await as Arc<dyn Store>)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decorated_postgres_conforms() {
    conformance::suite(fresh, async |place: &Path| {
        Arc::new(ObservedStore::new(open(place.to_str().unwrap()).await, Vec::new())) as Arc<dyn Store>
    })
    .await;
}

/// Two gateways with one store: each sees at once what the other has committed.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_gateway_commits_the_other_reads() {
    let (database, first) = opened().await;
    let second = open(&database.url()).await;
    for n in 1..=20 {
        let (writer, reader) = if n % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let made = user(n, &format!("u{n}@example.com"));
        let at = writer.commit(vec![Change::CreateUser(made.clone())]).await.unwrap().position;
        assert_eq!(reader.user(made.id).await.unwrap(), Some(made));
        writer.revoke(revocation(token(&n.to_string()), 1, 100)).await.unwrap();
        assert!(writer.position() > at);
        assert_eq!(all(&**reader, 0).await.len(), usize::try_from(n).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leases_of_postgres_conform() {
    let (database, store) = opened().await;
    leases_conform(&database, store).await;
}

/// The suite of leases, by a clock of its own.
pub(super) async fn leases_conform(database: &Database, store: Arc<PostgresStore>) {
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE TABLE public.lease_time AS SELECT now() AS at;
             CREATE OR REPLACE FUNCTION palisade.lease_clock() RETURNS timestamptz LANGUAGE sql VOLATILE
             AS 'SELECT at FROM public.lease_time'",
        )
        .await
        .unwrap();
    let advance = async |span: Duration| {
        let sql =
            format!("UPDATE public.lease_time SET at = at + {} * interval '1 microsecond'", span.as_micros());
        client.batch_execute(&sql).await.unwrap();
    };
    lease_conformance::leases(store.clone(), advance).await;

    // What was released, and what has ended, is forgotten one day; what stands is not.
    let (holder, term) = (LeaseHolder(Uuid::from_u128(1)), Duration::from_secs(7 * 24 * 3600));
    let stands = store.claim(LeaseSubject::Mail(Uuid::from_u128(999)), holder, term).await.unwrap().unwrap();
    advance(Duration::from_secs(25 * 3600)).await;
    store.sweep(UnixTime(0)).await.unwrap();
    let kept = client.query("SELECT fence FROM palisade.leases", &[]).await.unwrap();
    assert_eq!(kept.iter().map(|row| row.get::<_, i64>(0) as u64).collect::<Vec<_>>(), [stands.fence]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_by_the_clock_of_the_server_and_outlasts_its_holder() {
    let (database, store) = opened().await;
    let (first, second) = (LeaseHolder(Uuid::from_u128(1)), LeaseHolder(Uuid::from_u128(2)));
    let term = Duration::from_secs(3600);
    let lease = store.claim(LeaseSubject::Notices, first, term).await.unwrap().unwrap();
    store.close();
    assert!(matches!(store.users(None, 1).await, Err(StoreError::Unavailable(_))));
    let other = open(&database.url()).await;
    assert_eq!(other.claim(LeaseSubject::Notices, second, term).await.unwrap(), None);
    assert_eq!(other.claim(LeaseSubject::Notices, first, term).await.unwrap(), Some(lease));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_the_way_between_sled_and_postgres() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [first, filler, back] = folders.each_ref().map(|folder| SledStore::open(folder.path()).unwrap());
    let (_, other) = opened().await;
    transfer::there_and_back(&*first, &*filler, &*other, &*back).await;
    for store in [&first, &filler, &back] {
        store.verify().await.unwrap();
    }
    let ((_, first), (_, filler), (database, back)) = (opened().await, opened().await, opened().await);
    let folder = tempfile::tempdir().unwrap();
    let other = SledStore::open(folder.path()).unwrap();
    transfer::there_and_back(&*first, &*filler, &*other, &*back).await;
    other.verify().await.unwrap();
    // Also for the next start.
    let before = Whole::in_store(&*back).await;
    drop(back);
    assert_eq!(Whole::in_store(&*open(&database.url()).await).await, before);
}

/// What is exported while commits go on is of one state, that of the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_of_one_state() {
    let (_, store) = opened().await;
    let made: Vec<_> =
        (1..=1200).map(|n| Change::CreateUser(user(n, &format!("u{n}@example.com")))).collect();
    for changes in made.chunks(100) {
        store.commit(changes.to_vec()).await.unwrap();
    }
    let whole = Whole::in_store(&*store).await;
    let mut snapshot = store.snapshot().await.unwrap();
    let mut found = snapshot.next_page().await.unwrap();
    for n in [1, 600, 1200, 1201] {
        let id = UserId(Uuid::from_u128(n));
        let renamed = format!("w{n}@example.com");
        store.commit(vec![Change::DeleteUser(id), Change::CreateSession(session(n, 1, 9))]).await.unwrap();
        store.commit(vec![Change::CreateUser(user(n + 5000, &renamed))]).await.unwrap();
    }
    loop {
        let page = snapshot.next_page().await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(Whole::of(found), whole);
    assert_ne!(Whole::in_store(&*store).await, whole);
}

/// A walk begins when no commit is under way, and notices one that comes later; other applications' transactions are no
/// matter to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_is_of_the_state_between_two_commits() {
    let (database, store) = opened().await;
    let made = (1..=9).map(|n| Change::CreateUser(user(n, &format!("u{n}@example.com")))).collect();
    store.commit(made).await.unwrap();
    let (client, theirs) = (database.client().await, database.client().await);
    theirs.batch_execute("BEGIN; CREATE TABLE public.theirs (n int)").await.unwrap();
    // A commit that has its number and is not yet to be seen.
    let under_way = "BEGIN; SELECT palisade.in_commit(); DELETE FROM palisade.users \
                     WHERE id = '00000000-0000-0000-0000-000000000009'; SELECT nextval('palisade.commits')";
    client.batch_execute(under_way).await.unwrap();
    let walking = Arc::clone(&store);
    let walk = tokio::spawn(async move { transfer::exported(&*walking).await.len() });
    while theirs.query_one(HELD_UP, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(walk.await.unwrap(), 8);
    let page = store.records(None, 1).await.unwrap();
    theirs.batch_execute("COMMIT").await.unwrap();
    let page = store.records(page.next, 1).await.unwrap();
    store.commit(vec![Change::Upgraded(Upgrade::ReservedClaims)]).await.unwrap();
    let torn = store.records(page.next, 1).await;
    assert!(matches!(torn, Err(StoreError::Unavailable(_))), "{torn:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_program_wrote_is_not_left_out_of_an_export() {
    let (database, store) = opened().await;
    store.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
    let client = database.client().await;
    client.batch_execute("UPDATE palisade.users SET version = 99").await.unwrap();
    let refused = store.records(None, 9).await;
    assert!(matches!(refused, Err(StoreError::Newer(_))), "{refused:?}");
    client.batch_execute("UPDATE palisade.users SET version = 3").await.unwrap();
    store.records(None, 9).await.unwrap();
    client
        .batch_execute("INSERT INTO palisade.migrations (number, oldest_program) VALUES (9999, 1)")
        .await
        .unwrap();
    let refused = store.records(None, 9).await;
    assert!(matches!(refused, Err(StoreError::Newer(_))), "{refused:?}");
}

/// What a newer program has left is neither swept nor taken for work of ours.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_newer_program_are_left_to_it() {
    let (database, store) = opened().await;
    let made = vec![
        Change::CreateSession(session(1, 1, 10)),
        Change::CreateLink(link(1, 10)),
        Change::PutMail(mail(1, "ann@example.com", 10)),
        Change::PutMail(Mail { given_up: true, ..mail(2, "ann@example.com", 10) }),
        Change::CreateTask(task(1, 10)),
        Change::CreateConnection(connection(1, 1, Some(10))),
        Change::Revoke(revocation(token("t"), 1, 10)),
    ];
    store.commit(made).await.unwrap();
    let client = database.client().await;
    for table in ["sessions", "links", "mails", "tasks", "connections", "revocations"] {
        client.batch_execute(&format!("UPDATE palisade.{table} SET version = 99")).await.unwrap();
    }
    let swept = store.sweep(UnixTime::NEVER).await.unwrap();
    assert_eq!(swept, Default::default());
    assert_eq!(store.due_mails(UnixTime::NEVER, 9).await.unwrap(), []);
    assert_eq!(store.due_connections(UnixTime::NEVER, 9).await.unwrap(), []);
    for kind in TaskKind::ALL {
        assert_eq!(store.due_tasks_of(kind, UnixTime::NEVER, 9).await.unwrap(), []);
    }
    let read = store.each_revocation(UnixTime(0), &mut |_| ()).await;
    assert!(matches!(read, Err(StoreError::Newer(_))), "{read:?}");
    client.batch_execute("UPDATE palisade.mails SET version = 1").await.unwrap();
    store.sweep(UnixTime::NEVER).await.unwrap();
    assert_eq!(store.mails(9).await.unwrap(), [mail(1, "ann@example.com", 10)]);
}

/// A batch that another transaction has a row of goes on with the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_waits_for_no_row() {
    let (database, store) = opened().await;
    for chunk in 0..6 {
        let made = (0..100).map(|n| Change::CreateLink(link(chunk * 100 + n, 10))).collect();
        store.commit(made).await.unwrap();
    }
    let client = database.client().await;
    client.batch_execute("BEGIN; SELECT FROM palisade.links LIMIT 7 FOR UPDATE").await.unwrap();
    assert_eq!(store.sweep(UnixTime(10_000)).await.unwrap().links, 593);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.sweep(UnixTime(10_000)).await.unwrap().links, 7);
}

/// Fills every table, asks everything, and looks which tables the server has read from their beginning.
#[tokio::test(flavor = "multi_thread")]
async fn every_read_uses_an_index() {
    let (database, store) = opened().await;
    for n in 1..=3000u128 {
        let address = format!("u{n}@example.com");
        let made = vec![
            Change::CreateUser(user(n, &address)),
            Change::CreateSession(session(n, n, 10_000 + n as u64)),
            Change::CreateConnection(connection(n, n, Some(n as u64))),
            Change::CreateLink(link(n, 10_000)),
            Change::PutMail(mail(n, &address, n as u64)),
            Change::CreateTask(task(n, n as u64)),
            Change::Record(vec![event(Some(n), n)]),
            Change::Revoke(revocation(token(&n.to_string()), n as u64, 10_000 + n as u64)),
            Change::RaiseVersion {
                issuer: "https://id.test".into(),
                sub: n.to_string(),
                created_at: UnixTime(1),
                expires_at: UnixTime(10_000),
                reason: None,
                enforce: false,
            },
        ];
        store.commit(made).await.unwrap();
    }
    drop(store);
    let client = database.client().await;
    let (_, mailboxes) = (
        (),
        "INSERT INTO palisade.mailboxes SELECT decode(md5(n::text), 'hex'), 1, n, 1, '' \
                               FROM generate_series(1, 3000) n; \
                               INSERT INTO palisade.gone_users SELECT gen_random_uuid(), n FROM generate_series(1, 3000) n",
    );
    client.batch_execute(mailboxes).await.unwrap();
    client.batch_execute("ANALYZE; SELECT pg_stat_reset()").await.unwrap();

    let store = open(&database.url()).await;
    let (id, never) = (Uuid::from_u128(77), UnixTime::NEVER);
    let ann = store.user(UserId(id)).await.unwrap().unwrap();
    let name = ann.username.clone().unwrap();
    assert!(store.user_by_email(ann.email.as_ref().unwrap()).await.unwrap().is_some());
    assert!(store.user_by_username(&name).await.unwrap().is_some());
    assert!(store.username_owner(&name).await.unwrap().is_some());
    assert!(store.user_by_identity(&ann.identities[0]).await.unwrap().is_some());
    assert_eq!(store.users(Some(ann.id), 9).await.unwrap().len(), 9);
    assert_eq!(store.users(None, 9).await.unwrap().len(), 9);
    let of = session(77, 77, 0);
    assert!(store.session(of.user, of.id).await.unwrap().is_some());
    assert!(store.find_session(of.id).await.unwrap().is_some());
    assert_eq!(store.sessions(ann.id).await.unwrap().len(), 1);
    assert_eq!(store.all_sessions(Some((of.user, of.id)), 9).await.unwrap().len(), 9);
    assert_eq!(store.all_sessions(None, 9).await.unwrap().len(), 9);
    let of = connection(77, 77, None);
    assert!(store.connection(of.user, of.id).await.unwrap().is_some());
    assert_eq!(store.connections(ann.id).await.unwrap().len(), 1);
    assert_eq!(store.all_connections(Some((of.user, of.id)), 9).await.unwrap().len(), 9);
    assert_eq!(store.all_connections(None, 9).await.unwrap().len(), 9);
    assert_eq!(store.due_connections(never, 9).await.unwrap().len(), 9);
    assert!(store.link(&link(77, 0).hash).await.unwrap().is_some());
    assert!(store.task(id).await.unwrap().is_some());
    assert_eq!(store.due_tasks_of(TaskKind::Account, never, 9).await.unwrap().len(), 9);
    assert!(store.mail(id).await.unwrap().is_some());
    assert_eq!(store.mails(9).await.unwrap().len(), 9);
    assert_eq!(store.due_mails(never, 9).await.unwrap().len(), 9);
    assert!(store.mailbox(MailboxId([0; 16])).await.unwrap().is_none());
    assert_eq!(store.events(Some(ann.id), 9).await.unwrap().len(), 1);
    assert_eq!(store.events(None, 9).await.unwrap().len(), 0);
    assert!(store.revocation(&token("77")).await.unwrap().is_some());
    assert_eq!(store.recent_revocations(9).await.unwrap().len(), 9);
    assert_eq!(store.versions("https://id.test", "77").await.unwrap().subject, 1);
    assert_eq!(store.version("https://id.test", "77").await.unwrap(), 1);
    assert_eq!(store.generation("https://id.test").await.unwrap(), 0);
    let begun =
        Begun { issuer: "i", user: id, session: Some(id), versions: Versions::default(), at: UnixTime(1) };
    assert!(!store.is_cut(&begun).await.unwrap());
    assert_eq!(store.gone_users(UnixTime(2_000_000_000)).await.unwrap(), []);
    store.sweep(UnixTime(3600 + 5)).await.unwrap();
    drop(store);

    // A server process tells what it did when it ends.
    let others = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    client.batch_execute(others).await.unwrap();
    // Of one row, or read as a whole by an index for all of its rows.
    let read = "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'palisade' AND seq_scan > 0 \
                AND relname NOT IN ('installation', 'head', 'migrations', 'clock_mark', 'leases', 'replicas')";
    let scanned: Vec<String> = client.query(read, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(scanned, [""; 0], "these were read from their beginning");
}

/// How long a start takes to load a million revocations.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_revocations_are_read_in_seconds() {
    let (database, store) = opened().await;
    let client = database.client().await;
    let issuer = "https://id.test";
    let fill = format!(
        "INSERT INTO palisade.revocations SELECT decode('01', 'hex') || int4send({}) || '{issuer}'::bytea || \
         gen_random_uuid()::text::bytea, 9223372036854775807, 1800000000 + n, 1700000000 + n, 1, NULL \
         FROM generate_series(1, 1000000) n",
        issuer.len()
    );
    client.batch_execute(&fill).await.unwrap();
    let (begun, mut count, mut last) = (Instant::now(), 0u32, None);
    let mut each = |entry: Revocation| {
        count += 1;
        last = Some(entry);
    };
    store.each_revocation(UnixTime(0), &mut each).await.unwrap();
    let took = begun.elapsed();
    println!("a million revocations were read in {took:?}");
    assert_eq!(
        (count, last.map(|entry| entry.target.key().1.to_owned())),
        (1_000_000, Some(issuer.to_owned()))
    );
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// A source whose second page waits for a word.
struct Slow {
    pages: Vec<Vec<VersionedRecord>>,
    between: tokio::sync::oneshot::Receiver<()>,
}

#[async_trait::async_trait]
impl RecordSource for Slow {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        if self.pages.len() == 1 {
            let _ = (&mut self.between).await;
        }
        Ok(self.pages.pop().unwrap_or_default())
    }
}

/// While it is filled a store serves nothing, at other gateways neither.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_during_an_import() {
    let (database, store) = opened().await;
    let bystander = open(&database.url()).await;
    let record = |n| vec![Record::User(user(n, &format!("u{n}@example.com"))).into()];
    let (go_on, between) = tokio::sync::oneshot::channel();
    let filling = Arc::clone(&store);
    let mut source = Slow { pages: vec![record(2), record(1)], between };
    let import = tokio::spawn(async move { filling.import(&mut source).await });
    let client = database.client().await;
    let begun = async || {
        let row = client.query_one("SELECT count(*) FROM palisade.users", &[]).await.unwrap();
        row.get::<_, i64>(0) == 1
    };
    while !begun().await {
        tokio::task::yield_now().await;
    }
    assert!(store.users(None, 9).await.is_err());
    let made = bystander.commit(vec![Change::CreateUser(user(7, "eve@example.com"))]).await;
    assert!(made.is_err(), "{made:?}");
    let refused = bystander.import(&mut Pages::new([record(9)])).await;
    assert!(refused.is_err(), "{refused:?}");
    let Err(refused) = PostgresStore::open(settings(&database.url())).await else { panic!("it opened") };
    assert!(refused.to_string().contains("import the records again"), "{refused}");
    go_on.send(()).unwrap();
    assert_eq!(import.await.unwrap().unwrap(), 2);
    assert_eq!(bystander.users(None, 9).await.unwrap().len(), 2);
    bystander.commit(vec![Change::Upgraded(Upgrade::ReservedClaims)]).await.unwrap();
}

/// More events of one account than are kept, such as of another kind of store, are no more afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_keeps_no_more_events_than_commits_do() {
    let (_, store) = opened().await;
    let events = (0..1000u32).map(|n| {
        let event = event((n % 2 == 0).then_some(1), n.into());
        Record::Event(Event { at: UnixTime(n.into()), ..event }).into()
    });
    store.import(&mut Pages::new([events.collect::<Vec<_>>()])).await.unwrap();
    let kept = async |user: Option<u128>| {
        let user = user.map(|user| UserId(Uuid::from_u128(user)));
        let kept = store.events(user, 9999).await.unwrap();
        (kept.len(), kept[0].id.as_u128())
    };
    assert_eq!((kept(Some(1)).await, kept(None).await), ((200, 998), (100, 999)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_secrets_are_known_by_is_kept() {
    let (database, store) = opened().await;
    let checks = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, check)| ((*name).to_owned(), (*check).to_owned())).collect()
    };
    assert_eq!(store.key_checks().await.unwrap(), checks(&[]));
    store.put_key_checks(checks(&[("vault.key", "a'\\b"), ("ż", "1")])).await.unwrap();
    store.put_key_checks(checks(&[("ż", "2"), ("admin.token", "c")])).await.unwrap();
    let all = checks(&[("admin.token", "c"), ("vault.key", "a'\\b"), ("ż", "2")]);
    assert_eq!(store.key_checks().await.unwrap(), all);
    assert_eq!(open(&database.url()).await.key_checks().await.unwrap(), all);
}

//! What every store must do with its records as a whole: walk over them, and take those of another store in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::{Event, Outcome};
use palisade_core::domain::connection::Connection;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::{Mailbox, MailboxId};
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::task::{Errand, Task, TaskKind, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::{Mark, Stop};
use palisade_core::ports::{
    Change, EVENTS_KEPT, ImportError, Record, RecordKind, RecordSource, Records, RecordsOf, Store,
    StoreError, Upgrade, VersionedRecord,
};
use uuid::Uuid;

use crate::conformance::{connection, event, link, mail, revocation, session, task, token, user};
use crate::crash::CHILD;

/// Every record of a store.
pub async fn exported(store: &dyn Records) -> Vec<VersionedRecord> {
    let mut records = Vec::new();
    let count = store.each_record(&mut |record| records.push(record)).await.unwrap();
    assert_eq!(count, records.len() as u64);
    records
}

/// What two stores that are the same one have in common: all records, and of each account the order of its events. Of
/// other records each store has an order of its own.
#[derive(Debug, PartialEq)]
pub struct Whole {
    records: BTreeSet<String>,
    events: BTreeMap<Option<UserId>, Vec<Event>>,
}

impl Whole {
    pub fn of(records: Vec<VersionedRecord>) -> Whole {
        let mut whole = Whole { records: BTreeSet::new(), events: BTreeMap::new() };
        for record in records {
            match record.record {
                Record::Event(event) => whole.events.entry(event.user).or_default().push(event),
                _ => {
                    assert!(whole.records.insert(serde_json::to_string(&record).unwrap()), "{record:?} twice")
                }
            }
        }
        whole
    }

    pub async fn in_store(store: &dyn Records) -> Whole {
        Whole::of(exported(store).await)
    }
}

/// Pages that were prepared.
pub struct Pages(VecDeque<Result<Vec<VersionedRecord>, StoreError>>);

impl Pages {
    pub fn new(pages: impl IntoIterator<Item = Vec<VersionedRecord>>) -> Pages {
        Pages(pages.into_iter().map(Ok).collect())
    }
}

#[async_trait]
impl RecordSource for Pages {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        self.0.pop_front().unwrap_or_else(|| Ok(Vec::new()))
    }
}

/// Commits that leave records of every kind, in several forms, but what a secret is known by: no commit writes that.
fn changes() -> Vec<Vec<Change>> {
    let denied = |user, id| Event { outcome: Outcome::Denied, ..event(user, id) };
    let issuer = || "https://id.test".to_owned();
    let (created_at, expires_at) = (UnixTime(1), UnixTime(100));
    let raise = |sub: &str| Change::RaiseVersion {
        issuer: issuer(),
        sub: sub.to_owned(),
        created_at,
        expires_at,
        reason: Some("lost laptop".to_owned()),
        enforce: true,
    };
    let target =
        |n: u64| Target::SubjectIssued { issuer: format!("i{n}"), sub: "x".into(), until: UnixTime(n) };
    let errand = Errand::EndGrant(Box::new(connection(1, 9, None)));
    let errand = Work::Errand { made_at: UnixTime(1), tries: 2, errand };
    let mut changed = user(2, "bob@example.com");
    changed.email = Some("rob@example.com".parse().unwrap());
    changed.username = Some("rob".parse().unwrap());
    let mut mailbox = Mailbox::new(MailboxId([7; 16]));
    mailbox.revision = 0;
    let others: Vec<Event> = (0..EVENTS_KEPT as u128 + 3).map(|n| event(Some(2), 1000 + n)).collect();
    vec![
        vec![Change::CreateUser(user(1, "ann@example.com")), Change::CreateUser(user(2, "bob@example.com"))],
        vec![Change::UpdateUser(changed)],
        vec![Change::CreateUser(User { email: None, ..user(3, "none@example.com") })],
        // A name that was changed, and one of an account that is gone.
        vec![Change::CreateUser(user(4, "cid@example.com")), Change::DeleteUser(UserId(Uuid::from_u128(4)))],
        vec![Change::Upgraded(Upgrade::ReservedClaims)],
        vec![Change::CreateSession(session(1, 1, 100)), Change::CreateSession(session(2, 2, 200))],
        // Filed under its first end, which has moved.
        vec![Change::UpdateSession(session(1, 1, 300))],
        vec![
            Change::CreateConnection(connection(1, 1, Some(5))),
            Change::CreateConnection(connection(2, 2, None)),
        ],
        vec![Change::UpdateConnection(Connection { tokens: None, ..connection(1, 1, Some(7)) })],
        vec![Change::CreateLink(link(1, 100)), Change::CreateLink(link(2, 100))],
        vec![Change::ConsumeLink(link(2, 100).hash)],
        vec![Change::PutMail(mail(1, "ann@example.com", 5))],
        vec![Change::PutMail(Mail { given_up: true, ..mail(2, "gone@example.com", 5) })],
        vec![Change::PutMailbox(mailbox)],
        vec![Change::CreateTask(task(1, 5)), Change::CreateTask(Task { work: errand, ..task(2, 3) })],
        vec![Change::PutClockMark(Mark {
            at: UnixTime(5),
            stops: vec![Stop { seconds: 60, left: 3600 }],
            highest: UnixTime(9),
            accepted: 1,
        })],
        // The second issuer is met before the first.
        (0..3).rev().map(|n| Change::Revoke(revocation(target(n), 1, 100 + n))).collect(),
        vec![
            Change::Revoke(revocation(token("t"), 1, 100)),
            Change::Revoke(revocation(token(&Uuid::nil().to_string()), 1, 100)),
        ],
        vec![raise("ann"), raise("ann"), raise("bob")],
        vec![Change::RaiseGeneration {
            issuer: issuer(),
            created_at,
            expires_at,
            reason: None,
            // Without a revocation.
            enforce: false,
        }],
        vec![Change::CutSessions { issuer: issuer(), sub: None, created_at, expires_at, reason: None }],
        vec![Change::Record(vec![
            event(Some(1), 1),
            denied(Some(1), 2),
            event(Some(1), 3),
            denied(Some(1), 4),
        ])],
        vec![Change::Record(vec![denied(None, 5), event(None, 6), denied(None, 7)])],
        // More than are kept, so that the first of them is not the first that there was.
        vec![Change::Record(others)],
        // Events of an account that is gone; the second has only events that strangers can cause.
        vec![Change::Record(vec![event(Some(8), 8), denied(Some(9), 9)])],
    ]
}

/// A record of every kind.
pub async fn every_record(store: &dyn Store) -> Vec<VersionedRecord> {
    for changes in changes() {
        store.commit(changes).await.unwrap();
    }
    let mut records = exported(store).await;
    for file in ["vault.key", "admin.token"] {
        records.push(Record::KeyCheck { file: file.to_owned(), check: format!("mac of {file}") }.into());
    }
    let kinds: BTreeSet<_> = records.iter().map(|record| record.record.kind()).collect();
    assert_eq!(kinds, RecordKind::ALL.into(), "a kind of record is missing from the suite");
    records
}

/// What a store exports is imported by the other, and comes out again as it went in. Each of the two is empty; `back`
/// is of the first kind, and empty as well.
pub async fn there_and_back(first: &dyn Store, filler: &dyn Store, other: &dyn Store, back: &dyn Store) {
    // What no commit writes gets into the first one by an import.
    let all = every_record(filler).await;
    let whole = Whole::of(all.clone());
    let count = all.len() as u64;
    assert_eq!(first.import(&mut Pages::new([all])).await.unwrap(), count);
    assert_eq!(Whole::in_store(first).await, whole);
    assert_eq!(other.import(&mut RecordsOf::new(first)).await.unwrap(), count);
    assert_eq!(Whole::in_store(other).await, whole);
    assert_eq!(back.import(&mut RecordsOf::new(other)).await.unwrap(), count);
    assert_eq!(Whole::in_store(back).await, whole);
    for store in [other, back] {
        serves_as(store, filler).await;
    }
}

/// `store` answers as `source`, from which its records come, also where an index is asked.
async fn serves_as(store: &dyn Store, source: &dyn Store) {
    let at = UnixTime::NEVER;
    for kind in TaskKind::ALL {
        let due = source.due_tasks_of(kind, at, 9).await.unwrap();
        assert_eq!(store.due_tasks_of(kind, at, 9).await.unwrap(), due);
    }
    assert_eq!(store.due_mails(at, 9).await.unwrap(), source.due_mails(at, 9).await.unwrap());
    assert_eq!(store.due_connections(at, 9).await.unwrap(), source.due_connections(at, 9).await.unwrap());
    for address in ["ann@example.com", "rob@example.com", "bob@example.com"] {
        let address = address.parse().unwrap();
        let owner = source.user_by_email(&address).await.unwrap();
        assert_eq!(store.user_by_email(&address).await.unwrap(), owner);
    }
    for name in ["user-1", "user-2", "ROB", "user-4", "user-9"] {
        let name = name.parse().unwrap();
        let owner = source.user_by_username(&name).await.unwrap();
        assert_eq!(store.user_by_username(&name).await.unwrap(), owner);
        assert_eq!(
            store.username_owner(&name).await.unwrap(),
            source.username_owner(&name).await.unwrap(),
            "{name}"
        );
    }
    assert!(store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
    for user in [None, Some(1), Some(2), Some(8), Some(9)] {
        let user = user.map(|n| UserId(Uuid::from_u128(n)));
        assert_eq!(store.events(user, 999).await.unwrap(), source.events(user, 999).await.unwrap());
    }
    let issuer = "https://id.test";
    assert_eq!(store.version(issuer, "ann").await.unwrap(), 2);
    assert_eq!(store.generation(issuer).await.unwrap(), source.generation(issuer).await.unwrap());
    assert!(store.revocation(&token("t")).await.unwrap().is_some());
    assert_eq!(store.clock_mark().await.unwrap(), source.clock_mark().await.unwrap());
    // It goes on: a revision is the stored one, an event comes behind the others, and what has ended is swept.
    let mut ann = store.user(UserId(Uuid::from_u128(1))).await.unwrap().unwrap();
    ann.name = None;
    store
        .commit(vec![Change::UpdateUser(ann.clone()), Change::Record(vec![event(Some(2), 7777)])])
        .await
        .unwrap();
    let newest = store.events(Some(UserId(Uuid::from_u128(2))), 999).await.unwrap();
    assert_eq!((newest.len(), newest[0].id.as_u128()), (EVENTS_KEPT, 7777));
    let swept = store.sweep(UnixTime(301 + 3600)).await.unwrap();
    assert_eq!((swept.sessions, swept.links), (2, 1));
    assert!(swept.revocations > 5);
}

/// The cases of one store; `at` gives an empty one.
pub async fn cases(mut at: impl AsyncFnMut() -> Arc<dyn Store>) {
    pages_of_any_size_are_one_walk(&*at().await).await;
    a_walk_is_of_one_state(&*at().await).await;
    only_an_empty_store_is_filled(&*at().await).await;
    an_empty_export_fills_nothing(&*at().await, &*at().await).await;
    what_does_not_fit_is_refused(&mut at).await;
    imported_revocations_are_told(at().await).await;
}

async fn pages_of_any_size_are_one_walk(store: &dyn Store) {
    every_record(store).await;
    let whole = exported(store).await;
    let kinds: Vec<_> = whole.iter().map(|record| record.record.kind()).collect();
    assert!(kinds.is_sorted(), "{kinds:?}");
    for limit in [0, 1, 7, whole.len() - 1, whole.len(), usize::MAX] {
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = store.records(after, limit).await.unwrap();
            assert!(page.records.len() <= limit.max(1));
            found.extend(page.records);
            pages += 1;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert!(found == whole, "pages of {limit}");
        assert!(pages >= whole.len() / limit.max(1), "pages of {limit}");
    }
}

async fn a_walk_is_of_one_state(store: &dyn Store) {
    every_record(store).await;
    let page = store.records(None, 1).await.unwrap();
    store.commit(vec![Change::CreateUser(user(5, "eve@example.com"))]).await.unwrap();
    let torn = store.records(page.next, 1).await;
    assert!(matches!(torn, Err(StoreError::Unavailable(_))), "{torn:?}");
    let page = store.records(None, 1).await.unwrap();
    store.sweep(UnixTime(9_000)).await.unwrap();
    let torn = store.records(page.next, 1).await;
    assert!(matches!(torn, Err(StoreError::Unavailable(_))), "{torn:?}");
}

async fn only_an_empty_store_is_filled(store: &dyn Store) {
    store.commit(vec![Change::PutClockMark(Mark::default())]).await.unwrap();
    let record = Record::User(user(1, "ann@example.com")).into();
    let refused = store.import(&mut Pages::new([vec![record]])).await;
    assert!(matches!(refused, Err(ImportError::NotEmpty)), "{refused:?}");
    assert_eq!(exported(store).await.len(), 1);
    store.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
}

async fn an_empty_export_fills_nothing(from: &dyn Store, to: &dyn Store) {
    assert_eq!(to.import(&mut RecordsOf::new(from)).await.unwrap(), 0);
    assert_eq!(exported(to).await, []);
    to.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
}

async fn what_does_not_fit_is_refused(at: &mut impl AsyncFnMut() -> Arc<dyn Store>) {
    let ann = || Record::User(user(1, "ann@example.com"));
    let all = every_record(&*at().await).await;
    let known = |record: Record| VersionedRecord::from(record);
    let twice = all.iter().filter(|record| !matches!(record.record, Record::Event(_)));
    let mut cases: Vec<_> = twice.map(|record| vec![record.clone(), record.clone()]).collect();
    cases.push(vec![known(ann()), known(Record::User(user(2, "ann@example.com")))]);
    let same_name = User { username: user(1, "a@example.com").username, ..user(2, "bob@example.com") };
    cases.push(vec![known(ann()), known(Record::User(same_name))]);
    // A name that an account has, as the former one of another.
    let name = user(1, "a@example.com").username.map(|name| name.fingerprint()).unwrap();
    let former = Record::FormerUsername { name, user: UserId(Uuid::from_u128(2)) };
    cases.push(vec![known(ann()), known(former.clone())]);
    cases.push(vec![known(former), known(ann())]);
    let of_version = |version| VersionedRecord { version, record: ann() };
    cases.push(vec![known(Record::ClockMark(Mark::default())), of_version(0)]);
    let newer = of_version(RecordKind::User.version() + 1);
    cases.push(vec![known(Record::ClockMark(Mark::default())), newer.clone()]);
    for case in cases {
        // In one page, and in two.
        for pages in [vec![case.clone()], case.iter().cloned().map(|record| vec![record]).collect()] {
            let store = at().await;
            let outcome = store.import(&mut Pages::new(pages)).await;
            match case.contains(&newer) {
                true => {
                    assert!(matches!(outcome, Err(ImportError::Store(StoreError::Newer(_)))), "{outcome:?}")
                }
                false => assert!(
                    matches!(
                        outcome,
                        Err(ImportError::Inconsistent(_) | ImportError::Store(StoreError::Unreadable(_)))
                    ),
                    "{case:?}: {outcome:?}"
                ),
            }
            is_empty_or_serves_nothing(&*store).await;
        }
    }
    let store = at().await;
    let failing = Err(StoreError::Unavailable("a fake".to_owned()));
    let pages = Pages(VecDeque::from([Ok(vec![known(ann())]), failing]));
    let outcome = store.import(&mut { pages }).await;
    assert!(matches!(outcome, Err(ImportError::Source(_))), "{outcome:?}");
    is_empty_or_serves_nothing(&*store).await;
}

/// After an import that failed.
async fn is_empty_or_serves_nothing(store: &dyn Store) {
    if let Ok(page) = store.records(None, 9).await {
        assert_eq!(page.records, []);
        return;
    }
    assert!(store.users(None, 9).await.is_err());
    assert!(store.clock_mark().await.is_err());
    assert!(store.each_revocation(UnixTime(0), &mut |_| ()).await.is_err());
    assert!(store.commit(vec![Change::PutClockMark(Mark::default())]).await.is_err());
    assert!(store.sweep(UnixTime(9)).await.is_err());
    assert!(matches!(store.import(&mut Pages::new([])).await, Err(ImportError::NotEmpty)));
}

async fn imported_revocations_are_told(store: Arc<dyn Store>) {
    let before = store.position();
    let mut follower = store.subscribe(before).await.unwrap();
    let records = Revocation { reason: Some("x".into()), ..revocation(token("t"), 1, 100) };
    store.import(&mut Pages::new([vec![Record::Revocation(records).into()]])).await.unwrap();
    // They are many and have no commit of their own: who follows from before reads the set again.
    assert!(follower.next().await.is_err());
    let mut follower = store.subscribe(store.position()).await.unwrap();
    let made = store.revoke(revocation(token("u"), 1, 100)).await.unwrap();
    assert_eq!(follower.next().await.unwrap().revocations, [made]);
}

/// What the child of [`killed`] imports: `pages` of 20 records each.
struct KilledImport {
    pages: u32,
    at: u32,
}

const PAGES: u32 = 60;
const PAGE: u32 = 20;

#[async_trait]
impl RecordSource for KilledImport {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        println!("PAGE {}", self.at);
        let first = self.at * PAGE;
        self.at += 1;
        let of = |n: u32| Record::User(user(n.into(), &format!("u{n}@example.com"))).into();
        Ok(if self.at > self.pages { Vec::new() } else { (first..first + PAGE).map(of).collect() })
    }
}

/// What the child does: imports into an empty store, and says when it is done.
pub async fn work(store: Arc<dyn Store>) {
    store.import(&mut KilledImport { pages: PAGES, at: 0 }).await.unwrap();
    println!("DONE");
    std::future::pending::<()>().await;
}

/// Kills a child while it imports, each time into another store. That is empty, refused or whole then, and whole once
/// the import was answered. `child` is the name of a test of the same binary, which calls [`work`] with the store at the
/// place [`CHILD`] and does nothing where that is not set; `place` gives another place for a store each time, and `reopen`
/// opens the store there, `None` where it is refused.
pub async fn killed<P: AsRef<Path>>(
    child: &str,
    rounds: u64,
    mut place: impl AsyncFnMut() -> P,
    mut reopen: impl AsyncFnMut(&Path) -> Option<Arc<dyn Store>>,
) {
    let mut refused = 0;
    for round in 0..rounds {
        let place = place().await;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([child, "--exact", "--nocapture"])
            .env(CHILD, place.as_ref())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The first round ends behind the import.
        let last = match round {
            0 => "DONE".to_owned(),
            round => format!("PAGE {}", (round * 7) % u64::from(PAGES + 1)),
        };
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut lines = std::io::BufRead::lines(out).map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with(&last)), "round {round}: the child ended by itself");
        child.kill().unwrap();
        let done = lines.any(|line| line.ends_with("DONE"));
        child.wait().unwrap();
        match reopen(place.as_ref()).await {
            None => {
                assert!(round > 0 && !done, "what was answered is refused");
                refused += 1;
            }
            Some(store) => {
                let found = store.users(None, usize::MAX).await.unwrap().len() as u32;
                let is_whole = found == PAGES * PAGE;
                assert!(is_whole || (round > 0 && !done && found == 0), "{found} records are taken for all");
            }
        }
    }
    assert!(refused > 0, "no kill was within an import");
}

/// The accounts that a walk tells of and the owners of its sessions, each in order: of commits that make or end an account
/// with its session, no walk may tell one without the other.
pub async fn accounts_and_owners(walk: &mut dyn RecordSource) -> (Vec<UserId>, Vec<UserId>) {
    let (mut accounts, mut owners) = (Vec::new(), Vec::new());
    loop {
        let page = walk.next_page().await.unwrap();
        if page.is_empty() {
            break;
        }
        for record in page {
            match record.record {
                Record::User(user) => accounts.push(user.id),
                Record::Session(session) => owners.push(session.user),
                _ => {}
            }
        }
    }
    accounts.sort();
    owners.sort();
    (accounts, owners)
}

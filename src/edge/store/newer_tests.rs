//! A store that a newer program has written to: what this one does not know stays as it is.

use std::collections::BTreeMap;

use super::keys::Table;
use super::opening::{self, Doubts};
use super::record::{is_versioned, version};
use super::trees::Writes;
use super::{SledStore, read};
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::mail_cap::{Mailbox, MailboxId};
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::SessionId;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::ports::{Change, CommitError, Store, StoreError, Upgrade};
use palisade_testing::conformance::{
    connection, due_tasks, event, link, mail, revocation, session, task, token, user,
};

const ISSUER: &str = "https://id.test";

fn raise(sub: Option<&str>) -> Change {
    let (issuer, created_at, expires_at, reason) = (ISSUER.to_owned(), UnixTime(1), UnixTime(100), None);
    match sub.map(str::to_owned) {
        Some(sub) => Change::RaiseVersion { issuer, sub, created_at, expires_at, reason, enforce: true },
        None => Change::RaiseGeneration { issuer, created_at, expires_at, reason, enforce: true },
    }
}

/// One record of each kind, and the changes that would write over each of them or remove it.
fn everything() -> Vec<Change> {
    let mut given_up = mail(2, "bob@example.com", 5);
    given_up.given_up = true;
    vec![
        Change::CreateUser(user(1, "ann@example.com")),
        Change::CreateSession(session(1, 1, 10)),
        Change::CreateConnection(connection(1, 1, Some(5))),
        Change::CreateLink(link(1, 10)),
        Change::PutMail(mail(1, "ann@example.com", 5)),
        Change::PutMail(given_up),
        Change::PutMailbox(Mailbox::new(MailboxId([7; 16]))),
        Change::CreateTask(task(1, 5)),
        Change::PutClockMark(Mark { at: UnixTime(5), ..Mark::default() }),
        Change::Upgraded(Upgrade::ReservedClaims),
        Change::Revoke(revocation(token("t"), 1, 10)),
        raise(Some("ann")),
        raise(None),
    ]
}

fn contents(store: &SledStore) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let trees = store.shared.trees.read().unwrap();
    let entries = trees.as_ref().unwrap().range(Vec::new()..vec![u8::MAX]);
    // The first is the number of the last commit.
    entries.map(Result::unwrap).map(|(key, value)| (key.to_vec(), value.to_vec())).skip(1).collect()
}

/// A store whose every record has the next version.
async fn of_a_newer_program(dir: &std::path::Path) -> std::sync::Arc<SledStore> {
    let store = SledStore::open(dir).unwrap();
    store.commit(everything()).await.unwrap();
    store.commit(vec![Change::Record(vec![event(Some(1), 1), event(Some(5), 2)])]).await.unwrap();
    let former = User { username: Some("former".parse().unwrap()), ..user(6, "former@example.com") };
    store
        .commit(vec![Change::CreateUser(former), Change::UpdateUser(user(6, "former@example.com"))])
        .await
        .unwrap();
    store.put_key_checks(BTreeMap::from([("vault.key".into(), "mac".into())])).await.unwrap();
    store.close();
    let trees = opening::open(dir, Doubts::Refuse).unwrap();
    let mut raised = Writes::new();
    for entry in trees.range(Vec::new()..vec![u8::MAX]) {
        let (key, value) = entry.unwrap();
        if is_versioned(&key) {
            let mut value = value.to_vec();
            // The one after the latest that this program knows; it writes some records in an earlier one.
            value[0] = Table::of(&key).and_then(version).unwrap() + 1;
            raised.insert(key.to_vec(), Some(value.into()));
        }
    }
    assert_eq!(
        raised.len(),
        29,
        "every kind, two revocations that the raises made, a second mail, a second account and its identity, and the versions of a subject and of all"
    );
    trees.apply(raised, 1).unwrap();
    trees.sync().unwrap();
    drop(trees);
    SledStore::open(dir).unwrap()
}

#[track_caller]
fn is_named<T: std::fmt::Debug>(found: Result<T, StoreError>, what: &str) {
    let error = found.unwrap_err();
    assert!(matches!(error, StoreError::Newer(_)), "{what}: {error}");
    let text = error.to_string();
    assert!(text.contains(what) && text.contains("newer program"), "{what}: {text}");
}

#[tokio::test]
async fn what_a_newer_program_wrote_is_not_written_over_and_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = of_a_newer_program(dir.path()).await;
    let before = contents(&store);
    let ann = user(1, "ann@example.com");
    let former = User { username: Some("former".parse().unwrap()), ..user(4, "cid@example.com") };
    let mut changes = everything();
    changes.extend([
        // A name that another account had, for all that this program can tell.
        Change::CreateUser(former),
        Change::UpdateUser(ann.clone()),
        // An address that is kept for the account, and belongs to another one for all that this program can tell.
        Change::CreateUser(user(2, "ann@example.com")),
        Change::DeleteUser(ann.id),
        // Only events of it are left, which have an end.
        Change::DeleteUser(user(5, "gone@example.com").id),
        Change::UpdateSession(session(1, 1, 10)),
        Change::EndSession(ann.id, session(1, 1, 10).id),
        Change::UpdateConnection(connection(1, 1, None)),
        Change::RemoveConnection(ann.id, connection(1, 1, None).id),
        Change::ConsumeLink(link(1, 10).hash),
        Change::RemoveMail(mail(1, "ann@example.com", 5).id),
        Change::FinishTask(task(1, 5).id),
    ]);
    for change in changes {
        // Nor does what else the commit holds come in.
        let whole = vec![Change::CreateUser(user(9, "eve@example.com")), change.clone()];
        match store.commit(whole).await {
            Err(CommitError::Store(StoreError::Newer(_))) => {}
            // There is one of this id already.
            Err(CommitError::Conflict) if matches!(change, Change::CreateConnection(_)) => {}
            other => panic!("{change:?}: {other:?}"),
        }
    }
    let check = BTreeMap::from([("vault.key".into(), "other".into())]);
    is_named(store.put_key_checks(check).await, "what a secret is known by");
    assert_eq!(contents(&store), before);
    assert!(store.status().writable, "the rest is as usable as ever");

    // Its records are not due, do not end, and are copied as they are.
    assert_eq!(due_tasks(&*store, UnixTime::NEVER, 9).await.unwrap(), []);
    assert_eq!(store.due_mails(UnixTime::NEVER, 9).await.unwrap(), []);
    assert_eq!(store.due_connections(UnixTime::NEVER, 9).await.unwrap(), []);
    assert_eq!(store.sweep(UnixTime(u64::MAX / 2)).await.unwrap(), Default::default());
    store.compact().await.unwrap();
    assert_eq!(contents(&store), before);

    // What this program writes beside them comes and goes.
    store.commit(vec![Change::CreateUser(user(3, "bob@example.com"))]).await.unwrap();
    store.commit(vec![Change::PutMail(mail(9, "bob@example.com", 5))]).await.unwrap();
    assert_eq!(store.due_mails(UnixTime(5), 9).await.unwrap(), [mail(9, "bob@example.com", 5)]);
    store.commit(vec![Change::CreateLink(link(9, 10))]).await.unwrap();
    assert_eq!(store.sweep(UnixTime(10_000)).await.unwrap().links, 1);
}

#[tokio::test]
async fn a_read_of_what_a_newer_program_wrote_names_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = of_a_newer_program(dir.path()).await;
    let id = |n: u128| uuid::Uuid::from_u128(n).to_string();
    let (ann, one) = (UserId(uuid::Uuid::from_u128(1)), SessionId(uuid::Uuid::from_u128(1)));
    let (email, connected) = ("ann@example.com".parse().unwrap(), connection(1, 1, None).id);
    is_named(store.user(ann).await, &format!("the account {}", id(1)));
    is_named(store.users(None, 9).await, &format!("the account {}", id(1)));
    is_named(store.user_by_email(&email).await, "the owner of an address");
    let name = |name: &str| name.parse().unwrap();
    is_named(store.user_by_username(&name("user-1")).await, "the owner of a user name");
    is_named(store.username_owner(&name("user-1")).await, "the owner of a user name");
    is_named(store.username_owner(&name("former")).await, "the former owner of a user name");
    is_named(store.session(ann, one).await, &format!("the session {}", id(1)));
    is_named(store.sessions(ann).await, "the session");
    is_named(store.find_session(one).await, "the session");
    is_named(store.all_sessions(None, 9).await, "the session");
    is_named(store.connection(ann, connected).await, &format!("the connection {}", id(1)));
    is_named(store.connections(ann).await, "the connection");
    is_named(store.all_connections(None, 9).await, "the connection");
    is_named(store.link(&link(1, 10).hash).await, "a link");
    is_named(store.task(task(1, 5).id).await, &format!("the task {}", id(1)));
    is_named(store.mails(9).await, &format!("the mail {}", id(2)));
    is_named(store.mailbox(MailboxId([7; 16])).await, "a mailbox");
    is_named(store.events(Some(ann), 9).await, "an event");
    is_named(store.clock_mark().await, "the mark of the clock");
    is_named(store.version(ISSUER, "ann").await, "the number of an issuer");
    is_named(store.generation(ISSUER).await, "the number of an issuer");
    is_named(store.revocation(&token("t")).await, "the number of an issuer");
    is_named(store.latest_moment().await, "a revocation");
    is_named(store.recent_revocations(9).await, "a revocation");
    is_named(store.key_checks().await, "what a secret is known by");
    is_named(
        store.read(|trees| read::at::<u64>(trees, &super::keys::generation(0))).await,
        "a token version",
    );
    // A revocation that is not understood is a revoked token that works: the set is not used without it.
    let mut found = |_: Revocation| ();
    is_named(store.each_revocation(UnixTime(0), &mut found).await, "a revocation");
    let of_another = Target::Token { issuer: "https://other.test".into(), jti: "t".into() };
    assert_eq!(store.revocation(&of_another).await.unwrap(), None);
}

#[tokio::test]
async fn the_version_of_what_is_written_over_is_looked_at_where_a_newer_program_may_have_written() {
    let may = |store: &SledStore| store.shared.trees.read().unwrap().as_ref().unwrap().may_hold_newer();
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    assert!(!may(&store), "there was nothing");
    store.commit(everything()).await.unwrap();
    store.close();
    let store = SledStore::open(dir.path()).unwrap();
    assert!(!may(&store), "every record was read");
    store.compact().await.unwrap();
    assert!(!may(&store));
    let dir = tempfile::tempdir().unwrap();
    let store = of_a_newer_program(dir.path()).await;
    assert!(may(&store));
    store.compact().await.unwrap();
    assert!(may(&store), "they are in the copy as well");
    // Files that were opened again were read again.
    super::writer::recover(&store.shared);
    assert!(may(&store));
}

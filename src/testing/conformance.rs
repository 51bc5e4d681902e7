//! What every store must do, whatever keeps it. A backend passes by running [`suite`]; one that forgets
//! with the process, by running [`cases`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use palisade_core::domain::account::{Claim, PasswordHash, User, UserId};
use palisade_core::domain::audit::{Action, Actor, Event, Outcome};
use palisade_core::domain::connection::{
    Account, Connection, ConnectionId, Consent, FaultKind, ProviderFailure, RefreshAttempt, SealedTokens,
    Status,
};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::email_change::{EmailChanges, Freeze, FreezeStage};
use palisade_core::domain::groups::Groups;
use palisade_core::domain::link::{Link, Purpose};
use palisade_core::domain::mail::{Facts, Letter, Mail};
use palisade_core::domain::mail_cap::{CappedLetter, Caps, LetterRequest, Mailbox, MailboxId};
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::revocation::{Begun, Kind, Revocation, Target, Versions};
use palisade_core::domain::session::{Device, Session, SessionId};
use palisade_core::domain::task::{Errand, RequestOrigin, Task, TaskKind, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::{Mark, Stop};
use palisade_core::domain::username::Username;
use palisade_core::ports::{
    Change, CommitError, EVENTS_KEPT, GIVEN_UP_LIFE, GONE_EVENTS_LIFE, Position, Precondition,
    STRANGERS_EVENTS_KEPT, Store, StoreError, SubscriptionError, Swept, Upgrade,
};
use uuid::Uuid;

use crate::transfer;

/// A revocation made at `created` that ends at `expires`.
pub fn revocation(target: Target, created: u64, expires: u64) -> Revocation {
    Revocation { target, expires_at: UnixTime(expires), created_at: UnixTime(created), reason: None }
}

pub fn token(jti: &str) -> Target {
    Target::Token { issuer: "https://id.test".into(), jti: jti.into() }
}

fn address(user: &User) -> &EmailAddress {
    user.email.as_ref().unwrap()
}

pub fn user(id: u128, email: &str) -> User {
    User {
        id: UserId(Uuid::from_u128(id)),
        email: Some(email.parse().unwrap()),
        email_verified: false,
        username: Some(format!("user-{id}").parse().unwrap()),
        groups: Groups::new(&["staff", "Sales, EMEA"]).unwrap(),
        name: Some("Ann".into()),
        password: Some(PasswordHash("$2b$04$hash".into())),
        active: true,
        locked_until: None,
        created_at: UnixTime(1),
        updated_at: UnixTime(1),
        last_login_at: None,
        scopes: vec!["read".into()],
        claims: serde_json::Map::from_iter([("role".into(), serde_json::json!({"of": [1, 2.5, null]}))]),
        device_letters: Vec::new(),
        devices: Vec::new(),
        known_blocks: Vec::new(),
        link_generation: 0,
        claim: Claim::Claimed,
        registration: Some(Uuid::from_u128(id)),
        live_links: BTreeMap::from([(Purpose::ResetPassword, Uuid::from_u128(id))]),
        email_changes: Default::default(),
        identities: vec![ProviderIdentity {
            issuer: "https://idp.test".into(),
            subject: id.to_string(),
            since: Some(UnixTime(1)),
        }],
        revision: 0,
    }
}

/// A session of `user` that ends at `expires`.
pub fn session(user: u128, id: u128, expires: u64) -> Session {
    Session {
        id: SessionId(Uuid::from_u128(id)),
        user: UserId(Uuid::from_u128(user)),
        created_at: UnixTime(1),
        last_used_at: UnixTime(1),
        expires_at: UnixTime(expires),
        device: Device {
            name: "Firefox on Linux".into(),
            user_agent: Some("Mozilla/5.0".into()),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            place: None,
            fingerprint: "f".into(),
        },
        scopes: vec!["read".into()],
        begun: Versions::default(),
        generation: 0,
        current: TokenHash::of(&id.to_be_bytes()),
        rekeyed: 0,
        rotated_at: UnixTime(1),
        successor: Default::default(),
        browser: None,
        revision: 0,
    }
}

/// A connection of `user` that is due at `due`, with something in every field.
pub fn connection(user: u128, id: u128, due: Option<u64>) -> Connection {
    Connection {
        id: ConnectionId(Uuid::from_u128(id)),
        user: UserId(Uuid::from_u128(user)),
        provider: "bank".into(),
        status: Status::Active,
        consent: Some(Consent {
            id: Uuid::from_u128(id),
            browser: TokenHash::of(b"browser"),
            session: Some(SessionId(Uuid::from_u128(5))),
            begun: Versions::default(),
            return_to: Some("https://app.test/done".into()),
            scopes: vec!["write".into()],
            parameters: BTreeMap::from([("shop".into(), "b".into())]),
            secret_parameters: Some("pv1.00000000.EEEE".into()),
            expires_at: UnixTime(9),
        }),
        scopes_asked: vec!["read".into(), "write".into()],
        scopes_granted: vec!["read".into()],
        parameters: BTreeMap::from([("shop".into(), "a".into())]),
        account: Some(Account {
            subject: "s".into(),
            email: Some("ann@bank.test".into()),
            email_verified: true,
            name: None,
        }),
        tokens: Some(SealedTokens {
            access_token: "pv1.00000000.AAAA".into(),
            refresh_token: Some("pv1.00000000.BBBB".into()),
            id_token: None,
            kept: Some("pv1.00000000.CCCC".into()),
            token_type: Some("Bearer".into()),
            parameters: Some("pv1.00000000.DDDD".into()),
        }),
        expires_at: Some(UnixTime(1800)),
        refresh_expires_at: None,
        created_at: UnixTime(1),
        connected_at: Some(UnixTime(2)),
        refreshed_at: Some(UnixTime(3)),
        attempt: Some(RefreshAttempt { started_at: UnixTime(4), run: Uuid::from_u128(5) }),
        failures: 0,
        last_fault: Some(ProviderFailure {
            at: UnixTime(3),
            kind: FaultKind::Transient,
            reason: "slow".into(),
        }),
        retry_at: None,
        not_refreshable: false,
        due_at: due.map(UnixTime),
        warned_of: None,
        notes: vec!["2 scopes were dropped".into()],
        notices: 3,
        revision: 0,
    }
}

pub fn link(n: u128, expires: u64) -> Link {
    Link {
        id: Uuid::from_u128(n),
        hash: TokenHash::of(&n.to_be_bytes()),
        purpose: Purpose::VerifyEmail,
        user: UserId(Uuid::from_u128(1)),
        email: Some("ann@example.com".parse().unwrap()),
        generation: 0,
        created_at: UnixTime(1),
        expires_at: UnixTime(expires),
        is_listed: true,
        return_to: Some("https://app.test/x".to_owned()),
    }
}

pub fn mail(id: u128, to: &str, due: u64) -> Mail {
    Mail {
        id: Uuid::from_u128(id),
        letter: Letter::Welcome,
        to: to.parse().unwrap(),
        verified: true,
        name: None,
        link: None,
        facts: Facts::default(),
        created_at: UnixTime(1),
        due_at: UnixTime(due),
        attempts: 0,
        last_error: None,
        given_up: false,
    }
}

pub fn task(id: u128, due: u64) -> Task {
    let origin =
        RequestOrigin { address: IpAddr::V4(Ipv4Addr::LOCALHOST), request_id: "r".into(), return_to: None };
    let work = Work::ResetPassword { email: "ann@example.com".parse().unwrap(), origin };
    Task { id: Uuid::from_u128(id), due_at: UnixTime(due), work }
}

pub fn event(user: Option<u128>, id: u128) -> Event {
    Event {
        id: Uuid::from_u128(id),
        at: UnixTime(1),
        action: Action::Login,
        outcome: Outcome::Success,
        actor: Actor::User,
        user: user.map(|user| UserId(Uuid::from_u128(user))),
        session: None,
        connection: None,
        address: None,
        request_id: None,
        reason: None,
        details: serde_json::Map::new(),
    }
}

/// At most `limit` tasks of any kind that are due at `now`, the earliest first.
pub async fn due_tasks(store: &dyn Store, now: UnixTime, limit: usize) -> Result<Vec<Task>, StoreError> {
    let mut due = Vec::new();
    for kind in TaskKind::ALL {
        due.extend(store.due_tasks_of(kind, now, limit).await?);
    }
    due.sort_by_key(|task| (task.due_at, task.id));
    due.truncate(limit);
    Ok(due)
}

pub async fn all(store: &dyn Store, now: u64) -> Vec<Revocation> {
    let mut found = Vec::new();
    store.each_revocation(UnixTime(now), &mut |r| found.push(r)).await.unwrap();
    found
}

/// Runs every case, and then what must hold after the store was closed and opened again. `place` gives another place for
/// a store each time, such as a folder, and `open` opens the one that is there, or a new one.
pub async fn suite<P: AsRef<Path>>(place: impl AsyncFn() -> P, open: impl AsyncFn(&Path) -> Arc<dyn Store>) {
    let mut places = Vec::new();
    let opened = cases(async || {
        let place = place().await;
        let store = open(place.as_ref()).await;
        places.push(place);
        store
    });
    // On the heap, as the stack of a test is too small for all of it.
    Box::pin(opened).await;

    let place = place().await;
    let store = open(place.as_ref()).await;
    store.revoke(revocation(token("kept"), 1, 100)).await.unwrap();
    assert!(store.status().writable && store.status().bytes > 0);
    store.raise_version("i", "ann", UnixTime(1), UnixTime(100), None).await.unwrap();
    let (ann, mut letter) = (user(1, "ann@example.com"), mail(1, "ann@example.com", 5));
    let mark = Mark { at: UnixTime(5), ..Mark::default() };
    let whole = vec![
        Change::CreateUser(ann.clone()),
        Change::CreateSession(session(1, 1, 100)),
        Change::CreateConnection(connection(1, 1, Some(5))),
        Change::CreateLink(link(1, 100)),
        Change::PutMail(letter.clone()),
        Change::CreateTask(task(1, 5)),
        Change::Record(vec![event(Some(1), 1)]),
        Change::PutClockMark(mark.clone()),
        Change::Upgraded(Upgrade::ReservedClaims),
        Change::CreateUser(named(7, Some("gone"), 0)),
        Change::DeleteUser(UserId(Uuid::from_u128(7))),
    ];
    store.commit(whole).await.unwrap();
    letter.due_at = UnixTime(9);
    store.commit(vec![Change::PutMail(letter.clone())]).await.unwrap();
    drop(store);
    let store = open(place.as_ref()).await;
    assert_eq!(all(&*store, 0).await.len(), 2);
    assert_eq!(store.version("i", "ann").await.unwrap(), 1);
    assert_eq!(store.user_by_email(address(&ann)).await.unwrap(), Some(ann.clone()));
    assert_eq!(store.user_by_username(&username("User-1")).await.unwrap(), Some(ann.clone()));
    assert_eq!(owners(&*store, "gone").await, (None, Some(7)));
    assert!(store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
    assert_eq!(store.sessions(ann.id).await.unwrap(), [session(1, 1, 100)]);
    assert_eq!(store.connections(ann.id).await.unwrap(), [connection(1, 1, Some(5))]);
    assert_eq!(store.due_connections(UnixTime(5), 9).await.unwrap(), [connection(1, 1, Some(5))]);
    assert_eq!(store.link(&link(1, 100).hash).await.unwrap(), Some(link(1, 100)));
    assert_eq!(store.due_mails(UnixTime(8), 9).await.unwrap(), []);
    assert_eq!(store.due_mails(UnixTime(9), 9).await.unwrap(), [letter]);
    assert_eq!(due_tasks(&*store, UnixTime(5), 9).await.unwrap(), [task(1, 5)]);
    assert_eq!(store.events(Some(ann.id), 9).await.unwrap(), [event(Some(1), 1)]);
    assert_eq!(store.clock_mark().await.unwrap(), Some(mark));
    let swept = store.sweep(UnixTime(101 + 3600)).await.unwrap();
    assert_eq!(swept, Swept { revocations: 2, sessions: 1, links: 1 });
}

/// Runs every case, each on a store of its own.
pub async fn cases(mut at: impl AsyncFnMut() -> Arc<dyn Store>) {
    targets_are_apart(&*at().await).await;
    names_are_apart(&*at().await).await;
    merging(&*at().await).await;
    versions(&*at().await).await;
    generations(&*at().await).await;
    a_raise_that_is_not_enforced_revokes_nothing(&*at().await).await;
    cut_sessions(&*at().await).await;
    sessions_of_all_users(&*at().await).await;
    recent_first(&*at().await).await;
    sweeping(&*at().await).await;
    many_at_once(at().await).await;
    expired_are_left_out(&*at().await).await;
    users(&*at().await).await;
    an_address_is_one_accounts(&*at().await).await;
    accounts_need_no_address(&*at().await).await;
    a_kept_address_is_one_accounts(&*at().await).await;
    a_username_is_one_accounts(&*at().await).await;
    a_username_is_never_given_out_twice(&*at().await).await;
    one_of_many_accounts_gets_a_username(at().await).await;
    an_identity_at_a_provider_is_one_accounts(&*at().await).await;
    accounts_that_are_gone_are_told(&*at().await).await;
    upgrades(&*at().await).await;
    a_deleted_user_leaves_nothing(&*at().await).await;
    sessions(&*at().await).await;
    sessions_and_links_are_swept_at_their_real_end(&*at().await).await;
    connections(&*at().await).await;
    connections_are_due_when_they_say(&*at().await).await;
    a_link_is_good_once(at().await).await;
    mails(&*at().await).await;
    mailboxes(&*at().await).await;
    tasks(&*at().await).await;
    commits_have_an_order(at().await).await;
    revocations_can_be_followed(at().await).await;
    revocations_are_followed_in_the_order_of_their_commits(at().await).await;
    tasks_are_due_by_kind(&*at().await).await;
    a_precondition_is_held_against_what_stands_at_the_commit(&*at().await).await;
    a_precondition_and_a_deletion_at_once_leave_no_orphan(at().await).await;
    events(&*at().await).await;
    strangers_events_push_out_only_one_another(&*at().await).await;
    events_of_an_account_that_is_gone_have_an_end(&*at().await).await;
    a_commit_is_whole(&*at().await).await;
    one_of_many_writers_of_a_revision_wins(at().await).await;
    the_mark_of_the_clock(&*at().await).await;
    the_latest_moment(&*at().await).await;
    Box::pin(transfer::cases(at)).await;
}

async fn the_mark_of_the_clock(store: &dyn Store) {
    assert_eq!(store.clock_mark().await.unwrap(), None);
    let stops = vec![Stop { seconds: 60, left: 3600 }];
    let first = Mark { at: UnixTime(5), stops, highest: UnixTime(9), accepted: 2 };
    let second = Mark { at: UnixTime(4), highest: UnixTime(3), ..Mark::default() };
    for mark in [first, second] {
        store.commit(vec![Change::PutClockMark(mark.clone())]).await.unwrap();
        assert_eq!(store.clock_mark().await.unwrap(), Some(mark));
    }
    store.sweep(UnixTime::NEVER).await.unwrap();
    assert!(store.clock_mark().await.unwrap().is_some());
}

async fn the_latest_moment(store: &dyn Store) {
    assert_eq!(store.latest_moment().await.unwrap(), None);
    // Not the mark, and not what is to come.
    let mark = Mark { at: UnixTime(900), ..Mark::default() };
    store.commit(vec![Change::PutClockMark(mark)]).await.unwrap();
    assert_eq!(store.latest_moment().await.unwrap(), None);
    let mut ann = user(1, "ann@example.com");
    ann.updated_at = UnixTime(20);
    store.commit(vec![Change::CreateUser(ann)]).await.unwrap();
    assert_eq!(store.latest_moment().await.unwrap(), Some(UnixTime(20)));
    let mut used = session(1, 1, 800);
    used.last_used_at = UnixTime(30);
    store.commit(vec![Change::CreateSession(used)]).await.unwrap();
    assert_eq!(store.latest_moment().await.unwrap(), Some(UnixTime(30)));
    store.revoke(revocation(token("t"), 40, 800)).await.unwrap();
    assert_eq!(store.latest_moment().await.unwrap(), Some(UnixTime(40)));
}

async fn targets_are_apart(store: &dyn Store) {
    let (i, n) = ("https://id.test".to_owned(), "x".to_owned());
    let targets = [
        Target::Token { issuer: i.clone(), jti: n.clone() },
        Target::Session { issuer: i.clone(), sid: n.clone() },
        Target::SubjectVersion { issuer: i.clone(), sub: n.clone(), below: 3 },
        Target::SubjectIssued { issuer: i.clone(), sub: n.clone(), until: UnixTime(7) },
        Target::Issuer { issuer: i.clone(), until: UnixTime(9) },
        Target::IssuerGeneration { issuer: i, below: 9 },
        Target::Token { issuer: "https://id.testx".into(), jti: String::new() },
    ];
    for (n, target) in targets.iter().enumerate() {
        assert_eq!(store.revocation(target).await.unwrap(), None);
        let made = Revocation { reason: Some(format!("case {n}")), ..revocation(target.clone(), 1, 100) };
        assert_eq!(store.revoke(made.clone()).await.unwrap(), made);
        assert_eq!(store.revocation(target).await.unwrap(), Some(made));
    }
    assert_eq!(all(store, 0).await.len(), targets.len());
    assert!(store.status().writable);
}

async fn merging(store: &dyn Store) {
    let until = |t| Target::SubjectIssued { issuer: "i".into(), sub: "ann".into(), until: UnixTime(t) };
    store.revoke(revocation(until(50), 1, 100)).await.unwrap();
    let standing = store.revoke(revocation(until(40), 2, 200)).await.unwrap();
    assert_eq!(standing.target.limit(), 50, "the larger limit stays");
    assert_eq!(standing.expires_at, UnixTime(200), "the later end wins");
    let standing = store.revoke(revocation(until(60), 3, 150)).await.unwrap();
    assert_eq!((standing.target.limit(), standing.expires_at.0), (60, 200));
    assert_eq!(store.revocation(&until(0)).await.unwrap(), Some(standing));
    assert_eq!(all(store, 0).await.len(), 1);
    assert_eq!(store.recent_revocations(10).await.unwrap().len(), 1, "one entry, one line");
    store.sweep(UnixTime(199)).await.unwrap();
    assert_eq!(all(store, 0).await.len(), 1, "the earlier ends are forgotten");
}

async fn versions(store: &dyn Store) {
    assert_eq!(store.version("i", "ann").await.unwrap(), 0);
    for expected in 1..=3 {
        let standing = store.raise_version("i", "ann", UnixTime(5), UnixTime(100), None).await.unwrap();
        assert_eq!(standing.target.limit(), expected);
        assert_eq!(store.version("i", "ann").await.unwrap(), expected);
    }
    assert_eq!(store.version("i", "bob").await.unwrap(), 0);
    assert_eq!(store.version("j", "ann").await.unwrap(), 0);
    store.sweep(UnixTime(1_000_000)).await.unwrap();
    assert!(all(store, 0).await.is_empty());
    assert_eq!(store.version("i", "ann").await.unwrap(), 3, "a version never expires");

    let below = Target::SubjectVersion { issuer: "i".into(), sub: "cid".into(), below: 7 };
    store.revoke(revocation(below, 1, 100)).await.unwrap();
    let standing = store.raise_version("i", "cid", UnixTime(5), UnixTime(100), None).await.unwrap();
    assert_eq!(
        standing.target.limit(),
        store.version("i", "cid").await.unwrap(),
        "a token of the new version is good"
    );
}

async fn recent_first(store: &dyn Store) {
    for (jti, created) in [("b", 256), ("a", 255), ("c", 70_000)] {
        store.revoke(revocation(token(jti), created, 100_000)).await.unwrap();
    }
    let names = |list: Vec<Revocation>| list.into_iter().map(|r| r.created_at.0).collect::<Vec<_>>();
    assert_eq!(names(store.recent_revocations(2).await.unwrap()), [70_000, 256]);
    assert_eq!(names(store.recent_revocations(9).await.unwrap()), [70_000, 256, 255]);
}

async fn sweeping(store: &dyn Store) {
    for n in 0..600u64 {
        store
            .revoke(revocation(token(&n.to_string()), n, if n < 550 { 1000 } else { 1_000_000 }))
            .await
            .unwrap();
    }
    assert_eq!(store.sweep(UnixTime(1000)).await.unwrap().revocations, 0);
    assert_eq!(store.sweep(UnixTime(4600)).await.unwrap().revocations, 0, "an hour of slack");
    assert_eq!(all(store, 0).await.len(), 600);
    assert_eq!(store.sweep(UnixTime(4601)).await.unwrap().revocations, 550);
    assert_eq!(all(store, 0).await.len(), 50);
    assert_eq!(store.recent_revocations(1000).await.unwrap().len(), 50);
    assert_eq!(store.sweep(UnixTime(4601)).await.unwrap().revocations, 0);
    store.revoke(revocation(token("forever"), 1, u64::MAX)).await.unwrap();
    store.sweep(UnixTime(u64::MAX)).await.unwrap();
    assert_eq!(all(store, 0).await.len(), 1);
}

async fn many_at_once(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                store.revoke(revocation(token(&n.to_string()), 1, 100)).await.unwrap();
                store
                    .raise_version("i", "ann", UnixTime(1), UnixTime(100), None)
                    .await
                    .unwrap()
                    .target
                    .limit()
            })
        })
        .collect();
    let mut raised = Vec::new();
    for task in tasks {
        raised.push(task.await.unwrap());
    }
    raised.sort_unstable();
    assert_eq!(raised, (1..=200).collect::<Vec<_>>(), "no version is handed out twice");
    assert_eq!(all(&*store, 0).await.len(), 201);
}

async fn expired_are_left_out(store: &dyn Store) {
    store.revoke(revocation(token("old"), 1, 10)).await.unwrap();
    store.revoke(revocation(token("new"), 1, 20)).await.unwrap();
    assert_eq!(all(store, 10).await.len(), 2);
    assert_eq!(all(store, 11).await.len(), 1);
}

async fn names_are_apart(store: &dyn Store) {
    let uuid = "0192f0c1-2345-7abc-8def-0123456789ab";
    let names = [
        uuid.to_owned(),
        uuid.to_uppercase(),
        uuid.replace('-', ""),
        format!("{{{uuid}}}"),
        "ż\0".to_owned(),
    ];
    for name in &names {
        store.revoke(revocation(token(name), 1, 100)).await.unwrap();
    }
    let mut found: Vec<_> =
        all(store, 0).await.into_iter().map(|entry| entry.target.key().2.to_owned()).collect();
    found.sort();
    let mut expected = names.to_vec();
    expected.sort();
    assert_eq!(found, expected);
}

/// One number for all tokens of an issuer, never below the time, so that it does not fall behind with a backup.
async fn generations(store: &dyn Store) {
    let raise = async |created_at, enforce| {
        let change = Change::RaiseGeneration {
            issuer: "i".into(),
            created_at: UnixTime(created_at),
            expires_at: UnixTime(1000),
            reason: None,
            enforce,
        };
        let entries = store.commit(vec![change]).await.unwrap().revocations;
        assert_eq!(entries[0].target.key(), (Kind::IssuerGeneration, "i", ""));
        let generation = store.generation("i").await.unwrap();
        assert_eq!(entries[0].target.limit(), generation);
        generation
    };
    let versions = async |sub| {
        let Versions { subject, generation } = store.versions("i", sub).await.unwrap();
        (subject, generation)
    };
    assert_eq!(versions("ann").await, (0, 0));
    assert_eq!((raise(50, true).await, raise(50, true).await, raise(40, true).await), (50, 51, 52));
    assert_eq!(raise(60, true).await, 60);
    assert_eq!(all(store, 0).await.len(), 1, "one entry for all of them");
    assert_eq!(raise(70, false).await, 70);
    let standing = Target::IssuerGeneration { issuer: "i".into(), below: 0 };
    assert_eq!(store.revocation(&standing).await.unwrap().unwrap().target.limit(), 60);
    store.raise_version("i", "ann", UnixTime(5), UnixTime(100), None).await.unwrap();
    assert_eq!(versions("ann").await, (1, 70));
    assert_eq!(versions("bob").await, (0, 70));
    assert_eq!(store.generation("j").await.unwrap(), 0);
    store.revoke(revocation(standing.with_limit(900), 1, 100)).await.unwrap();
    assert_eq!(raise(80, true).await, 900, "a token of the new generation is good");
    store.sweep(UnixTime(1_000_000)).await.unwrap();
    assert!(all(store, 0).await.is_empty());
    assert_eq!(store.generation("i").await.unwrap(), 900, "it never expires");
}

async fn a_raise_that_is_not_enforced_revokes_nothing(store: &dyn Store) {
    let raise = |enforce| Change::RaiseVersion {
        issuer: "i".into(),
        sub: "ann".into(),
        created_at: UnixTime(5),
        expires_at: UnixTime(100),
        reason: None,
        enforce,
    };
    let entries = store.commit(vec![raise(false)]).await.unwrap().revocations;
    let target = Target::SubjectVersion { issuer: "i".into(), sub: "ann".into(), below: 1 };
    assert_eq!(entries, [revocation(target.clone(), 5, 100)], "the entry that it would be");
    assert_eq!(store.version("i", "ann").await.unwrap(), 1);
    assert!(all(store, 0).await.is_empty());
    assert_eq!(store.revocation(&target).await.unwrap(), None);

    let made = vec![Change::Revoke(revocation(token("t"), 1, 100)), raise(true), raise(false)];
    let limits: Vec<_> =
        store.commit(made).await.unwrap().revocations.iter().map(|entry| entry.target.limit()).collect();
    assert_eq!(limits, [u64::MAX, 2, 3], "answered in the order of the changes");
    assert_eq!(store.version("i", "ann").await.unwrap(), 3);
    assert_eq!(store.revocation(&target).await.unwrap().unwrap().target.limit(), 2);
    // When its time has come.
    store.commit(entries.into_iter().map(Change::Revoke).collect()).await.unwrap();
    assert_eq!(store.revocation(&target).await.unwrap().unwrap().target.limit(), 2, "never lowered");
}

/// What was begun before a revocation is cut by it, and what was begun with the numbers as they stand afterwards is not.
async fn cut_sessions(store: &dyn Store) {
    let cut = |sub: Option<u128>| Change::CutSessions {
        issuer: "i".into(),
        sub: sub.map(|sub| Uuid::from_u128(sub).to_string()),
        created_at: UnixTime(5),
        expires_at: UnixTime(100),
        reason: Some("left".into()),
    };
    let begun = async |user: u128, id: u128| {
        let versions = store.versions("i", &Uuid::from_u128(user).to_string()).await.unwrap();
        Session { begun: versions, ..session(user, id, 500) }
    };
    let is_cut = async |session: &Session| store.is_cut(&Begun::session(session, "i")).await.unwrap();
    let (ann, bob) = (begun(1, 1).await, begun(2, 2).await);
    assert!(!is_cut(&ann).await);
    let raise = Change::RaiseVersion {
        issuer: "i".into(),
        sub: ann.user.to_string(),
        created_at: UnixTime(5),
        expires_at: UnixTime(100),
        reason: None,
        enforce: true,
    };
    store.commit(vec![raise.clone()]).await.unwrap();
    assert!(!is_cut(&ann).await, "a raise alone lets sessions go on");
    let entries = store.commit(vec![raise, cut(Some(1))]).await.unwrap().revocations;
    let sub = ann.user.to_string();
    assert_eq!(entries[1].target, Target::SubjectSessions { issuer: "i".into(), sub, below: 2 });
    assert_eq!((entries[1].expires_at, entries[1].reason.as_deref()), (UnixTime(100), Some("left")));
    assert!(is_cut(&ann).await && !is_cut(&bob).await);
    let again = begun(1, 3).await;
    assert!(!is_cut(&again).await, "begun afterwards");
    let raise_all = Change::RaiseGeneration {
        issuer: "i".into(),
        created_at: UnixTime(50),
        expires_at: UnixTime(100),
        reason: None,
        enforce: true,
    };
    let entries = store.commit(vec![raise_all, cut(None)]).await.unwrap().revocations;
    assert_eq!(entries[1].target, Target::EverySession { issuer: "i".into(), below: 50 });
    assert!(is_cut(&again).await && is_cut(&bob).await);
    let last = begun(2, 4).await;
    assert!(!is_cut(&last).await);
    assert!(!store.is_cut(&Begun::session(&bob, "j")).await.unwrap(), "of another issuer");
    let until = |until| Target::Issuer { issuer: "i".into(), until: UnixTime(until) };
    store.revoke(revocation(until(0), 1, 100)).await.unwrap();
    assert!(!is_cut(&last).await);
    store.revoke(revocation(until(last.created_at.0), 1, 100)).await.unwrap();
    assert!(is_cut(&last).await, "by the moment that it was begun at");
    let last = Session { created_at: UnixTime(9), ..last };
    let target = Target::Session { issuer: "i".into(), sid: last.id.to_string() };
    assert!(!is_cut(&last).await);
    store.revoke(revocation(target, 1, 100)).await.unwrap();
    assert!(is_cut(&last).await, "by its id");
    store.sweep(UnixTime(1_000_000)).await.unwrap();
    assert!(!is_cut(&ann).await, "remembered for as long as was said");
}

async fn sessions_of_all_users(store: &dyn Store) {
    assert_eq!(store.all_sessions(None, 9).await.unwrap(), []);
    for (user, id) in [(2, 1), (1, 4), (1, 3), (3, 2)] {
        store.commit(vec![Change::CreateSession(session(user, id, 100))]).await.unwrap();
    }
    let ids = |list: &[Session]| list.iter().map(|session| session.id.0.as_u128()).collect::<Vec<_>>();
    let first = store.all_sessions(None, 3).await.unwrap();
    assert_eq!(ids(&first), [3, 4, 1], "in the order of their users");
    let after = first.last().map(|session| (session.user, session.id));
    assert_eq!(ids(&store.all_sessions(after, 3).await.unwrap()), [2]);
    let id = |id| SessionId(Uuid::from_u128(id));
    assert_eq!(store.find_session(id(4)).await.unwrap(), Some(session(1, 4, 100)));
    assert_eq!(store.find_session(id(9)).await.unwrap(), None);
    store.commit(vec![Change::EndSession(UserId(Uuid::from_u128(1)), id(4))]).await.unwrap();
    assert_eq!(store.find_session(id(4)).await.unwrap(), None);
}

/// What a commit that must be refused says.
async fn refused(store: &dyn Store, changes: Vec<Change>) -> &'static str {
    match store.commit(changes).await {
        Err(CommitError::Conflict) => "conflict",
        Err(CommitError::EmailTaken) => "taken",
        Err(CommitError::UsernameTaken) => "name taken",
        Err(CommitError::IdentityTaken) => "identity taken",
        other => panic!("{other:?}"),
    }
}

async fn users(store: &dyn Store) {
    let ann = user(1, "ann@example.com");
    assert_eq!(store.user(ann.id).await.unwrap(), None);
    assert_eq!(store.user_by_email(address(&ann)).await.unwrap(), None);
    assert_eq!(refused(store, vec![Change::UpdateUser(ann.clone())]).await, "conflict");
    assert_eq!(store.user_by_email(address(&ann)).await.unwrap(), None, "a refusal claims no address");
    store.commit(vec![Change::CreateUser(ann.clone())]).await.unwrap();
    assert_eq!(store.user(ann.id).await.unwrap(), Some(ann.clone()));
    assert_eq!(refused(store, vec![Change::CreateUser(ann.clone())]).await, "conflict");

    store.commit(vec![Change::UpdateUser(User { active: false, ..ann.clone() })]).await.unwrap();
    let stored = store.user(ann.id).await.unwrap().unwrap();
    assert_eq!(stored, User { active: false, revision: 1, ..ann.clone() });
    assert_eq!(refused(store, vec![Change::UpdateUser(ann.clone())]).await, "conflict", "an older state");
    assert_eq!(store.user(ann.id).await.unwrap().unwrap(), stored);

    for n in [5, 3, 4, 2] {
        store.commit(vec![Change::CreateUser(user(n, &format!("u{n}@example.com")))]).await.unwrap();
    }
    let ids = |list: Vec<User>| list.iter().map(|user| user.id.0.as_u128()).collect::<Vec<_>>();
    assert_eq!(ids(store.users(None, 9).await.unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(ids(store.users(None, 2).await.unwrap()), [1, 2]);
    assert_eq!(ids(store.users(Some(UserId(Uuid::from_u128(2))), 2).await.unwrap()), [3, 4]);
    assert_eq!(ids(store.users(Some(UserId(Uuid::max())), 2).await.unwrap()), [0; 0]);
}

async fn an_address_is_one_accounts(store: &dyn Store) {
    let (ann, bob) = (user(1, "ann@example.com"), user(2, "bob@example.com"));
    let ann_at =
        |email: &str, revision| User { email: Some(email.parse().unwrap()), revision, ..ann.clone() };
    store.commit(vec![Change::CreateUser(ann.clone())]).await.unwrap();
    assert_eq!(refused(store, vec![Change::CreateUser(user(2, "ann@example.com"))]).await, "taken");
    assert_eq!(store.user(bob.id).await.unwrap(), None);
    store.commit(vec![Change::CreateUser(bob.clone())]).await.unwrap();
    assert_eq!(refused(store, vec![Change::UpdateUser(ann_at("bob@example.com", 0))]).await, "taken");
    // A commit that was decided from an outdated account conflicts, whichever account has the address by now.
    assert_eq!(refused(store, vec![Change::UpdateUser(ann_at("bob@example.com", 7))]).await, "conflict");
    let gone = User { id: user(9, "bob@example.com").id, ..ann_at("bob@example.com", 0) };
    assert_eq!(refused(store, vec![Change::UpdateUser(gone)]).await, "conflict");

    store.commit(vec![Change::UpdateUser(ann_at("ann@new.example", 0))]).await.unwrap();
    assert_eq!(store.user_by_email(address(&ann)).await.unwrap(), None);
    let moved = ann_at("ann@new.example", 1);
    assert_eq!(store.user_by_email(address(&moved)).await.unwrap(), Some(moved.clone()));
    // What one change of a commit frees, the next may take.
    let swap = vec![
        Change::UpdateUser(ann_at("ann@newer.example", 1)),
        Change::CreateUser(user(3, "ann@new.example")),
        Change::CreateUser(user(4, "ann@example.com")),
    ];
    store.commit(swap).await.unwrap();
    for (email, owner) in [("ann@newer.example", 1), ("ann@new.example", 3), ("ann@example.com", 4)] {
        let found = store.user_by_email(&email.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(found.id.0.as_u128(), owner, "{email}");
    }
}

/// Accounts without an address do not stand in each other's way. An address that is taken away is free.
async fn accounts_need_no_address(store: &dyn Store) {
    let ann = user(1, "ann@example.com");
    let none = |id: u128, revision| User { email: None, revision, ..user(id, "none@example.com") };
    store.commit(vec![Change::CreateUser(none(1, 0)), Change::CreateUser(none(2, 0))]).await.unwrap();
    assert_eq!(store.user(ann.id).await.unwrap(), Some(none(1, 0)));
    assert_eq!(store.user_by_email(address(&user(9, "none@example.com"))).await.unwrap(), None);

    store.commit(vec![Change::UpdateUser(ann.clone())]).await.unwrap();
    let given = store.user_by_email(address(&ann)).await.unwrap();
    assert_eq!(given, Some(User { revision: 1, ..ann.clone() }));
    let two = User { revision: 0, ..user(2, "ann@example.com") };
    assert_eq!(refused(store, vec![Change::UpdateUser(two.clone())]).await, "taken");

    store.commit(vec![Change::UpdateUser(none(1, 1))]).await.unwrap();
    assert_eq!(store.user_by_email(address(&ann)).await.unwrap(), None);
    store.commit(vec![Change::UpdateUser(two)]).await.unwrap();
    store.commit(vec![Change::DeleteUser(ann.id)]).await.unwrap();
    let taken = store.user_by_email(address(&ann)).await.unwrap();
    assert_eq!(taken.map(|user| user.id.0.as_u128()), Some(2));
}

/// While it is decided which address an account gets, no other account gets the one that is kept for it.
async fn a_kept_address_is_one_accounts(store: &dyn Store) {
    let ann = user(1, "ann@new.example");
    let old: EmailAddress = "ann@example.com".parse().unwrap();
    let stage = FreezeStage::Waiting { until: UnixTime(9) };
    let freeze = Freeze {
        since: UnixTime(5),
        claim: Uuid::from_u128(7),
        earlier: old.clone(),
        later: vec![address(&ann).clone()],
        stage,
    };
    let with = |stage, revision| {
        let freeze = Some(Freeze { stage, ..freeze.clone() });
        let email_changes = EmailChanges { freeze, ..EmailChanges::default() };
        User { email_changes, revision, ..ann.clone() }
    };
    store
        .commit(vec![Change::CreateUser(ann.clone()), Change::CreateUser(user(2, "ann@example.com"))])
        .await
        .unwrap();
    assert_eq!(refused(store, vec![Change::UpdateUser(with(stage, 0))]).await, "taken");
    assert_eq!(store.user(ann.id).await.unwrap(), Some(ann.clone()));
    // What one change of a commit frees, the next may take.
    let made = vec![Change::DeleteUser(UserId(Uuid::from_u128(2))), Change::UpdateUser(with(stage, 0))];
    store.commit(made).await.unwrap();
    for email in [&old, address(&ann)] {
        assert_eq!(store.user_by_email(email).await.unwrap(), Some(with(stage, 1)));
        assert_eq!(refused(store, vec![Change::CreateUser(user(3, email.as_str()))]).await, "taken");
    }
    store.commit(vec![Change::UpdateUser(with(FreezeStage::Objected { at: UnixTime(6) }, 1))]).await.unwrap();
    assert_eq!(refused(store, vec![Change::CreateUser(user(3, old.as_str()))]).await, "taken");
    store.commit(vec![Change::UpdateUser(with(FreezeStage::Decided, 2))]).await.unwrap();
    assert_eq!(store.user_by_email(&old).await.unwrap(), None);
    store.commit(vec![Change::UpdateUser(with(stage, 3))]).await.unwrap();
    let back = User { email: Some(old.clone()), ..with(FreezeStage::Decided, 4) };
    store.commit(vec![Change::UpdateUser(back)]).await.unwrap();
    assert_eq!(store.user_by_email(address(&ann)).await.unwrap(), None, "the other one is free");
    store.commit(vec![Change::UpdateUser(with(stage, 5)), Change::DeleteUser(ann.id)]).await.unwrap();
    for email in [&old, address(&ann)] {
        assert_eq!(store.user_by_email(email).await.unwrap(), None);
    }
    store.commit(vec![Change::CreateUser(user(3, old.as_str()))]).await.unwrap();
}

fn named(id: u128, name: Option<&str>, revision: u64) -> User {
    let username = name.map(|name| name.parse().unwrap());
    User { username, revision, ..user(id, &format!("u{id}@example.com")) }
}

fn username(name: &str) -> Username {
    name.parse().unwrap()
}

/// The id of the account that has the name, and that of the account that has or had it.
async fn owners(store: &dyn Store, name: &str) -> (Option<u128>, Option<u128>) {
    let has = store.user_by_username(&username(name)).await.unwrap();
    let had = store.username_owner(&username(name)).await.unwrap();
    (has.map(|user| user.id.0.as_u128()), had.map(|id| id.0.as_u128()))
}

async fn a_username_is_one_accounts(store: &dyn Store) {
    let ann = named(1, Some("straße"), 0);
    assert_eq!(owners(store, "straße").await, (None, None));
    store.commit(vec![Change::CreateUser(ann.clone())]).await.unwrap();
    store.commit(vec![Change::CreateUser(named(2, None, 0))]).await.unwrap();
    for same in ["straße", "Straße", "STRASSE", "ｓｔｒａｓｓｅ"] {
        assert_eq!(store.user_by_username(&username(same)).await.unwrap(), Some(ann.clone()), "{same}");
        assert_eq!(refused(store, vec![Change::CreateUser(named(3, Some(same), 0))]).await, "name taken");
        assert_eq!(refused(store, vec![Change::UpdateUser(named(2, Some(same), 0))]).await, "name taken");
    }
    assert_eq!(store.user(UserId(Uuid::from_u128(3))).await.unwrap(), None);
    assert_eq!(store.user(UserId(Uuid::from_u128(2))).await.unwrap(), Some(named(2, None, 0)));
    // An older state conflicts, whichever account has the name by now; and a refusal claims nothing.
    assert_eq!(refused(store, vec![Change::UpdateUser(named(2, Some("strasse"), 7))]).await, "conflict");
    let half = vec![Change::UpdateUser(named(2, Some("bob"), 0)), Change::CreateUser(named(1, Some("x"), 0))];
    assert_eq!(refused(store, half).await, "conflict");
    assert_eq!(owners(store, "bob").await, (None, None));
    // Another spelling of the own name.
    store.commit(vec![Change::UpdateUser(named(1, Some("strasse"), 0))]).await.unwrap();
    assert_eq!(owners(store, "straße").await, (Some(1), Some(1)));
    assert_eq!(
        store.user_by_username(&username("straße")).await.unwrap(),
        Some(named(1, Some("strasse"), 1))
    );
}

fn identity(subject: &str) -> ProviderIdentity {
    ProviderIdentity { issuer: "https://idp.test".to_owned(), subject: subject.to_owned(), since: None }
}

fn identified(id: u128, subjects: &[&str], revision: u64) -> User {
    let identities = subjects.iter().map(|subject| identity(subject)).collect();
    User { identities, ..named(id, None, revision) }
}

async fn an_identity_at_a_provider_is_one_accounts(store: &dyn Store) {
    let owner = async |subject: &str| {
        let found = store.user_by_identity(&identity(subject)).await.unwrap();
        found.map(|user| user.id.0.as_u128())
    };
    assert_eq!(owner("ann").await, None);
    store.commit(vec![Change::CreateUser(identified(1, &["ann", "ann2"], 0))]).await.unwrap();
    store.commit(vec![Change::CreateUser(identified(2, &["bob"], 0))]).await.unwrap();
    let elsewhere = ProviderIdentity { issuer: "https://other.test".to_owned(), ..identity("ann") };
    assert_eq!(store.user_by_identity(&elsewhere).await.unwrap(), None);
    assert_eq!((owner("ann").await, owner("ann2").await, owner("bob").await), (Some(1), Some(1), Some(2)));
    for theirs in [&["ann"][..], &["new", "ann2"]] {
        assert_eq!(
            refused(store, vec![Change::CreateUser(identified(3, theirs, 0))]).await,
            "identity taken"
        );
        assert_eq!(
            refused(store, vec![Change::UpdateUser(identified(2, theirs, 0))]).await,
            "identity taken"
        );
    }
    assert_eq!(owner("new").await, None, "a refusal claims nothing");
    // One that an account gives up is free again, in the same commit too.
    let moved = vec![
        Change::UpdateUser(identified(1, &["ann"], 0)),
        Change::UpdateUser(identified(2, &["bob", "ann2"], 0)),
    ];
    store.commit(moved).await.unwrap();
    assert_eq!((owner("ann").await, owner("ann2").await), (Some(1), Some(2)));
    store.commit(vec![Change::DeleteUser(UserId(Uuid::from_u128(2)))]).await.unwrap();
    assert_eq!((owner("bob").await, owner("ann2").await), (None, None));
    store.commit(vec![Change::CreateUser(identified(3, &["bob", "ann2"], 0))]).await.unwrap();
    assert_eq!(owner("bob").await, Some(3));
}

async fn accounts_that_are_gone_are_told(store: &dyn Store) {
    let at = |at: u64, id: u128| {
        Change::Record(vec![Event { at: UnixTime(at), ..event(Some(id), u128::from(at)) }])
    };
    store.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
    store.commit(vec![at(1_000, 1)]).await.unwrap();
    assert_eq!(store.gone_users(UnixTime(0)).await.unwrap(), []);
    store.commit(vec![Change::DeleteUser(UserId(Uuid::from_u128(1)))]).await.unwrap();
    store.commit(vec![at(2_000, 1), at(3_000, 1)]).await.unwrap();
    let gone = (UserId(Uuid::from_u128(1)), UnixTime(2_000));
    for (since, expected) in [(0, vec![gone]), (2_000, vec![gone]), (2_001, Vec::new())] {
        assert_eq!(store.gone_users(UnixTime(since)).await.unwrap(), expected, "{since}");
    }
}

async fn a_username_is_never_given_out_twice(store: &dyn Store) {
    let made =
        vec![Change::CreateUser(named(1, Some("ann"), 0)), Change::CreateUser(named(2, Some("bob"), 0))];
    store.commit(made).await.unwrap();
    // Not even in the commit that frees it, as an address is.
    let swap =
        vec![Change::UpdateUser(named(1, Some("anna"), 0)), Change::UpdateUser(named(2, Some("ann"), 0))];
    assert_eq!(refused(store, swap).await, "name taken");
    store.commit(vec![Change::UpdateUser(named(1, Some("anna"), 0))]).await.unwrap();
    assert_eq!(owners(store, "ann").await, (None, Some(1)));
    assert_eq!(refused(store, vec![Change::UpdateUser(named(2, Some("Ann"), 0))]).await, "name taken");
    assert_eq!(refused(store, vec![Change::CreateUser(named(3, Some("Ann"), 0))]).await, "name taken");
    // The account that had it may have it back, and gives up the other.
    store.commit(vec![Change::UpdateUser(named(1, Some("ann"), 1))]).await.unwrap();
    assert_eq!(owners(store, "ann").await, (Some(1), Some(1)));
    assert_eq!(owners(store, "anna").await, (None, Some(1)));
    store.commit(vec![Change::UpdateUser(named(1, None, 2))]).await.unwrap();
    assert_eq!(owners(store, "ann").await, (None, Some(1)));
    store.commit(vec![Change::UpdateUser(named(1, Some("ann"), 3))]).await.unwrap();
    // Nor after it is gone, whatever it was called when it went.
    let gone = UserId(Uuid::from_u128(1));
    store.commit(vec![Change::DeleteUser(gone)]).await.unwrap();
    store.commit(vec![Change::DeleteUser(gone)]).await.unwrap();
    for name in ["ann", "ANNA"] {
        assert_eq!(owners(store, name).await, (None, Some(1)), "{name}");
        assert_eq!(refused(store, vec![Change::UpdateUser(named(2, Some(name), 0))]).await, "name taken");
        assert_eq!(refused(store, vec![Change::CreateUser(named(3, Some(name), 0))]).await, "name taken");
    }
    store.sweep(UnixTime(u64::MAX / 2)).await.unwrap();
    assert_eq!(owners(store, "ann").await, (None, Some(1)), "no time frees it");
    // And it leaves with the records of the store.
    let made = vec![Change::DeleteUser(named(2, None, 0).id), Change::CreateUser(named(2, Some("bob"), 0))];
    store.commit(made).await.unwrap();
    assert_eq!(owners(store, "bob").await, (Some(2), Some(2)), "the account of the same id");
}

/// Of many accounts that are given one name at once, one gets it.
async fn one_of_many_accounts_gets_a_username(store: Arc<dyn Store>) {
    let olds: Vec<_> = (0..8).map(|id| Change::CreateUser(named(id, None, 0))).collect();
    store.commit(olds).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for id in 0..16u128 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let user = named(id, Some(if id % 3 == 0 { "ANN" } else { "ann" }), 0);
            let change = if id < 8 { Change::UpdateUser(user) } else { Change::CreateUser(user) };
            match store.commit(vec![change]).await {
                Ok(_) => Some(id),
                Err(CommitError::UsernameTaken) => None,
                other => panic!("{other:?}"),
            }
        });
    }
    let got: Vec<u128> = writers.join_all().await.into_iter().flatten().collect();
    let [one] = got[..] else { panic!("{got:?} have one name") };
    assert_eq!(owners(&*store, "ann").await, (Some(one), Some(one)));
    let having = store.users(None, 99).await.unwrap().into_iter().filter(|user| user.username.is_some());
    assert_eq!(having.count(), 1);
}

async fn upgrades(store: &dyn Store) {
    assert!(!store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
    for _ in 0..2 {
        store.commit(vec![Change::Upgraded(Upgrade::ReservedClaims)]).await.unwrap();
        assert!(store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
    }
}

async fn a_deleted_user_leaves_nothing(store: &dyn Store) {
    let ann = user(1, "ann@example.com");
    let made = vec![
        Change::CreateUser(ann.clone()),
        Change::CreateUser(user(2, "bob@example.com")),
        Change::CreateSession(session(1, 1, 100)),
        Change::CreateSession(session(1, 2, 100)),
        Change::CreateSession(session(2, 3, 100)),
        Change::CreateConnection(connection(1, 1, Some(5))),
        Change::CreateConnection(connection(1, 2, None)),
        Change::CreateConnection(connection(2, 3, Some(5))),
        Change::Record(vec![event(Some(1), 1), event(Some(2), 2), event(None, 3)]),
    ];
    store.commit(made).await.unwrap();
    // One that was made in the same commit goes too.
    let gone = vec![
        Change::CreateSession(session(1, 4, 100)),
        Change::CreateConnection(connection(1, 4, Some(4))),
        Change::DeleteUser(ann.id),
    ];
    store.commit(gone).await.unwrap();
    assert_eq!(store.user(ann.id).await.unwrap(), None);
    assert_eq!(store.user_by_email(address(&ann)).await.unwrap(), None);
    assert_eq!(store.sessions(ann.id).await.unwrap(), []);
    assert_eq!(store.connections(ann.id).await.unwrap(), []);
    assert_eq!(store.all_connections(None, 9).await.unwrap(), [connection(2, 3, Some(5))]);
    assert_eq!(store.due_connections(UnixTime::NEVER, 9).await.unwrap(), [connection(2, 3, Some(5))]);
    assert_eq!(store.events(Some(ann.id), 9).await.unwrap(), []);
    let bob = UserId(Uuid::from_u128(2));
    assert_eq!(store.sessions(bob).await.unwrap().len(), 1);
    assert_eq!(store.events(Some(bob), 9).await.unwrap().len(), 1);
    assert_eq!(store.events(None, 9).await.unwrap().len(), 1);
    store.commit(vec![Change::DeleteUser(ann.id)]).await.unwrap();
    store.commit(vec![Change::CreateUser(user(5, "ann@example.com"))]).await.unwrap();
    // And no index entry of theirs is left.
    let swept = store.sweep(UnixTime(101 + 3600)).await.unwrap();
    assert_eq!(swept, Swept { sessions: 1, ..Swept::default() });
}

async fn sessions(store: &dyn Store) {
    let first = session(1, 1, 100);
    assert_eq!(store.session(first.user, first.id).await.unwrap(), None);
    assert_eq!(refused(store, vec![Change::UpdateSession(first.clone())]).await, "conflict");
    for n in [3, 1, 2] {
        store.commit(vec![Change::CreateSession(session(1, n, 100))]).await.unwrap();
    }
    store.commit(vec![Change::CreateSession(session(2, 9, 100))]).await.unwrap();
    let ids = |list: Vec<Session>| list.iter().map(|session| session.id.0.as_u128()).collect::<Vec<_>>();
    assert_eq!(ids(store.sessions(first.user).await.unwrap()), [1, 2, 3]);

    let next = Session { generation: 1, expires_at: UnixTime(200), ..first.clone() };
    store.commit(vec![Change::UpdateSession(next.clone())]).await.unwrap();
    assert_eq!(refused(store, vec![Change::UpdateSession(next.clone())]).await, "conflict", "an older state");
    let stored = store.session(first.user, first.id).await.unwrap().unwrap();
    assert_eq!(stored, Session { revision: 1, ..next });

    store.commit(vec![Change::EndSession(first.user, first.id)]).await.unwrap();
    store.commit(vec![Change::EndSession(first.user, first.id)]).await.unwrap();
    assert_eq!(store.session(first.user, first.id).await.unwrap(), None);
    assert_eq!(
        refused(store, vec![Change::UpdateSession(stored)]).await,
        "conflict",
        "an ended one stays so"
    );
    assert_eq!(ids(store.sessions(first.user).await.unwrap()), [2, 3]);
}

async fn sessions_and_links_are_swept_at_their_real_end(store: &dyn Store) {
    let slack = |time: u64| UnixTime(time + 3600);
    let made = vec![
        Change::CreateSession(session(1, 1, 100)),
        Change::CreateSession(session(1, 2, 100)),
        Change::CreateSession(session(1, 3, 500)),
        Change::CreateSession(session(1, 4, 100)),
        Change::CreateLink(link(1, 100)),
        Change::CreateLink(link(2, 150)),
        Change::CreateLink(link(3, 100)),
    ];
    store.commit(made).await.unwrap();
    let later = vec![
        Change::UpdateSession(session(1, 2, 300)),
        Change::UpdateSession(session(1, 3, 200)),
        Change::EndSession(UserId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(4))),
        Change::ConsumeLink(link(3, 0).hash),
    ];
    store.commit(later).await.unwrap();
    let sweep = async |now| {
        let swept = store.sweep(now).await.unwrap();
        assert_eq!(swept.revocations, 0);
        (swept.sessions, swept.links)
    };
    assert_eq!(sweep(slack(100)).await, (0, 0), "an hour of slack");
    assert_eq!(sweep(slack(101)).await, (1, 1));
    assert_eq!(sweep(slack(151)).await, (0, 1));
    assert_eq!(sweep(slack(201)).await, (1, 0), "an end that came nearer");
    assert_eq!(sweep(slack(300)).await, (0, 0), "an end that moved away");
    assert_eq!(sweep(slack(301)).await, (1, 0));
    assert_eq!(store.sessions(UserId(Uuid::from_u128(1))).await.unwrap(), []);
    assert_eq!(store.link(&link(2, 0).hash).await.unwrap(), None);
}

async fn connections(store: &dyn Store) {
    let first = connection(1, 1, Some(10));
    let key = (first.user, first.id);
    assert_eq!(store.connection(key.0, key.1).await.unwrap(), None);
    assert_eq!(refused(store, vec![Change::UpdateConnection(first.clone())]).await, "conflict");
    assert_eq!(store.due_connections(UnixTime::NEVER, 9).await.unwrap(), [], "a refusal files nothing");
    for n in [3, 1, 2] {
        store.commit(vec![Change::CreateConnection(connection(1, n, Some(10)))]).await.unwrap();
    }
    store.commit(vec![Change::CreateConnection(connection(2, 9, None))]).await.unwrap();
    assert_eq!(store.connection(key.0, key.1).await.unwrap(), Some(first.clone()));
    let other = UserId(Uuid::from_u128(2));
    assert_eq!(store.connection(other, first.id).await.unwrap(), None, "another user's");
    let again = Connection { due_at: Some(UnixTime(1)), ..first.clone() };
    assert_eq!(refused(store, vec![Change::CreateConnection(again)]).await, "conflict");
    let ids = |list: Vec<Connection>| list.iter().map(|one| one.id.0.as_u128()).collect::<Vec<_>>();
    assert_eq!(ids(store.connections(first.user).await.unwrap()), [1, 2, 3]);
    assert_eq!(ids(store.connections(UserId(Uuid::from_u128(3))).await.unwrap()), [0; 0]);

    let next = Connection { status: Status::Revoked, tokens: None, consent: None, ..first.clone() };
    store.commit(vec![Change::UpdateConnection(next.clone())]).await.unwrap();
    let older = Change::UpdateConnection(first.clone());
    assert_eq!(refused(store, vec![older]).await, "conflict", "an older state");
    let stored = store.connection(key.0, key.1).await.unwrap().unwrap();
    assert_eq!(stored, Connection { revision: 1, ..next });

    // Page by page, over the borders of users.
    let after = |user, id| Some((UserId(Uuid::from_u128(user)), ConnectionId(Uuid::from_u128(id))));
    for (behind, limit, expected) in [
        (None, 9, vec![1, 2, 3, 9]),
        (None, 2, vec![1, 2]),
        (after(1, 2), 2, vec![3, 9]),
        (after(1, 3), 9, vec![9]),
        (after(2, 9), 9, vec![]),
        (after(1, 0), 1, vec![1]),
        (None, 0, vec![]),
    ] {
        let page = store.all_connections(behind, limit).await.unwrap();
        assert_eq!(ids(page), expected, "{limit} behind {behind:?}");
    }

    store.commit(vec![Change::RemoveConnection(key.0, key.1)]).await.unwrap();
    store.commit(vec![Change::RemoveConnection(key.0, key.1)]).await.unwrap();
    assert_eq!(store.connection(key.0, key.1).await.unwrap(), None);
    assert_eq!(refused(store, vec![Change::UpdateConnection(stored)]).await, "conflict", "gone is gone");
    assert_eq!(ids(store.connections(first.user).await.unwrap()), [2, 3]);
    assert_eq!(ids(store.due_connections(UnixTime::NEVER, 9).await.unwrap()), [2, 3]);
}

async fn connections_are_due_when_they_say(store: &dyn Store) {
    let due = async |now: u64, limit: usize| {
        let found = store.due_connections(UnixTime(now), limit).await.unwrap();
        found.iter().map(|one| one.id.0.as_u128()).collect::<Vec<_>>()
    };
    for (user, id, at) in [(2, 1, Some(300)), (1, 2, Some(255)), (3, 3, Some(256)), (1, 4, None)] {
        store.commit(vec![Change::CreateConnection(connection(user, id, at))]).await.unwrap();
    }
    assert_eq!(due(254, 9).await, [0; 0]);
    assert_eq!(due(255, 9).await, [2]);
    assert_eq!(due(u64::MAX, 9).await, [2, 3, 1], "the earliest first, whosever they are");
    assert_eq!(due(u64::MAX, 2).await, [2, 3]);

    let moved = |user, id, at, revision| {
        Change::UpdateConnection(Connection { revision, ..connection(user, id, at) })
    };
    // Later, sooner, not at all, and at last.
    store.commit(vec![moved(1, 2, Some(400), 0), moved(2, 1, Some(100), 0)]).await.unwrap();
    assert_eq!(due(399, 9).await, [1, 3]);
    store.commit(vec![moved(3, 3, None, 0), moved(1, 4, Some(500), 0)]).await.unwrap();
    assert_eq!(due(u64::MAX, 9).await, [1, 2, 4]);
    // The same moment again is one entry, and several moves in one commit leave the last.
    let moves = vec![moved(1, 2, Some(400), 1), moved(2, 1, Some(7), 1), moved(2, 1, Some(450), 2)];
    store.commit(moves).await.unwrap();
    assert_eq!(due(u64::MAX, 9).await, [2, 1, 4]);
    // What is never due is not due at the end of time either, as what is due then.
    store.commit(vec![moved(3, 3, Some(u64::MAX), 1)]).await.unwrap();
    assert_eq!(due(u64::MAX - 1, 9).await, [2, 1, 4]);
    assert_eq!(due(u64::MAX, 9).await, [2, 1, 4, 3]);
    // A commit that is refused moves nothing.
    let refusal = vec![moved(1, 2, Some(1), 2), Change::ConsumeLink(link(9, 1).hash)];
    assert_eq!(refused(store, refusal).await, "conflict");
    let gone = Change::RemoveConnection(UserId(Uuid::from_u128(1)), ConnectionId(Uuid::from_u128(4)));
    store.commit(vec![gone]).await.unwrap();
    assert_eq!(due(u64::MAX, 9).await, [2, 1, 3]);
}

async fn mailboxes(store: &dyn Store) {
    let slack = |time: u64| UnixTime(time + 3600);
    let (caps, to) = (Caps { enabled: true, an_hour: 5, a_day: 15 }, "ann@example.com".parse().unwrap());
    let letter = CappedLetter { asked: LetterRequest::Reset, only_link: true, verified: true, known: false };
    let counted = |mailbox: &Mailbox, at| {
        let mut next = mailbox.clone();
        assert!(next.admits(caps, letter, &to, UnixTime(at)));
        next
    };
    let id = MailboxId([7; 16]);
    assert_eq!(store.mailbox(id).await.unwrap(), None);
    let first = counted(&Mailbox::new(id), 1000);
    let mut later = first.clone();
    later.revision = 1;
    assert_eq!(refused(store, vec![Change::PutMailbox(later.clone())]).await, "conflict", "of nothing");
    store.commit(vec![Change::PutMailbox(first.clone())]).await.unwrap();
    assert_eq!(store.mailbox(id).await.unwrap(), Some(later.clone()));
    assert_eq!(store.mailbox(MailboxId([8; 16])).await.unwrap(), None);
    assert_eq!(refused(store, vec![Change::PutMailbox(first)]).await, "conflict", "two at once count twice");
    let mut second = counted(&later, 2000);
    let other = Mailbox::new(MailboxId([8; 16]));
    store
        .commit(vec![Change::PutMailbox(second.clone()), Change::PutMailbox(counted(&other, 500))])
        .await
        .unwrap();
    second.revision = 2;
    let kept = Some(second);
    let day = 24 * 3600;
    assert_eq!(store.sweep(slack(1001 + day)).await.unwrap(), Swept::default());
    assert_eq!(store.mailbox(id).await.unwrap(), kept, "its end has moved");
    assert_eq!(store.mailbox(MailboxId([8; 16])).await.unwrap(), None, "its end has come");
    store.sweep(slack(2000 + day)).await.unwrap();
    assert_eq!(store.mailbox(id).await.unwrap(), kept, "an hour of slack");
    store.sweep(slack(2001 + day)).await.unwrap();
    assert_eq!(store.mailbox(id).await.unwrap(), None);
    // From the beginning.
    store.commit(vec![Change::PutMailbox(counted(&Mailbox::new(id), 3000 + day))]).await.unwrap();
}

async fn a_link_is_good_once(store: Arc<dyn Store>) {
    let made = link(1, 100);
    assert_eq!(refused(&*store, vec![Change::ConsumeLink(made.hash)]).await, "conflict");
    store.commit(vec![Change::CreateLink(made.clone())]).await.unwrap();
    assert_eq!(store.link(&made.hash).await.unwrap(), Some(made.clone()));
    let tries = (0..20).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(vec![Change::ConsumeLink(made.hash)]).await.is_ok() })
    });
    let mut used = 0;
    for done in tries.collect::<Vec<_>>() {
        used += usize::from(done.await.unwrap());
    }
    assert_eq!(used, 1);
    assert_eq!(store.link(&made.hash).await.unwrap(), None);
}

async fn mails(store: &dyn Store) {
    let ids = |list: Vec<Mail>| list.iter().map(|mail| mail.id.as_u128()).collect::<Vec<_>>();
    for (id, due) in [(1, 30), (2, 10), (3, 20)] {
        store.commit(vec![Change::PutMail(mail(id, "ann@example.com", due))]).await.unwrap();
    }
    assert_eq!(ids(store.due_mails(UnixTime(9), 9).await.unwrap()), [0; 0]);
    assert_eq!(ids(store.due_mails(UnixTime(20), 9).await.unwrap()), [2, 3]);
    assert_eq!(ids(store.due_mails(UnixTime::NEVER, 2).await.unwrap()), [2, 3]);
    assert_eq!(ids(store.mails(9).await.unwrap()), [3, 2, 1], "newest first");
    assert_eq!(ids(store.mails(2).await.unwrap()), [3, 2]);

    let put_off = Mail { due_at: UnixTime(40), attempts: 1, ..mail(2, "ann@example.com", 10) };
    store.commit(vec![Change::PutMail(put_off.clone())]).await.unwrap();
    assert_eq!(ids(store.due_mails(UnixTime(30), 9).await.unwrap()), [3, 1]);
    assert_eq!(store.due_mails(UnixTime(40), 9).await.unwrap()[2], put_off);
    let given_up = Mail { given_up: true, ..mail(3, "ann@example.com", 20) };
    store.commit(vec![Change::PutMail(given_up)]).await.unwrap();
    assert_eq!(ids(store.due_mails(UnixTime(40), 9).await.unwrap()), [1, 2]);
    assert_eq!(ids(store.mails(9).await.unwrap()), [3, 2, 1], "kept to be seen");
    // Tried again at an operator's word.
    store.commit(vec![Change::PutMail(mail(3, "ann@example.com", 50))]).await.unwrap();
    assert_eq!(ids(store.due_mails(UnixTime(50), 9).await.unwrap()), [1, 2, 3]);

    store.commit(vec![Change::RemoveMail(mail(2, "ann@example.com", 10).id)]).await.unwrap();
    store.commit(vec![Change::RemoveMail(mail(2, "ann@example.com", 10).id)]).await.unwrap();
    assert_eq!(ids(store.due_mails(UnixTime(50), 9).await.unwrap()), [1, 3]);
    assert_eq!(ids(store.mails(9).await.unwrap()), [3, 1]);

    // What was given up goes one day; what is still tried does not.
    store
        .commit(vec![Change::PutMail(Mail { given_up: true, ..mail(1, "ann@example.com", 30) })])
        .await
        .unwrap();
    let end = UnixTime(1 + 3600).plus(GIVEN_UP_LIFE);
    store.sweep(end).await.unwrap();
    assert_eq!(ids(store.mails(9).await.unwrap()), [3, 1], "an hour of slack");
    store.sweep(UnixTime(end.0 + 1)).await.unwrap();
    assert_eq!(ids(store.mails(9).await.unwrap()), [3]);
}

async fn tasks(store: &dyn Store) {
    let ids = |list: Vec<Task>| list.iter().map(|task| task.id.as_u128()).collect::<Vec<_>>();
    for (id, due) in [(1, 30), (3, 10), (2, 10)] {
        store.commit(vec![Change::CreateTask(task(id, due))]).await.unwrap();
    }
    assert_eq!(ids(due_tasks(store, UnixTime(9), 9).await.unwrap()), [0; 0]);
    assert_eq!(ids(due_tasks(store, UnixTime(10), 9).await.unwrap()), [2, 3]);
    assert_eq!(ids(due_tasks(store, UnixTime::NEVER, 2).await.unwrap()), [2, 3]);
    let done = task(2, 10);
    store.commit(vec![Change::FinishTask(done.id)]).await.unwrap();
    assert_eq!(refused(store, vec![Change::FinishTask(done.id)]).await, "conflict", "nothing is done twice");
    assert_eq!(due_tasks(store, UnixTime(99), 9).await.unwrap(), [task(3, 10), task(1, 30)]);
    assert_eq!(store.task(task(3, 10).id).await.unwrap(), Some(task(3, 10)));
    assert_eq!(store.task(task(2, 10).id).await.unwrap(), None);
    // Put off without being finished first: there is one of each id.
    store.commit(vec![Change::CreateTask(task(3, 40))]).await.unwrap();
    assert_eq!(due_tasks(store, UnixTime(39), 9).await.unwrap(), [task(1, 30)]);
    assert_eq!(due_tasks(store, UnixTime(40), 9).await.unwrap(), [task(1, 30), task(3, 40)]);
    assert_eq!(store.task(task(3, 40).id).await.unwrap(), Some(task(3, 40)));
}

async fn tasks_are_due_by_kind(store: &dyn Store) {
    let errand = |id: u128, due: u64, errand: Errand| {
        let work = Work::Errand { made_at: UnixTime(1), tries: 0, errand };
        Task { id: Uuid::from_u128(id), due_at: UnixTime(due), work }
    };
    let notice = |id, due| errand(id, due, Errand::Notify("{}".into()));
    let end = errand(9, 3, Errand::EndConnections { user: UserId(Uuid::from_u128(1)), since: UnixTime(1) });
    let made =
        [task(1, 2), notice(2, 1), end.clone(), notice(4, 5), notice(5, 3), task(6, UnixTime::NEVER.0)];
    store.commit(made.map(Change::CreateTask).into()).await.unwrap();
    let due = async |kind, now, limit| store.due_tasks_of(kind, UnixTime(now), limit).await.unwrap();
    assert_eq!(due(TaskKind::Account, 9, 9).await, [task(1, 2)]);
    assert_eq!(due(TaskKind::Account, u64::MAX, 9).await, [task(1, 2), task(6, UnixTime::NEVER.0)]);
    assert_eq!(due(TaskKind::EndGrant, 2, 9).await, []);
    assert_eq!(due(TaskKind::EndGrant, 3, 9).await, std::slice::from_ref(&end));
    assert_eq!(due(TaskKind::Notice, 9, 9).await, [notice(2, 1), notice(5, 3), notice(4, 5)]);
    assert_eq!(
        due(TaskKind::Notice, 9, 2).await,
        [notice(2, 1), notice(5, 3)],
        "however many others are due"
    );
    assert_eq!(due(TaskKind::Notice, 4, 9).await, [notice(2, 1), notice(5, 3)]);
    assert_eq!(due_tasks(store, UnixTime(3), 3).await.unwrap(), [notice(2, 1), task(1, 2), notice(5, 3)]);
    store.commit(vec![Change::FinishTask(end.id)]).await.unwrap();
    assert_eq!(due(TaskKind::EndGrant, u64::MAX, 9).await, []);
}

async fn commits_have_an_order(store: Arc<dyn Store>) {
    let start = store.position();
    let first = store.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
    assert!(first.position > start);
    let second = store.commit(vec![Change::Revoke(revocation(token("t"), 1, 100))]).await.unwrap();
    assert!(second.position > first.position);
    assert_eq!(second.revocations, [revocation(token("t"), 1, 100)]);
    assert!(store.position() >= second.position);
    assert_eq!(Position::from_bytes(second.position.to_bytes()), second.position);
    let nothing = store.commit(Vec::new()).await.unwrap();
    assert!(nothing.position >= second.position);
    let conflicting = vec![Change::ConsumeLink(link(9, 1).hash)];
    assert_eq!(refused(&*store, conflicting).await, "conflict");
    assert!(store.position() >= nothing.position);

    let made = (0..64u128).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let before = store.position();
            let made = store.commit(vec![Change::CreateLink(link(n, 100))]).await.unwrap().position;
            assert!(made > before && store.position() >= made, "acknowledged is what the position tells");
            made
        })
    });
    let mut positions = Vec::new();
    for one in made.collect::<Vec<_>>() {
        positions.push(one.await.unwrap());
    }
    positions.sort();
    positions.dedup();
    assert_eq!(positions.len(), 64, "each has its own");
}

async fn revocations_can_be_followed(store: Arc<dyn Store>) {
    store.revoke(revocation(token("before"), 1, 100)).await.unwrap();
    let start = store.position();
    let mut follower = store.subscribe(start).await.unwrap();
    store.commit(vec![Change::CreateUser(user(1, "ann@example.com"))]).await.unwrap();
    let (issuer, sub) = ("i".to_owned(), "ann".to_owned());
    let raise = |enforce| Change::RaiseVersion {
        issuer: issuer.clone(),
        sub: sub.clone(),
        created_at: UnixTime(1),
        expires_at: UnixTime(100),
        reason: None,
        enforce,
    };
    let both = vec![Change::Revoke(revocation(token("t"), 1, 100)), raise(true)];
    let both = store.commit(both).await.unwrap();
    store.commit(vec![raise(false)]).await.unwrap();
    let cut = Change::CutSessions {
        issuer: issuer.clone(),
        sub: Some(sub.clone()),
        created_at: UnixTime(1),
        expires_at: UnixTime(100),
        reason: None,
    };
    let cut = store.commit(vec![cut]).await.unwrap();

    let first = follower.next().await.unwrap();
    assert_eq!((first.position, &first.revocations), (both.position, &both.revocations));
    let second = follower.next().await.unwrap();
    assert_eq!((second.position, second.revocations), (cut.position, cut.revocations.clone()));
    // What is raised and not enforced is not in force, and a commit that revokes nothing tells nothing.
    let waits = tokio::spawn(async move { follower.next().await.unwrap() });
    let late = store.commit(vec![Change::Revoke(revocation(token("late"), 1, 100))]).await.unwrap();
    assert_eq!(waits.await.unwrap().position, late.position);

    // From any position on, the same.
    let mut from_first = store.subscribe(both.position).await.unwrap();
    assert_eq!(from_first.next().await.unwrap().position, cut.position);
    assert_eq!(from_first.next().await.unwrap().position, late.position);
    let unknown = store.subscribe(Position::from_bytes([0xff; 16])).await;
    assert!(matches!(unknown, Err(SubscriptionError::Behind)), "none of this store's");
}

async fn revocations_are_followed_in_the_order_of_their_commits(store: Arc<dyn Store>) {
    let mut follower = store.subscribe(store.position()).await.unwrap();
    let made = (0..100).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let entry = revocation(token(&n.to_string()), n, 1000);
            store
                .commit(vec![Change::Revoke(entry.clone())])
                .await
                .map(|made| (made.position, entry))
                .unwrap()
        })
    });
    let mut made: Vec<_> = futures::future::join_all(made).await.into_iter().map(Result::unwrap).collect();
    made.sort_by_key(|(position, _)| *position);
    for (position, entry) in made {
        let next = follower.next().await.unwrap();
        assert_eq!((next.position, next.revocations), (position, vec![entry]));
    }
}

async fn a_precondition_is_held_against_what_stands_at_the_commit(store: &dyn Store) {
    let ann = user(1, "ann@example.com");
    let owned = || vec![Change::Require(Precondition::UserExists(ann.id)), Change::CreateLink(link(1, 100))];
    assert_eq!(refused(store, owned()).await, "conflict");
    assert_eq!(store.link(&link(1, 100).hash).await.unwrap(), None);
    // What the commit itself did before counts; what it does afterwards does not.
    assert_eq!(refused(store, [owned(), vec![Change::CreateUser(ann.clone())]].concat()).await, "conflict");
    store.commit([vec![Change::CreateUser(ann.clone())], owned()].concat()).await.unwrap();
    store.commit(owned()).await.unwrap();
    let before = store.user(ann.id).await.unwrap().unwrap();
    assert_eq!(before.revision, 0, "it writes nothing");
    store.commit(vec![Change::DeleteUser(ann.id)]).await.unwrap();
    assert_eq!(refused(store, owned()).await, "conflict");

    let waits =
        || vec![Change::Require(Precondition::TaskWaits(task(1, 1).id)), Change::CreateTask(task(2, 1))];
    assert_eq!(refused(store, waits()).await, "conflict");
    store.commit(vec![Change::CreateTask(task(1, 1))]).await.unwrap();
    store.commit(waits()).await.unwrap();
    store.commit(vec![Change::FinishTask(task(1, 1).id)]).await.unwrap();
    assert_eq!(refused(store, waits()).await, "conflict");
}

/// A deletion that comes first leaves nothing behind; one that comes later takes what was made with it.
async fn a_precondition_and_a_deletion_at_once_leave_no_orphan(store: Arc<dyn Store>) {
    for n in 1..=32u128 {
        let owner = user(n, &format!("u{n}@example.com"));
        store.commit(vec![Change::CreateUser(owner.clone())]).await.unwrap();
        let made = connection(n, n, None);
        let (first, second) = (Arc::clone(&store), Arc::clone(&store));
        let connects = tokio::spawn(async move {
            let owned =
                vec![Change::Require(Precondition::UserExists(made.user)), Change::CreateConnection(made)];
            let _ = first.commit(owned).await;
        });
        let deletes = tokio::spawn(async move { second.commit(vec![Change::DeleteUser(owner.id)]).await });
        connects.await.unwrap();
        deletes.await.unwrap().unwrap();
        assert_eq!(store.all_connections(None, 9).await.unwrap(), []);
    }
}

async fn events(store: &dyn Store) {
    let ids = |list: Vec<Event>| list.iter().map(|event| event.id.as_u128()).collect::<Vec<_>>();
    let ann = Some(UserId(Uuid::from_u128(1)));
    // A clock that was set back gives ids that do not rise; the order they came in counts.
    store.commit(vec![Change::Record(vec![event(Some(1), 9), event(Some(1), 8)])]).await.unwrap();
    store
        .commit(vec![Change::Record(vec![event(Some(2), 7), event(None, 6), event(Some(1), 5)])])
        .await
        .unwrap();
    assert_eq!(ids(store.events(ann, 9).await.unwrap()), [5, 8, 9]);
    assert_eq!(ids(store.events(ann, 2).await.unwrap()), [5, 8]);
    assert_eq!(ids(store.events(None, 9).await.unwrap()), [6]);
    let kept = EVENTS_KEPT as u128;
    for n in 0..kept {
        store.commit(vec![Change::Record(vec![event(Some(1), 1000 + n)])]).await.unwrap();
    }
    let many = store.events(ann, 10 * EVENTS_KEPT).await.unwrap();
    assert_eq!(ids(many), (1000..1000 + kept).rev().collect::<Vec<_>>());
    let flood = (0..400).map(|n| event(None, 5000 + n)).collect();
    store.commit(vec![Change::Record(flood)]).await.unwrap();
    let many = store.events(None, 10 * EVENTS_KEPT).await.unwrap();
    let kept = STRANGERS_EVENTS_KEPT as u128;
    assert_eq!(
        ids(many),
        (5400 - kept..5400).rev().collect::<Vec<_>>(),
        "events without an account are strangers'"
    );
    assert_eq!(store.events(Some(UserId(Uuid::from_u128(2))), 9).await.unwrap().len(), 1);
}

async fn strangers_events_push_out_only_one_another(store: &dyn Store) {
    let of = |user, id: u128, action, actor, outcome| Event { action, actor, outcome, ..event(user, id) };
    let ids = |list: Vec<Event>| list.iter().map(|event| event.id.as_u128()).collect::<Vec<_>>();
    let (own, strangers) = (EVENTS_KEPT as u128, STRANGERS_EVENTS_KEPT as u128);
    for user in [Some(1), None] {
        let owner = user.map_or(Actor::Operator, |_| Actor::User);
        let done = |id| of(user, id, Action::ChangePassword, owner, Outcome::Success);
        let refused = |id| of(user, id, Action::Login, Actor::User, Outcome::Denied);
        store.commit(vec![Change::Record(vec![done(1), refused(2), done(3)])]).await.unwrap();
        // One by one, and many in one commit.
        for n in 1000..1250 {
            store.commit(vec![Change::Record(vec![refused(n)])]).await.unwrap();
        }
        store.commit(vec![Change::Record((1250..1500).map(refused).collect())]).await.unwrap();
        let whose = user.map(|user| UserId(Uuid::from_u128(user)));
        let kept = ids(store.events(whose, 10 * EVENTS_KEPT).await.unwrap());
        let flood: Vec<u128> = (1500 - strangers..1500).rev().collect();
        assert_eq!(kept, [&flood[..], &[3, 1]].concat(), "{user:?}");
        // And the others do not push out those of strangers.
        store.commit(vec![Change::Record((2000..2500).map(done).collect())]).await.unwrap();
        store.commit(vec![Change::Record(vec![refused(3000), done(3001)])]).await.unwrap();
        let kept = ids(store.events(whose, 10 * EVENTS_KEPT).await.unwrap());
        let latest: Vec<u128> = [3001, 3000].into_iter().chain((2501 - own..2500).rev()).collect();
        let expected = [&latest[..], &flood[..flood.len() - 1]].concat();
        assert_eq!(kept, expected, "in the order they came, of {user:?}");
        assert_eq!(ids(store.events(whose, 3).await.unwrap()), [3001, 3000, 2499]);
    }
    let ann = UserId(Uuid::from_u128(1));
    store.commit(vec![Change::DeleteUser(ann)]).await.unwrap();
    assert_eq!(store.events(Some(ann), 10 * EVENTS_KEPT).await.unwrap(), []);
}

async fn events_of_an_account_that_is_gone_have_an_end(store: &dyn Store) {
    let ids = |list: Vec<Event>| list.iter().map(|event| event.id.as_u128()).collect::<Vec<_>>();
    let at = |id: u128, at| Event { at: UnixTime(at), ..event(Some(1), id) };
    let (ann, bob) = (user(1, "ann@example.com"), user(2, "bob@example.com"));
    let made = vec![Change::CreateUser(ann.clone()), Change::CreateUser(bob.clone())];
    store.commit(made).await.unwrap();
    store.commit(vec![Change::Record(vec![at(1, 10), event(Some(2), 2), event(None, 3)])]).await.unwrap();
    store.commit(vec![Change::DeleteUser(ann.id)]).await.unwrap();
    store.commit(vec![Change::Record(vec![at(4, 1000)])]).await.unwrap();
    // What is tried with its tokens later does not prolong it.
    let refused = Event { outcome: Outcome::Denied, ..at(5, 500_000) };
    store.commit(vec![Change::Record(vec![refused])]).await.unwrap();
    assert_eq!(ids(store.events(Some(ann.id), 9).await.unwrap()), [5, 4]);
    let end = UnixTime(1000 + 3600).plus(GONE_EVENTS_LIFE);
    store.sweep(end).await.unwrap();
    assert_eq!(ids(store.events(Some(ann.id), 9).await.unwrap()), [5, 4]);
    store.sweep(UnixTime(end.0 + 1)).await.unwrap();
    assert_eq!(ids(store.events(Some(ann.id), 9).await.unwrap()), [0; 0]);
    store.sweep(UnixTime::NEVER).await.unwrap();
    assert_eq!(ids(store.events(Some(bob.id), 9).await.unwrap()), [2]);
    assert_eq!(ids(store.events(None, 9).await.unwrap()), [3]);
    // One that comes even later has an end of its own; and so has one that is told of twice.
    store.commit(vec![Change::Record(vec![at(6, 2000)])]).await.unwrap();
    store.commit(vec![Change::DeleteUser(ann.id)]).await.unwrap();
    store.commit(vec![Change::Record(vec![at(7, 3000)])]).await.unwrap();
    store.sweep(UnixTime(end.0 + 1001)).await.unwrap();
    assert_eq!(ids(store.events(Some(ann.id), 9).await.unwrap()), [7]);
    store.sweep(UnixTime::NEVER).await.unwrap();
    assert_eq!(ids(store.events(Some(ann.id), 9).await.unwrap()), [0; 0]);
}

async fn a_commit_is_whole(store: &dyn Store) {
    assert_eq!(store.commit(Vec::new()).await.unwrap().revocations, []);
    let refusals = [
        Change::ConsumeLink(link(9, 1).hash),
        Change::FinishTask(task(9, 1).id),
        Change::Require(Precondition::UserExists(user(9, "nine@example.com").id)),
        Change::Require(Precondition::TaskWaits(task(9, 1).id)),
        Change::UpdateSession(session(9, 9, 1)),
        Change::UpdateUser(user(9, "nine@example.com")),
        Change::UpdateConnection(connection(9, 9, None)),
    ];
    for refusal in refusals {
        let changes = vec![
            Change::CreateUser(user(1, "ann@example.com")),
            Change::CreateSession(session(1, 1, 100)),
            Change::CreateConnection(connection(1, 1, Some(1))),
            Change::CreateLink(link(1, 100)),
            Change::PutMail(mail(1, "ann@example.com", 1)),
            Change::CreateTask(task(1, 1)),
            Change::Record(vec![event(Some(1), 1)]),
            Change::Revoke(revocation(token("t"), 1, 100)),
            refusal,
        ];
        assert_eq!(refused(store, changes).await, "conflict");
        let ann = user(1, "ann@example.com");
        assert_eq!(store.user(ann.id).await.unwrap(), None);
        assert_eq!(store.user_by_email(address(&ann)).await.unwrap(), None);
        assert_eq!(store.sessions(ann.id).await.unwrap(), []);
        assert_eq!(store.connections(ann.id).await.unwrap(), []);
        assert_eq!(store.due_connections(UnixTime::NEVER, 9).await.unwrap(), []);
        assert_eq!(store.link(&link(1, 1).hash).await.unwrap(), None);
        assert_eq!(store.mails(9).await.unwrap(), []);
        assert_eq!(store.due_mails(UnixTime::NEVER, 9).await.unwrap(), []);
        assert_eq!(due_tasks(store, UnixTime::NEVER, 9).await.unwrap(), []);
        assert_eq!(store.events(Some(ann.id), 9).await.unwrap(), []);
        assert_eq!(all(store, 0).await, []);
        assert_eq!(store.sweep(UnixTime::NEVER).await.unwrap(), Swept::default());
        assert!(store.status().writable, "a refusal is no failure");
    }
    // A change sees what the ones before it in its commit did.
    let changes = vec![
        Change::CreateLink(link(1, 100)),
        Change::ConsumeLink(link(1, 100).hash),
        Change::CreateSession(session(1, 1, 100)),
        Change::UpdateSession(session(1, 1, 100)),
        Change::UpdateSession(Session { revision: 1, ..session(1, 1, 100) }),
    ];
    store.commit(changes).await.unwrap();
    let ann = UserId(Uuid::from_u128(1));
    assert_eq!(store.sessions(ann).await.unwrap(), [Session { revision: 2, ..session(1, 1, 100) }]);
}

/// Refusals do not disturb what is committed beside them, and each revision is followed by one other.
async fn one_of_many_writers_of_a_revision_wins(store: Arc<dyn Store>) {
    store.commit(vec![Change::CreateSession(session(1, 1, 100))]).await.unwrap();
    for revision in 0..5 {
        let tries = (0..20u128).map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let next = Session { revision, generation: n as u32, ..session(1, 1, 100) };
                let bystander = Change::Revoke(revocation(token(&format!("{revision}-{n}")), 1, 100));
                let made = store.commit(vec![Change::UpdateSession(next)]).await;
                store.commit(vec![bystander]).await.unwrap();
                match made {
                    Ok(_) => Some(n as u32),
                    Err(CommitError::Conflict) => None,
                    Err(error) => panic!("{error}"),
                }
            })
        });
        let mut winners = Vec::new();
        for done in tries.collect::<Vec<_>>() {
            winners.extend(done.await.unwrap());
        }
        let stored = &store.sessions(UserId(Uuid::from_u128(1))).await.unwrap()[0];
        assert_eq!((winners, stored.revision), (vec![stored.generation], revision + 1));
    }
    assert_eq!(all(&*store, 0).await.len(), 100);
}

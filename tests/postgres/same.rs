//! One sequence of commits on the embedded store and on PostgreSQL comes to the same answers and the same records.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use palisade::edge::store::SledStore;
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::{Event, Outcome};
use palisade_core::domain::connection::ConnectionId;
use palisade_core::domain::lease::{Lease, LeaseHolder, LeaseSubject};
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::{CappedLetter, Caps, LetterRequest, Mailbox, MailboxId};
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::SessionId;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::ports::{
    Change, CommitError, GONE_EVENTS_LIFE, Position, Precondition, Store, StoreError, Upgrade,
};
use palisade_testing::conformance::{connection, event, link, mail, revocation, session, task, user};
use palisade_testing::postgres::Cluster;
use uuid::Uuid;

use super::place::open;

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = BuildHasherDefault::<DefaultHasher>::default().hash_one(self.0);
        self.0 % below
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// What a commit came to, without what differs between stores.
fn outcome(
    made: Result<palisade_core::ports::Committed, CommitError>,
) -> Result<Vec<Revocation>, &'static str> {
    match made {
        Ok(made) => Ok(made.revocations),
        Err(CommitError::Conflict) => Err("conflict"),
        Err(CommitError::EmailTaken) => Err("email"),
        Err(CommitError::UsernameTaken) => Err("username"),
        Err(CommitError::IdentityTaken) => Err("identity"),
        Err(CommitError::Store(error)) => panic!("{error}"),
    }
}

fn id(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

/// An account with one of a few addresses, names and identities, so that they meet.
fn account(numbers: &mut Numbers, n: u64) -> User {
    let mut made = user(u128::from(n), &format!("u{}@example.com", numbers.below(5)));
    if numbers.one_in(5) {
        made.email = None;
    }
    made.username = (!numbers.one_in(3)).then(|| format!("name-{}", numbers.below(5)).parse().unwrap());
    made.identities = (0..numbers.below(3))
        .map(|_| ProviderIdentity {
            issuer: "https://idp.test".into(),
            subject: numbers.below(5).to_string(),
            since: None,
        })
        .collect();
    made.identities.dedup_by(|one, other| one.subject == other.subject);
    made
}

fn target(numbers: &mut Numbers) -> Target {
    let (issuer, name) = (format!("i{}", numbers.below(2)), format!("n{}", numbers.below(2)));
    let limit = numbers.below(6);
    match numbers.below(8) {
        0 => Target::Token { issuer, jti: name },
        1 => Target::Session { issuer, sid: name },
        2 => Target::SubjectVersion { issuer, sub: name, below: limit },
        3 => Target::SubjectIssued { issuer, sub: name, until: UnixTime(limit) },
        4 => Target::Issuer { issuer, until: UnixTime::NEVER },
        5 => Target::IssuerGeneration { issuer, below: limit },
        6 => Target::SubjectSessions { issuer, sub: name, below: limit },
        _ => Target::EverySession { issuer, below: limit },
    }
}

/// A change that is right about as often as not.
async fn change(numbers: &mut Numbers, store: &dyn Store, round: u64) -> Change {
    let (n, m, end) = (numbers.below(5), numbers.below(3), round + numbers.below(40));
    let (of, at) = (UserId(id(n)), UnixTime(end));
    let wide = |n: u64| u128::from(n);
    // A revision that is the stored one, as a rule.
    let slip = u64::from(numbers.one_in(6));
    match numbers.below(30) {
        0 | 1 => Change::CreateUser(account(numbers, n)),
        2..=4 => {
            let stored = store.user(of).await.unwrap();
            let revision = stored.map_or(0, |stored| stored.revision) + slip;
            Change::UpdateUser(User { revision, ..account(numbers, n) })
        }
        5 => Change::DeleteUser(of),
        6 => Change::CreateSession(session(wide(n), wide(m), end)),
        7 | 8 => {
            let mut made = session(wide(n), wide(m), end);
            let stored = store.session(of, made.id).await.unwrap();
            made.revision = stored.map_or(0, |stored| stored.revision) + slip;
            Change::UpdateSession(made)
        }
        9 => Change::EndSession(of, SessionId(id(m))),
        10 => Change::CreateConnection(connection(wide(n), wide(m), (!numbers.one_in(3)).then_some(end))),
        11 | 12 => {
            let mut made = connection(wide(n), wide(m), (!numbers.one_in(3)).then_some(end));
            let stored = store.connection(of, made.id).await.unwrap();
            made.revision = stored.map_or(0, |stored| stored.revision) + slip;
            Change::UpdateConnection(made)
        }
        13 => Change::RemoveConnection(of, ConnectionId(id(m))),
        14 => Change::CreateLink(link(wide(n), end)),
        15 => Change::ConsumeLink(link(wide(n), end).hash),
        16 => {
            let given_up = numbers.one_in(3);
            Change::PutMail(Mail { given_up, ..mail(wide(n), "ann@example.com", end) })
        }
        17 => Change::RemoveMail(id(n)),
        18 => {
            let id = MailboxId([u8::try_from(m).unwrap(); 16]);
            let mut mailbox = store.mailbox(id).await.unwrap().unwrap_or_else(|| Mailbox::new(id));
            mailbox.revision += slip;
            let caps = Caps { enabled: false, an_hour: 0, a_day: 0 };
            let letter =
                CappedLetter { asked: LetterRequest::Notice, only_link: false, verified: true, known: true };
            let _ = mailbox.admits(caps, letter, &"ann@example.com".parse().unwrap(), at);
            Change::PutMailbox(mailbox)
        }
        19 => Change::CreateTask(task(wide(n), end)),
        20 => Change::FinishTask(id(n)),
        21 | 22 => {
            let user = (!numbers.one_in(4)).then_some(of);
            let outcome = if numbers.one_in(2) { Outcome::Denied } else { Outcome::Success };
            let events = (0..=numbers.below(60)).map(|i| Event {
                user,
                outcome,
                at,
                ..event(None, u128::from(round * 1000 + i))
            });
            Change::Record(events.collect())
        }
        23 => Change::PutClockMark(Mark { at, ..Mark::default() }),
        24 => Change::Upgraded(Upgrade::ReservedClaims),
        25 => Change::Require(match numbers.below(3) {
            0 => Precondition::UserExists(of),
            1 => Precondition::TaskWaits(id(n)),
            _ => Precondition::LeaseStands(Lease {
                subject: LeaseSubject::Task(id(n)),
                holder: LeaseHolder(id(1)),
                fence: numbers.below(3),
            }),
        }),
        26 => {
            let reason = numbers.one_in(2).then(|| format!("because {end}"));
            Change::Revoke(Revocation { reason, ..revocation(target(numbers), round, end) })
        }
        27 => Change::RaiseVersion {
            issuer: format!("i{}", numbers.below(2)),
            sub: format!("n{m}"),
            created_at: UnixTime(round),
            expires_at: at,
            reason: None,
            enforce: numbers.one_in(2),
        },
        28 => Change::RaiseGeneration {
            issuer: format!("i{}", numbers.below(2)),
            created_at: UnixTime(round / 50),
            expires_at: at,
            reason: Some("all".into()),
            enforce: numbers.one_in(2),
        },
        _ => Change::CutSessions {
            issuer: format!("i{}", numbers.below(2)),
            sub: numbers.one_in(2).then(|| format!("n{m}")),
            created_at: UnixTime(round),
            expires_at: at,
            reason: None,
        },
    }
}

/// Every record, in an order that does not depend on the store. Those of one list of events stay in theirs.
async fn records(store: &dyn Store) -> Vec<String> {
    let mut found = Vec::new();
    store
        .each_record(&mut |record| found.push(format!("{:?} {record:?}", record.record.kind())))
        .await
        .unwrap();
    found.sort();
    found
}

async fn events(store: &dyn Store) -> Result<Vec<Vec<Event>>, StoreError> {
    let mut found = Vec::new();
    for user in [None].into_iter().chain((0..5).map(|n| Some(UserId(id(n))))) {
        found.push(store.events(user, usize::MAX >> 1).await?);
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_of_commits_comes_to_the_same_on_both_kinds_of_store() {
    let folder = tempfile::tempdir().unwrap();
    let embedded: Arc<dyn Store> = SledStore::open(folder.path()).unwrap();
    let shared: Arc<dyn Store> = open(&Cluster::shared().database().await.url()).await;
    let mut numbers = Numbers(7);
    let (mut made, mut refused) = (0, 0);
    for round in 0..1500 {
        if numbers.one_in(12) {
            let life = if numbers.one_in(4) { GONE_EVENTS_LIFE } else { Duration::ZERO };
            let now = UnixTime(round).plus(life);
            let swept = (embedded.sweep(now).await.unwrap(), shared.sweep(now).await.unwrap());
            assert_eq!(swept.0, swept.1, "round {round}");
        } else {
            let mut changes = Vec::new();
            for _ in 0..=numbers.below(4) {
                changes.push(change(&mut numbers, &*embedded, round).await);
            }
            let before: (Position, Position) = (embedded.position(), shared.position());
            let (one, other) = (embedded.commit(changes.clone()).await, shared.commit(changes.clone()).await);
            let (one, other) = (outcome(one), outcome(other));
            assert_eq!(one, other, "round {round}: {changes:?}");
            assert!(before.0 <= embedded.position() && before.1 <= shared.position());
            match one {
                Ok(_) => made += 1,
                Err(_) => refused += 1,
            }
        }
        if round % 50 == 0 || round == 1499 {
            assert_eq!(records(&*embedded).await, records(&*shared).await, "round {round}");
            assert_eq!(events(&*embedded).await.unwrap(), events(&*shared).await.unwrap(), "round {round}");
        }
    }
    assert!(made > 300 && refused > 300, "{made} made, {refused} refused");
}

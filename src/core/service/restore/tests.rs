use std::time::Duration;

use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::connection::{ConnectionId, Status};
use palisade_core::domain::ends::{End, Ends};
use palisade_core::domain::revocation::{Kind, Revocation, Target};
use palisade_core::domain::session::{BrowserLifetimes, Lifetimes, SessionId};
use palisade_core::domain::task::{RequestOrigin, Task, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Record, RecordKind, RecordSource, VersionedRecord};
use palisade_core::service::ends::ends_of;
use palisade_core::service::restore::{Cutoff, RestoreCounts, Restored};
use palisade_core::service::revoke::Lives;
use palisade_testing::conformance::{connection, event, link, mail, revocation, session, token, user};
use palisade_testing::transfer::Pages;
use uuid::Uuid;

const OURS: &str = "https://id.test";
const NOW: UnixTime = UnixTime(1_000_000);

fn cutoff() -> Cutoff {
    let hour = Duration::from_secs(3600);
    let browser = BrowserLifetimes { idle: hour, absolute: hour * 40, remember: None };
    let sessions = Lifetimes { sliding: hour, absolute: hour * 24, browser };
    Cutoff {
        issuer: OURS.to_owned(),
        others: vec!["https://they.test".to_owned()],
        horizon: NOW,
        now: NOW,
        lives: Lives { tokens: hour, sessions, leeway: Duration::from_secs(60) },
    }
}

async fn restored(
    records: Vec<Record>,
    ends: impl IntoIterator<Item = End>,
    cutoff: Option<Cutoff>,
) -> (Vec<Record>, RestoreCounts) {
    let mut all = Ends::default();
    ends.into_iter().for_each(|end| all.add(end));
    let pages = records.into_iter().map(|record| vec![VersionedRecord::from(record)]);
    let mut source = Pages::new(pages);
    let mut restored = Restored::new(&mut source, all, cutoff);
    let mut found = Vec::new();
    loop {
        let page = restored.next_page().await.unwrap();
        if page.is_empty() {
            return (found, restored.counts());
        }
        found.extend(page.into_iter().map(|record| record.record));
    }
}

fn id(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn waiting(work: Work) -> Record {
    Record::Task(Task { id: Uuid::nil(), due_at: UnixTime(1), work })
}

#[tokio::test]
async fn the_cutoff_reaches_all_that_brings_tokens_or_opens_something() {
    let ann = User { link_generation: 4, ..user(1, "ann@example.com") };
    let mut renewing = connection(1, 2, None);
    renewing.status = Status::Active;
    renewing.consent = None;
    let pending =
        palisade_core::domain::connection::Connection { status: Status::Pending, ..connection(1, 3, None) };
    let origin =
        RequestOrigin { address: [127, 0, 0, 1].into(), request_id: "r".to_owned(), return_to: None };
    let email = || "bob@example.com".parse().unwrap();
    let flows = [
        Work::ResendVerification { email: email(), origin: origin.clone() },
        Work::ResetPassword { email: email(), origin },
        Work::ChangeEmail { user: id(1), email: email(), generation: 4 },
        Work::RestoreEmail { user: id(1), claim: Uuid::nil() },
    ];
    let stay = [
        waiting(Work::Revoke(revocation(token("later"), 1, 2))),
        Record::Mail(mail(1, "ann@example.com", 5)),
        Record::Connection(Box::new(renewing)),
        Record::Event(event(Some(1), 1)),
    ];
    let gone =
        [Record::Session(session(1, 1, 9)), Record::Link(link(1, 9)), Record::Connection(Box::new(pending))];
    let records: Vec<Record> = [Record::User(ann.clone())]
        .into_iter()
        .chain(stay.clone())
        .chain(gone)
        .chain(flows.map(waiting))
        .chain([Record::TokenVersion { issuer: OURS.to_owned(), sub: None, version: 3 }])
        .chain([Record::TokenVersion { issuer: OURS.to_owned(), sub: Some("1".to_owned()), version: 8 }])
        .collect();
    let (found, counts) = restored(records.clone(), [], Some(cutoff())).await;
    assert_eq!(
        (counts.sessions_ended, counts.links_ended, counts.consents_ended, counts.flows_ended),
        (1, 1, 1, 4)
    );
    for record in stay {
        let is_dead_letter = matches!(&record, Record::Mail(mail) if mail.link.is_some());
        assert_eq!(found.contains(&record), !is_dead_letter, "{record:?}");
    }
    let Some(Record::User(found_ann)) = found.iter().find(|record| record.kind() == RecordKind::User) else {
        panic!("no account: {found:?}")
    };
    assert_eq!(found_ann.link_generation, 5);
    let generation = NOW.0 + 1;
    assert!(found.contains(&Record::TokenVersion {
        issuer: OURS.to_owned(),
        sub: None,
        version: generation
    }));
    assert!(found.contains(&Record::TokenVersion {
        issuer: OURS.to_owned(),
        sub: Some("1".to_owned()),
        version: 8
    }));
    let limit = |kind: Kind, issuer: &str| {
        found.iter().find_map(|record| match record {
            Record::Revocation(entry) if entry.target.key() == (kind, issuer, "") => {
                Some((entry.target.limit(), entry.expires_at))
            }
            _ => None,
        })
    };
    assert_eq!(limit(Kind::IssuerGeneration, OURS).unwrap(), (generation, UnixTime(NOW.0 + 3600 + 60)));
    assert_eq!(limit(Kind::EverySession, OURS).unwrap(), (generation, UnixTime(NOW.0 + 41 * 3600 + 60)));
    assert_eq!(limit(Kind::Issuer, "https://they.test").unwrap().0, NOW.0 + 60);
    // Without it everything comes back as it was.
    let (found, counts) = restored(records.clone(), [], None).await;
    let count = records.len();
    assert!(found.iter().all(|record| records.contains(record)) && found.len() == count);
    assert_eq!(counts, RestoreCounts { restored: count as u64, ..RestoreCounts::default() });
}

/// A generation that is ahead of every clock, as it is after a clock that was.
#[tokio::test]
async fn the_generation_rises_above_what_the_backup_and_the_journal_know() {
    let entry = |below| Revocation {
        target: Target::IssuerGeneration { issuer: OURS.to_owned(), below },
        ..revocation(token("x"), 1, 9_000_000)
    };
    let records = vec![
        Record::Revocation(entry(5_000_000)),
        Record::TokenVersion { issuer: OURS.to_owned(), sub: None, version: 5_000_000 },
    ];
    let (found, _) = restored(records, [End::Revoked { revocation: entry(6_000_000) }], Some(cutoff())).await;
    assert!(found.contains(&Record::TokenVersion { issuer: OURS.to_owned(), sub: None, version: 6_000_001 }));
    let entries: Vec<_> = found
        .iter()
        .filter_map(|record| match record {
            Record::Revocation(entry) if entry.target.key().0 == Kind::IssuerGeneration => Some(entry),
            _ => None,
        })
        .collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!((entries[0].target.limit(), entries[0].expires_at), (6_000_001, UnixTime(9_000_000)));
}

#[tokio::test]
async fn the_journal_of_ends_is_put_over_the_records() {
    let (ann, bob, cid) =
        (user(1, "ann@example.com"), user(2, "bob@example.com"), user(3, "cid@example.com"));
    let records = vec![
        Record::User(ann.clone()),
        Record::User(bob.clone()),
        Record::User(cid.clone()),
        Record::Session(session(1, 1, 9)),
        Record::Session(session(2, 2, 9)),
        Record::Session(session(3, 3, 9)),
        Record::Session(session(3, 4, 9)),
        Record::Session(session(3, 5, 9)),
        Record::Connection(Box::new(connection(1, 1, None))),
        Record::Connection(Box::new(connection(3, 3, None))),
        Record::Connection(Box::new(connection(3, 4, None))),
        Record::Revocation(revocation(token("t"), 1, 100)),
        Record::TokenVersion { issuer: OURS.to_owned(), sub: Some("3".to_owned()), version: 2 },
        Record::Event(event(Some(1), 1)),
        Record::Event(event(Some(3), 3)),
    ];
    let sid = SessionId(Uuid::from_u128(4)).to_string();
    let ended = Revocation {
        target: Target::Session { issuer: OURS.to_owned(), sid },
        ..revocation(token("x"), 1, 50)
    };
    let raised = Revocation {
        target: Target::SubjectVersion { issuer: OURS.to_owned(), sub: "3".to_owned(), below: 7 },
        ..revocation(token("x"), 1, 50)
    };
    let changes = vec![
        Change::DeleteUser(id(1)),
        Change::UpdateUser(User { active: false, ..bob.clone() }),
        Change::UpdateUser(User { active: false, ..cid.clone() }),
        Change::UpdateUser(cid.clone()),
        Change::EndSession(id(3), session(3, 3, 9).id),
        Change::RemoveConnection(id(3), ConnectionId(Uuid::from_u128(3))),
    ];
    let revoked = [ended.clone(), raised.clone(), revocation(token("t"), 9, 300)];
    let (found, counts) = restored(records, ends_of(&changes, &revoked), None).await;
    assert_eq!((counts.accounts_erased, counts.accounts_disabled), (1, 1));
    assert_eq!((counts.sessions_ended, counts.connections_ended), (4, 2));
    let users: Vec<(UserId, bool)> = found
        .iter()
        .filter_map(|record| match record {
            Record::User(user) => Some((user.id, user.active)),
            _ => None,
        })
        .collect();
    assert_eq!(users, [(id(2), false), (id(3), true)]);
    assert!(found.contains(&Record::Session(session(3, 5, 9))));
    assert!(found.contains(&Record::Connection(Box::new(connection(3, 4, None)))));
    assert!(found.contains(&Record::Revocation(ended)) && found.contains(&Record::Revocation(raised)));
    let name = ann.username.as_ref().unwrap().fingerprint();
    assert!(found.contains(&Record::FormerUsername { name, user: id(1) }));
    assert!(found.contains(&Record::TokenVersion {
        issuer: OURS.to_owned(),
        sub: Some("3".to_owned()),
        version: 7
    }));
    let of_token: Vec<_> = found
        .iter()
        .filter(|record| matches!(record, Record::Revocation(entry) if entry.target == token("t")))
        .collect();
    let [Record::Revocation(merged)] = of_token[..] else { panic!("{of_token:?}") };
    assert_eq!(merged.expires_at, UnixTime(300));
    let events = found.iter().filter(|record| record.kind() == RecordKind::Event).count();
    assert_eq!(events, 1, "those of an erased account are gone");
}

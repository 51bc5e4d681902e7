use palisade_core::domain::revocation::Kind;
use palisade_core::domain::revocation::Target;
use palisade_core::domain::session::Lifetimes;
use palisade_core::domain::task::Work;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Store;
use palisade_core::ports::StoreError;
use palisade_core::service::revoke::*;
use palisade_testing::accounts_world::BROWSER;
use palisade_testing::fakes::{FakeClock, FakeEntropy, FakeIssuerClocks, FakeSigner, FakeStore, NOW};
use std::sync::Arc;
use std::time::Duration;

fn revoke() -> (Revoke, Arc<FakeStore>) {
    let store = Arc::new(FakeStore::default());
    let (hour, minute, day) =
        (Duration::from_secs(3600), Duration::from_secs(60), Duration::from_secs(86_400));
    let sessions = Lifetimes { sliding: day, absolute: 10 * day, browser: BROWSER };
    let revoke = Revoke::new(
        store.clone(),
        Arc::new(FakeSigner),
        Arc::new(FakeClock::default()),
        Arc::new(FakeEntropy::default()),
        Arc::new(FakeIssuerClocks),
        Lives { tokens: hour, sessions, leeway: minute },
    );
    (revoke, store)
}

fn asking(subject: Subject) -> RevokeRequest {
    RevokeRequest { subject, issuer: None, reason: None, expires_in: None, end_session: false }
}

#[tokio::test]
async fn a_token_at_hand_is_remembered_until_it_is_no_longer_accepted() {
    let (revoke, _) = revoke();
    let subject =
        Subject::Token { jti: "j".into(), expires_at: Some(NOW.plus(Duration::from_secs(5))), holder: None };
    let entry = revoke.revoke(asking(subject)).await.unwrap().entry;
    assert_eq!(entry.expires_at, UnixTime(NOW.0 + 65));
    assert_eq!(entry.target, Target::Token { issuer: "https://us.test".into(), jti: "j".into() });
}

#[tokio::test]
async fn names_without_an_expiry_are_remembered_for_as_long_as_what_they_reach_can_live() {
    let (revoke, store) = revoke();
    let (tokens, sessions) = (3660, 864_000 + 3660);
    let uuid = |n| uuid::Uuid::from_u128(n).to_string();
    for (subject, kept) in [
        (Subject::TokenId("a".into()), tokens),
        (Subject::Session("b".into()), tokens),
        (Subject::Session(uuid(1)), sessions),
        (Subject::Subject("c".into()), tokens),
        (Subject::Subject(uuid(2)), tokens),
        (Subject::IssuedBefore(NOW), tokens),
        (Subject::IssuedBefore(NOW.minus(Duration::from_secs(5))), sessions),
    ] {
        let entry = revoke.revoke(asking(subject.clone())).await.unwrap().entry;
        assert_eq!(entry.expires_at, UnixTime(NOW.0 + kept), "{subject:?}");
        // A shorter time that is asked for would let it come back to life.
        let short = RevokeRequest { expires_in: Some(Duration::from_secs(1)), ..asking(subject.clone()) };
        assert_eq!(revoke.revoke(short).await.unwrap().entry.expires_at, entry.expires_at, "{subject:?}");
    }
    let cuts: Vec<_> = store
        .recent_revocations(99)
        .await
        .unwrap()
        .into_iter()
        .filter(|entry| matches!(entry.target.key().0, Kind::SubjectSessions | Kind::EverySession))
        .collect();
    assert_eq!(cuts.len(), 2);
    assert!(cuts.iter().all(|cut| cut.expires_at == UnixTime(NOW.0 + sessions)));
    let theirs = |expires_in| RevokeRequest {
        issuer: Some("https://i.test".into()),
        expires_in,
        ..asking(Subject::Subject("c".into()))
    };
    let entry = revoke.revoke(theirs(Some(Duration::from_secs(9)))).await.unwrap().entry;
    assert_eq!(entry.expires_at, NOW.plus(Duration::from_secs(9)), "their lives are not known to us");
    let entry = revoke.revoke(theirs(None)).await.unwrap().entry;
    assert_eq!(entry.expires_at, NOW.plus(FOREIGN_LIFE).plus(Duration::from_secs(60)));
}

#[tokio::test]
async fn nonsense_is_refused_and_nothing_is_written() {
    let (revoke, store) = revoke();
    for subject in [
        Subject::TokenId(String::new()),
        Subject::Session("a\nb".into()),
        Subject::Subject("x".repeat(1025)),
        Subject::IssuedBefore(NOW.plus(Duration::from_secs(61))),
    ] {
        assert!(matches!(revoke.revoke(asking(subject)).await, Err(RevokeError::Invalid(_))));
    }
    assert!(store.recent_revocations(9).await.unwrap().is_empty());
}

/// By the clock of the issuer, as far as that was seen ahead of ours; never past what is accepted.
#[tokio::test]
async fn a_cutoff_reaches_as_far_as_an_issuers_clock_was_seen_ahead() {
    let sub = || Subject::Subject("ann".into());
    for (issuer, subject, want) in [
        ("https://level.test", sub(), 0),
        ("https://level.test", Subject::IssuedSoFar, 0),
        ("https://level.test", Subject::IssuedBefore(NOW.minus(Duration::from_secs(100))), -100),
        ("https://level.test", Subject::IssuedBefore(NOW.plus(Duration::from_secs(30))), 30),
        ("https://ahead-20.test", sub(), 20),
        ("https://ahead-20.test", Subject::IssuedSoFar, 20),
        ("https://ahead-20.test", Subject::IssuedBefore(NOW.minus(Duration::from_secs(100))), -80),
        ("https://ahead-20.test", Subject::IssuedBefore(NOW.plus(Duration::from_secs(50))), 60),
        ("https://ahead-900.test", sub(), 60),
    ] {
        let (revoke, _) = self::revoke();
        let request = RevokeRequest { issuer: Some(issuer.into()), ..asking(subject) };
        let entry = revoke.revoke(request.clone()).await.unwrap().entry;
        assert!(matches!(entry.target.key().0, Kind::SubjectIssued | Kind::Issuer), "{request:?}");
        assert_eq!(entry.target.limit(), NOW.0.checked_add_signed(want).unwrap(), "{request:?}");
    }
}

#[tokio::test]
async fn a_cutoff_of_our_own_tokens_at_this_moment_goes_by_order() {
    let (revoke, store) = revoke();
    let limit = async |subject| {
        let entry = revoke.revoke(asking(subject)).await.unwrap().entry;
        (entry.target.key().0, entry.target.limit())
    };
    assert_eq!(limit(Subject::IssuedSoFar).await, (Kind::IssuerGeneration, NOW.0));
    assert_eq!(limit(Subject::IssuedBefore(NOW)).await, (Kind::IssuerGeneration, NOW.0 + 1));
    let ahead = NOW.plus(Duration::from_secs(60));
    assert_eq!(limit(Subject::IssuedBefore(ahead)).await, (Kind::IssuerGeneration, NOW.0 + 2));
    assert_eq!(store.generation("https://us.test").await.unwrap(), NOW.0 + 2);
    let past = NOW.minus(Duration::from_secs(1));
    assert_eq!(limit(Subject::IssuedBefore(past)).await, (Kind::Issuer, past.0));
}

#[tokio::test]
async fn each_raise_gives_the_next_version() {
    let (revoke, _) = revoke();
    let raise = |issuer| revoke.raise_version(issuer, "alice".into(), None, None);
    assert_eq!(raise(None).await.unwrap().version, Some(1));
    assert_eq!(raise(None).await.unwrap().version, Some(2));
    assert_eq!(raise(Some("other".into())).await.unwrap().version, Some(1));
}

#[tokio::test]
async fn a_grace_puts_the_revocation_off() {
    let (revoke, store) = revoke();
    let grace = Some(Duration::from_secs(60));
    let raised = revoke.raise_version(None, "alice".into(), None, grace).await.unwrap();
    let in_force_at = UnixTime(NOW.0 + 60);
    assert_eq!(raised, Raised { version: Some(1), in_force_at, acknowledgement: None });
    assert_eq!(store.version("https://us.test", "alice").await.unwrap(), 1, "new tokens carry it");
    revoke.raise_all(None, grace).await.unwrap();
    assert!(store.recent_revocations(9).await.unwrap().is_empty());
    assert!(store.due_tasks(UnixTime(NOW.0 + 59), 9).await.unwrap().is_empty());
    let due = store.due_tasks(UnixTime(NOW.0 + 60), 9).await.unwrap();
    let targets: Vec<_> = due
        .iter()
        .filter_map(|task| match &task.work {
            Work::Revoke(entry) => Some((entry.target.key().0, entry.target.limit())),
            _ => None,
        })
        .collect();
    assert_eq!(targets, [(Kind::SubjectVersion, 1), (Kind::IssuerGeneration, NOW.0)]);
    assert_eq!(store.generation("https://us.test").await.unwrap(), NOW.0, "new tokens carry it");
    let day = Some(Duration::from_secs(86_401));
    assert!(matches!(revoke.raise_all(None, day).await, Err(RevokeError::Invalid(_))));
}

#[tokio::test]
async fn a_store_that_cannot_write_promises_nothing() {
    let (revoke, store) = revoke();
    store.fail();
    let answer = revoke.revoke(asking(Subject::TokenId("a".into()))).await;
    assert!(matches!(answer, Err(RevokeError::Store(StoreError::Unavailable(_)))));
}

/// Another gateway may have seen the issuer's clock further ahead, and admitted a token that begins then.
#[tokio::test]
async fn over_a_shared_store_a_cutoff_reaches_as_far_as_any_token_is_accepted() {
    let (revoke, store) = revoke();
    store.is_shared.store(true, std::sync::atomic::Ordering::Relaxed);
    let request =
        RevokeRequest { issuer: Some("https://ahead-20.test".into()), ..asking(Subject::IssuedSoFar) };
    let entry = revoke.revoke(request).await.unwrap().entry;
    assert_eq!(entry.target.limit(), NOW.0 + 60);
}

use palisade_core::ports::{Change, Store};
use palisade_core::service::mint::*;
use palisade_testing::conformance;
use palisade_testing::fakes::{FakeClock, FakeSigner, FakeStore, NOW};
use std::sync::Arc;
use std::time::Duration;

fn mint() -> (Mint, Arc<FakeStore>) {
    let store = Arc::new(FakeStore::default());
    let half_hour = Duration::from_secs(1800);
    (Mint::new(store.clone(), Arc::new(FakeSigner), Arc::new(FakeClock::default()), half_hour, 200), store)
}

fn for_alice() -> MintRequest {
    MintRequest { sub: "alice".into(), ..MintRequest::default() }
}

#[tokio::test]
async fn the_token_carries_the_present_version() {
    let (mint, store) = mint();
    assert!(mint.mint(for_alice()).await.unwrap().signed.token.ends_with(".v0"));
    store.raise_version("https://us.test", "alice", NOW, NOW, None).await.unwrap();
    assert!(mint.mint(for_alice()).await.unwrap().signed.token.ends_with(".v1"));
}

#[tokio::test]
async fn an_id_of_an_account_is_written_in_one_spelling() {
    let (mint, _) = mint();
    let id = "0192f0c1-2345-7abc-8def-0123456789ab";
    for spelt in [id.to_owned(), id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}")] {
        let token =
            mint.mint(MintRequest { sub: spelt, ..MintRequest::default() }).await.unwrap().signed.token;
        assert_eq!(token, format!("{id}.v0"));
    }
}

#[tokio::test]
async fn a_disabled_account_gets_no_token_and_a_subject_that_is_none_does() {
    let (mint, store) = mint();
    let mut user = conformance::user(1, "ann@example.com");
    let ask = || MintRequest { sub: user.id.to_string(), ..MintRequest::default() };
    let (unknown, ann) = (ask(), ask());
    mint.mint(unknown).await.unwrap();
    user.active = false;
    store.commit(vec![Change::CreateUser(user)]).await.unwrap();
    let refused = mint.mint(ann).await.unwrap_err();
    assert!(matches!(&refused, MintError::Invalid(why) if why.contains("disabled")), "{refused:?}");
}

#[tokio::test]
async fn a_life_over_a_day_is_refused() {
    let (mint, _) = mint();
    let ask = |secs| MintRequest { ttl: Some(Duration::from_secs(secs)), ..for_alice() };
    assert!(matches!(mint.mint(ask(86_401)).await, Err(MintError::Invalid(_))));
    assert!(matches!(mint.mint(ask(0)).await, Err(MintError::Invalid(_))));
    assert_eq!(mint.mint(ask(86_400)).await.unwrap().signed.expires_at.0, NOW.0 + 86_400);
    assert_eq!(mint.mint(for_alice()).await.unwrap().ttl, Duration::from_secs(1800));
}

#[tokio::test]
async fn what_cannot_stand_in_a_header_is_refused() {
    let (mint, _) = mint();
    for bad in [
        MintRequest::default(),
        MintRequest { sub: "a\r\nb".into(), ..MintRequest::default() },
        MintRequest { email: Some(String::new()), ..for_alice() },
        MintRequest { scopes: vec!["a b".into()], ..for_alice() },
        MintRequest { scopes: vec!["a".repeat(257)], ..for_alice() },
        // The fake token is longer than a request has room for.
        MintRequest { sub: "a".repeat(198), ..MintRequest::default() },
    ] {
        assert!(matches!(mint.mint(bad).await, Err(MintError::Invalid(_))));
    }
}

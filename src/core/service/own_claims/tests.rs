//! Own claims that become groups and user names, over the fakes.

use serde_json::{Map, Value, json};

use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::{Action, Actor, Event, Outcome};
use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, LeaseStore, Store, Upgrade};
use palisade_core::service::own_claims::TakenOver;
use palisade_core::service::users::UserEdit;
use palisade_testing::accounts_world::{AccountsWorld, world, world_over};

/// An account with these own claims, as an earlier program has written it.
async fn with(world: &AccountsWorld, id: u128, claims: Value) -> User {
    let claims: Map<String, Value> = serde_json::from_value(claims).unwrap();
    let user = User { claims, ..User::without_address(UserId(uuid::Uuid::from_u128(id)), UnixTime(1)) };
    world.store.commit(vec![Change::CreateUser(user.clone())]).await.unwrap();
    user
}

async fn user(world: &AccountsWorld, id: u128) -> User {
    world.store.user(UserId(uuid::Uuid::from_u128(id))).await.unwrap().unwrap()
}

/// User name, groups and own claims.
async fn has(world: &AccountsWorld, id: u128) -> Value {
    let user = user(world, id).await;
    json!([user.username, user.groups, user.claims])
}

fn events(world: &AccountsWorld) -> Vec<Event> {
    world.audit.0.lock().unwrap().clone()
}

#[tokio::test]
async fn claims_become_groups_and_user_names_once() {
    let world = world();
    with(&world, 1, json!({"groups": ["staff", "Sales, EMEA"], "preferred_username": "Ann", "role": 1}))
        .await;
    let plain = with(&world, 2, json!({"role": "clerk"})).await;
    with(&world, 3, json!({"groups": "staff", "preferred_username": "bob"})).await;
    // The older account has it; that it is written otherwise makes no difference.
    with(&world, 4, json!({"preferred_username": "ANN", "groups": ["x"]})).await;
    with(&world, 5, json!({"Groups": ["x"]})).await;
    let done = world.accounts.take_over_claims().await.unwrap();
    assert_eq!(done, TakenOver { accounts: 3, unfit: 3 });
    assert_eq!(has(&world, 1).await, json!(["ann", ["Sales, EMEA", "staff"], {"role": 1}]));
    assert_eq!(user(&world, 2).await, plain, "not written");
    assert_eq!(has(&world, 3).await, json!(["bob", [], {"groups": "staff"}]));
    assert_eq!(has(&world, 4).await, json!([null, ["x"], {"preferred_username": "ANN"}]));
    assert_eq!(has(&world, 5).await, json!([null, [], {"Groups": ["x"]}]));
    let told: Vec<_> = events(&world)
        .iter()
        .map(|event| {
            assert_eq!((event.action, event.actor), (Action::UpdateUser, Actor::System));
            assert_eq!(event.reason.as_deref(), Some("claims_taken_over"));
            (
                event.user.unwrap().0.as_u128(),
                event.outcome,
                json!([event.details["fields"], event.details["unfit"]]),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, Outcome::Success, json!([["groups", "preferred_username"], []])),
            (3, Outcome::Denied, json!([["preferred_username"], ["groups"]])),
            (4, Outcome::Denied, json!([["groups"], ["preferred_username"]])),
            (5, Outcome::Denied, json!([[], ["Groups"]])),
        ]
    );
    // They can be listed again, and no later start looks at them.
    let unsaid = world.accounts.accounts_with_unsaid_claims(None, 2).await.unwrap();
    assert_eq!(unsaid.iter().map(|user| user.id.0.as_u128()).collect::<Vec<_>>(), [3, 4]);
    let rest =
        world.accounts.accounts_with_unsaid_claims(unsaid.last().map(|user| user.id), 9).await.unwrap();
    assert_eq!(rest.iter().map(|user| user.id.0.as_u128()).collect::<Vec<_>>(), [5]);
    let (before, calls) =
        (has(&world, 1).await, world.store.calls.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(world.accounts.take_over_claims().await.unwrap(), TakenOver::default());
    assert_eq!(world.store.calls.load(std::sync::atomic::Ordering::Relaxed), calls + 1, "one question");
    assert_eq!(has(&world, 1).await, before);
    // What an operator sets decides.
    let edit = UserEdit { groups: Some(vec!["staff".into()]), ..UserEdit::default() };
    world.accounts.update_user("", UserId(uuid::Uuid::from_u128(3)), edit).await.unwrap();
    assert_eq!(has(&world, 3).await, json!(["bob", ["staff"], {}]));
    assert_eq!(world.accounts.accounts_with_unsaid_claims(None, 9).await.unwrap().len(), 2);
}

/// A start that was killed, or could not write, is gone on with by the next one.
#[tokio::test]
async fn what_was_begun_is_gone_on_with() {
    let world = world();
    for id in 1..=600 {
        with(&world, id, json!({"groups": ["staff"], "preferred_username": format!("u{id}")})).await;
    }
    world.store.fail();
    assert!(world.accounts.take_over_claims().await.is_err());
    world.store.mend();
    assert!(!world.store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
    // The answer to one commit is lost, as by a kill: that account is done.
    world.store.lose.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(world.accounts.take_over_claims().await.is_err());
    assert!(!world.store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
    let next = world_over(world.store.clone(), |_| ());
    assert_eq!(next.accounts.take_over_claims().await.unwrap(), TakenOver { accounts: 599, unfit: 0 });
    assert!(next.store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
    for id in [1, 2, 256, 257, 600] {
        assert_eq!(has(&next, id).await, json!([format!("u{id}"), ["staff"], {}]));
        assert_eq!(user(&next, id).await.revision, 1, "written once");
    }
}

/// The admin API answers meanwhile.
#[tokio::test]
async fn an_operator_who_is_faster_is_not_overruled() {
    let world = world();
    with(&world, 1, json!({"preferred_username": "ann"})).await;
    let other = with(&world, 2, json!({})).await;
    let named = User { username: Some("ann".parse().unwrap()), ..other };
    world.store.get_ahead(vec![Change::UpdateUser(named)]);
    let done = world.accounts.take_over_claims().await.unwrap();
    assert_eq!(done, TakenOver { accounts: 0, unfit: 1 });
    assert_eq!(has(&world, 1).await, json!([null, [], {"preferred_username": "ann"}]));
    assert_eq!(has(&world, 2).await, json!(["ann", [], {}]));
}

const OTHER: LeaseHolder = LeaseHolder(uuid::Uuid::from_u128(99));

/// Of gateways that start at once one does it, and the others serve nothing before it is done.
#[tokio::test(start_paused = true)]
async fn a_gateway_waits_while_another_takes_the_claims_over() {
    let world = world();
    let before = with(&world, 1, json!({"groups": ["staff"]})).await;
    let term = std::time::Duration::from_secs(60);
    let lease = world.store.claim(LeaseSubject::Upgrades, OTHER, term).await.unwrap().unwrap();
    let mut waiting = Box::pin(world.accounts.take_over_claims());
    let seconds = tokio::time::timeout(std::time::Duration::from_secs(5), &mut waiting).await;
    assert!(seconds.is_err(), "it did not wait");
    assert_eq!(user(&world, 1).await, before);
    world.store.commit(vec![Change::Upgraded(Upgrade::ReservedClaims)]).await.unwrap();
    world.store.release(lease).await.unwrap();
    assert_eq!(waiting.await.unwrap(), TakenOver::default());
    assert_eq!(user(&world, 1).await, before, "what the other one has left");
}

/// One that was paused says nothing of what it has not seen to its end.
#[tokio::test(start_paused = true)]
async fn a_gateway_that_lost_its_lease_does_not_say_that_it_is_done() {
    let world = world();
    world.store.take_over_before_commit(LeaseSubject::Upgrades, OTHER);
    let mut waiting = Box::pin(world.accounts.take_over_claims());
    let seconds = tokio::time::timeout(std::time::Duration::from_secs(5), &mut waiting).await;
    assert!(seconds.is_err(), "it waits for the one that has the lease");
    assert!(!world.store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
    world.store.end_leases();
    waiting.await.unwrap();
    assert!(world.store.is_upgraded(Upgrade::ReservedClaims).await.unwrap());
}

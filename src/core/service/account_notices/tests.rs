//! What an app is told of accounts, over the fakes.

use std::sync::Arc;

use serde_json::{Value, json};

use palisade_core::domain::account::User;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::task::{Errand, Task, TaskKind, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Store};
use palisade_core::service::account_notices::MOST_WAITING;
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, client, secret, world, world_over, world_with,
};

/// The notices that wait, in the order in which they were enqueued.
async fn notices(world: &AccountsWorld) -> Vec<Value> {
    let tasks = world.store.due_tasks_of(TaskKind::AccountNotice, UnixTime::NEVER, 99_999).await.unwrap();
    let body = |task: Task| match task.work {
        Work::Errand { errand: Errand::NotifyOfAccount(body), .. } => serde_json::from_str(&body).unwrap(),
        other => panic!("{other:?}"),
    };
    tasks.into_iter().map(body).collect()
}

/// Their types and fields, behind those that were there before.
async fn told(world: &AccountsWorld, before: usize) -> Vec<(String, Value)> {
    let of = |notice: &Value| (notice["type"].as_str().unwrap().to_owned(), notice["data"]["fields"].clone());
    notices(world).await[before..].iter().map(of).collect()
}

fn telling() -> AccountsWorld {
    world_with(|settings| settings.tells_app = true)
}

fn event(name: &str, fields: Value) -> (String, Value) {
    (format!("account.{name}"), fields)
}

async fn edit(world: &AccountsWorld, user: &User, edit: UserEdit) {
    world.accounts.update_user("", user.id, edit).await.unwrap();
}

#[tokio::test]
async fn an_app_is_told_what_becomes_of_an_account_and_no_value() {
    let world = telling();
    world.register(ANN).await;
    assert_eq!(told(&world, 0).await, [event("created", Value::Null)]);
    let ann = {
        let token = world.token(Letter::VerifyEmail).await;
        world.accounts.verify_email(&client(), &token).await.unwrap()
    };
    assert_eq!(told(&world, 1).await, [event("verified", json!(["email_verified"]))]);
    // A sign-in is no change.
    world.login().await;
    assert_eq!(told(&world, 2).await, []);
    edit(
        &world,
        &ann,
        UserEdit {
            name: Some("Secret Name".into()),
            groups: Some(vec!["staff".into()]),
            ..UserEdit::default()
        },
    )
    .await;
    edit(&world, &ann, UserEdit { active: Some(false), ..UserEdit::default() }).await;
    edit(&world, &ann, UserEdit { active: Some(true), ..UserEdit::default() }).await;
    world.accounts.reset_password_of("", ann.id).await.unwrap();
    world.accounts.delete_user("", ann.id).await.unwrap();
    assert_eq!(
        told(&world, 2).await,
        [
            event("changed", json!(["name", "groups"])),
            event("disabled", json!(["active"])),
            event("changed", json!(["active"])),
            event("changed", json!(["password"])),
            event("deleted", Value::Null),
        ]
    );
    let all = notices(&world).await;
    let sequence = |notice: &Value| notice["data"]["sequence"].as_u64().unwrap();
    assert!(all.windows(2).all(|pair| sequence(&pair[0]) < sequence(&pair[1])), "{all:?}");
    for notice in &all {
        assert_eq!(notice["data"]["account"], json!(ann.id));
        let text = notice.to_string();
        assert!(
            !text.contains("Secret") && !text.contains("example.com") && !text.contains("staff"),
            "{text}"
        );
    }
}

/// The task is part of the commit: nothing is told of what was not done, and nothing is done that is not told.
#[tokio::test]
async fn what_was_refused_is_not_told() {
    let world = telling();
    world.ann().await;
    let ann = world.at(ANN).await;
    let before = notices(&world).await.len();
    let new = NewUser {
        email: Some(ANN.to_owned()),
        username: None,
        groups: Vec::new(),
        name: None,
        password: NewPassword::Given(secret(PASSWORD)),
        email_verified: true,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    assert!(world.accounts.create_user("", new).await.is_err());
    // Another commit comes first, so this one is decided again.
    let other = User { name: Some("Other".into()), ..ann.clone() };
    world.store.get_ahead(vec![Change::UpdateUser(other)]);
    edit(&world, &ann, UserEdit { scopes: Some(vec!["read".into()]), ..UserEdit::default() }).await;
    assert_eq!(
        told(&world, before).await,
        [event("changed", json!(["scopes"]))],
        "once, and of its own change"
    );
    world.store.fail();
    assert!(world.accounts.delete_user("", ann.id).await.is_err());
    world.store.mend();
    assert_eq!(notices(&world).await.len(), before + 1);
}

#[tokio::test]
async fn without_a_webhook_nothing_is_enqueued() {
    let world = world();
    world.ann().await;
    assert_eq!(notices(&world).await, Vec::<Value>::new());
}

/// An app that is down must not fill the store.
#[tokio::test]
async fn no_more_wait_than_are_bounded_and_room_is_used_again() {
    let world = telling();
    let ann = world.ann().await;
    let fill = |n: usize| {
        let id = uuid::Uuid::from_u128(1 << 64 | n as u128);
        let work =
            Work::Errand { made_at: UnixTime(1), tries: 0, errand: Errand::NotifyOfAccount("{}".into()) };
        Change::CreateTask(Task { id, due_at: UnixTime(1), work })
    };
    world.store.commit((0..MOST_WAITING).map(fill).collect()).await.unwrap();
    // A gateway that has just started knows of none that waits, and counts them.
    let world = world_over(Arc::clone(&world.store), |settings| settings.tells_app = true);
    let waiting = async || {
        world.store.due_tasks_of(TaskKind::AccountNotice, UnixTime::NEVER, 99_999).await.unwrap().len()
    };
    let before = waiting().await;
    let rename = async |name: &str| {
        edit(&world, &ann, UserEdit { name: Some(name.into()), ..UserEdit::default() }).await;
        assert_eq!(world.store.user(ann.id).await.unwrap().unwrap().name.as_deref(), Some(name));
        waiting().await - before
    };
    assert_eq!(rename("a").await, 0, "the change is made and not told");
    let all = world.store.due_tasks_of(TaskKind::AccountNotice, UnixTime::NEVER, 99_999).await.unwrap();
    world.store.commit(all.iter().map(|task| Change::FinishTask(task.id)).collect()).await.unwrap();
    edit(&world, &ann, UserEdit { name: Some("b".into()), ..UserEdit::default() }).await;
    assert_eq!(waiting().await, 0, "they are not counted at every change");
    world.clock.advance(11);
    edit(&world, &ann, UserEdit { name: Some("c".into()), ..UserEdit::default() }).await;
    assert_eq!(waiting().await, 1);
}

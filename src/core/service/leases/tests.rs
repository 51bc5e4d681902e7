//! Tasks of several gateways over one store: nothing here waits for time to pass.

use std::time::Duration;

use uuid::Uuid;

use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::task::Task;
use palisade_core::ports::{Change, LeaseStore, Store};
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, client, secret, world};

const OTHER: LeaseHolder = LeaseHolder(Uuid::from_u128(99));
const TERM: Duration = Duration::from_secs(60);

/// A registration that waits, and its task.
async fn registered(world: &AccountsWorld) -> Task {
    world.accounts.register(&client(), ANN, secret(PASSWORD), None).await.unwrap();
    let [task] = due(world).await.try_into().unwrap();
    task
}

/// Without the task of a day later, which forgets an account that was not verified.
async fn due(world: &AccountsWorld) -> Vec<Task> {
    world.store.due_tasks(world.accounts.now(), 9).await.unwrap()
}

#[tokio::test]
async fn a_task_of_another_gateway_is_left_alone_until_its_lease_ends() {
    let world = world();
    let task = registered(&world).await;
    let subject = LeaseSubject::Task(task.id);
    world.store.claim(subject, OTHER, TERM).await.unwrap().unwrap();
    let found_any = world.accounts.do_due_tasks().await.unwrap();
    assert!(!found_any, "or the worker would look again without a pause");
    assert_eq!((due(&world).await, world.letters().await.len()), (vec![task], 0));
    world.store.pass_lease_time(TERM);
    assert!(world.accounts.do_due_tasks().await.unwrap());
    assert_eq!((due(&world).await, world.letters().await.len()), (Vec::new(), 1));
}

#[tokio::test]
async fn a_task_that_is_done_or_put_off_is_free_at_once() {
    let world = world();
    let task = registered(&world).await;
    world.store.damage(&ANN.parse().unwrap());
    assert!(world.accounts.do_due_tasks().await.unwrap());
    let put_off = world.store.task(task.id).await.unwrap().unwrap();
    assert!(put_off.due_at > task.due_at);
    let lease = world.store.claim(LeaseSubject::Task(task.id), OTHER, TERM).await.unwrap();
    assert!(lease.is_some());
}

/// The lease is lost between the decision and its commit.
#[tokio::test]
async fn what_was_decided_under_a_lost_lease_is_not_committed() {
    let world = world();
    let task = registered(&world).await;
    world.store.take_over_before_commit(LeaseSubject::Task(task.id), OTHER);
    assert!(world.accounts.do_due_tasks().await.unwrap());
    assert_eq!(world.store.user_by_email(&ANN.parse().unwrap()).await.unwrap(), None);
    assert_eq!((due(&world).await.len(), world.letters().await.len()), (1, 0));
    // What the other one commits stands.
    let finished = world.store.commit(vec![Change::FinishTask(due(&world).await[0].id)]).await;
    assert!(finished.is_ok());
}

/// Another gateway may have put it off between the look and the lease.
#[tokio::test]
async fn a_task_is_read_again_under_its_lease() {
    let world = world();
    let task = registered(&world).await;
    let later = Task { due_at: task.due_at.plus(TERM), ..task.clone() };
    world.store.change_at_claim(vec![Change::FinishTask(task.id), Change::CreateTask(later.clone())]);
    assert!(!world.accounts.do_due_tasks().await.unwrap());
    assert_eq!(world.store.task(task.id).await.unwrap(), Some(later));
    assert_eq!(world.letters().await, []);
}

//! The feed of revocations of the store in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;

use palisade_core::domain::revocation::Revocation;
use palisade_core::ports::{Position, Revoked, Subscription, SubscriptionError};

/// Every commit's revocations. Commits are numbered by tens, so that no caller counts on the next number.
#[derive(Default)]
pub struct FakeFeed(watch::Sender<Arc<Mutex<Commits>>>);

#[derive(Default)]
struct Commits {
    all: Vec<Revoked>,
    /// The first of them that can be followed.
    first: usize,
}

const STEP: u128 = 10;

fn position(commits: usize) -> Position {
    Position::from_bytes((commits as u128 * STEP).to_be_bytes())
}

impl FakeFeed {
    pub fn publish(&self, revocations: Vec<Revocation>) -> Position {
        let mut at = position(0);
        self.0.send_modify(|all| {
            let mut all = all.lock().unwrap();
            at = position(all.all.len() + 1);
            all.all.push(Revoked { position: at, revocations });
        });
        at
    }

    pub fn position(&self) -> Position {
        position(self.0.borrow().lock().unwrap().all.len())
    }

    /// A write whose revocations come through no subscription.
    pub fn restart(&self) {
        self.publish(Vec::new());
        self.0.send_modify(|all| {
            let mut all = all.lock().unwrap();
            all.first = all.all.len();
        });
    }

    pub fn subscribe(&self, since: Position) -> Result<FakeSubscription, SubscriptionError> {
        let commits = Arc::clone(&self.0.borrow());
        let commits = commits.lock().unwrap();
        let known = (commits.first..=commits.all.len()).any(|commit| position(commit) == since);
        known.then(|| FakeSubscription(self.0.subscribe(), since)).ok_or(SubscriptionError::Behind)
    }
}

pub struct FakeSubscription(watch::Receiver<Arc<Mutex<Commits>>>, Position);

#[async_trait]
impl Subscription for FakeSubscription {
    async fn next(&mut self) -> Result<Revoked, SubscriptionError> {
        loop {
            let is_next = |one: &&Revoked| one.position > self.1 && !one.revocations.is_empty();
            let commits = Arc::clone(&self.0.borrow_and_update());
            let found = {
                let commits = commits.lock().unwrap();
                if self.1 < position(commits.first) {
                    return Err(SubscriptionError::Behind);
                }
                commits.all.iter().find(is_next).cloned()
            };
            if let Some(found) = found {
                self.1 = found.position;
                return Ok(found);
            }
            self.0.changed().await.map_err(|_| SubscriptionError::Behind)?;
        }
    }
}

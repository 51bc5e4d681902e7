//! The latest revocations, in the order of their commits, for those that follow them.
//!
//! Only what is durable comes here. A subscriber that is further behind than what is kept is told so: it must read
//! the whole set, and must never miss a revocation in silence.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use palisade_core::domain::revocation::Revocation;
use palisade_core::ports::{Position, Revoked, StoreError, Subscription, SubscriptionError};

/// How many commits that revoke something are kept for subscribers, about half a megabyte.
const KEPT: usize = 1024;

/// What the writer tells, and subscribers read.
pub(super) struct Feed {
    state: Mutex<State>,
    news: watch::Sender<()>,
}

struct State {
    /// Every revocation of a commit behind this one is in `kept`.
    since: u64,
    /// The last commit that was acknowledged.
    last: u64,
    kept: VecDeque<(u64, Vec<Revocation>)>,
    closed: bool,
}

impl Feed {
    /// Of a store whose last commit has this number.
    pub(super) fn new(last: u64) -> Feed {
        let state = State { since: last, last, kept: VecDeque::new(), closed: false };
        Feed { state: Mutex::new(state), news: watch::Sender::new(()) }
    }

    /// The position of the last commit that was acknowledged.
    pub(super) fn position(&self) -> Position {
        position(self.lock().last)
    }

    /// The commit of this number is durable, and has put these revocations in force. Numbers never fall.
    pub(super) fn publish(&self, number: u64, revocations: Vec<Revocation>) {
        let mut state = self.lock();
        state.last = state.last.max(number);
        if revocations.is_empty() {
            return;
        }
        state.kept.push_back((number, revocations));
        if state.kept.len() > KEPT
            && let Some((oldest, _)) = state.kept.pop_front()
        {
            state.since = oldest;
        }
        drop(state);
        self.news.send_replace(());
    }

    /// The files were opened again, and this is the number of their last commit: a commit that was not acknowledged may
    /// be among them, so that subscribers have to read everything again.
    pub(super) fn restart(&self, last: u64) {
        let mut state = self.lock();
        // Above every position that was given out: subscribers up to the former last one are behind as well.
        let since = last.max(state.last + 1);
        *state = State { since, last: since, kept: VecDeque::new(), closed: state.closed };
        drop(state);
        self.news.send_replace(());
    }

    /// There will be no further commits.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.news.send_replace(());
    }

    /// Follows what comes behind `since`.
    pub(super) fn subscribe(self: &Arc<Self>, since: Position) -> Result<Follower, SubscriptionError> {
        let at =
            u64::try_from(u128::from_be_bytes(since.to_bytes())).map_err(|_| SubscriptionError::Behind)?;
        let state = self.lock();
        if at < state.since || at > state.last {
            return Err(SubscriptionError::Behind);
        }
        drop(state);
        Ok(Follower { feed: Arc::clone(self), at, news: self.news.subscribe() })
    }

    /// The first commit behind `at`, if it is there by now.
    fn behind(&self, at: u64) -> Result<Option<(u64, Vec<Revocation>)>, SubscriptionError> {
        let state = self.lock();
        if at < state.since {
            return Err(SubscriptionError::Behind);
        }
        let place = state.kept.partition_point(|(number, _)| *number <= at);
        match state.kept.get(place) {
            Some(found) => Ok(Some(found.clone())),
            None if state.closed => Err(StoreError::Unavailable("the store is closed".to_owned()).into()),
            None => Ok(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No step of ours leaves it half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The position of the commit of this number.
pub(super) fn position(number: u64) -> Position {
    Position::from_bytes(u128::from(number).to_be_bytes())
}

/// A subscriber.
pub(super) struct Follower {
    feed: Arc<Feed>,
    /// The commit that it has got last.
    at: u64,
    news: watch::Receiver<()>,
}

#[async_trait]
impl Subscription for Follower {
    async fn next(&mut self) -> Result<Revoked, SubscriptionError> {
        loop {
            // Before the look, so that what comes in between wakes us.
            self.news.borrow_and_update();
            if let Some((number, revocations)) = self.feed.behind(self.at)? {
                self.at = number;
                return Ok(Revoked { position: position(number), revocations });
            }
            // The feed is held here, so its sender is there.
            let _ = self.news.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_testing::conformance::{revocation, token};

    fn revoked(n: u64) -> Vec<Revocation> {
        vec![revocation(token(&n.to_string()), n, 100)]
    }

    #[tokio::test]
    async fn who_is_too_far_behind_is_told_and_misses_nothing_in_silence() {
        let feed = Arc::new(Feed::new(7));
        assert_eq!(feed.position(), position(7));
        for unknown in [6, 8] {
            assert!(matches!(feed.subscribe(position(unknown)), Err(SubscriptionError::Behind)), "{unknown}");
        }
        let mut follower = feed.subscribe(position(7)).unwrap();
        for n in 0..KEPT as u64 {
            feed.publish(8 + n, revoked(n));
        }
        assert_eq!(
            follower.next().await.unwrap(),
            Revoked { position: position(8), revocations: revoked(0) }
        );
        let mut slow = feed.subscribe(position(7)).unwrap();
        feed.publish(5000, revoked(5000));
        assert!(matches!(slow.next().await, Err(SubscriptionError::Behind)));
        assert!(matches!(feed.subscribe(position(7)), Err(SubscriptionError::Behind)));
        for n in 1..KEPT as u64 {
            assert_eq!(follower.next().await.unwrap().revocations, revoked(n));
        }
        assert_eq!(follower.next().await.unwrap().position, position(5000));
    }

    #[tokio::test]
    async fn whoever_follows_files_that_were_opened_again_reads_everything_again() {
        for last in [10, 11, 14] {
            let feed = Arc::new(Feed::new(7));
            feed.publish(10, revoked(1));
            let mut follower = feed.subscribe(position(10)).unwrap();
            feed.restart(last);
            assert!(matches!(follower.next().await, Err(SubscriptionError::Behind)), "{last}");
            feed.subscribe(feed.position()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_subscription_ends_with_the_store_and_not_before_what_was_committed() {
        let feed = Arc::new(Feed::new(0));
        let mut follower = feed.subscribe(position(0)).unwrap();
        feed.publish(1, revoked(1));
        feed.publish(2, Vec::new());
        feed.close();
        assert_eq!(follower.next().await.unwrap().position, position(1));
        assert!(matches!(follower.next().await, Err(SubscriptionError::Store(_))));
        assert_eq!(feed.position(), position(2), "of a commit that revokes nothing, too");
    }
}

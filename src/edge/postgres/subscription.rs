//! Following the revocations of commits by their entries of the feed, which have the order of the commits and no gaps.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use palisade_core::ports::{Position, Revoked, Subscription, SubscriptionError};
use tokio_postgres::types::Type;

use super::commit::{feed_position, position};
use super::connect::DatabasePool;
use super::numbers::to_bigint;
use super::read::{Reads, column};
use super::record::feed_entry;
use palisade_core::ports::StoreError;

/// How long to wait before a look at a feed that had nothing new.
const PAUSE: Duration = Duration::from_millis(50);
/// How many entries one look reads.
const LOOK: i64 = 256;

/// Follows the feed behind a position.
pub(super) struct FeedSubscription {
    pool: DatabasePool,
    /// The position of the last entry that was read.
    since: i64,
    /// Read, and not told yet.
    read: VecDeque<Revoked>,
}

impl FeedSubscription {
    /// # Errors
    /// [`SubscriptionError::Behind`]: the feed has not come to that position, or the entries behind it are no longer kept.
    pub(super) async fn begin(
        pool: DatabasePool,
        since: Position,
    ) -> Result<FeedSubscription, SubscriptionError> {
        let since = to_bigint(feed_position(since));
        let mut subscription = FeedSubscription { pool, since, read: VecDeque::new() };
        subscription.look().await?;
        Ok(subscription)
    }

    /// Reads the entries behind the last one.
    async fn look(&mut self) -> Result<(), SubscriptionError> {
        let sql = "SELECT h.position, f.position, f.body FROM palisade.head h \
                   LEFT JOIN palisade.feed f ON f.position > $1 ORDER BY f.position LIMIT $2";
        let rows = self.pool.rows(sql, &[(&self.since, Type::INT8), (&LOOK, Type::INT8)]).await;
        for row in rows.map_err(StoreError::from)? {
            let (head, entry): (i64, Option<i64>) = (column(&row, 0)?, column(&row, 1)?);
            match entry {
                Some(at) if at == self.since + 1 => {
                    self.since = at;
                    let revocations = feed_entry(column(&row, 2)?)?;
                    // An import leaves one that tells nothing.
                    if !revocations.is_empty() {
                        self.read.push_back(Revoked { position: position(at, 0), revocations });
                    }
                }
                None if head == self.since => {}
                // An entry is missing, or the position is none of this feed's.
                _ => return Err(SubscriptionError::Behind),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Subscription for FeedSubscription {
    async fn next(&mut self) -> Result<Revoked, SubscriptionError> {
        loop {
            if let Some(revoked) = self.read.pop_front() {
                return Ok(revoked);
            }
            self.look().await?;
            if self.read.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

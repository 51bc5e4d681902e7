//! What a replica keeps from one registration to the next. Part of `replica.rs`.

use std::time::Duration;

use uuid::Uuid;

use super::feed::Followed;
use super::feed_calls::{FeedNews, FeedPlace};
use super::replica::RegistrationEnd;

/// What is kept from one registration to the next.
#[derive(Default)]
pub(super) struct Kept {
    /// The ids that may be in the database.
    pub(super) former: Vec<Uuid>,
    /// Set once the whole set was read.
    pub(super) followed: Option<Followed>,
    /// The set is being read.
    pub(super) loading: Option<Loading>,
    /// Which database it is that was followed.
    pub(super) installation: Option<Uuid>,
    /// The last timeline that was seen.
    pub(super) timeline: Option<u64>,
    /// Until when it is believed.
    pub(super) believed: Duration,
    pub(super) witnessed: Option<(FeedPlace, Duration)>,
}

impl Kept {
    /// Takes in the timeline of a server that has committed something.
    pub(super) fn has_timeline(&mut self, news: &FeedNews) -> Result<(), RegistrationEnd> {
        let Some(timeline) = news.timeline else { return Ok(()) };
        if let Some(before) = self.timeline.filter(|before| timeline < *before) {
            return Err(RegistrationEnd::WentBack(format!(
                "the database is on timeline {timeline}, and was on timeline {before} before: a server that another one has \
                 taken over from answers again, or an older copy was restored"
            )));
        }
        self.timeline = Some(timeline);
        Ok(())
    }
}

/// How far the reading of the whole set is.
pub(super) struct Loading {
    /// The head before it began: what is read has everything up to there.
    pub(super) from: FeedPlace,
    pub(super) after: Option<Vec<u8>>,
    pub(super) begun: Duration,
    pub(super) read: u64,
}

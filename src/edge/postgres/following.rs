//! How a replica that has read the whole set follows the feed and confirms. Part of `replica.rs`, whose rules it keeps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;

use super::acknowledge;
use super::feed::{FeedFault, Followed, POLL};
use super::feed_calls::{ConfirmCall, FeedNews, FeedPlace, ReplicaRow, ReplicaRows};
use super::kept::Kept;
use super::replica::{BACKOFF, CALL, Inner, PARTS, RegistrationEnd, ReplicaState, backoff, timed};
use super::signals::Signal;
use super::witness::{FeedWitness, WRITE_EVERY, WitnessFile};
use palisade_core::domain::revocation::Revocation;
use palisade_core::ports::{Confirmation, StoreError};

impl Inner {
    /// Follows the feed and confirms, until the set has to be read again: as it is at the head that is returned, or
    /// later.
    pub(super) async fn follow(&self, kept: &mut Kept, id: Uuid) -> Result<FeedPlace, RegistrationEnd> {
        let Some(mut followed) = kept.followed else {
            return Err(StoreError::Unavailable("the set was not read".to_owned()).into());
        };
        // From before the first look, so that what comes in between wakes.
        let mut entries = self.feed.signals.entries();
        // Whether the row has a position, by an answer that has come.
        let mut has_position = false;
        let mut failures = 0;
        loop {
            let sent = followed.place;
            // Before it is sent. Nothing that others have acknowledged by then is missing from what it is answered.
            let asked_at = self.now();
            match self.confirm(id, &mut followed, kept).await {
                Ok(complete) => {
                    failures = 0;
                    if complete && has_position {
                        let until = asked_at + self.plan.lease;
                        // Out of order only if this machine's clock went back, which it cannot.
                        if until > kept.believed {
                            kept.believed = until;
                            self.sink.believe_until(until);
                        }
                        self.state.send_if_modified(|state| {
                            let starts = matches!(state, ReplicaState::Starting(_));
                            if starts {
                                *state = ReplicaState::Serving;
                            }
                            starts
                        });
                        self.witness(kept, false).await;
                    }
                    if !complete {
                        // What is missing was read from a server that lags.
                        tokio::time::sleep(BACKOFF.0).await;
                    }
                    let had_position = std::mem::replace(&mut has_position, true);
                    if !had_position || followed.place != sent || !complete {
                        continue;
                    }
                }
                Err(ConfirmEnd::Reload(head)) => {
                    tracing::warn!(
                        "entries of the feed are missing; the whole set of revocations is read again"
                    );
                    return Ok(head);
                }
                Err(ConfirmEnd::Over(RegistrationEnd::Failed(error))) => {
                    failures += 1;
                    tracing::debug!(%error, "the feed of revocations was not confirmed; it is tried again");
                    if self.now() >= kept.believed && failures == 2 {
                        tracing::warn!(%error, "the feed of revocations cannot be confirmed, and the lease is over");
                    }
                    tokio::time::sleep(backoff(failures).min(self.plan.lease / PARTS)).await;
                    continue;
                }
                Err(ConfirmEnd::Over(end)) => return Err(end),
            }
            let due = asked_at + self.plan.lease / PARTS;
            self.wait_for_news(kept, &mut followed, &mut entries, due).await;
        }
    }

    /// Sends one confirmation and applies what it is answered. True: everything up to the head that the database had
    /// while it confirmed is applied.
    async fn confirm(&self, id: Uuid, followed: &mut Followed, kept: &mut Kept) -> Result<bool, ConfirmEnd> {
        let begun = std::time::Instant::now();
        let confirm = self.confirm_of(id, Some(followed.place));
        let answer = timed(self.call_limit(), self.feed.calls.confirm(&confirm)).await;
        let outcome = match &answer {
            Ok(Some(_)) => Confirmation::Done,
            Ok(None) => Confirmation::Expired,
            Err(_) => Confirmation::Failed,
        };
        self.feed.meter.confirmation(outcome, begun.elapsed());
        let answer = answer?.ok_or(RegistrationEnd::Expired)?;
        self.saw(&answer.members);
        kept.has_timeline(&answer.news)?;
        let head = answer.news.head.position;
        let revocations = confirmed_news(followed, &answer.news)?;
        self.apply(followed, kept, &revocations);
        while followed.place.position < head {
            let news = self.news(followed.place).await?;
            let before = followed.place;
            let revocations = read_news(followed, &news)?;
            self.apply(followed, kept, &revocations);
            if followed.place == before {
                // Another server than the one that confirmed, and it lags.
                break;
            }
        }
        self.feed.meter.feed_at(followed.place.position, head);
        Ok(followed.place.position >= head)
    }

    async fn news(&self, place: FeedPlace) -> Result<FeedNews, StoreError> {
        timed(self.call_limit(), self.feed.calls.news(place)).await
    }

    fn apply(&self, followed: &Followed, kept: &mut Kept, news: &[Revocation]) {
        if !news.is_empty() {
            self.sink.apply(news);
        }
        kept.followed = Some(*followed);
        self.feed.signals.reached(followed.place.position);
    }

    /// Waits until there is something to confirm: entries that were applied, or the time for it.
    async fn wait_for_news(
        &self,
        kept: &mut Kept,
        followed: &mut Followed,
        entries: &mut Signal,
        due: Duration,
    ) {
        loop {
            let left = due.saturating_sub(self.now());
            if left.is_zero() {
                return;
            }
            let pause = if self.feed.signals.is_listening() { left } else { left.min(POLL) };
            let is_due = tokio::select! {
                () = entries.changed() => false,
                () = self.poke.notified() => true,
                () = tokio::time::sleep(pause) => pause == left,
            };
            if is_due {
                return;
            }
            // A read tells sooner what there is. What it cannot tell, the next confirmation does.
            let Ok(news) = self.news(followed.place).await else { return };
            let before = followed.place;
            match read_news(followed, &news) {
                Ok(revocations) => self.apply(followed, kept, &revocations),
                Err(_) => return,
            }
            if followed.place != before {
                return;
            }
        }
    }

    pub(super) fn confirm_of(&self, id: Uuid, place: Option<FeedPlace>) -> ConfirmCall {
        ConfirmCall {
            id,
            fail_open: self.plan.fail_open,
            key_ring: self.key_ring.load(Ordering::Acquire),
            place,
        }
    }

    /// A confirmation that takes longer than this is of little use.
    pub(super) fn call_limit(&self) -> Duration {
        (self.plan.lease / 2).clamp(Duration::from_millis(500), CALL)
    }

    /// Takes in a list of replicas that has just come.
    pub(super) fn saw(&self, rows: &ReplicaRows) {
        let over = self.feed.sightings.see(&rows.replicas, self.now());
        let live = rows.replicas.iter().filter(|row: &&ReplicaRow| !row.expired).count();
        self.feed.meter.registered(u32::try_from(live).unwrap_or(u32::MAX));
        self.rows.send_replace(Arc::new(rows.clone()));
        if over.is_empty() || self.expiring.swap(true, Ordering::AcqRel) {
            return;
        }
        let (feed, expiring) = (Arc::clone(&self.feed), Arc::clone(&self.expiring));
        // Beside this: no confirmation waits for it.
        tokio::spawn(async move {
            acknowledge::expire(&*feed.calls, &*feed.meter, over).await;
            expiring.store(false, Ordering::Release);
        });
    }

    /// Writes down what was followed, when that is due.
    pub(super) async fn witness(&self, kept: &mut Kept, now: bool) {
        let (Some(folder), Some(followed), Some(installation)) =
            (&self.plan.folder, kept.followed, kept.installation)
        else {
            return;
        };
        let at = self.now();
        let is_due = |(place, when): (FeedPlace, Duration)| {
            place != followed.place && (now || at.saturating_sub(when) >= WRITE_EVERY)
        };
        if !kept.witnessed.is_none_or(is_due) {
            return;
        }
        kept.witnessed = Some((followed.place, at));
        let file = WitnessFile::in_folder(folder);
        let witness = FeedWitness { installation, place: followed.place };
        if now {
            file.write(witness).await;
        } else if !self.witnessing.swap(true, Ordering::AcqRel) {
            let witnessing = Arc::clone(&self.witnessing);
            // Beside this: no confirmation waits for a disk.
            tokio::spawn(async move {
                file.write(witness).await;
                witnessing.store(false, Ordering::Release);
            });
        }
    }
}

/// How a confirmation failed.
enum ConfirmEnd {
    /// Entries are missing: the whole set has to be read again, as it is at this head or later.
    Reload(FeedPlace),
    Over(RegistrationEnd),
}

impl From<RegistrationEnd> for ConfirmEnd {
    fn from(end: RegistrationEnd) -> ConfirmEnd {
        ConfirmEnd::Over(end)
    }
}

impl From<StoreError> for ConfirmEnd {
    fn from(error: StoreError) -> ConfirmEnd {
        ConfirmEnd::Over(error.into())
    }
}

/// What is new by the answer to a confirmation.
fn confirmed_news(followed: &mut Followed, news: &FeedNews) -> Result<Vec<Revocation>, ConfirmEnd> {
    followed.take(news).map_err(|fault| match fault {
        FeedFault::Gap => ConfirmEnd::Reload(news.head),
        FeedFault::WentBack(why) => ConfirmEnd::Over(RegistrationEnd::WentBack(why)),
    })
}

/// What is new by an answer that only was read. A server that lags answers with an older head: it is passed over, and
/// only a confirmation tells whether entries were lost.
fn read_news(followed: &mut Followed, news: &FeedNews) -> Result<Vec<Revocation>, ConfirmEnd> {
    match followed.take(news) {
        Ok(revocations) => Ok(revocations),
        Err(FeedFault::Gap) => Err(ConfirmEnd::Reload(news.head)),
        Err(FeedFault::WentBack(_)) => Ok(Vec::new()),
    }
}

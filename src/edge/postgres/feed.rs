//! The feed of revocations: one entry for each commit that revokes, numbered without gaps in the order of the commits.
//!
//! The number comes from one row that the commit updates last, in the message in which it commits, so the order of the
//! numbers is the order in which commits become visible. Followers read what is behind their position. Notices only
//! make them look sooner.

use std::sync::Arc;
use std::time::Duration;

use super::acknowledge::{Acknowledger, Sightings};
use super::feed_calls::{
    EntryStands, FeedCalls, FeedEntry, FeedListener, FeedNews, FeedNotice, FeedPlace, ReplicaRow,
};
use super::signals::{FeedClock, FeedSignals};
use palisade_core::domain::revocation::Revocation;
use palisade_core::ports::{ConfirmedBy, ReplicaMeter, StoreError};

/// How often the feed is polled while no notices come.
pub(super) const POLL: Duration = Duration::from_millis(50);
/// How long a notice that was asked for may take.
const ECHO: Duration = Duration::from_secs(2);
/// How often a notice is asked for: a connection that is dead without a word is found out by it.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long it is waited before another connection for notices is opened.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// And where notices do not get through the one that was there.
const LISTEN_AGAIN_UNHEARD: Duration = Duration::from_secs(30);

/// Why a follower cannot go on from where it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FeedFault {
    /// Entries behind its place are not there any more, or do not tell all: the whole set has to be read again.
    Gap,
    /// The database has lost what was applied.
    WentBack(String),
}

/// How far a follower is. Pure: what it is told decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Followed {
    pub(super) place: FeedPlace,
}

impl Followed {
    /// Takes in the answer to what was asked from behind this place: what is new, in order.
    ///
    /// # Errors
    /// [`FeedFault`]; the place is as it was.
    pub(super) fn take(&mut self, news: &FeedNews) -> Result<Vec<Revocation>, FeedFault> {
        let own = self.place;
        if news.standing == EntryStands::Gone || news.head.position < own.position {
            return Err(FeedFault::WentBack(format!(
                "revocations were applied up to position {} of the feed, and the database, whose feed ends at position {}, does not have \
                 the same entry there: it has lost commits that it had acknowledged, by a failover to a standby that lagged or \
                 by a restore of an older copy",
                own.position, news.head.position
            )));
        }
        let mut next = *self;
        let mut revocations = Vec::new();
        for FeedEntry { position, entry, revocations: told } in &news.entries {
            // What was read twice, by a notice and by a confirmation.
            if *position <= next.place.position {
                continue;
            }
            if *position != next.place.position + 1 || told.is_empty() {
                return Err(FeedFault::Gap);
            }
            next.place = FeedPlace { position: *position, entry: *entry };
            revocations.extend_from_slice(told);
        }
        if news.entries.is_empty() && news.head.position > own.position {
            return Err(FeedFault::Gap);
        }
        *self = next;
        Ok(revocations)
    }
}

/// The feed of one database, as the store of this process knows it: follows it for subscribers, and lets commits wait
/// for the replicas.
pub struct Feed {
    pub(super) calls: Arc<dyn FeedCalls>,
    pub(super) clock: FeedClock,
    pub(super) signals: Arc<FeedSignals>,
    pub(super) sightings: Arc<Sightings>,
    pub(super) meter: Arc<dyn ReplicaMeter>,
    acknowledger: Arc<Acknowledger>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Feed {
    /// Begins to listen for notices. To be called within a runtime.
    #[must_use]
    pub fn start(calls: Arc<dyn FeedCalls>, clock: FeedClock, meter: Arc<dyn ReplicaMeter>) -> Feed {
        let (signals, sightings) = (Arc::new(FeedSignals::default()), Arc::new(Sightings::default()));
        let acknowledger = Arc::new(Acknowledger::new(
            Arc::clone(&calls),
            Arc::clone(&clock),
            Arc::clone(&signals),
            Arc::clone(&sightings),
            Arc::clone(&meter),
        ));
        let waiting = Arc::clone(&acknowledger);
        let (listens, heard, measured) = (Arc::clone(&calls), Arc::clone(&signals), Arc::clone(&meter));
        let tasks = vec![
            tokio::spawn(async move { waiting.run().await }),
            tokio::spawn(async move { listen(&*listens, &heard, &*measured).await }),
        ];
        Feed { calls, clock, signals, sightings, meter, acknowledger, tasks }
    }

    /// The uptime, for [`Feed::acknowledge`].
    #[must_use]
    pub fn uptime(&self) -> Duration {
        (self.clock)()
    }

    /// Whether notices of the database arrive. Without them it is polled: the connection goes through a pooler in
    /// transaction mode, or is down.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.signals.is_listening()
    }

    /// The greatest position of the feed that was committed or followed in this process; 0 before that.
    #[must_use]
    pub fn reached(&self) -> u64 {
        self.signals.reached(0)
    }

    /// A commit of this process has this position of the feed, and its answer has come: followers here look at once.
    pub fn committed(&self, position: u64) {
        self.signals.reached(position);
        self.signals.tell_entries();
    }

    /// Waits until no replica can admit what the commit at `position` of the feed has revoked: each has confirmed it,
    /// or its lease is over. `since`: [`Feed::uptime`] once the answer to the commit had come. Safe to cancel.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; the commit stands, and nothing is promised of it.
    pub async fn acknowledge(&self, position: u64, since: Duration) -> Result<ConfirmedBy, StoreError> {
        self.acknowledger.wait(position, since).await
    }

    /// Waits until everything that is in the feed by now, by whichever gateway, is in force at every replica.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: as [`Feed::acknowledge`], or the database does not answer.
    pub async fn settle(&self) -> Result<(), StoreError> {
        let rows = self.calls.replicas().await?;
        // Behind the answer: the head was visible before.
        let since = (self.clock)();
        let lacks =
            |row: &ReplicaRow| !row.expired && row.position.is_some_and(|position| position < rows.head);
        if rows.replicas.iter().any(lacks) {
            self.acknowledge(rows.head, since).await?;
        }
        Ok(())
    }

    /// Forgets entries that are older than an hour and that every replica has confirmed. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prune(&self) -> Result<u64, StoreError> {
        self.calls.prune().await
    }
}

/// Why no notices come.
enum Unheard {
    /// The connection could not be opened, or was lost.
    Lost(StoreError),
    /// It works, and a notice that was asked for did not come.
    Silent,
}

/// Listens for notices, for ever.
async fn listen(calls: &dyn FeedCalls, signals: &FeedSignals, meter: &dyn ReplicaMeter) {
    let mut told = false;
    loop {
        let why = match calls.listen().await {
            Ok(mut listener) => hear(&mut *listener, signals, meter, &mut told).await,
            Err(error) => Unheard::Lost(error),
        };
        signals.set_listening(false);
        meter.listening(false);
        // What was told while it was lost was not heard.
        signals.tell_entries();
        signals.tell_confirmed();
        let pause = match why {
            Unheard::Silent => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        "no notices of the database arrive: the feed of revocations goes through a connection pooler in transaction \
                         mode, as it seems, and is polled instead; give the database's own address as store.feed_url"
                    );
                }
                LISTEN_AGAIN_UNHEARD
            }
            Unheard::Lost(error) => {
                tracing::debug!(%error, "the connection for notices of the database is lost; the feed is polled meanwhile");
                LISTEN_AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether notices arrive where they are listened for: not through a pooler in transaction mode.
///
/// # Errors
/// [`StoreError`]: the connection for them cannot be opened, or was lost.
pub async fn notices_arrive(calls: &dyn FeedCalls) -> Result<bool, StoreError> {
    let mut listener = calls.listen().await?;
    listener.ask(0).await?;
    let until = tokio::time::Instant::now() + ECHO;
    loop {
        match tokio::time::timeout_at(until, listener.next()).await {
            Ok(Ok(FeedNotice::Echo(0))) => return Ok(true),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(false),
        }
    }
}

/// Hands on notices until none come.
async fn hear(
    listener: &mut dyn FeedListener,
    signals: &FeedSignals,
    meter: &dyn ReplicaMeter,
    told: &mut bool,
) -> Unheard {
    for number in 0.. {
        if let Err(error) = listener.ask(number).await {
            return Unheard::Lost(error);
        }
        let mut until = tokio::time::Instant::now() + ECHO;
        let mut echoed = false;
        loop {
            match tokio::time::timeout_at(until, listener.next()).await {
                Ok(Ok(FeedNotice::Entries)) => signals.tell_entries(),
                Ok(Ok(FeedNotice::Confirmed)) => signals.tell_confirmed(),
                Ok(Ok(FeedNotice::Echo(heard))) if heard == number && !echoed => {
                    echoed = true;
                    until = tokio::time::Instant::now() + ASK_EVERY;
                    signals.set_listening(true);
                    meter.listening(true);
                    if std::mem::take(told) {
                        tracing::info!("notices of the database arrive");
                    }
                }
                Ok(Ok(FeedNotice::Echo(_))) => {}
                Ok(Err(error)) => return Unheard::Lost(error),
                Err(_) if echoed => break,
                Err(_) if number > 0 => {
                    let why = "the connection for notices of the database has become silent";
                    return Unheard::Lost(StoreError::Unavailable(why.to_owned()));
                }
                Err(_) => return Unheard::Silent,
            }
        }
    }
    Unheard::Silent
}

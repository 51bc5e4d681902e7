//! One replica among those that share a database: its row, what it has applied of the feed of revocations, and until
//! when it believes tokens.
//!
//! Why no replica admits what an acknowledged commit has revoked is shown in `acknowledge.rs`. What that asks of this
//! file:
//!
//! - The clock is read before a confirmation is sent, and nothing is believed for longer than the lease from then on.
//! - It is believed only by an answer to a confirmation that was committed, and once everything up to the head in
//!   that answer was applied. An answer that only was read is none: a primary that was cut off answers reads for
//!   ever.
//! - The confirmation that first gives the row a position does not count for this. Only one that is sent after its
//!   answer has come does.
//! - A place in the feed is told only once it was applied.
//! - The length of the lease is the row's, and does not change. Before another registration, or before the row is
//!   removed, it is stopped to believe. Each registration has an id of its own.
//!
//! Nothing is ever taken out of the set here. Entries that come twice are merged, and a set that is read again is
//! added.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use super::feed::{Feed, FeedFault, Followed};
use super::feed_calls::{EntryStands, FeedPlace, RegisterAnswer, RegisterCall, ReplicaRow, ReplicaRows};
use super::kept::{Kept, Loading};
use super::migrations::PROGRAM;
use super::witness::{FeedWitness, WitnessFile};
use palisade_core::ports::{FeedSink, RecordFormats, ReplicaFormats, StoreError};
use palisade_core::service::outage::Outage;

/// A confirmation is sent after this part of the lease.
pub(super) const PARTS: u32 = 5;
/// The first pause after a failure, and the longest one.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long one page of the set, or a registration, may take.
pub(super) const CALL: Duration = Duration::from_secs(10);
/// How many former registrations of this process are remembered, to be removed with the next one.
const FORMER: usize = 16;

/// What a replica is.
#[derive(Debug, Clone)]
pub struct ReplicaPlan {
    /// For people; two replicas may have the same.
    pub name: String,
    /// The highest version of each kind of record that the program reads.
    pub formats: RecordFormats,
    /// How long it believes tokens after it has read its clock and confirmed the head of the feed.
    pub lease: Duration,
    /// Whether it goes on believing tokens after that, on a route at least.
    pub fail_open: bool,
    /// The revision of the signing ring that it has loaded.
    pub key_ring: u64,
    /// The operator's word that the database is to be taken as it is, though it has lost what was followed before
    /// this start.
    pub accept: bool,
    /// The operator's word that a store which is closed for writing is served.
    pub accept_closed: bool,
    /// Where its local files are.
    pub folder: Option<PathBuf>,
}

/// How far a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaState {
    /// It has believed nothing yet; with what kept it from that last.
    Starting(Option<String>),
    /// It has confirmed, once at least. Whether its lease stands is the sink's to know.
    Serving,
    /// The database has lost what was followed: nothing is believed any more in this run.
    Closed(String),
    /// It has left the others.
    Left,
}

/// A replica, registered as long as it lives.
pub struct ClusterReplica {
    inner: Arc<Inner>,
    task: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct Inner {
    pub(super) feed: Arc<Feed>,
    pub(super) plan: ReplicaPlan,
    pub(super) sink: Arc<dyn FeedSink>,
    pub(super) key_ring: AtomicU64,
    pub(super) state: watch::Sender<ReplicaState>,
    pub(super) rows: watch::Sender<Arc<ReplicaRows>>,
    /// A confirmation is to be sent at once.
    pub(super) poke: Notify,
    pub(super) leaving: watch::Sender<bool>,
    /// Rows of replicas that are gone are being taken off the list.
    pub(super) expiring: Arc<AtomicBool>,
    pub(super) witnessing: Arc<AtomicBool>,
    registering: Outage,
}

impl Drop for ClusterReplica {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl ClusterReplica {
    /// Registers, reads the whole set into `sink`, and follows the feed from then on, in a task of its own. Goes on
    /// trying while the database is gone.
    #[must_use]
    pub fn start(feed: Arc<Feed>, plan: ReplicaPlan, sink: Arc<dyn FeedSink>) -> ClusterReplica {
        let key_ring = AtomicU64::new(plan.key_ring);
        let inner = Arc::new(Inner {
            feed,
            plan,
            sink,
            key_ring,
            state: watch::Sender::new(ReplicaState::Starting(None)),
            rows: watch::Sender::new(Arc::new(ReplicaRows { head: 0, replicas: Vec::new() })),
            poke: Notify::new(),
            leaving: watch::Sender::new(false),
            expiring: Arc::default(),
            witnessing: Arc::default(),
            registering: Outage::new("this replica cannot register with the database, which is tried again"),
        });
        let runs = Arc::clone(&inner);
        let task = tokio::spawn(async move { runs.run().await });
        ClusterReplica { inner, task: Mutex::new(Some(task)) }
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> ReplicaState {
        self.inner.state.borrow().clone()
    }

    /// Waits until it has believed for the first time.
    ///
    /// # Errors
    /// Why it will not: it is closed, or has left.
    pub async fn serving(&self) -> Result<(), String> {
        let mut states = self.inner.state.subscribe();
        loop {
            match &*states.borrow_and_update() {
                ReplicaState::Starting(_) => {}
                ReplicaState::Serving => return Ok(()),
                ReplicaState::Closed(why) => return Err(why.clone()),
                ReplicaState::Left => return Err("the replica has left the others".to_owned()),
            }
            if states.changed().await.is_err() {
                return Err("the replica has ended".to_owned());
            }
        }
    }

    /// Stops to believe, and takes this replica off the list, so that no revocation waits for it. To be called once no
    /// request is decided any more.
    pub async fn leave(&self) {
        self.inner.leaving.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::debug!(%error, "the replica's task had ended");
        }
    }

    /// The replicas as the last confirmation's answer told them, this one included; empty before that.
    #[must_use]
    pub fn rows(&self) -> Arc<ReplicaRows> {
        Arc::clone(&self.inner.rows.borrow())
    }

    /// Which records each replica can read, by the answer to the last confirmation; empty before that. One whose
    /// formats cannot be read is taken to read none.
    #[must_use]
    pub fn formats(&self) -> Vec<ReplicaFormats> {
        let rows = self.rows();
        let live = rows.replicas.iter().filter(|row| !row.expired);
        let of = |row: &ReplicaRow| ReplicaFormats {
            replica: row.name.clone(),
            program: row.program,
            formats: RecordFormats::from_json(&row.formats).unwrap_or_default(),
        };
        live.map(of).collect()
    }

    /// This replica has loaded the signing ring of this revision. It tells the others at once.
    pub fn set_key_ring(&self, revision: u64) {
        self.inner.key_ring.store(revision, Ordering::Release);
        self.inner.poke.notify_one();
    }
}

/// How one registration ended.
pub(super) enum RegistrationEnd {
    /// The others have counted it as gone.
    Expired,
    Failed(StoreError),
    /// The database has lost what was followed.
    WentBack(String),
    /// It is another database than the one that was followed.
    AnotherDatabase(String),
}

impl From<StoreError> for RegistrationEnd {
    fn from(error: StoreError) -> RegistrationEnd {
        RegistrationEnd::Failed(error)
    }
}

impl Inner {
    async fn run(&self) {
        let mut kept = Kept::default();
        let mut leaving = self.leaving.subscribe();
        tokio::select! {
            biased;
            _ = leaving.wait_for(|leaving| *leaving) => {}
            () = self.register_again_and_again(&mut kept) => {}
        }
        // Closed: there is nothing more to do until then.
        let _ = leaving.wait_for(|leaving| *leaving).await;
        self.stop_believing(&mut kept, Duration::ZERO);
        self.take_off(&mut kept).await;
        self.witness(&mut kept, true).await;
        self.state.send_replace(ReplicaState::Left);
    }

    async fn register_again_and_again(&self, kept: &mut Kept) {
        let witness = match &self.plan.folder {
            Some(folder) => WitnessFile::in_folder(folder).read().await,
            None => None,
        };
        // The operator's word is about what was followed before this start.
        let mut witness = witness.filter(|_| !self.plan.accept);
        let mut failures = 0;
        loop {
            let begun = self.now();
            match self.registered(kept, &mut witness).await {
                RegistrationEnd::Expired => {
                    tracing::warn!("the other replicas have counted this one as gone; it registers again");
                }
                RegistrationEnd::Failed(error) => {
                    self.registering.failed(&error);
                    self.state.send_if_modified(|state| {
                        let starting = matches!(state, ReplicaState::Starting(_));
                        if starting {
                            *state = ReplicaState::Starting(Some(error.to_string()));
                        }
                        starting
                    });
                }
                RegistrationEnd::WentBack(why) => {
                    // Those that start later, and have followed nothing, could not know.
                    if let Err(error) = timed(CALL, self.feed.calls.lost(&why)).await {
                        tracing::warn!(%error, "the other replicas could not be told what the database has lost");
                    }
                    self.close(kept, why).await;
                    return;
                }
                RegistrationEnd::AnotherDatabase(why) => {
                    self.close(kept, why).await;
                    return;
                }
            }
            // One that lasted starts anew.
            failures = if self.now().saturating_sub(begun) > self.plan.lease { 0 } else { failures + 1 };
            tokio::time::sleep(backoff(failures)).await;
        }
    }

    async fn close(&self, kept: &mut Kept, why: String) {
        tracing::error!(
            "{why}. No token is believed by this replica any more. Find out what was lost; `palisade run --accept-store-as-it-is` \
             goes on with the database as it is, without it"
        );
        self.sink.closed(&why);
        self.feed.meter.closed();
        self.state.send_replace(ReplicaState::Closed(why));
        self.take_off(kept).await;
    }

    /// Nothing is believed from `until` on, if it was.
    fn stop_believing(&self, kept: &mut Kept, until: Duration) {
        if until < kept.believed {
            kept.believed = until;
            self.sink.believe_until(until);
        }
    }

    /// Safe to cancel: an id is forgotten once its row is gone.
    async fn take_off(&self, kept: &mut Kept) {
        while let Some(id) = kept.former.last() {
            if let Ok(Err(error)) = timeout(CALL, self.feed.calls.leave(*id)).await {
                tracing::debug!(%error, "this replica could not be taken off the list; its lease will run out");
                return;
            }
            kept.former.pop();
        }
    }

    pub(super) fn now(&self) -> Duration {
        (self.feed.clock)()
    }

    /// One registration, to its end.
    async fn registered(&self, kept: &mut Kept, witness: &mut Option<FeedWitness>) -> RegistrationEnd {
        let Err(end) = self.try_registered(kept, witness).await;
        end
    }

    async fn try_registered(
        &self,
        kept: &mut Kept,
        witness: &mut Option<FeedWitness>,
    ) -> Result<std::convert::Infallible, RegistrationEnd> {
        let id = Uuid::now_v7();
        let (registered, place) = self.register(kept, id, witness.as_ref()).await?;
        let before = witness.as_ref().map(|witness| witness.installation).or(kept.installation);
        if before.is_some_and(|before| before != registered.installation) {
            return Err(RegistrationEnd::AnotherDatabase(
                "the database is another one than the one that was followed before, and may lack revocations"
                    .to_owned(),
            ));
        }
        kept.installation = Some(registered.installation);
        if let Some(lost) = registered.lost {
            return Err(RegistrationEnd::WentBack(lost));
        }
        kept.has_timeline(&registered.news)?;
        if let Some(place) = place {
            self.compare(place, &registered)?;
        }
        *witness = None;
        self.registering.succeeded();
        self.saw(&registered.members);
        match &mut kept.followed {
            Some(followed) => match followed.take(&registered.news) {
                Ok(news) => self.sink.apply(&news),
                Err(FeedFault::Gap) => kept.followed = None,
                Err(FeedFault::WentBack(why)) => return Err(RegistrationEnd::WentBack(why)),
            },
            // What was read so far is of no use if the entries behind it are gone.
            None if registered.news.standing == EntryStands::Forgotten => kept.loading = None,
            None => {}
        }
        let mut head = registered.news.head;
        loop {
            if kept.followed.is_none() {
                self.load(kept, id, head).await?;
            }
            // Comes back only when the set has to be read again.
            head = self.follow(kept, id).await?;
            kept.followed = None;
            kept.loading = None;
        }
    }

    /// Writes the row. Returns the answer, and the place that the database was asked about.
    async fn register(
        &self,
        kept: &mut Kept,
        id: Uuid,
        witness: Option<&FeedWitness>,
    ) -> Result<(RegisterAnswer, Option<FeedPlace>), RegistrationEnd> {
        // By the row that goes nothing may be believed any more.
        let now = self.now();
        self.stop_believing(kept, now);
        let place = kept
            .followed
            .map(|followed| followed.place)
            .or(kept.loading.as_ref().map(|loading| loading.from))
            .or(witness.map(|witness| witness.place));
        let registration = RegisterCall {
            id,
            former: kept.former.clone(),
            name: self.plan.name.clone(),
            program: PROGRAM,
            formats: self.plan.formats.to_json(),
            lease_ms: u64::try_from(self.plan.lease.as_millis()).unwrap_or(u64::MAX),
            fail_open: self.plan.fail_open,
            key_ring: self.key_ring.load(Ordering::Acquire),
            // It is about what was before this start.
            accept: self.plan.accept && kept.installation.is_none(),
            accept_closed: self.plan.accept_closed,
            place,
        };
        // Before it is sent: what comes of it may stay unknown.
        kept.former.push(id);
        let excess = kept.former.len().saturating_sub(FORMER);
        kept.former.drain(..excess);
        let registered = timed(CALL, self.feed.calls.register(&registration)).await?;
        kept.former = vec![id];
        Ok((registered, place))
    }

    /// Whether the database still has what was followed.
    fn compare(&self, place: FeedPlace, registered: &RegisterAnswer) -> Result<(), RegistrationEnd> {
        let mut followed = Followed { place };
        match followed.take(&registered.news) {
            Ok(_) | Err(FeedFault::Gap) => Ok(()),
            Err(FeedFault::WentBack(why)) => Err(RegistrationEnd::WentBack(why)),
        }
    }

    /// Reads the whole set. What is committed meanwhile is in the feed behind the head that was read before.
    async fn load(&self, kept: &mut Kept, id: Uuid, head: FeedPlace) -> Result<(), RegistrationEnd> {
        let now = self.now();
        let loading = kept.loading.get_or_insert(Loading { from: head, after: None, begun: now, read: 0 });
        let mut told = now;
        loop {
            let page = timed(CALL, self.feed.calls.revocations(loading.after.clone())).await?;
            // A server that lags does not have everything that the set is to begin with.
            if page.head < loading.from.position {
                return Err(RegistrationEnd::Failed(StoreError::Unavailable(
                    "the whole set of revocations was answered by a server that lags behind".to_owned(),
                )));
            }
            self.sink.apply(&page.revocations);
            loading.read += page.revocations.len() as u64;
            loading.after = page.next;
            if loading.after.is_none() {
                break;
            }
            if self.now().saturating_sub(told) >= self.plan.lease / PARTS {
                told = self.now();
                let confirm = self.confirm_of(id, None);
                match timed(self.call_limit(), self.feed.calls.confirm(&confirm)).await? {
                    Some(answer) => self.saw(&answer.members),
                    None => return Err(RegistrationEnd::Expired),
                }
            }
        }
        let took = self.now().saturating_sub(loading.begun);
        tracing::info!(revocations = loading.read, ?took, "the whole set of revocations was read");
        self.feed.meter.loaded(loading.read, took);
        kept.followed = Some(Followed { place: loading.from });
        kept.loading = None;
        Ok(())
    }
}

/// Awaits a call of the database, for a time.
pub(super) async fn timed<T>(
    within: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(within, call).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("the database did not answer within {within:?}")))
    })
}

/// The pause after so many failures in a row: twice as long each time, and a random part of it less, so that replicas
/// do not all come back at once.
pub(super) fn backoff(failures: u32) -> Duration {
    let (least, most) = BACKOFF;
    let pause = least.saturating_mul(1 << failures.min(10)).min(most);
    // The lower bits of a v7 UUID are random.
    #[allow(clippy::cast_possible_truncation, reason = "it is masked")]
    let part = (Uuid::now_v7().as_u128() & 0xff) as u32;
    pause - pause / 2 * part / 255
}

//! The guarded clock: the wall clock, compared with the mark in the store and the uptime (clock skew, rollback). All
//! other code reads it, and an operator is told its state and can decide a doubt.
//!
//! [`GuardedClock`] looks at every reading and once a second. It never makes a reader wait: the mark is written by
//! the task that calls [`GuardedClock::tick`]. While the clock is in doubt, valid tokens are accepted and refused as
//! before, by the wall clock; only what cannot be undone waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::lease::{Lease, LeaseHolder, LeaseSubject};
use crate::domain::time::UnixTime;
use crate::domain::trusted_time::{ClockReading, ClockState, Doubt, Mark, NEAR, TrustedTime};
use crate::ports::{Change, Clock, CommitError, Precondition, Store, StoreError};
use crate::service::revoke::{Revoke, RevokeError};

/// How often the mark is written, beside the start, the stop and whenever there is news: every write makes the file of
/// the store grow. After a kill it lags by no more, which the next start takes for a stop.
pub const WRITE: Duration = Duration::from_secs(600);
/// How often the mark is read that other gateways over the same store have written.
const READ: Duration = Duration::from_secs(10);
/// For how long the mark is one gateway's to read and write. A gateway that was paused in between writes nothing.
const TURN: Duration = Duration::from_secs(10);
/// How long an operator's word waits at most for another gateway that writes the mark.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a doubt that lasts is told again.
const REMIND: Duration = Duration::from_secs(3600);

/// The uptime of the machine, which cannot be set.
pub type Uptime = Box<dyn Fn() -> Duration + Send + Sync>;

/// What was last logged about the clock, what was last written, and at which uptime.
#[derive(Default)]
pub struct ClockLog {
    /// The doubt that was last logged.
    pub doubt: Option<(Doubt, Duration)>,
    /// Whether it was said, since the start or the last doubt, that the clock once showed a moment that is to come.
    ahead: bool,
    written: Option<(Mark, Duration)>,
    /// When the mark was last read that others may have written.
    read: Option<Duration>,
}

impl ClockLog {
    /// What the log has to say now, and whether it is news rather than a reminder.
    #[must_use]
    pub fn next(&mut self, standing: &ClockState, uptime: Duration) -> (Vec<String>, bool) {
        let kind = |doubt: &Doubt| matches!(doubt, Doubt::Ahead(_));
        let before = self.doubt;
        let mut is_news = standing.doubt.as_ref().map(kind) != before.as_ref().map(|(doubt, _)| kind(doubt));
        let mut lines = Vec::new();
        match &standing.doubt {
            Some(doubt) if is_news || before.is_some_and(|(_, at)| uptime.saturating_sub(at) >= REMIND) => {
                lines.push(in_words(*doubt, standing));
                self.doubt = Some((*doubt, uptime));
            }
            None if is_news => {
                lines.push(format!("the clock is not in doubt any more: it shows {}", shown(standing.wall)));
                self.doubt = None;
            }
            _ => {}
        }
        // While the clock is in doubt, the words for that say it.
        let is_ahead = standing.doubt.is_none() && standing.has_been_ahead();
        if is_ahead && !self.ahead {
            lines.push(future_tokens(standing));
            is_news = true;
        }
        self.ahead = is_ahead;
        (lines, is_news)
    }
}

/// A clock that knows when it may be wrong.
pub struct GuardedClock {
    wall: Arc<dyn Clock>,
    uptime: Uptime,
    /// This gateway, as one of those that write the mark.
    holder: LeaseHolder,
    time: Mutex<TrustedTime>,
    /// The latest moment that any reader was given, in seconds.
    highest: AtomicU64,
    log: Mutex<ClockLog>,
}

impl Clock for GuardedClock {
    fn now(&self) -> UnixTime {
        let now = self.wall.now();
        // One load on the way of every request, and a store once a second.
        if now.0 > self.highest.load(Ordering::Relaxed) {
            self.highest.fetch_max(now.0, Ordering::Relaxed);
        }
        now
    }

    fn reading(&self) -> ClockReading {
        let (time, wall, _) = self.look();
        time.reading(wall)
    }

    fn uptime(&self) -> Option<Duration> {
        Some((self.uptime)())
    }
}

impl GuardedClock {
    /// Takes up the mark of `store`. `wall` is the clock that may be wrong, `holder` this gateway.
    ///
    /// # Errors
    /// [`StoreError`]: the mark, or what stands in for it in a store that has none, cannot be read.
    pub async fn start(
        wall: Arc<dyn Clock>,
        uptime: Uptime,
        store: &dyn Store,
        holder: LeaseHolder,
    ) -> Result<Arc<GuardedClock>, StoreError> {
        let stored = store.clock_mark().await?;
        let last = match &stored {
            Some(_) => None,
            None => store.latest_moment().await?,
        };
        let now = wall.now();
        let time = TrustedTime::start(stored, last, now, uptime());
        let (highest, time) = (AtomicU64::new(now.0), Mutex::new(time));
        Ok(Arc::new(GuardedClock { wall, uptime, holder, time, highest, log: Mutex::default() }))
    }

    /// How the clock stands.
    #[must_use]
    pub fn standing(&self) -> ClockState {
        let (time, wall, _) = self.look();
        time.standing(wall)
    }

    /// Says in the log what has changed, reminds of what lasts, and writes the mark when it is time or when there is
    /// news. Called once a second, and once before anything is served.
    ///
    /// # Errors
    /// [`StoreError`]: the mark was not written; it is tried again at the next call.
    pub async fn tick(&self, store: &dyn Store) -> Result<(), StoreError> {
        self.follow_others(store).await?;
        let (standing, mark, uptime) = {
            let (time, wall, uptime) = self.look();
            (time.standing(wall), time.mark(), uptime)
        };
        let is_news = self.say(&standing, uptime);
        let is_due = match &self.log().written {
            None => true,
            Some((written, at)) => {
                uptime.saturating_sub(*at) >= WRITE
                    || mark.stops.len() != written.stops.len()
                    // By as much as time has passed, it rises anyway.
                    || written.highest.plus(WRITE + NEAR) < mark.highest
            }
        };
        match is_news || is_due {
            true => self.write(store).await,
            false => Ok(()),
        }
    }

    /// Takes up what other gateways over the same store have written of the mark, such as an operator's word.
    async fn follow_others(&self, store: &dyn Store) -> Result<(), StoreError> {
        let uptime = (self.uptime)();
        let is_due = |log: &ClockLog| log.read.is_none_or(|at| uptime.saturating_sub(at) >= READ);
        if store.shared_notes().is_none() || !is_due(&self.log()) {
            return Ok(());
        }
        self.log().read = Some(uptime);
        if let Some(stored) = store.clock_mark().await? {
            self.adopt(stored, uptime);
        }
        Ok(())
    }

    /// `stored` was read when the uptime was no less than `uptime`.
    fn adopt(&self, stored: Mark, uptime: Duration) {
        let mut time = self.lock();
        // The mark is moved to the present before it is compared.
        time.observe(self.wall.now(), (self.uptime)());
        let before = time.mark();
        time.adopt(stored, uptime);
        if before.accepted != time.mark().accepted {
            // No clock has shown a later moment since, as far as the operator says.
            self.highest.store(self.wall.now().0, Ordering::Relaxed);
        }
    }

    /// Writes the mark, unless another gateway does so at this moment; the last thing before the store is closed.
    ///
    /// # Errors
    /// [`StoreError`]: the mark was not written.
    pub async fn write(&self, store: &dyn Store) -> Result<(), StoreError> {
        let Some(lease) = store.claim(LeaseSubject::ClockMark, self.holder, TURN).await? else {
            return Ok(());
        };
        let outcome = self.write_under(store, lease).await;
        store.release(lease).await?;
        outcome
    }

    /// Writes what holds of the stored mark and this one. Only under the lease: of two gateways that read at the same
    /// moment, the later writer would take the mark back.
    async fn write_under(&self, store: &dyn Store, lease: Lease) -> Result<(), StoreError> {
        let asked = (self.uptime)();
        if let Some(stored) = store.clock_mark().await? {
            self.adopt(stored, asked);
        }
        let (mark, uptime) = {
            let (time, _, uptime) = self.look();
            (time.mark(), uptime)
        };
        match store.commit(put_under(lease, mark.clone())).await {
            Ok(_) => {}
            // Another gateway has taken over meanwhile, and writes it.
            Err(error) => return error.unless_overtaken(),
        }
        self.log().written = Some((mark, uptime));
        Ok(())
    }

    /// The lease of the mark, once no other gateway has it.
    async fn turn(&self, store: &dyn Store) -> Result<Lease, StoreError> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(lease) = store.claim(LeaseSubject::ClockMark, self.holder, TURN).await? {
                return Ok(lease);
            }
            if tokio::time::Instant::now() >= until {
                return Err(StoreError::Unavailable("another replica has the mark of the clock".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The operator says that the wall clock is right: durable when it returns. Returns how it stood before.
    ///
    /// # Errors
    /// [`StoreError`]; then the clock stands as it did.
    pub async fn accept(&self, store: &dyn Store) -> Result<ClockState, StoreError> {
        let lease = self.turn(store).await?;
        let outcome = self.accept_under(store, lease).await;
        store.release(lease).await?;
        outcome
    }

    async fn accept_under(&self, store: &dyn Store, lease: Lease) -> Result<ClockState, StoreError> {
        let said = store.clock_mark().await?.unwrap_or_default().accepted;
        let (before, mark) = {
            let (time, wall, uptime) = self.look();
            let mut accepted = time.clone();
            accepted.accept(said, wall, uptime);
            (time.standing(wall), accepted.mark())
        };
        store.commit(put_under(lease, mark)).await.map_err(CommitError::of_the_store)?;
        {
            let (wall, uptime) = (self.wall.now(), (self.uptime)());
            // Should the clock have jumped in between, that was not what the operator saw.
            let mut time = self.lock();
            if before.wall.until(wall) <= NEAR && wall.until(before.wall) <= NEAR {
                time.accept(said, wall, uptime);
                self.highest.store(wall.0, Ordering::Relaxed);
            }
        }
        tracing::warn!(wall = %shown(before.wall), mark = %shown(before.mark), "the operator says that the clock is right");
        Ok(before)
    }

    /// A look at both clocks.
    fn look(&self) -> (MutexGuard<'_, TrustedTime>, UnixTime, Duration) {
        let mut time = self.lock();
        let (wall, uptime) = (self.wall.now(), (self.uptime)());
        let highest = UnixTime(self.highest.fetch_max(wall.0, Ordering::Relaxed));
        time.observe(wall, uptime);
        time.has_shown(highest);
        (time, wall, uptime)
    }

    /// Whether there was news.
    fn say(&self, standing: &ClockState, uptime: Duration) -> bool {
        let (lines, is_news) = self.log().next(standing, uptime);
        for line in lines {
            tracing::warn!("{line}");
        }
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, TrustedTime> {
        // No step leaves it half-moved.
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, ClockLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the mark as long as no other gateway has the lease.
fn put_under(lease: Lease, mark: Mark) -> Vec<Change> {
    vec![Change::Require(Precondition::LeaseStands(lease)), Change::PutClockMark(mark)]
}

/// The clock as its operator handles it.
#[derive(Clone)]
pub struct Timekeeping {
    clock: Arc<GuardedClock>,
    store: Arc<dyn Store>,
    revoke: Revoke,
}

/// What an operator's word has changed.
#[derive(Debug)]
pub struct AcceptedClock {
    /// How the clock stood before.
    pub before: ClockState,
    /// Whether every token signed so far was revoked, because some may say a later moment than the clock.
    pub revoked: bool,
}

impl Timekeeping {
    /// `revoke` revokes the tokens of our own issuer.
    #[must_use]
    pub fn new(clock: Arc<GuardedClock>, store: Arc<dyn Store>, revoke: Revoke) -> Timekeeping {
        Timekeeping { clock, store, revoke }
    }

    /// How the clock stands.
    #[must_use]
    pub fn standing(&self) -> ClockState {
        self.clock.standing()
    }

    /// The operator says that the wall clock is right. If it ever showed a later moment than now, tokens may have been
    /// signed that begin in the future and would outlive every revocation that is made from now on: they are revoked
    /// first, with all others that were signed so far. Their sessions go on and get new ones.
    ///
    /// # Errors
    /// [`RevokeError`]; then the clock stands as it did.
    pub async fn accept(&self) -> Result<AcceptedClock, RevokeError> {
        let revoked = self.clock.standing().has_been_ahead();
        if revoked {
            let reason = "the clock had been ahead when it was accepted".to_owned();
            self.revoke.raise_all(Some(reason), None).await?;
        }
        let before = self.clock.accept(&*self.store).await?;
        Ok(AcceptedClock { before, revoked })
    }
}

/// What is wrong with the clock, what waits because of it, and what to do.
#[must_use]
pub fn in_words(doubt: Doubt, standing: &ClockState) -> String {
    let wall = shown(standing.wall);
    let (by, way) = match doubt {
        Doubt::Ahead(by) => (by, "ahead of"),
        Doubt::Behind(by) => (by, "behind"),
    };
    let cost = match standing.has_been_ahead() {
        true => format!(
            ", which also revokes every access token signed so far, because the clock once showed {}",
            shown(standing.highest)
        ),
        false => String::new(),
    };
    format!(
        "the clock is in doubt: it shows {wall}, {} {way} the time of the last run plus the uptime since. Until they \
         agree, nothing is forgotten or removed that is not due by the earlier of the two. Set the clock, or confirm \
         that it is right: `palisade clock accept`{cost}",
        span(by)
    )
}

/// That there may be tokens which begin in the future, and what to do.
fn future_tokens(standing: &ClockState) -> String {
    format!(
        "the clock is right now and once showed {}: tokens that were signed then begin in the future. `palisade clock \
         accept` revokes every access token signed so far; sessions go on",
        shown(standing.highest)
    )
}

/// A length of time in its two largest units: months and years differ in length, days do not.
#[must_use]
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let count = |n: u64| if n == 1 { "1 day".to_owned() } else { format!("{n} days") };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        (_, 0, _) => count(days),
        _ => format!("{} {hours} h", count(days)),
    }
}

/// A moment as people write it (RFC 3339), or in seconds where it has no date.
#[must_use]
pub fn shown(at: UnixTime) -> String {
    /// 9999-12-31T23:59:59Z.
    const LAST: u64 = 253_402_300_799;
    match at.0 {
        seconds @ ..=LAST => {
            let at = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
            humantime::format_rfc3339_seconds(at).to_string()
        }
        seconds => seconds.to_string(),
    }
}

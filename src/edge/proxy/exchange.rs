//! One request and its answer, seen from outside: who is at the other end, and the switch that ends it.
//!
//! Every exchange runs under its switch (`listener`), so it can be cut the moment its token is revoked, however
//! silent it is and whatever it carries. [`Streams`] knows every exchange from its admission to its end, so that none
//! is missed: an upload, a download and a gRPC call last as long as a WebSocket may. Being known costs a request one
//! uncontended lock when it begins and one when it ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Notify;

use super::refused::Refused;
use palisade_core::domain::route::{FailMode, Route};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{Meter, Revocations};
use palisade_core::service::admit::{Admission, Authenticator};
use palisade_core::service::ongoing::{AdmissionRecord, Ending, Expiry};

tokio::task_local! {
    /// The exchange that the current task serves; set by the listener around the engine.
    pub static CURRENT: Arc<OpenExchange>;
}

/// What the listener knows of an exchange.
#[derive(Debug)]
pub struct OpenExchange {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    cut: Notify,
    switched: AtomicBool,
    malformed: AtomicBool,
    broken_off: AtomicBool,
    begun: AtomicBool,
    replaced: OnceLock<Refused>,
    ending: OnceLock<Ending>,
    held: OnceLock<Held>,
}

/// What an exchange goes on by once it is admitted.
#[derive(Debug)]
struct Held {
    admitted: AdmissionRecord,
    /// When its expiry is looked at next.
    due: AtomicU64,
    /// Seconds; a reload may change them.
    after_expiry: AtomicU64,
    /// Whether it goes on while the revocation set is not confirmed; a reload may change it.
    fails_open: AtomicBool,
    /// Whether it is an event stream or a WebSocket, for the gauge.
    stream: AtomicBool,
}

impl Held {
    fn fail(&self) -> FailMode {
        match self.fails_open.load(Ordering::Relaxed) {
            true => FailMode::Open,
            false => FailMode::Closed,
        }
    }
}

impl OpenExchange {
    /// An exchange with `peer`.
    #[must_use]
    pub fn new(peer: SocketAddr, tls: bool) -> Arc<OpenExchange> {
        Arc::new(OpenExchange {
            peer,
            tls,
            cut: Notify::new(),
            switched: AtomicBool::new(false),
            malformed: AtomicBool::new(false),
            broken_off: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            replaced: OnceLock::new(),
            ending: OnceLock::new(),
            held: OnceLock::new(),
        })
    }

    /// Says that the connection is a WebSocket from here on: what the client sends is no further request.
    pub fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// Whether the connection has become a WebSocket.
    #[must_use]
    pub fn is_switched(&self) -> bool {
        self.switched.load(Ordering::Relaxed)
    }

    /// Says that the request's body has no single reading.
    pub fn mark_malformed(&self) {
        self.malformed.store(true, Ordering::Relaxed);
    }

    /// Whether the request's body turned out to have no single reading.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Says that an answer broke off which the client would take for whole when the connection is closed.
    pub fn break_off(&self) {
        self.broken_off.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to end with a reset.
    #[must_use]
    pub fn is_broken_off(&self) -> bool {
        self.broken_off.load(Ordering::Relaxed)
    }

    /// The engine has handed the request to our hooks.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether our hooks have the request. What is answered before is the engine's own word.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// What takes the place of an answer of the engine's own, made once.
    pub fn replace(&self, make: impl FnOnce() -> Refused) -> &Refused {
        self.replaced.get_or_init(make)
    }

    /// What was answered in the engine's place.
    #[must_use]
    pub fn replaced(&self) -> Option<&Refused> {
        self.replaced.get()
    }

    /// Ends the exchange wherever it stands; false when it was ended before. The first reason stands. An HTTP/1.1
    /// connection is reset: what waits in the kernel is not delivered any more, and nothing looks whole.
    pub fn cut(&self, why: Ending) -> bool {
        let first = self.ending.set(why).is_ok();
        if first {
            self.break_off();
            self.cut.notify_one();
        }
        first
    }

    /// Resolves once the exchange is cut.
    pub async fn is_cut(&self) {
        self.cut.notified().await;
    }

    /// Why it was cut, if it was.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get().copied()
    }

    /// What it was admitted as, once it was.
    #[must_use]
    pub fn admitted(&self) -> Option<&AdmissionRecord> {
        self.held.get().map(|held| &held.admitted)
    }

    /// Notes that it is an event stream or a WebSocket.
    pub fn is_stream(&self) {
        if let Some(held) = self.held.get() {
            held.stream.store(true, Ordering::Relaxed);
        }
    }

    /// Whether its token is good still, as far as revocations go.
    fn refuse_revoked(&self, authenticator: &Authenticator) -> Result<(), Refusal> {
        let Some(held) = self.held.get() else { return Ok(()) };
        match &held.admitted.caller {
            Some(caller) => authenticator.refuse_revoked(caller, || held.fail()),
            None => Ok(()),
        }
    }

    /// Ends the exchange when it is not known any more whether its credential is revoked, and its route asks for that. True
    /// when it was ended. Asked between the parts of its body: after a pause of the process, they must not overtake the
    /// task that ends all exchanges at the end of the lease.
    pub fn cut_if_stale(&self, revocations: &dyn Revocations) -> bool {
        let is_held = |held: &Held| held.admitted.caller.is_some() && held.fail() == FailMode::Closed;
        // In this order, so that an exchange without a credential reads no clock.
        if !self.held.get().is_some_and(is_held) || !revocations.is_stale() {
            return false;
        }
        self.cut(Ending::Stale);
        true
    }

    /// The same, where waiting is possible: it never resolves for an exchange that was ended, since what serves it is
    /// dropped.
    pub async fn hold_if_stale(&self, revocations: &dyn Revocations) {
        if self.cut_if_stale(revocations) {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it would be admitted under `admission`; if so it goes on by the route it belongs to now.
    fn goes_on_under<R: AsRef<Route>>(&self, admission: &Admission<R>) -> bool {
        let Some(held) = self.held.get() else { return true };
        let Some(route) = admission.still_admits(&held.admitted) else { return false };
        held.after_expiry.store(route.after_expiry.as_secs(), Ordering::Relaxed);
        held.fails_open.store(route.fail == FailMode::Open, Ordering::Relaxed);
        // To be reckoned anew.
        held.due.store(0, Ordering::Release);
        true
    }
}

/// Few enough to be walked through at every revocation, enough that cores seldom meet in one.
const SHARDS: usize = 64;
/// Stands for the next look at an exchange while one is being taken.
const LOOKING: u64 = u64::MAX;

/// The exchanges under way, by the port of their peer: those of one connection share a shard, and a connection that
/// is served on one core meets no other.
pub struct Streams {
    shards: Box<[Arc<Shard>]>,
}

struct Shard {
    slots: Mutex<Slots>,
    /// Told of an exchange that was cut, since the engine then tells of nothing.
    meter: Arc<dyn Meter>,
}

#[derive(Default)]
struct Slots {
    open: Vec<Option<Arc<OpenExchange>>>,
    free: Vec<usize>,
}

impl Shard {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        // No step of ours leaves a slot half-written.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of its exchanges that `which` names. Decided about outside the lock, which requests wait for.
    fn some(&self, which: impl Fn(&OpenExchange) -> bool) -> Vec<Arc<OpenExchange>> {
        let slots = self.slots();
        slots.open.iter().flatten().filter(|exchange| which(exchange)).cloned().collect()
    }
}

impl Streams {
    /// Nothing under way yet.
    #[must_use]
    pub fn new(meter: &Arc<dyn Meter>) -> Streams {
        let shard = || Arc::new(Shard { slots: Mutex::default(), meter: Arc::clone(meter) });
        Streams { shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// Watches an exchange until the guard is dropped. The caller, which admitted it, has to ask once more after this
    /// whether that still holds ([`Watched::hold_against`]): a change in between has found nothing to cut.
    #[must_use]
    pub fn watch(&self, exchange: Arc<OpenExchange>, admitted: AdmissionRecord) -> Watched {
        let after_expiry = AtomicU64::new(admitted.route.after_expiry.as_secs());
        let due = AtomicU64::new(admitted.expires_at().0);
        let fails_open = AtomicBool::new(admitted.route.fail == FailMode::Open);
        let stream = AtomicBool::new(false);
        // An exchange is admitted once.
        let _ = exchange.held.set(Held { admitted, due, after_expiry, fails_open, stream });
        let shard = Arc::clone(&self.shards[usize::from(exchange.peer.port()) % SHARDS]);
        let mut slots = shard.slots();
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                slots.open.push(None);
                slots.open.len() - 1
            }
        };
        slots.open[slot] = Some(Arc::clone(&exchange));
        drop(slots);
        Watched { exchange, shard, slot }
    }

    /// Cuts every exchange whose token is revoked by now; returns how many. Called after each change of the
    /// revocation set.
    pub async fn cut_revoked(&self, authenticator: &Authenticator) -> usize {
        self.cut_refused(authenticator, Refusal::Revoked, Ending::Revoked).await
    }

    /// Cuts every exchange of which it is not known any more whether its token is revoked, and whose route asks for that;
    /// returns how many. Called when the lease of the revocation set is over.
    pub async fn cut_stale(&self, authenticator: &Authenticator) -> usize {
        self.cut_refused(authenticator, Refusal::Stale, Ending::Stale).await
    }

    async fn cut_refused(&self, authenticator: &Authenticator, refusal: Refusal, why: Ending) -> usize {
        let mut cut = 0;
        for shard in &self.shards {
            let open = shard.some(|exchange| exchange.admitted().is_some_and(|a| a.caller.is_some()));
            let refused = |exchange: &&Arc<OpenExchange>| {
                exchange.refuse_revoked(authenticator).is_err_and(|found| found == refusal)
            };
            cut += open.iter().filter(refused).filter(|exchange| exchange.cut(why)).count();
            tokio::task::yield_now().await;
        }
        cut
    }

    /// Cuts every exchange that would not be admitted under `admission`; returns how many. Called after it came into
    /// force.
    pub async fn cut_unadmitted<R: AsRef<Route>>(&self, admission: &Admission<R>) -> usize {
        let mut cut = 0;
        for shard in &self.shards {
            let open = shard.some(|_| true);
            let refused = open.iter().filter(|exchange| !exchange.goes_on_under(admission));
            cut += refused.filter(|exchange| exchange.cut(Ending::RouteChanged)).count();
            tokio::task::yield_now().await;
        }
        cut
    }

    /// Cuts every exchange that has outlived its token for too long; returns how many. To be called every second or
    /// so.
    pub async fn cut_expired(&self, expiry: &Expiry, now: UnixTime) -> usize {
        let is_due = |exchange: &OpenExchange| {
            exchange.held.get().is_some_and(|held| held.due.load(Ordering::Relaxed) <= now.0)
        };
        let mut cut = 0;
        for exchange in self.shards.iter().flat_map(|shard| shard.some(is_due)) {
            let Some(held) = exchange.held.get() else { continue };
            held.due.store(LOOKING, Ordering::Relaxed);
            let after_expiry = Duration::from_secs(held.after_expiry.load(Ordering::Acquire));
            let next = expiry.look(&held.admitted, after_expiry, now).await;
            // A reload that came in between has asked for another look.
            let taken = held.due.compare_exchange(LOOKING, next.0, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() && next <= now && exchange.cut(Ending::Expired) {
                cut += 1;
            }
        }
        cut
    }

    /// How many event streams and WebSockets are open.
    #[must_use]
    pub fn open(&self) -> usize {
        let is_stream = |exchange: &Arc<OpenExchange>| {
            exchange.held.get().is_some_and(|held| held.stream.load(Ordering::Relaxed))
        };
        let of = |shard: &Arc<Shard>| shard.slots().open.iter().flatten().filter(|e| is_stream(e)).count();
        self.shards.iter().map(of).sum()
    }
}

/// Keeps an exchange among the open [`Streams`].
pub struct Watched {
    exchange: Arc<OpenExchange>,
    shard: Arc<Shard>,
    slot: usize,
}

impl Watched {
    /// Whether what is in force by now admits it still; `changed` says whether `admission` is another than it was
    /// admitted by.
    ///
    /// # Errors
    /// It does not.
    pub fn hold_against<R: AsRef<Route>>(
        &self,
        admission: &Admission<R>,
        changed: bool,
    ) -> Result<(), Refusal> {
        self.exchange.refuse_revoked(&admission.authenticator)?;
        match changed && !self.exchange.goes_on_under(admission) {
            // The next attempt is decided by the new routes, and told why.
            true => Err(Refusal::NotReady),
            false => Ok(()),
        }
    }

    /// Where an exchange that was cut is told of.
    #[must_use]
    pub fn meter(&self) -> &dyn Meter {
        &*self.shard.meter
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut slots = self.shard.slots();
        slots.open[self.slot] = None;
        slots.free.push(self.slot);
    }
}

/// Whether a field with a media type names event streams: such an exchange may be silent for longer than others.
pub fn is_event_stream(value: Option<&HeaderValue>) -> bool {
    let text = value.and_then(|value| value.to_str().ok());
    text.is_some_and(|text| text.to_ascii_lowercase().contains("text/event-stream"))
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;

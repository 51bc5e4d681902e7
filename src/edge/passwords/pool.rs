//! The threads that hash: few, of low priority, behind a line that is bounded in work.
//!
//! They are no part of the async runtime, so work that waits here blocks no other request. A request that waits
//! longer than a person would, or finds the queue full, is told when to retry; a request that is cancelled before its
//! turn costs no work. The order of turns is decided in [`super::line`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::sync::oneshot;

use super::line::{Line, Place};
use palisade_core::ports::{Busy, Meter, Requester};

/// How long a turn is waited for: as long as a person waits before they try again.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Turns of the usual work that may wait for each thread however slow the machine is.
const FEWEST: u64 = 8;

/// What a unit of work takes until it has been measured, in nanoseconds: what a core of today takes.
const UNIT_NANOS: u64 = 60_000;

/// The latest moment that is named for coming back.
const LONGEST: u64 = 30;

/// Threads of their own, and the line before them.
pub(super) struct Pool {
    shared: Arc<PoolState>,
    threads: u64,
    /// The units of a turn as most of them are.
    usual: u64,
    patience: Duration,
}

/// How a pool is to be.
pub(super) struct PoolSettings {
    /// The threads' names, with a number behind.
    pub(super) name: &'static str,
    /// At least one.
    pub(super) threads: usize,
    /// Added to the nice value of each thread: where the cores are taken, it gets so much less than others.
    pub(super) nice: i32,
    /// The units of a turn as most of them are.
    pub(super) usual: u64,
    pub(super) patience: Duration,
}

struct PoolState {
    line: Mutex<State>,
    wake: Condvar,
    meter: Arc<dyn Meter>,
    /// What a unit takes, in nanoseconds: a running mean.
    unit: AtomicU64,
}

struct State {
    line: Line<(Instant, Box<dyn Turn>)>,
    closed: bool,
}

/// One queued piece of work.
trait Turn: Send {
    /// Does the work and answers; false when the caller has left, and nothing was done.
    fn take(self: Box<Self>) -> bool;
}

struct Asked<T, F> {
    work: F,
    answer: oneshot::Sender<T>,
}

impl<T: Send, F: FnOnce() -> T + Send> Turn for Asked<T, F> {
    fn take(self: Box<Self>) -> bool {
        if self.answer.is_closed() {
            return false;
        }
        // A caller that has left meanwhile is not waiting for an answer.
        let _ = self.answer.send((self.work)());
        true
    }
}

impl PoolState {
    fn state(&self) -> MutexGuard<'_, State> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next turn and its units; `None` when the pool is closed.
    fn next(&self) -> Option<(Instant, Box<dyn Turn>, u64)> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            match state.line.next() {
                Some(((since, turn), units)) => return Some((since, turn, units)),
                None => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Refuses all that is queued and ends the threads after their present turn.
    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.line.clear();
        drop(state);
        self.wake.notify_all();
    }

    fn serve(&self, nice: i32) {
        lower_priority(nice);
        while let Some((since, turn, units)) = self.next() {
            let begun = Instant::now();
            // A fault in one turn must not cost a thread; its caller is told to try again.
            let worked = catch_unwind(AssertUnwindSafe(|| turn.take())).unwrap_or_else(|_| {
                tracing::error!("hashing a password failed");
                true
            });
            if !worked {
                continue;
            }
            let took = begun.elapsed();
            self.meter.password(begun.saturating_duration_since(since), took);
            let latest = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX / 8) / units.max(1);
            let before = self.unit.load(Ordering::Relaxed);
            // Two threads at once may lose one of the two measurements, which does no harm.
            self.unit.store((before - before / 8 + latest / 8).max(1), Ordering::Relaxed);
        }
    }
}

#[cfg(target_os = "linux")]
fn lower_priority(nice: i32) {
    // On Linux the nice value belongs to the thread that sets it.
    if let Err(error) = rustix::process::nice(nice) {
        tracing::warn!(%error, "the threads that hash passwords run at normal priority");
    }
}

/// Elsewhere the nice value is the whole process's: better left alone.
#[cfg(not(target_os = "linux"))]
fn lower_priority(_: i32) {}

/// A place in the line; dropping it gives the place up.
struct Ticket<'p> {
    shared: &'p PoolState,
    place: Place,
}

impl Ticket<'_> {
    /// Whether the turn had not come yet.
    fn give_up(&self) -> bool {
        // Dropped once the lock is free: what was to be done holds a password.
        let left = self.shared.state().line.give_up(self.place);
        left.is_some()
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(super) fn start(wanted: PoolSettings, meter: Arc<dyn Meter>) -> io::Result<Pool> {
        let PoolSettings { name, threads, nice, usual, patience } = wanted;
        let line = Mutex::new(State { line: Line::new(), closed: false });
        let shared =
            Arc::new(PoolState { line, wake: Condvar::new(), meter, unit: AtomicU64::new(UNIT_NANOS) });
        let threads = threads.max(1);
        let pool = Pool { shared, threads: threads as u64, usual, patience };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            // Dropping the pool on an error ends those that run already.
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || shared.serve(nice))?;
        }
        Ok(pool)
    }

    /// Waits for a turn and has `work`, of so many units, done. Dropping the future gives the place up.
    ///
    /// # Errors
    /// [`Busy`]: the turn did not come in time. Nothing was done.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        requester: Requester,
        units: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let (answer, mut answered) = oneshot::channel();
        let ticket = self.join(requester, units, Box::new(Asked { work, answer }))?;
        let waited = tokio::time::timeout(self.patience, &mut answered).await;
        let answer = match waited {
            Ok(answer) => answer,
            Err(_) if ticket.give_up() => return Err(self.busy()),
            // It has begun, and comes to its end.
            Err(_) => answered.await,
        };
        // No answer: the turn failed, another requester got the place, or the pool is closing.
        answer.map_err(|_| self.busy())
    }

    fn join(&self, requester: Requester, units: u64, turn: Box<dyn Turn>) -> Result<Ticket<'_>, Busy> {
        let limit = self.limit();
        let joined = self.shared.state().line.join(requester, units, limit, (Instant::now(), turn));
        // Evicted requesters are told by dropping their sender, outside of the lock.
        let (place, _sent_away) = joined.map_err(|_| self.busy())?;
        self.shared.wake.notify_one();
        Ok(Ticket { shared: &self.shared, place })
    }

    /// The units that may wait: what the threads can do within `patience`.
    fn limit(&self) -> u64 {
        let unit = self.shared.unit.load(Ordering::Relaxed).max(1);
        let done = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX) / unit;
        done.max(FEWEST * self.usual).saturating_mul(self.threads)
    }

    /// The units that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> u64 {
        self.shared.state().line.units()
    }

    /// When what waits will have been done.
    fn busy(&self) -> Busy {
        let units = self.shared.state().line.units().div_ceil(self.threads);
        let nanos = self.shared.unit.load(Ordering::Relaxed).saturating_mul(units);
        Busy { retry_after: Duration::from_secs(nanos.div_ceil(1_000_000_000).clamp(1, LONGEST)) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use palisade_core::domain::block::AddressBlock;
    use palisade_core::ports::Ended;

    /// Tells of every password.
    struct TestMeter(mpsc::SyncSender<(Duration, Duration)>);

    impl Meter for TestMeter {
        fn ended(&self, _: &Ended<'_>) {}
        fn token_cache(&self, _: bool) {}
        fn store_call(&self, _: &'static str, _: Duration, _: bool) {}
        fn mail(&self, _: &'static str) {}
        fn password(&self, waited: Duration, took: Duration) {
            let _ = self.0.try_send((waited, took));
        }
        fn jwks_fetch(&self, _: &str, _: bool) {}
        fn provider_call(&self, _: &str, _: &'static str, _: &'static str, _: Duration) {}
        fn provider_request(&self, _: &str, _: &'static str) {}
        fn plugin_reload(&self, _: &str, _: &'static str) {}
    }

    /// A hash of cost 12.
    const UNIT: u64 = 1 << 12;
    const NICE: i32 = 15;
    /// No test waits so long.
    const LONG: Duration = Duration::from_secs(3600);

    fn patient(threads: usize, patience: Duration) -> (Arc<Pool>, mpsc::Receiver<(Duration, Duration)>) {
        let (tell, told) = mpsc::sync_channel(1000);
        let wanted = PoolSettings { name: "test", threads, nice: NICE, usual: UNIT, patience };
        (Arc::new(Pool::start(wanted, Arc::new(TestMeter(tell))).unwrap()), told)
    }

    fn pool(threads: usize) -> (Arc<Pool>, mpsc::Receiver<(Duration, Duration)>) {
        patient(threads, LONG)
    }

    /// Each number is a requester of its own.
    fn requester(n: usize) -> Requester {
        Requester { block: Some(AddressBlock::V4(n as u32)), account: n as u64, known: false }
    }

    /// Occupies a thread until the sender is dropped; returns once it is occupied.
    async fn occupy(pool: &Arc<Pool>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<(), Busy>>) {
        let (free, freed) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let pool = Arc::clone(pool);
        let work = move || {
            begun.send(()).unwrap();
            let _ = freed.recv();
        };
        let task = tokio::spawn(async move { pool.run(requester(9999), UNIT, work).await });
        begins.await.unwrap();
        (free, task)
    }

    /// A turn in the line that is polled once only.
    fn wait_in_line<'p>(
        pool: &'p Pool,
        number: usize,
    ) -> impl Future<Output = Result<usize, Busy>> + use<'p> {
        let mut future = Box::pin(pool.run(requester(number), UNIT, move || number));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Pending => {}
            std::task::Poll::Ready(answer) => panic!("{answer:?}"),
        }
        future
    }

    const PLACES: usize = FEWEST as usize;

    #[tokio::test]
    async fn a_full_line_says_when_to_come_back() {
        let (pool, told) = pool(1);
        let (free, task) = occupy(&pool).await;
        let waiting: Vec<_> = (0..PLACES).map(|number| wait_in_line(&pool, number)).collect();
        // 8 turns of a quarter of a second.
        let busy = Busy { retry_after: Duration::from_secs(2) };
        assert_eq!(pool.run(requester(77), UNIT, || ()).await, Err(busy));
        drop(free);
        for (number, turn) in waiting.into_iter().enumerate() {
            assert_eq!(turn.await, Ok(number));
        }
        task.await.unwrap().unwrap();
        assert_eq!(pool.run(requester(1), UNIT, || 7).await, Ok(7));
        // The one that was refused is not among them.
        assert_eq!(told.iter().take(PLACES + 2).count(), PLACES + 2);
        assert!(told.try_recv().is_err());
    }

    #[tokio::test]
    async fn who_leaves_frees_the_place_and_costs_nothing() {
        let (pool, told) = pool(1);
        let (free, task) = occupy(&pool).await;
        let waiting: Vec<_> = (0..PLACES).map(|number| wait_in_line(&pool, number)).collect();
        drop(waiting);
        assert_eq!(pool.waiting(), 0);
        let late = wait_in_line(&pool, 99);
        drop(free);
        assert_eq!(late.await, Ok(99));
        task.await.unwrap().unwrap();
        assert_eq!(told.iter().take(2).count(), 2);
        assert!(told.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_turn_that_does_not_come_is_waited_for_as_long_as_a_person_would() {
        let (pool, _told) = patient(1, PATIENCE);
        let (free, task) = occupy(&pool).await;
        // From here on the clock moves when all tasks wait.
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        let busy = Busy { retry_after: Duration::from_secs(1) };
        assert_eq!(pool.run(requester(1), UNIT, || ()).await, Err(busy));
        let waited = before.elapsed();
        assert!(waited >= PATIENCE && waited < PATIENCE + Duration::from_millis(10), "{waited:?}");
        assert_eq!(pool.waiting(), 0, "and the place is free");
        drop(free);
        // What has begun comes to its end, however long it takes.
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_owner_is_next_however_many_wait() {
        let (pool, _told) = pool(1);
        let (free, task) = occupy(&pool).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let turn = |requester: Requester, who: &'static str| {
            let (pool, order) = (Arc::clone(&pool), Arc::clone(&order));
            let mut future =
                Box::pin(
                    async move { pool.run(requester, UNIT, move || order.lock().unwrap().push(who)).await },
                );
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let early = future.as_mut().poll(&mut context);
            (future, early.is_ready())
        };
        let guess = |n: u32| Requester { block: Some(AddressBlock::V4(n)), account: 1, known: false };
        let mut guesses = Vec::new();
        for n in 0..60 {
            let (future, refused) = turn(guess(n), "guess");
            if !refused {
                guesses.push(future);
            }
        }
        let (owner, refused) = turn(Requester { known: true, ..guess(1000) }, "owner");
        assert!(!refused && guesses.len() > 1);
        drop(free);
        owner.await.unwrap();
        futures::future::join_all(guesses).await;
        task.await.unwrap().unwrap();
        assert_eq!(order.lock().unwrap()[0], "owner");
    }

    #[tokio::test]
    async fn threads_work_side_by_side() {
        let (pool, _told) = pool(2);
        let (one, first) = occupy(&pool).await;
        let (other, second) = occupy(&pool).await;
        drop((one, other));
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_fault_costs_one_turn() {
        let (pool, _told) = pool(1);
        let busy = Busy { retry_after: Duration::from_secs(1) };
        let outcome: Result<(), Busy> = pool.run(requester(1), UNIT, || panic!("a fault")).await;
        assert_eq!(outcome, Err(busy));
        assert_eq!(pool.run(requester(1), UNIT, || 1).await, Ok(1));
    }

    #[tokio::test]
    async fn what_work_takes_is_measured_and_more_finds_room_where_it_takes_less() {
        let (pool, told) = pool(1);
        // 33,333 units of 60 µs are two seconds: 8 hashes of cost 12, 2,083 of cost 4.
        assert_eq!(pool.limit() / UNIT, 8);
        for _ in 0..100 {
            pool.run(requester(1), UNIT, || ()).await.unwrap();
        }
        assert_eq!(told.iter().take(100).count(), 100);
        assert!(pool.limit() / UNIT > 100, "{}", pool.limit());
    }

    #[tokio::test]
    async fn a_closing_pool_refuses_every_waiting_request() {
        let (pool, _told) = pool(1);
        let (free, task) = occupy(&pool).await;
        let (answer, answered) = oneshot::channel();
        let _ticket = pool.join(requester(1), UNIT, Box::new(Asked { work: || (), answer })).unwrap();
        // As the last owner's drop does, while a turn is under way.
        pool.shared.close();
        assert!(answered.await.is_err());
        drop(free);
        task.await.unwrap().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn its_threads_are_nice_and_no_others() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let (pool, _told) = pool(1);
        let before = nice();
        assert_eq!(pool.run(requester(1), UNIT, nice).await, Ok((before + NICE).min(19)));
        assert_eq!(nice(), before);
    }
}

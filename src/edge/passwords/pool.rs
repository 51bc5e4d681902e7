//! The threads that hash: few, of low priority, behind a line of bounded length.
//!
//! They are no part of the async runtime, so whatever waits here holds up nobody else. Who finds the line
//! full is told when to come back, and who leaves before their turn takes nobody's time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::sync::oneshot;

use crate::ports::{Busy, Meter};

/// How many may wait for each thread. At bcrypt's usual cost the last of them waits about ten seconds,
/// which is as long as people and their programs do.
const PLACES: usize = 32;

/// Added to the nice value of a hashing thread: where the cores are taken, it gets a thirtieth of a
/// thread's share, and logins still come to their end.
#[cfg(target_os = "linux")]
const NICE: i32 = 15;

/// Threads of their own, and the line before them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: usize,
}

struct Shared {
    line: Mutex<Line>,
    wake: Condvar,
    meter: Arc<dyn Meter>,
    /// What a turn takes, in microseconds: a running mean.
    usual: AtomicU64,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<(Instant, Box<dyn Turn>)>,
    closed: bool,
}

/// Somebody's turn.
trait Turn: Send {
    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool;
    /// Does the work and answers.
    fn take(self: Box<Self>);
}

struct Asked<T, F> {
    work: F,
    answer: oneshot::Sender<T>,
}

impl<T: Send, F: FnOnce() -> T + Send> Turn for Asked<T, F> {
    fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    fn take(self: Box<Self>) {
        // Who has left meanwhile is not waiting for an answer.
        let _ = self.answer.send((self.work)());
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next turn that somebody waits for; `None` when the pool is closed.
    fn next(&self) -> Option<(Instant, Box<dyn Turn>)> {
        let mut line = self.line();
        loop {
            if line.closed {
                return None;
            }
            match line.waiting.pop_front() {
                Some(next) if next.1.is_wanted() => return Some(next),
                Some(_) => {}
                None => line = self.wake.wait(line).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Sends everybody in the line away and ends the threads after their turn.
    fn close(&self) {
        let mut line = self.line();
        line.closed = true;
        line.waiting.clear();
        drop(line);
        self.wake.notify_all();
    }

    fn serve(&self) {
        lower_priority();
        while let Some((since, turn)) = self.next() {
            let begun = Instant::now();
            // A fault in one turn must not cost a thread; whoever waited is told to try again.
            if catch_unwind(AssertUnwindSafe(|| turn.take())).is_err() {
                tracing::error!("hashing a password failed");
            }
            let took = begun.elapsed();
            self.meter.password(begun.saturating_duration_since(since), took);
            let latest = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 8);
            let before = self.usual.load(Ordering::Relaxed);
            // Two threads at once may lose one of the two measurements, which does no harm.
            self.usual.store(before - before / 8 + latest / 8, Ordering::Relaxed);
        }
    }
}

#[cfg(target_os = "linux")]
fn lower_priority() {
    // On Linux the nice value belongs to the thread that sets it.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "the threads that hash passwords run at normal priority");
    }
}

/// Elsewhere the nice value is the whole process's: better left alone.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

impl Pool {
    /// `threads` threads, at least one. `usual` is what a turn takes, until it has been measured.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(super) fn start(threads: usize, usual: Duration, meter: Arc<dyn Meter>) -> io::Result<Pool> {
        let usual = AtomicU64::new(u64::try_from(usual.as_micros()).unwrap_or(u64::MAX / 8));
        let shared = Arc::new(Shared { line: Mutex::default(), wake: Condvar::new(), meter, usual });
        let pool = Pool { shared, threads: threads.max(1) };
        for number in 0..pool.threads {
            let shared = Arc::clone(&pool.shared);
            // Dropping the pool on an error ends those that run already.
            thread::Builder::new().name(format!("password-{number}")).spawn(move || shared.serve())?;
        }
        Ok(pool)
    }

    /// Waits for a turn and has `work` done. Dropping the future gives the place up.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let (answer, answered) = oneshot::channel();
        self.join(Box::new(Asked { work, answer }))?;
        // No answer: the turn failed, or the pool is closing.
        answered.await.map_err(|_| Busy { retry_after: Duration::from_secs(1) })
    }

    fn join(&self, turn: Box<dyn Turn>) -> Result<(), Busy> {
        let places = PLACES * self.threads;
        let mut line = self.shared.line();
        if line.waiting.len() >= places {
            line.waiting.retain(|(_, turn)| turn.is_wanted());
        }
        if line.waiting.len() >= places {
            return Err(Busy { retry_after: self.until_served(line.waiting.len()) });
        }
        line.waiting.push_back((Instant::now(), turn));
        drop(line);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// When a line of this length will have been served, in whole seconds.
    fn until_served(&self, length: usize) -> Duration {
        let turns = length.div_ceil(self.threads) as u64;
        let micros = self.shared.usual.load(Ordering::Relaxed).saturating_mul(turns);
        Duration::from_secs(micros.div_ceil(1_000_000).max(1))
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
    use crate::ports::Ended;

    /// Tells of every password.
    struct Told(mpsc::SyncSender<(Duration, Duration)>);

    impl Meter for Told {
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

    fn pool(threads: usize) -> (Arc<Pool>, mpsc::Receiver<(Duration, Duration)>) {
        let (tell, told) = mpsc::sync_channel(1000);
        let pool = Pool::start(threads, Duration::from_millis(250), Arc::new(Told(tell))).unwrap();
        (Arc::new(pool), told)
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
        let task = tokio::spawn(async move { pool.run(work).await });
        begins.await.unwrap();
        (free, task)
    }

    /// A turn in the line, without anybody who polls it.
    fn wait_in_line<'p>(
        pool: &'p Pool,
        number: usize,
    ) -> impl Future<Output = Result<usize, Busy>> + use<'p> {
        let mut future = Box::pin(pool.run(move || number));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Pending => {}
            std::task::Poll::Ready(answer) => panic!("{answer:?}"),
        }
        future
    }

    #[tokio::test]
    async fn a_full_line_says_when_to_come_back() {
        let (pool, told) = pool(1);
        let (free, task) = occupy(&pool).await;
        let waiting: Vec<_> = (0..PLACES).map(|number| wait_in_line(&pool, number)).collect();
        // 32 turns of a quarter of a second.
        let busy = Busy { retry_after: Duration::from_secs(8) };
        assert_eq!(pool.run(|| ()).await, Err(busy));
        drop(free);
        for (number, turn) in waiting.into_iter().enumerate() {
            assert_eq!(turn.await, Ok(number));
        }
        task.await.unwrap().unwrap();
        assert_eq!(pool.run(|| 7).await, Ok(7));
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
        let late = wait_in_line(&pool, 99);
        drop(free);
        assert_eq!(late.await, Ok(99));
        task.await.unwrap().unwrap();
        assert_eq!(told.iter().take(2).count(), 2);
        assert!(told.try_recv().is_err());
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
        let outcome: Result<(), Busy> = pool.run(|| panic!("a fault")).await;
        assert_eq!(outcome, Err(busy));
        assert_eq!(pool.run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn what_it_takes_is_measured() {
        let (pool, told) = pool(1);
        assert_eq!(pool.until_served(1), Duration::from_secs(1));
        assert_eq!(pool.until_served(100), Duration::from_secs(25));
        for _ in 0..100 {
            pool.run(|| ()).await.unwrap();
        }
        assert_eq!(told.iter().take(100).count(), 100);
        assert_eq!(pool.until_served(100), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_closing_pool_sends_everybody_away() {
        let (pool, _told) = pool(1);
        let (free, task) = occupy(&pool).await;
        let (answer, answered) = oneshot::channel();
        pool.join(Box::new(Asked { work: || (), answer })).unwrap();
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
        assert_eq!(pool.run(nice).await, Ok((before + NICE).min(19)));
        assert_eq!(nice(), before);
    }
}

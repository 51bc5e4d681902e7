//! The engine that runs components: compiler, instance pool, threads, and the ticks that take a component off its
//! thread (epoch interruption).
//!
//! Components run on threads of their own at the lowest priority, so an endless loop takes no time from the threads
//! that proxy. A component is preempted at every tick and goes to the end of its thread's queue. From its second tick
//! on it also waits for a turn among the long calls, so a short call, as most are, has at most one of them ahead of it.
//! A call whose deadline has passed is not resumed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails,
};

use super::bindings::Provider;
use super::host::State;
use super::limits::{INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};

/// How long a component computes before others get its thread.
const TICK: Duration = Duration::from_millis(2);
/// How many ticks the ticker stays awake while no call computes: waking it takes longer than most calls compute.
const LINGER: u32 = 8;
/// Concurrent calls of all providers together.
const CALLS: u32 = 128;
/// The largest linear memory that `providers.limits.memory` can allow, in bytes.
pub(super) const MAX_MEMORY: usize = 1 << 30;
/// What a slot keeps of its memories and its tables for the next call, in bytes: page faults cost more than
/// wiping it. A component built by `palisade plugin build` has its stack, its data and what it uses of its heap
/// in there.
const KEPT_MEMORY: usize = 256 << 10;
const KEPT_TABLE: usize = 16 << 10;
/// How deep a component's calls may go, in bytes of stack, and what is set aside for it and the host's own
/// calls below.
const WASM_STACK: usize = 512 << 10;
const STACK: usize = 1 << 20;

/// Added to the nice value of the threads that compile and run components: beside a thread that proxies without a
/// pause they get 1.5 % of a core (`sched_prio_to_weight` in Linux's kernel/sched/core.c).
#[cfg(target_os = "linux")]
const NICE: i32 = 19;

/// Compiles components and runs them.
pub(super) struct Machine {
    pub(super) engine: Engine,
    pub(super) linker: Linker<State>,
    /// As many permits as the pool has places.
    pub(super) places: Arc<Semaphore>,
    /// How many long calls may compute at once: one fewer than there are threads, and at least one.
    turns: Arc<Semaphore>,
    ticker: Arc<Ticker>,
    runtime: Option<Runtime>,
}

impl Machine {
    /// # Errors
    /// The system refuses address space or threads.
    pub(super) fn new() -> Result<Machine, String> {
        let failed = |what: &'static str| move |error: wasmtime::Error| format!("{what}: {error:#}");
        let engine = Engine::new(&config()).map_err(failed("the plugin engine"))?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(failed("WASI"))?;
        Provider::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)
            .map_err(failed("the provider interface"))?;
        // At most half of the cores: the proxy is on the others. One thread is also the fastest for one call.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / 2).clamp(1, 4);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("plugins")
            .on_thread_start(lower_priority)
            // A call that arrives is polled after one slice of a long call, and not after dozens of slices.
            .event_interval(1)
            .global_queue_interval(1)
            .enable_all()
            .build()
            .map_err(|error| format!("the threads that run plugins: {error}"))?;
        let ticker = Ticker::start(engine.clone())?;
        let places = Arc::new(Semaphore::new(CALLS as usize));
        let turns = Arc::new(Semaphore::new((threads - 1).max(1)));
        Ok(Machine { engine, linker, places, turns, ticker, runtime: Some(runtime) })
    }

    /// The threads that components run on.
    pub(super) fn threads(&self) -> &Handle {
        // `None` only while it is dropped.
        #[allow(clippy::expect_used)]
        self.runtime.as_ref().expect("a machine has threads until it is dropped").handle()
    }

    /// What preempts a call.
    pub(super) fn pace(&self) -> Pace {
        let turns = Arc::clone(&self.turns);
        let ticker = Arc::clone(&self.ticker);
        Pace { turns, turn: Arc::default(), fresh: true, ticker, ticking: None }
    }

    /// Runs `work`, which compiles a component, on a thread of its own. It goes on when its caller has
    /// dropped it: a compiler cannot be stopped.
    ///
    /// # Errors
    /// There is no thread, or `work` panicked.
    pub(super) async fn compile<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (done, ended) = tokio::sync::oneshot::channel();
        let compiling = move || {
            // Threads that it starts inherit the priority.
            lower_priority();
            // The caller may have dropped the receiver.
            let _ = done.send(work());
        };
        std::thread::Builder::new()
            .name("plugin-compiler".to_owned())
            .spawn(compiling)
            .map_err(|error| format!("the thread that compiles: {error}"))?;
        ended.await.map_err(|_| "the compiler broke off".to_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        lock(&self.ticker.state).ended = true;
        self.ticker.changed.notify_one();
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it is not allowed on a thread of another runtime.
            runtime.shutdown_background();
        }
    }
}

fn config() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    // Address space, not memory: 4 GiB and a guard for each linear memory, so that the compiler can leave
    // bounds checks out: 0.5 TiB of 128. What a slot has used goes back to the system when its call ends, but
    // for its beginning, which is overwritten. All of that, and not only what the kernel reports as written
    // (`pagemap_scan`): it does not report a page that it has swapped out, and a token may be in it.
    pool.total_component_instances(CALLS)
        .total_core_instances(CALLS * 8)
        .total_memories(CALLS)
        .total_tables(CALLS * 4)
        .total_stacks(CALLS)
        .max_core_instances_per_component(INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_module(TABLES)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(MAX_MEMORY)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .linear_memory_keep_resident(KEPT_MEMORY)
        .table_keep_resident(KEPT_TABLE)
        .max_unused_warm_slots(16);
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(STACK)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// How long one call may keep its thread: until the next tick, and after the first one only in turn.
pub(super) struct Pace {
    turns: Arc<Semaphore>,
    /// Held while it computes beyond its first tick.
    turn: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    /// Whether it has not seen a tick yet since it began to compute.
    fresh: bool,
    ticker: Arc<Ticker>,
    ticking: Option<Ticking>,
}

impl Pace {
    /// The call computes from here on, until [`Pace::pause`]: ticks come.
    pub(super) fn start(&mut self) {
        self.fresh = true;
        self.ticking.get_or_insert_with(|| Ticker::begin(&self.ticker));
    }

    /// The call waits for I/O.
    pub(super) fn pause(&mut self) {
        self.ticking = None;
        lock(&self.turn).take();
    }

    /// Whether the call waits for I/O.
    pub(super) fn paused(&self) -> bool {
        self.ticking.is_none()
    }

    /// A tick came. Ends when the call may go on.
    pub(super) fn next_turn(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let long = !std::mem::take(&mut self.fresh);
        let (turns, turn) = (Arc::clone(&self.turns), Arc::clone(&self.turn));
        lock(&turn).take();
        async move {
            // Lets calls run that came meanwhile, which may be short.
            tokio::task::yield_now().await;
            if long {
                // Never closed. The queue is first in, first out: the call that had its turn is last now.
                *lock(&turn) = turns.acquire_owned().await.ok();
            }
        }
    }
}

/// Counts the epoch up while anything computes.
struct Ticker {
    state: Mutex<Ticks>,
    changed: Condvar,
}

#[derive(Default)]
struct Ticks {
    /// How many calls compute.
    computing: usize,
    asleep: bool,
    ended: bool,
}

impl Ticker {
    /// Runs on a thread of its own: a task would wait for the very threads that the ticks free. Its priority is that of
    /// the plugins' threads: a call that got no time needs no tick.
    fn start(engine: Engine) -> Result<Arc<Ticker>, String> {
        let ticker = Arc::new(Ticker { state: Mutex::default(), changed: Condvar::new() });
        let running = Arc::clone(&ticker);
        let ticking = move || {
            lower_priority();
            running.run(&engine);
        };
        std::thread::Builder::new()
            .name("plugin-ticks".to_owned())
            .spawn(ticking)
            .map_err(|error| format!("the thread that interrupts plugins: {error}"))?;
        Ok(ticker)
    }

    fn run(&self, engine: &Engine) {
        let mut state = lock(&self.state);
        let mut idle = 0;
        while !state.ended {
            if idle < LINGER {
                state = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
                engine.increment_epoch();
                idle = if state.computing == 0 { idle + 1 } else { 0 };
            } else {
                state.asleep = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.asleep = false;
                idle = 0;
            }
        }
    }

    fn begin(ticker: &Arc<Ticker>) -> Ticking {
        let mut state = lock(&ticker.state);
        state.computing += 1;
        if state.asleep {
            ticker.changed.notify_one();
        }
        Ticking(Arc::clone(ticker))
    }
}

/// While it lives, its call is interrupted every [`TICK`].
struct Ticking(Arc<Ticker>);

impl Drop for Ticking {
    fn drop(&mut self) {
        lock(&self.0.state).computing -= 1;
    }
}

/// Every change of what is locked here is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds to the nice value of this thread. On Linux each thread has its own, and inherits that of the thread that
/// started it.
#[cfg(target_os = "linux")]
fn lower_priority() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "the threads that run plugins run at normal priority");
    }
}

/// On other systems the nice value belongs to the whole process, so it stays as it is.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    /// A tick comes; whether the call may go on once its thread has been offered to others.
    async fn goes_on(pace: &mut Pace) -> bool {
        let mut turn = pin!(pace.next_turn());
        assert!(poll!(&mut turn).is_pending(), "the thread was not offered to others");
        poll!(&mut turn).is_ready()
    }

    #[tokio::test]
    async fn only_those_who_compute_for_long_wait_for_their_turn() {
        let machine = Machine::new().unwrap();
        let threads = u32::try_from(machine.turns.available_permits()).unwrap();
        let (mut short, mut long) = (machine.pace(), machine.pace());
        [&mut short, &mut long].into_iter().for_each(Pace::start);
        assert!(goes_on(&mut long).await && goes_on(&mut long).await);
        let rest = machine.turns.clone().acquire_many_owned(threads - 1).await.unwrap();
        assert_eq!(machine.turns.available_permits(), 0, "a turn is being had");
        assert!(goes_on(&mut short).await, "a first tick is for free");
        assert!(!goes_on(&mut short).await, "no place in the line was taken");

        // It has waited for its provider, and begins anew.
        short.pause();
        assert!(short.paused());
        short.start();
        assert!(!short.paused() && goes_on(&mut short).await);
        // A call that waits for a provider holds no turn.
        long.pause();
        assert_eq!(machine.turns.available_permits(), 1);
        drop(rest);
    }

    #[tokio::test]
    async fn turns_go_round() {
        let machine = Machine::new().unwrap();
        let others = u32::try_from(machine.turns.available_permits() - 1).unwrap();
        let _others = machine.turns.clone().acquire_many_owned(others).await.unwrap();
        let (mut first, mut second) = (machine.pace(), machine.pace());
        for pace in [&mut first, &mut second] {
            pace.start();
            assert!(goes_on(pace).await);
        }
        assert!(goes_on(&mut first).await);
        let mut waiting = pin!(second.next_turn());
        assert!(poll!(&mut waiting).is_pending() && poll!(&mut waiting).is_pending());
        // Its next tick ends its turn, and it is behind the other one now.
        let mut again = pin!(first.next_turn());
        assert!(poll!(&mut again).is_pending() && poll!(&mut again).is_pending());
        assert!(poll!(&mut waiting).is_ready());
        assert!(poll!(&mut again).is_pending());
        second.pause();
        assert!(poll!(&mut again).is_ready());
    }

    #[tokio::test]
    async fn a_compiler_that_panics_is_told_of() {
        assert_eq!(Machine::compile(|| 7).await, Ok(7));
        assert!(Machine::compile(|| panic!("on purpose")).await.unwrap_err().contains("broke off"));
    }
}

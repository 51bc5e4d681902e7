//! The machine that components run on: compiler, instance pool, threads, and the ticks that take a
//! component off its thread.
//!
//! Components run on threads of their own with low priority: one that computes without end takes nothing
//! from the threads that proxy. Every tick it gives its thread to the next one in the line, and when its
//! call's deadline has passed it is not given it again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
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
/// Calls at once, of all providers together.
const CALLS: u32 = 128;
/// The largest linear memory that `providers.limits.memory` can allow, in bytes.
pub(super) const MAX_MEMORY: usize = 1 << 30;
/// How deep a component's calls may go, in bytes of stack, and what is set aside for it and the host's own
/// calls below.
const WASM_STACK: usize = 512 << 10;
const STACK: usize = 1 << 20;

/// Added to the nice value of the threads that run components.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Compiles components and runs them.
pub(super) struct Machine {
    pub(super) engine: Engine,
    pub(super) linker: Linker<State>,
    /// As many permits as the pool has places.
    pub(super) places: Arc<Semaphore>,
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
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("plugins")
            .on_thread_start(lower_priority)
            // What arrives gets its turn after each slice of those who compute, not after dozens of them.
            .event_interval(1)
            .global_queue_interval(1)
            .enable_all()
            .build()
            .map_err(|error| format!("the threads that run plugins: {error}"))?;
        let ticker = Ticker::start(engine.clone())?;
        let places = Arc::new(Semaphore::new(CALLS as usize));
        Ok(Machine { engine, linker, places, ticker, runtime: Some(runtime) })
    }

    /// The threads that components run on.
    pub(super) fn threads(&self) -> &Handle {
        // There until it is dropped.
        #[allow(clippy::expect_used)]
        self.runtime.as_ref().expect("a machine has threads until it is dropped").handle()
    }

    /// While the guard lives, whatever computes is interrupted every [`TICK`].
    pub(super) fn ticking(&self) -> Ticking {
        self.ticker.lock().calls += 1;
        self.ticker.changed.notify_one();
        Ticking(Arc::clone(&self.ticker))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.ticker.lock().ended = true;
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
    // bounds checks out: 0.5 TiB of 128. What a slot has used goes back to the system when its call ends.
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

/// Counts the epoch up while anything runs.
struct Ticker {
    state: Mutex<Ticks>,
    changed: Condvar,
}

#[derive(Default)]
struct Ticks {
    calls: usize,
    ended: bool,
}

impl Ticker {
    /// A thread of its own, at normal priority: tasks would wait for the very threads that the ticks free.
    fn start(engine: Engine) -> Result<Arc<Ticker>, String> {
        let ticker = Arc::new(Ticker { state: Mutex::default(), changed: Condvar::new() });
        let running = Arc::clone(&ticker);
        std::thread::Builder::new()
            .name("plugin-ticks".to_owned())
            .spawn(move || running.run(&engine))
            .map_err(|error| format!("the thread that interrupts plugins: {error}"))?;
        Ok(ticker)
    }

    fn run(&self, engine: &Engine) {
        let mut state = self.lock();
        while !state.ended {
            state = if state.calls == 0 {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner);
                engine.increment_epoch();
                waited.0
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ticks> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Machine::ticking`].
pub(super) struct Ticking(Arc<Ticker>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.lock().calls -= 1;
    }
}

#[cfg(target_os = "linux")]
fn lower_priority() {
    // On Linux the nice value belongs to the thread that sets it.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "the threads that run plugins run at normal priority");
    }
}

/// Elsewhere the nice value is the whole process's: better left alone.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

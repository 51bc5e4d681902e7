//! One call of a component: a fresh instance, a deadline around everything, and words for what ended it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use super::bindings::exports::palisade::provider::plugin::Guest;
use super::bindings::palisade::provider::types::{Failure, Transient};
use super::convert;
use super::engine::Machine;
use super::host::{State, Surroundings};
use super::limits::TABLE_ELEMENTS;
use super::load::Code;
use super::secrets::Secrets;
use palisade_core::ports::{Meter, ProviderFault};

/// The most bytes that a component may hand over in one call of the host or in one result. Lists of empty texts and
/// texts that are repeated a thousand times cost the host more than the component.
const HANDED_OVER: usize = 4 << 20;

/// Handles of resources, its own among them, that a component may hold at once.
const HANDLES: usize = 4096;

/// How long after its deadline a call ends when its threads were starved: they run at the lowest priority, so they
/// may get no time to end it themselves.
const STARVED: Duration = Duration::from_secs(5);

/// The one call that belongs to no connection, and the longest time that it may take.
pub(super) const DESCRIBE: &str = "describe";
const DESCRIPTION: Duration = Duration::from_secs(5);

/// The future of a component's answer.
pub(super) type Answer<'a, R> =
    Pin<Box<dyn Future<Output = wasmtime::Result<Result<R, Failure>>> + Send + 'a>>;

/// Where and on whose behalf a component is called.
pub(super) struct Callee<'a> {
    pub(super) machine: &'a Arc<Machine>,
    pub(super) code: &'a Arc<Code>,
    pub(super) around: &'a Arc<Surroundings>,
    /// One permit for each concurrent call of the provider.
    pub(super) slots: &'a Arc<Semaphore>,
    /// What no line of the log about the call may hold.
    pub(super) secrets: Arc<Secrets>,
}

/// Calls a component by `ask`, and reads its answer by `read`. Both run on the plugins' threads and never on a thread
/// that serves requests, since reading takes as long as the answer is large. Ends within the provider's deadline, or
/// seconds later on a machine that is too busy for plugins. When dropped, it ends at once.
///
/// # Errors
/// [`ProviderFault::Transient`] when there was no place or no time, or the provider kept silent,
/// [`ProviderFault::PluginFailed`] when the component broke off.
pub(super) async fn run<R, T, F>(
    callee: Callee<'_>,
    what: &'static str,
    ask: F,
    read: impl FnOnce(Result<R, Failure>) -> Result<T, ProviderFault> + Send + 'static,
) -> Result<T, ProviderFault>
where
    R: Send,
    T: Send + 'static,
    F: for<'a> FnOnce(&'a Guest, &'a mut Store<State>) -> Answer<'a, R> + Send + 'static,
{
    let limits = callee.around.limits;
    // A description makes no requests, and the load of the plugin waits for it.
    let (online, time) = match what {
        DESCRIBE => (false, limits.deadline.min(DESCRIPTION)),
        _ => (true, limits.deadline),
    };
    // A call that is started has the time for one request: cut off, it may have consumed the refresh token.
    let patience = time - limits.request_timeout.min(time / 2);
    let begun = Instant::now();
    let (deadline, patient_until) = (begun + time, begun + patience);
    let places = [Arc::clone(callee.slots), Arc::clone(&callee.machine.places)];
    let taken = take(places, patient_until).await.ok_or_else(|| ProviderFault::Transient {
        reason: format!(
            "{} calls were under way for the whole of {} (providers.limits.concurrency)",
            limits.concurrency,
            humantime::format_duration(patience)
        ),
        retry_after: None,
    })?;
    let (machine, code, around) =
        (Arc::clone(callee.machine), Arc::clone(callee.code), Arc::clone(callee.around));
    let work = async move {
        // Released when the instance is gone, and not when the caller drops the call.
        let _taken = taken;
        let state = State::new(around, callee.secrets, machine.pace(), deadline, online);
        enter(&machine, &code, state, what, ask).await.and_then(read)
    };
    let work = AbortOnDropHandle::new(callee.machine.threads().spawn(work));
    in_time(deadline, work).await?.unwrap_or_else(|error| {
        Err(ProviderFault::PluginFailed(format!("{what}: the host broke off: {error}")))
    })
}

/// The result of `work`, which ends itself by the deadline unless its thread is starved.
async fn in_time<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, ProviderFault> {
    timeout_at((deadline + STARVED).into(), work).await.map_err(|_| ProviderFault::Transient {
        reason: "this machine is too busy: it had no time for the plugin".to_owned(),
        retry_after: None,
    })
}

async fn take(places: [Arc<Semaphore>; 2], until: Instant) -> Option<Vec<OwnedSemaphorePermit>> {
    let mut taken = Vec::with_capacity(places.len());
    for place in places {
        // Never closed.
        taken.push(timeout_at(until.into(), place.acquire_owned()).await.ok()?.ok()?);
    }
    Some(taken)
}

async fn enter<R, F>(
    machine: &Machine,
    code: &Code,
    state: State,
    what: &'static str,
    ask: F,
) -> Result<Result<R, Failure>, ProviderFault>
where
    F: for<'a> FnOnce(&'a Guest, &'a mut Store<State>) -> Answer<'a, R>,
{
    let deadline = state.deadline;
    let mut store = Store::new(&machine.engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HANDED_OVER);
    store.set_max_component_handles(HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store| {
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(store.data_mut().pace.next_turn())))
    });
    store.data_mut().pace.start();
    let ended = timeout_at(deadline.into(), async {
        let instance = code.pre.instantiate_async(&mut store).await?;
        ask(instance.palisade_provider_plugin(), &mut store).await
    })
    .await;
    let state = store.data();
    if let Some(witness) = state.witness() {
        witness.used(state.limiter.memory());
    }
    match ended {
        Ok(Ok(answer)) => Ok(answer.map_err(|failure| waiting(failure, state.asked_to_wait))),
        Ok(Err(error)) => Err(broke_off(what, &error, state)),
        Err(_) if state.pace.paused() => Err(ProviderFault::Transient {
            reason: "the provider did not answer in time".to_owned(),
            retry_after: None,
        }),
        Err(_) => Err(ProviderFault::PluginFailed(format!(
            "{what} took longer than allowed: {} (providers.limits.deadline{})",
            humantime::format_duration(state.limits().deadline),
            if what == DESCRIBE { ", and never more than 5s for this" } else { "" }
        ))),
    }
}

/// A failure with the time that the provider asked to be left alone, whatever status it answered with. A plugin that knows
/// nothing of the answer says no more than that it is none; with such a time it is one that passes.
fn waiting(failure: Failure, asked: Option<Duration>) -> Failure {
    let Some(asked) = asked else { return failure };
    match failure {
        Failure::Transient(Transient { message, retry_after }) => {
            Failure::Transient(Transient { message, retry_after: retry_after.or(Some(asked.as_secs())) })
        }
        Failure::ProviderError(message) => {
            Failure::Transient(Transient { message, retry_after: Some(asked.as_secs()) })
        }
        other => other,
    }
}

/// What `error` means to the operator.
fn broke_off(what: &str, error: &wasmtime::Error, state: &State) -> ProviderFault {
    if error.is::<PoolConcurrencyLimitError>() {
        return ProviderFault::Transient {
            reason: "every place for plugins is taken".to_owned(),
            retry_after: None,
        };
    }
    let why = if state.limiter.memory_refused {
        let memory = state.limits().memory;
        format!("it wanted more memory than {memory} bytes (providers.limits.memory)")
    } else if state.limiter.tables_refused {
        format!("it wanted tables of more than {TABLE_ELEMENTS} elements")
    } else if let Some(exit) = error.downcast_ref::<I32Exit>() {
        format!("it ended itself with exit code {}", exit.0)
    } else {
        match error.downcast_ref::<Trap>() {
            Some(Trap::StackOverflow) => "its calls went too deep: the stack is full".to_owned(),
            Some(trap) => trap.to_string(),
            None => reason(error),
        }
    };
    ProviderFault::PluginFailed(format!("{what}: {why}"))
}

fn reason(error: &wasmtime::Error) -> String {
    let root = error.root_cause().to_string();
    if error.is::<ResourceTableError>() || root.contains("handle limit") {
        return "it held more handles than allowed at once".to_owned();
    }
    if root.contains("fuel") {
        return format!("it handed over more than {HANDED_OVER} bytes at once");
    }
    convert::summary(&root)
}

/// Counts a call, also one that is dropped.
pub(super) struct Counted<'a> {
    meter: &'a dyn Meter,
    provider: &'a str,
    call: &'static str,
    started: Instant,
    outcome: &'static str,
}

impl<'a> Counted<'a> {
    pub(super) fn begin(meter: &'a dyn Meter, provider: &'a str, call: &'static str) -> Counted<'a> {
        Counted { meter, provider, call, started: Instant::now(), outcome: "dropped" }
    }

    /// The call came to its end.
    pub(super) fn end<T>(mut self, result: &Result<T, ProviderFault>) {
        self.outcome = match result {
            Ok(_) => "ok",
            Err(ProviderFault::NotInService(_)) => "not_in_service",
            Err(ProviderFault::InvalidGrant(_)) => "invalid_grant",
            Err(ProviderFault::NotRefreshable(_)) => "not_refreshable",
            Err(ProviderFault::Transient { .. }) => "transient",
            Err(ProviderFault::Misconfigured(_)) => "misconfigured",
            Err(ProviderFault::ProviderError(_)) => "provider_error",
            Err(ProviderFault::PluginFailed(_)) => "plugin_failed",
            Err(ProviderFault::InvalidParameter { .. }) => "invalid_parameter",
        };
        let took = self.started.elapsed();
        match result {
            Err(fault @ ProviderFault::PluginFailed(_)) => {
                tracing::error!(provider = self.provider, call = self.call, "{fault}");
            }
            Err(fault) => tracing::debug!(provider = self.provider, call = self.call, "{fault}"),
            Ok(_) => {
                tracing::debug!(
                    provider = self.provider,
                    call = self.call,
                    ms = millis(took),
                    "a plugin call ended"
                );
            }
        }
    }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.meter.provider_call(self.provider, self.call, self.outcome, self.started.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_machine_without_time_for_plugins_keeps_nobody_waiting_for_ever() {
        let deadline = tokio::time::Instant::now().into_std() + Duration::from_secs(10);
        assert_eq!(in_time(deadline, async { 7 }).await, Ok(7));
        let fault = in_time(deadline, std::future::pending::<()>()).await.unwrap_err();
        assert!(
            matches!(&fault, ProviderFault::Transient { reason, .. } if reason.contains("busy")),
            "{fault}"
        );
    }
}

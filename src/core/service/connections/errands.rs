//! Errands: calls to providers and apps that are enqueued. They revoke grants that no connection holds any more, and
//! end connections. A notice to the app is an errand too, with an order of its own ([`super::notices`]).
//!
//! An errand is done at least once. It is enqueued by the commit of what it is about, retried with backoff, and
//! dropped with a warning in the log when its time is over.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::future::FutureExt;
use futures::stream::{self, StreamExt};

use super::seal::call;
use super::{Connections, Failure};
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{Connection, FaultKind};
use crate::domain::lease::LeaseSubject;
use crate::domain::task::{Errand, Task, TaskKind, Work};
use crate::domain::time::UnixTime;
use crate::ports::{Change, ProviderFault, StoreError};
use crate::service::caller::OwnedSource;
use crate::service::leases::HeldLease;
use crate::service::noted::About;

/// How many errands one look takes, and how many of them are under way at once.
const BATCH: usize = 64;
pub(super) const AT_ONCE: usize = 8;
/// Waits between tries, in seconds.
const WAITS: [u64; 6] = [5, 60, 300, 1800, 7200, 14_400];
const LONGEST_WAIT: Duration = Duration::from_secs(14_400);
/// How long a grant is tried to be ended: its sealed tokens are not kept for longer.
const GRANT_LIFE: Duration = Duration::from_secs(3600);
/// How long connections are tried to be ended: only the store can be in the way.
const CONNECTIONS_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// No try takes longer.
const TRY_TIME: Duration = Duration::from_secs(60);
/// For so long the worker leaves an errand to the task that enqueued it, which does it at once.
pub(super) const GRACE: Duration = Duration::from_secs(2 * 60);

/// Why an errand was not done.
pub(super) struct ErrandFailure {
    pub(super) why: String,
    /// Whether it may be done later.
    pub(super) again: bool,
}

impl ErrandFailure {
    /// For the audit log.
    pub(super) fn reason(&self) -> String {
        let then = if self.again { "is told later" } else { "was not told" };
        format!("the provider {then}: {}", self.why)
    }
}

impl Connections {
    /// The errands of this kind that are due, or the first of them when there are many.
    pub(super) async fn due_errands(&self, kind: TaskKind) -> Result<Vec<Task>, StoreError> {
        let (now, horizon) = (self.now(), self.clock.reading().horizon);
        let mut tasks = self.store.due_tasks_of(kind, now, BATCH).await?;
        if tasks.is_empty() && now.plus(LONGEST_WAIT) < horizon {
            // Put off while the clock was ahead: no wait is so long.
            tasks = self.store.due_tasks_of(kind, horizon.plus(LONGEST_WAIT), BATCH).await?;
            tasks.retain(|task| now.plus(LONGEST_WAIT) < task.due_at);
        }
        Ok(tasks)
    }

    /// When an errand is tried again that was tried `tries` times before this one, and when it counts as made from then
    /// on; `None`: it is given up.
    pub(super) fn next_try(
        &self,
        made_at: UnixTime,
        tries: u32,
        life: Duration,
    ) -> Option<(UnixTime, UnixTime)> {
        let wait = Duration::from_secs(WAITS[(tries as usize).min(WAITS.len() - 1)]);
        let reading = self.clock.reading();
        // Made by a clock that was ahead, it would be tried for too long.
        let made_at = made_at.min(reading.latest);
        // It is given up once, so by the earliest that it can be.
        (reading.earliest.plus(wait) < made_at.plus(life)).then(|| (reading.wall.plus(wait), made_at))
    }

    /// Ends grants that no connection holds any more, and connections that shall not be. Returns whether there was any.
    ///
    /// # Errors
    /// [`StoreError`]; then the rest is still to do.
    pub async fn end_due_grants(&self) -> Result<bool, StoreError> {
        let tasks = self.due_errands(TaskKind::EndGrant).await?;
        let mut tries = stream::iter(tasks).map(|task| self.run_errand(task)).buffer_unordered(AT_ONCE);
        let (mut any, mut failed) = (false, None);
        while let Some(outcome) = tries.next().await {
            match outcome {
                Ok(is_ours) => any |= is_ours,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(any), Err)
    }

    /// Tries an errand under its lease. False: another gateway has it, or has had it.
    async fn run_errand(&self, task: Task) -> Result<bool, StoreError> {
        let Some(mut held) = self.leases.claim(LeaseSubject::Task(task.id)).await? else { return Ok(false) };
        let outcome = match self.store.task(task.id).await {
            Ok(Some(same)) if same == task => self.run_leased_errand(task, &mut held).await.map(|()| true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        self.leases.release(&held).await;
        outcome
    }

    async fn run_leased_errand(&self, task: Task, held: &mut HeldLease) -> Result<(), StoreError> {
        let Work::Errand { made_at, tries, errand } = &task.work else { return Ok(()) };
        let (trying, life) = match errand {
            Errand::EndGrant(connection) => (self.end_grant(connection).boxed(), GRANT_LIFE),
            Errand::EndConnections { user, since } => {
                (self.disconnect_since(*user, *since).boxed(), CONNECTIONS_LIFE)
            }
            // Notices have an order of their own.
            Errand::Notify(_) | Errand::NotifyOfAccount(_) => return Ok(()),
        };
        let Some(outcome) = self.leases.run(held, self.in_time(trying)).await? else {
            tracing::warn!(task = %task.id, "an errand was broken off: its lease was lost");
            return Ok(());
        };
        let mut changes = vec![held.require(), Change::FinishTask(task.id)];
        match &outcome {
            Ok(()) => {}
            Err(left) => {
                let next = self.next_try(*made_at, *tries, life).filter(|_| left.again);
                if let Some((due_at, made_at)) = next {
                    tracing::warn!(task = %task.id, why = left.why, "an errand was not done; it is tried again");
                    let (tries, errand) = (tries.saturating_add(1), errand.clone());
                    let work = Work::Errand { made_at, tries, errand };
                    changes.push(Change::CreateTask(Task { id: task.id, due_at, work }));
                } else {
                    tracing::error!(task = %task.id, why = left.why, "an errand was given up");
                }
            }
        }
        let given_up = outcome.is_err() && changes.len() == 2;
        match self.store.commit(changes).await {
            Ok(_) => {}
            // When it is gone, it is done; when it was taken over, it is another gateway's.
            Err(error) => return error.unless_overtaken(),
        }
        // Each connection that ends is noted as it does.
        let Errand::EndGrant(connection) = errand else { return Ok(()) };
        let about = About::connection(connection.user, connection.id);
        match outcome {
            Ok(()) => {
                self.note(
                    &OwnedSource::System,
                    Action::Disconnect,
                    Outcome::Success,
                    about.because("provider_told"),
                );
            }
            Err(left) if given_up => {
                let about = about.because(ErrandFailure { again: false, ..left }.reason());
                self.note(&OwnedSource::System, Action::Disconnect, Outcome::Failed, about);
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// One try, which ends whatever comes of it.
    pub(super) async fn in_time(
        &self,
        work: impl Future<Output = Result<(), ErrandFailure>>,
    ) -> Result<(), ErrandFailure> {
        match tokio::time::timeout(TRY_TIME, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ErrandFailure { why: "it panicked".to_owned(), again: true }),
            Err(_) => Err(ErrandFailure { why: "it took too long".to_owned(), again: true }),
        }
    }

    /// Takes an errand off the list that was done at once. If that fails, it is done once more.
    pub(super) async fn finish(&self, errand: &Task) {
        if let Err(error) = self.store.commit(vec![Change::FinishTask(errand.id)]).await {
            tracing::warn!(task = %errand.id, %error, "an errand that was done is still on the list");
        }
    }

    /// Tells the provider that the grant of these tokens is over.
    pub(super) async fn end_grant(&self, connection: &Connection) -> Result<(), ErrandFailure> {
        let Some(info) = self.providers.get(&connection.provider) else {
            let why = ProviderFault::NotInService(connection.provider.clone()).to_string();
            return Err(ErrandFailure { why, again: true });
        };
        if !info.can_revoke {
            return Ok(());
        }
        let opened = match self.open(connection) {
            Ok(opened) => opened,
            Err(error) => return Err(ErrandFailure { why: error.to_string(), again: false }),
        };
        let call = call(connection, opened.kept, opened.parameters);
        match self.providers.revoke(call, opened.current).await {
            // It is over already.
            Ok(()) | Err(ProviderFault::InvalidGrant(_)) => Ok(()),
            Err(fault) => {
                let failure = Failure::from(fault);
                Err(ErrandFailure { why: failure.reason, again: failure.kind == FaultKind::Transient })
            }
        }
    }
}

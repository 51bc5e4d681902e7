//! Webhooks: notices that tell the app what has become of connections, and of accounts
//! ([`crate::service::account_notices`]), at least once and in order for each connection and each account.
//!
//! A notice is a task ([`Errand::Notify`], [`Errand::NotifyOfAccount`]) with a sequence number of its connection or account
//! in it. While one waits for its next try, those of the same one behind it wait as well: they are filed again under a moment right after it, so
//! that they neither overtake it nor fill each look. What waits is known from memory and read from the store at the
//! first look under a lease: one gateway at a time tells the app, because the order counts.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use serde_json::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::Connections;
use super::errands::{AT_ONCE, ErrandFailure};
use crate::domain::lease::{Lease, LeaseSubject};
use crate::domain::task::{Errand, Task, TaskKind, Work};
use crate::domain::time::UnixTime;
use crate::ports::{Change, Notice, NoticeAbout, StoreError};
use crate::service::leases::require;

/// How long the app is tried to be told.
const NOTICE_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How many notices of one connection or account wait when the first of them is not taken. With more, the second is given up:
/// each says how the connection stood by then, so a later one says more; how an account stands the app asks for.
const MOST_WAITING: usize = 32;
/// How much later than the one in front those behind it are due.
const BEHIND: Duration = Duration::from_secs(1);

/// What is known of the notices that wait, as long as no other gateway tells the app.
pub(super) struct Known {
    /// Kept between two looks, so that gateways do not take turns and read everything anew each time.
    lease: Lease,
    waiting: Waiting,
}

/// The notices of each connection or account, by its id, that wait for their next try, or for another's.
pub(super) type Waiting = HashMap<Uuid, Queue>;

/// What waits of one connection or account, in the order of what happened, and when each is due. The first is tried again then;
/// the others wait for it.
pub(super) type Queue = BTreeMap<Key, UnixTime>;

/// The place of a notice among those of its connection or account: its sequence number, then its id.
pub(super) type Key = (u64, Uuid);

/// A notice that waits in the queue of its connection or account.
#[derive(Debug, Clone)]
struct QueuedNotice {
    sequence: u64,
    task: Task,
    made_at: UnixTime,
    tries: u32,
    errand: Errand,
}

impl QueuedNotice {
    /// Which connection or account it is of, and the notice. One that names none has a queue to itself, and one of an
    /// earlier program, without a sequence number, comes first.
    fn read(task: Task) -> Option<(Uuid, QueuedNotice)> {
        let Work::Errand { made_at, tries, errand } = &task.work else { return None };
        let (body, about) = body(errand)?;
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        let named = match about {
            NoticeAbout::Connection => &value["data"]["connection"],
            NoticeAbout::Account => &value["data"]["account"],
        };
        let named = named.as_str().and_then(|id| id.parse().ok());
        let sequence = value["data"]["sequence"].as_u64().unwrap_or(0);
        let (made_at, tries, errand) = (*made_at, *tries, errand.clone());
        let queue = named.unwrap_or(task.id);
        Some((queue, QueuedNotice { sequence, task, made_at, tries, errand }))
    }

    fn key(&self) -> Key {
        (self.sequence, self.task.id)
    }

    /// The same, due at another moment.
    fn moved(&self, due_at: UnixTime, made_at: UnixTime, tries: u32) -> [Change; 2] {
        let work = Work::Errand { made_at, tries, errand: self.errand.clone() };
        let later = Task { id: self.task.id, due_at, work };
        [Change::FinishTask(self.task.id), Change::CreateTask(later)]
    }
}

/// What the app is told, and what of; `None`: the errand is no notice.
fn body(errand: &Errand) -> Option<(&str, NoticeAbout)> {
    match errand {
        Errand::Notify(body) => Some((body, NoticeAbout::Connection)),
        Errand::NotifyOfAccount(body) => Some((body, NoticeAbout::Account)),
        Errand::EndGrant(_) | Errand::EndConnections { .. } => None,
    }
}

/// By connection or account, each in the order of what happened.
fn by_queue(tasks: Vec<Task>) -> BTreeMap<Uuid, Vec<QueuedNotice>> {
    let mut all: BTreeMap<Uuid, Vec<QueuedNotice>> = BTreeMap::new();
    for (queue, told) in tasks.into_iter().filter_map(QueuedNotice::read) {
        all.entry(queue).or_default().push(told);
    }
    for told in all.values_mut() {
        told.sort_by_key(QueuedNotice::key);
    }
    all
}

impl Connections {
    /// Tells the app what it is due to be told of connections. Returns whether there was anything.
    ///
    /// # Errors
    /// [`StoreError`]; then the rest is still to do.
    pub async fn do_due_notices(&self) -> Result<bool, StoreError> {
        self.tell_due_of(&self.state.notices, TaskKind::Notice, LeaseSubject::Notices).await
    }

    /// [`Connections::do_due_notices`] of accounts.
    ///
    /// # Errors
    /// As there.
    pub async fn do_due_account_notices(&self) -> Result<bool, StoreError> {
        let subject = LeaseSubject::AccountNotices;
        self.tell_due_of(&self.state.account_notices, TaskKind::AccountNotice, subject).await
    }

    async fn tell_due_of(
        &self,
        known: &Mutex<Option<Known>>,
        kind: TaskKind,
        subject: LeaseSubject,
    ) -> Result<bool, StoreError> {
        // One look at a time: two would deliver out of order.
        let mut known = known.lock().await;
        let mut tasks = self.due_errands(kind).await?;
        if tasks.is_empty() {
            return Ok(false);
        }
        let Some(mut held) = self.leases.claim(subject).await? else { return Ok(false) };
        let lease = held.lease();
        let mut waiting = match known.take().filter(|known| known.lease == lease) {
            Some(known) => known.waiting,
            // Another gateway may have told the app before this one had the lease.
            None => {
                let waiting = self.waiting_notices(kind).await?;
                tasks = self.due_errands(kind).await?;
                waiting
            }
        };
        let telling = self.leases.run(&mut held, self.tell_due(tasks, &mut waiting, lease)).await;
        let Some(outcome) = telling? else {
            tracing::warn!("telling the app was broken off: its lease was lost");
            return Ok(false);
        };
        *known = Some(Known { lease, waiting });
        outcome.map(|()| true)
    }

    /// Leaves telling the app to other gateways.
    pub(super) async fn stop_telling(&self) {
        for known in [&self.state.notices, &self.state.account_notices] {
            if let Some(known) = known.lock().await.take() {
                self.leases.release_lease(known.lease).await;
            }
        }
    }

    async fn tell_due(
        &self,
        tasks: Vec<Task>,
        waiting: &mut Waiting,
        lease: Lease,
    ) -> Result<(), StoreError> {
        let queues: Vec<_> = by_queue(tasks)
            .into_iter()
            .map(|(connection, told)| (connection, told, waiting.remove(&connection).unwrap_or_default()))
            .collect();
        let mut looks = stream::iter(queues)
            .map(|(connection, told, queue)| async move {
                let mut queue = queue;
                let outcome = self.tell_in_order(told, &mut queue, lease).await;
                (connection, queue, outcome)
            })
            .buffer_unordered(AT_ONCE);
        let mut failed = None;
        while let Some((connection, queue, outcome)) = looks.next().await {
            if !queue.is_empty() {
                waiting.insert(connection, queue);
            }
            failed = outcome.err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }

    /// What was tried before this gateway had the lease, and what had to wait for it.
    async fn waiting_notices(&self, kind: TaskKind) -> Result<Waiting, StoreError> {
        let all = self.store.due_tasks_of(kind, UnixTime::NEVER, usize::MAX).await?;
        let queues = by_queue(all).into_iter().map(|(connection, told)| {
            // What was never tried is due from the beginning.
            let tried = told.iter().filter(|told| told.task.due_at > UnixTime(0));
            (connection, tried.map(|told| (told.key(), told.task.due_at)).collect::<Queue>())
        });
        Ok(queues.filter(|(_, queue)| !queue.is_empty()).collect())
    }

    /// Tells what is due of one connection, up to the first notice that is not taken.
    async fn tell_in_order(
        &self,
        told: Vec<QueuedNotice>,
        queue: &mut Queue,
        lease: Lease,
    ) -> Result<(), StoreError> {
        let Some(first) = told.first().map(QueuedNotice::key) else { return Ok(()) };
        while let Some((head, due_at)) = queue.first_key_value().map(|(key, due_at)| (*key, *due_at)) {
            if first <= head {
                break;
            }
            // Tasks come in the order of their moments: one that is due ahead of these and is not among them has gone.
            if !told.iter().any(|told| told.task.due_at > due_at) {
                return self.put_behind(&told, due_at, queue, lease).await;
            }
            queue.remove(&head);
        }
        for (place, one) in told.iter().enumerate() {
            let outcome = self.deliver(one).await;
            let next = self.next_try(one.made_at, one.tries, NOTICE_LIFE);
            match (outcome, next) {
                (Err(left), Some((due_at, made_at))) => {
                    tracing::warn!(task = %one.task.id, why = left.why, "the app was not told; it is tried again");
                    let moved = one.moved(due_at, made_at, one.tries.saturating_add(1));
                    if !self.settle(&moved, lease).await? {
                        return Ok(());
                    }
                    queue.insert(one.key(), due_at);
                    return self.put_behind(&told[place + 1..], due_at, queue, lease).await;
                }
                (Err(left), None) => {
                    tracing::error!(task = %one.task.id, why = left.why, "a notice was given up");
                }
                (Ok(()), _) => {}
            }
            if !self.settle(&[Change::FinishTask(one.task.id)], lease).await? {
                return Ok(());
            }
            queue.remove(&one.key());
        }
        Ok(())
    }

    /// Files notices again behind the one that they have to wait for.
    async fn put_behind(
        &self,
        told: &[QueuedNotice],
        head_due_at: UnixTime,
        queue: &mut Queue,
        lease: Lease,
    ) -> Result<(), StoreError> {
        let due_at = head_due_at.plus(BEHIND);
        for one in told {
            if !self.settle(&one.moved(due_at, one.made_at, one.tries), lease).await? {
                return Ok(());
            }
            queue.insert(one.key(), due_at);
        }
        while queue.len() > MOST_WAITING {
            let Some(key) = queue.keys().nth(1).copied() else { break };
            tracing::error!(task = %key.1, "a notice was given up: too many of its connection or account wait");
            if !self.settle(&[Change::FinishTask(key.1)], lease).await? {
                return Ok(());
            }
            queue.remove(&key);
        }
        Ok(())
    }

    async fn deliver(&self, told: &QueuedNotice) -> Result<(), ErrandFailure> {
        let Some((body, about)) = body(&told.errand) else { return Ok(()) };
        let notice = Notice { id: told.task.id, at: told.made_at, body: body.to_owned(), about };
        let delivering =
            async { self.webhook.deliver(&notice).await.map_err(|why| ErrandFailure { why, again: true }) };
        self.in_time(delivering).await
    }

    /// Commits what became of a notice. False: another gateway has taken over telling the app.
    async fn settle(&self, changes: &[Change], lease: Lease) -> Result<bool, StoreError> {
        // The second time without the changes: when the notice is gone, it is done.
        for changes in [changes, &[]] {
            let changes = std::iter::once(require(lease)).chain(changes.iter().cloned()).collect();
            match self.store.commit(changes).await {
                Ok(_) => return Ok(true),
                Err(error) => error.unless_overtaken()?,
            }
        }
        Ok(false)
    }
}

//! The store on a local disk, kept by sled.
//!
//! Reads go to sled from the blocking pool; every change goes through the writer thread
//! (`writer.rs`), which alone may mutate and which syncs before it answers. Nothing here may wait on
//! the disk in a task.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot, watch};
use uuid::Uuid;

use super::files::{self, OpenError};
use super::keeper::{self, Asked};
use super::keys;
use super::opening::{self, Admit, Doubts};
use super::read;
use super::shared::StoreState;
use super::trees::Trees;
use super::verify;
use super::writer::{self, Command, Queued, Reply};
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::{Connection, ConnectionId};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::link::Link;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::{Mailbox, MailboxId};
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::revocation::{Begun, Revocation, Target, Versions};
use palisade_core::domain::session::{Session, SessionId};
use palisade_core::domain::task::{Task, TaskKind};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::domain::username::Username;
use palisade_core::ports::{
    Acknowledgement, Change, CommitError, Committed, Compacted, CompactionCounts, ConfirmedBy, Position,
    Store, StoreError, StoreStatus, Subscription, SubscriptionError, Swept, Upgrade,
};

/// How many commands may wait; further callers wait for a place.
const QUEUE: usize = 1024;

/// Durable state in a directory of this machine.
pub struct SledStore {
    pub(super) shared: Arc<StoreState>,
    /// `None` once it is closed.
    queue: RwLock<Option<SyncSender<Queued>>>,
    places: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// `None` once it is closed.
    asks: Mutex<Option<Sender<Asked>>>,
    keeper: Mutex<Option<keeper::KeeperThread>>,
    lock: Mutex<Option<File>>,
}

impl SledStore {
    /// Opens the store in `dir`, making it when there is none. Blocks; and starts a thread, so it
    /// belongs after any fork.
    ///
    /// # Errors
    /// [`OpenError`]; then nothing in the directory was changed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Arc<SledStore>, OpenError> {
        SledStore::open_with(dir, Doubts::Refuse)
    }

    /// Like [`SledStore::open`]; and opens one that is not known to be whole where the operator says so.
    ///
    /// # Errors
    /// As [`SledStore::open`].
    pub fn open_with(dir: impl AsRef<Path>, doubts: Doubts) -> Result<Arc<SledStore>, OpenError> {
        SledStore::open_admitted(dir, doubts, &mut |_| Ok(()))
    }

    /// Like [`SledStore::open_with`], once `admit` has seen what is in it. Nothing was changed before.
    ///
    /// # Errors
    /// As [`SledStore::open`]; and [`OpenError::NotAdmitted`].
    pub fn open_admitted(
        dir: impl AsRef<Path>,
        doubts: Doubts,
        admit: Admit<'_>,
    ) -> Result<Arc<SledStore>, OpenError> {
        let dir = dir.as_ref();
        let lock = files::lock(dir)?;
        let (trees, in_memory) = match opening::open_admitted(dir, doubts, admit) {
            Ok(trees) => (trees, None),
            // What can be served is served: reads, from a copy in memory, until the disk has room.
            Err(full @ OpenError::NoRoom { .. }) => match opening::open_in_memory(dir, doubts, admit) {
                Ok((trees, copy)) => {
                    tracing::error!(
                        "{full}; until then nothing can be changed, and what is read comes from memory"
                    );
                    (trees, Some(copy))
                }
                // Memory has no room either.
                Err(OpenError::Io { .. }) => return Err(full),
                Err(other) => return Err(other),
            },
            Err(error) => return Err(error),
        };
        let erased =
            trees.get(&keys::erased()).map_err(|e| OpenError::corrupt(dir, e.to_string()))?.is_some();
        // Now that the present generation is known to be whole. A copy in memory is none of the folder's.
        if in_memory.is_none()
            && let Err(error) = trees.generation().remove_others(dir)
        {
            tracing::warn!(%error, "files from before a compaction, or of one that was given up, are left");
        }
        let shared = Arc::new(StoreState::new(dir, trees, in_memory, erased));
        // One more than there are places: for the keeper, which has none.
        let (queue, commands) = sync_channel(QUEUE + 1);
        let for_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer::run(&for_writer, &commands))
            .map_err(OpenError::io(dir))?;
        let (asks, asked) = channel();
        let keeper = keeper::start(Arc::clone(&shared), asked, queue.clone()).map_err(OpenError::io(dir))?;
        Ok(Arc::new(SledStore {
            shared,
            queue: RwLock::new(Some(queue)),
            places: Arc::new(Semaphore::new(QUEUE)),
            writer: Mutex::new(Some(writer)),
            asks: Mutex::new(Some(asks)),
            keeper: Mutex::new(Some(keeper)),
            lock: Mutex::new(Some(lock)),
        }))
    }

    /// Finishes what is queued, closes the files and lets their lock go. Later calls return errors. Blocks. Dropping the store does the same.
    pub fn close(&self) {
        // First, because it waits for the writer, and holds its queue open.
        *self.asks.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.end();
        }
        // The writer ends once its queue is closed and empty.
        *self.queue.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It catches panics of its own, and closing reports nothing.
            let _ = writer.join();
        }
        self.shared.writable.store(false, Ordering::Relaxed);
        self.shared.feed.close();
        let trees = self.shared.trees.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = trees.as_ref().map(Trees::sync_witness) {
            tracing::warn!(%error, "the last note of what was acknowledged may be lost in a power loss");
        }
        if catch_unwind(AssertUnwindSafe(|| drop(trees))).is_err() {
            tracing::warn!("the storage engine did not close cleanly");
        }
        *self.shared.in_memory.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // The last to go: the process that gets it finds the files at rest.
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Bytes of the database file after the last change.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// The compactions since the start, by how they ended: to be told of the next one. For tests and tools.
    #[must_use]
    pub fn compactions(&self) -> watch::Receiver<CompactionCounts> {
        self.shared.compactions.subscribe()
    }

    /// How many revocations are kept, expired ones included until they are swept. Reads them all: for
    /// tests and tools.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn len(&self) -> Result<usize, StoreError> {
        self.read(read::revocations).await
    }

    /// Whether no revocation is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len().await? == 0)
    }

    /// Reads everything, and holds every index against its records. For tests and tools, while nothing is
    /// being written.
    ///
    /// # Errors
    /// [`StoreError`]: the first thing that cannot be read, or does not fit.
    pub async fn verify(&self) -> Result<(), StoreError> {
        self.read(verify::verify).await
    }

    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command + Send,
    ) -> Result<T, CommitError> {
        let closed = || StoreError::Unavailable("the store is closed".into());
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let queued = Queued { command: command(reply), _place: Some(place) };
        {
            // There are as many places as the queue is long, so this never waits.
            let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
            queue.as_ref().ok_or_else(closed)?.send(queued).map_err(|_| closed())?;
        }
        answer.await.map_err(|_| StoreError::Unavailable("the change was given up half-way".into()))?
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Trees) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.shared.importing.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable(writer::IMPORTING.to_owned()));
        }
        self.read_anyway(read).await
    }

    /// Reads also what is partly imported.
    pub(super) async fn read_anyway<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Trees) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            let guard = shared.trees.read().unwrap_or_else(PoisonError::into_inner);
            read(guard.as_ref().ok_or_else(|| StoreError::Unavailable("the store is closed".into()))?)
        })
        .await
        // sled panics on some kinds of damage.
        .map_err(|e| StoreError::Unreadable(format!("{e}; restore the data directory from a backup")))?
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Store for SledStore {
    async fn commit(&self, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let begun = Instant::now();
        let (revocations, position) = self.ask(|reply| Command::Commit(changes, reply)).await?;
        // Answered once it is synced.
        let acknowledgement = Acknowledgement { by: ConfirmedBy::ThisProcess, took: begun.elapsed() };
        Ok(Committed { revocations, position, acknowledgement })
    }

    fn position(&self) -> Position {
        self.shared.feed.position()
    }

    async fn subscribe(&self, since: Position) -> Result<Box<dyn Subscription>, SubscriptionError> {
        Ok(Box::new(self.shared.feed.subscribe(since)?))
    }

    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError> {
        let (issuer, sub) = (issuer.to_owned(), sub.to_owned());
        self.read(move |trees| read::version(trees, &issuer, &sub)).await
    }

    async fn generation(&self, issuer: &str) -> Result<u64, StoreError> {
        let issuer = issuer.to_owned();
        self.read(move |trees| read::generation(trees, &issuer)).await
    }

    async fn versions(&self, issuer: &str, sub: &str) -> Result<Versions, StoreError> {
        let (issuer, sub) = (issuer.to_owned(), sub.to_owned());
        self.read(move |trees| {
            let generation = read::generation(trees, &issuer)?;
            Ok(Versions { subject: read::version(trees, &issuer, &sub)?, generation })
        })
        .await
    }

    async fn each_revocation(
        &self,
        now: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError> {
        // By pages, because `each` cannot leave this task and a million reads must not stay in it. An
        // entry never changes its key, so none that stood throughout is missed between two pages.
        let read = |after| self.read(move |trees| read::page(trees, after, now));
        let (mut page, mut last) = read(None).await?;
        while let Some(key) = last {
            // The next one is read while this one is taken in: a start waits for both.
            let next = read(Some(key));
            let took = async { page.into_iter().for_each(&mut *each) };
            let (next, ()) = tokio::join!(next, took);
            (page, last) = next?;
        }
        page.into_iter().for_each(each);
        Ok(())
    }

    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        self.read(move |trees| read::recent_revocations(trees, limit)).await
    }

    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError> {
        let target = target.clone();
        self.read(move |trees| read::revocation(trees, &target)).await
    }

    async fn is_cut(&self, begun: &Begun<'_>) -> Result<bool, StoreError> {
        let issuer = begun.issuer.to_owned();
        let (user, session, versions, at) = (begun.user, begun.session, begun.versions, begun.at);
        self.read(move |trees| {
            let begun = Begun { issuer: &issuer, user, session, versions, at };
            let targets: Vec<Target> = begun.targets().collect();
            read::any_revocation(trees, &targets, |target| begun.is_reached_by(target))
        })
        .await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.read(move |trees| read::at(trees, &keys::user(id))).await
    }

    async fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, StoreError> {
        let email = email.clone();
        self.read(move |trees| read::user_by_email(trees, &email)).await
    }

    async fn user_by_username(&self, name: &Username) -> Result<Option<User>, StoreError> {
        let name = name.clone();
        self.read(move |trees| read::user_by_username(trees, &name)).await
    }

    async fn user_by_identity(&self, identity: &ProviderIdentity) -> Result<Option<User>, StoreError> {
        let fingerprint = identity.fingerprint();
        self.read(move |trees| read::user_by_identity(trees, fingerprint)).await
    }

    async fn gone_users(&self, since: UnixTime) -> Result<Vec<(UserId, UnixTime)>, StoreError> {
        self.read(move |trees| read::gone_users(trees, since)).await
    }

    async fn username_owner(&self, name: &Username) -> Result<Option<UserId>, StoreError> {
        let name = name.clone();
        self.read(move |trees| read::username_owner(trees, &name)).await
    }

    async fn is_upgraded(&self, upgrade: Upgrade) -> Result<bool, StoreError> {
        self.read(move |trees| read::is_upgraded(trees, upgrade)).await
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError> {
        self.read(move |trees| read::users(trees, after, limit)).await
    }

    async fn session(&self, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.read(move |trees| read::session(trees, user, id)).await
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        self.read(move |trees| read::sessions(trees, user)).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.read(move |trees| read::find_session(trees, id)).await
    }

    async fn all_sessions(
        &self,
        after: Option<(UserId, SessionId)>,
        limit: usize,
    ) -> Result<Vec<Session>, StoreError> {
        self.read(move |trees| read::all_sessions(trees, after, limit)).await
    }

    async fn connection(&self, user: UserId, id: ConnectionId) -> Result<Option<Connection>, StoreError> {
        self.read(move |trees| read::at(trees, &keys::connection(user, id))).await
    }

    async fn connections(&self, user: UserId) -> Result<Vec<Connection>, StoreError> {
        self.read(move |trees| read::connections(trees, user)).await
    }

    async fn all_connections(
        &self,
        after: Option<(UserId, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Connection>, StoreError> {
        self.read(move |trees| read::all_connections(trees, after, limit)).await
    }

    async fn due_connections(&self, now: UnixTime, limit: usize) -> Result<Vec<Connection>, StoreError> {
        self.read(move |trees| read::due_connections(trees, now, limit)).await
    }

    async fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError> {
        let key = keys::link(hash);
        self.read(move |trees| read::at(trees, &key)).await
    }

    async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        self.read(move |trees| read::at(trees, &keys::task(id))).await
    }

    async fn due_tasks_of(
        &self,
        kind: TaskKind,
        now: UnixTime,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.read(move |trees| read::due_tasks(trees, kind, now, limit)).await
    }

    async fn due_mails(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError> {
        self.read(move |trees| read::due_mails(trees, now, limit)).await
    }

    async fn mail(&self, id: Uuid) -> Result<Option<Mail>, StoreError> {
        self.read(move |trees| read::at(trees, &keys::mail(id))).await
    }

    async fn mailbox(&self, id: MailboxId) -> Result<Option<Mailbox>, StoreError> {
        self.read(move |trees| read::at(trees, &keys::mailbox(id))).await
    }

    async fn mails(&self, limit: usize) -> Result<Vec<Mail>, StoreError> {
        self.read(move |trees| read::mails(trees, limit)).await
    }

    async fn events(&self, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.read(move |trees| super::events::events(trees, user, limit)).await
    }

    async fn clock_mark(&self) -> Result<Option<Mark>, StoreError> {
        self.read(|trees| read::at(trees, &keys::clock())).await
    }

    async fn latest_moment(&self) -> Result<Option<UnixTime>, StoreError> {
        self.read(read::latest_moment).await
    }

    /// In steps, each atomic, so that commits come through in between.
    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let mut after = None;
        loop {
            let step = self.ask(|reply| Command::Sweep(now, after, reply)).await;
            let step = step.map_err(CommitError::of_the_store)?;
            swept.revocations += step.swept.revocations;
            swept.sessions += step.swept.sessions;
            swept.links += step.swept.links;
            match step.next {
                Some(last) => after = Some(last),
                None => return Ok(swept),
            }
        }
    }

    async fn compact(&self) -> Result<Compacted, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".into());
        let (reply, answer) = oneshot::channel();
        {
            let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
            asks.as_ref().ok_or_else(closed)?.send(reply).map_err(|_| closed())?;
        }
        answer.await.map_err(|_| closed())?
    }

    fn status(&self) -> StoreStatus {
        let shared = &self.shared;
        StoreStatus {
            writable: shared.writable.load(Ordering::Relaxed) && !shared.closed.load(Ordering::Relaxed),
            bytes: self.disk_bytes(),
            live_bytes: shared.live_bytes.load(Ordering::Relaxed),
            compactions: *shared.compactions.borrow(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::task::{Errand, Work};
    use palisade_testing::conformance::{connection, mail, user};

    /// What makes a compaction due, one by one: each of them holds what a user has asked to be forgotten.
    #[tokio::test]
    async fn every_kind_of_erasure_calls_for_a_compaction() {
        let ann = || user(1, "ann@example.com");
        let granted = || connection(1, 1, Some(9));
        let emptied = || Connection { tokens: None, ..granted() };
        let errand = Errand::EndGrant(Box::new(granted()));
        let work = Work::Errand { made_at: UnixTime(1), tries: 0, errand };
        let ending = Task { id: uuid::Uuid::from_u128(1), due_at: UnixTime(1), work };
        let letter = |to: &str| mail(1, to, 1);
        let cases = [
            ("an account", vec![Change::CreateUser(ann())], Change::DeleteUser(ann().id), true),
            (
                "a connection",
                vec![Change::CreateConnection(granted())],
                Change::RemoveConnection(granted().user, granted().id),
                true,
            ),
            (
                "its tokens",
                vec![Change::CreateConnection(granted())],
                Change::UpdateConnection(emptied()),
                true,
            ),
            (
                "an errand with tokens",
                vec![Change::CreateTask(ending.clone())],
                Change::FinishTask(ending.id),
                true,
            ),
            (
                "a mail to nobody here",
                vec![Change::PutMail(letter("gone@example.com"))],
                Change::RemoveMail(letter("gone@example.com").id),
                true,
            ),
            (
                "a mail to an account",
                vec![Change::CreateUser(ann()), Change::PutMail(letter("ann@example.com"))],
                Change::RemoveMail(letter("ann@example.com").id),
                false,
            ),
        ];
        for (what, making, erasing, wanted) in cases {
            let dir = tempfile::tempdir().unwrap();
            let store = SledStore::open(dir.path()).unwrap();
            let due = || store.shared.erasure.lock().unwrap().is_some();
            store.commit(making).await.unwrap();
            assert!(!due(), "{what}");
            store.commit(vec![erasing]).await.unwrap();
            assert_eq!(due(), wanted, "{what}");
            // For the next start.
            let trees = store.shared.trees.read().unwrap();
            let mark = trees.as_ref().unwrap().get(&keys::erased()).unwrap();
            assert_eq!(mark.is_some(), wanted, "{what}");
        }
    }
}

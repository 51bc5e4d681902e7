//! The store on a local disk, kept by sled.
//!
//! Reads go to sled from the blocking pool; every change goes through the writer thread
//! (`writer.rs`), which alone may mutate and which syncs before it answers. Nothing here may wait on
//! the disk in a task.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use super::files::{self, OpenError};
use super::record::{decode, entry_key, untimed};
use super::trees::{SWEEP_STEP, Trees, unavailable};
use super::writer::{self, Change, Command, Reply};
use crate::domain::account::{User, UserId};
use crate::domain::audit::Event;
use crate::domain::email::EmailAddress;
use crate::domain::link::Link;
use crate::domain::mail::Mail;
use crate::domain::opaque::TokenHash;
use crate::domain::revocation::{Kind, Revocation, Target};
use crate::domain::session::{Session, SessionId};
use crate::domain::task::Task;
use crate::domain::time::UnixTime;
use crate::ports::{Change as PortChange, CommitError, Store, StoreError, StoreStatus, Swept};

/// How many changes may wait; further callers wait for a place.
const QUEUE: usize = 1024;
/// How many entries one visit of the blocking pool reads.
const PAGE: usize = 4096;

/// What the writer thread and the readers share. Field order matters: the lock goes last.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    /// `None` after a failed attempt to open the files again.
    pub(super) trees: RwLock<Option<Trees>>,
    pub(super) writable: AtomicBool,
    pub(super) bytes: AtomicU64,
    _lock: File,
}

/// Durable state in a directory of this machine.
pub struct SledStore {
    shared: Arc<Shared>,
    /// `None` only while it is being dropped.
    queue: Option<SyncSender<Command>>,
    places: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
}

impl SledStore {
    /// Opens the store in `dir`, making it when there is none. Blocks; and starts a thread, so it
    /// belongs after any fork.
    ///
    /// # Errors
    /// [`OpenError`]; then nothing in the directory was changed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Arc<SledStore>, OpenError> {
        let dir = dir.as_ref();
        let lock = files::lock(dir)?;
        files::rehearse(dir, |copy| Trees::rehearse(dir, copy))?;
        let trees = Trees::open(dir)?;
        files::sync_names(dir).map_err(OpenError::io(dir))?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            bytes: AtomicU64::new(trees.bytes()),
            trees: RwLock::new(Some(trees)),
            writable: AtomicBool::new(true),
            _lock: lock,
        });
        let (queue, commands) = sync_channel(QUEUE);
        let for_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer::run(&for_writer, &commands))
            .map_err(OpenError::io(dir))?;
        Ok(Arc::new(SledStore {
            shared,
            queue: Some(queue),
            places: Arc::new(Semaphore::new(QUEUE)),
            writer: Some(writer),
        }))
    }

    /// Bytes of the database file after the last change.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// How many revocations are kept, expired ones included until they are swept. Reads them all: for
    /// tests and tools.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn len(&self) -> Result<usize, StoreError> {
        self.read(|trees| Ok(trees.revocations.len())).await
    }

    /// Whether no revocation is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        self.read(|trees| Ok(trees.revocations.is_empty())).await
    }

    async fn change<T>(&self, change: impl FnOnce(Reply<T>) -> Change + Send) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the writer is gone".into());
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let command = Command { change: change(reply), _place: place };
        // There are as many places as the queue is long, so this never waits.
        self.queue.as_ref().ok_or_else(closed)?.send(command).map_err(|_| closed())?;
        answer.await.map_err(|_| StoreError::Unavailable("the change was given up half-way".into()))?
    }

    async fn read<T: Send + 'static>(
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
        // The writer ends once its queue is closed and empty.
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // It catches panics of its own; there is nobody to tell here anyway.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for SledStore {
    async fn commit(&self, changes: Vec<PortChange>) -> Result<Vec<Revocation>, CommitError> {
        let mut entries = Vec::new();
        for change in changes {
            match change {
                PortChange::Revoke(revocation) => {
                    entries.push(self.change(|reply| Change::Revoke(revocation, reply)).await?);
                }
                PortChange::RaiseVersion { issuer, sub, created_at, expires_at, reason, enforce: _ } => {
                    let raise = |reply| Change::Raise { issuer, sub, created_at, expires_at, reason, reply };
                    entries.push(self.change(raise).await?);
                }
                _ => return Err(StoreError::Unavailable("not yet".into()).into()),
            }
        }
        Ok(entries)
    }

    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError> {
        let key = entry_key((Kind::SubjectVersion, issuer, sub));
        self.read(move |trees| match trees.versions.get(key).map_err(unavailable)? {
            Some(bytes) => decode("a token version", &bytes),
            None => Ok(0),
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
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (page, last) = self
                .read(move |trees| {
                    let entries = match after {
                        Some(key) => trees
                            .revocations
                            .range((std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded)),
                        None => trees.revocations.iter(),
                    };
                    let (mut page, mut last) = (Vec::with_capacity(PAGE), None);
                    for (n, entry) in entries.take(PAGE).enumerate() {
                        let (key, bytes) = entry.map_err(unavailable)?;
                        let revocation: Revocation = decode("a revocation", &bytes)?;
                        if revocation.expires_at >= now {
                            page.push(revocation);
                        }
                        if n + 1 == PAGE {
                            last = Some(key.to_vec());
                        }
                    }
                    Ok((page, last))
                })
                .await?;
            page.into_iter().for_each(&mut *each);
            match last {
                Some(key) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        self.read(move |trees| {
            let mut found = Vec::new();
            for filed in trees.recent.iter().keys().rev().take(limit) {
                let filed = filed.map_err(unavailable)?;
                // Swept since the index was read: no longer there to show.
                if let Some(bytes) = trees.revocations.get(untimed(&filed)?).map_err(unavailable)? {
                    found.push(decode("a revocation", &bytes)?);
                }
            }
            Ok(found)
        })
        .await
    }

    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError> {
        let key = entry_key(target.key());
        self.read(move |trees| {
            let found = trees.revocations.get(key).map_err(unavailable)?;
            found.map(|bytes| decode("a revocation", &bytes)).transpose()
        })
        .await
    }

    async fn user(&self, _: UserId) -> Result<Option<User>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn user_by_email(&self, _: &EmailAddress) -> Result<Option<User>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn users(&self, _: Option<UserId>, _: usize) -> Result<Vec<User>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn session(&self, _: UserId, _: SessionId) -> Result<Option<Session>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn sessions(&self, _: UserId) -> Result<Vec<Session>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn link(&self, _: &TokenHash) -> Result<Option<Link>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn due_tasks(&self, _: UnixTime, _: usize) -> Result<Vec<Task>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn due_mails(&self, _: UnixTime, _: usize) -> Result<Vec<Mail>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn mails(&self, _: usize) -> Result<Vec<Mail>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    async fn events(&self, _: Option<UserId>, _: usize) -> Result<Vec<Event>, StoreError> {
        Err(StoreError::Unavailable("not yet".into()))
    }

    /// In steps, each atomic, so that revocations come through in between.
    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        loop {
            let removed = self.change(|reply| Change::Sweep(now, reply)).await?;
            swept.revocations += removed;
            if removed < SWEEP_STEP as u64 {
                return Ok(swept);
            }
        }
    }

    fn status(&self) -> StoreStatus {
        StoreStatus { writable: self.shared.writable.load(Ordering::Relaxed), bytes: self.disk_bytes() }
    }
}

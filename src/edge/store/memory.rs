//! The revocation set in memory, and the decorator that keeps it in step with the store.
//!
//! A sharded map from a keyed 128-bit hash to limit and expiry: 33 bytes an entry and a look-up that
//! neither allocates nor waits on the disk. It is not a moka cache, because a cache may evict, and here
//! an evicted entry is a revoked token that works again. For the same reason nothing may leave it but
//! by [`RevocationCache::sweep`], well after the entry's end, and it must never answer before the whole
//! set was read.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use super::EXPIRY_SLACK;
use super::keys::kind_byte;
use crate::domain::account::{User, UserId};
use crate::domain::audit::Event;
use crate::domain::connection::{Connection, ConnectionId};
use crate::domain::email::EmailAddress;
use crate::domain::identity::Identity;
use crate::domain::link::Link;
use crate::domain::mail::Mail;
use crate::domain::mail_cap::{Mailbox, MailboxId};
use crate::domain::opaque::TokenHash;
use crate::domain::revocation::{Begun, Kind, Revocation, Target, Versions, keys_of, limit_reaches};
use crate::domain::session::{Session, SessionId};
use crate::domain::task::Task;
use crate::domain::time::UnixTime;
use crate::domain::trusted_time::Mark;
use crate::ports::{Change, CommitError, Compacted, Revocations, Store, StoreError, StoreStatus, Swept};

/// Few enough that an empty set costs nothing, enough that a growing shard stalls few look-ups.
const SHARDS: usize = 64;

type Shard = HashMap<u128, Entry, BuildHasherDefault<Prehashed>>;

#[derive(Debug, Clone, Copy)]
struct Entry {
    limit: u64,
    expires_at: u64,
}

/// The keys are hashes already.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// The whole revocation set, as the request path asks it.
pub struct RevocationCache {
    shards: Box<[RwLock<Shard>]>,
    /// Two independent keys of 128 bits each: nobody outside can aim for a collision.
    keys: [RandomState; 2],
    sequence: AtomicU64,
    loaded: AtomicBool,
    len: AtomicUsize,
}

impl Default for RevocationCache {
    fn default() -> RevocationCache {
        RevocationCache::new()
    }
}

impl RevocationCache {
    /// An empty cache, which trusts nothing until it is loaded.
    #[must_use]
    pub fn new() -> RevocationCache {
        RevocationCache {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            keys: [RandomState::new(), RandomState::new()],
            sequence: AtomicU64::new(1),
            loaded: AtomicBool::new(false),
            len: AtomicUsize::new(0),
        }
    }

    /// Reads the whole set from `store`; afterwards [`Revocations::sequence`] answers. Revocations made
    /// meanwhile through a [`RevokingStore`] are kept.
    ///
    /// # Errors
    /// [`StoreError`]; then the set is not complete and the cache still trusts nothing.
    pub async fn load(&self, store: &dyn Store, now: UnixTime) -> Result<(), StoreError> {
        // Entries that ended within the slack count too: the clock may be ahead, and be set right later.
        store.each_revocation(now.minus(EXPIRY_SLACK), &mut |revocation| self.insert(&revocation)).await?;
        self.sequence.fetch_add(1, Ordering::Release);
        self.loaded.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes in a revocation that is durable, and lets every earlier clearance lapse.
    pub fn apply(&self, revocation: &Revocation) {
        self.insert(revocation);
        self.sequence.fetch_add(1, Ordering::Release);
    }

    /// Forgets what ended more than [`EXPIRY_SLACK`] before `now`. Only to be called once the store has
    /// swept as of the same moment, so that the memory never knows less than the disk.
    pub fn sweep(&self, now: UnixTime) {
        let end = now.minus(EXPIRY_SLACK).0;
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, entry| entry.expires_at >= end);
            let removed = before - shard.len();
            self.len.fetch_sub(removed, Ordering::Relaxed);
            // Give the memory of a past flood back, without shrinking at every sweep.
            if shard.capacity() > 4 * (shard.len() + 16) {
                shard.shrink_to_fit();
            }
        }
    }

    /// How many entries are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn insert(&self, revocation: &Revocation) {
        let hash = self.hash(revocation.target.key());
        let (limit, expires_at) = (revocation.target.limit(), revocation.expires_at.0);
        let mut shard = self.shard(hash).write().unwrap_or_else(PoisonError::into_inner);
        // Merged, not replaced: two revocations may arrive here in another order than on the disk.
        shard
            .entry(hash)
            .and_modify(|entry| {
                entry.limit = entry.limit.max(limit);
                entry.expires_at = entry.expires_at.max(expires_at);
            })
            .or_insert_with(|| {
                self.len.fetch_add(1, Ordering::Relaxed);
                Entry { limit, expires_at }
            });
    }

    fn limit(&self, key: (Kind, &str, &str)) -> Option<u64> {
        let hash = self.hash(key);
        // A poisoned shard is still right: no step of ours leaves an entry half-written.
        let shard = self.shard(hash).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&hash).map(|entry| entry.limit)
    }

    fn hash(&self, (kind, issuer, name): (Kind, &str, &str)) -> u128 {
        let half = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            hasher.write_u8(kind_byte(kind));
            hasher.write_usize(issuer.len());
            hasher.write(issuer.as_bytes());
            hasher.write(name.as_bytes());
            u128::from(hasher.finish())
        };
        half(&self.keys[0]) << 64 | half(&self.keys[1])
    }

    fn shard(&self, hash: u128) -> &RwLock<Shard> {
        // The map uses the lower half; the remainder is below SHARDS.
        &self.shards[(hash >> 64) as usize % SHARDS]
    }
}

impl Revocations for RevocationCache {
    fn sequence(&self) -> Option<u64> {
        self.loaded.load(Ordering::Acquire).then(|| self.sequence.load(Ordering::Acquire))
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        // An entry past its expiry still counts: the token's own `exp` ends it, not our clock.
        !self.is_empty()
            && keys_of(identity)
                .any(|key| self.limit(key).is_some_and(|limit| limit_reaches(key.0, limit, identity)))
    }
}

/// What a revocation sets off beyond the cache.
type OnChange = Box<dyn Fn() + Send + Sync>;

/// Any store, with the cache kept in step: the store first, then the cache, then its sequence, then the
/// hook.
pub struct RevokingStore {
    parts: Arc<Parts>,
}

struct Parts {
    store: Arc<dyn Store>,
    cache: Arc<RevocationCache>,
    on_change: OnChange,
}

impl Parts {
    fn learned(&self, revocation: &Revocation) {
        self.cache.apply(revocation);
        (self.on_change)();
    }
}

impl RevokingStore {
    /// Wraps `store`. `on_change` is called after each revocation is in force, so that open streams can
    /// be looked at again; it must not block.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Arc<RevocationCache>, on_change: OnChange) -> RevokingStore {
        RevokingStore { parts: Arc::new(Parts { store, cache, on_change }) }
    }
}

#[async_trait]
impl Store for RevokingStore {
    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Revocation>, CommitError> {
        let parts = Arc::clone(&self.parts);
        let in_force: Vec<bool> = changes.iter().filter_map(Change::is_in_force).collect();
        // Runs to the end even when the caller goes away: a revocation on the disk that the memory never
        // heard of would come into force only at the next start.
        let work = tokio::spawn(async move {
            let entries = parts.store.commit(changes).await?;
            for (entry, in_force) in entries.iter().zip(in_force) {
                if in_force {
                    parts.learned(entry);
                }
            }
            Ok(entries)
        });
        work.await.map_err(|e| StoreError::Unavailable(e.to_string()))?
    }

    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError> {
        self.parts.store.version(issuer, sub).await
    }

    async fn generation(&self, issuer: &str) -> Result<u64, StoreError> {
        self.parts.store.generation(issuer).await
    }

    async fn versions(&self, issuer: &str, sub: &str) -> Result<Versions, StoreError> {
        self.parts.store.versions(issuer, sub).await
    }

    async fn each_revocation(
        &self,
        now: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError> {
        self.parts.store.each_revocation(now, each).await
    }

    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        self.parts.store.recent_revocations(limit).await
    }

    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError> {
        self.parts.store.revocation(target).await
    }

    async fn is_cut(&self, begun: &Begun<'_>) -> Result<bool, StoreError> {
        self.parts.store.is_cut(begun).await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.parts.store.user(id).await
    }

    async fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, StoreError> {
        self.parts.store.user_by_email(email).await
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError> {
        self.parts.store.users(after, limit).await
    }

    async fn session(&self, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.parts.store.session(user, id).await
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        self.parts.store.sessions(user).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.parts.store.find_session(id).await
    }

    async fn all_sessions(
        &self,
        after: Option<(UserId, SessionId)>,
        limit: usize,
    ) -> Result<Vec<Session>, StoreError> {
        self.parts.store.all_sessions(after, limit).await
    }

    async fn connection(&self, user: UserId, id: ConnectionId) -> Result<Option<Connection>, StoreError> {
        self.parts.store.connection(user, id).await
    }

    async fn connections(&self, user: UserId) -> Result<Vec<Connection>, StoreError> {
        self.parts.store.connections(user).await
    }

    async fn all_connections(
        &self,
        after: Option<(UserId, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Connection>, StoreError> {
        self.parts.store.all_connections(after, limit).await
    }

    async fn due_connections(&self, now: UnixTime, limit: usize) -> Result<Vec<Connection>, StoreError> {
        self.parts.store.due_connections(now, limit).await
    }

    async fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError> {
        self.parts.store.link(hash).await
    }

    async fn due_tasks(&self, now: UnixTime, limit: usize) -> Result<Vec<Task>, StoreError> {
        self.parts.store.due_tasks(now, limit).await
    }

    async fn due_mails(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError> {
        self.parts.store.due_mails(now, limit).await
    }

    async fn mailbox(&self, id: MailboxId) -> Result<Option<Mailbox>, StoreError> {
        self.parts.store.mailbox(id).await
    }

    async fn mails(&self, limit: usize) -> Result<Vec<Mail>, StoreError> {
        self.parts.store.mails(limit).await
    }

    async fn events(&self, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.parts.store.events(user, limit).await
    }

    async fn clock_mark(&self) -> Result<Option<Mark>, StoreError> {
        self.parts.store.clock_mark().await
    }

    async fn latest_moment(&self) -> Result<Option<UnixTime>, StoreError> {
        self.parts.store.latest_moment().await
    }

    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError> {
        let swept = self.parts.store.sweep(now).await?;
        self.parts.cache.sweep(now);
        Ok(swept)
    }

    async fn compact(&self) -> Result<Compacted, StoreError> {
        self.parts.store.compact().await
    }

    fn status(&self) -> StoreStatus {
        self.parts.store.status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_entries_fit_into_150_megabytes() {
        // hashbrown: one control byte an entry, and at worst 16/7 buckets for each.
        let bucket = size_of::<(u128, Entry)>() + 1;
        assert_eq!(bucket, 33);
        assert!(1_000_000 * bucket * 16 / 7 < 150 << 20);
    }
}

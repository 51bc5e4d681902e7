//! The revocation set in memory (tokens, sessions, cutoffs), and the observer that keeps it in step with the store.
//!
//! A sharded map from a keyed 128-bit hash to what is known of it, and a look-up that neither allocates nor
//! waits on the disk. Tokens and sessions, of which there may be millions, have an end and no limit: 21 bytes a
//! bucket and at most 1.8 buckets an entry. It is not a moka cache, because a cache may evict, and here an evicted
//! entry is a revoked token that works again. For the same reason nothing may leave it but by
//! [`RevocationCache::sweep`], well after the entry's end, and it must never answer before the whole set was
//! read.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::EXPIRY_SLACK;
use super::belief::{Belief, LeaseLeft};
use super::observed::StoreObserver;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::revocation::{Kind, Revocation, keys_of, limit_reaches};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{FeedSink, Revocations, Standing, Store, StoreError};
use palisade_core::service::clock::Uptime;

/// Shards differ in how much of the set they take. A hash map doubles when it is full, and shards of one size would
/// all do so at once: the whole set would have twice the memory that it needs from one entry to the next. Of every
/// 92 entries each group of eight shards takes 8, the next group 9, and the last group 15.
const GROUPS: usize = 8;
/// Few enough that an empty set costs nothing, enough that a growing shard stalls few look-ups.
const IN_GROUP: usize = 8;
const SHARES: usize = 92;
/// Which group of shards takes each share.
const GROUP_OF: [u8; SHARES] = {
    let (mut groups, mut share, mut group) = ([0; SHARES], 0, 0);
    while group < GROUPS {
        let end = share + GROUPS + group;
        while share < end {
            #[allow(clippy::cast_possible_truncation, reason = "there are eight groups")]
            {
                groups[share] = group as u8;
            }
            share += 1;
        }
        group += 1;
    }
    assert!(share == SHARES);
    groups
};

/// A hash of 128 bits, least significant part first. An alignment of four bytes, not 16, keeps entries small.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hash128([u32; 4]);

impl Hash for Hash128 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.0[1]) << 32 | u64::from(self.0[0]));
    }
}

/// The end of an entry, in seconds since 1970. [`End::NEVER`] stands for every end that has no place in 32 bits:
/// such entries stay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct End(u32);

impl End {
    const NEVER: End = End(u32::MAX);

    fn of(time: UnixTime) -> End {
        u32::try_from(time.0).map_or(End::NEVER, End)
    }

    fn is_before(self, time: UnixTime) -> bool {
        self != End::NEVER && u64::from(self.0) < time.0
    }
}

/// What is revoked below a number or until a moment.
#[derive(Clone, Copy)]
struct Cut {
    /// A `u64` in two halves, least significant first, for the alignment.
    limit: [u32; 2],
    end: End,
}

#[allow(clippy::cast_possible_truncation, reason = "it is split")]
const fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

impl Cut {
    fn limit(&self) -> u64 {
        u64::from(self.limit[1]) << 32 | u64::from(self.limit[0])
    }
}

type Map<V> = HashMap<Hash128, V, BuildHasherDefault<Prehashed>>;

#[derive(Default)]
struct Shard {
    /// Tokens and sessions.
    single: Map<End>,
    /// Cutoffs of subjects, of issuers and of all tokens.
    cuts: Map<Cut>,
}

impl Shard {
    fn len(&self) -> usize {
        self.single.len() + self.cuts.len()
    }
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

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The whole revocation set, as the request path asks it.
pub struct RevocationCache {
    shards: Box<[RwLock<Shard>]>,
    /// Two independent keys of 128 bits each: no attacker can aim for a collision.
    keys: [RandomState; 2],
    sequence: AtomicU64,
    belief: Belief,
    len: AtomicUsize,
}

impl RevocationCache {
    /// An empty cache, which is not believed yet. `uptime` goes on while the machine is suspended; it is read only where
    /// the cache is believed for a time.
    #[must_use]
    pub fn new(uptime: Uptime) -> RevocationCache {
        RevocationCache {
            shards: (0..GROUPS * IN_GROUP).map(|_| RwLock::default()).collect(),
            keys: [RandomState::new(), RandomState::new()],
            sequence: AtomicU64::new(1),
            belief: Belief::new(uptime),
            len: AtomicUsize::new(0),
        }
    }

    /// Reads the whole set from `store`. Revocations of which a [`CacheObserver`] learns meanwhile are kept. That the set is
    /// believed has to be said afterwards.
    ///
    /// # Errors
    /// [`StoreError`]; then the set is not complete.
    pub async fn load(&self, store: &dyn Store, now: UnixTime) -> Result<(), StoreError> {
        // Entries that ended within the slack count too: the clock may be ahead, and be set right later.
        store.each_revocation(now.minus(EXPIRY_SLACK), &mut |revocation| self.insert(&revocation)).await?;
        self.sequence.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The set is whole, and every later revocation comes here before it is acknowledged: it is believed from now on.
    pub fn believe_for_ever(&self) {
        self.belief.for_ever();
    }

    /// The set is whole, and believed until this moment of the uptime. Zero takes back what was said before.
    pub fn believe_until(&self, until: Duration) {
        self.belief.until(until);
    }

    /// The set is not believed any more, whatever is said later. `why` is for operators.
    pub fn close(&self, why: &str) {
        self.belief.close(why);
    }

    /// Why it was closed, if it is.
    #[must_use]
    pub fn closed_because(&self) -> Option<String> {
        self.belief.closed_because()
    }

    /// Resolves when until when the set is believed has changed since this was last awaited. For one waiter.
    pub async fn belief_changed(&self) {
        self.belief.changed().await;
    }

    /// How much longer the set is believed.
    #[must_use]
    pub fn lease(&self) -> LeaseLeft {
        self.belief.lease()
    }

    /// Takes in revocations that are durable, and lets every earlier clearance lapse.
    pub fn apply(&self, revocations: &[Revocation]) {
        revocations.iter().for_each(|revocation| self.insert(revocation));
        self.sequence.fetch_add(1, Ordering::Release);
    }

    /// Forgets what ended more than [`EXPIRY_SLACK`] before `now`. Only to be called once the store has
    /// swept as of the same moment, so that the memory never knows less than the disk.
    pub fn sweep(&self, now: UnixTime) {
        let end = now.minus(EXPIRY_SLACK);
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.single.retain(|_, entry| !entry.is_before(end));
            shard.cuts.retain(|_, cut| !cut.end.is_before(end));
            self.len.fetch_sub(before - shard.len(), Ordering::Relaxed);
            give_back(&mut shard.single);
            give_back(&mut shard.cuts);
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
        let key = revocation.target.key();
        let hash = self.hash(key);
        let (limit, end) = (revocation.target.limit(), End::of(revocation.expires_at));
        let mut shard = self.shard(hash).write().unwrap_or_else(PoisonError::into_inner);
        let before = shard.len();
        // Merged, not replaced: two revocations may arrive here in another order than on the disk.
        if key.0.is_single() {
            let entry = shard.single.entry(hash).or_insert(end);
            *entry = (*entry).max(end);
        } else {
            let entry = shard.cuts.entry(hash).or_insert(Cut { limit: halves(limit), end });
            *entry = Cut { limit: halves(entry.limit().max(limit)), end: entry.end.max(end) };
        }
        self.len.fetch_add(shard.len() - before, Ordering::Relaxed);
    }

    fn limit(&self, key: (Kind, &str, &str)) -> Option<u64> {
        let hash = self.hash(key);
        // A poisoned shard is still right: no step of ours leaves an entry half-written.
        let shard = self.shard(hash).read().unwrap_or_else(PoisonError::into_inner);
        match key.0.is_single() {
            true => shard.single.contains_key(&hash).then_some(u64::MAX),
            false => shard.cuts.get(&hash).map(Cut::limit),
        }
    }

    fn hash(&self, (kind, issuer, name): (Kind, &str, &str)) -> Hash128 {
        let half = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            hasher.write_u8(kind.to_byte());
            hasher.write_usize(issuer.len());
            hasher.write(issuer.as_bytes());
            hasher.write(name.as_bytes());
            halves(hasher.finish())
        };
        let ([a, b], [c, d]) = (half(&self.keys[1]), half(&self.keys[0]));
        Hash128([a, b, c, d])
    }

    fn shard(&self, hash: Hash128) -> &RwLock<Shard> {
        // The maps use the lower half. Both remainders are below what they index.
        let group = usize::from(GROUP_OF[hash.0[2] as usize % SHARES]);
        &self.shards[group * IN_GROUP + hash.0[3] as usize % IN_GROUP]
    }
}

/// Gives the memory of a past flood back, without shrinking at every sweep.
fn give_back<V>(map: &mut Map<V>) {
    if map.capacity() > 4 * (map.len() + 16) {
        map.shrink_to_fit();
    }
}

impl Revocations for RevocationCache {
    fn standing(&self) -> Standing {
        self.belief.standing(&self.sequence)
    }

    fn is_stale(&self) -> bool {
        self.belief.lease() == LeaseLeft::Over
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        // An entry past its expiry still counts: the token's own `exp` ends it, not our clock.
        !self.is_empty()
            && keys_of(identity)
                .any(|key| self.limit(key).is_some_and(|limit| limit_reaches(key.0, limit, identity)))
    }
}

/// What a revocation sets off beyond the cache.
pub type OnChange = Box<dyn Fn() + Send + Sync>;

/// Keeps the cache in step with a store that it observes, and with the feed of revocations of other replicas: the store
/// first, then the cache, then its sequence, then the hook.
pub struct CacheObserver {
    cache: Arc<RevocationCache>,
    on_change: OnChange,
}

impl CacheObserver {
    /// `on_change` is called after revocations came into force, so that open streams can be looked at again; it must
    /// not block.
    #[must_use]
    pub fn new(cache: Arc<RevocationCache>, on_change: OnChange) -> CacheObserver {
        CacheObserver { cache, on_change }
    }
}

impl StoreObserver for CacheObserver {
    fn revoked(&self, revocation: &Revocation) {
        FeedSink::apply(self, std::slice::from_ref(revocation));
    }

    fn swept(&self, now: UnixTime) {
        self.cache.sweep(now);
    }
}

impl FeedSink for CacheObserver {
    fn apply(&self, revocations: &[Revocation]) {
        self.cache.apply(revocations);
        (self.on_change)();
    }

    fn believe_until(&self, until: Duration) {
        self.cache.believe_until(until);
    }

    fn closed(&self, why: &str) {
        self.cache.close(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::revocation::Target;

    fn revocation(target: Target, expires_at: u64) -> Revocation {
        Revocation { target, expires_at: UnixTime(expires_at), created_at: UnixTime(0), reason: None }
    }

    fn token(n: u64) -> Target {
        Target::Token { issuer: "i".into(), jti: n.to_string() }
    }

    /// Bytes of the maps. A map has eight buckets for every seven entries that it has room for, and one control
    /// byte beside each bucket.
    fn bytes(cache: &RevocationCache) -> usize {
        let of = |capacity: usize, entry: usize| capacity * 8 / 7 * (entry + 1);
        let shards = cache.shards.iter().map(|shard| shard.read().unwrap());
        shards
            .map(|shard| {
                of(shard.single.capacity(), size_of::<(Hash128, End)>())
                    + of(shard.cuts.capacity(), size_of::<(Hash128, Cut)>())
            })
            .sum()
    }

    #[test]
    fn an_entry_takes_38_bytes_however_many_there_are() {
        let cache = RevocationCache::new(Box::new(|| Duration::ZERO));
        assert_eq!((size_of::<(Hash128, End)>(), size_of::<(Hash128, Cut)>()), (20, 28));
        for n in 0..160_000u64 {
            cache.insert(&revocation(token(n), 1));
            // More than an octave of sizes: every shard doubles within it.
            if n >= 60_000 && n % 1000 == 0 {
                let each = bytes(&cache) / cache.len();
                assert!(each <= 39, "{each} bytes for each of {n}");
            }
        }
    }

    #[test]
    fn an_end_that_has_no_place_never_comes() {
        let cache = RevocationCache::new(Box::new(|| Duration::ZERO));
        let ends = [100, u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX];
        for (n, end) in (0..).zip(ends) {
            cache.insert(&revocation(token(n), end));
            let below = Target::SubjectVersion { issuer: "i".into(), sub: n.to_string(), below: 1 << 40 };
            cache.insert(&revocation(below, end));
        }
        assert_eq!(cache.len(), 10);
        cache.sweep(UnixTime(100).plus(EXPIRY_SLACK));
        assert_eq!(cache.len(), 10);
        cache.sweep(UnixTime(101).plus(EXPIRY_SLACK));
        assert_eq!(cache.len(), 8);
        cache.sweep(UnixTime(u64::MAX));
        assert_eq!(cache.len(), 6, "the second as well has ended by then");
        assert_eq!(cache.limit((Kind::SubjectVersion, "i", "4")), Some(1 << 40));
        assert_eq!(cache.limit((Kind::Token, "i", "2")), Some(u64::MAX));
        assert_eq!(cache.limit((Kind::Token, "i", "1")), None);
    }

    #[test]
    fn what_arrives_in_another_order_is_merged() {
        let below = |below| Target::SubjectVersion { issuer: "i".into(), sub: "s".into(), below };
        for order in [[0, 1], [1, 0]] {
            let cache = RevocationCache::new(Box::new(|| Duration::ZERO));
            let both = [revocation(below(1 << 33), 200), revocation(below(7), 300)];
            order.into_iter().for_each(|n| cache.insert(&both[n]));
            let both = [revocation(token(1), 200), revocation(token(1), 300)];
            order.into_iter().for_each(|n| cache.insert(&both[n]));
            assert_eq!(cache.len(), 2);
            cache.sweep(UnixTime(300).plus(EXPIRY_SLACK));
            assert_eq!(cache.limit((Kind::SubjectVersion, "i", "s")), Some(1 << 33));
            assert_eq!(cache.limit((Kind::Token, "i", "1")), Some(u64::MAX));
        }
    }
}

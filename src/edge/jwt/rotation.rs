//! How the ring of signing keys changes: at a start, by a rotation, and by what another replica did.
//!
//! Where several processes share the ring, a key signs only once every one of them that lives verifies by a ring that
//! has it. A rotation waits for that, and each write names the revision it was made from, so that of two at once one is
//! made and the other finds it made.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::kept_ring::{self, KeptRing};
use super::keyring::{Inner, KeyRingError, Member, Ring, SigningKeyRing};
use super::keys::SigningKey;
use crate::config::Algorithm;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::ClockReading;
use palisade_core::ports::{KeyState, Replaced, SecretStore, SignError};
use palisade_core::service::mint::MAX_TTL;

/// How often a rotation is begun anew, because the ring was replaced while it waited or had no next key.
const ATTEMPTS: usize = 5;
/// How far apart the looks are that strangers can cause, by tokens that name a key which does not exist.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

impl SigningKeyRing {
    /// Takes up what another process did to the ring. Returns whether there was something. Blocks.
    ///
    /// # Errors
    /// [`KeyRingError`]; then the ring is what it was.
    pub fn reload(&self) -> Result<bool, KeyRingError> {
        let Some(secrets) = &self.0.secrets else { return Ok(false) };
        let Some(kept) = kept_ring::read(&**secrets)? else { return Ok(false) };
        Ok(self.0.install(assemble(kept), &**secrets))
    }

    /// After a token of ours whose key is not in the ring: takes up what another process did to it, at most once a second.
    /// True when there was something, so that verifying again is worthwhile.
    pub(super) async fn learn(&self) -> bool {
        if !self.0.secrets.as_ref().is_some_and(|secrets| secrets.is_shared()) {
            return false;
        }
        let before = self.0.ring.load().revision;
        // Those that come meanwhile wait for the one answer.
        let mut last = self.0.learned_at.lock().await;
        if self.0.ring.load().revision > before {
            return true;
        }
        if last.is_some_and(|last| last.elapsed() < BETWEEN_LOOKS) {
            return false;
        }
        let ring = self.clone();
        let learned = tokio::task::spawn_blocking(move || ring.reload()).await;
        *last = Some(Instant::now());
        matches!(learned, Ok(Ok(true)))
    }

    /// Whether tokens are signed by another algorithm than `tokens.algorithm`, until every process knows a key of that
    /// one: then a rotation is due.
    #[must_use]
    pub fn awaits_algorithm(&self) -> bool {
        self.0.secrets.is_some() && self.0.ring.load().active.key.algorithm != self.0.algorithm
    }
}

impl Inner {
    /// Goes by `ring` from now on, unless a later one is gone by already.
    fn install(&self, ring: Ring, secrets: &dyn SecretStore) -> bool {
        let revision = ring.revision;
        let ring = Arc::new(ring);
        let mut installed = false;
        self.ring.rcu(|current| {
            // One process alone counts no revisions.
            installed = !secrets.is_shared() || current.revision < revision;
            if installed { Arc::clone(&ring) } else { Arc::clone(current) }
        });
        if installed {
            secrets.goes_by(revision);
        }
        installed
    }

    /// The ring as it is now: read again where another process may have replaced it.
    fn latest(&self, secrets: &dyn SecretStore) -> Result<Arc<Ring>, SignError> {
        if secrets.is_shared() {
            let kept = kept_ring::read(secrets).map_err(failed)?;
            let kept = kept.ok_or_else(|| SignError("the ring of signing keys is gone".to_owned()))?;
            self.install(assemble(kept), secrets);
        }
        Ok(self.ring.load_full())
    }

    /// As [`palisade_core::ports::Keys::rotate`]. Blocks.
    pub(super) fn rotate(&self, reading: ClockReading) -> Result<(), SignError> {
        let Some(secrets) = &self.secrets else {
            return Err(SignError(
                "the key comes from tokens.key and is rotated where it is kept".to_owned(),
            ));
        };
        let secrets = &**secrets;
        let asked = secrets.is_shared().then(|| self.latest(secrets)).transpose()?;
        // A panic while holding it leaves the ring as it was: it is only replaced as a whole.
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ATTEMPTS {
            let before = self.latest(secrets)?;
            // What was asked for is done: the key that signed does not sign any more.
            if asked.as_ref().is_some_and(|asked| asked.active.key.kid != before.active.key.kid) {
                return Ok(());
            }
            let has_next = before.others.iter().any(|other| self.may_follow(other));
            let ring = if has_next || !secrets.is_shared() {
                let behind = secrets.await_readers(before.revision).map_err(failed)?;
                if !behind.is_empty() {
                    return Err(SignError(format!(
                        "the next key does not sign yet, because not every replica has loaded it: {}. Nothing was \
                         changed; try again, or stop those replicas",
                        behind.join(", ")
                    )));
                }
                self.rotated(&before, reading)?
            } else {
                // Published first, as every key.
                let mut others: Vec<Member> = before.others.clone();
                others.retain(|other| other.state != KeyState::Next);
                others.insert(0, self.made(KeyState::Next, reading.wall)?);
                Ring::new(before.active.clone(), others)
            };
            match kept_ring::write(secrets, ring.members(), before.revision).map_err(failed)? {
                Replaced::Done(revision) => {
                    self.install(ring.at(revision), secrets);
                    if has_next || !secrets.is_shared() {
                        return Ok(());
                    }
                }
                Replaced::Overtaken => {}
            }
        }
        Err(SignError("the ring of signing keys is being replaced again and again; try later".to_owned()))
    }

    /// Whether a key may sign after the active one.
    fn may_follow(&self, member: &Member) -> bool {
        member.state == KeyState::Next && member.key.algorithm == self.algorithm
    }

    fn made(&self, state: KeyState, now: UnixTime) -> Result<Member, SignError> {
        Ok(Member::new(SigningKey::generate(self.algorithm).map_err(SignError)?, state, now))
    }

    /// The ring after a rotation.
    fn rotated(&self, before: &Ring, reading: ClockReading) -> Result<Ring, SignError> {
        let now = reading.wall;
        let mut old = before.active.clone();
        let mut longest = UnixTime(self.longest.load(Ordering::Acquire));
        if self.secrets.as_ref().is_some_and(|secrets| secrets.is_shared()) {
            // What others have signed for longer is not known here: taken as the longest there is.
            longest = longest.max(reading.horizon.plus(MAX_TTL));
        }
        old.retire(now, reading.horizon.plus(self.keep).max(longest.plus(self.leeway)));
        let mut others: Vec<Member> = Vec::with_capacity(before.others.len() + 2);
        let mut active = None;
        for other in &before.others {
            match other.state {
                KeyState::Next if self.may_follow(other) => active = Some(other.clone()),
                // Never signed anything.
                KeyState::Next => {}
                KeyState::Active | KeyState::Retired => others.push(other.clone()),
            }
        }
        others.insert(0, old);
        let mut active = match active {
            Some(next) => next,
            None => self.made(KeyState::Next, now)?,
        };
        active.state = KeyState::Active;
        active.activated_at = Some(now);
        others.retain(|member| member.verifies_until.is_none_or(|end| end > reading.earliest));
        others.insert(0, self.made(KeyState::Next, now)?);
        Ok(Ring::new(active, others))
    }
}

fn failed(error: impl std::fmt::Display) -> SignError {
    SignError(error.to_string())
}

/// A ring as it was read, unchanged.
fn assemble(kept: KeptRing) -> Ring {
    Ring::new(kept.active, kept.others).at(kept.revision)
}

/// Makes a whole ring out of what was stored: one active key of `algorithm`, one next, the retired ones
/// that still verify; an active one that has to go verifies `until` then. True when it differs from what was stored.
///
/// Of a ring that other processes go by too, the active key stays, whatever its algorithm is: they do not know another.
pub(super) fn settle(
    stored: Vec<Member>,
    algorithm: Algorithm,
    until: UnixTime,
    reading: ClockReading,
    is_shared: bool,
) -> Result<(Ring, bool), String> {
    let now = reading.wall;
    let (mut active, mut next, mut retired, mut changed) = (None, None, Vec::new(), false);
    for mut stored in stored {
        match stored.state {
            KeyState::Active if is_shared || stored.key.algorithm == algorithm => active = Some(stored),
            KeyState::Next if stored.key.algorithm == algorithm => next = Some(stored),
            KeyState::Active => {
                stored.retire(now, until);
                retired.push(stored);
                changed = true;
            }
            KeyState::Next => changed = true, // Never signed anything.
            KeyState::Retired => retired.push(stored),
        }
    }
    let mut make = |state| {
        changed = true;
        SigningKey::generate(algorithm).map(|key| Member::new(key, state, now))
    };
    let active = active.map_or_else(|| make(KeyState::Active), Ok)?;
    let next = next.map_or_else(|| make(KeyState::Next), Ok)?;
    let kept = retired.len();
    retired.retain(|member| member.verifies_until.is_none_or(|end| end > reading.earliest));
    changed |= retired.len() != kept;
    retired.insert(0, next);
    Ok((Ring::new(active, retired), changed))
}

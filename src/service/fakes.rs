//! In-memory fakes of the ports, for tests only.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::domain::identity::Identity;
use crate::domain::revocation::{Revocation, Target};
use crate::domain::time::UnixTime;
use crate::ports::*;

/// What [`FakeClock`] shows.
pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

/// A clock that stands at [`NOW`].
pub(crate) struct FakeClock;

impl Clock for FakeClock {
    fn now(&self) -> UnixTime {
        NOW
    }
}

/// Signs with no key: `SUB.vVERSION`.
pub(crate) struct FakeSigner;

impl Signer for FakeSigner {
    fn issuer(&self) -> &str {
        "https://us.test"
    }

    fn access_token(&self, grant: &AccessGrant, ttl: Duration, now: UnixTime) -> Result<Signed, SignError> {
        let token = format!("{}.v{}", grant.subject, grant.version);
        Ok(Signed { token, token_id: "fake".to_owned(), expires_at: now.plus(ttl) })
    }

    fn assertion(&self, _: &Identity, _: &str, _: UnixTime) -> Result<String, SignError> {
        Err(SignError("a fake".to_owned()))
    }
}

/// A store that forgets with the process.
#[derive(Default)]
pub(crate) struct FakeStore {
    entries: Mutex<Vec<Revocation>>,
    versions: Mutex<BTreeMap<(String, String), u64>>,
    broken: AtomicBool,
}

impl FakeStore {
    /// Every later write fails.
    pub(crate) fn fail(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("disk secret detail".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn revoke(&self, revocation: Revocation) -> Result<Revocation, StoreError> {
        self.check()?;
        self.entries.lock().unwrap().push(revocation.clone());
        Ok(revocation)
    }

    async fn raise_version(
        &self,
        issuer: &str,
        sub: &str,
        created_at: UnixTime,
        expires_at: UnixTime,
        reason: Option<String>,
    ) -> Result<Revocation, StoreError> {
        self.check()?;
        let below = {
            let mut versions = self.versions.lock().unwrap();
            let version = versions.entry((issuer.to_owned(), sub.to_owned())).or_default();
            *version += 1;
            *version
        };
        let target = Target::SubjectVersion { issuer: issuer.to_owned(), sub: sub.to_owned(), below };
        self.revoke(Revocation { target, expires_at, created_at, reason }).await
    }

    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError> {
        let key = (issuer.to_owned(), sub.to_owned());
        Ok(self.versions.lock().unwrap().get(&key).copied().unwrap_or(0))
    }

    async fn each_revocation(
        &self,
        _: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError> {
        self.entries.lock().unwrap().iter().cloned().for_each(each);
        Ok(())
    }

    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        Ok(self.entries.lock().unwrap().iter().rev().take(limit).cloned().collect())
    }

    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError> {
        Ok(self.entries.lock().unwrap().iter().find(|e| e.target.key() == target.key()).cloned())
    }

    async fn sweep(&self, _: UnixTime) -> Result<Swept, StoreError> {
        Ok(Swept::default())
    }

    fn status(&self) -> StoreStatus {
        StoreStatus { writable: self.check().is_ok(), bytes: 0 }
    }
}

/// A ring of names.
#[derive(Default)]
pub(crate) struct FakeKeys {
    turns: Mutex<u64>,
}

#[async_trait]
impl Keys for FakeKeys {
    fn list(&self) -> Vec<KeyInfo> {
        vec![KeyInfo {
            kid: format!("k{}", self.turns.lock().unwrap()),
            algorithm: "EdDSA".to_owned(),
            state: KeyState::Active,
            created_at: NOW,
            activated_at: Some(NOW),
            retired_at: None,
        }]
    }

    fn jwks(&self) -> Value {
        json!({"keys": [{"kty": "OKP", "kid": "k0"}]})
    }

    async fn rotate(&self, _: UnixTime) -> Result<Vec<KeyInfo>, SignError> {
        *self.turns.lock().unwrap() += 1;
        Ok(self.list())
    }
}

/// A gateway that is ready, or not for the reason it is given, and whose configuration is broken
/// exactly then.
#[derive(Default)]
pub(crate) struct FakeControl(pub Option<&'static str>);

#[async_trait]
impl Control for FakeControl {
    async fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        match self.0 {
            Some(why) => Err(vec![why.to_owned()]),
            None => Ok(vec!["1 route".to_owned()]),
        }
    }

    fn not_ready_because(&self) -> Vec<&'static str> {
        self.0.into_iter().collect()
    }
}

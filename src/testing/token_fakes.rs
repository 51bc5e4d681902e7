//! Fakes of what signs tokens and decides about them, for tests only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::fakes::{FakeStore, NOW};
use palisade_core::domain::app_token::AppTokenTerms;
use palisade_core::domain::claims::{GROUPS_CLAIM, USERNAME_CLAIM, is_reserved};
use palisade_core::domain::identity::Identity;
use palisade_core::domain::revocation::{keys_of, limit_reaches};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::ClockReading;
use palisade_core::domain::verdict::TokenFault;
use palisade_core::ports::{
    AccessGrant, Entropy, IssuerClocks, KeyInfo, KeyState, Keys, Revocations, SignError, Signed, Signer,
    Standing, Verified, Verifier,
};

/// Signs with no key: `SUB.vVERSION`, then `.SESSION` and `.rPLACE` (of its refresh token) when there is one.
pub struct FakeSigner;

impl Signer for FakeSigner {
    fn issuer(&self) -> &str {
        "https://us.test"
    }

    fn access_token(&self, grant: &AccessGrant, ttl: Duration, now: UnixTime) -> Result<Signed, SignError> {
        let session = grant.session.as_ref().map(|session| format!(".{session}")).unwrap_or_default();
        let place = grant.rotation.map(|place| format!(".r{place}")).unwrap_or_default();
        let token = format!("{}.v{}{session}{place}", grant.subject, grant.version);
        Ok(Signed { token, token_id: "fake".to_owned(), expires_at: now.plus(ttl) })
    }

    fn identity(&self, grant: &AccessGrant, ttl: Duration, now: UnixTime) -> Result<Identity, SignError> {
        let mut claims = grant.extra.clone();
        claims.retain(|name, _| !is_reserved(name));
        if let Some(name) = &grant.username {
            claims.insert(USERNAME_CLAIM.to_owned(), json!(name));
        }
        if !grant.groups.is_empty() {
            claims.insert(GROUPS_CLAIM.to_owned(), json!(grant.groups));
        }
        Ok(Identity {
            issuer: self.issuer().into(),
            subject: grant.subject.clone(),
            email: grant.email.clone(),
            email_verified: grant.email_verified,
            session: grant.session.clone(),
            token_id: None,
            version: Some(grant.version),
            scopes: grant.scopes.clone(),
            issued_at: now,
            expires_at: now.plus(ttl),
            claims,
        })
    }

    fn assertion(&self, _: &Identity, _: &str, _: UnixTime) -> Result<String, SignError> {
        Err(SignError("a fake".to_owned()))
    }

    fn app_token(
        &self,
        identity: &Identity,
        terms: &AppTokenTerms,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<String, SignError> {
        Ok(format!("{}.for-{}.{}-{}", identity.subject, terms.audience, now.0, until.0))
    }
}

/// The clock of `https://ahead-N.test` is N seconds ahead; others are level.
pub struct FakeIssuerClocks;

impl IssuerClocks for FakeIssuerClocks {
    fn ahead(&self, issuer: &str, _: UnixTime) -> Duration {
        let seconds = issuer.strip_prefix("https://ahead-").and_then(|rest| rest.strip_suffix(".test"));
        Duration::from_secs(seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(0))
    }
}

/// A ring of names.
#[derive(Default)]
pub struct FakeKeys {
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

    async fn rotate(&self, _: ClockReading) -> Result<Vec<KeyInfo>, SignError> {
        *self.turns.lock().unwrap() += 1;
        Ok(self.list())
    }
}

/// Reads what [`FakeSigner`] writes; `they/SUB` is a token of another issuer. All else is malformed.
pub struct FakeVerifier;

#[async_trait]
impl Verifier for FakeVerifier {
    fn verify(&self, token: &str, now: UnixTime) -> Result<Arc<Verified>, TokenFault> {
        let (issuer, rest) = match token.strip_prefix("they/") {
            Some(subject) => ("https://they.test", format!("{subject}.v0")),
            None => ("https://us.test", token.to_owned()),
        };
        let mut parts = rest.splitn(3, '.');
        let subject = parts.next().unwrap_or_default().to_owned();
        let version = parts.next().and_then(|version| version.strip_prefix('v')?.parse().ok());
        Ok(Arc::new(Verified::new(Identity {
            issuer: issuer.into(),
            subject,
            email: None,
            email_verified: false,
            session: parts.next().map(str::to_owned),
            token_id: None,
            version: Some(version.ok_or(TokenFault::Malformed)?),
            scopes: Vec::new(),
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(60)),
            claims: serde_json::Map::new(),
        })))
    }

    async fn learn_keys(&self, _: &str) -> bool {
        false
    }

    fn accepts(&self, _: &Verified) -> bool {
        true
    }
}

impl Revocations for FakeStore {
    fn standing(&self) -> Standing {
        Standing::Confirmed(1 + self.entries().len() as u64)
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        let entries = self.entries();
        keys_of(identity).any(|key| {
            let entry = entries.iter().find(|entry| entry.target.key() == key);
            entry.is_some_and(|entry| limit_reaches(key.0, entry.target.limit(), identity))
        })
    }
}

/// Counts up instead of being random.
#[derive(Default)]
pub struct FakeEntropy(AtomicU64);

impl Entropy for FakeEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let next = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        bytes.iter_mut().zip(next.iter().cycle()).for_each(|(byte, next)| *byte = *next);
    }

    fn uuid(&self) -> uuid::Uuid {
        uuid::Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::Relaxed)))
    }
}

//! Fakes of what decides about tokens, for tests only.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::fakes::FakeStore;
use crate::domain::identity::Identity;
use crate::domain::revocation::{keys_of, limit_reaches};
use crate::domain::time::UnixTime;
use crate::domain::verdict::TokenFault;
use crate::ports::{Revocations, Verified, Verifier};

/// Reads what [`super::fakes::FakeSigner`] writes; `they/SUB` is a token of another issuer. All else is malformed.
pub(crate) struct FakeVerifier;

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
}

impl Revocations for FakeStore {
    fn sequence(&self) -> Option<u64> {
        Some(1 + self.entries().len() as u64)
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        let entries = self.entries();
        keys_of(identity).any(|key| {
            let entry = entries.iter().find(|entry| entry.target.key() == key);
            entry.is_some_and(|entry| limit_reaches(key.0, entry.target.limit(), identity))
        })
    }
}

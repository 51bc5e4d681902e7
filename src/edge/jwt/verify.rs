//! Token verification: access tokens of ours and of external issuers, by one path.
//!
//! The header is judged before any key is looked up, the key decides the algorithm, the issuer decides
//! the keys, and the claims count only after the signature. Must never do I/O: a key that is not in
//! memory is an unknown key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;

use super::cache::TokenCache;
use super::claims::{self, Expect};
use super::clocks::Clocks;
use super::compact::Compact;
use super::issuers::{External, Issuers};
use super::keyring::SigningKeyRing;
use super::keyset::KeySet;
use super::others::OtherIssuers;
use super::verifying_key::ALL;
use crate::config::Tokens;
use palisade_core::domain::credential::MAX_TOKEN_BYTES;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::other_token::{OtherToken, TokenKind};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::{Refusal, TokenFault};
use palisade_core::ports::{FirstVerified, Meter, Verified, Verifier};

/// The gateway's verifier. A reload makes a new one, and with it an empty cache.
pub struct TokenVerifier {
    issuer: Arc<str>,
    audiences: Vec<String>,
    leeway: Duration,
    max_bytes: usize,
    ring: Arc<SigningKeyRing>,
    issuers: Arc<Issuers>,
    others: Arc<OtherIssuers>,
    clocks: Arc<Clocks>,
    cache: TokenCache,
    meter: Arc<dyn Meter>,
    first_verified: Arc<dyn FirstVerified>,
}

impl TokenVerifier {
    /// A verifier for our own tokens and those of `issuers`.
    #[must_use]
    pub fn new(
        tokens: &Tokens,
        ring: Arc<SigningKeyRing>,
        issuers: Arc<Issuers>,
        others: Arc<OtherIssuers>,
        clocks: Arc<Clocks>,
        meter: Arc<dyn Meter>,
        first_verified: Arc<dyn FirstVerified>,
    ) -> TokenVerifier {
        TokenVerifier {
            issuer: Arc::from(tokens.issuer.as_str()),
            audiences: vec![tokens.audience.clone()],
            leeway: tokens.leeway,
            max_bytes: tokens.max_bytes,
            ring,
            issuers,
            others,
            clocks,
            cache: TokenCache::new(tokens.cache_entries, tokens.leeway),
            meter,
            first_verified,
        }
    }

    fn verify_anew(&self, token: &str, now: UnixTime) -> Result<Identity, TokenFault> {
        if token.len() > self.max_bytes {
            return Err(TokenFault::TooLong);
        }
        let compact = Compact::read(token)?;
        // The claims are read whole only when the signature holds: what strangers write costs one pass.
        let issuer = compact.issuer()?;
        if *issuer == *self.issuer {
            if !compact.header.access_typed {
                return Err(TokenFault::Type);
            }
            self.ring.check(&compact, now)?;
            let expect = Expect {
                issuer: &self.issuer,
                audiences: Some(&self.audiences),
                ours: true,
                email_trusted: false,
                leeway: self.leeway,
            };
            let identity = claims::identity(compact.claims()?, expect, now)?;
            self.first_verified.passed(&identity);
            return Ok(identity);
        }
        let external = self.issuers.get(&issuer).ok_or(TokenFault::Issuer)?;
        if !external.algorithms().contains(&compact.header.algorithm) {
            return Err(TokenFault::Algorithm);
        }
        external.keys().find_for(&compact.header, &issuer)?.check(&compact)?;
        let mut claims = compact.claims()?;
        external.claims.take_over(&mut claims);
        let expect = Expect {
            issuer: external.name(),
            audiences: Some(&external.audiences),
            ours: false,
            email_trusted: external.email_trusted,
            leeway: self.leeway,
        };
        let identity = claims::identity(claims, expect, now)?;
        self.clocks.observe(&identity.issuer, identity.issued_at, now);
        Ok(identity)
    }
}

#[async_trait]
impl Verifier for TokenVerifier {
    fn verify(&self, token: &str, now: UnixTime) -> Result<Arc<Verified>, TokenFault> {
        // Read before the keys: a key withdrawn in between makes the entry stale, not wrong.
        let epoch = self.issuers.epoch();
        let known = self.cache.get(token, now, epoch);
        self.meter.token_cache(known.is_some());
        if let Some(verified) = known {
            return Ok(verified);
        }
        let verified = Arc::new(Verified::new(self.verify_anew(token, now)?));
        self.cache.put(token, &verified, now, epoch);
        Ok(verified)
    }

    async fn learn_keys(&self, token: &str) -> bool {
        let Ok(compact) = Compact::read(token) else { return false };
        let Ok(issuer) = compact.issuer() else { return false };
        if *issuer == *self.issuer {
            return self.ring.learn().await;
        }
        // An algorithm that the issuer may not use is verified by no key of it.
        let may_use = |external: &External| external.algorithms().contains(&compact.header.algorithm);
        if !self.issuers.get(&issuer).is_some_and(may_use) {
            return false;
        }
        self.issuers.learn(&issuer, Instant::now()).await
    }

    async fn verify_other(
        &self,
        token: &str,
        kind: OtherToken<'_>,
        now: UnixTime,
    ) -> Result<Arc<Verified>, Refusal> {
        if token.len() > self.max_bytes {
            return Err(Refusal::Token(TokenFault::TooLong));
        }
        self.others.verify(token, kind, now).await
    }

    fn accepts(&self, caller: &Verified) -> bool {
        let identity = &caller.identity;
        match caller.kind() {
            TokenKind::LoadBalancer => return self.others.accepts_balancers(identity),
            TokenKind::Opaque => return self.others.accepts_opaque(identity),
            TokenKind::Jwt => {}
        }
        let for_us = |audiences: &[String]| {
            claims::check_audience(identity.claims.get("aud"), Some(audiences)).is_ok()
        };
        if *identity.issuer == *self.issuer {
            return for_us(&self.audiences);
        }
        self.issuers.get(&identity.issuer).is_some_and(|external| for_us(&external.audiences))
    }
}

/// Verifies tokens against one key set given by hand (`palisade token verify --jwks FILE`). Here alone a
/// symmetric key is taken from a set: the caller who supplies it holds it already.
pub struct SetVerifier {
    keys: KeySet,
    leeway: Duration,
}

impl SetVerifier {
    /// Reads a JWK Set.
    ///
    /// # Errors
    /// What is wrong with it, without its content.
    pub fn new(jwks: &[u8], leeway: Duration) -> Result<SetVerifier, String> {
        let keys = KeySet::parse(jwks, &ALL)?;
        if keys.is_empty() {
            let why = "no usable signature key in the JWK Set";
            let left_out = keys.left_out().join("; ");
            return Err(if left_out.is_empty() { why.to_owned() } else { format!("{why} ({left_out})") });
        }
        Ok(SetVerifier { keys, leeway })
    }

    /// Checks form, header and signature; the payload may be anything (RFC 7515 §5.2).
    ///
    /// # Errors
    /// Why the token is not accepted.
    pub fn check_signature(&self, token: &str) -> Result<(), TokenFault> {
        let compact = read(token)?;
        self.keys.find(&compact.header)?.check(&compact)
    }

    /// Checks the signature and every claim, as for the token of an external issuer. Without an `issuer`
    /// any is taken, without an `audience` as well.
    ///
    /// # Errors
    /// Why the token is not accepted.
    pub fn check(
        &self,
        token: &str,
        issuer: Option<&str>,
        audience: Option<&str>,
        now: UnixTime,
    ) -> Result<(), TokenFault> {
        let compact = read(token)?;
        let claims = compact.claims()?;
        let issuer = match (issuer, claims.get("iss")) {
            (Some(issuer), _) => issuer,
            (None, Some(Value::String(issuer))) => issuer,
            (None, _) => return Err(TokenFault::Issuer),
        };
        self.keys.find_for(&compact.header, issuer)?.check(&compact)?;
        let issuer = Arc::from(issuer);
        let audiences = audience.map(|audience| [audience.to_owned()]);
        let expect = Expect {
            issuer: &issuer,
            audiences: audiences.as_ref().map(<[String; 1]>::as_slice),
            ours: false,
            email_trusted: false,
            leeway: self.leeway,
        };
        claims::identity(claims, expect, now).map(drop)
    }
}

/// Takes apart a token that is no longer than one is by default.
fn read(token: &str) -> Result<Compact<'_>, TokenFault> {
    if token.len() > MAX_TOKEN_BYTES { Err(TokenFault::TooLong) } else { Compact::read(token) }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;

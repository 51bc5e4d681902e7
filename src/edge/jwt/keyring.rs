//! Our own signing keys (next, active, retired) and their key rotation.
//!
//! A key is published before it signs and verifies until the last token it signed has ended, so a
//! rotation refuses no valid token. The ring is one of our own secrets, replaced as a whole and only
//! by what is durable; one that cannot be read stops the start and is never overwritten. How it changes is in
//! `rotation.rs`, how it is kept in `kept_ring.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::claims::{self, Expect};
use super::compact::{Compact, name};
use super::grants;
use super::kept_ring;
use super::keys::SigningKey;
use super::keyset::KeySet;
use super::rotation::settle;
use crate::config::{Algorithm, Tokens};
use palisade_core::domain::app_token::{self, AppTokenTerms};
use palisade_core::domain::identity::Identity;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::ClockReading;
use palisade_core::domain::verdict::TokenFault;
use palisade_core::ports::{
    AccessGrant, KeyInfo, KeyState, Keys, OwnSecret, Replaced, SecretRevision, SecretStore, SecretStoreError,
    SignError, Signed, Signer,
};
use palisade_core::service::mint::MAX_TTL;

/// How long an assertion for an upstream is good.
const ASSERTION_TTL: Duration = Duration::from_secs(60);

/// How long a rotation may take: a token signed meanwhile still finds its key.
const SLACK: Duration = Duration::from_secs(60);

/// Why there is no key ring. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The ring cannot be read or kept.
    #[error(transparent)]
    Store(#[from] SecretStoreError),
    /// What is kept is not a key ring that this version knows.
    #[error(
        "{place}: {why}; restore it from a backup, or move it away and start once with `palisade run --accept-new-keys` \
         to have new keys made"
    )]
    Unreadable { place: String, why: String },
    /// `tokens.key` cannot be used, or no key could be made.
    #[error("tokens.key: {0}")]
    Key(String),
}

#[derive(Clone)]
pub(super) struct Member {
    pub(super) key: SigningKey,
    pub(super) state: KeyState,
    pub(super) created_at: UnixTime,
    pub(super) activated_at: Option<UnixTime>,
    pub(super) retired_at: Option<UnixTime>,
    /// When the last token it signed has ended; `None` while it may still sign.
    pub(super) verifies_until: Option<UnixTime>,
}

impl Member {
    pub(super) fn new(key: SigningKey, state: KeyState, now: UnixTime) -> Member {
        let activated_at = (state == KeyState::Active).then_some(now);
        Member { key, state, created_at: now, activated_at, retired_at: None, verifies_until: None }
    }

    /// No longer signs, and verifies `until` then.
    pub(super) fn retire(&mut self, now: UnixTime, until: UnixTime) {
        self.state = KeyState::Retired;
        self.retired_at = Some(now);
        self.verifies_until = Some(until);
    }
}

/// A state of the ring: replaced as a whole.
pub(super) struct Ring {
    pub(super) active: Member,
    /// The next key and the retired ones.
    pub(super) others: Vec<Member>,
    keys: KeySet,
    /// As which it is kept; of one key from the configuration, the first.
    pub(super) revision: SecretRevision,
}

impl Ring {
    pub(super) fn new(active: Member, others: Vec<Member>) -> Ring {
        let keys = std::iter::once(&active)
            .chain(&others)
            .map(|member| (member.key.kid.clone(), member.key.verifying().clone()));
        Ring { keys: KeySet::of(keys), active, others, revision: SecretRevision::default() }
    }

    /// The same, as it is kept.
    pub(super) fn at(self, revision: SecretRevision) -> Ring {
        Ring { revision, ..self }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.active).chain(&self.others)
    }
}

pub(super) struct Inner {
    issuer: String,
    audience: String,
    pub(super) algorithm: Algorithm,
    /// `access_ttl` and the leeway: how long a key verifies after it stopped signing.
    pub(super) keep: Duration,
    pub(super) leeway: Duration,
    /// `None`: one key from the configuration, not ours to rotate.
    pub(super) secrets: Option<Arc<dyn SecretStore>>,
    pub(super) ring: ArcSwap<Ring>,
    /// The latest end of a token signed by the active key, when it is beyond the usual life.
    pub(super) longest: AtomicU64,
    /// Held while the ring is being replaced.
    pub(super) replacing: Mutex<()>,
    /// When a token whose key is not in the ring last had it read again.
    pub(super) learned_at: tokio::sync::Mutex<Option<Instant>>,
    made_keys: bool,
}

/// Our own keys, as the rest of the house uses them.
#[derive(Clone)]
pub struct SigningKeyRing(pub(super) Arc<Inner>);

impl SigningKeyRing {
    /// Opens the ring that `secrets` keeps, making it when there is none, or takes the one key of the
    /// configuration. A changed `tokens.algorithm` retires the old keys. A retired key goes once its last token has
    /// ended by [`ClockReading::earliest`]. Blocks; for the start.
    ///
    /// # Errors
    /// [`KeyRingError`]; then nothing was written.
    pub fn open(
        tokens: &Tokens,
        secrets: Arc<dyn SecretStore>,
        now: impl Into<ClockReading>,
    ) -> Result<SigningKeyRing, KeyRingError> {
        let reading = now.into();
        let now = reading.wall;
        let keep = tokens.access_ttl + tokens.leeway + SLACK;
        // What an earlier process signed for longer is not known any more: taken as the longest there is.
        let mut longest = reading.horizon.plus(MAX_TTL);
        let mut made_keys = false;
        let (ring, secrets) = match &tokens.key {
            Some(secret) => {
                let key =
                    SigningKey::read(tokens.algorithm, secret.expose_secret()).map_err(KeyRingError::Key)?;
                (Ring::new(Member::new(key, KeyState::Active, now), Vec::new()), None)
            }
            None => {
                let kept = kept_ring::read(&*secrets)?;
                made_keys = kept.is_none();
                if made_keys {
                    longest = UnixTime::default();
                }
                let until = longest.plus(tokens.leeway);
                let (stored, has_digest, mut revision) = match kept {
                    Some(mut kept) => {
                        kept.others.insert(0, kept.active);
                        (kept.others, kept.has_digest, kept.revision)
                    }
                    None => (Vec::new(), true, SecretRevision::default()),
                };
                let known: Vec<String> = stored.iter().map(|member| member.key.kid.clone()).collect();
                let (ring, changed) = settle(stored, tokens.algorithm, until, reading, secrets.is_shared())
                    .map_err(KeyRingError::Key)?;
                if made_keys {
                    let content = kept_ring::encode(ring.members(), &secrets.place(OwnSecret::SigningKeys))?;
                    let made = secrets.make(OwnSecret::SigningKeys, &content)?;
                    // Another process was faster: its keys are the ones.
                    if *made.content != *content {
                        return SigningKeyRing::open(tokens, secrets, reading);
                    }
                    revision = made.revision;
                } else if changed || !has_digest {
                    match kept_ring::write(&*secrets, ring.members(), revision) {
                        Ok(Replaced::Done(written)) => revision = written,
                        Ok(Replaced::Overtaken) => return SigningKeyRing::open(tokens, secrets, reading),
                        // A new key that is not kept would sign tokens that the next start refuses. All else is
                        // written with the next rotation.
                        Err(error) if ring.members().all(|member| known.contains(&member.key.kid)) => {
                            tracing::warn!(%error, "the ring of signing keys is left as it was");
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                secrets.goes_by(revision);
                (ring.at(revision), Some(secrets))
            }
        };
        Ok(SigningKeyRing(Arc::new(Inner {
            issuer: tokens.issuer.clone(),
            audience: tokens.audience.clone(),
            algorithm: tokens.algorithm,
            keep,
            leeway: tokens.leeway,
            secrets,
            ring: ArcSwap::from_pointee(ring),
            longest: AtomicU64::new(longest.0),
            replacing: Mutex::new(()),
            learned_at: tokio::sync::Mutex::default(),
            made_keys,
        })))
    }

    /// Whether the ring that is kept, if there is one, can be read. Writes nothing.
    ///
    /// # Errors
    /// [`KeyRingError`].
    pub fn look(secrets: &dyn SecretStore) -> Result<(), KeyRingError> {
        kept_ring::read(secrets).map(drop)
    }

    /// Whether [`SigningKeyRing::open`] made the first keys: worth saying once.
    #[must_use]
    pub fn made_keys(&self) -> bool {
        self.0.made_keys
    }

    /// Whether a key of ours, still verifying at `now`, signed `token`.
    ///
    /// # Errors
    /// [`TokenFault::UnknownKey`], [`TokenFault::Algorithm`] or [`TokenFault::Signature`].
    pub fn check(&self, token: &Compact<'_>, now: UnixTime) -> Result<(), TokenFault> {
        let ring = self.0.ring.load();
        let gone = |kid: &String| {
            ring.others.iter().any(|m| m.key.kid == *kid && m.verifies_until.is_some_and(|end| end <= now))
        };
        if token.header.key_id.as_ref().is_some_and(gone) {
            return Err(TokenFault::UnknownKey);
        }
        ring.keys.find(&token.header)?.check(token)
    }
}

impl Inner {
    fn sign(&self, typ: &str, claims: &Map<String, Value>) -> Result<String, SignError> {
        self.ring.load().active.key.sign(typ, claims)
    }
}

impl Signer for SigningKeyRing {
    fn issuer(&self) -> &str {
        &self.0.issuer
    }

    fn access_token(&self, grant: &AccessGrant, ttl: Duration, now: UnixTime) -> Result<Signed, SignError> {
        let mut claims = grants::claims(&self.0.issuer, &self.0.audience, grant, ttl, now);
        let expires_at = now.plus(ttl);
        let token_id = uuid::Uuid::now_v7().to_string();
        claims.insert("jti".to_owned(), json!(token_id));
        // Before signing, so that a rotation in between keeps the key long enough.
        self.0.longest.fetch_max(expires_at.0, Ordering::AcqRel);
        Ok(Signed { token: self.0.sign("at+jwt", &claims)?, token_id, expires_at })
    }

    fn identity(&self, grant: &AccessGrant, ttl: Duration, now: UnixTime) -> Result<Identity, SignError> {
        let issuer = Arc::from(self.0.issuer.as_str());
        // By the rules that a token is read by; its signature and its audience are our own.
        let expect = Expect {
            issuer: &issuer,
            audiences: None,
            ours: true,
            email_trusted: false,
            leeway: Duration::ZERO,
        };
        claims::identity(grants::claims(&self.0.issuer, &self.0.audience, grant, ttl, now), expect, now)
            .map_err(|fault| SignError(format!("no token of this grant would be accepted: {fault:?}")))
    }

    fn assertion(&self, identity: &Identity, route: &str, now: UnixTime) -> Result<String, SignError> {
        // Neither its `typ` nor its `type` is an access token's: it opens nothing here.
        let Value::Object(mut claims) = json!({
            "iss": self.0.issuer, "aud": route, "sub": identity.subject, "type": "assertion",
            "idp": &*identity.issuer, "iat": now, "exp": now.plus(ASSERTION_TTL),
            "jti": uuid::Uuid::now_v7().to_string(),
        }) else {
            return Err(SignError("claims are an object".to_owned()));
        };
        if let Some(email) = &identity.email {
            claims.insert("email".to_owned(), json!(email));
            claims.insert("email_verified".to_owned(), json!(identity.email_verified));
        }
        if let Some(session) = &identity.session {
            claims.insert("sid".to_owned(), json!(session));
        }
        if !identity.scopes.is_empty() {
            claims.insert("scope".to_owned(), json!(identity.scopes.join(" ")));
        }
        if let Some(name) = identity.claims.get("name").filter(|name| name.is_string()) {
            claims.insert("name".to_owned(), name.clone());
        }
        self.0.sign("JWT", &claims)
    }

    fn app_token(
        &self,
        identity: &Identity,
        terms: &AppTokenTerms,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<String, SignError> {
        let mut claims = app_token::claims(identity, terms, now, until);
        claims.insert("jti".to_owned(), json!(uuid::Uuid::now_v7()));
        self.0.longest.fetch_max(until.0, Ordering::AcqRel);
        self.0.sign("at+jwt", &claims)
    }
}

#[async_trait]
impl Keys for SigningKeyRing {
    fn list(&self) -> Vec<KeyInfo> {
        let info = |member: &Member| KeyInfo {
            kid: member.key.kid.clone(),
            algorithm: name(member.key.algorithm).to_owned(),
            state: member.state,
            created_at: member.created_at,
            activated_at: member.activated_at,
            retired_at: member.retired_at,
        };
        self.0.ring.load().members().map(info).collect()
    }

    fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.0.ring.load().members().filter_map(|m| m.key.public_jwk()).collect();
        json!({ "keys": keys })
    }

    async fn rotate(&self, now: ClockReading) -> Result<Vec<KeyInfo>, SignError> {
        let inner = Arc::clone(&self.0);
        // Making an RSA key and syncing a disk take longer than a worker may be held.
        tokio::task::spawn_blocking(move || inner.rotate(now))
            .await
            .map_err(|_| SignError("the rotation was interrupted".to_owned()))??;
        Ok(self.list())
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;

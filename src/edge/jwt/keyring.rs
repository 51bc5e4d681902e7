//! Our own signing keys (next, active, retired) and their key rotation.
//!
//! A key is published before it signs and verifies until the last token it signed has ended, so a
//! rotation refuses no valid token. The ring is one of our own secrets, replaced as a whole and only
//! by what is durable; one that cannot be read stops the start and is never overwritten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::claims::{self, Expect};
use super::compact::{Compact, algorithm, name};
use super::digest;
use super::grants;
use super::keys::SigningKey;
use super::keyset::KeySet;
use crate::config::{Algorithm, Tokens};
use palisade_core::domain::app_token::{self, AppTokenTerms};
use palisade_core::domain::identity::Identity;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::ClockReading;
use palisade_core::domain::verdict::TokenFault;
use palisade_core::ports::{
    AccessGrant, KeyInfo, KeyState, Keys, OwnSecret, SecretStore, SecretStoreError, SignError, Signed, Signer,
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
struct Member {
    key: SigningKey,
    state: KeyState,
    created_at: UnixTime,
    activated_at: Option<UnixTime>,
    retired_at: Option<UnixTime>,
    /// When the last token it signed has ended; `None` while it may still sign.
    verifies_until: Option<UnixTime>,
}

/// A state of the ring: replaced as a whole.
struct Ring {
    active: Member,
    /// The next key and the retired ones.
    others: Vec<Member>,
    keys: KeySet,
}

impl Ring {
    fn new(active: Member, others: Vec<Member>) -> Ring {
        let keys = std::iter::once(&active)
            .chain(&others)
            .map(|member| (member.key.kid.clone(), member.key.verifying().clone()));
        Ring { keys: KeySet::of(keys), active, others }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.active).chain(&self.others)
    }
}

struct Inner {
    issuer: String,
    audience: String,
    algorithm: Algorithm,
    /// `access_ttl` and the leeway: how long a key verifies after it stopped signing.
    keep: Duration,
    leeway: Duration,
    /// `None`: one key from the configuration, not ours to rotate.
    secrets: Option<Arc<dyn SecretStore>>,
    ring: ArcSwap<Ring>,
    /// The latest end of a token signed by the active key, when it is beyond the usual life.
    longest: AtomicU64,
    /// Held while the ring is being replaced.
    replacing: Mutex<()>,
    made_keys: bool,
}

/// Our own keys, as the rest of the house uses them.
#[derive(Clone)]
pub struct SigningKeyRing(Arc<Inner>);

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
                (Ring::new(member(key, KeyState::Active, now), Vec::new()), None)
            }
            None => {
                let (stored, has_digest) = read(&*secrets)?;
                made_keys = stored.is_empty();
                if made_keys {
                    longest = UnixTime::default();
                }
                let until = longest.plus(tokens.leeway);
                let known: Vec<String> = stored.iter().map(|member| member.key.kid.clone()).collect();
                let (ring, changed) =
                    settle(stored, tokens.algorithm, until, reading).map_err(KeyRingError::Key)?;
                if made_keys {
                    let content = encode(&ring, &secrets.place(OwnSecret::SigningKeys))?;
                    // Another process was faster: its keys are the ones.
                    if *secrets.make(OwnSecret::SigningKeys, &content)? != *content {
                        return SigningKeyRing::open(tokens, secrets, reading);
                    }
                } else if changed || !has_digest {
                    match write(&*secrets, &ring) {
                        // A new key that is not kept would sign tokens that the next start refuses. All else is
                        // written with the next rotation.
                        Err(error) if ring.members().all(|member| known.contains(&member.key.kid)) => {
                            tracing::warn!(%error, "the ring of signing keys is left as it was");
                        }
                        written => written?,
                    }
                }
                (ring, Some(secrets))
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
            made_keys,
        })))
    }

    /// Whether the ring that is kept, if there is one, can be read. Writes nothing.
    ///
    /// # Errors
    /// [`KeyRingError`].
    pub fn look(secrets: &dyn SecretStore) -> Result<(), KeyRingError> {
        read(secrets).map(drop)
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

    fn rotate(&self, reading: ClockReading) -> Result<(), SignError> {
        let now = reading.wall;
        let Some(secrets) = &self.secrets else {
            return Err(SignError(
                "the key comes from tokens.key and is rotated where it is kept".to_owned(),
            ));
        };
        // A panic while holding it leaves the ring as it was: it is only replaced as a whole.
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.ring.load_full();
        let mut old = before.active.clone();
        let longest = UnixTime(self.longest.load(Ordering::Acquire)).plus(self.leeway);
        retire(&mut old, now, reading.horizon.plus(self.keep).max(longest));
        let mut others: Vec<Member> = Vec::with_capacity(before.others.len() + 2);
        let mut active = None;
        for other in &before.others {
            match other.state {
                KeyState::Next => active = Some(other.clone()),
                _ => others.push(other.clone()),
            }
        }
        others.insert(0, old);
        let mut active = match active {
            Some(next) => next,
            None => member(SigningKey::generate(self.algorithm).map_err(SignError)?, KeyState::Next, now),
        };
        active.state = KeyState::Active;
        active.activated_at = Some(now);
        others.retain(|member| member.verifies_until.is_none_or(|end| end > reading.earliest));
        others
            .insert(0, member(SigningKey::generate(self.algorithm).map_err(SignError)?, KeyState::Next, now));
        let ring = Ring::new(active, others);
        write(&**secrets, &ring).map_err(|error| SignError(error.to_string()))?;
        self.ring.store(Arc::new(ring));
        Ok(())
    }
}

fn member(key: SigningKey, state: KeyState, now: UnixTime) -> Member {
    let activated_at = (state == KeyState::Active).then_some(now);
    Member { key, state, created_at: now, activated_at, retired_at: None, verifies_until: None }
}

fn retire(member: &mut Member, now: UnixTime, until: UnixTime) {
    member.state = KeyState::Retired;
    member.retired_at = Some(now);
    member.verifies_until = Some(until);
}

/// Makes a whole ring out of what was stored: one active key of `algorithm`, one next, the retired ones
/// that still verify; an active one that has to go verifies `until` then. True when it differs from what was stored.
fn settle(
    stored: Vec<Member>,
    algorithm: Algorithm,
    until: UnixTime,
    reading: ClockReading,
) -> Result<(Ring, bool), String> {
    let now = reading.wall;
    let (mut active, mut next, mut retired, mut changed) = (None, None, Vec::new(), false);
    for mut stored in stored {
        match stored.state {
            KeyState::Active if stored.key.algorithm == algorithm => active = Some(stored),
            KeyState::Next if stored.key.algorithm == algorithm => next = Some(stored),
            KeyState::Active => {
                retire(&mut stored, now, until);
                retired.push(stored);
                changed = true;
            }
            KeyState::Next => changed = true, // Never signed anything.
            KeyState::Retired => retired.push(stored),
        }
    }
    let mut make = |state| {
        changed = true;
        SigningKey::generate(algorithm).map(|key| member(key, state, now))
    };
    let active = active.map_or_else(|| make(KeyState::Active), Ok)?;
    let next = next.map_or_else(|| make(KeyState::Next), Ok)?;
    let kept = retired.len();
    retired.retain(|member| member.verifies_until.is_none_or(|end| end > reading.earliest));
    changed |= retired.len() != kept;
    retired.insert(0, next);
    Ok((Ring::new(active, retired), changed))
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRing {
    version: u32,
    keys: Vec<StoredKey>,
    /// Of the keys. Version 0.1.0 wrote none.
    #[serde(default)]
    digest: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    kid: String,
    algorithm: String,
    state: String,
    created_at: UnixTime,
    activated_at: Option<UnixTime>,
    retired_at: Option<UnixTime>,
    verifies_until: Option<UnixTime>,
    secret: Zeroizing<String>,
}

/// The stored members, none when nothing is kept; and whether a digest stands for them.
fn read(secrets: &dyn SecretStore) -> Result<(Vec<Member>, bool), KeyRingError> {
    let place = secrets.place(OwnSecret::SigningKeys);
    let unreadable = |why: String| KeyRingError::Unreadable { place: place.clone(), why };
    let Some(bytes) = secrets.read(OwnSecret::SigningKeys)? else { return Ok((Vec::new(), true)) };
    // The library's words could quote the file, so only the place is told.
    let stored: StoredRing = serde_json::from_slice(&bytes)
        .map_err(|e| unreadable(format!("not a key ring (line {}, column {})", e.line(), e.column())))?;
    if stored.version != 1 {
        return Err(unreadable(format!("version {} is not known to this program", stored.version)));
    }
    let digest = digest::of(&stored.keys).map_err(|e| unreadable(e.to_string()))?;
    if stored.digest.as_ref().is_some_and(|stored| *stored != digest) {
        return Err(unreadable("it is damaged: its content does not fit its digest".into()));
    }
    let has_digest = stored.digest.is_some();
    let members = stored.keys.into_iter().map(|stored| {
        let algorithm = algorithm(&stored.algorithm).ok_or_else(|| unreadable("unknown algorithm".into()))?;
        let state = match stored.state.as_str() {
            "next" => KeyState::Next,
            "active" => KeyState::Active,
            "retired" => KeyState::Retired,
            _ => return Err(unreadable("unknown key state".into())),
        };
        let key = SigningKey::read(algorithm, &stored.secret).map_err(unreadable)?;
        if key.kid != stored.kid {
            return Err(unreadable("a key does not match its kid".into()));
        }
        Ok(Member {
            key,
            state,
            created_at: stored.created_at,
            activated_at: stored.activated_at,
            retired_at: stored.retired_at,
            verifies_until: stored.verifies_until,
        })
    });
    let members: Vec<Member> = members.collect::<Result<_, _>>()?;
    match members.iter().filter(|member| member.state == KeyState::Active).count() {
        1 => Ok((members, has_digest)),
        _ => Err(unreadable("it must hold exactly one active key".into())),
    }
}

/// Replaces what is kept as a whole; durable when it returns.
fn write(secrets: &dyn SecretStore, ring: &Ring) -> Result<(), SecretStoreError> {
    let content = encode(ring, &secrets.place(OwnSecret::SigningKeys))?;
    secrets.replace(OwnSecret::SigningKeys, &content)
}

/// The ring as it is kept, at `place`.
fn encode(ring: &Ring, place: &str) -> Result<Zeroizing<Vec<u8>>, SecretStoreError> {
    let keys = ring.members().map(|member| StoredKey {
        kid: member.key.kid.clone(),
        algorithm: name(member.key.algorithm).to_owned(),
        state: match member.state {
            KeyState::Next => "next",
            KeyState::Active => "active",
            KeyState::Retired => "retired",
        }
        .to_owned(),
        created_at: member.created_at,
        activated_at: member.activated_at,
        retired_at: member.retired_at,
        verifies_until: member.verifies_until,
        secret: Zeroizing::new(member.key.secret().to_owned()),
    });
    let keys: Vec<StoredKey> = keys.collect();
    let failed =
        |why: &dyn std::fmt::Display| SecretStoreError { place: place.to_owned(), why: why.to_string() };
    let digest = Some(digest::of(&keys).map_err(|error| failed(&error))?);
    let stored = StoredRing { version: 1, keys, digest };
    serde_json::to_vec_pretty(&stored).map(Zeroizing::new).map_err(|error| failed(&error))
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;

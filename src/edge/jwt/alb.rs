//! What a load balancer of AWS says of a caller in `X-Amzn-Oidc-Data`
//! (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/listener-authenticate-users.html>).
//!
//! It is a JWS with padding, whose header says what the claims of other tokens say: who signed (`signer`, the ARN of the
//! load balancer), for which client of which identity provider (`client`, `iss`), and until when (`exp`). It has no
//! `aud`. The keys of all load balancers of a region are at one address, each under its `kid` as one PEM file: another
//! customer's load balancer has a good signature, too, so the signature counts only together with the ARN.
//!
//! Everything that needs no key is checked before one is fetched. The `kid` becomes an element of a path, so it must be a
//! UUID as AWS writes it, and nothing else of a token reaches the request. A key is kept only once it has verified a
//! token that is good here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::cache::TokenCache;
use super::claims::{self, Expect};
use super::compact::{Compact, read_header};
use super::issuers::ASK_AGAIN;
use super::json;
use super::verifying_key::VerifyingKey;
use crate::config::{self, Algorithm};
use palisade_core::domain::identity::Identity;
use palisade_core::domain::other_token::TokenKind;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::TokenFault;
use palisade_core::ports::{Fetch, FetchError, FetchRequest, Meter, Verified};

/// The most keys that are kept; the one that was not used for the longest time makes room.
const MOST_KEYS: usize = 16;
/// The largest key file.
const MAX_KEY_BYTES: usize = 8 * 1024;
/// How long a key is used without another look at its address.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// The same after a look that failed.
const RETRY: Duration = Duration::from_secs(60);

/// What comes before the point in the DER of a P-256 key (RFC 5480 §2): the algorithm, and that the point is
/// uncompressed.
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// The load balancers of one identity provider, as a configuration describes them.
pub struct BalancerVerifier {
    settings: config::LoadBalancers,
    issuer: Arc<str>,
    keys: Arc<BalancerKeys>,
    cache: TokenCache,
    leeway: Duration,
    meter: Arc<dyn Meter>,
}

/// A statement taken apart, in which everything is as it must be but the signature.
struct Statement<'a> {
    kid: Uuid,
    compact: Compact<'a>,
    claims: Map<String, Value>,
}

impl BalancerVerifier {
    /// The load balancers of a configuration. `before`: those of the same issuer in the one before, whose keys go on.
    pub(super) fn new(
        settings: &config::LoadBalancers,
        tokens: &config::Tokens,
        fetch: &Arc<dyn Fetch>,
        meter: &Arc<dyn Meter>,
        before: Option<&BalancerVerifier>,
    ) -> BalancerVerifier {
        let issuer: Arc<str> = Arc::from(settings.issuer.as_str());
        let same = before.filter(|before| {
            before.settings.keys == settings.keys && before.settings.reach == settings.reach
        });
        let keys = same.map_or_else(
            || {
                Arc::new(BalancerKeys {
                    issuer: Arc::clone(&issuer),
                    address: settings.keys.clone(),
                    reach: settings.reach.clone(),
                    redaction: settings.redaction.clone(),
                    fetch: Arc::clone(fetch),
                    meter: Arc::clone(meter),
                    state: Mutex::default(),
                    epoch: AtomicU64::new(0),
                })
            },
            |before| Arc::clone(&before.keys),
        );
        BalancerVerifier {
            settings: settings.clone(),
            issuer,
            keys,
            cache: TokenCache::new(tokens.cache_entries, tokens.leeway),
            leeway: tokens.leeway,
            meter: Arc::clone(meter),
        }
    }

    /// Verifies what a load balancer said. Waits for a key that was never seen, which is asked for at most once in
    /// [`ASK_AGAIN`].
    pub(super) async fn verify(
        &self,
        token: &str,
        now: UnixTime,
        at: Instant,
    ) -> Result<Arc<Verified>, TokenFault> {
        let epoch = self.keys.epoch.load(Ordering::Acquire);
        let known = self.cache.get(token, now, epoch);
        self.meter.token_cache(known.is_some());
        if let Some(verified) = known {
            return Ok(verified);
        }
        let statement = self.read(token, now)?;
        let key = match self.keys.known(statement.kid, at) {
            Some(key) => key,
            None => self.keys.learn(statement.kid, at).await.ok_or(TokenFault::UnknownKey)?,
        };
        key.key.check(&statement.compact)?;
        let identity = self.identity(statement.claims, now)?;
        self.keys.keep(statement.kid, key, at);
        let verified = Arc::new(Verified::of(TokenKind::LoadBalancer, identity));
        self.cache.put(token, &verified, now, epoch);
        Ok(verified)
    }

    /// Whether the load balancer and the client that an identity names are still taken.
    pub(super) fn accepts(&self, identity: &Identity) -> bool {
        let named = |name: &str| identity.claims.get(name).and_then(Value::as_str).unwrap_or_default();
        self.settings.signers.iter().any(|signer| signer == named("signer"))
            && self.settings.clients.iter().any(|client| client == named("client"))
    }

    /// Takes a statement apart and holds it against every rule that needs no key.
    fn read<'a>(&self, token: &'a str, now: UnixTime) -> Result<Statement<'a>, TokenFault> {
        let mut parts = token.split('.');
        let (Some(head), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::Malformed);
        };
        let members = json::object(&decode(head)?)?;
        let header = read_header(&members)?;
        if header.algorithm != Algorithm::Es256 {
            return Err(TokenFault::Algorithm);
        }
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        if !text("signer").is_some_and(|signer| self.settings.signers.iter().any(|own| own == signer)) {
            return Err(TokenFault::Issuer);
        }
        if text("iss") != Some(&*self.issuer) {
            return Err(TokenFault::Issuer);
        }
        if !text("client").is_some_and(|client| self.settings.clients.iter().any(|own| own == client)) {
            return Err(TokenFault::Audience);
        }
        let exp = members.get("exp").ok_or(TokenFault::NoExpiry)?.as_u64().ok_or(TokenFault::Claim)?;
        if now >= UnixTime(exp).plus(self.leeway) {
            return Err(TokenFault::Expired);
        }
        let kid = header.key_id.as_deref().and_then(key_id).ok_or(TokenFault::UnknownKey)?;
        let payload_bytes = decode(payload)?;
        let mut claims = json::object(&payload_bytes)?;
        // What the identity provider said stays, but for what the load balancer says itself.
        for name in ["iss", "signer", "client", "exp"] {
            let said = members.get(name).cloned().unwrap_or_default();
            match (name, claims.insert(name.to_owned(), said)) {
                ("iss", Some(other)) if other != members["iss"] => return Err(TokenFault::Issuer),
                ("exp", Some(other)) => {
                    let earlier = other.as_u64().ok_or(TokenFault::Claim)?.min(exp);
                    claims.insert(name.to_owned(), json!(earlier));
                }
                _ => {}
            }
        }
        decode(signature)?;
        let signed = &token[..head.len() + 1 + payload.len()];
        let compact =
            Compact { header, payload: payload_bytes, signed, signature: signature.trim_end_matches('=') };
        Ok(Statement { kid, compact, claims })
    }

    fn identity(&self, mut claims: Map<String, Value>, now: UnixTime) -> Result<Identity, TokenFault> {
        self.settings.claims.take_over(&mut claims);
        let expect = Expect {
            issuer: &self.issuer,
            // It has none: `client` and `signer` stand for it.
            audiences: None,
            ours: false,
            email_trusted: self.settings.email_trusted,
            leeway: self.leeway,
        };
        claims::identity(claims, expect, now)
    }
}

/// Base64url, with padding as load balancers write it, or without.
fn decode(part: &str) -> Result<Vec<u8>, TokenFault> {
    let engine = if part.ends_with('=') { &URL_SAFE } else { &URL_SAFE_NO_PAD };
    engine.decode(part).map_err(|_| TokenFault::Malformed)
}

/// The `kid` of a load balancer: a UUID in lower case with hyphens, and no other spelling of one.
fn key_id(kid: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(kid).ok()?;
    (id.hyphenated().to_string() == kid).then_some(id)
}

/// A key of a load balancer.
#[derive(Clone)]
struct BalancerKey {
    key: VerifyingKey,
    /// The point, to tell whether two keys are the same.
    point: [u8; 64],
}

impl BalancerKey {
    /// Reads the PEM file of a P-256 key.
    fn read(pem: &[u8]) -> Result<BalancerKey, &'static str> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "no public key in PEM")?;
        let point: &[u8; 64] = der
            .as_ref()
            .strip_prefix(&P256)
            .and_then(|point| point.try_into().ok())
            .ok_or("no key for ES256")?;
        let (x, y) = point.split_at(32);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": encode(x), "y": encode(y)});
        let Value::Object(jwk) = jwk else { return Err("no key for ES256") };
        let key = VerifyingKey::from_jwk(&jwk).map_err(|_| "no key for ES256")?;
        Ok(BalancerKey { key, point: *point })
    }
}

/// The keys of the load balancers of a region, as far as they were needed. Handed on from one configuration to the
/// next.
struct BalancerKeys {
    issuer: Arc<str>,
    /// Without the last slash.
    address: String,
    reach: palisade_core::domain::reach::Reach,
    redaction: config::Redaction,
    fetch: Arc<dyn Fetch>,
    meter: Arc<dyn Meter>,
    state: Mutex<State>,
    /// Grows whenever a key is gone, so that what it verified is verified again.
    epoch: AtomicU64,
}

#[derive(Default)]
struct State {
    kept: Vec<Kept>,
    /// When a key that was never seen was last asked for.
    asked: Option<Instant>,
    asking: Option<(Uuid, watch::Receiver<Option<Option<BalancerKey>>>)>,
}

struct Kept {
    kid: Uuid,
    key: BalancerKey,
    used: Instant,
    /// When to look at its address again.
    look: Instant,
}

/// Why there is no key.
enum NoKey {
    /// The address has none of this name.
    Gone(String),
    Failed(String),
}

impl BalancerKeys {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key that was seen before. Now and then it is looked for again, in the background.
    fn known(self: &Arc<Self>, kid: Uuid, at: Instant) -> Option<BalancerKey> {
        let mut state = self.lock();
        let kept = state.kept.iter_mut().find(|kept| kept.kid == kid)?;
        kept.used = at;
        if at >= kept.look {
            kept.look = at + RETRY;
            let keys = Arc::clone(self);
            tokio::spawn(async move { keys.renew(kid, at).await });
        }
        Some(kept.key.clone())
    }

    /// Asks for a key that was never seen, unless one was asked for within the last [`ASK_AGAIN`] before `at`. Those who
    /// ask for the same one wait for the one answer.
    async fn learn(self: &Arc<Self>, kid: Uuid, at: Instant) -> Option<BalancerKey> {
        let mut answer = {
            let mut state = self.lock();
            match &state.asking {
                // A task that panicked has told nothing, and left its place.
                Some((asked, answer)) if *asked == kid && answer.has_changed().is_ok() => answer.clone(),
                _ if state.asked.is_some_and(|last| at.saturating_duration_since(last) < ASK_AGAIN) => {
                    return None;
                }
                _ => {
                    let (tell, answer) = watch::channel(None);
                    state.asked = Some(at);
                    state.asking = Some((kid, answer.clone()));
                    // A task of its own: a caller that is dropped must not cancel the fetch for the others.
                    let keys = Arc::clone(self);
                    tokio::spawn(async move {
                        let found = keys.ask(kid).await;
                        if let Err(NoKey::Gone(why) | NoKey::Failed(why)) = &found {
                            tracing::warn!("the key {kid} of {}: {why}", keys.issuer);
                        }
                        tell.send_replace(Some(found.ok()));
                        let mut state = keys.lock();
                        state.asking = state.asking.take().filter(|(asked, _)| *asked != kid);
                    });
                    answer
                }
            }
        };
        let told = answer.wait_for(Option::is_some).await.ok()?;
        told.clone().flatten()
    }

    /// Keeps a key that has verified a token.
    fn keep(&self, kid: Uuid, key: BalancerKey, at: Instant) {
        let mut state = self.lock();
        if state.kept.iter().any(|kept| kept.kid == kid) {
            return;
        }
        if state.kept.len() >= MOST_KEYS
            && let Some(oldest) = (0..state.kept.len()).min_by_key(|at| state.kept[*at].used)
        {
            state.kept.swap_remove(oldest);
        }
        state.kept.push(Kept { kid, key, used: at, look: at + LOOK_AGAIN });
    }

    /// Looks at the address of a known key again. While it is down the key stays.
    async fn renew(&self, kid: Uuid, began: Instant) {
        let found = self.ask(kid).await;
        let mut state = self.lock();
        let Some(at) = state.kept.iter().position(|kept| kept.kid == kid) else { return };
        let is_other = match found {
            Ok(key) => {
                let kept = &mut state.kept[at];
                kept.look = began + LOOK_AGAIN;
                let is_other = kept.key.point != key.point;
                kept.key = key;
                is_other
            }
            Err(NoKey::Gone(why)) => {
                tracing::warn!("the key {kid} of {} is withdrawn: {why}", self.issuer);
                state.kept.swap_remove(at);
                true
            }
            Err(NoKey::Failed(why)) => {
                tracing::warn!("the key {kid} of {}: {why}; the one that is known stays", self.issuer);
                false
            }
        };
        if is_other {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    async fn ask(&self, kid: Uuid) -> Result<BalancerKey, NoKey> {
        let url = format!("{}/{}", self.address, kid.hyphenated());
        let request = FetchRequest { url: &url, max_bytes: MAX_KEY_BYTES, reach: &self.reach };
        let found = match self.fetch.get(request).await {
            Ok(fetched) => {
                BalancerKey::read(&fetched.body).map_err(|why| NoKey::Failed(format!("{url}: {why}")))
            }
            // Storage services answer 403 where a listing is not allowed, too.
            Err(error @ FetchError::Answered { status: 403 | 404 | 410, .. }) => {
                Err(NoKey::Gone(error.to_string()))
            }
            Err(error) => Err(NoKey::Failed(error.to_string())),
        };
        self.meter.jwks_fetch(&self.issuer, found.is_ok());
        found.map_err(|why| match why {
            NoKey::Gone(why) => NoKey::Gone(self.redaction.hide(why)),
            NoKey::Failed(why) => NoKey::Failed(self.redaction.hide(why)),
        })
    }
}

#[cfg(test)]
#[path = "alb_tests.rs"]
mod tests;

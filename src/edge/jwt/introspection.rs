//! Opaque tokens: their issuer is asked about them (RFC 7662), and its answers are believed for seconds.
//!
//! An answer counts as the claims of a JWT would: `active` only together with the issuer and the audience of the route,
//! the times, and no binding to a key. Requests are single-flight for each token, and bounded in number at once and in
//! any second; a quarter of both bounds is for tokens that were active lately, so that made-up ones cannot keep out those
//! who are at work. What could be a JWT or a credential of ours never leaves. Tokens are in no log, and kept only as keyed
//! hashes, but for the moment in which they are sent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use moka::sync::Cache;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::claims::{self, Expect};
use super::clocks::Clocks;
use super::json;
use crate::config::{self, IntrospectionAuth};
use palisade_core::domain::identity::Identity;
use palisade_core::domain::other_token::{TokenKind, is_access_token, looks_signed};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::{Refusal, TokenFault};
use palisade_core::ports::{Fetch, Fetched, FormAuth, Meter, OwnCredentials, PostForm, Verified};

/// The largest answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The most answers that are kept of each sort, if they are of an ordinary length; fewer that are longer.
const MOST_ANSWERS: u64 = 16_384;
/// The bytes of an answer that counts as one.
const ORDINARY: usize = 1024;
/// How long a token that was active counts as one that is known.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How long no request is made after one failed, and how long a failure about one token stands for it.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest that the endpoint can ask to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The shortest time between two lines of the log about one endpoint.
const TELL_AGAIN: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// The keyed SHA-256 of a token.
type Digest = [u8; 32];

/// What is known of a token, and since when.
#[derive(Clone)]
struct Answer {
    outcome: Result<Arc<Verified>, Unaccepted>,
    /// By a clock that stands still while the machine is suspended, and by one that can be set.
    at: Instant,
    since: UnixTime,
    /// How long it is believed.
    good_for: Duration,
    /// Bytes of the answer.
    size: usize,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unaccepted {
    Token(TokenFault),
    Unavailable(Duration),
}

impl From<Unaccepted> for Refusal {
    fn from(unaccepted: Unaccepted) -> Refusal {
        match unaccepted {
            Unaccepted::Token(fault) => Refusal::Token(fault),
            Unaccepted::Unavailable(retry_after) => Refusal::IssuerUnavailable { retry_after },
        }
    }
}

impl Answer {
    fn is_fresh(&self, at: Instant, now: UnixTime) -> bool {
        at.saturating_duration_since(self.at) < self.good_for
            && self.since <= now
            // Its seconds are whole ones.
            && now <= self.since.plus(self.good_for)
    }
}

/// What introspections need of the process.
#[derive(Clone)]
pub struct IntrospectionPorts {
    pub fetch: Arc<dyn Fetch>,
    pub meter: Arc<dyn Meter>,
    pub own: Arc<dyn OwnCredentials>,
    pub clocks: Arc<Clocks>,
}

/// An issuer that is asked about its tokens.
pub struct Introspector {
    settings: config::IntrospectedIssuer,
    issuer: Arc<str>,
    leeway: Duration,
    ports: IntrospectionPorts,
    /// Of this object, so that what is kept says nothing about tokens elsewhere.
    key: hmac::Key,
    active: Cache<Digest, Answer>,
    /// Apart, so that made-up tokens push out no good one.
    others: Cache<Digest, Answer>,
    asking: Mutex<Asking>,
}

/// The requests under way.
#[derive(Default)]
struct Asking {
    flights: HashMap<Digest, watch::Receiver<Option<Answer>>>,
    /// When those of the last second were begun.
    begun: VecDeque<Instant>,
    /// No request is made before.
    paused_until: Option<Instant>,
    /// The same for tokens that were not active lately. A stranger can make some requests fail by what its token says, so
    /// what failed for one token keeps no known one out.
    unknown_paused_until: Option<Instant>,
    told: Option<Instant>,
}

/// What keeps a request from being made.
enum Turn {
    Begin,
    Shed(Duration),
}

impl Asking {
    /// Whether one more may begin. `known`: for a token that was active lately.
    fn admit(&mut self, settings: &config::Introspection, known: bool, at: Instant) -> Turn {
        let paused_until =
            if known { self.paused_until } else { self.paused_until.max(self.unknown_paused_until) };
        if let Some(until) = paused_until.filter(|until| at < *until) {
            return Turn::Shed(until - at);
        }
        while self.begun.front().is_some_and(|begun| at.saturating_duration_since(*begun) >= SECOND) {
            self.begun.pop_front();
        }
        let share = |bound: usize| if known { bound } else { bound - bound / 4 };
        if self.flights.len() >= share(settings.in_flight) || self.begun.len() >= share(settings.per_second) {
            return Turn::Shed(SECOND);
        }
        self.begun.push_back(at);
        Turn::Begin
    }
}

/// Takes a flight off the list when its task ends, however it does.
struct Flight {
    of: Arc<Introspector>,
    digest: Digest,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.of.lock().flights.remove(&self.digest);
    }
}

impl Introspector {
    pub(super) fn new(
        settings: &config::IntrospectedIssuer,
        leeway: Duration,
        ports: IntrospectionPorts,
    ) -> Result<Introspector, String> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| "no randomness".to_owned())?;
        let weight =
            |_: &Digest, answer: &Answer| u32::try_from(1 + answer.size / ORDINARY).unwrap_or(u32::MAX);
        let kept =
            |life| Cache::builder().max_capacity(MOST_ANSWERS).weigher(weight).time_to_live(life).build();
        Ok(Introspector {
            issuer: Arc::from(settings.issuer.as_str()),
            leeway,
            ports,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            active: kept(REMEMBERED),
            others: kept(settings.introspection.cache.max(PAUSE)),
            asking: Mutex::default(),
            settings: settings.clone(),
        })
    }

    /// Whether this one would go on as it is under `settings`.
    pub(super) fn is_of(&self, settings: &config::IntrospectedIssuer, leeway: Duration) -> bool {
        let own = &self.settings;
        self.leeway == leeway
            && own.issuer == settings.issuer
            && own.audiences == settings.audiences
            && own.email_trusted == settings.email_trusted
            && own.claims == settings.claims
            && own.introspection == settings.introspection
            && own.reach == settings.reach
    }

    /// Whether the audience of an identity is still one of the issuer's.
    pub(super) fn accepts(&self, identity: &Identity) -> bool {
        let aud = identity.claims.get("aud");
        claims::check_audience(aud, self.audiences(aud)).is_ok()
    }

    /// What is accepted of an answer with this `aud`; `None`: an answer without one.
    fn audiences(&self, aud: Option<&Value>) -> Option<&[String]> {
        let is_missing = aud.is_none_or(Value::is_null);
        (!is_missing || !self.settings.introspection.optional.aud).then_some(&self.settings.audiences)
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller of an opaque token: by an answer of the last seconds, or by one that is waited for.
    ///
    /// # Errors
    /// [`Refusal::Token`], or [`Refusal::IssuerUnavailable`].
    pub(super) async fn verify(
        self: &Arc<Self>,
        token: &str,
        now: UnixTime,
        at: Instant,
    ) -> Result<Arc<Verified>, Refusal> {
        if !is_access_token(token) || looks_signed(token) {
            return Err(Refusal::Token(TokenFault::Malformed));
        }
        let mut digest = Digest::default();
        digest.copy_from_slice(hmac::sign(&self.key, token.as_bytes()).as_ref());
        let active = self.active.get(&digest);
        let fresh = active.as_ref().filter(|answer| answer.is_fresh(at, now));
        let fresh = fresh.and_then(|answer| answer.outcome.as_ref().ok());
        let is_over = |verified: &Arc<Verified>| now >= verified.identity.expires_at.plus(self.leeway);
        let fresh = fresh.filter(|verified| !is_over(verified));
        self.ports.meter.token_cache(fresh.is_some());
        if let Some(verified) = fresh {
            return Ok(Arc::clone(verified));
        }
        if let Some(answer) = self.others.get(&digest).filter(|answer| answer.is_fresh(at, now)) {
            return answer.outcome.map_err(Refusal::from);
        }
        let answer = self.flight(token, digest, active.is_some(), now, at)?;
        // The sender is gone only when the request panicked.
        let failed = || Refusal::from(Unaccepted::Unavailable(PAUSE));
        let mut answer = answer;
        let told = answer.wait_for(Option::is_some).await.map_err(|_| failed())?;
        told.as_ref().ok_or_else(failed)?.outcome.clone().map_err(Refusal::from)
    }

    /// The request about this token that is under way, or one more.
    fn flight(
        self: &Arc<Self>,
        token: &str,
        digest: Digest,
        known: bool,
        now: UnixTime,
        at: Instant,
    ) -> Result<watch::Receiver<Option<Answer>>, Refusal> {
        let mut asking = self.lock();
        if let Some(answer) = asking.flights.get(&digest) {
            return Ok(answer.clone());
        }
        if let Turn::Shed(retry_after) = asking.admit(&self.settings.introspection, known, at) {
            self.ports.meter.introspection(&self.issuer, "shed");
            // A header has whole seconds.
            return Err(Refusal::IssuerUnavailable { retry_after: retry_after.max(SECOND) });
        }
        let (tell, answer) = watch::channel(None);
        asking.flights.insert(digest, answer.clone());
        drop(asking);
        let flight = Flight { of: Arc::clone(self), digest };
        let token = SecretString::from(token);
        // A task of its own: a caller that is dropped must not cancel the request for the others.
        tokio::spawn(async move {
            let this = &flight.of;
            let (outcome, size) = this.ask(&token, now, at).await;
            let cache = this.settings.introspection.cache;
            let good_for = if matches!(outcome, Err(Unaccepted::Unavailable(_))) { PAUSE } else { cache };
            let since = now.plus(at.elapsed());
            let answer = Answer { outcome, at: at.max(Instant::now()), since, good_for, size };
            this.keep(digest, answer.clone());
            tell.send_replace(Some(answer));
        });
        Ok(answer)
    }

    /// Keeps an answer.
    fn keep(&self, digest: Digest, answer: Answer) {
        match &answer.outcome {
            Ok(_) => {
                self.others.invalidate(&digest);
                self.active.insert(digest, answer);
            }
            Err(Unaccepted::Token(_)) => {
                self.active.invalidate(&digest);
                self.others.insert(digest, answer);
            }
            // That says nothing about the token.
            Err(Unaccepted::Unavailable(_)) => self.others.insert(digest, answer),
        }
    }

    /// Asks the issuer about a token that is none of ours. Beside what came of it: the bytes of the answer.
    async fn ask(
        &self,
        token: &SecretString,
        now: UnixTime,
        at: Instant,
    ) -> (Result<Arc<Verified>, Unaccepted>, usize) {
        match self.ports.own.is_ours(token.expose_secret()).await {
            Ok(false) => {}
            Ok(true) => return (Err(Unaccepted::Token(TokenFault::Malformed)), 0),
            Err(error) => {
                self.tell(&format!("whether a token is one of ours cannot be told: {error}"), at);
                return (Err(Unaccepted::Unavailable(PAUSE)), 0);
            }
        }
        match self.post(token).await {
            Ok(answered) => (self.conclude(self.judge(&answered, now), at), answered.body.len()),
            // No connection, or no whole answer in time: likely the same for the next token.
            Err(why) => (self.conclude(Err(Failure { why, pause: Some(Pause::Unknown(PAUSE)) }), at), 0),
        }
    }

    /// Counts what came of a request, tells the operator of a failure, and pauses after one that is not the token's.
    fn conclude(
        &self,
        outcome: Result<Result<Verified, TokenFault>, Failure>,
        at: Instant,
    ) -> Result<Arc<Verified>, Unaccepted> {
        let meter = |outcome| self.ports.meter.introspection(&self.issuer, outcome);
        match outcome {
            Ok(Ok(verified)) => {
                meter("active");
                Ok(Arc::new(verified))
            }
            Ok(Err(fault)) => {
                meter(if fault == TokenFault::Inactive { "inactive" } else { "unusable" });
                Err(Unaccepted::Token(fault))
            }
            Err(Failure { why, pause }) => {
                meter("failed");
                self.tell(&why, at);
                let since = at.max(Instant::now());
                let wait = match pause {
                    Some(Pause::Every(wait)) => {
                        self.lock().paused_until = Some(since + wait);
                        wait
                    }
                    Some(Pause::Unknown(wait)) => {
                        self.lock().unknown_paused_until = Some(since + wait);
                        wait
                    }
                    None => PAUSE,
                };
                Err(Unaccepted::Unavailable(wait))
            }
        }
    }

    async fn post(&self, token: &SecretString) -> Result<Fetched, String> {
        let config::Introspection { url, client_id, client_secret, client_auth, timeout, .. } =
            &self.settings.introspection;
        let mut form = vec![("token", token.expose_secret()), ("token_type_hint", "access_token")];
        let auth = match client_auth {
            IntrospectionAuth::Basic => FormAuth::Basic { user: client_id, password: client_secret },
            IntrospectionAuth::Post => {
                form.extend([
                    ("client_id", client_id.as_str()),
                    ("client_secret", client_secret.expose_secret()),
                ]);
                FormAuth::None
            }
        };
        let (reach, timeout) = (&self.settings.reach, *timeout);
        let request = PostForm { url, form: &form, auth, max_bytes: MAX_ANSWER_BYTES, reach, timeout };
        self.ports.fetch.post_form(request).await.map_err(|error| error.to_string())
    }

    /// What an answer says of a token.
    fn judge(&self, answered: &Fetched, now: UnixTime) -> Result<Result<Verified, TokenFault>, Failure> {
        let url = self.settings.introspection.url.split('?').next().unwrap_or_default();
        let failed = |why: &str, pause| Failure { why: format!("{url}: {why}"), pause };
        match answered.status {
            200 => {}
            401 => {
                let why = "it refused the client_id and client_secret of this gateway";
                return Err(failed(why, Some(Pause::Every(PAUSE))));
            }
            // A firewall in front of the endpoint may say so of what this very token looks like.
            403 => {
                return Err(failed(
                    "it refused this request: the client may not introspect, or a firewall",
                    None,
                ));
            }
            status @ (429 | 503) => {
                let pause = answered.retry_after.unwrap_or(PAUSE).clamp(PAUSE, LONGEST_PAUSE);
                return Err(failed(&format!("answered {status}"), Some(Pause::Unknown(pause))));
            }
            // It may be this very token to which it has no answer.
            status => return Err(failed(&format!("answered {status}"), None)),
        }
        let no_answer = || failed("no answer of an introspection endpoint (RFC 7662 §2.2)", None);
        let mut answer = json::object(&answered.body).map_err(|_| no_answer())?;
        match answer.remove("active") {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Ok(Err(TokenFault::Inactive)),
            _ => return Err(no_answer()),
        }
        let judged = self.identity(answer, now);
        if let Ok(identity) = &judged {
            self.ports.clocks.observe(&identity.issuer, identity.issued_at, now);
        }
        Ok(judged.map(|identity| Verified::of(TokenKind::Opaque, identity)))
    }

    fn identity(&self, mut answer: Map<String, Value>, now: UnixTime) -> Result<Identity, TokenFault> {
        if !is_bearer_access_token(&answer) {
            return Err(TokenFault::Use);
        }
        let optional = self.settings.introspection.optional;
        if optional.iss && answer.get("iss").is_none_or(Value::is_null) {
            answer.insert("iss".to_owned(), Value::from(&*self.issuer));
        }
        self.settings.claims.take_over(&mut answer);
        let expect = Expect {
            issuer: &self.issuer,
            audiences: self.audiences(answer.get("aud")),
            ours: false,
            email_trusted: self.settings.email_trusted,
            leeway: self.leeway,
        };
        claims::identity(answer, expect, now)
    }

    /// A line for the operator, now and then.
    fn tell(&self, why: &str, at: Instant) {
        let mut asking = self.lock();
        if asking.told.is_some_and(|told| at.saturating_duration_since(told) < TELL_AGAIN) {
            return;
        }
        asking.told = Some(at);
        drop(asking);
        let why = self.settings.redaction.hide(why.to_owned());
        tracing::warn!("introspection of tokens of {}: {why}; they are answered 503", self.issuer);
    }
}

/// Why there is no answer.
struct Failure {
    why: String,
    /// Which other requests are not worth making for a while; `None`: it may be this token's fault.
    pause: Option<Pause>,
}

/// Which requests wait, and how long.
enum Pause {
    /// Those about any token.
    Every(Duration),
    /// Those about tokens that were not active lately.
    Unknown(Duration),
}

/// Whether an answer is about an access token that its bearer may use as it is (RFC 6749 §5.1, RFC 6750). Servers look up
/// refresh tokens and others at the same endpoint; some call those by no name, but they have no audience either.
fn is_bearer_access_token(answer: &Map<String, Value>) -> bool {
    let says = |name: &str, words: &[&str]| match answer.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(said)) => Some(words.iter().any(|word| said.eq_ignore_ascii_case(word))),
        Some(_) => Some(false),
    };
    // `access_token` is what Ory Hydra said of old; now it has `token_use`, like Amazon Cognito.
    let kind = says("token_type", &["Bearer", "access_token"]);
    let purpose = says("token_use", &["access", "access_token"]);
    let has_audience = answer.get("aud").is_some_and(|aud| !aud.is_null());
    kind.unwrap_or(true)
        && purpose.unwrap_or(true)
        && (kind.is_some() || purpose.is_some() || has_audience)
        // Keycloak; others may have a claim of their own by that name.
        && !says("typ", &["Refresh", "Offline", "ID", "Logout", "DPoP"]).unwrap_or(false)
}

#[cfg(test)]
#[path = "introspection_tests.rs"]
mod tests;

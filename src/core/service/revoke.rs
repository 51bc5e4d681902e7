//! Revocation of tokens: one by its `jti`, a session, a subject, or everything an issuer signed so far (a cutoff).
//!
//! What this returns as done is durable. An entry lives until the last token it can reach has ended,
//! leeway included; it must never be forgotten while such a token is still accepted, nor while a session
//! lives that would bring another: see [`sessions`].

mod sessions;

use std::sync::Arc;
use std::time::Duration;

pub use self::sessions::SessionClaim;
use crate::domain::account::UserId;
use crate::domain::revocation::{Revocation, Target};
use crate::domain::session::{Lifetimes, SessionId};
use crate::domain::task::{Task, Work};
use crate::domain::time::UnixTime;
use crate::domain::trusted_time::ClockReading;
use crate::ports::{
    Acknowledgement, Change, Clock, CommitError, Committed, ConfirmedBy, Entropy, IssuerClocks, Signer,
    Store, StoreError,
};

/// The longest name (`iss`, `jti`, `sid`, `sub`) or reason that is taken, in bytes.
const MAX_TEXT: usize = 1024;

/// How long an entry about another issuer's tokens is kept when no `exp` is at hand: we do not know
/// their lives, and one forgotten early is a revoked token that works again.
pub const FOREIGN_LIFE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The most revocations that one list shows.
pub const MAX_LISTED: usize = 1000;

/// What is to be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One token at hand: its `jti`, its `exp` when it has one, and the session it says it belongs to.
    Token { jti: String, expires_at: Option<UnixTime>, holder: Option<SessionClaim> },
    /// One token, by its `jti` alone.
    TokenId(String),
    /// A session, with every token of it.
    Session(String),
    /// Every token of a subject issued until now, and the sessions begun until now.
    Subject(String),
    /// Every token of the issuer issued at or before this moment, and the sessions begun by then.
    IssuedBefore(UnixTime),
    /// Every token of the issuer issued until now, and the sessions begun until now.
    IssuedSoFar,
}

/// A request to revoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeRequest {
    pub subject: Subject,
    /// The issuer of the tokens; `None`: our own.
    pub issuer: Option<String>,
    /// Why, for people.
    pub reason: Option<String>,
    /// How long the entry is kept; `None`: as long as a token it reaches can live. It is kept for that long in any
    /// case where that is known: of our own tokens, and of a token at hand.
    pub expires_in: Option<Duration>,
    /// With [`Subject::Token`]: the session that the token belongs to ends as well.
    pub end_session: bool,
}

/// What a revocation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeOutcome {
    /// The entry as it now stands.
    pub entry: Revocation,
    /// How many sessions lived until then and have ended by it; `None` for another issuer: its sessions are not kept
    /// here.
    pub sessions_ended: Option<u64>,
    /// Those among them that were looked for one by one: all but those that a cutoff has ended.
    pub ended: Vec<(UserId, SessionId)>,
    /// The session of the token at hand that lives on, and will bring further tokens.
    pub live_session: Option<SessionId>,
    /// What the account of the tokens or session is called ([`User::called`]); `None` where there is none.
    pub account: Option<String>,
    /// Where it is in force.
    pub acknowledgement: Acknowledgement,
}

/// How long what is revoked could have gone on.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// The longest life of any token of ours, minted ones included ([`super::mint::MAX_TTL`]).
    pub tokens: Duration,
    pub sessions: Lifetimes,
    /// How long past its `exp` a token is still accepted, and how far ahead of our clock its `iat` may be.
    pub leeway: Duration,
}

/// The longest grace: a token that is to end should not outlive its reason.
const MAX_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// A version that rose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// The subject's new version; `None` when the tokens of all subjects were revoked.
    pub version: Option<u64>,
    /// When the older tokens are refused.
    pub in_force_at: UnixTime,
    /// Where they are; `None` until then.
    pub acknowledgement: Option<Acknowledgement>,
}

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// What was asked makes no sense; the text says what would.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The use case.
#[derive(Clone)]
pub struct Revoke {
    store: Arc<dyn Store>,
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    clocks: Arc<dyn IssuerClocks>,
    lives: Lives,
}

impl Revoke {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        signer: Arc<dyn Signer>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        clocks: Arc<dyn IssuerClocks>,
        lives: Lives,
    ) -> Revoke {
        Revoke { store, signer, clock, entropy, clocks, lives }
    }

    /// Records the revocation. What is ours goes on in nothing: a session that is revoked, by its id, with its
    /// subject or by a cutoff, brings no further token.
    ///
    /// # Errors
    /// [`RevokeError`]; then nothing is revoked.
    pub async fn revoke(&self, request: RevokeRequest) -> Result<RevokeOutcome, RevokeError> {
        // What is remembered has to outlast what was signed while the clock was ahead.
        let reading = self.clock.reading();
        let ClockReading { wall: now, horizon, .. } = reading;
        let issuer = self.issuer(request.issuer.clone())?;
        let own = issuer == self.signer.issuer();
        reason_fits(request.reason.as_deref())?;
        let request = if own { in_our_spelling(request) } else { request };
        let (target, last_end) = self.target(&request, issuer.clone(), reading)?;
        let mut expires_at = last_end.unwrap_or_else(|| self.last_end(&issuer, horizon));
        if let Some(span) = request.expires_in {
            if span.as_secs() == 0 {
                return Err(RevokeError::Invalid("`expires_in` must be at least one second".to_owned()));
            }
            // Never forgotten while it is known that a token goes on.
            let least = if own { Some(expires_at) } else { last_end };
            expires_at = reading.latest.plus(span).max(least.unwrap_or_default());
        }
        let reason = request.reason.clone();
        let with_session = match &request.subject {
            Subject::Token { holder, .. } if request.end_session => {
                Some(holder.as_ref().ok_or_else(|| {
                    let why =
                        "this token belongs to no session (it has no `sid`): revoke it without `session`";
                    RevokeError::Invalid(why.to_owned())
                })?)
            }
            _ if request.end_session => {
                let why = "`session` goes with `token` only: `sid`, `sub` and `before` end the sessions anyway, and a \
                           `jti` does not say which session the token belongs to";
                return Err(RevokeError::Invalid(why.to_owned()));
            }
            _ => None,
        };
        let named =
            if own { self.named_sessions(&request).await } else { sessions::NamedSessions::default() };
        let entry = |target, expires_at| {
            Change::Revoke(Revocation { target, expires_at, created_at: now, reason: reason.clone() })
        };
        let of_session = |sid: String| {
            // Only a UUID can be a session of ours; a minted token has none.
            let is_ours = own && sid.parse::<SessionId>().is_ok();
            let end = if is_ours { self.sessions_end(horizon) } else { self.last_end(&issuer, horizon) };
            let expires_at = end.max(expires_at);
            entry(Target::Session { issuer: issuer.clone(), sid }, expires_at)
        };
        let (mut cut_before, mut until) = (None, None);
        // Ours all carry a version and a generation, and those know no clock: a token signed while a clock was
        // ahead ends too, and one signed later in this very second does not.
        let mut changes = match target {
            Target::SubjectIssued { sub, .. } if own => {
                let cut = self.cutting(Some(sub.clone()), reading, reason.clone());
                let has_sessions = sub.parse::<UserId>().is_ok();
                let (issuer, reason) = (issuer.clone(), reason.clone());
                let raise =
                    Change::RaiseVersion { issuer, sub, created_at: now, expires_at, reason, enforce: true };
                if has_sessions { vec![raise, cut] } else { vec![raise] }
            }
            Target::IssuerGeneration { .. } => {
                let standing = Target::EverySession { issuer: issuer.clone(), below: 0 };
                let standing = self.store.revocation(&standing).await?;
                cut_before = Some(standing.map_or(0, |standing| standing.target.limit()));
                let (issuer, reason) = (issuer.clone(), reason.clone());
                let raise =
                    Change::RaiseGeneration { issuer, created_at: now, expires_at, reason, enforce: true };
                vec![raise, self.cutting(None, reading, request.reason.clone())]
            }
            Target::Session { sid, .. } if own => vec![of_session(sid)],
            Target::Issuer { until: moment, .. } if own => {
                until = Some(moment);
                vec![entry(target, self.sessions_end(horizon).max(expires_at))]
            }
            target => vec![entry(target, expires_at)],
        };
        changes.extend(with_session.map(|holder| of_session(holder.sid.clone())));
        let ended: Vec<_> = named.ending.iter().map(|session| (session.user, session.id)).collect();
        changes.extend(ended.iter().map(|(user, id)| Change::EndSession(*user, *id)));
        let committed = self.store.commit(changes).await.map_err(CommitError::of_the_store)?;
        let Committed { revocations: entries, acknowledgement, .. } = committed;
        tell(&acknowledgement);
        // The cut of sessions comes behind the entry that the caller asked for.
        let cut = entries.get(1).cloned();
        let nothing = || StoreError::Unavailable("the revocation was not recorded".to_owned());
        let entry = entries.into_iter().next().ok_or_else(nothing)?;
        let counted = match (cut_before, cut, until) {
            (Some(before), Some(cut), _) => self.count_cut(&cut, before).await,
            (_, _, Some(until)) => self.end_begun_before(until, reason.as_deref()).await,
            _ => Ok(ended.len() as u64),
        };
        let sessions_ended = counted.unwrap_or_else(|error| {
            tracing::warn!(%error, "the sessions that a revocation has ended could not be counted");
            0
        });
        let sessions_ended = own.then_some(sessions_ended);
        let account = named.account.map(|user| user.called());
        let live_session = named.live;
        Ok(RevokeOutcome { entry, sessions_ended, ended, live_session, account, acknowledgement })
    }

    /// What is to be revoked, and the moment when nothing that it reaches is accepted any more, where the request
    /// says that.
    fn target(
        &self,
        request: &RevokeRequest,
        issuer: String,
        reading: ClockReading,
    ) -> Result<(Target, Option<UnixTime>), RevokeError> {
        // So far: where the clock is behind, tokens of others say later moments than it.
        let ClockReading { wall: now, latest, .. } = reading;
        Ok(match request.subject.clone() {
            Subject::Token { jti, expires_at, .. } => {
                let ends = expires_at.map(|ends| ends.plus(self.lives.leeway));
                (Target::Token { issuer, jti: checked_name("jti", jti)? }, ends)
            }
            Subject::TokenId(jti) => (Target::Token { issuer, jti: checked_name("jti", jti)? }, None),
            Subject::Session(sid) => (Target::Session { issuer, sid: checked_name("sid", sid)? }, None),
            Subject::Subject(sub) => {
                let until = self.reach(&issuer, latest, latest);
                (Target::SubjectIssued { issuer, sub: checked_name("sub", sub)?, until }, None)
            }
            Subject::IssuedBefore(until) => {
                // A later cutoff would refuse tokens that are not signed yet: no user could sign in.
                if until > now.plus(self.lives.leeway) {
                    return Err(RevokeError::Invalid(format!(
                        "`before` is {} s in the future; name a moment that has passed",
                        now.until(until).as_secs()
                    )));
                }
                (self.cutoff(issuer, until, now), None)
            }
            Subject::IssuedSoFar => (self.cutoff(issuer, latest, latest), None),
        })
    }

    /// What ends every token of `issuer` issued at or before `until`, which is at most the leeway from `now`.
    fn cutoff(&self, issuer: String, until: UnixTime, now: UnixTime) -> Target {
        if issuer == self.signer.issuer() && until >= now {
            // The limit is the store's to give.
            return Target::IssuerGeneration { issuer, below: 0 };
        }
        let until = self.reach(&issuer, until, now);
        Target::Issuer { issuer, until }
    }

    /// The last `iat` that a token issued by the moment `until` of our clock can carry. `iat` has whole
    /// seconds: a token of another issuer from the second of `until` itself is taken as issued before it.
    fn reach(&self, issuer: &str, until: UnixTime, now: UnixTime) -> UnixTime {
        if issuer == self.signer.issuer() {
            return until;
        }
        let ahead = match self.store.shared_notes() {
            None => self.clocks.ahead(issuer, now).min(self.lives.leeway),
            // How far other gateways saw the issuer's clock ahead is not known here.
            Some(_) => self.lives.leeway,
        };
        // A token with a later `iat` than this is not accepted yet.
        until.plus(ahead).min(now.plus(self.lives.leeway))
    }

    async fn raise_generation(
        &self,
        now: UnixTime,
        expires_at: UnixTime,
        reason: Option<String>,
        enforce: bool,
    ) -> Result<(Revocation, Acknowledgement), RevokeError> {
        let issuer = self.signer.issuer().to_owned();
        self.raise(Change::RaiseGeneration { issuer, created_at: now, expires_at, reason, enforce }).await
    }

    /// Commits one change that raises a number; returns its entry.
    async fn raise(&self, change: Change) -> Result<(Revocation, Acknowledgement), RevokeError> {
        let committed = self.store.commit(vec![change]).await.map_err(CommitError::of_the_store)?;
        let nothing = || StoreError::Unavailable("the number did not rise".to_owned());
        Ok((committed.revocations.into_iter().next().ok_or_else(nothing)?, committed.acknowledgement))
    }

    /// Raises the token version of `sub`, which ends every token of a lower version, and those without
    /// one: at once, or when `grace` is over.
    ///
    /// # Errors
    /// [`RevokeError`]; then the version is as it was.
    pub async fn raise_version(
        &self,
        issuer: Option<String>,
        sub: String,
        reason: Option<String>,
        grace: Option<Duration>,
    ) -> Result<Raised, RevokeError> {
        let ClockReading { wall: now, horizon, .. } = self.clock.reading();
        let issuer = self.issuer(issuer)?;
        let sub = checked_name("sub", if issuer == self.signer.issuer() { our_spelling(sub) } else { sub })?;
        reason_fits(reason.as_deref())?;
        let expires_at = self.last_end(&issuer, horizon);
        let grace = grace_fits(grace)?;
        let enforce = grace.is_none();
        let raise = Change::RaiseVersion { issuer, sub, created_at: now, expires_at, reason, enforce };
        let (entry, acknowledgement) = self.raise(raise).await?;
        let version = Some(entry.target.limit());
        let Some(grace) = grace else {
            tell(&acknowledgement);
            return Ok(Raised { version, in_force_at: now, acknowledgement: Some(acknowledgement) });
        };
        // Two commits: a kill in between leaves a version that has risen and older tokens that live out
        // their lives, and the caller without an answer.
        let in_force_at = self.later(entry, now.plus(grace)).await?;
        Ok(Raised { version, in_force_at, acknowledgement: None })
    }

    /// Ends every token that we have signed so far, for every subject: at once, or when `grace` is over.
    ///
    /// # Errors
    /// [`RevokeError`]; then all of them go on.
    pub async fn raise_all(
        &self,
        reason: Option<String>,
        grace: Option<Duration>,
    ) -> Result<Raised, RevokeError> {
        let ClockReading { wall: now, horizon, .. } = self.clock.reading();
        reason_fits(reason.as_deref())?;
        let expires_at = self.last_end(self.signer.issuer(), horizon);
        let grace = grace_fits(grace)?;
        let (entry, acknowledgement) =
            self.raise_generation(now, expires_at, reason, grace.is_none()).await?;
        let Some(grace) = grace else {
            tell(&acknowledgement);
            return Ok(Raised { version: None, in_force_at: now, acknowledgement: Some(acknowledgement) });
        };
        // Two commits, as for one subject's version.
        let in_force_at = self.later(entry, now.plus(grace)).await?;
        Ok(Raised { version: None, in_force_at, acknowledgement: None })
    }

    async fn later(&self, entry: Revocation, due_at: UnixTime) -> Result<UnixTime, RevokeError> {
        let task = Task { id: self.entropy.uuid(), due_at, work: Work::Revoke(entry) };
        self.store.commit(vec![Change::CreateTask(task)]).await.map_err(CommitError::of_the_store)?;
        Ok(due_at)
    }

    /// The newest revocations, at most `limit` and never more than [`MAX_LISTED`].
    ///
    /// # Errors
    /// [`RevokeError::Store`].
    pub async fn recent(&self, limit: usize) -> Result<Vec<Revocation>, RevokeError> {
        Ok(self.store.recent_revocations(limit.min(MAX_LISTED)).await?)
    }

    /// When no token that `issuer` has signed by `now` is accepted any more; `now` is [`ClockReading::horizon`].
    fn last_end(&self, issuer: &str, now: UnixTime) -> UnixTime {
        let own = issuer == self.signer.issuer();
        let life = if own { self.lives.tokens } else { self.lives.tokens.max(FOREIGN_LIFE) };
        now.plus(life).plus(self.lives.leeway)
    }

    fn issuer(&self, given: Option<String>) -> Result<String, RevokeError> {
        match given {
            Some(issuer) => checked_name("issuer", issuer),
            None => Ok(self.signer.issuer().to_owned()),
        }
    }
}

/// Says in the log where a revocation is in force, and where its acknowledgement leaves something to be said.
fn tell(acknowledgement: &Acknowledgement) {
    let Acknowledgement { by, took } = acknowledgement;
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match by {
        ConfirmedBy::Replicas { confirmed, lapsed: 0, open } if open.is_empty() => {
            tracing::info!(confirmed, took_ms, "a revocation is in force at every replica");
        }
        ConfirmedBy::Replicas { confirmed, lapsed, open } if open.is_empty() => tracing::warn!(
            confirmed,
            lapsed,
            took_ms,
            "a revocation is in force at every replica; some did not answer, and believe no credential until they do"
        ),
        ConfirmedBy::Replicas { confirmed, lapsed, open } => tracing::warn!(
            confirmed,
            lapsed,
            took_ms,
            serving_on = open.join(", "),
            "a revocation is not in force at every replica: some did not answer and serve on, by `fail = \"open\"`"
        ),
        _ => tracing::debug!(took_ms, "a revocation is in force"),
    }
}

/// Ids of ours as our tokens carry them: another spelling of the same UUID would name nothing.
fn in_our_spelling(request: RevokeRequest) -> RevokeRequest {
    let subject = match request.subject {
        Subject::TokenId(jti) => Subject::TokenId(our_spelling(jti)),
        Subject::Session(sid) => Subject::Session(our_spelling(sid)),
        Subject::Subject(sub) => Subject::Subject(our_spelling(sub)),
        other => other,
    };
    RevokeRequest { subject, ..request }
}

/// A UUID as we write it; any other text as it is.
pub(super) fn our_spelling(id: String) -> String {
    uuid::Uuid::try_parse(&id).map_or(id, |uuid| uuid.to_string())
}

/// A name that can be one: not empty, not huge, one line.
fn checked_name(what: &str, name: String) -> Result<String, RevokeError> {
    let fault = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_TEXT {
        "is longer than 1024 bytes"
    } else if name.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(name);
    };
    Err(RevokeError::Invalid(format!("`{what}` {fault}")))
}

fn grace_fits(grace: Option<Duration>) -> Result<Option<Duration>, RevokeError> {
    if grace.is_some_and(|grace| grace > MAX_GRACE) {
        return Err(RevokeError::Invalid("`grace` must be at most 24 hours".to_owned()));
    }
    Ok(grace.filter(|grace| !grace.is_zero()))
}

fn reason_fits(reason: Option<&str>) -> Result<(), RevokeError> {
    if reason.is_some_and(|reason| reason.len() > MAX_TEXT) {
        return Err(RevokeError::Invalid("`reason` is longer than 1024 bytes".to_owned()));
    }
    Ok(())
}

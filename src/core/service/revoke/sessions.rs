//! What a revocation does to sessions of ours.
//!
//! An access token is brought by its session, so a revocation that left the session alone would be undone by the next
//! refresh. What says that a session is revoked is kept for as long as the session could live, and is asked at each
//! refresh ([`crate::ports::Store::is_cut`]); that its record is removed as well, where it is at hand, only spares a
//! list of sessions that are over.

use super::{Revoke, RevokeError, RevokeRequest, Subject};
use crate::domain::account::{User, UserId};
use crate::domain::revocation::{Begun, Revocation, Target};
use crate::domain::session::{Session, SessionId};
use crate::domain::time::UnixTime;
use crate::domain::trusted_time::ClockReading;
use crate::ports::{Change, StoreError};

/// How many sessions one visit reads.
const PAGE: usize = 1024;

/// The session that a token says it belongs to. No signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionClaim {
    pub sub: Option<String>,
    pub sid: String,
}

/// The sessions that a revocation names, as they are before it.
#[derive(Default)]
pub(super) struct NamedSessions {
    /// Those it ends; their records go with it.
    pub(super) ending: Vec<Session>,
    /// The one that lives on though a token of it is revoked.
    pub(super) live: Option<SessionId>,
    /// The account of the tokens or sessions, where there is one.
    pub(super) account: Option<User>,
}

impl Revoke {
    /// The sessions of our own that `request` names. One that cannot be read must not hold the revocation up.
    pub(super) async fn named_sessions(&self, request: &RevokeRequest) -> NamedSessions {
        match self.look(request).await {
            Ok(named) => named,
            Err(error) => {
                tracing::warn!(%error, "the sessions of a revocation could not be read; it ends them all the same");
                NamedSessions::default()
            }
        }
    }

    async fn look(&self, request: &RevokeRequest) -> Result<NamedSessions, StoreError> {
        let mut named = NamedSessions::default();
        match &request.subject {
            Subject::Session(sid) => {
                let Ok(id) = sid.parse::<SessionId>() else { return Ok(named) };
                if let Some(session) = self.store.find_session(id).await? {
                    named.account = self.store.user(session.user).await?;
                    named.ending.extend(self.alive(session).await?);
                }
            }
            Subject::Subject(sub) => {
                let Ok(user) = sub.parse::<UserId>() else { return Ok(named) };
                named.account = self.store.user(user).await?;
                for session in self.store.sessions(user).await? {
                    named.ending.extend(self.alive(session).await?);
                }
            }
            Subject::Token { holder: Some(SessionClaim { sub: Some(sub), sid }), .. } => {
                let (Ok(user), Ok(id)) = (sub.parse::<UserId>(), sid.parse::<SessionId>()) else {
                    return Ok(named);
                };
                named.account = self.store.user(user).await?;
                let found = self.store.session(user, id).await?;
                let alive = match found {
                    Some(session) => self.alive(session).await?,
                    None => None,
                };
                match request.end_session {
                    true => named.ending.extend(alive),
                    false => named.live = alive.map(|session| session.id),
                }
            }
            Subject::Token { .. } | Subject::TokenId(_) | Subject::IssuedBefore(_) | Subject::IssuedSoFar => {
            }
        }
        Ok(named)
    }

    /// The session, unless its time has passed or it was revoked before.
    async fn alive(&self, session: Session) -> Result<Option<Session>, StoreError> {
        let lives = self.clock.now() < session.ends_at(self.lives.sessions)
            && !self.store.is_cut(&Begun::session(&session, self.signer.issuer())).await?;
        Ok(lives.then_some(session))
    }

    /// Until when it must be known that a session which there is at `now` ([`ClockReading::horizon`]) was revoked: as long as it could live, and
    /// then as long as a token that it brought last.
    pub(super) fn sessions_end(&self, now: UnixTime) -> UnixTime {
        let lives = self.lives.sessions;
        now.plus(lives.absolute.max(lives.sliding)).plus(self.lives.tokens).plus(self.lives.leeway)
    }

    /// The revocation of every session of `sub`, or of all subjects, that was begun so far; behind the raise of the
    /// version or generation.
    pub(super) fn cutting(&self, sub: Option<String>, now: ClockReading, reason: Option<String>) -> Change {
        let (issuer, expires_at) = (self.signer.issuer().to_owned(), self.sessions_end(now.horizon));
        Change::CutSessions { issuer, sub, created_at: now.wall, expires_at, reason }
    }

    /// How many living sessions the cut `entry` reaches that none before it, up to `before`, had reached.
    pub(super) async fn count_cut(&self, entry: &Revocation, before: u64) -> Result<u64, RevokeError> {
        let (now, issuer) = (self.clock.now(), self.signer.issuer());
        let mut count = 0;
        let mut after = None;
        loop {
            let page = self.store.all_sessions(after, PAGE).await?;
            for session in &page {
                let lives = now < session.ends_at(self.lives.sessions) && session.begun.generation >= before;
                count += u64::from(lives && Begun::session(session, issuer).is_reached_by(&entry.target));
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some((last.user, last.id)),
                _ => return Ok(count),
            }
        }
    }

    /// Ends the sessions that were begun at or before `until`, a moment that has passed, with the tokens that they
    /// brought since. Returns how many there were.
    pub(super) async fn end_begun_before(
        &self,
        until: UnixTime,
        reason: Option<&str>,
    ) -> Result<u64, RevokeError> {
        let ClockReading { wall: now, horizon, .. } = self.clock.reading();
        let issuer = self.signer.issuer();
        let mut count = 0;
        let mut after = None;
        loop {
            let page = self.store.all_sessions(after, PAGE).await?;
            let mut changes = Vec::new();
            for session in page.iter().filter(|session| session.created_at <= until) {
                let target = Target::Session { issuer: issuer.to_owned(), sid: session.id.to_string() };
                let expires_at = self.last_end(issuer, horizon);
                let reason = reason.map(str::to_owned);
                changes.push(Change::EndSession(session.user, session.id));
                changes.push(Change::Revoke(Revocation { target, expires_at, created_at: now, reason }));
                count += u64::from(now < session.ends_at(self.lives.sessions));
            }
            if !changes.is_empty() {
                self.store.commit(changes).await.map_err(crate::ports::CommitError::of_the_store)?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some((last.user, last.id)),
                _ => return Ok(count),
            }
        }
    }
}
